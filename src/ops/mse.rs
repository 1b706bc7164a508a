//! loss = scale * sum (p - t)^2, over all elements.
//!
//! predictions p (rows, C), targets t (rows, C), scale (1) -> loss (1). With scale = 1 / (rows C) it is
//! PyTorch's `mse_loss` with reduction "mean". Nothing is saved.

use super::{
    Backward, Call, Case, Cost, Forward, Input, On, Op, Plan, accumulator, blocks_for, by_dtype,
    compute_dtype_beside, groups_for, launch, launch_cuda, refuse,
};
use crate::device::cpu::{Real, sum_lanes, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Wgpu};
use crate::error::Result;
use crate::shape::Spec;

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Mse;

impl Op for Mse {
    fn name(&self) -> &'static str {
        "mse"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        match x {
            [a, b, scale] if a.shape == b.shape && scale.shape == [1] => {
                let sums = accumulator(compute_dtype_beside("mse", caps, x, &[1, 2])?);
                Ok(Plan::new(vec![Spec::new(sums, &[1])], vec![]))
            }
            _ => Err(refuse("mse", "predictions (rows, C), targets (rows, C), scale (1)", x)),
        }
    }
    fn cost(&self, call: &Call) -> Cost {
        let n = call.len(0);
        // p - t, its square, the sum, the scale; p - t times the rate, which is 2 dloss scale.
        let flops = [3.0 * n + 1.0, 2.0 * n + 2.0 + call.all_sums()];
        let inputs: f64 = (0..3).map(|i| call.input(i)).sum();
        Cost::new(flops, [call.whole(), inputs + call.dy() + call.all_dense()])
    }
}

impl On<Cpu> for Mse {
    fn forward(&self, _: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, forward(io))
    }
    fn backward(&self, _: &Cpu, io: Backward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, backward(io))
    }
}

fn forward<T: Real>(io: Forward) -> Result<()> {
    let (p, t, scale) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?, io.x[2].cpu::<T>()?[0]);
    io.y[0].cpu_mut::<T>()?[0] = scale * vectorise!(sum_lanes(p.len(), |i| (p[i] - t[i]) * (p[i] - t[i])));
    Ok(())
}

/// dp = 2 dloss scale (p - t).
fn backward<T: Real>(io: Backward) -> Result<()> {
    let Some(g) = io.dx(0) else { return Ok(()) };
    let (p, t) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?);
    let scale = T::of(2.0) * io.x[2].cpu::<T>()?[0] * io.dy()?.cpu::<T>()?[0];
    let mut dx = g.t.cpu_mut::<T>()?;
    for ((dx, &p), &t) in dx.iter_mut().zip(&p[..]).zip(&t[..]) {
        let d = scale * (p - t);
        *dx = if g.add { *dx + d } else { d };
    }
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/mse.wgsl");

impl On<Wgpu> for Mse {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let x = io.x;
        let params = [x[0].spec.len() as u32, 0];
        launch(device, (SHADER, "forward"), &[], [1; 3], &[x[0], x[1], x[2], io.y[0], x[0]], &params)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let (Some(g), x) = (io.dx(0), io.x) else { return Ok(()) };
        let n = x[0].spec.len();
        let buffers = [x[0], x[1], x[2], io.dy()?, g.t];
        launch(device, (SHADER, "backward"), &[], groups_for(n), &buffers, &[n as u32, g.add as u32])
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/mse.cu");

impl On<Cuda> for Mse {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let (x, dtype) = (io.x, Const::Type(io.x[0].spec.dtype));
        let params = [x[0].spec.len() as u32, 0];
        let (consts, buffers) = ([("T", dtype), ("G", dtype)], [x[0], x[1], x[2], io.y[0]]);
        launch_cuda(device, (KERNEL, "mse_forward"), &consts, [1; 3], &buffers, &params)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let (Some(g), x) = (io.dx(0), io.x) else { return Ok(()) };
        let n = x[0].spec.len();
        let consts = [("T", Const::Type(x[0].spec.dtype)), ("G", Const::Type(g.t.spec.dtype))];
        let (buffers, params) = ([x[0], x[1], x[2], io.dy()?, g.t], [n as u32, g.add as u32]);
        launch_cuda(device, (KERNEL, "mse_backward"), &consts, blocks_for(n), &buffers, &params)
    }
}

/// Edge cases: one element, more than the lanes of a sum, no rows.
pub fn cases() -> Vec<Case> {
    let case = |label, shape: [usize; 2]| {
        let t: Vec<f64> = (0..shape[0] * shape[1]).map(|i| i as f64 * 0.3 - 1.0).collect();
        Case::new(label, Mse, vec![Input::real(&shape), Input::fixed(&shape, &t), Input::fixed(&[1], &[0.7])])
    };
    vec![
        case("small", [2, 3]),
        case("one", [1, 1]),
        case("more than the lanes", [37, 1]),
        case("no rows", [0, 2]),
    ]
}
