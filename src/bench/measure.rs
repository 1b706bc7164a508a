//! How a time is taken.
//!
//! Operands are random, lie in as many sets as exceed the cache, and are used in turn. All sets run once before anything
//! counts: kernels are compiled, memory is touched. Then runs are repeated until one measurement is long enough for the
//! clock, and measurements until the time that was granted is over; the median and the quartiles of these are reported.
//! The clock is the device's own where it has one, else the host's around work that has been waited for.

use super::report::{Ceilings, DeviceEntry, Phase};
use super::shapes::{Job, Runs};
use crate::device::{Device, Tensor};
use crate::error::{Error, Kind, Result};
use crate::ops::linear::{Activation, Linear};
use crate::ops::round::Round;
use crate::ops::{Backward, Fill, Forward, Grad, Input, Op, accumulator};
use crate::rng::Stream;
use crate::shape::{DType, Spec};
use serde::{Deserialize, Serialize};

/// How long and how often.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Seconds that the measurements of one pass of one op take together, about.
    pub seconds: f64,
    /// Measurements at least, whatever they take.
    pub samples: usize,
    /// An op that runs so many times as if it were once: to see that a slower kernel shows.
    pub planted: Option<(String, usize)>,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort { seconds: 0.3, samples: 5, planted: None }
    }
}

/// Median and quartiles, in seconds. The quartiles' distance is the spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quartiles {
    /// A quarter is less.
    pub q1: f64,
    /// Half is less.
    pub median: f64,
    /// A quarter is more.
    pub q3: f64,
}

impl Quartiles {
    /// Of measurements, by linear interpolation; NaN of none.
    pub fn of(mut v: Vec<f64>) -> Quartiles {
        v.sort_by(f64::total_cmp);
        let at = |q: f64| {
            let place = q * v.len().saturating_sub(1) as f64;
            let (low, part) = (place.floor() as usize, place.fract());
            let a = v.get(low).copied().unwrap_or(f64::NAN);
            a + part * (v.get(low + 1).copied().unwrap_or(a) - a)
        };
        Quartiles { q1: at(0.25), median: at(0.5), q3: at(0.75) }
    }
    /// The quartiles' distance, relative to the median.
    pub fn spread(&self) -> f64 {
        (self.q3 - self.q1) / self.median
    }
}

/// One measured pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Seconds of one run.
    pub seconds: Quartiles,
    /// The least of all measurements: what ceilings are taken from.
    pub fastest: f64,
    /// Measurements.
    pub samples: usize,
    /// Runs of each.
    pub repeats: usize,
    /// Sets of operands.
    pub sets: usize,
    /// Whether they are larger than the cache.
    pub beyond_cache: bool,
    /// Kernels launched by one run.
    pub launches: Option<f64>,
}

/// Random numbers that fill operands: as many as would take long to make are the same again from elsewhere.
const POOL: usize = (1 << 20) + 13;
/// Sets of operands at most.
const SETS: u64 = 64;
/// What a measurement lasts at least, in seconds: a hundred times what clocks and launches cost.
const LONG_ENOUGH: f64 = 2e-3;
/// Runs of one measurement at most: a command buffer's time stamps are not endless.
const RUNS: usize = 64;

/// A device, and what measuring on it needs.
pub struct Workbench<'a> {
    /// The device.
    pub device: &'a Device,
    /// What reports call it.
    pub id: String,
    /// How long and how often.
    pub effort: Effort,
    cache: u64,
    budget: u64,
    pool: Vec<f32>,
}

struct Set {
    x: Vec<Tensor>,
    y: Vec<Tensor>,
    dy: Vec<Tensor>,
    dx: Vec<Option<Tensor>>,
}

impl<'a> Workbench<'a> {
    /// A device that reports call `id`.
    pub fn new(device: &'a Device, id: String, effort: Effort) -> Workbench<'a> {
        let mut rng = Stream::new(3, "bench operands", 0);
        let pool = (0..POOL).map(|_| rng.uniform() as f32).collect();
        let (cache, budget) = (cache_bytes(device), budget(device));
        Workbench { device, id, effort, cache, budget, pool }
    }
    /// What a report says of the device.
    pub fn entry(&self) -> DeviceEntry {
        let caps = self.device.caps();
        DeviceEntry {
            id: self.id.clone(),
            tool: format!("tempra {}", env!("CARGO_PKG_VERSION")),
            description: caps.name,
            dtype: format!("{:?}", self.dtype()).to_lowercase(),
            memory_bytes: caps.memory_bytes,
            timer: timer(self.device).to_owned(),
            cache_bytes: self.cache,
            ceilings: None,
        }
    }
    /// What activations are computed in.
    pub fn dtype(&self) -> DType {
        self.device.caps().compute
    }
    /// Whether a processor does the work, be it as a software driver: shapes are smaller there by default.
    pub fn is_slow(&self) -> bool {
        match self.device {
            Device::Cpu(_) => true,
            Device::Wgpu(gpu) => gpu.abilities().software,
            _ => false,
        }
    }

    fn put(&self, input: &Input, spec: &Spec, at: usize) -> Result<Tensor> {
        let (lo, hi) = match &input.fill {
            Fill::Ints(v) => return self.device.upload(DType::U32, &spec.shape, v),
            Fill::Fixed(v) => return self.device.upload_reals(spec.dtype, &spec.shape, v),
            Fill::Real(lo, hi) => (*lo as f32, *hi as f32),
        };
        self.random(spec, lo, hi, at)
    }
    /// Random numbers from place `at` of the pool on.
    fn random(&self, spec: &Spec, lo: f32, hi: f32, at: usize) -> Result<Tensor> {
        let at = at.wrapping_mul(7919) % POOL;
        let numbers = self.pool.iter().cycle().skip(at).take(spec.len()).map(|u| lo + u * (hi - lo));
        let shape = &spec.shape;
        match spec.dtype {
            DType::BF16 => {
                let v: Vec<half::bf16> = numbers.map(half::bf16::from_f32).collect();
                self.device.upload(spec.dtype, shape, &v)
            }
            DType::F16 => {
                let v: Vec<half::f16> = numbers.map(half::f16::from_f32).collect();
                self.device.upload(spec.dtype, shape, &v)
            }
            _ => self.device.upload(DType::F32, shape, &numbers.collect::<Vec<_>>()),
        }
    }

    /// The specs of a job's inputs here.
    fn specs(&self, job: &Job) -> Vec<Spec> {
        let real = if let Runs::Op(_) = job.runs { self.dtype() } else { DType::F32 };
        let one = |input: &Input| {
            let dtype = match input.fill {
                Fill::Real(..) => real,
                Fill::Fixed(_) => DType::F32,
                Fill::Ints(_) => DType::U32,
            };
            Spec::new(dtype, &input.shape)
        };
        job.inputs.iter().map(one).collect()
    }

    /// Measures the passes of a job: which, how long, and the operations and bytes as the op counts them.
    ///
    /// # Errors
    /// [`Kind::Memory`] for one that does not fit, and what the device says.
    pub fn measure(&self, job: &Job) -> Result<Vec<(Phase, Timing, [f64; 2])>> {
        let caps = self.device.caps();
        let specs = self.specs(job);
        let refs: Vec<&Spec> = specs.iter().collect();
        let (outputs, cost) = match &job.runs {
            Runs::Op(op) => {
                let plan = op.plan(&caps, &refs)?;
                (plan.outputs.len(), (plan.outputs, plan.saved, plan.cost))
            }
            Runs::Step(step) => (0, (vec![], vec![], step.check(&caps, &refs)?)),
        };
        let (first, saved, cost) = cost;
        let y: Vec<Spec> = first.into_iter().chain(saved).collect();
        let is_op = matches!(job.runs, Runs::Op(_));
        let gradient = |i: usize, s: &Spec| {
            let wanted = is_op && matches!(job.inputs[i].fill, Fill::Real(..));
            let dtype = if job.weights.contains(&i) { accumulator(s.dtype) } else { s.dtype };
            wanted.then(|| Spec::new(dtype, &s.shape))
        };
        let dx: Vec<Option<Spec>> = specs.iter().enumerate().map(|(i, s)| gradient(i, s)).collect();
        let all = specs.iter().chain(&y).chain(&y[..outputs]).chain(dx.iter().flatten());
        let bytes: u64 = all.clone().map(|s| s.bytes() as u64).sum();
        let largest = all.map(|s| s.bytes() as u64).max().unwrap_or(0);
        // What a run touches, and what each further set takes: tables are shared.
        let touched = bytes.min(cost.forward_bytes as u64).max(1);
        let is_shared = |i: usize| job.choices.is_some() && job.weights.contains(&i);
        let table = |i: usize| specs[i].bytes() + dx[i].as_ref().map_or(0, Spec::bytes);
        let shared: u64 = (0..specs.len()).filter(|&i| is_shared(i)).map(|i| table(i) as u64).sum();
        if bytes > self.budget || largest > caps.binding_bytes {
            return Err(Error::memory("does not fit")
                .expected(format!(
                    "at most {} MiB, {} MiB a tensor",
                    self.budget >> 20,
                    caps.binding_bytes >> 20
                ))
                .found(format!("{} MiB, {} MiB in one tensor", bytes >> 20, largest >> 20)));
        }
        let sets = (2 * self.cache).div_ceil(touched).max(2);
        let sets = sets.min(SETS).min((self.budget - shared) / (bytes - shared).max(1)).max(1) as usize;
        let mut all: Vec<Set> = Vec::new();
        for n in 0..sets {
            let make = |spec: &Spec| self.device.alloc(spec.clone());
            let input = |(i, (input, spec)): (usize, (&Input, &Spec))| match (
                all.first(),
                job.choices,
                &input.fill,
            ) {
                (Some(first), ..) if is_shared(i) => Ok(first.x[i].clone()),
                (_, Some(rows), Fill::Ints(v)) if i == 0 => {
                    let others: Vec<u32> =
                        v.iter().map(|&v| ((v as usize + 7919 * n) % rows) as u32).collect();
                    self.device.upload(DType::U32, &spec.shape, &others)
                }
                _ => self.put(input, spec, 31 * n + i),
            };
            let gradient = |(i, spec): (usize, &Option<Spec>)| match (all.first(), spec) {
                (Some(first), _) if is_shared(i) => Ok(first.dx[i].clone()),
                (_, spec) => spec.as_ref().map(make).transpose(),
            };
            let set = Set {
                x: job.inputs.iter().zip(&specs).enumerate().map(input).collect::<Result<_>>()?,
                y: y.iter().map(make).collect::<Result<_>>()?,
                dy: y[..outputs]
                    .iter()
                    .map(|s| self.random(s, -1.0, 1.0, 31 * n + 17))
                    .collect::<Result<_>>()?,
                dx: dx.iter().enumerate().map(gradient).collect::<Result<_>>()?,
            };
            all.push(set);
        }
        let beyond_cache = touched * sets as u64 > self.cache;
        let finish = |t: Timing| Timing { sets, beyond_cache, ..t };
        match &job.runs {
            Runs::Step(step) => {
                let run = |i: usize| {
                    let x: Vec<&Tensor> = all[i % sets].x.iter().collect();
                    self.device.step(&**step, &x)
                };
                let timing = finish(self.time(job.op, sets, &run)?);
                Ok(vec![(Phase::Step, timing, [cost.forward_flops, cost.forward_bytes])])
            }
            Runs::Op(op) => {
                let op: &(dyn Op + Sync) = &**op;
                let forward = |i: usize| {
                    let s = &all[i % sets];
                    let (x, y): (Vec<&Tensor>, Vec<&Tensor>) = (s.x.iter().collect(), s.y.iter().collect());
                    self.device.forward(op, Forward { x: &x, y: &y })
                };
                let backward = |i: usize| {
                    let s = &all[i % sets];
                    let (x, y): (Vec<&Tensor>, Vec<&Tensor>) = (s.x.iter().collect(), s.y.iter().collect());
                    let dy: Vec<Option<&Tensor>> = s.dy.iter().map(Some).collect();
                    let dx: Vec<Option<Grad>> =
                        s.dx.iter().map(|t| t.as_ref().map(|t| Grad { t, add: false })).collect();
                    self.device.backward(op, Backward { x: &x, y: &y, dy: &dy, dx: &dx })
                };
                let there = finish(self.time(job.op, sets, &forward)?);
                let back = finish(self.time(job.op, sets, &backward)?);
                Ok(vec![
                    (Phase::Forward, there, [cost.forward_flops, cost.forward_bytes]),
                    (Phase::Backward, back, [cost.backward_flops, cost.backward_bytes]),
                ])
            }
        }
    }

    /// Times `run(i)`, i the number of the run.
    fn time(&self, op: &str, sets: usize, run: &(dyn Fn(usize) -> Result<()> + Sync)) -> Result<Timing> {
        let times = match &self.effort.planted {
            Some((planted, times)) if planted == op => *times,
            _ => 1,
        };
        let mut next = 0;
        let mut measure = |runs: usize| -> Result<f64> {
            let from = next;
            next += runs;
            let mut work = || (from..from + runs).try_for_each(|i| (0..times).try_for_each(|_| run(i)));
            Ok(self.device.run(|| self.device.time(&mut work))? / runs as f64)
        };
        let before = launches(self.device);
        (0..sets).try_for_each(|_| measure(1).map(drop))?;
        let per_run = launches(self.device).zip(before).map(|(now, then)| (now - then) as f64 / sets as f64);
        let one = measure(1)?.min(measure(1)?);
        let repeats = (LONG_ENOUGH / one.max(1e-9)).ceil().clamp(1.0, RUNS as f64) as usize;
        let begun = std::time::Instant::now();
        let mut seconds = Vec::new();
        // What takes long is measured less often, but never so rarely that a median means nothing.
        let least = if one > self.effort.seconds { 3.min(self.effort.samples) } else { self.effort.samples };
        while seconds.len() < least || begun.elapsed().as_secs_f64() < self.effort.seconds {
            seconds.push(measure(repeats)?);
        }
        let samples = seconds.len();
        let fastest = seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let seconds = Quartiles::of(seconds);
        Ok(Timing { seconds, fastest, samples, repeats, launches: per_run, ..Timing::default() })
    }

    /// What the device does at best.
    ///
    /// # Errors
    /// What the device says.
    pub fn ceilings(&self) -> Result<Ceilings> {
        let copy = self.copy_rate()?;
        let (product, side) = self.product_rate()?;
        let by = if let Device::Cpu(_) = self.device {
            "memcpy or a change in place by all threads, whichever is faster"
        } else {
            "its own copy kernel"
        };
        Ok(Ceilings {
            copy_bytes_per_s: copy,
            product_flops_per_s: product,
            how: format!(
                "copy: {by}, read plus written; product: {side} x {side} x {side}, {:?}",
                self.dtype()
            ),
            drift: None,
        })
    }
    fn copy_rate(&self) -> Result<f64> {
        let most = (self.budget / 8).min(self.device.caps().binding_bytes).min(256 << 20);
        let n = ((4 * self.cache).min(most) / 4) as usize;
        let spec = Spec::new(DType::F32, &[n]);
        let (from, to) = (self.random(&spec, -1.0, 1.0, 1)?, self.random(&spec, -1.0, 1.0, 2)?);
        let run = |_: usize| match self.device {
            Device::Cpu(cpu) => {
                use rayon::prelude::*;
                let (from, mut to) = (from.cpu::<f32>()?, to.cpu_mut::<f32>()?);
                // Large enough for the C library to write past the cache.
                let part = n.div_ceil(cpu.threads()).max(1);
                to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(t, f)| t.copy_from_slice(f));
                Ok(())
            }
            _ => self.device.step(&Round, &[&from, &to]),
        };
        let mut best = self.time("copy", 1, &run)?.fastest;
        if let Device::Cpu(cpu) = self.device {
            // A store to what is not in the cache reads it first, unless it was read anyway.
            let run = |_: usize| {
                use rayon::prelude::*;
                let mut to = to.cpu_mut::<f32>()?;
                let part = n.div_ceil(cpu.threads()).max(1);
                to.par_chunks_mut(part).for_each(|t| t.iter_mut().for_each(|v| *v = -*v));
                Ok(())
            };
            best = best.min(self.time("copy", 1, &run)?.fastest);
        }
        Ok(2.0 * spec.bytes() as f64 / best)
    }
    /// The best rate of square products, and the side it was reached at: larger ones are tried while they are fast.
    fn product_rate(&self) -> Result<(f64, usize)> {
        let mut best = (0.0, 0);
        let op = Linear { act: Activation::None };
        for side in [256, 512, 1024, 2048, 4096, 8192] {
            let spec = Spec::new(self.dtype(), &[side, side]);
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
            let timing = self.time("product", 1, &run)?;
            let flops = 2.0 * (side as f64).powi(3);
            if flops / timing.fastest > best.0 {
                best = (flops / timing.fastest, side);
            }
            // The next one takes eight times as long.
            if 8.0 * timing.seconds.median > self.effort.seconds {
                break;
            }
        }
        Ok(best)
    }
}

/// What an error says in one line.
pub fn reason(e: &Error) -> String {
    e.to_string().lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

/// Whether nothing more can be measured on a device that said this.
pub fn is_gone(e: &Error) -> bool {
    e.kind() == Kind::Lost
}

/// What times on a device are taken with.
pub fn timer(device: &Device) -> &'static str {
    match device {
        Device::Cuda(card) if card.timestamps() => "CUDA events",
        Device::Wgpu(gpu) if gpu.abilities().timestamps => "time stamp queries around the passes",
        Device::Cpu(_) => "host clock",
        _ => "host clock, until the device is idle",
    }
}

/// Kernels that a GPU was given so far.
fn launches(device: &Device) -> Option<u64> {
    match device {
        Device::Wgpu(gpu) => Some(gpu.stats().launches),
        Device::Cuda(card) => Some(card.stats().launches),
        _ => None,
    }
}

/// The last cache before memory: of the CPU as the system says; of a GPU more than any has had so far.
fn cache_bytes(device: &Device) -> u64 {
    let gpu = match device {
        Device::Wgpu(gpu) => !gpu.abilities().software,
        Device::Cuda(_) => true,
        _ => false,
    };
    if gpu {
        return 128 << 20;
    }
    let size = |index: u32| -> Option<u64> {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        let text = std::fs::read_to_string(path).ok()?;
        Some(text.trim().trim_end_matches('K').parse::<u64>().ok()? << 10)
    };
    (0..5).filter_map(size).max().unwrap_or(32 << 20)
}

/// Bytes that operands may take: half of what a GPU has, a quarter of what the host has free.
fn budget(device: &Device) -> u64 {
    let free = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
    });
    let host = free.map_or(1 << 30, |b| b / 4);
    match (device, device.caps().memory_bytes) {
        (Device::Wgpu(gpu), _) if gpu.abilities().software => host,
        (Device::Cuda(_) | Device::Wgpu(_), Some(bytes)) => bytes / 2,
        (Device::Cuda(_) | Device::Wgpu(_), None) => 1 << 30,
        _ => host,
    }
}
