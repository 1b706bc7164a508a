//! What a run leaves behind: validations, checkpoints, the trained model and its scores.

use super::beside::Comparison;
use super::events::Event;
use super::history;
use super::outcome::{METRICS, MODEL, PrunedUnits};
use super::prepare::{Run, TaskRun};
use super::select::{combined, directions};
use super::state::{Best, model_files, pretty};
use super::{BestOf, FAILED_SAVES, Outcome, Trainer};
use crate::checkpoint::{Fs, NamedFile, number, write_file, write_model};
use crate::compress::prune::{PruneMethod, masked_units};
use crate::data::{TokenSet, eval_batches};
use crate::error::{Error, Kind, Result};
use crate::metrics::{self, Scores};
use crate::models::Outputs;
use crate::tasks::{self, Meter, Task};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Lines of the journal that may wait for a disk that takes them.
const MOST_UNWRITTEN: usize = 1000;

impl Trainer<'_> {
    /// The scores of the sets that `of` picks, by the place of each task; `None` if there is no such set.
    fn score(
        &mut self,
        of: impl Fn(&TaskRun) -> Option<Arc<TokenSet>>,
    ) -> Result<Option<Vec<(usize, Scores)>>> {
        let parts = self.run.parts.clone();
        let mut each = Vec::new();
        self.report.clear();
        for (head, part) in parts.iter().enumerate() {
            let Some(set) = of(part) else { continue };
            let meter = self.measure(head, &*part.task, &set)?;
            let report = meter.report();
            if parts.len() > 1 && !report.is_empty() {
                self.report += &format!("{}:\n", part.name);
            }
            self.report += &report;
            self.per_class = meter.per_class();
            each.push((head, meter.scores()));
        }
        Ok((!each.is_empty()).then_some(each))
    }

    /// Scores the validation sets, if there are any; whether they, or those of one of several tasks, are the
    /// best so far.
    pub(super) fn validate(&mut self) -> Result<bool> {
        let Some(each) = self.score(|part| part.validation.clone())? else { return Ok(false) };
        let Some(selection) = self.run.selection.clone() else { return Ok(false) };
        let scores = combined(&self.run.parts, &each);
        let before = self.state.best.as_ref().map(|b| &b.scores);
        // A model that is not pruned as much as asked is not the best one.
        let schedule = self.recipe.prune.schedule(self.epochs.total());
        let whole = self.run.pruning.is_none() || schedule.is_complete(self.state.step);
        let best = whole && selection.improves(&scores, before);
        let (undefined, none_yet) = (selection.value(&scores).is_nan(), before.is_none());
        let of_one = whole && self.best_of(each);
        self.observer.event(&Event::Evaluated {
            step: self.state.step,
            split: "validation",
            scores: &scores,
            best,
        });
        // Thresholds are tuned at the end of a run.
        let decides = self.run.parts.iter().any(|p| matches!(p.task.outputs(), Outputs::Labels(_)));
        self.note("eval", &scores, if decides { json!({ "thresholds": 0.5 }) } else { json!({}) })?;
        if undefined && !std::mem::replace(&mut self.reported_nan, true) {
            let e = Error::diverged(format!("{} is NaN at step {}", selection.name(), self.state.step));
            self.observer.event(&Event::Warning(&e.with_help(
                "such a validation is never the best; early stopping counts it only after a validation with a number",
            )));
        }
        self.state.last = Some(Best { step: self.state.step, scores: scores.clone() });
        if best {
            self.state.best = Some(Best { step: self.state.step, scores });
            self.state.without_improvement = 0;
        } else if whole && !(undefined && none_yet) {
            let limit = self.recipe.train.early_stopping;
            self.state.without_improvement += 1;
            self.state.stopped_early = limit.is_some_and(|n| self.state.without_improvement >= n);
        }
        Ok(best || of_one)
    }

    /// Keeps, of several tasks, the scores of those that are better than ever; whether there is one.
    fn best_of(&mut self, each: Vec<(usize, Scores)>) -> bool {
        let parts = self.run.parts.clone();
        let mut any = false;
        for (i, scores) in each.into_iter().filter(|_| parts.len() > 1) {
            let (Some(part), step) = (parts.get(i), self.state.step) else { continue };
            let Some(metric) = metrics::find(&part.best_metric) else { continue };
            let value = |s: &Scores| s.get(metric.name).unwrap_or(f64::NAN);
            let before = self.state.best_of.get(&part.name).map_or(f64::NAN, |b| value(&b.scores));
            if metric.improves(value(&scores), before) {
                self.state.best_of.insert(part.name.clone(), Best { step, scores });
                any = true;
            }
        }
        any
    }

    /// Writes scores into the journal and the log, named as transformers names them: `eval_accuracy`; with
    /// `more` about them.
    fn note(&mut self, prefix: &str, scores: &Scores, more: Value) -> Result<()> {
        let step = self.state.step;
        let mut entry = json!({ "step": step, "epoch": self.epochs.passed(step) });
        for (name, v) in scores.iter() {
            entry[format!("{prefix}_{name}")] = number(v);
        }
        for (name, v) in more.as_object().into_iter().flatten() {
            entry[name] = v.clone();
        }
        self.write_line(entry)
    }

    /// Appends a line to the journal. One that cannot be written waits for the next, or for the next
    /// checkpoint.
    pub(super) fn write_line(&mut self, line: Value) -> Result<()> {
        self.history.add(&line);
        self.unwritten.push_back(line);
        match self.write_lines() {
            Err(e) if e.kind() == Kind::Disk && self.unwritten.len() < MOST_UNWRITTEN => {
                if self.unwritten.len() == 1 {
                    self.observer.event(&Event::Warning(
                        &e.with_help("nothing to do: tempra writes it again with the next line"),
                    ));
                }
                Ok(())
            }
            done => done,
        }
    }

    fn write_lines(&mut self) -> Result<()> {
        while let Some(line) = self.unwritten.front() {
            self.journal.append(line)?;
            self.unwritten.pop_front();
        }
        Ok(())
    }

    /// Saves a checkpoint. A save that fails is tried again at once, and then, unless it is `needed`, at the
    /// next occasion: training goes on, and a best validation that could not be saved is none. Too many in a
    /// row end the run.
    pub(super) fn save(&mut self, needed: bool) -> Result<()> {
        let attempts = if needed { FAILED_SAVES } else { 2 };
        let mut attempt = 1;
        loop {
            let e = match self.write_checkpoint() {
                Err(e) if e.kind() == Kind::Disk => e,
                saved => return saved,
            };
            if attempt < attempts {
                attempt += 1;
                self.observer.event(&Event::Warning(&e.with_help("nothing to do: tempra tries again now")));
                continue;
            }
            self.failed_saves += 1;
            if needed || self.failed_saves >= FAILED_SAVES {
                return Err(e.with_help(
                    "free disk space, then give the same command to resume from the last checkpoint",
                ));
            }
            if self.recipe.train.load_best {
                (self.state.best, self.state.best_of) = self.saved_best.clone();
            }
            self.observer.event(&Event::Warning(
                &e.with_help("free disk space; training continues without this checkpoint"),
            ));
            return Ok(());
        }
    }

    /// `trainer_state.json` without the log.
    fn for_transformers(&self) -> Value {
        let kept = |b: &Best| b.step == self.state.step || self.dir.checkpoint(b.step).is_dir();
        let best_is_kept = self.state.best.as_ref().is_some_and(kept);
        self.state.for_transformers(self.recipe, &self.epochs, best_is_kept)
    }

    fn write_checkpoint(&mut self) -> Result<()> {
        // What the checkpoint counts on must be on the disk before it.
        self.write_lines()?;
        self.journal.sync()?;
        let files = self.state.files(
            self.recipe,
            &self.run,
            &self.optimizer,
            &self.for_transformers(),
            &self.history,
        )?;
        let keep: Vec<u64> =
            self.state.best.iter().chain(self.state.best_of.values()).map(|b| b.step).collect();
        let saved = self.dir.save(self.state.step, files, &keep)?;
        self.failed_saves = 0;
        self.saved = Some(self.state.step);
        self.saved_best = (self.state.best.clone(), self.state.best_of.clone());
        saved.warnings.iter().for_each(|w| self.observer.event(&Event::Warning(w)));
        self.observer.event(&Event::Saved(self.state.step, saved.path));
        Ok(())
    }

    /// Writes, of several tasks, the model at each one's best step into `best-NAME` where that is not the
    /// step `chosen`, and scores its test set there. Whether the weights are others afterwards.
    fn bests(&mut self, fs: &dyn Fs, chosen: u64) -> Result<(Vec<BestOf>, bool)> {
        let (parts, mut all, mut moved) = (self.run.parts.clone(), Vec::new(), false);
        for (head, part) in parts.iter().enumerate() {
            let Some(best) = self.state.best_of.get(&part.name).cloned() else { continue };
            let (task, metric) = (part.name.clone(), part.best_metric.clone());
            let mut one = BestOf { task, best, metric, model: None, thresholds: Map::new(), test: None };
            if one.best.step == chosen {
                one.model = Some(self.dir.path().join(MODEL));
            }
            if self.recipe.train.load_best && one.best.step != chosen {
                self.load_verified(one.best.step)?;
                moved = true;
                self.tune(&parts)?;
                let task = self.run.parts[head].task.clone();
                let test = part.test.as_ref().map(|set| self.measure(head, &*task, set));
                one.test = test.transpose()?.map(|meter| meter.scores());
                one.thresholds = thresholds(&self.run.parts[head]);
                let folder = self.dir.path().join(format!("best-{}", part.name));
                write_model(fs, &folder, &self.model_files()?)?;
                one.model = Some(folder);
            }
            all.push(one);
        }
        Ok((all, moved))
    }

    /// The files of a model's folder.
    fn model_files(&self) -> Result<Vec<NamedFile<'static>>> {
        let mut files = model_files(self.recipe, &self.run)?;
        // Of several tasks the one of the vectors says how long their texts are.
        let vectors = self.run.parts.iter().find(|p| p.task.outputs() == Outputs::Embedding);
        let longest = vectors.and_then(|p| p.metadata.max_length).unwrap_or(0);
        files.extend(self.run.model.sentence_files(longest));
        Ok(files)
    }

    /// Chooses, for tasks that have them, the thresholds that decide best on the validation examples; from
    /// now on they are the task's, and are kept with the model. `parts`: the tasks as they were in training.
    /// Checkpoints have none: they are of weights that may not be the best. Returns whether there are any.
    fn tune(&mut self, parts: &[TaskRun]) -> Result<bool> {
        let (mut parts, mut any) = (parts.to_vec(), false);
        for (head, part) in parts.iter_mut().enumerate() {
            let Some(set) = part.validation.clone().filter(|_| part.task.tunes()) else { continue };
            let meter = self.measure(head, &*part.task, &set)?;
            let Some((thresholds, task)) = part.task.tuned(&*meter) else { continue };
            let after = self.measure(head, &*task, &set)?.scores();
            let scores = [&meter.scores(), &after];
            self.observer.event(&Event::Tuned { task: &part.name, thresholds: &thresholds, scores });
            part.metadata.thresholds = Some(thresholds.into_iter().collect());
            part.task = task;
            any = true;
        }
        self.run.parts = Arc::new(parts);
        Ok(any)
    }

    /// Scores a set by a head. Where the device has no memory left, what nobody uses goes back first, then
    /// batches get smaller: scores do not depend on what a text is batched with.
    fn measure(&self, head: usize, task: &dyn Task, set: &TokenSet) -> Result<Box<dyn Meter>> {
        let device = &self.run.device;
        let (mut most, mut trimmed) = (self.max_tokens, false);
        loop {
            let mut batches = eval_batches(set, most, 0)?;
            batches.iter_mut().for_each(|b| b.head = head);
            match tasks::evaluate(device, &self.run.model, task, set, batches) {
                Err(e) if e.kind() == Kind::Memory && most > 1 => {
                    if std::mem::replace(&mut trimmed, true) {
                        most /= 2;
                    }
                    device.trim()?;
                }
                done => return done,
            }
        }
    }

    /// Takes the best weights, scores the test set, writes the model.
    pub(super) fn finish(mut self, fs: &dyn Fs) -> Result<Outcome> {
        let train_seconds = self.begun.elapsed().as_secs_f64();
        self.verify_best()?;
        let (parts, keeps) = (self.run.parts.clone(), self.recipe.train.load_best);
        if let Some(selection) = self.run.selection.as_ref().filter(|_| keeps && self.state.best.is_none()) {
            let what = format!("{} was NaN in every validation, so no step is the best", selection.name());
            let e = Error::diverged(what)
                .with_help("model/ is that of the last step; choose another train.best_metric");
            self.observer.event(&Event::Warning(&e));
        }
        let chosen = self.state.best.as_ref().map(|b| b.step).filter(|_| keeps).unwrap_or(self.state.step);
        let (best_of, moved) = self.bests(fs, chosen)?;
        if moved || chosen != self.state.step {
            self.load_verified(chosen)?;
        }
        let tuned = self.tune(&parts)?;
        let decided = match &self.run.parts[..] {
            [part] => thresholds(part),
            parts => {
                let each = parts.iter().map(|p| (p.name.clone(), thresholds(p)));
                each.filter(|(_, t)| !t.is_empty()).map(|(name, t)| (name, t.into())).collect()
            }
        };
        // The validation of the chosen step holds for the model unless it decides by other thresholds since;
        // what a person reads of it is not kept.
        let of_model = |b: &&Best| b.step == chosen && !tuned;
        let known = self.state.last.iter().chain(&self.state.best).find(of_model).map(|b| b.scores.clone());
        let read = self.state.last.as_ref().is_some_and(|b| b.step == chosen) && !self.report.is_empty();
        let tested = parts.iter().any(|p| p.test.is_some());
        let validation = match known {
            Some(scores) if tested || read => Some(scores),
            _ => self.score(|part| part.validation.clone())?.map(|each| combined(&parts, &each)),
        };
        let scored = if tested { self.score(|part| part.test.clone())? } else { None };
        let test = scored.map(|each| combined(&parts, &each));
        if let Some(scores) = test.as_ref().filter(|_| !self.noted_test()) {
            self.observer.event(&Event::Evaluated { step: chosen, split: "test", scores, best: false });
            let mut more = json!({ "model_step": chosen });
            if !decided.is_empty() {
                more["thresholds"] = decided.clone().into();
            }
            self.note("test", scores, more)?;
        }
        self.write_lines().or_else(|_| self.write_lines())?;
        history::write_whole(fs, self.dir.path(), self.for_transformers(), &self.history)?;
        let model = self.dir.path().join(MODEL);
        write_model(fs, &model, &self.model_files()?)?;
        let pruned = self.pruned()?;
        let trained = self.state.step > self.resumed_from;
        let before = |f: fn(&Outcome) -> f64| self.before.as_ref().map_or(f64::NAN, f);
        let teacher = self.run.teacher.as_ref().and_then(|teacher| {
            let scores = test.as_ref().or(validation.as_ref())?;
            Some(Comparison::new(teacher.scores.as_ref()?, scores.clone(), &self.per_class))
        });
        let outcome = Outcome {
            model,
            steps: self.state.step,
            model_step: chosen,
            thresholds: decided,
            best_metric: self.run.selection.as_ref().map(|s| s.name().to_owned()),
            best: self.state.best,
            best_of,
            validation,
            test,
            teacher,
            pruned,
            higher_is_better: directions(&parts),
            report: self.report,
            stopped_early: self.state.stopped_early,
            stopped_by: None,
            train_seconds: if trained { train_seconds } else { before(|o| o.train_seconds) },
            first_step_seconds: if trained {
                self.first_step_seconds
            } else {
                before(|o| o.first_step_seconds)
            },
            tokens_per_second: if trained {
                self.tokens as f64 / train_seconds
            } else {
                before(|o| o.tokens_per_second)
            },
            device: self.run.device.caps().label(),
            verified: self.run.verified(),
        };
        write_file(fs, &self.dir.path().join(METRICS), &pretty(&outcome.to_json()))?;
        Ok(outcome)
    }

    /// What the model's masks cover. Warns if that is nothing.
    fn pruned(&mut self) -> Result<Vec<PrunedUnits>> {
        let Run { device, model, pruning: Some(pruning), .. } = &self.run else { return Ok(Vec::new()) };
        let counts = masked_units(device, &model.params)?;
        let units = ["weights", "heads", "feed-forward rows"].into_iter().zip(counts);
        let units = units.filter(|(_, (_, of))| *of > 0);
        let pruned: Vec<PrunedUnits> =
            units.map(|(what, (masked, of))| PrunedUnits { what: what.to_owned(), masked, of }).collect();
        if pruned.iter().all(|u| u.masked == 0) {
            let e = Error::diverged("pruning masked nothing").with_found(match pruned.first() {
                Some(u) => format!("0 of {} {} are masked", u.of, u.what),
                None => "no weight that can be masked".to_owned(),
            });
            let help = match pruning.method {
                PruneMethod::SoftMovement => {
                    "raise prune.score_lr, prune.penalty or prune.threshold, or train for more steps"
                }
                _ => "raise the shares in [prune], or train for more steps",
            };
            self.observer.event(&Event::Warning(&e.with_help(help)));
        }
        Ok(pruned)
    }

    /// How a run ends that its observer stopped: its model is the checkpoint of this step.
    pub(super) fn stopped(self) -> Outcome {
        let parts = &self.run.parts;
        let best_of = parts.iter().filter_map(|part| {
            let best = self.state.best_of.get(&part.name)?.clone();
            let (task, metric) = (part.name.clone(), part.best_metric.clone());
            Some(BestOf { task, best, metric, model: None, thresholds: Map::new(), test: None })
        });
        // Without a step in this process there is nothing to time.
        let trained = self.state.step > self.resumed_from;
        let train_seconds = if trained { self.begun.elapsed().as_secs_f64() } else { f64::NAN };
        Outcome {
            model: self.dir.checkpoint(self.state.step),
            steps: self.state.step,
            model_step: self.state.step,
            thresholds: Map::new(),
            best_metric: self.run.selection.as_ref().map(|s| s.name().to_owned()),
            best: self.state.best.clone(),
            best_of: best_of.collect(),
            validation: self.state.scores_here().map(|here| here.scores),
            test: None,
            teacher: None,
            pruned: Vec::new(),
            higher_is_better: directions(parts),
            device: self.run.device.caps().label(),
            verified: self.run.verified(),
            report: self.report,
            stopped_early: false,
            stopped_by: Some(self.observer.by),
            train_seconds,
            first_step_seconds: self.first_step_seconds,
            tokens_per_second: self.tokens as f64 / train_seconds,
        }
    }

    /// Whether the test scores of this step stand in the journal already.
    fn noted_test(&self) -> bool {
        let text = std::fs::read_to_string(self.dir.path().join("metrics.jsonl")).unwrap_or_default();
        let lines = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        lines.into_iter().any(|l| l["step"] == self.state.step && l.get("model_step").is_some())
    }
}

/// The thresholds that a task was given, by label.
fn thresholds(part: &TaskRun) -> Map<String, Value> {
    part.metadata.thresholds.iter().flatten().map(|(name, t)| (name.clone(), number(*t))).collect()
}
