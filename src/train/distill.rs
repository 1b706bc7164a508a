//! Distillation (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"): the model learns the
//! labels and the distribution that a teacher gives for each example.
//!
//! loss = (1 - weight) L + weight T^2 KL(softmax(t / T) || softmax(s / T)), L being the task's own loss, s
//! the model's logits and t the teacher's. Both parts are means over the examples, weighted as the task's
//! loss is. `weight` is `lambda_param` of the knowledge distillation guide of transformers.

use super::objective::{Objective, TapedPass};
use crate::compress::SoftTargets;
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::nn::Taps;
use crate::ops::soft_cross_entropy::SoftCrossEntropy;
use crate::tape::{Tape, Var};
use crate::tasks::{Task, reals, total};

/// What the teacher adds to the loss of a task.
#[derive(Clone, Debug)]
pub struct SoftLoss {
    /// The teacher's logits for the training examples.
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
        let unfit = || {
            Error::usage("distill.teacher does not work with this task")
                .with_expected("task \"classify\"")
                .with_help("remove [distill]")
        };
        let weights = self.task.class_rows(batch).ok_or_else(unfit)?;
        let logits = outputs.first().ok_or_else(unfit)?;
        let shape = [batch.len(), targets.classes()];
        let teacher = reals(tape, logits, &shape, &targets.of(&batch.examples)?)?;
        let weights = reals(tape, logits, &[weights.len()], &weights)?;
        let scale = reals(tape, logits, &[1], &[weight * scales[0]])?;
        let op = SoftCrossEntropy { temperature: *temperature as f32 };
        let soft = tape.apply(op, [logits.clone(), teacher, weights, scale])?;
        if *weight >= 1.0 {
            return Ok(soft);
        }
        let hard = self.task.loss(tape, outputs, batch, scales.map(|scale| (1.0 - weight) * scale))?;
        total(tape, [hard, soft])
    }
}

impl Objective for Distill<'_> {
    fn record(&self, run: &mut TapedPass, scales: [f64; 2]) -> Result<Var> {
        let outputs = run.forward(0, &mut Taps::none())?;
        self.combine(&mut run.tape, &outputs, run.batch, scales)
    }
}
