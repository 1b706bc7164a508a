//! Metrics against scikit-learn and SciPy (tests/golden/make_metrics.py), and merging.

use serde_json::Value;
use tempra::metrics::{
    Answers, Classification, Curves, Entities, METRICS, MultiLabel, Perplexity, Regression, Scores, Squad,
    find,
};
use tempra::tasks::of_metric;

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/metrics.json")).expect("golden file")
}
fn list(v: &Value) -> &[Value] {
    v.as_array().expect("array")
}
fn floats(v: &Value) -> Vec<f64> {
    list(v).iter().map(|x| x.as_f64().expect("number")).collect()
}
fn ints(v: &Value) -> Vec<u32> {
    list(v).iter().map(|x| x.as_u64().expect("integer") as u32).collect()
}
/// null is NaN.
fn close(name: &str, found: f64, expected: &Value, tolerance: f64) {
    let expected = expected.as_f64().unwrap_or(f64::NAN);
    let same = (found - expected).abs() <= tolerance * expected.abs().max(1.0)
        || (found.is_nan() && expected.is_nan());
    assert!(same, "{name}: {found}, expected {expected}");
}
fn check(case: &Value, scores: &Scores, tolerance: f64) {
    let mut checked = 0;
    for (name, value) in scores.iter().filter(|(name, _)| case.get(*name).is_some()) {
        close(&format!("{} {name}", case["name"]), value, &case[name], tolerance);
        checked += 1;
    }
    assert!(checked >= 4, "{case}");
}

#[test]
fn classification_equals_scikit_learn() {
    for case in list(&golden()["classification"]) {
        let classes = case["classes"].as_u64().expect("classes") as usize;
        let mut all = Classification::new(classes);
        let mut parts = vec![Classification::new(classes); 3];
        for (i, (t, p)) in ints(&case["target"]).into_iter().zip(ints(&case["prediction"])).enumerate() {
            all.add(p, t, 0.5).expect("a class");
            parts[i % 3].add(p, t, 0.5).expect("a class");
        }
        check(case, &all.scores(), 1e-12);
        assert_eq!(serde_json::to_value(all.confusion()).expect("json"), case["confusion"]);
        for (k, c) in all.per_class().iter().enumerate() {
            close("precision", c.precision, &case["precision"][k], 1e-12);
            close("recall", c.recall, &case["recall"][k], 1e-12);
            close("f1", c.f1, &case["f1"][k], 1e-12);
            close("support", c.support as f64, &case["support"][k], 0.0);
        }
        // Whatever the order of merging.
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let mut merged = Classification::new(classes);
            order.iter().for_each(|&i| merged.merge(&parts[i]).expect("same classes"));
            assert_eq!(merged, all, "{}", case["name"]);
        }
    }
}

#[test]
fn logits_give_predictions_and_cross_entropy() {
    let golden = &golden()["from_logits"];
    let mut all = Classification::new(4);
    for (row, target) in list(&golden["logits"]).iter().zip(ints(&golden["target"])) {
        let row: Vec<f32> = floats(row).into_iter().map(|x| x as f32).collect();
        all.add_logits(&row, target).expect("four logits");
    }
    close("loss", all.loss(), &golden["loss"], 1e-12);
    close("accuracy", all.accuracy(), &golden["accuracy"], 1e-12);
}

#[test]
fn what_cannot_be_counted_is_refused_or_shown() {
    let mut c = Classification::new(2);
    let e = c.add(2, 0, 0.0).expect_err("class 2 of 2").to_string();
    assert!(e.contains("below 2") && e.contains("prediction"), "{e}");
    assert!(
        c.add(0, 9, 0.0).is_err()
            && c.add_logits(&[1.0], 0).is_err()
            && c.add_logits(&[1.0, 2.0], 2).is_err()
    );
    assert!(c.merge(&Classification::new(3)).is_err());
    assert!(c.is_empty(), "a refused example leaves no trace");
    let none = c.scores();
    assert!(
        ["loss", "accuracy", "f1_macro", "mcc"].iter().all(|n| none.get(n).is_some_and(f64::is_nan)),
        "{none}"
    );
    // A broken logit shows in the loss.
    c.add_logits(&[1.0, f32::NAN], 0).expect("counted");
    c.add_logits(&[1.0, 0.0], 0).expect("counted");
    assert!(c.loss().is_nan());
    assert_eq!((c.nonfinite(), c.len(), c.count(0, 1)), (1, 2, 1));
    // As many classes as a vocabulary cost nothing until they occur.
    let mut many = Classification::new(1_000_000);
    many.add(7, 999_999, 0.0).expect("a class");
    assert_eq!(many.pairs().collect::<Vec<_>>(), [(999_999, 7, 1)]);
    assert!(Classification::new(0).add_logits(&[], 0).is_err());
    let mut labels = MultiLabel::new(2);
    assert!(
        labels.add(&[true], &[true, false], 0.0).is_err()
            && labels.add_logits(&[0.0; 3], &[true; 3]).is_err()
    );
    assert!(labels.add_logits(&[0.0; 3], &[true; 2]).is_err() && labels.is_empty());
    assert!(labels.merge(&MultiLabel::new(2).threshold(0.3)).is_err());
}

/// Targets 0 0 1, predictions 0 2 0 of four classes: class 1 is never predicted, class 2 never a target, 3
/// neither.
#[test]
fn undefined_scores_are_counted() {
    let mut c = Classification::new(4);
    [(0, 0), (2, 0), (0, 1)].iter().for_each(|&(p, t)| c.add(p, t, 0.0).expect("a class"));
    assert_eq!(c.undefined(), 2);
}

#[test]
fn multilabel_equals_scikit_learn() {
    for case in list(&golden()["multilabel"]) {
        let width = list(&case["target"][0]).len();
        let (mut all, mut parts) = (MultiLabel::new(width), vec![MultiLabel::new(width); 2]);
        for (i, (row, target)) in list(&case["logits"]).iter().zip(list(&case["target"])).enumerate() {
            let row: Vec<f32> = floats(row).into_iter().map(|x| x as f32).collect();
            let target: Vec<bool> = ints(target).into_iter().map(|x| x == 1).collect();
            all.add_logits(&row, &target).expect("fits");
            parts[i % 2].add_logits(&row, &target).expect("fits");
        }
        check(case, &all.scores(), 1e-12);
        let mut merged = MultiLabel::new(width);
        parts.iter().rev().for_each(|p| merged.merge(p).expect("same labels"));
        check(case, &merged.scores(), 1e-12);
    }
    // 0.6 is above 0.5 and not above 0.7.
    let logit = [(0.6f32 / 0.4).ln()];
    let mut strict = MultiLabel::new(1).threshold(0.7);
    strict.add_logits(&logit, &[true]).expect("fits");
    assert_eq!((strict.accuracy(), strict.f1_micro()), (0.0, 0.0));
    let mut nan = MultiLabel::new(1);
    nan.add_logits(&[f32::NAN], &[false]).expect("fits");
    assert!(nan.loss().is_nan());
}

#[test]
fn regression_equals_scipy() {
    for case in list(&golden()["regression"]) {
        let pairs: Vec<_> = floats(&case["prediction"]).into_iter().zip(floats(&case["target"])).collect();
        let mut all = Regression::new();
        let mut parts = vec![Regression::new(); 3];
        for (i, &(p, t)) in pairs.iter().enumerate() {
            all.add(p, t, (p - t).powi(2));
            // Uneven parts; with few pairs one stays empty.
            parts[if i < 2 { 0 } else { 1 + i % 2 }].add(p, t, (p - t).powi(2));
        }
        // At 1e8 a running mean is known to 1e-8 only; sums of squares would have lost everything.
        let tolerance = if case["name"] == "far from zero" { 1e-7 } else { 1e-12 };
        check(case, &all.scores(), tolerance);
        close("loss", all.loss(), &case["mse"], tolerance);
        for order in [[0, 1, 2], [2, 1, 0]] {
            let mut merged = Regression::new();
            order.iter().for_each(|&i| merged.merge(&parts[i]));
            check(case, &merged.scores(), tolerance);
        }
    }
    let mut broken = Regression::new();
    [(1.0, 1.0), (f64::NAN, 2.0), (3.0, 3.0)].iter().for_each(|&(p, t)| broken.add(p, t, 0.0));
    assert!([broken.mse(), broken.mae(), broken.pearson(), broken.spearman()].iter().all(|x| x.is_nan()));
    let mut one = Regression::new();
    one.add(1.0, 2.0, 0.0);
    assert!(one.pearson().is_nan() && Regression::new().mse().is_nan());
}

#[test]
fn scores_keep_order_and_never_hide_nan() {
    let scores: Scores =
        [("loss", f64::NAN), ("accuracy", 0.5), ("mse", f64::NEG_INFINITY)].into_iter().collect();
    let json = serde_json::to_string(&scores).expect("json");
    assert_eq!(json, r#"{"loss":"NaN","accuracy":0.5,"mse":"-Infinity"}"#);
    let back: Scores = serde_json::from_str(&json).expect("scores");
    assert!(back.get("loss").is_some_and(f64::is_nan));
    assert_eq!(
        (back.get("mse"), back.get("accuracy"), back.get("f1")),
        (Some(f64::NEG_INFINITY), Some(0.5), None)
    );
    assert_eq!(back.iter().map(|s| s.0).collect::<Vec<_>>(), ["loss", "accuracy", "mse"]);
    assert!(serde_json::from_str::<Scores>(r#"{"loss":"low"}"#).is_err());
    // A resumed run compares with the best score so far: it has to come back to the bit.
    for i in 0..1000 {
        let score = 1.0 / (3.0 + f64::from(i) * 0.7);
        let json = serde_json::to_string(&Scores::from_iter([("mse", score)])).expect("json");
        let back: Scores = serde_json::from_str(&json).expect("scores");
        assert_eq!(back.get("mse").map(f64::to_bits), Some(score.to_bits()));
    }
}

#[test]
fn every_metric_in_the_table_is_computed() {
    let mut classes = Classification::new(2);
    let mut labels = MultiLabel::new(1);
    let mut numbers = Regression::new();
    classes.add(0, 0, 0.0).expect("a class");
    labels.add(&[true], &[true], 0.0).expect("fits");
    numbers.add(0.0, 0.0, 0.0);
    let mut answers = Answers::new(Squad::V2);
    answers.add_with_odds("cat", &["cat"], -1.0, 0.0);
    answers.add_with_odds::<&str>("cat", &[], 1.0, 0.0);
    // The thresholds beside the best scores are settings, not metrics.
    let answers: Scores = answers
        .scores()
        .iter()
        .filter(|(name, _)| !name.ends_with("_thresh"))
        .map(|(name, v)| (name.to_owned(), v))
        .collect();
    let with_curves = |scores: Scores| -> Scores {
        let curves = Curves::new(2).scores(true);
        scores.iter().chain(curves.iter()).map(|(name, v)| (name.to_owned(), v)).collect()
    };
    let of = [
        ("classify", with_curves(classes.scores())),
        ("multilabel", with_curves(labels.scores())),
        ("regress", numbers.scores()),
        ("tag", Entities::new().scores()),
        ("answer", answers),
        ("mask", Perplexity::new().scores()),
    ];
    for (task, scores) in &of {
        let table: Vec<_> =
            METRICS.iter().map(|m| m.name).filter(|m| of_metric(m).any(|of| of == *task)).collect();
        assert!(table.iter().all(|name| scores.get(name).is_some()), "{task}");
        assert_eq!(scores.iter().count(), table.len(), "{task}");
    }
    let (up, down) = (find("accuracy").expect("known"), find("loss").expect("known"));
    assert!(
        up.improves(0.6, 0.5)
            && !up.improves(0.5, 0.5)
            && down.improves(0.1, 0.2)
            && !down.improves(0.2, 0.1)
    );
    assert!(
        !up.improves(f64::NAN, 0.5) && down.improves(0.5, f64::NAN) && !down.improves(f64::NAN, f64::NAN)
    );
}

/// Drawn by hand: 2 of 3 cats found, one called a dog; the only dog found.
#[test]
fn confusion_table_reads_well() {
    let mut c = Classification::new(2);
    [(0, 0), (0, 0), (1, 0), (1, 1)].iter().for_each(|&(p, t)| c.add(p, t, 0.0).expect("a class"));
    let names = ["cat".to_owned(), "dog\u{1b}[2J".to_owned()];
    let expected = "\
rows: target, columns: prediction
   target    0 1   precision  recall      f1  support
0  cat     | 2 1 |    1.0000  0.6667  0.8000        3
1  dog?[2J | . 1 |    0.5000  1.0000  0.6667        1
";
    assert_eq!(c.table(&names).to_string(), expected);
    // Too many classes to draw: the worst pairs instead. Nothing needs names.
    let mut many = Classification::new(40);
    (0..40).for_each(|t| many.add((t + 1) % 40, t, 0.0).expect("a class"));
    many.add(3, 7, 0.0).expect("a class");
    many.add(3, 7, 0.0).expect("a class");
    let text = many.table(&[]).to_string();
    let first = text.lines().skip_while(|l| !l.starts_with("most confused")).nth(1).expect("a pair");
    assert_eq!(first.split_whitespace().collect::<Vec<_>>(), ["2", "7", "->", "3"]);
    assert!(text.ends_with("and 26 more pairs\n") && text.lines().all(|l| l.chars().count() <= 80), "{text}");
}
