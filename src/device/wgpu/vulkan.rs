//! The Vulkan loader and the drivers that it is told of, for messages. wgpu loads both itself and does not
//! say why it found no adapter.
//!
//! The loader finds drivers by manifests: JSON files that name a library. `VK_DRIVER_FILES` (before Vulkan
//! 1.3.234 `VK_ICD_FILENAMES`) replaces the system's manifests, `VK_ADD_DRIVER_FILES` adds to them (Vulkan
//! loader documentation, LoaderDriverInterface.md).
#![allow(unsafe_code, reason = "asks the Vulkan loader for its version")]

use crate::device::LibraryFacts;
use crate::device::library::{file_of, is_absent, loader_message};
use crate::error::Error;
use std::path::{Path, PathBuf};

/// Whether adapters come from the Vulkan loader.
const USED: bool = cfg!(all(unix, not(target_vendor = "apple")));
/// The variables that name manifests, the first of which counts. The last adds to the system's.
const REPLACE: [&str; 2] = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];
const ADD: &str = "VK_ADD_DRIVER_FILES";

const LOADER: &str = "install the Vulkan loader (Debian and Ubuntu: the package libvulkan1)";
const DRIVER: &str =
    "install the GPU's Vulkan driver (Debian and Ubuntu: mesa-vulkan-drivers, or the NVIDIA driver)";

/// A driver's manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Manifest {
    path: PathBuf,
    /// The variable that names it; `None` for one of the system's.
    variable: Option<&'static str>,
    /// Its library, or why the driver cannot be used.
    library: Result<PathBuf, String>,
}

/// Reads a variable of the environment; tests read from a list.
type Read<'a> = &'a dyn Fn(&str) -> Option<std::ffi::OsString>;

/// All manifests that the loader reads.
fn manifests(read: Read) -> Vec<Manifest> {
    let listed = |name: &'static str| -> Vec<Manifest> {
        let paths = read(name).map(|v| std::env::split_paths(&v).collect::<Vec<_>>()).unwrap_or_default();
        let paths = paths.into_iter().filter(|p| !p.as_os_str().is_empty());
        paths.flat_map(|path| files_of(&path).into_iter().map(move |p| manifest(p, Some(name)))).collect()
    };
    let replace = REPLACE.into_iter().find(|name| read(name).is_some_and(|v| !v.is_empty()));
    if let Some(name) = replace {
        return listed(name);
    }
    let mut all = listed(ADD);
    let var = |name: &str| read(name).filter(|v| !v.is_empty());
    let home = |rest: &str| var("HOME").map(|h| PathBuf::from(h).join(rest));
    let several = |name: &str, default: &str| -> Vec<PathBuf> {
        std::env::split_paths(&var(name).unwrap_or_else(|| default.into())).collect()
    };
    let mut folders: Vec<PathBuf> = Vec::new();
    folders.extend(var("XDG_CONFIG_HOME").map(PathBuf::from).or(home(".config")));
    folders.extend(several("XDG_CONFIG_DIRS", "/etc/xdg"));
    folders.push("/etc".into());
    folders.extend(var("XDG_DATA_HOME").map(PathBuf::from).or(home(".local/share")));
    folders.extend(several("XDG_DATA_DIRS", "/usr/local/share:/usr/share"));
    for folder in folders.into_iter().map(|f| f.join("vulkan/icd.d")).filter(|f| f.is_dir()) {
        all.extend(files_of(&folder).into_iter().map(|path| manifest(path, None)));
    }
    all
}

/// The manifests in a folder, or the file itself.
fn files_of(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
    let mut all: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    all.sort();
    all
}

/// Reads a manifest and checks that its library exists.
fn manifest(path: PathBuf, variable: Option<&'static str>) -> Manifest {
    let read = || -> Result<PathBuf, String> {
        let text = std::fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => "does not exist".to_owned(),
            _ => format!("cannot be read: {e}"),
        })?;
        let json: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| format!("is not JSON: {e}"))?;
        let library = json["ICD"]["library_path"].as_str().ok_or("names no library (ICD.library_path)")?;
        // A bare name is searched by the loader; other relative names are relative to the manifest.
        let library = match library.contains('/') {
            true => path.parent().unwrap_or(Path::new("")).join(library),
            false => return Ok(library.into()),
        };
        match library.exists() {
            true => Ok(library),
            false => Err(format!("names the library {}, which does not exist", library.display())),
        }
    };
    let library = read();
    Manifest { path, variable, library }
}

fn environment(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

/// The fault of manifests that a variable of the environment names, and its remedy.
fn misled(all: &[Manifest]) -> Option<(String, String)> {
    all.iter().find_map(|m| {
        let (variable, why) = (m.variable?, m.library.as_ref().err()?);
        Some((
            format!("{variable} names {}, which {why}", m.path.display()),
            format!("unset {variable}, or let it name a driver's manifest that exists"),
        ))
    })
}

/// The Vulkan loader and its drivers.
pub(super) fn libraries() -> Vec<LibraryFacts> {
    if !USED {
        return Vec::new();
    }
    let all = manifests(&environment);
    let mut facts = LibraryFacts::new("Vulkan driver", "computes on a GPU for the Vulkan loader", true);
    facts.passed_over = all
        .iter()
        .filter_map(|m| {
            let (path, reason) = (m.path.display().to_string(), m.library.clone().err()?);
            Some(crate::device::PassedOver { path, reason })
        })
        .collect();
    let named: Vec<String> =
        all.iter().filter_map(|m| Some(m.library.as_ref().ok()?.display().to_string())).collect();
    let drivers = match (misled(&all), named.is_empty()) {
        (Some((problem, remedy)), true) => facts.refused(problem, remedy),
        (None, true) => facts.refused("no manifest of a Vulkan driver was found", DRIVER),
        (misled, false) => {
            let (problem, remedy) = misled.unzip();
            LibraryFacts { usable: true, path: Some(named.join(", ")), problem, remedy, ..facts }
        }
    };
    vec![loader(), drivers]
}

/// The Vulkan loader.
fn loader() -> LibraryFacts {
    let facts = LibraryFacts::new("Vulkan loader", "finds the GPUs for the backend wgpu", true);
    // The name that wgpu's loader (ash) opens.
    let name = "libvulkan.so.1";
    // SAFETY: its initialisers are the vendor's.
    let library = match unsafe { libloading::Library::new(name) } {
        Ok(library) => std::mem::ManuallyDrop::new(library),
        Err(e) => {
            let why = loader_message(&e);
            let absent = "libvulkan.so.1 was not found on the loader's path";
            return facts.refused(if is_absent(&why, name) { absent } else { why.as_str() }, LOADER);
        }
    };
    let mut version = 0u32;
    // SAFETY: the function has had this type since Vulkan 1.1; the pointer is to an integer.
    let told = unsafe {
        let call = library.get::<unsafe extern "system" fn(*mut u32) -> i32>(b"vkEnumerateInstanceVersion\0");
        call.is_ok_and(|call| call(&mut version) == 0)
    };
    let facts = facts.at(Some(&file_of(name).unwrap_or(name.into())));
    if !told {
        return facts.refused("it does not tell its version: it is older than Vulkan 1.1, or broken", LOADER);
    }
    let version = format!("{}.{}.{}", version >> 22 & 0x7f, version >> 12 & 0x3ff, version & 0xfff);
    LibraryFacts { usable: true, version: Some(version), ..facts }
}

/// The error for a machine without an adapter.
pub(super) fn no_adapter() -> Error {
    let e = Error::device("no Vulkan, Metal or DX12 adapter was found");
    if !USED {
        return e.with_help("install the GPU's driver, or run with --device cpu");
    }
    let loader = loader();
    if let (Some(problem), Some(remedy)) = (loader.problem, loader.remedy) {
        return e.with_found(problem).with_help(format!("{remedy}, or run with --device cpu"));
    }
    let all = manifests(&environment);
    match misled(&all) {
        Some((problem, remedy)) => e.with_found(problem).with_help(remedy),
        None => e.with_help(format!("{DRIVER}, or run with --device cpu")),
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_lead_nowhere_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let library = write("libdriver.so", "");
        let good = write("good.json", &format!("{{\"ICD\": {{\"library_path\": \"{library}\"}}}}"));
        let beside = write("beside.json", "{\"ICD\": {\"library_path\": \"./libdriver.so\"}}");
        let bare = write("bare.json", "{\"ICD\": {\"library_path\": \"libGLX_nvidia.so.0\"}}");
        let hollow = write("hollow.json", "{\"ICD\": {\"library_path\": \"/nowhere/libdriver.so\"}}");
        let broken = write("broken.json", "{");
        let of = |set: &[(&str, &str)]| {
            manifests(&|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).into()))
        };
        for (value, why) in [
            ("/nowhere/x.json", "does not exist"),
            (hollow.as_str(), "names the library /nowhere/libdriver.so, which does not exist"),
            (broken.as_str(), "is not JSON"),
        ] {
            for variable in REPLACE {
                let (problem, remedy) = misled(&of(&[(variable, value)])).unwrap();
                assert!(problem.contains(&format!("{variable} names {value}, which {why}")), "{problem}");
                assert!(remedy.contains(&format!("unset {variable}")), "{remedy}");
            }
        }
        for value in [&good, &beside, &bare] {
            let all = of(&[(REPLACE[0], value)]);
            assert_eq!((all.len(), misled(&all)), (1, None), "{value}");
        }
        // The newer variable wins, and a folder stands for the manifests in it.
        assert_eq!(misled(&of(&[(REPLACE[0], &good), (REPLACE[1], "/nowhere/x.json")])), None);
        assert_eq!(of(&[(REPLACE[0], &dir.path().display().to_string())]).len(), 5);
    }
}
