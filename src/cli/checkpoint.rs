//! `tempra checkpoint verify`: whether checkpoints and models are, byte for byte, what was written.

use super::options::{flag, json_arg};
use super::output::{say, say_json};
use crate::checkpoint::verify;
use crate::error::{Error, Result};
use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use std::path::PathBuf;

/// The exit code where a folder is damaged: that of a model that cannot be used.
const DAMAGED: i32 = 4;

pub fn define() -> Command {
    let verify = Command::new("verify")
        .about("Check that the files of checkpoints and models are undamaged")
        .long_about(
            "Check that the files of checkpoints and models are byte for byte as tempra wrote them.\n\n\
             Every file is read, and its BLAKE3 hash is compared with the manifest beside it. The command changes nothing \
             and does not disturb a run that uses the folder. In a run folder it checks every checkpoint, model/ and \
             best-NAME/.\n\n\
             A model that you changed on purpose counts as damaged until you delete its manifest.json.\n\n\
             The exit code is 4 if a file is damaged or nothing is found, else 0.",
        )
        .after_help(
            "Examples:\n  tempra checkpoint verify runs/reviews\n  \
             tempra checkpoint verify runs/reviews/checkpoint-300 --json\n  \
             tempra checkpoint verify runs/reviews/model",
        )
        .arg(
            Arg::new("path")
                .value_name("PATH")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Folder of a checkpoint, a model or a whole run"),
        )
        .arg(json_arg());
    Command::new("checkpoint")
        .about("Check saved checkpoints and models")
        .after_help("Example:\n  tempra checkpoint verify runs/reviews")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(verify)
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let Some(("verify", matches)) = matches.subcommand() else {
        return Err(Error::usage("no subcommand is given").with_help("try `tempra checkpoint verify PATH`"));
    };
    let path = matches.get_one::<PathBuf>("path").cloned().unwrap_or_default();
    let report = verify(&path)?;
    if flag(matches, "json") {
        let one = |c: &crate::checkpoint::CheckpointReport| -> Value {
            json!({
                "path": c.path.to_string_lossy(),
                "ok": c.ok(),
                "files": c.files,
                "bytes": c.bytes,
                "problems": c.problems,
            })
        };
        let all: Vec<Value> = report.checkpoints.iter().map(one).collect();
        say_json(&json!({ "ok": report.ok(), "checkpoints": all }))?;
    } else {
        say(report.to_string().trim_end())?;
    }
    Ok(if report.ok() { 0 } else { DAMAGED })
}
