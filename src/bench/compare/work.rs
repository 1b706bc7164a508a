//! What two results must have in common, and what they may differ in.

use crate::bench::report::{DeviceEntry, LengthSummary, Machine, OpRow, Provenance, StepRow};
use serde::Serialize;

/// Counts that differ by less are the same number, rounded differently.
const ROUNDING: f64 = 1e-6;
/// The same for a whole step: devices fuse its ops differently, and an op of its own counts what a fused one
/// does not.
const STEP_ROUNDING: f64 = 0.01;

/// Something in which two results differ, so that a speedup is not due to the kernels alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What differs: `program`, `device`, `dtype`, `driver`, `machine`, `clock`, `cache`, `GPU`, `build`,
    /// `commit`, `threads`, `matmul`, `NVRTC`, `cuBLASLt`, `environment` or `byte counts`.
    pub what: &'static str,
    /// What the base has.
    pub base: String,
    /// What the other has.
    pub other: String,
}

/// A pair of measurements of the same name that is not compared, because it is not the same work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The label of the measurement.
    pub what: String,
    /// The reason.
    pub why: String,
}

/// Whether two devices were used by the same program, of any version: `tempra 0.1.0` and `tempra 0.2.0`.
pub(super) fn same_program(a: &DeviceEntry, b: &DeviceEntry) -> bool {
    let name = |d: &DeviceEntry| d.tool.split([' ', ',']).next().unwrap_or_default().to_owned();
    name(a) == name(b)
}

/// Whether a device is a CPU, or a software driver, which runs on the CPU.
pub(super) fn on_cpu(d: &DeviceEntry) -> bool {
    d.timer == "host clock" || d.description.contains("software")
}

/// Reads one fact of a provenance; `None` if it was not recorded.
type Fact = dyn Fn(&Provenance) -> Option<String>;

/// What two devices differ in, other than their names.
pub(super) fn differences(a: &DeviceEntry, b: &DeviceEntry) -> Vec<Difference> {
    let mut all = vec![
        ("program", a.tool.clone(), b.tool.clone()),
        ("device", a.description.clone(), b.description.clone()),
        ("dtype", dtype(a), dtype(b)),
        ("driver", recorded(&a.driver), recorded(&b.driver)),
        ("machine", machine(&a.machine), machine(&b.machine)),
        ("clock", a.timer.clone(), b.timer.clone()),
        ("cache", format!("{} MiB", a.cache_bytes >> 20), format!("{} MiB", b.cache_bytes >> 20)),
    ];
    // Boards of one model differ; the same board through another API does not.
    if a.uuid.is_some() && b.uuid.is_some() {
        all.push(("GPU", recorded(&a.uuid), recorded(&b.uuid)));
    }
    // Other programs do not say how they measured.
    if same_program(a, b) && (a.provenance.is_some() || b.provenance.is_some()) {
        let of = |get: &Fact| [a, b].map(|d| recorded(&d.provenance.as_ref().and_then(get)));
        let build = |p: &Provenance| Some(if p.release { "release" } else { "debug" }.to_owned());
        let facts: [(_, &Fact); 7] = [
            ("build", &build),
            ("commit", &|p| p.commit.clone()),
            ("threads", &|p| p.settings.threads.map(|n| n.to_string())),
            ("matmul", &|p| Some(p.matmul.clone())),
            ("NVRTC", &|p| p.nvrtc.clone()),
            ("cuBLASLt", &|p| p.cublaslt.clone()),
            ("environment", &|p| Some(environment(p))),
        ];
        all.extend(facts.map(|(what, get)| {
            let [base, other] = of(get);
            (what, base, other)
        }));
    }
    let differing = all.into_iter().filter(|(_, base, other)| base != other);
    differing.map(|(what, base, other)| Difference { what, base, other }).collect()
}

fn recorded(text: &Option<String>) -> String {
    text.clone().unwrap_or_else(|| "not recorded".to_owned())
}

/// `f16, activations in f32`.
fn dtype(d: &DeviceEntry) -> String {
    let stored =
        d.activation_dtype.as_ref().map_or(String::new(), |stored| format!(", activations in {stored}"));
    d.dtype.clone() + &stored
}

fn machine(m: &Machine) -> String {
    format!("{}, {} CPUs, {}", m.cpu, m.cpus, m.os)
}

/// The variables that change what is measured. Where caches lie does not.
fn environment(p: &Provenance) -> String {
    let all = p.environment.iter().filter(|(name, _)| !name.ends_with("_CACHE"));
    let all: Vec<String> = all.map(|(name, value)| format!("{name}={value}")).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(" ") }
}

/// Why two rows of one name are not the same work, if they are not.
pub(super) fn differing_op(a: &OpRow, b: &OpRow, same_program: bool) -> Option<String> {
    // Programs take small operands (boundaries, keys, scales) each in their own way, but they start with the
    // same tensor.
    let alike = if same_program { a.shapes == b.shapes } else { a.shapes.first() == b.shapes.first() };
    if !alike {
        return Some(format!("shapes {} and {}", shapes(&a.shapes), shapes(&b.shapes)));
    }
    differing_lengths(a.lengths, b.lengths)
        .or_else(|| differing_flops(a.flops, b.flops, ROUNDING, same_program))
}

fn differing_lengths(a: Option<LengthSummary>, b: Option<LengthSummary>) -> Option<String> {
    let (a, b) = a.zip(b).filter(|(a, b)| a != b)?;
    let of = |l: LengthSummary| {
        let LengthSummary { sequences, tokens, longest, sum_of_squares } = l;
        format!("{sequences} ({tokens} tokens, the longest {longest}, sum of squares {sum_of_squares})")
    };
    Some(format!("sequences {} and {}", of(a), of(b)))
}

/// Why two steps of one name are not the same work, if they are not.
pub(super) fn differing_step(a: &StepRow, b: &StepRow, same_program: bool) -> Option<String> {
    let (x, y) = (a.computed_tokens, b.computed_tokens);
    if same_program && x != y {
        return Some(format!("{x} and {y} tokens with padding"));
    }
    differing_lengths(a.lengths, b.lengths)
        .or_else(|| differing_flops(a.flops, b.flops, STEP_ROUNDING, same_program))
}

fn differing_flops(a: f64, b: f64, tolerance: f64, same_program: bool) -> Option<String> {
    // Not every program counts every measurement; one that does not writes 0.
    let counted = same_program || (a > 0.0 && b > 0.0);
    (counted && !near(a, b, tolerance)).then(|| format!("{a:.6e} and {b:.6e} FLOP"))
}

/// Whether two counts are equal within a relative tolerance.
pub(super) fn near(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * a.max(b)
}

/// Whether the byte counts of two rows say that they were counted by the same rule. A type of another width
/// has other counts.
pub(super) fn same_bytes(a: &OpRow, b: &OpRow) -> bool {
    near(a.bytes, b.bytes, ROUNDING)
}

/// `256x384 1536x384 1536`.
fn shapes(shapes: &[Vec<usize>]) -> String {
    let one = |s: &Vec<usize>| s.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    match shapes {
        [] => "not recorded".to_owned(),
        _ => shapes.iter().map(one).collect::<Vec<_>>().join(" "),
    }
}
