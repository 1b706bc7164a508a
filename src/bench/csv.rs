//! Results as CSV: one row for each measurement, for programs such as pandas.
//!
//! The first line names the columns. A unit is a part of its column's name. A cell is empty if the column
//! does not apply to the row or the value is unknown; no cell is NaN. Ops and training steps are rows of the
//! same table.

use super::compare::{Comparison, Pair};
use super::measure::Quartiles;
use super::report::{Clocks, DeviceEntry, OpRow, Report, StepRow};
use crate::error::{Error, Result};
use serde::Serialize;

/// One measurement. The columns of ops come first, those of training steps after them.
#[derive(Clone, Debug, Default, Serialize)]
struct Row<'a> {
    /// `op` or `step` (a training step).
    kind: &'a str,
    device: &'a str,
    tool: &'a str,
    description: &'a str,
    driver: &'a str,
    dtype: &'a str,
    cpu: &'a str,
    os: &'a str,
    model: &'a str,
    op: &'a str,
    role: &'a str,
    pass: &'a str,
    /// Without padding; empty for ops that do not depend on it.
    tokens: Option<usize>,
    /// The shapes of the inputs: `256x384 1536x384`.
    shapes: String,
    median_s: Option<f64>,
    q1_s: Option<f64>,
    q3_s: Option<f64>,
    /// The 95 % interval of the median.
    low_s: Option<f64>,
    high_s: Option<f64>,
    /// The time with warm caches; `median_s` is that with cold caches.
    warm_median_s: Option<f64>,
    warm_q1_s: Option<f64>,
    warm_q3_s: Option<f64>,
    timing: &'a str,
    samples: usize,
    repeats: Option<usize>,
    sets: Option<usize>,
    beyond_cache: Option<bool>,
    flop: Option<f64>,
    bytes: Option<f64>,
    flop_per_s: Option<f64>,
    bytes_per_s: Option<f64>,
    ceiling_percent: Option<f64>,
    /// The ceiling that limits the op: `copy` or `matmul`.
    ceiling: &'a str,
    launches: Option<f64>,
    /// Why heat or the power supply slowed a GPU down during the measurement.
    slowdowns: String,
    sequences: Option<usize>,
    /// Of the longest sequence, in tokens.
    length: Option<usize>,
    /// The sum of the squares of the sequences' lengths, to which the work of attention is proportional.
    sum_of_squared_lengths: Option<u64>,
    computed_tokens: Option<usize>,
    /// The part of the benchmark of a step: `base`, `packed`, `padded`, `batch`, `length`.
    part: &'a str,
    tokens_per_s: Option<f64>,
    sequences_per_s: Option<f64>,
    /// The share of the best matmul rate.
    peak_percent: Option<f64>,
    peak_bytes: Option<u64>,
    data_s: Option<f64>,
    forward_s: Option<f64>,
    backward_s: Option<f64>,
    optimizer_s: Option<f64>,
    idle_s: Option<f64>,
}

/// One measurement of the base and of another device.
#[derive(Clone, Debug, Default, Serialize)]
struct PairRow<'a> {
    base: &'a str,
    other: &'a str,
    kind: &'a str,
    model: &'a str,
    op: &'a str,
    role: &'a str,
    pass: &'a str,
    tokens: Option<usize>,
    sequences: Option<usize>,
    length: Option<usize>,
    base_median_s: Option<f64>,
    other_median_s: Option<f64>,
    /// The base's time divided by the other's.
    speedup: Option<f64>,
    /// The 95 % interval of the speedup.
    speedup_low: Option<f64>,
    speedup_high: Option<f64>,
    verdict: &'a str,
}

/// All measurements of a report.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) if a row names a device that the report does not have.
pub fn report(report: &Report) -> Result<String> {
    let entry = |id: &str| {
        let found = report.devices.iter().find(|d| d.id == id);
        found.ok_or_else(|| Error::data(format!("a row names the device {id}, which is not in `devices`")))
    };
    let ops = report.ops.iter().map(|o| Ok(op_row(o, entry(&o.device)?)));
    let steps = report.steps.iter().map(|s| Ok(step_row(s, entry(&s.device)?)));
    table(&ops.chain(steps).collect::<Result<Vec<_>>>()?)
}

/// All pairs of measurements of some comparisons.
///
/// # Errors
/// None that a comparison can cause.
pub fn comparisons(all: &[Comparison]) -> Result<String> {
    table(&all.iter().flat_map(|c| c.pairs.iter().map(|p| pair_row(c, p))).collect::<Vec<_>>())
}

/// The header and the rows. Without rows, only the header.
fn table<T: Serialize + Default>(rows: &[T]) -> Result<String> {
    let write = |rows: &[T]| -> std::result::Result<String, String> {
        let mut out = csv::Writer::from_writer(Vec::new());
        rows.iter().try_for_each(|r| out.serialize(r)).map_err(|e| e.to_string())?;
        let bytes = out.into_inner().map_err(|e| e.to_string())?;
        String::from_utf8(bytes).map_err(|e| e.to_string())
    };
    let text = match rows {
        [] => write(&[T::default()]).map(|text| text.lines().take(1).map(|l| format!("{l}\n")).collect()),
        rows => write(rows),
    };
    text.map_err(|e| Error::data("the result cannot be written as CSV").with_found(e))
}

/// Numbers that are not finite are empty cells.
fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}

fn rate(amount: f64, seconds: &Quartiles) -> Option<f64> {
    finite(amount / seconds.median)
}

fn shapes(all: &[Vec<usize>]) -> String {
    let one = |s: &Vec<usize>| s.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    all.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn slowdowns(clocks: Option<&Clocks>) -> String {
    clocks.map_or(String::new(), |c| c.slowdowns.join(" "))
}

/// What rows of both kinds have in common.
fn common<'a>(d: &'a DeviceEntry, seconds: &Quartiles, interval: Option<[f64; 2]>) -> Row<'a> {
    Row {
        device: &d.id,
        tool: &d.tool,
        description: &d.description,
        driver: d.driver.as_deref().unwrap_or_default(),
        dtype: &d.dtype,
        cpu: &d.machine.cpu,
        os: &d.machine.os,
        median_s: finite(seconds.median),
        q1_s: finite(seconds.q1),
        q3_s: finite(seconds.q3),
        low_s: interval.and_then(|[low, _]| finite(low)),
        high_s: interval.and_then(|[_, high]| finite(high)),
        ..Row::default()
    }
}

fn op_row<'a>(o: &'a OpRow, d: &'a DeviceEntry) -> Row<'a> {
    Row {
        kind: "op",
        model: &o.model,
        op: &o.op,
        role: &o.role,
        pass: o.pass.name(),
        tokens: Some(o.tokens).filter(|&t| t > 0),
        shapes: shapes(&o.shapes),
        sequences: o.lengths.map(|l| l.sequences),
        length: o.lengths.map(|l| l.longest),
        sum_of_squared_lengths: o.lengths.map(|l| l.sum_of_squares),
        warm_median_s: o.warm_s.and_then(|q| finite(q.median)),
        warm_q1_s: o.warm_s.and_then(|q| finite(q.q1)),
        warm_q3_s: o.warm_s.and_then(|q| finite(q.q3)),
        timing: o.timing.as_deref().unwrap_or_default(),
        slowdowns: slowdowns(o.clocks.as_ref()),
        samples: o.samples,
        repeats: Some(o.repeats),
        sets: Some(o.sets),
        beyond_cache: Some(o.beyond_cache),
        flop: finite(o.flops),
        bytes: finite(o.bytes),
        flop_per_s: rate(o.flops, &o.seconds),
        bytes_per_s: rate(o.bytes, &o.seconds),
        ceiling_percent: o.percent.and_then(finite),
        ceiling: match o.bound.as_deref() {
            Some("matmul") => "matmul",
            other => other.unwrap_or_default(),
        },
        launches: o.launches.and_then(finite),
        ..common(d, &o.seconds, o.interval_s)
    }
}

fn step_row<'a>(s: &'a StepRow, d: &'a DeviceEntry) -> Row<'a> {
    Row {
        kind: "step",
        model: &s.model,
        part: &s.part,
        tokens: Some(s.tokens),
        timing: s.timing.as_deref().unwrap_or_default(),
        slowdowns: slowdowns(s.clocks.as_ref()),
        samples: s.samples,
        // Scripts in `benches/peers` write 0 where they do not count.
        flop: finite(s.flops).filter(|&f| f > 0.0),
        flop_per_s: rate(s.flops, &s.seconds).filter(|&r| r > 0.0),
        sequences: Some(s.sequences),
        length: Some(s.length),
        sum_of_squared_lengths: s.lengths.map(|l| l.sum_of_squares),
        computed_tokens: Some(s.computed_tokens),
        tokens_per_s: finite(s.tokens_per_s),
        sequences_per_s: finite(s.samples_per_s),
        peak_percent: s.share_of_peak.and_then(|share| finite(100.0 * share)),
        peak_bytes: s.peak_bytes,
        data_s: finite(s.phases.data),
        forward_s: finite(s.phases.forward),
        backward_s: finite(s.phases.backward),
        optimizer_s: finite(s.phases.optimizer),
        idle_s: finite(s.phases.idle),
        ..common(d, &s.seconds, s.interval_s)
    }
}

fn pair_row<'a>(c: &'a Comparison, p: &'a Pair) -> PairRow<'a> {
    let [base, other] = p.seconds;
    PairRow {
        base: &c.base,
        other: &c.other,
        kind: if p.pass.is_some() { "op" } else { "step" },
        model: &p.model,
        op: if p.pass.is_some() { &p.op } else { "" },
        role: &p.role,
        pass: p.pass.map_or("", |pass| pass.name()),
        tokens: Some(p.tokens).filter(|&t| t > 0),
        sequences: p.sequences,
        length: p.length,
        base_median_s: finite(base),
        other_median_s: finite(other),
        speedup: finite(p.speedup.value),
        speedup_low: finite(p.speedup.low),
        speedup_high: finite(p.speedup.high),
        verdict: p.verdict.name(),
    }
}
