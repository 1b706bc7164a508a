//! The cases of an op, which the op tests run on every backend, and the tolerances of results.

use super::{Op, Step, accumulator};
use crate::rng::Rng;
use crate::shape::{DType, Spec};
use std::fmt::Debug;

/// One test case of an op. It runs on every backend, in every dtype, forward and backward.
pub struct Case {
    /// A short label.
    pub label: &'static str,
    /// The op or step.
    pub subject: Subject,
    /// The inputs, in the op's order.
    pub inputs: Vec<Input>,
    /// The factor on the dtype's tolerance. A value other than 1 needs a comment with the reason.
    pub slack: f64,
    /// An additional factor for 16-bit types.
    pub half_slack: f64,
}

/// A step's formula in f64: takes the step and its tensors before, and returns the tensors after.
pub type Textbook = fn(&dyn Debug, &[Vec<f64>]) -> Vec<Vec<f64>>;

/// The op or step of a case.
pub enum Subject {
    /// An op, tested by finite differences.
    Op(Box<dyn Op>),
    /// A step, compared with the textbook formula in f64.
    Step(Box<dyn Step>, Textbook),
}

/// One input of a case.
pub struct Input {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub fill: Fill,
}

/// The values of an input.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Random reals in a range; the op is differentiated with respect to them.
    Real(f64, f64),
    /// Random reals in a range, without a gradient, in the type of activations.
    Detached(f64, f64),
    /// Given reals, without a gradient.
    Fixed(Vec<f64>),
    /// Given integers.
    Ints(Vec<u32>),
}

impl Case {
    /// A case of an op.
    pub fn new(label: &'static str, op: impl Op, inputs: Vec<Input>) -> Case {
        Case { label, subject: Subject::Op(Box::new(op)), inputs, slack: 1.0, half_slack: 1.0 }
    }
    /// The largest errors of the forward pass and of the gradients, if matmuls round their operands to f16
    /// and accumulate in f32: 2^-11 relative per operand, which grows with the square root of k in a sum of k
    /// terms. The largest error of thousands of sums is about four standard deviations.
    pub fn matmul_bounds(&self) -> [f64; 2] {
        let deepest = self.inputs.iter().flat_map(|i| &i.shape).copied().max().unwrap_or(1);
        let bound = 1e-3 * (1.0 + (deepest as f64).sqrt() / 3.0);
        [bound, 2.0 * bound]
    }
    /// The specs of the inputs where activations are of an element type.
    pub fn specs(&self, dtype: DType) -> Vec<Spec> {
        let of = |fill: &Fill| match fill {
            Fill::Real(..) | Fill::Detached(..) => dtype,
            Fill::Fixed(_) => accumulator(dtype),
            Fill::Ints(_) => DType::U32,
        };
        self.inputs.iter().map(|i| Spec::new(of(&i.fill), &i.shape)).collect()
    }
    /// What the inputs hold where activations are of `dtype`: the same values, rounded to it, so that the
    /// truth is computed from what the device sees.
    pub fn values_in(&self, dtype: DType, rng: &mut Rng) -> Vec<Vec<f64>> {
        let mut all = self.values(rng);
        let activations = |i: &Input| matches!(i.fill, Fill::Real(..) | Fill::Detached(..));
        for (v, _) in all.iter_mut().zip(&self.inputs).filter(|(_, i)| activations(i)) {
            v.iter_mut().for_each(|v| *v = rounded(dtype, *v));
        }
        all
    }
    /// What the inputs hold: values that f32 holds exactly, so that every element type of at least its size
    /// sees the same.
    pub fn values(&self, rng: &mut Rng) -> Vec<Vec<f64>> {
        let one = |input: &Input| match &input.fill {
            Fill::Ints(v) => v.iter().map(|&v| v as f64).collect(),
            Fill::Fixed(v) => v.iter().map(|&v| v as f32 as f64).collect(),
            Fill::Real(lo, hi) | Fill::Detached(lo, hi) => reals(rng, input.shape.iter().product(), *lo, *hi),
        };
        self.inputs.iter().map(one).collect()
    }
}

/// Random reals of a range that f32 holds exactly.
pub fn reals(rng: &mut Rng, n: usize, lo: f64, hi: f64) -> Vec<f64> {
    (0..n).map(|_| (lo + rng.uniform() * (hi - lo)) as f32 as f64).collect()
}

/// A number rounded to a floating-point type.
pub fn rounded(dtype: DType, v: f64) -> f64 {
    match dtype {
        DType::BF16 => half::bf16::from_f32(v as f32).into(),
        DType::F16 => half::f16::from_f32(v as f32).into(),
        DType::F32 => v as f32 as f64,
        DType::F64 | DType::U32 => v,
    }
}

/// Half the distance of neighbouring numbers near 1.
pub fn unit_roundoff(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 2f64.powi(-9),
        DType::F16 => 2f64.powi(-12) * 2.0,
        DType::F32 => 2f64.powi(-24),
        DType::F64 | DType::U32 => 2f64.powi(-53),
    }
}

/// The largest errors in 16-bit types as [`relative_l2`](crate::shape::relative_l2) measures them, of a
/// forward and of a backward pass, in units of [`unit_roundoff`]: inputs are exact, so a forward pass has the
/// rounding of its result and of what it keeps in between.
pub const HALF_BOUNDS: [f64; 2] = [2.0, 3.0];

/// The largest difference between computed and true values, relative above 1; infinite where one is not
/// finite.
pub fn max_error(found: &[f64], truth: &[f64]) -> f64 {
    let one = |(a, b): (&f64, &f64)| {
        if a.is_finite() && b.is_finite() { (a - b).abs() / (1.0 + b.abs()) } else { f64::INFINITY }
    };
    if found.len() == truth.len() {
        found.iter().zip(truth).map(one).fold(0.0, f64::max)
    } else {
        f64::INFINITY
    }
}

/// The largest errors of f32 that a case passes with: of a forward pass, of a backward pass, of a step. To be
/// multiplied by its `slack`.
pub const BOUNDS: [f64; 3] = [3e-5, 5e-5, 2e-6];

impl Input {
    /// Random reals in (-1, 1).
    pub fn real(shape: &[usize]) -> Input {
        Input { shape: shape.to_vec(), fill: Fill::Real(-1.0, 1.0) }
    }
    /// Random reals in (-1, 1) that are not differentiated by, in the type of activations.
    pub fn detached(shape: &[usize]) -> Input {
        Input { shape: shape.to_vec(), fill: Fill::Detached(-1.0, 1.0) }
    }
    /// Reals that are not differentiated by.
    pub fn fixed(shape: &[usize], v: &[f64]) -> Input {
        Input { shape: shape.to_vec(), fill: Fill::Fixed(v.to_vec()) }
    }
    /// Integers.
    pub fn ints(v: &[u32]) -> Input {
        Input { shape: vec![v.len()], fill: Fill::Ints(v.to_vec()) }
    }
    /// The key of the random numbers: seed, step, first token and first sequence of the batch.
    pub fn key() -> Input {
        Input::ints(&[0x1234_5678, 0x9ABC_DEF0, 7, 3, 2])
    }
}
