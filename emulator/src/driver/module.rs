//! Modules, functions and launches.

use super::device::capability;
use super::{
    Code, FILE_NOT_FOUND, Function, Handle, INVALID_HANDLE, INVALID_PTX, INVALID_VALUE, NO_BINARY, NOT_FOUND,
    SUCCESS, Work, driver, give, handle, index,
};
use crate::Loaded;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// Whether PTX for a target runs on the device: one for `sm_90a` on 9.0 only, others on what is newer.
fn fits(target: &str) -> bool {
    let name = target.trim_start_matches("sm_");
    let digits = name.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    match digits.parse::<u32>() {
        Ok(n) if digits.len() < name.len() => n == capability(),
        Ok(n) => n <= capability(),
        Err(_) => false,
    }
}

fn load(text: &str, module: *mut Handle) -> Code {
    let parsed = match crate::parse(text) {
        Ok(parsed) => parsed,
        Err(e) => {
            eprintln!("emulator: {e}");
            return INVALID_PTX;
        }
    };
    if !fits(&parsed.target) {
        eprintln!(
            "emulator: a module for {} does not run on sm_{} (EMULATOR_SM)",
            parsed.target,
            capability()
        );
        return NO_BINARY;
    }
    let mut d = driver();
    let loaded = Loaded::new(parsed, &mut d.memory);
    d.modules.push(Some(loaded));
    give(module, handle(d.modules.len() - 1))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> Code {
    if image.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: an image of PTX ends with a zero; one of a CUBIN has one behind its first bytes.
    let text = unsafe { CStr::from_ptr(image.cast()) };
    if text.to_bytes().starts_with(b"\x7fELF") {
        eprintln!("emulator: cannot run a CUBIN; load PTX (compile for compute_.., not sm_..)");
        return NO_BINARY;
    }
    load(&text.to_string_lossy(), module)
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut Handle,
    image: *const c_void,
    _count: c_uint,
    _options: *mut c_int,
    _values: *mut *mut c_void,
) -> Code {
    // SAFETY: as above.
    unsafe { cuModuleLoadData(module, image) }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoad(module: *mut Handle, path: *const c_char) -> Code {
    if path.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: a path ends with a zero.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy().into_owned();
    match std::fs::read_to_string(&path) {
        Ok(text) => load(&text, module),
        Err(e) => {
            eprintln!("emulator: {path}: {e}");
            FILE_NOT_FOUND
        }
    }
}
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Handle) -> Code {
    let mut d = driver();
    let taken = index(module).and_then(|i| d.modules.get_mut(i)).and_then(Option::take);
    match taken {
        Some(loaded) => {
            for at in loaded.variables {
                d.memory.free(at);
            }
            SUCCESS
        }
        None => INVALID_HANDLE,
    }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut Handle,
    module: Handle,
    name: *const c_char,
) -> Code {
    if name.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: a name ends with a zero.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    let mut d = driver();
    let Some(m) = index(module) else { return INVALID_HANDLE };
    let Some(Some(loaded)) = d.modules.get(m) else { return INVALID_HANDLE };
    if loaded.kernel(&name).is_none() {
        return NOT_FOUND;
    }
    d.functions.push(Function { module: m, name, shared: 0 });
    give(function, handle(d.functions.len() - 1))
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetGlobal_v2(
    address: *mut u64,
    bytes: *mut usize,
    module: Handle,
    name: *const c_char,
) -> Code {
    if name.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: a name ends with a zero.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let d = driver();
    let Some(Some(loaded)) = index(module).and_then(|m| d.modules.get(m)) else { return INVALID_HANDLE };
    let found = loaded.module.variables.iter().position(|v| v.name == name);
    let Some(i) = found else { return NOT_FOUND };
    if !bytes.is_null() {
        give(bytes, loaded.module.variables[i].data.len());
    }
    if address.is_null() { SUCCESS } else { give(address, loaded.variables[i]) }
}
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: Handle, attribute: c_uint, value: c_int) -> Code {
    let mut d = driver();
    let Some(f) = index(function).and_then(|i| d.functions.get_mut(i)) else { return INVALID_HANDLE };
    if attribute == 8 {
        if !(0..=227 << 10).contains(&value) {
            return INVALID_VALUE;
        }
        f.shared = value as usize;
    }
    SUCCESS
}
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: Handle) -> Code {
    let d = driver();
    let Some(f) = index(function).and_then(|i| d.functions.get(i)) else { return INVALID_HANDLE };
    let Some(Some(loaded)) = d.modules.get(f.module) else { return INVALID_HANDLE };
    let Some(k) = loaded.kernel(&f.name) else { return NOT_FOUND };
    let found = match attribute {
        0 if k.max_threads > 0 => k.max_threads as c_int,
        0 => 1024,
        1 => k.static_shared as c_int,
        3 => k.local_bytes as c_int,
        8 => f.shared as c_int,
        _ => 0,
    };
    give(value, found)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetCacheConfig(_function: Handle, _config: c_uint) -> Code {
    SUCCESS
}
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the driver API has so many")]
pub unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    gx: c_uint,
    gy: c_uint,
    gz: c_uint,
    bx: c_uint,
    by: c_uint,
    bz: c_uint,
    shared: c_uint,
    stream: Handle,
    params: *const *const c_void,
    extra: *const *const c_void,
) -> Code {
    let mut d = driver();
    let Some(i) = index(function) else { return INVALID_HANDLE };
    let Some(f) = d.functions.get(i) else { return INVALID_HANDLE };
    let Some(Some(loaded)) = d.modules.get(f.module) else { return INVALID_HANDLE };
    let Some(k) = loaded.kernel(&f.name) else { return NOT_FOUND };
    if !extra.is_null() || (params.is_null() && !k.params.is_empty()) {
        return INVALID_VALUE;
    }
    let mut bytes = vec![0; k.param_bytes];
    for (n, p) in k.params.iter().enumerate() {
        // SAFETY: the caller gives a pointer to each parameter of the kernel, of its size.
        unsafe {
            std::ptr::copy_nonoverlapping((*params.add(n)).cast::<u8>(), bytes[p.at..].as_mut_ptr(), p.size)
        };
    }
    d.submit(
        stream,
        Work::Launch {
            function: i,
            grid: [gx, gy, gz],
            block: [bx, by, bz],
            shared: shared as usize,
            params: bytes,
        },
    )
}
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the driver API has so many")]
pub unsafe extern "C" fn cuLaunchCooperativeKernel(
    function: Handle,
    gx: c_uint,
    gy: c_uint,
    gz: c_uint,
    bx: c_uint,
    by: c_uint,
    bz: c_uint,
    shared: c_uint,
    stream: Handle,
    params: *const *const c_void,
) -> Code {
    // SAFETY: as above.
    unsafe { cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, stream, params, std::ptr::null()) }
}
