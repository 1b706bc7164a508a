//! One class of several: cross-entropy, class weights, label smoothing.

use super::{Meter, Task, reals, unlabelled};
use crate::data::{Batch, Label, TokenSet};
use crate::error::Result;
use crate::metrics::{Classification, Scores};
use crate::models::Outputs;
use crate::ops::cross_entropy::{CrossEntropy, IGNORE};
use crate::shape::DType;
use crate::tape::{Tape, Var};

/// The task; see the module.
#[derive(Clone, Debug)]
pub struct Classify {
    /// The classes' names, in the order of the outputs.
    pub classes: Vec<String>,
    /// Share of the target spread over all classes.
    pub label_smoothing: f32,
    /// Weight of each class in the loss.
    pub class_weights: Option<Vec<f32>>,
}

impl Classify {
    /// Weights n / (classes * count) from the labels of a training set, as scikit-learn's "balanced".
    pub fn balanced(labels: &[Label], classes: usize) -> Vec<f32> {
        let mut counts = vec![0usize; classes];
        for label in labels {
            if let Label::Class(c) = label
                && let Some(n) = counts.get_mut(*c as usize)
            {
                *n += 1;
            }
        }
        counts.iter().map(|&n| labels.len() as f32 / (classes * n.max(1)) as f32).collect()
    }
}

impl Task for Classify {
    fn outputs(&self) -> Outputs {
        Outputs::Classes(self.classes.clone())
    }
    /// The sum of the labels' weights: PyTorch's denominator of a weighted mean.
    fn weight(&self, set: &TokenSet, examples: &[u32]) -> f64 {
        let one = |&i: &u32| match (set.labels.get(i as usize), &self.class_weights) {
            (Some(Label::Class(c)), Some(w)) => w.get(*c as usize).map_or(0.0, |&w| w as f64),
            (Some(_), _) => 1.0,
            (None, _) => 0.0,
        };
        examples.iter().map(one).sum()
    }
    fn loss(&self, tape: &mut Tape, logits: Var, batch: &Batch, scale: f64) -> Result<Var> {
        if batch.classes.len() != batch.len() {
            return Err(unlabelled());
        }
        let labels = tape.device().upload(DType::U32, &[batch.len()], &batch.classes)?;
        let mut x = vec![logits, tape.constant(labels), reals(tape, logits, &[1], &[scale])?];
        if let Some(w) = &self.class_weights {
            let w: Vec<f64> = w.iter().map(|&w| w as f64).collect();
            x.push(reals(tape, logits, &[w.len()], &w)?);
        }
        let (label_smoothing, weighted) = (self.label_smoothing, self.class_weights.is_some());
        tape.apply(CrossEntropy { label_smoothing, ignore_index: IGNORE, weighted }, &x)
    }
    fn meter(&self) -> Box<dyn Meter> {
        Box::new(Counted { names: self.classes.clone(), counts: Classification::new(self.classes.len()) })
    }
}

struct Counted {
    names: Vec<String>,
    counts: Classification,
}

impl Meter for Counted {
    fn add(&mut self, logits: &[f32], batch: &Batch) -> Result<()> {
        if batch.classes.len() != batch.len() {
            return Err(unlabelled());
        }
        let rows = logits.chunks_exact(self.names.len());
        rows.zip(&batch.classes).try_for_each(|(row, &label)| self.counts.add_logits(row, label))
    }
    fn scores(&self) -> Scores {
        self.counts.scores()
    }
    fn report(&self) -> String {
        self.counts.table(&self.names).to_string()
    }
}
