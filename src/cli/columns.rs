//! Which column is the text, the pair, the label: as told, else guessed by name, else by content.

use super::options::text;
use crate::data::{Columns, OnBadRow, read};
use crate::error::{Error, Result};
use clap::ArgMatches;
use std::collections::HashSet;
use std::path::Path;

/// Names of the two texts of a pair, in data sets that are widely used.
const PAIRS: &[(&str, &str)] = &[
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("text_a", "text_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("question", "answer"),
    ("query", "document"),
    ("query", "passage"),
    ("text", "text_pair"),
];
/// Names of a text, the likeliest first.
const TEXTS: &[&str] = &[
    "text",
    "sentence",
    "content",
    "review",
    "review_text",
    "comment",
    "comment_text",
    "tweet",
    "message",
    "body",
    "utterance",
    "document",
    "question",
    "query",
    "abstract",
    "description",
    "headline",
    "title",
];
/// Names of a label, the likeliest first.
const LABELS: &[&str] = &[
    "label",
    "labels",
    "class",
    "target",
    "score",
    "category",
    "label_text",
    "gold_label",
    "sentiment",
    "intent",
    "topic",
    "emotion",
    "stance",
    "rating",
    "stars",
    "similarity",
    "similarity_score",
    "y",
];

/// The columns, and how each was found: for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The columns.
    pub columns: Columns,
    /// `text`, `pair` and `label` with what speaks for them.
    pub why: Vec<(&'static str, String)>,
}

/// As the options `--text`, `--pair` and `--label` say (an empty name: none); else by the names in the header. A text that
/// is not found so is called `text`, a label that is not found so is none.
pub fn by_name(matches: &ArgMatches, header: &[String]) -> Found {
    let given = |id| text(matches, id).map(str::to_owned);
    let (told, named) = ("as told", "by its name");
    let mut why = Vec::new();

    let pair_of = |first: &str, second: &str| Some((known(header, first)?, known(header, second)?));
    let pairs = || PAIRS.iter().filter_map(|&(a, b)| pair_of(a, b));
    let (one, how) = match given("text").filter(|s| !s.is_empty()) {
        Some(given) => (given, told),
        None => {
            let text = pairs().map(|(first, _)| first).next();
            let text = text.or_else(|| TEXTS.iter().find_map(|name| known(header, name)));
            text.map_or_else(|| ("text".to_owned(), "the default"), |text| (text, named))
        }
    };
    why.push(("text", how.to_owned()));
    let pair = match given("pair") {
        Some(given) => Some((given, told)).filter(|(given, _)| !given.is_empty()),
        None => pairs().find(|(first, _)| *first == one).map(|(_, second)| (second, named)),
    };
    let label = match given("label") {
        Some(given) => Some((given, told)).filter(|(given, _)| !given.is_empty()),
        None => LABELS
            .iter()
            .filter_map(|name| known(header, name))
            .find(|name| *name != one && pair.as_ref().is_none_or(|(pair, _)| pair != name))
            .map(|label| (label, named)),
    };
    why.extend(pair.iter().map(|(_, how)| ("pair", (*how).to_owned())));
    why.extend(label.iter().map(|(_, how)| ("label", (*how).to_owned())));
    let columns = Columns { text: one, pair: pair.map(|(p, _)| p), label: label.map(|(l, _)| l) };
    Found { columns, why }
}

/// As [`by_name`]; what names do not tell, the content does: the text is the column with the longest words of prose, the
/// label the one with the fewest different values.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) if that tells nothing either, or the file cannot be read.
pub fn by_content(matches: &ArgMatches, header: &[String], path: &Path) -> Result<Found> {
    let mut found = by_name(matches, header);
    if ["text", "pair"].iter().any(|id| text(matches, id).is_some_and(|name| !name.is_empty())) {
        // A column that was named and is not there is the mistake to tell, not what follows from it.
        read(path, &Columns { label: None, ..found.columns.clone() }, OnBadRow::Skip)?;
    }
    if !header.contains(&found.columns.text) && text(matches, "text").is_none() {
        let prose = header.iter().filter(|name| Some(*name) != found.columns.label.as_ref());
        let words = |name: &String| Some((mean_words(path, name)?, name.clone()));
        let longest = prose.filter_map(words).max_by(|a, b| a.0.total_cmp(&b.0));
        let Some((words, name)) = longest else {
            return Err(Error::data("no column looks like text")
                .at(path)
                .with_found(header.join(", "))
                .with_help("name it: --text COLUMN"));
        };
        found.columns.text = name;
        found.why.retain(|(what, _)| *what != "text");
        found.why.insert(0, ("text", format!("it has {words:.0} words a row, more than any other")));
    }
    if found.columns.label.is_none() && text(matches, "label").is_none() {
        let columns = &found.columns;
        let others =
            header.iter().filter(|name| **name != columns.text && Some(*name) != columns.pair.as_ref());
        let few = |name: &String| Some((distinct_labels(path, columns, name)?, name.clone()));
        let Some((n, name)) = others.filter_map(few).min() else {
            return Err(Error::data("no column looks like a label")
                .at(path)
                .with_expected("a column in which values come back: 2 classes or more, each in several rows")
                .with_found(header.join(", "))
                .with_help("name it: --label COLUMN"));
        };
        found.why.push(("label", format!("it has {n} different values, fewer than any other")));
        found.columns.label = Some(name);
    }
    Ok(found)
}

/// The column of that name, whatever its case and however its words are joined.
fn known(header: &[String], name: &str) -> Option<String> {
    let plain = |s: &str| s.trim().to_lowercase().replace(['-', ' '], "_");
    header.iter().find(|h| plain(h) == name).cloned()
}

/// Words a row; `None` for a column of numbers or of single words.
fn mean_words(path: &Path, name: &str) -> Option<f64> {
    let columns = Columns { text: name.to_owned(), pair: None, label: None };
    let rows = read(path, &columns, OnBadRow::Skip).ok()?.rows;
    let words: usize = rows.iter().map(|r| r.text.split_whitespace().count()).sum();
    let mean = words as f64 / rows.len().max(1) as f64;
    (mean > 1.5).then_some(mean)
}

/// How many values a label could have; `None` unless there are at least two and each comes back (on average).
fn distinct_labels(path: &Path, columns: &Columns, name: &str) -> Option<usize> {
    let columns = Columns { label: Some(name.to_owned()), ..columns.clone() };
    let rows = read(path, &columns, OnBadRow::Skip).ok()?.rows;
    let distinct: HashSet<&str> = rows.iter().filter_map(|r| r.label.as_deref()).collect();
    (distinct.len() >= 2 && distinct.len() * 2 <= rows.len()).then_some(distinct.len())
}
