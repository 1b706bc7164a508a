//! `tempra completions`: a script that lets a shell complete commands and options.

use super::output::to_stdout;
use crate::error::Result;
use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::{Shell, generate};

pub fn define() -> Command {
    Command::new("completions")
        .about("Print a script that lets a shell complete commands and options")
        .long_about(
            "Print a script that lets a shell complete commands and options. The examples show the usual place of the \
             script for each shell.",
        )
        .after_help(
            "Examples:\n  \
             tempra completions bash > ~/.local/share/bash-completion/completions/tempra\n  \
             tempra completions zsh > \"${fpath[1]}/_tempra\"\n  \
             tempra completions fish > ~/.config/fish/completions/tempra.fish",
        )
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(value_parser!(Shell))
                .help("Shell that reads the script"),
        )
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let mut script = Vec::new();
    if let Some(&shell) = matches.get_one::<Shell>("shell") {
        generate(shell, &mut super::command(), "tempra", &mut script);
    }
    to_stdout(|out| out.write_all(&script))?;
    Ok(0)
}
