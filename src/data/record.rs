//! One row of any format: what the readers hand over, and what is said of a row that is bad.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::suggest::nearest;

/// Which columns (or JSON keys) hold what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// The text.
    pub text: String,
    /// The second text of a pair, if the task is about pairs.
    pub pair: Option<String>,
    /// The label, if it is wanted.
    pub label: Option<String>,
    /// The weight of the row in the loss, if the rows have weights.
    pub weight: Option<String>,
}

/// What to do about a row that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnBadRow {
    /// Stop with its error.
    #[default]
    Stop,
    /// Leave it out and list it; stop all the same if more than 1 % of the rows (and more than one) are bad.
    Skip,
}

/// One example as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The text; may be empty.
    pub text: String,
    /// The second text, if a column for it was named.
    pub pair: Option<String>,
    /// The label as it is written, if a column for it was named. Never empty.
    pub label: Option<String>,
    /// The line it starts in, counted from 1; of Parquet the row, counted from 1. 0 if it is from no file.
    pub line: u64,
}

impl From<String> for Row {
    /// A row with one text.
    fn from(text: String) -> Self {
        Self { text, pair: None, label: None, line: 0 }
    }
}

impl From<&str> for Row {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<(&str, &str)> for Row {
    /// A row with two texts.
    fn from((text, pair): (&str, &str)) -> Self {
        Self { pair: Some(pair.to_owned()), ..text.into() }
    }
}

/// A row that could not be read, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadRow {
    /// The line, counted from 1; of Parquet the row, counted from 1.
    pub line: u64,
    /// The column, counted from 1 in characters; only in JSON arrays, where several rows may share a line.
    pub column: Option<u64>,
    /// The byte in the file, counted from 0; none for Parquet and JSON arrays.
    pub byte: Option<u64>,
    /// The file, where the rows are the files of a folder.
    pub file: Option<Box<Path>>,
    /// What is wrong.
    pub what: Box<str>,
    /// What would have been right.
    pub expected: Option<Box<str>>,
    /// What was there.
    pub found: Option<Box<str>>,
    /// What to do about it.
    pub hint: Option<Box<str>>,
}

impl BadRow {
    pub(super) fn new(line: u64, byte: Option<u64>, what: impl Into<String>) -> Self {
        let what = what.into().into_boxed_str();
        Self { line, column: None, byte, file: None, what, expected: None, found: None, hint: None }
    }
    pub(super) fn with_column(self, column: Option<u64>) -> Self {
        Self { column, ..self }
    }
    pub(super) fn with_file(self, file: &Path) -> Self {
        Self { file: Some(file.into()), ..self }
    }
    pub(super) fn with_expected(self, s: impl Into<String>) -> Self {
        Self { expected: Some(s.into().into_boxed_str()), ..self }
    }
    pub(super) fn with_found(self, s: impl Into<String>) -> Self {
        Self { found: Some(s.into().into_boxed_str()), ..self }
    }
    pub(super) fn with_help(self, s: impl Into<String>) -> Self {
        Self { hint: Some(s.into().into_boxed_str()), ..self }
    }
    /// The same as an error about a file.
    pub fn error(&self, path: &Path) -> Error {
        let path = self.file.as_deref().unwrap_or(path);
        let mut e = Error::data(&*self.what).at(path).with_line(self.line);
        if let Some(column) = self.column {
            e = e.with_column(column);
        }
        if let Some(byte) = self.byte {
            e = e.with_byte(byte);
        }
        if let Some(s) = &self.expected {
            e = e.with_expected(&**s);
        }
        if let Some(s) = &self.found {
            e = e.with_found(&**s);
        }
        if let Some(s) = &self.hint {
            e = e.with_help(&**s);
        }
        e
    }
}

/// What a row holds before columns are chosen.
pub(super) enum Cells {
    /// Fields in the order of the header.
    List(Vec<String>),
    /// Named values: JSON and Parquet.
    Object(Vec<(String, Value)>),
}

/// A row of any format and where it starts. Of Parquet and of folders the line is the number of the row,
/// counted from 1, and there are no bytes.
pub(super) struct Record {
    pub line: u64,
    pub place: Place,
    pub byte: Option<u64>,
    pub cells: Cells,
}

/// Where a row stands, as far as its line does not say it.
#[derive(Clone)]
pub(super) enum Place {
    Line,
    /// The column, counted from 1 in characters: in a JSON array several rows may share a line.
    Column(u64),
    /// A file of its own, in a folder.
    File(PathBuf),
}

/// A row that was read, or one that was not and after which reading can go on.
pub(super) type Found = std::result::Result<Record, BadRow>;

/// The rows of an open file.
pub(super) trait Rows {
    /// Column names, where the file states them before its rows.
    fn header(&self) -> Option<&[String]>;
    /// The next row. An error says that nothing after it can be trusted.
    fn next(&mut self) -> Result<Option<Found>>;
    /// BLAKE3 of the file's bytes; meaningful once all rows are read.
    fn hash(&self) -> String;
}

impl Record {
    pub(super) fn bad(&self, what: impl Into<String>) -> BadRow {
        match &self.place {
            Place::Line => BadRow::new(self.line, self.byte, what),
            Place::Column(column) => BadRow::new(self.line, None, what).with_column(Some(*column)),
            Place::File(file) => BadRow::new(1, None, what).with_file(file),
        }
    }
    pub(super) fn lacks<'k>(&self, name: &str, there: impl Iterator<Item = &'k str> + Clone) -> BadRow {
        let bad = self.bad(format!("there is no key {name:?}")).with_found(list(there.clone()));
        match nearest(name, there) {
            Some(near) => bad.with_help(format!("did you mean {near:?}?")),
            None => bad.with_help("name one of these keys, or add the missing key to the row"),
        }
    }
}

/// What a JSON value is, for a message.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Names for a message: at most twenty, then how many more.
pub(super) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 20;
    let names: Vec<&str> = names.collect();
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 if names.is_empty() => "none".to_string(),
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
