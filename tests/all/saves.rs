//! What a run saves and reads back: a save that fails is made good, a damaged best checkpoint is not used,
//! damaged checkpoints are never passed over in silence, and the state does not grow with the log.

use crate::faults::{Fault, FaultFs};
use crate::support::golden;
use crate::tasks::{TASKS, data, ok, prepared, recipe, tempra};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use tempfile::{TempDir, tempdir};
use tempra::checkpoint::{NamedFile, RunDir, verify};
use tempra::error::{Kind, Result};
use tempra::train::history::{self, History};
use tempra::train::{self, Control, Event, Observer, Outcome, Recipe, Signals};

/// The disk, without waiting for it.
fn disk() -> Arc<FaultFs> {
    Arc::new(FaultFs::new(Fault::Kill, usize::MAX))
}

/// A folder with data, the small model, and a recipe of each task; `more` are lines of its `[train]`.
fn setting(more: &str) -> TempDir {
    let dir = tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    for (task, file, own) in TASKS {
        let text = recipe(task, file, own, task).replace("threads = 2", "threads = 1");
        let text = text.replace("save_every = 3\neval_every = 3\nmax_steps = 3\n", "");
        let text = text
            .lines()
            .filter(|l| !["max_steps", "save_every", "eval_every"].iter().any(|k| l.starts_with(k)));
        let text: String = text.map(|l| format!("{l}\n")).collect();
        fs::write(dir.path().join(format!("{task}.toml")), format!("{text}{more}")).unwrap();
    }
    let multi = "task = \"multi\"\nthreads = 1\nseed = 3\n[model]\npath = \"./base\"\n[multi]\n\
                 recipes = [\"classify.toml\", \"tag.toml\", \"regress.toml\"]\n[data]\nmax_length = 14\n[optim]\n\
                 lr = 2e-3\n[train]\nbatch_size = 4\n";
    fs::write(dir.path().join("multi.toml"), format!("{multi}{more}")).unwrap();
    dir
}

/// Calls a function with every event.
struct Watch<F>(F);

impl<F: FnMut(&Event)> Observer for Watch<F> {
    fn event(&mut self, event: &Event) -> Control {
        (self.0)(event);
        Control::Continue
    }
}

/// Trains by a recipe of the folder into `output` there, below any threads of other tests.
fn train(dir: &Path, task: &str, output: &str, disk: &FaultFs, watch: impl FnMut(&Event)) -> Result<Outcome> {
    let mut recipe = Recipe::load(&dir.join(format!("{task}.toml")), &[])?;
    recipe.output = dir.join(output);
    train::train(&recipe, false, Arc::new(disk.clone()), &Signals::default(), &mut Watch(watch))
}

fn weights(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("model.safetensors")).unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Flips a bit inside a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

/// The scores of a run's journal by step: `eval_<name>`.
fn scores(run: &Path, name: &str) -> BTreeMap<u64, f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    lines.filter_map(|l| Some((l["step"].as_u64()?, l[format!("eval_{name}")].as_f64()?))).collect()
}

/// The best of some steps, the earliest of equal ones.
fn best(scores: &BTreeMap<u64, f64>, higher: bool, of: impl Fn(u64) -> bool) -> u64 {
    let mut best: Option<(u64, f64)> = None;
    for (&step, &score) in scores.iter().filter(|(step, _)| of(**step)) {
        if best.is_none_or(|(_, b)| if higher { score > b } else { score < b }) {
            best = Some((step, score));
        }
    }
    best.expect("a score").0
}

fn steps(run: &Path) -> Vec<u64> {
    let names = fs::read_dir(run).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter_map(|n| n.strip_prefix("checkpoint-")?.parse().ok()).collect()
}

/// System calls that change the disk during a whole run fail, one in each run; `TEMPRA_FAULT_STRIDE=1` tries
/// all.
#[test]
fn any_one_failed_operation_of_a_run_ends_well_and_a_rerun_gives_the_same_bits() {
    let faults = [Fault::Os(28), Fault::Os(5), Fault::Short, Fault::Os(24), Fault::Os(13)];
    let stride = std::env::var("TEMPRA_FAULT_STRIDE").ok().and_then(|v| v.parse().ok()).unwrap_or(4);
    for (task, name, higher) in [("regress", "mse", false), ("tag", "f1", true)] {
        let dir = setting("max_steps = 2\neval_every = 1\nsave_every = 2\nlog_every = 1\n");
        let dir = dir.path();
        let count = disk();
        let whole = train(dir, task, "whole", &count, |_| ()).unwrap();
        let operations = count.0.count.load(SeqCst);
        assert!(operations > 60, "{operations}");
        let (bits, metrics) = (weights(&whole.model), read(&dir.join("whole/metrics.json")));
        let expected = best(&scores(&dir.join("whole"), name), higher, |_| true);
        assert_eq!(metrics["best_step"].as_u64(), Some(expected));
        let (mut ended, mut refused) = (0, 0);
        for n in (0..operations).step_by(stride) {
            let fault = faults[(n + n / 5) % faults.len()];
            let faulty = FaultFs::new(fault, n);
            match train(dir, task, "run", &faulty, |_| ()) {
                Ok(outcome) => {
                    ended += 1;
                    assert!(weights(&outcome.model) == bits, "{task}: {fault:?} at {n}: another model");
                    assert_eq!(outcome.best.map(|b| b.step), Some(expected), "{fault:?} at {n}");
                }
                Err(e) => {
                    refused += 1;
                    assert_eq!(e.kind(), Kind::Disk, "{fault:?} at {n}: {e}");
                    let again =
                        train(dir, task, "run", &disk(), |_| ()).unwrap_or_else(|e| panic!("{n}: {e}"));
                    assert!(
                        weights(&again.model) == bits,
                        "{task}: {fault:?} at {n}: another model, run again"
                    );
                    assert_eq!(again.best.map(|b| b.step), Some(expected), "{fault:?} at {n}");
                }
            }
            let found = verify(&dir.join("run")).unwrap();
            assert!(found.ok(), "{fault:?} at {n}:\n{found}");
            fs::remove_dir_all(dir.join("run")).unwrap();
        }
        println!(
            "{task}: {operations} operations; with one failure {ended} runs ended, {refused} stopped and went on"
        );
        // Saves make most of them, and are made good within the run.
        assert!(ended > refused, "{ended} and {refused}");
    }
}

#[test]
fn a_best_that_was_not_saved_is_not_the_best() {
    // From the save at the best step on the disk is full for two saves in a row: that step cannot be the
    // best.
    for (task, name, higher) in
        [("regress", "mse", false), ("classify", "loss", false), ("multi", "mean", true)]
    {
        let more = "max_steps = 8\neval_every = 1\nsave_every = 100\nmax_nonfinite_steps = 3\n";
        let more = if name == "loss" { format!("{more}best_metric = \"loss\"\n") } else { more.to_owned() };
        let dir = setting(&more);
        let dir = dir.path();
        train(dir, task, "whole", &disk(), |_| ()).unwrap();
        let all = scores(&dir.join("whole"), name);
        let wanted = best(&all, higher, |_| true);
        // The last step is saved again until it is there.
        let expected = if wanted == 8 { 8 } else { best(&all, higher, |step| step != wanted) };
        let full = FaultFs::new(Fault::Full, usize::MAX);
        let mut warnings = 0;
        // The journal takes the scores; with its sync the save begins.
        let outcome = train(dir, task, "run", &full, |event| match event {
            Event::Evaluated { step, split: "validation", .. } if *step == wanted => full.fail_after(1),
            Event::Warning(e) if e.kind() == Kind::Disk => {
                warnings += 1;
                if warnings == 2 {
                    full.recover();
                }
            }
            _ => {}
        });
        let outcome = outcome.unwrap();
        assert_eq!(warnings, 2, "{task}");
        let metrics = read(&dir.join("run/metrics.json"));
        assert_eq!(metrics["best_step"].as_u64(), Some(expected), "{task}: {all:?}");
        assert!(weights(&outcome.model) == weights(&dir.join(format!("run/checkpoint-{expected}"))));
    }
}

#[test]
fn a_damaged_best_checkpoint_is_replaced_by_the_next_best() {
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 3] = [
        ("model.safetensors has changed", |best| flip(&best.join("model.safetensors"))),
        ("state.json is missing", |best| fs::remove_file(best.join("state.json")).unwrap()),
        ("manifest.json is missing", |best| fs::remove_dir_all(best).unwrap()),
    ];
    let cases = [("regress", "mse", false), ("classify", "loss", false), ("tag", "loss", false)];
    for ((task, name, higher), (what, damage)) in cases.into_iter().zip(damages) {
        let more = "max_steps = 9\neval_every = 1\nsave_every = 1\nkeep_checkpoints = 9\n";
        let more = if name == "loss" { format!("{more}best_metric = \"loss\"\n") } else { more.to_owned() };
        let dir = setting(&more);
        let dir = dir.path();
        // A large rate, so that the last step is not the best one.
        let file = dir.join(format!("{task}.toml"));
        fs::write(&file, fs::read_to_string(&file).unwrap().replace("lr = 1e-3", "lr = 5e-2")).unwrap();
        train(dir, task, "whole", &disk(), |_| ()).unwrap();
        let all = scores(&dir.join("whole"), name);
        let wanted = best(&all, higher, |_| true);
        let expected = best(&all, higher, |step| step != wanted);
        assert!(wanted != 9, "{task}: choose another rate: {all:?}");
        let mut said = Vec::new();
        let run = dir.join("run");
        let outcome = train(dir, task, "run", &disk(), |event| match event {
            Event::Saved(9, _) => damage(&run.join(format!("checkpoint-{wanted}"))),
            Event::Warning(e) => said.push(e.to_string()),
            _ => {}
        });
        let outcome = outcome.unwrap();
        let warning = said.iter().find(|w| w.contains(&format!("checkpoint-{wanted}"))).expect("a warning");
        assert!(warning.contains(what) && warning.contains(&format!("step {expected} ")), "{warning}");
        assert!(weights(&outcome.model) == weights(&run.join(format!("checkpoint-{expected}"))), "{task}");
        assert!(weights(&outcome.model) != weights(&dir.join("whole/model")));
        let metrics = read(&run.join("metrics.json"));
        assert_eq!(metrics["best_step"].as_u64(), Some(expected), "{task}: {all:?}");
        assert_eq!(metrics[name].as_f64(), Some(all[&expected]), "{task}");
    }
}

#[test]
fn damage_to_the_best_of_one_task_leaves_the_others() {
    let dir = setting("max_steps = 12\neval_every = 1\nsave_every = 1\nkeep_checkpoints = 12\n");
    let dir = dir.path();
    train(dir, "multi", "whole", &disk(), |_| ()).unwrap();
    let whole = read(&dir.join("whole/metrics.json"));
    let chosen = whole["best_step"].as_u64().unwrap();
    let tasks = [("classify", "accuracy", true), ("tag", "f1", true), ("regress", "mse", false)];
    let step_of = |metrics: &Value, task: &str| metrics["best_of"][task]["step"].as_u64().unwrap();
    let apart: Vec<_> =
        tasks.into_iter().filter(|(task, ..)| ![12, chosen].contains(&step_of(&whole, task))).collect();
    let (task, metric, higher) = *apart.first().expect("a task that is best at a step of its own");
    let damaged = step_of(&whole, task);
    let run = dir.join("run");
    train(dir, "multi", "run", &disk(), |event| {
        if let Event::Saved(12, _) = event {
            flip(&run.join(format!("checkpoint-{damaged}/model.safetensors")));
        }
    })
    .unwrap();
    let metrics = read(&run.join("metrics.json"));
    for (name, ..) in tasks.iter().filter(|(name, ..)| step_of(&whole, name) != damaged) {
        assert_eq!(metrics["best_of"][name], whole["best_of"][name]);
    }
    let all = scores(&run, &format!("{task}_{metric}"));
    let expected = best(&all, higher, |step| step != damaged);
    assert_eq!(step_of(&metrics, task), expected, "{all:?}");
    assert_eq!(metrics["best_of"][task]["value"].as_f64(), Some(all[&expected]));
    if expected != chosen {
        let folder = run.join(format!("best-{task}"));
        assert!(weights(&folder) == weights(&run.join(format!("checkpoint-{expected}"))));
    }
}

#[test]
fn where_all_checkpoints_are_damaged_a_run_does_not_start_over() {
    let dir = setting("max_steps = 6\neval_every = 2\nsave_every = 2\n");
    let dir = dir.path();
    for (task, seeds) in [("classify", ""), ("answer", "[4,7]")] {
        let config = format!("{task}.toml");
        let args =
            ["train", &config, "--set", "output=out", "--set", &format!("seeds={seeds}")].map(str::to_owned);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        ok(task, tempra(dir, &args));
        let run = if seeds.is_empty() { dir.join("out") } else { dir.join("out/seed-7") };
        let mut all = steps(&run);
        all.sort_unstable();
        assert!(all.len() >= 2, "{all:?}");
        let path = |i: usize| run.join(format!("checkpoint-{}", all[i]));
        flip(&path(0).join("optimizer.safetensors"));
        fs::remove_file(path(1).join("manifest.json")).unwrap();
        for i in 2..all.len() {
            fs::write(path(i).join("state.json"), "{}").unwrap();
        }
        let model = weights(&run.join("model"));
        let out = tempra(dir, &args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(4), "{said}");
        let parts = [
            "every checkpoint",
            "optimizer.safetensors has changed",
            "manifest.json is missing",
            "--fresh",
            "backup",
        ];
        for part in parts.iter().map(|p| p.to_string()).chain(all.iter().map(|s| format!("checkpoint-{s}: ")))
        {
            assert!(said.contains(&part), "{part}: {said}");
        }
        assert!(weights(&run.join("model")) == model && steps(&run).len() == all.len());
        // The model without any checkpoint is not trained over either.
        all.iter().for_each(|step| fs::remove_dir_all(run.join(format!("checkpoint-{step}"))).unwrap());
        let out = tempra(dir, &args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            out.status.code() == Some(2) && said.contains("no checkpoint") && said.contains("--fresh"),
            "{said}"
        );
        ok(task, tempra(dir, &[&args[..], &["--fresh"]].concat()));
        assert!(weights(&run.join("model")) == model);
        fs::remove_dir_all(dir.join("out")).unwrap();
    }
}

/// The lines of the log of a journal, as `trainer_state.json` has them.
fn log_lines(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let strip = |mut line: Value| {
        line.as_object_mut().unwrap().remove("tokens_per_second");
        line
    };
    lines.filter(|l| l["skipped"].is_null() && !l["epoch"].is_null()).map(strip).collect()
}

#[test]
fn the_state_does_not_grow_with_the_log() {
    let dir =
        setting("max_steps = 40\neval_every = 5\nsave_every = 4\nlog_every = 1\nkeep_checkpoints = 40\n");
    let dir = dir.path();
    train(dir, "mask", "run", &disk(), |_| ()).unwrap();
    let run = dir.join("run");
    let size = |step: u64| fs::metadata(run.join(format!("checkpoint-{step}/state.json"))).unwrap().len();
    // After the first validation only digits change.
    assert!(size(40).abs_diff(size(8)) < 100, "{} {}", size(8), size(40));
    assert!(read(&run.join("checkpoint-40/state.json"))["log_history"].is_null());
    // What scripts read, at each checkpoint and at the end, with no key that transformers' TrainerState has
    // not (transformers 5.23; it refuses others).
    let known = [
        "epoch",
        "global_step",
        "max_steps",
        "logging_steps",
        "eval_steps",
        "save_steps",
        "train_batch_size",
        "num_train_epochs",
        "num_input_tokens_seen",
        "total_flos",
        "log_history",
        "best_metric",
        "best_global_step",
        "best_model_checkpoint",
        "is_local_process_zero",
        "is_world_process_zero",
        "is_hyper_param_search",
        "trial_name",
        "trial_params",
        "stateful_callbacks",
    ];
    let lines = log_lines(&run);
    assert_eq!(lines.len(), 48);
    for (file, step) in [("checkpoint-12/trainer_state.json", 12), ("trainer_state.json", 40)] {
        let state = read(&run.join(file));
        assert!(state.as_object().unwrap().keys().all(|k| known.contains(&k.as_str())), "{state}");
        assert_eq!(state["global_step"], step);
        let until: Vec<&Value> = lines.iter().filter(|l| l["step"].as_u64() <= Some(step)).collect();
        assert_eq!(state["log_history"].as_array().unwrap().iter().collect::<Vec<_>>(), until, "{file}");
    }
    // Gone on with from an earlier checkpoint, the log is the same.
    let whole = read(&run.join("trainer_state.json"));
    for step in steps(&run).into_iter().filter(|step| *step > 12) {
        fs::remove_dir_all(run.join(format!("checkpoint-{step}"))).unwrap();
    }
    train(dir, "mask", "run", &disk(), |_| ()).unwrap();
    assert_eq!(read(&run.join("trainer_state.json")), whole);
}

#[test]
fn a_checkpoint_keeps_the_newest_of_a_long_log_and_the_run_folder_all() {
    let dir = tempdir().unwrap();
    let line = |i: u64| json!({ "step": i, "epoch": i as f64 / 7.0, "loss": 0.5, "tokens_per_second": 9.0 });
    let text: String = (0..25_000).map(|i| format!("{}\n", line(i))).collect();
    let skipped = "{\"step\":3,\"skipped\":true,\"epoch\":1}\n{\"step\":0,\"attention_error\":[0.1]}\n";
    fs::write(dir.path().join("metrics.jsonl"), format!("{skipped}{text}")).unwrap();
    // As an earlier version left it: all in one list.
    let old: Vec<Value> = (0..25_000).map(line).collect();
    let file = dir.path().join("trainer_state.json");
    fs::write(file, json!({ "epoch": 1, "log_history": old }).to_string()).unwrap();
    let mut history = History::of_checkpoint(dir.path()).unwrap();
    assert_eq!(history.entries().next().unwrap()["step"], 15_000);
    skipped.lines().for_each(|l| history.add(&serde_json::from_str(l).unwrap()));
    history.add(&line(25_000));
    let kept: Vec<u64> = history.entries().map(|e| e["step"].as_u64().unwrap()).collect();
    assert_eq!(kept, (15_001..25_001).collect::<Vec<_>>());
    let other = json!({ "epoch": 2.0, "best_metric": null, "global_step": 9 });
    history::write_whole(&*disk(), dir.path(), other.clone(), &history).unwrap();
    let state = read(&dir.path().join("trainer_state.json"));
    assert_eq!(state["log_history"].as_array().unwrap().len(), 25_000);
    assert_eq!(state["log_history"][11], json!({ "step": 11, "epoch": 11.0 / 7.0, "loss": 0.5 }));
    assert_eq!((&state["epoch"], &state["global_step"]), (&json!(2.0), &json!(9)));
    // Of a checkpoint that was copied without the journal, what it knows itself.
    fs::remove_file(dir.path().join("metrics.jsonl")).unwrap();
    history::write_whole(&*disk(), dir.path(), other, &history).unwrap();
    let state = read(&dir.path().join("trainer_state.json"));
    assert_eq!(state["log_history"].as_array().unwrap().len(), history::KEPT);
}

#[test]
fn a_state_with_a_long_log_from_an_earlier_version_goes_on() {
    let dir = setting("max_steps = 6\neval_every = 2\nsave_every = 2\n");
    let dir = dir.path();
    let whole = train(dir, "next", "run", &disk(), |_| ()).unwrap();
    let (run, bits) = (dir.join("run"), weights(&whole.model));
    let mut all = steps(&run);
    all.sort_unstable();
    // The first checkpoint as an earlier version wrote it: with the whole log, more than 64 MiB of it.
    let first = run.join(format!("checkpoint-{}", all[0]));
    let files: Vec<(String, Vec<u8>)> = fs::read_dir(&first)
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.file_name() != "manifest.json")
        .map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap()))
        .collect();
    all.iter().for_each(|step| fs::remove_dir_all(run.join(format!("checkpoint-{step}"))).unwrap());
    let pad = "x".repeat(200);
    let log: Vec<String> =
        (0..350_000).map(|i| format!("{{\"step\":{i},\"loss\":0.5,\"pad\":\"{pad}\"}}")).collect();
    let old = |(name, bytes): (String, Vec<u8>)| {
        let mut bytes = bytes;
        if name == "state.json" {
            let mut state: Value = serde_json::from_slice(&bytes).unwrap();
            state.as_object_mut().unwrap().remove("last");
            let text = state.to_string();
            bytes = format!("{},\"log_history\":[{}]}}", &text[..text.len() - 1], log.join(",")).into_bytes();
            assert!(bytes.len() > 64 << 20);
        }
        NamedFile::bytes(name, bytes)
    };
    let mut folder = RunDir::open(&run, disk()).unwrap();
    folder.save(all[0], files.into_iter().map(old).collect(), &[]).unwrap();
    drop(folder);
    let mut resumed = None;
    let again = train(dir, "next", "run", &disk(), |event| {
        if let Event::Resumed(step, skipped) = event {
            assert!(skipped.is_empty(), "{skipped:?}");
            resumed = Some(*step);
        }
    });
    assert!(weights(&again.unwrap().model) == bits);
    assert_eq!(resumed, Some(all[0]));
    let log = read(&run.join("trainer_state.json"))["log_history"].clone();
    assert_eq!(log, json!(log_lines(&run)));
}
