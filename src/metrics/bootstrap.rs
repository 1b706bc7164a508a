//! How sure a score is: percentile intervals by resampling examples with replacement (Efron 1979).

use super::Scores;
use crate::rng::Rng;
use std::fmt;

/// How to resample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// How many resamples.
    pub samples: usize,
    /// The share of resampled scores within the interval.
    pub confidence: f64,
    /// Same seed, same resamples.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { samples: 1000, confidence: 0.95, seed: 0 }
    }
}

/// A score and where it would probably lie on other examples of the same kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The score of the examples as they are.
    pub value: f64,
    /// Its lower end: the (1 − confidence) / 2 quantile of the resampled scores.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// Resamples whose score was undefined (NaN) and is in no quantile.
    pub undefined: usize,
}

/// `0.9120 [0.8950, 0.9280]`.
impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4} [{:.4}, {:.4}]", self.value, self.low, self.high)
    }
}

/// Two systems on the same examples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// The first's score minus the second's.
    pub difference: Interval,
    /// Two-sided: 2 (1 + resamples where the difference is not of its sign) / (1 + resamples), at most 1.
    pub p: f64,
}

impl Bootstrap {
    /// The interval of any score of `examples` examples. `score` is given the indices of the examples to
    /// score, each as often as it was drawn: fill an accumulator with them. It is called once more than there
    /// are samples.
    ///
    /// ```
    /// use tempra::metrics::Bootstrap;
    ///
    /// let right = [1.0, 1.0, 0.0, 1.0];
    /// let accuracy = |drawn: &[usize]| drawn.iter().map(|&i| right[i]).sum::<f64>() / drawn.len() as f64;
    /// let interval = Bootstrap::default().interval(right.len(), accuracy);
    /// assert_eq!(interval.value, 0.75);
    /// assert!(interval.low <= 0.75 && 0.75 <= interval.high);
    /// ```
    pub fn interval(&self, examples: usize, score: impl Fn(&[usize]) -> f64) -> Interval {
        self.resample(examples, score).0
    }
    /// The interval of every score of `examples` examples, in the order of the scores; as
    /// [`Bootstrap::interval`], with the same draws for all.
    pub fn intervals(&self, examples: usize, score: impl Fn(&[usize]) -> Scores) -> Vec<(String, Interval)> {
        let mut drawn: Vec<usize> = (0..examples).collect();
        let whole = score(&drawn);
        let mut all: Vec<Vec<f64>> = vec![Vec::with_capacity(self.samples); whole.iter().len()];
        for i in 0..if examples == 0 { 0 } else { self.samples } {
            self.draw(i, &mut drawn);
            let scores = score(&drawn);
            // A score that a draw does not have is undefined there.
            let of = |name| scores.get(name).unwrap_or(f64::NAN);
            all.iter_mut().zip(whole.iter()).for_each(|(all, (name, _))| all.push(of(name)));
        }
        let each = whole.iter().zip(all);
        each.map(|((name, value), all)| (name.to_owned(), self.ends(value, all).0)).collect()
    }
    /// The interval of a mean.
    pub fn mean(&self, values: &[f64]) -> Interval {
        self.interval(values.len(), |drawn| {
            drawn.iter().filter_map(|i| values.get(*i)).sum::<f64>() / drawn.len() as f64
        })
    }
    /// Compares two systems: both are scored on the same resamples, so what is hard for both counts for
    /// neither.
    pub fn paired(
        &self,
        examples: usize,
        first: impl Fn(&[usize]) -> f64,
        second: impl Fn(&[usize]) -> f64,
    ) -> Paired {
        let (difference, scores) = self.resample(examples, |drawn| first(drawn) - second(drawn));
        let against = |d: &&f64| if difference.value < 0.0 { **d >= 0.0 } else { **d <= 0.0 };
        let against = scores.iter().filter(against).count();
        let p = (2.0 * (1.0 + against as f64) / (1.0 + scores.len() as f64)).min(1.0);
        Paired { p: if difference.value.is_nan() { f64::NAN } else { p }, difference }
    }
    /// The interval, and the resampled scores in order.
    fn resample(&self, examples: usize, score: impl Fn(&[usize]) -> f64) -> (Interval, Vec<f64>) {
        let mut drawn: Vec<usize> = (0..examples).collect();
        let value = score(&drawn);
        let mut scores = Vec::with_capacity(self.samples);
        for i in 0..if examples == 0 { 0 } else { self.samples } {
            self.draw(i, &mut drawn);
            scores.push(score(&drawn));
        }
        self.ends(value, scores)
    }
    /// The draw of that number.
    fn draw(&self, i: usize, drawn: &mut [usize]) {
        let n = u32::try_from(drawn.len()).unwrap_or(u32::MAX);
        let mut rng = Rng::new(self.seed, "bootstrap", i as u64);
        drawn.iter_mut().for_each(|d| *d = rng.below(n) as usize);
    }
    fn ends(&self, value: f64, mut scores: Vec<f64>) -> (Interval, Vec<f64>) {
        let all = scores.len();
        scores.retain(|s| !s.is_nan());
        scores.sort_by(f64::total_cmp);
        let tail = (1.0 - self.confidence) / 2.0;
        let (low, high) = (quantile(&scores, tail), quantile(&scores, 1.0 - tail));
        (Interval { value, low, high, undefined: all - scores.len() }, scores)
    }
}

/// A quantile of sorted values, between two of them in proportion, as NumPy's default; NaN of none.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64;
    let value = |i: f64| sorted.get(i as usize).copied().unwrap_or(f64::NAN);
    let (low, high) = (value(at.floor()), value(at.ceil()));
    // Equal infinities have no difference.
    if low == high { low } else { low + (high - low) * at.fract() }
}
