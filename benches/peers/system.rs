//! What a benchmark reads from the system, for programs in this folder: see peer.rs.

use serde_json::{Value, json};

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// What stands after a key and a colon.
fn field(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|l| l.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn kib(text: &str, key: &str) -> Option<u64> {
    field(text, key)?.trim_end_matches("kB").trim().parse::<u64>().ok().map(|k| k << 10)
}

pub fn machine() -> Value {
    json!({
        "cpu": field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        "cpus": std::thread::available_parallelism().map_or(1, usize::from),
        "memory_bytes": kib(&read("/proc/meminfo"), "MemTotal"),
        "os": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "load_before": load(), "load_after": null,
    })
}

/// The load average of the last minute, where the system tells.
pub fn load() -> Value {
    json!(read("/proc/loadavg").split(' ').next().and_then(|v| v.parse::<f64>().ok()))
}

pub fn cache_bytes() -> usize {
    let size = |i: u32| {
        let text = read(&format!("/sys/devices/system/cpu/cpu0/cache/index{i}/size"));
        text.trim().trim_end_matches('K').parse::<usize>().ok().map(|k| k << 10)
    };
    (0..5).filter_map(size).max().unwrap_or(32 << 20)
}

/// The most memory that the process has held since [`forget_peak`], where the system tells.
pub fn peak() -> Option<u64> {
    kib(&read("/proc/self/status"), "VmHWM")
}

/// Linux counts the most memory of a process anew from now on. Elsewhere there is nothing to forget.
pub fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
