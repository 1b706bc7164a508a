//! `[prune]` of a recipe.

use super::Recipe;
use super::field::{Rule, at_least, from_to_below};
use super::source::Entry;
use super::table::{Item, Reader, Section, item, without};
use crate::compress::prune::{PruneSchedule, PruneScope};

section! {
    /// `[prune]`: which weights of the encoder's layers are masked while the model is trained.
    Prune "prune" {
        /// Share of the weights in the encoder's matrices that are zero at the end. The weights with the
        /// smallest magnitudes are masked; embeddings, norms, biases and the head are not pruned. 0 turns
        /// pruning off.
        sparsity: f64 = 0.0, from_to_below(0.0, 1.0);
        /// What weights are compared with: "matrix" gives each matrix the same sparsity, "global" compares
        /// the weights of all matrices.
        scope: PruneScope = PruneScope::Matrix, Rule::Any;
        /// Share of the steps before pruning begins.
        begin: f64 = 0.0, from_to_below(0.0, 1.0);
        /// Share of the steps after which the whole sparsity is reached. In between it rises with the cubic
        /// schedule of Zhu and Gupta (2017). With a value of at most `begin` all weights are masked at once.
        end: f64 = 0.5, from_to_below(0.0, 1.0);
        /// Optimizer steps between two choices of the masks.
        every: u64 = 10, at_least(1.0);
    }
}

impl Prune {
    /// Whether weights are masked.
    pub fn is_on(&self) -> bool {
        self.sparsity > 0.0
    }
    /// When and how much is pruned in a run of this number of steps.
    pub fn schedule(&self, total: u64) -> PruneSchedule {
        PruneSchedule::new(self.sparsity, [self.begin, self.end], self.every, total)
    }
}

/// The text of a resolved recipe for its hash. Without pruning it is that of a version without this section,
/// whose runs can still be resumed.
pub(super) fn hashed(recipe: &Recipe, text: String) -> String {
    if recipe.prune.is_on() { text } else { without("prune", &text) }
}
