//! o = drop(softmax(scale q k^T)) v, each sequence by itself, each head by itself.
//!
//! qkv (tokens, 3 heads head_dim): a token's queries of all heads, then its keys, then its values; cu_seqlens u32
//! (sequences + 1): where each sequence begins in the packed batch; key u32 (5) if there is dropout
//! -> o (tokens, heads head_dim). Scaled dot-product attention (Vaswani et al. 2017, eq. 1). Sequences stand end to
//! end: there is no padding and no mask.
//!
//! Saves lse = log sum exp(scale q k^T), (heads tokens) with each sequence's heads together; the backward pass computes
//! the probabilities again (Dao et al. 2022, alg. 4), a block of queries at a time, so memory is linear in the length.

use super::dropout::{Dropout, Rows};
use super::{
    Backward, Case, Forward, Input, On, Op, Plan, by_dtype, compute_dtype, launch_with, refuse, sequences,
    words,
};
use crate::device::cpu::{Mat, Out, Real, inlined, product_serial, sum_lanes, vectorise};
use crate::device::wgpu::Tiles;
use crate::device::{Caps, Cpu, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::{DType, Spec};
use rayon::prelude::*;
use std::ops::Range;

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Number of heads.
    pub heads: usize,
    /// What scores are multiplied by: 1 / sqrt(head_dim).
    pub scale: f32,
    /// Dropout on the probabilities.
    pub dropout: Option<Dropout>,
}

/// Queries that one pass of a task handles.
const QUERIES: usize = 64;

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let expected = "qkv (tokens, 3 heads head_dim), cu_seqlens (sequences + 1), key (5) as set";
        let wrong = || refuse("attention", expected, x);
        let [qkv, bounds, key @ ..] = x else { return Err(wrong()) };
        let (tokens, cols) = qkv.rows_cols();
        let keyed = key.len() == self.dropout.is_some() as usize && key.iter().all(|k| k.shape == [5]);
        if cols % (3 * self.heads.max(1)) != 0 || bounds.dtype != DType::U32 || bounds.is_empty() || !keyed {
            return Err(wrong());
        }
        let dtype = compute_dtype("attention", caps, x)?;
        let y = Spec::new(dtype, &[tokens, cols / 3]);
        // Lengths are not known here: counted as if all sequences were equally long.
        let len = tokens as f64 / (bounds.len() - 1).max(1) as f64;
        let flops = 4.0 * tokens as f64 * len * (cols / 3) as f64;
        // The CPU computes head by head and puts the heads in order afterwards; a GPU keeps rowsum(do o).
        let scratch = if caps.gpu { [0, self.heads * tokens] } else { [tokens * cols / 3, tokens * cols] };
        let plan = Plan::new(x, vec![y], vec![Spec::new(dtype, &[self.heads, tokens])], [flops, 2.5 * flops]);
        Ok(plan.with_scratch(scratch.map(|elements| elements * dtype.size())))
    }
}

impl On<Cpu> for Attention {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, forward(self, cpu, io))
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, backward(self, cpu, io))
    }
}

/// One head of one sequence.
struct Part<'a, T> {
    tokens: Range<usize>,
    head: usize,
    /// What this part computes, contiguous: (planes, length, head_dim).
    out: &'a mut [T],
    /// Its run of lse; empty in the backward pass.
    lse: &'a mut [T],
}

/// Elements of the largest block of scores that a task holds at once.
fn block_of(seqs: &[Range<usize>]) -> usize {
    seqs.iter().map(|s| QUERIES.min(s.len()) * s.len()).max().unwrap_or(0)
}

/// Cuts the outputs into the parts that tasks compute, sequence by sequence, head by head.
fn parts<'a, T>(
    seqs: &[Range<usize>],
    heads: usize,
    width: usize,
    mut out: &'a mut [T],
    mut lse: &'a mut [T],
) -> Vec<Part<'a, T>> {
    let mut parts = Vec::with_capacity(seqs.len() * heads);
    for tokens in seqs {
        for head in 0..heads {
            let (here, rest) = out.split_at_mut(tokens.len() * width);
            let (l, l_rest) = lse.split_at_mut(if lse.is_empty() { 0 } else { tokens.len() });
            parts.push(Part { tokens: tokens.clone(), head, out: here, lse: l });
            (out, lse) = (rest, l_rest);
        }
    }
    parts
}

/// Runs `copy(row, column, piece)` for the rows of `to` (tokens, planes heads d), where `piece` is the run of `from`
/// that belongs there; `from` is laid out (sequence, head, plane, token, d).
fn gather<T: Real>(
    cpu: &Cpu,
    seqs: &[Range<usize>],
    [heads, planes, d]: [usize; 3],
    from: &[T],
    to: &mut [T],
    add: bool,
) {
    let width = planes * heads * d;
    let mut rows: Vec<(Range<usize>, &mut [T])> = Vec::with_capacity(seqs.len());
    let mut rest = to;
    for s in seqs {
        let (here, after) = rest.split_at_mut(s.len() * width);
        rows.push((s.clone(), here));
        rest = after;
    }
    cpu.install(|| {
        rows.into_par_iter().for_each(|(s, to)| {
            let from = &from[s.start * width..][..s.len() * width];
            for (t, to) in to.chunks_exact_mut(width).enumerate() {
                for (i, to) in to.chunks_exact_mut(d).enumerate() {
                    let (plane, head) = (i / heads, i % heads);
                    let piece = &from[((head * planes + plane) * s.len() + t) * d..][..d];
                    if add {
                        to.iter_mut().zip(piece).for_each(|(t, &p)| *t += p);
                    } else {
                        to.copy_from_slice(piece);
                    }
                }
            }
        })
    });
}

fn forward<T: Real>(op: &Attention, cpu: &Cpu, io: Forward) -> Result<()> {
    let (tokens, cols) = io.x[0].spec.rows_cols();
    let (hidden, d) = (cols / 3, cols / 3 / op.heads);
    let (qkv, seqs) = (io.x[0].cpu::<T>()?, sequences(&io.x[1].cpu::<u32>()?, tokens)?);
    let key = io.x.get(2).map(|k| k.cpu::<u32>()).transpose()?;
    let mask = op.dropout.filter(Dropout::active).zip(key.as_deref()).map(|(d, k)| d.mask::<T>(k));
    let (mut o, mut lse) = (io.y[0].cpu_mut::<T>()?, io.y[1].cpu_mut::<T>()?);
    let scratch = cpu.scratch(tokens * hidden * size_of::<T>())?;
    let mut out = scratch.write::<T>(0, tokens * hidden)?;
    let blocks = cpu.scratch_per_thread(size_of::<T>() * block_of(&seqs))?;
    let scale = T::of(op.scale as f64);
    let task = |part: Part<T>| -> Result<()> {
        let len = part.tokens.len();
        let at = |plane: usize, t: usize| Mat {
            data: &qkv[(part.tokens.start + t) * cols + plane * hidden + part.head * d..],
            row: cols,
            col: 1,
        };
        for q0 in (0..len).step_by(QUERIES) {
            let rows = QUERIES.min(len - q0);
            let mut p = blocks.mine::<T>(0, rows * len)?;
            product_serial(
                cpu,
                [rows, len, d],
                at(0, q0),
                at(1, 0).t(),
                Out { data: &mut p, row: len, add: false },
            )?;
            vectorise!({
                for (r, p) in p.chunks_exact_mut(len).enumerate() {
                    let max = p.iter().fold(T::of(f64::NEG_INFINITY), |m, &s| s.larger(m)) * scale;
                    p.iter_mut().for_each(|p| *p = p.mul_add(scale, -max).exp());
                    let sum = sum_lanes(len, |j| p[j]);
                    part.lse[q0 + r] = max + sum.ln();
                    let norm = T::ONE / sum;
                    match &mask {
                        Some(m) => m.row(
                            part.tokens.start + q0 + r,
                            part.head as u32,
                            len,
                            inlined!(|j, m| p[j] *= norm * m),
                        ),
                        None => p.iter_mut().for_each(|p| *p *= norm),
                    }
                }
            });
            let o = Out { data: &mut part.out[q0 * d..][..rows * d], row: d, add: false };
            product_serial(cpu, [rows, d, len], Mat::new(&p, len), at(2, 0), o)?;
        }
        Ok(())
    };
    let parts = parts(&seqs, op.heads, d, &mut out, &mut lse);
    cpu.install(|| parts.into_par_iter().filter(|p| !p.tokens.is_empty()).try_for_each(task))?;
    gather(cpu, &seqs, [op.heads, 1, d], &out, &mut o, false);
    Ok(())
}

/// With P the probabilities, m the mask, D = rowsum(do o): dV = (P m)^T do; dS = P (m (do V^T) - D); dQ = scale dS K;
/// dK = scale dS^T Q.
fn backward<T: Real>(op: &Attention, cpu: &Cpu, io: Backward) -> Result<()> {
    let Some(g) = io.dx(0) else { return Ok(()) };
    let (tokens, cols) = io.x[0].spec.rows_cols();
    let (hidden, d) = (cols / 3, cols / 3 / op.heads);
    let (qkv, seqs) = (io.x[0].cpu::<T>()?, sequences(&io.x[1].cpu::<u32>()?, tokens)?);
    let key = io.x.get(2).map(|k| k.cpu::<u32>()).transpose()?;
    let mask = op.dropout.filter(Dropout::active).zip(key.as_deref()).map(|(d, k)| d.mask::<T>(k));
    let (o, lse, dy) = (io.y[0].cpu::<T>()?, io.y[1].cpu::<T>()?, io.dy()?.cpu::<T>()?);
    let scratch = cpu.scratch(tokens * cols * size_of::<T>())?;
    let mut out = scratch.write::<T>(0, tokens * cols)?;
    let block = block_of(&seqs);
    let blocks = cpu.scratch_per_thread(size_of::<T>() * 2 * block)?;
    let scale = T::of(op.scale as f64);
    let task = |part: Part<T>| -> Result<()> {
        let (len, start) = (part.tokens.len(), part.tokens.start);
        let at = |plane: usize, t: usize| Mat {
            data: &qkv[(start + t) * cols + plane * hidden + part.head * d..],
            row: cols,
            col: 1,
        };
        let lse = &lse[start * op.heads + part.head * len..][..len];
        let (dq, rest) = part.out.split_at_mut(len * d);
        let (dk, dv) = rest.split_at_mut(len * d);
        for q0 in (0..len).step_by(QUERIES) {
            let rows = QUERIES.min(len - q0);
            let (mut p, mut ds) = (blocks.mine::<T>(0, rows * len)?, blocks.mine::<T>(block, rows * len)?);
            let from = (start + q0) * hidden + part.head * d;
            let dout = Mat { data: &dy[from..], row: hidden, col: 1 };
            product_serial(
                cpu,
                [rows, len, d],
                at(0, q0),
                at(1, 0).t(),
                Out { data: &mut p, row: len, add: false },
            )?;
            product_serial(
                cpu,
                [rows, len, d],
                dout,
                at(2, 0).t(),
                Out { data: &mut ds, row: len, add: false },
            )?;
            vectorise!({
                for (r, (p, ds)) in p.chunks_exact_mut(len).zip(ds.chunks_exact_mut(len)).enumerate() {
                    let row = from + r * hidden;
                    let (o, dy) = (&o[row..][..d], &dy[row..][..d]);
                    let delta = sum_lanes(d, |c| o[c] * dy[c]);
                    let lse = lse[q0 + r];
                    p.iter_mut().for_each(|p| *p = p.mul_add(scale, -lse).exp());
                    let mut put = inlined!(|j: usize, m: T| {
                        ds[j] = p[j] * (ds[j] * m - delta) * scale;
                        p[j] *= m;
                    });
                    match &mask {
                        Some(m) => m.row(start + q0 + r, part.head as u32, len, put),
                        None => (0..len).for_each(|j| put(j, T::ONE)),
                    }
                }
            });
            let (p, ds) = (Mat::new(&p, len), Mat::new(&ds, len));
            let put = |data, add| Out { data, row: d, add };
            product_serial(cpu, [rows, d, len], ds, at(1, 0), put(&mut dq[q0 * d..][..rows * d], false))?;
            product_serial(cpu, [len, d, rows], ds.t(), at(0, q0), put(dk, q0 > 0))?;
            product_serial(cpu, [len, d, rows], p.t(), dout, put(dv, q0 > 0))?;
        }
        Ok(())
    };
    let parts = parts(&seqs, op.heads, 3 * d, &mut out, &mut []);
    cpu.install(|| parts.into_par_iter().filter(|p| !p.tokens.is_empty()).try_for_each(task))?;
    gather(cpu, &seqs, [op.heads, 3, d], &out, &mut g.t.cpu_mut::<T>()?, g.add);
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/attention.wgsl");

impl Attention {
    fn launch(&self, device: &Wgpu, entry: &'static str, buffers: &[&Tensor], add: bool) -> Result<()> {
        let (tokens, cols) = buffers[0].spec.rows_cols();
        let [a, b, c, d] = Dropout::words(self.dropout);
        let seqs = buffers[1].spec.len() as u32 - 1;
        let params = [a, b, c, d, tokens as u32, self.heads as u32, seqs, self.scale.to_bits(), add as u32];
        // A multiple of eight, the mask's block; a sequence's last group may be partly idle, so not too many.
        let threads = if device.tiles() == Tiles::Rows { 8 } else { 32 };
        let blocks = tokens.div_ceil(threads) + seqs as usize;
        let groups = [blocks as u32, self.heads as u32, 1];
        let consts = [("D", (cols / 3 / self.heads) as u32)];
        launch_with(device, threads as u32, (SHADER, entry), &words(&consts), groups, buffers, &params)
    }
}

impl On<Wgpu> for Attention {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let key: &Tensor = io.x.get(2).unwrap_or(&io.x[1]);
        self.launch(device, "forward", &[io.x[0], io.x[1], key, io.y[0], io.y[1]], false)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        let key: &Tensor = io.x.get(2).unwrap_or(&io.x[1]);
        let delta = device.scratch(g.t.spec.dtype, &io.y[1].spec.shape)?;
        let buffers = [io.x[0], io.x[1], key, io.y[0], io.y[1], io.dy()?, g.t, &delta];
        self.launch(device, "backward_q", &buffers, g.add)?;
        self.launch(device, "backward_kv", &buffers, g.add)
    }
}

/// Cases chosen to hurt: one token, an empty sequence at each place, lengths at and around a block of queries.
pub fn cases() -> Vec<Case> {
    let case = |label, heads: usize, d: usize, bounds: &[u32], p: f32| {
        let dropout = (p > 0.0).then_some(Dropout { p, site: 3, rows: Rows::Tokens });
        let tokens = bounds.last().copied().unwrap_or(0) as usize;
        let mut inputs = vec![Input::real(&[tokens, 3 * heads * d]), Input::ints(bounds)];
        if dropout.is_some() {
            inputs.push(Input::key());
        }
        Case::new(label, Attention { heads, scale: 1.0 / (d as f32).sqrt(), dropout }, inputs)
    };
    let sweep: Vec<u32> = (0..=16).map(|n: u32| n * (n + 1) / 2).collect();
    vec![
        case("one token", 1, 4, &[0, 1], 0.0),
        case("two sequences, dropout", 2, 8, &[0, 5, 9], 0.3),
        case("empty sequences", 3, 5, &[0, 0, 3, 3, 4, 4], 0.0),
        case("no sequence has tokens", 2, 4, &[0, 0], 0.0),
        case("lengths 1 to 16", 1, 2, &sweep, 0.1),
        case("a block of queries and its neighbours", 1, 3, &[0, 63, 127, 192], 0.0),
        case("several blocks, dropout", 2, 3, &[0, 130], 0.2),
    ]
}
