//! Pruning: weights, heads of attention and rows of feed-forward blocks are masked, gradually while a model
//! is trained or at once.
//!
//! Masks are chosen by magnitudes (Zhu and Gupta 2017) or by scores that are trained with the weights
//! (movement pruning, Sanh et al. 2020). They depend on these and the step alone, so runs are repeatable. Of
//! equals the one with the smaller hash of its index is masked first: in the order of indices, the rows at
//! one end of a matrix would be masked as a whole. Scores are all equal at first.

use crate::device::{Device, Tensor};
use crate::error::Result;
use crate::ops::score_penalty::ScorePenalty;
use crate::params::{MaskUnit, Masking, Params, PruningMask};
use crate::shape::DType;
use half::{bf16, f16};

/// What masks are chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PruneMethod {
    /// The smallest weights are masked; of heads and rows those whose masked weights have the smallest norm.
    Magnitude,
    /// What has the smallest scores is masked. The gradient of a score is that of its mask element, as if
    /// the mask were a number, so that scores fall where the loss asks for a smaller weight.
    Movement,
    /// Weights whose score has a sigmoid of at most a threshold are masked. Heads and rows are masked as in
    /// [`PruneMethod::Movement`].
    SoftMovement,
}

impl PruneMethod {
    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            PruneMethod::Magnitude => "magnitude",
            PruneMethod::Movement => "movement",
            PruneMethod::SoftMovement => "soft_movement",
        }
    }
}

/// What the weights of a model are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PruneScope {
    /// The other weights of their matrix: each matrix has the same sparsity.
    Matrix,
    /// All weights that can be masked.
    Global,
}

/// When is pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneSchedule {
    /// The step before which the first mask is chosen.
    pub begin: u64,
    /// The step before which the last mask is chosen, with the whole sparsity.
    pub end: u64,
    /// Steps between two masks.
    pub every: u64,
}

impl PruneSchedule {
    /// The schedule of a run of `total` steps, where `begin` and `end` are shares of it. At least one step is
    /// trained with the last mask.
    pub fn new([begin, end]: [f64; 2], every: u64, total: u64) -> PruneSchedule {
        let last = total.saturating_sub(1);
        let at = |share: f64| ((share * total as f64) as u64).min(last);
        PruneSchedule { begin: at(begin), end: at(end).max(at(begin)), every: every.max(1) }
    }
    /// How much of what is masked at the end is masked in a step, from 0 to 1:
    /// `1 - (1 - (step - begin) / (end - begin))^3`, eq. 1 of Zhu and Gupta 2017 with an initial sparsity of
    /// 0. Movement pruning has the same schedule: its share of kept weights is 1 less the sparsity.
    pub fn progress_at(&self, step: u64) -> f64 {
        if step < self.begin {
            return 0.0;
        }
        if step >= self.end {
            return 1.0;
        }
        let left = 1.0 - (step - self.begin) as f64 / (self.end - self.begin) as f64;
        1.0 - left.powi(3)
    }
    /// The progress of the masks that are to be chosen before a step; `None` if they stay.
    pub fn due(&self, step: u64) -> Option<f64> {
        let within = step >= self.begin && step < self.end && (step - self.begin).is_multiple_of(self.every);
        (within || step == self.end).then(|| self.progress_at(step))
    }
    /// Whether the mask of a step has the whole sparsity.
    pub fn is_complete(&self, step: u64) -> bool {
        step > self.end
    }
}

/// A bijection of 32 bits (the finalizer of MurmurHash3).
fn hash(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// An integer that is ordered as the number is; 0 of either sign is one number.
fn ordered(x: f32) -> u32 {
    let bits = (x + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// The key that elements are ordered by: the value, then the hash of the index. No two are equal.
fn key(value: f32, index: u32) -> u64 {
    (u64::from(ordered(value)) << 32) | u64::from(hash(index))
}

/// The key below which `count` of these elements are masked.
fn threshold(keys: &mut [u64], count: usize) -> u64 {
    match count.checked_sub(1) {
        None => 0,
        Some(_) if count >= keys.len() => u64::MAX,
        Some(_) => *keys.select_nth_unstable(count).1,
    }
}

/// The keys of matrices, whose indices go on from one to the next in the global scope.
fn keys(matrices: &[Vec<f32>], scope: PruneScope) -> Vec<Vec<u64>> {
    let mut first = 0u32;
    let of = |m: &Vec<f32>| {
        let start = if scope == PruneScope::Global { first } else { 0 };
        first = first.wrapping_add(m.len() as u32);
        m.iter().zip(start..).map(|(&v, i)| key(v, i)).collect()
    };
    matrices.iter().map(of).collect()
}

/// The masks of matrices: 1 for elements that are kept, 0 for those that are masked. These are the smallest
/// ones, `sparsity` times their number, rounded down, in each matrix or among all of them.
///
/// ```
/// use tempra::compress::prune::{PruneScope, choose};
///
/// let matrices = [vec![0.5, -0.1, 2.0, 0.0], vec![3.0, -4.0]];
/// assert_eq!(choose(&matrices, 0.5, PruneScope::Matrix), [[1, 0, 1, 0].to_vec(), [1, 0].to_vec()]);
/// assert_eq!(choose(&matrices, 0.4, PruneScope::Global), [[1, 0, 1, 1].to_vec(), [1, 0].to_vec()]);
/// ```
pub fn choose(matrices: &[Vec<f32>], sparsity: f64, scope: PruneScope) -> Vec<Vec<u8>> {
    let count = |n: usize| (sparsity * n as f64) as usize;
    let keys = keys(matrices, scope);
    let all = match scope {
        PruneScope::Matrix => None,
        PruneScope::Global => {
            let mut all = keys.concat();
            let masked = count(all.len());
            Some(threshold(&mut all, masked))
        }
    };
    let mask = |keys: &Vec<u64>| -> Vec<u8> {
        let below = all.unwrap_or_else(|| threshold(&mut keys.clone(), count(keys.len())));
        keys.iter().map(|&k| (k >= below) as u8).collect()
    };
    keys.iter().map(mask).collect()
}

/// As [`choose`] by magnitudes.
pub fn choose_smallest(weights: &[Vec<f32>], sparsity: f64, scope: PruneScope) -> Vec<Vec<u8>> {
    let magnitudes = |m: &Vec<f32>| m.iter().map(|v| v.abs()).collect();
    choose(&weights.iter().map(magnitudes).collect::<Vec<_>>(), sparsity, scope)
}

/// The share of a matrix that [`choose_above`] keeps at least.
const LEAST: f64 = 0.005;

/// The masks of matrices: 1 for elements whose score has a sigmoid above `tau`. Where that would be less than
/// 0.5 % of a matrix, so many of the highest scores are kept, and at least one.
pub fn choose_above(scores: &[Vec<f32>], tau: f64) -> Vec<Vec<u8>> {
    let mask = |(m, keys): (&Vec<f32>, Vec<u64>)| -> Vec<u8> {
        let mask: Vec<u8> = m.iter().map(|&s| (sigmoid(s) > tau) as u8).collect();
        let least = ((LEAST * m.len() as f64).ceil() as usize).max(1).min(m.len());
        if mask.iter().filter(|&&k| k == 1).count() >= least {
            return mask;
        }
        let below = threshold(&mut keys.clone(), m.len() - least);
        keys.iter().map(|&k| (k >= below) as u8).collect()
    };
    scores.iter().zip(keys(scores, PruneScope::Matrix)).map(mask).collect()
}

fn sigmoid(s: f32) -> f64 {
    1.0 / (1.0 + f64::from(-s).exp())
}

/// What pruning masks at the end, and how it chooses.
#[derive(Clone, Debug, PartialEq)]
pub struct Pruning {
    /// What masks are chosen by.
    pub method: PruneMethod,
    /// What elements are compared with.
    pub scope: PruneScope,
    /// The share of the weights that is masked at the end, from 0 to below 1. It has no meaning with
    /// [`PruneMethod::SoftMovement`].
    pub sparsity: f64,
    /// The share of the heads of attention.
    pub heads: f64,
    /// The share of the rows of feed-forward blocks.
    pub ffn: f64,
    /// The threshold at the end, with [`PruneMethod::SoftMovement`].
    pub threshold: f64,
    /// What the mean sigmoid of the scores costs at the end, with [`PruneMethod::SoftMovement`].
    pub penalty: f64,
}

impl Pruning {
    /// Pruning of single weights by their magnitudes.
    pub fn magnitude(sparsity: f64, scope: PruneScope) -> Pruning {
        let method = PruneMethod::Magnitude;
        Pruning { method, scope, sparsity, heads: 0.0, ffn: 0.0, threshold: 0.0, penalty: 0.0 }
    }
    /// The masks that it needs; `score_lr` is the factor on the learning rate of scores.
    pub fn masking(&self, score_lr: f32) -> Masking {
        let weights = self.sparsity > 0.0 || self.method == PruneMethod::SoftMovement;
        let wanted = [weights, self.heads > 0.0, self.ffn > 0.0];
        let units = MaskUnit::ALL.into_iter().zip(wanted).filter_map(|(unit, wanted)| wanted.then_some(unit));
        let scores = (self.method != PruneMethod::Magnitude).then_some(score_lr);
        Masking { units: units.collect(), scores }
    }
    /// The share of units of a kind that is masked at the end.
    fn share(&self, unit: MaskUnit) -> f64 {
        match unit {
            MaskUnit::Weight => self.sparsity,
            MaskUnit::Head => self.heads,
            MaskUnit::Row => self.ffn,
        }
    }

    /// Chooses the masks of a model anew, for a [progress](PruneSchedule::progress_at). What was masked
    /// before can come back if it has a score; without scores it stays masked. Without scores single weights
    /// are chosen among those that no mask of heads or rows covers, and the share is one of these. The
    /// states of the optimizer are the caller's to mask, by
    /// [`Optimizer::zero_masked_states`](crate::optim::Optimizer::zero_masked_states).
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn choose_masks(&self, device: &Device, params: &Params, progress: f64) -> Result<()> {
        // Single weights last: heads and rows come first, and what these mask is no longer theirs to choose.
        for unit in [MaskUnit::Head, MaskUnit::Row, MaskUnit::Weight] {
            let masks: Vec<&PruningMask> = params.masks().iter().filter(|m| m.unit() == unit).collect();
            if masks.is_empty() {
                continue;
            }
            let candidates = masks.iter().map(|m| Candidates::of(device, params, m));
            let candidates = candidates.collect::<Result<Vec<_>>>()?;
            let values: Vec<Vec<f32>> = candidates.iter().map(|c| c.values.clone()).collect();
            let kept = match (self.method, unit) {
                (PruneMethod::SoftMovement, MaskUnit::Weight) => {
                    choose_above(&values, progress * self.threshold)
                }
                _ => choose(&values, progress * self.share(unit), self.scope),
            };
            for ((m, candidates), kept) in masks.iter().zip(candidates).zip(kept) {
                write_mask(device, &m.mask, &candidates.mask(kept))?;
            }
        }
        params.zero_masked_weights(device)
    }
}

impl Pruning {
    /// Adds the gradient of the penalty to those of the scores, for a
    /// [progress](PruneSchedule::progress_at) and a loss scale, with [`PruneMethod::SoftMovement`]: the
    /// penalty of a matrix is the mean sigmoid of its scores.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    pub fn penalize(&self, device: &Device, params: &Params, progress: f64, scale: f64) -> Result<()> {
        if self.method != PruneMethod::SoftMovement || self.penalty == 0.0 {
            return Ok(());
        }
        let masks = params.masks().iter().filter(|m| m.unit() == MaskUnit::Weight);
        let scores: Vec<_> = masks.filter_map(|m| m.scores.as_ref().zip(m.scores_grad.as_ref())).collect();
        let dtype = params.spec().dtype;
        let lambda = device.upload_reals(dtype, &[1], &[self.penalty * progress * scale])?;
        for (score, grad) in &scores {
            let share = 1.0 / (scores.len() * score.spec.len()) as f32;
            device.step(&ScorePenalty { share }, &[score, grad, &lambda])?;
        }
        Ok(())
    }
}

/// The elements that a mask is chosen among.
struct Candidates {
    /// What they are chosen by.
    values: Vec<f32>,
    /// Without scores: the mask as it is, and which of its elements are chosen among, in order.
    before: Option<(Vec<f64>, Vec<usize>)>,
}

impl Candidates {
    fn of(device: &Device, params: &Params, m: &PruningMask) -> Result<Candidates> {
        if let Some(scores) = &m.scores {
            return Ok(Candidates { values: device.read(scores)?, before: None });
        }
        let (all, mask) = (magnitudes(device, m)?, device.read_reals(&m.mask)?);
        let mut covered = vec![false; all.len()];
        let others = params.masks().iter().filter(|o| o.unit() != m.unit() && o.shares_weight_with(m));
        for other in others.filter(|_| m.unit() == MaskUnit::Weight) {
            let (columns, (_, cols)) = (device.read_reals(&other.mask)?, m.weight.spec.rows_cols());
            let width = (cols / columns.len().max(1)).max(1);
            for (i, covered) in covered.iter_mut().enumerate() {
                *covered |= columns.get(i % cols.max(1) / width) == Some(&0.0);
            }
        }
        let free: Vec<usize> = (0..all.len()).filter(|&i| !covered[i]).collect();
        // Below every magnitude: what is masked already is the first to be masked.
        let value = |&i: &usize| if mask[i] == 0.0 { -1.0 } else { all[i] };
        Ok(Candidates { values: free.iter().map(value).collect(), before: Some((mask, free)) })
    }
    /// The whole mask, of what is kept among the candidates.
    fn mask(self, kept: Vec<u8>) -> Vec<u8> {
        let Some((mask, free)) = self.before else { return kept };
        let mut all: Vec<u8> = mask.iter().map(|&m| (m != 0.0) as u8).collect();
        free.into_iter().zip(kept).for_each(|(i, kept)| all[i] &= kept);
        all
    }
}

/// How many elements of the masks of each kind of unit are masked, and how many there are, in the order of
/// [`MaskUnit::ALL`].
///
/// # Errors
/// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
pub fn masked_units(device: &Device, params: &Params) -> Result<[(usize, usize); 3]> {
    let mut counts = [(0, 0); 3];
    for m in params.masks() {
        let mask = device.read_reals(&m.mask)?;
        let Some(i) = MaskUnit::ALL.iter().position(|u| *u == m.unit()) else { continue };
        counts[i].0 += mask.iter().filter(|&&v| v == 0.0).count();
        counts[i].1 += mask.len();
    }
    Ok(counts)
}

/// The magnitudes that a mask is chosen by: of the weights, or the norms of the columns of each unit.
fn magnitudes(device: &Device, m: &PruningMask) -> Result<Vec<f32>> {
    let weight = device.read::<f32>(&m.weight)?;
    if m.unit() == MaskUnit::Weight {
        return Ok(weight.iter().map(|w| w.abs()).collect());
    }
    let (units, (_, cols)) = (m.mask.spec.len(), m.weight.spec.rows_cols());
    let width = (cols / units.max(1)).max(1);
    let mut squares = vec![0f64; units];
    for row in weight.chunks(cols.max(1)) {
        for (sum, w) in squares.iter_mut().zip(row.chunks(width)) {
            *sum += w.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>();
        }
    }
    Ok(squares.into_iter().map(|sum| sum.sqrt() as f32).collect())
}

/// Writes a mask: 0 for masked elements, any other number for those that are kept. Masked weights are set to
/// 0 by [`Params::zero_masked_weights`], where there are no scores.
///
/// # Errors
/// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
pub fn write_mask(device: &Device, mask: &Tensor, kept: &[u8]) -> Result<()> {
    let of = |k: &u8| (*k != 0) as u8 as f32;
    match mask.spec.dtype {
        DType::BF16 => device.write(mask, &kept.iter().map(|k| bf16::from_f32(of(k))).collect::<Vec<_>>()),
        DType::F16 => device.write(mask, &kept.iter().map(|k| f16::from_f32(of(k))).collect::<Vec<_>>()),
        DType::F64 => device.write(mask, &kept.iter().map(|k| f64::from(of(k))).collect::<Vec<_>>()),
        _ => device.write(mask, &kept.iter().map(of).collect::<Vec<_>>()),
    }
}
