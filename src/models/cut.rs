//! An encoder of some layers of a model folder: how a student starts from the layers of a larger model (Sanh
//! et al. 2019, DistilBERT, sec. 3).

use super::architecture::Architecture;
use super::config::Config;
use super::folder::read_config;
use super::layer_sizes;
use crate::error::{Error, Result};
use crate::nn::{EncoderConfig, LayerShape};
use serde_json::Value;
use std::borrow::Cow;
use std::path::Path;

/// What a model folder with independent layers says of its model: `config.json`, the architecture, and the
/// settings of the encoder. Heads, feed-forward rows and layers can be removed from such a model.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) if the config cannot be read, or for another architecture.
pub fn resizable(dir: &Path) -> Result<(Value, &'static Architecture, EncoderConfig)> {
    let (config, architecture, shape) = read_config(dir)?;
    if layer_sizes::keys(architecture).is_none() {
        return Err(config
            .error(format!("a model of type `{}` cannot be made smaller", architecture.model_type))
            .with_expected("bert, roberta, xlm-roberta, distilbert or electra")
            .with_help("choose a model whose layers have weights of their own"));
    }
    Ok((config.value, architecture, shape))
}

/// Writes the sizes of an encoder's layers into its config. Returns whether transformers can hold such
/// layers: its own keys then describe them.
pub fn resize(config: &mut Value, architecture: &Architecture, hidden: usize, layers: &[LayerShape]) -> bool {
    match (layer_sizes::keys(architecture), config.as_object_mut()) {
        (Some(keys), Some(map)) => layer_sizes::write(map, &keys, hidden, layers),
        _ => false,
    }
}

/// Checks the layers of a model folder that a setting named `setting` chooses.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for a layer that the model does not have or that is named
/// twice, and for none; [`Kind::Model`](crate::error::Kind::Model) for an architecture whose layers cannot be
/// chosen.
pub fn check_layers(dir: &Path, chosen: &[usize], setting: &str) -> Result<()> {
    let (config, architecture, shape) = read_config(dir)?;
    check(&config, architecture, shape.depth(), (setting, chosen))
}

/// Checks the chosen layers of a folder whose encoder has `depth` of them.
pub(super) fn check(
    config: &Config,
    architecture: &Architecture,
    depth: usize,
    (setting, chosen): (&str, &[usize]),
) -> Result<()> {
    if layer_sizes::keys(architecture).is_none() {
        let kind = architecture.model_type;
        return Err(config
            .error(format!("layers of a model of type `{kind}` cannot be chosen"))
            .with_expected("bert, roberta, xlm-roberta, distilbert or electra")
            .with_help(format!("remove {setting}, or choose another model")));
    }
    let wrong = |what: String| {
        Error::usage(what)
            .with_expected(format!("different numbers from 0 to {}, the layers of the model", depth - 1))
            .with_found(format!("{setting} = {chosen:?}"))
    };
    if let Some(layer) = chosen.iter().find(|&&layer| layer >= depth) {
        return Err(wrong(format!("{setting} names layer {layer}, which the model does not have"))
            .at(&config.path)
            .with_help("count layers from 0"));
    }
    if chosen.is_empty() {
        return Err(wrong(format!("{setting} names no layer")).with_help("name at least one layer"));
    }
    let repeated = chosen.iter().enumerate().find(|(i, layer)| chosen[..*i].contains(layer));
    match repeated {
        Some((_, layer)) => {
            Err(wrong(format!("{setting} names layer {layer} twice")).with_help("name each layer once"))
        }
        None => Ok(()),
    }
}

/// What a parameter of the cut encoder is called in the folder; `stem` is the prefix of layer tensors.
pub(super) fn source<'n>(name: &'n str, stem: &str, chosen: Option<&[usize]>) -> Cow<'n, str> {
    let in_folder = || {
        let (number, rest) = name.strip_prefix(stem)?.split_once('.')?;
        let layer = chosen?.get(number.parse::<usize>().ok()?)?;
        Some(format!("{stem}{layer}.{rest}"))
    };
    in_folder().map_or(Cow::Borrowed(name), Cow::Owned)
}
