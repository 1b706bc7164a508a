//! The formats there are, and how a file of each is opened.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::class_folders::FolderRows;
use super::encoding::{refuse_other_encodings, text_of};
use super::json_array::ArrayRows;
use super::jsonl::JsonRows;
use super::lines::Lines;
use super::record::Rows;
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

/// Opens a folder of text files, or a file by its ending. `columns` are all that is wanted of it (Parquet
/// reads no others); `None` wants all.
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
