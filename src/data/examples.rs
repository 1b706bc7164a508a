//! Examples of any kind out of one file, and the rule for those that cannot be read.

use std::path::{Path, PathBuf};

use super::read::{Table, judge};
use super::record::{BadRow, OnBadRow};
use crate::error::Result;

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

/// The byte at which each character of a text begins, and its length in bytes at the end.
pub(super) fn char_starts(text: &str) -> Vec<usize> {
    text.char_indices().map(|(i, _)| i).chain([text.len()]).collect()
}
