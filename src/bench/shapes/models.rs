//! The shapes of real models, and the jobs of every op of `OPS` at them.

use super::build::{self, DROPOUT, Heads};
use super::{Job, LENGTH, SequenceLengths};
use crate::ops::Activation;
use crate::ops::dropout::DropoutRows;
use crate::ops::favor::default_features;
use crate::ops::hidden_match::RowDistance;
use crate::ops::pool::Pool;
use crate::ops::update::UpdateRule;

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

/// The uses of one op in a model for a batch with this number of tokens, in sequences of [`LENGTH`] tokens,
/// the last one shorter if necessary, and of attention also in sequences of other lengths. Empty for ops that
/// are not listed here. Uses that do not depend on the number of tokens have 0.
pub fn jobs(op: &str, m: &ModelShape, tokens: usize) -> Vec<Job> {
    let length = LENGTH.min(tokens);
    let usual = SequenceLengths::cut(tokens, length);
    let mut all = jobs_of(op, m, &usual);
    if op == "attention" {
        // The last as the local layers of ModernBERT see.
        for (longer, window) in [(64, None), (256, None), (512, None), (512, Some(64))] {
            let same = longer == length && window.is_none();
            if tokens.is_multiple_of(longer) && !same {
                all.push(attention(m, &SequenceLengths::equal(tokens / longer, longer), window));
            }
        }
    }
    all
}

fn heads(m: &ModelShape) -> Heads {
    Heads { heads: m.heads, head_dim: m.hidden / m.heads.max(1) }
}

/// MiniLM-v2 has four relation heads for each attention head of BERT-base (48) and BERT-large (64).
fn relation_heads(m: &ModelShape) -> Heads {
    let heads = if m.hidden.is_multiple_of(4 * m.heads.max(1)) { 4 * m.heads } else { m.heads };
    Heads { heads, head_dim: m.hidden / heads.max(1) }
}

fn attention(m: &ModelShape, s: &SequenceLengths, window: Option<usize>) -> Job {
    let window_part = window.map_or(String::new(), |w| format!(", window {w}"));
    let job = build::attention(s, heads(m), window, DROPOUT);
    Job { role: format!("{}{window_part}", s.label()), model: m.name.clone(), tokens: s.tokens(), ..job }
}

/// The uses of one op in a model for a batch of sequences with these lengths; see [`jobs`]. The roles tell
/// batches with the same number of tokens apart if their shapes or `cu_seqlens` differ.
pub fn jobs_of(op: &str, m: &ModelShape, s: &SequenceLengths) -> Vec<Job> {
    let (h, t, n) = (m.hidden, s.tokens(), s.sequences());
    let usual = *s == SequenceLengths::cut(t, LENGTH);
    let job = |role: &str, job: Job| Job { role: role.to_owned(), model: m.name.clone(), tokens: t, ..job };
    let once = |role: &str, step: Job| Job { tokens: 0, ..job(role, step) };
    // Of ops that read cu_seqlens, and of ops with a row for each sequence.
    let ragged = |role: &str, of: Job| match usual {
        true => job(role, of),
        false => job(&format!("{role}, {}", s.label()), of),
    };
    let each = |role: &str, of: Job| match usual {
        true => job(role, of),
        false => job(&format!("{role}, {n} sequences"), of),
    };
    let count = m.parameters();
    // One token of eight, about as many as a masked language model hides.
    let hidden = (t / 8).max(1);
    let linear = |role: &str, n, k, act| job(role, build::linear([t, n, k], act));
    match op {
        "embed" => vec![ragged("tables", build::embed(s, [h, m.vocab, m.positions]))],
        "linear" => vec![
            linear("qkv", 3 * h, h, Activation::None),
            linear("attention output", h, h, Activation::None),
            linear("up, gelu", m.intermediate, h, Activation::GeluErf),
            linear("down", h, m.intermediate, Activation::None),
        ],
        "add_norm" => vec![
            job("block", build::add_norm([t, h], true, DROPOUT)),
            job("embeddings", build::add_norm([t, h], false, DROPOUT)),
        ],
        "attention" => vec![attention(m, s, None)],
        "favor" => {
            vec![job(&s.label(), build::favor(s, heads(m), default_features(heads(m).head_dim)))]
        }
        "relative_attention" => vec![job(&s.label(), build::relative_attention(s, heads(m)))],
        "relation" => {
            vec![job(&s.label(), build::relation(s, relation_heads(m), 2 * relation_heads(m).head_dim))]
        }
        "hidden_match" => vec![
            job("mean square", build::hidden_match([t, h], RowDistance::Mse)),
            job("cosine", build::hidden_match([t, h], RowDistance::Cosine)),
        ],
        "rotary" => vec![ragged("qkv", build::rotary(s, heads(m)))],
        "glu" => vec![job("feed-forward", build::glu([t, m.intermediate]))],
        "residual" => vec![job("block", build::residual([t, h], DROPOUT))],
        "gather" => vec![job("hidden tokens", build::gather([t, h], hidden))],
        "normalize" => vec![each("vectors", build::normalize([n, h]))],
        "dot" => vec![each("pairs", build::dot([n, h]))],
        "mask" => vec![once("elements of up", build::mask([m.intermediate, h]))],
        "span_cross_entropy" => vec![ragged("answers", build::span_cross_entropy(s))],
        "dropout" => vec![each("head", build::dropout([n, h], DROPOUT, DropoutRows::Sequences))],
        "pool" => vec![
            ragged("mean", build::pool(s, h, Pool::Mean)),
            ragged("first token", build::pool(s, h, Pool::First)),
        ],
        "cross_entropy" => vec![
            each("2 classes", build::cross_entropy([n, 2])),
            job("vocabulary", build::cross_entropy([hidden, m.vocab])),
        ],
        "binary_cross_entropy" => vec![each("8 labels", build::binary_cross_entropy([n, 8]))],
        "symmetric_kl" => vec![each("2 classes", build::symmetric_kl([n, 2]))],
        "soft_cross_entropy" => vec![each("2 classes", build::soft_cross_entropy([n, 2]))],
        "mse" => vec![each("1 target", build::mse([n, 1]))],
        "global_norm" => vec![once("all gradients", build::global_norm(count))],
        "step_guard" => vec![once("one loss", build::step_guard())],
        "cast" => vec![once("all parameters", build::cast(count))],
        "score_penalty" => vec![once("scores of up", build::score_penalty(m.intermediate * h))],
        "zero_masked" => vec![once("gradient of up", build::zero_masked(m.intermediate * h))],
        name => match UpdateRule::find(name) {
            Some(rule) => vec![once("all parameters", build::update(rule, count))],
            None => Vec::new(),
        },
    }
}
