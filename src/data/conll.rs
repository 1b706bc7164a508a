//! Sentences of tagged words: CoNLL columns and JSON Lines.

use std::path::Path;

use serde_json::Value;

use super::examples::{Examples, text};
use super::format::{self, Cells, Format, Record};
use super::pick::kind;
use super::read::{BadRow, OnBadRow};
use super::tags::{Affix, Scheme};
use crate::error::{Error, Result};

/// A sentence and what its words are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// Its words; at least one.
    pub words: Vec<String>,
    /// A tag for each word; none if no tags were asked for.
    pub tags: Vec<String>,
    /// The line of its first word, counted from 1.
    pub line: u64,
}

/// Where words and tags stand in a file, and what the tags must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagColumns {
    /// The column of the word, counted from 0.
    pub word: usize,
    /// The column of the tag; `None` is the last one.
    pub tag: Option<usize>,
    /// In JSON Lines the key of the list of words.
    pub words_key: String,
    /// In JSON Lines the key of the list of tags.
    pub tags_key: String,
    /// Whether tags are read at all; to predict they need not be there.
    pub tagged: bool,
    /// The scheme that the tags must follow; `None` for tags that are no spans, such as parts of speech.
    pub scheme: Option<Scheme>,
    /// Where the tags bear the letters of the scheme.
    pub affix: Affix,
}

impl Default for TagColumns {
    fn default() -> Self {
        let (words_key, tags_key) = ("tokens".to_owned(), "tags".to_owned());
        let (scheme, affix) = (Some(Scheme::Iob2), Affix::Prefix);
        Self { word: 0, tag: None, words_key, tags_key, tagged: true, scheme, affix }
    }
}

type Found = std::result::Result<Sentence, BadRow>;

/// Reads sentences: JSON Lines with a list of words and a list of tags from `.jsonl` and `.ndjson`, CoNLL columns from
/// a file of any other name.
///
/// In columns a word stands in a line, an empty line ends a sentence and so does `-DOCSTART-`. The fields are separated by tabs if
/// the first word's line holds one, else by white space. Lines that begin with `#` and have another number of fields than
/// the words are comments before a sentence. Of CoNLL-U's ten columns the lines of multi-word tokens (`1-2`) and of empty nodes
/// (`1.1`) are left out.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) with the line if the file cannot be read, holds no sentence, or holds one
/// that is bad: another number of columns, an empty word or tag, tags that break the scheme (with [`OnBadRow::Skip`]: more
/// than 1 % of the sentences).
pub fn read_sentences(path: &Path, columns: &TagColumns, on_bad: OnBadRow) -> Result<Examples<Sentence>> {
    let mut all = Examples::new(path);
    if matches!(Format::of(path), Ok(Format::Jsonl)) {
        let mut source = format::open(path, None)?;
        while let Some(found) = source.next()? {
            all.push(found.and_then(|record| from_json(&record, columns)), on_bad)?;
        }
        return all.finish(source.hash());
    }
    let (content, hash) = text(path)?;
    for found in Blocks::new(&content, columns, path)? {
        all.push(found, on_bad)?;
    }
    all.finish(hash)
}

fn check(sentence: Sentence, columns: &TagColumns, at: impl Fn(usize) -> (u64, Option<u64>)) -> Found {
    let Some(broken) = columns.scheme.and_then(|s| s.check_of(&sentence.tags, columns.affix).err()) else {
        return Ok(sentence);
    };
    let (line, byte) = at(broken.word);
    let name = columns.scheme.map_or("", Scheme::name);
    let fits = |s: &Scheme| s.check_of(&sentence.tags, columns.affix).is_ok();
    let others: Vec<&str> = Scheme::ALL.into_iter().filter(fits).map(Scheme::name).collect();
    let hint = match others.as_slice() {
        [] => "correct the tag; if the tags are no spans, train with tag.scheme = \"none\"".to_owned(),
        _ => format!(
            "correct the tag, or name another scheme than {name}: this sentence is of {}",
            others.join(" and ")
        ),
    };
    let word = sentence.words.get(broken.word).map_or("", String::as_str);
    Err(BadRow::new(line, byte, format!("{}, at the word {word:?}", broken.what))
        .with_expected(broken.expected)
        .with_found(broken.found)
        .with_help(hint))
}

/// One line that holds a word.
struct Line<'a> {
    number: u64,
    byte: u64,
    fields: Vec<&'a str>,
}

/// The sentences of a text in columns.
struct Blocks<'a> {
    rest: std::iter::Peekable<Box<dyn Iterator<Item = (u64, u64, &'a str)> + 'a>>,
    columns: &'a TagColumns,
    tabs: bool,
    width: usize,
}

impl<'a> Blocks<'a> {
    fn new(content: &'a str, columns: &'a TagColumns, path: &Path) -> Result<Self> {
        let mut byte = 0;
        let lines = content.split_inclusive('\n').zip(1..).map(move |(raw, number)| {
            let at = byte;
            byte += raw.len() as u64;
            (number, at, raw.trim_end_matches(['\n', '\r']))
        });
        let words = || content.lines().filter(|l| !l.trim().is_empty() && !l.starts_with("-DOCSTART-"));
        // The first line that can be no comment says how the others are written; hashtags alone may be words.
        let first = words().find(|l| !l.starts_with('#')).or_else(|| words().find(|l| l.contains('\t')));
        let first = first.or_else(|| words().next()).unwrap_or_default();
        let tabs = first.contains('\t');
        let width = fields(first, tabs).len();
        let needed = columns.word.max(columns.tag.unwrap_or(usize::from(columns.tagged))) + 1;
        if width < if columns.tagged { needed } else { columns.word + 1 } && !first.is_empty() {
            return Err(Error::data("the file has too few columns")
                .at(path)
                .with_expected(format!("at least {needed}, separated by tabs or spaces"))
                .with_found(format!("{width}: {first:?}"))
                .with_help("one word and its tag a line, an empty line after a sentence"));
        }
        let lines: Box<dyn Iterator<Item = _>> = Box::new(lines);
        Ok(Self { rest: lines.peekable(), columns, tabs, width })
    }
    fn sentence(&self, lines: &[Line<'_>]) -> Found {
        let (mut words, mut tags) = (Vec::new(), Vec::new());
        for line in lines {
            let bad = |what: String| BadRow::new(line.number, Some(line.byte), what);
            let n = line.fields.len();
            if n != self.width {
                let word = if n == 1 { "column" } else { "columns" };
                let hint = match (self.tabs, n) {
                    (true, 1) => "separate the columns by tabs, as in the first line",
                    _ => "every word needs the columns of the first line; an empty line ends a sentence",
                };
                return Err(bad(format!("a line has {n} {word}"))
                    .with_expected(self.width.to_string())
                    .with_found(format!("{:?}", line.fields.join(if self.tabs { "\t" } else { " " })))
                    .with_help(hint));
            }
            let tag = self.columns.tag.unwrap_or(n - 1);
            for (what, i) in [("word", self.columns.word), ("tag", tag)] {
                let field = line.fields.get(i).map_or("", |f| f.trim());
                let list = if what == "word" { &mut words } else { &mut tags };
                if what == "tag" && !self.columns.tagged {
                    continue;
                }
                if field.is_empty() {
                    return Err(
                        bad(format!("the {what} is empty")).with_help("fill the column or remove the line")
                    );
                }
                list.push(field.to_owned());
            }
        }
        let first = lines.first().map_or(0, |l| l.number);
        let at = |word: usize| lines.get(word).map_or((first, None), |l| (l.number, Some(l.byte)));
        check(Sentence { words, tags, line: first }, self.columns, at)
    }
}

fn fields(line: &str, tabs: bool) -> Vec<&str> {
    if tabs { line.split('\t').collect() } else { line.split_whitespace().collect() }
}

impl Iterator for Blocks<'_> {
    type Item = Found;
    fn next(&mut self) -> Option<Found> {
        let mut lines: Vec<Line<'_>> = Vec::new();
        for (number, byte, raw) in self.rest.by_ref() {
            // A line of tabs alone is an empty line of a spreadsheet.
            let ends = raw.trim().is_empty() || raw.starts_with("-DOCSTART-");
            if ends && lines.is_empty() {
                continue;
            }
            if ends {
                break;
            }
            let fields = fields(raw, self.tabs);
            let comment = raw.starts_with('#') && lines.is_empty() && fields.len() != self.width;
            let range = |id: &str| {
                id.split_once(['-', '.'])
                    .is_some_and(|(a, b)| [a, b].iter().all(|n| n.parse::<u32>().is_ok()))
            };
            if comment || (self.width == 10 && fields.first().is_some_and(|id| range(id))) {
                continue;
            }
            lines.push(Line { number, byte, fields });
        }
        (!lines.is_empty()).then(|| self.sentence(&lines))
    }
}

fn from_json(record: &Record, columns: &TagColumns) -> Found {
    let bad = |what: String| BadRow::new(record.line, record.byte, what);
    let Cells::Object(pairs) = &record.cells else { return Err(bad("not an object".into())) };
    let list = |key: &str| -> std::result::Result<Vec<String>, BadRow> {
        let Some((_, value)) = pairs.iter().find(|(k, _)| k == key) else {
            return Err(record.lacks(key, pairs.iter().map(|(k, _)| k.as_str())));
        };
        let items = value.as_array().ok_or_else(|| {
            bad(format!("{key:?} is no list")).with_expected("an array of strings").with_found(kind(value))
        })?;
        let one = |(i, v): (usize, &Value)| match v.as_str() {
            Some(s) if !s.trim().is_empty() && !s.contains('\0') => Ok(s.to_owned()),
            Some(s) => Err(bad(format!("item {} of {key:?} is empty or holds a NUL", i + 1))
                .with_found(format!("{s:?}"))),
            None => {
                let e = bad(format!("item {} of {key:?} is no string", i + 1))
                    .with_expected("a string")
                    .with_found(kind(v));
                Err(if v.is_number() {
                    e.with_help("write the names of the tags, not their numbers")
                } else {
                    e
                })
            }
        };
        items.iter().enumerate().map(one).collect()
    };
    let words = list(&columns.words_key)?;
    let tags = if columns.tagged { list(&columns.tags_key)? } else { Vec::new() };
    if words.is_empty() {
        return Err(bad("a sentence has no words".into()).with_help("remove the line"));
    }
    if columns.tagged && words.len() != tags.len() {
        return Err(bad("a sentence has another number of tags than of words".into())
            .with_expected(format!("{} tags", words.len()))
            .with_found(tags.len().to_string()));
    }
    check(Sentence { words, tags, line: record.line }, columns, |_| (record.line, record.byte))
}
