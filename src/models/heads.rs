//! Heads: one for each kind of outputs, with the tensor names of `transformers`, and their description in
//! `config.json`.

use super::architecture::{ARCHITECTURES, Architecture};
use super::config::Config;
use super::decoder::Decoder;
use super::{Outputs, PairObjective};
use crate::checkpoint::read_json;
use crate::error::{Error, Result};
use crate::nn::{
    DropoutIds, Encoder, EncoderConfig, Head, Inputs, MaskedConfig, MaskedHead, Pooling, TokenHead, Transform,
};
use crate::ops::pool::Pool;
use crate::params::{Bound, Layout};
use crate::tape::{Tape, Var};
use serde_json::{Map, Value, json};
use std::path::Path;

/// A head of a model.
pub struct NamedHead {
    /// Its name in a model with several heads; empty in a model with one.
    pub name: String,
    /// The kind of its outputs.
    pub outputs: Outputs,
    /// Its last layer, which has one row per class: the tensors are `{last_layer}.weight` and
    /// `{last_layer}.bias`.
    pub(super) last_layer: Option<String>,
    /// Scale and shift of standardized outputs: see [`Model::standardize`](super::Model::standardize).
    pub(super) units: Option<Units>,
    kind: HeadKind,
}

/// A standardized output y means `shift + scale * y` in original units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Units {
    pub shift: f64,
    pub scale: f64,
}

impl Units {
    /// Converts weights or biases of a last layer from standardized to original units.
    pub fn folded(self, values: Vec<f32>, bias: bool) -> Vec<f32> {
        let shift = if bias { self.shift } else { 0.0 };
        values.into_iter().map(|v| (f64::from(v) * self.scale + shift) as f32).collect()
    }
    /// Converts weights or biases of a last layer from original to standardized units.
    pub fn unfolded(self, values: Vec<f32>, bias: bool) -> Vec<f32> {
        let shift = if bias { self.shift } else { 0.0 };
        values.into_iter().map(|v| ((f64::from(v) - shift) / self.scale) as f32).collect()
    }
}

enum HeadKind {
    Sequence(Head),
    Tokens(TokenHead),
    Vectors(Pooling),
    /// Masked or permutation language modelling.
    Masked(MaskedHead),
    Pretraining(MaskedHead, Head),
}

/// What a head's declaration needs to know of the model.
pub(super) struct Setting<'a> {
    pub architecture: &'static Architecture,
    pub shape: &'a EncoderConfig,
    pub pooling: Pooling,
    pub dropout: f32,
    /// The dropout of a question-answering head.
    pub span_dropout: f32,
    /// The output projection of a masked-LM head.
    pub decoder: &'a Decoder,
}

impl Setting<'_> {
    /// Declares a head's parameters. A head with a name gets it as a prefix of its tensor names.
    pub fn declare(
        &self,
        layout: &mut Layout,
        dropout_ids: &mut DropoutIds,
        encoder: &Encoder,
        name: &str,
        outputs: &Outputs,
    ) -> Result<NamedHead> {
        let first = layout.list.len();
        let (a, c) = (self.architecture, self.shape);
        let sequence = |outputs| a.head(c, self.pooling, outputs, self.dropout);
        let dense = a.head(c, self.pooling, 1, 0.0).dense.filter(|_| a.dense_tokens);
        let tokens = |layout: &mut Layout, dropout_ids: &mut DropoutIds, name, outputs, dropout| {
            TokenHead::declare(layout, dropout_ids, (name, dense.as_ref()), [outputs, c.hidden], dropout)
        };
        let kind = match outputs {
            Outputs::Classes(names) | Outputs::Labels(names) => {
                HeadKind::Sequence(Head::declare(layout, dropout_ids, &sequence(names.len())))
            }
            Outputs::Number => HeadKind::Sequence(Head::declare(layout, dropout_ids, &sequence(1))),
            Outputs::Tags(names) => {
                HeadKind::Tokens(tokens(layout, dropout_ids, "classifier", names.len(), self.dropout))
            }
            Outputs::Span => {
                HeadKind::Tokens(tokens(layout, dropout_ids, a.span_head(), 2, self.span_dropout))
            }
            Outputs::Embedding => HeadKind::Vectors(a.head(c, self.pooling, 1, 0.0).pooling),
            Outputs::Tokens => HeadKind::Masked(self.masked(layout, encoder)?),
            Outputs::Permuted => HeadKind::Masked(self.permuted(layout, encoder)?),
            Outputs::Pretraining(objective) => {
                let Some(pretraining) = a.pretrains(*objective) else {
                    return Err(self.lacks(match objective {
                        PairObjective::Next => "has no next-sentence head",
                        PairObjective::Order => "has no sentence-order head",
                    }));
                };
                let masked = self.masked(layout, encoder)?;
                // As in transformers: AlbertForPreTraining has dropout before this head, BertForPreTraining
                // has none.
                let dropout = if pretraining.dropout { self.dropout } else { 0.0 };
                let mut pair = a.head(c, Pooling::Cls, 2, dropout);
                pair.classifier = pretraining.classifier.to_owned();
                HeadKind::Pretraining(masked, Head::declare(layout, dropout_ids, &pair))
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
            Outputs::Embedding | Outputs::Tokens | Outputs::Permuted | Outputs::Pretraining(_) => None,
        };
        Ok(NamedHead { name: name.to_owned(), outputs: outputs.clone(), last_layer, units: None, kind })
    }

    fn masked(&self, layout: &mut Layout, encoder: &Encoder) -> Result<MaskedHead> {
        let (a, c) = (self.architecture, self.shape);
        let Some(m) = &a.masked else {
            let e = self.lacks("has no masked language modelling head");
            return Err(match a.permuted {
                Some(_) => e.with_help("set task = \"permute\", which this model was pretrained with"),
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
            return Err(
                self.lacks("does not support permutation language modelling, which needs relative positions")
            );
        }
        let Decoder { weight, bias, .. } = self.decoder.clone();
        let (vocab, embedding) = (c.vocab, c.embedding.unwrap_or(c.hidden));
        let config = MaskedConfig { transform: None, weight, bias, vocab, embedding };
        // The query stream's initial vector is trained too.
        layout.train(encoder.words());
        Ok(MaskedHead::declare(layout, &config, encoder.words()))
    }

    fn lacks(&self, what: &str) -> Error {
        Error::usage(format!("a model of model_type `{}` {what}", self.architecture.model_type))
            .with_help("choose another task or another model")
    }
}

/// The prefix of tensors of named heads: `heads.NAME.`.
const PREFIX: &str = "heads.";

/// The name of the head that a tensor belongs to, if the head has a name.
pub(super) fn owner(name: &str) -> Option<&str> {
    Some(name.strip_prefix(PREFIX)?.split_once('.')?.0)
}

/// The name of a tensor without the prefix of a named head.
pub(super) fn plain(name: &str) -> &str {
    name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')).map_or(name, |(_, rest)| rest)
}

impl NamedHead {
    /// Whether it predicts tokens of the vocabulary.
    pub(super) fn predicts_tokens(&self) -> bool {
        matches!(self.kind, HeadKind::Masked(_) | HeadKind::Pretraining(..))
    }
    /// The pooling of a head that outputs vectors; `None` for other heads.
    pub(super) fn vectors(&self) -> Option<Pooling> {
        match self.kind {
            HeadKind::Vectors(pooling) => Some(pooling),
            _ => None,
        }
    }
    /// Runs the head; see [`Outputs`] for its outputs.
    pub(super) fn run(&self, tape: &mut Tape, p: &Bound, batch: &Inputs, hidden: Var) -> Result<Vec<Var>> {
        Ok(vec![match &self.kind {
            HeadKind::Sequence(head) => head.run(tape, p, batch, hidden)?,
            HeadKind::Tokens(head) => head.run(tape, p, batch, hidden)?,
            HeadKind::Masked(head) => head.run(tape, p, batch, hidden)?,
            HeadKind::Vectors(pooling) => {
                let pool = match pooling {
                    Pooling::Mean => Pool::Mean,
                    Pooling::Last => Pool::Last,
                    Pooling::Cls => Pool::First,
                };
                tape.apply(pool, [hidden, batch.sequences.clone()])?
            }
            HeadKind::Pretraining(masked, next) => {
                let tokens = masked.run(tape, p, batch, hidden.clone())?;
                return Ok(vec![tokens, next.run(tape, p, batch, hidden)?]);
            }
        }])
    }
}

/// The heads that a model's config describes.
pub(super) fn of_config(c: &Config) -> Result<Vec<(String, Outputs)>> {
    let Some(list) = c.value.get("tempra_heads").and_then(Value::as_array) else {
        return Ok(vec![(String::new(), of_class(c)?)]);
    };
    let wrong = || {
        c.error("`tempra_heads` is not valid")
            .with_expected("a list of heads with name, kind and labels, as `tempra train` writes it")
            .with_help("train the model again, or restore config.json from a backup")
    };
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
            "pretraining" => Outputs::Pretraining(PairObjective::Next),
            "sentence_order" => Outputs::Pretraining(PairObjective::Order),
            _ => return None,
        };
        Some((text("name")?.to_owned(), outputs))
    };
    let heads: Option<Vec<_>> = list.iter().map(one).collect();
    heads.filter(|h| !h.is_empty()).ok_or_else(wrong)
}

/// Suffixes of `transformers` classes whose head tempra does not support.
const OTHER_HEADS: &[&str] = &[
    "ForMultipleChoice",
    "ForNextSentencePrediction",
    "ForCausalLM",
    "LMHeadModel",
    "ForConditionalGeneration",
];

/// The outputs of a model, from the `transformers` class that opens it.
fn of_class(c: &Config) -> Result<Outputs> {
    let class = c.value.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str).unwrap_or("");
    let ends = |end: &str| class.ends_with(end);
    Ok(match () {
        _ if ends("ForTokenClassification") => Outputs::Tags(c.names()?),
        _ if ends("ForQuestionAnswering") || ends("ForQuestionAnsweringSimple") => Outputs::Span,
        _ if ends("ForMaskedLM") => Outputs::Tokens,
        _ if class == "XLNetLMHeadModel" => Outputs::Permuted,
        _ if ends("ForPreTraining") => {
            let of = |a: &Architecture| a.pretraining.filter(|p| p.class == class);
            let known = ARCHITECTURES.iter().find_map(of);
            Outputs::Pretraining(known.map_or(PairObjective::Next, |p| p.objective))
        }
        _ if ends("Model") && c.value.get("tempra_pooling").is_some() => Outputs::Embedding,
        _ if OTHER_HEADS.iter().any(|end| ends(end)) => {
            return Err(c
                .error(format!("`architectures` names {class}, whose head tempra does not support"))
                .with_expected(
                    "a class for sequence or token classification, question answering or masked language modelling",
                )
                .with_help("fine-tune the encoder with `tempra train`, which gives it a new head"));
        }
        _ => c.outputs()?,
    })
}

/// The activation that `sentence-transformers` applies to the output of a cross-encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastActivation {
    /// No activation, as the files say.
    Identity,
    Sigmoid,
    /// The files do not say, and neither does `problem_type`.
    Unsaid,
}

/// The file where sentence-transformers 6 keeps the activation, and the largest size that is read, in bytes.
const SENTENCE_CONFIG: (&str, u64) = ("config_sentence_transformers.json", 1 << 20);

/// The activation after a model's single output, from the files that `CrossEncoder` reads.
///
/// A cross-encoder whose files do not name one applies a sigmoid. A transformers model with `problem_type`
/// "regression" applies none.
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
                .error("the model's output activation is not supported")
                .with_expected("Identity or Sigmoid as `activation_fn` of sentence-transformers")
                .with_found(name.to_owned())
                .with_help("choose another cross-encoder, or fine-tune this one with `tempra train`")),
        },
        None if c.value.get("problem_type").is_some_and(|p| p == "regression") => {
            Ok(LastActivation::Identity)
        }
        None if cross => Ok(LastActivation::Sigmoid),
        None => Ok(LastActivation::Unsaid),
    }
}

/// The key where sentence-transformers before version 4 kept the activation.
const OLD_ACTIVATION: &str = "sbert_ce_default_activation_function";

/// Writes the description of the heads that `transformers` and tempra read into a config.
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
                Outputs::Pretraining(PairObjective::Next) => ("pretraining", None),
                Outputs::Pretraining(PairObjective::Order) => ("sentence_order", None),
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
        Outputs::Pretraining(_) => a.pretraining.map_or_else(base, |p| p.class.to_owned()),
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
