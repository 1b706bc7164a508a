//! A layer of the encoder: attention, then a feed-forward block, with their layer norms behind them (Vaswani
//! et al. 2017, Devlin et al. 2019) or before them.

use super::encoder::{EncoderConfig, LayerShape, Order, Positions};
use super::performer::Performer;
use super::relative::RelativeParts;
use super::{Affine, Inputs, Norm, Taps};
use crate::device::Tensor;
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::ops::add_norm::AddNorm;
use crate::ops::attention::Attention;
use crate::ops::dropout::DropoutRows;
use crate::ops::glu::Glu;
use crate::ops::linear::Linear;
use crate::ops::residual::Residual;
use crate::ops::rotary::Rotary;
use crate::params::{Bound, Group, Layout, MaskUnit};
use crate::tape::{Tape, Var};

/// Which layer of the encoder runs: layers that share weights differ in what is here.
#[derive(Clone, Copy)]
pub(super) struct LayerContext<'a> {
    /// The encoder's settings.
    pub config: &'a EncoderConfig,
    /// Its number.
    pub layer: usize,
    /// Of the dropouts on attention, on its output, on the feed-forward block's output, and inside of that.
    pub dropout_ids: [u32; 4],
    /// What approximates attention, if it is not exact.
    pub performer: Option<&'a Performer>,
    /// Of the distances, where positions are relative.
    pub sinusoids: Option<&'a Var>,
    /// Zeros (hidden, 1), where a layer has no heads or no feed-forward rows.
    pub zeros: Option<&'a Tensor>,
}

/// The linear map at the end of a block, back to (tokens, hidden).
enum BlockOutput {
    /// Of what the block computes.
    Map(Affine),
    /// Of a block without width, whose heads or rows were all removed: only the bias is left, (hidden).
    Bias(Group),
}

impl BlockOutput {
    /// Declares `{name}.weight` of shape `stored`, used as (hidden, width), and `{name}.bias` if `bias`; for
    /// a width of 0 the bias alone.
    fn declare(
        layout: &mut Layout,
        name: &str,
        stored: Vec<usize>,
        [hidden, width]: [usize; 2],
        bias: bool,
    ) -> BlockOutput {
        if width == 0 {
            return BlockOutput::Bias(layout.add(format!("{name}.bias"), &[hidden]));
        }
        let w = layout.join_of(vec![(format!("{name}.weight"), stored)], &[hidden, width]);
        layout.prunable(w);
        let b = bias.then(|| layout.add(format!("{name}.bias"), &[hidden]));
        BlockOutput::Map(Affine { w, b, act: Activation::None })
    }
    /// `inside`: what the block computes. `x`: any value with a row for each token.
    fn run(
        &self,
        tape: &mut Tape,
        p: &Bound,
        context: LayerContext,
        inside: Option<Var>,
        x: &Var,
    ) -> Result<Var> {
        match (self, inside) {
            (BlockOutput::Map(map), Some(inside)) => map.run(tape, p, inside),
            (BlockOutput::Bias(bias), _) => {
                let zeros = context.zeros.ok_or_else(|| Error::shape("the encoder is not prepared"))?;
                // 0 times one number of each token, plus the bias: the op that every backend has, with one
                // column, in place of an op for this rare case. The number gets no gradient.
                let (rows, _) = x.value().spec.rows_cols();
                let column = tape.constant(x.value().view(0, &[rows, 1])?);
                let weight = tape.constant(zeros.clone());
                tape.apply(Linear { act: Activation::None }, [column, weight, p.var(*bias)])
            }
            (BlockOutput::Map(_), None) => Err(Error::shape("a block with a width computed nothing")),
        }
    }
}

/// A layer's parameters and how to run it.
pub(super) struct Layer {
    shape: LayerShape,
    /// Before attention (pre-norm).
    before: Option<Norm>,
    /// (tokens, hidden) -> (tokens, 3 heads head_dim); `None` without heads.
    qkv: Option<Affine>,
    relative: Option<RelativeParts>,
    out: BlockOutput,
    /// Behind attention (post-norm).
    norm: Option<Norm>,
    /// `None` for a feed-forward block without rows.
    up: Option<Affine>,
    down: BlockOutput,
    /// Behind the feed-forward block, or before it (pre-norm).
    norm2: Norm,
}

impl Layer {
    /// Declares the parameters of layer `i` under `encoder.layer.{i}`.
    pub fn declare(layout: &mut Layout, i: usize, c: &EncoderConfig) -> Layer {
        let at = |part: &str| format!("encoder.layer.{i}.{part}");
        let three =
            |end: &str| ["query", "key", "value"].map(|q| at(&format!("attention.self.{q}.{end}"))).to_vec();
        let shape = c.layers[i];
        let (h, inner, f) = (c.hidden, shape.attention(), shape.intermediate);
        let (b, none) = (c.biases, Activation::None);
        let pre = c.order == Order::Pre;
        let (wide, act) = if c.gated_mlp { (2 * f, none) } else { (f, c.act) };
        // The embeddings' norm stands right before the first layer.
        let before = (pre && i > 0).then(|| Norm::declare(layout, &at("attention.LayerNorm"), h, b.norm));
        let mut qkv = |end: &str, each: &[usize], joined: &[usize]| match c.fused {
            true => layout.add(at(&format!("attention.self.qkv.{end}")), joined),
            false => layout.join(three(end), each, joined),
        };
        let by_head = [h, shape.heads, shape.head_dim];
        let (each, back) = match c.by_head {
            true => (by_head.to_vec(), by_head.to_vec()),
            false => (vec![inner, h], vec![h, inner]),
        };
        let qkv = (inner > 0).then(|| Affine {
            w: qkv("weight", &each, &[3 * inner, h]),
            b: b.attention.then(|| qkv("bias", &[inner], &[3 * inner])),
            act: none,
        });
        if let Some(qkv) = &qkv {
            if c.by_head {
                layout.transpose(qkv.w);
            }
            layout.prunable(qkv.w);
        }
        let relative =
            c.relative().then(|| RelativeParts::declare(layout, &format!("encoder.layer.{i}"), h, shape));
        let out = BlockOutput::declare(layout, &at("attention.output.dense"), back, [h, inner], b.attention);
        let norm = (!pre).then(|| Norm::declare(layout, &at("attention.output.LayerNorm"), h, b.norm));
        let up = (f > 0)
            .then(|| Affine::declare_with(layout, &at("intermediate.dense"), [wide, h], act, b.feed_forward));
        up.iter().for_each(|up| layout.prunable(up.w));
        let down = BlockOutput::declare(layout, &at("output.dense"), vec![h, f], [h, f], b.feed_forward);
        let norm2 = Norm::declare(layout, &at("output.LayerNorm"), h, b.norm);
        for (block, unit, count) in [(&out, MaskUnit::Head, shape.heads), (&down, MaskUnit::Row, f)] {
            if let BlockOutput::Map(map) = block {
                layout.prunable_columns(map.w, unit, count);
            }
        }
        Layer { shape, before, qkv, relative, out, norm, up, down, norm2 }
    }

    /// Hidden states to hidden states, (tokens, hidden).
    pub fn run(
        &self,
        tape: &mut Tape,
        p: &Bound,
        batch: &Inputs,
        context: LayerContext,
        taps: &mut Taps,
        x: Var,
    ) -> Result<Var> {
        let (c, dropout_ids) = (context.config, context.dropout_ids);
        let plain = AddNorm { eps: c.eps, residual: false, before: None, after: None };
        let seen = match &self.before {
            Some(norm) => norm.run(tape, p, plain, x.clone(), [])?,
            None => x.clone(),
        };
        let mixed = match &self.qkv {
            Some(qkv) => {
                let qkv = qkv.run(tape, p, seen)?;
                Some(match self.relative.as_ref().zip(context.sinusoids) {
                    Some((parts, sinusoids)) => {
                        taps.see_qkv(&qkv);
                        let drop = batch.dropout(c.attention_dropout, dropout_ids[0], DropoutRows::Tokens);
                        parts.mix(tape, p, batch, (self.shape, drop, sinusoids), qkv)?
                    }
                    None => mix(tape, batch, (context, self.shape), taps, qkv)?,
                })
            }
            None => None,
        };
        let out = self.out.run(tape, p, context, mixed, &x)?;
        let rate = |block: usize| if c.dropped[block] { c.hidden_dropout } else { 0.0 };
        if let Some(norm) = &self.norm {
            let x = add_norm(tape, p, batch, (c.eps, rate(0), dropout_ids[1]), norm, out, x)?;
            let inside = if c.inner_dropout { c.hidden_dropout } else { 0.0 };
            let down = self.feed_forward(tape, p, batch, context, (inside, dropout_ids[3]), x.clone())?;
            return add_norm(tape, p, batch, (c.eps, rate(1), dropout_ids[2]), &self.norm2, down, x);
        }
        let x = add(tape, batch, (c.attention_dropout, dropout_ids[1]), out, x)?;
        let seen = self.norm2.run(tape, p, plain, x.clone(), [])?;
        let down = self.feed_forward(tape, p, batch, context, (rate(1), dropout_ids[2]), seen)?;
        add(tape, batch, (0.0, dropout_ids[2]), down, x)
    }

    /// The feed-forward block, with dropout between its two maps.
    fn feed_forward(
        &self,
        tape: &mut Tape,
        p: &Bound,
        batch: &Inputs,
        context: LayerContext,
        (rate, dropout_id): (f32, u32),
        x: Var,
    ) -> Result<Var> {
        let Some(up) = &self.up else { return self.down.run(tape, p, context, None, &x) };
        let c = context.config;
        let mut up = up.run(tape, p, x.clone())?;
        if c.gated_mlp {
            up = tape.apply(Glu { act: c.act }, [up])?;
        }
        if let Some((drop, key)) = batch.dropout(rate, dropout_id, DropoutRows::Tokens) {
            up = tape.apply(drop, [up, key])?;
        }
        self.down.run(tape, p, context, Some(up), &x)
    }
}

/// Attention over (tokens, 3 heads head_dim) -> (tokens, heads head_dim).
fn mix(
    tape: &mut Tape,
    batch: &Inputs,
    (context, shape): (LayerContext, LayerShape),
    taps: &mut Taps,
    mut qkv: Var,
) -> Result<Var> {
    let (c, heads, scale) = (context.config, shape.heads, shape.scale());
    let is_local = |local: &[bool]| local.get(context.layer).copied().unwrap_or(false);
    let window = c.windows.as_ref().filter(|(_, local)| is_local(local)).map(|(window, _)| *window);
    if let Positions::Rotary { global, local } = c.encoding {
        let theta = if window.is_some() { local } else { global };
        qkv = tape.apply(Rotary { heads, theta }, [qkv, batch.positions.clone()])?;
    }
    taps.see_qkv(&qkv);
    // What sees a window only is linear in the length already.
    if let Some(performer) = context.performer.filter(|_| window.is_none()) {
        return performer.mix(tape, batch, context.layer, heads, scale, qkv);
    }
    let (dropout, key) =
        batch.dropout(c.attention_dropout, context.dropout_ids[0], DropoutRows::Tokens).unzip();
    let mut inputs = vec![qkv, batch.cu_seqlens.clone()];
    inputs.extend(key);
    tape.apply(Attention { heads, scale, dropout, window }, inputs)
}

/// Layer norm of dropout(x) + residual.
fn add_norm(
    tape: &mut Tape,
    p: &Bound,
    batch: &Inputs,
    (eps, rate, dropout_id): (f32, f32, u32),
    norm: &Norm,
    x: Var,
    residual: Var,
) -> Result<Var> {
    let (before, key) = batch.dropout(rate, dropout_id, DropoutRows::Tokens).unzip();
    let op = AddNorm { eps, residual: true, before, after: None };
    norm.run(tape, p, op, x, [Some(residual), key])
}

/// dropout(x) + residual.
fn add(
    tape: &mut Tape,
    batch: &Inputs,
    (rate, dropout_id): (f32, u32),
    x: Var,
    residual: Var,
) -> Result<Var> {
    let (dropout, key) = batch.dropout(rate, dropout_id, DropoutRows::Tokens).unzip();
    let mut inputs = vec![x, residual];
    inputs.extend(key);
    tape.apply(Residual { dropout }, inputs)
}
