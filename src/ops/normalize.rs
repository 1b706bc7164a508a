//! `y = scale x / max(|x|, 1e-12)`, row by row: vectors of one length, as PyTorch's `F.normalize`.
//!
//! x (rows, cols) -> y (rows, cols). Saves 1 / max(|x|, 1e-12) (rows). The inner product of two such rows is
//! their cosine similarity; with `scale` = 1 / temperature it is a logit of a contrastive loss (van den Oord
//! et al. 2018, eq. 4).

use super::{
    Backward, CUDA_THREADS, Call, Case, Cost, Forward, Input, On, Op, Plan, accumulator, by_dtype,
    compute_dtype, groups_for, launch, launch_cuda, refuse,
};
use crate::device::cpu::{Real, sum_lanes, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::Spec;

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Normalize {
    /// The length of every row of the result.
    pub scale: f32,
}

/// The smallest length of a row: PyTorch's `eps`.
const EPS: f32 = 1e-12;

impl Op for Normalize {
    fn name(&self) -> &'static str {
        "normalize"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let [input] = x else { return Err(refuse("normalize", "x (rows, cols)", x)) };
        let dtype = compute_dtype("normalize", caps, x)?;
        let saved = Spec::new(accumulator(dtype), &[input.rows_cols().0]);
        Ok(Plan::new(vec![Spec::new(dtype, &input.shape)], vec![saved]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let ([rows, _], n) = (call.rows_cols(0), call.len(0));
        // Forward: the square, its sum, the factor; for each row the root, the maximum, the reciprocal, the
        // scale. Backward: x dy and its sum, then scale r (dy - x along); for each row along r r, and scale
        // r.
        let (forward, backward) = (3.0 * n + 4.0 * rows, 5.0 * n + 3.0 * rows);
        let read = call.input(0) + call.output(1) + call.dy();
        Cost::new([forward, backward + call.all_sums()], [call.whole(), read + call.all_dense()])
    }
}

impl On<Cpu> for Normalize {
    fn forward(&self, _: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, forward(self.scale, io))
    }
    fn backward(&self, _: &Cpu, io: Backward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, backward(self.scale, io))
    }
}

fn forward<T: Real>(scale: f32, io: Forward) -> Result<()> {
    let cols = io.x[0].spec.rows_cols().1;
    let (x, mut y, mut inverse) = (io.x[0].cpu::<T>()?, io.y[0].cpu_mut::<T>()?, io.y[1].cpu_mut::<T>()?);
    for ((x, y), inverse) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)).zip(inverse.iter_mut()) {
        let norm = vectorise!(sum_lanes(cols, |c| x[c] * x[c])).sqrt();
        *inverse = T::ONE / norm.larger(T::of(EPS as f64));
        let factor = T::of(scale as f64) * *inverse;
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = factor * x);
    }
    Ok(())
}

/// dx = r (scale dy - y (y dy) / scale) with r = 1 / |x|; a row shorter than eps is only scaled.
fn backward<T: Real>(scale: f32, io: Backward) -> Result<()> {
    let Some(g) = io.dx(0) else { return Ok(()) };
    let cols = io.x[0].spec.rows_cols().1;
    let (x, inverse, dy) = (io.x[0].cpu::<T>()?, io.y[1].cpu::<T>()?, io.dy()?.cpu::<T>()?);
    let mut dx = g.t.cpu_mut::<T>()?;
    let (scale, most) = (T::of(scale as f64), T::ONE / T::of(EPS as f64));
    let rows = x.chunks_exact(cols).zip(dy.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols));
    for (((x, dy), dx), &r) in rows.zip(&inverse[..]) {
        let along = vectorise!(sum_lanes(cols, |c| x[c] * dy[c])) * r * r;
        let along = if r < most { along } else { T::ZERO };
        for (c, dx) in dx.iter_mut().enumerate() {
            let d = scale * r * (dy[c] - x[c] * along);
            *dx = if g.add { *dx + d } else { d };
        }
    }
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/normalize.wgsl");

impl Normalize {
    fn params(&self, x: &Tensor, add: bool) -> [u32; 4] {
        let (rows, cols) = x.spec.rows_cols();
        [rows as u32, cols as u32, self.scale.to_bits(), add as u32]
    }
}

impl On<Wgpu> for Normalize {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let (x, p) = (io.x[0], self.params(io.x[0], false));
        let groups = groups_for(x.spec.rows_cols().0);
        launch(device, (SHADER, "forward"), &[], groups, &[x, io.y[1], io.y[0], io.y[0]], &p)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        let (x, p) = (io.x[0], self.params(io.x[0], g.add));
        let groups = groups_for(x.spec.rows_cols().0);
        launch(device, (SHADER, "backward"), &[], groups, &[x, io.y[1], io.dy()?, g.t], &p)
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/normalize.cu");

impl Normalize {
    fn launch_cuda(&self, device: &Cuda, entry: &'static str, buffers: &[&Tensor], add: bool) -> Result<()> {
        let (x, to) = (buffers[0], buffers[buffers.len() - 1]);
        let consts = [("T", Const::Type(x.spec.dtype)), ("G", Const::Type(to.spec.dtype))];
        let rows = x.spec.rows_cols().0;
        let groups = [rows.div_ceil(CUDA_THREADS as usize / 32) as u32, 1, 1];
        launch_cuda(device, (KERNEL, entry), &consts, groups, buffers, &self.params(x, add))
    }
}

impl On<Cuda> for Normalize {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        self.launch_cuda(device, "normalize_forward", &[io.x[0], io.y[1], io.y[0]], false)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        self.launch_cuda(device, "normalize_backward", &[io.x[0], io.y[1], io.dy()?, g.t], g.add)
    }
}

/// Edge cases: a row of zeros, one column, more columns than a warp, another length than 1.
pub fn cases() -> Vec<Case> {
    let case =
        |label, shape: [usize; 2], scale| Case::new(label, Normalize { scale }, vec![Input::real(&shape)]);
    let zeros = Case::new("a row of zeros", Normalize { scale: 1.0 }, vec![Input::fixed(&[1, 5], &[0.0; 5])]);
    vec![
        case("small", [3, 5], 1.0),
        case("one column", [4, 1], 1.0),
        case("wide", [2, 67], 20.0),
        case("many rows", [131, 8], 0.5),
        case("no rows", [0, 4], 1.0),
        zeros,
    ]
}
