//! How long each op takes, while somebody asks.

use super::{Backend, Tensor};
use crate::error::Result;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Which of an op's passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pass {
    /// From inputs to outputs.
    Forward,
    /// From output gradients to input gradients.
    Backward,
    /// A step, which has one pass only.
    Step,
}

/// One pass of one op, timed.
#[derive(Clone, Debug)]
pub struct Timed {
    /// The op's stem.
    pub op: &'static str,
    /// Which pass.
    pub pass: Pass,
    /// The shapes of the inputs.
    pub shapes: Vec<Vec<usize>>,
    /// Floating-point operations that the formula asks for.
    pub flops: f64,
    /// Bytes that must be read and written at least.
    pub bytes: f64,
    /// Seconds the device was at it.
    pub seconds: f64,
}

/// The times noted so far; nothing is noted unless somebody asks.
#[derive(Default)]
pub struct Profile(Mutex<Option<Vec<Timed>>>);

impl Profile {
    fn lock(&self) -> MutexGuard<'_, Option<Vec<Timed>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Whether somebody asks.
    pub(super) fn active(&self) -> bool {
        self.lock().is_some()
    }
    pub(super) fn begin(&self) {
        *self.lock() = Some(Vec::new());
    }
    pub(super) fn end(&self) -> Vec<Timed> {
        self.lock().take().unwrap_or_default()
    }
    /// Runs `work`, and notes its time if somebody asks; `cost` says operations and bytes.
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
        let seconds = device.time(work)?;
        let [flops, bytes] = cost()?;
        let shapes = x.iter().map(|t| t.spec.shape.clone()).collect();
        if let Some(all) = &mut *self.lock() {
            all.push(Timed { op, pass, shapes, flops, bytes, seconds });
        }
        Ok(())
    }
}
