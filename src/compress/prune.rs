//! Magnitude pruning: the weights with the smallest absolute values are masked, gradually while a model is
//! trained (Zhu and Gupta 2017) or at once.
//!
//! A mask depends on the weights and the step alone, so runs are repeatable. Of weights of equal magnitude
//! the one with the smaller hash of its index is masked first: in the order of indices, the rows at one end
//! of a matrix would be masked as a whole.

use crate::device::{Device, Tensor};
use crate::error::Result;
use crate::params::Params;
use crate::shape::DType;
use half::{bf16, f16};

/// What the weights of a model are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PruneScope {
    /// The other weights of their matrix: each matrix has the same sparsity.
    Matrix,
    /// All weights that can be masked.
    Global,
}

/// When and how much is pruned.
#[derive(Clone, Copy, Debug)]
pub struct PruneSchedule {
    /// The share of the weights that is masked at the end, from 0 to below 1.
    pub sparsity: f64,
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
    pub fn new(sparsity: f64, [begin, end]: [f64; 2], every: u64, total: u64) -> PruneSchedule {
        let last = total.saturating_sub(1);
        let at = |share: f64| ((share * total as f64) as u64).min(last);
        PruneSchedule { sparsity, begin: at(begin), end: at(end).max(at(begin)), every: every.max(1) }
    }
    /// The sparsity before a step: `s (1 - (1 - (step - begin) / (end - begin))^3)`, eq. 1 of Zhu and Gupta
    /// 2017 with an initial sparsity of 0.
    pub fn sparsity_at(&self, step: u64) -> f64 {
        if step < self.begin {
            return 0.0;
        }
        if step >= self.end {
            return self.sparsity;
        }
        let left = 1.0 - (step - self.begin) as f64 / (self.end - self.begin) as f64;
        self.sparsity * (1.0 - left.powi(3))
    }
    /// The sparsity of the mask that is to be chosen before a step; `None` if the mask stays.
    pub fn due(&self, step: u64) -> Option<f64> {
        let within = step >= self.begin && step < self.end && (step - self.begin).is_multiple_of(self.every);
        (within || step == self.end).then(|| self.sparsity_at(step))
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

/// The key that weights are ordered by: the magnitude, then the hash of the index. No two are equal.
fn key(weight: f32, index: u32) -> u64 {
    (u64::from(weight.abs().to_bits()) << 32) | u64::from(hash(index))
}

/// The key below which `count` of these weights are masked.
fn threshold(keys: &mut [u64], count: usize) -> u64 {
    match count.checked_sub(1) {
        None => 0,
        Some(_) if count >= keys.len() => u64::MAX,
        Some(_) => *keys.select_nth_unstable(count).1,
    }
}

/// The masks of matrices: 1 for weights that are kept, 0 for those that are masked, of which there are
/// `sparsity` times their number, rounded down, in each matrix or among all of them.
///
/// ```
/// use tempra::compress::prune::{PruneScope, choose};
///
/// let matrices = [vec![0.5, -0.1, 2.0, 0.0], vec![3.0, -4.0]];
/// assert_eq!(choose(&matrices, 0.5, PruneScope::Matrix), [[1, 0, 1, 0].to_vec(), [0, 1].to_vec()]);
/// assert_eq!(choose(&matrices, 0.5, PruneScope::Global), [[0, 0, 1, 0].to_vec(), [1, 1].to_vec()]);
/// ```
pub fn choose(matrices: &[Vec<f32>], sparsity: f64, scope: PruneScope) -> Vec<Vec<u8>> {
    let count = |n: usize| (sparsity * n as f64) as usize;
    let mut first = 0u32;
    let keys: Vec<Vec<u64>> = matrices
        .iter()
        .map(|m| {
            let start = if scope == PruneScope::Global { first } else { 0 };
            first = first.wrapping_add(m.len() as u32);
            m.iter().zip(start..).map(|(&w, i)| key(w, i)).collect()
        })
        .collect();
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

/// Chooses the masks of a model anew. Weights that were masked before can come back.
///
/// # Errors
/// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
pub fn mask_smallest(device: &Device, params: &Params, sparsity: f64, scope: PruneScope) -> Result<()> {
    let weights: Vec<Vec<f32>> =
        params.masks().iter().map(|m| device.read::<f32>(&m.weight)).collect::<Result<_>>()?;
    for (m, kept) in params.masks().iter().zip(choose(&weights, sparsity, scope)) {
        write_mask(device, &m.mask, &kept)?;
    }
    Ok(())
}

/// Writes a mask: 0 for masked elements, any other number for those that are kept.
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
