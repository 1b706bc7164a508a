//! What a result must fulfil beyond its format: numbers that can be times and counts, and one row for each
//! measurement.

use super::{DeviceEntry, OpRow, Report, SCHEMA, StepRow};
use crate::bench::measure::Quartiles;
use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashSet;
use std::fmt::Display;

/// The remedy for a result that cannot be used.
pub(super) const HELP: &str = "measure again with this version: tempra bench --json > FILE";

/// The JSON value of a text, and whether it holds NaN or Infinity. JSON has neither, but Python's `json`
/// writes them; they become null, so that the error can name the row.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) for a text that is not JSON otherwise.
pub(super) fn value(text: &str) -> Result<(Value, bool)> {
    serde_json::from_str(text).map(|value| (value, false)).or_else(|e| {
        let finite = without_nan(text).and_then(|text| serde_json::from_str(&text).ok());
        finite.map(|value| (value, true)).ok_or_else(|| {
            Error::data("not a result of tempra bench")
                .with_line(e.line() as u64)
                .with_column(e.column() as u64)
                .with_expected(format!("a JSON object of schema {SCHEMA}"))
                .with_found(e.to_string())
                .with_help(HELP)
        })
    })
}

/// The text with null instead of NaN and Infinity, outside of strings; None if it has neither.
fn without_nan(text: &str) -> Option<String> {
    let (mut rest, mut made, mut quoted, mut found) = (text, String::new(), false, false);
    while let Some(c) = rest.chars().next() {
        let word = ["NaN", "-Infinity", "Infinity"].into_iter().find(|w| !quoted && rest.starts_with(w));
        let length = match (word, c) {
            (Some(word), _) => {
                made += "null";
                found = true;
                rest = &rest[word.len()..];
                continue;
            }
            // A quote behind a backslash does not end a string.
            (None, '\\') => c.len_utf8() + rest.chars().nth(1).map_or(0, char::len_utf8),
            (None, _) => c.len_utf8(),
        };
        quoted ^= c == '"';
        made += &rest[..length];
        rest = &rest[length..];
    }
    found.then_some(made)
}

/// The error of a result that holds NaN or Infinity where null is allowed.
pub(super) fn not_json() -> Error {
    Error::data("the result holds NaN or Infinity").with_expected("numbers that JSON has").with_help(HELP)
}

/// The error of a value that is not a result. Names the first row that is at fault.
pub(super) fn malformed(value: &Value, e: &serde_json::Error, nan: bool) -> Error {
    fn first<'a, T: Deserialize<'a>>(value: &'a Value, list: &str) -> Option<(String, String)> {
        let rows = value.get(list)?.as_array()?;
        let faulty = |(i, row): (usize, &'a Value)| {
            let e = T::deserialize(row).err()?;
            let named = ["op", "role", "part", "pass", "model", "tokens", "device", "id"];
            let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
            let named: Vec<String> = named.iter().filter_map(|key| row.get(key)).map(text).collect();
            Some((format!("{list}[{i}] ({})", named.join(", ")), cause(row, &e)))
        };
        rows.iter().enumerate().find_map(faulty)
    }
    let row = first::<DeviceEntry>(value, "devices")
        .or_else(|| first::<OpRow>(value, "ops"))
        .or_else(|| first::<StepRow>(value, "steps"));
    let number = if nan { "; the file holds NaN or Infinity, which are no numbers in JSON" } else { "" };
    let (what, why) = match row {
        Some((row, why)) => (format!("{row} is not a row of tempra bench"), why),
        None => ("not a result of tempra bench".to_owned(), e.to_string()),
    };
    Error::data(what)
        .with_expected(format!("a JSON object of schema {SCHEMA}"))
        .with_found(why + number)
        .with_help(HELP)
}

/// Why a row cannot be read. `serde_json` does not say which number is missing.
fn cause(row: &Value, e: &serde_json::Error) -> String {
    let wrong = |key: &str| row.get("seconds").and_then(|s| s.get(key)).is_some_and(|v| !v.is_number());
    match ["median", "q1", "q3"].into_iter().find(|key| wrong(key)) {
        Some(key) => format!("seconds.{key} is {}", row["seconds"][key]),
        None => e.to_string(),
    }
}

/// The checks of one row; `at` names it in errors.
struct Checked<'a> {
    at: &'a str,
}

impl Checked<'_> {
    fn number(&self, name: &str, found: f64, fits: impl Fn(f64) -> bool, rule: &str) -> Result<()> {
        if found.is_finite() && fits(found) {
            return Ok(());
        }
        Err(self.wrong(format!("{name} is {found}"), rule))
    }
    /// Times and rates.
    fn positive(&self, name: &str, found: f64) -> Result<()> {
        self.number(name, found, |v| v > 0.0, "a number above 0")
    }
    /// Counts and shares.
    fn counted(&self, name: &str, found: f64) -> Result<()> {
        self.number(name, found, |v| v >= 0.0, "a number of at least 0")
    }
    fn wrong(&self, found: impl Into<String>, expected: impl Display) -> Error {
        Error::data(format!("{} cannot be a measurement", self.at))
            .with_expected(expected.to_string())
            .with_found(found)
            .with_help(HELP)
    }
    fn quartiles(&self, name: &str, seconds: &Quartiles) -> Result<()> {
        let Quartiles { q1, median, q3 } = *seconds;
        for (end, value) in [("median", median), ("q1", q1), ("q3", q3)] {
            self.positive(&format!("{name}.{end}"), value)?;
        }
        if q1 <= median && median <= q3 {
            return Ok(());
        }
        Err(self.wrong(format!("{name} has the quartiles {q1}, {median}, {q3}"), "q1 <= median <= q3"))
    }
    fn times(&self, seconds: &Quartiles, samples: usize, all: &[f64], pace: Option<[f64; 2]>) -> Result<()> {
        self.quartiles("seconds", seconds)?;
        if samples == 0 {
            return Err(self.wrong("samples is 0", "at least one sample"));
        }
        if !all.is_empty() && all.len() != samples {
            return Err(self.wrong(
                format!("{} numbers in samples_s", all.len()),
                format!("{samples}, as samples says"),
            ));
        }
        all.iter().try_for_each(|&s| self.positive("a number of samples_s", s))?;
        let of = Quartiles::of(all.to_vec());
        let ends = [(of.q1, seconds.q1), (of.median, seconds.median), (of.q3, seconds.q3)];
        if !all.is_empty() && ends.iter().any(|(a, b)| (a - b).abs() > DERIVED * b) {
            return Err(self.wrong(
                format!("seconds has the quartiles {}, {}, {}", seconds.q1, seconds.median, seconds.q3),
                format!("{}, {}, {}, as samples_s says", of.q1, of.median, of.q3),
            ));
        }
        pace.into_iter().flatten().try_for_each(|s| self.positive("a number of pace", s))
    }
}

/// Numbers that follow from others may be rounded: peers write fewer digits.
const DERIVED: f64 = 1e-6;

/// The 95 % interval of a median. It contains the median.
fn interval(c: &Checked, interval_s: Option<[f64; 2]>, median: f64) -> Result<()> {
    let Some([low, high]) = interval_s else { return Ok(()) };
    [low, high].into_iter().try_for_each(|s| c.positive("a number of interval_s", s))?;
    if low <= median * (1.0 + DERIVED) && high >= median * (1.0 - DERIVED) {
        return Ok(());
    }
    Err(c.wrong(format!("interval_s is {low} to {high}"), format!("an interval around the median, {median}")))
}

impl Report {
    /// Checks that every number can be what it stands for, and that no device and no measurement is there
    /// twice.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data), naming the row: a time that is not above 0 and finite,
    /// quartiles out of order, a negative count or share, a row of an unknown device, two rows of one
    /// measurement, two devices of one name.
    pub fn check(&self) -> Result<()> {
        let mut ids = HashSet::new();
        for (i, device) in self.devices.iter().enumerate() {
            let at = format!("devices[{i}] ({})", device.id);
            if !ids.insert(device.id.as_str()) {
                return Err(twice(&at));
            }
            check_device(&Checked { at: &at }, device)?;
        }
        let known = |at: &str, id: &str| {
            let names = || self.devices.iter().map(|d| d.id.as_str()).collect::<Vec<_>>().join(", ");
            let lost = || {
                Error::data(format!("{at} names the device {id}, which is not in `devices`"))
                    .with_expected(names())
                    .with_help(HELP)
            };
            if ids.contains(id) { Ok(()) } else { Err(lost()) }
        };
        let mut seen = HashSet::new();
        for (i, row) in self.ops.iter().enumerate() {
            let at = format!("ops[{i}] ({}, on {})", row.label(), row.device);
            known(&at, &row.device)?;
            check_op(&Checked { at: &at }, row)?;
            if !seen.insert((row.device.as_str(), row.key())) {
                return Err(twice(&at));
            }
        }
        let mut seen = HashSet::new();
        for (i, row) in self.steps.iter().enumerate() {
            let at = format!("steps[{i}] ({}, on {})", row.label(), row.device);
            known(&at, &row.device)?;
            check_step(&Checked { at: &at }, row)?;
            if !seen.insert((row.device.as_str(), row.key())) {
                return Err(twice(&at));
            }
        }
        Ok(())
    }
}

fn twice(at: &str) -> Error {
    Error::data(format!("{at} is in the result twice"))
        .with_expected("one entry for each device, and one row for each measurement")
        .with_help(HELP)
}

fn check_device(c: &Checked, device: &DeviceEntry) -> Result<()> {
    let Some(ceilings) = &device.ceilings else { return Ok(()) };
    c.positive("copy_bytes_per_s", ceilings.copy_bytes_per_s)?;
    c.positive("matmul_flops_per_s", ceilings.matmul_flops_per_s)?;
    ceilings.drift.into_iter().flatten().try_for_each(|drift| c.positive("a number of drift", drift))
}

fn check_op(c: &Checked, row: &OpRow) -> Result<()> {
    c.times(&row.seconds, row.samples, &row.samples_s, row.pace)?;
    interval(c, row.interval_s, row.seconds.median)?;
    row.warm_s.map_or(Ok(()), |warm| c.quartiles("warm_s", &warm))?;
    c.counted("flops", row.flops)?;
    c.counted("bytes", row.bytes)?;
    row.percent.map_or(Ok(()), |v| c.counted("percent", v))?;
    row.launches.map_or(Ok(()), |v| c.counted("launches", v))
}

fn check_step(c: &Checked, row: &StepRow) -> Result<()> {
    c.times(&row.seconds, row.samples, &row.samples_s, row.pace)?;
    interval(c, row.interval_s, row.seconds.median)?;
    c.positive("tokens_per_s", row.tokens_per_s)?;
    c.positive("samples_per_s", row.samples_per_s)?;
    let rate = row.tokens as f64 / row.seconds.median;
    if row.tokens > 0 && (row.tokens_per_s - rate).abs() > 1e-3 * rate {
        return Err(c.wrong(
            format!("tokens_per_s is {}", row.tokens_per_s),
            format!("{rate}, the tokens by the median time"),
        ));
    }
    c.counted("flops", row.flops)?;
    c.counted("computed_flops", row.computed_flops)?;
    row.share_of_peak.map_or(Ok(()), |v| c.counted("share_of_peak", v))?;
    let p = &row.phases;
    let phases = [p.data, p.forward, p.backward, p.optimizer, p.idle];
    phases.into_iter().try_for_each(|s| c.counted("a number of phases", s))?;
    row.work.iter().try_for_each(|w| {
        [("seconds", w.seconds), ("flops", w.flops), ("bytes", w.bytes)]
            .into_iter()
            .try_for_each(|(name, value)| c.counted(&format!("{name} of {} in work", w.op), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bare_nan_becomes_null() {
        let cases = [
            (r#"{"a": NaN, "b": [-Infinity, Infinity]}"#, Some(r#"{"a": null, "b": [null, null]}"#)),
            (r#"{"NaN": "a \" NaN", "b": 1}"#, None),
            (r#"{"a \\": NaN}"#, Some(r#"{"a \\": null}"#)),
            (r#"["ä", NaN]"#, Some(r#"["ä", null]"#)),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(without_nan(text).as_deref(), expected, "{text}");
        }
    }
}
