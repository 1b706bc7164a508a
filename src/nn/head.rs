//! The head of a sequence classifier or regressor: pooling, mostly a dense layer, dropout, a linear map.

use super::{Affine, DropoutIds, Inputs, Norm};
use crate::error::Result;
use crate::ops::Activation;
use crate::ops::add_norm::AddNorm;
use crate::ops::dropout::DropoutRows;
use crate::ops::pool::Pool;
use crate::params::{Bound, Layout};
use crate::tape::{Tape, Var};

/// How a sequence becomes one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first token: what the sequence classifiers of transformers do.
    Cls,
    /// The last token, where that is the one for the whole sequence (XLNet).
    Last,
    /// The mean over all tokens.
    Mean,
}

/// A dense layer between pooling and the last map.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// Its tensors are `{name}.weight` and `{name}.bias`.
    pub name: String,
    /// Its activation.
    pub act: Activation,
    /// Whether there is dropout before it too.
    pub drop_before: bool,
    /// Whether it has a bias.
    pub bias: bool,
    /// A layer norm behind it: the name of its tensors, epsilon, whether it has a bias.
    pub norm: Option<(String, f32, bool)>,
}

/// The shape and the settings of a head.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadConfig {
    /// How a sequence becomes one vector.
    pub pooling: Pooling,
    /// The dense layer, if there is one.
    pub dense: Option<Dense>,
    /// The tensors of the last map are `{name}.weight` and `{name}.bias`.
    pub classifier: String,
    /// Width of the encoder.
    pub hidden: usize,
    /// Classes, or 1 for regression.
    pub outputs: usize,
    /// Dropout before the last map.
    pub dropout: f32,
}

/// A head's parameters and how to run it.
pub struct Head {
    config: HeadConfig,
    dense: Option<(Affine, Option<Norm>)>,
    classifier: Affine,
    dropout_ids: [u32; 2],
}

impl Head {
    /// Declares the parameters under the config's names.
    pub fn declare(layout: &mut Layout, dropout_ids: &mut DropoutIds, c: &HeadConfig) -> Head {
        let h = c.hidden;
        let dense = c.dense.as_ref().map(|d| {
            let map = Affine::declare_with(layout, &d.name, [h, h], d.act, d.bias);
            let norm = d.norm.as_ref().map(|(name, _, bias)| Norm::declare(layout, name, h, *bias));
            (map, norm)
        });
        let classifier = Affine::declare(layout, &c.classifier, [c.outputs, h], Activation::None);
        Head { config: c.clone(), dense, classifier, dropout_ids: [dropout_ids.next(), dropout_ids.next()] }
    }
    /// Logits (sequences, outputs) from hidden states (tokens, hidden).
    ///
    /// # Errors
    /// Those of the ops: [`Kind::Shape`](crate::error::Kind::Shape),
    /// [`Kind::Memory`](crate::error::Kind::Memory), [`Kind::Lost`](crate::error::Kind::Lost).
    pub fn run(&self, tape: &mut Tape, p: &Bound, batch: &Inputs, hidden: Var) -> Result<Var> {
        let c = &self.config;
        let pool = match c.pooling {
            Pooling::Cls => Pool::First,
            Pooling::Last => Pool::Last,
            Pooling::Mean => Pool::Mean,
        };
        let mut x = tape.apply(pool, [hidden, batch.sequences.clone()])?;
        let drop = |tape: &mut Tape, x, dropout_id| match batch.dropout(
            c.dropout,
            dropout_id,
            DropoutRows::Sequences,
        ) {
            Some((drop, key)) => tape.apply(drop, [x, key]),
            None => Ok(x),
        };
        if let (Some((dense, norm)), Some(of)) = (&self.dense, &c.dense) {
            if of.drop_before {
                x = drop(tape, x, self.dropout_ids[1])?;
            }
            x = dense.run(tape, p, x)?;
            if let (Some(norm), &Some((_, eps, _))) = (norm, &of.norm) {
                x = norm.run(tape, p, AddNorm { eps, residual: false, before: None, after: None }, x, [])?;
            }
        }
        x = drop(tape, x, self.dropout_ids[0])?;
        self.classifier.run(tape, p, x)
    }
}
