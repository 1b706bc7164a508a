//! The optimizer: gradient norm, clipping and AdamW over the arenas of [`Params`].

use crate::device::{Device, Tensor};
use crate::error::{Error, Result};
use crate::ops::adamw::{AdamW, Segment};
use crate::ops::global_norm::GlobalNorm;
use crate::params::Params;
use crate::shape::DType;
use std::sync::Arc;

/// AdamW's settings; the defaults are those of Hugging Face's `TrainingArguments`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Decay rate of the first moment.
    pub beta1: f32,
    /// Decay rate of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay of matrices; biases and norms do not decay.
    pub weight_decay: f32,
    /// The norm that gradients are clipped to; 0 for no clipping.
    pub max_grad_norm: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, max_grad_norm: 1.0 }
    }
}

/// AdamW with the buffers it needs.
pub struct Optimizer {
    step: AdamW,
    hyper: Tensor,
    norm: Tensor,
    /// Which parts of the arena have ever had a gradient.
    live: Tensor,
    /// Updates made so far; the bias corrections depend on it.
    pub updates: u64,
}

impl Optimizer {
    /// An optimizer for these parameters, with no update made.
    pub fn new(device: &Device, params: &Params, s: Settings) -> Result<Optimizer> {
        let dtype = params.spec().dtype;
        let segments: Arc<[Segment]> = params.layout().segments(s.weight_decay).into();
        let live = device.zeros(DType::U32, &[AdamW::live_words(&segments)])?;
        let step = AdamW { beta1: s.beta1, beta2: s.beta2, eps: s.eps, max_norm: s.max_grad_norm, segments };
        Ok(Optimizer {
            step,
            hyper: device.zeros(dtype, &[3])?,
            norm: device.zeros(dtype, &[1])?,
            live,
            updates: 0,
        })
    }
    /// Measures the norm of all gradients, before clipping.
    pub fn measure(&mut self, device: &Device, params: &Params) -> Result<f64> {
        let t = params.training.as_ref().ok_or_else(untrained)?;
        params.silence_frozen(device)?;
        device.step(&GlobalNorm, &[&t.grad, &self.norm])?;
        Ok(match self.norm.spec.dtype {
            DType::F64 => device.read::<f64>(&self.norm)?[0],
            _ => device.read::<f32>(&self.norm)?[0] as f64,
        })
    }
    /// Updates the values with the gradients that were measured last, at a learning rate.
    pub fn update(&mut self, device: &Device, params: &Params, lr: f64) -> Result<()> {
        let t = params.training.as_ref().ok_or_else(untrained)?;
        self.updates += 1;
        let correction = |beta: f32| 1.0 - (beta as f64).powi(self.updates.min(i32::MAX as u64) as i32);
        let hyper = [lr, correction(self.step.beta1), correction(self.step.beta2)];
        match self.hyper.spec.dtype {
            DType::F64 => device.write(&self.hyper, &hyper)?,
            _ => device.write(&self.hyper, &hyper.map(|h| h as f32))?,
        }
        device.step(&self.step, &[&params.value, &t.grad, &t.m, &t.v, &self.hyper, &self.norm, &self.live])
    }
    /// Goes on after `updates` updates whose moments were put back into the arenas.
    pub fn resume(&mut self, device: &Device, updates: u64) -> Result<()> {
        self.updates = updates;
        device.write(&self.live, &vec![!0u32; self.live.spec.len()])
    }
}

fn untrained() -> Error {
    Error::shape("parameters without gradients cannot be trained")
}
