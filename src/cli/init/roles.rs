//! The text, the pair and the label among the columns of a table, and the columns that are left out. Options
//! decide first, then names, then content.

use super::super::columns::{by_name_among, label_names};
use super::super::options::text;
use super::survey::{Column, Json, Survey};
use super::write::shell;
use crate::data::{Columns, OnBadRow, read};
use crate::error::{Error, Result};
use crate::suggest::nearest;
use clap::ArgMatches;

/// A column with fewer than this share of the text's words is no rival of it.
const ALIKE: f64 = 0.5;

/// The columns of a table and how each was found.
pub struct Roles {
    /// Text and pair; no label.
    pub columns: Columns,
    /// The label, the 0/1 columns of several labels, or none.
    pub labels: Vec<String>,
    /// `text`, `pair`, `label` and `left out`, in words.
    pub why: Vec<(&'static str, String)>,
}

impl Roles {
    /// Finds them; no label unless `labelled`.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) for a column that is named and missing, and if neither names
    /// nor content decide.
    pub fn find(survey: &Survey, matches: &ArgMatches, labelled: bool) -> Result<Self> {
        let names = survey.names();
        let mut found =
            by_name_among(matches, &names, |name| survey.column(name).is_some_and(Column::is_text));
        let named = found.columns.label.take().filter(|_| labelled);
        if named.is_some() && text(matches, "label").is_none() {
            let rivals = label_names(&names, &found.columns);
            let rivals: Vec<&String> =
                rivals.iter().filter(|name| survey.column(name).is_some_and(Column::repeats)).collect();
            if let [first, _, ..] = rivals.as_slice() {
                return Err(Error::data("several columns have names of labels")
                    .at(&survey.path)
                    .with_expected("one of them, or a column named label")
                    .with_found(rivals.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", "))
                    .with_help(format!("name it: --label {}", shell(first))));
            }
        }
        let mut labels = labels(survey, matches, named)?;
        if ["text", "pair"].iter().any(|id| text(matches, id).is_some_and(|name| !name.is_empty())) {
            // The reader's error says which column is missing.
            read(&survey.path, &found.columns, OnBadRow::Skip)?;
        }
        if text(matches, "text").is_none() && survey.column(&found.columns.text).is_none_or(|c| !c.is_text())
        {
            let (name, why) = prose(survey, &labels)?;
            found.columns.text = name;
            found.why.retain(|(what, _)| *what != "text");
            found.why.insert(0, ("text", why));
        }
        let mut columns = found.columns;
        if !labelled {
            // Raw text is one column.
            columns.pair = None;
            found.why.retain(|(what, _)| *what != "pair");
        }
        found.why.retain(|(what, _)| *what != "label" || labels.len() == 1);
        if labelled && labels.is_empty() && text(matches, "label").is_none() {
            let (found_labels, why) = by_content(survey, &columns)?;
            labels = found_labels;
            found.why.extend(why.map(|why| ("label", why)));
        } else if labels.len() > 1 {
            found.why.push(("label", "named by an option".to_owned()));
        }
        let mut why = Vec::new();
        for (what, reason) in found.why {
            let name = match what {
                "text" => Some(format!("column {:?}", columns.text)),
                "pair" => columns.pair.as_ref().map(|p| format!("column {p:?}")),
                _ if labels.len() > 1 => Some(format!("columns {}", listed(&labels))),
                _ => labels.first().map(|l| format!("column {l:?}")),
            };
            why.extend(name.map(|name| (what, format!("{name}: {reason}"))));
        }
        why.extend(left_out(survey, &columns, &labels).map(|out| ("left out", out)));
        Ok(Self { columns, labels, why })
    }

    /// The label, if there is one column of it.
    pub fn label<'s>(&self, survey: &'s Survey) -> Option<&'s Column> {
        match self.labels.as_slice() {
            [label] => survey.column(label),
            _ => None,
        }
    }
}

/// The label columns that an option or the header names.
fn labels(survey: &Survey, matches: &ArgMatches, named: Option<String>) -> Result<Vec<String>> {
    let Some(named) = named else { return Ok(Vec::new()) };
    if survey.column(&named).is_some() {
        return Ok(vec![named]);
    }
    let several: Vec<String> = named.split(',').map(|name| name.trim().to_owned()).collect();
    if let Some(missing) = several.iter().find(|name| survey.column(name).is_none()) {
        let names = survey.names();
        let e = Error::data(format!("no column {missing:?}"))
            .at(&survey.path)
            .with_expected("a column of this table")
            .with_found(names.join(", "));
        return Err(match nearest(missing, names.iter().map(String::as_str)) {
            Some(near) if text(matches, "label").is_some() => e.with_help(format!("did you mean {near:?}?")),
            _ => e.with_help("name the column of the label: --label COLUMN"),
        });
    }
    Ok(several)
}

/// The column with the most words, and the reason.
fn prose(survey: &Survey, labels: &[String]) -> Result<(String, String)> {
    let mut candidates: Vec<&Column> =
        survey.columns.iter().filter(|c| c.is_prose() && !labels.contains(&c.name)).collect();
    candidates.sort_by(|a, b| b.words.total_cmp(&a.words));
    let shown = |c: &&Column| format!("{:?} ({:.0} words a row)", c.name, c.words.max(1.0));
    match candidates.as_slice() {
        [] => Err(Error::data("no column looks like text")
            .at(&survey.path)
            .with_expected("a column with several words a row")
            .with_found(survey.names().join(", "))
            .with_help("name the column of the text: --text COLUMN")),
        [first, second, ..] if second.words >= ALIKE * first.words => {
            let limit = ALIKE * first.words;
            let all: Vec<&Column> = survey
                .columns
                .iter()
                .filter(|c| candidates.iter().any(|d| d.name == c.name) && c.words >= limit)
                .collect();
            let (one, two) = (shell(&all[0].name), shell(&all[1].name));
            Err(Error::data("several columns look like the text")
                .at(&survey.path)
                .with_expected(
                    "one column of text, or a pair with usual names, such as sentence1 and sentence2",
                )
                .with_found(all.iter().map(shown).collect::<Vec<_>>().join(", "))
                .with_help(format!(
                    "name the text: --text {one}; or both texts of a pair: --text {one} --pair {two}"
                )))
        }
        [first, ..] => {
            Ok((first.name.clone(), format!("it has {:.0} words a row, more than any other", first.words)))
        }
    }
}

/// The label by content: several 0/1 columns, or the one column whose values repeat. None if the table holds
/// texts alone.
fn by_content(survey: &Survey, columns: &Columns) -> Result<(Vec<String>, Option<String>)> {
    let used = |c: &&Column| c.name == columns.text || Some(&c.name) == columns.pair.as_ref();
    if survey.columns.iter().all(|c| used(&c)) {
        return Ok((Vec::new(), None));
    }
    let others: Vec<&Column> = survey
        .columns
        .iter()
        .filter(|c| !used(c))
        .filter(|c| !c.is_id() && !c.is_date() && !c.is_split())
        .collect();
    let binary: Vec<String> =
        others.iter().filter(|c| c.is_binary(survey.rows) && c.has_yes()).map(|c| c.name.clone()).collect();
    if binary.len() > 1 {
        refuse_odd_cells(survey, &others, &binary)?;
        return Ok((binary, Some("each is 0 or 1 in every row".to_owned())));
    }
    // Names of classes may have several words; a text that repeats now and then is no class.
    let often = |c: &Column| if c.is_prose() { 5 } else { 2 };
    let repeats =
        |c: &&&Column| c.counts.len() >= 2 && c.counts.len() * often(c) <= c.filled && c.json == Json::Plain;
    let mut candidates: Vec<&Column> = others.iter().filter(repeats).copied().collect();
    if candidates.is_empty() {
        // Numbers need not repeat.
        candidates = others
            .iter()
            .filter(|c| c.range.is_some() && !c.counting && c.counts.len() >= 2)
            .copied()
            .collect();
    }
    let shown = |c: &&Column| format!("{:?} ({} values)", c.name, c.counts.len());
    match candidates.as_slice() {
        [one] if one.range.is_some() && one.counts.len() * 2 > one.filled => {
            Ok((vec![one.name.clone()], Some("the only column of numbers".to_owned())))
        }
        [one] => {
            let why =
                format!("the only other column whose values repeat ({} different values)", one.counts.len());
            Ok((vec![one.name.clone()], Some(why)))
        }
        [] if columns.pair.is_some() => Ok((Vec::new(), None)),
        [] => Err(Error::data("no column looks like a label")
            .at(&survey.path)
            .with_expected("a column whose values repeat: 2 classes or more, each in several rows")
            .with_found(survey.names().join(", "))
            .with_help(
                "name it: --label COLUMN; if there are no labels, train a language model: --task mask",
            )),
        several => Err(Error::data("several columns could be the label")
            .at(&survey.path)
            .with_expected("one column with a usual name, such as label")
            .with_found(several.iter().map(shown).collect::<Vec<_>>().join(", "))
            .with_help(format!("name it: --label {}", shell(&several[0].name)))),
    }
}

/// Refuses a column beside columns of 0 and 1 that has other cells as well: it would be left out.
fn refuse_odd_cells(survey: &Survey, others: &[&Column], binary: &[String]) -> Result<()> {
    let Some(column) = others.iter().find(|c| c.is_nearly_binary(survey.rows)) else { return Ok(()) };
    let (line, cell) = column.first_odd.clone().unwrap_or_default();
    Err(Error::data(format!("the column {:?} is not 0 or 1 in every row", column.name))
        .at(&survey.path)
        .with_line(line)
        .with_expected(format!("0 or 1 in every row, as in {}", listed(binary)))
        .with_found(if cell.is_empty() { "an empty cell".to_owned() } else { format!("{cell:?}") })
        .with_help(format!(
            "write 0 or 1 in every cell, or name the columns of the classes: --label {}",
            shell(binary.join(","))
        )))
}

/// The columns that no key names, with the reason for each.
fn left_out(survey: &Survey, columns: &Columns, labels: &[String]) -> Option<String> {
    let used =
        |name: &String| *name == columns.text || Some(name) == columns.pair.as_ref() || labels.contains(name);
    let out: Vec<String> = survey
        .columns
        .iter()
        .filter(|c| !used(&c.name))
        .map(|c| format!("{:?} ({})", c.name, c.leftover(survey.rows)))
        .collect();
    (!out.is_empty()).then(|| out.join(", "))
}

/// Names in quotes, the first few of them.
pub fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
    let more = names.len().saturating_sub(SHOWN);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}
