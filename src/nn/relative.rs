//! Attention by relative positions, as in XLNet (Yang et al. 2019): what its layers have besides, and the
//! sinusoids that stand for distances.

use super::{EncoderConfig, Inputs, LayerShape};
use crate::device::{Device, Tensor};
use crate::error::Result;
use crate::ops::Activation;
use crate::ops::dropout::Dropout;
use crate::ops::linear::Linear;
use crate::ops::relative_attention::RelativeAttention;
use crate::params::{Bound, Group, Layout};
use crate::shape::DType;
use crate::tape::{Tape, Var};

/// Distances that are computed at once: a table's part begins where a GPU can bind it, and steps recur.
const STEP: usize = 64;

/// The sinusoids of all distances that can occur, on the device: row n - 1 + t is that of distance t (Vaswani
/// et al. 2017, section 3.5, sines before cosines as in transformers' `positional_embedding`).
pub(super) struct Sinusoids {
    table: Tensor,
    /// Distances are below this.
    most: usize,
    clamped: bool,
}

impl Sinusoids {
    /// In `dtype`, for sequences as long as the config says.
    pub fn new(device: &Device, c: &EncoderConfig, clamp: Option<usize>, dtype: DType) -> Result<Sinusoids> {
        let most = clamp.map_or(c.positions.next_multiple_of(STEP), |clamp| clamp + 1);
        let half = c.hidden / 2;
        let mut values = Vec::with_capacity((2 * most - 1) * c.hidden);
        for row in 0..2 * most - 1 {
            let distance = row as f64 - (most - 1) as f64;
            let angle = |i: usize| distance / 10000f64.powf(2.0 * i as f64 / c.hidden as f64);
            values.extend((0..half).map(|i| angle(i).sin()));
            values.extend((0..half).map(|i| angle(i).cos()));
        }
        let table = device.upload_reals(dtype, &[2 * most - 1, c.hidden], &values)?;
        Ok(Sinusoids { table, most, clamped: clamp.is_some() })
    }
    /// Those of the distances within sequences of a length, (distances, hidden).
    pub fn of(&self, tape: &mut Tape, longest: usize) -> Result<Var> {
        let n = if self.clamped { self.most } else { longest.max(1).next_multiple_of(STEP).min(self.most) };
        let hidden = self.table.spec.rows_cols().1;
        let part = self.table.view((self.most - n) * hidden, &[2 * n - 1, hidden])?;
        Ok(tape.constant(part))
    }
}

/// What a layer has in place of biases.
pub(super) struct RelativeParts {
    /// From sinusoids to the keys of distances.
    distance: Group,
    /// `r_w_bias`, `r_r_bias`, `r_s_bias`, `seg_embed`.
    bias: Group,
}

impl RelativeParts {
    /// Declares them under a layer's `name`, for an encoder of width `hidden`.
    pub fn declare(layout: &mut Layout, name: &str, hidden: usize, shape: LayerShape) -> RelativeParts {
        let at = |part: &str| format!("{name}.attention.self.{part}");
        let LayerShape { heads, head_dim, .. } = shape;
        let name = vec![at("distance.weight")];
        let distance = layout.join(name, &[hidden, heads, head_dim], &[shape.attention(), hidden]);
        layout.transpose(distance);
        let three = ["r_w_bias", "r_r_bias", "r_s_bias"].map(|b| (at(b), vec![heads, head_dim]));
        let all = three.into_iter().chain([(at("seg_embed"), vec![2, heads, head_dim])]);
        RelativeParts { distance, bias: layout.join_of(all.collect(), &[5, shape.attention()]) }
    }
    /// Attention over qkv (tokens, 3 heads head_dim) -> (tokens, heads head_dim), with sinusoids (distances,
    /// hidden).
    pub fn mix(
        &self,
        tape: &mut Tape,
        p: &Bound,
        batch: &Inputs,
        (shape, drop, sinusoids): (LayerShape, Option<(Dropout, Var)>, &Var),
        qkv: Var,
    ) -> Result<Var> {
        let r = tape.apply(Linear { act: Activation::None }, [sinusoids.clone(), p.var(self.distance)])?;
        let (dropout, key) = drop.unzip();
        let op = RelativeAttention {
            heads: shape.heads,
            scale: shape.scale(),
            ordered: batch.order.is_some(),
            dropout,
        };
        let (bounds, types) = (batch.cu_seqlens.clone(), batch.types.clone());
        let mut inputs = vec![qkv, bounds, types, r, p.var(self.bias)];
        inputs.extend(batch.order.clone());
        inputs.extend(key);
        tape.apply(op, inputs)
    }
}
