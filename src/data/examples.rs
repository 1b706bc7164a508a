//! Examples of any kind out of one file, and the rule for those that cannot be read.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::format::refuse_other_encodings;
use super::lines::At;
use super::read::{BadRow, OnBadRow, Table, judge};
use super::separated::bad_bytes;
use crate::error::{Error, Kind, Result};

/// The examples of one file, as [`Table`] holds rows.
#[derive(Clone, Debug)]
pub struct Examples<T> {
    /// The file.
    pub path: PathBuf,
    /// Its examples in order.
    pub items: Vec<T>,
    /// The first examples that could not be read (at most [`Table::MAX_LISTED`]) and were left out.
    pub bad: Vec<BadRow>,
    /// How many there were.
    pub bad_count: u64,
    /// BLAKE3 of the file, in hexadecimal.
    pub hash: String,
}

impl<T> Examples<T> {
    pub(super) fn new(path: &Path) -> Self {
        let path = path.to_path_buf();
        Self { path, items: Vec::new(), bad: Vec::new(), bad_count: 0, hash: String::new() }
    }
    /// Takes an example, or lists why it is none.
    pub(super) fn push(&mut self, found: std::result::Result<T, BadRow>, on_bad: OnBadRow) -> Result<()> {
        match found {
            Ok(item) => self.items.push(item),
            Err(bad) if on_bad == OnBadRow::Stop => return Err(bad.error(&self.path)),
            Err(bad) => {
                self.bad_count += 1;
                if self.bad.len() < Table::MAX_LISTED {
                    self.bad.push(bad);
                }
            }
        }
        Ok(())
    }
    /// The examples, unless too many were bad or there are none.
    pub(super) fn finish(self, hash: String) -> Result<Self> {
        judge(&self.path, self.items.len() as u64, self.bad_count, self.bad.first())?;
        Ok(Self { hash, ..self })
    }
}

/// The whole text of a file without its byte order mark, and the BLAKE3 of its bytes.
pub(super) fn text(path: &Path) -> Result<(String, String)> {
    if path.is_dir() {
        return Err(Error::data("the path is a folder")
            .at(path)
            .with_expected("a file")
            .with_help("name a file in the folder"));
    }
    let file = File::open(path).map_err(|e| Error::io(Kind::Data, "the file cannot be opened", path, &e))?;
    text_of(BufReader::new(file), path)
}

/// The same of a stream; `path` is what messages call it.
pub(super) fn text_of(mut reader: impl Read, path: &Path) -> Result<(String, String)> {
    let mut raw = Vec::new();
    let read = reader.read_to_end(&mut raw);
    read.map_err(|e| Error::io(Kind::Data, "the file cannot be read", path, &e))?;
    if raw.is_empty() {
        return Err(Error::data("the file is empty").at(path).with_help("fill the file, or leave it out"));
    }
    refuse_other_encodings(&raw, path)?;
    if let Some(bad) = bad_bytes(&raw, At { line: 1, byte: 0, too_long: false }) {
        return Err(bad.error(path));
    }
    let hash = blake3::hash(&raw).to_hex().to_string();
    if raw.starts_with(b"\xEF\xBB\xBF") {
        raw.drain(..3);
    }
    // It is known to be UTF-8: nothing is replaced here.
    Ok((String::from_utf8_lossy(&raw).into_owned(), hash))
}

/// The byte at which each character of a text begins, and its length in bytes at the end.
pub(super) fn char_starts(text: &str) -> Vec<usize> {
    text.char_indices().map(|(i, _)| i).chain([text.len()]).collect()
}
