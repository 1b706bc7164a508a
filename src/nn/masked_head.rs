//! The head of a masked language model: a dense layer, layer norm, and the token table as the last map (Devlin et al. 2019,
//! sec. 3.1). Only tokens that are asked for are looked at.

use super::{Affine, Inputs, Norm};
use crate::error::Result;
use crate::ops::add_norm::AddNorm;
use crate::ops::gather::Gather;
use crate::ops::linear::{Activation, Linear};
use crate::params::{Bound, Group, Layout};
use crate::shape::DType;
use crate::tape::{Tape, Var};

/// The shape and the names of the head.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskedConfig {
    /// The tensors of the dense layer are `{dense}.weight` (embedding, hidden) and `{dense}.bias`.
    pub dense: String,
    /// Those of the layer norm are `{norm}.weight` and `{norm}.bias`.
    pub norm: String,
    /// The bias of the vocabulary.
    pub bias: String,
    /// The dense layer's activation.
    pub act: Activation,
    /// Rows of the token table.
    pub vocab: usize,
    /// Its width.
    pub embedding: usize,
    /// Width of the encoder.
    pub hidden: usize,
    /// Layer norm's epsilon.
    pub eps: f32,
    /// Whether the dense layer and the layer norm have biases.
    pub biases: [bool; 2],
}

/// A head's parameters and how to run it.
pub struct MaskedHead {
    dense: Affine,
    norm: Norm,
    table: Group,
    bias: Group,
    eps: f32,
}

impl MaskedHead {
    /// Declares the parameters under the config's names; `table` is the encoder's token table (vocab, embedding), of which
    /// there is only one.
    pub fn declare(layout: &mut Layout, c: &MaskedConfig, table: Group) -> MaskedHead {
        let dense = Affine::declare_with(layout, &c.dense, [c.embedding, c.hidden], c.act, c.biases[0]);
        let norm = Norm::declare(layout, &c.norm, c.embedding, c.biases[1]);
        MaskedHead { dense, norm, table, bias: layout.add(c.bias.clone(), &[c.vocab]), eps: c.eps }
    }
    /// Logits (asked tokens, vocab) from hidden states (tokens, hidden).
    pub fn run(&self, tape: &mut Tape, p: &Bound, batch: &Inputs, hidden: Var) -> Result<Var> {
        let asked = match batch.asked {
            Some(asked) => asked,
            // By chance nothing is hidden in a batch: no rows, and gradients of zero.
            None => {
                let none = tape.device().upload::<u32>(DType::U32, &[0], &[])?;
                tape.constant(none)
            }
        };
        let x = tape.apply(Gather, &[hidden, asked])?;
        let x = self.dense.run(tape, p, x)?;
        let op = AddNorm { eps: self.eps, residual: false, before: None, after: None };
        let x = self.norm.run(tape, p, op, x, &[])?;
        tape.apply(Linear { act: Activation::None }, &[x, p.var(self.table), p.var(self.bias)])
    }
}
