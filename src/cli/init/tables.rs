//! Tables: the task that fits their columns, and its keys in the recipe. Classes, sets of classes, numbers,
//! pairs.

use super::super::columns::plain;
use super::super::options::text;
use super::roles::{Roles, listed};
use super::survey::{Column, Json, Survey};
use super::texts;
use super::write::{list, quoted};
use super::{Keys, Length, NAMED, Proposal};
use crate::data::{self, Columns, Label, OnBadRow, Table, Target};
use crate::error::{Error, Result};
use crate::train::recipe::TaskKind;
use clap::ArgMatches;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// A class that is so many times rarer than another makes the classes unbalanced.
const UNBALANCED: usize = 5;
/// Up to this many different whole numbers are classes without further evidence.
const FEW_NUMBERS: usize = 20;
/// Pairs of one optimizer step that are compared with each other.
const CONTRASTIVE_BATCH: usize = 32;
/// What can stand between the classes of a cell.
const SEPARATORS: [char; 3] = ['|', ';', ','];
/// Names of labels that say how much alike two texts are.
const DEGREES: &[&str] = &["score", "similarity", "similarityscore", "relatedness", "relatednessscore"];

/// A table with the columns that were found in it.
struct Rows<'a> {
    survey: &'a Survey,
    roles: Roles,
    why: String,
}

/// What to train on a table. `wanted`: the task that was asked for.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) if the table cannot be read, or if no task fits its columns.
pub fn propose(path: &Path, wanted: Option<TaskKind>, matches: &ArgMatches) -> Result<Proposal> {
    let survey = Survey::read(path)?;
    let named: Vec<&str> = ["text", "pair", "label"].iter().filter_map(|id| text(matches, id)).collect();
    survey.check_header(&named)?;
    if matches!(wanted, None | Some(TaskKind::Tag))
        && let Some(proposal) = texts::tagged_rows(&survey, matches)?
    {
        return Ok(proposal);
    }
    refuse_other_formats(&survey, wanted)?;
    if wanted.is_some_and(|task| task.entry().language().is_some()) {
        let roles = Roles::find(&survey, matches, false)?;
        return texts::documents(path, wanted.unwrap_or(TaskKind::Mask), Some(roles), NAMED.to_owned());
    }
    let roles = Roles::find(&survey, matches, true)?;
    let (task, why) = match wanted {
        Some(task) => (task, NAMED.to_owned()),
        None => guess(&survey, &roles)?,
    };
    let rows = Rows { survey: &survey, roles, why };
    match task {
        TaskKind::Multilabel => rows.multilabel(),
        TaskKind::Regress => rows.regress(),
        TaskKind::Similar => rows.similar(),
        TaskKind::Mask => texts::documents(path, task, Some(rows.roles), rows.why),
        _ => rows.classify(wanted.is_some()),
    }
}

/// What to train on a folder with one subfolder for each class.
///
/// # Errors
/// Those of [`data::read()`] and [`Target::classes`].
pub fn class_folder(path: &Path, why: String) -> Result<Proposal> {
    let columns =
        Columns { text: "text".to_owned(), pair: None, label: Some("label".to_owned()), weight: None };
    let table = data::read(path, &columns, OnBadRow::Skip)?;
    let mut proposal = classes(&table, columns, why)?;
    // The names of its columns are the defaults.
    proposal.data = Keys::new();
    Ok(Proposal { unit: "texts", ..proposal })
}

/// The task of a table, and the reason.
fn guess(survey: &Survey, roles: &Roles) -> Result<(TaskKind, String)> {
    let pair = roles.columns.pair.is_some();
    let label = match roles.labels.as_slice() {
        [] if pair => return Ok((TaskKind::Similar, "pairs without a label".to_owned())),
        [] => return Ok((TaskKind::Mask, "a text and no label".to_owned())),
        [name] => {
            survey.column(name).ok_or_else(|| Error::data(format!("no column {name:?}")).at(&survey.path))?
        }
        _ => return Ok((TaskKind::Multilabel, "several columns of 0 and 1".to_owned())),
    };
    check_label(survey, label)?;
    if pair && all_yes(label) {
        return Ok((TaskKind::Similar, "pairs that all belong together".to_owned()));
    }
    if let Some(separator) = separator(survey, label)? {
        let why = format!("cells of {:?} are lists, separated by {separator:?}", label.name);
        return Ok((TaskKind::Multilabel, why));
    }
    let n = label.counts.len();
    let Some((low, high)) = label.range else {
        if n > 2 && n * 2 > label.filled {
            return Err(no_classes(survey, label));
        }
        return Ok((TaskKind::Classify, format!("the labels are {} different names", label.spellings)));
    };
    let degrees = n > 2 && DEGREES.contains(&plain(&label.name).as_str());
    if pair && (!label.whole || degrees) {
        let why = "pairs with numbers; a cross-encoder reads both texts at once: --task regress".to_owned();
        return Ok((TaskKind::Similar, why));
    }
    if !label.whole {
        let other = if n <= FEW_NUMBERS { "; if they are classes: --task classify" } else { "" };
        return Ok((TaskKind::Regress, format!("the labels are numbers with decimals{other}")));
    }
    // Class numbers start at 0 or 1 and leave none out; each has several rows.
    let numbered = (low == 0.0 || low == 1.0) && high - low + 1.0 == n as f64;
    if n <= FEW_NUMBERS || (numbered && n * 5 <= survey.rows) {
        let other = match (n, pair) {
            (..=2, _) => "",
            (_, true) => "; if they are amounts: --task similar or --task regress",
            (_, false) => "; if they are amounts: --task regress",
        };
        return Ok((TaskKind::Classify, format!("the labels are {} whole numbers{other}", label.spellings)));
    }
    let ids =
        if n == label.filled { ", another one in each row; if they are ids: --label COLUMN" } else { "" };
    Ok((TaskKind::Regress, format!("the labels are {n} different whole numbers{ids}")))
}

/// Refuses a label column that cannot be one.
fn check_label(survey: &Survey, label: &Column) -> Result<()> {
    let name = &label.name;
    let fail = |what: String| Error::data(what).at(&survey.path);
    let other = "name another column: --label COLUMN";
    let empty = survey.rows - label.filled;
    if label.filled == 0 {
        return Err(fail(format!("the column {name:?} is empty in all rows"))
            .with_expected("a label in every row")
            .with_help(other));
    }
    // One bad row, or one in a hundred, is reported and left out.
    if empty > (survey.rows / 100).max(1) && separator(survey, label)?.is_none() {
        let e = fail(format!("the label is empty in {empty} of {} rows", survey.rows));
        let e = e.with_line(label.first_empty.unwrap_or(1));
        return Err(e.with_expected(format!("a value in the column {name:?} of every row")).with_help(
            "label these rows or remove them; if an empty cell means \"no class\": --task multilabel",
        ));
    }
    if label.json != Json::Plain || label.counts.keys().all(|v| v.starts_with('[') && v.ends_with(']')) {
        let example = label.counts.keys().min().cloned().unwrap_or_default();
        let form = if label.json == Json::Object { "JSON objects" } else { "lists in brackets" };
        return Err(fail(format!("the labels in {name:?} are {form}"))
            .with_expected("one class, or several classes with a separator between them, such as price|speed")
            .with_found(format!("{example:?}"))
            .with_help("write the classes of a row without brackets and quotes, separated by |"));
    }
    if label.counting && label.filled > FEW_NUMBERS {
        return Err(fail(format!("the column {name:?} numbers the rows"))
            .with_expected("a label")
            .with_found("each value is the one above plus one")
            .with_help(other));
    }
    if label.is_date() {
        return Err(fail(format!("the column {name:?} holds dates"))
            .with_expected("classes or numbers")
            .with_help(other));
    }
    Ok(())
}

fn no_classes(survey: &Survey, label: &Column) -> Error {
    Error::data(format!("the labels in {:?} hardly repeat", label.name))
        .at(&survey.path)
        .with_expected("classes, each in several rows")
        .with_found(format!("{} different labels in {} rows", label.counts.len(), label.filled))
        .with_help("name another column: --label COLUMN; if these are classes: --task classify")
}

fn all_yes(label: &Column) -> bool {
    label.counts.keys().all(|v| v.eq_ignore_ascii_case("true") || v.parse::<f64>() == Ok(1.0))
}

/// What separates the classes of a cell; `None` if each cell is one class.
fn separator(survey: &Survey, label: &Column) -> Result<Option<char>> {
    // Decimal commas would be read as two classes.
    let decimal = |v: &String| v.replacen(',', ".", 1).parse::<f64>().is_ok();
    let comma = label.counts.keys().filter(|v| v.contains(',')).min();
    if let Some(comma) = comma.filter(|_| label.counts.keys().all(decimal)) {
        return Err(Error::data(format!(
            "the labels in {:?} may be numbers with a decimal comma",
            label.name
        ))
        .at(&survey.path)
        .with_expected("numbers with a decimal point, or names of classes")
        .with_found(format!("{comma:?}"))
        .with_help("write 3.5 for 3,5; if the cells are lists of classes: --task multilabel"));
    }
    Ok(SEPARATORS.into_iter().find(|s| is_separator(*s, label)))
}

/// Whether cells are lists with this separator: their parts occur in other cells as well.
fn is_separator(separator: char, label: &Column) -> bool {
    let cells: Vec<Vec<&str>> = label
        .counts
        .keys()
        .map(|cell| cell.split(separator).map(str::trim).filter(|p| !p.is_empty()).collect())
        .collect();
    let mut parts: HashMap<&str, usize> = HashMap::new();
    cells.iter().flatten().for_each(|p| *parts.entry(p).or_default() += 1);
    let several = cells.iter().filter(|c| c.len() > 1).count();
    let sizes: BTreeSet<usize> = cells.iter().map(Vec::len).chain(label.first_empty.map(|_| 0)).collect();
    let all: usize = cells.iter().map(Vec::len).sum();
    let words = parts.keys().map(|p| p.split_whitespace().count()).max().unwrap_or_default();
    // Commas also stand in names, such as "Paris, France": lists have various lengths.
    let various = sizes.len() > 1 || separator != ',';
    several > 0 && various && all * 2 >= parts.len() * 3 && words <= 4
}

/// Refuses tables that hold what tempra reads in another format: questions about contexts, a word and its tag
/// in each row.
fn refuse_other_formats(survey: &Survey, wanted: Option<TaskKind>) -> Result<()> {
    let has = |names: &[&str]| survey.columns.iter().any(|c| names.contains(&plain(&c.name).as_str()));
    let fail = |what: &str| {
        let found = format!("the columns {}", survey.names().join(", "));
        Error::data(what).at(&survey.path).with_found(found)
    };
    let questions = has(&["question"]) && has(&["context"]) && has(&["answer", "answers", "answertext"]);
    if wanted == Some(TaskKind::Answer) || (wanted.is_none() && questions) {
        return Err(fail("questions with answers cannot be read from a table")
            .with_expected("SQuAD's JSON: {\"data\": [{\"paragraphs\": [{\"context\": ..., \"qas\": [...]}]}]}")
            .with_help("write the rows in SQuAD's format, which docs/tasks.md shows under \"answer\", to a .json file"));
    }
    let words = has(&["word", "token"]) && has(&["tag", "nertag", "ner", "pos", "label"]);
    let short = survey.columns.iter().all(|c| !c.is_prose());
    if wanted == Some(TaskKind::Tag) || (wanted.is_none() && words && short) {
        return Err(fail("words with tags cannot be read from a table")
            .with_expected("a word and its tag in each line, separated by a tab, and an empty line after each sentence; or JSON Lines with a list of words and a list of tags")
            .with_help("write the words to a .conll file, which docs/tasks.md shows under \"tag\""));
    }
    Ok(())
}

/// A class that usually says that a row has no label.
fn placeholder(label: &Column) -> Option<String> {
    const EMPTY: &[&str] = &["-", "?", "nan", "null", "n/a", "na"];
    let is_empty = |v: &&String| EMPTY.contains(&v.to_lowercase().as_str());
    // Class numbers from 0 on; -1, 0 and 1 alone are degrees.
    let number = label.range == Some((-1.0, label.counts.len() as f64 - 2.0)) && label.counts.len() > 3;
    let found =
        label.counts.keys().filter(is_empty).min().cloned().or_else(|| number.then(|| "-1".to_owned()))?;
    let n = label.counts.get(&found).copied().unwrap_or_default();
    Some(format!("{found:?} ({n} rows) often marks rows without a label: remove them if so"))
}

impl<'a> Rows<'a> {
    fn columns(&self) -> Columns {
        let label = self.roles.labels.first().filter(|_| self.roles.labels.len() == 1);
        Columns { label: label.cloned(), ..self.roles.columns.clone() }
    }

    /// The column of the label, which this task needs.
    fn label(&self, task: &str) -> Result<&'a Column> {
        self.roles.label(self.survey).ok_or_else(|| {
            Error::data(format!("task {task:?} needs one label column"))
                .at(&self.survey.path)
                .with_found(match self.roles.labels.as_slice() {
                    [] => "none".to_owned(),
                    several => listed(several),
                })
                .with_help("name it: --label COLUMN")
        })
    }

    fn classify(self, wanted: bool) -> Result<Proposal> {
        let label = self.label("classify")?;
        check_label(self.survey, label)?;
        let table = data::read(&self.survey.path, &self.columns(), OnBadRow::Skip)?;
        let mut proposal = classes(&table, self.columns(), self.why.clone())?;
        proposal.notes.extend(placeholder(label).map(|note| ("note", note)));
        let commas = || label.counts.keys().filter(|v| v.contains(',')).count() * 2 > label.counts.len();
        let found = if wanted { separator(self.survey, label)? } else { commas().then_some(',') };
        if let Some(separator) = found {
            let note = format!(
                "cells of {:?} may be lists, separated by {separator:?}; for several classes a row: --task multilabel",
                label.name
            );
            proposal.notes.push(("note", note));
        }
        Ok(with_columns(proposal, &self.roles))
    }

    fn regress(self) -> Result<Proposal> {
        self.label("regress")?;
        let columns = self.columns();
        let table = data::read(&self.survey.path, &columns, OnBadRow::Skip)?;
        let labels = Target::Regress.labels(&table)?;
        let spread = numbers(&labels);
        let base = of_table(TaskKind::Regress, self.why, &table, columns.clone());
        let proposal = Proposal {
            notes: [vec![("labels", spread)], base.notes].concat(),
            count: Box::new({
                let columns = columns.clone();
                move |path| {
                    let table = data::read(path, &columns, OnBadRow::Skip)?;
                    Ok((Target::Regress.labels(&table)?.len(), table.bad_count))
                }
            }),
            ..base
        };
        Ok(with_columns(proposal, &self.roles))
    }

    fn multilabel(self) -> Result<Proposal> {
        if self.roles.labels.len() > 1 {
            return self.indicators();
        }
        let label = self.label("multilabel")?;
        let found = if label.counts.is_empty() { None } else { separator(self.survey, label).ok().flatten() };
        let separator = found.unwrap_or(',').to_string();
        let columns = self.columns();
        let table = data::read_with_sets(&self.survey.path, &columns, OnBadRow::Skip)?;
        let classes = data::class_sets(&table, &separator, None)?;
        let sets = data::sets(&table, &separator, &classes)?;
        data::check_sets(&self.survey.path, &sets, &classes)?;
        let mut proposal = of_table(TaskKind::Multilabel, self.why, &table, columns.clone());
        proposal.notes.push(("labels", set_counts(&classes, &sets)));
        proposal.notes.push((
            "separator",
            match found {
                Some(separator) => format!("{separator:?} between the classes of a row"),
                None => "\",\", the default: no cell holds several classes".to_owned(),
            },
        ));
        proposal.data.push(("separator", quoted(&separator), "between the classes of a row".to_owned()));
        // `tempra data check` takes every cell for one class.
        proposal.check.clear();
        proposal.count = Box::new(move |path| {
            let table = data::read_with_sets(path, &columns, OnBadRow::Skip)?;
            Ok((data::sets(&table, &separator, &classes)?.len(), table.bad_count))
        });
        Ok(with_columns(proposal, &self.roles))
    }

    /// Several classes, each with a column of 0 and 1.
    fn indicators(self) -> Result<Proposal> {
        let (columns, names) = (self.columns(), self.roles.labels.clone());
        let (table, sets) = data::read_with_indicators(&self.survey.path, &columns, &names, OnBadRow::Skip)?;
        data::check_sets(&self.survey.path, &sets, &names)?;
        let mut proposal = of_table(TaskKind::Multilabel, self.why, &table, columns.clone());
        proposal.notes.push(("labels", set_counts(&names, &sets)));
        if sets.iter().all(|set| set.len() == 1) {
            let note =
                "every row has exactly one class; for one class of several, write its name in one column";
            proposal.notes.push(("note", note.to_owned()));
        }
        proposal.data.push(("label", list(&names), "a column of 0 and 1 for each class".to_owned()));
        proposal.check.push(("label", names.join(",")));
        proposal.count = Box::new(move |path| {
            let table = data::read_with_indicators(path, &columns, &names, OnBadRow::Skip)?.0;
            Ok((table.rows.len(), table.bad_count))
        });
        Ok(with_columns(proposal, &self.roles))
    }

    fn similar(self) -> Result<Proposal> {
        let path = &self.survey.path;
        if self.roles.columns.pair.is_none() {
            return Err(Error::data("task \"similar\" needs pairs of texts")
                .at(path)
                .with_expected("two columns of text, such as sentence1 and sentence2")
                .with_found(self.survey.names().join(", "))
                .with_help("name both: --text COLUMN --pair COLUMN"));
        }
        let label = if self.roles.labels.is_empty() { None } else { Some(self.label("similar")?) };
        let columns = self.columns();
        let table = data::read(path, &columns, OnBadRow::Skip)?;
        let mut proposal = of_table(TaskKind::Similar, self.why, &table, columns.clone());
        let Some(label) = label.filter(|label| !all_yes(label)) else {
            proposal.section.push((
                "loss",
                quoted("contrastive"),
                "each text has to find its partner".to_owned(),
            ));
            proposal
                .notes
                .push(("loss", "contrastive: every row is a pair of texts that belong together".to_owned()));
            proposal.batch = CONTRASTIVE_BATCH;
            if label.is_none() {
                proposal.data.push(("label", quoted(""), "there is none".to_owned()));
                proposal.check.push(("label", String::new()));
            }
            proposal.count = Box::new(move |path| {
                let table = data::read(path, &columns, OnBadRow::Skip)?;
                data::check_partners(&table, "leave the file out")?;
                Ok((table.rows.len(), table.bad_count))
            });
            return Ok(with_columns(proposal, &self.roles));
        };
        check_label(self.survey, label)?;
        let labels = Target::Regress.labels(&table)?;
        let largest = label.range.map_or(1.0, |(low, high)| high.abs().max(low.abs()));
        let scale = label_scale(largest);
        let why = format!("the label of equal texts; the largest label is {largest}");
        proposal.section.push((
            "loss",
            quoted("cosine"),
            "the cosine of two vectors learns label / label_scale".to_owned(),
        ));
        proposal.section.push(("label_scale", format!("{scale:?}"), why.clone()));
        proposal.notes.push(("labels", numbers(&labels)));
        proposal.notes.push(("label_scale", format!("{scale}: {why}")));
        proposal.count = Box::new(move |path| {
            let table = data::read(path, &columns, OnBadRow::Skip)?;
            let labels = Target::Regress.labels(&table)?;
            data::check_similarities(&table, &labels, scale, "similar.label_scale")?;
            Ok((table.rows.len(), table.bad_count))
        });
        Ok(with_columns(proposal, &self.roles))
    }
}

/// The label that means "the same": the next whole number up to 10, else 100, else that above.
fn label_scale(largest: f64) -> f64 {
    match largest.ceil().max(1.0) {
        small if small <= 10.0 => small,
        middle if middle <= 100.0 => 100.0,
        large => large,
    }
}

/// Adds the columns, which are reported first.
fn with_columns(mut proposal: Proposal, roles: &Roles) -> Proposal {
    proposal.columns = roles.why.clone();
    proposal
}

/// What all tasks on tables share.
fn of_table(task: TaskKind, why: String, table: &Table, columns: Columns) -> Proposal {
    let mut data = vec![("text", quoted(&columns.text), String::new())];
    data.extend(columns.pair.as_ref().map(|pair| ("pair", quoted(pair), String::new())));
    data.extend(columns.label.as_ref().map(|label| ("label", quoted(label), String::new())));
    let mut check = vec![("text", columns.text.clone())];
    check.extend(columns.pair.clone().map(|pair| ("pair", pair)));
    check.extend(columns.label.clone().map(|label| ("label", label)));
    let texts = table.rows.iter().map(|row| (row.text.clone(), row.pair.clone())).collect();
    let empty = table.rows.iter().filter(|row| row.text.trim().is_empty()).count();
    let second = |pair: &String| pair.trim().is_empty();
    let empty_pairs = table.rows.iter().filter(|row| row.pair.as_ref().is_some_and(second)).count();
    let note = |n: usize, column: &String| {
        let note = format!(
            "{n} of {} texts are empty in the column {column:?}: remove these rows",
            table.rows.len()
        );
        (n > 0).then_some(("note", note))
    };
    let notes = note(empty, &columns.text)
        .into_iter()
        .chain(columns.pair.as_ref().and_then(|pair| note(empty_pairs, pair)))
        .collect();
    let distinct: BTreeSet<_> = table.rows.iter().map(|row| (row.text.trim(), row.pair.as_deref())).collect();
    Proposal {
        data,
        check,
        notes,
        groups: distinct.len(),
        bad: table.bad.first().map(|bad| (table.bad_count, format!("line {}: {}", bad.line, bad.what))),
        ..Proposal::new(task, why, "rows", table.rows.len(), Length::Rows(texts))
    }
}

/// Classes: each row has one.
fn classes(table: &Table, columns: Columns, why: String) -> Result<Proposal> {
    let target = Target::classes(table, None)?;
    let labels = target.labels(table)?;
    let (spread, unbalanced) = class_counts(&target, &labels);
    let base = of_table(TaskKind::Classify, why, table, columns.clone());
    let same = alike(&target).map(|note| ("note", note));
    Ok(Proposal {
        notes: [vec![("labels", spread)], same.into_iter().collect(), base.notes].concat(),
        unbalanced,
        count: Box::new({
            let columns = columns.clone();
            move |path| {
                let table = data::read(path, &columns, OnBadRow::Skip)?;
                Ok((target.labels(&table)?.len(), table.bad_count))
            }
        }),
        ..base
    })
}

/// Names of classes that differ in white space, in case or in how a number is written.
fn alike(target: &Target) -> Option<String> {
    let Target::Classify { classes } = target else { return None };
    let key = |name: &String| match name.trim().parse::<f64>() {
        Ok(x) if x.is_finite() => x.to_string(),
        _ => name.trim().to_lowercase(),
    };
    let mut seen: HashMap<String, &String> = HashMap::new();
    let (one, two) = classes.iter().find_map(|name| Some((seen.insert(key(name), name)?, name)))?;
    Some(format!("{one:?} and {two:?} are two classes: write them alike if they are one"))
}

/// How often each class occurs, in words; and what makes the classes unbalanced, if they are.
fn class_counts(target: &Target, labels: &[Label]) -> (String, Option<String>) {
    let Target::Classify { classes } = target else { return (String::new(), None) };
    let mut counts: Vec<(usize, &String)> = classes.iter().map(|name| (0, name)).collect();
    for label in labels {
        if let Label::Class(c) = label
            && let Some(slot) = counts.get_mut(*c as usize)
        {
            slot.0 += 1;
        }
    }
    counts.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    let unbalanced = match (counts.first(), counts.last()) {
        (Some((most, common)), Some((least, rare))) if *most > UNBALANCED * least => {
            Some(format!("{common:?} has {most} rows, {rare:?} has {least}"))
        }
        _ => None,
    };
    (format!("{} classes: {}", counts.len(), shown(&counts)), unbalanced)
}

/// How often each class of several occurs.
fn set_counts(classes: &[String], sets: &[Vec<u32>]) -> String {
    let mut counts: Vec<(usize, &String)> = classes.iter().map(|name| (0, name)).collect();
    for &class in sets.iter().flatten() {
        if let Some(slot) = counts.get_mut(class as usize) {
            slot.0 += 1;
        }
    }
    counts.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    let none = sets.iter().filter(|set| set.is_empty()).count();
    let none = if none > 0 { format!("; {none} rows have no class") } else { String::new() };
    format!("{} classes: {}{none}", counts.len(), shown(&counts))
}

fn shown(counts: &[(usize, &String)]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = counts.iter().take(SHOWN).map(|(n, name)| format!("{name} {n}")).collect();
    let more = counts.len().saturating_sub(SHOWN);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

/// How numbers are spread, in words.
fn numbers(labels: &[Label]) -> String {
    let value = |l: &Label| if let Label::Value(v) = l { Some(*v) } else { None };
    let values: Vec<f32> = labels.iter().filter_map(value).collect();
    let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(l, h), &x| (l.min(x), h.max(x)));
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len().max(1) as f64;
    format!("from {low} to {high}, mean {mean:.3}")
}
