//! Pruning to a number of weights, and pruning a model that learns from its dense self.

use crate::prune::{is_pruned, run, tensors};
use crate::support::golden;
use crate::tasks::{data, prepared, recipe};
use std::path::Path;
use std::sync::Arc;
use tempra::checkpoint::RealFs;
use tempra::error::Kind;
use tempra::train::{self, Control, Event, Observer, Recipe, Signals};

/// Weights of the layers' matrices that are not zero, and how many there are.
fn remaining(model: &Path) -> [usize; 2] {
    let all = tensors(&model.join("model.safetensors"));
    let values = all.iter().filter(|(name, _)| is_pruned(name)).flat_map(|(_, values)| values);
    values.fold([0; 2], |[some, all], &v| [some + (v != 0.0) as usize, all + 1])
}

/// As many weights remain as the recipe says, exactly if all are compared, with at most one more for each
/// matrix if not. More than there are is refused.
#[test]
fn so_many_parameters_remain() {
    let dir = tempfile::tempdir().expect("a folder");
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    for (output, more, slack) in [
        ("global", "scope = \"global\"", 0),
        ("moved", "scope = \"global\"\nmethod = \"movement\"", 0),
        ("matrix", "scope = \"matrix\"", 12),
    ] {
        let prune = format!("parameters = 1234\nend = 0.3\n{more}");
        let model = run(dir.path(), output, &prune, 0).unwrap_or_else(|e| panic!("{e}")).model;
        let [some, all] = remaining(&model);
        assert!(all > 5000 && (1234..=1234 + slack).contains(&some), "{output}: {some} of {all}");
        let e = run(dir.path(), "refused", &format!("parameters = {}", all + 1), 0).expect_err("refused");
        let text = e.to_string();
        assert!(e.kind() == Kind::Usage && text.contains("prune.parameters is larger than the model"), "{e}");
        assert!(text.contains(&format!("at most {all},")), "{e}");
    }
}

#[derive(Default)]
struct Losses(Vec<f64>);

impl Observer for Losses {
    fn event(&mut self, event: &Event) -> Control {
        if let Event::Step(step) = event {
            self.0.push(step.loss);
        }
        Control::Continue
    }
}

/// A trained classifier is its own teacher if `distill.teacher` is `model.path`: without dropout it agrees
/// with itself until weights are masked, and the teacher stays dense.
#[test]
fn a_classifier_is_pruned_towards_its_dense_self() {
    let dir = tempfile::tempdir().expect("a folder");
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    let dense = run(dir.path(), "dense", "sparsity = 0", 0).unwrap_or_else(|e| panic!("{e}")).model;
    let weights = std::fs::read(dense.join("model.safetensors")).expect("weights");
    let text = recipe("classify", "classify.csv", "", "student")
        .replace(
            "path = \"./base\"",
            "path = \"dense/model\"\ndropout = 0\nattention_dropout = 0\nclassifier_dropout = 0",
        )
        .replace("max_steps = 3", "max_steps = 20\nlog_every = 1")
        .replace("lr = 1e-3", "lr = 1e-9");
    let more =
        "[distill]\nteacher = \"dense/model\"\nweight = 1\n[prune]\nsparsity = 0.8\nbegin = 0.2\nend = 0.2\n";
    let file = dir.path().join("student.toml");
    std::fs::write(&file, format!("{text}\n{more}")).expect("written");
    let mut read = Recipe::load(&file, &[]).unwrap_or_else(|e| panic!("{e}"));
    read.output = dir.path().join("student");
    let mut losses = Losses::default();
    let done = train::train(&read, false, Arc::new(RealFs), &Signals::default(), &mut losses);
    let done = done.unwrap_or_else(|e| panic!("{e}"));
    let losses = losses.0;
    assert_eq!(losses.len(), 20);
    assert!(losses[..4].iter().all(|l| l.abs() < 1e-6), "{losses:?}");
    assert!(losses[4..].iter().all(|l| *l > 1e-4), "{losses:?}");
    let [some, all] = remaining(&done.model);
    assert!((some as f64 / all as f64 - 0.2).abs() < 1e-2, "{some} of {all}");
    assert_eq!(std::fs::read(dense.join("model.safetensors")).expect("weights"), weights);
}
