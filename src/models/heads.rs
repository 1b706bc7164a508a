//! What stands on an encoder: a head for each kind of outputs, called as `transformers` calls it, and what `config.json`
//! says of it.

use super::Outputs;
use super::architecture::Architecture;
use super::config::Config;
use super::decoder::Decoder;
use crate::checkpoint::read_json;
use crate::error::{Error, Result};
use crate::nn::{
    Encoder, EncoderConfig, Head, Inputs, MaskedConfig, MaskedHead, Pooling, Sites, TokenHead, Transform,
};
use crate::ops::pool::Pool;
use crate::params::{Bound, Layout};
use crate::tape::{Tape, Var};
use serde_json::{Map, Value, json};
use std::path::Path;

/// A head of a model.
pub struct NamedHead {
    /// Its name among several; empty if it is the only one.
    pub name: String,
    /// What it gives.
    pub outputs: Outputs,
    /// Its last layer, which has one row per class: the tensors are `{last_layer}.weight` and `{last_layer}.bias`.
    pub(super) last_layer: Option<String>,
    /// What its output is in units of, from where: see [`Model::standardize`](super::Model::standardize).
    pub(super) units: Option<Units>,
    kind: Kind,
}

/// An output y stands for `shift + scale y`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Units {
    pub shift: f64,
    pub scale: f64,
}

impl Units {
    /// The weights or biases of a last layer that gives what the outputs of this one stand for.
    pub fn folded(self, values: Vec<f32>, bias: bool) -> Vec<f32> {
        let shift = if bias { self.shift } else { 0.0 };
        values.into_iter().map(|v| (f64::from(v) * self.scale + shift) as f32).collect()
    }
    /// The weights or biases of a last layer whose outputs stand for what this one gives.
    pub fn unfolded(self, values: Vec<f32>, bias: bool) -> Vec<f32> {
        let shift = if bias { self.shift } else { 0.0 };
        values.into_iter().map(|v| ((f64::from(v) - shift) / self.scale) as f32).collect()
    }
}

enum Kind {
    Sequence(Head),
    Tokens(TokenHead),
    Vectors(Pooling),
    /// Of a masked language model, or one of permutations.
    Masked(MaskedHead),
    Pretraining(MaskedHead, Head),
}

/// How heads are declared.
pub(super) struct Setting<'a> {
    pub architecture: &'static Architecture,
    pub shape: &'a EncoderConfig,
    pub pooling: Pooling,
    pub dropout: f32,
    /// The dropout of a head that finds answers.
    pub span_dropout: f32,
    /// The last map of a masked-LM head.
    pub decoder: &'a Decoder,
}

impl Setting<'_> {
    /// Declares a head's parameters; of several each has its name before those of its tensors.
    pub fn declare(
        &self,
        layout: &mut Layout,
        sites: &mut Sites,
        encoder: &Encoder,
        name: &str,
        outputs: &Outputs,
    ) -> Result<NamedHead> {
        let first = layout.list.len();
        let (a, c) = (self.architecture, self.shape);
        let sequence = |outputs| a.head(c, self.pooling, outputs, self.dropout);
        let dense = a.head(c, self.pooling, 1, 0.0).dense.filter(|_| a.dense_tokens);
        let tokens = |layout: &mut Layout, sites: &mut Sites, name, outputs, dropout| {
            TokenHead::declare(layout, sites, (name, dense.as_ref()), [outputs, c.hidden], dropout)
        };
        let kind = match outputs {
            Outputs::Classes(names) | Outputs::Labels(names) => {
                Kind::Sequence(Head::declare(layout, sites, &sequence(names.len())))
            }
            Outputs::Number => Kind::Sequence(Head::declare(layout, sites, &sequence(1))),
            Outputs::Tags(names) => {
                Kind::Tokens(tokens(layout, sites, "classifier", names.len(), self.dropout))
            }
            Outputs::Span => Kind::Tokens(tokens(layout, sites, a.span_head(), 2, self.span_dropout)),
            Outputs::Embedding => Kind::Vectors(a.head(c, self.pooling, 1, 0.0).pooling),
            Outputs::Tokens => Kind::Masked(self.masked(layout, encoder)?),
            Outputs::Permuted => Kind::Masked(self.permuted(layout, encoder)?),
            Outputs::Pretraining => {
                let Some((_, classifier)) = a.pretraining else {
                    return Err(self.lacks("was not pretrained on next sentences"));
                };
                let masked = self.masked(layout, encoder)?;
                // BertForPreTraining has no dropout there.
                let mut next = a.head(c, Pooling::Cls, 2, 0.0);
                next.classifier = classifier.to_owned();
                Kind::Pretraining(masked, Head::declare(layout, sites, &next))
            }
        };
        let full = |own: &str| if name.is_empty() { own.to_owned() } else { format!("{PREFIX}{name}.{own}") };
        for p in &mut layout.list[first..] {
            p.name = full(&p.name);
        }
        let last_layer = match outputs {
            Outputs::Classes(_) | Outputs::Labels(_) | Outputs::Number => Some(full(a.head.classifier)),
            Outputs::Tags(_) => Some(full("classifier")),
            Outputs::Span => Some(full(a.span_head())),
            Outputs::Embedding | Outputs::Tokens | Outputs::Permuted | Outputs::Pretraining => None,
        };
        Ok(NamedHead { name: name.to_owned(), outputs: outputs.clone(), last_layer, units: None, kind })
    }

    fn masked(&self, layout: &mut Layout, encoder: &Encoder) -> Result<MaskedHead> {
        let (a, c) = (self.architecture, self.shape);
        let Some(m) = &a.masked else {
            let e = self.lacks("has no head for masked language modelling");
            return Err(match a.permuted {
                Some(_) => e.with_help("it was pretrained by permutations: task = \"permute\""),
                None => e,
            });
        };
        let config = MaskedConfig {
            transform: Some(Transform {
                dense: m.dense.to_owned(),
                norm: m.norm.to_owned(),
                act: c.head_act.or(m.act).unwrap_or(c.act),
                hidden: c.hidden,
                eps: c.eps,
                biases: [c.biases.head, c.biases.norm],
            }),
            weight: self.decoder.weight.clone(),
            bias: self.decoder.bias.clone(),
            vocab: c.vocab,
            embedding: c.embedding.unwrap_or(c.hidden),
        };
        Ok(MaskedHead::declare(layout, &config, encoder.words()))
    }

    fn permuted(&self, layout: &mut Layout, encoder: &Encoder) -> Result<MaskedHead> {
        let (a, c) = (self.architecture, self.shape);
        if a.permuted.is_none() {
            return Err(self.lacks("was not pretrained by permutations, and has no positions for them"));
        }
        let Decoder { weight, bias, .. } = self.decoder.clone();
        let (vocab, embedding) = (c.vocab, c.embedding.unwrap_or(c.hidden));
        let config = MaskedConfig { transform: None, weight, bias, vocab, embedding };
        // Here the content of queries is learnt as well.
        layout.train(encoder.words());
        Ok(MaskedHead::declare(layout, &config, encoder.words()))
    }

    fn lacks(&self, what: &str) -> Error {
        Error::usage(format!("model_type `{}` {what}", self.architecture.model_type))
            .with_help("take another task or model")
    }
}

/// Before the tensors of one of several heads, with its name.
const PREFIX: &str = "heads.";

/// The name of the head that a tensor belongs to among several.
pub(super) fn owner(name: &str) -> Option<&str> {
    Some(name.strip_prefix(PREFIX)?.split_once('.')?.0)
}

/// The name of a tensor without the name of the head that it belongs to among several.
pub(super) fn plain(name: &str) -> &str {
    name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')).map_or(name, |(_, rest)| rest)
}

impl NamedHead {
    /// Whether it gives logits of the vocabulary.
    pub(super) fn predicts_tokens(&self) -> bool {
        matches!(self.kind, Kind::Masked(_) | Kind::Pretraining(..))
    }
    /// How the vectors of tokens become one, if that is all it does.
    pub(super) fn vectors(&self) -> Option<Pooling> {
        match self.kind {
            Kind::Vectors(pooling) => Some(pooling),
            _ => None,
        }
    }
    /// What the head gives: see [`Outputs`].
    pub(super) fn run(&self, tape: &mut Tape, p: &Bound, batch: &Inputs, hidden: Var) -> Result<Vec<Var>> {
        Ok(vec![match &self.kind {
            Kind::Sequence(head) => head.run(tape, p, batch, hidden)?,
            Kind::Tokens(head) => head.run(tape, p, batch, hidden)?,
            Kind::Masked(head) => head.run(tape, p, batch, hidden)?,
            Kind::Vectors(pooling) => {
                let pool = match pooling {
                    Pooling::Mean => Pool::Mean,
                    Pooling::Last => Pool::Last,
                    Pooling::Cls => Pool::First,
                };
                tape.apply(pool, &[hidden, batch.sequences])?
            }
            Kind::Pretraining(masked, next) => {
                let tokens = masked.run(tape, p, batch, hidden)?;
                return Ok(vec![tokens, next.run(tape, p, batch, hidden)?]);
            }
        }])
    }
}

/// The heads that a model's config tells of.
pub(super) fn of_config(c: &Config) -> Result<Vec<(String, Outputs)>> {
    let Some(list) = c.value.get("tempra_heads").and_then(Value::as_array) else {
        return Ok(vec![(String::new(), of_class(c)?)]);
    };
    let wrong = || c.error("`tempra_heads` is not what tempra writes").with_help("train the model anew");
    let one = |v: &Value| {
        let text = |key: &str| v.get(key).and_then(Value::as_str);
        let labels = || {
            let labels = v.get("labels")?.as_array()?.iter().map(|l| l.as_str().map(str::to_owned));
            labels.collect::<Option<Vec<String>>>().filter(|l| !l.is_empty())
        };
        let outputs = match text("kind")? {
            "classes" => Outputs::Classes(labels()?),
            "labels" => Outputs::Labels(labels()?),
            "tags" => Outputs::Tags(labels()?),
            "number" => Outputs::Number,
            "span" => Outputs::Span,
            "embedding" => Outputs::Embedding,
            "tokens" => Outputs::Tokens,
            "permuted" => Outputs::Permuted,
            "pretraining" => Outputs::Pretraining,
            _ => return None,
        };
        Some((text("name")?.to_owned(), outputs))
    };
    let heads: Option<Vec<_>> = list.iter().map(one).collect();
    heads.filter(|h| !h.is_empty()).ok_or_else(wrong)
}

/// Ends of the names of classes in `transformers` that have a head which tempra does not have.
const OTHER_HEADS: &[&str] = &[
    "ForMultipleChoice",
    "ForNextSentencePrediction",
    "ForCausalLM",
    "LMHeadModel",
    "ForConditionalGeneration",
];

/// What a model gives by the class that `transformers` opens it with.
fn of_class(c: &Config) -> Result<Outputs> {
    let class = c.value.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str).unwrap_or("");
    let ends = |end: &str| class.ends_with(end);
    Ok(match () {
        _ if ends("ForTokenClassification") => Outputs::Tags(c.names()?),
        _ if ends("ForQuestionAnswering") || ends("ForQuestionAnsweringSimple") => Outputs::Span,
        _ if ends("ForMaskedLM") => Outputs::Tokens,
        _ if class == "XLNetLMHeadModel" => Outputs::Permuted,
        _ if ends("ForPreTraining") => Outputs::Pretraining,
        _ if ends("Model") && c.value.get("tempra_pooling").is_some() => Outputs::Embedding,
        _ if OTHER_HEADS.iter().any(|end| ends(end)) => {
            return Err(c
                .error("`architectures` names a class whose head tempra does not have")
                .with_expected(
                    "a class for sequence or token classification, question answering or a language model",
                )
                .with_found(class.to_owned()));
        }
        _ => c.outputs()?,
    })
}

/// What `sentence-transformers` puts behind the one output of a cross-encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastActivation {
    /// Nothing, and it says so.
    Identity,
    Sigmoid,
    /// Neither it nor `problem_type` says anything.
    Unsaid,
}

/// Where a folder of sentence-transformers 6 keeps it; no such file is larger.
const SENTENCE_CONFIG: (&str, u64) = ("config_sentence_transformers.json", 1 << 20);

/// What belongs behind the one output of a model, by the files that `CrossEncoder` reads.
///
/// Its own default, where a cross-encoder says nothing, is a sigmoid; a model of transformers with `problem_type` "regression" has
/// nothing there.
pub(super) fn last_activation(c: &Config, dir: &Path) -> Result<LastActivation> {
    let path = dir.join(SENTENCE_CONFIG.0);
    let sentence = if path.exists() { read_json(&path, SENTENCE_CONFIG.1)? } else { Value::Null };
    let cross = sentence.get("model_type").and_then(Value::as_str) == Some("CrossEncoder");
    let new = c.value.get("sentence_transformers").and_then(|s| s.get("activation_fn"));
    let said = sentence.get("activation_fn").filter(|_| cross).or(new).or(c.value.get(OLD_ACTIVATION));
    match said.and_then(Value::as_str) {
        Some(name) => match name.rsplit('.').next().unwrap_or_default() {
            "Identity" => Ok(LastActivation::Identity),
            "Sigmoid" => Ok(LastActivation::Sigmoid),
            _ => Err(c
                .error("sentence-transformers puts a function behind the output that tempra does not have")
                .with_expected("Identity or Sigmoid")
                .with_found(name.to_owned())),
        },
        None if c.value.get("problem_type").is_some_and(|p| p == "regression") => {
            Ok(LastActivation::Identity)
        }
        None if cross => Ok(LastActivation::Sigmoid),
        None => Ok(LastActivation::Unsaid),
    }
}

/// Where sentence-transformers before 4 kept the activation.
const OLD_ACTIVATION: &str = "sbert_ce_default_activation_function";

/// Writes into a config what `transformers` and tempra need to know of the heads.
pub(super) fn describe(heads: &[NamedHead], a: &Architecture, map: &mut Map<String, Value>) {
    let stale = ["tempra_heads", "id2label", "label2id", "problem_type", "num_labels"];
    for stale in stale.into_iter().chain(["sentence_transformers", OLD_ACTIVATION]) {
        map.remove(stale);
    }
    let base = || a.classes.sequence.replace("ForSequenceClassification", "Model");
    let [head] = heads else {
        let one = |h: &NamedHead| {
            let (kind, labels) = match &h.outputs {
                Outputs::Classes(names) => ("classes", Some(names)),
                Outputs::Labels(names) => ("labels", Some(names)),
                Outputs::Tags(names) => ("tags", Some(names)),
                Outputs::Number => ("number", None),
                Outputs::Span => ("span", None),
                Outputs::Embedding => ("embedding", None),
                Outputs::Tokens => ("tokens", None),
                Outputs::Permuted => ("permuted", None),
                Outputs::Pretraining => ("pretraining", None),
            };
            json!({ "name": h.name, "kind": kind, "labels": labels })
        };
        map.insert("tempra_heads".into(), heads.iter().map(one).collect());
        map.insert("architectures".into(), json!([base()]));
        return;
    };
    let masked = || a.classes.masked.map(str::to_owned).unwrap_or_else(base);
    let class = match &head.outputs {
        Outputs::Classes(_) | Outputs::Labels(_) | Outputs::Number => a.classes.sequence.to_owned(),
        Outputs::Tags(_) => a.classes.token.to_owned(),
        Outputs::Span => a.classes.question.to_owned(),
        Outputs::Embedding => base(),
        Outputs::Tokens => masked(),
        Outputs::Permuted => a.permuted.map_or_else(base, |(class, _)| class.to_owned()),
        Outputs::Pretraining => a.pretraining.map_or_else(base, |(class, _)| class.to_owned()),
    };
    map.insert("architectures".into(), json!([class]));
    let one = vec!["LABEL_0".to_owned()];
    let (names, problem) = match &head.outputs {
        Outputs::Classes(names) => (names, Some("single_label_classification")),
        Outputs::Labels(names) => (names, Some("multi_label_classification")),
        Outputs::Number => (&one, Some("regression")),
        Outputs::Tags(names) => (names, None),
        _ => return,
    };
    let ids = || names.iter().enumerate();
    map.insert("id2label".into(), ids().map(|(i, n)| (i.to_string(), Value::from(n.as_str()))).collect());
    map.insert("label2id".into(), ids().map(|(i, n)| (n.clone(), Value::from(i))).collect());
    if let Some(problem) = problem {
        map.insert("problem_type".into(), problem.into());
    }
}
