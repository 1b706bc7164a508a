//! What a forward pass hands out besides its outputs.

use crate::tape::Var;

/// Values inside an encoder that the caller of a forward pass asks for: hidden states, and queries, keys and
/// values.
///
/// They are variables on the pass's tape: any op can read them, and gradients flow back through them. What is
/// not asked for costs nothing; on a tape that does not record, what is asked for stays in memory as long as
/// the taps hold it. A pass replaces what an earlier pass has left here.
#[derive(Debug, Default)]
pub struct Taps {
    wants_hidden: bool,
    wants_qkv: bool,
    /// The input of the first layer, then the output of each layer, (tokens, hidden): one more than there are
    /// layers. What follows the last layer (a layer norm, dropout) is not in it.
    pub hidden: Vec<Var>,
    /// The queries, keys and values of each layer that has heads, as attention reads them, behind rotary
    /// positions: (tokens, 3 heads head_dim), a token's queries of all heads, then its keys, then its values.
    pub qkv: Vec<Var>,
}

impl Taps {
    /// Asks for nothing.
    pub fn none() -> Taps {
        Taps::default()
    }
    /// Asks for hidden states too.
    pub fn with_hidden(self) -> Taps {
        Taps { wants_hidden: true, ..self }
    }
    /// Asks for queries, keys and values too.
    pub fn with_qkv(self) -> Taps {
        Taps { wants_qkv: true, ..self }
    }
    /// Forgets what an earlier pass has left.
    pub(super) fn clear(&mut self) {
        self.hidden.clear();
        self.qkv.clear();
    }
    /// Hands out hidden states.
    pub(super) fn see_hidden(&mut self, v: &Var) {
        if self.wants_hidden {
            self.hidden.push(v.clone());
        }
    }
    /// Hands out the queries, keys and values of a layer.
    pub(super) fn see_qkv(&mut self, v: &Var) {
        if self.wants_qkv {
            self.qkv.push(v.clone());
        }
    }
}
