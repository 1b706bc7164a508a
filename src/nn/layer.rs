//! A layer of the encoder: attention, then a feed-forward block, each closed by a layer norm (post-norm, as in Vaswani
//! et al. 2017 and Devlin et al. 2019).

use super::encoder::EncoderConfig;
use super::performer::Performer;
use super::relative::RelativeParts;
use super::{Affine, Inputs, Norm};
use crate::error::Result;
use crate::ops::add_norm::AddNorm;
use crate::ops::attention::Attention;
use crate::ops::dropout::Rows;
use crate::ops::linear::{Activation, Linear};
use crate::params::{Bound, Group, Layout};
use crate::tape::{Tape, Var};

/// Which layer of the encoder runs: layers that share weights differ in what is here.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// Its number.
    pub layer: usize,
    /// Of the dropouts on attention, on its output, on the feed-forward block's output, and inside of that (relative positions).
    pub sites: [u32; 4],
    /// What approximates attention, if it is not exact.
    pub performer: Option<&'a Performer>,
    /// Of the distances, where positions are relative.
    pub sinusoids: Option<Var>,
}

/// A layer's parameters and how to run it.
pub(super) struct Layer {
    qkv: Group,
    out: Group,
    /// The biases of both, where positions are not relative.
    biases: Option<[Group; 2]>,
    relative: Option<RelativeParts>,
    norm: Norm,
    up: Affine,
    down: Affine,
    norm2: Norm,
}

impl Layer {
    /// Declares the parameters under `name`, such as `encoder.layer.0`.
    pub fn declare(layout: &mut Layout, name: &str, c: &EncoderConfig) -> Layer {
        let at = |part: &str| format!("{name}.{part}");
        let three =
            |end: &str| ["query", "key", "value"].map(|q| at(&format!("attention.self.{q}.{end}"))).to_vec();
        let (h, f) = (c.hidden, c.intermediate);
        let out_of = |end: &str| vec![at(&format!("attention.output.dense.{end}"))];
        // XLNet's matrices have a dimension for heads, and stand the other way round but for that of the output.
        let each = if c.relative.is_some() { vec![h, c.heads, h / c.heads] } else { vec![h, h] };
        let qkv = layout.join(three("weight"), &each, &[3 * h, h]);
        let biased = c.relative.is_none();
        let qkv_bias = biased.then(|| layout.join(three("bias"), &[h], &[3 * h]));
        let out = layout.join(out_of("weight"), &each, &[h, h]);
        let out_bias = biased.then(|| layout.join(out_of("bias"), &[h], &[h]));
        if !biased {
            layout.transpose(qkv);
        }
        Layer {
            qkv,
            out,
            biases: qkv_bias.zip(out_bias).map(|(a, b)| [a, b]),
            relative: c.relative.map(|_| RelativeParts::declare(layout, name, c)),
            norm: Norm::declare(layout, &at("attention.output.LayerNorm"), h),
            up: Affine::declare(layout, &at("intermediate.dense"), [f, h], c.act),
            down: Affine::declare(layout, &at("output.dense"), [h, f], Activation::None),
            norm2: Norm::declare(layout, &at("output.LayerNorm"), h),
        }
    }

    /// Hidden states to hidden states, (tokens, hidden); `x` is released.
    pub fn run(
        &self,
        tape: &mut Tape,
        p: &Bound,
        batch: &Inputs,
        c: &EncoderConfig,
        place: Place,
        x: Var,
    ) -> Result<Var> {
        let rate = |block: usize| if c.dropped[block] { c.hidden_dropout } else { 0.0 };
        let linear = |tape: &mut Tape, x, w, bias: usize| {
            let bias = self.biases.map(|b| p.var(b[bias]));
            let inputs: Vec<Var> = [x, p.var(w)].into_iter().chain(bias).collect();
            tape.apply(Linear { act: Activation::None }, &inputs)
        };
        let qkv = linear(tape, x, self.qkv, 0)?;
        let mixed = match self.relative.as_ref().zip(place.sinusoids) {
            Some((parts, sinusoids)) => {
                let mixed = parts.mix(tape, p, batch, c, (place.sites[0], sinusoids), qkv)?;
                tape.release(qkv);
                mixed
            }
            None => mix(tape, batch, c, place, qkv)?,
        };
        let out = linear(tape, mixed, self.out, 1)?;
        tape.release(mixed);
        let x = add_norm(tape, p, batch, (c.eps, rate(0), place.sites[1]), &self.norm, out, x)?;
        let mut up = self.up.run(tape, p, x)?;
        let inside =
            self.relative.as_ref().and(batch.dropout(c.hidden_dropout, place.sites[3], Rows::Tokens));
        if let Some((drop, key)) = inside {
            let dropped = tape.apply(drop, &[up, key])?;
            tape.release(up);
            up = dropped;
        }
        let down = self.down.run(tape, p, up)?;
        tape.release(up);
        add_norm(tape, p, batch, (c.eps, rate(1), place.sites[2]), &self.norm2, down, x)
    }
}

/// Attention over (tokens, 3 hidden) -> (tokens, hidden); `qkv` is released.
fn mix(tape: &mut Tape, batch: &Inputs, c: &EncoderConfig, place: Place, qkv: Var) -> Result<Var> {
    let scale = 1.0 / ((c.hidden / c.heads) as f32).sqrt();
    if let Some(performer) = place.performer {
        let mixed = performer.mix(tape, batch, place.layer, c.heads, scale, qkv)?;
        tape.release(qkv);
        return Ok(mixed);
    }
    let drop = batch.dropout(c.attention_dropout, place.sites[0], Rows::Tokens);
    let op = Attention { heads: c.heads, scale, dropout: drop.map(|d| d.0) };
    let mut inputs = vec![qkv, batch.cu_seqlens];
    inputs.extend(drop.map(|d| d.1));
    let mixed = tape.apply(op, &inputs)?;
    tape.release(qkv);
    Ok(mixed)
}

/// Layer norm of dropout(x) + residual; both are released.
fn add_norm(
    tape: &mut Tape,
    p: &Bound,
    batch: &Inputs,
    (eps, rate, site): (f32, f32, u32),
    norm: &Norm,
    x: Var,
    residual: Var,
) -> Result<Var> {
    let drop = batch.dropout(rate, site, Rows::Tokens);
    let op = AddNorm { eps, residual: true, before: drop.map(|d| d.0), after: None };
    let mut inputs = vec![x, p.var(norm.gamma), p.var(norm.beta), residual];
    inputs.extend(drop.map(|d| d.1));
    let y = tape.apply(op, &inputs)?;
    tape.release(x);
    tape.release(residual);
    Ok(y)
}
