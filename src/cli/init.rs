//! `tempra init`: from a file of labelled texts to a recipe, with a reason for every choice.

use super::columns::{self, Found};
use super::model::{tokenizer, vector_tokenizer};
use super::options::{column, flag, text};
use super::output::{Destination, say};
use super::style::{Voice, clean};
use crate::data::{self, Label, OnBadRow, Row, Table, Target};
use crate::error::{Error, Kind, Result};
use crate::models::{gives_vectors, source};
use crate::train::recipe::Recipe;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Written where no model is named: 22 million parameters, which a CPU fine-tunes in minutes.
const MODEL: &str = "sentence-transformers/all-MiniLM-L6-v2";
const BATCH: usize = 16;
/// Optimiser steps that a fine-tuning should have: small data needs more epochs, not fewer steps (Mosbach et al. 2021).
const STEPS: usize = 300;
const MOST_EPOCHS: usize = 50;
/// Fewer training rows than this count as little data.
const LITTLE: usize = 1000;
/// Tokens a word, where no tokenizer says.
const TOKENS_PER_WORD: f64 = 1.4;
const LONGEST: usize = 512;
/// A class that is so many times rarer than another makes the classes unbalanced.
const UNBALANCED: usize = 5;

pub fn define() -> Command {
    Command::new("init")
        .about("Looks at labelled data and writes a recipe for it")
        .long_about(
            "Looks at labelled data and writes a recipe for it.\n\n\
             Finds the columns of text and label, whether a class or a number is to be learnt, validation and test \
             files beside a file named train, how long the texts are, and how long to train; writes a short recipe \
             that says why, and prints the same. The recipe is yours to change: `tempra help recipe` lists every key.",
        )
        .after_help(
            "Examples:\n  \
             tempra init reviews.csv --model models/all-MiniLM-L6-v2\n  \
             tempra init data/train.tsv --text sentence --label stars --task regress -o stars.toml",
        )
        .arg(
            Arg::new("data")
                .value_name("DATA")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The training file (.csv, .tsv, .jsonl, .parquet), or a folder with one named train"),
        )
        .arg(
            Arg::new("output")
                .short('o')
                .long("output")
                .value_name("FILE")
                .default_value("recipe.toml")
                .help("The recipe to write; - is standard output"),
        )
        .arg(
            Arg::new("model")
                .long("model")
                .value_name("MODEL")
                .help(format!("Folder of a pretrained model, or org/name in the local cache [default: {MODEL}]")),
        )
        .arg(column("text", "Column of the text [default: by name, else by content]"))
        .arg(column("pair", "Column of the second text of a pair; \"\" for none [default: by name]"))
        .arg(column("label", "Column of the label [default: by name, else by content]"))
        .arg(
            Arg::new("task")
                .long("task")
                .value_name("TASK")
                .value_parser(["classify", "regress"])
                .help("What is learnt [default: by the labels]"),
        )
        .arg(Arg::new("force").long("force").action(ArgAction::SetTrue).help("Replaces a recipe that is there"))
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let output = text(matches, "output").unwrap_or("recipe.toml");
    let destination = Destination::of(Some(output))?;
    if let (Destination::File(path), false) = (&destination, flag(matches, "force"))
        && path.exists()
    {
        return Err(Error::usage("is there already")
            .at(output)
            .with_help("name another file with -o, or replace it with --force"));
    }
    let path = if output == "-" { "recipe.toml" } else { output };
    let given = matches.get_one::<PathBuf>("data").cloned().unwrap_or_default();
    let train = training_file(&given)?;
    destination.spare(text(matches, "model").map(Path::new).filter(|model| model.is_dir()))?;
    destination.spare(data_files(&train)?.iter().map(PathBuf::as_path))?;
    let plan = Plan::make(matches, &train, Path::new(path))?;
    // A recipe that could not be read back would be a trap.
    Recipe::from_toml(&plan.recipe, Path::new(path), &[])?;
    destination.write(|out| out.write_all(plan.recipe.as_bytes()))?;
    let told = clean(&plan.told());
    if output == "-" {
        Voice::of(matches).note(told);
    } else {
        say(format!("{told}\nwrote {output}; next:\n  {}\n  tempra train {output}", plan.check))?;
    }
    Ok(0)
}

/// The file itself, or the one named train in a folder.
fn training_file(given: &Path) -> Result<PathBuf> {
    if !given.is_dir() {
        return Ok(given.to_path_buf());
    }
    let mut found: Vec<PathBuf> = files(given)?;
    found.retain(|f| data::Format::of(f).is_ok() && stem(f).contains("train"));
    found.sort_by_key(|f| (stem(f).len(), f.clone()));
    found.into_iter().next().ok_or_else(|| {
        Error::data("no training file in the folder")
            .at(given)
            .with_expected("a file named train.csv, train.tsv, train.jsonl or train.parquet")
            .with_help("name the file itself")
    })
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let fail = |e: std::io::Error| Error::io(Kind::Data, "cannot be listed", dir, &e);
    let entries = std::fs::read_dir(dir).map_err(fail)?;
    entries.map(|entry| entry.map(|e| e.path()).map_err(fail)).collect()
}

/// The training file and those beside it that may be validation and test files.
fn data_files(train: &Path) -> Result<Vec<PathBuf>> {
    let folder = train.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = files(folder)?;
    found.retain(|f| f.is_file() && ending(f) == ending(train));
    found.push(train.to_path_buf());
    Ok(found)
}

fn ending(path: &Path) -> Option<std::ffi::OsString> {
    path.extension().map(|e| e.to_ascii_lowercase())
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// What was chosen and why, and the recipe that says so.
struct Plan {
    choices: Vec<(&'static str, String)>,
    recipe: String,
    check: String,
}

impl Plan {
    fn told(&self) -> String {
        let lines = self.choices.iter().map(|(what, text)| format!("{what:<11} {text}"));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn make(matches: &ArgMatches, train: &Path, recipe: &Path) -> Result<Self> {
        let found = columns::by_content(matches, &data::columns(train)?, train)?;
        let table = data::read(train, &found.columns, OnBadRow::Skip)?;
        let (task, why_task) = match text(matches, "task") {
            Some(task) => (task.to_owned(), "as told".to_owned()),
            None => task(&table),
        };
        let target = if task == "regress" { Target::Regress } else { Target::classes(&table, None)? };
        let labels = target.labels(&table)?;

        let mut choices = vec![("train", format!("{}: {} rows", train.display(), table.rows.len()))];
        if let Some(bad) = table.bad.first() {
            let what = format!(
                "{} rows cannot be read, the first in line {}: {}; training stops there unless data.on_bad_row = \"skip\"",
                table.bad_count, bad.line, bad.what
            );
            choices.push(("bad rows", what));
        }
        choices.extend(told_columns(&found));
        choices.push(("task", format!("{task}: {why_task}")));
        let (spread, unbalanced) = spread(&target, &labels);
        choices.push(("labels", spread));

        let siblings = Siblings::find(train, &found, &target)?;
        choices.extend(siblings.told.iter().cloned());
        let fraction = if table.rows.len() < 200 { 0.2 } else { 0.1 };
        if siblings.validation.is_none() {
            choices.push(("validation", format!("{:.0} % of the training file", fraction * 100.0)));
        }
        let (model, length, why_length) = length(matches, &table.rows, recipe)?;
        choices.push(("model", model.why.clone()));
        choices.push(("max_length", format!("{length}: {why_length}")));

        let held_out = if siblings.validation.is_some() { 0.0 } else { fraction };
        let rows = ((table.rows.len() as f64 * (1.0 - held_out)) as usize).max(1);
        let steps = rows.div_ceil(BATCH);
        let epochs = STEPS.div_ceil(steps).clamp(3, MOST_EPOCHS);
        let why_epochs = format!("{} steps of {BATCH} texts", steps * epochs);
        let little = table.rows.len() < LITTLE;
        let (lr, why_lr) = if little {
            ("2e-5", "little data: a small rate and more epochs are steadier; try several seeds")
        } else {
            ("5e-5", "usual for fine-tuning; try 2e-5 and 1e-4 as well")
        };
        choices.push(("epochs", format!("{epochs}: {why_epochs}")));
        choices.push(("lr", format!("{lr}: {why_lr}")));

        let mut w = Lines(String::from(
            "# Written by `tempra init`. `tempra help recipe` explains every key there is.\n",
        ));
        w.key("task", &quoted(&task), &why_task);
        w.key("output", &quoted(&format!("runs/{}", run_name(train))), "the run's folder");
        w.table("model");
        w.key("path", &quoted(&model.path), &model.why);
        w.table("data");
        w.key("train", &quoted(&written(train, recipe)), &format!("{} rows", table.rows.len()));
        match &siblings.validation {
            Some(file) => w.key("validation", &quoted(&written(file, recipe)), ""),
            None => w.key("validation_fraction", &fraction.to_string(), "of the training file, stratified"),
        }
        if let Some(file) = &siblings.test {
            w.key("test", &quoted(&written(file, recipe)), "read once, at the end");
        }
        let columns = &found.columns;
        w.key("text", &quoted(&columns.text), "");
        if let Some(pair) = &columns.pair {
            w.key("pair", &quoted(pair), "");
        }
        w.key("label", &quoted(columns.label.as_deref().unwrap_or("label")), "");
        w.key("max_length", &length.to_string(), &why_length);
        w.table("train");
        w.key("epochs", &epochs.to_string(), &why_epochs);
        w.key("batch_size", &BATCH.to_string(), "");
        w.table("optim");
        w.key("lr", lr, why_lr);
        w.key("weight_decay", "0.01", "");
        w.key("warmup_ratio", "0.1", "");
        if let Some(why) = &unbalanced {
            choices.push(("unbalanced", format!("{why}: think of loss.class_weights = \"balanced\"")));
            w.table("loss");
            w.comment(&format!("{why}. This makes every class count the same:"));
            w.comment("class_weights = \"balanced\"");
        }

        let mut check = format!("tempra data check --train {}", shell(train));
        for (option, file) in [("validation", &siblings.validation), ("test", &siblings.test)] {
            check += &file.as_ref().map_or(String::new(), |f| format!(" --{option} {}", shell(f)));
        }
        for (option, name) in [
            ("text", Some(&columns.text)),
            ("pair", columns.pair.as_ref()),
            ("label", columns.label.as_ref()),
        ] {
            check += &name.map_or(String::new(), |n| format!(" --{option} {}", shell(Path::new(n))));
        }
        Ok(Self { choices, recipe: w.0, check })
    }
}

/// A recipe as it grows.
struct Lines(String);

impl Lines {
    fn table(&mut self, name: &str) {
        self.0 += &format!("\n[{name}]\n");
    }
    fn comment(&mut self, text: &str) {
        // What came from data must not end the comment.
        self.0 += &format!("# {}\n", clean(text).replace('\n', " "));
    }
    fn key(&mut self, name: &str, value: &str, why: &str) {
        if !why.is_empty() {
            self.comment(why);
        }
        self.0 += &format!("{name} = {value}\n");
    }
}

fn quoted(s: &str) -> String {
    toml::Value::String(s.to_owned()).to_string()
}

/// A path as a shell takes it.
fn shell(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A file as the recipe names it: relative to the recipe's folder if it is below it, else absolute.
fn written(file: &Path, recipe: &Path) -> String {
    let folder = recipe.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let whole = |p: &Path| std::path::absolute(p).unwrap_or_else(|_| p.to_path_buf());
    let (file, folder) = (whole(file), whole(folder));
    file.strip_prefix(&folder).unwrap_or(&file).to_string_lossy().into_owned()
}

/// A name for the run: the file's, or its folder's where the file is merely called train.
fn run_name(train: &Path) -> String {
    let whole = std::path::absolute(train).unwrap_or_else(|_| train.to_path_buf());
    let folder = whole.parent().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
    let own = stem(train);
    let name = if own.contains("train") { folder.unwrap_or(own) } else { own };
    let safe = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = name.chars().map(safe).collect();
    if name.trim_matches('.').is_empty() { "run".to_owned() } else { name }
}

fn told_columns(found: &Found) -> Vec<(&'static str, String)> {
    let columns = &found.columns;
    let name = |what: &str| match what {
        "text" => Some(&columns.text),
        "pair" => columns.pair.as_ref(),
        _ => columns.label.as_ref(),
    };
    let told =
        |(what, why): &(&'static str, String)| Some((*what, format!("the column {:?}: {why}", name(what)?)));
    found.why.iter().filter_map(told).collect()
}

/// Whether the labels are classes or amounts, and what says so.
fn task(table: &Table) -> (String, String) {
    let labels = table.rows.iter().filter_map(|r| r.label.as_deref());
    let mut distinct: BTreeMap<&str, usize> = BTreeMap::new();
    labels.for_each(|l| *distinct.entry(l).or_default() += 1);
    let numbers: Option<Vec<f64>> =
        distinct.keys().map(|l| l.trim().parse::<f64>().ok().filter(|x| x.is_finite())).collect();
    let n = distinct.len();
    let answer = |task: &str, why: String| (task.to_owned(), why);
    let Some(numbers) = numbers else {
        return answer("classify", format!("the labels are {n} different names"));
    };
    if numbers.iter().any(|x| x.fract() != 0.0) {
        return answer("regress", "the labels are numbers with decimals".to_owned());
    }
    let (low, high) = numbers.iter().fold((f64::MAX, f64::MIN), |(l, h), &x| (l.min(x), h.max(x)));
    // Class numbers start at 0 or 1 and leave none out; each has several rows.
    let numbered = (low == 0.0 || low == 1.0) && high - low + 1.0 == n as f64;
    if n <= 20 || (numbered && n * 5 <= table.rows.len()) {
        return answer(
            "classify",
            format!("the labels are {n} whole numbers; if they are amounts: --task regress"),
        );
    }
    answer("regress", format!("the labels are {n} different whole numbers"))
}

/// How the labels are spread, in words; and what makes classes unbalanced, if they are.
fn spread(target: &Target, labels: &[Label]) -> (String, Option<String>) {
    const SHOWN: usize = 8;
    let Target::Classify { classes } = target else {
        let values: Vec<f64> = labels
            .iter()
            .filter_map(|l| if let Label::Value(v) = l { Some(f64::from(*v)) } else { None })
            .collect();
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), &x| (l.min(x), h.max(x)));
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        return (format!("from {low} to {high}, on average {mean:.3}"), None);
    };
    let mut counts: Vec<(usize, &String)> = classes.iter().map(|name| (0, name)).collect();
    for label in labels {
        if let Label::Class(c) = label
            && let Some(slot) = counts.get_mut(*c as usize)
        {
            slot.0 += 1;
        }
    }
    counts.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    let shown: Vec<String> = counts.iter().take(SHOWN).map(|(n, name)| format!("{name} {n}")).collect();
    let more = counts.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let unbalanced = match (counts.first(), counts.last()) {
        (Some((most, common)), Some((least, rare))) if *most > UNBALANCED * least => {
            Some(format!("{common:?} has {most} rows, {rare:?} has {least}"))
        }
        _ => None,
    };
    (format!("{} classes: {}{more}", counts.len(), shown.join(", ")), unbalanced)
}

/// Validation and test files beside a training file.
#[derive(Default)]
struct Siblings {
    validation: Option<PathBuf>,
    test: Option<PathBuf>,
    told: Vec<(&'static str, String)>,
}

impl Siblings {
    /// Files of the same ending whose names are the training file's with another word for `train`. One that cannot be used,
    /// for want of a column or for its labels, is named with the reason and left out.
    fn find(train: &Path, found: &Found, target: &Target) -> Result<Self> {
        let own = stem(train);
        let word = ["training", "train"].into_iter().find(|w| own.contains(w));
        let Some(word) = word else { return Ok(Self::default()) };
        let folder = train.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut there = files(folder)?;
        there.retain(|f| ending(f) == ending(train));
        there.sort();

        let mut siblings = Self::default();
        let splits =
            [("validation", &["validation", "valid", "val", "dev", "eval"][..]), ("test", &["test"])];
        for (split, words) in splits {
            let named = words.iter().find_map(|w| there.iter().find(|f| stem(f) == own.replacen(word, w, 1)));
            let Some(file) = named else { continue };
            // Written as the training file was: without the "./" that listing the folder puts before it.
            let file = match (train.parent(), file.file_name()) {
                (Some(parent), Some(name)) => parent.join(name),
                _ => file.clone(),
            };
            let table = data::read(&file, &found.columns, OnBadRow::Skip);
            match table.and_then(|table| target.labels(&table).map(|labels| labels.len())) {
                Ok(rows) => {
                    siblings
                        .told
                        .push((split, format!("{}: {rows} rows, beside the training file", file.display())));
                    let slot = if split == "test" { &mut siblings.test } else { &mut siblings.validation };
                    *slot = Some(file);
                }
                Err(e) => {
                    let why = e.to_string().lines().next().unwrap_or_default().to_owned();
                    siblings.told.push((split, format!("left out: {why}")));
                }
            }
        }
        Ok(siblings)
    }
}

/// The model as the recipe names it.
struct Chosen {
    path: String,
    why: String,
}

/// The model, and the longest sequence with its reason: what 99 % of the texts need, in steps of 16, as far as the model goes.
fn length(matches: &ArgMatches, rows: &[Row], recipe: &Path) -> Result<(Chosen, usize, String)> {
    let (model, mut lengths, most, how) = match text(matches, "model") {
        Some(name) => {
            let dir = source::resolve(name)?;
            let pairs = rows.iter().any(|r| r.pair.is_some());
            let (tokenizer, positions) = match pairs || gives_vectors(&dir) {
                true => vector_tokenizer(&dir).map(|(tokenizer, positions, _)| (tokenizer, positions))?,
                false => tokenizer(&dir)?,
            };
            let mut lengths = Vec::with_capacity(rows.len());
            for chunk in rows.chunks(4096) {
                let items: Vec<_> = chunk.iter().map(|r| (r.text.as_str(), r.pair.as_deref())).collect();
                // No text has so many tokens, so none is cut.
                let encoded = tokenizer.encode_batch(&items, u32::MAX as usize)?;
                lengths.extend(encoded.iter().map(|e| e.ids.len()));
            }
            let local = Path::new(name).is_dir();
            // With a dot in front it cannot be taken for org/name.
            let path = match written(Path::new(name), recipe) {
                _ if !local => name.to_owned(),
                whole if Path::new(&whole).is_absolute() => whole,
                below => format!("./{below}"),
            };
            let model = Chosen { path, why: format!("{name}, as told; {positions} positions") };
            (model, lengths, LONGEST.min(positions), "counted with the model's tokenizer")
        }
        None => {
            let words = |s: &str| s.split_whitespace().count() as f64 * TOKENS_PER_WORD;
            let one = |r: &Row| {
                let pair = r.pair.as_deref().map_or(0.0, |p| words(p) + 1.0);
                (words(&r.text) + pair + 2.0).ceil() as usize
            };
            let why = format!(
                "{MODEL}, small and quick; get it by `hf download {MODEL}`, or name another with --model"
            );
            let model = Chosen { path: MODEL.to_owned(), why };
            (model, rows.iter().map(one).collect(), LONGEST, "guessed from the words; --model counts them")
        }
    };
    lengths.sort_unstable();
    let rank = |p: usize| {
        lengths.get((lengths.len() * p).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
    };
    let (p99, longest) = (rank(99), rank(100));
    let length = p99.max(1).div_ceil(16).saturating_mul(16).min(most);
    let cut = lengths.iter().filter(|n| **n > length).count();
    let cut = if cut == 0 { "none is cut".to_owned() } else { format!("{cut} texts are cut") };
    let why = format!("99 % of the texts have {p99} tokens or fewer, the longest {longest}; {cut} ({how})");
    Ok((model, length, why))
}
