//! Permutation language modelling (Yang et al. 2019, section 2.3): the two streams of XLNet as one sequence
//! for the encoder.
//!
//! Some tokens of a sequence are predicted, one after the other in a random order. Behind its tokens, the
//! content stream, stand their queries, the query stream: a query has its token's place and segment but not
//! its content. What sees whom:
//!
//! - a token that is not predicted is seen by all, and sees all of its kind;
//! - a predicted token sees those, the tokens predicted before it, and itself;
//! - a query sees the same but for the token itself, which it is to predict; nobody sees a query.

use super::Inputs;
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::shape::DType;
use crate::tape::Tape;

/// The rank of a token that is not predicted; predicted ones have 1, 2, ... in the order of their prediction.
pub const GIVEN: u32 = 0;

/// Draws which tokens are predicted, and in which order: spans of 1 to `max_span` tokens, each somewhere in a
/// stretch of 1 / `probability` times its length (`DataCollatorForPermutationLanguageModeling`, whose
/// defaults are 5 and 1/6), never those that `special` marks.
pub fn draw_ranks(special: &[bool], probability: f64, max_span: u32, rng: &mut Rng) -> Vec<u32> {
    let mut targets = Vec::new();
    let mut begin = 0;
    while begin < special.len() {
        let span = 1 + rng.below(max_span.max(1)) as usize;
        let stretch = ((span as f64 / probability) as usize).max(span);
        let from = begin + rng.below((stretch - span + 1) as u32) as usize;
        targets.extend((from..from + span).filter(|&t| special.get(t) == Some(&false)));
        begin += stretch;
    }
    rng.shuffle(&mut targets);
    let mut ranks = vec![GIVEN; special.len()];
    targets.iter().zip(1..).for_each(|(&t, rank)| ranks[t] = rank);
    ranks
}

/// Sequences as two streams each, packed end to end.
#[derive(Clone, Debug, PartialEq)]
pub struct TwoStreams {
    /// Token ids; of a query the number past the vocabulary, whose row is `mask_emb`.
    pub ids: Vec<u32>,
    /// Places in the sequence.
    pub positions: Vec<u32>,
    /// Segments.
    pub types: Vec<u32>,
    /// Where each sequence begins.
    pub cu_seqlens: Vec<u32>,
    /// Place, rank as a key, bound as a query, token by token.
    pub order: Vec<u32>,
    /// The rows of the queries, in the order of their tokens.
    pub queries: Vec<u32>,
    /// The tokens that they are to predict.
    pub targets: Vec<u32>,
    vocab: u32,
    longest: usize,
}

impl TwoStreams {
    /// No sequence yet, for a model with so many tokens.
    pub fn new(vocab: usize) -> TwoStreams {
        let none = Vec::new;
        TwoStreams {
            ids: none(),
            positions: none(),
            types: none(),
            cu_seqlens: vec![0],
            order: none(),
            queries: none(),
            targets: none(),
            vocab: vocab as u32,
            longest: 0,
        }
    }
    /// Adds a sequence whose tokens have these ranks.
    ///
    /// Refused where no token is given: the first query would see nothing.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if no token is given.
    pub fn push(&mut self, ids: &[u32], types: &[u32], ranks: &[u32]) -> Result<()> {
        if ids.len() != types.len() || ids.len() != ranks.len() || !ranks.contains(&GIVEN) {
            return Err(Error::shape("a sequence for permutation language modelling is not valid")
                .with_expected(
                    "one type and one rank per token, and at least one token that is not predicted",
                )
                .with_found(format!("{} tokens, {} types, ranks {ranks:?}", ids.len(), types.len())));
        }
        for (t, (&id, (&kind, &rank))) in ids.iter().zip(types.iter().zip(ranks)).enumerate() {
            self.one(id, t, kind, [rank, rank.saturating_add(1)]);
        }
        for (t, (&id, (&kind, &rank))) in ids.iter().zip(types.iter().zip(ranks)).enumerate() {
            if rank != GIVEN {
                self.queries.push(self.ids.len() as u32);
                self.targets.push(id);
                self.one(self.vocab, t, kind, [u32::MAX, rank]);
            }
        }
        self.cu_seqlens.push(self.ids.len() as u32);
        self.longest = self.longest.max(ids.len());
        Ok(())
    }
    fn one(&mut self, id: u32, place: usize, kind: u32, [rank, bound]: [u32; 2]) {
        self.ids.push(id);
        self.positions.push(place as u32);
        self.types.push(kind);
        self.order.extend([place as u32, rank, bound]);
    }
    /// On a tape, for an encoder with relative positions; `key` as [`Inputs::key`].
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    pub fn inputs(&self, tape: &mut Tape, key: Option<[u32; 5]>) -> Result<Inputs> {
        let device = tape.device();
        let put = |v: &[u32]| device.upload(DType::U32, &[v.len()], v);
        let (ids, positions, types) = (put(&self.ids)?, put(&self.positions)?, put(&self.types)?);
        let cu_seqlens = put(&self.cu_seqlens)?;
        let order = device.upload(DType::U32, &[self.ids.len(), 3], &self.order)?;
        let key = key.map(|k| put(&k)).transpose()?;
        let order = tape.constant(order);
        let inputs = Inputs::new(tape, [ids, positions, types, cu_seqlens.clone(), cu_seqlens], key);
        Ok(Inputs { order: Some(order), ..inputs.of_length(self.longest) })
    }
}
