//! What is computed in a pass: the forward passes over a micro-batch, and the loss that they lead to.
//!
//! Every [`Task`] is an objective: one forward pass and the task's loss. Another objective may run the model
//! several times ([`super::r_drop`]), read values inside of the encoder ([`Taps`]), and sum several losses
//! ([`tasks::total`]).

use crate::compress::LiveTeacher;
use crate::data::Batch;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::models::Model;
use crate::nn::{Inputs, Taps};
use crate::params::Bound;
use crate::tape::{Tape, Var};
use crate::tasks::{self, Task};

/// The size of an optimizer step, without padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepSize {
    /// Tokens of all its micro-batches.
    pub tokens: usize,
    /// Sequences of all its micro-batches.
    pub sequences: usize,
}

impl StepSize {
    /// The size of a step of these micro-batches.
    pub fn of<'b>(batches: impl IntoIterator<Item = &'b Batch>) -> StepSize {
        let add = |size: StepSize, batch: &Batch| StepSize {
            tokens: size.tokens + batch.real_tokens(),
            sequences: size.sequences + batch.sequences(),
        };
        batches.into_iter().fold(StepSize { tokens: 0, sequences: 0 }, add)
    }
}

/// A micro-batch on a tape, with the model that reads it.
pub struct TapedPass<'a, 'd> {
    /// The tape.
    pub tape: Tape<'d>,
    /// The micro-batch.
    pub batch: &'a Batch,
    /// The step that it is a part of; a step of its own, unless that is said.
    pub step: StepSize,
    model: &'a Model,
    bound: Bound,
    inputs: Inputs,
}

impl<'a, 'd> TapedPass<'a, 'd> {
    /// Puts a micro-batch and the model's parameters on a new tape. Their gradients are added to those there
    /// (`add`) or written over them. `key` is seed and step, the source of dropout; without one there is
    /// none.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(
        device: &'d Device,
        model: &'a Model,
        batch: &'a Batch,
        key: Option<(u64, u64)>,
        add: bool,
    ) -> Result<Self> {
        let mut tape = Tape::new(device);
        let bound = model.params.bind(&mut tape, add)?;
        let inputs = tasks::inputs(&mut tape, batch, key)?;
        Ok(TapedPass { tape, batch, step: StepSize::of([batch]), model, bound, inputs })
    }
    /// Runs the model; see [`Model::forward`] for its outputs. Forward passes of different numbers, below
    /// [`Inputs::PASSES`], have different dropout masks.
    ///
    /// # Errors
    /// Those of [`Model::forward`].
    pub fn forward(&mut self, pass: u32, taps: &mut Taps) -> Result<Vec<Var>> {
        let inputs = Inputs { pass, ..self.inputs.clone() };
        self.model.forward(&mut self.tape, &self.bound, &inputs, taps)
    }
    /// Runs the encoder alone, for what `taps` ask for.
    ///
    /// # Errors
    /// Those of [`Model::forward`].
    pub fn encode(&mut self, pass: u32, taps: &mut Taps) -> Result<()> {
        let inputs = Inputs { pass, ..self.inputs.clone() };
        self.model.encoder().run(&mut self.tape, &self.bound, &inputs, taps).map(drop)
    }
    /// See [`Model::project`].
    ///
    /// # Errors
    /// Those of [`Model::project`].
    pub fn project(&mut self, hidden: Var) -> Result<Var> {
        self.model.project(&mut self.tape, &self.bound, hidden)
    }
    /// The micro-batch's tensors.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }
    /// The tape, and the variables of the parameters on it.
    pub(super) fn into_parts(self) -> (Tape<'d>, Bound) {
        (self.tape, self.bound)
    }
}

/// What a pass minimises.
pub trait Objective: Send + Sync {
    /// Records the forward passes over a micro-batch and the loss (1), which is multiplied by `scales`: see
    /// [`Task::loss`].
    ///
    /// # Errors
    /// Those of the task and of the model's ops.
    fn record(&self, run: &mut TapedPass, scales: [f64; 2]) -> Result<Var>;
    /// Whether the loss compares the examples of a whole step with each other; see [`Task::spans_step`]. If
    /// so, a step of several micro-batches calls [`Objective::record_step`] instead of [`Objective::record`].
    fn whole_step(&self) -> bool {
        false
    }
    /// Whether the loss reads the outputs of the model's head. Otherwise a batch is not prepared
    /// ([`Task::prepare`]): no token is hidden.
    fn reads_outputs(&self) -> bool {
        true
    }
    /// The same objective with a teacher that runs beside the model. `None` for one that has no teacher.
    fn with_teacher<'b>(&'b self, _: &'b LiveTeacher) -> Option<Box<dyn Objective + 'b>> {
        None
    }
    /// Records the loss of a whole step, `batch`, from the vectors of all its sequences (sequences, hidden).
    ///
    /// # Errors
    /// Those of [`Objective::record`]; [`Kind::Shape`](crate::error::Kind::Shape) for an objective that is a
    /// sum over micro-batches.
    fn record_step(&self, _: &mut Tape, _vectors: Var, _batch: &Batch, _scales: [f64; 2]) -> Result<Var> {
        Err(Error::shape("this objective is a sum over micro-batches: it has no loss of a whole step"))
    }
}

impl<T: Task + ?Sized> Objective for T {
    fn record(&self, run: &mut TapedPass, scales: [f64; 2]) -> Result<Var> {
        let outputs = run.forward(0, &mut Taps::none())?;
        self.loss(&mut run.tape, &outputs, run.batch, scales)
    }
    fn whole_step(&self) -> bool {
        self.spans_step()
    }
    fn record_step(&self, tape: &mut Tape, vectors: Var, batch: &Batch, scales: [f64; 2]) -> Result<Var> {
        self.loss(tape, &[vectors], batch, scales)
    }
}

/// A task's own objective, behind a pointer to any task.
pub struct Plain<'a>(pub &'a dyn Task);

impl Objective for Plain<'_> {
    fn record(&self, run: &mut TapedPass, scales: [f64; 2]) -> Result<Var> {
        self.0.record(run, scales)
    }
    fn whole_step(&self) -> bool {
        self.0.spans_step()
    }
    fn record_step(&self, tape: &mut Tape, vectors: Var, batch: &Batch, scales: [f64; 2]) -> Result<Var> {
        self.0.record_step(tape, vectors, batch, scales)
    }
}
