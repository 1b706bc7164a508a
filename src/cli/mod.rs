//! The program: a table of commands, each in a file of its own.

mod train;

use crate::error::{Error, Result};
use clap::{Arg, ArgAction, ArgMatches, Command};

/// A command of the program.
pub struct Entry {
    /// Its words and options.
    pub define: fn() -> Command,
    /// What it does; the exit code, or an error.
    pub run: fn(&ArgMatches) -> Result<i32>,
}

/// Every command there is; parsing, help and completions walk this list.
pub const COMMANDS: &[Entry] = &[Entry { define: train::define, run: train::run }];

/// `--set section.key=value`.
pub fn set_arg() -> Arg {
    Arg::new("set")
        .long("set")
        .value_name("KEY=VALUE")
        .action(ArgAction::Append)
        .help("Override a key of the recipe")
}

/// The pairs that `--set` gave.
pub fn sets(args: &ArgMatches) -> Result<Vec<(String, String)>> {
    let one = |s: &String| match s.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.to_owned())),
        None => Err(Error::usage(format!("--set {s}: no `=`")).expected("--set section.key=value")),
    };
    args.get_many::<String>("set").into_iter().flatten().map(one).collect()
}

/// Parses the command line and runs what it names; the exit code.
pub fn main() -> i32 {
    let mut program = Command::new("tempra").version(env!("CARGO_PKG_VERSION")).subcommand_required(true);
    for entry in COMMANDS {
        program = program.subcommand((entry.define)());
    }
    let matches = program.get_matches();
    let Some((name, args)) = matches.subcommand() else { return 2 };
    let run = COMMANDS.iter().find(|e| (e.define)().get_name() == name).map(|e| (e.run)(args));
    match run {
        Some(Ok(code)) => code,
        Some(Err(e)) => {
            eprintln!("error: {e}");
            e.exit_code()
        }
        None => 2,
    }
}
