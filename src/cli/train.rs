//! `tempra train`: to be written.
use crate::error::Result;
use clap::{ArgMatches, Command};

pub fn define() -> Command {
    Command::new("train")
}
pub fn run(_: &ArgMatches) -> Result<i32> {
    Ok(0)
}
