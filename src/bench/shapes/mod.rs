//! The shapes and options at which `tempra bench` runs every op of `OPS`: those of real models ([`jobs()`]),
//! or a user's own ([`CustomShape`]).

mod build;
mod custom;
mod lengths;
mod models;

pub use custom::CustomShape;
pub use lengths::{LengthSource, SequenceLengths};
pub use models::{ModelShape, jobs, jobs_of};

use crate::ops::{Fill, Input, Op, Step};

/// The op or step of a job.
pub enum Runs {
    /// Both passes of an op.
    Op(Box<dyn Op + Sync>),
    /// A step.
    Step(Box<dyn Step + Sync>),
}

/// One op at one shape.
pub struct Job {
    /// Its stem.
    pub op: &'static str,
    /// Its use in the model, or the sizes of a [`CustomShape`]. Two jobs of one op and model with the same
    /// number of tokens and different shapes have different roles.
    pub role: String,
    /// The model whose shape it is, or [`CustomShape::MODEL`].
    pub model: String,
    /// Tokens of the batch, or rows of a [`CustomShape`]; 0 for what does not depend on it.
    pub tokens: usize,
    /// The lengths of the batch's sequences, for ops that read `cu_seqlens`.
    pub lengths: Option<SequenceLengths>,
    /// What runs.
    pub runs: Runs,
    /// Its inputs. [`Fill::Real`] has the compute type for ops, and f32 for steps; see [`Job::inputs_in`].
    pub inputs: Vec<Input>,
    /// Which inputs are weights: their gradients are kept in f32.
    pub weights: &'static [usize],
    /// The copy of the weights in the compute type, among the inputs of a step.
    pub copy: Option<WeightCopy>,
    /// The number of rows that the integers of the first input index, in tables that all sets of operands
    /// share. Each set indexes other rows.
    pub choices: Option<usize>,
}

/// The copy of the weights that kernels read in 16-bit training, an input of a step that writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightCopy {
    /// Its index among the inputs.
    pub input: usize,
    /// Whether the step runs without it where the compute type is f32, as training does.
    pub optional: bool,
}

impl Job {
    /// A label for reports and progress.
    pub fn label(&self) -> String {
        let tokens = if self.tokens == 0 { String::new() } else { format!(", {} tokens", self.tokens) };
        format!("{} {} of {}{tokens}", self.op, self.role, self.model)
    }
    /// Why no device can run it: a sequence is longer than the position table.
    pub fn refusal(&self) -> Option<String> {
        let ("embed", [_, at, _, _, table, ..]) = (self.op, self.inputs.as_slice()) else { return None };
        let Fill::Ints(at) = &at.fill else { return None };
        let longest = at.iter().max().map_or(0, |&p| p as usize + 1);
        let positions = table.shape.first().copied().unwrap_or(0);
        (longest > positions).then(|| {
            format!("the longest sequence ({longest} tokens) exceeds the position table ({positions} rows)")
        })
    }
}

/// The number of tokens of a sequence, unless a shape or `--lengths` says another.
pub const LENGTH: usize = 128;
