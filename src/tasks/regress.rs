//! One number: mean squared error, as `transformers` trains `num_labels` 1.

use super::{Meter, Task, only, reals, unlabelled};
use crate::data::{Batch, Label, TokenSet};
use crate::error::Result;
use crate::metrics::{Regression, Scores};
use crate::models::Outputs;
use crate::ops::mse::Mse;
use crate::tape::{Tape, Var};

/// The task; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Regress;

impl Task for Regress {
    fn outputs(&self) -> Outputs {
        Outputs::Number
    }
    fn weights(&self, batch: &Batch) -> [f64; 2] {
        [batch.len() as f64, 0.0]
    }
    fn loss(&self, tape: &mut Tape, outputs: &[Var], batch: &Batch, [scale, _]: [f64; 2]) -> Result<Var> {
        let logits = *only(outputs)?;
        if batch.values.len() != batch.len() {
            return Err(unlabelled());
        }
        let values: Vec<f64> = batch.values.iter().map(|&v| v as f64).collect();
        let x =
            [logits, reals(tape, logits, &[batch.len(), 1], &values)?, reals(tape, logits, &[1], &[scale])?];
        tape.apply(Mse, &x)
    }
    fn meter(&self, _: &TokenSet) -> Box<dyn Meter> {
        Box::new(Measured(Regression::new()))
    }
    fn uninformative(&self, metric: &str, set: &TokenSet) -> Result<Option<String>> {
        Ok(uncorrelated(metric, &set.labels))
    }
}

struct Measured(Regression);

impl Meter for Measured {
    fn add(&mut self, outputs: &[Vec<f32>], batch: &Batch) -> Result<()> {
        if batch.values.len() != batch.len() {
            return Err(unlabelled());
        }
        for (&p, &t) in only(outputs)?.iter().zip(&batch.values) {
            let (p, t) = (p as f64, t as f64);
            self.0.add(p, t, (p - t) * (p - t));
        }
        Ok(())
    }
    fn scores(&self) -> Scores {
        self.0.scores()
    }
    /// The scores are all there is to say.
    fn report(&self) -> String {
        String::new()
    }
    fn units(&self) -> usize {
        self.0.pairs().len()
    }
    fn scores_of(&self, drawn: &[usize]) -> Scores {
        measured(self.0.pairs(), drawn).scores()
    }
}

/// Why a correlation with these targets is undefined, if `metric` is one.
pub(super) fn uncorrelated(metric: &str, labels: &[Label]) -> Option<String> {
    let alike = labels.windows(2).all(|pair| pair[0] == pair[1]);
    let asked = ["pearson", "spearman"].contains(&metric) && alike;
    asked.then(|| match labels.len() {
        0 | 1 => "there are fewer than two examples".to_owned(),
        _ => "all targets are the same number".to_owned(),
    })
}

/// The pairs of prediction and target that were drawn, with their squared differences as losses.
pub(super) fn measured(pairs: &[(f64, f64)], drawn: &[usize]) -> Regression {
    let mut sums = Regression::new();
    for &(p, t) in drawn.iter().filter_map(|&i| pairs.get(i)) {
        sums.add(p, t, (p - t) * (p - t));
    }
    sums
}
