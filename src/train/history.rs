//! The log as scripts that plot transformers' runs read it: `trainer_state.json`.
//!
//! A checkpoint holds the newest [`KEPT`] entries, so that its size does not grow with the run; the run
//! folder has them all, from the end of the run on, where `Trainer.save_state` of transformers puts them.

use super::state::pretty;
use crate::checkpoint::json::read_limited;
use crate::checkpoint::{Fs, write_file};
use crate::error::{Error, Kind, Result};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::Value;
use std::collections::VecDeque;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// How many entries of the log a checkpoint holds.
pub const KEPT: usize = 10_000;

/// The newest entries of the log.
#[derive(Clone, Debug, Default)]
pub struct History(VecDeque<Value>);

impl History {
    /// The newest entries of the log that a checkpoint holds, which has been verified.
    ///
    /// # Errors
    /// [`Kind::Model`] if it is no such log.
    pub fn of_checkpoint(dir: &Path) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Log {
            log_history: History,
        }
        let path = dir.join("trainer_state.json");
        if !path.exists() {
            return Ok(Self::default());
        }
        // Earlier versions kept the whole log in it, which had no limit.
        let bytes = read_limited(&path, 4 << 30)?;
        let log: Log = serde_json::from_slice(&bytes).map_err(|e| {
            Error::model("this file does not hold the log of a run").at(&path).with_found(e.to_string())
        })?;
        Ok(log.log_history)
    }

    /// Adds a line of the journal, if it is one of the log.
    pub fn add(&mut self, line: &Value) {
        if let Some(entry) = log_entry(line.clone()) {
            self.push(entry);
        }
    }

    fn push(&mut self, entry: Value) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(entry);
    }

    /// They, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Value> {
        self.0.iter()
    }
}

impl<'de> Deserialize<'de> for History {
    /// Entry by entry, so that no more than the newest are ever in memory.
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = History;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of log entries")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<History, A::Error> {
                let mut history = History::default();
                while let Some(entry) = seq.next_element()? {
                    history.push(entry);
                }
                Ok(history)
            }
        }
        d.deserialize_seq(Entries)
    }
}

/// The entry of `log_history` that a line of the journal stands for: none for a skipped step and the like.
fn log_entry(mut line: Value) -> Option<Value> {
    let fields = line.as_object_mut()?;
    if !fields.contains_key("epoch") || fields.contains_key("skipped") {
        return None;
    }
    fields.remove("tokens_per_second");
    Some(line)
}

/// Calls `each` with every entry of the log in a journal, in order.
fn entries(journal: &Path, mut each: impl FnMut(Value)) -> Result<()> {
    let fail = |e: std::io::Error| Error::io(Kind::Disk, "cannot be read", journal, &e);
    let file = match std::fs::File::open(journal) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(fail(e)),
    };
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(fail)?;
        if let Some(entry) = serde_json::from_slice(&line).ok().and_then(log_entry) {
            each(entry);
        }
    }
    Ok(())
}

/// Writes `trainer_state.json` into a run folder: `state` with the whole log of the journal as its
/// `log_history`, or with `newest` where the journal has less, as when a checkpoint was copied without it.
///
/// # Errors
/// [`Kind::Disk`].
pub fn write_whole(fs: &dyn Fs, dir: &Path, mut state: Value, newest: &History) -> Result<()> {
    state["log_history"] = Value::Array(Vec::new());
    let text = String::from_utf8_lossy(&pretty(&state)).into_owned();
    // The entries go between the brackets as text: as values they would take many times the memory.
    let (before, after) = text.split_once("\"log_history\": []").unwrap_or((&text, ""));
    let mut out = before.as_bytes().to_vec();
    out.extend_from_slice(b"\"log_history\": [");
    let start = out.len();
    let add = |out: &mut Vec<u8>, entry: &Value| {
        out.extend_from_slice(if out.len() == start { b"\n    " } else { b",\n    " });
        out.extend_from_slice(entry.to_string().as_bytes());
    };
    let mut lines = 0;
    entries(&dir.join("metrics.jsonl"), |entry| {
        add(&mut out, &entry);
        lines += 1;
    })?;
    if lines < newest.0.len() {
        out.truncate(start);
        newest.entries().for_each(|entry| add(&mut out, entry));
    }
    out.extend_from_slice(if out.len() == start { b"]" } else { b"\n  ]" });
    out.extend_from_slice(after.as_bytes());
    write_file(fs, &dir.join("trainer_state.json"), &out)
}
