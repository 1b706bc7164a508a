//! A fine-tuned model with its tokenizer, and what training noted beside them: for `predict` and `eval`.

use super::options::{column, count, device_arg, open_device, text, threads_arg};
use super::style::Voice;
use crate::checkpoint::read_json;
use crate::data::{Columns, Label, Row, TokenSet, eval_batches};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::models::{Model, Options, encoder_shape, source};
use crate::tasks::for_each_logits;
use crate::text::Tokenizer;
use clap::{Arg, ArgMatches, Command};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What training notes in a model's folder: how the model was fed.
const NOTED: &str = "tempra.json";
/// The longest sequence where nothing says otherwise: what BERT was pretrained with.
const LONGEST: usize = 512;
/// Tokens of one forward pass where nothing says otherwise; as `train.max_tokens` of a recipe.
const MAX_TOKENS: usize = 8192;

/// How a model was fed in training, as far as its folder tells. What is not there or makes no sense is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// The longest sequence, in tokens.
    pub max_length: Option<usize>,
    /// The column of the text.
    pub text: Option<String>,
    /// The column of the second text.
    pub pair: Option<String>,
    /// The column of the label.
    pub label: Option<String>,
}

impl Noted {
    /// Reads `tempra.json` of a model folder; a file that cannot be read is warned of and counts as none.
    fn read(dir: &Path, voice: &Voice) -> Self {
        let path = dir.join(NOTED);
        if !path.exists() {
            return Self::default();
        }
        let value = read_json(&path, 1 << 20).unwrap_or_else(|e| {
            voice.warn(format!("{e}\n  the defaults are used instead of what it says"));
            Value::Null
        });
        let name = |key: &str| value.get(key)?.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        let length = value.get("max_length").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        Self {
            max_length: length.filter(|n| *n > 0),
            text: name("text"),
            pair: name("pair"),
            label: name("label"),
        }
    }
}

/// The model, and the options that say how it is fed.
pub fn with_model(command: Command) -> Command {
    let model = Arg::new("model").value_name("MODEL").required(true);
    command
        .arg(
            model.help(
                "Folder of a fine-tuned model (config.json, model.safetensors, tokenizer), or org/name",
            ),
        )
        .arg(column("text", "Column of the text [default: as in training, else text]"))
        .arg(column("pair", "Column of the second text of a pair; \"\" for none [default: as in training]"))
        .arg(count("max-length", "Longest sequence in tokens [default: as in training, else 512]"))
        .arg(count("max-tokens", "Tokens of one forward pass at most [default: 8192]"))
        .arg(device_arg())
        .arg(threads_arg())
}

/// A tokenizer, and the longest sequence its model has positions for.
///
/// # Errors
/// Of kind [`Model`](crate::error::Kind::Model): no config, one that tempra does not read, no tokenizer.
pub fn tokenizer(dir: &Path) -> Result<(Tokenizer, usize)> {
    let shape = encoder_shape(dir)?;
    Ok((Tokenizer::from_dir(dir, shape.vocab)?, shape.positions))
}

/// Everything but the weights, which are read last since they take longest.
pub struct Prepared {
    /// Where it computes.
    pub device: Device,
    /// The model's folder.
    pub dir: PathBuf,
    /// How it was fed in training.
    pub noted: Noted,
    /// The columns of text and pair; no label.
    pub columns: Columns,
    /// The longest sequence, in tokens.
    pub max_length: usize,
    tokenizer: Tokenizer,
    max_tokens: usize,
}

impl Prepared {
    /// Finds the device, the folder and the tokenizer, and settles the options.
    ///
    /// # Errors
    /// Those of the device, the folder and the tokenizer; [`Kind::Usage`](crate::error::Kind::Usage) for a
    /// `--max-length` beyond the model's positions.
    pub fn new(matches: &ArgMatches, voice: &Voice) -> Result<Self> {
        let device = open_device(matches)?;
        let dir = source::resolve(text(matches, "model").unwrap_or_default())?;
        let (tokenizer, positions) = tokenizer(&dir)?;
        let noted = Noted::read(&dir, voice);
        let number = |id| matches.get_one::<usize>(id).copied();
        let max_length = match number("max-length") {
            Some(n) if n > positions => {
                return Err(Error::usage("--max-length is beyond the model's positions")
                    .expected(format!("at most {positions}, what its config.json has positions for"))
                    .found(n.to_string()));
            }
            Some(n) => n,
            None => noted.max_length.unwrap_or(LONGEST).min(positions),
        };
        // An empty name says that there is none, even if training had one.
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
        Ok(Self { device, dir, noted, columns, max_length, tokenizer, max_tokens })
    }

    /// Reads the weights.
    ///
    /// # Errors
    /// Those of [`Model::open`]; a model without a fine-tuned head is one.
    pub fn model(&self) -> Result<Model> {
        Ok(Model::open(&self.device, &self.dir, &Options::default())?.0)
    }

    /// The tokens of rows.
    ///
    /// # Errors
    /// Those of [`TokenSet::build`].
    pub fn tokens(&self, rows: &[Row], labels: Vec<Label>) -> Result<TokenSet> {
        TokenSet::build(&self.tokenizer, rows, labels, self.max_length, None)
    }

    /// Runs the model over examples and hands the logits (outputs) of each to `each`, with the example's number; the
    /// order is that of the batches. Logits that are not finite are an error of kind `Model` and reach nobody.
    ///
    /// # Errors
    /// Those of the model and of `each`.
    pub fn logits(
        &self,
        model: &Model,
        set: &TokenSet,
        voice: &Voice,
        mut each: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let bar = voice.bar(set.len() as u64, "examples");
        let batches = eval_batches(set, self.max_tokens, 0)?;
        let done = for_each_logits(&self.device, model, &batches, |batch, logits| {
            for (row, &example) in logits.chunks_exact(model.outputs.len()).zip(&batch.examples) {
                if row.iter().any(|x| !x.is_finite()) {
                    return Err(Error::model("the model's result is not a finite number")
                        .at(&self.dir)
                        .found(format!("{row:?} for row {} of the data", example + 1))
                        .hint("the weights are broken: take an earlier checkpoint"));
                }
                each(example as usize, row)?;
            }
            bar.inc(batch.len() as u64);
            Ok(())
        });
        bar.finish_and_clear();
        done
    }

    /// How many examples lost tokens to `max_length`, in words; `None` if none did.
    pub fn cut(&self, set: &TokenSet) -> Option<String> {
        let cut = set.lost.iter().filter(|n| **n > 0).count();
        (cut > 0).then(|| format!("{cut} of {} texts were cut at {} tokens", set.len(), self.max_length))
    }
}
