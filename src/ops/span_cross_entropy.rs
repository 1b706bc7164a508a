//! loss = scale / 2 * sum_s sum_k (lse_sk - logits[target_sk, k]), lse_sk = log sum_t exp(logits[t, k]) over
//! the tokens t of s.
//!
//! logits (tokens, 2), cu_seqlens u32 (sequences + 1), target u32 (sequences, 2), scale (1) -> loss (1).
//! Column 0 says where an answer starts, column 1 where it ends; a target is a token counted from the
//! sequence's first. With scale = 1 / the number of sequences it is the loss of `BertForQuestionAnswering`:
//! the mean of two cross-entropies (Devlin et al. 2019, sec. 4.2). A target beyond its sequence counts
//! nothing, as there; tokens beyond the last sequence, which only pad a batch, have no part in it and no
//! gradient. Saves lse (sequences, 2).

use super::{
    Backward, CUDA_THREADS, Call, Case, Cost, Forward, Input, On, Op, Plan, accumulator, blocks_for,
    by_dtype, compute_dtype_beside, groups_for, launch, launch_cuda, refuse, sequences_within,
};
use crate::device::cpu::Real;
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::{DType, Spec};

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct SpanCrossEntropy;

impl Op for SpanCrossEntropy {
    fn name(&self) -> &'static str {
        "span_cross_entropy"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let wrong = || {
            let expected = "logits (tokens, 2), cu_seqlens (sequences + 1), target (sequences, 2), scale (1)";
            refuse("span_cross_entropy", expected, x)
        };
        let [logits, bounds, target, scale] = x else { return Err(wrong()) };
        let ints = [bounds, target].iter().all(|s| s.dtype == DType::U32);
        if !ints || bounds.is_empty() || logits.rows_cols().1 != 2 || scale.shape != [1] {
            return Err(wrong());
        }
        let seqs = bounds.len() - 1;
        if target.shape != [seqs, 2] {
            return Err(wrong());
        }
        let sums = accumulator(compute_dtype_beside("span_cross_entropy", caps, x, &[3])?);
        let (loss, lse) = (Spec::new(sums, &[1]), Spec::new(sums, &[seqs, 2]));
        let scratch = if caps.gpu { 2 * seqs * sums.size() } else { 0 };
        Ok(Plan::new(vec![loss], vec![lse]).with_scratch([scratch, 0]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let tokens = call.rows_cols(0)[0] as usize;
        let lengths = call.lengths(1, tokens);
        let target = call.integers(2);
        // Columns of sequences, their logits, and those of both whose target lies in the sequence: the others
        // have no gradient.
        let [mut columns, mut logits, mut hits, mut pulled] = [0.0; 4];
        for (s, &len) in lengths.iter().enumerate().filter(|(_, len)| **len > 0) {
            let hit =
                |k: usize| target.is_none_or(|t| t.get(2 * s + k).is_some_and(|&at| (at as usize) < len));
            let both = [0, 1].map(|k| hit(k) as u8 as f64).iter().sum::<f64>();
            columns += 2.0;
            logits += 2.0 * len as f64;
            hits += both;
            pulled += both * len as f64;
        }
        // The maximum, z - max, exp, the sum; for each column the logarithm and its sum with the maximum; for
        // each hit lse - z and the sum; half the scale. Backward: exp(z - lse) times the rate, minus the rate
        // at the hit.
        let forward = 4.0 * logits + 2.0 * columns + 2.0 * hits + 2.0;
        let backward = 3.0 * pulled + hits + 2.0 + call.sums(0, pulled);
        let others: f64 = (1..4).map(|i| call.input(i)).sum();
        let each = call.row(0) / 2.0;
        let lse = call.y.get(1).map_or(0.0, |s| s.dtype.size() as f64);
        let read = pulled * each + others + hits * lse + call.dy();
        let bytes =
            [logits * each + others + call.output(0) + call.output(1), read + call.sparse(0, pulled / 2.0)];
        Cost::new([forward, backward], bytes)
    }
}

impl On<Cpu> for SpanCrossEntropy {
    fn forward(&self, _: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, forward(io))
    }
    fn backward(&self, _: &Cpu, io: Backward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, backward(io))
    }
}

fn forward<T: Real>(io: Forward) -> Result<()> {
    let seqs = sequences_within(&io.x[1].cpu::<u32>()?, io.x[0].spec.rows_cols().0)?;
    let (z, target, scale) = (io.x[0].cpu::<T>()?, io.x[2].cpu::<u32>()?, io.x[3].cpu::<T>()?[0]);
    let mut lse = io.y[1].cpu_mut::<T>()?;
    let mut loss = T::ZERO;
    for (i, s) in seqs.into_iter().enumerate() {
        for k in 0..2 {
            let logits = || s.clone().map(|t| z[2 * t + k]);
            let most = logits().fold(T::of(f64::NEG_INFINITY), |m, z| m.larger(z));
            let norm = most + logits().map(|z| (z - most).exp()).sum::<T>().ln();
            lse[2 * i + k] = norm;
            let at = target[2 * i + k] as usize;
            if at < s.len() {
                loss += norm - z[2 * (s.start + at) + k];
            }
        }
    }
    io.y[0].cpu_mut::<T>()?[0] = scale * T::of(0.5) * loss;
    Ok(())
}

/// dlogits = dloss scale / 2 (softmax - one-hot of the target).
fn backward<T: Real>(io: Backward) -> Result<()> {
    let Some(g) = io.dx(0) else { return Ok(()) };
    let seqs = sequences_within(&io.x[1].cpu::<u32>()?, io.x[0].spec.rows_cols().0)?;
    let (z, target, lse) = (io.x[0].cpu::<T>()?, io.x[2].cpu::<u32>()?, io.y[1].cpu::<T>()?);
    let rate = T::of(0.5) * io.x[3].cpu::<T>()?[0] * io.dy()?.cpu::<T>()?[0];
    let mut dx = g.t.cpu_mut::<T>()?;
    if !g.add {
        dx.fill(T::ZERO);
    }
    for (i, s) in seqs.into_iter().enumerate() {
        for k in 0..2 {
            let at = target[2 * i + k] as usize;
            if at >= s.len() {
                continue;
            }
            for t in s.clone() {
                let hit = T::of((t == s.start + at) as u8 as f64);
                dx[2 * t + k] += rate * ((z[2 * t + k] - lse[2 * i + k]).exp() - hit);
            }
        }
    }
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/span_cross_entropy.wgsl");

fn params(x: &[&Tensor], add: bool) -> [u32; 3] {
    [x[0].spec.rows_cols().0, x[1].spec.len() - 1, add as usize].map(|v| v as u32)
}

impl On<Wgpu> for SpanCrossEntropy {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let (x, lse) = (io.x, io.y[1]);
        let each = device.scratch(lse.spec.dtype, &lse.spec.shape)?;
        let buffers = [x[0], x[1], x[2], x[3], lse, io.y[0], &each];
        let p = params(x, false);
        launch(device, (SHADER, "forward"), &[], groups_for(lse.spec.len()), &buffers, &p)?;
        launch(device, (SHADER, "sum_all"), &[], [1; 3], &buffers, &p)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let (Some(g), x) = (io.dx(0), io.x) else { return Ok(()) };
        let buffers = [x[0], x[1], x[2], x[3], io.y[1], io.dy()?, g.t];
        let groups = groups_for(x[0].spec.rows_cols().0);
        launch(device, (SHADER, "backward"), &[], groups, &buffers, &params(x, g.add))
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/span_cross_entropy.cu");

impl On<Cuda> for SpanCrossEntropy {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let (x, lse) = (io.x, io.y[1]);
        let each = device.scratch(lse.spec.dtype, &lse.spec.shape)?;
        let dtype = Const::Type(x[0].spec.dtype);
        let (consts, p) = ([("T", dtype), ("G", dtype)], params(x, false));
        let groups = [lse.spec.len().div_ceil(CUDA_THREADS as usize / 32) as u32, 1, 1];
        let entry = (KERNEL, "span_cross_entropy_forward");
        launch_cuda(device, entry, &consts, groups, &[x[0], x[1], x[2], lse, &each], &p)?;
        let entry = (KERNEL, "span_cross_entropy_sum");
        launch_cuda(device, entry, &consts, [1; 3], &[&each, x[3], io.y[0]], &p)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let (Some(g), x) = (io.dx(0), io.x) else { return Ok(()) };
        let consts = [("T", Const::Type(x[0].spec.dtype)), ("G", Const::Type(g.t.spec.dtype))];
        let buffers = [x[0], x[1], x[2], x[3], io.dy()?, io.y[1], g.t];
        let entry = (KERNEL, "span_cross_entropy_backward");
        launch_cuda(device, entry, &consts, blocks_for(x[0].spec.rows_cols().0), &buffers, &params(x, g.add))
    }
}

/// Edge cases: one token, the first and the last one, targets that do not count, longer than a warp, padded.
pub fn cases() -> Vec<Case> {
    let case = |label, bounds: &[u32], target: &[u32], more: usize| {
        let tokens = bounds.last().copied().unwrap_or(0) as usize + more;
        let logits = Input { shape: vec![tokens, 2], fill: super::Fill::Real(-4.0, 4.0) };
        let target = Input { shape: vec![target.len() / 2, 2], fill: super::Fill::Ints(target.to_vec()) };
        Case::new(
            label,
            SpanCrossEntropy,
            vec![logits, Input::ints(bounds), target, Input::fixed(&[1], &[0.37])],
        )
    };
    vec![
        case("three", &[0, 4, 9, 12], &[1, 2, 0, 4, 2, 2], 0),
        case("one token", &[0, 1], &[0, 0], 0),
        case("longer than a warp", &[0, 70, 75], &[69, 69, 0, 3], 0),
        case("targets that do not count", &[0, 3, 6], &[3, 1, u32::MAX, u32::MAX], 0),
        case("padded", &[0, 3, 5], &[1, 2, 0, 0], 4),
        case("no sequences", &[0], &[], 0),
    ]
}
