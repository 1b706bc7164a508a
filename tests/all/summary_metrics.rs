//! ROUGE against rouge-score (tests/golden/make_task_metrics.py); perplexity, ranks and bootstrap by their
//! definitions.

use serde_json::Value;
use tempra::metrics::{Bootstrap, Perplexity, Ranking, Rouge, realistic_rank};
use tempra::rng::Rng;

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/task_metrics.json")).expect("golden file")
}
fn list(v: &Value) -> &[Value] {
    v.as_array().expect("array")
}
fn text(v: &Value) -> &str {
    v.as_str().expect("string")
}
fn number(v: &Value) -> f64 {
    v.as_f64().expect("number")
}

#[test]
fn rouge_equals_rouge_score() {
    for (kind, stem) in [("plain", false), ("stemmed", true)] {
        let cases = &golden()["rouge"][kind];
        let (mut all, mut parts, mut sums) = (Rouge::new(stem), vec![Rouge::new(stem); 2], [0.0; 4]);
        for (i, case) in list(cases).iter().enumerate() {
            let references: Vec<&str> = list(&case["references"]).iter().map(text).collect();
            let found = all.add(text(&case["prediction"]), &references);
            parts[i % 2].add(text(&case["prediction"]), &references);
            for ((s, expected), sum) in found.iter().zip(list(&case["scores"])).zip(&mut sums) {
                for (x, e) in [s.precision, s.recall, s.f].iter().zip(list(expected)) {
                    assert!((x - number(e)).abs() < 1e-12, "{kind} {case}: {found:?}");
                }
                *sum += number(&expected[2]);
            }
        }
        let (first, second) = parts.split_at_mut(1);
        first[0].merge(&second[0]).expect("the same words");
        let n = list(cases).len() as f64;
        for scores in [all.scores(), first[0].scores()] {
            assert!(scores.iter().zip(sums).all(|((_, x), sum)| (x - sum / n).abs() < 1e-12), "{scores}");
        }
        assert!(all.merge(&Rouge::new(!stem)).is_err());
    }
    let none = Rouge::new(false);
    assert!(none.is_empty() && none.scores().iter().all(|(_, x)| x.is_nan()));
    assert_eq!(none.to_string().lines().count(), 5);
}

#[test]
fn perplexity_is_of_all_tokens() {
    let mut p = Perplexity::new();
    assert!(p.perplexity().is_nan() && p.is_empty());
    p.add(2.0 * 8f64.ln(), 2, 1);
    let mut other = Perplexity::new();
    other.add(2f64.ln(), 1, 1);
    p.merge(&other);
    // The geometric mean of 8, 8 and 2.
    assert!((p.perplexity() - 128f64.cbrt()).abs() < 1e-12 && p.len() == 3, "{}", p.perplexity());
    assert!((p.accuracy() - 2.0 / 3.0).abs() < 1e-15);
}

#[test]
fn ranks_are_realistic() {
    assert_eq!(realistic_rank(0.5, [0.5; 9]), 5.5);
    assert_eq!(realistic_rank(0.5, [0.9, 0.5, 0.1]), 2.5);
    assert_eq!(realistic_rank(0.0, []), 1.0);
    assert_eq!((realistic_rank(f32::NAN, [1.0, 2.0]), realistic_rank(1.0, [f32::NAN])), (3.0, 2.0));
    let mut r = Ranking::new(&[1, 3]);
    assert!(
        r.mrr().is_nan() && r.add(0.5, 3).is_err() && r.add(4.0, 3).is_err() && r.add(f64::NAN, 3).is_err()
    );
    let mut other = r.clone();
    r.add(1.0, 9).expect("a rank");
    other.add(3.5, 9).expect("a rank");
    other.add(2.0, 9).expect("a rank");
    r.merge(&other).expect("the same k");
    let scores = r.scores();
    let expected = [
        ("mrr", (1.0 + 1.0 / 3.5 + 0.5) / 3.0),
        ("mean_rank", 6.5 / 3.0),
        ("adjusted_mean_rank_index", 1.0 - 3.5 / 12.0),
        ("hits@1", 1.0 / 3.0),
        ("hits@3", 2.0 / 3.0),
    ];
    for (name, x) in expected {
        assert!((scores.get(name).expect("there") - x).abs() < 1e-15, "{name}: {scores}");
    }
    assert!(r.merge(&Ranking::default()).is_err());
    // All candidates alike are chance.
    let mut constant = Ranking::default();
    constant.add(realistic_rank(0.0, [0.0; 10]), 11).expect("a rank");
    assert_eq!(constant.adjusted(), 0.0);
}

#[test]
fn bootstrap_intervals_are_as_wide_as_theory_says() {
    let mut rng = Rng::new(3, "test", 0);
    let values: Vec<f64> = (0..400).map(|_| rng.normal()).collect();
    let mean = values.iter().sum::<f64>() / 400.0;
    let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 400.0).sqrt();
    let how = Bootstrap { samples: 4000, ..Bootstrap::default() };
    let found = how.mean(&values);
    let half = 1.959964 * deviation / 20.0;
    assert!((found.value - mean).abs() < 1e-12);
    // 4000 resamples know the ends to a few hundredths of the width.
    assert!(
        (found.low - (mean - half)).abs() < 0.1 * half && (found.high - (mean + half)).abs() < 0.1 * half,
        "{found}"
    );
    assert_eq!(how.mean(&values), found);
    assert_ne!(Bootstrap { seed: 1, ..how }.mean(&values), found);
    // A pair that differs by a constant is certain though both are noisy; a system is no better than itself.
    let of = |shift: f64| {
        move |drawn: &[usize]| drawn.iter().map(|i| (i % 7) as f64 + shift).sum::<f64>() / drawn.len() as f64
    };
    let better = how.paired(50, of(0.1), of(0.0));
    assert!(
        (better.difference.low - 0.1).abs() < 1e-9
            && (better.difference.high - 0.1).abs() < 1e-9
            && better.p < 0.001
    );
    let (same, worse) = (how.paired(50, of(0.0), of(0.0)), how.paired(50, of(0.0), of(0.1)));
    assert!(same.p == 1.0 && worse.p < 0.001 && worse.difference.high < 0.0, "{same:?} {worse:?}");
    // Undefined resamples are counted; nothing to resample is NaN.
    let odd = how.interval(2, |drawn| if drawn[0] == drawn[1] { f64::NAN } else { 1.0 });
    assert!(odd.undefined > 1800 && odd.undefined < 2200 && odd.low == 1.0, "{odd:?}");
    let none = how.mean(&[]);
    assert!(none.value.is_nan() && none.low.is_nan());
}
