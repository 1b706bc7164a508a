//! `y[i] = x[index[i]]`: some rows of many.
//!
//! x (rows, cols), index u32 (n) -> y (n, cols). The index is strictly ascending. Entries at its end that are
//! `rows` or more are padding: they give zeros and get no gradient. It selects the masked tokens of a masked
//! language model (BERT's `masked_lm_positions`), and the sequences of each text of a pair.

use super::{
    Backward, Call, Case, Cost, Forward, Grad, Input, On, Op, Plan, blocks_for, compute_dtype, groups_for,
    launch, launch_cuda, refuse,
};
use crate::device::cpu::{Scalar, by_gradient, by_scalar};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu};
use crate::error::{Error, Result};
use crate::shape::{DType, Spec};

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Gather;

/// An entry of the index that is only padding.
pub const NOWHERE: u32 = u32::MAX;

impl Op for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let wrong = || refuse("gather", "x (rows, cols), index u32 (n)", x);
        let [input, index] = x else { return Err(wrong()) };
        if index.dtype != DType::U32 || index.shape.len() != 1 {
            return Err(wrong());
        }
        let y = Spec::new(compute_dtype("gather", caps, x)?, &[index.len(), input.rows_cols().1]);
        Ok(Plan::new(vec![y], vec![]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let [rows, cols] = call.rows_cols(0);
        let there = match call.integers(1) {
            Some(index) => index.iter().filter(|&&i| f64::from(i) < rows).count() as f64,
            None => call.len(1),
        };
        let forward = there * call.row(0) + call.input(1) + call.output(0);
        let backward = there * call.row(0) + call.input(1) + call.sparse(0, there);
        Cost::new([0.0, call.sums(0, there * cols)], [forward, backward])
    }
    fn reads_half(&self) -> bool {
        true
    }
}

impl On<Cpu> for Gather {
    fn forward(&self, _: &Cpu, io: Forward) -> Result<()> {
        by_scalar!(io.x[0].spec.dtype, T => forward::<T>(io))
    }
    fn backward(&self, _: &Cpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        by_gradient!(io.x[0].spec.dtype, g.t.spec.dtype, (T, G) => backward::<T, G>(io, g))
    }
}

/// The rows that are asked for, checked: those that are there rise, padding comes last.
fn rows_of(index: &[u32], rows: usize) -> Result<Vec<usize>> {
    let there = index.iter().take_while(|&&i| (i as usize) < rows).count();
    let (some, rest) = index.split_at(there);
    if some.windows(2).any(|w| w[0] >= w[1]) || rest.iter().any(|&i| (i as usize) < rows) {
        return Err(Error::shape("the index of gather is not valid")
            .with_expected("row numbers in strictly ascending order")
            .with_found(format!("{index:?}")));
    }
    Ok(some.iter().map(|&i| i as usize).collect())
}

fn forward<T: Scalar>(io: Forward) -> Result<()> {
    let (rows, cols) = io.x[0].spec.rows_cols();
    let index = rows_of(&io.x[1].cpu::<u32>()?, rows)?;
    let (x, mut y) = (io.x[0].cpu::<T>()?, io.y[0].cpu_mut::<T>()?);
    y[index.len() * cols..].fill(T::zeroed());
    for (y, i) in y.chunks_exact_mut(cols).zip(index) {
        y.copy_from_slice(&x[i * cols..][..cols]);
    }
    Ok(())
}

fn backward<T: Scalar, G: Scalar<Real = T::Real>>(io: Backward, g: Grad) -> Result<()> {
    let (rows, cols) = io.x[0].spec.rows_cols();
    let index = rows_of(&io.x[1].cpu::<u32>()?, rows)?;
    let (dy, mut dx) = (io.dy()?.cpu::<T>()?, g.t.cpu_mut::<G>()?);
    if !g.add {
        dx.fill(G::zeroed());
    }
    for (dy, i) in dy.chunks_exact(cols).zip(index) {
        let pairs = dx[i * cols..][..cols].iter_mut().zip(dy);
        pairs.for_each(|(dx, dy)| *dx = G::store(dx.load() + dy.load()));
    }
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/gather.wgsl");

/// Rows, columns, length of the index, `add`.
fn params(many: &Tensor, few: &Tensor, add: bool) -> [u32; 4] {
    let (rows, cols) = many.spec.rows_cols();
    [rows, cols, few.spec.rows_cols().0, add as usize].map(|v| v as u32)
}

impl On<Wgpu> for Gather {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let (buffers, p) = ([io.x[0], io.x[1], io.y[0]], params(io.x[0], io.y[0], false));
        launch(device, (SHADER, "forward"), &[], groups_for(io.y[0].spec.len()), &buffers, &p)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        let (buffers, p) = ([g.t, io.x[1], io.dy()?], params(io.x[0], io.dy()?, g.add));
        launch(device, (SHADER, "backward"), &[], groups_for(g.t.spec.len()), &buffers, &p)
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/gather.cu");

impl Gather {
    fn launch_cuda(device: &Cuda, entry: &'static str, buffers: [&Tensor; 3], p: [u32; 4]) -> Result<()> {
        let [from, _, to] = buffers;
        let consts = [("T", Const::Type(from.spec.dtype)), ("G", Const::Type(to.spec.dtype))];
        launch_cuda(device, (KERNEL, entry), &consts, blocks_for(to.spec.len()), &buffers, &p)
    }
}

impl On<Cuda> for Gather {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let p = params(io.x[0], io.y[0], false);
        Self::launch_cuda(device, "gather_forward", [io.x[0], io.x[1], io.y[0]], p)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        let p = params(io.x[0], io.dy()?, g.add);
        Self::launch_cuda(device, "gather_backward", [io.dy()?, io.x[1], g.t], p)
    }
}

/// Edge cases: padding, the first and the last row, all, none, odd columns.
pub fn cases() -> Vec<Case> {
    let case = |label, rows: usize, cols: usize, index: &[u32]| {
        Case::new(label, Gather, vec![Input::real(&[rows, cols]), Input::ints(index)])
    };
    vec![
        case("some", 9, 7, &[1, 4, 5]),
        case("first and last", 6, 3, &[0, 5]),
        case("all", 3, 8, &[0, 1, 2]),
        case("padding", 7, 5, &[2, 6, NOWHERE, 7]),
        case("only padding", 2, 3, &[NOWHERE, NOWHERE]),
        case("none", 4, 3, &[]),
        case("one", 1, 1, &[0]),
    ]
}
