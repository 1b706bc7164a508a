//! Scores that need the order of all predictions: AUROC, average precision, the best threshold.
//!
//! AUROC is the chance that a positive stands above a negative, ties counting half (Mann-Whitney U / (P N)),
//! which is the area under the trapezoids of the ROC curve. AP = Σ (R_k − R_{k−1}) P_k over the distinct
//! scores from the highest down. Both as scikit-learn: AUROC is NaN without a positive or without a negative,
//! AP is 0 without a positive.

use super::{Scores, f1, mean};
use crate::error::{Error, Result};

/// Accumulates one label's scores and truths. Memory: 16 bytes an example, since every example's rank counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve(Vec<(f64, bool)>);

impl Curve {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// Counts an example; a higher score says that it is rather a positive.
    pub fn add(&mut self, score: f64, positive: bool) {
        self.0.push((score, positive));
    }
    /// Adds what another accumulator counted.
    pub fn merge(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }
    /// Number of examples.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    fn positives(&self) -> u64 {
        self.0.iter().filter(|(_, t)| *t).count() as u64
    }
    /// (score, positives, negatives) of every distinct score from the highest down; none if a score is NaN.
    fn steps(&self) -> Option<Vec<(f64, u64, u64)>> {
        if self.0.iter().any(|(s, _)| s.is_nan()) {
            return None;
        }
        let mut sorted = self.0.clone();
        // Without NaN this is total; `total_cmp` would part −0 from 0.
        sorted.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or(std::cmp::Ordering::Equal));
        let step = |tied: &[(f64, bool)]| {
            let p = tied.iter().filter(|(_, t)| *t).count();
            (tied.first().map_or(f64::NAN, |s| s.0), p as u64, (tied.len() - p) as u64)
        };
        Some(sorted.chunk_by(|a, b| a.0 == b.0).map(step).collect())
    }
    /// Area under the ROC curve; NaN without both classes or if a score is NaN.
    pub fn auroc(&self) -> f64 {
        self.steps().map_or(f64::NAN, |steps| auroc(steps.into_iter().map(|(_, p, n)| (p, n))))
    }
    /// Average precision; 0 without a positive, NaN if a score is NaN or for no examples.
    pub fn average_precision(&self) -> f64 {
        self.steps().map_or(f64::NAN, |steps| average_precision(steps.into_iter().map(|(_, p, n)| (p, n))))
    }
    /// The threshold with the greatest F1 and that F1, where a score above the threshold is a yes. It lies
    /// half way between two scores (below the lowest, half way to 0, or to 1 less if that is not positive);
    /// of equally good ones it is the nearest to 0.5. (0.5, 0) without a positive.
    pub fn best_threshold(&self) -> (f64, f64) {
        let p = self.positives();
        let mut best = (0.5, 0.0);
        let Some(steps) = self.steps().filter(|_| p > 0) else { return best };
        let (mut hits, mut seen) = (0, 0);
        for (i, (score, positives, negatives)) in steps.iter().enumerate() {
            hits += positives;
            seen += positives + negatives;
            let end = if *score > 0.0 { 0.0 } else { score - 1.0 };
            let below = steps.get(i + 1).map_or(end, |s| s.0);
            let half = below + (score - below) / 2.0;
            // Of neighbouring numbers the half may round up to the score itself.
            let threshold = if half < *score { half } else { below };
            let f = f1(hits, p, seen);
            let nearer = |t: f64, than: f64| (t - 0.5).abs() < (than - 0.5).abs();
            if threshold < *score && (f > best.1 || (f == best.1 && nearer(threshold, best.0))) {
                best = (threshold, f);
            }
        }
        best
    }
}

/// AUROC from the positives and negatives of every distinct score, from the highest down.
fn auroc(steps: impl Iterator<Item = (u64, u64)>) -> f64 {
    // Twice the number of pairs in the right order, as a whole number.
    let (mut above, mut below, mut twice) = (0u64, 0u64, 0u128);
    for (positives, negatives) in steps {
        twice += u128::from(negatives) * u128::from(2 * above + positives);
        above += positives;
        below += negatives;
    }
    if above == 0 || below == 0 { f64::NAN } else { twice as f64 / (2.0 * above as f64 * below as f64) }
}

/// Average precision from the same.
fn average_precision(steps: impl Iterator<Item = (u64, u64)>) -> f64 {
    let (mut hits, mut seen, mut sum) = (0, 0, 0.0);
    for (positives, negatives) in steps {
        hits += positives;
        seen += positives + negatives;
        if positives > 0 {
            sum += positives as f64 * hits as f64 / seen as f64;
        }
    }
    if hits == 0 && seen > 0 { 0.0 } else { mean(sum, hits) }
}

/// A [`Curve`] for every label or, one against the rest, every class.
#[derive(Clone, Debug, PartialEq)]
pub struct Curves(Vec<Curve>);

impl Curves {
    /// Nothing counted yet, for `labels` labels or classes.
    pub fn new(labels: usize) -> Self {
        Self(vec![Curve::new(); labels])
    }
    fn fit(&self, what: &str, n: usize) -> Result<()> {
        if n == self.0.len() {
            return Ok(());
        }
        let e = Error::shape(format!("{what} do not fit the labels"));
        Err(e.with_expected(self.0.len().to_string()).with_found(n.to_string()))
    }
    /// Counts a row of scores (labels) with its truths. Refuses rows of another length.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for rows of another length.
    pub fn add(&mut self, scores: &[f64], targets: &[bool]) -> Result<()> {
        self.fit("a row's scores", scores.len())?;
        self.fit("a row's targets", targets.len())?;
        self.0.iter_mut().zip(scores.iter().zip(targets)).for_each(|(c, (s, t))| c.add(*s, *t));
        Ok(())
    }
    /// Counts a row of class scores (classes) of an example of class `target`: one against the rest.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for rows of another length.
    pub fn add_class(&mut self, scores: &[f64], target: u32) -> Result<()> {
        let targets: Vec<bool> = (0..self.0.len()).map(|k| k == target as usize).collect();
        self.add(scores, &targets)
    }
    /// Adds what another accumulator counted. Refuses another number of labels.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for another number of labels.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.fit("the other accumulator's labels", other.0.len())?;
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| a.merge(b));
        Ok(())
    }
    /// The curve of every label, in order.
    pub fn curves(&self) -> &[Curve] {
        &self.0
    }
    /// Mean AUROC over labels; NaN if one is, as in scikit-learn.
    pub fn auroc_macro(&self) -> f64 {
        mean(self.0.iter().map(Curve::auroc).sum(), self.0.len() as u64)
    }
    /// Mean average precision over labels; NaN if one is.
    pub fn average_precision_macro(&self) -> f64 {
        mean(self.0.iter().map(Curve::average_precision).sum(), self.0.len() as u64)
    }
    /// The threshold of every label with its greatest F1 (see [`Curve::best_threshold`]). Find them on a
    /// development set: on the test set they would flatter.
    pub fn best_thresholds(&self) -> Vec<f64> {
        self.0.iter().map(|c| c.best_threshold().0).collect()
    }
    /// `auroc` and `average_precision`. Of two classes it is that of class 1, else the mean over labels or
    /// classes; `classes`: whether each row has exactly one of them.
    pub fn scores(&self, classes: bool) -> Scores {
        let each = self.0.iter().map(|c| (c.auroc(), c.average_precision()));
        summary(each.collect(), classes)
    }
    /// The examples in the order of their scores, for the scores of many draws of them.
    pub fn ranked(&self) -> Ranked {
        let one = |c: &Curve| {
            let mut order: Vec<usize> = (0..c.len()).collect();
            order.sort_by(|&a, &b| c.0[b].0.partial_cmp(&c.0[a].0).unwrap_or(std::cmp::Ordering::Equal));
            let ties = order.chunk_by(|&a, &b| c.0[a].0 == c.0[b].0);
            let step = |tied: &[usize]| tied.iter().map(|&i| (i, c.0[i].1)).collect();
            (!c.0.iter().any(|(s, _)| s.is_nan())).then(|| ties.map(step).collect())
        };
        Ranked(self.0.iter().map(one).collect())
    }
}

/// The scores of every label or class as one; see [`Curves::scores`].
fn summary(each: Vec<(f64, f64)>, classes: bool) -> Scores {
    let of = |f: fn(&(f64, f64)) -> f64| match each.as_slice() {
        [_, second] if classes => f(second),
        all => mean(all.iter().map(f).sum(), all.len() as u64),
    };
    [("auroc", of(|e| e.0)), ("average_precision", of(|e| e.1))].into_iter().collect()
}

/// The examples of [`Curves`] in order: draws of them are scored without sorting again.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked(Vec<Option<Steps>>);

/// Examples, and whether each is a positive, from the highest score down; those of one score together.
type Steps = Vec<Vec<(usize, bool)>>;

impl Ranked {
    /// [`Curves::scores`] of a draw, `times` saying how often each example is in it.
    pub fn scores(&self, times: &[u32], classes: bool) -> Scores {
        let count = |step: &Vec<(usize, bool)>| {
            step.iter().fold((0, 0), |(p, n), &(i, positive)| {
                let times = u64::from(times.get(i).copied().unwrap_or(0));
                if positive { (p + times, n) } else { (p, n + times) }
            })
        };
        let one = |curve: &Option<Steps>| {
            curve.as_ref().map_or((f64::NAN, f64::NAN), |steps| {
                (auroc(steps.iter().map(count)), average_precision(steps.iter().map(count)))
            })
        };
        summary(self.0.iter().map(one).collect(), classes)
    }
}

/// softmax(logits) (classes) in f64.
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
    let e: Vec<f64> = logits.iter().map(|&x| (f64::from(x) - top).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|x| x / sum).collect()
}
