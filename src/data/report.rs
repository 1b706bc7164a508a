//! The report of `tempra data check`: numbers for a program (serde), sentences for a person (Display).

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::record::BadRow;
use super::weights::WeightSummary;

/// What was found in all files together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// One entry for each file, the training split first.
    pub files: Vec<FileReport>,
    /// Texts that are in two splits.
    pub leaks: Vec<Leak>,
    /// Labels that differ only in case and white space.
    pub typos: Vec<Typo>,
}

/// What was found in one file.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FileReport {
    /// The name of the split.
    pub split: String,
    /// The file.
    pub path: PathBuf,
    /// BLAKE3 of the file.
    pub hash: String,
    /// Rows that were read.
    pub rows: usize,
    /// Rows that could not be read.
    pub bad_rows: u64,
    /// The first of them.
    pub first_bad: Option<BadRow>,
    /// Why reading stopped before the end, if it did.
    pub stopped: Option<String>,
    /// Labels and their rows, most frequent first.
    pub labels: Vec<(String, usize)>,
    /// The weights of its rows, if a column of weights was named and this is the training split.
    pub weights: Option<WeightSummary>,
    /// Labels that the training split does not have.
    pub unseen_labels: Vec<String>,
    /// Rows whose text is empty or white space.
    pub empty_texts: usize,
    /// Rows whose pair is empty or white space.
    pub empty_pairs: usize,
    /// Rows whose text and pair repeat an earlier row, apart from white space at their ends.
    pub duplicates: usize,
    /// The lines of the first such pair of rows.
    pub first_duplicate: Option<(u64, u64)>,
    /// Texts with different labels.
    pub conflicts: usize,
    /// The first of them.
    pub first_conflicts: Vec<Conflict>,
    /// Token counts, if a tokenizer was given.
    pub lengths: Option<Lengths>,
}

/// One text with different labels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Conflict {
    /// Its beginning.
    pub text: String,
    /// The lines of its rows.
    pub lines: Vec<u64>,
    /// Its labels.
    pub labels: Vec<String>,
}

/// Lengths in tokens, special tokens included, before truncation. Percentiles by nearest rank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// The length above which text is cut.
    pub max_length: usize,
    /// Half of the rows are not longer.
    pub p50: usize,
    /// 90 % of the rows are not longer.
    pub p90: usize,
    /// 95 % of the rows are not longer.
    pub p95: usize,
    /// 99 % of the rows are not longer.
    pub p99: usize,
    /// The longest row.
    pub max: usize,
    /// All tokens.
    pub tokens: u64,
    /// Tokens that truncation cuts.
    pub tokens_cut: u64,
    /// Rows that truncation shortens.
    pub rows_cut: usize,
    /// Unknown tokens among those kept.
    pub unknown: u64,
    /// Rows with an unknown token.
    pub rows_with_unknown: usize,
}

/// Rows of a later split that are also in an earlier one, apart from case and white space.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Leak {
    /// The earlier split.
    pub earlier: String,
    /// The later split.
    pub later: String,
    /// Number of rows of the later split.
    pub rows: usize,
    /// Lines of the first few: (in the earlier split, in the later split).
    pub lines: Vec<(u64, u64)>,
}

/// One label in several spellings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Typo {
    /// The spellings and their rows.
    pub spellings: Vec<(String, usize)>,
}

impl Report {
    /// Whether there is a certain fault: bad rows, labels that the training split does not have, or leaks
    /// between splits.
    pub fn has_errors(&self) -> bool {
        let wrong = |f: &FileReport| {
            f.bad_rows > 0 || f.stopped.is_some() || f.rows == 0 || !f.unseen_labels.is_empty()
        };
        !self.leaks.is_empty() || self.files.iter().any(wrong)
    }
}

/// A number with its noun.
fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

fn percent(part: u64, all: u64) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.iter().try_for_each(|file| write!(f, "{file}"))?;
        for leak in &self.leaks {
            let (earlier, later) = (&leak.earlier, &leak.later);
            let (a, b) = leak.lines.first().copied().unwrap_or_default();
            writeln!(
                f,
                "leak: {} of {later} also in {earlier} (first: line {a} of {earlier}, line {b} of {later})",
                count(leak.rows, "row")
            )?;
        }
        for typo in &self.typos {
            let spellings: Vec<String> = typo.spellings.iter().map(|(s, n)| format!("{s:?} x{n}")).collect();
            writeln!(f, "labels that differ only in case or white space: {}", spellings.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for FileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 20;
        writeln!(f, "{}: {} ({})", self.split, self.path.display(), count(self.rows, "row"))?;
        if let Some(bad) = &self.first_bad {
            let error = bad.error(&self.path).to_string().replace('\n', "\n  ");
            writeln!(f, "  bad rows  {}; the first: {error}", self.bad_rows)?;
        }
        if let Some(why) = &self.stopped {
            writeln!(f, "  stopped   {}", why.replace('\n', "\n  "))?;
        }
        if !self.labels.is_empty() {
            write!(f, "  labels    ")?;
            for (i, (label, n)) in self.labels.iter().take(SHOWN).enumerate() {
                let comma = if i > 0 { ", " } else { "" };
                write!(f, "{comma}{label} {n} ({:.1} %)", percent(*n as u64, self.rows as u64))?;
            }
            match self.labels.len().saturating_sub(SHOWN) {
                0 => writeln!(f)?,
                more => writeln!(f, " and {more} more")?,
            }
        }
        if !self.unseen_labels.is_empty() {
            writeln!(
                f,
                "  unseen    labels that the training file does not have: {}",
                self.unseen_labels.join(", ")
            )?;
        }
        if let Some(WeightSummary { min, max, sum, zeros }) = self.weights {
            let zeros = count(zeros, "row");
            writeln!(f, "  weights   minimum {min}, maximum {max}, sum {sum}; {zeros} of weight 0")?;
        }
        if let Some(l) = &self.lengths {
            writeln!(
                f,
                "  tokens    {} in total; in a row: median {}, 90th percentile {}, 95th {}, 99th {}, maximum {}",
                l.tokens, l.p50, l.p90, l.p95, l.p99, l.max
            )?;
            writeln!(
                f,
                "  cut       at {}: {} tokens ({:.2} %) in {} rows ({:.2} %)",
                l.max_length,
                l.tokens_cut,
                percent(l.tokens_cut, l.tokens),
                l.rows_cut,
                percent(l.rows_cut as u64, self.rows as u64)
            )?;
            if l.unknown > 0 {
                let rate = percent(l.unknown, l.tokens - l.tokens_cut);
                writeln!(
                    f,
                    "  unknown   {} tokens ({rate:.2} %) in {} rows",
                    l.unknown, l.rows_with_unknown
                )?;
            }
        }
        if self.empty_texts + self.empty_pairs > 0 {
            writeln!(f, "  empty     {} texts, {} pairs", self.empty_texts, self.empty_pairs)?;
        }
        if let Some((a, b)) = self.first_duplicate {
            writeln!(
                f,
                "  repeated  {} after an equal one (first: lines {a} and {b})",
                count(self.duplicates, "row")
            )?;
        }
        if let Some(c) = self.first_conflicts.first() {
            writeln!(
                f,
                "  conflict  {} with different labels (first: {:?} is {}, lines {})",
                count(self.conflicts, "text"),
                c.text,
                c.labels.join(" and "),
                c.lines.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
            )?;
        }
        Ok(())
    }
}
