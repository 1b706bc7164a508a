//! `tempra shrink`: a smaller model folder that computes the same.

use super::options::{column, flag, json_arg, text};
use super::output::{say, say_json};
use super::style::Voice;
use crate::checkpoint::RealFs;
use crate::compress::shrink::{Proof, STOCK, ShrinkOptions, Shrunk, StockForm, shrink};
use crate::data::{Columns, OnBadRow, read_documents, read_texts};
use crate::error::{Error, Result};
use crate::models::source;
use crate::units::{bytes, count};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::json;
use std::path::{Path, PathBuf};

/// The most texts of a file that the models are compared on.
const MOST_TEXTS: usize = 64;

pub fn define() -> Command {
    Command::new("shrink")
        .about("Remove from a model what does not matter, and prove that it computes the same")
        .long_about(
            "Remove from a model what does not matter, and prove that it computes the same.\n\n\
             Structured pruning leaves attention heads and feed-forward rows whose weights are zero. This command writes a \
             new model folder without them. It never removes anything that changes an output, except layers that you leave \
             out of --layers or ask for with --drop-layers, and tokens that the files of --vocab-from do not need. Every \
             other command works on the new folder, `tempra train` too.\n\n\
             tempra then runs both models over some texts on the CPU, in f32. If hidden states or outputs differ by more \
             than 1e-5 of the largest value, it is an error and nothing is written.\n\n\
             transformers cannot open layers of different sizes. For it, tempra writes the same model into the folder \
             model-stock inside the new one: with fewer heads, but projections of the old size.",
        )
        .after_help(
            "Examples:\n  \
             tempra shrink runs/pruned/model -o small\n  \
             tempra shrink runs/reviews/model -o three-layers --layers 0,2,5\n  \
             tempra shrink runs/reviews/model -o four-layers --drop-layers 2 --texts reviews.csv\n  \
             tempra shrink runs/reviews/model -o small --vocab-from reviews.csv more.csv",
        )
        .arg(
            Arg::new("model")
                .value_name("MODEL")
                .required(true)
                .help("Folder of a model (config.json, model.safetensors, tokenizer), or org/name"),
        )
        .arg(
            Arg::new("output")
                .short('o')
                .long("output")
                .value_name("DIR")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Folder to write; it must not exist"),
        )
        .arg(
            Arg::new("layers")
                .long("layers")
                .value_name("LIST")
                .value_delimiter(',')
                .value_parser(value_parser!(usize))
                .help("Layers to keep, counted from 0, in this order, such as 0,2,5 [default: all]"),
        )
        .arg(
            Arg::new("drop-layers")
                .long("drop-layers")
                .value_name("N")
                .value_parser(value_parser!(usize))
                .help("Remove the N layers that change the hidden states of the texts least (block influence); better with --texts of your own"),
        )
        .arg(
            Arg::new("vocab-from")
                .long("vocab-from")
                .value_name("FILE")
                .num_args(1..)
                .action(ArgAction::Append)
                .help("Tables of texts, or .txt files with one text a line: tokens that they do not need are removed"),
        )
        .arg(
            Arg::new("texts")
                .long("texts")
                .value_name("FILE")
                .conflicts_with("vocab-from")
                .help("Table of texts to compare the models on, and to choose layers by [default: the first of --vocab-from, else sentences that come with tempra]"),
        )
        .arg(column("text", "Column of the text in these files [default: text]"))
        .arg(column("pair", "Column of a second text in these files"))
        .arg(
            Arg::new("no-stock")
                .long("no-stock")
                .action(ArgAction::SetTrue)
                .help("Do not write the folder for transformers"),
        )
        .arg(json_arg())
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let voice = Voice::of(matches);
    let name = text(matches, "model").unwrap_or_default();
    let dir = source::resolve(name)?;
    if dir != Path::new(name) && Path::new(name).join("modules.json").exists() {
        return Err(Error::model("the encoder is in a folder of its own inside of the model folder")
            .at(name)
            .with_expected(
                "config.json beside modules.json, as current versions of sentence-transformers write it",
            )
            .with_help("open and save the model with sentence-transformers"));
    }
    let out = matches.get_one::<PathBuf>("output").cloned().unwrap_or_default();
    let files: Vec<&str> =
        matches.get_many::<String>("vocab-from").into_iter().flatten().map(String::as_str).collect();
    let options = ShrinkOptions {
        layers: matches.get_many::<usize>("layers").map(|list| list.copied().collect()),
        drop_layers: matches.get_one::<usize>("drop-layers").copied().unwrap_or(0),
        corpus: (!files.is_empty()).then(|| texts(&files, "--vocab-from", matches)).transpose()?,
        texts: match text(matches, "texts") {
            Some(file) => texts(&[file], "--texts", matches)?.into_iter().take(MOST_TEXTS).collect(),
            None => Vec::new(),
        },
        no_stock: flag(matches, "no-stock"),
    };
    let done = shrink(&RealFs, &dir, &out, &options)?;
    if flag(matches, "json") {
        let mut value = json!(done);
        value["difference"] = done.proof.relative().into();
        say_json(&value)?;
    } else {
        say(report(&done, &out))?;
    }
    if !done.left_out.is_empty() {
        voice.note(format!(
            "not written: {}; tokenizer.json has the smaller vocabulary",
            done.left_out.join(", ")
        ));
    }
    if let StockForm::None { why } = &done.stock {
        voice.note(format!("no folder for transformers: {why}"));
    }
    Ok(0)
}

/// The texts of files, and their second texts; `option` names the files.
fn texts(files: &[&str], option: &str, matches: &ArgMatches) -> Result<Vec<String>> {
    let columns = Columns {
        text: text(matches, "text").unwrap_or("text").to_owned(),
        pair: text(matches, "pair").map(str::to_owned),
        label: None,
        weight: None,
    };
    let mut all = Vec::new();
    for file in files {
        let before = all.len();
        if file.to_ascii_lowercase().ends_with(".txt") {
            let documents = read_documents(Path::new(file), &columns.text, true, OnBadRow::Stop)?.documents;
            all.extend(documents.into_iter().flatten());
        } else {
            let records = read_texts(file, None, &columns)?;
            for (text, pair) in records.inputs() {
                all.push(text.to_owned());
                all.extend(pair.map(str::to_owned));
            }
        }
        if all.len() == before {
            return Err(Error::usage(format!("a file of {option} has no texts"))
                .at(file)
                .with_help("name another file"));
        }
    }
    Ok(all)
}

/// What was removed, and what there is now.
fn report(done: &Shrunk, out: &Path) -> String {
    let change = |[before, after]: [usize; 2]| match before == after {
        true => after.to_string(),
        false => format!("{before} -> {after}"),
    };
    let mut lines = vec![format!("{:<12}{:<16}{}", "layer", "heads", "rows")];
    for l in &done.layers {
        lines.push(format!("{:<12}{:<16}{}", l.layer, change(l.heads), change(l.rows)));
    }
    let influence = |layer: usize| match done.influence.get(layer) {
        Some(v) => format!(" (influence {v:.4})"),
        None => String::new(),
    };
    lines.extend(done.removed_layers.iter().map(|&layer| format!("{layer:<12}removed{}", influence(layer))));
    lines.push(String::new());
    let share = |[before, after]: [u64; 2]| format!("{:.1} %", 100.0 * after as f64 / before.max(1) as f64);
    let parameters = done.parameters.map(|n| n as u64);
    if done.vocabulary[0] != done.vocabulary[1] {
        lines.push(format!("{:<12}{}", "vocabulary", change(done.vocabulary)));
    }
    let [before, after] = parameters;
    lines.push(format!("{:<12}{} -> {} ({})", "parameters", count(before), count(after), share(parameters)));
    let [before, after] = done.bytes;
    lines.push(format!("{:<12}{} -> {} ({})", "weights", bytes(before), bytes(after), share(done.bytes)));
    let proof = |p: &Proof| {
        format!("{:.1e} of the largest value, on {} texts with {} tokens", p.relative(), p.texts, p.tokens)
    };
    lines.push(format!("{:<12}{}", "difference", proof(&done.proof)));
    let folder = out.display();
    match (&done.stock, &done.stock_proof) {
        (StockForm::Same, _) => {
            lines.push(format!("\n{folder}: the smaller model, for tempra and transformers"))
        }
        (StockForm::Written { heads, intermediate, parameters, bytes: size }, stock) => {
            lines.push(format!("\n{folder}: the smaller model, for tempra"));
            lines.push(format!(
                "{}: the same model for transformers: {heads} heads and {intermediate} rows in every layer, {} parameters, {}; difference {}",
                out.join(STOCK).display(),
                count(*parameters as u64),
                bytes(*size),
                stock.as_ref().map_or_else(String::new, proof)
            ));
        }
        (StockForm::None { .. }, _) => lines.push(format!("\n{folder}: the smaller model, for tempra")),
    }
    lines.join("\n")
}
