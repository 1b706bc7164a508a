//! Ops: one fused op per file, with its formula, shape rules, passes on every backend, and test cases.
//!
//! Every op has a forward and a backward pass: neither has a default body, so an op without one does not
//! compile. Ops never allocate their outputs. [`Op::plan`] returns what they need, and the caller allocates
//! it.

mod activation;
pub mod adamw;
pub mod add_norm;
pub mod attention;
pub mod binary_cross_entropy;
mod case;
pub mod cast;
pub mod cost;
pub mod cross_entropy;
pub mod dot;
pub mod dropout;
pub mod embed;
pub mod favor;
pub mod gather;
pub mod global_norm;
pub mod glu;
pub mod hidden_match;
mod launch;
pub mod linear;
pub mod lion;
pub mod mask;
pub mod mse;
pub mod normalize;
mod passes;
pub mod pool;
pub mod relation;
pub mod relative_attention;
pub mod residual;
pub mod rotary;
pub mod score_penalty;
pub mod sgd;
pub mod soft_cross_entropy;
pub mod span_cross_entropy;
pub mod step_guard;
pub mod symmetric_kl;
pub mod update;
mod zero_blocks;
pub mod zero_masked;

use crate::device::cpu::vectorise;
use crate::device::{Backend, Caps, Cpu, Cuda, Device, Meta, Pass, Tensor, Wgpu, dispatch};
use crate::error::{Error, Result};
pub use crate::shape::relative_l2;
use crate::shape::{DType, Spec};
pub use activation::Activation;
pub use case::{
    BOUNDS, Case, Fill, HALF_BOUNDS, Input, Subject, Textbook, max_error, reals, rounded, unit_roundoff,
};
pub use cost::{Call, Cost, Gradient};
use launch::{
    CUDA_THREADS, THREADS, blocks_for, groups_for, launch, launch_cuda, launch_with, vector, words,
};
use passes::RunsOps;
use std::fmt::Debug;
use update::UpdateRule;
pub use zero_blocks::ZeroBlocks;

/// A function that returns an op's cases.
pub type Cases = fn() -> Vec<Case>;

/// All optimizers: a recipe, tests, benchmarks and the lists below follow this one. The first is the default.
pub const UPDATE_RULES: &[UpdateRule] = &[adamw::RULE, sgd::RULE, lion::RULE];

/// A list, and an entry of each optimizer behind it.
macro_rules! with_updates {
    ($list:expr, |$rule:ident| $entry:expr) => {{
        let mut all = [$list[0]; $list.len() + UPDATE_RULES.len()];
        let mut i = 1;
        while i < all.len() {
            all[i] = if i < $list.len() {
                $list[i]
            } else {
                let $rule = &UPDATE_RULES[i - $list.len()];
                $entry
            };
            i += 1;
        }
        all
    }};
}

/// All ops. Tests and benchmarks run over this list.
pub const OPS: &[(&str, Cases)] = &with_updates!(OTHERS, |rule| (rule.name, rule.cases));
/// The source of every kernel in WGSL.
pub const SHADERS: &[&str] = &with_updates!(OTHER_SHADERS, |rule| rule.shader);
/// The source of every CUDA kernel, by the name of its op.
pub const KERNELS: &[(&str, &str)] = &with_updates!(OTHER_KERNELS, |rule| (rule.name, rule.kernel));

/// All ops but the updates of optimizers.
const OTHERS: &[(&str, Cases)] = &[
    ("embed", embed::cases),
    ("linear", linear::cases),
    ("add_norm", add_norm::cases),
    ("attention", attention::cases),
    ("favor", favor::cases),
    ("relative_attention", relative_attention::cases),
    ("dropout", dropout::cases),
    ("pool", pool::cases),
    ("gather", gather::cases),
    ("normalize", normalize::cases),
    ("dot", dot::cases),
    ("mask", mask::cases),
    ("rotary", rotary::cases),
    ("glu", glu::cases),
    ("residual", residual::cases),
    ("cross_entropy", cross_entropy::cases),
    ("binary_cross_entropy", binary_cross_entropy::cases),
    ("span_cross_entropy", span_cross_entropy::cases),
    ("symmetric_kl", symmetric_kl::cases),
    ("soft_cross_entropy", soft_cross_entropy::cases),
    ("relation", relation::cases),
    ("hidden_match", hidden_match::cases),
    ("mse", mse::cases),
    ("global_norm", global_norm::cases),
    ("step_guard", step_guard::cases),
    ("cast", cast::cases),
    ("score_penalty", score_penalty::cases),
    ("zero_masked", zero_masked::cases),
];

const OTHER_SHADERS: &[&str] = &[
    embed::SHADER,
    linear::COOP,
    add_norm::SHADER,
    attention::SHADER,
    favor::SHADER,
    relative_attention::SHADER,
    dropout::SHADER,
    pool::SHADER,
    gather::SHADER,
    normalize::SHADER,
    dot::SHADER,
    mask::SHADER,
    rotary::SHADER,
    glu::SHADER,
    residual::SHADER,
    cross_entropy::SHADER,
    binary_cross_entropy::SHADER,
    span_cross_entropy::SHADER,
    symmetric_kl::SHADER,
    soft_cross_entropy::SHADER,
    relation::SHADER,
    hidden_match::SHADER,
    mse::SHADER,
    global_norm::SHADER,
    step_guard::SHADER,
    cast::SHADER,
    score_penalty::SHADER,
    zero_masked::SHADER,
];

const OTHER_KERNELS: &[(&str, &str)] = &[
    ("embed", embed::KERNEL),
    ("linear", linear::TENSOR),
    ("linear", linear::PLAIN),
    ("linear", linear::HOPPER),
    ("add_norm", add_norm::KERNEL),
    ("attention", attention::BACKWARD),
    ("attention", attention::PLAIN),
    ("favor", favor::KERNEL),
    ("relative_attention", relative_attention::KERNEL),
    ("dropout", dropout::KERNEL),
    ("pool", pool::KERNEL),
    ("gather", gather::KERNEL),
    ("normalize", normalize::KERNEL),
    ("dot", dot::KERNEL),
    ("mask", mask::KERNEL),
    ("rotary", rotary::KERNEL),
    ("glu", glu::KERNEL),
    ("residual", residual::KERNEL),
    ("cross_entropy", cross_entropy::KERNEL),
    ("binary_cross_entropy", binary_cross_entropy::KERNEL),
    ("span_cross_entropy", span_cross_entropy::KERNEL),
    ("symmetric_kl", symmetric_kl::KERNEL),
    ("soft_cross_entropy", soft_cross_entropy::KERNEL),
    ("relation", relation::KERNEL),
    ("hidden_match", hidden_match::KERNEL),
    ("mse", mse::KERNEL),
    ("global_norm", global_norm::KERNEL),
    ("step_guard", step_guard::KERNEL),
    ("cast", cast::KERNEL),
    ("score_penalty", score_penalty::KERNEL),
    ("zero_masked", zero_masked::KERNEL),
];

/// A differentiable op: its name, its memory, and (through [`On`]) its computation on each backend.
pub trait Op: On<Cpu> + On<Cuda> + On<Wgpu> + On<Meta> + Debug + Send + 'static {
    /// The op's name, which is also the name of its files.
    fn name(&self) -> &'static str;
    /// Checks the inputs against the op and the device, and returns what to allocate.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for inputs that the op does not accept;
    /// [`Kind::Device`](crate::error::Kind::Device) if the device cannot run it.
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan>;
    /// FLOP and bytes of a call whose inputs [`Op::plan`] accepts, counted as [`cost`] says.
    fn cost(&self, call: &Call) -> Cost;
    /// For an op that ends with an activation: the activation, the index among outputs and saved tensors of
    /// the activation's input, and the op without the activation.
    fn fused_activation(&self) -> Option<(Activation, usize, Box<dyn Op>)> {
        None
    }
    /// Whether the op can fuse an activation's gradient ([`Grad::dact`]) into the gradient of its input `i`
    /// on this device.
    fn fuses_dact(&self, _: &Caps, _i: usize) -> bool {
        false
    }
    /// Whether its loops on the CPU read and write tensors of 16 bits. Other ops get them in f32.
    fn reads_half(&self) -> bool {
        false
    }
    /// Whether it maintains the zero-block bitmap [`Grad::zero_blocks`]. The gradients of other ops count as
    /// dense.
    fn maintains_zero_blocks(&self) -> bool {
        false
    }
}

/// Both passes of an op on one backend.
pub trait On<B: Backend> {
    /// Fills `io.y` from `io.x`.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    fn forward(&self, device: &B, io: Forward) -> Result<()>;
    /// Fills or adds to `io.dx` from everything else.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    fn backward(&self, device: &B, io: Backward) -> Result<()>;
}

/// An in-place operation that is never differentiated, such as an optimizer's update or a norm.
pub trait Step: StepOn<Cpu> + StepOn<Cuda> + StepOn<Wgpu> + StepOn<Meta> + Debug + Send + 'static {
    /// The step's name, which is also the name of its files.
    fn name(&self) -> &'static str;
    /// Checks the tensors against the step and the device.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for tensors that the step does not accept;
    /// [`Kind::Device`](crate::error::Kind::Device) if the device cannot run it.
    fn check(&self, caps: &Caps, x: &[&Spec]) -> Result<()>;
    /// FLOP and bytes of a call whose tensors [`Step::check`] accepts, as the forward pass of [`Cost`].
    /// Integers are those before it.
    fn cost(&self, call: &Call) -> Cost;
}

/// A step on one backend.
pub trait StepOn<B: Backend> {
    /// Reads and writes `x`, in the order that the step declares.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    fn run(&self, device: &B, x: &[&Tensor]) -> Result<()>;
}

impl<T: Debug> On<Meta> for T {
    fn forward(&self, _: &Meta, _: Forward) -> Result<()> {
        Ok(())
    }
    fn backward(&self, _: &Meta, _: Backward) -> Result<()> {
        Ok(())
    }
}
impl<T: Debug> StepOn<Meta> for T {
    fn run(&self, _: &Meta, _: &[&Tensor]) -> Result<()> {
        Ok(())
    }
}

/// The memory of an op.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The outputs of the forward pass.
    pub outputs: Vec<Spec>,
    /// The tensors that it saves for the backward pass.
    pub saved: Vec<Spec>,
    /// Temporary memory of each pass, in bytes.
    pub scratch: [u64; 2],
}

impl Plan {
    /// A plan without temporary memory.
    pub fn new(outputs: Vec<Spec>, saved: Vec<Spec>) -> Plan {
        Plan { outputs, saved, scratch: [0; 2] }
    }
    /// The plan with temporary memory of each pass, in bytes.
    pub fn with_scratch(mut self, bytes: [usize; 2]) -> Plan {
        self.scratch = bytes.map(|b| b as u64);
        self
    }
}

/// The tensors of a forward pass.
#[derive(Clone, Copy)]
pub struct Forward<'a> {
    /// The inputs.
    pub x: &'a [&'a Tensor],
    /// The outputs, then the saved tensors, to be written.
    pub y: &'a [&'a Tensor],
}

/// The tensors of a backward pass.
#[derive(Clone, Copy)]
pub struct Backward<'a> {
    /// The inputs of the forward pass.
    pub x: &'a [&'a Tensor],
    /// Its outputs, then its saved tensors.
    pub y: &'a [&'a Tensor],
    /// The gradient of each output; never `None` for the first.
    pub dy: &'a [Option<&'a Tensor>],
    /// Where to write the gradient of each input; `None` if it is not needed.
    pub dx: &'a [Option<Grad<'a>>],
}

impl<'a> Backward<'a> {
    /// The gradient of the only output.
    pub(crate) fn dy(&self) -> Result<&'a Tensor> {
        self.dy
            .first()
            .copied()
            .flatten()
            .ok_or_else(|| Error::shape("the backward pass got no output gradient"))
    }
    /// Where to write the gradient of input `i`, if it is needed.
    pub(crate) fn dx(&self, i: usize) -> Option<Grad<'a>> {
        self.dx.get(i).copied().flatten()
    }
}

/// A gradient to write: `add` accumulates into it (parameters), otherwise it is overwritten (activations).
#[derive(Clone, Copy)]
pub struct Grad<'a> {
    /// The tensor to write.
    pub t: &'a Tensor,
    /// Whether to add to the tensor instead of overwriting it.
    pub add: bool,
    /// The zero-block bitmap of the gradient, if there is one.
    pub zero_blocks: Option<&'a ZeroBlocks>,
    /// An activation whose gradient is fused into this one, and its input, a tensor of the same shape.
    pub dact: Option<(Activation, &'a Tensor)>,
}

impl<'a> Grad<'a> {
    /// A gradient without bitmap and fused activation.
    pub fn new(t: &'a Tensor, add: bool) -> Grad<'a> {
        Grad { t, add, zero_blocks: None, dact: None }
    }
}

fn specs<'a>(x: &[&'a Tensor]) -> Vec<&'a Spec> {
    x.iter().map(|t| &t.spec).collect()
}

impl Device {
    /// Runs an op's forward pass.
    ///
    /// # Errors
    /// Those of the op and of the device.
    pub fn forward(&self, op: &dyn Op, io: Forward) -> Result<()> {
        dispatch!(self, d => {
            d.profile().note(d, op.name(), Pass::Forward, io.x, &mut || d.run_forward(op, io), || {
                let cost = op.cost(&Call::read(d, io.x, io.y, &[])?);
                Ok([cost.forward_flops, cost.forward_bytes])
            })
        })
    }
    /// Runs an op's backward pass.
    ///
    /// # Errors
    /// Those of the op and of the device.
    pub fn backward(&self, op: &dyn Op, io: Backward) -> Result<()> {
        dispatch!(self, d => {
            d.profile().note(d, op.name(), Pass::Backward, io.x, &mut || d.run_backward(op, io), || {
                let cost = op.cost(&Call::read(d, io.x, io.y, io.dx)?);
                Ok([cost.backward_flops, cost.backward_bytes])
            })
        })
    }
    /// Runs a step.
    ///
    /// # Errors
    /// Those of the step and of the device.
    pub fn step(&self, step: &dyn Step, x: &[&Tensor]) -> Result<()> {
        step.check(&self.caps(), &specs(x))?;
        dispatch!(self, d => {
            d.profile().note(d, step.name(), Pass::Step, x, &mut || step.run(d, x), || {
                let cost = step.cost(&Call::read(d, x, &[], &[])?);
                Ok([cost.forward_flops, cost.forward_bytes])
            })
        })
    }
}

/// The error for tensors that an op does not accept.
fn refuse(op: &'static str, expected: &str, x: &[&Spec]) -> Error {
    Error::shape(format!("{op} does not accept these tensors"))
        .with_expected(expected)
        .with_found(format!("{x:?}"))
}

/// Checks that all floating-point inputs have one type that the device computes in, and returns it.
fn compute_dtype(op: &'static str, caps: &Caps, x: &[&Spec]) -> Result<DType> {
    let mut floats = x.iter().map(|s| s.dtype).filter(|&d| d != DType::U32);
    let first = floats.next().ok_or_else(|| refuse(op, "at least one floating-point tensor", x))?;
    if floats.any(|d| d != first) {
        return Err(refuse(op, "floating-point tensors of the same type", x));
    }
    if x.iter().any(|s| s.rows_cols().1 == 0 && s.shape.len() > 1) {
        return Err(refuse(op, "rows of at least one element", x));
    }
    caps.require(op, first)?;
    Ok(first)
}

/// Calls a generic function with the element type that a tensor has on the CPU.
macro_rules! by_dtype {
    ($dtype:expr, $f:ident($($arg:expr),*)) => {
        match $dtype {
            $crate::shape::DType::F64 => $f::<f64>($($arg),*),
            _ => $f::<f32>($($arg),*),
        }
    };
}
use by_dtype;

/// The accumulator type (of sums, statistics, losses and scales) for activations of a type: f64 for f64, else
/// f32.
pub fn accumulator(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// As [`compute_dtype`], for an op with inputs (`exact`) that have the accumulator type.
fn compute_dtype_beside(op: &'static str, caps: &Caps, x: &[&Spec], exact: &[usize]) -> Result<DType> {
    let (beside, own): (Vec<_>, Vec<_>) = x.iter().copied().enumerate().partition(|(i, _)| exact.contains(i));
    let own: Vec<&Spec> = own.into_iter().map(|(_, s)| s).collect();
    let dtype = compute_dtype(op, caps, &own)?;
    let wrong = |s: &Spec| s.dtype != DType::U32 && s.dtype != accumulator(dtype);
    if beside.iter().any(|(_, s)| wrong(s)) {
        return Err(refuse(op, "scales, weights and targets in the accumulator type", x));
    }
    Ok(dtype)
}

/// As [`compute_dtype`], for a step, whose tensors are never in a 16-bit type.
fn step_dtype(op: &'static str, caps: &Caps, x: &[&Spec]) -> Result<DType> {
    let dtype = compute_dtype(op, caps, x)?;
    if dtype == accumulator(dtype) { Ok(dtype) } else { Err(refuse(op, "tensors in f32 or f64", x)) }
}

/// Cuts an optional tensor into `count` blocks, so that it can go through a parallel loop beside others.
fn blocks_mut<T>(all: Option<&mut [T]>, size: usize, count: usize) -> Vec<Option<&mut [T]>> {
    match all {
        Some(all) => all.chunks_mut(size).map(Some).collect(),
        None => (0..count).map(|_| None).collect(),
    }
}

/// The bounds of the sequences of a packed batch of `tokens`, checked.
fn sequences(cu_seqlens: &[u32], tokens: usize) -> Result<Vec<std::ops::Range<usize>>> {
    let ordered = cu_seqlens.windows(2).all(|w| w[0] <= w[1]);
    if !ordered || cu_seqlens.first() != Some(&0) || cu_seqlens.last() != Some(&(tokens as u32)) {
        return Err(Error::shape("cu_seqlens is not valid")
            .with_expected(format!("numbers from 0 to {tokens} in ascending order"))
            .with_found(format!("{cu_seqlens:?}")));
    }
    Ok(cu_seqlens.windows(2).map(|w| w[0] as usize..w[1] as usize).collect())
}

/// The same of a batch that may hold tokens beyond the last sequence.
fn sequences_within(cu_seqlens: &[u32], tokens: usize) -> Result<Vec<std::ops::Range<usize>>> {
    let end = cu_seqlens.last().map_or(0, |&end| end as usize);
    sequences(cu_seqlens, end.min(tokens))
}

/// Column sums of `f(row, columns)` over all rows, into `out`: tasks own columns, each adds its rows in
/// order, so the result does not depend on the number of threads.
fn sum_columns<T: crate::device::cpu::Real>(
    cpu: &Cpu,
    out: &mut [T],
    add: bool,
    rows: usize,
    f: impl Fn(usize, std::ops::Range<usize>, &mut [T]) + Sync,
) {
    use crate::device::cpu::parallel::*;
    const COLS: usize = 64;
    let task = |(c, out): (usize, &mut [T])| {
        vectorise!({
            if !add {
                out.fill(T::ZERO);
            }
            let cols = c * COLS..c * COLS + out.len();
            for r in 0..rows {
                f(r, cols.clone(), out);
            }
        })
    };
    cpu.install(|| out.par_chunks_mut(COLS).enumerate().for_each(task));
}
