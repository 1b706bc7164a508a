//! Distillation (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"): the model learns the
//! labels and what a teacher gives for each example.
//!
//! loss = (1 - weight) L + weight D, L being the task's own loss and D how far the model's outputs are from
//! the teacher's: T^2 KL(softmax(t / T) || softmax(s / T)) for logits s and t of classes, and the measure of
//! [`SoftOutput`](crate::tasks::SoftOutput) for other outputs. Both parts are means over the same rows with
//! the same weights. `weight` is `lambda_param` of the knowledge distillation guide of transformers.

use super::objective::{Objective, TapedPass};
use crate::compress::SoftTargets;
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::nn::Taps;
use crate::tape::{Tape, Var};
use crate::tasks::{Task, total};

/// What the teacher adds to the loss of a task.
#[derive(Clone, Debug)]
pub struct SoftLoss {
    /// The teacher's outputs for the training examples.
    pub targets: SoftTargets,
    /// The share of the teacher's part in the loss, up to 1.
    pub weight: f64,
    /// T.
    pub temperature: f64,
}

/// The objective; see the module.
pub struct Distill<'a> {
    /// The task with the labels.
    pub task: &'a dyn Task,
    /// The teacher's part.
    pub soft: &'a SoftLoss,
}

impl Distill<'_> {
    /// The loss from the outputs of a forward pass over a micro-batch.
    ///
    /// # Errors
    /// Those of [`Objective::record`].
    pub fn combine(&self, tape: &mut Tape, outputs: &[Var], batch: &Batch, scales: [f64; 2]) -> Result<Var> {
        let SoftLoss { targets, weight, temperature } = self.soft;
        let soft = self.task.soft().ok_or_else(|| {
            Error::usage("distill.teacher does not work with this task")
                .with_expected("a task whose inputs are the same in every epoch")
                .with_help("remove [distill]")
        })?;
        let teacher = targets.of(&batch.examples)?;
        // The teacher's part stands beside one part of the task's loss; a second part keeps its weight.
        let part = soft.output.min(1);
        let scale = weight * scales[part];
        let taught = (&teacher[..], *temperature);
        let from_teacher = soft.loss(tape, self.task, outputs, batch, taught, scale)?;
        if *weight >= 1.0 && part == 0 {
            return Ok(from_teacher);
        }
        let mut scales = scales;
        scales[part] *= 1.0 - weight;
        let hard = self.task.loss(tape, outputs, batch, scales)?;
        total(tape, [hard, from_teacher])
    }
}

impl Objective for Distill<'_> {
    fn record(&self, run: &mut TapedPass, scales: [f64; 2]) -> Result<Var> {
        let outputs = run.forward(0, &mut Taps::none())?;
        self.combine(&mut run.tape, &outputs, run.batch, scales)
    }
    fn whole_step(&self) -> bool {
        self.task.spans_step()
    }
    fn record_step(&self, tape: &mut Tape, vectors: Var, batch: &Batch, scales: [f64; 2]) -> Result<Var> {
        self.combine(tape, &[vectors], batch, scales)
    }
}
