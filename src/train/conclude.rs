//! What a run leaves behind: validations, checkpoints, the trained model and its scores.

use super::events::Event;
use super::state::{Best, load_weights, model_files, pretty};
use super::{FAILED_SAVES, Outcome, Trainer};
use crate::checkpoint::{Fs, number, write_dir};
use crate::data::{TokenSet, eval_batches};
use crate::error::{Error, Kind, Result};
use crate::metrics::{self, Scores};
use crate::tasks;
use serde_json::{Value, json};
use std::path::Path;

impl Trainer<'_> {
    fn score(&mut self, set: &TokenSet) -> Result<Scores> {
        let batches = eval_batches(set, self.max_tokens, 0)?;
        let meter = tasks::evaluate(&self.run.device, &self.run.model, self.run.task.as_ref(), &batches)?;
        self.report = meter.report();
        Ok(meter.scores())
    }

    /// Scores the validation set, if there is one; whether it is the best so far.
    pub(super) fn validate(&mut self) -> Result<bool> {
        let Some(set) = self.run.validation.take() else { return Ok(false) };
        let scores = self.score(&set);
        self.run.validation = Some(set);
        let scores = scores?;
        let t = &self.recipe.train;
        let metric = metrics::find(&t.best_metric);
        let value = |s: &Scores| s.get(&t.best_metric).unwrap_or(f64::NAN);
        let best = match (&self.state.best, metric) {
            (Some(b), Some(m)) => m.improves(value(&scores), value(&b.scores)),
            (None, _) => true,
            _ => false,
        };
        self.observer.event(&Event::Evaluated {
            step: self.state.step,
            split: "validation",
            scores: &scores,
            best,
        });
        self.note("eval", &scores)?;
        if best {
            self.state.best = Some(Best { step: self.state.step, scores });
            self.state.without_improvement = 0;
        } else {
            self.state.without_improvement += 1;
            self.state.stopped_early = t.early_stopping.is_some_and(|n| self.state.without_improvement >= n);
        }
        Ok(best)
    }

    /// Writes scores into the journal and the log, named as transformers names them: `eval_accuracy`.
    fn note(&mut self, prefix: &str, scores: &Scores) -> Result<()> {
        let mut entry = json!({ "step": self.state.step, "epoch": self.epochs() });
        for (name, v) in scores.iter() {
            entry[format!("{prefix}_{name}")] = number(v);
        }
        self.journal.append(&entry)?;
        self.state.log_history.push(entry);
        Ok(())
    }

    /// Saves a checkpoint. A failure is reported and tried again at the next one; too many in a row end the run.
    pub(super) fn save(&mut self) -> Result<()> {
        let total = self.ends.last().copied().unwrap_or(0);
        let files = self.state.files(self.recipe, &self.run, total, self.epochs())?;
        let keep: Vec<u64> = self.state.best.iter().map(|b| b.step).collect();
        match self.dir.save(self.state.step, files, &keep) {
            Ok(saved) => {
                self.failed_saves = 0;
                saved.warnings.iter().for_each(|w| self.observer.event(&Event::Warning(w)));
                self.observer.event(&Event::Saved(self.state.step, saved.path));
                Ok(())
            }
            Err(e) if e.kind() == Kind::Disk && self.failed_saves + 1 < FAILED_SAVES => {
                self.failed_saves += 1;
                self.observer.event(&Event::Warning(&e));
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// Takes the best weights, scores the test set, writes the model.
    pub(super) fn finish(mut self, fs: &dyn Fs) -> Result<Outcome> {
        let train_seconds = self.begun.elapsed().as_secs_f64();
        if let Some(best) =
            self.state.best.as_ref().filter(|b| self.recipe.train.load_best && b.step != self.state.step)
        {
            let path = self.dir.checkpoint(best.step);
            load_weights(&path, &self.run)?;
        }
        let test = match self.run.test.take() {
            None => None,
            Some(set) => {
                let scores = self.score(&set)?;
                let step = self.state.step;
                self.observer.event(&Event::Evaluated { step, split: "test", scores: &scores, best: false });
                self.note("test", &scores)?;
                Some(scores)
            }
        };
        let model = self.dir.path().join("model");
        write_dir(fs, &model, &model_files(self.recipe, &self.run)?)?;
        let outcome = Outcome {
            model,
            steps: self.state.step,
            best: self.state.best,
            test,
            report: self.report,
            stopped_early: self.state.stopped_early,
            train_seconds,
            first_step_seconds: self.first_step_seconds,
            tokens_per_second: self.tokens as f64 / train_seconds,
            device: self.run.device.caps().name,
            verified: self.run.verified(),
        };
        write_text(fs, &self.dir.path().join("metrics.json"), &pretty(&outcome.to_json()))?;
        Ok(outcome)
    }
}

impl Outcome {
    /// What stands in `metrics.json`: the test scores, or the best validation's, at the top.
    pub fn to_json(&self) -> Value {
        let mut all = match (&self.test, &self.best) {
            (Some(s), _) => s.to_json(),
            (None, Some(b)) => b.scores.to_json(),
            (None, None) => json!({}),
        };
        all["device"] = self.device.as_str().into();
        all["certificate"] = self.verified.clone().into();
        all["steps"] = self.steps.into();
        all["best_step"] = self.best.as_ref().map(|b| b.step).into();
        all["stopped_early"] = self.stopped_early.into();
        all["train_seconds"] = number(self.train_seconds);
        all["first_step_seconds"] = number(self.first_step_seconds);
        all["real_tokens_per_s"] = number(self.tokens_per_second);
        all
    }
}

/// Writes a small file so that it is there in full or not at all.
pub(super) fn write_text(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> Result<()> {
    let temp = path.with_extension("tmp");
    let write = || {
        let mut sink = fs.create(&temp)?;
        sink.write_all(bytes)?;
        sink.sync()?;
        drop(sink);
        fs.rename(&temp, path)
    };
    write().map_err(|e| Error::io(Kind::Disk, "cannot be written", path, &e))
}

/// Removes what an earlier run left in a folder whose lock is held: its checkpoints, journal and results.
pub(super) fn clear(dir: &Path) -> Result<()> {
    let fail = |path: &Path, e: &std::io::Error| Error::io(Kind::Disk, "cannot be removed", path, e);
    for entry in std::fs::read_dir(dir).map_err(|e| fail(dir, &e))?.flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let ours = ["latest", "metrics.jsonl", "metrics.json", "recipe.toml"].contains(&name.as_str());
        if name.starts_with("checkpoint-") || (name == "model" && path.join("tempra.json").exists()) {
            std::fs::remove_dir_all(&path).map_err(|e| fail(&path, &e))?;
        } else if ours {
            std::fs::remove_file(&path).map_err(|e| fail(&path, &e))?;
        }
    }
    Ok(())
}
