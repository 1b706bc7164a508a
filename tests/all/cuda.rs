//! Training through CUDA against training on the CPU: on a card, or on the emulator, which `tests/emulated-cuda` brings.

use crate::learner::{Job, batch, losses};
use crate::support::{cpu, device};
use tempra::device::{Cuda, Device};
use tempra::shape::DType;

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
