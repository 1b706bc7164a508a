//! The best checkpoint, or the next best where that one is damaged or gone.

use super::Trainer;
use super::events::Event;
use super::state::{Best, TrainerState, load_weights};
use crate::checkpoint::{CheckpointReport, RunDir};
use crate::error::{Error, Result};
use crate::metrics::{self, Scores};

impl Trainer<'_> {
    /// Replaces a best validation whose checkpoint does not verify by the next best whose checkpoint does,
    /// with a warning: that of the run, and those of each of several tasks.
    pub(super) fn verify_best(&mut self) -> Result<()> {
        if !self.recipe.train.load_best {
            return Ok(());
        }
        let current = self.state.scores_here();
        if let (Some(best), Some(selection)) = (self.state.best.clone(), self.run.selection.clone()) {
            let better = |new: &Scores, old: Option<&Scores>| selection.improves(new, old);
            let (next, warning) = verified(&self.dir, best, current.clone(), Some, better)?;
            warning.iter().for_each(|w| self.observer.event(&Event::Warning(w)));
            self.state.best = next;
        }
        for part in self.run.parts.clone().iter() {
            let Some(best) = self.state.best_of.remove(&part.name) else { continue };
            let value = |s: &Scores| s.get(&part.best_metric).unwrap_or(f64::NAN);
            let metric = metrics::find(&part.best_metric);
            let better = |new: &Scores, old: Option<&Scores>| {
                metric.is_some_and(|m| m.improves(value(new), old.map_or(f64::NAN, value)))
            };
            let own =
                |scores: Scores| Some(scores.of_task(&part.name)).filter(|own| own.iter().next().is_some());
            let (next, warning) = verified(&self.dir, best, current.clone(), own, better)?;
            warning.iter().for_each(|w| self.observer.event(&Event::Warning(w)));
            self.state.best_of.extend(next.map(|best| (part.name.clone(), best)));
        }
        self.saved_best = (self.state.best.clone(), self.state.best_of.clone());
        Ok(())
    }

    /// Loads the weights of a checkpoint after every byte of it has been verified.
    pub(super) fn load_verified(&self, step: u64) -> Result<()> {
        let path = self.dir.checkpoint(step);
        let report = CheckpointReport::of(&path);
        if report.ok() {
            return load_weights(&path, &self.run);
        }
        Err(Error::model("the checkpoint is damaged").at(path).with_found(report.problems.join("; ")))
    }
}

/// `best` if its checkpoint verifies, else the best of the other checkpoints that do, and a warning that says
/// so. `current`: the scores of the weights that are loaded, which need no file. `own`: the scores that
/// count, of all.
fn verified(
    dir: &RunDir,
    best: Best,
    current: Option<Best>,
    own: impl Fn(Scores) -> Option<Scores>,
    better: impl Fn(&Scores, Option<&Scores>) -> bool,
) -> Result<(Option<Best>, Option<Error>)> {
    let here = current.as_ref().map(|c| c.step);
    let path = dir.checkpoint(best.step);
    let report = CheckpointReport::of(&path);
    if here == Some(best.step) || report.ok() {
        return Ok((Some(best), None));
    }
    let mut found: Vec<Best> = current.into_iter().collect();
    for (step, path) in dir.checkpoints()? {
        if Some(step) != here && step != best.step && CheckpointReport::of(&path).ok() {
            found.extend(TrainerState::read(&path)?.scores_here());
        }
    }
    // Of equal ones the earliest, as in training.
    found.sort_by_key(|b| b.step);
    let mut next: Option<Best> = None;
    for one in found {
        let Some(scores) = own(one.scores) else { continue };
        if better(&scores, next.as_ref().map(|next| &next.scores)) {
            next = Some(Best { step: one.step, scores });
        }
    }
    let instead = match &next {
        Some(next) => {
            format!("step {} is used instead, the best of the intact checkpoints", next.step)
        }
        None => "no other checkpoint with scores is intact; the last weights are used".to_owned(),
    };
    let warning = Error::model("the checkpoint of the best validation cannot be used")
        .at(path)
        .with_found(report.problems.join("; "))
        .with_help(instead);
    Ok((next, Some(warning)))
}
