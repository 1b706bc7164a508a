//! copy = value, rounded to the type of the copy: what kernels read of the weights where they compute in 16
//! bits.
//!
//! value (n), copy (n) of any floating-point type: the copy is written. To the nearest, ties to even.

use super::{Call, Case, Cost, Input, Step, StepOn, Subject, launch, launch_with, refuse, step_dtype};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu, fold};
use crate::error::{Error, Result};
use crate::shape::Spec;
use std::fmt::Debug;

/// The step; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Cast;

impl Step for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }
    fn check(&self, caps: &Caps, x: &[&Spec]) -> Result<()> {
        let [value, copy] = x else { return Err(refuse("cast", "value (n), copy (n)", x)) };
        if value.shape != copy.shape {
            return Err(refuse("cast", "value (n), copy (n)", x));
        }
        step_dtype("cast", caps, &[value])?;
        caps.require("cast", copy.dtype)
    }
    fn cost(&self, call: &Call) -> Cost {
        Cost::step(0.0, call.whole())
    }
}

impl StepOn<Cpu> for Cast {
    fn run(&self, cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
        cpu.convert(x[0], x[1])
    }
}

pub(super) const SHADER: &str = include_str!("../../shaders/cast.wgsl");

impl StepOn<Wgpu> for Cast {
    fn run(&self, device: &Wgpu, x: &[&Tensor]) -> Result<()> {
        if x[0].spec.bytes() > device.binding_bytes() {
            return Err(Error::memory(format!(
                "the weights ({} bytes) are larger than a buffer that the adapter can bind",
                x[0].spec.bytes()
            ))
            .with_expected(format!("at most {} bytes", device.binding_bytes()))
            .with_help("set precision = \"f32\", choose a smaller model, or another --device"));
        }
        let n = x[0].spec.len();
        launch(device, (SHADER, "copy"), &[], fold(n.div_ceil(64)), x, &[n as u32])
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/cast.cu");

impl StepOn<Cuda> for Cast {
    fn run(&self, device: &Cuda, x: &[&Tensor]) -> Result<()> {
        const THREADS: u32 = 256;
        let n = x[0].spec.len() as u64;
        let groups = [n.div_ceil(8 * u64::from(THREADS)) as u32, 1, 1];
        let consts = [("C", Const::Type(x[1].spec.dtype))];
        let params = [n as u32, (n >> 32) as u32];
        launch_with(device, THREADS, (KERNEL, "cast_copy"), &consts, groups, x, &params)
    }
}

fn textbook(_: &dyn Debug, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    vec![x[0].clone(), x[0].clone()]
}

/// Edge cases: one element, an odd number, more than a group.
pub fn cases() -> Vec<Case> {
    [("one", 1), ("odd", 37), ("more than a group", 5003)]
        .map(|(label, n)| Case {
            label,
            subject: Subject::Step(Box::new(Cast), textbook),
            inputs: vec![Input::real(&[n]), Input::real(&[n])],
            slack: 1.0,
            half_slack: 1.0,
        })
        .into()
}
