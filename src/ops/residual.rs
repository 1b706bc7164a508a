//! y = drop(x) + residual: the stream that pre-norm layers add to.
//!
//! x, residual (rows, cols), key u32 (5) if there is dropout -> y (rows, cols). Nothing is saved. Where a
//! norm follows and the sum itself is not needed again, `add_norm` does both.

use super::dropout::{Dropout, DropoutRows};
use super::{
    Backward, Call, Case, Cost, Forward, Grad, Input, On, Op, Plan, blocks_for, compute_dtype, groups_for,
    launch, launch_cuda, refuse, vector,
};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{BLOCK, Real, Scalar, by_gradient, by_scalar, inlined, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::{DType, Spec};

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Residual {
    /// Dropout on x.
    pub dropout: Option<Dropout>,
}

impl Op for Residual {
    fn name(&self) -> &'static str {
        "residual"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let wrong = || refuse("residual", "x, residual (rows, cols), key u32 (5) as set", x);
        let [input, residual, key @ ..] = x else { return Err(wrong()) };
        let keyed = key.len() == self.dropout.is_some() as usize
            && key.iter().all(|k| k.dtype == DType::U32 && k.shape == [5]);
        if input.shape != residual.shape || !keyed {
            return Err(wrong());
        }
        compute_dtype("residual", caps, x)?;
        Ok(Plan::new(vec![(*input).clone()], vec![]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let n = call.len(0);
        let mask = if self.dropout.is_some_and(|d| d.active()) { n } else { 0.0 };
        // Backward needs neither of the inputs, and the residual's gradient is dy itself.
        let backward = if call.wants(0) { mask } else { 0.0 } + call.all_sums();
        let read = call.dy() + call.input(2);
        Cost::new([mask + n, backward], [call.whole(), read + call.all_dense()])
    }
    fn reads_half(&self) -> bool {
        true
    }
}

impl On<Cpu> for Residual {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_scalar!(io.x[0].spec.dtype, T => forward::<T>(self, cpu, io))
    }
    /// dx = drop(dy), dresidual = dy.
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        let plain = Residual { dropout: None };
        [(0, self), (1, &plain)].into_iter().filter_map(|(i, op)| Some((op, io.dx(i)?))).try_for_each(
            |(op, g)| {
                by_gradient!(io.x[0].spec.dtype, g.t.spec.dtype, (T, G) => backward::<T, G>(op, cpu, io, g))
            },
        )
    }
}

fn forward<T: Scalar>(op: &Residual, cpu: &Cpu, io: Forward) -> Result<()> {
    let (x, residual, mut y) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?, io.y[0].cpu_mut::<T>()?);
    let begin = |at: usize, y: &mut [T]| y.copy_from_slice(&residual[at..][..y.len()]);
    add_dropped(op, cpu, io.x, &x, &mut y, begin)
}

fn backward<T: Scalar, G: Scalar<Real = T::Real>>(
    op: &Residual,
    cpu: &Cpu,
    io: Backward,
    g: Grad,
) -> Result<()> {
    let (dy, mut dx) = (io.dy()?.cpu::<T>()?, g.t.cpu_mut::<G>()?);
    let begin = |_: usize, dx: &mut [G]| {
        if !g.add {
            dx.fill(G::zeroed());
        }
    };
    add_dropped(op, cpu, io.x, &dy, &mut dx, begin)
}

/// to += drop(from), after `begin` has filled each block of `to`, which it gets with the index of its first
/// element.
fn add_dropped<T: Scalar, G: Scalar<Real = T::Real>>(
    op: &Residual,
    cpu: &Cpu,
    x: &[&Tensor],
    from: &[T],
    to: &mut [G],
    begin: impl Fn(usize, &mut [G]) + Sync,
) -> Result<()> {
    let cols = x[0].spec.rows_cols().1;
    let key = x.get(2).map(|k| k.cpu::<u32>()).transpose()?;
    let mask = op.dropout.filter(Dropout::active).zip(key.as_deref()).map(|(d, k)| d.mask::<T::Real>(k));
    let task = |(b, (to, from)): (usize, (&mut [G], &[T]))| {
        begin(b * BLOCK * cols, to);
        vectorise!({
            for (r, (to, from)) in to.chunks_exact_mut(cols).zip(from.chunks_exact(cols)).enumerate() {
                match &mask {
                    Some(m) => m.row(
                        b * BLOCK + r,
                        0,
                        cols,
                        inlined!(|c: usize, m: &[T::Real]| {
                            let here = to[c..][..m.len()].iter_mut().zip(&from[c..][..m.len()]);
                            here.zip(m).for_each(|((to, from), &m)| {
                                *to = G::store(from.load().mul_add(m, to.load()))
                            });
                        }),
                    ),
                    None => {
                        to.iter_mut().zip(from).for_each(|(t, f)| *t = G::store(t.load() + f.load()));
                    }
                }
            }
        })
    };
    cpu.install(|| {
        to.par_chunks_mut(BLOCK * cols).zip(from.par_chunks(BLOCK * cols)).enumerate().for_each(task)
    });
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/residual.wgsl");

impl Residual {
    /// The words of the kernels' `Params`; `add` is for x and the residual.
    fn params(&self, x: &Tensor, add: [bool; 2]) -> [u32; 8] {
        let ((rows, cols), [a, b, c, d]) = (x.spec.rows_cols(), Dropout::words(self.dropout));
        [a, b, c, d, rows as u32, cols as u32, add[0] as u32, add[1] as u32]
    }
}

impl On<Wgpu> for Residual {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let (rows, cols) = io.x[0].spec.rows_cols();
        let key = io.x.get(2).copied().unwrap_or(io.x[0]);
        let params = self.params(io.x[0], [false; 2]);
        let consts = [("DX", 1), ("DRES", 1)];
        let groups = groups_for(rows * cols.div_ceil(8));
        launch(device, (SHADER, "forward"), &consts, groups, &[io.x[0], io.x[1], key, io.y[0]], &params)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let (rows, cols) = io.x[0].spec.rows_cols();
        let (dy, key) = (io.dy()?, io.x.get(2).copied().unwrap_or(io.x[0]));
        let (gx, gr) = (io.dx(0), io.dx(1));
        if gx.is_none() && gr.is_none() {
            return Ok(());
        }
        let params = self.params(io.x[0], [gx, gr].map(|g| g.is_some_and(|g| g.add)));
        let consts = [("DX", gx.is_some() as u32), ("DRES", gr.is_some() as u32)];
        // What is not wanted is bound as something that is only read.
        let buffers = [gx.map_or(dy, |g| g.t), gr.map_or(dy, |g| g.t), key, dy];
        launch(device, (SHADER, "backward"), &consts, groups_for(rows * cols.div_ceil(8)), &buffers, &params)
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/residual.cu");

impl On<Cuda> for Residual {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let (rows, cols) = io.x[0].spec.rows_cols();
        let key = io.x.get(2).copied().unwrap_or(io.x[0]);
        let t = Const::Type(io.x[0].spec.dtype);
        let flag = Const::U32(1);
        let consts =
            [("T", t), ("G", t), ("R", t), ("VEC", Const::U32(vector(cols))), ("DX", flag), ("DRES", flag)];
        let groups = blocks_for(rows * cols.div_ceil(8));
        let buffers = [io.x[0], io.x[1], key, io.y[0]];
        launch_cuda(
            device,
            (KERNEL, "residual_forward"),
            &consts,
            groups,
            &buffers,
            &self.params(io.x[0], [false; 2]),
        )
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let (rows, cols) = io.x[0].spec.rows_cols();
        let (dy, key) = (io.dy()?, io.x.get(2).copied().unwrap_or(io.x[0]));
        let grads = [io.dx(0), io.dx(1)];
        if grads.iter().all(Option::is_none) {
            return Ok(());
        }
        let [dx, dres] = grads.map(|g| g.map_or(dy, |g| g.t));
        let flag = |i: usize| Const::U32(grads[i].is_some() as u32);
        let consts = [
            ("T", Const::Type(dy.spec.dtype)),
            ("G", Const::Type(dx.spec.dtype)),
            ("R", Const::Type(dres.spec.dtype)),
            ("VEC", Const::U32(vector(cols))),
            ("DX", flag(0)),
            ("DRES", flag(1)),
        ];
        let params = self.params(io.x[0], grads.map(|g| g.is_some_and(|g| g.add)));
        let groups = blocks_for(rows * cols.div_ceil(8));
        launch_cuda(device, (KERNEL, "residual_backward"), &consts, groups, &[dy, key, dx, dres], &params)
    }
}

/// Edge cases: one element, odd columns, dropout or none, no rows.
pub fn cases() -> Vec<Case> {
    let case = |label, shape: &[usize], p: f32| {
        let dropout = (p > 0.0).then_some(Dropout { p, dropout_id: 6, rows: DropoutRows::Tokens });
        let mut inputs = vec![Input::real(shape), Input::real(shape)];
        if dropout.is_some() {
            inputs.push(Input::key());
        }
        Case::new(label, Residual { dropout }, inputs)
    };
    vec![
        case("plain", &[5, 16], 0.0),
        case("odd columns, several tasks", &[70, 13], 0.0),
        case("dropout", &[33, 24], 0.2),
        case("dropout, odd columns", &[3, 77], 0.5),
        case("one element", &[1, 1], 0.0),
        case("no rows", &[0, 8], 0.1),
    ]
}
