//! Both passes on the CPU: tasks of one head of one sequence, a block of tokens at a time.

use super::Favor;
use crate::device::Cpu;
use crate::device::cpu::parallel::*;
use crate::device::cpu::{Mat, Out, Real, matmul_serial, sum_lanes, vectorise};
use crate::error::Result;
use crate::ops::attention::cpu::{Part, gather, parts};
use crate::ops::{Backward, Forward, On, by_dtype, sequences};

/// Tokens that one pass of a task handles.
const ROWS: usize = 64;

impl On<Cpu> for Favor {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, forward(self, cpu, io))
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, backward(self, cpu, io))
    }
}

fn forward<T: Real>(op: &Favor, cpu: &Cpu, io: Forward) -> Result<()> {
    let s = op.sizes([0, 1, 2].map(|i| &io.x[i].spec));
    let (d, m, cols) = (s.dim, s.features, 3 * s.heads * s.dim);
    let (qkv, seqs) = (io.x[0].cpu::<T>()?, sequences(&io.x[1].cpu::<u32>()?, s.tokens)?);
    let w = io.x[2].cpu::<T>()?;
    let (mut o, mut table, mut lse) =
        (io.y[0].cpu_mut::<T>()?, io.y[1].cpu_mut::<T>()?, io.y[2].cpu_mut::<T>()?);
    let (c, l) = table.split_at_mut(s.rows() * d);
    let scratch = cpu.scratch(s.tokens * s.heads * d * size_of::<T>())?;
    let mut out = scratch.write::<T>(0, s.tokens * s.heads * d)?;
    let blocks = cpu.scratch_per_thread(size_of::<T>() * (ROWS * m + 2 * m))?;
    let (scale, root) = (T::of(op.scale as f64), T::of(op.scale as f64).sqrt());
    let task = |(part, (c, l)): (Part<T>, (&mut [T], &mut [T]))| -> Result<()> {
        let len = part.tokens.len();
        let at = |plane: usize, t: usize| Mat {
            data: &qkv[(part.tokens.start + t) * cols + plane * s.heads * d + part.head * d..],
            row: cols,
            col: 1,
        };
        let mut logits = blocks.mine::<T>(0, ROWS * m)?;
        let mut stats = blocks.mine::<T>(ROWS * m, 2 * m)?;
        let (sum, fade) = stats.split_at_mut(m);
        // l holds the maxima until the sums are there.
        l.fill(T::of(f64::NEG_INFINITY));
        sum.fill(T::ZERO);
        c.fill(T::ZERO);
        for k0 in (0..len).step_by(ROWS) {
            let rows = ROWS.min(len - k0);
            let p = &mut logits[..rows * m];
            let to = Out { data: &mut *p, row: m, add: false };
            matmul_serial(cpu, [rows, m, d], at(1, k0), Mat::new(&w, d).t(), to)?;
            vectorise!({
                fade.copy_from_slice(l);
                for (r, p) in p.chunks_exact_mut(m).enumerate() {
                    let half = half_norm(at(1, k0 + r).data, d, scale);
                    for (p, l) in p.iter_mut().zip(l.iter_mut()) {
                        *p = p.mul_add(root, -half);
                        *l = p.larger(*l);
                    }
                }
                for ((f, &l), s) in fade.iter_mut().zip(l.iter()).zip(sum.iter_mut()) {
                    *f = (*f - l).exp();
                    *s *= *f;
                }
                for p in p.chunks_exact_mut(m) {
                    for ((p, &l), s) in p.iter_mut().zip(l.iter()).zip(sum.iter_mut()) {
                        *p = (*p - l).exp();
                        *s += *p;
                    }
                }
                for (c, &f) in c.chunks_exact_mut(d).zip(fade.iter()) {
                    c.iter_mut().for_each(|c| *c *= f);
                }
            });
            let to = Out { data: &mut *c, row: d, add: true };
            matmul_serial(cpu, [m, d, rows], Mat::new(p, m).t(), at(2, k0), to)?;
        }
        for ((c, l), &s) in c.chunks_exact_mut(d).zip(l.iter_mut()).zip(sum.iter()) {
            let norm = T::ONE / s;
            c.iter_mut().for_each(|c| *c *= norm);
            *l += s.ln();
        }
        for q0 in (0..len).step_by(ROWS) {
            let rows = ROWS.min(len - q0);
            let p = &mut logits[..rows * m];
            let to = Out { data: &mut *p, row: m, add: false };
            matmul_serial(cpu, [rows, m, d], at(0, q0), Mat::new(&w, d).t(), to)?;
            vectorise!({
                for (r, p) in p.chunks_exact_mut(m).enumerate() {
                    let mut max = T::of(f64::NEG_INFINITY);
                    for (p, &l) in p.iter_mut().zip(l.iter()) {
                        *p = p.mul_add(root, l);
                        max = p.larger(max);
                    }
                    p.iter_mut().for_each(|p| *p = (*p - max).exp());
                    let sum = sum_lanes(m, |j| p[j]);
                    part.lse[q0 + r] = max + sum.ln();
                    let norm = T::ONE / sum;
                    p.iter_mut().for_each(|p| *p *= norm);
                }
            });
            let to = Out { data: &mut part.out[q0 * d..][..rows * d], row: d, add: false };
            matmul_serial(cpu, [rows, d, m], Mat::new(p, m), Mat::new(c, d), to)?;
        }
        Ok(())
    };
    let parts = parts(&seqs, s.heads, d, &mut out, &mut lse);
    let tables: Vec<_> = c.chunks_mut(m * d).zip(l.chunks_mut(m)).collect();
    cpu.install(|| {
        let all = parts.into_iter().zip(tables).filter(|(p, _)| !p.tokens.is_empty());
        all.collect::<Vec<_>>().into_par_iter().try_for_each(task)
    })?;
    gather(cpu, &seqs, [s.heads, 1, d], &out, &mut o, false);
    Ok(())
}

/// |x'|^2 / 2.
#[inline(always)]
fn half_norm<T: Real>(x: &[T], d: usize, scale: T) -> T {
    sum_lanes(d, |c| x[c] * x[c]) * scale * T::of(0.5)
}

fn put<T>(data: &mut [T], row: usize, add: bool) -> Out<'_, T> {
    Out { data, row, add }
}

fn backward<T: Real>(op: &Favor, cpu: &Cpu, io: Backward) -> Result<()> {
    let Some(g) = io.dx(0) else { return Ok(()) };
    let s = op.sizes([0, 1, 2].map(|i| &io.x[i].spec));
    let (d, m, hidden) = (s.dim, s.features, s.heads * s.dim);
    let cols = 3 * hidden;
    let (qkv, seqs) = (io.x[0].cpu::<T>()?, sequences(&io.x[1].cpu::<u32>()?, s.tokens)?);
    let w = io.x[2].cpu::<T>()?;
    let (o, table, lse, dy) =
        (io.y[0].cpu::<T>()?, io.y[1].cpu::<T>()?, io.y[2].cpu::<T>()?, io.dy()?.cpu::<T>()?);
    let (c, l) = table.split_at(s.rows() * d);
    let scratch = cpu.scratch(s.tokens * cols * size_of::<T>())?;
    let mut out = scratch.write::<T>(0, s.tokens * cols)?;
    let blocks = cpu.scratch_per_thread(size_of::<T>() * (2 * ROWS * m + m * d + m))?;
    let (scale, root) = (T::of(op.scale as f64), T::of(op.scale as f64).sqrt());
    let task = |(part, (c, l)): (Part<T>, (&[T], &[T]))| -> Result<()> {
        let (len, start) = (part.tokens.len(), part.tokens.start);
        let at = |plane: usize, t: usize| Mat {
            data: &qkv[(start + t) * cols + plane * hidden + part.head * d..],
            row: cols,
            col: 1,
        };
        let lse = &lse[start * s.heads + part.head * len..][..len];
        let (dq, rest) = part.out.split_at_mut(len * d);
        let (dk, dv) = rest.split_at_mut(len * d);
        let (mut p, mut ds) = (blocks.mine::<T>(0, ROWS * m)?, blocks.mine::<T>(ROWS * m, ROWS * m)?);
        let mut dc = blocks.mine::<T>(2 * ROWS * m, m * d)?;
        let mut e = blocks.mine::<T>(2 * ROWS * m + m * d, m)?;
        let features = Mat::new(&w[..], d);
        dc.fill(T::ZERO);
        e.fill(T::ZERO);
        for q0 in (0..len).step_by(ROWS) {
            let rows = ROWS.min(len - q0);
            let (p, ds) = (&mut p[..rows * m], &mut ds[..rows * m]);
            let from = (start + q0) * hidden + part.head * d;
            let dout = Mat { data: &dy[from..], row: hidden, col: 1 };
            matmul_serial(cpu, [rows, m, d], at(0, q0), features.t(), put(&mut *p, m, false))?;
            matmul_serial(cpu, [rows, m, d], dout, Mat::new(c, d).t(), put(&mut *ds, m, false))?;
            vectorise!({
                for (r, (p, ds)) in p.chunks_exact_mut(m).zip(ds.chunks_exact_mut(m)).enumerate() {
                    let row = from + r * hidden;
                    let (o, dy) = (&o[row..][..d], &dy[row..][..d]);
                    let delta = sum_lanes(d, |c| o[c] * dy[c]);
                    let lse = lse[q0 + r];
                    for ((p, ds), (&l, e)) in p.iter_mut().zip(ds).zip(l.iter().zip(e.iter_mut())) {
                        *p = (p.mul_add(root, l) - lse).exp();
                        *ds = *p * (*ds - delta);
                        *e += *ds;
                        *ds *= root;
                    }
                }
            });
            let to = put(&mut dq[q0 * d..][..rows * d], d, false);
            matmul_serial(cpu, [rows, d, m], Mat::new(ds, m), features, to)?;
            matmul_serial(cpu, [m, d, rows], Mat::new(p, m).t(), dout, put(&mut dc, d, true))?;
        }
        for ((e, dc), c) in e.iter_mut().zip(dc.chunks_exact(d)).zip(c.chunks_exact(d)) {
            *e -= sum_lanes(d, |i| dc[i] * c[i]);
        }
        let dc = Mat::new(&dc[..], d);
        for k0 in (0..len).step_by(ROWS) {
            let rows = ROWS.min(len - k0);
            let (p, db) = (&mut p[..rows * m], &mut ds[..rows * m]);
            matmul_serial(cpu, [rows, m, d], at(1, k0), features.t(), put(&mut *p, m, false))?;
            matmul_serial(cpu, [rows, m, d], at(2, k0), dc.t(), put(&mut *db, m, false))?;
            let dk = &mut dk[k0 * d..][..rows * d];
            let mut sums = [T::ZERO; ROWS];
            vectorise!({
                for (r, (p, db)) in p.chunks_exact_mut(m).zip(db.chunks_exact_mut(m)).enumerate() {
                    let half = half_norm(at(1, k0 + r).data, d, scale);
                    for ((p, db), (&l, &e)) in p.iter_mut().zip(db.iter_mut()).zip(l.iter().zip(e.iter())) {
                        *p = (p.mul_add(root, -half) - l).exp();
                        *db = *p * (*db + e);
                    }
                    sums[r] = sum_lanes(m, |j| db[j]);
                    db.iter_mut().for_each(|db| *db *= root);
                }
            });
            matmul_serial(cpu, [rows, d, m], Mat::new(db, m), features, put(&mut *dk, d, false))?;
            for (r, dk) in dk.chunks_exact_mut(d).enumerate() {
                let (k, sum) = (at(1, k0 + r).data, sums[r] * scale);
                dk.iter_mut().zip(k).for_each(|(dk, &k)| *dk = k.mul_add(-sum, *dk));
            }
            let to = put(&mut dv[k0 * d..][..rows * d], d, false);
            matmul_serial(cpu, [rows, d, m], Mat::new(p, m), dc, to)?;
        }
        Ok(())
    };
    let parts = parts(&seqs, s.heads, 3 * d, &mut out, &mut []);
    let tables: Vec<_> = c.chunks(m * d).zip(l.chunks(m)).collect();
    cpu.install(|| {
        let all = parts.into_iter().zip(tables).filter(|(p, _)| !p.tokens.is_empty());
        all.collect::<Vec<_>>().into_par_iter().try_for_each(task)
    })?;
    gather(cpu, &seqs, [s.heads, 3, d], &out, &mut g.t.cpu_mut::<T>()?, g.add);
    Ok(())
}
