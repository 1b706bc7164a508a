//! Rotary positions: queries and keys turned by angles that grow with the position.
//!
//! qkv (tokens, 3 heads head_dim): a token's queries of all heads, then its keys, then its values; positions
//! u32 (tokens) -> y like qkv. Elements i and i + head_dim/2 of each query and key are a point in the plane,
//! turned by `positions[t] theta^(-2 i / head_dim)`; values are copied (Su et al. 2021, eq. 34, with the
//! halves paired as in GPT-NeoX and in ModernBERT of transformers). Nothing is saved: the backward pass turns
//! back.
//!
//! The CPU computes angles in f64. On a GPU they are fractions of a turn in 32-bit integers, a position times
//! a fraction, with whole turns falling off by themselves: off by at most 2e-5 of a turn at position 8,192,
//! where f32, as transformers has it, may be off by 1e-4.

use super::{
    Backward, Call, Case, Cost, Forward, Input, On, Op, Plan, blocks_for, by_dtype, compute_dtype,
    groups_for, launch, launch_cuda, refuse, vector,
};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{BLOCK, Real, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::{DType, Spec};

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Rotary {
    /// The number of heads.
    pub heads: usize,
    /// The base of the frequencies.
    pub theta: f32,
}

impl Op for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let wrong = || {
            refuse("rotary", "qkv (tokens, 3 heads head_dim), head_dim even and at most 256; positions", x)
        };
        let [qkv, positions] = x else { return Err(wrong()) };
        let (tokens, cols) = qkv.rows_cols();
        let fits = cols.is_multiple_of(6 * self.heads.max(1)) && cols <= 3 * self.heads * 256;
        // At 1 all frequencies are the same; below, they would grow.
        if !fits
            || positions.dtype != DType::U32
            || positions.len() != tokens
            || self.theta.is_nan()
            || self.theta <= 1.0
        {
            return Err(wrong());
        }
        compute_dtype("rotary", caps, x)?;
        Ok(Plan::new(vec![(*qkv).clone()], vec![]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let [tokens, cols] = call.rows_cols(0);
        // Two multiplications and an addition for each element of queries and keys. For each token and pair
        // of a head, all heads alike: the angle, its sine and cosine.
        let turn = 2.0 * tokens * cols + 3.0 * tokens * cols / (6 * self.heads.max(1)) as f64;
        let backward = call.dy() + call.input(1) + call.all_dense();
        Cost::new([turn, turn + call.all_sums()], [call.whole(), backward])
    }
}

impl On<Cpu> for Rotary {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, turn(self, cpu, [io.x[0], io.x[1], io.y[0]], 1.0, false))
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        by_dtype!(io.x[0].spec.dtype, turn(self, cpu, [io.dy()?, io.x[1], g.t], -1.0, g.add))
    }
}

/// to = turned from, or to += it; with sign -1 turned back.
fn turn<T: Real>(op: &Rotary, cpu: &Cpu, [from, at, to]: [&Tensor; 3], sign: f64, add: bool) -> Result<()> {
    let (_, cols) = from.spec.rows_cols();
    let (from, at, mut to) = (from.cpu::<T>()?, at.cpu::<u32>()?, to.cpu_mut::<T>()?);
    let (d, hidden) = (cols / 3 / op.heads, cols / 3);
    let half = d / 2;
    let frequencies: Vec<f64> =
        (0..half).map(|i| f64::from(op.theta).powf(-2.0 * i as f64 / d as f64)).collect();
    let task = |(b, (to, from)): (usize, (&mut [T], &[T]))| {
        let (mut cos, mut sin) = (vec![T::ZERO; half], vec![T::ZERO; half]);
        for (r, (to, from)) in to.chunks_exact_mut(cols).zip(from.chunks_exact(cols)).enumerate() {
            let position = f64::from(at[b * BLOCK + r]);
            for ((c, s), f) in cos.iter_mut().zip(&mut sin).zip(&frequencies) {
                let (sine, cosine) = (position * f).sin_cos();
                (*c, *s) = (T::of(cosine), T::of(sign * sine));
            }
            vectorise!({
                let old = |v: T| if add { v } else { T::ZERO };
                for (to, from) in to[..2 * hidden].chunks_exact_mut(d).zip(from.chunks_exact(d)) {
                    let ((a, b), (ta, tb)) = (from.split_at(half), to.split_at_mut(half));
                    for i in 0..half {
                        ta[i] = old(ta[i]) + a[i] * cos[i] - b[i] * sin[i];
                        tb[i] = old(tb[i]) + b[i] * cos[i] + a[i] * sin[i];
                    }
                }
                for (to, &v) in to[2 * hidden..].iter_mut().zip(&from[2 * hidden..]) {
                    *to = old(*to) + v;
                }
            })
        }
    };
    cpu.install(|| {
        to.par_chunks_mut(BLOCK * cols).zip(from.par_chunks(BLOCK * cols)).enumerate().for_each(task)
    });
    Ok(())
}

impl Rotary {
    /// The words of the kernels' `Params`. Fractions of a turn stand in 32-bit integers: of the first pair,
    /// and the factors from a pair to those 1, 2, 4, ... 64 pairs on.
    fn params(&self, qkv: &Tensor, sign: f32, add: bool) -> [u32; 13] {
        let (tokens, cols) = qkv.spec.rows_cols();
        let d = cols / 3 / self.heads;
        let fraction = |v: f64| (v * 2f64.powi(32)).round() as u32;
        let step = |b: u32| {
            let pairs = 2f64.powi(b as i32);
            fraction(f64::from(self.theta).powf(-2.0 * pairs / d as f64))
        };
        let [a, b, c, e, f, g, h] = std::array::from_fn(|b| step(b as u32));
        let first = fraction(1.0 / std::f64::consts::TAU);
        let sizes = [tokens, self.heads, d / 2].map(|v| v as u32);
        [sizes[0], sizes[1], sizes[2], sign.to_bits(), add as u32, first, a, b, c, e, f, g, h]
    }
}

pub(super) const SHADER: &str = include_str!("../../shaders/rotary.wgsl");

impl On<Wgpu> for Rotary {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        self.launch(device, [io.x[0], io.x[1], io.y[0]], 1.0, false)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        self.launch(device, [io.dy()?, io.x[1], g.t], -1.0, g.add)
    }
}

impl Rotary {
    fn launch(&self, device: &Wgpu, buffers: [&Tensor; 3], sign: f32, add: bool) -> Result<()> {
        let items = buffers[0].spec.len() / 6;
        launch(
            device,
            (SHADER, "turn"),
            &[],
            groups_for(items),
            &buffers,
            &self.params(buffers[0], sign, add),
        )
    }
    fn launch_cuda(&self, device: &Cuda, buffers: [&Tensor; 3], sign: f32, add: bool) -> Result<()> {
        let params = self.params(buffers[0], sign, add);
        let [tokens, heads, half] = [0, 1, 2].map(|i| params[i] as usize);
        let vec = vector(half);
        let [from, _, to] = buffers.map(|t| Const::Type(t.spec.dtype));
        let consts = [("T", from), ("G", to), ("VEC", Const::U32(vec))];
        let [blocks, ..] = blocks_for(tokens * half / vec as usize);
        launch_cuda(device, (KERNEL, "rotary_turn"), &consts, [blocks, heads as u32, 1], &buffers, &params)
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/rotary.cu");

impl On<Cuda> for Rotary {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        self.launch_cuda(device, [io.x[0], io.x[1], io.y[0]], 1.0, false)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        self.launch_cuda(device, [io.dy()?, io.x[1], g.t], -1.0, g.add)
    }
}

/// Edge cases: one pair, the longest positions, as many pairs as there may be, odd numbers of them, no
/// tokens.
pub fn cases() -> Vec<Case> {
    let case = |label, heads: usize, d: usize, theta, positions: &[u32]| {
        let qkv = Input::real(&[positions.len(), 3 * heads * d]);
        Case::new(label, Rotary { heads, theta }, vec![qkv, Input::ints(positions)])
    };
    let long: Vec<u32> = (0..67).map(|i| i * 127 % 8192).collect();
    vec![
        case("one pair", 1, 2, 10_000.0, &[0, 1, 2, 3]),
        case("three heads, three pairs", 3, 6, 10_000.0, &[0, 1, 2, 0, 1]),
        case("heads of 32", 2, 32, 10_000.0, &long[..9]),
        case("long positions", 1, 64, 160_000.0, &long),
        case("the widest heads", 1, 256, 160_000.0, &[5, 77]),
        case("no tokens", 1, 8, 10_000.0, &[]),
    ]
}
