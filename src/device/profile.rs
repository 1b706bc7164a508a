//! Times of ops, recorded during profiling.

use super::{Backend, Tensor};
use crate::error::Result;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A pass of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pass {
    /// Forward: from inputs to outputs.
    Forward,
    /// Backward: from output gradients to input gradients.
    Backward,
    /// A step op, such as AdamW, which has a single pass.
    Step,
}

/// One pass of one op, timed.
#[derive(Clone, Debug)]
pub struct Timed {
    /// The op's name.
    pub op: &'static str,
    /// The pass.
    pub pass: Pass,
    /// The shapes of the inputs.
    pub shapes: Vec<Vec<usize>>,
    /// The FLOP of this call, counted from its tensors; see [`crate::ops::cost`].
    pub flops: f64,
    /// The bytes that this call must read and write.
    pub bytes: f64,
    /// The time on the device, in seconds.
    pub seconds: f64,
}

/// The recorded times; `None` outside profiling.
#[derive(Default)]
pub struct Profile(Mutex<Option<Vec<Timed>>>);

impl Profile {
    fn lock(&self) -> MutexGuard<'_, Option<Vec<Timed>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Whether profiling is on.
    pub(super) fn active(&self) -> bool {
        self.lock().is_some()
    }
    pub(super) fn begin(&self) {
        *self.lock() = Some(Vec::new());
    }
    pub(super) fn end(&self) -> Vec<Timed> {
        self.lock().take().unwrap_or_default()
    }
    /// Runs `work`, and records its time during profiling. `cost` returns FLOP and bytes; it runs before the work and outside of its
    /// time, because it may read integers back from the device, which the work may change.
    pub(crate) fn note(
        &self,
        device: &impl Backend,
        op: &'static str,
        pass: Pass,
        x: &[&Tensor],
        work: &mut dyn FnMut() -> Result<()>,
        cost: impl FnOnce() -> Result<[f64; 2]>,
    ) -> Result<()> {
        if self.lock().is_none() {
            return work();
        }
        let [flops, bytes] = cost()?;
        let seconds = device.time(work)?;
        let shapes = x.iter().map(|t| t.spec.shape.clone()).collect();
        if let Some(all) = &mut *self.lock() {
            all.push(Timed { op, pass, shapes, flops, bytes, seconds });
        }
        Ok(())
    }
}
