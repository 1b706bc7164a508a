//! The rows of a result: one for each measurement.

use super::Ceilings;
use crate::bench::measure::Quartiles;
use serde::{Deserialize, Serialize};

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

/// The lengths of a batch's sequences, in tokens. Two batches with the same numbers need the same work in
/// attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthSummary {
    /// The number of sequences.
    pub sequences: usize,
    /// The number of tokens of all sequences.
    pub tokens: usize,
    /// The number of tokens of the longest sequence.
    pub longest: usize,
    /// The sum of the squares of the lengths, to which the work of attention is proportional.
    pub sum_of_squares: u64,
}

/// One pass of one op at one shape.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpRow {
    /// [`DeviceEntry::id`](super::DeviceEntry::id).
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
    /// The lengths of the sequences, for ops that read them.
    #[serde(default)]
    pub lengths: Option<LengthSummary>,
    /// The time of one run, in seconds. The sets of operands are used in turn, so caches are cold if
    /// `beyond_cache`.
    pub seconds: Quartiles,
    /// The time of one run on one set of operands again and again, in seconds: caches are warm as far as the
    /// set fits into them.
    #[serde(default)]
    pub warm_s: Option<Quartiles>,
    /// The number of measurements, each of `repeats` runs.
    pub samples: usize,
    /// The time of one run in each measurement, in seconds, in the order of the measurements. Over several
    /// rounds: the rounds' medians. Empty if the program does not report them.
    #[serde(default)]
    pub samples_s: Vec<f64>,
    /// The 95 % bootstrap interval of the median, in seconds; see
    /// [`median_interval`](crate::bench::samples::median_interval).
    #[serde(default)]
    pub interval_s: Option<[f64; 2]>,
    /// The number of runs in one measurement.
    pub repeats: usize,
    /// How the runs of a measurement are queued and timed: `host clock`,
    /// `CUDA graphs of 64 runs, CUDA events`.
    #[serde(default)]
    pub timing: Option<String>,
    /// The number of sets of operands, used in turn.
    pub sets: usize,
    /// Whether all sets together are larger than the cache.
    pub beyond_cache: bool,
    /// The FLOP of one run; see [`crate::ops::cost`].
    pub flops: f64,
    /// The bytes that one run must read and write.
    pub bytes: f64,
    /// The number of kernel launches of one run, if the device counts them.
    pub launches: Option<f64>,
    /// The shortest time that the ceilings allow, in percent of the measured time (cold caches). More than
    /// 100 % is possible: the op was faster than the copy or the matmul of the ceilings. None without
    /// ceilings, and if the operands fit into the cache.
    pub percent: Option<f64>,
    /// The ceiling that limits this op: `copy` or `product` (matmul).
    pub bound: Option<String>,
    /// The times of fixed work between the measurements, in seconds: the part bound by memory, and the part
    /// bound by computing.
    #[serde(default)]
    pub pace: Option<[f64; 2]>,
    /// The GPU kernels of one run, each once, in the order of their launches; `cublasLtMatmul` stands for
    /// those of cuBLASLt. Empty on a CPU.
    #[serde(default)]
    pub kernels: Vec<String>,
    /// The GPU's clocks during the measurement; `None` if NVML does not tell them.
    #[serde(default)]
    pub clocks: Option<Clocks>,
}

/// The clocks of an NVIDIA GPU during a measurement, from NVML.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Clocks {
    /// The lowest and the highest clock of the multiprocessors that was seen, in MHz.
    pub sm_mhz: Option<[u32; 2]>,
    /// Why heat or the power supply slowed the GPU down during this measurement ("throttling"), by NVML's
    /// names; usually empty.
    pub slowdowns: Vec<String>,
    /// Whether an earlier measurement of this row was discarded because the GPU was slowed down.
    pub repeated: bool,
}

impl Clocks {
    /// What was seen in several measurements together; `None` without any.
    pub fn of_all<'a>(all: impl Iterator<Item = &'a Clocks>) -> Option<Clocks> {
        all.cloned().reduce(|mut a, b| {
            a.sm_mhz = match (a.sm_mhz, b.sm_mhz) {
                (Some([low, high]), Some([other_low, other_high])) => {
                    Some([low.min(other_low), high.max(other_high)])
                }
                (a, b) => a.or(b),
            };
            let more: Vec<String> = b.slowdowns.into_iter().filter(|s| !a.slowdowns.contains(s)).collect();
            a.slowdowns.extend(more);
            a.repeated |= b.repeated;
            a
        })
    }
}

impl OpRow {
    /// Whether the GPU was slowed down by heat or its power supply during the measurement.
    pub fn throttled(&self) -> bool {
        self.clocks.as_ref().is_some_and(|c| !c.slowdowns.is_empty())
    }
    /// The key that identifies the same measurement in another report; unique for each device.
    pub fn key(&self) -> (&str, &str, &str, usize, Phase) {
        (&self.op, &self.role, &self.model, self.tokens, self.pass)
    }
    /// The key as a text for people.
    pub fn label(&self) -> String {
        let tokens = if self.tokens > 0 { format!(", {} tokens", self.tokens) } else { String::new() };
        format!("{} {}, {}, {}{tokens}", self.op, self.role, self.pass.name(), self.model)
    }
    /// Computes the percentage of the ceilings. Operands in the cache are not limited by the copy rate, so
    /// they have none.
    pub(super) fn judge(&mut self, ceilings: &Ceilings) {
        if !self.beyond_cache {
            return;
        }
        let matmul = self.flops / ceilings.matmul_flops_per_s;
        let copy = self.bytes / ceilings.copy_bytes_per_s;
        let floor = matmul.max(copy);
        if floor > 0.0 && floor.is_finite() && self.seconds.median > 0.0 {
            self.percent = Some(100.0 * floor / self.seconds.median);
            self.bound = Some(if matmul > copy { "matmul" } else { "copy" }.to_owned());
        }
    }
}

/// One training step: forward, backward, clipping and AdamW.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRow {
    /// [`DeviceEntry::id`](super::DeviceEntry::id).
    pub device: String,
    /// The model whose shapes are used; its weights are random.
    pub model: String,
    /// The part of the benchmark: `base`, `batch` and `length` (sweeps), `packed` and `padded` (varying
    /// lengths).
    pub part: String,
    /// The number of sequences in the batch.
    pub sequences: usize,
    /// The number of tokens in the longest sequence.
    pub length: usize,
    /// The number of tokens without padding.
    pub tokens: usize,
    /// The number of tokens including padding.
    pub computed_tokens: usize,
    /// The lengths of the sequences, without padding.
    #[serde(default)]
    pub lengths: Option<LengthSummary>,
    /// The time of a step, in seconds.
    pub seconds: Quartiles,
    /// As [`OpRow::timing`].
    #[serde(default)]
    pub timing: Option<String>,
    /// The number of measurements.
    pub samples: usize,
    /// As [`OpRow::samples_s`], for one step.
    #[serde(default)]
    pub samples_s: Vec<f64>,
    /// As [`OpRow::interval_s`].
    #[serde(default)]
    pub interval_s: Option<[f64; 2]>,
    /// Tokens per second, without padding.
    pub tokens_per_s: f64,
    /// Sequences per second.
    pub samples_per_s: f64,
    /// The useful FLOP of a step: those of the real tokens. A padded step has as many as a step on the same
    /// sequences without padding.
    pub flops: f64,
    /// The FLOP that a step computes, those of padding included; 0 if the program does not count them.
    #[serde(default)]
    pub computed_flops: f64,
    /// The step's useful FLOP/s divided by the rate of the best matmul.
    pub share_of_peak: Option<f64>,
    /// Peak memory in bytes: of the device if it has its own memory, else of the process. Without what the
    /// benchmark itself holds: fixed work, random numbers, and memory of ceilings and ops that was not
    /// returned to the system.
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
    /// As [`OpRow::clocks`].
    #[serde(default)]
    pub clocks: Option<Clocks>,
}

impl StepRow {
    /// As [`OpRow::throttled`].
    pub fn throttled(&self) -> bool {
        self.clocks.as_ref().is_some_and(|c| !c.slowdowns.is_empty())
    }
    /// The key that identifies the same measurement in another report: model, part, sequences, longest
    /// length, tokens, and the sum of the squares of the lengths. Without lengths all sequences count as
    /// equally long. Unique for each device.
    pub fn key(&self) -> (&str, &str, usize, usize, usize, u64) {
        let equal = self.sequences as u64 * (self.length as u64).pow(2);
        let squares = self.lengths.map_or(equal, |l| l.sum_of_squares);
        (&self.model, &self.part, self.sequences, self.length, self.tokens, squares)
    }
    /// The key as a text for people.
    pub fn label(&self) -> String {
        let StepRow { part, model, sequences, length, .. } = self;
        format!("{part} step of {model}, {sequences} sequences of up to {length} tokens")
    }
}

/// The time of a step by phase, in seconds. Ops are timed one at a time, so the sum may differ from the time
/// of the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// Building the batch on the host. In training a separate thread does it in advance, in parallel to the
    /// device.
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
    /// The FLOP of all calls, those of padding included.
    pub flops: f64,
    /// The bytes that all calls must read and write.
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
