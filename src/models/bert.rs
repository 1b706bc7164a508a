//! BERT (Devlin et al. 2019) and what shares its architecture: MiniLM, and all else of `model_type` `bert`.

use super::Architecture;
use super::config::Config;
use crate::error::Result;
use crate::nn::EncoderConfig;

pub(super) const BERT: Architecture =
    Architecture { model_type: "bert", prefix: "bert.", classifier: "BertForSequenceClassification", read };

/// The keys and defaults of transformers' `BertConfig`.
fn read(c: &Config) -> Result<EncoderConfig> {
    c.refuse("is_decoder", |v| v.as_bool() == Some(true), "a decoder; tempra trains encoders")?;
    let relative = |v: &serde_json::Value| v.as_str().is_some_and(|s| s != "absolute");
    c.refuse("position_embedding_type", relative, "not absolute; these positions are not supported")?;
    let config = EncoderConfig {
        vocab: c.count("vocab_size", 1 << 22)?,
        positions: c.count("max_position_embeddings", 1 << 20)?,
        types: c.count("type_vocab_size", 1 << 10)?,
        hidden: c.count("hidden_size", 1 << 14)?,
        layers: c.count("num_hidden_layers", 1 << 9)?,
        heads: c.count("num_attention_heads", 1 << 10)?,
        intermediate: c.count("intermediate_size", 1 << 17)?,
        act: c.activation("hidden_act")?,
        eps: c.optional_number("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        hidden_dropout: c.optional_probability("hidden_dropout_prob")?.unwrap_or(0.1),
        attention_dropout: c.optional_probability("attention_probs_dropout_prob")?.unwrap_or(0.1),
    };
    if !config.hidden.is_multiple_of(config.heads) {
        return Err(c
            .error("num_attention_heads does not divide hidden_size")
            .found(format!("{} heads, width {}", config.heads, config.hidden)));
    }
    Ok(config)
}
