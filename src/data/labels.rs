//! Labels as they are written -> class indices or values. The training split decides which classes there are.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::read::Table;
use super::record::{Row, list};
use crate::error::{Error, Result};
use crate::suggest::nearest;

/// What a model predicts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// One of several classes; the index of a class is its place in the list.
    Classify {
        /// The names: at least two, all different.
        classes: Vec<String>,
    },
    /// A number.
    Regress,
}

/// A label as a loss takes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Label {
    /// The index of a class.
    Class(u32),
    /// A finite value.
    Value(f32),
}

/// More distinct labels than this in less than two rows each are not classes: the column is wrong, or the
/// task is a regression.
const MANY: usize = 100;

impl Target {
    /// The classes of the training split: `given`, or all labels that occur, in numeric order if all are
    /// integers, else in byte order.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) if there are fewer than two, if a label is not one of
    /// `given`, or if the labels do not look like classes. [`Kind::Usage`](crate::error::Kind::Usage) if
    /// `given` has fewer than two names or one twice.
    pub fn classes(train: &Table, given: Option<&[String]>) -> Result<Self> {
        let fail = |what: String| Error::data(what).at(&train.path);
        if let Some(given) = given {
            let mut seen = HashSet::new();
            if let Some(twice) = given.iter().find(|name| !seen.insert(name.as_str())) {
                return Err(Error::usage(format!("data.classes names the class {twice:?} twice"))
                    .with_help("name each class once"));
            }
            if given.len() < 2 {
                return Err(Error::usage("data.classes names fewer than two classes")
                    .with_expected("at least two classes")
                    .with_found(list(given.iter().map(String::as_str))));
            }
            let target = Self::Classify { classes: given.to_vec() };
            target.labels(train)?;
            return Ok(target);
        }
        let mut names = BTreeSet::new();
        for row in &train.rows {
            names.insert(written(row, &train.path)?);
        }
        let mut classes: Vec<String> = names.into_iter().map(str::to_string).collect();
        if classes.len() < 2 {
            return Err(fail("all rows have the same label, so there is nothing to learn".into())
                .with_expected("at least two classes")
                .with_found(list(classes.iter().map(String::as_str)))
                .with_help("check that data.label names the right column, and that the file is whole"));
        }
        let number = |c: &str| c.trim().parse::<f64>().ok();
        let fraction = |c: &String| number(c).is_some_and(|x| x.fract() != 0.0);
        let amounts = classes.len() > 2
            && classes.iter().all(|c| number(c).is_some())
            && classes.iter().any(fraction)
            && classes.len() * 2 > train.rows.len();
        if amounts || classes.len() > MANY && classes.len() * 2 > train.rows.len() {
            let e = fail(format!(
                "the {} different labels in {} rows do not look like classes",
                classes.len(),
                train.rows.len()
            ))
            .with_expected("classes that each stand in several rows")
            .with_found(list(classes.iter().map(String::as_str)));
            let numbers = classes.iter().all(|c| number(c).is_some());
            return Err(e.with_help(if numbers {
                "set task = \"regress\" to predict numbers, or list the classes in data.classes"
            } else {
                "name another column in data.label, or list the classes in data.classes"
            }));
        }
        let numbers: Option<Vec<i64>> = classes.iter().map(|c| c.parse().ok()).collect();
        if let Some(numbers) = numbers {
            let mut both: Vec<(i64, String)> = numbers.into_iter().zip(classes).collect();
            both.sort();
            classes = both.into_iter().map(|(_, name)| name).collect();
        }
        Ok(Self::Classify { classes })
    }

    /// The label of every row of a table.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) with file and line for a label that is not a known class or
    /// not a finite number.
    pub fn labels(&self, table: &Table) -> Result<Vec<Label>> {
        let classes = match self {
            Self::Classify { classes } => classes.as_slice(),
            Self::Regress => &[],
        };
        let places: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
        let label = |(i, row): (usize, &Row)| {
            let label = written(row, &table.path)?;
            let at = |what: &str| table.error(i, what);
            match self {
                Self::Classify { .. } => places.get(label).map(|i| Label::Class(*i)).ok_or_else(|| {
                    let names = || classes.iter().map(String::as_str);
                    let e = at(&format!("the label {label:?} is not one of the classes"))
                        .with_expected(list(names()))
                        .with_found(format!("{label:?}"));
                    match nearest(label, names()) {
                        Some(near) => e.with_help(format!("did you mean {near:?}? If not, add the label to the training file or to data.classes")),
                        None => e.with_help("add the class to the training file or to data.classes, or correct the row"),
                    }
                }),
                Self::Regress => {
                    let value = label.trim().parse::<f64>().ok().filter(|x| x.is_finite());
                    let value = value.ok_or_else(|| {
                        at("the label is not a finite number").with_expected("a number such as 3.25").with_found(format!("{label:?}")).with_help("correct the row, or set task = \"classify\" if the labels are names")
                    })?;
                    Some(value as f32).filter(|x| x.is_finite()).map(Label::Value).ok_or_else(|| {
                        at("the label is too large for a 32-bit float")
                            .with_expected(format!("a number from {:e} to {:e}", f32::MIN, f32::MAX))
                            .with_found(format!("{label:?}"))
                            .with_help("divide all labels by a constant")
                    })
                }
            }
        };
        table.rows.iter().enumerate().map(label).collect()
    }
}

/// Checks that labels divided by `label_scale` can be cosine similarities. `key` is the recipe key or option
/// that the help names.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) with file and line for the first label whose quotient is outside
/// -1 to 1.
pub fn check_similarities(table: &Table, labels: &[Label], label_scale: f64, key: &str) -> Result<()> {
    let value = |label: &Label| match label {
        Label::Value(v) => f64::from(*v),
        Label::Class(c) => f64::from(*c),
    };
    // A scale such as 0.1 has no exact f32, in which labels are kept.
    let outside = |label: &Label| value(label).abs() / label_scale > 1.0 + 1e-6;
    let mut rows = table.rows.iter().zip(labels).enumerate();
    let Some((i, (row, label))) = rows.find(|(_, (_, label))| outside(label)) else { return Ok(()) };
    let count = labels.iter().filter(|label| outside(label)).count();
    let largest = labels.iter().map(|label| value(label).abs()).fold(0.0, f64::max);
    // Scales are whole numbers mostly, and the best label may be missing from a file.
    let scale = if largest > 1.0 { largest.ceil() } else { largest };
    let written = row.label.as_deref().unwrap_or_default().trim();
    let set = |scale: f64| match key.starts_with("--") {
        true => format!("{key} {scale}"),
        false => format!("{key} = {scale}"),
    };
    Err(table
        .error(i, format!("the label {written} divided by {} is not a cosine similarity", set(label_scale)))
        .with_expected("a quotient from -1 to 1")
        .with_found(format!(
            "{}; {count} of {} rows are outside",
            value(label) / label_scale,
            table.rows.len()
        ))
        .with_help(format!(
            "set {} if the largest label, {largest}, means \"the same\"; otherwise correct these rows",
            set(scale)
        )))
}

/// Checks that every row of a table is a pair of texts that belong together: its label, if it has one, is 1
/// or true. `remedy` is the help of the error.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) with file and line for the first row with another label.
pub fn check_partners(table: &Table, remedy: impl Into<String>) -> Result<()> {
    let other = |row: &&Row| {
        let label = row.label.as_deref().map(str::trim);
        label.is_some_and(|l| !l.eq_ignore_ascii_case("true") && l.parse::<f64>().ok() != Some(1.0))
    };
    let Some((i, row)) = table.rows.iter().enumerate().find(|(_, row)| other(row)) else { return Ok(()) };
    let (count, label) = (table.rows.iter().filter(other).count(), row.label.as_deref().unwrap_or_default());
    Err(table
        .error(i, format!("the pair has the label {label:?}"))
        .with_expected(
            "the label 1 or true: a contrastive loss trains the two texts of every row as partners",
        )
        .with_found(format!("{label:?}; {count} of {} rows have other labels", table.rows.len()))
        .with_help(remedy))
}

/// The classes of a label that names several.
fn several<'a>(label: &'a str, separator: &'a str) -> impl Iterator<Item = &'a str> {
    let whole = if separator.is_empty() { Some(label) } else { None };
    let parts = if separator.is_empty() { None } else { Some(label.split(separator)) };
    whole.into_iter().chain(parts.into_iter().flatten()).map(str::trim).filter(|c| !c.is_empty())
}

/// The classes of a training split whose labels name any number of classes: `given`, or all that occur, in
/// byte order.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) if no class occurs, or one that is not in `given`.
pub fn class_sets(train: &Table, separator: &str, given: Option<&[String]>) -> Result<Vec<String>> {
    if let Some(given) = given {
        sets(train, separator, given)?;
        return Ok(given.to_vec());
    }
    let mut names = BTreeSet::new();
    for row in &train.rows {
        names.extend(several(written(row, &train.path)?, separator).map(str::to_owned));
    }
    if names.is_empty() {
        return Err(Error::data("no row has a class, so there is nothing to learn")
            .at(&train.path)
            .with_help("check that data.label names the right column"));
    }
    if names.len() > MANY && names.len() * 2 > train.rows.len() {
        return Err(Error::data(format!("the {} different labels in {} rows do not look like classes", names.len(), train.rows.len()))
            .at(&train.path)
            .with_found(list(names.iter().map(String::as_str)))
            .with_help("set data.separator to the text between the classes of a row, or list the classes in data.classes"));
    }
    Ok(names.into_iter().collect())
}

/// Checks that the training rows differ in their classes, so that there is something to learn.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) if all rows have the same classes.
pub fn check_sets(path: &Path, sets: &[Vec<u32>], classes: &[String]) -> Result<()> {
    let Some(first) = sets.first().filter(|first| sets.iter().all(|set| set == *first)) else {
        return Ok(());
    };
    let names = first.iter().filter_map(|&i| classes.get(i as usize)).map(String::as_str);
    Err(Error::data("all rows have the same classes, so there is nothing to learn")
        .at(path)
        .with_expected("rows that differ in their classes")
        .with_found(list(names))
        .with_help("check that data.label names the right column, and that the file is whole"))
}

/// The class indices of every row of a table, ascending.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) with file and line for a class that is not in `classes`.
pub fn sets(table: &Table, separator: &str, classes: &[String]) -> Result<Vec<Vec<u32>>> {
    let places: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let row = |(i, row): (usize, &Row)| -> Result<Vec<u32>> {
        let mut set = BTreeSet::new();
        for name in several(written(row, &table.path)?, separator) {
            let Some(&place) = places.get(name) else {
                let e = table
                    .error(i, format!("the label {name:?} is not one of the classes"))
                    .with_expected(list(classes.iter().map(String::as_str)))
                    .with_found(format!("{name:?}"));
                return Err(match nearest(name, classes.iter().map(String::as_str)) {
                    Some(near) => e.with_help(format!("did you mean {near:?}?")),
                    None => e.with_help(
                        "add the class to the training file or to data.classes, or correct the row",
                    ),
                });
            };
            set.insert(place);
        }
        Ok(set.into_iter().collect())
    };
    table.rows.iter().enumerate().map(row).collect()
}

fn written<'a>(row: &'a Row, path: &Path) -> Result<&'a str> {
    row.label
        .as_deref()
        .ok_or_else(|| Error::usage("the table was read without a label column").at(path).with_line(row.line))
}
