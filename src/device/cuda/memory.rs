//! Device memory, and copies between it and the host.
#![allow(unsafe_code, reason = "calls the CUDA driver")]

use super::driver::Clock;
use super::graph::Event;
use super::{Cuda, Inner, lock};
use crate::error::{Error, Kind, Result};
use cudarc::driver::{DriverError, result, sys};
use std::sync::Arc;

/// A range of device memory; dropping it returns it to its arena.
pub struct Memory {
    pub(super) place: u64,
    size: u64,
    home: Home,
    inner: Arc<Inner>,
}

/// Where memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// The arena of everything that stays.
    Arena,
    /// The arena of what captured steps use while they run.
    Graphs,
    /// Not its own: a captured step's, used again.
    Replayed,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} bytes)", self.size)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Work that is queued on it runs before whatever its next owner queues.
        let mut state = lock(&self.inner.state);
        match self.home {
            Home::Arena => {
                if state.arena.give(self.place, self.size) && self.inner.bind().is_ok() {
                    state.stats.bytes -= self.size;
                    // SAFETY: from the driver, and nobody else's. The driver waits for what is queued on it.
                    let _ = unsafe { result::free_sync(self.place) };
                }
            }
            Home::Graphs => state.graphs.give(self.place, self.size),
            Home::Replayed => {}
        }
    }
}

/// Pinned host memory for copies, so that the host need not wait for them: a ring of pieces.
#[derive(Default)]
pub(super) struct Staging {
    pieces: Vec<Piece>,
    current: usize,
    used: usize,
}

struct Piece {
    host: *mut u8,
    done: sys::CUevent,
}

/// Bytes of a piece, and how many there are.
const PIECE: usize = 1 << 20;
const PIECES: usize = 8;

// SAFETY: the memory is only reached through the lock of the state that this is part of.
unsafe impl Send for Staging {}
// SAFETY: the memory belongs to whoever has the piece.
unsafe impl Send for Piece {}

impl Staging {
    /// Host memory for a copy of `bytes`, at most [`PIECE`] of them. The context is bound.
    fn place(&mut self, bytes: usize, stream: sys::CUstream) -> std::result::Result<*mut u8, DriverError> {
        // SAFETY: plain calls of the driver; what they make is freed in `free`.
        unsafe {
            if self.pieces.is_empty() {
                for _ in 0..PIECES {
                    let host = result::malloc_host(PIECE, 0)?.cast::<u8>();
                    let done = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
                    self.pieces.push(Piece { host, done });
                }
            }
            if self.used + bytes > PIECE {
                result::event::record(self.pieces[self.current].done, stream)?;
                (self.current, self.used) = ((self.current + 1) % self.pieces.len(), 0);
                // What was copied from it a whole turn ago; an event that was never recorded counts as
                // passed.
                result::event::synchronize(self.pieces[self.current].done)?;
            }
            let place = self.pieces[self.current].host.add(self.used);
            self.used += bytes.next_multiple_of(64);
            Ok(place)
        }
    }

    /// # Safety
    /// Nothing is under way any more, and the context is bound.
    pub unsafe fn free(&mut self) {
        for piece in self.pieces.drain(..) {
            // SAFETY: made in `place`, freed once.
            unsafe {
                let _ = result::event::destroy(piece.done);
                let _ = result::free_host(piece.host.cast());
            }
        }
    }
}

/// A small tensor that is copied to the host asynchronously, after the work queued before.
pub struct Fetched {
    piece: Option<Piece>,
    bytes: usize,
    inner: Arc<Inner>,
}

/// The largest size of a [`Fetched`], in bytes.
const FETCHED: usize = 64;

impl Fetched {
    /// The bytes. Waits for the copy, and not for work queued after it.
    ///
    /// # Errors
    /// [`Kind::Lost`] if the device failed.
    pub fn wait(&self) -> Result<Vec<u8>> {
        let Some(piece) = &self.piece else { return Ok(Vec::new()) };
        self.inner.bind()?;
        let call = |e| self.inner.failed("waiting for a step", e);
        // SAFETY: the event lives as long as the piece, and was recorded behind the copy; once it has passed
        // nobody writes.
        unsafe {
            match result::event::query(piece.done) {
                Ok(()) => {}
                Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => {
                    lock(&self.inner.state).stats.waits += 1;
                    result::event::synchronize(piece.done).map_err(call)?;
                }
                Err(e) => return Err(call(e)),
            }
            Ok(std::slice::from_raw_parts(piece.host, self.bytes).to_vec())
        }
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        // A copy that is still under way is done before one that is queued later.
        lock(&self.inner.state).fetched.pieces.extend(self.piece.take());
    }
}

impl Cuda {
    /// Queues a copy of a small tensor to the host.
    pub(in crate::device) fn fetch(&self, t: &crate::device::Tensor) -> Result<Fetched> {
        let (place, bytes) = (self.place(t)?, t.spec.bytes());
        if bytes > FETCHED || self.capturing() {
            return Err(Error::shape("cannot start an asynchronous copy of this tensor")
                .with_expected(format!("at most {FETCHED} bytes, outside a captured step"))
                .with_found(format!("{bytes} bytes")));
        }
        let inner = &self.inner;
        inner.bind()?;
        let call = |e| inner.failed("fetching a tensor", e);
        let mut state = lock(&inner.state);
        state.stats.fetches += 1;
        let piece = match state.fetched.pieces.pop() {
            Some(piece) => piece,
            // SAFETY: plain calls of the driver; what they make is freed with the staging memory.
            None => unsafe {
                let host = result::malloc_host(FETCHED, 0).map_err(call)?.cast::<u8>();
                let done =
                    result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(call)?;
                Piece { host, done }
            },
        };
        drop(state);
        let fetched = Fetched { piece: Some(piece), bytes, inner: inner.clone() };
        let Some(Piece { host, done }) = &fetched.piece else { return Ok(fetched) };
        // SAFETY: the tensor is ours and as large; the piece has room, and stays until the event has passed.
        unsafe {
            let to = std::slice::from_raw_parts_mut(*host, bytes);
            result::memcpy_dtoh_async(to, place, inner.stream).map_err(call)?;
            result::event::record(*done, inner.stream).map_err(call)?;
        }
        Ok(fetched)
    }

    /// Memory of at least `bytes` for what lasts, wherever it is asked for.
    pub(super) fn take_lasting(&self, bytes: usize) -> Result<Memory> {
        self.inner.bind()?;
        let mut state = lock(&self.inner.state);
        let state = &mut *state;
        let size = state.arena.size_of(bytes);
        let place = state.arena.take(size, |size| self.inner.ask(size, &mut state.stats))?;
        Ok(Memory { place, size, home: Home::Arena, inner: self.inner.clone() })
    }

    /// Memory of at least `bytes`; `input` says that the host is going to write it.
    pub(super) fn take(&self, bytes: usize, input: bool) -> Result<Memory> {
        self.inner.bind()?;
        let inner = self.inner.clone();
        let mut state = lock(&self.inner.state);
        if let Some(place) = state.graphs.again(bytes, input)? {
            drop(state);
            return Ok(Memory { place, size: bytes as u64, home: Home::Replayed, inner });
        }
        let state = &mut *state;
        let (home, arena) = match state.graphs.arena() {
            Some(arena) => (Home::Graphs, arena),
            None => (Home::Arena, &mut state.arena),
        };
        let size = arena.size_of(bytes);
        let stats = &mut state.stats;
        let place = arena.take(size, |size| self.inner.ask(size, stats))?;
        if home == Home::Graphs {
            state.graphs.took(place);
        }
        Ok(Memory { place, size, home, inner })
    }

    pub(super) fn write_bytes(&self, place: u64, src: &[u8]) -> Result<()> {
        let mut state = lock(&self.inner.state);
        if let Some(copy) = state.graphs.write(place, src)? {
            drop(state);
            return match copy {
                // SAFETY: both lie in memory of ours; the copy becomes a part of the captured step.
                Some(from) => unsafe { result::memcpy_dtod_async(place, from, src.len(), self.inner.stream) }
                    .map_err(|e| self.inner.failed("capturing a copy", e)),
                None => Ok(()),
            };
        }
        drop(state);
        self.inner.upload(place, src)
    }

    pub(super) fn zero_bytes(&self, place: u64, bytes: usize) -> Result<()> {
        self.inner.bind()?;
        if lock(&self.inner.state).graphs.note(&Event::Zero { place, bytes }) {
            return Ok(());
        }
        // SAFETY: the memory is ours and as large.
        unsafe { result::memset_d8_async(place, 0, bytes, self.inner.stream) }
            .map_err(|e| self.inner.failed("clearing memory", e))
    }

    pub(super) fn read_bytes(&self, place: u64, dst: &mut [u8]) -> Result<()> {
        if self.capturing() {
            return Err(Error::shape("cannot read a tensor while a CUDA graph is captured or replayed"));
        }
        self.inner.bind()?;
        lock(&self.inner.state).stats.reads += 1;
        // SAFETY: the memory is ours and as large; the host's is there until the stream has been waited for.
        unsafe { result::memcpy_dtoh_async(dst, place, self.inner.stream) }
            .map_err(|e| self.inner.failed("reading a tensor", e))?;
        self.inner.wait()
    }

    /// Returns unused memory to the driver, and discards captured steps.
    pub(super) fn trim(&self) -> Result<()> {
        self.inner.wait()?;
        let mut state = lock(&self.inner.state);
        state.graphs.destroy();
        let graphs = state.graphs.trim();
        let free = state.arena.trim();
        for place in free.into_iter().chain(graphs) {
            // SAFETY: from the driver, and wholly unused.
            unsafe { result::free_sync(place) }.map_err(|e| self.inner.failed("freeing memory", e))?;
        }
        state.stats.bytes = state.arena.reserved() + state.graphs.reserved();
        Ok(())
    }

    /// Seconds that the device was at `work`.
    pub(super) fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let inner = &self.inner;
        inner.wait()?;
        if matches!(inner.clock, Clock::Host) {
            let begun = std::time::Instant::now();
            work()?;
            inner.wait()?;
            return Ok(begun.elapsed().as_secs_f64());
        }
        let call = |e| inner.failed("timing kernels", e);
        // SAFETY: the events are made, recorded and destroyed here.
        unsafe {
            let make = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(call);
            let (from, to) = (make()?, make()?);
            result::event::record(from, inner.stream).map_err(call)?;
            let done = work();
            let passed = result::event::record(to, inner.stream)
                .and_then(|()| result::event::synchronize(to))
                .and_then(|()| inner.elapsed(from, to))
                .map_err(call);
            let _ = (result::event::destroy(from), result::event::destroy(to));
            done?;
            Ok(f64::from(passed?) * 1e-3)
        }
    }
}

impl Inner {
    /// Milliseconds between two events that have passed.
    ///
    /// # Safety
    /// Both are events of this context.
    unsafe fn elapsed(&self, from: sys::CUevent, to: sys::CUevent) -> std::result::Result<f32, DriverError> {
        match self.clock {
            // SAFETY: the caller's word.
            Clock::New => unsafe { result::event::elapsed(from, to) },
            Clock::Host => Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_SUPPORTED)),
            Clock::Old(call) => {
                let mut ms = 0f32;
                // SAFETY: the caller's word; the pointer is to a number.
                unsafe { call(&mut ms, from, to) }.result().map(|()| ms)
            }
        }
    }

    /// Asks the driver for memory.
    pub(super) fn ask(&self, size: u64, stats: &mut super::CudaStats) -> Result<u64> {
        let hint = "lower train.max_tokens (the tokens of one forward pass) or data.max_length";
        if let Some(most) = self.budget.filter(|&most| stats.bytes + size > most) {
            return Err(Error::memory(format!(
                "cannot allocate {size} bytes on {} ({} bytes are allocated)",
                self.name, stats.bytes
            ))
            .with_expected(format!("at most {most} bytes, the limit set by TEMPRA_CUDA_MEMORY"))
            .with_help(hint));
        }
        // SAFETY: the context is bound; what is given belongs to an arena from now on.
        let place = unsafe { result::malloc_sync(size as usize) }.map_err(|e| {
            let what = format!("allocating {size} bytes ({} bytes are allocated)", stats.bytes);
            let e = self.failed(&what, e);
            if e.kind() == Kind::Memory { e.with_help(hint) } else { e }
        })?;
        stats.allocations += 1;
        stats.bytes += size;
        Ok(place)
    }

    /// Queues a copy from the host; the bytes may be gone when this returns.
    pub(super) fn upload(&self, place: u64, src: &[u8]) -> Result<()> {
        self.bind()?;
        let mut at = place;
        for part in src.chunks(PIECE) {
            let mut state = lock(&self.state);
            state.stats.writes += 1;
            // SAFETY: the piece has room for the part, is not in use by a copy any more, and stays until this
            // one is done.
            unsafe {
                let host = state
                    .staging
                    .place(part.len(), self.stream)
                    .map_err(|e| self.failed("allocating pinned memory", e))?;
                std::ptr::copy_nonoverlapping(part.as_ptr(), host, part.len());
                let pinned = std::slice::from_raw_parts(host, part.len());
                result::memcpy_htod_async(at, pinned, self.stream)
                    .map_err(|e| self.failed("writing a tensor", e))?;
            }
            at += part.len() as u64;
        }
        Ok(())
    }
}
