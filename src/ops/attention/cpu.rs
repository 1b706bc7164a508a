//! Both passes on the CPU. A task computes one head of one sequence.

use super::{Attention, Dropout};
use crate::device::Cpu;
use crate::device::cpu::parallel::*;
use crate::device::cpu::{
    GradientMut, Mat, Out, Real, Scalar, by_gradient, by_scalar, inlined, load_row, matmul_serial, max_lanes,
    store_row, sum_lanes, vectorise,
};
use crate::error::Result;
use crate::ops::{Backward, Forward, Grad, On, accumulator, sequences};
use std::ops::Range;

/// The number of queries that a task processes at a time. All of their scores are in memory at once: for 512
/// keys in f32 they are 128 KiB, which a second-level cache holds.
const QUERIES: usize = 64;

impl On<Cpu> for Attention {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_scalar!(io.x[0].spec.dtype, T => forward::<T>(self, cpu, io))
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        let dtype = io.x[0].spec.dtype;
        // What is added to another gradient is rounded with it.
        let kept = if g.add { accumulator(dtype) } else { g.t.spec.dtype };
        by_gradient!(dtype, kept, (T, O) => backward::<T, O>(self, cpu, io, g))
    }
}

/// One head of one sequence.
pub(in crate::ops) struct Part<'a, T, L = T> {
    pub tokens: Range<usize>,
    pub head: usize,
    /// What this part computes, contiguous: (planes, length, head_dim).
    pub out: &'a mut [T],
    /// Its run of lse; empty in the backward pass.
    pub lse: &'a mut [L],
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
pub(in crate::ops) fn parts<'a, T, L>(
    seqs: &[Range<usize>],
    heads: usize,
    width: usize,
    mut out: &'a mut [T],
    mut lse: &'a mut [L],
) -> Vec<Part<'a, T, L>> {
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

/// Those parts that have tokens.
pub(in crate::ops) fn with_tokens<T, L>(mut parts: Vec<Part<T, L>>) -> Vec<Part<T, L>> {
    parts.retain(|part| !part.tokens.is_empty());
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

/// Writes `from`, which is laid out (sequence, head, plane, token, d), to `to` (tokens, planes heads d), or
/// adds it.
pub(in crate::ops) fn gather<T: Scalar, G: Scalar<Real = T::Real>>(
    cpu: &Cpu,
    seqs: &[Range<usize>],
    [heads, planes, d]: [usize; 3],
    from: &[T],
    to: &mut [G],
    add: bool,
) {
    let width = planes * heads * d;
    let mut rows: Vec<(Range<usize>, &mut [G])> = Vec::with_capacity(seqs.len());
    let mut rest = to;
    for s in seqs {
        let (here, after) = rest.split_at_mut(s.len() * width);
        rows.push((s.clone(), here));
        rest = after;
    }
    cpu.install(|| {
        rows.into_par_iter().for_each(|(s, to)| {
            let from = &from[s.start * width..][..s.len() * width];
            vectorise!({
                for (t, to) in to.chunks_exact_mut(width).enumerate() {
                    for (i, to) in to.chunks_exact_mut(d).enumerate() {
                        let (plane, head) = (i / heads, i % heads);
                        let piece = &from[((head * planes + plane) * s.len() + t) * d..][..d];
                        let pairs = to.iter_mut().zip(piece);
                        match add {
                            true => pairs.for_each(|(t, p)| *t = G::store(t.load() + p.load())),
                            false => pairs.for_each(|(t, p)| *t = G::store(p.load())),
                        }
                    }
                }
            })
        })
    });
}

/// A matrix of `rows` x d elements at a row distance, as a matmul reads it: where it lies, or converted into
/// `room`.
fn operand<'a, T: Scalar>(
    from: &'a [T],
    [row, rows, d]: [usize; 3],
    room: &'a mut [T::Real],
) -> Mat<'a, T::Real> {
    if let Some(data) = T::reals(from) {
        return Mat { data, row, col: 1 };
    }
    vectorise!({
        for (r, to) in room.chunks_exact_mut(d.max(1)).take(rows).enumerate() {
            load_row(&from[r * row..][..d], to);
        }
    });
    Mat::new(room, d)
}

/// A matrix without its first rows.
fn below<T>(m: Mat<T>, rows: usize) -> Mat<T> {
    Mat { data: &m.data[rows * m.row..], ..m }
}

/// Memory of a task for values that are converted, in elements: none where nothing is.
fn room<T: Scalar>(elements: usize) -> usize {
    if T::reals(&[]).is_some() { 0 } else { elements }
}

fn forward<T: Scalar>(op: &Attention, cpu: &Cpu, io: Forward) -> Result<()> {
    let (tokens, cols) = io.x[0].spec.rows_cols();
    let (hidden, d) = (cols / 3, cols / 3 / op.heads);
    let (qkv, seqs) = (io.x[0].cpu::<T>()?, sequences(&io.x[1].cpu::<u32>()?, tokens)?);
    let key = io.x.get(2).map(|k| k.cpu::<u32>()).transpose()?;
    let mask = op.dropout.filter(Dropout::active).zip(key.as_deref()).map(|(d, k)| d.mask::<T::Real>(k));
    let (mut o, mut lse) = (io.y[0].cpu_mut::<T>()?, io.y[1].cpu_mut::<T::Real>()?);
    let scratch = cpu.scratch(tokens * hidden * size_of::<T>())?;
    let mut out = scratch.write::<T>(0, tokens * hidden)?;
    let (block, longest) = (block_of(&seqs), seqs.iter().map(Range::len).max().unwrap_or(0));
    let [some, all] = [QUERIES, longest].map(|rows| room::<T>(rows * d));
    let blocks = cpu.scratch_per_thread(size_of::<T::Real>() * (block + 2 * some + 2 * all))?;
    let scale = T::Real::of(op.scale as f64);
    let task = |part: Part<T, T::Real>| -> Result<()> {
        let len = part.tokens.len();
        let from =
            |plane: usize, t: usize| &qkv[(part.tokens.start + t) * cols + plane * hidden + part.head * d..];
        let whole = |i: usize| blocks.mine::<T::Real>(block + 2 * some + i * all, room::<T>(len * d));
        let (mut keys_room, mut values_room) = (whole(0)?, whole(1)?);
        let k = operand(from(1, 0), [cols, len, d], &mut keys_room);
        let v = operand(from(2, 0), [cols, len, d], &mut values_room);
        for q0 in (0..len).step_by(QUERIES) {
            let rows = QUERIES.min(len - q0);
            let seen_by_any = keys(op.window, q0..q0 + rows, len);
            let (k0, n) = (seen_by_any.start, seen_by_any.len());
            let mut p = blocks.mine::<T::Real>(0, rows * n)?;
            let piece = |i: usize| blocks.mine::<T::Real>(block + i * some, room::<T>(rows * d));
            let (mut queries_room, mut out_room) = (piece(0)?, piece(1)?);
            let q = operand(from(0, q0), [cols, rows, d], &mut queries_room);
            let scores = Out { data: &mut p, row: n, add: false };
            matmul_serial(cpu, [rows, n, d], q, below(k, k0).t(), scores)?;
            vectorise!({
                for (r, p) in p.chunks_exact_mut(n).enumerate() {
                    // The block has the keys that any of its queries sees; a row's own are fewer where there
                    // is a window.
                    let seen = keys(op.window, q0 + r..q0 + r + 1, len);
                    let (before, rest) = p.split_at_mut(seen.start - k0);
                    let (p, after) = rest.split_at_mut(seen.len());
                    before.fill(Real::ZERO);
                    after.fill(Real::ZERO);
                    let max = max_lanes(p) * scale;
                    p.iter_mut().for_each(|p| *p = p.mul_add(scale, -max).exp());
                    let sum = sum_lanes(p.len(), |j| p[j]);
                    part.lse[q0 + r] = max + sum.ln();
                    let norm = T::Real::ONE / sum;
                    let first = seen.start;
                    match &mask {
                        Some(m) => m.row(
                            part.tokens.start + q0 + r,
                            part.head as u32,
                            seen.end,
                            inlined!(|j: usize, m: &[T::Real]| {
                                let (at, m) = within(j, m, first);
                                p[at..][..m.len()].iter_mut().zip(m).for_each(|(p, &m)| *p *= norm * m);
                            }),
                        ),
                        None => p.iter_mut().for_each(|p| *p *= norm),
                    }
                }
            });
            let o = &mut part.out[q0 * d..][..rows * d];
            let data = T::reals_mut(o).unwrap_or(&mut out_room);
            let product = Out { data, row: d, add: false };
            matmul_serial(cpu, [rows, d, n], Mat::new(&p, n), below(v, k0), product)?;
            vectorise!(store_row(&out_room, o, false));
        }
        Ok(())
    };
    let parts = parts(&seqs, op.heads, d, &mut out, &mut lse);
    cpu.install(|| with_tokens(parts).into_par_iter().try_for_each(task))?;
    gather(cpu, &seqs, [op.heads, 1, d], &out, &mut o, false);
    Ok(())
}

/// With P the probabilities, m the mask, D = rowsum(do o): dV = (P m)^T do; dS = P (m (do V^T) - D); dQ =
/// scale dS K; dK = scale dS^T Q. They are kept as O before they are put in order.
fn backward<T: Scalar, O: Scalar<Real = T::Real>>(
    op: &Attention,
    cpu: &Cpu,
    io: Backward,
    g: Grad,
) -> Result<()> {
    let (tokens, cols) = io.x[0].spec.rows_cols();
    let (hidden, d) = (cols / 3, cols / 3 / op.heads);
    let (qkv, seqs) = (io.x[0].cpu::<T>()?, sequences(&io.x[1].cpu::<u32>()?, tokens)?);
    let key = io.x.get(2).map(|k| k.cpu::<u32>()).transpose()?;
    let mask = op.dropout.filter(Dropout::active).zip(key.as_deref()).map(|(d, k)| d.mask::<T::Real>(k));
    let (o, lse, dy) = (io.y[0].cpu::<T>()?, io.y[1].cpu::<T::Real>()?, io.dy()?.cpu::<T>()?);
    let scratch = cpu.scratch(tokens * cols * size_of::<O>())?;
    let mut out = scratch.write::<O>(0, tokens * cols)?;
    let (block, longest) = (block_of(&seqs), seqs.iter().map(Range::len).max().unwrap_or(0));
    let [some, all] = [QUERIES, longest].map(|rows| room::<T>(rows * d));
    let (converted, kept) = (2 * block, 2 * block + 2 * some + 2 * all);
    let blocks = cpu.scratch_per_thread(size_of::<T::Real>() * (kept + room::<O>(3 * longest * d)))?;
    let scale = T::Real::of(op.scale as f64);
    let task = |part: Part<O>| -> Result<()> {
        let (len, start) = (part.tokens.len(), part.tokens.start);
        let of = |plane: usize, t: usize| &qkv[(start + t) * cols + plane * hidden + part.head * d..];
        let whole = |i: usize| blocks.mine::<T::Real>(converted + 2 * some + i * all, room::<T>(len * d));
        let (mut keys_room, mut values_room) = (whole(0)?, whole(1)?);
        let k = operand(of(1, 0), [cols, len, d], &mut keys_room);
        let v = operand(of(2, 0), [cols, len, d], &mut values_room);
        let lse = &lse[start * op.heads + part.head * len..][..len];
        let mut kept = blocks.mine::<T::Real>(kept, room::<O>(3 * len * d))?;
        let sums = O::reals_mut(&mut *part.out).unwrap_or(&mut kept);
        let (dq, rest) = sums.split_at_mut(len * d);
        let (dk, dv) = rest.split_at_mut(len * d);
        if op.window.is_some() {
            dk.fill(Real::ZERO);
            dv.fill(Real::ZERO);
        }
        for q0 in (0..len).step_by(QUERIES) {
            let rows = QUERIES.min(len - q0);
            let seen_by_any = keys(op.window, q0..q0 + rows, len);
            let (k0, n) = (seen_by_any.start, seen_by_any.len());
            let (mut p, mut ds) =
                (blocks.mine::<T::Real>(0, rows * n)?, blocks.mine::<T::Real>(block, rows * n)?);
            let from = (start + q0) * hidden + part.head * d;
            let piece = |i: usize| blocks.mine::<T::Real>(converted + i * some, room::<T>(rows * d));
            let (mut queries_room, mut dout_room) = (piece(0)?, piece(1)?);
            let q = operand(of(0, q0), [cols, rows, d], &mut queries_room);
            let dout = operand(&dy[from..], [hidden, rows, d], &mut dout_room);
            let scores = |data| Out { data, row: n, add: false };
            matmul_serial(cpu, [rows, n, d], q, below(k, k0).t(), scores(&mut p))?;
            matmul_serial(cpu, [rows, n, d], dout, below(v, k0).t(), scores(&mut ds))?;
            vectorise!({
                for (r, (p, ds)) in p.chunks_exact_mut(n).zip(ds.chunks_exact_mut(n)).enumerate() {
                    let seen = keys(op.window, q0 + r..q0 + r + 1, len);
                    let (first, inner) = (seen.start, seen.start - k0..seen.end - k0);
                    for v in [&mut *p, &mut *ds] {
                        v[..inner.start].fill(Real::ZERO);
                        v[inner.end..].fill(Real::ZERO);
                    }
                    let (p, ds) = (&mut p[inner.clone()], &mut ds[inner]);
                    let row = from + r * hidden;
                    let (o, dy) = (&o[row..][..d], &dy[row..][..d]);
                    let delta = sum_lanes(d, |c| o[c].load() * dy[c].load());
                    let lse = lse[q0 + r];
                    p.iter_mut().for_each(|p| *p = p.mul_add(scale, -lse).exp());
                    match &mask {
                        Some(m) => m.row(
                            start + q0 + r,
                            part.head as u32,
                            seen.end,
                            inlined!(|j: usize, m: &[T::Real]| {
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
            matmul_serial(cpu, [rows, d, n], ds, below(k, k0), put(&mut dq[q0 * d..][..rows * d], false))?;
            matmul_serial(cpu, [n, d, rows], ds.t(), q, put(dk, add))?;
            matmul_serial(cpu, [n, d, rows], p.t(), dout, put(dv, add))?;
        }
        vectorise!(store_row(&kept, part.out, false));
        Ok(())
    };
    let parts = parts(&seqs, op.heads, 3 * d, &mut out, &mut []);
    cpu.install(|| with_tokens(parts).into_par_iter().try_for_each(task))?;
    let order = [op.heads, 3, d];
    match GradientMut::<T>::of(g.t, io.x[0].spec.dtype)? {
        GradientMut::Same(mut all) => gather(cpu, &seqs, order, &out, &mut all, g.add),
        GradientMut::Sums(mut all) => gather(cpu, &seqs, order, &out, &mut all, g.add),
    }
    Ok(())
}
