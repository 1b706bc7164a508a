//! The threads that run a loop's tasks.
//!
//! A step of training starts some hundred loops. Many take less time than waking a thread. So threads
//! look for the next loop for a while before they sleep. The thread that starts a loop runs tasks itself
//! and waits only for tasks that others have begun: on a busy machine a thread that has not woken up
//! costs nothing. Each thread begins with its own range of tasks, the same one in loops of the same size,
//! so that what it wrote in one loop is in its cache in the next, and then takes tasks of others.
#![allow(unsafe_code, reason = "threads that outlive a loop call its closure, which the loop outlives")]

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// How often a thread looks for work before it also gives its core to others between two looks.
const LOOKS: u32 = 400;
/// How often it looks before it sleeps.
const LOOKS_IN_ALL: u32 = 2000;
/// The most tasks of a loop: what fits the fields of [`Range`].
pub(super) const MOST: usize = u16::MAX as usize;

thread_local! {
    /// The threads that loops of this thread run on, set by [`Threads::install`].
    static CURRENT: Cell<*const Team> = const { Cell::new(std::ptr::null()) };
    /// The number of this thread among those that run a loop.
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// Threads, and the thread that starts loops on them.
pub(super) struct Threads {
    team: Arc<Team>,
    handles: Vec<JoinHandle<()>>,
}

/// A loop that runs: its body, called with the number of a task.
type Body = *const (dyn Fn(usize) + Sync);

/// What threads share.
struct Team {
    /// The tasks that each thread begins with; the first is that of the thread that starts a loop.
    ranges: Vec<Range>,
    body: UnsafeCell<Option<Body>>,
    /// Tasks of the loop that have ended.
    ended: AtomicUsize,
    /// Whether a loop runs.
    busy: AtomicBool,
    /// What a task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleeping: AtomicUsize,
    door: Mutex<()>,
    bell: Condvar,
    stop: AtomicBool,
}

// SAFETY: `body` is written by the thread that made `busy` true, before it publishes ranges. Others read it
// only after they took a task of such a range, and the writer waits until these have ended.
unsafe impl Sync for Team {}
// SAFETY: as above.
unsafe impl Send for Team {}

/// Tasks of one loop that nobody has begun: in one word the number of the loop (32 bits), the first task and
/// the end (16 bits each). On a cache line of its own.
#[repr(align(128))]
struct Range(AtomicU64);

impl Range {
    fn set(&self, of: u32, [first, end]: [usize; 2]) {
        self.0.store(u64::from(of) << 32 | (first as u64) << 16 | end as u64, Ordering::Release);
    }
    fn bounds(word: u64) -> [usize; 2] {
        [(word >> 16 & 0xffff) as usize, (word & 0xffff) as usize]
    }
    fn is_empty(&self) -> bool {
        let [first, end] = Self::bounds(self.0.load(Ordering::Relaxed));
        first >= end
    }
    /// Takes the first task. As the number of the loop is part of the word, a thread that was held up cannot
    /// take a task of another loop by mistake.
    fn take(&self) -> Option<usize> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let [first, end] = Self::bounds(word);
            if first >= end {
                return None;
            }
            match self.0.compare_exchange_weak(word, word + (1 << 16), Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(first),
                Err(now) => word = now,
            }
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Threads {
    /// As many threads, with the calling one; 0 means one for each core that this process may use. Fewer if
    /// the system refuses to start them.
    pub(super) fn new(threads: usize) -> Threads {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let count = if threads == 0 { all } else { threads };
        let team = |count: usize| {
            Arc::new(Team {
                ranges: (0..count).map(|_| Range(AtomicU64::new(0))).collect(),
                body: UnsafeCell::new(None),
                ended: AtomicUsize::new(0),
                busy: AtomicBool::new(false),
                panic: Mutex::new(None),
                sleeping: AtomicUsize::new(0),
                door: Mutex::new(()),
                bell: Condvar::new(),
                stop: AtomicBool::new(false),
            })
        };
        let mut threads = Threads { team: team(count), handles: Vec::new() };
        for index in 1..count {
            let team = threads.team.clone();
            let thread = std::thread::Builder::new().name(format!("tempra-{index}"));
            match thread.spawn(move || team.work(index)) {
                Ok(handle) => threads.handles.push(handle),
                Err(_) => break,
            }
        }
        threads
    }
    /// The number of threads that run loops.
    pub(super) fn count(&self) -> usize {
        self.handles.len() + 1
    }
    /// Runs `f`, whose loops run on these threads.
    pub(super) fn install<R>(&self, f: impl FnOnce() -> R) -> R {
        /// Sets what was there before, also after a panic.
        struct Restore(*const Team);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _restore = Restore(CURRENT.replace(Arc::as_ptr(&self.team)));
        f()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.team.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.team.door));
        self.team.bell.notify_all();
        for handle in self.handles.drain(..) {
            // It ends without a panic: those of tasks are caught.
            let _ = handle.join();
        }
    }
}

/// The number of the calling thread among those that run a loop, from 0.
pub(super) fn thread_index() -> usize {
    INDEX.get()
}

/// Runs `body(0..count)`, each number once: on the threads of [`Threads::install`], or on this one if it runs
/// outside of that or inside of a loop. `count` is at most [`MOST`].
pub(super) fn run(count: usize, body: &(dyn Fn(usize) + Sync)) {
    // SAFETY: set by `install`, whose caller holds the threads until it returns.
    let team = unsafe { CURRENT.get().as_ref() };
    match team {
        Some(team) if count > 1 && team.ranges.len() > 1 => team.run(count, body),
        _ => (0..count).for_each(body),
    }
}

impl Team {
    fn run(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        if self.busy.swap(true, Ordering::Acquire) {
            // A loop inside of a loop, or of another thread.
            return (0..count).for_each(body);
        }
        // SAFETY: only the lifetime changes. No thread uses the body after `ended` reaches `count`, and this
        // function does not return before.
        let lasting: Body = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Body>(body) };
        // SAFETY: `busy` was false, so no loop runs and no thread reads it.
        unsafe { *self.body.get() = Some(lasting) };
        self.ended.store(0, Ordering::Relaxed);
        let of = (self.ranges[0].0.load(Ordering::Relaxed) >> 32) as u32;
        let threads = self.ranges.len();
        for (t, range) in self.ranges.iter().enumerate() {
            range.set(of.wrapping_add(1), [t, t + 1].map(|t| t * count / threads));
        }
        // A thread that goes to sleep counts itself, then looks for work; here the order is the other way
        // round, so one of the two sees the other.
        fence(Ordering::SeqCst);
        let sleeping = self.sleeping.load(Ordering::Relaxed);
        if sleeping > 0 {
            drop(lock(&self.door));
            (0..sleeping.min(count - 1)).for_each(|_| self.bell.notify_one());
        }
        self.take_all(0);
        let mut looks = 0;
        while self.ended.load(Ordering::Acquire) < count {
            wait(&mut looks);
        }
        let panic = lock(&self.panic).take();
        self.busy.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
    /// Runs tasks until there are none to begin; whether there was one.
    fn take_all(&self, index: usize) -> bool {
        let threads = self.ranges.len();
        let mut any = false;
        for range in (index..index + threads).map(|t| &self.ranges[t % threads]) {
            while let Some(task) = range.take() {
                any = true;
                // SAFETY: a task of this loop was taken and has not ended, so its body is set and alive.
                let body = unsafe { (*self.body.get()).map(|body| &*body) };
                if let Some(Err(e)) = body.map(|body| catch_unwind(AssertUnwindSafe(|| body(task)))) {
                    lock(&self.panic).get_or_insert(e);
                }
                self.ended.fetch_add(1, Ordering::Release);
            }
        }
        any
    }
    fn idle(&self) -> bool {
        self.ranges.iter().all(Range::is_empty)
    }
    /// What a thread does until the end.
    fn work(&self, index: usize) {
        INDEX.set(index);
        let mut looks = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if self.take_all(index) {
                looks = 0;
                continue;
            }
            wait(&mut looks);
            if looks >= LOOKS_IN_ALL {
                self.sleep();
                looks = 0;
            }
        }
    }
    fn sleep(&self) {
        let door = lock(&self.door);
        self.sleeping.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.idle() && !self.stop.load(Ordering::SeqCst) {
            // Woken without reason, it looks again and comes back.
            drop(self.bell.wait(door).unwrap_or_else(PoisonError::into_inner));
        }
        self.sleeping.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Passes some time before the next look; later ones give the core to other threads.
fn wait(looks: &mut u32) {
    *looks = looks.saturating_add(1);
    if *looks < LOOKS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}
