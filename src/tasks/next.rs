//! Next-sentence prediction beside masked language modelling: BERT's pretraining (Devlin et al. 2019, sec. 3.1).
//!
//! The label 0 says that the second text follows the first, 1 that it is a random one, as in `BertForPreTraining`.

use super::mask::{Guessed, Mask};
use super::{Meter, Task, reals, unlabelled};
use crate::data::{Batch, TokenSet};
use crate::error::{Error, Result};
use crate::metrics::{Classification, Scores};
use crate::models::Outputs;
use crate::ops::cross_entropy::{CrossEntropy, IGNORE};
use crate::ops::residual::Residual;
use crate::shape::DType;
use crate::tape::{Tape, Var};

/// The task; see the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Next {
    /// Which tokens are hidden.
    pub mask: Mask,
}

/// The logits of a model that gives both: of hidden tokens, and of whether the second text follows.
fn both<T>(outputs: &[T]) -> Result<[&T; 2]> {
    match outputs {
        [tokens, next] => Ok([tokens, next]),
        _ => Err(Error::shape("a model with a head for tokens and one for pairs is needed")),
    }
}

impl Task for Next {
    fn outputs(&self) -> Outputs {
        Outputs::Pretraining
    }
    fn prepare(&self, batch: &mut Batch, key: (u64, u64)) {
        self.mask.hide(batch, key);
    }
    /// Hidden tokens and pairs: each of the two losses is a mean of its own.
    fn weights(&self, batch: &Batch) -> [f64; 2] {
        [Mask::count(batch), batch.len() as f64]
    }
    fn loss(&self, tape: &mut Tape, outputs: &[Var], batch: &Batch, scales: [f64; 2]) -> Result<Var> {
        if batch.classes.len() != batch.len() {
            return Err(unlabelled());
        }
        let [&tokens, &next] = both(outputs)?;
        let hidden = Mask::cross_entropy(tape, tokens, batch, scales[0])?;
        let labels = tape.device().upload(DType::U32, &[batch.len()], &batch.classes)?;
        let x = [next, tape.constant(labels), reals(tape, next, &[1], &scales[1..])?];
        let op = CrossEntropy { label_smoothing: 0.0, ignore_index: IGNORE, weighted: false };
        let follows = tape.apply(op, &x)?;
        tape.apply(Residual { dropout: None }, &[hidden, follows])
    }
    fn meter(&self, _: &TokenSet) -> Box<dyn Meter> {
        Box::new(Both { tokens: Guessed::default(), next: Classification::new(2) })
    }
}

struct Both {
    tokens: Guessed,
    next: Classification,
}

impl Meter for Both {
    fn add(&mut self, outputs: &[Vec<f32>], batch: &Batch) -> Result<()> {
        let [tokens, next] = both(outputs)?;
        self.tokens.add(std::slice::from_ref(tokens), batch)?;
        let rows = next.chunks_exact(2).zip(&batch.classes);
        rows.into_iter().try_for_each(|(row, &label)| self.next.add_logits(row, label))
    }
    fn scores(&self) -> Scores {
        let mut scores = self.tokens.scores();
        let (tokens, next) = (scores.get("loss").unwrap_or(f64::NAN), self.next.loss());
        scores.set("loss", tokens + next);
        scores.set("next_accuracy", self.next.accuracy());
        scores
    }
    fn report(&self) -> String {
        self.tokens.report()
    }
}
