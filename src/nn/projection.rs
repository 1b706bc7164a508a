//! A linear map of hidden states to another width.

use super::Affine;
use crate::error::Result;
use crate::ops::Activation;
use crate::params::{Bound, Layout, ParamRole};
use crate::tape::{Tape, Var};

/// Maps a student's hidden states to the width of its teacher's, so that both can be compared (Jiao et al.
/// 2020, TinyBERT, eq. 8). Only training needs it: no model folder holds it.
pub struct Projection(Affine);

impl Projection {
    /// Declares `distill.projection.weight` (out, in) and `distill.projection.bias` (out).
    pub fn declare(layout: &mut Layout, [out, input]: [usize; 2]) -> Projection {
        let map = Affine::declare(layout, "distill.projection", [out, input], Activation::None);
        for group in [Some(map.w), map.b].into_iter().flatten() {
            layout.assign(group, ParamRole::Projection);
        }
        Projection(map)
    }
    /// The map of hidden states (tokens, in) -> (tokens, out).
    ///
    /// # Errors
    /// Those of the op.
    pub fn run(&self, tape: &mut Tape, bound: &Bound, hidden: Var) -> Result<Var> {
        self.0.run(tape, bound, hidden)
    }
}
