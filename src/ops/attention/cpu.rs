//! Both passes on the CPU. A task computes one head of one sequence.

use super::{Attention, Dropout};
use crate::device::Cpu;
use crate::device::cpu::{Mat, Out, Real, inlined, matmul_serial, max_lanes, sum_lanes, vectorise};
use crate::error::Result;
use crate::ops::{Backward, Forward, On, by_dtype, sequences};
use rayon::prelude::*;
use std::ops::Range;

/// The number of queries that a task processes at a time. All of their scores are in memory at once: for 512
/// keys in f32 they are 128 KiB, which a second-level cache holds.
const QUERIES: usize = 64;

impl On<Cpu> for Attention {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, forward(self, cpu, io))
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, backward(self, cpu, io))
    }
}

/// One head of one sequence.
pub(in crate::ops) struct Part<'a, T> {
    pub tokens: Range<usize>,
    pub head: usize,
    /// What this part computes, contiguous: (planes, length, head_dim).
    pub out: &'a mut [T],
    /// Its run of lse; empty in the backward pass.
    pub lse: &'a mut [T],
}

/// The number of elements of the largest block of scores of a task.
fn block_of(seqs: &[Range<usize>]) -> usize {
    seqs.iter().map(|s| QUERIES.min(s.len()) * s.len()).max().unwrap_or(0)
}

/// The range of keys that these queries of a sequence of `len` tokens may see.
fn keys(window: Option<usize>, queries: Range<usize>, len: usize) -> Range<usize> {
    let w = window.unwrap_or(len);
    queries.start.saturating_sub(w)..queries.end.saturating_add(w).min(len)
}

/// Cuts the outputs into the parts of the tasks, by sequence and head.
pub(in crate::ops) fn parts<'a, T>(
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

/// Of factors for keys from `j` on those of keys from `first` on, and where these begin, counted from there.
#[inline(always)]
fn within<T>(j: usize, m: &[T], first: usize) -> (usize, &[T]) {
    let skipped = first.saturating_sub(j).min(m.len());
    ((j + skipped).saturating_sub(first), &m[skipped..])
}

/// Turns dprobabilities into dscores, and applies dropout to the probabilities: ds = p (ds m - delta) scale,
/// p = p m.
#[inline(always)]
pub(in crate::ops) fn score_gradients<T: Real>(p: &mut [T], ds: &mut [T], m: &[T], [delta, scale]: [T; 2]) {
    for ((p, ds), &m) in p.iter_mut().zip(ds).zip(m) {
        *ds = *p * (*ds * m - delta) * scale;
        *p *= m;
    }
}

/// Runs `copy(row, column, piece)` for the rows of `to` (tokens, planes heads d), where `piece` is the run of
/// `from` that belongs there; `from` is laid out (sequence, head, plane, token, d).
pub(in crate::ops) fn gather<T: Real>(
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
            let block = keys(op.window, q0..q0 + rows, len);
            let (k0, n) = (block.start, block.len());
            let mut p = blocks.mine::<T>(0, rows * n)?;
            matmul_serial(
                cpu,
                [rows, n, d],
                at(0, q0),
                at(1, k0).t(),
                Out { data: &mut p, row: n, add: false },
            )?;
            vectorise!({
                for (r, p) in p.chunks_exact_mut(n).enumerate() {
                    // The block has the keys that any of its queries sees; a row's own are fewer where there
                    // is a window.
                    let seen = keys(op.window, q0 + r..q0 + r + 1, len);
                    let (before, rest) = p.split_at_mut(seen.start - k0);
                    let (p, after) = rest.split_at_mut(seen.len());
                    before.fill(T::ZERO);
                    after.fill(T::ZERO);
                    let max = max_lanes(p) * scale;
                    p.iter_mut().for_each(|p| *p = p.mul_add(scale, -max).exp());
                    let sum = sum_lanes(p.len(), |j| p[j]);
                    part.lse[q0 + r] = max + sum.ln();
                    let norm = T::ONE / sum;
                    let first = seen.start;
                    match &mask {
                        Some(m) => m.row(
                            part.tokens.start + q0 + r,
                            part.head as u32,
                            seen.end,
                            inlined!(|j: usize, m: &[T]| {
                                let (at, m) = within(j, m, first);
                                p[at..][..m.len()].iter_mut().zip(m).for_each(|(p, &m)| *p *= norm * m);
                            }),
                        ),
                        None => p.iter_mut().for_each(|p| *p *= norm),
                    }
                }
            });
            let o = Out { data: &mut part.out[q0 * d..][..rows * d], row: d, add: false };
            matmul_serial(cpu, [rows, d, n], Mat::new(&p, n), at(2, k0), o)?;
        }
        Ok(())
    };
    let parts = parts(&seqs, op.heads, d, &mut out, &mut lse);
    cpu.install(|| parts.into_par_iter().filter(|p| !p.tokens.is_empty()).try_for_each(task))?;
    gather(cpu, &seqs, [op.heads, 1, d], &out, &mut o, false);
    Ok(())
}

/// With P the probabilities, m the mask, D = rowsum(do o): dV = (P m)^T do; dS = P (m (do V^T) - D); dQ =
/// scale dS K; dK = scale dS^T Q.
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
        if op.window.is_some() {
            dk.fill(T::ZERO);
            dv.fill(T::ZERO);
        }
        for q0 in (0..len).step_by(QUERIES) {
            let rows = QUERIES.min(len - q0);
            let seen_by_any = keys(op.window, q0..q0 + rows, len);
            let (k0, n) = (seen_by_any.start, seen_by_any.len());
            let (mut p, mut ds) = (blocks.mine::<T>(0, rows * n)?, blocks.mine::<T>(block, rows * n)?);
            let from = (start + q0) * hidden + part.head * d;
            let dout = Mat { data: &dy[from..], row: hidden, col: 1 };
            let scores = |data| Out { data, row: n, add: false };
            matmul_serial(cpu, [rows, n, d], at(0, q0), at(1, k0).t(), scores(&mut p))?;
            matmul_serial(cpu, [rows, n, d], dout, at(2, k0).t(), scores(&mut ds))?;
            vectorise!({
                for (r, (p, ds)) in p.chunks_exact_mut(n).zip(ds.chunks_exact_mut(n)).enumerate() {
                    let seen = keys(op.window, q0 + r..q0 + r + 1, len);
                    let (first, inner) = (seen.start, seen.start - k0..seen.end - k0);
                    for v in [&mut *p, &mut *ds] {
                        v[..inner.start].fill(T::ZERO);
                        v[inner.end..].fill(T::ZERO);
                    }
                    let (p, ds) = (&mut p[inner.clone()], &mut ds[inner]);
                    let row = from + r * hidden;
                    let (o, dy) = (&o[row..][..d], &dy[row..][..d]);
                    let delta = sum_lanes(d, |c| o[c] * dy[c]);
                    let lse = lse[q0 + r];
                    p.iter_mut().for_each(|p| *p = p.mul_add(scale, -lse).exp());
                    match &mask {
                        Some(m) => m.row(
                            start + q0 + r,
                            part.head as u32,
                            seen.end,
                            inlined!(|j: usize, m: &[T]| {
                                let (at, m) = within(j, m, first);
                                let (p, ds) = (&mut p[at..][..m.len()], &mut ds[at..][..m.len()]);
                                score_gradients(p, ds, m, [delta, scale]);
                            }),
                        ),
                        None => {
                            p.iter().zip(ds.iter_mut()).for_each(|(&p, ds)| *ds = p * (*ds - delta) * scale);
                        }
                    }
                }
            });
            let (p, ds) = (Mat::new(&p, n), Mat::new(&ds, n));
            let put = |data, add| Out { data, row: d, add };
            // Blocks of queries see the same keys, with a window some of them.
            let add = q0 > 0 || op.window.is_some();
            let (dk, dv) = (&mut dk[k0 * d..][..n * d], &mut dv[k0 * d..][..n * d]);
            matmul_serial(cpu, [rows, d, n], ds, at(1, k0), put(&mut dq[q0 * d..][..rows * d], false))?;
            matmul_serial(cpu, [n, d, rows], ds.t(), at(0, q0), put(dk, add))?;
            matmul_serial(cpu, [n, d, rows], p.t(), dout, put(dv, add))?;
        }
        Ok(())
    };
    let parts = parts(&seqs, op.heads, 3 * d, &mut out, &mut []);
    cpu.install(|| parts.into_par_iter().filter(|p| !p.tokens.is_empty()).try_for_each(task))?;
    gather(cpu, &seqs, [op.heads, 3, d], &out, &mut g.t.cpu_mut::<T>()?, g.add);
    Ok(())
}
