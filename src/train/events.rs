//! What a run tells its observers while it trains, and what they answer.

use super::memory::MemoryPlan;
use super::prepare::TeacherReport;
use crate::checkpoint::number;
use crate::compress::prune::{PruneMethod, PruneSchedule, Pruning};
use crate::error::Error;
use crate::metrics::Scores;
use crate::models::LoadReport;
use crate::units::count;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use std::fmt;
use std::path::PathBuf;

/// One optimizer step, or the mean of the steps since the last line of the log.
#[derive(Clone, Copy, Debug)]
pub struct StepLog {
    /// Optimizer steps made, this one included.
    pub step: u64,
    /// Optimizer steps of the whole run.
    pub total: u64,
    /// Epochs passed.
    pub epoch: f64,
    /// Mean loss since the last line; NaN if one of them was.
    pub loss: f64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Norm of all gradients of the last step, before clipping.
    pub grad_norm: f64,
    /// Real tokens trained on a second, over the whole run.
    pub tokens_per_second: f64,
    /// Seconds until the end at this speed.
    pub seconds_left: f64,
}

/// What was found before the first step.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The device's name.
    pub device: String,
    /// What became of the model's tensors.
    pub weights: LoadReport,
    /// Parameters, and how many of them are trained.
    pub parameters: (usize, usize),
    /// Bytes of parameters, gradients and moments.
    pub parameter_bytes: usize,
    /// Name, examples and tokens of each split, and how many tokens were cut off.
    pub splits: Vec<(String, usize, usize, u64)>,
    /// Name of each split for next-sentence prediction, its pairs that follow each other, and those that are
    /// random.
    pub pairs: Vec<(String, usize, usize)>,
    /// The classes, if it is a classification.
    pub classes: Vec<String>,
    /// For each task of tags its name among several (empty if it is the only one) and how its tags are
    /// written.
    pub tag_schemes: Vec<(String, String)>,
    /// Optimizer steps of the run.
    pub steps: u64,
    /// How the best model is chosen: the metric with its direction; `None` if nothing is validated.
    pub selection: Option<String>,
    /// Rows that were skipped because they could not be read.
    pub skipped_rows: u64,
    /// Digest of the certificate that `tempra verify` issued for this device, if it passed.
    pub verified: Option<String>,
    /// What the run takes of the device's memory, planned before anything was allocated.
    pub memory: MemoryPlan,
    /// The teacher of a distillation.
    pub teacher: Option<TeacherReport>,
    /// What is pruned.
    pub pruning: Option<PruningReport>,
}

/// What a run prunes.
#[derive(Clone, Debug)]
pub struct PruningReport {
    /// How many weights, heads and rows of feed-forward blocks it may mask.
    pub maskable: [usize; 3],
    /// How much it masks, and how it chooses.
    pub pruning: Pruning,
    /// When it masks.
    pub schedule: PruneSchedule,
}

impl fmt::Display for PruningReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pruning { method, sparsity, heads, ffn, threshold, .. } = self.pruning;
        let [weights, all_heads, rows] = self.maskable.map(|n| count(n as u64));
        let soft = method == PruneMethod::SoftMovement;
        let below = format!("those of {weights} weights whose score has a sigmoid of at most {threshold}");
        let share = |part: f64, all: &str, what: &str| format!("{:.0} % of {all} {what}", 100.0 * part);
        let parts = [
            soft.then_some(below),
            (sparsity > 0.0).then(|| share(sparsity, &weights, "weights")),
            (heads > 0.0).then(|| share(heads, &all_heads, "heads")),
            (ffn > 0.0).then(|| share(ffn, &rows, "feed-forward rows")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        write!(f, "{} in the layers, by {}, ", parts.join(", "), method.name())?;
        match self.schedule {
            PruneSchedule { begin, end, .. } if begin == end => write!(f, "before step {}", end + 1),
            PruneSchedule { begin, end, .. } => write!(f, "between steps {} and {}", begin + 1, end + 1),
        }
    }
}

/// Something that happened. `docs/reliability.md` lists the JSON object that each variant serializes to.
#[derive(Debug)]
pub enum Event<'a> {
    /// Data and model are there.
    Prepared(&'a Prepared),
    /// Attention is approximated: the relative error of its outputs in L2, layer by layer, on the first
    /// training examples before the first step.
    Approximated(&'a [f64]),
    /// The run goes on from a checkpoint; newer ones that did not verify, and why.
    Resumed(u64, &'a [(PathBuf, String)]),
    /// A step was made (every one of them).
    Step(&'a StepLog),
    /// A line of the log (every `log_every` steps).
    Log(&'a StepLog),
    /// A gradient was too large for its loss scale: the step was skipped, and the scale is now this.
    Rescaled {
        /// The step.
        step: u64,
        /// The new loss scale.
        scale: f64,
    },
    /// A step was skipped because something was not finite.
    Skipped {
        /// The step.
        step: u64,
        /// Its loss, as it is.
        loss: f64,
        /// The first parameter whose gradient is not finite, or `loss`.
        tensor: &'a str,
        /// The examples of the step, as rows of the training set.
        examples: &'a [u32],
    },
    /// The model was scored.
    Evaluated {
        /// The step.
        step: u64,
        /// `validation` or `test`.
        split: &'static str,
        /// The scores.
        scores: &'a Scores,
        /// Whether they are the best so far.
        best: bool,
    },
    /// Probabilities were chosen on the validation examples above which each class is predicted.
    Tuned {
        /// The task among several; empty if it is the only one.
        task: &'a str,
        /// The threshold of each class.
        thresholds: &'a [(String, f64)],
        /// The validation scores at 0.5 and at the thresholds.
        scores: [&'a Scores; 2],
    },
    /// The run was finished before, after so many steps; nothing is done.
    Finished(u64),
    /// A checkpoint was written.
    Saved(u64, PathBuf),
    /// Something that the run survives.
    Warning(&'a Error),
}

impl StepLog {
    fn to_json(self, event: &str) -> Value {
        json!({
            "event": event, "step": self.step, "total": self.total, "epoch": self.epoch, "loss": number(self.loss),
            "learning_rate": self.lr, "grad_norm": number(self.grad_norm),
            "tokens_per_second": number(self.tokens_per_second),
        })
    }
}

impl Prepared {
    fn to_json(&self) -> Value {
        let pair = |(name, follow, random): &(String, usize, usize)| json!({ "split": name, "follow": follow, "random": random });
        json!({
            "event": "prepared", "device": self.device, "parameters": self.parameters.0,
            "trainable": self.parameters.1, "parameter_bytes": self.parameter_bytes, "steps": self.steps,
            "classes": self.classes, "tag_schemes": self.tag_schemes,
            "pairs": self.pairs.iter().map(pair).collect::<Vec<_>>(),
            "loaded": self.weights.loaded, "initialised": self.weights.initialised,
            "unused": self.weights.unused, "reordered": self.weights.reordered,
            "best_model_by": self.selection, "skipped_rows": self.skipped_rows, "verified": self.verified,
            "memory": {
                "parameters": self.memory.parameters, "total": self.memory.total, "tokens": self.memory.tokens,
            },
            "pruning": self.pruning.as_ref().map(|p| {
                json!({
                    "weights": p.maskable[0], "sparsity": p.pruning.sparsity, "begin": p.schedule.begin,
                    "end": p.schedule.end, "method": p.pruning.method.name(), "heads": p.pruning.heads,
                    "ffn": p.pruning.ffn,
                })
            }),
            "teacher": self.teacher.as_ref().map(|t| {
                json!({ "path": t.path, "hash": t.hash, "outputs": t.outputs, "cached": t.cached, "live": t.live })
            }),
        })
    }
}

impl Event<'_> {
    /// The object that serializing gives: its key `event` names the variant.
    pub fn to_json(&self) -> Value {
        match self {
            Event::Prepared(p) => p.to_json(),
            Event::Approximated(errors) => json!({ "event": "approximated", "layers": errors }),
            Event::Resumed(step, skipped) => {
                let skipped: Vec<Value> =
                    skipped.iter().map(|(path, why)| json!({ "path": path, "why": why })).collect();
                json!({ "event": "resumed", "step": step, "skipped": skipped })
            }
            Event::Step(line) => line.to_json("step"),
            Event::Log(line) => line.to_json("log"),
            Event::Rescaled { step, scale } => {
                json!({ "event": "rescaled", "step": step, "loss_scale": scale })
            }
            Event::Skipped { step, loss, tensor, examples } => json!({
                "event": "skipped", "step": step, "loss": number(*loss), "tensor": tensor, "examples": examples,
            }),
            Event::Evaluated { step, split, scores, best } => {
                json!({ "event": "evaluated", "step": step, "split": split, "scores": scores, "best": best })
            }
            Event::Tuned { task, thresholds, scores: [before, after] } => {
                let thresholds: Map<String, Value> =
                    thresholds.iter().map(|(name, t)| (name.clone(), json!(t))).collect();
                json!({ "event": "tuned", "task": task, "thresholds": thresholds, "at_0.5": before, "scores": after })
            }
            Event::Finished(step) => json!({ "event": "finished", "step": step }),
            Event::Saved(step, path) => json!({ "event": "saved", "step": step, "path": path }),
            Event::Warning(e) => json!({ "event": "warning", "message": e.to_string() }),
        }
    }
}

impl Serialize for Event<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

/// What an observer asks a run to do, from the weakest answer to the strongest.
///
/// The run acts between two steps, when it has processed the results of all steps that it has queued. On a
/// GPU these are up to 16 steps more than the one that the event is about. After the last step there is
/// nothing to stop: the run finishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Control {
    /// Train on.
    #[default]
    Continue,
    /// Write a checkpoint and train on.
    Save,
    /// Write a checkpoint and stop. A later call with the same recipe resumes from there and ends with the
    /// same bits as a run that was never stopped.
    Stop,
}

/// Watches a run, and may stop it. [`Observers`] joins several into one.
pub trait Observer {
    /// Receives every event, in order, and answers what the run should do.
    fn event(&mut self, event: &Event) -> Control;
    /// The name that [`Outcome::stopped_by`](super::Outcome::stopped_by) gives if this observer stops the
    /// run; by default that of its type.
    fn name(&self) -> &str {
        std::any::type_name::<Self>()
    }
}

/// Watches nothing.
pub struct Silent;

impl Observer for Silent {
    fn event(&mut self, _: &Event) -> Control {
        Control::Continue
    }
}

/// Several observers as one. Each receives every event, in the order in which they were added; the strongest
/// answer counts.
#[derive(Default)]
pub struct Observers<'a> {
    all: Vec<&'a mut dyn Observer>,
    /// The one that gave the strongest answer to the last event that was not answered by
    /// [`Control::Continue`].
    strongest: usize,
}

impl<'a> Observers<'a> {
    /// Adds an observer.
    pub fn with(mut self, observer: &'a mut dyn Observer) -> Self {
        self.all.push(observer);
        self
    }
}

impl Observer for Observers<'_> {
    fn event(&mut self, event: &Event) -> Control {
        let mut strongest = Control::Continue;
        for (i, observer) in self.all.iter_mut().enumerate() {
            let answer = observer.event(event);
            if answer > strongest {
                (strongest, self.strongest) = (answer, i);
            }
        }
        strongest
    }
    /// The name of the observer whose answer counted last.
    fn name(&self) -> &str {
        self.all.get(self.strongest).map_or("no observer", |observer| observer.name())
    }
}

/// A run's observer, and its strongest answer since the training loop last took it.
pub(super) struct Answers<'a> {
    observer: &'a mut dyn Observer,
    strongest: Control,
    /// The observer that gave it.
    pub by: String,
}

impl<'a> Answers<'a> {
    pub fn of(observer: &'a mut dyn Observer) -> Answers<'a> {
        Answers { observer, strongest: Control::Continue, by: String::new() }
    }
    /// Passes an event on and keeps the answer.
    pub fn event(&mut self, event: &Event) {
        let answer = self.observer.event(event);
        if answer > self.strongest {
            self.strongest = answer;
            self.by = self.observer.name().to_owned();
        }
    }
    /// The strongest answer since the last call.
    pub fn take(&mut self) -> Control {
        std::mem::take(&mut self.strongest)
    }
}
