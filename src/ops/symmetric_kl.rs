//! loss = scale sum_i w_i (KL(p_i || q_i) + KL(q_i || p_i)) / 2, p = softmax(a), q = softmax(b): how far two
//! distributions over classes are from each other, in nats (Jeffreys' divergence, halved).
//!
//! logits a and b (rows, C), weights w (rows), scale (1) -> loss (1). It is the regularizer of R-Drop (Liang
//! et al. 2021, eq. 2), where a and b come from two passes over the same rows. Rows with weight 0 count
//! nothing. With d = ln p - ln q:
//!
//! - KL(p || q) = sum_c p_c d_c, KL(q || p) = -sum_c q_c d_c; the loss is their mean, 1/2 sum_c (p_c - q_c)
//!   d_c, whose terms are never negative;
//! - da_c = dloss scale w / 2 (p_c (d_c - KL(p || q)) + p_c - q_c), and db_c with p and q exchanged.
//!
//! All logarithms are log-softmax, so no probability is too small. Equal logits give exactly 0, and so are
//! their gradients.
//!
//! Saves for each row log sum exp(a), log sum exp(b), KL(p || q), KL(q || p): (4, rows).

use super::{
    Backward, CUDA_THREADS, Call, Case, Cost, Forward, Input, On, Op, Plan, accumulator, by_dtype,
    compute_dtype_beside, groups_for, launch, launch_cuda, refuse,
};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{BLOCK, Real, max_lanes, sum_over, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::Spec;

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct SymmetricKl;

/// Statistics of a row that are saved.
const SAVED: usize = 4;

impl Op for SymmetricKl {
    fn name(&self) -> &'static str {
        "symmetric_kl"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let wrong = || refuse("symmetric_kl", "logits a and b (rows, C), weights (rows), scale (1)", x);
        let [a, b, w, scale] = x else { return Err(wrong()) };
        let (rows, classes) = a.rows_cols();
        if a.shape != b.shape || w.shape != [rows] || scale.shape != [1] || classes == 0 {
            return Err(wrong());
        }
        let sums = accumulator(compute_dtype_beside("symmetric_kl", caps, x, &[2, 3])?);
        let plan = Plan::new(vec![Spec::new(sums, &[1])], vec![Spec::new(sums, &[SAVED, rows])]);
        Ok(plan.with_scratch([rows * sums.size(), 0]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let ([rows, _], n) = (call.rows_cols(0), call.len(0));
        // For a and b: the maximum, z - max, exp, the sum; ln p and p. Then d, p d and q d with their sums,
        // (p - q) d and its sum. For each row: two logarithms with their maxima; the half, the weight and the
        // sum.
        let forward = 20.0 * n + 7.0 * rows + 1.0;
        let wanted = call.wants(0) as u8 as f64 + call.wants(1) as u8 as f64;
        // For each gradient ln p, ln q, p, q, d, p (d - KL) + p - q, the rate; the rate of each row.
        let backward = wanted * (10.0 * n + rows) + 2.0 + call.all_sums();
        let inputs: f64 = (0..call.x.len()).map(|i| call.input(i)).sum();
        // Both logarithms, and one divergence for each gradient.
        let saved = call.output(1) * (2.0 + wanted) / SAVED as f64;
        Cost::new([forward, backward], [call.whole(), inputs + saved + call.dy() + call.all_dense()])
    }
}

impl On<Cpu> for SymmetricKl {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, forward(cpu, io))
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, backward(cpu, io))
    }
}

/// log sum exp of a row.
#[inline(always)]
fn lse<T: Real>(z: &[T]) -> T {
    let max = max_lanes(z);
    max + sum_over(z, |z| (z - max).exp()).ln()
}

/// x y, and 0 for x = 0 also where y is infinite: the limit of p ln p.
#[inline(always)]
fn times<T: Real>(x: T, y: T) -> T {
    if x == T::ZERO { T::ZERO } else { x * y }
}

fn forward<T: Real>(cpu: &Cpu, io: Forward) -> Result<()> {
    let (rows, classes) = io.x[0].spec.rows_cols();
    let (a, b, w) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?, io.x[2].cpu::<T>()?);
    let scratch = cpu.scratch(rows * size_of::<T>())?;
    let mut losses = scratch.write::<T>(0, rows)?;
    let mut saved = io.y[1].cpu_mut::<T>()?;
    // Each task has its rows of all four statistics.
    let mut stats: Vec<Vec<&mut [T]>> =
        (0..rows.div_ceil(BLOCK)).map(|_| Vec::with_capacity(SAVED)).collect();
    for part in saved.chunks_mut(rows.max(1)) {
        part.chunks_mut(BLOCK).zip(&mut stats).for_each(|(part, of)| of.push(part));
    }
    let task = |(t, (losses, mut stats)): (usize, (&mut [T], Vec<&mut [T]>))| {
        vectorise!({
            for (r, loss) in losses.iter_mut().enumerate() {
                let i = t * BLOCK + r;
                let (a, b) = (&a[i * classes..][..classes], &b[i * classes..][..classes]);
                let (la, lb) = (lse(a), lse(b));
                let (mut sum, mut ab, mut ba) = (T::ZERO, T::ZERO, T::ZERO);
                for (&a, &b) in a.iter().zip(b) {
                    let (p, q, d) = ((a - la).exp(), (b - lb).exp(), (a - la) - (b - lb));
                    sum += times(p - q, d);
                    ab += times(p, d);
                    ba += times(q, -d);
                }
                *loss = times(w[i], sum * T::of(0.5));
                for (of, value) in stats.iter_mut().zip([la, lb, ab, ba]) {
                    of[r] = value;
                }
            }
        })
    };
    cpu.install(|| losses.par_chunks_mut(BLOCK).zip(stats).enumerate().for_each(task));
    io.y[0].cpu_mut::<T>()?[0] = io.x[3].cpu::<T>()?[0] * losses.iter().copied().sum::<T>();
    Ok(())
}

fn backward<T: Real>(cpu: &Cpu, io: Backward) -> Result<()> {
    let (rows, classes) = io.x[0].spec.rows_cols();
    let (w, saved) = (io.x[2].cpu::<T>()?, io.y[1].cpu::<T>()?);
    let rate = io.x[3].cpu::<T>()?[0] * io.dy()?.cpu::<T>()?[0] * T::of(0.5);
    for own in 0..2 {
        let Some(g) = io.dx(own) else { continue };
        let (a, b) = (io.x[own].cpu::<T>()?, io.x[1 - own].cpu::<T>()?);
        let mut dx = g.t.cpu_mut::<T>()?;
        let task = |(i, dx): (usize, &mut [T])| {
            vectorise!({
                let (la, lb, kl) =
                    (saved[own * rows + i], saved[(1 - own) * rows + i], saved[(2 + own) * rows + i]);
                let rate = rate * w[i];
                let z = a[i * classes..][..classes].iter().zip(&b[i * classes..][..classes]);
                for (dx, (&a, &b)) in dx.iter_mut().zip(z) {
                    let (p, q, d) = ((a - la).exp(), (b - lb).exp(), (a - la) - (b - lb));
                    let d = times(rate, times(p, d - kl) + (p - q));
                    *dx = if g.add { *dx + d } else { d };
                }
            })
        };
        cpu.install(|| dx.par_chunks_mut(classes).with_min_len(BLOCK).enumerate().for_each(task));
    }
    Ok(())
}

/// Rows, classes, which of both logits the gradient is of, whether to add.
fn params(x: &Tensor, own: usize, add: bool) -> [u32; 4] {
    let (rows, classes) = x.spec.rows_cols();
    [rows as u32, classes as u32, own as u32, add as u32]
}

pub(super) const SHADER: &str = include_str!("../../shaders/symmetric_kl.wgsl");

impl On<Wgpu> for SymmetricKl {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let (x, rows) = (io.x, io.x[2].spec.len());
        let each = device.scratch(io.y[1].spec.dtype, &[rows])?;
        let buffers = [x[0], x[1], x[2], x[3], io.y[1], io.y[0], &each];
        let p = params(x[0], 0, false);
        launch(device, (SHADER, "forward"), &[], groups_for(rows), &buffers, &p)?;
        launch(device, (SHADER, "sum_rows"), &[], [1; 3], &buffers, &p)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let x = io.x;
        for own in 0..2 {
            let Some(g) = io.dx(own) else { continue };
            let buffers = [x[own], x[1 - own], x[2], x[3], io.y[1], io.dy()?, g.t];
            let (groups, p) = (groups_for(x[2].spec.len()), params(x[0], own, g.add));
            launch(device, (SHADER, "backward"), &[], groups, &buffers, &p)?;
        }
        Ok(())
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/symmetric_kl.cu");

/// A warp for each row.
fn warps(rows: usize) -> [u32; 3] {
    [rows.div_ceil(CUDA_THREADS as usize / 32) as u32, 1, 1]
}

impl On<Cuda> for SymmetricKl {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let (x, rows) = (io.x, io.x[2].spec.len());
        let each = device.scratch(io.y[1].spec.dtype, &[rows])?;
        let consts = [("T", Const::Type(x[0].spec.dtype)), ("G", Const::Type(x[0].spec.dtype))];
        let p = params(x[0], 0, false);
        let buffers = [x[0], x[1], x[2], io.y[1], &each];
        launch_cuda(device, (KERNEL, "symmetric_kl_forward"), &consts, warps(rows), &buffers, &p)?;
        launch_cuda(device, (KERNEL, "symmetric_kl_sum"), &consts, [1; 3], &[&each, x[3], io.y[0]], &p)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let x = io.x;
        for own in 0..2 {
            let Some(g) = io.dx(own) else { continue };
            let consts = [("T", Const::Type(x[0].spec.dtype)), ("G", Const::Type(g.t.spec.dtype))];
            let buffers = [x[own], x[1 - own], x[2], x[3], io.dy()?, io.y[1], g.t];
            let (groups, p) = (warps(x[2].spec.len()), params(x[0], own, g.add));
            launch_cuda(device, (KERNEL, "symmetric_kl_backward"), &consts, groups, &buffers, &p)?;
        }
        Ok(())
    }
}

/// Edge cases: one row, one class, more classes than a warp, more rows than a block, far apart, weights of 0,
/// no rows.
pub fn cases() -> Vec<Case> {
    let case = |label, [rows, classes]: [usize; 2], range: f64, weight: fn(usize) -> f64| {
        let logits = || Input { shape: vec![rows, classes], fill: super::Fill::Real(-range, range) };
        let weights: Vec<f64> = (0..rows).map(weight).collect();
        let inputs = vec![logits(), logits(), Input::fixed(&[rows], &weights), Input::fixed(&[1], &[0.37])];
        Case::new(label, SymmetricKl, inputs)
    };
    vec![
        case("two classes", [4, 2], 2.0, |_| 1.0),
        case("one row", [1, 5], 3.0, |_| 0.5),
        case("one class", [3, 1], 2.0, |_| 1.0),
        case("more classes than a warp, weighted", [7, 67], 2.0, |i| 0.3 + i as f64),
        case("more rows than a block, some of weight 0", [67, 3], 2.0, |i| (i % 3) as f64),
        case("far apart", [9, 11], 30.0, |_| 1.0),
        case("no rows", [0, 4], 1.0, |_| 1.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::shape::DType;

    /// Loss and both gradients of one row.
    fn run(a: &[f64], b: &[f64]) -> (f64, [Vec<f64>; 2]) {
        let device = Device::open("cpu", 1).unwrap();
        let put = |shape: &[usize], v: &[f64]| device.upload(DType::F64, shape, v).unwrap();
        let n = a.len();
        let (a, b, one) = (put(&[1, n], a), put(&[1, n], b), put(&[1], &[1.0]));
        let (loss, saved) = (put(&[1], &[f64::NAN]), put(&[SAVED, 1], &[f64::NAN; SAVED]));
        let (da, db) = (put(&[1, n], &vec![f64::NAN; n]), put(&[1, n], &vec![f64::NAN; n]));
        let x = [&a, &b, &one, &one];
        device.forward(&SymmetricKl, Forward { x: &x, y: &[&loss, &saved] }).unwrap();
        let dx =
            [Some(crate::ops::Grad::new(&da, false)), Some(crate::ops::Grad::new(&db, false)), None, None];
        device
            .backward(&SymmetricKl, Backward { x: &x, y: &[&loss, &saved], dy: &[Some(&one)], dx: &dx })
            .unwrap();
        let read = |t| device.read::<f64>(t).unwrap();
        (read(&loss)[0], [read(&da), read(&db)])
    }

    /// By hand: p = (3/4, 1/4), q = (1/2, 1/2). KL(p || q) = 3/4 ln(3/2) + 1/4 ln(1/2), KL(q || p) = 1/2
    /// ln(2/3) + 1/2 ln 2, so the mean is 1/2 (1/4 ln(3/2) - 1/4 ln(1/2)) = ln(3) / 8.
    #[test]
    fn two_classes_by_hand() {
        let (loss, [da, db]) = run(&[3f64.ln(), 0.0], &[0.0, 0.0]);
        assert!((loss - 3f64.ln() / 8.0).abs() < 1e-14, "{loss}");
        // The sum over classes of p_c, and so of the logits' gradients, does not change.
        assert!((da[0] + da[1]).abs() < 1e-14 && (db[0] + db[1]).abs() < 1e-14, "{da:?} {db:?}");
        // d/da of 1/2 (p - q) (logit difference), p = sigmoid(a): 1/2 (p (1 - p) ln 3 + p - 1/2).
        let gradient = 0.5 * (3.0 / 16.0 * 3f64.ln() + 0.25);
        assert!((da[0] - gradient).abs() < 1e-14, "{da:?} {gradient}");
    }

    /// Equal logits, also such as have no probability, give exactly nothing; other distances are finite where
    /// they should be.
    #[test]
    fn extremes() {
        for row in [vec![1.7, -3.0, 0.2], vec![0.0, f64::NEG_INFINITY, 1.0], vec![-1e30, 0.0, 800.0]] {
            let (loss, gradients) = run(&row, &row);
            assert!(
                loss == 0.0 && gradients.iter().flatten().all(|g| *g == 0.0),
                "{row:?}: {loss} {gradients:?}"
            );
        }
        let (loss, gradients) = run(&[900.0, 0.0], &[0.0, 900.0]);
        assert!((loss - 900.0).abs() < 1e-9 && gradients.iter().flatten().all(|g| g.is_finite()), "{loss}");
        let (loss, _) = run(&[f64::NEG_INFINITY, 0.0], &[0.0, 0.0]);
        assert_eq!(loss, f64::INFINITY);
        assert!(run(&[f64::NAN, 0.0], &[0.0, 0.0]).0.is_nan());
    }
}
