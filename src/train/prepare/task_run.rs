//! One task of a run, ready to train.

use super::super::distill::{Distill, SoftLoss};
use super::super::live::LiveLosses;
use super::super::objective::{Objective, Plain};
use super::super::r_drop::RDrop;
use crate::compress::LiveTeacher;
use crate::data::{Batch, TokenSet};
use crate::error::Result;
use crate::tasks::{Task, TaskMetadata};
use std::sync::Arc;

/// One task of a run: its examples, settings and metric.
#[derive(Clone)]
pub struct TaskRun {
    /// Its name among several; empty if it is the only one.
    pub name: String,
    /// Labels to loss and scores.
    pub task: Arc<dyn Task>,
    /// The names of its classes or tags, if it has any.
    pub classes: Vec<String>,
    /// The training examples.
    pub train: Arc<TokenSet>,
    /// The validation examples, if there are any.
    pub validation: Option<Arc<TokenSet>>,
    /// The test examples, if there are any.
    pub test: Option<Arc<TokenSet>>,
    /// Factor on its loss.
    pub weight: f64,
    /// The factor on the divergence of R-Drop; 0: each pass runs the model once.
    pub r_drop: f64,
    /// The factor on its own loss where it has a teacher.
    pub labels: f64,
    /// What the logits of a teacher add to its loss, where they are computed before.
    pub soft: Option<SoftLoss>,
    /// What a teacher that runs beside the model adds to its loss.
    pub live: Option<LiveLosses>,
    /// The metric that its best model is chosen by.
    pub best_metric: String,
    /// The standard deviation of its training targets, where they are numbers: the unit of its errors.
    pub deviation: Option<f64>,
    /// How its examples were read, for whoever predicts with the model.
    pub metadata: TaskMetadata,
}

impl TaskRun {
    /// What its passes compute. `teacher` runs beside the model, if the task has such losses.
    pub fn objective<'a>(&'a self, teacher: Option<&'a LiveTeacher>) -> Box<dyn Objective + 'a> {
        let (task, alpha, labels) = (&*self.task, self.r_drop, self.labels);
        let (soft, live) = (self.soft.as_ref(), self.live.as_ref());
        match (soft, live) {
            (None, None) if alpha > 0.0 => Box::new(RDrop { task, alpha }),
            (None, None) => Box::new(Plain(task)),
            _ => Box::new(Distill { task, labels, soft, live, teacher }),
        }
    }
    /// Prepares a batch for training as the task does ([`Task::prepare`]). Where no loss reads the outputs of
    /// the head, no token is hidden.
    ///
    /// # Errors
    /// Those of [`Task::prepare`].
    pub fn prepare(&self, batch: &mut Batch, key: (u64, u64)) -> Result<()> {
        if self.objective(None).reads_outputs() { self.task.prepare(batch, key) } else { Ok(()) }
    }
    /// How much the targets of a batch count in the loss, times the task's factor: 0 for a batch that trains
    /// nothing.
    pub fn weight_of(&self, batch: &Batch) -> f64 {
        let targets = self.objective(None).reads_outputs();
        self.weight * if targets { self.task.weights(batch)[0] } else { batch.sequences() as f64 }
    }
    /// The unit of a metric's errors; a loss of standardized targets is in units of their deviation already.
    pub fn unit(&self, metric: &str) -> Option<f64> {
        match self.task.units() {
            Some(_) if metric == "loss" => Some(1.0),
            _ => self.deviation,
        }
    }
}
