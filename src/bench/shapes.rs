//! The shapes and options with which real models run every op of `OPS`.

use crate::ops::adamw::{AdamW, Segment};
use crate::ops::add_norm::AddNorm;
use crate::ops::attention::Attention;
use crate::ops::binary_cross_entropy::BinaryCrossEntropy;
use crate::ops::cross_entropy::CrossEntropy;
use crate::ops::dot::Dot;
use crate::ops::dropout::{Dropout, Rows};
use crate::ops::embed::Embed;
use crate::ops::favor::{Favor, features};
use crate::ops::gate::Gate;
use crate::ops::gated::Gated;
use crate::ops::gather::Gather;
use crate::ops::global_norm::GlobalNorm;
use crate::ops::linear::{Activation, Linear};
use crate::ops::mse::Mse;
use crate::ops::normalize::Normalize;
use crate::ops::pool::Pool;
use crate::ops::relative_attention::RelativeAttention;
use crate::ops::residual::Residual;
use crate::ops::rotary::Rotary;
use crate::ops::round::Round;
use crate::ops::span_cross_entropy::SpanCrossEntropy;
use crate::ops::{Fill, Input, Op, Step};
use crate::rng::Stream;
use std::sync::Arc;

/// The sizes of an encoder that determine the shapes of its ops.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelShape {
    /// What reports call it.
    pub name: String,
    /// Width.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward block.
    pub intermediate: usize,
    /// Rows of the token table.
    pub vocab: usize,
    /// Rows of the position table.
    pub positions: usize,
}

/// Models known by name: hidden, layers, heads, intermediate.
const MODELS: [(&str, [usize; 4]); 3] = [
    ("minilm-l6", [384, 6, 12, 1536]),
    ("bert-base", [768, 12, 12, 3072]),
    ("bert-large", [1024, 24, 16, 4096]),
];

impl ModelShape {
    /// MiniLM-L6, BERT-base and BERT-large.
    pub fn known() -> Vec<ModelShape> {
        let one = |(name, [hidden, layers, heads, intermediate]): (&str, [usize; 4])| ModelShape {
            name: name.to_owned(),
            hidden,
            layers,
            heads,
            intermediate,
            vocab: 30522,
            positions: 512,
        };
        MODELS.map(one).into()
    }
    /// Parameters of the encoder.
    pub fn parameters(&self) -> usize {
        let (h, f) = (self.hidden, self.intermediate);
        let tables = (self.vocab + self.positions + 2) * h + 2 * h;
        tables + self.layers * (4 * h * h + 4 * h + 2 * h * f + f + h + 4 * h)
    }
}

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
    /// Which of its uses.
    pub role: &'static str,
    /// The model whose shape it is.
    pub model: String,
    /// Tokens of the batch; 0 for what does not depend on it.
    pub tokens: usize,
    /// What runs.
    pub runs: Runs,
    /// Its inputs. [`Fill::Real`] has the compute type for ops, and f32 for steps; see [`Job::inputs_in`].
    pub inputs: Vec<Input>,
    /// Which inputs are weights: their gradients are kept in f32.
    pub weights: &'static [usize],
    /// The copy of the weights in the compute type, among the inputs of a step.
    pub copy: Option<WeightCopy>,
    /// The number of rows that the integers of the first input index, in tables that all sets of operands share. Each set indexes other
    /// rows.
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
}

/// The number of tokens of a sequence, unless the role names another.
pub const LENGTH: usize = 128;

fn bounds(tokens: usize, length: usize) -> Input {
    Input::ints(&(0..=tokens / length).map(|s| (s * length) as u32).collect::<Vec<_>>())
}

/// The uses of one op in a model for a batch with this number of tokens; empty for ops that are not listed here. Uses that do not depend
/// on the number of tokens have 0.
pub fn jobs(op: &str, m: &ModelShape, tokens: usize) -> Vec<Job> {
    let (h, t) = (m.hidden, tokens);
    let length = LENGTH.min(tokens);
    let sequences = (tokens / length).max(1);
    let tokens = sequences * length;
    let mut rng = Stream::new(2, "bench shapes", t as u64);
    let mut below = |n: usize, bound: usize| {
        Input::ints(&(0..n).map(|_| rng.below(bound.max(1) as u32)).collect::<Vec<_>>())
    };
    let drop = |rows| Dropout { p: 0.1, site: 3, rows };
    let count = m.parameters();
    let scale = || Input::fixed(&[1], &[1.0 / sequences as f64]);
    let job = |op, role, runs, inputs, weights| Job {
        op,
        role,
        model: m.name.clone(),
        tokens,
        runs,
        inputs,
        weights,
        copy: None,
        choices: None,
    };
    let once = |op, role, step: Box<dyn Step + Sync>, inputs| Job {
        tokens: 0,
        ..job(op, role, Runs::Step(step), inputs, &[])
    };
    let linear = |role, act, k: usize, n: usize| {
        let inputs = vec![Input::real(&[tokens, k]), Input::real(&[n, k]), Input::real(&[n])];
        job("linear", role, Runs::Op(Box::new(Linear { act })), inputs, &[1, 2])
    };
    let norm = |role, residual: bool| {
        let dropout = Some(drop(Rows::Tokens));
        let (before, after) = if residual { (dropout, None) } else { (None, dropout) };
        let mut inputs = vec![Input::real(&[tokens, h]), Input::real(&[h]), Input::real(&[h])];
        inputs.extend(residual.then(|| Input::real(&[tokens, h])));
        inputs.push(Input::key());
        job(
            "add_norm",
            role,
            Runs::Op(Box::new(AddNorm { eps: 1e-12, residual, before, after })),
            inputs,
            &[1, 2],
        )
    };
    let attention = |role, length: usize, window| {
        let scale = 1.0 / ((h / m.heads) as f32).sqrt();
        let op = Attention { heads: m.heads, scale, dropout: Some(drop(Rows::Tokens)), window };
        let inputs = vec![Input::real(&[tokens, 3 * h]), bounds(tokens, length), Input::key()];
        job("attention", role, Runs::Op(Box::new(op)), inputs, &[])
    };
    match op {
        "embed" => {
            let tables = [m.vocab, m.positions, 2].map(|rows| Input::real(&[rows, h]));
            let positions = Input::ints(&(0..tokens).map(|i| (i % length) as u32).collect::<Vec<_>>());
            let mut inputs = vec![below(tokens, m.vocab), positions, below(tokens, 2)];
            inputs.extend(tables);
            let job =
                job("embed", "tables", Runs::Op(Box::new(Embed { first_position: 0 })), inputs, &[3, 4, 5]);
            vec![Job { choices: Some(m.vocab), ..job }]
        }
        "linear" => vec![
            linear("qkv", Activation::None, h, 3 * h),
            linear("attention output", Activation::None, h, h),
            linear("up, gelu", Activation::GeluErf, h, m.intermediate),
            linear("down", Activation::None, m.intermediate, h),
        ],
        "add_norm" => vec![norm("block", true), norm("embeddings", false)],
        "attention" => {
            let longer = [
                ("length 64", 64, None),
                ("length 256", 256, None),
                ("length 512", 512, None),
                // As the local layers of ModernBERT see.
                ("length 512, window 64", 512, Some(64)),
            ];
            let longer = longer.into_iter().filter(|l| tokens.is_multiple_of(l.1));
            let first = attention("length 128", length, None);
            std::iter::once(first).chain(longer.map(|(role, n, window)| attention(role, n, window))).collect()
        }
        "favor" => {
            let d = h / m.heads;
            let n = (d as f64 * (d as f64).ln()) as usize;
            let w: Vec<f64> = features(5, 0, 0, [n, d]).into_iter().map(f64::from).collect();
            let inputs =
                vec![Input::real(&[tokens, 3 * h]), bounds(tokens, length), Input::fixed(&[n, d], &w)];
            let op = Favor { heads: m.heads, scale: 1.0 / (d as f32).sqrt() };
            vec![job("favor", "length 128", Runs::Op(Box::new(op)), inputs, &[])]
        }
        "relative_attention" => {
            let op = RelativeAttention {
                heads: m.heads,
                scale: 1.0 / ((h / m.heads) as f32).sqrt(),
                ordered: false,
                dropout: None,
            };
            let inputs = vec![
                Input::real(&[tokens, 3 * h]),
                bounds(tokens, length),
                Input::ints(&vec![0; tokens]),
                Input::real(&[2 * length - 1, h]),
                Input::real(&[5, h]),
            ];
            vec![job("relative_attention", "length 128", Runs::Op(Box::new(op)), inputs, &[4])]
        }
        "rotary" => {
            let positions = Input::ints(&(0..tokens).map(|i| (i % length) as u32).collect::<Vec<_>>());
            let op = Rotary { heads: m.heads, theta: 10_000.0 };
            vec![job(
                "rotary",
                "qkv",
                Runs::Op(Box::new(op)),
                vec![Input::real(&[tokens, 3 * h]), positions],
                &[],
            )]
        }
        "gated" => {
            let op = Gated { act: Activation::GeluErf };
            let inputs = vec![Input::real(&[tokens, 2 * m.intermediate])];
            vec![job("gated", "feed-forward", Runs::Op(Box::new(op)), inputs, &[])]
        }
        "residual" => {
            let inputs = vec![Input::real(&[tokens, h]), Input::real(&[tokens, h]), Input::key()];
            let op = Residual { dropout: Some(drop(Rows::Tokens)) };
            vec![job("residual", "block", Runs::Op(Box::new(op)), inputs, &[])]
        }
        "gather" => {
            // One token of eight, about as many as a masked language model hides.
            let index: Vec<u32> = (0..(tokens / 8).max(1) as u32).map(|i| i * 8).collect();
            let inputs = vec![Input::real(&[tokens, h]), Input::ints(&index)];
            vec![job("gather", "hidden tokens", Runs::Op(Box::new(Gather)), inputs, &[])]
        }
        "normalize" => {
            let inputs = vec![Input::real(&[sequences, h])];
            vec![job("normalize", "vectors", Runs::Op(Box::new(Normalize { scale: 1.0 })), inputs, &[])]
        }
        "dot" => {
            let inputs = vec![Input::real(&[sequences, h]), Input::real(&[sequences, h])];
            vec![job("dot", "pairs", Runs::Op(Box::new(Dot)), inputs, &[])]
        }
        "span_cross_entropy" => {
            let target = Input { shape: vec![sequences, 2], ..Input::ints(&vec![1; 2 * sequences]) };
            let inputs = vec![Input::real(&[tokens, 2]), bounds(tokens, length), target, scale()];
            vec![job("span_cross_entropy", "answers", Runs::Op(Box::new(SpanCrossEntropy)), inputs, &[])]
        }
        "dropout" => {
            let inputs = vec![Input::real(&[sequences, h]), Input::key()];
            vec![job("dropout", "head", Runs::Op(Box::new(drop(Rows::Sequences))), inputs, &[])]
        }
        "pool" => [("mean", Pool::Mean), ("first token", Pool::First)]
            .map(|(role, op)| {
                let inputs = vec![Input::real(&[tokens, h]), bounds(tokens, length)];
                job("pool", role, Runs::Op(Box::new(op)), inputs, &[])
            })
            .into(),
        "cross_entropy" => [("2 classes", sequences, 2), ("vocabulary", (tokens / 8).max(1), m.vocab)]
            .map(|(role, rows, classes)| {
                let op = CrossEntropy {
                    label_smoothing: 0.0,
                    ignore_index: crate::ops::cross_entropy::IGNORE,
                    weighted: false,
                    gamma: 0.0,
                };
                let inputs = vec![Input::real(&[rows, classes]), below(rows, classes), scale()];
                job("cross_entropy", role, Runs::Op(Box::new(op)), inputs, &[])
            })
            .into(),
        "binary_cross_entropy" => {
            let targets: Vec<f64> = (0..8 * sequences).map(|i| (i % 3 == 0) as u8 as f64).collect();
            let inputs = vec![Input::real(&[sequences, 8]), Input::fixed(&[sequences, 8], &targets), scale()];
            vec![job(
                "binary_cross_entropy",
                "8 labels",
                Runs::Op(Box::new(BinaryCrossEntropy::default())),
                inputs,
                &[],
            )]
        }
        "mse" => {
            let targets: Vec<f64> = (0..sequences).map(|i| i as f64 / sequences as f64).collect();
            let inputs = vec![Input::real(&[sequences, 1]), Input::fixed(&[sequences, 1], &targets), scale()];
            vec![job("mse", "1 target", Runs::Op(Box::new(Mse)), inputs, &[])]
        }
        "adamw" => {
            let segments: Arc<[Segment]> =
                [Segment { len: count, decay: 0.01, lr_scale: 1.0, frozen: false }].into();
            let live = vec![u32::MAX; AdamW::live_words(&segments)];
            let op = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, max_norm: 1.0, segments };
            let mut inputs: Vec<Input> = (0..3).map(|_| Input::real(&[count])).collect();
            inputs.push(Input { shape: vec![count], fill: Fill::Real(0.01, 1.0) });
            inputs.push(Input::fixed(&[4], &[1e-5, 0.19, 0.002, 1.0]));
            inputs.push(Input::fixed(&[1], &[2.5]));
            inputs.push(Input::ints(&live));
            inputs.push(Input::real(&[count]));
            let copy = Some(WeightCopy { input: inputs.len() - 1, optional: true });
            vec![Job { copy, ..once("adamw", "all parameters", Box::new(op), inputs) }]
        }
        "global_norm" => {
            let inputs = vec![Input::real(&[count]), Input::real(&[1])];
            vec![once("global_norm", "all gradients", Box::new(GlobalNorm), inputs)]
        }
        "gate" => {
            let rates = [0.5, 0.03125, 0.0, 0.25, 0.125];
            let inputs = vec![
                Input::real(&[1]),
                Input::real(&[1]),
                Input::fixed(&[1], &[2.5]),
                Input::ints(&[0]),
                Input::fixed(&[5], &rates),
                Input::real(&[4]),
                Input::real(&[2]),
            ];
            vec![once("gate", "one loss", Box::new(Gate { first: true, last: true }), inputs)]
        }
        "round" => {
            let inputs = vec![Input::real(&[count]), Input::real(&[count])];
            let copy = Some(WeightCopy { input: 1, optional: false });
            vec![Job { copy, ..once("round", "all parameters", Box::new(Round), inputs) }]
        }
        _ => Vec::new(),
    }
}
