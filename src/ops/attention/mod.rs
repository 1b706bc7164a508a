//! o = drop(softmax(scale q k^T)) v, for each sequence and head separately.
//!
//! qkv (tokens, 3 heads head_dim): a token's queries of all heads, then its keys, then its values; cu_seqlens
//! u32 (sequences + 1): where each sequence begins in the packed batch; key u32 (5) if there is dropout -> o
//! (tokens, heads head_dim). Scaled dot-product attention (Vaswani et al. 2017, eq. 1). Sequences stand end
//! to end: there is no padding and no mask. With a window a query sees only keys at most so many tokens away,
//! on both sides (Beltagy et al. 2020, section 3.1), and the work is linear in the length.
//!
//! Saves lse = log sum exp(scale q k^T), (heads tokens) with each sequence's heads together; the backward
//! pass computes the probabilities again (Dao et al. 2022, alg. 4), a block of queries at a time, so memory
//! is linear in the length.

pub(super) mod cpu;
mod cuda;
mod tiles;
mod wgpu;

use super::dropout::{Dropout, DropoutRows};
use super::{Call, Case, Cost, Input, Op, Plan, accumulator, compute_dtype, refuse};
use crate::device::Caps;
use crate::error::Result;
use crate::shape::{DType, Spec};
pub(super) use cuda::{BACKWARD, PLAIN};
pub(super) use tiles::{PLAIN_THREADS, plain as plain_tiles};
pub(super) use wgpu::SHADER;

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// The number of heads.
    pub heads: usize,
    /// The factor on scores: 1 / sqrt(head_dim).
    pub scale: f32,
    /// Dropout on the probabilities.
    pub dropout: Option<Dropout>,
    /// The window: the largest distance in tokens between a query and a key that it sees; `None`: no limit.
    pub window: Option<usize>,
}

impl Attention {
    /// The pairs of a query and a key that it sees in a sequence of this length. A window of w has 2 w + 1
    /// keys, fewer at both ends.
    fn pairs(&self, len: usize) -> f64 {
        match self.window.filter(|w| w + 1 < len) {
            Some(w) => (len * (2 * w + 1) - w * (w + 1)) as f64,
            None => (len * len) as f64,
        }
    }
    /// The kernels' WINDOW: keys nearer than this are seen; 0: all.
    fn reach(&self) -> u32 {
        self.window.map_or(0, |w| w.min(1 << 30) as u32 + 1)
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let expected = "qkv (tokens, 3 heads head_dim), cu_seqlens (sequences + 1), key (5) as set";
        let wrong = || refuse("attention", expected, x);
        let [qkv, bounds, key @ ..] = x else { return Err(wrong()) };
        let (tokens, cols) = qkv.rows_cols();
        let keyed = key.len() == self.dropout.is_some() as usize && key.iter().all(|k| k.shape == [5]);
        if cols % (3 * self.heads.max(1)) != 0 || bounds.dtype != DType::U32 || bounds.is_empty() || !keyed {
            return Err(wrong());
        }
        let dtype = compute_dtype("attention", caps, x)?;
        let y = Spec::new(dtype, &[tokens, cols / 3]);
        let lse = Spec::new(accumulator(dtype), &[self.heads, tokens]);
        // The CPU computes head by head and puts the heads in order afterwards; a GPU keeps rowsum(do o).
        let scratch = if caps.gpu {
            [0, lse.bytes()]
        } else {
            [tokens * cols / 3, tokens * cols].map(|elements| elements * dtype.size())
        };
        Ok(Plan::new(vec![y], vec![lse]).with_scratch(scratch))
    }
    fn cost(&self, call: &Call) -> Cost {
        let [tokens, cols] = call.rows_cols(0);
        let pairs: f64 = call.lengths(1, tokens as usize).into_iter().map(|len| self.pairs(len)).sum();
        // A matmul of all pairs: head_dim multiply-adds for each pair and head. Forward has two; backward
        // computes the scores again, then do v^T, dv, dq and dk.
        let product = 2.0 * pairs * cols / 3.0;
        // Backward reads o for rowsum(do o), beside its gradient.
        let inputs: f64 = (0..call.x.len()).map(|i| call.input(i)).sum();
        let read = inputs + call.output(0) + call.output(1) + call.dy();
        Cost::new([2.0 * product, 5.0 * product], [call.whole(), read + call.all_dense()])
    }
    fn reads_half(&self) -> bool {
        true
    }
}

/// Edge cases: one token, an empty sequence at each place, lengths at and around a block of queries.
pub fn cases() -> Vec<Case> {
    let seen = |label, window, heads: usize, d: usize, bounds: &[u32], p: f32| {
        let dropout = (p > 0.0).then_some(Dropout { p, dropout_id: 3, rows: DropoutRows::Tokens });
        let tokens = bounds.last().copied().unwrap_or(0) as usize;
        let mut inputs = vec![Input::real(&[tokens, 3 * heads * d]), Input::ints(bounds)];
        if dropout.is_some() {
            inputs.push(Input::key());
        }
        Case::new(label, Attention { heads, scale: 1.0 / (d as f32).sqrt(), dropout, window }, inputs)
    };
    let case = |label, heads, d, bounds: &[u32], p| seen(label, None, heads, d, bounds, p);
    let bounds = |lengths: &[u32]| -> Vec<u32> {
        let mut at = 0;
        std::iter::once(0)
            .chain(lengths.iter().map(|n| {
                at += n;
                at
            }))
            .collect()
    };
    let sweep: Vec<u32> = (0..=16).map(|n: u32| n * (n + 1) / 2).collect();
    // Of each kind of block several, some not full, and the last tile of a long one: 150 sequences, empty
    // ones among them.
    let mixed = [16, 1, 33, 17, 0, 32, 8, 15, 31, 64, 2, 65, 0, 16, 9, 18, 1, 30, 40, 7].repeat(7);
    let mixed = bounds(&[&mixed[..], &[3, 17, 1, 0, 70, 16, 32, 2, 5, 29]].concat());
    vec![
        case("one token", 1, 4, &[0, 1], 0.0),
        case("two sequences, dropout", 2, 8, &[0, 5, 9], 0.3),
        case("empty sequences", 3, 5, &[0, 0, 3, 3, 4, 4], 0.0),
        case("no sequence has tokens", 2, 4, &[0, 0], 0.0),
        case("lengths 1 to 16", 1, 2, &sweep, 0.1),
        case("a block of queries and its neighbours", 1, 3, &[0, 63, 127, 192], 0.0),
        case("several blocks, dropout", 2, 3, &[0, 130], 0.2),
        case("heads of 32, tiles and their neighbours", 1, 32, &[0, 63, 127], 0.0),
        case("heads of 64, a token more than a tile, dropout", 1, 64, &[0, 65], 0.1),
        case("heads of 32, tiles of one sequence, dropout", 1, 32, &[0, 130], 0.1),
        seen("a window of one token", Some(0), 1, 4, &[0, 3, 70], 0.0),
        seen("a window, lengths around it, dropout", Some(4), 2, 8, &[0, 1, 1, 5, 10, 27], 0.3),
        seen("a window over several blocks", Some(9), 1, 3, &[0, 63, 190], 0.0),
        seen("a window in heads of 32, dropout", Some(17), 1, 32, &[0, 130, 140], 0.1),
        seen("a window in heads of 64", Some(40), 2, 64, &[0, 5, 100], 0.0),
        seen("a window over blocks of two sequences, dropout", Some(20), 1, 64, &[0, 30, 240], 0.1),
        seen("a window over many blocks", Some(33), 1, 32, &[0, 150, 350], 0.0),
        seen("a window over many blocks of one sequence, dropout", Some(70), 1, 16, &[0, 300], 0.1),
        seen("a window wider than any sequence, dropout", Some(1000), 1, 6, &[0, 20, 33], 0.2),
        case("heads of 32, many short sequences, dropout", 2, 32, &bounds(&[16, 16, 16, 16, 12, 16, 3]), 0.1),
        case(
            "heads of 64, short sequences at the ends of tiles, dropout",
            1,
            64,
            &bounds(&[16, 17, 1, 32, 33, 15]),
            0.2,
        ),
        case("heads of 128, one token and two warps", 1, 128, &bounds(&[1, 20, 1, 32]), 0.0),
        case("sequences of one token", 2, 8, &bounds(&[1; 9]), 0.1),
        case("short and long sequences mixed", 1, 4, &mixed, 0.1),
    ]
}
