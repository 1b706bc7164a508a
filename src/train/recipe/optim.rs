//! What `[optim]` asks for: the optimizer's settings and the learning-rate schedule.

use super::Optim;
use super::field::Field;
use crate::error::{Error, Result};
use crate::optim::Settings;
use crate::train::schedule::{Schedule, ScheduleKind, warmup_steps};
use crate::units::plural;

/// The error of a warm-up and a decay that do not fit a run of so many steps.
pub(super) fn too_long(warmup: u64, decay: u64, total: u64) -> Error {
    let (what, found) = match decay {
        0 => ("the warm-up is longer than the run", plural(warmup, "step")),
        _ => ("warm-up and decay together are longer than the run", format!("{warmup} + {decay} steps")),
    };
    Error::usage(what).with_expected(format!("at most {}", plural(total, "step"))).with_found(found)
}

impl Optim {
    /// Refuses a run of so many optimizer steps if warm-up and decay are longer than that.
    ///
    /// # Errors
    /// [`ScheduleKind::Usage`](crate::error::Kind::Usage) with the steps of both.
    pub fn fits(&self, total_steps: u64) -> Result<()> {
        let Some([warmup, decay]) = self.longer_than(total_steps) else { return Ok(()) };
        Err(too_long(warmup, decay, total_steps)
            .with_help("lower optim.warmup_steps (and optim.decay_steps), or raise train.epochs"))
    }
    /// A warning if the learning rate is 0 in each of so many steps, as in a run of one step that is all
    /// warm-up.
    pub fn idle(&self, total_steps: u64) -> Option<Error> {
        let schedule = self.schedule(total_steps);
        let idle = total_steps > 0 && (0..total_steps).all(|step| schedule.factor(step) == 0.0);
        idle.then(|| {
            Error::usage("the learning rate is 0 in every step: nothing is trained")
                .with_expected("a run that is longer than its warm-up")
                .with_found(format!(
                    "{} with a warm-up of {}",
                    plural(total_steps, "step"),
                    schedule.warmup_steps
                ))
                .with_help("lower optim.warmup_steps or optim.warmup_ratio, or train for more steps")
        })
    }
    /// The steps of warm-up and decay if they are more than these.
    pub(super) fn longer_than(&self, total_steps: u64) -> Option<[u64; 2]> {
        let warmup = self.schedule(total_steps).warmup_steps;
        let decay =
            self.decay_steps.filter(|_| self.schedule == ScheduleKind::WarmupStableDecay).unwrap_or(0);
        (warmup.saturating_add(decay) > total_steps).then_some([warmup, decay])
    }
    /// Sets what the optimizer reads and the recipe leaves out to the optimizer's defaults.
    pub(super) fn resolve(&mut self) {
        let Optim { optimizer, beta1, beta2, eps, momentum, nesterov, .. } = self;
        for (name, value) in [("beta1", beta1), ("beta2", beta2), ("eps", eps), ("momentum", momentum)] {
            *value = value.or(optimizer.default(name));
        }
        *nesterov = nesterov.or(optimizer.default("nesterov").map(|v| v != 0.0));
    }
    /// The settings of which each optimizer reads some, as TOML; `None` for one that is not set.
    pub(super) fn of_optimizer(&self) -> [(&'static str, Option<String>); 5] {
        [
            ("optim.beta1", self.beta1.write()),
            ("optim.beta2", self.beta2.write()),
            ("optim.eps", self.eps.write()),
            ("optim.momentum", self.momentum.write()),
            ("optim.nesterov", self.nesterov.write()),
        ]
    }
    /// The settings of the optimizer.
    pub fn settings(&self) -> Settings {
        let mut of = self.clone();
        of.resolve();
        let default = Settings::default();
        let real = |value: Option<f64>, unread: f32| value.map_or(unread, |v| v as f32);
        Settings {
            rule: of.optimizer,
            beta1: real(of.beta1, default.beta1),
            beta2: real(of.beta2, default.beta2),
            eps: real(of.eps, default.eps),
            momentum: real(of.momentum, default.momentum),
            nesterov: of.nesterov.unwrap_or(default.nesterov),
            weight_decay: self.weight_decay as f32,
            max_grad_norm: self.max_grad_norm as f32,
        }
    }
    /// The schedule of a run of so many optimizer steps.
    pub fn schedule(&self, total_steps: u64) -> Schedule {
        let by_ratio = || warmup_steps(total_steps, self.warmup_ratio);
        Schedule {
            kind: self.schedule,
            warmup_steps: self.warmup_steps.unwrap_or_else(by_ratio),
            total_steps,
            num_cycles: self.num_cycles,
            power: self.power,
            lr_end_ratio: self.lr_end / self.lr,
            timescale: self.timescale,
            decay_steps: self.decay_steps,
            min_lr_ratio: self.min_lr_ratio,
            warmup_type: self.warmup_type,
            decay_type: self.decay_type,
        }
    }
}
