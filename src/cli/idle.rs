//! Options that have no effect on a model: a warning for each that is given.

use super::options::text;
use super::style::Voice;
use crate::models::Outputs;
use clap::ArgMatches;

/// What a command is asked to do.
struct Use<'a> {
    /// What the head of the model gives.
    outputs: &'a Outputs,
    /// Whether the texts come from the command line.
    direct: bool,
    /// Whether the model has several heads.
    several: bool,
    /// The value of the option.
    value: &'a str,
}

impl Use<'_> {
    /// Whether the data are rows with a label column.
    fn rows(&self) -> bool {
        use Outputs as O;
        matches!(self.outputs, O::Classes(_) | O::Labels(_) | O::Number | O::Embedding)
    }
    fn tags(&self) -> bool {
        matches!(self.outputs, Outputs::Tags(_))
    }
    fn answers(&self) -> bool {
        *self.outputs == Outputs::Span
    }
}

/// An option of a command.
struct Option {
    command: &'static str,
    name: &'static str,
    /// Whether it has an effect.
    has: fn(&Use) -> bool,
    /// Why it has none.
    why: fn(&Use) -> &'static str,
}

const SQUAD: &str = "questions are read from SQuAD's JSON, which has no columns";
const DIRECT: &str = "the text comes from the command line, not from a file";
const OPTIONS: &[Option] = &[
    Option {
        command: "predict",
        name: "text",
        has: |u| !u.answers() && !u.direct,
        why: |u| if u.direct { DIRECT } else { SQUAD },
    },
    Option {
        command: "predict",
        name: "pair",
        has: |u| !u.answers() && !u.tags(),
        why: |u| if u.tags() { "a tagger reads one text" } else { SQUAD },
    },
    Option {
        command: "predict",
        name: "format",
        has: |u| !u.answers() || u.value != "csv",
        why: |_| "answers are written as JSON",
    },
    Option {
        command: "predict",
        name: "input-format",
        has: |u| !u.answers() && !u.tags() && !u.direct,
        why: |u| if u.direct { DIRECT } else { "the name of the input says its format" },
    },
    Option { command: "eval", name: "text", has: |u| !u.answers(), why: |_| SQUAD },
    Option {
        command: "eval",
        name: "pair",
        has: |u| u.rows(),
        why: |u| match u.outputs {
            Outputs::Tags(_) => "a tagger reads one text",
            Outputs::Span => SQUAD,
            _ => "a language model reads one text",
        },
    },
    Option {
        command: "eval",
        name: "label",
        has: |u| u.rows() || u.tags(),
        why: |u| match u.outputs {
            Outputs::Span => "the answers are part of SQuAD's JSON",
            _ => "a language model predicts tokens of the text itself",
        },
    },
    Option { command: "embed", name: "pair", has: |_| false, why: |_| "each text has a vector of its own" },
    Option {
        command: "embed",
        name: "head",
        has: |u| u.several,
        why: |_| "vectors come from the encoder, not from the head",
    },
];

/// Warns about the options of `command` that are given but have no effect on what the head outputs.
/// `several`: whether the model has several heads. `direct`: whether the texts come from the command line.
pub fn warn(
    command: &str,
    matches: &ArgMatches,
    (outputs, several): (&Outputs, bool),
    direct: bool,
    voice: &Voice,
) {
    for option in OPTIONS.iter().filter(|o| o.command == command) {
        let Some(value) = text(matches, option.name) else { continue };
        let used = Use { outputs, direct, several, value };
        if !(option.has)(&used) {
            let (name, why) = (option.name, (option.why)(&used));
            voice.warn(format!("--{name} has no effect: {why}\n  help: leave it out"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Options that have an effect on every model, or that are an error where they have none.
    const ALWAYS: &[(&str, &[&str])] = &[
        (
            "predict",
            &[
                "context",
                "device",
                "head",
                "max-length",
                "max-tokens",
                "no-answer",
                "output",
                "question",
                "sentence",
                "threads",
            ],
        ),
        (
            "eval",
            &[
                "device",
                "head",
                "intervals",
                "json",
                "label-scale",
                "max-length",
                "max-tokens",
                "no-answer",
                "threads",
            ],
        ),
        (
            "embed",
            &[
                "device",
                "max-length",
                "max-tokens",
                "normalize",
                "output",
                "pooling",
                "raw",
                "text",
                "threads",
            ],
        ),
    ];

    /// Whoever adds an option to a command that runs a model must say for which models it has an effect. The
    /// warnings themselves are tested with the program.
    #[test]
    fn every_option_is_listed_once() {
        let program = crate::cli::command();
        for (command, always) in ALWAYS {
            let defined = program.find_subcommand(command).unwrap();
            let options = defined.get_arguments().filter_map(|a| a.get_long());
            let mut options: Vec<&str> = options.filter(|o| !["quiet", "no-color"].contains(o)).collect();
            options.sort_unstable();
            let idle = OPTIONS.iter().filter(|o| o.command == *command).map(|o| o.name);
            let mut listed: Vec<&str> = always.iter().copied().chain(idle).collect();
            listed.sort_unstable();
            assert_eq!(options, listed, "{command}");
        }
        assert!(OPTIONS.iter().all(|o| ALWAYS.iter().any(|(command, _)| *command == o.command)));
    }
}
