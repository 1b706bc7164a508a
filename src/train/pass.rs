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

/// Forward and backward of one micro-batch, its loss and gradients times `scale`; the gradients are added to those there (`add`) or
/// written over them. `key` is seed and step, the source of dropout; without one there is none.
pub fn pass(
    device: &Device,
    model: &Model,
    task: &dyn Task,
    batch: &Batch,
    key: Option<(u64, u64)>,
    scale: impl Into<Scale>,
    add: bool,
) -> Result<Passed> {
    let mut tape = Tape::new(device);
    let bound = model.params.bind(&mut tape, add)?;
    let inputs = tasks::inputs(&mut tape, batch, key)?;
    let outputs = model.forward(&mut tape, &bound, &inputs)?;
    let scale = scale.into();
    let root = task.loss(&mut tape, &outputs, batch, scale.loss)?;
    let loss = tape.value(root)?.clone();
    let one = device.upload(DType::F32, &[1], &[scale.gradients as f32])?;
    let unreached = tape.backward(root, one)?;
    Ok(Passed { loss, unreached: model.params.names(&bound, &unreached) })
}
