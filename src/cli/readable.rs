//! Predictions for a person: a few aligned lines for each text.

use super::style::clean;
use std::fmt::Write;

/// How many classes, tokens or answers of a text are shown.
pub const SHOWN: usize = 5;
/// How many characters of a text are shown beside its predictions.
const LONGEST: usize = 200;

/// The predictions of one text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// The text, which stands beside the first line.
    pub text: String,
    /// What is predicted, and its number.
    pub lines: Vec<(String, String)>,
}

/// A text as one line that cannot steer the terminal.
pub fn one_line(text: &str) -> String {
    let parts = text.split(['\n', '\r', '\t']).map(str::trim).filter(|part| !part.is_empty());
    clean(&parts.collect::<Vec<_>>().join(" "))
}

/// A text as one line, cut if it is very long.
pub fn shortened(text: &str) -> String {
    let line = one_line(text);
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or_default().trim_end()),
        None => line,
    }
}

/// A text with its pair, each cut if it is very long.
pub fn both(text: &str, pair: Option<&str>) -> String {
    match pair {
        Some(pair) => format!("{} | {}", shortened(text), shortened(pair)),
        None => shortened(text),
    }
}

/// A probability.
pub fn probability(p: f64) -> String {
    format!("{p:.3}")
}

/// A number in at most five significant digits.
pub fn number(x: f64) -> String {
    let rounded: f64 = format!("{x:.4e}").parse().unwrap_or(x);
    rounded.to_string()
}

/// Cells in columns, each as wide as its widest cell; the last is not padded. Numbers are aligned to the
/// right.
pub fn aligned(rows: &[Vec<String>], right: usize) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |c: usize| rows.iter().filter_map(|row| row.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    // Not by the width of `format!`, which panics beyond 65,535.
    let cell = |(c, s): (usize, &String)| {
        let missing = widths.get(c).map_or(0, |w| w.saturating_sub(s.chars().count()));
        match missing {
            _ if c + 1 == columns && c != right => s.clone(),
            n if c == right => " ".repeat(n) + s,
            n => format!("{s}{}", " ".repeat(n)),
        }
    };
    let line = |row: &Vec<String>| {
        let filled = row.iter().enumerate().map(cell).filter(|s| !s.is_empty());
        filled.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// All blocks as text: names and numbers in columns, an empty line between blocks of several lines.
pub fn blocks(all: &[Block]) -> String {
    let rows: Vec<Vec<String>> = all
        .iter()
        .flat_map(|block| {
            block.lines.iter().enumerate().map(|(i, (name, number))| {
                let text = if i == 0 { format!(" {}", block.text) } else { String::new() };
                vec![one_line(name), number.clone(), text]
            })
        })
        .collect();
    let mut lines = aligned(&rows, 1).into_iter();
    let apart = all.iter().any(|block| block.lines.len() > 1);
    let mut text = String::new();
    for (i, block) in all.iter().enumerate() {
        if apart && i > 0 {
            text.push('\n');
        }
        for line in lines.by_ref().take(block.lines.len()) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
        }
    }
    text
}
