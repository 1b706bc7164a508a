//! Options that a command has for some models and that have no effect for others: each that is given in vain is warned about.

use super::options::text;
use super::style::Voice;
use crate::models::Outputs;
use clap::ArgMatches;

/// An option, by the command and its name.
struct Option {
    command: &'static str,
    name: &'static str,
    /// Whether it has an effect for what a head gives.
    has: fn(&Outputs) -> bool,
    /// What it takes to have one, in words.
    needs: &'static str,
}

const fn option(
    command: &'static str,
    name: &'static str,
    has: fn(&Outputs) -> bool,
    needs: &'static str,
) -> Option {
    Option { command, name, has, needs }
}

const SQUAD: &str = "questions are read from SQuAD's JSON, which has no columns";
const OPTIONS: &[Option] = &[
    option("predict", "text", |o| !matches!(o, Outputs::Span), SQUAD),
    option(
        "predict",
        "pair",
        |o| !matches!(o, Outputs::Span | Outputs::Tags(_)),
        "tags are found in one text, and questions come from SQuAD's JSON",
    ),
    option("predict", "format", |o| !matches!(o, Outputs::Span), "answers are written as JSON"),
    option(
        "predict",
        "input-format",
        |o| !matches!(o, Outputs::Span | Outputs::Tags(_)),
        "the name of the input says what is read",
    ),
    option("eval", "text", |o| !matches!(o, Outputs::Span), SQUAD),
    option(
        "eval",
        "pair",
        |o| matches!(o, Outputs::Classes(_) | Outputs::Labels(_) | Outputs::Number | Outputs::Embedding),
        "only classes, numbers and vectors are of two texts that stand in columns",
    ),
    option(
        "eval",
        "label",
        |o| {
            let rows =
                matches!(o, Outputs::Classes(_) | Outputs::Labels(_) | Outputs::Number | Outputs::Embedding);
            rows || matches!(o, Outputs::Tags(_))
        },
        "answers are part of SQuAD's JSON, and a language model finds the tokens of the text itself",
    ),
    option("embed", "pair", |_| false, "each text has a vector of its own"),
    option("embed", "head", |_| false, "vectors are the encoder's, which all heads share"),
];

/// Warns about the options of `command` that were given and have no effect for what the head gives.
pub fn warn(command: &str, matches: &ArgMatches, outputs: &Outputs, voice: &Voice) {
    let given = |o: &&Option| o.command == command && text(matches, o.name).is_some();
    for option in OPTIONS.iter().filter(given).filter(|o| !(o.has)(outputs)) {
        voice.warn(format!(
            "--{} has no effect on this model: {}\n  help: leave it out",
            option.name, option.needs
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every entry names an option that the command has; that of each model is tried by the tests of the program.
    #[test]
    fn every_entry_is_an_option_of_its_command() {
        let program = crate::cli::command();
        for option in OPTIONS {
            let command = program.find_subcommand(option.command).unwrap();
            let has = command.get_arguments().any(|a| a.get_long() == Some(option.name));
            assert!(has, "{} has no --{}", option.command, option.name);
        }
    }
}
