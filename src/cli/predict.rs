//! `tempra predict`: predictions for a table, or for texts given on the command line.

use super::input::Input;
use super::model::{Prepared, no_answer_arg, with_model};
use super::options::text;
use super::output::Destination;
use super::predictions::{Predictions, RowOutput};
use super::problem::unlabelled;
use super::style::Voice;
use super::{fill, found, idle};
use crate::data::{Format, Row, TokenSet};
use crate::error::{Error, Result};
use crate::models::{Model, Options, Outputs};
use crate::tasks::similarity;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::path::Path;
use std::time::Instant;

/// How predictions are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Aligned lines for a person.
    Text,
    /// A table as CSV; tags as CoNLL columns; answers as the JSON of SQuAD's scripts.
    Csv,
    /// A JSON object for each row, sentence or question.
    Jsonl,
}

pub fn define() -> Command {
    let format = |id: &'static str, names: &'static [&'static str], help: &'static str| {
        Arg::new(id).long(id).value_name("FORMAT").value_parser(names.to_vec()).help(help)
    };
    let given = |id: &'static str, help: &'static str| {
        let arg = Arg::new(id).long(id).value_name("TEXT").action(ArgAction::Append).help(help);
        arg.allow_hyphen_values(true).help_heading("Text from the command line")
    };
    with_model(Command::new("predict"))
        .override_usage(
            "tempra predict [OPTIONS] <MODEL> <INPUT>\n       \
             tempra predict [OPTIONS] <MODEL> --sentence <TEXT> [--pair <TEXT>]\n       \
             tempra predict [OPTIONS] <MODEL> --question <TEXT> --context <TEXT>",
        )
        .about("Predict with a fine-tuned model: a table, or texts from the command line")
        .long_about(
            "Predicts with a fine-tuned model: a table, or texts from the command line.\n\n\
             A table is CSV, TSV, JSON Lines, JSON, Parquet or a folder of .txt files. The output keeps all its columns and adds:\n\n  \
             classify       label, probability (of that label), p_CLASS for every class\n  \
             multilabel     labels (classes above their thresholds), p_CLASS for every class\n  \
             regress        prediction\n  \
             similar        similarity (the cosine of the two texts' vectors)\n  \
             mask, permute  filled (the likeliest token for each mask token)\n  \
             next           p_follows\n\n\
             An added column gets the prefix `predicted_` if the table already has one of its name.\n\n\
             A tagger (tag) reads sentences of words, or texts in JSON Lines. It writes a tag for each word, or JSON Lines \
             with the entities. A model for questions (answer) reads SQuAD's JSON. It writes predictions.json, \
             nbest_predictions.json and null_odds.json into the folder that -o names.\n\n\
             --sentence predicts one text. Repeat it for several texts. Add --pair for each if the model reads two texts. \
             A model for questions needs --question and --context instead. The result is printed as readable lines: the 5 \
             likeliest classes, the entities, or the answers with their place in the context. --format or -o write CSV or JSON \
             Lines instead. In a text for `mask`, write [MASK] or <mask> for each word to find.\n\n\
             The same text gives the same prediction, whatever other rows there are and however it is given. A text longer \
             than --max-length is cut, with a warning. Offsets count Unicode code points, as Python indexes strings; the end is \
             exclusive. In JSON Lines, the values of the table's own columns are written as strings.",
        )
        .after_help(
            "Examples:\n  \
             tempra predict runs/reviews/model --sentence \"A fine film.\"\n  \
             tempra predict runs/nli/model --sentence \"It rains.\" --pair \"The sun shines.\"\n  \
             tempra predict runs/squad/model --question \"Who left?\" --context \"Alice left.\"\n  \
             tempra predict runs/reviews/model new.csv -o predicted.csv\n  \
             tempra predict runs/reviews/model --text review --format jsonl new.parquet\n  \
             printf 'text\\nA fine film.\\n' | tempra predict runs/reviews/model -",
        )
        .arg(
            Arg::new("input").value_name("INPUT").help(
                "File to predict: .csv, .tsv, .jsonl, .json or .parquet; a folder of .txt files; CoNLL columns or CoNLL-U for tags, SQuAD's JSON for questions; - is standard input",
            ),
        )
        .mut_arg("pair", |pair| {
            pair.value_name("COLUMN or TEXT").action(ArgAction::Append).allow_hyphen_values(true).help(
                "Column of the second text of a pair, \"\" for none [default: as in training]; with --sentence the second \
                 text itself",
            )
        })
        .arg(given("sentence", "Text to predict; repeat it for several texts"))
        .arg(given("question", "Question to answer about --context; repeat it for several questions"))
        .arg(given("context", "Text that holds the answer; one for all questions, or one for each"))
        .arg(
            Arg::new("output")
                .short('o')
                .long("output")
                .value_name("FILE")
                .help("File to write; appears when it is complete [default: standard output]"),
        )
        .arg(no_answer_arg())
        .arg(format(
            "format",
            &["text", "csv", "jsonl"],
            "Format of the output [default: by the name of FILE, else csv; text with --sentence and --question]",
        ))
        .arg(format(
            "input-format",
            &["csv", "tsv", "jsonl", "json"],
            "Format of the input [default: by the name of INPUT; csv from standard input]",
        ))
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let (voice, start) = (Voice::of(matches), Instant::now());
    let input = Input::of(matches)?;
    let form = form(matches, input.direct())?;
    let destination =
        Destination::of(text(matches, "output")).map_err(|e| match text(matches, "output") {
            Some(folder) if Path::new(folder).is_dir() => {
                e.with_help("give -o the name of a file; for answers to questions, the name of a new folder")
            }
            _ => e,
        })?;
    destination.spare(input.file())?;
    let prepared = Prepared::new(matches, &voice)?;
    destination.spare([prepared.dir.as_path()])?;
    let model = prepared.model(&Options::default(), &voice)?;
    let (_, outputs) = prepared.head(&model)?;
    let columns = input.columns(&prepared, outputs)?;
    idle::warn("predict", matches, (outputs, &prepared.noted), input.direct(), &voice);
    if let (Outputs::Classes(_) | Outputs::Labels(_) | Outputs::Number, Some(_)) = (outputs, &columns.pair)
        && prepared.noted.text.is_some()
        && prepared.noted.pair.is_none()
    {
        voice.warn("--pair is given, but the model was trained on single texts\n  help: leave out --pair");
    }
    let took = || format!("in {:.2} s on {}", start.elapsed().as_secs_f64(), prepared.device.caps().label());
    let done = match outputs {
        Outputs::Tags(names) => {
            Some(found::tags(&input, &prepared, &model, names, (form, &destination), &voice)?)
        }
        Outputs::Span => Some(found::answers(&input, &prepared, &model, (form, matches), &voice)?),
        _ => None,
    };
    if let Some(done) = done {
        voice.note(format!("{done}, {}", took()));
        return Ok(0);
    }
    let records = input.records(text(matches, "input-format"), &columns)?;
    let row = |((text, pair), &line): ((&str, Option<&str>), &u64)| unlabelled(text, pair, line);
    let rows: Vec<Row> = records.inputs().into_iter().zip(&records.lines).map(row).collect();
    let (set, values) = compute(&prepared, &model, rows, input.direct(), &voice)?;
    let predictions = Predictions::new(outputs, prepared.tokenizer(), &prepared.noted, &records, &values);
    destination.write(|out| predictions.write(out, form))?;
    let summary = if form == Form::Text { String::new() } else { predictions.summary() };
    voice.note(format!(
        "{} {}{summary}",
        counted(set.len(), if input.direct() { "text" } else { "row" }),
        took()
    ));
    if form == Form::Text && matches!(outputs, Outputs::Labels(_)) {
        voice.note("[x] marks classes whose probability is above the threshold from training, or above 0.5");
    }
    prepared.cut(&set).into_iter().for_each(|cut| voice.warn(cut));
    Ok(0)
}

/// A number with its noun.
pub fn counted(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// The tokens of rows, and what the model gives for each.
fn compute(
    prepared: &Prepared,
    model: &Model,
    mut rows: Vec<Row>,
    direct: bool,
    voice: &Voice,
) -> Result<(TokenSet, Vec<RowOutput>)> {
    let (head, outputs) = prepared.head(model)?;
    if matches!(outputs, Outputs::Tokens | Outputs::Permuted) {
        fill::translate(prepared.tokenizer(), &mut rows, voice);
        let set = prepared.tokens(&rows, Vec::new())?;
        fill::check(prepared, &rows, &set, direct, voice)?;
        let fills = fill::fill(prepared, model, (head, outputs), &set, voice)?;
        return Ok((set, fills.into_iter().map(RowOutput::Fills).collect()));
    }
    let mut values = vec![RowOutput::Values(Vec::new()); rows.len()];
    let mut keep = |example: usize, row: Vec<f32>| {
        if let Some(slot) = values.get_mut(example) {
            *slot = RowOutput::Values(row);
        }
    };
    let set = match outputs {
        Outputs::Embedding => {
            let set = TokenSet::of_pairs(prepared.tokenizer(), &rows, Vec::new(), prepared.max_length)?;
            prepared.outputs(model, &prepared.batches(&set, head)?, voice, |batch, outputs| {
                let vectors = outputs.first().map(Vec::as_slice).unwrap_or_default();
                let width = vectors.len() / (2 * batch.len()).max(1);
                for (both, &example) in vectors.chunks_exact((2 * width).max(1)).zip(&batch.examples) {
                    let (u, v) = both.split_at(width);
                    keep(example as usize, vec![similarity(u, v) as f32]);
                }
                Ok(())
            })?;
            set
        }
        _ => {
            let set = prepared.tokens(&rows, Vec::new())?;
            let which = if *outputs == Outputs::Pretraining { 1 } else { 0 };
            prepared.rows(model, &set, which, voice, |example, row| {
                keep(example, row.to_vec());
                Ok(())
            })?;
            set
        }
    };
    Ok((set, values))
}

/// How the output is written: as `--format` says, else by the name of the output, else readable for texts from the command line.
fn form(matches: &ArgMatches, direct: bool) -> Result<Form> {
    match text(matches, "format") {
        Some("text") => return Ok(Form::Text),
        Some("jsonl") => return Ok(Form::Jsonl),
        Some(_) => return Ok(Form::Csv),
        None => {}
    }
    let Some(output) = text(matches, "output") else {
        return Ok(if direct { Form::Text } else { Form::Csv });
    };
    match Format::of(Path::new(output)) {
        Ok(Format::Jsonl) => Ok(Form::Jsonl),
        Ok(Format::Tsv | Format::Json | Format::Parquet) => {
            Err(Error::usage("predictions cannot be written in this format")
                .at(output)
                .with_expected("CSV or JSON Lines")
                .with_help("name the output .csv or .jsonl, or choose with --format"))
        }
        _ => Ok(Form::Csv),
    }
}
