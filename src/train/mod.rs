//! THE training loop, read downwards, and what configures it.

pub mod beside;
mod conclude;
mod coverage;
mod describe;
pub mod distill;
mod epochs;
pub mod events;
mod fallback;
pub mod history;
pub mod inputs;
pub mod live;
mod loader;
pub mod memory;
pub mod objective;
mod outcome;
pub mod pass;
pub mod prepare;
pub mod r_drop;
pub mod recipe;
pub mod schedule;
pub mod select;
pub mod signals;
pub mod state;

pub use beside::Comparison;
pub use distill::{Distill, SoftLoss};
pub use epochs::Epochs;
pub use events::{Control, Event, Observer, Observers, Prepared, PruningReport, Silent, StepLog};
pub use inputs::protect_inputs;
pub use live::LiveLosses;
pub use memory::MemoryPlan;
pub use objective::{Objective, StepSize};
pub use outcome::{BestOf, Outcome, PrunedUnits};
pub use pass::{Passed, Scale, pass};
pub use prepare::Run;
pub use r_drop::RDrop;
pub use recipe::Recipe;
pub use signals::Signals;
pub use state::TrainerState;

use crate::checkpoint::{Fs, Journal, Newest, RunDir, number, write_file};
use crate::data::Batch;
use crate::device::{Device, Tensor};
use crate::error::{Error, Kind, Result};
use crate::metrics::ClassScores;
use crate::optim::{LossScale, Optimizer, StepResult};
use crate::units::plural;
use coverage::{Coverage, Looked};
use describe::{approximation, describe};
use events::Answers;
use history::History;
use loader::{Loaded, Loader};
use recipe::Every;
use serde_json::json;
use state::Best;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// When the program started, for figures that count from there.
pub fn started() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// Failed saves in a row before a run stops.
const FAILED_SAVES: u32 = 3;

/// How many steps may be under way on a device.
fn window(device: &Device) -> usize {
    match device {
        Device::Cuda(_) => BROUGHT,
        _ if device.caps().gpu => WINDOW,
        _ => 1,
    }
}

/// A run in progress.
struct Trainer<'a> {
    recipe: &'a Recipe,
    run: Run,
    dir: RunDir,
    journal: Journal,
    optimizer: Optimizer,
    state: TrainerState,
    epochs: Epochs,
    observer: Answers<'a>,
    failed_saves: u32,
    /// The step of the newest checkpoint.
    saved: Option<u64>,
    /// The best validations as the newest checkpoint has them.
    saved_best: (Option<Best>, BTreeMap<String, Best>),
    /// The newest entries of the log.
    history: History,
    /// Lines that the journal could not take yet.
    unwritten: VecDeque<serde_json::Value>,
    resumed_from: u64,
    tokens: u64,
    begun: Instant,
    first_step_seconds: f64,
    report: String,
    /// The scores of each class in the last evaluation, of a single task.
    per_class: Vec<(String, ClassScores)>,
    coverage: Coverage,
    queued: Vec<Queued>,
    /// Tokens of a pass at most: the recipe's, or fewer once the device had no more memory.
    max_tokens: usize,
    /// A step was not finite: from now on each is read alone, while its gradients are still there.
    one_by_one: bool,
    /// A validation gave NaN, and that was reported.
    reported_nan: bool,
    /// What a run that had made all its steps said of itself before.
    before: Option<Outcome>,
}

/// A step that was queued and not looked at yet.
struct Queued {
    step: u64,
    epoch: f64,
    lr: f64,
    tokens: u64,
    /// Its task, and how much its targets count in the loss.
    part: usize,
    weight: f64,
    examples: Vec<u32>,
}

/// Steps that a GPU may be given before the host looks at their losses, which makes it idle once for all of
/// them; the CPU has nothing to gain from waiting.
const WINDOW: usize = 16;
/// The same where losses come by themselves: the oldest is looked at while the others run, so there are as
/// many as the host may be late by, and no more, for what is reported is that old.
const BROUGHT: usize = 8;

/// The passes of a step.
struct Passes<'a> {
    run: &'a Run,
    recipe: &'a Recipe,
    part: usize,
    step: u64,
}

impl Passes<'_> {
    /// The heads of the other tasks have no gradient in this step, not that of their last one.
    fn silence_others(&self) -> Result<()> {
        let Run { device, model, parts, .. } = self.run;
        if parts.len() < 2 {
            return Ok(());
        }
        for (_, part) in parts.iter().enumerate().filter(|(i, _)| *i != self.part) {
            let own = |p: &&crate::params::Param| model.head_of(&p.name) == Some(part.name.as_str());
            for p in model.params.layout().list.iter().filter(own) {
                if let Some(grad) = model.params.grad(p)? {
                    device.zero(&grad)?;
                }
            }
        }
        Ok(())
    }
    /// Adds what pruning costs to the gradients of its scores.
    fn penalize(&self, progress: f64, scale: f64) -> Result<()> {
        let Run { device, model, pruning, .. } = self.run;
        pruning.iter().try_for_each(|p| p.penalize(device, &model.params, progress, scale))
    }
    /// Gradients of the loss of the examples over the weight of all of them, times `scale`. Returns the
    /// losses of the passes.
    fn run(&self, batches: &[Batch], scale: f64) -> Result<Vec<Tensor>> {
        let part = &self.run.parts[self.part];
        let weights = batches.iter().map(|b| part.task.weights(b));
        let loss = weights.fold([0.0; 2], |sum, w| [sum[0] + w[0], sum[1] + w[1]]);
        let loss = loss.map(|weight| if weight > 0.0 { part.weight / weight } else { 0.0 });
        let scale = Scale { loss, gradients: scale };
        self.silence_others()?;
        let Run { device, model, live, .. } = self.run;
        let key = Some((self.recipe.seed, self.step));
        let (losses, unreached) =
            pass::step(device, model, &*part.objective(live.as_ref()), batches, key, scale)?;
        // With several tasks the heads of the others are not reached.
        if self.step == 0 && self.run.parts.len() == 1 && !unreached.is_empty() {
            return Err(Error::diverged("trainable parameters receive no gradient")
                .with_found(unreached.join(", "))
                .with_help("freeze them with model.freeze"));
        }
        Ok(losses)
    }
}

/// Warns of what is odd about a run. `new`: its weights are those of the model that the recipe names, not of
/// a checkpoint.
fn warn(recipe: &Recipe, run: &Run, epochs: &Epochs, new: bool, observer: &mut Answers) {
    let patience = recipe.never_early(epochs).filter(|_| run.selection.is_some());
    for warning in run.warnings.iter().chain(&recipe.optim.idle(epochs.total())).chain(&patience) {
        observer.event(&Event::Warning(warning));
    }
    // A head with random values is no news where a checkpoint has its own.
    for warning in run.weights.warnings.iter().filter(|_| new) {
        observer.event(&Event::Warning(&Error::model(warning).at(&recipe.model.path)));
    }
}

/// Trains as a recipe says, or resumes the run that is in its run folder.
///
/// `fresh` starts over: an earlier run in the folder is moved aside once everything is prepared, and removed
/// once the new run has a checkpoint; if it comes to none, the earlier run returns.
///
/// # Errors
/// See [`Kind`]; [`Kind::Interrupted`] comes after a clean checkpoint.
///
/// If the observer stops the run ([`Control::Stop`]), the outcome names it and describes the checkpoint.
///
/// The crate's page has an [example](crate#train-from-a-recipe).
pub fn train(
    recipe: &Recipe,
    fresh: bool,
    fs: Arc<dyn Fs>,
    signals: &Signals,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    started();
    let mut observer = Answers::of(observer);
    protect_inputs(recipe, None)?;
    let mut dir = RunDir::open(&recipe.output, fs.clone())?.keep_last(recipe.train.keep_checkpoints);
    let newest = if fresh { Newest::default() } else { dir.resumable()? };
    let run = Run::prepare(recipe)?;
    let epochs = run.plan(recipe)?;
    let window = window(&run.device);
    let mut optimizer =
        Optimizer::with_window(&run.device, &run.model.params, recipe.optim.settings(), window)?;
    optimizer.loss_scale = (recipe.precision == recipe::Precision::F16).then(LossScale::default);
    observer.event(&Event::Prepared(&describe(&run, recipe, &optimizer, epochs.total())));
    let mut finished = false;
    let state = match &newest.found {
        None => {
            warn(recipe, &run, &epochs, true, &mut observer);
            TrainerState::new(recipe, &run)
        }
        Some((step, path)) => {
            let state = TrainerState::restore(path, recipe, &run, &mut optimizer)?;
            finished = state.stopped_early || state.step >= epochs.total();
            let whole = finished && newest.skipped.is_empty();
            if let Some(done) = Outcome::read(dir.path(), *step).filter(|o| whole && o.models_are_whole()) {
                observer.event(&Event::Finished(*step));
                return Ok(done);
            }
            warn(recipe, &run, &epochs, false, &mut observer);
            observer.event(&Event::Resumed(*step, &newest.skipped));
            state
        }
    };
    let recipe_file = dir.path().join("recipe.toml");
    let same = inputs::says_the_same(&recipe_file, recipe);
    if fresh {
        dir.set_aside(same)?;
    }
    if !same {
        write_file(&*fs, &recipe_file, recipe.to_toml(true).as_bytes())?;
    }
    let journal_file = dir.path().join("metrics.jsonl");
    let mut journal = Journal::open(&*fs, &journal_file, Some(state.step))?;
    let resumed = newest.found.as_ref();
    let history = resumed.map_or_else(|| Ok(History::default()), |(_, path)| History::of_checkpoint(path))?;
    if state.step == 0 && run.model.performer().is_some() {
        let errors = approximation(&run, recipe.train.max_tokens)?;
        observer.event(&Event::Approximated(&errors));
        journal.append(&json!({ "step": 0, "attention_error": errors }))?;
    }
    // Of a run that lacks only its models: its times are not those of this process.
    let before = if finished { Outcome::read(dir.path(), state.step) } else { None };
    let coverage = if state.step == 0 { Coverage::of(&run) } else { Coverage::complete(&run) };
    let resumed_from = state.step;
    let mut trainer = Trainer {
        recipe,
        run,
        dir,
        journal,
        optimizer,
        state,
        epochs,
        observer,
        failed_saves: 0,
        saved: newest.found.as_ref().map(|(step, _)| *step),
        saved_best: Default::default(),
        history,
        unwritten: VecDeque::new(),
        resumed_from,
        tokens: 0,
        begun: Instant::now(),
        first_step_seconds: f64::NAN,
        report: String::new(),
        per_class: Vec::new(),
        coverage,
        queued: Vec::new(),
        max_tokens: recipe.train.max_tokens,
        one_by_one: false,
        reported_nan: false,
        before,
    };
    trainer.verify_best()?;
    trainer.run(signals, &*fs)
}

impl Trainer<'_> {
    /// The loop.
    fn run(mut self, signals: &Signals, fs: &dyn Fs) -> Result<Outcome> {
        let total = self.epochs.total();
        let schedule = self.recipe.optim.schedule(total);
        let loader = Loader::start(self.run.parts.clone(), self.recipe, &self.epochs.ends, self.state.step)?;
        while self.state.step < total && !self.state.stopped_early {
            if let Some(signal) = signals.stop() {
                self.synchronize(total, true)?;
                self.save(true)?;
                return Err(Error::new(
                    Kind::Interrupted(signal),
                    format!("stopped by {}; a checkpoint was saved", signals::name(signal)),
                )
                .with_help("give the same command to resume from here"));
            }
            match self.observer.take() {
                Control::Continue => {}
                answer => {
                    self.synchronize(total, true)?;
                    if self.saved != Some(self.state.step) {
                        self.save(answer == Control::Stop)?;
                    }
                    if answer == Control::Stop {
                        return Ok(self.stopped());
                    }
                }
            }
            let Loaded { step, batches } = loader.next()?;
            let lr = self.recipe.optim.lr * schedule.factor(self.state.step);
            let part = &self.run.parts[step.part];
            let weight = batches.iter().map(|b| part.weight_of(b)).sum::<f64>();
            let progress = self.prune(total)?;
            let tokens = self.step(&step, batches, lr, progress)?;
            self.state.step += 1;
            self.queued.push(Queued {
                step: self.state.step,
                epoch: self.epochs.passed(self.state.step),
                lr,
                tokens,
                part: step.part,
                weight,
                examples: step.examples,
            });
            let end_of_epoch = self.epochs.ends.contains(&self.state.step);
            let due = |every| match every {
                Every::Epoch => end_of_epoch,
                Every::Steps(n) => self.state.step.is_multiple_of(n) || self.state.step == total,
            };
            let (evaluate, save) = (due(self.recipe.train.eval_every), due(self.recipe.train.save_every));
            let asked = signals.take_save();
            let ends = self.state.step == total || asked;
            // Everything has to be known now; else the oldest step only, while the device is at the newer
            // ones.
            let logs = self.state.step.is_multiple_of(self.recipe.train.log_every)
                && !self.optimizer.reads_asynchronously();
            if evaluate || save || ends || logs || self.one_by_one || !self.coverage.is_complete() {
                self.synchronize(total, true)?;
            } else if self.optimizer.full() {
                self.synchronize(total, false)?;
            }
            let improved = evaluate && self.validate()?;
            let last = self.state.step == total || self.state.stopped_early;
            if save || last || (improved && self.recipe.train.load_best) || asked {
                self.save(last)?;
            }
        }
        if let Some(unreached) = self.coverage.conclude(&self.run)? {
            self.observer.event(&Event::Warning(&unreached));
        }
        self.finish(fs)
    }

    /// Chooses the pruning masks anew before a step that asks for it. Returns the progress of the schedule.
    fn prune(&mut self, total: u64) -> Result<f64> {
        let Run { device, model, pruning: Some(pruning), .. } = &self.run else { return Ok(0.0) };
        let schedule = self.recipe.prune.schedule(total);
        if let Some(progress) = schedule.due(self.state.step) {
            pruning.choose_masks(device, &model.params, progress)?;
            self.optimizer.zero_masked_states(device, &model.params)?;
        }
        Ok(schedule.progress_at(self.state.step))
    }

    /// One optimizer step: gradients of the loss of its examples over the weight of all of them, in as many
    /// passes as memory asks for, and the update. Where the device has no memory left, passes of half as many
    /// tokens; the sum does not depend on how it is cut. `progress` is that of pruning. Returns how many
    /// tokens.
    fn step(&mut self, step: &prepare::Step, mut batches: Vec<Batch>, lr: f64, progress: f64) -> Result<u64> {
        loop {
            // The loader cuts as the recipe says; the device may have had less memory than that.
            if self.max_tokens != self.recipe.train.max_tokens {
                let (parts, number) = (&self.run.parts, self.state.step);
                batches = prepare::batches(parts, self.recipe, step, number, self.max_tokens)?;
            }
            // As they are cut: without what is added to them.
            let sizes: Vec<usize> = batches.iter().map(Batch::tokens).collect();
            let tokens = sizes.iter().map(|&n| n as u64).sum();
            if self.run.device.replays() {
                batches.iter_mut().for_each(Batch::fill_up);
            }
            self.run.model.begin_step(&self.run.device, self.state.step)?;
            // Steps whose passes have the same sizes launch the same kernels.
            let mut key = DefaultHasher::new();
            // Distances are counted up to the longest sequence, in steps of 64.
            let shape = |b: &Batch| {
                (b.head, b.ids.len(), b.cu_seqlens.len(), b.masked.len(), b.longest().div_ceil(64))
            };
            batches.iter().for_each(|b| shape(b).hash(&mut key));
            let part = step.part;
            self.run.parts[part].task.kernels(&batches).hash(&mut key);
            let passes = Passes { run: &self.run, recipe: self.recipe, part, step: self.state.step };
            let optimizer = &mut self.optimizer;
            let device = &self.run.device;
            let queued = optimizer.queued();
            let mut attempt = || {
                let done = device.replayed(key.finish(), || {
                    let losses = passes.run(&batches, optimizer.scale())?;
                    passes.penalize(progress, optimizer.scale())?;
                    optimizer.step(device, &passes.run.model.params, &losses, lr)
                });
                // A captured step is launched at its end, which may fail when all else is done.
                if done.is_err() {
                    optimizer.forget_beyond(queued);
                }
                done
            };
            let mut done = attempt();
            // Memory of passes of other sizes may be all that is in the way: it goes back, and is asked for
            // in one piece.
            if done.as_ref().is_err_and(|e| e.kind() == Kind::Memory) {
                device.trim()?;
                done = attempt();
            }
            let e = match done {
                Err(e) if e.kind() == Kind::Memory => e,
                done => {
                    done?;
                    self.optimizer.fetch(&self.run.device)?;
                    return Ok(tokens);
                }
            };
            let largest = batches.iter().zip(&sizes).max_by_key(|(_, n)| **n);
            let Some((_, &largest)) = largest.filter(|(b, _)| b.len() > 1) else {
                return Err(e);
            };
            self.max_tokens = largest.div_ceil(2);
            self.run.device.trim()?;
            let halved = Error::memory(format!(
                "out of memory in a pass of {largest} tokens; the run continues with at most {} tokens per pass, which gives the \
                 same steps",
                self.max_tokens
            ))
            .with_found(e.to_string().lines().next().unwrap_or_default().to_owned())
            .with_help(format!("--set train.max_tokens={} avoids the failed attempt", self.max_tokens));
            self.observer.event(&Event::Warning(&halved));
        }
    }

    /// Looks at the steps that were queued, at all of them or at the oldest only: counts and logs them.
    fn synchronize(&mut self, total: u64, all: bool) -> Result<()> {
        let device = &self.run.device;
        let results = if all {
            self.optimizer.synchronize(device)?
        } else {
            self.optimizer.synchronize_oldest(device)?
        };
        self.state.updates = self.optimizer.updates;
        self.state.loss_scale = self.optimizer.loss_scale;
        if self.first_step_seconds.is_nan() && !results.is_empty() {
            self.first_step_seconds = started().elapsed().as_secs_f64();
        }
        let newest = self.queued.last().map(|q| q.step);
        let read: Vec<Queued> = self.queued.drain(..results.len().min(self.queued.len())).collect();
        for (queued, result) in read.iter().zip(&results) {
            self.tokens += queued.tokens;
            if result.overflow {
                self.rescaled(queued)?;
            } else if result.skipped {
                self.skip(result.loss, queued, newest == Some(queued.step))?;
            } else {
                self.state.nonfinite_in_a_row = 0;
            }
            self.log(result, queued, total)?;
        }
        // While parameters are waited for, each step is read before the next one: its gradients are still
        // there.
        if let Some((queued, result)) = read.last().zip(results.last()).filter(|(_, m)| !m.skipped) {
            let Queued { part, weight, .. } = *queued;
            self.coverage.look(&self.run, Looked { part, weight, norm: result.norm })?;
        }
        Ok(())
    }

    /// Reports a step whose gradients were too large for f16 at its loss scale.
    fn rescaled(&mut self, queued: &Queued) -> Result<()> {
        let scale = self.optimizer.scale();
        self.observer.event(&Event::Rescaled { step: queued.step, scale });
        self.write_line(json!({ "step": queued.step, "skipped": true, "loss_scale": scale }))
    }

    /// Counts and reports a step that was not finite; ends the run when there were too many in a row. The
    /// tensor is looked for while the step's gradients are still there.
    fn skip(&mut self, loss: f64, queued: &Queued, newest: bool) -> Result<()> {
        let Queued { step, examples, .. } = queued;
        self.state.nonfinite += 1;
        self.state.nonfinite_in_a_row += 1;
        self.one_by_one = true;
        let params = &self.run.model.params;
        let mut tensor = if newest { "loss" } else { "loss or a gradient" }.to_owned();
        for p in params.layout().list.iter().filter(|p| newest && !p.frozen) {
            let Some(grad) = params.grad(p)? else { continue };
            if self.run.device.read::<f32>(&grad)?.iter().any(|g| !g.is_finite()) {
                tensor = format!("gradient of {}", p.name);
                break;
            }
        }
        let step = *step;
        let event = Event::Skipped { step, loss, tensor: &tensor, examples };
        self.observer.event(&event);
        let line = json!({ "step": step, "skipped": true, "loss": number(loss), "tensor": tensor, "examples": examples });
        self.write_line(line)?;
        let limit = self.recipe.train.max_nonfinite_steps;
        if self.state.nonfinite_in_a_row > limit {
            return Err(Error::diverged(format!(
                "training diverged: {} in a row had a NaN or infinite loss or gradient",
                plural(self.state.nonfinite_in_a_row, "step")
            ))
            .with_expected(format!("at most {limit} (train.max_nonfinite_steps)"))
            .with_found(format!("step {step}: loss {loss}, first in the {tensor}, examples {examples:?}"))
            .with_help("lower optim.lr or raise optim.warmup_ratio; the last finite checkpoint is kept"));
        }
        Ok(())
    }

    fn log(&mut self, result: &StepResult, queued: &Queued, total: u64) -> Result<()> {
        let (sum, n) = (f64::from_bits(self.state.window.0) + result.loss, self.state.window.1 + 1);
        let seconds = self.begun.elapsed().as_secs_f64();
        let passed = queued.step - self.resumed_from;
        let line = StepLog {
            step: queued.step,
            total,
            epoch: queued.epoch,
            loss: sum / n as f64,
            lr: queued.lr,
            grad_norm: result.norm,
            tokens_per_second: self.tokens as f64 / seconds,
            seconds_left: seconds / passed as f64 * (total - queued.step) as f64,
        };
        self.observer.event(&Event::Step(&line));
        self.state.window = (sum.to_bits(), n);
        if queued.step.is_multiple_of(self.recipe.train.log_every) || queued.step == total {
            self.state.window = (0, 0);
            self.observer.event(&Event::Log(&line));
            let entry = json!({
                "step": line.step,
                "epoch": line.epoch,
                "loss": number(line.loss),
                "learning_rate": line.lr,
                "grad_norm": number(line.grad_norm),
                "tokens_per_second": number(line.tokens_per_second),
            });
            self.write_line(entry)?;
        }
        Ok(())
    }
}
