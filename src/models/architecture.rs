//! The description of an architecture: how to read its config, the names of its tensors, and its classes in
//! `transformers`.

use super::config::Config;
use super::{Outputs, PairObjective};
use super::{albert, bert, distilbert, electra, modernbert, roberta, xlnet};
use crate::error::Result;
use crate::nn::{Dense, EncoderConfig, HeadConfig, Pooling};
use crate::ops::Activation;

/// An architecture, as named by `model_type`.
pub struct Architecture {
    /// The `model_type` of `config.json`.
    pub model_type: &'static str,
    /// The prefix of the encoder's tensors in models with a head.
    pub prefix: &'static str,
    /// Replacements that turn BERT's tensor names into this architecture's, applied in this order.
    pub(super) names: &'static [(&'static str, &'static str)],
    /// Its classes in `transformers`.
    pub classes: Classes,
    /// The head of a sequence classifier.
    pub(super) head: SequenceHead,
    /// The tensors of a masked-LM head.
    pub masked: Option<Masked>,
    /// For permutation language modelling: the class, and the name of the output bias. The output weight is
    /// the token embedding.
    pub permuted: Option<(&'static str, &'static str)>,
    /// Whether token classification heads have the dense layer of the sequence head too.
    pub(super) dense_tokens: bool,
    /// The dropout before a question-answering head; most architectures have none.
    pub(super) span_dropout: Drop,
    /// Its pretraining on pairs of texts, beside masked language modelling.
    pub pretraining: Option<Pretraining>,
    /// Reads the encoder's settings.
    pub(super) read: fn(&Config) -> Result<EncoderConfig>,
}

/// All supported architectures. Loading, help and docs are derived from this list.
pub const ARCHITECTURES: &[Architecture] = &[
    bert::BERT,
    roberta::ROBERTA,
    roberta::XLM_ROBERTA,
    distilbert::DISTILBERT,
    electra::ELECTRA,
    albert::ALBERT,
    modernbert::MODERNBERT,
    xlnet::XLNET,
];

/// The head of a model that was pretrained on pairs of texts.
#[derive(Clone, Copy, Debug)]
pub struct Pretraining {
    /// The class in `transformers` that has this head and the masked-LM head.
    pub class: &'static str,
    /// The last map's tensors are `{classifier}.weight` and `{classifier}.bias`.
    pub classifier: &'static str,
    /// What the pairs are classified by.
    pub objective: PairObjective,
    /// Whether there is dropout before the last map, with the rate of a sequence classifier.
    pub dropout: bool,
}

/// The names of `transformers` classes, for `architectures` in `config.json`.
pub struct Classes {
    /// Sequence classification and regression.
    pub sequence: &'static str,
    /// Token classification: `classifier.weight`, `classifier.bias`.
    pub token: &'static str,
    /// Question answering: `qa_outputs.weight`, `qa_outputs.bias`.
    pub question: &'static str,
    /// Masked language modelling, if the architecture has it.
    pub masked: Option<&'static str>,
}

/// The tensors of a masked-LM head: dense, activation, layer norm, then the token table (not stored again)
/// and a bias.
pub struct Masked {
    /// `{dense}.weight` (embedding, hidden) and `{dense}.bias`.
    pub dense: &'static str,
    /// `{norm}.weight` and `{norm}.bias`.
    pub norm: &'static str,
    /// The bias of the vocabulary, its whole name.
    pub bias: &'static str,
    /// The last map's tensors, where it does not share the token table, are `{decoder}.weight` and
    /// `{decoder}.bias`.
    pub decoder: &'static str,
    /// The activation; `None`: the encoder's.
    pub act: Option<Activation>,
}

/// The head of a sequence classifier.
pub(super) struct SequenceHead {
    /// The dense layer's tensors are `{dense}.weight` and `{dense}.bias`.
    pub dense: &'static str,
    /// Its activation.
    pub act: Activation,
    /// Whether it belongs to the encoder, which was pretrained with it for the first token: a mean over
    /// tokens does without.
    pub pooler: bool,
    /// Whether there is dropout before the dense layer too.
    pub drop_before: bool,
    /// The tensors of a layer norm behind the dense layer, if there is one.
    pub norm: Option<&'static str>,
    /// The config's key for the pooling, `cls` or `mean`, where there is one.
    pub pooling: Option<&'static str>,
    /// The last map's tensors are `{classifier}.weight` and `{classifier}.bias`.
    pub classifier: &'static str,
    /// The dropout of the head.
    pub dropout: Drop,
}

/// Where a rate is set; without a default it is the encoder's.
pub(super) struct Drop {
    pub key: &'static str,
    pub default: Option<f32>,
}

/// No dropout before a head that finds answers, whatever the config says: as in most classes of transformers.
pub(super) const NO_DROP: Drop = Drop { key: "", default: None };

/// For architectures that are called as BERT is.
pub(super) const BERT_NAMES: &[(&str, &str)] = &[];

impl Architecture {
    /// Its pretraining with this objective, if it has it.
    pub fn pretrains(&self, objective: PairObjective) -> Option<&Pretraining> {
        self.pretraining.as_ref().filter(|p| p.objective == objective)
    }
    /// Whether it has a head with such outputs.
    pub fn supports(&self, outputs: &Outputs) -> bool {
        match outputs {
            Outputs::Tokens => self.masked.is_some(),
            Outputs::Permuted => self.permuted.is_some(),
            Outputs::Pretraining(objective) => self.pretrains(*objective).is_some(),
            _ => true,
        }
    }
    /// What the last map to the vocabulary is called, and the bias that it has where it shares the token
    /// table.
    pub(super) fn decoder(&self) -> Option<(&'static str, &'static str)> {
        let permuted = || self.permuted.and_then(|(_, bias)| Some((bias.strip_suffix(".bias")?, bias)));
        self.masked.as_ref().map(|m| (m.decoder, m.bias)).or_else(permuted)
    }
    /// Whether the config says if that map has a bias.
    pub(super) fn bias_is_optional(&self) -> bool {
        self.model_type == "modernbert"
    }
    /// The tokenizer class that `tokenizer_config.json` must name for transformers to return token types, if
    /// it would not do so otherwise.
    pub(super) fn tokenizer_class(&self) -> Option<&'static str> {
        (self.model_type == "xlnet").then_some("XLNetTokenizer")
    }
    /// The name in the files of a model with a head, from BERT's without a prefix.
    pub fn tensor(&self, bert: &str) -> String {
        let renamed =
            self.names.iter().fold(bert.to_owned(), |name, (theirs, ours)| name.replace(theirs, ours));
        format!("{}{renamed}", self.prefix)
    }
    pub(super) fn head(
        &self,
        c: &EncoderConfig,
        pooling: Pooling,
        outputs: usize,
        dropout: f32,
    ) -> HeadConfig {
        let h = &self.head;
        let dense = || Dense {
            name: h.dense.to_owned(),
            act: c.head_act.unwrap_or(h.act),
            drop_before: h.drop_before,
            bias: c.biases.head,
            norm: h.norm.map(|name| (name.to_owned(), c.eps, c.biases.norm)),
        };
        let last = c.cls_last && pooling == Pooling::Cls;
        HeadConfig {
            pooling: if last { Pooling::Last } else { pooling },
            dense: (!h.pooler || pooling == Pooling::Cls).then(dense),
            classifier: h.classifier.to_owned(),
            hidden: c.hidden,
            outputs,
            dropout,
        }
    }
    pub(super) fn head_dropout(&self, c: &Config, shape: &EncoderConfig) -> Result<f32> {
        let Drop { key, default } = self.head.dropout;
        Ok(c.optional_probability(key)?.or(default).unwrap_or(shape.hidden_dropout))
    }
    /// What the last map of a head that finds answers is called: where heads share their dense layer, as that
    /// of the others.
    pub(super) fn span_head(&self) -> &'static str {
        if self.dense_tokens { "classifier" } else { "qa_outputs" }
    }
    pub(super) fn span_dropout(&self, c: &Config) -> Result<f32> {
        let Drop { key, default } = self.span_dropout;
        let default = default.unwrap_or(0.0);
        if key.is_empty() { Ok(default) } else { Ok(c.optional_probability(key)?.unwrap_or(default)) }
    }
}
