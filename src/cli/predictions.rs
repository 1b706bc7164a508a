//! Predictions of rows: as columns behind those of a table, or as lines for a person.

use super::fill::Fill;
use super::model::Noted;
use super::predict::Form;
use super::readable::{self, Block, SHOWN, both, probability};
use crate::data::Records;
use crate::metrics::{sigmoids, softmax};
use crate::models::Outputs;
use crate::text::Tokenizer;
use std::collections::HashSet;
use std::io::{self, Write};

enum Cell {
    Text(String),
    Number(f64),
}

/// A number in at most nine significant digits, which is what an f32 holds, and as few of them as are needed.
pub fn shortest(x: f64) -> String {
    let rounded: f64 = format!("{x:.8e}").parse().unwrap_or(x);
    format!("{rounded:?}")
}

/// What the model gives for one row.
#[derive(Clone, Debug, PartialEq)]
pub enum RowOutput {
    /// Logits, a number, or a similarity.
    Values(Vec<f32>),
    /// For each mask token the likely tokens, the best first.
    Fills(Vec<Vec<Fill>>),
}

/// The predictions of the rows of a table.
pub struct Predictions<'a> {
    outputs: &'a Outputs,
    tokenizer: &'a Tokenizer,
    records: &'a Records,
    rows: &'a [RowOutput],
    /// The names of the added columns, none of which the table has.
    names: Vec<String>,
    /// For multilabel: the probability of each class above which it is predicted.
    thresholds: Vec<f64>,
    /// For multilabel: what stands between the labels of a row, as in the training data.
    separator: String,
}

/// The names of the added columns, none of which the table has.
fn names(outputs: &Outputs, header: &[String]) -> Vec<String> {
    let of_classes = |first: &[&str], classes: &[String]| {
        let first = first.iter().map(|&name| name.to_owned());
        first.chain(classes.iter().map(|class| format!("p_{class}"))).collect()
    };
    let wanted: Vec<String> = match outputs {
        Outputs::Number => vec!["prediction".to_owned()],
        Outputs::Classes(classes) => of_classes(&["label", "probability"], classes),
        Outputs::Labels(classes) => of_classes(&["labels"], classes),
        Outputs::Tokens | Outputs::Permuted => vec!["filled".to_owned()],
        Outputs::Pretraining => vec!["p_follows".to_owned()],
        Outputs::Embedding => vec!["similarity".to_owned()],
        Outputs::Tags(_) | Outputs::Span => Vec::new(),
    };
    let mut taken: HashSet<String> = header.iter().cloned().collect();
    let mut free = |name: String| {
        let numbered = (2..).map(|i| format!("predicted_{name}_{i}"));
        let mut all = [name.clone(), format!("predicted_{name}")].into_iter().chain(numbered);
        let name = all.find(|n| !taken.contains(n)).unwrap_or(name);
        taken.insert(name.clone());
        name
    };
    wanted.into_iter().map(&mut free).collect()
}

impl<'a> Predictions<'a> {
    /// The predictions `rows` of the rows of a table. `noted`: how the model was trained.
    pub fn new(
        outputs: &'a Outputs,
        tokenizer: &'a Tokenizer,
        noted: &Noted,
        records: &'a Records,
        rows: &'a [RowOutput],
    ) -> Self {
        let thresholds = match outputs {
            Outputs::Labels(classes) => noted.thresholds(classes).unwrap_or_else(|| vec![0.5; classes.len()]),
            _ => Vec::new(),
        };
        let separator = noted.separator();
        let names = names(outputs, &records.header);
        Self { outputs, tokenizer, records, rows, names, thresholds, separator }
    }

    fn cells(&self, row: &RowOutput) -> Vec<Cell> {
        let values = match row {
            RowOutput::Values(values) => values.as_slice(),
            RowOutput::Fills(fills) => {
                let best = fills.iter().filter_map(|fill| fill.first());
                let tokens = best.map(|fill| self.tokenizer.token(fill.token).unwrap_or_default());
                return vec![Cell::Text(tokens.collect::<Vec<_>>().join(" "))];
            }
        };
        match self.outputs {
            Outputs::Classes(classes) => {
                let p = softmax(values);
                let best = first_greatest(values);
                let (class, top) = (classes.get(best).cloned().unwrap_or_default(), p.get(best).copied());
                let mut cells = vec![Cell::Text(class), Cell::Number(top.unwrap_or(f64::NAN))];
                cells.extend(p.into_iter().map(Cell::Number));
                cells
            }
            Outputs::Labels(classes) => {
                let p = sigmoids(values);
                let above = classes.iter().zip(p.iter().zip(&self.thresholds)).filter(|(_, (p, t))| p > t);
                let given: Vec<&str> = above.map(|(c, _)| c.as_str()).collect();
                let mut cells = vec![Cell::Text(given.join(&self.separator))];
                cells.extend(p.into_iter().map(Cell::Number));
                cells
            }
            Outputs::Pretraining => vec![Cell::Number(follows(values))],
            _ => values.iter().map(|&x| Cell::Number(f64::from(x))).collect(),
        }
    }

    /// Writes them.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut dyn Write, form: Form) -> io::Result<()> {
        match form {
            Form::Text => out.write_all(readable::blocks(&self.blocks()).as_bytes()),
            Form::Jsonl => self.write_lines(out),
            Form::Csv => {
                let mut csv = csv::Writer::from_writer(out);
                csv.write_record(self.records.header.iter().chain(&self.names))?;
                for (own, row) in self.records.rows.iter().zip(self.rows) {
                    let added = self.cells(row).into_iter().map(|cell| match cell {
                        Cell::Text(s) => s,
                        Cell::Number(x) => shortest(x),
                    });
                    csv.write_record(own.iter().cloned().chain(added))?;
                }
                csv.flush()
            }
        }
    }

    fn write_lines(&self, out: &mut dyn Write) -> io::Result<()> {
        let header: Vec<&String> = self.records.header.iter().chain(&self.names).collect();
        for (own, row) in self.records.rows.iter().zip(self.rows) {
            let own = own.iter().map(serde_json::to_string);
            let added = self.cells(row).into_iter().map(|cell| match cell {
                Cell::Text(s) => serde_json::to_string(&s),
                Cell::Number(x) => Ok(shortest(x)),
            });
            let mut line = String::new();
            for (key, value) in header.iter().zip(own.chain(added)) {
                let comma = if line.is_empty() { "{" } else { ", " };
                line += &format!("{comma}{}: {}", serde_json::to_string(key)?, value?);
            }
            writeln!(out, "{line}}}")?;
        }
        Ok(())
    }

    fn blocks(&self) -> Vec<Block> {
        let inputs = self.records.inputs();
        let block = |((text, pair), row): (&(&str, Option<&str>), &RowOutput)| {
            let lines = match row {
                RowOutput::Values(values) => self.lines(values),
                RowOutput::Fills(fills) => self.filled(fills),
            };
            Block { text: both(text, *pair), lines }
        };
        inputs.iter().zip(self.rows).map(block).collect()
    }

    fn lines(&self, values: &[f32]) -> Vec<(String, String)> {
        let line = |name: &str, number: String| (name.to_owned(), number);
        match self.outputs {
            Outputs::Classes(classes) => {
                let p = softmax(values);
                let best = ranked(&p).into_iter().take(SHOWN);
                best.filter_map(|i| Some(line(classes.get(i)?, probability(*p.get(i)?)))).collect()
            }
            Outputs::Labels(classes) => {
                let p = sigmoids(values);
                let above = |i: usize| p.get(i).zip(self.thresholds.get(i)).is_some_and(|(p, t)| p > t);
                let all = ranked(&p).into_iter().enumerate();
                // Every predicted class is shown, however many they are.
                let shown = all.filter(|&(rank, i)| rank < SHOWN || above(i)).map(|(_, i)| i);
                let mark = |i: usize| if above(i) { "[x]" } else { "[ ]" };
                shown
                    .filter_map(|i| {
                        Some((format!("{} {}", mark(i), classes.get(i)?), probability(*p.get(i)?)))
                    })
                    .collect()
            }
            Outputs::Pretraining => {
                let p = follows(values);
                let both = [("follows", p), ("does not follow", 1.0 - p)];
                let mut both = both.map(|(name, p)| line(name, probability(p)));
                if p < 0.5 {
                    both.reverse();
                }
                both.to_vec()
            }
            Outputs::Embedding => values.iter().map(|&x| line("similarity", format!("{x:.4}"))).collect(),
            _ => values.iter().map(|&x| line("", readable::number(f64::from(x)))).collect(),
        }
    }

    fn filled(&self, fills: &[Vec<Fill>]) -> Vec<(String, String)> {
        let several = fills.len() > 1;
        let one = |(mask, fills): (usize, &Vec<Fill>)| {
            let number = if several { format!("mask {}: ", mask + 1) } else { String::new() };
            let line = |fill: &Fill| {
                (format!("{number}{}", self.tokenizer.shown(fill.token)), probability(fill.probability))
            };
            fills.iter().map(line).collect::<Vec<_>>()
        };
        fills.iter().enumerate().flat_map(one).collect()
    }

    /// What is worth saying beside the rows: how often each class was predicted, the most frequent first.
    pub fn summary(&self) -> String {
        const CLASSES: usize = 8;
        let Outputs::Classes(classes) = self.outputs else { return String::new() };
        let mut counts: Vec<(usize, &String)> = classes.iter().map(|name| (0, name)).collect();
        for row in self.rows {
            if let RowOutput::Values(values) = row
                && let Some(slot) = counts.get_mut(first_greatest(values))
            {
                slot.0 += 1;
            }
        }
        counts.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
        let shown: Vec<String> = counts.iter().take(CLASSES).map(|(n, name)| format!("{name} {n}")).collect();
        let more = if counts.len() > CLASSES { ", ..." } else { "" };
        format!(": {}{more}", shown.join(", "))
    }
}

/// The probability that the second text follows the first: that of the first class.
fn follows(logits: &[f32]) -> f64 {
    softmax(logits).first().copied().unwrap_or(f64::NAN)
}

/// The places of numbers, the greatest first.
fn ranked(p: &[f64]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..p.len()).collect();
    places.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
    places
}

/// The place of the first greatest; as the metrics count a prediction.
fn first_greatest(logits: &[f32]) -> usize {
    let better = |best: (usize, f32), (i, &x): (usize, &f32)| if x > best.1 { (i, x) } else { best };
    logits.iter().enumerate().fold((0, f32::NEG_INFINITY), better).0
}
