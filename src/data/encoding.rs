//! Whole texts of files, and what is said of a file that is not UTF-8.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::lines::At;
use super::separated::bad_bytes;
use crate::error::{Error, Kind, Result};

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
