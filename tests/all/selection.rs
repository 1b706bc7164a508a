//! Which model a run ends with: metrics of different directions, names of scores, metrics that say nothing,
//! NaN.

use crate::support::golden;
use crate::tasks::{data, ok, prepared, read, recipe, tempra};
use serde_json::Value;
use std::path::Path;
use tempra::metrics;

/// A folder with the model and data of every kind.
fn setting() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    dir
}

/// Writes the recipe `name`.toml of a task; `more` are further lines of `[data]`, `set` whole lines at the
/// end (`[train]` is open).
fn write(dir: &Path, name: &str, task: &str, file: &str, more: &str, set: &str) {
    std::fs::write(dir.join(format!("{name}.toml")), recipe(task, file, more, name) + set).unwrap();
}

fn multi(dir: &Path, names: &[&str], train: &str) {
    let recipes: Vec<String> = names.iter().map(|n| format!("{n}.toml")).collect();
    let text = format!(
        "task = \"multi\"\nthreads = 2\nseed = 3\noutput = \"multi\"\n[model]\npath = \"./base\"\n[multi]\n\
         recipes = {recipes:?}\n[data]\nmax_length = 14\n[optim]\nlr = 2e-3\n[train]\nbatch_size = 4\n{train}\n"
    );
    std::fs::write(dir.join("multi.toml"), text).unwrap();
}

fn train(dir: &Path, name: &str, args: &[&str]) -> String {
    let file = format!("{name}.toml");
    let out = tempra(dir, &[&["train", &file], args].concat());
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    ok(name, out) + &err
}

/// The run is refused before it begins, with all of these words.
fn refused(dir: &Path, name: &str, args: &[&str], words: &[&str]) {
    let file = format!("{name}.toml");
    let out = tempra(dir, &[&["train", &file], args].concat());
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{name} {args:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{name} {args:?}: no {word:?} in\n{said}");
    }
    assert!(!dir.join(name).join("model").exists());
}

/// The validations of a run: steps and scores.
fn validations(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    lines.filter(|l| l.get("eval_loss").is_some() || l.get("eval_mean").is_some()).collect()
}

/// The first step of several at which a value is greatest.
fn first_greatest(values: &[(u64, f64)]) -> u64 {
    values.iter().fold((0, f64::NEG_INFINITY), |b, &v| if v.1 > b.1 { v } else { b }).0
}

#[test]
fn the_mean_of_several_tasks_counts_errors_as_errors() {
    let dir = setting();
    let d = dir.path();
    // The training targets are 0, 10, ..., 230; validation rows are others, so that the deviation is known:
    // of 0..n - 1 the variance is (n^2 - 1) / 12, of 24 numbers 10 apart 100 * 575 / 12.
    let rows = |ids: std::ops::Range<u32>| {
        ids.map(|i| format!("the {} sat on mat,{}\n", ["cat", "dog"][i as usize % 2], i * 10))
            .collect::<String>()
    };
    std::fs::write(d.join("n.csv"), format!("text,label\n{}", rows(0..24))).unwrap();
    std::fs::write(d.join("v.csv"), format!("text,label\n{}", rows(24..30))).unwrap();
    write(d, "classify", "classify", "classify.csv", "", "");
    write(d, "regress", "regress", "n.csv", "validation = \"v.csv\"\n", "");
    write(d, "tag", "tag", "tag.conll", "stride = 2\n", "");
    write(d, "mask", "mask", "text.txt", "", "best_metric = \"loss\"\n");
    write(d, "multilabel", "multilabel", "multilabel.csv", "", "best_metric = \"hamming\"\n");

    multi(d, &["classify", "regress"], "epochs = 5\neval_every = 2\nearly_stopping = 1000");
    let said = train(d, "multi", &[]);
    let variance = 100.0 * 575.0 / 12.0;
    assert!(
        said.contains(&format!("mean of classify_accuracy, 1 / (1 + regress_mse / {variance:.4})")),
        "{said}"
    );
    let evals = validations(&d.join("multi"));
    let mut means = Vec::new();
    for line in &evals {
        let score = |name: &str| line[format!("eval_{name}")].as_f64().unwrap();
        let expected = (score("classify_accuracy") + 1.0 / (1.0 + score("regress_mse") / variance)) / 2.0;
        assert!((score("mean") - expected).abs() < 1e-9, "{line}, {expected}");
        means.push((line["step"].as_u64().unwrap(), score("mean")));
    }
    assert!(means.len() > 3);
    let metrics = read(&d.join("multi/metrics.json"));
    assert_eq!(metrics["best_step"].as_u64(), Some(first_greatest(&means)), "{means:?}");
    assert_eq!(metrics["higher_is_better"]["regress_mse"], false);
    assert_eq!(metrics["higher_is_better"]["classify_accuracy"], true);
    // Each task's own best goes by its own direction.
    let errors: Vec<(u64, f64)> = evals
        .iter()
        .map(|l| (l["step"].as_u64().unwrap(), -l["eval_regress_mse"].as_f64().unwrap()))
        .collect();
    assert_eq!(metrics["best_of"]["regress"]["step"].as_u64(), Some(first_greatest(&errors)));

    multi(d, &["tag", "mask", "multilabel"], "max_steps = 6\neval_every = 3");
    train(d, "multi", &["--set", "output=other", "-q"]);
    for line in validations(&d.join("other")) {
        let score = |name: &str| line[format!("eval_{name}")].as_f64().unwrap();
        let terms = score("tag_f1") + (-score("mask_loss")).exp() + 1.0 - score("multilabel_hamming");
        assert!((score("mean") - terms / 3.0).abs() < 1e-9, "{line}");
    }
}

#[test]
fn a_score_of_several_tasks_is_found_by_its_exact_name() {
    let dir = setting();
    let d = dir.path();
    // Names that begin with each other, or are metrics.
    write(d, "a", "regress", "regress.csv", "", "");
    write(d, "a_mse", "classify", "classify.csv", "", "");
    write(d, "f1", "regress", "regress.csv", "", "best_metric = \"mae\"\n");
    multi(d, &["a", "a_mse", "f1"], "max_steps = 8\neval_every = 2");
    let cases = [("a_mse", -1.0), ("a_mse_accuracy", 1.0), ("f1_mae", -1.0), ("a_mse_loss", -1.0)];
    for (name, direction) in cases {
        let output = format!("run_{name}");
        let (best, out) = (format!("train.best_metric={name}"), format!("output={output}"));
        train(d, "multi", &["-q", "--set", &best, "--set", &out]);
        let values: Vec<(u64, f64)> = validations(&d.join(&output))
            .iter()
            .map(|l| (l["step"].as_u64().unwrap(), direction * l[format!("eval_{name}")].as_f64().unwrap()))
            .collect();
        let metrics = read(&d.join(&output).join("metrics.json"));
        assert_eq!(metrics["best_step"].as_u64(), Some(first_greatest(&values)), "{name}: {values:?}");
    }
    let set = |value: &str| format!("train.best_metric={value}");
    let no = "is not a score of these tasks";
    refused(d, "multi", &["--set", &set("accuracy")], &[no, "did you mean \"a_mse_accuracy\"?"]);
    refused(d, "multi", &["--set", &set("a_accuracy")], &[no, "a_mse_accuracy", "f1_mae"]);
    refused(d, "multi", &["--set", &set("a_mse_accuracu")], &[no, "did you mean \"a_mse_accuracy\"?"]);
    // One name for two scores.
    write(d, "x", "next", "text.txt", "", "");
    write(d, "x_next", "classify", "classify.csv", "", "");
    multi(d, &["x", "x_next"], "max_steps = 2");
    refused(d, "multi", &[], &["two tasks have a score with the name x_next_accuracy"]);
}

#[test]
fn a_metric_that_cannot_choose_a_model_is_refused_before_the_run() {
    let dir = setting();
    let d = dir.path();
    let by = |metric: &str| format!("best_metric = \"{metric}\"\n");
    // Settings decide what a task has.
    let pair = "pair = \"pair\"\n";
    let contrastive = "[similar]\nloss = \"contrastive\"\n";
    for metric in ["spearman", "mse", "loss"] {
        write(d, "similar", "similar", "similar.csv", pair, &(by(metric) + contrastive));
        refused(d, "similar", &[], &["not a metric of task similar (contrastive)", "mrr, hits_10"]);
    }
    for metric in ["mrr", "accuracy"] {
        write(d, "similar", "similar", "similar.csv", pair, &by(metric));
        refused(d, "similar", &[], &["not a metric of task similar (cosine)", "pearson"]);
    }
    write(d, "mask", "mask", "text.txt", "", &by("next_accuracy"));
    refused(d, "mask", &[], &["not a metric of task mask"]);
    let pairs = "pair = \"pair\"\nlabel = \"\"\n";
    write(d, "similar", "similar", "similar.csv", pairs, &(by("hits_10") + contrastive));
    refused(d, "similar", &[], &["of 6 pairs", "nearest ten"]);

    // Examples decide what can be told.
    let csv = |name: &str, rows: &[(&str, &str)]| {
        let rows: String = rows.iter().map(|(text, label)| format!("{text},{label}\n")).collect();
        std::fs::write(d.join(name), format!("text,label\n{rows}")).unwrap();
    };
    csv("one.csv", &[("the cat", "yes"), ("a dog", "yes"), ("a mat", "yes")]);
    csv("same.csv", &[("the cat", "0.5"), ("a dog", "0.5")]);
    csv("sets.csv", &[("the cat", "a"), ("a dog", "a")]);
    csv("none.csv", &[("the cat", ""), ("a dog", "")]);
    csv("empty.csv", &[]);
    std::fs::write(d.join("outside.conll"), "went O\nto O\n\nhouse O\n\n").unwrap();
    let validated = |name: &str, task: &str, file: &str, with: &str, metric: &str, words: &[&str]| {
        write(d, name, task, file, &format!("stride = 2\nvalidation = \"{with}\"\n"), &by(metric));
        refused(d, name, &[], words);
    };
    for metric in ["auroc", "average_precision", "mcc"] {
        let words = [metric, "all examples are of class \"yes\"", "accuracy"];
        validated("classify", "classify", "classify.csv", "one.csv", metric, &words);
    }
    for metric in ["pearson", "spearman"] {
        validated("regress", "regress", "regress.csv", "same.csv", metric, &["the same number", "mse"]);
    }
    validated("multilabel", "multilabel", "multilabel.csv", "sets.csv", "auroc", &["have the label \"a\""]);
    validated(
        "multilabel",
        "multilabel",
        "multilabel.csv",
        "none.csv",
        "f1_micro",
        &["no example has a label"],
    );
    validated("tag", "tag", "tag.conll", "outside.conll", "f1", &["no entity", "loss, accuracy"]);
    validated("answer", "answer", "answer.json", "answer.json", "best_f1", &["is not a score of this task"]);
    // The same metrics where they say something, and others where they do not.
    csv("two.csv", &[("the cat", "yes"), ("a dog", "no")]);
    write(d, "good", "classify", "classify.csv", "validation = \"two.csv\"\n", &by("auroc"));
    train(d, "good", &["-q"]);
    write(d, "other", "classify", "classify.csv", "validation = \"one.csv\"\n", &by("f1_macro"));
    train(d, "other", &["-q"]);
    // In several tasks, also what one of them is chosen by.
    write(d, "classify", "classify", "classify.csv", "validation = \"one.csv\"\n", &by("auroc"));
    write(d, "tag", "tag", "tag.conll", "", "");
    multi(d, &["classify", "tag"], "max_steps = 2\nbest_metric = \"tag_f1\"");
    refused(d, "multi", &[], &["of the task classify", "auroc", "all examples are of class"]);
    // No examples at all.
    write(d, "classify", "classify", "classify.csv", "validation = \"empty.csv\"\n", "");
    let out = tempra(d, &["train", "classify.toml"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(3) && said.contains("empty.csv"), "{said}");
}

/// Equal texts have equal predictions, whose correlation with anything is undefined, as SciPy has it.
#[test]
fn a_run_whose_metric_is_always_nan_ends_with_the_last_model() {
    let dir = setting();
    let d = dir.path();
    let rows: String = (0..24).map(|i| format!("the cat sat,{}\n", i % 5)).collect();
    std::fs::write(d.join("alike.csv"), format!("text,label\n{rows}")).unwrap();
    std::fs::write(d.join("v.csv"), "text,label\na dog,1\na dog,2\na dog,4\n").unwrap();
    let set = "best_metric = \"spearman\"\nearly_stopping = 1\n";
    write(d, "regress", "regress", "alike.csv", "validation = \"v.csv\"\n", set);
    let said = train(d, "regress", &["--set", "train.eval_every=1", "--set", "train.max_steps=4"]);
    assert_eq!(said.matches("spearman is NaN at step").count(), 1, "{said}");
    assert!(said.contains("spearman was NaN in every validation") && !said.contains("(best)"), "{said}");
    let metrics = read(&d.join("regress/metrics.json"));
    assert_eq!((&metrics["steps"], &metrics["best_step"]), (&4.into(), &Value::Null), "{metrics}");
    let bytes =
        |folder: &str| std::fs::read(d.join("regress").join(folder).join("model.safetensors")).unwrap();
    assert!(bytes("model") == bytes("checkpoint-4"));
}

#[test]
fn nan_never_beats_a_number_and_a_gain_is_positive_where_it_is_better() {
    for name in ["accuracy", "mse", "perplexity", "hamming", "NoAns_f1"] {
        let m = metrics::find(name).unwrap();
        assert!(m.improves(0.5, f64::NAN) && !m.improves(f64::NAN, 0.5) && !m.improves(f64::NAN, f64::NAN));
        let (worse, better) = if m.higher_is_better { (0.2, 0.7) } else { (0.7, 0.2) };
        assert!(
            m.improves(better, worse) && !m.improves(worse, better) && !m.improves(worse, worse),
            "{name}"
        );
        assert!((m.gain(worse, better) - 0.5).abs() < 1e-12 && m.gain(better, worse) < 0.0, "{name}");
        assert!(m.comparable(better, Some(2.0)) > m.comparable(worse, Some(2.0)), "{name}");
    }
    let value = |name: &str, v: f64, deviation| metrics::find(name).unwrap().comparable(v, deviation);
    // Always answering the mean: an mse of the variance.
    assert_eq!(value("mse", 9.0, Some(3.0)), 0.5);
    assert_eq!(value("mae", 3.0, Some(3.0)), 0.5);
    assert_eq!(value("perplexity", 4.0, None), 0.25);
    assert_eq!(value("loss", 0.0, None), 1.0);
}

#[test]
fn a_gain_of_adapting_has_the_direction_of_the_score() {
    let dir = setting();
    let d = dir.path();
    write(d, "text", "mask", "text.txt", "", "");
    write(d, "task", "regress", "regress.csv", "", "");
    write(d, "classes", "classify", "classify.csv", "", "");
    let cases = [("task", "mse", false), ("task", "loss", false), ("classes", "accuracy", true)];
    for (task, metric, higher) in cases {
        let said = ok("adapt", tempra(d, &["adapt", "text.toml", &format!("{task}.toml"), "--json", "-q"]));
        let table: Value = serde_json::from_str(&said).unwrap();
        let of = &table["task"][metric];
        let [with, without] = ["with", "without"].map(|side| of[side][0].as_f64().unwrap());
        assert_eq!(of["higher_is_better"], higher, "{table}");
        let gain = if higher { with - without } else { without - with };
        assert!((of["gain"].as_f64().unwrap() - gain).abs() < 1e-12, "{metric}: {table}");
    }
    // Another model: the same names, other weights. The same model under another name is none.
    let copy = |name: &str| {
        std::fs::create_dir_all(d.join(name)).unwrap();
        for file in std::fs::read_dir(d.join("base")).unwrap().flatten() {
            std::fs::copy(file.path(), d.join(name).join(file.file_name())).unwrap();
        }
    };
    copy("same");
    copy("other");
    let weights = golden("encoders/distilbert/model.safetensors");
    std::fs::copy(weights, d.join("other/model.safetensors")).unwrap();
    let model = |name: &str| {
        let text =
            std::fs::read_to_string(d.join("task.toml")).unwrap().replace("./base", &format!("./{name}"));
        std::fs::write(d.join(format!("{name}.toml")), text.replace("output = \"task\"", "output = \"o\""))
            .unwrap();
    };
    model("other");
    model("same");
    let out = tempra(d, &["adapt", "text.toml", "other.toml"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("different models") && said.contains("model.safetensors"), "{said}");
    let said = ok("adapt", tempra(d, &["adapt", "text.toml", "same.toml", "-q"]));
    assert!(said.contains("lower is better"), "{said}");
}

/// A run folder keeps which model it started from: other weights or another config under the same path are
/// not taken for it.
#[test]
fn a_finished_run_is_not_reported_for_another_model() {
    let dir = setting();
    let d = dir.path();
    write(d, "task", "regress", "regress.csv", "", "");
    write(d, "text", "mask", "text.txt", "", "");
    train(d, "task", &[]);
    let change = |name: &str, f: &dyn Fn(&mut Vec<u8>)| {
        let path = d.join("base").join(name);
        let before = std::fs::read(&path).unwrap();
        let mut bytes = before.clone();
        f(&mut bytes);
        assert_ne!(bytes, before);
        std::fs::write(&path, bytes).unwrap();
        let out = tempra(d, &["train", "task.toml"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{name}: {said}");
        assert!(["another model", "base", "--fresh"].iter().all(|w| said.contains(w)), "{name}: {said}");
        std::fs::write(&path, before).unwrap();
        assert!(train(d, "task", &[]).contains("already finished"));
    };
    // The lowest bit of the last weight.
    change("model.safetensors", &|b| {
        let at = b.len() - 4;
        b[at] ^= 1;
    });
    change("config.json", &|b| {
        let text = String::from_utf8(b.clone()).unwrap();
        *b = text.replace("\"hidden_dropout_prob\": 0.1", "\"hidden_dropout_prob\": 0.2").into_bytes();
    });

    // The task without an adapted encoder and with one that is no more.
    write(d, "other", "regress", "regress.csv", "", "");
    let adapt = |set: &[&str]| tempra(d, &[&["adapt", "text.toml", "other.toml", "-q"], set].concat());
    ok("adapt", adapt(&[]));
    ok("adapt", adapt(&[]));
    std::fs::remove_dir_all(d.join("text")).unwrap();
    let text = std::fs::read_to_string(d.join("text.toml")).unwrap().replace("seed = 5", "seed = 6");
    std::fs::write(d.join("text.toml"), text).unwrap();
    let out = adapt(&[]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("another model") && said.contains("text/model"), "{said}");
}
