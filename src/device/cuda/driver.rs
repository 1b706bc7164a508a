//! The CUDA driver library (libcuda): loads it, checks that it has every function that tempra calls, and
//! starts it.
//!
//! `cudarc` panics at the first call of a function that the library lacks. Therefore all functions are looked
//! up before the first call.
#![allow(unsafe_code, reason = "loads and calls the CUDA driver")]

use super::system::System;
use crate::device::library::{LibraryFacts, PassedOver, file_of, is_absent, loader_message, version_in_name};
use crate::error::{Error, Result};
use cudarc::driver::sys::{CUevent, CUresult};
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The oldest supported driver: CUDA 12.0.
const OLDEST: i32 = 12000;

/// The functions that are called first. A library without them is not NVIDIA's driver.
const FIRST: &[&str] =
    &["cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString", "cuDeviceGetCount"];

/// All other functions that tempra calls, most of them through cudarc; drivers for CUDA 12.0 have them. A
/// test compares this list with the calls in these files.
const FUNCTIONS: &[&str] = &[
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncSetAttribute",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
    "cuTensorMapEncodeTiled",
];

/// The names of all functions that a driver must have.
pub fn functions() -> impl Iterator<Item = &'static str> {
    FIRST.iter().chain(FUNCTIONS).copied()
}

/// The driver after it started.
#[derive(Clone, Debug)]
pub(super) struct Driver {
    /// Its version of CUDA: 13000 for 13.0.
    pub version: i32,
    /// Its file.
    pub path: Option<PathBuf>,
}

/// The library before its first call.
struct Loaded {
    /// Never unloaded: cudarc's functions use the same library, and one whose start failed may have left
    /// threads.
    library: ManuallyDrop<Library>,
    /// The name by which the loader found it.
    name: String,
    path: Option<PathBuf>,
    /// Files that the loader refused.
    passed_over: Vec<PassedOver>,
}

/// "CUDA 13.0" for 13000.
pub(super) fn spoken(version: i32) -> String {
    format!("CUDA {}.{}", version / 1000, version % 1000 / 10)
}

const INSTALL: &str =
    "install the NVIDIA driver and check that `nvidia-smi` lists the GPU, or run with --device cpu";

impl Loaded {
    /// Loads the library that cudarc loads: the first of the same names.
    fn open() -> Result<Loaded> {
        let mut passed_over = Vec::new();
        let names = ["cuda", "nvcuda"].into_iter().flat_map(cudarc::get_lib_name_candidates);
        for name in names {
            // SAFETY: its initialisers are the vendor's.
            match unsafe { Library::new(&name) } {
                Ok(library) => {
                    let library = ManuallyDrop::new(library);
                    return Ok(Loaded { library, path: file_of(&name), name, passed_over });
                }
                Err(e) => {
                    let reason = loader_message(&e);
                    if !is_absent(&reason, &name) {
                        passed_over.push(PassedOver { path: name, reason });
                    }
                }
            }
        }
        let e = Error::device("no NVIDIA driver was found")
            .with_expected("libcuda.so.1 (nvcuda.dll) on the loader's path")
            .with_help(INSTALL);
        Err(match passed_over.first() {
            Some(PassedOver { reason, .. }) => {
                e.with_found(format!("a library that cannot be loaded: {reason}"))
            }
            None => e,
        })
    }

    fn has(&self, function: &str) -> bool {
        // SAFETY: only whether the symbol exists is asked; nothing is called.
        unsafe { self.library.get::<unsafe extern "C" fn()>(function.as_bytes()) }.is_ok()
    }

    fn shown(&self) -> String {
        self.path.as_ref().map_or(self.name.clone(), |p| p.display().to_string())
    }

    /// Checks that the library has these functions.
    fn require(&self, functions: &[&str], what: &str, help: &str) -> Result<()> {
        let lacking: Vec<&str> = functions.iter().copied().filter(|f| !self.has(f)).collect();
        match lacking.first() {
            None => Ok(()),
            Some(first) => Err(Error::device(what)
                .with_found(format!(
                    "{} lacks {} of its functions, such as {first}",
                    self.shown(),
                    lacking.len()
                ))
                .with_help(help)),
        }
    }

    /// The version of CUDA that the driver supports, from a call that needs no device.
    fn version(&self) -> Result<i32> {
        let mut version: c_int = 0;
        // SAFETY: the function has this type in cuda.h, and the pointer is to an integer.
        let code = unsafe {
            let call =
                self.library.get::<unsafe extern "C" fn(*mut c_int) -> c_uint>(b"cuDriverGetVersion\0");
            match call {
                Ok(call) => call(&mut version),
                Err(e) => {
                    return Err(Error::device("libcuda lacks cuDriverGetVersion").with_found(e.to_string()));
                }
            }
        };
        if code == 0 { Ok(version) } else { Err(self.explain("cuDriverGetVersion", code)) }
    }

    /// Calls `cuInit`.
    fn start(&self) -> Result<()> {
        // SAFETY: the function has this type in cuda.h.
        let code = unsafe {
            match self.library.get::<unsafe extern "C" fn(c_uint) -> c_uint>(b"cuInit\0") {
                Ok(call) => call(0),
                Err(e) => return Err(Error::device("libcuda lacks cuInit").with_found(e.to_string())),
            }
        };
        if code == 0 { Ok(()) } else { Err(self.explain("cuInit", code)) }
    }

    fn explain(&self, call: &str, code: u32) -> Error {
        System::read(Path::new("/"), self.path.clone()).explain(call, code, &self.name_of(code))
    }

    /// The driver's name for a code.
    fn name_of(&self, code: u32) -> String {
        type Name = unsafe extern "C" fn(c_uint, *mut *const c_char) -> c_uint;
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: the function has this type in cuda.h; it gives a text that lasts, or none for an unknown
        // code.
        unsafe {
            let known =
                self.library.get::<Name>(b"cuGetErrorName\0").is_ok_and(|call| call(code, &mut text) == 0);
            if known && !text.is_null() {
                return CStr::from_ptr(text).to_string_lossy().into_owned();
            }
        }
        "a code without a name".to_owned()
    }

    /// Checks the library and starts the driver.
    fn check(&self) -> Result<Driver> {
        let reinstall = "reinstall the NVIDIA driver, or remove this file from the loader's path";
        self.require(FIRST, "the library found as CUDA's driver is not NVIDIA's", reinstall)?;
        let version = self.version()?;
        if version < OLDEST {
            return Err(Error::device("the NVIDIA driver is too old")
                .with_expected(format!("a driver for {} or later", spoken(OLDEST)))
                .with_found(format!("a driver for {}", spoken(version)))
                .with_help("update the driver, or run with --device wgpu"));
        }
        self.require(FUNCTIONS, "the NVIDIA driver is incomplete", reinstall)?;
        self.start()?;
        Ok(Driver { version, path: self.path.clone() })
    }
}

/// Starts the driver. Before it returns without an error no function of cudarc may be called. A started
/// driver stays so.
///
/// # Errors
/// [`Kind::Device`](crate::error::Kind::Device) if there is no driver, it lacks functions, is too old or does
/// not start.
pub(super) fn start() -> Result<Driver> {
    static STARTED: OnceLock<Driver> = OnceLock::new();
    if let Some(driver) = STARTED.get() {
        return Ok(driver.clone());
    }
    let driver = Loaded::open()?.check()?;
    Ok(STARTED.get_or_init(|| driver).clone())
}

/// The error for a call that failed while a GPU was being opened. No work has started, so the device cannot
/// have been lost: the same command would fail again.
pub(super) fn refused(device: &str, what: &str, code: CUresult, name: &str) -> Error {
    use super::system as s;
    let code = code as u32;
    let known =
        [s::STUB_LIBRARY, s::DEVICE_UNAVAILABLE, s::NO_DEVICE, s::ECC_UNCORRECTABLE, s::SYSTEM_NOT_READY]
            .contains(&code)
            || [s::SYSTEM_DRIVER_MISMATCH, s::COMPAT_NOT_SUPPORTED, s::UNKNOWN].contains(&code);
    if known {
        let path = start().ok().and_then(|d| d.path);
        return System::read(Path::new("/"), path).explain(what, code, name).at(device);
    }
    Error::device(format!("the GPU cannot be opened: {what} failed"))
        .at(device)
        .with_found(format!("{code} ({name})"))
        .with_help("run `nvidia-smi` to see the state of the GPU; if this persists, reboot")
}

/// The driver library for `tempra devices`.
pub(super) fn facts() -> LibraryFacts {
    let facts = LibraryFacts::new("libcuda", "drives NVIDIA GPUs", true);
    let with_error = |facts: LibraryFacts, e: &Error| {
        let problem = [Some(e.what()), e.found()].into_iter().flatten().collect::<Vec<_>>().join(": ");
        facts.refused(problem, e.help().unwrap_or(INSTALL))
    };
    let mut loaded = match Loaded::open() {
        Ok(loaded) => loaded,
        Err(e) => return with_error(facts, &e),
    };
    let passed_over = std::mem::take(&mut loaded.passed_over);
    let in_name = loaded
        .path
        .as_ref()
        .and_then(|p| version_in_name(p))
        .map(|v| format!(" (driver {v})"))
        .unwrap_or_default();
    let version = loaded.has("cuDriverGetVersion").then(|| loaded.version().ok()).flatten();
    let path = loaded.shown();
    let facts = LibraryFacts {
        usable: true,
        version: version.map(|v| spoken(v) + &in_name),
        passed_over,
        ..facts.at(Some(Path::new(&path)))
    };
    match start() {
        Ok(_) => facts,
        Err(e) => with_error(facts, &e),
    }
}

/// A function of the started driver that not every driver has.
///
/// # Safety
/// `F` is the type of the function with this name.
pub(super) unsafe fn function<F: Copy>(name: &[u8]) -> Option<F> {
    // SAFETY: the driver is loaded already and stays so; the type is the caller's word.
    Loaded::open().ok().and_then(|loaded| unsafe { loaded.library.get::<F>(name).ok().map(|f| *f) })
}

/// The time in milliseconds between two events.
pub(super) type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;

/// How to read the time between two events.
#[derive(Clone, Copy)]
pub(super) enum Clock {
    /// The driver's function since CUDA 12.8, which cudarc binds.
    New,
    /// The function before it, which cudarc does not bind.
    Old(Elapsed),
    /// The host's clock: the driver has neither.
    Host,
}

/// How the started driver measures time.
pub(super) fn clock() -> Clock {
    // SAFETY: both functions have had this type since they exist.
    let find = |name: &[u8]| unsafe { function::<Elapsed>(name) };
    match (find(b"cuEventElapsedTime_v2\0"), find(b"cuEventElapsedTime\0")) {
        (Some(_), _) => Clock::New,
        (None, Some(call)) => Clock::Old(call),
        (None, None) => Clock::Host,
    }
}
