//! The head of a sequence classifier or regressor: pooling, dropout, a linear map.

use super::{Affine, Inputs, Sites};
use crate::error::Result;
use crate::ops::dropout::Rows;
use crate::ops::linear::Activation;
use crate::ops::pool::Pool;
use crate::params::{Bound, Layout};
use crate::tape::{Tape, Var};

/// How a sequence becomes one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first token through a dense layer with tanh: BERT's pooler, what `BertForSequenceClassification` does.
    Cls,
    /// The mean over all tokens.
    Mean,
}

/// The shape and the settings of a head.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadConfig {
    /// How a sequence becomes one vector.
    pub pooling: Pooling,
    /// Width of the encoder.
    pub hidden: usize,
    /// Classes, or 1 for regression.
    pub outputs: usize,
    /// Dropout before the last map.
    pub dropout: f32,
}

/// A head's parameters and how to run it.
pub struct Head {
    pooler: Option<Affine>,
    classifier: Affine,
    dropout: f32,
    site: u32,
}

impl Head {
    /// Declares `{prefix}pooler.dense` (for [`Pooling::Cls`]) and `classifier`.
    pub fn declare(layout: &mut Layout, sites: &mut Sites, prefix: &str, c: &HeadConfig) -> Head {
        let h = c.hidden;
        let pooler = (c.pooling == Pooling::Cls)
            .then(|| Affine::declare(layout, &format!("{prefix}pooler.dense"), [h, h], Activation::Tanh));
        let classifier = Affine::declare(layout, "classifier", [c.outputs, h], Activation::None);
        Head { pooler, classifier, dropout: c.dropout, site: sites.next() }
    }
    /// Logits (sequences, outputs) from hidden states (tokens, hidden).
    pub fn run(&self, tape: &mut Tape, p: &Bound, batch: &Inputs, hidden: Var) -> Result<Var> {
        let pool = if self.pooler.is_some() { Pool::First } else { Pool::Mean };
        let mut x = tape.apply(pool, &[hidden, batch.sequences])?;
        tape.release(hidden);
        if let Some(pooler) = &self.pooler {
            x = pooler.run(tape, p, x)?;
        }
        if let Some((drop, key)) = batch.dropout(self.dropout, self.site, Rows::Sequences) {
            x = tape.apply(drop, &[x, key])?;
        }
        self.classifier.run(tape, p, x)
    }
}
