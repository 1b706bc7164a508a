//! The step guard (found_inf of PyTorch's GradScaler), computed on the device: total += loss; norm *=
//! unscale. A step whose loss or norm is not finite is counted, and its norm becomes NaN, so that the update
//! changes nothing.
//!
//! loss (1), total (1), control (3 + f) = [norm, lr, unscale, f factors of the update], skips u32 (1), rates
//! (3 + f w) = [lr, unscale, slot, then the factors for no, one, ... skipped step], history (2 w): total,
//! control and skips are written, and total and norm once more into the slot's place of the history, which
//! the host reads later.
//!
//! Factors such as AdamW's bias corrections depend on the number of updates. While up to w steps are queued,
//! the host does not know yet how many of them were skipped. So it sends the factors for every possible
//! count, and the device picks by its own count.

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
pub struct StepGuard {
    /// Whether the total starts with this loss instead of adding it.
    pub first: bool,
    /// Whether this is the last loss: then the guard decides.
    pub last: bool,
}

impl Step for StepGuard {
    fn name(&self) -> &'static str {
        "step_guard"
    }
    fn check(&self, caps: &Caps, x: &[&Spec]) -> Result<()> {
        let expected = "loss, total (1), control (3 + f), skips (1), rates (3 + f w), history (2 w)";
        let wrong = || refuse("step_guard", expected, x);
        let [loss, total, control, skips, rates, history] = x else { return Err(wrong()) };
        let scalars = [loss, total, skips].iter().all(|s| s.shape == [1]);
        let window = history.len() / 2;
        let factors = control.len().checked_sub(3).ok_or_else(wrong)?;
        let table = window > 0 && history.shape == [2 * window] && rates.shape == [3 + factors * window];
        if !scalars || !table || skips.dtype != DType::U32 {
            return Err(wrong());
        }
        step_dtype("step_guard", caps, x).map(drop)
    }
    fn cost(&self, call: &Call) -> Cost {
        // The loss is read and the total written; a total that is not the first is read and added to.
        let adds = !self.first as u8 as f64;
        let size = call.x.first().map_or(0.0, |s| s.dtype.size() as f64);
        let total = Cost::step(adds, (2.0 + adds) * size);
        if !self.last {
            return total;
        }
        // The norm is read, scaled and written, and skips is read; lr, unscale, slot and the factors are
        // read; all of control but the norm, and a slot of the history are written.
        let factors = call.len(2) - 3.0;
        let guard = (2.0 + 3.0 + factors + 2.0 + factors + 2.0) * size + call.input(3);
        Cost::step(total.forward_flops + 1.0, total.forward_bytes + guard)
    }
}

impl StepOn<Cpu> for StepGuard {
    fn run(&self, _: &Cpu, x: &[&Tensor]) -> Result<()> {
        by_dtype!(x[0].spec.dtype, run(self, x))
    }
}

fn run<T: Real>(op: &StepGuard, x: &[&Tensor]) -> Result<()> {
    let loss = x[0].cpu::<T>()?[0];
    let (mut total, mut control, mut skips) =
        (x[1].cpu_mut::<T>()?, x[2].cpu_mut::<T>()?, x[3].cpu_mut::<u32>()?);
    total[0] = if op.first { loss } else { total[0] + loss };
    if op.last {
        let rates = x[4].cpu::<T>()?;
        control[0] *= rates[1];
        if !total[0].f64().is_finite() || !control[0].f64().is_finite() {
            control[0] = T::of(f64::NAN);
            skips[0] += 1;
        }
        let mut history = x[5].cpu_mut::<T>()?;
        let (factors, window) = (control.len() - 3, history.len() / 2);
        let at = 3 + factors * (skips[0] as usize).min(window - 1);
        (control[1], control[2]) = (rates[0], rates[1]);
        control[3..].copy_from_slice(&rates[at..at + factors]);
        let slot = 2 * rates[2].f64() as usize;
        if let Some(slot) = history.get_mut(slot..slot + 2) {
            slot.copy_from_slice(&[total[0], control[0]]);
        }
    }
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/step_guard.wgsl");

impl StepOn<Wgpu> for StepGuard {
    fn run(&self, device: &Wgpu, x: &[&Tensor]) -> Result<()> {
        launch(device, (SHADER, "decide"), &[], [1; 3], x, &self.params(x))
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/step_guard.cu");

impl StepOn<Cuda> for StepGuard {
    fn run(&self, device: &Cuda, x: &[&Tensor]) -> Result<()> {
        launch_with(device, 32, (KERNEL, "step_guard"), &[], [1; 3], x, &self.params(x))
    }
}

impl StepGuard {
    fn params(&self, x: &[&Tensor]) -> [u32; 4] {
        [self.first as u32, self.last as u32, x[2].spec.len() as u32, x[5].spec.len() as u32]
    }
}

fn textbook(op: &dyn Debug, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (first, last) = (format!("{op:?}").contains("first: true"), format!("{op:?}").contains("last: true"));
    let mut y = x.to_vec();
    y[1][0] = x[0][0] + if first { 0.0 } else { x[1][0] };
    if last {
        let (skipped, f) = (x[3][0] as usize, x[2].len() - 3);
        let factors = &x[4][3 + f * skipped..][..f];
        y[2] = [&[x[2][0] * x[4][1], x[4][0], x[4][1]], factors].concat();
        let slot = 2 * x[4][2] as usize;
        (y[5][slot], y[5][slot + 1]) = (y[1][0], y[2][0]);
    }
    y
}

/// The first, a middle and the last of several losses, with no step and with two steps skipped before, and an
/// update without factors. Numbers that are not finite are tried in `tests/all/optim.rs`: a case must have
/// finite results.
pub fn cases() -> Vec<Case> {
    let case = |label, first, last, skips: u32, factors: &[f64]| Case {
        label,
        subject: Subject::Step(Box::new(StepGuard { first, last }), textbook),
        inputs: vec![
            Input::real(&[1]),
            Input::real(&[1]),
            Input::fixed(
                &[3 + factors.len() / 3],
                &[&[2.5, 9.0, 8.0], &vec![7.0; factors.len() / 3][..]].concat(),
            ),
            Input::ints(&[skips]),
            Input::fixed(&[3 + factors.len()], &[&[0.5, 0.03125, 2.0], factors].concat()),
            Input::real(&[6]),
        ],
        slack: 1.0,
        half_slack: 1.0,
    };
    let two = [0.25, 0.125, 0.75, 0.0625, 0.875, 0.375];
    vec![
        case("first of several", true, false, 0, &two),
        case("one of several", false, false, 0, &two),
        case("the only one", true, true, 0, &two),
        case("last, after two skipped steps", false, true, 2, &two),
        case("one factor, after a skipped step", false, true, 1, &two[..3]),
        case("no factors", true, true, 2, &[]),
    ]
}
