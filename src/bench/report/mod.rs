//! The result of a benchmark: one JSON object, described by `schema.json`. The scripts in `benches/peers`
//! write it too.

mod check;
mod machine;
mod provenance;
mod rows;

pub use crate::device::cuda::nvml::GpuState;
pub use machine::{Ceilings, DeviceEntry, Machine, same_gpu};
pub use provenance::{BenchSettings, Provenance};
pub use rows::{Clocks, Counts, LengthSummary, OpRow, Phase, Phases, Skipped, StepRow, Work};

use super::measure::Quartiles;
use super::samples::median_interval;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The version of the format. Files of other versions are refused.
pub const SCHEMA: u32 = 2;

/// The format as a JSON schema.
pub const SCHEMA_JSON: &str = include_str!("schema.json");

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
    /// The devices, each with its machine and the program that used it.
    pub devices: Vec<DeviceEntry>,
    /// One row for each pass of each op at each shape.
    pub ops: Vec<OpRow>,
    /// One row for each training step.
    pub steps: Vec<StepRow>,
    /// Measurements that were not made, with the reason.
    pub skipped: Vec<Skipped>,
}

impl Report {
    /// An empty report, starting now.
    pub fn begin() -> Report {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let begun = now.map_or(0, |d| d.as_secs());
        Report { schema: SCHEMA, begun, complete: true, ..Report::default() }
    }
    /// Reads a report.
    ///
    /// # Errors
    /// [`Kind::Data`] for a file that is not a report or has another schema version; those of
    /// [`Report::check`].
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
        let (value, nan) = check::value(text)?;
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
                    .with_help(check::HELP));
            }
        }
        let report = Report::deserialize(&value).map_err(|e| check::malformed(&value, &e, nan))?;
        if nan {
            return Err(check::not_json());
        }
        report.check()?;
        Ok(report)
    }
    /// Merges reports. Devices with the same id get their report's name added. Each device keeps why its
    /// report is incomplete.
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
            let stopped = part.stopped.clone().unwrap_or_else(|| "measuring stopped early".to_owned());
            for device in &mut part.devices {
                rename(&mut device.id);
                if !part.complete {
                    device.incomplete.get_or_insert_with(|| stopped.clone());
                }
            }
            part.ops.iter_mut().for_each(|r| rename(&mut r.device));
            part.steps.iter_mut().for_each(|r| rename(&mut r.device));
            part.skipped.iter_mut().for_each(|r| rename(&mut r.device));
            if i == 0 {
                all.begun = part.begun;
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
    /// Merges several rounds of the same measurements: each gets the median over the rounds, and the
    /// quartiles of the rounds' medians. Only measurements of the first round are kept.
    pub fn of_rounds(parts: &[Report]) -> Report {
        let Some(first) = parts.first() else { return Report::begin() };
        let mut all = first.clone();
        for row in &mut all.ops {
            let same = parts
                .iter()
                .filter_map(|p| p.ops.iter().find(|r| r.device == row.device && r.key() == row.key()));
            let same: Vec<&OpRow> = same.collect();
            row.pace = None;
            row.clocks = Clocks::of_all(same.iter().filter_map(|r| r.clocks.as_ref()));
            row.samples = same.len();
            row.repeats = same.iter().map(|r| r.samples * r.repeats).min().unwrap_or(0);
            row.samples_s = same.iter().map(|r| r.seconds.median).collect();
            row.interval_s = median_interval(&row.samples_s);
            row.seconds = Quartiles::of(row.samples_s.clone());
            let warm: Vec<f64> = same.iter().filter_map(|r| r.warm_s.map(|q| q.median)).collect();
            row.warm_s = (!warm.is_empty()).then(|| Quartiles::of(warm));
        }
        for entry in &mut all.devices {
            // The rounds began with the first one and ended with the last one.
            let last = parts.last().and_then(|p| p.devices.iter().find(|d| d.id == entry.id));
            if let Some(last) = last {
                entry.machine.load_after = last.machine.load_after;
                if let (Some(here), Some(there)) = (&mut entry.provenance, &last.provenance) {
                    here.gpu_after.clone_from(&there.gpu_after);
                }
            }
            let others = parts.iter().flat_map(|p| &p.devices).filter(|d| d.id == entry.id);
            let ceilings: Vec<&Ceilings> = others.filter_map(|d| d.ceilings.as_ref()).collect();
            if let Some(own) = &mut entry.ceilings {
                // As for rows: the samples are the rounds' medians.
                own.copy_samples_bytes_per_s = ceilings.iter().map(|c| c.copy_bytes_per_s).collect();
                own.matmul_samples_flops_per_s = ceilings.iter().map(|c| c.matmul_flops_per_s).collect();
                own.copy_bytes_per_s = Quartiles::of(own.copy_samples_bytes_per_s.clone()).median;
                own.matmul_flops_per_s = Quartiles::of(own.matmul_samples_flops_per_s.clone()).median;
                // They stand for all rounds, not for a beginning and an end.
                own.drift = None;
                all.ops.iter_mut().filter(|r| r.device == entry.id).for_each(|r| r.judge(own));
            }
            entry.pace = None;
            entry.rounds = Some(parts.len());
        }
        all.complete = parts.iter().all(|p| p.complete);
        all.stopped = parts.iter().find_map(|p| p.stopped.clone());
        all
    }
    /// Sets the ceilings of a device, and its rows' percentages. The ceilings are the medians of all samples
    /// of both measurements; see [`Ceilings`].
    pub fn judge(&mut self, device: &str, before: Ceilings, after: Option<Ceilings>) {
        let best = match after {
            Some(after) => before.with(after),
            None => before,
        };
        self.ops.iter_mut().filter(|r| r.device == device).for_each(|r| r.judge(&best));
        for row in self.steps.iter_mut().filter(|r| r.device == device) {
            row.share_of_peak = Some(row.flops / row.seconds.median / best.matmul_flops_per_s);
        }
        if let Some(entry) = self.devices.iter_mut().find(|d| d.id == device) {
            entry.ceilings = Some(best);
        }
    }
}
