//! Folders of sentence-transformers: what `modules.json` and the files beside it say of how a text becomes a vector, and the
//! same files for a folder that tempra writes.

use crate::checkpoint::{NamedFile, read_json};
use crate::error::{Error, Result};
use crate::nn::Pooling;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What stands in a folder of sentence-transformers: what a text passes through, in order.
const MODULES: &str = "modules.json";
const ABOUT: &str = "config_sentence_transformers.json";
/// The settings of the transformer; the first is the one that new versions write.
const TRANSFORMER: &[&str] = &[
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];
/// No such file is larger.
const LARGEST: u64 = 1 << 20;

/// How the vectors of tokens become one, by the name that sentence-transformers 5 gives to it and by the key of its elders.
const MODES: &[(&str, &str, Option<Pooling>)] = &[
    ("cls", "pooling_mode_cls_token", Some(Pooling::Cls)),
    ("max", "pooling_mode_max_tokens", None),
    ("mean", "pooling_mode_mean_tokens", Some(Pooling::Mean)),
    ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", None),
    ("weightedmean", "pooling_mode_weightedmean_tokens", None),
    ("lasttoken", "pooling_mode_lasttoken", Some(Pooling::Last)),
];

/// What a text passes through.
struct Modules {
    /// The folder of `modules.json`.
    root: PathBuf,
    /// Kind and folder of each.
    list: Vec<(String, PathBuf)>,
}

/// What is done to texts and vectors beside what the model itself does.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Texts are put into lower case before the tokenizer sees them.
    pub lowercase: bool,
    /// Put before every text (`default_prompt_name`); mostly empty.
    pub prompt: String,
    /// Vectors are divided by their length.
    pub normalize: bool,
    /// The longest text in tokens, if a file says so.
    pub longest: Option<usize>,
    /// Prompts and the like, to be written again.
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
    /// Those of the folder itself, or of the one above where that says that its transformer is here.
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
            Error::model("is not a list of modules").at(&path).with_expected("objects with `type` and `path`")
        };
        let one = |m: &Value| {
            let (kind, place) = (text(m, "type"), text(m, "path"));
            if kind.is_empty()
                || Path::new(&place).components().any(|c| !matches!(c, std::path::Component::Normal(_)))
            {
                return Err(wrong().with_found(m.to_string()));
            }
            // Code of the model's own may do anything, whatever its name is.
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
    /// The file of settings of one kind of module; null if there is none.
    fn config(&self, kind: &str, names: &[&str]) -> Result<(PathBuf, Value)> {
        let dir = self.find(kind).unwrap_or(&self.root);
        let there = names.iter().map(|name| dir.join(name)).find(|path| path.exists());
        match there {
            Some(path) => Ok((path.clone(), read_json(&path, LARGEST)?)),
            None => Ok((dir.join(names.first().copied().unwrap_or_default()), Value::Null)),
        }
    }
}

/// Where the model itself is: the folder, or the one in it that old versions of sentence-transformers put it into.
///
/// # Errors
/// Those of a `modules.json` that cannot be read.
pub fn transformer(dir: &Path) -> Result<PathBuf> {
    if dir.join("config.json").exists() || !dir.join(MODULES).is_file() {
        return Ok(dir.to_path_buf());
    }
    Ok(Modules::read(dir)?.transformer().unwrap_or_else(|| dir.to_path_buf()))
}

/// How a folder of sentence-transformers makes a vector of a text; `None` if it is no such folder.
///
/// `cls_last`: whether the token for the whole sequence is the last.
///
/// # Errors
/// Of kind [`Model`](crate::error::Kind::Model) for a way that tempra does not have.
pub(super) fn pooling(dir: &Path, cls_last: bool) -> Result<Option<Pooling>> {
    let Some(modules) = Modules::of(dir)? else { return Ok(None) };
    // A dropout does nothing but in training.
    let known = ["Transformer", "Pooling", "Normalize", "Dropout"];
    let kinds: Vec<&str> = modules.list.iter().map(|(kind, _)| kind.as_str()).collect();
    let other = |found: &str| {
        Error::model("vectors pass through modules that tempra does not have")
            .at(modules.root.join(MODULES))
            .with_expected("Transformer, Pooling, Normalize")
            .with_found(found.to_owned())
            .with_help("say how they are pooled, with --pooling or model.pooling, to leave it out")
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
    // As sentence-transformers does where nothing is set.
    let names = if names.is_empty() { vec!["mean".to_owned()] } else { names };
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
            .with_expected(if cls_last { "lasttoken or mean" } else { "cls or mean" })
            .with_found(names.join(" and "))
            .with_help("say another way with --pooling or model.pooling; the vectors are then others")
    })
}

/// What a folder of sentence-transformers does to texts and vectors; `None` if it is no such folder.
///
/// # Errors
/// Of kind [`Model`](crate::error::Kind::Model) for a setting that changes vectors in a way that tempra does not have.
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
                return Err(Error::model("`default_prompt_name` names no prompt")
                    .at(&about_path)
                    .with_expected("a key of `prompts`")
                    .with_found(name.to_owned()));
            }
        },
    };
    let (path, pooling) = modules.config("Pooling", &["config.json"])?;
    if !prompt.is_empty() && pooling.get("include_prompt").and_then(Value::as_bool) == Some(false) {
        return Err(Error::model(
            "`include_prompt` is false: a mean without the prompt's tokens, which tempra does not have",
        )
        .at(&path)
        .with_expected("true, or no `default_prompt_name`"));
    }
    let normalizes = modules.find("Normalize").is_some();
    let own = modules.find("Normalize").filter(|dir| *dir != modules.root);
    let path = own.map(|dir| dir.join("config.json")).filter(|path| path.exists());
    if let Some(path) = path {
        let config = read_json(&path, LARGEST)?;
        for key in ["module_input_name", "module_output_name"] {
            let v = config.get(key).filter(|v| !v.is_null() && v.as_str() != Some("sentence_embedding"));
            if let Some(v) = v {
                let e = Error::model(format!("`{key}` is {v}, which tempra does not have"));
                return Err(e.at(&path).with_expected("sentence_embedding"));
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

/// Whether texts are put into lower case; refuses what else changes vectors.
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
            return Err(Error::model(format!("`{key}` is set, in a way that tempra does not have"))
                .at(path)
                .with_found(v.to_string().chars().take(120).collect::<String>()));
        }
    }
    Ok(config.get("do_lower_case").and_then(Value::as_bool) == Some(true))
}

/// The files that make sentence-transformers give the vectors that `tempra embed` does: with them a folder of a model of this
/// width opens there as it does in `transformers`.
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
