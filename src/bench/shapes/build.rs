//! Builds a job of each op from its sizes, for [`super::models`] and [`super::custom`].

use super::{Job, Runs, SequenceLengths, WeightCopy};
use crate::ops::Activation;
use crate::ops::add_norm::AddNorm;
use crate::ops::attention::Attention;
use crate::ops::binary_cross_entropy::BinaryCrossEntropy;
use crate::ops::cast::Cast;
use crate::ops::cross_entropy::{CrossEntropy, IGNORE};
use crate::ops::dot::Dot;
use crate::ops::dropout::{Dropout, DropoutRows};
use crate::ops::embed::Embed;
use crate::ops::favor::{Favor, features};
use crate::ops::gather::Gather;
use crate::ops::global_norm::GlobalNorm;
use crate::ops::glu::Glu;
use crate::ops::hidden_match::{HiddenMatch, RowDistance};
use crate::ops::linear::Linear;
use crate::ops::mask::WeightMask;
use crate::ops::mse::Mse;
use crate::ops::normalize::Normalize;
use crate::ops::pool::Pool;
use crate::ops::relation::Relation;
use crate::ops::relative_attention::RelativeAttention;
use crate::ops::residual::Residual;
use crate::ops::rotary::Rotary;
use crate::ops::score_penalty::ScorePenalty;
use crate::ops::soft_cross_entropy::SoftCrossEntropy;
use crate::ops::span_cross_entropy::SpanCrossEntropy;
use crate::ops::step_guard::StepGuard;
use crate::ops::symmetric_kl::SymmetricKl;
use crate::ops::update::{Segment, Settings, UpdateRule};
use crate::ops::zero_masked::ZeroMasked;
use crate::ops::{Fill, Input, Op, Step};
use crate::rng::Rng;

/// The dropout of BERT's training.
pub const DROPOUT: f32 = 0.1;

/// The heads of an attention.
#[derive(Clone, Copy)]
pub struct Heads {
    pub heads: usize,
    pub head_dim: usize,
}

impl Heads {
    fn hidden(self) -> usize {
        self.heads * self.head_dim
    }
    /// 1 / sqrt(head_dim).
    fn scale(self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
    fn qkv(self, tokens: usize) -> Input {
        Input::real(&[tokens, 3 * self.hidden()])
    }
}

impl Job {
    fn op(op: &'static str, runs: impl Op + Sync, inputs: Vec<Input>, weights: &'static [usize]) -> Job {
        Job::new(op, Runs::Op(Box::new(runs)), inputs, weights)
    }
    fn step(op: &'static str, runs: impl Step + Sync, inputs: Vec<Input>) -> Job {
        Job::new(op, Runs::Step(Box::new(runs)), inputs, &[])
    }
    fn new(op: &'static str, runs: Runs, inputs: Vec<Input>, weights: &'static [usize]) -> Job {
        let (role, model) = (String::new(), String::new());
        Job { op, role, model, tokens: 0, lengths: None, runs, inputs, weights, copy: None, choices: None }
    }
    fn with_lengths(self, lengths: &SequenceLengths) -> Job {
        Job { lengths: Some(lengths.clone()), ..self }
    }
}

fn dropout_of(p: f32, rows: DropoutRows) -> Option<Dropout> {
    (p > 0.0).then_some(Dropout { p, dropout_id: 3, rows })
}

/// Random integers below a bound, the same for every run.
fn below(rng: &mut Rng, n: usize, bound: usize) -> Input {
    Input::ints(&(0..n).map(|_| rng.below(bound.max(1) as u32)).collect::<Vec<_>>())
}

fn random(rows: usize) -> Rng {
    Rng::new(2, "bench shapes", rows as u64)
}

/// The factor on a loss that is the mean over `rows`.
fn scale(rows: usize) -> Input {
    Input::fixed(&[1], &[1.0 / rows.max(1) as f64])
}

pub fn embed(s: &SequenceLengths, [columns, vocab, positions]: [usize; 3]) -> Job {
    let (tokens, mut rng) = (s.tokens(), random(s.tokens()));
    let mut inputs =
        vec![below(&mut rng, tokens, vocab), Input::ints(&s.positions()), below(&mut rng, tokens, 2)];
    inputs.extend([vocab, positions, 2].map(|rows| Input::real(&[rows, columns])));
    let op = Job::op("embed", Embed { first_position: 0 }, inputs, &[3, 4, 5]);
    Job { choices: Some(vocab), ..op.with_lengths(s) }
}

pub fn linear([m, n, k]: [usize; 3], act: Activation) -> Job {
    let inputs = vec![Input::real(&[m, k]), Input::real(&[n, k]), Input::real(&[n])];
    Job::op("linear", Linear { act }, inputs, &[1, 2])
}

/// With `residual`, a block's dropout before the sum; without, the embeddings' dropout after the norm.
pub fn add_norm([rows, columns]: [usize; 2], residual: bool, dropout: f32) -> Job {
    let dropout = dropout_of(dropout, DropoutRows::Tokens);
    let (before, after) = if residual { (dropout, None) } else { (None, dropout) };
    let mut inputs = vec![Input::real(&[rows, columns]), Input::real(&[columns]), Input::real(&[columns])];
    inputs.extend(residual.then(|| Input::real(&[rows, columns])));
    inputs.extend(dropout.map(|_| Input::key()));
    Job::op("add_norm", AddNorm { eps: 1e-12, residual, before, after }, inputs, &[1, 2])
}

pub fn attention(s: &SequenceLengths, h: Heads, window: Option<usize>, dropout: f32) -> Job {
    let dropout = dropout_of(dropout, DropoutRows::Tokens);
    let op = Attention { heads: h.heads, scale: h.scale(), dropout, window };
    let mut inputs = vec![h.qkv(s.tokens()), Input::ints(&s.cu_seqlens())];
    inputs.extend(dropout.map(|_| Input::key()));
    Job::op("attention", op, inputs, &[]).with_lengths(s)
}

pub fn favor(s: &SequenceLengths, h: Heads, number: usize) -> Job {
    let w: Vec<f64> = features(5, 0, 0, [number, h.head_dim]).into_iter().map(f64::from).collect();
    let inputs =
        vec![h.qkv(s.tokens()), Input::ints(&s.cu_seqlens()), Input::fixed(&[number, h.head_dim], &w)];
    Job::op("favor", Favor { heads: h.heads, scale: h.scale() }, inputs, &[]).with_lengths(s)
}

pub fn relative_attention(s: &SequenceLengths, h: Heads) -> Job {
    let op = RelativeAttention { heads: h.heads, scale: h.scale(), ordered: false, dropout: None };
    let inputs = vec![
        h.qkv(s.tokens()),
        Input::ints(&s.cu_seqlens()),
        Input::ints(&vec![0; s.tokens()]),
        Input::real(&[2 * s.longest() - 1, h.hidden()]),
        Input::real(&[5, h.hidden()]),
    ];
    Job::op("relative_attention", op, inputs, &[4]).with_lengths(s)
}

/// Relation heads of the student `h`, and of a teacher whose heads have `teacher_dim` columns.
pub fn relation(s: &SequenceLengths, h: Heads, teacher_dim: usize) -> Job {
    let (tokens, n) = (s.tokens(), s.sequences());
    let weights: Vec<f64> = s.all().iter().flat_map(|&len| vec![1.0 / (h.heads * len) as f64; len]).collect();
    let inputs = vec![
        Input::detached(&[tokens, 3 * h.heads * teacher_dim]),
        h.qkv(tokens),
        Input::ints(&s.cu_seqlens()),
        Input::fixed(&[tokens], &weights),
        scale(n),
    ];
    Job::op("relation", Relation { heads: h.heads }, inputs, &[]).with_lengths(s)
}

pub fn rotary(s: &SequenceLengths, h: Heads) -> Job {
    let op = Rotary { heads: h.heads, theta: 10_000.0 };
    Job::op("rotary", op, vec![h.qkv(s.tokens()), Input::ints(&s.positions())], &[]).with_lengths(s)
}

pub fn glu([rows, columns]: [usize; 2]) -> Job {
    Job::op("glu", Glu { act: Activation::GeluErf }, vec![Input::real(&[rows, 2 * columns])], &[])
}

pub fn residual([rows, columns]: [usize; 2], dropout: f32) -> Job {
    let dropout = dropout_of(dropout, DropoutRows::Tokens);
    let mut inputs = vec![Input::real(&[rows, columns]), Input::real(&[rows, columns])];
    inputs.extend(dropout.map(|_| Input::key()));
    Job::op("residual", Residual { dropout }, inputs, &[])
}

/// Gathers `number` rows at equal distances. `number` is at most `rows`.
pub fn gather([rows, columns]: [usize; 2], number: usize) -> Job {
    let index: Vec<u32> = (0..number).map(|i| (i * rows / number.max(1)) as u32).collect();
    Job::op("gather", Gather, vec![Input::real(&[rows, columns]), Input::ints(&index)], &[])
}

pub fn normalize(shape: [usize; 2]) -> Job {
    Job::op("normalize", Normalize { scale: 1.0 }, vec![Input::real(&shape)], &[])
}

pub fn dot(shape: [usize; 2]) -> Job {
    Job::op("dot", Dot, vec![Input::real(&shape), Input::real(&shape)], &[])
}

/// A weight with a mask for each element.
pub fn mask(shape: [usize; 2]) -> Job {
    Job::op("mask", WeightMask, vec![Input::real(&shape), Input::real(&shape)], &[0, 1])
}

pub fn dropout(shape: [usize; 2], p: f32, rows: DropoutRows) -> Job {
    Job::op("dropout", Dropout { p, dropout_id: 3, rows }, vec![Input::real(&shape), Input::key()], &[])
}

pub fn pool(s: &SequenceLengths, columns: usize, pool: Pool) -> Job {
    let inputs = vec![Input::real(&[s.tokens(), columns]), Input::ints(&s.cu_seqlens())];
    Job::op("pool", pool, inputs, &[]).with_lengths(s)
}

pub fn span_cross_entropy(s: &SequenceLengths) -> Job {
    let n = s.sequences();
    // The answer is the first token: every sequence has one.
    let target = Input { shape: vec![n, 2], ..Input::ints(&vec![0; 2 * n]) };
    let inputs = vec![Input::real(&[s.tokens(), 2]), Input::ints(&s.cu_seqlens()), target, scale(n)];
    Job::op("span_cross_entropy", SpanCrossEntropy, inputs, &[]).with_lengths(s)
}

pub fn cross_entropy([rows, classes]: [usize; 2]) -> Job {
    let op = CrossEntropy { label_smoothing: 0.0, ignore_index: IGNORE, weighted: false, gamma: 0.0 };
    let targets = below(&mut random(rows), rows, classes);
    Job::op("cross_entropy", op, vec![Input::real(&[rows, classes]), targets, scale(rows)], &[])
}

pub fn binary_cross_entropy([rows, classes]: [usize; 2]) -> Job {
    let targets: Vec<f64> = (0..rows * classes).map(|i| (i % 3 == 0) as u8 as f64).collect();
    let inputs = vec![Input::real(&[rows, classes]), Input::fixed(&[rows, classes], &targets), scale(rows)];
    Job::op("binary_cross_entropy", BinaryCrossEntropy::default(), inputs, &[])
}

pub fn symmetric_kl(shape: [usize; 2]) -> Job {
    let rows = shape[0];
    let inputs =
        vec![Input::real(&shape), Input::real(&shape), Input::fixed(&[rows], &vec![1.0; rows]), scale(rows)];
    Job::op("symmetric_kl", SymmetricKl, inputs, &[])
}

pub fn soft_cross_entropy([rows, classes]: [usize; 2]) -> Job {
    let teacher: Vec<f64> = (0..rows * classes).map(|i| (i % 7) as f64 - 3.0).collect();
    let inputs = vec![
        Input::real(&[rows, classes]),
        Input::fixed(&[rows, classes], &teacher),
        Input::fixed(&[rows], &vec![1.0; rows]),
        scale(rows),
    ];
    Job::op("soft_cross_entropy", SoftCrossEntropy { temperature: 2.0 }, inputs, &[])
}

pub fn hidden_match([rows, columns]: [usize; 2], distance: RowDistance) -> Job {
    let inputs = vec![
        Input::real(&[rows, columns]),
        Input::detached(&[rows, columns]),
        Input::fixed(&[rows], &vec![1.0; rows]),
        scale(rows),
    ];
    Job::op("hidden_match", HiddenMatch { distance }, inputs, &[])
}

pub fn mse([rows, columns]: [usize; 2]) -> Job {
    let n = rows * columns;
    let targets: Vec<f64> = (0..n).map(|i| i as f64 / n as f64).collect();
    let inputs = vec![Input::real(&[rows, columns]), Input::fixed(&[rows, columns], &targets), scale(rows)];
    Job::op("mse", Mse, inputs, &[])
}

/// An optimizer with its defaults, all of whose blocks have had gradients.
pub fn update(rule: &'static UpdateRule, count: usize) -> Job {
    let segments = [Segment { len: count, decay: 0.01, lr_scale: 1.0, frozen: false }];
    let op = Settings { rule, ..Settings::default() }.update(segments);
    // Factors are bias corrections; states are moments. Positive ones suit squares too.
    let control = [vec![2.5, 1e-5, 1.0], op.factors(2)].concat();
    let mut inputs = vec![Input::real(&[count]), Input::real(&[count])];
    inputs.push(Input::fixed(&[control.len()], &control));
    inputs.push(Input::ints(&vec![u32::MAX; op.live().len()]));
    inputs.extend(op.states().iter().map(|_| Input { shape: vec![count], fill: Fill::Real(0.01, 1.0) }));
    inputs.push(Input::real(&[count]));
    let copy = Some(WeightCopy { input: inputs.len() - 1, optional: true });
    Job { copy, ..Job::new(rule.name, Runs::Step(op), inputs, &[]) }
}

pub fn global_norm(count: usize) -> Job {
    Job::step("global_norm", GlobalNorm, vec![Input::real(&[count]), Input::real(&[1])])
}

pub fn step_guard() -> Job {
    let inputs = vec![
        Input::real(&[1]),
        Input::real(&[1]),
        Input::fixed(&[5], &[2.5, 0.0, 0.0, 0.0, 0.0]),
        Input::ints(&[0]),
        Input::fixed(&[5], &[0.5, 0.03125, 0.0, 0.25, 0.125]),
        Input::real(&[2]),
    ];
    Job::step("step_guard", StepGuard { first: true, last: true }, inputs)
}

pub fn score_penalty(count: usize) -> Job {
    let inputs = vec![Input::real(&[count]), Input::real(&[count]), Input::fixed(&[1], &[0.5])];
    Job::step("score_penalty", ScorePenalty { share: 1.0 / count as f32 }, inputs)
}

pub fn zero_masked(count: usize) -> Job {
    let half: Vec<f64> = (0..count).map(|i| (i % 2) as f64).collect();
    let inputs = vec![Input::real(&[1, count]), Input::fixed(&[1, count], &half)];
    Job::step("zero_masked", ZeroMasked, inputs)
}

pub fn cast(count: usize) -> Job {
    let copy = Some(WeightCopy { input: 1, optional: false });
    Job { copy, ..Job::step("cast", Cast, vec![Input::real(&[count]), Input::real(&[count])]) }
}
