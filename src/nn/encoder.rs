//! The encoder: embeddings, then layers of attention and a feed-forward block.
//!
//! One encoder for every architecture: what differs between them is a choice in [`EncoderConfig`]. Parameters are declared
//! under the names of Hugging Face's BERT without a prefix, such as `encoder.layer.0.attention.self.query.weight`;
//! `models/` knows what each architecture calls them.

use super::layer::{Layer, Place};
use super::performer::{Distance, Performer, PerformerConfig};
use super::relative::{RelativeConfig, Sinusoids};
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
    /// Layer norm's epsilon.
    pub eps: f32,
    /// Dropout on embeddings and on the output of each block.
    pub hidden_dropout: f32,
    /// Which blocks' outputs that is: attention's, the feed-forward block's.
    pub dropped: [bool; 2],
    /// Dropout on attention probabilities; an approximation has none.
    pub attention_dropout: f32,
    /// Positions that are relative (XLNet): no table of them, and layers without biases of queries, keys, values and their
    /// output; `None`: they are a table's rows.
    pub relative: Option<RelativeConfig>,
    /// Whether the token that stands for the whole sequence is the last one, not the first.
    pub cls_last: bool,
    /// Attention approximated by random features; `None`: exact.
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
            eps: 1e-12,
            hidden_dropout: 0.1,
            dropped: [true; 2],
            attention_dropout: 0.1,
            relative: None,
            cls_last: false,
            performer: None,
        }
    }
}

impl EncoderConfig {
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
    /// None of these where positions are relative.
    position: Option<Group>,
    kind: Option<Group>,
    norm: Option<Norm>,
    norm_site: u32,
    project: Option<Affine>,
    /// Those with weights of their own.
    layers: Vec<Layer>,
    /// The dropouts of every layer that is run: attention, its output, the feed-forward block's output, inside of that.
    sites: Vec<[u32; 4]>,
    final_site: u32,
    sinusoids: Option<Sinusoids>,
    performer: Option<Performer>,
}

impl Encoder {
    /// Declares the parameters under BERT's names.
    pub fn declare(layout: &mut Layout, sites: &mut Sites, config: &EncoderConfig) -> Encoder {
        let c = config;
        let width = c.embedding.unwrap_or(c.hidden);
        let absolute = c.relative.is_none();
        let mut words = vec![("embeddings.word_embeddings.weight".to_owned(), vec![c.vocab, width])];
        if !absolute {
            // One row more: the content of a query without content, which only permutation language modelling has.
            words.push(("embeddings.mask_emb".to_owned(), vec![1, 1, width]));
        }
        let word = layout.join_of(words, &[c.vocab + !absolute as usize, width]);
        if !absolute {
            layout.keep_last();
        }
        let mut table = |name: &str, rows| layout.add(format!("embeddings.{name}.weight"), &[rows, width]);
        let position = absolute.then(|| table("position_embeddings", c.positions + c.first_position));
        let kind = (c.types > 0).then(|| table("token_type_embeddings", c.types));
        let norm = absolute.then(|| Norm::declare(layout, "embeddings.LayerNorm", width));
        let norm_site = sites.next();
        let project = c
            .embedding
            .map(|width| Affine::declare(layout, "embeddings_project", [c.hidden, width], Activation::None));
        let layers =
            (0..c.own_layers()).map(|i| Layer::declare(layout, &format!("encoder.layer.{i}"), c)).collect();
        let mut layer_sites: Vec<[u32; 4]> =
            (0..c.layers).map(|_| [sites.next(), sites.next(), sites.next(), 0]).collect();
        // After all others, whose numbers stay as they are without these.
        layer_sites.iter_mut().for_each(|s| s[3] = if absolute { 0 } else { sites.next() });
        let final_site = if absolute { 0 } else { sites.next() };
        let sites = layer_sites;
        let config = c.clone();
        let (sinusoids, performer) = (None, None);
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
            final_site,
            sinusoids,
            performer,
        }
    }

    /// The hidden states of the last layer, (tokens, hidden).
    pub fn run(&self, tape: &mut Tape, p: &Bound, batch: &Inputs) -> Result<Var> {
        let mut hidden = self.embed(tape, p, batch)?;
        let sinusoids = self.sinusoids.as_ref().map(|s| s.of(tape, batch.longest)).transpose()?;
        for (i, sites) in self.sites.iter().enumerate() {
            let layer = &self.layers[self.config.weights_of(i)];
            let place = Place { layer: i, sites: *sites, performer: self.performer.as_ref(), sinusoids };
            hidden = layer.run(tape, p, batch, &self.config, place, hidden)?;
        }
        if self.config.relative.is_some() {
            self.drop(tape, batch, self.final_site, hidden)
        } else {
            Ok(hidden)
        }
    }
    /// Drops hidden states; `x` is released.
    fn drop(&self, tape: &mut Tape, batch: &Inputs, site: u32, x: Var) -> Result<Var> {
        let Some((drop, key)) = batch.dropout(self.config.hidden_dropout, site, Rows::Tokens) else {
            return Ok(x);
        };
        let y = tape.apply(drop, &[x, key])?;
        tape.release(x);
        Ok(y)
    }

    /// Puts on the device what is no parameter: sinusoids of relative positions, the random features of approximated attention. To be called once, before
    /// anything runs.
    pub fn prepare(&mut self, device: &Device, dtype: DType) -> Result<()> {
        let c = &self.config;
        let compute = device.caps().compute;
        let activations = if compute.size() < dtype.size() && dtype == DType::F32 { compute } else { dtype };
        self.sinusoids = c.relative.map(|r| Sinusoids::new(device, c, r, activations)).transpose()?;
        let make = |p| Performer::new(device, p, c.layers, c.hidden / c.heads, dtype);
        self.performer = c.performer.map(make).transpose()?;
        Ok(())
    }
    /// The random features' setting and the draw in use, where attention is approximated.
    pub fn performer(&self) -> Option<PerformerConfig> {
        self.performer.as_ref().map(Performer::config)
    }
    /// Takes the random features that a step of training has: they are drawn anew every so many steps.
    pub fn begin_step(&self, device: &Device, step: u64) -> Result<()> {
        self.performer.as_ref().map_or(Ok(()), |p| p.begin_step(device, step))
    }
    /// Takes the random features of a draw, as a saved model names it.
    pub fn take_draw(&self, device: &Device, draw: u64) -> Result<()> {
        self.performer.as_ref().map_or(Ok(()), |p| p.take(device, draw))
    }
    /// How far approximated attention is from exact attention, layer by layer, over what `run` runs; nothing if it is exact.
    pub fn compared(&self, run: impl FnOnce() -> Result<()>) -> Result<Vec<Distance>> {
        self.performer.as_ref().map_or(Ok(Vec::new()), |p| p.compared(run))
    }

    fn embed(&self, tape: &mut Tape, p: &Bound, batch: &Inputs) -> Result<Var> {
        let c = &self.config;
        let mut x = vec![batch.ids];
        x.extend(self.position.map(|_| batch.positions));
        x.extend(self.kind.map(|_| batch.types));
        x.push(p.var(self.word));
        x.extend([self.position, self.kind].into_iter().flatten().map(|table| p.var(table)));
        let sum = tape.apply(Embed { first_position: c.first_position as u32 }, &x)?;
        let Some(norm) = &self.norm else { return self.drop(tape, batch, self.norm_site, sum) };
        let after = batch.dropout(c.hidden_dropout, self.norm_site, Rows::Tokens);
        let op = AddNorm { eps: c.eps, residual: false, before: None, after: after.map(|d| d.0) };
        let mut x = vec![sum, p.var(norm.gamma), p.var(norm.beta)];
        x.extend(after.map(|d| d.1));
        let normed = tape.apply(op, &x)?;
        tape.release(sum);
        let Some(project) = &self.project else { return Ok(normed) };
        let hidden = project.run(tape, p, normed)?;
        tape.release(normed);
        Ok(hidden)
    }
}
