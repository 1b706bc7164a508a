//! Reads untrusted JSON with limits on size, depth and number of values, and refuses duplicate keys.
//!
//! `serde_json` silently keeps the last of two equal keys, and other readers keep the first. So a file with a
//! duplicate key means different things to different programs. The depth limit of 128 is `serde_json`'s.

use crate::error::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::io::Read;
use std::path::Path;

/// Limits on the contents of a JSON text.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The number of values of all types; it bounds the memory that parsing takes.
    pub values: usize,
    /// The number of members of the outermost object.
    pub members: usize,
}

/// The limits of [`read_json`]: at most 4 million values (a vocabulary of 250 000 words has 0.75 million).
pub const ORDINARY: Limits = Limits { values: 4_000_000, members: 4_000_000 };

/// Reads a JSON file of at most `max_bytes` bytes and at most 128 levels, without duplicate keys.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model), naming the file, and the line and column of invalid JSON.
pub fn read_json(path: &Path, max_bytes: u64) -> Result<serde_json::Value> {
    let bytes = read_limited(path, max_bytes)?;
    check(&bytes, ORDINARY).map_err(|e| located(path, &e))?;
    serde_json::from_slice(&bytes).map_err(|e| located(path, &e))
}

/// The contents of a regular file. A file larger than `max_bytes` is refused before reading.
pub(crate) fn read_limited(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let fail = |e: std::io::Error| Error::io(crate::error::Kind::Model, "cannot read the file", path, &e);
    // Checked before opening: opening a named pipe would block forever.
    let meta = std::fs::metadata(path).map_err(fail)?;
    if !meta.is_file() {
        return Err(Error::model("not a regular file").at(path).with_expected("a regular file"));
    }
    let too_long = |found: String| {
        Error::model("the file is too large")
            .at(path)
            .with_expected(format!("at most {max_bytes} bytes"))
            .with_found(found)
    };
    if meta.len() > max_bytes {
        return Err(too_long(format!("{} bytes", meta.len())));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > max_bytes {
        return Err(too_long("a file that grew while it was read".into()));
    }
    Ok(bytes)
}

/// Converts a parser's error, with its line and column.
pub(crate) fn located(path: &Path, e: &serde_json::Error) -> Error {
    let text = e.to_string();
    // The parser appends the line and column to its sentence; here they have their own fields.
    let what = text.split(" at line ").next().unwrap_or(&text);
    let err = Error::model(format!("invalid JSON: {what}"))
        .at(path)
        .with_help("correct the file, or download the model again");
    if e.line() == 0 { err } else { err.with_line(e.line() as u64).with_column(e.column() as u64) }
}

/// Checks a JSON text without building it: syntax, depth, limits and duplicate keys.
///
/// # Errors
/// The first violation, with its line and column.
pub fn check(bytes: &[u8], limits: Limits) -> serde_json::Result<()> {
    let left = Cell::new(limits.values);
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    Walk { left: &left, members: limits.members }.deserialize(&mut parser)?;
    parser.end()
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    left: &'a Cell<usize>,
    members: usize,
}

impl Walk<'_> {
    fn inner(self) -> Self {
        Self { members: usize::MAX, ..self }
    }
    fn count<E: serde::de::Error>(&self) -> std::result::Result<(), E> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| E::custom("too many values"))?;
        self.left.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

macro_rules! scalars { ($($visit:ident $t:ty),*) => { $(
    fn $visit<E: serde::de::Error>(self, _: $t) -> std::result::Result<(), E> { self.count() }
)* } }

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    scalars! { visit_bool bool, visit_i64 i64, visit_u64 u64, visit_f64 f64, visit_str &str }
    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<(), E> {
        self.count()
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        self.count()?;
        while seq.next_element_seed(self.inner())?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        self.count()?;
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if keys.len() >= self.members {
                return Err(A::Error::custom(format!("an object with more than {} members", self.members)));
            }
            if keys.contains(&key) {
                return Err(A::Error::custom(format!("duplicate key `{}`", key.escape_debug())));
            }
            keys.insert(key);
            map.next_value_seed(self.inner())?;
        }
        Ok(())
    }
}
