//! Distillation (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"): the model learns the
//! labels and what a teacher gives for the same texts.
//!
//! loss = a L + b D + the losses of [`super::live`], L being the task's own loss and D how far the model's
//! outputs are from the teacher's: T^2 KL(softmax(t / T) || softmax(s / T)) for logits s and t of classes,
//! and the measure of [`SoftOutput`](crate::tasks::SoftOutput) for other outputs. L and D are means over the
//! same rows with the same weights. Without other settings a = 1 - b, and b is `lambda_param` of the
//! knowledge distillation guide of transformers.

use super::live::LiveLosses;
use super::objective::{Objective, TapedPass};
use crate::compress::{LiveTeacher, SoftTargets};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::nn::Taps;
use crate::tape::{Tape, Var};
use crate::tasks::{Task, total};

/// The loss of a teacher's logits that were computed before.
#[derive(Clone, Debug)]
pub struct SoftLoss {
    /// The teacher's outputs for the training examples.
    pub targets: SoftTargets,
    /// The factor on the loss.
    pub weight: f64,
    /// T.
    pub temperature: f64,
}

/// The objective; see the module.
#[derive(Clone, Copy)]
pub struct Distill<'a> {
    /// The task with the labels.
    pub task: &'a dyn Task,
    /// The factor on the task's own loss.
    pub labels: f64,
    /// The loss of the logits, where they were computed before.
    pub soft: Option<&'a SoftLoss>,
    /// The losses of a teacher that runs beside the model.
    pub live: Option<&'a LiveLosses>,
    /// That teacher.
    pub teacher: Option<&'a LiveTeacher>,
}

impl Distill<'_> {
    /// The losses of labels and of logits, from the outputs of a forward pass over a micro-batch; none if
    /// neither counts.
    ///
    /// # Errors
    /// Those of [`Objective::record`].
    pub fn combine(
        &self,
        tape: &mut Tape,
        outputs: &[Var],
        batch: &Batch,
        scales: [f64; 2],
    ) -> Result<Vec<Var>> {
        let mut losses = Vec::new();
        let mut of_labels = scales.map(|scale| self.labels * scale);
        let (mut from_teacher, mut counts) = (None, self.labels > 0.0);
        if let Some(SoftLoss { targets, weight, temperature }) = self.soft {
            let soft = self.task.soft().ok_or_else(|| {
                Error::usage("distill.teacher does not work with this task")
                    .with_expected("a task whose inputs are the same in every epoch")
                    .with_help("remove [distill]")
            })?;
            let teacher = targets.of(&batch.examples)?;
            // The teacher's part stands beside one part of the task's loss; a second part keeps its weight.
            let part = soft.output.min(1);
            of_labels[1 - part] = scales[1 - part];
            counts |= part == 1;
            let (taught, scale) = ((&teacher[..], *temperature), weight * scales[part]);
            from_teacher = Some(soft.loss(tape, self.task, outputs, batch, taught, scale)?);
        }
        if counts {
            losses.push(self.task.loss(tape, outputs, batch, of_labels)?);
        }
        losses.extend(from_teacher);
        Ok(losses)
    }
}

impl Objective for Distill<'_> {
    fn record(&self, run: &mut TapedPass, scales: [f64; 2]) -> Result<Var> {
        let mut taps = self.live.map_or_else(Taps::none, LiveLosses::taps);
        let outputs = match self.reads_outputs() {
            true => run.forward(0, &mut taps)?,
            false => {
                run.encode(0, &mut taps)?;
                Vec::new()
            }
        };
        let mut losses = self.combine(&mut run.tape, &outputs, run.batch, scales)?;
        if let Some(live) = self.live {
            let teacher = self.teacher.ok_or_else(|| Error::shape("the live teacher is not there"))?;
            losses.extend(live.record(run, (self.task, teacher), &taps, outputs.first(), scales[0])?);
        }
        total(&mut run.tape, losses)
    }
    fn reads_outputs(&self) -> bool {
        self.labels > 0.0 || self.soft.is_some() || self.live.is_some_and(|live| live.logits > 0.0)
    }
    fn with_teacher<'b>(&'b self, teacher: &'b LiveTeacher) -> Option<Box<dyn Objective + 'b>> {
        Some(Box::new(Distill { teacher: Some(teacher), ..*self }))
    }
    fn whole_step(&self) -> bool {
        self.task.spans_step()
    }
    fn record_step(&self, tape: &mut Tape, vectors: Var, batch: &Batch, scales: [f64; 2]) -> Result<Var> {
        let losses = self.combine(tape, &[vectors], batch, scales)?;
        total(tape, losses)
    }
}
