//! Sentences of tagged words: CoNLL columns, CoNLL-U and JSON.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::Value;

use super::encoding::text;
use super::examples::Examples;
use super::format::{self, Format};
use super::lines::MAX_LINE;
use super::record::{BadRow, Cells, OnBadRow, Record, kind};
use super::tags::{Affix, Scheme};
use crate::error::{Error, Result};

/// A sentence of words with their tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// Its words; at least one.
    pub words: Vec<String>,
    /// A tag for each word; empty if the tags were not read.
    pub tags: Vec<String>,
    /// The line of its first word, counted from 1.
    pub line: u64,
}

/// Where a file has words and tags, and which scheme the tags follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagColumns {
    /// The column of the word, counted from 0.
    pub word: usize,
    /// The column of the tag; `None` is the last one.
    pub tag: Option<usize>,
    /// The key of the list of words in JSON.
    pub words_key: String,
    /// The key of the list of tags in JSON.
    pub tags_key: String,
    /// Whether tags are read; a prediction does not need them.
    pub tagged: bool,
    /// The scheme that the tags must follow; `None` for tags that do not mark spans, such as parts of speech.
    pub scheme: Option<Scheme>,
    /// On which side of the type the tags have the letter of the scheme.
    pub affix: Affix,
    /// The scheme of a model's labels, if it decides how the tags are read instead of a recipe.
    pub model: Option<Scheme>,
}

impl Default for TagColumns {
    fn default() -> Self {
        let (words_key, tags_key) = ("tokens".to_owned(), "tags".to_owned());
        let (scheme, affix) = (Some(Scheme::Iob2), Affix::Prefix);
        Self { word: 0, tag: None, words_key, tags_key, tagged: true, scheme, affix, model: None }
    }
}

/// The columns of CoNLL-U (Universal Dependencies): ID, FORM, LEMMA, UPOS, XPOS, FEATS, HEAD, DEPREL, DEPS,
/// MISC.
const CONLLU: usize = 10;

/// The names of CoNLL-U's columns of tags and where they stand, counted from 0.
const CONLLU_TAGS: [(&str, usize); 3] = [("upos", 3), ("xpos", 4), ("deprel", 7)];

impl TagColumns {
    /// The columns of CoNLL-U for a `data.label`: `upos`, `xpos` or `deprel`; the default `label` is `upos`.
    /// `None` reads no tags.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) for another name.
    pub(super) fn conllu(path: &Path, label: Option<&str>) -> Result<Self> {
        let words = Self { word: 1, tagged: false, scheme: None, ..Self::default() };
        let Some(label) = label else { return Ok(words) };
        let name = if label == "label" { "upos" } else { label };
        let found = CONLLU_TAGS.iter().find(|(tag, _)| tag.eq_ignore_ascii_case(name));
        let (_, tag) = found.ok_or_else(|| {
            Error::data(format!("CoNLL-U has no tag column {label:?}"))
                .at(path)
                .with_expected("upos, xpos or deprel")
                .with_help("set data.label to one of these (for tempra eval: --label)")
        })?;
        Ok(Self { tag: Some(*tag), tagged: true, ..words })
    }

    /// Whether they are the tags of CoNLL-U.
    fn of_conllu(&self, width: usize) -> bool {
        width == CONLLU && self.word == 1 && CONLLU_TAGS.iter().any(|(_, tag)| self.tag == Some(*tag))
    }
}

type SentenceResult = std::result::Result<Sentence, BadRow>;

/// Whether a file of sentences holds JSON objects; CoNLL columns stand in files of any other name.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) for a table, whose rows are no sentences.
pub(super) fn has_objects(path: &Path) -> Result<bool> {
    let format = match Format::of(path) {
        Ok(format) if !path.is_dir() => format,
        _ => return Ok(false),
    };
    match format {
        Format::Jsonl | Format::Json => Ok(true),
        // Files with a word and a tag in each line are often named so.
        Format::Tsv => Ok(false),
        Format::Csv | Format::Parquet => Err(Error::data("the file is a table, not sentences of tagged words")
            .at(path)
            .with_expected("JSON Lines, a JSON array, or CoNLL columns (one word in each line, an empty line after a sentence)")
            .with_found(if format == Format::Csv { "a .csv file" } else { "a .parquet file" })
            .with_help("write a .jsonl file with one object for each sentence, such as {\"tokens\": [\"Alice\", \"went\"], \"tags\": [\"B-PER\", \"O\"]}")),
    }
}

/// Whether a file is CoNLL-U: the first line of its first sentence has ten fields between tabs, the first of
/// which is the number of a word (`1`), a range of words (`1-2`) or an empty node (`1.1`).
pub(super) fn is_conllu(path: &Path) -> bool {
    // What cannot be read, is not text or too long for a line is refused when the whole file is read.
    let Ok(file) = File::open(path) else { return false };
    let mut line = Vec::new();
    let mut lines = BufReader::new(file);
    loop {
        line.clear();
        match lines.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
        let Ok(text) = std::str::from_utf8(&line) else { return false };
        let text = text.trim_start_matches('\u{feff}').trim_end_matches(['\n', '\r']);
        if !text.trim().is_empty() && !text.starts_with('#') {
            let fields: Vec<&str> = text.split('\t').collect();
            let id = fields.first().copied().unwrap_or_default();
            return fields.len() == CONLLU && (id.parse::<u32>().is_ok() || spans_words(id));
        }
    }
}

/// Whether a CoNLL-U line is a multi-word token (`1-2`) or an empty node (`1.1`), by its first field.
fn spans_words(id: &str) -> bool {
    id.split_once(['-', '.']).is_some_and(|(a, b)| [a, b].iter().all(|n| n.parse::<u32>().is_ok()))
}

/// Reads sentences: JSON with a list of words and a list of tags from `.jsonl`, `.ndjson` and `.json`, CoNLL
/// columns from a file of any other name.
///
/// In columns a word stands in a line, an empty line ends a sentence and so does `-DOCSTART-`. The fields are
/// separated by tabs if the first word's line holds one, else by white space. Lines that begin with `#` and
/// have another number of fields than the words are comments before a sentence. Of CoNLL-U's ten columns the
/// lines of multi-word tokens (`1-2`) and of empty nodes (`1.1`) are left out.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) with the line if the file cannot be read, holds no sentence, or
/// holds one that is bad: another number of columns, an empty word or tag, tags that break the scheme (with
/// [`OnBadRow::Skip`]: more than 1 % of the sentences).
pub fn read_sentences(path: &Path, columns: &TagColumns, on_bad: OnBadRow) -> Result<Examples<Sentence>> {
    let mut all = Examples::new(path);
    if has_objects(path)? {
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

/// Refuses running text for a tagger: lines of several fields between spaces, the last of which is neither
/// one of `labels` nor written as a tag of a span. Tabs mark columns, whatever they hold.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) with the first such line, or if the file cannot be read.
pub fn check_last_column(path: &Path, labels: &[String]) -> Result<()> {
    if has_objects(path)? || is_conllu(path) {
        return Ok(());
    }
    let (content, _) = text(path)?;
    if content.contains('\t') {
        return Ok(());
    }
    let is_tag = |field: &str| {
        let typed = |affix: Affix| field.chars().count() > 2 && affix.cut(field).is_some();
        field == "O"
            || labels.iter().any(|l| l == field)
            || [Affix::Prefix, Affix::Suffix].map(typed).contains(&true)
    };
    for (line, number) in content.lines().zip(1..) {
        if line.starts_with('#') || line.starts_with("-DOCSTART-") {
            continue;
        }
        let fields = fields(line, false);
        if let [_, .., last] = fields.as_slice()
            && !is_tag(last)
            && !is_header(&fields)
        {
            return Err(Error::data(format!("the line has several words, but {last:?} is no tag of the model"))
                .at(path)
                .with_line(number)
                .with_expected("one word in each line, or a word and its tag")
                .with_found(format!("{:?}", line.chars().take(60).collect::<String>()))
                .with_help("for running text, use --sentence TEXT or JSON Lines such as {\"text\": \"Alice went\"}; else write one word in each line"));
        }
    }
    Ok(())
}

fn check(sentence: Sentence, columns: &TagColumns, bad: impl Fn(usize, String) -> BadRow) -> SentenceResult {
    let Some(broken) = columns.scheme.and_then(|s| s.check_of(&sentence.tags, columns.affix).err()) else {
        return Ok(sentence);
    };
    let read = columns.scheme.map_or("", Scheme::name);
    // Lenient reading of IOB2 is that of IOB1, but a message names the model's own scheme.
    let name = columns.model.map_or(read, Scheme::name);
    let fits = |s: &Scheme| s.check_of(&sentence.tags, columns.affix).is_ok();
    let others: Vec<&str> = Scheme::ALL.into_iter().filter(fits).map(Scheme::name).collect();
    let hint = match (others.as_slice(), columns.model) {
        ([], Some(_)) => format!("correct the tag: the model's labels follow the scheme {name}"),
        (_, Some(_)) => format!(
            "write the tags in {name}, the scheme of the model: those of this sentence follow {}",
            others.join(" and ")
        ),
        ([], _) => {
            "correct the tag, or set tag.scheme = \"none\" if each tag is a class of its word".to_owned()
        }
        _ => format!(
            "correct the tag, or set tag.scheme: the tags of this sentence follow {}, but not {name}",
            others.join(" and ")
        ),
    };
    let word = sentence.words.get(broken.word).map_or("", String::as_str);
    let what = broken.what.replace(&format!("the scheme {read}"), &format!("the scheme {name}"));
    Err(bad(broken.word, format!("{what}, at the word {word:?}"))
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
                .with_help(
                    "write one word and its tag in each line, and an empty line after each sentence",
                ));
        }
        if let Some(number) =
            content.lines().position(|line| line == first).filter(|_| is_header(&fields(first, tabs)))
        {
            return Err(Error::data("the first line looks like a header")
                .at(path)
                .with_line(number as u64 + 1)
                .with_expected("a word and its tag in each line")
                .with_found(format!("{first:?}"))
                .with_help("remove the line"));
        }
        let lines: Box<dyn Iterator<Item = _>> = Box::new(lines);
        Ok(Self { rest: lines.peekable(), columns, tabs, width })
    }
    fn sentence(&self, lines: &[Line<'_>]) -> SentenceResult {
        let (mut words, mut tags) = (Vec::new(), Vec::new());
        for line in lines {
            let bad = |what: String| BadRow::new(line.number, Some(line.byte), what);
            let n = line.fields.len();
            if n != self.width {
                let word = if n == 1 { "column" } else { "columns" };
                let hint = match (self.tabs, n) {
                    (true, 1) => "separate the columns by tabs",
                    _ => "give every word the same columns; an empty line ends a sentence",
                };
                return Err(bad(format!("the line has {n} {word}"))
                    .with_expected(format!("{}, as in the first line of words", self.width))
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
                        bad(format!("the {what} is empty")).with_help("fill the column, or remove the line")
                    );
                }
                if what == "tag" && field == "_" && self.columns.of_conllu(n) {
                    let word = line.fields.get(self.columns.word).copied().unwrap_or_default();
                    return Err(bad(format!("the word {word:?} has no tag"))
                        .with_expected("a tag in the column that data.label names")
                        .with_found("\"_\", which means no value in CoNLL-U")
                        .with_help("choose another column with data.label: upos, xpos or deprel"));
                }
                list.push(field.to_owned());
            }
        }
        let first = lines.first().map_or(0, |l| l.number);
        let bad = |word: usize, what: String| {
            let (line, byte) = lines.get(word).map_or((first, None), |l| (l.number, Some(l.byte)));
            BadRow::new(line, byte, what)
        };
        check(Sentence { words, tags, line: first }, self.columns, bad)
    }
}

/// Whether the fields of a line name a column of words and one of tags.
fn is_header(fields: &[&str]) -> bool {
    const WORDS: [&str; 6] = ["word", "words", "token", "tokens", "form", "text"];
    const TAGS: [&str; 9] = ["tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags", "pos", "upos"];
    let any =
        |names: &[&str]| fields.iter().any(|field| names.contains(&field.trim().to_lowercase().as_str()));
    any(&WORDS) && any(&TAGS)
}

fn fields(line: &str, tabs: bool) -> Vec<&str> {
    if tabs { line.split('\t').collect() } else { line.split_whitespace().collect() }
}

impl Iterator for Blocks<'_> {
    type Item = SentenceResult;
    fn next(&mut self) -> Option<SentenceResult> {
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
            if comment || (self.width == CONLLU && fields.first().is_some_and(|id| spans_words(id))) {
                continue;
            }
            lines.push(Line { number, byte, fields });
        }
        (!lines.is_empty()).then(|| self.sentence(&lines))
    }
}

fn from_json(record: &Record, columns: &TagColumns) -> SentenceResult {
    let bad = |what: String| record.bad(what);
    let Cells::Object(pairs) = &record.cells else { return Err(bad("the row is not a JSON object".into())) };
    let list = |key: &str| -> std::result::Result<Vec<String>, BadRow> {
        let Some((_, value)) = pairs.iter().find(|(k, _)| k == key) else {
            return Err(record.lacks(key, pairs.iter().map(|(k, _)| k.as_str())));
        };
        let items = value.as_array().ok_or_else(|| {
            bad(format!("{key:?} is not a list")).with_expected("an array of strings").with_found(kind(value))
        })?;
        let one = |(i, v): (usize, &Value)| match v.as_str() {
            Some(s) if !s.trim().is_empty() && !s.contains('\0') => Ok(s.to_owned()),
            Some(s) => Err(bad(format!("item {} of {key:?} is empty or holds a NUL character", i + 1))
                .with_found(format!("{s:?}"))),
            None => {
                let e = bad(format!("item {} of {key:?} is not a string", i + 1))
                    .with_expected("a string")
                    .with_found(kind(v));
                Err(if v.is_number() {
                    e.with_help("write the name of each tag instead of its number")
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
        return Err(bad("the sentence has no words".into()).with_help("remove the row"));
    }
    if columns.tagged && words.len() != tags.len() {
        return Err(bad("the sentence does not have one tag for each word".into())
            .with_expected(format!("{} tags", words.len()))
            .with_found(tags.len().to_string()));
    }
    check(Sentence { words, tags, line: record.line }, columns, |_, what| record.bad(what))
}
