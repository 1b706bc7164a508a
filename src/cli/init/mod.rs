//! `tempra init`: from data to a recipe, with a reason for every choice.
//!
//! `files` finds the training data and recognizes their format. `tables` and `texts` choose a task and
//! describe it in a [`Proposal`]. `model` chooses the pretrained model and counts tokens. This file turns all
//! of it into a recipe.

pub(super) mod files;
mod model;
mod multi;
mod roles;
mod survey;
mod tables;
mod texts;
mod write;

use super::options::{column, flag, text};
use super::output::{Destination, say};
use super::style::{Voice, clean};
use crate::error::{Error, Result};
use crate::tasks::{DataKind, TASKS};
use crate::train::recipe::{Recipe, TaskKind};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use files::{Content, Siblings};
use model::{Chosen, ChosenLength, MODEL};
use std::path::{Path, PathBuf};
use write::{Lines, quoted, shell, written};

/// The reason for a task that an option names.
const NAMED: &str = "chosen by --task";
const BATCH: usize = 16;
/// Optimizer steps that fine-tuning should have: small data need more epochs, not fewer steps (Mosbach et al.
/// 2021).
const STEPS: usize = 300;
const MOST_EPOCHS: usize = 50;
/// Fewer training examples than this count as little data.
const LITTLE: usize = 1000;

/// The tasks of one file whose data are such; `multi` combines recipes.
fn tasks_of(data: fn(&DataKind) -> bool) -> Vec<TaskKind> {
    TASKS.iter().filter(|(_, entry)| data(&entry.data)).map(|(task, _)| *task).collect()
}

/// Keys of a section: name, value in TOML, reason.
type Keys = Vec<(&'static str, String, String)>;

/// A recipe, the choices in it with their reasons, and the commands that come before training, a line each.
type Written = (String, Vec<(&'static str, String)>, String);

/// Counts the examples of a file and the rows that cannot be read, or says why the file cannot be used.
type Count = Box<dyn Fn(&Path) -> Result<(usize, u64)>>;

/// What to train on data, and why.
struct Proposal {
    task: TaskKind,
    why: String,
    /// Columns and what was found in them, for a person.
    columns: Vec<(&'static str, String)>,
    notes: Vec<(&'static str, String)>,
    /// Keys of `[data]` besides files and length.
    data: Keys,
    /// Keys of the task's own section.
    section: Keys,
    /// What the examples are called.
    unit: &'static str,
    examples: usize,
    /// Examples that may stand on different sides of a split.
    groups: usize,
    /// How many rows cannot be read, and what is wrong with the first.
    bad: Option<(u64, String)>,
    unbalanced: Option<String>,
    length: Length,
    batch: usize,
    /// Options of `tempra data check`; none if it does not read these data.
    check: Vec<(&'static str, String)>,
    /// Reads data of the same form, and says how many examples there are.
    count: Count,
}

/// What decides how long sequences are.
enum Length {
    /// Texts, each with the second of a pair: long ones are cut.
    Rows(Vec<(String, Option<String>)>),
    /// Sentences: long ones are read in windows.
    Sentences(Vec<(String, Option<String>)>),
    /// Texts that are cut into pieces.
    Pieces(Vec<String>),
    /// Long contexts, read in windows that share tokens.
    Windows { length: usize, stride: usize },
}

impl Proposal {
    fn new(task: TaskKind, why: String, unit: &'static str, examples: usize, length: Length) -> Self {
        Self {
            task,
            why,
            columns: Vec::new(),
            notes: Vec::new(),
            data: Keys::new(),
            section: Keys::new(),
            unit,
            examples,
            groups: examples,
            bad: None,
            unbalanced: None,
            length,
            batch: BATCH,
            check: Vec::new(),
            count: Box::new(|_| Ok((0, 0))),
        }
    }
}

pub fn define() -> Command {
    let tasks: Vec<&str> = TASKS.iter().map(|(_, entry)| entry.name).collect();
    Command::new("init")
        .about("Write a recipe for your data")
        .long_about(
            "Write a recipe for your data.\n\n\
             init finds the task by looking at the data: a text with a class or a number, several labels (columns of 0 and 1, or lists in one \
             column), pairs of texts, words with tags, SQuAD's JSON, raw text, or a folder with one subfolder for each class. \
             It finds validation and test data beside a file named train. It chooses length, epochs and learning rate, \
             prints every choice with its reason, and lists the columns that it leaves out. \
             The recipe is yours to change: `tempra help recipe` lists every key.\n\n\
             With --task multi, DATA are the recipes of several tasks, which then share one encoder.",
        )
        .after_help(
            "Examples:\n  \
             tempra init reviews.csv\n  \
             tempra init data/train.tsv --text sentence --label stars --task regress -o stars.toml\n  \
             tempra init comments.csv --label toxic,insult,threat\n  \
             tempra init corpus.txt --task mask --model models/bert-base-uncased\n  \
             tempra init --task multi sentiment.toml entities.toml -o both.toml",
        )
        .arg(Arg::new("data").value_name("DATA").required(true).num_args(1..).value_parser(value_parser!(PathBuf)).help(
            "Training data: a file (.csv, .tsv, .jsonl, .json, .parquet, .conll, .conllu, .txt), a folder with a file or \
             folder named train, or a folder with one subfolder for each class; with --task multi, recipes",
        ))
        .arg(
            Arg::new("output")
                .short('o')
                .long("output")
                .value_name("FILE")
                .default_value("recipe.toml")
                .help("Recipe to write; - is standard output"),
        )
        .arg(Arg::new("model").long("model").value_name("MODEL").help(format!(
            "Folder of a pretrained model, or org/name in the local cache [default: the folder that examples/quickstart \
             fetched, else {MODEL}]"
        )))
        .arg(column("text", "Column of the text [default: by name, else by content]"))
        .arg(column("pair", "Column of the second text of a pair; \"\" for none [default: by name]"))
        .arg(column("label", "Column of the label, or A,B,C for columns of 0 and 1; \"\" for none [default: by name, else by content]"))
        .arg(
            Arg::new("task")
                .long("task")
                .value_name("TASK")
                .value_parser(tasks)
                .help("Task to train [default: found by looking at the data]"),
        )
        .arg(Arg::new("force").long("force").action(ArgAction::SetTrue).help("Replace a recipe that exists"))
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let output = text(matches, "output").unwrap_or("recipe.toml");
    let destination = Destination::of(Some(output))?;
    if let (Destination::File(path), false) = (&destination, flag(matches, "force"))
        && path.exists()
    {
        return Err(Error::usage("the recipe exists")
            .at(output)
            .with_help("name another file with -o, or replace it with --force"));
    }
    let path = Path::new(if output == "-" { "recipe.toml" } else { output });
    let given: Vec<PathBuf> = matches.get_many("data").into_iter().flatten().cloned().collect();
    let (recipe, choices, next) = if text(matches, "task") == Some(TaskKind::Multi.name()) {
        destination.spare(given.iter().map(PathBuf::as_path))?;
        let (recipe, choices) = multi::combine(&given, path)?;
        (recipe, choices, String::new())
    } else {
        single(&given, matches, &destination, path)?
    };
    // A recipe that cannot be read would be a trap.
    Recipe::from_toml(&recipe, path, &[])?;
    destination.write(|out| out.write_all(recipe.as_bytes()))?;
    let lines = choices.iter().map(|(what, text)| format!("{what:<11} {text}"));
    let choices = clean(&lines.collect::<Vec<_>>().join("\n"));
    if output == "-" {
        Voice::of(matches).note(choices);
    } else {
        say(format!("{choices}\nwrote {output}; next:\n{}  tempra train {}", clean(&next), shell(output)))?;
    }
    Ok(0)
}

/// A recipe for one task, the choices in it, and the commands that come before training.
fn single(
    given: &[PathBuf],
    matches: &ArgMatches,
    destination: &Destination,
    path: &Path,
) -> Result<Written> {
    let [given] = given else {
        return Err(Error::usage("init reads the training data of one task")
            .with_expected("one file or folder; validation and test data are found beside it")
            .with_found(given.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))
            .with_help("name the training data alone, and add data.validation and data.test to the recipe"));
    };
    let train = files::training(given)?;
    destination.spare(text(matches, "model").map(Path::new).filter(|model| model.is_dir()))?;
    destination.spare(files::beside(&train)?.iter().map(PathBuf::as_path).filter(|f| f.is_file()))?;
    destination.spare([train.as_path()])?;
    let plan = Plan::of(propose(&train, matches)?, matches, &train, path)?;
    let fetch = plan.model.fetch.as_ref().map_or(String::new(), |command| format!("  {command}\n"));
    Ok((plan.recipe(&train, path), plan.choices(&train), fetch + &plan.check(&train)))
}

/// Chooses the task: by `--task`, else by what the data are.
fn propose(train: &Path, matches: &ArgMatches) -> Result<Proposal> {
    let wanted = text(matches, "task").and_then(TaskKind::find);
    let content = files::content(train, wanted)?;
    let why = |reason: &str| if wanted.is_some() { NAMED.to_owned() } else { reason.to_owned() };
    let language = || tasks_of(|data| matches!(data, DataKind::Documents(_)));
    let (able, reads): (Vec<TaskKind>, &str) = match content {
        Content::Table => return tables::propose(train, wanted, matches),
        Content::ClassFolder => (vec![TaskKind::Classify], "a folder with one subfolder for each class"),
        Content::TextFolder => (language(), "a folder of text files"),
        Content::TaggedWords => {
            (tasks_of(|data| matches!(data, DataKind::Sentences)), "a word and its tag in each line")
        }
        Content::Questions => {
            (tasks_of(|data| matches!(data, DataKind::Questions)), "questions in SQuAD's format")
        }
        Content::RawText => (language(), "text without labels"),
    };
    if let Some(task) = wanted.filter(|task| !able.contains(task)) {
        return Err(Error::data(format!("the data do not fit task {:?}", task.name()))
            .at(train)
            .with_expected("data for this task: docs/tasks.md shows its formats")
            .with_found(reads)
            .with_help(format!(
                "leave --task out, or name {}",
                able.iter().map(TaskKind::name).collect::<Vec<_>>().join(", ")
            )));
    }
    match content {
        Content::ClassFolder => tables::class_folder(train, why(reads)),
        Content::TaggedWords => texts::tagged_words(train, why(reads), matches),
        Content::Questions => texts::questions(train, why(reads)),
        Content::TextFolder => texts::folder(train, wanted.unwrap_or(TaskKind::Mask), why(reads)),
        _ => texts::documents(train, wanted.unwrap_or(TaskKind::Mask), None, why(reads)),
    }
}

/// All that a recipe says.
struct Plan {
    proposal: Proposal,
    siblings: Siblings,
    /// Share of the training data that validates.
    held_out: f64,
    model: Chosen,
    length: ChosenLength,
    schedule: Schedule,
}

/// How long to train.
struct Schedule {
    epochs: usize,
    why_epochs: String,
    lr: &'static str,
    why_lr: &'static str,
}

impl Schedule {
    fn of(sequences: usize, examples: usize, batch: usize) -> Self {
        let steps = sequences.div_ceil(batch).max(1);
        let epochs = STEPS.div_ceil(steps).clamp(3, MOST_EPOCHS);
        let why_epochs = format!("{} steps of {batch} texts", steps * epochs);
        let (lr, why_lr) = if examples < LITTLE {
            ("2e-5", "little data: a small rate and more epochs are steadier; try several seeds")
        } else {
            ("5e-5", "usual for fine-tuning; try 2e-5 and 1e-4 as well")
        };
        Self { epochs, why_epochs, lr, why_lr }
    }
}

impl Plan {
    fn of(proposal: Proposal, matches: &ArgMatches, train: &Path, recipe: &Path) -> Result<Self> {
        let siblings = Siblings::find(train, proposal.unit, &*proposal.count)?;
        let mut model = model::choose(matches, proposal.task, recipe)?;
        model.note_language(&proposal.length);
        let length = model.choose_length(proposal.task, &proposal.length, proposal.examples)?;
        let held_out = if siblings.validation.is_some() { 0.0 } else { held_out(&proposal) };
        let rest = ((length.sequences as f64 * (1.0 - held_out)) as usize).max(1);
        let schedule = Schedule::of(rest, proposal.examples, proposal.batch);
        Ok(Self { proposal, siblings, held_out, model, length, schedule })
    }

    /// Every choice with its reason.
    fn choices(&self, train: &Path) -> Vec<(&'static str, String)> {
        let (p, schedule) = (&self.proposal, &self.schedule);
        let mut choices = vec![("train", format!("{}: {} {}", train.display(), p.examples, p.unit))];
        if let Some((count, first)) = &p.bad {
            let rest = "training stops there unless data.on_bad_row = \"skip\"";
            choices.push(("bad rows", format!("{count} rows cannot be read, the first in {first}; {rest}")));
        }
        choices.extend(p.columns.iter().cloned());
        choices.push(("task", format!("{}: {}", p.task.name(), p.why)));
        choices.extend(p.notes.iter().cloned());
        choices.extend(self.siblings.notes.iter().cloned());
        if self.siblings.validation.is_none() {
            let share = match self.held_out > 0.0 {
                true => format!("{:.0} % of the training data", self.held_out * 100.0),
                false => format!("none: too few {} to split", p.unit),
            };
            choices.push(("validation", share));
        }
        choices.push(("model", self.model.why.clone()));
        choices.extend(self.model.notes.iter().map(|note| ("note", note.clone())));
        choices.push(("max_length", format!("{}: {}", self.length.max_length, self.length.why)));
        choices.push(("epochs", format!("{}: {}", schedule.epochs, schedule.why_epochs)));
        choices.push(("lr", format!("{}: {}", schedule.lr, schedule.why_lr)));
        if let Some(why) = &p.unbalanced {
            choices.push(("unbalanced", format!("{why}; consider loss.class_weights = \"balanced\"")));
        }
        choices
    }

    /// The recipe in TOML.
    fn recipe(&self, train: &Path, recipe: &Path) -> String {
        let (p, schedule) = (&self.proposal, &self.schedule);
        let mut w =
            Lines("# Written by `tempra init`. `tempra help recipe` explains every key.\n".to_owned());
        w.key("task", &quoted(p.task.name()), &p.why);
        w.key("output", &quoted(&format!("runs/{}", files::run_name(train))), "the folder of the run");
        w.table("model");
        w.key("path", &quoted(&self.model.path), &self.model.why);
        w.table("data");
        w.key("train", &quoted(&written(train, recipe)), &format!("{} {}", p.examples, p.unit));
        match &self.siblings.validation {
            Some(file) => w.key("validation", &quoted(&written(file, recipe)), ""),
            None => w.key("validation_fraction", &self.held_out.to_string(), "share of the training data"),
        }
        if let Some(file) = &self.siblings.test {
            w.key("test", &quoted(&written(file, recipe)), "read once, at the end");
        }
        p.data.iter().for_each(|(name, value, why)| w.key(name, value, why));
        w.key("max_length", &self.length.max_length.to_string(), &self.length.why);
        if let Some(stride) = self.length.stride {
            w.key("stride", &stride.to_string(), "tokens that two windows of a long text share");
        }
        if !p.section.is_empty() {
            w.table(p.task.name());
            p.section.iter().for_each(|(name, value, why)| w.key(name, value, why));
        }
        w.table("train");
        w.key("epochs", &schedule.epochs.to_string(), &schedule.why_epochs);
        w.key("batch_size", &p.batch.to_string(), "");
        w.table("optim");
        w.key("lr", schedule.lr, schedule.why_lr);
        w.key("weight_decay", "0.01", "");
        w.key("warmup_ratio", "0.1", "");
        if let Some(why) = &p.unbalanced {
            w.table("loss");
            w.comment(&format!("{why}. This makes every class count the same:"));
            w.comment("class_weights = \"balanced\"");
        }
        w.0
    }

    /// The line that checks the data, where `tempra data check` reads them.
    fn check(&self, train: &Path) -> String {
        if self.proposal.check.is_empty() {
            return String::new();
        }
        let mut line = format!("  tempra data check --train {}", shell(train));
        for (option, file) in [("validation", &self.siblings.validation), ("test", &self.siblings.test)] {
            line += &file.as_ref().map_or(String::new(), |f| format!(" --{option} {}", shell(f)));
        }
        for (option, name) in &self.proposal.check {
            line += &format!(" --{option} {}", shell(name));
        }
        line + "\n"
    }
}

/// How many documents the pairs of a task need at least; 0 for tasks without such pairs.
fn least_documents(task: TaskKind) -> usize {
    task.entry().pair().map_or(0, |pair| pair.documents)
}

/// The share of the training data that validates: a fifth of little data, else a tenth; 0 if none could be
/// split off.
fn held_out(p: &Proposal) -> f64 {
    let n = p.groups as f64;
    let usual = if p.examples < 200 { 0.2 } else { 0.1 };
    match p.task {
        // Both sides need so many documents.
        task if least_documents(task) > 1 && p.groups < 2 * least_documents(task) => 0.0,
        task if least_documents(task) > 1 => (least_documents(task) as f64 / n).max(usual),
        _ if p.groups < 2 => 0.0,
        // The split gives a part nothing if its share is half an example or less.
        _ if n * usual <= 0.5 => 0.5,
        _ => usual,
    }
}
