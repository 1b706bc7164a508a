//! The gated linear unit: y = act(a) b, where x = [a, b].
//!
//! x (rows, 2 cols) -> y (rows, cols): a is the first half of each row, b the second. The gated linear unit
//! (Dauphin et al. 2017) with GELU, GEGLU in Shazeer 2020, eq. 6; ModernBERT's order of the halves. Nothing
//! is saved: the backward pass reads x.

use super::{
    Activation, Backward, Call, Case, Cost, Forward, Grad, Input, On, Op, Plan, blocks_for, compute_dtype,
    groups_for, launch, launch_cuda, refuse, vector,
};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{
    BLOCK, GradientMut, GradientPart, Real, Scalar, by_scalar, inlined, load_row, vectorise,
};
use crate::device::{Caps, Const, Cpu, Cuda, Wgpu};
use crate::error::Result;
use crate::shape::Spec;

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Glu {
    /// The activation of the first half.
    pub act: Activation,
}

impl Op for Glu {
    fn name(&self) -> &'static str {
        "glu"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let wrong = || refuse("glu", "x (rows, 2 cols)", x);
        let [input] = x else { return Err(wrong()) };
        let (rows, both) = input.rows_cols();
        if !both.is_multiple_of(2) {
            return Err(wrong());
        }
        let y = Spec::new(compute_dtype("glu", caps, x)?, &[rows, both / 2]);
        Ok(Plan::new(vec![y], vec![]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let n = call.len(0) / 2.0;
        // y = act(a) b; da = dy b act'(a), db = dy act(a).
        let [value, derivative] = self.act.flops();
        let backward = (value + derivative + 3.0) * n + call.all_sums();
        let read = call.input(0) + call.dy();
        Cost::new([(value + 1.0) * n, backward], [call.whole(), read + call.all_dense()])
    }
    fn reads_half(&self) -> bool {
        true
    }
}

impl On<Cpu> for Glu {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_scalar!(io.x[0].spec.dtype, T => forward::<T>(self.act, cpu, io))
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        by_scalar!(io.x[0].spec.dtype, T => backward::<T>(self.act, cpu, io, g))
    }
}

fn forward<T: Scalar>(act: Activation, cpu: &Cpu, io: Forward) -> Result<()> {
    let (_, cols) = io.y[0].spec.rows_cols();
    let (x, mut y) = (io.x[0].cpu::<T>()?, io.y[0].cpu_mut::<T>()?);
    let task = |(y, x): (&mut [T], &[T])| {
        let mut activated = vec![T::Real::ZERO; cols];
        vectorise!({
            for (y, x) in y.chunks_exact_mut(cols).zip(x.chunks_exact(2 * cols)) {
                let (a, b) = x.split_at(cols);
                act.apply(&mut activated, inlined!(|_: T::Real, i: usize| a[i].load()));
                y.iter_mut().zip(&activated).zip(b).for_each(|((y, &a), b)| *y = T::store(a * b.load()));
            }
        })
    };
    cpu.install(|| y.par_chunks_mut(BLOCK * cols).zip(x.par_chunks(BLOCK * 2 * cols)).for_each(task));
    Ok(())
}

/// da = dy b act'(a), db = dy act(a).
fn backward<T: Scalar>(act: Activation, cpu: &Cpu, io: Backward, g: Grad) -> Result<()> {
    let (_, cols) = io.y[0].spec.rows_cols();
    let (x, dy) = (io.x[0].cpu::<T>()?, io.dy()?.cpu::<T>()?);
    let mut dx = GradientMut::<T>::of(g.t, io.x[0].spec.dtype)?;
    let task = |((mut dx, dy), x): ((GradientPart<T>, &[T]), &[T])| {
        let [mut a, mut d, mut activated, mut up, mut gradient] = [(); 5].map(|()| vec![T::Real::ZERO; cols]);
        vectorise!({
            for (row, (dy, x)) in dy.chunks_exact(cols).zip(x.chunks_exact(2 * cols)).enumerate() {
                let b = &x[cols..];
                load_row(&x[..cols], &mut a);
                load_row(dy, &mut d);
                act.apply(&mut activated, inlined!(|_: T::Real, i: usize| a[i]));
                up.iter_mut().zip(&d).zip(b).for_each(|((u, &d), b)| *u = d * b.load());
                act.backward(&mut gradient, &up, if act.needs_input() { &a } else { &activated });
                dx.put(row * 2 * cols, &gradient, g.add);
                activated.iter_mut().zip(&d).for_each(|(a, &d)| *a *= d);
                dx.put((row * 2 + 1) * cols, &activated, g.add);
            }
        })
    };
    let parts = dx.parts(BLOCK * 2 * cols);
    cpu.install(|| {
        parts
            .into_par_iter()
            .zip(dy.par_chunks(BLOCK * cols))
            .zip(x.par_chunks(BLOCK * 2 * cols))
            .for_each(task)
    });
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/glu.wgsl");

impl On<Wgpu> for Glu {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let (rows, cols) = io.y[0].spec.rows_cols();
        let consts = [("ACT", self.act.code())];
        let buffers = [io.x[0], io.y[0], io.y[0]];
        launch(
            device,
            (SHADER, "forward"),
            &consts,
            groups_for(rows * cols),
            &buffers,
            &[rows as u32, cols as u32, 0],
        )
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        let (rows, cols) = io.y[0].spec.rows_cols();
        let consts = [("ACT", self.act.code())];
        let params = [rows as u32, cols as u32, g.add as u32];
        launch(
            device,
            (SHADER, "backward"),
            &consts,
            groups_for(rows * cols),
            &[io.x[0], io.dy()?, g.t],
            &params,
        )
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/glu.cu");

impl On<Cuda> for Glu {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let (rows, cols) = io.y[0].spec.rows_cols();
        let (vec, dtype) = (vector(cols), Const::Type(io.x[0].spec.dtype));
        let consts =
            [("T", dtype), ("G", dtype), ("VEC", Const::U32(vec)), ("ACT", Const::U32(self.act.code()))];
        let groups = blocks_for(rows * cols / vec as usize);
        let params = [rows as u32, cols as u32, 0];
        launch_cuda(device, (KERNEL, "glu_forward"), &consts, groups, &[io.x[0], io.y[0]], &params)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        let (rows, cols) = io.y[0].spec.rows_cols();
        let vec = vector(cols);
        let (from, to) = (Const::Type(io.x[0].spec.dtype), Const::Type(g.t.spec.dtype));
        let consts = [("T", from), ("G", to), ("VEC", Const::U32(vec)), ("ACT", Const::U32(self.act.code()))];
        let groups = blocks_for(rows * cols / vec as usize);
        let params = [rows as u32, cols as u32, g.add as u32];
        launch_cuda(device, (KERNEL, "glu_backward"), &consts, groups, &[io.x[0], io.dy()?, g.t], &params)
    }
}

/// Edge cases: every activation, one column, odd columns, more rows than a task, no rows.
pub fn cases() -> Vec<Case> {
    let case = |label, act, [rows, cols]: [usize; 2]| {
        Case::new(label, Glu { act }, vec![Input::real(&[rows, 2 * cols])])
    };
    vec![
        case("gelu erf", Activation::GeluErf, [5, 16]),
        case("gelu erf, odd columns, several tasks", Activation::GeluErf, [70, 13]),
        case("gelu tanh", Activation::GeluTanh, [7, 24]),
        case("one of each", Activation::GeluErf, [1, 1]),
        case("no activation", Activation::None, [3, 9]),
        case("relu", Activation::Relu, [4, 8]),
        case("tanh", Activation::Tanh, [4, 11]),
        case("no rows", Activation::GeluErf, [0, 6]),
    ]
}
