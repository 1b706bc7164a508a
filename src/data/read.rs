//! Files -> rows, whatever the format: columns by name, and a rule for rows that cannot be read.

use std::collections::HashMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::format::{self, Cells, Format, Record, Rows};
use crate::error::{Error, Result};

/// Which columns (or JSON keys) hold what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// The text.
    pub text: String,
    /// The second text of a pair, if the task is about pairs.
    pub pair: Option<String>,
    /// The label, if it is wanted.
    pub label: Option<String>,
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
    /// The line it starts in, counted from 1; of Parquet the row, counted from 1.
    pub line: u64,
}

/// The rows of one file.
#[derive(Clone, Debug)]
pub struct Table {
    /// The file.
    pub path: PathBuf,
    /// Its rows in order.
    pub rows: Vec<Row>,
    /// The first rows that could not be read (at most [`Table::MAX_LISTED`]) and were left out.
    pub bad: Vec<BadRow>,
    /// How many there were.
    pub bad_count: u64,
    /// BLAKE3 of the file, in hexadecimal.
    pub hash: String,
}

/// A row that could not be read, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadRow {
    /// The line, counted from 1; of Parquet the row, counted from 1.
    pub line: u64,
    /// The byte in the file, counted from 0; none for Parquet.
    pub byte: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// What would have been right.
    pub expected: Option<String>,
    /// What was there.
    pub found: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl BadRow {
    pub(super) fn new(line: u64, byte: Option<u64>, what: impl Into<String>) -> Self {
        Self { line, byte, what: what.into(), expected: None, found: None, hint: None }
    }
    pub(super) fn with_expected(self, s: impl Into<String>) -> Self {
        Self { expected: Some(s.into()), ..self }
    }
    pub(super) fn with_found(self, s: impl Into<String>) -> Self {
        Self { found: Some(s.into()), ..self }
    }
    pub(super) fn with_help(self, s: impl Into<String>) -> Self {
        Self { hint: Some(s.into()), ..self }
    }
    /// The same as an error about a file.
    pub fn error(&self, path: &Path) -> Error {
        let mut e = Error::data(self.what.as_str()).at(path).with_line(self.line);
        if let Some(byte) = self.byte {
            e = e.with_byte(byte);
        }
        if let Some(s) = &self.expected {
            e = e.with_expected(s.as_str());
        }
        if let Some(s) = &self.found {
            e = e.with_found(s.as_str());
        }
        if let Some(s) = &self.hint {
            e = e.with_help(s.as_str());
        }
        e
    }
}

impl Table {
    /// How many bad rows are kept with their reasons; all are counted.
    pub const MAX_LISTED: usize = 1000;

    /// The table of some of its rows, in the order of `indices`; what does not exist is left out.
    pub fn subset(&self, indices: &[usize]) -> Self {
        let rows = indices.iter().filter_map(|i| self.rows.get(*i).cloned()).collect();
        Self { path: self.path.clone(), rows, bad: Vec::new(), bad_count: 0, hash: self.hash.clone() }
    }
}

/// Reads a file of examples; its format is told by its name (see [`Format::of`]).
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) if the file cannot be read, holds no row, lacks a column, or holds a row
/// that is bad (with [`OnBadRow::Skip`]: more than 1 % of them).
pub fn read(path: &Path, columns: &Columns, on_bad: OnBadRow) -> Result<Table> {
    finish(scan_with(path, Picker::new(columns)?, on_bad == OnBadRow::Stop)?, path)
}

/// The same where a label may be empty: rows that have any number of classes.
///
/// # Errors
/// Those of [`read`].
pub fn read_with_sets(path: &Path, columns: &Columns, on_bad: OnBadRow) -> Result<Table> {
    let picker = Picker { empty_label: true, ..Picker::new(columns)? };
    finish(scan_with(path, picker, on_bad == OnBadRow::Stop)?, path)
}

/// The same where the label column may be missing: from a header, or from rows of JSON Lines.
///
/// # Errors
/// Those of [`read`].
pub fn read_with_optional_label(path: &Path, columns: &Columns, on_bad: OnBadRow) -> Result<Table> {
    let header = format::open(path, None)?.header().map(<[String]>::to_vec);
    let there = |name: &String| header.as_ref().is_none_or(|header| header.contains(name));
    let columns = Columns { label: columns.label.clone().filter(there), ..columns.clone() };
    let picker = Picker { optional_label: true, ..Picker::new(&columns)? };
    finish(scan_with(path, picker, on_bad == OnBadRow::Stop)?, path)
}

fn finish((table, fatal): (Table, Option<Error>), path: &Path) -> Result<Table> {
    if let Some(e) = fatal {
        return Err(e);
    }
    judge(path, table.rows.len() as u64, table.bad_count, table.bad.first())?;
    Ok(table)
}

/// Refuses a file with no row that is good, or with more bad ones than [`OnBadRow::Skip`] allows.
pub(super) fn judge(path: &Path, good: u64, bad: u64, first: Option<&BadRow>) -> Result<()> {
    let all = good + bad;
    if let Some(first) = first.filter(|_| bad > (all / 100).max(1)) {
        let what = format!("{bad} of {all} rows are bad, more than 1 %; the first: {}", first.what);
        return Err(BadRow { what, ..first.clone() }.error(path));
    }
    if good == 0 {
        return Err(Error::data("the file has no rows")
            .at(path)
            .with_expected("at least one row")
            .with_found(if bad > 0 { "bad rows alone" } else { "none" }));
    }
    Ok(())
}

/// Reads as far as it can: the rows, and the error after which nothing can be read. `stop`: at the first bad row.
pub(super) fn scan(path: &Path, columns: &Columns, stop: bool) -> Result<(Table, Option<Error>)> {
    scan_with(path, Picker::new(columns)?, stop)
}

fn scan_with(path: &Path, picker: Picker, stop: bool) -> Result<(Table, Option<Error>)> {
    let mut source = format::open(path, Some(&picker.names))?;
    let index = picker.index(source.as_ref(), path)?;
    let mut table = Table {
        path: path.to_path_buf(),
        rows: Vec::new(),
        bad: Vec::new(),
        bad_count: 0,
        hash: String::new(),
    };
    let fatal = loop {
        let bad = match source.next() {
            Ok(None) => break None,
            Err(e) => break Some(e),
            Ok(Some(found)) => match found.and_then(|record| picker.row(record, &index)) {
                Ok(row) => {
                    table.rows.push(row);
                    continue;
                }
                Err(bad) => bad,
            },
        };
        if stop {
            break Some(bad.error(path));
        }
        table.bad_count += 1;
        if table.bad.len() < Table::MAX_LISTED {
            table.bad.push(bad);
        }
    };
    table.hash = source.hash();
    Ok((table, fatal))
}

/// All columns of a file or of standard input, for a program that adds columns of its own and writes them back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    /// The names of the columns; of JSON Lines the keys, in the order in which they first appear.
    pub header: Vec<String>,
    /// The rows; each has a field for every column. A JSON value that is no string is written as JSON, null as nothing.
    pub rows: Vec<Vec<String>>,
    /// The line each row starts in, counted from 1.
    pub lines: Vec<u64>,
    text: usize,
    pair: Option<usize>,
}

/// Reads a file, or standard input if `path` is `-` (then `format` says how it is written; CSV if it does not).
/// The label column is not looked for.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) as for [`read`]; the first bad row stops. A header line without rows is no error.
pub fn read_texts(path: &str, format: Option<Format>, columns: &Columns) -> Result<Records> {
    if path == "-" {
        let name = Path::new("standard input");
        return Records::from_reader(std::io::stdin().lock(), name, format.unwrap_or(Format::Csv), columns);
    }
    let path = Path::new(path);
    Records::gather(format::open(path, None)?, path, columns)
}

/// The names of a file's columns; of JSON Lines the keys of its first row.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) if the file cannot be opened or has neither a header line nor a row.
pub fn columns(path: &Path) -> Result<Vec<String>> {
    let mut source = format::open(path, None)?;
    if let Some(header) = source.header() {
        return Ok(header.to_vec());
    }
    match source.next()? {
        Some(Ok(Record { cells: Cells::Object(pairs), .. })) => {
            Ok(pairs.into_iter().map(|(key, _)| key).collect())
        }
        Some(Ok(Record { cells: Cells::List(fields), .. })) => Ok(fields),
        Some(Err(bad)) => Err(bad.error(path)),
        None => Err(Error::data("the file has no rows").at(path).with_expected("at least one row")),
    }
}

impl Records {
    /// Reads a stream of CSV, TSV or JSON Lines; `name` is what messages call it.
    ///
    /// # Errors
    /// As for [`read_texts`].
    pub fn from_reader(reader: impl BufRead, name: &Path, format: Format, columns: &Columns) -> Result<Self> {
        Self::gather(format::from_reader(reader, name, format)?, name, columns)
    }

    /// The text of each row and its pair.
    pub fn inputs(&self) -> Vec<(&str, Option<&str>)> {
        self.rows
            .iter()
            .filter_map(|row| {
                Some((row.get(self.text)?.as_str(), self.pair.and_then(|i| Some(row.get(i)?.as_str()))))
            })
            .collect()
    }

    fn gather(mut source: Box<dyn Rows + '_>, path: &Path, columns: &Columns) -> Result<Self> {
        let columns = Columns { label: None, ..columns.clone() };
        let picker = Picker::new(&columns)?;
        let index = picker.index(source.as_ref(), path)?;
        let mut header = source.header().map(<[String]>::to_vec).unwrap_or_default();
        let mut places: HashMap<String, usize> = header.iter().cloned().zip(0..).collect();
        let (mut rows, mut lines) = (Vec::new(), Vec::new());
        while let Some(found) = source.next()? {
            let record = found.map_err(|bad| bad.error(path))?;
            picker.look(&record, &index).map_err(|bad| bad.error(path))?;
            lines.push(record.line);
            rows.push(match record.cells {
                Cells::List(fields) => fields,
                Cells::Object(pairs) => {
                    let mut fields = vec![String::new(); header.len()];
                    for (key, value) in pairs {
                        let place = *places.entry(key.clone()).or_insert_with(|| {
                            header.push(key);
                            header.len() - 1
                        });
                        fields.resize(header.len(), String::new());
                        fields[place] = match value {
                            Value::String(s) => s,
                            Value::Null => String::new(),
                            other => other.to_string(),
                        };
                    }
                    fields
                }
            });
        }
        rows.iter_mut().for_each(|row| row.resize(header.len(), String::new()));
        // A header line alone is a table without rows; JSON Lines without a row has no columns either.
        if header.is_empty() {
            return Err(Error::data("the file has no rows").at(path).with_expected("at least one row"));
        }
        let place = |name: &str| header.iter().position(|h| h == name);
        let text = place(&columns.text).unwrap_or(0);
        let pair = columns.pair.as_deref().and_then(place);
        Ok(Self { text, pair, header, rows, lines })
    }
}

/// Takes the wanted columns out of a record. `names` and an index have the order text, pair, label without gaps.
struct Picker<'a> {
    names: Vec<&'a str>,
    has_pair: bool,
    has_label: bool,
    empty_label: bool,
    optional_label: bool,
}

impl<'a> Picker<'a> {
    fn new(columns: &'a Columns) -> Result<Self> {
        let names: Vec<&str> = [Some(&columns.text), columns.pair.as_ref(), columns.label.as_ref()]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        if let Some(twice) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
            return Err(Error::usage(format!("the column {:?} is named for two purposes", twice.1))
                .with_expected("different columns for text, pair and label"));
        }
        Ok(Self {
            names,
            has_pair: columns.pair.is_some(),
            has_label: columns.label.is_some(),
            empty_label: false,
            optional_label: false,
        })
    }

    /// Where the wanted columns stand in a header; empty where there is none (JSON Lines).
    fn index(&self, source: &(dyn Rows + '_), path: &Path) -> Result<Vec<usize>> {
        let Some(header) = source.header() else { return Ok(Vec::new()) };
        let find = |name: &&str| {
            header.iter().position(|h| h == name).ok_or_else(|| {
                let other = |c| header.len() == 1 && header[0].contains(c);
                let e = Error::data(format!("no column {name:?}"))
                    .at(path)
                    .with_expected(format!("the column {name:?} in the header line"))
                    .with_found(list(header.iter().map(String::as_str)));
                match nearest(name, header.iter().map(String::as_str)) {
                    Some(near) => e.with_help(format!("did you mean {near:?}?")),
                    None if other(';') => {
                        e.with_help("the fields are separated by semicolons: write them with commas")
                    }
                    None if other('\t') => {
                        e.with_help("the fields are separated by tabs: name the file .tsv")
                    }
                    None if other(',') => {
                        e.with_help("the fields are separated by commas: name the file .csv")
                    }
                    None => e.with_help("name one of these columns, or give the file a header line"),
                }
            })
        };
        self.names.iter().map(find).collect()
    }

    /// Whether a record holds what is wanted, without taking it out.
    fn look(&self, record: &Record, index: &[usize]) -> std::result::Result<(), BadRow> {
        match &record.cells {
            Cells::List(fields) => {
                let lacks = self.names.iter().zip(index).find(|(_, i)| **i >= fields.len());
                lacks.map_or(Ok(()), |(name, _)| Err(record.lacks(name, std::iter::empty())))
            }
            Cells::Object(pairs) => self.names.iter().enumerate().try_for_each(|(i, name)| {
                let is_label = self.has_label && i + 1 == self.names.len();
                let Some((_, value)) = pairs.iter().find(|(key, _)| key == name) else {
                    if is_label && self.optional_label {
                        return Ok(());
                    }
                    return Err(record.lacks(name, pairs.iter().map(|(key, _)| key.as_str())));
                };
                let (expected, ok) = match value {
                    Value::String(_) => ("", true),
                    Value::Number(_) | Value::Bool(_) => ("a string", is_label),
                    _ if is_label => ("a string, a number or true/false", false),
                    _ => ("a string", false),
                };
                if ok {
                    return Ok(());
                }
                Err(record
                    .bad(format!("{name:?} is no {}", if is_label { "label" } else { "text" }))
                    .with_expected(expected)
                    .with_found(kind(value)))
            }),
        }
    }

    fn row(&self, mut record: Record, index: &[usize]) -> std::result::Result<Row, BadRow> {
        self.look(&record, index)?;
        let mut taken = Vec::with_capacity(3);
        for (i, name) in self.names.iter().enumerate() {
            let cell = match &mut record.cells {
                Cells::List(fields) => index.get(i).and_then(|&i| fields.get_mut(i)).map(std::mem::take),
                Cells::Object(pairs) => {
                    pairs.iter_mut().find(|(key, _)| key == name).map(|(_, value)| match value.take() {
                        Value::String(s) => s,
                        other => other.to_string(),
                    })
                }
            };
            if cell.as_ref().is_some_and(|cell| cell.contains('\0')) {
                return Err(record.bad(format!("{name:?} holds a NUL character")).with_help("remove it"));
            }
            taken.push(cell);
        }
        let label = if self.has_label { taken.pop().flatten() } else { None };
        let pair = if self.has_pair { taken.pop().flatten() } else { None };
        if !self.empty_label && label.as_ref().is_some_and(|l| l.trim().is_empty()) {
            return Err(record.bad("the label is empty").with_help("label the row or remove it"));
        }
        Ok(Row { text: taken.pop().flatten().unwrap_or_default(), pair, label, line: record.line })
    }
}

impl Record {
    fn bad(&self, what: impl Into<String>) -> BadRow {
        BadRow::new(self.line, self.byte, what)
    }
    pub(super) fn lacks<'k>(&self, name: &str, there: impl Iterator<Item = &'k str> + Clone) -> BadRow {
        let bad = self
            .bad(format!("no key {name:?}"))
            .with_expected(format!("the key {name:?}"))
            .with_found(list(there.clone()));
        match nearest(name, there) {
            Some(near) => bad.with_help(format!("did you mean {near:?}?")),
            None => bad.with_help("name one of these keys as the column, or add the key to the row"),
        }
    }
}

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

/// The name that was probably meant: equal but for case and spaces, else within an edit distance of a third of its length, rounded up.
pub(super) fn nearest<'a>(name: &str, there: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |s: &str| s.trim().to_lowercase();
    let wanted = plain(name);
    let limit = wanted.chars().count().div_ceil(3);
    there
        .map(|other| (edit_distance(&wanted, &plain(other)), other))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

/// Levenshtein (1966): insertions, deletions and substitutions of characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
