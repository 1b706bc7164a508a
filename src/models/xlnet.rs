//! XLNet (Yang et al. 2019), fine-tuned as an encoder: positions are relative, the classification token is
//! the last one, and a token's type tells which tokens are of its own segment.

use super::architecture::{Architecture, Classes, Drop, NO_DROP, SequenceHead};
use super::config::Config;
use crate::error::Result;
use crate::nn::{Biases, EncoderConfig, Positions};
use crate::ops::Activation;
use serde_json::Value;

/// The longest sequence, in tokens, that sinusoids are computed for. The model itself has no limit.
const LONGEST: usize = 4096;

pub(super) const XLNET: Architecture = Architecture {
    model_type: "xlnet",
    prefix: "transformer.",
    names: &[
        ("embeddings.word_embeddings.", "word_embedding."),
        ("embeddings.mask_emb", "mask_emb"),
        ("encoder.layer.", "layer."),
        (".attention.self.query.weight", ".rel_attn.q"),
        (".attention.self.key.weight", ".rel_attn.k"),
        (".attention.self.value.weight", ".rel_attn.v"),
        (".attention.self.distance.weight", ".rel_attn.r"),
        (".attention.self.", ".rel_attn."),
        (".attention.output.dense.weight", ".rel_attn.o"),
        (".attention.output.LayerNorm.", ".rel_attn.layer_norm."),
        (".intermediate.dense.", ".ff.layer_1."),
        (".output.dense.", ".ff.layer_2."),
        (".output.LayerNorm.", ".ff.layer_norm."),
    ],
    classes: Classes {
        sequence: "XLNetForSequenceClassification",
        token: "XLNetForTokenClassification",
        question: "XLNetForQuestionAnsweringSimple",
        // It is pretrained by permutations, not by masks.
        masked: None,
    },
    head: SequenceHead {
        dense: "sequence_summary.summary",
        act: Activation::Tanh,
        pooler: false,
        drop_before: false,
        norm: None,
        pooling: None,
        classifier: "logits_proj",
        dropout: Drop { key: "summary_last_dropout", default: Some(0.1) },
    },
    masked: None,
    permuted: Some(("XLNetLMHeadModel", "lm_loss.bias")),
    dense_tokens: false,
    span_dropout: NO_DROP,
    pretraining: None,
    read,
};

/// The keys and defaults of transformers' `XLNetConfig`.
fn read(c: &Config) -> Result<EncoderConfig> {
    let is_not = |word: &'static str| move |v: &Value| v.as_str() != Some(word);
    let yes = |v: &Value| v.as_bool() == Some(true);
    let no = |v: &Value| v.as_bool() == Some(false);
    c.refuse("attn_type", is_not("bi"), "\"bi\": tempra trains bidirectional encoders")?;
    c.refuse("bi_data", yes, "false: fine-tuning reads each text in one direction")?;
    c.refuse("untie_r", no, "true: each layer has its own biases, as transformers requires too")?;
    c.refuse("summary_type", is_not("last"), "\"last\": the head reads the last token")?;
    c.refuse("summary_use_proj", no, "true: the head has a dense layer")?;
    c.refuse("summary_activation", is_not("tanh"), "\"tanh\"")?;
    if c.value.get("summary_activation").is_some_and(Value::is_null) {
        return Err(c
            .error("`summary_activation` = null is not supported")
            .with_expected("\"tanh\"")
            .with_help("choose another model: this setting changes what the model computes"));
    }
    let dropped = |v: &Value| v.as_f64() != Some(0.0);
    c.refuse("summary_first_dropout", dropped, "0: no dropout before the head's dense layer")?;
    c.refuse("summary_proj_to_labels", yes, "false: the head ends with a classifier layer")?;
    let dropout = c.optional_probability("dropout")?.unwrap_or(0.1);
    let clamp = c.value.get("clamp_len").and_then(Value::as_u64).filter(|&n| n > 0 && n < LONGEST as u64);
    let (hidden, layer) = c.sizes(["d_model", "n_head", "d_inner"])?;
    if !hidden.is_multiple_of(2) {
        return Err(c
            .error(format!("`d_model` ({hidden}) is odd"))
            .with_expected("an even number: positions are encoded as pairs of sines and cosines")
            .with_help("correct config.json, or download the model again"));
    }
    let dim = layer.head_dim as u64;
    let other = |v: &Value| v.as_u64() != Some(dim);
    c.refuse("d_head", other, &format!("{dim}, which is d_model / n_head"))?;
    Ok(EncoderConfig {
        vocab: c.count("vocab_size", 1 << 22)?,
        positions: LONGEST,
        types: 0,
        hidden,
        layers: vec![layer; c.count("n_layer", 1 << 9)?],
        act: c.activation("ff_activation")?,
        eps: c.optional_number("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        hidden_dropout: dropout,
        attention_dropout: dropout,
        encoding: Positions::Relative { clamp: clamp.map(|n| n as usize) },
        biases: Biases { attention: false, feed_forward: true, norm: true, head: true },
        by_head: true,
        embedding_norm: false,
        query_row: true,
        inner_dropout: true,
        last_dropout: true,
        cls_last: true,
        ..EncoderConfig::default()
    })
}
