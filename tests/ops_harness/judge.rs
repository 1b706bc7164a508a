//! What is asked of an op, and the verdicts.
//!
//!   grad        CPU f64 backward against central differences of the CPU f64 forward, with a random cotangent
//!   accumulate  `add` on a filled buffer; `=` on a buffer of NaN, so that an element left unwritten shows
//!   alone       each gradient wanted alone is the same as with all the others, where there are several
//!   agree       every other dtype and device against CPU f64, both passes
//!   bounds      the bytes around every buffer are untouched
//!   repeat      the same bits again, also with another number of threads

use tempra::device::wgpu::TileLayout;
use tempra::device::{Device, Tensor, Wgpu};
use tempra::error::Result;
use tempra::ops::{
    BOUNDS, Backward, Case, Fill, Forward, Grad, HALF_BOUNDS, Op, Subject, accumulator, max_error, reals,
    relative_l2, rounded, unit_roundoff,
};
use tempra::rng::Rng;
use tempra::shape::{DType, Spec};

/// The outcome of one question.
pub struct Verdict {
    pub what: String,
    pub error: f64,
    pub bound: f64,
    pub note: String,
}

impl Verdict {
    pub fn ok(&self) -> bool {
        // A NaN is no pass.
        self.error <= self.bound
    }
}

/// The devices.
pub struct Bench {
    truth: Device,
    threads: Device,
    /// The other backends that are here, by name.
    others: Vec<(&'static str, Device)>,
    /// The adapter with matmuls in f16, if it can.
    half: Option<Device>,
    /// Those that compute in 16 bits throughout.
    halves: Vec<(&'static str, DType, Device)>,
}

/// Elements of guard on each side of a buffer; a GPU binds from multiples of 256 bytes only.
const GUARD: usize = 64;
/// What they hold: a number that every type holds exactly.
const MARK: f64 = 12352.0;

/// A tensor inside a larger one whose rest must not change.
struct Guarded {
    whole: Tensor,
    inner: Tensor,
}

impl Guarded {
    fn new(dev: &Device, spec: &Spec, values: &[f64]) -> Result<Guarded> {
        let mut all = vec![MARK; GUARD];
        all.extend_from_slice(values);
        all.resize(values.len() + 2 * GUARD, MARK);
        let whole = dev.upload_reals(spec.dtype, &[all.len()], &all)?;
        Ok(Guarded { inner: whole.view(GUARD, &spec.shape)?, whole })
    }
    fn read(&self, dev: &Device) -> Result<Vec<f64>> {
        dev.read_reals(&self.inner)
    }
    /// How many guard elements were changed.
    fn broken(&self, dev: &Device) -> Result<usize> {
        let all = dev.read_reals(&self.whole)?;
        let n = all.len();
        Ok(all[..GUARD].iter().chain(&all[n - GUARD..]).filter(|&&v| v != MARK).count())
    }
}

fn max_errors(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    a.iter().zip(b).map(|(a, b)| max_error(a, b)).fold(0.0, f64::max)
}

/// The gradients that exist, if there are several: one that is the only one is always wanted alone.
fn several(dx: &[Vec<f64>]) -> Vec<usize> {
    let all: Vec<usize> = (0..dx.len()).filter(|&i| !dx[i].is_empty()).collect();
    if all.len() > 1 { all } else { Vec::new() }
}

/// What buffers for gradients hold before, and which gradients are wanted.
#[derive(Clone, Copy)]
enum Want {
    Overwrite,
    AddTo(f64),
    /// As parameters have it where activations are of 16 bits: gradients in the type of sums.
    AddToSums(f64),
    Only(usize),
}

/// An op, its operands, and where it runs.
#[derive(Clone, Copy)]
struct Question<'a> {
    dev: &'a Device,
    dtype: DType,
    op: &'a dyn Op,
    case: &'a Case,
    x: &'a [Vec<f64>],
    dy: &'a [f64],
}

/// What a forward pass read and wrote.
struct Passed {
    specs: Vec<Spec>,
    x: Vec<Guarded>,
    /// Outputs, then saved tensors.
    y: Vec<Guarded>,
    dy: Guarded,
    /// The values of the first output.
    result: Vec<f64>,
}

fn inner(all: &[Guarded]) -> Vec<&Tensor> {
    all.iter().map(|g| &g.inner).collect()
}

/// What one run of both passes gives.
struct Outcome {
    y: Vec<f64>,
    dx: Vec<Vec<f64>>,
    broken: usize,
}

impl Bench {
    /// With bounds checks in the kernels: for those that are wrong on purpose, lest they bring the driver
    /// down.
    pub fn open_checked() -> Bench {
        let mut bench = Bench::open();
        for (_, device) in &mut bench.others {
            if let Device::Wgpu(gpu) = device {
                *device = Device::Wgpu(
                    Wgpu::new(0).expect("it opened before").with_tiles(gpu.tiles()).with_checks(),
                );
            }
        }
        bench
    }

    pub fn open() -> Bench {
        let open = |threads| Device::open("cpu", threads).expect("the CPU opens");
        let mut others: Vec<(&'static str, Device)> =
            ["cuda", "wgpu"].into_iter().filter_map(|n| Some((n, Device::open(n, 0).ok()?))).collect();
        // The kernels for GPUs on a software driver, and the other way round.
        if let Some((_, Device::Wgpu(gpu))) = others.last() {
            let tiles =
                if gpu.tiles() == TileLayout::Rows { TileLayout::Workgroup } else { TileLayout::Rows };
            let other = Wgpu::new(0).expect("it opened before").with_tiles(tiles);
            others.push(("wgpu-other-tiles", Device::Wgpu(other)));
        }
        let half = Wgpu::new(0).and_then(Wgpu::with_half).ok().map(Device::Wgpu);
        let mut halves = Vec::new();
        for dtype in [DType::BF16, DType::F16] {
            halves.push(("cpu", dtype, open(3).with_compute(dtype).expect("the CPU has both")));
            let cuda = Device::open("cuda", 0).and_then(|gpu| gpu.with_compute(dtype));
            halves.extend(cuda.ok().map(|gpu| ("cuda", dtype, gpu)));
        }
        Bench { truth: open(1), threads: open(3), others, half, halves }
    }

    /// The names of the backends besides the CPU that are here.
    pub fn others(&self) -> impl Iterator<Item = &'static str> {
        self.others.iter().map(|(name, _)| *name)
    }

    pub fn judge(&self, case: &Case) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let outcome = match &case.subject {
            Subject::Op(op) => self.judge_op(&**op, case, &mut verdicts),
            Subject::Step(..) => self.judge_step(case, &mut verdicts),
        };
        if let Err(e) = outcome {
            verdicts.push(Verdict {
                what: "run".into(),
                error: f64::INFINITY,
                bound: 0.0,
                note: e.to_string(),
            });
        }
        verdicts
    }

    /// Both passes of an op, each on fresh buffers.
    fn run(&self, of: &Question, want: Want) -> Result<Outcome> {
        self.backward(of, &self.forward(of)?, want)
    }

    /// The forward pass. Its buffers serve any number of backward passes.
    fn forward(&self, of: &Question) -> Result<Passed> {
        let Question { dev, dtype, op, case, x, dy } = of;
        let specs = case.specs(*dtype);
        let put = |spec: &Spec, v: &[f64]| Guarded::new(dev, spec, v);
        let blank = |spec: &Spec| put(spec, &vec![f64::NAN; spec.len()]);
        let x = specs.iter().zip(*x).map(|(s, v)| put(s, v)).collect::<Result<Vec<_>>>()?;
        let plan = op.plan(&dev.caps(), &specs.iter().collect::<Vec<_>>())?;
        let y = plan.outputs.iter().chain(&plan.saved).map(blank).collect::<Result<Vec<_>>>()?;
        dev.forward(*op, Forward { x: &inner(&x), y: &inner(&y) })?;
        let dy = put(&plan.outputs[0], dy)?;
        let result = y[0].read(dev)?;
        Ok(Passed { specs, x, y, dy, result })
    }

    fn backward(&self, of: &Question, passed: &Passed, want: Want) -> Result<Outcome> {
        let Question { dev, op, case, x, .. } = of;
        let Passed { specs, x: xt, y, dy, result } = passed;
        let put = |spec: &Spec, v: &[f64]| Guarded::new(dev, spec, v);
        let mut grads: Vec<Option<Guarded>> = Vec::new();
        for (i, (spec, input)) in specs.iter().zip(&case.inputs).enumerate() {
            let wanted = matches!(input.fill, Fill::Real(..)) && !matches!(want, Want::Only(w) if w != i);
            let (fill, dtype) = match want {
                Want::AddTo(v) => (v, spec.dtype),
                Want::AddToSums(v) => (v, accumulator(spec.dtype)),
                _ => (f64::NAN, spec.dtype),
            };
            let spec = Spec::new(dtype, &spec.shape);
            grads.push(if wanted { Some(put(&spec, &vec![fill; spec.len()])?) } else { None });
        }
        let add = matches!(want, Want::AddTo(_) | Want::AddToSums(_));
        let dx: Vec<_> = grads.iter().map(|g| g.as_ref().map(|g| Grad::new(&g.inner, add))).collect();
        dev.backward(*op, Backward { x: &inner(xt), y: &inner(y), dy: &[Some(&dy.inner)], dx: &dx })?;
        let mut broken = 0;
        for g in xt.iter().chain(y).chain([dy]).chain(grads.iter().flatten()) {
            broken += g.broken(dev)?;
        }
        // An input or an output that changed counts as one written outside its bounds.
        let changed =
            |a: Vec<f64>, b: &[f64]| a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        for (g, v) in xt.iter().zip(*x) {
            broken += g.read(dev)?.iter().zip(v).filter(|(a, b)| a != b).count();
        }
        broken += changed(y[0].read(dev)?, result);
        let dx =
            grads.iter().map(|g| g.as_ref().map_or(Ok(vec![]), |g| g.read(dev))).collect::<Result<_>>()?;
        Ok(Outcome { y: result.clone(), dx, broken })
    }

    fn judge_op(&self, op: &dyn Op, case: &Case, verdicts: &mut Vec<Verdict>) -> Result<()> {
        let mut say = |what: &str, error: f64, bound: f64| {
            verdicts.push(Verdict { what: what.into(), error, bound, note: String::new() });
        };
        let mut rng = Rng::new(7, "ops", 0);
        let x = case.values(&mut rng);
        let specs = case.specs(DType::F64);
        let plan = op.plan(&self.truth.caps(), &specs.iter().collect::<Vec<_>>())?;
        // A random cotangent: a plain sum is constant for a softmax, and would pass a backward that returns
        // zero.
        let dy = reals(&mut rng, plan.outputs[0].len(), -1.0, 1.0);
        let of = |dev, dtype| Question { dev, dtype, op, case, x: &x, dy: &dy };
        let run = |dev, dtype, want| self.run(&of(dev, dtype), want);
        let double = of(&self.truth, DType::F64);
        let passed = self.forward(&double)?;
        let truth = self.backward(&double, &passed, Want::Overwrite)?;

        // Forward at a nearby point, as a number.
        let loss = |x: &[Vec<f64>]| -> Result<f64> {
            let y = self.forward(&Question { x, ..double })?.result;
            Ok(y.iter().zip(&dy).map(|(y, d)| y * d).sum())
        };
        const H: f64 = 1e-5;
        let mut single = 0f64;
        for i in (0..x.len()).filter(|&i| matches!(case.inputs[i].fill, Fill::Real(..)) && !x[i].is_empty()) {
            let n = x[i].len();
            let picks: Vec<usize> = if n <= 24 {
                (0..n).collect()
            } else {
                (0..24).map(|_| rng.below(n as u32) as usize).collect()
            };
            for j in picks {
                let at = |h: f64| {
                    let mut x = x.to_vec();
                    x[i][j] += h;
                    loss(&x)
                };
                let slope = (at(H)? - at(-H)?) / (2.0 * H);
                single = single.max(max_error(&[truth.dx[i][j]], &[slope]));
            }
            // All elements of this input at once, along a random direction.
            let v = reals(&mut rng, n, -1.0, 1.0);
            let at = |h: f64| {
                let mut x = x.to_vec();
                x[i].iter_mut().zip(&v).for_each(|(x, v)| *x += h * v);
                loss(&x)
            };
            let slope = (at(H)? - at(-H)?) / (2.0 * H);
            let along: f64 = truth.dx[i].iter().zip(&v).map(|(g, v)| g * v).sum();
            say(&format!("grad along a direction of input {i}"), max_error(&[along], &[slope]), 1e-6);
            let only = self.backward(&double, &passed, Want::Only(i))?;
            say(&format!("alone: gradient {i}"), max_error(&only.dx[i], &truth.dx[i]), 0.0);
        }
        say("grad by finite differences", single, 5e-7);
        let y_finite = max_error(&truth.y, &truth.y);
        say("accumulate: every output written", y_finite, 0.0);
        say("accumulate: every gradient written", max_errors(&truth.dx, &truth.dx), 0.0);
        let added = self.backward(&double, &passed, Want::AddTo(0.5))?;
        let expected: Vec<Vec<f64>> = truth.dx.iter().map(|d| d.iter().map(|v| v + 0.5).collect()).collect();
        say("accumulate: adds", max_errors(&added.dx, &expected), 1e-12);
        say("bounds", (truth.broken + added.broken) as f64, 0.0);

        let single = run(&self.truth, DType::F32, Want::Overwrite)?;
        say("agree: cpu f32 forward", max_error(&single.y, &truth.y), BOUNDS[0] * case.slack);
        say("agree: cpu f32 backward", max_errors(&single.dx, &truth.dx), BOUNDS[1] * case.slack);
        say("bounds: f32", single.broken as f64, 0.0);
        let again = run(&self.truth, DType::F32, Want::Overwrite)?;
        let threads = run(&self.threads, DType::F32, Want::Overwrite)?;
        for (what, other) in [("repeat: twice", again), ("repeat: other threads", threads)] {
            let differ = single.y != other.y || single.dx != other.dx;
            say(what, differ as u8 as f64, 0.0);
        }
        for (name, device) in &self.others {
            let single = of(device, DType::F32);
            let passed = self.forward(&single)?;
            let run = |want| self.backward(&single, &passed, want);
            let there = run(Want::Overwrite)?;
            say(&format!("agree: {name} f32 forward"), max_error(&there.y, &truth.y), BOUNDS[0] * case.slack);
            say(
                &format!("agree: {name} f32 backward"),
                max_errors(&there.dx, &truth.dx),
                BOUNDS[1] * case.slack,
            );
            let added = run(Want::AddTo(0.5))?;
            say(
                &format!("accumulate: {name} adds"),
                max_errors(&added.dx, &expected),
                BOUNDS[1] * case.slack,
            );
            say(&format!("bounds: {name}"), (there.broken + added.broken) as f64, 0.0);
            for i in several(&truth.dx) {
                // CUDA sums a bias's gradient beside the weights' if both are wanted: in another order.
                let bound = if *name == "cuda" { BOUNDS[1] * case.slack } else { 0.0 };
                let only = run(Want::Only(i))?;
                say(&format!("alone: {name} gradient {i}"), max_error(&only.dx[i], &there.dx[i]), bound);
            }
            let again = self.run(&single, Want::Overwrite)?;
            say(&format!("repeat: {name}"), (there.y != again.y || there.dx != again.dx) as u8 as f64, 0.0);
        }
        for (name, dtype, device) in &self.halves {
            self.judge_half(name, *dtype, device, op, case, verdicts)?;
        }
        let mut say = |what: &str, error: f64, bound: f64| {
            verdicts.push(Verdict { what: what.into(), error, bound, note: String::new() });
        };
        if let Some(device) = self.half.as_ref().filter(|_| op.name() == "linear") {
            let there = run(device, DType::F32, Want::Overwrite)?;
            let [forward, backward] = case.matmul_bounds();
            say("agree: wgpu f16 matmuls, forward", max_error(&there.y, &truth.y), forward);
            say("agree: wgpu f16 matmuls, backward", max_errors(&there.dx, &truth.dx), backward);
            say("bounds: wgpu f16 matmuls", there.broken as f64, 0.0);
        }
        Ok(())
    }

    /// An op where activations are of 16 bits: from inputs that have them, against f64.
    fn judge_half(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
        op: &dyn Op,
        case: &Case,
        verdicts: &mut Vec<Verdict>,
    ) -> Result<()> {
        let mut say = |what: &str, error: f64, bound: f64| {
            let what = format!("{what} ({name} {dtype:?})");
            verdicts.push(Verdict { what, error, bound, note: String::new() });
        };
        let mut rng = Rng::new(7, "ops", 0);
        let x = case.values_in(dtype, &mut rng);
        let specs = case.specs(DType::F64);
        let plan = op.plan(&self.truth.caps(), &specs.iter().collect::<Vec<_>>())?;
        let mut dy = reals(&mut rng, plan.outputs[0].len(), -1.0, 1.0);
        dy.iter_mut().for_each(|v| *v = rounded(dtype, *v));
        let of = |dev, dtype| Question { dev, dtype, op, case, x: &x, dy: &dy };
        let truth = self.run(&of(&self.truth, DType::F64), Want::Overwrite)?;
        let half = of(device, dtype);
        let passed = self.forward(&half)?;
        let run = |want| self.backward(&half, &passed, want);
        let all = |a: &[Vec<f64>], b: &[Vec<f64>]| {
            a.iter().zip(b).map(|(a, b)| relative_l2(a, b)).fold(0.0, f64::max)
        };
        let [forward, backward] =
            HALF_BOUNDS.map(|b| b * case.slack * case.half_slack * unit_roundoff(dtype));
        let there = run(Want::Overwrite)?;
        say("agree: forward", relative_l2(&there.y, &truth.y), forward);
        say("agree: backward", all(&there.dx, &truth.dx), backward);
        let expected: Vec<Vec<f64>> = truth.dx.iter().map(|d| d.iter().map(|v| v + 0.5).collect()).collect();
        let added = run(Want::AddTo(0.5))?;
        say("accumulate: adds", all(&added.dx, &expected), backward);
        let sums = run(Want::AddToSums(0.5))?;
        say("accumulate: adds to f32", all(&sums.dx, &expected), backward);
        say("bounds", (there.broken + added.broken + sums.broken) as f64, 0.0);
        for i in several(&truth.dx) {
            say(
                &format!("alone: gradient {i}"),
                relative_l2(&run(Want::Only(i))?.dx[i], &there.dx[i]),
                unit_roundoff(dtype),
            );
        }
        let again = self.run(&half, Want::Overwrite)?;
        say("repeat", (there.y != again.y || there.dx != again.dx) as u8 as f64, 0.0);
        if name == "cpu" {
            let single = self.run(&of(&self.truth, dtype), Want::Overwrite)?;
            let differ = there.y != single.y || there.dx != single.dx;
            say("repeat: other threads", differ as u8 as f64, 0.0);
        }
        Ok(())
    }

    fn judge_step(&self, case: &Case, verdicts: &mut Vec<Verdict>) -> Result<()> {
        let Subject::Step(step, textbook) = &case.subject else { return Ok(()) };
        let x = case.values(&mut Rng::new(7, "ops", 0));
        let expected = textbook(step, &x);
        let run = |dev: &Device, dtype| -> Result<(Vec<Vec<f64>>, usize)> {
            let put = |(s, v): (&Spec, &Vec<f64>)| Guarded::new(dev, s, v);
            let tensors = case.specs(dtype).iter().zip(&x).map(put).collect::<Result<Vec<_>>>()?;
            dev.step(&**step, &tensors.iter().map(|g| &g.inner).collect::<Vec<_>>())?;
            let mut broken = 0;
            for g in &tensors {
                broken += g.broken(dev)?;
            }
            Ok((tensors.iter().map(|g| g.read(dev)).collect::<Result<_>>()?, broken))
        };
        let mut say = |what: &str, error: f64, bound: f64| {
            verdicts.push(Verdict { what: what.into(), error, bound, note: String::new() });
        };
        let (double, broken) = run(&self.truth, DType::F64)?;
        say("grad: f64 against the textbook formula", max_errors(&double, &expected), 1e-12);
        say("bounds", broken as f64, 0.0);
        let (single, broken) = run(&self.truth, DType::F32)?;
        say("agree: cpu f32", max_errors(&single, &expected), 1e-6 * case.slack);
        say("bounds: f32", broken as f64, 0.0);
        say("repeat: other threads", (run(&self.threads, DType::F32)?.0 != single) as u8 as f64, 0.0);
        for (name, device) in &self.others {
            let (there, broken) = run(device, DType::F32)?;
            say(&format!("agree: {name} f32"), max_errors(&there, &expected), BOUNDS[2] * case.slack);
            say(&format!("bounds: {name}"), broken as f64, 0.0);
            let again = run(device, DType::F32)?.0;
            say(&format!("repeat: {name}"), (again != there) as u8 as f64, 0.0);
        }
        Ok(())
    }
}
