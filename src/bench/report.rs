//! The result of a benchmark: one JSON object, described by `report.schema.json`. The scripts in `benches/peers` write it too.

use super::measure::Quartiles;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The version of the format. Files of other versions are refused.
pub const SCHEMA: u32 = 1;

/// The format as a JSON schema.
pub const SCHEMA_JSON: &str = include_str!("report.schema.json");

/// All measurements of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The start time, in seconds since 1970.
    pub begun: u64,
    /// Whether all requested measurements were made.
    pub complete: bool,
    /// Why measuring stopped early, if it did.
    pub stopped: Option<String>,
    /// The machine.
    pub machine: Machine,
    /// The devices, each with the program that used it.
    pub devices: Vec<DeviceEntry>,
    /// One row for each pass of each op at each shape.
    pub ops: Vec<OpRow>,
    /// One row for each training step.
    pub steps: Vec<StepRow>,
    /// Measurements that were not made, with the reason.
    pub skipped: Vec<Skipped>,
}

/// The machine.
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
    /// The load average of the minute before the start, if known.
    pub load: Option<f64>,
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
    /// The compute type: `f32`, `bf16`, `f16`.
    pub dtype: String,
    /// Its memory in bytes, if known.
    pub memory_bytes: Option<u64>,
    /// The source of times.
    pub timer: String,
    /// The cache size in bytes that the sets of operands exceed, unless an op's operands are too small.
    pub cache_bytes: u64,
    /// The device's best rates, measured in the same run.
    pub ceilings: Option<Ceilings>,
    /// The fixed work whose times the rows hold ([`OpRow::pace`]), if the program times fixed work.
    #[serde(default)]
    pub pace: Option<String>,
}

/// The best rates of a device, measured at the start and at the end of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// The rate of a large copy in bytes per second, read plus written.
    pub copy_bytes_per_s: f64,
    /// The rate of the best large matmul in FLOP/s.
    pub product_flops_per_s: f64,
    /// How the two were measured.
    pub how: String,
    /// The rates at the end divided by those at the start: how much the machine changed during the run.
    pub drift: Option<[f64; 2]>,
}

/// The pass of an op.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// From inputs to outputs.
    #[default]
    Forward,
    /// From output gradients to input gradients.
    Backward,
    /// An optimizer step, which has a single pass.
    Step,
}

impl Phase {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Forward => "forward",
            Phase::Backward => "backward",
            Phase::Step => "step",
        }
    }
}

/// One pass of one op at one shape.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpRow {
    /// [`DeviceEntry::id`].
    pub device: String,
    /// The op's name.
    pub op: String,
    /// Its use in the model.
    pub role: String,
    /// The model whose shapes are used.
    pub model: String,
    /// The number of tokens in the batch; 0 for ops that do not depend on it.
    pub tokens: usize,
    /// The pass.
    pub pass: Phase,
    /// The shapes of the inputs.
    pub shapes: Vec<Vec<usize>>,
    /// The time of one run, in seconds.
    pub seconds: Quartiles,
    /// The number of measurements, each of `repeats` runs.
    pub samples: usize,
    /// The number of runs in one measurement.
    pub repeats: usize,
    /// The number of sets of operands, used in turn.
    pub sets: usize,
    /// Whether all sets together are larger than the cache.
    pub beyond_cache: bool,
    /// The number of floating-point operations, from the op's formula.
    pub flops: f64,
    /// The least number of bytes to move, from the op's formula.
    pub bytes: f64,
    /// The number of kernel launches of one run, if the device counts them.
    pub launches: Option<f64>,
    /// The shortest time that the ceilings allow, in percent of the measured time. None without ceilings, and if the operands fit into
    /// the cache.
    pub percent: Option<f64>,
    /// The ceiling that limits this op: `copy` or `product` (matmul).
    pub bound: Option<String>,
    /// The times of fixed work between the measurements, in seconds: the part bound by memory, and the part bound by computing.
    #[serde(default)]
    pub pace: Option<[f64; 2]>,
}

impl OpRow {
    /// The key that identifies the same measurement in another report.
    pub fn key(&self) -> (String, String, String, usize, Phase) {
        (self.op.clone(), self.role.clone(), self.model.clone(), self.tokens, self.pass)
    }
    /// Computes the percentage of the ceilings. Operands in the cache are not limited by the copy rate, so they have none.
    fn judge(&mut self, ceilings: &Ceilings) {
        if !self.beyond_cache {
            return;
        }
        let product = self.flops / ceilings.product_flops_per_s;
        let copy = self.bytes / ceilings.copy_bytes_per_s;
        let floor = product.max(copy);
        if floor > 0.0 && floor.is_finite() && self.seconds.median > 0.0 {
            self.percent = Some(100.0 * floor / self.seconds.median);
            self.bound = Some(if product > copy { "product" } else { "copy" }.to_owned());
        }
    }
}

/// One training step: forward, backward, clipping and AdamW.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRow {
    /// [`DeviceEntry::id`].
    pub device: String,
    /// The model whose shapes are used; its weights are random.
    pub model: String,
    /// The part of the benchmark: `base`, `batch` and `length` (sweeps), `packed` and `padded` (varying lengths).
    pub part: String,
    /// The number of sequences in the batch.
    pub sequences: usize,
    /// The number of tokens in the longest sequence.
    pub length: usize,
    /// The number of tokens without padding.
    pub tokens: usize,
    /// The number of tokens including padding.
    pub computed_tokens: usize,
    /// The time of a step, in seconds.
    pub seconds: Quartiles,
    /// The number of measurements.
    pub samples: usize,
    /// Tokens per second, without padding.
    pub tokens_per_s: f64,
    /// Sequences per second.
    pub samples_per_s: f64,
    /// The number of floating-point operations of a step.
    pub flops: f64,
    /// The step's FLOP/s divided by the rate of the best matmul.
    pub share_of_peak: Option<f64>,
    /// Peak memory in bytes: of the device if it has its own memory, else of the process.
    pub peak_bytes: Option<u64>,
    /// The time by phase.
    pub phases: Phases,
    /// The time by op, the longest first; only for some parts.
    pub work: Vec<Work>,
    /// Counters of the measured steps.
    pub warm: Option<Counts>,
    /// As [`OpRow::pace`].
    #[serde(default)]
    pub pace: Option<[f64; 2]>,
}

/// The time of a step by phase, in seconds. Ops are timed one at a time, so the sum may differ from the time of the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// Building the batch on the host. In training a separate thread does it in advance, in parallel to the device.
    pub data: f64,
    /// Ops of the forward pass.
    pub forward: f64,
    /// Ops of the backward pass.
    pub backward: f64,
    /// Gradient norm, clipping and AdamW.
    pub optimizer: f64,
    /// The rest of the step, when none of these ran. Zero if ops overlap.
    pub idle: f64,
}

/// All calls of one pass of one op on tensors of one shape, in one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The op's name.
    pub op: String,
    /// The pass.
    pub pass: Phase,
    /// The shapes of its inputs.
    pub shapes: Vec<Vec<usize>>,
    /// The number of calls in a step.
    pub calls: usize,
    /// The total time of all calls in seconds, the median over steps.
    pub seconds: f64,
    /// The number of floating-point operations of all calls.
    pub flops: f64,
    /// The least number of bytes that all calls must move.
    pub bytes: f64,
}

/// Counters of a GPU over all warm steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// The number of steps.
    pub steps: usize,
    /// Allocations from the driver.
    pub allocations: u64,
    /// Tensors read back to the host.
    pub reads: u64,
    /// Kernels launched outside of graphs.
    pub kernels: u64,
    /// Command buffers (wgpu) or CUDA graphs launched.
    pub command_buffers: u64,
}

/// A measurement that was not made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    /// The device.
    pub device: String,
    /// The measurement.
    pub what: String,
    /// The reason.
    pub why: String,
}

impl Report {
    /// An empty report for this machine, starting now.
    pub fn begin() -> Report {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let begun = now.map_or(0, |d| d.as_secs());
        Report { schema: SCHEMA, begun, machine: Machine::here(), complete: true, ..Report::default() }
    }
    /// Reads a report.
    ///
    /// # Errors
    /// [`Kind::Data`] for a file that is not a report, has another schema version, or has rows of unknown devices.
    pub fn read(path: &Path) -> Result<Report> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::io(Kind::Data, "cannot read the result", path, &e))?;
        Report::parse(&text).map_err(|e| e.at(path))
    }
    /// Reads a report from a text.
    ///
    /// # Errors
    /// Those of [`Report::read`], without a file name.
    pub fn parse(text: &str) -> Result<Report> {
        const HINT: &str = "measure again with this version: tempra bench --json > FILE";
        let bad = |e: serde_json::Error| {
            Error::data("not a result of tempra bench")
                .with_line(e.line() as u64)
                .with_expected(format!("a JSON object of schema {SCHEMA}"))
                .with_found(e.to_string())
                .with_help(HINT)
        };
        let value: serde_json::Value = serde_json::from_str(text).map_err(bad)?;
        match value.get("schema") {
            Some(v) if v.as_u64() == Some(SCHEMA.into()) => {}
            other => {
                let what = match other {
                    Some(_) => "the result has another schema version",
                    None => "not a result of tempra bench",
                };
                return Err(Error::data(what)
                    .with_expected(format!("\"schema\": {SCHEMA}"))
                    .with_found(other.map_or("no key `schema`".into(), |v| format!("\"schema\": {v}")))
                    .with_help(HINT));
            }
        }
        let report: Report = serde_json::from_value(value).map_err(bad)?;
        let known = |id: &str| report.devices.iter().any(|d| d.id == id);
        let rows = report.ops.iter().map(|r| &r.device).chain(report.steps.iter().map(|r| &r.device));
        if let Some(lost) = rows.into_iter().find(|id| !known(id)) {
            return Err(Error::data(format!("a row names the device {lost}, which is not in `devices`"))
                .with_expected(report.devices.iter().map(|d| d.id.as_str()).collect::<Vec<_>>().join(", "))
                .with_help(HINT));
        }
        Ok(report)
    }
    /// Merges reports. Devices with the same id get their report's name added.
    pub fn merge(parts: Vec<(String, Report)>) -> Report {
        let mut all = Report { schema: SCHEMA, complete: true, ..Report::default() };
        let count = |id: &str| parts.iter().filter(|(_, r)| r.devices.iter().any(|d| d.id == id)).count();
        let shared: Vec<String> = parts
            .iter()
            .flat_map(|(_, r)| &r.devices)
            .map(|d| d.id.clone())
            .filter(|id| count(id) > 1)
            .collect();
        for (i, (name, mut part)) in parts.into_iter().enumerate() {
            let rename = |id: &mut String| {
                if shared.contains(id) {
                    *id = format!("{id} ({name})");
                }
            };
            part.devices.iter_mut().for_each(|d| rename(&mut d.id));
            part.ops.iter_mut().for_each(|r| rename(&mut r.device));
            part.steps.iter_mut().for_each(|r| rename(&mut r.device));
            part.skipped.iter_mut().for_each(|r| rename(&mut r.device));
            if i == 0 {
                (all.begun, all.machine) = (part.begun, part.machine);
            }
            all.complete &= part.complete;
            all.stopped = all.stopped.or(part.stopped);
            all.devices.extend(part.devices);
            all.ops.extend(part.ops);
            all.steps.extend(part.steps);
            all.skipped.extend(part.skipped);
        }
        all
    }
    /// Merges several rounds of the same measurements: each gets the median over the rounds, and the quartiles of the rounds' medians.
    /// Only measurements of the first round are kept.
    pub fn of_rounds(parts: &[Report]) -> Report {
        let Some(first) = parts.first() else { return Report::begin() };
        let mut all = first.clone();
        for row in &mut all.ops {
            let same = parts
                .iter()
                .filter_map(|p| p.ops.iter().find(|r| r.device == row.device && r.key() == row.key()));
            let same: Vec<&OpRow> = same.collect();
            row.pace = None;
            row.samples = same.len();
            row.repeats = same.iter().map(|r| r.samples * r.repeats).min().unwrap_or(0);
            row.seconds = Quartiles::of(same.iter().map(|r| r.seconds.median).collect());
        }
        for entry in &mut all.devices {
            let others = parts.iter().flat_map(|p| &p.devices).filter(|d| d.id == entry.id);
            let ceilings: Vec<&Ceilings> = others.filter_map(|d| d.ceilings.as_ref()).collect();
            if let Some(best) = &mut entry.ceilings {
                for c in ceilings {
                    best.copy_bytes_per_s = best.copy_bytes_per_s.max(c.copy_bytes_per_s);
                    best.product_flops_per_s = best.product_flops_per_s.max(c.product_flops_per_s);
                }
                // They stand for all rounds, not for a beginning and an end.
                best.drift = None;
                all.ops.iter_mut().filter(|r| r.device == entry.id).for_each(|r| r.judge(best));
            }
            entry.pace = None;
        }
        all.complete = parts.iter().all(|p| p.complete);
        all
    }
    /// Sets the ceilings of a device, and its rows' percentages. The ceilings are the better of the two measurements, because other
    /// programs may have slowed down one of them.
    pub fn judge(&mut self, device: &str, before: Ceilings, after: Option<Ceilings>) {
        let mut best = before.clone();
        if let Some(after) = after {
            let (copy, product) = (after.copy_bytes_per_s, after.product_flops_per_s);
            best.drift = Some([copy / before.copy_bytes_per_s, product / before.product_flops_per_s]);
            best.copy_bytes_per_s = copy.max(before.copy_bytes_per_s);
            best.product_flops_per_s = product.max(before.product_flops_per_s);
        }
        self.ops.iter_mut().filter(|r| r.device == device).for_each(|r| r.judge(&best));
        for row in self.steps.iter_mut().filter(|r| r.device == device) {
            row.share_of_peak = Some(row.flops / row.seconds.median / best.product_flops_per_s);
        }
        if let Some(entry) = self.devices.iter_mut().find(|d| d.id == device) {
            entry.ceilings = Some(best);
        }
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
            load: read("/proc/loadavg").split(' ').next().and_then(|v| v.parse().ok()),
        }
    }
}
