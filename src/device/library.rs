//! What is known of the shared libraries that devices load at run time.
#![allow(unsafe_code, reason = "loads shared libraries")]

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A shared library that a device needs, or that it uses if it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibraryFacts {
    /// Its name: libcuda, NVRTC, nvrtc-builtins, cuBLASLt, NVML or "Vulkan loader".
    pub name: String,
    /// What tempra uses it for.
    pub purpose: String,
    /// Whether its backend cannot work without it.
    pub required: bool,
    /// Whether tempra can use it.
    pub usable: bool,
    /// The loaded file.
    pub path: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Why tempra cannot use it.
    pub problem: Option<String>,
    /// What to do about that.
    pub remedy: Option<String>,
    /// Files that were tried before the loaded one, or instead of it.
    pub passed_over: Vec<PassedOver>,
}

/// A file that cannot be used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// The file.
    pub path: String,
    /// Why it cannot be used.
    pub reason: String,
}

impl LibraryFacts {
    /// A library of which nothing is known yet.
    pub(super) fn new(name: &str, purpose: &str, required: bool) -> LibraryFacts {
        let (name, purpose) = (name.to_owned(), purpose.to_owned());
        LibraryFacts { name, purpose, required, ..LibraryFacts::default() }
    }
    /// The same library, which cannot be used.
    pub(super) fn refused(self, problem: impl Into<String>, remedy: impl Into<String>) -> LibraryFacts {
        LibraryFacts { usable: false, problem: Some(problem.into()), remedy: Some(remedy.into()), ..self }
    }
    /// The same library, which was loaded from a file.
    pub(super) fn at(self, path: Option<&Path>) -> LibraryFacts {
        LibraryFacts { path: path.map(|p| p.display().to_string()), ..self }
    }
}

/// The loader's message, such as "libcuda.so: cannot open shared object file: No such file or directory".
pub(super) fn loader_message(e: &libloading::Error) -> String {
    std::error::Error::source(e).map_or(e.to_string(), ToString::to_string)
}

/// Opens a library for good, with its symbols available to libraries that are loaded later. Returns the
/// loader's message if that fails.
#[cfg(unix)]
pub(super) fn open_for_good(path: &Path) -> Result<(), String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: its initialisers are the vendor's; it stays loaded for good.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }
        .map(std::mem::forget)
        .map_err(|e| loader_message(&e))
}

/// Opens a library for good. Returns the loader's message if that fails.
#[cfg(not(unix))]
pub(super) fn open_for_good(path: &Path) -> Result<(), String> {
    // SAFETY: its initialisers are the vendor's; it stays loaded for good.
    unsafe { libloading::Library::new(path) }.map(std::mem::forget).map_err(|e| loader_message(&e))
}

/// Whether the loader's message says that there is no file of this name. A file that exists but depends on a
/// missing one has a message that begins with the other file's name.
pub(super) fn is_absent(message: &str, name: &str) -> bool {
    let names_it = message.trim_start().starts_with(name);
    (names_it && message.contains("No such file"))
        // Windows: LoadLibraryExW failed, with the code for a missing module.
        || message.contains("os error 126")
}

/// The file of a library that the loader finds by this name, with links resolved.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn file_of(name: &str) -> Option<PathBuf> {
    use libloading::os::unix::{Library, RTLD_NOW};
    use std::ffi::{CStr, OsStr, c_char, c_void};
    use std::os::unix::ffi::OsStrExt;
    /// The first fields of glibc's `struct link_map` (link.h).
    #[repr(C)]
    struct LinkMap {
        address: usize,
        name: *const c_char,
    }
    // SAFETY: its initialisers are the vendor's. The request fills in a pointer to the loader's entry of the
    // library, whose first fields are as above, and which lives as long as the library is loaded.
    unsafe {
        let handle = Library::open(Some(name), RTLD_NOW).ok()?.into_raw();
        let mut map: *const LinkMap = std::ptr::null();
        let asked = libc::dlinfo(handle, libc::RTLD_DI_LINKMAP, (&raw mut map).cast::<c_void>());
        if asked != 0 || map.is_null() || (*map).name.is_null() {
            return None;
        }
        let path = PathBuf::from(OsStr::from_bytes(CStr::from_ptr((*map).name).to_bytes()));
        Some(path.canonicalize().unwrap_or(path)).filter(|p| p.is_absolute())
    }
}

/// Not known on this system.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn file_of(_: &str) -> Option<PathBuf> {
    None
}

/// The version in a file's name: 580.65.06 for libcuda.so.580.65.06.
pub(super) fn version_in_name(path: &Path) -> Option<String> {
    let (_, version) = path.file_name()?.to_str()?.split_once(".so.")?;
    let numbers = version.contains('.') && version.chars().all(|c| c.is_ascii_digit() || c == '.');
    numbers.then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_told_from_a_missing_dependency() {
        let text = "libcuda.so.1: cannot open shared object file: No such file or directory";
        assert!(is_absent(text, "libcuda.so.1"));
        assert!(!is_absent(text, "libnvrtc.so.13"));
        assert!(!is_absent("libcuda.so: file too short", "libcuda.so"));
    }

    /// The message is the system loader's own, not that of a wrapper.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_loader_says_which_file_is_missing() {
        let name = "libnothing-of-this-name.so.7";
        let message = open_for_good(Path::new(name)).unwrap_err();
        assert!(is_absent(&message, name), "{message}");
    }

    #[test]
    fn versions_are_read_from_file_names() {
        let of = |name: &str| version_in_name(Path::new(name));
        assert_eq!(of("/usr/lib/libcuda.so.580.65.06").as_deref(), Some("580.65.06"));
        assert_eq!([of("libcuda.so.1"), of("libcuda.so"), of("nvcuda.dll")], [None, None, None]);
    }

    /// The C library is loaded in every program.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn the_file_of_a_loaded_library_is_found() {
        let path = file_of("libc.so.6").expect("glibc");
        assert!(path.is_file(), "{}", path.display());
        assert_eq!(file_of("libnothing-of-this-name.so.7"), None);
    }
}
