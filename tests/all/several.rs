//! The best of each of several tasks: found, kept beside the model, and the same after kills.

use crate::support::{golden, killed_after, lines_of};
use crate::tasks::{data, ok, prepared, read, recipe, tempra};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use tempra::rng::Rng;

const TASKS: [(&str, &str, &str); 3] =
    [("classify", "classify.csv", "accuracy"), ("tag", "tag.conll", "f1"), ("answer", "answer.json", "f1")];

fn setting(dir: &Path) {
    prepared(dir, &golden("bert/a"));
    data(dir);
    for (task, file, _) in TASKS {
        let more = if task == "classify" { "" } else { "stride = 2\n" };
        std::fs::write(dir.join(format!("{task}.toml")), recipe(task, file, more, task)).unwrap();
    }
    let multi = "task = \"multi\"\nthreads = 1\nseed = 3\n[model]\npath = \"./base\"\n[multi]\n\
                 recipes = [\"classify.toml\", \"tag.toml\", \"answer.toml\"]\n[data]\nmax_length = 14\n[optim]\nlr = 2e-3\n\
                 [train]\nepochs = 5\nbatch_size = 4\neval_every = 3\nsave_every = 5\nkeep_checkpoints = 1\n";
    std::fs::write(dir.join("multi.toml"), multi).unwrap();
}

fn train(dir: &Path, output: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tempra"));
    command.current_dir(dir).args(["train", "multi.toml", "--set", &format!("output={output}")]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("model.safetensors")).unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
}

/// The first step of the journal at which a score was highest, and that score.
fn highest(run: &Path, name: &str) -> (u64, f64) {
    let mut best = (0, f64::NEG_INFINITY);
    for line in std::fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let Some(score) = line[format!("eval_{name}")].as_f64() else { continue };
        if score > best.1 {
            best = (line["step"].as_u64().unwrap(), score);
        }
    }
    best
}

#[test]
fn the_best_of_each_task_is_kept_and_kills_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    setting(dir.path());
    let said = ok("multi", train(dir.path(), "whole").output().unwrap());
    let whole = dir.path().join("whole");
    let metrics = read(&whole.join("metrics.json"));
    let chosen = metrics["best_step"].as_u64().unwrap();
    assert_eq!(chosen, highest(&whole, "mean").0);
    let mut folders = vec!["model".to_owned()];
    for (task, file, metric) in TASKS {
        let of = &metrics["best_of"][task];
        let (step, value) = highest(&whole, &format!("{task}_{metric}"));
        assert_eq!((of["step"].as_u64(), of["value"].as_f64()), (Some(step), Some(value)), "{task}: {of}");
        assert_eq!(of["metric"], metric);
        assert!(
            said.contains(&format!("best {task} (step {step}): {metric} {value:.4}, saved in ")),
            "{said}"
        );
        let folder = format!("best-{task}");
        assert_eq!(whole.join(&folder).exists(), step != chosen, "{task}: {of}");
        if step != chosen {
            assert_eq!(of["model"], folder.as_str());
            assert!(
                weights(&whole.join(&folder)) == weights(&whole.join(format!("checkpoint-{step}"))),
                "{task}"
            );
            let model = format!("whole/{folder}");
            ok(task, tempra(dir.path(), &["eval", &model, file, "--head", task, "--json", "-q"]));
            folders.push(folder);
        }
    }
    assert!(folders.len() > 1, "all tasks were best at the same step: nothing was tried: {metrics}");

    let lines = ok("counted", train(dir.path(), "counted").arg("--json").output().unwrap());
    let length = lines_of(&lines);
    let mut rng = Rng::new(1, "kills", 0);
    let mut killed = 0;
    let status = loop {
        let lines = rng.below(length + length / 2);
        match killed_after(train(dir.path(), "killed").arg("--json"), lines) {
            Some(status) => break status,
            None => killed += 1,
        }
    };
    assert!(status.success() && killed > 0, "{status}, killed {killed} times");
    println!("killed {killed} times; folders {folders:?}");
    let again = dir.path().join("killed");
    for folder in &folders {
        assert!(weights(&whole.join(folder)) == weights(&again.join(folder)), "{folder}");
    }
    assert_eq!(read(&again.join("metrics.json"))["best_of"], metrics["best_of"]);
    // Started over, what an earlier run left is gone.
    let shorter = ["--fresh", "--set", "train.max_steps=3", "--set", "train.eval_every=3"];
    ok("fresh", train(dir.path(), "killed").args(shorter).output().unwrap());
    assert!(folders[1..].iter().all(|f| !again.join(f).exists()));
}
