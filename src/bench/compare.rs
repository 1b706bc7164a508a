//! Compares results op by op: the ratio of times, its uncertainty, and a verdict.

use super::measure::Quartiles;
use super::report::{OpRow, Phase, Report, StepRow};
use crate::error::{Error, Result};
use serde::Serialize;

/// The verdict on a ratio of two times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Faster than the baseline by more than the uncertainty.
    Faster,
    /// Slower than the baseline by more than the uncertainty.
    Slower,
    /// The difference and the uncertainty are at most 3 %.
    Same,
    /// The uncertainty is larger than the difference.
    CannotTell,
}

impl Verdict {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::Same => "same",
            Verdict::CannotTell => "cannot tell",
        }
    }
}

/// Ratios that differ from 1 by at most this count as the same.
pub const SAME: f64 = 0.03;

/// One measurement of the baseline and of another device.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// A label of the measurement.
    pub what: String,
    /// The op's name; `step` for a training step.
    pub op: String,
    /// The pass of the op.
    pub pass: Option<Phase>,
    /// Times in seconds, of the baseline and of the other.
    pub seconds: [f64; 2],
    /// The baseline's time divided by the other's: above 1 means faster than the baseline.
    pub ratio: f64,
    /// The same ratio for fixed work, for memory and for computing, if both reports have it: how fast the machine itself was.
    pub pace: Option<[f64; 2]>,
    /// The relative uncertainty of the ratio, from the spreads and the machine's own changes.
    pub uncertainty: f64,
    /// The verdict on the ratio.
    pub verdict: Verdict,
}

/// A device compared with the baseline.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The baseline's name.
    pub base: String,
    /// The other device's name.
    pub other: String,
    /// All measurements of both, sorted by the time that the other needs more, the largest first.
    pub pairs: Vec<Pair>,
    /// The median ratio, and its 95 % confidence interval.
    pub median: [f64; 3],
    /// How many times as fast the machine itself was for the other device, a conservative estimate: the bound nearer to 1 of the
    /// confidence interval of fixed work, for memory or for computing, whichever changed more.
    pub pace: Option<f64>,
    /// The verdict on the median ratio.
    pub verdict: Verdict,
    /// A reason not to trust the comparison: the machine itself changed between or during the measurements.
    pub doubt: Option<String>,
    /// The number of measurements that exist for only one of them.
    pub unmatched: usize,
}

/// The relative uncertainty of a median: 1.57 interquartile ranges divided by the square root of the number of measurements (McGill,
/// Tukey and Larsen 1978, "Variations of Box Plots"), and more for few measurements, whose quartiles are uncertain too.
fn uncertainty(q: &Quartiles, samples: usize) -> f64 {
    if samples < 2 {
        return 1.0;
    }
    let n = samples as f64;
    1.57 * q.spread() / n.sqrt() * (1.0 + 4.0 / n)
}

/// One side of a pair: times, the number of measurements, and the times of fixed work.
type Side<'a> = (&'a Quartiles, usize, Option<[f64; 2]>);

/// The part of fixed work that changed more, since it is not known whether an op is bound by memory or by computing.
fn further([memory, computing]: [f64; 2]) -> f64 {
    if memory.ln().abs() > computing.ln().abs() { memory } else { computing }
}

/// The change, as a logarithm, that may come from the machine: an op may change twice as much as one part of the fixed work, because
/// it needs memory and computing at once.
fn felt(pace: Option<f64>) -> f64 {
    pace.map_or(0.0, |p| 2.0 * p.ln().abs())
}

fn pair(what: String, op: &str, pass: Option<Phase>, a: Side, b: Side) -> Pair {
    let ratio = a.0.median / b.0.median;
    let pace = a.2.zip(b.2).map(|(a, b)| [a[0] / b[0], a[1] / b[1]]);
    let moved = felt(pace.map(further)).exp_m1();
    let uncertainty = uncertainty(a.0, a.1).hypot(uncertainty(b.0, b.1)) + moved;
    let off = ratio.ln().abs();
    let verdict = match (off <= uncertainty, off <= SAME) {
        (true, _) if uncertainty > SAME => Verdict::CannotTell,
        (true, _) | (_, true) => Verdict::Same,
        _ if ratio > 1.0 => Verdict::Faster,
        _ => Verdict::Slower,
    };
    Pair {
        what,
        op: op.to_owned(),
        pass,
        seconds: [a.0.median, b.0.median],
        ratio,
        pace,
        uncertainty,
        verdict,
    }
}

fn op_label(r: &OpRow) -> String {
    let tokens = if r.tokens > 0 { format!(", {} tokens", r.tokens) } else { String::new() };
    format!("{} {}, {}, {}{tokens}", r.op, r.role, r.pass.name(), r.model)
}

fn step_key(r: &StepRow) -> (&str, &str, usize, usize, usize) {
    (&r.model, &r.part, r.sequences, r.length, r.tokens)
}

/// Compares every device of a report with its first one.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) for a report of fewer than two devices, and for devices without a common measurement.
pub fn compare(report: &Report) -> Result<Vec<Comparison>> {
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
    others.iter().map(|other| one(report, &base.id, &other.id)).collect()
}

fn one(report: &Report, base: &str, other: &str) -> Result<Comparison> {
    let ops = |id: &str| report.ops.iter().filter(move |r| r.device == id).collect::<Vec<_>>();
    let steps = |id: &str| report.steps.iter().filter(move |r| r.device == id).collect::<Vec<_>>();
    // Times of different fixed work cannot be compared.
    let work = |id: &str| report.devices.iter().find(|d| d.id == id).and_then(|d| d.pace.as_deref());
    let known = work(base).is_some() && work(base) == work(other);
    let pace = |noted: Option<[f64; 2]>| noted.filter(|_| known);
    let mut pairs = Vec::new();
    let (mine, theirs) = (ops(base), ops(other));
    for a in &mine {
        if let Some(b) = theirs.iter().find(|b| b.key() == a.key()) {
            let (qa, qb) = ((&a.seconds, a.samples, pace(a.pace)), (&b.seconds, b.samples, pace(b.pace)));
            pairs.push(pair(op_label(a), &a.op, Some(a.pass), qa, qb));
        }
    }
    let (my_steps, their_steps) = (steps(base), steps(other));
    for a in &my_steps {
        if let Some(b) = their_steps.iter().find(|b| step_key(b) == step_key(a)) {
            let what = format!(
                "{} step of {}, {} sequences of up to {} tokens",
                a.part, a.model, a.sequences, a.length
            );
            let (qa, qb) = ((&a.seconds, a.samples, pace(a.pace)), (&b.seconds, b.samples, pace(b.pace)));
            pairs.push(pair(what, "step", None, qa, qb));
        }
    }
    if pairs.is_empty() {
        return Err(Error::data(format!("{base} and {other} have no measurement in common"))
            .with_expected("measurements of the same ops, models and numbers of tokens")
            .with_help("measure both with the same --op, --shape-of and --tokens"));
    }
    let unmatched = mine.len() + theirs.len() + my_steps.len() + their_steps.len() - 2 * pairs.len();
    pairs.sort_by(|a, b| (b.seconds[1] - b.seconds[0]).total_cmp(&(a.seconds[1] - a.seconds[0])));
    let median = middle(pairs.iter().map(|p| p.ratio).collect());
    let paces: Vec<[f64; 2]> = pairs.iter().filter_map(|p| p.pace).collect();
    let pace =
        (!paces.is_empty()).then(|| further([0, 1].map(|i| told(paces.iter().map(|p| p[i]).collect()))));
    let doubt = doubt(report, base, other, pace);
    let ([m, low, high], moved) = (median, felt(pace));
    let verdict = match m {
        _ if m.ln().abs() <= SAME && moved <= SAME => Verdict::Same,
        _ if doubt.is_some() || m.ln().abs() <= moved + SAME => Verdict::CannotTell,
        _ if low.ln() <= moved && high.ln() >= -moved => Verdict::CannotTell,
        m if m > 1.0 => Verdict::Faster,
        _ => Verdict::Slower,
    };
    Ok(Comparison {
        base: base.to_owned(),
        other: other.to_owned(),
        pairs,
        median,
        pace,
        verdict,
        doubt,
        unmatched,
    })
}

/// The median of ratios, and the order statistics that form its 95 % confidence interval: 1.96 sqrt(n) / 2 ranks from the median.
fn middle(mut v: Vec<f64>) -> [f64; 3] {
    v.sort_by(f64::total_cmp);
    let n = v.len() as f64;
    let half = 0.98 * n.sqrt();
    let at = |place: f64| v[(place.max(0.0) as usize).min(v.len() - 1)];
    [Quartiles::of(v.clone()).median, at(n / 2.0 - half), at((n / 2.0 + half).ceil())]
}

/// The smallest change that the ratios show: the interval's bound nearer to 1, or 1 if the interval contains 1.
fn told(ratios: Vec<f64>) -> f64 {
    let [_, low, high] = middle(ratios);
    if low > 1.0 { low } else { high.min(1.0) }
}

/// A reason not to trust the comparison: the same program on the same device measured different ceilings, so the machine itself has
/// changed. Not used if fixed work was timed with each op.
fn doubt(report: &Report, base: &str, other: &str, pace: Option<f64>) -> Option<String> {
    if pace.is_some() {
        return None;
    }
    let entry = |id: &str| report.devices.iter().find(|d| d.id == id);
    let (a, b) = (entry(base)?, entry(other)?);
    let (ca, cb) = (a.ceilings.as_ref()?, b.ceilings.as_ref()?);
    for (id, c) in [(base, ca), (other, cb)] {
        // The copy's ceiling also depends on the memory pages of the process.
        let product = c.drift.map(|[_, product]| product);
        if let Some(change) = product.filter(|d| d.ln().abs() > 0.15) {
            let percent = 100.0 * (change - 1.0);
            return Some(format!("the matmul rate of {id} changed by {percent:.0} % during the run"));
        }
    }
    let same = a.description == b.description && a.dtype == b.dtype && a.tool == b.tool;
    let change = cb.product_flops_per_s / ca.product_flops_per_s;
    // With several rounds the ceilings are the best of all, and the machine's changes are part of the spread.
    let once = ca.drift.is_some() && cb.drift.is_some();
    (same && once && change.ln().abs() > 0.1).then(|| {
        format!(
            "the matmul rate of the device differs by {:.0} % between the two runs",
            100.0 * (change - 1.0)
        )
    })
}

impl Comparison {
    /// The measurements whose ratio is below `fail_under` by more than their uncertainty, and the median ratio if it is too.
    pub fn failures(&self, fail_under: f64) -> Vec<String> {
        let [m, _, high] = self.median;
        let mut all = Vec::new();
        if high * felt(self.pace).exp() < fail_under {
            all.push(format!("{} compared with {}: the median ratio is {m:.3}", self.other, self.base));
        }
        let slow = self.pairs.iter().filter(|p| p.ratio * (1.0 + p.uncertainty) < fail_under);
        all.extend(slow.map(|p| {
            format!("{} compared with {}: the ratio of {} is {:.3}", self.other, self.base, p.what, p.ratio)
        }));
        all
    }
}
