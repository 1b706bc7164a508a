//! y = drop_after(gamma * (z - mean) * rstd + beta), z = drop_before(x) + residual; mean and rstd over the
//! last dimension.
//!
//! x (rows, cols), gamma (cols), beta (cols), then as set: residual (rows, cols), key u32 (5) -> y (rows,
//! cols). `beta` may be left out (ModernBERT). Layer norm of Ba et al. 2016, eq. 4, with the biased variance
//! and eps inside the root, as PyTorch's. Saves xhat = (z - mean) rstd (rows, cols) and rstd (rows).

use super::dropout::{Dropout, DropoutRows};
use super::{
    Backward, Call, Case, Cost, Forward, Grad, Input, On, Op, Plan, accumulator, blocks_mut, compute_dtype,
    groups_for, launch, launch_with, refuse, sum_columns, vector,
};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{
    BLOCK, GradientMut, GradientPart, Real, Scalar, by_scalar, inlined, load_row, loaded, store_row,
    sum_lanes, vectorise,
};
use crate::device::{Caps, Const, Cpu, Cuda, Gpu, Launch, Tensor, Wgpu, fold};
use crate::error::Result;
use crate::shape::{DType, Spec};

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct AddNorm {
    /// Epsilon, added to the variance.
    pub eps: f32,
    /// Whether a residual is added.
    pub residual: bool,
    /// Dropout on x, before the residual.
    pub before: Option<Dropout>,
    /// Dropout on the result.
    pub after: Option<Dropout>,
}

impl AddNorm {
    /// Which of so many inputs are beta, the residual, the key.
    fn places(&self, inputs: usize) -> [Option<usize>; 3] {
        let (residual, key) =
            (self.residual as usize, (self.before.is_some() || self.after.is_some()) as usize);
        let beta = inputs.saturating_sub(2 + residual + key);
        let place = |there: usize, at: usize| (there > 0).then_some(at);
        [place(beta, 2), place(residual, 2 + beta), place(key, 2 + beta + residual)]
    }
}

impl Op for AddNorm {
    fn name(&self) -> &'static str {
        "add_norm"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let wrong =
            || refuse("add_norm", "x (rows, cols), gamma, beta (cols), residual like x, key (5) as set", x);
        let places = self.places(x.len());
        if x.len() != 2 + places.iter().flatten().count() {
            return Err(wrong());
        }
        let ((rows, cols), [beta, residual, key]) = (x[0].rows_cols(), places.map(|p| p.map(|p| x[p])));
        let fits = x[1].shape == [cols]
            && beta.is_none_or(|b| b.shape == [cols])
            && residual.is_none_or(|r| r.shape == x[0].shape)
            && key.is_none_or(|k| k.shape == [5]);
        if !fits {
            return Err(wrong());
        }
        let dtype = compute_dtype("add_norm", caps, x)?;
        let parts = match caps.blocks {
            0 if caps.gpu => rows.div_ceil(64),
            0 => rows.div_ceil(BLOCK),
            blocks => rows.div_ceil(4).min(blocks),
        };
        let parts = parts * 2 * cols * size_of::<f32>();
        let saved = vec![x[0].clone(), Spec::new(accumulator(dtype), &[rows])];
        Ok(Plan::new(vec![x[0].clone()], saved).with_scratch([0, parts]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let [beta, residual, key] = self.places(call.x.len());
        let ([rows, _], n) = (call.rows_cols(0), call.len(0));
        let drops = |d: Option<Dropout>| d.is_some_and(|d| d.active()) as u8 as f64;
        let (before, after) = (drops(self.before), drops(self.after));
        let [add, shift] = [residual, beta].map(|p| p.is_some() as u8 as f64);
        // For each element: the sum for the mean, z - mean, its square, the sum of the squares, times rstd,
        // times gamma. For each row: two divisions by the columns, eps, the root, its reciprocal.
        let forward = (6.0 + before + add + shift + after) * n + 5.0 * rows;
        // g = gamma dy; dz = rstd (g - mean(g) - xhat mean(g xhat)); dgamma = sum of dy xhat; dbeta = sum of
        // dy.
        let wants = |p: Option<usize>| p.is_some_and(|p| call.wants(p));
        let [dx, dgamma] = [0, 1].map(|i| call.wants(i));
        let inner = dx || wants(residual);
        let count = |used: bool, flops: f64| if used { flops } else { 0.0 };
        let backward = after * n
            + count(inner, 8.0 * n + 2.0 * rows)
            + count(dx, before * n)
            + count(dgamma, 2.0 * n)
            + count(wants(beta), n)
            + call.all_sums();
        // Backward needs what was saved, and neither x nor the residual.
        let read = call.dy()
            + key.map_or(0.0, |k| call.input(k))
            + count(inner || dgamma, call.output(1))
            + count(inner, call.input(1) + call.output(2));
        Cost::new([forward, backward], [call.whole(), read + call.all_dense()])
    }
    fn reads_half(&self) -> bool {
        true
    }
}

impl On<Cpu> for AddNorm {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_scalar!(io.x[0].spec.dtype, T => forward::<T>(self, cpu, io))
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        by_scalar!(io.x[0].spec.dtype, T => backward::<T>(self, cpu, io))
    }
}

/// What one task of the forward pass fills: its block's number; y, xhat and rstd of the block.
type Filled<'a, T> = (usize, ((&'a mut [T], &'a mut [T]), &'a mut [<T as Scalar>::Real]));
/// What one task of the backward pass fills, where wanted: its block's number; dx, dresidual and the block's
/// sums for dgamma and dbeta.
type Wanted<'a, T> = (
    usize,
    ((Option<GradientPart<'a, T>>, Option<GradientPart<'a, T>>), Option<&'a mut [<T as Scalar>::Real]>),
);

fn forward<T: Scalar>(op: &AddNorm, cpu: &Cpu, io: Forward) -> Result<()> {
    let (_, cols) = io.x[0].spec.rows_cols();
    let (x, gamma) = (io.x[0].cpu::<T>()?, loaded::<T>(io.x[1])?);
    let [beta, residual, key] = op.places(io.x.len());
    let beta = beta.map(|b| loaded::<T>(io.x[b])).transpose()?;
    let residual = residual.map(|r| io.x[r].cpu::<T>()).transpose()?;
    let key = key.map(|k| io.x[k].cpu::<u32>()).transpose()?;
    let mask =
        |d: Option<Dropout>| d.filter(Dropout::active).zip(key.as_deref()).map(|(d, k)| d.mask::<T::Real>(k));
    let (before, after) = (mask(op.before), mask(op.after));
    let (mut y, mut xhat, mut rstd) =
        (io.y[0].cpu_mut::<T>()?, io.y[1].cpu_mut::<T>()?, io.y[2].cpu_mut::<T::Real>()?);
    let (n, eps) = (T::Real::of(cols as f64), T::Real::of(op.eps as f64));
    let task = |(b, ((y, xhat), rstd)): Filled<T>| {
        let mut z = vec![T::Real::ZERO; cols];
        vectorise!({
            for (r, rstd) in rstd.iter_mut().enumerate() {
                let row = b * BLOCK + r;
                let (y, xhat) = (&mut y[r * cols..][..cols], &mut xhat[r * cols..][..cols]);
                let x = &x[row * cols..][..cols];
                match &before {
                    Some(m) => m.row(
                        row,
                        0,
                        cols,
                        inlined!(|c: usize, m: &[T::Real]| {
                            z[c..].iter_mut().zip(&x[c..]).zip(m).for_each(|((z, x), &m)| *z = x.load() * m);
                        }),
                    ),
                    None => load_row(x, &mut z),
                }
                if let Some(residual) = &residual {
                    z.iter_mut().zip(&residual[row * cols..][..cols]).for_each(|(z, r)| *z += r.load());
                }
                let (mean, var) = {
                    let z = &z[..cols];
                    let mean = sum_lanes(cols, |c| z[c]) / n;
                    (mean, sum_lanes(cols, |c| (z[c] - mean) * (z[c] - mean)) / n)
                };
                *rstd = T::Real::ONE / (var + eps).sqrt();
                let rstd = *rstd;
                let put = inlined!(|to: (&mut T::Real, &mut T, &mut T), g: T::Real, b: T::Real| {
                    let (z, xhat, y) = to;
                    let normalized = (*z - mean) * rstd;
                    *xhat = T::store(normalized);
                    *z = g.mul_add(normalized, b);
                    *y = T::store(*z);
                });
                let scaled = z.iter_mut().zip(xhat).zip(&mut *y).zip(&gamma);
                match &beta {
                    Some(beta) => {
                        scaled.zip(beta).for_each(|((((z, xhat), y), &g), &b)| put((z, xhat, y), g, b));
                    }
                    None => scaled.for_each(|(((z, xhat), y), &g)| put((z, xhat, y), g, Real::ZERO)),
                }
                if let Some(m) = &after {
                    m.row(row, 0, cols, inlined!(|c: usize, m: &[T::Real]| times(&mut z[c..], m)));
                    store_row(&z, y, false);
                }
            }
        })
    };
    cpu.install(|| {
        y.par_chunks_mut(BLOCK * cols)
            .zip(xhat.par_chunks_mut(BLOCK * cols))
            .zip(rstd.par_chunks_mut(BLOCK))
            .enumerate()
            .for_each(task)
    });
    Ok(())
}

/// The elements of a gradient, if it is wanted.
fn elements<T: Scalar>(g: Option<Grad<'_>>, dtype: DType) -> Result<Option<GradientMut<'_, T>>> {
    g.map(|g| GradientMut::of(g.t, dtype)).transpose()
}

/// The parts of `size` elements of a gradient, or so many times none.
fn parts_of<'a, T: Scalar>(
    g: &'a mut Option<GradientMut<'_, T>>,
    size: usize,
    blocks: usize,
) -> Vec<Option<GradientPart<'a, T>>> {
    match g {
        Some(g) => g.parts(size).into_iter().map(Some).collect(),
        None => (0..blocks).map(|_| None).collect(),
    }
}

/// v = v m, as far as there are factors.
#[inline(always)]
fn times<R: Real>(v: &mut [R], m: &[R]) {
    v.iter_mut().zip(m).for_each(|(v, &m)| *v *= m);
}

/// With g = drop_after(dy) gamma: dz = rstd (g - mean(g) - xhat mean(g xhat)); dresidual = dz, dx =
/// drop_before(dz). Each block of rows has its own sums for dgamma and dbeta, which are added in order.
fn backward<T: Scalar>(op: &AddNorm, cpu: &Cpu, io: Backward) -> Result<()> {
    let (rows, cols) = io.x[0].spec.rows_cols();
    let dtype = io.x[0].spec.dtype;
    let (xhat, rstd, dy) = (io.y[1].cpu::<T>()?, io.y[2].cpu::<T::Real>()?, io.dy()?.cpu::<T>()?);
    let gamma = loaded::<T>(io.x[1])?;
    let [beta, residual, key] = op.places(io.x.len());
    let key = key.map(|k| io.x[k].cpu::<u32>()).transpose()?;
    let mask =
        |d: Option<Dropout>| d.filter(Dropout::active).zip(key.as_deref()).map(|(d, k)| d.mask::<T::Real>(k));
    let (before, after) = (mask(op.before), mask(op.after));

    let (gx, gr) = (io.dx(0), residual.and_then(|r| io.dx(r)));
    let (gg, gb) = (io.dx(1), beta.and_then(|b| io.dx(b)));
    let (add_x, add_r) = (gx.is_some_and(|g| g.add), gr.is_some_and(|g| g.add));
    let blocks = rows.div_ceil(BLOCK);
    let (mut dx, mut dres) = (elements::<T>(gx, dtype)?, elements::<T>(gr, dtype)?);
    let sums = gg.is_some() || gb.is_some();
    let size = if sums { blocks * 2 * cols } else { 0 };
    let scratch = cpu.scratch(size * size_of::<T::Real>())?;
    let mut parts = scratch.write::<T::Real>(0, size)?;
    let n = T::Real::of(cols as f64);
    let task = |(b, ((mut dx, mut dres), mut sums)): Wanted<T>| {
        let [mut d, mut h, mut dz] = [(); 3].map(|()| vec![T::Real::ZERO; cols]);
        if let Some(sums) = &mut sums {
            sums.fill(Real::ZERO);
        }
        vectorise!({
            for r in 0..BLOCK.min(rows - b * BLOCK) {
                let row = b * BLOCK + r;
                load_row(&dy[row * cols..][..cols], &mut d);
                load_row(&xhat[row * cols..][..cols], &mut h);
                if let Some(m) = &after {
                    m.row(row, 0, cols, inlined!(|c: usize, m: &[T::Real]| times(&mut d[c..], m)));
                }
                let (d, h, gamma) = (&d[..cols], &h[..cols], &gamma[..cols]);
                if let Some(sums) = &mut sums {
                    let (dgamma, dbeta) = sums.split_at_mut(cols);
                    dgamma.iter_mut().zip(d).zip(h).for_each(|((s, &d), &h)| *s = d.mul_add(h, *s));
                    dbeta.iter_mut().zip(d).for_each(|(s, &d)| *s += d);
                }
                if dx.is_none() && dres.is_none() {
                    continue;
                }
                let mean = sum_lanes(cols, |c| d[c] * gamma[c]) / n;
                let along = sum_lanes(cols, |c| d[c] * gamma[c] * h[c]) / n;
                let rstd = rstd[row];
                for (((dz, &d), &gamma), &h) in dz.iter_mut().zip(d).zip(gamma).zip(h) {
                    *dz = (d * gamma - mean - h * along) * rstd;
                }
                if let Some(dres) = &mut dres {
                    dres.put(r * cols, &dz, add_r);
                }
                let Some(dx) = &mut dx else { continue };
                if let Some(m) = &before {
                    m.row(row, 0, cols, inlined!(|c: usize, m: &[T::Real]| times(&mut dz[c..], m)));
                }
                dx.put(r * cols, &dz, add_x);
            }
        })
    };
    let size = BLOCK * cols;
    let (dx, dres) = (parts_of(&mut dx, size, blocks), parts_of(&mut dres, size, blocks));
    let by_block = blocks_mut(sums.then_some(&mut parts[..]), 2 * cols, blocks);
    cpu.install(|| dx.into_par_iter().zip(dres).zip(by_block).enumerate().for_each(task));
    let mut total = vec![T::Real::ZERO; if sums { 2 * cols } else { 0 }];
    sum_columns(cpu, &mut total, false, blocks, |b, at, out| {
        let part = &parts[b * 2 * cols..][..2 * cols];
        out.iter_mut().zip(&part[at]).for_each(|(o, &p)| *o += p);
    });
    for (g, from) in [(gg, 0), (gb, cols)] {
        let Some(g) = g else { continue };
        let mut all = GradientMut::<T>::of(g.t, dtype)?;
        all.parts(cols).iter_mut().for_each(|p| p.put(0, &total[from..][..cols], g.add));
    }
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/add_norm.wgsl");

impl On<Wgpu> for AddNorm {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let (rows, _) = io.x[0].spec.rows_cols();
        let (x, y) = (io.x, io.y);
        let places = self.places(x.len());
        let [beta, residual, key] = places.map(|p| p.map_or(x[0], |p| x[p]));
        let buffers = [x[0], x[1], beta, residual, key, y[0], y[1], y[2]];
        let bias = places[0].is_some();
        let consts = [("RESIDUAL", self.residual as u32), ("BIAS", bias as u32), ("DX", 0), ("DRES", 0)];
        launch(device, (SHADER, "forward"), &consts, fold(rows), &buffers, &self.params(x[0], [false; 4]))
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let (rows, cols) = io.x[0].spec.rows_cols();
        let (x, y, dy) = (io.x, io.y, io.dy()?);
        let [beta, residual, key] = self.places(x.len());
        let key = key.map_or(x[0], |k| x[k]);
        let (gx, gr) = (io.dx(0), residual.and_then(|r| io.dx(r)));
        let (gg, gb) = (io.dx(1), beta.and_then(|b| io.dx(b)));
        let params = self.params(x[0], [gx, gr, gg, gb].map(|g| g.is_some_and(|g| g.add)));
        let consts = |a: bool, b: bool| [("RESIDUAL", 0), ("BIAS", 0), ("DX", a as u32), ("DRES", b as u32)];
        // What is not wanted is bound as something that is only read.
        let or = |g: Option<super::Grad<'_>>, other: &'_ Tensor| g.map_or(other.clone(), |g| g.t.clone());
        if gx.is_some() || gr.is_some() {
            let (dx, dres) = (or(gx, dy), or(gr, dy));
            let buffers = [&dx, x[1], x[1], &dres, key, dy, y[1], y[2]];
            let consts = consts(gx.is_some(), gr.is_some());
            launch(device, (SHADER, "backward"), &consts, fold(rows), &buffers, &params)?;
        }
        if gg.is_some() || gb.is_some() {
            let blocks = rows.div_ceil(64);
            let parts = device.scratch(dy.spec.dtype, &[blocks, 2 * cols])?;
            let (dgamma, dbeta) = (or(gg, x[1]), or(gb, x[1]));
            let buffers = [&parts, &dgamma, &dbeta, dy, key, dy, y[1], y[2]];
            let consts = consts(gg.is_some(), gb.is_some());
            let by_block = [groups_for(cols.div_ceil(8))[0], blocks as u32, 1];
            launch(device, (SHADER, "sum_rows"), &consts, by_block, &buffers, &params)?;
            launch(device, (SHADER, "sum_parts"), &consts, groups_for(cols), &buffers, &params)?;
        }
        Ok(())
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/add_norm.cu");

/// How a CUDA block shares out rows of so many columns: its threads, those of one row, elements of an access,
/// and accesses of a thread. A row stays in registers, so wide rows need more threads.
fn shares(cols: usize) -> [u32; 4] {
    let vec = vector(cols);
    let (threads, team) = match cols.div_ceil(vec as usize) {
        0..=64 => (128, 32),
        65..=512 => (128, 128),
        _ => (512, 512),
    };
    [threads, team, vec, cols.div_ceil((team * vec) as usize) as u32]
}

impl AddNorm {
    fn consts(
        &self,
        dtype: DType,
        [_, team, vec, per]: [u32; 4],
        g: [Option<Grad>; 4],
    ) -> Vec<(&'static str, Const)> {
        let to = |a: Option<Grad>, b: Option<Grad>| Const::Type(a.or(b).map_or(dtype, |g| g.t.spec.dtype));
        let flag = |b: bool| Const::U32(b as u32);
        let drops = |d: Option<Dropout>| flag(d.is_some_and(|d| d.active()));
        vec![
            ("T", Const::Type(dtype)),
            ("G", to(g[0], g[1])),
            ("P", to(g[2], g[3])),
            ("TEAM", Const::U32(team)),
            ("VEC", Const::U32(vec)),
            ("PER", Const::U32(per)),
            ("RESIDUAL", flag(self.residual)),
            ("BEFORE", drops(self.before)),
            ("AFTER", drops(self.after)),
            ("DX", flag(g[0].is_some())),
            ("DRES", flag(g[1].is_some())),
            ("DGAMMA", flag(g[2].is_some())),
            ("DBETA", flag(g[3].is_some())),
        ]
    }
}

impl On<Cuda> for AddNorm {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let (rows, cols) = io.x[0].spec.rows_cols();
        let (x, y) = (io.x, io.y);
        let places = self.places(x.len());
        let [beta, residual, key] = places.map(|p| p.map_or(x[0], |p| x[p]));
        let buffers = [x[0], x[1], beta, residual, key, y[0], y[1], y[2]];
        let bias = places[0].is_some();
        let shares = shares(cols);
        let mut consts = self.consts(x[0].spec.dtype, shares, [None; 4]);
        consts.push(("BIAS", Const::U32(bias as u32)));
        let groups = [rows.div_ceil((shares[0] / shares[1]) as usize) as u32, 1, 1];
        let kernel = (KERNEL, "add_norm_forward");
        launch_with(device, shares[0], kernel, &consts, groups, &buffers, &self.params(x[0], [false; 4]))
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let (rows, cols) = io.x[0].spec.rows_cols();
        let (x, y, dy) = (io.x, io.y, io.dy()?);
        let [beta, residual, key] = self.places(x.len());
        let key = key.map_or(x[0], |k| x[k]);
        let grads = [io.dx(0), residual.and_then(|r| io.dx(r)), io.dx(1), beta.and_then(|b| io.dx(b))];
        let [gx, gr, gg, gb] = grads;
        let shares = shares(cols);
        let [threads, team, ..] = shares;
        let teams = threads / team;
        let mut consts = self.consts(dy.spec.dtype, shares, grads);
        consts.push(("BIAS", Const::U32(0)));
        let mut params = self.params(x[0], grads.map(|g| g.is_some_and(|g| g.add)));
        // As many blocks as run at once; each keeps one part of the sums over rows.
        let blocks = rows.div_ceil(teams as usize).min((device.sms() * (1024 / threads)) as usize);
        let sums = gg.is_some() || gb.is_some();
        let parts = device.scratch(DType::F32, &[if sums { blocks } else { 0 }, 2, cols])?;
        let or = |g: Option<Grad>, other: &Tensor| g.map_or(other.clone(), |g| g.t.clone());
        let (dx, dres) = (or(gx, dy), or(gr, dy));
        device.launch(Launch {
            source: KERNEL,
            entry: "add_norm_backward",
            consts: &consts,
            groups: [blocks as u32, 1, 1],
            threads,
            shared_bytes: if teams > 1 && sums { teams * cols as u32 * 4 } else { 0 },
            tensor_maps: &[],
            buffers: &[x[1], key, dy, y[1], y[2], &dx, &dres, &parts],
            params: bytemuck::cast_slice(&params),
        })?;
        if !sums {
            return Ok(());
        }
        params[8] = blocks as u32;
        let (dgamma, dbeta) = (or(gg, &parts), or(gb, &parts));
        let groups = [cols.div_ceil(32) as u32, 1, 1];
        let kernel = (KERNEL, "add_norm_sum");
        launch_with(device, threads, kernel, &consts, groups, &[&parts, &dgamma, &dbeta], &params)
    }
}

impl AddNorm {
    /// The words of the kernels' `Params`; `add` is for x, residual, gamma, beta.
    fn params(&self, x: &Tensor, add: [bool; 4]) -> [u32; 15] {
        let (rows, cols) = x.spec.rows_cols();
        let ([a, b, c, d], [e, f, g, h]) = (Dropout::words(self.before), Dropout::words(self.after));
        let [i, j, k, l] = add.map(u32::from);
        [a, b, c, d, e, f, g, h, rows as u32, cols as u32, self.eps.to_bits(), i, j, k, l]
    }
}

/// Edge cases: one row, odd columns, more columns than a task sums, every combination of the settings.
pub fn cases() -> Vec<Case> {
    let some = |label, [rows, cols]: [usize; 2], beta: bool, residual: bool, before: f32, after: f32| {
        let drop = |p, dropout_id| (p > 0.0).then_some(Dropout { p, dropout_id, rows: DropoutRows::Tokens });
        let op = AddNorm { eps: 1e-5, residual, before: drop(before, 1), after: drop(after, 2) };
        let mut inputs = vec![Input::real(&[rows, cols]), Input::real(&[cols])];
        if beta {
            inputs.push(Input::real(&[cols]));
        }
        if residual {
            inputs.push(Input::real(&[rows, cols]));
        }
        if op.before.or(op.after).is_some() {
            inputs.push(Input::key());
        }
        Case::new(label, op, inputs)
    };
    let case = |label, shape, residual, before, after| some(label, shape, true, residual, before, after);
    vec![
        case("plain, one row", [1, 64], false, 0.0, 0.0),
        case("plain, odd columns", [7, 33], false, 0.0, 0.0),
        case("residual", [5, 16], true, 0.0, 0.0),
        case("residual and dropout", [34, 24], true, 0.2, 0.0),
        case("dropout after", [9, 40], false, 0.0, 0.1),
        case("everything, wide", [3, 768], true, 0.3, 0.3),
        // The normalised values are 1 and -1, and the gradient is the small difference of what was rounded.
        Case { half_slack: 20.0, ..case("two columns", [4, 2], true, 0.0, 0.0) },
        case("no rows", [0, 8], true, 0.1, 0.0),
        some("no beta", [6, 40], false, false, 0.0, 0.0),
        some("no beta, everything else, odd columns", [70, 33], false, true, 0.2, 0.1),
    ]
}
