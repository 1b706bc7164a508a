//! What the machine code takes, held against a table: a spill or a jump in registers shows in review.
//! `EMULATOR_UPDATE=1 cargo test -p emulator fixed` writes the table anew; only NVRTC 13.0 is held against
//! it.

use crate::collection::COLLECTION;
use crate::nvrtc;
use emulator::cubin::resources;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::process::Command;

const OPTIONS: [&str; 3] = [
    "--ptxas-options=-v",
    "--ptxas-options=--warn-on-spills",
    "--ptxas-options=--warn-on-local-memory-usage",
];

/// Instructions that a kernel's machine code has to have, where nvdisasm is installed: (kernel, architecture,
/// names).
const INSTRUCTIONS: [(&str, &str, &[&str]); 3] = [
    ("product", "sm_80", &["HMMA", "LDGSTS", "LDSM"]),
    ("attention", "sm_80", &["HMMA", "LDGSTS", "LDSM", "MUFU.EX2"]),
    ("hopper", "sm_90a", &["HGMMA", "UTMALDG", "UTMASTG", "SYNCS"]),
];

/// Bytes of stack and of spills of each kernel, from ptxas' report.
fn stacks(log: &str) -> BTreeMap<String, (u64, u64)> {
    let (mut kernel, mut all) = (String::new(), BTreeMap::new());
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or_default().to_owned();
        } else if let Some((_, rest)) = line.split_once("Function properties for ") {
            kernel = rest.trim().to_owned();
        } else if line.contains("bytes stack frame") {
            let numbers: Vec<u64> = line.split_whitespace().filter_map(|w| w.parse().ok()).collect();
            all.insert(kernel.clone(), (numbers[0], numbers[1] + numbers[2]));
        }
    }
    all
}

#[test]
fn machine_code_takes_what_the_table_says() {
    let Some(n) = nvrtc::all().iter().find(|n| n.name == "13.0") else { return };
    let mut table = String::new();
    let files: BTreeSet<_> = COLLECTION.iter().map(|e| (e.file, e.source, e.archs)).collect();
    for (file, source, archs) in files {
        for arch in archs {
            let arch = arch.replace("compute", "sm");
            let (cubin, log) = n.build(file, source, &arch, &OPTIONS).unwrap();
            let stacks = stacks(&log);
            for r in resources(&cubin).unwrap() {
                let (stack, spills) = stacks.get(&r.kernel).copied().unwrap_or_default();
                writeln!(
                    table,
                    "{:<20} {arch:<7} registers {:>3}  shared {:>6}  stack {stack:>3}  spills {spills}",
                    r.kernel, r.registers, r.shared
                )
                .unwrap();
            }
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/resources.txt");
    if std::env::var_os("EMULATOR_UPDATE").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap();
    let differ = table.lines().zip(expected.lines()).find(|(a, b)| a != b);
    assert!(differ.is_none() && table.len() == expected.len(), "{differ:?}\n{table}");
}

#[test]
fn machine_code_has_the_instructions_it_should() {
    let Some(n) = nvrtc::all().first() else { return };
    if Command::new("nvdisasm").arg("--version").output().is_err() {
        eprintln!("not here: nvdisasm");
        return;
    }
    for (name, arch, expected) in INSTRUCTIONS {
        let e = COLLECTION.iter().find(|e| e.name == name).unwrap();
        let (cubin, _) = n.build(e.file, e.source, arch, &[]).unwrap();
        let path = std::env::temp_dir().join(format!("emulator-{}-{name}.cubin", std::process::id()));
        std::fs::write(&path, cubin).unwrap();
        let out = Command::new("nvdisasm").arg(&path).output().unwrap();
        std::fs::remove_file(&path).unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        for instruction in expected {
            assert!(text.contains(instruction), "{name} for {arch} has no {instruction}");
        }
    }
}
