//! `y[s] = x[first token of s]`, or x[last token of s], or the mean of x over the tokens of s.
//!
//! x (tokens, cols), cu_seqlens u32 (sequences + 1) -> y (sequences, cols). An empty sequence gives zeros;
//! tokens beyond the last sequence, which only pad the batch, have no part in it and no gradient. The first
//! token is BERT's `[CLS]` (Devlin et al. 2019, sec. 3); the mean is sentence-transformers'
//! `pooling_mode_mean_tokens`.

use super::{
    Backward, Call, Case, Cost, Forward, Grad, Input, On, Op, Plan, blocks_for, compute_dtype, groups_for,
    launch, launch_cuda, refuse, sequences_within,
};
use crate::device::cpu::{Real, Scalar, by_gradient, by_scalar, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::{DType, Spec};

/// The op; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The first token.
    First,
    /// The last token.
    Last,
    /// The mean over all tokens.
    Mean,
}

impl Op for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let wrong = || refuse("pool", "x (tokens, cols), cu_seqlens (sequences + 1)", x);
        let [input, bounds] = x else { return Err(wrong()) };
        if bounds.dtype != DType::U32 || bounds.is_empty() {
            return Err(wrong());
        }
        let y = Spec::new(compute_dtype("pool", caps, x)?, &[bounds.len() - 1, input.rows_cols().1]);
        Ok(Plan::new(vec![y], vec![]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let [tokens, cols] = call.rows_cols(0);
        let lengths = call.lengths(1, tokens as usize);
        let used: f64 = lengths.iter().map(|&len| self.used(0..len).len() as f64).sum();
        let some = lengths.iter().filter(|&&len| len > 0).count() as f64;
        // A mean is a sum over its tokens and a division; backward divides once for a sequence.
        let [sum, divide] = if *self == Pool::Mean { [used * cols, some * cols] } else { [0.0; 2] };
        let forward = used * call.row(0) + call.input(1) + call.output(0);
        let backward = some * call.row(0) + call.input(1) + call.sparse(0, used);
        Cost::new([sum + divide, divide + call.sums(0, used * cols)], [forward, backward])
    }
    fn reads_half(&self) -> bool {
        true
    }
}

impl Pool {
    /// Which tokens of a sequence count.
    fn used(self, s: std::ops::Range<usize>) -> std::ops::Range<usize> {
        match self {
            Pool::First => s.start..s.end.min(s.start + 1),
            Pool::Last => s.start.max(s.end.saturating_sub(1))..s.end,
            Pool::Mean => s,
        }
    }
    /// The constant KIND of the kernels.
    fn code(self) -> u32 {
        match self {
            Pool::First => 0,
            Pool::Mean => 1,
            Pool::Last => 2,
        }
    }
}

impl On<Cpu> for Pool {
    fn forward(&self, _: &Cpu, io: Forward) -> Result<()> {
        by_scalar!(io.x[0].spec.dtype, T => forward::<T>(*self, io))
    }
    fn backward(&self, _: &Cpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        by_gradient!(io.x[0].spec.dtype, g.t.spec.dtype, (T, G) => backward::<T, G>(*self, io, g))
    }
}

fn forward<T: Scalar>(op: Pool, io: Forward) -> Result<()> {
    let (tokens, cols) = io.x[0].spec.rows_cols();
    let seqs = sequences_within(&io.x[1].cpu::<u32>()?, tokens)?;
    let (x, mut y) = (io.x[0].cpu::<T>()?, io.y[0].cpu_mut::<T>()?);
    let mut sums = vec![T::Real::ZERO; cols];
    vectorise!({
        for (s, y) in seqs.into_iter().zip(y.chunks_exact_mut(cols)) {
            sums.fill(Real::ZERO);
            let used = op.used(s);
            let weight = T::Real::ONE / T::Real::of(used.len().max(1) as f64);
            for x in x[used.start * cols..used.end * cols].chunks_exact(cols) {
                sums.iter_mut().zip(x).for_each(|(s, x)| *s += x.load());
            }
            y.iter_mut().zip(&sums).for_each(|(y, &s)| *y = T::store(s * weight));
        }
    });
    Ok(())
}

fn backward<T: Scalar, G: Scalar<Real = T::Real>>(op: Pool, io: Backward, g: Grad) -> Result<()> {
    let (tokens, cols) = io.x[0].spec.rows_cols();
    let seqs = sequences_within(&io.x[1].cpu::<u32>()?, tokens)?;
    let (dy, mut dx) = (io.dy()?.cpu::<T>()?, g.t.cpu_mut::<G>()?);
    if !g.add {
        dx.fill(G::zeroed());
    }
    vectorise!({
        for (s, dy) in seqs.into_iter().zip(dy.chunks_exact(cols)) {
            let used = op.used(s);
            let weight = T::Real::ONE / T::Real::of(used.len().max(1) as f64);
            for dx in dx[used.start * cols..used.end * cols].chunks_exact_mut(cols) {
                let pairs = dx.iter_mut().zip(dy);
                pairs.for_each(|(dx, dy)| *dx = G::store(dy.load().mul_add(weight, dx.load())));
            }
        }
    });
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/pool.wgsl");

impl Pool {
    fn launch(self, device: &Wgpu, entry: &'static str, buffers: [&Tensor; 3], add: bool) -> Result<()> {
        let (tokens, cols) = buffers[0].spec.rows_cols();
        let seqs = buffers[2].spec.rows_cols().0;
        let items = if entry == "forward" { seqs } else { tokens } * cols;
        let params = [tokens, cols, seqs, add as usize].map(|v| v as u32);
        let consts = [("KIND", self.code())];
        launch(device, (SHADER, entry), &consts, groups_for(items), &buffers, &params)
    }
}

impl On<Wgpu> for Pool {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        self.launch(device, "forward", [io.x[0], io.x[1], io.y[0]], false)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        self.launch(device, "backward", [g.t, io.x[1], io.dy()?], g.add)
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/pool.cu");

impl Pool {
    fn launch_cuda(self, device: &Cuda, entry: &'static str, buffers: [&Tensor; 3], add: bool) -> Result<()> {
        let [from, bounds, to] = buffers;
        let (tokens, seqs) = if entry == "pool_forward" { (from, to) } else { (to, from) };
        let ((tokens, cols), (seqs, _)) = (tokens.spec.rows_cols(), seqs.spec.rows_cols());
        let params = [tokens, cols, seqs, add as usize].map(|v| v as u32);
        let types = [("T", Const::Type(from.spec.dtype)), ("G", Const::Type(to.spec.dtype))];
        let consts = [types[0], types[1], ("KIND", Const::U32(self.code()))];
        let groups = blocks_for(to.spec.len());
        launch_cuda(device, (KERNEL, entry), &consts, groups, &[from, bounds, to], &params)
    }
}

impl On<Cuda> for Pool {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        self.launch_cuda(device, "pool_forward", [io.x[0], io.x[1], io.y[0]], false)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        self.launch_cuda(device, "pool_backward", [io.dy()?, io.x[1], g.t], g.add)
    }
}

/// Edge cases: empty sequences at each place, one token, odd columns.
pub fn cases() -> Vec<Case> {
    let filled = |label, op, bounds: &[u32], cols, more: usize| {
        let tokens = bounds.last().copied().unwrap_or(0) as usize + more;
        Case::new(label, op, vec![Input::real(&[tokens, cols]), Input::ints(bounds)])
    };
    let case = |label, op, bounds: &[u32], cols| filled(label, op, bounds, cols, 0);
    vec![
        case("first", Pool::First, &[0, 3, 4, 9], 7),
        case("mean", Pool::Mean, &[0, 3, 4, 9], 7),
        case("first, empty sequences", Pool::First, &[0, 0, 2, 2], 3),
        case("mean, empty sequences", Pool::Mean, &[0, 0, 2, 2], 3),
        case("last", Pool::Last, &[0, 3, 4, 9], 7),
        case("last, empty sequences", Pool::Last, &[0, 0, 2, 2], 3),
        filled("last, padded", Pool::Last, &[0, 2, 5], 3, 4),
        case("one token", Pool::Mean, &[0, 1], 1),
        filled("first, padded", Pool::First, &[0, 2, 5], 3, 4),
        filled("mean, padded", Pool::Mean, &[0, 2, 5], 3, 4),
    ]
}
