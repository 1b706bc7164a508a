//! grad += lambda share s'(score), with s' = s (1 - s) the derivative of the sigmoid s: the gradient of
//! `lambda share sum s(score)`, which makes scores of pruning masks fall (Sanh et al. 2020, sec. 4, soft
//! movement pruning).
//!
//! score (n), grad (n), lambda (1): grad is written. With `share` 1 / (matrices n) the penalty is lambda
//! times the mean over the matrices of the mean sigmoid. lambda carries the loss scale.

use super::{
    Call, Case, Cost, Fill, Input, Step, StepOn, Subject, blocks_for, by_dtype, groups_for, launch,
    launch_cuda, refuse, step_dtype,
};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{Real, vectorise};
use crate::device::{Caps, Cpu, Cuda, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::Spec;
use std::fmt::Debug;

/// The step; see the module.
#[derive(Clone, Copy, Debug)]
pub struct ScorePenalty {
    /// The weight of a sigmoid in the penalty.
    pub share: f32,
}

impl Step for ScorePenalty {
    fn name(&self) -> &'static str {
        "score_penalty"
    }
    fn check(&self, caps: &Caps, x: &[&Spec]) -> Result<()> {
        let wrong = || refuse("score_penalty", "score (n), grad (n), lambda (1)", x);
        let [score, grad, lambda] = x else { return Err(wrong()) };
        if score.shape != grad.shape || lambda.shape != [1] {
            return Err(wrong());
        }
        step_dtype("score_penalty", caps, x).map(drop)
    }
    fn cost(&self, call: &Call) -> Cost {
        // e = exp(-|s|); 1 + e, its square, the quotient, the factor, the sum. lambda share once.
        Cost::step(6.0 * call.len(0) + 1.0, call.input(0) + 2.0 * call.input(1) + call.input(2))
    }
}

impl StepOn<Cpu> for ScorePenalty {
    fn run(&self, cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
        by_dtype!(x[0].spec.dtype, run(self, cpu, x))
    }
}

/// Elements of a task on the CPU.
const CHUNK: usize = 1 << 14;

fn run<T: Real>(op: &ScorePenalty, cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
    let (score, mut grad) = (x[0].cpu::<T>()?, x[1].cpu_mut::<T>()?);
    let rate = x[2].cpu::<T>()?[0] * T::of(op.share as f64);
    let task = |(grad, score): (&mut [T], &[T])| {
        vectorise!({
            for (g, &s) in grad.iter_mut().zip(score) {
                let e = (-s.larger(-s)).exp();
                *g += rate * (e / ((T::ONE + e) * (T::ONE + e)));
            }
        })
    };
    cpu.install(|| grad.par_chunks_mut(CHUNK).zip(score.par_chunks(CHUNK)).for_each(task));
    Ok(())
}

impl ScorePenalty {
    fn params(&self, n: usize) -> [u32; 2] {
        [n as u32, self.share.to_bits()]
    }
}

pub(super) const SHADER: &str = include_str!("../../shaders/score_penalty.wgsl");

impl StepOn<Wgpu> for ScorePenalty {
    fn run(&self, device: &Wgpu, x: &[&Tensor]) -> Result<()> {
        let n = x[0].spec.len();
        launch(device, (SHADER, "penalize"), &[], groups_for(n), x, &self.params(n))
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/score_penalty.cu");

impl StepOn<Cuda> for ScorePenalty {
    fn run(&self, device: &Cuda, x: &[&Tensor]) -> Result<()> {
        let n = x[0].spec.len();
        launch_cuda(device, (KERNEL, "score_penalty"), &[], blocks_for(n), x, &self.params(n))
    }
}

/// The share of the test cases.
const SHARE: f32 = 0.25;

fn textbook(_: &dyn Debug, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let sigmoid = |s: f64| 1.0 / (1.0 + (-s).exp());
    let mut y = x.to_vec();
    for (g, &s) in y[1].iter_mut().zip(&x[0]) {
        *g += x[2][0] * f64::from(SHARE) * sigmoid(s) * (1.0 - sigmoid(s));
    }
    y
}

/// Edge cases: one element, an odd number, a matrix of more than a task, large scores.
pub fn cases() -> Vec<Case> {
    let case = |label, shape: &[usize], largest: f64| Case {
        label,
        subject: Subject::Step(Box::new(ScorePenalty { share: SHARE }), textbook),
        inputs: vec![
            Input { shape: shape.to_vec(), fill: Fill::Real(-largest, largest) },
            Input::real(shape),
            Input::fixed(&[1], &[3.5]),
        ],
        slack: 1.0,
        half_slack: 1.0,
    };
    vec![
        case("one", &[1, 1], 1.0),
        case("odd", &[37], 2.0),
        case("several tasks", &[131, 257], 4.0),
        case("large scores", &[9, 50], 100.0),
    ]
}
