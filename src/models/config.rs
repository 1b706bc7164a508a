//! Reads `config.json` and checks the range of every number, so that an absurd model is refused before any
//! allocation.

use super::Outputs;
use crate::checkpoint::read_json;
use crate::error::{Error, Result};
use crate::nn::{EncoderConfig, LayerShape, PerformerConfig};
use crate::ops::Activation;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The activation names that configs use. The erf and tanh forms of GELU are different functions and are kept
/// apart.
const ACTIVATIONS: &[(&str, Activation)] = &[
    ("gelu", Activation::GeluErf),
    ("gelu_python", Activation::GeluErf),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("relu", Activation::Relu),
    ("tanh", Activation::Tanh),
];

/// The key that describes approximate attention. transformers keeps the key when it saves a config, and
/// otherwise ignores it.
pub(super) const ATTENTION: &str = "tempra_attention";

/// The key with a list that has an object of `heads`, `head_dim` and `intermediate` for each layer.
pub(super) const LAYERS: &str = "tempra_layers";

/// The value of [`ATTENTION`].
pub(super) fn performer_value(p: &PerformerConfig) -> Value {
    let PerformerConfig { features, redraw, seed, draw } = p;
    // A string: many JSON readers hold numbers as f64, which does not represent every 64-bit seed.
    json!({ "kind": "performer", "features": features, "redraw": redraw, "seed": seed.to_string(), "draw": draw })
}

/// The contents of a `config.json`, and its path.
pub(super) struct Config {
    pub value: Value,
    pub path: PathBuf,
}

impl Config {
    pub fn read(path: &Path) -> Result<Config> {
        let value = read_json(path, 16 << 20)?;
        if !value.is_object() {
            return Err(Error::model("not a model's config").at(path).with_expected("a JSON object"));
        }
        Ok(Config { value, path: path.to_path_buf() })
    }
    /// An error about this file.
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::model(what).at(&self.path)
    }
    fn wrong(&self, key: &str, expected: String) -> Error {
        let help = "correct config.json, or download the model again";
        match self.value.get(key) {
            None => self.error(format!("`{key}` is missing")),
            Some(v) => self
                .error(format!("`{key}` has a value that is not valid"))
                .with_found(v.to_string().chars().take(80).collect::<String>()),
        }
        .with_expected(expected)
        .with_help(help)
    }
    fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|v| !v.is_null())
    }
    /// A required string.
    pub fn text(&self, key: &str) -> Result<&str> {
        self.get(key).and_then(Value::as_str).ok_or_else(|| self.wrong(key, "a string".into()))
    }
    /// A required whole number from 1 to `most`.
    pub fn count(&self, key: &str, most: usize) -> Result<usize> {
        let n = self.get(key).and_then(Value::as_u64).filter(|&n| n >= 1 && n <= most as u64);
        n.map(|n| n as usize).ok_or_else(|| self.wrong(key, format!("a whole number from 1 to {most}")))
    }
    /// A boolean, if given.
    pub fn optional_flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        v.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false".into()))
    }
    /// A whole number from 0 to `most`, if given.
    pub fn optional_index(&self, key: &str, most: usize) -> Result<Option<usize>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        let n = v.as_u64().filter(|&n| n <= most as u64);
        n.map(|n| Some(n as usize)).ok_or_else(|| self.wrong(key, format!("a whole number from 0 to {most}")))
    }
    /// A positive finite number, if given.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        let n = v.as_f64().filter(|n| n.is_finite() && *n > 0.0);
        n.map(Some).ok_or_else(|| self.wrong(key, "a positive number".into()))
    }
    /// A probability below 1, if given.
    pub fn optional_probability(&self, key: &str) -> Result<Option<f32>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        let p = v.as_f64().filter(|p| (0.0..1.0).contains(p));
        p.map(|p| Some(p as f32)).ok_or_else(|| self.wrong(key, "at least 0 and below 1".into()))
    }
    /// An activation by its name.
    pub fn activation(&self, key: &str) -> Result<Activation> {
        let name = self.text(key)?;
        let known = || ACTIVATIONS.iter().map(|a| a.0).collect::<Vec<_>>().join(", ");
        let found = ACTIVATIONS.iter().find(|a| a.0 == name).map(|a| a.1);
        found.ok_or_else(|| self.wrong(key, format!("one of {}", known())))
    }
    /// Refuses a setting that would change what the model computes; `supported` is the value that tempra
    /// supports.
    pub fn refuse(&self, key: &str, is: impl Fn(&Value) -> bool, supported: &str) -> Result<()> {
        match self.get(key) {
            Some(v) if is(v) => Err(self
                .error(format!("`{key}` = {v} is not supported"))
                .with_expected(supported)
                .with_help("choose another model: this setting changes what the model computes")),
            _ => Ok(()),
        }
    }
    /// The keys of BERT's config, which many other configs share. Sizes are required; rates and epsilon have
    /// defaults.
    pub fn bert_like(&self) -> Result<EncoderConfig> {
        let decoder = |v: &Value| v.as_bool() == Some(true);
        self.refuse("is_decoder", decoder, "false: tempra trains encoders, not decoders")?;
        let relative = |v: &Value| v.as_str().is_some_and(|s| s != "absolute");
        self.refuse("position_embedding_type", relative, "\"absolute\"")?;
        let (hidden, layer) = self.sizes(["hidden_size", "num_attention_heads", "intermediate_size"])?;
        Ok(EncoderConfig {
            vocab: self.count("vocab_size", 1 << 22)?,
            positions: self.count("max_position_embeddings", 1 << 20)?,
            types: self.count("type_vocab_size", 1 << 10)?,
            hidden,
            layers: vec![layer; self.count("num_hidden_layers", 1 << 9)?],
            act: self.activation("hidden_act")?,
            eps: self.optional_number("layer_norm_eps")?.unwrap_or(1e-12) as f32,
            hidden_dropout: self.optional_probability("hidden_dropout_prob")?.unwrap_or(0.1),
            attention_dropout: self.optional_probability("attention_probs_dropout_prob")?.unwrap_or(0.1),
            ..EncoderConfig::default()
        })
    }
    /// The settings of approximate attention, if the model was trained with it.
    pub fn performer(&self) -> Result<Option<PerformerConfig>> {
        let Some(v) = self.get(ATTENTION) else { return Ok(None) };
        let number = |key: &str| v.get(key).and_then(Value::as_u64);
        let seed = v.get("seed").and_then(Value::as_str).and_then(|s| s.parse().ok());
        let features = number("features").filter(|n| (1..=1 << 16).contains(n));
        let kind = v.get("kind").and_then(Value::as_str) == Some("performer");
        match (features, number("redraw"), seed, number("draw")) {
            (Some(features), Some(redraw), Some(seed), Some(draw)) if kind => {
                Ok(Some(PerformerConfig { features: features as usize, redraw, seed, draw }))
            }
            _ => {
                let what = "an object with kind = \"performer\", features, redraw, seed and draw";
                Err(self.wrong(ATTENTION, what.into()))
            }
        }
    }
    /// The hidden size, and the sizes of layers that are all alike, from the keys of the hidden size, of the
    /// number of heads, which divides it, and of the feed-forward width. Where the config has sizes of its
    /// own for each layer, these replace them.
    pub fn sizes(&self, [width, heads, intermediate]: [&str; 3]) -> Result<(usize, LayerShape)> {
        let (hidden, n) = (self.count(width, 1 << 14)?, self.count(heads, 1 << 10)?);
        let layer = LayerShape::new(hidden, n, self.count(intermediate, 1 << 17)?);
        if hidden.is_multiple_of(n) || self.value.get(LAYERS).is_some() {
            return Ok((hidden, layer));
        }
        Err(self
            .error(format!("`{width}` ({hidden}) is not a multiple of `{heads}` ({n})"))
            .with_help("correct config.json, or download the model again"))
    }
    /// The names of a fine-tuned model's outputs, as `transformers` knows them: those of `id2label`, else
    /// `LABEL_0`, `LABEL_1` and so on, as many as `num_labels` says, else two.
    pub fn names(&self) -> Result<Vec<String>> {
        let Some(map) = self.get("id2label") else {
            let n = if self.get("num_labels").is_some() { self.count("num_labels", 1 << 20)? } else { 2 };
            return Ok((0..n).map(|i| format!("LABEL_{i}")).collect());
        };
        let name = |i: usize| match map.get(i.to_string())? {
            Value::String(name) => Some(name.clone()),
            // The keys and values of Python dictionaries may be numbers.
            Value::Number(n) => Some(n.to_string()),
            _ => None,
        };
        let count = map.as_object().map_or(0, |m| m.len());
        let names: Option<Vec<String>> = (0..count).map(name).collect();
        let whole = names.filter(|n| !n.is_empty());
        whole.ok_or_else(|| {
            self.wrong("id2label", "{\"0\": name, \"1\": name, ...} with no number left out".into())
        })
    }
    /// A warning if `label2id` gives a name another number than `id2label` does.
    pub fn contradiction(&self) -> Option<String> {
        let ids = self.get("label2id")?;
        let names = self.names().ok().filter(|_| self.get("id2label").is_some())?;
        let other = |(i, name): (usize, &String)| {
            let id = ids.get(name)?.as_u64().filter(|&id| id != i as u64)?;
            Some(format!(
                "config.json contradicts itself: the label {name:?} is number {i} in id2label and {id} in label2id; tempra uses id2label, as transformers does"
            ))
        };
        names.iter().enumerate().find_map(other)
    }
    /// The outputs of a sequence classifier, from `problem_type` and the number of labels, as in
    /// `transformers`.
    pub fn outputs(&self) -> Result<Outputs> {
        const TYPES: [&str; 3] = ["regression", "single_label_classification", "multi_label_classification"];
        let problem = match self.get("problem_type") {
            None => None,
            Some(v) => match v.as_str().filter(|p| TYPES.contains(p)) {
                None => return Err(self.wrong("problem_type", format!("one of {}", TYPES.join(", ")))),
                known => known,
            },
        };
        let counted = self.get("id2label").is_some() || self.get("num_labels").is_some();
        if problem == Some("regression") && !counted {
            return Ok(Outputs::Number);
        }
        let names = self.names()?;
        match (problem, names.len()) {
            (None | Some("regression"), 1) => Ok(Outputs::Number),
            (Some("multi_label_classification"), _) => Ok(Outputs::Labels(names)),
            (Some("single_label_classification"), 1) => Err(self
                .error("the classifier has a single class, so it always predicts the same")
                .with_expected("at least two labels with problem_type \"single_label_classification\"")
                .with_found("one label in id2label or num_labels")
                .with_help("set problem_type to \"regression\" or \"multi_label_classification\"; transformers refuses this config too")),
            (Some("regression"), n) => Err(self
                .error("regression with several outputs is not supported")
                .with_expected("one label in id2label or num_labels")
                .with_found(format!("{n} labels"))
                .with_help("choose a model with one output, or train one with task = \"regress\"")),
            _ => Ok(Outputs::Classes(names)),
        }
    }
}
