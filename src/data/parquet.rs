//! Parquet: flat columns through the row interface. The crate panics on some damaged files, so every call is
//! guarded.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::basic::Repetition;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::reader::RowIter;
use ::parquet::record::{Field, Row};
use ::parquet::schema::types::Type;
use serde_json::{Number, Value};

use super::lines::MAX_LINE;
use super::record::{BadRow, Cells, Found, Place, Record, Rows};
use crate::error::{Error, Kind, Result};
use crate::text::guarded;

/// A column chunk may unpack to this much whatever its size, beyond it only to [`MAX_RATIO`] times its packed
/// size.
const FREE_BYTES: i64 = 256 << 20;
const MAX_RATIO: i64 = 1000;
/// Rows that are decoded under one guard.
const BATCH: usize = 1024;

struct ParquetRows {
    rows: RowIter<'static>,
    ready: VecDeque<Row>,
    header: Vec<String>,
    line: u64,
    hash: String,
    path: PathBuf,
}

pub(super) fn open(path: &Path, columns: Option<&[&str]>) -> Result<Box<dyn Rows>> {
    let io = |e: &std::io::Error| Error::io(Kind::Data, "the file cannot be read", path, e);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).map_err(|e| io(&e))?).map_err(|e| io(&e))?;
    if hasher.count() == 0 {
        return Err(Error::data("the file is empty").at(path).with_help("fill the file, or leave it out"));
    }
    let file = File::open(path).map_err(|e| io(&e))?;
    let (rows, header) =
        guarded(|| start(file, columns)).unwrap_or_else(Err).map_err(|why| damaged(path, &why))?;
    let hash = hasher.finalize().to_hex().to_string();
    Ok(Box::new(ParquetRows {
        rows,
        ready: VecDeque::new(),
        header,
        line: 0,
        hash,
        path: path.to_path_buf(),
    }))
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::data("the Parquet file cannot be read")
        .at(path)
        .with_found(why.chars().take(300).collect::<String>())
        .with_help("write the file again with Snappy, zstd or no compression, and one value in each column")
}

type Started = std::result::Result<(RowIter<'static>, Vec<String>), String>;

/// Opens the file for the wanted columns (all flat ones if `None`) and names the columns there are.
fn start(file: File, columns: Option<&[&str]>) -> Started {
    let text = |e: ::parquet::errors::ParquetError| e.to_string();
    let reader = SerializedFileReader::new(file).map_err(text)?;
    for chunk in reader.metadata().row_groups().iter().flat_map(|g| g.columns()) {
        let (packed, unpacked) = (chunk.compressed_size(), chunk.uncompressed_size());
        if unpacked > FREE_BYTES.max(packed.saturating_mul(MAX_RATIO)) {
            return Err(format!("a column chunk of {packed} bytes that unpacks to {unpacked}"));
        }
    }
    let schema = reader.metadata().file_metadata().schema();
    let flat = |t: &&Arc<Type>| t.is_primitive() && t.get_basic_info().repetition() != Repetition::REPEATED;
    let names: Vec<String> = schema.get_fields().iter().map(|t| t.name().to_string()).collect();
    let wanted: Vec<Arc<Type>> = schema
        .get_fields()
        .iter()
        .filter(|t| columns.map_or(flat(t), |c| c.contains(&t.name())))
        .cloned()
        .collect();
    if let Some(nested) = wanted.iter().find(|t| !flat(t)) {
        return Err(format!("the column {:?} holds lists or groups, not one value a row", nested.name()));
    }
    let header =
        if columns.is_some() { names } else { wanted.iter().map(|t| t.name().to_string()).collect() };
    if columns.is_some_and(|c| c.len() != wanted.len()) {
        // A column is missing (or there twice): the caller compares the header and says so.
        let rows = RowIter::from_file_into(Box::new(reader));
        return Ok((rows, header));
    }
    let projection = Type::group_type_builder(schema.name()).with_fields(wanted).build().map_err(text)?;
    let rows = RowIter::from_file_into(Box::new(reader)).project(Some(projection)).map_err(text)?;
    Ok((rows, header))
}

impl Rows for ParquetRows {
    fn header(&self) -> Option<&[String]> {
        Some(&self.header)
    }

    fn next(&mut self) -> Result<Option<Found>> {
        if self.ready.is_empty() {
            let rows = &mut self.rows;
            let batch = guarded(|| rows.take(BATCH).collect::<std::result::Result<Vec<Row>, _>>());
            let batch = batch.and_then(|b| b.map_err(|e| e.to_string()));
            self.ready = batch.map_err(|why| damaged(&self.path, &why).with_line(self.line + 1))?.into();
        }
        let Some(row) = self.ready.pop_front() else { return Ok(None) };
        self.line += 1;
        let mut pairs = Vec::with_capacity(row.len());
        for (name, field) in row.into_columns() {
            match value(field) {
                Ok(Value::String(s)) if s.len() > MAX_LINE => {
                    return Ok(Some(Err(BadRow::new(
                        self.line,
                        None,
                        format!("the value of {name:?} is too long"),
                    )
                    .with_expected(format!("at most {} MiB", MAX_LINE >> 20)))));
                }
                Ok(value) => pairs.push((name, value)),
                Err(found) => {
                    return Ok(Some(Err(BadRow::new(
                        self.line,
                        None,
                        format!("the column {name:?} has a type that tempra does not read"),
                    )
                    .with_expected("strings, integers, floats or booleans")
                    .with_found(found))));
                }
            }
        }
        Ok(Some(Ok(Record { line: self.line, place: Place::Line, byte: None, cells: Cells::Object(pairs) })))
    }

    fn hash(&self) -> String {
        self.hash.clone()
    }
}

/// A field as JSON has it; what JSON has not (NaN) becomes its text.
fn value(field: Field) -> std::result::Result<Value, &'static str> {
    let float = |x: f64, text: String| Number::from_f64(x).map_or(Value::String(text), Value::Number);
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(b) => Value::Bool(b),
        Field::Byte(n) => n.into(),
        Field::Short(n) => n.into(),
        Field::Int(n) => n.into(),
        Field::Long(n) => n.into(),
        Field::UByte(n) => n.into(),
        Field::UShort(n) => n.into(),
        Field::UInt(n) => n.into(),
        Field::ULong(n) => n.into(),
        // Through its shortest text: 0.1f32 is 0.1 and not 0.10000000149.
        Field::Float(x) => float(x.to_string().parse().unwrap_or(f64::from(x)), x.to_string()),
        Field::Double(x) => float(x, x.to_string()),
        Field::Str(s) => Value::String(s),
        // Writers without annotations store strings as plain bytes.
        Field::Bytes(b) => match std::str::from_utf8(b.data()) {
            Ok(s) => Value::String(s.to_string()),
            Err(_) => return Err("bytes that are not UTF-8"),
        },
        Field::Group(_) | Field::ListInternal(_) | Field::MapInternal(_) => return Err("a nested value"),
        _ => return Err("a date, time, decimal or half-precision value"),
    })
}
