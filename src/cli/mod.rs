//! The program: a table of commands, each in a file of its own.

mod adapt;
mod bench;
mod checkpoint;
mod columns;
mod completions;
mod data;
mod devices;
mod embed;
mod eval;
mod found;
mod help;
mod idle;
mod init;
mod input;
mod model;
mod options;
mod output;
mod predict;
mod predictions;
mod readable;
mod shrink;
pub mod style;
mod train;
mod verify;

pub use options::{device_arg, json_arg, open_device, set_arg, sets, threads_arg};

use crate::error::{Error, Result};
use crate::train::recipe::Recipe;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::sync::LazyLock;

/// A command of the program.
pub struct Entry {
    /// Its words and options.
    pub define: fn() -> Command,
    /// What it does; the exit code, or an error.
    pub run: fn(&ArgMatches) -> Result<i32>,
}

/// Every command there is; parsing, help and completions walk this list.
pub const COMMANDS: &[Entry] = &[
    Entry { define: init::define, run: init::run },
    Entry { define: data::define, run: data::run },
    Entry { define: train::define, run: train::run },
    Entry { define: adapt::define, run: adapt::run },
    Entry { define: eval::define, run: eval::run },
    Entry { define: predict::define, run: predict::run },
    Entry { define: embed::define, run: embed::run },
    Entry { define: shrink::define, run: shrink::run },
    Entry { define: checkpoint::define, run: checkpoint::run },
    Entry { define: devices::define, run: devices::run },
    Entry { define: verify::define, run: verify::run },
    Entry { define: bench::define, run: bench::run },
    Entry { define: completions::define, run: completions::run },
    Entry { define: help::define, run: help::run },
];

/// What `--version` prints: also the optional features of this build.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let built = crate::FEATURES.iter().filter(|(_, built)| *built).map(|(name, _)| *name);
    let built = built.collect::<Vec<_>>().join(" ");
    let commit = crate::COMMIT.map_or(String::new(), |commit| format!("\ncommit: {commit}"));
    format!("{}\nbackends: cpu, cuda{}\nfeatures: {built}{commit}", env!("CARGO_PKG_VERSION"), wgpu())
});

/// Columns of help at most: longer lines are hard to read.
const WIDEST: usize = 100;

fn wgpu() -> &'static str {
    if crate::device::Wgpu::BUILT { ", wgpu" } else { "" }
}

/// The command line: every command, and the options that all of them take.
pub fn command() -> Command {
    let everywhere = |id: &'static str, help: &'static str| {
        let arg = Arg::new(id).long(id).action(ArgAction::SetTrue).global(true).help(help);
        arg.help_heading("Global options")
    };
    Command::new("tempra")
        .version(env!("CARGO_PKG_VERSION"))
        .long_version(LONG_VERSION.as_str())
        .about("Fine-tune pretrained text encoders, and predict with them")
        .max_term_width(WIDEST)
        .after_help(
            "Example, from labelled texts to predictions:\n  \
             tempra init reviews.csv\n  \
             tempra train recipe.toml\n  \
             tempra predict runs/reviews/model new.csv -o predicted.csv\n\n\
             More help: `tempra help COMMAND`, `tempra help recipe`, `tempra help metrics`, `tempra help exit-codes`.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .arg(everywhere("quiet", "Print results, warnings and errors only").short('q'))
        .arg(everywhere("no-color", "Print without colors, like the environment variable NO_COLOR"))
        .subcommands(COMMANDS.iter().map(|entry| (entry.define)()))
}

/// A better message for an option that does not exist but is named like a key of the recipe, such as
/// `train.epochs`.
pub fn recipe_key_as_option(e: &clap::Error) -> Option<Error> {
    if e.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(option)) = e.get(ContextKind::InvalidArg) else { return None };
    let name = option.trim_start_matches('-').replace('-', "_");
    let key = Recipe::keys().into_iter().find(|key| key.name == name)?.path();
    Some(
        Error::usage(format!("there is no option {option}")).with_help(format!(
            "{key} is a key of the recipe; `tempra train` sets it with --set {key}=VALUE"
        )),
    )
}

/// Runs the command that was asked for; the exit code, or an error.
///
/// # Errors
/// Those of the command.
///
/// ```
/// use tempra::cli;
///
/// let words = ["tempra", "data", "check", "examples/sentiment/test.csv", "--quiet"];
/// let matches = cli::command().try_get_matches_from(words)?;
/// assert_eq!(cli::run(&matches)?, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn run(matches: &ArgMatches) -> Result<i32> {
    let asked = matches.subcommand();
    let found = asked.and_then(|(name, of)| {
        let entry = COMMANDS.iter().find(|entry| (entry.define)().get_name() == name)?;
        Some((entry, of))
    });
    match found {
        Some((entry, of)) => (entry.run)(of),
        None => Err(Error::usage("no command is given").with_help("`tempra help` lists the commands")),
    }
}
