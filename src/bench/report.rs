//! What a measurement leaves: one JSON object, which `report.schema.json` describes and peers write as well.

use super::measure::Quartiles;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The version of the format. Another one is refused.
pub const SCHEMA: u32 = 1;

/// The format as a JSON schema.
pub const SCHEMA_JSON: &str = include_str!("report.schema.json");

/// Everything that one run measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it began, in seconds since 1970.
    pub begun: u64,
    /// Whether everything that was asked for was measured.
    pub complete: bool,
    /// Why it was not, if so.
    pub stopped: Option<String>,
    /// Where it ran.
    pub machine: Machine,
    /// Who computed, on what.
    pub devices: Vec<DeviceEntry>,
    /// One pass of one op at one shape a row.
    pub ops: Vec<OpRow>,
    /// One training step a row.
    pub steps: Vec<StepRow>,
    /// What was not measured, and why.
    pub skipped: Vec<Skipped>,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Processors that the program may use.
    pub cpus: usize,
    /// Memory in bytes, where it is known.
    pub memory_bytes: Option<u64>,
    /// Operating system and architecture.
    pub os: String,
    /// Processes that wanted a processor when it began (the load of the last minute), where it is known.
    pub load: Option<f64>,
}

/// One device as one program drives it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceEntry {
    /// What the rows call it; unique in a report.
    pub id: String,
    /// The program and its version: `tempra 0.1.0`, `torch 2.15.0 eager`.
    pub tool: String,
    /// What the device calls itself.
    pub description: String,
    /// What activations are computed in: `f32`, `bf16`, `f16`.
    pub dtype: String,
    /// Bytes of memory, where it tells.
    pub memory_bytes: Option<u64>,
    /// What times are taken with.
    pub timer: String,
    /// Bytes of operands that are rotated at least, so that no cache holds them, unless an op's are too small for that.
    pub cache_bytes: u64,
    /// What it can do at best, measured in the same run.
    pub ceilings: Option<Ceilings>,
    /// The fixed work whose time the rows note ([`OpRow::pace`]); none of a program that notes none.
    #[serde(default)]
    pub pace: Option<String>,
}

/// The best that a device does, measured before everything else, and again after it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes a second of a large copy, read plus written.
    pub copy_bytes_per_s: f64,
    /// Floating-point operations a second of the best large matrix product.
    pub product_flops_per_s: f64,
    /// How the two were measured.
    pub how: String,
    /// The same two at the end, divided by those at the beginning: how much the machine has changed meanwhile.
    pub drift: Option<[f64; 2]>,
}

/// Which pass of an op.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// From inputs to outputs.
    #[default]
    Forward,
    /// From output gradients to input gradients.
    Backward,
    /// A step of the optimizer, which has one pass only.
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
    /// The op's stem.
    pub op: String,
    /// Which of its uses in the model.
    pub role: String,
    /// The model whose shape it is.
    pub model: String,
    /// Tokens of the batch; 0 for what does not depend on it.
    pub tokens: usize,
    /// Which pass.
    pub pass: Phase,
    /// Shapes of the inputs.
    pub shapes: Vec<Vec<usize>>,
    /// Seconds of one run.
    pub seconds: Quartiles,
    /// Measurements, each of `repeats` runs.
    pub samples: usize,
    /// Runs of one measurement.
    pub repeats: usize,
    /// Sets of operands that were used in turn.
    pub sets: usize,
    /// Whether all sets together are larger than the cache.
    pub beyond_cache: bool,
    /// Floating-point operations, as the op counts them.
    pub flops: f64,
    /// Bytes that must be moved at least, as the op counts them.
    pub bytes: f64,
    /// Kernels launched by one run; none for a device that does not count them.
    pub launches: Option<f64>,
    /// The time that the ceilings allow, divided by the time it took, in percent. None without ceilings or without work.
    pub percent: Option<f64>,
    /// Which ceiling is the lower one here: `copy` or `product`.
    pub bound: Option<String>,
    /// Seconds that fixed work took between the measurements, what waits for memory and what computes: how fast the machine
    /// itself was.
    #[serde(default)]
    pub pace: Option<[f64; 2]>,
}

impl OpRow {
    /// What it has in common with the same pass elsewhere.
    pub fn key(&self) -> (String, String, String, usize, Phase) {
        (self.op.clone(), self.role.clone(), self.model.clone(), self.tokens, self.pass)
    }
    /// Notes how near it comes to what the ceilings allow. What stays in a cache has nothing to do with a copy's rate.
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
    /// The model whose shape it has; its weights are random.
    pub model: String,
    /// Which of the measurements it is: `base`, `batch`, `length` (the sweeps), `packed` and `padded` (ragged lengths).
    pub part: String,
    /// Sequences of the batch.
    pub sequences: usize,
    /// Tokens of the longest.
    pub length: usize,
    /// Tokens that are no padding.
    pub tokens: usize,
    /// Tokens that are computed.
    pub computed_tokens: usize,
    /// Seconds of a step as in training.
    pub seconds: Quartiles,
    /// Steps measured.
    pub samples: usize,
    /// Tokens that are no padding, a second.
    pub tokens_per_s: f64,
    /// Sequences a second.
    pub samples_per_s: f64,
    /// Floating-point operations of the step's ops.
    pub flops: f64,
    /// Their rate divided by the rate of the best product.
    pub share_of_peak: Option<f64>,
    /// Most bytes in use: of the device where it has its own memory, else of the process; with how it was found.
    pub peak_bytes: Option<u64>,
    /// Where the time goes.
    pub phases: Phases,
    /// Op by op, the longest first; only of some parts.
    pub work: Vec<Work>,
    /// In the steps that `seconds` is of.
    pub warm: Option<Counts>,
    /// As [`OpRow::pace`].
    #[serde(default)]
    pub pace: Option<[f64; 2]>,
}

/// Seconds of a step by phase. Ops are timed one at a time for this, so they need not add up to the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// Building the batch on the host. In training a thread does so ahead of time, beside the device.
    pub data: f64,
    /// Ops of the forward pass.
    pub forward: f64,
    /// Ops of the backward pass.
    pub backward: f64,
    /// Norm, update and what belongs to them.
    pub optimizer: f64,
    /// What is left of the step: nothing of these ran. Zero where ops overlap.
    pub idle: f64,
}

/// All calls of one pass of one op on tensors of one shape, in one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The op's stem.
    pub op: String,
    /// Which pass.
    pub pass: Phase,
    /// Shapes of its inputs.
    pub shapes: Vec<Vec<usize>>,
    /// How often it runs in a step.
    pub calls: usize,
    /// Seconds of all calls together; the median over steps.
    pub seconds: f64,
    /// Floating-point operations of all calls.
    pub flops: f64,
    /// Bytes that all calls must move at least.
    pub bytes: f64,
}

/// What a GPU was asked for in all warm steps together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Steps.
    pub steps: usize,
    /// Times that memory was asked of the driver.
    pub allocations: u64,
    /// Read-backs.
    pub reads: u64,
    /// Kernels launched one by one.
    pub kernels: u64,
    /// Command buffers (wgpu) or recorded steps (CUDA).
    pub command_buffers: u64,
}

/// Something that was not measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    /// The device it was asked of.
    pub device: String,
    /// What.
    pub what: String,
    /// Why not.
    pub why: String,
}

impl Report {
    /// An empty one of this machine and moment.
    pub fn begin() -> Report {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let begun = now.map_or(0, |d| d.as_secs());
        Report { schema: SCHEMA, begun, machine: Machine::here(), complete: true, ..Report::default() }
    }
    /// Reads a report.
    ///
    /// # Errors
    /// [`Kind::Data`] for a file that is none, is of another schema version, or names devices that it does not describe.
    pub fn read(path: &Path) -> Result<Report> {
        let text =
            std::fs::read_to_string(path).map_err(|e| Error::io(Kind::Data, "cannot be read", path, &e))?;
        Report::parse(&text).map_err(|e| e.at(path))
    }
    /// The same of a text.
    pub fn parse(text: &str) -> Result<Report> {
        const HINT: &str = "measure again with this version: tempra bench --json > FILE";
        let bad = |e: serde_json::Error| {
            Error::data("is not a result of tempra bench")
                .with_line(e.line() as u64)
                .with_expected(format!("a JSON object of schema {SCHEMA}"))
                .with_found(e.to_string())
                .with_help(HINT)
        };
        let value: serde_json::Value = serde_json::from_str(text).map_err(bad)?;
        match value.get("schema") {
            Some(v) if v.as_u64() == Some(SCHEMA.into()) => {}
            other => {
                return Err(Error::data("is a result of another version, or none")
                    .with_expected(format!("\"schema\": {SCHEMA}"))
                    .with_found(other.map_or("no key `schema`".into(), |v| format!("\"schema\": {v}")))
                    .with_help(HINT));
            }
        }
        let report: Report = serde_json::from_value(value).map_err(bad)?;
        let known = |id: &str| report.devices.iter().any(|d| d.id == id);
        let rows = report.ops.iter().map(|r| &r.device).chain(report.steps.iter().map(|r| &r.device));
        if let Some(lost) = rows.into_iter().find(|id| !known(id)) {
            return Err(Error::data("a row is of a device that the file does not describe")
                .with_expected(report.devices.iter().map(|d| d.id.as_str()).collect::<Vec<_>>().join(", "))
                .with_found(lost.clone()));
        }
        Ok(report)
    }
    /// One report of several; devices of one name are told apart by their reports' names.
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
    /// One report of several rounds of the same measurements: of each the median over the rounds, whose quartiles tell how much
    /// rounds differ; the machine's pace is part of that. What the first round did not measure is left out.
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
    /// Notes the ceilings of a device, and how near its rows come to them: the better of what was measured before and after
    /// them, for something else may have slowed one of the two down.
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
    /// The machine this runs on.
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
