//! ALBERT (Lan et al. 2020): factorised embeddings, and layers that share their weights.

use super::PairObjective;
use super::architecture::{Architecture, Classes, Drop, Masked, NO_DROP, Pretraining, SequenceHead};
use super::config::Config;
use crate::error::Result;
use crate::nn::EncoderConfig;
use crate::ops::Activation;

pub(super) const ALBERT: Architecture = Architecture {
    model_type: "albert",
    prefix: "albert.",
    names: &[
        ("embeddings_project.", "encoder.embedding_hidden_mapping_in."),
        ("encoder.layer.", "encoder.albert_layer_groups."),
        (".attention.self.", ".albert_layers.0.attention."),
        (".attention.output.", ".albert_layers.0.attention."),
        (".intermediate.dense.", ".albert_layers.0.ffn."),
        (".output.dense.", ".albert_layers.0.ffn_output."),
        (".output.LayerNorm.", ".albert_layers.0.full_layer_layer_norm."),
    ],
    classes: Classes {
        sequence: "AlbertForSequenceClassification",
        token: "AlbertForTokenClassification",
        question: "AlbertForQuestionAnswering",
        masked: Some("AlbertForMaskedLM"),
    },
    head: SequenceHead {
        dense: "albert.pooler",
        act: Activation::Tanh,
        pooler: true,
        drop_before: false,
        norm: None,
        pooling: None,
        classifier: "classifier",
        dropout: Drop { key: "classifier_dropout_prob", default: Some(0.1) },
    },
    masked: Some(Masked {
        dense: "predictions.dense",
        norm: "predictions.LayerNorm",
        bias: "predictions.bias",
        decoder: "predictions.decoder",
        act: None,
    }),
    permuted: None,
    dense_tokens: false,
    span_dropout: NO_DROP,
    pretraining: Some(Pretraining {
        class: "AlbertForPreTraining",
        classifier: "sop_classifier.classifier",
        objective: PairObjective::Order,
        dropout: true,
    }),
    read,
};

/// The keys and defaults of transformers' `AlbertConfig`.
fn read(c: &Config) -> Result<EncoderConfig> {
    let shape = c.bert_like()?;
    let several = |v: &serde_json::Value| v.as_u64() != Some(1);
    c.refuse("inner_group_num", several, "1, as in all published ALBERT models")?;
    let groups = c.optional_index("num_hidden_groups", 1 << 9)?.unwrap_or(1);
    if groups == 0 || groups > shape.depth() {
        return Err(c
            .error(format!("`num_hidden_groups` ({groups}) is out of range"))
            .with_expected(format!("1 to num_hidden_layers ({})", shape.depth()))
            .with_help("correct config.json, or download the model again"));
    }
    Ok(EncoderConfig {
        embedding: Some(c.count("embedding_size", 1 << 14)?),
        repeated: Some(shape.depth()),
        layers: shape.layers[..groups].to_vec(),
        hidden_dropout: c.optional_probability("hidden_dropout_prob")?.unwrap_or(0.0),
        attention_dropout: c.optional_probability("attention_probs_dropout_prob")?.unwrap_or(0.0),
        // The feed-forward block's output is not dropped (`AlbertLayer` in transformers).
        dropped: [true, false],
        ..shape
    })
}
