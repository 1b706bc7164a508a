//! DistilBERT (Sanh et al. 2019): BERT without token types and without a pooler, under names of its own.

use super::architecture::{Architecture, Classes, Drop, Masked, SequenceHead};
use super::config::Config;
use crate::error::Result;
use crate::nn::EncoderConfig;
use crate::ops::Activation;

pub(super) const DISTILBERT: Architecture = Architecture {
    model_type: "distilbert",
    prefix: "distilbert.",
    names: &[
        ("encoder.layer.", "transformer.layer."),
        (".attention.self.query.", ".attention.q_lin."),
        (".attention.self.key.", ".attention.k_lin."),
        (".attention.self.value.", ".attention.v_lin."),
        (".attention.output.dense.", ".attention.out_lin."),
        (".attention.output.LayerNorm.", ".sa_layer_norm."),
        (".intermediate.dense.", ".ffn.lin1."),
        (".output.dense.", ".ffn.lin2."),
        (".output.LayerNorm.", ".output_layer_norm."),
    ],
    classes: Classes {
        sequence: "DistilBertForSequenceClassification",
        token: "DistilBertForTokenClassification",
        question: "DistilBertForQuestionAnswering",
        masked: Some("DistilBertForMaskedLM"),
    },
    head: SequenceHead {
        dense: "pre_classifier",
        act: Activation::Relu,
        pooler: false,
        drop_before: false,
        norm: None,
        pooling: None,
        classifier: "classifier",
        dropout: Drop { key: "seq_classif_dropout", default: Some(0.2) },
    },
    masked: Some(Masked {
        dense: "vocab_transform",
        norm: "vocab_layer_norm",
        bias: "vocab_projector.bias",
        decoder: "vocab_projector",
        act: None,
    }),
    permuted: None,
    dense_tokens: false,
    span_dropout: Drop { key: "qa_dropout", default: Some(0.1) },
    pretraining: None,
    read,
};

/// The keys and defaults of transformers' `DistilBertConfig`. Positions are read from the weights, sinusoidal
/// or not.
fn read(c: &Config) -> Result<EncoderConfig> {
    let (hidden, layer) = c.sizes(["dim", "n_heads", "hidden_dim"])?;
    Ok(EncoderConfig {
        vocab: c.count("vocab_size", 1 << 22)?,
        positions: c.count("max_position_embeddings", 1 << 20)?,
        types: 0,
        hidden,
        layers: vec![layer; c.count("n_layers", 1 << 9)?],
        act: c.activation("activation")?,
        eps: 1e-12,
        hidden_dropout: c.optional_probability("dropout")?.unwrap_or(0.1),
        // Attention's output is not dropped (`TransformerBlock` in transformers).
        dropped: [false, true],
        attention_dropout: c.optional_probability("attention_dropout")?.unwrap_or(0.1),
        ..EncoderConfig::default()
    })
}
