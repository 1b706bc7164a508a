//! Two builds of this program on one machine, in turns, so that what changes on the machine meanwhile meets both.

use crate::bench::Report;
use crate::cli::style::Voice;
use crate::error::{Error, Kind, Result};
use crate::train::Signals;
use clap::ArgMatches;
use std::path::Path;
use std::process::Command;

/// Options that both are given as they are.
const LISTS: [&str; 4] = ["device", "op", "dtype", "shape-of"];

fn arguments(matches: &ArgMatches) -> Vec<String> {
    let mut all: Vec<String> = ["bench", "ops", "--json", "--quiet"].map(str::to_owned).to_vec();
    let mut give = |name: &str, values: Vec<String>| {
        if !values.is_empty() {
            all.extend([format!("--{name}"), values.join(",")]);
        }
    };
    for name in LISTS {
        give(name, matches.get_many::<String>(name).into_iter().flatten().cloned().collect());
    }
    give("tokens", matches.get_many::<u32>("tokens").into_iter().flatten().map(u32::to_string).collect());
    give("seconds", matches.get_one::<f64>("seconds").map(f64::to_string).into_iter().collect());
    for name in ["samples", "threads"] {
        give(name, matches.get_one::<usize>(name).map(usize::to_string).into_iter().collect());
    }
    all
}

/// Measures with both programs, round by round, each first in every other one. Cut short, it returns the rounds that were whole,
/// and the exit code of that.
///
/// # Errors
/// Of kind `Usage` for a program that cannot be started, and for several devices; what a program says when it fails.
pub fn in_turns(
    other: &Path,
    rounds: usize,
    matches: &ArgMatches,
    voice: &Voice,
) -> Result<([Report; 2], i32)> {
    let device = matches.get_many::<String>("device").into_iter().flatten().count();
    if device > 1 || matches.get_many::<String>("dtype").into_iter().flatten().count() > 1 {
        return Err(Error::usage("two programs are compared on one device in one type")
            .hint("name one with --device, and one with --dtype"));
    }
    let own = std::env::current_exe()
        .map_err(|e| Error::device("cannot tell where this program is").found(e.to_string()))?;
    let signals = Signals::install()?;
    let (programs, arguments) = ([other, &own], arguments(matches));
    let bar = voice.bar(2 * rounds as u64, "runs");
    let mut found: [Vec<Report>; 2] = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            bar.set_message(format!("round {} of {rounds}, {}", round + 1, programs[side].display()));
            let measured = measure(programs[side], &arguments);
            if signals.stop().is_some() {
                break;
            }
            found[side].push(measured?);
            bar.inc(1);
        }
        if signals.stop().is_some() {
            break;
        }
    }
    bar.finish_and_clear();
    let whole = found[0].len().min(found[1].len());
    let mut code = 0;
    if let Some(signal) = signals.stop() {
        let e = Error::new(Kind::Interrupted(signal), "stopped before a round was whole");
        if whole == 0 {
            return Err(e);
        }
        code = e.exit_code();
        voice.warn(format!("stopped: {whole} of {rounds} rounds count"));
    }
    Ok((found.map(|reports| Report::of_rounds(&reports[..whole])), code))
}

fn measure(program: &Path, arguments: &[String]) -> Result<Report> {
    let out = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|e| Error::io(Kind::Usage, "cannot be started", program, &e))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let said: Vec<&str> = said.trim().lines().rev().take(6).collect();
        return Err(Error::usage("the program measured nothing")
            .at(program)
            .found(format!("{}: {}", out.status, said.into_iter().rev().collect::<Vec<_>>().join("; ")))
            .hint("a tempra that has `bench ops --json` is wanted"));
    }
    Report::parse(&String::from_utf8_lossy(&out.stdout)).map_err(|e| e.at(program))
}
