//! What a run tells whoever watches it, while it goes on.

use super::memory::MemoryPlan;
use crate::error::Error;
use crate::metrics::Scores;
use crate::models::LoadReport;
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
    /// Name of each split for next-sentence prediction, its pairs that follow each other, and those that are random.
    pub pairs: Vec<(String, usize, usize)>,
    /// The classes, if it is a classification.
    pub classes: Vec<String>,
    /// For each task of tags its name among several (empty if it is the only one) and how its tags are written.
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
}

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Data and model are there.
    Prepared(&'a Prepared),
    /// Attention is approximated: the relative error of its outputs in L2, layer by layer, on the first training examples before
    /// the first step.
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

/// Whoever watches a run.
pub trait Observer {
    /// Is told of everything that happens, in order.
    fn event(&mut self, event: &Event);
}

/// Watches nothing.
pub struct Silent;

impl Observer for Silent {
    fn event(&mut self, _: &Event) {}
}
