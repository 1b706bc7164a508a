//! `tempra predict`: a table in, the same table with predictions out.

use super::model::{Prepared, no_answer_arg, with_model};
use super::options::text;
use super::output::Destination;
use super::style::Voice;
use super::{fill, found, idle};
use crate::data::{Format, Records, Row, read_texts};
use crate::error::{Error, Kind, Result};
use crate::metrics::{sigmoids, softmax};
use crate::models::{Options, Outputs};
use crate::text::Tokenizer;
use clap::{Arg, ArgMatches, Command};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;
use std::time::Instant;

pub fn define() -> Command {
    let format = |id: &'static str, names: &'static [&'static str], help: &'static str| {
        Arg::new(id).long(id).value_name("FORMAT").value_parser(names.to_vec()).help(help)
    };
    with_model(Command::new("predict"))
        .about("Adds a fine-tuned model's predictions to a table")
        .long_about(
            "Adds a fine-tuned model's predictions to a table.\n\n\
             Reads CSV, TSV, JSON Lines or Parquet and writes CSV or JSON Lines: every column as it was, in the order it \
             was, and behind them what the model says. Of a classifier: `label`, `probability` (of that label) and \
             one column `p_CLASS` for each class, which sum to 1. Of a regression, and of a cross-encoder with one output: `prediction`. Of a classifier of \
             any number of classes: `labels`, those whose probability is above what training found best for each (else 0.5), and \
             `p_CLASS` of each. Of a masked language model: `filled`, the best token \
             for each mask token of the text. Where the table has a column of that name already, ours is called \
             `predicted_...`.\n\n\
             A tagger reads sentences of words as in training and writes a tag for each word (CoNLL columns, or JSON Lines \
             with the entities); a finder of answers reads SQuAD's JSON and writes predictions.json, \
             nbest_predictions.json and null_odds.json into the folder that -o names. What training learnt decides, never the \
             labels or other rows of the input. Offsets count Unicode code points, as Python indexes strings; the end is \
             exclusive.\n\n\
             A text that is longer than --max-length is cut, and that is said. The result of a text does not \
             depend on the other rows. In JSON Lines the table's own values are written as strings.",
        )
        .after_help(
            "Examples:\n  \
             tempra predict runs/reviews/model new.csv -o predicted.csv\n  \
             tempra predict runs/reviews/model --text review --format jsonl new.parquet\n  \
             printf 'text\\nA fine film.\\n' | tempra predict runs/reviews/model -",
        )
        .arg(
            Arg::new("input").value_name("INPUT").required(true).help(
                "The table: .csv, .tsv, .jsonl or .parquet with a header line or keys; - is standard input",
            ),
        )
        .arg(
            Arg::new("output")
                .short('o')
                .long("output")
                .value_name("FILE")
                .help("File to write; appears when it is complete [default: standard output]"),
        )
        .arg(no_answer_arg())
        .arg(format("format", &["csv", "jsonl"], "What is written [default: by the name of FILE, else csv]"))
        .arg(format(
            "input-format",
            &["csv", "tsv", "jsonl"],
            "What is read [default: by the name of INPUT; csv from standard input]",
        ))
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let (voice, start) = (Voice::of(matches), Instant::now());
    let input = text(matches, "input").unwrap_or_default();
    let json = json_lines(matches)?;
    let destination =
        Destination::of(text(matches, "output")).map_err(|e| match text(matches, "output") {
            Some(folder) if Path::new(folder).is_dir() => e.with_help(
                "give -o the name of a file; for answers to questions, of a folder that is not there yet",
            ),
            _ => e,
        })?;
    destination.spare([Path::new(input)])?;
    let prepared = Prepared::new(matches, &voice)?;
    destination.spare([prepared.dir.as_path()])?;
    let model = prepared.model(&Options::default(), &voice)?;
    let (head, outputs) = prepared.head(&model)?;
    idle::warn("predict", matches, outputs, &voice);
    let done = match outputs {
        Outputs::Tags(names) => Some(found::tags(matches, &prepared, &model, names, json)?),
        Outputs::Span => Some(found::answers(matches, &prepared, &model)?),
        Outputs::Embedding => {
            return Err(Error::usage("this model gives vectors, not predictions")
                .at(&prepared.dir)
                .with_help("`tempra embed` writes them"));
        }
        _ => None,
    };
    if let Some(done) = done {
        voice.note(format!(
            "{done}, in {:.1} s on {}",
            start.elapsed().as_secs_f64(),
            prepared.device.caps().name
        ));
        return Ok(0);
    }
    let records = read(input, text(matches, "input-format"), &prepared)?;
    let row = |((text, pair), &line): ((&str, Option<&str>), &u64)| Row {
        text: text.to_owned(),
        pair: pair.map(str::to_owned),
        label: None,
        line,
    };
    let rows: Vec<Row> = records.inputs().into_iter().zip(&records.lines).map(row).collect();
    let set = prepared.tokens(&rows, Vec::new())?;
    drop(rows);

    let mut logits = vec![Vec::new(); set.len()];
    if matches!(outputs, Outputs::Tokens | Outputs::Permuted) {
        logits = fill::fill(&prepared, &model, (head, outputs), &set, &voice)?;
    } else {
        let which = if *outputs == Outputs::Pretraining { 1 } else { 0 };
        prepared.rows(&model, &set, which, &voice, |example, row| {
            if let Some(slot) = logits.get_mut(example) {
                *slot = row.to_vec();
            }
            Ok(())
        })?;
    }

    let thresholds = match outputs {
        Outputs::Labels(classes) => {
            prepared.noted.thresholds(classes).unwrap_or_else(|| vec![0.5; classes.len()])
        }
        _ => Vec::new(),
    };
    let names = names(outputs, &records.header);
    let separator = prepared.noted.separator();
    let added = Added { outputs, tokenizer: prepared.tokenizer(), names, thresholds, separator };
    destination.write(|out| added.write(out, &records, &logits, json))?;
    voice.note(format!(
        "{} rows in {:.1} s on {}{}",
        set.len(),
        start.elapsed().as_secs_f64(),
        prepared.device.caps().name,
        added.summary(&logits),
    ));
    prepared.cut(&set).into_iter().for_each(|cut| voice.warn(cut));
    Ok(0)
}

/// Whether JSON Lines are written, by `--format` or the name of the output.
fn json_lines(matches: &ArgMatches) -> Result<bool> {
    if let Some(format) = text(matches, "format") {
        return Ok(format == "jsonl");
    }
    let output = text(matches, "output").filter(|o| *o != "-").map(Path::new);
    match output.map(|o| (o, Format::of(o))) {
        Some((_, Ok(Format::Jsonl))) => Ok(true),
        Some((output, Ok(Format::Tsv | Format::Parquet))) => {
            Err(Error::usage("predictions are written as CSV or JSON Lines")
                .at(output)
                .with_help("name the output .csv or .jsonl, or say --format"))
        }
        _ => Ok(false),
    }
}

fn read(input: &str, format: Option<&str>, prepared: &Prepared) -> Result<Records> {
    let format = format.map(|name| match name {
        "tsv" => Format::Tsv,
        "jsonl" => Format::Jsonl,
        _ => Format::Csv,
    });
    match format {
        Some(format) if input != "-" => {
            let path = Path::new(input);
            let file = File::open(path).map_err(|e| Error::io(Kind::Data, "cannot open", path, &e))?;
            Records::from_reader(BufReader::new(file), path, format, &prepared.columns)
        }
        format => read_texts(input, format, &prepared.columns),
    }
}

/// The names of our columns, none of which the table has.
fn names(outputs: &Outputs, header: &[String]) -> Vec<String> {
    let wanted: Vec<String> = match outputs {
        Outputs::Number => vec!["prediction".to_owned()],
        Outputs::Labels(classes) => {
            ["labels".to_owned()].into_iter().chain(classes.iter().map(|c| format!("p_{c}"))).collect()
        }
        Outputs::Tokens | Outputs::Permuted => vec!["filled".to_owned()],
        Outputs::Pretraining => vec!["p_follows".to_owned()],
        Outputs::Tags(_) | Outputs::Span | Outputs::Embedding => Vec::new(),
        Outputs::Classes(classes) => ["label".to_owned(), "probability".to_owned()]
            .into_iter()
            .chain(classes.iter().map(|class| format!("p_{class}")))
            .collect(),
    };
    let mut taken: HashSet<String> = header.iter().cloned().collect();
    let mut free = |name: String| {
        let numbered = (2..).map(|i| format!("predicted_{name}_{i}"));
        let mut all = [name.clone(), format!("predicted_{name}")].into_iter().chain(numbered);
        let name = all.find(|n| !taken.contains(n)).unwrap_or(name);
        taken.insert(name.clone());
        name
    };
    wanted.into_iter().map(&mut free).collect()
}

enum Cell {
    Text(String),
    Number(f64),
}

/// A number in at most nine significant digits, which is what an f32 holds, and as few of them as are needed.
fn shortest(x: f64) -> String {
    let rounded: f64 = format!("{x:.8e}").parse().unwrap_or(x);
    format!("{rounded:?}")
}

/// The columns that predictions add.
struct Added<'a> {
    outputs: &'a Outputs,
    tokenizer: &'a Tokenizer,
    names: Vec<String>,
    /// Of classes of which a row may have several: the probability of each above which it is given.
    thresholds: Vec<f64>,
    /// What is written between them.
    separator: String,
}

impl Added<'_> {
    fn cells(&self, logits: &[f32]) -> Vec<Cell> {
        match self.outputs {
            Outputs::Number => logits.iter().map(|&x| Cell::Number(f64::from(x))).collect(),
            Outputs::Classes(classes) => {
                let p = softmax(logits);
                let best = first_greatest(logits);
                let (class, top) = (classes.get(best).cloned().unwrap_or_default(), p.get(best).copied());
                let mut cells = vec![Cell::Text(class), Cell::Number(top.unwrap_or(f64::NAN))];
                cells.extend(p.into_iter().map(Cell::Number));
                cells
            }
            Outputs::Labels(classes) => {
                let p = sigmoids(logits);
                let above = classes.iter().zip(p.iter().zip(&self.thresholds)).filter(|(_, (p, t))| p > t);
                let given = above.map(|(c, _)| c.as_str());
                let mut cells = vec![Cell::Text(given.collect::<Vec<_>>().join(&self.separator))];
                cells.extend(p.into_iter().map(Cell::Number));
                cells
            }
            Outputs::Tokens | Outputs::Permuted => {
                let token = |&id: &f32| self.tokenizer.token(id as u32).unwrap_or_default();
                vec![Cell::Text(logits.iter().map(token).collect::<Vec<_>>().join(" "))]
            }
            // The first class says that the second text follows.
            Outputs::Pretraining => vec![Cell::Number(softmax(logits).first().copied().unwrap_or(f64::NAN))],
            Outputs::Tags(_) | Outputs::Span | Outputs::Embedding => Vec::new(),
        }
    }

    fn write(
        &self,
        out: &mut dyn Write,
        records: &Records,
        logits: &[Vec<f32>],
        json: bool,
    ) -> io::Result<()> {
        let rows = records.rows.iter().zip(logits);
        if json {
            let header: Vec<&String> = records.header.iter().chain(&self.names).collect();
            for (row, logits) in rows {
                let own = row.iter().map(serde_json::to_string);
                let added = self.cells(logits).into_iter().map(|cell| match cell {
                    Cell::Text(s) => serde_json::to_string(&s),
                    Cell::Number(x) => Ok(shortest(x)),
                });
                let mut line = String::new();
                for (key, value) in header.iter().zip(own.chain(added)) {
                    let comma = if line.is_empty() { "{" } else { ", " };
                    line += &format!("{comma}{}: {}", serde_json::to_string(key)?, value?);
                }
                writeln!(out, "{line}}}")?;
            }
            return Ok(());
        }
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record(records.header.iter().chain(&self.names))?;
        for (row, logits) in rows {
            let added = self.cells(logits).into_iter().map(|cell| match cell {
                Cell::Text(s) => s,
                Cell::Number(x) => shortest(x),
            });
            csv.write_record(row.iter().cloned().chain(added))?;
        }
        csv.flush()
    }

    /// How often each class was predicted, the most frequent first.
    fn summary(&self, logits: &[Vec<f32>]) -> String {
        const SHOWN: usize = 8;
        let Outputs::Classes(classes) = self.outputs else { return String::new() };
        let mut counts: Vec<(usize, &String)> = classes.iter().map(|name| (0, name)).collect();
        for row in logits {
            if let Some(slot) = counts.get_mut(first_greatest(row)) {
                slot.0 += 1;
            }
        }
        counts.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
        let shown: Vec<String> = counts.iter().take(SHOWN).map(|(n, name)| format!("{name} {n}")).collect();
        let more = if counts.len() > SHOWN { ", ..." } else { "" };
        format!(": {}{more}", shown.join(", "))
    }
}

/// The place of the first greatest; as the metrics count a prediction.
fn first_greatest(logits: &[f32]) -> usize {
    let better = |best: (usize, f32), (i, &x): (usize, &f32)| if x > best.1 { (i, x) } else { best };
    logits.iter().enumerate().fold((0, f32::NEG_INFINITY), better).0
}
