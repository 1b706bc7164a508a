//! The formats there are, and one interface to their rows.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::Value;

use super::jsonl::JsonRows;
use super::lines::Lines;
use super::read::BadRow;
use super::separated::SeparatedRows;
use crate::error::{Error, Kind, Result};

/// How a data file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180: commas, quotes, a header line.
    Csv,
    /// Tabs and a header line. Quotes mean nothing, unless the fields of the header are quoted.
    Tsv,
    /// One JSON object a line.
    Jsonl,
    /// Apache Parquet with flat columns.
    Parquet,
}

impl Format {
    /// The format that a file's name ends in: `.csv`, `.tsv`, `.jsonl` or `.ndjson`, `.parquet`.
    ///
    /// # Errors
    /// [`Kind::Data`] if it ends in something else.
    pub fn of(path: &Path) -> Result<Self> {
        let ext = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        match ext.as_str() {
            "csv" => Ok(Self::Csv),
            "tsv" => Ok(Self::Tsv),
            "jsonl" | "ndjson" => Ok(Self::Jsonl),
            "parquet" => Ok(Self::Parquet),
            _ => Err(Error::data("the format of a data file is told by the end of its name")
                .at(path)
                .with_expected(".csv, .tsv, .jsonl, .ndjson or .parquet")
                .with_found(if ext.is_empty() { "no ending".into() } else { format!(".{ext}") })
                .with_help(match ext.as_str() {
                    "gz" | "zip" | "zst" | "bz2" | "xz" => "decompress it first",
                    "json" => "write one JSON object a line and name it .jsonl",
                    "xls" | "xlsx" | "ods" => "save the sheet as CSV (UTF-8)",
                    _ => "rename or convert the file",
                })),
        }
    }
}

/// What a row holds before columns are chosen.
pub(super) enum Cells {
    /// Fields in the order of the header.
    List(Vec<String>),
    /// Named values: JSON Lines and Parquet.
    Object(Vec<(String, Value)>),
}

/// A row of any format and where it starts. Parquet has rows, counted from 1, and no bytes.
pub(super) struct Record {
    pub line: u64,
    pub byte: Option<u64>,
    pub cells: Cells,
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

/// Opens a file by its ending. `columns` are all that is wanted of it (Parquet reads no others); `None` wants all.
pub(super) fn open(path: &Path, columns: Option<&[&str]>) -> Result<Box<dyn Rows>> {
    let format = Format::of(path)?;
    if format == Format::Parquet {
        return super::parquet::open(path, columns);
    }
    let file = File::open(path).map_err(|e| Error::io(Kind::Data, "cannot open", path, &e))?;
    from_reader(BufReader::with_capacity(1 << 16, file), path, format)
}

/// The rows of a stream; `name` is what messages call it.
pub(super) fn from_reader<'r>(
    reader: impl BufRead + 'r,
    name: &Path,
    format: Format,
) -> Result<Box<dyn Rows + 'r>> {
    let mut lines = Lines::new(reader);
    let mut first = Vec::new();
    let at = lines.next(&mut first).map_err(|e| Error::io(Kind::Data, "cannot read", name, &e))?;
    let Some(mut at) = at else { return Err(Error::data("the file is empty").at(name)) };
    refuse_other_encodings(&first, name)?;
    if first.starts_with(b"\xEF\xBB\xBF") {
        first.drain(..3);
        at.byte = 3;
    }
    match format {
        Format::Csv => Ok(Box::new(SeparatedRows::new(lines, first, at, name, b',')?)),
        Format::Tsv => Ok(Box::new(SeparatedRows::new(lines, first, at, name, b'\t')?)),
        Format::Jsonl => Ok(Box::new(JsonRows::new(lines, first, at, name))),
        Format::Parquet => Err(Error::data("Parquet cannot be read from a stream")
            .at(name)
            .with_help("name the file, or pipe CSV, TSV or JSON Lines")),
    }
}

/// What the first bytes betray: UTF-16, UTF-32, or something that is no text at all.
pub(super) fn refuse_other_encodings(first: &[u8], name: &Path) -> Result<()> {
    let iconv = |from: &str| format!("iconv -f {from} -t UTF-8 {} > utf8-file", name.display());
    let wide = |found: &str, from: &str| {
        Err(Error::data("not UTF-8")
            .at(name)
            .with_line(1)
            .with_byte(0)
            .with_found(found.to_string())
            .with_help(iconv(from)))
    };
    let binary = |found: &str, hint: &str| {
        Err(Error::data("not a text file")
            .at(name)
            .with_byte(0)
            .with_found(found.to_string())
            .with_help(hint.to_string()))
    };
    match first {
        [0xFF, 0xFE, 0, 0, ..] => wide("UTF-32 (little endian)", "UTF-32"),
        [0, 0, 0xFE, 0xFF, ..] => wide("UTF-32 (big endian)", "UTF-32"),
        [0xFF, 0xFE, ..] => wide("UTF-16 (little endian)", "UTF-16"),
        [0xFE, 0xFF, ..] => wide("UTF-16 (big endian)", "UTF-16"),
        [a, 0, b, 0, ..] if *a != 0 && *b != 0 => {
            wide("every second byte 0: UTF-16 (little endian)", "UTF-16LE")
        }
        [0, a, 0, b, ..] if *a != 0 && *b != 0 => {
            wide("every second byte 0: UTF-16 (big endian)", "UTF-16BE")
        }
        [0x1F, 0x8B, ..] => binary("a gzip archive", "decompress it: gunzip FILE"),
        [b'P', b'K', 3, 4, ..] => {
            binary("a zip archive or a spreadsheet", "unzip it, or save the sheet as CSV (UTF-8)")
        }
        [0x28, 0xB5, 0x2F, 0xFD, ..] => binary("a zstd archive", "decompress it: zstd -d FILE"),
        [b'P', b'A', b'R', b'1', ..] => binary("a Parquet file", "name it .parquet"),
        _ => Ok(()),
    }
}
