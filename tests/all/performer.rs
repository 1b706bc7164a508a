//! FAVOR+: what its random features estimate, how well, and that they are a function of the seed.

use tempra::ops::favor::{default_features, features, independent};
use tempra::rng::Stream;

const DIM: usize = 16;

/// phi(q) phi(k) / exp(q k / sqrt(d)), the estimate over the truth, for features w (features, DIM).
fn ratio(w: &[f32], q: &[f64], k: &[f64]) -> f64 {
    let root = (DIM as f64).powf(-0.25);
    let half = |x: &[f64]| x.iter().map(|v| (v * root).powi(2)).sum::<f64>() / 2.0;
    let dot = |w: &[f32], x: &[f64]| w.iter().zip(x).map(|(&w, x)| w as f64 * x * root).sum::<f64>();
    let rows = w.chunks_exact(DIM);
    let m = rows.len() as f64;
    let estimate: f64 = rows.map(|w| (dot(w, q) - half(q) + dot(w, k) - half(k)).exp()).sum::<f64>() / m;
    let exact = q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() * root * root;
    estimate / exact.exp()
}

/// Short, since the estimate's variance grows with the exponential of their squared length, and so would the draws needed.
fn pair() -> (Vec<f64>, Vec<f64>) {
    let mut stream = Stream::new(3, "a query and a key", 0);
    let mut draw = || (0..DIM).map(|_| 0.4 * stream.normal()).collect();
    (draw(), draw())
}

/// Mean and variance of the ratio over many draws.
fn moments(draws: u64, w: impl Fn(u64) -> Vec<f32>) -> (f64, f64) {
    let (q, k) = pair();
    let all: Vec<f64> = (0..draws).map(|i| ratio(&w(i), &q, &k)).collect();
    let mean = all.iter().sum::<f64>() / draws as f64;
    (mean, all.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (draws - 1) as f64)
}

#[test]
fn random_features_are_unbiased_and_their_error_falls_with_the_root_of_their_number() {
    let draws = 4000;
    let mut spread = Vec::new();
    for m in [16, 64, 256] {
        let (mean, variance) = moments(draws, |i| features(1, 0, i, [m, DIM]));
        let off = (mean - 1.0).abs() / (variance / draws as f64).sqrt();
        assert!(
            off < 4.0,
            "{m} features: the mean of the estimate is {mean} of the truth, {off} deviations off"
        );
        spread.push(variance.sqrt());
    }
    for (few, many) in spread.iter().zip(&spread[1..]) {
        // Four times the features: half the error. The variance is itself an estimate.
        assert!((1.6..2.5).contains(&(few / many)), "errors of 16, 64 and 256 features: {spread:?}");
    }
}

#[test]
fn orthogonal_features_have_a_smaller_variance_than_independent_ones() {
    let (draws, m) = (6000, DIM);
    let (_, orthogonal) = moments(draws, |i| features(1, 0, i, [m, DIM]));
    let (mean, free) = moments(draws, |i| independent(1, 0, i, [m, DIM]));
    assert!((mean - 1.0).abs() < 0.1, "{mean}");
    assert!(orthogonal < free, "orthogonal {orthogonal}, independent {free}");
}

#[test]
fn features_are_orthogonal_by_blocks_and_as_long_as_normal_vectors() {
    let w = features(9, 2, 5, [3 * DIM + 5, DIM]);
    let rows: Vec<&[f32]> = w.chunks_exact(DIM).collect();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum::<f64>();
    for (i, a) in rows.iter().enumerate() {
        for (j, b) in rows.iter().enumerate().filter(|(j, _)| *j != i && j / DIM == i / DIM) {
            let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
            assert!(cosine.abs() < 1e-6, "rows {i} and {j}: {cosine}");
        }
    }
    let many = features(4, 0, 0, [200 * DIM, DIM]);
    let mean = dot(&many, &many) / (200 * DIM) as f64;
    assert!((mean / DIM as f64 - 1.0).abs() < 0.02, "the mean squared length is {mean}, not {DIM}");
}

#[test]
fn features_depend_on_seed_layer_and_draw_alone() {
    let w = |seed, layer, redraw| features(seed, layer, redraw, [20, DIM]);
    assert_eq!(w(1, 2, 3), w(1, 2, 3));
    for other in [w(2, 2, 3), w(1, 3, 3), w(1, 2, 4)] {
        assert_ne!(w(1, 2, 3), other);
    }
    assert_eq!(default_features(64), 266);
    assert_eq!(default_features(32), 110);
    assert_eq!(default_features(1), 1);
}
