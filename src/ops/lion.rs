//! Lion: u = b1 m + (1 - b1) g; m = b2 m + (1 - b2) g; p = (1 - lr wd) p - lr sign(u), where sign(0) = 0.
//!
//! Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms" (arXiv 2302.06675), alg. 2 and program
//! 1, with the name of the state in the authors' PyTorch code; [`update`] has the tensors.

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
pub struct Lion {
    /// The weight of the momentum in the direction of the step (beta 1).
    pub beta1: f32,
    /// The decay rate of the momentum (beta 2).
    pub beta2: f32,
    /// The largest gradient norm; 0 for no clipping.
    pub max_norm: f32,
    /// The segments of the arena, in order; together they cover it.
    pub segments: Arc<[Segment]>,
}

/// The optimizer.
pub(super) const RULE: UpdateRule = UpdateRule {
    name: "lion",
    doc: "steps by the sign of an average of gradients (Chen et al. 2023), with decoupled weight decay. The paper advises a learning rate \
          3 to 10 times lower than AdamW's, and a weight decay 3 to 10 times higher",
    settings: &[("beta1", 0.9), ("beta2", 0.99)],
    build: |s, segments| {
        let Settings { beta1, beta2, max_grad_norm, .. } = *s;
        Box::new(Lion { beta1, beta2, max_norm: max_grad_norm, segments })
    },
    cases,
    shader: concat!(include_str!("../../shaders/update.wgsl"), include_str!("../../shaders/lion.wgsl")),
    kernel: concat!(include_str!("../../kernels/update.cu"), include_str!("../../kernels/lion.cu")),
};

impl Step for Lion {
    fn name(&self) -> &'static str {
        "lion"
    }
    fn check(&self, caps: &Caps, x: &[&Spec]) -> Result<()> {
        update::check(self, caps, x)
    }
    fn cost(&self, call: &Call) -> Cost {
        // g clip; b1 m, its part of g, plus; b2 m, its part of g, plus; p keep, lr sign, minus.
        update::cost(self, call, 10)
    }
}

impl Update for Lion {
    fn segments(&self) -> &[Segment] {
        &self.segments
    }
    fn max_norm(&self) -> f32 {
        self.max_norm
    }
    fn states(&self) -> &'static [&'static str] {
        &["exp_avg"]
    }
}

impl StepOn<Cpu> for Lion {
    fn run(&self, cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
        by_dtype!(x[0].spec.dtype, run(self, cpu, x))
    }
}

fn run<T: Real>(op: &Lion, cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
    let (b1, b2) = (T::of(op.beta1 as f64), T::of(op.beta2 as f64));
    let formula = inlined!(|r: &Rates<T>, p: &mut [T], g: &[T], [m]: [&mut [T]; 1]| {
        for ((p, &g), m) in p.iter_mut().zip(g).zip(m) {
            let g = g * r.clip;
            let u = b1 * *m + (T::ONE - b1) * g;
            *m = b2 * *m + (T::ONE - b2) * g;
            // Not `signum`, which is 1 for 0.
            let up = if u > T::ZERO { r.lr } else { T::ZERO };
            let down = if u < T::ZERO { r.lr } else { T::ZERO };
            *p = *p * r.keep - (up - down);
        }
    });
    walk(op, cpu, x, formula)
}

impl Lion {
    fn kernel<'a>(&self, source: (&'static str, &'static str), settings: &'a [f32]) -> UpdateKernel<'a> {
        UpdateKernel { source, consts: &[], declared: 1, settings }
    }
}

impl StepOn<Wgpu> for Lion {
    fn run(&self, device: &Wgpu, x: &[&Tensor]) -> Result<()> {
        self.kernel((RULE.shader, "update"), &[self.beta1, self.beta2]).run_wgpu(self, device, x)
    }
}

impl StepOn<Cuda> for Lion {
    fn run(&self, device: &Cuda, x: &[&Tensor]) -> Result<()> {
        self.kernel((RULE.kernel, "lion_update"), &[self.beta1, self.beta2]).run_cuda(self, device, x)
    }
}

/// The test case: clipping bites.
fn setting() -> Lion {
    Lion { beta1: 0.9, beta2: 0.99, max_norm: 1.0, segments: case_segments() }
}

/// The published algorithm, element by element.
fn published(_: &dyn Debug, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let op = setting();
    let (b1, b2) = (op.beta1 as f64, op.beta2 as f64);
    textbook(&op, x, |of, p, g, states| {
        let [m] = states else { return };
        let c = b1 * *m + (1.0 - b1) * g;
        let sign = if c == 0.0 { 0.0 } else { c.signum() };
        *p -= of.lr * (sign + of.decay * *p);
        *m = b2 * *m + (1.0 - b2) * g;
    })
}

/// The cases are those of `update.rs`; the numbers of the paper's program are in `tests/all/update_rules.rs`.
pub fn cases() -> Vec<Case> {
    let labels = [
        "every kind of segment",
        "most blocks never touched",
        "zero blocks never touched",
        "zero blocks with momentum",
    ];
    update::cases(labels, || Box::new(setting()), published, &[], &[Fill::Real(-1.0, 1.0)])
}
