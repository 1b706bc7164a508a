//! `tempra devices`: what this build can drive.

use super::options::{flag, json_arg};
use super::output::{say, say_json};
use crate::bench::ceilings::{StoredCeilings, kept};
use crate::device::wgpu::Abilities;
use crate::device::{Caps, Cuda, Device, Wgpu};
use crate::error::Result;
use crate::shape::DType;
use clap::{ArgMatches, Command};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a device can do beyond the least.
enum More {
    /// A processor: nothing to tell.
    Nothing,
    /// An adapter of wgpu.
    Adapter(Abilities),
    /// An NVIDIA GPU.
    Card(Card),
}

/// What is shown of an NVIDIA GPU.
struct Card {
    capability: String,
    sms: u32,
    cublaslt: bool,
    driver: String,
    nvrtc: String,
    nvrtc_file: String,
    free: u64,
}

/// A device that opened, or why it did not.
type Found = Result<(Caps, More)>;

/// What `--device` names, in the order of its help; `auto` is one of these. Each adapter of wgpu has a number.
fn names() -> Vec<String> {
    let numbered = |kind: &str, count: usize| -> Vec<String> {
        let all = (0..count).map(|i| format!("{kind}:{i}"));
        if count == 0 { vec![kind.to_owned()] } else { all.collect() }
    };
    let cards = numbered("cuda", Cuda::count().unwrap_or(0));
    let adapters = numbered("wgpu", Wgpu::list().len());
    ["cpu".to_owned()].into_iter().chain(cards).chain(adapters).collect()
}

pub fn define() -> Command {
    Command::new("devices")
        .about("List the devices that this build can use")
        .long_about(
            "List the devices that this build can use, with the speeds that `tempra bench` has measured. For the others, say \
             why they cannot be used.\n\n\
             The option --device and the key `device` of a recipe take these names.",
        )
        .after_help("Examples:\n  tempra devices\n  tempra devices --json")
        .arg(json_arg())
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let open = |name: String| {
        let found = Device::open(&name, 0).map(|device| (device.caps(), more(&device)));
        (name, found)
    };
    let found: Vec<(String, Found)> = names().into_iter().map(open).collect();
    let auto = Device::open("auto", 0)?.caps().name;
    if flag(matches, "json") {
        let one = |(name, found): &(String, Found)| -> Value {
            match found {
                Ok((caps, more)) => {
                    let (a, card) = match more {
                        More::Adapter(a) => (Some(a), None),
                        More::Card(card) => (None, Some(card)),
                        More::Nothing => (None, None),
                    };
                    json!({
                        "name": name,
                        "available": true,
                        "description": caps.name,
                        "dtypes": types(caps, more),
                        "activation_dtypes": a.and_then(|m| m.coop).map(|_| json!({ "f16": "f32" })),
                        "memory_bytes": caps.memory_bytes,
                        "driver": a.map(|m| m.driver.clone()).filter(|d| !d.is_empty()).or(card.map(|c| format!("CUDA {}", c.driver))),
                        "nvrtc": card.map(|c| &c.nvrtc),
                        "nvrtc_file": card.map(|c| &c.nvrtc_file),
                        "free_bytes": card.map(|c| c.free),
                        "software": a.map(|m| m.software),
                        "subgroup": a.and_then(|m| m.subgroup),
                        "cooperative_matrix": a.and_then(|m| m.coop),
                        "timestamps": a.map(|m| m.timestamps),
                        "binding_bytes": a.map(|m| m.binding_bytes),
                        "workgroup_bytes": a.map(|m| m.shared_bytes),
                        "compute_capability": card.map(|c| &c.capability),
                        "multiprocessors": card.map(|c| c.sms),
                        "cublaslt": card.map(|c| c.cublaslt),
                        "ceilings": ceilings(caps),
                    })
                }
                Err(e) => json!({
                    "name": name, "available": false, "reason": first_line(&e.to_string()), "do": remedy(name),
                }),
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
                let memory = caps.memory_bytes.map(|b| format!(", {:.1} GiB", b as f64 / f64::from(1 << 30)));
                format!(
                    "{name:<6} yes  {}, computes in {}{}\n{}{}",
                    caps.name,
                    types(caps, more).join(" and "),
                    memory.unwrap_or_default(),
                    describe(more, caps),
                    measured(caps, name)
                )
            }
            Err(e) => {
                format!("{name:<6} no   {}\n            needs {}\n", first_line(&e.to_string()), remedy(name))
            }
        };
    }
    say(format!("{text}--device auto uses {auto}"))?;
    Ok(0)
}

fn more(device: &Device) -> More {
    match device {
        Device::Wgpu(gpu) => More::Adapter(gpu.abilities().clone()),
        Device::Cuda(card) => {
            let (capability, [driver, nvrtc]) = (card.capability(), card.versions());
            let capability = format!("{}.{}", capability / 10, capability % 10);
            let cublaslt = card.blas_version().is_some();
            let (nvrtc_file, caps) = (card.nvrtc().display().to_string(), device.caps());
            let free = caps.memory_bytes.unwrap_or(0).saturating_sub(caps.taken_bytes);
            More::Card(Card { capability, sms: card.sms(), cublaslt, driver, nvrtc, nvrtc_file, free })
        }
        Device::Cpu(_) | Device::Dry(_) => More::Nothing,
    }
}

/// The compute types, in which matmuls can multiply: on wgpu f16 too where there are cooperative matrices, though activations stay f32.
fn types(caps: &Caps, more: &More) -> Vec<String> {
    let half = matches!(more, More::Adapter(a) if a.coop.is_some()).then_some(&DType::F16);
    caps.dtypes.iter().chain(half).map(DType::to_string).collect()
}

/// What a device can do beyond the least, and its limits.
fn describe(more: &More, caps: &Caps) -> String {
    let a = match more {
        More::Nothing => return String::new(),
        More::Card(Card { capability, sms, cublaslt, driver, nvrtc, nvrtc_file, free }) => {
            let shared = caps.shared_bytes >> 10;
            let products = if *cublaslt {
                "tempra's kernels or cuBLASLt, whichever is faster"
            } else {
                "tempra's kernels"
            };
            return format!(
                "            driver for CUDA {driver}, NVRTC {nvrtc} ({nvrtc_file}), {:.1} GiB free\n            compute capability {capability}, {sms} multiprocessors \
                 with {shared} KiB of shared memory per block; GEMM: {products}\n",
                *free as f64 / f64::from(1 << 30)
            );
        }
        More::Adapter(a) => a,
    };
    let driver = if a.driver.is_empty() { "unknown" } else { &a.driver };
    let subgroups = a.subgroup.map_or("no fixed subgroup size".to_owned(), |n| format!("subgroups of {n}"));
    let clock = if a.timestamps { "GPU timestamps" } else { "no GPU timestamps" };
    let products =
        a.coop.map_or("no f16 GEMM".to_owned(), |n| format!("f16 GEMM with {n} x {n} cooperative matrices"));
    let (binding, group) = (a.binding_bytes >> 20, a.shared_bytes >> 10);
    format!(
        "            driver: {driver}\n            {subgroups}, {products}, {clock}; buffers of at most {binding} MiB, {group} KiB of workgroup memory\n"
    )
}

/// What a device did at best, by the types that it was measured in.
fn ceilings(caps: &Caps) -> BTreeMap<&'static str, StoredCeilings> {
    let measured = |dtype: &'static str| Some((dtype, kept(&caps.name, dtype)?));
    ["f32", "f16", "bf16"].into_iter().filter_map(measured).collect()
}

fn measured(caps: &Caps, name: &str) -> String {
    let all = ceilings(caps);
    if all.is_empty() {
        return format!("            not measured yet: run `tempra bench ops --device {name}`\n");
    }
    let one = |(dtype, stored): (&&str, &StoredCeilings)| {
        let c = &stored.ceilings;
        let peak = c.nameplate.clone().unwrap_or_default();
        let of = |peak: Option<f64>, unit: f64, digits: usize| {
            peak.map_or(String::new(), |peak| format!(" (specification: {:.digits$})", peak / unit))
        };
        let load = stored.load.map_or(String::new(), |load| format!(", load {load:.2}"));
        let driver = stored.driver.as_ref().map_or(String::new(), |driver| format!(", driver {driver}"));
        format!(
            "            measured in {dtype}: copy {:.1} GB/s{}, GEMM {:.3} TFLOP/s{}\n            on {} by {}{driver}{load}\n",
            c.copy_bytes_per_s / 1e9,
            of(peak.copy_bytes_per_s, 1e9, 1),
            c.product_flops_per_s / 1e12,
            of(peak.product_flops_per_s, 1e12, 3),
            date(stored.measured),
            stored.tool
        )
    };
    all.iter().map(one).collect()
}

/// The day of a time in seconds since 1970, such as `2026-11-30`.
fn date(seconds: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    crate::checkpoint::run::utc(time).chars().take(10).collect()
}

/// How to get a device that is not there.
fn remedy(name: &str) -> &'static str {
    if name.starts_with("cuda") {
        "an NVIDIA GPU (Turing or newer), its driver, and NVRTC: pip install nvidia-cuda-nvrtc, or the CUDA toolkit"
    } else if Wgpu::BUILT {
        "a driver for Vulkan (Linux: mesa-vulkan-drivers or the GPU vendor's), Metal (macOS) or DX12 (Windows)"
    } else {
        "a build with this backend: cargo build --release --features wgpu"
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
