//! What a model folder says of its model, without opening it.

use super::architecture::{ARCHITECTURES, Architecture};
use super::config::Config;
use super::{Outputs, heads, layer_sizes};
use crate::checkpoint::Weights;
use crate::error::Result;
use crate::nn::EncoderConfig;
use serde_json::Value;
use std::path::Path;

/// Whether a folder's saved head outputs embeddings.
pub fn gives_vectors(dir: &Path) -> bool {
    let heads = Config::read(&dir.join("config.json")).and_then(|c| heads::of_config(&c));
    heads.is_ok_and(|heads| heads.iter().any(|(_, o)| *o == Outputs::Embedding))
}

/// The names and the outputs of the heads that a folder holds, from its `config.json`.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) if the config cannot be read or describes other heads.
pub fn saved_outputs(dir: &Path) -> Result<Vec<(String, Outputs)>> {
    heads::of_config(&Config::read(&dir.join("config.json"))?)
}

/// The settings of the encoder in a folder, from its `config.json`.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) if the config cannot be read or describes a model that tempra
/// does not support.
pub fn encoder_shape(dir: &Path) -> Result<EncoderConfig> {
    Ok(read_config(dir)?.2)
}

pub(super) fn read_config(dir: &Path) -> Result<(Config, &'static Architecture, EncoderConfig)> {
    let config = Config::read(&dir.join("config.json"))?;
    let kind = config.text("model_type")?;
    let known = || ARCHITECTURES.iter().map(|a| a.model_type);
    let Some(architecture) = ARCHITECTURES.iter().find(|a| a.model_type == kind) else {
        return Err(config
            .error(format!("model_type `{kind}` is not supported"))
            .with_expected(known().collect::<Vec<_>>().join(", "))
            .with_help("choose an encoder of one of these types"));
    };
    let mut shape = (architecture.read)(&config)?;
    layer_sizes::read(&config, architecture, &mut shape)?;
    shape.performer = config.performer()?;
    Ok((config, architecture, shape))
}

/// The hash of a model folder that [`LoadReport::hash`](super::LoadReport::hash) is.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) if the folder cannot be read.
pub fn folder_hash(dir: &Path) -> Result<String> {
    Ok(hash(&Weights::open(dir)?, &Config::read(&dir.join("config.json"))?.value))
}

/// A hash that identifies a model: its weights, and its config without the keys that do not affect outputs.
pub(super) fn hash(files: &Weights, config: &Value) -> String {
    let mut config = config.clone();
    if let Some(keys) = config.as_object_mut() {
        ["_name_or_path", "transformers_version"].iter().for_each(|key| drop(keys.remove(*key)));
    }
    blake3::hash(format!("{} {config}", files.hash()).as_bytes()).to_hex().to_string()
}
