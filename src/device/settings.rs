//! Environment variables that change how devices work.
//!
//! A value that tempra does not know is refused: otherwise it would silently compute, or measure, something
//! else than was asked for. An empty value counts as not set.

use crate::error::{Error, Result};
use crate::suggest::nearest;
use std::ffi::OsString;
use std::path::PathBuf;

/// The values of `TEMPRA_CUDA_MATMUL`, which chooses the kernels for matmuls; see
/// [`Cuda::matmul`](super::Cuda::matmul).
pub const MATMULS: [&str; 5] = ["own", "mma", "wgmma", "cublaslt", "fastest"];

/// The values of `TEMPRA_CPU_MATMUL`, which chooses what multiplies bf16: the names of
/// [`MatmulEngine`](super::cpu::MatmulEngine)s.
pub const CPU_MATMULS: [&str; 3] = ["amx", "avx512_bf16", "widened"];

/// The names of all environment variables of tempra that this build reads.
pub const VARIABLES: &[&str] = &[
    "TEMPRA_BENCH_PLANT",
    "TEMPRA_BENCH_QUICK_CEILINGS",
    "TEMPRA_CACHE",
    "TEMPRA_CPU_MATMUL",
    "TEMPRA_CUDA_EXACT",
    "TEMPRA_CUDA_GRAPHS",
    "TEMPRA_CUDA_LIB",
    "TEMPRA_CUDA_LOSE_AFTER",
    "TEMPRA_CUDA_MEMORY",
    "TEMPRA_CUDA_MATMUL",
    "TEMPRA_CUDA_PTX",
    "TEMPRA_CUDA_TARGET",
    "TEMPRA_WGPU_CHECKED",
    "TEMPRA_WGPU_LOSE_AFTER",
    "TEMPRA_WGPU_MEMORY",
];

/// Reads a variable of the environment; tests read from a list.
type Read<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The settings of the CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSettings {
    /// `TEMPRA_CPU_MATMUL`: one of [`CPU_MATMULS`].
    pub matmul: Option<&'static str>,
}

/// The settings of CUDA devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CudaSettings {
    /// `TEMPRA_CUDA_EXACT=1`: each tensor has its own allocation.
    pub exact: bool,
    /// `TEMPRA_CUDA_PTX=1`: load PTX instead of machine code.
    pub ptx: bool,
    /// `TEMPRA_CUDA_TARGET`: compile for at most this architecture, such as 80 for compute capability 8.0.
    pub target: Option<u32>,
    /// Whether to capture training steps as CUDA graphs; `TEMPRA_CUDA_GRAPHS=0` turns this off.
    pub graphs: bool,
    /// `TEMPRA_CUDA_MATMUL`: one of [`MATMULS`].
    pub matmuls: Option<&'static str>,
    /// `TEMPRA_CUDA_MEMORY`: the limit of device memory in bytes.
    pub memory_bytes: Option<u64>,
    /// `TEMPRA_CUDA_LOSE_AFTER`: simulate a lost device after this number of graph launches.
    pub lose_after: Option<u64>,
    /// `TEMPRA_CUDA_LIB`: folders with NVRTC and cuBLASLt.
    pub folders: Vec<PathBuf>,
}

/// The settings of wgpu devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WgpuSettings {
    /// `TEMPRA_WGPU_CHECKED=1`: compile wgpu's bounds checks into kernels.
    pub checked: bool,
    /// `TEMPRA_WGPU_MEMORY`: the limit of device memory in bytes.
    pub memory_bytes: Option<u64>,
    /// `TEMPRA_WGPU_LOSE_AFTER`: simulate a lost device after this number of submissions.
    pub lose_after: Option<u64>,
}

impl CpuSettings {
    /// Reads the environment.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a value that is not known.
    pub fn read() -> Result<CpuSettings> {
        Self::of(&|name| std::env::var_os(name))
    }

    fn of(read: Read) -> Result<CpuSettings> {
        Ok(CpuSettings { matmul: word(read, "TEMPRA_CPU_MATMUL", &CPU_MATMULS)? })
    }
}

impl CudaSettings {
    /// Reads the environment.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a value that is not known, and for folders of
    /// `TEMPRA_CUDA_LIB` that do not exist.
    pub fn read() -> Result<CudaSettings> {
        Self::of(&|name| std::env::var_os(name))
    }

    fn of(read: Read) -> Result<CudaSettings> {
        Ok(CudaSettings {
            exact: flag(read, "TEMPRA_CUDA_EXACT")?.unwrap_or(false),
            ptx: flag(read, "TEMPRA_CUDA_PTX")?.unwrap_or(false),
            target: number(read, "TEMPRA_CUDA_TARGET", 75, "an architecture")?
                .map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            graphs: flag(read, "TEMPRA_CUDA_GRAPHS")?.unwrap_or(true),
            matmuls: word(read, "TEMPRA_CUDA_MATMUL", &MATMULS)?,
            memory_bytes: number(read, "TEMPRA_CUDA_MEMORY", 1, "bytes")?,
            lose_after: number(read, "TEMPRA_CUDA_LOSE_AFTER", 0, "graph launches")?,
            folders: folders(read, "TEMPRA_CUDA_LIB")?,
        })
    }
}

impl WgpuSettings {
    /// Reads the environment.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a value that is not known.
    pub fn read() -> Result<WgpuSettings> {
        Self::of(&|name| std::env::var_os(name))
    }

    fn of(read: Read) -> Result<WgpuSettings> {
        Ok(WgpuSettings {
            checked: flag(read, "TEMPRA_WGPU_CHECKED")?.unwrap_or(false),
            memory_bytes: number(read, "TEMPRA_WGPU_MEMORY", 1, "bytes")?,
            lose_after: number(read, "TEMPRA_WGPU_LOSE_AFTER", 0, "submissions")?,
        })
    }
}

/// Checks a name of [`MATMULS`].
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for another name.
pub fn matmuls(name: &str) -> Result<&'static str> {
    MATMULS.into_iter().find(|known| *known == name).ok_or_else(|| {
        let e =
            Error::usage(format!("there are no matmul kernels {name:?}")).with_expected(MATMULS.join(", "));
        match nearest(name, MATMULS) {
            Some(near) => e.with_help(format!("did you mean {near:?}?")),
            None => e,
        }
    })
}

/// Whether a variable of the environment is 0 or 1; `None` if it is not set.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for another value.
pub(crate) fn flag_of(name: &str) -> Result<Option<bool>> {
    flag(&|name| std::env::var_os(name), name)
}

/// Variables in the environment that look like tempra's and that tempra does not read, each with the name
/// that was probably meant.
pub fn misspelt() -> Vec<(String, &'static str)> {
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    set.filter_map(|name| Some((meant(&name)?, name))).map(|(meant, name)| (name, meant)).collect()
}

/// The variable that a misspelt name stands for.
fn meant(name: &str) -> Option<&'static str> {
    let rest = name.strip_prefix("TEMPRA_").filter(|_| !VARIABLES.contains(&name))?;
    let known = || VARIABLES.iter().filter_map(|v| v.strip_prefix("TEMPRA_"));
    // The prefix is left out: it would make long names alike.
    let near = nearest(rest, known())?;
    VARIABLES.iter().copied().find(|v| v.strip_prefix("TEMPRA_") == Some(near))
}

/// The value of a variable, without spaces around it; `None` if it is not set or empty.
fn text(read: Read, name: &str) -> Result<Option<String>> {
    let Some(value) = read(name) else { return Ok(None) };
    match value.into_string() {
        Ok(value) => Ok(Some(value.trim().to_owned()).filter(|v| !v.is_empty())),
        Err(value) => Err(unknown(name, &value.to_string_lossy(), "text in UTF-8")),
    }
}

/// The error for a value that is not known.
pub(crate) fn unknown(name: &str, value: &str, expected: &str) -> Error {
    Error::usage(format!("the environment variable {name} has a value that tempra does not know"))
        .with_expected(expected)
        .with_found(format!("{name}={value}"))
        .with_help(format!("correct the value, or unset {name} to use the default"))
}

fn flag(read: Read, name: &str) -> Result<Option<bool>> {
    match text(read, name)?.as_deref() {
        None => Ok(None),
        Some("0") => Ok(Some(false)),
        Some("1") => Ok(Some(true)),
        Some(other) => Err(unknown(name, other, "0 or 1")),
    }
}

fn word(read: Read, name: &str, choices: &[&'static str]) -> Result<Option<&'static str>> {
    let Some(value) = text(read, name)? else { return Ok(None) };
    if let Some(choice) = choices.iter().find(|c| **c == value) {
        return Ok(Some(choice));
    }
    let e = unknown(name, &value, &choices.join(", "));
    Err(match nearest(&value, choices.iter().copied()) {
        Some(near) => e.with_help(format!("did you mean {near:?}? Unset {name} to use the default")),
        None => e,
    })
}

fn number(read: Read, name: &str, least: u64, unit: &str) -> Result<Option<u64>> {
    let Some(value) = text(read, name)? else { return Ok(None) };
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    match value.parse::<u64>() {
        Ok(n) if digits && n >= least => Ok(Some(n)),
        _ => Err(unknown(name, &value, &format!("a whole number ({unit}), at least {least}"))),
    }
}

fn folders(read: Read, name: &str) -> Result<Vec<PathBuf>> {
    let Some(value) = read(name).filter(|v| !v.is_empty()) else { return Ok(Vec::new()) };
    let all: Vec<PathBuf> = std::env::split_paths(&value).filter(|dir| !dir.as_os_str().is_empty()).collect();
    match all.iter().find(|dir| !dir.is_dir()) {
        None => Ok(all),
        // Without this a slip of the fingers would load another library than the one that the user chose.
        Some(missing) => {
            Err(Error::usage(format!("the environment variable {name} names a folder that does not exist"))
                .with_expected("folders that hold NVRTC or cuBLASLt, separated as in PATH")
                .with_found(missing.display().to_string())
                .with_help(format!("correct the folder, or unset {name}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn cuda(set: &[(&str, &str)]) -> Result<CudaSettings> {
        CudaSettings::of(&|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).into()))
    }

    #[test]
    fn values_are_read() {
        let default = CudaSettings { graphs: true, ..CudaSettings::default() };
        assert_eq!(cuda(&[]).unwrap(), default);
        assert_eq!(cuda(&[("TEMPRA_CUDA_MATMUL", ""), ("TEMPRA_CUDA_GRAPHS", " ")]).unwrap(), default);
        let all = [
            ("TEMPRA_CUDA_MATMUL", "mma"),
            ("TEMPRA_CUDA_GRAPHS", "0"),
            ("TEMPRA_CUDA_EXACT", "1"),
            ("TEMPRA_CUDA_PTX", "0"),
            ("TEMPRA_CUDA_MEMORY", "1048576"),
            ("TEMPRA_CUDA_LOSE_AFTER", "0"),
        ];
        let found = cuda(&all).unwrap();
        assert_eq!((found.matmuls, found.graphs, found.exact, found.ptx), (Some("mma"), false, true, false));
        assert_eq!((found.memory_bytes, found.lose_after), (Some(1 << 20), Some(0)));
    }

    #[test]
    fn unknown_values_are_refused_with_name_value_and_choices() {
        for (name, value, expected) in [
            ("TEMPRA_CUDA_MATMUL", "fast", "own, mma, wgmma, cublaslt, fastest"),
            ("TEMPRA_CUDA_MATMUL", "OWN", "own, mma"),
            ("TEMPRA_CUDA_GRAPHS", "off", "0 or 1"),
            ("TEMPRA_CUDA_EXACT", "true", "0 or 1"),
            ("TEMPRA_CUDA_PTX", "yes", "0 or 1"),
            ("TEMPRA_CUDA_MEMORY", "8GiB", "whole number (bytes)"),
            ("TEMPRA_CUDA_MEMORY", "0", "at least 1"),
            ("TEMPRA_CUDA_MEMORY", "-1", "whole number"),
            ("TEMPRA_CUDA_MEMORY", "+1", "whole number"),
            ("TEMPRA_CUDA_LOSE_AFTER", "soon", "graph launches"),
            ("TEMPRA_CUDA_LIB", "/nowhere/at/all", "folders"),
        ] {
            let e = cuda(&[(name, value)]).unwrap_err();
            let text = e.to_string();
            assert_eq!(e.kind(), Kind::Usage);
            assert!([name, value, expected].iter().all(|s| text.contains(s)), "{text}");
        }
        let read = |name: &str| (name == "TEMPRA_WGPU_CHECKED").then(|| OsString::from("2"));
        assert_eq!(WgpuSettings::of(&read).unwrap_err().kind(), Kind::Usage);
        let read = |name: &str| (name == "TEMPRA_CPU_MATMUL").then(|| OsString::from("AMX"));
        let e = CpuSettings::of(&read).unwrap_err();
        assert!(e.to_string().contains("amx, avx512_bf16, widened"), "{e}");
    }

    #[test]
    fn misspelt_variables_are_told_from_foreign_ones() {
        assert_eq!(meant("TEMPRA_CUDA_GRAPH"), Some("TEMPRA_CUDA_GRAPHS"));
        assert_eq!(meant("TEMPRA_CUDA_MATMULS"), Some("TEMPRA_CUDA_MATMUL"));
        for foreign in
            ["TEMPRA_CUDA_GRAPHS", "TEMPRA_REQUIRE", "TEMPRA_RUNNER", "TEMPRA_TEST_MODEL", "CUDA_HOME"]
        {
            assert_eq!(meant(foreign), None, "{foreign}");
        }
    }
}
