//! JSON from outside, read with limits: size, depth, number of values, and no key twice in one object.
//!
//! `serde_json` keeps the last of two equal keys without a word, and other readers keep the first; so a file with a
//! duplicate means different things to different programs, and is refused. The depth limit of 128 is `serde_json`'s.

use crate::error::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::io::Read;
use std::path::Path;

/// What a JSON text may hold at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Values of every sort, counted together: bounds the memory that parsing takes.
    pub values: usize,
    /// Members of the outermost object.
    pub members: usize,
}

/// The limits of [`read_json`]: no more than 4 million values (a vocabulary of 250 000 words has 0.75 million).
pub const ORDINARY: Limits = Limits { values: 4_000_000, members: 4_000_000 };

/// Reads a JSON file of at most `max_bytes` bytes, at most 128 levels deep, in which no object has a key twice.
///
/// Errors are of kind `Model` and name the file, the line and the column.
pub fn read_json(path: &Path, max_bytes: u64) -> Result<serde_json::Value> {
    let bytes = read_limited(path, max_bytes)?;
    check(&bytes, ORDINARY).map_err(|e| located(path, &e))?;
    serde_json::from_slice(&bytes).map_err(|e| located(path, &e))
}

/// The whole of a regular file, refused unread when it is larger than `max_bytes`.
pub(crate) fn read_limited(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let fail = |e: std::io::Error| Error::io(crate::error::Kind::Model, "cannot be read", path, &e);
    // Asked before opening: opening a named pipe would wait for ever.
    let meta = std::fs::metadata(path).map_err(fail)?;
    if !meta.is_file() {
        return Err(Error::model("is not a file").at(path).with_expected("a regular file"));
    }
    let too_long = |found: String| {
        Error::model("is too large")
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
        return Err(too_long("a file that grows while it is read".into()));
    }
    Ok(bytes)
}

/// Turns a parser's error into ours, with its place.
pub(crate) fn located(path: &Path, e: &serde_json::Error) -> Error {
    let text = e.to_string();
    // The place stands in its own fields; the parser also appends it to its sentence.
    let what = text.split(" at line ").next().unwrap_or(&text);
    let err = Error::model(format!("is not JSON as it should be: {what}")).at(path);
    if e.line() == 0 { err } else { err.with_line(e.line() as u64).with_column(e.column() as u64) }
}

/// Walks a JSON text without building it: syntax, depth, limits, and keys given twice.
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
        let left = self.left.get().checked_sub(1).ok_or_else(|| E::custom("it holds too many values"))?;
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
                return Err(A::Error::custom(format!("it has more than {} members", self.members)));
            }
            if keys.contains(&key) {
                return Err(A::Error::custom(format!("the key `{}` is given twice", key.escape_debug())));
            }
            keys.insert(key);
            map.next_value_seed(self.inner())?;
        }
        Ok(())
    }
}
