//! The encoder: embeddings, then layers of attention and a feed-forward block.
//!
//! One encoder for every architecture: what differs between them is a choice in [`EncoderConfig`]. Parameters are declared
//! under the names of Hugging Face's BERT without a prefix, such as `encoder.layer.0.attention.self.query.weight`;
//! `models/` knows what each architecture calls them.

use super::layer::{Layer, Place};
use super::performer::{Distance, Performer, PerformerConfig};
use super::relative::Sinusoids;
use super::{Affine, Inputs, Norm, Sites};
use crate::device::Device;
use crate::error::Result;
use crate::ops::add_norm::AddNorm;
use crate::ops::dropout::Rows;
use crate::ops::embed::Embed;
use crate::ops::linear::Activation;
use crate::params::{Bound, Group, Layout};
use crate::shape::DType;
use crate::tape::{Tape, Var};

/// Where the layer norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Behind each block, over its output and the residual (Vaswani et al. 2017).
    Post,
    /// Before each block but the first, whose input is normal already, and behind the last layer (ModernBERT, Warner et al. 2024).
    Pre,
}

/// How positions come in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// A table that is added to the tokens'.
    Table,
    /// Queries and keys are turned: the base of the angles in layers that see everything, and in those that see a window.
    Rotary {
        /// The base where all tokens are seen.
        global: f32,
        /// The base where a window is seen.
        local: f32,
    },
    /// Scores depend on the distance of two tokens and on whether they are of one segment (XLNet). Embeddings have no layer norm
    /// then, the feed-forward block has dropout inside, and so have the last hidden states.
    Relative {
        /// Distances beyond this count as this (`clamp_len`); `None`: each has its own.
        clamp: Option<usize>,
    },
}

/// Which maps have biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys, values and attention's output.
    pub attention: bool,
    /// The feed-forward block.
    pub feed_forward: bool,
    /// Layer norms.
    pub norm: bool,
    /// The dense layer of the head.
    pub head: bool,
}

/// The shape and the settings of an encoder. The default is BERT-base (Devlin et al. 2019).
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Rows of the token table.
    pub vocab: usize,
    /// Width of the embedding tables where a linear map leads from there to `hidden` (ALBERT, ELECTRA); `None`: no map.
    pub embedding: Option<usize>,
    /// The longest sequence.
    pub positions: usize,
    /// Row of the position table for the first token: 0, or `pad_token_id` + 1 (RoBERTa). The table has so many rows more.
    pub first_position: usize,
    /// Rows of the token-type table; 0: there is none (DistilBERT).
    pub types: usize,
    /// Width.
    pub hidden: usize,
    /// Number of layers that are run.
    pub layers: usize,
    /// So many sets of weights for all layers, layer i running with set i * sets / layers (ALBERT, Lan et al. 2020, section
    /// 3.1); `None`: each layer has its own.
    pub shared: Option<usize>,
    /// Attention heads; divides the width.
    pub heads: usize,
    /// Width of the feed-forward block.
    pub intermediate: usize,
    /// Its activation.
    pub act: Activation,
    /// The activation of the heads' dense layer, where the config names one (ModernBERT).
    pub head_act: Option<Activation>,
    /// Layer norm's epsilon.
    pub eps: f32,
    /// Dropout on embeddings and on the output of each block. With pre-norm: on what the gate lets through instead of the
    /// feed-forward block's output.
    pub hidden_dropout: f32,
    /// Which blocks' outputs that is: attention's, the feed-forward block's.
    pub dropped: [bool; 2],
    /// Dropout on attention probabilities; with pre-norm on attention's output as well.
    pub attention_dropout: f32,
    /// Where the layer norms stand.
    pub order: Order,
    /// How positions come in.
    pub encoding: Positions,
    /// Which maps have biases.
    pub biases: Biases,
    /// Whether queries, keys and values come from one matrix in the files.
    pub fused: bool,
    /// Whether the feed-forward block is gated: its first map is twice as wide, act(a) b goes on.
    pub gated: bool,
    /// Layers that see only tokens at most so far away: the distance, and for each layer whether it is one. `None`: none is.
    pub windows: Option<(usize, Vec<bool>)>,
    /// Whether the token that stands for the whole sequence is the last one, not the first.
    pub cls_last: bool,
    /// Attention approximated by random features, in layers without a window; `None`: exact. It has no dropout.
    pub performer: Option<PerformerConfig>,
}

impl Default for EncoderConfig {
    fn default() -> Self {
        Self {
            vocab: 30522,
            embedding: None,
            positions: 512,
            first_position: 0,
            types: 2,
            hidden: 768,
            layers: 12,
            shared: None,
            heads: 12,
            intermediate: 3072,
            act: Activation::GeluErf,
            head_act: None,
            eps: 1e-12,
            hidden_dropout: 0.1,
            dropped: [true; 2],
            attention_dropout: 0.1,
            order: Order::Post,
            encoding: Positions::Table,
            biases: Biases { attention: true, feed_forward: true, norm: true, head: true },
            fused: false,
            gated: false,
            windows: None,
            cls_last: false,
            performer: None,
        }
    }
}

impl EncoderConfig {
    /// Whether scores depend on distances.
    pub fn relative(&self) -> bool {
        matches!(self.encoding, Positions::Relative { .. })
    }
    /// How many layers have weights of their own.
    pub fn own_layers(&self) -> usize {
        self.shared.unwrap_or(self.layers)
    }
    /// Which of them the i-th layer runs with.
    fn weights_of(&self, i: usize) -> usize {
        // In floating point, as in transformers, whose rounding decides where sets are uneven.
        (i as f64 / (self.layers as f64 / self.own_layers() as f64)) as usize
    }
}

/// An encoder's parameters and how to run it.
pub struct Encoder {
    config: EncoderConfig,
    word: Group,
    position: Option<Group>,
    kind: Option<Group>,
    norm: Option<Norm>,
    norm_site: u32,
    project: Option<Affine>,
    /// Those with weights of their own.
    layers: Vec<Layer>,
    /// The dropouts of every layer that is run: attention, its output, the feed-forward block's output, inside of that.
    sites: Vec<[u32; 4]>,
    /// Behind the last layer.
    last: Option<Norm>,
    final_site: u32,
    sinusoids: Option<Sinusoids>,
    performer: Option<Performer>,
}

impl Encoder {
    /// Declares the parameters under BERT's names.
    pub fn declare(layout: &mut Layout, sites: &mut Sites, config: &EncoderConfig) -> Encoder {
        let c = config;
        let width = c.embedding.unwrap_or(c.hidden);
        let relative = c.relative();
        let mut words = vec![("embeddings.word_embeddings.weight".to_owned(), vec![c.vocab, width])];
        if relative {
            // One row more: the content of a query without content, which only permutation language modelling has.
            words.push(("embeddings.mask_emb".to_owned(), vec![1, 1, width]));
        }
        let word = layout.join_of(words, &[c.vocab + relative as usize, width]);
        layout.table(word);
        if relative {
            layout.keep_last();
        }
        let mut table = |name: &str, rows| {
            let group = layout.add(format!("embeddings.{name}.weight"), &[rows, width]);
            layout.table(group);
            group
        };
        let position = (c.encoding == Positions::Table)
            .then(|| table("position_embeddings", c.positions + c.first_position));
        let kind = (c.types > 0).then(|| table("token_type_embeddings", c.types));
        let norm = (!relative).then(|| Norm::declare(layout, "embeddings.LayerNorm", width, c.biases.norm));
        let norm_site = sites.next();
        let project = c
            .embedding
            .map(|width| Affine::declare(layout, "embeddings_project", [c.hidden, width], Activation::None));
        let layers = (0..c.own_layers()).map(|i| Layer::declare(layout, i, c)).collect();
        let mut layer_sites: Vec<[u32; 4]> =
            (0..c.layers).map(|_| [sites.next(), sites.next(), sites.next(), 0]).collect();
        // After all others, whose numbers stay as they are without these.
        let mut more = || if relative { sites.next() } else { 0 };
        layer_sites.iter_mut().for_each(|s| s[3] = more());
        let (final_site, sites) = (more(), layer_sites);
        let last = (c.order == Order::Pre)
            .then(|| Norm::declare(layout, "encoder.LayerNorm", c.hidden, c.biases.norm));
        let (config, sinusoids, performer) = (c.clone(), None, None);
        Encoder {
            config,
            word,
            position,
            kind,
            norm,
            norm_site,
            project,
            layers,
            sites,
            last,
            final_site,
            sinusoids,
            performer,
        }
    }

    /// The token table (vocab, embedding).
    pub fn words(&self) -> Group {
        self.word
    }

    /// The hidden states of the last layer, (tokens, hidden).
    ///
    /// # Errors
    /// Those of the ops: [`Kind::Shape`](crate::error::Kind::Shape), [`Kind::Memory`](crate::error::Kind::Memory),
    /// [`Kind::Lost`](crate::error::Kind::Lost).
    pub fn run(&self, tape: &mut Tape, p: &Bound, batch: &Inputs) -> Result<Var> {
        let mut hidden = self.embed(tape, p, batch)?;
        let sinusoids = self.sinusoids.as_ref().map(|s| s.of(tape, batch.longest)).transpose()?;
        for (i, sites) in self.sites.iter().enumerate() {
            let layer = &self.layers[self.config.weights_of(i)];
            let place = Place {
                layer: i,
                sites: *sites,
                performer: self.performer.as_ref(),
                sinusoids: sinusoids.as_ref(),
            };
            hidden = layer.run(tape, p, batch, &self.config, place, hidden)?;
        }
        if self.config.relative() {
            return self.drop(tape, batch, self.final_site, hidden);
        }
        let Some(last) = &self.last else { return Ok(hidden) };
        let op = AddNorm { eps: self.config.eps, residual: false, before: None, after: None };
        last.run(tape, p, op, hidden, [])
    }

    /// Drops hidden states.
    fn drop(&self, tape: &mut Tape, batch: &Inputs, site: u32, x: Var) -> Result<Var> {
        match batch.dropout(self.config.hidden_dropout, site, Rows::Tokens) {
            Some((drop, key)) => tape.apply(drop, [x, key]),
            None => Ok(x),
        }
    }

    /// Puts on the device what is no parameter: sinusoids of relative positions, the random features of approximated attention.
    /// To be called once, before anything runs.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left; [`Kind::Lost`](crate::error::Kind::Lost)
    /// if it was lost.
    pub fn prepare(&mut self, device: &Device, dtype: DType) -> Result<()> {
        let c = &self.config;
        let compute = device.caps().compute;
        let activations = if compute.size() < dtype.size() && dtype == DType::F32 { compute } else { dtype };
        if let Positions::Relative { clamp } = c.encoding {
            self.sinusoids = Some(Sinusoids::new(device, c, clamp, activations)?);
        }
        let make = |p| Performer::new(device, p, c.layers, c.hidden / c.heads, dtype);
        self.performer = c.performer.map(make).transpose()?;
        Ok(())
    }
    /// The random features' setting and the draw in use, where attention is approximated.
    pub fn performer(&self) -> Option<PerformerConfig> {
        self.performer.as_ref().map(Performer::config)
    }
    /// Takes the random features that a step of training has: they are drawn anew every so many steps.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn begin_step(&self, device: &Device, step: u64) -> Result<()> {
        self.performer.as_ref().map_or(Ok(()), |p| p.begin_step(device, step))
    }
    /// Takes the random features of a draw, as a saved model names it.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn take_draw(&self, device: &Device, draw: u64) -> Result<()> {
        self.performer.as_ref().map_or(Ok(()), |p| p.take(device, draw))
    }
    /// How far approximated attention is from exact attention, layer by layer, over what `run` runs; nothing if it is exact.
    ///
    /// # Errors
    /// Those of `run`.
    pub fn compared(&self, run: impl FnOnce() -> Result<()>) -> Result<Vec<Distance>> {
        self.performer.as_ref().map_or(Ok(Vec::new()), |p| p.compared(run))
    }

    fn embed(&self, tape: &mut Tape, p: &Bound, batch: &Inputs) -> Result<Var> {
        let c = &self.config;
        let tables = [(&batch.positions, self.position), (&batch.types, self.kind)];
        let more = tables.into_iter().filter_map(|(index, table)| Some((index.clone(), p.var(table?))));
        let (indices, tables): (Vec<Var>, Vec<Var>) = more.unzip();
        let mut x = vec![batch.ids.clone()];
        x.extend(indices);
        x.push(p.var(self.word));
        x.extend(tables);
        let sum = tape.apply(Embed { first_position: c.first_position as u32 }, x)?;
        let Some(norm) = &self.norm else { return self.drop(tape, batch, self.norm_site, sum) };
        let (after, key) = batch.dropout(c.hidden_dropout, self.norm_site, Rows::Tokens).unzip();
        let op = AddNorm { eps: c.eps, residual: false, before: None, after };
        let normed = norm.run(tape, p, op, sum, [key])?;
        match &self.project {
            Some(project) => project.run(tape, p, normed),
            None => Ok(normed),
        }
    }
}
