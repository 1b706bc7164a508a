//! Times of ops, recorded during profiling, and names of kernels.

use super::{Backend, Tensor};
use crate::error::Result;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// What is recorded.
#[derive(Default)]
pub struct Profile {
    /// The times of ops; `None` outside profiling.
    times: Mutex<Option<Vec<Timed>>>,
    /// Whether names of kernels are recorded.
    naming: AtomicBool,
    kernels: Mutex<Vec<&'static str>>,
}

impl Profile {
    fn lock(&self) -> MutexGuard<'_, Option<Vec<Timed>>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Records the names of kernels from now on.
    pub(super) fn begin_kernels(&self) {
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.naming.store(true, Ordering::Relaxed);
    }
    /// The kernels launched since [`Profile::begin_kernels`], each once, in the order of their first launch.
    pub(super) fn end_kernels(&self) -> Vec<&'static str> {
        self.naming.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.kernels.lock().unwrap_or_else(PoisonError::into_inner))
    }
    /// Notes the launch of a kernel, or the call of a library's function.
    pub(super) fn launched(&self, kernel: &'static str) {
        if self.naming.load(Ordering::Relaxed) {
            let mut all = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
            if !all.contains(&kernel) {
                all.push(kernel);
            }
        }
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
    /// Runs `work`, and records its time during profiling. `cost` returns FLOP and bytes; it runs before the
    /// work and outside of its time, because it may read integers back from the device, which the work may
    /// change.
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
