//! The operands of a job on a device: random numbers in several sets, together larger than the cache.

use super::measure::Workbench;
use super::report::Phase;
use super::shapes::{Job, Runs};
use crate::device::{Caps, Device, Tensor};
use crate::error::{Error, Result};
use crate::ops::{Backward, Call, Cost, Fill, Forward, Grad, Gradient, Input, accumulator};
use crate::shape::{DType, Spec};

/// The size of the pool of random numbers that fill operands. Larger operands repeat it from other offsets,
/// to save time.
pub(super) const POOL: usize = (1 << 20) + 13;
/// The largest number of sets of operands.
const SETS: u64 = 64;

struct Set {
    x: Vec<Tensor>,
    y: Vec<Tensor>,
    dy: Vec<Tensor>,
    dx: Vec<Option<Tensor>>,
}

/// A job with its operands on a device.
pub struct Ready<'a> {
    device: &'a Device,
    job: &'a Job,
    all: Vec<Set>,
    cost: Cost,
    beyond_cache: bool,
}

impl Ready<'_> {
    /// Its passes, in the order in which they must run first.
    pub fn passes(&self) -> &'static [Phase] {
        match self.job.runs {
            Runs::Op(_) => &[Phase::Forward, Phase::Backward],
            Runs::Step(_) => &[Phase::Step],
        }
    }
    /// The number of sets of operands.
    pub fn sets(&self) -> usize {
        self.all.len()
    }
    /// Whether all sets together are larger than the cache.
    pub fn beyond_cache(&self) -> bool {
        self.beyond_cache
    }
    /// FLOP and bytes of a pass; see [`crate::ops::cost`].
    pub fn cost(&self, pass: Phase) -> [f64; 2] {
        match pass {
            Phase::Backward => [self.cost.backward_flops, self.cost.backward_bytes],
            _ => [self.cost.forward_flops, self.cost.forward_bytes],
        }
    }
    /// Queues one pass on set `i` modulo the number of sets.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(&self, pass: Phase, i: usize) -> Result<()> {
        let set = &self.all[i % self.all.len()];
        let (x, y): (Vec<&Tensor>, Vec<&Tensor>) = (set.x.iter().collect(), set.y.iter().collect());
        match (&self.job.runs, pass) {
            (Runs::Step(step), _) => self.device.step(&**step, &x),
            (Runs::Op(op), Phase::Backward) => {
                let dy: Vec<Option<&Tensor>> = set.dy.iter().map(Some).collect();
                let dx: Vec<Option<Grad>> =
                    set.dx.iter().map(|t| t.as_ref().map(|t| Grad::new(t, false))).collect();
                self.device.backward(&**op, Backward { x: &x, y: &y, dy: &dy, dx: &dx })
            }
            (Runs::Op(op), _) => self.device.forward(&**op, Forward { x: &x, y: &y }),
        }
    }
}

/// The tensors of a job and its cost.
pub struct Needs<'j> {
    /// The inputs, and their specs.
    inputs: Vec<(&'j Input, Spec)>,
    /// The outputs, then the saved tensors.
    y: Vec<Spec>,
    /// The number of outputs.
    outputs: usize,
    /// The gradients to write, by input.
    dx: Vec<Option<Spec>>,
    /// FLOP and bytes of its passes.
    pub cost: Cost,
}

impl Job {
    /// The inputs where activations and the weights that kernels read have this type, and their specs.
    pub fn inputs_in(&self, dtype: DType) -> Vec<(&Input, Spec)> {
        let is_op = matches!(self.runs, Runs::Op(_));
        let copy = |i: usize| self.copy.filter(|c| c.input == i);
        let left_out = |i: usize| dtype == accumulator(dtype) && copy(i).is_some_and(|c| c.optional);
        let element = |i: usize, input: &Input| match input.fill {
            Fill::Real(..) | Fill::Detached(..) if is_op || copy(i).is_some() => dtype,
            Fill::Real(..) | Fill::Detached(..) | Fill::Fixed(_) => DType::F32,
            Fill::Ints(_) => DType::U32,
        };
        let all = self.inputs.iter().enumerate().filter(|(i, _)| !left_out(*i));
        all.map(|(i, input)| (input, Spec::new(element(i, input), &input.shape))).collect()
    }
    /// The tensors of the job on a device with these capabilities, and its cost. The benchmark asks for all
    /// gradients and has them overwritten, without a bitmap of zero blocks; those of weights are f32.
    ///
    /// # Errors
    /// Those of the op: a type that the device does not have.
    pub fn needs(&self, caps: &Caps) -> Result<Needs<'_>> {
        let inputs = self.inputs_in(caps.compute);
        let x: Vec<Spec> = inputs.iter().map(|(_, spec)| spec.clone()).collect();
        let refs: Vec<&Spec> = x.iter().collect();
        let (outputs, y) = match &self.runs {
            Runs::Op(op) => {
                let plan = op.plan(caps, &refs)?;
                (plan.outputs.len(), [plan.outputs, plan.saved].concat())
            }
            Runs::Step(step) => {
                step.check(caps, &refs)?;
                (0, vec![])
            }
        };
        let gradient = |(i, (input, spec)): (usize, &(&Input, Spec))| {
            let wanted = matches!((&self.runs, &input.fill), (Runs::Op(_), Fill::Real(..)));
            let dtype = if self.weights.contains(&i) { accumulator(spec.dtype) } else { spec.dtype };
            wanted.then(|| Spec::new(dtype, &spec.shape))
        };
        let dx: Vec<Option<Spec>> = inputs.iter().enumerate().map(gradient).collect();
        let integers = |(input, _): &(&Input, Spec)| match &input.fill {
            Fill::Ints(v) => Some(v.clone()),
            _ => None,
        };
        let call = Call {
            x,
            y: y.clone(),
            integers: inputs.iter().map(integers).collect(),
            dx: dx.iter().map(|g| g.as_ref().map(|s| Gradient::new(s.dtype))).collect(),
        };
        let cost = match &self.runs {
            Runs::Op(op) => op.cost(&call),
            Runs::Step(step) => step.cost(&call),
        };
        Ok(Needs { inputs, y, outputs, dx, cost })
    }
}

impl Workbench<'_> {
    fn put(&self, input: &Input, spec: &Spec, at: usize) -> Result<Tensor> {
        let (lo, hi) = match &input.fill {
            Fill::Ints(v) => return self.device.upload(DType::U32, &spec.shape, v),
            Fill::Fixed(v) => return self.device.upload_reals(spec.dtype, &spec.shape, v),
            Fill::Real(lo, hi) | Fill::Detached(lo, hi) => (*lo as f32, *hi as f32),
        };
        self.random(spec, lo, hi, at)
    }
    /// Random numbers from place `at` of the pool on.
    pub(super) fn random(&self, spec: &Spec, lo: f32, hi: f32, at: usize) -> Result<Tensor> {
        // Large operands take long.
        self.check()?;
        let at = at.wrapping_mul(7919) % POOL;
        let numbers = self.pool.iter().cycle().skip(at).take(spec.len()).map(|u| lo + u * (hi - lo));
        let shape = &spec.shape;
        match spec.dtype {
            DType::BF16 => {
                let v: Vec<half::bf16> = numbers.map(half::bf16::from_f32).collect();
                self.device.upload(spec.dtype, shape, &v)
            }
            DType::F16 => {
                let v: Vec<half::f16> = numbers.map(half::f16::from_f32).collect();
                self.device.upload(spec.dtype, shape, &v)
            }
            _ => self.device.upload(DType::F32, shape, &numbers.collect::<Vec<_>>()),
        }
    }

    /// Allocates and fills the operands of a job.
    ///
    /// # Errors
    /// [`crate::error::Kind::Memory`] if they do not fit; those of the device.
    pub fn ready<'j>(&'j self, job: &'j Job) -> Result<Ready<'j>> {
        let caps = self.device.caps();
        let Needs { inputs, y, outputs, dx, cost } = job.needs(&caps)?;
        let specs: Vec<&Spec> = inputs.iter().map(|(_, spec)| spec).collect();
        let all = specs.iter().copied().chain(&y).chain(&y[..outputs]).chain(dx.iter().flatten());
        let bytes: u64 = all.clone().map(|s| s.bytes() as u64).sum();
        let largest = all.map(|s| s.bytes() as u64).max().unwrap_or(0);
        // What a run touches, and what each further set takes: tables are shared.
        let touched = bytes.min(cost.forward_bytes as u64).max(1);
        let is_shared = |i: usize| job.choices.is_some() && job.weights.contains(&i);
        let table = |i: usize| specs[i].bytes() + dx[i].as_ref().map_or(0, Spec::bytes);
        let shared: u64 = (0..specs.len()).filter(|&i| is_shared(i)).map(|i| table(i) as u64).sum();
        if bytes > self.budget || largest > caps.binding_bytes {
            return Err(Error::memory("the operands do not fit into the device's memory")
                .with_expected(format!(
                    "at most {} MiB in all, and {} MiB in one tensor",
                    self.budget >> 20,
                    caps.binding_bytes >> 20
                ))
                .with_found(format!("{} MiB in all, and {} MiB in one tensor", bytes >> 20, largest >> 20))
                .with_help("lower --tokens, or choose smaller shapes with --shape or --shape-of"));
        }
        let sets = (2 * self.cache.bytes).div_ceil(touched).max(2);
        let sets = sets.min(SETS).min((self.budget - shared) / (bytes - shared).max(1)).max(1) as usize;
        let mut all: Vec<Set> = Vec::new();
        for n in 0..sets {
            let make = |spec: &Spec| self.device.alloc(spec.clone());
            let input = |(i, (input, spec)): (usize, &(&Input, Spec))| match (
                all.first(),
                job.choices,
                &input.fill,
            ) {
                (Some(first), ..) if is_shared(i) => Ok(first.x[i].clone()),
                (_, Some(rows), Fill::Ints(v)) if i == 0 => {
                    let others: Vec<u32> =
                        v.iter().map(|&v| ((v as usize + 7919 * n) % rows) as u32).collect();
                    self.device.upload(DType::U32, &spec.shape, &others)
                }
                _ => self.put(input, spec, 31 * n + i),
            };
            let gradient = |(i, spec): (usize, &Option<Spec>)| match (all.first(), spec) {
                (Some(first), _) if is_shared(i) => Ok(first.dx[i].clone()),
                (_, spec) => spec.as_ref().map(make).transpose(),
            };
            let set = Set {
                x: inputs.iter().enumerate().map(input).collect::<Result<_>>()?,
                y: y.iter().map(make).collect::<Result<_>>()?,
                dy: y[..outputs]
                    .iter()
                    .map(|s| self.random(s, -1.0, 1.0, 31 * n + 17))
                    .collect::<Result<_>>()?,
                dx: dx.iter().enumerate().map(gradient).collect::<Result<_>>()?,
            };
            all.push(set);
        }
        let beyond_cache = touched * sets as u64 > self.cache.bytes;
        Ok(Ready { device: self.device, job, all, cost, beyond_cache })
    }
}
