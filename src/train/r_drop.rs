//! R-Drop (Liang et al. 2021, "R-Drop: Regularized Dropout for Neural Networks", arXiv 2106.14448): each
//! example goes through the model twice, with different dropout masks, and the two distributions over classes
//! are pulled towards each other.
//!
//! loss = (CE_1 + CE_2) / 2 + alpha (KL(p_1 || p_2) + KL(p_2 || p_1)) / 2, each a mean over the examples,
//! weighted as the task's loss is.
//!
//! The paper's equation 4 has the sum of both cross-entropies. The mean, as in the README of its authors'
//! code, keeps the size of the gradient: without dropout this is the task's own loss. The paper's alpha
//! corresponds to alpha / 2 here with twice the learning rate.
//!
//! It is the setting `loss.r_drop`, for tasks whose outputs are logits of classes that exclude each other.

use super::objective::{Objective, TapedPass};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::nn::Taps;
use crate::ops::symmetric_kl::SymmetricKl;
use crate::tape::{Tape, Var};
use crate::tasks::{Task, reals, total};

/// The objective; see the module.
pub struct RDrop<'a> {
    /// The task whose loss is regularized.
    pub task: &'a dyn Task,
    /// The factor on the divergence.
    pub alpha: f64,
}

impl RDrop<'_> {
    /// The loss from the outputs of two forward passes over one micro-batch.
    ///
    /// # Errors
    /// Those of [`Objective::record`].
    pub fn combine(
        &self,
        tape: &mut Tape,
        [first, second]: [&[Var]; 2],
        batch: &Batch,
        scales: [f64; 2],
    ) -> Result<Var> {
        let unfit = || {
            Error::usage("loss.r_drop does not work with this task")
                .with_expected("a task whose outputs are logits of classes: classify, tag")
                .with_help("remove loss.r_drop")
        };
        let weights = self.task.class_rows(batch).ok_or_else(unfit)?;
        let half = scales.map(|scale| 0.5 * scale);
        let one = self.task.loss(tape, first, batch, half)?;
        let two = self.task.loss(tape, second, batch, half)?;
        let (Some(p), Some(q)) = (first.first(), second.first()) else { return Err(unfit()) };
        let weights = reals(tape, p, &[weights.len()], &weights)?;
        let scale = reals(tape, p, &[1], &[self.alpha * scales[0]])?;
        let divergence = tape.apply(SymmetricKl, [p.clone(), q.clone(), weights, scale])?;
        total(tape, [one, two, divergence])
    }
}

impl Objective for RDrop<'_> {
    fn record(&self, run: &mut TapedPass, scales: [f64; 2]) -> Result<Var> {
        let first = run.forward(0, &mut Taps::none())?;
        let second = run.forward(1, &mut Taps::none())?;
        self.combine(&mut run.tape, [&first, &second], run.batch, scales)
    }
}
