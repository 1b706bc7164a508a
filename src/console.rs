//! Lines on standard error that a program can do without: progress and notes.

use std::fmt::Display;
use std::io::Write;

/// Writes a line to standard error, by one `write` where that is possible.
///
/// What cannot be written is dropped: a reader that went away or a log on a full disk must not end a run.
pub fn line(text: impl Display) {
    let _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}
