//! What the profiler counts on real calls and in steps, what of a padded step is useful, and what `dtype`
//! means in results.

use crate::bench_counts::{F, H, HEADS, KEY, T, attention_bytes, attention_flops, bounds, caps, job};
use crate::support::{device, report_skipped};
use std::collections::HashSet;
use tempra::bench::report::{Ceilings, DeviceEntry, Report, StepRow};
use tempra::bench::step::{self, Setting, encoder, settings};
use tempra::bench::{Clock, Effort, ModelShape, Workbench};
use tempra::device::{Caps, Device, Meta, Pass, Timed};
use tempra::error::Result;
use tempra::ops::Activation;
use tempra::ops::attention::Attention;
use tempra::ops::linear::Linear;
use tempra::ops::{Backward, Fill, Forward, Grad, Input, Op};
use tempra::shape::{DType, Spec};
use tempra::tape::{Leaf, Tape};

fn cpu() -> Device {
    Device::open("cpu", 1).unwrap()
}

/// Runs both passes of an op, profiled, with gradients that are overwritten, or added to.
fn profiled(device: &Device, op: &dyn Op, inputs: &[Input], wanted: &[usize], add: bool) -> Vec<Timed> {
    let dtype = device.caps().compute;
    let put = |input: &Input| match &input.fill {
        Fill::Ints(v) => device.upload(DType::U32, &input.shape, v).unwrap(),
        _ => device.zeros(dtype, &input.shape).unwrap(),
    };
    let x: Vec<_> = inputs.iter().map(put).collect();
    let specs: Vec<Spec> = x.iter().map(|t| t.spec.clone()).collect();
    let plan = op.plan(&device.caps(), &specs.iter().collect::<Vec<_>>()).unwrap();
    let zeros = |s: &Spec| device.zeros(s.dtype, &s.shape).unwrap();
    let y: Vec<_> = plan.outputs.iter().chain(&plan.saved).map(zeros).collect();
    let (dy, dx): (_, Vec<_>) = (zeros(&plan.outputs[0]), specs.iter().map(zeros).collect());
    let (x, y): (Vec<_>, Vec<_>) = (x.iter().collect(), y.iter().collect());
    let gradient = |i: usize| wanted.contains(&i).then(|| Grad::new(&dx[i], add));
    let dx: Vec<_> = (0..x.len()).map(gradient).collect();
    let run = || -> Result<()> {
        device.forward(op, Forward { x: &x, y: &y })?;
        device.backward(op, Backward { x: &x, y: &y, dy: &[Some(&dy)], dx: &dx })
    };
    device.profiled(run).unwrap().1
}

/// The profiler reads `cu_seqlens` of the current batch, on every device.
fn counts_a_ragged_batch(device: &Device, lengths: &[usize]) {
    let op = Attention { heads: HEADS, scale: 1.0, dropout: None, window: None };
    let tokens = lengths.iter().sum();
    let inputs = [Input::real(&[tokens, 3 * H]), Input::ints(&bounds(lengths))];
    let timed = profiled(device, &op, &inputs, &[0], false);
    let flops = attention_flops(lengths.iter().map(|len| len * len).sum());
    assert_eq!([0, 1].map(|i| timed[i].flops), flops.map(|f| f as f64));
    // Without dropout there is no key.
    let bytes = attention_bytes(tokens, lengths.len(), device.caps().compute.size()).map(|b| b - KEY);
    assert_eq!([0, 1].map(|i| timed[i].bytes), bytes.map(|b| b as f64));
}

#[test]
fn the_profiler_counts_a_ragged_batch() {
    counts_a_ragged_batch(&cpu(), &[5, 0, 95, 156]);
}

#[test]
fn the_profiler_counts_a_ragged_batch_on_wgpu() {
    let Some(device) = device("wgpu") else { return };
    counts_a_ragged_batch(&device, &[5, 0, 11]);
}

#[test]
fn the_profiler_counts_a_ragged_batch_on_cuda() {
    let Some(device) = device("cuda") else { return };
    counts_a_ragged_batch(&device, &[5, 0, 11]);
    if let Ok(half) = device.with_compute(DType::BF16) {
        counts_a_ragged_batch(&half, &[5, 0, 11]);
    }
}

/// In f16 on wgpu matmuls multiply in f16, and tensors are f32.
#[test]
fn wgpu_in_f16_keeps_activations_in_f32() {
    let Some(device) = device("wgpu") else { return };
    let name = device.caps().name;
    let Ok(half) = device.with_compute(DType::F16) else {
        report_skipped("no cooperative matrices, so f16 on wgpu was not tried");
        return;
    };
    let entry = Workbench::new(&half, "wgpu f16".into(), Effort::default()).entry();
    assert_eq!((entry.dtype.as_str(), entry.activation_dtype.as_deref()), ("f16", Some("f32")));
    assert_eq!(entry.description, name);
    let specs = [Spec::new(DType::F32, &[4, 8]), Spec::new(DType::F32, &[8, 8])];
    let plan = Linear { act: Activation::None }.plan(&half.caps(), &[&specs[0], &specs[1]]).unwrap();
    assert_eq!(plan.outputs[0].dtype, DType::F32);
}

/// What is not asked for is not computed, and what is added to is read first. x (256, 384) and w (384, 384),
/// without a bias.
#[test]
fn the_profiler_counts_the_gradients_that_a_call_asks_for() {
    let op = Linear { act: Activation::None };
    let inputs = [Input::real(&[T, H]), Input::real(&[H, H])];
    let (x, w, matmul) = (T * H, H * H, 2 * T * H * H);
    let backward = |wanted: &[usize], add| {
        let timed = profiled(&cpu(), &op, &inputs, wanted, add);
        assert_eq!((timed[1].pass, timed[1].op), (Pass::Backward, "linear"));
        [timed[1].flops as usize, timed[1].bytes as usize / 4]
    };
    assert_eq!(backward(&[0, 1], false), [2 * matmul, x + w + x + x + w]);
    // dw = dy^T x alone: w is not read.
    assert_eq!(backward(&[1], false), [matmul, x + x + w]);
    assert_eq!(backward(&[1], true), [matmul, x + x + 2 * w]);
}

/// On a tape the derivative of an activation may be fused into the next op; both ops together compute the
/// same matmuls either way.
#[test]
fn a_tape_is_counted_with_its_real_gradients() {
    let device = cpu();
    let run = || -> Result<()> {
        let mut tape = Tape::new(&device);
        let zeros = |shape: &[usize]| device.zeros(DType::F32, shape);
        let x = tape.constant(zeros(&[T, H])?);
        let w = tape.leaf(Leaf::new(zeros(&[F, H])?, zeros(&[F, H])?, false));
        let y = tape.apply(Linear { act: Activation::GeluErf }, [x, w])?;
        let v = tape.leaf(Leaf::new(zeros(&[H, F])?, zeros(&[H, F])?, true));
        let y = tape.apply(Linear { act: Activation::None }, [y, v])?;
        tape.backward(y, zeros(&[T, H])?).map(drop)
    };
    let timed = device.profiled(run).unwrap().1;
    let matmul = (2 * T * H * F) as f64;
    // Forward twice; then dy v and dv; then dw, since x is a constant.
    assert_eq!(timed.iter().map(|t| t.flops).collect::<Vec<_>>(), [1.0, 1.0, 2.0, 1.0].map(|n| n * matmul));
    // dy, v, y and z (for GELU's derivative, which is fused) are read and dz is written; dv is read and
    // written. Then dz and x are read, and dw is written.
    let (y, w) = (T * F, F * H);
    let elements = [T * H + w + y + y + y + 2 * w, y + T * H + w];
    assert_eq!([2, 3].map(|i| timed[i].bytes as usize), elements.map(|n| 4 * n));
}

fn tiny() -> ModelShape {
    let name = "tiny".to_owned();
    ModelShape { name, hidden: 64, layers: 2, heads: 2, intermediate: 128, vocab: 512, positions: 128 }
}

/// A clock on which everything takes a millisecond: counts do not depend on times.
struct Ticks;

impl Clock for Ticks {
    fn now(&self) -> f64 {
        0.0
    }
    fn time(&self, device: &Device, work: &mut (dyn FnMut() -> Result<()> + Send)) -> Result<f64> {
        device.run(work).map(|()| 1e-3)
    }
}

fn steps(device: &Device, settings: &[Setting]) -> Vec<StepRow> {
    let effort = Effort { seconds: 0.0, samples: 3, planted: None };
    let bench = Workbench::new(device, "cpu".into(), effort).with_clock(&Ticks).with_cache_bytes(1 << 20);
    let mut report = Report::begin();
    let model = tiny();
    step::run(&bench, ("tiny", &encoder(&model)), settings, 2, &mut report, &|| false, &mut |_| ()).unwrap();
    assert_eq!(report.skipped, []);
    report.steps
}

/// A step on sequences of different lengths: the profiler counts the squares of the lengths. Padded to the
/// longest it computes more, but what is useful is the same, and both are in the row.
#[test]
fn padding_is_no_useful_work() {
    let device = cpu();
    let settings = settings(6, 64, false, true);
    let rows = steps(&device, &settings);
    let [base, packed, padded] = rows.as_slice() else { panic!("{} rows", rows.len()) };
    assert_eq!(base.flops, base.computed_flops);
    assert_eq!(packed.flops, packed.computed_flops);
    assert_eq!(padded.flops, packed.flops, "useful work does not depend on padding");
    assert!(padded.computed_flops > 1.3 * padded.flops, "{} {}", padded.computed_flops, padded.flops);
    assert_eq!([packed.tokens, padded.tokens], [settings[1].lengths.tokens(); 2]);
    let lengths = settings[1].lengths.all();
    assert!(lengths.iter().collect::<HashSet<_>>().len() > 2, "{lengths:?}");
    let attention =
        |row: &StepRow| -> f64 { row.work.iter().filter(|w| w.op == "attention").map(|w| w.flops).sum() };
    // Two layers of width 64, both passes.
    let pairs = |squares: usize| (2 * (4 + 10) * squares * 64) as f64;
    assert_eq!(attention(packed), pairs(lengths.iter().map(|len| len * len).sum()));
    assert_eq!(attention(padded), pairs(6 * 64 * 64));
}

/// `share_of_peak` is of the useful work.
#[test]
fn the_share_of_the_peak_leaves_padding_out() {
    let mut report =
        Report { devices: vec![DeviceEntry { id: "a".into(), ..Default::default() }], ..Default::default() };
    let mut row = StepRow { device: "a".into(), flops: 1e9, computed_flops: 3e9, ..StepRow::default() };
    row.seconds.median = 1.0;
    report.steps.push(row);
    report.judge(
        "a",
        Ceilings { copy_bytes_per_s: 1e10, matmul_flops_per_s: 4e9, ..Ceilings::default() },
        None,
    );
    assert_eq!(report.steps[0].share_of_peak, Some(0.25));
}

/// `dtype` is the type in which matmuls multiply; where activations have another, as in f16 on wgpu, the
/// entry says so.
#[test]
fn dtype_is_the_type_of_matmuls() {
    let entry = |compute, matmul| {
        let caps = Caps { compute, matmul, name: "a GPU".into(), ..caps(DType::F32) };
        let device = Device::Meta(Meta::new(caps));
        let bench = Workbench::new(&device, "a".into(), Effort::default());
        let entry = bench.entry();
        assert_eq!(bench.dtype(), matmul);
        (entry.description, entry.dtype, entry.activation_dtype, device.caps().label())
    };
    let [own, f16, f32] = ["a GPU", "f16", "f32"].map(str::to_owned);
    assert_eq!(entry(DType::F32, DType::F32), (own.clone(), f32.clone(), None, own.clone()));
    assert_eq!(
        entry(DType::F16, DType::F16),
        (own.clone(), f16.clone(), None, "a GPU, computing in f16".into())
    );
    assert_eq!(entry(DType::F32, DType::F16), (own, f16, Some(f32), "a GPU, matmuls in f16".into()));
    // The operands of such a device are f32, and training on it has no copy of the weights.
    let caps = Caps { compute: DType::F32, matmul: DType::F16, ..caps(DType::F32) };
    let cost = |op: &str, role: &str| job(op, role, T).needs(&caps).unwrap().cost;
    let f32_cost =
        |op: &str, role: &str| job(op, role, T).needs(&crate::bench_counts::caps(DType::F32)).unwrap().cost;
    for (op, role) in [("linear", "qkv"), ("adamw", "all parameters")] {
        assert_eq!(cost(op, role), f32_cost(op, role));
    }
}
