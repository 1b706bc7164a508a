//! Scores of a single-label classifier, all from its confusion matrix.
//!
//! With C[t][p] the number of examples of target class t predicted as p, n their number, hits c = Σ C[k][k],
//! targets t_k = Σ_p C[k][p], predictions p_k = Σ_t C[t][k]: precision_k = C[k][k] / p_k, recall_k = C[k][k]
//! / t_k, F1_k = 2 C[k][k] / (t_k + p_k), each 0 where undefined; MCC = (c n − Σ t_k p_k) / sqrt((n² − Σ
//! p_k²)(n² − Σ t_k²)) (Gorodkin 2004), 0 where undefined.

use super::{ConfusionTable, Scores, f1, mean, ratio};
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Accumulates predictions of one class of `classes`. Memory: a count for each pair of classes that occurs.
#[derive(Clone, Debug, PartialEq)]
pub struct Classification {
    classes: usize,
    /// (target, prediction) -> examples; sparse, since with many classes most pairs never occur.
    counts: BTreeMap<(u32, u32), u64>,
    examples: u64,
    loss: f64,
    nonfinite: u64,
}

/// Scores of one class.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ClassScores {
    /// Share of the predictions of this class that are right; 0 if there are none.
    pub precision: f64,
    /// Share of the targets of this class that are found; 0 if there are none.
    pub recall: f64,
    /// Harmonic mean of the two; 0 if the class does not occur.
    pub f1: f64,
    /// Targets of this class.
    pub support: u64,
    /// Predictions of this class.
    pub predicted: u64,
}

impl Classification {
    /// Nothing counted yet, for classes 0 to `classes` - 1.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: BTreeMap::new(), examples: 0, loss: 0.0, nonfinite: 0 }
    }
    /// Counts an example with its loss. Refuses a class that is not below `classes`.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for a class that is not below `classes`.
    pub fn add(&mut self, prediction: u32, target: u32, loss: f64) -> Result<()> {
        for (what, class) in [("prediction", prediction), ("target", target)] {
            if class as usize >= self.classes {
                let e = Error::data(format!("a {what} names a class that is not there"));
                return Err(e
                    .with_expected(format!("a class below {}", self.classes))
                    .with_found(class.to_string()));
            }
        }
        *self.counts.entry((target, prediction)).or_default() += 1;
        self.examples += 1;
        self.loss += loss;
        self.nonfinite += u64::from(!loss.is_finite());
        Ok(())
    }
    /// Counts an example by its logits (classes): the prediction is the first greatest one (a NaN counts as
    /// greatest, as in NumPy), the loss is the cross-entropy −log softmax(logits) at the target, in f64.
    /// Returns the two.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for a class that is not below `classes`, or another number
    /// of logits.
    pub fn add_logits(&mut self, logits: &[f32], target: u32) -> Result<(u32, f64)> {
        if logits.len() != self.classes {
            let e = Error::shape("a row of logits does not fit the classes");
            return Err(e
                .with_expected(format!("{} logits", self.classes))
                .with_found(logits.len().to_string()));
        }
        let mut best = 0;
        for (i, x) in logits.iter().enumerate() {
            let greatest = logits.get(best).copied().unwrap_or(f32::NAN);
            if x.is_nan() {
                best = i;
                break;
            }
            best = if *x > greatest { i } else { best };
        }
        let top = logits.get(best).copied().map_or(f64::NAN, f64::from);
        let sum: f64 = logits.iter().map(|&x| (f64::from(x) - top).exp()).sum();
        let chosen = logits.get(target as usize).copied().map_or(f64::NAN, f64::from);
        let loss = top + sum.ln() - chosen;
        self.add(best as u32, target, loss)?;
        Ok((best as u32, loss))
    }
    /// Adds what another accumulator counted. Refuses one of another number of classes.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for another number of classes.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.classes != other.classes {
            let e = Error::shape("accumulators of different numbers of classes cannot be merged");
            return Err(e.with_expected(self.classes.to_string()).with_found(other.classes.to_string()));
        }
        other.counts.iter().for_each(|(pair, n)| *self.counts.entry(*pair).or_default() += n);
        self.examples += other.examples;
        self.loss += other.loss;
        self.nonfinite += other.nonfinite;
        Ok(())
    }
    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }
    /// Number of examples.
    pub fn len(&self) -> u64 {
        self.examples
    }
    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Mean loss of an example; NaN for none.
    pub fn loss(&self) -> f64 {
        mean(self.loss, self.len())
    }
    /// Examples whose loss was NaN or infinite.
    pub fn nonfinite(&self) -> u64 {
        self.nonfinite
    }
    /// Examples of class `target` predicted as `prediction`; 0 for classes that are not there.
    pub fn count(&self, target: usize, prediction: usize) -> u64 {
        let pair = u32::try_from(target).ok().zip(u32::try_from(prediction).ok());
        pair.and_then(|pair| self.counts.get(&pair)).copied().unwrap_or(0)
    }
    /// (target, prediction, examples) of every pair that occurs, in order.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize, u64)> {
        self.counts.iter().map(|(&(t, p), &n)| (t as usize, p as usize, n))
    }
    /// The confusion matrix, a row a target class, a column a prediction.
    pub fn confusion(&self) -> Vec<Vec<u64>> {
        let row = |t| (0..self.classes).map(|p| self.count(t, p)).collect();
        (0..self.classes).map(row).collect()
    }
    /// The confusion matrix as text; a class without a name is called by its number.
    pub fn table<'a>(&'a self, names: &'a [String]) -> ConfusionTable<'a> {
        ConfusionTable { of: self, names }
    }
    /// Scores of every class, in order.
    pub fn per_class(&self) -> Vec<ClassScores> {
        let (mut targets, mut predictions) = (vec![0; self.classes], vec![0; self.classes]);
        for (t, p, n) in self.pairs() {
            for (sums, k) in [(&mut targets, t), (&mut predictions, p)] {
                sums.get_mut(k).into_iter().for_each(|sum: &mut u64| *sum += n);
            }
        }
        let of = |(k, (support, predicted))| {
            let hits = self.count(k, k);
            let (precision, recall) = (ratio(hits, predicted), ratio(hits, support));
            ClassScores { precision, recall, f1: f1(hits, support, predicted), support, predicted }
        };
        targets.into_iter().zip(predictions).enumerate().map(of).collect()
    }
    /// How many precisions (no prediction of the class) and recalls (no target of the class) are undefined
    /// and count as 0, over the classes that occur at all: what scikit-learn warns of.
    pub fn undefined(&self) -> usize {
        let lone = |c: &&ClassScores| (c.support == 0) != (c.predicted == 0);
        self.per_class().iter().filter(lone).count()
    }
    /// Share of right predictions; NaN for none. The same number as micro-averaged F1.
    pub fn accuracy(&self) -> f64 {
        mean(self.hits() as f64, self.len())
    }
    fn hits(&self) -> u64 {
        self.pairs().filter(|(t, p, _)| t == p).map(|(.., n)| n).sum()
    }
    /// F1 averaged over the classes that occur among targets or predictions (scikit-learn's default); NaN for
    /// none.
    pub fn f1_macro(&self) -> f64 {
        let classes = self.per_class();
        let present = classes.iter().filter(|c| c.support + c.predicted > 0);
        mean(present.clone().map(|c| c.f1).sum(), present.count() as u64)
    }
    /// F1 averaged over classes by their number of targets; NaN for none.
    pub fn f1_weighted(&self) -> f64 {
        mean(self.per_class().iter().map(|c| c.f1 * c.support as f64).sum(), self.len())
    }
    /// Matthews correlation coefficient of any number of classes; 0 where undefined, NaN for no examples.
    pub fn mcc(&self) -> f64 {
        if self.is_empty() {
            return f64::NAN;
        }
        // Whole numbers throughout: the differences cancel to 0 exactly where the coefficient is undefined.
        let n = i128::from(self.len());
        let (mut tp, mut pp, mut tt) = (0i128, 0i128, 0i128);
        for c in self.per_class() {
            let (t, p) = (i128::from(c.support), i128::from(c.predicted));
            tp += t * p;
            pp += p * p;
            tt += t * t;
        }
        let covariance = i128::from(self.hits()) * n - tp;
        let (predictions, targets) = (n * n - pp, n * n - tt);
        if predictions == 0 || targets == 0 {
            return 0.0;
        }
        covariance as f64 / ((predictions as f64).sqrt() * (targets as f64).sqrt())
    }
    /// Every score, under the names of [`METRICS`](super::METRICS).
    pub fn scores(&self) -> Scores {
        [
            ("loss", self.loss()),
            ("accuracy", self.accuracy()),
            ("f1_macro", self.f1_macro()),
            ("f1_micro", self.accuracy()),
            ("f1_weighted", self.f1_weighted()),
            ("mcc", self.mcc()),
        ]
        .into_iter()
        .collect()
    }
}
