//! What a language model puts in place of mask tokens.

use super::session::Session;
use crate::data::Row;
use crate::error::{Error, Result};
use crate::models::Outputs;
use crate::tasks::into_streams;
use crate::text::Tokenizer;

/// How texts write a mask token: BERT's, and that of RoBERTa and XLNet.
const WRITTEN: [&str; 2] = ["[MASK]", "<mask>"];
/// How many tokens are returned for a mask token.
const LIKELIEST: usize = 5;

/// A token in place of a mask token, and its probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Fill {
    /// Its id.
    pub token: u32,
    /// Its text, without the marks of the vocabulary.
    pub text: String,
    /// Softmax over the vocabulary.
    pub probability: f64,
}

/// What is filled in for a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filled {
    /// For each mask token the five likeliest tokens, the likeliest first.
    pub masks: Vec<Vec<Fill>>,
    /// Whether the text has a mask token, but none within the maximum length.
    pub cut: bool,
    /// Whether the text also has a mask token of another model, such as `<mask>` for BERT. It is read as
    /// text.
    pub mixed: bool,
}

impl Session {
    /// The id of the model's mask token, and how it is written.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) if its tokenizer has none.
    pub fn mask_token(&self) -> Result<(u32, String)> {
        let tokenizer = self.tokenizer();
        let id = tokenizer.mask().ok_or_else(|| {
            Error::model("the tokenizer has no mask token")
                .at(&self.folder.dir)
                .with_expected("[MASK] or <mask> among its special tokens")
        })?;
        Ok((id, tokenizer.token(id).unwrap_or_default()))
    }

    /// The likely tokens for each mask token of each row, and the number of tokens that were cut off. A model
    /// trained by permutations finds each from all tokens that are not masked.
    pub(super) fn fill(&self, mut rows: Vec<Row>, first: usize) -> Result<(Vec<Filled>, Vec<u32>)> {
        let (mask, name) = self.mask_token()?;
        let mixed: Vec<bool> = rows.iter_mut().map(|row| translate(self.tokenizer(), &name, row)).collect();
        let set = self.tokens(&rows, Vec::new())?;
        let mut batches = self.batches(&set)?;
        for batch in &mut batches {
            if *self.outputs() == Outputs::Permuted {
                let rank = |id: u32| (id == mask) as u32;
                into_streams(batch, self.folder.vocab, |b, _, tokens| {
                    b.ids[tokens].iter().map(|&id| rank(id)).collect()
                })?;
            } else {
                batch.masked =
                    (0..batch.ids.len() as u32).filter(|&t| batch.ids[t as usize] == mask).collect();
            }
        }
        batches.retain(|b| !b.masked.is_empty());
        let mut found: Vec<Vec<Vec<Fill>>> = vec![Vec::new(); set.len()];
        self.run(&batches, first, |batch, outputs| {
            let logits = outputs.first().map(Vec::as_slice).unwrap_or_default();
            let width = logits.len() / batch.masked.len();
            for (row, &t) in logits.chunks_exact(width.max(1)).zip(&batch.masked) {
                let place = batch.cu_seqlens.partition_point(|&start| start <= t) - 1;
                if let Some(slot) = batch.examples.get(place).and_then(|&e| found.get_mut(e as usize)) {
                    slot.push(likeliest(self.tokenizer(), row));
                }
            }
            Ok(())
        })?;
        let cut = |i: usize, masks: &Vec<Vec<Fill>>| {
            masks.is_empty() && set.lost[i] > 0 && rows.get(i).is_some_and(|row| holds(row, &name))
        };
        let all = found.into_iter().zip(mixed).enumerate();
        let values = all.map(|(i, (masks, mixed))| Filled { cut: cut(i, &masks), masks, mixed }).collect();
        Ok((values, set.lost))
    }
}

/// Writes the model's own mask token for `[MASK]` or `<mask>` of another model, where no doubt is possible:
/// in a row without the model's own, and if the other is no token of the vocabulary. Returns whether the row
/// has both.
fn translate(tokenizer: &Tokenizer, own: &str, row: &mut Row) -> bool {
    let foreign = |written: &&&str| **written != own && tokenizer.id(written).is_none();
    let Some(other) = WRITTEN.iter().find(foreign).filter(|other| holds(row, other)) else { return false };
    if holds(row, own) {
        return true;
    }
    row.text = row.text.replace(other, own);
    row.pair = row.pair.take().map(|pair| pair.replace(other, own));
    false
}

/// Whether a row has a mask token.
fn holds(row: &Row, mask: &str) -> bool {
    row.text.contains(mask) || row.pair.as_ref().is_some_and(|p| p.contains(mask))
}

/// The greatest logits with their probabilities, the greatest first; of equal ones the first.
fn likeliest(tokenizer: &Tokenizer, logits: &[f32]) -> Vec<Fill> {
    let mut best: Vec<u32> = Vec::with_capacity(LIKELIEST + 1);
    for (i, x) in logits.iter().enumerate() {
        let place = best.partition_point(|&b| logits[b as usize] >= *x);
        if place < LIKELIEST {
            best.insert(place, i as u32);
            best.truncate(LIKELIEST);
        }
    }
    let most = best.first().map_or(0.0, |&b| f64::from(logits[b as usize]));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - most).exp()).sum();
    let one = |token: u32| Fill {
        token,
        text: tokenizer.shown(token),
        probability: (f64::from(logits[token as usize]) - most).exp() / sum,
    };
    best.into_iter().map(one).collect()
}
