//! The choice of an optimizer in a recipe: its defaults, what is refused, and training and resuming with
//! each.

use crate::support::golden;
use crate::tasks::{data, prepared, recipe};
use std::path::Path;
use std::sync::Arc;
use tempra::checkpoint::{RealFs, Weights};
use tempra::error::Error;
use tempra::train::{self, Control, Event, Observer, Outcome, Recipe, Signals};

const LEAST: &str =
    "task = \"classify\"\n[model]\npath = \"org/model\"\n[data]\ntrain = \"a.csv\"\n[optim]\n";

fn read(lines: &str) -> Result<Recipe, Error> {
    Recipe::from_toml(&format!("{LEAST}{lines}"), Path::new("/a/r.toml"), &[])
}

#[test]
fn a_recipe_has_the_defaults_of_its_optimizer() {
    let of = |lines: &str| {
        let o = read(lines).unwrap_or_else(|e| panic!("{e}")).optim;
        (o.beta1, o.beta2, o.eps, o.momentum, o.nesterov)
    };
    assert_eq!(of(""), of("optimizer = \"adamw\""));
    assert_eq!(of(""), (Some(0.9), Some(0.999), Some(1e-8), None, None), "PyTorch's");
    assert_eq!(of("optimizer = \"sgd\""), (None, None, None, Some(0.0), Some(false)), "PyTorch's");
    assert_eq!(of("optimizer = \"lion\""), (Some(0.9), Some(0.99), None, None, None), "the paper's");
    let lines = "optimizer = \"sgd\"\nmomentum = 0.9\nnesterov = true\nweight_decay = 0.25";
    let read_back = read(lines).expect("a recipe");
    let s = read_back.optim.settings();
    assert_eq!((s.rule.name, s.momentum, s.nesterov, s.weight_decay), ("sgd", 0.9, true, 0.25));
    for comments in [false, true] {
        let text = read_back.to_toml(comments);
        let again = Recipe::from_toml(&text, Path::new("/b/r.toml"), &[]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(again, read_back, "{text}");
        assert!(!text.contains("\nbeta1 ="), "what is not read is not written: {text}");
    }
}

#[test]
fn settings_that_an_optimizer_does_not_read_are_refused() {
    for (lines, what, help) in [
        (
            "momentum = 0.9",
            ":7:12: optim.momentum has no effect with optim.optimizer = \"adamw\"",
            "remove it, or set optim.optimizer = \"sgd\"",
        ),
        ("nesterov = true\noptimizer = \"lion\"", ":7:12: optim.nesterov has no effect with", "\"sgd\""),
        ("optimizer = \"sgd\"\nbeta1 = 0.9", ":8:9: optim.beta1 has no effect", "\"adamw\" or \"lion\""),
        ("optimizer = \"lion\"\neps = 1e-8", ":8:7: optim.eps has no effect", "= \"adamw\""),
        (
            "optimizer = \"sgd\"\nnesterov = true",
            ":8:12: optim.nesterov is set, but optim.momentum is 0",
            "0.9",
        ),
        ("optimizer = \"sgd\"\nmomentum = 1", ":8:12: optim.momentum is invalid", "below 1"),
        ("optimizer = \"adam\"\nmomentum = 0.9", ":7:13: optim.optimizer is invalid", "\"adamw\""),
        ("optimizer = \"rmsprop\"", ":7:13: optim.optimizer is invalid", "\"adamw\" or \"sgd\" or \"lion\""),
    ] {
        let e = read(lines).expect_err(lines);
        assert_eq!((e.kind(), e.exit_code()), (tempra::error::Kind::Usage, 2), "{lines}");
        let text = e.to_string();
        assert!(text.starts_with(&format!("/a/r.toml{what}")) && text.contains(help), "{lines}\n{text}");
        let heads = text.lines().filter(|l| !l.starts_with("  ")).count();
        assert_eq!(heads, 1, "one mistake, one error\n{text}");
    }
}

/// Watches the losses of a run, and stops it after a step.
struct Stop {
    after: u64,
    losses: Vec<f64>,
}

impl Observer for Stop {
    fn event(&mut self, event: &Event) -> Control {
        match event {
            Event::Step(log) => {
                self.losses.push(log.loss);
                if log.step == self.after { Control::Stop } else { Control::Continue }
            }
            _ => Control::Continue,
        }
    }
}

/// A run of sixty steps in a folder; its result and its losses.
fn run(dir: &Path, output: &str, optim: &str, after: u64) -> (Result<Outcome, Error>, Vec<f64>) {
    let text = recipe("classify", "classify.csv", "", output).replace("[optim]\nlr = 1e-3", optim);
    let text = text.replace("max_steps = 3", "max_steps = 60").replace("= 3", "= 25");
    let file = dir.join("r.toml");
    std::fs::write(&file, text).expect("written");
    let mut read = Recipe::load(&file, &[]).unwrap_or_else(|e| panic!("{e}"));
    read.output = dir.join(output);
    let mut watch = Stop { after, losses: Vec::new() };
    let outcome = train::train(&read, false, Arc::new(RealFs), &Signals::default(), &mut watch);
    (outcome, watch.losses)
}

fn weights(outcome: Result<Outcome, Error>) -> Vec<u8> {
    let model = outcome.unwrap_or_else(|e| panic!("{e}")).model;
    std::fs::read(model.join("model.safetensors")).expect("a model")
}

/// Each optimizer lowers the loss of a small task, keeps its states under their names, resumes with the same
/// bits, and is not exchanged for another within a run.
#[test]
fn every_optimizer_trains_and_resumes() {
    let dir = tempfile::tempdir().expect("a folder");
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    let optimizers = [
        ("sgd", "[optim]\noptimizer = \"sgd\"\nlr = 0.2\nweight_decay = 0.01", &[][..]),
        (
            "momentum",
            "[optim]\noptimizer = \"sgd\"\nmomentum = 0.9\nnesterov = true\nlr = 0.03\nweight_decay = 0.01",
            &["momentum_buffer"],
        ),
        ("lion", "[optim]\noptimizer = \"lion\"\nlr = 1e-3\nweight_decay = 0.1", &["exp_avg"]),
    ];
    for (name, optim, states) in optimizers {
        let (whole, losses) = run(dir.path(), name, optim, 0);
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let (first, last) = (mean(&losses[..10]), mean(&losses[50..]));
        println!("{name}: loss {first:.3} in the first ten steps, {last:.3} in the last ten");
        assert!(losses.len() == 60 && last < 0.8 * first, "{name}: {losses:?}");
        let (cut, _) = run(dir.path(), &format!("{name}-cut"), optim, 7);
        assert!(cut.unwrap_or_else(|e| panic!("{e}")).stopped_by.is_some(), "{name} was stopped");
        let checkpoint = dir.path().join(format!("{name}-cut/checkpoint-7"));
        let file = checkpoint.join("optimizer.safetensors");
        assert_eq!(file.exists(), !states.is_empty(), "{name}");
        if file.exists() {
            let found = Weights::open(&file).expect("states");
            let names: Vec<&str> = found.names().collect();
            assert_eq!(names, states, "{name}");
        }
        let rule = if name == "lion" { "lion" } else { "sgd" };
        let both = format!("optim.optimizer = \"adamw\", earlier \"{rule}\"");
        let kept = dir.path().join(format!("{name}-cut/recipe.toml"));
        let text = std::fs::read(&kept).expect("the recipe of the run");
        // The second time from the state of the checkpoint alone.
        for _ in 0..2 {
            let (refused, _) = run(dir.path(), &format!("{name}-cut"), "[optim]\nlr = 1e-3", 0);
            let said = refused.expect_err("another optimizer").to_string();
            assert!(said.contains("cannot be resumed") && said.contains(&both), "{said}");
            let _ = std::fs::remove_file(&kept);
        }
        std::fs::write(&kept, text).expect("written");
        let (resumed, _) = run(dir.path(), &format!("{name}-cut"), optim, 0);
        assert!(weights(resumed) == weights(whole), "{name}: resumed, the weights differ");
    }
}
