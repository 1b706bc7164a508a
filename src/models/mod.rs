//! Architectures: builds an encoder with a head from a Hugging Face `config.json` and its weights. No kernels
//! here.

mod albert;
pub mod architecture;
mod bert;
mod config;
mod cut;
mod decoder;
mod distilbert;
mod electra;
mod folder;
mod heads;
mod layer_sizes;
mod modernbert;
mod options;
mod roberta;
mod rows;
pub mod sentence;
pub mod source;
mod unloaded;
mod weights;
mod xlnet;

pub use architecture::{ARCHITECTURES, Architecture, Pretraining};
pub use cut::{check_layers, resizable, resize};
pub use folder::{encoder_shape, folder_hash, gives_vectors, saved_outputs};
pub use heads::NamedHead;
pub use options::{Attention, Options};
pub use rows::numbered;
pub use unloaded::ModelShape;
pub use weights::LoadReport;

pub use crate::nn::{EncoderConfig, Pooling};

use crate::checkpoint::{NamedFile, TensorOut, Weights, changes};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Distance, DropoutIds, Encoder, Inputs, PerformerConfig, Projection, Taps};
use crate::params::{Bound, Layout, Param, Params};
use crate::shape::DType;
use crate::tape::{Tape, Var};
use config::Config;
use decoder::Decoder;
use folder::{hash, read_config};
use heads::{LastActivation, Setting, Units};
use rows::HeadRows;
use serde_json::{Value, json};
use std::path::Path;

/// The meaning of a model's outputs, kept in `config.json` in the form that `transformers` reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Outputs {
    /// Single-label classification: logits (sequences, classes), with the names of the classes.
    Classes(Vec<String>),
    /// Regression: one number a sequence.
    Number,
    /// Multi-label classification: independent logits (sequences, labels), with the names of the labels.
    Labels(Vec<String>),
    /// Token classification: logits (tokens, tags), with the names of the tags.
    Tags(Vec<String>),
    /// Question answering: start and end logits (tokens, 2).
    Span,
    /// Embedding: a vector (sequences, hidden).
    Embedding,
    /// Masked language modelling: logits (target positions, vocab).
    Tokens,
    /// Permutation language modelling: logits (queries, vocab).
    Permuted,
    /// Masked language modelling as in [`Outputs::Tokens`], and a classification of pairs of texts: logits
    /// (sequences, 2).
    Pretraining(PairObjective),
}

/// What the pairs of an encoder's pretraining are classified by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairObjective {
    /// Next-sentence prediction (Devlin et al. 2019): the second text follows the first (class 0) or is
    /// random (class 1).
    Next,
    /// Sentence-order prediction (Lan et al. 2020): the two texts are in order (class 0) or swapped (class
    /// 1).
    Order,
}

impl Outputs {
    /// The number of outputs for each sequence or token; 0 where it is the model's hidden size or vocabulary
    /// size.
    pub fn len(&self) -> usize {
        match self {
            Outputs::Classes(names) | Outputs::Labels(names) | Outputs::Tags(names) => names.len(),
            Outputs::Number => 1,
            Outputs::Span => 2,
            Outputs::Embedding | Outputs::Tokens | Outputs::Permuted | Outputs::Pretraining(_) => 0,
        }
    }
    /// Whether [`Outputs::len`] is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An encoder with a head, and their parameters on a device.
pub struct Model {
    /// The parameters.
    pub params: Params,
    /// The outputs of the first head.
    pub outputs: Outputs,
    architecture: &'static Architecture,
    config: Value,
    shape: EncoderConfig,
    pooling: Pooling,
    encoder: Encoder,
    heads: Vec<NamedHead>,
    /// To the width of a teacher's hidden states.
    projection: Option<Projection>,
    decoder: Decoder,
    /// How texts and vectors are treated, for a model that outputs embeddings.
    sentence: sentence::Settings,
    sigmoid: bool,
}

impl Model {
    /// Opens a model folder in the Hugging Face layout. Names and shapes are checked before anything is
    /// allocated.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) for a config that is not valid or not supported, missing
    /// tensors, tensors whose shape does not match the config, and weights that are not finite;
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has not enough memory.
    ///
    /// The crate's page has an [example](crate#predict).
    pub fn open(device: &Device, dir: &Path, options: &Options) -> Result<(Model, LoadReport)> {
        let (config, architecture, shape) = read_config(dir)?;
        // Layers with tensors of their own, of which ALBERT runs some more than once.
        let with_tensors = shape.layers.len();
        let trained = options.heads.is_empty() && options.outputs.is_none();
        let heads = match &options.outputs {
            _ if !options.heads.is_empty() => options.heads.clone(),
            Some(outputs) => vec![(String::new(), outputs.clone())],
            None => heads::of_config(&config)?,
        };
        let vectors = heads.iter().any(|(_, o)| *o == Outputs::Embedding);
        let model = ModelShape::read(&config, architecture, shape, options, dir, vectors)?;
        let sentence = if vectors { sentence::settings(dir)? } else { None };
        let files = Weights::open(dir)?;
        let model = model.with_decoder(&config, &files)?;
        let (setting, shape, decoder) = (model.setting(), &model.encoder, &model.decoder);
        let Declared { mut layout, body, mut encoder, heads, projection } =
            declare(&setting, &heads, options)?;
        layout.freeze(&options.freeze)?;
        layout.freeze_named(&options.unreached);
        let layers = (architecture.tensor("encoder.layer."), with_tensors);
        let number = heads.first().is_some_and(|h| h.outputs == Outputs::Number);
        let activation = match number && config.value.get("tempra_heads").is_none() {
            true if trained => heads::last_activation(&config, dir)?,
            // A new head is trained, so an unsupported activation is no error; but the saved head's output is
            // no plain number.
            true => heads::last_activation(&config, dir).unwrap_or(LastActivation::Sigmoid),
            false => LastActivation::Identity,
        };
        let mut saved = heads::of_config(&config).ok();
        if activation == LastActivation::Sigmoid {
            // A head trained with a sigmoid makes a yes/no decision; it cannot start a regression head.
            saved.iter_mut().flatten().for_each(|(_, o)| *o = Outputs::Labels(vec!["LABEL_0".into()]));
        }
        let rows = HeadRows { saved, wanted: &heads };
        let (none, predicts) = (Decoder::default(), heads.iter().any(NamedHead::predicts_tokens));
        let used = if predicts { decoder } else { &none };
        let (prefix, cut) = (architecture.prefix, options.layers.as_deref());
        let names = weights::Names { prefix, body, whole: trained, layers, cut, rows, decoder: used };
        let plan = weights::match_names(&files, &layout, &names, dir)?;
        layout.mask(&options.masking, &options.unreached);
        let params = Params::new(device, layout, options.dtype, options.training)?;
        let std = config.optional_number("initializer_range")?.unwrap_or(0.02);
        let mut report = weights::fill(device, &params, &files, plan, options.seed, std)?;
        let changes = changes(dir);
        if !changes.is_empty() {
            report.warnings.push(format!(
                "the model folder has changed since tempra wrote it: {}; if you changed it on purpose, delete manifest.json",
                changes.join("; ")
            ));
        }
        report.warnings.extend(config.contradiction());
        report.warnings.extend(used.warning.clone());
        if options.training {
            report.hash = hash(&files, &config.value);
        }
        if trained && activation == LastActivation::Unsaid {
            report.warnings.push(
                "config.json does not say whether to apply a sigmoid to the model's output; tempra returns the output without a sigmoid".into(),
            );
        }
        params.refresh(device)?;
        encoder.prepare(device, options.dtype)?;
        let mut config = config.value;
        if cut.is_some() {
            cut::resize(&mut config, architecture, shape.hidden, &shape.layers);
        }
        let sigmoid = trained && activation == LastActivation::Sigmoid;
        let sentence = sentence.unwrap_or_default();
        let opened = Model::new(params, config, setting, encoder, heads);
        Ok((Model { sigmoid, sentence, projection, ..opened }, report))
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
            projection: None,
            decoder: decoder.clone(),
            sentence: sentence::Settings::default(),
            sigmoid: false,
        }
    }

    /// The architecture.
    pub fn architecture(&self) -> &'static Architecture {
        self.architecture
    }
    /// The encoder's shape and settings.
    pub fn shape(&self) -> &EncoderConfig {
        &self.shape
    }
    /// The encoder, for a caller that runs it in parts; [`Model::hidden`] runs all of it.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }
    /// Whether sentence-transformers would normalize this folder's vectors to unit length.
    pub fn normalizes(&self) -> bool {
        self.sentence.normalize
    }
    /// How the tokens of a sequence are pooled into one vector.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Whether predictions apply a sigmoid to the model's single output, as most cross-encoders of
    /// `sentence-transformers` do.
    pub fn sigmoid(&self) -> bool {
        self.sigmoid
    }

    /// The heads; most models have one.
    pub fn heads(&self) -> &[NamedHead] {
        &self.heads
    }

    /// The name of the head that a parameter belongs to; `None` for the encoder's parameters and for a head
    /// without a name.
    pub fn head_of<'n>(&self, parameter: &'n str) -> Option<&'n str> {
        heads::owner(parameter)
    }

    /// Whether a parameter is one of the encoder's layers.
    pub fn is_in_layers(&self, parameter: &str) -> bool {
        let stem = self.architecture.tensor("encoder.layer.");
        parameter.contains(stem.strip_prefix(self.architecture.prefix).unwrap_or(&stem))
    }

    /// The settings of approximate attention; `None` for exact attention.
    pub fn performer(&self) -> Option<PerformerConfig> {
        self.encoder.performer()
    }
    /// Draws the random features of approximate attention for a training step. Call it before the step.
    ///
    /// # Errors
    /// Those of writing to the device.
    pub fn begin_step(&self, device: &Device, step: u64) -> Result<()> {
        self.encoder.begin_step(device, step)
    }
    /// Restores the random features of approximate attention from a saved folder's `config.json`.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) if the config cannot be read; those of writing to the
    /// device.
    pub fn restore(&self, device: &Device, dir: &Path) -> Result<()> {
        if self.performer().is_none() {
            return Ok(());
        }
        let saved = Config::read(&dir.join("config.json"))?.performer()?;
        saved.map_or(Ok(()), |p| self.encoder.take_draw(device, p.draw))
    }
    /// The error of approximate attention relative to exact attention, for each layer, over the batches that
    /// `run` computes with this model; empty for exact attention. The input of each layer comes from the
    /// approximate layers below it.
    ///
    /// # Errors
    /// Those of `run`.
    pub fn approximation(&self, run: impl FnOnce() -> Result<()>) -> Result<Vec<Distance>> {
        self.encoder.compared(run)
    }

    /// Standardizes the outputs of a head: from now on an output y means `shift + scale * y` in original
    /// units.
    ///
    /// Loaded weights of the head's last layer are converted. Parameters in `initialised`, which were not
    /// loaded, are not. Model folders, also those that [`Model::files`] writes, are always in original units.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if there is no head with this index; those of the device.
    pub fn standardize(
        &mut self,
        device: &Device,
        head: usize,
        (shift, scale): (f64, f64),
        initialised: &[String],
    ) -> Result<()> {
        let count = self.heads.len();
        let missing = || {
            Error::shape(format!("head {head} does not exist"))
                .with_expected(format!("an index below {count}"))
        };
        let units = Units { shift, scale };
        self.heads.get_mut(head).ok_or_else(missing)?.units = Some(units);
        let last = self.heads[head].last_layer.as_deref();
        let own = |p: &&Param| last == p.name.rsplit_once('.').map(|(stem, _)| stem);
        for p in self.params.layout().list.iter().filter(own).filter(|p| !initialised.contains(&p.name)) {
            let view = self.params.value(p)?;
            let values = units.unfolded(device.read::<f32>(&view)?, p.name.ends_with(".bias"));
            device.write(&view, &values)?;
        }
        self.params.refresh(device)
    }
    /// The units of the outputs, for a parameter of a standardized head's last layer; `None` for other
    /// parameters.
    fn units(&self, parameter: &str) -> Option<Units> {
        let (stem, _) = parameter.rsplit_once('.')?;
        self.heads.iter().find(|h| h.last_layer.as_deref() == Some(stem))?.units
    }
    /// The parameters whose values are not those in [`Model::files`]: last layers of standardized heads,
    /// weights with a pruning mask, and those that only training needs.
    pub fn converted(&self) -> impl Iterator<Item = &Param> {
        let differs =
            |p: &Param| !p.is_exported() || self.units(&p.name).is_some() || self.params.is_masked(p);
        self.params.layout().list.iter().filter(move |p| differs(p))
    }
    /// The linear map of hidden states (tokens, hidden) to the width of [`Options::projection`].
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for a model that was opened without one; those of the op.
    pub fn project(&self, tape: &mut Tape, bound: &Bound, hidden: Var) -> Result<Var> {
        let map = self.projection.as_ref().ok_or_else(|| {
            Error::shape("the model has no linear map of hidden states")
                .with_help("set Options::projection to the width that the map takes them to")
        })?;
        map.run(tape, bound, hidden)
    }

    /// The encoder's hidden states (tokens, hidden) for a packed batch.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if the batch does not fit the model; those of the device.
    pub fn hidden(&self, tape: &mut Tape, bound: &Bound, batch: &Inputs) -> Result<Var> {
        self.encoder.run(tape, bound, batch, &mut Taps::none())
    }

    /// The outputs of the batch's head for a packed batch. A classifier returns logits (sequences, outputs),
    /// tags and spans logits (tokens, outputs), embeddings vectors (sequences, hidden), and a masked language
    /// model logits (target positions, vocab). With next-sentence prediction, logits (sequences, 2) follow.
    /// `taps` ask for values inside the encoder; [`Taps::none`] asks for nothing.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if the batch does not fit the model; those of the device.
    pub fn forward(
        &self,
        tape: &mut Tape,
        bound: &Bound,
        batch: &Inputs,
        taps: &mut Taps,
    ) -> Result<Vec<Var>> {
        let hidden = self.encoder.run(tape, bound, batch, taps)?;
        let head = self.heads.get(batch.head).ok_or_else(|| {
            Error::shape(format!("the batch is for head {}, which the model does not have", batch.head))
                .with_expected(format!("an index below {}", self.heads.len()))
        })?;
        head.run(tape, bound, batch, hidden)
    }

    /// The first output of [`Model::forward`].
    ///
    /// # Errors
    /// Those of [`Model::forward`].
    pub fn logits(&self, tape: &mut Tape, bound: &Bound, batch: &Inputs) -> Result<Var> {
        let outputs = self.forward(tape, bound, batch, &mut Taps::none())?;
        outputs.into_iter().next().ok_or_else(|| Error::shape("the head returned no outputs"))
    }

    /// The `tokenizer_config.json` for a folder with this model, made from the original one (`bytes`). For
    /// XLNet it asks transformers for token types too.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) if the original is not a JSON object.
    pub fn tokenizer_config(&self, bytes: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
        let Some(class) = self.architecture.tokenizer_class() else {
            return Ok(bytes.map(<[u8]>::to_vec));
        };
        let wrong = |e: serde_json::Error| {
            Error::model("tokenizer_config.json is not a JSON object")
                .with_found(e.to_string())
                .with_help("download the model again")
        };
        let mut config: serde_json::Map<String, Value> =
            serde_json::from_slice(bytes.unwrap_or(b"{}")).map_err(wrong)?;
        // Without this key XLNet's tokenizer returns no token types, and the model would compute something
        // else.
        let names = json!(["input_ids", "token_type_ids", "attention_mask"]);
        config.entry("model_input_names").or_insert(names);
        config.entry("tokenizer_class").or_insert(class.into());
        serde_json::to_vec_pretty(&config).map(Some).map_err(wrong)
    }

    /// `config.json` and `model.safetensors` in the format of `transformers`, with outputs in original units.
    ///
    /// # Errors
    /// Those of reading from the device.
    pub fn files(&self, device: &Device) -> Result<Vec<NamedFile<'static>>> {
        let mut tensors = Vec::with_capacity(self.params.layout().list.len());
        for p in self.params.layout().list.iter().filter(|p| p.is_exported()) {
            let mut values = device.read::<f32>(&self.params.value(p)?)?;
            if let Some(kept) = self.params.kept(device, p)? {
                values.iter_mut().zip(kept).for_each(|(v, k)| *v *= f32::from(k));
            }
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

    /// The files that sentence-transformers needs to open a folder with this model. None for a model without
    /// embeddings, and for approximate attention, which sentence-transformers does not compute. `longest`:
    /// the maximum length of a text in tokens.
    pub fn sentence_files(&self, longest: usize) -> Vec<NamedFile<'static>> {
        let vectors = self.heads.iter().find_map(NamedHead::vectors);
        match vectors.filter(|_| self.performer().is_none()) {
            Some(pooling) => sentence::files(pooling, self.shape.hidden, longest, &self.sentence),
            None => Vec::new(),
        }
    }

    /// The original config with the heads described as `transformers` does.
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

/// The parameters of an encoder and its heads.
struct Declared {
    layout: Layout,
    /// The number of encoder parameters; the heads' parameters follow them.
    body: usize,
    encoder: Encoder,
    heads: Vec<NamedHead>,
    projection: Option<Projection>,
}

/// Declares an encoder with BERT's names, renames its parameters for the architecture, then declares the
/// heads.
fn declare(setting: &Setting, heads: &[(String, Outputs)], options: &Options) -> Result<Declared> {
    let (mut layout, mut dropout_ids) = (Layout::default(), DropoutIds::default());
    let shape = setting.shape;
    let encoder = Encoder::declare(&mut layout, &mut dropout_ids, shape);
    let body = layout.list.len();
    for p in &mut layout.list {
        p.lr_scale = rate(&p.name, shape.layers.len(), options.layer_lr_decay);
        p.name = setting.architecture.tensor(&p.name);
    }
    let mut head = |(name, outputs): &(String, Outputs)| {
        setting.declare(&mut layout, &mut dropout_ids, &encoder, name, outputs)
    };
    let heads = heads.iter().map(&mut head).collect::<Result<Vec<_>>>()?;
    let projection = options.projection.map(|width| Projection::declare(&mut layout, [width, shape.hidden]));
    Ok(Declared { layout, body, encoder, heads, projection })
}

/// The layer-wise learning rate scale: 1 for the head and everything above the last layer, multiplied by
/// `decay` for each layer further down, and once more for the embeddings.
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
