//! The files by which sentence-transformers opens a folder as a model of vectors, and what they say of one that it wrote.

use crate::checkpoint::{NamedFile, read_json};
use crate::error::{Error, Result};
use crate::nn::Pooling;
use serde_json::{Value, json};
use std::path::Path;

/// What stands in a folder of sentence-transformers: what a text passes through, in order.
const MODULES: &str = "modules.json";
const LENGTH: &str = "sentence_bert_config.json";
/// No such file is larger.
const LARGEST: u64 = 1 << 20;

/// How the vectors of tokens become one, by the name that sentence-transformers 5 gives to it and by the key of its elders.
const MODES: &[(&str, &str, Option<Pooling>)] = &[
    ("cls", "pooling_mode_cls_token", Some(Pooling::Cls)),
    ("mean", "pooling_mode_mean_tokens", Some(Pooling::Mean)),
    ("max", "pooling_mode_max_tokens", None),
    ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", None),
    ("weightedmean", "pooling_mode_weightedmean_tokens", None),
    ("lasttoken", "pooling_mode_lasttoken", Some(Pooling::Last)),
];

/// How a folder of sentence-transformers makes a vector of a text; `None` if it is no such folder.
///
/// `cls_last`: whether the token for the whole sequence is the last.
///
/// # Errors
/// Of kind [`Model`](crate::error::Kind::Model) for a way that tempra does not have.
pub(super) fn pooling(dir: &Path, cls_last: bool) -> Result<Option<Pooling>> {
    let path = dir.join(MODULES);
    if !path.exists() {
        return Ok(None);
    }
    let modules = read_json(&path, LARGEST)?;
    let text = |m: &Value, key: &str| m.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut found = None;
    for module in modules.as_array().into_iter().flatten() {
        let kind = text(module, "type").unwrap_or_default();
        match kind.rsplit('.').next().unwrap_or_default() {
            // Whether vectors are divided by their length is for `tempra embed` to say.
            "Transformer" | "Normalize" => {}
            "Pooling" => {
                let config = dir.join(text(module, "path").unwrap_or_default()).join("config.json");
                found = Some(mode(&read_json(&config, LARGEST)?, &config, cls_last)?);
            }
            other => {
                return Err(Error::model("vectors pass through a module that tempra does not have")
                    .at(&path)
                    .expected("Transformer, Pooling, Normalize")
                    .found(other.to_owned())
                    .hint("say how they are pooled, with --pooling or model.pooling, to leave it out"));
            }
        }
    }
    Ok(found)
}

fn mode(config: &Value, path: &Path, cls_last: bool) -> Result<Pooling> {
    let named = |v: &Value| match v {
        Value::String(name) => vec![name.clone()],
        Value::Array(names) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let set = |key: &str| config.get(key).and_then(Value::as_bool) == Some(true);
    let names: Vec<String> = match config.get("pooling_mode") {
        Some(v) => named(v),
        None => MODES.iter().filter(|m| set(m.1)).map(|m| m.0.to_owned()).collect(),
    };
    let known = |name: &String| MODES.iter().find(|m| m.0 == name).and_then(|m| m.2);
    let found = match (names.as_slice(), cls_last) {
        ([name], false) => known(name).filter(|p| *p != Pooling::Last),
        // `cls` is the first token there, wherever the model has its own.
        ([name], true) => known(name).filter(|p| *p != Pooling::Cls),
        _ => None,
    };
    let found = found.map(|p| if p == Pooling::Last { Pooling::Cls } else { p });
    found.ok_or_else(|| {
        Error::model("vectors are pooled in a way that tempra does not have")
            .at(path)
            .expected(if cls_last { "lasttoken or mean" } else { "cls or mean" })
            .found(names.join(" and "))
            .hint("say another way with --pooling or model.pooling; the vectors are then others")
    })
}

/// The longest text in tokens that a folder of sentence-transformers is for, if it says so.
pub fn longest(dir: &Path) -> Option<usize> {
    let value = read_json(&dir.join(LENGTH), LARGEST).ok()?;
    let n = value.get("max_seq_length")?.as_u64().filter(|n| *n > 0)?;
    usize::try_from(n).ok()
}

/// The files that make sentence-transformers give the vectors that `tempra embed` does, of length 1: with them a folder of a
/// model of this width opens there as it does in `transformers`.
pub(super) fn files(pooling: Pooling, hidden: usize, longest: usize) -> Vec<NamedFile<'static>> {
    let module = |(i, (path, kind)): (usize, (&str, &str))| json!({ "idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}") });
    let all = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")];
    let modules: Value = all.into_iter().enumerate().map(module).collect();
    let mut pool = json!({ "word_embedding_dimension": hidden, "include_prompt": true });
    for (_, key, mode) in MODES {
        pool[*key] = (*mode == Some(pooling)).into();
    }
    let length = json!({ "max_seq_length": longest, "do_lower_case": false });
    let about = json!({ "prompts": {}, "default_prompt_name": null, "similarity_fn_name": "cosine" });
    let file = |name: &str, v: &Value| NamedFile::bytes(name, format!("{v:#}\n").into_bytes());
    vec![
        file(MODULES, &modules),
        file("1_Pooling/config.json", &pool),
        file(LENGTH, &length),
        file("config_sentence_transformers.json", &about),
    ]
}
