//! The head of a tagger, and of a finder of answers: for some a dense layer, then dropout and a linear map of
//! each token.

use super::{Affine, Dense, DropoutIds, Inputs, Norm};
use crate::error::Result;
use crate::ops::Activation;
use crate::ops::add_norm::AddNorm;
use crate::ops::dropout::DropoutRows;
use crate::params::{Bound, Layout};
use crate::tape::{Tape, Var};

/// A head's parameters and how to run it.
pub struct TokenHead {
    dense: Option<(Affine, Option<(Norm, f32)>)>,
    classifier: Affine,
    dropout: f32,
    dropout_id: u32,
}

impl TokenHead {
    /// Declares `{name}.weight` (outputs, hidden) and `{name}.bias`, before them those of the dense layer.
    pub fn declare(
        layout: &mut Layout,
        dropout_ids: &mut DropoutIds,
        (name, dense): (&str, Option<&Dense>),
        [outputs, hidden]: [usize; 2],
        dropout: f32,
    ) -> TokenHead {
        let dense = dense.map(|d| {
            let map = Affine::declare_with(layout, &d.name, [hidden, hidden], d.act, d.bias);
            let norm = d.norm.as_ref();
            (map, norm.map(|(name, eps, bias)| (Norm::declare(layout, name, hidden, *bias), *eps)))
        });
        let classifier = Affine::declare(layout, name, [outputs, hidden], Activation::None);
        TokenHead { dense, classifier, dropout, dropout_id: dropout_ids.next() }
    }
    /// Logits (tokens, outputs) from hidden states (tokens, hidden).
    ///
    /// # Errors
    /// Those of the ops: [`Kind::Shape`](crate::error::Kind::Shape),
    /// [`Kind::Memory`](crate::error::Kind::Memory), [`Kind::Lost`](crate::error::Kind::Lost).
    pub fn run(&self, tape: &mut Tape, p: &Bound, batch: &Inputs, hidden: Var) -> Result<Var> {
        let mut x = hidden;
        if let Some((dense, norm)) = &self.dense {
            x = dense.run(tape, p, x)?;
            if let Some((norm, eps)) = norm {
                let op = AddNorm { eps: *eps, residual: false, before: None, after: None };
                x = norm.run(tape, p, op, x, [])?;
            }
        }
        if let Some((drop, key)) = batch.dropout(self.dropout, self.dropout_id, DropoutRows::Tokens) {
            x = tape.apply(drop, [x, key])?;
        }
        self.classifier.run(tape, p, x)
    }
}
