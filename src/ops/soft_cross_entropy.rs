//! loss = scale sum_i w_i T^2 KL(p_i || q_i), p = softmax(t / T), q = softmax(s / T): the student's logits s
//! learn the distribution that the teacher's logits t give at the temperature T (Hinton et al. 2015,
//! "Distilling the Knowledge in a Neural Network", sec. 2).
//!
//! s (rows, C), t (rows, C), weights w (rows), scale (1) -> loss (1). Rows with weight 0 count nothing. The
//! teacher has no gradient; t has the type of s, or that of sums. This is the cross-entropy of the teacher's
//! distribution less that distribution's entropy, which no student changes: so 0 is reached, and the gradient
//! is that of the cross-entropy. T^2 keeps the size of the gradient where T changes. With w_i = 1 and scale =
//! 1 / rows this is T^2 times PyTorch's `kl_div` with reduction "batchmean".
//!
//! ds = dloss scale w T (q - p).
//!
//! With d = ln p - ln q the divergence is summed as p d - p + q = p (d + exp(-d) - 1). The terms are never
//! negative, and an error in log sum exp cancels from their sum: T^2 would make it large. Where d is small, a
//! series replaces d + exp(-d) - 1, a difference of nearly equal numbers. Equal logits give exactly 0. A row
//! is read twice: for both log sum exp together (online softmax, Milakov and Gimelshein 2018), then for the
//! sum.
//!
//! Saves for each row log sum exp(t / T) and log sum exp(s / T): (2, rows).

use super::{
    Backward, CUDA_THREADS, Call, Case, Cost, Forward, Input, On, Op, Plan, accumulator, by_dtype,
    compute_dtype_beside, groups_for, launch, launch_cuda, refuse,
};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{BLOCK, Real, max_lanes, sum_lanes, sum_over, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::Spec;

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct SoftCrossEntropy {
    /// T: what both logits are divided by, above 0.
    pub temperature: f32,
}

/// Statistics of a row that are saved.
const SAVED: usize = 2;

impl Op for SoftCrossEntropy {
    fn name(&self) -> &'static str {
        "soft_cross_entropy"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let wrong = || {
            let expected = "student logits (rows, C), teacher logits (rows, C), weights (rows), scale (1), temperature > 0";
            refuse("soft_cross_entropy", expected, x)
        };
        let [s, t, w, scale] = x else { return Err(wrong()) };
        let (rows, classes) = s.rows_cols();
        let positive = self.temperature > 0.0 && self.temperature.is_finite();
        if s.shape != t.shape || w.shape != [rows] || scale.shape != [1] || classes == 0 || !positive {
            return Err(wrong());
        }
        // Logits that were kept are exact, those of a teacher that runs beside the model are activations.
        let exact: &[usize] = if t.dtype == s.dtype { &[2, 3] } else { &[1, 2, 3] };
        let sums = accumulator(compute_dtype_beside("soft_cross_entropy", caps, x, exact)?);
        let plan = Plan::new(vec![Spec::new(sums, &[1])], vec![Spec::new(sums, &[SAVED, rows])]);
        Ok(plan.with_scratch([rows * sums.size(), 0]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let ([rows, _], n) = (call.rows_cols(0), call.len(0));
        // For s and t: z / T, the maximum, z - max, exp, the sum. Then ln p, ln q, d, p, q, p d - p + q and
        // the sum. For each row two logarithms with their maxima, the weight and the sum; at the end T^2
        // scale, and its product.
        let forward = 19.0 * n + 6.0 * rows + 2.0;
        // z / T, minus log sum exp, exp for both; q - p and the rate; the rate of each row.
        let backward = 8.0 * n + rows + 2.0 + call.all_sums();
        let inputs: f64 = (0..call.x.len()).map(|i| call.input(i)).sum();
        Cost::new([forward, backward], [call.whole(), inputs + call.output(1) + call.dy() + call.all_dense()])
    }
}

impl On<Cpu> for SoftCrossEntropy {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, forward(self, cpu, io))
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, backward(self, cpu, io))
    }
}

/// log sum exp of a row times `inverse`.
#[inline(always)]
fn lse<T: Real>(z: &[T], inverse: T) -> T {
    let max = max_lanes(z) * inverse;
    max + sum_over(z, |z| (z * inverse - max).exp()).ln()
}

/// x y, and 0 for x = 0 also where y is infinite: the limit of p ln p.
#[inline(always)]
fn times<T: Real>(x: T, y: T) -> T {
    if x == T::ZERO { T::ZERO } else { x * y }
}

/// Below this |d| the series stands for d + exp(-d) - 1: eight terms, an error of 1e-12 at its end.
const SERIES: f64 = 0.125;

/// p d - p + q of a class, from ln p and ln q.
#[inline(always)]
fn term<T: Real>(lp: T, lq: T) -> T {
    let (p, q, d) = (lp.exp(), lq.exp(), lp - lq);
    let of = |n: f64| T::of(1.0 / n);
    let series = d
        * d
        * (of(2.0)
            - d * (of(6.0)
                - d * (of(24.0)
                    - d * (of(120.0)
                        - d * (of(720.0) - d * (of(5040.0) - d * (of(40320.0) - d * of(362880.0))))))));
    let near = d < T::of(SERIES) && d > T::of(-SERIES);
    if near { p * series } else { times(p, d) - p + q }
}

/// Rows of one unit of parallel work: few, where classes are a vocabulary.
fn rows_at_once(classes: usize) -> usize {
    (BLOCK * 128 / classes.max(1)).clamp(1, BLOCK)
}

fn forward<T: Real>(op: &SoftCrossEntropy, cpu: &Cpu, io: Forward) -> Result<()> {
    let (rows, classes) = io.x[0].spec.rows_cols();
    let (s, t, w) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?, io.x[2].cpu::<T>()?);
    let (temperature, inverse) = (T::of(op.temperature as f64), T::of(1.0 / op.temperature as f64));
    let scratch = cpu.scratch(rows * size_of::<T>())?;
    let mut losses = scratch.write::<T>(0, rows)?;
    let mut saved = io.y[1].cpu_mut::<T>()?;
    let (of_t, of_s) = saved.split_at_mut(rows);
    let block = rows_at_once(classes);
    let task = |(b, (losses, stats)): (usize, (&mut [T], [&mut [T]; 2]))| {
        let [of_t, of_s] = stats;
        vectorise!({
            for (r, loss) in losses.iter_mut().enumerate() {
                let i = b * block + r;
                let (s, t) = (&s[i * classes..][..classes], &t[i * classes..][..classes]);
                let (lt, ls) = (lse(t, inverse), lse(s, inverse));
                let sum = sum_lanes(classes, |c| term(t[c] * inverse - lt, s[c] * inverse - ls));
                *loss = times(w[i], sum);
                (of_t[r], of_s[r]) = (lt, ls);
            }
        })
    };
    let stats = of_t.par_chunks_mut(block).zip(of_s.par_chunks_mut(block)).map(|(t, s)| [t, s]);
    cpu.install(|| losses.par_chunks_mut(block).zip(stats).enumerate().for_each(task));
    let scale = temperature * temperature * io.x[3].cpu::<T>()?[0];
    io.y[0].cpu_mut::<T>()?[0] = scale * losses.iter().copied().sum::<T>();
    Ok(())
}

fn backward<T: Real>(op: &SoftCrossEntropy, cpu: &Cpu, io: Backward) -> Result<()> {
    let Some(g) = io.dx(0) else { return Ok(()) };
    let (rows, classes) = io.x[0].spec.rows_cols();
    let (s, t, w) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?, io.x[2].cpu::<T>()?);
    let saved = io.y[1].cpu::<T>()?;
    let inverse = T::of(1.0 / op.temperature as f64);
    let rate = io.x[3].cpu::<T>()?[0] * io.dy()?.cpu::<T>()?[0] * T::of(op.temperature as f64);
    let mut ds = g.t.cpu_mut::<T>()?;
    let task = |(i, ds): (usize, &mut [T])| {
        vectorise!({
            let (lt, ls, rate) = (saved[i], saved[rows + i], rate * w[i]);
            let z = s[i * classes..][..classes].iter().zip(&t[i * classes..][..classes]);
            for (ds, (&s, &t)) in ds.iter_mut().zip(z) {
                let d = times(rate, (s * inverse - ls).exp() - (t * inverse - lt).exp());
                *ds = if g.add { *ds + d } else { d };
            }
        })
    };
    let least = rows_at_once(classes);
    cpu.install(|| ds.par_chunks_mut(classes).with_min_len(least).enumerate().for_each(task));
    Ok(())
}

impl SoftCrossEntropy {
    /// Rows, classes, whether to add, T, 1 / T.
    fn params(&self, x: &Tensor, add: bool) -> [u32; 5] {
        let (rows, classes) = x.spec.rows_cols();
        let [t, inverse] = [self.temperature, (1.0 / self.temperature as f64) as f32].map(f32::to_bits);
        [rows as u32, classes as u32, add as u32, t, inverse]
    }
}

pub(super) const SHADER: &str = include_str!("../../shaders/soft_cross_entropy.wgsl");

impl On<Wgpu> for SoftCrossEntropy {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let (x, rows) = (io.x, io.x[2].spec.len());
        let each = device.scratch(io.y[1].spec.dtype, &[rows])?;
        let buffers = [x[0], x[1], x[2], x[3], io.y[1], io.y[0], &each];
        let p = self.params(x[0], false);
        launch(device, (SHADER, "forward"), &[], groups_for(rows), &buffers, &p)?;
        launch(device, (SHADER, "sum_rows"), &[], [1; 3], &buffers, &p)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let (Some(g), x) = (io.dx(0), io.x) else { return Ok(()) };
        let buffers = [x[0], x[1], x[2], x[3], io.y[1], io.dy()?, g.t];
        let (groups, p) = (groups_for(x[2].spec.len()), self.params(x[0], g.add));
        launch(device, (SHADER, "backward"), &[], groups, &buffers, &p)
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/soft_cross_entropy.cu");

/// A warp for each row.
fn warps(rows: usize) -> [u32; 3] {
    [rows.div_ceil(CUDA_THREADS as usize / 32) as u32, 1, 1]
}

/// The types of the student's logits, of their gradient, and of the teacher's logits.
fn consts(x: &[&Tensor], g: &Tensor) -> [(&'static str, Const); 3] {
    [("T", x[0]), ("G", g), ("U", x[1])].map(|(name, t)| (name, Const::Type(t.spec.dtype)))
}

impl On<Cuda> for SoftCrossEntropy {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let (x, rows) = (io.x, io.x[2].spec.len());
        let each = device.scratch(io.y[1].spec.dtype, &[rows])?;
        let consts = consts(x, x[0]);
        let p = self.params(x[0], false);
        let buffers = [x[0], x[1], x[2], io.y[1], &each];
        launch_cuda(device, (KERNEL, "soft_cross_entropy_forward"), &consts, warps(rows), &buffers, &p)?;
        let buffers = [&each, x[3], io.y[0]];
        launch_cuda(device, (KERNEL, "soft_cross_entropy_sum"), &consts, [1; 3], &buffers, &p)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let (Some(g), x) = (io.dx(0), io.x) else { return Ok(()) };
        let consts = consts(x, g.t);
        let buffers = [x[0], x[1], x[2], x[3], io.dy()?, io.y[1], g.t];
        let (groups, p) = (warps(x[2].spec.len()), self.params(x[0], g.add));
        launch_cuda(device, (KERNEL, "soft_cross_entropy_backward"), &consts, groups, &buffers, &p)
    }
}

/// Edge cases: one row, one class, more classes than a warp, more rows than a block, far apart, a hot and a
/// cold temperature, weights of 0, no rows.
pub fn cases() -> Vec<Case> {
    let case = |label, [rows, classes]: [usize; 2], temperature, range: f64, weight: fn(usize) -> f64| {
        let student = Input { shape: vec![rows, classes], fill: super::Fill::Real(-range, range) };
        // In [-range, range], with ties and both ends.
        let teacher: Vec<f64> =
            (0..rows * classes).map(|i| range * ((i * 37 % 21) as f64 / 10.0 - 1.0)).collect();
        let weights: Vec<f64> = (0..rows).map(weight).collect();
        let inputs = vec![
            student,
            Input::fixed(&[rows, classes], &teacher),
            Input::fixed(&[rows], &weights),
            Input::fixed(&[1], &[0.37]),
        ];
        Case::new(label, SoftCrossEntropy { temperature }, inputs)
    };
    let mut live = case("a teacher in the type of activations", [7, 67], 2.0, 2.0, |_| 1.0);
    live.inputs[1].fill = super::Fill::Detached(-2.0, 2.0);
    vec![
        live,
        case("two classes", [4, 2], 2.0, 2.0, |_| 1.0),
        case("one row", [1, 5], 1.0, 3.0, |_| 0.5),
        case("one class", [3, 1], 2.0, 2.0, |_| 1.0),
        case("more classes than a warp, weighted", [7, 67], 2.0, 2.0, |i| 0.3 + i as f64),
        case("more rows than a block, some of weight 0", [67, 3], 3.0, 2.0, |i| (i % 3) as f64),
        case("far apart", [9, 11], 1.0, 30.0, |_| 1.0),
        case("a high temperature", [5, 7], 20.0, 4.0, |_| 1.0),
        case("a low temperature", [5, 7], 0.5, 4.0, |_| 1.0),
        case("a vocabulary", [2, 3001], 2.0, 4.0, |_| 1.0),
        case("no rows", [0, 4], 2.0, 1.0, |_| 1.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::ops::Grad;
    use crate::shape::DType;

    /// Loss and the student's gradient of one row.
    fn run(dtype: DType, temperature: f32, s: &[f64], t: &[f64]) -> (f64, Vec<f64>) {
        let device = Device::open("cpu", 1).unwrap();
        let put = |shape: &[usize], v: &[f64]| device.upload_reals(dtype, shape, v).unwrap();
        let n = s.len();
        let (s, t, one) = (put(&[1, n], s), put(&[1, n], t), put(&[1], &[1.0]));
        let (loss, saved) = (put(&[1], &[f64::NAN]), put(&[SAVED, 1], &[f64::NAN; SAVED]));
        let ds = put(&[1, n], &vec![f64::NAN; n]);
        let (op, x, y) = (SoftCrossEntropy { temperature }, [&s, &t, &one, &one], [&loss, &saved]);
        device.forward(&op, Forward { x: &x, y: &y }).unwrap();
        let dx = [Some(Grad::new(&ds, false)), None, None, None];
        device.backward(&op, Backward { x: &x, y: &y, dy: &[Some(&one)], dx: &dx }).unwrap();
        (device.read_reals(&loss).unwrap()[0], device.read_reals(&ds).unwrap())
    }

    /// By hand, T = 2: p = (3/4, 1/4) from t = (2 ln 3, 0), q = (1/2, 1/2); 4 (3/4 ln(3/2) + 1/4 ln(1/2)).
    #[test]
    fn two_classes_by_hand() {
        let (loss, ds) = run(DType::F64, 2.0, &[0.0, 0.0], &[2.0 * 3f64.ln(), 0.0]);
        let truth = 3.0 * 1.5f64.ln() + 0.5f64.ln();
        assert!((loss - truth).abs() < 1e-14, "{loss} {truth}");
        // T (q - p).
        assert!((ds[0] + 0.5).abs() < 1e-14 && (ds[1] - 0.5).abs() < 1e-14, "{ds:?}");
    }

    /// Equal logits give exactly nothing, also at classes without probability; other distances are finite
    /// where they should be.
    #[test]
    fn extremes() {
        for row in [vec![1.7, -3.0, 0.2], vec![0.0, f64::NEG_INFINITY, 1.0], vec![-1e30, 0.0, 800.0]] {
            let (loss, ds) = run(DType::F64, 3.0, &row, &row);
            assert!(loss == 0.0 && ds.iter().all(|g| *g == 0.0), "{row:?}: {loss} {ds:?}");
        }
        let (loss, ds) = run(DType::F64, 1.0, &[900.0, 0.0], &[0.0, 900.0]);
        assert!((loss - 900.0).abs() < 1e-9 && ds.iter().all(|g| g.is_finite()), "{loss}");
        // What the teacher excludes may have a probability, but not the other way round.
        let (loss, _) = run(DType::F64, 1.0, &[0.0, 0.0], &[f64::NEG_INFINITY, 0.0]);
        assert!((loss - 2f64.ln()).abs() < 1e-14, "{loss}");
        assert_eq!(run(DType::F64, 1.0, &[f64::NEG_INFINITY, 0.0], &[0.0, 0.0]).0, f64::INFINITY);
        assert!(run(DType::F64, 1.0, &[f64::NAN, 0.0], &[0.0, 0.0]).0.is_nan());
        assert!(run(DType::F64, 1.0, &[0.0, 0.0], &[0.0, f64::NAN]).0.is_nan());
    }

    /// At a high temperature the loss tends to half the variance of t - s, also in f32: the error in log sum
    /// exp does not count T^2 times.
    #[test]
    fn a_high_temperature_costs_no_precision() {
        let (s, t) = ([1.0, -2.0, 0.5, 3.0], [0.5, -1.0, 1.5, -2.0]);
        let d: Vec<f64> = s.iter().zip(&t).map(|(s, t)| t - s).collect();
        let mean = d.iter().sum::<f64>() / 4.0;
        let half_variance = d.iter().map(|d| (d - mean) * (d - mean)).sum::<f64>() / 8.0;
        let (exact, _) = run(DType::F64, 1e3, &s, &t);
        let (single, _) = run(DType::F32, 1e3, &s, &t);
        assert!((exact / half_variance - 1.0).abs() < 5e-3, "{exact} {half_variance}");
        assert!((single / exact - 1.0).abs() < 5e-4, "{single} {exact}");
    }
}
