//! loss = scale * sum v_r (p_rc - t_rc)^2, over all elements.
//!
//! predictions p (rows, C), targets t (rows, C), scale (1), and if given row weights v (rows) -> loss (1).
//! Rows with weight 0 count nothing. With scale = 1 / (rows C) and no weights it is PyTorch's `mse_loss` with
//! reduction "mean". Nothing is saved.

use super::{
    Backward, Call, Case, Cost, Forward, Input, On, Op, Plan, accumulator, blocks_for, by_dtype,
    compute_dtype_beside, groups_for, launch, launch_cuda, refuse,
};
use crate::device::cpu::{Real, Slice, sum_lanes, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu};
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
        const EXPECTED: &str = "predictions (rows, C), targets (rows, C), scale (1), weights (rows) or none";
        let [a, b, scale, weights @ ..] = x else { return Err(refuse("mse", EXPECTED, x)) };
        let weights_fit = match weights {
            [] => true,
            [weights] => weights.shape == [a.rows_cols().0],
            _ => false,
        };
        if a.shape != b.shape || scale.shape != [1] || !weights_fit {
            return Err(refuse("mse", EXPECTED, x));
        }
        let sums = accumulator(compute_dtype_beside("mse", caps, x, &[1, 2, 3])?);
        Ok(Plan::new(vec![Spec::new(sums, &[1])], vec![]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let n = call.len(0);
        // p - t, its square, times the row's weight, the sum, the scale; p - t times the rate, which is 2
        // dloss scale, and the weight.
        let weight = call.x.len().saturating_sub(3) as f64;
        let flops = [(3.0 + weight) * n + 1.0, (2.0 + weight) * n + 2.0 + call.all_sums()];
        let inputs: f64 = (0..call.x.len()).map(|i| call.input(i)).sum();
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

/// A number times a weight; 0 for weight 0 whatever the number is.
#[inline(always)]
fn weighed<T: Real>(w: T, v: T) -> T {
    if w == T::ZERO { T::ZERO } else { w * v }
}

/// The row weights, if there are any.
fn row_weights<'a, T: Real>(x: &[&'a Tensor]) -> Result<Option<Slice<'a, T>>> {
    x.get(3).map(|w| w.cpu::<T>()).transpose()
}

fn forward<T: Real>(io: Forward) -> Result<()> {
    let (p, t, scale) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?, io.x[2].cpu::<T>()?[0]);
    let cols = io.x[0].spec.rows_cols().1;
    let square = |i: usize| (p[i] - t[i]) * (p[i] - t[i]);
    let sum = match row_weights::<T>(io.x)? {
        None => vectorise!(sum_lanes(p.len(), square)),
        Some(w) => vectorise!(sum_lanes(p.len(), |i| weighed(w[i / cols], square(i)))),
    };
    io.y[0].cpu_mut::<T>()?[0] = scale * sum;
    Ok(())
}

/// dp = 2 dloss scale v (p - t).
fn backward<T: Real>(io: Backward) -> Result<()> {
    let Some(g) = io.dx(0) else { return Ok(()) };
    let (p, t) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?);
    let scale = T::of(2.0) * io.x[2].cpu::<T>()?[0] * io.dy()?.cpu::<T>()?[0];
    let (w, cols) = (row_weights::<T>(io.x)?, io.x[0].spec.rows_cols().1);
    let mut dx = g.t.cpu_mut::<T>()?;
    for (i, ((dx, &p), &t)) in dx.iter_mut().zip(&p[..]).zip(&t[..]).enumerate() {
        let d = scale * (p - t);
        let d = w.as_ref().map_or(d, |w| weighed(w[i / cols], d));
        *dx = if g.add { *dx + d } else { d };
    }
    Ok(())
}

/// Elements, columns, whether to add.
fn params(p: &Tensor, add: bool) -> [u32; 3] {
    [p.spec.len() as u32, p.spec.rows_cols().1 as u32, add as u32]
}

/// Whether there are row weights, and what is bound for them: another tensor, which no kernel reads, where
/// there are none.
fn weights_or_scale<'a>(x: &[&'a Tensor]) -> ((&'static str, u32), &'a Tensor) {
    (("ROW_WEIGHTED", x.get(3).is_some() as u32), x.get(3).unwrap_or(&x[2]))
}

pub(super) const SHADER: &str = include_str!("../../shaders/mse.wgsl");

impl On<Wgpu> for Mse {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let (x, (weighted, weights)) = (io.x, weights_or_scale(io.x));
        let buffers = [x[0], x[1], x[2], io.y[0], x[0], weights];
        launch(device, (SHADER, "forward"), &[weighted], [1; 3], &buffers, &params(x[0], false))
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let (Some(g), x) = (io.dx(0), io.x) else { return Ok(()) };
        let (groups, (weighted, weights)) = (groups_for(x[0].spec.len()), weights_or_scale(x));
        let buffers = [x[0], x[1], x[2], io.dy()?, g.t, weights];
        launch(device, (SHADER, "backward"), &[weighted], groups, &buffers, &params(x[0], g.add))
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/mse.cu");

/// The types of both passes, and whether there are row weights.
fn consts(p: &Tensor, g: &Tensor, (name, weighted): (&'static str, u32)) -> [(&'static str, Const); 3] {
    [("T", Const::Type(p.spec.dtype)), ("G", Const::Type(g.spec.dtype)), (name, Const::U32(weighted))]
}

impl On<Cuda> for Mse {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let (x, (weighted, weights)) = (io.x, weights_or_scale(io.x));
        let (consts, buffers) = (consts(x[0], x[0], weighted), [x[0], x[1], x[2], weights, io.y[0]]);
        launch_cuda(device, (KERNEL, "mse_forward"), &consts, [1; 3], &buffers, &params(x[0], false))
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let (Some(g), x) = (io.dx(0), io.x) else { return Ok(()) };
        let (blocks, (weighted, weights)) = (blocks_for(x[0].spec.len()), weights_or_scale(x));
        let (consts, params) = (consts(x[0], g.t, weighted), params(x[0], g.add));
        let buffers = [x[0], x[1], x[2], weights, io.dy()?, g.t];
        launch_cuda(device, (KERNEL, "mse_backward"), &consts, blocks, &buffers, &params)
    }
}

/// Edge cases: one element, more than the lanes of a sum, no rows, rows of weight 0.
pub fn cases() -> Vec<Case> {
    let case = |label, shape: [usize; 2]| {
        let t: Vec<f64> = (0..shape[0] * shape[1]).map(|i| i as f64 * 0.3 - 1.0).collect();
        Case::new(label, Mse, vec![Input::real(&shape), Input::fixed(&shape, &t), Input::fixed(&[1], &[0.7])])
    };
    let weighted = |label, shape: [usize; 2]| {
        let weights: Vec<f64> = (0..shape[0]).map(|i| [0.5, 0.0, 3.0, 1.25][i % 4]).collect();
        let mut case = case(label, shape);
        case.inputs.push(Input::fixed(&shape[..1], &weights));
        case
    };
    vec![
        weighted("row weights", [37, 1]),
        weighted("row weights, several columns", [5, 3]),
        weighted("row weights, no rows", [0, 2]),
        case("small", [2, 3]),
        case("one", [1, 1]),
        case("more than the lanes", [37, 1]),
        case("no rows", [0, 2]),
    ]
}
