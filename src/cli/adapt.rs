//! `tempra adapt`: a language model on a team's own text first, then the task; and whether that helped.

use super::options::flag;
use super::output::{say, say_json};
use super::style::Voice;
use super::train::watcher;
use super::{sets, threads_arg};
use crate::checkpoint::RealFs;
use crate::data::eval_batches;
use crate::error::{Error, Result};
use crate::metrics::Scores;
use crate::tasks;
use crate::train::recipe::Task;
use crate::train::{self, Recipe, Run, Signals};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Words and options.
pub fn define() -> Command {
    let recipe = |id: &'static str, name: &'static str, help: &'static str| {
        Arg::new(id).value_name(name).required(true).value_parser(value_parser!(PathBuf)).help(help)
    };
    Command::new("adapt")
        .about("Adapts an encoder to a team's own text, trains a task with it and without, and says what that gained")
        .long_about(
            "Adapts an encoder to a team's own text, trains a task with it and without, and says what that gained \
             (Gururangan et al. 2020).\n\n\
             TEXT is a recipe with task \"mask\" (of an XLNet \"permute\"), TASK any other recipe of the same model. The encoder is \
             trained on TEXT as a language model; then TASK is trained twice, from the model it names and from the adapted one, with the \
             same seeds and steps. Reported are the perplexity on held-out text before and after, and the task's scores \
             without and with. Every run goes on where it stopped when the command is given again.",
        )
        .after_help("Example:\n  tempra adapt own-text.toml reviews.toml --set optim.lr=5e-5")
        .arg(recipe("text", "TEXT", "The recipe of the language model"))
        .arg(recipe("task", "TASK", "The recipe of the task"))
        .arg(super::set_arg().help("Overrides a key of both recipes: --set train.epochs=1"))
        .arg(threads_arg().help("CPU threads, 0 for all; over the recipes'"))
        .arg(
            Arg::new("fresh")
                .long("fresh")
                .action(ArgAction::SetTrue)
                .help("Start over: remove what earlier runs left in the run folders"),
        )
        .arg(super::json_arg())
}

/// Runs it.
pub fn run(args: &ArgMatches) -> Result<i32> {
    let path = |id: &str| args.get_one::<PathBuf>(id).cloned().unwrap_or_default();
    let mut set = sets(args)?;
    set.extend(args.get_one::<usize>("threads").map(|n| ("threads".to_owned(), n.to_string())));
    let (text, task) = (Recipe::load(&path("text"), &set)?, Recipe::load(&path("task"), &set)?);
    if ![Task::Mask, Task::Permute].contains(&text.task) {
        return Err(Error::usage("the first recipe is that of a language model")
            .at(path("text"))
            .expected("task = \"mask\" or task = \"permute\"")
            .found(format!("task = \"{}\"", text.task.name())));
    }
    if !text.data.validates() {
        return Err(Error::usage("held-out text tells whether adapting helped")
            .at(path("text"))
            .hint("give data.validation, or a data.validation_fraction above 0"));
    }
    let signals = Signals::install()?;
    let voice = Voice::of(args);
    let go = |recipe: &Recipe| {
        let mut watch = watcher(recipe, false, flag(args, "quiet") || flag(args, "json"));
        train::train(recipe, args.get_flag("fresh"), Arc::new(RealFs), &signals, watch.as_mut())
    };
    voice.note("perplexity of the model as it is, on the held-out text");
    let before = held_out(&text)?;
    let adapted = go(&text)?;
    let after = adapted.best.as_ref().map(|b| b.scores.clone()).unwrap_or_default();

    let mut table = json!({ "perplexity": { "before": perplexity(&before), "after": perplexity(&after) } });
    for one in task.runs() {
        for (name, model) in [("without", None), ("with", Some(&adapted.model))] {
            let mut recipe = one.clone();
            recipe.output = recipe.output.join(name);
            if let Some(model) = model {
                recipe.model.path = absolute(model)?;
            }
            let outcome = go(&recipe)?;
            let scores = outcome.test.or(outcome.best.map(|b| b.scores)).unwrap_or_default();
            for (metric, value) in scores.iter() {
                let list = &mut table["task"][metric][name];
                match list.as_array_mut() {
                    Some(list) => list.push(value.into()),
                    None => *list = json!([value]),
                }
            }
        }
    }
    if flag(args, "json") {
        say_json(&table)?;
    } else {
        say(report(&table))?;
    }
    Ok(0)
}

fn absolute(path: &Path) -> Result<String> {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let text = whole.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::usage("a path that is not UTF-8").at(path).hint("rename the folder"))
}

fn perplexity(scores: &Scores) -> Value {
    scores.get("perplexity").filter(|p| p.is_finite()).map_or(Value::Null, Value::from)
}

/// The scores of a model on the held-out text before it is trained.
fn held_out(recipe: &Recipe) -> Result<Scores> {
    let run = Run::prepare(recipe)?;
    let Some((part, set)) = run.parts.first().and_then(|p| Some((p, p.validation.as_ref()?))) else {
        return Ok(Scores::new());
    };
    let batches = eval_batches(set, recipe.train.max_tokens, 0)?;
    Ok(tasks::evaluate(&run.device, &run.model, &*part.task, set, batches)?.scores())
}

fn report(table: &Value) -> String {
    let number = |v: &Value| v.as_f64().map_or("none".to_owned(), |x| format!("{x:.4}"));
    let p = &table["perplexity"];
    let mut text = format!(
        "perplexity of held-out text: {} before, {} after\n\n",
        number(&p["before"]),
        number(&p["after"])
    );
    text += &format!("{:<16} {:>10} {:>10} {:>10}\n", "the task", "without", "with", "gain");
    for (metric, both) in table["task"].as_object().into_iter().flatten() {
        let mean = |name: &str| {
            let list = both[name].as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(Value::as_f64).sum::<f64>() / list.len().max(1) as f64
        };
        let (without, with) = (mean("without"), mean("with"));
        text += &format!("{metric:<16} {without:>10.4} {with:>10.4} {:>+10.4}\n", with - without);
    }
    text.trim_end().to_owned()
}
