//! Devices, contexts and errors.

use super::{Code, Handle, INVALID_DEVICE, INVALID_VALUE, SUCCESS, driver, give, name, setting};
use std::ffi::{c_char, c_int, c_uint};

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> Code {
    SUCCESS
}
#[unsafe(no_mangle)]
pub extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Code {
    // As many releases behind as somebody wants to try.
    give(version, setting("EMULATOR_DRIVER", 13000) as c_int)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(code: Code, text: *mut *const c_char) -> Code {
    match name(code) {
        Some(found) => give(text, found.as_ptr()),
        None => INVALID_VALUE,
    }
}
#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorString(code: Code, text: *mut *const c_char) -> Code {
    cuGetErrorName(code, text)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetCount(count: *mut c_int) -> Code {
    give(count, 1)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Code {
    if ordinal == 0 { give(device, 0) } else { INVALID_DEVICE }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(text: *mut c_char, length: c_int, _device: c_int) -> Code {
    let name = std::env::var("EMULATOR_DEVICE").unwrap_or_else(|_| "PTX emulator".to_owned());
    if text.is_null() || length <= 0 {
        return INVALID_VALUE;
    }
    let bytes = name.bytes().take(length as usize - 1).chain([0]);
    for (i, b) in bytes.enumerate() {
        // SAFETY: the caller has `length` bytes there.
        unsafe { text.add(i).write(b as c_char) };
    }
    SUCCESS
}
/// A made-up address; `EMULATOR_PCI` gives another one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(text: *mut c_char, length: c_int, _device: c_int) -> Code {
    let id = std::env::var("EMULATOR_PCI").unwrap_or_else(|_| "0000:C0:DE.0".to_owned());
    if text.is_null() || length <= id.len() as c_int {
        return INVALID_VALUE;
    }
    for (i, b) in id.bytes().chain([0]).enumerate() {
        // SAFETY: the caller has `length` bytes there.
        unsafe { text.add(i).write(b as c_char) };
    }
    SUCCESS
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], _device: c_int) -> Code {
    give(uuid, *b"emulated device!")
}
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> Code {
    give(bytes, total())
}
pub(super) fn total() -> usize {
    setting("EMULATOR_MEMORY", 1 << 30) as usize
}
/// Compute capability: 80 is 8.0.
pub(super) fn capability() -> u32 {
    setting("EMULATOR_SM", 90) as u32
}
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, _device: c_int) -> Code {
    let sm = capability();
    let found = match attribute {
        1..=3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65535,
        8 => 48 << 10,
        9 => 64 << 10,
        10 => 32,
        11 => i32::MAX,
        12 | 82 => 65536,
        13 => 1_000_000,
        16 => 2,
        // Memory clock in kHz, bus width in bits, size of the L2 cache in bytes.
        36 => 2_000_000,
        37 => 256,
        38 => setting("EMULATOR_L2", 1 << 20) as c_int,
        39 => 2048,
        75 => (sm / 10) as c_int,
        76 => (sm % 10) as c_int,
        81 => 228 << 10,
        97 => 227 << 10,
        95 | 115 => 1,
        _ => 0,
    };
    give(value, found)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRetain(context: *mut Handle, _device: c_int) -> Code {
    give(context, 1 as Handle)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> Code {
    SUCCESS
}
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCurrent(context: *mut Handle) -> Code {
    give(context, 1 as Handle)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(_context: Handle) -> Code {
    SUCCESS
}
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Code {
    driver().fault
}
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> Code {
    give(least, 0) | give(greatest, 0)
}
