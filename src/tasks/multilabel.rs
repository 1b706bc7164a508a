//! Any number of several classes: each a decision of its own, binary cross-entropy, as `transformers` trains
//! `problem_type` "multi_label_classification".

use super::{Meter, Task, only, reals, unlabelled};
use crate::data::{Batch, TokenSet};
use crate::error::Result;
use crate::metrics::{MultiLabel, Scores};
use crate::models::Outputs;
use crate::ops::binary_cross_entropy::BinaryCrossEntropy;
use crate::tape::{Tape, Var};

/// The task; see the module.
#[derive(Clone, Debug)]
pub struct Multilabel {
    /// The classes' names, in the order of the outputs.
    pub classes: Vec<String>,
}

impl Task for Multilabel {
    fn outputs(&self) -> Outputs {
        Outputs::Labels(self.classes.clone())
    }
    /// The number of decisions: the mean is over examples and classes.
    fn weights(&self, batch: &Batch) -> [f64; 2] {
        [(batch.len() * self.classes.len()) as f64, 0.0]
    }
    fn loss(&self, tape: &mut Tape, outputs: &[Var], batch: &Batch, [scale, _]: [f64; 2]) -> Result<Var> {
        if batch.sets.len() != batch.len() {
            return Err(unlabelled());
        }
        let logits = *only(outputs)?;
        let hot = batch.sets.iter().flat_map(|set| hot(set, self.classes.len()));
        let hot: Vec<f64> = hot.map(|h| h as u8 as f64).collect();
        let targets = reals(tape, logits, &[batch.len(), self.classes.len()], &hot)?;
        let x = [logits, targets, reals(tape, logits, &[1], &[scale])?];
        tape.apply(BinaryCrossEntropy, &x)
    }
    fn meter(&self, _: &TokenSet) -> Box<dyn Meter> {
        Box::new(Decided { names: self.classes.clone(), counts: MultiLabel::new(self.classes.len()) })
    }
}

/// One decision a class.
fn hot(set: &[u32], classes: usize) -> Vec<bool> {
    (0..classes as u32).map(|c| set.contains(&c)).collect()
}

struct Decided {
    names: Vec<String>,
    counts: MultiLabel,
}

impl Meter for Decided {
    fn add(&mut self, outputs: &[Vec<f32>], batch: &Batch) -> Result<()> {
        if batch.sets.len() != batch.len() {
            return Err(unlabelled());
        }
        let rows = only(outputs)?.chunks_exact(self.names.len());
        rows.zip(&batch.sets).try_for_each(|(row, set)| self.counts.add_logits(row, &hot(set, row.len())))
    }
    fn scores(&self) -> Scores {
        self.counts.scores()
    }
    fn report(&self) -> String {
        let rows = self.names.iter().zip(self.counts.per_label());
        rows.map(|(name, f1)| format!("{name}: F1 {f1:.4}\n")).collect()
    }
}
