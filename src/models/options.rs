//! The options for opening a model.

use super::Outputs;
use crate::nn::{EncoderConfig, PerformerConfig, Pooling};
use crate::params::Masking;
use crate::shape::DType;

/// Options for opening a model.
#[derive(Clone, Debug)]
pub struct Options {
    /// The outputs of the head. `None`: those of the saved head, which the files must then hold.
    pub outputs: Option<Outputs>,
    /// Several named heads, or one without a name, instead of `outputs`. Usually empty.
    pub heads: Vec<(String, Outputs)>,
    /// How the tokens of a sequence are pooled into one vector. `None`: as the model's config says, else the
    /// first token.
    pub pooling: Option<Pooling>,
    /// Exact or approximate attention. `None`: as the model's config says, else exact.
    pub attention: Option<Attention>,
    /// Overrides the config's dropout rate for hidden states, from 0 to below 1.
    pub dropout: Option<f32>,
    /// Overrides the config's dropout rate for attention probabilities.
    pub attention_dropout: Option<f32>,
    /// Overrides the config's dropout rate before the head.
    pub classifier_dropout: Option<f32>,
    /// The layers of the folder that make the encoder, in this order. `None`: all.
    pub layers: Option<Vec<usize>>,
    /// Prefixes of parameter names that are not trained.
    pub freeze: Vec<String>,
    /// Names of parameters that are not trained because no loss of the run reaches them.
    pub unreached: Vec<String>,
    /// The width that a linear map takes hidden states to, for a student that is narrower or wider than its
    /// teacher: see [`Model::project`](super::Model::project). `None`: there is no such map.
    pub projection: Option<usize>,
    /// Layer-wise learning rate decay: the factor from each layer to the layer below.
    pub layer_lr_decay: f32,
    /// Seed for parameters that the files do not hold.
    pub seed: u64,
    /// Whether to allocate gradients and optimizer states.
    pub training: bool,
    /// The pruning masks of the encoder's layers.
    pub masking: Masking,
    /// The compute type. F64 is for gradient checks.
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
            layers: None,
            freeze: Vec::new(),
            unreached: Vec::new(),
            projection: None,
            layer_lr_decay: 1.0,
            seed: 0,
            training: false,
            masking: Masking::default(),
            dtype: DType::F32,
        }
    }
}

/// The attention of an encoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Attention {
    /// Softmax attention over all tokens of the sequence.
    Exact,
    /// FAVOR+ (Choromanski et al. 2021), an approximation by random features whose cost is linear in the
    /// sequence length.
    Performer {
        /// The number of random features; `None`: d ln d for head dimension d.
        features: Option<usize>,
        /// The number of training steps after which features are drawn again; 0: never.
        redraw: u64,
    },
}

impl Options {
    /// The encoder's settings with the overrides of these options.
    pub(super) fn over(&self, mut shape: EncoderConfig) -> EncoderConfig {
        shape.hidden_dropout = self.dropout.unwrap_or(shape.hidden_dropout);
        shape.attention_dropout = self.attention_dropout.unwrap_or(shape.attention_dropout);
        if let Some(chosen) = &self.layers {
            shape.layers = chosen.iter().filter_map(|&layer| shape.layers.get(layer).copied()).collect();
        }
        match self.attention {
            None => {}
            Some(Attention::Exact) => shape.performer = None,
            Some(Attention::Performer { features, redraw }) => {
                let widest = shape.layers.iter().map(|l| l.head_dim).max().unwrap_or(1);
                let fresh = PerformerConfig::of(widest, self.seed);
                // A model that was trained with this approximation keeps its own features.
                let saved = shape.performer.filter(|p| features.is_none_or(|n| n == p.features));
                let features = features.unwrap_or(fresh.features);
                let chosen = saved.unwrap_or(PerformerConfig { features, ..fresh });
                shape.performer = Some(PerformerConfig { redraw, ..chosen });
            }
        }
        shape
    }
}
