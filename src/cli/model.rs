//! The options of commands that run a fine-tuned model: `predict`, `eval` and `embed`.

use super::options::{column, count, device_arg, flag, text, threads_arg};
use super::style::Voice;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::models::{Outputs, Pooling};
use crate::predict::{Folder, Session, Settings};
use clap::{Arg, ArgMatches, Command};

/// Adds the model, and the options for its input.
pub fn with_model(command: Command) -> Command {
    let model = Arg::new("model").value_name("MODEL").required(true);
    command
        .arg(
            model.help(
                "Folder of a fine-tuned model (config.json, model.safetensors, tokenizer), or org/name",
            ),
        )
        .arg(column("text", "Column of the text [default: as in training, else text]"))
        .arg(column("pair", "Column of the second text of a pair, \"\" for none [default: as in training]"))
        .arg(
            Arg::new("head")
                .long("head")
                .value_name("NAME")
                .help("Head to use if the model has several: the name of its task"),
        )
        .arg(count("max-length", "Longest sequence in tokens [default: as in training, else 512]"))
        .arg(count("max-tokens", "Maximum tokens of one forward pass [default: 8192]"))
        .arg(device_arg())
        .arg(threads_arg())
}

/// `--no-answer`: whether a question may stay without an answer.
pub fn no_answer_arg() -> Arg {
    Arg::new("no-answer").long("no-answer").value_name("WHEN").value_parser(["auto", "allow", "never"]).help(
        "Whether \"no answer\" may be given to a question; auto: as in training, or never if the model folder does not \
         say [default: auto]",
    )
}

/// What the options say about the model's input and output.
pub fn settings(matches: &ArgMatches) -> Settings {
    let number = |id: &str| matches.try_get_one::<usize>(id).ok().flatten().copied();
    let name = |id: &str| text(matches, id).map(str::to_owned);
    let default = Settings::default();
    Settings {
        head: name("head"),
        text: name("text"),
        pair: name("pair"),
        max_length: number("max-length"),
        max_tokens: number("max-tokens").unwrap_or(default.max_tokens),
        no_answer: match text(matches, "no-answer") {
            Some("allow") => Some(true),
            Some("never") => Some(false),
            _ => None,
        },
        pooling: text(matches, "pooling").map(|p| if p == "cls" { Pooling::Cls } else { Pooling::Mean }),
        normalize: match (flag(matches, "raw"), flag(matches, "normalize")) {
            (true, _) => Some(false),
            (_, true) => Some(true),
            _ => None,
        },
        // The whole input at once: batches of texts of one length, whatever their order.
        chunk: usize::MAX,
    }
}

/// Reads the weights of a folder, and warns about what is odd in them.
///
/// # Errors
/// Those of [`Folder::load`]; [`Kind::Usage`](crate::error::Kind::Usage) for an option that the head does not
/// have.
pub fn load(folder: Folder, device: Device, matches: &ArgMatches, voice: &Voice) -> Result<Session> {
    let known = folder.warnings.len();
    let bar = voice.bar(0, "examples").with_finish(indicatif::ProgressFinish::AndClear);
    let session = folder.load(device)?.with_progress(move |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        if done == total {
            bar.finish_and_clear();
        }
    });
    session.folder.warnings.iter().skip(known).for_each(|w| voice.warn(w));
    if text(matches, "no-answer").is_some() && *session.outputs() != Outputs::Span {
        return Err(Error::usage("--no-answer is set, but the model does not answer questions")
            .at(&session.folder.dir)
            .with_help("leave out --no-answer"));
    }
    Ok(session)
}

/// Warns about what is odd in a folder before its weights are read.
pub fn warn(folder: &Folder, voice: &Voice) {
    folder.warnings.iter().for_each(|w| voice.warn(w));
}

/// A note for a model that answers questions, if nothing says whether a question may have no answer.
pub fn warn_uncertain(session: &Session, matches: &ArgMatches, voice: &Voice) {
    let said = settings(matches).no_answer.or(session.folder.metadata.abstains());
    if *session.outputs() == Outputs::Span && said.is_none() {
        voice.note(
            "the model folder does not say whether a question may have no answer, so every question gets one\n  \
             help: --no-answer allow permits \"no answer\"",
        );
    }
}

/// A warning about texts that lost tokens to the maximum length: `cut` of `all`.
pub fn warn_cut(session: &Session, cut: usize, all: usize, voice: &Voice) {
    let were = if cut == 1 { "was" } else { "were" };
    if cut > 0 {
        voice.warn(format!("{cut} of {all} texts {were} cut at {} tokens", session.folder.max_length));
    }
}
