//! Learning-rate schedules: what the peak learning rate is multiplied by at each optimizer step.
//!
//! The formulas are those of Hugging Face transformers 5.23 (`optimization.py`). With w = warm-up steps, T =
//! all steps, s = the step counted from 0, p = (s − w) / max(1, T − w), every schedule is s / max(1, w) while
//! s < w, and then
//!
//! ```text
//! linear                max(0, (T − s) / max(1, T − w))
//! cosine                m + (1 − m) (1 + cos(2π c p)) / 2                 c = 1/2 cycles, m = least ratio
//! cosine_with_restarts  (1 + cos(π ((c p) mod 1))) / 2, and 0 from p = 1  c = 1 cycles
//! polynomial            e + (1 − e) (1 − p)^power, and e after T          e = last / peak learning rate
//! constant              1
//! inverse_sqrt          1 / sqrt((s − w + t) / t)                         t = timescale: w, or 10000 without warm-up
//! warmup_stable_decay   1 until T − d, then m + (1 − m) curve(q) for d steps, then m
//! ```

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// Which curve the learning rate follows; the names are those of Hugging Face's `lr_scheduler_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Falls in a straight line to 0.
    #[default]
    Linear,
    /// Falls along half a cosine; with a least ratio this is transformers' `cosine_with_min_lr`.
    Cosine,
    /// Several half cosines, each from the peak.
    CosineWithRestarts,
    /// Falls along a power of the remaining share.
    Polynomial,
    /// Stays at the peak; with warm-up this is transformers' `constant_with_warmup`.
    #[serde(alias = "constant_with_warmup")]
    Constant,
    /// Falls with the inverse square root of the step.
    InverseSqrt,
    /// Rises, stays, and falls over the last steps.
    WarmupStableDecay,
}

/// The shape of the warm-up and of the decay of [`ScheduleKind::WarmupStableDecay`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Curve {
    /// 1 − q
    #[default]
    #[serde(rename = "linear")]
    Linear,
    /// (1 + cos(2π c q)) / 2
    #[serde(rename = "cosine")]
    Cosine,
    /// 1 − sqrt(q)
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

/// A schedule with all it needs; make one with `..Schedule::default()`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// The curve after the warm-up.
    pub kind: ScheduleKind,
    /// Optimiser steps in which the factor rises from 0 to 1.
    pub warmup_steps: u64,
    /// Optimiser steps of the whole run.
    pub total_steps: u64,
    /// Waves of the cosine curves; `None` is transformers' default (0.5; 1 with restarts).
    pub num_cycles: Option<f64>,
    /// Exponent of the polynomial.
    pub power: f64,
    /// Last learning rate of the polynomial over the peak.
    pub lr_end_ratio: f64,
    /// Timescale of the inverse square root, in steps; `None`: the warm-up steps, or 10000 without any.
    pub timescale: Option<u64>,
    /// Steps in which `warmup_stable_decay` falls; `None`: a tenth of all steps, rounded up.
    pub decay_steps: Option<u64>,
    /// Least factor of `cosine` and `warmup_stable_decay` (whose warm-up also starts there).
    pub min_lr_ratio: f64,
    /// Shape of `warmup_stable_decay`'s warm-up.
    pub warmup_type: Curve,
    /// Shape of `warmup_stable_decay`'s decay.
    pub decay_type: Curve,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::Linear,
            warmup_steps: 0,
            total_steps: 0,
            num_cycles: None,
            power: 1.0,
            lr_end_ratio: 0.0,
            timescale: None,
            decay_steps: None,
            min_lr_ratio: 0.0,
            warmup_type: Curve::Linear,
            decay_type: Curve::Cosine,
        }
    }
}

/// Warm-up steps for a share of all steps, rounded up as transformers does.
pub fn warmup_steps(total_steps: u64, ratio: f64) -> u64 {
    (total_steps as f64 * ratio).ceil().max(0.0) as u64
}

impl Schedule {
    /// What the learning rate is multiplied by at `step`; 0 is the first optimizer step. Any step may be
    /// asked for, also one past the end.
    pub fn factor(&self, step: u64) -> f64 {
        let (s, w, total) = (step as f64, self.warmup_steps as f64, self.total_steps as f64);
        if self.kind == ScheduleKind::WarmupStableDecay {
            return self.warmup_stable_decay(s, w, total);
        }
        if step < self.warmup_steps {
            return s / w.max(1.0);
        }
        let span = (total - w).max(1.0);
        let progress = (s - w) / span;
        match self.kind {
            ScheduleKind::Linear => ((total - s) / span).max(0.0),
            ScheduleKind::Cosine => self.floored(self.wave(progress)),
            ScheduleKind::CosineWithRestarts if progress >= 1.0 => 0.0,
            ScheduleKind::CosineWithRestarts => {
                let cycles = self.num_cycles.unwrap_or(1.0);
                0.5 * (1.0 + (PI * ((cycles * progress) % 1.0)).cos())
            }
            ScheduleKind::Polynomial if step > self.total_steps => self.lr_end_ratio,
            ScheduleKind::Polynomial => {
                // transformers divides by T − w without a guard; only T = w, where it fails, differs.
                self.lr_end_ratio + (1.0 - self.lr_end_ratio) * (1.0 - progress).powf(self.power)
            }
            ScheduleKind::InverseSqrt => {
                let or_10000 = if self.warmup_steps == 0 { 10_000 } else { self.warmup_steps };
                let timescale = self.timescale.unwrap_or(or_10000).max(1) as f64;
                1.0 / ((s + (timescale - w)) / timescale).sqrt()
            }
            ScheduleKind::Constant | ScheduleKind::WarmupStableDecay => 1.0,
        }
    }
    /// The stable phase may come out negative when warm-up and decay overlap; then, as in transformers, the
    /// decay is entered part of the way down.
    fn warmup_stable_decay(&self, s: f64, w: f64, total: f64) -> f64 {
        let decay = self.decay_steps.map_or((total * 0.1).ceil(), |d| d as f64);
        let stable = total - w - decay;
        if s < w {
            let q = s / w.max(1.0);
            return self.floored(match self.warmup_type {
                Curve::Linear => q,
                Curve::Cosine => 0.5 * (1.0 - (PI * q).cos()),
                Curve::OneMinusSqrt => 1.0 - (1.0 - q).sqrt(),
            });
        }
        if s < w + stable {
            return 1.0;
        }
        if s >= w + stable + decay {
            return self.min_lr_ratio;
        }
        let q = (s - w - stable) / decay.max(1.0);
        self.floored(match self.decay_type {
            Curve::Linear => 1.0 - q,
            Curve::Cosine => self.wave(q),
            Curve::OneMinusSqrt => 1.0 - q.sqrt(),
        })
    }
    fn wave(&self, progress: f64) -> f64 {
        0.5 * (1.0 + (PI * self.num_cycles.unwrap_or(0.5) * 2.0 * progress).cos())
    }
    fn floored(&self, factor: f64) -> f64 {
        (factor * (1.0 - self.min_lr_ratio) + self.min_lr_ratio).max(0.0)
    }
}
