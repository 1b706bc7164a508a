//! Finds NVRTC and cuBLASLt before the first call, because `cudarc` panics if a library or one of its
//! functions is missing.
//!
//! NVRTC comes with a CUDA toolkit or as a Python wheel, which PyTorch installs too. If there are several,
//! tempra loads the newest that the driver supports and that can compile; files that it passes over are
//! listed with the reason. cuBLASLt is in the same folder. A wheel's folder is not on the loader's path, so
//! cuBLASLt is loaded by its full path first; then `cudarc` finds it by its name.
#![allow(unsafe_code, reason = "loads shared libraries")]

use super::nvml::Nvml;
use super::nvrtc::Nvrtc;
use crate::device::library::{LibraryFacts, PassedOver, file_of, is_absent, open_for_good};
use crate::error::{Error, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The oldest NVRTC that supports the kernels: CUDA 12.
const OLDEST_NVRTC: i32 = 12;

/// Why a file with NVRTC cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Flaw {
    /// It is for another major version of CUDA than the driver.
    Generation,
    /// It cannot compile, because its library libnvrtc-builtins is missing or another version.
    Builtins,
    /// It does not load, lacks functions or fails in another way.
    Broken,
}

/// What a search for NVRTC found.
#[derive(Default)]
pub(super) struct Search {
    /// The first that works.
    chosen: Option<Nvrtc>,
    /// Those that cannot be used, in the order of the search.
    passed_over: Vec<(PassedOver, Flaw)>,
}

/// NVRTC, which compiles the kernels, for a driver with this major version of CUDA. Searched once per
/// process.
///
/// # Errors
/// [`Kind::Device`](crate::error::Kind::Device) if there is none that works.
pub(super) fn nvrtc(driver: i32) -> Result<&'static Nvrtc> {
    let search = search(Some(driver));
    search.chosen.as_ref().ok_or_else(|| refusal(driver, search, &folders()))
}

/// Searches for NVRTC once per process. Without a driver, every version from CUDA 12 on is good enough.
fn search(driver: Option<i32>) -> &'static Search {
    static FOUND: OnceLock<Search> = OnceLock::new();
    FOUND.get_or_init(|| {
        let folders = folders();
        let of = |only_named: bool| -> Vec<PathBuf> {
            let wanted = folders.iter().filter(|(_, named)| *named == only_named);
            wanted.flat_map(|(dir, _)| entries(dir)).filter(|path| major(path).is_some()).collect()
        };
        let loaders = ["libnvrtc.so.13", "libnvrtc.so.12", "nvrtc64_130_0.dll", "nvrtc64_120_0.dll"];
        // Folders that the user named come before those of the system.
        let groups = [of(true), [loaders.map(PathBuf::from).to_vec(), of(false)].concat()];
        let mut found = Search::default();
        // A toolkit has one file under several names, and the loader's file is in one of the folders.
        let mut tried = HashSet::new();
        for group in groups {
            let fits = suitable(group.clone(), driver);
            for path in group.iter().filter(|path| !fits.contains(path) && !by_loader(path)) {
                if tried.insert(path.canonicalize().unwrap_or(path.clone())) {
                    let made_for = major(path).unwrap_or_default();
                    found.pass_over(path, generation(made_for, driver), Flaw::Generation);
                }
            }
            for path in fits {
                let file =
                    if by_loader(&path) { file_of(&path.to_string_lossy()) } else { Some(path.clone()) };
                if let Some(file) = &file
                    && !tried.insert(file.canonicalize().unwrap_or(file.clone()))
                {
                    continue;
                }
                match attempt(&path, file.as_deref(), driver) {
                    Ok(nvrtc) => return Search { chosen: Some(nvrtc), ..found },
                    Err(None) => {}
                    Err(Some((reason, flaw))) => found.pass_over(&file.unwrap_or(path), reason, flaw),
                }
            }
        }
        found
    })
}

/// Whether a path is a bare name, which the loader searches for.
fn by_loader(path: &Path) -> bool {
    path.parent() == Some(Path::new(""))
}

impl Search {
    fn pass_over(&mut self, path: &Path, reason: String, flaw: Flaw) {
        self.passed_over.push((PassedOver { path: path.display().to_string(), reason }, flaw));
    }
}

/// Why an NVRTC of a major version does not suit a driver.
fn generation(made_for: i32, driver: Option<i32>) -> String {
    match driver {
        Some(driver) if made_for > driver => {
            format!("it is for CUDA {made_for}, the driver for CUDA {driver}")
        }
        _ => format!("it is for CUDA {made_for}; tempra needs CUDA {OLDEST_NVRTC} or later"),
    }
}

/// Opens an NVRTC and compiles an empty kernel with it. `file` is the file if it is known, which a bare name
/// stands for. `Err(None)` if the loader finds no file of this name.
fn attempt(
    path: &Path,
    file: Option<&Path>,
    driver: Option<i32>,
) -> std::result::Result<Nvrtc, Option<(String, Flaw)>> {
    // NVRTC opens its builtins by name, and their folder may not be on the loader's path.
    if let Some(file) = file {
        builtins(file);
    }
    let absent = |why: &str| by_loader(path) && is_absent(why, &path.to_string_lossy());
    let mut nvrtc = Nvrtc::open(path).map_err(|why| match absent(&why) {
        true => None,
        false => Some((why, Flaw::Broken)),
    })?;
    if !(OLDEST_NVRTC..=driver.unwrap_or(i32::MAX)).contains(&nvrtc.version.0) {
        return Err(Some((generation(nvrtc.version.0, driver), Flaw::Generation)));
    }
    nvrtc.trial().map_err(|why| {
        let flaw = if why.to_lowercase().contains("builtin") { Flaw::Builtins } else { Flaw::Broken };
        Some((format!("it cannot compile an empty kernel: {why}"), flaw))
    })?;
    nvrtc.path = file.map_or(nvrtc.path, Path::to_owned);
    Ok(nvrtc)
}

/// The package with NVRTC for a driver of this major version.
fn wheel(driver: i32) -> &'static str {
    if driver >= 13 { "nvidia-cuda-nvrtc" } else { "nvidia-cuda-nvrtc-cu12" }
}

/// The error for a search that found no NVRTC that works.
fn refusal(driver: i32, search: &Search, folders: &[(PathBuf, bool)]) -> Error {
    let with = |flaw: Flaw| search.passed_over.iter().filter(move |(_, f)| *f == flaw).map(|(file, _)| file);
    let listed = |files: &mut dyn Iterator<Item = &PassedOver>| {
        files.map(|f| format!("{}: {}", f.path, f.reason)).collect::<Vec<_>>().join("; ")
    };
    let wheel = wheel(driver);
    let expected = match driver {
        13.. => {
            format!("libnvrtc.so.{OLDEST_NVRTC} to libnvrtc.so.{driver}: the driver is for CUDA {driver}")
        }
        _ => format!("libnvrtc.so.{driver}: the driver is for CUDA {driver}"),
    };
    if with(Flaw::Builtins).next().is_some() {
        return Error::device("NVRTC cannot compile: its library libnvrtc-builtins is missing or has another version")
            .with_found(listed(&mut with(Flaw::Builtins)))
            .with_help(format!(
                "install NVRTC and its builtins together: `pip install --force-reinstall {wheel}`; both files must be in one folder"
            ));
    }
    if with(Flaw::Broken).next().is_some() {
        return Error::device("NVRTC, which compiles the CUDA kernels, does not work")
            .with_found(listed(&mut with(Flaw::Broken)))
            .with_help(format!(
                "reinstall it: `pip install --force-reinstall {wheel}`, or name its folder in TEMPRA_CUDA_LIB"
            ));
    }
    if with(Flaw::Generation).next().is_some() {
        return Error::device("no NVRTC that the driver supports was found; NVRTC compiles the CUDA kernels")
            .with_expected(expected)
            .with_found(listed(&mut with(Flaw::Generation)))
            .with_help(format!("run `pip install {wheel}`, or update the driver"));
    }
    let searched: Vec<String> = folders.iter().map(|(dir, _)| dir.display().to_string()).collect();
    Error::device("NVRTC, which compiles the CUDA kernels, was not found")
        .with_expected(expected)
        .with_found(match searched.len() {
            0 => "none on the loader's path, no CUDA toolkit and no Python package".to_owned(),
            _ => format!("none on the loader's path, and none in {}", searched.join(", ")),
        })
        .with_help(format!(
            "run `pip install {wheel}`, install a CUDA toolkit, or name a folder in TEMPRA_CUDA_LIB (an environment with PyTorch has NVRTC)"
        ))
}

/// NVRTC and its builtins for `tempra devices`, for a driver of this major version, if there is one.
pub(super) fn nvrtc_facts(driver: Option<i32>) -> Vec<LibraryFacts> {
    let search = search(driver);
    let facts = LibraryFacts {
        passed_over: search.passed_over.iter().map(|(file, _)| file.clone()).collect(),
        ..LibraryFacts::new("NVRTC", "compiles the CUDA kernels", true)
    };
    let parts = LibraryFacts::new("nvrtc-builtins", "a part of NVRTC", true);
    let Some(nvrtc) = &search.chosen else {
        let e = refusal(driver.unwrap_or(13), search, &folders());
        let broken = search.passed_over.iter().find(|(_, flaw)| *flaw == Flaw::Builtins);
        let (problem, help) = (e.what().to_owned(), e.help().unwrap_or_default().to_owned());
        let parts = broken.map(|(file, _)| parts.refused(file.reason.clone(), help.clone()));
        return [Some(facts.refused(problem, help)), parts].into_iter().flatten().collect();
    };
    let (major, minor) = nvrtc.version;
    let version = Some(format!("{major}.{minor}"));
    let beside = nvrtc.path.parent().map(entries).unwrap_or_default();
    let beside = beside.iter().find(|p| is_builtins(p)).map(PathBuf::as_path);
    vec![
        LibraryFacts { usable: true, version, ..facts.at(Some(&nvrtc.path)) },
        // It compiled an empty kernel, so its builtins are there, whatever their place.
        LibraryFacts { usable: true, ..parts.at(beside) },
    ]
}

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

/// The libraries that a driver of this version supports, by their names; the newest first, otherwise in the
/// given order.
fn suitable(paths: Vec<PathBuf>, driver: Option<i32>) -> Vec<PathBuf> {
    let fits =
        |path: &PathBuf| major(path).filter(|m| (OLDEST_NVRTC..=driver.unwrap_or(i32::MAX)).contains(m));
    let mut all: Vec<(i32, PathBuf)> = paths.into_iter().filter_map(|p| Some((fits(&p)?, p))).collect();
    all.sort_by_key(|(major, _)| -major);
    all.into_iter().map(|(_, path)| path).collect()
}

fn is_builtins(path: &Path) -> bool {
    let builtins = named(path, "libnvrtc-builtins.so.") || named(path, "nvrtc-builtins64");
    builtins && !path.to_string_lossy().contains(".alt.")
}

/// Loads the libraries that an NVRTC opens by name, from its own folder.
fn builtins(nvrtc: &Path) {
    let beside = nvrtc.parent().map(entries).unwrap_or_default();
    for path in beside.iter().filter(|p| is_builtins(p)) {
        // A failure shows when NVRTC compiles.
        let _ = open_for_good(path);
    }
}

/// The functions of cuBLASLt that tempra calls, most of them through cudarc. A test compares this list with
/// the calls in these files.
pub const BLAS_FUNCTIONS: &[&str] = &[
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtGetVersion",
    "cublasLtMatmul",
    "cublasLtMatmulAlgoCheck",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
];

/// What is known of cuBLASLt, which computes matmuls if it is there. Searched once per process.
fn blas() -> &'static LibraryFacts {
    static FOUND: OnceLock<LibraryFacts> = OnceLock::new();
    FOUND.get_or_init(|| {
        let mut facts = LibraryFacts::new("cuBLASLt", "computes matmuls where it is faster than tempra's kernels", false);
        // SAFETY: opens and closes the library; its initialisers are the vendor's.
        let present = || unsafe { cudarc::cublaslt::sys::is_culib_present() };
        let folders = folders();
        let mut load = |only_named: bool| {
            for (dir, _) in folders.iter().filter(|(_, named)| *named || !only_named) {
                let mut found = false;
                for path in entries(dir) {
                    if !(named(&path, "libcublasLt.so.") || named(&path, "cublasLt64")) {
                        continue;
                    }
                    match open_for_good(&path) {
                        Ok(()) => found = true,
                        Err(reason) => {
                            let path = path.display().to_string();
                            if facts.passed_over.iter().all(|p| p.path != path) {
                                facts.passed_over.push(PassedOver { path, reason });
                            }
                        }
                    }
                }
                if found && present() {
                    return true;
                }
            }
            false
        };
        // Folders that the user named come before those of the system.
        let there = load(true) || present() || load(false);
        const INSTALL: &str =
            "`pip install nvidia-cublas` (nvidia-cublas-cu12 for a driver of CUDA 12), or do without: tempra has its own matmul kernels";
        if !there {
            let problem = if facts.passed_over.is_empty() { "not found" } else { "found, but it cannot be loaded" };
            return facts.refused(problem, INSTALL);
        }
        let file = cudarc::get_lib_name_candidates("cublasLt").iter().find_map(|name| file_of(name));
        // SAFETY: the library is there; only whether its symbols exist is asked.
        let lacking: Vec<&str> = unsafe {
            let library = cudarc::cublaslt::sys::culib();
            let lacks = |f: &&&str| library.get::<unsafe extern "C" fn()>(f.as_bytes()).is_err();
            BLAS_FUNCTIONS.iter().filter(lacks).copied().collect()
        };
        let facts = facts.at(file.as_deref());
        if let Some(first) = lacking.first() {
            return facts.refused(format!("it lacks {} of its functions, such as {first}", lacking.len()), INSTALL);
        }
        // SAFETY: the function was just found.
        let version = unsafe { cudarc::cublaslt::sys::cublasLtGetVersion() };
        let version = format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100);
        LibraryFacts { usable: true, version: Some(version), ..facts }
    })
}

/// Whether cuBLASLt is available for matmuls, with all functions that tempra calls.
pub(super) fn cublaslt() -> bool {
    blas().usable
}

/// cuBLASLt for `tempra devices`, with a driver of this major version.
pub(super) fn cublaslt_facts(driver: Option<i32>) -> LibraryFacts {
    let facts = blas().clone();
    let major = facts.version.as_deref().and_then(|v| v.split('.').next()?.parse::<i32>().ok());
    match (major, driver) {
        (Some(library), Some(driver)) if facts.usable && library > driver => facts.refused(
            format!("it is for CUDA {library}, the driver for CUDA {driver}"),
            "`pip install nvidia-cublas-cu12`, or update the driver; until then tempra uses its own matmul kernels",
        ),
        _ => facts,
    }
}

/// NVML for `tempra devices`.
pub(super) fn nvml_facts() -> LibraryFacts {
    let facts =
        LibraryFacts::new("NVML", "reports clocks, power and temperature during `tempra bench`", false);
    let facts = facts.at(["libnvidia-ml.so.1", "libnvidia-ml.so"].into_iter().find_map(file_of).as_deref());
    match Nvml::get() {
        Ok(nvml) => LibraryFacts {
            usable: true,
            version: Some(nvml.version().to_owned()).filter(|v| !v.is_empty()),
            ..facts
        },
        Err(why) if facts.path.is_some() => facts.refused(
            why,
            "run `nvidia-smi`, which uses the same library: it says what is wrong with the driver",
        ),
        Err(why) => facts
            .refused(why, "install the NVIDIA driver's utilities: the package that contains `nvidia-smi`"),
    }
}

/// Folders that may hold NVRTC or cuBLASLt, and whether the user named them with `TEMPRA_CUDA_LIB`.
fn folders() -> Vec<(PathBuf, bool)> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    let mut all: Vec<(PathBuf, bool)> = Vec::new();
    let path_like = |name: &str| -> Vec<PathBuf> {
        var(name).map(|dirs| std::env::split_paths(&dirs).collect()).unwrap_or_default()
    };
    all.extend(path_like("TEMPRA_CUDA_LIB").into_iter().map(|dir| (dir, true)));
    // The loader takes only the first file of a name, even if it is broken and a later folder has one that
    // works.
    all.extend(path_like("LD_LIBRARY_PATH").into_iter().map(|dir| (dir, false)));
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
    let mut seen = HashSet::new();
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
            let all = suitable(paths.map(PathBuf::from).to_vec(), Some(driver));
            all.iter().map(|p| p.display().to_string()).collect()
        };
        let twelve = ["a/libnvrtc.so.12", "c/libnvrtc.so.12.8.93"];
        assert_eq!(of(12), twelve);
        assert_eq!(of(13), [&["b/libnvrtc.so.13", "d/nvrtc64_130_0.dll"], &twelve[..]].concat());
        assert!(of(11).is_empty());
    }

    #[test]
    fn failures_of_nvrtc_are_told_apart() {
        let search = |all: &[(&str, Flaw)]| {
            let mut found = Search::default();
            all.iter()
                .for_each(|(path, flaw)| found.pass_over(Path::new(path), "why".to_owned(), flaw.clone()));
            found
        };
        let of = |driver, all: &[(&str, Flaw)]| {
            let e = refusal(driver, &search(all), &[]);
            assert_eq!(e.exit_code(), 5);
            assert!(all.iter().all(|(path, _)| e.to_string().contains(path)), "{e}");
            e.help().unwrap_or_default().to_owned()
        };
        let none = of(13, &[]);
        let newer = of(12, &[("/a/libnvrtc.so.13", Flaw::Generation)]);
        let builtins = of(13, &[("/a/libnvrtc.so.13", Flaw::Builtins)]);
        let broken = of(13, &[("/a/libnvrtc.so.13", Flaw::Broken)]);
        assert!(none.starts_with("run `pip install nvidia-cuda-nvrtc`, install a CUDA toolkit"), "{none}");
        assert!(newer.contains("nvidia-cuda-nvrtc-cu12") && newer.contains("update the driver"), "{newer}");
        assert!(builtins.contains("builtins together"), "{builtins}");
        assert!(broken.starts_with("reinstall it"), "{broken}");
        assert_eq!(generation(13, Some(12)), "it is for CUDA 13, the driver for CUDA 12");
        assert_eq!(generation(11, Some(12)), "it is for CUDA 11; tempra needs CUDA 12 or later");
    }
}
