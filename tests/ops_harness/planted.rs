//! Errors planted on purpose, to prove that the harness bites: each is a small op with one mistake of a kind
//! that real kernels have had. The correct version of the same op passes.

use crate::judge::{Bench, Verdict};
use std::sync::atomic::{AtomicU32, Ordering};
use tempra::device::{Caps, Const, Cpu, Cuda, Gpu, Launch, Tensor, Wgpu};
use tempra::error::Result;
use tempra::ops::{Backward, Call, Case, Cost, Forward, Input, On, Op, Plan};
use tempra::shape::Spec;

/// The mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// The backward pass of sequence s takes the bound of s + 1 one token too early.
    BorderOffByOne,
    /// The last row of the gradient is never written.
    Unwritten,
    /// The derivative lacks the 1 / length.
    MissingFactor,
    /// Two columns are exchanged.
    WrongIndex,
    /// `add` is not looked at.
    OverwritesInsteadOfAdding,
    /// The gradient is added to whatever was there.
    AddsInsteadOfOverwriting,
    /// A right-looking gradient of the plain sum: the cotangent is ignored.
    IgnoresCotangent,
    /// No gradient at all: everything upstream would be frozen.
    Frozen,
    /// Another result at every run, as from a race.
    Unrepeatable,
    /// The forward pass loses precision in f32.
    LosesPrecision,
    /// The forward pass writes into its input.
    WritesInput,
    /// A NaN in one output.
    Nan,
}

/// y[s] = mean of exp(x) over sequence s.
#[derive(Debug)]
struct MeanExp {
    /// On the CPU.
    mistake: Mistake,
    /// In the kernels.
    kernel: Mistake,
    runs: AtomicU32,
}

impl Op for MeanExp {
    fn name(&self) -> &'static str {
        "mean_exp"
    }
    fn plan(&self, _: &Caps, x: &[&Spec]) -> Result<Plan> {
        let y = Spec::new(x[0].dtype, &[x[1].len() - 1, x[0].rows_cols().1]);
        Ok(Plan::new(vec![y], vec![]))
    }
    fn cost(&self, _: &Call) -> Cost {
        Cost::default()
    }
}

impl On<Cpu> for MeanExp {
    fn forward(&self, _: &Cpu, io: Forward) -> Result<()> {
        if io.x[0].spec.dtype.size() == 8 { self.forward_as::<f64>(io) } else { self.forward_as::<f32>(io) }
    }
    fn backward(&self, _: &Cpu, io: Backward) -> Result<()> {
        if io.x[0].spec.dtype.size() == 8 { self.backward_as::<f64>(io) } else { self.backward_as::<f32>(io) }
    }
}

/// The same op with the same mistakes as a kernel.
const SHADER: &str = include_str!("planted.wgsl");
const KERNEL: &str = include_str!("planted.cu");

impl MeanExp {
    fn launch(
        &self,
        device: &impl Gpu,
        (source, entry): (&'static str, &'static str),
        buffers: &[&Tensor],
        add: bool,
    ) -> Result<()> {
        let (rows, cols) = buffers[0].spec.rows_cols();
        let runs = self.runs.fetch_add(1, Ordering::Relaxed);
        let params = [rows as u32, cols as u32, buffers[1].spec.len() as u32 - 1, add as u32, runs];
        device.launch(Launch {
            source,
            entry,
            consts: &[
                ("T", Const::Type(buffers[0].spec.dtype)),
                ("G", Const::Type(buffers[2].spec.dtype)),
                ("MISTAKE", Const::U32(self.kernel as u32)),
            ],
            groups: [1, 1, 1],
            threads: 64,
            shared_bytes: 0,
            tensor_maps: &[],
            buffers,
            params: bytemuck::cast_slice(&params),
        })
    }
}

impl On<Wgpu> for MeanExp {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        self.launch(device, (SHADER, "forward"), &[io.x[0], io.x[1], io.y[0]], false)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let (Some(dy), Some(Some(g))) = (io.dy[0], io.dx.first()) else { return Ok(()) };
        self.launch(device, (SHADER, "backward"), &[io.x[0], io.x[1], g.t, dy], g.add)
    }
}

impl On<Cuda> for MeanExp {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        self.launch(device, (KERNEL, "planted_forward"), &[io.x[0], io.x[1], io.y[0]], false)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let (Some(dy), Some(Some(g))) = (io.dy[0], io.dx.first()) else { return Ok(()) };
        self.launch(device, (KERNEL, "planted_backward"), &[io.x[0], io.x[1], g.t, dy], g.add)
    }
}

impl MeanExp {
    fn forward_as<T: tempra::device::cpu::Real>(&self, io: Forward) -> Result<()> {
        let cols = io.x[0].spec.rows_cols().1;
        let bounds = io.x[1].cpu::<u32>()?;
        let mut y = io.y[0].cpu_mut::<T>()?;
        if self.mistake == Mistake::WritesInput {
            io.x[0].cpu_mut::<T>()?[0] = T::ZERO;
        }
        let x = io.x[0].cpu::<T>()?;
        for (s, w) in bounds.windows(2).enumerate() {
            for c in 0..cols {
                let sum: T = (w[0] as usize..w[1] as usize).map(|t| x[t * cols + c].exp()).sum();
                y[s * cols + c] = sum / T::of((w[1] - w[0]).max(1) as f64);
            }
        }
        let first = y[0].f64();
        let again = self.runs.fetch_add(1, Ordering::Relaxed);
        match self.mistake {
            Mistake::Unrepeatable if size_of::<T>() == 4 => y[0] = T::of(first * (1.0 + 2e-7 * again as f64)),
            Mistake::LosesPrecision if size_of::<T>() == 4 => y[0] = T::of((first * 1e2).round() / 1e2),
            Mistake::Nan => y[0] = T::of(f64::NAN),
            _ => {}
        }
        Ok(())
    }
    fn backward_as<T: tempra::device::cpu::Real>(&self, io: Backward) -> Result<()> {
        let (rows, cols) = io.x[0].spec.rows_cols();
        let (x, bounds) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<u32>()?);
        let (Some(dy), Some(Some(g))) = (io.dy[0], io.dx.first()) else { return Ok(()) };
        let (dy, mut dx) = (dy.cpu::<T>()?, g.t.cpu_mut::<T>()?);
        let add = match self.mistake {
            Mistake::OverwritesInsteadOfAdding => false,
            Mistake::AddsInsteadOfOverwriting => true,
            _ => g.add,
        };
        for s in 0..bounds.len() - 1 {
            let len = (bounds[s + 1] - bounds[s]).max(1);
            let factor = if self.mistake == Mistake::MissingFactor { 1.0 } else { 1.0 / len as f64 };
            for t in bounds[s] as usize..bounds[s + 1] as usize {
                if self.mistake == Mistake::Unwritten && t + 1 == rows {
                    continue;
                }
                let border = self.mistake == Mistake::BorderOffByOne && t + 1 == bounds[s + 1] as usize;
                let from = if border { (s + 1).min(bounds.len() - 2) } else { s };
                for c in 0..cols {
                    let column = if self.mistake == Mistake::WrongIndex && c < 2 { 1 - c } else { c };
                    let dy = if self.mistake == Mistake::IgnoresCotangent {
                        T::ONE
                    } else {
                        dy[from * cols + column]
                    };
                    let mut d = dy * T::of(factor) * x[t * cols + c].exp();
                    if self.mistake == Mistake::Frozen {
                        d = T::ZERO;
                    }
                    let at = &mut dx[t * cols + c];
                    *at = if add { *at + d } else { d };
                }
            }
        }
        Ok(())
    }
}

/// Every mistake, and the question that caught it; the correct op counts as caught if nothing complains.
pub fn all(bench: &Bench) -> Vec<(String, Option<String>)> {
    use Mistake::*;
    let complaints = |mistake, kernel| {
        let op = MeanExp { mistake, kernel, runs: AtomicU32::new(0) };
        let case = Case::new("planted", op, vec![Input::real(&[9, 4]), Input::ints(&[0, 3, 4, 9])]);
        bench.judge(&case).into_iter().filter(|v: &Verdict| !v.ok()).map(|v| v.what).collect::<Vec<_>>()
    };
    // Each backend has to be caught alone, with all others right.
    let caught = |mistake| -> Option<String> {
        let mut by = vec![complaints(mistake, None).first()?.clone()];
        for name in bench.others() {
            let about = |c: &&String| c.split([' ', ':']).any(|word| word == name);
            by.push(complaints(None, mistake).iter().find(about)?.clone());
        }
        Some(by.join("; "))
    };
    let mut seen: Vec<(String, Option<String>)> = [
        BorderOffByOne,
        Unwritten,
        MissingFactor,
        WrongIndex,
        OverwritesInsteadOfAdding,
        AddsInsteadOfOverwriting,
        IgnoresCotangent,
        Frozen,
        Unrepeatable,
        LosesPrecision,
        WritesInput,
        Nan,
    ]
    .map(|m| (format!("{m:?}"), caught(m)))
    .into();
    let clean = complaints(None, None);
    seen.push((
        "no mistake, no complaint".into(),
        if clean.is_empty() { Some("nobody".into()) } else { Option::None },
    ));
    seen
}
