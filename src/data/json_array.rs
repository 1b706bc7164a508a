//! JSON files that hold an array of objects, bare or as the only array of an object: `[{...}, ...]` or
//! `{"data": [{...}, ...]}`. Each object is a row, as a line of JSON Lines is. Objects stand anywhere in a
//! line, so their places are lines and columns.

use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, IgnoredAny};

use super::jsonl::Object;
use super::record::{BadRow, Cells, Found, Place, Record, Rows, list};
use crate::error::{Error, Result};

/// A place in the text that only moves forward, so that counting lines and columns reads each byte once.
struct Cursor {
    byte: usize,
    line: u64,
    column: u64,
}

pub(super) struct ArrayRows {
    text: String,
    path: PathBuf,
    hash: String,
    /// Where reading goes on: behind the bracket, or behind the last object.
    at: usize,
    cursor: Cursor,
    first: bool,
    ended: bool,
    /// Whether the array stands in an object, whose rest was checked before.
    wrapped: bool,
}

/// Why a value cannot be read: where, and in the parser's words.
struct Unread {
    byte: usize,
    why: String,
    /// Whether it is valid JSON of another kind than was asked for.
    is_data: bool,
}

/// Reads the value that begins at `at`; returns it and where it ends.
fn value<T: DeserializeOwned>(text: &str, at: usize) -> std::result::Result<(T, usize), Unread> {
    let rest = text.get(at..).unwrap_or_default();
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<T>();
    match values.next() {
        Some(Ok(value)) => Ok((value, at + values.byte_offset())),
        Some(Err(e)) => {
            // serde_json counts columns in bytes from 1; 0 stands for "before the first".
            let line: usize = rest.split_inclusive('\n').take(e.line().saturating_sub(1)).map(str::len).sum();
            let mut byte = (at + line + e.column().saturating_sub(1)).min(text.len());
            while !text.is_char_boundary(byte) {
                byte -= 1;
            }
            let why = e.to_string();
            let why = why.split(" at line ").next().unwrap_or_default().to_owned();
            Err(Unread { byte, why, is_data: e.is_data() })
        }
        None => Err(Unread { byte: text.len(), why: "the end of the file".to_owned(), is_data: false }),
    }
}

/// The first byte from `at` on that is no white space, and where it is.
fn next_byte(text: &str, at: usize) -> (Option<u8>, usize) {
    let rest = text.as_bytes().get(at..).unwrap_or_default();
    let skip = rest.iter().position(|b| !b" \t\r\n".contains(b)).unwrap_or(rest.len());
    (rest.get(skip).copied(), at + skip)
}

impl ArrayRows {
    /// `text` is the whole file without a byte order mark.
    pub fn new(text: String, hash: String, path: &Path) -> Result<Self> {
        let mut rows = Self {
            text,
            path: path.to_path_buf(),
            hash,
            at: 0,
            cursor: Cursor { byte: 0, line: 1, column: 1 },
            first: true,
            ended: false,
            wrapped: false,
        };
        let (start, at) = next_byte(&rows.text, 0);
        rows.at = match start {
            Some(b'[') => at + 1,
            Some(b'{') => {
                rows.wrapped = true;
                rows.only_array(at)?
            }
            _ => return Err(rows.not_an_array(at, "text that begins with neither [ nor {".to_owned())),
        };
        Ok(rows)
    }

    /// Where the only array among the values of the object that begins at `start` has its first element. All
    /// of the object is read, so that the rest of the file is known to be right.
    fn only_array(&mut self, start: usize) -> Result<usize> {
        let (mut keys, mut arrays) = (Vec::new(), Vec::new());
        let mut at = start + 1;
        loop {
            let (byte, here) = next_byte(&self.text, at);
            if byte == Some(b'}') && keys.is_empty() {
                at = here + 1;
                break;
            }
            let (key, end) = value::<String>(&self.text, here).map_err(|e| self.invalid(e))?;
            let (colon, here) = next_byte(&self.text, end);
            if colon != Some(b':') {
                return Err(self.wrong(here, "a colon"));
            }
            let (byte, here) = next_byte(&self.text, here + 1);
            if byte == Some(b'[') {
                arrays.push((key.clone(), here + 1));
            }
            keys.push(key);
            let (_, end) = value::<IgnoredAny>(&self.text, here).map_err(|e| self.invalid(e))?;
            let (byte, here) = next_byte(&self.text, end);
            at = here + 1;
            match byte {
                Some(b',') => {}
                Some(b'}') => break,
                _ => return Err(self.wrong(here, "a comma or the end of the object")),
            }
        }
        let (more, here) = next_byte(&self.text, at);
        if more == Some(b'{') {
            let e = self.error(here, "a second object follows the first: the file is JSON Lines");
            return Err(e
                .with_expected("one array of objects in a .json file")
                .with_help("rename the file to .jsonl"));
        }
        if more.is_some() {
            return Err(self.wrong(here, "the end of the file"));
        }
        match arrays.as_slice() {
            [(_, first)] => Ok(*first),
            [] => {
                let found = format!("an object with the keys {}", list(keys.iter().map(String::as_str)));
                Err(self.not_an_array(start, found))
            }
            several => {
                let found = list(several.iter().map(|(key, _)| key.as_str()));
                Err(self.not_an_array(start, format!("several arrays: {found}")))
            }
        }
    }

    fn not_an_array(&mut self, byte: usize, found: String) -> Error {
        self.error(byte, "the file is not an array of objects")
            .with_expected(
                "[{...}, ...], one object for each row, or an object whose only array holds the objects",
            )
            .with_found(found)
            .with_help("write one object for each row (pandas: to_json(FILE, orient=\"records\"))")
    }
    /// The line and the column of a byte, each counted from 1, the column in characters.
    fn place(&mut self, byte: usize) -> (u64, u64) {
        for c in self.text.get(self.cursor.byte..byte).unwrap_or_default().chars() {
            if c == '\n' {
                (self.cursor.line, self.cursor.column) = (self.cursor.line + 1, 1);
            } else {
                self.cursor.column += 1;
            }
        }
        self.cursor.byte = self.cursor.byte.max(byte);
        (self.cursor.line, self.cursor.column)
    }
    fn error(&mut self, byte: usize, what: &str) -> Error {
        let (line, column) = self.place(byte);
        Error::data(what).at(&self.path).with_line(line).with_column(column)
    }
    fn wrong(&mut self, byte: usize, expected: &str) -> Error {
        let found = self.text.get(byte..).and_then(|rest| rest.chars().next());
        let found = found.map_or("the end of the file".to_owned(), |c| format!("{c:?}"));
        self.error(byte, "the file is not valid JSON").with_expected(expected).with_found(found)
    }
    fn invalid(&mut self, e: Unread) -> Error {
        self.error(e.byte, "the file is not valid JSON").with_found(e.why)
    }
}

impl Rows for ArrayRows {
    fn header(&self) -> Option<&[String]> {
        None
    }
    fn next(&mut self) -> Result<Option<Found>> {
        if self.ended {
            return Ok(None);
        }
        let (mut byte, mut at) = next_byte(&self.text, self.at);
        if byte == Some(b']') {
            self.ended = true;
            let (more, here) = next_byte(&self.text, at + 1);
            return match more {
                Some(_) if !self.wrapped => Err(self.wrong(here, "the end of the file")),
                _ => Ok(None),
            };
        }
        if !self.first {
            if byte != Some(b',') {
                return Err(self.wrong(at, "a comma or the end of the array"));
            }
            (byte, at) = next_byte(&self.text, at + 1);
            if byte == Some(b']') {
                return Err(self.wrong(at, "an object behind the comma"));
            }
        }
        self.first = false;
        let (line, column) = self.place(at);
        match value::<Object>(&self.text, at) {
            Ok((Object(pairs), end)) => {
                self.at = end;
                Ok(Some(Ok(Record {
                    line,
                    place: Place::Column(column),
                    byte: None,
                    cells: Cells::Object(pairs),
                })))
            }
            Err(e) if e.is_data => {
                // The value is JSON: what follows it can be read.
                let (_, end) = value::<IgnoredAny>(&self.text, at).map_err(|e| self.invalid(e))?;
                self.at = end;
                let bad = BadRow::new(
                    line,
                    None,
                    "an element of the array is not a JSON object in which each key stands once",
                );
                Ok(Some(Err(bad
                    .with_column(Some(column))
                    .with_expected("an object for each row")
                    .with_found(e.why))))
            }
            Err(e) => Err(self.invalid(e)),
        }
    }
    fn hash(&self) -> String {
        self.hash.clone()
    }
}
