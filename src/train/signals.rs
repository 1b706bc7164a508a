//! Signals set flags; the loop looks at them between two steps, where a checkpoint is whole.

use crate::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What signals have asked for.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    stop: Arc<AtomicUsize>,
    save: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers: SIGINT and SIGTERM stop after the step, a second signal of either kind at once;
    /// SIGUSR1 saves.
    ///
    /// # Errors
    /// [`Kind::Device`](crate::error::Kind::Device) if the system refuses a handler.
    pub fn install() -> Result<Signals> {
        let signals = Signals::default();
        let fail = |e: std::io::Error| {
            Error::device("signal handlers cannot be installed").with_found(e.to_string())
        };
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds `again` false and sets it, the second one quits.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, again.clone())
                .map_err(fail)?;
            signal_hook::flag::register(signal, again.clone()).map_err(fail)?;
            signal_hook::flag::register_usize(signal, signals.stop.clone(), signal as usize).map_err(fail)?;
        }
        #[cfg(unix)]
        signal_hook::flag::register(signal_hook::consts::SIGUSR1, signals.save.clone()).map_err(fail)?;
        Ok(signals)
    }
    /// The signal that asks the run to stop, if one came.
    pub fn stop(&self) -> Option<i32> {
        match self.stop.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal as i32),
        }
    }
    /// Whether a checkpoint was asked for since the last time this was called.
    pub fn take_save(&self) -> bool {
        self.save.swap(false, Ordering::Relaxed)
    }
}

/// What a person calls a signal that stops a run.
pub fn name(signal: i32) -> String {
    match signal {
        SIGINT => "Ctrl-C (SIGINT)".to_owned(),
        SIGTERM => "SIGTERM".to_owned(),
        other => format!("signal {other}"),
    }
}
