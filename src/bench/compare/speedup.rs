//! A speedup, its interval, and the one rule from which verdicts and the gate follow.

use crate::bench::measure::Quartiles;
use crate::rng::Rng;
use serde::Serialize;

/// An interval within this of 1 counts as the same.
pub const SAME: f64 = 0.03;
/// A larger uncertainty makes a measurement unusable: the interval reaches further than a factor of 2 to one
/// side.
pub const USABLE: f64 = 1.0;
/// The least number of samples of each side for a bootstrap. A resample of fewer samples too often repeats
/// one of them, so that the interval is too narrow.
const ENOUGH: usize = 8;
/// Resamples of the bootstrap.
const RESAMPLES: usize = 1000;

/// The verdict on a speedup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval is above 1: the other is faster than the base.
    Faster,
    /// The whole interval is below 1: the other is slower than the base.
    Slower,
    /// The whole interval is within 3 % of 1.
    Same,
    /// The interval contains 1 and reaches further than 3 % from it.
    CannotTell,
    /// The uncertainty exceeds 100 %.
    Unusable,
}

impl Verdict {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::Same => "same",
            Verdict::CannotTell => "cannot tell",
            Verdict::Unusable => "unusable",
        }
    }
}

/// Where an interval lies, seen from a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// All of it is below.
    Below,
    /// It contains the threshold.
    Across,
    /// All of it is above.
    Above,
}

/// The base's time divided by the other's, with a 95 % interval: above 1 means that the other is faster.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speedup {
    /// The ratio of the medians.
    #[serde(rename = "speedup")]
    pub value: f64,
    /// The lower end of the interval; 0 if nothing is known.
    pub low: f64,
    /// The upper end of the interval; infinite (in JSON `null`) if nothing is known.
    pub high: f64,
}

/// What is known of one side's time.
pub(super) struct Times<'a> {
    pub seconds: &'a Quartiles,
    /// The number of samples.
    pub samples: usize,
    /// All samples in seconds, if the result has them.
    pub all: &'a [f64],
}

impl Speedup {
    /// The speedup of two times. `moved` is the logarithm of the change that may come from the machine
    /// itself; it widens the interval.
    pub(super) fn of(base: &Times, other: &Times, moved: f64) -> Speedup {
        let value = base.seconds.median / other.seconds.median;
        let [low, high] = if base.all.len().min(other.all.len()) >= ENOUGH {
            resampled(base.all, other.all)
        } else {
            let by = 1.0 + mcgill(base).hypot(mcgill(other));
            [value / by, value * by]
        };
        Speedup { value, low: low.min(value), high: high.max(value) }.widened(moved)
    }
    /// The same with an interval that is wider by a factor on both sides, given as its logarithm.
    pub(super) fn widened(self, by: f64) -> Speedup {
        Speedup { low: self.low / by.exp(), high: self.high * by.exp(), ..self }
    }
    /// The larger of the relative distances from the speedup to both ends of its interval, minus 1: 0.1 means
    /// within a factor of 1.1.
    pub fn uncertainty(&self) -> f64 {
        (self.high / self.value).max(self.value / self.low) - 1.0
    }
    /// Where the interval lies, seen from a threshold. Verdict and gate both follow from this.
    pub fn side(&self, threshold: f64) -> Side {
        if self.high < threshold {
            Side::Below
        } else if self.low > threshold {
            Side::Above
        } else {
            Side::Across
        }
    }
    /// The verdict. See [`Verdict`] for its rule.
    pub fn verdict(&self) -> Verdict {
        // NaN is unusable too.
        let usable = self.uncertainty() <= USABLE;
        if usable { self.direction() } else { Verdict::Unusable }
    }
    /// The verdict without a limit of the uncertainty. A median over ops varies because ops differ, which is
    /// no fault of the machine.
    pub(super) fn direction(&self) -> Verdict {
        let same = self.low >= 1.0 / (1.0 + SAME) && self.high <= 1.0 + SAME;
        match self.side(1.0) {
            _ if same => Verdict::Same,
            Side::Below => Verdict::Slower,
            Side::Above => Verdict::Faster,
            Side::Across => Verdict::CannotTell,
        }
    }
    /// `1.46x slower` or `1.07x faster`, as is said of the other.
    pub fn words(&self) -> String {
        let (times, than) =
            if self.value < 1.0 { (1.0 / self.value, "slower") } else { (self.value, "faster") };
        format!("{times:.2}x {than}")
    }
}

/// The relative uncertainty of a median: 1.57 interquartile ranges divided by the square root of the number
/// of samples (McGill, Tukey and Larsen 1978, "Variations of Box Plots"), and more for few samples, whose
/// quartiles are uncertain too. Unknown (infinite) for one.
fn mcgill(times: &Times) -> f64 {
    if times.samples < 2 {
        return f64::INFINITY;
    }
    let n = times.samples as f64;
    1.57 * times.seconds.spread() / n.sqrt() * (1.0 + 4.0 / n)
}

/// The 95 % interval of the ratio of both medians by the percentile bootstrap (Efron 1979), the same for the
/// same samples.
fn resampled(base: &[f64], other: &[f64]) -> [f64; 2] {
    let medians = |times: &[f64], side: &str| -> Vec<f64> {
        let mut drawn = times.to_vec();
        let one = |i: usize| {
            let mut rng = Rng::new(0, side, i as u64);
            drawn.iter_mut().for_each(|t| *t = times[rng.below(times.len() as u32) as usize]);
            median(&mut drawn)
        };
        (0..RESAMPLES).map(one).collect()
    };
    let (base, other) = (medians(base, "compare base"), medians(other, "compare other"));
    let mut ratios: Vec<f64> = base.iter().zip(&other).map(|(a, b)| a / b).collect();
    ratios.sort_by(f64::total_cmp);
    // 2.5 % of the ratios are left out on each side.
    let out = RESAMPLES / 40;
    [ratios[out], ratios[RESAMPLES - 1 - out]]
}

/// The median, by selection: sorting every resample would take most of a comparison's time.
fn median(values: &mut [f64]) -> f64 {
    let n = values.len();
    let (below, &mut upper, _) = values.select_nth_unstable_by(n / 2, f64::total_cmp);
    if n % 2 == 1 {
        return upper;
    }
    (below.iter().copied().fold(f64::NEG_INFINITY, f64::max) + upper) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speedup(value: f64, low: f64, high: f64) -> Speedup {
        Speedup { value, low, high }
    }

    /// Both ends of every rule.
    #[test]
    fn verdicts_change_at_the_ends_of_the_interval() {
        let verdict = |value, low, high| speedup(value, low, high).verdict();
        for (value, low, high, expected) in [
            (0.95, 0.91, 0.999, Verdict::Slower),
            (0.95, 0.91, 1.0, Verdict::CannotTell),
            (1.05, 1.001, 1.09, Verdict::Faster),
            (1.05, 1.0, 1.09, Verdict::CannotTell),
            (1.0, 1.0 / 1.03, 1.03, Verdict::Same),
            (1.0, 1.0 / 1.031, 1.03, Verdict::CannotTell),
            (1.0, 1.0 / 1.03, 1.031, Verdict::CannotTell),
            // Certainly slower, and certainly by less than 3 %.
            (0.98, 0.975, 0.985, Verdict::Same),
            (0.98, 0.965, 0.985, Verdict::Slower),
            (0.5, 0.25, 0.5, Verdict::Slower),
            (0.5, 0.2499, 0.5, Verdict::Unusable),
            (4.0, 4.0, 8.0, Verdict::Faster),
            (4.0, 4.0, 8.01, Verdict::Unusable),
            (1.0, 0.0, f64::INFINITY, Verdict::Unusable),
            (f64::NAN, f64::NAN, f64::NAN, Verdict::Unusable),
        ] {
            assert_eq!(verdict(value, low, high), expected, "{value} [{low}, {high}]");
        }
    }

    #[test]
    fn sides_are_certain_only_without_the_threshold() {
        let s = speedup(0.93, 0.92, 0.95);
        assert_eq!(s.side(0.9501), Side::Below);
        assert_eq!(s.side(0.95), Side::Across);
        assert_eq!(s.side(0.92), Side::Across);
        assert_eq!(s.side(0.9199), Side::Above);
    }

    /// Whatever is not certainly slower cannot be certainly below a threshold of at most 1, other than what
    /// is the same within 3 %.
    #[test]
    fn what_cannot_be_told_is_below_no_threshold_up_to_1() {
        let steps = |from: f64| (0..60).map(move |i| from + i as f64 * 0.02);
        for (low, wide) in steps(0.1).flat_map(|low| steps(0.0).map(move |wide| (low, wide))) {
            let s = speedup(low * (1.0 + wide / 2.0), low, low * (1.0 + wide));
            for threshold in [0.1, 0.5, 0.9, 0.97, 1.0] {
                if s.side(threshold) == Side::Below && s.verdict() != Verdict::Unusable {
                    let same = s.verdict() == Verdict::Same && threshold > 1.0 / 1.03;
                    assert!(s.verdict() == Verdict::Slower || same, "{s:?} under {threshold}");
                }
            }
        }
    }

    fn times<'a>(seconds: &'a Quartiles, all: &'a [f64]) -> Times<'a> {
        Times { seconds, samples: all.len(), all }
    }

    /// The distribution of a resampled median is known: of 11 samples at most the k-th is the median if at
    /// least 6 of 11 draws are among the first k. That has probability 0.0072 for k = 2 and 0.0512 for k = 3,
    /// so 2.5 % are reached at the third sample, and on the other side at the ninth. Against a side without
    /// spread the interval of the ratio ends exactly at these samples.
    #[test]
    fn bootstrap_agrees_with_the_binomial_distribution() {
        let all: Vec<f64> = (1..=11).map(f64::from).collect();
        let (fixed, varying) = ([6.0; 11], Quartiles::of(all.clone()));
        let same = Quartiles::of(fixed.to_vec());
        let s = Speedup::of(&times(&varying, &all), &times(&same, &fixed), 0.0);
        assert_eq!((s.value, s.low, s.high), (1.0, 3.0 / 6.0, 9.0 / 6.0));
        let s = Speedup::of(&times(&same, &fixed), &times(&varying, &all), 0.0);
        assert_eq!((s.value, s.low, s.high), (1.0, 6.0 / 9.0, 6.0 / 3.0));
        // The machine's change of 10 % widens both ends.
        let s = Speedup::of(&times(&varying, &all), &times(&same, &fixed), 1.1f64.ln());
        assert!((s.low - 0.5 / 1.1).abs() < 1e-12 && (s.high - 1.5 * 1.1).abs() < 1e-12, "{s:?}");
    }

    /// Few samples: 1.57 x 0.2 / sqrt(4) x 2 = 0.314 for one side, and none for the other.
    #[test]
    fn few_samples_use_the_formula_of_mcgill() {
        let (a, b) =
            (Quartiles { q1: 0.9, median: 1.0, q3: 1.1 }, Quartiles { q1: 2.0, median: 2.0, q3: 2.0 });
        let sides = |samples| [&a, &b].map(|seconds| Times { seconds, samples, all: &[] });
        let [base, other] = sides(4);
        let s = Speedup::of(&base, &other, 0.0);
        assert!((s.uncertainty() - 0.314).abs() < 1e-12 && s.value == 0.5, "{s:?}");
        let [base, other] = sides(1);
        let s = Speedup::of(&base, &other, 0.0);
        assert_eq!((s.value, s.low, s.high, s.verdict()), (0.5, 0.0, f64::INFINITY, Verdict::Unusable));
    }

    #[test]
    fn medians_are_those_of_the_quartiles() {
        for n in 1..12 {
            let values: Vec<f64> = (0..n).map(|i| f64::from(i * 7 % 11) + 0.5).collect();
            assert_eq!(median(&mut values.clone()), Quartiles::of(values.clone()).median, "{values:?}");
        }
    }
}
