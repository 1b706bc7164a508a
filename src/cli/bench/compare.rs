//! `tempra bench compare`: compares devices or results.

use super::{Asked, draw, idle, measured, peers, rounds};
use crate::bench::{self, Comparison, Report, markdown};
use crate::cli::options::{flag, text};
use crate::cli::output::{Destination, say, say_json};
use crate::cli::style::Voice;
use crate::error::{Error, Kind, Result};
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;
use std::path::Path;

pub fn define() -> Command {
    super::options(Command::new("compare").about("Compare devices, results of earlier runs, or two builds of tempra"))
        .long_about(
            "Compare devices, results of earlier runs, or two builds of tempra.\n\nThe first device or result is the baseline. For each \
             op the comparison shows the ratio of times (2 means twice as fast as the baseline), its uncertainty, and a verdict: \
             faster, slower, same, or cannot tell.\n\nWith result files, compare their measurements. Without files, measure the ops \
             on the devices of --device. With --against, measure with another build of tempra and with this one in alternating \
             rounds; this detects small differences even on a machine that does other work.",
        )
        .after_help(
            "Examples:\n  tempra bench compare last-week.json today.json --fail-under 0.95\n  \
             tempra bench compare --device cuda,wgpu --html devices.html\n  \
             tempra bench compare --against old/tempra --op 'attention*' --rounds 9",
        )
        .arg(Arg::new("results").value_name("RESULT").num_args(0..).action(ArgAction::Append).help("JSON files that tempra bench or a script in benches/peers wrote; the first is the baseline"))
        .arg(
            Arg::new("against")
                .long("against")
                .value_name("PROGRAM")
                .conflicts_with("results")
                .value_parser(clap::value_parser!(std::path::PathBuf))
                .help("Compare with this build of tempra, measuring in alternating rounds"),
        )
        .arg(super::super::options::count("rounds", "Number of rounds of each build, with --against").default_value("5"))
        .arg(
            Arg::new("fail-under")
                .long("fail-under")
                .value_name("RATIO")
                .value_parser(clap::value_parser!(f64))
                .help("Exit with code 1 if an op's ratio is below this value by more than its uncertainty"),
        )
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let html = text(matches, "html").map(|path| Destination::of(Some(path))).transpose()?;
    let files: Vec<&String> = matches.get_many("results").into_iter().flatten().collect();
    match files.is_empty() {
        true => idle::of_measuring(matches, true, false, &Voice::of(matches))?,
        false => idle::of_reading(matches, &Voice::of(matches)),
    }
    if let Some(html) = &html {
        html.spare(files.iter().map(Path::new))?;
        html.spare(matches.get_one::<std::path::PathBuf>("against").map(|program| program.as_path()))?;
    }
    let (report, code) = if let Some(other) = matches.get_one::<std::path::PathBuf>("against") {
        let rounds = matches.get_one::<usize>("rounds").copied().unwrap_or(5);
        if rounds < 3 {
            return Err(Error::usage(format!("--rounds {rounds} is too few to estimate the spread"))
                .with_expected("at least 3 rounds")
                .with_help("raise --rounds; the default is 5"));
        }
        let ([theirs, ours], code) = rounds::in_turns(other, rounds, matches, &Voice::of(matches))?;
        let name = other.display().to_string();
        (Report::merge(vec![(name, theirs), ("this".to_owned(), ours)]), code)
    } else if files.is_empty() {
        if matches.get_many::<String>("device").map_or(0, Iterator::count) < 2 {
            return Err(Error::usage("there is nothing to compare")
                .with_expected("two result files, or two devices")
                .with_help(
                    "run `tempra bench compare a.json b.json` or `tempra bench compare --device cpu,wgpu`",
                ));
        }
        let write = |report: &Report| finish(matches, html.as_ref(), report).map(drop);
        measured(&Asked::of(matches, (true, false))?, true, false, &Voice::of(matches), &write)?
    } else {
        (Report::merge(peers::read(files.iter().map(Path::new))?), 0)
    };
    match finish(matches, html.as_ref(), &report) {
        Ok(failures) => Ok(if failures == 0 || code != 0 { code } else { 1 }),
        // Measuring was interrupted before there was anything to compare.
        Err(e) if code != 0 && e.kind() == Kind::Data => {
            Voice::of(matches).error(&e);
            Ok(code)
        }
        Err(e) => Err(e),
    }
}

/// Writes the comparisons of a report. Returns the number of measurements that fail the gate.
fn finish(matches: &ArgMatches, html: Option<&Destination>, report: &Report) -> Result<usize> {
    let comparisons = bench::compare(report)?;
    if let Some(html) = html {
        draw(html, report, &comparisons)?;
    }
    let fail_under = matches.get_one::<f64>("fail-under").copied();
    let failures: Vec<String> =
        fail_under.into_iter().flat_map(|f| comparisons.iter().flat_map(move |c| c.failures(f))).collect();
    if flag(matches, "json") {
        say_json(
            &json!({ "schema": bench::report::SCHEMA, "comparisons": comparisons, "failures": failures }),
        )?;
    } else {
        let all: Vec<String> = comparisons.iter().map(|c: &Comparison| markdown::comparison(c)).collect();
        say(all.join("\n"))?;
    }
    let voice = Voice::of(matches);
    for failure in &failures {
        voice.warn(format!("below --fail-under {}: {failure}", fail_under.unwrap_or_default()));
    }
    Ok(failures.len())
}
