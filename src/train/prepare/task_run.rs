//! One task of a run, ready to train.

use super::super::distill::{Distill, SoftLoss};
use super::super::objective::{Objective, Plain};
use super::super::r_drop::RDrop;
use crate::data::TokenSet;
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
    /// What a teacher adds to its loss, if there is one.
    pub soft: Option<SoftLoss>,
    /// The metric that its best model is chosen by.
    pub best_metric: String,
    /// The standard deviation of its training targets, where they are numbers: the unit of its errors.
    pub deviation: Option<f64>,
    /// How its examples were read, for whoever predicts with the model.
    pub metadata: TaskMetadata,
}

impl TaskRun {
    /// What its passes compute.
    pub fn objective(&self) -> Box<dyn Objective + '_> {
        let (task, alpha) = (&*self.task, self.r_drop);
        match &self.soft {
            Some(soft) => Box::new(Distill { task, soft }),
            None if alpha > 0.0 => Box::new(RDrop { task, alpha }),
            None => Box::new(Plain(task)),
        }
    }
    /// The unit of a metric's errors; a loss of standardized targets is in units of their deviation already.
    pub fn unit(&self, metric: &str) -> Option<f64> {
        match self.task.units() {
            Some(_) if metric == "loss" => Some(1.0),
            _ => self.deviation,
        }
    }
}
