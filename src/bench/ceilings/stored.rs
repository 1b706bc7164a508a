//! Stores measured ceilings with their conditions, so that `tempra devices` can show them.

use crate::bench::report::{Ceilings, DeviceEntry, Report};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Ceilings of an earlier run, and the conditions under which they were measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredCeilings {
    /// The ceilings. [`Ceilings::how`] names the effort.
    #[serde(flatten)]
    pub ceilings: Ceilings,
    /// The time of the measurement, in seconds since 1970.
    pub measured: u64,
    /// The load average of the minute before, if known.
    pub load: Option<f64>,
    /// The driver, if the device has one.
    pub driver: Option<String>,
    /// The program and its version.
    pub tool: String,
}

fn place(description: &str, dtype: &str) -> Option<PathBuf> {
    // The number is that of the format.
    let key = blake3::hash(format!("2 {description} {dtype}").as_bytes());
    Some(crate::cache::dir()?.join("ceilings").join(format!("{}.json", &key.to_hex()[..32])))
}

/// Stores the ceilings of a device of a report for later. Failing to write the cache is no error.
pub fn keep(report: &Report, entry: &DeviceEntry) {
    let Some(ceilings) = entry.ceilings.clone() else { return };
    let Some(path) = place(&entry.description, &entry.dtype) else { return };
    let (measured, load) = (report.begun, entry.machine.load_before);
    let (driver, tool) = (entry.driver.clone(), entry.tool.clone());
    let Ok(text) = serde_json::to_string(&StoredCeilings { ceilings, measured, load, driver, tool }) else {
        return;
    };
    let _ = crate::files::replace(&path, text.as_bytes());
}

/// The last measured ceilings of a device with this description and compute type.
pub fn kept(description: &str, dtype: &str) -> Option<StoredCeilings> {
    let text = std::fs::read_to_string(place(description, dtype)?).ok()?;
    serde_json::from_str(&text).ok()
}
