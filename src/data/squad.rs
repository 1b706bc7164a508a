//! Questions about contexts: SQuAD's JSON, versions 1.1 and 2.0 (Rajpurkar et al. 2016, 2018).

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::encoding::text;
use super::examples::{Examples, char_starts};
use super::record::{BadRow, OnBadRow};
use crate::error::{Error, Result};

/// A question, the text that answers it, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name that predictions are written under; no other question of the file has it.
    pub id: String,
    /// The title of the article; empty if there is none.
    pub title: String,
    /// The text; the questions of a paragraph share it.
    pub context: Arc<str>,
    /// The question.
    pub question: String,
    /// The right answers; none if it has none or if they are not known.
    pub answers: Vec<Answer>,
    /// Whether the file says that the context does not answer it (2.0).
    pub impossible: bool,
    /// The line it stands in, counted from 1.
    pub line: u64,
}

/// A part of a context that answers a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its text, which stands in the context at its offset.
    pub text: String,
    /// Where it begins: in characters (Unicode scalar values, as Python counts), counted from 0.
    pub start: usize,
    /// Where it begins in bytes of the context.
    pub byte: usize,
}

#[derive(Deserialize)]
struct Raw {
    data: Vec<RawArticle>,
    #[serde(default)]
    version: serde_json::Value,
}
#[derive(Deserialize)]
struct RawArticle {
    #[serde(default)]
    title: String,
    paragraphs: Vec<RawParagraph>,
}
#[derive(Deserialize)]
struct RawParagraph {
    context: String,
    qas: Vec<RawQuestion>,
}
#[derive(Deserialize)]
struct RawQuestion {
    id: String,
    question: String,
    #[serde(default)]
    answers: Option<Vec<RawAnswer>>,
    #[serde(default)]
    is_impossible: Option<bool>,
}
#[derive(Deserialize)]
struct RawAnswer {
    text: String,
    answer_start: i64,
}

/// Reads the questions of a SQuAD file. `answered`: whether every question must have an answer or be said to
/// have none (`is_impossible`, or version 2.0 and an empty list). To predict they need not: their answers are
/// not read.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) with the line if the file cannot be read or is no SQuAD JSON,
/// holds no question, or holds one that is bad: an answer that does not stand at its offset, an id given
/// twice, an empty text (with [`OnBadRow::Skip`]: more than 1 % of the questions).
pub fn read_questions(path: &Path, answered: bool, on_bad: OnBadRow) -> Result<Examples<Question>> {
    let (content, hash) = text(path)?;
    let raw: Raw = serde_json::from_str(&content).map_err(|e| {
        let why = e.to_string();
        let what = if e.is_data() { "the file is not the JSON of SQuAD" } else { "the file is not valid JSON" };
        let error = Error::data(what).at(path).with_line(e.line() as u64).with_column(column(&content, &e));
        error
            .with_expected("{\"data\": [{\"paragraphs\": [{\"context\", \"qas\": [{\"id\", \"question\", \"answers\": [{\"text\", \"answer_start\"}]}]}]}]}")
            .with_found(why.split(" at line ").next().unwrap_or_default())
            .with_help("write the questions in the format of SQuAD 1.1 or 2.0")
    })?;
    let version = raw.version.as_str().map_or_else(|| raw.version.to_string(), str::to_owned);
    let source = Source { answered, v2: version.trim_start_matches('v').starts_with('2') };
    let mut all = Examples::new(path);
    let mut seen = HashSet::new();
    let mut place = Place::default();
    for article in raw.data {
        for paragraph in article.paragraphs {
            let context: Arc<str> = paragraph.context.into();
            let starts = char_starts(&context);
            for q in paragraph.qas {
                let at = place.of(&content, &q.id);
                let twice = !seen.insert(q.id.clone());
                all.push(source.question(q, &article.title, &context, &starts, at, twice), on_bad)?;
            }
        }
    }
    all.finish(hash)
}

/// The column of a parser's error in characters, counted from 1: serde_json counts bytes.
fn column(content: &str, e: &serde_json::Error) -> u64 {
    let line = content.lines().nth(e.line().saturating_sub(1)).unwrap_or_default();
    line.get(..e.column().saturating_sub(1)).map_or(e.column(), |before| before.chars().count() + 1) as u64
}

/// Finds the lines of ids, which parsing loses: each is looked for behind the one before it.
#[derive(Default)]
struct Place {
    byte: usize,
    line: u64,
}

impl Place {
    /// (line, byte) of an id as a JSON string; of the last id that was found if it is written in another way.
    fn of(&mut self, content: &str, id: &str) -> (u64, u64) {
        let written = serde_json::Value::from(id).to_string();
        let rest = content.get(self.byte..).unwrap_or_default();
        if let Some(i) = rest.find(&written) {
            let passed = rest.get(..i).unwrap_or_default();
            self.line += passed.matches('\n').count() as u64;
            // On to the end of the id, so that the same one given twice is found twice.
            self.byte += i + written.len();
            return (self.line + 1, (self.byte - written.len()) as u64);
        }
        (self.line + 1, self.byte as u64)
    }
}

/// What holds for every question of a file.
struct Source {
    answered: bool,
    v2: bool,
}

impl Source {
    fn question(
        &self,
        q: RawQuestion,
        title: &str,
        context: &Arc<str>,
        starts: &[usize],
        (line, byte): (u64, u64),
        twice: bool,
    ) -> std::result::Result<Question, BadRow> {
        let bad = |what: String| BadRow::new(line, Some(byte), format!("question {:?}: {what}", q.id));
        if twice {
            return Err(bad("another question has the same id".into())
                .with_expected("a different id for each question: predictions are written by id")
                .with_help("change one of the ids"));
        }
        for (what, text) in [("question", q.question.as_str()), ("context", context)] {
            if text.trim().is_empty() {
                return Err(
                    bad(format!("the {what} is empty")).with_help("fill it in, or remove the question")
                );
            }
        }
        let known = q.answers.is_some();
        let raw = q.answers.filter(|_| self.answered).unwrap_or_default();
        let empty = self.v2 && known && raw.is_empty();
        let impossible = self.answered && q.is_impossible.unwrap_or(empty);
        if impossible && !raw.is_empty() {
            return Err(bad("it has an answer, but is_impossible is true".into())
                .with_help("remove the answers, or set is_impossible to false"));
        }
        if self.answered && !impossible && raw.is_empty() {
            return Err(bad("it has no answer".into())
                .with_expected("answers, or \"is_impossible\": true")
                .with_found(if known { "an empty list" } else { "no key \"answers\"" })
                .with_help(
                    "add an answer, or \"is_impossible\": true if the context does not answer the question",
                ));
        }
        let mut answers = Vec::with_capacity(raw.len());
        for a in raw {
            if a.text.trim().is_empty() {
                return Err(bad("an answer is empty".into())
                    .with_help("remove the answer; a question without an answer has \"answers\": []"));
            }
            let start = usize::try_from(a.answer_start).ok();
            let at = start.and_then(|s| Some((s, *starts.get(s)?)));
            match at.filter(|(_, byte)| context.get(*byte..).is_some_and(|rest| rest.starts_with(&a.text))) {
                Some((start, byte)) => answers.push(Answer { text: a.text, start, byte }),
                None => {
                    return Err(misplaced(bad("an answer is not at its offset".into()), &a, context, starts));
                }
            }
        }
        let (title, context) = (title.to_owned(), context.clone());
        Ok(Question { id: q.id, title, context, question: q.question, answers, impossible, line })
    }
}

/// Says what stands at the offset instead, and where the answer is.
fn misplaced(bad: BadRow, a: &RawAnswer, context: &str, starts: &[usize]) -> BadRow {
    let length = a.text.chars().count();
    let there = usize::try_from(a.answer_start).ok().and_then(|s| {
        let from = *starts.get(s)?;
        let to = starts.get(s + length).copied().unwrap_or(context.len());
        context.get(from..to)
    });
    let found = match there {
        Some(there) => format!("{there:?} at {}", a.answer_start),
        None => format!("{}, of {} characters", a.answer_start, starts.len() - 1),
    };
    let places = context.match_indices(&a.text).filter_map(|(byte, _)| starts.binary_search(&byte).ok());
    let nearest = places.min_by_key(|p| (*p as i64 - a.answer_start).abs());
    bad.with_expected(format!("{:?}", a.text)).with_found(found).with_help(match nearest {
        Some(p) => format!(
            "set answer_start to {p}, where the nearest such text begins; count Unicode code points, not bytes or UTF-16 units"
        ),
        None => "correct the answer: the context does not hold this text".to_owned(),
    })
}
