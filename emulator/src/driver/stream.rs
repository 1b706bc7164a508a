//! Streams, events and graphs. A stream does its work at once, or notes it down.

use super::{
    CAPTURE_UNSUPPORTED, Code, Handle, INVALID_HANDLE, INVALID_VALUE, SUCCESS, driver, give, handle, index,
};
use std::ffi::{c_int, c_uint, c_ulonglong};
use std::time::Instant;

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreate(stream: *mut Handle, _flags: c_uint) -> Code {
    let mut d = driver();
    d.streams += 1;
    // The first handles are those of the default streams.
    give(stream, handle(d.streams + 16))
}
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreateWithPriority(stream: *mut Handle, flags: c_uint, _priority: c_int) -> Code {
    cuStreamCreate(stream, flags)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Handle) -> Code {
    driver().captures.remove(&(stream as usize));
    SUCCESS
}
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Handle) -> Code {
    let d = driver();
    if d.captures.contains_key(&(stream as usize)) { CAPTURE_UNSUPPORTED } else { d.fault }
}
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: Handle) -> Code {
    cuStreamSynchronize(stream)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(_stream: Handle, event: Handle, _flags: c_uint) -> Code {
    match index(event).is_some_and(|i| i < driver().events.len()) {
        true => SUCCESS,
        false => INVALID_HANDLE,
    }
}
#[unsafe(no_mangle)]
pub extern "C" fn cuEventCreate(event: *mut Handle, _flags: c_uint) -> Code {
    let mut d = driver();
    d.events.push(None);
    give(event, handle(d.events.len() - 1))
}
#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Handle) -> Code {
    match index(event).is_some_and(|i| i < driver().events.len()) {
        true => SUCCESS,
        false => INVALID_HANDLE,
    }
}
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Handle, _stream: Handle) -> Code {
    let mut d = driver();
    match index(event).and_then(|i| d.events.get_mut(i)) {
        Some(place) => {
            *place = Some(Instant::now());
            SUCCESS
        }
        None => INVALID_HANDLE,
    }
}
#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(_event: Handle) -> Code {
    driver().fault
}
#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(_event: Handle) -> Code {
    driver().fault
}
#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime_v2(ms: *mut f32, from: Handle, to: Handle) -> Code {
    let d = driver();
    let at = |h| index(h).and_then(|i| d.events.get(i)).copied().flatten();
    match (at(from), at(to)) {
        (Some(from), Some(to)) => give(ms, to.saturating_duration_since(from).as_secs_f32() * 1e3),
        _ => INVALID_HANDLE,
    }
}
#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime(ms: *mut f32, from: Handle, to: Handle) -> Code {
    cuEventElapsedTime_v2(ms, from, to)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: Handle, _mode: c_uint) -> Code {
    let mut d = driver();
    if d.captures.contains_key(&(stream as usize)) || index(stream).is_none() {
        return INVALID_VALUE;
    }
    d.captures.insert(stream as usize, Vec::new());
    SUCCESS
}
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamIsCapturing(stream: Handle, status: *mut c_uint) -> Code {
    let is = driver().captures.contains_key(&(stream as usize));
    give(status, is.into())
}
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> Code {
    let mut d = driver();
    let Some(work) = d.captures.remove(&(stream as usize)) else { return INVALID_VALUE };
    d.graphs.push(Some(work));
    give(graph, handle(d.graphs.len() - 1))
}
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphInstantiateWithFlags(exec: *mut Handle, graph: Handle, _flags: c_ulonglong) -> Code {
    let mut d = driver();
    let Some(Some(work)) = index(graph).and_then(|i| d.graphs.get(i)).cloned() else { return INVALID_HANDLE };
    d.graphs.push(Some(work));
    give(exec, handle(d.graphs.len() - 1))
}
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(_exec: Handle, _stream: Handle) -> Code {
    SUCCESS
}
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(exec: Handle, stream: Handle) -> Code {
    let mut d = driver();
    let Some(Some(work)) = index(exec).and_then(|i| d.graphs.get(i)).cloned() else { return INVALID_HANDLE };
    work.into_iter().map(|w| d.submit(stream, w)).find(|&code| code != SUCCESS).unwrap_or(SUCCESS)
}
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: Handle) -> Code {
    match index(graph).and_then(|i| driver().graphs.get_mut(i).map(Option::take)) {
        Some(Some(_)) => SUCCESS,
        _ => INVALID_HANDLE,
    }
}
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(exec: Handle) -> Code {
    cuGraphDestroy(exec)
}
