//! `tempra eval`: how good a fine-tuned model is on labelled data.

use super::model::{Prepared, with_model};
use super::options::{column, flag, json_arg, text};
use super::output::{say, say_json};
use super::style::Voice;
use crate::data::{Columns, Format, Label, OnBadRow, Table, Target, TokenSet, read};
use crate::error::{Error, Result};
use crate::metrics::{Classification, Regression, Scores};
use crate::models::{Model, Outputs};
use crate::suggest::nearest;
use crate::tasks::EVALUATION;
use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Up to this many classes the confusion matrix stands in the JSON: it has the square of so many numbers.
const MATRIX: usize = 256;

pub fn define() -> Command {
    with_model(Command::new("eval"))
        .about("Scores a fine-tuned model on labelled data")
        .long_about(
            "Scores a fine-tuned model on labelled data.\n\n\
             Of a classifier: loss, accuracy, F1 (macro, micro, weighted), Matthews correlation, and a table of \
             confusions with precision, recall and F1 of each class. Of a regression: mean squared and absolute error, \
             Pearson's and Spearman's correlation. Of tags: F1 of entities; of answers: exact match and F1; of vectors: \
             correlation of cosine and label; of a masked language model: perplexity. `tempra help metrics` says what each \
             means.\n\n\
             Labels are compared with the model's class names as they are written; one that the model does not know \
             is an error that names its line.",
        )
        .after_help(
            "Examples:\n  \
             tempra eval runs/reviews/model test.csv\n  \
             tempra eval runs/reviews/model test.jsonl --text review --label stars --json",
        )
        .arg(
            Arg::new("data")
                .value_name("DATA")
                .required(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help("The labelled table: .csv, .tsv, .jsonl or .parquet"),
        )
        .arg(column("label", "Column of the label [default: as in training, else label]"))
        .arg(json_arg())
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let voice = Voice::of(matches);
    let path = matches.get_one::<PathBuf>("data").map(PathBuf::as_path).unwrap_or(Path::new(""));
    let mut prepared = Prepared::new(matches, &voice)?;
    let label = text(matches, "label").or(prepared.noted.label.as_deref()).unwrap_or("label").to_owned();
    prepared.noted.label = Some(label.clone());
    let columns = Columns { label: Some(label), ..prepared.columns.clone() };
    // A table is read before the model, which takes longer; whether it is one shows by its name.
    let table = Format::of(path).is_ok().then(|| read(path, &columns, OnBadRow::Stop));
    let model = prepared.model()?;
    let (head, outputs) = prepared.head(&model)?;
    if !matches!(outputs, Outputs::Classes(_) | Outputs::Number) {
        return other(matches, &prepared, (&model, head, outputs), path);
    }
    let table = table.unwrap_or_else(|| read(path, &columns, OnBadRow::Stop))?;
    let labels = labels(&table, outputs)?;
    let set = prepared.tokens(&table.rows, labels)?;

    let found = score(&prepared, &model, outputs, &set, &voice)?;
    if flag(matches, "json") {
        let mut all = json!({
            "model": prepared.dir.to_string_lossy(),
            "data": path.to_string_lossy(),
            "device": prepared.device.caps().name,
            "examples": set.len(),
            "max_length": prepared.max_length,
            "texts_cut": set.lost.iter().filter(|n| **n > 0).count(),
        });
        if let Some(all) = all.as_object_mut() {
            all.extend(found.json());
        }
        say_json(&all)?;
    } else {
        let all = format!("{} examples: {}\n{}", set.len(), found.scores(), found.table());
        say(all.trim_end())?;
    }
    prepared.cut(&set).into_iter().for_each(|cut| voice.warn(cut));
    Ok(0)
}

/// Scores every other kind of head.
fn other(
    matches: &ArgMatches,
    prepared: &Prepared,
    (model, head, outputs): (&Model, usize, &Outputs),
    path: &Path,
) -> Result<i32> {
    let (task, set) = prepared.labelled(outputs, path)?;
    let mut meter = task.meter(&set);
    let mut batches = prepared.batches(&set, head)?;
    batches.iter_mut().for_each(|batch| task.prepare(batch, EVALUATION));
    prepared.outputs(model, &batches, &Voice::of(matches), |batch, outputs| meter.add(outputs, batch))?;
    if flag(matches, "json") {
        say_json(&json!({
            "model": prepared.dir.to_string_lossy(),
            "data": path.to_string_lossy(),
            "device": prepared.device.caps().name,
            "examples": set.len(),
            "max_length": prepared.max_length,
            "scores": meter.scores(),
        }))?;
    } else {
        say(format!("{} examples: {}\n{}", set.len(), meter.scores(), meter.report()).trim_end())?;
    }
    Ok(0)
}

/// The labels as the model numbers them.
fn labels(table: &Table, outputs: &Outputs) -> Result<Vec<Label>> {
    let Outputs::Classes(classes) = outputs else { return Target::Regress.labels(table) };
    let known: HashSet<&str> = classes.iter().map(String::as_str).collect();
    let unknown = |label: &&str| !known.contains(label);
    let first = table.rows.iter().find_map(|row| Some((row.label.as_deref().filter(unknown)?, row.line)));
    let Some((label, line)) = first else {
        return Target::Classify { classes: classes.clone() }.labels(table);
    };
    let strange = table.rows.iter().filter(|r| r.label.as_deref().as_ref().is_some_and(unknown)).count();
    let e = Error::data(format!("the label {label:?} is none of the model's classes"))
        .at(&table.path)
        .line(line)
        .expected(listed(classes))
        .found(format!("{label:?}; {strange} of {} rows have such labels", table.rows.len()));
    Err(match nearest(label, classes.iter().map(String::as_str)) {
        Some(near) => e.hint(format!("write {near:?}, if that is meant")),
        None => e.hint("name the right column with --label, or leave out these rows"),
    })
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

enum Found<'a> {
    Classes(&'a [String], Classification),
    Number(Regression),
}

fn score<'m>(
    prepared: &Prepared,
    model: &'m Model,
    outputs: &'m Outputs,
    set: &TokenSet,
    voice: &Voice,
) -> Result<Found<'m>> {
    let mut found = match outputs {
        Outputs::Classes(names) => Found::Classes(names, Classification::new(names.len())),
        _ => Found::Number(Regression::new()),
    };
    prepared.logits(model, set, voice, |example, logits| {
        match (&mut found, set.labels.get(example), logits) {
            (Found::Classes(_, counts), Some(Label::Class(class)), logits) => {
                counts.add_logits(logits, *class)
            }
            (Found::Number(sums), Some(Label::Value(target)), [prediction]) => {
                let (p, t) = (f64::from(*prediction), f64::from(*target));
                sums.add(p, t, (p - t) * (p - t));
                Ok(())
            }
            _ => Err(Error::shape("a label that does not fit the model's outputs")),
        }
    })?;
    Ok(found)
}

impl Found<'_> {
    fn scores(&self) -> Scores {
        match self {
            Self::Classes(_, counts) => counts.scores(),
            Self::Number(sums) => sums.scores(),
        }
    }

    fn table(&self) -> String {
        match self {
            Self::Classes(names, counts) => {
                let mut text = counts.table(names).to_string();
                match counts.undefined() {
                    0 => {}
                    n => text += &format!("{n} precisions or recalls are undefined and count as 0\n"),
                }
                text
            }
            Self::Number(_) => String::new(),
        }
    }

    fn json(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("scores".to_owned(), json!(self.scores()));
        match self {
            Self::Classes(names, counts) => {
                map.insert("task".to_owned(), "classify".into());
                map.insert("classes".to_owned(), json!(names));
                map.insert("per_class".to_owned(), json!(counts.per_class()));
                if names.len() <= MATRIX {
                    map.insert("confusion".to_owned(), json!(counts.confusion()));
                }
            }
            Self::Number(_) => {
                map.insert("task".to_owned(), "regress".into());
            }
        }
        map
    }
}
