//! Files -> rows, whatever the format: columns by name, and a rule for rows that cannot be read.

use std::collections::HashMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::format::{self, Format};
use super::pick::{Picked, Picker};
use super::record::{BadRow, Cells, Columns, OnBadRow, Place, Record, Row, Rows};
use crate::error::{Error, Result};

/// Where the rows of a table stand, as far as a line does not say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Places {
    /// In the lines that they name.
    #[default]
    Lines,
    /// In these columns of their lines, counted from 1 in characters: a JSON array.
    Columns(Vec<u64>),
    /// In these files: a folder of text files.
    Files(Vec<PathBuf>),
}

/// The rows of one file.
#[derive(Clone, Debug)]
pub struct Table {
    /// The file.
    pub path: PathBuf,
    /// Its rows in order.
    pub rows: Vec<Row>,
    /// The weight of each row; empty if no column of weights was named.
    pub weights: Vec<f32>,
    /// The first rows that could not be read (at most [`Table::MAX_LISTED`]) and were left out.
    pub bad: Vec<BadRow>,
    /// How many there were.
    pub bad_count: u64,
    /// BLAKE3 of the file, in hexadecimal.
    pub hash: String,
    /// Where its rows stand, row by row.
    pub places: Places,
}

impl Places {
    /// Notes the place of the next row; all rows of a file have places of one kind.
    fn push(&mut self, place: Place) {
        match (self, place) {
            (Self::Columns(all), Place::Column(column)) => all.push(column),
            (Self::Files(all), Place::File(file)) => all.push(file),
            (this, Place::Column(column)) => *this = Self::Columns(vec![column]),
            (this, Place::File(file)) => *this = Self::Files(vec![file]),
            (_, Place::Line) => {}
        }
    }
}

impl Table {
    /// How many bad rows are kept with their reasons; all are counted.
    pub const MAX_LISTED: usize = 1000;

    /// The table of some of its rows, in the order of `indices`; what does not exist is left out.
    pub fn subset(&self, indices: &[usize]) -> Self {
        let rows = indices.iter().filter_map(|i| self.rows.get(*i).cloned()).collect();
        let weights = indices.iter().filter_map(|i| self.weights.get(*i).copied()).collect();
        let places = match &self.places {
            Places::Lines => Places::Lines,
            Places::Columns(all) => {
                Places::Columns(indices.iter().filter_map(|i| all.get(*i).copied()).collect())
            }
            Places::Files(all) => {
                Places::Files(indices.iter().filter_map(|i| all.get(*i).cloned()).collect())
            }
        };
        let (path, hash) = (self.path.clone(), self.hash.clone());
        Self { path, rows, weights, bad: Vec::new(), bad_count: 0, hash, places }
    }

    /// An error about the row of this index: it names the file, and the line and column where there are
    /// lines.
    pub fn error(&self, index: usize, what: impl Into<String>) -> Error {
        let e = Error::data(what);
        if let Places::Files(files) = &self.places {
            return e.at(files.get(index).unwrap_or(&self.path));
        }
        let line = self.rows.get(index).map_or(0, |row| row.line);
        let e = e.at(&self.path).with_line(line);
        match &self.places {
            Places::Columns(columns) => match columns.get(index) {
                Some(column) => e.with_column(*column),
                None => e,
            },
            _ => e,
        }
    }
}

/// Reads a file of examples, whose name says its format (see [`Format::of`]), or a folder of text files.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) if the file cannot be read, holds no row, lacks a column, or
/// holds a row that is bad (with [`OnBadRow::Skip`]: more than 1 % of them).
///
/// ```
/// use std::path::Path;
/// use tempra::data::{Columns, OnBadRow, read};
///
/// let label = Some("label".to_owned());
/// let columns = Columns { text: "text".to_owned(), pair: None, label, weight: None };
/// let table = read(Path::new("examples/sentiment/test.csv"), &columns, OnBadRow::Stop)?;
/// assert_eq!(table.rows.len(), 600);
/// assert_eq!(table.rows[0].line, 2); // behind the header
/// # Ok::<(), tempra::error::Error>(())
/// ```
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

/// The same where each class has a column of its own, `names`, that holds 1 (or true) for the rows of that
/// class and 0 (or false) for the others. Returns the table, whose labels are the names of the classes joined
/// by commas, and the classes of each row as ascending indices of `names`. `columns.label` is ignored.
///
/// # Errors
/// Those of [`read`]; a row whose label is neither 0 nor 1 is a bad row.
pub fn read_with_indicators(
    path: &Path,
    columns: &Columns,
    names: &[String],
    on_bad: OnBadRow,
) -> Result<(Table, Vec<Vec<u32>>)> {
    let columns = Columns { label: None, ..columns.clone() };
    let scanned = scan_with(path, Picker::with_indicators(&columns, names)?, on_bad == OnBadRow::Stop)?;
    let sets = scanned.sets.clone();
    Ok((finish(scanned, path)?, sets))
}

/// The label columns that an option names: `toxic,insult` are two, unless the file has a column of that whole
/// name.
///
/// # Errors
/// Those of [`columns`].
pub fn label_columns(path: &Path, given: &str) -> Result<Vec<String>> {
    let several: Vec<String> = given.split(',').map(|name| name.trim().to_owned()).collect();
    let whole = several.len() == 1 || several.iter().any(String::is_empty);
    Ok(if whole || columns(path)?.iter().any(|name| name == given) {
        vec![given.to_owned()]
    } else {
        several
    })
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

fn finish(Scanned { table, fatal, .. }: Scanned, path: &Path) -> Result<Table> {
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
        let what =
            format!("{bad} of {all} rows cannot be read, which is more than 1 %; the first: {}", first.what);
        return Err(BadRow { what: what.into(), ..first.clone() }.error(path));
    }
    if good == 0 {
        return Err(Error::data("the file has no rows")
            .at(path)
            .with_expected("at least one row")
            .with_found(if bad > 0 { "only rows that cannot be read" } else { "none" })
            .with_help("check that it is the right file, and that it is whole"));
    }
    Ok(())
}

/// A file as far as it could be read.
pub(super) struct Scanned {
    pub table: Table,
    /// The classes of each row, where each class has a column.
    pub sets: Vec<Vec<u32>>,
    /// The error after which nothing could be read.
    pub fatal: Option<Error>,
}

/// Reads as far as it can. `indicators` are the 0/1 columns of classes, if there are any.
pub(super) fn scan(path: &Path, columns: &Columns, indicators: &[String]) -> Result<Scanned> {
    let picker = match indicators {
        [] => Picker::new(columns)?,
        _ => Picker::with_indicators(columns, indicators)?,
    };
    scan_with(path, picker, false)
}

/// `stop`: at the first bad row.
fn scan_with(path: &Path, picker: Picker, stop: bool) -> Result<Scanned> {
    let mut source = format::open(path, Some(&picker.names))?;
    let index = picker.index(source.as_ref(), path)?;
    let mut table = Table {
        path: path.to_path_buf(),
        rows: Vec::new(),
        weights: Vec::new(),
        bad: Vec::new(),
        bad_count: 0,
        hash: String::new(),
        places: Places::Lines,
    };
    let mut sets = Vec::new();
    let fatal = loop {
        let bad = match source.next() {
            Ok(None) => break None,
            Err(e) => break Some(e),
            Ok(Some(found)) => match found.and_then(|record| picker.row(record, &index)) {
                Ok(Picked { row, set, weight, place }) => {
                    table.rows.push(row);
                    table.weights.extend(weight);
                    table.places.push(place);
                    if !picker.indicators.is_empty() {
                        sets.push(set);
                    }
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
    Ok(Scanned { table, sets, fatal })
}

/// All columns of a file or of standard input, for a program that adds columns of its own and writes them
/// back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    /// The names of the columns; of JSON Lines the keys, in the order in which they first appear.
    pub header: Vec<String>,
    /// The rows; each has a field for every column. A JSON value that is no string is written as JSON, null
    /// as nothing.
    pub rows: Vec<Vec<String>>,
    /// The line each row starts in, counted from 1.
    pub lines: Vec<u64>,
    text: usize,
    pair: Option<usize>,
}

/// Reads a file, or standard input if `path` is `-` (then `format` says how it is written; CSV if it does
/// not). The columns of the label and of the weight are not looked for.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) as for [`read`]; the first bad row stops. A header line without
/// rows is no error.
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
/// [`Kind::Data`](crate::error::Kind::Data) if the file cannot be opened or has neither a header line nor a
/// row.
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
        None => Err(Error::data("the file has no rows")
            .at(path)
            .with_help("check that it is the right file, and that it is whole")),
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
        let columns = Columns { label: None, weight: None, ..columns.clone() };
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
            return Err(Error::data("the file has no rows")
                .at(path)
                .with_help("check that it is the right file, and that it is whole"));
        }
        let place = |name: &str| header.iter().position(|h| h == name);
        let text = place(&columns.text).unwrap_or(0);
        let pair = columns.pair.as_deref().and_then(place);
        Ok(Self { text, pair, header, rows, lines })
    }
}
