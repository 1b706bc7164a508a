//! CSV and TSV: RFC 4180 with exact places. A general reader forgives stray quotes, and so joins rows without
//! a word; here that is an error with its byte.

use std::collections::HashSet;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use super::lines::{At, Lines, MAX_LINE, trim_end};
use super::record::{BadRow, Cells, Found, Place, Record, Rows};
use crate::error::{Error, Kind, Result};

pub(super) struct SeparatedRows<R> {
    lines: Lines<R>,
    path: PathBuf,
    delimiter: u8,
    quotes: bool,
    header: Vec<String>,
    /// The raw bytes of the record being read.
    raw: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum ParserState {
    Start,
    Plain,
    Quoted,
    /// A quote inside a quoted field: its end, or the first of two that stand for one.
    Quote,
}

impl<R: BufRead> SeparatedRows<R> {
    /// `first` is the header line, found at `at`, without a byte order mark.
    pub fn new(lines: Lines<R>, first: Vec<u8>, at: At, path: &Path, delimiter: u8) -> Result<Self> {
        let quotes = delimiter == b',' || all_quoted(trim_end(&first), delimiter);
        let mut rows =
            Self { lines, path: path.to_path_buf(), delimiter, quotes, header: Vec::new(), raw: first };
        let header = match rows.record(Some(at))? {
            Some(Ok(Record { cells: Cells::List(header), .. })) => header,
            Some(Err(bad)) => return Err(bad.error(path)),
            _ => {
                return Err(Error::data("the header line is blank")
                    .at(path)
                    .with_line(1)
                    .with_expected("the names of the columns")
                    .with_help("begin the file with the names of its columns"));
            }
        };
        if header.iter().any(|name| name.contains('\r')) {
            return Err(Error::data("the lines end in a carriage return alone")
                .with_expected("a line feed at the end of each line")
                .at(path)
                .with_line(1)
                .with_help("convert the file: tr '\\r' '\\n' < FILE > NEW"));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = header.iter().find(|name| !seen.insert(name.as_str())) {
            return Err(Error::data(format!("two columns are named {twice:?}"))
                .at(path)
                .with_line(1)
                .with_byte(at.byte)
                .with_help("rename one of them, or add a header line if the file has none"));
        }
        rows.header = header;
        Ok(rows)
    }

    /// Reads one record, which may span lines. `first` says that its first line stands in `raw` already.
    fn record(&mut self, first: Option<At>) -> Result<Option<Found>> {
        let mut start: Option<At> = None;
        let mut given = first;
        let mut fields: Vec<Vec<u8>> = Vec::new();
        let mut field = Vec::new();
        let mut state = ParserState::Start;
        loop {
            let (from, at) = match given.take() {
                Some(at) => (0, at),
                None => {
                    if start.is_none() {
                        self.raw.clear();
                    }
                    let from = self.raw.len();
                    let next = self.lines.next(&mut self.raw);
                    match next
                        .map_err(|e| Error::io(Kind::Data, "the file cannot be read", &self.path, &e))?
                    {
                        Some(at) => (from, at),
                        None => return start.map_or(Ok(None), |s| Err(self.unclosed(s))),
                    }
                }
            };
            let place = *start.get_or_insert(at);
            if at.too_long {
                let bad = BadRow::new(place.line, Some(place.byte), "the row is too long")
                    .with_expected(format!("at most {} MiB", MAX_LINE >> 20))
                    .with_help("close an open quote, or split the text");
                return self.lost_unless_one_line(place, at, bad);
            }
            let line = &self.raw[from..];
            let body = trim_end(line);
            if body.is_empty() && state == ParserState::Start && fields.is_empty() {
                // A blank line is no row.
                start = None;
                continue;
            }
            for (i, &b) in body.iter().enumerate() {
                state = match state {
                    ParserState::Start if b == b'"' && self.quotes => ParserState::Quoted,
                    ParserState::Start | ParserState::Plain | ParserState::Quote if b == self.delimiter => {
                        fields.push(std::mem::take(&mut field));
                        ParserState::Start
                    }
                    ParserState::Start | ParserState::Plain => {
                        field.push(b);
                        ParserState::Plain
                    }
                    ParserState::Quoted if b == b'"' => ParserState::Quote,
                    ParserState::Quote if b == b'"' => {
                        field.push(b);
                        ParserState::Quoted
                    }
                    ParserState::Quoted => {
                        field.push(b);
                        ParserState::Quoted
                    }
                    ParserState::Quote => {
                        let byte = at.byte + i as u64;
                        let bad = BadRow::new(at.line, Some(byte), "there is text after a closing quote")
                            .with_expected("a comma or the end of the line")
                            .with_found(
                                String::from_utf8_lossy(&body[i..]).chars().take(20).collect::<String>(),
                            )
                            .with_help("write a quote inside a quoted field twice: \"\"");
                        return self.lost_unless_one_line(place, at, bad);
                    }
                };
            }
            if state == ParserState::Quoted {
                field.extend_from_slice(&line[body.len()..]);
                continue;
            }
            fields.push(field);
            return Ok(Some(self.finish(place, fields)));
        }
    }

    /// Checks the bytes and the number of fields of a whole record.
    fn finish(&self, place: At, fields: Vec<Vec<u8>>) -> Found {
        if let Some(bad) = bad_bytes(&self.raw, place) {
            return Err(bad);
        }
        if !self.header.is_empty() && fields.len() != self.header.len() {
            let (n, m) = (fields.len(), self.header.len());
            let word = if n == 1 { "field" } else { "fields" };
            return Err(BadRow::new(place.line, Some(place.byte), format!("the row has {n} {word}"))
                .with_expected(format!(
                    "{m}, as in the header ({})",
                    super::record::list(self.header.iter().map(String::as_str))
                ))
                .with_found(n.to_string())
                .with_help(if self.quotes {
                    "put a field that holds a comma in quotes"
                } else {
                    "remove the tabs inside fields"
                }));
        }
        // The whole record is valid UTF-8 and is cut at ASCII bytes, so nothing is replaced here.
        let cells = fields.into_iter().map(|f| String::from_utf8_lossy(&f).into_owned()).collect();
        Ok(Record { line: place.line, place: Place::Line, byte: Some(place.byte), cells: Cells::List(cells) })
    }

    /// A bad record of one line can be skipped. One that has run over lines has eaten rows: nobody knows how
    /// many.
    fn lost_unless_one_line(&self, start: At, at: At, bad: BadRow) -> Result<Option<Found>> {
        if start.line == at.line {
            return Ok(Some(Err(bad)));
        }
        let hint =
            format!("close the quote that opens a field in line {}, where this row begins", start.line);
        Err(bad.with_help(hint).error(&self.path))
    }

    fn unclosed(&self, start: At) -> Error {
        Error::data("the quote that opens a field is not closed before the end of the file")
            .at(&self.path)
            .with_line(start.line)
            .with_byte(start.byte)
            .with_help("close the quote in this row; write a quote inside a quoted field twice")
    }
}

impl<R: BufRead> Rows for SeparatedRows<R> {
    fn header(&self) -> Option<&[String]> {
        Some(&self.header)
    }
    fn next(&mut self) -> Result<Option<Found>> {
        self.record(None)
    }
    fn hash(&self) -> String {
        self.lines.hash()
    }
}

/// The first byte that is NUL or not UTF-8, with the line it is in.
pub(super) fn bad_bytes(raw: &[u8], place: At) -> Option<BadRow> {
    let (at, what) = match (raw.iter().position(|b| *b == 0), std::str::from_utf8(raw)) {
        (Some(nul), Err(e)) if e.valid_up_to() < nul => (e.valid_up_to(), "the file is not UTF-8"),
        (Some(nul), _) => (nul, "the file holds a NUL byte"),
        (None, Err(e)) => (e.valid_up_to(), "the file is not UTF-8"),
        (None, Ok(_)) => return None,
    };
    let line = place.line + raw[..at].iter().filter(|b| **b == b'\n').count() as u64;
    let bad = BadRow::new(line, Some(place.byte + at as u64), what);
    Some(if what == "the file is not UTF-8" {
        bad.with_found(format!("byte 0x{:02X}", raw[at]))
            .with_help("convert the file, for instance: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW")
    } else {
        bad.with_help("remove the NUL bytes: tr -d '\\000' < FILE > NEW")
    })
}

/// Whether every field of a line stands between quotes.
fn all_quoted(line: &[u8], delimiter: u8) -> bool {
    line.split(|b| *b == delimiter).all(|f| f.len() >= 2 && f.starts_with(b"\"") && f.ends_with(b"\""))
}
