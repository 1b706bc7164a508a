//! The files of a recipe's training, validation and test examples, and the shares of the training examples
//! that stand in for them.

use super::super::recipe::{self, Recipe};
use crate::data::{self, Label, OnBadRow, Row};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::units::plural;
use std::path::Path;

/// Training, validation and test examples.
pub(super) type Splits<T> = [Option<T>; 3];

/// What three files were, and how many of their rows were skipped.
pub(super) struct Files<T> {
    pub splits: Splits<T>,
    pub hashes: Vec<String>,
    pub skipped: u64,
}

/// The files of the splits.
pub(super) fn split_paths(r: &Recipe) -> Splits<&Path> {
    let d = &r.data;
    [Some(d.train.as_path()), d.validation.as_deref(), d.test.as_deref()]
}

/// Reads the files that a recipe names; `read` gives what is in one, its hash and the number of rows skipped.
pub(super) fn files<T>(
    r: &Recipe,
    mut read: impl FnMut(&Path) -> Result<(T, String, u64)>,
) -> Result<Files<T>> {
    let mut found = Files { splits: [None, None, None], hashes: Vec::new(), skipped: 0 };
    for (split, path) in found.splits.iter_mut().zip(split_paths(r)) {
        let Some(path) = path else { continue };
        let (content, hash, skipped) = read(path)?;
        *split = Some(content);
        found.hashes.push(hash);
        found.skipped += skipped;
    }
    Ok(found)
}

pub(super) fn on_bad(r: &Recipe) -> OnBadRow {
    match r.data.on_bad_row {
        recipe::OnBadRow::Stop => OnBadRow::Stop,
        recipe::OnBadRow::Skip => OnBadRow::Skip,
    }
}

/// Takes validation and test shares off the training examples where no files were given. `key` is the text
/// that examples must share to stay on one side; `classes` are what each side gets its share of.
pub(super) fn share<T>(
    r: &Recipe,
    splits: Splits<Vec<T>>,
    key: impl Fn(&T) -> String,
    classes: Option<&[Label]>,
) -> Result<Splits<Vec<T>>> {
    let d = &r.data;
    let [Some(train), validation, test] = splits else { return Ok(splits) };
    let fraction = |given: bool, share: f64| if given { 0.0 } else { share };
    let (v, t) =
        (fraction(validation.is_some(), d.validation_fraction), fraction(test.is_some(), d.test_fraction));
    let mut parts = vec![1.0 - v - t];
    parts.extend([v, t].into_iter().filter(|&f| f > 0.0));
    if parts.len() == 1 {
        return Ok([Some(train), validation, test]);
    }
    let row = |x: &T| Row { text: key(x), pair: None, label: None, line: 0 };
    let rows: Vec<Row> = train.iter().map(row).collect();
    let cut = data::split(&rows, &parts, classes, d.split_seed).map_err(|e| match e.kind() {
        ErrorKind::Data => too_few(r, rows.len(), [v, t]),
        _ => e.at(&d.train),
    })?;
    let mut side = vec![0; train.len()];
    for (part, indices) in cut.iter().enumerate() {
        indices.iter().for_each(|&i| side[i] = part);
    }
    let mut sides: Vec<Vec<T>> = cut.iter().map(|_| Vec::new()).collect();
    for (x, part) in train.into_iter().zip(side) {
        sides[part].push(x);
    }
    let mut sides = sides.into_iter();
    let rest = sides.next();
    let validation = if v > 0.0 { sides.next() } else { validation };
    let test = if t > 0.0 { sides.next() } else { test };
    Ok([rest, validation, test])
}

/// The error of a training file with too few rows to split off validation and test examples.
fn too_few(r: &Recipe, rows: usize, [validation, test]: [f64; 2]) -> Error {
    let sets = [("validation", validation), ("test", test)].into_iter().filter(|(_, share)| *share > 0.0);
    let (names, keys): (Vec<&str>, Vec<String>) =
        sets.map(|(set, share)| (set, format!("data.{set}_fraction = {share}"))).unzip();
    let first = names.first().copied().unwrap_or_default();
    Error::data(format!("too few examples to split off a {} set", names.join(" and a ")))
        .at(&r.data.train)
        .with_expected("at least one example in each set; examples with the same text stay together")
        .with_found(format!("{} with {}", plural(rows as u64, "example"), keys.join(" and ")))
        .with_help(format!("add examples, raise data.{first}_fraction, or set data.{first} to a file"))
}
