//! AUROC, average precision, thresholds and intervals, from training to `eval` and `predict`, against their
//! definitions.

use crate::support::golden;
use crate::tasks::{ok, prepared, read, recipe, tempra};
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use tempra::metrics::{Bootstrap, Curves, Scores};
use tempra::rng::Rng;

/// A score of probabilities and truths.
type Of = fn(&[(f64, bool)]) -> f64;

/// AUROC by its definition: the share of pairs of a positive and a negative in the right order, ties counting
/// half.
fn auroc(examples: &[(f64, bool)]) -> f64 {
    let (mut right, mut pairs) = (0.0, 0.0);
    for (a, _) in examples.iter().filter(|e| e.1) {
        for (b, _) in examples.iter().filter(|e| !e.1) {
            pairs += 1.0;
            right += if a > b {
                1.0
            } else if a == b {
                0.5
            } else {
                0.0
            };
        }
    }
    right / pairs
}

/// Average precision by its definition: over the thresholds from the highest down, the step in recall times
/// the precision.
fn average_precision(examples: &[(f64, bool)]) -> f64 {
    let mut thresholds: Vec<f64> = examples.iter().map(|e| e.0).collect();
    thresholds.sort_by(|a, b| b.total_cmp(a));
    thresholds.dedup();
    let positives = examples.iter().filter(|e| e.1).count() as f64;
    let (mut sum, mut before) = (0.0, 0.0);
    for t in thresholds {
        let above: Vec<_> = examples.iter().filter(|e| e.0 >= t).collect();
        let hits = above.iter().filter(|e| e.1).count() as f64;
        sum += (hits / positives - before) * hits / above.len() as f64;
        before = hits / positives;
    }
    sum
}

fn f1(decisions: impl Iterator<Item = (bool, bool)>) -> f64 {
    let (mut hits, mut all) = (0.0, 0.0);
    for (found, true_) in decisions {
        hits += f64::from(u8::from(found && true_));
        all += f64::from(u8::from(found)) + f64::from(u8::from(true_));
    }
    if all == 0.0 { 0.0 } else { 2.0 * hits / all }
}

/// The rows of a CSV file without quotes around line ends, by their header.
fn table(text: &str) -> Vec<std::collections::HashMap<String, String>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let row = |r: csv::StringRecord| header.iter().cloned().zip(r.iter().map(str::to_owned)).collect();
    reader.records().map(|r| row(r.unwrap())).collect()
}

fn close(name: &str, found: &Value, expected: f64) {
    let value = found.as_f64().unwrap_or_else(|| panic!("{name}: {found}"));
    assert!((value - expected).abs() < 1e-9, "{name}: {value}, expected {expected}");
}

const WORDS: [&str; 8] = ["cat", "dog", "mat", "house", "Alice", "Bob", "Paris", "red"];

/// Rows whose words hint at their classes, written as a file.
fn rows(path: &Path, n: usize, seed: u64, label: impl Fn(&[usize]) -> String) {
    let mut rng = Rng::new(seed, "rows", 0);
    let mut text = "text,label\n".to_owned();
    for _ in 0..n {
        let words: Vec<usize> = (0..6).map(|_| rng.below(8) as usize).collect();
        let named: Vec<&str> = words.iter().map(|&w| WORDS[w]).collect();
        writeln!(text, "{},{}", named.join(" "), label(&words)).unwrap();
    }
    std::fs::write(path, text).unwrap();
}

fn json(said: &str) -> Value {
    serde_json::from_str(said).unwrap_or_else(|e| panic!("{e}: {said}"))
}

#[test]
fn auroc_and_average_precision_are_those_of_the_predictions() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    let three = |w: &[usize]| ["x", "y", "z"][w[0] % 3].to_owned();
    let two = |w: &[usize]| ["no", "yes"][usize::from(w.contains(&0))].to_owned();
    for (name, classes) in [("two", &["no", "yes"][..]), ("three", &["x", "y", "z"])] {
        let label: &dyn Fn(&[usize]) -> String = if name == "two" { &two } else { &three };
        rows(&dir.path().join("train.csv"), 60, 1, label);
        rows(&dir.path().join("test.csv"), 40, 2, label);
        let text = recipe("classify", "train.csv", "test = \"test.csv\"\n", name);
        std::fs::write(dir.path().join(format!("{name}.toml")), text).unwrap();
        ok(name, tempra(dir.path(), &["train", &format!("{name}.toml"), "-q"]));
        let model = format!("{name}/model");
        let found = json(&ok(name, tempra(dir.path(), &["eval", &model, "test.csv", "--json", "-q"])));
        let predicted = table(&ok(name, tempra(dir.path(), &["predict", &model, "test.csv", "-q"])));
        let of = |class: &str| -> Vec<(f64, bool)> {
            let one = |r: &std::collections::HashMap<String, String>| {
                (r[&format!("p_{class}")].parse().unwrap(), r["label"] == class)
            };
            predicted.iter().map(one).collect()
        };
        let asked = if classes.len() == 2 { &classes[1..] } else { classes };
        let mean = |f: Of| asked.iter().map(|c| f(&of(c))).sum::<f64>() / asked.len() as f64;
        let metrics = read(&dir.path().join(name).join("metrics.json"));
        for scores in [&found["scores"], &metrics] {
            close("auroc", &scores["auroc"], mean(auroc));
            close("average precision", &scores["average_precision"], mean(average_precision));
        }
    }
}

/// The thresholds are those of the best F1 on the validation examples, by trying all; they are kept and used.
#[test]
fn thresholds_are_chosen_on_the_validation_examples_and_used() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    // Class a is rare and b frequent, so that neither is best told apart at 0.5.
    let label = |w: &[usize]| {
        let set: Vec<&str> =
            [("a", w[..2].contains(&0)), ("b", w[0] != 3)].iter().filter(|s| s.1).map(|s| s.0).collect();
        format!("\"{}\"", set.join(","))
    };
    for (name, n, seed) in [("train.csv", 80, 1), ("dev.csv", 40, 2), ("test.csv", 40, 3)] {
        rows(&dir.path().join(name), n, seed, label);
    }
    let text = recipe("multilabel", "train.csv", "validation = \"dev.csv\"\ntest = \"test.csv\"\n", "run");
    std::fs::write(dir.path().join("run.toml"), &text).unwrap();
    let log = ok("train", tempra(dir.path(), &["train", "run.toml", "--json"]));
    let tuned = log.lines().map(json).find(|e| e["event"] == "tuned").expect("thresholds are said");
    let noted = read(&dir.path().join("run/model/tempra.json"))["thresholds"].clone();
    assert_eq!(tuned["thresholds"], noted);

    let predict =
        |model: &str, file: &str| table(&ok(file, tempra(dir.path(), &["predict", model, file, "-q"])));
    let of = |rows: &[std::collections::HashMap<String, String>], class: &str| -> Vec<(f64, bool)> {
        let one = |r: &std::collections::HashMap<String, String>| {
            (r[&format!("p_{class}")].parse().unwrap(), r["label"].split(',').any(|l| l == class))
        };
        rows.iter().map(one).collect()
    };
    let (dev, test) = (predict("run/model", "dev.csv"), predict("run/model", "test.csv"));
    let mut gained = 0.0;
    for class in ["a", "b"] {
        let (dev, threshold) = (of(&dev, class), noted[class].as_f64().unwrap());
        let at = |t: f64| f1(dev.iter().map(|&(p, y)| (p > t, y)));
        let best = dev.iter().map(|&(p, _)| at(p - 1e-7)).fold(0.0, f64::max);
        assert!(
            (at(threshold) - best).abs() < 1e-12,
            "{class} at {threshold}: {}, best {best}",
            at(threshold)
        );
        gained += at(threshold) - at(0.5);
        // They decide what is predicted, and what is scored.
        for row in &test {
            let p: f64 = row[&format!("p_{class}")].parse().unwrap();
            assert_eq!(row["labels"].split(',').any(|l| l == class), p > threshold, "{row:?}");
        }
    }
    assert!(gained > 0.0, "thresholds that change nothing prove nothing");
    let by_hand =
        ["a", "b"].map(|c| f1(of(&test, c).into_iter().map(|(p, y)| (p > noted[c].as_f64().unwrap(), y))));
    let found = json(&ok("eval", tempra(dir.path(), &["eval", "run/model", "test.csv", "--json", "-q"])));
    let metrics = read(&dir.path().join("run/metrics.json"));
    for scores in [&found["scores"], &metrics] {
        close("f1_macro", &scores["f1_macro"], by_hand.iter().sum::<f64>() / 2.0);
        let mean = |f: Of| (f(&of(&test, "a")) + f(&of(&test, "b"))) / 2.0;
        close("auroc", &scores["auroc"], mean(auroc));
        close("average precision", &scores["average_precision"], mean(average_precision));
    }
    // Turned off, a class is predicted above 0.5, and nothing is noted.
    let off =
        &["train", "run.toml", "-q", "--set", "multilabel.tune_thresholds=false", "--set", "output=off"];
    ok("train", tempra(dir.path(), off));
    assert!(read(&dir.path().join("off/model/tempra.json")).get("thresholds").is_none());
    for row in predict("off/model", "test.csv") {
        let p: f64 = row["p_b"].parse().unwrap();
        assert_eq!(row["labels"].split(',').any(|l| l == "b"), p > 0.5, "{row:?}");
    }
}

/// A draw scored in the order that was sorted once is the draw scored alone.
#[test]
fn draws_of_curves_need_no_sorting() {
    let mut rng = Rng::new(3, "draws", 0);
    for classes in [false, true] {
        let mut all = Curves::new(2);
        let mut examples = Vec::new();
        for _ in 0..50 {
            // Few values, so that there are ties.
            let row = [f64::from(rng.below(9)), f64::from(rng.below(9))];
            let truth = [rng.below(3) == 0, rng.below(2) == 0];
            all.add(&row, &truth).unwrap();
            examples.push((row, truth));
        }
        let ranked = all.ranked();
        for _ in 0..20 {
            let (mut one, mut times) = (Curves::new(2), vec![0; 50]);
            for _ in 0..50 {
                let i = rng.below(50) as usize;
                times[i] += 1;
                one.add(&examples[i].0, &examples[i].1).unwrap();
            }
            let (direct, quick) = (one.scores(classes), ranked.scores(&times, classes));
            for (name, value) in direct.iter() {
                assert!((value - quick.get(name).unwrap()).abs() < 1e-12, "{name}: {direct}, {quick}");
            }
        }
    }
}

/// An interval of a share is about that of the binomial distribution; the same each time; of every score the
/// one it has alone.
#[test]
fn intervals_are_seeded_and_as_wide_as_they_should_be() {
    let right = |i: usize| i % 10 < 8;
    let score = |drawn: &[usize]| drawn.iter().filter(|&&i| right(i)).count() as f64 / drawn.len() as f64;
    let bootstrap = Bootstrap::default();
    let both = |drawn: &[usize]| -> Scores {
        [("share", score(drawn)), ("wrong", 1.0 - score(drawn))].into_iter().collect()
    };
    let all = bootstrap.intervals(400, both);
    assert_eq!(all, bootstrap.intervals(400, both));
    assert_eq!(all[0], ("share".to_owned(), bootstrap.interval(400, score)));
    let half = 1.96 * (0.8f64 * 0.2 / 400.0).sqrt();
    let i = all[0].1;
    assert!(((i.high - i.low) / 2.0 - half).abs() < 0.1 * half, "{i}, expected half of it {half}");
    assert!(((i.high + i.low) / 2.0 - 0.8).abs() < 0.005, "{i}");
    assert_ne!(Bootstrap { seed: 1, ..bootstrap }.intervals(400, both), all);
}

#[test]
fn eval_says_how_sure_it_is() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    rows(&dir.path().join("train.csv"), 80, 1, |w| ["no", "yes"][usize::from(w[0] < 4)].to_owned());
    std::fs::write(dir.path().join("run.toml"), recipe("classify", "train.csv", "", "run")).unwrap();
    ok("train", tempra(dir.path(), &["train", "run.toml", "-q"]));
    let eval = |args: &[&str]| {
        let all: Vec<&str> = ["eval", "run/model", "train.csv", "-q"].iter().chain(args).copied().collect();
        ok("eval", tempra(dir.path(), &all))
    };
    let found = json(&eval(&["--intervals", "--json"]));
    assert_eq!(found, json(&eval(&["--intervals", "--json"])));
    let how = &found["intervals"];
    assert_eq!((&how["samples"], &how["confidence"], &how["seed"]), (&1000.into(), &0.95.into(), &0.into()));
    let a = found["scores"]["accuracy"].as_f64().unwrap();
    let [low, high] = ["low", "high"].map(|e| how["scores"]["accuracy"][e].as_f64().unwrap());
    let half = 1.96 * (a * (1.0 - a) / 80.0).sqrt();
    assert!(
        low < a && a < high && ((high - low) / 2.0 - half).abs() < 0.15 * half,
        "{low} {a} {high}, {half}"
    );
    // For a person: each score with its two ends.
    let text = eval(&["--intervals=200"]);
    assert!(text.contains("95 % intervals by 200 draws of 80 (seed 0):"), "{text}");
    assert!(text.lines().any(|l| l.starts_with("accuracy ") && l.contains('[')), "{text}");
    assert!(!eval(&[]).contains("intervals"));
    assert_eq!(json(&eval(&["--json"])).get("intervals"), None);
}
