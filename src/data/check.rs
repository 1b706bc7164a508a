//! What to know about data before training on it. Bad rows are counted; none stops the report.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use super::read::{Scanned, Table, scan};
use super::record::{Columns, Row};
use super::report::{Conflict, FileReport, Leak, Lengths, Report, Typo};
use super::weights::WeightSummary;
use crate::error::Result;
use crate::text::Tokenizer;

/// Examples kept of each finding; all are counted.
const SHOWN: usize = 5;
/// Numbers with more distinct values than this are values, not class names.
const CLASSES: usize = 50;
const CHUNK: usize = 4096;

/// Reads files, given as (name of the split, path) with the training split first, and reports on them. With a
/// tokenizer and a maximum length it also counts the tokens that truncation would cut. `indicators` are the
/// 0/1 columns of classes, if each class has a column; the report then counts the rows of each class. The
/// column of weights is read from the training split alone, as in training.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) if a file cannot be opened or lacks a column; the tokenizer's
/// errors.
///
/// ```
/// use std::path::Path;
/// use tempra::data::{Columns, check};
///
/// let label = Some("label".to_owned());
/// let columns = Columns { text: "text".to_owned(), pair: None, label, weight: None };
/// let folder = Path::new("examples/sentiment");
/// let (train, test) = (folder.join("train.csv"), folder.join("test.csv"));
/// let files = [("train", train.as_path()), ("test", test.as_path())];
/// let report = check(&files, &columns, &[], None)?;
/// assert!(!report.leaks.is_empty()); // some test texts stand in the training file, too
/// # Ok::<(), tempra::error::Error>(())
/// ```
pub fn check(
    files: &[(&str, &Path)],
    columns: &Columns,
    indicators: &[String],
    tokenizer: Option<(&Tokenizer, usize)>,
) -> Result<Report> {
    let mut report = Report::default();
    let mut tables: Vec<(&str, Table)> = Vec::new();
    let mut columns = columns.clone();
    for (split, path) in files {
        let Scanned { table, sets, fatal } = scan(path, &columns, indicators)?;
        columns.weight = None;
        let mut file = look(split, &table);
        if !indicators.is_empty() {
            let rows = |class: u32| sets.iter().filter(|set| set.contains(&class)).count();
            file.labels = indicators.iter().zip(0..).map(|(name, i)| (name.clone(), rows(i))).collect();
            // Stable: classes of as many rows stay in the order of the columns.
            file.labels.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        }
        file.stopped = fatal.map(|e| e.to_string());
        if let Some((tokenizer, max_length)) = tokenizer.filter(|_| !table.rows.is_empty()) {
            file.lengths = Some(lengths(tokenizer, &table.rows, max_length)?);
        }
        report.files.push(file);
        tables.push((split, table));
    }
    report.typos = typos(&report.files);
    unseen(&mut report.files);
    report.leaks = leaks(&tables);
    Ok(report)
}

fn look(split: &str, table: &Table) -> FileReport {
    let mut file = FileReport {
        split: split.to_string(),
        path: table.path.clone(),
        hash: table.hash.clone(),
        rows: table.rows.len(),
        bad_rows: table.bad_count,
        first_bad: table.bad.first().cloned(),
        weights: WeightSummary::of(&table.weights),
        ..FileReport::default()
    };
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut same: HashMap<(&str, Option<&str>), Vec<&Row>> = HashMap::new();
    for row in &table.rows {
        file.empty_texts += usize::from(row.text.trim().is_empty());
        file.empty_pairs += usize::from(row.pair.as_ref().is_some_and(|p| p.trim().is_empty()));
        if let Some(label) = &row.label {
            *counts.entry(label).or_default() += 1;
        }
        same.entry((row.text.trim(), row.pair.as_deref().map(str::trim))).or_default().push(row);
    }
    let mut labels: Vec<(String, usize)> = counts.into_iter().map(|(l, n)| (l.to_string(), n)).collect();
    // Most frequent first; the sort is stable, so ties stay in the order of their names.
    labels.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    file.labels = labels;
    let mut groups: Vec<Vec<&Row>> = same.into_values().filter(|rows| rows.len() > 1).collect();
    groups.sort_by_key(|rows| rows[0].line);
    for rows in groups {
        file.duplicates += rows.len() - 1;
        file.first_duplicate.get_or_insert((rows[0].line, rows[1].line));
        let labels: BTreeSet<&String> = rows.iter().filter_map(|r| r.label.as_ref()).collect();
        if labels.len() > 1 {
            file.conflicts += 1;
            if file.first_conflicts.len() < SHOWN {
                file.first_conflicts.push(Conflict {
                    text: rows[0].text.trim().chars().take(60).collect(),
                    lines: rows.iter().map(|r| r.line).take(SHOWN).collect(),
                    labels: labels.into_iter().take(SHOWN).map(|l| named(l)).collect(),
                });
            }
        }
    }
    file
}

/// A label for the report; of 0/1 columns a row may be of no class.
fn named(label: &str) -> String {
    if label.is_empty() { "no class".to_owned() } else { label.to_owned() }
}

fn lengths(tokenizer: &Tokenizer, rows: &[Row], max_length: usize) -> Result<Lengths> {
    let mut found = Lengths { max_length, ..Lengths::default() };
    let mut all = Vec::with_capacity(rows.len());
    for chunk in rows.chunks(CHUNK) {
        let items: Vec<_> = chunk.iter().map(|r| (r.text.as_str(), r.pair.as_deref())).collect();
        for encoding in tokenizer.encode_batch(&items, max_length)? {
            let lost = encoding.lost as usize;
            all.push(encoding.ids.len() + lost);
            found.tokens += (encoding.ids.len() + lost) as u64;
            found.tokens_cut += lost as u64;
            found.rows_cut += usize::from(lost > 0);
            found.unknown += u64::from(encoding.unknown);
            found.rows_with_unknown += usize::from(encoding.unknown > 0);
        }
    }
    all.sort_unstable();
    // Nearest rank: the smallest length that at least p percent of the rows do not exceed.
    let rank = |p: usize| all.get((all.len() * p).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0);
    (found.p50, found.p90, found.p95, found.p99, found.max) =
        (rank(50), rank(90), rank(95), rank(99), rank(100));
    Ok(found)
}

/// Labels that differ only in case and white space, over all files.
fn typos(files: &[FileReport]) -> Vec<Typo> {
    let mut found: BTreeMap<String, BTreeMap<&str, usize>> = BTreeMap::new();
    for (label, n) in files.iter().flat_map(|f| &f.labels) {
        *found.entry(plain(label)).or_default().entry(label).or_default() += n;
    }
    let own = |spellings: BTreeMap<&str, usize>| Typo {
        spellings: spellings.into_iter().map(|(s, n)| (s.to_string(), n)).collect(),
    };
    found.into_values().filter(|spellings| spellings.len() > 1).map(own).collect()
}

/// Labels of later files that the first, the train split, does not have; not where labels are plainly values.
fn unseen(files: &mut [FileReport]) {
    let Some((train, rest)) = files.split_first_mut() else { return };
    let value = |l: &str| l.trim().parse::<f64>().is_ok();
    if train.labels.len() > CLASSES && train.labels.iter().all(|(l, _)| value(l)) {
        return;
    }
    let known: BTreeSet<&str> = train.labels.iter().map(|(l, _)| l.as_str()).collect();
    for file in rest {
        file.unseen_labels =
            file.labels.iter().map(|(l, _)| l).filter(|l| !known.contains(l.as_str())).cloned().collect();
    }
}

/// Rows of a later split whose text and pair, but for case and white space, stand in an earlier one.
fn leaks(tables: &[(&str, Table)]) -> Vec<Leak> {
    let mut leaks: Vec<Leak> = Vec::new();
    // For each text the splits and lines of its first occurrence there; as hashes, for there may be millions.
    let mut seen: HashMap<[u8; 32], Vec<(usize, u64)>> = HashMap::new();
    for (i, (later, table)) in tables.iter().enumerate() {
        let first = leaks.len();
        for row in &table.rows {
            let plain =
                format!("{}\0{}", plain(&row.text), row.pair.as_deref().map(plain).unwrap_or_default());
            let places = seen.entry(*blake3::hash(plain.as_bytes()).as_bytes()).or_default();
            for (j, line) in places.iter().filter(|(j, _)| *j != i) {
                let earlier = tables[*j].0;
                let leak = match leaks[first..].iter().position(|l| l.earlier == earlier) {
                    Some(k) => &mut leaks[first + k],
                    None => {
                        leaks.push(Leak {
                            earlier: earlier.to_string(),
                            later: later.to_string(),
                            ..Leak::default()
                        });
                        let last = leaks.len() - 1;
                        &mut leaks[last]
                    }
                };
                leak.rows += 1;
                if leak.lines.len() < SHOWN {
                    leak.lines.push((*line, row.line));
                }
            }
            if !places.iter().any(|(j, _)| *j == i) {
                places.push((i, row.line));
            }
        }
    }
    leaks
}

/// Lower case, white space collapsed.
fn plain(s: &str) -> String {
    s.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}
