//! CUDA graphs: steps are captured once and replayed from then on.
//!
//! Steps with the same key launch the same kernels on tensors of the same shapes. The first step runs kernel
//! by kernel, and the second is captured. From then on the host still plans, allocates and launches, but
//! nothing reaches the driver: allocations return the memory of the captured step, launches are compared with
//! the captured ones, and the host's writes are collected. At the end one copy transfers these writes, and
//! one graph launch runs the step.
#![allow(unsafe_code, reason = "calls the CUDA driver")]

use super::arena::Arena;
use super::{Cuda, lock};
use crate::error::{Error, Result};
use cudarc::driver::{result, sys};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// The largest amount of data that the host can write in one step, in bytes.
const INPUTS: usize = 8 << 20;
/// The alignment of these writes, in bytes.
const ALIGN: usize = 256;
/// The largest number of captured steps that are kept.
const KEPT: usize = 64;

/// An operation of a step, in the parts that must be the same in every replay.
///
/// The key of a step is a promise of the caller: sizes of its passes, task and head. The digest of its events
/// checks the promise. A graph holds addresses and parameters as they were at capture, so a launch of another
/// kernel, grid, address or parameter would silently compute something else. What may change from step to
/// step (ids, bounds, seeds, learning rates) is therefore data that the host writes, never a parameter of a
/// launch.
#[derive(Hash)]
pub(super) enum Event<'a> {
    Launch { function: usize, groups: [u32; 3], places: &'a [u64], params: &'a [u32] },
    Zero { place: u64, bytes: usize },
    Write { place: u64, bytes: usize },
    Take { bytes: usize, input: bool },
}

/// An executable graph; dropping this destroys it. The driver keeps running launches alive until they finish.
struct Graph(sys::CUgraphExec);

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once; the context is kept as long as the program runs.
        let _ = unsafe { result::graph::exec_destroy(self.0) };
    }
}

/// Work of [`Cuda::capture`], which can be launched repeatedly.
pub struct Captured {
    graph: Graph,
    /// [`Graphs::trims`] at the time of the capture, if it uses temporary memory.
    trims: Option<u64>,
}

/// A captured step.
struct CapturedGraph {
    graph: Graph,
    /// The addresses of its allocations, in order.
    places: Vec<u64>,
    /// A digest of all its events.
    digest: u64,
    last_used: u64,
}

enum Known {
    /// It ran once, kernel by kernel.
    Seen,
    Captured(CapturedGraph),
}

#[derive(Default)]
enum Mode {
    #[default]
    Direct,
    /// Kernel by kernel, with the memory of captured steps.
    Scoped,
    /// The stream is being captured.
    Capturing(Track),
    /// The host repeats the operations of a captured step, without the driver.
    Replaying(Track, usize),
}

/// The progress of a step that is captured or replayed.
#[derive(Default)]
struct Track {
    places: Vec<u64>,
    events: DefaultHasher,
    /// The data that the host wrote, at their offsets in the inputs on the device.
    written: Vec<u8>,
    /// The number of bytes of the inputs that are in use.
    used: usize,
}

/// All captured steps.
#[derive(Default)]
pub(super) struct Graphs {
    known: HashMap<u64, Known>,
    mode: Mode,
    /// The memory of captured steps. They share it, because only one runs at a time.
    arena: Arena,
    /// The buffer for the host's writes, shared by all steps.
    inputs: u64,
    clock: u64,
    /// Whether the current step writes too much to be captured, and the keys of steps that did; these are not
    /// tried again.
    too_much: bool,
    direct: HashSet<u64>,
    /// The number of times that unused memory of captured work was returned to the driver.
    trims: u64,
    /// With exact allocations: memory freed during capture, which the captured step still uses.
    held: Vec<u64>,
}

impl Graphs {
    pub fn new(exact: bool) -> Graphs {
        Graphs { arena: Arena::new(exact), ..Graphs::default() }
    }
    /// The memory allocated from the driver, in bytes.
    pub fn reserved(&self) -> u64 {
        self.arena.reserved()
    }
    /// The arena for allocations of the current step; `None` if they come from the general arena.
    pub fn arena(&mut self) -> Option<&mut Arena> {
        let own = match self.mode {
            Mode::Capturing(_) => true,
            // With exact allocations, freed memory would be kept for captured steps.
            Mode::Scoped => !self.arena.exact,
            Mode::Direct | Mode::Replaying(..) => false,
        };
        own.then_some(&mut self.arena)
    }
    /// Records an allocation during capture.
    pub fn took(&mut self, place: u64) {
        if let Mode::Capturing(track) = &mut self.mode {
            track.places.push(place);
        }
    }
    /// Frees memory of a captured step.
    pub fn give(&mut self, place: u64, size: u64) {
        if self.arena.exact {
            self.held.push(place);
        } else {
            self.arena.give(place, size);
        }
    }
    /// The address of an allocation that needs no arena: one of a replayed step, or a place in the inputs.
    pub fn again(&mut self, bytes: usize, input: bool) -> Result<Option<u64>> {
        let (inputs, exact) = (self.inputs, self.arena.exact);
        let (track, next) = match &mut self.mode {
            Mode::Direct | Mode::Scoped => return Ok(None),
            Mode::Capturing(track) => (track, None),
            Mode::Replaying(track, next) => (track, Some(next)),
        };
        Event::Take { bytes, input }.hash(&mut track.events);
        // Inputs take places in the buffer one after the other, as in the captured step: same operations,
        // same places. With exact allocations they have their own.
        if input && !exact {
            let at = track.used;
            track.used = (at + bytes.max(4)).next_multiple_of(ALIGN);
            if track.used > INPUTS {
                self.too_much = true;
                return Err(Error::memory("a step's inputs are too large for a CUDA graph")
                    .with_expected(format!("at most {INPUTS} bytes"))
                    .with_help("lower train.max_tokens, or set TEMPRA_CUDA_GRAPHS=0"));
            }
            return Ok(Some(inputs + at as u64));
        }
        let Some(next) = next else { return Ok(None) };
        let place = track.places.get(*next).copied();
        *next += 1;
        place.map(Some).ok_or_else(changed)
    }
    /// Collects a write of the host during capture or replay. During capture it returns the address to copy
    /// from on the device.
    pub fn write(&mut self, place: u64, src: &[u8]) -> Result<Option<Option<u64>>> {
        let inputs = self.inputs;
        let (track, capturing) = match &mut self.mode {
            Mode::Direct | Mode::Scoped => return Ok(None),
            Mode::Capturing(track) => (track, true),
            Mode::Replaying(track, _) => (track, false),
        };
        Event::Write { place, bytes: src.len() }.hash(&mut track.events);
        // A tensor of inputs is in the buffer already: the one copy before the graph fills it. A write to any
        // other tensor needs a copy inside the graph, from a place in the buffer, because a captured copy
        // from host memory would read that memory at each launch.
        let own = (inputs..inputs + INPUTS as u64).contains(&place);
        let at = if own {
            (place - inputs) as usize
        } else {
            let at = track.used;
            track.used = (at + src.len()).next_multiple_of(ALIGN);
            at
        };
        if at + src.len() > INPUTS {
            self.too_much = true;
            return Err(Error::memory("a step's inputs are too large for a CUDA graph")
                .with_expected(format!("at most {INPUTS} bytes"))
                .with_help("lower train.max_tokens, or set TEMPRA_CUDA_GRAPHS=0"));
        }
        if track.written.len() < at + src.len() {
            track.written.resize(at + src.len(), 0);
        }
        track.written[at..at + src.len()].copy_from_slice(src);
        Ok(Some((capturing && !own).then_some(inputs + at as u64)))
    }
    /// Records an event. Returns whether nothing else is to be done for it, as in a replay.
    pub fn note(&mut self, event: &Event) -> bool {
        match &mut self.mode {
            Mode::Direct | Mode::Scoped => false,
            Mode::Capturing(track) => {
                event.hash(&mut track.events);
                false
            }
            Mode::Replaying(track, _) => {
                event.hash(&mut track.events);
                true
            }
        }
    }
    /// Whether launches are captured and not run.
    pub fn capturing(&self) -> bool {
        matches!(self.mode, Mode::Capturing(_))
    }
    /// Discards all captured steps. The context must be bound.
    pub fn destroy(&mut self) {
        self.known.clear();
    }
    /// All memory, to be returned to the driver. No captured step may exist.
    pub fn clear(&mut self) -> Vec<u64> {
        let mut all = self.trim();
        all.extend(self.arena.clear());
        all.extend(Some(std::mem::take(&mut self.inputs)).filter(|&place| place != 0));
        all
    }
    /// Unused memory, to be returned to the driver.
    pub fn trim(&mut self) -> Vec<u64> {
        self.trims += 1;
        let mut free = self.arena.trim();
        for place in std::mem::take(&mut self.held) {
            self.arena.give(place, 0);
            free.push(place);
        }
        free
    }
    /// Discards the least recently used captured step, if there are too many.
    fn make_room(&mut self) {
        let captured = |k: &Known| if let Known::Captured(r) = k { Some(r.last_used) } else { None };
        if self.known.values().filter_map(captured).count() < KEPT {
            return;
        }
        let oldest = self.known.iter().filter_map(|(&key, k)| Some((captured(k)?, key))).min();
        if let Some((_, key)) = oldest {
            self.known.remove(&key);
        }
    }
}

fn changed() -> Error {
    Error::shape("a replayed step differs from the captured CUDA graph")
        .with_help("this is a bug in tempra: please report it; until it is fixed, set TEMPRA_CUDA_GRAPHS=0")
}

impl Cuda {
    /// Whether a step is being captured or replayed.
    pub(super) fn capturing(&self) -> bool {
        matches!(lock(&self.inner.state).graphs.mode, Mode::Capturing(_) | Mode::Replaying(..))
    }

    /// Whether steps are captured and replayed.
    pub(in crate::device) fn replays(&self) -> bool {
        self.graphs && !self.profile.active()
    }

    /// Runs `work` with the memory of captured steps. Tensors that it allocates must be dropped at its end.
    pub(in crate::device) fn scoped<R>(&self, work: impl FnOnce() -> R) -> R {
        let before = {
            let mut state = lock(&self.inner.state);
            match state.graphs.mode {
                Mode::Direct => Some(std::mem::replace(&mut state.graphs.mode, Mode::Scoped)),
                _ => None,
            }
        };
        let done = work();
        if let Some(mode) = before {
            lock(&self.inner.state).graphs.mode = mode;
        }
        done
    }

    /// Runs a step. Steps of one `key` may differ only in the data that the host writes. The first runs
    /// kernel by kernel, the second is captured, and later ones are replayed. `work` must not read tensors
    /// back, and its tensors must not be used afterwards.
    ///
    /// # Errors
    /// Those of `work`; those of the driver at capture and launch.
    pub fn replayed<R>(&self, key: u64, work: impl FnOnce() -> Result<R>) -> Result<R> {
        if !self.replays() {
            return self.scoped(work);
        }
        let mut state = lock(&self.inner.state);
        state.graphs.clock += 1;
        if state.graphs.direct.contains(&key) {
            drop(state);
            return self.scoped(work);
        }
        state.graphs.too_much = false;
        let known = state.graphs.known.remove(&key);
        let done = match known {
            // The first step does what cannot be captured: kernels are compiled and loaded, and algorithms of
            // cuBLASLt are timed. And a key that occurs only once does not cost a capture.
            None => {
                state.graphs.known.insert(key, Known::Seen);
                drop(state);
                self.scoped(work)
            }
            Some(Known::Seen) => {
                drop(state);
                self.capture_step(key, work)
            }
            Some(Known::Captured(captured)) => {
                drop(state);
                self.replay(key, captured, work)
            }
        };
        let mut state = lock(&self.inner.state);
        if done.is_err() && std::mem::take(&mut state.graphs.too_much) {
            state.graphs.direct.insert(key);
        }
        done
    }

    /// Captures the launches of `work` as a graph, with the memory of captured steps. Must not be called
    /// during capture or replay.
    fn captured<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<(R, Track, Graph)> {
        let inner = &self.inner;
        inner.bind()?;
        let call = |e| inner.failed("capturing a step", e);
        let before =
            std::mem::replace(&mut lock(&inner.state).graphs.mode, Mode::Capturing(Track::default()));
        // Relaxed: another capture or an allocation of this thread is none of the stream's business.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is ours, and captured by nobody else.
        let begun = unsafe { result::stream::begin_capture(inner.stream, mode) }.map_err(call);
        let done = begun.and_then(|()| work());
        // SAFETY: as above.
        let graph = unsafe { result::stream::end_capture(inner.stream) };
        let mode = std::mem::replace(&mut lock(&inner.state).graphs.mode, before);
        let Mode::Capturing(track) = mode else { return Err(changed()) };
        let value = match done {
            Ok(value) => value,
            Err(e) => {
                if let Ok(graph) = graph {
                    // SAFETY: made above, of no use.
                    let _ = unsafe { result::graph::destroy(graph) };
                }
                return Err(e);
            }
        };
        let graph = graph.map_err(call)?;
        // SAFETY: the graph was just made.
        let exec = unsafe {
            let exec = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            exec.map_err(call)?
        };
        Ok((value, track, Graph(exec)))
    }

    /// Captures `work` as one CUDA graph, for repeated launches in which the host does not launch each
    /// kernel. `work` runs only when the graph is launched. `None` if this device launches kernel by kernel
    /// (`TEMPRA_CUDA_GRAPHS=0`), or if `work` cannot be captured, for instance because the host writes data
    /// in it.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Option<Captured>> {
        if !self.replays() || self.capturing() {
            return Ok(None);
        }
        let (track, graph) = match self.captured(work) {
            Ok(((), track, graph)) => (track, graph),
            Err(e) if e.kind() == crate::error::Kind::Lost => return Err(e),
            Err(_) => return Ok(None),
        };
        // The host's writes would have to be repeated before each launch.
        if track.used > 0 || !track.written.is_empty() {
            return Ok(None);
        }
        // Otherwise the first launch transfers the graph, which takes longer than the others.
        // SAFETY: the graph is whole and the stream ours.
        unsafe { result::graph::upload(graph.0, self.inner.stream) }
            .map_err(|e| self.inner.failed("uploading a CUDA graph", e))?;
        let trims = lock(&self.inner.state).graphs.trims;
        let trims = Some(trims).filter(|_| !track.places.is_empty());
        Ok(Some(Captured { graph, trims }))
    }

    /// Launches captured work.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if temporary memory that it uses was returned to the driver
    /// since its capture ([`Device::trim`](crate::device::Device::trim)); those of the driver.
    pub fn launch_captured(&self, captured: &mut Captured) -> Result<()> {
        let inner = &self.inner;
        inner.bind()?;
        {
            let mut state = lock(&inner.state);
            if captured.trims.is_some_and(|trims| trims != state.graphs.trims) {
                return Err(Error::shape("the memory of a captured CUDA graph was returned to the driver")
                    .with_help("capture the work again after Device::trim"));
            }
            state.stats.captured += 1;
        }
        // SAFETY: the graph is whole, and its memory is kept for it.
        unsafe { result::graph::launch(captured.graph.0, inner.stream) }
            .map_err(|e| inner.failed("launching a CUDA graph", e))
    }

    /// Discards captured work. With exact allocations this also returns its temporary memory to the driver,
    /// which would otherwise be kept until the next [`Device::trim`](crate::device::Device::trim).
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn release(&self, captured: Vec<Captured>) -> Result<()> {
        let exact = lock(&self.inner.state).graphs.arena.exact;
        let temporary = captured.iter().any(|c| c.trims.is_some());
        drop(captured);
        if exact && temporary { self.trim() } else { Ok(()) }
    }

    /// The time of `work` in seconds, measured with several of them in one graph, so that the host's launch
    /// time does not count. `work` must not write from the host or read back.
    pub(super) fn graph_seconds(&self, work: &dyn Fn() -> Result<()>) -> Result<f64> {
        const TIMES: usize = 8;
        let ((), _, graph) = self.captured(|| (0..TIMES).try_for_each(|_| work()))?;
        // SAFETY: the graph is whole, and nothing else is launched that would use its memory.
        let mut launch = || unsafe {
            result::graph::launch(graph.0, self.inner.stream)
                .map_err(|e| self.inner.failed("timing kernels", e))
        };
        let timed = launch().and_then(|()| {
            let mut best = f64::INFINITY;
            for _ in 0..3 {
                best = best.min(self.time(&mut launch)?);
            }
            Ok(best / TIMES as f64)
        });
        // Wait for it before its memory is reused.
        self.inner.wait().and(timed)
    }

    fn capture_step<R>(&self, key: u64, work: impl FnOnce() -> Result<R>) -> Result<R> {
        let inner = &self.inner;
        inner.bind()?;
        {
            let mut state = lock(&inner.state);
            let state = &mut *state;
            if state.graphs.inputs == 0 {
                state.graphs.inputs = inner.ask(INPUTS as u64, &mut state.stats)?;
            }
            state.graphs.make_room();
        }
        let (value, track, graph) = self.captured(work)?;
        let captured =
            CapturedGraph { graph, places: track.places, digest: track.events.finish(), last_used: 0 };
        self.start(key, captured, &track.written)?;
        Ok(value)
    }

    fn replay<R>(
        &self,
        key: u64,
        mut captured: CapturedGraph,
        work: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        // The host plans the step again, and gets the addresses of the captured one in the same order.
        // Nothing reaches the driver until the digest of all events has been compared: a step that differs is
        // an error, not a wrong result.
        let track = Track { places: std::mem::take(&mut captured.places), ..Track::default() };
        lock(&self.inner.state).graphs.mode = Mode::Replaying(track, 0);
        let done = work();
        let mode = std::mem::take(&mut lock(&self.inner.state).graphs.mode);
        let Mode::Replaying(track, next) = mode else { return Err(changed()) };
        captured.places = track.places;
        let value = match done {
            Ok(value) => value,
            Err(e) => {
                lock(&self.inner.state).graphs.known.insert(key, Known::Captured(captured));
                return Err(e);
            }
        };
        if track.events.finish() != captured.digest || next != captured.places.len() {
            return Err(changed());
        }
        self.start(key, captured, &track.written)?;
        Ok(value)
    }

    /// Transfers the host's writes, and launches the graph.
    fn start(&self, key: u64, mut captured: CapturedGraph, written: &[u8]) -> Result<()> {
        let inner = &self.inner;
        let (inputs, done) = {
            let state = lock(&inner.state);
            (state.graphs.inputs, state.stats.graphs)
        };
        if inner.lose_after.is_some_and(|n| done >= n) {
            let e = cudarc::driver::DriverError(sys::CUresult::CUDA_ERROR_LAUNCH_FAILED);
            return Err(inner.failed("simulated by TEMPRA_CUDA_LOSE_AFTER", e));
        }
        inner.upload(inputs, written)?;
        // SAFETY: the graph is whole, and its memory is kept for it.
        let launched = unsafe { result::graph::launch(captured.graph.0, inner.stream) };
        let mut state = lock(&inner.state);
        state.stats.graphs += 1;
        captured.last_used = state.graphs.clock;
        state.graphs.known.insert(key, Known::Captured(captured));
        launched.map_err(|e| inner.failed("launching a CUDA graph", e))
    }
}
