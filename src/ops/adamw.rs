//! AdamW: p -= lr wd p; m += (1 - b1)(g - m); v = b2 v + (1 - b2) g^2; p -= lr / c1 * m / (sqrt(v / c2) +
//! eps), with c1 = 1 - b1^t and c2 = 1 - b2^t, the factors of update t.
//!
//! Loshchilov and Hutter 2019, alg. 2, in the form of PyTorch's `torch.optim.AdamW`; [`update`] has the
//! tensors.

use super::update::{
    self, Rates, Segment, Settings, Update, UpdateKernel, UpdateRule, case_segments, textbook, walk,
};
use super::{Call, Case, Cost, Fill, Step, StepOn, by_dtype};
use crate::device::cpu::{Real, inlined};
use crate::device::{Caps, Cpu, Cuda, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::Spec;
use std::fmt::Debug;
use std::sync::Arc;

/// The step; see the module.
#[derive(Clone, Debug)]
pub struct AdamW {
    /// The decay rate of the first moment (beta 1).
    pub beta1: f32,
    /// The decay rate of the second moment (beta 2).
    pub beta2: f32,
    /// Epsilon, added to the square root of the second moment.
    pub eps: f32,
    /// The largest gradient norm; 0 for no clipping.
    pub max_norm: f32,
    /// The segments of the arena, in order; together they cover it.
    pub segments: Arc<[Segment]>,
}

/// The optimizer.
pub(super) const RULE: UpdateRule = UpdateRule {
    name: "adamw",
    doc: "Adam with decoupled weight decay (Loshchilov and Hutter 2019), as PyTorch's `AdamW`",
    settings: &[("beta1", 0.9), ("beta2", 0.999), ("eps", 1e-8)],
    build: |s, segments| {
        let Settings { beta1, beta2, eps, max_grad_norm, .. } = *s;
        Box::new(AdamW { beta1, beta2, eps, max_norm: max_grad_norm, segments })
    },
    cases,
    shader: concat!(include_str!("../../shaders/update.wgsl"), include_str!("../../shaders/adamw.wgsl")),
    kernel: concat!(include_str!("../../kernels/update.cu"), include_str!("../../kernels/adamw.cu")),
};

impl Step for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }
    fn check(&self, caps: &Caps, x: &[&Spec]) -> Result<()> {
        update::check(self, caps, x)
    }
    fn cost(&self, call: &Call) -> Cost {
        // g clip; g - m, times, plus; b2 v, g g, times, plus; p keep; the root, its factor, eps, rate m, the
        // quotient, minus.
        update::cost(self, call, 15)
    }
}

impl Update for AdamW {
    fn segments(&self) -> &[Segment] {
        &self.segments
    }
    fn max_norm(&self) -> f32 {
        self.max_norm
    }
    fn states(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq"]
    }
    fn factors(&self, t: u64) -> Vec<f64> {
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(t.min(i32::MAX as u64) as i32);
        vec![correction(self.beta1), correction(self.beta2)]
    }
}

impl StepOn<Cpu> for AdamW {
    fn run(&self, cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
        by_dtype!(x[0].spec.dtype, run(self, cpu, x))
    }
}

fn run<T: Real>(op: &AdamW, cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
    let (b1, b2, eps) = (T::of(op.beta1 as f64), T::of(op.beta2 as f64), T::of(op.eps as f64));
    let formula = inlined!(|r: &Rates<T>, p: &mut [T], g: &[T], [m, v]: [&mut [T]; 2]| {
        let (rate, root_c2) = (r.lr / r.factors[0], r.factors[1].sqrt());
        for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * r.clip;
            *m += (T::ONE - b1) * (g - *m);
            *v = b2 * *v + (T::ONE - b2) * g * g;
            *p = *p * r.keep - rate * *m / ((*v).sqrt() / root_c2 + eps);
        }
    });
    walk(op, cpu, x, formula)
}

impl AdamW {
    fn kernel<'a>(&self, source: (&'static str, &'static str), settings: &'a [f32]) -> UpdateKernel<'a> {
        UpdateKernel { source, consts: &[], declared: 2, settings }
    }
}

impl StepOn<Wgpu> for AdamW {
    fn run(&self, device: &Wgpu, x: &[&Tensor]) -> Result<()> {
        let settings = [self.beta1, self.beta2, self.eps];
        self.kernel((RULE.shader, "update"), &settings).run_wgpu(self, device, x)
    }
}

impl StepOn<Cuda> for AdamW {
    fn run(&self, device: &Cuda, x: &[&Tensor]) -> Result<()> {
        let settings = [self.beta1, self.beta2, self.eps];
        self.kernel((RULE.kernel, "adamw_update"), &settings).run_cuda(self, device, x)
    }
}

/// The test case: clipping bites.
fn setting() -> AdamW {
    AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, max_norm: 1.0, segments: case_segments() }
}

/// The published algorithm, element by element.
fn published(_: &dyn Debug, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let op = setting();
    let (b1, b2) = (op.beta1 as f64, op.beta2 as f64);
    textbook(&op, x, |of, p, g, states| {
        let [m, v] = states else { return };
        *p -= of.lr * of.decay * *p;
        *m = b1 * *m + (1.0 - b1) * g;
        *v = b2 * *v + (1.0 - b2) * g * g;
        *p -= of.lr * (*m / of.factors[0]) / ((*v / of.factors[1]).sqrt() + op.eps as f64);
    })
}

/// The cases are those of `update.rs`; PyTorch's own numbers are in `tests/all/optim.rs`.
pub fn cases() -> Vec<Case> {
    let labels = [
        "every kind of segment",
        "most blocks never touched",
        "zero blocks never touched",
        "zero blocks with moments",
    ];
    let states = [Fill::Real(-1.0, 1.0), Fill::Real(0.01, 1.0)];
    update::cases(labels, || Box::new(setting()), published, &[0.19, 0.002], &states)
}
