//! The optimizer steps of a run by epoch.

use super::recipe::{Every, Recipe};
use crate::error::Error;
use crate::units::plural;

/// How many steps each epoch has, and where the run ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    /// Steps up to the end of each epoch; the last is the end of the run.
    pub ends: Vec<u64>,
    /// Where the last epoch would end if the run did not end before.
    pub whole: u64,
}

impl Epochs {
    /// Steps of the run.
    pub fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }
    /// Epochs passed after so many steps, as transformers' Trainer counts: whole ones, and the share of the
    /// steps of the next, of all that it has, whether or not the run comes to its end.
    pub fn passed(&self, step: u64) -> f64 {
        let last = self.ends.len().saturating_sub(1);
        let index = self.ends.partition_point(|&end| end <= step).min(last);
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = if index == last { self.whole } else { self.ends[index] };
        index as f64 + (step - start) as f64 / (end - start).max(1) as f64
    }
}

impl Recipe {
    /// A warning if early stopping cannot end a run of these epochs early: it needs one validation more than
    /// its patience, and one that is not at the end.
    pub fn never_early(&self, epochs: &Epochs) -> Option<Error> {
        let (patience, total) = (self.train.early_stopping?, epochs.total());
        let validations = match self.train.eval_every {
            Every::Epoch => epochs.ends.len() as u64,
            Every::Steps(n) => total.div_ceil(n),
        };
        (patience.saturating_add(1) >= validations).then(|| {
            Error::usage(format!("train.early_stopping = {patience} cannot end this run early"))
                .with_expected(format!("more than {}", plural(patience.saturating_add(1), "validation")))
                .with_found(plural(validations, "validation"))
                .with_help(
                    "lower train.early_stopping, validate more often (train.eval_every), or train longer",
                )
        })
    }
}
