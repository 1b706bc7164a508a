//! AdamW over a flat arena: p -= lr wd p; m += (1 - b1)(g - m); v = b2 v + (1 - b2) g^2;
//! p -= lr / c1 * m / (sqrt(v / c2) + eps), with c1 = 1 - b1^t, c2 = 1 - b2^t.
//!
//! value, grad, m, v (n), hyper (3) = [lr, c1, c2], norm (1): value, m and v are written. Loshchilov and Hutter 2019,
//! alg. 2, in the form of PyTorch's `torch.optim.AdamW`. Gradients are first scaled by min(1, max_norm / (norm + 1e-6)),
//! PyTorch's `clip_grad_norm_`. Segments carry weight decay, a factor on the learning rate, and freezing.

use super::{Case, Cost, Input, Step, StepOn, Subject, by_dtype, compute_dtype, refuse};
use crate::device::cpu::{Real, vectorised};
use crate::device::{Caps, Cpu, Tensor};
use crate::error::{Error, Result};
use crate::shape::Spec;
use rayon::prelude::*;
use std::fmt::Debug;
use std::sync::Arc;

/// The step; see the module.
#[derive(Clone, Debug)]
pub struct AdamW {
    /// Decay rate of the first moment.
    pub beta1: f32,
    /// Decay rate of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// The norm that gradients are clipped to; 0 for no clipping.
    pub max_norm: f32,
    /// Settings of runs of the arena, in order, covering it.
    pub segments: Arc<[Segment]>,
}

/// A run of the arena with one setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    /// Elements in it.
    pub len: usize,
    /// Weight decay.
    pub decay: f32,
    /// Factor on the learning rate.
    pub lr_scale: f32,
    /// Left as it is.
    pub frozen: bool,
}

/// Elements that one task updates.
const CHUNK: usize = 1 << 14;

impl Step for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }
    fn check(&self, caps: &Caps, x: &[&Spec]) -> Result<Cost> {
        let wrong = || refuse("adamw", "value, grad, m, v (n), hyper (3), norm (1)", x);
        let [value, rest @ .., hyper, norm] = x else { return Err(wrong()) };
        if rest.len() != 3 || rest.iter().any(|s| s != value) || hyper.shape != [3] || norm.shape != [1] {
            return Err(wrong());
        }
        let covered: usize = self.segments.iter().map(|s| s.len).sum();
        if covered != value.len() {
            return Err(Error::shape(format!("the segments cover {covered} of {} parameters", value.len())));
        }
        compute_dtype("adamw", caps, x)?;
        let n = value.len() as f64;
        Ok(Cost { forward_flops: 14.0 * n, forward_bytes: 7.0 * value.bytes() as f64, ..Cost::default() })
    }
}

impl StepOn<Cpu> for AdamW {
    fn run(&self, cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
        by_dtype!(x[0].spec.dtype, run(self, cpu, x))
    }
}

/// A run of the four arrays that one task updates.
type Piece<'a, T> = (Segment, ((&'a mut [T], &'a [T]), (&'a mut [T], &'a mut [T])));

fn run<T: Real>(op: &AdamW, cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
    let (mut p, g, mut m, mut v) =
        (x[0].cpu_mut::<T>()?, x[1].cpu::<T>()?, x[2].cpu_mut::<T>()?, x[3].cpu_mut::<T>()?);
    let (hyper, norm) = (x[4].cpu::<T>()?, x[5].cpu::<T>()?[0]);
    let (lr, c1, root_c2) = (hyper[0], hyper[1], hyper[2].sqrt());
    let (b1, b2, eps) = (T::of(op.beta1 as f64), T::of(op.beta2 as f64), T::of(op.eps as f64));
    let max = T::of(op.max_norm as f64);
    let ratio = max / (norm + T::of(1e-6));
    let clip = if max > T::ZERO && ratio < T::ONE { ratio } else { T::ONE };
    let task = |(s, ((p, g), (m, v))): Piece<T>| {
        let (lr, keep) = (lr * T::of(s.lr_scale as f64), T::ONE - lr * T::of((s.lr_scale * s.decay) as f64));
        let rate = lr / c1;
        vectorised(
            #[inline(always)]
            || {
                for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                    let g = g * clip;
                    *m += (T::ONE - b1) * (g - *m);
                    *v = b2 * *v + (T::ONE - b2) * g * g;
                    *p = *p * keep - rate * *m / ((*v).sqrt() / root_c2 + eps);
                }
            },
        )
    };
    let mut pieces: Vec<Piece<T>> = Vec::with_capacity(g.len() / CHUNK + op.segments.len());
    let (mut p, mut g, mut m, mut v) = (&mut p[..], &g[..], &mut m[..], &mut v[..]);
    for &s in op.segments.iter() {
        let (p0, g0, m0, v0);
        ((p0, p), (g0, g)) = (p.split_at_mut(s.len), g.split_at(s.len));
        ((m0, m), (v0, v)) = (m.split_at_mut(s.len), v.split_at_mut(s.len));
        if !s.frozen {
            let moments = m0.chunks_mut(CHUNK).zip(v0.chunks_mut(CHUNK));
            let all = p0.chunks_mut(CHUNK).zip(g0.chunks(CHUNK)).zip(moments);
            pieces.extend(all.map(|piece| (s, piece)));
        }
    }
    cpu.install(|| pieces.into_par_iter().for_each(task));
    Ok(())
}

/// The published algorithm, element by element.
fn textbook(op: &dyn Debug, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let [mut p, g, mut m, mut v, hyper, norm] = <[Vec<f64>; 6]>::try_from(x.to_vec()).unwrap_or_default();
    let AdamW { beta1, beta2, eps, max_norm, segments } = setting();
    debug_assert!(format!("{op:?}").starts_with("AdamW"));
    let (b1, b2) = (beta1 as f64, beta2 as f64);
    let clip = (max_norm as f64 / (norm[0] + 1e-6)).min(1.0);
    let mut i = 0;
    for s in segments.iter() {
        for _ in 0..s.len {
            if !s.frozen {
                let lr = hyper[0] * s.lr_scale as f64;
                p[i] -= lr * s.decay as f64 * p[i];
                m[i] = b1 * m[i] + (1.0 - b1) * (g[i] * clip);
                v[i] = b2 * v[i] + (1.0 - b2) * (g[i] * clip) * (g[i] * clip);
                p[i] -= lr * (m[i] / hyper[1]) / ((v[i] / hyper[2]).sqrt() + eps as f64);
            }
            i += 1;
        }
    }
    vec![p, g, m, v, hyper, norm]
}

/// The setting of the test case: every kind of segment, and clipping that bites.
fn setting() -> AdamW {
    let segment = |len, decay, lr_scale, frozen| Segment { len, decay, lr_scale, frozen };
    AdamW {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        max_norm: 1.0,
        segments: [
            segment(3, 0.1, 1.0, false),
            segment(CHUNK + 5, 0.0, 0.5, false),
            segment(7, 0.1, 1.0, true),
            segment(1, 0.01, 2.0, false),
        ]
        .into(),
    }
}

/// One case with every kind of segment; PyTorch's own numbers are held in `tests/all/optim.rs`.
pub fn cases() -> Vec<Case> {
    let op = setting();
    let n = op.segments.iter().map(|s| s.len).sum();
    let positive = Input { shape: vec![n], fill: super::Fill::Real(0.01, 1.0) };
    vec![Case {
        label: "every kind of segment",
        inputs: vec![
            Input::real(&[n]),
            Input::real(&[n]),
            Input::real(&[n]),
            positive,
            Input::fixed(&[3], &[0.01, 0.19, 0.002]),
            Input::fixed(&[1], &[2.5]),
        ],
        subject: Subject::Step(Box::new(op), textbook),
        slack: 1.0,
    }]
}
