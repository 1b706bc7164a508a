//! Dynamic loss scaling for f16.

use super::StepResult;
use serde::{Deserialize, Serialize};

/// What a loss is multiplied by before gradients are taken of it, so that they do not vanish in f16.
///
/// Halved when a gradient overflows, doubled after 2000 steps without (Micikevicius et al. 2018; the figures
/// are those of PyTorch's `GradScaler`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// The factor, a power of two.
    pub scale: f64,
    /// Steps without overflow since it last changed.
    pub good: u64,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { scale: 65536.0, good: 0 }
    }
}

impl LossScale {
    const GROWTH: u64 = 2000;

    /// Adapts to the results of steps that were queued together, in order.
    pub(super) fn update(&mut self, results: &[StepResult]) {
        for m in results {
            self.good = if m.skipped { 0 } else { self.good + 1 };
            if self.good == Self::GROWTH {
                (self.scale, self.good) = (self.scale * 2.0, 0);
            }
        }
        // Steps that were under way together had one scale: it is halved once for all of them.
        if results.iter().any(|m| m.skipped) {
            self.scale = (self.scale / 2.0).max(1.0);
        }
    }
}
