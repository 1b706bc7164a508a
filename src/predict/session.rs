//! A model folder, opened to predict: tokenizer, metadata, weights on a device.

use crate::data::{Batch, Columns, TokenSet, eval_batches, micro_batches};
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::metrics::sigmoids;
use crate::models::{self, Model, Outputs, Pooling, encoder_shape, gives_vectors, sentence, source};
use crate::tasks::{EVALUATION, Meter, ModelMetadata, Search, Task, TaskMetadata, for_each_output};
use crate::text::Tokenizer;
use std::path::{Path, PathBuf};

/// The longest sequence by default: that of BERT's pretraining.
const LONGEST: usize = 512;

/// How a model predicts; the defaults are those of its training.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The head, for a model with several.
    pub head: Option<String>,
    /// The column of the text; `None`: as in training, else `text`.
    pub text: Option<String>,
    /// The column of the second text; `None`: as in training. An empty name: there is none.
    pub pair: Option<String>,
    /// The longest sequence in tokens; `None`: as in training, else 512. Longer texts are cut.
    pub max_length: Option<usize>,
    /// The most tokens of one forward pass.
    pub max_tokens: usize,
    /// The number of rows, sentences or questions that are read before their results are returned.
    pub chunk: usize,
    /// Whether a question may have no answer; `None`: as in training, else it may not.
    pub no_answer: Option<bool>,
    /// How the vectors of tokens become the vector of a text; `None`: as in training, else their mean.
    pub pooling: Option<Pooling>,
    /// Whether the vectors of texts are divided by their length; `None`: as a folder of sentence-transformers
    /// says, else yes.
    pub normalize: Option<bool>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            head: None,
            text: None,
            pair: None,
            max_length: None,
            max_tokens: 8192,
            chunk: 512,
            no_answer: None,
            pooling: None,
            normalize: None,
        }
    }
}

/// A tokenizer, and the longest sequence its model has positions for.
///
/// # Errors
/// [`Kind::Model`] for a folder without a config or a tokenizer, and for a config that tempra does not
/// support.
pub fn tokenizer(dir: &Path) -> Result<(Tokenizer, usize)> {
    let shape = encoder_shape(dir)?;
    Ok((Tokenizer::from_dir(dir, shape.vocab)?, shape.positions))
}

/// The same for a model that outputs vectors: with the text settings of sentence-transformers, and its
/// default length.
///
/// # Errors
/// As [`tokenizer`], and those of [`sentence::settings`].
pub fn vector_tokenizer(dir: &Path) -> Result<(Tokenizer, usize, Option<usize>)> {
    let (tokenizer, positions) = tokenizer(dir)?;
    let Some(settings) = sentence::settings(dir)? else { return Ok((tokenizer, positions, None)) };
    let longest = settings.longest.or(tokenizer.model_max_length()).unwrap_or(positions);
    Ok((tokenizer.for_vectors(settings.lowercase, &settings.prompt)?, positions, Some(longest)))
}

/// A model folder before its weights are read, which takes longest.
pub struct Folder {
    /// The folder.
    pub dir: PathBuf,
    /// How the task of the head was trained.
    pub metadata: TaskMetadata,
    /// Whether the model has several heads.
    pub several: bool,
    /// The columns of the text and of the second text; there is no label.
    pub columns: Columns,
    /// The longest sequence, in tokens.
    pub max_length: usize,
    /// The size of the vocabulary.
    pub vocab: usize,
    /// What is odd about the folder, in sentences.
    pub warnings: Vec<String>,
    settings: Settings,
    tokenizer: Tokenizer,
    vectors: bool,
}

impl Folder {
    /// Finds a model by its folder or as `org/name` in the local cache, and reads its tokenizer and metadata.
    ///
    /// # Errors
    /// Those of [`source::resolve`] and [`tokenizer`]; [`Kind::Usage`] for a head that the model does not
    /// have, and for a maximum length beyond the model's positions.
    pub fn open(model: &str, settings: Settings) -> Result<Self> {
        let dir = source::resolve(model)?;
        let vectors = gives_vectors(&dir);
        Self::of(dir, settings, (vectors, false))
    }

    /// The same for the vectors of texts, whatever head the model has.
    ///
    /// # Errors
    /// As [`Folder::open`].
    pub fn for_vectors(model: &str, settings: Settings) -> Result<Self> {
        Self::of(source::resolve(model)?, settings, (true, true))
    }

    /// `texts`: whether the tokenizer treats texts as sentence-transformers does. `vectors`: whether the head
    /// outputs vectors whatever the folder says.
    fn of(dir: PathBuf, settings: Settings, (texts, vectors): (bool, bool)) -> Result<Self> {
        let (tokenizer, positions, longest) = match texts {
            true => vector_tokenizer(&dir)?,
            false => {
                let (tokenizer, positions) = tokenizer(&dir)?;
                (tokenizer, positions, sentence::settings(&dir).ok().flatten().and_then(|s| s.longest))
            }
        };
        let vocab = encoder_shape(&dir)?.vocab;
        let mut warnings = Vec::new();
        let all = ModelMetadata::read(&dir).unwrap_or_else(|e| {
            warnings.push(format!("{e}\n  note: tempra uses the default settings instead"));
            ModelMetadata::default()
        });
        let metadata = all.of_head(settings.head.as_deref()).map_err(|e| e.at(&dir))?;
        let max_length = match settings.max_length {
            Some(n) if n > positions => {
                return Err(Error::usage(format!(
                    "--max-length ({n}) exceeds the model's positions ({positions})"
                ))
                .with_expected(format!("at most {positions}, by its config.json"))
                .with_help("lower --max-length, or leave it out"));
            }
            Some(n) => n,
            None => metadata.longest().or(longest).unwrap_or(LONGEST).min(positions),
        };
        // An empty name means no column, even if training had one.
        let name = |given: &Option<String>, trained: Option<&str>| match given {
            Some(given) => Some(given.clone()).filter(|s| !s.is_empty()),
            None => trained.map(str::to_owned),
        };
        let columns = Columns {
            text: name(&settings.text, metadata.text_column()).unwrap_or_else(|| "text".to_owned()),
            pair: name(&settings.pair, metadata.pair_column()),
            label: None,
            weight: None,
        };
        let several = all.several();
        Ok(Self {
            dir,
            metadata,
            several,
            columns,
            max_length,
            vocab,
            warnings,
            settings,
            tokenizer,
            vectors,
        })
    }

    /// Whether the model may give "no answer" to a question: as the settings say, else as its training did,
    /// else not.
    pub fn abstains(&self) -> bool {
        self.settings.no_answer.or(self.metadata.abstains()).unwrap_or(false)
    }

    /// The size of the weight files in bytes.
    ///
    /// # Errors
    /// [`Kind::Model`] if the folder cannot be read.
    pub fn weight_bytes(&self) -> Result<u64> {
        let unreadable =
            |e: std::io::Error| Error::io(Kind::Model, "cannot read the model folder", &self.dir, &e);
        let mut sum = 0;
        for file in std::fs::read_dir(&self.dir).map_err(unreadable)? {
            let file = file.map_err(unreadable)?;
            if file.path().extension().is_some_and(|e| e == "safetensors") {
                sum += std::fs::metadata(file.path()).map_err(unreadable)?.len();
            }
        }
        Ok(sum)
    }

    /// The settings of the search for answers, as in training.
    pub(super) fn search(&self) -> Search {
        self.metadata.search(self.abstains())
    }

    /// Reads the weights, and chooses the head.
    ///
    /// # Errors
    /// Those of [`Model::open`], such as a model without a fine-tuned head; [`Kind::Usage`] for a head that
    /// the model does not have.
    pub fn load(mut self, device: Device) -> Result<Session> {
        let options = models::Options {
            outputs: self.vectors.then_some(Outputs::Embedding),
            pooling: self.settings.pooling.filter(|_| self.vectors),
            ..models::Options::default()
        };
        let (model, report) = Model::open(&device, &self.dir, &options)?;
        self.warnings.extend(report.warnings.iter().map(|w| format!("{}: {w}", self.dir.display())));
        let head = if self.vectors { 0 } else { self.head(&model)? };
        Ok(Session { folder: self, device, model, head, progress: None })
    }

    fn head(&self, model: &Model) -> Result<usize> {
        let wanted = self.settings.head.as_deref();
        let heads = model.heads();
        heads.iter().position(|h| wanted.is_none_or(|name| h.name == name)).ok_or_else(|| {
            let names = heads.iter().map(|h| h.name.as_str()).filter(|n| !n.is_empty()).collect::<Vec<_>>();
            let e = Error::usage(format!("the model has no head {:?}", wanted.unwrap_or(""))).at(&self.dir);
            match names.is_empty() {
                true => e.with_help("leave out --head: the model has one head"),
                false => e.with_expected(format!("one of {}", names.join(", "))),
            }
        })
    }
}

/// A model on a device that predicts. The crate's page has an [example](crate#predict).
pub struct Session {
    /// Its folder.
    pub folder: Folder,
    device: Device,
    model: Model,
    head: usize,
    progress: Option<Progress>,
}

/// What is told how many examples of a chunk are done, and how many it has.
type Progress = Box<dyn Fn(usize, usize)>;

impl Session {
    /// Opens a model by its folder or as `org/name`.
    ///
    /// # Errors
    /// Those of [`Folder::open`] and [`Folder::load`].
    pub fn open(model: &str, device: Device, settings: Settings) -> Result<Self> {
        Folder::open(model, settings)?.load(device)
    }

    /// The same; `progress` is called after each forward pass with the number of examples of the chunk that
    /// are done, and the number that it has. An example is a row, or a window of a sentence or context.
    pub fn with_progress(self, progress: impl Fn(usize, usize) + 'static) -> Self {
        Self { progress: Some(Box::new(progress)), ..self }
    }

    /// The meaning of the head's outputs, with the names of its classes.
    pub fn outputs(&self) -> &Outputs {
        self.model.heads().get(self.head).map_or(&self.model.outputs, |head| &head.outputs)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.folder.tokenizer
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The width of the encoder's vectors.
    pub fn width(&self) -> usize {
        self.model.shape().hidden
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.folder.settings
    }

    /// Whether vectors of texts are divided by their length.
    pub(super) fn normalizes(&self) -> bool {
        self.settings().normalize.unwrap_or_else(|| self.model.normalizes())
    }

    /// The batches of a token set, for the head.
    pub(super) fn batches(&self, set: &TokenSet) -> Result<Vec<Batch>> {
        let mut batches = eval_batches(set, self.settings().max_tokens, 0)?;
        batches.iter_mut().for_each(|b| b.head = self.head);
        Ok(batches)
    }

    /// Runs the model over batches and passes the outputs of each to `each`. Outputs that are not finite are
    /// an error of kind `Model`; they are not passed on. `first`: the number of the first example in the
    /// data.
    pub(super) fn run(
        &self,
        batches: &[Batch],
        first: usize,
        mut each: impl FnMut(&Batch, &[Vec<f32>]) -> Result<()>,
    ) -> Result<()> {
        let sigmoid = self.model.sigmoid();
        let sigmoids =
            |logits: &[f32]| -> Vec<f32> { sigmoids(logits).into_iter().map(|p| p as f32).collect() };
        let (mut done, total) = (0, batches.iter().map(Batch::len).sum());
        for_each_output(&self.device, &self.model, batches, |batch, outputs| {
            if outputs.iter().flatten().any(|x| !x.is_finite()) {
                let example = batch.examples.first().map_or(0, |e| first as u64 + u64::from(*e) + 1);
                return Err(Error::model("the model's output is not finite: NaN or infinity")
                    .at(&self.folder.dir)
                    .with_found(format!("in the batch that starts with example {example} of the data"))
                    .with_help("the weights may be damaged: use an earlier checkpoint"));
            }
            match sigmoid {
                true => each(batch, &outputs.iter().map(|o| sigmoids(o)).collect::<Vec<_>>())?,
                false => each(batch, outputs)?,
            }
            done += batch.len();
            self.progress.iter().for_each(|progress| progress(done, total));
            Ok(())
        })
    }

    /// Runs the model over some examples of a labelled set, in passes of at most `max_tokens` tokens, and
    /// reads its outputs: what a benchmark times.
    ///
    /// # Errors
    /// Those of [`Session::score`]; [`Kind::Usage`] for an example that the set does not have.
    pub fn run_examples(
        &self,
        task: &dyn Task,
        set: &TokenSet,
        examples: &[u32],
        max_tokens: usize,
    ) -> Result<()> {
        for mut batch in micro_batches(set, examples, 1, Some(max_tokens), 0)? {
            batch.head = self.head;
            task.prepare(&mut batch, EVALUATION)?;
            for_each_output(&self.device, &self.model, &[batch], |_, _| Ok(()))?;
        }
        Ok(())
    }

    /// The number of elements of the model's parameters.
    pub fn parameters(&self) -> usize {
        self.model.params.count().0
    }

    /// Scores the model on labelled examples by their task; see [`Session::labelled`].
    ///
    /// # Errors
    /// Those of the task, its meter and the model's ops; [`Kind::Model`] for outputs that are not finite.
    pub fn score(&self, task: &dyn Task, set: &TokenSet) -> Result<Box<dyn Meter>> {
        let mut meter = task.meter(set);
        let mut batches = self.batches(set)?;
        batches.iter_mut().try_for_each(|batch| task.prepare(batch, EVALUATION))?;
        self.run(&batches, 0, |batch, outputs| meter.add(outputs, batch))?;
        Ok(meter)
    }

    /// An error of cutting texts into windows, with a remedy that does not name a key of a recipe.
    pub(super) fn window_error(e: Error) -> Error {
        match e.kind() {
            Kind::Usage if e.what().starts_with("a window of ") => {
                e.with_help("raise --max-length, or shorten the question")
            }
            _ => e,
        }
    }
}
