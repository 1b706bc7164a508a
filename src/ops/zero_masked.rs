//! t = 0 where a pruning mask is 0: of the gradient of a masked weight, of the weight and of its moments.
//!
//! t (rows, cols), m (rows / r, cols / c): t is written. An element of the mask belongs to a block of r x c
//! elements as in [`WeightMask`](super::mask::WeightMask). An infinite or undefined element becomes 0 too.
//!
//! A weight that is stored as 0 where it is masked needs no product with its mask in the forward pass, and
//! with a gradient and moments of 0 every update rule leaves it at 0.

use super::mask::MaskSizes;
use super::{
    Call, Case, Cost, Fill, Input, Step, StepOn, Subject, blocks_for, by_dtype, groups_for, launch,
    launch_cuda, refuse, step_dtype,
};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{Real, vectorise};
use crate::device::{Caps, Cpu, Cuda, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::Spec;
use std::fmt::Debug;

/// The step; see the module.
#[derive(Clone, Copy, Debug)]
pub struct ZeroMasked;

impl Step for ZeroMasked {
    fn name(&self) -> &'static str {
        "zero_masked"
    }
    fn check(&self, caps: &Caps, x: &[&Spec]) -> Result<()> {
        let wrong =
            || refuse("zero_masked", "t (rows, cols) and m (rows / r, cols / c) for whole r and c", x);
        let [t, m] = x else { return Err(wrong()) };
        MaskSizes::check(t, m).ok_or_else(wrong)?;
        step_dtype("zero_masked", caps, x).map(drop)
    }
    fn cost(&self, call: &Call) -> Cost {
        // One selection; t is read and written.
        Cost::step(call.len(0), 2.0 * call.input(0) + call.input(1))
    }
}

impl StepOn<Cpu> for ZeroMasked {
    fn run(&self, cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
        by_dtype!(x[0].spec.dtype, run(cpu, x))
    }
}

fn run<T: Real>(cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
    let s = MaskSizes::of(x[0], x[1]);
    let (mut t, m) = (x[0].cpu_mut::<T>()?, x[1].cpu::<T>()?);
    let [r, c] = s.block;
    let task = |(row, t): (usize, &mut [T])| {
        let m = &m[row / r * s.across..][..s.across];
        vectorise!({
            let put = |t: &mut T, m: T| *t = if m == T::ZERO { T::ZERO } else { *t };
            if c == 1 {
                t.iter_mut().zip(m).for_each(|(t, &m)| put(t, m));
            } else {
                t.chunks_mut(c).zip(m).for_each(|(t, &m)| t.iter_mut().for_each(|t| put(t, m)));
            }
        })
    };
    cpu.install(|| t.par_chunks_mut(s.cols.max(1)).enumerate().with_min_len(8).for_each(task));
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/zero_masked.wgsl");

impl StepOn<Wgpu> for ZeroMasked {
    fn run(&self, device: &Wgpu, x: &[&Tensor]) -> Result<()> {
        let s = MaskSizes::of(x[0], x[1]);
        launch(device, (SHADER, "zero_masked"), &[], groups_for(s.rows * s.cols), x, &s.layout())
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/zero_masked.cu");

impl StepOn<Cuda> for ZeroMasked {
    fn run(&self, device: &Cuda, x: &[&Tensor]) -> Result<()> {
        let s = MaskSizes::of(x[0], x[1]);
        launch_cuda(device, (KERNEL, "zero_masked"), &[], blocks_for(s.rows * s.cols), x, &s.layout())
    }
}

/// What stays of t, if `at` is the place of an element's mask.
fn selected(x: &[Vec<f64>], at: impl Fn(usize) -> usize) -> Vec<Vec<f64>> {
    let t = x[0].iter().enumerate().map(|(i, &t)| if x[1][at(i)] == 0.0 { 0.0 } else { t });
    vec![t.collect(), x[1].clone()]
}

/// Where an element of the mask belongs to adjacent elements of t.
fn textbook(_: &dyn Debug, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    selected(x, |i| i / (x[0].len() / x[1].len()))
}

/// The sizes of the case of columns: columns of t, and of a block.
const COLUMNS: [usize; 2] = [48, 16];

/// Where an element of the mask belongs to columns of every row.
fn textbook_columns(_: &dyn Debug, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    selected(x, |i| i % COLUMNS[0] / COLUMNS[1])
}

/// Edge cases: elements, rows, a block of rows, columns of all rows, all masked, none masked, several tasks.
pub fn cases() -> Vec<Case> {
    let case = |label, t: [usize; 2], m: [usize; 2], masked: &[f64]| {
        let textbook = if m[0] == 1 && t[0] > 1 { textbook_columns } else { textbook };
        let count = m[0] * m[1];
        let mask: Vec<f64> = masked.iter().copied().cycle().take(count).collect();
        Case {
            label,
            subject: Subject::Step(Box::new(ZeroMasked), textbook),
            inputs: vec![Input { shape: t.to_vec(), fill: Fill::Real(-2.0, 2.0) }, Input::fixed(&m, &mask)],
            slack: 1.0,
            half_slack: 1.0,
        }
    };
    vec![
        case("elements", [5, 7], [5, 7], &[1.0, 0.0, 0.0]),
        case("elements, several tasks", [70, 16], [70, 16], &[0.0, 1.0, 1.0, 0.0, 1.0]),
        case("rows", [6, 37], [6, 1], &[1.0, 0.0]),
        case("heads of a projection", [24, 40], [3, 1], &[0.0, 1.0]),
        case(
            "heads of an output projection",
            [10, COLUMNS[0]],
            [1, COLUMNS[0] / COLUMNS[1]],
            &[1.0, 0.0, 1.0],
        ),
        case("columns of one row", [1, 12], [1, 4], &[1.0, 0.0, 0.0]),
        case("all masked", [6, 24], [6, 24], &[0.0]),
        case("none masked", [3, 33], [3, 33], &[1.0]),
    ]
}
