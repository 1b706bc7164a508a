//! The encoder: embeddings, then layers of attention and a feed-forward block, each closed by a layer norm.
//!
//! Post-norm, as in Vaswani et al. 2017 and Devlin et al. 2019. Names are those of Hugging Face's BERT.

use super::{Affine, Inputs, Sites};
use crate::error::Result;
use crate::ops::add_norm::AddNorm;
use crate::ops::attention::Attention;
use crate::ops::dropout::Rows;
use crate::ops::embed::Embed;
use crate::ops::linear::{Activation, Linear};
use crate::params::{Bound, Group, Layout};
use crate::tape::{Tape, Var};

/// The shape and the settings of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Rows of the token table.
    pub vocab: usize,
    /// Rows of the position table: the longest sequence.
    pub positions: usize,
    /// Rows of the token-type table.
    pub types: usize,
    /// Width.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads; divides the width.
    pub heads: usize,
    /// Width of the feed-forward block.
    pub intermediate: usize,
    /// Its activation.
    pub act: Activation,
    /// Layer norm's epsilon.
    pub eps: f32,
    /// Dropout on embeddings and on the output of each block.
    pub hidden_dropout: f32,
    /// Dropout on attention probabilities.
    pub attention_dropout: f32,
}

/// Gamma and beta of a layer norm, and the dropouts fused with it.
struct Norm {
    gamma: Group,
    beta: Group,
    site: u32,
}

impl Norm {
    fn declare(layout: &mut Layout, sites: &mut Sites, name: &str, cols: usize) -> Norm {
        let gamma = layout.add(format!("{name}.weight"), &[cols]);
        Norm { gamma, beta: layout.add(format!("{name}.bias"), &[cols]), site: sites.next() }
    }
}

struct Layer {
    qkv: Group,
    qkv_bias: Group,
    attention_site: u32,
    out: Affine,
    norm: Norm,
    up: Affine,
    down: Affine,
    norm2: Norm,
}

/// An encoder's parameters and how to run it.
pub struct Encoder {
    config: EncoderConfig,
    word: Group,
    position: Group,
    kind: Group,
    norm: Norm,
    layers: Vec<Layer>,
}

impl Encoder {
    /// Declares the parameters under `prefix`, such as `bert.`.
    pub fn declare(layout: &mut Layout, sites: &mut Sites, prefix: &str, config: &EncoderConfig) -> Encoder {
        let c = config;
        let mut table =
            |name: &str, rows| layout.add(format!("{prefix}embeddings.{name}.weight"), &[rows, c.hidden]);
        let word = table("word_embeddings", c.vocab);
        let position = table("position_embeddings", c.positions);
        let kind = table("token_type_embeddings", c.types);
        let norm = Norm::declare(layout, sites, &format!("{prefix}embeddings.LayerNorm"), c.hidden);
        let layer = |i: usize| {
            let at = |name: &str| format!("{prefix}encoder.layer.{i}.{name}");
            let three = |end: &str| {
                ["query", "key", "value"].map(|q| at(&format!("attention.self.{q}.{end}"))).to_vec()
            };
            let (h, f) = (c.hidden, c.intermediate);
            Layer {
                qkv: layout.join(three("weight"), &[h, h], &[3 * h, h]),
                qkv_bias: layout.join(three("bias"), &[h], &[3 * h]),
                attention_site: sites.next(),
                out: Affine::declare(layout, &at("attention.output.dense"), [h, h], Activation::None),
                norm: Norm::declare(layout, sites, &at("attention.output.LayerNorm"), h),
                up: Affine::declare(layout, &at("intermediate.dense"), [f, h], c.act),
                down: Affine::declare(layout, &at("output.dense"), [h, f], Activation::None),
                norm2: Norm::declare(layout, sites, &at("output.LayerNorm"), h),
            }
        };
        let layers = (0..c.layers).map(layer).collect();
        Encoder { config: c.clone(), word, position, kind, norm, layers }
    }

    /// The hidden states of the last layer, (tokens, hidden).
    pub fn run(&self, tape: &mut Tape, p: &Bound, batch: &Inputs) -> Result<Var> {
        let c = &self.config;
        let tables = [p.var(self.word), p.var(self.position), p.var(self.kind)];
        let sum =
            tape.apply(Embed, &[batch.ids, batch.positions, batch.types, tables[0], tables[1], tables[2]])?;
        let after = batch.dropout(c.hidden_dropout, self.norm.site, Rows::Tokens);
        let op = AddNorm { eps: c.eps, residual: false, before: None, after: after.map(|d| d.0) };
        let mut x = vec![sum, p.var(self.norm.gamma), p.var(self.norm.beta)];
        x.extend(after.map(|d| d.1));
        let mut hidden = tape.apply(op, &x)?;
        tape.release(sum);
        for layer in &self.layers {
            hidden = self.layer(tape, p, batch, layer, hidden)?;
        }
        Ok(hidden)
    }

    fn layer(&self, tape: &mut Tape, p: &Bound, batch: &Inputs, l: &Layer, x: Var) -> Result<Var> {
        let c = &self.config;
        let qkv = tape.apply(Linear { act: Activation::None }, &[x, p.var(l.qkv), p.var(l.qkv_bias)])?;
        let drop = batch.dropout(c.attention_dropout, l.attention_site, Rows::Tokens);
        let scale = 1.0 / ((c.hidden / c.heads) as f32).sqrt();
        let op = Attention { heads: c.heads, scale, dropout: drop.map(|d| d.0) };
        let mut inputs = vec![qkv, batch.cu_seqlens];
        inputs.extend(drop.map(|d| d.1));
        let mixed = tape.apply(op, &inputs)?;
        tape.release(qkv);
        let out = l.out.run(tape, p, mixed)?;
        tape.release(mixed);
        let x = self.add_norm(tape, p, batch, &l.norm, out, x)?;
        let up = l.up.run(tape, p, x)?;
        let down = l.down.run(tape, p, up)?;
        tape.release(up);
        self.add_norm(tape, p, batch, &l.norm2, down, x)
    }

    /// Layer norm of dropout(x) + residual; both are released.
    fn add_norm(
        &self,
        tape: &mut Tape,
        p: &Bound,
        batch: &Inputs,
        norm: &Norm,
        x: Var,
        residual: Var,
    ) -> Result<Var> {
        let drop = batch.dropout(self.config.hidden_dropout, norm.site, Rows::Tokens);
        let op = AddNorm { eps: self.config.eps, residual: true, before: drop.map(|d| d.0), after: None };
        let mut inputs = vec![x, p.var(norm.gamma), p.var(norm.beta), residual];
        inputs.extend(drop.map(|d| d.1));
        let y = tape.apply(op, &inputs)?;
        tape.release(x);
        tape.release(residual);
        Ok(y)
    }
}
