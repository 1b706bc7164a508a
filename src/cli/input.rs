//! What `tempra predict` reads: a file, or texts given on the command line.

use super::options::text;
use crate::data::{
    Columns, Format, OnBadRow, Question, Records, TaggedText, check_last_column, read_questions, read_texts,
};
use crate::error::{Error, Kind, Result};
use crate::models::Outputs;
use crate::predict::Session;
use clap::ArgMatches;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

/// The columns of texts from the command line.
const COLUMNS: [&str; 2] = ["text", "pair"];

/// What is predicted.
#[derive(Clone, Debug, PartialEq)]
pub enum Input<'a> {
    /// A file; `-` is standard input.
    File(&'a str),
    /// Texts of `--sentence`, each with its second text of `--pair` where they are given.
    Texts(Vec<(&'a str, Option<&'a str>)>),
    /// Questions of `--question` with their contexts of `--context`.
    Questions(Vec<(&'a str, &'a str)>),
}

fn all<'a>(matches: &'a ArgMatches, id: &str) -> Vec<&'a str> {
    matches.get_many::<String>(id).into_iter().flatten().map(String::as_str).collect()
}

/// An error about the number of times that an option is given.
fn count(option: &str, n: usize, rule: &str, example: &str) -> Error {
    let times = if n == 1 { "once".to_owned() } else { format!("{n} times") };
    Error::usage(format!("{option} is given {times}"))
        .with_expected(rule)
        .with_help(format!("for example: {example}"))
}

impl<'a> Input<'a> {
    /// The input that the command line names.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it names none or several, or if texts lack their partners.
    pub fn of(matches: &'a ArgMatches) -> Result<Self> {
        let [sentences, pairs, questions, contexts] =
            ["sentence", "pair", "question", "context"].map(|id| all(matches, id));
        let file = text(matches, "input");
        let kinds = [
            file.map(|_| "INPUT"),
            sentences.first().map(|_| "--sentence"),
            questions.first().or(contexts.first()).map(|_| "--question"),
        ];
        match kinds.into_iter().flatten().collect::<Vec<_>>().as_slice() {
            [] => {
                return Err(Error::usage("nothing to predict is given")
                    .with_expected("one of INPUT (a file), --sentence or --question")
                    .with_help(
                        "name a file, or give a text: tempra predict MODEL --sentence \"A fine film.\"",
                    ));
            }
            [_] => {}
            several => {
                return Err(Error::usage(format!("{} are given together", several.join(" and ")))
                    .with_expected("one of INPUT (a file), --sentence or --question")
                    .with_help("run the command once for each"));
            }
        }
        if let Some(file) = file {
            return match pairs.len() {
                0 | 1 => Ok(Self::File(file)),
                n => Err(count("--pair", n, "one column of the file", "--pair hypothesis")),
            };
        }
        if !sentences.is_empty() {
            let pair = match pairs.len() {
                0 => None,
                n if n == sentences.len() => Some(pairs),
                n => {
                    let rule = format!("one second text for each --sentence: {}", sentences.len());
                    return Err(count(
                        "--pair",
                        n,
                        &rule,
                        "--sentence \"It rains.\" --pair \"The sun shines.\"",
                    ));
                }
            };
            let second = |i: usize| pair.as_ref().and_then(|pair| pair.get(i).copied());
            return Ok(Self::Texts(sentences.iter().enumerate().map(|(i, &s)| (s, second(i))).collect()));
        }
        let example = "--question \"Who went to Paris?\" --context \"Alice went to Paris.\"";
        if questions.is_empty() {
            return Err(count("--question", 0, "one question for each --context", example));
        }
        if ![1, questions.len()].contains(&contexts.len()) {
            let rule = match questions.len() {
                1 => "one text for the question".to_owned(),
                n => format!("one text for all questions, or one for each of the {n}"),
            };
            return Err(count("--context", contexts.len(), &rule, example));
        }
        for (option, texts) in [("--question", &questions), ("--context", &contexts)] {
            if texts.iter().any(|text| text.trim().is_empty()) {
                return Err(Error::usage(format!("{option} is empty")).with_expected("a text"));
            }
        }
        let context = |i: usize| contexts.get(i).or(contexts.first()).copied().unwrap_or_default();
        Ok(Self::Questions(questions.iter().enumerate().map(|(i, &q)| (q, context(i))).collect()))
    }

    /// The file that is read, if there is one.
    pub fn file(&self) -> Option<&'a Path> {
        match self {
            Self::File(file) => Some(Path::new(*file)),
            _ => None,
        }
    }

    /// Whether the texts come from the command line.
    pub fn direct(&self) -> bool {
        self.file().is_none()
    }

    /// Checks that the head of the model reads such an input, and says which columns hold it.
    ///
    /// # Errors
    /// [`Kind::Usage`] for questions to a model that answers none, for a sentence where it needs a question,
    /// and for a missing second text.
    pub fn columns(&self, session: &Session) -> Result<Columns> {
        let (folder, outputs) = (&session.folder, session.outputs());
        let wrong = |what: &str, help: &str| Err(Error::usage(what).at(&folder.dir).with_help(help));
        let columns = match self {
            Self::File(_) => folder.columns.clone(),
            Self::Questions(_) if *outputs == Outputs::Span => return Ok(folder.columns.clone()),
            Self::Questions(_) => {
                return wrong(
                    "--question is given, but the model does not answer questions",
                    "give the text as --sentence TEXT",
                );
            }
            Self::Texts(_) if *outputs == Outputs::Span => {
                return wrong(
                    "--sentence is given, but the model answers questions about a text",
                    "give --question QUESTION --context TEXT",
                );
            }
            Self::Texts(texts) => Columns {
                text: COLUMNS[0].to_owned(),
                pair: texts.iter().any(|(_, pair)| pair.is_some()).then(|| COLUMNS[1].to_owned()),
                label: None,
                weight: None,
            },
        };
        let option = if self.direct() { "--pair TEXT" } else { "--pair COLUMN" };
        match (outputs, &columns.pair) {
            (Outputs::Embedding, None) => wrong(
                "the model compares two texts, but only one is given",
                &format!("add the second text with {option}; `tempra embed` writes the vector of each text"),
            ),
            (Outputs::Pretraining(_), None) => wrong(
                "the model predicts whether a second text follows the first, but only one is given",
                &format!("add the second text with {option}"),
            ),
            (Outputs::Classes(_) | Outputs::Labels(_) | Outputs::Number, None)
                if self.direct() && folder.metadata.pair_column().is_some() =>
            {
                wrong(
                    "the model was trained on pairs of texts, but only one text is given",
                    &format!("add the second text with {option}"),
                )
            }
            _ => Ok(columns),
        }
    }

    /// The table of texts, with all columns of a file.
    ///
    /// # Errors
    /// Those of [`read_texts`].
    pub fn records(&self, format: Option<&str>, columns: &Columns) -> Result<Records> {
        let input = match self {
            Self::File(input) => *input,
            Self::Texts(texts) => {
                // The same reader as that of files: the same text gives the same prediction.
                let line = |(text, pair): &(&str, Option<&str>)| match pair {
                    Some(pair) => format!("{{\"text\": {}, \"pair\": {}}}", json!(text), json!(pair)),
                    None => json!({ "text": text }).to_string(),
                };
                let lines: Vec<String> = texts.iter().map(line).collect();
                let name = Path::new("--sentence");
                return Records::from_reader(lines.join("\n").as_bytes(), name, Format::Jsonl, columns);
            }
            Self::Questions(_) => return Err(Error::usage("questions are no table of texts")),
        };
        let format = format.map(|name| match name {
            "tsv" => Format::Tsv,
            "json" => Format::Json,
            "jsonl" => Format::Jsonl,
            _ => Format::Csv,
        });
        match format {
            Some(format) if input != "-" => {
                let path = Path::new(input);
                let file = File::open(path).map_err(|e| Error::io(Kind::Data, "cannot open", path, &e))?;
                Records::from_reader(BufReader::new(file), path, format, columns)
            }
            format => read_texts(input, format, columns),
        }
    }

    /// The sentences of words for a tagger with these labels. A text is cut into words as one of JSON Lines.
    ///
    /// # Errors
    /// Those of reading the file, and of [`check_last_column`].
    pub fn sentences(&self, session: &Session, labels: &[String]) -> Result<Vec<TaggedText>> {
        let texts = match self {
            Self::File(path) => {
                return through_file(path, sentences_ending, |path| {
                    check_last_column(path, labels)?;
                    session.read_sentences(path, None)
                });
            }
            Self::Texts(texts) => texts,
            Self::Questions(_) => return Ok(Vec::new()),
        };
        let one = |((text, _), line): (&(&str, Option<&str>), u64)| session.sentence(text, line);
        texts.iter().zip(1..).map(one).collect()
    }

    /// The questions for a model that answers them.
    ///
    /// # Errors
    /// Those of reading the file.
    pub fn questions(&self) -> Result<Vec<Question>> {
        let questions = match self {
            Self::File(path) => {
                let read = |path: &Path| Ok(read_questions(path, false, OnBadRow::Stop)?.items);
                return through_file(path, |_| ".json", read);
            }
            Self::Questions(questions) => questions,
            Self::Texts(_) => return Ok(Vec::new()),
        };
        let one = |(&(question, context), line): (&(&str, &str), u64)| Question {
            id: line.to_string(),
            title: String::new(),
            context: context.into(),
            question: question.to_owned(),
            answers: Vec::new(),
            impossible: false,
            line,
        };
        Ok(questions.iter().zip(1..).map(one).collect())
    }
}

/// Reads a file with `read`, or standard input for `-`: its content goes through a temporary file, since
/// readers may read a file twice. `ending`: the ending of its name, by its content.
fn through_file<T>(
    input: &str,
    ending: fn(&[u8]) -> &'static str,
    read: impl FnOnce(&Path) -> Result<T>,
) -> Result<T> {
    if input != "-" {
        return read(Path::new(input));
    }
    let name = Path::new("standard input");
    let mut content = Vec::new();
    io::stdin().read_to_end(&mut content).map_err(|e| Error::io(Kind::Data, "cannot read", name, &e))?;
    let file = format!("tempra-{}{}", std::process::id(), ending(&content));
    let path = std::env::temp_dir().join(file);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    // Nobody else needs to read it.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&path).and_then(|mut file| file.write_all(&content));
    let found = match written {
        Ok(()) => read(&path).map_err(|e| e.at(name)),
        Err(e) => return Err(Error::io(Kind::Disk, "cannot write the temporary file", &path, &e)),
    };
    // A file that cannot be removed does not change the result.
    let _ = std::fs::remove_file(&path);
    found
}

/// The ending of a file of sentences: JSON Lines begin with an object.
fn sentences_ending(content: &[u8]) -> &'static str {
    let content = content.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(content);
    if content.trim_ascii_start().starts_with(b"{") { ".jsonl" } else { ".conll" }
}
