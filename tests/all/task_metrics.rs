//! Metrics of entities, answers, labels and curves against seqeval, the SQuAD script and scikit-learn
//! (tests/golden/make_task_metrics.py), and merging.

use serde_json::Value;
use tempra::data::{Scheme, Span, TagFormat, spans};
use tempra::metrics::{
    Answers, Curve, Curves, Entities, MultiLabel, Scores, Squad, normalize_answer, sigmoids, softmax,
};

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/task_metrics.json")).expect("golden file")
}
fn list(v: &Value) -> &[Value] {
    v.as_array().expect("array")
}
fn text(v: &Value) -> &str {
    v.as_str().expect("string")
}
fn words(v: &Value) -> Vec<&str> {
    list(v).iter().map(text).collect()
}
fn floats(v: &Value) -> Vec<f64> {
    list(v).iter().map(|x| x.as_f64().unwrap_or(f64::NAN)).collect()
}
fn bools(v: &Value) -> Vec<bool> {
    list(v).iter().map(|x| x.as_u64() == Some(1)).collect()
}
/// null is NaN.
fn close(name: &str, found: f64, expected: &Value) {
    let expected = expected.as_f64().unwrap_or(f64::NAN);
    let same = (found - expected).abs() <= 1e-12 || (found.is_nan() && expected.is_nan());
    assert!(same, "{name}: {found}, expected {expected}");
}
fn check(name: &str, scores: &Scores, expected: &Value, least: usize) {
    let shared: Vec<_> = scores.iter().filter(|(name, _)| expected.get(*name).is_some()).collect();
    assert!(shared.len() >= least, "{name}: {scores}, {expected}");
    shared.into_iter().for_each(|(what, value)| close(&format!("{name} {what}"), value, &expected[what]));
}
fn span_list(v: &Value) -> Vec<Span> {
    let at = |v: &Value| v.as_u64().expect("a place") as usize;
    list(v).iter().map(|s| Span { label: text(&s[0]).into(), start: at(&s[1]), end: at(&s[2]) }).collect()
}

#[test]
fn entities_equal_seqeval() {
    let mut strict_cases = 0;
    for case in list(&golden()["entities"]) {
        let name = text(&case["name"]);
        let mut readings = Vec::new();
        // seqeval's default reading takes L and U for I: what they mean is in tags.json
        // (tests/all/tag_formats.rs).
        if name != "any BILU sequences" {
            readings.push((Entities::new(), &case["lenient"], &case["per_type"], &case["spans"], None));
        }
        for (scheme, expected) in case["strict"].as_object().expect("an object") {
            let scheme = Scheme::find(scheme).expect("a scheme");
            assert!(expected.get("refused").is_none(), "{expected}");
            readings.push((
                Entities::strict(scheme),
                expected,
                &expected["per_type"],
                &expected["spans"],
                Some(scheme),
            ));
            strict_cases += 1;
        }
        for (empty, expected, per_type, expected_spans, scheme) in readings {
            let (mut all, mut parts) = (empty.clone(), vec![empty.clone(); 3]);
            let sentences = list(&case["true"]).iter().zip(list(&case["predicted"]));
            for (i, (t, p)) in sentences.enumerate() {
                let (t, p) = (words(t), words(p));
                all.add(&p, &t).expect("tags of the scheme");
                parts[i % 3].add(&p, &t).expect("tags of the scheme");
                let found = scheme.map_or_else(|| spans(&p), |s| s.spans(&p).expect("tags of the scheme"));
                assert_eq!(found, span_list(&expected_spans[i]), "{name} {scheme:?} {p:?}");
            }
            check(&format!("{name} {scheme:?}"), &all.scores(), expected, 6);
            let per_type = per_type.as_object().expect("an object");
            assert_eq!(per_type.len(), all.per_type().len(), "{name} {scheme:?}");
            for (label, c) in all.per_type() {
                for (k, x) in [c.precision, c.recall, c.f1, c.support as f64].into_iter().enumerate() {
                    close(&format!("{name} {label} {k}"), x, &per_type[label][k]);
                }
            }
            let mut merged = empty;
            parts.iter().rev().for_each(|p| merged.merge(p).expect("the same reading"));
            assert_eq!(merged, all, "{name}");
        }
    }
    assert!(strict_cases > 10, "{strict_cases}");
}

#[test]
fn entities_refuse_and_show() {
    let mut e = Entities::new();
    assert!(e.scores().iter().all(|(_, v)| v.is_nan()), "{}", e.scores());
    let said = e.add(&["O"], &["O", "O"]).expect_err("one tag for two words").to_string();
    assert!(said.contains("expected: 2") && e.is_empty(), "{said}");
    let mut strict = Entities::strict(Scheme::Iob2);
    let said = strict.add(&["S-A"], &["O"]).expect_err("S is of IOBES").to_string();
    assert!(said.contains("word 1") && said.contains("S-A") && said.contains("B-TYPE"), "{said}");
    assert!(strict.add(&[""], &["O"]).is_err() && strict.is_empty());
    assert!(e.merge(&strict).is_err());
    e.add(&["B-A", "O"], &["B-A", "B-b\x1b"]).expect("two tags");
    e.add_loss(3.0, 2);
    assert_eq!((e.loss(), e.accuracy(), e.len()), (1.5, 0.5, 1));
    let shown = e.to_string();
    let rows: Vec<Vec<&str>> = shown.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["type", "precision", "recall", "f1", "support"]);
    assert_eq!(rows[1], ["A", "1.0000", "1.0000", "1.0000", "1"]);
    assert_eq!(rows[2], ["b?", "0.0000", "0.0000", "0.0000", "1"]);
    assert_eq!(rows[3], ["all", "1.0000", "0.5000", "0.6667", "2"]);
}

/// Every scheme reads what it may write, and says which word breaks it.
#[test]
fn broken_sequences_name_the_word() {
    let good: [(Scheme, &[&str]); 9] = [
        (Scheme::Iob2, &["B-A", "I-A", "B-A", "O", "B-B"]),
        (Scheme::Iob1, &["I-A", "I-A", "B-A", "O", "I-B"]),
        (Scheme::Iob1, &["I-A", "I-B", "O"]),
        (Scheme::Iob1, &["B-A", "I-A"]),
        (Scheme::Iobes, &["B-A", "I-A", "E-A", "S-A", "O", "B-B", "E-B"]),
        (Scheme::Bilou, &["B-A", "I-A", "L-A", "U-A", "O", "B-B", "L-B"]),
        (Scheme::Iob2, &["B-a-b", "I-a-b"]),
        (Scheme::Iob2, &[]),
        (Scheme::Iobes, &["O"]),
    ];
    for (scheme, tags) in good {
        assert_eq!(scheme.check(tags), Ok(()), "{scheme:?} {tags:?}");
    }
    let bad: [(Scheme, &[&str], usize, &str); 13] = [
        (Scheme::Iob2, &["O", "I-A"], 1, "B-A"),
        (Scheme::Iob2, &["B-A", "I-B"], 1, "B-B"),
        (Scheme::Iob2, &["I-A"], 0, "B-A"),
        (Scheme::Iob2, &["O", "S-A"], 1, "I-TYPE"),
        (Scheme::Iob1, &["O", "E-A"], 1, "I-TYPE"),
        (Scheme::Iob2, &["o"], 0, "O, B-TYPE"),
        (Scheme::Iob2, &["O", ""], 1, "O, B-TYPE"),
        (Scheme::Iob2, &["B-"], 0, "B-TYPE"),
        (Scheme::Iob2, &["PER"], 0, "B-TYPE"),
        (Scheme::Iobes, &["B-A", "O"], 1, "E-A"),
        (Scheme::Iobes, &["O", "B-A"], 1, "E-A"),
        (Scheme::Iobes, &["E-A"], 0, "B-A"),
        (Scheme::Bilou, &["B-A", "I-A", "L-B"], 2, "L-A"),
    ];
    for (scheme, tags, word, expected) in bad {
        let broken = scheme.check(tags).expect_err("broken");
        assert!(broken.word == word && broken.expected.contains(expected), "{scheme:?} {tags:?}: {broken}");
        assert!(broken.to_string().starts_with(&format!("word {}: ", word + 1)), "{broken}");
    }
}

#[test]
fn spans_become_tags_and_come_back() {
    let span = |label: &str, start, end| Span { label: label.into(), start, end };
    let all = [span("A", 0, 2), span("A", 2, 3), span("B-b", 4, 6)];
    let encode = |spans: &[Span]| TagFormat::default().encode(6, spans);
    let tags = encode(&all).expect("they fit");
    assert_eq!(tags, ["B-A", "I-A", "B-A", "O", "B-B-b", "I-B-b"]);
    assert_eq!((spans(&tags), Scheme::Iob2.spans(&tags).expect("IOB2")), (all.to_vec(), all.to_vec()));
    for bad in [
        vec![span("A", 1, 1)],
        vec![span("A", 5, 7)],
        vec![span("A", 3, 2)],
        vec![span("A", 0, 2), span("B", 1, 3)],
    ] {
        assert!(encode(&bad).is_err(), "{bad:?}");
    }
}

#[test]
fn answers_equal_the_squad_scripts() {
    let golden = &golden()["answers"];
    for pair in list(&golden["normalized"]) {
        assert_eq!(normalize_answer(text(&pair[0])), text(&pair[1]), "{pair}");
    }
    let all = list(&golden["questions"]);
    let parts = |q: &Value| (text(&q["prediction"]).to_owned(), words(&q["golds"]).join("\n"));
    let golds = |s: &str| s.split('\n').map(str::to_owned).collect::<Vec<_>>();
    let v1 = &golden["v1"];
    for (id, raw) in list(&v1["ids"]).iter().zip(list(&v1["raw"])) {
        let q = all.iter().find(|q| q["id"] == *id).expect("the question");
        let (exact, f1) = Answers::score(Squad::V1, text(&q["prediction"]), &words(&q["golds"]));
        // torchmetrics counts in f32.
        assert!((exact - floats(raw)[0]).abs() < 1e-6 && (f1 - floats(raw)[1]).abs() < 1e-6, "{q}");
    }
    // 1.1 has no answer that is empty once normalised: no word is shared, so F1 is 0, but the texts are
    // equal.
    assert_eq!(Answers::score(Squad::V1, "the", &["a"]), (1.0, 0.0));
    assert_eq!(Answers::score(Squad::V2, "the", &["a"]), (1.0, 1.0));

    let mut plain = Answers::new(Squad::V2);
    for (q, raw) in all.iter().zip(list(&golden["v2"]["raw"])) {
        let (p, g) = parts(q);
        let g = if g.is_empty() && list(&q["golds"]).is_empty() { vec![] } else { golds(&g) };
        let (exact, f1) = plain.add(&p, &g);
        close(&format!("{q} exact"), exact, &raw[0]);
        close(&format!("{q} F1"), f1, &raw[1]);
    }
    check("2.0", &plain.scores(), &golden["v2"], 6);
    assert!(plain.scores().get("best_f1").is_none());
    for (threshold, expected) in golden["v2_odds"].as_object().expect("an object") {
        let threshold: f64 = threshold.parse().expect("a number");
        let (mut whole, mut halves) = (Answers::new(Squad::V2), vec![Answers::new(Squad::V2); 2]);
        for (i, q) in all.iter().enumerate() {
            let odds = q["odds"].as_f64().expect("a number");
            for part in [&mut whole, &mut halves[usize::from(i >= 23)]] {
                part.add_with_odds(text(&q["prediction"]), &words(&q["golds"]), odds, threshold);
            }
        }
        check(&format!("2.0 above {threshold}"), &whole.scores(), expected, 10);
        let (first, second) = halves.split_at_mut(1);
        first[0].merge(&second[0]).expect("the same version");
        check(&format!("2.0 merged above {threshold}"), &first[0].scores(), expected, 10);
    }
    for (name, answered, least) in [("v2_answered", true, 8), ("v2_unanswerable", false, 8)] {
        let mut some = Answers::new(Squad::V2);
        for q in all.iter().filter(|q| list(&q["golds"]).is_empty() != answered) {
            let odds = q["odds"].as_f64().expect("a number");
            some.add_with_odds(text(&q["prediction"]), &words(&q["golds"]), odds, 0.0);
        }
        check(name, &some.scores(), &golden[name], least);
    }
}

#[test]
fn missing_answers_score_nothing() {
    let mut a = Answers::new(Squad::V1);
    assert!(a.exact().is_nan() && a.f1().is_nan() && a.is_empty());
    a.add("The cat", &["cat", "dog"]);
    a.add_missing(true);
    a.add_loss(4.0, 2);
    assert_eq!((a.exact(), a.f1(), a.missing(), a.len(), a.loss()), (0.5, 0.5, 1, 2, 2.0));
    assert!(a.merge(&Answers::new(Squad::V2)).is_err());
    let shown = a.to_string();
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert_eq!(
        shown.lines().last().expect("a row").split_whitespace().collect::<Vec<_>>(),
        ["all", "0.5000", "0.5000", "2"]
    );
}

#[test]
fn labels_and_curves_equal_scikit_learn() {
    for case in list(&golden()["multilabel"]) {
        let (name, thresholds) = (text(&case["name"]), floats(&case["thresholds"]));
        let n = thresholds.len();
        let empty = MultiLabel::new(n).thresholds(&thresholds).expect("one a label");
        let (mut all, mut parts) = (empty.clone(), vec![empty.clone(); 2]);
        let (mut curves, mut halves) = (Curves::new(n), vec![Curves::new(n); 2]);
        for (i, (p, t)) in list(&case["probability"]).iter().zip(list(&case["target"])).enumerate() {
            let (p, t) = (floats(p), bools(t));
            let yes: Vec<bool> = p.iter().zip(&thresholds).map(|(p, t)| p > t).collect();
            all.add(&yes, &t, 0.0).expect("fits");
            parts[i % 2].add(&yes, &t, 0.0).expect("fits");
            curves.add(&p, &t).expect("fits");
            halves[i % 2].add(&p, &t).expect("fits");
        }
        let mut merged = empty;
        parts.iter().rev().for_each(|p| merged.merge(p).expect("the same labels"));
        check(name, &all.scores(), case, 6);
        check(name, &merged.scores(), case, 6);
        for (k, c) in all.label_scores().iter().enumerate() {
            for (what, x) in [
                ("precision", c.precision),
                ("recall", c.recall),
                ("f1", c.f1),
                ("support", c.support as f64),
            ] {
                close(&format!("{name} {what} {k}"), x, &case[what][k]);
            }
        }
        let mut joined = Curves::new(n);
        halves.iter().rev().for_each(|h| joined.merge(h).expect("the same labels"));
        for c in [&curves, &joined] {
            close(name, c.auroc_macro(), &case["auroc_macro"]);
            close(name, c.average_precision_macro(), &case["average_precision_macro"]);
            for (k, curve) in c.curves().iter().enumerate() {
                close(&format!("{name} AUROC {k}"), curve.auroc(), &case["auroc"][k]);
                close(&format!("{name} AP {k}"), curve.average_precision(), &case["average_precision"][k]);
                close(&format!("{name} best F1 {k}"), curve.best_threshold().1, &case["best_f1"][k]);
            }
        }
        // The threshold that is found gives the F1 that is promised.
        let mut tuned = MultiLabel::new(n).thresholds(&curves.best_thresholds()).expect("one a label");
        for (p, t) in list(&case["probability"]).iter().zip(list(&case["target"])) {
            let yes: Vec<bool> =
                floats(p).iter().zip(curves.best_thresholds()).map(|(p, t)| *p > t).collect();
            tuned.add(&yes, &bools(t), 0.0).expect("fits");
        }
        tuned.per_label().iter().enumerate().for_each(|(k, f)| close(name, *f, &case["best_f1"][k]));
    }
}

#[test]
fn classes_have_curves_one_against_the_rest() {
    let golden = &golden()["classes"];
    let (mut all, mut two) = (Curves::new(4), Curves::new(2));
    for (i, row) in list(&golden["logits"]).iter().enumerate() {
        let p = softmax(&floats(row).iter().map(|x| *x as f32).collect::<Vec<_>>());
        let class = |v: &Value| v.as_u64().expect("a class") as u32;
        all.add_class(&p, class(&golden["target"][i])).expect("four classes");
        two.add_class(&[1.0 - p[1], p[1]], class(&golden["binary_target"][i])).expect("two classes");
    }
    check("classes", &all.scores(true), golden, 2);
    let two = two.scores(true);
    close("binary AUROC", two.get("auroc").expect("a score"), &golden["binary_auroc"]);
    close("binary AP", two.get("average_precision").expect("a score"), &golden["binary_average_precision"]);
}

#[test]
fn curves_show_what_is_broken_and_refuse_what_does_not_fit() {
    let mut c = Curve::new();
    assert!(c.auroc().is_nan() && c.average_precision().is_nan() && c.is_empty());
    [(0.1, false), (f64::NAN, true)].iter().for_each(|&(s, t)| c.add(s, t));
    assert!(c.auroc().is_nan() && c.average_precision().is_nan());
    assert_eq!(c.best_threshold(), (0.5, 0.0));
    // Zeros of both signs are one score.
    let mut zeros = Curve::new();
    [(0.0, true), (-0.0, false)].iter().for_each(|&(s, t)| zeros.add(s, t));
    assert_eq!(zeros.auroc(), 0.5);
    // Between neighbouring numbers there is none; the threshold still parts them.
    let mut near = Curve::new();
    let above = f64::from_bits(0.7f64.to_bits() + 1);
    [(0.7, false), (above, true)].iter().for_each(|&(s, t)| near.add(s, t));
    let (threshold, f) = near.best_threshold();
    assert!(f == 1.0 && above > threshold && 0.7 <= threshold, "{threshold}");
    let mut all = Curves::new(2);
    assert!(all.add(&[0.5], &[true, false]).is_err() && all.add(&[0.5; 2], &[true]).is_err());
    assert!(all.merge(&Curves::new(3)).is_err() && MultiLabel::new(2).thresholds(&[0.5]).is_err());
    // What is tuned on probabilities is applied to the same probabilities of logits.
    let mut m = MultiLabel::new(2).thresholds(&[0.3, 0.9]).expect("two");
    m.add_logits(&[0.0, 0.0], &[true, false]).expect("fits");
    assert_eq!((m.accuracy(), m.hamming(), m.f1_samples()), (1.0, 0.0, 1.0));
    assert_eq!(sigmoids(&[0.0]), [0.5]);
    let shown = m.table(&["x".into()]).to_string();
    assert!(shown.lines().nth(1).is_some_and(|l| l.starts_with("x  ")), "{shown}");
    assert!(shown.lines().nth(2).is_some_and(|l| l.starts_with("1  ")), "{shown}");
}
