//! What a language model puts in place of mask tokens.

use super::model::Prepared;
use super::style::Voice;
use crate::data::TokenSet;
use crate::error::{Error, Result};
use crate::models::{Model, Outputs};
use crate::tasks::into_streams;

/// The id of the best token for each mask token of each example, as numbers of a row. A model of permutations finds each from all
/// that is no mask token.
pub fn fill(
    prepared: &Prepared,
    model: &Model,
    (head, outputs): (usize, &Outputs),
    set: &TokenSet,
    voice: &Voice,
) -> Result<Vec<Vec<f32>>> {
    let Some(mask) = prepared.tokenizer().mask() else {
        return Err(Error::model("the tokenizer has no mask token")
            .at(&prepared.dir)
            .with_expected("[MASK] or <mask>"));
    };
    let mut batches = prepared.batches(set, head)?;
    for batch in &mut batches {
        if *outputs == Outputs::Permuted {
            let rank = |id: u32| (id == mask) as u32;
            into_streams(batch, prepared.vocab, |b, _, tokens| {
                b.ids[tokens].iter().map(|&id| rank(id)).collect()
            })?;
        } else {
            batch.masked = (0..batch.ids.len() as u32).filter(|&t| batch.ids[t as usize] == mask).collect();
        }
    }
    batches.retain(|b| !b.masked.is_empty());
    let mut found = vec![Vec::new(); set.len()];
    prepared.outputs(model, &batches, voice, |batch, outputs| {
        let logits = outputs.first().map(Vec::as_slice).unwrap_or_default();
        let width = logits.len() / batch.masked.len();
        for (row, &t) in logits.chunks_exact(width.max(1)).zip(&batch.masked) {
            let best = (0..row.len()).fold(0, |b, i| if row[i] > row[b] { i } else { b });
            let place = batch.cu_seqlens.partition_point(|&start| start <= t) - 1;
            if let Some(slot) = batch.examples.get(place).and_then(|&e| found.get_mut(e as usize)) {
                // Ids are exact in f32 up to 2^24, more than any vocabulary.
                slot.push(best as f32);
            }
        }
        Ok(())
    })?;
    Ok(found)
}
