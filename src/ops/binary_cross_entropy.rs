//! loss = scale * sum (max(z, 0) - z t + log(1 + exp(-|z|))), over all elements.
//!
//! logits z (rows, C), targets t (rows, C), scale (1) -> loss (1). PyTorch's `binary_cross_entropy_with_logits`; with
//! scale = 1 / (rows C) its reduction "mean". Nothing is saved.

use super::{
    Backward, Case, Forward, Input, On, Op, Plan, accumulator, blocks_for, by_dtype, compute_dtype_beside,
    groups_for, launch, launch_cuda, refuse,
};
use crate::device::cpu::{Real, sum_lanes, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Wgpu};
use crate::error::Result;
use crate::shape::Spec;

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct BinaryCrossEntropy;

impl Op for BinaryCrossEntropy {
    fn name(&self) -> &'static str {
        "binary_cross_entropy"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        plan_pair("binary_cross_entropy", caps, x, 6.0)
    }
}

/// The plan of a loss over pairs of elements: two tensors of one shape and a scale in, one number out.
pub(super) fn plan_pair(op: &'static str, caps: &Caps, x: &[&Spec], flops: f64) -> Result<Plan> {
    match x {
        [a, b, scale] if a.shape == b.shape && scale.shape == [1] => {
            let n = a.len() as f64 * flops;
            let sums = accumulator(compute_dtype_beside(op, caps, x, &[1, 2])?);
            let mut plan = Plan::new(x, vec![Spec::new(sums, &[1])], vec![], [n, n]);
            // Targets and scale have no gradient.
            plan.cost.backward_bytes -= (b.bytes() + scale.bytes()) as f64;
            Ok(plan)
        }
        _ => Err(refuse(op, "outputs (rows, C), targets (rows, C), scale (1)", x)),
    }
}

impl On<Cpu> for BinaryCrossEntropy {
    fn forward(&self, _: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, forward(io))
    }
    fn backward(&self, _: &Cpu, io: Backward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, backward(io))
    }
}

fn forward<T: Real>(io: Forward) -> Result<()> {
    let (z, t, scale) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?, io.x[2].cpu::<T>()?[0]);
    let one = |i: usize| {
        let (z, t) = (z[i], t[i]);
        let abs = if z < T::ZERO { -z } else { z };
        T::ZERO.larger(z) - z * t + (T::ONE + (-abs).exp()).ln()
    };
    io.y[0].cpu_mut::<T>()?[0] = scale * vectorise!(sum_lanes(z.len(), one));
    Ok(())
}

/// dz = dloss scale (sigmoid(z) - t).
fn backward<T: Real>(io: Backward) -> Result<()> {
    let Some(g) = io.dx(0) else { return Ok(()) };
    let (z, t) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?);
    let scale = io.x[2].cpu::<T>()?[0] * io.dy()?.cpu::<T>()?[0];
    let mut dx = g.t.cpu_mut::<T>()?;
    for ((dx, &z), &t) in dx.iter_mut().zip(&z[..]).zip(&t[..]) {
        let d = scale * (T::ONE / (T::ONE + (-z).exp()) - t);
        *dx = if g.add { *dx + d } else { d };
    }
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/binary_cross_entropy.wgsl");

impl On<Wgpu> for BinaryCrossEntropy {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        pair_forward(device, SHADER, io)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        pair_backward(device, SHADER, io)
    }
}

/// The forward pass of a loss over pairs of elements.
pub(super) fn pair_forward(device: &Wgpu, shader: &'static str, io: Forward) -> Result<()> {
    let x = io.x;
    let params = [x[0].spec.len() as u32, 0];
    launch(device, (shader, "forward"), &[], [1; 3], &[x[0], x[1], x[2], io.y[0], x[0]], &params)
}

/// Its backward pass.
pub(super) fn pair_backward(device: &Wgpu, shader: &'static str, io: Backward) -> Result<()> {
    let (Some(g), x) = (io.dx(0), io.x) else { return Ok(()) };
    let n = x[0].spec.len();
    let buffers = [x[0], x[1], x[2], io.dy()?, g.t];
    launch(device, (shader, "backward"), &[], groups_for(n), &buffers, &[n as u32, g.add as u32])
}

pub(super) const KERNEL: &str = include_str!("../../kernels/binary_cross_entropy.cu");

impl On<Cuda> for BinaryCrossEntropy {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        pair_forward_cuda(device, (KERNEL, "binary_cross_entropy_forward"), io)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        pair_backward_cuda(device, (KERNEL, "binary_cross_entropy_backward"), io)
    }
}

/// The forward pass of a loss over pairs of elements, on CUDA.
pub(super) fn pair_forward_cuda(
    device: &Cuda,
    kernel: (&'static str, &'static str),
    io: Forward,
) -> Result<()> {
    let (x, dtype) = (io.x, Const::Type(io.x[0].spec.dtype));
    let params = [x[0].spec.len() as u32, 0];
    let buffers = [x[0], x[1], x[2], io.y[0]];
    launch_cuda(device, kernel, &[("T", dtype), ("G", dtype)], [1; 3], &buffers, &params)
}

/// Its backward pass.
pub(super) fn pair_backward_cuda(
    device: &Cuda,
    kernel: (&'static str, &'static str),
    io: Backward,
) -> Result<()> {
    let (Some(g), x) = (io.dx(0), io.x) else { return Ok(()) };
    let n = x[0].spec.len();
    let consts = [("T", Const::Type(x[0].spec.dtype)), ("G", Const::Type(g.t.spec.dtype))];
    let buffers = [x[0], x[1], x[2], io.dy()?, g.t];
    launch_cuda(device, kernel, &consts, blocks_for(n), &buffers, &[n as u32, g.add as u32])
}

/// Cases chosen to hurt: large logits of both signs, soft targets, more elements than lanes, no rows.
pub fn cases() -> Vec<Case> {
    let case = |label, shape: [usize; 2], range: f64| {
        let n = shape[0] * shape[1];
        let t: Vec<f64> = (0..n).map(|i| [0.0, 1.0, 0.25][i % 3]).collect();
        let z = Input { shape: shape.to_vec(), fill: super::Fill::Real(-range, range) };
        Case::new(label, BinaryCrossEntropy, vec![z, Input::fixed(&shape, &t), Input::fixed(&[1], &[0.4])])
    };
    vec![
        case("small", [2, 3], 1.0),
        case("large logits", [5, 7], 30.0),
        case("one", [1, 1], 2.0),
        case("no rows", [0, 4], 1.0),
    ]
}
