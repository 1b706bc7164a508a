//! The machine and the devices of a result.

use super::Provenance;
use crate::bench::ceilings::Nameplate;
use crate::bench::measure::Quartiles;
use crate::device::Identity;
use serde::{Deserialize, Serialize};

/// A machine, and how busy it was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The CPU's name.
    pub cpu: String,
    /// The number of CPU cores that the program may use.
    pub cpus: usize,
    /// The memory in bytes, if known.
    pub memory_bytes: Option<u64>,
    /// Operating system and architecture.
    pub os: String,
    /// The load average of the minute before the first measurement, if known.
    pub load_before: Option<f64>,
    /// The load average of the minute before the end, if known. It includes the benchmark itself.
    pub load_after: Option<f64>,
}

/// One device, used by one program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceEntry {
    /// Its name in the rows; unique in a report.
    pub id: String,
    /// The program and its version: `tempra 0.1.0`, `torch 2.15.0 eager`.
    pub tool: String,
    /// The device's own name.
    pub description: String,
    /// Why measurements that were requested are missing, in a report merged from several. A report of one run
    /// says it for all of its devices ([`Report::stopped`](super::Report::stopped)).
    #[serde(default)]
    pub incomplete: Option<String>,
    /// The number of rounds, each a process of its own, whose medians are the samples of the rows. `None`:
    /// one process took all samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<usize>,
    /// The compute type, in which matmuls multiply: `f32`, `bf16`, `f16`. Activations in memory have it too,
    /// unless `activation_dtype` names another.
    pub dtype: String,
    /// The type of activations in memory, if it is not `dtype`: f32 in f16 on wgpu.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_dtype: Option<String>,
    /// Its memory in bytes, if known.
    pub memory_bytes: Option<u64>,
    /// The source of times.
    pub timer: String,
    /// The cache size in bytes that the sets of operands exceed, unless an op's operands are too small.
    pub cache_bytes: u64,
    /// Where the cache size is from; `assumed: ...` if the device does not tell it.
    #[serde(default)]
    pub cache_source: Option<String>,
    /// The device's best rates, measured in the same run.
    pub ceilings: Option<Ceilings>,
    /// The fixed work whose times the rows hold ([`OpRow::pace`](super::OpRow::pace)), if the program times
    /// fixed work.
    #[serde(default)]
    pub pace: Option<String>,
    /// The machine that it was measured on.
    pub machine: Machine,
    /// The device's driver and its version, if it has one.
    #[serde(default)]
    pub driver: Option<String>,
    /// The PCI address of a GPU; see [`Identity::pci_bus_id`].
    #[serde(default)]
    pub pci_bus_id: Option<String>,
    /// The UUID of a GPU; see [`Identity::uuid`].
    #[serde(default)]
    pub uuid: Option<String>,
    /// How the measurements were made. Scripts in `benches/peers` do not write it.
    #[serde(default)]
    pub provenance: Option<Provenance>,
}

/// Whether two entries are one GPU, used through two APIs or in two results. UUIDs decide if both are known;
/// PCI addresses are compared only on machines that look alike.
pub fn same_gpu(a: &DeviceEntry, b: &DeviceEntry) -> bool {
    let identity = |d: &DeviceEntry| Identity { pci_bus_id: d.pci_bus_id.clone(), uuid: d.uuid.clone() };
    let by_uuid = a.uuid.is_some() && b.uuid.is_some();
    identity(a).is_same(&identity(b)) && (by_uuid || a.machine.is_like(&b.machine))
}

/// The best rates of a device, measured at the start and at the end of a run: medians of all samples of both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// The rate of a large copy in bytes per second, read plus written.
    pub copy_bytes_per_s: f64,
    /// The rate of the best large matmul in FLOP/s.
    pub matmul_flops_per_s: f64,
    /// How the two were measured, and with which effort.
    pub how: String,
    /// The rates at the end divided by those at the start: how much the machine changed during the run.
    pub drift: Option<[f64; 2]>,
    /// How the copy is made.
    #[serde(default)]
    pub copy_by: String,
    /// The side of the square matmul.
    #[serde(default)]
    pub matmul_side: usize,
    /// The copy's rate in each sample, in bytes per second.
    #[serde(default)]
    pub copy_samples_bytes_per_s: Vec<f64>,
    /// The matmul's rate in each sample, in FLOP/s.
    #[serde(default)]
    pub matmul_samples_flops_per_s: Vec<f64>,
    /// The peak by the specification of the hardware, where it is known.
    #[serde(default)]
    pub nameplate: Option<Nameplate>,
}

impl Ceilings {
    /// Both measurements as one. The rates are the medians of all samples, the same statistic as that of the
    /// rows, so that a percentage compares two medians of the same run. The drift is that of the medians.
    pub(super) fn with(mut self, after: Ceilings) -> Ceilings {
        let median = |samples: &[f64]| Quartiles::of(samples.to_vec()).median;
        self.drift = Some([
            after.copy_bytes_per_s / self.copy_bytes_per_s,
            after.matmul_flops_per_s / self.matmul_flops_per_s,
        ]);
        self.copy_samples_bytes_per_s.extend(after.copy_samples_bytes_per_s);
        self.matmul_samples_flops_per_s.extend(after.matmul_samples_flops_per_s);
        self.copy_bytes_per_s = median(&self.copy_samples_bytes_per_s);
        self.matmul_flops_per_s = median(&self.matmul_samples_flops_per_s);
        self
    }
}

impl Machine {
    /// This machine.
    pub fn here() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str| {
            let line = text.lines().find(|l| l.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let kib =
            after(&memory, "MemTotal").and_then(|v| v.trim_end_matches("kB").trim().parse::<u64>().ok());
        Machine {
            cpu: after(&cpus, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kib.map(|k| k << 10),
            os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            load_before: Machine::load(),
            load_after: None,
        }
    }

    /// The load average of the last minute, if the system tells.
    pub fn load() -> Option<f64> {
        std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
    }

    /// Whether everything but the load is the same.
    pub fn is_like(&self, other: &Machine) -> bool {
        let idle = |m: &Machine| Machine { load_before: None, load_after: None, ..m.clone() };
        idle(self) == idle(other)
    }
}
