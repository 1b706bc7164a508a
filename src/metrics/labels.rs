//! Scores of a multi-label classifier: each label is a decision of its own.

use super::{ClassScores, Scores, f1, mean, ratio};
use crate::error::{Error, Result};
use std::fmt;

/// Accumulates rows of `labels` decisions. Memory: three counts a label.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiLabel {
    thresholds: Vec<f64>,
    hits: Vec<u64>,
    targets: Vec<u64>,
    predictions: Vec<u64>,
    rows: u64,
    right_rows: u64,
    /// Σ over rows of the F1 of a row.
    row_f1: f64,
    loss: f64,
}

impl MultiLabel {
    /// Nothing counted yet, for `labels` labels; a label is predicted when its probability is above 0.5.
    pub fn new(labels: usize) -> Self {
        let none = vec![0; labels];
        let (hits, targets, predictions) = (none.clone(), none.clone(), none);
        let thresholds = vec![0.5; labels];
        Self { thresholds, hits, targets, predictions, rows: 0, right_rows: 0, row_f1: 0.0, loss: 0.0 }
    }
    /// Another threshold for every label, a probability.
    pub fn threshold(mut self, threshold: f64) -> Self {
        self.thresholds.fill(threshold);
        self
    }
    /// A threshold for each label, a probability; [`Curves`](super::Curves) finds them on a development set.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if they are not one a label.
    pub fn thresholds(mut self, thresholds: &[f64]) -> Result<Self> {
        if thresholds.len() != self.thresholds.len() {
            let e = Error::shape("the thresholds do not fit the labels");
            return Err(e
                .with_expected(self.thresholds.len().to_string())
                .with_found(thresholds.len().to_string()));
        }
        self.thresholds = thresholds.to_vec();
        Ok(self)
    }
    /// The probability of each label above which it is predicted.
    pub fn decides_above(&self) -> &[f64] {
        &self.thresholds
    }
    /// Counts a row of decisions (labels) with its loss. Refuses rows of another length.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for rows of another length.
    pub fn add(&mut self, predictions: &[bool], targets: &[bool], loss: f64) -> Result<()> {
        for row in [predictions, targets] {
            if row.len() != self.hits.len() {
                let e = Error::shape("a row of decisions does not fit the labels");
                return Err(e.with_expected(self.hits.len().to_string()).with_found(row.len().to_string()));
            }
        }
        let counts = self.hits.iter_mut().zip(&mut self.targets).zip(&mut self.predictions);
        for (((hits, target), predicted), (p, t)) in counts.zip(predictions.iter().zip(targets)) {
            *hits += u64::from(*p && *t);
            *target += u64::from(*t);
            *predicted += u64::from(*p);
        }
        self.rows += 1;
        self.right_rows += u64::from(predictions == targets);
        let count = |row: &[bool]| row.iter().filter(|x| **x).count() as u64;
        let both = predictions.iter().zip(targets).filter(|(p, t)| **p && **t).count() as u64;
        self.row_f1 += f1(both, count(targets), count(predictions));
        self.loss += loss;
        Ok(())
    }
    /// Counts a row by its logits (labels): predicted where sigmoid(logit) is above the threshold; the loss
    /// is the mean over labels of the binary cross-entropy max(z, 0) − z t + log(1 + exp(−|z|)). Returns what
    /// was counted.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for rows of another length.
    pub fn add_logits(&mut self, logits: &[f32], targets: &[bool]) -> Result<(Vec<bool>, f64)> {
        let above = |(&z, t): (&f32, &f64)| sigmoid(z) > *t;
        if logits.len() != self.thresholds.len() {
            let e = Error::shape("a row of logits does not fit the labels");
            return Err(e
                .with_expected(self.thresholds.len().to_string())
                .with_found(logits.len().to_string()));
        }
        let predictions: Vec<bool> = logits.iter().zip(&self.thresholds).map(above).collect();
        let loss = |(&z, &t): (&f32, &bool)| {
            let (z, t) = (f64::from(z), f64::from(u8::from(t)));
            // `max` would turn a NaN into 0.
            (if z < 0.0 { 0.0 } else { z }) - z * t + (-z.abs()).exp().ln_1p()
        };
        let sum: f64 = logits.iter().zip(targets).map(loss).sum();
        let loss = mean(sum, targets.len() as u64);
        self.add(&predictions, targets, loss)?;
        Ok((predictions, loss))
    }
    /// Adds what another accumulator counted. Refuses another number of labels or another threshold.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for another number of labels or another threshold.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.hits.len() != other.hits.len() || self.thresholds != other.thresholds {
            let say = |m: &Self| format!("{} labels above {:?}", m.hits.len(), m.thresholds);
            let e = Error::shape("accumulators of different labels cannot be merged");
            return Err(e.with_expected(say(self)).with_found(say(other)));
        }
        let of = [(&mut self.hits, &other.hits), (&mut self.targets, &other.targets)];
        for (mine, theirs) in of.into_iter().chain([(&mut self.predictions, &other.predictions)]) {
            mine.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
        }
        self.rows += other.rows;
        self.right_rows += other.right_rows;
        self.row_f1 += other.row_f1;
        self.loss += other.loss;
        Ok(())
    }
    /// Number of rows.
    pub fn len(&self) -> u64 {
        self.rows
    }
    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }
    /// Mean loss of a row; NaN for none.
    pub fn loss(&self) -> f64 {
        mean(self.loss, self.rows)
    }
    /// Share of rows with every label right (subset accuracy); NaN for none.
    pub fn accuracy(&self) -> f64 {
        mean(self.right_rows as f64, self.rows)
    }
    /// F1 of every label, in order; 0 for a label that does not occur.
    pub fn per_label(&self) -> Vec<f64> {
        let counts = self.hits.iter().zip(&self.targets).zip(&self.predictions);
        counts.map(|((h, t), p)| f1(*h, *t, *p)).collect()
    }
    /// Precision, recall, F1 and counts of every label, in order.
    pub fn label_scores(&self) -> Vec<ClassScores> {
        let counts = self.hits.iter().zip(&self.targets).zip(&self.predictions);
        let of = |((&h, &t), &p): ((&u64, &u64), &u64)| {
            let (precision, recall) = (ratio(h, p), ratio(h, t));
            ClassScores { precision, recall, f1: f1(h, t, p), support: t, predicted: p }
        };
        counts.map(of).collect()
    }
    /// Share of wrong decisions (Hamming loss); NaN for none.
    pub fn hamming(&self) -> f64 {
        let sum = |counts: &[u64]| counts.iter().sum::<u64>();
        let wrong = sum(&self.targets) + sum(&self.predictions) - 2 * sum(&self.hits);
        mean(wrong as f64, self.rows * self.hits.len() as u64)
    }
    /// Mean over rows of the F1 of a row, 0 for a row without labels on both sides; NaN for no rows.
    pub fn f1_samples(&self) -> f64 {
        mean(self.row_f1, self.rows)
    }
    /// Scores of every label as text for a terminal; a label without a name is called by its number.
    pub fn table<'a>(&'a self, names: &'a [String]) -> LabelTable<'a> {
        LabelTable { of: self, names }
    }
    /// F1 averaged over all labels, also those that do not occur, as scikit-learn does with indicator
    /// matrices.
    pub fn f1_macro(&self) -> f64 {
        if self.is_empty() { f64::NAN } else { mean(self.per_label().iter().sum(), self.hits.len() as u64) }
    }
    /// F1 of all decisions together; 0 if no label occurs, NaN for no rows.
    pub fn f1_micro(&self) -> f64 {
        let sum = |counts: &[u64]| counts.iter().sum();
        if self.is_empty() {
            f64::NAN
        } else {
            f1(sum(&self.hits), sum(&self.targets), sum(&self.predictions))
        }
    }
    /// F1 averaged over labels by their number of targets; 0 without any, NaN for no rows.
    pub fn f1_weighted(&self) -> f64 {
        let targets: u64 = self.targets.iter().sum();
        let sum: f64 = self.per_label().iter().zip(&self.targets).map(|(f, t)| f * *t as f64).sum();
        if self.is_empty() || targets > 0 { mean(sum, targets) } else { 0.0 }
    }
    /// Every score, under the names of [`METRICS`](super::METRICS).
    pub fn scores(&self) -> Scores {
        [
            ("loss", self.loss()),
            ("accuracy", self.accuracy()),
            ("f1_macro", self.f1_macro()),
            ("f1_micro", self.f1_micro()),
            ("f1_weighted", self.f1_weighted()),
            ("f1_samples", self.f1_samples()),
            ("hamming", self.hamming()),
        ]
        .into_iter()
        .collect()
    }
}

/// Shows a [`MultiLabel`]: a row a label.
#[derive(Clone, Copy, Debug)]
pub struct LabelTable<'a> {
    of: &'a MultiLabel,
    names: &'a [String],
}

impl fmt::Display for LabelTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scores = self.of.label_scores();
        let name = |i: usize| self.names.get(i).cloned().unwrap_or_else(|| i.to_string());
        let names: Vec<String> = (0..scores.len()).map(name).collect();
        super::write_rows(f, "label", names.iter().map(String::as_str).zip(scores))
    }
}

/// Probabilities of a row of logits, each label for itself; what [`Curves`](super::Curves) takes.
pub fn sigmoids(logits: &[f32]) -> Vec<f64> {
    logits.iter().map(|&z| sigmoid(z)).collect()
}

fn sigmoid(z: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(z)).exp())
}
