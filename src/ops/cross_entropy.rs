//! loss = scale * sum_i v_i sum_c q_ic (1 - p_ic)^gamma (lse_i - logits_ic), q_ic = w_c ((1 - e) t_ic + e /
//! C).
//!
//! logits (rows, C), target u32 (rows) or soft (rows, C), scale (1), as set class weights w (C), and if given
//! row weights v (rows) -> loss (1). t is one-hot for hard labels; e is label smoothing (Szegedy et al. 2016,
//! sec. 7); rows with the ignored label or with weight 0 count nothing. p is the softmax of the logits and
//! gamma the focus on what is not known yet (focal loss, Lin et al. 2017, eq. 4; of several classes as of
//! two); 0 is plain cross-entropy. With gamma = 0 and scale = 1 / sum of w over the labels this is PyTorch's
//! `cross_entropy` with reduction "mean"; the caller gives the scale because the denominator belongs to the
//! whole optimizer step, not to one micro-batch.
//!
//! Saves lse_i = log sum exp(logits_i) (rows).

use super::{
    Backward, CUDA_THREADS, Call, Case, Cost, Forward, Grad, Input, On, Op, Plan, accumulator,
    compute_dtype_beside, groups_for, launch, launch_cuda, refuse,
};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{
    BLOCK, Real, Scalar, by_gradient, by_scalar, inlined, load_row, max_lanes, sum_lanes, sum_over, vectorise,
};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu};
use crate::error::{Error, Result};
use crate::shape::{DType, Spec};

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy {
    /// e: label smoothing, the share of each target that is spread over all classes.
    pub label_smoothing: f32,
    /// The hard label of rows that do not count; the bits of PyTorch's -100 by convention.
    pub ignore_index: u32,
    /// Whether class weights are given: the fourth input. Row weights are the input behind them, if there is
    /// one more.
    pub weighted: bool,
    /// gamma of focal loss: how much less well-classified examples count; 0 is plain cross-entropy.
    pub gamma: f32,
}

impl CrossEntropy {
    /// The class weights and the row weights among the inputs.
    fn weights<'a, T: ?Sized>(&self, x: &[&'a T]) -> [Option<&'a T>; 2] {
        let classes = self.weighted as usize;
        [x.get(3).filter(|_| self.weighted).copied(), x.get(3 + classes).copied()]
    }
    /// The same; another tensor, which no kernel reads, where there are none.
    fn weights_or<'a>(&self, x: &[&'a Tensor], other: &'a Tensor) -> [&'a Tensor; 2] {
        self.weights(x).map(|w| w.unwrap_or(other))
    }
}

/// The label that PyTorch ignores by default, -100, as a u32.
pub const IGNORE: u32 = -100i32 as u32;

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let wrong = || {
            refuse(
                "cross_entropy",
                "logits (rows, C), target (rows) or (rows, C), scale (1), class weights (C) as set, row weights (rows) or none",
                x,
            )
        };
        let given = 3 + self.weighted as usize;
        if x.len() != given && x.len() != given + 1 {
            return Err(wrong());
        }
        let (rows, classes) = x[0].rows_cols();
        let hard = x[1].dtype == DType::U32 && x[1].shape == [rows];
        let soft = x[1].dtype != DType::U32 && x[1].shape == x[0].shape;
        let [class_weights, row_weights] = self.weights(x);
        let fits = |w: Option<&Spec>, n: usize| w.is_none_or(|w| w.shape == [n]);
        if !(hard || soft) || x[2].shape != [1] || !fits(class_weights, classes) || !fits(row_weights, rows) {
            return Err(wrong());
        }
        let sums = accumulator(compute_dtype_beside("cross_entropy", caps, x, &[1, 2, 3, 4])?);
        let plan = Plan::new(vec![Spec::new(sums, &[1])], vec![Spec::new(sums, &[rows])]);
        Ok(plan.with_scratch([if caps.gpu { rows * sums.size() } else { 0 }, 0]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let [all, classes] = call.rows_cols(0);
        // Rows with the ignored label are neither read nor computed; their gradient is zero.
        let rows = match call.integers(1) {
            Some(target) => target.iter().filter(|&&t| t != self.ignore_index).count() as f64,
            None => all,
        };
        let n = rows * classes;
        let soft = call.x.get(1).is_some_and(|t| t.dtype != DType::U32);
        // Whether every class has a share in the target; otherwise one class of each row has.
        let dense = soft || self.label_smoothing != 0.0;
        let flag = |set: bool, flops: f64| if set { flops } else { 0.0 };
        let focal = self.gamma != 0.0;
        let terms = if dense { n } else { rows };
        let share = flag(self.weighted, 1.0) + flag(soft && self.label_smoothing != 0.0, 2.0);
        // The row's loss, or its rate, times the row's weight.
        let weighed = flag(call.x.len() > 3 + self.weighted as usize, rows);
        // The maximum, z - max, exp, the sum; for each row the logarithm and its sum with the maximum. Then
        // for each term q (lse - z), with a focus times (1 - exp(z - lse))^gamma, and the sum; the scale.
        let loss = terms * (2.0 + share + flag(dense, 1.0) + flag(focal, 4.0)) + weighed;
        let forward = 4.0 * n + 2.0 * rows + loss + 1.0;
        // p = exp(z - lse), times the rate, minus the rate times h where h is not zero. With a focus h is q
        // times the power and the slope. Unless the sum of h is known, it is summed and multiplied by p.
        let pull = share + flag(focal, 9.0);
        let summed = dense && (soft || self.weighted || focal);
        let backward =
            3.0 * n + terms * (1.0 + pull) + flag(summed, 2.0 * n) + weighed + 1.0 + call.sums(0, n);
        let others: f64 = (1..call.x.len()).map(|i| call.input(i)).sum();
        let read = rows * call.row(0) + others;
        let lse = call.output(1);
        let backward_bytes = read + lse * rows / all.max(1.0) + call.dy() + call.sparse(0, rows);
        Cost::new([forward, backward], [read + call.output(0) + lse, backward_bytes])
    }
    fn reads_half(&self) -> bool {
        true
    }
}

impl On<Cpu> for CrossEntropy {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_scalar!(io.x[0].spec.dtype, T => match self.gamma {
            0.0 => forward::<T, false>(self, cpu, io),
            _ => forward::<T, true>(self, cpu, io),
        })
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        by_gradient!(io.x[0].spec.dtype, g.t.spec.dtype, (T, G) => match self.gamma {
            0.0 => backward::<T, G, false>(self, cpu, io, g),
            _ => backward::<T, G, true>(self, cpu, io, g),
        })
    }
}

/// The targets of all rows: writes q of one row, and says whether the row counts.
struct Targets<'a, T> {
    hard: Option<crate::device::cpu::Slice<'a, u32>>,
    soft: Option<crate::device::cpu::Slice<'a, T>>,
    weights: Option<crate::device::cpu::Slice<'a, T>>,
    rows: Option<crate::device::cpu::Slice<'a, T>>,
    classes: usize,
    smooth: T,
    ignore: u32,
    gamma: T,
}

impl<'a, T: Real> Targets<'a, T> {
    fn new(op: &CrossEntropy, x: &[&'a Tensor]) -> Result<Self> {
        let classes = x[0].spec.rows_cols().1;
        let hard = (x[1].spec.dtype == DType::U32).then(|| x[1].cpu::<u32>()).transpose()?;
        if let Some(bad) =
            hard.iter().flat_map(|h| h.iter()).find(|&&t| t != op.ignore_index && t as usize >= classes)
        {
            return Err(Error::data(format!("the label {bad} is out of range"))
                .with_expected(format!("a label below {classes}, the number of classes"))
                .with_help("check the labels of the training data"));
        }
        let [weights, rows] = op.weights(x).map(|w| w.map(Tensor::cpu::<T>).transpose());
        Ok(Targets {
            soft: if hard.is_none() { Some(x[1].cpu::<T>()?) } else { None },
            hard,
            weights: weights?,
            rows: rows?,
            classes,
            smooth: T::of(op.label_smoothing as f64),
            ignore: op.ignore_index,
            gamma: T::of(op.gamma as f64),
        })
    }
    /// q of class c in row i.
    #[inline(always)]
    fn q(&self, i: usize, c: usize) -> T {
        let t = match (&self.hard, &self.soft) {
            (Some(hard), _) if hard[i] == self.ignore => return T::ZERO,
            (Some(hard), _) => T::of((hard[i] as usize == c) as u8 as f64),
            (_, Some(soft)) => soft[i * self.classes + c],
            _ => T::ZERO,
        };
        let w = self.weights.as_ref().map_or(T::ONE, |w| w[c]);
        w * ((T::ONE - self.smooth) * t + self.smooth / T::of(self.classes as f64))
    }
    /// Where a row has one class that counts in full and all others alike: that class, its q, and that of the
    /// others.
    #[inline(always)]
    fn simple(&self, i: usize) -> Option<(usize, T, T)> {
        let hard = self.hard.as_ref().filter(|_| self.weights.is_none() && self.gamma == T::ZERO)?;
        if hard[i] == self.ignore {
            return Some((0, T::ZERO, T::ZERO));
        }
        let rest = self.smooth / T::of(self.classes as f64);
        Some((hard[i] as usize, (T::ONE - self.smooth) + rest, rest))
    }
    /// A number of row i, its loss or its rate, times the row's weight; 0 for weight 0 whatever the number
    /// is.
    #[inline(always)]
    fn weighed(&self, i: usize, v: T) -> T {
        match self.rows.as_ref().map(|w| w[i]) {
            None => v,
            Some(w) if w == T::ZERO => T::ZERO,
            Some(w) => w * v,
        }
    }
    /// Whether row i has a weight of 0.
    #[inline(always)]
    fn skips(&self, i: usize) -> bool {
        self.rows.as_ref().is_some_and(|w| w[i] == T::ZERO)
    }
    /// (1 - p)^gamma of a class with -ln p = l, and p and 1 - p; rounding may put p above 1, of which there
    /// is no power.
    #[inline(always)]
    fn focus(&self, l: T) -> (T, T, T) {
        let p = (-l).exp();
        let rest = T::ONE - p;
        let power = if rest <= T::ZERO { T::ZERO } else { (self.gamma * rest.ln()).exp() };
        (power, p, rest)
    }
    /// -p dloss/dp of class c in row i, the share with which it pulls at the logits: q, with a focus
    /// q (1 - p)^gamma (1 + gamma p l / (1 - p)), where -ln p = l.
    #[inline(always)]
    fn pull<const FOCAL: bool>(&self, i: usize, c: usize, l: T) -> T {
        let q = self.q(i, c);
        if !FOCAL || q == T::ZERO {
            return q;
        }
        let (power, p, rest) = self.focus(l);
        // The second factor has its limits where it is 0 / 0 or 0 times infinity.
        let slope =
            if power == T::ZERO || p == T::ZERO { T::ONE } else { T::ONE + self.gamma * p * l / rest };
        q * power * slope
    }
}

/// Rows of one unit of parallel work: few, where classes are a vocabulary.
fn rows_at_once(classes: usize) -> usize {
    (BLOCK * 128 / classes.max(1)).clamp(1, BLOCK)
}

/// A row of logits as it is computed in: itself, or `room` with its values.
#[inline(always)]
fn values<'a, T: Scalar>(row: &'a [T], room: &'a mut Vec<T::Real>) -> &'a [T::Real] {
    T::reals(row).unwrap_or_else(|| {
        room.resize(row.len(), Real::ZERO);
        load_row(row, room);
        room
    })
}

/// What one task of the forward pass fills: its block's number; lse and losses of the block.
type BlockLosses<'a, R> = (usize, (&'a mut [R], &'a mut [R]));

fn forward<T: Scalar, const FOCAL: bool>(op: &CrossEntropy, cpu: &Cpu, io: Forward) -> Result<()> {
    let (rows, classes) = io.x[0].spec.rows_cols();
    let targets = Targets::<T::Real>::new(op, io.x)?;
    let (logits, scale) = (io.x[0].cpu::<T>()?, io.x[2].cpu::<T::Real>()?[0]);
    let mut lse = io.y[1].cpu_mut::<T::Real>()?;
    let scratch = cpu.scratch(rows * size_of::<T::Real>())?;
    let mut losses = scratch.write::<T::Real>(0, rows)?;
    let task = |(b, (lse, losses)): BlockLosses<T::Real>| {
        let mut room = Vec::new();
        vectorise!({
            for (r, (lse, loss)) in lse.iter_mut().zip(losses).enumerate() {
                let i = b * rows_at_once(classes) + r;
                let z = values(&logits[i * classes..][..classes], &mut room);
                let max = max_lanes(z);
                *lse = max + sum_over(z, |z| (z - max).exp()).ln();
                if let Some((label, hit, rest)) = targets.simple(i) {
                    *loss = if hit == T::Real::ZERO { Real::ZERO } else { hit * (*lse - z[label]) };
                    if rest != T::Real::ZERO {
                        let all = sum_over(z, |z| *lse - z);
                        *loss += rest * (all - (*lse - z[label]));
                    }
                    *loss = targets.weighed(i, *loss);
                    continue;
                }
                let sum = sum_lanes(classes, |c| {
                    let q = targets.q(i, c);
                    let l = *lse - z[c];
                    // An infinite logit of a class that does not count is no NaN.
                    match q == T::Real::ZERO {
                        true => Real::ZERO,
                        false if FOCAL => q * targets.focus(l).0 * l,
                        false => q * l,
                    }
                });
                *loss = targets.weighed(i, sum);
            }
        })
    };
    let block = rows_at_once(classes);
    cpu.install(|| lse.par_chunks_mut(block).zip(losses.par_chunks_mut(block)).enumerate().for_each(task));
    io.y[0].cpu_mut::<T::Real>()?[0] = scale * losses.iter().copied().sum::<T::Real>();
    Ok(())
}

/// dlogits_ic = dloss scale v_i (p_ic sum_k h_ik - h_ic), h = -p dloss/dp, which is q without a focus.
fn backward<T: Scalar, G: Scalar<Real = T::Real>, const FOCAL: bool>(
    op: &CrossEntropy,
    cpu: &Cpu,
    io: Backward,
    g: Grad,
) -> Result<()> {
    let (_, classes) = io.x[0].spec.rows_cols();
    let targets = Targets::<T::Real>::new(op, io.x)?;
    let (logits, lse) = (io.x[0].cpu::<T>()?, io.y[1].cpu::<T::Real>()?);
    let scale = io.x[2].cpu::<T::Real>()?[0] * io.dy()?.cpu::<T::Real>()?[0];
    let mut dx = g.t.cpu_mut::<G>()?;
    let task = |(i, dx): (usize, &mut [G])| {
        let mut room = Vec::new();
        vectorise!({
            if targets.skips(i) {
                if !g.add {
                    dx.fill(G::zeroed());
                }
                return;
            }
            let scale = targets.weighed(i, scale);
            let z = values(&logits[i * classes..][..classes], &mut room);
            if let Some((label, hit, rest)) = targets.simple(i) {
                let (total, before) = (hit + rest * T::Real::of((classes - 1) as f64), dx[label].load());
                let (lse, all) = (lse[i], dx.iter_mut().zip(z));
                let d = inlined!(|z: T::Real, q: T::Real| scale * ((z - lse).exp() * total - q));
                match g.add {
                    true => all.for_each(|(dx, &z)| *dx = G::store(dx.load() + d(z, rest))),
                    false => all.for_each(|(dx, &z)| *dx = G::store(d(z, rest))),
                }
                let d = d(z[label], hit);
                dx[label] = G::store(if g.add { before + d } else { d });
                return;
            }
            let total = sum_lanes(classes, |c| targets.pull::<FOCAL>(i, c, lse[i] - z[c]));
            for (c, dx) in dx.iter_mut().enumerate() {
                let d = scale * ((z[c] - lse[i]).exp() * total - targets.pull::<FOCAL>(i, c, lse[i] - z[c]));
                *dx = G::store(if g.add { dx.load() + d } else { d });
            }
        })
    };
    let block = rows_at_once(classes);
    cpu.install(|| dx.par_chunks_mut(classes).with_min_len(block).enumerate().for_each(task));
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/cross_entropy.wgsl");

impl CrossEntropy {
    fn launch(
        &self,
        device: &Wgpu,
        entry: &'static str,
        io: &[&Tensor],
        rest: [&Tensor; 3],
        add: bool,
    ) -> Result<()> {
        let (rows, classes) = io[0].spec.rows_cols();
        let consts = [
            ("HARD", (io[1].spec.dtype == DType::U32) as u32),
            ("WEIGHTED", self.weighted as u32),
            ("FOCAL", (self.gamma != 0.0) as u32),
            ("ROW_WEIGHTED", self.weights(io)[1].is_some() as u32),
        ];
        let [lse, loss, each] = rest;
        let [weights, row_weights] = self.weights_or(io, io[2]);
        let buffers = [io[0], io[1], io[2], weights, lse, loss, each, row_weights];
        let [smoothing, gamma] = [self.label_smoothing, self.gamma].map(f32::to_bits);
        let params = [rows as u32, classes as u32, self.ignore_index, smoothing, gamma, add as u32];
        let groups = if entry == "sum_rows" { [1; 3] } else { groups_for(rows) };
        launch(device, (SHADER, entry), &consts, groups, &buffers, &params)
    }
}

impl On<Wgpu> for CrossEntropy {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let losses = device.scratch(io.y[1].spec.dtype, &io.y[1].spec.shape)?;
        let rest = [io.y[1], io.y[0], &losses];
        self.launch(device, "forward", io.x, rest, false)?;
        self.launch(device, "sum_rows", io.x, rest, false)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        self.launch(device, "backward", io.x, [io.y[1], io.dy()?, g.t], g.add)
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/cross_entropy.cu");

impl CrossEntropy {
    fn launch_cuda(
        &self,
        device: &Cuda,
        entry: &'static str,
        (x, to): (&[&Tensor], &Tensor),
        buffers: &[&Tensor],
        add: bool,
    ) -> Result<()> {
        let (rows, classes) = x[0].spec.rows_cols();
        let consts = [
            ("T", Const::Type(x[0].spec.dtype)),
            ("G", Const::Type(to.spec.dtype)),
            ("HARD", Const::U32((x[1].spec.dtype == DType::U32) as u32)),
            ("WEIGHTED", Const::U32(self.weighted as u32)),
            ("FOCAL", Const::U32((self.gamma != 0.0) as u32)),
            ("ROW_WEIGHTED", Const::U32(self.weights(x)[1].is_some() as u32)),
        ];
        let [smoothing, gamma] = [self.label_smoothing, self.gamma].map(f32::to_bits);
        let params = [rows as u32, classes as u32, self.ignore_index, smoothing, gamma, add as u32];
        let one = entry == "cross_entropy_sum";
        let groups = if one { [1; 3] } else { [rows.div_ceil(CUDA_THREADS as usize / 32) as u32, 1, 1] };
        launch_cuda(device, (KERNEL, entry), &consts, groups, buffers, &params)
    }
}

impl On<Cuda> for CrossEntropy {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let (x, lse) = (io.x, io.y[1]);
        let each = device.scratch(lse.spec.dtype, &lse.spec.shape)?;
        let [weights, row_weights] = self.weights_or(x, x[2]);
        let (like, entry) = ((x, x[0]), "cross_entropy_forward");
        self.launch_cuda(device, entry, like, &[x[0], x[1], weights, row_weights, lse, &each], false)?;
        self.launch_cuda(device, "cross_entropy_sum", like, &[&each, x[2], io.y[0]], false)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let (Some(g), x) = (io.dx(0), io.x) else { return Ok(()) };
        let [weights, row_weights] = self.weights_or(x, x[2]);
        let buffers = [x[0], x[1], weights, row_weights, x[2], io.dy()?, io.y[1], g.t];
        self.launch_cuda(device, "cross_entropy_backward", (x, g.t), &buffers, g.add)
    }
}

/// Edge cases: ignored rows, one class, odd counts, rows of weight 0, every setting.
pub fn cases() -> Vec<Case> {
    let focal = |label, classes: usize, target: &[u32], smoothing, weighted, gamma| {
        let op = CrossEntropy { label_smoothing: smoothing, ignore_index: IGNORE, weighted, gamma };
        let rows = target.len();
        let mut inputs = vec![
            Input { shape: vec![rows, classes], fill: super::Fill::Real(-4.0, 4.0) },
            Input::ints(target),
            Input::fixed(&[1], &[0.37]),
        ];
        if weighted {
            inputs.push(Input::fixed(&[classes], &(0..classes).map(|c| 0.3 + c as f64).collect::<Vec<_>>()));
        }
        Case::new(label, op, inputs)
    };
    let case = |label, classes, target: &[u32], smoothing, weighted| {
        focal(label, classes, target, smoothing, weighted, 0.0)
    };
    let many: Vec<u32> = (0..67).map(|i| i * 5 % 33).collect();
    let mut cases = vec![
        case("hard", 3, &[0, 2, 1, 1], 0.0, false),
        case("ignored rows", 4, &[IGNORE, 3, IGNORE, 0], 0.1, true),
        case("smoothed", 5, &[4, 0], 0.2, false),
        case("weighted", 3, &[2, 2, 0], 0.0, true),
        case("one class", 1, &[0], 0.0, false),
        case("more rows than a block", 33, &many, 0.1, true),
        case("no rows", 3, &[], 0.0, false),
        focal("focal", 3, &[0, 2, 1, 1], 0.0, false, 2.0),
        focal("focal, a root", 5, &[4, IGNORE, 0], 0.0, false, 0.5),
        focal("focal, weighted and smoothed", 33, &many, 0.1, true, 2.0),
        focal("focal, one class", 1, &[0], 0.0, true, 1.0),
    ];
    let soft = [0.2, 0.5, 0.3, 1.0, 0.0, 0.0, 0.1, 0.1, 0.8];
    let op = CrossEntropy { label_smoothing: 0.1, ignore_index: IGNORE, weighted: false, gamma: 0.0 };
    let inputs = || vec![Input::real(&[3, 3]), Input::fixed(&[3, 3], &soft), Input::fixed(&[1], &[1.5])];
    cases.push(Case::new("soft labels", op, inputs()));
    cases.push(Case::new("soft labels, focal", CrossEntropy { gamma: 3.0, ..op }, inputs()));
    let weigh_rows = |case: Case| {
        let rows = case.inputs[0].shape[0];
        let weights: Vec<f64> = (0..rows).map(|i| [0.5, 0.0, 3.0, 1.25][i % 4]).collect();
        Case { inputs: case.inputs.into_iter().chain([Input::fixed(&[rows], &weights)]).collect(), ..case }
    };
    cases.extend(
        [
            case("row weights", 3, &[0, 2, 1, 1, 0], 0.0, false),
            case("row and class weights, smoothed, ignored rows", 33, &[IGNORE, 3, 32, IGNORE, 0], 0.1, true),
            case(
                "row weights, more rows than a block",
                5,
                &many.iter().map(|t| t % 5).collect::<Vec<_>>(),
                0.2,
                false,
            ),
            focal("row weights, focal", 3, &[0, 2, 1, 1], 0.0, false, 2.0),
            Case::new("row weights, soft labels", op, inputs()),
        ]
        .map(weigh_rows),
    );
    cases
}
