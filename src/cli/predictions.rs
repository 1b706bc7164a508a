//! Predictions of rows: as columns behind those of a table, or as lines for a person.

use super::predict::Form;
use super::readable::{self, Block, SHOWN, both, probability};
use crate::data::Records;
use crate::models::Outputs;
use crate::predict::{Fill, Predicted, Prediction, Session};
use crate::tasks::{PairClasses, of_outputs};
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

/// The predictions of the rows of a table.
pub struct Predictions<'a> {
    session: &'a Session,
    records: &'a Records,
    rows: &'a [Prediction],
    /// The names of the added columns, none of which the table has.
    names: Vec<String>,
}

/// The meaning of the classes of pairs, for a head that has them.
fn pair_classes(outputs: &Outputs) -> Option<&'static PairClasses> {
    of_outputs(outputs)?.pair()
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
        Outputs::Pretraining(_) => {
            pair_classes(outputs).map(|pair| pair.column.to_owned()).into_iter().collect()
        }
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
    /// The predictions `rows` of the rows of a table.
    pub fn new(session: &'a Session, records: &'a Records, rows: &'a [Prediction]) -> Self {
        let names = names(session.outputs(), &records.header);
        Self { session, records, rows, names }
    }

    /// The names of the model's classes.
    fn classes(&self) -> &[String] {
        match self.session.outputs() {
            Outputs::Classes(names) | Outputs::Labels(names) => names,
            _ => &[],
        }
    }

    fn cells(&self, row: &Prediction) -> Vec<Cell> {
        match &row.value {
            Predicted::Class { label, class, probabilities } => {
                let top = probabilities.get(*class).copied().unwrap_or(f64::NAN);
                let mut cells = vec![Cell::Text(label.clone()), Cell::Number(top)];
                cells.extend(probabilities.iter().copied().map(Cell::Number));
                cells
            }
            Predicted::Labels { labels, probabilities, .. } => {
                let separator = self.session.folder.metadata.class_separator();
                let mut cells = vec![Cell::Text(labels.join(separator))];
                cells.extend(probabilities.iter().copied().map(Cell::Number));
                cells
            }
            Predicted::Number(x) | Predicted::Similarity(x) | Predicted::Follows(x) => vec![Cell::Number(*x)],
            Predicted::Filled(filled) => {
                let best = filled.masks.iter().filter_map(|fills| fills.first());
                let token = |fill: &Fill| self.session.tokenizer().token(fill.token).unwrap_or_default();
                vec![Cell::Text(best.map(token).collect::<Vec<_>>().join(" "))]
            }
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
        let block = |((text, pair), row): (&(&str, Option<&str>), &Prediction)| Block {
            text: both(text, *pair),
            lines: self.lines(&row.value),
        };
        inputs.iter().zip(self.rows).map(block).collect()
    }

    fn lines(&self, value: &Predicted) -> Vec<(String, String)> {
        let line = |name: &str, number: String| (name.to_owned(), number);
        let classes = self.classes();
        match value {
            Predicted::Class { probabilities: p, .. } => {
                let best = ranked(p).into_iter().take(SHOWN);
                best.filter_map(|i| Some(line(classes.get(i)?, probability(*p.get(i)?)))).collect()
            }
            Predicted::Labels { chosen, probabilities: p, .. } => {
                let above = |i: usize| chosen.get(i).copied().unwrap_or(false);
                let all = ranked(p).into_iter().enumerate();
                // Every predicted class is shown, however many they are.
                let shown = all.filter(|&(rank, i)| rank < SHOWN || above(i)).map(|(_, i)| i);
                let mark = |i: usize| if above(i) { "[x]" } else { "[ ]" };
                shown
                    .filter_map(|i| {
                        Some((format!("{} {}", mark(i), classes.get(i)?), probability(*p.get(i)?)))
                    })
                    .collect()
            }
            Predicted::Follows(p) => {
                let pair = pair_classes(self.session.outputs());
                let [first, second] = pair.map_or(["first", "second"], |pair| pair.names);
                let both = [(first, *p), (second, 1.0 - p)];
                let mut both = both.map(|(name, p)| line(name, probability(p)));
                if *p < 0.5 {
                    both.reverse();
                }
                both.to_vec()
            }
            Predicted::Similarity(x) => vec![line("similarity", format!("{x:.4}"))],
            Predicted::Number(x) => vec![line("", readable::number(*x))],
            Predicted::Filled(filled) => {
                let several = filled.masks.len() > 1;
                let one = |(mask, fills): (usize, &Vec<Fill>)| {
                    let number = if several { format!("mask {}: ", mask + 1) } else { String::new() };
                    let line =
                        |fill: &Fill| (format!("{number}{}", fill.text), probability(fill.probability));
                    fills.iter().map(line).collect::<Vec<_>>()
                };
                filled.masks.iter().enumerate().flat_map(one).collect()
            }
        }
    }

    /// What is worth saying beside the rows: how often each class was predicted, the most frequent first.
    pub fn summary(&self) -> String {
        const CLASSES: usize = 8;
        let Outputs::Classes(classes) = self.session.outputs() else { return String::new() };
        let mut counts: Vec<(usize, &String)> = classes.iter().map(|name| (0, name)).collect();
        for row in self.rows {
            if let Predicted::Class { class, .. } = row.value
                && let Some(slot) = counts.get_mut(class)
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

/// The places of numbers, the greatest first.
fn ranked(p: &[f64]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..p.len()).collect();
    places.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
    places
}
