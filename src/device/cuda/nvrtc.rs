//! NVRTC's functions, bound from a given file. `cudarc` would load the first library with this name, which
//! the driver may not support on a machine with several.
#![allow(unsafe_code, reason = "calls NVRTC")]

use crate::device::library::loader_message;
use crate::device::logs::first_errors;
use cudarc::nvrtc::sys::{nvrtcProgram, nvrtcResult};
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};

type Measured = unsafe extern "C" fn(nvrtcProgram, *mut usize) -> nvrtcResult;
type Filled = unsafe extern "C" fn(nvrtcProgram, *mut c_char) -> nvrtcResult;

/// The library. It is never unloaded.
pub struct Nvrtc {
    /// Its version: major and minor.
    pub version: (i32, i32),
    /// Its file, or the name by which the loader found it.
    pub path: PathBuf,
    create: unsafe extern "C" fn(
        *mut nvrtcProgram,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> nvrtcResult,
    compile: unsafe extern "C" fn(nvrtcProgram, c_int, *const *const c_char) -> nvrtcResult,
    destroy: unsafe extern "C" fn(*mut nvrtcProgram) -> nvrtcResult,
    log: (Measured, Filled),
    ptx: (Measured, Filled),
    cubin: (Measured, Filled),
    architectures:
        (unsafe extern "C" fn(*mut c_int) -> nvrtcResult, unsafe extern "C" fn(*mut c_int) -> nvrtcResult),
    explain: unsafe extern "C" fn(nvrtcResult) -> *const c_char,
}

/// An NVRTC program; dropping this destroys it.
struct Program<'a>(&'a Nvrtc, nvrtcProgram);

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: made in `Nvrtc::compile`, destroyed once.
        unsafe { (self.0.destroy)(&mut self.1) };
    }
}

/// The result of a compilation.
pub struct Compiled {
    /// Machine code, or PTX with a terminating zero; or the error.
    pub image: Result<Vec<u8>, String>,
    /// The output of the compiler and the assembler.
    pub log: String,
}

impl Nvrtc {
    /// Opens a library by its path, or by a name that the loader finds.
    ///
    /// # Errors
    /// In words: the loader's message, a function of CUDA 12.0 that the library lacks, or that it does not
    /// tell its version.
    pub fn open(path: &Path) -> Result<Nvrtc, String> {
        // SAFETY: its initialisers are the vendor's.
        let library = unsafe { libloading::Library::new(path) }.map_err(|e| loader_message(&e))?;
        macro_rules! bind {
            ($name:literal) => {
                // SAFETY: the types are those of nvrtc.h; the library stays loaded for good, see below.
                *unsafe { library.get($name.as_bytes()) }
                    .map_err(|_| format!("it opens, but lacks the function {}", $name))?
            };
        }
        let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> nvrtcResult = bind!("nvrtcVersion");
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both point to integers.
        let told = unsafe { version(&mut major, &mut minor) };
        if told != nvrtcResult::NVRTC_SUCCESS {
            return Err(format!("nvrtcVersion failed with code {}", told as u32));
        }
        let found = Nvrtc {
            version: (major, minor),
            path: path.to_owned(),
            create: bind!("nvrtcCreateProgram"),
            compile: bind!("nvrtcCompileProgram"),
            destroy: bind!("nvrtcDestroyProgram"),
            log: (bind!("nvrtcGetProgramLogSize"), bind!("nvrtcGetProgramLog")),
            ptx: (bind!("nvrtcGetPTXSize"), bind!("nvrtcGetPTX")),
            cubin: (bind!("nvrtcGetCUBINSize"), bind!("nvrtcGetCUBIN")),
            architectures: (bind!("nvrtcGetNumSupportedArchs"), bind!("nvrtcGetSupportedArchs")),
            explain: bind!("nvrtcGetErrorString"),
        };
        std::mem::forget(library);
        Ok(found)
    }

    /// Compiles an empty kernel, which fails if the library's own parts, such as libnvrtc-builtins, are
    /// missing.
    ///
    /// # Errors
    /// In words: the code, and the first lines of the compiler's output.
    pub fn trial(&self) -> Result<(), String> {
        let compiled = self.compile(c"extern \"C\" __global__ void trial() {}", c"trial.cu", &[], true);
        compiled.image.map(drop).map_err(|code| {
            let output = first_errors(&compiled.log);
            if output.is_empty() { code } else { format!("{code}: {output}") }
        })
    }

    /// The supported architectures, in order; empty if unknown.
    pub fn architectures(&self) -> Vec<u32> {
        let mut count = 0;
        // SAFETY: it fills as many integers as it said that there are.
        unsafe {
            if (self.architectures.0)(&mut count) != nvrtcResult::NVRTC_SUCCESS {
                return Vec::new();
            }
            let mut list = vec![0; count.max(0) as usize];
            match (self.architectures.1)(list.as_mut_ptr()) {
                nvrtcResult::NVRTC_SUCCESS => list.into_iter().map(|a| a as u32).collect(),
                _ => Vec::new(),
            }
        }
    }

    /// Compiles a source text to PTX or to machine code. `file` is its name in messages.
    pub fn compile(&self, text: &CStr, file: &CStr, options: &[String], ptx: bool) -> Compiled {
        let mut program = std::ptr::null_mut();
        let none = std::ptr::null();
        // SAFETY: both texts end with a zero, and there are no headers.
        let made = unsafe { (self.create)(&mut program, text.as_ptr(), file.as_ptr(), 0, none, none) };
        if made != nvrtcResult::NVRTC_SUCCESS {
            return Compiled { image: Err(self.explained(made)), log: String::new() };
        }
        let program = Program(self, program);
        let options: Vec<CString> =
            options.iter().filter_map(|option| CString::new(option.as_str()).ok()).collect();
        let places: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the program lives, and so do the options.
        let done = unsafe { (self.compile)(program.1, places.len() as c_int, places.as_ptr()) };
        let log = program.text(self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
        let image = match done {
            nvrtcResult::NVRTC_SUCCESS => program.text(if ptx { self.ptx } else { self.cubin }),
            failed => Err(self.explained(failed)),
        };
        Compiled { image, log }
    }

    fn explained(&self, e: nvrtcResult) -> String {
        // SAFETY: it returns a constant text for every code.
        let text = unsafe { (self.explain)(e) };
        if text.is_null() {
            return format!("{e:?}");
        }
        // SAFETY: not null, and it ends with a zero.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}

impl Program<'_> {
    /// One of the outputs that NVRTC has for a program.
    fn text(&self, (size, fill): (Measured, Filled)) -> Result<Vec<u8>, String> {
        let mut bytes = 0;
        // SAFETY: the program lives; the buffer is as large as NVRTC says.
        unsafe {
            let asked = size(self.1, &mut bytes);
            if asked != nvrtcResult::NVRTC_SUCCESS {
                return Err(self.0.explained(asked));
            }
            let mut text = vec![0u8; bytes];
            match fill(self.1, text.as_mut_ptr().cast::<c_char>()) {
                nvrtcResult::NVRTC_SUCCESS => Ok(text),
                failed => Err(self.0.explained(failed)),
            }
        }
    }
}
