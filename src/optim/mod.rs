//! The optimizer: gradient norm, clipping, the step guard and the update over the trained arena of
//! [`Params`].
//!
//! Every optimizer goes through [`Optimizer`]; they differ in their [`Update`] only (see
//! [`UPDATE_RULES`](crate::ops::UPDATE_RULES)).
//!
//! # When a step's result is known
//!
//! A GPU would idle if the host read the loss of every step before it queued the next one. So up to `window`
//! steps are queued, and their losses and norms stay in a ring buffer on the device until the host reads
//! them. Nothing on the host waits for a value in between: the device decides itself whether a step updates
//! (the guard), and counts skipped steps, because the factors of later updates depend on the count.
//!
//! Which steps are read when follows from counts alone: how many are queued, and how large the window is. It
//! never follows from whether the device happens to be done. A faster or busier machine therefore reads the
//! same steps at the same points, changes the loss scale at the same points, and computes the same bits.
//!
//! With CUDA the copy to the host is queued behind each step ([`Optimizer::fetch`]), so the host waits for
//! the oldest step only, while newer ones run. Elsewhere one read fetches the whole ring. Right
//! after the loss scale changed the window is one step, because a further change may follow from the next
//! result.

mod loss_scale;

pub use crate::ops::update::Settings;
pub use loss_scale::LossScale;

use crate::device::cuda::Fetched;
use crate::device::{Device, Tensor};
use crate::error::{Error, Result};
use crate::ops::global_norm::GlobalNorm;
use crate::ops::step_guard::StepGuard;
use crate::ops::update::Update;
use crate::params::Params;
use crate::shape::DType;
use std::collections::VecDeque;

/// What a step was found to be.
#[derive(Clone, Copy, Debug)]
pub struct StepResult {
    /// The loss, summed over the passes of the step.
    pub loss: f64,
    /// The norm of all gradients before clipping; NaN if the step was skipped.
    pub norm: f64,
    /// Something was not finite, and nothing was updated.
    pub skipped: bool,
    /// A gradient was too large for its loss scale, which is halved: no fault of the training.
    pub overflow: bool,
}

/// A state of the optimizer, such as a moment of the gradients: an arena as long as that of the trained
/// parameters.
pub struct OptimizerState {
    /// Its name in a checkpoint.
    pub name: &'static str,
    /// Its values, in the order and type of the parameters.
    pub tensor: Tensor,
}

/// An update with its states and the buffers of the steps that are queued.
///
/// Steps are queued; the host looks at their losses and norms when it synchronizes, one by one or several at
/// once, so that a GPU need not wait for it. Where the device copies them to the host asynchronously, the
/// oldest is read while newer ones run. Which steps are read when depends on their number alone, never on how
/// fast they were: see the module.
pub struct Optimizer {
    update: Box<dyn Update>,
    states: Vec<OptimizerState>,
    /// Norm of the newest step, its learning rate, the factor that removes the loss scale, and the factors of
    /// the update.
    control: Tensor,
    /// What the guard writes into `control`, with the factors by how many steps of this window were skipped.
    rates: Tensor,
    /// Loss of the newest step; loss and norm of each step of the window.
    total: Tensor,
    history: Tensor,
    skips: Tensor,
    none: Tensor,
    /// Which parts of the arena have ever had a gradient.
    live: Tensor,
    /// Steps that may be queued before they are read.
    window: usize,
    queued: usize,
    /// The slot of the oldest of them in the history.
    oldest: usize,
    /// Losses and norms on their way, of the oldest step first; of all queued steps or of none.
    in_flight: VecDeque<Fetched>,
    /// What losses are multiplied by; `None` for not at all.
    pub loss_scale: Option<LossScale>,
    /// Updates that are known to have been made; factors such as bias corrections depend on it.
    pub updates: u64,
}

impl Optimizer {
    /// An optimizer for these parameters, with no update made, each step of which is read before the next
    /// one.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    pub fn new(device: &Device, params: &Params, s: Settings) -> Result<Optimizer> {
        Self::with_window(device, params, s, 1)
    }
    /// As [`Optimizer::new`], with up to `window` steps queued before they are read.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    pub fn with_window(device: &Device, params: &Params, s: Settings, window: usize) -> Result<Optimizer> {
        let (dtype, n) = (params.spec().dtype, params.spec().len());
        let window = window.max(1);
        let update = s.update(params.layout().segments(s.weight_decay));
        let state = |&name: &&'static str| Ok(OptimizerState { name, tensor: device.zeros(dtype, &[n])? });
        let states = update.states().iter().map(state).collect::<Result<_>>()?;
        let factors = update.factors(1).len();
        let live = update.live();
        Ok(Optimizer {
            states,
            control: device.zeros(dtype, &[3 + factors])?,
            rates: device.zeros(dtype, &[3 + factors * window])?,
            total: device.zeros(dtype, &[1])?,
            history: device.zeros(dtype, &[2 * window])?,
            skips: device.zeros(DType::U32, &[1])?,
            none: device.zeros(dtype, &[1])?,
            live: device.upload(DType::U32, &[live.len()], &live)?,
            update,
            window,
            queued: 0,
            oldest: 0,
            in_flight: VecDeque::new(),
            loss_scale: None,
            updates: 0,
        })
    }
    /// The states, such as moments, with the names that checkpoints store them under.
    pub fn states(&self) -> &[OptimizerState] {
        &self.states
    }
    /// The size of all states in bytes.
    pub fn bytes(&self) -> usize {
        self.states.iter().map(|s| s.tensor.spec.bytes()).sum()
    }
    /// The values of the state with this name.
    pub fn state(&self, name: &str) -> Option<&Tensor> {
        self.states.iter().find(|s| s.name == name).map(|s| &s.tensor)
    }
    /// Steps that may be queued before they are read.
    pub fn window(&self) -> usize {
        self.window
    }
    /// Steps that are queued and not read.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Forgets steps queued beyond so many: the device did not take them.
    pub fn forget_beyond(&mut self, queued: usize) {
        self.queued = self.queued.min(queued);
    }

    /// Whether no further step can be queued before [`Optimizer::synchronize`].
    ///
    /// Right after a loss scale was changed it is one step only: the next ones may need another.
    pub fn full(&self) -> bool {
        self.queued >= if self.scale_just_changed() { 1 } else { self.window }
    }
    fn scale_just_changed(&self) -> bool {
        self.loss_scale.is_some_and(|s| s.good < self.window as u64)
    }
    /// What the gradients of a loss have to be multiplied by.
    pub fn scale(&self) -> f64 {
        self.loss_scale.map_or(1.0, |s| s.scale)
    }
    /// Clips the gradients and updates the values at a learning rate, unless the norm or one of the losses is
    /// not finite: then nothing changes. Queued; see [`Optimizer::synchronize`].
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for more losses or queued steps than there is room for;
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    pub fn step(&mut self, device: &Device, params: &Params, losses: &[Tensor], lr: f64) -> Result<()> {
        let t = params.training.as_ref().ok_or_else(untrained)?;
        if self.full() {
            return Err(Error::shape(format!("{} steps are queued and not read", self.queued)));
        }
        let newest = self.updates + self.queued as u64 + 1;
        let slot = (self.oldest + self.queued) % self.window;
        let mut rates = vec![lr, 1.0 / self.scale(), slot as f64];
        for skipped in 0..self.window as u64 {
            rates.extend(self.update.factors(newest.saturating_sub(skipped).max(1)));
        }
        match self.rates.spec.dtype {
            DType::F64 => device.write(&self.rates, &rates)?,
            _ => device.write(&self.rates, &rates.iter().map(|&r| r as f32).collect::<Vec<_>>())?,
        }
        params.silence_frozen(device)?;
        params.zero_masked_gradients(device)?;
        let norm = self.control.view(0, &[1])?;
        device.step(&GlobalNorm, &[&t.grad, &norm].into_iter().chain(&t.zero_blocks).collect::<Vec<_>>())?;
        let losses = if losses.is_empty() { std::slice::from_ref(&self.none) } else { losses };
        for (i, loss) in losses.iter().enumerate() {
            let guard = StepGuard { first: i == 0, last: i + 1 == losses.len() };
            let x = [loss, &self.total, &self.control, &self.skips, &self.rates, &self.history];
            device.step(&guard, &x)?;
        }
        let mut x = vec![&params.trained.value, &t.grad, &self.control, &self.live];
        x.extend(self.states.iter().map(|s| &s.tensor).chain(&params.trained.copy).chain(&t.zero_blocks));
        device.step(&*self.update, &x)?;
        self.queued += 1;
        Ok(())
    }
    /// Sets the states of weights that are [masked in place](crate::params::Params::zero_masked) to 0. Call
    /// it after masks or states were written.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    pub fn zero_masked_states(&self, device: &Device, params: &Params) -> Result<()> {
        self.states.iter().try_for_each(|s| params.zero_masked(device, &s.tensor))
    }
    /// Has the newest step's loss and norm brought to the host once they are there, where the device can: to
    /// be called after each step, outside of CUDA graph capture, for [`Optimizer::synchronize_oldest`].
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn fetch(&mut self, device: &Device) -> Result<()> {
        if self.queued == self.in_flight.len() + 1 {
            let slot = (self.oldest + self.queued - 1) % self.window;
            self.in_flight.extend(device.fetch(&self.history.view(2 * slot, &[2])?)?);
        }
        Ok(())
    }
    /// Whether the queued steps' losses come by themselves.
    pub fn reads_asynchronously(&self) -> bool {
        !self.in_flight.is_empty()
    }
    /// Says what the oldest of the queued steps was, without waiting for the newer ones. All of them are read
    /// where losses do not come by themselves, right after a loss scale was changed, and if it was skipped:
    /// then the others may be, too.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn synchronize_oldest(&mut self, device: &Device) -> Result<Vec<StepResult>> {
        let Some(first) = self
            .in_flight
            .front()
            .filter(|_| self.in_flight.len() == self.queued && !self.scale_just_changed())
        else {
            return self.synchronize(device);
        };
        let result = self.result(self.numbers(first)?);
        if result.skipped {
            return self.synchronize(device);
        }
        self.in_flight.pop_front();
        self.accept(&[result]);
        Ok(vec![result])
    }
    /// Waits for the queued steps and says what each of them was.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn synchronize(&mut self, device: &Device) -> Result<Vec<StepResult>> {
        if self.queued == 0 {
            return Ok(Vec::new());
        }
        let numbers: Vec<[f64; 2]> = if self.in_flight.len() == self.queued {
            self.in_flight.iter().map(|f| self.numbers(f)).collect::<Result<_>>()?
        } else {
            let all = device.read_reals(&self.history)?;
            let slots = (0..self.queued).map(|i| (self.oldest + i) % self.window);
            slots.map(|slot| [all[2 * slot], all[2 * slot + 1]]).collect()
        };
        let results: Vec<StepResult> = numbers.into_iter().map(|n| self.result(n)).collect();
        if results.iter().any(|m| m.skipped) {
            device.zero(&self.skips)?;
        }
        self.in_flight.clear();
        self.accept(&results);
        Ok(results)
    }
    /// Loss and norm that were fetched.
    fn numbers(&self, fetched: &Fetched) -> Result<[f64; 2]> {
        let bytes = fetched.wait()?;
        let mut reals =
            bytes.chunks_exact(4).filter_map(|b| Some(f64::from(f32::from_ne_bytes(b.try_into().ok()?))));
        match (reals.next(), reals.next()) {
            (Some(loss), Some(norm)) => Ok([loss, norm]),
            _ => Err(Error::shape("a step's loss and norm did not come")),
        }
    }
    fn result(&self, [loss, norm]: [f64; 2]) -> StepResult {
        let can_fall = self.loss_scale.is_some_and(|s| s.scale > 1.0);
        let skipped = norm.is_nan();
        StepResult { loss, norm, skipped, overflow: skipped && loss.is_finite() && can_fall }
    }
    /// The oldest steps are known now.
    fn accept(&mut self, results: &[StepResult]) {
        if let Some(s) = &mut self.loss_scale {
            s.update(results);
        }
        self.updates += results.iter().filter(|m| !m.skipped).count() as u64;
        self.queued -= results.len();
        self.oldest = (self.oldest + results.len()) % self.window;
    }
    /// Goes on after `updates` updates whose states were put back into [`Optimizer::states`].
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn resume(&mut self, device: &Device, updates: u64) -> Result<()> {
        self.updates = updates;
        device.write(&self.live, &vec![!0u32; self.live.spec.len()])
    }
}

fn untrained() -> Error {
    Error::shape("parameters without gradients cannot be trained")
}
