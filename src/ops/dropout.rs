//! y = x m / (1 - p), each m zero with probability p (Srivastava et al. 2014, inverted scaling as in
//! PyTorch).
//!
//! x (rows, cols), key u32 (5) -> y (rows, cols). Nothing is saved: the mask is computed again in the
//! backward pass.
//!
//! The mask of element (r, c) is sixteen bits of Philox4x32-10 at counter
//! [first + r, c / 8, dropout_id, step] under the key [seed low, seed high]: half-word c % 8, low half first.
//! `first` is where the batch's rows begin in the optimizer step, so the mask does not depend on how a step
//! is cut into micro-batches, nor on the backend.

use super::{
    Backward, Call, Case, Cost, Forward, Input, On, Op, Plan, blocks_for, compute_dtype, groups_for, launch,
    launch_cuda, refuse, vector,
};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{BLOCK, Real, Scalar, by_gradient, by_scalar, inlined, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu};
use crate::error::Result;
use crate::rng;
use crate::shape::{DType, Spec};

/// The settings of dropout, used by every op with dropout, and an op itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The probability of dropping an element, rounded to a multiple of 1/65,536.
    pub p: f32,
    /// The dropout id, unique in the model.
    pub dropout_id: u32,
    /// The meaning of a row.
    pub rows: DropoutRows,
}

/// The meaning of the rows of a tensor with dropout, which determines their offset in the random stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropoutRows {
    /// Tokens of a packed batch.
    Tokens,
    /// Whole sequences.
    Sequences,
}

/// One dropout with its key read: makes the mask of any row.
#[derive(Clone, Copy)]
pub(super) struct Mask<T> {
    key: [u32; 2],
    step: u32,
    dropout_id: u32,
    first: u32,
    threshold: u16,
    scale: T,
}

impl Dropout {
    /// Whether anything is dropped at all.
    pub fn active(&self) -> bool {
        self.threshold() > 0
    }
    /// Half-words below this are dropped.
    fn threshold(&self) -> u16 {
        (self.p as f64 * 65536.0).round().clamp(0.0, 65535.0) as u16
    }
    /// With the key tensor's content: seed low, seed high, step, first token, first sequence.
    pub(super) fn mask<T: Real>(&self, key: &[u32]) -> Mask<T> {
        let threshold = self.threshold();
        Mask {
            key: [key[0], key[1]],
            step: key[2],
            dropout_id: self.dropout_id,
            first: match self.rows {
                DropoutRows::Tokens => key[3],
                DropoutRows::Sequences => key[4],
            },
            threshold,
            // From the rounded probability, so that the expected value is exact.
            scale: T::of(1.0 / (1.0 - threshold as f64 / 65536.0)),
        }
    }
}

impl<T: Real> Mask<T> {
    /// Calls `f(c, factors)` for all columns of a row, some from c on at a time; a factor is 0 or 1 / (1 -
    /// p). `lane` tells apart the rows that share a number, such as the heads of attention.
    #[inline(always)]
    pub fn row(&self, row: usize, lane: u32, cols: usize, mut f: impl FnMut(usize, &[T])) {
        // Eight blocks at a time, structure of arrays, so that the rounds become vector instructions.
        const WIDE: usize = 8;
        let row = self.first.wrapping_add(row as u32);
        for c0 in (0..cols).step_by(8 * WIDE) {
            let mut words = [[0u32; 4]; WIDE];
            for (i, w) in words.iter_mut().enumerate() {
                let block = (c0 / 8 + i) as u32;
                *w = rng::philox([row, block, self.dropout_id ^ lane.wrapping_shl(16), self.step], self.key);
            }
            // The lower half of a word comes first.
            let halves: [u16; 8 * WIDE] = bytemuck::cast(words.map(|w| w.map(u32::to_le)));
            let mut factors = [T::ZERO; 8 * WIDE];
            for (factor, half) in factors.iter_mut().zip(halves) {
                *factor = if u16::from_le(half) < self.threshold { T::ZERO } else { self.scale };
            }
            f(c0, &factors[..(cols - c0).min(8 * WIDE)]);
        }
    }
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let [input, key] = x else { return Err(refuse("dropout", "x (rows, cols), key (5)", x)) };
        if key.dtype != DType::U32 || key.shape != [5] || !(0.0..1.0).contains(&self.p) {
            return Err(refuse("dropout", "x (rows, cols), key u32 (5), 0 <= p < 1", x));
        }
        compute_dtype("dropout", caps, x)?;
        Ok(Plan::new(vec![(*input).clone()], vec![]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let mask = if self.active() { call.len(0) } else { 0.0 };
        // The mask is computed again: x is not read.
        let backward = call.dy() + call.input(1) + call.all_dense();
        Cost::new([mask, mask + call.all_sums()], [call.whole(), backward])
    }
    fn reads_half(&self) -> bool {
        true
    }
}

impl On<Cpu> for Dropout {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        let tensors = [io.x[0], io.x[1], io.y[0]];
        by_scalar!(io.x[0].spec.dtype, T => apply::<T, T>(self, cpu, tensors, false))
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        let tensors = [io.dy()?, io.x[1], g.t];
        by_gradient!(io.x[0].spec.dtype, g.t.spec.dtype, (T, G) => apply::<T, G>(self, cpu, tensors, g.add))
    }
}

/// out = in * mask, or out += in * mask: the op is its own backward pass.
fn apply<T: Scalar, G: Scalar<Real = T::Real>>(
    op: &Dropout,
    cpu: &Cpu,
    [from, key, to]: [&Tensor; 3],
    add: bool,
) -> Result<()> {
    let (_, cols) = from.spec.rows_cols();
    let mask = op.mask::<T::Real>(&key.cpu::<u32>()?);
    let (from, mut to) = (from.cpu::<T>()?, to.cpu_mut::<G>()?);
    let put = inlined!(|to: &mut G, from: T, m: T::Real, onto: T::Real| {
        *to = G::store(from.load().mul_add(m, onto));
    });
    let task = |(b, (to, from)): (usize, (&mut [G], &[T]))| {
        vectorise!({
            for (r, (to, from)) in to.chunks_exact_mut(cols).zip(from.chunks_exact(cols)).enumerate() {
                mask.row(
                    b * BLOCK + r,
                    0,
                    cols,
                    inlined!(|c: usize, m: &[T::Real]| {
                        let here = to[c..][..m.len()].iter_mut().zip(&from[c..][..m.len()]).zip(m);
                        match add {
                            true => here.for_each(|((to, &from), &m)| put(to, from, m, to.load())),
                            false => here.for_each(|((to, &from), &m)| put(to, from, m, Real::ZERO)),
                        }
                    }),
                );
            }
        })
    };
    cpu.install(|| {
        to.par_chunks_mut(BLOCK * cols).zip(from.par_chunks(BLOCK * cols)).enumerate().for_each(task)
    });
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/dropout.wgsl");

impl Dropout {
    /// The words of a kernel's `Drop`; `None` drops nothing.
    pub(super) fn words(of: Option<Dropout>) -> [u32; 4] {
        let Some(d) = of.filter(Dropout::active) else { return [0, 0, 3, 1f32.to_bits()] };
        let row = match d.rows {
            DropoutRows::Tokens => 3,
            DropoutRows::Sequences => 4,
        };
        let scale = 1.0 / (1.0 - d.threshold() as f64 / 65536.0);
        [d.threshold() as u32, d.dropout_id, row, (scale as f32).to_bits()]
    }
}

fn apply_gpu(op: &Dropout, device: &Wgpu, buffers: [&Tensor; 3], add: bool) -> Result<()> {
    let (rows, cols) = buffers[0].spec.rows_cols();
    let [a, b, c, d] = Dropout::words(Some(*op));
    let params = [a, b, c, d, rows as u32, cols as u32, add as u32];
    launch(device, (SHADER, "apply"), &[], groups_for(rows * cols.div_ceil(8)), &buffers, &params)
}

impl On<Wgpu> for Dropout {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        apply_gpu(self, device, [io.x[0], io.x[1], io.y[0]], false)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        apply_gpu(self, device, [io.dy()?, io.x[1], g.t], g.add)
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/dropout.cu");

fn apply_cuda(op: &Dropout, device: &Cuda, buffers: [&Tensor; 3], add: bool) -> Result<()> {
    let (rows, cols) = buffers[0].spec.rows_cols();
    let [a, b, c, d] = Dropout::words(Some(*op));
    let params = [a, b, c, d, rows as u32, cols as u32, add as u32];
    let [from, _, to] = buffers.map(|t| Const::Type(t.spec.dtype));
    let consts = [("T", from), ("G", to), ("VEC", Const::U32(vector(cols)))];
    let groups = blocks_for(rows * cols.div_ceil(8));
    launch_cuda(device, (KERNEL, "dropout_apply"), &consts, groups, &buffers, &params)
}

impl On<Cuda> for Dropout {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        apply_cuda(self, device, [io.x[0], io.x[1], io.y[0]], false)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        apply_cuda(self, device, [io.dy()?, io.x[1], g.t], g.add)
    }
}

/// Edge cases: fewer columns than a block of the generator, more than its width, nothing dropped, no rows.
pub fn cases() -> Vec<Case> {
    let case = |label, p, rows, shape: &[usize]| {
        Case::new(label, Dropout { p, dropout_id: 5, rows }, vec![Input::real(shape), Input::key()])
    };
    vec![
        case("tokens", 0.1, DropoutRows::Tokens, &[33, 16]),
        case("sequences, odd columns", 0.5, DropoutRows::Sequences, &[3, 77]),
        case("one element", 0.3, DropoutRows::Tokens, &[1, 1]),
        case("nothing dropped", 0.0, DropoutRows::Tokens, &[5, 9]),
        case("no rows", 0.1, DropoutRows::Tokens, &[0, 8]),
    ]
}
