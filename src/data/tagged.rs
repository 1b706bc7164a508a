//! Sentences with tags from any format.

use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use super::conll::{Sentence, TagColumns, has_objects, is_conllu, read_sentences};
use super::examples::Examples;
use super::format;
use super::record::{Cells, OnBadRow, list};
use super::spans::{SpanText, read_spans};
use super::tag_format::TagFormat;
use super::tags::{Scheme, only_inner_b};
use crate::error::{Error, Result};
use crate::suggest::nearest;

/// A sentence of words, and their places in the text that it was made from, if it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaggedText {
    /// Its words and tags.
    pub sentence: Sentence,
    /// The text with its spans, and the byte range of each word.
    pub text: Option<(SpanText, Vec<Range<usize>>)>,
    /// The labels of spans that begin or end inside a word.
    pub missed: Vec<String>,
}

impl TaggedText {
    /// The same with whole words, as `predict` sees them, instead of words cut where spans begin and end. For
    /// evaluation.
    ///
    /// # Errors
    /// Those of [`SpanText::whole_words`].
    pub fn whole_words(self, format: TagFormat) -> Result<Self> {
        let Some((text, _)) = self.text else { return Ok(self) };
        let (sentence, ranges, missed) = text.whole_words(format)?;
        Ok(Self { sentence, text: Some((text, ranges)), missed })
    }
}

/// How the tags of files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagRule {
    /// In the format that the tags of all files together have (see [`TagFormat::of_tags`]).
    Auto {
        /// Whether spans must follow the scheme; otherwise a span of B and I tags may begin with I.
        strict: bool,
    },
    /// Spans in a scheme.
    Scheme(Scheme),
    /// In a known format, such as that of a model's labels.
    Format {
        /// The format.
        format: TagFormat,
        /// Whether tags of IOB2 must follow it; otherwise spans may begin with I, as in IOB1.
        strict: bool,
    },
}

/// Where a file has its tagged sentences, and how to read the tags.
#[derive(Clone, Debug)]
pub struct TagSource<'a> {
    /// The key of the text or of the list of words in JSON.
    pub text: &'a str,
    /// The key of the spans or of the list of tags in JSON; the column of the tags in CoNLL-U. `None` reads
    /// no tags.
    pub label: Option<&'a str>,
    /// How the tags are read.
    pub rule: TagRule,
    /// Tags known in advance: the classes of a recipe.
    pub classes: &'a [String],
}

/// How a JSON file writes sentences.
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
            _ => Err(Error::data("the row has neither a text nor words")
                .at(path)
                .with_line(record.line)
                .with_expected(format!(
                    "the key {:?} with a text or a list of words, or the key \"tokens\"",
                    source.text
                ))
                .with_found(list(cells.iter().map(|(k, _)| k.as_str())))
                .with_help("name the key of the text with data.text")),
        };
    }
    Ok(Keys::Text)
}

/// What a file holds, before it is known how its tags are written.
enum Raw {
    Sentences(Examples<Sentence>, TagColumns),
    Texts(Examples<SpanText>),
}

/// Reads sentences with tags, and finds the format of the tags of all files together. JSON rows hold a text
/// and spans of characters, or a list of words and a list of tags. Any other file holds CoNLL columns or
/// CoNLL-U. Spans of characters become tags in the format of the other files, or in IOB2.
///
/// # Errors
/// Those of [`read_sentences`] and [`read_spans`].
pub fn read_tagged(
    paths: &[&Path],
    source: &TagSource,
    on_bad: OnBadRow,
) -> Result<(Vec<Examples<TaggedText>>, TagFormat)> {
    let files: Vec<Raw> = paths.iter().map(|path| raw(path, source, on_bad)).collect::<Result<_>>()?;
    let format = format_of(&files, source, paths)?;
    let read = |(file, path): (Raw, &&Path)| match file {
        Raw::Texts(found) => with(found, |s| {
            let (sentence, ranges) = s.sentence(format)?;
            Ok(TaggedText { sentence, text: Some((s, ranges)), missed: Vec::new() })
        }),
        Raw::Sentences(mut found, mut columns) => {
            if let (TagFormat::Spans { mut scheme, affix }, true) = (format, columns.tagged) {
                columns.model = matches!(source.rule, TagRule::Format { .. }).then_some(scheme);
                if scheme == Scheme::Iob2 && matches!(source.rule, TagRule::Format { strict: false, .. }) {
                    scheme = Scheme::Iob1;
                }
                let broken = |s: &Sentence| scheme.check_of(&s.tags, affix).is_err();
                if found.items.iter().any(broken) {
                    // Once more, so that an error names the line of the tag.
                    (columns.scheme, columns.affix) = (Some(scheme), affix);
                    found = read_sentences(path, &columns, on_bad)?;
                }
            }
            with(found, |sentence| Ok(TaggedText { sentence, text: None, missed: Vec::new() }))
        }
    };
    let all = files.into_iter().zip(paths).map(read).collect::<Result<Vec<_>>>()?;
    Ok((all, format))
}

fn raw(path: &Path, source: &TagSource, on_bad: OnBadRow) -> Result<Raw> {
    let mut columns = TagColumns { tagged: source.label.is_some(), scheme: None, ..TagColumns::default() };
    if has_objects(path)? {
        match keys(path, source)? {
            Keys::Words(words, tags) => (columns.words_key, columns.tags_key) = (words, tags),
            Keys::Text => return Ok(Raw::Texts(read_spans(path, source.text, source.label, on_bad)?)),
        }
    } else if is_conllu(path) {
        columns = TagColumns::conllu(path, source.label)?;
    }
    Ok(Raw::Sentences(read_sentences(path, &columns, on_bad)?, columns))
}

fn format_of(files: &[Raw], source: &TagSource, paths: &[&Path]) -> Result<TagFormat> {
    let sentences = files.iter().filter_map(|file| match file {
        Raw::Sentences(found, _) => Some(&found.items),
        Raw::Texts(_) => None,
    });
    let sentences = || sentences.clone().flatten();
    let tags = || {
        let of_files = sentences().flat_map(|s| &s.tags);
        of_files.chain(source.classes).map(String::as_str)
    };
    let strict = match source.rule {
        TagRule::Format { format, .. } => return Ok(format),
        TagRule::Scheme(scheme) => return Ok(TagFormat::in_scheme(scheme, tags())),
        TagRule::Auto { strict } => strict,
    };
    // The tags of CoNLL-U are classes of words, whatever they look like: some languages have an XPOS such as
    // S----1S.
    if files.iter().any(|file| matches!(file, Raw::Sentences(_, columns) if columns.word == 1)) {
        return Ok(TagFormat::Words);
    }
    let found = TagFormat::of_tags(tags());
    let TagFormat::Spans { scheme: Scheme::Iob2, affix } = found else {
        return match TagFormat::misspelt(tags()) {
            Some(misspelt) => Err(unread(misspelt, paths)),
            None => Ok(found),
        };
    };
    if sentences().all(|s| Scheme::Iob2.check_of(&s.tags, affix).is_ok()) {
        return Ok(found);
    }
    // Where some spans begin with B and others with I, all readers but strict ones agree.
    let iob1 = sentences().all(|s| only_inner_b(&s.tags, affix));
    Ok(if strict && !iob1 { found } else { TagFormat::Spans { scheme: Scheme::Iob1, affix } })
}

/// The error of tags that look like spans, but would be taken for classes of words.
fn unread((tag, right): (String, String), paths: &[&Path]) -> Error {
    let e = Error::data("the tags look like tags of spans, but follow no scheme")
        .with_expected(format!("{right:?}, and \"O\" for a word outside all spans"))
        .with_found(format!("{tag:?}"))
        .with_help(format!(
            "write {right} instead of {tag}, and so on; or set tag.scheme = \"none\" if each tag is a class of its word"
        ));
    match paths.first() {
        Some(path) => e.at(path),
        None => e,
    }
}

fn with<T, U>(found: Examples<T>, f: impl Fn(T) -> Result<U>) -> Result<Examples<U>> {
    let items = found.items.into_iter().map(f).collect::<Result<Vec<U>>>()?;
    Ok(Examples { path: found.path, items, bad: found.bad, bad_count: found.bad_count, hash: found.hash })
}

/// The tags of sentences as indices of `classes`.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) with file and line for a tag that is not in `classes`.
pub fn tag_numbers<'a>(
    path: &Path,
    sentences: impl IntoIterator<Item = &'a Sentence>,
    classes: &[String],
) -> Result<Vec<Vec<u32>>> {
    let places: std::collections::HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let one = |s: &Sentence| {
        let number = |tag: &String| {
            places.get(tag.as_str()).copied().ok_or_else(|| {
                let e = Error::data(format!("the tag {tag:?} is not one of the classes"))
                    .at(path)
                    .with_line(s.line)
                    .with_expected(list(classes.iter().map(String::as_str)))
                    .with_found(format!("{tag:?} in the sentence that begins in this line"));
                match nearest(tag, classes.iter().map(String::as_str)) {
                    Some(near) => e.with_help(format!("did you mean {near:?}?")),
                    None => e.with_help("add the tag to the training file or to data.classes, or correct it"),
                }
            })
        };
        s.tags.iter().map(number).collect()
    };
    sentences.into_iter().map(one).collect()
}
