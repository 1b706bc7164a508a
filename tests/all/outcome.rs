//! What a run folder says of its models: scores with their step and thresholds, epochs, and the same when a
//! run is repeated.

use crate::support::golden;
use crate::tasks::{data, ok, prepared, read, recipe, tempra};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn setting() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    dir
}

fn train(dir: &Path, name: &str, args: &[&str]) -> String {
    let file = format!("{name}.toml");
    let out = tempra(dir, &[&["train", &file], args].concat());
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    ok(name, out) + &err
}

fn eval(dir: &Path, model: &str, file: &str, more: &[&str]) -> Value {
    let out = ok("eval", tempra(dir, &[&["eval", model, file, "--json", "-q"], more].concat()));
    serde_json::from_str::<Value>(&out).unwrap()["scores"].clone()
}

fn journal(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// All of `tempra eval`'s scores stand in an object; equal weights give equal bits.
fn same(what: &str, stated: &Value, evaluated: &Value) {
    for (name, value) in evaluated.as_object().unwrap() {
        // A folder has the last layer of a regression in original units: rounded once more.
        if what.starts_with("regress") {
            let [a, b] = [&stated[name], value].map(|v| v.as_f64().unwrap());
            assert!((a - b).abs() <= 1e-5 * b.abs().max(1e-3), "{what}: {name} in {stated}, {evaluated}");
            continue;
        }
        assert_eq!(&stated[name], value, "{what}: {name} in {stated}, {evaluated}");
    }
}

/// `eval` of the model folder is the judge of what `metrics.json` says, whichever step was chosen.
#[test]
fn scores_are_those_of_the_model_that_is_there() {
    let dir = setting();
    let d = dir.path();
    for (task, file, more) in [
        ("classify", "classify.csv", ""),
        ("regress", "regress.csv", ""),
        ("multilabel", "multilabel.csv", ""),
        ("tag", "tag.conll", "stride = 2\n"),
    ] {
        let validation = format!("validation = \"{file}\"\n{more}");
        let text = recipe(task, file, &validation, task).replace("eval_every = 3", "eval_every = 1");
        std::fs::write(d.join(format!("{task}.toml")), text).unwrap();
        for (best, test) in [(true, false), (false, false), (false, true), (true, true)] {
            let output = format!("{task}-{best}-{test}");
            let (out, load) = (format!("output={output}"), format!("train.load_best={best}"));
            let mut args = vec!["-q", "--set", &out, "--set", &load, "--set", "train.max_steps=6"];
            let set = format!("data.test=\"{}\"", d.join(file).display());
            if test {
                args.extend(["--set", &set]);
            }
            let said = train(d, task, &args);
            let run = d.join(&output);
            let metrics = read(&run.join("metrics.json"));
            let scores = eval(d, &format!("{output}/model"), file, &[]);
            same(&output, &metrics, &scores);
            same(&output, &metrics["validation"], &scores);
            assert_eq!(metrics["scored_on"], if test { "test" } else { "validation" });
            let expected = if best { &metrics["best_step"] } else { &metrics["steps"] };
            assert_eq!(&metrics["model_step"], expected, "{output}: {metrics}");
            // The best step's scores are those of the log.
            let step = metrics["best_step"].as_u64().unwrap();
            let log = journal(&run)
                .into_iter()
                .find(|l| l["step"] == step && l.get("eval_loss").is_some())
                .unwrap();
            assert_eq!(log.get("thresholds"), (task == "multilabel").then(|| json!(0.5)).as_ref());
            for (name, value) in metrics["best"]["scores"].as_object().unwrap() {
                assert_eq!(&log[format!("eval_{name}")], value, "{output}: {name}");
            }
            assert_eq!(
                metrics["best"]["value"],
                metrics["best"]["scores"][metrics["best"]["metric"].as_str().unwrap()]
            );
            let tested = journal(&run).into_iter().find(|l| l.get("test_loss").is_some());
            assert_eq!(tested.map(|l| l["model_step"].clone()), test.then(|| metrics["model_step"].clone()));
            // Thresholds are those that the model holds.
            let noted = read(&run.join("model/tempra.json"));
            assert_eq!(metrics["thresholds"], noted["thresholds"], "{output}");
            assert_eq!(metrics["thresholds"].is_object(), task == "multilabel");
            let state = read(&run.join("checkpoint-6/trainer_state.json"));
            assert_eq!(state["best_global_step"], step);
            if let Some(name) = state["best_model_checkpoint"].as_str() {
                assert!(run.join(name).is_dir() && name == format!("checkpoint-{step}"), "{output}: {state}");
            } else {
                assert!(!run.join(format!("checkpoint-{step}")).exists(), "{output}: {state}");
            }
            if task == "classify" && !best {
                let loss = metrics["validation"]["loss"].as_f64().unwrap();
                assert!(step == 6 || said.contains(&format!("(step 6): loss {loss:.4}")), "{said}");
            }
        }
    }
}

/// Every file of a folder, but for the lock.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else if !path.ends_with("run.lock") {
            all.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    all
}

#[test]
fn repeating_a_finished_run_changes_nothing() {
    let dir = setting();
    let d = dir.path();
    for (task, file) in [("classify", "classify.csv"), ("tag", "tag.conll"), ("multilabel", "multilabel.csv")]
    {
        let more = "stride = 2\ntest_fraction = 0.25\n";
        let text = recipe(task, file, more, task);
        let text = text.replace("eval_every = 3", "eval_every = 2").replace("max_steps = 3", "max_steps = 7");
        std::fs::write(d.join(format!("{task}.toml")), text).unwrap();
    }
    let multi = "task = \"multi\"\nthreads = 1\noutput = \"multi\"\n[model]\npath = \"./base\"\n[multi]\n\
                 recipes = [\"classify.toml\", \"tag.toml\", \"multilabel.toml\"]\n[data]\nmax_length = 14\n[optim]\nlr = 2e-3\n\
                 [train]\nmax_steps = 7\nbatch_size = 4\neval_every = 1\n";
    std::fs::write(d.join("multi.toml"), multi).unwrap();
    for name in ["classify", "multilabel", "multi"] {
        let first = train(d, name, &["--json"]);
        let before = contents(&d.join(name));
        let again = train(d, name, &["--json"]);
        assert!(before == contents(&d.join(name)), "{name} changed its folder");
        let done = |said: &str| {
            let line = said.lines().find(|l| l.contains("\"event\":\"done\"")).unwrap();
            serde_json::from_str::<Value>(line).unwrap()["result"].clone()
        };
        assert_eq!(done(&first), done(&again), "{name}");
        assert!(again.contains("\"event\":\"finished\""), "{again}");
        assert!(train(d, name, &[]).contains("already finished (step 7)"), "{name}");
        let metrics = read(&d.join(name).join("metrics.json"));
        assert!(metrics["train_seconds"].as_f64().is_some_and(|t| t > 0.0), "{metrics}");

        // A model that is lost is written again, with the same bits, and nothing else is lost.
        std::fs::remove_file(d.join(name).join("model/model.safetensors")).unwrap();
        train(d, name, &["-q"]);
        let after = contents(&d.join(name));
        for (path, bytes) in &before {
            assert!(after.get(path) == Some(bytes), "{name}: {}", path.display());
        }
    }
    // Runs of several seeds.
    let seeds = ["--set", "seeds=[1,2]", "--set", "output=seeds", "-q"];
    train(d, "classify", &seeds);
    let before = contents(&d.join("seeds"));
    train(d, "classify", &seeds);
    assert!(before == contents(&d.join("seeds")));
    let summary = read(&d.join("seeds/summary.json"));
    let steps = [1, 2].map(|s| read(&d.join(format!("seeds/seed-{s}/metrics.json")))["model_step"].clone());
    assert_eq!(summary["accuracy"]["model_steps"], json!(steps));
    assert_eq!(summary["accuracy"]["scored_on"], "test");
}

/// The values are those of transformers' Trainer: `make_epochs.py`.
#[test]
fn epochs_are_counted_as_transformers_counts_them() {
    let dir = setting();
    let d = dir.path();
    for (i, case) in read(&golden("epochs.json")).as_array().unwrap().iter().enumerate() {
        let rows = case["rows"].as_u64().unwrap();
        let file: String =
            (0..rows).map(|i| format!("the {} sat,{}\n", ["cat", "dog"][i as usize % 2], i % 2)).collect();
        std::fs::write(d.join("rows.csv"), format!("text,label\n{file}")).unwrap();
        let max = case["max_steps"].as_u64().map_or(String::new(), |n| format!("max_steps = {n}\n"));
        let text = format!(
            "task = \"classify\"\nthreads = 1\noutput = \"run-{i}\"\n[model]\npath = \"./base\"\n[data]\ntrain = \"rows.csv\"\n\
             validation = \"rows.csv\"\nmax_length = 14\ncache = false\n[train]\nbatch_size = {}\nepochs = {}\nlog_every = 1\n\
             save_every = 2\nload_best = false\n{max}",
            case["batch_size"], case["epochs"]
        );
        std::fs::write(d.join("epochs.toml"), text).unwrap();
        train(d, "epochs", &["-q"]);
        let run = d.join(format!("run-{i}"));
        let epochs = |run: &Path| -> Vec<Value> {
            journal(run).iter().filter(|l| l.get("loss").is_some()).map(|l| l["epoch"].clone()).collect()
        };
        assert_eq!(json!(epochs(&run)), case["log_epochs"], "{case}");
        let last = &case["state"]["global_step"];
        let state = |run: &Path| read(&run.join(format!("checkpoint-{last}/trainer_state.json")));
        for (key, value) in case["state"].as_object().unwrap() {
            assert_eq!(state(&run)[key].as_f64(), value.as_f64(), "{key} of {case}");
        }
        // Gone on with from an earlier checkpoint, it says the same.
        let (whole, resumed) = (state(&run), d.join("resumed"));
        std::fs::create_dir_all(&resumed).unwrap();
        if !run.join("checkpoint-2").exists() || last == 2 {
            continue;
        }
        std::process::Command::new("cp")
            .arg("-r")
            .arg(run.join("checkpoint-2"))
            .arg(&resumed)
            .status()
            .unwrap();
        train(d, "epochs", &["-q", "--set", "output=resumed"]);
        assert_eq!(state(&resumed)["log_history"], whole["log_history"]);
        std::fs::remove_dir_all(resumed).unwrap();
    }
    // Several tasks: an epoch is as long as those of all together; 6 and 3 steps here, of which 6 / 9 are
    // made.
    let text = |name: &str, file: &str| recipe("classify", file, "validation = \"rows.csv\"\n", name);
    std::fs::write(d.join("long.csv"), format!("text,label\n{}", "the cat,yes\na dog,no\n".repeat(12)))
        .unwrap();
    std::fs::write(d.join("short.csv"), format!("text,label\n{}", "the cat,1\na dog,0\n".repeat(6))).unwrap();
    std::fs::write(d.join("a.toml"), text("a", "long.csv").replace("rows.csv", "long.csv")).unwrap();
    std::fs::write(d.join("b.toml"), text("b", "short.csv").replace("rows.csv", "short.csv")).unwrap();
    let multi = "task = \"multi\"\nthreads = 1\noutput = \"multi\"\n[model]\npath = \"./base\"\n[multi]\n\
                 recipes = [\"a.toml\", \"b.toml\"]\n[data]\nmax_length = 14\n[train]\nmax_steps = 6\nbatch_size = 4\nlog_every = 3\n";
    std::fs::write(d.join("multi.toml"), multi).unwrap();
    train(d, "multi", &["-q"]);
    let lines = journal(&d.join("multi"));
    let epochs: Vec<&Value> = lines.iter().filter(|l| l.get("loss").is_some()).map(|l| &l["epoch"]).collect();
    assert_eq!(epochs, [&json!(3.0 / 9.0), &json!(6.0 / 9.0)]);
}
