//! Masked language modelling (Devlin et al. 2019, sec. 3.1): tokens are hidden and to be found, others each
//! time.

use super::tag::best;
use super::{DataKind, EVALUATION, LanguageTask, Meter, Task, TaskEntry, only, reals};
use crate::data::{Batch, IGNORED, TokenSet, eval_batches};
use crate::error::Result;
use crate::metrics::{Perplexity, Scores};
use crate::models::Outputs;
use crate::ops::cross_entropy::CrossEntropy;
use crate::rng::Rng;
use crate::shape::DType;
use crate::tape::{Tape, Var};
use std::sync::Arc;

/// The task's entry in the table.
pub(super) const ENTRY: TaskEntry = TaskEntry {
    name: "mask",
    doc: "is masked language modelling",
    best_metric: "perplexity",
    metrics: &[("mask", &["accuracy", "perplexity", "loss"])],
    data: DataKind::Documents(LanguageTask {
        outputs: || Outputs::Tokens,
        examples: |documents, tokenizer, longest, _| documents.windows(tokenizer, longest),
        build: |settings| Ok(Arc::new(settings.mask()?)),
        pair: None,
        model: None,
    }),
    trains: |outputs| *outputs == Outputs::Tokens,
    sections: &["mask"],
    classes: false,
    weights: false,
    scores: &["perplexity, accuracy"],
    columns: &["filled (the likeliest token for each mask token)"],
};

/// The task; see the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mask {
    /// Share of the tokens, without special ones, that are to be found.
    pub probability: f64,
    /// Whether all tokens of a word are chosen together.
    pub whole_word: bool,
    /// The id of the mask token.
    pub mask: u32,
    /// Ids below this are what random tokens are drawn from.
    pub vocab: u32,
}

impl Mask {
    /// Chooses tokens and hides them: of ten, eight become the mask, one a random token, one stays. The same
    /// for an example whatever else is in its batch.
    pub fn hide(&self, batch: &mut Batch, (seed, step): (u64, u64)) {
        batch.masked.clear();
        let Batch { ids, words, cu_seqlens, examples, masked, targets, .. } = batch;
        let mut originals = Vec::new();
        for (&example, bounds) in examples.iter().zip(cu_seqlens.windows(2)) {
            let mut rng = Rng::new(seed, "mask", (step << 32) | u64::from(example));
            let mut before = None;
            let mut chosen = false;
            let (from, to) = (bounds[0] as usize, bounds[1] as usize);
            for (t, id) in ids.iter_mut().enumerate().take(to).skip(from) {
                let word = words.get(t).copied().unwrap_or(IGNORED);
                if word == IGNORED {
                    before = None;
                    continue;
                }
                if !(self.whole_word && before == Some(word)) {
                    chosen = rng.uniform() < self.probability;
                }
                before = Some(word);
                if !chosen {
                    continue;
                }
                masked.push(t as u32);
                originals.push(*id);
                let how = rng.uniform();
                let random = rng.below(self.vocab);
                if how < 0.8 {
                    *id = self.mask;
                } else if how < 0.9 {
                    *id = random;
                }
            }
        }
        targets.set_tokens(originals);
    }

    /// The cross-entropy of the hidden tokens, from logits (masked tokens, vocabulary).
    pub(super) fn cross_entropy(tape: &mut Tape, logits: &Var, batch: &Batch, scale: f64) -> Result<Var> {
        let tokens = batch.targets.tokens();
        let labels = tape.device().upload(DType::U32, &[tokens.len()], tokens)?;
        let x = [logits.clone(), tape.constant(labels), reals(tape, logits, &[1], &[scale])?];
        tape.apply(
            CrossEntropy { label_smoothing: 0.0, ignore_index: IGNORED, weighted: false, gamma: 0.0 },
            x,
        )
    }

    /// Why every score of hidden tokens is undefined on a set: an evaluation with `task` hides none.
    pub(super) fn hides_nothing(task: &dyn Task, set: &TokenSet) -> Result<Option<String>> {
        for mut batch in eval_batches(set, 1 << 13, 0)? {
            task.prepare(&mut batch, EVALUATION)?;
            if Self::count(&batch) > 0.0 {
                return Ok(None);
            }
        }
        Ok(Some("no token of them is hidden".to_owned()))
    }

    pub(super) fn count(batch: &Batch) -> f64 {
        batch.targets.tokens().iter().filter(|&&id| id != IGNORED).count() as f64
    }
}

impl Task for Mask {
    fn outputs(&self) -> Outputs {
        Outputs::Tokens
    }
    fn prepare(&self, batch: &mut Batch, key: (u64, u64)) -> Result<()> {
        self.hide(batch, key);
        Ok(())
    }
    /// The number of hidden tokens.
    fn weights(&self, batch: &Batch) -> [f64; 2] {
        [Self::count(batch), 0.0]
    }
    fn loss(&self, tape: &mut Tape, outputs: &[Var], batch: &Batch, [scale, _]: [f64; 2]) -> Result<Var> {
        Self::cross_entropy(tape, only(outputs)?, batch, scale)
    }
    fn uninformative(&self, _: &str, set: &TokenSet) -> Result<Option<String>> {
        Self::hides_nothing(self, set)
    }
    fn meter(&self, _: &TokenSet) -> Box<dyn Meter> {
        Box::new(Guessed::default())
    }
}

/// How well hidden tokens were found.
#[derive(Clone, Debug, Default)]
pub(super) struct Guessed {
    all: Perplexity,
    /// The same of each example.
    each: Vec<Perplexity>,
}

impl Meter for Guessed {
    fn add(&mut self, outputs: &[Vec<f32>], batch: &Batch) -> Result<()> {
        let logits = only(outputs)?;
        let originals = batch.targets.tokens();
        let width = logits.len() / originals.len().max(1);
        let before = self.each.len();
        self.each.resize(before + batch.len(), Perplexity::new());
        let hidden = originals.iter().zip(&batch.masked);
        for (row, (&id, token)) in logits.chunks_exact(width.max(1)).zip(hidden) {
            if id == IGNORED {
                continue;
            }
            let (best, lse) = best(row);
            let logit = row.get(id as usize).copied().unwrap_or(f32::NAN);
            let mut one = Perplexity::new();
            one.add(lse - f64::from(logit), 1, u64::from(best as u32 == id));
            self.all.merge(&one);
            let example = batch.cu_seqlens.partition_point(|bound| bound <= token);
            let own = self.each.get_mut(before + example.saturating_sub(1));
            own.into_iter().for_each(|own| own.merge(&one));
        }
        Ok(())
    }
    fn scores(&self) -> Scores {
        self.all.scores()
    }
    fn report(&self) -> String {
        format!("{} hidden tokens: {}", self.all.len(), self.scores())
    }
    fn units(&self) -> usize {
        self.each.len()
    }
    fn scores_of(&self, drawn: &[usize]) -> Scores {
        let mut all = Perplexity::new();
        drawn.iter().filter_map(|&i| self.each.get(i)).for_each(|one| all.merge(one));
        all.scores()
    }
}
