//! Scores of a regressor: errors and correlations.
//!
//! Moments are kept as means and centred sums (Welford 1962) and merged pairwise (Chan, Golub, LeVeque 1983):
//! with d = mean_b − mean_a, M2 = M2_a + M2_b + d² n_a n_b / n; the co-moment likewise. Sums of squares would
//! cancel.

use super::{Scores, mean};

/// Accumulates pairs of prediction and target. Memory: the pairs, which Spearman's ranks need, and a few
/// sums.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Regression {
    moments: Moments,
    squared: f64,
    absolute: f64,
    loss: f64,
    pairs: Vec<(f64, f64)>,
}

/// Means and centred second moments of pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Moments {
    n: f64,
    mean: (f64, f64),
    /// Σ (x − x̄)², Σ (y − ȳ)², Σ (x − x̄)(y − ȳ).
    xx: f64,
    yy: f64,
    xy: f64,
}

impl Moments {
    fn merge(&mut self, o: &Self) {
        let n = self.n + o.n;
        if o.n == 0.0 {
            return;
        }
        let (dx, dy) = (o.mean.0 - self.mean.0, o.mean.1 - self.mean.1);
        let share = if self.n == 0.0 { 0.0 } else { self.n * o.n / n };
        self.xx += o.xx + dx * dx * share;
        self.yy += o.yy + dy * dy * share;
        self.xy += o.xy + dx * dy * share;
        // From nothing the other's mean is taken as it is, so that a constant has a second moment of
        // exactly 0.
        self.mean =
            if self.n == 0.0 { o.mean } else { (self.mean.0 + dx * o.n / n, self.mean.1 + dy * o.n / n) };
        self.n = n;
    }
    fn of(pairs: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut all = Self::default();
        pairs.into_iter().for_each(|pair| all.merge(&Self { n: 1.0, mean: pair, ..Self::default() }));
        all
    }
    /// NaN for fewer than two pairs or a constant side, as in SciPy.
    fn correlation(&self) -> f64 {
        if self.n < 2.0 || self.xx == 0.0 || self.yy == 0.0 {
            return f64::NAN;
        }
        (self.xy / (self.xx.sqrt() * self.yy.sqrt())).clamp(-1.0, 1.0)
    }
}

impl Regression {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// Counts an example with its loss.
    pub fn add(&mut self, prediction: f64, target: f64, loss: f64) {
        let error = prediction - target;
        self.moments.merge(&Moments { n: 1.0, mean: (prediction, target), ..Moments::default() });
        self.squared += error * error;
        self.absolute += error.abs();
        self.loss += loss;
        self.pairs.push((prediction, target));
    }
    /// Adds what another accumulator counted.
    pub fn merge(&mut self, other: &Self) {
        self.moments.merge(&other.moments);
        self.squared += other.squared;
        self.absolute += other.absolute;
        self.loss += other.loss;
        self.pairs.extend_from_slice(&other.pairs);
    }
    /// The pairs of prediction and target, in the order in which they were counted.
    pub fn pairs(&self) -> &[(f64, f64)] {
        &self.pairs
    }
    /// Number of examples.
    pub fn len(&self) -> u64 {
        self.pairs.len() as u64
    }
    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
    /// Mean loss of an example; NaN for none.
    pub fn loss(&self) -> f64 {
        mean(self.loss, self.len())
    }
    /// Mean squared error; NaN for none.
    pub fn mse(&self) -> f64 {
        mean(self.squared, self.len())
    }
    /// Mean absolute error; NaN for none.
    pub fn mae(&self) -> f64 {
        mean(self.absolute, self.len())
    }
    /// Pearson's correlation; NaN for fewer than two pairs or a constant side.
    pub fn pearson(&self) -> f64 {
        self.moments.correlation()
    }
    /// Spearman's correlation: Pearson's of the ranks, ties sharing their average rank. NaN also if any value
    /// is.
    pub fn spearman(&self) -> f64 {
        if self.pairs.iter().any(|(x, y)| x.is_nan() || y.is_nan()) {
            return f64::NAN;
        }
        let x = ranks(&self.pairs.iter().map(|p| p.0).collect::<Vec<_>>());
        let y = ranks(&self.pairs.iter().map(|p| p.1).collect::<Vec<_>>());
        Moments::of(x.into_iter().zip(y)).correlation()
    }
    /// Every score, under the names of [`METRICS`](super::METRICS).
    pub fn scores(&self) -> Scores {
        [
            ("loss", self.loss()),
            ("mse", self.mse()),
            ("mae", self.mae()),
            ("pearson", self.pearson()),
            ("spearman", self.spearman()),
        ]
        .into_iter()
        .collect()
    }
}

/// Ranks counted from 1; equal values share the average of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<(f64, usize)> = values.iter().copied().zip(0..).collect();
    // `total_cmp` would part −0 from 0.
    order.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap_or(std::cmp::Ordering::Equal));
    let mut ranks = vec![0.0; values.len()];
    let mut done = 0;
    for tied in order.chunk_by(|a, b| a.0 == b.0) {
        let rank = done as f64 + (tied.len() as f64 + 1.0) / 2.0;
        for (_, i) in tied {
            if let Some(slot) = ranks.get_mut(*i) {
                *slot = rank;
            }
        }
        done += tied.len();
    }
    ranks
}
