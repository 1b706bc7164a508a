//! The step guard (found_inf of PyTorch's GradScaler), computed on the device: total += loss; norm *= unscale. A step whose loss or norm
//! is not finite is counted, and AdamW then changes nothing.
//!
//! loss (1), total (1), norm (1), skips u32 (1), rates (3 + 2 w) = [lr, unscale, slot, then c1 and c2 for no, one, ...
//! skipped step], hyper (4) = [lr, c1, c2, unscale], history (2 w): total, norm, skips and hyper are written, and total and norm once more
//! into the slot's place of the history, which the host reads later. The bias corrections count updates, and with up to w steps under
//! way the host does not know yet how many of them were skipped; so it gives the corrections for every count.

use super::{
    Call, Case, Cost, Input, Step, StepOn, Subject, by_dtype, launch, launch_with, refuse, step_dtype,
};
use crate::device::cpu::Real;
use crate::device::{Caps, Cpu, Cuda, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::{DType, Spec};
use std::fmt::Debug;

/// The step; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Whether the total starts with this loss instead of adding it.
    pub first: bool,
    /// Whether this is the last loss: then the guard decides.
    pub last: bool,
}

impl Step for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }
    fn check(&self, caps: &Caps, x: &[&Spec]) -> Result<()> {
        let wrong = || {
            refuse("gate", "loss, total, norm (1), skips (1), rates (3 + 2 w), hyper (4), history (2 w)", x)
        };
        let [loss, total, norm, skips, rates, hyper, history] = x else { return Err(wrong()) };
        let scalars = [loss, total, norm, skips].iter().all(|s| s.shape == [1]);
        let table = rates.len() >= 5 && history.len() + 3 == rates.len() && hyper.shape == [4];
        if !scalars || !table || skips.dtype != DType::U32 {
            return Err(wrong());
        }
        step_dtype("gate", caps, x).map(drop)
    }
    fn cost(&self, call: &Call) -> Cost {
        // The loss is read and the total written; a total that is not the first is read and added to.
        let adds = !self.first as u8 as f64;
        let size = call.x.first().map_or(0.0, |s| s.dtype.size() as f64);
        let total = Cost::step(adds, (2.0 + adds) * size);
        if !self.last {
            return total;
        }
        // The norm is read, scaled and written, and skips is read; of the rates five are needed; hyper and a slot of the
        // history are written.
        let guard = (2.0 + 5.0 + 4.0 + 2.0) * size + call.input(3);
        Cost::step(total.forward_flops + 1.0, total.forward_bytes + guard)
    }
}

impl StepOn<Cpu> for Gate {
    fn run(&self, _: &Cpu, x: &[&Tensor]) -> Result<()> {
        by_dtype!(x[0].spec.dtype, run(self, x))
    }
}

fn run<T: Real>(op: &Gate, x: &[&Tensor]) -> Result<()> {
    let loss = x[0].cpu::<T>()?[0];
    let (mut total, mut norm, mut skips) =
        (x[1].cpu_mut::<T>()?, x[2].cpu_mut::<T>()?, x[3].cpu_mut::<u32>()?);
    total[0] = if op.first { loss } else { total[0] + loss };
    if op.last {
        let (rates, mut hyper) = (x[4].cpu::<T>()?, x[5].cpu_mut::<T>()?);
        norm[0] *= rates[1];
        if !total[0].f64().is_finite() || !norm[0].f64().is_finite() {
            norm[0] = T::of(f64::NAN);
            skips[0] += 1;
        }
        let at = 3 + 2 * (skips[0] as usize).min((rates.len() - 3) / 2 - 1);
        hyper.copy_from_slice(&[rates[0], rates[at], rates[at + 1], rates[1]]);
        let slot = 2 * rates[2].f64() as usize;
        if let Some(slot) = x[6].cpu_mut::<T>()?.get_mut(slot..slot + 2) {
            slot.copy_from_slice(&[total[0], norm[0]]);
        }
    }
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/gate.wgsl");

impl StepOn<Wgpu> for Gate {
    fn run(&self, device: &Wgpu, x: &[&Tensor]) -> Result<()> {
        launch(device, (SHADER, "decide"), &[], [1; 3], x, &self.params(x))
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/gate.cu");

impl StepOn<Cuda> for Gate {
    fn run(&self, device: &Cuda, x: &[&Tensor]) -> Result<()> {
        launch_with(device, 32, (KERNEL, "gate_decide"), &[], [1; 3], x, &self.params(x))
    }
}

impl Gate {
    fn params(&self, x: &[&Tensor]) -> [u32; 4] {
        [self.first as u32, self.last as u32, x[4].spec.len() as u32, x[6].spec.len() as u32]
    }
}

fn textbook(op: &dyn Debug, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (first, last) = (format!("{op:?}").contains("first: true"), format!("{op:?}").contains("last: true"));
    let mut y = x.to_vec();
    y[1][0] = x[0][0] + if first { 0.0 } else { x[1][0] };
    if last {
        let k = x[3][0] as usize;
        y[2][0] *= x[4][1];
        y[5] = vec![x[4][0], x[4][3 + 2 * k], x[4][4 + 2 * k], x[4][1]];
        let slot = 2 * x[4][2] as usize;
        (y[6][slot], y[6][slot + 1]) = (y[1][0], y[2][0]);
    }
    y
}

/// The first of several losses, one in the middle, the last, with no step and with two steps skipped before. Numbers that
/// are not finite are tried in `tests/all/optim.rs`: a case must have finite results.
pub fn cases() -> Vec<Case> {
    let case = |label, first, last, skips: u32| Case {
        label,
        subject: Subject::Step(Box::new(Gate { first, last }), textbook),
        inputs: vec![
            Input::real(&[1]),
            Input::real(&[1]),
            Input::fixed(&[1], &[2.5]),
            Input::ints(&[skips]),
            Input::fixed(&[9], &[0.5, 0.03125, 2.0, 0.25, 0.125, 0.75, 0.0625, 0.875, 0.375]),
            Input::real(&[4]),
            Input::real(&[6]),
        ],
        slack: 1.0,
        half_slack: 1.0,
    };
    vec![
        case("first of several", true, false, 0),
        case("one of several", false, false, 0),
        case("the only one", true, true, 0),
        case("last, after two skipped steps", false, true, 2),
    ]
}
