//! A fence around the backends: code outside `src/device/` asks a device what it can do, not which one it is.

use crate::rules::{code, files};

/// The variants of `Device`.
const VARIANTS: [&str; 4] = ["Cpu", "Cuda", "Wgpu", "Meta"];

/// The files outside `src/device/` that still name a variant, and how often. They may do so less often, not
/// more.
const KNOWN: &[(&str, usize)] = &[
    ("src/bench/cache.rs", 2),
    ("src/bench/ceilings/mod.rs", 6),
    ("src/bench/ceilings/nameplate.rs", 4),
    ("src/bench/measure.rs", 14),
    ("src/bench/monitor.rs", 2),
    ("src/bench/pace.rs", 6),
    ("src/bench/queue.rs", 3),
    ("src/bench/report/provenance.rs", 7),
    ("src/bench/step.rs", 6),
    ("src/cli/devices/facts.rs", 4),
    ("src/parity.rs", 1),
    ("src/train/mod.rs", 1),
    ("src/train/state.rs", 4),
];

/// How often code names a variant of `Device`.
fn named(code: &str) -> usize {
    let of = |variant: &str| {
        let name = format!("Device::{variant}");
        let goes_on = |c: char| c.is_alphanumeric() || c == '_';
        code.match_indices(&name)
            .filter(|(i, _)| !code[..*i].ends_with(goes_on) && !code[i + name.len()..].starts_with(goes_on))
            .count()
    };
    VARIANTS.iter().map(|variant| of(variant)).sum()
}

#[test]
fn backends_stay_inside_device() {
    let mut wrong = Vec::new();
    for (file, text) in files() {
        if !file.starts_with("src/") || file.starts_with("src/device/") {
            continue;
        }
        let known = KNOWN.iter().find(|(name, _)| *name == file).map_or(0, |(_, n)| *n);
        let found = named(&code(&text));
        if found > known {
            wrong.push(format!("{file} names a variant of Device {found} times, {known} before"));
        } else if found < known {
            wrong.push(format!("{file} names a variant of Device {found} times: lower the {known} in KNOWN"));
        }
    }
    let gone = KNOWN.iter().filter(|(name, _)| !files().iter().any(|(file, _)| file == name));
    wrong.extend(gone.map(|(name, _)| format!("{name} is gone: delete its line in KNOWN")));
    assert!(wrong.is_empty(), "{wrong:#?}");

    assert_eq!(named("if let Device::Cpu(_) = d { MyDevice::Cpu } else { Device::Cpus(Device::Meta) }"), 2);
}
