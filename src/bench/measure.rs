//! How times are measured.
//!
//! Operands are random. Several sets of them, together larger than the cache, are used in turn: this gives
//! the time with cold caches. A warm-up on all sets compiles the kernels and touches the memory. Then runs
//! are repeated until one sample is long enough for the clock (see `queue.rs`), and samples are taken until
//! the time limit. The report has all samples, their median and quartiles. After that one set is used again
//! and again: this gives the time with warm caches. Between the samples fixed work is timed, to see how fast
//! the machine itself is ([`super::pace`]). The clock is the device's own if it has one, otherwise the host's
//! until the device is idle ([`SystemClock`]). Tests use another [`Clock`] that counts work, so that they do
//! not depend on the speed of the machine.

use super::cache::LastLevelCache;
use super::ceilings::CeilingEffort;
use super::monitor::{Control, Monitor, is_stopped};
use super::operands::{POOL, Ready};
use super::pace::Pace;
use super::queue::{Queue, RUNS};
use super::report::{Clocks, DeviceEntry, Machine, Phase, Provenance, Report};
use super::shapes::Job;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::rng::Rng;
use crate::shape::DType;
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

/// How long to measure ops and steps. Ceilings have their own [`CeilingEffort`].
#[derive(Clone, Debug)]
pub struct Effort {
    /// The approximate time for all samples of one pass of one op with cold caches, in seconds. Warm caches
    /// take a quarter more.
    pub seconds: f64,
    /// The least number of samples.
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
    /// Samples.
    pub samples: usize,
    /// Seconds of one run in each sample, in their order.
    pub samples_s: Vec<f64>,
    /// Runs in each sample.
    pub repeats: usize,
    /// How the runs of a sample are queued and timed.
    pub timing: String,
    /// Sets of operands.
    pub sets: usize,
    /// Whether they are larger than the cache.
    pub beyond_cache: bool,
    /// Seconds of one run on one set of operands, again and again.
    pub warm: Option<Quartiles>,
    /// Kernels launched by one run.
    pub launches: Option<f64>,
    /// Seconds of fixed work meanwhile, what waits for memory and what computes: medians.
    pub pace: Option<[f64; 2]>,
    /// The GPU kernels of one run.
    pub kernels: Vec<String>,
    /// The GPU's clocks during the measurement, if they are known.
    pub clocks: Option<Clocks>,
}

/// When enough samples of one measurement are taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Enough {
    /// Samples are taken for at least this many seconds.
    pub seconds: f64,
    /// The least number of samples.
    pub samples: usize,
}

impl Effort {
    /// Enough samples with cold caches.
    pub(super) fn cold(&self) -> Enough {
        Enough { seconds: self.seconds, samples: self.samples }
    }
    /// Enough samples with warm caches.
    fn warm(&self) -> Enough {
        Enough { seconds: self.seconds / 4.0, ..self.cold() }
    }
}

/// The least duration of a sample in seconds: a hundred times what clocks and launches cost.
const LONG_ENOUGH: f64 = 2e-3;

/// A device, and what measuring on it needs.
pub struct Workbench<'a> {
    /// The device.
    pub device: &'a Device,
    /// Its name in reports.
    pub id: String,
    /// How long to measure ops and steps.
    pub effort: Effort,
    /// How much work goes into the ceilings.
    pub ceiling_effort: CeilingEffort,
    pub(super) cache: LastLevelCache,
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
        let mut rng = Rng::new(3, "bench operands", 0);
        let pool = (0..POOL).map(|_| rng.uniform() as f32).collect();
        let (ceiling_effort, cache) = (CeilingEffort::of(device), LastLevelCache::of(device));
        let budget = budget(device);
        let (monitor, control) = (None, None);
        let (pace, clock) = (OnceLock::new(), &SystemClock);
        Workbench { device, id, effort, ceiling_effort, cache, budget, pool, pace, clock, monitor, control }
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
    pub fn with_cache_bytes(self, bytes: u64) -> Workbench<'a> {
        Workbench { cache: LastLevelCache { bytes, source: "set by the caller".to_owned() }, ..self }
    }
    /// The same bench with another effort for ceilings, for tests.
    #[must_use]
    pub fn with_ceiling_effort(self, ceiling_effort: CeilingEffort) -> Workbench<'a> {
        Workbench { ceiling_effort, ..self }
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
            cache_bytes: self.cache.bytes,
            cache_source: Some(self.cache.source.clone()),
            machine: Machine::here(),
            driver: driver(self.device),
            pci_bus_id: identity.pci_bus_id,
            uuid: identity.uuid,
            provenance: Some(Provenance::of(self.device, &self.effort)),
            ..DeviceEntry::default()
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
            let run = |i: usize| ready.run(pass, i);
            let (both, clocks) = self.watched(&mut || {
                let cold = self.time(job.op, self.effort.cold(), pace, ready.sets(), &run)?;
                // Fixed work between the samples would replace the set in the cache.
                match self.time(job.op, self.effort.warm(), None, 1, &|_| ready.run(pass, 0)) {
                    // After a signal the time with cold caches is kept.
                    Err(e) if is_stopped(&e) => Ok((cold, None)),
                    warm => Ok((cold, Some(warm?.seconds))),
                }
            })?;
            let (cold, warm) = both;
            let kernels = self.kernels(&|| ready.run(pass, 0))?;
            let (sets, beyond_cache) = (ready.sets(), ready.beyond_cache());
            let timing = Timing { sets, beyond_cache, warm, kernels, clocks, ..cold };
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

    /// Warms up: runs every pass on every set once, which compiles kernels, touches memory, and writes what
    /// later passes read.
    ///
    /// # Errors
    /// Those of the device.
    pub fn warm(&self, ready: &Ready) -> Result<()> {
        let one =
            |&pass: &Phase| (0..ready.sets()).try_for_each(|i| self.timed(ready, pass, i..i + 1).map(drop));
        ready.passes().iter().try_for_each(one)
    }
    /// The time in seconds of consecutive runs of a pass, on one set after the other, by the device's own
    /// clock if it has one. The capture of the runs as CUDA graphs does not count.
    ///
    /// # Errors
    /// Those of the device.
    pub fn timed(&self, ready: &Ready, pass: Phase, runs: Range<usize>) -> Result<f64> {
        let run = |i: usize| ready.run(pass, i);
        let mut queue = Queue::new(self, ready.sets(), runs.start, &run);
        if runs.len() > 1 {
            queue.capture(runs.len())?;
        }
        let seconds = queue.seconds(runs.len())?;
        queue.finish()?;
        Ok(seconds)
    }

    /// Times `run(i)`, where i is the index of the run, and fixed work between the samples.
    pub(super) fn time(
        &self,
        op: &str,
        enough: Enough,
        pace: Option<&Pace>,
        sets: usize,
        run: &(dyn Fn(usize) -> Result<()> + Sync),
    ) -> Result<Timing> {
        let times = match &self.effort.planted {
            Some((planted, times)) if planted == op => *times,
            _ => 1,
        };
        let run = |i: usize| (0..times).try_for_each(|_| run(i));
        let mut queue = Queue::new(self, sets, 0, &run);
        let before = launches(self.device);
        (0..sets).try_for_each(|_| queue.seconds(1).map(drop))?;
        let per_run = launches(self.device).zip(before).map(|(now, then)| (now - then) as f64 / sets as f64);
        let one = queue.seconds(1)?.min(queue.seconds(1)?);
        let fill =
            |one: f64, most: usize| (LONG_ENOUGH / one.max(1e-9)).ceil().clamp(1.0, most as f64) as usize;
        let mut repeats = fill(one, RUNS);
        if let Some(runs) = queue.capture(repeats)? {
            // Launched one by one, short kernels take as long as their launches. In a graph they may be
            // faster.
            repeats = runs * fill(queue.seconds(runs)?, RUNS);
        }
        let begun = self.clock.now();
        let (mut samples_s, mut paces) = (Vec::new(), Vec::new());
        while samples_s.len() < enough.samples || self.clock.now() - begun < enough.seconds {
            if let Some(pace) = pace {
                paces.push(pace.measure(self)?);
                (repeats > 1).then(|| queue.refresh()).transpose()?;
            }
            samples_s.push(queue.seconds(repeats)? / repeats as f64);
        }
        let timing = queue.timing();
        queue.finish()?;
        let seconds = Quartiles::of(samples_s.clone());
        if !(seconds.q1 > 0.0 && seconds.q3.is_finite()) {
            return Err(Error::device(format!("the clock of {} does not resolve {op}", self.id))
                .with_expected("a time above 0 s for every sample")
                .with_found(format!("{} s in {} for {repeats} runs", seconds.q1, timer(self.device))));
        }
        Ok(Timing {
            seconds,
            samples: samples_s.len(),
            samples_s,
            repeats,
            timing,
            launches: per_run,
            pace: pace.map(|_| medians(&paces)),
            ..Timing::default()
        })
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
        Device::Cuda(gpu) if gpu.timestamps() => "CUDA events",
        Device::Wgpu(gpu) if gpu.abilities().timestamps => "timestamp queries around the passes",
        Device::Cpu(_) => "host clock",
        _ => "host clock, until the device is idle",
    }
}

/// The driver of a GPU and its version, for reports.
fn driver(device: &Device) -> Option<String> {
    match device {
        Device::Cuda(gpu) => Some(gpu.driver()),
        Device::Wgpu(gpu) => Some(gpu.abilities().driver.clone()).filter(|driver| !driver.is_empty()),
        _ => None,
    }
}

/// The number of kernels launched on a GPU so far.
fn launches(device: &Device) -> Option<u64> {
    match device {
        Device::Wgpu(gpu) => Some(gpu.stats().launches),
        Device::Cuda(gpu) => Some(gpu.stats().launches),
        _ => None,
    }
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
