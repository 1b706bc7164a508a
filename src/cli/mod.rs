//! The program: a table of commands, each in a file of its own.

mod train;

use crate::error::Result;
use clap::{ArgMatches, Command};

/// A command of the program.
pub struct Entry {
    /// Its words and options.
    pub define: fn() -> Command,
    /// What it does; the exit code, or an error.
    pub run: fn(&ArgMatches) -> Result<i32>,
}

/// Every command there is; parsing, help and completions walk this list.
pub const COMMANDS: &[Entry] = &[Entry { define: train::define, run: train::run }];
