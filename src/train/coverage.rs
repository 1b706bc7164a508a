//! Checks that training reaches every trainable parameter.
//!
//! A parameter whose gradient is zero step after step is a fault of the model or of the recipe. One such step
//! says nothing: a step without a target (no token masked, only classes of weight 0) has no gradient at all,
//! a ReLU or dropout may block all paths of a small batch. So a parameter is named only after several steps
//! in which other parameters did have one.

use super::prepare::Run;
use crate::error::{Error, Result};
use crate::params::Param;

/// Steps with a gradient, for each task, after which a parameter without one is named.
const CHANCES: u64 = 16;
/// Elements of a gradient that are read at a time: mostly the first ones tell.
const PIECE: usize = 1 << 16;

/// The parameters that no gradient has reached yet.
pub(super) struct Coverage {
    /// As indices into the layout; empty once all have had a gradient.
    waiting: Vec<usize>,
    /// Steps with a gradient, by task.
    chances: Vec<u64>,
    /// Steps looked at.
    steps: u64,
}

/// A step whose gradients are still on the device.
#[derive(Clone, Copy)]
pub(super) struct Looked {
    /// Its task.
    pub part: usize,
    /// How much its targets count together in the loss; 0 if it has none.
    pub weight: f64,
    /// The norm of all gradients.
    pub norm: f64,
}

impl Coverage {
    /// Waits for all trainable parameters, without those of the heads where there are several, and without
    /// those of the layers where pruning may leave them no path to the loss.
    pub fn of(run: &Run) -> Coverage {
        let list = &run.model.params.layout().list;
        let pruned = |p: &Param| run.pruning.is_some() && run.model.is_in_layers(&p.name);
        let trained = |p: &Param| !p.frozen && p.is_exported() && !pruned(p);
        let waits = |i: &usize| trained(&list[*i]) && run.model.head_of(&list[*i].name).is_none();
        Coverage { waiting: (0..list.len()).filter(waits).collect(), ..Coverage::complete(run) }
    }
    /// Waits for nothing.
    pub fn complete(run: &Run) -> Coverage {
        Coverage { waiting: Vec::new(), chances: vec![0; run.parts.len()], steps: 0 }
    }
    /// Whether all parameters have had a gradient.
    pub fn is_complete(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Looks at the gradients of a step.
    ///
    /// # Errors
    /// [`Kind::Diverged`](crate::error::Kind::Diverged) with the names of the parameters that were never
    /// reached.
    pub fn look(&mut self, run: &Run, step: Looked) -> Result<()> {
        self.steps += 1;
        let reaches = step.weight > 0.0 && step.norm.is_finite() && step.norm > 0.0;
        if self.is_complete() || !reaches {
            return Ok(());
        }
        let list = &run.model.params.layout().list;
        let mut zero = Vec::new();
        for &i in &self.waiting {
            let p = &list[i];
            let Some(grad) = run.model.params.grad(p)? else { continue };
            let (mut at, mut found) = (0, false);
            while at < p.len() && !found {
                let piece = grad.view(at, &[PIECE.min(p.len() - at)])?;
                found = run.device.read::<f32>(&piece)?.iter().any(|&g| g != 0.0);
                at += PIECE;
            }
            if !found {
                zero.push(i);
            }
        }
        self.waiting = zero;
        if let Some(chances) = self.chances.get_mut(step.part) {
            *chances += 1;
        }
        let counts = |(part, _): &(usize, &u64)| run.parts[*part].weight > 0.0;
        let tried = self.chances.iter().enumerate().filter(counts).all(|(_, &n)| n >= CHANCES);
        if self.is_complete() || !tried {
            return Ok(());
        }
        Err(Error::diverged(format!(
            "some trainable parameters had a zero gradient in each of {} steps, while others were trained",
            self.chances.iter().sum::<u64>()
        ))
        .with_found(self.names(run))
        .with_help("if they are not meant to be trained, freeze them with model.freeze"))
    }

    /// What is to be said at the end of a run whose steps were all looked at: parameters that were not
    /// reached in too few steps to be sure.
    ///
    /// # Errors
    /// [`Kind::Diverged`](crate::error::Kind::Diverged) if no step had a gradient: the run trained nothing.
    pub fn conclude(&self, run: &Run) -> Result<Option<Error>> {
        if self.is_complete() || self.steps == 0 {
            return Ok(None);
        }
        let chances: u64 = self.chances.iter().sum();
        if chances == 0 {
            return Err(Error::diverged(format!("nothing was trained: all gradients were 0 in {} steps", self.steps))
                .with_expected("steps with a target that counts in the loss")
                .with_help(
                    "raise train.batch_size, and check that the examples differ and have targets (masked tokens, classes \
                     with a weight above 0)",
                ));
        }
        let few = Error::diverged(format!(
            "some parameters were not trained: their gradient was 0 in each of {chances} steps"
        ));
        Ok(Some(few.with_found(self.names(run)).with_help("train for more steps")))
    }

    fn names(&self, run: &Run) -> String {
        let list = &run.model.params.layout().list;
        self.waiting.iter().map(|&i| list[i].name.as_str()).collect::<Vec<_>>().join(", ")
    }
}
