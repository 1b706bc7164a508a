//! On the CPU, with tensors of 16 bits that are read and written where they lie.

use super::sums::column_sums;
use crate::device::cpu::parallel::*;
use crate::device::cpu::{
    ApplyGradient, BLOCK, HalfEpilogue, Mat, Out, Scalar, Stored, convert, inlined, matmul_half, vectorise,
};
use crate::device::{Cpu, Tensor};
use crate::error::Result;
use crate::ops::{Activation, Backward, Forward, Grad};
use crate::shape::DType;

/// Elements that activations are computed of at once.
const PART: usize = 1024;

/// An element type of activations: bf16 or f16.
pub(super) trait Half: Stored + Scalar<Real = f32> {}
impl<T: Stored + Scalar<Real = f32>> Half for T {}

pub(super) fn forward<T: Half>(act: Activation, cpu: &Cpu, io: Forward) -> Result<()> {
    let ((rows, k), (n, _)) = (io.x[0].spec.rows_cols(), io.x[1].spec.rows_cols());
    let (x, w) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?);
    let bias = io.x.get(2).map(|b| b.cpu::<T>()).transpose()?;
    let mut y = io.y[0].cpu_mut::<T>()?;
    let mut z = act.needs_input().then(|| io.y[1].cpu_mut::<T>()).transpose()?;
    let apply = |sums: &mut [f32]| vectorise!(act.apply(sums, inlined!(|z: f32, _| z)));
    let epilogue = HalfEpilogue {
        bias: bias.as_deref(),
        kept: z.as_deref_mut(),
        act: (act != Activation::None).then_some(&apply),
        dact: None,
    };
    let out = Out { data: &mut y[..], row: n, add: false };
    matmul_half(cpu, [rows, n, k], Mat::new(&x, k), Mat::new(&w, k).t(), out, epilogue)
}

pub(super) fn backward<T: Half>(act: Activation, cpu: &Cpu, io: Backward) -> Result<()> {
    let ((rows, k), (n, _)) = (io.x[0].spec.rows_cols(), io.x[1].spec.rows_cols());
    let (x, w, dy) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?, io.dy()?.cpu::<T>()?);
    let identity = act == Activation::None;
    let len = if identity { 0 } else { rows * n };
    let scratch = cpu.scratch(len * size_of::<T>())?;
    let mut dz = scratch.write::<T>(0, len)?;
    if !identity {
        let kept = io.y[act.needs_input() as usize].cpu::<T>()?;
        activation_gradient(act, cpu, &mut dz, &dy, &kept, n);
    }
    let dz: &[T] = if identity { &dy } else { &dz };
    if let Some(g) = io.dx(0) {
        input_gradient(cpu, [rows, k, n], Mat::new(dz, n), Mat::new(&w, k), g)?;
    }
    if let Some(g) = io.dx(1) {
        write(cpu, [n, k, rows], Mat::new(dz, n).t(), Mat::new(&x, k), g, None)?;
    }
    if let Some(g) = io.dx(2) {
        match g.t.spec.dtype {
            DType::F32 => column_sums::<T, f32>(cpu, dz, n, g)?,
            _ => column_sums::<T, T>(cpu, dz, n, g)?,
        }
    }
    Ok(())
}

/// dz = dy act'(z), in f32 in the first-level cache.
fn activation_gradient<T: Half>(act: Activation, cpu: &Cpu, dz: &mut [T], dy: &[T], kept: &[T], n: usize) {
    let chunk = BLOCK * n;
    let rows = |((dz, dy), kept): ((&mut [T], &[T]), &[T])| {
        let mut values = [[0f32; PART]; 3];
        vectorise!({
            for ((dz, dy), kept) in dz.chunks_mut(PART).zip(dy.chunks(PART)).zip(kept.chunks(PART)) {
                let [out, up, z] = values.each_mut().map(|v| &mut v[..dz.len()]);
                convert(dy, up);
                convert(kept, z);
                act.backward(out, up, z);
                convert(out, dz);
            }
        })
    };
    cpu.install(|| {
        dz.par_chunks_mut(chunk).zip(dy.par_chunks(chunk)).zip(kept.par_chunks(chunk)).for_each(rows)
    });
}

/// dx = dz w, times the derivative of an activation if it is fused.
fn input_gradient<T: Half>(cpu: &Cpu, shape: [usize; 3], dz: Mat<T>, w: Mat<T>, g: Grad) -> Result<()> {
    let Some((act, at)) = g.dact else { return write(cpu, shape, dz, w, g, None) };
    let gradient = |dx: &mut [f32], at: &[f32]| {
        let mut dy = [0.0; PART];
        for (dx, at) in dx.chunks_mut(PART).zip(at.chunks(PART)) {
            let dy = &mut dy[..dx.len()];
            dy.copy_from_slice(dx);
            vectorise!(act.backward(dx, dy, at));
        }
    };
    write(cpu, shape, dz, w, g, Some((at, &gradient)))
}

/// A matmul into a gradient, which has the type of activations or that of sums; `dact` is the gradient of an
/// activation and what its derivative is taken at.
fn write<T: Half>(
    cpu: &Cpu,
    shape: [usize; 3],
    a: Mat<T>,
    b: Mat<T>,
    g: Grad,
    dact: Option<(&Tensor, ApplyGradient)>,
) -> Result<()> {
    fn into<T: Half, G: Half>(
        cpu: &Cpu,
        shape: [usize; 3],
        [a, b]: [Mat<T>; 2],
        g: Grad,
        dact: Option<(&Tensor, ApplyGradient)>,
    ) -> Result<()> {
        let at = dact.map(|(at, _)| at.cpu::<G>()).transpose()?;
        let dact = at.as_deref().zip(dact.map(|(_, gradient)| gradient));
        let mut out = g.t.cpu_mut::<G>()?;
        let out = Out { data: &mut out[..], row: shape[1], add: g.add };
        matmul_half(cpu, shape, a, b, out, HalfEpilogue { dact, ..HalfEpilogue::default() })
    }
    match g.t.spec.dtype {
        DType::F32 => into::<T, f32>(cpu, shape, [a, b], g, dact),
        _ => into::<T, T>(cpu, shape, [a, b], g, dact),
    }
}
