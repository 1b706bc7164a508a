//! FLOP and bytes of ops, counted by hand: tensor by tensor from each op's formula, in three types, ragged
//! and windowed.
//!
//! Elements of the compute type have `e` bytes; sums, statistics, losses and the gradients of weights are f32
//! (4 bytes), integers too.

use std::collections::HashSet;
use tempra::bench::shapes::Runs;
use tempra::bench::{Job, ModelShape, jobs};
use tempra::device::{Caps, Device};
use tempra::ops::adamw::AdamW;
use tempra::ops::attention::Attention;
use tempra::ops::embed::Embed;
use tempra::ops::global_norm::GlobalNorm;
use tempra::ops::pool::Pool;
use tempra::ops::relative_attention::RelativeAttention;
use tempra::ops::update::{Segment, Settings, UpdateRule};
use tempra::ops::{Call, Cost, Fill, Gradient, Input, Op, Step};
use tempra::shape::{DType, Spec};

pub const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
/// MiniLM-L6: width, heads, width of a head, feed-forward width; rows of its tables; parameters without the
/// pooler.
pub const H: usize = 384;
pub const HEADS: usize = 12;
const D: usize = 32;
pub const F: usize = 1536;
const VOCAB: usize = 30522;
const POSITIONS: usize = 512;
const KINDS: usize = 2;
/// 22,713,216 parameters with the pooler (the model card), which is a matrix and a bias.
const N: usize = 22_713_216 - H * H - H;
pub const T: usize = 256;
/// The dropout key: five integers.
pub const KEY: usize = 5 * 4;

/// A device that computes in a type; only its capabilities matter.
pub fn caps(dtype: DType) -> Caps {
    let caps = Device::open("cpu", 1).unwrap().caps();
    Caps { dtypes: &TYPES, compute: dtype, matmul: dtype, ..caps }
}

pub fn job(op: &str, role: &str, tokens: usize) -> Job {
    jobs(op, &ModelShape::known()[0], tokens).into_iter().find(|j| j.role == role).unwrap()
}

/// FLOP and bytes, forward and backward.
fn hand(flops: [usize; 2], bytes: [usize; 2]) -> Cost {
    Cost {
        forward_flops: flops[0] as f64,
        backward_flops: flops[1] as f64,
        forward_bytes: bytes[0] as f64,
        backward_bytes: bytes[1] as f64,
    }
}

/// Compares the count of a job with a hand count in each type; `count` gets the bytes of an element.
fn check(job: &Job, count: impl Fn(usize) -> Cost) {
    for dtype in TYPES {
        let found = job.needs(&caps(dtype)).unwrap().cost;
        assert_eq!(found, count(dtype.size()), "{} in {dtype}", job.label());
    }
}

/// The bounds of sequences with these lengths.
pub fn bounds(lengths: &[usize]) -> Vec<u32> {
    let ends = lengths.iter().scan(0, |at, len| {
        *at += *len as u32;
        Some(*at)
    });
    std::iter::once(0).chain(ends).collect()
}

/// The job with other sequences.
fn ragged(op: &str, role: &str, lengths: &[usize]) -> Job {
    let mut job = job(op, role, T);
    job.inputs[1] = Input::ints(&bounds(lengths));
    job
}

/// z = x w^T + b, y = gelu(z), x (256, 384), w (1536, 384), b (1536). Forward reads x, w, b and writes y and
/// z. Backward reads dy and z for dz = dy gelu'(z), w for dx = dz w, x for dw = dz^T x; it writes dx like x,
/// and dw and db in f32. Each of the three matmuls has 256 x 384 x 1536 multiply-adds.
#[test]
fn linear_reads_its_operands_and_writes_weight_gradients_in_f32() {
    let (x, w, b, y) = (T * H, F * H, F, T * F);
    let matmul = 2 * T * H * F;
    check(&job("linear", "up, gelu", T), |e| {
        hand([matmul, 2 * matmul], [(x + w + b + y + y) * e, (y + y + x + w + x) * e + (w + b) * 4])
    });
    // Without an activation there is no z: forward writes y, backward reads dy.
    let (w, b, y) = (3 * H * H, 3 * H, T * 3 * H);
    let matmul = 2 * T * H * 3 * H;
    check(&job("linear", "qkv", T), |e| {
        hand([matmul, 2 * matmul], [(x + w + b + y) * e, (y + x + w + x) * e + (w + b) * 4])
    });
}

/// y = word + position + kind, two sequences of 128. Forward reads three integers for each token, each row
/// that is named once (the words that occur, 128 positions, 2 kinds), and writes y: two additions for each
/// element. Backward reads dy and the integers, and writes the three tables' gradients completely in f32,
/// since the benchmark has them overwritten; each token adds its row to each table.
#[test]
fn embed_reads_the_rows_that_occur_and_writes_dense_gradients() {
    let job = job("embed", "tables", T);
    let Fill::Ints(ids) = &job.inputs[0].fill else { panic!("no ids") };
    let words = ids.iter().collect::<HashSet<_>>().len();
    assert!(words > 200 && words <= T, "{words}");
    let (y, rows, tables) = (T * H, (words + 128 + KINDS) * H, (VOCAB + POSITIONS + KINDS) * H);
    check(&job, |e| hand([2 * y, 3 * y], [3 * T * 4 + (rows + y) * e, 3 * T * 4 + y * e + tables * 4]));
}

/// Layer norm of drop(x) + residual, 256 rows of 384. Forward reads x, residual, gamma, beta, key; writes y,
/// xhat, and rstd in f32. For each element: the mask, the residual, the sum for the mean, z - mean, its
/// square, the sum of the squares, times rstd, times gamma, plus beta: 9. For each row: two means, eps, the
/// root, the reciprocal: 5. Backward reads dy, xhat, rstd, gamma, key; writes dx and dresidual, and dgamma
/// and dbeta in f32. For each element: g = gamma dy; the sums of g and of g xhat (3); g - mean - xhat mean,
/// times rstd (4); the mask of dx; dgamma's product and sum (2); dbeta's sum: 12. For each row: two means.
#[test]
fn add_norm_writes_its_statistics() {
    let n = T * H;
    check(&job("add_norm", "block", T), |e| {
        let forward = (2 * n + 2 * H + 2 * n) * e + KEY + T * 4;
        let backward = (2 * n + H + 2 * n) * e + KEY + T * 4 + 2 * H * 4;
        hand([9 * n + 5 * T, 12 * n + 2 * T], [forward, backward])
    });
    // Without a residual, and with dropout after the norm: its mask is on y forward and on dy backward.
    check(&job("add_norm", "embeddings", T), |e| {
        let forward = (n + 2 * H + 2 * n) * e + KEY + T * 4;
        let backward = (2 * n + H + n) * e + KEY + T * 4 + 2 * H * 4;
        hand([8 * n + 5 * T, 12 * n + 2 * T], [forward, backward])
    });
}

/// The bytes of attention over 256 tokens: forward reads qkv, the bounds and the key, and writes o, and lse
/// in f32 for each head and token; backward reads them all, o and lse too, and do, and writes dqkv.
pub fn attention_bytes(tokens: usize, sequences: usize, e: usize) -> [usize; 2] {
    let (qkv, o, few) = (tokens * 3 * H, tokens * H, (sequences + 1) * 4 + KEY + tokens * HEADS * 4);
    [(qkv + o) * e + few, (qkv + o + o + qkv) * e + few]
}

/// A query and a key that it sees cost a multiply-add of every column of q in q k^T, and of v in p v: 4
/// x 384. Backward computes q k^T again, then do v^T, p^T do, ds k and ds^T q: 10 x 384.
pub fn attention_flops(pairs: usize) -> [usize; 2] {
    [4 * pairs * H, 10 * pairs * H]
}

#[test]
fn attention_counts_the_pairs_that_see_each_other() {
    check(&job("attention", "length 128", T), |e| {
        hand(attention_flops(2 * 128 * 128), attention_bytes(T, 2, e))
    });
    // In sequences of 512 a query sees the keys at most 64 tokens away: 129, fewer at the ends.
    let seen = |i: i32| (0..512).filter(|j: &i32| (i - j).abs() <= 64).count();
    let pairs: usize = (0..512).map(seen).sum();
    assert!(pairs < 512 * 129);
    check(&job("attention", "length 512, window 64", 1024), |e| {
        hand(attention_flops(2 * pairs), attention_bytes(1024, 2, e))
    });
    // Sequences of different lengths, one without tokens: the sum of the squares, not the tokens times the
    // mean length.
    let lengths = [5, 0, 95, 156];
    check(&ragged("attention", "length 128", &lengths), |e| {
        hand(attention_flops(25 + 95 * 95 + 156 * 156), attention_bytes(T, 4, e))
    });
}

/// The same with windows around the lengths.
#[test]
fn windows_are_counted_pair_by_pair() {
    for window in [0, 1, 4, 94, 95, 1000] {
        let lengths = [5usize, 0, 95, 156];
        let one = |len: usize| -> usize {
            (0..len).map(|i| (0..len).filter(|j| i.abs_diff(*j) <= window).count()).sum()
        };
        let pairs: usize = lengths.iter().map(|&len| one(len)).sum();
        let mut job = ragged("attention", "length 128", &lengths);
        let op = Attention { heads: HEADS, scale: 1.0, dropout: None, window: Some(window) };
        job.inputs.truncate(2);
        job.runs = Runs::Op(Box::new(op));
        let cost = job.needs(&caps(DType::F32)).unwrap().cost;
        assert_eq!(
            [cost.forward_flops, cost.backward_flops],
            attention_flops(pairs).map(|f| f as f64),
            "{window}"
        );
    }
}

/// floor(32 ln 32) = 110 features. Forward has four matmuls of 110 x 384 multiply-adds for each token (k' w,
/// P^T v, q' w, P C), backward eight (q' w and k' w again, do C^T, v dC^T, dC, dv, dq', dk'). Forward reads
/// qkv, the bounds and w (f32); it writes o, C and L (33 f32 for each sequence, head and feature), and lse
/// (f32). Backward reads all of that and do, and writes dqkv.
#[test]
fn favor_has_four_matmuls_forward_and_eight_backward() {
    let m = 110;
    let matmul = 2 * T * m * H;
    let (qkv, o) = (T * 3 * H, T * H);
    let few = |sequences: usize, used: usize| {
        ((sequences + 1) + m * D + used * HEADS * m * (D + 1) + T * HEADS) * 4
    };
    let count = |sequences, used| {
        move |e| {
            let few = few(sequences, used);
            hand([4 * matmul, 8 * matmul], [(qkv + o) * e + few, (qkv + o + o + qkv) * e + few])
        }
    };
    check(&job("favor", "length 128", T), count(2, 2));
    // A sequence without tokens has no table.
    check(&ragged("favor", "length 128", &[100, 0, 156]), count(3, 2));
}

/// Scores are (q + w) k, (q + u) r and (q + g) e: a multiply-add of 384 columns for each pair of query and
/// key, for each query and distance, and for each token and kind of segment. Forward adds p v for each pair.
/// Backward has the scores again, do v^T, dv, dk, the three parts of dq, dr, and de. With 128 tokens and 255
/// distances, every query has 128 distances.
#[test]
fn relative_attention_counts_pairs_distances_and_segments() {
    let row = 2 * H;
    let flops = |pairs: usize, distances: usize| {
        let segments = 2 * T;
        [row * (2 * pairs + distances + segments), row * (5 * pairs + 3 * distances + 3 * segments)]
    };
    let bytes = |sequences: usize, table: usize, used: usize, e: usize| {
        let few = ((sequences + 1) + T + T * HEADS) * 4;
        let read = (T * 3 * H + used * H + 5 * H + T * H) * e + few;
        // do; dqkv and dr in the compute type, the biases' gradients in f32.
        [read, read + (T * H + T * 3 * H + table * H) * e + 5 * H * 4]
    };
    let pairs = 2 * 128 * 128;
    check(&job("relative_attention", "length 128", T), |e| hand(flops(pairs, pairs), bytes(2, 255, 255, e)));
    // Longer than the table: keys beyond the largest distance, 30, share its row.
    let lengths = [3, 0, 100, 153];
    let mut job = ragged("relative_attention", "length 128", &lengths);
    job.inputs[3] = Input::real(&[61, H]);
    let distinct = |len: i64| -> usize {
        let of = |i: i64| (0..len).map(|j| (i - j).clamp(-30, 30)).collect::<HashSet<_>>().len();
        (0..len).map(of).sum()
    };
    let distances = lengths.iter().map(|&len| distinct(len as i64)).sum();
    let pairs = lengths.iter().map(|len| len * len).sum();
    check(&job, |e| hand(flops(pairs, distances), bytes(4, 61, 61, e)));
    // Shorter than the table: only the rows of distances that occur are read, but the gradient of all is
    // written.
    let lengths = [64; 4];
    check(&ragged("relative_attention", "length 128", &lengths), |e| {
        hand(flops(4 * 64 * 64, 4 * 64 * 64), bytes(4, 255, 127, e))
    });
}

/// Two streams: four tokens, then a query without content that no one sees (its rank is the largest number).
/// Query i sees key j if the rank of j is below the bound of i; the distance is i's place less j's index.
#[test]
fn relative_attention_counts_who_sees_whom() {
    let order: [[u32; 3]; 5] = [[0, 0, 1], [1, 2, 3], [2, 0, 1], [3, 1, 2], [3, u32::MAX, 0]];
    // Bound 1: the keys 0 and 2, which have rank 0. Bound 3: the keys 0 to 3. Bound 2: the keys 0, 2 and 3.
    // Bound 0: none.
    let pairs = 2 + 4 + 2 + 3;
    // All distances from -2 (key 3 from place 1) to 3; each pair of a query has its own.
    let rows = HashSet::from([0, -2, 1, 0, -1, -2, 2, 0, 3, 1, 0]).len();
    let op = RelativeAttention { heads: HEADS, scale: 1.0, ordered: true, dropout: None };
    let mut job = job("relative_attention", "length 128", T);
    let flat: Vec<u32> = order.concat();
    job.inputs = vec![
        Input::real(&[5, 3 * H]),
        Input::ints(&[0, 5]),
        Input::ints(&[0; 5]),
        Input::real(&[9, H]),
        Input::real(&[5, H]),
        Input { shape: vec![5, 3], ..Input::ints(&flat) },
    ];
    job.runs = Runs::Op(Box::new(op));
    let cost = job.needs(&caps(DType::F32)).unwrap().cost;
    assert_eq!(cost.forward_flops, (2 * H * (2 * pairs + pairs + 2 * 5)) as f64);
    let few = 2 + 5 + 15 + 5 * HEADS;
    let read = 5 * 3 * H + rows * H + 5 * H + 5 * H + few;
    assert_eq!(cost.forward_bytes, (4 * read) as f64);
}

/// 48 relation heads of a student of 384 columns and a teacher of 768. A pair of tokens costs a multiply-add
/// of every column of q, k and v of both; backward has the scores again, and W s. Forward reads both, the
/// bounds, a weight for each token (f32) and the scale; it writes two statistics (f32) for each token, head,
/// and q, k, v, and the loss. Backward reads all of that but the loss, and dloss, and writes dstudent. Tokens
/// that only pad the batch have zeros there, and nothing else.
#[test]
fn relation_counts_pairs_and_statistics() {
    let (pair, statistics) = (2 * 3 * (2 * H + H), 2 * 3 * 48);
    let count = |pairs: usize, used: usize, sequences: usize| {
        move |e| {
            let few = (sequences + 1 + used + 1 + used * statistics + 1) * 4;
            let read = used * 3 * (2 * H + H) * e + few;
            hand([pairs * pair, pairs * (pair + 2 * 3 * H)], [read, read + T * 3 * H * e])
        }
    };
    check(&job("relation", "length 128", T), count(2 * 128 * 128, T, 2));
    let lengths = [5usize, 0, 95];
    let mut job = job("relation", "length 128", T);
    job.inputs[2] = Input::ints(&bounds(&lengths));
    check(&job, count(25 + 95 * 95, 100, 3));
}

/// The mean of sequences of 5, 0 and 95 tokens in a batch of 256, of which the rest only pads. Forward reads
/// 100 rows and writes 3: an addition for each element read, a division for each column of the two sequences
/// with tokens. Backward reads two rows of dy, divides them, and writes all of dx, zeros for the padding.
/// First tokens: one row of each sequence with tokens, and no arithmetic.
#[test]
fn pool_reads_the_tokens_of_sequences() {
    let lengths = [5, 0, 95];
    check(&ragged("pool", "mean", &lengths), |e| {
        hand([100 * H + 2 * H, 2 * H], [(100 + 3) * H * e + 16, (2 + T) * H * e + 16])
    });
    for op in [Pool::First, Pool::Last] {
        let mut job = ragged("pool", "first token", &lengths);
        job.runs = Runs::Op(Box::new(op));
        check(&job, |e| hand([0, 0], [(2 + 3) * H * e + 16, (2 + T) * H * e + 16]));
    }
}

/// 32 of 256 rows: forward reads and writes those and the index; backward reads 32 rows of dy and writes all
/// of dx. Entries of the index that are only padding read nothing, but their zeros are written.
#[test]
fn gather_reads_the_rows_of_the_index() {
    check(&job("gather", "hidden tokens", T), |e| {
        hand([0, 0], [(32 + 32) * H * e + 32 * 4, (32 + T) * H * e + 32 * 4])
    });
    let mut job = job("gather", "hidden tokens", T);
    job.inputs[1] = Input::ints(&[3, 9, u32::MAX, u32::MAX]);
    check(&job, |e| hand([0, 0], [(2 + 4) * H * e + 16, (2 + T) * H * e + 16]));
}

/// 32 rows of the vocabulary. Forward reads logits, targets and scale (f32), and writes loss and lse (f32).
/// For each logit: the maximum, z - max, exp, the sum; for each row: the logarithm plus the maximum, lse - z,
/// the sum of losses; the scale. Backward reads the same, lse and dloss, and writes dlogits: z - lse, exp,
/// times the rate for each logit, minus the rate for each target; the rate is dloss scale.
#[test]
fn cross_entropy_reads_the_rows_that_count() {
    let (rows, few) = (32, 1 + 1 + 32 + 32);
    let n = rows * VOCAB;
    check(&job("cross_entropy", "vocabulary", T), |e| {
        hand([4 * n + 4 * rows + 1, 3 * n + rows + 1], [n * e + few * 4, 2 * n * e + few * 4])
    });
    // 20 of the rows have the label that is ignored: neither their logits nor their lse is needed, but their
    // gradient is written.
    let mut job = job("cross_entropy", "vocabulary", T);
    job.inputs[1] = Input::ints(&[vec![tempra::ops::cross_entropy::IGNORE; 20], vec![7; 12]].concat());
    let some = 12 * VOCAB;
    check(&job, |e| {
        let backward = (some + n) * e + (1 + 1 + 12 + 32) * 4;
        hand([4 * some + 4 * 12 + 1, 3 * some + 12 + 1], [some * e + few * 4, backward])
    });
}

/// A weight for each row: forward each row's loss is multiplied by it, backward its rate; of the elementwise
/// losses each element is, in both passes. Both passes read the weights, in f32.
#[test]
fn row_weights_are_one_product_each() {
    let weighted = |op: &str, role: &str, rows: usize| {
        let mut job = job(op, role, T);
        job.inputs.push(Input::fixed(&[rows], &vec![0.5; rows]));
        job
    };
    let (rows, few) = (32, 1 + 1 + 32 + 32 + 32);
    let n = rows * VOCAB;
    check(&weighted("cross_entropy", "vocabulary", rows), |e| {
        hand([4 * n + 5 * rows + 1, 3 * n + 2 * rows + 1], [n * e + few * 4, 2 * n * e + few * 4])
    });
    check(&weighted("mse", "1 target", 2), |e| {
        hand([4 * 2 + 1, 3 * 2 + 2], [2 * e + (2 + 1 + 2 + 1) * 4, 2 * e + (2 + 1 + 2 + 1) * 4 + 2 * e])
    });
    let n = 2 * 8;
    check(&weighted("binary_cross_entropy", "8 labels", 2), |e| {
        hand([9 * n + 1, 6 * n + 1], [n * e + (n + 1 + 2 + 1) * 4, n * e + (n + 1 + 2 + 1) * 4 + n * e])
    });
}

/// Sequences of 5, 0 and 95 tokens in a batch of 256. Both columns of a sequence with tokens have a sum over
/// its tokens. Both targets of the first lie in it, one of the last does: the other has no gradient.
#[test]
fn span_cross_entropy_reads_the_columns_with_a_target() {
    let mut job = ragged("span_cross_entropy", "answers", &[5, 0, 95]);
    job.inputs[2] = Input { shape: vec![3, 2], ..Input::ints(&[0, 4, 0, 0, 94, 95]) };
    let (few, lse) = ((4 + 6 + 1) * 4, 6 * 4);
    check(&job, |e| {
        let (logits, pulled, columns, hits) = (2 * 100, 2 * 5 + 95, 4, 3);
        let flops = [4 * logits + 2 * columns + 2 * hits + 2, 3 * pulled + hits + 2];
        hand(flops, [logits * e + few + 4 + lse, pulled * e + few + hits * 4 + 4 + 2 * T * e])
    });
}

/// The short ops: x, y of 2 x 384 with a key; x + drop(y) of the block; p, t of two rows.
#[test]
fn elementwise_ops_read_what_their_gradients_need() {
    let n = 2 * H;
    check(&job("dropout", "head", T), |e| hand([n, n], [2 * n * e + KEY; 2]));
    // Backward reads dy and the key, not x or the residual, whose gradient is dy.
    let n = T * H;
    check(&job("residual", "block", T), |e| hand([2 * n, n], [3 * n * e + KEY, 3 * n * e + KEY]));
    // (p - t)^2 summed and scaled; p - t times 2 dloss scale.
    check(&job("mse", "1 target", T), |e| {
        hand([3 * 2 + 1, 2 * 2 + 2], [2 * e + 2 * 4 + 4 + 4, 2 * e + 2 * 4 + 4 + 4 + 2 * e])
    });
    // The square and its sum, the factor; for each row the root, the maximum, the reciprocal, the scale.
    // Backward x dy and its sum, then three operations; three for each row. It reads x, 1 / |x| (f32) and dy,
    // and not y.
    let (n, rows) = (2 * H, 2);
    check(&job("normalize", "vectors", T), |e| {
        hand([3 * n + 4 * rows, 5 * n + 3 * rows], [2 * n * e + rows * 4, 3 * n * e + rows * 4])
    });
    // y = m w; dw = m dy, dm = w dy. The gradients of parameters are f32.
    let n = F * H;
    check(&job("mask", "elements of up", T), |e| hand([n, n + n], [3 * n * e, 3 * n * e + 2 * n * 4]));
    let n = 2 * H;
    check(&job("dot", "pairs", T), |e| hand([2 * n, 2 * n], [(2 * n + 2) * e, (2 + 4 * n) * e]));
    // Two products and a sum for each element of queries and keys; an angle, a sine and a cosine for each of
    // 16 pairs of a head's columns.
    let turn = 3 * T * 2 * H + 3 * T * 16;
    check(&job("rotary", "qkv", T), |e| hand([turn, turn], [2 * T * 3 * H * e + T * 4; 2]));
    // y = gelu(a) b: z / 2 (1 + erf(z / sqrt 2)) has 5. gelu'(a) = Phi(a) + a phi(a) has 4, 4 and 2; da = dy
    // b gelu'(a) and db = dy gelu(a) have 3.
    let n = T * F;
    check(&job("glu", "feed-forward", T), |e| hand([6 * n, 18 * n], [3 * n * e, (2 * n + n + 2 * n) * e]));
    // max(0, z) - z t + log(1 + exp(-|z|)) summed; (1 / (1 + exp(-z)) - t) times the rate.
    let n = 2 * 8;
    check(&job("binary_cross_entropy", "8 labels", T), |e| {
        hand([8 * n + 1, 5 * n + 1], [n * e + n * 4 + 4 + 4, n * e + n * 4 + 4 + 4 + n * e])
    });
    // Maximum, z - max, exp, sum, ln p and p of both; d; p d, q d and (p - q) d with their sums; of each row
    // two logarithms and their maxima, the half, the weight, the sum; the scale. Each gradient: ln p, ln q,
    // p, q, d, d - KL, times p, + p, - q, the rate. All four statistics of a row are written, and read for
    // both gradients.
    let (n, rows) = (2 * 2, 2);
    check(&job("symmetric_kl", "2 classes", T), |e| {
        let read = 2 * n * e + rows * 4 + 4;
        let flops = [(2 * 6 + 1 + 4 + 3) * n + 7 * rows + 1, 2 * (10 * n + rows) + 2];
        hand(flops, [read + 4 + 4 * rows * 4, read + 4 * rows * 4 + 4 + 2 * n * e])
    });
    // z / T, the maximum, z - max, exp, the sum of both; ln p, ln q, d, p, q, p d, - p, + q and the sum; of
    // each row two logarithms and their maxima, the weight, the sum; T^2 times the scale, and the scale.
    // The gradient: z / T, ln p, p of both, q - p, the rate; the rate of each row; scale dloss T.
    check(&job("soft_cross_entropy", "2 classes", T), |e| {
        let read = n * e + n * 4 + rows * 4 + 4;
        let flops = [(2 * 5 + 9) * n + 6 * rows + 2, 8 * n + rows + 2];
        hand(flops, [read + 4 + 2 * rows * 4, read + 2 * rows * 4 + 4 + n * e])
    });
}

/// Hidden states of 256 tokens: both are read in the compute type, weights, scale and what is saved in f32.
#[test]
fn hidden_match_reads_both_states() {
    let (n, read) = (T * H, |e: usize| 2 * T * H * e + T * 4 + 4);
    // The difference, its square, the sum; 1 / d, the weight and the sum of a row; the scale. The gradient:
    // the difference, the rate; the weight of a row; scale dloss 2 / d.
    check(&job("hidden_match", "mean square", T), |e| {
        hand([3 * n + 3 * T + 1, 2 * n + T + 3], [read(e) + 4, read(e) + 4 + n * e])
    });
    // Two squares and sums, three operations for a difference, its square and sum; fifteen for a row. Three
    // numbers of a row are saved.
    check(&job("hidden_match", "cosine", T), |e| {
        hand([9 * n + 15 * T + 1, 6 * n + 2 * T + 1], [read(e) + 12 * T + 4, read(e) + 12 * T + 4 + n * e])
    });
}

/// Value, both moments and the gradient are read, and all but the gradient written, in f32; 16-bit training
/// also writes the copy that kernels read. Then control (norm, lr, unscale, two corrections), and a word of
/// `live` for each 16,384 elements. g clip; m (3), v (4), p (7): 15 for each element.
#[test]
fn adamw_writes_the_copy_of_the_weights_in_16_bit_training() {
    let few = (5 + N.div_ceil(16384)) * 4;
    check(&job("adamw", "all parameters", T), |e| {
        let copy = if e == 2 { 2 * N } else { 0 };
        hand([15 * N, 0], [28 * N + copy + few, 0])
    });
    check(&job("cast", "all parameters", T), |e| hand([0, 0], [(4 + e) * N, 0]));
    // e = exp(-|s|); g + r e / (1 + e)^2: 6 for each score, and r = lambda share. Score and gradient are
    // read, the gradient is written.
    let up = F * H;
    check(&job("score_penalty", "scores of up", T), |_| hand([6 * up + 1, 0], [12 * up + 4, 0]));
    // Each element is selected; the gradient is read and written, the mask read.
    check(&job("zero_masked", "gradient of up", T), |_| hand([up, 0], [12 * up, 0]));
    check(&job("global_norm", "all gradients", T), |_| hand([2 * N + 1, 0], [4 * N + 4, 0]));
    // total = loss; norm unscale; skips; five rates; the rest of control; a slot of the history.
    check(&job("step_guard", "one loss", T), |_| hand([1, 0], [4 * (2 + 2 + 1 + 5 + 4 + 2), 0]));
    // The shapes of the measured inputs are told: six in f32, seven with the copy.
    let job = job("adamw", "all parameters", T);
    assert_eq!([DType::F32, DType::BF16].map(|t| job.inputs_in(t).len()), [6, 7]);
    assert_eq!(job.inputs_in(DType::BF16)[6].1, Spec::new(DType::BF16, &[N]));
}

/// SGD without momentum reads value and gradient and writes the value; Lion's momentum is read and written,
/// too. Control has three numbers. g clip; p (3): 4. g clip; u (3), m (3), p (3): 10.
#[test]
fn sgd_has_no_state_and_lion_has_one() {
    let few = (3 + N.div_ceil(16384)) * 4;
    for (name, flops, bytes) in [("sgd", 4, 12), ("lion", 10, 20)] {
        check(&job(name, "all parameters", T), |e| {
            let copy = if e == 2 { 2 * N } else { 0 };
            hand([flops * N, 0], [bytes * N + copy + few, 0])
        });
    }
    let rule = UpdateRule::find("sgd").unwrap();
    let segment = Segment { len: 1000, decay: 0.1, lr_scale: 1.0, frozen: false };
    let words = Spec::new(DType::U32, &[1]);
    let call = Call {
        x: vec![floats(&[1000]), floats(&[1000]), floats(&[3]), words, floats(&[1000])],
        integers: vec![None; 5],
        ..Call::default()
    };
    // g clip; d (2), b (2), p (2), and Nesterov's (2).
    for (nesterov, flops) in [(false, 7), (true, 9)] {
        let op = Settings { rule, momentum: 0.9, nesterov, ..Settings::default() }.update([segment]);
        assert_eq!(op.cost(&call), hand([flops * 1000, 0], [20 * 1000 + (3 + 1) * 4, 0]));
    }
}

fn floats(shape: &[usize]) -> Spec {
    Spec::new(DType::F32, shape)
}

/// Five blocks of 512, of which the bitmap says that the second and the fourth are zero, the last one short.
/// AdamW: the first and the fourth have had a gradient before; the third gets its first one; the second never
/// had one and only decays; the last is frozen.
#[test]
fn blocks_that_are_known_to_be_zero_are_not_read() {
    let n = 4 * 512 + 100;
    let ints = |v: &[u32]| Some(v.to_vec());
    let zero_blocks = ints(&[0b01010]);
    let call = Call {
        x: vec![floats(&[n]), floats(&[1]), Spec::new(DType::U32, &[1])],
        integers: vec![None, None, zero_blocks.clone()],
        ..Call::default()
    };
    let read = n - 2 * 512;
    assert_eq!(GlobalNorm.cost(&call), hand([2 * n + 1, 0], [4 * read + 4 + 4, 0]));
    let segment = |len, frozen| Segment { len, decay: 0.1, lr_scale: 1.0, frozen };
    let segments = [segment(4 * 512, false), segment(100, true)];
    let op = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, max_norm: 1.0, segments: segments.into() };
    let mut x = vec![floats(&[n]), floats(&[n]), floats(&[5]), Spec::new(DType::U32, &[2])];
    x.extend([floats(&[n]), floats(&[n]), Spec::new(DType::BF16, &[n]), Spec::new(DType::U32, &[1])]);
    let mut integers = vec![None; 8];
    (integers[3], integers[7]) = (ints(&[0b1001, 0]), zero_blocks);
    let call = Call { x, integers, ..Call::default() };
    // First: all seven and the copy. Second: the value is read and written, and the copy. Third: value and
    // gradient read, three written. Fourth: all but the gradient. The first word of `live` changes and is
    // written.
    let each = 512 * (28 + 2) + 512 * (8 + 2) + 512 * (20 + 2) + 512 * (24 + 2);
    let few = (5 + 2 + 1 + 1) * 4;
    assert_eq!(Step::cost(&op, &call), hand([15 * 4 * 512, 0], [each + few, 0]));
}

/// A table of eight rows of 512 elements at the second block of an arena. Rows 1 and 6 may hold gradients of
/// the last step; the batch names rows 6, 3 and 3. Overwritten: row 1 is zeroed, rows 3 and 6 are written.
/// Added to: rows 3 and 6 are read and written.
#[test]
fn a_bitmap_saves_the_zeros_of_a_table() {
    let op = Embed { first_position: 0 };
    let mut call = Call {
        x: vec![Spec::new(DType::U32, &[3]), Spec::new(DType::BF16, &[8, 512])],
        y: vec![Spec::new(DType::BF16, &[3, 512])],
        integers: vec![Some(vec![6, 3, 3]), None],
        dx: vec![None, Some(Gradient::new(DType::F32))],
    };
    let (dy, ids) = (3 * 512 * 2, 3 * 4);
    let backward = |call: &Call| Op::cost(&op, call).backward_bytes as usize;
    assert_eq!(Op::cost(&op, &call).forward_bytes as usize, ids + (2 + 3) * 512 * 2);
    assert_eq!(backward(&call), dy + ids + 8 * 512 * 4);
    let bits = !(1 << 2 | 1 << 7);
    let gradient =
        |add| Some(Gradient { add, zero_blocks: Some((vec![bits], 512)), ..Gradient::new(DType::F32) });
    // Every word of the bitmap of the table, one here, is read and written.
    call.dx[1] = gradient(false);
    assert_eq!(backward(&call), dy + ids + 3 * 512 * 4 + 2 * 4);
    call.dx[1] = gradient(true);
    assert_eq!(backward(&call), dy + ids + 2 * 2 * 512 * 4 + 2 * 4);
    call.dx[1] = Some(Gradient { add: true, ..Gradient::new(DType::F32) });
    assert_eq!(backward(&call), dy + ids + 2 * 2 * 512 * 4);
}
