//! `tempra bench compare`: compares devices or results.

use super::asked::Asked;
use super::results::Destinations;
use super::wanted::{fits, known_op};
use super::{idle, measured, peers, rounds};
use crate::bench::compare::{HIGHEST, SpeedGate};
use crate::bench::{self, Comparison, Report, csv, markdown, page};
use crate::cli::options::{flag, text};
use crate::cli::style::Voice;
use crate::error::{Error, Kind, Result};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The exit code where the uncertainty of a measurement exceeds 100 %.
const UNUSABLE: i32 = 10;

/// Options that select measurements of result files.
const SELECT: [&str; 5] = ["device", "dtype", "op", "shape-of", "tokens"];
/// Options that say what becomes of a result.
const OUTPUT: [&str; 3] = ["json", "html", "csv"];

pub fn define() -> Command {
    super::options(Command::new("compare").about("Compare devices, results of earlier runs, or two builds of tempra"))
        .long_about(
            "Compare devices, results of earlier runs, or two builds of tempra.\n\nThe first device or result is the base. For each \
             op the comparison shows the speedup (the base's time divided by the other's: 2 means that the other is twice as fast), its \
             95 % interval, and a verdict: faster, slower, same, cannot tell, or unusable (an uncertainty above 100 %). The title names \
             what else differs: program, device, type, driver, machine. Rows of one name with other shapes or FLOP counts are not \
             compared.\n\nWith result files, compare their measurements; --device, --dtype, --op, --shape-of and --tokens select some of \
             them. Without files, measure the ops on the devices of --device. With --against, measure with another build of tempra and \
             with this one in alternating rounds; this detects small differences even on a machine that does other work.",
        )
        .after_help(
            "Examples:\n  tempra bench compare last-week.json today.json --fail-under 0.95\n  \
             tempra bench compare --device cuda,wgpu --html devices.html\n  \
             tempra bench compare --against old/tempra --op 'attention*' --rounds 9\n\nExit codes: 1 if --fail-under is not met, 10 if a \
             measurement is unusable because the machine was too busy. `tempra help exit-codes` lists the others.",
        )
        .arg(Arg::new("results").value_name("RESULT").num_args(0..).action(ArgAction::Append).help("JSON files that tempra bench or a script in benches/peers wrote; the first is the base"))
        .arg(
            Arg::new("against")
                .long("against")
                .value_name("PROGRAM")
                .conflicts_with("results")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Compare with this build of tempra, measuring in alternating rounds"),
        )
        .arg(
            super::super::options::count("rounds", "Number of rounds of each build, with --against")
                .default_value("5"),
        )
        .arg(
            Arg::new("base")
                .long("base")
                .value_name("NAME")
                .help("Compare all others with this device or result file [default: the first]"),
        )
        .arg(
            Arg::new("fail-under")
                .long("fail-under")
                .value_name("SPEEDUP")
                .allow_negative_numbers(true)
                .value_parser(clap::value_parser!(f64))
                .help("Exit with code 1 if a speedup is certainly below this value, a measurement is missing, or a result is incomplete"),
        )
        .arg(
            Arg::new("allow-missing")
                .long("allow-missing")
                .action(ArgAction::SetTrue)
                .requires("fail-under")
                .help("Let --fail-under accept incomplete results and measurements that only one side has"),
        )
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let gate = gate(matches)?;
    let to = Destinations::of(matches)?;
    let files: Vec<&String> = matches.get_many("results").into_iter().flatten().collect();
    let against = matches.get_one::<PathBuf>("against");
    to.spare(&files.iter().map(Path::new).chain(against.map(PathBuf::as_path)).collect::<Vec<_>>())?;
    // clap's `requires` would not tell: with result files, --against itself is not possible.
    if against.is_none() && given(matches, "rounds") {
        return Err(Error::usage("--rounds has no effect without --against")
            .with_help("leave out --rounds, or name another build of tempra with --against"));
    }
    let base = text(matches, "base");
    let (report, code) = if let Some(other) = against {
        idle::of_measuring(matches, true, false, &Voice::of(matches))?;
        let program = other.display().to_string();
        if let Some(base) = base.filter(|base| ![program.as_str(), "this"].contains(base)) {
            return Err(no_base(base, "names no build", &[&program, "this"]));
        }
        let (report, code) = against_build(other, matches)?;
        (with_base(report, base)?, code)
    } else if files.is_empty() {
        idle::of_measuring(matches, true, false, &Voice::of(matches))?;
        if matches.get_many::<String>("device").map_or(0, Iterator::count) < 2
            && matches.get_many::<String>("dtype").map_or(0, Iterator::count) < 2
        {
            return Err(Error::usage("there is nothing to compare")
                .with_expected("two result files, two devices, or two types")
                .with_help(
                    "run `tempra bench compare a.json b.json` or `tempra bench compare --device cpu,wgpu`",
                ));
        }
        let write = |report: &Report| {
            let report = with_base(report.clone(), base)?;
            finish(matches, &to, gate, &report).map(drop)
        };
        let asked = Asked::of(matches, (true, false))?;
        if let Some(base) = base.filter(|base| asked.devices.iter().all(|(id, _)| id != base)) {
            let ids: Vec<&str> = asked.devices.iter().map(|(id, _)| id.as_str()).collect();
            return Err(no_base(base, "names no device", &ids));
        }
        let (report, code) = measured(&asked, true, false, &Voice::of(matches), &write)?;
        // A measurement that was interrupted may lack the base.
        let there = base.is_none_or(|base| report.devices.iter().any(|d| d.id == base));
        (with_base(report, base.filter(|_| there))?, code)
    } else {
        refuse_idle(matches)?;
        (read(&files, matches)?, 0)
    };
    match finish(matches, &to, gate, &report) {
        // What stopped the measurement matters more than what it found.
        Ok(verdict) => Ok(if code == 0 { verdict } else { code }),
        // Measuring was interrupted before there was anything to compare.
        Err(e) if code != 0 && e.kind() == Kind::Data => {
            Voice::of(matches).error(&e);
            Ok(code)
        }
        Err(e) => Err(e),
    }
}

/// Writes the comparisons of a report. Returns the exit code that they deserve.
fn finish(matches: &ArgMatches, to: &Destinations, gate: Option<SpeedGate>, report: &Report) -> Result<i32> {
    let comparisons = bench::compare(report)?;
    let failures: Vec<String> =
        gate.iter().flat_map(|gate| comparisons.iter().flat_map(move |c| c.failures(gate))).collect();
    let unusable: Vec<String> = comparisons.iter().flat_map(Comparison::unusable).collect();
    let json = || {
        Ok(json!({
            "schema": bench::report::SCHEMA,
            "comparisons": comparisons,
            "fail_under": gate.map(|g| g.fail_under),
            "failures": failures,
            "unusable": unusable,
        }))
    };
    let text = || comparisons.iter().map(markdown::comparison).collect::<Vec<_>>().join("\n");
    to.write(|| page::page(report, &comparisons), || csv::comparisons(&comparisons), json, text)?;
    let voice = Voice::of(matches);
    unusable.iter().for_each(|what| voice.warn(what));
    failures.iter().for_each(|failure| voice.warn(format!("--fail-under: {failure}")));
    Ok(match (failures.is_empty(), unusable.is_empty()) {
        (false, _) => 1,
        (true, false) => UNUSABLE,
        (true, true) => 0,
    })
}

/// The gate of `--fail-under`.
fn gate(matches: &ArgMatches) -> Result<Option<SpeedGate>> {
    let Some(&fail_under) = matches.get_one::<f64>("fail-under") else { return Ok(None) };
    if fail_under > 0.0 && fail_under <= HIGHEST {
        return Ok(Some(SpeedGate { fail_under, allow_missing: flag(matches, "allow-missing") }));
    }
    let help = if fail_under > HIGHEST && fail_under <= 100.0 {
        format!("write {fail_under} % as {}", fail_under / 100.0)
    } else {
        "0.95 fails if something is more than 5 % slower than the base".to_owned()
    };
    Err(Error::usage(format!("--fail-under {fail_under} is not a speedup"))
        .with_expected(format!("a number above 0 and at most {HIGHEST}"))
        .with_help(help))
}

/// Whether the command line names an option.
fn given(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// Refuses options that say how to measure, where result files are read: who gives one expects that it
/// changes the result.
fn refuse_idle(matches: &ArgMatches) -> Result<()> {
    let measuring = super::options(Command::new("compare"));
    let mut ids = measuring.get_arguments().map(|arg| arg.get_id().as_str());
    match ids.find(|id| given(matches, id) && !SELECT.contains(id) && !OUTPUT.contains(id)) {
        Some(id) => {
            Err(Error::usage(format!("--{id} has no effect on result files, which are not measured again"))
                .with_help(format!("leave out --{id}")))
        }
        None => Ok(()),
    }
}

/// Measures with another build and with this one.
fn against_build(other: &Path, matches: &ArgMatches) -> Result<(Report, i32)> {
    let rounds = matches.get_one::<usize>("rounds").copied().unwrap_or(5);
    if rounds < 3 {
        return Err(Error::usage(format!("--rounds {rounds} is too few to estimate the spread"))
            .with_expected("at least 3 rounds")
            .with_help("raise --rounds; the default is 5"));
    }
    let ([theirs, ours], code) = rounds::in_turns(other, rounds, matches, &Voice::of(matches))?;
    let name = other.display().to_string();
    Ok((Report::merge(vec![(name, theirs), ("this".to_owned(), ours)]), code))
}

/// Reads result files, and keeps the measurements that the options select.
fn read(files: &[&String], matches: &ArgMatches) -> Result<Report> {
    let mut parts = peers::read(files.iter().map(Path::new))?;
    select(&mut parts, matches)?;
    let base = text(matches, "base");
    match parts.iter().position(|(name, _)| base == Some(name.as_str())) {
        Some(at) => {
            parts[..=at].rotate_right(1);
            Ok(Report::merge(parts))
        }
        None => with_base(Report::merge(parts), base),
    }
}

/// Keeps the devices, types, ops, models and numbers of tokens that the options name.
fn select(parts: &mut [(String, Report)], matches: &ArgMatches) -> Result<()> {
    let list = |id: &str| -> Vec<&String> { matches.get_many(id).into_iter().flatten().collect() };
    let (devices, types, ops, models) = (list("device"), list("dtype"), list("op"), list("shape-of"));
    let tokens: Vec<usize> =
        matches.get_many::<u32>("tokens").into_iter().flatten().map(|&t| t as usize).collect();
    ops.iter().try_for_each(|pattern| known_op(pattern))?;
    // `cuda` also names `cuda bf16`, the same device with another type.
    let named =
        |id: &str, name: &str| id == name || id.strip_prefix(name).is_some_and(|r| r.starts_with(' '));
    let ids = || parts.iter().flat_map(|(_, r)| r.devices.iter().map(|d| d.id.as_str()));
    if let Some(name) = devices.iter().find(|name| !ids().any(|id| named(id, name))) {
        let mut there: Vec<&str> = ids().collect();
        there.sort_unstable();
        there.dedup();
        return Err(Error::usage(format!("no result has the device {name:?}"))
            .with_expected(there.join(", "))
            .with_help("name devices of the result files, or leave out --device"));
    }
    let rows = || parts.iter().flat_map(|(_, r)| &r.ops);
    let of_steps = parts.iter().flat_map(|(_, r)| r.steps.iter().map(|s| s.model.clone()));
    present(
        "--dtype",
        &types,
        parts.iter().flat_map(|(_, r)| r.devices.iter().map(|d| d.dtype.clone())).collect(),
    )?;
    let all = "all".to_owned();
    let known = rows().map(|row| row.model.clone()).chain(of_steps).chain([all]);
    present("--shape-of", &models, known.collect())?;
    let numbers: Vec<String> = tokens.iter().map(usize::to_string).collect();
    let known = rows().filter(|row| row.tokens > 0).map(|row| row.tokens.to_string());
    present("--tokens", &numbers.iter().collect::<Vec<_>>(), known.collect())?;
    for (_, report) in parts {
        report.devices.retain(|d| {
            (devices.is_empty() || devices.iter().any(|name| named(&d.id, name)))
                && (types.is_empty() || types.iter().any(|dtype| **dtype == d.dtype))
        });
        let kept: Vec<String> = report.devices.iter().map(|d| d.id.clone()).collect();
        let model = |name: &str| models.is_empty() || models.iter().any(|m| *m == name || *m == "all");
        report.ops.retain(|r| {
            kept.contains(&r.device)
                && model(&r.model)
                && (ops.is_empty() || ops.iter().any(|pattern| fits(pattern, &r.op)))
                && (tokens.is_empty() || r.tokens == 0 || tokens.contains(&r.tokens))
        });
        // These options name ops.
        let steps = ops.is_empty() && tokens.is_empty();
        report.steps.retain(|r| steps && kept.contains(&r.device) && model(&r.model));
        report.skipped.retain(|r| kept.contains(&r.device));
    }
    Ok(())
}

/// Refuses a value that no result has.
fn present(option: &str, wanted: &[&String], there: BTreeSet<String>) -> Result<()> {
    match wanted.iter().find(|value| !there.contains(**value)) {
        None => Ok(()),
        Some(value) => Err(Error::usage(format!("{option} {value} selects no measurement of these results"))
            .with_expected(there.into_iter().filter(|known| known != "all").collect::<Vec<_>>().join(", "))
            .with_help(format!("name a value that a result has, or leave out {option}"))),
    }
}

/// The report with another device first, named as in the comparison: `cpu`, or `cpu (today)`, for which `cpu`
/// or `today` will do if it is the only one.
fn with_base(mut report: Report, name: Option<&str>) -> Result<Report> {
    let Some(name) = name else { return Ok(report) };
    let part = |id: &str| {
        let parts = id.strip_suffix(')').and_then(|id| id.split_once(" ("));
        parts.is_some_and(|(device, source)| device == name || source == name)
    };
    let exact = report.devices.iter().position(|d| d.id == name);
    let alike: Vec<usize> = (0..report.devices.len()).filter(|&i| part(&report.devices[i].id)).collect();
    match (exact, alike.as_slice()) {
        (Some(at), _) | (None, &[at]) => {
            report.devices[..=at].rotate_right(1);
            Ok(report)
        }
        (None, found) => {
            let ids: Vec<&str> = report.devices.iter().map(|d| d.id.as_str()).collect();
            let fault = if found.is_empty() { "names no device" } else { "names several devices" };
            Err(no_base(name, fault, &ids))
        }
    }
}

fn no_base(name: &str, fault: &str, names: &[&str]) -> Error {
    Error::usage(format!("--base {name} {fault}"))
        .with_expected(names.join(", "))
        .with_help("give --base one of these names, or the name of a result file without its ending")
}
