//! `metrics.jsonl`: one JSON object a line, appended by one `write` each, so that a reader never sees half a line and
//! a kill tears the last one at most.

use super::fs::{Fs, Sink, replace_file};
use crate::error::{Error, Kind, Result};
use serde::Deserialize;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};

/// An open journal.
pub struct Journal {
    path: PathBuf,
    sink: Box<dyn Sink>,
    /// The length up to the last whole line.
    len: u64,
    /// Whether something of a failed write may lie behind it.
    torn: bool,
    /// Lines that opening took out because they are not JSON objects: a torn last line, or what a power loss left.
    pub damaged: usize,
    /// Lines that opening took out because they are of a later step than the one resumed from.
    pub beyond: usize,
}

#[derive(Deserialize)]
struct Line {
    step: Option<Value>,
}

impl Journal {
    /// Opens a journal for appending, making it if need be.
    ///
    /// Damaged lines go. With `resumed_step`, so do the entries whose `step` is greater: they will be written again. An
    /// entry without a step shares the fate of the line before it. The file is replaced as a whole or left alone.
    pub fn open(fs: &dyn Fs, path: &Path, resumed_step: Option<u64>) -> Result<Journal> {
        let old = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io(Kind::Disk, "cannot be read", path, &e)),
        };
        let (mut kept, mut damaged, mut beyond, mut late) = (Vec::with_capacity(old.len()), 0, 0, false);
        for line in old.split_inclusive(|&b| b == b'\n') {
            match serde_json::from_slice::<Line>(line) {
                Ok(entry) if line.ends_with(b"\n") => {
                    if let Some(step) = entry.step.as_ref().and_then(Value::as_u64) {
                        late = resumed_step.is_some_and(|resumed| step > resumed);
                    }
                    if late {
                        beyond += 1;
                    } else {
                        kept.extend_from_slice(line);
                    }
                }
                _ => damaged += 1,
            }
        }
        if kept.len() != old.len() {
            replace_file(fs, path, &kept).map_err(|e| unwritable(path, &e))?;
        }
        let sink = fs.append(path).map_err(|e| unwritable(path, &e))?;
        let len = kept.len() as u64;
        Ok(Journal { path: path.to_path_buf(), sink, len, torn: false, damaged, beyond })
    }

    /// Appends one entry by one `write`. After an error the journal is as before, and the next entry may be appended.
    pub fn append(&mut self, entry: &Value) -> Result<()> {
        let mut line = entry.to_string().into_bytes();
        line.push(b'\n');
        if self.torn {
            self.sink.truncate(self.len).map_err(|e| unwritable(&self.path, &e))?;
            self.torn = false;
        }
        let wrote = match self.sink.write(&line) {
            Ok(n) if n == line.len() => Ok(()),
            // A short write: the rest, if there is room, or it is cut away.
            Ok(n) => self.sink.write_all(line.get(n..).unwrap_or_default()),
            Err(e) => Err(e),
        };
        match wrote {
            Ok(()) => self.len += line.len() as u64,
            Err(_) => self.torn = self.sink.truncate(self.len).is_err(),
        }
        wrote.map_err(|e| unwritable(&self.path, &e))
    }

    /// Returns once all entries are on the disk; called with each checkpoint.
    pub fn sync(&mut self) -> Result<()> {
        self.sink.sync().map_err(|e| unwritable(&self.path, &e))
    }
}

fn unwritable(path: &Path, e: &std::io::Error) -> Error {
    Error::io(Kind::Disk, "the journal cannot be written", path, e)
}

/// A number for the journal. JSON has no NaN, and `null` would hide it: it is written `"NaN"`, and infinities
/// `"Infinity"` and `"-Infinity"`.
pub fn number(x: f64) -> Value {
    match serde_json::Number::from_f64(x) {
        Some(n) => Value::Number(n),
        None if x.is_nan() => "NaN".into(),
        None if x > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}
