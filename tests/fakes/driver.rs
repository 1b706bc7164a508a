//! A CUDA driver library that fails as it is told to, for `tests/all/doctor.rs`, which compiles it. It
//! computes nothing.
//!
//! `FAKE_CUDA` is a list of `FUNCTION=CODE`, `FUNCTION=hang` or `FUNCTION=crash`, separated by commas.
//! `FAKE_CUDA_VERSION` is the version of CUDA that the driver reports (default 13000). With
//! `--cfg incomplete` a function is missing, and with `--cfg empty` all.
#![cfg(not(empty))]
#![allow(non_snake_case)]

use std::ffi::{c_char, c_int, c_uint};

/// What a function has to return.
fn told(name: &str) -> c_uint {
    let all = std::env::var("FAKE_CUDA").unwrap_or_default();
    let mut pairs = all.split(',').filter_map(|pair| pair.split_once('='));
    match pairs.find(|(function, _)| *function == name).map(|(_, does)| does) {
        Some("hang") => loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        },
        Some("crash") => std::process::abort(),
        Some(code) => code.parse().unwrap(),
        None => 0,
    }
}

/// Functions that only return a code. A C function may ignore its arguments.
macro_rules! quiet { ($($name:ident)*) => { $(
    #[unsafe(no_mangle)]
    pub extern "C" fn $name() -> c_uint { told(stringify!($name)) }
)* } }

/// Functions that write something to their first argument.
macro_rules! gives { ($($name:ident $kind:ty: $value:expr;)*) => { $(
    #[unsafe(no_mangle)]
    pub extern "C" fn $name(place: *mut $kind) -> c_uint {
        let code = told(stringify!($name));
        if code == 0 { unsafe { place.write($value) } }
        code
    }
)* } }

quiet! {
    cuInit cuCtxSetCurrent cuEventDestroy_v2 cuEventQuery cuEventRecord cuEventSynchronize cuFuncSetAttribute cuGraphDestroy
    cuGraphExecDestroy cuGraphInstantiateWithFlags cuGraphUpload cuLaunchKernel cuMemFreeHost cuMemFree_v2 cuMemcpyDtoDAsync_v2
    cuMemcpyDtoHAsync_v2 cuMemcpyHtoDAsync_v2 cuMemsetD8Async cuModuleUnload cuStreamBeginCapture_v2 cuStreamDestroy_v2
    cuStreamEndCapture cuStreamSynchronize cuTensorMapEncodeTiled cuEventElapsedTime_v2 cuMemAlloc_v2 cuMemHostAlloc
}
#[cfg(not(incomplete))]
quiet! { cuGraphLaunch }

gives! {
    cuDriverGetVersion c_int: std::env::var("FAKE_CUDA_VERSION").map_or(13000, |v| v.parse().unwrap());
    cuDeviceGetCount c_int: 1;
    cuDeviceGet c_int: 0;
    cuDeviceTotalMem_v2 usize: 1 << 30;
    cuDevicePrimaryCtxRetain usize: 1;
    cuStreamCreate usize: 1;
    cuEventCreate usize: 1;
    cuModuleLoadData usize: 1;
    cuModuleGetFunction usize: 1;
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(code: c_uint, text: *mut *const c_char) -> c_uint {
    let name = match code {
        34 => c"CUDA_ERROR_STUB_LIBRARY",
        100 => c"CUDA_ERROR_NO_DEVICE",
        719 => c"CUDA_ERROR_LAUNCH_FAILED",
        999 => c"CUDA_ERROR_UNKNOWN",
        _ => return 1,
    };
    unsafe { text.write(name.as_ptr()) };
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorString(code: c_uint, text: *mut *const c_char) -> c_uint {
    cuGetErrorName(code, text)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetName(text: *mut c_char, _length: c_int, _device: c_int) -> c_uint {
    let name = c"fake GPU".to_bytes_with_nul();
    unsafe { std::ptr::copy_nonoverlapping(name.as_ptr().cast(), text, name.len()) };
    told("cuDeviceGetName")
}
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, _device: c_int) -> c_uint {
    // Compute capability 8.0.
    let number = match attribute {
        75 => 8,
        76 => 0,
        97 => 99 << 10,
        _ => 1,
    };
    unsafe { value.write(number) };
    told("cuDeviceGetAttribute")
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_uint {
    let code = told("cuMemGetInfo_v2");
    if code == 0 {
        unsafe { (free.write(1 << 29), total.write(1 << 30)) };
    }
    code
}
