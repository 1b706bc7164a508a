//! Tags of words, answers to questions, and raw text.

use super::super::options::text;
use super::roles::Roles;
use super::survey::{Json, Survey};
use super::write::quoted;
use super::{Length, Proposal};
use crate::data::{self, Columns, OnBadRow, TagFormat, TagRule, TagSource, TaggedText};
use crate::error::{Error, Result};
use crate::train::recipe::TaskKind;
use crate::units::plural;
use clap::ArgMatches;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The keys of a list of words, and of a list of tags, as data sets name them.
const WORDS: &[&str] = &["tokens", "words", "token", "word"];
const TAGS: &[&str] = &["tags", "ner_tags", "ner", "labels", "label", "pos_tags", "upos", "pos"];
/// The length of contexts and the tokens that their windows share, as BERT's script for SQuAD has them.
const CONTEXT: (usize, usize) = (384, 128);

/// What to train on a file with a word and its tag in each line.
///
/// # Errors
/// Those of [`data::read_tagged`].
pub fn tagged_words(path: &Path, why: String, matches: &ArgMatches) -> Result<Proposal> {
    let label = text(matches, "label");
    let mut proposal = tags(path, "text", label.unwrap_or("label"), why)?;
    proposal.data.extend(label.map(|label| ("label", quoted(label), String::new())));
    Ok(proposal)
}

/// What to train on a table whose rows are sentences with tags or texts with spans; `None` if they are not.
///
/// # Errors
/// Those of [`data::read_tagged`].
pub fn tagged_rows(survey: &Survey, matches: &ArgMatches) -> Result<Option<Proposal>> {
    let of = |json: Json| survey.columns.iter().filter(move |c| c.json == json).map(|c| c.name.as_str());
    let known = |names: &[&str], among: &[&str]| {
        names.iter().find(|name| among.contains(name)).map(|name| (*name).to_owned())
    };
    let named = |names: &[&str], among: &[&str]| {
        known(names, among).or_else(|| among.first().map(|name| (*name).to_owned()))
    };
    let lists: Vec<&str> = of(Json::Words).collect();
    let given = |id| text(matches, id).map(str::to_owned);
    let words = given("text").or_else(|| known(WORDS, &lists)).unwrap_or_default();
    if lists.contains(&words.as_str()) {
        let others: Vec<&str> = lists.iter().copied().filter(|name| *name != words).collect();
        let numbers: Vec<&str> = of(Json::Numbers).collect();
        let Some(label) = given("label").or_else(|| named(TAGS, &others)) else {
            if numbers.is_empty() {
                return Ok(None);
            }
            return Err(Error::data(format!("the tags in {:?} are numbers", numbers[0]))
                .at(&survey.path)
                .with_expected("a list of names, such as [\"B-PER\", \"O\"]")
                .with_help("write the names of the tags instead of their numbers"));
        };
        let why = format!("{words:?} holds words and {label:?} a tag for each");
        return in_rows(survey, &words, &label, why).map(Some);
    }
    let spans: Vec<&str> = of(Json::Spans).collect();
    let Some(label) = given("label").or_else(|| named(&["label", "labels", "spans", "entities"], &spans))
    else {
        return Ok(None);
    };
    let texts: Vec<&str> = survey.columns.iter().filter(|c| c.is_text()).map(|c| c.name.as_str()).collect();
    let Some(one) = given("text").or_else(|| named(&["text", "sentence"], &texts)) else { return Ok(None) };
    if !spans.contains(&label.as_str()) {
        return Ok(None);
    }
    let why = format!("{label:?} holds spans of the text");
    in_rows(survey, &one, &label, why).map(Some)
}

fn in_rows(survey: &Survey, words: &str, label: &str, why: String) -> Result<Proposal> {
    let mut proposal = tags(&survey.path, words, label, why)?;
    proposal.data.push(("text", quoted(words), String::new()));
    proposal.data.push(("label", quoted(label), String::new()));
    let used = |name: &str| name == words || name == label;
    let out: Vec<String> =
        survey.columns.iter().filter(|c| !used(&c.name)).map(|c| format!("{:?}", c.name)).collect();
    if !out.is_empty() {
        proposal.columns.push(("left out", out.join(", ")));
    }
    Ok(proposal)
}

fn tags(path: &Path, words: &str, label: &str, why: String) -> Result<Proposal> {
    let (words, label, train) = (words.to_owned(), label.to_owned(), path.to_path_buf());
    let read = move |paths: &[&Path]| {
        let rule = TagRule::Auto { strict: false };
        let source = TagSource { text: &words, label: Some(&label), rule, classes: &[] };
        data::read_tagged(paths, &source, OnBadRow::Skip)
    };
    let (files, format) = read(&[path])?;
    let Some(found) = files.into_iter().next() else { return Err(Error::data("no sentences").at(path)) };
    let sentences: Vec<TaggedText> = found.items;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    sentences.iter().flat_map(|s| &s.sentence.tags).for_each(|tag| *counts.entry(tag).or_default() += 1);
    let scheme = match format {
        TagFormat::Words => "each tag is a class of its word".to_owned(),
        TagFormat::Spans { .. } => format!("entities in the scheme {}", format.name()),
    };
    let all = counts.values().sum::<usize>();
    let outside = counts.get("O").map(|n| format!(", {:.0} % are O", *n as f64 / all.max(1) as f64 * 100.0));
    let texts: Vec<(String, Option<String>)> =
        sentences.iter().map(|s| (s.sentence.words.join(" "), None)).collect();
    let names: Vec<&str> = counts.keys().copied().take(8).collect();
    let more = if counts.len() > names.len() {
        format!(" and {} more", counts.len() - names.len())
    } else {
        String::new()
    };
    Ok(Proposal {
        notes: vec![
            ("words", format!("{all}{}", outside.unwrap_or_default())),
            ("tags", format!("{}: {}{more}", counts.len(), names.join(", "))),
            ("scheme", scheme),
        ],
        groups: texts.iter().collect::<BTreeSet<_>>().len(),
        bad: found.bad.first().map(|bad| (found.bad_count, format!("line {}: {}", bad.line, bad.what))),
        count: Box::new(move |path| {
            let (files, _) = read(&[&train, path])?;
            let [own, other] = files.as_slice() else { return Ok((0, 0)) };
            // Training stops at a tag that its own file lacks.
            let known: BTreeSet<&String> = own.items.iter().flat_map(|s| &s.sentence.tags).collect();
            let known: Vec<String> = known.into_iter().cloned().collect();
            data::tag_numbers(path, other.items.iter().map(|s| &s.sentence), &known)?;
            Ok((other.items.len(), other.bad_count))
        }),
        ..Proposal::new(TaskKind::Tag, why, "sentences", sentences.len(), Length::Sentences(texts))
    })
}

/// What to train on a file in SQuAD's format.
///
/// # Errors
/// Those of [`data::read_questions`].
pub fn questions(path: &Path, why: String) -> Result<Proposal> {
    let found = data::read_questions(path, true, OnBadRow::Skip)?;
    let contexts: BTreeSet<&str> = found.items.iter().map(|q| &*q.context).collect();
    let none = found.items.iter().filter(|q| q.answers.is_empty()).count();
    let none = if none > 0 { format!("; {none} questions have no answer") } else { String::new() };
    let (length, stride) = CONTEXT;
    Ok(Proposal {
        notes: vec![("contexts", format!("{}{none}", contexts.len()))],
        groups: contexts.len(),
        bad: found.bad.first().map(|bad| (found.bad_count, format!("line {}: {}", bad.line, bad.what))),
        count: Box::new(|path| {
            let found = data::read_questions(path, true, OnBadRow::Skip)?;
            Ok((found.items.len(), found.bad_count))
        }),
        ..Proposal::new(
            TaskKind::Answer,
            why,
            "questions",
            found.items.len(),
            Length::Windows { length, stride },
        )
    })
}

/// What to train on a folder of text files, whose classes (if they have any) are not read.
///
/// # Errors
/// Those of [`data::read_documents`].
pub fn folder(path: &Path, task: TaskKind, why: String) -> Result<Proposal> {
    let columns = Columns { text: "text".to_owned(), pair: None, label: None, weight: None };
    let roles = Roles { columns, labels: Vec::new(), why: Vec::new() };
    Ok(Proposal { unit: "texts", ..documents(path, task, Some(roles), why)? })
}

/// What to train on text without labels: a .txt file, or a column of a table.
///
/// # Errors
/// Those of [`data::read_documents`]; [`Kind::Data`](crate::error::Kind::Data) if next-sentence prediction
/// lacks documents.
pub fn documents(path: &Path, task: TaskKind, roles: Option<Roles>, why: String) -> Result<Proposal> {
    let column = roles.as_ref().map_or("text".to_owned(), |r| r.columns.text.clone());
    let mut found = data::read_documents(path, &column, false, OnBadRow::Skip)?;
    let mut notes = Vec::new();
    let mut section = Vec::new();
    // A file without an empty line would be one document, of which none could validate.
    let by_row = roles.is_none() && found.documents.len() == 1 && found.documents[0].len() > 1;
    if let Some(pair) = task.entry().pair() {
        let long = found.documents.iter().filter(|d| d.len() > 1).count();
        if found.documents.len() < pair.documents || long == 0 {
            let least = plural(pair.documents as u64, "document");
            return Err(Error::data(format!("too few documents for the pairs of task {:?}", task.name()))
                .at(path)
                .with_expected(format!(
                    "{least} or more, one sentence a line, an empty line after each document"
                ))
                .with_found(format!("{} documents, {long} with two lines or more", found.documents.len()))
                .with_help("separate the documents by empty lines, or train on single texts: --task mask"));
        }
    } else if by_row {
        found = data::read_documents(path, &column, true, OnBadRow::Skip)?;
        let why = "the file has no empty line: each line is a text of its own";
        notes.push(("by_row", why.to_owned()));
        section.push(("by_row", "true".to_owned(), why.to_owned()));
    }
    let texts: Vec<String> = found.documents.iter().map(|lines| lines.join("\n")).collect();
    let groups = texts.iter().collect::<BTreeSet<_>>().len();
    let data = roles.as_ref().map(|_| ("text", quoted(&column), String::new()));
    let unit = if roles.is_some() { "rows" } else { "documents" };
    Ok(Proposal {
        columns: roles.map_or(Vec::new(), |r| r.why),
        notes,
        section,
        groups,
        data: data.into_iter().collect(),
        count: Box::new(move |path| {
            let found = data::read_documents(path, &column, by_row, OnBadRow::Skip)?;
            Ok((found.documents.len(), found.skipped))
        }),
        ..Proposal::new(task, why, unit, texts.len(), Length::Pieces(texts))
    })
}
