//! Architectures: a Hugging Face `config.json` and weight names in, an encoder with a head out. No kernels here.

mod albert;
pub mod architecture;
mod bert;
mod config;
mod decoder;
mod distilbert;
mod electra;
mod heads;
mod modernbert;
mod roberta;
mod rows;
pub mod sentence;
pub mod source;
mod weights;
mod xlnet;

pub use architecture::{ARCHITECTURES, Architecture};
pub use heads::NamedHead;
pub use rows::numbered;
pub use weights::LoadReport;

use crate::checkpoint::{NamedFile, TensorOut, Weights, changes};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Distance, Encoder, EncoderConfig, Inputs, PerformerConfig, Pooling, Sites};
use crate::params::{Bound, Layout, Param, Params};
use crate::shape::DType;
use crate::tape::{Tape, Var};
use config::Config;
use decoder::Decoder;
use heads::{LastActivation, Setting, Units};
use rows::HeadRows;
use serde_json::{Value, json};
use std::path::Path;

/// What a model's outputs mean; kept in `config.json` as `transformers` expects it.
#[derive(Clone, Debug, PartialEq)]
pub enum Outputs {
    /// One logit a class, with the classes' names.
    Classes(Vec<String>),
    /// One number.
    Number,
    /// One logit a class, each a decision of its own, with the classes' names.
    Labels(Vec<String>),
    /// One logit a tag for each token, with the tags' names.
    Tags(Vec<String>),
    /// For each token how much it looks like the start and the end of an answer.
    Span,
    /// A vector for each sequence.
    Embedding,
    /// For each token that is asked for one logit a token of the vocabulary.
    Tokens,
    /// For each query one logit a token of the vocabulary, of a model that was pretrained by permutations.
    Permuted,
    /// As [`Outputs::Tokens`], and whether a second text follows the first: two logits a sequence.
    Pretraining,
}

impl Outputs {
    /// How many numbers the head gives for each sequence or token; 0 where that is the model's width or vocabulary.
    pub fn len(&self) -> usize {
        match self {
            Outputs::Classes(names) | Outputs::Labels(names) | Outputs::Tags(names) => names.len(),
            Outputs::Number => 1,
            Outputs::Span => 2,
            Outputs::Embedding | Outputs::Tokens | Outputs::Permuted | Outputs::Pretraining => 0,
        }
    }
    /// Whether that number is not its own.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How to open a model.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the head gives; `None` takes it from the model, whose head must then be there.
    pub outputs: Option<Outputs>,
    /// Several heads with their names, or one without, in place of `outputs`; mostly empty.
    pub heads: Vec<(String, Outputs)>,
    /// How a sequence becomes one vector; `None` is what the model's config says, else the first token.
    pub pooling: Option<Pooling>,
    /// How tokens attend to each other; `None` is what the model's config says, else exactly.
    pub attention: Option<Attention>,
    /// Overrides the config's dropout of hidden states.
    pub dropout: Option<f32>,
    /// Overrides the config's dropout of attention probabilities.
    pub attention_dropout: Option<f32>,
    /// Overrides the config's dropout before the head.
    pub classifier_dropout: Option<f32>,
    /// Parameters whose names begin so are not trained.
    pub freeze: Vec<String>,
    /// Factor on the learning rate from each layer to the one below it.
    pub layer_lr_decay: f32,
    /// Seed of what the files do not hold.
    pub seed: u64,
    /// Whether gradients and moments get memory.
    pub training: bool,
    /// The element type; f64 is for proofs.
    pub dtype: DType,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            outputs: None,
            heads: Vec::new(),
            pooling: None,
            attention: None,
            dropout: None,
            attention_dropout: None,
            classifier_dropout: None,
            freeze: Vec::new(),
            layer_lr_decay: 1.0,
            seed: 0,
            training: false,
            dtype: DType::F32,
        }
    }
}

/// How tokens attend to each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Attention {
    /// By the softmax of all scores.
    Exact,
    /// By FAVOR+, an approximation that is linear in the length: random features (d ln d of them if not given), drawn anew every
    /// so many steps of training (0: never).
    Performer {
        /// How many features.
        features: Option<usize>,
        /// Steps.
        redraw: u64,
    },
}

impl Options {
    /// The shape with what the options override.
    fn over(&self, mut shape: EncoderConfig) -> EncoderConfig {
        shape.hidden_dropout = self.dropout.unwrap_or(shape.hidden_dropout);
        shape.attention_dropout = self.attention_dropout.unwrap_or(shape.attention_dropout);
        match self.attention {
            None => {}
            Some(Attention::Exact) => shape.performer = None,
            Some(Attention::Performer { features, redraw }) => {
                let fresh = PerformerConfig::of(shape.hidden / shape.heads, self.seed);
                // A model that was trained so goes on with its own features.
                let saved = shape.performer.filter(|p| features.is_none_or(|n| n == p.features));
                let features = features.unwrap_or(fresh.features);
                let chosen = saved.unwrap_or(PerformerConfig { features, ..fresh });
                shape.performer = Some(PerformerConfig { redraw, ..chosen });
            }
        }
        shape
    }
}

/// Whether the head that a folder was saved with gives vectors.
pub fn gives_vectors(dir: &Path) -> bool {
    let heads = Config::read(&dir.join("config.json")).and_then(|c| heads::of_config(&c));
    heads.is_ok_and(|heads| heads.iter().any(|(_, o)| *o == Outputs::Embedding))
}

/// The shape of the encoder in a folder, from its `config.json` alone.
pub fn encoder_shape(dir: &Path) -> Result<EncoderConfig> {
    Ok(read_config(dir)?.2)
}

fn read_config(dir: &Path) -> Result<(Config, &'static Architecture, EncoderConfig)> {
    let config = Config::read(&dir.join("config.json"))?;
    let kind = config.text("model_type")?;
    let known = || ARCHITECTURES.iter().map(|a| a.model_type);
    let Some(architecture) = ARCHITECTURES.iter().find(|a| a.model_type == kind) else {
        return Err(config
            .error(format!("model_type `{kind}` is not one that tempra reads"))
            .with_expected(known().collect::<Vec<_>>().join(", ")));
    };
    let mut shape = (architecture.read)(&config)?;
    shape.performer = config.performer()?;
    Ok((config, architecture, shape))
}

/// An encoder with a head, and their parameters on a device.
pub struct Model {
    /// The parameters.
    pub params: Params,
    /// What the outputs of the first head mean.
    pub outputs: Outputs,
    architecture: &'static Architecture,
    config: Value,
    shape: EncoderConfig,
    pooling: Pooling,
    encoder: Encoder,
    heads: Vec<NamedHead>,
    decoder: Decoder,
    /// What is done to texts and vectors besides, where the model gives vectors.
    sentence: sentence::Settings,
    sigmoid: bool,
}

impl Model {
    /// Opens a folder in the Hugging Face layout.
    ///
    /// Errors are of kind `Model`: a config out of range, an unknown `model_type`, tensors that are missing from the
    /// encoder or have another shape than the config says, weights that are not finite. Names and shapes are checked
    /// before anything is allocated.
    pub fn open(device: &Device, dir: &Path, options: &Options) -> Result<(Model, LoadReport)> {
        let (config, architecture, shape) = read_config(dir)?;
        let shape = options.over(shape);
        if shape.relative() && shape.performer.is_some() {
            return Err(config
                .error("attention = \"performer\" does not fit this model, whose scores depend on distances")
                .with_expected("attention = \"exact\" or \"auto\" for an XLNet"));
        }
        let head_dropout = match options.classifier_dropout {
            Some(p) => p,
            None => architecture.head_dropout(&config, &shape)?,
        };
        let trained = options.heads.is_empty() && options.outputs.is_none();
        let heads = match &options.outputs {
            _ if !options.heads.is_empty() => options.heads.clone(),
            Some(outputs) => vec![(String::new(), outputs.clone())],
            None => heads::of_config(&config)?,
        };
        let vectors = heads.iter().any(|(_, o)| *o == Outputs::Embedding);
        let says = |key: &str| config.value.get(key).and_then(Value::as_str);
        let noted = says("tempra_pooling").or(architecture.head.pooling.filter(|_| !vectors).and_then(says));
        let pooling = match (options.pooling, noted) {
            (Some(pooling), _) => pooling,
            (None, Some("mean")) => Pooling::Mean,
            // As sentence-transformers does, also where nothing is said.
            (None, None) if vectors => sentence::pooling(dir, shape.cls_last)?.unwrap_or(Pooling::Mean),
            _ => Pooling::Cls,
        };

        let span_dropout =
            options.classifier_dropout.map_or_else(|| architecture.span_dropout(&config), Ok)?;
        let sentence = if vectors { sentence::settings(dir)? } else { None };
        let files = Weights::open(dir)?;
        let decoder = Decoder::of(architecture, &config, &files)?;
        let setting = Setting {
            architecture,
            shape: &shape,
            pooling,
            dropout: head_dropout,
            span_dropout,
            decoder: &decoder,
        };
        let Declared { layout, body, mut encoder, heads } = declare(&setting, &heads, options)?;
        let layers = (architecture.tensor("encoder.layer."), shape.own_layers());
        let number = heads.first().is_some_and(|h| h.outputs == Outputs::Number);
        let activation = match number && config.value.get("tempra_heads").is_none() {
            true if trained => heads::last_activation(&config, dir)?,
            // One that tempra does not have is no plain number either.
            true => heads::last_activation(&config, dir).unwrap_or(LastActivation::Sigmoid),
            false => LastActivation::Identity,
        };
        let mut saved = heads::of_config(&config).ok();
        if activation == LastActivation::Sigmoid {
            // What was trained behind a sigmoid is a decision, not a number.
            saved.iter_mut().flatten().for_each(|(_, o)| *o = Outputs::Labels(vec!["LABEL_0".into()]));
        }
        let rows = HeadRows { saved, wanted: &heads };
        let (none, predicts) = (Decoder::default(), heads.iter().any(NamedHead::predicts_tokens));
        let used = if predicts { &decoder } else { &none };
        let names =
            weights::Names { prefix: architecture.prefix, body, whole: trained, layers, rows, decoder: used };
        let plan = weights::match_names(&files, &layout, &names, dir)?;
        let params = Params::new(device, layout, options.dtype, options.training)?;
        let std = config.optional_number("initializer_range")?.unwrap_or(0.02);
        let mut report = weights::fill(device, &params, &files, plan, options.seed, std)?;
        let changed = |what| format!("{what}; if that was intended, delete manifest.json");
        report.warnings.extend(changes(dir).into_iter().map(changed));
        report.warnings.extend(config.contradiction());
        report.warnings.extend(used.warning.clone());
        if options.training {
            report.hash = hash(&files, &config.value);
        }
        if trained && activation == LastActivation::Unsaid {
            report.warnings.push(
                "config.json does not say whether a sigmoid belongs behind its one output; the number is the model's own".into(),
            );
        }
        params.refresh(device)?;
        encoder.prepare(device, options.dtype)?;
        let config = config.value;
        let sigmoid = trained && activation == LastActivation::Sigmoid;
        let sentence = sentence.unwrap_or_default();
        Ok((Model { sigmoid, sentence, ..Model::new(params, config, setting, encoder, heads) }, report))
    }

    fn new(params: Params, config: Value, s: Setting, encoder: Encoder, heads: Vec<NamedHead>) -> Model {
        let outputs = heads.first().map_or(Outputs::Number, |h| h.outputs.clone());
        let Setting { architecture, shape, pooling, decoder, .. } = s;
        Model {
            params,
            outputs,
            architecture,
            config,
            shape: shape.clone(),
            pooling,
            encoder,
            heads,
            decoder: decoder.clone(),
            sentence: sentence::Settings::default(),
            sigmoid: false,
        }
    }

    /// A BERT of this shape, or an XLNet where positions are relative, with random weights, f32: for measuring, not for training.
    pub fn random(device: &Device, shape: &EncoderConfig, options: &Options) -> Result<Model> {
        let outputs = options.outputs.clone().unwrap_or(Outputs::Number);
        let heads =
            if options.heads.is_empty() { vec![(String::new(), outputs)] } else { options.heads.clone() };
        let shape = &options.over(shape.clone());
        let architecture = if shape.relative() { &xlnet::XLNET } else { &bert::BERT };
        let dropout = shape.hidden_dropout;
        let (pooling, span_dropout) = (Pooling::Mean, 0.0);
        let decoder = &Decoder::tied(architecture);
        let setting = Setting { architecture, shape, pooling, dropout, span_dropout, decoder };
        let Declared { layout, mut encoder, heads, .. } = declare(&setting, &heads, options)?;
        let params = Params::new(device, layout, DType::F32, options.training)?;
        weights::randomise(device, &params, options.seed)?;
        params.refresh(device)?;
        encoder.prepare(device, options.dtype)?;
        Ok(Model::new(params, Value::Null, setting, encoder, heads))
    }

    /// What `model_type` named.
    pub fn architecture(&self) -> &'static Architecture {
        self.architecture
    }
    /// The encoder's shape and settings.
    pub fn shape(&self) -> &EncoderConfig {
        &self.shape
    }
    /// Whether vectors are divided by their length, as sentence-transformers does it with this folder.
    pub fn normalizes(&self) -> bool {
        self.sentence.normalize
    }
    /// How a sequence becomes one vector.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Whether the model's number is the sigmoid of its output, as for most cross-encoders of `sentence-transformers`.
    pub fn sigmoid(&self) -> bool {
        self.sigmoid
    }

    /// The heads, mostly one.
    pub fn heads(&self) -> &[NamedHead] {
        &self.heads
    }

    /// Which of several heads a parameter belongs to; `None` for the encoder's, and where there is one head.
    pub fn head_of<'n>(&self, parameter: &'n str) -> Option<&'n str> {
        heads::owner(parameter)
    }

    /// Random features and their draw, where attention is approximated.
    pub fn performer(&self) -> Option<PerformerConfig> {
        self.encoder.performer()
    }
    /// To be called before a step of training: takes the random features that it has, where attention is approximated.
    pub fn begin_step(&self, device: &Device, step: u64) -> Result<()> {
        self.encoder.begin_step(device, step)
    }
    /// Goes back to what a saved folder's `config.json` says beside the weights: the draw of the random features.
    pub fn restore(&self, device: &Device, dir: &Path) -> Result<()> {
        if self.performer().is_none() {
            return Ok(());
        }
        let saved = Config::read(&dir.join("config.json"))?.performer()?;
        saved.map_or(Ok(()), |p| self.encoder.take_draw(device, p.draw))
    }
    /// How far approximated attention is from exact attention, layer by layer, over what `run` runs with this model; nothing if
    /// its attention is exact. What goes into a layer is what the approximated layers below it give.
    pub fn approximation(&self, run: impl FnOnce() -> Result<()>) -> Result<Vec<Distance>> {
        self.encoder.compared(run)
    }

    /// Lets the outputs of a head be in units of `scale` from `shift` on: what it gives from now on is y where it stands for
    /// `shift + scale y`. What was loaded of its last layer is converted: folders, those that [`Model::files`] writes too, are in
    /// original units. `initialised` are the parameters that were not loaded, and stay.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if there is no such head; those of the device.
    pub fn standardize(
        &mut self,
        device: &Device,
        head: usize,
        (shift, scale): (f64, f64),
        initialised: &[String],
    ) -> Result<()> {
        let missing = || Error::shape("a head that the model does not have").with_found(head.to_string());
        let units = Units { shift, scale };
        self.heads.get_mut(head).ok_or_else(missing)?.units = Some(units);
        let last = self.heads[head].last_layer.as_deref();
        let own = |p: &&Param| last == p.name.rsplit_once('.').map(|(stem, _)| stem);
        for p in self.params.layout().list.iter().filter(own).filter(|p| !initialised.contains(&p.name)) {
            let view = self.params.view(&self.params.value, p)?;
            let values = units.unfolded(device.read::<f32>(&view)?, p.name.ends_with(".bias"));
            device.write(&view, &values)?;
        }
        self.params.refresh(device)
    }
    /// In which units the output is that a parameter of a last layer makes; `None` for other parameters and original units.
    fn units(&self, parameter: &str) -> Option<Units> {
        let (stem, _) = parameter.rsplit_once('.')?;
        self.heads.iter().find(|h| h.last_layer.as_deref() == Some(stem))?.units
    }
    /// The parameters whose values in [`Model::files`] are others than those here: last layers in units of their own.
    pub fn converted(&self) -> impl Iterator<Item = &Param> {
        self.params.layout().list.iter().filter(|p| self.units(&p.name).is_some())
    }

    /// The encoder's hidden states (tokens, hidden) of a packed batch.
    pub fn hidden(&self, tape: &mut Tape, bound: &Bound, batch: &Inputs) -> Result<Var> {
        self.encoder.run(tape, bound, batch)
    }

    /// What the head that a packed batch is for gives: logits (sequences, outputs) of a classifier, logits (tokens, outputs) of
    /// tags and spans, vectors (sequences, hidden), logits (asked tokens, vocab) of a masked language model, behind which
    /// next-sentence prediction puts logits (sequences, 2).
    pub fn forward(&self, tape: &mut Tape, bound: &Bound, batch: &Inputs) -> Result<Vec<Var>> {
        let hidden = self.encoder.run(tape, bound, batch)?;
        let head = self.heads.get(batch.head).ok_or_else(|| {
            Error::shape("a batch for a head that the model does not have").with_found(batch.head.to_string())
        })?;
        head.run(tape, bound, batch, hidden)
    }

    /// The first of what the head gives.
    pub fn logits(&self, tape: &mut Tape, bound: &Bound, batch: &Inputs) -> Result<Var> {
        let outputs = self.forward(tape, bound, batch)?;
        outputs.first().copied().ok_or_else(|| Error::shape("a head without outputs"))
    }

    /// The `tokenizer_config.json` of a folder with this model, from the one that the tokenizer came with: it must ask
    /// transformers for all that the model reads.
    pub fn tokenizer_config(&self, bytes: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
        if !self.shape.relative() {
            return Ok(bytes.map(<[u8]>::to_vec));
        }
        let wrong = |e: serde_json::Error| {
            Error::model("tokenizer_config.json is not a JSON object").with_found(e.to_string())
        };
        let mut config: serde_json::Map<String, Value> =
            serde_json::from_slice(bytes.unwrap_or(b"{}")).map_err(wrong)?;
        // XLNet's tokenizer gives no segments unless it is told to, and without them the model computes something else.
        let names = json!(["input_ids", "token_type_ids", "attention_mask"]);
        config.entry("model_input_names").or_insert(names);
        config.entry("tokenizer_class").or_insert("XLNetTokenizer".into());
        serde_json::to_vec_pretty(&config).map(Some).map_err(wrong)
    }

    /// `config.json` and `model.safetensors` as `transformers` opens them, outputs in original units.
    pub fn files(&self, device: &Device) -> Result<Vec<NamedFile<'static>>> {
        let mut tensors = Vec::with_capacity(self.params.layout().list.len());
        for p in &self.params.layout().list {
            let values = device.read::<f32>(&self.params.view(&self.params.value, p)?)?;
            let values = match self.units(&p.name) {
                Some(units) => units.folded(values, p.name.ends_with(".bias")),
                None => values,
            };
            let values = p.to_file(values);
            let bytes: Vec<u8> = bytemuck::cast_slice(&values).to_vec();
            let mut put = |name: &str, bytes: Vec<u8>| {
                let (dtype, shape) = (DType::F32.into(), p.shape.clone());
                tensors.push(TensorOut { name: name.to_owned(), dtype, shape, bytes: bytes.into() });
            };
            if let Some(second) = self.decoder.written_twice(&p.name) {
                put(second, bytes.clone());
            }
            put(&p.name, bytes);
        }
        let mut text = serde_json::to_vec_pretty(&self.config())
            .map_err(|e| Error::model("config.json cannot be written").with_found(e.to_string()))?;
        text.push(b'\n');
        Ok(vec![NamedFile::bytes("config.json", text), NamedFile::tensors("model.safetensors", tensors)])
    }

    /// The files by which sentence-transformers opens a folder with this model; none if it gives no vectors, or others than
    /// sentence-transformers would: it does not approximate attention. `longest`: of a text, in tokens.
    pub fn sentence_files(&self, longest: usize) -> Vec<NamedFile<'static>> {
        let vectors = self.heads.iter().find_map(NamedHead::vectors);
        match vectors.filter(|_| self.performer().is_none()) {
            Some(pooling) => sentence::files(pooling, self.shape.hidden, longest, &self.sentence),
            None => Vec::new(),
        }
    }

    /// The config it was opened with, its head described as `transformers` does.
    fn config(&self) -> Value {
        let mut config = self.config.clone();
        let Some(map) = config.as_object_mut() else { return config };
        for stale in ["torch_dtype", "num_labels", "_name_or_path", "tempra_pooling", config::ATTENTION] {
            map.remove(stale);
        }
        map.insert("dtype".into(), "float32".into());
        if self.decoder.weight.is_some() && self.heads.iter().any(NamedHead::predicts_tokens) {
            map.insert("tie_word_embeddings".into(), false.into());
        }
        let mean = self.pooling == Pooling::Mean;
        let word = if mean { "mean" } else { "cls" };
        match self.architecture.head.pooling {
            _ if self.outputs == Outputs::Embedding => drop(map.insert("tempra_pooling".into(), word.into())),
            Some(key) => drop(map.insert(key.into(), word.into())),
            None if mean => drop(map.insert("tempra_pooling".into(), word.into())),
            None => {}
        }
        heads::describe(&self.heads, self.architecture, map);
        if let Some(p) = self.performer() {
            map.insert(config::ATTENTION.into(), config::performer_value(&p));
        }
        config
    }
}

/// The parameters of an encoder with a head, and the two that use them.
struct Declared {
    layout: Layout,
    /// How many of the parameters are the encoder's; the head's come after them.
    body: usize,
    encoder: Encoder,
    heads: Vec<NamedHead>,
}

/// Declares an encoder under BERT's names and gives its parameters those that the architecture has for them; then the heads.
fn declare(setting: &Setting, heads: &[(String, Outputs)], options: &Options) -> Result<Declared> {
    let (mut layout, mut sites) = (Layout::default(), Sites::default());
    let shape = setting.shape;
    let encoder = Encoder::declare(&mut layout, &mut sites, shape);
    let body = layout.list.len();
    for p in &mut layout.list {
        p.lr_scale = rate(&p.name, shape.own_layers(), options.layer_lr_decay);
        p.name = setting.architecture.tensor(&p.name);
    }
    let mut head = |(name, outputs): &(String, Outputs)| {
        setting.declare(&mut layout, &mut sites, &encoder, name, outputs)
    };
    let heads = heads.iter().map(&mut head).collect::<Result<Vec<_>>>()?;
    layout.freeze(&options.freeze)?;
    Ok(Declared { layout, body, encoder, heads })
}

/// Layer-wise learning rates: 1 for the head and what else stands above the layers, one factor more for each layer down,
/// and one for the embeddings.
fn rate(name: &str, layers: usize, decay: f32) -> f32 {
    let layer =
        name.strip_prefix("encoder.layer.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    let depth = match layer {
        Some(i) => layers.saturating_sub(i),
        None if name.starts_with("embeddings") => layers + 1,
        None => 0,
    };
    decay.powi(depth as i32)
}

/// Tells a model from another, by its weights and its config without what says nothing about its outputs.
fn hash(files: &Weights, config: &Value) -> String {
    let mut config = config.clone();
    if let Some(keys) = config.as_object_mut() {
        ["_name_or_path", "transformers_version"].iter().for_each(|key| drop(keys.remove(*key)));
    }
    blake3::hash(format!("{} {config}", files.hash()).as_bytes()).to_hex().to_string()
}
