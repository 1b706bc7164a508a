//! The pretrained model that a recipe names, and how many tokens the texts have with it.

use super::super::options::text;
use super::Length;
use super::survey::count_words;
use super::write::written;
use crate::cache;
use crate::checkpoint::read_json;
use crate::error::{Error, Result};
use crate::models::source::{self, Env};
use crate::models::{ARCHITECTURES, Architecture};
use crate::predict::{tokenizer, vector_tokenizer};
use crate::text::Tokenizer;
use crate::train::recipe::TaskKind;
use clap::ArgMatches;
use std::path::{Path, PathBuf};

/// The default: 22 million parameters, which a CPU fine-tunes in minutes. `examples/quickstart` fetches it to
/// the cache.
pub const MODEL: &str = "sentence-transformers/all-MiniLM-L6-v2";
const FETCHED: &str = "all-MiniLM-L6-v2";
/// Tokens a word, where no tokenizer counts.
const TOKENS_PER_WORD: f64 = 1.4;
/// The longest sequence that is proposed.
const LONGEST: usize = 512;
/// Tokens of a piece of raw text.
const PIECE: usize = 128;
/// Tokens that the windows of a long sentence share, as `data.stride` by default.
const STRIDE: usize = 32;
/// A model for texts that are not English.
const MULTILINGUAL: &str = "FacebookAI/xlm-roberta-base";
/// Texts with a larger share of letters from other alphabets than the Latin one are not English.
const FOREIGN: f64 = 0.3;
/// Texts that are looked at to tell their alphabet.
const SAMPLE: usize = 1000;
/// Texts that a tokenizer encodes at once.
const CHUNK: usize = 4096;

/// The model as the recipe names it.
pub struct Chosen {
    /// Its folder, or org/name.
    pub path: String,
    /// The reason.
    pub why: String,
    /// What a person should know about this model for the task.
    pub notes: Vec<String>,
    /// Whether it is the default, which knows English alone.
    english: bool,
    /// The command that fetches it, if it is not on this machine.
    pub fetch: Option<String>,
    /// Its folder, if it is on this machine.
    folder: Option<PathBuf>,
}

/// `--model`; else the model that `examples/quickstart` has fetched; else its name with the command that
/// fetches it.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) for a model that is not there or that cannot do the task.
pub fn choose(matches: &ArgMatches, task: TaskKind, recipe: &Path) -> Result<Chosen> {
    let Some(name) = text(matches, "model") else { return Ok(default(task)) };
    let dir = source::resolve(name)?;
    let architecture = architecture(&dir);
    let outputs = task.entry().language().map(|language| (language.outputs)());
    let able = |a: &Architecture| outputs.as_ref().is_none_or(|outputs| a.supports(outputs));
    if architecture.is_some_and(|a| !able(a)) {
        let names: Vec<&str> = ARCHITECTURES.iter().filter(|a| able(a)).map(|a| a.model_type).collect();
        return Err(Error::model(format!("the model cannot do task {:?}", task.name()))
            .at(&dir)
            .with_expected(format!("an architecture among {}", names.join(", ")))
            .with_found(architecture.map_or("", |a| a.model_type))
            .with_help("name another model with --model"));
    }
    // With a dot in front it cannot be taken for org/name.
    let path = match written(Path::new(name), recipe) {
        _ if !Path::new(name).is_dir() => name.to_owned(),
        whole if Path::new(&whole).is_absolute() => whole,
        below => format!("./{below}"),
    };
    Ok(Chosen {
        path,
        why: format!("{name}, chosen by --model"),
        notes: Vec::new(),
        english: false,
        fetch: None,
        folder: Some(dir),
    })
}

fn default(task: TaskKind) -> Chosen {
    let language = task.entry().language();
    let name = language.and_then(|language| language.model).unwrap_or(MODEL);
    let note = match task {
        _ if language.is_some() && name == MODEL => Some(
            "the model has no masked-LM head, so the head starts from random values; google-bert/bert-base-uncased has one",
        ),
        TaskKind::Tag => Some(
            "the model ignores upper case, which marks names; a cased model such as google-bert/bert-base-cased may score higher",
        ),
        _ => None,
    };
    let notes: Vec<String> = note.into_iter().map(str::to_owned).collect();
    let english = true;
    let cached = cache::dir().map(|d| d.join(FETCHED)).filter(|d| name == MODEL && is_whole(d));
    if let Some(dir) = cached {
        let path = std::path::absolute(&dir).unwrap_or_else(|_| dir.clone()).to_string_lossy().into_owned();
        return Chosen {
            why: format!("{path}, small and quick"),
            path,
            notes,
            english,
            fetch: None,
            folder: Some(dir),
        };
    }
    let offline = Env { offline: true, ..Env::from(|name| std::env::var(name).ok()) };
    if let Ok(dir) = source::resolve_in(name, &offline) {
        let why = format!("{name}, from the cache of the Hugging Face Hub");
        return Chosen { path: name.to_owned(), why, notes, english, fetch: None, folder: Some(dir) };
    }
    let why = format!("{name}, which is not on this machine; --model names another");
    Chosen {
        path: name.to_owned(),
        why,
        notes,
        english,
        fetch: Some(format!("hf download {name}")),
        folder: None,
    }
}

fn is_whole(dir: &Path) -> bool {
    ["config.json", "model.safetensors", "tokenizer.json"].iter().all(|name| dir.join(name).is_file())
}

fn architecture(dir: &Path) -> Option<&'static Architecture> {
    let config = read_json(&dir.join("config.json"), 1 << 24).ok()?;
    let name = config.get("model_type")?.as_str()?.to_owned();
    ARCHITECTURES.iter().find(|a| a.model_type == name)
}

/// How long sequences are, with the reason, and how many of them there are.
pub struct ChosenLength {
    /// `data.max_length`.
    pub max_length: usize,
    /// `data.stride`, where the default does not fit.
    pub stride: Option<usize>,
    /// The reason for the length.
    pub why: String,
    /// Sequences that a pass over the data has, about.
    pub sequences: usize,
}

impl Chosen {
    /// Notes that the default model knows English alone, if the texts have other letters.
    pub fn note_language(&mut self, length: &Length) {
        let texts: Vec<&str> = match length {
            Length::Rows(texts) | Length::Sentences(texts) => texts.iter().map(|(t, _)| t.as_str()).collect(),
            Length::Pieces(texts) => texts.iter().map(String::as_str).collect(),
            Length::Windows { .. } => Vec::new(),
        };
        let letters = || texts.iter().take(SAMPLE).flat_map(|t| t.chars()).filter(|c| c.is_alphabetic());
        let foreign = letters().filter(|c| *c > '\u{24F}').count() as f64;
        if self.english && foreign > FOREIGN * letters().count() as f64 {
            let name = MULTILINGUAL;
            self.notes.push(format!(
                "the model was trained on English texts, and these are not: try --model {name}"
            ));
        }
    }

    /// What 99 % of the texts need, in steps of 16, as far as the model goes; of raw text and contexts a
    /// usual length.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn choose_length(&self, task: TaskKind, length: &Length, examples: usize) -> Result<ChosenLength> {
        let counter = match &self.folder {
            None => None,
            Some(dir) if task == TaskKind::Similar => {
                vector_tokenizer(dir).map(|(tokenizer, positions, _)| Some((tokenizer, positions)))?
            }
            Some(dir) => Some(tokenizer(dir)?),
        };
        let positions = counter.as_ref().map_or(LONGEST, |(_, positions)| *positions);
        let tokenizer = counter.as_ref().map(|(tokenizer, _)| tokenizer);
        let how = match tokenizer {
            Some(_) => "counted with the model's tokenizer",
            None => "estimated from the words, since the model's tokenizer is missing",
        };
        let chosen = |max_length, stride, why, sequences| ChosenLength { max_length, stride, why, sequences };
        match length {
            Length::Windows { length, stride } => {
                let fits = (*length).min(positions);
                let why = format!(
                    "usual for contexts; longer ones are read in windows that share {} tokens",
                    (*stride).min(fits / 3)
                );
                Ok(chosen(fits, Some((*stride).min(fits / 3)), why, examples))
            }
            Length::Pieces(texts) => {
                let items: Vec<(&str, Option<&str>)> = texts.iter().map(|t| (t.as_str(), None)).collect();
                let fits = PIECE.min(positions);
                let pieces = count(tokenizer, &items)?.iter().map(|n| n.div_ceil(fits)).sum();
                let why = format!("longer texts are cut into pieces; about {pieces} pieces ({how})");
                Ok(chosen(fits, None, why, pieces))
            }
            Length::Rows(texts) | Length::Sentences(texts) => {
                let apart = task == TaskKind::Similar;
                let mut items: Vec<(&str, Option<&str>)> = Vec::with_capacity(texts.len());
                for (text, pair) in texts {
                    items.push((text, pair.as_deref().filter(|_| !apart)));
                    items.extend(pair.as_deref().filter(|_| apart).map(|pair| (pair, None)));
                }
                let mut lengths = count(tokenizer, &items)?;
                lengths.sort_unstable();
                let rank = |p: usize| {
                    lengths
                        .get((lengths.len() * p).div_ceil(100).saturating_sub(1))
                        .copied()
                        .unwrap_or_default()
                };
                let (p99, longest) = (rank(99), rank(100));
                let length = p99.max(1).div_ceil(16).saturating_mul(16).min(LONGEST.min(positions));
                let cut = lengths.iter().filter(|n| **n > length).count();
                let windows = task == TaskKind::Tag;
                let cut = match cut {
                    0 => "none is cut".to_owned(),
                    n if windows => format!("{n} are read in windows"),
                    n => format!("{n} texts are cut"),
                };
                let why = format!(
                    "99 % of the texts have {p99} tokens or fewer, the longest {longest}; {cut} ({how})"
                );
                let stride = (windows && length < 2 * STRIDE).then_some(length / 4);
                Ok(chosen(length, stride, why, examples))
            }
        }
    }
}

/// The tokens of each text with the special ones; estimated without a tokenizer.
fn count(tokenizer: Option<&Tokenizer>, items: &[(&str, Option<&str>)]) -> Result<Vec<usize>> {
    let Some(tokenizer) = tokenizer else {
        let words = |s: &str| count_words(s) * TOKENS_PER_WORD;
        let one = |(text, pair): &(&str, Option<&str>)| {
            (words(text) + pair.map_or(0.0, |p| words(p) + 1.0) + 2.0).ceil() as usize
        };
        return Ok(items.iter().map(one).collect());
    };
    let mut lengths = Vec::with_capacity(items.len());
    for chunk in items.chunks(CHUNK) {
        // No text has so many tokens, so none is cut.
        let encoded = tokenizer.encode_batch(chunk, u32::MAX as usize)?;
        lengths.extend(encoded.iter().map(|e| e.ids.len()));
    }
    Ok(lengths)
}
