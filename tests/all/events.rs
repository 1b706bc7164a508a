//! What a run tells its observers, and what they can ask of it.

use crate::docs::spans;
use crate::support::{adapter, golden};
use crate::tasks::{TASKS, data, ok, prepared, read, recipe, tempra};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::{TempDir, tempdir};
use tempra::checkpoint::{RealFs, verify};
use tempra::compress::prune::{PruneSchedule, PruneScope, Pruning};
use tempra::error::{Error, Result};
use tempra::metrics::Scores;
use tempra::models::LoadReport;
use tempra::train::{
    self, Control, Event, MemoryPlan, Observer, Observers, Outcome, Prepared, PruningReport, Recipe, Signals,
    StepLog,
};

/// A folder with data, the small model, and the recipe of a task for eight steps.
fn setting(task: &str) -> TempDir {
    let dir = tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    let (_, file, own) = TASKS.iter().find(|(name, ..)| *name == task).expect("a task");
    let text = recipe(task, file, own, task).replace("threads = 2", "threads = 1");
    let text = text.replace("max_steps = 3", "max_steps = 8\nkeep_checkpoints = 9\nlog_every = 1");
    fs::write(dir.path().join("recipe.toml"), text).unwrap();
    dir
}

/// Trains into a folder, on the device that the recipe names or on another.
fn run(dir: &Path, output: &str, device: &str, observer: &mut dyn Observer) -> Result<Outcome> {
    let set = [("device".to_owned(), device.to_owned())];
    let mut recipe = Recipe::load(&dir.join("recipe.toml"), &set)?;
    recipe.output = dir.join(output);
    train::train(&recipe, false, Arc::new(RealFs), &Signals::default(), observer)
}

fn weights(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("model.safetensors")).unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
}

/// The steps of the checkpoints of a run.
fn checkpoints(run: &Path) -> BTreeSet<u64> {
    let names = fs::read_dir(run).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter_map(|n| n.strip_prefix("checkpoint-")?.parse().ok()).collect()
}

/// The journal of a run without its times.
fn journal(run: &Path) -> Vec<Value> {
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("tokens_per_second");
        line
    };
    fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().map(line).collect()
}

/// Answers `answer` to the events that `when` picks, and keeps the names of all events.
struct Asks<F> {
    name: &'static str,
    answer: Control,
    when: F,
    seen: Vec<String>,
}

impl<F: FnMut(&Event) -> bool> Asks<F> {
    fn new(name: &'static str, answer: Control, when: F) -> Self {
        Asks { name, answer, when, seen: Vec::new() }
    }
}

impl<F: FnMut(&Event) -> bool> Observer for Asks<F> {
    fn event(&mut self, event: &Event) -> Control {
        self.seen.push(format!("{event:?}"));
        if (self.when)(event) { self.answer } else { Control::Continue }
    }
    fn name(&self) -> &str {
        self.name
    }
}

/// Whether an event is the end of this step.
fn at(step: u64) -> impl FnMut(&Event) -> bool {
    move |event| matches!(event, Event::Step(line) if line.step == step)
}

fn nothing() -> Asks<fn(&Event) -> bool> {
    Asks::new("nobody", Control::Continue, |_| false)
}

#[test]
fn an_observer_stops_a_run_that_ends_with_the_same_bits_later() {
    for task in ["classify", "tag"] {
        let dir = setting(task);
        let dir = dir.path();
        let whole = run(dir, "whole", "cpu", &mut nothing()).unwrap();
        assert_eq!((whole.steps, whole.stopped_by), (8, None));
        let mut asks = Asks::new("pruning", Control::Stop, at(4));
        let stopped = run(dir, "run", "cpu", &mut asks).unwrap();
        assert_eq!((stopped.steps, stopped.stopped_by.as_deref()), (4, Some("pruning")));
        // It stands at a checkpoint, which is a model folder, and has no results yet.
        let folder = dir.join("run");
        assert_eq!((stopped.model, stopped.model_step), (folder.join("checkpoint-4"), 4));
        assert!(checkpoints(&folder).contains(&4) && verify(&folder).unwrap().ok());
        assert!(!folder.join("model").exists() && !folder.join("metrics.json").exists());
        // The best validation so far is that of step 3, the only one.
        assert_eq!(stopped.best.map(|b| b.step), Some(3));
        assert!(stopped.validation.is_none() && stopped.test.is_none());
        assert!(weights(&folder.join("checkpoint-4")) != weights(&whole.model));
        let again = run(dir, "run", "cpu", &mut nothing()).unwrap();
        assert_eq!((again.steps, again.stopped_by), (8, None));
        assert!(weights(&again.model) == weights(&whole.model), "{task}: other bits");
        assert_eq!(journal(&folder), journal(&dir.join("whole")), "{task}");
    }
}

#[test]
fn an_observer_saves_a_run() {
    let dir = setting("regress");
    let dir = dir.path();
    let whole = run(dir, "whole", "cpu", &mut nothing()).unwrap();
    // The recipe saves at steps 3 and 6 and at the end, and keeps all.
    assert_eq!(checkpoints(&dir.join("whole")), [3, 6, 8].into());
    let steps = |event: &Event| matches!(event, Event::Step(line) if [2, 3, 7].contains(&line.step));
    let mut asks = Asks::new("tracker", Control::Save, steps);
    let saved = run(dir, "run", "cpu", &mut asks).unwrap();
    assert_eq!((saved.steps, saved.stopped_by), (8, None));
    assert_eq!(checkpoints(&dir.join("run")), [2, 3, 6, 7, 8].into());
    // A step whose checkpoint is there is not saved again.
    assert_eq!(asks.seen.iter().filter(|e| e.starts_with("Saved(3,")).count(), 1);
    assert!(weights(&saved.model) == weights(&whole.model));
    assert_eq!(journal(&dir.join("run")), journal(&dir.join("whole")));
}

#[test]
fn the_strongest_of_several_answers_counts() {
    assert!(Control::Continue < Control::Save && Control::Save < Control::Stop);
    let dir = setting("classify");
    let dir = dir.path();
    let mut first = Asks::new("first", Control::Save, at(2));
    let mut second = Asks::new("second", Control::Stop, at(2));
    let mut third = Asks::new("third", Control::Save, at(2));
    let mut all = Observers::default().with(&mut first).with(&mut second).with(&mut third);
    let stopped = run(dir, "run", "cpu", &mut all).unwrap();
    assert_eq!((stopped.steps, stopped.stopped_by.as_deref()), (2, Some("second")));
    // All of them were told everything, in the same order.
    assert!(first.seen.len() > 4 && first.seen == second.seen && first.seen == third.seen);
    assert!(first.seen[0].starts_with("Prepared(") && first.seen.last().unwrap().starts_with("Saved(2,"));
    // An answer to an event before the first step, or long before the end of a step, counts as well.
    let mut early = Asks::new("early", Control::Stop, |e: &Event| matches!(e, Event::Prepared(_)));
    let none = run(dir, "early", "cpu", &mut early).unwrap();
    assert_eq!((none.steps, none.stopped_by.as_deref()), (0, Some("early")));
    assert!(none.train_seconds.is_nan() && none.tokens_per_second.is_nan());
    // After the last step there is nothing to stop.
    let mut late = Asks::new("late", Control::Stop, at(8));
    let whole = run(dir, "whole", "cpu", &mut late).unwrap();
    assert_eq!((whole.steps, whole.stopped_by), (8, None));
    for folder in ["run", "early"] {
        let again = run(dir, folder, "cpu", &mut nothing()).unwrap();
        assert!(weights(&again.model) == weights(&whole.model), "{folder}");
    }
    // A finished run only says so.
    let mut asks = Asks::new("finished", Control::Stop, |_: &Event| true);
    assert_eq!(run(dir, "whole", "cpu", &mut asks).unwrap().stopped_by, None);
    assert_eq!(asks.seen.last().unwrap(), "Finished(8)");
}

/// Without a name of its own an observer has that of its type.
#[test]
fn an_observer_has_a_name() {
    struct Budget;
    impl Observer for Budget {
        fn event(&mut self, _: &Event) -> Control {
            Control::Stop
        }
    }
    assert!(Budget.name().ends_with("::Budget"), "{}", Budget.name());
    let (mut budget, mut other) = (Budget, nothing());
    let mut all = Observers::default().with(&mut other).with(&mut budget);
    assert_eq!(all.event(&Event::Finished(1)), Control::Stop);
    assert!(all.name().ends_with("::Budget"));
    assert_eq!(Observers::default().event(&Event::Finished(1)), Control::Continue);
}

/// A GPU is some steps ahead of what it reports: the run stops a little later, and ends with the same bits
/// all the same.
#[test]
fn a_gpu_is_stopped_between_two_steps() {
    if adapter().is_none() {
        return;
    }
    let dir = setting("classify");
    let dir = dir.path();
    let text = fs::read_to_string(dir.join("recipe.toml")).unwrap().replace("log_every = 1", "log_every = 9");
    fs::write(dir.join("recipe.toml"), text.replace("every = 3", "every = 5")).unwrap();
    let whole = run(dir, "whole", "wgpu", &mut nothing()).unwrap();
    let mut asks = Asks::new("pruning", Control::Stop, at(1));
    let stopped = run(dir, "run", "wgpu", &mut asks).unwrap();
    println!("asked at step 1, stopped after step {}", stopped.steps);
    assert!((1..8).contains(&stopped.steps) && stopped.stopped_by.as_deref() == Some("pruning"));
    assert!(asks.seen.iter().any(|e| e.starts_with(&format!("Saved({},", stopped.steps))));
    let again = run(dir, "run", "wgpu", &mut nothing()).unwrap();
    assert!(weights(&again.model) == weights(&whole.model));
}

/// One event of each kind, with the object that `docs/reliability.md` describes.
fn each(check: &mut dyn FnMut(&Event, Value)) {
    let line = StepLog {
        step: 4,
        total: 8,
        epoch: 0.5,
        loss: f64::NAN,
        lr: 0.25,
        grad_norm: f64::INFINITY,
        tokens_per_second: 32.0,
        seconds_left: 2.0,
    };
    let logged = |event: &str| {
        json!({ "event": event, "step": 4, "total": 8, "epoch": 0.5, "loss": "NaN", "learning_rate": 0.25,
            "grad_norm": "Infinity", "tokens_per_second": 32.0 })
    };
    let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<String>>();
    let weights = LoadReport {
        loaded: 3,
        initialised: names(&["head"]),
        reordered: names(&["rows"]),
        unused: names(&["pooler"]),
        warnings: Vec::new(),
        hash: String::new(),
    };
    let prepared = Prepared {
        device: "cpu".to_owned(),
        weights,
        parameters: (9, 7),
        parameter_bytes: 144,
        splits: vec![("train".to_owned(), 6, 60, 1)],
        pairs: vec![("train".to_owned(), 4, 2)],
        classes: names(&["no", "yes"]),
        tag_schemes: vec![("names".to_owned(), "IOB2".to_owned())],
        steps: 8,
        selection: Some("accuracy, higher is better".to_owned()),
        skipped_rows: 2,
        verified: None,
        memory: MemoryPlan { parameters: 144, total: 200, largest: 36, tokens: 60, teacher: 0, beside: 0 },
        pruning: Some(PruningReport {
            maskable: [96, 0, 0],
            pruning: Pruning::magnitude(0.5, PruneScope::Matrix),
            schedule: PruneSchedule { begin: 2, end: 5, every: 1 },
        }),
        teacher: None,
    };
    let expected = json!({ "event": "prepared", "device": "cpu", "parameters": 9, "trainable": 7, "parameter_bytes": 144,
        "steps": 8, "classes": ["no", "yes"], "tag_schemes": [["names", "IOB2"]],
        "pairs": [{ "split": "train", "follow": 4, "random": 2 }], "loaded": 3, "initialised": ["head"],
        "unused": ["pooler"], "reordered": ["rows"], "best_model_by": "accuracy, higher is better", "skipped_rows": 2,
        "verified": null, "memory": { "parameters": 144, "total": 200, "tokens": 60 }, "teacher": null,
        "pruning": { "weights": 96, "sparsity": 0.5, "begin": 2, "end": 5,
            "method": "magnitude", "heads": 0.0, "ffn": 0.0 } });
    check(&Event::Prepared(&prepared), expected);
    check(&Event::Approximated(&[0.125]), json!({ "event": "approximated", "layers": [0.125] }));
    let damaged = [(PathBuf::from("checkpoint-5"), "state.json is missing".to_owned())];
    let expected = json!({ "event": "resumed", "step": 4,
        "skipped": [{ "path": "checkpoint-5", "why": "state.json is missing" }] });
    check(&Event::Resumed(4, &damaged), expected);
    check(&Event::Step(&line), logged("step"));
    check(&Event::Log(&line), logged("log"));
    check(
        &Event::Rescaled { step: 4, scale: 512.0 },
        json!({ "event": "rescaled", "step": 4, "loss_scale": 512.0 }),
    );
    let skipped = Event::Skipped { step: 4, loss: f64::NEG_INFINITY, tensor: "loss", examples: &[2, 0] };
    let expected =
        json!({ "event": "skipped", "step": 4, "loss": "-Infinity", "tensor": "loss", "examples": [2, 0] });
    check(&skipped, expected);
    let scores: Scores = [("loss", 0.5), ("accuracy", f64::NAN)].into_iter().collect();
    let object = json!({ "loss": 0.5, "accuracy": "NaN" });
    let evaluated = Event::Evaluated { step: 4, split: "validation", scores: &scores, best: true };
    let expected =
        json!({ "event": "evaluated", "step": 4, "split": "validation", "scores": object, "best": true });
    check(&evaluated, expected);
    let tuned = Event::Tuned { task: "", thresholds: &[("a".to_owned(), 0.25)], scores: [&scores, &scores] };
    let expected = json!({ "event": "tuned", "task": "", "thresholds": { "a": 0.25 }, "at_0.5": object, "scores": object });
    check(&tuned, expected);
    check(&Event::Finished(8), json!({ "event": "finished", "step": 8 }));
    let saved = Event::Saved(4, PathBuf::from("run/checkpoint-4"));
    check(&saved, json!({ "event": "saved", "step": 4, "path": "run/checkpoint-4" }));
    let warning = Error::usage("a sentence").with_help("another");
    let expected = json!({ "event": "warning", "message": "a sentence\n  help: another" });
    check(&Event::Warning(&warning), expected);
}

/// The keys of each kind of event by the table of `docs/reliability.md`.
fn documented() -> Vec<(String, BTreeSet<String>)> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reliability.md")).unwrap();
    let section = page.split("\n## Events\n").nth(1).expect("a section on events");
    let rows =
        section.lines().skip_while(|l| !l.starts_with("|---")).skip(1).take_while(|l| l.starts_with('|'));
    let row = |row: &str| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let name = spans(cells[0]).next().expect("a name").to_owned();
        let mut keys: BTreeSet<String> = spans(cells[2]).map(str::to_owned).collect();
        keys.insert("event".to_owned());
        (name, keys)
    };
    let mut all: Vec<_> = rows.map(row).collect();
    let log = all.iter().find(|(name, _)| name == "log").expect("a row").1.clone();
    all.iter_mut().filter(|(name, _)| name == "step").for_each(|(_, keys)| *keys = log.clone());
    all
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().expect("an object").keys().cloned().collect()
}

#[test]
fn every_event_serializes_to_the_object_that_is_documented() {
    let table = documented();
    let mut names = Vec::new();
    each(&mut |event, expected| {
        assert_eq!(serde_json::to_value(event).unwrap(), expected);
        assert_eq!(event.to_json(), expected);
        // As text, too: what a program reads.
        let text = serde_json::to_string(event).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
        let name = expected["event"].as_str().unwrap().to_owned();
        let row = table.iter().find(|(row, _)| *row == name).unwrap_or_else(|| panic!("no row for {name}"));
        assert_eq!(keys(&expected), row.1, "{name}");
        names.push(name);
    });
    // The program adds two lines of its own.
    names.extend(["done", "summary"].map(str::to_owned));
    assert_eq!(names, table.into_iter().map(|(name, _)| name).collect::<Vec<_>>());
}

#[test]
fn the_program_prints_events_as_lines_of_json() {
    let dir = setting("multilabel");
    let args = ["train", "recipe.toml", "--json", "--set", "output=run", "--set", "seeds=[1,2]"];
    let out = ok("multilabel", tempra(dir.path(), &args));
    let table = documented();
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        let row = table.iter().find(|(name, _)| line["event"] == name.as_str());
        assert_eq!(keys(line), row.unwrap_or_else(|| panic!("{line}")).1, "{line}");
    }
    let count = |event: &str| lines.iter().filter(|l| l["event"] == event).count();
    let expected =
        [("prepared", 2), ("step", 0), ("log", 16), ("saved", 6), ("tuned", 2), ("done", 2), ("summary", 1)];
    for (event, n) in expected {
        assert_eq!(count(event), n, "{event}: {out}");
    }
    let done = lines.iter().find(|l| l["event"] == "done").unwrap();
    assert_eq!(done["result"], read(&dir.path().join("run/seed-1/metrics.json")));
}
