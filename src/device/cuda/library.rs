//! The libraries that CUDA needs, found before the first call: `cudarc` panics where one is missing.
//!
//! The driver comes with the system. NVRTC comes with a toolkit, or as a wheel from PyPI, which PyTorch brings as well; a
//! wheel's folder is not on the loader's path, so its libraries are loaded by their full names first, and `cudarc` then
//! finds them by their short ones.
#![allow(unsafe_code, reason = "loads shared libraries")]

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Whether a driver is there.
pub(super) fn driver() -> Result<()> {
    // SAFETY: opens and closes the library; its initialisers are the vendor's.
    if unsafe { cudarc::driver::sys::is_culib_present() } {
        return Ok(());
    }
    Err(Error::device("no NVIDIA driver was found")
        .expected("libcuda.so.1 (nvcuda.dll) on the loader's path")
        .hint("install the NVIDIA driver and see that `nvidia-smi` lists the card; or run with --device cpu or --device wgpu"))
}

/// NVRTC, which compiles the kernels. Asked for once; the answer stays.
pub(super) fn nvrtc() -> Result<()> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let there = *FOUND.get_or_init(|| {
        // SAFETY: opens and closes the library; its initialisers are the vendor's.
        let present = || unsafe { cudarc::nvrtc::sys::is_culib_present() };
        // A folder that somebody named comes before what the system has.
        let named = folders().into_iter().take_while(|(_, named)| *named).any(|(dir, _)| preload(&dir));
        named || present() || folders().into_iter().any(|(dir, _)| preload(&dir) && present())
    });
    if there {
        return Ok(());
    }
    let searched: Vec<String> = folders().iter().map(|(dir, _)| dir.display().to_string()).collect();
    Err(Error::device("NVRTC, which compiles the CUDA kernels, was not found")
        .expected("libnvrtc.so.13 or libnvrtc.so.12")
        .found(match searched.len() {
            0 => "none on the loader's path, and neither a toolkit nor Python's packages in the usual places".to_owned(),
            _ => format!("none on the loader's path, nor in {}", searched.join(", ")),
        })
        .hint("pip install nvidia-cuda-nvrtc (PyTorch's environments have it already), or install a CUDA toolkit; TEMPRA_CUDA_LIB names another folder"))
}

/// Whether cuBLASLt is there, which products can be left to. Asked for once; the answer stays.
pub(super) fn cublaslt() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: opens and closes the library; its initialisers are the vendor's.
        let present = || unsafe { cudarc::cublaslt::sys::is_culib_present() };
        let load = |(dir, _): (PathBuf, bool)| {
            let mut found = false;
            for path in entries(&dir) {
                found |= (named(&path, "libcublasLt.so.") || named(&path, "cublasLt64")) && open(&path);
            }
            found && present()
        };
        present() || folders().into_iter().any(load)
    })
}

/// Folders that may hold NVRTC, and whether somebody named them for this.
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
    // An environment of Python's: the one that is active, and those that are on the path.
    let mut roots: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|n| var(n)).map(PathBuf::from).collect();
    if let Some(path) = var("PATH") {
        roots.extend(std::env::split_paths(&path).filter_map(|bin| {
            let python = bin.join("python3").exists() || bin.join("python.exe").exists();
            python.then(|| bin.parent().map(Path::to_owned)).flatten()
        }));
    }
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

/// Loads NVRTC from a folder, with the part that it opens by name itself. Says whether it was there.
fn preload(dir: &Path) -> bool {
    let mut found = false;
    for start in ["libnvrtc-builtins.so.", "nvrtc-builtins64", "libnvrtc.so.", "nvrtc64"] {
        for path in
            entries(dir).into_iter().filter(|p| named(p, start) && !p.to_string_lossy().contains(".alt."))
        {
            found |= open(&path) && !start.contains("builtins");
        }
    }
    found
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
