//! Both passes on the CPU: a block of queries at a time; tasks of one head of one sequence, or of one head
//! for the gradients, since the gradients of r and of the biases are sums over all sequences.

use super::{Dropout, RelativeAttention, Sizes};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{Mat, Out, Real, Slice, inlined, matmul_serial, max_lanes, sum_lanes, vectorise};
use crate::device::{Cpu, Tensor};
use crate::error::Result;
use crate::ops::attention::cpu::{Part, gather, parts, score_gradients, with_tokens};
use crate::ops::dropout::Mask;
use crate::ops::{Backward, Forward, Grad, On, by_dtype, sequences};
use std::ops::Range;

/// Queries that one pass of a task handles.
const QUERIES: usize = 64;

impl On<Cpu> for RelativeAttention {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, forward(self, cpu, io))
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, backward(self, cpu, io))
    }
}

/// The inputs, read.
struct Inputs<'a, T> {
    s: Sizes,
    seqs: Vec<Range<usize>>,
    qkv: Slice<'a, T>,
    segments: Slice<'a, u32>,
    r: Slice<'a, T>,
    bias: Slice<'a, T>,
    order: Option<Slice<'a, u32>>,
    mask: Option<Mask<T>>,
}

/// What a task holds of one block of queries: sizes in elements.
#[derive(Clone, Copy)]
struct Room {
    /// Scores by key.
    keys: usize,
    /// Scores by distance.
    distances: usize,
    /// The queries with a bias.
    queries: usize,
}

/// A block of queries of one head of one sequence, and the rows of r from `low` on that it needs.
struct Block {
    start: usize,
    len: usize,
    head: usize,
    q0: usize,
    rows: usize,
    low: usize,
    width: usize,
}

impl<'a, T: Real> Inputs<'a, T> {
    fn new(op: &RelativeAttention, x: &[&'a Tensor]) -> Result<Self> {
        let s = op.sizes(&x.iter().map(|t| &t.spec).collect::<Vec<_>>());
        let key = x.get(op.key()).map(|k| k.cpu::<u32>()).transpose()?;
        Ok(Inputs {
            s,
            seqs: sequences(&x[1].cpu::<u32>()?, s.tokens)?,
            qkv: x[0].cpu()?,
            segments: x[2].cpu()?,
            r: x[3].cpu()?,
            bias: x[4].cpu()?,
            order: op.ordered.then(|| x[5].cpu()).transpose()?,
            mask: op.dropout.filter(Dropout::active).zip(key.as_deref()).map(|(d, k)| d.mask(k)),
        })
    }
    fn room(&self) -> Room {
        let longest = self.seqs.iter().map(Range::len).max().unwrap_or(0);
        let rows = QUERIES.min(longest);
        let span = if self.order.is_some() { usize::MAX } else { longest + rows };
        let distances = rows * self.s.distances.min(span);
        Room { keys: rows * longest, distances, queries: rows * self.s.dim }
    }
    /// Rows of queries (0), keys (1) or values (2) of a head from a token on.
    fn at(&self, plane: usize, token: usize, head: usize) -> Mat<'_, T> {
        let hidden = self.s.hidden();
        let from = token * 3 * hidden + plane * hidden + head * self.s.dim;
        Mat { data: &self.qkv[from..], row: 3 * hidden, col: 1 }
    }
    fn bias(&self, which: usize, head: usize) -> &[T] {
        &self.bias[which * self.s.hidden() + head * self.s.dim..][..self.s.dim]
    }
    /// The rows of r for a block.
    fn distances(&self, b: &Block) -> Mat<'_, T> {
        let from = b.low * self.s.hidden() + b.head * self.s.dim;
        Mat { data: &self.r[from..], row: self.s.hidden(), col: 1 }
    }
    /// A query's place in its sequence.
    fn place(&self, start: usize, i: usize) -> usize {
        self.order.as_ref().map_or(i, |o| o[3 * (start + i)] as usize)
    }
    /// The row of r for a query at a place and the first key; of the next key it is one less, down to the
    /// first row.
    fn row(&self, place: usize) -> usize {
        place + self.s.distances / 2
    }
    fn block(&self, tokens: &Range<usize>, head: usize, q0: usize) -> Block {
        let (start, len) = (tokens.start, tokens.len());
        let rows = QUERIES.min(len - q0);
        let rows_of = |i| self.row(self.place(start, i));
        let last = self.s.distances - 1;
        let all = (q0..q0 + rows).map(rows_of);
        let (most, least) = (all.clone().max().unwrap_or(0), all.min().unwrap_or(0));
        let low = least.saturating_sub(len - 1).min(last);
        Block { start, len, head, q0, rows, low, width: most.min(last) - low + 1 }
    }
    /// Calls `f(key, distance's number in the block, same segment or not)` for the keys that a query sees.
    #[inline(always)]
    fn keys(&self, b: &Block, r: usize, mut f: impl FnMut(usize, usize, usize)) {
        let i = b.start + b.q0 + r;
        let first = self.row(self.place(b.start, b.q0 + r));
        let (last, segment) = (self.s.distances - 1, self.segments[i]);
        for j in 0..b.len {
            if let Some(order) = &self.order
                && order[3 * (b.start + j) + 1] >= order[3 * i + 2]
            {
                continue;
            }
            let row = first.saturating_sub(j).min(last);
            f(j, row - b.low, (self.segments[b.start + j] != segment) as usize);
        }
    }
    /// q + a bias, for the queries of a block.
    fn queries(&self, b: &Block, which: usize, out: &mut [T]) {
        let (d, q) = (self.s.dim, self.at(0, b.start + b.q0, b.head));
        for (r, out) in out.chunks_exact_mut(d).enumerate() {
            let (q, bias) = (&q.data[r * q.row..][..d], self.bias(which, b.head));
            out.iter_mut().zip(q).zip(bias).for_each(|((o, &q), &b)| *o = q + b);
        }
    }
    /// The scores of a block (rows, len), not yet scaled; -infinity for keys that are not seen. `p` is room
    /// for scores by distance, `q` for queries.
    fn scores(&self, cpu: &Cpu, b: &Block, s: &mut [T], p: &mut [T], q: &mut [T]) -> Result<()> {
        let (rows, d) = (b.rows, self.s.dim);
        let (p, q) = (&mut p[..rows * b.width], &mut q[..rows * d]);
        self.queries(b, 0, q);
        let to = Out { data: &mut *s, row: b.len, add: false };
        matmul_serial(cpu, [rows, b.len, d], Mat::new(q, d), self.at(1, b.start, b.head).t(), to)?;
        self.queries(b, 1, q);
        let to = Out { data: &mut *p, row: b.width, add: false };
        matmul_serial(cpu, [rows, b.width, d], Mat::new(q, d), self.distances(b).t(), to)?;
        self.queries(b, 2, q);
        for (r, s) in s.chunks_exact_mut(b.len).enumerate() {
            let q = &q[r * d..][..d];
            let kind = [3, 4].map(|which| {
                let e = self.bias(which, b.head);
                sum_lanes(d, |c| q[c] * e[c])
            });
            let p = &p[r * b.width..][..b.width];
            if self.order.is_some() {
                let mut seen = vec![false; b.len];
                self.keys(b, r, |j, t, different| {
                    s[j] += p[t] + kind[different];
                    seen[j] = true;
                });
                for (s, _) in s.iter_mut().zip(&seen).filter(|(_, seen)| !**seen) {
                    *s = T::of(f64::NEG_INFINITY);
                }
            } else {
                self.keys(b, r, |j, t, different| s[j] += p[t] + kind[different]);
            }
        }
        Ok(())
    }
}

fn forward<T: Real>(op: &RelativeAttention, cpu: &Cpu, io: Forward) -> Result<()> {
    let x = Inputs::<T>::new(op, io.x)?;
    let (s, d) = (x.s, x.s.dim);
    let (mut o, mut lse) = (io.y[0].cpu_mut::<T>()?, io.y[1].cpu_mut::<T>()?);
    let scratch = cpu.scratch(s.tokens * s.hidden() * size_of::<T>())?;
    let mut out = scratch.write::<T>(0, s.tokens * s.hidden())?;
    let room = x.room();
    let blocks = cpu.scratch_per_thread(size_of::<T>() * (room.keys + room.distances + room.queries))?;
    let scale = T::of(op.scale as f64);
    let task = |part: Part<T>| -> Result<()> {
        let len = part.tokens.len();
        let mut p = blocks.mine::<T>(0, room.keys)?;
        let mut by_distance = blocks.mine::<T>(room.keys, room.distances)?;
        let mut q = blocks.mine::<T>(room.keys + room.distances, room.queries)?;
        for q0 in (0..len).step_by(QUERIES) {
            let b = x.block(&part.tokens, part.head, q0);
            let p = &mut p[..b.rows * len];
            x.scores(cpu, &b, p, &mut by_distance, &mut q)?;
            vectorise!({
                for (r, p) in p.chunks_exact_mut(len).enumerate() {
                    let max = max_lanes(p) * scale;
                    // A query that sees nothing has no probabilities.
                    let max = if max == T::of(f64::NEG_INFINITY) { T::ZERO } else { max };
                    p.iter_mut().for_each(|p| *p = p.mul_add(scale, -max).exp());
                    let sum = sum_lanes(len, |j| p[j]);
                    part.lse[q0 + r] = if sum == T::ZERO { T::ZERO } else { max + sum.ln() };
                    let norm = if sum == T::ZERO { T::ZERO } else { T::ONE / sum };
                    match &x.mask {
                        Some(m) => m.row(
                            part.tokens.start + q0 + r,
                            part.head as u32,
                            len,
                            inlined!(|j: usize, m: &[T]| {
                                p[j..].iter_mut().zip(m).for_each(|(p, &m)| *p *= norm * m);
                            }),
                        ),
                        None => p.iter_mut().for_each(|p| *p *= norm),
                    }
                }
            });
            let o = Out { data: &mut part.out[q0 * d..][..b.rows * d], row: d, add: false };
            matmul_serial(cpu, [b.rows, d, len], Mat::new(p, len), x.at(2, b.start, part.head), o)?;
        }
        Ok(())
    };
    let parts = parts(&x.seqs, s.heads, d, &mut out, &mut lse);
    cpu.install(|| with_tokens(parts).into_par_iter().try_for_each(task))?;
    gather(cpu, &x.seqs, [s.heads, 1, d], &out, &mut o, false);
    Ok(())
}

fn put<T>(data: &mut [T], row: usize, add: bool) -> Out<'_, T> {
    Out { data, row, add }
}

fn backward<T: Real>(op: &RelativeAttention, cpu: &Cpu, io: Backward) -> Result<()> {
    let [g_qkv, g_r, g_bias] = [0, 3, 4].map(|i| io.dx(i));
    if g_qkv.is_none() && g_r.is_none() && g_bias.is_none() {
        return Ok(());
    }
    let x = Inputs::<T>::new(op, io.x)?;
    let (s, d) = (x.s, x.s.dim);
    let hidden = s.hidden();
    let (o, lse, dy) = (io.y[0].cpu::<T>()?, io.y[1].cpu::<T>()?, io.dy()?.cpu::<T>()?);
    let table = (s.distances + 5) * d;
    let total = 3 * s.tokens * hidden + s.heads * table;
    let scratch = cpu.scratch(total * size_of::<T>())?;
    let mut all = scratch.write::<T>(0, total)?;
    let (out, tables) = all.split_at_mut(3 * s.tokens * hidden);
    let room = x.room();
    let each = 2 * room.keys + 2 * room.distances + 2 * room.queries;
    let blocks = cpu.scratch_per_thread(size_of::<T>() * each)?;
    let scale = T::of(op.scale as f64);
    let task = |(parts, table): (Vec<Part<T>>, &mut [T])| -> Result<()> {
        let (dr, dbias) = table.split_at_mut(s.distances * d);
        dr.fill(T::ZERO);
        dbias.fill(T::ZERO);
        let mut at = 0;
        let mut mine = |len: usize| {
            at += len;
            blocks.mine::<T>(at - len, len)
        };
        let (mut p, mut ds) = (mine(room.keys)?, mine(room.keys)?);
        let (mut by_distance, mut dt) = (mine(room.distances)?, mine(room.distances)?);
        let (mut q, mut pull) = (mine(room.queries)?, mine(room.queries)?);
        for part in parts {
            let (len, start, head) = (part.tokens.len(), part.tokens.start, part.head);
            let lse = &lse[start * s.heads + head * len..][..len];
            let (dq, rest) = part.out.split_at_mut(len * d);
            let (dk, dv) = rest.split_at_mut(len * d);
            for q0 in (0..len).step_by(QUERIES) {
                let b = x.block(&part.tokens, head, q0);
                let rows = b.rows;
                let (p, ds) = (&mut p[..rows * len], &mut ds[..rows * len]);
                let (q, pull) = (&mut q[..rows * d], &mut pull[..rows * d]);
                x.scores(cpu, &b, p, &mut by_distance, q)?;
                let from = (start + q0) * hidden + head * d;
                let dout = Mat { data: &dy[from..], row: hidden, col: 1 };
                matmul_serial(cpu, [rows, len, d], dout, x.at(2, start, head).t(), put(ds, len, false))?;
                vectorise!({
                    for (r, (p, ds)) in p.chunks_exact_mut(len).zip(ds.chunks_exact_mut(len)).enumerate() {
                        let row = from + r * hidden;
                        let (o, dy) = (&o[row..][..d], &dy[row..][..d]);
                        let delta = sum_lanes(d, |c| o[c] * dy[c]);
                        let lse = lse[q0 + r];
                        p.iter_mut().for_each(|p| *p = p.mul_add(scale, -lse).exp());
                        match &x.mask {
                            Some(m) => m.row(
                                start + q0 + r,
                                head as u32,
                                len,
                                inlined!(|j: usize, m: &[T]| {
                                    let (p, ds) = (&mut p[j..][..m.len()], &mut ds[j..][..m.len()]);
                                    score_gradients(p, ds, m, [delta, scale]);
                                }),
                            ),
                            None => {
                                p.iter()
                                    .zip(ds.iter_mut())
                                    .for_each(|(&p, ds)| *ds = p * (*ds - delta) * scale);
                            }
                        }
                    }
                });
                let dt = &mut dt[..rows * b.width];
                dt.fill(T::ZERO);
                let mut kinds = [[T::ZERO; 2]; QUERIES];
                for (r, (ds, dt)) in ds.chunks_exact(len).zip(dt.chunks_exact_mut(b.width)).enumerate() {
                    x.keys(&b, r, |j, t, different| {
                        dt[t] += ds[j];
                        kinds[r][different] += ds[j];
                    });
                }
                let (p, ds, dt) = (Mat::new(p, len), Mat::new(ds, len), Mat::new(dt, b.width));
                let dq = &mut dq[q0 * d..][..rows * d];
                let mut sum = |which: usize, rows: &[T]| {
                    for row in rows.chunks_exact(d) {
                        dbias[which * d..][..d].iter_mut().zip(row).for_each(|(b, &v)| *b += v);
                    }
                };
                matmul_serial(cpu, [rows, d, len], ds, x.at(1, start, head), put(dq, d, false))?;
                sum(0, dq);
                matmul_serial(cpu, [rows, d, b.width], dt, x.distances(&b), put(pull, d, false))?;
                sum(1, pull);
                dq.iter_mut().zip(&*pull).for_each(|(q, &p)| *q += p);
                for (pull, kinds) in pull.chunks_exact_mut(d).zip(&kinds) {
                    let (same, different) = (x.bias(3, head), x.bias(4, head));
                    for (c, pull) in pull.iter_mut().enumerate() {
                        *pull = kinds[0].mul_add(same[c], kinds[1] * different[c]);
                    }
                }
                sum(2, pull);
                dq.iter_mut().zip(&*pull).for_each(|(q, &p)| *q += p);
                x.queries(&b, 2, q);
                for which in [0, 1] {
                    for (pull, (q, kinds)) in pull.chunks_exact_mut(d).zip(q.chunks_exact(d).zip(&kinds)) {
                        pull.iter_mut().zip(q).for_each(|(p, &q)| *p = q * kinds[which]);
                    }
                    sum(3 + which, pull);
                }
                x.queries(&b, 0, q);
                matmul_serial(cpu, [len, d, rows], ds.t(), Mat::new(q, d), put(dk, d, q0 > 0))?;
                x.queries(&b, 1, q);
                let dr = &mut dr[b.low * d..][..b.width * d];
                matmul_serial(cpu, [b.width, d, rows], dt.t(), Mat::new(q, d), put(dr, d, true))?;
                matmul_serial(cpu, [len, d, rows], p.t(), dout, put(dv, d, q0 > 0))?;
            }
        }
        Ok(())
    };
    let mut heads: Vec<Vec<Part<T>>> = (0..s.heads).map(|_| Vec::new()).collect();
    for part in parts(&x.seqs, s.heads, 3 * d, out, &mut []) {
        if !part.tokens.is_empty() {
            heads[part.head].push(part);
        }
    }
    cpu.install(|| heads.into_par_iter().zip(tables.par_chunks_mut(table)).try_for_each(task))?;
    if let Some(g) = g_qkv {
        gather(cpu, &x.seqs, [s.heads, 3, d], out, &mut g.t.cpu_mut::<T>()?, g.add);
    }
    let write = |g: Option<Grad>, from: usize| -> Result<()> {
        let Some(g) = g else { return Ok(()) };
        let mut to = g.t.cpu_mut::<T>()?;
        for (i, to) in to.chunks_exact_mut(d).enumerate() {
            let (row, head) = (i / s.heads, i % s.heads);
            let piece = &tables[head * table + (from + row) * d..][..d];
            to.iter_mut().zip(piece).for_each(|(t, &p)| *t = if g.add { *t + p } else { p });
        }
        Ok(())
    };
    write(g_r, 0)?;
    write(g_bias, s.distances)
}
