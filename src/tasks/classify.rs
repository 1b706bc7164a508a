//! One class of several: cross-entropy, class weights, label smoothing.

use super::{Meter, Task, only, reals, unlabelled};
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
    fn weights(&self, batch: &Batch) -> [f64; 2] {
        let one = |&c: &u32| match &self.class_weights {
            Some(w) => w.get(c as usize).map_or(0.0, |&w| w as f64),
            None => 1.0,
        };
        [batch.classes.iter().map(one).sum(), 0.0]
    }
    fn loss(&self, tape: &mut Tape, outputs: &[Var], batch: &Batch, [scale, _]: [f64; 2]) -> Result<Var> {
        let logits = *only(outputs)?;
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
    fn meter(&self, _: &TokenSet) -> Box<dyn Meter> {
        Box::new(Counted { names: self.classes.clone(), counts: Classification::new(self.classes.len()) })
    }
}

struct Counted {
    names: Vec<String>,
    counts: Classification,
}

impl Meter for Counted {
    fn add(&mut self, outputs: &[Vec<f32>], batch: &Batch) -> Result<()> {
        if batch.classes.len() != batch.len() {
            return Err(unlabelled());
        }
        let rows = only(outputs)?.chunks_exact(self.names.len());
        rows.zip(&batch.classes).try_for_each(|(row, &label)| self.counts.add_logits(row, label))
    }
    fn scores(&self) -> Scores {
        self.counts.scores()
    }
    fn report(&self) -> String {
        self.counts.table(&self.names).to_string()
    }
}
