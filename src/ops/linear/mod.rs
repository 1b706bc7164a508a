//! y = act(x w^T + b).
//!
//! x (tokens, in), w (out, in), b (out) -> y (tokens, out); `b` may be left out. Weights as in PyTorch's
//! `nn.Linear`. Saves z = x w^T + b (tokens, out) if the derivative of the activation needs it.

mod cpu;
mod cuda;
mod half;
mod sums;
mod wgpu;

pub(super) use cuda::{HOPPER, PLAIN, TENSOR};

use super::{Activation, Call, Case, Cost, Input, Op, Plan, compute_dtype, refuse};
use crate::device::{Caps, Packing};
use crate::error::Result;
use crate::shape::{DType, Spec};
pub(super) use wgpu::COOP;

/// Rows that one partial sum of a bias gradient covers on GPUs.
const TILE: usize = 64;
/// What matmuls of bf16 pairs round the sides of packed operands up to.
const PAIRS: usize = 32;

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// The epilogue.
    pub act: Activation,
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn reads_half(&self) -> bool {
        true
    }
    fn fused_activation(&self) -> Option<(Activation, usize, Box<dyn Op>)> {
        let rest = || Box::new(Linear { act: Activation::None });
        (self.act != Activation::None)
            .then(|| (self.act, self.act.needs_input() as usize, rest() as Box<dyn Op>))
    }
    fn fuses_dact(&self, caps: &Caps, i: usize) -> bool {
        // On CUDA cuBLASLt may do it in the same call, and without it nothing is lost. On the CPU it saves a
        // pass over memory.
        i == 0 && (caps.blocks > 0 || matches!(caps.packs, Packing::Wide | Packing::Pairs))
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let wrong = || refuse("linear", "x (tokens, in), w (out, in) and maybe b (out)", x);
        let [input, w, b @ ..] = x else { return Err(wrong()) };
        let ((rows, k), (n, wk)) = (input.rows_cols(), w.rows_cols());
        if wk != k || b.len() > 1 || b.iter().any(|b| b.shape != [n]) {
            return Err(wrong());
        }
        let dtype = compute_dtype("linear", caps, x)?;
        let y = Spec::new(dtype, &[rows, n]);
        let saved = if self.act.needs_input() { vec![y.clone()] } else { vec![] };
        // The copied operand; the gradient before the activation; partial sums of the bias's gradient.
        let packed = packed(caps.packs, dtype, [rows, n, k]);
        let dz = if self.act == Activation::None { 0 } else { rows * n * dtype.size() };
        let parts = if caps.gpu { rows.div_ceil(TILE) * n * dtype.size() } else { 0 };
        Ok(Plan::new(vec![y], saved).with_scratch([packed[0], dz + packed[1] + parts]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let ([rows, k], [n, _]) = (call.rows_cols(0), call.rows_cols(1));
        let product = 2.0 * rows * n * k;
        // The derivative of the activation reads z or y. Only dx = dz w needs w, and only dw = dz^T x needs
        // x; db needs neither.
        let kept = match self.act {
            Activation::None => 0.0,
            act => call.output(act.needs_input() as usize),
        };
        let [dx, dw] = [0, 1].map(|i| call.wants(i) as u8 as f64);
        let backward = call.dy() + kept + dx * call.input(1) + dw * call.input(0) + call.all_dense();
        Cost::new([product, (dx + dw) * product], [call.whole(), backward])
    }
}

/// Bytes of the packed operands of both passes.
fn packed(packing: Packing, dtype: DType, [rows, n, k]: [usize; 3]) -> [usize; 2] {
    // dx = dz w packs w, and dw = dz^T x packs x: one after the other.
    let right = [n * k, k * n.max(rows)];
    match packing {
        Packing::None => [0, 0],
        Packing::Weights => [n * k * dtype.size(), 0],
        Packing::Pairs if dtype == DType::BF16 => {
            let [rows, n, k] = [rows, n, k].map(|side| side.next_multiple_of(PAIRS));
            [n * k, (n * k).max(rows * (n + k))].map(|elements| elements * dtype.size())
        }
        Packing::Wide | Packing::Pairs => right.map(|elements| elements * dtype.size().max(4)),
    }
}

/// Edge cases: one row, one column, prime sizes, more rows and columns than a task, a depth of two passes.
pub fn cases() -> Vec<Case> {
    let case = |label, act, [rows, k, n]: [usize; 3], bias: bool| {
        let mut inputs = vec![Input::real(&[rows, k]), Input::real(&[n, k])];
        if bias {
            inputs.push(Input::real(&[n]));
        }
        Case::new(label, Linear { act }, inputs)
    };
    vec![
        case("bias", Activation::None, [5, 8, 3], true),
        case("no bias, odd", Activation::None, [2, 7, 9], false),
        case("one of each", Activation::None, [1, 1, 1], true),
        case("gelu erf, prime sizes", Activation::GeluErf, [13, 17, 19], true),
        case("gelu tanh", Activation::GeluTanh, [7, 12, 33], true),
        case("relu", Activation::Relu, [3, 5, 65], true),
        case("tanh, one row", Activation::Tanh, [1, 31, 6], true),
        case("no rows", Activation::GeluErf, [0, 4, 5], true),
        case("several tasks", Activation::None, [131, 37, 201], true),
        case("deep", Activation::GeluErf, [9, 521, 11], true),
        // Rows of whole sixteen bytes: other ways to the multipliers on CUDA.
        case("multiples of eight", Activation::GeluErf, [70, 72, 136], true),
        case("multiples of eight, several tiles", Activation::Tanh, [200, 64, 264], true),
        case("multiples of eight, gelu tanh", Activation::GeluTanh, [24, 40, 48], true),
        case("multiples of eight, deep", Activation::None, [584, 776, 24], true),
    ]
}
