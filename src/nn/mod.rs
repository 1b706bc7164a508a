//! Blocks built from ops. A block declares its parameters once and then runs on any tape; choices live in its
//! config.

pub mod encoder;
pub mod head;
mod layer;
pub mod masked_head;
mod performer;
pub mod permutation;
mod projection;
mod relative;
pub mod taps;
pub mod token_head;

pub use encoder::{Biases, Encoder, EncoderConfig, LayerShape, Order, Positions};
pub use head::{Dense, Head, HeadConfig, Pooling};
pub use masked_head::{MaskedConfig, MaskedHead, Transform};
pub use performer::{Distance, PerformerConfig};
pub use projection::Projection;
pub use taps::Taps;
pub use token_head::TokenHead;

use crate::device::Tensor;
use crate::error::Result;
use crate::ops::Activation;
use crate::ops::add_norm::AddNorm;
use crate::ops::dropout::{Dropout, DropoutRows};
use crate::ops::linear::Linear;
use crate::params::{Bound, Group, Layout};
use crate::tape::{Tape, Var};

/// A packed batch on a tape.
#[derive(Clone)]
pub struct Inputs {
    /// Token ids u32 (tokens).
    pub ids: Var,
    /// Positions u32 (tokens).
    pub positions: Var,
    /// Token types u32 (tokens).
    pub types: Var,
    /// Where each sequence begins, u32 (sequences + 1); with one more of tokens that only pad the batch, if
    /// there are any.
    pub cu_seqlens: Var,
    /// The same without those: of the sequences that are asked about.
    pub sequences: Var,
    /// Tokens that are asked for by themselves, u32, rising; see [`Gather`](crate::ops::gather::Gather).
    pub asked: Option<Var>,
    /// Which of the model's heads is asked.
    pub head: usize,
    /// No sequence that is asked about is longer than this.
    pub longest: usize,
    /// Who sees whom, u32 (tokens, 3), where that is not everybody; see
    /// [`RelativeAttention`](crate::ops::relative_attention::RelativeAttention).
    pub order: Option<Var>,
    /// The random key u32 (5) in training; without it nothing is dropped.
    pub key: Option<Var>,
    /// The number of this forward pass among several over the same batch, from 0 to below [`Inputs::PASSES`].
    /// It chooses the dropout masks.
    pub pass: u32,
}

impl Inputs {
    /// The number of forward passes over one batch that have dropout masks of their own.
    pub const PASSES: u32 = 16;

    /// Puts a batch's tensors on a tape.
    pub fn new(
        tape: &mut Tape,
        [ids, positions, types, cu_seqlens, sequences]: [Tensor; 5],
        key: Option<Tensor>,
    ) -> Self {
        let longest = ids.spec.len();
        let mut put = |t| tape.constant(t);
        let (ids, positions, types) = (put(ids), put(positions), put(types));
        let (cu_seqlens, sequences) = (put(cu_seqlens), put(sequences));
        let (order, key) = (None, key.map(put));
        Inputs {
            ids,
            positions,
            types,
            cu_seqlens,
            sequences,
            asked: None,
            head: 0,
            longest,
            order,
            key,
            pass: 0,
        }
    }
    /// Of sequences that are at most so long.
    pub fn of_length(self, longest: usize) -> Self {
        Inputs { longest, ..self }
    }
    /// A dropout's setting and its key, if this run drops at all.
    fn dropout(&self, p: f32, dropout_id: u32, rows: DropoutRows) -> Option<(Dropout, Var)> {
        // The pass is a part of the dropout id, so that its masks depend on seed, step, id and element like
        // all others: neither a resume nor a cut into micro-batches changes them. The upper half of the id is
        // the kernels', for heads.
        let dropout_id = dropout_id ^ ((self.pass % Self::PASSES) << DropoutIds::BITS);
        let d = Dropout { p, dropout_id, rows };
        self.key.clone().filter(|_| d.active()).map(|key| (d, key))
    }
}

/// Numbers the dropouts of a model in the order they are declared, so that no two share a mask.
#[derive(Default)]
pub struct DropoutIds(u32);

impl DropoutIds {
    /// Ids are below 2 to this power: 512 layers, the most that a config may have, take 2,049 of them, and
    /// the heads a few.
    const BITS: u32 = 12;

    fn next(&mut self) -> u32 {
        self.0 += 1;
        self.0
    }
}

/// Gamma of a layer norm, and beta if it has one.
struct Norm {
    gamma: Group,
    beta: Option<Group>,
}

impl Norm {
    /// Declares `{name}.weight` and, with `bias`, `{name}.bias` (cols).
    fn declare(layout: &mut Layout, name: &str, cols: usize, bias: bool) -> Norm {
        let gamma = layout.add(format!("{name}.weight"), &[cols]);
        Norm { gamma, beta: bias.then(|| layout.add(format!("{name}.bias"), &[cols])) }
    }
    /// The op on x, gamma, beta and what else there is.
    fn run(
        &self,
        tape: &mut Tape,
        p: &Bound,
        op: AddNorm,
        x: Var,
        more: impl IntoIterator<Item = Option<Var>>,
    ) -> Result<Var> {
        let mut inputs = vec![x, p.var(self.gamma)];
        inputs.extend(self.beta.map(|beta| p.var(beta)));
        inputs.extend(more.into_iter().flatten());
        tape.apply(op, inputs)
    }
}

/// A weight and, if there is one, a bias.
struct Affine {
    w: Group,
    b: Option<Group>,
    act: Activation,
}

impl Affine {
    /// Declares `{name}.weight` (out, in) and `{name}.bias` (out).
    fn declare(layout: &mut Layout, name: &str, [out, input]: [usize; 2], act: Activation) -> Affine {
        Affine::declare_with(layout, name, [out, input], act, true)
    }
    /// The same, with or without the bias.
    fn declare_with(
        layout: &mut Layout,
        name: &str,
        [out, input]: [usize; 2],
        act: Activation,
        bias: bool,
    ) -> Affine {
        let w = layout.add(format!("{name}.weight"), &[out, input]);
        Affine { w, b: bias.then(|| layout.add(format!("{name}.bias"), &[out])), act }
    }
    fn run(&self, tape: &mut Tape, p: &Bound, x: Var) -> Result<Var> {
        let mut inputs = vec![x, p.var(self.w)];
        inputs.extend(self.b.map(|b| p.var(b)));
        tape.apply(Linear { act: self.act }, inputs)
    }
}
