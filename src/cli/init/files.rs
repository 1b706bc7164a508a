//! The training data and their format, and the validation and test data beside them.

use super::write::shell;
use crate::data::Format;
use crate::error::{Error, Kind, Result};
use crate::train::recipe::TaskKind;
use serde_json::Value;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of a file that are read to recognize its format.
const HEAD: u64 = 1 << 18;
/// Endings of files with a word and its tag in each line.
const TAGGED: &[&str] =
    &["conll", "conllu", "conllx", "bio", "iob", "iob2", "iobes", "bioes", "bilou", "tags"];
/// Endings of tables; `json` may also be SQuAD.
const TABLES: &[&str] = &["csv", "tsv", "jsonl", "ndjson", "parquet", "json"];
const PLAIN: &[&str] = &["txt", "text"];

/// What training data are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Rows with columns.
    Table,
    /// A folder with one subfolder for each class.
    ClassFolder,
    /// A folder of text files without labels.
    TextFolder,
    /// A word and its tag in each line.
    TaggedWords,
    /// SQuAD's JSON.
    Questions,
    /// Text without labels.
    RawText,
}

/// The file itself; of a folder the file or folder in it that is named train, or the folder if its subfolders
/// are classes.
///
/// # Errors
/// [`Kind::Data`] if there is nothing to train on.
pub fn training(given: &Path) -> Result<PathBuf> {
    if !given.exists() {
        return Err(Error::data("there is no such file or folder").at(given).with_help("check the path"));
    }
    let found = if given.is_dir() { in_folder(given)? } else { given.to_path_buf() };
    refuse_shards(&found)?;
    Ok(found)
}

/// Refuses one of several files that together are the training data, as the Hugging Face Hub names them.
fn refuse_shards(file: &Path) -> Result<()> {
    let stem = stem(file);
    let count = stem.rsplit_once("-of-").and_then(|(_, n)| n.parse::<usize>().ok()).filter(|n| *n > 1);
    let Some(count) = count else { return Ok(()) };
    Err(Error::data(format!("the training data are cut into {count} files"))
        .at(file)
        .with_expected("one file")
        .with_help("join them into one file, or copy this one under another name to train on it alone"))
}

fn in_folder(given: &Path) -> Result<PathBuf> {
    let all = entries(given)?;
    let known = |f: &&PathBuf| {
        let ending = ending_of(f);
        f.is_file() && [TABLES, PLAIN, TAGGED].iter().any(|list| list.contains(&ending.as_str()))
    };
    let mut named: Vec<&PathBuf> = all.iter().filter(known).filter(|f| stem(f).contains("train")).collect();
    named.extend(all.iter().filter(|f| stem(f).contains("train") && is_class_folder(f)));
    named.sort_by_key(|f| (stem(f).len(), (*f).clone()));
    if let Some(first) = named.first() {
        return Ok((*first).clone());
    }
    let is_plain = |f: &&PathBuf| f.is_file() && PLAIN.contains(&ending_of(f).as_str());
    let tables = all.iter().filter(known).filter(|f| !is_plain(f)).count();
    if is_class_folder(given) || (tables == 0 && all.iter().filter(is_plain).count() > 1) {
        return Ok(given.to_path_buf());
    }
    if let [only] = all.iter().filter(known).collect::<Vec<_>>().as_slice() {
        return Ok((*only).clone());
    }
    Err(Error::data("no training data in the folder")
        .at(given)
        .with_expected("a file named train (.csv, .tsv, .jsonl, .json, .parquet, .conll, .conllu, .txt), or one subfolder with .txt files for each class, or .txt files alone")
        .with_help("name the file itself"))
}

/// What a file or folder holds. `wanted`: the task that was asked for, if any.
///
/// # Errors
/// [`Kind::Data`] for a format that no task reads, and for raw text that looks like a table.
pub fn content(train: &Path, wanted: Option<TaskKind>) -> Result<Content> {
    let raw = wanted.is_some_and(|task| task.entry().language().is_some());
    if train.is_dir() {
        return Ok(if is_class_folder(train) && !raw { Content::ClassFolder } else { Content::TextFolder });
    }
    match ending_of(train).as_str() {
        "json" if wanted == Some(TaskKind::Answer) || is_squad(train) => Ok(Content::Questions),
        // Words and tags may be separated by tabs; a table has a header line.
        "tsv" if wanted == Some(TaskKind::Tag) => Ok(Content::TaggedWords),
        "tsv" if wanted.is_none() && are_tagged_words(&whole_lines(&head(train)?).collect::<Vec<_>>()) => {
            Ok(Content::TaggedWords)
        }
        ending if TABLES.contains(&ending) => Ok(Content::Table),
        ending if PLAIN.contains(&ending) && raw => Ok(Content::RawText),
        _ if wanted == Some(TaskKind::Tag) => Ok(Content::TaggedWords),
        ending if TAGGED.contains(&ending) => Ok(Content::TaggedWords),
        ending => {
            let head = head(train)?;
            let lines: Vec<&str> = whole_lines(&head).collect();
            let plain = PLAIN.contains(&ending);
            if are_tagged_words(&lines) {
                return Ok(Content::TaggedWords);
            }
            if !plain {
                return Err(unknown(train, ending));
            }
            refuse_tables(train, &lines)?;
            Ok(Content::RawText)
        }
    }
}

fn unknown(train: &Path, ending: &str) -> Error {
    let e = Error::data("the format of the file is unknown")
        .at(train)
        .with_expected(".csv, .tsv, .jsonl, .json, .parquet, .conll, .conllu or .txt")
        .with_found(if ending.is_empty() { "no ending".to_owned() } else { format!(".{ending}") });
    match Format::of(train) {
        Err(reader) if reader.help().is_some() && !ending.is_empty() => {
            e.with_help(reader.help().unwrap_or_default())
        }
        _ => e.with_help("rename or convert the file"),
    }
}

/// Whether the lines are words with tags in columns: as many fields in each, and a last field that is a tag.
fn are_tagged_words(lines: &[&str]) -> bool {
    let words: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|l| !l.trim().is_empty() && !l.starts_with("-DOCSTART-") && !l.starts_with("# "))
        .collect();
    let Some(first) = words.first() else { return false };
    let tabs = first.contains('\t');
    let fields = |l: &str| -> Vec<String> {
        if tabs {
            l.split('\t').map(str::to_owned).collect()
        } else {
            l.split_whitespace().map(str::to_owned).collect()
        }
    };
    let rows: Vec<Vec<String>> = words.iter().map(|l| fields(l)).collect();
    let width = rows[0].len();
    if width < 2 || rows.iter().any(|r| r.len() != width) {
        return false;
    }
    let id = |s: &String| s.split(['-', '.']).all(|n| n.parse::<u32>().is_ok());
    if width == 10 && rows.iter().all(|r| r.first().is_some_and(id)) {
        return true;
    }
    let tag = |s: &str| {
        s == "O"
            || s.split_once(['-', '_']).is_some_and(|(a, b)| {
                a.len() == 1 && "BIESLU".contains(a) || b.len() == 1 && "BIESLU".contains(b)
            })
    };
    let last: Vec<&String> = rows.iter().filter_map(|r| r.last()).collect();
    let blank = lines.iter().any(|l| l.trim().is_empty());
    last.iter().all(|s| tag(s))
        || (blank
            && last.iter().all(|s| s.chars().all(|c| c.is_ascii_uppercase() || "$.,:`'-#()".contains(c))))
}

/// Refuses a .txt file that holds labels: with a tab in every line, or fastText's `__label__`.
fn refuse_tables(train: &Path, lines: &[&str]) -> Result<()> {
    let filled: Vec<&&str> = lines.iter().filter(|l| !l.trim().is_empty()).collect();
    let Some(first) = filled.first() else { return Ok(()) };
    let file = shell(train);
    let new = shell(train.with_extension("tsv"));
    let raw = "for raw text: --task mask";
    if filled.iter().all(|l| l.starts_with("__label__")) {
        return Err(Error::data("the file has labels in fastText's format")
            .at(train)
            .with_expected("a table with a header line, or raw text")
            .with_found(format!("{:?}", first.chars().take(50).collect::<String>()))
            .with_help(format!(
                "make it a table: (printf 'label\\ttext\\n'; sed 's/^__label__//' {file} | awk '{{ i = index($0, \" \"); print substr($0, 1, i - 1) \"\\t\" substr($0, i + 1) }}') > {new}; {raw}"
            )));
    }
    let tabs = first.matches('\t').count();
    if tabs > 0 && filled.len() > 1 && filled.iter().all(|l| l.matches('\t').count() == tabs) {
        let names: Vec<String> = (1..=tabs + 1).map(|i| format!("column{i}")).collect();
        return Err(Error::data("the file looks like a table, not like raw text")
            .at(train)
            .with_expected("a table in a .tsv file with a header line, or raw text in a .txt file")
            .with_found(format!("{} columns separated by tabs in every line", tabs + 1))
            .with_help(format!(
                "make it a table: (printf '{}\\n'; cat {file}) > {new}; {raw}",
                names.join("\\t")
            )));
    }
    Ok(())
}

/// Whether a JSON file has the form of SQuAD: `data`, in it `paragraphs`.
pub fn is_squad(path: &Path) -> bool {
    let Ok(bytes) = std::fs::read(path) else { return false };
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return false };
    value.get("data").and_then(|d| d.get(0)).is_some_and(|article| article.get("paragraphs").is_some())
}

fn head(path: &Path) -> Result<String> {
    let fail = |e: std::io::Error| Error::io(Kind::Data, "cannot be read", path, &e);
    let mut bytes = Vec::new();
    File::open(path).map_err(fail)?.take(HEAD).read_to_end(&mut bytes).map_err(fail)?;
    Ok(String::from_utf8_lossy(&bytes).trim_start_matches('\u{feff}').to_owned())
}

/// The lines of the beginning of a file; the last may be cut and is left out if there are others.
fn whole_lines(head: &str) -> impl Iterator<Item = &str> {
    let lines = head.lines().count();
    let whole = if (head.len() as u64) < HEAD || lines < 2 { lines } else { lines - 1 };
    head.lines().take(whole)
}

/// Whether a folder holds a subfolder with .txt files for each of two classes or more.
fn is_class_folder(dir: &Path) -> bool {
    let has_texts = |d: &PathBuf| {
        d.is_dir()
            && entries(d).is_ok_and(|files| files.iter().any(|f| PLAIN.contains(&ending_of(f).as_str())))
    };
    dir.is_dir() && entries(dir).is_ok_and(|found| found.iter().filter(|d| has_texts(d)).count() >= 2)
}

/// The entries of a folder, by name.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let fail = |e: std::io::Error| Error::io(Kind::Data, "the folder cannot be listed", dir, &e);
    let entries = std::fs::read_dir(dir).map_err(fail)?;
    let mut found: Vec<PathBuf> =
        entries.map(|entry| entry.map(|e| e.path()).map_err(fail)).collect::<Result<_>>()?;
    found.sort();
    Ok(found)
}

/// The training data and what stands beside them that may be validation and test data.
pub fn beside(train: &Path) -> Result<Vec<PathBuf>> {
    let mut found = entries(crate::files::parent(train))?;
    found.retain(|f| f.is_dir() == train.is_dir() && ending(f) == ending(train));
    Ok(found)
}

fn ending(path: &Path) -> Option<OsString> {
    path.extension().map(|e| e.to_ascii_lowercase())
}

fn ending_of(path: &Path) -> String {
    ending(path).unwrap_or_default().to_string_lossy().into_owned()
}

fn stem(path: &Path) -> String {
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.unwrap_or_default().to_string_lossy().to_lowercase()
}

/// A name for the run: the file's, or its folder's where the file is merely called train.
pub fn run_name(train: &Path) -> String {
    let whole = std::path::absolute(train).unwrap_or_else(|_| train.to_path_buf());
    let folder = whole.parent().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
    let own = stem(train);
    let name = if own.contains("train") { folder.unwrap_or(own) } else { own };
    let safe = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = name.chars().map(safe).collect();
    if name.trim_matches('.').is_empty() { "run".to_owned() } else { name }
}

/// Validation and test data beside training data.
#[derive(Default)]
pub struct Siblings {
    /// The validation data.
    pub validation: Option<PathBuf>,
    /// The test data.
    pub test: Option<PathBuf>,
    /// What was found, in words.
    pub notes: Vec<(&'static str, String)>,
}

impl Siblings {
    /// Files (or folders) of the same ending whose names are the training file's with another word for
    /// `train`. One that cannot be used is named with the reason and left out. `count` reads one and says how
    /// many `unit` it has and how many rows it cannot read.
    ///
    /// # Errors
    /// [`Kind::Data`] if the folder cannot be listed.
    pub fn find(train: &Path, unit: &str, count: &dyn Fn(&Path) -> Result<(usize, u64)>) -> Result<Self> {
        let own = stem(train);
        let word = ["training", "train"].into_iter().find(|w| own.contains(w));
        let Some(word) = word else { return Ok(Self::default()) };
        let there = beside(train)?;
        let mut siblings = Self::default();
        let splits =
            [("validation", &["validation", "valid", "val", "dev", "eval"][..]), ("test", &["test"])];
        for (split, words) in splits {
            let named = words.iter().find_map(|w| there.iter().find(|f| stem(f) == own.replacen(word, w, 1)));
            let Some(file) = named else { continue };
            // Written as the training file was: without the "./" that listing the folder puts before it.
            let file = match (train.parent(), file.file_name()) {
                (Some(parent), Some(name)) => parent.join(name),
                _ => file.clone(),
            };
            match count(&file) {
                Ok((n, bad)) => {
                    let bad = match bad {
                        0 => String::new(),
                        _ => format!(
                            "; {bad} rows cannot be read: training stops there unless data.on_bad_row = \"skip\""
                        ),
                    };
                    let note = format!("{}: {n} {unit}, beside the training data{bad}", file.display());
                    siblings.notes.push((split, note));
                    let slot = if split == "test" { &mut siblings.test } else { &mut siblings.validation };
                    *slot = Some(file);
                }
                Err(e) => {
                    let why = e.to_string().lines().next().unwrap_or_default().to_owned();
                    siblings.notes.push((split, format!("left out: {why}")));
                }
            }
        }
        Ok(siblings)
    }
}
