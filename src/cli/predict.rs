//! `tempra predict`: predictions for a table, or for texts given on the command line.

use super::input::Input;
use super::model::{self, no_answer_arg, settings, with_model};
use super::options::{listed, open_device, text};
use super::output::Destination;
use super::predictions::Predictions;
use super::style::Voice;
use super::{found, idle};
use crate::data::{Format, Row};
use crate::error::{Error, Result};
use crate::models::Outputs;
use crate::predict::{Folder, Predicted, Prediction, Session};
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
        .long_about(format!(
            "Predicts with a fine-tuned model: a table, or texts from the command line.\n\n\
             A table is CSV, TSV, JSON Lines, JSON, Parquet or a folder of .txt files. The output keeps all its columns and adds:\n\n{}\n\
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
            listed(|entry| entry.columns)
        ))
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
    let device = open_device(matches)?;
    let folder = Folder::open(text(matches, "model").unwrap_or_default(), settings(matches))?;
    model::warn(&folder, &voice);
    destination.spare([folder.dir.as_path()])?;
    let session = model::load(folder, device, matches, &voice)?;
    let (metadata, outputs) = (&session.folder.metadata, session.outputs());
    let columns = input.columns(&session)?;
    idle::warn("predict", matches, (outputs, session.folder.several), input.direct(), &voice);
    if let (Outputs::Classes(_) | Outputs::Labels(_) | Outputs::Number, Some(_)) = (outputs, &columns.pair)
        && metadata.text_column().is_some()
        && metadata.pair_column().is_none()
    {
        voice.warn("--pair is given, but the model was trained on single texts\n  help: leave out --pair");
    }
    let took = || format!("in {:.2} s on {}", start.elapsed().as_secs_f64(), session.device().caps().label());
    let done = match outputs {
        Outputs::Tags(names) => Some(found::tags(&input, &session, names, (form, &destination), &voice)?),
        Outputs::Span => Some(found::answers(&input, &session, (form, matches), &voice)?),
        _ => None,
    };
    if let Some(done) = done {
        voice.note(format!("{done}, {}", took()));
        return Ok(0);
    }
    let records = input.records(text(matches, "input-format"), &columns)?;
    let row = |((text, pair), &line): ((&str, Option<&str>), &u64)| Row {
        pair: pair.map(str::to_owned),
        line,
        ..text.into()
    };
    let rows = records.inputs().into_iter().zip(&records.lines).map(row);
    let all: Vec<Prediction> = session.predict(rows).collect::<Result<_>>()?;
    if matches!(outputs, Outputs::Tokens | Outputs::Permuted) {
        check_filled(&session, &all, input.direct(), &voice)?;
    }
    let predictions = Predictions::new(&session, &records, &all);
    destination.write(|out| predictions.write(out, form))?;
    let summary = if form == Form::Text { String::new() } else { predictions.summary() };
    voice.note(format!(
        "{} {}{summary}",
        counted(all.len(), if input.direct() { "text" } else { "row" }),
        took()
    ));
    if form == Form::Text && matches!(outputs, Outputs::Labels(_)) {
        voice.note("[x] marks classes whose probability is above the threshold from training, or above 0.5");
    }
    model::warn_cut(&session, all.iter().filter(|p| p.lost > 0).count(), all.len(), &voice);
    Ok(0)
}

/// Warns about texts without a mask token, whose mask token was cut off, or that also have one of another
/// model; an error if no text from the command line (`direct`) has one.
fn check_filled(session: &Session, all: &[Prediction], direct: bool, voice: &Voice) -> Result<()> {
    let (_, name) = session.mask_token()?;
    let filled = || {
        all.iter().filter_map(|p| if let Predicted::Filled(filled) = &p.value { Some(filled) } else { None })
    };
    let texts = |n: usize| if n == 1 { "1 text".to_owned() } else { format!("{n} texts") };
    let mixed = filled().filter(|f| f.mixed).count();
    if mixed > 0 {
        let other = if name == "[MASK]" { "<mask>" } else { "[MASK]" };
        let have = if mixed == 1 { "has" } else { "have" };
        voice.warn(format!(
            "{} {have} both {name} and {other}: only {name} is filled in\n  help: write {name} for each word to find",
            texts(mixed)
        ));
    }
    let (length, help) = (session.folder.max_length, "raise --max-length, or shorten the text");
    let cut = filled().filter(|f| f.cut).count();
    let without = filled().filter(|f| f.masks.is_empty()).count();
    if direct && cut > 0 && without == all.len() {
        return Err(Error::usage(format!("{name} was cut off: the text is longer than {length} tokens"))
            .with_expected(format!("{name} among the first {length} tokens"))
            .with_help(help));
    }
    if cut > 0 {
        voice.warn(format!("{name} of {} was cut off at {length} tokens\n  help: {help}", texts(cut)));
    }
    match without - cut {
        0 => Ok(()),
        n if direct && n == all.len() => Err(Error::usage("the text has no mask token")
            .with_expected(format!("{name} in place of each word that the model shall find"))
            .with_help(format!("for example: --sentence \"Paris is the {name} of France.\""))),
        n => {
            voice.warn(format!("{n} of {} texts have no {name}: nothing is filled in", all.len()));
            Ok(())
        }
    }
}

/// A number with its noun.
pub fn counted(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// How the output is written: as `--format` says, else by the name of the output, else readable for texts
/// from the command line.
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
