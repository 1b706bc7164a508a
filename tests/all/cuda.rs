//! Training through CUDA against training on the CPU: on a card, or on the emulator, which `tests/emulated-cuda` brings.

use crate::learner::{Job, batch, losses};
use crate::support::{cpu, device};
use tempra::device::{Cuda, Device};
use tempra::ops::round::Round;
use tempra::ops::rounded;
use tempra::optim::{Optimizer, Settings};
use tempra::params::{Layout, Params};
use tempra::rng::Stream;
use tempra::shape::{DType, Spec};

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
    losses.extend(job.settle());
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
        let Device::Cuda(card) = device else { panic!("another device") };
        let mut losses = Vec::new();
        // Batches of one size, not of the same content.
        let mut batches: Vec<_> = (0..6).map(batch).collect();
        batches.retain(|b| b.ids.len() <= 64);
        assert!(batches.len() >= 4, "{}", batches.len());
        for b in &batches[..3] {
            losses.extend(job.step(b));
        }
        let before = card.stats();
        for b in batches.iter().cycle().take(5) {
            losses.extend(job.step(b));
        }
        let after = card.stats();
        losses.extend(job.settle());
        (losses, before, after)
    };
    let (one, _, _) = run(&direct);
    let (other, before, after) = run(&replaying);
    println!("five recorded steps: {before:?} -> {after:?}");
    assert_eq!(after.graphs, before.graphs + 5);
    let rest = |s: tempra::device::cuda::CudaStats| (s.launches, s.allocations, s.reads, s.waits);
    assert_eq!(rest(after), rest(before));
    assert_eq!(after.writes, before.writes + 5, "one copy a step");
    assert_eq!(one, other, "a recorded step gives the bits of the same kernels launched one by one");
}

/// Copies of the weights in 16 bits are the weights rounded to nearest, even: those that the host asks for, and those that
/// AdamW writes beside its update, which they do not change.
#[test]
fn cuda_copies_of_the_weights_are_the_weights_rounded() {
    let Some(device) = device("cuda") else { return };
    for dtype in device.caps().dtypes.iter().copied().filter(|d| d.size() == 2) {
        let mut rng = Stream::new(4, "round", 0);
        let mut v: Vec<f32> = (0..4099).map(|_| (rng.normal() * 3.0) as f32).collect();
        // Halfway between two numbers of each type, the largest numbers, what is too small and too large for f16.
        v.extend([
            1.00390625,
            1.01171875,
            1.00048828125,
            1.00146484375,
            65504.0,
            65520.0,
            1e-7,
            -1e-9,
            3e38,
            0.0,
        ]);
        let value = device.upload(DType::F32, &[v.len()], &v).unwrap();
        let copy = device.alloc(Spec::new(dtype, &[v.len()])).unwrap();
        device.step(&Round, &[&value, &copy]).unwrap();
        let expected: Vec<f64> = v.iter().map(|&v| rounded(dtype, f64::from(v))).collect();
        assert!(device.read_reals(&copy).unwrap() == expected, "{dtype:?}");

        let mut updated = Vec::new();
        for compute in [DType::F32, dtype] {
            let device = Device::open("cuda", 0).unwrap().with_compute(compute).unwrap();
            let mut layout = Layout::default();
            layout.add("embeddings", &[37, 701]);
            layout.add("bias", &[77]);
            layout.add("frozen", &[9, 301]);
            layout.freeze(&["frozen".into()]).unwrap();
            let params = Params::new(&device, layout, DType::F32, true).unwrap();
            let mut rng = Stream::new(5, "adamw", 0);
            let n = params.spec().len();
            let g: Vec<f32> =
                (0..n).map(|i| if i % 3000 < 2000 { rng.normal() as f32 } else { 0.0 }).collect();
            device.write(&params.training.as_ref().unwrap().grad, &g).unwrap();
            device.write(&params.value, &g).unwrap();
            params.refresh(&device).unwrap();
            let settings = Settings { weight_decay: 0.1, ..Settings::default() };
            let mut optimizer = Optimizer::new(&device, &params, settings).unwrap();
            for _ in 0..2 {
                optimizer.step(&device, &params, &[], 0.01).unwrap();
                optimizer.settle(&device).unwrap();
            }
            let values = device.read_reals(&params.value).unwrap();
            if let Some(copy) = &params.copy {
                let expected: Vec<f64> = values.iter().map(|&v| rounded(dtype, v)).collect();
                assert!(device.read_reals(copy).unwrap() == expected, "{dtype:?} beside AdamW");
            }
            updated.push(values);
        }
        assert!(updated[0] == updated[1], "the copy changes the update");
    }
}
