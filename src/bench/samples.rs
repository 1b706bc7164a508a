//! How certain a median is: its bootstrap interval.

use crate::metrics::Bootstrap;

/// The 95 % percentile bootstrap interval of the median of samples (Efron 1979, "Bootstrap Methods: Another
/// Look at the Jackknife"), from 10,000 resamples for up to 100 samples, and fewer, but at least 1,000, for
/// more. Their seed is fixed, so that equal samples give equal intervals. `None` for fewer than two samples
/// and if one is not finite.
///
/// Few samples cannot give 95 %: the interval from the smallest to the largest of n samples holds the true
/// median with probability 1 - 2^(1 - n), which is 75 % for three, 93.8 % for five and 96.9 % for six
/// samples.
///
/// ```
/// use tempra::bench::samples::median_interval;
///
/// assert_eq!(median_interval(&[2.0, 1.0, 3.0]), Some([1.0, 3.0]));
/// assert_eq!(median_interval(&[2.0]), None);
/// ```
pub fn median_interval(samples: &[f64]) -> Option<[f64; 2]> {
    if samples.len() < 2 || samples.iter().any(|s| !s.is_finite()) {
        return None;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    // The samples are sorted, so the median of a resample is the sample at the median of the drawn indices.
    let median = |drawn: &[usize]| {
        let mut drawn = drawn.to_vec();
        let middle = drawn.len() / 2;
        let odd = drawn.len() % 2 == 1;
        let (below, upper, _) = drawn.select_nth_unstable(middle);
        let lower = if odd { *upper } else { below.iter().max().copied().unwrap_or(*upper) };
        (sorted[lower] + sorted[*upper]) / 2.0
    };
    // The median of few samples takes few values, so that their quantiles need more resamples.
    let resamples = (1_000_000 / sorted.len()).clamp(1000, 10_000);
    let found = Bootstrap { samples: resamples, ..Bootstrap::default() }.interval(sorted.len(), median);
    Some([found.low, found.high])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// The probability that at least `least` of `n` draws succeed, each with probability `p`.
    fn at_least(n: u32, least: u32, p: f64) -> f64 {
        let choose = |k: u32| (0..k).map(|i| f64::from(n - i) / f64::from(k - i)).product::<f64>();
        (least..=n).map(|k| choose(k) * p.powi(k as i32) * (1.0 - p).powi((n - k) as i32)).sum()
    }

    /// Of an odd number n of samples, the median of a resample is at most the k-th smallest sample if at
    /// least (n + 1) / 2 of n draws are among the k smallest (Efron 1979, section 3). This gives the interval
    /// without any resampling.
    #[test]
    fn the_interval_is_the_one_that_theory_gives() {
        for n in [5u32, 11, 25, 101] {
            let samples: Vec<f64> = (1..=n).map(f64::from).collect();
            let quantile =
                |q: f64| (1..=n).find(|&k| at_least(n, n.div_ceil(2), f64::from(k) / f64::from(n)) >= q);
            let truth = [0.025, 0.975].map(|q| f64::from(quantile(q).unwrap()));
            let found = median_interval(&samples).unwrap();
            // Resamples know the quantile of a discrete distribution to about one sample.
            let near = |a: f64, b: f64| (a - b).abs() <= 1.0;
            assert!(near(found[0], truth[0]) && near(found[1], truth[1]), "{n}: {found:?}, {truth:?}");
            assert!(found[0] < found[1]);
        }
    }

    /// Samples of a skewed distribution whose median is ln 2: about 95 of 100 intervals hold it.
    #[test]
    fn intervals_hold_the_true_median() {
        let mut rng = Rng::new(5, "skewed", 0);
        let mut held = 0;
        for _ in 0..200 {
            let samples: Vec<f64> = (0..25).map(|_| -(1.0 - rng.uniform()).ln()).collect();
            let [low, high] = median_interval(&samples).unwrap();
            held += usize::from(low <= std::f64::consts::LN_2 && std::f64::consts::LN_2 <= high);
        }
        assert!((180..200).contains(&held), "{held} of 200");
    }

    #[test]
    fn order_does_not_matter_and_bad_samples_have_no_interval() {
        let (up, down) = ([1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]);
        assert_eq!(median_interval(&up), median_interval(&down));
        assert_eq!(median_interval(&[7.0; 9]), Some([7.0, 7.0]));
        for bad in [vec![], vec![1.0], vec![1.0, f64::NAN], vec![f64::INFINITY, 1.0]] {
            assert_eq!(median_interval(&bad), None);
        }
    }
}
