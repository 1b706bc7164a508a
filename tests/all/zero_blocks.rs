//! The record of where gradients are zero: training with it has the bits of training without it, and what it
//! names is left alone.

use crate::support::{bits, cpu, device};
use tempra::data::{Batch, Targets};
use tempra::device::{Device, Tensor};
use tempra::models::{Model, Options, Outputs};
use tempra::nn::{EncoderConfig, LayerShape};
use tempra::ops::adamw::AdamW;
use tempra::ops::embed::Embed;
use tempra::ops::global_norm::GlobalNorm;
use tempra::ops::update::{Segment, Update};
use tempra::ops::{Backward, Forward, Grad, ZeroBlocks};
use tempra::optim::{LossScale, Optimizer, Settings};
use tempra::rng::Rng;
use tempra::shape::{DType, Spec};
use tempra::tasks::{Classify, Mask, Task};
use tempra::train::{Scale, pass};

/// Words of the tiny model: its table begins and ends within blocks of the record, and most rows are in no
/// batch.
const VOCAB: u32 = 701;

/// Two sequences of some words; with words to be found, or with classes.
fn batch(step: u64, head: usize) -> Batch {
    let mut rng = Rng::new(3, "zero_blocks", step);
    let mut b = Batch { cu_seqlens: vec![0], head, ..Batch::default() };
    for example in 0..2 {
        for at in 0..5 + 3 * example {
            // Few of the words, others in each step, the first and the last one among them at times.
            b.ids.push((rng.below(4) * 233 + step as u32 % 3) % VOCAB);
            b.positions.push(at);
            b.types.push(example);
        }
        b.cu_seqlens.push(b.ids.len() as u32);
        b.examples.push(example);
    }
    b.targets = Targets::Class(vec![0, 1]);
    if head == 1 {
        b.masked = vec![1, 7];
        b.targets = Targets::Tokens(vec![5, 699]);
    }
    b
}

/// What is in the arenas of a model after each of some steps, bit by bit, and what each step was; with the
/// record or without it.
fn trace(device: &Device, record: bool, resumed: bool) -> Vec<Vec<u64>> {
    let shape = EncoderConfig {
        vocab: VOCAB as usize,
        positions: 40,
        hidden: 32,
        layers: vec![LayerShape::new(32, 2, 64)],
        ..EncoderConfig::default()
    };
    let classes = vec!["a".to_owned(), "b".to_owned()];
    let heads =
        vec![("one".to_owned(), Outputs::Classes(classes.clone())), ("two".to_owned(), Outputs::Tokens)];
    let mut model =
        Model::random(device, &shape, &Options { heads, training: true, ..Options::default() }).unwrap();
    let training = model.params.training.as_mut().unwrap();
    assert_eq!(
        training.zero_blocks.as_ref().unwrap().spec.len(),
        training.grad.spec.len().div_ceil(32 * 512)
    );
    if !record {
        training.zero_blocks = None;
    }
    let settings = Settings { weight_decay: 0.01, ..Settings::default() };
    let make = |model: &Model| Optimizer::with_window(device, &model.params, settings, 4).unwrap();
    let mut optimizer = make(&model);
    optimizer.loss_scale = Some(LossScale { scale: 8.0, good: 9 });
    let classify = Classify { classes, label_smoothing: 0.0, gamma: 0.0, class_weights: None };
    let mask = Mask { probability: 0.15, whole_word: false, mask: 0, vocab: VOCAB };
    let mut all = Vec::new();
    // Heads of the micro-batches of each step: the second one's decoder is the table of words. Steps recur,
    // for captured graphs.
    let steps: [&[usize]; 10] = [&[0], &[0], &[0, 0], &[1], &[0], &[0], &[1, 0], &[0, 1], &[0], &[0]];
    for (i, heads) in steps.iter().enumerate() {
        if resumed && i == 5 {
            // As a new process has it, but for its first gradients.
            let updates = optimizer.updates;
            let before = optimizer;
            optimizer = make(&model);
            for (to, from) in optimizer.states().iter().zip(before.states()) {
                device.write(&to.tensor, &device.read::<f32>(&from.tensor).unwrap()).unwrap();
            }
            optimizer.resume(device, updates).unwrap();
            optimizer.loss_scale = Some(LossScale { scale: 8.0, good: 9 });
        }
        // One step overflows, and changes nothing.
        let gradients = if i == 4 { f64::INFINITY } else { 8.0 };
        // Captured steps are of one model and one optimizer.
        let whose = (record as u64) << 40 | (resumed as u64 + (resumed && i >= 5) as u64) << 32;
        let key = heads.iter().fold(heads.len() as u64, |key, &h| key * 3 + h as u64) | whose;
        device
            .replayed(key, || {
                let mut losses = Vec::new();
                for (j, &head) in heads.iter().enumerate() {
                    let task: &dyn Task = if head == 0 { &classify } else { &mask };
                    let b = batch((7 * i + j) as u64, head);
                    let scale = Scale { loss: [0.5; 2], gradients };
                    losses.push(pass(device, &model, task, &b, Some((1, i as u64)), scale, j > 0)?.loss);
                }
                optimizer.step(device, &model.params, &losses, 1e-2)
            })
            .unwrap();
        let made = optimizer.synchronize(device).unwrap();
        assert_eq!(made[0].skipped, i == 4, "step {i}: {made:?}");
        optimizer.loss_scale = Some(LossScale { scale: 8.0, good: 9 });
        let training = model.params.training.as_ref().unwrap();
        let moments = ["exp_avg", "exp_avg_sq"].map(|name| optimizer.state(name).unwrap());
        let arenas = [&model.params.trained.value, &training.grad, moments[0], moments[1]];
        all.push(bits(&[made[0].loss, made[0].norm]));
        all.extend(arenas.map(|t| bits(&device.read_reals(t).unwrap())));
        if let Some(zero_blocks) = &training.zero_blocks {
            let set: u32 = device.read::<u32>(zero_blocks).unwrap().iter().map(|w| w.count_ones()).sum();
            // The tables have 43 and 2 whole blocks; a batch has five rows at most, and the decoder all.
            let (from, to) = if heads.contains(&1) { (0, 2) } else { (33, 43) };
            let kept = !matches!(device, Device::Wgpu(_));
            assert!(if kept { (from..=to).contains(&set) } else { set == 0 }, "step {i}: {set} zero blocks");
        }
    }
    all
}

#[test]
fn training_with_the_record_has_the_bits_of_training_without_it() {
    let mut devices = vec![("cpu", cpu(2))];
    devices.extend(["cuda", "wgpu"].into_iter().filter_map(|name| Some((name, device(name)?))));
    for dtype in [DType::BF16, DType::F16] {
        let half = Device::open("cuda", 0).and_then(|d| d.with_compute(dtype));
        if let (Ok(half), true) = (half, devices.len() < 4) {
            devices.push(("cuda in 16 bits", half));
        }
    }
    for (name, device) in &devices {
        for resumed in [false, true] {
            // The emulator needs seconds for a step; a resumed run has nothing of its own there.
            if resumed && *name != "cpu" {
                continue;
            }
            let (with, without) = (trace(device, true, resumed), trace(device, false, resumed));
            let first = with.iter().zip(&without).position(|(a, b)| a != b);
            assert_eq!(first.map(|i| (i / 5, i % 5)), None, "{name}: step and arena that differ");
            assert!(with[0] != with[5], "{name}: steps differ");
        }
    }
}

/// A tensor of numbers that are zero but for some; NaN in blocks that are marked as zero, which nobody may
/// read.
fn poisoned(device: &Device, n: usize, marked: &[usize]) -> (Tensor, Tensor) {
    let mut rng = Rng::new(5, "poison", 0);
    let mut g: Vec<f32> = (0..n).map(|_| rng.normal() as f32).collect();
    let mut words = vec![0u32; ZeroBlocks::words(n)];
    for &block in marked {
        g[block * ZeroBlocks::BLOCK..(block + 1) * ZeroBlocks::BLOCK].fill(f32::NAN);
        words[block / 32] |= 1 << (block % 32);
    }
    (device.upload(DType::F32, &[n], &g).unwrap(), device.upload(DType::U32, &[words.len()], &words).unwrap())
}

#[test]
fn what_is_marked_is_neither_read_nor_zeroed() {
    for device in [Some(cpu(2)), device("cuda")].into_iter().flatten() {
        let n = 40 * ZeroBlocks::BLOCK + 77;
        let marked = [0, 3, 15, 16, 31, 32, 38];
        let (g, zero_blocks) = poisoned(&device, n, &marked);
        let norm = device.zeros(DType::F32, &[1]).unwrap();
        device.step(&GlobalNorm, &[&g, &norm, &zero_blocks]).unwrap();
        let length = device.read::<f32>(&norm).unwrap()[0];
        let squares = |v: Vec<f32>| v.iter().filter(|v| !v.is_nan()).map(|v| (v * v) as f64).sum::<f64>();
        let expected = squares(device.read::<f32>(&g).unwrap()).sqrt();
        assert!((f64::from(length) - expected).abs() < 1e-4 * expected, "{length} for {expected}");

        // Blocks of the update that are those of the record, and some that lie across two of them: read
        // unless both are marked.
        for shift in [0, 64] {
            let segment = |len| Segment { len, decay: 0.0, lr_scale: 1.0, frozen: false };
            let segments = [segment(shift), segment(n - shift)];
            let op = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, max_norm: 1.0, segments: segments.into() };
            let words = op.live().len();
            let ones = |n: usize| device.upload(DType::F32, &[n], &vec![1f32; n]).unwrap();
            let control = device.upload(DType::F32, &[5], &[length, 0.1, 1.0, 0.1, 0.001]).unwrap();
            let live = device.upload(DType::U32, &[words], &vec![!0u32; words]).unwrap();
            let (value, m, v) = (ones(n), ones(n), ones(n));
            device.step(&op, &[&value, &g, &control, &live, &m, &v, &zero_blocks]).unwrap();
            for (at, m) in device.read::<f32>(&m).unwrap().into_iter().enumerate() {
                let first = if at < shift { 0 } else { at - (at - shift) % ZeroBlocks::BLOCK };
                let last = if at < shift { shift - 1 } else { (first + ZeroBlocks::BLOCK - 1).min(n - 1) };
                let is_marked = |at: usize| marked.contains(&(at / ZeroBlocks::BLOCK));
                let skipped = is_marked(first) && is_marked(last);
                assert_eq!(m.is_nan(), is_marked(at) && !skipped, "{}: {at}", device.caps().name);
                assert!(!skipped || (m - 0.9).abs() < 1e-6, "a gradient of zero: {m}");
            }
        }
    }
}

#[test]
fn a_table_is_zeroed_where_it_was_written_and_nowhere_else() {
    for device in [Some(cpu(2)), device("cuda")].into_iter().flatten() {
        for (rows, cols, first) in [(300, 24, 192), (61, 37, 64), (5, 1100, 16320)] {
            let index: Vec<u32> = (0..70).map(|i| [0, 3, 3, rows - 1][i % 4]).collect();
            let op = Embed { first_position: 0 };
            let n = (rows * cols) as usize;
            let upload = |shape: &[usize], v: &[f32]| device.upload(DType::F32, shape, v).unwrap();
            let ids = device.upload(DType::U32, &[70], &index).unwrap();
            let table = upload(&[rows as usize, cols as usize], &vec![0.5; n]);
            let y = device.alloc(Spec::new(DType::F32, &[70, cols as usize])).unwrap();
            device.forward(&op, Forward { x: &[&ids, &table], y: &[&y] }).unwrap();
            let dy = upload(&[70, cols as usize], &vec![1.0; 70 * cols as usize]);
            let arena = upload(&[first + n + 99], &vec![7f32; first + n + 99]);
            let g = arena.view(first, &[rows as usize, cols as usize]).unwrap();
            // Of the blocks that lie in the table wholly the second is marked, though it holds no zeros: it
            // must keep them.
            let whole = first.div_ceil(ZeroBlocks::BLOCK)..(first + n) / ZeroBlocks::BLOCK;
            let kept = (whole.start + 1) * ZeroBlocks::BLOCK..(whole.start + 2) * ZeroBlocks::BLOCK;
            let touched = |at: usize| {
                let row = (at as i64 - first as i64).div_euclid(i64::from(cols));
                [0, 3, i64::from(rows) - 1].contains(&row)
            };
            let mut words = vec![0u32; ZeroBlocks::words(first + n + 99)];
            let untouched = whole.len() > 2 && !kept.clone().any(touched);
            if untouched {
                words[kept.start / ZeroBlocks::WORD] |= 1 << (kept.start / ZeroBlocks::BLOCK % 32);
            }
            let bits = device.upload(DType::U32, &[words.len()], &words).unwrap();
            let zero_blocks = ZeroBlocks { bits: bits.clone(), first };
            for add in [false, true] {
                let dx = [None, Some(Grad { zero_blocks: Some(&zero_blocks), ..Grad::new(&g, add) })];
                let io = Backward { x: &[&ids, &table], y: &[&y], dy: &[Some(&dy)], dx: &dx };
                device.backward(&op, io).unwrap();
                let times = if add { 2.0 } else { 1.0 };
                for (at, &v) in device.read::<f32>(&arena).unwrap().iter().enumerate() {
                    let row = at.checked_sub(first).map(|e| (e / cols as usize) as u32);
                    let expected = match row.filter(|&row| row < rows) {
                        None => 7.0,
                        Some(_) if untouched && kept.contains(&at) => 7.0,
                        Some(row) => times * index.iter().filter(|&&i| i == row).count() as f32,
                    };
                    assert_eq!(v, expected, "{rows} x {cols}, element {at}, add {add}");
                }
                for (block, expected) in (0..32 * words.len()).map(|block| {
                    let range = block * ZeroBlocks::BLOCK..(block + 1) * ZeroBlocks::BLOCK;
                    (block, whole.contains(&block) && !range.clone().any(touched))
                }) {
                    let word = device.read::<u32>(&bits).unwrap()[block / 32];
                    assert_eq!(word >> (block % 32) & 1 == 1, expected, "{rows} x {cols}, block {block}");
                }
            }
        }
    }
}

/// What the record saves of a step of MiniLM-L6 on this CPU: times of the ops that touch the vocabulary's
/// gradient, with and without it in turn. Run it alone:
/// `cargo test --test all -- --ignored --nocapture vocabulary`.
#[test]
#[ignore = "a measurement"]
fn what_the_record_saves_of_the_vocabulary_gradient() {
    use tempra::device::Pass;
    let device = cpu(0);
    let shape = EncoderConfig {
        hidden: 384,
        layers: vec![LayerShape::new(384, 12, 1536); 6],
        ..EncoderConfig::default()
    };
    let classes = vec!["a".to_owned(), "b".to_owned()];
    let outputs = Some(Outputs::Classes(classes.clone()));
    let options = Options { outputs, training: true, ..Options::default() };
    let mut model = Model::random(&device, &shape, &options).unwrap();
    let settings = Settings { weight_decay: 0.01, ..Settings::default() };
    let mut optimizer = Optimizer::new(&device, &model.params, settings).unwrap();
    let task = Classify { classes, label_smoothing: 0.0, gamma: 0.0, class_weights: None };
    let mut rng = Rng::new(8, "measure", 0);
    let mut some = || {
        let mut b = Batch { cu_seqlens: vec![0], ..Batch::default() };
        for example in 0..32u32 {
            for at in 0..28 {
                // Ranks as Zipf's law has them.
                b.ids.push((30521f64.powf(rng.uniform()) as u32).min(30521));
                b.positions.push(at);
            }
            b.cu_seqlens.push(b.ids.len() as u32);
            b.examples.push(example);
        }
        b.types = vec![0; b.ids.len()];
        b.targets = Targets::Class((0..32).map(|example| example % 2).collect());
        b
    };
    let words = model.params.training.as_ref().unwrap().zero_blocks.as_ref().unwrap().spec.len();
    let mut times: [[Vec<f64>; 5]; 2] = Default::default();
    for round in 0..8 {
        // A fresh record knows nothing: the first step after a change fills it in.
        let record = round % 2;
        let training = model.params.training.as_mut().unwrap();
        training.zero_blocks = (record == 1).then(|| device.zeros(DType::U32, &[words]).unwrap());
        for i in 0..6u64 {
            let batch = some();
            let run = || {
                let passed = pass(&device, &model, &task, &batch, Some((0, i)), 1.0 / 32.0, false)?;
                optimizer.step(&device, &model.params, &[passed.loss], 1e-5)
            };
            let begun = std::time::Instant::now();
            let ((), timed) = device.profiled(run).unwrap();
            let whole = begun.elapsed().as_secs_f64();
            optimizer.synchronize(&device).unwrap();
            let of = |op: &str, pass: Pass| {
                timed.iter().filter(|t| t.op == op && t.pass == pass).map(|t| t.seconds).sum::<f64>()
            };
            let parts = [of("embed", Pass::Backward), of("global_norm", Pass::Step), of("adamw", Pass::Step)];
            if round > 1 && i > 0 {
                let all = [parts[0], parts[1], parts[2], parts.iter().sum(), whole];
                times[record].iter_mut().zip(all).for_each(|(list, t)| list.push(t));
            }
        }
    }
    let medians = times.map(|parts| {
        parts.map(|mut v: Vec<f64>| {
            v.sort_by(f64::total_cmp);
            v[v.len() / 2] * 1e3
        })
    });
    for (i, what) in ["embed backward", "norm", "adamw", "these together", "step"].iter().enumerate() {
        let [before, after] = [medians[0][i], medians[1][i]];
        println!("{what:<15} {before:8.2} ms swept  {after:8.2} ms with the record  {:.2} x", before / after);
    }
    assert!(medians[1][3] < medians[0][3], "the record costs more than it saves: {medians:?}");
}
