//! Compares results op by op: the speedup, its interval, and a verdict.

mod gate;
mod speedup;
mod work;

pub use gate::{HIGHEST, SpeedGate};
pub use speedup::{SAME, Side, Speedup, USABLE, Verdict};
pub use work::{Difference, Refused};

use super::measure::Quartiles;
use super::report::{DeviceEntry, LengthSummary, OpRow, Phase, Report, StepRow, same_gpu};
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;
use speedup::Times;

/// One measurement of the base and of another device.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// A label of the measurement.
    pub what: String,
    /// The op's name; `step` for a training step.
    pub op: String,
    /// The op's use in the model; the part of the benchmark for a training step.
    pub role: String,
    /// The model whose shapes are used.
    pub model: String,
    /// The number of tokens without padding; 0 for ops that do not depend on it.
    pub tokens: usize,
    /// The number of sequences and the length of the longest one in tokens, for a training step.
    pub sequences: Option<usize>,
    /// See [`Pair::sequences`].
    pub length: Option<usize>,
    /// The lengths of all sequences, if the row has them.
    pub lengths: Option<LengthSummary>,
    /// The pass of the op.
    pub pass: Option<Phase>,
    /// Times in seconds, of the base and of the other.
    pub seconds: [f64; 2],
    /// The numbers of samples.
    pub samples: [usize; 2],
    /// The base's time divided by the other's, with its interval: from the samples, widened by the machine's
    /// own changes.
    #[serde(flatten)]
    pub speedup: Speedup,
    /// [`Speedup::uncertainty`]; infinite (in JSON `null`) if a side has one sample.
    pub uncertainty: f64,
    /// The same ratio for fixed work, for memory and for computing, if both reports have it: how fast the
    /// machine itself was.
    pub pace: Option<[f64; 2]>,
    /// The verdict on the speedup.
    pub verdict: Verdict,
}

/// A measurement that only one of two devices has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The label of the measurement.
    pub what: String,
    /// The device that lacks it.
    pub from: String,
}

/// A result that does not hold all measurements that were requested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Incomplete {
    /// The device.
    pub device: String,
    /// Why measuring stopped early.
    pub why: String,
}

/// A device compared with the base.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The base's name.
    pub base: String,
    /// The other device's name.
    pub other: String,
    /// What the two differ in besides their times.
    pub differences: Vec<Difference>,
    /// Which of the two are incomplete.
    pub incomplete: Vec<Incomplete>,
    /// Slowdowns for tests that either of the two has.
    pub planted: Vec<String>,
    /// Which of the two has measurements during which heat or the power supply slowed the GPU down, and how
    /// many.
    pub throttled: Vec<String>,
    /// Whether both are one GPU, used through two APIs.
    pub one_gpu: bool,
    /// All measurements of both, sorted by the time that the other needs more, the largest first.
    pub pairs: Vec<Pair>,
    /// Measurements of the same name that are not the same work.
    pub refused: Vec<Refused>,
    /// The measurements that only one of them has.
    pub missing: Vec<Missing>,
    /// The median speedup of all measurements, with its interval.
    #[serde(flatten)]
    pub speedup: Speedup,
    /// How many times as fast the machine itself was for the other device, a conservative estimate: the bound
    /// nearer to 1 of the confidence interval of fixed work, for memory or for computing, whichever changed
    /// more.
    pub pace: Option<f64>,
    /// The verdict on the median speedup; unusable if at least half of the measurements are.
    pub verdict: Verdict,
    /// A sign that the machine itself changed between or during the measurements. The intervals allow for it.
    pub doubt: Option<String>,
    /// Whether one process on a CPU took all samples of a side. Two such processes of one program differ by
    /// more than their samples do.
    pub one_process: bool,
}

/// Fewer measurements have no median with an interval of their own: of five, even the least and the largest
/// contain it in only 94 % of cases.
const FEW: usize = 6;

/// The part of fixed work that changed more, since it is not known whether an op is bound by memory or by
/// computing.
fn further([memory, computing]: [f64; 2]) -> f64 {
    if memory.ln().abs() > computing.ln().abs() { memory } else { computing }
}

/// The change, as a logarithm, that may come from the machine: an op may change twice as much as one part of
/// the fixed work, because it needs memory and computing at once.
fn felt(pace: Option<f64>) -> f64 {
    pace.map_or(0.0, |p| 2.0 * p.ln().abs())
}

/// `1 measurement`, `2 measurements`.
pub(crate) fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A row of a result.
#[derive(Clone, Copy)]
enum Measurement<'a> {
    Op(&'a OpRow),
    Step(&'a StepRow),
}

impl<'a> Measurement<'a> {
    /// All rows of a device.
    fn of(report: &'a Report, device: &str) -> Vec<Measurement<'a>> {
        let ops = report.ops.iter().filter(|r| r.device == device).map(Measurement::Op);
        ops.chain(report.steps.iter().filter(|r| r.device == device).map(Measurement::Step)).collect()
    }
    fn matches(self, other: Measurement) -> bool {
        match (self, other) {
            (Measurement::Op(a), Measurement::Op(b)) => a.key() == b.key(),
            (Measurement::Step(a), Measurement::Step(b)) => a.key() == b.key(),
            _ => false,
        }
    }
    /// Why two rows of one name are not the same work, if they are not.
    fn refusal(self, other: Measurement, same_program: bool) -> Option<String> {
        match (self, other) {
            (Measurement::Op(a), Measurement::Op(b)) => work::differing_op(a, b, same_program),
            (Measurement::Step(a), Measurement::Step(b)) => work::differing_step(a, b, same_program),
            _ => None,
        }
    }
    fn label(self) -> String {
        match self {
            Measurement::Op(r) => r.label(),
            Measurement::Step(r) => r.label(),
        }
    }
    fn times(self) -> Times<'a> {
        match self {
            Measurement::Op(r) => Times { seconds: &r.seconds, samples: r.samples, all: &r.samples_s },
            Measurement::Step(r) => Times { seconds: &r.seconds, samples: r.samples, all: &r.samples_s },
        }
    }
    fn throttled(self) -> bool {
        match self {
            Measurement::Op(r) => r.throttled(),
            Measurement::Step(r) => r.throttled(),
        }
    }
    fn pace(self) -> Option<[f64; 2]> {
        match self {
            Measurement::Op(r) => r.pace,
            Measurement::Step(r) => r.pace,
        }
    }
}

impl Pair {
    /// `paced`: whether both sides timed the same fixed work. `change`: the logarithm of the machine's
    /// change, for rows without it.
    fn of(a: Measurement, b: Measurement, paced: bool, change: f64) -> Pair {
        let pace = a.pace().zip(b.pace()).filter(|_| paced).map(|(a, b)| [a[0] / b[0], a[1] / b[1]]);
        let moved = pace.map_or(change, |pace| felt(Some(further(pace))));
        let (base, other) = (a.times(), b.times());
        let speedup = Speedup::of(&base, &other, moved);
        let (op, pass, role) = match a {
            Measurement::Op(r) => (r.op.clone(), Some(r.pass), r.role.clone()),
            Measurement::Step(r) => ("step".to_owned(), None, r.part.clone()),
        };
        let (model, tokens, lengths) = match a {
            Measurement::Op(r) => (r.model.clone(), r.tokens, r.lengths),
            Measurement::Step(r) => (r.model.clone(), r.tokens, r.lengths),
        };
        let (sequences, length) = match a {
            Measurement::Op(_) => (None, None),
            Measurement::Step(r) => (Some(r.sequences), Some(r.length)),
        };
        Pair {
            what: a.label(),
            op,
            role,
            model,
            tokens,
            sequences,
            length,
            lengths,
            pass,
            seconds: [base.seconds.median, other.seconds.median],
            samples: [base.samples, other.samples],
            speedup,
            uncertainty: speedup.uncertainty(),
            pace,
            verdict: speedup.verdict(),
        }
    }
    /// The reason of the verdict [`Verdict::Unusable`].
    pub fn why_unusable(&self) -> &'static str {
        if self.samples.contains(&1) { "unusable: only one sample" } else { "unusable: machine too busy" }
    }
}

/// Compares every device of a report with its first one.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) for a report with impossible numbers ([`Report::check`]) or fewer
/// than two devices, and for devices without a measurement of the same work.
pub fn compare(report: &Report) -> Result<Vec<Comparison>> {
    report.check()?;
    let [base, others @ ..] = report.devices.as_slice() else {
        return Err(Error::data("there is nothing to compare")
            .with_found("a result without a device")
            .with_help("measure again: tempra bench --json > FILE"));
    };
    if others.is_empty() {
        return Err(Error::data("there is nothing to compare")
            .with_expected("results of two devices, or two result files")
            .with_found(format!("only one device, {}", base.id))
            .with_help("name another result file, or two devices: --device cpu,wgpu"));
    }
    others.iter().map(|other| one(report, base, other)).collect()
}

fn one(report: &Report, base: &DeviceEntry, other: &DeviceEntry) -> Result<Comparison> {
    let (mine, theirs) = (Measurement::of(report, &base.id), Measurement::of(report, &other.id));
    let same_program = work::same_program(base, other);
    let (mut both, mut refused, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    let lacking =
        |row: &Measurement, from: &DeviceEntry| Missing { what: row.label(), from: from.id.clone() };
    for a in &mine {
        let Some(b) = theirs.iter().find(|b| a.matches(**b)) else {
            missing.push(lacking(a, other));
            continue;
        };
        match a.refusal(*b, same_program) {
            Some(why) => refused.push(Refused { what: a.label(), why }),
            None => both.push((*a, *b)),
        }
    }
    missing.extend(theirs.iter().filter(|b| !mine.iter().any(|a| a.matches(**b))).map(|b| lacking(b, base)));
    if both.is_empty() {
        return Err(nothing_in_common(base, other, &refused));
    }
    // Times of different fixed work cannot be compared.
    let paced = base.pace.is_some() && base.pace == other.pace;
    let unpaced = both.iter().all(|(a, b)| !paced || a.pace().is_none() || b.pace().is_none());
    let change = if unpaced { change(base, other) } else { None };
    let moved = felt(change.as_ref().map(|(factor, _)| *factor));
    let mut pairs: Vec<Pair> = both.par_iter().map(|(a, b)| Pair::of(*a, *b, paced, moved)).collect();
    pairs.sort_by(|a, b| (b.seconds[1] - b.seconds[0]).total_cmp(&(a.seconds[1] - a.seconds[0])));
    let paces: Vec<[f64; 2]> = pairs.iter().filter_map(|p| p.pace).collect();
    let pace =
        (!paces.is_empty()).then(|| further([0, 1].map(|i| told(paces.iter().map(|p| p[i]).collect()))));
    let speedup = median_of(&pairs, felt(pace).max(moved));
    let unusable = pairs.iter().filter(|p| p.verdict == Verdict::Unusable).count();
    let mut differences = work::differences(base, other);
    differences.extend(byte_counts(&both, same_program && base.dtype == other.dtype));
    Ok(Comparison {
        base: base.id.clone(),
        other: other.id.clone(),
        differences,
        incomplete: [base, other].into_iter().filter_map(|d| incomplete(report, d)).collect(),
        planted: [base, other].into_iter().filter_map(planted).collect(),
        throttled: [(base, &mine), (other, &theirs)]
            .into_iter()
            .filter_map(|(d, rows)| throttled(d, rows))
            .collect(),
        // Two results of one device need no remark.
        one_gpu: same_gpu(base, other) && base.description != other.description,
        verdict: if 2 * unusable >= pairs.len() { Verdict::Unusable } else { speedup.direction() },
        pairs,
        refused,
        missing,
        speedup,
        pace,
        doubt: change.map(|(_, why)| why),
        one_process: [base, other].iter().any(|d| d.rounds.is_none() && work::on_cpu(d)),
    })
}

fn nothing_in_common(base: &DeviceEntry, other: &DeviceEntry, refused: &[Refused]) -> Error {
    let (base, other) = (&base.id, &other.id);
    match refused {
        [] => Error::data(format!("{base} and {other} have no measurement in common"))
            .with_expected("measurements of the same ops, models and numbers of tokens")
            .with_help("measure both with the same --op, --shape-of and --tokens"),
        [first, ..] => Error::data(format!("no measurement of {other} is the same work as that of {base}"))
            .with_expected("the same shapes and FLOP counts in rows of the same name")
            .with_found(format!(
                "{}: {}; {} in all",
                first.what,
                first.why,
                counted(refused.len(), "such row")
            ))
            .with_help(
                "measure both with the same --op, --shape-of and --tokens, and models of the same sizes",
            ),
    }
}

/// The difference that rows count their bytes by different rules. The times are of the same work all the
/// same.
fn byte_counts(both: &[(Measurement, Measurement)], same_rule: bool) -> Option<Difference> {
    let differs = |(a, b): &&(Measurement, Measurement)| match (a, b) {
        (Measurement::Op(a), Measurement::Op(b)) => !work::same_bytes(a, b),
        _ => false,
    };
    let (Measurement::Op(a), Measurement::Op(b)) = both.iter().filter(|_| same_rule).find(differs)? else {
        return None;
    };
    let n = both.iter().filter(differs).count();
    let of = |row: &OpRow| format!("{:.6e} bytes for {}", row.bytes, row.label());
    let more = if n > 1 { format!(" ({} in all)", counted(n, "row")) } else { String::new() };
    Some(Difference { what: "byte counts", base: of(a) + &more, other: of(b) + &more })
}

/// Why a device's measurements are incomplete, if they are. A merged report says it for each device.
fn incomplete(report: &Report, device: &DeviceEntry) -> Option<Incomplete> {
    let single = !report.complete && report.devices.iter().all(|d| d.incomplete.is_none());
    let why = device.incomplete.clone().or_else(|| {
        single.then(|| report.stopped.clone().unwrap_or_else(|| "measuring stopped early".to_owned()))
    })?;
    Some(Incomplete { device: device.id.clone(), why })
}

/// A slowdown for tests, which a program notes behind its version.
fn planted(device: &DeviceEntry) -> Option<String> {
    let note = device.tool.split(", ").find(|part| part.contains(" slowed down "))?;
    Some(format!("{}: {note}", device.id))
}

/// How many measurements of a device were slowed down by heat or the power supply, if any.
fn throttled(device: &DeviceEntry, rows: &[Measurement]) -> Option<String> {
    let n = rows.iter().filter(|row| row.throttled()).count();
    (n > 0).then(|| format!("{}: {}", device.id, counted(n, "measurement")))
}

/// The median speedup. Of few measurements the interval reaches from the lowest to the highest end of theirs.
fn median_of(pairs: &[Pair], moved: f64) -> Speedup {
    let [value, low, high] = middle(pairs.iter().map(|p| p.speedup.value).collect());
    if pairs.len() >= FEW {
        return Speedup { value, low, high }.widened(moved);
    }
    let ends = pairs.iter().map(|p| p.speedup);
    Speedup {
        value,
        low: ends.clone().map(|s| s.low).fold(f64::INFINITY, f64::min),
        high: ends.map(|s| s.high).fold(0.0, f64::max),
    }
}

/// The median of ratios, and the order statistics that form its 95 % confidence interval: 1.96 sqrt(n) / 2
/// ranks from the median.
fn middle(mut v: Vec<f64>) -> [f64; 3] {
    v.sort_by(f64::total_cmp);
    let n = v.len() as f64;
    let half = 0.98 * n.sqrt();
    let at = |place: f64| v[(place.max(0.0) as usize).min(v.len() - 1)];
    [Quartiles::of(v.clone()).median, at(n / 2.0 - half), at((n / 2.0 + half).ceil())]
}

/// The smallest change that the ratios show: the interval's bound nearer to 1, or 1 if the interval
/// contains 1.
fn told(ratios: Vec<f64>) -> f64 {
    let [_, low, high] = middle(ratios);
    if low > 1.0 { low } else { high.min(1.0) }
}

/// The machine's change between or during two results that timed no common fixed work: the same program on
/// the same device measured different ceilings. With the sentence that says it.
fn change(base: &DeviceEntry, other: &DeviceEntry) -> Option<(f64, String)> {
    let (a, b) = (base.ceilings.as_ref()?, other.ceilings.as_ref()?);
    let percent = |change: f64| 100.0 * (change - 1.0);
    let within = [base, other].into_iter().filter_map(|d| {
        // The copy's ceiling also depends on the memory pages of the process.
        let [_, matmul] = d.ceilings.as_ref()?.drift?;
        let said = format!("the matmul rate of {} changed by {:.0} % during the run", d.id, percent(matmul));
        (matmul.ln().abs() > 0.15).then_some((matmul, said))
    });
    let same = base.description == other.description && base.dtype == other.dtype && base.tool == other.tool;
    // With several rounds the ceilings are the best of all, and the machine's changes are part of the spread.
    let once = a.drift.is_some() && b.drift.is_some();
    let between = b.matmul_flops_per_s / a.matmul_flops_per_s;
    let said =
        || format!("the matmul rate of the device differs by {:.0} % between the two runs", percent(between));
    let between = (same && once && between.ln().abs() > 0.1).then(|| (between, said()));
    within.chain(between).max_by(|(a, _), (b, _)| a.ln().abs().total_cmp(&b.ln().abs()))
}
