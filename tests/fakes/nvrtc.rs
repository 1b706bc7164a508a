//! An NVRTC that fails in the way of `--cfg flaw="..."`, for `tests/all/doctor.rs`, which compiles it. It
//! compiles nothing: every program becomes the same few bytes.
//!
//! `version`: nvrtcVersion fails. `function`: a function is missing. `builtins`: it cannot compile, as NVRTC
//! without libnvrtc-builtins. `source`: it compiles an empty kernel and refuses every other program.
//! `FAKE_NVRTC_VERSION`, read while this is compiled, is its version (default 13.0).
#![allow(non_snake_case)]

use std::ffi::{CStr, c_char, c_int, c_void};

struct Program {
    refused: bool,
}

const LOG: &CStr = if cfg!(flaw = "builtins") {
    c"nvrtc: error: failed to open libnvrtc-builtins.so.13.0.\n  Make sure that libnvrtc-builtins.so.13.0 is installed correctly."
} else {
    c"check.cu(1): warning #177-D: unused\ncheck.cu(2): error: identifier \"nonsense\" is undefined\n1 error detected\n"
};
const IMAGE: &CStr = c"image";

#[unsafe(no_mangle)]
pub extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> c_int {
    let (a, b) = option_env!("FAKE_NVRTC_VERSION").unwrap_or("13.0").split_once('.').unwrap();
    unsafe { (major.write(a.parse().unwrap()), minor.write(b.parse().unwrap())) };
    if cfg!(flaw = "version") { 11 } else { 0 }
}
#[unsafe(no_mangle)]
pub extern "C" fn nvrtcCreateProgram(program: *mut *mut Program, source: *const c_char) -> c_int {
    let text = unsafe { CStr::from_ptr(source) }.to_string_lossy();
    // tempra puts definitions before each of its own kernels.
    let refused = cfg!(flaw = "builtins") || cfg!(flaw = "source") && text.contains("prelude.cuh");
    unsafe { program.write(Box::into_raw(Box::new(Program { refused }))) };
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn nvrtcCompileProgram(program: &Program) -> c_int {
    match program.refused {
        false => 0,
        // NVRTC_ERROR_BUILTIN_OPERATION_FAILURE and NVRTC_ERROR_COMPILATION of nvrtc.h.
        true => if cfg!(flaw = "builtins") { 7 } else { 6 },
    }
}
#[cfg(not(flaw = "function"))]
#[unsafe(no_mangle)]
pub extern "C" fn nvrtcDestroyProgram(program: *mut *mut Program) -> c_int {
    drop(unsafe { Box::from_raw(program.read()) });
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn nvrtcGetErrorString(code: c_int) -> *const c_char {
    let name = match code {
        6 => c"NVRTC_ERROR_COMPILATION",
        7 => c"NVRTC_ERROR_BUILTIN_OPERATION_FAILURE",
        _ => c"NVRTC_ERROR_INTERNAL_ERROR",
    };
    name.as_ptr()
}
#[unsafe(no_mangle)]
pub extern "C" fn nvrtcGetNumSupportedArchs(count: *mut c_int) -> c_int {
    unsafe { count.write(1) };
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn nvrtcGetSupportedArchs(all: *mut c_int) -> c_int {
    unsafe { all.write(80) };
    0
}

macro_rules! texts { ($($size:ident $fill:ident $text:expr;)*) => { $(
    #[unsafe(no_mangle)]
    pub extern "C" fn $size(_program: *const c_void, bytes: *mut usize) -> c_int {
        unsafe { bytes.write($text.to_bytes_with_nul().len()) };
        0
    }
    #[unsafe(no_mangle)]
    pub extern "C" fn $fill(_program: *const c_void, to: *mut c_char) -> c_int {
        let text: &CStr = $text;
        let bytes = text.to_bytes_with_nul();
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), to, bytes.len()) };
        0
    }
)* } }
texts! {
    nvrtcGetProgramLogSize nvrtcGetProgramLog LOG;
    nvrtcGetPTXSize nvrtcGetPTX IMAGE;
    nvrtcGetCUBINSize nvrtcGetCUBIN IMAGE;
}
