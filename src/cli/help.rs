//! `tempra help`: commands, and three topics besides: the keys of a recipe, the metrics, the exit codes.

use super::output::say;
use crate::error::{Error, Result};
use crate::metrics::{self, METRICS, Metric};
use crate::suggest::nearest;
use crate::tasks;
use crate::train::recipe::{Key, Recipe};
use clap::{Arg, ArgMatches, Command};
use std::fmt::Write;

/// A topic besides the commands.
struct Topic {
    name: &'static str,
    about: &'static str,
    /// Its text, one line a paragraph; only the part that the second word names, if the topic has parts.
    text: fn(Option<&str>) -> Result<String>,
    /// What the second word names: "the name of ...".
    parts: Option<&'static str>,
}

const TOPICS: &[Topic] = &[
    Topic {
        name: "recipe",
        about: "every key of a recipe, with type, default and meaning",
        text: recipe,
        parts: Some("a table or key"),
    },
    Topic {
        name: "metrics",
        about: "every metric, and the tasks that have it",
        text: metrics,
        parts: Some("a metric"),
    },
    Topic {
        name: "exit-codes",
        about: "what each exit code of the program means",
        text: exit_codes,
        parts: None,
    },
];

/// Every exit code there is, its name and its meaning; scripts rely on them.
pub const EXIT_CODES: &[(i32, &str, &str)] = &[
    (0, "ok", "The command did what was asked."),
    (
        1,
        "failed",
        "`tempra verify`: the device computed a wrong result. `tempra bench compare --fail-under`: something is slower, missing or not \
         comparable.",
    ),
    (2, "usage", "The command line or the recipe has a mistake."),
    (3, "data", "A data file cannot be used. `tempra data check`: the data have errors."),
    (
        4,
        "model",
        "A model, tokenizer or checkpoint cannot be used. `tempra checkpoint verify`: a file is damaged.",
    ),
    (5, "device", "The device is missing, or cannot do what is asked."),
    (6, "memory", "Memory is too small."),
    (
        7,
        "diverged",
        "Training diverged, or a parameter receives no gradient. The last good checkpoint is kept.",
    ),
    (8, "disk", "The disk is full, read-only or failing."),
    (9, "locked", "Another process uses the run folder."),
    (
        10,
        "unusable",
        "`tempra bench compare`: the uncertainty of a measurement exceeds 100 %, because the machine was too busy or there was only one \
         sample. Measure again.",
    ),
    (
        70,
        "internal",
        "An operation received tensors that it does not accept. This is a bug: please report it.",
    ),
    (75, "device lost", "The GPU was lost. Give the same command again to resume from the last checkpoint."),
    (101, "panic", "This is a bug: please report it."),
    (
        130,
        "interrupted",
        "Ctrl-C (SIGINT) stopped the run after a checkpoint. Give the same command again to resume. `bench` writes what it measured before.",
    ),
    (
        143,
        "terminated",
        "SIGTERM stopped the run after a checkpoint. Give the same command again to resume. `bench` writes what it measured before.",
    ),
];

pub fn define() -> Command {
    let topics: String = TOPICS.iter().map(|t| format!("  {:<12}{}\n", t.name, t.about)).collect();
    Command::new("help")
        .about("Explain a command, the keys of a recipe, the metrics or the exit codes")
        .long_about("Explain a command, or one of the topics below.")
        .after_help(format!(
            "Topics:\n{topics}\nExamples:\n  tempra help predict\n  tempra help data check\n  \
             tempra help recipe\n  tempra help recipe optim\n  tempra help recipe optim.lr\n  tempra help metrics f1_macro"
        ))
        .arg(
            Arg::new("topic")
                .value_name("TOPIC")
                .num_args(0..)
                .help("A command, or a topic such as recipe; after recipe, the name of a table or key; after metrics, that of a metric"),
        )
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let words: Vec<&str> =
        matches.get_many::<String>("topic").into_iter().flatten().map(String::as_str).collect();
    let topic = words.first().and_then(|first| TOPICS.iter().find(|t| t.name == *first));
    let text = match (topic, words.as_slice()) {
        (Some(topic), [_]) => wrapped(&(topic.text)(None)?),
        (Some(topic), [_, word]) if topic.parts.is_some() => wrapped(&(topic.text)(Some(word))?),
        (Some(topic), [_, rest @ ..]) => {
            let what = match topic.parts {
                Some(_) => format!("`tempra help {}` takes one further word", topic.name),
                None => format!("`tempra help {}` takes no further words", topic.name),
            };
            let e = Error::usage(what);
            let e = match topic.parts {
                Some(part) => e.with_expected(format!("the name of {part}")),
                None => e,
            };
            return Err(e.with_found(rest.join(" ")).with_help(format!("run `tempra help {}`", topic.name)));
        }
        _ => command_help(&words)?,
    };
    say(text.trim_end())?;
    Ok(0)
}

/// Text with one line a paragraph, wrapped to the terminal as clap wraps help; a paragraph keeps its indent.
fn wrapped(text: &str) -> String {
    let lines = |line: &str| {
        let page = Command::new("page").disable_help_flag(true).max_term_width(super::WIDEST);
        // The end of a page is trimmed, and so are its blank lines.
        let page = page.help_template("{about}").about(line.to_owned()).render_help().to_string();
        if line.trim().is_empty() { String::new() } else { page.trim_end().to_owned() }
    };
    text.lines().map(|line| lines(line) + "\n").collect()
}

/// What `--help` prints of a command, named by its words; of the program without any.
fn command_help(words: &[&str]) -> Result<String> {
    let root = super::command();
    let mut command = &root;
    for (i, word) in words.iter().enumerate() {
        command = command.find_subcommand(word).ok_or_else(|| {
            let topics = TOPICS.iter().map(|t| t.name).filter(|_| i == 0);
            let there: Vec<&str> = command.get_subcommands().map(Command::get_name).chain(topics).collect();
            let e = Error::usage(format!("there is no help on {word:?}")).with_expected(there.join(", "));
            match nearest(word, there) {
                Some(near) => e.with_help(format!("did you mean {near:?}?")),
                None => e.with_help("run `tempra help` for all commands"),
            }
        })?;
    }
    // Asked as on a command line, so that the two are the same to the letter.
    let line = ["tempra"].iter().chain(words).chain(&["--help"]);
    match root.clone().try_get_matches_from(line) {
        Err(help) => Ok(help.to_string()),
        Ok(_) => Err(Error::usage("there is no help on that")),
    }
}

/// The keys of a recipe; only those of a table or the one key that `only` names.
fn recipe(only: Option<&str>) -> Result<String> {
    let keys = Recipe::keys();
    let asked = only.map(|o| o.trim_matches(['[', ']']));
    let chosen: Vec<&Key> = keys
        .iter()
        .filter(|k| asked.is_none_or(|a| k.section == a || k.path() == a || k.name == a))
        .collect();
    if let (Some(asked), true) = (asked, chosen.is_empty()) {
        let paths: Vec<String> = keys.iter().map(Key::path).collect();
        let names = keys.iter().flat_map(|k| [k.section, k.name]).filter(|s| !s.is_empty());
        let e = Error::usage(format!("a recipe has no table or key {asked:?}"));
        return Err(match nearest(asked, paths.iter().map(String::as_str).chain(names)) {
            Some(near) => e.with_help(format!("did you mean {near:?}?")),
            None => e.with_help("`tempra help recipe` lists them all"),
        });
    }
    let mut text = String::new();
    if asked.is_none() {
        text += "A recipe is a TOML file, or a JSON file with the same keys. `tempra init DATA` writes one. \
                 `tempra train RECIPE --set optim.lr=3e-5` overrides a key. A key that is left out has its default. \
                 HF is the name of the same setting in Hugging Face's TrainingArguments, scripts or configs.\n";
    }
    let mut section = None;
    for key in chosen {
        if section != Some(key.section) {
            section = Some(key.section);
            match key.section {
                "" => text += "\nAt the top of the file\n",
                name => text += &format!("\n[{name}]\n"),
            }
        }
        let default = match (&key.default, key.required) {
            (_, true) => "required".to_owned(),
            (Some(default), _) => format!("default {default}"),
            (None, _) => "see below for the default".to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {} ({}; {default})", key.name, key.accepts);
        let _ = writeln!(text, "      {}", key.doc.lines().collect::<Vec<_>>().join(" "));
    }
    Ok(text)
}

/// The metrics; only the one that `only` names.
fn metrics(only: Option<&str>) -> Result<String> {
    let line = |m: &Metric| {
        let better = if m.higher_is_better { "higher is better" } else { "lower is better" };
        let tasks = tasks::of_metric(m.name).collect::<Vec<_>>().join(", ");
        format!("  {} ({better}; {tasks})\n      {}\n", m.name, m.doc)
    };
    if let Some(name) = only {
        return metrics::find(name).map(line).ok_or_else(|| {
            let e = Error::usage(format!("there is no metric {name:?}"));
            match nearest(name, METRICS.iter().map(|m| m.name)) {
                Some(near) => e.with_help(format!("did you mean {near:?}?")),
                None => e.with_help("`tempra help metrics` lists them all"),
            }
        });
    }
    let mut text = "Metrics follow the definitions of scikit-learn and SciPy, and of the evaluation scripts of CoNLL and SQuAD. \
                    train.best_metric names the metric that selects the best checkpoint.\n\n"
        .to_owned();
    METRICS.iter().for_each(|m| text += &line(m));
    text += "\nSeveral tasks\n\
             With task = \"multi\" a score has the name TASK_METRIC, such as reviews_accuracy. The score \"mean\" is the mean \
             over the tasks of the metric that selects each task's own best checkpoint. For the mean, every metric is first \
             converted so that higher is better and 1 is perfect:\n  \
             accuracy, F1, correlations and other metrics where higher is better: unchanged\n  \
             hamming: 1 - hamming\n  \
             perplexity: 1 / perplexity\n  \
             mse: 1 / (1 + mse / V), where V is the variance of the training targets\n  \
             mae: 1 / (1 + mae / S), where S is the standard deviation of the training targets\n  \
             loss of task regress or similar: as mse; with standardized targets 1 / (1 + loss)\n  \
             any other loss: exp(-loss)\n\n\
             Undefined metrics\n\
             A metric that is undefined (NaN) on the validation examples, or the same for every model, is refused before \
             the run. A validation whose metric is NaN is never the best.\n";
    Ok(text)
}

fn exit_codes(_: Option<&str>) -> Result<String> {
    let line = |(code, name, meaning): &(i32, &str, &str)| format!("  {code} ({name})\n      {meaning}\n");
    let table: String = EXIT_CODES.iter().map(line).collect();
    Ok(format!(
        "Exit codes\n\n{table}\nErrors, warnings and progress go to standard error, results to standard output."
    ))
}
