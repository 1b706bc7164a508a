//! The ceilings of a device: the rates of a large copy and of the best large matmul.
//!
//! Their effort is fixed ([`CeilingEffort`]). It does not depend on how long ops are measured, so that the
//! percentages of all runs refer to the same thing. A ceiling is a median of samples, as the time of an op
//! is. The fastest sample would be a rate that no op can reach in its median.

pub mod nameplate;
mod stored;

pub use nameplate::Nameplate;
pub use stored::{StoredCeilings, keep, kept};

use super::measure::{Enough, Quartiles, Workbench};
use super::report::Ceilings;
use crate::device::cpu::parallel::*;
use crate::device::{Device, Tensor};
use crate::error::Result;
use crate::ops::Activation;
use crate::ops::Forward;
use crate::ops::cast::Cast;
use crate::ops::linear::Linear;
use crate::shape::{DType, Spec};

/// The largest copy in bytes. Four times the largest cache of a GPU or of a CPU with one chiplet.
const COPY_BYTES: u64 = 1 << 30;

/// The smallest matmul that is tried.
const SMALLEST_SIDE: usize = 256;

/// How much work goes into the ceilings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CeilingEffort {
    /// The number of samples of each rate.
    pub samples: usize,
    /// The largest side of a square matmul.
    pub largest_side: usize,
    /// A larger matmul is tried only if all its samples are expected to take at most this many seconds.
    pub seconds: f64,
}

impl CeilingEffort {
    /// The effort on a kind of device: a second or two for a GPU, a few seconds for a CPU and for a software
    /// driver.
    pub fn of(device: &Device) -> CeilingEffort {
        let software = match device {
            Device::Wgpu(gpu) => gpu.abilities().software,
            Device::Cpu(_) | Device::Meta(_) => true,
            Device::Cuda(_) => false,
        };
        match software {
            true => CeilingEffort { samples: 9, largest_side: 2048, seconds: 1.0 },
            false => CeilingEffort { samples: 15, largest_side: 8192, seconds: 1.0 },
        }
    }
    /// The least effort, for tests: three samples of the smallest matmul.
    pub fn quick() -> CeilingEffort {
        CeilingEffort { samples: 3, largest_side: SMALLEST_SIDE, seconds: 0.01 }
    }
    /// The effort of one op's measurement: a fixed number of samples.
    fn enough(&self) -> Enough {
        Enough { seconds: 0.0, samples: self.samples }
    }
}

/// How a copy is made.
const COPIES: [&str; 3] = ["memcpy by all threads", "in-place update by all threads", "copy kernel"];

impl Workbench<'_> {
    /// Measures the device's ceilings.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the operands do not fit; those of the device.
    pub fn ceilings(&self) -> Result<Ceilings> {
        self.ceilings_of(None)
    }

    /// Measures the ceilings again, by the same copy and a matmul of the same size.
    ///
    /// # Errors
    /// Those of [`Workbench::ceilings`].
    pub fn ceilings_again(&self, before: &Ceilings) -> Result<Ceilings> {
        self.ceilings_of(Some(before))
    }

    fn ceilings_of(&self, before: Option<&Ceilings>) -> Result<Ceilings> {
        let (copy_by, bytes, copy) = self.copy_rate(before.map(|c| c.copy_by.as_str()))?;
        let (side, matmul) = self.matmul_rate(before.map(|c| c.matmul_side))?;
        // No rate is a rate of 0: nothing refers to it.
        let median =
            |rates: &[f64]| if rates.is_empty() { 0.0 } else { Quartiles::of(rates.to_vec()).median };
        let CeilingEffort { samples, seconds, .. } = self.ceiling_effort;
        Ok(Ceilings {
            copy_bytes_per_s: median(&copy),
            matmul_flops_per_s: median(&matmul),
            how: format!(
                "medians of {} samples; copy: {copy_by}, {} MiB, bytes read plus written; matmul: {side} x {side} x {side}, {}; \
                 effort: {samples} samples, {seconds} s",
                matmul.len(),
                bytes >> 20,
                self.dtype(),
            ),
            drift: None,
            copy_by,
            matmul_side: side,
            copy_samples_bytes_per_s: copy,
            matmul_samples_flops_per_s: matmul,
            nameplate: Nameplate::of(self.device),
        })
    }

    /// The rates of a large copy in bytes/s, read plus written: how it is made, the bytes of one side, and
    /// the rate of each sample. The fastest way unless one is given.
    fn copy_rate(&self, by: Option<&str>) -> Result<(String, usize, Vec<f64>)> {
        let most = (self.budget / 8).min(self.device.caps().binding_bytes).min(COPY_BYTES);
        let n = ((4 * self.cache.bytes).min(most) / 4) as usize;
        let spec = Spec::new(DType::F32, &[n]);
        let (from, to) = (self.random(&spec, -1.0, 1.0, 1)?, self.random(&spec, -1.0, 1.0, 2)?);
        let ways = if let Device::Cpu(_) = self.device { &COPIES[..2] } else { &COPIES[2..] };
        let mut best: Option<(f64, &str, Vec<f64>)> = None;
        for &way in ways.iter().filter(|&&way| by.is_none_or(|by| by == way)) {
            let run = |_: usize| self.copy(way, &from, &to);
            let timing = self.time("copy", self.ceiling_effort.enough(), None, 1, &run)?;
            let rates: Vec<f64> = timing.samples_s.iter().map(|s| 2.0 * spec.bytes() as f64 / s).collect();
            let rate = Quartiles::of(rates.clone()).median;
            if best.as_ref().is_none_or(|(best, ..)| rate > *best) {
                best = Some((rate, way, rates));
            }
        }
        let (_, way, rates) = best.unwrap_or((f64::NAN, "", Vec::new()));
        Ok((way.to_owned(), spec.bytes(), rates))
    }

    fn copy(&self, way: &str, from: &Tensor, to: &Tensor) -> Result<()> {
        let Device::Cpu(cpu) = self.device else { return self.device.step(&Cast, &[from, to]) };
        let mut to = to.cpu_mut::<f32>()?;
        // Large enough for the C library to write past the cache.
        let part = to.len().div_ceil(cpu.threads()).max(1);
        if way == COPIES[0] {
            let from = from.cpu::<f32>()?;
            to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(t, f)| t.copy_from_slice(f));
        } else {
            // A store to what is not in the cache reads it first, unless it was read anyway.
            to.par_chunks_mut(part).for_each(|t| t.iter_mut().for_each(|v| *v = -*v));
        }
        Ok(())
    }

    /// The rates of square matmuls in FLOP/s: the side, and the rate of each sample. Unless a side is given:
    /// the fastest by its median. Larger sides are tried as long as their samples are affordable.
    fn matmul_rate(&self, side: Option<usize>) -> Result<(usize, Vec<f64>)> {
        let effort = self.ceiling_effort;
        let mut best = (0.0, side.unwrap_or(SMALLEST_SIDE), Vec::new());
        let op = Linear { act: Activation::None };
        let mut next = best.1;
        loop {
            let spec = Spec::new(self.device.caps().compute, &[next, next]);
            if 3 * spec.bytes() as u64 > self.budget || spec.bytes() as u64 > self.device.caps().binding_bytes
            {
                break;
            }
            let (x, w, y) = (
                self.random(&spec, -1.0, 1.0, 1)?,
                self.random(&spec, -1.0, 1.0, 2)?,
                self.device.alloc(spec)?,
            );
            let run = |_: usize| self.device.forward(&op, Forward { x: &[&x, &w], y: &[&y] });
            let timing = self.time("matmul", effort.enough(), None, 1, &run)?;
            let flops = 2.0 * (next as f64).powi(3);
            let rate = flops / timing.seconds.median;
            if rate > best.0 {
                best = (rate, next, timing.samples_s.iter().map(|s| flops / s).collect());
            }
            // The next one takes eight times as long, and three runs before the first sample.
            let expected = 8.0 * timing.seconds.median * (effort.samples + 3) as f64;
            if side.is_some() || 2 * next > effort.largest_side || expected > effort.seconds {
                break;
            }
            next *= 2;
        }
        Ok((best.1, best.2))
    }
}
