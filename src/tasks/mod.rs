//! Problems: how labels become a loss, how logits become a prediction and a score.

mod classify;
mod regress;

pub use classify::Classify;
pub use regress::Regress;

use crate::data::{Batch, TokenSet};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::metrics::Scores;
use crate::models::{Model, Outputs};
use crate::nn::Inputs;
use crate::ops::accumulator;
use crate::shape::DType;
use crate::tape::{Tape, Var};

/// A problem: an example's label, the loss, the prediction, the metrics.
pub trait Task: Send + Sync {
    /// What the head gives.
    fn outputs(&self) -> Outputs;
    /// How much these examples count in the loss: what the sum over an optimizer step is divided by.
    fn weight(&self, set: &TokenSet, examples: &[u32]) -> f64;
    /// Records the loss of a batch, its sum times `scale`, from logits (sequences, outputs).
    fn loss(&self, tape: &mut Tape, logits: Var, batch: &Batch, scale: f64) -> Result<Var>;
    /// A meter for one evaluation.
    fn meter(&self) -> Box<dyn Meter>;
}

/// Takes logits, gives scores.
pub trait Meter {
    /// Adds a batch with its logits (sequences, outputs).
    fn add(&mut self, logits: &[f32], batch: &Batch) -> Result<()>;
    /// The scores so far.
    fn scores(&self) -> Scores;
    /// What a person reads at the end: a confusion table, correlations.
    fn report(&self) -> String;
}

/// A batch's tensors on a device, on a tape; with `key` (seed, step) in training.
pub fn inputs(tape: &mut Tape, batch: &Batch, key: Option<(u64, u64)>) -> Result<Inputs> {
    let device = tape.device();
    let put = |v: &[u32]| device.upload(DType::U32, &[v.len()], v);
    let (ids, positions, types) = (put(&batch.ids)?, put(&batch.positions)?, put(&batch.types)?);
    let cu_seqlens = put(&batch.cu_seqlens)?;
    let sequences = cu_seqlens.view(0, &[batch.cu_seqlens.len().min(batch.len() + 1)])?;
    let tensors = [ids, positions, types, cu_seqlens, sequences];
    let words = |(seed, step): (u64, u64)| {
        [seed as u32, (seed >> 32) as u32, step as u32, batch.first_token, batch.first_example]
    };
    let key = key.map(|k| put(&words(k))).transpose()?;
    // What only fills up a batch is not asked about.
    let asked = batch.cu_seqlens.windows(2).take(batch.len());
    let longest = asked.map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0);
    Ok(Inputs::new(tape, tensors, key).of_length(longest))
}

/// Runs a model over batches without recording, and hands each batch's logits (sequences, outputs) to `each`.
pub fn for_each_logits(
    device: &Device,
    model: &Model,
    batches: &[Batch],
    mut each: impl FnMut(&Batch, &[f32]) -> Result<()>,
) -> Result<()> {
    for batch in batches {
        let logits = device.scoped(|| -> Result<Vec<f32>> {
            let mut tape = Tape::evaluate(device);
            let bound = model.params.bind(&mut tape, false)?;
            let x = inputs(&mut tape, batch, None)?;
            let logits = model.logits(&mut tape, &bound, &x)?;
            Ok(device.read_reals(tape.value(logits)?)?.into_iter().map(|v| v as f32).collect())
        })?;
        each(batch, &logits)?;
    }
    Ok(())
}

/// Scores a model over batches.
pub fn evaluate(
    device: &Device,
    model: &Model,
    task: &dyn Task,
    batches: &[Batch],
) -> Result<Box<dyn Meter>> {
    let mut meter = task.meter();
    for_each_logits(device, model, batches, |batch, logits| meter.add(logits, batch))?;
    Ok(meter)
}

/// Constants of a loss: in the type that sums have where `like` has its own.
fn reals(tape: &mut Tape, like: Var, shape: &[usize], v: &[f64]) -> Result<Var> {
    let dtype = accumulator(tape.value(like)?.spec.dtype);
    let t = tape.device().upload_reals(dtype, shape, v)?;
    Ok(tape.constant(t))
}

/// The error of a batch whose examples have no label of the kind a task needs.
fn unlabelled() -> Error {
    Error::data("examples without labels cannot be scored").hint("name the label column with data.label")
}
