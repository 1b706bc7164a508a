//! JSON Lines: one object a line. Keys given twice are refused; `serde_json::Map` would keep the last without
//! a word.

use std::collections::HashSet;
use std::fmt;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::lines::{At, Lines, MAX_LINE, trim_end};
use super::record::{BadRow, Cells, Found, Place, Record, Rows};
use super::separated::bad_bytes;
use crate::error::{Error, Kind, Result};

pub(super) struct JsonRows<R> {
    lines: Lines<R>,
    path: PathBuf,
    raw: Vec<u8>,
    first: Option<At>,
}

impl<R: BufRead> JsonRows<R> {
    /// `first` is the first line, found at `at`, without a byte order mark.
    pub fn new(lines: Lines<R>, first: Vec<u8>, at: At, path: &Path) -> Self {
        Self { lines, path: path.to_path_buf(), raw: first, first: Some(at) }
    }
}

impl<R: BufRead> Rows for JsonRows<R> {
    fn header(&self) -> Option<&[String]> {
        None
    }
    fn next(&mut self) -> Result<Option<Found>> {
        loop {
            let at = match self.first.take() {
                Some(at) => at,
                None => {
                    self.raw.clear();
                    let next = self.lines.next(&mut self.raw);
                    match next
                        .map_err(|e| Error::io(Kind::Data, "the file cannot be read", &self.path, &e))?
                    {
                        Some(at) => at,
                        None => return Ok(None),
                    }
                }
            };
            let body = trim_end(&self.raw);
            if at.too_long {
                return Ok(Some(Err(BadRow::new(at.line, Some(at.byte), "the line is too long")
                    .with_expected(format!("at most {} MiB", MAX_LINE >> 20))
                    .with_help("split the text, or remove the line"))));
            }
            if !body.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(parse(body, at)));
            }
        }
    }
    fn hash(&self) -> String {
        self.lines.hash()
    }
}

fn parse(body: &[u8], at: At) -> Found {
    if let Some(bad) = bad_bytes(body, at) {
        return Err(bad);
    }
    let object: Object = serde_json::from_slice(body).map_err(|e| {
        // serde_json counts columns in bytes from 1; 0 stands for "before the first".
        let byte = at.byte + (e.column() as u64).saturating_sub(1);
        let text = e.to_string();
        let why = text.split(" at line ").next().unwrap_or_default().to_string();
        let hint = if body.starts_with(b"[") {
            "rename the file to .json if it is one array of objects"
        } else {
            "write one object in each line"
        };
        let what = if e.is_data() {
            "the line is not a JSON object in which each key stands once"
        } else {
            "the line is not valid JSON"
        };
        BadRow::new(at.line, Some(byte), what)
            .with_expected("one complete JSON object in each line")
            .with_found(why)
            .with_help(hint)
    })?;
    Ok(Record { line: at.line, place: Place::Line, byte: Some(at.byte), cells: Cells::Object(object.0) })
}

/// An object in the order of the file, with no key twice.
pub(super) struct Object(pub Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Object;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object such as {\"text\": \"...\"}")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Object, A::Error> {
                let mut pairs = Vec::new();
                let mut seen = HashSet::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if !seen.insert(key.clone()) {
                        return Err(serde::de::Error::custom(format_args!("the key {key:?} is given twice")));
                    }
                    pairs.push((key, value));
                }
                Ok(Object(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}
