//! `tempra eval`: scores a fine-tuned model on labelled data.

use super::idle;
use super::model::{self, no_answer_arg, settings, with_model};
use super::options::{column, flag, json_arg, listed, open_device, text};
use super::output::{say, say_json};
use super::style::Voice;
use crate::checkpoint::number;
use crate::data::LabelColumns;
use crate::error::{Error, Result};
use crate::metrics::{Bootstrap, Interval};
use crate::models::Outputs;
use crate::predict::Folder;
use crate::tasks::of_outputs;
use clap::builder::RangedU64ValueParser;
use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

pub fn define() -> Command {
    with_model(Command::new("eval"))
        .about("Score a fine-tuned model on labelled data")
        .long_about(format!(
            "Scores a fine-tuned model on labelled data.\n\n\
             The scores depend on the model:\n\n{}\n\
             `tempra help metrics` explains each score.\n\n\
             Labels must be class names of the model. An unknown label is an error that names its line.\n\n\
             --intervals adds a 95 % confidence interval to each score, by the bootstrap (Efron 1979). It draws rows, \
             sentences (tag), questions (answer) or pieces of text (language models) with replacement. The seed is \
             fixed, so the interval is the same each time.",
            listed(|entry| entry.scores)
        ))
        .after_help(
            "Examples:\n  \
             tempra eval runs/reviews/model test.csv\n  \
             tempra eval runs/reviews/model test.jsonl --text review --label stars --json\n  \
             tempra eval runs/reviews/model test.csv --intervals",
        )
        .arg(
            Arg::new("data")
                .value_name("DATA")
                .required(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help("Labelled data: .csv, .tsv, .jsonl, .json, .parquet, or a folder with a subfolder for each class; CoNLL columns or CoNLL-U for tags, SQuAD's JSON for answers, .txt for language models"),
        )
        .arg(column("label", "Column of the label; \"\" for none, if the model was trained on pairs that belong together [default: as in training, else label]"))
        .arg(
            Arg::new("label-scale")
                .long("label-scale")
                .value_name("N")
                .value_parser(positive)
                .help("For similar: divide each label by N before it is compared with the cosine, such as 5 for STS-B [default: as in training]"),
        )
        .arg(
            Arg::new("intervals")
                .long("intervals")
                .value_name("N")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("1000")
                .value_parser(RangedU64ValueParser::<usize>::new().range(1..=1_000_000))
                .help("Add a 95 % interval to every score, from N bootstrap samples [default of N: 1000]"),
        )
        .arg(no_answer_arg())
        .arg(json_arg())
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let voice = Voice::of(matches);
    let path = matches.get_one::<PathBuf>("data").map(PathBuf::as_path).unwrap_or(Path::new(""));
    let device = open_device(matches)?;
    let mut folder = Folder::open(text(matches, "model").unwrap_or_default(), settings(matches))?;
    model::warn(&folder, &voice);
    if let Some(label) = text(matches, "label") {
        folder.metadata.label = Some(LabelColumns::One(label.to_owned()));
    }
    let label_scale = matches.get_one::<f64>("label-scale").copied();
    if let Some(scale) = label_scale {
        folder.metadata.compare_with_labels(scale);
    }
    if text(matches, "label") == Some("") && !folder.metadata.contrastive() {
        return Err(Error::usage("--label is empty, but the model is scored by labels")
            .at(&folder.dir)
            .with_expected(
                "the name of a column; only a model trained on pairs that belong together needs none",
            )
            .with_help("give --label COLUMN, or leave it out"));
    }
    let session = model::load(folder, device, matches, &voice)?;
    let (folder, outputs) = (&session.folder, session.outputs());
    idle::warn("eval", matches, (outputs, folder.several), false, &voice);
    if label_scale.is_some() && *outputs != Outputs::Embedding {
        return Err(Error::usage("--label-scale has no effect on this model")
            .at(&folder.dir)
            .with_expected("a model with task = \"similar\"")
            .with_found(format!("task = {:?}", name(outputs)))
            .with_help("leave out --label-scale"));
    }
    let (task, set) = session.labelled(path)?;
    model::warn_uncertain(&session, matches, &voice);
    session.odd_labels().into_iter().for_each(|odd| voice.warn(odd));
    let meter = session.score(&*task, &set)?;

    let bootstrap =
        matches.get_one::<usize>("intervals").map(|&samples| Bootstrap { samples, ..Bootstrap::default() });
    let intervals = bootstrap.map(|b| (b, b.intervals(meter.units(), |drawn| meter.scores_of(drawn))));
    if flag(matches, "json") {
        let mut all = json!({
            "model": folder.dir.to_string_lossy(),
            "data": path.to_string_lossy(),
            "device": session.device().caps().label(),
            "task": name(outputs),
            "examples": set.len(),
            "max_length": folder.max_length,
            "texts_cut": set.lost.iter().filter(|n| **n > 0).count(),
            "scores": meter.scores(),
        });
        if let Some((bootstrap, intervals)) = &intervals {
            all["intervals"] = ends(bootstrap, intervals);
        }
        if let Some(all) = all.as_object_mut() {
            all.extend(meter.details());
        }
        say_json(&all)?;
    } else {
        let mut all = format!("{} examples: {}\n", set.len(), meter.scores());
        if let Some((bootstrap, intervals)) = &intervals {
            all += &lines(bootstrap, meter.units(), intervals);
        }
        all += &meter.report();
        say(all.trim_end())?;
    }
    model::warn_cut(&session, set.lost.iter().filter(|n| **n > 0).count(), set.len(), &voice);
    Ok(0)
}

/// A number above 0.
fn positive(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|x| x.is_finite() && *x > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

/// The name of the head's task in a recipe.
fn name(outputs: &Outputs) -> &'static str {
    of_outputs(outputs).map_or("", |entry| entry.name)
}

/// The intervals as JSON: the bootstrap's settings, and both ends for each score.
fn ends(bootstrap: &Bootstrap, intervals: &[(String, Interval)]) -> Value {
    let one = |(name, i): &(String, Interval)| {
        let ends = json!({ "low": number(i.low), "high": number(i.high), "undefined": i.undefined });
        (name.clone(), ends)
    };
    json!({
        "confidence": bootstrap.confidence,
        "samples": bootstrap.samples,
        "seed": bootstrap.seed,
        "scores": intervals.iter().map(one).collect::<Map<_, _>>(),
    })
}

/// The intervals as text.
fn lines(bootstrap: &Bootstrap, units: usize, intervals: &[(String, Interval)]) -> String {
    let width = intervals.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let head = format!(
        "\n{:.0} % intervals by {} draws of {units} (seed {}):\n",
        bootstrap.confidence * 100.0,
        bootstrap.samples,
        bootstrap.seed
    );
    let line = |(name, i): &(String, Interval)| match i.undefined {
        0 => format!("{name:<width$}  {i}\n"),
        n => format!("{name:<width$}  {i}  undefined in {n} draws\n"),
    };
    intervals.iter().map(line).fold(head, |all, line| all + &line) + "\n"
}
