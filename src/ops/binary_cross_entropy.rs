//! loss = scale sum_rc v_r w_c (t_rc (1 - p_rc)^gamma a_rc + (1 - t_rc) p_rc^gamma b_rc), p = sigmoid(z),
//! a = -ln p = log(1 + exp(-z)), b = -ln (1 - p) = log(1 + exp(z)).
//!
//! logits z (rows, C), targets t (rows, C), scale (1), as set class weights w (C), and if given row weights v
//! (rows) -> loss (1). Rows with weight 0 count nothing. gamma is the focus on what is not known yet (focal
//! loss, Lin et al. 2017, eq. 4); with gamma = 0 this is PyTorch's `binary_cross_entropy_with_logits` and its
//! `weight`, with scale = 1 / (rows C) in the reduction "mean". Nothing is saved.

use super::{
    Backward, Call, Case, Cost, Forward, Input, On, Op, Plan, accumulator, blocks_for, by_dtype,
    compute_dtype_beside, groups_for, launch, launch_cuda, refuse,
};
use crate::device::cpu::{Real, Slice, sum_lanes, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::Spec;

/// The op; see the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct BinaryCrossEntropy {
    /// Whether the classes have weights: the fourth input. Row weights are the input behind them, if there is
    /// one more.
    pub weighted: bool,
    /// gamma of focal loss: how much less well-classified examples count; 0 is plain binary cross-entropy.
    pub gamma: f32,
}

impl BinaryCrossEntropy {
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

impl Op for BinaryCrossEntropy {
    fn name(&self) -> &'static str {
        "binary_cross_entropy"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        const NAME: &str = "binary_cross_entropy";
        let given = 3 + self.weighted as usize;
        let shaped =
            (x.len() == given || x.len() == given + 1) && x[0].shape == x[1].shape && x[2].shape == [1] && {
                let ((rows, classes), [class_weights, row_weights]) = (x[0].rows_cols(), self.weights(x));
                let fits = |w: Option<&Spec>, n: usize| w.is_none_or(|w| w.shape == [n]);
                fits(class_weights, classes) && fits(row_weights, rows)
            };
        if !shaped {
            return Err(refuse(
                NAME,
                "logits (rows, C), targets (rows, C), scale (1), class weights (C) as set, row weights (rows) or none",
                x,
            ));
        }
        let sums = accumulator(compute_dtype_beside(NAME, caps, x, &[1, 2, 3, 4])?);
        Ok(Plan::new(vec![Spec::new(sums, &[1])], vec![]))
    }
    fn cost(&self, call: &Call) -> Cost {
        // Forward: max(0, z) - z t + log(1 + exp(-|z|)), summed. Backward: (1 / (1 + exp(-z)) - t) times the
        // rate. With a focus both losses of an element are computed, each with its power; see the formulas.
        let [forward, backward] = if self.gamma == 0.0 { [8.0, 5.0] } else { [18.0, 26.0] };
        let (n, weight) = (call.len(0), call.x.len().saturating_sub(3) as f64);
        let flops = [(forward + weight) * n + 1.0, (backward + weight) * n + 1.0 + call.all_sums()];
        let inputs: f64 = (0..call.x.len()).map(|i| call.input(i)).sum();
        Cost::new(flops, [call.whole(), inputs + call.dy() + call.all_dense()])
    }
}

impl On<Cpu> for BinaryCrossEntropy {
    fn forward(&self, _: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, forward(self, io))
    }
    fn backward(&self, _: &Cpu, io: Backward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, backward(self, io))
    }
}

/// What an element of the loss is multiplied by: the weights of its class and of its row.
struct Weights<'a, T> {
    classes: Option<Slice<'a, T>>,
    rows: Option<Slice<'a, T>>,
    cols: usize,
}

impl<'a, T: Real> Weights<'a, T> {
    fn new(op: &BinaryCrossEntropy, x: &[&'a Tensor]) -> Result<Self> {
        let [classes, rows] = op.weights(x).map(|w| w.map(Tensor::cpu::<T>).transpose());
        Ok(Weights { classes: classes?, rows: rows?, cols: x[0].spec.rows_cols().1 })
    }
    /// The weight of the class of element i.
    #[inline(always)]
    fn of_class(&self, i: usize) -> T {
        self.classes.as_ref().map_or(T::ONE, |w| w[i % self.cols])
    }
    /// Element i of the loss or of its derivative, times the weight of its row; 0 for weight 0 whatever it
    /// is.
    #[inline(always)]
    fn of_row(&self, i: usize, v: T) -> T {
        match self.rows.as_ref().map(|w| w[i / self.cols]) {
            None => v,
            Some(w) if w == T::ZERO => T::ZERO,
            Some(w) => w * v,
        }
    }
}

/// -ln p and -ln (1 - p) of p = sigmoid(z).
#[inline(always)]
fn surprises<T: Real>(z: T) -> [T; 2] {
    let abs = if z < T::ZERO { -z } else { z };
    let both = (T::ONE + (-abs).exp()).ln();
    [T::ZERO.larger(-z) + both, T::ZERO.larger(z) + both]
}

fn forward<T: Real>(op: &BinaryCrossEntropy, io: Forward) -> Result<()> {
    let (z, t, scale) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?, io.x[2].cpu::<T>()?[0]);
    let (weights, gamma) = (Weights::new(op, io.x)?, T::of(op.gamma as f64));
    let plain = |i: usize| {
        let (z, t) = (z[i], t[i]);
        let abs = if z < T::ZERO { -z } else { z };
        weights.of_row(i, weights.of_class(i) * (T::ZERO.larger(z) - z * t + (T::ONE + (-abs).exp()).ln()))
    };
    let focal = |i: usize| {
        let (t, [a, b]) = (t[i], surprises(z[i]));
        let loss = t * (-gamma * b).exp() * a + (T::ONE - t) * (-gamma * a).exp() * b;
        weights.of_row(i, weights.of_class(i) * loss)
    };
    let sum = if op.gamma == 0.0 {
        vectorise!(sum_lanes(z.len(), plain))
    } else {
        vectorise!(sum_lanes(z.len(), focal))
    };
    io.y[0].cpu_mut::<T>()?[0] = scale * sum;
    Ok(())
}

/// dz = dloss scale v w ((1 - t) p^gamma (p + gamma (1 - p) b) - t (1 - p)^gamma (1 - p + gamma p a)), p - t
/// without a focus.
fn backward<T: Real>(op: &BinaryCrossEntropy, io: Backward) -> Result<()> {
    let Some(g) = io.dx(0) else { return Ok(()) };
    let (z, t) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?);
    let (weights, gamma) = (Weights::new(op, io.x)?, T::of(op.gamma as f64));
    let scale = io.x[2].cpu::<T>()?[0] * io.dy()?.cpu::<T>()?[0];
    let gradient = |z: T, t: T| {
        if op.gamma == 0.0 {
            return T::ONE / (T::ONE + (-z).exp()) - t;
        }
        let [a, b] = surprises(z);
        let (p, rest) = ((-a).exp(), (-b).exp());
        (T::ONE - t) * (-gamma * a).exp() * (p + gamma * rest * b)
            - t * (-gamma * b).exp() * (rest + gamma * p * a)
    };
    let mut dx = g.t.cpu_mut::<T>()?;
    for (i, ((dx, &z), &t)) in dx.iter_mut().zip(&z[..]).zip(&t[..]).enumerate() {
        let d = weights.of_row(i, scale * weights.of_class(i) * gradient(z, t));
        *dx = if g.add { *dx + d } else { d };
    }
    Ok(())
}

impl BinaryCrossEntropy {
    /// Elements, classes, whether to add, gamma.
    fn params(&self, z: &Tensor, add: bool) -> [u32; 4] {
        let classes = z.spec.rows_cols().1;
        [z.spec.len() as u32, classes as u32, add as u32, self.gamma.to_bits()]
    }
    fn settings(&self, x: &[&Tensor]) -> [(&'static str, u32); 3] {
        let [weighted, row_weighted] = self.weights(x).map(|w| w.is_some() as u32);
        [("WEIGHTED", weighted), ("FOCAL", (self.gamma != 0.0) as u32), ("ROW_WEIGHTED", row_weighted)]
    }
    fn consts(&self, x: &[&Tensor], g: &Tensor) -> [(&'static str, Const); 5] {
        let [weighted, focal, row_weighted] = self.settings(x).map(|(name, v)| (name, Const::U32(v)));
        let types = [("T", x[0]), ("G", g)].map(|(name, t)| (name, Const::Type(t.spec.dtype)));
        [types[0], types[1], weighted, focal, row_weighted]
    }
}

pub(super) const SHADER: &str = include_str!("../../shaders/binary_cross_entropy.wgsl");

impl On<Wgpu> for BinaryCrossEntropy {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let (x, params) = (io.x, self.params(io.x[0], false));
        let [weights, row_weights] = self.weights_or(x, x[2]);
        let buffers = [x[0], x[1], x[2], weights, io.y[0], x[0], row_weights];
        launch(device, (SHADER, "forward"), &self.settings(x), [1; 3], &buffers, &params)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let (Some(g), x) = (io.dx(0), io.x) else { return Ok(()) };
        let (groups, params) = (groups_for(x[0].spec.len()), self.params(x[0], g.add));
        let [weights, row_weights] = self.weights_or(x, x[2]);
        let buffers = [x[0], x[1], x[2], weights, io.dy()?, g.t, row_weights];
        launch(device, (SHADER, "backward"), &self.settings(x), groups, &buffers, &params)
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/binary_cross_entropy.cu");

impl On<Cuda> for BinaryCrossEntropy {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let (x, params) = (io.x, self.params(io.x[0], false));
        let (kernel, consts) = ((KERNEL, "binary_cross_entropy_forward"), self.consts(x, x[0]));
        let [weights, row_weights] = self.weights_or(x, x[2]);
        let buffers = [x[0], x[1], x[2], weights, row_weights, io.y[0]];
        launch_cuda(device, kernel, &consts, [1; 3], &buffers, &params)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let (Some(g), x) = (io.dx(0), io.x) else { return Ok(()) };
        let (kernel, consts) = ((KERNEL, "binary_cross_entropy_backward"), self.consts(x, g.t));
        let [weights, row_weights] = self.weights_or(x, x[2]);
        let buffers = [x[0], x[1], x[2], weights, row_weights, io.dy()?, g.t];
        launch_cuda(device, kernel, &consts, blocks_for(x[0].spec.len()), &buffers, &self.params(x[0], g.add))
    }
}

/// Edge cases: large logits of both signs, soft targets, more elements than lanes, no rows, rows of weight 0,
/// every setting.
pub fn cases() -> Vec<Case> {
    let case = |label, shape: [usize; 2], range: f64, weighted: bool, gamma: f32| {
        let n = shape[0] * shape[1];
        let t: Vec<f64> = (0..n).map(|i| [0.0, 1.0, 0.25][i % 3]).collect();
        let z = Input { shape: shape.to_vec(), fill: super::Fill::Real(-range, range) };
        let mut inputs = vec![z, Input::fixed(&shape, &t), Input::fixed(&[1], &[0.4])];
        if weighted {
            let weights: Vec<f64> = (0..shape[1]).map(|c| 0.3 + c as f64).collect();
            inputs.push(Input::fixed(&[shape[1]], &weights));
        }
        Case::new(label, BinaryCrossEntropy { weighted, gamma }, inputs)
    };
    let weigh_rows = |case: Case| {
        let rows = case.inputs[0].shape[0];
        let weights: Vec<f64> = (0..rows).map(|i| [0.5, 0.0, 3.0, 1.25][i % 4]).collect();
        Case { inputs: case.inputs.into_iter().chain([Input::fixed(&[rows], &weights)]).collect(), ..case }
    };
    vec![
        weigh_rows(case("row weights", [5, 7], 4.0, false, 0.0)),
        weigh_rows(case("row weights, one class", [3, 1], 2.0, false, 0.0)),
        weigh_rows(case("row and class weights, focal", [67, 5], 6.0, true, 0.7)),
        case("small", [2, 3], 1.0, false, 0.0),
        case("large logits", [5, 7], 30.0, false, 0.0),
        case("one", [1, 1], 2.0, false, 0.0),
        case("no rows", [0, 4], 1.0, true, 2.0),
        case("weighted", [9, 37], 3.0, true, 0.0),
        case("focal", [4, 3], 4.0, false, 2.0),
        case("focal of large logits, weighted", [67, 5], 30.0, true, 0.7),
    ]
}
