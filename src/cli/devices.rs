//! `tempra devices`: what this build can drive.

use super::options::{flag, json_arg};
use super::output::{say, say_json};
use crate::device::Device;
use crate::error::Result;
use clap::{ArgMatches, Command};
use serde_json::{Value, json};

/// What `--device` names, in the order of its help; `auto` is one of these.
const NAMES: &[&str] = &["cpu", "cuda", "wgpu"];

pub fn define() -> Command {
    Command::new("devices")
        .about("Lists the devices that this build can drive")
        .long_about(
            "Lists the devices that this build can drive, and why it cannot drive the others.\n\n\
             The names are those that --device takes, and the key `device` of a recipe.",
        )
        .after_help("Examples:\n  tempra devices\n  tempra devices --json")
        .arg(json_arg())
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let found = NAMES.iter().map(|&name| (name, Device::open(name, 0).map(|device| device.caps())));
    let found: Vec<_> = found.collect();
    let auto = Device::open("auto", 0)?.caps().name;
    if flag(matches, "json") {
        let one = |(name, caps): &(&str, Result<crate::device::Caps>)| -> Value {
            match caps {
                Ok(caps) => json!({
                    "name": name,
                    "available": true,
                    "description": caps.name,
                    "dtypes": caps.dtypes.iter().map(|t| format!("{t:?}").to_lowercase()).collect::<Vec<_>>(),
                    "memory_bytes": caps.memory_bytes,
                }),
                Err(e) => json!({ "name": name, "available": false, "reason": first_line(&e.to_string()) }),
            }
        };
        let devices: Vec<Value> = found.iter().map(one).collect();
        say_json(&json!({ "devices": devices, "auto": auto }))?;
        return Ok(0);
    }
    let mut text = String::new();
    for (name, caps) in &found {
        text += &match caps {
            Ok(caps) => {
                let types: Vec<String> =
                    caps.dtypes.iter().map(|t| format!("{t:?}").to_lowercase()).collect();
                let memory = caps.memory_bytes.map(|b| format!(", {:.1} GiB", b as f64 / f64::from(1 << 30)));
                format!(
                    "{name:<5} yes  {}, computes in {}{}\n",
                    caps.name,
                    types.join(" and "),
                    memory.unwrap_or_default()
                )
            }
            Err(e) => format!("{name:<5} no   {}\n", first_line(&e.to_string())),
        };
    }
    say(format!("{text}auto is {auto}"))?;
    Ok(0)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
