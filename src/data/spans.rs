//! Texts with spans of characters: JSON Lines.

use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use super::conll::Sentence;
use super::examples::{Examples, char_starts};
use super::format;
use super::record::{BadRow, Cells, OnBadRow, Record, kind};
use super::tag_format::TagFormat;
use super::tags::Span;
use crate::error::Result;

/// A text and its labelled spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanText {
    /// The text; may be empty.
    pub text: String,
    /// Its spans in order, apart from each other.
    pub spans: Vec<TextSpan>,
    /// The line it stands in, counted from 1.
    pub line: u64,
}

/// A labelled part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextSpan {
    /// The label.
    pub label: String,
    /// Its characters (Unicode scalar values, as Python counts), counted from 0.
    pub chars: Range<usize>,
    /// The same in bytes of the text.
    pub bytes: Range<usize>,
}

/// Reads JSON Lines with a text and a list of its spans: `[start, end, "LABEL"]` or
/// `{"start": 0, "end": 3, "label": "LABEL"}`, the end exclusive, as doccano and spaCy write them. Offsets
/// count characters. `spans_key`: `None` reads texts alone.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) with the line if the file cannot be read, holds no text, or holds
/// a span that is empty, outside of its text or overlaps another (with [`OnBadRow::Skip`]: more than 1 % of
/// the rows).
pub fn read_spans(
    path: &Path,
    text_key: &str,
    spans_key: Option<&str>,
    on_bad: OnBadRow,
) -> Result<Examples<SpanText>> {
    let mut all = Examples::new(path);
    let mut source = format::open(path, None)?;
    while let Some(found) = source.next()? {
        all.push(found.and_then(|record| from_json(&record, text_key, spans_key)), on_bad)?;
    }
    all.finish(source.hash())
}

fn from_json(
    record: &Record,
    text_key: &str,
    spans_key: Option<&str>,
) -> std::result::Result<SpanText, BadRow> {
    let bad = |what: String| record.bad(what);
    let Cells::Object(pairs) = &record.cells else {
        return Err(bad("spans of characters stand in a row that is not a JSON object".into()));
    };
    let get = |key: &str| {
        let found = pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v);
        found.ok_or_else(|| record.lacks(key, pairs.iter().map(|(k, _)| k.as_str())))
    };
    let value = get(text_key)?;
    let text = value.as_str().ok_or_else(|| {
        bad(format!("{text_key:?} is not a text")).with_expected("a string").with_found(kind(value))
    })?;
    let starts = char_starts(text);
    let mut spans = Vec::new();
    if let Some(key) = spans_key {
        let value = get(key)?;
        let items = value.as_array().ok_or_else(|| {
            bad(format!("{key:?} is not a list of spans")).with_expected("an array").with_found(kind(value))
        })?;
        for (i, item) in items.iter().enumerate() {
            let bad = |what: &str| bad(format!("span {} of {key:?} {what}", i + 1));
            let part = |at: usize, name: &str| item.get(at).or_else(|| item.get(name));
            let place =
                |at, name| part(at, name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
            let label = part(2, "label").and_then(Value::as_str).filter(|l| !l.trim().is_empty());
            let (Some(start), Some(end), Some(label)) = (place(0, "start"), place(1, "end"), label) else {
                return Err(bad("cannot be read")
                    .with_expected(
                        "[start, end, \"LABEL\"] or {\"start\": 0, \"end\": 3, \"label\": \"LABEL\"}",
                    )
                    .with_found(item.to_string()));
            };
            let (Some(&from), Some(&to), true) = (starts.get(start), starts.get(end), start < end) else {
                return Err(bad("is empty or outside of its text")
                    .with_expected(format!("start < end <= {}", starts.len() - 1))
                    .with_found(format!("{start} to {end}"))
                    .with_help("count Unicode code points, not bytes, from 0; the end is exclusive"));
            };
            if text[from..to].trim().is_empty() {
                return Err(bad("holds only white space")
                    .with_found(format!("{start} to {end}"))
                    .with_help("correct the offsets, or remove the span"));
            }
            spans.push(TextSpan { label: label.to_owned(), chars: start..end, bytes: from..to });
        }
    }
    spans.sort_by_key(|s| (s.chars.start, s.chars.end));
    if let Some((a, b)) = spans.iter().zip(spans.iter().skip(1)).find(|(a, b)| a.chars.end > b.chars.start) {
        let say = |s: &TextSpan| format!("{} {} to {}", s.label, s.chars.start, s.chars.end);
        return Err(bad("two spans overlap".into())
            .with_expected("spans that do not overlap: a word has one tag")
            .with_found(format!("{}, {}", say(a), say(b)))
            .with_help("keep one of them"));
    }
    Ok(SpanText { text: text.to_owned(), spans, line: record.line })
}

/// The words of a text as ranges of bytes: runs of letters and digits, and every other character but white
/// space for itself; so too every Chinese character and Japanese kana, between which no spaces tell words
/// apart.
pub fn words(text: &str) -> Vec<Range<usize>> {
    let alone = |c: char| {
        matches!(c, '\u{3041}'..='\u{3096}' | '\u{30A1}'..='\u{30FF}' | '\u{31F0}'..='\u{31FF}' | '\u{3400}'..='\u{4DBF}'
            | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{323AF}')
    };
    // A combining mark belongs to the letter before it; it is neither a letter nor a digit, but no ASCII
    // either.
    let part = |c: char| {
        (c.is_alphanumeric() && !alone(c)) || ('\u{300}'..='\u{36F}').contains(&c) || c == '\u{200D}'
    };
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut open = false;
    for (i, c) in text.char_indices() {
        let end = i + c.len_utf8();
        match found.last_mut() {
            Some(last) if open && part(c) => last.end = end,
            _ if !c.is_whitespace() => found.push(i..end),
            _ => {}
        }
        open = part(c);
    }
    found
}

impl SpanText {
    /// Its words with tags of a format, and each word's range of bytes in the text. A word that a span begins
    /// or ends in is cut there, so that every span is a whole number of words.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) if the spans do not fit the text, which [`read_spans`] never
    /// gives.
    pub fn sentence(&self, format: TagFormat) -> Result<(Sentence, Vec<Range<usize>>)> {
        let edges: Vec<usize> = self.spans.iter().flat_map(|s| [s.bytes.start, s.bytes.end]).collect();
        let mut ranges = Vec::new();
        for word in words(&self.text) {
            let mut start = word.start;
            let inner = edges.iter().copied().filter(|e| word.start < *e && *e < word.end);
            for end in inner.chain([word.end]) {
                if end > start {
                    ranges.push(start..end);
                    start = end;
                }
            }
        }
        let spans: Vec<Span> = self.spans.iter().map(|s| s.over(&ranges)).collect();
        Ok((self.tagged(&ranges, &spans, format)?, ranges))
    }
    /// As [`SpanText::sentence`], with the words as `predict` has them, which knows no spans: none is cut.
    /// The labels of the spans that begin or end inside a word besides: no run of words equals them, and
    /// their words have no tag of theirs.
    ///
    /// # Errors
    /// As for [`SpanText::sentence`].
    pub fn whole_words(&self, format: TagFormat) -> Result<(Sentence, Vec<Range<usize>>, Vec<String>)> {
        let ranges = words(&self.text);
        let (mut spans, mut missed) = (Vec::new(), Vec::new());
        for span in &self.spans {
            let over = span.over(&ranges);
            let inside = ranges.get(over.start).is_some_and(|r| r.start >= span.bytes.start)
                && over
                    .end
                    .checked_sub(1)
                    .and_then(|i| ranges.get(i))
                    .is_some_and(|r| r.end <= span.bytes.end);
            if inside {
                spans.push(over);
            } else {
                missed.push(over.label);
            }
        }
        Ok((self.tagged(&ranges, &spans, format)?, ranges, missed))
    }
    fn tagged(&self, ranges: &[Range<usize>], spans: &[Span], format: TagFormat) -> Result<Sentence> {
        let tags = format.encode(ranges.len(), spans)?;
        let words = ranges.iter().map(|r| self.text.get(r.clone()).unwrap_or_default().to_owned()).collect();
        Ok(Sentence { words, tags, line: self.line })
    }
}

impl TextSpan {
    /// The words, given as ranges of bytes, that it shares a character with.
    fn over(&self, words: &[Range<usize>]) -> Span {
        Span {
            label: self.label.clone(),
            start: words.partition_point(|r| r.end <= self.bytes.start),
            end: words.partition_point(|r| r.start < self.bytes.end),
        }
    }
}
