//! `tempra help`: of commands, and of what is no command: the recipe's keys, the metrics, the exit codes.

use super::output::say;
use crate::error::{Error, Result};
use crate::metrics::METRICS;
use crate::suggest::nearest;
use crate::train::recipe::{Key, Recipe};
use clap::{Arg, ArgMatches, Command};
use std::fmt::Write;

/// A topic that is no command.
struct Topic {
    name: &'static str,
    about: &'static str,
    /// Its text; of the recipe only what the further word names.
    text: fn(Option<&str>) -> Result<String>,
}

const TOPICS: &[Topic] = &[
    Topic { name: "recipe", about: "every key of a recipe: type, default, meaning", text: recipe },
    Topic { name: "metrics", about: "every metric, and for which task", text: metrics },
    Topic { name: "exit-codes", about: "what the exit code of the program means", text: exit_codes },
];

/// Every exit code there is and what it means; scripts rely on them.
pub const EXIT_CODES: &[(i32, &str, &str)] = &[
    (0, "ok", "what was asked for is done"),
    (1, "failed", "verify: a case failed; bench compare --fail-under: something is slower"),
    (2, "usage", "the command line or the recipe cannot be meant"),
    (3, "data", "a data file cannot be read as asked; data check: something is wrong"),
    (4, "model", "a model, tokenizer or checkpoint cannot be used; checkpoint verify: damaged"),
    (5, "device", "the device is not there, or cannot do what is asked"),
    (6, "memory", "not enough memory"),
    (7, "diverged", "training went non-finite; the last good checkpoint is kept"),
    (8, "disk", "the disk is full, read-only or failing"),
    (9, "locked", "another process holds the run folder"),
    (70, "internal", "an operation got tensors it does not accept: a bug, please report it"),
    (75, "try again", "the device was lost; starting again resumes from the last checkpoint"),
    (101, "panic", "a bug, please report it"),
    (130, "interrupted", "stopped by Ctrl-C (SIGINT) after a clean checkpoint; starting again resumes"),
    (143, "terminated", "stopped by SIGTERM after a clean checkpoint; starting again resumes"),
];

pub fn define() -> Command {
    let topics: String = TOPICS.iter().map(|t| format!("  {:<12}{}\n", t.name, t.about)).collect();
    Command::new("help")
        .about("Explains a command, the recipe, the metrics or the exit codes")
        .long_about("Explains a command, or one of the topics below.")
        .after_help(format!(
            "Topics:\n{topics}\nExamples:\n  tempra help predict\n  tempra help data check\n  \
             tempra help recipe\n  tempra help recipe optim\n  tempra help recipe optim.lr"
        ))
        .arg(Arg::new("topic").value_name("TOPIC").num_args(0..).help("A command or a topic"))
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let words: Vec<&str> =
        matches.get_many::<String>("topic").into_iter().flatten().map(String::as_str).collect();
    let topic = words.first().and_then(|first| TOPICS.iter().find(|t| t.name == *first));
    let text = match (topic, words.as_slice()) {
        (Some(topic), [_]) => (topic.text)(None)?,
        (Some(topic), [_, word]) if topic.name == "recipe" => (topic.text)(Some(word))?,
        (Some(topic), [_, rest @ ..]) => {
            return Err(
                Error::usage(format!("`help {}` takes no more words", topic.name)).with_found(rest.join(" "))
            );
        }
        _ => command_help(&words)?,
    };
    say(text.trim_end())?;
    Ok(0)
}

/// What `--help` prints of a command, named by its words; of the program without any.
fn command_help(words: &[&str]) -> Result<String> {
    let root = super::command();
    let mut command = &root;
    for (i, word) in words.iter().enumerate() {
        command = command.find_subcommand(word).ok_or_else(|| {
            let topics = TOPICS.iter().map(|t| t.name).filter(|_| i == 0);
            let there: Vec<&str> = command.get_subcommands().map(Command::get_name).chain(topics).collect();
            let e = Error::usage(format!("no help on {word:?}")).with_expected(there.join(", "));
            match nearest(word, there) {
                Some(near) => e.with_help(format!("did you mean {near:?}?")),
                None => e,
            }
        })?;
    }
    // Asked as on a command line, so that the two are the same to the letter.
    let line = ["tempra"].iter().chain(words).chain(&["--help"]);
    match root.clone().try_get_matches_from(line) {
        Err(help) => Ok(help.to_string()),
        Ok(_) => Err(Error::usage("no help on that")),
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
        text += "A recipe is a TOML file (or JSON with the same keys). `tempra init` writes one; `tempra train RECIPE\n\
                 --set optim.lr=3e-5` overrides a key. What is left out has its default.\n";
    }
    let mut section = None;
    for key in chosen {
        if section != Some(key.section) {
            section = Some(key.section);
            match key.section {
                "" => text += "\nAt the top\n",
                name => text += &format!("\n[{name}]\n"),
            }
        }
        let default = match (&key.default, key.required) {
            (_, true) => "required".to_owned(),
            (Some(default), _) => format!("default {default}"),
            (None, _) => "no fixed default".to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {:<20} {}; {default}", key.name, key.accepts);
        key.doc.lines().for_each(|line| text += &format!("      {line}\n"));
    }
    Ok(text)
}

fn metrics(_: Option<&str>) -> Result<String> {
    let mut text = "Metrics, as scikit-learn and SciPy define them. train.best_metric names the one that chooses the best\n\
                    checkpoint.\n\n"
        .to_owned();
    for m in METRICS {
        let better = if m.higher_is_better { "higher is better" } else { "lower is better" };
        let _ =
            writeln!(text, "  {:<12} {:<17} {}\n{:32}({})", m.name, better, m.doc, "", m.tasks.join(", "));
    }
    text += "\nSeveral tasks (task = \"multi\"): a score is called TASK_METRIC, as in reviews_accuracy, and \"mean\" is the mean over\n\
             the tasks of the metric that each task's own recipe is chosen by. There every metric counts as a number of which more\n\
             is better and 1 is perfect: accuracies, F1, correlations and the like as they are; hamming as 1 - hamming, perplexity\n\
             as 1 / perplexity, mse as 1 / (1 + mse / V), mae as 1 / (1 + mae / S), the loss of numbers as mse, or as\n\
             1 / (1 + loss) of standardized targets, any other loss as exp(-loss). V and S are the variance and standard deviation of the task's training targets.\n\n\
             A metric that is undefined (NaN), or the same for every model, on the validation examples is refused before the run.\n\
             A validation that gives NaN is never the best.\n";
    Ok(text)
}

fn exit_codes(_: Option<&str>) -> Result<String> {
    let line = |(code, name, meaning): &(i32, &str, &str)| format!("  {code:>3}  {name:<12} {meaning}\n");
    let table: String = EXIT_CODES.iter().map(line).collect();
    Ok(format!("Exit codes\n\n{table}\nErrors go to standard error, results to standard output."))
}
