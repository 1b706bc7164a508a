//! o = drop(softmax(scale s)) v, s_ij = (q_i + w) k_j + (q_i + u) r[i - j] + (q_i + g)
//! e[segments of i and j differ], within each sequence and each head: XLNet's attention.
//!
//! qkv (tokens, 3 heads head_dim) and cu_seqlens u32 (sequences + 1) as [`super::attention`] takes them;
//! segments u32 (tokens); r (2 n - 1, heads head_dim): the keys of the distances 1 - n to n - 1 in this
//! order, larger ones taken for the outermost (`clamp_len`); bias (5, heads head_dim): w, u, g, `e[same]`,
//! `e[different]`, which are `r_w_bias`, `r_r_bias`, `r_s_bias` and `seg_embed`; order u32 (tokens, 3) if
//! `ordered`; key u32 (5) if there is dropout -> o (tokens, heads head_dim). Yang et al. 2019 with the
//! relative encoding of Dai et al. 2019, section 3.3; as `XLNetRelativeAttention.rel_attn_core` computes it,
//! whose shift of a matrix is an index here.
//!
//! With an order, a token has a place as a query, a rank as a key and a bound as a query: key j is seen by
//! query i if rank j < bound i, and i - j is the query's place less the key's place in its sequence. So the
//! two streams of permutation language modelling are one sequence: the tokens, then the queries without
//! content, which no one sees. A query that sees no key gives zeros.
//!
//! Saves lse, (heads tokens) with each sequence's heads together. Backward, P the probabilities, m the mask,
//! D = rowsum(do o): dS = scale P (m (do V^T) - D); dq_i = sum_j dS_ij (k_j + r[i - j] + e); dk_j = sum_i
//! dS_ij (q_i + w); dV = (P m)^T do; `dr[t]` = sum of dS_ij (q_i + u) over i - j = t, of all sequences; dw,
//! du, dg: each part of dq summed over the tokens; de = sum of dS_ij (q_i + g) over the pairs of either kind.
//! Memory is linear in the length.

mod cpu;
mod cuda;
mod wgpu;

use super::dropout::{Dropout, DropoutRows};
use super::{Call, Case, Cost, Input, Op, Plan, accumulator, compute_dtype, refuse};
use crate::device::Caps;
use crate::error::Result;
use crate::shape::{DType, Spec};
pub(super) use cuda::KERNEL;
pub(super) use wgpu::SHADER;

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct RelativeAttention {
    /// The number of heads.
    pub heads: usize,
    /// The factor on scores: 1 / sqrt(head_dim).
    pub scale: f32,
    /// Whether there is an order that says who sees whom.
    pub ordered: bool,
    /// Dropout on the probabilities.
    pub dropout: Option<Dropout>,
}

/// The sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    tokens: usize,
    seqs: usize,
    heads: usize,
    /// Width of a head.
    dim: usize,
    /// Rows of r.
    distances: usize,
}

impl RelativeAttention {
    /// From the specs of all inputs.
    fn sizes(&self, x: &[&Spec]) -> Sizes {
        let (tokens, cols) = x[0].rows_cols();
        let distances = x[3].rows_cols().0;
        Sizes { tokens, seqs: x[1].len() - 1, heads: self.heads, dim: cols / 3 / self.heads, distances }
    }
    /// Which input is the key of the dropout.
    fn key(&self) -> usize {
        5 + self.ordered as usize
    }
}

impl Op for RelativeAttention {
    fn name(&self) -> &'static str {
        "relative_attention"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let expected = "qkv (tokens, 3 heads head_dim), cu_seqlens (sequences + 1), segments (tokens), \
                        r (odd, heads head_dim), bias (5, heads head_dim), order (tokens, 3) and key (5) as set";
        let wrong = || refuse("relative_attention", expected, x);
        let [qkv, bounds, segments, r, bias, rest @ ..] = x else { return Err(wrong()) };
        let (tokens, cols) = qkv.rows_cols();
        let heads = self.heads.max(1);
        let (order, key) = rest.split_at(rest.len().min(self.ordered as usize));
        let integers = [bounds, segments].into_iter().chain(rest).all(|s| s.dtype == DType::U32);
        let shaped = order.iter().all(|o| o.shape == [tokens, 3]) && key.iter().all(|k| k.shape == [5]);
        let counted = rest.len() == self.ordered as usize + self.dropout.is_some() as usize;
        if cols % (3 * heads) != 0 || bounds.is_empty() || segments.len() != tokens || !integers {
            return Err(wrong());
        }
        let tables = r.shape.len() == 2 && r.shape[0] % 2 == 1 && r.shape[1] == cols / 3;
        if !tables || bias.shape != [5, cols / 3] || !shaped || !counted {
            return Err(wrong());
        }
        let dtype = compute_dtype("relative_attention", caps, x)?;
        let y = Spec::new(dtype, &[tokens, cols / 3]);
        let lse = Spec::new(accumulator(dtype), &[heads, tokens]);
        let s = self.sizes(x);
        let scratch = if caps.gpu {
            let u32s = if caps.blocks == 0 { 4 * tokens } else { 0 };
            [4 * u32s, 4 * (u32s + s.work().max(s.words_cuda()) + tokens.div_ceil(ROWS) * 5 * cols / 3)]
        } else {
            let tables = heads * (s.distances + 5) * s.dim;
            [tokens * cols / 3, tokens * cols + tables].map(|elements| elements * dtype.size())
        };
        Ok(Plan::new(vec![y], vec![lse]).with_scratch(scratch))
    }
    fn cost(&self, call: &Call) -> Cost {
        let [tokens, cols] = call.rows_cols(0);
        let Seen { pairs, distances, rows } = self.seen(call);
        // A multiply-add of a whole row (all heads): for each pair, for each query and distance, for each
        // query and kind of segment.
        let row = 2.0 * cols / 3.0;
        let [by_key, by_distance, by_segment] = [pairs * row, distances * row, 2.0 * tokens * row];
        let scores = by_key + by_distance + by_segment;
        let [qkv, r, bias] = [0, 3, 4].map(|i| call.wants(i) as u8 as f64);
        // Scores again, and do v^T; then dk and dv; the three parts of dq, of which the biases' gradients are
        // sums; dr; de.
        let parts = if call.wants(0) || call.wants(4) { scores } else { 0.0 };
        let backward = scores + by_key + 2.0 * qkv * by_key + parts + r * by_distance + bias * by_segment;
        let others: f64 = (0..call.x.len()).filter(|&i| i != 3).map(|i| call.input(i)).sum();
        let each = others + rows * call.row(3) + call.output(0) + call.output(1);
        let gradients = call.dense(0) + call.sparse(3, rows) + call.dense(4);
        Cost::new([scores + by_key, backward], [each, each + call.dy() + gradients])
    }
}

/// What the queries of a call see.
struct Seen {
    /// Pairs of a query and a key.
    pairs: f64,
    /// Pairs of a query and a distance (row of r), each once for all keys beyond the largest distance.
    distances: f64,
    /// The rows of r that any query needs.
    rows: f64,
}

impl RelativeAttention {
    fn seen(&self, call: &Call) -> Seen {
        let (tokens, table) = (call.rows_cols(0)[0] as usize, call.rows_cols(3)[0] as usize);
        // The row of r at distance 0, which is also the largest distance.
        let (middle, last) = (table / 2, table.saturating_sub(1));
        let lengths = call.lengths(1, tokens);
        let mut seen = Seen { pairs: 0.0, distances: 0.0, rows: 0.0 };
        let Some(order) = call.integers(5).filter(|o| self.ordered && o.len() == 3 * tokens) else {
            for &len in &lengths {
                seen.pairs += (len * len) as f64;
                // A query sees itself, and as many distances on each side as there are keys, or rows.
                let one_side: usize = (0..len).map(|i| i.min(middle)).sum();
                seen.distances += (len + 2 * one_side) as f64;
            }
            let longest = lengths.iter().max().copied().unwrap_or(0);
            seen.rows = if longest > 0 { (2 * middle.min(longest - 1) + 1) as f64 } else { 0.0 };
            return seen;
        };
        let mut used = vec![false; table];
        let mut start = 0;
        for len in lengths {
            let Some(own) = order.get(3 * start..3 * (start + len)) else { break };
            for query in own.chunks_exact(3) {
                let (place, bound) = (query[0] as usize, query[2]);
                let mut before = None;
                for (j, _) in own.chunks_exact(3).enumerate().filter(|(_, key)| key[1] < bound) {
                    let row = (place + middle).saturating_sub(j).min(last);
                    seen.pairs += 1.0;
                    // Rows fall as keys advance, so equal ones are neighbours.
                    seen.distances += (before.replace(row) != Some(row)) as u8 as f64;
                    used.iter_mut().skip(row).take(1).for_each(|u| *u = true);
                }
            }
            start += len;
        }
        seen.rows = used.iter().filter(|&&u| u).count() as f64;
        seen
    }
}

/// Tokens that one partial sum of a bias gradient covers on GPUs.
const ROWS: usize = 64;

impl Sizes {
    fn hidden(&self) -> usize {
        self.heads * self.dim
    }
    /// Elements that a backward pass in WGSL works in: four parts as wide as the tokens, four numbers a token
    /// and head, and dr.
    fn work(&self) -> usize {
        4 * self.tokens * self.hidden() + 4 * self.tokens * self.heads + self.distances * self.hidden()
    }
    /// The same of CUDA: the two parts of dq, and three numbers a token and head.
    fn words_cuda(&self) -> usize {
        2 * self.tokens * self.hidden() + 3 * self.tokens * self.heads
    }
}

/// Edge cases: one token, empty sequences, distances beyond the table, more distances than occur, lengths at
/// and around a block of queries, an order with a query that sees no key.
pub fn cases() -> Vec<Case> {
    let case = |label, [heads, d, n]: [usize; 3], bounds: &[u32], order: Option<&[u32]>, p: f32| {
        let dropout = (p > 0.0).then_some(Dropout { p, dropout_id: 3, rows: DropoutRows::Tokens });
        let tokens = bounds.last().copied().unwrap_or(0) as usize;
        let segments: Vec<u32> = (0..tokens as u32).map(|t| t / 3 % 3).collect();
        let mut inputs = vec![
            Input::real(&[tokens, 3 * heads * d]),
            Input::ints(bounds),
            Input::ints(&segments),
            Input::real(&[2 * n - 1, heads * d]),
            Input::real(&[5, heads * d]),
        ];
        if let Some(order) = order {
            inputs.push(Input { shape: vec![tokens, 3], ..Input::ints(order) });
        }
        if dropout.is_some() {
            inputs.push(Input::key());
        }
        let op =
            RelativeAttention { heads, scale: 1.0 / (d as f32).sqrt(), ordered: order.is_some(), dropout };
        Case::new(label, op, inputs)
    };
    let sweep: Vec<u32> = (0..=9).map(|n: u32| n * (n + 1) / 2).collect();
    const HIDDEN: u32 = u32::MAX;
    // Four tokens, of which the second and the last are predicted in the order last, second; then their
    // queries, and a sequence whose only query sees nothing.
    let order = [
        [0, 0, 1],
        [1, 2, 3],
        [2, 0, 1],
        [3, 1, 2],
        [3, HIDDEN, 1],
        [1, HIDDEN, 2],
        [0, 1, 2],
        [0, HIDDEN, 1],
    ]
    .concat();
    vec![
        case("one token", [1, 4, 1], &[0, 1], None, 0.0),
        case("two sequences, dropout", [2, 8, 5], &[0, 5, 9], None, 0.3),
        case("empty sequences, more distances than occur", [3, 5, 9], &[0, 0, 3, 3, 4, 4], None, 0.0),
        case("no sequence has tokens", [2, 4, 2], &[0, 0], None, 0.0),
        case("distances beyond the table", [2, 3, 4], &[0, 11, 13], None, 0.0),
        case("one distance for all", [1, 4, 1], &[0, 6], None, 0.0),
        case("lengths 1 to 9", [1, 2, 9], &sweep, None, 0.1),
        case("a block of queries and its neighbours", [1, 3, 65], &[0, 63, 127, 192], None, 0.0),
        case("several blocks, dropout", [2, 3, 130], &[0, 130], None, 0.2),
        case("heads of 32", [1, 32, 40], &[0, 33, 70], None, 0.1),
        case("heads of 64", [1, 64, 34], &[0, 34], None, 0.0),
        case("two streams", [2, 4, 4], &[0, 6, 8], Some(&order), 0.0),
        case("two streams, dropout, distances beyond the table", [1, 5, 3], &[0, 6, 8], Some(&order), 0.2),
    ]
}
