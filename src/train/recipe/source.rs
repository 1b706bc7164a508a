//! The text of a recipe as a tree whose every node knows where it was written. TOML, JSON and `--set` give
//! the same tree.

use crate::error::{Error, Result};
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where something was written.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// At this byte of the file.
    File(usize),
    /// On the command line: `a.b=value`.
    Flag(String),
}

/// A value before anything is known about its meaning.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Int(i128),
    Float(f64),
    Bool(bool),
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// What no field takes: a date, a JSON null in a list, an integer beyond 128 bits; in its own words.
    Other(String),
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub at: Origin,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub key_at: Origin,
    pub node: Node,
}

impl Value {
    /// In words, for an error: what a user would recognise.
    pub fn describe(&self) -> String {
        match self {
            Self::Text(s) if s.chars().count() > 60 => {
                format!("{:?}…", s.chars().take(60).collect::<String>())
            }
            Self::Text(s) => format!("{s:?}"),
            Self::Int(i) => i.to_string(),
            Self::Float(x) => format!("{x:?}"),
            Self::Bool(b) => b.to_string(),
            Self::List(list) => format!("a list of {}", list.len()),
            Self::Table(_) => "a table".to_owned(),
            Self::Other(what) => what.clone(),
        }
    }
}

/// Line and column, both counted from 1, the column in characters.
fn place(text: &str, byte: usize) -> (u64, u64) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    let column = before.get(line_start..).map_or(0, |s| s.chars().count());
    (before.matches('\n').count() as u64 + 1, column as u64 + 1)
}

/// An error with the place it is about.
pub(super) fn error_at(what: impl std::fmt::Display, at: &Origin, text: &str, path: &Path) -> Error {
    match at {
        Origin::File(byte) => {
            let (line, column) = place(text, *byte);
            Error::usage(what.to_string()).at(path).with_line(line).with_column(column)
        }
        Origin::Flag(flag) => Error::usage(format!("--set {flag}: {what}")),
    }
}

/// Endings of data files, which are given instead of a recipe by mistake.
const DATA_ENDINGS: [&str; 8] = ["csv", "tsv", "jsonl", "ndjson", "parquet", "conll", "conllu", "txt"];

/// The tree of a TOML text; every syntax error of it otherwise.
pub(super) fn toml_tree(text: &str, path: &Path) -> Result<Vec<Entry>> {
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    if ending.is_some_and(|e| DATA_ENDINGS.contains(&e.as_str())) {
        return Err(Error::usage("this is a data file, not a recipe")
            .at(path)
            .with_expected("a recipe: a .toml or .json file")
            .with_help(format!("write a recipe for it: tempra init {}", path.display())));
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    let say = |e: toml::de::Error| {
        let at = Origin::File(e.span().map_or(text.len(), |s| s.start));
        error_at(format!("not TOML: {}", e.message()), &at, text, path)
    };
    match Error::many(errors.into_iter().map(say).collect()) {
        Some(e) => Err(e),
        None => Ok(entries(table.into_inner(), &Origin::File)),
    }
}

fn entries(table: DeTable<'_>, at: &dyn Fn(usize) -> Origin) -> Vec<Entry> {
    let mut list: Vec<_> = table.into_iter().collect();
    list.sort_by_key(|(key, _)| key.span().start);
    let entry = |(key, value): (Spanned<_>, _)| Entry {
        key_at: at(key.span().start),
        key: String::from(key.into_inner()),
        node: node(value, at),
    };
    list.into_iter().map(entry).collect()
}

fn node(value: Spanned<DeValue<'_>>, at: &dyn Fn(usize) -> Origin) -> Node {
    let origin = at(value.span().start);
    let value = match value.into_inner() {
        DeValue::String(s) => Value::Text(s.into_owned()),
        DeValue::Integer(i) => {
            i128::from_str_radix(i.as_str(), i.radix()).map_or(Value::Other(i.to_string()), Value::Int)
        }
        DeValue::Float(x) => x.as_str().parse().map_or(Value::Other(x.to_string()), Value::Float),
        DeValue::Boolean(b) => Value::Bool(b),
        DeValue::Datetime(d) => Value::Other(format!("the date {d}")),
        DeValue::Array(list) => Value::List(list.into_iter().map(|v| node(v, at)).collect()),
        DeValue::Table(table) => Value::Table(entries(table, at)),
    };
    Node { at: origin, value }
}

/// The value of a flag: TOML if it is, a text otherwise.
pub(super) fn flag_node(flag: &str, value: &str) -> Node {
    let at = |_| Origin::Flag(flag.to_owned());
    match DeValue::parse(value) {
        Ok(parsed) => node(parsed, &at),
        Err(_) => Node { at: at(0), value: Value::Text(value.to_owned()) },
    }
}

/// The tree of a JSON text. serde_json judges the syntax; it does not say where a value stands, which the
/// scan does.
pub(super) fn json_tree(text: &str, path: &Path) -> Result<Vec<Entry>> {
    let valid: std::result::Result<serde_json::Value, _> = serde_json::from_str(text);
    if let Err(e) = valid {
        // serde_json counts columns in bytes.
        let start: usize = text.split_inclusive('\n').take(e.line().saturating_sub(1)).map(str::len).sum();
        let mut byte = start + e.column().saturating_sub(1);
        while !text.is_char_boundary(byte) {
            byte -= 1;
        }
        let (line, column) = place(text, byte);
        let said = e.to_string();
        let what = format!("not JSON: {}", said.split(" at line ").next().unwrap_or_default());
        return Err(Error::usage(what).at(path).with_line(line).with_column(column));
    }
    let mut scan = Scan { text, at: 0, twice: Vec::new() };
    let root = scan.node();
    let twice = scan.twice.into_iter().map(|(key, byte)| {
        error_at(format!("{key} is given twice"), &Origin::File(byte), text, path)
            .with_help("keep one of them")
    });
    if let Some(e) = Error::many(twice.collect()) {
        return Err(e);
    }
    match root.map(|node| node.value) {
        Some(Value::Table(entries)) => Ok(entries),
        _ => Err(error_at("the recipe is not a JSON object", &Origin::File(0), text, path)),
    }
}

/// Walks JSON that is known to be valid, so `None` never comes out; it only spares a panic.
struct Scan<'a> {
    text: &'a str,
    at: usize,
    twice: Vec<(String, usize)>,
}

impl<'a> Scan<'a> {
    /// The next byte that is neither white space nor a separator, whose places are known to be right.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let skip = rest.iter().position(|b| !b" \t\r\n,:".contains(b))?;
        self.at += skip;
        rest.get(skip).copied()
    }
    /// The text of the string, number or word that starts here.
    fn scalar(&mut self) -> Option<&'a str> {
        let rest = self.text.get(self.at..)?;
        let bytes = rest.as_bytes();
        let length = if bytes.first() == Some(&b'"') {
            let mut end = 1;
            while *bytes.get(end)? != b'"' {
                end += if bytes.get(end) == Some(&b'\\') { 2 } else { 1 };
            }
            end + 1
        } else {
            bytes.iter().position(|b| b" \t\r\n,:]}".contains(b)).unwrap_or(bytes.len())
        };
        self.at += length;
        rest.get(..length)
    }
    fn node(&mut self) -> Option<Node> {
        let first = self.peek()?;
        let at = Origin::File(self.at);
        let value = match first {
            b'[' => {
                self.at += 1;
                let mut list = Vec::new();
                while self.peek()? != b']' {
                    list.push(self.node()?);
                }
                self.at += 1;
                Value::List(list)
            }
            b'{' => {
                self.at += 1;
                let mut entries: Vec<Entry> = Vec::new();
                while self.peek()? != b'}' {
                    let byte = self.at;
                    let key: String = serde_json::from_str(self.scalar()?).ok()?;
                    let node = self.node()?;
                    if entries.iter().any(|e| e.key == key) {
                        self.twice.push((key.clone(), byte));
                    }
                    // JSON has no way to leave a key out but null.
                    if !matches!(&node.value, Value::Other(null) if null == "null") {
                        entries.push(Entry { key, key_at: Origin::File(byte), node });
                    }
                }
                self.at += 1;
                Value::Table(entries)
            }
            b'"' => Value::Text(serde_json::from_str(self.scalar()?).ok()?),
            _ => match self.scalar()? {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                word => match (word.parse::<i128>(), word.parse::<f64>()) {
                    (Ok(i), _) => Value::Int(i),
                    (_, Ok(x)) => Value::Float(x),
                    _ => Value::Other(word.to_owned()),
                },
            },
        };
        Some(Node { at, value })
    }
}
