//! Packed batches: sequences end to end, no padding. Which examples make a step is a function of (seed,
//! epoch) alone.

use std::ops::Range;

use super::encoded::TokenSet;
use super::targets::{IGNORED, Targets};
use crate::error::{Error, Result};
use crate::rng::Rng;

/// Sequences packed end to end, ready for the device. One optimizer step sums over one or several batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Token ids, `[tokens]`.
    pub ids: Vec<u32>,
    /// Segment ids (token types), `[tokens]`.
    pub types: Vec<u32>,
    /// Positions within the sequence, `[tokens]`, counted from the position offset.
    pub positions: Vec<u32>,
    /// Where each sequence starts, and the number of tokens: `[sequences + 1]`, from 0.
    pub cu_seqlens: Vec<u32>,
    /// What the examples are trained towards.
    pub targets: Targets,
    /// The weight of each example in the loss, `[examples]`, finite and not negative; empty if all weigh the
    /// same. Tasks whose examples have one loss each read it
    /// ([`TaskEntry::weights`](crate::tasks::TaskEntry::weights)): their loss is the weighted mean over the
    /// optimizer step. No score reads it.
    pub weights: Vec<f32>,
    /// Index of the word that each token belongs to, within its example, `[tokens]`; empty if the task does
    /// not need it.
    pub words: Vec<u32>,
    /// Positions of the tokens that the head predicts, ascending: the masked tokens of a language model,
    /// whose original ids are [`Targets::tokens`].
    pub masked: Vec<u32>,
    /// The attention mask of a permutation, `[3 tokens]`: for each token its position, its rank as a key and
    /// its bound as a query. Empty if every token attends to all tokens. See
    /// [`RelativeAttention`](crate::ops::relative_attention::RelativeAttention).
    pub order: Vec<u32>,
    /// Index in the set of each sequence, or of each pair of sequences, `[examples]`.
    pub examples: Vec<u32>,
    /// Index of the model's head that this batch trains or evaluates.
    pub head: usize,
    /// Whether the last sequence is padding to the size of a bucket.
    pub filled: bool,
    /// Number of tokens in the earlier micro-batches of the step. Dropout offsets count from here, so the
    /// masks of a step do not depend on how it is cut.
    pub first_token: u32,
    /// Number of examples in the earlier micro-batches of the step.
    pub first_example: u32,
}

impl Batch {
    /// Number of examples.
    pub fn len(&self) -> usize {
        self.examples.len()
    }
    /// Number of sequences without padding: one or two for each example.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1 + self.filled as usize)
    }
    /// Number of tokens without padding.
    pub fn real_tokens(&self) -> usize {
        self.cu_seqlens.get(self.sequences()).map_or(0, |&end| end as usize)
    }
    /// Whether it holds no example.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }
    /// Pads the batch to a bucket with one sequence of tokens that no loss reads, so that shapes recur and a
    /// captured CUDA graph can be replayed. The batch grows by at most a sixteenth, or to a multiple of 64
    /// tokens.
    pub fn fill_up(&mut self) {
        let tokens = self.ids.len();
        let step = (tokens.next_power_of_two() / 16).max(64);
        let full = tokens.next_multiple_of(step);
        for list in [&mut self.ids, &mut self.types, &mut self.positions] {
            list.resize(full, 0);
        }
        if !self.order.is_empty() {
            (tokens..full).for_each(|_| self.order.extend([0, 0, 1]));
        }
        self.cu_seqlens.push(full as u32);
        self.filled = true;
        let masked = self.masked.len().next_multiple_of(MASKED_STEP);
        self.masked.resize(masked, IGNORED);
        self.targets.pad(full, masked);
    }
    /// Joins the examples of several micro-batches without their padding, for a loss over all of them. Masked
    /// tokens, orders and the targets of tokens are left out.
    pub fn joined(batches: &[Batch]) -> Batch {
        let targets = Targets::joined(batches.iter().map(|b| &b.targets));
        let mut all = Batch { cu_seqlens: vec![0], targets, ..Batch::default() };
        for batch in batches {
            all.head = batch.head;
            let (start, end) = (all.ids.len() as u32, batch.cu_seqlens[batch.sequences()] as usize);
            all.ids.extend_from_slice(&batch.ids[..end]);
            all.types.extend_from_slice(&batch.types[..end]);
            all.positions.extend_from_slice(&batch.positions[..end]);
            all.cu_seqlens.extend(batch.cu_seqlens[1..=batch.sequences()].iter().map(|at| start + at));
            all.examples.extend_from_slice(&batch.examples);
            all.weights.extend_from_slice(&batch.weights);
        }
        all
    }
    /// The token ids of a sequence; empty if there is no such sequence.
    pub fn sequence(&self, i: usize) -> &[u32] {
        match self.cu_seqlens.get(i..i + 2) {
            Some(&[from, to]) => self.ids.get(from as usize..to as usize).unwrap_or_default(),
            _ => &[],
        }
    }
    /// Number of text tokens, without the query stream of XLNet.
    pub fn tokens(&self) -> usize {
        self.ids.len() - if self.order.is_empty() { 0 } else { self.masked.len() }
    }
    /// Length of the longest sequence in positions; a query of XLNet's second stream has the position of its
    /// token.
    pub fn longest(&self) -> usize {
        if !self.order.is_empty() {
            return self.order.chunks_exact(3).map(|o| o[0] as usize + 1).max().unwrap_or(0);
        }
        let bounds = self.cu_seqlens.windows(2).take(self.sequences());
        bounds.map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0)
    }
}

/// Masked tokens of a batch that is padded to a bucket come in multiples of so many.
const MASKED_STEP: usize = 32;

/// The size of one optimizer step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// This number of sequences.
    Sequences(usize),
    /// As many sequences as fit in this number of tokens; a longer sequence is a step of its own.
    Tokens(usize),
}

/// How an epoch is cut into steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// The size of one step.
    pub batch: BatchSize,
    /// Put sequences of similar length into one step, as Hugging Face's `group_by_length` does.
    pub group_by_length: bool,
    /// Leave out the last step if it is not full.
    pub drop_last: bool,
}

/// The examples of every optimizer step of one epoch, each example once.
///
/// With `group_by_length` the shuffled examples are taken 50 batches at a time (fewer if that makes less than
/// four such portions), each portion is sorted by length, longest first, cut into steps, and the full steps
/// are shuffled. A step that is not full comes last.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for a batch of size 0; [`Kind::Data`](crate::error::Kind::Data)
/// if nothing is left.
pub fn epoch(lengths: &[u32], seed: u64, epoch: u64, opts: &BatchOptions) -> Result<Vec<Vec<u32>>> {
    let (BatchSize::Sequences(size) | BatchSize::Tokens(size)) = opts.batch;
    if size == 0 {
        return Err(Error::usage("the batch size is 0")
            .with_expected("at least 1")
            .with_help("raise train.batch_size or train.batch_tokens"));
    }
    let n = u32::try_from(lengths.len())
        .map_err(|_| Error::data("there are more than 4 billion examples").with_help("split the file"))?;
    let mut order: Vec<u32> = (0..n).collect();
    Rng::new(seed, "epoch", epoch).shuffle(&mut order);
    let length = |i: u32| lengths[i as usize];
    if opts.group_by_length {
        let sequences = match opts.batch {
            BatchSize::Sequences(n) => n,
            BatchSize::Tokens(budget) => {
                let all: u64 = lengths.iter().map(|l| u64::from(*l)).sum();
                (budget as u64 * u64::from(n) / all.max(1)).max(1) as usize
            }
        };
        // The multiple of transformers' get_length_grouped_indices.
        let portion = sequences.saturating_mul((order.len() / sequences.saturating_mul(4)).clamp(1, 50));
        order.chunks_mut(portion).for_each(|chunk| chunk.sort_by_key(|i| std::cmp::Reverse(length(*i))));
    }
    let mut steps: Vec<Vec<u32>> = Vec::new();
    let full;
    match opts.batch {
        BatchSize::Sequences(size) => {
            steps.extend(order.chunks(size).map(<[u32]>::to_vec));
            full = steps.last().is_none_or(|last| last.len() == size);
        }
        BatchSize::Tokens(budget) => {
            let mut tokens = 0;
            for i in order {
                let len = length(i) as usize;
                match steps.last_mut() {
                    Some(step) if tokens + len <= budget => step.push(i),
                    _ => {
                        steps.push(vec![i]);
                        tokens = 0;
                    }
                }
                tokens += len;
            }
            full = tokens >= budget;
        }
    }
    let last = if full { None } else { steps.pop() };
    if opts.group_by_length {
        Rng::new(seed, "steps", epoch).shuffle(&mut steps);
    }
    if !opts.drop_last {
        steps.extend(last);
    }
    if steps.is_empty() {
        return Err(Error::data("the epoch has no step")
            .with_expected("examples for at least one full batch")
            .with_found(format!("{n} examples"))
            .with_help("lower train.batch_size, or set drop_last to false in BatchOptions"));
    }
    Ok(steps)
}

/// Cuts one step into micro-batches: `accumulation` parts of nearly equal count in the order of `step`, none
/// of which holds more than `max_tokens` tokens (a longer sequence stands alone). Put together they are the
/// step.
///
/// `position_offset` is the position of a sequence's first token: 0 for BERT, `padding_idx + 1` = 2 for
/// RoBERTa.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) if `accumulation` or `max_tokens` is 0 or an example does not
/// exist.
pub fn micro_batches(
    set: &TokenSet,
    step: &[u32],
    accumulation: usize,
    max_tokens: Option<usize>,
    position_offset: u32,
) -> Result<Vec<Batch>> {
    if accumulation == 0 || max_tokens == Some(0) {
        return Err(Error::usage("accumulation or max_tokens is 0").with_expected("at least 1 for both"));
    }
    check_indices(set, step)?;
    let mut batches = Vec::new();
    let mut first = Place::default();
    for part in 0..accumulation {
        let range = |k: usize| (step.len() as u128 * k as u128 / accumulation as u128) as usize;
        for cut in cuts(set, &step[range(part)..range(part + 1)], max_tokens.unwrap_or(usize::MAX)) {
            batches.push(pack(set, &step[range(part)..range(part + 1)][cut], &mut first, position_offset)?);
        }
    }
    Ok(batches)
}

/// All examples for evaluation, longest first, packed into batches of at most `max_tokens` tokens (a longer
/// sequence stands alone). `examples` of a batch says where each result belongs.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) if `max_tokens` is 0.
pub fn eval_batches(set: &TokenSet, max_tokens: usize, position_offset: u32) -> Result<Vec<Batch>> {
    if max_tokens == 0 {
        return Err(Error::usage("max_tokens is 0").with_expected("at least 1"));
    }
    let mut order: Vec<u32> = (0..set.len() as u32).collect();
    order.sort_by_key(|i| std::cmp::Reverse(set.length(*i as usize)));
    let mut batches = Vec::new();
    for cut in cuts(set, &order, max_tokens) {
        batches.push(pack(set, &order[cut], &mut Place::default(), position_offset)?);
    }
    Ok(batches)
}

/// Where a micro-batch starts in its step.
#[derive(Default)]
struct Place {
    token: u32,
    example: u32,
}

fn check_indices(set: &TokenSet, examples: &[u32]) -> Result<()> {
    match examples.iter().find(|i| **i as usize >= set.len()) {
        Some(i) => Err(Error::usage("the set has no example with this number")
            .with_expected(format!("a number below {}", set.len()))
            .with_found(i.to_string())),
        None => Ok(()),
    }
}

/// Contiguous runs of examples with at most `max_tokens` tokens each.
fn cuts(set: &TokenSet, examples: &[u32], max_tokens: usize) -> Vec<Range<usize>> {
    let mut cuts: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (i, example) in examples.iter().enumerate() {
        let len = set.length(*example as usize);
        match cuts.last_mut() {
            Some(cut) if tokens + len <= max_tokens => cut.end = i + 1,
            _ => {
                cuts.push(i..i + 1);
                tokens = 0;
            }
        }
        tokens += len;
    }
    cuts
}

fn pack(set: &TokenSet, examples: &[u32], first: &mut Place, position_offset: u32) -> Result<Batch> {
    let mut batch = Batch {
        cu_seqlens: vec![0],
        examples: examples.to_vec(),
        targets: set.targets.of_examples(examples, |i| set.range(i as usize)),
        weights: examples.iter().filter_map(|&i| set.weights.get(i as usize).copied()).collect(),
        first_token: first.token,
        first_example: first.example,
        ..Batch::default()
    };
    for &example in examples {
        let range = set.range(example as usize);
        let len = range.len() as u32;
        batch.words.extend_from_slice(set.words.get(range.clone()).unwrap_or_default());
        batch.ids.extend_from_slice(&set.ids[range.clone()]);
        batch.types.extend_from_slice(&set.types[range]);
        // A pair's second sequence starts over.
        let cut = set.cuts.get(example as usize).copied();
        for part in [cut.unwrap_or(0), len - cut.unwrap_or(0)].into_iter().skip(cut.is_none() as usize) {
            batch.positions.extend(position_offset..position_offset + part);
            batch.cu_seqlens.push(batch.positions.len() as u32);
        }
    }
    let tokens = u32::try_from(batch.ids.len()).ok().and_then(|n| first.token.checked_add(n));
    first.token = tokens.ok_or_else(|| {
        Error::usage("the step has more than 4 billion tokens")
            .with_help("lower train.batch_size or train.batch_tokens")
    })?;
    first.example += examples.len() as u32;
    Ok(batch)
}
