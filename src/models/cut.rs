//! An encoder of some layers of a model folder: how a student starts from the layers of a larger model (Sanh
//! et al. 2019, DistilBERT, sec. 3).

use super::architecture::Architecture;
use super::config::Config;
use crate::error::{Error, Result};
use serde_json::Value;
use std::borrow::Cow;

/// The key of `config.json` with the number of layers, for architectures whose layers are independent of
/// their places. ALBERT's share their weights, ModernBERT's attend locally or globally by their number.
fn count_key(architecture: &Architecture) -> Option<&'static str> {
    match architecture.model_type {
        "bert" | "roberta" | "xlm-roberta" | "electra" => Some("num_hidden_layers"),
        "distilbert" => Some("n_layers"),
        _ => None,
    }
}

/// Checks the chosen layers of a folder whose encoder has `depth` of them.
pub(super) fn check(
    config: &Config,
    architecture: &Architecture,
    depth: usize,
    chosen: &[usize],
) -> Result<()> {
    if count_key(architecture).is_none() {
        let kind = architecture.model_type;
        return Err(config
            .error(format!("layers of a model of type `{kind}` cannot be chosen"))
            .with_expected("bert, roberta, xlm-roberta, distilbert or electra")
            .with_help("remove model.layers, or choose another model"));
    }
    let wrong = |what: String| {
        Error::usage(what)
            .with_expected(format!("different numbers from 0 to {}, the layers of the model", depth - 1))
            .with_found(format!("model.layers = {chosen:?}"))
    };
    if let Some(layer) = chosen.iter().find(|&&layer| layer >= depth) {
        return Err(wrong(format!("model.layers names layer {layer}, which the model does not have"))
            .at(&config.path)
            .with_help("count layers from 0"));
    }
    if chosen.is_empty() {
        return Err(wrong("model.layers names no layer".into()).with_help("name at least one layer"));
    }
    let repeated = chosen.iter().enumerate().find(|(i, layer)| chosen[..*i].contains(layer));
    match repeated {
        Some((_, layer)) => {
            Err(wrong(format!("model.layers names layer {layer} twice")).with_help("name each layer once"))
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

/// Writes the number of layers into the config of the cut model.
pub(super) fn describe(config: &mut Value, architecture: &Architecture, layers: usize) {
    if let (Some(key), Some(map)) = (count_key(architecture), config.as_object_mut()) {
        map.insert(key.into(), layers.into());
    }
}
