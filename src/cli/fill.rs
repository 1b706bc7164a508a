//! What a language model puts in place of mask tokens.

use super::model::Prepared;
use super::readable::SHOWN;
use super::style::Voice;
use crate::data::{Row, TokenSet};
use crate::error::{Error, Result};
use crate::models::{Model, Outputs};
use crate::tasks::into_streams;
use crate::text::Tokenizer;

/// How texts write a mask: BERT's token, and that of RoBERTa and XLNet.
const WRITTEN: [&str; 2] = ["[MASK]", "<mask>"];

/// A token in place of a mask, and its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fill {
    /// Its id.
    pub token: u32,
    /// Softmax over the vocabulary.
    pub probability: f64,
}

/// The mask token of the model.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) if its tokenizer has none.
fn mask(prepared: &Prepared) -> Result<u32> {
    prepared.tokenizer().mask().ok_or_else(|| {
        Error::model("the tokenizer has no mask token")
            .at(&prepared.dir)
            .with_expected("[MASK] or <mask> among its special tokens")
    })
}

/// Writes the model's own mask token for `[MASK]` or `<mask>` of another model, where no doubt is possible: in rows without
/// the model's own, and if the other is no token of the vocabulary. Warns about rows that hold both.
pub fn translate(tokenizer: &Tokenizer, rows: &mut [Row], voice: &Voice) {
    let Some(own) = tokenizer.mask().and_then(|id| tokenizer.token(id)) else { return };
    let foreign = |written: &&&str| **written != own && tokenizer.id(written).is_none();
    let Some(other) = WRITTEN.iter().find(foreign) else { return };
    let mut mixed = 0;
    for row in rows {
        if holds(row, &own) && holds(row, other) {
            mixed += 1;
        } else if holds(row, other) {
            row.text = row.text.replace(other, &own);
            row.pair = row.pair.take().map(|pair| pair.replace(other, &own));
        }
    }
    if mixed > 0 {
        let texts = if mixed == 1 { "1 text has".to_owned() } else { format!("{mixed} texts have") };
        voice.warn(format!(
            "{texts} both {own} and {other}: only {own} is filled in\n  help: write {own} for each word to find"
        ));
    }
}

/// Whether a row holds a mask token.
fn holds(row: &Row, mask: &str) -> bool {
    row.text.contains(mask) || row.pair.as_ref().is_some_and(|p| p.contains(mask))
}

/// Warns about texts without a mask token, or whose mask token was cut off; an error if no text from the command line has one.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage), naming the model's mask token.
pub fn check(prepared: &Prepared, rows: &[Row], set: &TokenSet, direct: bool, voice: &Voice) -> Result<()> {
    let mask = mask(prepared)?;
    let name = prepared.tokenizer().token(mask).unwrap_or_default();
    let without = |i: &usize| !set.ids[set.range(*i)].contains(&mask);
    let was_cut = |i: &usize| {
        let lost = set.lost.get(*i).is_some_and(|n| *n > 0);
        lost && rows.get(*i).is_some_and(|row| holds(row, &name))
    };
    let length = prepared.max_length;
    let help = "raise --max-length, or shorten the text";
    let cut = (0..set.len()).filter(without).filter(was_cut).count();
    if direct && cut > 0 && (0..set.len()).all(|i| without(&i)) {
        return Err(Error::usage(format!("{name} was cut off: the text is longer than {length} tokens"))
            .with_expected(format!("{name} among the first {length} tokens"))
            .with_help(help));
    }
    if cut > 0 {
        let texts = if cut == 1 { "1 text".to_owned() } else { format!("{cut} texts") };
        voice.warn(format!("{name} of {texts} was cut off at {length} tokens\n  help: {help}"));
    }
    match (0..set.len()).filter(without).count() - cut {
        0 => Ok(()),
        n if direct && n == set.len() => Err(Error::usage("the text has no mask token")
            .with_expected(format!("{name} in place of each word that the model shall find"))
            .with_help(format!("for example: --sentence \"Paris is the {name} of France.\""))),
        n => {
            voice.warn(format!("{n} of {} texts have no {name}: nothing is filled in", set.len()));
            Ok(())
        }
    }
}

/// The likely tokens for each mask token of each example. A model trained by permutations finds each from all tokens that are
/// not masked.
///
/// # Errors
/// Those of the model; one without a mask token.
pub fn fill(
    prepared: &Prepared,
    model: &Model,
    (head, outputs): (usize, &Outputs),
    set: &TokenSet,
    voice: &Voice,
) -> Result<Vec<Vec<Vec<Fill>>>> {
    let mask = mask(prepared)?;
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
            let place = batch.cu_seqlens.partition_point(|&start| start <= t) - 1;
            if let Some(slot) = batch.examples.get(place).and_then(|&e| found.get_mut(e as usize)) {
                slot.push(likely(row));
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// The greatest logits with their probabilities, the greatest first; of equal ones the first.
fn likely(logits: &[f32]) -> Vec<Fill> {
    let mut best: Vec<u32> = Vec::with_capacity(SHOWN + 1);
    for (i, x) in logits.iter().enumerate() {
        let place = best.partition_point(|&b| logits[b as usize] >= *x);
        if place < SHOWN {
            best.insert(place, i as u32);
            best.truncate(SHOWN);
        }
    }
    let most = best.first().map_or(0.0, |&b| f64::from(logits[b as usize]));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - most).exp()).sum();
    let one =
        |token: u32| Fill { token, probability: (f64::from(logits[token as usize]) - most).exp() / sum };
    best.into_iter().map(one).collect()
}
