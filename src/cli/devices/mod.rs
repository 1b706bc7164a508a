//! `tempra devices`: what this build can use on this machine, and why it cannot use the rest.

mod facts;
mod table;

use super::options::{flag, json_arg};
use super::output::{say, say_json};
use crate::bench::ceilings::{StoredCeilings, kept};
use crate::device::{LibraryFacts, isolated, settings};
use crate::error::{Error, Result};
use clap::builder::RangedU64ValueParser;
use clap::{Arg, ArgMatches, Command};
use facts::{Backend, DeviceFacts};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// All that the command shows.
struct DeviceSurvey {
    devices: Vec<DeviceFacts>,
    libraries: Vec<LibraryFacts>,
    variables: Vec<Variable>,
    auto: String,
}

/// A variable of the environment that changes how devices or their libraries work.
struct Variable {
    name: String,
    value: String,
    /// What is wrong with it.
    problem: Option<String>,
}

pub fn define() -> Command {
    let limit = Arg::new("timeout")
        .long("timeout")
        .value_name("SECONDS")
        .value_parser(RangedU64ValueParser::<u64>::new().range(1..=3600))
        .default_value("60")
        .help("Wait this long for a driver that does not answer");
    Command::new("devices")
        .about("List the devices that this build can use, and say why it cannot use the others")
        .long_about(
            "List the devices that this build can use, with the speeds that `tempra bench` has measured. For the others, say why they \
             cannot be used and what to do.\n\n\
             It also lists the libraries that GPUs need (driver, NVRTC, cuBLASLt, NVML, Vulkan) with file and version, and the \
             environment variables that change how they work. A driver that crashes or does not answer is reported; the exit code \
             is 0.\n\n\
             The option --device and the key `device` of a recipe take these names.",
        )
        .after_help("Examples:\n  tempra devices\n  tempra devices --json")
        .arg(limit)
        .arg(json_arg())
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let limit = Duration::from_secs(matches.get_one::<u64>("timeout").copied().unwrap_or(60));
    let found = find(limit);
    if flag(matches, "json") {
        say_json(&as_json(&found))?;
    } else {
        say(table::text(&found))?;
    }
    Ok(0)
}

fn find(limit: Duration) -> DeviceSurvey {
    // The backends come first, while this process has a single thread.
    let backends = [("cuda", isolated::start(facts::cuda)), ("wgpu", isolated::start(facts::wgpu))];
    let until = Instant::now() + limit;
    let backends = backends.map(|(kind, started)| {
        started.wait(until).unwrap_or_else(|why| {
            let e = Error::device(why).with_help(match kind {
                "cuda" => "run `nvidia-smi`: if it hangs too, reboot; `sudo dmesg` may show the driver's errors (NVRM)",
                _ => "run `vulkaninfo --summary`: if it fails too, reinstall the GPU's Vulkan driver",
            });
            Backend { devices: vec![DeviceFacts::refused(kind, &e)], libraries: Vec::new() }
        })
    });
    let mut found = DeviceSurvey {
        devices: vec![facts::cpu()],
        libraries: Vec::new(),
        variables: variables(),
        auto: String::new(),
    };
    found.auto = found.devices[0].description.clone().unwrap_or_default();
    for backend in backends {
        found.devices.extend(backend.devices);
        found.libraries.extend(backend.libraries);
    }
    facts::match_gpus(&mut found.devices);
    found
}

/// The variables in force, in alphabetical order.
fn variables() -> Vec<Variable> {
    const OTHERS: [&str; 12] = [
        "CUDA_DEVICE_ORDER",
        "CUDA_HOME",
        "CUDA_PATH",
        "CUDA_VISIBLE_DEVICES",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "RAYON_NUM_THREADS",
        "VK_ADD_DRIVER_FILES",
        "VK_DRIVER_FILES",
        "VK_ICD_FILENAMES",
        "VK_LOADER_DRIVERS_DISABLE",
        "VK_LOADER_DRIVERS_SELECT",
    ];
    let settings_of = [
        settings::CpuSettings::read().err(),
        settings::CudaSettings::read().err(),
        settings::WgpuSettings::read().err(),
    ];
    let refused = |name: &str| {
        let e = settings_of.iter().flatten().find(|e| e.what().contains(name))?;
        let parts = [Some(e.what()), e.expected().map(|_| "expected"), e.expected()];
        Some(parts.into_iter().flatten().collect::<Vec<_>>().join(" "))
    };
    let known = settings::VARIABLES.iter().copied().chain(OTHERS).filter_map(|name| {
        let value = std::env::var_os(name)?.to_string_lossy().into_owned();
        Some(Variable { name: name.to_owned(), value, problem: refused(name) })
    });
    let misspelt = settings::misspelt().into_iter().map(|(name, meant)| {
        let value = std::env::var_os(&name).unwrap_or_default().to_string_lossy().into_owned();
        Variable { name, value, problem: Some(format!("tempra does not read it; did you mean {meant}?")) }
    });
    let mut all: Vec<Variable> = known.chain(misspelt).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// What a device did at best, by the types that it was measured in.
fn ceilings(device: &DeviceFacts) -> BTreeMap<&'static str, StoredCeilings> {
    let description = device.description.as_deref().unwrap_or_default();
    let measured = |dtype: &'static str| Some((dtype, kept(description, dtype)?));
    ["f32", "f16", "bf16"].into_iter().filter_map(measured).collect()
}

fn as_json(found: &DeviceSurvey) -> Value {
    let device = |d: &DeviceFacts| {
        let mut value = json!(d);
        if d.available {
            value["ceilings"] = json!(ceilings(d));
        }
        value
    };
    let variable = |v: &Variable| json!({ "name": v.name, "value": v.value, "problem": v.problem });
    json!({
        "devices": found.devices.iter().map(device).collect::<Vec<_>>(),
        "libraries": found.libraries,
        "environment": found.variables.iter().map(variable).collect::<Vec<_>>(),
        "auto": found.auto,
    })
}
