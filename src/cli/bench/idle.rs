//! Options of `tempra bench` that have no effect on what a command measures: a warning for each that is
//! given.

use crate::bench::LengthSource;
use crate::cli::style::Voice;
use crate::error::{Error, Result};
use clap::ArgMatches;
use clap::parser::ValueSource;

/// Options that select ops and their shapes.
const OF_OPS: &[&str] = &["op", "shape", "tokens"];
/// Options of training steps.
const OF_STEPS: &[&str] = &["sequences", "length", "repeats", "no-sweep"];

/// Options that `tempra bench ops` or `step` does not show in its help.
pub fn hidden(ops: bool, steps: bool) -> impl Iterator<Item = &'static str> {
    let of_ops = OF_OPS.iter().filter(move |_| !ops);
    of_ops.chain(OF_STEPS.iter().filter(move |_| !steps)).copied()
}

fn given(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

fn warn(matches: &ArgMatches, names: &[&str], why: &str, voice: &Voice) {
    for name in names.iter().filter(|name| given(matches, name)) {
        voice.warn(format!("--{name} has no effect: {why}\n  help: leave it out"));
    }
}

/// Warns about options that do not change a measurement.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for `--shape` where training steps are measured: a shape is one
/// of an op.
pub fn of_measuring(matches: &ArgMatches, ops: bool, steps: bool, voice: &Voice) -> Result<()> {
    if steps && given(matches, "shape") {
        return Err(Error::usage("--shape is the shape of an op, and this command measures training steps")
            .with_help("run `tempra bench ops --shape ...`; --shape-of gives the shapes of training steps"));
    }
    if !ops {
        warn(matches, OF_OPS, "`bench step` measures training steps", voice);
    }
    if !steps {
        warn(matches, OF_STEPS, "only training steps use it, and this command measures ops", voice);
    }
    if !steps && given(matches, "shape") {
        warn(matches, &["shape-of"], "--shape replaces the shapes of models", voice);
    }
    Ok(())
}

/// Warns about options of training steps that `--lengths` replaces.
pub fn of_lengths(matches: &ArgMatches, lengths: Option<&LengthSource>, steps: bool, voice: &Voice) {
    let Some(lengths) = lengths.filter(|_| steps) else { return };
    warn(matches, &["length"], "--lengths gives the lengths", voice);
    warn(matches, &["no-sweep"], "with --lengths there are no sweeps", voice);
    if lengths.list().is_some() {
        warn(matches, &["sequences"], "--lengths lists the sequences", voice);
    }
}
