//! THE training loop, read downwards, and what configures it.

mod conclude;
pub mod events;
pub mod prepare;
pub mod recipe;
pub mod schedule;
pub mod signals;
pub mod state;

pub use events::{Event, Observer, Prepared, Silent, StepLog};
pub use prepare::Run;
pub use recipe::Recipe;
pub use signals::Signals;
pub use state::State;

use crate::checkpoint::{Fs, Journal, RunDir, number};
use crate::data::{Batch, micro_batches};
use crate::error::{Error, Kind, Result};
use crate::metrics::Scores;
use crate::optim::{Optimizer, Settings};
use crate::shape::DType;
use crate::tape::Tape;
use crate::tasks;
use recipe::Every;
use serde_json::json;
use state::Best;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// When the program started, for figures that count from there.
pub fn started() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// Failed saves in a row before a run stops.
const FAILED_SAVES: u32 = 3;

/// How a finished run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The folder with the trained model.
    pub model: PathBuf,
    /// Steps made.
    pub steps: u64,
    /// The best validation.
    pub best: Option<Best>,
    /// Scores on the test set.
    pub test: Option<Scores>,
    /// What a person reads of the last evaluation: a confusion table, correlations.
    pub report: String,
    /// Whether early stopping ended it.
    pub stopped_early: bool,
    /// Seconds in the training loop of this process, evaluation and saving included.
    pub train_seconds: f64,
    /// Seconds from the start of the process to the end of the first step.
    pub first_step_seconds: f64,
    /// Real tokens trained on a second in this process.
    pub tokens_per_second: f64,
}

/// A run in progress.
struct Trainer<'a> {
    recipe: &'a Recipe,
    run: Run,
    dir: RunDir,
    journal: Journal,
    optimizer: Optimizer,
    state: State,
    /// Steps up to the end of each epoch.
    ends: Vec<u64>,
    observer: &'a mut dyn Observer,
    failed_saves: u32,
    resumed_from: u64,
    tokens: u64,
    begun: Instant,
    first_step_seconds: f64,
    report: String,
    /// Parameters that no gradient has reached yet, as indices into the layout; empty once all have one.
    waiting: Vec<usize>,
}

/// The indices of all trainable parameters.
fn trained(run: &Run) -> Vec<usize> {
    let list = &run.model.params.layout().list;
    (0..list.len()).filter(|&i| !list[i].frozen).collect()
}

fn describe(run: &Run, steps: u64) -> Prepared {
    let sets =
        [("train", Some(&run.train)), ("validation", run.validation.as_ref()), ("test", run.test.as_ref())];
    let size = |(name, set): (&'static str, Option<&crate::data::TokenSet>)| {
        set.map(|s| (name, s.len(), s.ids.len(), s.lost.iter().map(|&n| n as u64).sum()))
    };
    Prepared {
        device: run.device.caps().name,
        weights: run.weights.clone(),
        parameters: run.model.params.count(),
        parameter_bytes: run.model.params.bytes(),
        splits: sets.into_iter().filter_map(size).collect(),
        classes: run.classes.clone(),
        steps,
        skipped_rows: run.skipped_rows,
    }
}

/// What one optimizer step found.
struct Step {
    loss: f64,
    norm: f64,
}

/// Forward and backward of one micro-batch, its gradients added to those there or not; its part of the loss, and the
/// parameters it did not reach. `key` is seed and step.
fn pass(run: &Run, batch: &Batch, key: (u64, u64), scale: f64, add: bool) -> Result<(f64, Vec<String>)> {
    let Run { device, model, task, .. } = run;
    let mut tape = Tape::new(device);
    let bound = model.params.bind(&mut tape, add)?;
    let inputs = tasks::inputs(&mut tape, batch, Some(key))?;
    let logits = model.logits(&mut tape, &bound, &inputs)?;
    let loss = task.loss(&mut tape, logits, batch, scale)?;
    let value = device.read::<f32>(tape.value(loss)?)?[0] as f64;
    let one = device.upload(DType::F32, &[1], &[1f32])?;
    let unreached = tape.backward(loss, one)?;
    Ok((value, model.params.names(&bound, &unreached)))
}

/// Trains as a recipe says, or goes on with it where its run folder left off.
///
/// `fresh` starts over. Errors: see [`Kind`]; [`Kind::Interrupted`] comes after a clean checkpoint.
pub fn train(
    recipe: &Recipe,
    fresh: bool,
    fs: Arc<dyn Fs>,
    signals: &Signals,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    started();
    let mut dir = RunDir::open(&recipe.output, fs.clone())?.keep_last(recipe.train.keep_checkpoints);
    if fresh {
        conclude::clear(dir.path())?;
    }
    let newest = dir.newest_verified()?;
    let run = Run::prepare(recipe)?;
    let ends = run.plan(recipe)?;
    let o = &recipe.optim;
    let settings = Settings {
        beta1: o.beta1 as f32,
        beta2: o.beta2 as f32,
        eps: o.eps as f32,
        weight_decay: o.weight_decay as f32,
        max_grad_norm: o.max_grad_norm as f32,
    };
    let mut optimizer = Optimizer::new(&run.device, &run.model.params, settings)?;
    observer.event(&Event::Prepared(&describe(&run, ends.last().copied().unwrap_or(0))));
    let state = match &newest.found {
        None => State::new(recipe, &run),
        Some((step, path)) => {
            let state = State::restore(path, recipe, &run, &mut optimizer)?;
            observer.event(&Event::Resumed(*step, &newest.skipped));
            state
        }
    };
    conclude::write_text(&*fs, &dir.path().join("recipe.toml"), recipe.to_toml(true).as_bytes())?;
    let journal = Journal::open(&*fs, &dir.path().join("metrics.jsonl"), Some(state.step))?;
    let waiting = if state.step == 0 { trained(&run) } else { Vec::new() };
    let resumed_from = state.step;
    let trainer = Trainer {
        recipe,
        run,
        dir,
        journal,
        optimizer,
        state,
        ends,
        observer,
        failed_saves: 0,
        resumed_from,
        tokens: 0,
        begun: Instant::now(),
        first_step_seconds: f64::NAN,
        report: String::new(),
        waiting,
    };
    trainer.run(signals, &*fs)
}

impl Trainer<'_> {
    /// The loop.
    fn run(mut self, signals: &Signals, fs: &dyn Fs) -> Result<Outcome> {
        let total = self.ends.last().copied().unwrap_or(0);
        let schedule = self.recipe.optim.schedule(total);
        let mut order: (u64, Vec<Vec<u32>>) = (u64::MAX, Vec::new());
        while self.state.step < total && !self.state.stopped_early {
            if let Some(signal) = signals.stop() {
                self.save()?;
                return Err(Error::new(Kind::Interrupted(signal), format!("stopped by signal {signal}"))
                    .hint("the same command goes on from here"));
            }
            let (epoch, within) = self.place(self.state.step);
            if order.0 != epoch {
                order = (epoch, self.run.epoch(self.recipe, epoch)?);
            }
            let examples = order.1.get(within as usize).map_or(&[][..], Vec::as_slice);
            let step = self.step(examples)?;
            let lr = self.recipe.optim.lr * schedule.factor(self.state.step);
            self.state.step += 1;
            if step.loss.is_finite() && step.norm.is_finite() {
                self.optimizer.update(&self.run.device, &self.run.model.params, lr)?;
                self.state.updates = self.optimizer.updates;
                self.state.nonfinite_in_a_row = 0;
            } else {
                self.skip(step.loss, examples)?;
            }
            if self.first_step_seconds.is_nan() {
                self.first_step_seconds = started().elapsed().as_secs_f64();
            }
            self.log(&step, lr, total)?;
            let end_of_epoch = self.ends.contains(&self.state.step);
            let due = |every| match every {
                Every::Epoch => end_of_epoch,
                Every::Steps(n) => self.state.step.is_multiple_of(n) || self.state.step == total,
            };
            let (evaluate, save) = (due(self.recipe.train.eval_every), due(self.recipe.train.save_every));
            let improved = evaluate && self.validate()?;
            let last = self.state.step == total || self.state.stopped_early;
            if save || last || (improved && self.recipe.train.load_best) || signals.take_save() {
                self.save()?;
            }
        }
        self.finish(fs)
    }

    /// The epoch a step is in, and its place there.
    fn place(&self, step: u64) -> (u64, u64) {
        let epoch = self.ends.partition_point(|&end| end <= step);
        let start = epoch.checked_sub(1).and_then(|e| self.ends.get(e)).copied().unwrap_or(0);
        (epoch as u64, step - start)
    }

    /// Epochs passed, as a fraction.
    fn epochs(&self) -> f64 {
        let (epoch, within) = self.place(self.state.step);
        let index = epoch as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        match self.ends.get(index) {
            Some(end) => epoch as f64 + within as f64 / (end - start).max(1) as f64,
            None => self.recipe.train.epochs.min(epoch as f64),
        }
    }

    /// Gradients of one optimizer step: the loss of its examples over the weight of all of them, in as many passes as
    /// memory asks for. The sum does not depend on how it is cut.
    fn step(&mut self, examples: &[u32]) -> Result<Step> {
        let t = &self.recipe.train;
        let batches = micro_batches(&self.run.train, examples, t.accumulation, Some(t.max_tokens), 0)?;
        let weight = self.run.task.weight(&self.run.train, examples);
        let scale = if weight > 0.0 { 1.0 / weight } else { 0.0 };
        let mut loss = 0.0;
        let mut unreached = Vec::new();
        for (i, batch) in batches.iter().enumerate() {
            let key = (self.recipe.seed, self.state.step);
            let (part, missed) = self.run.device.run(|| pass(&self.run, batch, key, scale, i > 0))?;
            loss += part;
            unreached = missed;
            self.tokens += batch.ids.len() as u64;
        }
        if self.state.step == 0 && !unreached.is_empty() {
            return Err(Error::diverged("trainable parameters receive no gradient")
                .found(unreached.join(", "))
                .hint("freeze them with model.freeze, or choose another head"));
        }
        let norm = self.optimizer.measure(&self.run.device, &self.run.model.params)?;
        if !self.waiting.is_empty() && norm.is_finite() {
            self.check_coverage()?;
        }
        Ok(Step { loss, norm })
    }

    /// Every trainable parameter must have had a gradient other than zero within the first two steps.
    fn check_coverage(&mut self) -> Result<()> {
        let params = &self.run.model.params;
        let Some(t) = &params.training else { return Ok(()) };
        let list = &params.layout().list;
        const PIECE: usize = 1 << 16;
        let mut zero = Vec::new();
        for &i in &self.waiting {
            // Piece by piece: mostly the first tells.
            let p = &list[i];
            let (mut at, mut found) = (0, false);
            while at < p.len() && !found {
                let piece = t.grad.view(p.offset + at, &[PIECE.min(p.len() - at)])?;
                found = self.run.device.read::<f32>(&piece)?.iter().any(|&g| g != 0.0);
                at += PIECE;
            }
            if !found {
                zero.push(i);
            }
        }
        self.waiting = zero;
        if self.state.step >= 1 && !self.waiting.is_empty() {
            let names: Vec<&str> = self.waiting.iter().map(|&i| list[i].name.as_str()).collect();
            return Err(Error::diverged("trainable parameters have had no gradient but zero in two steps")
                .found(names.join(", "))
                .hint("freeze them with model.freeze if that is meant"));
        }
        Ok(())
    }

    /// Counts and reports a step that was not finite; ends the run when there were too many in a row.
    fn skip(&mut self, loss: f64, examples: &[u32]) -> Result<()> {
        self.state.nonfinite += 1;
        self.state.nonfinite_in_a_row += 1;
        let params = &self.run.model.params;
        let mut tensor = "loss".to_owned();
        if let Some(t) = &params.training {
            for p in params.layout().list.iter().filter(|p| !p.frozen) {
                let g = self.run.device.read::<f32>(&params.view(&t.grad, p)?)?;
                if g.iter().any(|g| !g.is_finite()) {
                    tensor = format!("gradient of {}", p.name);
                    break;
                }
            }
        }
        let step = self.state.step;
        let event = Event::Skipped { step, loss, tensor: &tensor, examples };
        self.observer.event(&event);
        let line = json!({ "step": step, "skipped": true, "loss": number(loss), "tensor": tensor, "examples": examples });
        self.journal.append(&line)?;
        let limit = self.recipe.train.max_nonfinite_steps;
        if self.state.nonfinite_in_a_row > limit {
            return Err(Error::diverged(format!(
                "{} steps in a row were not finite",
                self.state.nonfinite_in_a_row
            ))
            .found(format!("loss {loss} at step {step}, first in the {tensor}, examples {examples:?}"))
            .hint("lower optim.lr or raise optim.warmup_ratio; the last finite checkpoint is kept"));
        }
        Ok(())
    }

    fn log(&mut self, step: &Step, lr: f64, total: u64) -> Result<()> {
        let (sum, n) = (f64::from_bits(self.state.window.0) + step.loss, self.state.window.1 + 1);
        let seconds = self.begun.elapsed().as_secs_f64();
        let made = self.state.step - self.resumed_from;
        let line = StepLog {
            step: self.state.step,
            total,
            epoch: self.epochs(),
            loss: sum / n as f64,
            lr,
            grad_norm: step.norm,
            tokens_per_second: self.tokens as f64 / seconds,
            seconds_left: seconds / made as f64 * (total - self.state.step) as f64,
        };
        self.observer.event(&Event::Step(&line));
        self.state.window = (sum.to_bits(), n);
        if self.state.step.is_multiple_of(self.recipe.train.log_every) || self.state.step == total {
            self.state.window = (0, 0);
            self.observer.event(&Event::Log(&line));
            let entry = json!({
                "step": line.step,
                "epoch": line.epoch,
                "loss": number(line.loss),
                "learning_rate": line.lr,
                "grad_norm": number(line.grad_norm),
            });
            self.state.log_history.push(entry.clone());
            let mut entry = entry;
            entry["tokens_per_second"] = number(line.tokens_per_second);
            self.journal.append(&entry)?;
        }
        Ok(())
    }
}
