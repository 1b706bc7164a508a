//! All columns of a file, for a program that has to guess what they hold.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::format;
use super::read::judge;
use super::record::Cells;
use crate::error::Result;

/// A file of rows, column by column.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sheet {
    /// The names of the columns; of JSON the keys, in the order in which they first appear.
    pub names: Vec<String>,
    /// The cells of each column, one for every row. A cell of CSV or TSV is a string; a key that a JSON
    /// object lacks is null.
    pub columns: Vec<Vec<Value>>,
    /// The line of each row, counted from 1; of Parquet the row.
    pub lines: Vec<u64>,
}

impl Sheet {
    /// Reads a file; the end of its name says the format. Rows that cannot be read are left out; there may be
    /// no row at all.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) if the file cannot be read, or if more than 1 % of the rows
    /// are bad.
    pub fn read(path: &Path) -> Result<Self> {
        let mut source = format::open(path, None)?;
        let names = source.header().map(<[String]>::to_vec).unwrap_or_default();
        let columns = names.iter().map(|_| Vec::new()).collect();
        let mut sheet = Self { names, columns, lines: Vec::new() };
        let mut places: HashMap<String, usize> = sheet.names.iter().cloned().zip(0..).collect();
        let (mut bad, mut first) = (0, None);
        while let Some(found) = source.next()? {
            let record = match found {
                Ok(record) => record,
                Err(row) => {
                    bad += 1;
                    first.get_or_insert(row);
                    continue;
                }
            };
            let row = sheet.lines.len();
            match record.cells {
                Cells::List(fields) => {
                    for (column, field) in sheet.columns.iter_mut().zip(fields) {
                        column.push(Value::String(field));
                    }
                }
                Cells::Object(pairs) => {
                    for (key, value) in pairs {
                        let place = *places.entry(key.clone()).or_insert_with(|| {
                            sheet.names.push(key);
                            sheet.columns.push(Vec::new());
                            sheet.names.len() - 1
                        });
                        if let Some(column) = sheet.columns.get_mut(place) {
                            column.resize(row, Value::Null);
                            column.push(value);
                        }
                    }
                }
            }
            sheet.lines.push(record.line);
        }
        if first.is_some() {
            judge(path, sheet.lines.len() as u64, bad, first.as_ref())?;
        }
        let rows = sheet.lines.len();
        sheet.columns.iter_mut().for_each(|column| column.resize(rows, Value::Null));
        Ok(sheet)
    }
}
