//! loss = scale sum_rc w_c (t_rc (1 - p_rc)^gamma a_rc + (1 - t_rc) p_rc^gamma b_rc), p = sigmoid(z), a = -ln
//! p = log(1 + exp(-z)), b = -ln (1 - p) = log(1 + exp(z)).
//!
//! logits z (rows, C), targets t (rows, C), scale (1), and as set weights w (C) -> loss (1). gamma is the
//! focus on what is not known yet (focal loss, Lin et al. 2017, eq. 4); with gamma = 0 this is PyTorch's
//! `binary_cross_entropy_with_logits` and its `weight`, with scale = 1 / (rows C) in the reduction "mean".
//! Nothing is saved.

use super::{
    Backward, Call, Case, Cost, Forward, Input, On, Op, Plan, accumulator, blocks_for, by_dtype,
    compute_dtype_beside, groups_for, launch, launch_cuda, refuse,
};
use crate::device::cpu::{Real, sum_lanes, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::Spec;

/// The op; see the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct BinaryCrossEntropy {
    /// Whether the classes have weights.
    pub weighted: bool,
    /// gamma of focal loss: how much less well-classified examples count; 0 is plain binary cross-entropy.
    pub gamma: f32,
}

impl Op for BinaryCrossEntropy {
    fn name(&self) -> &'static str {
        "binary_cross_entropy"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        const NAME: &str = "binary_cross_entropy";
        let shaped = x.len() == 3 + self.weighted as usize
            && x[0].shape == x[1].shape
            && x[2].shape == [1]
            && x.get(3).is_none_or(|w| w.shape == [x[0].rows_cols().1]);
        if !shaped {
            return Err(refuse(
                NAME,
                "logits (rows, C), targets (rows, C), scale (1), weights (C) as set",
                x,
            ));
        }
        let sums = accumulator(compute_dtype_beside(NAME, caps, x, &[1, 2, 3])?);
        Ok(Plan::new(vec![Spec::new(sums, &[1])], vec![]))
    }
    fn cost(&self, call: &Call) -> Cost {
        // Forward: max(0, z) - z t + log(1 + exp(-|z|)), summed. Backward: (1 / (1 + exp(-z)) - t) times the
        // rate. With a focus both losses of an element are computed, each with its power; see the formulas.
        let [forward, backward] = if self.gamma == 0.0 { [8.0, 5.0] } else { [18.0, 26.0] };
        let (n, weight) = (call.len(0), self.weighted as u8 as f64);
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

/// -ln p and -ln (1 - p) of p = sigmoid(z).
#[inline(always)]
fn surprises<T: Real>(z: T) -> [T; 2] {
    let abs = if z < T::ZERO { -z } else { z };
    let both = (T::ONE + (-abs).exp()).ln();
    [T::ZERO.larger(-z) + both, T::ZERO.larger(z) + both]
}

fn forward<T: Real>(op: &BinaryCrossEntropy, io: Forward) -> Result<()> {
    let (z, t, scale) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?, io.x[2].cpu::<T>()?[0]);
    let weights = op.weighted.then(|| io.x[3].cpu::<T>()).transpose()?;
    let (classes, gamma) = (io.x[0].spec.rows_cols().1, T::of(op.gamma as f64));
    let weight = |i: usize| weights.as_ref().map_or(T::ONE, |w| w[i % classes]);
    let plain = |i: usize| {
        let (z, t) = (z[i], t[i]);
        let abs = if z < T::ZERO { -z } else { z };
        weight(i) * (T::ZERO.larger(z) - z * t + (T::ONE + (-abs).exp()).ln())
    };
    let focal = |i: usize| {
        let (t, [a, b]) = (t[i], surprises(z[i]));
        weight(i) * (t * (-gamma * b).exp() * a + (T::ONE - t) * (-gamma * a).exp() * b)
    };
    let sum = if op.gamma == 0.0 {
        vectorise!(sum_lanes(z.len(), plain))
    } else {
        vectorise!(sum_lanes(z.len(), focal))
    };
    io.y[0].cpu_mut::<T>()?[0] = scale * sum;
    Ok(())
}

/// dz = dloss scale w ((1 - t) p^gamma (p + gamma (1 - p) b) - t (1 - p)^gamma (1 - p + gamma p a)), p - t
/// without a focus.
fn backward<T: Real>(op: &BinaryCrossEntropy, io: Backward) -> Result<()> {
    let Some(g) = io.dx(0) else { return Ok(()) };
    let (z, t) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?);
    let weights = op.weighted.then(|| io.x[3].cpu::<T>()).transpose()?;
    let (classes, gamma) = (io.x[0].spec.rows_cols().1, T::of(op.gamma as f64));
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
        let d = scale * weights.as_ref().map_or(T::ONE, |w| w[i % classes]) * gradient(z, t);
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
    fn settings(&self) -> [(&'static str, u32); 2] {
        [("WEIGHTED", self.weighted as u32), ("FOCAL", (self.gamma != 0.0) as u32)]
    }
    fn consts(&self, [t, g]: [&Tensor; 2]) -> [(&'static str, Const); 4] {
        let [weighted, focal] = self.settings().map(|(name, v)| (name, Const::U32(v)));
        [("T", Const::Type(t.spec.dtype)), ("G", Const::Type(g.spec.dtype)), weighted, focal]
    }
}

/// The weights; something else where there are none, which nobody reads.
fn weights<'a>(x: &[&'a Tensor]) -> &'a Tensor {
    x.get(3).unwrap_or(&x[2])
}

pub(super) const SHADER: &str = include_str!("../../shaders/binary_cross_entropy.wgsl");

impl On<Wgpu> for BinaryCrossEntropy {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let (x, params) = (io.x, self.params(io.x[0], false));
        let buffers = [x[0], x[1], x[2], weights(x), io.y[0], x[0]];
        launch(device, (SHADER, "forward"), &self.settings(), [1; 3], &buffers, &params)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let (Some(g), x) = (io.dx(0), io.x) else { return Ok(()) };
        let (groups, params) = (groups_for(x[0].spec.len()), self.params(x[0], g.add));
        let buffers = [x[0], x[1], x[2], weights(x), io.dy()?, g.t];
        launch(device, (SHADER, "backward"), &self.settings(), groups, &buffers, &params)
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/binary_cross_entropy.cu");

impl On<Cuda> for BinaryCrossEntropy {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let (x, params) = (io.x, self.params(io.x[0], false));
        let (kernel, consts) = ((KERNEL, "binary_cross_entropy_forward"), self.consts([x[0]; 2]));
        let buffers = [x[0], x[1], x[2], weights(x), io.y[0]];
        launch_cuda(device, kernel, &consts, [1; 3], &buffers, &params)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let (Some(g), x) = (io.dx(0), io.x) else { return Ok(()) };
        let (kernel, consts) = ((KERNEL, "binary_cross_entropy_backward"), self.consts([x[0], g.t]));
        let buffers = [x[0], x[1], x[2], weights(x), io.dy()?, g.t];
        launch_cuda(device, kernel, &consts, blocks_for(x[0].spec.len()), &buffers, &self.params(x[0], g.add))
    }
}

/// Edge cases: large logits of both signs, soft targets, more elements than lanes, no rows, every setting.
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
    vec![
        case("small", [2, 3], 1.0, false, 0.0),
        case("large logits", [5, 7], 30.0, false, 0.0),
        case("one", [1, 1], 2.0, false, 0.0),
        case("no rows", [0, 4], 1.0, true, 2.0),
        case("weighted", [9, 37], 3.0, true, 0.0),
        case("focal", [4, 3], 4.0, false, 2.0),
        case("focal of large logits, weighted", [67, 5], 30.0, true, 0.7),
    ]
}
