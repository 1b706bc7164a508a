//! loss = scale sum_r w_r m_r: hidden states of a student match those of a teacher. m_r is the distance of
//! two rows s and t of d columns.
//!
//! student (rows, d), teacher (rows, d), weights w (rows), scale (1) -> loss (1). Rows with weight 0 count
//! nothing, whatever they hold. The teacher has no gradient.
//!
//! - [`RowDistance::Mse`]: m = |s - t|^2 / d. With w_r = 1 and scale = 1 / rows this is PyTorch's `mse_loss`
//!   (TinyBERT, Jiao et al. 2020, eq. 8). ds = dloss scale w 2 / d (s - t). Nothing is saved.
//! - [`RowDistance::Cosine`]: m = 1 - s t / sqrt((|s|^2 + eps) (|t|^2 + eps)), eps = 1e-12. With w_r = 1 and
//!   scale = 1 / rows this is PyTorch's `CosineEmbeddingLoss` with target 1 (DistilBERT, Sanh et al. 2019,
//!   sec. 3), which has this eps and gives 1 for a row of zeros. `F.cosine_similarity` limits each norm to at
//!   least 1e-8 instead. ds = dloss scale w p (p s - q t - m p s) with p = 1 / sqrt(|s|^2 + eps), q = 1 /
//!   sqrt(|t|^2 + eps).
//!
//! A cosine near 1 would lose its digits in the difference from 1. So m = (|p s - q t|^2 + eps (p^2 + q^2)) /
//! 2, which is the same number, and a sum of squares. Saves p, q and m of each row, (3, rows).

use super::{
    Backward, CUDA_THREADS, Call, Case, Cost, Forward, Input, On, Op, Plan, accumulator, by_dtype,
    compute_dtype_beside, launch, launch_cuda, refuse,
};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{BLOCK, Real, sum_lanes, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu, fold};
use crate::error::{Error, Result};
use crate::shape::Spec;

/// How far a student's row is from the teacher's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowDistance {
    /// The mean of the squared differences.
    Mse,
    /// 1 minus the cosine of the angle between the rows.
    Cosine,
}

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct HiddenMatch {
    /// How a row is measured.
    pub distance: RowDistance,
}

/// What is added to squared norms.
const EPS: f64 = 1e-12;
/// Numbers of a row that are saved with cosine.
const SAVED: usize = 3;

impl Op for HiddenMatch {
    fn name(&self) -> &'static str {
        "hidden_match"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let expected = "student (rows, d), teacher (rows, d), weights (rows), scale (1)";
        let wrong = || refuse("hidden_match", expected, x);
        let [student, teacher, weights, scale] = x else { return Err(wrong()) };
        let (rows, cols) = student.rows_cols();
        let planes = student.shape.len() == 2 && student.shape == teacher.shape && cols > 0;
        if !planes || weights.shape != [rows] || scale.shape != [1] {
            return Err(wrong());
        }
        let sums = accumulator(compute_dtype_beside("hidden_match", caps, x, &[2, 3])?);
        let saved = match self.distance {
            RowDistance::Mse => vec![],
            RowDistance::Cosine => vec![Spec::new(sums, &[SAVED, rows])],
        };
        Ok(Plan::new(vec![Spec::new(sums, &[1])], saved).with_scratch([rows * sums.size(), 0]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let ([rows, _], n) = (call.rows_cols(0), call.len(0));
        let [forward, backward] = match self.distance {
            // s - t, its square, the sum; of a row 1 / d, the weight, the sum; the scale. Then s - t and the
            // rate; the rate of a row; scale dloss 2 / d.
            RowDistance::Mse => [3.0 * n + 3.0 * rows + 1.0, 2.0 * n + rows + 3.0],
            // Both squares and their sums, p s, q t, p s - q t, its square, the sum; of a row twice eps, the
            // root, the reciprocal, then eps p p + eps q q (5), two of m, the weight, the sum; the scale.
            // Then p s, q t, their difference, m p s, its difference and the rate; scale dloss w p.
            RowDistance::Cosine => [9.0 * n + 15.0 * rows + 1.0, 6.0 * n + 2.0 * rows + 1.0],
        };
        let inputs: f64 = (0..call.x.len()).map(|i| call.input(i)).sum();
        let saved = if self.distance == RowDistance::Cosine { call.output(1) } else { 0.0 };
        let backward = [backward + call.all_sums(), inputs + saved + call.dy() + call.all_dense()];
        Cost::new([forward, backward[0]], [call.whole(), backward[1]])
    }
}

/// Where to write the gradient of the student, if it is needed.
///
/// # Errors
/// The teacher has no gradient.
fn wanted<'a>(io: &Backward<'a>) -> Result<Option<super::Grad<'a>>> {
    if io.dx(1).is_some() {
        return Err(Error::shape("hidden_match has no gradient of the teacher")
            .with_expected("a gradient of the student only")
            .with_help("give the teacher to the tape as a constant"));
    }
    Ok(io.dx(0))
}

impl On<Cpu> for HiddenMatch {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, forward(self, cpu, io))
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, backward(self, cpu, io))
    }
}

/// A number times a weight; 0 for weight 0 whatever the number is.
#[inline(always)]
fn weighed<T: Real>(w: T, v: T) -> T {
    if w == T::ZERO { T::ZERO } else { w * v }
}

fn forward<T: Real>(op: &HiddenMatch, cpu: &Cpu, io: Forward) -> Result<()> {
    let (rows, cols) = io.x[0].spec.rows_cols();
    let (s, t, w) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?, io.x[2].cpu::<T>()?);
    let scratch = cpu.scratch(rows * size_of::<T>())?;
    let mut losses = scratch.write::<T>(0, rows)?;
    let (inverse, eps, half) = (T::of(1.0 / cols as f64), T::of(EPS), T::of(0.5));
    let row = |i: usize| (&s[i * cols..][..cols], &t[i * cols..][..cols]);
    match op.distance {
        RowDistance::Mse => {
            let task = |(i, loss): (usize, &mut T)| {
                let (s, t) = row(i);
                let sum = vectorise!(sum_lanes(cols, |c| (s[c] - t[c]) * (s[c] - t[c])));
                *loss = weighed(w[i], inverse * sum);
            };
            cpu.install(|| losses.par_iter_mut().with_min_len(BLOCK).enumerate().for_each(task));
        }
        RowDistance::Cosine => {
            let mut saved = io.y[1].cpu_mut::<T>()?;
            let (ps, others) = saved.split_at_mut(rows);
            let (qs, ms) = others.split_at_mut(rows);
            let stats = ps.par_iter_mut().zip(qs.par_iter_mut()).zip(ms.par_iter_mut());
            let stats = stats.map(|((p, q), m)| [p, q, m]);
            let task = |(i, (loss, [p, q, m])): (usize, (&mut T, [&mut T; 3]))| {
                let (s, t) = row(i);
                *p = T::ONE / (vectorise!(sum_lanes(cols, |c| s[c] * s[c])) + eps).sqrt();
                *q = T::ONE / (vectorise!(sum_lanes(cols, |c| t[c] * t[c])) + eps).sqrt();
                let (p, q) = (*p, *q);
                let apart = vectorise!(sum_lanes(cols, |c| {
                    let d = p * s[c] - q * t[c];
                    d * d
                }));
                *m = half * (apart + (eps * p * p + eps * q * q));
                *loss = weighed(w[i], *m);
            };
            cpu.install(|| losses.par_iter_mut().zip(stats).with_min_len(BLOCK).enumerate().for_each(task));
        }
    }
    io.y[0].cpu_mut::<T>()?[0] = io.x[3].cpu::<T>()?[0] * losses.iter().copied().sum::<T>();
    Ok(())
}

fn backward<T: Real>(op: &HiddenMatch, cpu: &Cpu, io: Backward) -> Result<()> {
    let Some(g) = wanted(&io)? else { return Ok(()) };
    let (rows, cols) = io.x[0].spec.rows_cols();
    let (s, t, w) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?, io.x[2].cpu::<T>()?);
    let rate = io.x[3].cpu::<T>()?[0] * io.dy()?.cpu::<T>()?[0];
    let mut ds = g.t.cpu_mut::<T>()?;
    let put = |to: &mut T, d: T| *to = if g.add { *to + d } else { d };
    match op.distance {
        RowDistance::Mse => {
            let rate = rate * T::of(2.0 / cols as f64);
            let task = |(i, ds): (usize, &mut [T])| {
                let rate = rate * w[i];
                let both = s[i * cols..][..cols].iter().zip(&t[i * cols..][..cols]);
                ds.iter_mut().zip(both).for_each(|(ds, (&s, &t))| put(ds, weighed(rate, s - t)));
            };
            cpu.install(|| ds.par_chunks_mut(cols).with_min_len(BLOCK).enumerate().for_each(task));
        }
        RowDistance::Cosine => {
            let saved = io.y[1].cpu::<T>()?;
            let task = |(i, ds): (usize, &mut [T])| {
                let [p, q, m] = [saved[i], saved[rows + i], saved[2 * rows + i]];
                let rate = weighed(w[i], rate * p);
                let both = s[i * cols..][..cols].iter().zip(&t[i * cols..][..cols]);
                for (ds, (&s, &t)) in ds.iter_mut().zip(both) {
                    let own = p * s;
                    put(ds, weighed(rate, own - q * t - m * own));
                }
            };
            cpu.install(|| ds.par_chunks_mut(cols).with_min_len(BLOCK).enumerate().for_each(task));
        }
    }
    Ok(())
}

impl HiddenMatch {
    fn cosine(&self) -> u32 {
        (self.distance == RowDistance::Cosine) as u32
    }
    /// Rows, columns, whether to add, 1 / columns.
    fn params(&self, x: &Tensor, add: bool) -> [u32; 4] {
        let (rows, cols) = x.spec.rows_cols();
        [rows as u32, cols as u32, add as u32, ((1.0 / cols as f64) as f32).to_bits()]
    }
    /// What is saved; where nothing is, another tensor that no kernel reads there.
    fn saved<'a>(&self, y: &[&'a Tensor], other: &'a Tensor) -> &'a Tensor {
        y.get(1).copied().unwrap_or(other)
    }
}

pub(super) const SHADER: &str = include_str!("../../shaders/hidden_match.wgsl");

impl On<Wgpu> for HiddenMatch {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let (x, rows) = (io.x, io.x[2].spec.len());
        let each = device.scratch(io.y[0].spec.dtype, &[rows])?;
        let buffers = [x[0], x[1], x[2], x[3], self.saved(io.y, x[2]), io.y[0], &each];
        let (consts, p) = ([("COSINE", self.cosine())], self.params(x[0], false));
        launch(device, (SHADER, "forward"), &consts, fold(rows), &buffers, &p)?;
        launch(device, (SHADER, "sum_rows"), &consts, [1; 3], &buffers, &p)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let (Some(g), x) = (wanted(&io)?, io.x) else { return Ok(()) };
        let buffers = [x[0], x[1], x[2], x[3], self.saved(io.y, x[2]), io.dy()?, g.t];
        let (consts, p) = ([("COSINE", self.cosine())], self.params(x[0], g.add));
        launch(device, (SHADER, "backward"), &consts, fold(x[2].spec.len()), &buffers, &p)
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/hidden_match.cu");

/// A warp for each row.
fn warps(rows: usize) -> [u32; 3] {
    [rows.div_ceil(CUDA_THREADS as usize / 32) as u32, 1, 1]
}

impl HiddenMatch {
    fn consts(&self, x: &Tensor, g: &Tensor) -> [(&'static str, Const); 3] {
        [
            ("T", Const::Type(x.spec.dtype)),
            ("G", Const::Type(g.spec.dtype)),
            ("COSINE", Const::U32(self.cosine())),
        ]
    }
}

impl On<Cuda> for HiddenMatch {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let (x, rows) = (io.x, io.x[2].spec.len());
        let each = device.scratch(io.y[0].spec.dtype, &[rows])?;
        let (consts, p) = (self.consts(x[0], x[0]), self.params(x[0], false));
        let buffers = [x[0], x[1], x[2], self.saved(io.y, x[2]), &each];
        launch_cuda(device, (KERNEL, "hidden_match_forward"), &consts, warps(rows), &buffers, &p)?;
        let buffers = [&each, x[3], io.y[0]];
        launch_cuda(device, (KERNEL, "hidden_match_sum"), &consts, [1; 3], &buffers, &p)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let (Some(g), x) = (wanted(&io)?, io.x) else { return Ok(()) };
        let (consts, p) = (self.consts(x[0], g.t), self.params(x[0], g.add));
        let buffers = [x[0], x[1], x[2], x[3], io.dy()?, self.saved(io.y, x[2]), g.t];
        let groups = warps(x[2].spec.len());
        launch_cuda(device, (KERNEL, "hidden_match_backward"), &consts, groups, &buffers, &p)
    }
}

/// Edge cases of both distances: one row, one column, more columns than a warp or a group, more rows than a
/// block, weights of 0, no rows, a teacher of zeros, equal directions.
pub fn cases() -> Vec<Case> {
    let case = |label, distance, [rows, cols]: [usize; 2], weight: fn(usize) -> f64| {
        let weights: Vec<f64> = (0..rows).map(weight).collect();
        let inputs = vec![
            Input::real(&[rows, cols]),
            Input::detached(&[rows, cols]),
            Input::fixed(&[rows], &weights),
            Input::fixed(&[1], &[0.37]),
        ];
        Case::new(label, HiddenMatch { distance }, inputs)
    };
    let mut zeros = case("a teacher of zeros", RowDistance::Cosine, [3, 5], |_| 1.0);
    zeros.inputs[1].fill = super::Fill::Detached(0.0, 0.0);
    let mut near = case("nearly equal directions", RowDistance::Cosine, [4, 3], |_| 1.0);
    (near.inputs[0].fill, near.inputs[1].fill) =
        (super::Fill::Real(0.99, 1.0), super::Fill::Detached(1.99, 2.0));
    let mut large = case("large values", RowDistance::Cosine, [2, 40], |_| 1.0);
    (large.inputs[0].fill, large.inputs[1].fill) =
        (super::Fill::Real(-30.0, 30.0), super::Fill::Detached(-500.0, 500.0));
    vec![
        case("mse", RowDistance::Mse, [3, 5], |_| 1.0),
        case("mse of one element", RowDistance::Mse, [1, 1], |_| 0.5),
        case("mse of wide rows", RowDistance::Mse, [3, 131], |i| 0.3 + i as f64),
        case("mse of many rows, some of weight 0", RowDistance::Mse, [67, 3], |i| (i % 3) as f64),
        case("mse of no rows", RowDistance::Mse, [0, 4], |_| 1.0),
        case("cosine", RowDistance::Cosine, [3, 5], |_| 1.0),
        case("cosine of two columns", RowDistance::Cosine, [4, 2], |_| 0.5),
        case("cosine of wide rows", RowDistance::Cosine, [3, 131], |i| 0.3 + i as f64),
        case("cosine of many rows, some of weight 0", RowDistance::Cosine, [67, 4], |i| (i % 3) as f64),
        case("cosine of no rows", RowDistance::Cosine, [0, 4], |_| 1.0),
        zeros,
        near,
        large,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::ops::Grad;
    use crate::shape::DType;

    /// Loss and the student's gradient of rows of weight 1.
    fn run(distance: RowDistance, dtype: DType, cols: usize, s: &[f64], t: &[f64]) -> (f64, Vec<f64>) {
        let device = Device::open("cpu", 1).unwrap();
        let put = |shape: &[usize], v: &[f64]| device.upload_reals(dtype, shape, v).unwrap();
        let shape = [s.len() / cols, cols];
        let (s, t, one) = (put(&shape, s), put(&shape, t), put(&[1], &[1.0]));
        let weights = put(&shape[..1], &vec![1.0; shape[0]]);
        let saved = put(&[SAVED, shape[0]], &vec![f64::NAN; SAVED * shape[0]]);
        let (loss, ds) = (put(&[1], &[f64::NAN]), put(&shape, &vec![f64::NAN; shape[0] * cols]));
        let (op, x) = (HiddenMatch { distance }, [&s, &t, &weights, &one]);
        let y: &[&Tensor] = if distance == RowDistance::Mse { &[&loss] } else { &[&loss, &saved] };
        device.forward(&op, Forward { x: &x, y }).unwrap();
        let dx = [Some(Grad::new(&ds, false)), None, None, None];
        device.backward(&op, Backward { x: &x, y, dy: &[Some(&one)], dx: &dx }).unwrap();
        (device.read_reals(&loss).unwrap()[0], device.read_reals(&ds).unwrap())
    }

    /// By hand: (1 + 4) / 2, and 1 - cos of 45 degrees.
    #[test]
    fn by_hand() {
        let (loss, ds) = run(RowDistance::Mse, DType::F64, 2, &[1.0, 2.0], &[0.0, 0.0]);
        assert_eq!((loss, &ds[..]), (2.5, &[1.0, 2.0][..]));
        let (loss, ds) = run(RowDistance::Cosine, DType::F64, 2, &[1.0, 0.0], &[3.0, 3.0]);
        let half = 0.5f64.sqrt();
        assert!((loss - (1.0 - half)).abs() < 1e-11, "{loss}");
        // The angle grows with the second column, the length of s does not count.
        assert!(ds[0].abs() < 1e-11 && (ds[1] + half).abs() < 1e-11, "{ds:?}");
    }

    /// Rows of zeros have distance 1, as in PyTorch's CosineEmbeddingLoss, and finite gradients; rows of one
    /// direction have distance 0 to the last digits also in f32.
    #[test]
    fn zeros_and_equal_directions() {
        for dtype in [DType::F64, DType::F32] {
            for (s, t) in [([0.0; 3], [1.0, 2.0, 3.0]), ([1.0, 2.0, 3.0], [0.0; 3]), ([0.0; 3], [0.0; 3])] {
                let (loss, ds) = run(RowDistance::Cosine, dtype, 3, &s, &t);
                assert!((loss - 1.0).abs() < 1e-6 && ds.iter().all(|g| g.is_finite()), "{loss} {ds:?}");
            }
            let (loss, ds) = run(RowDistance::Cosine, dtype, 3, &[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]);
            assert!(loss.abs() < 2e-12 && ds.iter().all(|g| g.abs() < 1e-6), "{loss:e} {ds:?}");
        }
    }

    /// A row of weight 0 may hold anything.
    #[test]
    fn a_row_without_weight_counts_nothing() {
        let device = Device::open("cpu", 1).unwrap();
        let put = |shape: &[usize], v: &[f64]| device.upload_reals(DType::F32, shape, v).unwrap();
        for distance in [RowDistance::Mse, RowDistance::Cosine] {
            let s = put(&[2, 2], &[f64::NAN, 1.0, 1.0, 0.0]);
            let t = put(&[2, 2], &[1.0, f64::INFINITY, 0.0, 1.0]);
            let (w, one) = (put(&[2], &[0.0, 1.0]), put(&[1], &[1.0]));
            let (loss, saved, ds) = (put(&[1], &[0.0]), put(&[SAVED, 2], &[0.0; 6]), put(&[2, 2], &[9.0; 4]));
            let y: &[&Tensor] = if distance == RowDistance::Mse { &[&loss] } else { &[&loss, &saved] };
            let (op, x) = (HiddenMatch { distance }, [&s, &t, &w, &one]);
            device.forward(&op, Forward { x: &x, y }).unwrap();
            let dx = [Some(Grad::new(&ds, false)), None, None, None];
            device.backward(&op, Backward { x: &x, y, dy: &[Some(&one)], dx: &dx }).unwrap();
            assert!((device.read_reals(&loss).unwrap()[0] - 1.0).abs() < 1e-6);
            assert_eq!(device.read_reals(&ds).unwrap()[..2], [0.0, 0.0]);
        }
    }
}
