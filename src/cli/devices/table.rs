//! The text that `tempra devices` prints.

use super::facts::DeviceFacts;
use super::{DeviceSurvey, Variable, ceilings};
use crate::bench::ceilings::StoredCeilings;
use crate::device::LibraryFacts;

/// Where the text of a device or library starts, in columns.
const INDENT: usize = 18;

/// The whole text: devices, libraries, environment.
pub fn text(found: &DeviceSurvey) -> String {
    let mut text: String = found.devices.iter().map(device).collect();
    if !found.libraries.is_empty() {
        text += "\nlibraries\n";
        text.extend(found.libraries.iter().map(library));
    }
    if !found.variables.is_empty() {
        text += "\nenvironment\n";
        text.extend(found.variables.iter().map(variable));
    }
    format!("{text}\n--device auto uses {}", found.auto)
}

/// A line below the first one of an entry.
fn below(text: &str) -> String {
    format!("{:INDENT$}{text}\n", "")
}

fn device(d: &DeviceFacts) -> String {
    let name = &d.name;
    if !d.available {
        let mut text = format!("{name:<6} no   {}\n", d.reason.as_deref().unwrap_or_default());
        for (word, part) in [("expected", &d.expected), ("found", &d.found), ("help", &d.help)] {
            if let Some(part) = part {
                text += &format!("            {word}: {part}\n");
            }
        }
        return text;
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let memory = d.memory_bytes.map(|b| format!(", {:.1} GiB", gib(b))).unwrap_or_default();
    let description = d.description.as_deref().unwrap_or_default();
    let mut text = format!("{name:<6} yes  {description}, computes in {}{memory}\n", d.dtypes.join(" and "));
    let mut line = |part: String| text += &format!("            {part}\n");
    let shared = d.workgroup_bytes.unwrap_or(0) >> 10;
    if let Some(capability) = &d.compute_capability {
        line(format!(
            "driver: {}; NVRTC {} ({}), {:.1} GiB free",
            d.driver.as_deref().unwrap_or_default(),
            d.nvrtc.as_deref().unwrap_or_default(),
            d.nvrtc_file.as_deref().unwrap_or_default(),
            gib(d.free_bytes.unwrap_or(0))
        ));
        let matmuls = match d.cublaslt {
            Some(true) => "tempra's kernels or cuBLASLt, whichever is faster",
            _ => "tempra's kernels",
        };
        line(format!(
            "compute capability {capability}, {} multiprocessors with {shared} KiB of shared memory per block; GEMM: {matmuls}",
            d.multiprocessors.unwrap_or(0)
        ));
    }
    if let Some(timestamps) = d.timestamps {
        line(format!("driver: {}", d.driver.as_deref().unwrap_or("unknown")));
        let subgroups =
            d.subgroup.map_or("no fixed subgroup size".to_owned(), |n| format!("subgroups of {n}"));
        let clock = if timestamps { "GPU timestamps" } else { "no GPU timestamps" };
        let matmuls = d
            .cooperative_matrix
            .map_or("no f16 GEMM".to_owned(), |n| format!("f16 GEMM with {n} x {n} cooperative matrices"));
        let binding = d.binding_bytes.unwrap_or(0) >> 20;
        line(format!(
            "{subgroups}, {matmuls}, {clock}; buffers of at most {binding} MiB, {shared} KiB of workgroup memory"
        ));
    }
    if !d.same_gpu_as.is_empty() {
        line(format!("the same GPU as {}", d.same_gpu_as.join(" and ")));
    }
    text + &measured(d)
}

/// The ceilings that `tempra bench` measured.
fn measured(d: &DeviceFacts) -> String {
    let all = ceilings(d);
    if all.is_empty() {
        return format!("            not measured yet: run `tempra bench ops --device {}`\n", d.name);
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
            c.matmul_flops_per_s / 1e12,
            of(peak.matmul_flops_per_s, 1e12, 3),
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

fn library(l: &LibraryFacts) -> String {
    let usable = if l.usable { "yes" } else { "no" };
    let place: Vec<&str> = [l.version.as_deref(), l.path.as_deref()].into_iter().flatten().collect();
    let what = match &l.problem {
        None => place.join("  "),
        Some(problem) if place.is_empty() => problem.clone(),
        Some(problem) => format!("{}: {problem}", place.join("  ")),
    };
    let optional = if l.required || l.usable { "" } else { " (optional)" };
    let mut text = format!("  {:<14} {usable:<4}{what}{optional}", l.name).trim_end().to_owned() + "\n";
    if let Some(remedy) = &l.remedy {
        text += &below(&format!("help: {remedy}"));
    }
    text.extend(l.passed_over.iter().map(|p| below(&format!("passed over: {}: {}", p.path, p.reason))));
    text
}

fn variable(v: &Variable) -> String {
    let problem = v.problem.as_deref().map(below).unwrap_or_default();
    format!("  {}={}\n{problem}", v.name, v.value)
}
