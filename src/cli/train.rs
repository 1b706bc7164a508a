//! `tempra train`: fine-tunes a model as a recipe says.

use super::options::flag;
use super::output::{progress, say};
use super::style::Voice;
use super::{device_arg, set_arg, sets, threads_arg};
use crate::checkpoint::{RealFs, check_run_folder, check_seeds_folder, number, write_file};
use crate::console::line;
use crate::error::{Error, Result};
use crate::metrics::Scores;
use crate::train::beside::RecallPair;
use crate::train::recipe::TaskKind;
use crate::train::{self, Control, Event, Observer, Outcome, Recipe, Signals, StepLog};
use crate::units::{bytes, count, plural, thousands};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Words and options.
pub fn define() -> Command {
    Command::new("train")
        .about("Fine-tune a model on labelled data, or resume a run that was stopped")
        .long_about(
            "Fine-tune a pretrained encoder as a recipe says.\n\n\
             The run folder receives checkpoints, the log metrics.jsonl, the final scores metrics.json, the resolved \
             recipe.toml, and model/, which `transformers` can open.\n\n\
             To resume a run that was stopped or killed, give the same command again. Training continues from the newest \
             intact checkpoint and ends with the same bits. SIGINT (Ctrl-C) and SIGTERM stop after the current step and \
             write a checkpoint. SIGUSR1 writes a checkpoint without stopping. If the run is finished, the command \
             prints its results again and changes nothing.\n\n\
             metrics.json holds the scores of model/ on the test set, or on the validation set if there is no test set. \
             It also names the training step that model/ was taken from, the decision thresholds, and the best validation \
             scores during training.",
        )
        .after_help(
            "Examples:\n  tempra init reviews.csv -o recipe.toml\n  tempra train recipe.toml\n  \
             tempra train recipe.toml --set optim.lr=3e-5 --set train.epochs=5 --set output=runs/b\n  \
             tempra train recipe.toml --set seeds=[0,1,2]\n\n`tempra help recipe` explains every key.",
        )
        .arg(Arg::new("recipe").value_name("RECIPE").required(true).value_parser(value_parser!(PathBuf)).help("Recipe file, TOML or JSON"))
        .arg(set_arg())
        .arg(device_arg().help("Device: auto, cpu, cuda, cuda:N, wgpu or wgpu:N [default: the recipe's]"))
        .arg(Arg::new("seed").long("seed").value_name("N").help("Random seed [default: the recipe's]"))
        .arg(threads_arg().help("CPU threads; 0 uses all cores [default: the recipe's]"))
        .arg(Arg::new("fresh").long("fresh").action(ArgAction::SetTrue).help("Start over: replace the earlier run in the run folder once the new one has a checkpoint"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Write events to standard output as JSON Lines"))
}

/// Runs it.
pub fn run(args: &ArgMatches) -> Result<i32> {
    let path = args
        .get_one::<PathBuf>("recipe")
        .ok_or_else(|| Error::usage("no recipe is given").with_help("`tempra init DATA.csv` writes one"))?;
    let mut set = sets(args)?;
    for key in ["device", "seed"] {
        set.extend(args.get_one::<String>(key).map(|value| (key.to_owned(), value.clone())));
    }
    set.extend(args.get_one::<usize>("threads").map(|n| ("threads".to_owned(), n.to_string())));
    let (recipe, warnings) = Recipe::load_with_warnings(path, &set)?;
    warn(&warnings, args);
    let signals = Signals::install()?;
    let (fresh, as_json) = (args.get_flag("fresh"), args.get_flag("json"));
    let runs = recipe.runs();
    if runs.len() > 1 {
        check_seeds_folder(&recipe.output)?;
    }
    // All of them before the first: a later one that cannot start would come hours too late.
    for one in &runs {
        train::protect_inputs(one, Some(path))?;
        check_run_folder(&one.output)?;
    }
    let (mut outcomes, mut written) = (Vec::with_capacity(runs.len()), Ok(()));
    for one in &runs {
        let mut watch = watcher(one, as_json, flag(args, "quiet"));
        let outcome = train::train(one, fresh, Arc::new(RealFs), &signals, watch.as_mut())?;
        drop(watch);
        let told = match as_json {
            true => say(
                json!({ "event": "done", "seed": one.seed, "model": outcome.model, "result": outcome.to_json() }),
            ),
            false => say(conclusion(one, &outcome)),
        };
        // The files of the run are there; the other runs and the summary must be too before this is an error.
        written = written.and(told);
        outcomes.push(outcome);
    }
    if outcomes.len() > 1 {
        let table = summary(&runs, &outcomes);
        let file = recipe.output.join("summary.json");
        write_file(&RealFs, &file, format!("{table:#}\n").as_bytes())?;
        let told = match as_json {
            true => say(json!({ "event": "summary", "result": table })),
            false => say(over_seeds(outcomes.len(), &table)),
        };
        written = written.and(told);
    }
    written.map(|()| 0)
}

/// The table of several seeds, for a person.
fn over_seeds(seeds: usize, table: &Value) -> String {
    let width = table.as_object().into_iter().flatten().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, v): (&String, &Value)| {
        let [mean, std] = ["mean", "std"].map(|key| v[key].as_f64().unwrap_or(f64::NAN));
        let teacher = v["teacher"].as_array().map(|values| {
            let sum: f64 = values.iter().map(|v| v.as_f64().unwrap_or(f64::NAN)).sum();
            format!("  (teacher {:.4})", sum / values.len() as f64)
        });
        format!("\n  {name:<width$} {mean:>9.4} +- {std:.4}{}", teacher.unwrap_or_default())
    };
    let lines: String = table.as_object().into_iter().flatten().map(line).collect();
    format!("\nMean and standard deviation over {seeds} seeds:{lines}")
}

/// The observer of a run: JSON Lines for a program, warnings alone, or the screen.
pub fn watcher(recipe: &Recipe, as_json: bool, quiet: bool) -> Box<dyn Observer> {
    match (as_json, quiet) {
        (true, _) => Box::new(Lines),
        (_, true) => Box::new(Quiet),
        _ => Box::new(Screen::new(recipe)),
    }
}

/// Mean and sample standard deviation of every score over several runs.
fn summary(runs: &[Recipe], outcomes: &[Outcome]) -> Value {
    let mut table = json!({});
    let set = if outcomes[0].test.is_some() { "test" } else { "validation" };
    let seeds: Vec<u64> = runs.iter().map(|r| r.seed).collect();
    let steps: Vec<u64> = outcomes.iter().map(|o| o.model_step).collect();
    let entry = |values: Vec<f64>| {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let var = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0);
        let values: Vec<Value> = values.into_iter().map(number).collect();
        json!({
            "mean": number(mean), "std": number(var.sqrt()), "values": values, "seeds": seeds, "scored_on": set,
            "model_steps": steps,
        })
    };
    let of = |name: &str, scores: &dyn Fn(&Outcome) -> Option<Scores>| -> Vec<f64> {
        outcomes.iter().map(|o| scores(o).and_then(|s| s.get(name)).unwrap_or(f64::NAN)).collect()
    };
    for (name, _) in outcomes[0].scores().iter() {
        table[name] = entry(of(name, &|o| Some(o.scores())));
        if outcomes[0].teacher.is_some() {
            let values = of(name, &|o| Some(o.teacher.as_ref()?.scores.clone()));
            table[name]["teacher"] = values.into_iter().map(number).collect();
        }
    }
    for pair in outcomes[0].teacher.iter().flat_map(|teacher| &teacher.recall) {
        let of = |value: fn(&RecallPair) -> f64| -> Vec<f64> {
            let all =
                outcomes.iter().map(|o| o.teacher.as_ref()?.recall.iter().find(|r| r.class == pair.class));
            all.map(|found| found.map_or(f64::NAN, value)).collect()
        };
        let mut recall = entry(of(|r| r.student));
        recall["teacher"] = of(|r| r.teacher).into_iter().map(number).collect();
        table[format!("recall of {}", pair.class)] = recall;
    }
    table
}

/// What is printed at the end of a run: the scores, what was trained, where the model is and how to use it.
fn conclusion(recipe: &Recipe, o: &Outcome) -> String {
    let mut lines = vec![String::new()];
    if let Some(best) = &o.best {
        lines.push(format!("best validation (step {}): {}", best.step, best.scores));
    }
    let other = o.best.as_ref().is_none_or(|b| b.step != o.model_step || !o.thresholds.is_empty());
    if let Some(scores) = o.validation.as_ref().filter(|_| other) {
        let by = if o.thresholds.is_empty() { "" } else { ", tuned thresholds" };
        lines.push(format!("validation of model/ (step {}{by}): {scores}", o.model_step));
    }
    for b in &o.best_of {
        let value = b.best.scores.get(&b.metric).unwrap_or(f64::NAN);
        let folder = match &b.model {
            Some(model) if *model == o.model => ", saved in model/".to_owned(),
            Some(model) => format!(", saved in {}", model.display()),
            None => ", not saved".to_owned(),
        };
        lines.push(format!("best {} (step {}): {} {value:.4}{folder}", b.task, b.best.step, b.metric));
    }
    if let Some(test) = &o.test {
        lines.push(format!("test of model/ (step {}): {test}", o.model_step));
    }
    if !o.report.is_empty() {
        lines.push(format!("\n{}", o.report.trim_end()));
    }
    lines.extend(o.teacher.as_ref().map(|teacher| format!("\n{}", teacher.to_string().trim_end())));
    if !o.pruned.is_empty() {
        let units = o
            .pruned
            .iter()
            .map(|u| format!("{} of {} {}", thousands(u.masked as u64), thousands(u.of as u64), u.what));
        lines.push(format!("\npruned: {}", units.collect::<Vec<_>>().join(", ")));
    }
    let early = match &o.stopped_by {
        Some(by) => format!(" (stopped by {by}; the same command resumes)"),
        None if o.stopped_early => " (stopped early)".to_owned(),
        None => String::new(),
    };
    let speed = match o.train_seconds.is_finite() {
        true => format!(" in {:.1} s, {} tokens/s", o.train_seconds, thousands(o.tokens_per_second as u64)),
        false => String::new(),
    };
    lines.push(format!("\n{}{early}{speed}", plural(o.steps, "step")));
    lines.push(format!("model: {}", o.model.display()));
    lines.extend(sentence_command(recipe, &o.model).map(|command| format!("try it: {command}")));
    lines.push(format!("use it: {}", next_command(recipe, &o.model)));
    lines.join("\n")
}

/// The command that shows what a trained model says of one text, for tasks that have an answer for a text.
fn sentence_command(recipe: &Recipe, model: &Path) -> Option<String> {
    let text = match recipe.task {
        TaskKind::Answer => "--question \"Who left?\" --context \"Alice left.\"",
        TaskKind::Tag => "--sentence \"Some text.\"",
        // `tempra embed` uses its vectors.
        TaskKind::Similar => return None,
        task if task.entry().rows() && recipe.data.pair.is_some() => {
            "--sentence \"Some text.\" --pair \"Another text.\""
        }
        task if task.entry().rows() => "--sentence \"Some text.\"",
        _ => return None,
    };
    Some(format!("tempra predict {} {text}", model.display()))
}

/// The command that uses a trained model, with a file like those that it was trained on.
fn next_command(recipe: &Recipe, model: &Path) -> String {
    let model = model.display();
    let d = &recipe.data;
    // A folder of the training data says nothing; a recipe of several tasks has no data of its own.
    let extension = d.train.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
    let extension = extension.as_deref().unwrap_or("csv");
    let columns = match &d.pair {
        Some(pair) => format!("the columns {:?} and {pair:?}", d.text),
        None => format!("the column {:?}", d.text),
    };
    match recipe.task {
        TaskKind::Tag if ["jsonl", "json", "parquet"].contains(&extension) => {
            format!("tempra predict {model} FILE.{extension}   (lists of words in {columns})")
        }
        TaskKind::Tag => format!(
            "tempra predict {model} FILE.{extension}   (one word per line, an empty line between sentences)"
        ),
        TaskKind::Answer => {
            format!("tempra predict {model} FILE.json -o FOLDER   (questions in the format of SQuAD)")
        }
        TaskKind::Similar => {
            format!("tempra embed {model} FILE.csv -o vectors.npy   (needs the column {:?})", d.text)
        }
        TaskKind::Multi => format!("tempra predict {model} FILE --head NAME   (NAME is one of the tasks)"),
        task if task.entry().pair().is_some() => {
            let says = "whether that text follows the one in";
            format!("tempra predict {model} FILE.csv --pair COLUMN   ({says} the column {:?})", d.text)
        }
        task if task.entry().language().is_some() => {
            format!("tempra predict {model} FILE.csv   (texts with mask tokens in the column {:?})", d.text)
        }
        _ => format!("tempra predict {model} FILE.csv   (needs {columns})"),
    }
}

/// Says what is odd about a recipe, as a line of JSON where these are asked for.
fn warn(warnings: &[Error], args: &ArgMatches) {
    for warning in warnings {
        if args.get_flag("json") {
            progress(Event::Warning(warning).to_json());
        } else {
            Voice::of(args).warn(warning);
        }
    }
}

/// Warnings alone.
struct Quiet;

impl Observer for Quiet {
    fn event(&mut self, event: &Event) -> Control {
        if let Event::Warning(e) = event {
            Voice::new(true, false).warn(e);
        }
        Control::Continue
    }
}

/// Events as JSON lines.
struct Lines;

impl Observer for Lines {
    fn event(&mut self, event: &Event) -> Control {
        // One line for each step would be most of the output; `log` has their means.
        if !matches!(event, Event::Step(_)) {
            progress(event.to_json());
        }
        Control::Continue
    }
}

/// Events for a person: a bar on standard error where that is a terminal, and lines worth keeping.
struct Screen {
    bar: ProgressBar,
    terminal: bool,
}

impl Screen {
    fn new(recipe: &Recipe) -> Screen {
        let terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(
            None,
            if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
        );
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        let screen = Screen { bar, terminal };
        screen.line(&format!("run {} (seed {})", recipe.output.display(), recipe.seed));
        screen
    }
    fn line(&self, text: &str) {
        self.bar.suspend(|| line(text));
    }
    fn numbers(l: &StepLog) -> String {
        let left = l.seconds_left.max(0.0);
        let time = if left < 90.0 { format!("{left:.0} s") } else { format!("{:.0} min", left / 60.0) };
        format!(
            "loss {:.4}  lr {:.2e}  norm {:.2}  {:.0} tokens/s  {time} left",
            l.loss, l.lr, l.grad_norm, l.tokens_per_second
        )
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Screen {
    fn event(&mut self, event: &Event) -> Control {
        match event {
            Event::Prepared(p) => {
                let (all, trained) = p.parameters;
                let verified = p.verified.as_ref().map(|d| format!(", verified ({})", &d[..12]));
                self.line(&format!("device: {}{}", p.device, verified.unwrap_or_default()));
                let trained = match all - trained {
                    0 => "all trained".to_owned(),
                    _ => format!("{} of them trained", count(trained as u64)),
                };
                self.line(&format!("model: {} parameters, {trained}", count(all as u64)));
                self.line(&format!("memory: {} planned: {}", bytes(p.memory.total), p.memory));
                if let Some(t) = &p.teacher {
                    let from = if t.cached { "from the cache" } else { "computed" };
                    let outputs = match t.outputs {
                        0 => String::new(),
                        n => format!(", {} {from}", plural(n as u64, "output")),
                    };
                    let live = if t.live.is_empty() { "" } else { "; beside the student: " };
                    self.line(&format!("teacher: {}{outputs}{live}{}", t.path, t.live));
                }
                if let Some(p) = &p.pruning {
                    self.line(&format!("pruning: {p}"));
                }
                self.line(&format!("weights: {}", p.weights));
                for (name, examples, tokens, lost) in &p.splits {
                    let cut = match *lost {
                        0 => String::new(),
                        lost => format!(", {} cut", plural(lost, "token")),
                    };
                    let (examples, tokens) =
                        (plural(*examples as u64, "example"), plural(*tokens as u64, "token"));
                    self.line(&format!("{name}: {examples}, {tokens}{cut}"));
                }
                for (name, follow, random) in &p.pairs {
                    let share = 100.0 * *random as f64 / (follow + random).max(1) as f64;
                    self.line(&format!(
                        "{name}: {follow} pairs of neighbouring texts, {random} random pairs ({share:.0} %)"
                    ));
                }
                for (name, scheme) in &p.tag_schemes {
                    let of = if name.is_empty() { String::new() } else { format!(" of {name}") };
                    self.line(&format!("tag scheme{of}: {scheme}"));
                }
                if !p.classes.is_empty() {
                    self.line(&format!("classes: {}", p.classes.join(", ")));
                }
                if let Some(by) = &p.selection {
                    self.line(&format!("best model by: {by}"));
                }
                if p.skipped_rows > 0 {
                    self.line(&format!("skipped: {} that cannot be read", plural(p.skipped_rows, "row")));
                }
                self.bar.set_length(p.steps);
            }
            Event::Approximated(errors) => {
                let all: Vec<String> = errors.iter().map(|e| format!("{:.1} %", 100.0 * e)).collect();
                self.line(&format!(
                    "attention: approximated; relative error of each layer before training: {}",
                    all.join(", ")
                ));
            }
            Event::Resumed(step, skipped) => {
                skipped.iter().for_each(|(path, why)| {
                    self.line(&format!("damaged checkpoint {}: {why}", path.display()))
                });
                self.line(&format!("resuming from step {step}"));
            }
            Event::Step(l) => {
                self.bar.set_position(l.step);
                self.bar.set_message(Self::numbers(l));
            }
            Event::Log(l) if !self.terminal => {
                line(format!("step {}/{}  {}", l.step, l.total, Self::numbers(l)))
            }
            Event::Log(_) => {}
            Event::Rescaled { step, scale } => {
                self.line(&format!(
                    "step {step} skipped: a gradient overflowed in f16; the loss scale is now {scale}"
                ));
            }
            Event::Skipped { step, loss, tensor, examples } => {
                self.line(&format!(
                    "step {step} skipped: the {tensor} is not finite (loss {loss}), training rows {examples:?}"
                ));
            }
            Event::Evaluated { step, split, scores, best } => {
                self.line(&format!("step {step} {split}: {scores}{}", if *best { "  (best)" } else { "" }));
            }
            Event::Tuned { task, thresholds, scores } => {
                let all: Vec<String> = thresholds.iter().map(|(name, t)| format!("{name} {t:.3}")).collect();
                let of = if task.is_empty() { String::new() } else { format!(" of {task}") };
                let f1 = |s: &Scores| s.get("f1_macro").unwrap_or(f64::NAN);
                self.line(&format!(
                    "thresholds{of}, tuned on the validation examples: {}  (f1_macro {:.4}; {:.4} with 0.5)",
                    all.join(", "),
                    f1(scores[1]),
                    f1(scores[0])
                ));
            }
            Event::Finished(step) => {
                self.line(&format!(
                    "this run is already finished (step {step}): nothing to do; --fresh starts over"
                ));
            }
            Event::Saved(step, path) => self.line(&format!("step {step} saved: {}", path.display())),
            Event::Warning(e) => self.line(&format!("warning: {e}")),
        }
        Control::Continue
    }
}
