//! What determines the parameters of a model, and models with random weights: for benchmarks and for plans of
//! memory.

use super::architecture::Architecture;
use super::config::Config;
use super::cut;
use super::decoder::Decoder;
use super::heads::Setting;
use super::{
    Declared, Model, Options, Outputs, PairObjective, albert, bert, declare, read_config, sentence, weights,
    xlnet,
};
use crate::checkpoint::Weights;
use crate::device::Device;
use crate::error::Result;
use crate::nn::{EncoderConfig, Pooling};
use crate::params::Params;
use serde_json::Value;
use std::path::Path;

/// What determines a model's parameters and activations, besides its heads.
#[derive(Clone)]
pub struct ModelShape {
    /// Its architecture.
    pub architecture: &'static Architecture,
    /// The shape and the settings of its encoder.
    pub encoder: EncoderConfig,
    /// How the tokens of a sequence are pooled into one vector.
    pub pooling: Pooling,
    /// The dropout of the head.
    pub(super) dropout: f32,
    /// The dropout of a question-answering head.
    pub(super) span_dropout: f32,
    /// The output projection of a masked-LM head.
    pub(super) decoder: Decoder,
}

impl ModelShape {
    /// The shape of the model in a folder, opened with these options and the heads that they name. It reads
    /// no weights, so an output projection counts as tied to the token embedding unless the config says
    /// otherwise.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) if the config cannot be read or describes a model that
    /// tempra does not support; [`Kind::Shape`](crate::error::Kind::Shape) if [`EncoderConfig::check`]
    /// refuses its encoder.
    pub fn of(dir: &Path, options: &Options) -> Result<ModelShape> {
        let (config, architecture, encoder) = read_config(dir)?;
        let vectors = options.wanted().iter().any(|(_, o)| *o == Outputs::Embedding);
        ModelShape::read(&config, architecture, encoder, options, dir, vectors)?
            .with_decoder(&config, &Weights::default())
    }
    /// As [`ModelShape::of`] of a config that was read, with the output projection tied. `vectors`: whether a
    /// head outputs embeddings.
    pub(super) fn read(
        config: &Config,
        architecture: &'static Architecture,
        encoder: EncoderConfig,
        options: &Options,
        dir: &Path,
        vectors: bool,
    ) -> Result<ModelShape> {
        if let Some(chosen) = &options.layers {
            cut::check(config, architecture, encoder.depth(), ("model.layers", chosen))?;
        }
        let encoder = options.over(encoder);
        encoder.check()?;
        if encoder.relative() && encoder.performer.is_some() {
            return Err(config
                .error("model.attention = \"performer\" does not work with XLNet")
                .with_expected(
                    "absolute positions: XLNet's attention scores depend on the distance between tokens",
                )
                .with_help("set model.attention to \"exact\" or \"auto\""));
        }
        let dropout = match options.classifier_dropout {
            Some(p) => p,
            None => architecture.head_dropout(config, &encoder)?,
        };
        let says = |key: &str| config.value.get(key).and_then(Value::as_str);
        let noted = says("tempra_pooling").or(architecture.head.pooling.filter(|_| !vectors).and_then(says));
        let pooling = match (options.pooling, noted) {
            (Some(pooling), _) => pooling,
            (None, Some("mean")) => Pooling::Mean,
            // As sentence-transformers does; its default is the mean.
            (None, None) if vectors => sentence::pooling(dir, encoder.cls_last)?.unwrap_or(Pooling::Mean),
            _ => Pooling::Cls,
        };
        let span_dropout =
            options.classifier_dropout.map_or_else(|| architecture.span_dropout(config), Ok)?;
        let decoder = Decoder::tied(architecture);
        Ok(ModelShape { architecture, encoder, pooling, dropout, span_dropout, decoder })
    }
    /// The same with the output projection that the config and these files have.
    pub(super) fn with_decoder(self, config: &Config, files: &Weights) -> Result<ModelShape> {
        Ok(ModelShape { decoder: Decoder::of(self.architecture, config, files)?, ..self })
    }
    /// The shape of a model that has no folder: XLNet if the encoder has relative positions, ALBERT for
    /// sentence-order prediction, else BERT.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if [`EncoderConfig::check`] refuses the encoder.
    pub fn without_folder(encoder: &EncoderConfig, options: &Options) -> Result<ModelShape> {
        let encoder = options.over(encoder.clone());
        encoder.check()?;
        let ordered = options.wanted().iter().any(|(_, o)| *o == Outputs::Pretraining(PairObjective::Order));
        let architecture = match (encoder.relative(), ordered) {
            (true, _) => &xlnet::XLNET,
            // BERT has no such head.
            (false, true) => &albert::ALBERT,
            (false, false) => &bert::BERT,
        };
        let (dropout, decoder) = (encoder.hidden_dropout, Decoder::tied(architecture));
        Ok(ModelShape { architecture, encoder, pooling: Pooling::Mean, dropout, span_dropout: 0.0, decoder })
    }
    pub(super) fn setting(&self) -> Setting<'_> {
        let &ModelShape { architecture, ref encoder, pooling, dropout, span_dropout, ref decoder } = self;
        Setting { architecture, shape: encoder, pooling, dropout, span_dropout, decoder }
    }
}

impl Options {
    /// The heads that these options ask for; one that predicts a number if they name none.
    fn wanted(&self) -> Vec<(String, Outputs)> {
        let outputs = || self.outputs.clone().unwrap_or(Outputs::Number);
        if self.heads.is_empty() { vec![(String::new(), outputs())] } else { self.heads.clone() }
    }
}

impl Model {
    /// A model with random weights, for benchmarks, of the shape [`ModelShape::without_folder`].
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if [`EncoderConfig::check`] refuses the shape;
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has not enough memory; other errors of the
    /// device.
    pub fn random(device: &Device, shape: &EncoderConfig, options: &Options) -> Result<Model> {
        Model::unloaded(device, &ModelShape::without_folder(shape, options)?, options)
    }

    /// A model of this shape with random weights. It takes the memory of a loaded one. Prefixes in
    /// `options.freeze` that match no parameter are ignored; [`Model::open`], which knows all names, refuses
    /// them.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a head that the architecture lacks;
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has not enough memory; other errors of the
    /// device.
    pub fn unloaded(device: &Device, shape: &ModelShape, options: &Options) -> Result<Model> {
        let setting = shape.setting();
        let Declared { mut layout, mut encoder, heads, projection, .. } =
            declare(&setting, &options.wanted(), options)?;
        for prefix in &options.freeze {
            layout.freeze_prefix(prefix);
        }
        layout.freeze_named(&options.unreached);
        layout.mask(&options.masking, &options.unreached);
        let params = Params::new(device, layout, options.dtype, options.training)?;
        weights::randomise(device, &params, options.seed)?;
        params.refresh(device)?;
        encoder.prepare(device, options.dtype)?;
        Ok(Model { projection, ..Model::new(params, Value::Null, setting, encoder, heads) })
    }
}
