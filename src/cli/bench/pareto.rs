//! `tempra bench pareto`: compares models of one task, score against speed and size.

use super::results::Destinations;
use crate::bench::pareto::{self, Settings};
use crate::cli::model;
use crate::cli::options::{column, count, device_arg, open_device, precision_arg, text, threads_arg};
use crate::cli::style::Voice;
use crate::error::{Error, Result};
use crate::predict::Folder;
use clap::{Arg, ArgMatches, Command};
use std::path::{Path, PathBuf};

pub fn define() -> Command {
    Command::new("pareto")
        .about("Compare fine-tuned models of one task: score, latency, throughput, size, memory")
        .long_about(
            "Compare fine-tuned models of one task: score, latency, throughput, size, memory.\n\nEvery model is scored on the same \
             labelled file. The time of a pass with 1 and with 32 of its texts is the median of several rounds, in which the models \
             take turns. It lasts from token ids to outputs; splitting texts into tokens is not in it. Peak memory is that of the \
             model's tensors on the device, weights included.\n\nA model is on the Pareto front if no other has at least its score in \
             less time with 1 text, or a better score in the same time. The page of --html draws the front for each of the costs.",
        )
        .after_help(
            "Examples:\n  tempra bench pareto runs/teacher/model runs/student/model --data test.csv\n  \
             tempra bench pareto big/model small/model --data test.csv --device cuda --html pareto.html",
        )
        .arg(
            Arg::new("models")
                .value_name("MODEL")
                .required(true)
                .num_args(1..)
                .help("Folders of fine-tuned models with the same task and classes, or org/name"),
        )
        .arg(
            Arg::new("data")
                .long("data")
                .value_name("FILE")
                .required(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help("Labelled data, as for `tempra eval`"),
        )
        .arg(
            Arg::new("metric")
                .long("metric")
                .value_name("NAME")
                .help("Score to compare [default: the one that training chooses its best model by]"),
        )
        .arg(column("text", "Column of the text [default: as in training, else text]"))
        .arg(column("pair", "Column of the second text of a pair, \"\" for none [default: as in training]"))
        .arg(Arg::new("head").long("head").value_name("NAME").help("Head to use if the models have several: the name of its task"))
        .arg(count("max-length", "Longest sequence in tokens [default: as in training, else 512]"))
        .arg(count("max-tokens", "Maximum tokens of one forward pass when a model is scored and for its throughput [default: 8192]"))
        .arg(count("rounds", "Number of rounds").default_value("7"))
        .arg(device_arg())
        .arg(precision_arg())
        .arg(threads_arg())
        .args(super::results::args())
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let voice = Voice::of(matches);
    let to = Destinations::of(matches)?;
    let data = matches.get_one::<PathBuf>("data").map(PathBuf::as_path).unwrap_or(Path::new(""));
    to.spare(&[data])?;
    let settings = model::settings(matches);
    let names: Vec<&String> = matches.get_many("models").into_iter().flatten().collect();
    if let Some((_, twice)) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
        return Err(
            Error::usage(format!("the model {twice} is named twice")).with_help("name each model once")
        );
    }
    let mut models = Vec::new();
    for name in names {
        let folder = Folder::open(name, settings.clone())?;
        model::warn(&folder, &voice);
        models.push((name.clone(), folder.load(open_device(matches)?)?));
    }
    let how = Settings {
        metric: text(matches, "metric").map(str::to_owned),
        rounds: matches.get_one::<usize>("rounds").copied().unwrap_or(7),
        max_tokens: settings.max_tokens,
    };
    let bar = voice.bar(0, "measured");
    let found = pareto::measure(models, data, &how, |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    let json = || {
        serde_json::to_value(&found).map_err(|e| Error::data("a result is no JSON").with_found(e.to_string()))
    };
    to.write(|| pareto::page(&found), || pareto::csv(&found), json, || pareto::markdown(&found))?;
    Ok(0)
}
