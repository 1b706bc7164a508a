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

/// Reads results, each with a name for its devices: the file's, with as many of its folders as tell it from
/// the others, and a number if one file is named twice.
///
/// # Errors
/// Those of [`Report::read`].
pub fn read<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Vec<(String, Report)>> {
    let paths: Vec<&Path> = paths.into_iter().collect();
    let named = |(i, path): (usize, &&Path)| Ok((name(&paths, i), Report::read(path)?));
    paths.iter().enumerate().map(named).collect()
}

/// The name of the i-th file: `cpu`, or `old/cpu` beside `new/cpu`.
fn name(paths: &[&Path], i: usize) -> String {
    let parts = |path: &Path| -> Vec<String> {
        path.with_extension("").iter().rev().map(|part| part.to_string_lossy().into_owned()).collect()
    };
    let own = parts(paths[i]);
    let with =
        |path: &Path, n: usize| parts(path).iter().take(n).rev().cloned().collect::<Vec<_>>().join("/");
    let others = || paths.iter().enumerate().filter(|(j, other)| *j != i && parts(other) != own);
    let unique = |n: &usize| others().all(|(_, other)| with(other, *n) != with(paths[i], *n));
    let name = with(paths[i], (1..=own.len()).find(unique).unwrap_or(own.len()));
    let earlier = paths[..i].iter().filter(|other| parts(other) == own).count();
    if earlier == 0 { name } else { format!("{name} {}", earlier + 1) }
}

/// Adds to the report of this run the measurements of others that `ops` (by name of the op) and `steps`
/// select.
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
