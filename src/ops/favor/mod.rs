//! FAVOR+ attention: o = phi(q) (phi(k)^T v) / phi(q) (phi(k)^T 1), for each sequence and head separately;
//! linear in the length.
//!
//! qkv (tokens, 3 heads head_dim) as [`super::attention`] takes it; cu_seqlens u32 (sequences + 1); features
//! w (features, head_dim) in the type of sums, without a gradient -> o (tokens, heads head_dim). phi(x)_j =
//! exp(w_j x' - |x'|^2 / 2) / sqrt(features), x' = x sqrt(scale): positive random features (Choromanski et
//! al. 2021, lemma 1), whose expected phi(q) phi(k) is exp(scale q k). [`features`] draws w.
//!
//! Rows of phi are never formed. With b_kj = w_j k' - |k'|^2 / 2, L_j = log sum_k exp b_kj and C_j = sum_k
//! exp(b_kj - L_j) v_k, the quotient is o_q = sum_j p_qj C_j with p_qj the softmax over j of w_j q' + L_j:
//! |q'|^2 / 2, the factor and every stabiliser cancel. So it is two softmax attentions, of features over keys
//! and of queries over features, each with its own maxima; no denominator is below one, and the paper's
//! code's eps against 0 / 0 is not needed. Gradients are exact.
//!
//! Saves the table: C (sequences, heads, features, head_dim), then L (sequences, heads, features); and lse_q,
//! the logarithm of the second softmax's sum, (heads tokens) with each sequence's heads together.
//!
//! Backward, D_q = do_q o_q: dC_j = sum_q p_qj do_q; da_qj = p_qj (do_q C_j - D_q); E_j = sum_q da_qj - dC_j
//! C_j; db_kj = exp(b_kj - L_j) (dC_j v_k + E_j); dv_k = sum_j exp(b_kj - L_j) dC_j; dq' = sum_j da_qj w_j;
//! dk' = sum_j db_kj (w_j - k').

mod cpu;
mod cuda;
mod draw;
mod wgpu;

use super::{Call, Case, Cost, Input, Op, Plan, accumulator, compute_dtype_beside, refuse};
use crate::device::Caps;
use crate::error::Result;
use crate::shape::{DType, Spec};
pub(super) use cuda::KERNEL;
pub use draw::{default_features, features, independent};
pub(super) use wgpu::SHADER;

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Favor {
    /// The number of heads.
    pub heads: usize,
    /// What the scores of the attention that is approximated are multiplied by: 1 / sqrt(head_dim).
    pub scale: f32,
}

/// The sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    tokens: usize,
    seqs: usize,
    heads: usize,
    /// Width of a head.
    dim: usize,
    features: usize,
}

impl Favor {
    /// From qkv, the bounds and the features.
    fn sizes(&self, x: [&Spec; 3]) -> Sizes {
        let (tokens, cols) = x[0].rows_cols();
        let features = x[2].rows_cols().0;
        Sizes { tokens, seqs: x[1].len() - 1, heads: self.heads, dim: cols / 3 / self.heads, features }
    }
}

impl Sizes {
    /// Rows of C, elements of L.
    fn rows(&self) -> usize {
        self.seqs * self.heads * self.features
    }
}

impl Op for Favor {
    fn name(&self) -> &'static str {
        "favor"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let expected =
            "qkv (tokens, 3 heads head_dim), cu_seqlens (sequences + 1), features (features, head_dim)";
        let wrong = || refuse("favor", expected, x);
        let [qkv, bounds, w] = x else { return Err(wrong()) };
        let heads = self.heads.max(1);
        let (_, cols) = qkv.rows_cols();
        if cols % (3 * heads) != 0 || bounds.dtype != DType::U32 || bounds.is_empty() {
            return Err(wrong());
        }
        if w.shape.len() != 2 || w.shape[0] == 0 || w.shape[1] != cols / 3 / heads {
            return Err(wrong());
        }
        let dtype = compute_dtype_beside("favor", caps, x, &[2])?;
        let sums = accumulator(dtype);
        let s = self.sizes([qkv, bounds, w]);
        let y = Spec::new(dtype, &[s.tokens, cols / 3]);
        let table = Spec::new(sums, &[s.dim + 1, s.rows()]);
        let lse = Spec::new(sums, &[heads, s.tokens]);
        // The CPU computes head by head and puts the heads in order afterwards; a GPU keeps rowsum(do o), dC
        // and E.
        let scratch = if caps.gpu {
            [0, lse.bytes() + table.bytes()]
        } else {
            [s.tokens * cols / 3, s.tokens * cols].map(|elements| elements * dtype.size())
        };
        Ok(Plan::new(vec![y], vec![table, lse]).with_scratch(scratch))
    }
    fn cost(&self, call: &Call) -> Cost {
        let ([tokens, cols], [features, _]) = (call.rows_cols(0), call.rows_cols(2));
        // A matmul has head_dim multiply-adds for each token, head and feature. Forward: k' w, exp(b - L)^T
        // v, q' w, p C. Backward: q' w and k' w again, do C^T, v dC^T, and the gradients dC, dv, dq', dk'.
        let product = 2.0 * tokens * features * cols / 3.0;
        // The table of a sequence without tokens is neither written nor read.
        let lengths = call.lengths(1, tokens as usize);
        let used = lengths.iter().filter(|&&len| len > 0).count() as f64;
        let table = call.output(1) * used / lengths.len().max(1) as f64;
        let inputs: f64 = (0..3).map(|i| call.input(i)).sum();
        let each = inputs + table + call.output(0) + call.output(2);
        Cost::new([4.0 * product, 8.0 * product], [each, each + call.dy() + call.all_dense()])
    }
}

/// Edge cases: one token, an empty sequence at each place, odd widths, more features than a tile, fewer than
/// a warp's rows, lengths at and around a block of tokens.
pub fn cases() -> Vec<Case> {
    let case = |label, heads: usize, d: usize, m: usize, bounds: &[u32]| {
        let tokens = bounds.last().copied().unwrap_or(0) as usize;
        let w: Vec<f64> = features(5, 0, 0, [m, d]).into_iter().map(f64::from).collect();
        let inputs =
            vec![Input::real(&[tokens, 3 * heads * d]), Input::ints(bounds), Input::fixed(&[m, d], &w)];
        Case::new(label, Favor { heads, scale: 1.0 / (d as f32).sqrt() }, inputs)
    };
    let sweep: Vec<u32> = (0..=12).map(|n: u32| n * (n + 1) / 2).collect();
    // Keys and queries ten times as large: exponents of some hundreds.
    let mut large = case("large scores", 2, 4, 9, &[0, 7, 12]);
    large.inputs[0].fill = super::Fill::Real(-10.0, 10.0);
    vec![
        case("one token", 1, 4, 5, &[0, 1]),
        case("two sequences", 2, 8, 16, &[0, 5, 9]),
        case("empty sequences", 3, 5, 8, &[0, 0, 3, 3, 4, 4]),
        case("no sequence has tokens", 2, 4, 6, &[0, 0]),
        case("one feature", 2, 3, 1, &[0, 4]),
        case("lengths 1 to 12", 1, 2, 3, &sweep),
        case("a block of tokens and its neighbours", 1, 3, 7, &[0, 63, 127, 192]),
        case("several blocks of tokens and of features", 2, 6, 70, &[0, 130]),
        case("heads of 32, as many features as d ln d", 2, 32, 110, &[0, 33, 65]),
        case("heads of 64", 1, 64, 65, &[0, 34]),
        // The gradient is the small difference of products with o, which is ten times as large too, and
        // rounded.
        Case { half_slack: 2.0, ..large },
    ]
}
