//! Statistics of the columns of a table: they distinguish a text from a label, an id or a date.

use super::super::columns::is_known;
use super::write::shell;
use crate::data::{Format, Sheet};
use crate::error::{Error, Result};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A column needs more words a row than this to be prose.
const FEW_WORDS: f64 = 1.5;
/// A name of that many words, or of that many characters, is a sentence.
const LONG_NAME: (usize, usize) = (6, 60);

/// A table, column by column.
pub struct Survey {
    /// The file.
    pub path: PathBuf,
    /// Its columns in order.
    pub columns: Vec<Column>,
    /// How many rows could be read.
    pub rows: usize,
}

/// What the cells of a column have in common.
pub struct Column {
    /// Its name.
    pub name: String,
    /// How often each value occurs, without white space around it; empty cells are not counted.
    pub counts: HashMap<String, usize>,
    /// How many different values there are with the white space around them, as the reader of classes tells
    /// them apart.
    pub spellings: usize,
    /// Cells that are not empty.
    pub filled: usize,
    /// The line of the first empty cell.
    pub first_empty: Option<u64>,
    /// The line and the value of the first cell that says neither yes nor no.
    pub first_odd: Option<(u64, String)>,
    /// The mean number of words of the cells that are not empty.
    pub words: f64,
    /// The least and the largest value, if all are finite numbers.
    pub range: Option<(f64, f64)>,
    /// Whether all are whole numbers.
    pub whole: bool,
    /// Whether each number is the one above it plus one.
    pub counting: bool,
    /// What JSON holds in its first cell that is not null.
    pub json: Json,
}

/// What a cell of JSON holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Json {
    /// A string, a number or true/false.
    Plain,
    /// A list of strings.
    Words,
    /// A list of numbers.
    Numbers,
    /// A list of lists or of objects, such as spans.
    Spans,
    /// An object.
    Object,
}

impl Survey {
    /// Reads a table and counts.
    ///
    /// # Errors
    /// Those of [`Sheet::read`]; [`Kind::Data`](crate::error::Kind::Data) if the columns are not separated as
    /// the file's name says.
    pub fn read(path: &Path) -> Result<Self> {
        let separated = Format::of(path).is_ok_and(|f| matches!(f, Format::Csv | Format::Tsv));
        if separated && path.is_file() {
            check_separator(path, &crate::data::columns(path)?)?;
        }
        let sheet = Sheet::read(path)?;
        let rows = sheet.lines.len();
        if rows == 0 {
            return Err(Error::data("the file has a header line and no rows")
                .at(path)
                .with_expected("a row for each example below the header")
                .with_found(sheet.names.join(", "))
                .with_help("name a file with rows"));
        }
        let columns = sheet.names.into_iter().zip(&sheet.columns);
        let columns = columns.map(|(name, cells)| Column::of(name, cells, &sheet.lines)).collect();
        let survey = Self { path: path.to_path_buf(), columns, rows };
        Ok(survey)
    }

    /// The names of the columns.
    pub fn names(&self) -> Vec<String> {
        self.columns.iter().map(|c| c.name.clone()).collect()
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// Refuses a header line that is probably the first row of the data. `named`: columns that options name.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data), with the command that adds a header line.
    pub fn check_header(&self, named: &[&str]) -> Result<()> {
        if !Format::of(&self.path).is_ok_and(|f| matches!(f, Format::Csv | Format::Tsv)) {
            return Ok(());
        }
        if named.iter().any(|name| self.column(name).is_some()) {
            return Ok(());
        }
        // A known name that is a value of its own column proves nothing.
        let known = self.columns.iter().any(|c| is_known(&c.name) && !c.counts.contains_key(c.name.trim()));
        let reason = |c: &Column| {
            let name = c.name.trim();
            let words = name.split_whitespace().count();
            if known {
                return None;
            }
            if !name.is_empty() && c.counts.contains_key(name) && c.counts.len() < self.rows {
                return Some(format!("{name:?} is also a value of its column"));
            }
            if name.parse::<f64>().is_ok() {
                return Some(format!("{name:?} is a number"));
            }
            let sentence = words > 2 && name.ends_with(['.', '!', '?']);
            (sentence || words >= LONG_NAME.0 || name.chars().count() > LONG_NAME.1)
                .then(|| format!("{:?} is a sentence", shortened(name)))
        };
        let Some(reason) = self.columns.iter().find_map(reason) else { return Ok(()) };
        let tabs = Format::of(&self.path).is_ok_and(|f| f == Format::Tsv);
        let (separator, ending) = if tabs { ("\t", "tsv") } else { (",", "csv") };
        let names = self.likely_names();
        let file = shell(&self.path);
        let new = shell(self.path.with_extension(format!("header.{ending}")));
        // A byte order mark would stay inside the new file.
        let rest = if has_mark(&self.path) { format!("tail -c +4 {file}") } else { format!("cat {file}") };
        Err(Error::data("the first line looks like data, not like a header")
            .at(&self.path)
            .with_line(1)
            .with_expected(format!("the names of the columns, such as {}", names.join(",")))
            .with_found(reason)
            .with_help(format!(
                "add a header line: (printf '{}\\n'; {rest}) > {new}, then run tempra init {new}. If line 1 is the header, \
                 name its columns: --text COLUMN --label COLUMN",
                names.join(if tabs { "\\t" } else { separator })
            )))
    }

    /// Names for columns that have none: `text` for the one with the most words, `label` for the one with the
    /// fewest values.
    fn likely_names(&self) -> Vec<String> {
        let text = (0..self.columns.len())
            .reduce(|a, b| if self.columns[b].words > self.columns[a].words { b } else { a });
        let label = (0..self.columns.len())
            .filter(|i| Some(*i) != text && self.columns[*i].counts.len() > 1)
            .min_by_key(|i| self.columns[*i].counts.len());
        let name = |i: usize| match (Some(i) == text, Some(i) == label) {
            (true, _) => "text".to_owned(),
            (_, true) => "label".to_owned(),
            _ => format!("column{}", i + 1),
        };
        (0..self.columns.len()).map(name).collect()
    }
}

impl Column {
    fn of(name: String, cells: &[Value], lines: &[u64]) -> Self {
        let mut counts: HashMap<String, usize> = HashMap::new();
        let mut spellings: HashSet<Cow<'_, str>> = HashSet::new();
        let mut first_odd = None;
        let (mut filled, mut words, mut first_empty) = (0, 0.0, None);
        let (mut numbers, mut whole, mut counting) = (true, true, true);
        let (mut low, mut high, mut last) = (f64::INFINITY, f64::NEG_INFINITY, None);
        for (cell, line) in cells.iter().zip(lines) {
            let raw = written(cell);
            let text = raw.trim();
            if first_odd.is_none() && !yes_or_no(text) {
                first_odd = Some((*line, text.to_owned()));
            }
            if text.is_empty() {
                first_empty.get_or_insert(*line);
                continue;
            }
            filled += 1;
            words += count_words(text);
            match text.parse::<f64>().ok().filter(|x| x.is_finite()) {
                Some(x) => {
                    (low, high) = (low.min(x), high.max(x));
                    whole &= x.fract() == 0.0;
                    counting &= last.is_none_or(|last| x == last + 1.0);
                    last = Some(x);
                }
                None => numbers = false,
            }
            match counts.get_mut(text) {
                Some(n) => *n += 1,
                None => _ = counts.insert(text.to_owned(), 1),
            }
            spellings.insert(raw);
        }
        let numbers = numbers && filled > 0;
        let json = cells.iter().find(|cell| !cell.is_null()).map_or(Json::Plain, json_kind);
        Self {
            name,
            counts,
            spellings: spellings.len(),
            filled,
            first_empty,
            first_odd,
            words: words / filled.max(1) as f64,
            range: numbers.then_some((low, high)),
            whole: numbers && whole,
            counting: numbers && counting && filled > 2,
            json,
        }
    }

    /// Whether it can be a text.
    pub fn is_text(&self) -> bool {
        self.filled > 0 && self.range.is_none() && self.json == Json::Plain && !self.is_date()
    }

    /// Whether its cells are prose.
    pub fn is_prose(&self) -> bool {
        self.is_text() && self.words > FEW_WORDS
    }

    /// Whether every value is a date or a point of time.
    pub fn is_date(&self) -> bool {
        self.filled > 0 && self.counts.keys().all(|value| is_date(value))
    }

    /// Whether its name says that it identifies something.
    pub fn is_id(&self) -> bool {
        let name = self.name.trim().to_lowercase();
        let whole = ["", "id", "idx", "index", "uid", "uuid", "guid", "key", "unnamed: 0"];
        whole.contains(&name.as_str())
            || ["_id", "-id", " id", "_idx", "_uuid"].iter().any(|end| name.ends_with(end))
            || self.name.ends_with("Id")
            || self.name.ends_with("ID")
    }

    /// Whether each cell says yes or no.
    pub fn is_binary(&self, rows: usize) -> bool {
        self.filled == rows && self.counts.keys().all(|v| yes_or_no(v))
    }

    /// Whether most cells say yes or no and a few do not: the others are empty or have one or two other
    /// values.
    pub fn is_nearly_binary(&self, rows: usize) -> bool {
        let others = self.counts.keys().filter(|v| !yes_or_no(v)).count();
        let binary: usize = self.counts.iter().filter(|(v, _)| yes_or_no(v)).map(|(_, n)| n).sum();
        !self.is_binary(rows) && self.has_yes() && others <= 2 && binary * 2 > rows
    }

    /// Whether some cell says yes.
    pub fn has_yes(&self) -> bool {
        self.counts.keys().any(|v| v == "1" || v == "1.0" || v.eq_ignore_ascii_case("true"))
    }

    /// Whether it has two values or more and is no prose, as labels are.
    pub fn repeats(&self) -> bool {
        self.counts.len() >= 2 && self.json == Json::Plain && !self.is_prose() && !self.is_date()
    }

    /// Whether it says which split a row belongs to.
    pub fn is_split(&self) -> bool {
        let says = |names: &[&str]| self.counts.keys().any(|v| names.contains(&v.to_lowercase().as_str()));
        self.counts.len() <= 6
            && says(&["train", "training"])
            && says(&["test", "dev", "valid", "validation", "val"])
    }

    /// Why it is left out, in words.
    pub fn leftover(&self, rows: usize) -> &'static str {
        match self.counts.len() {
            _ if self.is_split() => {
                "the split of each row: write the rows of each split to a file of its own, or test rows are trained on"
            }
            0 => "empty in all rows",
            1 if self.is_binary(rows) && !self.has_yes() => "0 in all rows: as a class it would have no row",
            1 if rows > 1 => "one value in all rows",
            _ if self.is_date() => "dates",
            _ if self.is_id() => "ids, by its name",
            n if n == rows && self.range.is_some() => "another number in each row",
            _ if self.is_prose() => "a text as well",
            _ => "not used",
        }
    }
}

/// Refuses a table whose fields are separated by another character than its name says.
fn check_separator(path: &Path, header: &[String]) -> Result<()> {
    let tabs = Format::of(path).is_ok_and(|f| f == Format::Tsv);
    let (wanted, others) = if tabs { ("tabs", [',', ';', '|']) } else { ("commas", ['\t', ';', '|']) };
    let [only] = header else { return Ok(()) };
    let Some(other) = others.into_iter().find(|c| only.contains(*c)) else { return Ok(()) };
    let spelled = match other {
        '\t' => "tabs",
        ';' => "semicolons",
        ',' => "commas",
        _ => "vertical bars",
    };
    let file = shell(path);
    let help = match other {
        '\t' => format!("name it .tsv: mv {file} {}", shell(path.with_extension("tsv"))),
        ',' => format!("name it .csv: mv {file} {}", shell(path.with_extension("csv"))),
        _ => {
            let new = shell(path.with_extension("comma.csv"));
            format!(
                "convert it: python3 -c \"import csv,sys; csv.writer(sys.stdout).writerows(csv.reader(sys.stdin, delimiter='{other}'))\" \
                 < {file} > {new}"
            )
        }
    };
    Err(Error::data(format!("the columns are separated by {spelled}"))
        .at(path)
        .with_line(1)
        .with_expected(format!("{wanted}, as the end of the file's name says"))
        .with_found(format!("{only:?}"))
        .with_help(help))
}

/// Whether a file begins with the byte order mark of UTF-8.
fn has_mark(path: &Path) -> bool {
    let mut first = [0; 3];
    File::open(path).and_then(|mut file| file.read_exact(&mut first)).is_ok() && first == *b"\xEF\xBB\xBF"
}

/// Whether a cell says yes or no.
fn yes_or_no(value: &str) -> bool {
    ["0", "1", "0.0", "1.0"].contains(&value)
        || ["true", "false"].iter().any(|b| value.eq_ignore_ascii_case(b))
}

/// A cell as text; null is empty.
fn written(cell: &Value) -> Cow<'_, str> {
    match cell {
        Value::String(s) => Cow::Borrowed(s),
        Value::Null => Cow::Borrowed(""),
        other => Cow::Owned(other.to_string()),
    }
}

fn json_kind(cell: &Value) -> Json {
    match cell {
        Value::Array(items) => match items.first() {
            None | Some(Value::Array(_) | Value::Object(_)) => Json::Spans,
            Some(Value::Number(_)) => Json::Numbers,
            Some(_) => Json::Words,
        },
        Value::Object(_) => Json::Object,
        _ => Json::Plain,
    }
}

/// Words between white space; of scripts without spaces two characters count as a word.
pub fn count_words(text: &str) -> f64 {
    let unspaced =
        |c: &char| matches!(*c, '\u{2E80}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{0E00}'..='\u{0E7F}');
    let unspaced = text.chars().filter(unspaced).count();
    text.split_whitespace().count() as f64 + unspaced as f64 / 2.0
}

/// Whether a text is a date: 2024-05-01, 1/5/24, 01.05.2024, with or without a time behind it. A text that
/// begins with one is none.
fn is_date(text: &str) -> bool {
    let (day, time) = text.split_once([' ', 'T']).unwrap_or((text, ""));
    let marks = ["AM", "PM", "UTC", "GMT"];
    let clock = |word: &str| {
        marks.iter().any(|mark| mark.eq_ignore_ascii_case(word))
            || (word.contains(|c: char| c.is_ascii_digit())
                && word.chars().all(|c| c.is_ascii_digit() || ":.,+-Z".contains(c)))
    };
    if !time.split_whitespace().all(clock) || (!time.is_empty() && !time.contains(':')) {
        return false;
    }
    let parts: Vec<&str> = day.split(['-', '/', '.']).collect();
    let digits = |s: &str| s.chars().all(|c| c.is_ascii_digit());
    let lengths: Vec<usize> = parts.iter().map(|p| p.len()).collect();
    parts.iter().all(|p| digits(p)) && matches!(lengths.as_slice(), [4, 1..=2, 1..=2] | [1..=2, 1..=2, 2 | 4])
}

fn shortened(text: &str) -> String {
    const SHOWN: usize = 50;
    if text.chars().count() <= SHOWN {
        text.to_owned()
    } else {
        text.chars().take(SHOWN).collect::<String>() + "..."
    }
}
