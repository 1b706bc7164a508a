//! A fine-tuned model with its tokenizer and the settings of its training (`tempra.json`): for `predict`, `eval` and `embed`.

use super::options::{column, count, device_arg, open_device, text, threads_arg};
use super::style::Voice;
use crate::checkpoint::read_json;
use crate::data::{Batch, Columns, Label, Row, TokenSet, eval_batches};
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::metrics::sigmoids;
use crate::models::{Model, Options, Outputs, encoder_shape, gives_vectors, sentence, source};
use crate::tasks::for_each_output;
use crate::text::Tokenizer;
use clap::{Arg, ArgMatches, Command};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The file in a model folder with the settings of its training.
const NOTED: &str = "tempra.json";
/// The longest sequence by default: that of BERT's pretraining.
const LONGEST: usize = 512;
/// Tokens of one forward pass by default; as `train.max_tokens` of a recipe.
const MAX_TOKENS: usize = 8192;

/// The settings of a model's training, as far as its folder has them. A missing or invalid value is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Noted {
    /// The longest sequence, in tokens.
    pub max_length: Option<usize>,
    /// The column of the text.
    pub text: Option<String>,
    /// The column of the second text.
    pub pair: Option<String>,
    /// The column of the label.
    pub label: Option<String>,
    /// Whether the model has several heads, with settings of their own.
    pub several: bool,
    /// The 0/1 columns of the classes, if each class has a column; then there is no other label.
    pub indicators: Vec<String>,
    /// The whole file.
    all: Value,
}

impl Noted {
    /// Reads `tempra.json` of a model folder. An unreadable file causes a warning and counts as missing.
    fn read(dir: &Path, head: Option<&str>, voice: &Voice) -> Result<Self> {
        let path = dir.join(NOTED);
        if !path.exists() {
            return Ok(Self::default());
        }
        let mut value = read_json(&path, 1 << 20).unwrap_or_else(|e| {
            voice.warn(format!("{e}\n  note: tempra uses the default settings instead"));
            Value::Null
        });
        let several = value.get("heads").is_some_and(Value::is_object);
        if let Some(heads) = value.get("heads").and_then(Value::as_object) {
            let names = heads.keys().cloned().collect::<Vec<_>>().join(", ");
            let Some(found) = head.and_then(|name| heads.get(name)).cloned() else {
                let what = match head {
                    Some(name) => format!("the model has no head {name:?}"),
                    None => "no head is chosen, but the model has several".to_owned(),
                };
                let first = heads.keys().next().map_or("NAME", String::as_str);
                return Err(Error::usage(what)
                    .at(dir)
                    .with_expected(format!("--head with one of {names}"))
                    .with_help(format!("for example: --head {first}")));
            };
            value = found;
        }
        let name = |key: &str| value.get(key)?.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        let indicators = value
            .get("label")
            .and_then(Value::as_array)
            .map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>());
        let length = value.get("max_length").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        Ok(Self {
            max_length: length.filter(|n| *n > 0),
            text: name("text"),
            pair: name("pair"),
            label: name("label"),
            several,
            indicators: indicators.unwrap_or_default(),
            all: value,
        })
    }
    /// The whole number of a key.
    pub fn count(&self, key: &str) -> Option<usize> {
        self.all.get(key)?.as_u64().and_then(|n| usize::try_from(n).ok())
    }
    /// The number of a key.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.all.get(key)?.as_f64()
    }
    /// The probability above which each class is predicted; `None` unless every class has one.
    pub fn thresholds(&self, classes: &[String]) -> Option<Vec<f64>> {
        let noted = self.all.get("thresholds")?;
        classes.iter().map(|class| noted.get(class)?.as_f64()).collect()
    }
    /// The separator of the classes of a row, as in training; a comma by default.
    pub fn separator(&self) -> String {
        self.word("separator").filter(|s| !s.is_empty()).unwrap_or_else(|| ",".to_owned())
    }
    /// Whether a key is true.
    pub fn flag(&self, key: &str) -> bool {
        self.all.get(key).and_then(Value::as_bool).unwrap_or(false)
    }
    /// Scores pairs by their labels divided by `label_scale` from now on, whatever the loss was.
    pub fn compare_with_labels(&mut self, label_scale: f64) {
        if !self.all.is_object() {
            self.all = Value::Object(serde_json::Map::new());
        }
        self.all["loss"] = "cosine".into();
        self.all["label_scale"] = label_scale.into();
    }
    /// Whether a key is true or false; `None` if it is missing.
    pub fn said(&self, key: &str) -> Option<bool> {
        self.all.get(key)?.as_bool()
    }
    /// The string of a key.
    pub fn word(&self, key: &str) -> Option<String> {
        self.all.get(key)?.as_str().map(str::to_owned)
    }
}

/// Adds the model, and the options for its input.
pub fn with_model(command: Command) -> Command {
    let model = Arg::new("model").value_name("MODEL").required(true);
    command
        .arg(
            model.help(
                "Folder of a fine-tuned model (config.json, model.safetensors, tokenizer), or org/name",
            ),
        )
        .arg(column("text", "Column of the text [default: as in training, else text]"))
        .arg(column("pair", "Column of the second text of a pair, \"\" for none [default: as in training]"))
        .arg(
            Arg::new("head")
                .long("head")
                .value_name("NAME")
                .help("Head to use if the model has several: the name of its task"),
        )
        .arg(count("max-length", "Longest sequence in tokens [default: as in training, else 512]"))
        .arg(count("max-tokens", "Maximum tokens of one forward pass [default: 8192]"))
        .arg(device_arg())
        .arg(threads_arg())
}

/// `--no-answer`: whether a question may stay without an answer.
pub fn no_answer_arg() -> Arg {
    Arg::new("no-answer").long("no-answer").value_name("WHEN").value_parser(["auto", "allow", "never"]).help(
        "Whether \"no answer\" may be given to a question; auto: as in training, or never if the model folder does not \
         say [default: auto]",
    )
}

/// A tokenizer, and the longest sequence its model has positions for.
///
/// # Errors
/// Of kind [`Model`](crate::error::Kind::Model): no config, one that tempra does not read, no tokenizer.
pub fn tokenizer(dir: &Path) -> Result<(Tokenizer, usize)> {
    let shape = encoder_shape(dir)?;
    Ok((Tokenizer::from_dir(dir, shape.vocab)?, shape.positions))
}

/// The same for a model that gives vectors: with the text settings of sentence-transformers, and its default length.
///
/// # Errors
/// As [`tokenizer`], and those of [`sentence::settings`].
pub fn vector_tokenizer(dir: &Path) -> Result<(Tokenizer, usize, Option<usize>)> {
    let (tokenizer, positions) = tokenizer(dir)?;
    let Some(settings) = sentence::settings(dir)? else { return Ok((tokenizer, positions, None)) };
    let longest = settings.longest.or(tokenizer.model_max_length()).unwrap_or(positions);
    Ok((tokenizer.for_vectors(settings.lowercase, &settings.prompt)?, positions, Some(longest)))
}

/// All that is prepared before the weights are read, which take longest.
pub struct Prepared {
    /// Where it computes.
    pub device: Device,
    /// The model's folder.
    pub dir: PathBuf,
    /// The settings of its training.
    pub noted: Noted,
    /// The columns of the text and the pair; there is no label.
    pub columns: Columns,
    /// The longest sequence, in tokens.
    pub max_length: usize,
    /// The size of the vocabulary.
    pub vocab: usize,
    tokenizer: Tokenizer,
    max_tokens: usize,
    head: Option<String>,
    /// `--no-answer`.
    pub no_answer: Option<String>,
}

impl Prepared {
    /// Opens the device, the folder and the tokenizer, and reads the options.
    ///
    /// # Errors
    /// Those of the device, the folder and the tokenizer; [`Kind::Usage`](crate::error::Kind::Usage) for a
    /// `--max-length` beyond the model's positions.
    pub fn new(matches: &ArgMatches, voice: &Voice) -> Result<Self> {
        let dir = source::resolve(text(matches, "model").unwrap_or_default())?;
        let vectors = gives_vectors(&dir);
        Self::of(matches, voice, dir, vectors)
    }

    /// The same for vectors, whatever head the model has.
    ///
    /// # Errors
    /// As [`Prepared::new`].
    pub fn for_vectors(matches: &ArgMatches, voice: &Voice) -> Result<Self> {
        let dir = source::resolve(text(matches, "model").unwrap_or_default())?;
        Self::of(matches, voice, dir, true)
    }

    fn of(matches: &ArgMatches, voice: &Voice, dir: PathBuf, vectors: bool) -> Result<Self> {
        let device = open_device(matches)?;
        let (tokenizer, positions, longest) = match vectors {
            true => vector_tokenizer(&dir)?,
            false => {
                let (tokenizer, positions) = tokenizer(&dir)?;
                (tokenizer, positions, sentence::settings(&dir).ok().flatten().and_then(|s| s.longest))
            }
        };
        let vocab = encoder_shape(&dir)?.vocab;
        let head = text(matches, "head").map(str::to_owned);
        let noted = Noted::read(&dir, head.as_deref(), voice)?;
        let number = |id| matches.get_one::<usize>(id).copied();
        let max_length = match number("max-length") {
            Some(n) if n > positions => {
                return Err(Error::usage(format!(
                    "--max-length ({n}) exceeds the model's positions ({positions})"
                ))
                .with_expected(format!("at most {positions}, by its config.json"))
                .with_help("lower --max-length, or leave it out"));
            }
            Some(n) => n,
            None => noted.max_length.or(longest).unwrap_or(LONGEST).min(positions),
        };
        // An empty name means no column, even if training had one.
        let name = |id, noted: &Option<String>| match text(matches, id) {
            Some(given) => Some(given.to_owned()).filter(|s| !s.is_empty()),
            None => noted.clone(),
        };
        let columns = Columns {
            text: name("text", &noted.text).unwrap_or_else(|| "text".to_owned()),
            pair: name("pair", &noted.pair),
            label: None,
        };
        let max_tokens = number("max-tokens").unwrap_or(MAX_TOKENS);
        let no_answer = text(matches, "no-answer").map(str::to_owned);
        Ok(Self { device, dir, noted, columns, max_length, vocab, tokenizer, max_tokens, head, no_answer })
    }

    /// Reads the weights, and warns about what is odd in them.
    ///
    /// # Errors
    /// Those of [`Model::open`]; a model without a fine-tuned head is one.
    pub fn model(&self, options: &Options, voice: &Voice) -> Result<Model> {
        let (model, report) = Model::open(&self.device, &self.dir, options)?;
        report.warnings.iter().for_each(|w| voice.warn(format!("{}: {w}", self.dir.display())));
        Ok(model)
    }

    /// The tokens of rows.
    ///
    /// # Errors
    /// Those of [`TokenSet::build`].
    pub fn tokens(&self, rows: &[Row], labels: Vec<Label>) -> Result<TokenSet> {
        TokenSet::build(&self.tokenizer, rows, labels, self.max_length, None)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The number of the chosen head, and its outputs.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a name that no head has, and for an option that the head does not have.
    pub fn head<'m>(&self, model: &'m Model) -> Result<(usize, &'m Outputs)> {
        let heads = model.heads();
        let wanted = self.head.as_deref();
        let found = heads.iter().position(|h| wanted.is_none_or(|name| h.name == name));
        let asked = found.map(|i| (i, &heads[i].outputs));
        if self.no_answer.is_some() && asked.is_some_and(|(_, outputs)| *outputs != Outputs::Span) {
            return Err(Error::usage("--no-answer is set, but the model does not answer questions")
                .at(&self.dir)
                .with_help("leave out --no-answer"));
        }
        asked.ok_or_else(|| {
            let names = heads.iter().map(|h| h.name.as_str()).filter(|n| !n.is_empty()).collect::<Vec<_>>();
            let e = Error::usage(format!("the model has no head {:?}", wanted.unwrap_or(""))).at(&self.dir);
            match names.is_empty() {
                true => e.with_help("leave out --head: the model has one head"),
                false => e.with_expected(format!("one of {}", names.join(", "))),
            }
        })
    }

    /// The batches of a token set, for a head.
    ///
    /// # Errors
    /// Those of [`eval_batches`].
    pub fn batches(&self, set: &TokenSet, head: usize) -> Result<Vec<Batch>> {
        let mut batches = eval_batches(set, self.max_tokens, 0)?;
        batches.iter_mut().for_each(|b| b.head = head);
        Ok(batches)
    }

    /// Runs the model over batches and passes the outputs of each to `each`. Outputs that are not finite are an error of kind
    /// `Model`; they are not passed on.
    ///
    /// # Errors
    /// Those of the model and of `each`.
    pub fn outputs(
        &self,
        model: &Model,
        batches: &[Batch],
        voice: &Voice,
        mut each: impl FnMut(&Batch, &[Vec<f32>]) -> Result<()>,
    ) -> Result<()> {
        let bar = voice.bar(batches.iter().map(|b| b.len() as u64).sum(), "examples");
        let sigmoid = model.sigmoid();
        let sigmoids =
            |logits: &[f32]| -> Vec<f32> { sigmoids(logits).into_iter().map(|p| p as f32).collect() };
        let done = for_each_output(&self.device, model, batches, |batch, outputs| {
            if outputs.iter().flatten().any(|x| !x.is_finite()) {
                let example = batch.examples.first().map_or(0, |e| e + 1);
                return Err(Error::model("the model's output is not finite: NaN or infinity")
                    .at(&self.dir)
                    .with_found(format!("in the batch that starts with example {example} of the data"))
                    .with_help("the weights may be damaged: use an earlier checkpoint"));
            }
            match sigmoid {
                true => each(batch, &outputs.iter().map(|o| sigmoids(o)).collect::<Vec<_>>())?,
                false => each(batch, outputs)?,
            }
            bar.inc(batch.len() as u64);
            Ok(())
        });
        bar.finish_and_clear();
        done
    }

    /// Runs the model over examples and passes the output of each to `each`, with the example's number, in the order of the
    /// batches. `which`: the number of the output, for a head with several.
    ///
    /// # Errors
    /// Those of [`Prepared::outputs`].
    pub fn rows(
        &self,
        model: &Model,
        set: &TokenSet,
        which: usize,
        voice: &Voice,
        mut each: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let (head, _) = self.head(model)?;
        self.outputs(model, &self.batches(set, head)?, voice, |batch, outputs| {
            let logits = outputs.get(which).map(Vec::as_slice).unwrap_or_default();
            let width = logits.len() / batch.len().max(1);
            let mut rows = logits.chunks_exact(width.max(1)).zip(&batch.examples);
            rows.try_for_each(|(row, &example)| each(example as usize, row))
        })
    }

    /// An error of cutting texts into windows, with the remedies that a command line has instead of those of a recipe.
    pub fn window_error(e: Error) -> Error {
        match e.kind() {
            Kind::Usage if e.what().starts_with("a window of ") => {
                e.with_help("raise --max-length, or shorten the question")
            }
            _ => e,
        }
    }

    /// A sentence on how many examples lost tokens to `max_length`; `None` if none did.
    pub fn cut(&self, set: &TokenSet) -> Option<String> {
        let cut = set.lost.iter().filter(|n| **n > 0).count();
        let were = if cut == 1 { "was" } else { "were" };
        (cut > 0).then(|| format!("{cut} of {} texts {were} cut at {} tokens", set.len(), self.max_length))
    }
}
