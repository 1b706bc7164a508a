//! The wanted columns of a row.

use std::path::Path;

use serde_json::Value;

use super::record::{BadRow, Cells, Columns, Place, Record, Row, Rows, kind, list};
use super::weights;
use crate::error::{Error, Result};
use crate::suggest::nearest;

/// Takes the wanted columns out of a record. `names` and an index have the order text, pair, weight, label or
/// indicators without gaps.
pub(super) struct Picker<'a> {
    pub names: Vec<&'a str>,
    pub has_pair: bool,
    pub has_weight: bool,
    pub has_label: bool,
    /// Whether a label may be empty.
    pub empty_label: bool,
    /// Whether a row of JSON may lack the label.
    pub optional_label: bool,
    /// The columns that say for one class each whether a row is of it; then there is no other label.
    pub indicators: &'a [String],
}

/// What was taken out of a record.
pub(super) struct Picked {
    pub row: Row,
    /// The classes of the row, where each class has a column.
    pub set: Vec<u32>,
    /// The weight of the row, where rows have weights.
    pub weight: Option<f32>,
    pub place: Place,
}

impl<'a> Picker<'a> {
    pub fn new(columns: &'a Columns) -> Result<Self> {
        Self::with_indicators(columns, &[])
    }

    pub fn with_indicators(columns: &'a Columns, indicators: &'a [String]) -> Result<Self> {
        let Columns { text, pair, label, weight } = columns;
        let one = [Some(text), pair.as_ref(), weight.as_ref(), label.as_ref()];
        let names: Vec<&str> = one.into_iter().flatten().chain(indicators).map(String::as_str).collect();
        if let Some(twice) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
            return Err(Error::usage(format!("the column {:?} is named for two purposes", twice.1))
                .with_expected("a different column for the text, the pair, the weight and each label")
                .with_help("name another column for one of them"));
        }
        Ok(Self {
            names,
            has_pair: columns.pair.is_some(),
            has_weight: columns.weight.is_some(),
            has_label: columns.label.is_some(),
            empty_label: false,
            optional_label: false,
            indicators,
        })
    }

    /// The number of the first name that is a label.
    fn first_label(&self) -> usize {
        1 + usize::from(self.has_pair) + usize::from(self.has_weight)
    }
    /// Whether the name of this number is that of the weight.
    fn is_weight(&self, i: usize) -> bool {
        self.has_weight && i + 1 == self.first_label()
    }

    /// Where the wanted columns stand in a header; empty where there is none (JSON Lines).
    pub fn index(&self, source: &(dyn Rows + '_), path: &Path) -> Result<Vec<usize>> {
        let Some(header) = source.header() else { return Ok(Vec::new()) };
        let find = |name: &&str| {
            header.iter().position(|h| h == name).ok_or_else(|| {
                let other = |c| header.len() == 1 && header[0].contains(c);
                let e = Error::data(format!("there is no column {name:?}"))
                    .at(path)
                    .with_found(list(header.iter().map(String::as_str)));
                let classless = path.is_dir() && !header.iter().any(|h| h == "label");
                match nearest(name, header.iter().map(String::as_str)) {
                    _ if classless => {
                        e.with_help("a folder of labelled texts has a subfolder for each class")
                    }
                    Some(near) => e.with_help(format!("did you mean {near:?}?")),
                    None if other(';') => e.with_help("separate the fields by commas instead of semicolons"),
                    None if other('\t') => {
                        e.with_help("rename the file to .tsv: its fields are separated by tabs")
                    }
                    None if other(',') => {
                        e.with_help("rename the file to .csv: its fields are separated by commas")
                    }
                    None => {
                        e.with_help("name a column of the file (--text, --pair or --label; data.text, data.pair, data.label or data.weight in a recipe), or add a header line if the file has none")
                    }
                }
            })
        };
        self.names.iter().map(find).collect()
    }

    /// Whether a record holds what is wanted, without taking it out.
    pub fn look(&self, record: &Record, index: &[usize]) -> std::result::Result<(), BadRow> {
        match &record.cells {
            Cells::List(fields) => {
                let lacks = self.names.iter().zip(index).find(|(_, i)| **i >= fields.len());
                lacks.map_or(Ok(()), |(name, _)| Err(record.lacks(name, std::iter::empty())))
            }
            Cells::Object(pairs) => self.names.iter().enumerate().try_for_each(|(i, name)| {
                let (is_label, is_weight) = (i >= self.first_label(), self.is_weight(i));
                let Some((_, value)) = pairs.iter().find(|(key, _)| key == name) else {
                    if is_label && self.optional_label {
                        return Ok(());
                    }
                    return Err(record.lacks(name, pairs.iter().map(|(key, _)| key.as_str())));
                };
                let (expected, ok) = match value {
                    Value::String(_) => ("", true),
                    Value::Number(_) if is_weight => ("", true),
                    _ if is_weight => (weights::EXPECTED, false),
                    Value::Number(_) | Value::Bool(_) => ("a string", is_label),
                    _ if is_label => ("a string, a number or true/false", false),
                    _ => ("a string", false),
                };
                if ok {
                    return Ok(());
                }
                let role = if is_weight { "weight" } else { "text" };
                Err(record
                    .bad(format!("{name:?} is not a {}", if is_label { "label" } else { role }))
                    .with_expected(expected)
                    .with_found(kind(value)))
            }),
        }
    }

    pub fn row(&self, mut record: Record, index: &[usize]) -> std::result::Result<Picked, BadRow> {
        self.look(&record, index)?;
        let mut taken = Vec::with_capacity(3);
        for (i, name) in self.names.iter().enumerate() {
            let cell = match &mut record.cells {
                Cells::List(fields) => index.get(i).and_then(|&i| fields.get_mut(i)).map(std::mem::take),
                Cells::Object(pairs) => {
                    pairs.iter_mut().find(|(key, _)| key == name).map(|(_, value)| match value.take() {
                        Value::String(s) => s,
                        other => other.to_string(),
                    })
                }
            };
            if cell.as_ref().is_some_and(|cell| cell.contains('\0')) {
                return Err(record.bad(format!("{name:?} holds a NUL character")).with_help("remove it"));
            }
            taken.push(cell);
        }
        let mut set = Vec::new();
        let mut label = if self.has_label { taken.pop().flatten() } else { None };
        if !self.indicators.is_empty() {
            let cells = taken.split_off(self.first_label());
            for ((name, cell), number) in self.indicators.iter().zip(cells).zip(0..) {
                let cell = cell.unwrap_or_default();
                let is_of_class = indicator(&cell).ok_or_else(|| {
                    let what = match cell.trim() {
                        "" => format!("the column {name:?} is empty"),
                        _ => format!("the label {cell:?} in the column {name:?} is neither 0 nor 1"),
                    };
                    let bad = record
                        .bad(what)
                        .with_expected("0 or 1, or false or true")
                        .with_found(format!("{cell:?}"));
                    bad.with_help("correct or remove the row, or leave the column out of data.label")
                })?;
                set.extend(is_of_class.then_some(number));
            }
            let of_row = set.iter().filter_map(|&i| self.indicators.get(i as usize)).map(String::as_str);
            label = Some(of_row.collect::<Vec<_>>().join(", "));
        }
        let weight = if self.has_weight { Some(self.weight(&record, taken.pop().flatten())?) } else { None };
        let pair = if self.has_pair { taken.pop().flatten() } else { None };
        if !self.empty_label
            && self.indicators.is_empty()
            && label.as_ref().is_some_and(|l| l.trim().is_empty())
        {
            return Err(record.bad("the label is empty").with_help("fill in the label, or remove the row"));
        }
        let text = taken.pop().flatten().unwrap_or_default();
        Ok(Picked { row: Row { text, pair, label, line: record.line }, set, weight, place: record.place })
    }

    /// The weight that a cell of a record holds.
    fn weight(&self, record: &Record, cell: Option<String>) -> std::result::Result<f32, BadRow> {
        let (cell, name) = (cell.unwrap_or_default(), self.names[self.first_label() - 1]);
        weights::parse(&cell).map_err(|[why, help]| {
            let what = match cell.trim() {
                "" => format!("the column {name:?} of the weights is empty"),
                cell => format!("the weight {cell} in the column {name:?} {why}"),
            };
            let bad = record.bad(what).with_expected(weights::EXPECTED);
            bad.with_found(format!("{cell:?}")).with_help(help)
        })
    }
}

/// What a 0/1 column says of a row, as spreadsheets, pandas and JSON write it.
fn indicator(cell: &str) -> Option<bool> {
    match cell.trim() {
        "1" | "1.0" | "true" | "True" | "TRUE" => Some(true),
        "0" | "0.0" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}
