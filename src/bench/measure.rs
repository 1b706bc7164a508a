//! How times are measured.
//!
//! Operands are random. Several sets of them, together larger than the cache, are used in turn. A warm-up on all sets compiles the
//! kernels and touches the memory. Then runs are repeated until one measurement is long enough for the clock, and measurements until the
//! time limit. The report has their median and quartiles. Between them fixed work is timed, to see how fast the machine itself is
//! ([`super::pace`]). The clock is the device's own if it has one, otherwise the host's until the device is idle ([`SystemClock`]). Tests
//! use another [`Clock`] that counts work, so that they do not depend on the speed of the machine.

use super::monitor::{Control, Monitor, is_stopped};
use super::operands::{POOL, Ready};
use super::pace::Pace;
use super::report::{Ceilings, Clocks, DeviceEntry, Machine, Phase, Provenance, Report};
use super::shapes::Job;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::ops::Forward;
use crate::ops::linear::{Activation, Linear};
use crate::ops::round::Round;
use crate::rng::Stream;
use crate::shape::{DType, Spec};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::OnceLock;
use std::time::Instant;

/// Measures time for a [`Workbench`].
pub trait Clock: Sync {
    /// Seconds since an arbitrary moment. Never decreases.
    fn now(&self) -> f64;
    /// Runs `work` and returns how many seconds the device took for it.
    ///
    /// # Errors
    /// What `work` returns.
    fn time(&self, device: &Device, work: &mut (dyn FnMut() -> Result<()> + Send)) -> Result<f64>;
}

/// The host's monotonic clock, and the device's own timer where it has one.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> f64 {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_secs_f64()
    }
    fn time(&self, device: &Device, work: &mut (dyn FnMut() -> Result<()> + Send)) -> Result<f64> {
        device.run(|| device.time(&mut || work()))
    }
}

/// How long to measure.
#[derive(Clone, Debug)]
pub struct Effort {
    /// The approximate time for all measurements of one pass of one op, in seconds.
    pub seconds: f64,
    /// The least number of measurements.
    pub samples: usize,
    /// An op and a number of times to run it as if once, to test that a slower kernel is detected.
    pub planted: Option<(String, usize)>,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort { seconds: 0.3, samples: 5, planted: None }
    }
}

/// Median and quartiles, in seconds. The spread is the distance between the quartiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quartiles {
    /// The first quartile.
    pub q1: f64,
    /// The median.
    pub median: f64,
    /// The third quartile.
    pub q3: f64,
}

impl Quartiles {
    /// The quartiles of measurements, by linear interpolation; NaN without measurements.
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
    /// The distance between the quartiles, relative to the median.
    pub fn spread(&self) -> f64 {
        (self.q3 - self.q1) / self.median
    }
}

/// One measured pass.
#[derive(Clone, Debug, Default)]
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
    /// Seconds of fixed work meanwhile, what waits for memory and what computes: medians.
    pub pace: Option<[f64; 2]>,
    /// The GPU kernels of one run.
    pub kernels: Vec<String>,
    /// The GPU's clocks during the measurement, if they are known.
    pub clocks: Option<Clocks>,
}

/// What a measurement lasts at least, in seconds: a hundred times what clocks and launches cost.
const LONG_ENOUGH: f64 = 2e-3;
/// Runs of one measurement at most: a command buffer's time stamps are not endless.
const RUNS: usize = 64;

/// A device, and what measuring on it needs.
pub struct Workbench<'a> {
    /// The device.
    pub device: &'a Device,
    /// Its name in reports.
    pub id: String,
    /// How long to measure.
    pub effort: Effort,
    pub(super) cache: u64,
    pub(super) budget: u64,
    pub(super) pool: Vec<f32>,
    pace: OnceLock<Pace>,
    clock: &'a dyn Clock,
    pub(super) monitor: Option<&'a dyn Monitor>,
    control: Option<&'a dyn Control>,
}

impl<'a> Workbench<'a> {
    /// A workbench for a device with this name in reports.
    pub fn new(device: &'a Device, id: String, effort: Effort) -> Workbench<'a> {
        let mut rng = Stream::new(3, "bench operands", 0);
        let pool = (0..POOL).map(|_| rng.uniform() as f32).collect();
        let (cache, budget) = (cache_bytes(device), budget(device));
        let (monitor, control) = (None, None);
        let (pace, clock) = (OnceLock::new(), &SystemClock);
        Workbench { device, id, effort, cache, budget, pool, pace, clock, monitor, control }
    }
    /// The same bench with a monitor of the GPU's clocks.
    #[must_use]
    pub fn with_monitor(self, monitor: Option<&'a dyn Monitor>) -> Workbench<'a> {
        Workbench { monitor, ..self }
    }
    /// The same bench, which can be stopped.
    #[must_use]
    pub fn with_control(self, control: &'a dyn Control) -> Workbench<'a> {
        Workbench { control: Some(control), ..self }
    }
    /// Ends a measurement that a signal asks to stop.
    ///
    /// # Errors
    /// [`Kind::Interrupted`] after a signal.
    pub(super) fn check(&self) -> Result<()> {
        match self.control.and_then(Control::stop) {
            Some(signal) => Err(Error::new(Kind::Interrupted(signal), "stopped")),
            None => Ok(()),
        }
    }
    /// Whether a signal asks to stop.
    pub fn stopped(&self) -> bool {
        self.check().is_err()
    }
    /// Tells that rows were added to the report.
    pub(super) fn added(&self, report: &Report) {
        if let Some(control) = self.control {
            control.added(report);
        }
    }
    /// The same bench with another clock.
    #[must_use]
    pub fn with_clock(self, clock: &'a dyn Clock) -> Workbench<'a> {
        Workbench { clock, ..self }
    }
    /// The same bench with operands for a cache of this size in bytes, instead of the machine's.
    #[must_use]
    pub fn with_cache_bytes(self, cache: u64) -> Workbench<'a> {
        Workbench { cache, ..self }
    }
    /// The clock.
    pub fn clock(&self) -> &'a dyn Clock {
        self.clock
    }
    /// The device's entry in a report.
    pub fn entry(&self) -> DeviceEntry {
        let (caps, identity) = (self.device.caps(), self.device.identity());
        DeviceEntry {
            id: self.id.clone(),
            tool: format!("tempra {}", env!("CARGO_PKG_VERSION")),
            description: caps.name,
            dtype: caps.matmul.to_string(),
            activation_dtype: (caps.compute != caps.matmul).then(|| caps.compute.to_string()),
            memory_bytes: caps.memory_bytes,
            timer: timer(self.device).to_owned(),
            cache_bytes: self.cache,
            ceilings: None,
            pace: None,
            machine: Machine::here(),
            driver: driver(self.device),
            pci_bus_id: identity.pci_bus_id,
            uuid: identity.uuid,
            provenance: Some(Provenance::of(self.device, &self.effort)),
        }
    }
    /// Fixed work, whose times show how fast the machine is at the moment.
    ///
    /// # Errors
    /// [`Kind::Memory`] if it does not fit; those of the device.
    pub fn pace(&self) -> Result<&Pace> {
        if let Some(pace) = self.pace.get() {
            return Ok(pace);
        }
        let pace = Pace::new(self)?;
        // The first time compiles kernels and touches memory.
        pace.measure(self)?;
        Ok(self.pace.get_or_init(|| pace))
    }
    /// The compute type, in which matmuls multiply.
    pub fn dtype(&self) -> DType {
        self.device.caps().matmul
    }
    /// Whether the CPU does the work, also as a software Vulkan driver. The default shapes are smaller there.
    pub fn is_slow(&self) -> bool {
        match self.device {
            Device::Cpu(_) => true,
            Device::Wgpu(gpu) => gpu.abilities().software,
            _ => false,
        }
    }

    /// Measures the passes of a job. Returns each pass, its times, FLOPs and bytes.
    ///
    /// # Errors
    /// [`Kind::Memory`] if its operands do not fit; those of the device.
    pub fn measure(&self, job: &Job) -> Result<Vec<(Phase, Timing, [f64; 2])>> {
        let ready = self.ready(job)?;
        let one = |&pass: &Phase| {
            let pace = Some(self.pace()?);
            let (timing, clocks) =
                self.watched(&mut || self.time(job.op, pace, ready.sets(), &|i| ready.run(pass, i)))?;
            let kernels = self.kernels(&|| ready.run(pass, 0))?;
            let (sets, beyond_cache) = (ready.sets(), ready.beyond_cache());
            let timing = Timing { sets, beyond_cache, kernels, clocks, ..timing };
            Ok((pass, timing, ready.cost(pass)))
        };
        let mut all = Vec::new();
        for pass in ready.passes() {
            match one(pass) {
                Ok(measured) => all.push(measured),
                // What was measured before a signal is kept.
                Err(e) if is_stopped(&e) && !all.is_empty() => break,
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    /// The names of the GPU kernels of one run. A CPU has none, so nothing is run there.
    fn kernels(&self, run: &dyn Fn() -> Result<()>) -> Result<Vec<String>> {
        if !self.device.caps().gpu {
            return Ok(Vec::new());
        }
        Ok(self.device.kernels(run)?.into_iter().map(str::to_owned).collect())
    }

    /// Warms up: runs every pass on every set once, which compiles kernels, touches memory, and writes what later passes read.
    ///
    /// # Errors
    /// Those of the device.
    pub fn warm(&self, ready: &Ready) -> Result<()> {
        let one =
            |&pass: &Phase| (0..ready.sets()).try_for_each(|i| self.timed(ready, pass, i..i + 1).map(drop));
        ready.passes().iter().try_for_each(one)
    }
    /// The time in seconds of consecutive runs of a pass, on one set after the other, by the device's own clock if it has one.
    ///
    /// # Errors
    /// Those of the device.
    pub fn timed(&self, ready: &Ready, pass: Phase, runs: Range<usize>) -> Result<f64> {
        let mut seconds = 0.0;
        for from in runs.clone().step_by(RUNS) {
            let mut work = || (from..runs.end.min(from + RUNS)).try_for_each(|i| ready.run(pass, i));
            seconds += self.clock.time(self.device, &mut work)?;
        }
        Ok(seconds)
    }

    /// Times `run(i)`, where i is the index of the run, and fixed work between the measurements.
    fn time(
        &self,
        op: &str,
        pace: Option<&Pace>,
        sets: usize,
        run: &(dyn Fn(usize) -> Result<()> + Sync),
    ) -> Result<Timing> {
        let times = match &self.effort.planted {
            Some((planted, times)) if planted == op => *times,
            _ => 1,
        };
        let mut next = 0;
        let mut measure = |runs: usize| -> Result<f64> {
            self.check()?;
            let from = next;
            next += runs;
            let mut work = || (from..from + runs).try_for_each(|i| (0..times).try_for_each(|_| run(i)));
            Ok(self.clock.time(self.device, &mut work)? / runs as f64)
        };
        let before = launches(self.device);
        (0..sets).try_for_each(|_| measure(1).map(drop))?;
        let per_run = launches(self.device).zip(before).map(|(now, then)| (now - then) as f64 / sets as f64);
        let one = measure(1)?.min(measure(1)?);
        let repeats = (LONG_ENOUGH / one.max(1e-9)).ceil().clamp(1.0, RUNS as f64) as usize;
        let begun = self.clock.now();
        let (mut seconds, mut paces) = (Vec::new(), Vec::new());
        // What takes long is measured less often, but never so rarely that a median means nothing.
        let least = if one > self.effort.seconds { 3.min(self.effort.samples) } else { self.effort.samples };
        while seconds.len() < least || self.clock.now() - begun < self.effort.seconds {
            if let Some(pace) = pace {
                paces.push(pace.measure(self)?);
                // What the fixed work took from the cache comes back before anything counts.
                (repeats > 1).then(|| measure(1)).transpose()?;
            }
            seconds.push(measure(repeats)?);
        }
        let samples = seconds.len();
        let fastest = seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let seconds = Quartiles::of(seconds);
        let pace = pace.map(|_| medians(&paces));
        Ok(Timing { seconds, fastest, samples, repeats, launches: per_run, pace, ..Timing::default() })
    }

    /// Measures the device's ceilings: the rates of a large copy and of the best matmul.
    ///
    /// # Errors
    /// Those of the device.
    pub fn ceilings(&self) -> Result<Ceilings> {
        let copy = self.copy_rate()?;
        let (product, side) = self.product_rate()?;
        let by = if let Device::Cpu(_) = self.device {
            "memcpy or an in-place update by all threads, whichever is faster"
        } else {
            "a copy kernel"
        };
        Ok(Ceilings {
            copy_bytes_per_s: copy,
            product_flops_per_s: product,
            how: format!(
                "copy: {by}, bytes read plus written; matmul: {side} x {side} x {side}, {}",
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
        let mut best = self.time("copy", None, 1, &run)?.fastest;
        if let Device::Cpu(cpu) = self.device {
            // A store to what is not in the cache reads it first, unless it was read anyway.
            let run = |_: usize| {
                use rayon::prelude::*;
                let mut to = to.cpu_mut::<f32>()?;
                let part = n.div_ceil(cpu.threads()).max(1);
                to.par_chunks_mut(part).for_each(|t| t.iter_mut().for_each(|v| *v = -*v));
                Ok(())
            };
            best = best.min(self.time("copy", None, 1, &run)?.fastest);
        }
        Ok(2.0 * spec.bytes() as f64 / best)
    }
    /// The best rate of square matmuls in FLOP/s, and its size. Larger sizes are tried while they are fast.
    fn product_rate(&self) -> Result<(f64, usize)> {
        let mut best = (0.0, 0);
        let op = Linear { act: Activation::None };
        for side in [256, 512, 1024, 2048, 4096, 8192] {
            let spec = Spec::new(self.device.caps().compute, &[side, side]);
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
            let timing = self.time("product", None, 1, &run)?;
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

/// The medians of both numbers.
pub(super) fn medians(paces: &[[f64; 2]]) -> [f64; 2] {
    [0, 1].map(|i| Quartiles::of(paces.iter().map(|p| p[i]).collect()).median)
}

/// An error in one line.
pub fn reason(e: &Error) -> String {
    e.to_string().lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

/// Whether the device was lost, so that nothing more can be measured on it.
pub fn is_gone(e: &Error) -> bool {
    e.kind() == Kind::Lost
}

/// The source of times on a device, for reports.
pub fn timer(device: &Device) -> &'static str {
    match device {
        Device::Cuda(card) if card.timestamps() => "CUDA events",
        Device::Wgpu(gpu) if gpu.abilities().timestamps => "timestamp queries around the passes",
        Device::Cpu(_) => "host clock",
        _ => "host clock, until the device is idle",
    }
}

/// The driver of a GPU and its version, for reports.
fn driver(device: &Device) -> Option<String> {
    match device {
        Device::Cuda(card) => Some(card.driver()),
        Device::Wgpu(gpu) => Some(gpu.abilities().driver.clone()).filter(|driver| !driver.is_empty()),
        _ => None,
    }
}

/// The number of kernels launched on a GPU so far.
fn launches(device: &Device) -> Option<u64> {
    match device {
        Device::Wgpu(gpu) => Some(gpu.stats().launches),
        Device::Cuda(card) => Some(card.stats().launches),
        _ => None,
    }
}

/// The size of the last-level cache in bytes: of the CPU from the system; for a GPU a size larger than that of any current GPU.
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

/// The memory for operands in bytes: half of a GPU's memory, or a quarter of the host's free memory.
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
