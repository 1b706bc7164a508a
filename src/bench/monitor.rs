//! Watches the clocks of an NVIDIA GPU during measurements, and repeats a measurement during which heat or
//! the power supply slowed the GPU down.

use super::measure::Workbench;
use super::report::{Clocks, GpuState};
use crate::device::Device;
use crate::device::cuda::nvml::{Nvml, NvmlGpu, is_slowdown};
use crate::error::{Error, Kind, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the clocks are read during a measurement: often enough for the shortest measurement by default
/// (0.3 s), seldom enough not to disturb the launches.
const INTERVAL: Duration = Duration::from_millis(100);
/// How many intervals a repeated measurement waits at most for the slowdown to end.
const PATIENCE: usize = 10;

/// Tells the state of a GPU.
pub trait Monitor: Sync {
    /// The state now.
    fn state(&self) -> GpuState;
    /// Starts watching.
    fn begin(&self);
    /// Stops watching. Returns the clocks since [`Monitor::begin`], and every slowdown that was seen.
    fn end(&self) -> Clocks;
}

/// The monitor that NVML provides.
pub struct NvmlMonitor {
    gpu: NvmlGpu,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// What was seen since the beginning; `None` when nothing is watched.
    seen: Mutex<Option<Clocks>>,
    ended: AtomicBool,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Option<Clocks>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn look(&self, gpu: NvmlGpu) {
        if self.seen().is_none() {
            return;
        }
        let now = Clocks {
            sm_mhz: gpu.sm_clock_mhz().map(|mhz| [mhz; 2]),
            slowdowns: gpu
                .reasons()
                .into_iter()
                .flatten()
                .filter(|r| is_slowdown(r))
                .map(str::to_owned)
                .collect(),
            repeated: false,
        };
        if let Some(seen) = &mut *self.seen() {
            *seen = Clocks::of_all([&*seen, &now].into_iter()).unwrap_or_default();
        }
    }
}

impl NvmlMonitor {
    /// The monitor of a device. `Ok(None)` if it is not an NVIDIA GPU.
    ///
    /// # Errors
    /// Why NVML cannot watch this GPU, in one line.
    pub fn of(device: &Device) -> std::result::Result<Option<NvmlMonitor>, String> {
        let gpu = match device {
            Device::Cuda(gpu) => gpu.nvml()?,
            Device::Wgpu(gpu) if gpu.abilities().nvidia => Nvml::get()?.gpu(&device.identity())?,
            _ => return Ok(None),
        };
        let shared = Arc::new(Shared::default());
        let watched = shared.clone();
        let watch = move || {
            while !watched.ended.load(Ordering::Relaxed) {
                std::thread::park_timeout(INTERVAL);
                watched.look(gpu);
            }
        };
        // Without a thread the clocks are read at the beginning and at the end of each measurement only.
        let thread = std::thread::Builder::new().name("tempra-nvml".to_owned()).spawn(watch).ok();
        Ok(Some(NvmlMonitor { gpu, shared, thread }))
    }

    /// The name and version of the source.
    pub fn source() -> String {
        Nvml::get().map_or_else(|why| format!("none: {why}"), |nvml| format!("NVML {}", nvml.version()))
    }
}

impl Monitor for NvmlMonitor {
    fn state(&self) -> GpuState {
        self.gpu.state()
    }
    fn begin(&self) {
        *self.shared.seen() = Some(Clocks::default());
        self.shared.look(self.gpu);
    }
    fn end(&self) -> Clocks {
        self.shared.look(self.gpu);
        self.shared.seen().take().unwrap_or_default()
    }
}

impl Drop for NvmlMonitor {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It only fails if the thread panicked, and then there is nothing to wait for.
            let _ = thread.join();
        }
    }
}

impl Workbench<'_> {
    /// Runs a measurement and returns the GPU's clocks during it. If heat or the power supply slowed the GPU
    /// down meanwhile, the measurement is made once more, and the second one counts.
    pub(super) fn watched<T>(&self, measure: &mut dyn FnMut() -> Result<T>) -> Result<(T, Option<Clocks>)> {
        let Some(monitor) = self.monitor else { return Ok((measure()?, None)) };
        let mut once = || -> Result<(T, Clocks)> {
            monitor.begin();
            let done = measure();
            let clocks = monitor.end();
            Ok((done?, clocks))
        };
        let (first, clocks) = once()?;
        if clocks.slowdowns.is_empty() {
            return Ok((first, Some(clocks)));
        }
        for _ in 0..PATIENCE {
            if self.check().is_err() || monitor.state().slowdowns().is_empty() {
                break;
            }
            std::thread::sleep(INTERVAL);
        }
        match once() {
            Ok((second, clocks)) => Ok((second, Some(Clocks { repeated: true, ..clocks }))),
            // Interrupted: the first measurement is kept, with its mark.
            Err(e) if is_stopped(&e) => Ok((first, Some(clocks))),
            Err(e) => Err(e),
        }
    }
}

/// What a running benchmark asks and tells between two measurements.
pub trait Control: Sync {
    /// The signal that asks the benchmark to stop, if one came.
    fn stop(&self) -> Option<i32>;
    /// Receives the report whenever rows were added to it.
    fn added(&self, report: &super::Report);
}

/// Whether a measurement ended early because of a signal.
pub fn is_stopped(e: &Error) -> bool {
    matches!(e.kind(), Kind::Interrupted(_))
}
