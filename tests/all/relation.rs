//! The loss of MiniLM-v2 against PyTorch, its memory, and what it refuses.

use crate::support::*;
use serde_json::Value;
use tempra::device::{Caps, Device, Tensor};
use tempra::error::{Error, Kind};
use tempra::ops::relation::Relation;
use tempra::ops::{Backward, Forward, Grad, Op, Plan};
use tempra::shape::{DType, Spec};

/// The operands of one call, and everything around it.
struct Call<'a> {
    device: &'a Device,
    dtype: DType,
    op: Relation,
    x: [Tensor; 5],
}

impl<'a> Call<'a> {
    /// c = 1 / (heads length), scale = 1 / sequences: the loss of the paper.
    fn new(device: &'a Device, dtype: DType, heads: usize, lengths: &[usize], qkv: [&[f64]; 2]) -> Call<'a> {
        let tokens: usize = lengths.iter().sum();
        let mut bounds = vec![0u32];
        let mut weights = Vec::new();
        for &len in lengths {
            bounds.push(bounds[bounds.len() - 1] + len as u32);
            weights.extend(vec![1.0 / (heads * len) as f64; len]);
        }
        let put = |shape: &[usize], v: &[f64]| device.upload_reals(dtype, shape, v).expect("memory");
        let [teacher, student] = qkv.map(|v| put(&[tokens, v.len() / tokens], v));
        let bounds = device.upload(DType::U32, &[bounds.len()], &bounds).expect("memory");
        let scale = put(&[1], &[1.0 / lengths.len() as f64]);
        let x = [teacher, student, bounds, put(&[tokens], &weights), scale];
        Call { device, dtype, op: Relation { heads }, x }
    }
    fn inputs(&self) -> Vec<&Tensor> {
        self.x.iter().collect()
    }
    fn plan(&self) -> Plan {
        let specs: Vec<&Spec> = self.x.iter().map(|t| &t.spec).collect();
        self.op.plan(&self.device.caps(), &specs).expect("a plan")
    }
    /// Outputs and saved tensors.
    fn forward(&self) -> Vec<Tensor> {
        let plan = self.plan();
        let new = |s: &Spec| self.device.zeros(s.dtype, &s.shape).expect("memory");
        let y: Vec<Tensor> = plan.outputs.iter().chain(&plan.saved).map(new).collect();
        self.device
            .forward(&self.op, Forward { x: &self.inputs(), y: &y.iter().collect::<Vec<_>>() })
            .unwrap();
        y
    }
    /// With the gradient of an input.
    fn backward(&self, y: &[Tensor], input: usize) -> Result<Vec<f64>, Error> {
        let one = self.device.upload_reals(self.dtype, &[1], &[1.0])?;
        let dx = self.device.zeros(self.dtype, &self.x[input].spec.shape)?;
        let mut wanted = [None; 5];
        wanted[input] = Some(Grad::new(&dx, false));
        let (x, y) = (self.inputs(), y.iter().collect::<Vec<_>>());
        self.device.backward(&self.op, Backward { x: &x, y: &y, dy: &[Some(&one)], dx: &wanted })?;
        self.device.read_reals(&dx)
    }
    /// The loss, and the gradient of the student.
    fn run(&self) -> (f64, Vec<f64>) {
        let y = self.forward();
        (floats(self.device, &y[0])[0], self.backward(&y, 1).expect("a gradient"))
    }
}

/// The GPUs that are here; `tests/ops.rs` says which are not.
fn gpus() -> Vec<Device> {
    ["wgpu", "cuda"].into_iter().filter_map(|name| Device::open(name, 0).ok()).collect()
}

/// Lengths, teacher and student of a case of `relation.json`.
fn operands(case: &Value) -> (usize, Vec<usize>, [Vec<f64>; 2]) {
    let lengths = numbers(&case["lengths"]).into_iter().map(|n| n as usize).collect();
    (number(&case["heads"]) as usize, lengths, ["teacher", "student"].map(|key| numbers(&case[key])))
}

/// Loss and gradients as PyTorch computes them with full matrices: `make_relation.py`.
#[test]
fn the_loss_is_that_of_pytorch() {
    let cpu = cpu(2);
    let gpus = gpus();
    let mut on = vec![(&cpu, DType::F64, 1e-12), (&cpu, DType::F32, 1e-5)];
    on.extend(gpus.iter().map(|gpu| (gpu, DType::F32, 1e-5)));
    let golden = json(&golden("relation.json"));
    for case in golden["cases"].as_array().expect("cases") {
        let (heads, lengths, [teacher, student]) = operands(case);
        for &(device, dtype, bound) in &on {
            let (loss, ds) = Call::new(device, dtype, heads, &lengths, [&teacher, &student]).run();
            let expected = number(&case["loss"]);
            assert!((loss - expected).abs() < bound * (1.0 + expected), "{dtype:?}: {loss} {expected}");
            let off = max_difference(&ds, &numbers(&case["dstudent"]));
            assert!(off < bound, "{dtype:?}: gradients differ by {off}");
        }
    }
}

/// A student that equals its teacher has a loss of 0 and no gradient.
#[test]
fn equal_relations_have_no_loss() {
    let cpu = cpu(1);
    let golden = json(&golden("relation.json"));
    let (heads, lengths, [teacher, _]) = operands(&golden["cases"][0]);
    let (loss, ds) = Call::new(&cpu, DType::F64, heads, &lengths, [&teacher, &teacher]).run();
    assert!(loss.abs() < 1e-14, "{loss}");
    assert!(ds.iter().all(|d| d.abs() < 1e-14));
}

/// A sequence has the same bits alone as behind others, but for the scale.
#[test]
fn a_sequence_does_not_depend_on_its_neighbours() {
    let devices: Vec<Device> = gpus().into_iter().chain([cpu(2)]).collect();
    let golden = json(&golden("relation.json"));
    let (heads, lengths, [teacher, student]) = operands(&golden["cases"][1]);
    let [first, second] = [lengths[0], lengths[1]];
    for device in &devices {
        let alone = |from: usize, len: usize| {
            let part = |v: &[f64]| {
                let cols = v.len() / (first + second);
                v[from * cols..][..len * cols].to_vec()
            };
            let (teacher, student) = (part(&teacher), part(&student));
            Call::new(device, DType::F32, heads, &[len], [&teacher, &student]).run().1
        };
        let (_, all) = Call::new(device, DType::F32, heads, &lengths, [&teacher, &student]).run();
        // The scale of two sequences is half that of one: exact in every type.
        let doubled: Vec<f64> = all.iter().map(|d| d * 2.0).collect();
        assert_eq!(bits(&doubled), bits(&[alone(0, first), alone(first, second)].concat()));
    }
}

/// A NaN of one token makes the loss a NaN, and the gradients of its sequence and relation head of q, but no
/// others.
#[test]
fn a_nan_is_not_lost() {
    let devices: Vec<Device> = gpus().into_iter().chain([cpu(1)]).collect();
    let golden = json(&golden("relation.json"));
    let (heads, lengths, [teacher, student]) = operands(&golden["cases"][1]);
    let width = student.len() / lengths.iter().sum::<usize>();
    for device in &devices {
        for which in 0..2 {
            let mut qkv = [teacher.clone(), student.clone()];
            // The last token of the first sequence, first relation head of q.
            let at = qkv[which].len() / lengths.iter().sum::<usize>() * (lengths[0] - 1);
            qkv[which][at] = f64::NAN;
            let (loss, ds) = Call::new(device, DType::F32, heads, &lengths, [&qkv[0], &qkv[1]]).run();
            assert!(loss.is_nan(), "{loss}");
            let dim = width / 3 / heads;
            for (i, d) in ds.iter().enumerate() {
                let touched = i / width < lengths[0] && i % width < dim;
                assert_eq!(d.is_nan(), touched, "element {i}");
            }
        }
    }
}

/// With the same number of tokens, sequences four times as long need no more memory: no relation is stored.
#[test]
fn memory_grows_with_tokens_and_not_with_their_square() {
    const TOKENS: usize = 4096;
    let (heads, teacher, student) = (48, 768, 384);
    let f32s = |shape: &[usize]| Spec::new(DType::F32, shape);
    let bytes = |caps: &Caps, length: usize| -> [u64; 3] {
        let bounds = Spec::new(DType::U32, &[TOKENS / length + 1]);
        let x =
            [f32s(&[TOKENS, 3 * teacher]), f32s(&[TOKENS, 3 * student]), bounds, f32s(&[TOKENS]), f32s(&[1])];
        let plan = Relation { heads }.plan(caps, &x.iter().collect::<Vec<_>>()).expect("a plan");
        [plan.saved.iter().map(|s| s.bytes() as u64).sum(), plan.scratch[0], plan.scratch[1]]
    };
    let cpu = cpu(1);
    let caps = cpu.caps();
    let gpu = Caps { gpu: true, ..caps.clone() };
    for (caps, what) in [(&caps, "cpu"), (&gpu, "wgpu"), (&Caps { blocks: 8, ..gpu.clone() }, "cuda")] {
        let [short, long] = [128, 512].map(|length| bytes(caps, length));
        // Two statistics for each row, relation head, and q, k, v.
        assert_eq!([short[0], long[0]], [(2 * 3 * heads * TOKENS * 4) as u64; 2], "{what}");
        assert!(long[1] <= short[1] && long[2] <= short[2], "{what}: {short:?} {long:?}");
        // One matrix of relations at length 128 would be more.
        assert!(short[1] < (TOKENS * 128 * 4 / 2) as u64, "{what}: {short:?}");
        assert!(short[2] <= (TOKENS * 3 * student * 4) as u64, "{what}: {short:?}");
    }

    // What is in use at once: beside the plan, two blocks of 64 rows of scores.
    let peak = |length: usize| -> usize {
        let device = crate::support::cpu(1);
        let tokens = 1024;
        let v = |cols: usize| -> Vec<f64> { (0..tokens * cols).map(|i| (i % 37) as f64 / 37.0).collect() };
        let lengths = vec![length; tokens / length];
        let call = Call::new(&device, DType::F32, 4, &lengths, [&v(3 * 32), &v(3 * 16)]);
        call.run();
        let Device::Cpu(cpu) = &device else { panic!("no CPU") };
        cpu.memory().peak
    };
    let [short, long] = [128, 512].map(peak);
    println!("peak {short} bytes at length 128, {long} at 512");
    // Two blocks of scores at length 512, and as much for the rounding of the pool. Relations of one head of
    // one sequence are 1 MiB.
    assert!(long <= short + 2 * (2 * 64 * 512 * 4), "{short} {long}");
}

/// Each fault is refused before anything runs, and says which numbers it is about.
#[test]
fn what_does_not_fit_is_refused() {
    let cpu = cpu(1);
    let plan = |caps: &Caps, heads: usize, [teacher, student]: [[usize; 2]; 2], weights: usize| {
        let f32s = |shape: &[usize]| Spec::new(DType::F32, shape);
        let x = [f32s(&teacher), f32s(&student), Spec::new(DType::U32, &[3]), f32s(&[weights]), f32s(&[1])];
        Relation { heads }.plan(caps, &x.iter().collect::<Vec<_>>()).map(|_| ())
    };
    let caps = cpu.caps();
    let refused = |heads, widths, weights, words: &[&str]| {
        let e = plan(&caps, heads, widths, weights).expect_err("a refusal");
        assert_eq!(e.kind(), Kind::Shape);
        let text = e.to_string();
        assert!(words.iter().all(|w| text.contains(w)), "{text}");
    };
    assert!(plan(&caps, 4, [[8, 24], [8, 12]], 8).is_ok());
    refused(5, [[8, 24], [8, 12]], 8, &["5 relation heads", "teacher's width 8", "widths 8 (teacher) and 4"]);
    refused(8, [[8, 24], [8, 12]], 8, &["8 relation heads", "student's width 4"]);
    refused(0, [[8, 24], [8, 12]], 8, &["0 relation heads"]);
    refused(2, [[8, 24], [7, 12]], 8, &["relation does not accept"]);
    refused(2, [[8, 25], [8, 12]], 8, &["relation does not accept"]);
    refused(2, [[8, 24], [8, 12]], 7, &["relation does not accept"]);

    // Relation heads that are too wide for the kernels.
    let gpu = Caps { gpu: true, ..caps.clone() };
    assert!(plan(&caps, 1, [[8, 3 * 129], [8, 12]], 8).is_ok());
    let e = plan(&gpu, 1, [[8, 3 * 129], [8, 12]], 8).expect_err("a refusal");
    assert_eq!(e.kind(), Kind::Device);
    assert!(e.to_string().contains("129 columns"), "{e}");

    // The teacher has no gradient; asking for it is an error and no gradient of 0.
    let call = Call::new(&cpu, DType::F64, 1, &[2], [&[0.5; 6], &[0.25; 6]]);
    let e = call.backward(&call.forward(), 0).expect_err("a refusal");
    assert!(e.to_string().contains("no gradient of the teacher"), "{e}");
}
