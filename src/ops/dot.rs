//! `y_i = sum_c u_ic v_ic`: the inner product of corresponding rows.
//!
//! u, v (rows, cols) -> y (rows, 1). For rows of unit length it is the cosine similarity. Nothing is saved.

use super::{
    Backward, CUDA_THREADS, Call, Case, Cost, Forward, Input, On, Op, Plan, blocks_for, by_dtype,
    compute_dtype, groups_for, launch, launch_cuda, refuse,
};
use crate::device::cpu::{Real, sum_lanes, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::Spec;

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Dot;

impl Op for Dot {
    fn name(&self) -> &'static str {
        "dot"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let [u, v] = x else { return Err(refuse("dot", "u and v (rows, cols)", x)) };
        if u.shape != v.shape {
            return Err(refuse("dot", "u and v of one shape (rows, cols)", x));
        }
        let y = Spec::new(compute_dtype("dot", caps, x)?, &[u.rows_cols().0, 1]);
        Ok(Plan::new(vec![y], vec![]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let n = call.len(0);
        // du = dy v and dv = dy u: each needs only the other input.
        let [du, dv] = [0, 1].map(|i| call.wants(i) as u8 as f64);
        let read = call.dy() + du * call.input(1) + dv * call.input(0);
        let backward = (du + dv) * n + call.all_sums();
        Cost::new([2.0 * n, backward], [call.whole(), read + call.all_dense()])
    }
}

impl On<Cpu> for Dot {
    fn forward(&self, _: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, forward(io))
    }
    fn backward(&self, _: &Cpu, io: Backward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, backward(io))
    }
}

fn forward<T: Real>(io: Forward) -> Result<()> {
    let cols = io.x[0].spec.rows_cols().1;
    let (u, v, mut y) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?, io.y[0].cpu_mut::<T>()?);
    for ((u, v), y) in u.chunks_exact(cols).zip(v.chunks_exact(cols)).zip(y.iter_mut()) {
        *y = vectorise!(sum_lanes(cols, |c| u[c] * v[c]));
    }
    Ok(())
}

/// du = dy v, dv = dy u.
fn backward<T: Real>(io: Backward) -> Result<()> {
    let cols = io.x[0].spec.rows_cols().1;
    let dy = io.dy()?.cpu::<T>()?;
    for i in 0..2 {
        let Some(g) = io.dx(i) else { continue };
        let (other, mut dx) = (io.x[1 - i].cpu::<T>()?, g.t.cpu_mut::<T>()?);
        let rows = other.chunks_exact(cols).zip(dx.chunks_exact_mut(cols)).zip(&dy[..]);
        for ((other, dx), &dy) in rows {
            for (dx, &other) in dx.iter_mut().zip(other) {
                *dx = if g.add { *dx + dy * other } else { dy * other };
            }
        }
    }
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/dot.wgsl");

fn params(x: &Tensor, add: bool) -> [u32; 3] {
    let (rows, cols) = x.spec.rows_cols();
    [rows as u32, cols as u32, add as u32]
}

impl On<Wgpu> for Dot {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let (buffers, p) = ([io.x[0], io.x[1], io.y[0]], params(io.x[0], false));
        launch(device, (SHADER, "forward"), &[], groups_for(io.y[0].spec.len()), &buffers, &p)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        for i in 0..2 {
            let Some(g) = io.dx(i) else { continue };
            let (buffers, p) = ([io.x[1 - i], g.t, io.dy()?], params(io.x[0], g.add));
            launch(device, (SHADER, "backward"), &[], groups_for(g.t.spec.len()), &buffers, &p)?;
        }
        Ok(())
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/dot.cu");

impl On<Cuda> for Dot {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let (x, y) = (io.x[0], io.y[0]);
        let consts = [("T", Const::Type(x.spec.dtype)), ("G", Const::Type(y.spec.dtype))];
        let groups = [x.spec.rows_cols().0.div_ceil(CUDA_THREADS as usize / 32) as u32, 1, 1];
        launch_cuda(device, (KERNEL, "dot_forward"), &consts, groups, &[x, io.x[1], y], &params(x, false))
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        for i in 0..2 {
            let Some(g) = io.dx(i) else { continue };
            let (other, p) = (io.x[1 - i], params(io.x[0], g.add));
            let consts = [("T", Const::Type(other.spec.dtype)), ("G", Const::Type(g.t.spec.dtype))];
            let buffers = [other, io.dy()?, g.t];
            launch_cuda(device, (KERNEL, "dot_backward"), &consts, blocks_for(g.t.spec.len()), &buffers, &p)?;
        }
        Ok(())
    }
}

/// Edge cases: one column, more columns than a warp, more rows than a block, none.
pub fn cases() -> Vec<Case> {
    let case =
        |label, shape: [usize; 2]| Case::new(label, Dot, vec![Input::real(&shape), Input::real(&shape)]);
    vec![
        case("small", [3, 5]),
        case("one column", [4, 1]),
        case("wide", [2, 67]),
        case("many rows", [131, 8]),
        case("no rows", [0, 4]),
    ]
}
