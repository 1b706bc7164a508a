//! Permutation language modelling (Yang et al. 2019, sec. 2): tokens are to be found one after the other in a
//! random order, each from what is given and what was found before it.

use super::mask::{Guessed, Mask};
use super::{DataKind, LanguageSettings, LanguageTask, Meter, Task, TaskEntry, only};
use crate::data::{Batch, IGNORED, TokenSet};
use crate::error::Result;
use crate::models::Outputs;
use crate::nn::permutation::{GIVEN, TwoStreams, draw_ranks};
use crate::rng::Rng;
use crate::tape::{Tape, Var};
use std::sync::Arc;

/// The task's entry in the table.
pub(super) const ENTRY: TaskEntry = TaskEntry {
    name: "permute",
    doc: "is permutation language modelling (XLNet)",
    best_metric: "perplexity",
    metrics: &[("permute", &["accuracy", "perplexity", "loss"])],
    data: DataKind::Documents(LanguageTask {
        outputs: || Outputs::Permuted,
        examples: |documents, tokenizer, longest, _| documents.windows(tokenizer, longest),
        build: |settings| {
            let LanguageSettings { permute_probability: probability, max_span, vocab, .. } = *settings;
            Ok(Arc::new(Permute { probability, max_span, vocab }))
        },
        pair: None,
        model: Some("xlnet/xlnet-base-cased"),
    }),
    trains: |outputs| *outputs == Outputs::Permuted,
    sections: &["permute"],
    classes: false,
    weights: false,
    scores: &["perplexity, accuracy"],
    columns: &["filled (the likeliest token for each mask token)"],
};

/// The task; see the module and [`draw_ranks`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Permute {
    /// Share of the tokens that are to be found, about.
    pub probability: f64,
    /// Neighbours that are chosen together, at most.
    pub max_span: u32,
    /// Tokens that the model knows.
    pub vocab: usize,
}

impl Permute {
    /// transformers' `DataCollatorForPermutationLanguageModeling`.
    pub const PROBABILITY: f64 = 1.0 / 6.0;
    /// The same.
    pub const MAX_SPAN: u32 = 5;
}

/// Makes the sequences of a batch into two streams each, with the ranks that `ranks` gives for the tokens of
/// an example; what is to be found becomes what the batch asks for.
///
/// # Errors
/// Those of [`TwoStreams::push`](crate::nn::permutation::TwoStreams::push).
pub fn into_streams(
    batch: &mut Batch,
    vocab: usize,
    mut ranks: impl FnMut(&Batch, u32, std::ops::Range<usize>) -> Vec<u32>,
) -> Result<()> {
    let mut streams = TwoStreams::new(vocab);
    for (&example, bounds) in batch.examples.iter().zip(batch.cu_seqlens.windows(2)) {
        let tokens = bounds[0] as usize..bounds[1] as usize;
        let mut ranks = ranks(batch, example, tokens.clone());
        if !ranks.contains(&GIVEN) {
            ranks.iter_mut().take(1).for_each(|first| *first = GIVEN);
        }
        streams.push(&batch.ids[tokens.clone()], &batch.types[tokens], &ranks)?;
    }
    let TwoStreams { ids, positions, types, cu_seqlens, order, queries, targets, .. } = streams;
    batch.words.clear();
    batch.targets.set_tokens(targets);
    *batch = Batch { ids, positions, types, cu_seqlens, order, masked: queries, ..std::mem::take(batch) };
    Ok(())
}

impl Task for Permute {
    fn outputs(&self) -> Outputs {
        Outputs::Permuted
    }
    fn prepare(&self, batch: &mut Batch, (seed, step): (u64, u64)) -> Result<()> {
        into_streams(batch, self.vocab, |batch, example, tokens| {
            let mut rng = Rng::new(seed, "permute", (step << 32) | u64::from(example));
            let special = |t| batch.words.get(t).is_none_or(|&word| word == IGNORED);
            let special: Vec<bool> = tokens.map(special).collect();
            draw_ranks(&special, self.probability, self.max_span, &mut rng)
        })
    }
    /// The number of tokens to be found.
    fn weights(&self, batch: &Batch) -> [f64; 2] {
        [Mask::count(batch), 0.0]
    }
    fn loss(&self, tape: &mut Tape, outputs: &[Var], batch: &Batch, [scale, _]: [f64; 2]) -> Result<Var> {
        Mask::cross_entropy(tape, only(outputs)?, batch, scale)
    }
    fn uninformative(&self, _: &str, set: &TokenSet) -> Result<Option<String>> {
        Mask::hides_nothing(self, set)
    }
    fn meter(&self, _: &TokenSet) -> Box<dyn Meter> {
        Box::new(Guessed::default())
    }
}
