//! The size of a device's last-level cache.

use crate::device::Device;
use std::collections::BTreeMap;
use std::path::Path;

/// The last-level cache, which all sets of operands together must exceed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LastLevelCache {
    /// Its size in bytes.
    pub bytes: u64,
    /// Where the size is from; "assumed: ..." if the device does not tell it.
    pub source: String,
}

/// The size that is assumed for a GPU that does not tell its own, in bytes. wgpu has no query for it. The
/// largest caches of GPUs that are sold for desktops are 128 MiB (Infinity Cache of the Radeon RX 6900 XT)
/// and 96 MiB (L2 of the GeForce RTX 5090, L3 of the Radeon RX 7900 XTX). Only accelerators for servers have
/// more: 256 MiB in the Instinct MI300X.
const GPU_BOUND: u64 = 128 << 20;

/// The size that is assumed for a CPU that does not tell its own, in bytes.
const CPU_GUESS: u64 = 32 << 20;

impl LastLevelCache {
    /// The cache of a device.
    pub fn of(device: &Device) -> LastLevelCache {
        let assumed = |bytes: u64, why: &str| LastLevelCache { bytes, source: format!("assumed: {why}") };
        match device {
            Device::Cuda(gpu) => match gpu.hardware().l2_bytes {
                Some(bytes) => {
                    LastLevelCache { bytes, source: "L2 cache size from the CUDA driver".to_owned() }
                }
                None => assumed(GPU_BOUND, "the CUDA driver does not tell the size of the L2 cache"),
            },
            Device::Wgpu(gpu) if !gpu.abilities().software => {
                assumed(GPU_BOUND, "wgpu has no query for the size; few GPUs have a larger cache")
            }
            _ => match of_system(Path::new("/sys/devices/system/cpu"), &allowed()) {
                Some(bytes) => LastLevelCache {
                    bytes,
                    source: "last-level caches of all CPUs, from the system".to_owned(),
                },
                None => assumed(CPU_GUESS, "the system does not tell the size of the CPU's caches"),
            },
        }
    }
}

/// The CPUs that the process may run on; empty if the system does not tell, which means all.
fn allowed() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    numbers(list.unwrap_or_default())
}

/// The numbers of a list of the kernel, such as `0-3,8`.
fn numbers(list: &str) -> Vec<usize> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse::<usize>().ok()?)
    };
    list.trim().split(',').filter_map(part).flatten().collect()
}

/// The total size of the last-level caches in bytes. CPUs with several chiplets have several of them.
fn of_system(root: &Path, allowed: &[usize]) -> Option<u64> {
    // By level: sizes by the list of CPUs that share the cache.
    let mut levels: BTreeMap<u32, BTreeMap<String, u64>> = BTreeMap::new();
    for entry in std::fs::read_dir(root).ok()?.flatten() {
        let name = entry.file_name();
        let cpu = name.to_str().and_then(|name| name.strip_prefix("cpu")?.parse::<usize>().ok());
        if cpu.is_none_or(|cpu| !allowed.is_empty() && !allowed.contains(&cpu)) {
            continue;
        }
        for index in 0..8 {
            let read = |file: &str| {
                let path = entry.path().join(format!("cache/index{index}/{file}"));
                std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
            };
            let found = (
                read("level").and_then(|level| level.parse().ok()),
                read("size").and_then(|size| bytes(&size)),
            );
            if let ((Some(level), Some(size)), Some(shared)) = (found, read("shared_cpu_list"))
                && read("type").is_none_or(|kind| kind != "Instruction")
            {
                levels.entry(level).or_default().insert(shared, size);
            }
        }
    }
    let (_, last) = levels.pop_last()?;
    Some(last.values().sum()).filter(|&bytes| bytes > 0)
}

/// A size of sysfs, such as `32768K`.
fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = match text.strip_suffix('K') {
        Some(number) => (number, 10),
        None => text.strip_suffix('M').map_or((text, 0), |number| (number, 20)),
    };
    number.parse::<u64>().ok()?.checked_shl(shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four CPUs in two chiplets: each CPU has an L1 and an L2 cache, each chiplet an L3 cache of 32 MiB.
    #[test]
    fn all_last_level_caches_count_once() {
        let root = tempfile::tempdir().unwrap();
        let put = |cpu: usize, index: usize, level: u32, kind: &str, size: &str, shared: &str| {
            let dir = root.path().join(format!("cpu{cpu}/cache/index{index}"));
            std::fs::create_dir_all(&dir).unwrap();
            for (file, text) in [
                ("level", level.to_string().as_str()),
                ("type", kind),
                ("size", size),
                ("shared_cpu_list", shared),
            ] {
                std::fs::write(dir.join(file), format!("{text}\n")).unwrap();
            }
        };
        for cpu in 0..4 {
            let own = cpu.to_string();
            put(cpu, 0, 1, "Data", "32K", &own);
            put(cpu, 1, 1, "Instruction", "32K", &own);
            put(cpu, 2, 2, "Unified", "1024K", &own);
            put(cpu, 3, 3, "Unified", "32768K", if cpu < 2 { "0-1" } else { "2-3" });
        }
        std::fs::create_dir_all(root.path().join("cpufreq")).unwrap();
        assert_eq!(of_system(root.path(), &[]), Some(64 << 20));
        // A process that may use one CPU reaches only the cache of its chiplet.
        assert_eq!(of_system(root.path(), &[3]), Some(32 << 20));
        assert_eq!(of_system(&root.path().join("nowhere"), &[]), None);
        assert_eq!(of_system(&root.path().join("cpufreq"), &[]), None);
    }

    #[test]
    fn lists_and_sizes_of_the_kernel_are_read() {
        assert_eq!(numbers("\t0-2,8\n"), [0, 1, 2, 8]);
        assert_eq!(numbers(""), [0usize; 0]);
        assert_eq!(
            (bytes("48K"), bytes("2M"), bytes("512"), bytes("x")),
            (Some(48 << 10), Some(2 << 20), Some(512), None)
        );
    }
}
