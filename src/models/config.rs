//! `config.json`, read with a range for every number, so that an absurd model is refused before anything is allocated.

use super::Outputs;
use crate::checkpoint::read_json;
use crate::error::{Error, Result};
use crate::nn::{EncoderConfig, PerformerConfig};
use crate::ops::linear::Activation;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The activations that configs name. The erf and the tanh form of GELU are different functions and stay so.
const ACTIVATIONS: &[(&str, Activation)] = &[
    ("gelu", Activation::GeluErf),
    ("gelu_python", Activation::GeluErf),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("relu", Activation::Relu),
    ("tanh", Activation::Tanh),
];

/// The key that says that attention is approximated, and how; transformers keeps it and does not look at it.
pub(super) const ATTENTION: &str = "tempra_attention";

/// What stands there.
pub(super) fn performer_value(p: &PerformerConfig) -> Value {
    let PerformerConfig { features, redraw, seed, draw } = p;
    // A seed of 64 bits is more than a JSON number holds for sure.
    json!({ "kind": "performer", "features": features, "redraw": redraw, "seed": seed.to_string(), "draw": draw })
}

/// A `config.json` and where it is.
pub(super) struct Config {
    pub value: Value,
    path: PathBuf,
}

impl Config {
    pub fn read(path: &Path) -> Result<Config> {
        let value = read_json(path, 16 << 20)?;
        if !value.is_object() {
            return Err(Error::model("a model's config is a JSON object").at(path));
        }
        Ok(Config { value, path: path.to_path_buf() })
    }
    /// An error about this file.
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::model(what).at(&self.path)
    }
    fn wrong(&self, key: &str, expected: String) -> Error {
        let found = self.value.get(key).map_or("nothing".to_owned(), Value::to_string);
        let found: String = found.chars().take(80).collect();
        self.error(format!("`{key}` is out of range")).with_expected(expected).with_found(found)
    }
    fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|v| !v.is_null())
    }
    /// A required word.
    pub fn text(&self, key: &str) -> Result<&str> {
        self.get(key).and_then(Value::as_str).ok_or_else(|| self.wrong(key, "a string".into()))
    }
    /// A required whole number from 1 to `most`.
    pub fn count(&self, key: &str, most: usize) -> Result<usize> {
        let n = self.get(key).and_then(Value::as_u64).filter(|&n| n >= 1 && n <= most as u64);
        n.map(|n| n as usize).ok_or_else(|| self.wrong(key, format!("a whole number from 1 to {most}")))
    }
    /// Yes or no, if given.
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
    /// Refuses a setting that would change what the model computes.
    pub fn refuse(&self, key: &str, is: impl Fn(&Value) -> bool, what: &str) -> Result<()> {
        match self.get(key) {
            Some(v) if is(v) => Err(self.error(format!("`{key}` is {v}: {what}"))),
            _ => Ok(()),
        }
    }
    /// The keys that BERT's config has, and those made after it. Sizes must be there; rates and epsilon may be left out.
    pub fn bert_like(&self) -> Result<EncoderConfig> {
        self.refuse("is_decoder", |v| v.as_bool() == Some(true), "a decoder; tempra trains encoders")?;
        let relative = |v: &Value| v.as_str().is_some_and(|s| s != "absolute");
        let what = "not absolute; these positions are not supported";
        self.refuse("position_embedding_type", relative, what)?;
        let shape = EncoderConfig {
            vocab: self.count("vocab_size", 1 << 22)?,
            positions: self.count("max_position_embeddings", 1 << 20)?,
            types: self.count("type_vocab_size", 1 << 10)?,
            hidden: self.count("hidden_size", 1 << 14)?,
            layers: self.count("num_hidden_layers", 1 << 9)?,
            heads: self.count("num_attention_heads", 1 << 10)?,
            intermediate: self.count("intermediate_size", 1 << 17)?,
            act: self.activation("hidden_act")?,
            eps: self.optional_number("layer_norm_eps")?.unwrap_or(1e-12) as f32,
            hidden_dropout: self.optional_probability("hidden_dropout_prob")?.unwrap_or(0.1),
            attention_dropout: self.optional_probability("attention_probs_dropout_prob")?.unwrap_or(0.1),
            ..EncoderConfig::default()
        };
        self.divides(&shape, "num_attention_heads", "hidden_size")?;
        Ok(shape)
    }
    /// How attention is approximated, if the model was trained so.
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
            _ => Err(self.wrong(ATTENTION, "kind `performer` with features, redraw, seed and draw".into())),
        }
    }
    /// Refuses a width that the heads do not divide.
    pub fn divides(&self, shape: &EncoderConfig, heads: &str, width: &str) -> Result<()> {
        if shape.hidden.is_multiple_of(shape.heads) {
            return Ok(());
        }
        Err(self
            .error(format!("{heads} does not divide {width}"))
            .with_found(format!("{} heads, width {}", shape.heads, shape.hidden)))
    }
    /// The names of a fine-tuned model's outputs, as `transformers` knows them: those of `id2label`, else `LABEL_0`, `LABEL_1`
    /// and so on, as many as `num_labels` says, else two.
    pub fn names(&self) -> Result<Vec<String>> {
        let Some(map) = self.get("id2label") else {
            let n = if self.get("num_labels").is_some() { self.count("num_labels", 1 << 20)? } else { 2 };
            return Ok((0..n).map(|i| format!("LABEL_{i}")).collect());
        };
        let name = |i: usize| match map.get(i.to_string())? {
            Value::String(name) => Some(name.clone()),
            // Python's dictionaries may have numbers for names.
            Value::Number(n) => Some(n.to_string()),
            _ => None,
        };
        let count = map.as_object().map_or(0, |m| m.len());
        let names: Option<Vec<String>> = (0..count).map(name).collect();
        let whole = names.filter(|n| !n.is_empty());
        whole.ok_or_else(|| self.wrong("id2label", "{\"0\": name, \"1\": name, ...} without gaps".into()))
    }
    /// Where `label2id` gives a name of `id2label` another number, in words.
    pub fn contradiction(&self) -> Option<String> {
        let ids = self.get("label2id")?;
        let names = self.names().ok().filter(|_| self.get("id2label").is_some())?;
        let other = |(i, name): (usize, &String)| {
            let id = ids.get(name)?.as_u64().filter(|&id| id != i as u64)?;
            Some(format!(
                "config.json contradicts itself: {name:?} is {i} in id2label and {id} in label2id; id2label is used, as in transformers"
            ))
        };
        names.iter().enumerate().find_map(other)
    }
    /// What the head of a model of texts gives, by `problem_type` and the number of labels, as in `transformers`.
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
                .error("a classifier with one class predicts nothing")
                .with_expected("two labels or more for single_label_classification")
                .with_found("one label in id2label or num_labels")
                .with_help("transformers refuses it too: problem_type is \"regression\" or \"multi_label_classification\"")),
            (Some("regression"), n) => Err(self
                .error("a regression of several numbers is not supported")
                .with_expected("one label in id2label or num_labels")
                .with_found(format!("{n}"))),
            _ => Ok(Outputs::Classes(names)),
        }
    }
}
