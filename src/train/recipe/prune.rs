//! `[prune]` of a recipe.

use super::Recipe;
use super::field::{Rule, above, at_least, from_to_below};
use super::source::Entry;
use super::table::{Item, Reader, Section, item, without};
use crate::compress::prune::{PruneMethod, PruneSchedule, PruneScope, Pruning};
use crate::error::{Error, Result};
use crate::params::Masking;

section! {
    /// `[prune]`: what is masked in the encoder's layers while the model is trained.
    Prune "prune" {
        /// What masks are chosen by. "magnitude": the smallest weights are masked (Zhu and Gupta 2017).
        /// "movement": scores that are trained with the weights; the smallest are masked (Sanh et al. 2020).
        /// "soft_movement": weights are masked where the sigmoid of their score is at most `threshold`.
        method: PruneMethod = PruneMethod::Magnitude, Rule::Any;
        /// Share of the weights in the encoder's matrices that are zero at the end; embeddings, norms, biases
        /// and the head are not pruned. With 0 no single weights are masked.
        sparsity: f64 = 0.0, from_to_below(0.0, 1.0);
        /// Number of weights in the encoder's matrices that remain at the end, instead of `sparsity`.
        parameters: Option<usize> = None, at_least(1.0);
        /// Share of the attention heads that are masked at the end: the columns of the output projection that
        /// read them. Magnitudes are the norms of these columns.
        heads: f64 = 0.0, from_to_below(0.0, 1.0);
        /// Share of the rows of the feed-forward blocks that are masked at the end: the columns of the second
        /// matrix that read them. Magnitudes are the norms of these columns.
        ffn: f64 = 0.0, from_to_below(0.0, 1.0);
        /// What elements are compared with: "matrix" gives each matrix, and so each layer, the same
        /// sparsity, "global" compares those of all.
        scope: PruneScope = PruneScope::Matrix, Rule::Any;
        /// Share of the steps before pruning begins.
        begin: f64 = 0.0, from_to_below(0.0, 1.0);
        /// Share of the steps after which the whole sparsity is reached. In between it rises with the cubic
        /// schedule of Zhu and Gupta (2017). With a value of at most `begin` everything is masked at once.
        end: f64 = 0.5, from_to_below(0.0, 1.0);
        /// Optimizer steps between two choices of the masks.
        every: u64 = 10, at_least(1.0);
        /// Learning rate of the scores, on the schedule of `optim.lr`, without weight decay.
        score_lr: f64 = 0.01, above(0.0);
        /// Threshold of "soft_movement" at the end. It rises from 0 with the schedule.
        threshold: f64 = 0.1, from_to_below(0.0, 1.0);
        /// Weight of the mean sigmoid of the scores in the loss of "soft_movement", at the end. It rises from
        /// 0 with the schedule.
        penalty: f64 = 400.0, at_least(0.0);
    }
}

/// Keys that versions before did not have. A recipe that leaves them at their defaults keeps its hash.
const LATER: &[&str] = &["method", "heads", "ffn", "score_lr", "threshold", "penalty"];

impl Prune {
    /// Whether anything is masked.
    pub fn is_on(&self) -> bool {
        let shares = [self.sparsity, self.heads, self.ffn];
        shares.iter().any(|&share| share > 0.0) || self.parameters.is_some() || self.is_soft()
    }
    /// Whether weights are masked by a threshold.
    pub fn is_soft(&self) -> bool {
        self.method == PruneMethod::SoftMovement
    }
    /// When is pruned in a run of this number of steps.
    pub fn schedule(&self, total: u64) -> PruneSchedule {
        PruneSchedule::new([self.begin, self.end], self.every, total)
    }
    /// The masks that a model gets which is trained at this learning rate.
    pub fn masking(&self, lr: f64) -> Masking {
        if !self.is_on() {
            return Masking::default();
        }
        // A count of weights asks for the masks that every sparsity asks for.
        let some = if self.parameters.is_some() { 0.5 } else { self.sparsity };
        self.of_sparsity(some).masking((self.score_lr / lr) as f32)
    }
    /// What a model is pruned to whose masks cover this many weights; `None` without pruning.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) if more weights are to remain than there are.
    pub fn pruning(&self, weights: usize) -> Result<Option<Pruning>> {
        let Some(remain) = self.parameters else {
            return Ok(self.is_on().then(|| self.of_sparsity(self.sparsity)));
        };
        let Some(masked) = weights.checked_sub(remain) else {
            return Err(Error::usage("prune.parameters is larger than the model")
                .with_expected(format!("at most {weights}, the weights of the encoder's matrices"))
                .with_found(remain.to_string())
                .with_help("lower prune.parameters: embeddings, norms, biases and the head do not count"));
        };
        // The share whose product with the number of weights is rounded down to what is masked.
        let mut sparsity = masked as f64 / weights as f64;
        while ((sparsity * weights as f64) as usize) < masked {
            sparsity = sparsity.next_up();
        }
        Ok(Some(self.of_sparsity(sparsity)))
    }
    fn of_sparsity(&self, sparsity: f64) -> Pruning {
        let &Prune { method, scope, heads, ffn, threshold, penalty, .. } = self;
        Pruning { method, scope, sparsity, heads, ffn, threshold, penalty }
    }
}

/// Complains about targets that contradict each other.
pub(super) fn check(recipe: &Recipe, r: &mut Reader<'_>) {
    let p = &recipe.prune;
    let (sparsity, parameters) = (p.sparsity > 0.0, p.parameters.is_some());
    if sparsity && parameters {
        let keys = ["prune.parameters", "prune.sparsity"];
        r.complain(&keys, "prune.sparsity and prune.parameters are both set", |e| {
            e.with_expected("one of them").with_help("remove prune.sparsity or prune.parameters")
        });
    } else if p.is_soft() && (sparsity || parameters) {
        let key = if sparsity { "prune.sparsity" } else { "prune.parameters" };
        let what = format!("{key} is set, but prune.method = \"soft_movement\" prunes by a threshold");
        r.complain(&[key], &what, |e| {
            e.with_help(format!("remove {key} and set prune.threshold, or set prune.method = \"movement\""))
        });
    }
}

/// The text of a resolved recipe for its hash. Without pruning it is that of a version without this section,
/// and without later keys that of a version without these; their runs can still be resumed.
pub(super) fn hashed(recipe: &Recipe, text: String) -> String {
    if !recipe.prune.is_on() {
        return without("prune", &text);
    }
    let mut same = Vec::new();
    let default = Prune::default();
    default.walk(&mut |Item { key, value }| {
        same.extend(value.filter(|_| LATER.contains(&key.name)).map(|v| format!("{} = {v}", key.name)));
    });
    let mut inside = false;
    let line = |line: &&str| {
        if line.starts_with('[') {
            inside = *line == "[prune]";
        }
        !inside || !same.iter().any(|s| s == line)
    };
    text.split('\n').filter(line).collect::<Vec<_>>().join("\n")
}
