//! Ends a benchmark soon after a signal, and keeps what was measured.
//!
//! A benchmark looks for signals between two samples. Some work between them takes longer and cannot be
//! interrupted: the compilation of a kernel, one run of a large op. So a thread waits for the signal too. If
//! measuring has not ended a moment later, this thread writes the rows that are complete and ends the
//! process.

use crate::bench::report::Machine;
use crate::bench::{Control, Report};
use crate::cli::style::Voice;
use crate::error::{Error, Kind, Result};
use crate::train::{Signals, signals};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The time that measuring has to end after a signal. With the time to write the result, the
/// process ends within a second.
const GRACE: Duration = Duration::from_millis(600);
/// How often the thread looks for a signal.
const LOOK: Duration = Duration::from_millis(20);

/// The rows measured so far, and the signals.
pub struct Guard {
    signals: Signals,
    state: Mutex<InterruptState>,
    changed: Condvar,
}

#[derive(Default)]
struct InterruptState {
    /// The last report that was told; `None` before the first.
    latest: Option<Report>,
    /// Whether measuring has ended.
    done: bool,
}

impl Control for Guard {
    fn stop(&self) -> Option<i32> {
        self.signals.stop()
    }
    fn added(&self, report: &Report) {
        self.state().latest = Some(report.clone());
    }
}

/// Tells that measuring has ended, also when it ends by a panic.
struct Done<'a>(&'a Guard);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.state().done = true;
        self.0.changed.notify_all();
    }
}

impl Guard {
    fn state(&self) -> MutexGuard<'_, InterruptState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `measure`. If it still runs a moment after a signal, `write` gets the rows that are complete, and
    /// the process ends with the exit code of the signal.
    ///
    /// # Errors
    /// Those of `measure`, and of installing signal handlers.
    pub fn run<T>(
        voice: &Voice,
        write: &(dyn Fn(&Report) -> Result<()> + Sync),
        measure: impl FnOnce(&Guard) -> Result<T>,
    ) -> Result<T> {
        let guard = Guard { signals: Signals::install()?, state: Mutex::default(), changed: Condvar::new() };
        std::thread::scope(|scope| {
            scope.spawn(|| guard.watch(voice, write));
            let _done = Done(&guard);
            measure(&guard)
        })
    }

    /// Returns when measuring has ended.
    fn watch(&self, voice: &Voice, write: &(dyn Fn(&Report) -> Result<()> + Sync)) {
        let mut state = self.state();
        let mut since: Option<Instant> = None;
        while !state.done {
            if let Some(signal) = self.stop()
                && since.get_or_insert_with(Instant::now).elapsed() > GRACE
            {
                let report = state.latest.take().unwrap_or_else(Report::begin);
                // Held: nothing can be added or written by the other thread any more.
                let code = finish(report, signal, voice, write);
                signal_hook::low_level::exit(code);
            }
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Marks a report as stopped by a signal. Returns the exit code.
pub fn mark(report: &mut Report, signal: i32) -> i32 {
    report.complete = false;
    report.stopped = Some(format!("stopped by {}", signals::name(signal)));
    Error::new(Kind::Interrupted(signal), "stopped").exit_code()
}

fn finish(
    mut report: Report,
    signal: i32,
    voice: &Voice,
    write: &(dyn Fn(&Report) -> Result<()> + Sync),
) -> i32 {
    let code = mark(&mut report, signal);
    if let Some(device) = report.devices.last_mut() {
        device.machine.load_after = Machine::load();
    }
    let ceilings: Vec<_> = report.devices.iter().map(|d| (d.id.clone(), d.ceilings.clone())).collect();
    for (id, ceilings) in ceilings {
        if let Some(ceilings) = ceilings {
            report.judge(&id, ceilings, None);
        }
    }
    match write(&report) {
        Ok(()) => code,
        Err(e) => {
            voice.error(&e);
            // What could not be written matters more than the signal; that there is nothing to compare yet
            // does not.
            if e.kind() == Kind::Disk { e.exit_code() } else { code }
        }
    }
}
