//! One table cut in several: seeded, stratified by class, exact duplicates never on two sides.

use std::collections::{BTreeMap, HashMap};

use super::labels::Label;
use super::record::Row;
use crate::error::{Error, Result};
use crate::rng::Rng;

/// Cuts rows into one part for each fraction; returns the indices of the rows, ascending within a part.
///
/// Rows whose text and pair are equal after trimming white space stay together. Each part gets its fraction
/// of the rows of each class, as far as these groups allow. Rounding is carried over from class to class, so
/// that the parts have the right sizes as well. Without `labels`, or with values, all rows count as one
/// class.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) if a fraction is not positive or they do not sum to 1 (within
/// 1e-6); [`Kind::Data`](crate::error::Kind::Data) if a part would be empty.
pub fn split(
    rows: &[Row],
    fractions: &[f64],
    labels: Option<&[Label]>,
    seed: u64,
) -> Result<Vec<Vec<usize>>> {
    let sum: f64 = fractions.iter().sum();
    // A NaN fails both tests.
    let (positive, whole) = (fractions.iter().all(|f| *f > 0.0), (sum - 1.0).abs() <= 1e-6);
    if !positive || !whole {
        return Err(Error::usage("the fractions of the split are not positive or do not sum to 1")
            .with_expected("positive fractions that sum to 1")
            .with_found(format!("{fractions:?}")));
    }
    if labels.is_some_and(|l| l.len() != rows.len()) {
        return Err(Error::usage("the number of labels is not the number of rows")
            .with_expected(rows.len().to_string())
            .with_found(labels.map_or(0, <[Label]>::len).to_string()));
    }
    let class = |i: usize| match labels.and_then(|l| l.get(i)) {
        Some(Label::Class(c)) => *c,
        _ => 0,
    };
    // Groups of duplicates in the order of their first row; a group whose labels disagree counts for its
    // first.
    let mut found: HashMap<(&str, Option<&str>), usize> = HashMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let group =
            *found.entry((row.text.trim(), row.pair.as_deref().map(str::trim))).or_insert(groups.len());
        match groups.get_mut(group) {
            Some(members) => members.push(i),
            None => groups.push(vec![i]),
        }
    }
    let mut strata: BTreeMap<u32, Vec<Vec<usize>>> = BTreeMap::new();
    for group in groups {
        strata.entry(class(group[0])).or_default().push(group);
    }
    let mut parts = vec![Vec::new(); fractions.len()];
    let mut owed = vec![0.0; fractions.len()];
    for (class, mut groups) in strata {
        Rng::new(seed, "split", u64::from(class)).shuffle(&mut groups);
        // Large groups first (the sort is stable), so that the small ones can even out what they leave.
        groups.sort_by_key(|g| std::cmp::Reverse(g.len()));
        let n: usize = groups.iter().map(Vec::len).sum();
        owed.iter_mut().zip(fractions).for_each(|(o, f)| *o += f * n as f64);
        for group in groups {
            let most = (0..owed.len()).reduce(|a, b| if owed[b] > owed[a] { b } else { a }).unwrap_or(0);
            owed[most] -= group.len() as f64;
            parts[most].extend(group);
        }
    }
    if let Some(empty) = parts.iter().position(Vec::is_empty) {
        return Err(Error::data(format!("part {} of the split is empty", empty + 1))
            .with_expected(format!("enough rows for the fractions {fractions:?}"))
            .with_found(format!("{} rows with {} different texts", rows.len(), found.len()))
            .with_help("give more rows, or name files with data.validation and data.test"));
    }
    parts.iter_mut().for_each(|part| part.sort_unstable());
    Ok(parts)
}
