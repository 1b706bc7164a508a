//! `tempra devices`: what this build can drive.

use super::options::{flag, json_arg};
use super::output::{say, say_json};
use crate::device::wgpu::Abilities;
use crate::device::{Caps, Device, Wgpu};
use crate::error::Result;
use clap::{ArgMatches, Command};
use serde_json::{Value, json};

/// A device that opened, or why it did not.
type Found = Result<(Caps, Option<Abilities>)>;

/// What `--device` names, in the order of its help; `auto` is one of these. Each adapter of wgpu has a number.
fn names() -> Vec<String> {
    let adapters = Wgpu::list().len();
    let numbered = (0..adapters).map(|i| format!("wgpu:{i}"));
    let wgpu = if adapters == 0 { vec!["wgpu".to_owned()] } else { numbered.collect() };
    ["cpu", "cuda"].map(str::to_owned).into_iter().chain(wgpu).collect()
}

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
    let open = |name: String| {
        let found = Device::open(&name, 0).map(|device| (device.caps(), abilities(&device)));
        (name, found)
    };
    let found: Vec<(String, Found)> = names().into_iter().map(open).collect();
    let auto = Device::open("auto", 0)?.caps().name;
    if flag(matches, "json") {
        let one = |(name, found): &(String, Found)| -> Value {
            match found {
                Ok((caps, more)) => json!({
                    "name": name,
                    "available": true,
                    "description": caps.name,
                    "dtypes": caps.dtypes.iter().map(|t| format!("{t:?}").to_lowercase()).collect::<Vec<_>>(),
                    "memory_bytes": caps.memory_bytes,
                    "software": more.as_ref().map(|m| m.software),
                    "subgroup": more.as_ref().and_then(|m| m.subgroup),
                    "cooperative_matrix": more.as_ref().and_then(|m| m.coop),
                    "timestamps": more.as_ref().map(|m| m.timestamps),
                    "binding_bytes": more.as_ref().map(|m| m.binding_bytes),
                    "workgroup_bytes": more.as_ref().map(|m| m.shared_bytes),
                }),
                Err(e) => json!({ "name": name, "available": false, "reason": first_line(&e.to_string()) }),
            }
        };
        let devices: Vec<Value> = found.iter().map(one).collect();
        say_json(&json!({ "devices": devices, "auto": auto }))?;
        return Ok(0);
    }
    let mut text = String::new();
    for (name, found) in &found {
        text += &match found {
            Ok((caps, more)) => {
                let types: Vec<String> =
                    caps.dtypes.iter().map(|t| format!("{t:?}").to_lowercase()).collect();
                let memory = caps.memory_bytes.map(|b| format!(", {:.1} GiB", b as f64 / f64::from(1 << 30)));
                format!(
                    "{name:<6} yes  {}, computes in {}{}\n{}",
                    caps.name,
                    types.join(" and "),
                    memory.unwrap_or_default(),
                    more.as_ref().map(describe).unwrap_or_default()
                )
            }
            Err(e) => format!("{name:<6} no   {}\n", first_line(&e.to_string())),
        };
    }
    say(format!("{text}auto is {auto}"))?;
    Ok(0)
}

fn abilities(device: &Device) -> Option<Abilities> {
    match device {
        Device::Wgpu(gpu) => Some(gpu.abilities().clone()),
        _ => None,
    }
}

/// What an adapter can do beyond the least, and its limits.
fn describe(a: &Abilities) -> String {
    let subgroups = a.subgroup.map_or("no subgroups of one size".to_owned(), |n| format!("subgroups of {n}"));
    let clock = if a.timestamps { "a clock of its own" } else { "no clock of its own" };
    let products =
        a.coop.map_or("no f16 products".to_owned(), |n| format!("f16 products on matrices of {n} x {n}"));
    let (binding, group) = (a.binding_bytes >> 20, a.shared_bytes >> 10);
    format!(
        "            {subgroups}, {products}, {clock}; binds {binding} MiB at once, {group} KiB of workgroup memory\n"
    )
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
