//! `y = m w`: a weight times its pruning mask.
//!
//! w (rows, cols) and m (rows / r, cols / c) -> y (rows, cols), where an element of the mask belongs to a
//! block of r x c elements of the weight: 1 x 1 masks elements, 1 x cols rows, rows x 1 columns, head_dim x
//! cols the heads of a projection. Nothing is saved.
//!
//! dw = m dy, so a masked weight has a gradient of zero. dm is the sum of w dy over the block: the exact
//! derivative if the mask were a number. Movement pruning (Sanh et al. 2020, sec. 3) gives it to the scores
//! that the mask was chosen by, also where the mask is 0.

use super::{
    Backward, CUDA_THREADS, Call, Case, Cost, Fill, Forward, Grad, Input, On, Op, Plan, blocks_for,
    compute_dtype, groups_for, launch, launch_cuda, refuse, vector,
};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{
    GradientMut, GradientPart, Real, Scalar, by_gradient, by_scalar, sum_lanes, vectorise,
};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu, fold};
use crate::error::Result;
use crate::shape::Spec;

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct WeightMask;

impl Op for WeightMask {
    fn name(&self) -> &'static str {
        "mask"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let expected = "w (rows, cols) and m (rows / r, cols / c) for whole r and c";
        let [w, m] = x else { return Err(refuse("mask", expected, x)) };
        MaskSizes::check(w, m).ok_or_else(|| refuse("mask", expected, x))?;
        let dtype = compute_dtype("mask", caps, x)?;
        Ok(Plan::new(vec![Spec::new(dtype, &w.shape)], vec![]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let n = call.len(0);
        // dw = m dy; dm = sum w dy.
        let [dw, dm] = [0, 1].map(|i| call.wants(i) as u8 as f64);
        let read = call.dy() + dw * call.input(1) + dm * call.input(0);
        let backward = dw * n + dm * (2.0 * n - call.len(1)) + call.all_sums();
        Cost::new([n, backward], [call.whole(), read + call.all_dense()])
    }
    fn reads_half(&self) -> bool {
        true
    }
}

/// The sizes of a call: of the weight, and of the block of an element of the mask.
#[derive(Clone, Copy)]
pub(super) struct MaskSizes {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Elements of the mask along a row of it.
    pub(super) across: usize,
    /// Rows and columns.
    pub(super) block: [usize; 2],
}

impl MaskSizes {
    /// `None` if the blocks of a mask are not whole.
    pub(super) fn check(w: &Spec, m: &Spec) -> Option<()> {
        let divides = |part: usize, whole: usize| whole == part || part > 0 && whole.is_multiple_of(part);
        let (&[rows, cols], &[down, across]) = (&w.shape[..], &m.shape[..]) else { return None };
        (divides(down, rows) && divides(across, cols)).then_some(())
    }
    pub(super) fn of(w: &Tensor, m: &Tensor) -> Self {
        let [(rows, cols), (down, across)] = [w, m].map(|t| t.spec.rows_cols());
        Self { rows, cols, across, block: [rows / down.max(1), cols / across.max(1)] }
    }
    /// Rows, columns, columns of the mask, rows and columns of a block.
    pub(super) fn layout(&self) -> [u32; 5] {
        let [r, c] = self.block;
        [self.rows, self.cols, self.across, r, c].map(|v| v as u32)
    }
    /// The same, and whether to add.
    fn params(&self, add: bool) -> [u32; 6] {
        let [rows, cols, across, r, c] = self.layout();
        [rows, cols, across, r, c, add as u32]
    }
}

impl On<Cpu> for WeightMask {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_scalar!(io.x[0].spec.dtype, T => forward::<T>(cpu, io))
    }
    /// dw = m dy; dm = sum of w dy over the block.
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        let dtype = io.x[0].spec.dtype;
        if let Some(g) = io.dx(0) {
            by_gradient!(dtype, g.t.spec.dtype, (T, G) => weight_gradient::<T, G>(cpu, io, g))?;
        }
        let Some(g) = io.dx(1) else { return Ok(()) };
        by_scalar!(dtype, T => mask_gradient::<T>(cpu, io, g))
    }
}

/// to = m from, or to += m from, row by row.
fn masked<T: Scalar, G: Scalar<Real = T::Real>>(
    cpu: &Cpu,
    s: MaskSizes,
    from: &[T],
    m: &[T],
    to: &mut [G],
    add: bool,
) {
    let [r, c] = s.block;
    let task = |(row, (to, from)): (usize, (&mut [G], &[T]))| {
        let m = &m[row / r * s.across..][..s.across];
        vectorise!({
            let put = |to: &mut G, from: T, m: T::Real| {
                let from = from.load();
                *to = G::store(if add { m.mul_add(from, to.load()) } else { m * from });
            };
            if c == 1 {
                to.iter_mut().zip(from).zip(m).for_each(|((to, &from), m)| put(to, from, m.load()));
            } else {
                for ((to, from), m) in to.chunks_mut(c).zip(from.chunks(c)).zip(m) {
                    let m = m.load();
                    to.iter_mut().zip(from).for_each(|(to, &from)| put(to, from, m));
                }
            }
        })
    };
    let rows = to.par_chunks_mut(s.cols).zip(from.par_chunks(s.cols)).enumerate();
    cpu.install(|| rows.with_min_len(8).for_each(task));
}

fn forward<T: Scalar>(cpu: &Cpu, io: Forward) -> Result<()> {
    let (w, m, mut y) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?, io.y[0].cpu_mut::<T>()?);
    masked::<T, T>(cpu, MaskSizes::of(io.x[0], io.x[1]), &w, &m, &mut y, false);
    Ok(())
}

fn weight_gradient<T: Scalar, G: Scalar<Real = T::Real>>(cpu: &Cpu, io: Backward, g: Grad) -> Result<()> {
    let (dy, m, mut dw) = (io.dy()?.cpu::<T>()?, io.x[1].cpu::<T>()?, g.t.cpu_mut::<G>()?);
    masked::<T, G>(cpu, MaskSizes::of(io.x[0], io.x[1]), &dy, &m, &mut dw, g.add);
    Ok(())
}

/// The rows of a block are added in order.
fn mask_gradient<T: Scalar>(cpu: &Cpu, io: Backward, g: Grad) -> Result<()> {
    let s = MaskSizes::of(io.x[0], io.x[1]);
    let (w, dy) = (io.x[0].cpu::<T>()?, io.dy()?.cpu::<T>()?);
    let mut dm = GradientMut::<T>::of(g.t, io.x[0].spec.dtype)?;
    let [r, c] = s.block;
    let task = |(down, mut dm): (usize, GradientPart<T>)| {
        let mut sums = vec![T::Real::ZERO; s.across];
        vectorise!({
            for row in down * r..(down + 1) * r {
                let (w, dy) = (&w[row * s.cols..][..s.cols], &dy[row * s.cols..][..s.cols]);
                if c == 1 {
                    let pairs = sums.iter_mut().zip(w.iter().zip(dy));
                    pairs.for_each(|(sum, (w, dy))| *sum = w.load().mul_add(dy.load(), *sum));
                } else {
                    for (sum, (w, dy)) in sums.iter_mut().zip(w.chunks(c).zip(dy.chunks(c))) {
                        *sum += sum_lanes(c, |i| w[i].load() * dy[i].load());
                    }
                }
            }
            dm.put(0, &sums, g.add);
        })
    };
    cpu.install(|| dm.parts(s.across).into_par_iter().enumerate().for_each(task));
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/mask.wgsl");

impl On<Wgpu> for WeightMask {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let s = MaskSizes::of(io.x[0], io.x[1]);
        let buffers = [io.x[0], io.x[1], io.y[0]];
        launch(device, (SHADER, "forward"), &[], groups_for(s.rows * s.cols), &buffers, &s.params(false))
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let (s, dy) = (MaskSizes::of(io.x[0], io.x[1]), io.dy()?);
        if let Some(g) = io.dx(0) {
            let (groups, buffers) = (groups_for(s.rows * s.cols), [dy, io.x[1], g.t]);
            launch(device, (SHADER, "forward"), &[], groups, &buffers, &s.params(g.add))?;
        }
        let Some(g) = io.dx(1) else { return Ok(()) };
        let (count, buffers) = (g.t.spec.len(), [io.x[0], dy, g.t]);
        // A group sums a block of many elements, an invocation one of few.
        match s.block[0] * s.block[1] > FEW {
            true => launch(device, (SHADER, "sum_block"), &[], fold(count), &buffers, &s.params(g.add)),
            false => launch(device, (SHADER, "sum_few"), &[], groups_for(count), &buffers, &s.params(g.add)),
        }
    }
}

/// The most elements of a block that one invocation sums.
const FEW: usize = 16;

pub(super) const KERNEL: &str = include_str!("../../kernels/mask.cu");

/// to = m from on CUDA, or to += m from.
fn masked_cuda(device: &Cuda, s: MaskSizes, from: &Tensor, m: &Tensor, g: Grad) -> Result<()> {
    // An access must not reach over the end of a block.
    let wide = if s.block[1] == 1 { 1 } else { vector(s.block[1]) };
    let consts =
        [("T", Const::Type(from.spec.dtype)), ("G", Const::Type(g.t.spec.dtype)), ("VEC", Const::U32(wide))];
    let groups = blocks_for(s.rows * s.cols / wide as usize);
    launch_cuda(device, (KERNEL, "mask_forward"), &consts, groups, &[from, m, g.t], &s.params(g.add))
}

impl On<Cuda> for WeightMask {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let s = MaskSizes::of(io.x[0], io.x[1]);
        masked_cuda(device, s, io.x[0], io.x[1], Grad::new(io.y[0], false))
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let (s, dy) = (MaskSizes::of(io.x[0], io.x[1]), io.dy()?);
        if let Some(g) = io.dx(0) {
            masked_cuda(device, s, dy, io.x[1], g)?;
        }
        let Some(g) = io.dx(1) else { return Ok(()) };
        let count = g.t.spec.len();
        let (from, to) = (Const::Type(dy.spec.dtype), Const::Type(g.t.spec.dtype));
        let consts = [("T", from), ("G", to), ("VEC", Const::U32(1))];
        // A warp sums a block of many elements, a thread one of few.
        let (entry, groups) = match s.block[0] * s.block[1] > FEW {
            true => ("mask_sum_block", [count.div_ceil(CUDA_THREADS as usize / 32) as u32, 1, 1]),
            false => ("mask_sum_few", blocks_for(count)),
        };
        launch_cuda(device, (KERNEL, entry), &consts, groups, &[io.x[0], dy, g.t], &s.params(g.add))
    }
}

/// Edge cases: elements, rows, columns, heads down and across, one mask for all, all masked, blocks of
/// more elements than a warp or a group, no rows.
pub fn cases() -> Vec<Case> {
    let case = |label, w: [usize; 2], m: [usize; 2]| {
        Case::new(label, WeightMask, vec![Input::real(&w), Input::real(&m)])
    };
    let zeros = Input { shape: vec![6, 1], fill: Fill::Real(0.0, 0.0) };
    vec![
        case("elements", [5, 7], [5, 7]),
        case("elements, several tasks", [70, 16], [70, 16]),
        case("rows", [6, 37], [6, 1]),
        case("columns", [131, 3], [1, 3]),
        case("heads", [24, 40], [3, 1]),
        case("heads of an output projection", [10, 48], [1, 3]),
        case("blocks", [8, 32], [4, 4]),
        case("blocks of an odd width", [6, 15], [2, 3]),
        case("one for all", [9, 17], [1, 1]),
        case("one element", [1, 1], [1, 1]),
        Case::new("all masked", WeightMask, vec![Input::real(&[6, 24]), zeros]),
        case("no rows", [0, 4], [0, 4]),
    ]
}
