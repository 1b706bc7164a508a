//! Measures how fast the machine itself is during a benchmark.
//!
//! CPU clocks, other programs and GPU temperature change the speed of a machine from minute to minute, often
//! by more than the differences of interest. So a fixed piece of work, the same in all versions, is timed
//! between the measurements of each op. One part is bound by memory, the other by computing. If its times
//! differ between two results, [`compare()`](super::compare()) adds that difference to the uncertainty.

use super::measure::Workbench;
use super::report::Machine;
use crate::device::cpu::parallel::*;
use crate::device::cuda::Captured;
use crate::device::{Device, Tensor};
use crate::error::{Error, Result};
use crate::ops::cast::Cast;
use crate::shape::{DType, Spec};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Numbers that the host copies at a time: 4 MiB, half a millisecond.
const WINDOW: usize = 1 << 20;
/// Rounds of the host's computing part: about a quarter of a millisecond.
const ROUNDS: u32 = 1 << 16;
/// How long the host's threads work before they are timed beside a software driver.
const WAKING: Duration = Duration::from_millis(5);
/// Pairs of tensors that a GPU copies in turn.
const PAIRS: u64 = 8;
/// Copies of tensors that fit into a GPU's cache.
const NEAR: usize = 16;
/// Launches of a CUDA graph for one time: together much longer than what a launch costs the host.
const LAUNCHES: usize = 4;

/// Fixed work, ready to run.
pub struct Pace {
    work: Fixed,
    next: AtomicUsize,
}

enum Fixed {
    /// On a CPU: copies of parts of an array; sums and products in registers.
    Host { from: Vec<f32>, to: Mutex<Vec<f32>>, threads: usize },
    /// On a GPU: copies in memory, on several tensors in turn; repeated copies that fit into its cache.
    Gpu { far: Vec<[Tensor; 2]>, near: [Tensor; 2] },
    /// The same on an NVIDIA GPU, as two CUDA graphs, so that the host's launches do not count. The tensors
    /// are kept for the graphs.
    Graphs { graphs: Mutex<[Captured; 2]>, far: Vec<[Tensor; 2]>, _near: [Tensor; 2] },
}

impl Pace {
    /// Fixed work for a device.
    ///
    /// # Errors
    /// [`crate::error::Kind::Memory`] if it does not fit; those of the device.
    pub(super) fn new(bench: &Workbench) -> Result<Pace> {
        let next = AtomicUsize::new(0);
        if bench.is_slow() {
            let n = (bench.cache.bytes.max(32 << 20).min(bench.budget / 8) / 2).max(4 << 20) as usize;
            let threads = match bench.device {
                Device::Cpu(cpu) => cpu.threads(),
                _ => std::thread::available_parallelism().map_or(1, usize::from),
            };
            // Not zero, so that both have all their pages before anything counts.
            let work = Fixed::Host { from: vec![1.0; n], to: Mutex::new(vec![2.0; n]), threads };
            return Ok(Pace { work, next });
        }
        let tensor = |bytes: u64| bench.random(&Spec::new(DType::F32, &[(bytes / 4) as usize]), -1.0, 1.0, 1);
        let pair = |bytes: u64| Ok([tensor(bytes)?, tensor(bytes)?]);
        let far = (2 * bench.cache.bytes).min(bench.budget / 8) / PAIRS;
        let far = (0..PAIRS).map(|_| pair(far)).collect::<Result<Vec<_>>>()?;
        let Device::Cuda(gpu) = bench.device else {
            return Ok(Pace { work: Fixed::Gpu { far, near: pair(1 << 20)? }, next });
        };
        let near = pair(1 << 18)?;
        let copy = |[from, to]: &[Tensor; 2]| bench.device.step(&Cast, &[from, to]);
        // Loads the kernel, which is not possible during a capture.
        copy(&near)?;
        let graphs = gpu
            .capture(|| far.iter().try_for_each(copy))?
            .zip(gpu.capture(|| (0..NEAR).try_for_each(|_| copy(&near)))?);
        let work = match graphs {
            Some((memory, cache)) => Fixed::Graphs { graphs: Mutex::new([memory, cache]), far, _near: near },
            None => Fixed::Gpu { far, near },
        };
        Ok(Pace { work, next })
    }

    /// A description of the fixed work. Only times with the same description can be compared.
    pub fn how(&self, device: &Device) -> String {
        match &self.work {
            Fixed::Host { threads, .. } => {
                // A software driver leaves other data in the caches, so that the copy takes longer than
                // beside ops on the CPU.
                let beside = if matches!(device, Device::Cpu(_)) { "" } else { ", beside a software driver" };
                format!("{}, {threads} threads{beside}: a copy, sums in registers", Machine::here().cpu)
            }
            Fixed::Gpu { far, .. } => format!("{}: {}", device.caps().name, copies(far, "kernel launches")),
            Fixed::Graphs { far, .. } => format!("{}: {}", device.caps().name, copies(far, "CUDA graphs")),
        }
    }

    /// Its times now, in seconds: the part bound by memory, and the part bound by computing.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn measure(&self, bench: &Workbench) -> Result<[f64; 2]> {
        let (device, clock) = (bench.device, bench.clock());
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        match &self.work {
            Fixed::Host { from, to, threads } => {
                let windows = (from.len() / WINDOW).max(1);
                let at = turn % windows * WINDOW;
                let until = from.len().min(at + WINDOW);
                let part = (until - at).div_ceil(*threads).max(1);
                let time = |work: &mut (dyn FnMut() -> Result<()> + Send)| match device {
                    Device::Cpu(_) => clock.time(device, work),
                    // The clock of a software driver (timestamp queries) does not see work of the host.
                    _ => {
                        let begun = clock.now();
                        work()?;
                        Ok(clock.now() - begun)
                    }
                };
                let sums = || -> f32 {
                    (0..*threads).into_par_iter().map(|i| compute(i as f32)).collect().into_iter().sum()
                };
                let mut computing = || {
                    std::hint::black_box(sums());
                    Ok(())
                };
                // While a software driver works, these threads sleep. After they wake, the system may run
                // several of them on one CPU until it next balances its load, every few milliseconds. That is
                // not the machine's speed.
                let woken = Instant::now();
                while !matches!(device, Device::Cpu(_)) && woken.elapsed() < WAKING {
                    computing()?;
                }
                let memory = time(&mut || {
                    let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
                    to[at..until]
                        .par_chunks_mut(part)
                        .zip(from[at..until].par_chunks(part))
                        .for_each(|(to, from)| to.copy_from_slice(from));
                    Ok(())
                })?;
                Ok([memory, time(&mut computing)?])
            }
            Fixed::Gpu { far, near } => {
                let [from, to] = &far[turn % far.len()];
                let memory = clock.time(device, &mut || device.step(&Cast, &[from, to]))?;
                let mut often = || (0..NEAR).try_for_each(|_| device.step(&Cast, &[&near[0], &near[1]]));
                Ok([memory, clock.time(device, &mut often)?])
            }
            Fixed::Graphs { graphs, .. } => {
                let Device::Cuda(gpu) = device else {
                    return Err(Error::shape("CUDA graphs were captured on another device"));
                };
                let mut graphs = graphs.lock().unwrap_or_else(PoisonError::into_inner);
                let time = |graph: &mut Captured| {
                    clock.time(device, &mut || (0..LAUNCHES).try_for_each(|_| gpu.launch_captured(graph)))
                };
                let [memory, cache] = &mut *graphs;
                Ok([time(memory)?, time(cache)?])
            }
        }
    }
}

/// A description of copies on a GPU.
fn copies(far: &[[Tensor; 2]], how: &str) -> String {
    let bytes = far.first().map_or(0, |[from, _]| from.spec.bytes());
    format!("a copy of {bytes} bytes in memory, a copy in the cache, by {how}")
}

/// Sums and products in registers, in enough independent chains to keep the CPU's units busy.
fn compute(start: f32) -> f32 {
    let mut sums = [start; 32];
    for i in 0..ROUNDS {
        // Not a constant to the compiler, so that nothing is worked out beforehand.
        let factor = std::hint::black_box(0.999 + 1e-9 * i as f32);
        sums.iter_mut().for_each(|s| *s = *s * factor + 0.5);
    }
    sums.iter().sum()
}
