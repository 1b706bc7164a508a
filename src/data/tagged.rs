//! Sentences with tags from any of the formats there are.

use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use super::conll::{Sentence, TagColumns, read_sentences};
use super::examples::Examples;
use super::format::{self, Cells, Format};
use super::read::{OnBadRow, list, nearest};
use super::spans::{SpanText, read_spans};
use super::tags::Scheme;
use crate::error::{Error, Result};

/// A sentence of words, and where they stand in a text if it comes from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaggedText {
    /// Its words and tags.
    pub sentence: Sentence,
    /// The text, and the bytes of each word.
    pub text: Option<(String, Vec<Range<usize>>)>,
}

/// What the tags of a file must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagRule {
    /// If tags look like those of spans, one of the schemes, whichever fits; else anything.
    Auto,
    /// A scheme.
    Scheme(Scheme),
    /// Anything: tags that are no spans, such as parts of speech.
    Free,
}

/// Where tagged sentences stand in a file.
#[derive(Clone, Debug)]
pub struct TagSource<'a> {
    /// In JSON Lines the key of the text, or of the list of words.
    pub text: &'a str,
    /// The key of the spans, or of the list of tags. `None` reads no tags.
    pub label: Option<&'a str>,
    /// What the tags must be.
    pub rule: TagRule,
}

/// How a JSON Lines file writes sentences.
enum Keys {
    Words(String, String),
    Text,
}

fn keys(path: &Path, source: &TagSource) -> Result<Keys> {
    let mut rows = format::open(path, None)?;
    while let Some(found) = rows.next()? {
        let Ok(record) = found else { continue };
        let Cells::Object(cells) = record.cells else { break };
        let get = |key: &str| cells.iter().find(|(k, _)| k == key).map(|(_, v)| v);
        let label = source.label.unwrap_or("tags");
        return match (get(source.text), get("tokens")) {
            (Some(Value::Array(_)), _) => Ok(Keys::Words(source.text.to_owned(), label.to_owned())),
            (Some(_), _) => Ok(Keys::Text),
            (None, Some(Value::Array(_))) => {
                let tags = if get(label).is_some() { label } else { "tags" };
                Ok(Keys::Words("tokens".to_owned(), tags.to_owned()))
            }
            _ => Err(Error::data("a row without words")
                .at(path)
                .line(record.line)
                .expected(format!("`{}`, a text or a list of words, or `tokens`", source.text))
                .found(list(cells.iter().map(|(k, _)| k.as_str())))),
        };
    }
    Ok(Keys::Text)
}

/// Reads sentences with tags: JSON Lines with a text and spans of characters, or with a list of words and one of tags; CoNLL
/// columns from a file of any other name.
///
/// # Errors
/// Those of [`read_sentences`] and [`read_spans`].
pub fn read_tagged(path: &Path, source: &TagSource, on_bad: OnBadRow) -> Result<Examples<TaggedText>> {
    let mut columns = TagColumns { tagged: source.label.is_some(), scheme: None, ..TagColumns::default() };
    if let TagRule::Scheme(scheme) = source.rule {
        columns.scheme = Some(scheme);
    }
    if Format::of(path).is_ok_and(|f| f == Format::Jsonl) {
        match keys(path, source)? {
            Keys::Words(words, tags) => (columns.words_key, columns.tags_key) = (words, tags),
            Keys::Text => {
                let found = read_spans(path, source.text, source.label, on_bad)?;
                let one = |s: SpanText| -> Result<TaggedText> {
                    let (sentence, ranges) = s.sentence()?;
                    Ok(TaggedText { sentence, text: Some((s.text, ranges)) })
                };
                return with(found, one);
            }
        }
    }
    let mut found = read_sentences(path, &columns, on_bad)?;
    if source.rule == TagRule::Auto && columns.tagged {
        let tags: Vec<&[String]> = found.items.iter().map(|s| s.tags.as_slice()).collect();
        let of_span =
            |t: &String| t.len() > 2 && t.as_bytes()[1] == b'-' && b"BIESLU".contains(&t.as_bytes()[0]);
        if tags.iter().any(|s| s.iter().any(of_span)) && Scheme::detect(&tags).is_none() {
            // Broken in each scheme: said as the most common one would have it.
            columns.scheme = Some(Scheme::Iob2);
            found = read_sentences(path, &columns, on_bad)?;
        }
    }
    with(found, |sentence| Ok(TaggedText { sentence, text: None }))
}

fn with<T, U>(found: Examples<T>, f: impl Fn(T) -> Result<U>) -> Result<Examples<U>> {
    let items = found.items.into_iter().map(f).collect::<Result<Vec<U>>>()?;
    Ok(Examples { path: found.path, items, bad: found.bad, bad_count: found.bad_count, hash: found.hash })
}

/// The tags of sentences as numbers.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) with file and line for a tag that is none of the classes.
pub fn tag_numbers<'a>(
    path: &Path,
    sentences: impl IntoIterator<Item = &'a Sentence>,
    classes: &[String],
) -> Result<Vec<Vec<u32>>> {
    let places: std::collections::HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let one = |s: &Sentence| {
        let number = |tag: &String| {
            places.get(tag.as_str()).copied().ok_or_else(|| {
                let e = Error::data(format!("the tag {tag:?} is not known"))
                    .at(path)
                    .line(s.line)
                    .expected(list(classes.iter().map(String::as_str)))
                    .found(format!("{tag:?} in the sentence that begins there"));
                match nearest(tag, classes.iter().map(String::as_str)) {
                    Some(near) => e.hint(format!("did you mean {near:?}?")),
                    None => e.hint("a tag must occur in the train split or stand in the recipe's classes"),
                }
            })
        };
        s.tags.iter().map(number).collect()
    };
    sentences.into_iter().map(one).collect()
}
