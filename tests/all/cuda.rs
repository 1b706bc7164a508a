//! Training through CUDA against training on the CPU: on a GPU, or on the emulator, which
//! `tests/emulated-cuda` brings.

use crate::half::copies_are_the_weights_rounded;
use crate::learner::{Job, batch, losses};
use crate::support::{cpu, device};
use std::collections::HashMap;
use std::fmt::Write;
use tempra::data::{Batch, Targets};
use tempra::device::{Cuda, Device, cuda::Resources};
use tempra::models::{Model, Options, Outputs};
use tempra::nn::{Biases, EncoderConfig, LayerShape, Order, PerformerConfig, Positions};
use tempra::ops::Activation;
use tempra::optim::{Optimizer, Settings};
use tempra::rng::Rng;
use tempra::shape::{DType, Spec};
use tempra::tasks::Classify;
use tempra::train::pass;

/// How many of the fifty steps are run: the emulator needs a tenth of a second for each.
fn some(losses: Vec<f64>) -> Vec<f64> {
    losses.into_iter().take(12).collect()
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Steps of the learner on a device of CUDA.
fn steps(device: &Device, count: u64, window: usize) -> Vec<f64> {
    let mut job = Job::new(device, window);
    let mut losses: Vec<f64> = (0..count).flat_map(|i| job.step(&batch(i))).collect();
    losses.extend(job.synchronize());
    losses
}

#[test]
fn cuda_trains_as_the_cpu_does() {
    let Some(device) = device("cuda") else { return };
    let (here, there) = (some(losses(&cpu(2), 1)), steps(&device, 12, 8));
    println!(
        "f32: losses {:.4} -> {:.4}, largest difference {:.1e}",
        here[0],
        here[11],
        furthest(&here, &there)
    );
    assert!(furthest(&here, &there) <= 1e-4, "cpu {here:?}\ncuda {there:?}");
    for (dtype, bound) in [(DType::BF16, 0.02), (DType::F16, 0.004)] {
        let Ok(half) = Device::open("cuda", 0).and_then(|d| d.with_compute(dtype)) else { continue };
        let there = steps(&half, 12, 8);
        println!("{dtype:?}: largest difference {:.1e}", furthest(&here, &there));
        assert!(furthest(&here, &there) <= bound, "cpu {here:?}\n{dtype:?} {there:?}");
    }
}

/// Matmuls may be left to cuBLASLt: on the emulator to what stands for it, which holds its calls to their
/// rules.
#[test]
fn cuda_matmuls_by_cublaslt_train_as_well() {
    if device("cuda").is_none() {
        return;
    }
    let here = some(losses(&cpu(2), 1));
    // The first that is right, and the fastest, which is measured: as on a GPU that nobody asks anything of.
    let cases = [
        (DType::F32, "cublaslt", 1e-4),
        (DType::BF16, "cublaslt", 0.02),
        (DType::F32, "fastest", 1e-4),
        (DType::BF16, "fastest", 0.02),
    ];
    for (dtype, matmul, bound) in cases {
        let gpu = Cuda::new(0).unwrap();
        if matmul == "cublaslt" && gpu.with_matmul(matmul).is_err() {
            return crate::support::report_skipped("no cuBLASLt, so matmuls by it were not tried");
        }
        let gpu = Cuda::new(0).unwrap().with_matmul(matmul).unwrap();
        let Ok(gpu) = gpu.with_compute(dtype) else { continue };
        let device = Device::Cuda(gpu);
        let there = steps(&device, 12, 8);
        let Device::Cuda(gpu) = &device else { panic!("another device") };
        let stats = gpu.stats();
        println!("{matmul} {dtype:?}: largest difference {:.1e}, {stats:?}", furthest(&here, &there));
        assert!(furthest(&here, &there) <= bound, "cpu {here:?}\ncublaslt {there:?}");
        assert!(stats.library > 50 && stats.graphs > 0, "{matmul}: {stats:?}");
        // The gradients of biases come with those of their weights, where that is no slower or is asked for.
        assert!(stats.whole > 10 || !emulated(gpu) || matmul == "fastest", "{stats:?}");
    }
}

/// Steps that recur are launched as one, to the same bits; the host asks for nothing and waits for nothing.
#[test]
fn cuda_steps_are_recorded_and_replayed() {
    if device("cuda").is_none() {
        return;
    }
    let replaying = Device::Cuda(Cuda::new(0).unwrap());
    let direct = Device::Cuda(Cuda::new(0).unwrap().with_graphs(false));
    let run = |device: &Device| {
        let mut job = Job::new(device, 16);
        let Device::Cuda(gpu) = device else { panic!("another device") };
        let mut losses = Vec::new();
        // Batches of one size, not of the same content.
        let mut batches: Vec<_> = (0..6).map(batch).collect();
        batches.retain(|b| b.ids.len() <= 64);
        assert!(batches.len() >= 4, "{}", batches.len());
        for b in &batches[..3] {
            losses.extend(job.step(b));
        }
        let before = gpu.stats();
        for b in batches.iter().cycle().take(5) {
            losses.extend(job.step(b));
        }
        let after = gpu.stats();
        losses.extend(job.synchronize());
        (losses, before, after)
    };
    let (one, _, _) = run(&direct);
    let (other, before, after) = run(&replaying);
    println!("five captured steps: {before:?} -> {after:?}");
    assert_eq!(after.graphs, before.graphs + 5);
    let rest = |s: tempra::device::cuda::CudaStats| (s.launches, s.allocations, s.reads, s.waits);
    assert_eq!(rest(after), rest(before));
    assert_eq!(after.writes, before.writes + 5, "one copy a step");
    assert_eq!(one, other, "a captured step gives the bits of the same kernels launched one by one");
}

/// Losses come to the host while newer steps run: it asks for none, and learns of each as many steps later as
/// may be under way.
#[test]
fn cuda_losses_come_by_themselves() {
    if device("cuda").is_none() {
        return;
    }
    let device = Device::Cuda(Cuda::new(0).unwrap());
    let Device::Cuda(gpu) = &device else { panic!("another device") };
    let mut batches: Vec<_> = (0..6).map(batch).collect();
    batches.retain(|b| b.ids.len() <= 64);
    let each = |i: usize| &batches[i % batches.len()];
    let mut job = Job::new(&device, 4);
    let mut found = Vec::new();
    (0..6).for_each(|i| found.extend(job.step(each(i))));
    let before = gpu.stats();
    for i in 6..18 {
        found.extend(job.step(each(i)));
        assert_eq!(found.len(), i - 2, "three steps are under way behind the one that is looked at");
    }
    let after = gpu.stats();
    let rest = |s: tempra::device::cuda::CudaStats| (s.reads, s.allocations);
    println!("twelve steps: {before:?} -> {after:?}");
    assert_eq!((rest(after), after.fetches), (rest(before), before.fetches + 12));
    // The emulator is done with a step when it is launched: there is nothing to wait for. A GPU may be
    // behind.
    assert!(after.waits <= before.waits + 12 && (after.waits == before.waits || !emulated(gpu)));
    found.extend(job.synchronize());
    assert_eq!(gpu.stats().reads, before.reads, "nor are the last ones asked for");
    // Captured steps are of one model.
    let another = Device::Cuda(Cuda::new(0).unwrap());
    let mut patient = Job::new(&another, 1);
    let expected: Vec<f64> = (0..18).flat_map(|i| patient.step(each(i))).collect();
    assert_eq!(found, expected, "each step's own loss, in order");
}

/// Whether a GPU is the emulator's.
fn emulated(gpu: &Cuda) -> bool {
    use tempra::device::Backend;
    gpu.caps().name.contains("emulator")
}

#[test]
fn cuda_copies_of_the_weights_are_the_weights_rounded() {
    copies_are_the_weights_rounded("cuda");
}

const RESOURCES: &str = "tests/golden/cuda-resources.txt";

/// A line of the table: no spills and no stack, or it would not be there.
fn in_table(line: &str) -> Option<(String, Resources)> {
    let (line, digest) = line.rsplit_once(" #")?;
    let mut words = line.split_whitespace().skip(2);
    let registers = words.next()?.parse().ok()?;
    let shared = words.nth(1)?.parse().ok()?;
    let found = Resources { registers, shared, stack: 0, spills: 0, serialized: false };
    Some((digest.to_owned(), found))
}

/// Every kernel of a training step at the widths of MiniLM, BERT-base and ModernBERT-base (a layer with a
/// window), compiled for the GPU that the device is: no spills and no stack, and as many registers as the
/// table says. What was compiled by the same NVRTC from the same text when the table was written is not
/// compiled again. `TEMPRA_WRITE_RESOURCES=1` compiles all, and writes the GPU's lines of the table.
#[test]
fn cuda_kernels_take_what_the_table_says() {
    if device("cuda").is_none() {
        return;
    }
    let capability = Cuda::new(0).unwrap().capability();
    let half = if capability < 80 { DType::F16 } else { DType::BF16 };
    let table = std::fs::read_to_string(RESOURCES).unwrap_or_default();
    let writes = std::env::var_os("TEMPRA_WRITE_RESOURCES").is_some();
    let mut known: HashMap<String, Resources> =
        table.lines().filter(|_| !writes).filter_map(in_table).collect();
    let (mut found, mut compiled) = (String::new(), 0);
    let modern = EncoderConfig {
        types: 0,
        order: Order::Pre,
        encoding: Positions::Rotary { global: 160_000.0, local: 10_000.0 },
        biases: Biases { attention: false, feed_forward: false, norm: false, head: false },
        fused: true,
        gated_mlp: true,
        windows: Some((64, vec![true])),
        ..EncoderConfig::default()
    };
    let bert = EncoderConfig::default();
    let performer = EncoderConfig { performer: Some(PerformerConfig::of(32, 0)), ..EncoderConfig::default() };
    let wide_performer = EncoderConfig { performer: Some(PerformerConfig::of(64, 0)), ..performer.clone() };
    let xlnet = EncoderConfig {
        types: 0,
        encoding: Positions::Relative { clamp: None },
        biases: Biases { attention: false, ..bert.biases },
        by_head: true,
        embedding_norm: false,
        query_row: true,
        inner_dropout: true,
        last_dropout: true,
        ..EncoderConfig::default()
    };
    // Of the last ones only the kernels whose names begin so are listed: the others have been.
    for (dtype, [hidden, heads, intermediate], like, only) in [
        (half, [384, 12, 1536], &bert, ""),
        (half, [768, 12, 3072], &bert, ""),
        (DType::F32, [384, 12, 1536], &bert, ""),
        (half, [768, 12, 1152], &modern, ""),
        (half, [384, 12, 1536], &performer, "favor"),
        (half, [768, 12, 3072], &wide_performer, "favor"),
        (DType::F32, [384, 12, 1536], &performer, "favor"),
        (half, [768, 12, 3072], &xlnet, "relative_attention"),
        (DType::F32, [384, 12, 1536], &xlnet, "relative_attention"),
    ] {
        let gpu = Cuda::new(0).unwrap().with_compute(dtype).unwrap().inspecting(known.clone());
        let device = Device::Cuda(gpu);
        let shape = EncoderConfig {
            vocab: 100,
            positions: 128,
            hidden,
            layers: vec![LayerShape::new(hidden, heads, intermediate)],
            ..like.clone()
        };
        let classes = vec!["a".to_owned(), "b".to_owned()];
        let outputs = Some(Outputs::Classes(classes.clone()));
        let options = Options { outputs, training: true, ..Options::default() };
        let model = Model::random(&device, &shape, &options).unwrap();
        let mut optimizer = Optimizer::new(&device, &model.params, Settings::default()).unwrap();
        let task = Classify { classes, label_smoothing: 0.0, class_weights: None, gamma: 0.0 };
        // As many tokens in long sequences and in short ones.
        let mut losses = Vec::new();
        for (sequences, length) in [(8u32, 128u32), (64, 16)] {
            let batch = Batch {
                ids: vec![1; (sequences * length) as usize],
                types: vec![0; (sequences * length) as usize],
                positions: (0..sequences * length).map(|t| t % length).collect(),
                cu_seqlens: (0..=sequences).map(|s| s * length).collect(),
                targets: Targets::Class(vec![0; sequences as usize]),
                examples: (0..sequences).collect(),
                ..Batch::default()
            };
            losses.push(pass(&device, &model, &task, &batch, Some((1, 0)), 1.0, false).unwrap().loss);
        }
        optimizer.step(&device, &model.params, &losses, 1e-3).unwrap();
        let Device::Cuda(gpu) = &device else { panic!("another device") };
        for (kernel, (r, digest)) in gpu.inspected() {
            compiled += known.insert(digest.clone(), r.clone()).is_none() as usize;
            assert_eq!((r.stack, r.spills), (0, 0), "sm_{capability} {kernel}: a stack or spills");
            assert!(!r.serialized, "sm_{capability} {kernel}: each wgmma is waited for");
            if !kernel.starts_with(only) {
                continue;
            }
            let line = format!(
                "sm_{capability} {hidden:>4} {:>3} registers {:>6} bytes  {kernel} #{digest}",
                r.registers, r.shared
            );
            if !found.lines().any(|l| l == line) {
                writeln!(found, "{line}").unwrap();
            }
        }
    }
    assert!(found.lines().count() > 40, "{found}");
    println!("sm_{capability}: {compiled} kernels compiled, {} lines", found.lines().count());
    let mine = |line: &&str| line.starts_with(&format!("sm_{capability} "));
    if writes {
        let mut all: Vec<&str> = table.lines().filter(|l| !mine(l)).chain(found.lines()).collect();
        all.sort_by_key(|l| l.split(' ').next().and_then(|sm| sm[3..].parse::<u32>().ok()));
        std::fs::write(RESOURCES, all.join("\n") + "\n").unwrap();
        return;
    }
    let expected: Vec<&str> = table.lines().filter(mine).collect();
    let found: Vec<&str> = found.lines().collect();
    let differ = |a: &[&str], b: &[&str]| {
        a.iter().filter(|l| !b.contains(l)).map(|l| l.to_string()).collect::<Vec<_>>()
    };
    let (new, gone) = (differ(&found, &expected), differ(&expected, &found));
    assert!(new.is_empty() && gone.is_empty(), "{RESOURCES} differs; new: {new:#?}\ngone: {gone:#?}");
}

/// Both passes of attention over sequences of such lengths: the bits of output and gradient, sequence by
/// sequence. What is in a sequence depends on its name alone; its dropout on where it is said to begin.
fn attended(
    device: &Device,
    dtype: DType,
    dim: usize,
    window: Option<usize>,
    sequences: &[(u32, usize)],
    begin: u32,
) -> Vec<Vec<u32>> {
    use tempra::ops::{Backward, Forward, Grad, Op, attention::Attention, dropout::*};
    let heads = 2;
    let dropout = Some(Dropout { p: 0.1, dropout_id: 3, rows: DropoutRows::Tokens });
    let op = Attention { heads, scale: 1.0 / (dim as f32).sqrt(), dropout, window };
    let mut bounds = vec![0u32];
    bounds.extend(sequences.iter().scan(0, |at, s| {
        *at += s.1 as u32;
        Some(*at)
    }));
    let tokens = *bounds.last().unwrap() as usize;
    let fill = |what: &str, cols: usize| {
        let part = |&(name, n): &(u32, usize)| {
            let mut rng = Rng::new(7, what, name as u64);
            (0..n * cols).map(|_| rng.normal()).collect::<Vec<_>>()
        };
        device
            .upload_reals(dtype, &[tokens, cols], &sequences.iter().flat_map(part).collect::<Vec<_>>())
            .unwrap()
    };
    let (qkv, dy) = (fill("qkv", 3 * heads * dim), fill("dy", heads * dim));
    let at = device.upload(DType::U32, &[bounds.len()], &bounds).unwrap();
    let key = device.upload(DType::U32, &[5], &[1u32, 2, 3, begin, 0]).unwrap();
    let specs = [&qkv.spec, &at.spec, &key.spec];
    let plan = op.plan(&device.caps(), &specs).unwrap();
    let y: Vec<_> =
        plan.outputs.iter().chain(&plan.saved).map(|s| device.alloc(s.clone()).unwrap()).collect();
    let (x, y) = ([&qkv, &at, &key], y.iter().collect::<Vec<_>>());
    device.forward(&op, Forward { x: &x, y: &y }).unwrap();
    let g = device.alloc(qkv.spec.clone()).unwrap();
    let dx = [Some(Grad::new(&g, false)), None, None];
    device.backward(&op, Backward { x: &x, y: &y, dy: &[Some(&dy)], dx: &dx }).unwrap();
    let (o, g) = (device.read_reals(y[0]).unwrap(), device.read_reals(&g).unwrap());
    let bits = |w: &[u32]| {
        let of = |v: &[f64], cols| v[w[0] as usize * cols..w[1] as usize * cols].to_vec();
        let all = [of(&o, heads * dim), of(&g, 3 * heads * dim)].concat();
        all.iter().map(|v| (*v as f32).to_bits()).collect()
    };
    bounds.windows(2).map(bits).collect()
}

/// Short sequences share blocks, if the batch is of such; each has the same bits alone, among others, and
/// beside long ones, which leave it a block of its own.
#[test]
fn cuda_attention_of_a_sequence_is_the_same_in_any_company() {
    if device("cuda").is_none() {
        return;
    }
    for (dtype, dim, window) in [
        (DType::BF16, 32, None),
        (DType::F16, 64, None),
        (DType::F16, 5, None),
        (DType::F16, 128, None),
        (DType::F16, 64, Some(9)),
        (DType::F32, 32, None),
        (DType::F32, 70, Some(5)),
    ] {
        let Ok(gpu) = Device::open("cuda", 0).and_then(|d| d.with_compute(dtype)) else { continue };
        let lengths = match dtype {
            DType::F32 => [8, 7, 9, 1, 16, 17, 4, 5, 15, 13, 3, 40, 8],
            _ => [16, 7, 17, 1, 32, 33, 12, 16, 29, 15, 3, 64, 16],
        };
        let short: Vec<(u32, usize)> = (0..).zip(lengths).collect();
        let together = attended(&gpu, dtype, dim, window, &short, 0);
        let long: Vec<(u32, usize)> = short.iter().copied().chain((100..107).map(|i| (i, 200))).collect();
        assert!(long.iter().map(|s| s.1).sum::<usize>() > 64 * long.len());
        for (i, beside) in together
            .iter()
            .zip(&attended(&gpu, dtype, dim, window, &long, 0))
            .map(|(a, b)| a == b)
            .enumerate()
        {
            assert!(beside, "{dtype:?} {dim}: sequence {i} beside long ones");
        }
        let mut begin = 0;
        for (i, one) in short.iter().enumerate() {
            let alone = attended(&gpu, dtype, dim, window, &[*one], begin);
            assert!(alone[0] == together[i], "{dtype:?} {dim}: sequence {i} alone");
            begin += one.1 as u32;
        }
    }
}

/// Heads may be up to 256 wide, where shared memory has room for them: beyond 128 in f32 arithmetic, whatever
/// the elements are.
#[test]
fn cuda_attention_has_wide_heads() {
    if device("cuda").is_none() {
        return;
    }
    let gpu = Cuda::new(0).unwrap();
    if gpu.capability() < 80 {
        return;
    }
    let sequences = [(0, 5), (1, 33), (2, 1)];
    let floats = |bits: Vec<Vec<u32>>| bits.into_iter().flatten().map(|b| f64::from(f32::from_bits(b)));
    for (dtype, dim, bound) in
        [(DType::F32, 129, 1e-5), (DType::F32, 256, 1e-5), (DType::BF16, 129, 0.02), (DType::F16, 256, 0.003)]
    {
        let gpu = || Cuda::new(0).unwrap().with_compute(dtype).unwrap();
        let truth: Vec<f64> = floats(attended(&cpu(1), DType::F64, dim, None, &sequences, 0)).collect();
        let ours: Vec<f64> =
            floats(attended(&Device::Cuda(gpu()), dtype, dim, None, &sequences, 0)).collect();
        let error = crate::support::relative(&ours, &truth);
        assert!(error < bound, "{dtype:?} {dim}: {error:.1e}");
        let inspecting = Device::Cuda(gpu().inspecting(HashMap::new()));
        attended(&inspecting, dtype, dim, None, &sequences, 0);
        let Device::Cuda(gpu) = &inspecting else { panic!("another device") };
        for (kernel, (r, _)) in gpu.inspected() {
            assert_eq!((r.stack, r.spills), (0, 0), "{kernel}: {} registers", r.registers);
        }
    }
}

/// An op and its further inputs for a case of `tests/golden/make_half.py`.
fn op_of(case: &str) -> (Box<dyn tempra::ops::Op>, Vec<Vec<u32>>) {
    use tempra::ops::{add_norm::AddNorm, attention::Attention, linear::Linear};
    let attention = |heads, d: f32| Attention { heads, scale: 1.0 / d.sqrt(), dropout: None, window: None };
    match case {
        "linear" | "linear_deep" => (Box::new(Linear { act: Activation::None }), vec![]),
        "linear_gelu" => (Box::new(Linear { act: Activation::GeluErf }), vec![]),
        "linear_gelu_tanh" => (Box::new(Linear { act: Activation::GeluTanh }), vec![]),
        "add_norm" => (Box::new(AddNorm { eps: 1e-5, residual: true, before: None, after: None }), vec![]),
        "attention" => (Box::new(attention(2, 32.0)), vec![vec![0, 33, 97, 102]]),
        "attention_wide" => (Box::new(attention(1, 64.0)), vec![vec![0, 130]]),
        _ => panic!("no op for {case}"),
    }
}

/// In 16 bits no output and no gradient is further from f64 than twice what plain PyTorch in the same type is
/// from it.
#[test]
fn cuda_halves_are_as_near_as_pytorch_or_twice_as_far() {
    use tempra::ops::{Backward, Forward, Grad};
    if device("cuda").is_none() {
        return;
    }
    let folder = crate::support::golden("half");
    let table = crate::support::json(&folder.join("errors.json"));
    let (mut seen, mut worst) = (0, (0.0, String::new()));
    for (name, theirs) in table["cases"].as_object().unwrap() {
        let (case, kind) = name.rsplit_once('-').unwrap();
        let dtype = if kind == "bf16" { DType::BF16 } else { DType::F16 };
        let Ok(half) = Device::open("cuda", 0).and_then(|d| d.with_compute(dtype)) else { continue };
        let (op, ints) = op_of(case);
        let file = tempra::checkpoint::Weights::open(folder.join(format!("{name}.safetensors"))).unwrap();
        let count = theirs["dx"].as_array().unwrap().len();
        let shapes: Vec<Vec<usize>> =
            (0..count).map(|i| file.get(&format!("x{i}")).unwrap().shape.to_vec()).collect();
        let run = |device: &Device, dtype: DType| {
            let put = |name: &str, shape: &[usize]| {
                device.upload_reals(dtype, shape, &crate::support::tensor(&file, name)).unwrap()
            };
            let mut x: Vec<_> = shapes.iter().enumerate().map(|(i, s)| put(&format!("x{i}"), s)).collect();
            x.extend(ints.iter().map(|v| device.upload(DType::U32, &[v.len()], v).unwrap()));
            let specs: Vec<&Spec> = x.iter().map(|t| &t.spec).collect();
            let plan = op.plan(&device.caps(), &specs).unwrap();
            let y: Vec<_> =
                plan.outputs.iter().chain(&plan.saved).map(|s| device.alloc(s.clone()).unwrap()).collect();
            let (xr, yr): (Vec<_>, Vec<_>) = (x.iter().collect(), y.iter().collect());
            device.forward(&*op, Forward { x: &xr, y: &yr }).unwrap();
            let dy = put("dy", &plan.outputs[0].shape);
            let grads: Vec<_> = shapes.iter().map(|s| device.alloc(Spec::new(dtype, s)).unwrap()).collect();
            let mut dx: Vec<_> = grads.iter().map(|t| Some(Grad::new(t, false))).collect();
            dx.extend(ints.iter().map(|_| None));
            device.backward(&*op, Backward { x: &xr, y: &yr, dy: &[Some(&dy)], dx: &dx }).unwrap();
            let mut all = vec![device.read_reals(&y[0]).unwrap()];
            all.extend(grads.iter().map(|g| device.read_reals(g).unwrap()));
            all
        };
        let (truth, ours) = (run(&cpu(1), DType::F64), run(&half, dtype));
        let theirs = [vec![theirs["y"].clone()], theirs["dx"].as_array().unwrap().clone()].concat();
        for (i, (truth, ours)) in truth.iter().zip(&ours).enumerate() {
            let (error, bound) = (crate::support::relative(ours, truth), 2.0 * theirs[i].as_f64().unwrap());
            assert!(error <= bound, "{name}, result {i}: {error:.2e}, PyTorch {:.2e}", bound / 2.0);
            seen += 1;
            if error / bound > worst.0 {
                worst = (error / bound, format!("{name}, result {i}"));
            }
        }
    }
    println!("{seen} results; furthest at {:.2} of PyTorch's error: {}", 2.0 * worst.0, worst.1);
    assert!(seen >= 15, "{seen}");
}
