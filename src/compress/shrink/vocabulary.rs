//! The part of a vocabulary that a corpus needs.

use crate::error::{Error, Result};
use crate::models::{Outputs, encoder_shape, gives_vectors, saved_outputs};
use crate::nn::EncoderConfig;
use crate::predict::{tokenizer, vector_tokenizer};
use crate::text::{Reduced, Tokenizer};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// The tokenizer with which a model folder is used.
pub(super) fn of_folder(dir: &Path) -> Result<Tokenizer> {
    if gives_vectors(dir) { Ok(vector_tokenizer(dir)?.0) } else { Ok(tokenizer(dir)?.0) }
}

/// Whether the model reads texts word by word.
fn by_word(dir: &Path) -> bool {
    saved_outputs(dir).is_ok_and(|heads| heads.iter().any(|(_, o)| matches!(o, Outputs::Tags(_))))
}

/// The keys of a config that name tokens.
fn token_keys(config: &Value) -> Vec<(String, u32)> {
    let keys = config.as_object().into_iter().flatten().filter(|(key, _)| key.ends_with("_token_id"));
    keys.filter_map(|(key, id)| Some((key.clone(), u32::try_from(id.as_u64()?).ok()?))).collect()
}

/// What of the vocabulary the texts need; `None` if that is all of it.
pub(super) fn reduce(
    dir: &Path,
    config: &Value,
    encoder: &EncoderConfig,
    texts: &[&str],
) -> Result<Option<Reduced>> {
    let rows = encoder.vocab as u32;
    let mut named: Vec<u32> = token_keys(config).into_iter().map(|(_, id)| id).collect();
    named.retain(|&id| id < rows);
    // A model of vectors may also be trained further for another task, whose texts have no prompt.
    if gives_vectors(dir) {
        named.extend(tokenizer(dir)?.0.all_ids(texts, by_word(dir))?.into_iter().flatten());
    }
    let reduced = of_folder(dir)?.reduced(texts, by_word(dir), &named)?;
    Ok(Some(reduced).filter(|r| r.kept.len() < encoder.vocab))
}

/// Describes the smaller vocabulary in a config.
pub(super) fn describe(config: &mut Value, reduced: &Reduced) {
    let new: HashMap<u32, u32> = reduced.kept.iter().zip(0..).map(|(&old, new)| (old, new)).collect();
    let keys = token_keys(config);
    let Some(map) = config.as_object_mut() else { return };
    map.insert("vocab_size".into(), reduced.kept.len().into());
    for (key, id) in keys {
        if let Some(id) = new.get(&id) {
            map.insert(key, (*id).into());
        }
    }
}

/// Checks that the folder `small` splits every text into the same tokens as the folder `dir`.
pub(super) fn check(dir: &Path, small: &Path, reduced: &Reduced, texts: &[&str]) -> Result<()> {
    let [before, after] = [encoder_shape(dir)?, encoder_shape(small)?];
    if before.first_position != after.first_position {
        return Err(Error::model("the padding token would get another number, on which positions depend")
            .at(dir)
            .with_expected("a vocabulary that begins with its special tokens")
            .with_help("keep the vocabulary of this model"));
    }
    let words = by_word(dir);
    let [large, small] = [of_folder(dir)?, of_folder(small)?];
    let (old, new) = (large.all_ids(texts, words)?, small.all_ids(texts, words)?);
    for ((text, old), new) in texts.iter().zip(old).zip(new) {
        let back: Option<Vec<u32>> = new.iter().map(|&id| reduced.kept.get(id as usize).copied()).collect();
        if back.as_ref() != Some(&old) {
            return Err(Error::model("the smaller tokenizer splits a text in another way")
                .at(dir)
                .with_expected("the same tokens for every text of the corpus")
                .with_found(format!("{:?}", text.chars().take(80).collect::<String>()))
                .with_help("leave this text out of the corpus, or keep the vocabulary of this model"));
        }
    }
    Ok(())
}
