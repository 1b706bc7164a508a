//! Finds the libraries that CUDA needs before the first call, because `cudarc` panics if one is missing.
//!
//! The driver is part of the system. NVRTC comes with a CUDA toolkit or as a Python wheel, which PyTorch installs too. If there are
//! several, tempra loads the newest NVRTC that the driver supports. cuBLASLt is in the same folder. A wheel's folder is not on the
//! loader's path, so cuBLASLt is loaded by its full path first; then `cudarc` finds it by its name.
#![allow(unsafe_code, reason = "loads shared libraries")]

use super::nvrtc::Nvrtc;
use crate::error::{Error, Result};
use cudarc::driver::sys::{CUevent, CUresult};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Checks that there is an NVIDIA driver.
pub(super) fn driver() -> Result<()> {
    // SAFETY: opens and closes the library; its initialisers are the vendor's.
    if unsafe { cudarc::driver::sys::is_culib_present() } {
        return Ok(());
    }
    Err(Error::device("no NVIDIA driver was found")
        .with_expected("libcuda.so.1 (nvcuda.dll) on the loader's path")
        .with_help(
            "install the NVIDIA driver and check that `nvidia-smi` lists the GPU, or run with --device cpu",
        ))
}

/// The time in milliseconds between two events.
pub(super) type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;

/// The older driver function for it, which `cudarc` does not bind.
pub(super) fn elapsed() -> Option<Elapsed> {
    ["libcuda.so.1", "libcuda.so", "nvcuda.dll"].into_iter().find_map(|name| {
        // SAFETY: the driver is loaded already and stays so; the function has been of this type since the first CUDA.
        unsafe { libloading::Library::new(name).ok()?.get(b"cuEventElapsedTime\0").ok().map(|f| *f) }
    })
}

/// A function of the loaded driver that not every driver has.
///
/// # Safety
/// `F` is the type of the function with this name.
pub(super) unsafe fn function<F: Copy>(name: &[u8]) -> Option<F> {
    ["libcuda.so.1", "libcuda.so", "nvcuda.dll"].into_iter().find_map(|file| {
        // SAFETY: the driver is loaded already and stays so; the type is the caller's word.
        unsafe { libloading::Library::new(file).ok()?.get::<F>(name).ok().map(|f| *f) }
    })
}

/// NVRTC, which compiles the kernels, for a driver with this major version of CUDA. Searched once per process.
pub(super) fn nvrtc(driver: i32) -> Result<&'static Nvrtc> {
    static FOUND: OnceLock<Option<Nvrtc>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let folders = folders();
        let of = |only_named: bool| -> Vec<PathBuf> {
            folders
                .iter()
                .filter(|(_, named)| *named == only_named)
                .flat_map(|(dir, _)| entries(dir))
                .collect()
        };
        // Folders that the user named come before those of the system.
        let loaders = ["libnvrtc.so.13", "libnvrtc.so.12", "nvrtc64_130_0.dll", "nvrtc64_120_0.dll"];
        let rest = [loaders.map(PathBuf::from).to_vec(), of(false)].concat();
        let candidates = [suitable(of(true), driver), suitable(rest, driver)].concat();
        candidates.iter().find_map(|path| {
            builtins(path);
            Nvrtc::open(path).filter(|n| (OLDEST_NVRTC..=driver).contains(&n.version.0))
        })
    });
    if let Some(found) = found {
        return Ok(found);
    }
    let searched: Vec<String> = folders().iter().map(|(dir, _)| dir.display().to_string()).collect();
    let there: Vec<String> = folders()
        .iter()
        .flat_map(|(dir, _)| entries(dir))
        .filter(|path| major(path).is_some())
        .map(|path| path.display().to_string())
        .collect();
    let wheel = if driver >= 13 { "nvidia-cuda-nvrtc" } else { "nvidia-cuda-nvrtc-cu12" };
    Err(Error::device("no NVRTC that the driver supports was found; NVRTC compiles the CUDA kernels")
        .with_expected(match driver {
            13.. => format!("libnvrtc.so.12 to libnvrtc.so.{driver}: the driver is for CUDA {driver}"),
            _ => format!("libnvrtc.so.{driver}: the driver is for CUDA {driver}"),
        })
        .with_found(match (there.len(), searched.len()) {
            (1.., _) => format!("only {}", there.join(", ")),
            (_, 0) => "none on the loader's path, no CUDA toolkit and no Python package".to_owned(),
            _ => format!("none on the loader's path, and none in {}", searched.join(", ")),
        })
        .with_help(format!(
            "run `pip install {wheel}`, install a CUDA toolkit, or name a folder in TEMPRA_CUDA_LIB (an environment with PyTorch has NVRTC)"
        )))
}

/// The oldest NVRTC that supports the kernels: CUDA 12.
const OLDEST_NVRTC: i32 = 12;

/// The major version in the name of an NVRTC library: libnvrtc.so.13, libnvrtc.so.12.8.93, nvrtc64_120_0.dll.
fn major(path: &Path) -> Option<i32> {
    let name = path.file_name()?.to_str()?;
    let digits = |s: &str| -> String { s.chars().take_while(char::is_ascii_digit).collect() };
    if name.contains(".alt.") {
        return None;
    }
    match (name.strip_prefix("libnvrtc.so."), name.strip_prefix("nvrtc64_")) {
        (Some(rest), _) => digits(rest).parse().ok(),
        // Major and minor without a point between them.
        (_, Some(rest)) if name.ends_with(".dll") => Some(digits(rest).parse::<i32>().ok()? / 10),
        _ => None,
    }
}

/// The libraries that a driver of this version supports, by their names; the newest first, otherwise in the given order.
fn suitable(paths: Vec<PathBuf>, driver: i32) -> Vec<PathBuf> {
    let fits = |path: &PathBuf| major(path).filter(|m| (OLDEST_NVRTC..=driver).contains(m));
    let mut all: Vec<(i32, PathBuf)> = paths.into_iter().filter_map(|p| Some((fits(&p)?, p))).collect();
    all.sort_by_key(|(major, _)| -major);
    all.into_iter().map(|(_, path)| path).collect()
}

/// Loads the libraries that an NVRTC opens by name, from its own folder.
fn builtins(nvrtc: &Path) {
    let beside = nvrtc.parent().map(entries).unwrap_or_default();
    for path in beside {
        let builtin = named(&path, "libnvrtc-builtins.so.") || named(&path, "nvrtc-builtins64");
        if builtin && !path.to_string_lossy().contains(".alt.") {
            open(&path);
        }
    }
}

/// Whether cuBLASLt is available for matmuls. Searched once per process.
pub(super) fn cublaslt() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: opens and closes the library; its initialisers are the vendor's.
        let present = || unsafe { cudarc::cublaslt::sys::is_culib_present() };
        let load = |(dir, _): &(PathBuf, bool)| {
            let mut found = false;
            for path in entries(dir) {
                found |= (named(&path, "libcublasLt.so.") || named(&path, "cublasLt64")) && open(&path);
            }
            found && present()
        };
        let folders = folders();
        // Folders that the user named come before those of the system.
        folders.iter().filter(|f| f.1).any(load) || present() || folders.iter().any(load)
    })
}

/// Folders that may hold NVRTC or cuBLASLt, and whether the user named them with `TEMPRA_CUDA_LIB`.
fn folders() -> Vec<(PathBuf, bool)> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    let mut all: Vec<(PathBuf, bool)> = Vec::new();
    if let Some(dirs) = var("TEMPRA_CUDA_LIB") {
        all.extend(std::env::split_paths(&dirs).map(|dir| (dir, true)));
    }
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(root) = var(name).map(PathBuf::from) {
            all.extend(["lib64", "lib", "bin"].map(|d| (root.join(d), false)));
        }
    }
    all.push(("/usr/local/cuda/lib64".into(), false));
    // Python environments: the active one, and those on the path.
    let mut roots: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|n| var(n)).map(PathBuf::from).collect();
    if let Some(path) = var("PATH") {
        roots.extend(std::env::split_paths(&path).filter_map(|bin| {
            let python = bin.join("python3").exists() || bin.join("python.exe").exists();
            python.then(|| bin.parent().map(Path::to_owned)).flatten()
        }));
    }
    // Where pip installs to without an environment.
    roots.push("/usr/local".into());
    roots.extend(var("HOME").map(|home| PathBuf::from(home).join(".local")));
    for root in roots {
        let mut sites = vec![root.join("Lib/site-packages")];
        for lib in entries(&root.join("lib")).into_iter().filter(|p| named(p, "python3")) {
            sites.extend([lib.join("site-packages"), lib.join("dist-packages")]);
        }
        for site in sites {
            for place in
                ["cu13/lib", "cuda_nvrtc/lib", "cublas/lib", "cu13/bin", "cuda_nvrtc/bin", "cublas/bin"]
            {
                all.push((site.join("nvidia").join(place), false));
            }
        }
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|(dir, named)| (*named || dir.is_dir()) && seen.insert(dir.clone()));
    all
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    all.sort();
    all
}

fn named(path: &Path, start: &str) -> bool {
    path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(start))
}

#[cfg(unix)]
fn open(path: &Path) -> bool {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: its initialisers are the vendor's; it stays loaded for good.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map(std::mem::forget).is_ok()
}

#[cfg(not(unix))]
fn open(path: &Path) -> bool {
    // SAFETY: its initialisers are the vendor's; it stays loaded for good.
    unsafe { libloading::Library::new(path) }.map(std::mem::forget).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_that_the_driver_supports_comes_first() {
        let paths = [
            "a/libnvrtc.so.11.2",
            "a/libnvrtc.so.12",
            "a/libnvrtc.alt.so.13",
            "b/libnvrtc.so.13",
            "b/libnvrtc-builtins.so.13.0",
            "c/libnvrtc.so.12.8.93",
            "d/nvrtc64_130_0.dll",
            "d/nvrtc64_130_0.alt.dll",
            "e/libnvrtc.so",
            "f/libnvrtc.so.14",
        ];
        let of = |driver| -> Vec<String> {
            let all = suitable(paths.map(PathBuf::from).to_vec(), driver);
            all.iter().map(|p| p.display().to_string()).collect()
        };
        let twelve = ["a/libnvrtc.so.12", "c/libnvrtc.so.12.8.93"];
        assert_eq!(of(12), twelve);
        assert_eq!(of(13), [&["b/libnvrtc.so.13", "d/nvrtc64_130_0.dll"], &twelve[..]].concat());
        assert!(of(11).is_empty());
    }
}
