//! How a run ended: what `metrics.json` says, and each number with the model, the step and the thresholds it
//! belongs to.

use super::beside::Comparison;
use super::state::Best;
use crate::checkpoint::{CheckpointReport, number, read_json};
use crate::metrics::Scores;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Its file in the run folder.
pub const METRICS: &str = "metrics.json";
/// The trained model's folder in the run folder.
pub const MODEL: &str = "model";

/// How a run ended: finished, or stopped by an observer.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The folder with the trained model; of a stopped run its newest checkpoint.
    pub model: PathBuf,
    /// Steps made.
    pub steps: u64,
    /// The step whose weights the model has: the best one, or the last.
    pub model_step: u64,
    /// The thresholds that the model decides by, by label; of several tasks by task. Empty for 0.5 or where
    /// nothing is decided.
    pub thresholds: Map<String, Value>,
    /// What the best validation is chosen by.
    pub best_metric: Option<String>,
    /// The best validation, as it was scored in training.
    pub best: Option<Best>,
    /// Of several tasks the best validation of each.
    pub best_of: Vec<BestOf>,
    /// Scores of the model on the validation set.
    pub validation: Option<Scores>,
    /// Scores of the model on the test set.
    pub test: Option<Scores>,
    /// Its scores beside those of its teacher on the same examples, if it has one.
    pub teacher: Option<Comparison>,
    /// What the model's masks cover, if it was pruned.
    pub pruned: Vec<PrunedUnits>,
    /// The direction of each score that has one.
    pub higher_is_better: BTreeMap<String, bool>,
    /// What a person reads of the model's last evaluation: a confusion table, correlations. Empty if the run
    /// had been finished before.
    pub report: String,
    /// Whether early stopping ended it.
    pub stopped_early: bool,
    /// The name of the observer that stopped the run before its last step. Such a run has no `metrics.json`
    /// yet, and the same call resumes it. `None` if it finished.
    pub stopped_by: Option<String>,
    /// Seconds in the training loop of the process that finished it, evaluation and saving included; NaN if
    /// it made no step.
    pub train_seconds: f64,
    /// Seconds from the start of that process to the end of its first step.
    pub first_step_seconds: f64,
    /// Real tokens trained on a second in that process.
    pub tokens_per_second: f64,
    /// The device's name.
    pub device: String,
    /// Digest of the device's certificate (`tempra verify`), if there is one.
    pub verified: Option<String>,
}

/// How many units of a kind pruning has masked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunedUnits {
    /// What they are: weights, heads or feed-forward rows.
    pub what: String,
    /// How many are masked.
    pub masked: usize,
    /// How many there are.
    pub of: usize,
}

/// The best that one of several tasks reached.
#[derive(Clone, Debug)]
pub struct BestOf {
    /// The task.
    pub task: String,
    /// The step, and the validation scores of this task there.
    pub best: Best,
    /// What it is chosen by.
    pub metric: String,
    /// The folder of the model as it was then: that of the run, if it is of this step; `None` if it was not
    /// kept.
    pub model: Option<PathBuf>,
    /// The thresholds of this task there, by label.
    pub thresholds: Map<String, Value>,
    /// The scores of that folder on the task's test set, if it is not the run's model.
    pub test: Option<Scores>,
}

/// What is read back of `metrics.json`.
#[derive(Deserialize)]
struct Kept {
    device: String,
    certificate: Option<String>,
    steps: u64,
    model_step: u64,
    #[serde(default)]
    thresholds: Map<String, Value>,
    validation: Option<Scores>,
    test: Option<Scores>,
    #[serde(default)]
    teacher: Option<Comparison>,
    #[serde(default)]
    pruned: Vec<PrunedUnits>,
    best: Option<KeptBest>,
    #[serde(default)]
    best_of: BTreeMap<String, KeptBest>,
    higher_is_better: BTreeMap<String, bool>,
    stopped_early: bool,
    train_seconds: Option<f64>,
    first_step_seconds: Option<f64>,
    real_tokens_per_s: Option<f64>,
}

#[derive(Deserialize)]
struct KeptBest {
    step: u64,
    metric: String,
    scores: Scores,
    model: Option<String>,
    #[serde(default)]
    thresholds: Map<String, Value>,
    test: Option<Scores>,
}

fn folder(path: &Path) -> Value {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).into()
}

/// A duration or speed; `null` where nothing was measured.
fn measured(x: f64) -> Value {
    Some(x).filter(|x| x.is_finite()).into()
}

impl BestOf {
    fn to_json(&self) -> Value {
        json!({
            "step": self.best.step,
            "metric": self.metric,
            "value": number(self.best.scores.get(&self.metric).unwrap_or(f64::NAN)),
            "scores": self.best.scores,
            "model": self.model.as_deref().map(folder),
            "thresholds": self.thresholds,
            "test": self.test,
        })
    }
}

impl Outcome {
    /// The scores of the model: on the test set, else on the validation set; none without either.
    pub fn scores(&self) -> Scores {
        self.test.clone().or_else(|| self.validation.clone()).unwrap_or_default()
    }

    /// What stands in `metrics.json`: [`Outcome::scores`] at the top, then which set and model they are of.
    pub fn to_json(&self) -> Value {
        let mut all = self.scores().to_json();
        let set = match (&self.test, &self.validation) {
            (Some(_), _) => Some("test"),
            (None, Some(_)) => Some("validation"),
            (None, None) => None,
        };
        all["scored_on"] = set.into();
        all["device"] = self.device.as_str().into();
        all["certificate"] = self.verified.clone().into();
        all["steps"] = self.steps.into();
        all["model_step"] = self.model_step.into();
        if !self.thresholds.is_empty() {
            all["thresholds"] = self.thresholds.clone().into();
        }
        all["validation"] = self.validation.as_ref().map(Scores::to_json).into();
        all["test"] = self.test.as_ref().map(Scores::to_json).into();
        if let Some(teacher) = &self.teacher {
            all["teacher"] = json!(teacher);
        }
        if !self.pruned.is_empty() {
            all["pruned"] = json!(self.pruned);
        }
        all["best_step"] = self.best.as_ref().map(|b| b.step).into();
        all["best"] = self.best.as_ref().zip(self.best_metric.as_ref()).map_or(Value::Null, |(b, metric)| {
            let value = number(b.scores.get(metric).unwrap_or(f64::NAN));
            json!({ "step": b.step, "metric": metric, "value": value, "scores": b.scores })
        });
        if !self.best_of.is_empty() {
            let of = |b: &BestOf| (b.task.clone(), b.to_json());
            all["best_of"] = self.best_of.iter().map(of).collect::<Map<_, _>>().into();
        }
        all["higher_is_better"] = json!(self.higher_is_better);
        all["stopped_early"] = self.stopped_early.into();
        if let Some(by) = &self.stopped_by {
            all["stopped_by"] = by.as_str().into();
        }
        all["train_seconds"] = measured(self.train_seconds);
        all["first_step_seconds"] = measured(self.first_step_seconds);
        all["real_tokens_per_s"] = measured(self.tokens_per_second);
        all
    }

    /// The outcome that a run folder holds, if it is there in full: `metrics.json` after so many steps, and
    /// the models that it names with every file as it was written.
    pub(super) fn read(dir: &Path, steps: u64) -> Option<Outcome> {
        let kept: Kept = serde_json::from_value(read_json(&dir.join(METRICS), 64 << 20).ok()?).ok()?;
        let best_of = |(task, b): (String, KeptBest)| BestOf {
            task,
            best: Best { step: b.step, scores: b.scores },
            metric: b.metric,
            model: b.model.map(|name| dir.join(name)),
            thresholds: b.thresholds,
            test: b.test,
        };
        let or_nan = |x: Option<f64>| x.unwrap_or(f64::NAN);
        let outcome = Outcome {
            model: dir.join(MODEL),
            steps: kept.steps,
            model_step: kept.model_step,
            thresholds: kept.thresholds,
            best_metric: kept.best.as_ref().map(|b| b.metric.clone()),
            best: kept.best.map(|b| Best { step: b.step, scores: b.scores }),
            best_of: kept.best_of.into_iter().map(best_of).collect(),
            validation: kept.validation,
            test: kept.test,
            teacher: kept.teacher,
            pruned: kept.pruned,
            higher_is_better: kept.higher_is_better,
            report: String::new(),
            stopped_early: kept.stopped_early,
            stopped_by: None,
            train_seconds: or_nan(kept.train_seconds),
            first_step_seconds: or_nan(kept.first_step_seconds),
            tokens_per_second: or_nan(kept.real_tokens_per_s),
            device: kept.device,
            verified: kept.certificate,
        };
        (outcome.steps == steps).then_some(outcome)
    }

    /// Whether the models are there with every file as it was written.
    pub(super) fn models_are_whole(&self) -> bool {
        let others = self.best_of.iter().filter_map(|b| b.model.as_deref());
        others.chain([&*self.model]).all(|model| CheckpointReport::of(model).ok())
    }
}
