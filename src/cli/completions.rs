//! `tempra completions`: a script that lets a shell complete commands and options.

use super::output::to_stdout;
use crate::error::Result;
use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::{Shell, generate};

pub fn define() -> Command {
    Command::new("completions")
        .about("Prints a script that completes commands and options in a shell")
        .long_about(
            "Prints a script that completes commands and options in a shell. Where it belongs depends on the shell; \
             the examples are the usual places.",
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
                .help("The shell"),
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
