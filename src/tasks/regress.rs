//! One number: mean squared error, as `transformers` trains `num_labels` 1, of targets in units of their
//! standard deviation.

use super::{
    DataKind, Meter, SoftKind, SoftOutput, Task, TaskEntry, only, reals, row_weights, total_weight,
    unlabelled,
};
use crate::data::{Batch, TokenSet};
use crate::error::{Error, Result};
use crate::metrics::{Regression, Scores};
use crate::models::Outputs;
use crate::ops::mse::Mse;
use crate::tape::{Tape, Var};

/// The task's entry in the table.
pub(super) const ENTRY: TaskEntry = TaskEntry {
    name: "regress",
    doc: "predicts a number",
    best_metric: "mse",
    metrics: &[("regress", &["pearson", "spearman", "mse", "mae", "loss"])],
    data: DataKind::Rows,
    trains: |outputs| *outputs == Outputs::Number,
    sections: &["regress"],
    classes: false,
    weights: true,
    scores: &["squared and absolute error, Pearson, Spearman"],
    columns: &["prediction"],
};

/// The task; see the module. The loss, in training and among the scores, is the mean of ((prediction -
/// target) / `unit`)^2; all other scores are in original units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Regress {
    /// What an output of 0 stands for.
    pub shift: f64,
    /// What an output of 1 stands for, less `shift`.
    pub scale: f64,
    /// What differences of prediction and target are divided by in the loss.
    pub unit: f64,
}

impl Default for Regress {
    /// Outputs and loss in original units.
    fn default() -> Self {
        Self { shift: 0.0, scale: 1.0, unit: 1.0 }
    }
}

impl Regress {
    /// Outputs that stand for standard deviations from the mean of a training set's targets: pairs of target
    /// and weight.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) for targets that are all the same, or differ by hardly more
    /// than an f32 can tell.
    pub fn standardized(weighted: impl Iterator<Item = (f64, f64)> + Clone) -> Result<Self> {
        let (mean, std) = mean_and_deviation(weighted.clone());
        let targets = weighted.map(|(target, _)| target);
        let n = targets.clone().count();
        let first = targets.clone().next().unwrap_or(0.0);
        if targets.clone().all(|t| t == first) {
            return Err(Error::data("all targets are the same: there is nothing to learn")
                .with_expected("at least two different numbers in the training examples")
                .with_found(format!("{first} in each of {n}"))
                .with_help("check that data.label names the right column; regress.standardize = false trains on such targets"));
        }
        if std < mean.abs() * LEAST_SPREAD {
            return Err(Error::data("the targets differ too little for the precision of a 32-bit float")
                .with_expected(format!("a standard deviation of at least {:.3e}", mean.abs() * LEAST_SPREAD))
                .with_found(format!("a standard deviation of {std:.3e} around {mean}"))
                .with_help("subtract a constant from the labels"));
        }
        Ok(Self { shift: mean, scale: std, unit: std })
    }
    /// What an output stands for.
    fn prediction(&self, output: f32) -> f64 {
        self.shift + self.scale * f64::from(output)
    }
    fn add(&self, sums: &mut Regression, (prediction, target): (f64, f64)) {
        let difference = (prediction - target) / self.unit;
        sums.add(prediction, target, difference * difference);
    }
}

/// The mean and the standard deviation of pairs of value and weight.
pub fn mean_and_deviation(weighted: impl Iterator<Item = (f64, f64)> + Clone) -> (f64, f64) {
    let weights: f64 = weighted.clone().map(|(_, w)| w).sum();
    let n = if weights > 0.0 { weights } else { 1.0 };
    let mean = weighted.clone().map(|(v, w)| w * v).sum::<f64>() / n;
    let squares = weighted.map(|(v, w)| w * ((v - mean) * (v - mean)));
    (mean, (squares.sum::<f64>() / n).sqrt())
}

/// The least standard deviation over the mean: about 8 times the distance of neighbours in f32, which hold
/// targets and the last bias.
const LEAST_SPREAD: f64 = 1e-6;

impl Task for Regress {
    fn outputs(&self) -> Outputs {
        Outputs::Number
    }
    fn weights(&self, batch: &Batch) -> [f64; 2] {
        [total_weight(batch), 0.0]
    }
    fn loss(&self, tape: &mut Tape, outputs: &[Var], batch: &Batch, [scale, _]: [f64; 2]) -> Result<Var> {
        let logits = only(outputs)?;
        let values = batch.targets.values();
        if values.len() != batch.len() {
            return Err(unlabelled());
        }
        let values: Vec<f64> = values.iter().map(|&v| (f64::from(v) - self.shift) / self.scale).collect();
        // In units of `unit`, which are those of the outputs mostly.
        let scale = scale * (self.scale / self.unit).powi(2);
        let mut x = vec![
            logits.clone(),
            reals(tape, logits, &[batch.len(), 1], &values)?,
            reals(tape, logits, &[1], &[scale])?,
        ];
        x.extend(row_weights(tape, logits, batch)?);
        tape.apply(Mse, x)
    }
    fn soft(&self) -> Option<SoftOutput> {
        let Self { shift, scale, unit } = *self;
        Some(SoftKind::Number { shift, scale, unit }.first())
    }
    fn units(&self) -> Option<(f64, f64)> {
        (*self != Self { unit: self.unit, ..Self::default() }).then_some((self.shift, self.scale))
    }
    fn meter(&self, _: &TokenSet) -> Box<dyn Meter> {
        Box::new(Measured { task: *self, sums: Regression::new() })
    }
    fn uninformative(&self, metric: &str, set: &TokenSet) -> Result<Option<String>> {
        Ok(uncorrelated(metric, set.targets.values()))
    }
}

struct Measured {
    task: Regress,
    sums: Regression,
}

impl Meter for Measured {
    fn add(&mut self, outputs: &[Vec<f32>], batch: &Batch) -> Result<()> {
        let values = batch.targets.values();
        if values.len() != batch.len() {
            return Err(unlabelled());
        }
        for (&p, &t) in only(outputs)?.iter().zip(values) {
            self.task.add(&mut self.sums, (self.task.prediction(p), f64::from(t)));
        }
        Ok(())
    }
    fn scores(&self) -> Scores {
        self.sums.scores()
    }
    /// The scores are all there is to say.
    fn report(&self) -> String {
        String::new()
    }
    fn units(&self) -> usize {
        self.sums.pairs().len()
    }
    fn scores_of(&self, drawn: &[usize]) -> Scores {
        let pairs = self.sums.pairs();
        let mut sums = Regression::new();
        drawn.iter().filter_map(|&i| pairs.get(i)).for_each(|&pair| self.task.add(&mut sums, pair));
        sums.scores()
    }
}

/// Why a correlation with these targets is undefined, if `metric` is one.
pub(super) fn uncorrelated(metric: &str, targets: &[f32]) -> Option<String> {
    let alike = targets.windows(2).all(|pair| pair[0] == pair[1]);
    let asked = ["pearson", "spearman"].contains(&metric) && alike;
    asked.then(|| match targets.len() {
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
