//! The formats there are, and one interface to their rows.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::class_folders::FolderRows;
use super::examples::text_of;
use super::json_array::ArrayRows;
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
    /// One JSON object in each line.
    Jsonl,
    /// One JSON array of objects, bare or as the only array of an object.
    Json,
    /// Apache Parquet with flat columns.
    Parquet,
}

impl Format {
    /// The format that a file's name ends in: `.csv`, `.tsv`, `.jsonl` or `.ndjson`, `.json`, `.parquet`.
    ///
    /// # Errors
    /// [`Kind::Data`] if it ends in something else.
    pub fn of(path: &Path) -> Result<Self> {
        let ext = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        match ext.as_str() {
            "csv" => Ok(Self::Csv),
            "tsv" => Ok(Self::Tsv),
            "jsonl" | "ndjson" => Ok(Self::Jsonl),
            "json" => Ok(Self::Json),
            "parquet" => Ok(Self::Parquet),
            _ => Err(Error::data("the file name does not end in a known data format")
                .at(path)
                .with_expected(".csv, .tsv, .jsonl, .ndjson, .json or .parquet, or a folder of text files")
                .with_found(if ext.is_empty() {
                    "a name without an ending".into()
                } else {
                    format!(".{ext}")
                })
                .with_help(match ext.as_str() {
                    "gz" | "zip" | "zst" | "bz2" | "xz" => "decompress the file first",
                    "xls" | "xlsx" | "ods" => "save the sheet as CSV (UTF-8)",
                    _ => "rename the file to the format it has, or convert it",
                })),
        }
    }
}

/// What a row holds before columns are chosen.
pub(super) enum Cells {
    /// Fields in the order of the header.
    List(Vec<String>),
    /// Named values: JSON and Parquet.
    Object(Vec<(String, Value)>),
}

/// A row of any format and where it starts. Of Parquet and of folders the line is the number of the row, counted from 1, and there are
/// no bytes.
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

/// Opens a folder of text files, or a file by its ending. `columns` are all that is wanted of it (Parquet reads no others); `None` wants all.
pub(super) fn open(path: &Path, columns: Option<&[&str]>) -> Result<Box<dyn Rows>> {
    if path.is_dir() {
        return Ok(Box::new(FolderRows::open(path)?));
    }
    let format = Format::of(path)?;
    if format == Format::Parquet {
        return super::parquet::open(path, columns);
    }
    let file = File::open(path).map_err(|e| Error::io(Kind::Data, "the file cannot be opened", path, &e))?;
    from_reader(BufReader::with_capacity(1 << 16, file), path, format)
}

/// The rows of a stream; `name` is what messages call it.
pub(super) fn from_reader<'r>(
    reader: impl BufRead + 'r,
    name: &Path,
    format: Format,
) -> Result<Box<dyn Rows + 'r>> {
    if format == Format::Json {
        let (content, hash) = text_of(reader, name)?;
        return Ok(Box::new(ArrayRows::new(content, hash, name)?));
    }
    let mut lines = Lines::new(reader);
    let mut first = Vec::new();
    let at =
        lines.next(&mut first).map_err(|e| Error::io(Kind::Data, "the file cannot be read", name, &e))?;
    let Some(mut at) = at else {
        return Err(Error::data("the file is empty").at(name).with_help("fill the file, or leave it out"));
    };
    refuse_other_encodings(&first, name)?;
    if first.starts_with(b"\xEF\xBB\xBF") {
        first.drain(..3);
        at.byte = 3;
    }
    match format {
        Format::Csv => Ok(Box::new(SeparatedRows::new(lines, first, at, name, b',')?)),
        Format::Tsv => Ok(Box::new(SeparatedRows::new(lines, first, at, name, b'\t')?)),
        Format::Jsonl => Ok(Box::new(JsonRows::new(lines, first, at, name))),
        Format::Json | Format::Parquet => Err(Error::data("Parquet cannot be read from standard input")
            .at(name)
            .with_help("name the file, or pipe CSV, TSV or JSON Lines")),
    }
}

/// What the first bytes betray: UTF-16, UTF-32, or something that is no text at all.
pub(super) fn refuse_other_encodings(first: &[u8], name: &Path) -> Result<()> {
    let iconv = |from: &str| format!("iconv -f {from} -t UTF-8 {} > utf8-file", name.display());
    let wide = |found: &str, from: &str| {
        Err(Error::data("the file is not UTF-8")
            .at(name)
            .with_line(1)
            .with_byte(0)
            .with_found(found.to_string())
            .with_expected("UTF-8")
            .with_help(format!("convert the file: {}", iconv(from))))
    };
    let binary = |found: &str, hint: &str| {
        Err(Error::data("the file is not a text file")
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
