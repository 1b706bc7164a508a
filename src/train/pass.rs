//! One pass over one micro-batch: what the loop, the benchmark and the tests all run.

use crate::data::Batch;
use crate::device::{Device, Tensor};
use crate::error::Result;
use crate::models::Model;
use crate::shape::DType;
use crate::tape::Tape;
use crate::tasks::{self, Task};

/// What a pass leaves behind besides the gradients.
pub struct Passed {
    /// The batch's part of the loss (1), on the device.
    pub loss: Tensor,
    /// Trainable parameters that it did not reach.
    pub unreached: Vec<String>,
}

/// Forward and backward of one micro-batch, its loss times `scale`; the gradients are added to those there (`add`) or
/// written over them. `key` is seed and step, the source of dropout; without one there is none.
pub fn pass(
    device: &Device,
    model: &Model,
    task: &dyn Task,
    batch: &Batch,
    key: Option<(u64, u64)>,
    scale: f64,
    add: bool,
) -> Result<Passed> {
    let mut tape = Tape::new(device);
    let bound = model.params.bind(&mut tape, add)?;
    let inputs = tasks::inputs(&mut tape, batch, key)?;
    let logits = model.logits(&mut tape, &bound, &inputs)?;
    let root = task.loss(&mut tape, logits, batch, scale)?;
    let loss = tape.value(root)?.clone();
    let one = device.upload(DType::F32, &[1], &[1f32])?;
    let unreached = tape.backward(root, one)?;
    Ok(Passed { loss, unreached: model.params.names(&bound, &unreached) })
}
