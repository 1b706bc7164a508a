//! The optimizer steps of a run by epoch.

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
