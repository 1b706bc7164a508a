//! SGD with momentum: d = g + wd p; b = mu b + d, so b = d at first; p -= lr b, or with Nesterov's momentum p
//! -= lr (d + mu b). Without momentum (mu = 0) p -= lr d, and there is no state.
//!
//! Sutskever et al. 2013 in the form of PyTorch's `torch.optim.SGD` without dampening. The weight decay is L2
//! regularisation, as there: a part of the gradient, added after clipping, not AdamW's decoupled decay.
//! [`update`] has the tensors.

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
pub struct Sgd {
    /// The factor on the momentum buffer (mu); 0 for no momentum and no state.
    pub momentum: f32,
    /// Whether the step is Nesterov's.
    pub nesterov: bool,
    /// The largest gradient norm; 0 for no clipping.
    pub max_norm: f32,
    /// The segments of the arena, in order; together they cover it.
    pub segments: Arc<[Segment]>,
}

/// The optimizer.
pub(super) const RULE: UpdateRule = UpdateRule {
    name: "sgd",
    doc: "stochastic gradient descent as PyTorch's `SGD`, with or without momentum. Its weight decay is L2 regularisation, a part of the \
          gradient, not decoupled",
    settings: &[("momentum", 0.0), ("nesterov", 0.0)],
    build: |s, segments| {
        let Settings { momentum, nesterov, max_grad_norm, .. } = *s;
        Box::new(Sgd { momentum, nesterov, max_norm: max_grad_norm, segments })
    },
    cases,
    shader: concat!(include_str!("../../shaders/update.wgsl"), include_str!("../../shaders/sgd.wgsl")),
    kernel: concat!(include_str!("../../kernels/update.cu"), include_str!("../../kernels/sgd.cu")),
};

impl Step for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }
    fn check(&self, caps: &Caps, x: &[&Spec]) -> Result<()> {
        update::check(self, caps, x)
    }
    fn cost(&self, call: &Call) -> Cost {
        let element = match (self.has_momentum(), self.nesterov) {
            // g clip; p keep, lr g, minus.
            (false, _) => 4,
            // g clip; wd p, plus; mu b, plus; lr b, minus.
            (true, false) => 7,
            // Besides: mu b, plus.
            (true, true) => 9,
        };
        update::cost(self, call, element)
    }
}

impl Update for Sgd {
    fn segments(&self) -> &[Segment] {
        &self.segments
    }
    fn max_norm(&self) -> f32 {
        self.max_norm
    }
    fn states(&self) -> &'static [&'static str] {
        if self.has_momentum() { &["momentum_buffer"] } else { &[] }
    }
    fn rests(&self, decay: f32) -> bool {
        !self.has_momentum() || decay == 0.0
    }
}

impl StepOn<Cpu> for Sgd {
    fn run(&self, cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
        by_dtype!(x[0].spec.dtype, run(self, cpu, x))
    }
}

fn run<T: Real>(op: &Sgd, cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
    if !op.has_momentum() {
        // Decay by keep, so that a block without gradients has the same bits whether or not the walk skips
        // it.
        let plain = inlined!(|r: &Rates<T>, p: &mut [T], g: &[T], []: [&mut [T]; 0]| {
            for (p, &g) in p.iter_mut().zip(g) {
                *p = *p * r.keep - r.lr * (g * r.clip);
            }
        });
        return walk(op, cpu, x, plain);
    }
    let mu = T::of(op.momentum as f64);
    let nesterov = op.nesterov;
    let formula = inlined!(|r: &Rates<T>, p: &mut [T], g: &[T], [b]: [&mut [T]; 1]| {
        for ((p, &g), b) in p.iter_mut().zip(g).zip(b) {
            let d = g * r.clip + r.decay * *p;
            *b = mu * *b + d;
            *p -= r.lr * if nesterov { d + mu * *b } else { *b };
        }
    });
    walk(op, cpu, x, formula)
}

impl Sgd {
    fn has_momentum(&self) -> bool {
        self.momentum != 0.0
    }
    fn consts(&self) -> [(&'static str, u32); 1] {
        [("NESTEROV", self.nesterov as u32)]
    }
}

impl StepOn<Wgpu> for Sgd {
    fn run(&self, device: &Wgpu, x: &[&Tensor]) -> Result<()> {
        let source = (RULE.shader, "update");
        UpdateKernel { source, consts: &self.consts(), declared: 1, settings: &[self.momentum] }
            .run_wgpu(self, device, x)
    }
}

impl StepOn<Cuda> for Sgd {
    fn run(&self, device: &Cuda, x: &[&Tensor]) -> Result<()> {
        let source = (RULE.kernel, "sgd_update");
        UpdateKernel { source, consts: &self.consts(), declared: 1, settings: &[self.momentum] }
            .run_cuda(self, device, x)
    }
}

/// The test cases: clipping bites.
fn setting(momentum: f32, nesterov: bool) -> Sgd {
    Sgd { momentum, nesterov, max_norm: 1.0, segments: case_segments() }
}

/// The published algorithm, element by element; the settings are in the step's text.
fn published(op: &dyn Debug, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let text = format!("{op:?}");
    let momentum = if text.contains("momentum: 0.0,") { 0.0 } else { 0.9 };
    let op = setting(momentum, text.contains("nesterov: true"));
    let mu = op.momentum as f64;
    textbook(&op, x, |of, p, g, states| {
        let d = g + of.decay * *p;
        let step = match states {
            [b] => {
                *b = mu * *b + d;
                if op.nesterov { d + mu * *b } else { *b }
            }
            _ => d,
        };
        *p -= of.lr * step;
    })
}

/// The cases are those of `update.rs`; PyTorch's own numbers are in `tests/all/update_rules.rs`.
pub fn cases() -> Vec<Case> {
    let buffer = [Fill::Real(-1.0, 1.0)];
    let plain = [
        "every kind of segment",
        "most blocks never touched",
        "zero blocks never touched",
        "zero blocks touched before",
    ];
    let momentum = [
        "momentum, every kind of segment",
        "momentum, most blocks never touched",
        "momentum, zero blocks never touched",
        "momentum, zero blocks with momentum",
    ];
    let nesterov = [
        "Nesterov, every kind of segment",
        "Nesterov, most blocks never touched",
        "Nesterov, zero blocks never touched",
        "Nesterov, zero blocks with momentum",
    ];
    let mut all = update::cases(plain, || Box::new(setting(0.0, false)), published, &[], &[]);
    all.extend(update::cases(momentum, || Box::new(setting(0.9, false)), published, &[], &buffer));
    all.extend(update::cases(nesterov, || Box::new(setting(0.9, true)), published, &[], &buffer));
    all
}
