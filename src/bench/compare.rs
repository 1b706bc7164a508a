//! Results side by side, op by op: how much faster, and whether that can be told.

use super::measure::Quartiles;
use super::report::{OpRow, Phase, Report, StepRow};
use crate::error::{Error, Result};
use serde::Serialize;

/// What a ratio of two times says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Faster than the base by more than the spread.
    Faster,
    /// Slower than the base by more than the spread.
    Slower,
    /// Within 3 %, and the spread is not larger than that.
    Same,
    /// The spread is larger than the difference.
    CannotTell,
}

impl Verdict {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::Same => "same",
            Verdict::CannotTell => "cannot tell",
        }
    }
}

/// A difference below this is none.
pub const SAME: f64 = 0.03;

/// One measurement of the base beside another device's.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// What was measured.
    pub what: String,
    /// The op's stem; `step` for a training step.
    pub op: String,
    /// The pass of the op.
    pub pass: Option<Phase>,
    /// Seconds of the base and of the other.
    pub seconds: [f64; 2],
    /// How many times as fast as the base the other is.
    pub ratio: f64,
    /// How many times as fast as beside the base the machine itself was, for memory and for computing, where both noted that.
    pub pace: Option<[f64; 2]>,
    /// The ratio may be off by this factor minus one, as the spreads and the machine's pace say.
    pub uncertainty: f64,
    /// What that says.
    pub verdict: Verdict,
}

/// A device beside the base.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The base's name.
    pub base: String,
    /// The other's.
    pub other: String,
    /// What both measured, the most time that the other needs more first.
    pub pairs: Vec<Pair>,
    /// The ratio in the middle, and an interval that holds the true middle in about 95 of 100 cases.
    pub median: [f64; 3],
    /// How many times as fast the machine was, at least (or at most, where it was slower): the end that is nearer to 1 of the
    /// interval around the middle of all paces, of memory or of computing, whichever has changed more.
    pub pace: Option<f64>,
    /// What the middle says.
    pub verdict: Verdict,
    /// Why the two should not be compared, if so: the machine itself has changed between or during them.
    pub doubt: Option<String>,
    /// What only one of them has.
    pub unmatched: usize,
}

/// How far a median of measurements may be from the true one, relative: 1.57 quartile distances over the root of their number
/// (McGill, Tukey and Larsen 1978, "Variations of Box Plots"), and more of few, whose quartiles are not known well either.
fn uncertainty(q: &Quartiles, samples: usize) -> f64 {
    if samples < 2 {
        return 1.0;
    }
    let n = samples as f64;
    1.57 * q.spread() / n.sqrt() * (1.0 + 4.0 / n)
}

/// One side of a pair: times, how many, and what fixed work took meanwhile.
type Side<'a> = (&'a Quartiles, usize, Option<[f64; 2]>);

/// The part that has changed more: what an op waits for is not known for sure.
fn further([memory, computing]: [f64; 2]) -> f64 {
    if memory.ln().abs() > computing.ln().abs() { memory } else { computing }
}

/// How much of a change, as a logarithm, may come from the machine's: an op may feel twice what the fixed work does, for it needs
/// both of its parts at once.
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
    let tokens = if r.tokens > 0 { format!(" {}", r.tokens) } else { String::new() };
    format!("{} {} {} {}{tokens}", r.op, r.role, r.pass.name(), r.model)
}

fn step_key(r: &StepRow) -> (&str, &str, usize, usize, usize) {
    (&r.model, &r.part, r.sequences, r.length, r.tokens)
}

/// Every device of a report beside its first one.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) for a report of fewer than two devices, and for devices that have nothing in
/// common.
pub fn compare(report: &Report) -> Result<Vec<Comparison>> {
    let [base, others @ ..] = report.devices.as_slice() else {
        return Err(Error::data("there is nothing to compare").with_found("a result of no device"));
    };
    if others.is_empty() {
        return Err(Error::data("there is nothing to compare")
            .with_expected("results of two devices, or two results")
            .with_found(format!("{} alone", base.id))
            .with_help("name another file, or two devices: --device cpu,wgpu"));
    }
    others.iter().map(|other| one(report, &base.id, &other.id)).collect()
}

fn one(report: &Report, base: &str, other: &str) -> Result<Comparison> {
    let ops = |id: &str| report.ops.iter().filter(move |r| r.device == id).collect::<Vec<_>>();
    let steps = |id: &str| report.steps.iter().filter(move |r| r.device == id).collect::<Vec<_>>();
    // Of different fixed work nothing can be told.
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
            let what =
                format!("{} step of {}, {} sequences of up to {}", a.part, a.model, a.sequences, a.length);
            let (qa, qb) = ((&a.seconds, a.samples, pace(a.pace)), (&b.seconds, b.samples, pace(b.pace)));
            pairs.push(pair(what, "step", None, qa, qb));
        }
    }
    if pairs.is_empty() {
        return Err(Error::data(format!("{base} and {other} have no measurement in common"))
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

/// The middle of ratios and the order statistics that enclose the true one with a probability of about 0.95: those half the
/// root of n, times 1.96, away from the middle.
fn middle(mut v: Vec<f64>) -> [f64; 3] {
    v.sort_by(f64::total_cmp);
    let n = v.len() as f64;
    let half = 0.98 * n.sqrt();
    let at = |place: f64| v[(place.max(0.0) as usize).min(v.len() - 1)];
    [Quartiles::of(v.clone()).median, at(n / 2.0 - half), at((n / 2.0 + half).ceil())]
}

/// The least change that many ratios tell of: 1 if their interval holds 1.
fn told(ratios: Vec<f64>) -> f64 {
    let [_, low, high] = middle(ratios);
    if low > 1.0 { low } else { high.min(1.0) }
}

/// The same program on the same device should find the same ceilings; where it does not, the machine is another one now. Where
/// its pace is known op by op, that is what counts.
fn doubt(report: &Report, base: &str, other: &str, pace: Option<f64>) -> Option<String> {
    if pace.is_some() {
        return None;
    }
    let entry = |id: &str| report.devices.iter().find(|d| d.id == id);
    let (a, b) = (entry(base)?, entry(other)?);
    let (ca, cb) = (a.ceilings.as_ref()?, b.ceilings.as_ref()?);
    for (id, c) in [(base, ca), (other, cb)] {
        // That of the copy depends on which pages the system gave, too.
        let product = c.drift.map(|[_, product]| product);
        if let Some(change) = product.filter(|d| d.ln().abs() > 0.15) {
            let percent = 100.0 * (change - 1.0);
            return Some(format!("the product's ceiling of {id} changed by {percent:.0} % while it ran"));
        }
    }
    let same = a.description == b.description && a.dtype == b.dtype && a.tool == b.tool;
    let change = cb.product_flops_per_s / ca.product_flops_per_s;
    // Of several rounds they are the best of all, and the pace is in the spread.
    let once = ca.drift.is_some() && cb.drift.is_some();
    (same && once && change.ln().abs() > 0.1)
        .then(|| format!("the product's ceiling differs by {:.0} % between the two", 100.0 * (change - 1.0)))
}

impl Comparison {
    /// What is slower than `fail_under` times the base by more than its uncertainty, and the middle of all if it is.
    pub fn failures(&self, fail_under: f64) -> Vec<String> {
        let [m, _, high] = self.median;
        let mut all = Vec::new();
        if high * felt(self.pace).exp() < fail_under {
            all.push(format!("{} beside {}: the middle ratio is {m:.3}", self.other, self.base));
        }
        let slow = self.pairs.iter().filter(|p| p.ratio * (1.0 + p.uncertainty) < fail_under);
        all.extend(
            slow.map(|p| format!("{} beside {}: {} at {:.3}", self.other, self.base, p.what, p.ratio)),
        );
        all
    }
}
