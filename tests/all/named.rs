//! What messages, help and pages tell a reader to type exists: every option, every key of a recipe, every
//! command. And what is suggested for a word that is not known.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use tempra::suggest::nearest;
use tempra::train::Recipe;

/// Options of other programs that the texts name, and whose they are.
const FOREIGN: &[(&str, &str)] = &[
    ("bench", "cargo"),
    ("features", "cargo"),
    ("follow", "git log"),
    ("force-reinstall", "pip"),
    ("gpu-architecture", "NVRTC"),
    ("gpus", "docker run"),
    ("ptxas-options", "NVRTC"),
    ("release", "cargo"),
    ("revision", "hf download"),
    ("std", "NVRTC"),
    ("summary", "vulkaninfo"),
];

/// Names that look like keys of a recipe, and whose they are.
const FOREIGN_KEYS: &[(&str, &str)] = &[("model.unk_token", "tokenizer.json")];

/// Endings of file names: `train.csv` is a file, not a key.
const ENDINGS: &[&str] = &[
    "bin",
    "conll",
    "conllu",
    "cu",
    "csv",
    "html",
    "json",
    "jsonl",
    "md",
    "npy",
    "onnx",
    "parquet",
    "py",
    "rs",
    "safetensors",
    "text",
    "toml",
    "tsv",
    "txt",
    "wgsl",
    "zip",
];

/// What can be typed.
struct Known {
    /// Options by command, written with its words ("data check"); those of the program itself under "".
    options: BTreeMap<String, BTreeSet<String>>,
    /// Commands that have subcommands.
    parents: BTreeSet<String>,
    /// Words that `tempra help` takes besides commands.
    topics: BTreeSet<String>,
    /// Keys of a recipe: `section.name`.
    keys: BTreeSet<String>,
    sections: BTreeSet<String>,
}

impl Known {
    fn new() -> Known {
        let mut known = Known {
            options: BTreeMap::new(),
            parents: BTreeSet::new(),
            topics: BTreeSet::new(),
            keys: Recipe::keys().iter().map(|k| k.path()).collect(),
            sections: Recipe::keys().iter().map(|k| k.section.to_owned()).filter(|s| !s.is_empty()).collect(),
        };
        let mut root = tempra::cli::command();
        root.build();
        known.add("", &root);
        let help = root
            .find_subcommand("help")
            .expect("a command")
            .get_after_help()
            .expect("its topics")
            .to_string();
        let topics = help.lines().skip_while(|l| *l != "Topics:").skip(1).take_while(|l| l.starts_with("  "));
        known.topics = topics.filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect();
        known
    }
    fn add(&mut self, words: &str, command: &clap::Command) {
        let long = command.get_arguments().flat_map(|a| a.get_long_and_visible_aliases().unwrap_or_default());
        let options = long.map(str::to_owned).chain(["help".to_owned()]).collect();
        self.options.insert(words.to_owned(), options);
        for sub in command.get_subcommands() {
            self.parents.insert(words.to_owned());
            self.add(format!("{words} {}", sub.get_name()).trim(), sub);
        }
    }
    fn option(&self, name: &str) -> bool {
        self.options.values().any(|o| o.contains(name)) || FOREIGN.iter().any(|(o, _)| *o == name)
    }

    /// What a text names that does not exist. `code`: lines that begin with `tempra` are commands, not
    /// sentences.
    fn missing(&self, text: &str, code: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        // What cargo takes is not checked.
        let cargo = text.contains("cargo ");
        for name in options(text).filter(|name| !cargo && !self.option(name)) {
            wrong.push(format!("--{name} is no option"));
        }
        for (section, name) in keys(text, &self.sections) {
            let key = format!("{section}.{name}");
            if !self.keys.contains(&key) && FOREIGN_KEYS.iter().all(|(k, _)| *k != key) {
                wrong.push(format!("{section}.{name} is no key of a recipe"));
            }
        }
        for line in commands(text, code) {
            wrong.extend(self.command(line).err());
        }
        wrong
    }

    /// Whether a command line that begins behind `tempra` can be meant.
    fn command(&self, line: &str) -> Result<(), String> {
        let mut words = line
            .split_whitespace()
            .map(|w| w.trim_end_matches([',', '.', ';', ':', ')', '\'', '"']))
            .peekable();
        let plain = |w: &&str| {
            !w.is_empty() && w.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !w.starts_with('-')
        };
        let mut path = String::new();
        while self.parents.contains(&path) {
            let Some(word) = words.next_if(plain) else { break };
            let longer = format!("{path} {word}").trim().to_owned();
            if !self.options.contains_key(&longer) {
                return Err(format!("`tempra {longer}` is no command"));
            }
            path = longer;
        }
        if path == "help" {
            let rest: Vec<&str> = words.map_while(|w| Some(w).filter(plain)).collect();
            let topic = rest.first().is_none_or(|w| self.topics.contains(*w));
            let command = self.options.contains_key(&rest.join(" "));
            return if topic || command {
                Ok(())
            } else {
                Err(format!("`tempra help {}` explains nothing", rest.join(" ")))
            };
        }
        // Options up to the end of the command: a pipe or another command begins something else.
        let own = words.take_while(|w| !["|", "&&", ";", "#"].contains(w)).collect::<Vec<_>>().join(" ");
        let known = |name: &str| {
            ["", path.as_str()].iter().any(|p| self.options.get(*p).is_some_and(|o| o.contains(name)))
        };
        match options(&own).find(|name| !known(name)) {
            Some(name) => Err(format!("`tempra {path}` has no option --{name}")),
            None => Ok(()),
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The names behind `--`.
fn options(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("--").filter_map(|(at, _)| {
        let before = text[..at].chars().next_back();
        let rest = &text[at + 2..];
        let end =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')).unwrap_or(rest.len());
        let name = rest[..end].trim_end_matches('-');
        let begins = before.is_none_or(|c| !is_word(c) && c != '-');
        (begins && name.starts_with(|c: char| c.is_ascii_lowercase())).then_some(name)
    })
}

/// Words like `train.epochs` whose first part is a section of a recipe.
fn keys<'a>(text: &'a str, sections: &'a BTreeSet<String>) -> impl Iterator<Item = (&'a str, &'a str)> {
    text.match_indices('.').filter_map(move |(at, _)| {
        let start = text[..at]
            .rfind(|c: char| !is_word(c))
            .map_or(0, |i| i + text[i..].chars().next().map_or(1, char::len_utf8));
        let section = &text[start..at];
        let rest = &text[at + 1..];
        let name = &rest[..rest.find(|c: char| !is_word(c)).unwrap_or(rest.len())];
        // A path, a field of a field, a method, a file, the end of a sentence.
        let before = text[..start].chars().next_back();
        let path = before.is_some_and(|c| ['.', '/', '-', ':', '}', '$'].contains(&c));
        let after = rest[name.len()..].chars().next();
        let other = after.is_some_and(|c| ['(', '/', '{', ':'].contains(&c))
            || rest[name.len()..].strip_prefix('.').is_some_and(|r| r.starts_with(is_word))
            || ENDINGS.contains(&name)
            || !name.starts_with(|c: char| c.is_ascii_lowercase());
        (sections.contains(section) && !path && !other).then_some((section, name))
    })
}

/// Command lines, from behind `tempra` up to the closing backtick or the end of the line; in `code` also
/// whole lines.
fn commands(text: &str, code: bool) -> Vec<&str> {
    let end = |rest: &'_ str| rest.find(['`', '\n']).unwrap_or(rest.len());
    let quoted = text.match_indices("`tempra ").map(|(at, found)| &text[at + found.len()..]);
    let quoted = quoted.map(|rest| &rest[..end(rest)]);
    let lines = text.lines().map(|l| l.trim_start().trim_start_matches("$ ")).filter(|_| code);
    quoted.chain(lines.filter_map(|l| l.strip_prefix("tempra ")).map(|rest| &rest[..end(rest)])).collect()
}

/// The string literals of a Rust file with their lines, without its unit tests; `\` at the end of a line
/// joins lines.
fn literals(text: &str) -> Vec<(usize, String)> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    let c: Vec<char> = text.chars().collect();
    let at = |i: usize| c.get(i).copied().unwrap_or('\n');
    let (mut i, mut line, mut found) = (0, 1, Vec::new());
    while i < c.len() {
        match at(i) {
            '\n' => line += 1,
            '/' if at(i + 1) == '/' => {
                while i < c.len() && at(i + 1) != '\n' {
                    i += 1;
                }
            }
            '\'' if at(i + 1) == '\\' => i += 3,
            '\'' if at(i + 2) == '\'' => i += 2,
            '"' => {
                let hashes = (1..=i).take_while(|k| at(i - k) == '#').count();
                let raw = i > hashes && at(i - hashes - 1) == 'r';
                let (first, mut all) = (line, String::new());
                i += 1;
                while i < c.len() {
                    match at(i) {
                        '"' if !raw || (1..=hashes).all(|k| at(i + k) == '#') => break,
                        '\\' if !raw => {
                            i += 1;
                            match at(i) {
                                '\n' => {
                                    line += 1;
                                    while at(i + 1).is_whitespace() && i + 1 < c.len() {
                                        i += 1;
                                        line += usize::from(at(i) == '\n');
                                    }
                                }
                                'n' => all.push('\n'),
                                other => all.push(other),
                            }
                        }
                        other => {
                            line += usize::from(other == '\n');
                            all.push(other);
                        }
                    }
                    i += 1;
                }
                found.push((first, all));
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// The documentation comments of a Rust file, a line each, without their blocks of code.
fn documentation(text: &str) -> Vec<(usize, String)> {
    let (mut fenced, mut found) = (false, Vec::new());
    for (i, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let Some(doc) = line.strip_prefix("///").or(line.strip_prefix("//!")) else { continue };
        match doc.trim_start().starts_with("```") {
            true => fenced = !fenced,
            false if fenced => {}
            false => found.push((i + 1, doc.to_owned())),
        }
    }
    found
}

/// Keys in blocks of TOML that are recipes, with their lines: each stands in the section above it.
fn recipe_blocks(page: &str) -> Vec<(usize, String)> {
    let (mut found, mut block) = (Vec::new(), None::<Vec<(usize, String)>>);
    let mut section = String::new();
    for (i, l) in page.lines().enumerate() {
        let l = l.trim();
        match &mut block {
            None if l.starts_with("```toml") => (block, section) = (Some(Vec::new()), String::new()),
            None => {}
            Some(lines) if l.starts_with("```") => {
                found.append(lines);
                block = None;
            }
            Some(lines) => {
                if let Some(name) = l.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                    section = format!("{name}.");
                } else if let Some((name, _)) = l.split_once('=').filter(|_| !l.starts_with('#')) {
                    lines.push((i + 1, format!("{section}{}", name.trim())));
                }
            }
        }
    }
    // A manifest of Cargo is no recipe.
    found
        .into_iter()
        .filter(|(_, key)| !key.starts_with("dependencies.") && !key.starts_with("package."))
        .collect()
}

fn files(folder: &Path, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|e| e == ending) {
            found.push((path.display().to_string(), fs::read_to_string(&path).expect("UTF-8")));
        }
    }
    found
}

#[test]
fn what_texts_name_exists() {
    let (known, root) = (Known::new(), Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(known.topics.contains("recipe") && known.keys.contains("optim.lr"));
    let (mut wrong, mut blocks, mut checked) = (Vec::new(), Vec::new(), 0);
    let mut check = |file: &str, line: usize, text: &str, code: bool| {
        checked += options(text).count() + keys(text, &known.sections).count() + commands(text, code).len();
        wrong.extend(known.missing(text, code).into_iter().map(|what| format!("{file}:{line}: {what}")));
    };
    let sources = files(&root.join("src"), "rs");
    for (file, text) in &sources {
        for (line, literal) in literals(text) {
            // In help, commands are indented and sentences are not.
            for part in literal.lines() {
                check(file, line, part, part.starts_with("  "));
            }
        }
        for (line, doc) in documentation(text) {
            check(file, line, &doc, false);
        }
    }
    let mut pages = files(&root.join("docs"), "md");
    for name in ["README.md", "CONTRIBUTING.md"] {
        pages.push((name.to_owned(), fs::read_to_string(root.join(name)).expect("a page")));
    }
    for (file, text) in &pages {
        let mut fenced = false;
        for (i, line) in text.lines().enumerate() {
            fenced ^= line.trim_start().starts_with("```");
            check(file, i + 1, line, fenced);
        }
        let keys = recipe_blocks(text).into_iter().filter(|(_, key)| !known.keys.contains(key));
        blocks.extend(keys.map(|(line, key)| format!("{file}:{line}: {key} is no key of a recipe")));
    }
    wrong.append(&mut blocks);
    assert!(sources.len() > 50 && pages.len() > 5 && checked > 300, "{checked}");
    assert!(wrong.is_empty(), "{} of {checked}:\n{}", wrong.len(), wrong.join("\n"));
}

/// The test above finds what is planted, and nothing in what is right.
#[test]
fn a_planted_name_is_found() {
    let known = Known::new();
    let planted = [
        ("use --frehs to start over", "--frehs is no option"),
        ("lower train.batchsize", "train.batchsize is no key"),
        ("set `optim.learning_rate = 1e-5`.", "optim.learning_rate is no key"),
        ("see `tempra halp`", "`tempra halp` is no command"),
        ("`tempra data chek x.csv`", "`tempra data chek` is no command"),
        ("`tempra help recipes` lists them", "`tempra help recipes` explains nothing"),
        ("`tempra train recipe.toml --max-length 3`", "`tempra train` has no option --max-length"),
        ("Examples:\n  tempra predcit m x.csv", "`tempra predcit` is no command"),
        ("tempra predict m x.csv --fresh | head", "`tempra predict` has no option --fresh"),
    ];
    for (text, what) in planted {
        assert!(
            known.missing(text, true).iter().any(|w| w.starts_with(what)),
            "{text}: {:?}",
            known.missing(text, true)
        );
    }
    let right = [
        "--fresh starts over; lower train.batch_size or optim.lr.",
        "`tempra help recipe optim.lr`, `tempra help data check`, `tempra help` and `tempra help COMMAND`",
        "read train.csv, data.jsonl and model.safetensors; self.data.rows, bert.model.weight, loss.backward(), a -- b, ---",
        "  tempra train recipe.toml --set optim.lr=3e-5 --fresh 2>&1 | head --lines",
        "tempra trains a model, and `tempra` is a program",
    ];
    for text in right {
        let wrong: Vec<String> =
            known.missing(text, false).into_iter().filter(|w| !w.contains("--lines")).collect();
        assert!(wrong.is_empty(), "{text}: {wrong:?}");
    }
    let source = "let a = \"one \\\n   --two\\n\"; // \"no\"\nlet c = '\"'; let r = r#\"a \"--b\" c\"#;\n#[cfg(test)]\nmod tests { \"--never\" }";
    assert_eq!(literals(source), [(1, "one --two\n".to_owned()), (3, "a \"--b\" c".to_owned())]);
    let page =
        "```toml\n[optim]\nlr = 1\nrate = 2\n```\n```toml\n[dependencies]\ntempra = 1\n```\n[x]\ny = 1\n";
    assert_eq!(recipe_blocks(page), [(3, "optim.lr".to_owned()), (4, "optim.rate".to_owned())]);
    assert_eq!(documentation("/// a\n/// ```\n/// b.c\n/// ```\nlet d; //! no\n  //! e").len(), 2);
}

#[test]
fn near_words_are_suggested_and_far_ones_not() {
    let words = ["epochs", "batch_size", "lr", "seed"];
    for (word, expected) in [
        ("epoch", Some("epochs")),
        ("EPOCHS", Some("epochs")),
        ("batch-size", Some("batch_size")),
        ("bacth_sise", Some("batch_size")),
        (" Seed ", Some("seed")),
        ("rl", Some("lr")),
        ("sede", Some("seed")),
        ("colour", None),
        ("", None),
        ("x", None),
    ] {
        assert_eq!(nearest(word, words), expected, "{word}");
    }
    assert_eq!(nearest(&"a".repeat(1_000_000), words), None);
}
