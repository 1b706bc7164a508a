//! The head of a masked language model: a dense layer, layer norm, and the token table as the last map
//! (Devlin et al. 2019, sec. 3.1); that of XLNet is the table alone. Only tokens that are asked for are
//! looked at.

use super::{Affine, Inputs, Norm};
use crate::error::Result;
use crate::ops::Activation;
use crate::ops::add_norm::AddNorm;
use crate::ops::gather::Gather;
use crate::ops::linear::Linear;
use crate::params::{Bound, Group, Layout};
use crate::shape::DType;
use crate::tape::{Tape, Var};

/// The shape and the names of the head.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskedConfig {
    /// What stands before the token table, if anything.
    pub transform: Option<Transform>,
    /// The last map's own weight (vocab, embedding), where it is not the token table.
    pub weight: Option<String>,
    /// The bias of the vocabulary, if there is one.
    pub bias: Option<String>,
    /// Tokens: the first rows of the token table.
    pub vocab: usize,
    /// The table's width.
    pub embedding: usize,
}

/// A dense layer and a layer norm.
#[derive(Clone, Debug, PartialEq)]
pub struct Transform {
    /// The tensors of the dense layer are `{dense}.weight` (embedding, hidden) and `{dense}.bias`.
    pub dense: String,
    /// Those of the layer norm are `{norm}.weight` and `{norm}.bias`.
    pub norm: String,
    /// The dense layer's activation.
    pub act: Activation,
    /// Width of the encoder.
    pub hidden: usize,
    /// Layer norm's epsilon.
    pub eps: f32,
    /// Whether the dense layer and the layer norm have biases.
    pub biases: [bool; 2],
}

/// A head's parameters and how to run it.
pub struct MaskedHead {
    transform: Option<(Affine, Norm, f32)>,
    table: Group,
    tokens: [usize; 2],
    bias: Option<Group>,
}

impl MaskedHead {
    /// Declares the parameters under the config's names; `table` is the encoder's token table (vocab,
    /// embedding), which is the last map's weight where that has none of its own.
    pub fn declare(layout: &mut Layout, c: &MaskedConfig, table: Group) -> MaskedHead {
        let transform = c.transform.as_ref().map(|t| {
            let dense = Affine::declare_with(layout, &t.dense, [c.embedding, t.hidden], t.act, t.biases[0]);
            (dense, Norm::declare(layout, &t.norm, c.embedding, t.biases[1]), t.eps)
        });
        let tokens = [c.vocab, c.embedding];
        let table = c.weight.as_ref().map_or(table, |name| layout.add(name.clone(), &tokens));
        let bias = c.bias.as_ref().map(|name| layout.add(name.clone(), &[c.vocab]));
        MaskedHead { transform, table, tokens, bias }
    }
    /// Logits (asked tokens, vocab) from hidden states (tokens, hidden).
    ///
    /// # Errors
    /// Those of the ops: [`Kind::Shape`](crate::error::Kind::Shape),
    /// [`Kind::Memory`](crate::error::Kind::Memory), [`Kind::Lost`](crate::error::Kind::Lost).
    pub fn run(&self, tape: &mut Tape, p: &Bound, batch: &Inputs, hidden: Var) -> Result<Var> {
        let asked = match &batch.asked {
            Some(asked) => asked.clone(),
            // By chance nothing is hidden in a batch: no rows, and gradients of zero.
            None => {
                let none = tape.device().upload::<u32>(DType::U32, &[0], &[])?;
                tape.constant(none)
            }
        };
        let mut x = tape.apply(Gather, [hidden, asked])?;
        if let Some((dense, norm, eps)) = &self.transform {
            x = dense.run(tape, p, x)?;
            let op = AddNorm { eps: *eps, residual: false, before: None, after: None };
            x = norm.run(tape, p, op, x, [])?;
        }
        let mut table = p.var(self.table);
        if table.value().spec.shape != self.tokens {
            // XLNet's table has a row that is no token.
            table = tape.part(&table, &self.tokens)?;
        }
        let mut inputs = vec![x, table];
        inputs.extend(self.bias.map(|bias| p.var(bias)));
        tape.apply(Linear { act: Activation::None }, inputs)
    }
}
