//! Reads and writes the files of sentence-transformers (`modules.json` and others) that describe how a text
//! becomes a vector.

use crate::checkpoint::{NamedFile, read_json};
use crate::error::{Error, Result};
use crate::nn::Pooling;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The list of modules that a text passes through, in order.
const MODULES: &str = "modules.json";
const ABOUT: &str = "config_sentence_transformers.json";
/// Files that may hold the transformer's settings; current versions write the first.
const TRANSFORMER: &[&str] = &[
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];
/// The largest of these files that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// Pooling modes: the name in sentence-transformers 5, the key in older versions, and the mode if tempra
/// supports it.
const MODES: &[(&str, &str, Option<Pooling>)] = &[
    ("cls", "pooling_mode_cls_token", Some(Pooling::Cls)),
    ("max", "pooling_mode_max_tokens", None),
    ("mean", "pooling_mode_mean_tokens", Some(Pooling::Mean)),
    ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", None),
    ("weightedmean", "pooling_mode_weightedmean_tokens", None),
    ("lasttoken", "pooling_mode_lasttoken", Some(Pooling::Last)),
];

/// The modules of a folder.
struct Modules {
    /// The folder that holds `modules.json`.
    root: PathBuf,
    /// Type and folder of each module, in order.
    list: Vec<(String, PathBuf)>,
}

/// How texts are prepared before the model, and vectors treated after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whether texts are converted to lower case before tokenization.
    pub lowercase: bool,
    /// The prompt that precedes every text (`default_prompt_name`); usually empty.
    pub prompt: String,
    /// Whether vectors are normalized to unit length.
    pub normalize: bool,
    /// The maximum length of a text in tokens (`max_seq_length`), if a file gives it.
    pub longest: Option<usize>,
    /// Prompts and similarity function, kept so that they can be written again.
    about: Value,
}

impl Default for Settings {
    fn default() -> Self {
        let about = json!({ "prompts": {}, "default_prompt_name": null, "similarity_fn_name": "cosine" });
        Settings { lowercase: false, prompt: String::new(), normalize: true, longest: None, about }
    }
}

fn text(v: &Value, key: &str) -> String {
    v.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

impl Modules {
    /// The modules of the folder, or of its parent if the parent's `modules.json` says that its transformer
    /// is in this folder.
    fn of(dir: &Path) -> Result<Option<Modules>> {
        let above = dir.parent().map(Path::to_path_buf);
        for root in [Some(dir.to_path_buf()), above.filter(|_| dir.join("config.json").exists())]
            .into_iter()
            .flatten()
        {
            if !root.join(MODULES).is_file() {
                continue;
            }
            let modules = Modules::read(&root)?;
            if root == dir || modules.transformer().as_deref() == Some(dir) {
                return Ok(Some(modules));
            }
        }
        Ok(None)
    }
    fn read(root: &Path) -> Result<Modules> {
        let path = root.join(MODULES);
        let value = read_json(&path, LARGEST)?;
        let wrong = || {
            Error::model("not a list of modules")
                .at(&path)
                .with_expected("a list of objects with `type` and `path`, a folder inside the model's folder")
                .with_help("download the model again")
        };
        let one = |m: &Value| {
            let (kind, place) = (text(m, "type"), text(m, "path"));
            if kind.is_empty()
                || Path::new(&place).components().any(|c| !matches!(c, std::path::Component::Normal(_)))
            {
                return Err(wrong().with_found(m.to_string()));
            }
            // A custom module may do anything, whatever its class is named; so it keeps its full name and is
            // refused later.
            let kind = match kind.strip_prefix("sentence_transformers.") {
                Some(_) => kind.rsplit('.').next().unwrap_or_default().to_owned(),
                None => kind,
            };
            Ok((kind, if place.is_empty() { root.to_path_buf() } else { root.join(place) }))
        };
        let list = value.as_array().ok_or_else(wrong)?.iter().map(one).collect::<Result<Vec<_>>>()?;
        Ok(Modules { root: root.to_path_buf(), list })
    }
    fn transformer(&self) -> Option<PathBuf> {
        self.list.iter().find(|(kind, _)| kind == "Transformer").map(|(_, dir)| dir.clone())
    }
    fn find(&self, kind: &str) -> Option<&Path> {
        self.list.iter().find(|(k, _)| k == kind).map(|(_, dir)| dir.as_path())
    }
    /// The settings file of a module and its contents, null if there is no file.
    fn config(&self, kind: &str, names: &[&str]) -> Result<(PathBuf, Value)> {
        let dir = self.find(kind).unwrap_or(&self.root);
        let there = names.iter().map(|name| dir.join(name)).find(|path| path.exists());
        match there {
            Some(path) => Ok((path.clone(), read_json(&path, LARGEST)?)),
            None => Ok((dir.join(names.first().copied().unwrap_or_default()), Value::Null)),
        }
    }
}

/// The folder that holds the transformer: `dir`, or the subfolder that old versions of sentence-transformers
/// used.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) if `modules.json` cannot be read.
pub fn transformer(dir: &Path) -> Result<PathBuf> {
    if dir.join("config.json").exists() || !dir.join(MODULES).is_file() {
        return Ok(dir.to_path_buf());
    }
    Ok(Modules::read(dir)?.transformer().unwrap_or_else(|| dir.to_path_buf()))
}

/// The pooling of a sentence-transformers folder; `None` for other folders.
///
/// `cls_last`: whether the classification token is the last one (XLNet).
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) for modules or pooling modes that tempra does not support.
pub(super) fn pooling(dir: &Path, cls_last: bool) -> Result<Option<Pooling>> {
    let Some(modules) = Modules::of(dir)? else { return Ok(None) };
    // Dropout has no effect outside training.
    let known = ["Transformer", "Pooling", "Normalize", "Dropout"];
    let kinds: Vec<&str> = modules.list.iter().map(|(kind, _)| kind.as_str()).collect();
    let other = |found: &str| {
        Error::model("the model has a sequence of modules that tempra does not support")
            .at(modules.root.join(MODULES))
            .with_expected("Transformer, then Pooling, then optionally Normalize")
            .with_found(found.to_owned())
            .with_help("to ignore these modules, choose the pooling with --pooling or model.pooling; vectors then differ from those of sentence-transformers")
    };
    if let Some(kind) = kinds.iter().find(|kind| !known.contains(kind)) {
        return Err(other(kind));
    }
    if kinds.first() != Some(&"Transformer") || kinds.iter().filter(|k| **k == "Pooling").count() != 1 {
        return Err(other(&kinds.join(", ")));
    }
    let path = modules.find("Pooling").unwrap_or(&modules.root).join("config.json");
    mode(&read_json(&path, LARGEST)?, &path, cls_last).map(Some)
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
    // The default of sentence-transformers.
    let names = if names.is_empty() { vec!["mean".to_owned()] } else { names };
    let known = |name: &String| MODES.iter().find(|m| m.0 == name).and_then(|m| m.2);
    let found = match (names.as_slice(), cls_last) {
        ([name], false) => known(name).filter(|p| *p != Pooling::Last),
        // In sentence-transformers `cls` is always the first token, also for a model whose classification
        // token is the last.
        ([name], true) => known(name).filter(|p| *p != Pooling::Cls),
        _ => None,
    };
    let found = found.map(|p| if p == Pooling::Last { Pooling::Cls } else { p });
    found.ok_or_else(|| {
        Error::model("the pooling mode is not supported")
            .at(path)
            .with_expected(if cls_last { "lasttoken or mean" } else { "cls or mean" })
            .with_found(names.join(" and "))
            .with_help("choose another pooling with --pooling or model.pooling; vectors then differ from those of sentence-transformers")
    })
}

/// The settings of a sentence-transformers folder; `None` for other folders.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) for a setting that changes vectors and that tempra does not
/// support.
pub fn settings(dir: &Path) -> Result<Option<Settings>> {
    let Some(modules) = Modules::of(dir)? else { return Ok(None) };
    let (path, config) = modules.config("Transformer", TRANSFORMER)?;
    let lowercase = transformer_settings(&path, &config)?;
    let longest = config.get("max_seq_length").and_then(Value::as_u64).filter(|n| *n > 0);

    let (about_path, about) = {
        let path = modules.root.join(ABOUT);
        let value = if path.exists() { read_json(&path, LARGEST)? } else { Value::Null };
        (path, value)
    };
    let prompt = match about.get("default_prompt_name").and_then(Value::as_str) {
        None => String::new(),
        Some(name) => match about.get("prompts").and_then(|p| p.get(name)).and_then(Value::as_str) {
            Some(prompt) => prompt.to_owned(),
            None => {
                return Err(Error::model(format!(
                    "`default_prompt_name` is {name:?}, which is not in `prompts`"
                ))
                .at(&about_path)
                .with_expected("null, or a key of `prompts`")
                .with_help("add that prompt to `prompts`, or set `default_prompt_name` to null"));
            }
        },
    };
    let (path, pooling) = modules.config("Pooling", &["config.json"])?;
    if !prompt.is_empty() && pooling.get("include_prompt").and_then(Value::as_bool) == Some(false) {
        return Err(Error::model(
            "`include_prompt` = false is not supported: pooling would have to skip the prompt's tokens",
        )
        .at(&path)
        .with_expected("true, or a model without `default_prompt_name`")
        .with_help("choose another model: this setting changes the vectors"));
    }
    let normalizes = modules.find("Normalize").is_some();
    let own = modules.find("Normalize").filter(|dir| *dir != modules.root);
    let path = own.map(|dir| dir.join("config.json")).filter(|path| path.exists());
    if let Some(path) = path {
        let config = read_json(&path, LARGEST)?;
        for key in ["module_input_name", "module_output_name"] {
            let v = config.get(key).filter(|v| !v.is_null() && v.as_str() != Some("sentence_embedding"));
            if let Some(v) = v {
                let e = Error::model(format!("`{key}` = {v} is not supported"));
                return Err(e
                    .at(&path)
                    .with_expected("\"sentence_embedding\"")
                    .with_help("choose another model: this setting changes the vectors"));
            }
        }
    }
    let mut known = Settings::default();
    for key in ["prompts", "default_prompt_name", "similarity_fn_name"] {
        if let Some(v) = about.get(key) {
            known.about[key] = v.clone();
        }
    }
    let longest = longest.and_then(|n| usize::try_from(n).ok());
    Ok(Some(Settings { lowercase, prompt, normalize: normalizes, longest, about: known.about }))
}

/// Whether texts are converted to lower case; refuses every other setting that changes vectors.
fn transformer_settings(path: &Path, config: &Value) -> Result<bool> {
    let empty = |v: &Value| v.is_null() || *v == json!({}) || *v == json!([]) || *v == json!(false);
    let trusted = |v: &Value| v.as_object().is_some_and(|m| m.keys().all(|k| k == "trust_remote_code"));
    let text_only = |v: &Value| {
        let text = v.get("text");
        empty(v) || text == Some(&json!({ "method": "forward", "method_output_name": "last_hidden_state" }))
    };
    for (key, v) in config.as_object().into_iter().flatten() {
        let fine = match key.as_str() {
            "max_seq_length" => v.is_null() || v.is_u64(),
            "do_lower_case" => v.is_boolean() || v.is_null(),
            "transformer_task" => v == "feature-extraction",
            "module_output_name" => v.is_null() || v == "token_embeddings",
            "modality_config" => text_only(v),
            "backend" => v == "torch",
            "unpad_inputs" | "cache_dir" => true,
            key if key.ends_with("_args") || key.ends_with("_kwargs") => empty(v) || trusted(v),
            _ => empty(v),
        };
        if !fine {
            return Err(Error::model(format!("the setting `{key}` is not supported"))
                .at(path)
                .with_found(v.to_string().chars().take(120).collect::<String>())
                .with_help("choose another model: this setting may change the vectors"));
        }
    }
    Ok(config.get("do_lower_case").and_then(Value::as_bool) == Some(true))
}

/// The files with which sentence-transformers opens a model folder and computes the same vectors as
/// `tempra embed`.
pub(super) fn files(
    pooling: Pooling,
    hidden: usize,
    longest: usize,
    settings: &Settings,
) -> Vec<NamedFile<'static>> {
    let module = |(i, (path, kind)): (usize, (&str, &str))| json!({ "idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}") });
    let all = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")];
    let count = if settings.normalize { 3 } else { 2 };
    let modules: Value = all.into_iter().take(count).enumerate().map(module).collect();
    let mut pool = json!({ "word_embedding_dimension": hidden, "include_prompt": true });
    for (_, key, mode) in MODES {
        pool[*key] = (*mode == Some(pooling)).into();
    }
    let length = json!({ "max_seq_length": longest, "do_lower_case": settings.lowercase });
    let file = |name: &str, v: &Value| NamedFile::bytes(name, format!("{v:#}\n").into_bytes());
    vec![
        file(MODULES, &modules),
        file("1_Pooling/config.json", &pool),
        file(TRANSFORMER[0], &length),
        file(ABOUT, &settings.about),
    ]
}
