//! RoBERTa (Liu et al. 2019) and XLM-RoBERTa (Conneau et al. 2020): BERT without a pooler. Positions start at
//! `pad_token_id` + 1 (`create_position_ids_from_input_ids` in transformers).

use super::architecture::{Architecture, BERT_NAMES, Classes, Drop, Masked, NO_DROP, SequenceHead};
use super::config::Config;
use crate::error::Result;
use crate::nn::EncoderConfig;
use crate::ops::Activation;

const HEAD: SequenceHead = SequenceHead {
    dense: "classifier.dense",
    act: Activation::Tanh,
    pooler: false,
    drop_before: true,
    norm: None,
    pooling: None,
    classifier: "classifier.out_proj",
    dropout: Drop { key: "classifier_dropout", default: None },
};

const MASKED: Masked = Masked {
    dense: "lm_head.dense",
    norm: "lm_head.layer_norm",
    bias: "lm_head.bias",
    decoder: "lm_head.decoder",
    act: Some(Activation::GeluErf),
};

pub(super) const ROBERTA: Architecture = Architecture {
    model_type: "roberta",
    prefix: "roberta.",
    names: BERT_NAMES,
    classes: Classes {
        sequence: "RobertaForSequenceClassification",
        token: "RobertaForTokenClassification",
        question: "RobertaForQuestionAnswering",
        masked: Some("RobertaForMaskedLM"),
    },
    head: HEAD,
    masked: Some(MASKED),
    permuted: None,
    dense_tokens: false,
    span_dropout: NO_DROP,
    pretraining: None,
    read,
};

pub(super) const XLM_ROBERTA: Architecture = Architecture {
    model_type: "xlm-roberta",
    classes: Classes {
        sequence: "XLMRobertaForSequenceClassification",
        token: "XLMRobertaForTokenClassification",
        question: "XLMRobertaForQuestionAnswering",
        masked: Some("XLMRobertaForMaskedLM"),
    },
    ..ROBERTA
};

/// The keys and defaults of transformers' `RobertaConfig`.
fn read(c: &Config) -> Result<EncoderConfig> {
    let shape = c.bert_like()?;
    let rows = shape.positions;
    let first = c.optional_index("pad_token_id", 1 << 22)?.unwrap_or(1) + 1;
    if first >= rows {
        return Err(c
            .error(format!("`pad_token_id` ({}) leaves no positions", first - 1))
            .with_expected(format!(
                "pad_token_id + 1, the first position, below max_position_embeddings ({rows})"
            ))
            .with_help("correct config.json, or download the model again"));
    }
    Ok(EncoderConfig { positions: rows - first, first_position: first, ..shape })
}
