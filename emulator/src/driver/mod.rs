//! The CUDA driver API on the emulator: the functions of libcuda.so for devices, memory, modules, streams,
//! events and graphs. A fault is reported as on a GPU: the launch succeeds, and every later call returns the
//! error.
//!
//! Settings: `EMULATOR_DEVICE` (name), `EMULATOR_PCI` (PCI address), `EMULATOR_MEMORY` (bytes), `EMULATOR_SM`
//! (as 80 or 90), `EMULATOR_FAIL_ALLOC` (the n-th allocation fails), `EMULATOR_SEED` (schedule),
//! `EMULATOR_BLUR` (seed of the errors of approximate functions), `EMULATOR_TENSOR_BITS` (24: matrix
//! instructions cut off what tensor cores do), `EMULATOR_THREADS`, `EMULATOR_STATS` (1: prints the counters
//! of each launch).
#![allow(unsafe_code, non_snake_case, reason = "a C interface, whose names are given")]
#![allow(missing_docs, reason = "named and documented as in the CUDA driver API")]
#![allow(clippy::missing_safety_doc, reason = "the callers are C programs, bound by the CUDA driver API")]

mod blas;
mod device;
mod memory;
mod module;
mod stream;

use crate::{Kind, Loaded, Memory, Options, Report};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub type Code = u32;
pub type Handle = *mut c_void;

pub(crate) const SUCCESS: Code = 0;
pub(crate) const INVALID_VALUE: Code = 1;
pub(crate) const OUT_OF_MEMORY: Code = 2;
pub(crate) const INVALID_DEVICE: Code = 101;
pub(crate) const NO_BINARY: Code = 209;
pub(crate) const INVALID_PTX: Code = 218;
pub(crate) const FILE_NOT_FOUND: Code = 301;
pub(crate) const INVALID_HANDLE: Code = 400;
pub(crate) const NOT_FOUND: Code = 500;
pub(crate) const ILLEGAL_ADDRESS: Code = 700;
pub(crate) const LAUNCH_TIMEOUT: Code = 702;
pub(crate) const MISALIGNED: Code = 716;
pub(crate) const LAUNCH_FAILED: Code = 719;
pub(crate) const CAPTURE_UNSUPPORTED: Code = 900;

/// Something that a stream does, now or whenever its graph is launched.
#[derive(Clone)]
pub(crate) enum Work {
    Launch { function: usize, grid: [u32; 3], block: [u32; 3], shared: usize, params: Vec<u8> },
    ToDevice { to: u64, from: usize, bytes: usize },
    ToHost { to: usize, from: u64, bytes: usize },
    Copy { to: u64, from: u64, bytes: usize },
    Fill { to: u64, pattern: Vec<u8>, count: usize },
    Product(Box<blas::Product>),
}

pub(crate) struct Function {
    pub module: usize,
    pub name: String,
    /// What it may take of shared memory beyond what all may.
    pub shared: usize,
}

#[derive(Default)]
pub(crate) struct Driver {
    pub memory: Memory,
    pub modules: Vec<Option<Loaded>>,
    pub functions: Vec<Function>,
    /// Streams that are recorded, and what they have so far.
    pub captures: HashMap<usize, Vec<Work>>,
    pub graphs: Vec<Option<Vec<Work>>>,
    pub events: Vec<Option<std::time::Instant>>,
    pub streams: usize,
    pub allocations: u64,
    /// The fault that no later call gets past.
    pub fault: Code,
}

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

pub(crate) struct Locked(MutexGuard<'static, Option<Driver>>);

impl std::ops::Deref for Locked {
    type Target = Driver;
    fn deref(&self) -> &Driver {
        static EMPTY: std::sync::OnceLock<Driver> = std::sync::OnceLock::new();
        self.0.as_ref().unwrap_or_else(|| EMPTY.get_or_init(Driver::default))
    }
}

impl std::ops::DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut Driver {
        self.0.get_or_insert_with(Driver::default)
    }
}

pub(crate) fn driver() -> Locked {
    Locked(DRIVER.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A number that the environment sets.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// A handle that names a place in a list.
pub(crate) fn handle(i: usize) -> Handle {
    (i + 1) as Handle
}

pub(crate) fn index(h: Handle) -> Option<usize> {
    (h as usize).checked_sub(1)
}

/// Writes a result. The caller of a C interface has to give a place that can be written to, or none.
pub(crate) fn give<T>(place: *mut T, value: T) -> Code {
    if place.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the driver API asks its callers for a place of this type.
    unsafe { place.write(value) };
    SUCCESS
}

impl Driver {
    /// Does it, or notes it if the stream is recorded.
    pub fn submit(&mut self, stream: Handle, work: Work) -> Code {
        if self.fault != SUCCESS {
            return self.fault;
        }
        if let Some(all) = self.captures.get_mut(&(stream as usize)) {
            all.push(work);
            return SUCCESS;
        }
        self.perform(&work)
    }

    pub fn perform(&mut self, work: &Work) -> Code {
        let done = match work {
            Work::Launch { function, grid, block, shared, params } => {
                return self.launch(*function, *grid, *block, *shared, params);
            }
            Work::ToDevice { to, from, bytes } => {
                // SAFETY: the caller says that so many bytes are there, until the stream has done it.
                let bytes = unsafe { std::slice::from_raw_parts(*from as *const u8, *bytes) };
                self.memory.write(*to, bytes)
            }
            Work::ToHost { to, from, bytes } => self.memory.read(*from, *bytes).map(|found| {
                // SAFETY: the caller says that there is place for so many bytes, until the stream has done
                // it.
                unsafe { std::ptr::copy_nonoverlapping(found.as_ptr(), *to as *mut u8, *bytes) };
            }),
            Work::Copy { to, from, bytes } => self.memory.copy(*to, *from, *bytes),
            Work::Fill { to, pattern, count } => self.memory.fill(*to, pattern, *count),
            Work::Product(product) => product.perform(&self.memory),
        };
        match done {
            Ok(()) => SUCCESS,
            Err(e) => {
                eprintln!("emulator: a copy failed: {}", e.what);
                INVALID_VALUE
            }
        }
    }

    fn launch(
        &mut self,
        function: usize,
        grid: [u32; 3],
        block: [u32; 3],
        shared: usize,
        params: &[u8],
    ) -> Code {
        let Some(f) = self.functions.get(function) else { return INVALID_HANDLE };
        let Some(Some(loaded)) = self.modules.get(f.module) else { return INVALID_HANDLE };
        let Some(kernel) = loaded.kernel(&f.name) else { return NOT_FOUND };
        if shared > f.shared.max((48 << 10) - kernel.static_shared.min(48 << 10)) {
            eprintln!(
                "emulator: {}: {shared} bytes of dynamic shared memory exceed the {} that cuFuncSetAttribute allowed",
                f.name, f.shared
            );
            return INVALID_VALUE;
        }
        let options = Options {
            seed: setting("EMULATOR_SEED", 0),
            blur: setting("EMULATOR_BLUR", 0),
            tensor_bits: setting("EMULATOR_TENSOR_BITS", 0) as u32,
            threads: setting("EMULATOR_THREADS", 0) as usize,
            ..Options::default()
        };
        let report: Report = crate::launch(
            &self.memory,
            loaded,
            kernel,
            crate::Grid { grid, block, shared },
            params,
            &options,
        );
        if setting("EMULATOR_STATS", 0) != 0 {
            let (s, [x, y, z]) = (&report.stats, grid);
            eprintln!(
                "emulator: {} ({x}, {y}, {z}) {}: {} warp instructions, {} matmul instructions, {} KiB of global memory traffic for {} KiB in {} requests, {} shared memory requests in {} wavefronts",
                f.name,
                block[0],
                s.instructions,
                s.count(kernel, |op| matches!(op, crate::isa::Op::Mma { .. } | crate::isa::Op::Wgmma(_))),
                s.global_sectors * 32 / 1024,
                s.global_bytes / 1024,
                s.global_requests,
                s.shared_requests,
                s.shared_wavefronts,
            );
        }
        for finding in &report.findings {
            eprintln!("emulator: {finding}");
        }
        let Some(first) = report.findings.first() else { return SUCCESS };
        let worst = report.findings.iter().find(|f| f.kind.stops()).unwrap_or(first);
        let code = match worst.kind {
            Kind::Invalid if worst.place.ptx == 0 => return INVALID_VALUE,
            Kind::OutOfBounds | Kind::ReadOnly => ILLEGAL_ADDRESS,
            Kind::Misaligned => MISALIGNED,
            Kind::Deadlock | Kind::EndlessSpin | Kind::Barrier => LAUNCH_TIMEOUT,
            _ => LAUNCH_FAILED,
        };
        self.fault = code;
        SUCCESS
    }
}

/// What an error is called.
pub(crate) fn name(code: Code) -> Option<&'static std::ffi::CStr> {
    Some(match code {
        SUCCESS => c"CUDA_SUCCESS",
        INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        INVALID_DEVICE => c"CUDA_ERROR_INVALID_DEVICE",
        NO_BINARY => c"CUDA_ERROR_NO_BINARY_FOR_GPU",
        INVALID_PTX => c"CUDA_ERROR_INVALID_PTX",
        FILE_NOT_FOUND => c"CUDA_ERROR_FILE_NOT_FOUND",
        INVALID_HANDLE => c"CUDA_ERROR_INVALID_HANDLE",
        NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
        ILLEGAL_ADDRESS => c"CUDA_ERROR_ILLEGAL_ADDRESS",
        LAUNCH_TIMEOUT => c"CUDA_ERROR_LAUNCH_TIMEOUT",
        MISALIGNED => c"CUDA_ERROR_MISALIGNED_ADDRESS",
        LAUNCH_FAILED => c"CUDA_ERROR_LAUNCH_FAILED",
        CAPTURE_UNSUPPORTED => c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        _ => return None,
    })
}
