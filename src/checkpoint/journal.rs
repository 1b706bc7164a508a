//! `metrics.jsonl`: one JSON object a line. Each line is appended by one `write`, so that a reader never sees
//! a partial line, and a kill damages at most the last one.

use crate::error::{Error, Kind, Result};
use crate::files::{Fs, Sink, replace_with};
use serde::Deserialize;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};

/// An open journal.
pub struct Journal {
    path: PathBuf,
    sink: Box<dyn Sink>,
    /// The length in bytes up to the end of the last complete line.
    len: u64,
    /// Whether the file may have bytes of a failed write after `len`.
    torn: bool,
    /// The number of lines that opening removed because they are not JSON objects, as after a kill or a power
    /// loss.
    pub damaged: usize,
    /// The number of lines that opening removed because they are of a later step than the one resumed from.
    pub beyond: usize,
}

#[derive(Deserialize)]
struct Line {
    step: Option<Value>,
}

impl Journal {
    /// Opens a journal for appending, and creates it if needed.
    ///
    /// Removes damaged lines. With `resumed_step` it also removes entries whose `step` is greater, which will
    /// be written again; an entry without a step is treated like the line before it. The file is replaced
    /// completely or not at all.
    ///
    /// # Errors
    /// [`Kind::Disk`] if the file cannot be read or written.
    pub fn open(fs: &dyn Fs, path: &Path, resumed_step: Option<u64>) -> Result<Journal> {
        let old = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io(Kind::Disk, "cannot read the journal", path, &e)),
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
            replace_with(fs, path, |out| out.write_all(&kept)).map_err(|e| unwritable(path, &e))?;
        }
        let sink = fs.append(path).map_err(|e| unwritable(path, &e))?;
        let len = kept.len() as u64;
        Ok(Journal { path: path.to_path_buf(), sink, len, torn: false, damaged, beyond })
    }

    /// Appends one entry by one `write`. After an error the journal is unchanged, and the next entry can be
    /// appended.
    ///
    /// # Errors
    /// [`Kind::Disk`] if the file cannot be written.
    pub fn append(&mut self, entry: &Value) -> Result<()> {
        let mut line = entry.to_string().into_bytes();
        line.push(b'\n');
        if self.torn {
            self.sink.truncate(self.len).map_err(|e| unwritable(&self.path, &e))?;
            self.torn = false;
        }
        let wrote = match self.sink.write(&line) {
            Ok(n) if n == line.len() => Ok(()),
            // A short write: write the rest; if that fails, the line is cut off below.
            Ok(n) => self.sink.write_all(line.get(n..).unwrap_or_default()),
            Err(e) => Err(e),
        };
        match wrote {
            Ok(()) => self.len += line.len() as u64,
            Err(_) => self.torn = self.sink.truncate(self.len).is_err(),
        }
        wrote.map_err(|e| unwritable(&self.path, &e))
    }

    /// Returns when all entries are on the disk (`fsync`). Called with each checkpoint.
    ///
    /// # Errors
    /// [`Kind::Disk`] if the file cannot be synced.
    pub fn sync(&mut self) -> Result<()> {
        self.sink.sync().map_err(|e| unwritable(&self.path, &e))
    }
}

fn unwritable(path: &Path, e: &std::io::Error) -> Error {
    Error::io(Kind::Disk, "cannot write the journal", path, e)
        .with_help("check the free space of the disk and the permissions of the folder")
}

/// A number for the journal. JSON has no NaN and no infinities, and `null` would hide them, so they become
/// the strings `"NaN"`, `"Infinity"` and `"-Infinity"`.
pub fn number(x: f64) -> Value {
    match serde_json::Number::from_f64(x) {
        Some(n) => Value::Number(n),
        None if x.is_nan() => "NaN".into(),
        None if x > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}
