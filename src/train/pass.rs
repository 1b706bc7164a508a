//! One pass over one micro-batch, and the passes of an optimizer step: what the loop, the benchmark and the
//! tests all run.

use super::objective::{Objective, StepSize, TapedPass};
use crate::data::Batch;
use crate::device::{Device, Tensor};
use crate::error::{Error, Result};
use crate::models::Model;
use crate::nn::Taps;
use crate::ops::gather::Gather;
use crate::ops::{Backward, Forward, Grad};
use crate::params::Bound;
use crate::shape::{DType, Spec};
use crate::tape::{Leaf, Tape, Var};
use crate::tasks;

/// What a pass leaves behind besides the gradients.
pub struct Passed {
    /// The batch's part of the loss (1), on the device.
    pub loss: Tensor,
    /// Trainable parameters that it did not reach.
    pub unreached: Vec<String>,
}

/// What a loss and its gradients are multiplied by.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// The loss, and with it the gradients; the second is for the second part of a loss that is a sum of two.
    pub loss: [f64; 2],
    /// The gradients besides: a loss scale, which the optimizer takes back.
    pub gradients: f64,
}

impl From<f64> for Scale {
    fn from(loss: f64) -> Scale {
        Scale { loss: [loss; 2], gradients: 1.0 }
    }
}

/// Forward and backward of one micro-batch, its loss and gradients times `scale`; the gradients are added to
/// those there (`add`) or written over them. `key` is seed and step, the source of dropout; without one there
/// is none.
///
/// # Errors
/// Those of the objective and of the model's ops.
pub fn pass(
    device: &Device,
    model: &Model,
    objective: &(impl Objective + ?Sized),
    batch: &Batch,
    key: Option<(u64, u64)>,
    scale: impl Into<Scale>,
    add: bool,
) -> Result<Passed> {
    one(device, model, objective, (batch, StepSize::of([batch])), key, scale.into(), add)
}

/// The same of a micro-batch of a larger step.
fn one(
    device: &Device,
    model: &Model,
    objective: &(impl Objective + ?Sized),
    (batch, step): (&Batch, StepSize),
    key: Option<(u64, u64)>,
    scale: Scale,
    add: bool,
) -> Result<Passed> {
    let mut run = TapedPass::new(device, model, batch, key, add)?;
    run.step = step;
    // No handle to an output is left behind this: the backward pass frees each once it has read it.
    let root = objective.record(&mut run, scale.loss)?;
    let (tape, bound) = run.into_parts();
    let loss = root.value().clone();
    let seed = seed(&tape, &root, scale)?;
    let unreached = tape.backward(root, seed)?;
    Ok(Passed { loss, unreached: model.params.names(&bound, &unreached) })
}

/// The gradient that a loss starts from.
fn seed(tape: &Tape, root: &Var, scale: Scale) -> Result<Tensor> {
    let dtype = match root.value().spec.dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    };
    tape.device().upload_reals(dtype, &[1], &[scale.gradients])
}

/// The gradients of one optimizer step in its micro-batches, which are written over those there. Returns the
/// parts of the loss, on the device, and the parameters that the last pass did not reach.
///
/// Where the loss compares examples of the whole step with each other ([`Objective::whole_step`]) and there
/// are several micro-batches, this is gradient caching (Gao et al. 2021, "Scaling Deep Contrastive Learning
/// Batch Size under Memory Limited Setup"): the vectors of all micro-batches without recording, the loss and
/// its gradient by all vectors, then each micro-batch again, recorded, backwards from its rows of that
/// gradient. The result is that of one pass, as dropout masks depend on the row within the step; the
/// activations of one micro-batch are held at a time, for one more forward pass.
///
/// # Errors
/// Those of the model, the objective and the device.
pub fn step(
    device: &Device,
    model: &Model,
    objective: &(impl Objective + ?Sized),
    batches: &[Batch],
    key: Option<(u64, u64)>,
    scale: impl Into<Scale>,
) -> Result<(Vec<Tensor>, Vec<String>)> {
    let scale = scale.into();
    if objective.whole_step() && batches.len() > 1 {
        return cached(device, model, objective, batches, key, scale);
    }
    let size = StepSize::of(batches);
    let (mut losses, mut unreached) = (Vec::with_capacity(batches.len()), Vec::new());
    for (i, batch) in batches.iter().enumerate() {
        let passed = device.run(|| one(device, model, objective, (batch, size), key, scale, i > 0))?;
        losses.push(passed.loss);
        unreached = passed.unreached;
    }
    Ok((losses, unreached))
}

/// The vectors that a model gives for a batch: its only output.
fn vectors(
    tape: &mut Tape,
    model: &Model,
    batch: &Batch,
    bound: &Bound,
    key: Option<(u64, u64)>,
) -> Result<Var> {
    let inputs = tasks::inputs(tape, batch, key)?;
    let outputs: [Var; 1] = model
        .forward(tape, bound, &inputs, &mut Taps::none())?
        .try_into()
        .map_err(|_| Error::shape("a loss over a whole step needs a model with one output"))?;
    let [vectors] = outputs;
    Ok(vectors)
}

/// See [`step`].
fn cached(
    device: &Device,
    model: &Model,
    objective: &(impl Objective + ?Sized),
    batches: &[Batch],
    key: Option<(u64, u64)>,
    scale: Scale,
) -> Result<(Vec<Tensor>, Vec<String>)> {
    // The rows of each micro-batch among all vectors, as the index of a gather.
    let rows = |i: usize| -> Result<Tensor> {
        let first: usize = batches[..i].iter().map(Batch::sequences).sum();
        let rows: Vec<u32> = (first..first + batches[i].sequences()).map(|row| row as u32).collect();
        device.upload(DType::U32, &[rows.len()], &rows)
    };
    let count = batches.iter().map(Batch::sequences).sum();
    let mut all: Option<Tensor> = None;
    for (i, batch) in batches.iter().enumerate() {
        let rows = rows(i)?;
        all = Some(device.run(|| -> Result<Tensor> {
            let mut tape = Tape::evaluate(device);
            let bound = model.params.bind(&mut tape, false)?;
            let part = vectors(&mut tape, model, batch, &bound, key)?;
            let part = part.value();
            let all = match all.take() {
                Some(all) => all,
                None => device.alloc(Spec::new(part.spec.dtype, &[count, part.spec.rows_cols().1]))?,
            };
            // A gather played backwards puts rows where they were taken from; the first one zeroes the
            // others.
            let io = Backward {
                x: &[&all, &rows],
                y: &[part],
                dy: &[Some(part)],
                dx: &[Some(Grad::new(&all, i > 0)), None],
            };
            device.backward(&Gather, io)?;
            Ok(all)
        })?);
    }
    let all = all.ok_or_else(|| Error::shape("a step without micro-batches"))?;
    let gradient = device.alloc(all.spec.clone())?;
    let loss = device.run(|| -> Result<Tensor> {
        let mut tape = Tape::new(device);
        let leaf = tape.leaf(Leaf::new(all, gradient.clone(), false));
        let root = objective.record_step(&mut tape, leaf, &Batch::joined(batches), scale.loss)?;
        let loss = root.value().clone();
        // In f16 the gradient by the vectors carries the loss scale already.
        let seed = seed(&tape, &root, scale)?;
        tape.backward(root, seed)?;
        Ok(loss)
    })?;
    let mut unreached = Vec::new();
    for (i, batch) in batches.iter().enumerate() {
        let rows = rows(i)?;
        unreached = device.run(|| -> Result<Vec<String>> {
            let mut tape = Tape::new(device);
            let bound = model.params.bind(&mut tape, i > 0)?;
            let part = vectors(&mut tape, model, batch, &bound, key)?;
            let seed = device.alloc(part.value().spec.clone())?;
            device.forward(&Gather, Forward { x: &[&gradient, &rows], y: &[&seed] })?;
            let unreached = tape.backward(part, seed)?;
            Ok(model.params.names(&bound, &unreached))
        })?;
    }
    Ok((vec![loss], unreached))
}
