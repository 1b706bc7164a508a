//! How the measurements of a device were made: program, command line, settings, environment, libraries and
//! the GPU's state.

use super::GpuState;
use crate::bench::measure::Effort;
use crate::device::Device;
use crate::device::wgpu::TileLayout;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Environment variables that can change what is measured: those with these beginnings, and these.
const PREFIXES: [&str; 7] = ["TEMPRA_", "CUDA_", "VK_", "WGPU_", "MESA_", "LP_", "EMULATOR_"];
const NAMES: [&str; 3] = ["RAYON_NUM_THREADS", "NVIDIA_TF32_OVERRIDE", "NVIDIA_VISIBLE_DEVICES"];

/// Variables of tempra that say where things are kept, or that belong to its tests: they change no
/// measurement.
const OTHERS: [&str; 6] = [
    "TEMPRA_CACHE",
    "TEMPRA_COMMIT",
    "TEMPRA_PYTHON",
    "TEMPRA_REQUIRE",
    "TEMPRA_RUNNER",
    "TEMPRA_TEST_MODEL",
];

/// How the measurements of a device were made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The time of the first measurement on this device, in seconds since 1970.
    pub begun: u64,
    /// The version of tempra.
    pub version: String,
    /// The commit that tempra was built from, if known.
    pub commit: Option<String>,
    /// Whether the build was made without debug assertions, as `cargo build --release` does. Times of other
    /// builds say little.
    pub release: bool,
    /// The optional features of the build.
    pub features: Vec<String>,
    /// The command line. The program is written without its folder, and the home folder as `~`.
    pub command: Vec<String>,
    /// The settings of the measurement.
    pub settings: BenchSettings,
    /// The environment variables in force that can change what is measured; the home folder is written as
    /// `~`.
    pub environment: BTreeMap<String, String>,
    /// What computes matmuls.
    pub matmul: String,
    /// The compute capability of an NVIDIA GPU, such as `9.0`.
    pub compute_capability: Option<String>,
    /// The version of NVRTC, which compiles the CUDA kernels.
    pub nvrtc: Option<String>,
    /// The version of cuBLASLt, if tempra may use it.
    pub cublaslt: Option<String>,
    /// The source of the GPU's clocks: `NVML` and its version, or why there is none. `None` if it is not an
    /// NVIDIA GPU.
    pub nvml: Option<String>,
    /// The state of an NVIDIA GPU before the first measurement.
    pub gpu_before: Option<GpuState>,
    /// The state of an NVIDIA GPU after the last measurement.
    pub gpu_after: Option<GpuState>,
}

/// The settings of a measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BenchSettings {
    /// The number of CPU threads that compute; `None` on a GPU.
    pub threads: Option<usize>,
    /// The time for each pass, in seconds.
    pub seconds: f64,
    /// The smallest number of samples.
    pub samples: usize,
    /// The type to compute in.
    pub dtype: String,
}

impl Provenance {
    /// What is known before anything is measured.
    pub fn of(device: &Device, effort: &Effort) -> Provenance {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let caps = device.caps();
        let threads = if let Device::Cpu(cpu) = device { Some(cpu.threads()) } else { None };
        let mut found = Provenance {
            begun: now.map_or(0, |d| d.as_secs()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: crate::COMMIT.map(str::to_owned),
            release: cfg!(not(debug_assertions)),
            features: crate::FEATURES.iter().filter(|f| f.1).map(|f| f.0.to_owned()).collect(),
            command: command(
                std::env::args_os().map(|a| a.to_string_lossy().into_owned()),
                home().as_deref(),
            ),
            settings: BenchSettings {
                threads,
                seconds: effort.seconds,
                samples: effort.samples,
                dtype: format!("{:?}", caps.compute).to_lowercase(),
            },
            environment: environment(
                std::env::vars_os().map(|(k, v)| (k.to_string_lossy().into(), v.to_string_lossy().into())),
                home().as_deref(),
            ),
            matmul: matmul(device),
            ..Provenance::default()
        };
        if let Device::Cuda(gpu) = device {
            let capability = gpu.capability();
            found.compute_capability = Some(format!("{}.{}", capability / 10, capability % 10));
            found.nvrtc = Some(gpu.versions()[1].clone());
            let version = |v: usize| format!("{}.{}.{}", v / 10_000, v / 100 % 100, v % 100);
            found.cublaslt = gpu.blas_version().map(version);
        }
        found
    }
}

/// What computes matmuls on a device. On CUDA the kernels of each row tell which of several ways was chosen.
fn matmul(device: &Device) -> String {
    match device {
        Device::Cpu(cpu) => format!("tempra, {}", cpu.instructions()),
        Device::Cuda(gpu) if gpu.blas_version().is_some() => match gpu.matmul() {
            Some("cublaslt") => "cuBLASLt".to_owned(),
            _ => "tempra's kernels or cuBLASLt, whichever is faster".to_owned(),
        },
        Device::Cuda(_) => "tempra's kernels".to_owned(),
        Device::Wgpu(gpu) => match (gpu.half(), gpu.tiles()) {
            (Some((size, _)), _) => {
                format!("tempra's shader, cooperative matrices of {size} x {size} in f16")
            }
            (None, TileLayout::Workgroup) => "tempra's shader, f32".to_owned(),
            (None, TileLayout::Rows) => "tempra's shader for software drivers, f32".to_owned(),
        },
        Device::Meta(_) => String::new(),
    }
}

fn home() -> Option<String> {
    let home = std::env::var("HOME").or_else(|_| std::env::var("USERPROFILE")).ok()?;
    let home = home.trim_end_matches(['/', '\\']);
    (!home.is_empty()).then(|| home.to_owned())
}

/// A text in which the home folder is `~`, also within a list of paths.
fn without_home(text: &str, home: Option<&str>) -> String {
    let Some(home) = home else { return text.to_owned() };
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(home) {
        let (before, after) = (&rest[..at], &rest[at + home.len()..]);
        // A whole path component: not `/home/annabel` for `/home/anna`.
        let begins = !before.ends_with(|c: char| c.is_alphanumeric() || "_-./".contains(c));
        let ends = !after.starts_with(|c: char| c.is_alphanumeric() || "_-.".contains(c));
        out += before;
        out += if begins && ends { "~" } else { home };
        rest = after;
    }
    out + rest
}

/// A command line without the folders of the program and of the user.
fn command(mut args: impl Iterator<Item = String>, home: Option<&str>) -> Vec<String> {
    let program = args.next().unwrap_or_default();
    let name = Path::new(&program).file_name().map(|n| n.to_string_lossy().into_owned());
    std::iter::once(name.unwrap_or(program)).chain(args.map(|arg| without_home(&arg, home))).collect()
}

fn environment(all: impl Iterator<Item = (String, String)>, home: Option<&str>) -> BTreeMap<String, String> {
    let begins = |name: &str| PREFIXES.iter().any(|p| name.starts_with(p));
    let matters = |name: &str| (begins(name) && !OTHERS.contains(&name)) || NAMES.contains(&name);
    all.filter(|(name, _)| matters(name)).map(|(name, value)| (name, without_home(&value, home))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_folder_is_not_told() {
        let home = Some("/home/anna");
        for (text, expected) in [
            ("/home/anna/models", "~/models"),
            ("--html=/home/anna/page.html", "--html=~/page.html"),
            ("/opt/cuda:/home/anna/lib:/home/anna", "/opt/cuda:~/lib:~"),
            ("/home/annabel/x", "/home/annabel/x"),
            ("/mnt/home/anna/x", "/mnt/home/anna/x"),
            ("cpu,wgpu", "cpu,wgpu"),
        ] {
            assert_eq!(without_home(text, home), expected);
        }
        let line = ["/home/anna/bin/tempra", "bench", "--shape-of", "/home/anna/m"].map(str::to_owned);
        assert_eq!(command(line.into_iter(), home), ["tempra", "bench", "--shape-of", "~/m"]);
        assert_eq!(without_home("/home/anna", None), "/home/anna");
    }

    #[test]
    fn only_variables_that_matter_are_told() {
        let all = [
            ("TEMPRA_CUDA_MATMUL", "own"),
            ("CUDA_VISIBLE_DEVICES", "1"),
            ("VK_ICD_FILENAMES", "/home/anna/lvp.json"),
            ("WGPU_BACKEND", "vulkan"),
            ("RAYON_NUM_THREADS", "2"),
            ("TEMPRA_CACHE", "/mnt/cache"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("PATH", "/bin"),
        ];
        let all = all.map(|(k, v)| (k.to_owned(), v.to_owned()));
        let found = environment(all.into_iter(), Some("/home/anna"));
        let found: Vec<(&str, &str)> = found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expected = [
            ("CUDA_VISIBLE_DEVICES", "1"),
            ("RAYON_NUM_THREADS", "2"),
            ("TEMPRA_CUDA_MATMUL", "own"),
            ("VK_ICD_FILENAMES", "~/lvp.json"),
            ("WGPU_BACKEND", "vulkan"),
        ];
        assert_eq!(found, expected);
    }
}
