//! ModernBERT (Warner et al. 2024): rotary positions, layers that see a window, gated feed-forward blocks,
//! pre-norm, no biases.

use super::architecture::{Architecture, Classes, Drop, Masked, SequenceHead};
use super::config::Config;
use crate::error::Result;
use crate::nn::{Biases, EncoderConfig, Order, Positions};
use crate::ops::Activation;
use serde_json::Value;

pub(super) const MODERNBERT: Architecture = Architecture {
    model_type: "modernbert",
    prefix: "model.",
    names: &[
        ("embeddings.word_embeddings.", "embeddings.tok_embeddings."),
        ("embeddings.LayerNorm.", "embeddings.norm."),
        ("encoder.LayerNorm.", "final_norm."),
        ("encoder.layer.", "layers."),
        (".attention.self.qkv.", ".attn.Wqkv."),
        (".attention.output.dense.", ".attn.Wo."),
        (".attention.LayerNorm.", ".attn_norm."),
        (".intermediate.dense.", ".mlp.Wi."),
        (".output.dense.", ".mlp.Wo."),
        (".output.LayerNorm.", ".mlp_norm."),
    ],
    classes: Classes {
        sequence: "ModernBertForSequenceClassification",
        token: "ModernBertForTokenClassification",
        question: "ModernBertForQuestionAnswering",
        masked: Some("ModernBertForMaskedLM"),
    },
    head: SequenceHead {
        dense: "head.dense",
        act: Activation::GeluErf,
        pooler: false,
        drop_before: false,
        norm: Some("head.norm"),
        pooling: Some("classifier_pooling"),
        classifier: "classifier",
        dropout: Drop { key: "classifier_dropout", default: Some(0.0) },
    },
    masked: Some(Masked {
        dense: "head.dense",
        norm: "head.norm",
        bias: "decoder.bias",
        decoder: "decoder",
        act: Some(Activation::GeluErf),
    }),
    permuted: None,
    dense_tokens: true,
    span_dropout: Drop { key: "classifier_dropout", default: None },
    pretraining: None,
    read,
};

/// The keys and defaults of transformers' `ModernBertConfig`, and those of the files published before it had
/// `layer_types`.
fn read(c: &Config) -> Result<EncoderConfig> {
    let layers = c.count("num_hidden_layers", 1 << 9)?;
    let flag = |key: &str| Ok(c.optional_flag(key)?.unwrap_or(false));
    let rate = |key: &str| Ok(c.optional_probability(key)?.unwrap_or(0.0));
    let hidden_dropout: f32 = rate("mlp_dropout")?;
    if hidden_dropout != rate("embedding_dropout")? {
        return Err(c
            .error("`embedding_dropout` and `mlp_dropout` differ")
            .with_expected("the same rate for both: tempra has one dropout rate for hidden states")
            .with_help("set both to the same rate in config.json"));
    }
    let pooling = |v: &Value| !matches!(v.as_str(), Some("cls" | "mean"));
    c.refuse("classifier_pooling", pooling, "\"cls\" or \"mean\"")?;
    let head_act = c.value.get("classifier_activation").map(|_| c.activation("classifier_activation"));
    let (hidden, layer) = c.sizes(["hidden_size", "num_attention_heads", "intermediate_size"])?;
    if !layer.head_dim.is_multiple_of(2) {
        return Err(c
            .error(format!(
                "the head dimension is odd: hidden_size ({hidden}) / num_attention_heads ({})",
                layer.heads
            ))
            .with_expected("an even head dimension: rotary positions rotate pairs of elements")
            .with_help("correct config.json, or download the model again"));
    }
    Ok(EncoderConfig {
        vocab: c.count("vocab_size", 1 << 22)?,
        positions: c.count("max_position_embeddings", 1 << 20)?,
        types: 0,
        hidden,
        layers: vec![layer; layers],
        act: c.activation("hidden_activation")?,
        eps: c.optional_number("norm_eps")?.unwrap_or(1e-5) as f32,
        hidden_dropout,
        attention_dropout: rate("attention_dropout")?,
        order: Order::Pre,
        encoding: Positions::Rotary {
            global: theta(c, "full_attention", "global_rope_theta", 160_000.0)?,
            local: theta(c, "sliding_attention", "local_rope_theta", 10_000.0)?,
        },
        biases: Biases {
            attention: flag("attention_bias")?,
            feed_forward: flag("mlp_bias")?,
            norm: flag("norm_bias")?,
            head: flag("classifier_bias")?,
        },
        head_act: head_act.transpose()?,
        fused: true,
        gated_mlp: true,
        windows: Some((
            c.optional_index("local_attention", 1 << 20)?.unwrap_or(128) / 2,
            local_layers(c, layers)?,
        )),
        ..EncoderConfig::default()
    })
}

/// The base of the rotary angles for one layer type.
fn theta(c: &Config, kind: &str, old: &str, default: f64) -> Result<f32> {
    let of = c.value.get("rope_parameters").and_then(|p| p.get(kind));
    if let Some(other) = of.and_then(|p| p.get("rope_type")).filter(|t| t.as_str() != Some("default")) {
        return Err(c
            .error(format!("`rope_parameters.{kind}.rope_type` = {other} is not supported"))
            .with_expected("\"default\"")
            .with_help("choose another model: this setting changes what the model computes"));
    }
    let theta = match of.and_then(|p| p.get("rope_theta")) {
        Some(v) => v.as_f64().unwrap_or(f64::NAN),
        None => c.optional_number(old)?.unwrap_or(default),
    };
    if theta > 1.0 && theta.is_finite() {
        Ok(theta as f32)
    } else {
        Err(c
            .error(format!("the rotary base of `{kind}` is out of range"))
            .with_expected(format!("a number above 1 as rope_parameters.{kind}.rope_theta or {old}"))
            .with_found(theta.to_string())
            .with_help("correct config.json, or download the model again"))
    }
}

/// Which layers use sliding-window attention: from `layer_types`, else all but every n-th layer.
fn local_layers(c: &Config, layers: usize) -> Result<Vec<bool>> {
    let Some(types) = c.value.get("layer_types").filter(|v| !v.is_null()) else {
        let every = c.optional_index("global_attn_every_n_layers", 1 << 9)?.unwrap_or(3).max(1);
        return Ok((0..layers).map(|i| i % every != 0).collect());
    };
    let one = |v: &Value| match v.as_str() {
        Some("full_attention") => Some(false),
        Some("sliding_attention") => Some(true),
        _ => None,
    };
    let list = types.as_array().and_then(|list| list.iter().map(one).collect::<Option<Vec<bool>>>());
    list.filter(|list| list.len() == layers).ok_or_else(|| {
        c.error("`layer_types` does not give a type for each layer")
            .with_expected(format!(
                "a list of {layers} entries, each \"full_attention\" or \"sliding_attention\""
            ))
            .with_found(types.to_string().chars().take(80).collect::<String>())
            .with_help("correct config.json, or download the model again")
    })
}
