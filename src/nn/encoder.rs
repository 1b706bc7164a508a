//! The encoder: embeddings, then layers of attention and a feed-forward block.
//!
//! One encoder for every architecture: what differs between them is a choice in [`EncoderConfig`]. Parameters
//! are declared under the names of Hugging Face's BERT without a prefix, such as
//! `encoder.layer.0.attention.self.query.weight`; `models/` knows what each architecture calls them.

use super::layer::{Layer, LayerContext};
use super::performer::{Distance, Performer, PerformerConfig};
use super::relative::Sinusoids;
use super::{Affine, DropoutIds, Inputs, Norm, Taps};
use crate::device::{Device, Tensor};
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::ops::add_norm::AddNorm;
use crate::ops::dropout::DropoutRows;
use crate::ops::embed::Embed;
use crate::params::{Bound, Group, Layout};
use crate::shape::DType;
use crate::tape::{Tape, Var};

/// Where the layer norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Behind each block, over its output and the residual (Vaswani et al. 2017).
    Post,
    /// Before each block but the first, whose input is normal already, and behind the last layer (ModernBERT,
    /// Warner et al. 2024).
    Pre,
}

/// How positions come in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// A table that is added to the tokens'.
    Table,
    /// Queries and keys are turned: the base of the angles in layers that see everything, and in those that
    /// see a window.
    Rotary {
        /// The base where all tokens are seen.
        global: f32,
        /// The base where a window is seen.
        local: f32,
    },
    /// Scores depend on the distance between two tokens and on whether both are in one segment (XLNet).
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

/// The sizes of a layer. Layers of one encoder may differ in them, as in a pruned model. A layer without
/// heads, or without feed-forward rows, has the bias of the output map in the place of that block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerShape {
    /// Attention heads.
    pub heads: usize,
    /// Elements of a query, key or value of one head.
    pub head_dim: usize,
    /// Width of the feed-forward block.
    pub intermediate: usize,
}

impl LayerShape {
    /// A layer whose heads divide the hidden size among them.
    pub fn new(hidden: usize, heads: usize, intermediate: usize) -> LayerShape {
        LayerShape { heads, head_dim: hidden.checked_div(heads).unwrap_or(0), intermediate }
    }
    /// Elements of the queries of all heads: the width of attention's output, before the linear map back to
    /// `hidden`.
    pub fn attention(&self) -> usize {
        self.heads * self.head_dim
    }
    /// The factor on attention scores, 1 / sqrt(head_dim).
    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// The shape and the settings of an encoder. The default is BERT-base (Devlin et al. 2019).
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Rows of the token table.
    pub vocab: usize,
    /// Width of the embedding tables where a linear map leads from there to `hidden` (ALBERT, ELECTRA);
    /// `None`: no map.
    pub embedding: Option<usize>,
    /// The longest sequence.
    pub positions: usize,
    /// Row of the position table for the first token: 0, or `pad_token_id` + 1 (RoBERTa). The table has so
    /// many rows more.
    pub first_position: usize,
    /// Rows of the token-type table; 0: there is none (DistilBERT).
    pub types: usize,
    /// Width.
    pub hidden: usize,
    /// The layers with weights of their own, from the embeddings up.
    pub layers: Vec<LayerShape>,
    /// The number of layers that run, where they share weights: layer i of n runs with the weights of
    /// `layers[i * layers.len() / n]` (ALBERT, Lan et al. 2020, section 3.1). `None`: each of `layers` runs
    /// once.
    pub repeated: Option<usize>,
    /// The activation of the feed-forward block.
    pub act: Activation,
    /// The activation of the heads' dense layer, where the config names one (ModernBERT).
    pub head_act: Option<Activation>,
    /// Layer norm's epsilon.
    pub eps: f32,
    /// Dropout on embeddings and on the output of each block. With pre-norm: on what the gate lets through
    /// instead of the feed-forward block's output.
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
    /// Whether the files hold queries, keys and values as one matrix.
    pub fused: bool,
    /// Whether the files hold attention's matrices with a dimension for heads, (hidden, heads, head_dim),
    /// those of queries, keys and values as input by output (XLNet).
    pub by_head: bool,
    /// Whether the embeddings have a layer norm (XLNet has none).
    pub embedding_norm: bool,
    /// Whether the token table has one more row, `mask_emb`, for positions that have no content: the queries
    /// of permutation language modelling (XLNet).
    pub query_row: bool,
    /// Whether there is dropout inside the feed-forward block, behind the activation (XLNet).
    pub inner_dropout: bool,
    /// Whether there is dropout on the hidden states of the last layer (XLNet).
    pub last_dropout: bool,
    /// Whether the feed-forward block is gated: its first map is twice as wide, act(a) b goes on.
    pub gated_mlp: bool,
    /// Layers that see only tokens at most so far away: the distance, and for each layer whether it is one.
    /// `None`: none is.
    pub windows: Option<(usize, Vec<bool>)>,
    /// Whether the token that stands for the whole sequence is the last one, not the first.
    pub cls_last: bool,
    /// Attention approximated by random features, in layers without a window; `None`: exact. It has no
    /// dropout.
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
            layers: vec![LayerShape::new(768, 12, 3072); 12],
            repeated: None,
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
            by_head: false,
            embedding_norm: true,
            query_row: false,
            inner_dropout: false,
            last_dropout: false,
            gated_mlp: false,
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
    /// The number of layers that run.
    pub fn depth(&self) -> usize {
        self.repeated.unwrap_or(self.layers.len())
    }
    /// The index in `layers` of the weights that the i-th layer runs with.
    fn weights_of(&self, i: usize) -> usize {
        // In floating point, as in transformers, whose rounding decides where sets are uneven.
        (i as f64 / (self.depth() as f64 / self.layers.len() as f64)) as usize
    }
    /// The sizes of the i-th layer that runs, from 0 to below [`EncoderConfig::depth`].
    pub fn layer(&self, i: usize) -> LayerShape {
        self.layers[self.weights_of(i)]
    }
    /// Checks that an encoder can be built: no size is 0, and as many layers run as have weights, or more. A
    /// layer may have no heads, or no feed-forward rows, if the block's output has a bias and its norm
    /// stands behind it.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) otherwise.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String, rule: &str| Err(Error::shape(what).with_expected(rule));
        if self.layers.is_empty() || self.depth() < self.layers.len() {
            return wrong(
                format!("an encoder of {} layers with {} sets of weights", self.depth(), self.layers.len()),
                "at least one set of weights, and at most one for each layer",
            );
        }
        let post = self.order == Order::Post;
        let zero = |l: &LayerShape| {
            l.heads == 0 && !(post && self.biases.attention && !self.relative())
                || l.intermediate == 0 && !(post && self.biases.feed_forward)
                || l.head_dim == 0
        };
        if let Some(i) = self.layers.iter().position(zero) {
            return wrong(
                format!("layer {i} of the encoder has a size of 0: {:?}", self.layers[i]),
                "heads, head_dim and intermediate of at least 1",
            );
        }
        if self.hidden == 0 || self.vocab == 0 || self.embedding == Some(0) {
            return wrong("an encoder has a size of 0".into(), "hidden, embedding and vocab of at least 1");
        }
        Ok(())
    }
}

/// An encoder's parameters and how to run it.
pub struct Encoder {
    config: EncoderConfig,
    word: Group,
    position: Option<Group>,
    kind: Option<Group>,
    norm: Option<Norm>,
    norm_dropout_id: u32,
    project: Option<Affine>,
    /// Those with weights of their own.
    layers: Vec<Layer>,
    /// The dropouts of every layer that is run: attention, its output, the feed-forward block's output,
    /// inside of that.
    dropout_ids: Vec<[u32; 4]>,
    /// Behind the last layer.
    last: Option<Norm>,
    final_dropout_id: u32,
    sinusoids: Option<Sinusoids>,
    performer: Option<Performer>,
    /// Zeros (hidden, 1), where a layer has no heads or no feed-forward rows.
    zeros: Option<Tensor>,
}

impl Encoder {
    /// Declares the parameters under BERT's names.
    pub fn declare(layout: &mut Layout, dropout_ids: &mut DropoutIds, config: &EncoderConfig) -> Encoder {
        let c = config;
        let width = c.embedding.unwrap_or(c.hidden);
        let mut words = vec![("embeddings.word_embeddings.weight".to_owned(), vec![c.vocab, width])];
        if c.query_row {
            words.push(("embeddings.mask_emb".to_owned(), vec![1, 1, width]));
        }
        let word = layout.join_of(words, &[c.vocab + c.query_row as usize, width]);
        layout.table(word);
        if c.query_row {
            // Only permutation language modelling trains it.
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
        let norm =
            c.embedding_norm.then(|| Norm::declare(layout, "embeddings.LayerNorm", width, c.biases.norm));
        let norm_dropout_id = dropout_ids.next();
        let project = c
            .embedding
            .map(|width| Affine::declare(layout, "embeddings_project", [c.hidden, width], Activation::None));
        let layers = (0..c.layers.len()).map(|i| Layer::declare(layout, i, c)).collect();
        let mut layer_dropout_ids: Vec<[u32; 4]> =
            (0..c.depth()).map(|_| [dropout_ids.next(), dropout_ids.next(), dropout_ids.next(), 0]).collect();
        // After all others, whose numbers stay as they are without these.
        let mut more = |wanted: bool| if wanted { dropout_ids.next() } else { 0 };
        layer_dropout_ids.iter_mut().for_each(|s| s[3] = more(c.inner_dropout));
        let (final_dropout_id, dropout_ids) = (more(c.last_dropout), layer_dropout_ids);
        let last = (c.order == Order::Pre)
            .then(|| Norm::declare(layout, "encoder.LayerNorm", c.hidden, c.biases.norm));
        let (config, sinusoids, performer, zeros) = (c.clone(), None, None, None);
        Encoder {
            config,
            word,
            position,
            kind,
            norm,
            norm_dropout_id,
            project,
            layers,
            dropout_ids,
            last,
            final_dropout_id,
            sinusoids,
            performer,
            zeros,
        }
    }

    /// The token table (vocab, embedding).
    pub fn words(&self) -> Group {
        self.word
    }

    /// The hidden states of the last layer, (tokens, hidden): [`Encoder::layers`] of [`Encoder::embed`]. What
    /// `taps` ask for is in them afterwards.
    ///
    /// # Errors
    /// Those of the ops: [`Kind::Shape`](crate::error::Kind::Shape),
    /// [`Kind::Memory`](crate::error::Kind::Memory), [`Kind::Lost`](crate::error::Kind::Lost).
    pub fn run(&self, tape: &mut Tape, p: &Bound, batch: &Inputs, taps: &mut Taps) -> Result<Var> {
        let hidden = self.embed(tape, p, batch)?;
        self.layers(tape, p, batch, hidden, taps)
    }

    /// All layers over hidden states (tokens, hidden), such as those of [`Encoder::embed`], and what follows
    /// the last layer: the hidden states that heads read, (tokens, hidden).
    ///
    /// # Errors
    /// Those of [`Encoder::run`].
    pub fn layers(
        &self,
        tape: &mut Tape,
        p: &Bound,
        batch: &Inputs,
        mut hidden: Var,
        taps: &mut Taps,
    ) -> Result<Var> {
        taps.clear();
        taps.see_hidden(&hidden);
        let sinusoids = self.sinusoids.as_ref().map(|s| s.of(tape, batch.longest)).transpose()?;
        for (i, dropout_ids) in self.dropout_ids.iter().enumerate() {
            let layer = &self.layers[self.config.weights_of(i)];
            let context = LayerContext {
                config: &self.config,
                layer: i,
                dropout_ids: *dropout_ids,
                performer: self.performer.as_ref(),
                sinusoids: sinusoids.as_ref(),
                zeros: self.zeros.as_ref(),
            };
            hidden = layer.run(tape, p, batch, context, taps, hidden)?;
            taps.see_hidden(&hidden);
        }
        if let Some(last) = &self.last {
            let op = AddNorm { eps: self.config.eps, residual: false, before: None, after: None };
            hidden = last.run(tape, p, op, hidden, [])?;
        }
        if self.config.last_dropout {
            self.drop(tape, batch, self.final_dropout_id, hidden)
        } else {
            Ok(hidden)
        }
    }

    /// Drops hidden states.
    fn drop(&self, tape: &mut Tape, batch: &Inputs, dropout_id: u32, x: Var) -> Result<Var> {
        match batch.dropout(self.config.hidden_dropout, dropout_id, DropoutRows::Tokens) {
            Some((drop, key)) => tape.apply(drop, [x, key]),
            None => Ok(x),
        }
    }

    /// Puts on the device what is no parameter: sinusoids of relative positions, the random features of
    /// approximated attention, zeros for layers without heads or rows. To be called once, before anything
    /// runs.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    pub fn prepare(&mut self, device: &Device, dtype: DType) -> Result<()> {
        let c = &self.config;
        let compute = device.caps().compute;
        let activations = if compute.size() < dtype.size() && dtype == DType::F32 { compute } else { dtype };
        if let Positions::Relative { clamp } = c.encoding {
            self.sinusoids = Some(Sinusoids::new(device, c, clamp, activations)?);
        }
        if c.layers.iter().any(|l| l.heads == 0 || l.intermediate == 0) {
            self.zeros = Some(device.zeros(activations, &[c.hidden, 1])?);
        }
        let dims: Vec<usize> = (0..c.depth()).map(|i| c.layer(i).head_dim).collect();
        self.performer = c.performer.map(|p| Performer::new(device, p, &dims, dtype)).transpose()?;
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
    /// How far approximated attention is from exact attention, layer by layer, over what `run` runs; nothing
    /// if it is exact.
    ///
    /// # Errors
    /// Those of `run`.
    pub fn compared(&self, run: impl FnOnce() -> Result<()>) -> Result<Vec<Distance>> {
        self.performer.as_ref().map_or(Ok(Vec::new()), |p| p.compared(run))
    }

    /// The embeddings of a batch, (tokens, hidden): the sum of the tables' rows, then layer norm, dropout and
    /// the linear map to `hidden`, as far as the config has them.
    ///
    /// # Errors
    /// Those of [`Encoder::run`].
    pub fn embed(&self, tape: &mut Tape, p: &Bound, batch: &Inputs) -> Result<Var> {
        let c = &self.config;
        let tables = [(&batch.positions, self.position), (&batch.types, self.kind)];
        let more = tables.into_iter().filter_map(|(index, table)| Some((index.clone(), p.var(table?))));
        let (indices, tables): (Vec<Var>, Vec<Var>) = more.unzip();
        let mut x = vec![batch.ids.clone()];
        x.extend(indices);
        x.push(p.var(self.word));
        x.extend(tables);
        let sum = tape.apply(Embed { first_position: c.first_position as u32 }, x)?;
        let normed = match &self.norm {
            None => self.drop(tape, batch, self.norm_dropout_id, sum)?,
            Some(norm) => {
                let (after, key) =
                    batch.dropout(c.hidden_dropout, self.norm_dropout_id, DropoutRows::Tokens).unzip();
                let op = AddNorm { eps: c.eps, residual: false, before: None, after };
                norm.run(tape, p, op, sum, [key])?
            }
        };
        match &self.project {
            Some(project) => project.run(tape, p, normed),
            None => Ok(normed),
        }
    }
}
