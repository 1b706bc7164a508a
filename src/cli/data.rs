//! `tempra data check`: what a person should know about data before training on it.

use super::columns;
use super::init::files::is_squad;
use super::options::{column, count, flag, json_arg, text};
use super::output::{say, say_json};
use super::style::Voice;
use crate::data;
use crate::error::{Error, Result};
use crate::models::{gives_vectors, source};
use crate::predict::{tokenizer, vector_tokenizer};
use clap::{Arg, ArgGroup, ArgMatches, Command, value_parser};
use serde_json::json;
use std::path::{Path, PathBuf};

/// The exit code where something is surely wrong with the data.
const WRONG: i32 = 3;
/// Where texts are cut if nothing else is asked for; as `data.max_length` of a recipe.
const LENGTH: usize = 128;

pub fn define() -> Command {
    let split = |id: &'static str, help: &'static str| {
        let arg = Arg::new(id).long(id).value_name("FILE").value_parser(value_parser!(PathBuf));
        arg.help(help)
    };
    let check = Command::new("check")
        .about("Report errors and oddities in data files")
        .long_about(
            "Report errors and oddities in data files before you train on them.\n\n\
             Errors are rows that cannot be read, labels that the training file lacks, and texts of one file that also \
             occur in another (leaks). Oddities are labels in several spellings, empty texts, duplicate texts, and \
             duplicates with different labels. The report also counts each label. With --weight it adds the smallest, \
             the largest and the sum of the weights, and the rows of weight 0. With --model it adds the lengths in \
             tokens, what truncation would cut, and the share of unknown tokens.\n\n\
             The exit code is 3 if there is an error, else 0.",
        )
        .after_help(
            "Examples:\n  \
             tempra data check train.csv validation.csv test.csv\n  \
             tempra data check --train a.jsonl --test b.jsonl --text review --model models/all-MiniLM-L6-v2",
        )
        .arg(
            Arg::new("files")
                .value_name("FILE")
                .num_args(0..)
                .value_parser(value_parser!(PathBuf))
                .help("Data files, the training file first"),
        )
        .arg(split("train", "Training file"))
        .arg(split("validation", "Validation file"))
        .arg(split("test", "Test file"))
        .group(
            ArgGroup::new("any").args(["files", "train", "validation", "test"]).required(true).multiple(true),
        )
        .arg(column("text", "Column of the text [default: guessed from the names]"))
        .arg(column("pair", "Column of the second text of a pair; \"\" for none [default: guessed from the names]"))
        .arg(column("label", "Column of the label; \"\" for none; several 0/1 columns, one per class, as toxic,insult [default: guessed from the names]"))
        .arg(column("weight", "Column of the weights, which the training file has (`data.weight` of a recipe) [default: none]"))
        .arg(column("model", "Count tokens as this model does: its folder, or org/name").value_name("MODEL"))
        .arg(count("max-length", "Longest sequence in tokens, with --model [default: 128, or what the model reads]").requires("model"))
        .arg(json_arg());
    Command::new("data")
        .about("Check data files before training")
        .after_help("Example:\n  tempra data check train.csv test.csv")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(check)
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    match matches.subcommand() {
        Some(("check", matches)) => check(matches),
        _ => Err(Error::usage("no subcommand is given").with_help("try `tempra data check FILE`")),
    }
}

fn check(matches: &ArgMatches) -> Result<i32> {
    let voice = Voice::of(matches);
    let files = files(matches);
    let Some((_, first)) = files.first() else {
        return Err(Error::usage("no data file is given"));
    };
    files.iter().try_for_each(|(_, file)| only_tables(file))?;
    let mut found = columns::by_name(matches, &data::columns(first)?);
    found.columns.weight = text(matches, "weight").filter(|name| !name.is_empty()).map(str::to_owned);
    let mut indicators = Vec::new();
    if let Some(given) = text(matches, "label").filter(|name| !name.is_empty()) {
        indicators =
            Some(data::label_columns(first, given)?).filter(|names| names.len() > 1).unwrap_or_default();
    }
    if !indicators.is_empty() {
        found.columns.label = None;
        found.why.retain(|(what, _)| *what != "label");
    }
    for (what, why) in &found.why {
        let column = match *what {
            "text" => Some(&found.columns.text),
            "pair" => found.columns.pair.as_ref(),
            _ => found.columns.label.as_ref(),
        };
        column.into_iter().for_each(|name| voice.note(format!("{what}: the column {name:?} ({why})")));
    }
    let tokenizer = match text(matches, "model") {
        Some(model) => {
            let dir = source::resolve(model)?;
            // Pairs for a folder of sentence-transformers become vectors.
            Some(match found.columns.pair.is_some() || gives_vectors(&dir) {
                true => vector_tokenizer(&dir).map(|(tokenizer, positions, _)| (tokenizer, positions))?,
                false => tokenizer(&dir)?,
            })
        }
        None => None,
    };
    let positions = tokenizer.as_ref().map_or(usize::MAX, |(_, positions)| *positions);
    let max_length = matches.get_one::<usize>("max-length").copied().unwrap_or(LENGTH.min(positions));
    let named: Vec<(&str, &Path)> = files.iter().map(|(n, p)| (n.as_str(), p.as_path())).collect();
    let report =
        data::check(&named, &found.columns, &indicators, tokenizer.as_ref().map(|(t, _)| (t, max_length)))?;

    let wrong = report.has_errors();
    if flag(matches, "json") {
        let mut all = json!(report);
        if let Some(all) = all.as_object_mut() {
            all.insert("ok".to_owned(), (!wrong).into());
            let columns = &found.columns;
            let mut columns = json!({
                "text": columns.text, "pair": columns.pair, "label": columns.label, "weight": columns.weight,
            });
            if !indicators.is_empty() {
                columns["label"] = json!(indicators);
            }
            all.insert("columns".to_owned(), columns);
        }
        say_json(&all)?;
    } else {
        let verdict = if wrong { "the data have errors: see above" } else { "no errors found" };
        say(format!("{}{verdict}", super::style::clean(&report.to_string())))?;
    }
    Ok(if wrong { WRONG } else { 0 })
}

/// Refuses files that hold no rows of a table, and yet data that other commands read.
fn only_tables(path: &Path) -> Result<()> {
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let what = match ending.as_str() {
        "conll" | "conllu" | "bio" | "iob" => "sentences of tagged words",
        "txt" => "plain text",
        "json" if is_squad(path) => "questions as in SQuAD",
        _ => return Ok(()),
    };
    if path.is_dir() {
        return Ok(());
    }
    Err(Error::data(format!("the file is not a table, but {what}"))
        .at(path)
        .with_expected("a table: .csv, .tsv, .jsonl, .json or .parquet, or a folder of text files")
        .with_help("`data check` reads tables only; `tempra train` checks other data when it reads them"))
}

/// The files with the names of their splits, the training file first: the one that is told, or named so, or
/// stands first. A file of no told split has its own name.
fn files(matches: &ArgMatches) -> Vec<(String, PathBuf)> {
    let given = |id: &str| Some((id.to_owned(), matches.get_one::<PathBuf>(id)?.clone()));
    let mut files: Vec<_> = given("train").into_iter().collect();
    let mut others: Vec<&PathBuf> = matches.get_many("files").into_iter().flatten().collect();
    let named = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Stable: without such a name the order is as given.
    others.sort_by_key(|path| !named(path).to_lowercase().contains("train"));
    for path in others {
        let name = if files.is_empty() { "train".to_owned() } else { named(path) };
        let taken = files.iter().any(|(n, _)| *n == name);
        files.push((if taken { path.to_string_lossy().into_owned() } else { name }, path.clone()));
    }
    files.extend(["validation", "test"].into_iter().filter_map(given));
    files
}
