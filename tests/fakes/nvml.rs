//! A stand-in for NVML with one GPU. Tests compile it as `libnvidia-ml.so.1`:
//!   rustc --crate-type cdylib [--cfg broken | --cfg old] nvml.rs
//! `FAKE_NVML_REASONS` sets the clock event reasons (a number). `broken`: it cannot be initialised. `old`: a
//! driver before 535, which has another name for the reasons.
#![allow(non_snake_case)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};

const GPU: *mut c_void = 0x5eed as *mut c_void;
const SUCCESS: c_int = 0;
const INVALID_ARGUMENT: c_int = 2;
const NOT_FOUND: c_int = 6;

/// Writes what a function returns, if it was asked for the one GPU.
unsafe fn give<T>(handle: *mut c_void, place: *mut T, value: T) -> c_int {
    if handle != GPU {
        return INVALID_ARGUMENT;
    }
    unsafe { place.write(value) };
    SUCCESS
}
unsafe fn text(place: *mut c_char, length: c_uint, text: &CStr) -> c_int {
    let bytes = text.to_bytes_with_nul();
    if bytes.len() > length as usize {
        return 7;
    }
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), place, bytes.len()) };
    SUCCESS
}
unsafe fn find(name: *const c_char, known: &str, place: *mut *mut c_void) -> c_int {
    if !unsafe { CStr::from_ptr(name) }.to_str().is_ok_and(|name| name.eq_ignore_ascii_case(known)) {
        return NOT_FOUND;
    }
    unsafe { place.write(GPU) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> c_int {
    if cfg!(broken) { 9 } else { SUCCESS }
}
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(code: c_int) -> *const c_char {
    if code == 9 { c"Driver Not Loaded".as_ptr() } else { c"Unknown Error".as_ptr() }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(place: *mut c_char, length: c_uint) -> c_int {
    unsafe { text(place, length, c"580.65.06") }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(place: *mut c_char, length: c_uint) -> c_int {
    unsafe { text(place, length, c"13.580.65.06") }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(id: *const c_char, gpu: *mut *mut c_void) -> c_int {
    unsafe { find(id, "0000:C0:DE.0", gpu) }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(id: *const c_char, gpu: *mut *mut c_void) -> c_int {
    unsafe { find(id, "GPU-656d756c-6174-6564-2064-657669636521", gpu) }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetClockInfo(gpu: *mut c_void, which: c_uint, mhz: *mut c_uint) -> c_int {
    match which {
        1 => unsafe { give(gpu, mhz, 1755) },
        2 => unsafe { give(gpu, mhz, 2619) },
        _ => INVALID_ARGUMENT,
    }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperature(gpu: *mut c_void, sensor: c_uint, celsius: *mut c_uint) -> c_int {
    if sensor == 0 { unsafe { give(gpu, celsius, 71) } } else { INVALID_ARGUMENT }
}
/// Milliwatts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerUsage(gpu: *mut c_void, power: *mut c_uint) -> c_int {
    unsafe { give(gpu, power, 645_500) }
}
/// Not supported, as on some GPUs for laptops.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetEnforcedPowerLimit(_gpu: *mut c_void, _power: *mut c_uint) -> c_int {
    3
}
fn reasons() -> c_ulonglong {
    std::env::var("FAKE_NVML_REASONS").ok().and_then(|v| v.parse().ok()).unwrap_or(0)
}
#[cfg(not(old))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCurrentClocksEventReasons(gpu: *mut c_void, bits: *mut c_ulonglong) -> c_int {
    unsafe { give(gpu, bits, reasons()) }
}
#[cfg(old)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(gpu: *mut c_void, bits: *mut c_ulonglong) -> c_int {
    unsafe { give(gpu, bits, reasons()) }
}
