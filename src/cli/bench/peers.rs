//! `--with`: results of other programs, or of earlier runs, in the report of this run.

use crate::bench::Report;
use crate::cli::style::Voice;
use crate::error::Result;
use clap::{Arg, ArgAction, ArgMatches};
use std::path::Path;

pub fn arg() -> Arg {
    Arg::new("with").long("with").value_name("FILE").action(ArgAction::Append).help(
        "Show the measurements of this JSON result too, beside those of this run: of a script in benches/peers, or of an earlier run",
    )
}

/// The files of `--with`.
pub fn paths(matches: &ArgMatches) -> Vec<&Path> {
    matches.get_many::<String>("with").into_iter().flatten().map(Path::new).collect()
}

/// Reads results, each with a name for its devices: the file's, and a number if several files have this name.
///
/// # Errors
/// Those of [`Report::read`].
pub fn read<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Vec<(String, Report)>> {
    let mut parts: Vec<(String, Report)> = Vec::new();
    let mut stems: Vec<String> = Vec::new();
    for path in paths {
        let stem = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let report = Report::read(path)?;
        let alike = stems.iter().filter(|other| **other == stem).count();
        let name = if alike == 0 { stem.clone() } else { format!("{stem} {}", alike + 1) };
        stems.push(stem);
        parts.push((name, report));
    }
    Ok(parts)
}

/// Adds to the report of this run the measurements of others that `ops` (by name of the op) and `steps` select.
pub fn merge(
    own: Report,
    others: Vec<(String, Report)>,
    ops: &dyn Fn(&str) -> bool,
    steps: bool,
    voice: &Voice,
) -> Report {
    let mut parts = vec![("this run".to_owned(), own)];
    for (name, mut report) in others {
        report.ops.retain(|row| ops(&row.op));
        report.steps.retain(|_| steps);
        if report.ops.is_empty() && report.steps.is_empty() {
            voice.warn(format!("--with {name} has no measurement of what this run measures"));
        }
        parts.push((name, report));
    }
    Report::merge(parts)
}
