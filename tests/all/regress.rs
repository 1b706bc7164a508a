//! Targets of any size: learnt in units of their spread, given back in their own, by tempra and by
//! transformers.

use crate::support::*;
use crate::tasks::{check_classes, data, models, ok, prepared, read, recipe, tempra};
use serde_json::Value;
use std::path::Path;
use std::process::Output;
use tempra::device::Device;
use tempra::models::Options;
use tempra::shape::DType;
use tempra::tasks::{Regress, Task};

/// Prices of 150,000 and more, that a text tells by one of its words.
fn prices(dir: &Path) {
    let animals = [("cat", 149_000), ("dog", 150_000), ("mat", 151_500), ("house", 153_000)];
    let row = |i: usize| {
        let (animal, price) = animals[i * 7 % 4];
        format!("{} saw the {animal},{}\n", ["Alice", "Bob", "who"][i % 3], price + 10 * (i % 5) as u32)
    };
    std::fs::write(dir.join("prices.csv"), format!("text,label\n{}", (0..48).map(row).collect::<String>()))
        .unwrap();
}

fn setting(model: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), model);
    data(dir.path());
    prices(dir.path());
    dir
}

fn train(dir: &Path, file: &str, output: &str, args: &[&str]) -> Output {
    let text = recipe("regress", file, "", output);
    std::fs::write(dir.join("r.toml"), text).unwrap();
    tempra(dir, &[&["train", "r.toml", "-q"], args].concat())
}

/// What a model folder predicts for the rows of a table, and their labels.
fn predicted(dir: &Path, model: &str, file: &str) -> Vec<(f64, f64)> {
    let text = ok("predict", tempra(dir, &["predict", model, file, "-q"]));
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let at = header.iter().position(|name| *name == "prediction").unwrap_or(header.len() - 1);
    lines.map(|row| (row[at].parse().unwrap(), row[1].parse().unwrap())).collect()
}

fn mse(pairs: &[(f64, f64)]) -> f64 {
    pairs.iter().map(|(p, t)| (p - t) * (p - t)).sum::<f64>() / pairs.len() as f64
}

fn near(a: f64, b: f64, relative: f64) -> bool {
    (a - b).abs() <= relative * b.abs()
}

const LEARN: [&str; 8] = [
    "--set",
    "train.max_steps=150",
    "--set",
    "optim.lr=3e-3",
    "--set",
    "train.eval_every=150",
    "--set",
    "train.save_every=150",
];

#[test]
fn prices_are_learnt_and_given_back_in_their_own_units() {
    let dir = setting(&golden("bert/a"));
    let dir = dir.path();
    ok(
        "run",
        train(dir, "prices.csv", "run", &[&LEARN[..], &["--set", "data.validation=prices.csv"]].concat()),
    );
    let (pairs, metrics) = (predicted(dir, "run/model", "prices.csv"), read(&dir.join("run/metrics.json")));
    let (n, targets) = (pairs.len() as f64, || pairs.iter().map(|p| p.1));
    let mean = targets().sum::<f64>() / n;
    let variance = targets().map(|t| (t - mean) * (t - mean)).sum::<f64>() / n;
    println!("mse {} of a variance of {variance}; the first: {:?}", mse(&pairs), &pairs[..4]);
    assert!(mse(&pairs) < 0.1 * variance, "{pairs:?}");
    // Scores are in original units, the loss is over the variance of the training targets, here as by `eval`.
    let noted = read(&dir.join("run/model/tempra.json"));
    let (noted_mean, noted_std) = (number(&noted["target_mean"]), number(&noted["target_std"]));
    assert!(
        near(noted_mean, mean, 1e-9) && near(noted_std, variance.sqrt(), 1e-9),
        "{noted} {mean} {variance}"
    );
    let eval: Value =
        serde_json::from_str(&ok("eval", tempra(dir, &["eval", "run/model", "prices.csv", "--json", "-q"])))
            .unwrap();
    for scores in [&metrics, &eval["scores"]] {
        assert!(near(number(&scores["mse"]), mse(&pairs), 1e-3), "{scores}");
        assert!(near(number(&scores["loss"]), mse(&pairs) / variance, 1e-3), "{scores}");
    }
    // Without it, what the model gives is nowhere near.
    let plain = [&LEARN[..], &["--set", "regress.standardize=false"]].concat();
    ok("plain", train(dir, "prices.csv", "plain", &plain));
    assert!(predicted(dir, "plain/model", "prices.csv").iter().all(|(p, _)| *p < 1000.0));
    assert!(read(&dir.join("plain/model/tempra.json"))["target_std"].is_null());
    // transformers opens the folders of the model and of the checkpoint, and gives the same numbers.
    check_classes(["model", "checkpoint-150"].into_iter().map(|name| dir.join("run").join(name)));
}

#[test]
fn the_loss_is_that_of_standardized_targets() {
    // 100, 200, 600: mean 300, variance (200^2 + 100^2 + 300^2) / 3 = 46666.67, as scikit-learn's
    // StandardScaler.
    let task = Regress::standardized([100.0, 200.0, 600.0].into_iter().map(|t| (t, 1.0))).unwrap();
    assert_eq!(task.shift, 300.0);
    assert!(near(task.scale, 216.024_689_946_928_86, 1e-14) && task.unit == task.scale);
    let device = cpu(1);
    let dir = golden("bert/b");
    let (model, _) =
        open(&device, &dir, &Options { training: true, dtype: DType::F64, ..Options::default() });
    let (set, _) = problem(&json(&dir.join("fixture.json")));
    let done = pass(&device, &model, &task, &set, &whole(&set), None);
    let target =
        |b: &tempra::data::Batch| b.targets.values().iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let targets: Vec<f64> = whole(&set).iter().flat_map(target).collect();
    let differences =
        done.logits.iter().zip(&targets).map(|(y, t)| (y - (t - task.shift) / task.scale).powi(2));
    assert!(near(done.loss, differences.sum::<f64>() / targets.len() as f64, 1e-12));
}

#[test]
fn every_architecture_saves_its_head_in_original_units() {
    for (name, model) in models() {
        let dir = setting(&model);
        let dir = dir.path();
        ok(&name, train(dir, "prices.csv", "run", &["--set", "data.validation=prices.csv"]));
        let trained = number(&read(&dir.join("run/metrics.json"))["mse"]);
        let pairs = predicted(dir, "run/model", "prices.csv");
        println!("{name}: {trained} {}", mse(&pairs));
        assert!(near(mse(&pairs), trained, 1e-3), "{name}: {trained} {}", mse(&pairs));
        assert!(pairs.iter().all(|(p, _)| (140_000.0..160_000.0).contains(p)), "{name}: {pairs:?}");
        // Gone on with for no more than a rounding, on targets of another size, the folder says the same.
        std::fs::rename(dir.join("base/tokenizer.json"), dir.join("tokenizer.json")).unwrap();
        std::fs::remove_dir_all(dir.join("base")).unwrap();
        std::fs::rename(dir.join("run/model"), dir.join("base")).unwrap();
        let least = ["--set", "optim.lr=1e-12", "--set", "train.max_steps=1"];
        ok(&name, train(dir, "regress.csv", "again", &least));
        let again = predicted(dir, "again/model", "prices.csv");
        let worst = pairs.iter().zip(&again).map(|(a, b)| (a.0 - b.0).abs()).fold(0.0, f64::max);
        println!("{name}: at most {worst} apart when continued");
        assert!(worst < 0.2, "{name}: {worst}");
        check_classes(std::iter::once(dir.join("again/model")));
    }
}

/// A folder of transformers with one output, which knows nothing of units.
#[test]
fn a_regression_of_transformers_goes_on_from_its_numbers() {
    let dir = setting(&golden("bert/b"));
    let dir = dir.path();
    let before = predicted(dir, "base", "prices.csv");
    ok("b", train(dir, "prices.csv", "run", &["--set", "optim.lr=1e-12", "--set", "train.max_steps=1"]));
    let after = predicted(dir, "run/model", "prices.csv");
    let worst = before.iter().zip(&after).map(|(a, b)| (a.0 - b.0).abs()).fold(0.0, f64::max);
    assert!(before.iter().all(|(p, _)| p.abs() < 100.0) && worst < 0.05, "{worst} {before:?} {after:?}");
}

/// A finished run as it was after a step: with the checkpoints of the steps given.
fn rewound(dir: &Path, from: &str, to: &str, steps: &[u64]) {
    let (from, to) = (dir.join(from), dir.join(to));
    for checkpoint in steps.iter().map(|step| format!("checkpoint-{step}")) {
        std::fs::create_dir_all(to.join(&checkpoint)).unwrap();
        for file in std::fs::read_dir(from.join(&checkpoint)).unwrap().flatten() {
            std::fs::copy(file.path(), to.join(&checkpoint).join(file.file_name())).unwrap();
        }
    }
    for name in ["recipe.toml", "metrics.jsonl"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn a_run_goes_on_to_the_same_bits() {
    let dir = setting(&golden("bert/a"));
    let dir = dir.path();
    let sets = ["--set", "train.max_steps=9", "--set", "train.keep_checkpoints=5"];
    ok("whole", train(dir, "prices.csv", "whole", &sets));
    for steps in [&[3][..], &[3, 6]] {
        let part = format!("part-{}", steps.len());
        rewound(dir, "whole", &part, steps);
        ok(&part, train(dir, "prices.csv", &part, &sets));
        for name in [
            "model/model.safetensors",
            "checkpoint-9/model.safetensors",
            "checkpoint-9/optimizer.safetensors",
        ] {
            let [a, b] = ["whole", &part].map(|run| std::fs::read(dir.join(run).join(name)).unwrap());
            assert!(a == b, "{part}: {name}");
        }
    }
    // The best checkpoint is loaded as it was: an earlier one makes the same model folder.
    let best = [&sets[..], &["--set", "optim.lr=1.0", "--set", "optim.max_grad_norm=0"]].concat();
    ok("best", train(dir, "prices.csv", "best", &best));
    let step = read(&dir.join("best/metrics.json"))["best_step"].as_u64().unwrap();
    let [a, b] = ["model".to_owned(), format!("checkpoint-{step}")]
        .map(|name| std::fs::read(dir.join("best").join(name).join("model.safetensors")).unwrap());
    assert!(a == b, "{step}");
}

#[test]
fn several_tasks_have_units_of_their_own() {
    let dir = setting(&golden("bert/a"));
    let dir = dir.path();
    for (name, task, file) in [
        ("price", "regress", "prices.csv"),
        ("small", "regress", "regress.csv"),
        ("yes", "classify", "classify.csv"),
    ] {
        let more = format!("validation = \"{file}\"\n");
        let text = recipe(task, file, &more, name).replace("validation_fraction = 0.25\n", "");
        std::fs::write(dir.join(format!("{name}.toml")), text).unwrap();
    }
    let multi = "task = \"multi\"\nthreads = 2\noutput = \"whole\"\n[model]\npath = \"./base\"\n[multi]\n\
                 recipes = [\"price.toml\", \"small.toml\", \"yes.toml\"]\n[data]\nmax_length = 14\n[optim]\nlr = 1e-3\n\
                 [train]\nmax_steps = 8\nbatch_size = 4\neval_every = 8\nsave_every = 4\nbest_metric = \"price_mse\"\n";
    std::fs::write(dir.join("multi.toml"), multi).unwrap();
    ok("multi", tempra(dir, &["train", "multi.toml", "-q"]));
    let metrics = read(&dir.join("whole/metrics.json"));
    for (head, file, within) in [("price", "prices.csv", 1e-3), ("small", "regress.csv", 1e-3)] {
        let out = ok(head, tempra(dir, &["eval", "whole/model", file, "--head", head, "--json", "-q"]));
        let scores = &serde_json::from_str::<Value>(&out).unwrap()["scores"];
        let trained = number(&metrics[format!("{head}_mse")]);
        assert!(near(number(&scores["mse"]), trained, within), "{head}: {scores} {metrics}");
    }
    assert!(
        number(&metrics["price_mse"]).sqrt() < 10_000.0 && number(&metrics["small_mse"]) < 20.0,
        "{metrics}"
    );
    // Stopped half way and gone on with, the bits are the same.
    rewound(dir, "whole", "part", &[4]);
    ok("part", tempra(dir, &["train", "multi.toml", "-q", "--set", "output=part"]));
    for name in ["model/model.safetensors", "checkpoint-8/optimizer.safetensors"] {
        let [a, b] = ["whole", "part"].map(|run| std::fs::read(dir.join(run).join(name)).unwrap());
        assert!(a == b, "{name}");
    }
}

#[test]
fn targets_without_a_spread_are_refused() {
    let dir = setting(&golden("bert/a"));
    let dir = dir.path();
    let table = |name: &str, label: &dyn Fn(usize) -> f64| {
        let rows: String = (0..12).map(|i| format!("the cat {i},{}\n", label(i))).collect();
        std::fs::write(dir.join(name), format!("text,label\n{rows}")).unwrap();
    };
    let refused = |file: &str, args: &[&str], says: &str| {
        let out = train(dir, file, "run", args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(3), "{said}");
        assert!(said.contains(says) && said.contains(file), "{said}");
    };
    table("same.csv", &|_| 5.0);
    refused("same.csv", &[], "all targets are the same");
    ok("same", train(dir, "same.csv", "same", &["--set", "regress.standardize=false"]));
    table("close.csv", &|i| 1e9 + 64.0 * i as f64);
    refused("close.csv", &[], "differ too little for the precision");
    table("huge.csv", &|i| 1e30 * i as f64);
    refused("huge.csv", &["--set", "regress.standardize=false"], "regress.standardize = true");
    ok("huge", train(dir, "huge.csv", "huge", &[]));
    assert!(predicted(dir, "huge/model", "huge.csv").iter().all(|(p, _)| p.is_finite()));
}

/// What a head gives without a folder in between is in units of its own; see `Model::standardize`.
#[test]
fn units_do_not_change_what_a_folder_says() {
    let device = Device::open("cpu", 1).unwrap();
    let dir = golden("bert/b");
    let (mut model, _) = open(&device, &dir, &Options::default());
    let (set, _) = problem(&json(&dir.join("fixture.json")));
    let before = logits(&device, &model, &whole(&set));
    let units = Regress { shift: 7.0, scale: 3.0, unit: 3.0 }.units().unwrap();
    model.standardize(&device, 0, units, &[]).unwrap();
    let after = logits(&device, &model, &whole(&set));
    let worst = before.iter().zip(&after).map(|(a, b)| (a - (7.0 + 3.0 * b)).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-4, "{worst}");
    assert_eq!(
        model.converted().map(|p| p.name.as_str()).collect::<Vec<_>>(),
        ["classifier.weight", "classifier.bias"]
    );
    assert!(Regress::default().units().is_none());
}
