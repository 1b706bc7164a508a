//! `tempra adapt`: a language model on a team's own text first, then the task; and whether that helped.

use super::options::flag;
use super::output::{say, say_json};
use super::style::Voice;
use super::train::watcher;
use super::{sets, threads_arg};
use crate::checkpoint::{RealFs, check_run_folder, number, real_path};
use crate::data::eval_batches;
use crate::error::{Error, Kind, Result};
use crate::metrics::Scores;
use crate::models::source;
use crate::tasks;
use crate::train::recipe::TaskKind;
use crate::train::{self, Control, Event, Observer, Observers, Recipe, Run, Signals, protect_inputs};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Words and options.
pub fn define() -> Command {
    let recipe = |id: &'static str, name: &'static str, help: &'static str| {
        Arg::new(id).value_name(name).required(true).value_parser(value_parser!(PathBuf)).help(help)
    };
    Command::new("adapt")
        .about("Adapt an encoder to your own text, and measure what a task gains")
        .long_about(
            "Adapt an encoder to your own text, then measure what a task gains (domain-adaptive pretraining, Gururangan et al. 2020).\n\n\
             TEXT is a recipe with task \"mask\", or \"permute\" for XLNet. TASK is any other recipe with the same model. \
             tempra first trains the encoder on TEXT as a language model. It then trains TASK twice with the same seeds and \
             steps: from the original model and from the adapted one.\n\n\
             The report shows the perplexity on held-out text before and after adapting, the scores of the task without and \
             with adapting, and the gain. A positive gain is always an improvement, also for a score where lower is better. To \
             resume after a stop, give the same command again.",
        )
        .after_help("Example:\n  tempra adapt own-text.toml reviews.toml --set optim.lr=5e-5")
        .arg(recipe("text", "TEXT", "Recipe of the language model"))
        .arg(recipe("task", "TASK", "Recipe of the task"))
        .arg(super::set_arg().help("Override a key of both recipes, such as --set train.epochs=1"))
        .arg(threads_arg().help("CPU threads; 0 uses all cores [default: the recipes']"))
        .arg(
            Arg::new("fresh")
                .long("fresh")
                .action(ArgAction::SetTrue)
                .help("Start over: replace earlier runs in the run folders once the new ones have a checkpoint"),
        )
        .arg(super::json_arg())
}

/// Says what is odd about two recipes. A flag is for both, so it is warned about if it has no effect in
/// either.
fn warn(text: Vec<Error>, task: Vec<Error>, voice: &Voice) {
    let flags: Vec<String> = text.iter().filter(|w| w.file().is_none()).map(|w| w.to_string()).collect();
    let same = |w: &Error| flags.iter().any(|f| f.lines().next() == w.to_string().lines().next());
    text.iter().filter(|w| w.file().is_some()).for_each(|w| voice.warn(w));
    task.iter().filter(|w| w.file().is_some() || same(w)).for_each(|w| voice.warn(w));
}

/// Runs it.
pub fn run(args: &ArgMatches) -> Result<i32> {
    let path = |id: &str| args.get_one::<PathBuf>(id).cloned().unwrap_or_default();
    let mut set = sets(args)?;
    set.extend(args.get_one::<usize>("threads").map(|n| ("threads".to_owned(), n.to_string())));
    let (text, odd) = Recipe::load_with_warnings(&path("text"), &set)?;
    let (task, also) = Recipe::load_with_warnings(&path("task"), &set)?;
    warn(odd, also, &Voice::of(args));
    if ![TaskKind::Mask, TaskKind::Permute].contains(&text.task) {
        return Err(Error::usage("TEXT, the first recipe, is not that of a language model")
            .at(path("text"))
            .with_expected("task = \"mask\" or task = \"permute\"")
            .with_found(format!("task = \"{}\"", text.task.name()))
            .with_help("name the recipe of the language model first, then that of the task"));
    }
    if !text.data.validates() {
        return Err(Error::usage("TEXT has no validation text, so the perplexity cannot be measured")
            .at(path("text"))
            .with_help("set data.validation, or data.validation_fraction above 0"));
    }
    same_model(&text, &task)?;
    // Whatever can be found wrong now is found now: the first of the runs may take hours.
    check_folders((&text, &path("text")), (&task, &path("task")))?;
    task.runs().first().map(Run::prepare).transpose()?;
    let signals = Signals::install()?;
    let voice = Voice::of(args);
    let go = |recipe: &Recipe| {
        let mut watch = watcher(recipe, false, flag(args, "quiet") || flag(args, "json"));
        let mut initialised = Initialised(Vec::new());
        let mut both = Observers::default().with(watch.as_mut()).with(&mut initialised);
        let outcome = train::train(recipe, args.get_flag("fresh"), Arc::new(RealFs), &signals, &mut both)?;
        Ok::<_, Error>((outcome, initialised.0))
    };
    voice.note("measuring the perplexity of the original model on the held-out text");
    let before = held_out(&text)?;
    let (adapted, _) = go(&text)?;
    let after = adapted.validation.clone().unwrap_or_default();

    let mut table = json!({ "perplexity": { "before": perplexity(&before), "after": perplexity(&after) } });
    for one in task.runs() {
        let mut started = Vec::new();
        for (name, model) in [("without", None), ("with", Some(&adapted.model))] {
            let mut recipe = one.clone();
            recipe.output = recipe.output.join(name);
            if let Some(model) = model {
                recipe.model.path = absolute(model)?;
            }
            let (outcome, initialised) = go(&recipe)?;
            started.push(initialised);
            let scores = outcome.scores();
            for (metric, value) in scores.iter() {
                if let Some(higher) = outcome.higher_is_better.get(metric) {
                    table["task"][metric]["higher_is_better"] = (*higher).into();
                }
                let list = &mut table["task"][metric][name];
                match list.as_array_mut() {
                    Some(list) => list.push(number(value)),
                    None => *list = json!([number(value)]),
                }
            }
        }
        // A head that the model folder has and a language model has not.
        if let [without, with] = &started[..] {
            let new: Vec<&str> = with.iter().filter(|n| !without.contains(n)).map(String::as_str).collect();
            if !new.is_empty() {
                voice.warn(format!(
                    "these parameters start from random values with the adapted encoder, and from the model without it: {}",
                    new.join(", ")
                ));
            }
        }
    }
    for both in table["task"].as_object_mut().into_iter().flat_map(|t| t.values_mut()) {
        let (without, with) = (mean(&both["without"]), mean(&both["with"]));
        let gain = both["higher_is_better"]
            .as_bool()
            .map(|higher| if higher { with - without } else { without - with });
        both["gain"] = gain.filter(|g| !g.is_nan()).into();
    }
    if flag(args, "json") {
        say_json(&table)?;
    } else {
        say(report(&table))?;
    }
    Ok(0)
}

/// Refuses run folders that hold files of others, an input, or the run of the other recipe.
fn check_folders((text, text_file): (&Recipe, &Path), (task, task_file): (&Recipe, &Path)) -> Result<()> {
    let mut recipes = vec![text.clone()];
    for one in task.runs() {
        recipes
            .extend(["without", "with"].map(|name| Recipe { output: one.output.join(name), ..one.clone() }));
    }
    let adapted = real_path(&text.output);
    for (i, recipe) in recipes.iter().enumerate() {
        protect_inputs(recipe, Some(text_file))?;
        protect_inputs(recipe, Some(task_file))?;
        check_run_folder(&recipe.output)?;
        let output = real_path(&recipe.output);
        if i > 0 && (adapted.starts_with(&output) || output.starts_with(adapted.join("model"))) {
            return Err(Error::usage("both recipes write to the same output folder")
                .at(&recipe.output)
                .with_found(format!("output = \"{}\" in TEXT", text.output.display()))
                .with_help("set a different output in each recipe"));
        }
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<String> {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let text = whole.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::usage("the path is not UTF-8").at(path).with_help("rename the folder"))
}

/// The mean of the numbers of a list; NaN if there is none, or one of them is no number.
fn mean(list: &Value) -> f64 {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|v| v.as_f64().unwrap_or(f64::NAN)).sum::<f64>() / list.len() as f64
}

/// Keeps the names of the parameters that a run starts from random values.
struct Initialised(Vec<String>);

impl Observer for Initialised {
    fn event(&mut self, event: &Event) -> Control {
        if let Event::Prepared(p) = event {
            self.0.clone_from(&p.weights.initialised);
        }
        Control::Continue
    }
}

/// Refuses recipes that start from different models: what an encoder gains is only seen beside the same
/// encoder.
fn same_model(text: &Recipe, task: &Recipe) -> Result<()> {
    let (a, b) = (source::resolve(&text.model.path)?, source::resolve(&task.model.path)?);
    let whole = |dir: &Path| std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    if whole(&a) == whole(&b) {
        return Ok(());
    }
    let (of_text, of_task) = (contents(&a)?, contents(&b)?);
    if of_text == of_task {
        return Ok(());
    }
    let names: BTreeSet<&String> = of_text.keys().chain(of_task.keys()).collect();
    let other: Vec<&str> =
        names.into_iter().filter(|n| of_text.get(*n) != of_task.get(*n)).map(String::as_str).collect();
    Err(Error::usage("the two recipes start from different models, so their scores cannot be compared")
        .with_expected(format!("model.path = {:?} in both", text.model.path))
        .with_found(format!("model.path = {:?} in TASK, with another {}", task.model.path, other.join(", ")))
        .with_help("--set model.path=FOLDER sets the model of both"))
}

/// Hashes of the files that make a model and its tokenizer, by name.
fn contents(dir: &Path) -> Result<BTreeMap<String, blake3::Hash>> {
    let fail = |path: &Path, e: &std::io::Error| Error::io(Kind::Model, "cannot be read", path, e);
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(|e| fail(dir, &e))? {
        let path = entry.map_err(|e| fail(dir, &e))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let part = [".safetensors", ".bin", ".index.json", ".model", "vocab.txt", "merges.txt"];
        let config = ["config.json", "vocab.json", "added_tokens.json", "special_tokens_map.json"];
        if part.iter().any(|end| name.ends_with(end))
            || config.contains(&name.as_str())
            || name.starts_with("tokenizer")
        {
            let mut hasher = blake3::Hasher::new();
            let hashed = std::fs::File::open(&path).and_then(|file| hasher.update_reader(file).map(|_| ()));
            hashed.map_err(|e| fail(&path, &e))?;
            all.insert(name, hasher.finalize());
        }
    }
    Ok(all)
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
    let shown = |v: &Value| v.as_f64().map_or("none".to_owned(), |x| format!("{x:.4}"));
    let p = &table["perplexity"];
    let mut text = format!(
        "perplexity of the held-out text: {} before adapting, {} after\n\n",
        shown(&p["before"]),
        shown(&p["after"])
    );
    let rows = table["task"].as_object();
    let head = "score";
    let width = rows.into_iter().flatten().map(|(name, _)| name.len()).max().unwrap_or(0).max(head.len());
    text += &format!("{head:<width$} {:>10} {:>10} {:>10}\n", "without", "adapted", "gain");
    for (metric, both) in rows.into_iter().flatten() {
        let gain = both["gain"].as_f64().map_or("-".to_owned(), |g| format!("{g:+.4}"));
        let lower = if both["higher_is_better"] == false { "  lower is better" } else { "" };
        let (without, with) = (mean(&both["without"]), mean(&both["with"]));
        text += &format!("{metric:<width$} {without:>10.4} {with:>10.4} {gain:>10}{lower}\n");
    }
    text.trim_end().to_owned()
}
