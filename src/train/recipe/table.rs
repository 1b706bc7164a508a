//! One declaration a key: `section!` makes the struct, its defaults, its reader and what help and docs walk.

use super::field::{Field, Rule};
use super::source::{Entry, Node, Origin, Value, error_at};
use crate::error::Error;
use crate::ops::UPDATE_RULES;
use crate::ops::update::UpdateRule;
use crate::suggest::nearest;
use crate::tasks::{PairLoss, TASKS};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A key of the recipe as help and documentation show it.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// The table it stands in; empty at the top.
    pub section: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it may be, in words.
    pub accepts: String,
    /// Its default as TOML; `None` if it is not set by default or follows from other keys.
    pub default: Option<String>,
    /// What it means, with units and Hugging Face's name for it.
    pub doc: String,
    /// Whether a recipe has to give it.
    pub required: bool,
}

impl Key {
    /// `section.name`, as `--set` takes it.
    pub fn path(&self) -> String {
        full(self.section, self.name)
    }
}

/// How to give a key that is missing.
fn need(key: &Key) -> String {
    match key.section {
        "" => format!("add a line {} = ... at the top", key.name),
        section => format!("add a line {} = ... below [{section}]", key.name),
    }
}

fn full(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// The TOML of a recipe without one of its tables.
pub(super) fn without(section: &str, text: &str) -> String {
    let Some(start) = text.find(&format!("\n[{section}]\n")) else { return text.to_owned() };
    let end = text[start + 1..].find("\n[").map_or(text.len(), |n| start + 1 + n);
    format!("{}{}", &text[..start], &text[end..])
}

/// One key with its value in a recipe.
pub(super) struct Item {
    pub key: Key,
    /// As TOML; `None` if not set.
    pub value: Option<String>,
}

/// A table of the recipe.
pub(super) trait Section: Default {
    /// Takes what it knows out of the table and complains about the rest.
    fn read(table: Vec<Entry>, reader: &mut Reader<'_>) -> Self;
    /// Every key in declared order.
    fn walk(&self, each: &mut dyn FnMut(Item));
}

/// Joins the lines of a doc comment to one paragraph.
pub(super) fn doc(lines: &[&str]) -> String {
    lines.iter().map(|l| l.trim()).collect::<Vec<_>>().join(" ")
}

/// A text as comments of a TOML file, whose lines have at most 110 columns.
pub(super) fn comment(text: &str) -> String {
    let mut out = String::new();
    for paragraph in text.lines() {
        let mut line = "#".to_owned();
        for word in paragraph.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > 110 && line != "#" {
                out += &line;
                out.push('\n');
                line = "#".to_owned();
            }
            line.push(' ');
            line += word;
        }
        out += &line;
        out.push('\n');
    }
    out
}

/// What the table of optimizers adds to the text of a key of `[optim]`: their descriptions, and their
/// defaults.
fn of_optimizers(key: &str) -> String {
    if key == "optimizer" {
        return UPDATE_RULES.iter().map(|rule| format!("\n\"{}\": {}.", rule.name, rule.doc)).collect();
    }
    let default = |rule: &UpdateRule| match (key, rule.default(key)?) {
        ("nesterov", v) => Some(format!("{} with {}", v != 0.0, rule.name)),
        (_, v) => Some(format!("{v:?} with {}", rule.name)),
    };
    let defaults: Vec<String> = UPDATE_RULES.iter().filter_map(default).collect();
    if defaults.is_empty() { String::new() } else { format!("\nDefault: {}.", defaults.join(", ")) }
}

/// What the tables of tasks and optimizers add to the text of a key.
fn of_tables(key: [&str; 2]) -> String {
    let all = TASKS.iter().map(|(_, entry)| entry);
    match key {
        ["", "task"] => {
            let each = all.map(|entry| format!("\n\"{}\" {}.", entry.name, entry.doc));
            each.collect()
        }
        ["train", "best_metric"] => {
            let contrastive = PairLoss::Contrastive;
            let each = all.map(|entry| format!("{} for {}", entry.best_metric, entry.name));
            let each: Vec<String> = each.collect();
            let similar = format!("{} for {}", contrastive.best_metric(), contrastive.task());
            format!("\nDefaults: {}; {similar}.", each.join(", "))
        }
        ["optim", key] => of_optimizers(key),
        _ => String::new(),
    }
}

pub(super) fn item<T: Field>(
    names: [&'static str; 2],
    lines: &[&str],
    rule: Rule,
    value: &T,
    default: &T,
) -> Item {
    let required = matches!(rule, Rule::Required);
    let fixed = !matches!(rule, Rule::Required | Rule::Derived);
    let default = if fixed { default.write() } else { None };
    let accepts = T::kind() + &rule.to_string();
    let doc = doc(lines) + &of_tables(names);
    let key = Key { section: names[0], name: names[1], accepts, default, doc, required };
    Item { key, value: value.write() }
}

/// `section! { /// about Name "section" { /// doc key: Type = default, RULE; … } with { /// doc sub: Section,
/// … } }`
macro_rules! section { (
    $(#[$about:meta])+ $name:ident $section:literal {
        $($(#[doc = $doc:literal])+ $key:ident: $ty:ty = $default:expr, $rule:expr;)*
    } $(with { $($(#[$sub_doc:meta])+ $sub:ident: $sub_ty:ident),* $(,)? })?
) => {
    $(#[$about])+
    #[derive(Clone, Debug, PartialEq)]
    pub struct $name {
        $($(#[doc = $doc])+ pub $key: $ty,)*
        $($($(#[$sub_doc])+ pub $sub: $sub_ty,)*)?
    }
    impl Default for $name {
        fn default() -> Self {
            Self { $($key: $default,)* $($($sub: $sub_ty::default(),)*)? }
        }
    }
    impl Section for $name {
        fn read(mut table: Vec<Entry>, reader: &mut Reader<'_>) -> Self {
            let read = Self {
                $($key: reader.field(&mut table, $section, stringify!($key), $default, $rule),)*
                $($($sub: $sub_ty::read(reader.table(&mut table, stringify!($sub)), reader),)*)?
            };
            reader.unknown(table, $section);
            read
        }
        fn walk(&self, each: &mut dyn FnMut(Item)) {
            let default = Self::default();
            $(each(item([$section, stringify!($key)], &[$($doc),+], $rule, &self.$key, &default.$key));)*
            $($(self.$sub.walk(each);)*)?
        }
    }
} }

/// Reads fields out of the tree and keeps every error with its place.
pub(super) struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
    keys: Vec<Key>,
    /// Where each key (or section) that was given stands.
    given: BTreeMap<String, Origin>,
    /// Keys that could not be read: nothing more is said of them.
    bad: BTreeSet<String>,
    /// By place in the file; what has none comes last.
    errors: Vec<(usize, Error)>,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str, path: &'a Path, keys: Vec<Key>) -> Self {
        let (given, bad, errors) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        Self { text, path, keys, given, bad, errors }
    }
    /// All errors, in the order of the file; flags come last.
    pub fn finish(mut self) -> Option<Error> {
        self.errors.sort_by_key(|(at, _)| *at);
        Error::many(self.errors.into_iter().map(|(_, e)| e).collect())
    }
    pub fn given(&self, key: &str) -> Option<&Origin> {
        self.given.get(key)
    }
    /// The keys that were given.
    pub fn all_given(&self) -> Vec<String> {
        self.given.keys().cloned().collect()
    }
    /// A remark on a key, at its place.
    pub fn remark(&self, key: &str, what: &str) -> Error {
        match self.given.get(key) {
            Some(at) => error_at(what, at, self.text, self.path),
            None => Error::usage(what).at(self.path),
        }
    }
    /// An error at the first of `keys` that was given; none if one of them is already known to be bad.
    pub fn complain(&mut self, keys: &[&str], what: &str, finish: impl FnOnce(Error) -> Error) {
        if keys.iter().any(|k| self.bad.contains(*k)) {
            return;
        }
        let at = keys.iter().find_map(|k| self.given.get(*k)).cloned();
        self.push(at.as_ref(), what, finish);
    }
    /// Complains, at its section if there is one, of a key that has to be given and is not.
    pub fn need(&mut self, key: &Key) {
        if self.bad.contains(key.section) || self.given.contains_key(&key.path()) {
            return;
        }
        let at = self.given.get(key.section).cloned();
        let what = format!("{} is missing", key.path());
        self.push(at.as_ref(), &what, |e| e.with_expected(&key.accepts).with_help(need(key)));
    }
    fn push(&mut self, at: Option<&Origin>, what: &str, finish: impl FnOnce(Error) -> Error) {
        let (order, e) = match at {
            Some(at @ Origin::File(byte)) => (*byte, error_at(what, at, self.text, self.path)),
            Some(at) => (usize::MAX, error_at(what, at, self.text, self.path)),
            None => (usize::MAX - 1, Error::usage(what).at(self.path)),
        };
        self.errors.push((order, finish(e)));
    }
    /// Takes a key out of a table; the default if it is not there or not right.
    pub fn field<T: Field>(
        &mut self,
        table: &mut Vec<Entry>,
        section: &str,
        name: &str,
        default: T,
        rule: Rule,
    ) -> T {
        let Some(i) = table.iter().position(|e| e.key == name) else { return default };
        let node = table.remove(i).node;
        let key = full(section, name);
        self.given.insert(key.clone(), node.at.clone());
        let read = match (T::read(&node.value), &node.at) {
            // A flag is a TOML value first and a text otherwise: 2024 may be a column's name.
            (Err(e), Origin::Flag(flag)) => {
                let raw = flag.split_once('=').map_or("", |(_, raw)| raw);
                T::read(&Value::Text(raw.to_owned())).map_err(|_| e)
            }
            (read, _) => read,
        };
        let found = match read {
            Ok(value) => match value.numbers().iter().position(|x| !rule.allows(*x)) {
                None => return value,
                Some(i) => match &node.value {
                    Value::List(list) => {
                        let item = list.get(i).map_or_else(String::new, |n| n.value.describe());
                        format!("{item} as item {}", i + 1)
                    }
                    other => other.describe(),
                },
            },
            Err(found) => found,
        };
        self.push(Some(&node.at), &format!("{key} is invalid"), |e| {
            e.with_expected(T::kind() + &rule.to_string()).with_found(found)
        });
        self.bad.insert(key);
        default
    }
    /// Takes a section out of the top table; an empty one if it is not there.
    pub fn table(&mut self, table: &mut Vec<Entry>, name: &str) -> Vec<Entry> {
        let Some(i) = table.iter().position(|e| e.key == name) else { return Vec::new() };
        let Entry { key_at, node, .. } = table.remove(i);
        self.given.insert(name.to_owned(), key_at);
        match node.value {
            Value::Table(entries) => entries,
            other => {
                let hint = format!("write [{name}] on a line of its own, and its keys below it");
                let what = format!("{name} is not a table");
                self.push(Some(&node.at), &what, |e| e.with_found(other.describe()).with_help(hint));
                self.bad.insert(name.to_owned());
                Vec::new()
            }
        }
    }
    /// Complains about what is left of a table.
    pub fn unknown(&mut self, left: Vec<Entry>, section: &str) {
        for entry in left {
            let hint = match self.meant(&entry.key, section) {
                Some(key) => format!("did you mean {key}?"),
                None => {
                    let known = self.keys.iter().filter(|k| k.section == section).map(|k| k.name);
                    format!("known here: {}", known.collect::<Vec<_>>().join(", "))
                }
            };
            let key = full(section, &entry.key);
            self.push(Some(&entry.key_at), &format!("unknown key {key}"), |e| e.with_help(hint));
        }
    }
    /// The key or table that was probably meant: the one of that name or that Hugging Face name anywhere, or
    /// one spelt nearly so, first in the same table.
    fn meant(&self, word: &str, section: &str) -> Option<String> {
        let hugging_face = format!("HF `{word}`");
        if let Some(same) = self.keys.iter().find(|k| k.name == word || k.doc.contains(&hugging_face)) {
            return Some(same.path());
        }
        let here = |k: &&Key| k.section == section;
        let (near, far): (Vec<_>, Vec<_>) = self.keys.iter().partition(here);
        let tables: BTreeSet<&str> = far.iter().map(|k| k.section).filter(|_| section.is_empty()).collect();
        if let Some(table) = nearest(word, tables) {
            return Some(format!("[{table}]"));
        }
        [near, far].into_iter().find_map(|keys| {
            let name = nearest(word, keys.iter().map(|k| k.name))?;
            keys.into_iter().find(|k| k.name == name).map(Key::path)
        })
    }
}

/// Puts `--set a.b=value` into the tree. An empty value takes the key out, which brings its default back.
pub(super) fn set(root: &mut Vec<Entry>, name: &str, value: &str) {
    let flag = format!("{name}={value}");
    let at = Origin::Flag(flag.clone());
    let (table, key) = match name.trim().split_once('.') {
        None => (&mut *root, name.trim()),
        Some((section, key)) => {
            if !root.iter().any(|e| e.key == section) {
                let node = Node { at: at.clone(), value: Value::Table(Vec::new()) };
                root.push(Entry { key: section.to_owned(), key_at: at.clone(), node });
            }
            let found = root.iter_mut().find(|e| e.key == section).map(|e| &mut e.node.value);
            // What the file gives instead of a table is complained of when it is read.
            let Some(Value::Table(entries)) = found else { return };
            (entries, key)
        }
    };
    let before = table.iter().position(|e| e.key == key);
    if let Some(i) = before {
        table.remove(i);
    }
    if !value.is_empty() {
        let node = super::source::flag_node(&flag, value);
        table.push(Entry { key: key.to_owned(), key_at: at, node });
    }
}
