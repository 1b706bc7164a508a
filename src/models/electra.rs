//! ELECTRA's discriminator (Clark et al. 2020): BERT whose embeddings may be narrower than the encoder,
//! without a pooler.

use super::architecture::{Architecture, BERT_NAMES, Classes, Drop, NO_DROP, SequenceHead};
use super::config::Config;
use crate::error::Result;
use crate::nn::EncoderConfig;
use crate::ops::Activation;

pub(super) const ELECTRA: Architecture = Architecture {
    model_type: "electra",
    prefix: "electra.",
    names: BERT_NAMES,
    classes: Classes {
        sequence: "ElectraForSequenceClassification",
        token: "ElectraForTokenClassification",
        question: "ElectraForQuestionAnswering",
        // The generator's; a discriminator was not trained to predict tokens.
        masked: None,
    },
    head: SequenceHead {
        dense: "classifier.dense",
        act: Activation::GeluErf,
        pooler: false,
        drop_before: true,
        norm: None,
        pooling: None,
        classifier: "classifier.out_proj",
        dropout: Drop { key: "classifier_dropout", default: None },
    },
    masked: None,
    permuted: None,
    dense_tokens: false,
    span_dropout: NO_DROP,
    pretraining: None,
    read,
};

/// The keys and defaults of transformers' `ElectraConfig`.
fn read(c: &Config) -> Result<EncoderConfig> {
    let shape = c.bert_like()?;
    let embedding = Some(c.count("embedding_size", 1 << 14)?).filter(|&width| width != shape.hidden);
    Ok(EncoderConfig { embedding, ..shape })
}
