//! Memory.

use super::device::total;
use super::{Code, Handle, INVALID_VALUE, OUT_OF_MEMORY, SUCCESS, Work, driver, give, setting};
use crate::TensorMap;
use std::ffi::{c_int, c_uint, c_void};

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Code {
    let mut d = driver();
    if d.fault != SUCCESS {
        return d.fault;
    }
    if bytes == 0 {
        return INVALID_VALUE;
    }
    d.allocations += 1;
    let number = d.allocations;
    if number == setting("EMULATOR_FAIL_ALLOC", 0) || bytes > total().saturating_sub(d.memory.used()) {
        return OUT_OF_MEMORY;
    }
    let found = d.memory.alloc(&format!("allocation {number}"), bytes);
    give(address, found)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, _stream: Handle) -> Code {
    cuMemAlloc_v2(address, bytes)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> Code {
    let mut d = driver();
    if d.memory.free(address) { d.fault } else { INVALID_VALUE }
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: u64, _stream: Handle) -> Code {
    cuMemFree_v2(address)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: *mut usize, all: *mut usize) -> Code {
    let used = driver().memory.used();
    give(free, total().saturating_sub(used)) | give(all, total())
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostAlloc(place: *mut *mut c_void, bytes: usize, _flags: c_uint) -> Code {
    // A length before the block, so that it can be given back.
    let words = vec![0u128; bytes.div_ceil(16) + 1].into_boxed_slice();
    let length = words.len();
    let first = Box::into_raw(words).cast::<u128>();
    // SAFETY: the block has at least one word.
    unsafe {
        first.write(length as u128);
        give(place, first.add(1).cast())
    }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(place: *mut c_void) -> Code {
    if place.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller got it from cuMemHostAlloc, which left the length before it.
    unsafe {
        let first = place.cast::<u128>().sub(1);
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(first, first.read() as usize)));
    }
    SUCCESS
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Handle) -> Code {
    driver().submit(stream, Work::ToDevice { to, from: from as usize, bytes })
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> Code {
    driver().perform(&Work::ToDevice { to, from: from as usize, bytes })
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: Handle) -> Code {
    driver().submit(stream, Work::ToHost { to: to as usize, from, bytes })
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> Code {
    let mut d = driver();
    if d.fault != SUCCESS {
        return d.fault;
    }
    d.perform(&Work::ToHost { to: to as usize, from, bytes })
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) -> Code {
    driver().submit(stream, Work::Copy { to, from, bytes })
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> Code {
    driver().perform(&Work::Copy { to, from, bytes })
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) -> Code {
    driver().submit(stream, Work::Fill { to, pattern: vec![value], count })
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(to: u64, value: u8, count: usize) -> Code {
    driver().perform(&Work::Fill { to, pattern: vec![value], count })
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Handle) -> Code {
    driver().submit(stream, Work::Fill { to, pattern: value.to_le_bytes().to_vec(), count })
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) -> Code {
    driver().submit(stream, Work::Fill { to, pattern: value.to_le_bytes().to_vec(), count })
}
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut Handle, _device: c_int) -> Code {
    give(pool, 1 as Handle)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetMemPool(pool: *mut Handle, _device: c_int) -> Code {
    give(pool, 1 as Handle)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolSetAttribute(_pool: Handle, _attribute: c_uint, _value: *mut c_void) -> Code {
    SUCCESS
}
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolTrimTo(_pool: Handle, _bytes: usize) -> Code {
    SUCCESS
}
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the driver API has so many")]
pub unsafe extern "C" fn cuTensorMapEncodeTiled(
    map: *mut [u8; 128],
    dtype: c_uint,
    rank: u32,
    base: *mut c_void,
    dims: *const u64,
    strides: *const u64,
    tile: *const u32,
    steps: *const u32,
    interleave: c_uint,
    swizzle: c_uint,
    _promotion: c_uint,
    fill: c_uint,
) -> Code {
    let element = match dtype {
        0 => 1,
        1 | 6 | 9 => 2,
        2 | 3 | 7 | 10 | 11 | 12 => 4,
        4 | 5 | 8 => 8,
        _ => return INVALID_VALUE,
    };
    let n = rank as usize;
    if !(1..=5).contains(&n)
        || swizzle > 3
        || interleave != 0
        || fill != 0
        || dims.is_null()
        || tile.is_null()
        || steps.is_null()
    {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives `rank` numbers of each, and one stride less.
    let (dims, tile, steps, strides) = unsafe {
        let strides = if n > 1 { std::slice::from_raw_parts(strides, n - 1).to_vec() } else { Vec::new() };
        let list = |p: *const u32| std::slice::from_raw_parts(p, n).to_vec();
        (std::slice::from_raw_parts(dims, n).to_vec(), list(tile), list(steps), strides)
    };
    let swizzle = [0, 32, 64, 128][swizzle as usize];
    let made = TensorMap { base: base as u64, element, dims, strides, tile, swizzle };
    if let Some(why) = made.invalid() {
        eprintln!("emulator: cuTensorMapEncodeTiled: {why}");
        return INVALID_VALUE;
    }
    if steps.iter().any(|&s| s != 1) {
        eprintln!("emulator: cuTensorMapEncodeTiled: only element strides of 1 are supported");
        return INVALID_VALUE;
    }
    give(map, made.to_bytes())
}
