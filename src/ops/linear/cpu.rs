//! On the CPU.

use super::sums::column_sums;
use super::{Linear, half};
use crate::device::Cpu;
use crate::device::cpu::parallel::*;
use crate::device::cpu::{BLOCK, Mat, Out, Real, inlined, matmul, vectorise};
use crate::error::Result;
use crate::ops::{Activation, Backward, Forward, On, by_dtype};
use crate::shape::DType;
use ::half::{bf16, f16};

impl On<Cpu> for Linear {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        match io.x[0].spec.dtype {
            DType::BF16 => half::forward::<bf16>(self.act, cpu, io),
            DType::F16 => half::forward::<f16>(self.act, cpu, io),
            dtype => by_dtype!(dtype, forward(self.act, cpu, io)),
        }
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        match io.x[0].spec.dtype {
            DType::BF16 => half::backward::<bf16>(self.act, cpu, io),
            DType::F16 => half::backward::<f16>(self.act, cpu, io),
            dtype => by_dtype!(dtype, backward(self.act, cpu, io)),
        }
    }
}

/// Elements that the gradient of an activation is computed of at once.
const PART: usize = 384;

fn forward<T: Real>(act: Activation, cpu: &Cpu, io: Forward) -> Result<()> {
    let ((rows, k), (n, _)) = (io.x[0].spec.rows_cols(), io.x[1].spec.rows_cols());
    let (x, w) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?);
    let b = io.x.get(2).map(|b| b.cpu::<T>()).transpose()?;
    let shape = [rows, n, k];
    let (x, w) = (Mat::new(&x, k), Mat::new(&w, k).t());
    let mut y = io.y[0].cpu_mut::<T>()?;
    if act.needs_input() {
        let mut z = io.y[1].cpu_mut::<T>()?;
        let done = |_: usize, col: usize, z: &mut [T]| add_bias(b.as_deref(), col, z);
        matmul(cpu, shape, x, w, Out { data: &mut z, row: n, add: false }, Some(&done))?;
        // Copied first: a closure that reads z[i] checks every index, which costs more than GELU.
        let rows = |(y, z): (&mut [T], &[T])| {
            y.copy_from_slice(z);
            vectorise!({ act.apply(y, inlined!(|z: T, _| z)) });
        };
        cpu.install(|| y.par_chunks_mut(BLOCK * n).zip(z.par_chunks(BLOCK * n)).for_each(rows));
        return Ok(());
    }
    let done = |_: usize, col: usize, z: &mut [T]| {
        add_bias(b.as_deref(), col, z);
        if act != Activation::None {
            vectorise!({ act.apply(z, inlined!(|z: T, _| z)) });
        }
    };
    matmul(cpu, shape, x, w, Out { data: &mut y, row: n, add: false }, Some(&done))
}

fn add_bias<T: Real>(b: Option<&[T]>, col: usize, z: &mut [T]) {
    if let Some(b) = b {
        z.iter_mut().zip(&b[col..]).for_each(|(z, &b)| *z += b);
    }
}

fn backward<T: Real>(act: Activation, cpu: &Cpu, io: Backward) -> Result<()> {
    let ((rows, k), (n, _)) = (io.x[0].spec.rows_cols(), io.x[1].spec.rows_cols());
    let (x, w, dy) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?, io.dy()?.cpu::<T>()?);
    // dz = dy * act'(z), in scratch unless the activation is the identity.
    let identity = act == Activation::None;
    let scratch = cpu.scratch(if identity { 0 } else { rows * n * size_of::<T>() })?;
    let mut dz = scratch.write::<T>(0, if identity { 0 } else { rows * n })?;
    if !identity {
        let kept = io.y[act.needs_input() as usize].cpu::<T>()?;
        let chunk = BLOCK * n;
        let rows = |((dz, dy), kept): ((&mut [T], &[T]), &[T])| vectorise!(act.backward(dz, dy, kept));
        cpu.install(|| {
            dz.par_chunks_mut(chunk).zip(dy.par_chunks(chunk)).zip(kept.par_chunks(chunk)).for_each(rows)
        });
    }
    let dz: &[T] = if identity { &dy } else { &dz };
    if let Some(g) = io.dx(0) {
        let mut dx = g.t.cpu_mut::<T>()?;
        let out = Out { data: &mut dx[..], row: k, add: g.add };
        let shape = [rows, k, n];
        match g.dact {
            None => matmul(cpu, shape, Mat::new(dz, n), Mat::new(&w, k), out, None)?,
            Some((act, at)) => {
                let at = at.cpu::<T>()?;
                let done = |row: usize, col: usize, dx: &mut [T]| {
                    let mut dy = [T::ZERO; PART];
                    let at = at[row * k + col..][..dx.len()].chunks(PART);
                    for (dx, at) in dx.chunks_mut(PART).zip(at) {
                        let dy = &mut dy[..dx.len()];
                        dy.copy_from_slice(dx);
                        vectorise!(act.backward(dx, dy, at));
                    }
                };
                matmul(cpu, shape, Mat::new(dz, n), Mat::new(&w, k), out, Some(&done))?;
            }
        }
    }
    if let Some(g) = io.dx(1) {
        let mut dw = g.t.cpu_mut::<T>()?;
        let c = Out { data: &mut dw[..], row: k, add: g.add };
        matmul(cpu, [n, k, rows], Mat::new(dz, n).t(), Mat::new(&x, k), c, None)?;
    }
    if let Some(g) = io.dx(2) {
        column_sums::<T, T>(cpu, dz, n, g)?;
    }
    Ok(())
}
