//! The sizes of single layers in `config.json`, where layers differ in them, as in a model that was made
//! smaller. transformers has no keys for that: its layers are all alike, and their heads divide the hidden
//! size among them.

use super::architecture::Architecture;
use super::config::{Config, LAYERS};
use crate::error::Result;
use crate::nn::{EncoderConfig, LayerShape};
use serde_json::{Map, Value, json};

/// The largest numbers, as those of the keys of transformers.
const MOST: [(&str, u64, u64); 3] =
    [("heads", 0, 1 << 10), ("head_dim", 1, 1 << 14), ("intermediate", 0, 1 << 17)];

/// The keys of `config.json` with the sizes of an encoder whose layers are independent of their places.
pub(super) struct SizeKeys {
    /// The number of layers.
    pub layers: &'static str,
    heads: &'static str,
    intermediate: &'static str,
}

/// Its keys, for an architecture whose layers may differ and be chosen. ALBERT's layers share their weights,
/// ModernBERT's attend locally or globally by their number, XLNet's heads share two biases.
pub(super) fn keys(architecture: &Architecture) -> Option<SizeKeys> {
    match architecture.model_type {
        "bert" | "roberta" | "xlm-roberta" | "electra" => Some(SizeKeys {
            layers: "num_hidden_layers",
            heads: "num_attention_heads",
            intermediate: "intermediate_size",
        }),
        "distilbert" => Some(SizeKeys { layers: "n_layers", heads: "n_heads", intermediate: "hidden_dim" }),
        _ => None,
    }
}

/// Replaces the layers of an encoder by those that the config describes one by one, if it does.
pub(super) fn read(config: &Config, architecture: &Architecture, shape: &mut EncoderConfig) -> Result<()> {
    let Some(list) = config.value.get(LAYERS) else { return Ok(()) };
    if keys(architecture).is_none() {
        return Err(config
            .error(format!("`{LAYERS}` is not supported for the type `{}`", architecture.model_type))
            .with_expected("bert, roberta, xlm-roberta, distilbert or electra")
            .with_help(format!("remove `{LAYERS}`, or choose another model")));
    }
    let one = |v: &Value| {
        let map = v.as_object().filter(|map| map.len() == MOST.len())?;
        let size = |(key, least, most): (&str, u64, u64)| {
            map.get(key)?.as_u64().filter(|n| (least..=most).contains(n)).map(|n| n as usize)
        };
        let [heads, head_dim, intermediate] = MOST.map(size);
        Some(LayerShape { heads: heads?, head_dim: head_dim?, intermediate: intermediate? })
    };
    let depth = shape.layers.len();
    let layers = list.as_array().filter(|list| list.len() == depth);
    let layers: Option<Vec<LayerShape>> = layers.and_then(|list| list.iter().map(one).collect());
    shape.layers = layers.ok_or_else(|| {
        let [heads, dim, rows] = MOST.map(|(key, least, most)| format!("{key} from {least} to {most}"));
        config
            .error(format!("`{LAYERS}` has a value that is not valid"))
            .with_expected(format!("a list of {depth} objects, each with {heads}, {dim} and {rows}"))
            .with_found(list.to_string().chars().take(80).collect::<String>())
            .with_help("correct config.json, or make the model smaller again")
    })?;
    Ok(())
}

/// Writes the sizes of an encoder's layers into a config whose hidden size is `hidden`. Layers that
/// transformers can hold are described by its own keys alone; returns whether that is so.
pub(super) fn write(
    config: &mut Map<String, Value>,
    keys: &SizeKeys,
    hidden: usize,
    layers: &[LayerShape],
) -> bool {
    config.insert(keys.layers.into(), layers.len().into());
    config.remove(LAYERS);
    let alike = layers.first().filter(|first| {
        first.attention() == hidden && first.intermediate > 0 && layers.iter().all(|l| l == *first)
    });
    if let Some(first) = alike {
        config.insert(keys.heads.into(), first.heads.into());
        config.insert(keys.intermediate.into(), first.intermediate.into());
        return true;
    }
    let list = layers
        .iter()
        .map(|l| json!({ "heads": l.heads, "head_dim": l.head_dim, "intermediate": l.intermediate }));
    config.insert(LAYERS.into(), list.collect());
    // transformers refuses a tensor of another shape than the config's, but starts a missing one from random
    // values. If no shape differs, a number of heads that it refuses keeps it from doing so.
    let wide = config.get(keys.intermediate).and_then(Value::as_u64);
    let same = |l: &LayerShape| {
        (l.heads == 0 || l.attention() == hidden)
            && (l.intermediate == 0 || Some(l.intermediate as u64) == wide)
    };
    if layers.iter().all(same) {
        config.insert(keys.heads.into(), (hidden + 1).into());
    }
    false
}
