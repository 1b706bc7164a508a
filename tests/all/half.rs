//! Training on the CPU in bf16 and f16 against training in f32.

use crate::learner::{losses, other_losses};
use crate::support::{cpu, device};
use tempra::device::Device;
use tempra::ops::UPDATE_RULES;
use tempra::ops::cast::Cast;
use tempra::ops::rounded;
use tempra::ops::update::UpdateRule;
use tempra::optim::{Optimizer, Settings};
use tempra::params::{Layout, Params};
use tempra::rng::Rng;
use tempra::shape::{DType, Spec};

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Losses of every architecture whose ops differ, dropout on: near those of f32, and the same bits with
/// another number of threads.
#[test]
fn the_cpu_trains_in_16_bits_as_in_f32() {
    let single = (losses(&cpu(2), 1), other_losses(&cpu(2), 8));
    for (dtype, bound) in [(DType::BF16, 0.02), (DType::F16, 0.004)] {
        let run = |threads| {
            let device = cpu(threads).with_compute(dtype).unwrap();
            (losses(&device, 1), other_losses(&device, 8))
        };
        let half = run(2);
        let apart = furthest(&half.0[..12], &single.0[..12]);
        println!("{dtype:?}: largest difference {apart:.1e}");
        assert!(apart <= bound && apart > 0.0, "f32 {:?}\n{dtype:?} {:?}", single.0, half.0);
        for (one, other) in half.1.iter().zip(&single.1) {
            let apart = furthest(one, other);
            println!("{dtype:?}: largest difference {apart:.1e}");
            assert!(apart <= bound && apart > 0.0, "f32 {other:?}\n{dtype:?} {one:?}");
        }
        assert!(half == run(1), "{dtype:?}: the number of threads shows in the losses");
    }
}

#[test]
fn copies_of_the_weights_on_the_cpu_are_the_weights_rounded() {
    copies_are_the_weights_rounded("cpu");
}

/// Copies of the weights in 16 bits are the weights rounded to nearest, even: those that the host asks for,
/// and those that optimizers write beside their updates, which they do not change.
pub fn copies_are_the_weights_rounded(kind: &str) {
    let Some(device) = device(kind) else { return };
    for dtype in device.caps().dtypes.iter().copied().filter(|d| d.size() == 2) {
        let mut rng = Rng::new(4, "cast", 0);
        let mut v: Vec<f32> = (0..4099).map(|_| (rng.normal() * 3.0) as f32).collect();
        // Halfway between two numbers of each type, the largest numbers, what is too small and too large for
        // f16.
        v.extend([
            1.0 + 2f32.powi(-8),
            1.0 + 3.0 * 2f32.powi(-8),
            1.0 + 2f32.powi(-11),
            1.0 + 3.0 * 2f32.powi(-11),
        ]);
        v.extend([65504.0, 65520.0, 1e-7, -1e-9, 3e38, 0.0]);
        let value = device.upload(DType::F32, &[v.len()], &v).unwrap();
        let copy = device.alloc(Spec::new(dtype, &[v.len()])).unwrap();
        device.step(&Cast, &[&value, &copy]).unwrap();
        let expected: Vec<f64> = v.iter().map(|&v| rounded(dtype, f64::from(v))).collect();
        assert!(device.read_reals(&copy).unwrap() == expected, "{dtype:?}");

        for (rule, momentum) in UPDATE_RULES.iter().flat_map(|rule| [(rule, 0.0), (rule, 0.9)]) {
            let [alone, beside] = [DType::F32, dtype].map(|compute| updated(kind, compute, rule, momentum));
            assert!(alone == beside, "{rule:?}: the copy changes the update");
        }
    }
}

/// Values after two updates, their copy in a 16-bit type checked.
fn updated(kind: &str, compute: DType, rule: &'static UpdateRule, momentum: f32) -> Vec<f64> {
    let device = Device::open(kind, 0).unwrap().with_compute(compute).unwrap();
    let mut layout = Layout::default();
    layout.add("embeddings", &[37, 701]);
    layout.add("bias", &[77]);
    layout.add("frozen", &[9, 301]);
    layout.freeze(&["frozen".into()]).unwrap();
    let params = Params::new(&device, layout, DType::F32, true).unwrap();
    let mut rng = Rng::new(5, "adamw", 0);
    let n = params.spec().len();
    let g: Vec<f32> = (0..n).map(|i| if i % 3000 < 2000 { rng.normal() as f32 } else { 0.0 }).collect();
    device.write(&params.training.as_ref().unwrap().grad, &g).unwrap();
    device.write(&params.trained.value, &g).unwrap();
    let frozen = params.frozen.as_ref().unwrap();
    let held: Vec<f32> = (0..frozen.value.spec.len()).map(|_| rng.normal() as f32).collect();
    device.write(&frozen.value, &held).unwrap();
    params.refresh(&device).unwrap();
    let settings = Settings { rule, momentum, weight_decay: 0.1, ..Settings::default() };
    let mut optimizer = Optimizer::new(&device, &params, settings).unwrap();
    for _ in 0..2 {
        optimizer.step(&device, &params, &[], 0.01).unwrap();
        optimizer.synchronize(&device).unwrap();
    }
    let values = device.read_reals(&params.trained.value).unwrap();
    assert_eq!(device.read::<f32>(&frozen.value).unwrap(), held, "what is frozen moved");
    if let Some(copy) = &frozen.copy {
        let expected: Vec<f64> = held.iter().map(|&v| rounded(compute, f64::from(v))).collect();
        assert!(device.read_reals(copy).unwrap() == expected, "{compute:?} of what is frozen");
    }
    assert_eq!(params.trained.copy.is_some(), compute != DType::F32);
    if let Some(copy) = &params.trained.copy {
        let expected: Vec<f64> = values.iter().map(|&v| rounded(compute, v)).collect();
        assert!(device.read_reals(copy).unwrap() == expected, "{compute:?} beside {rule:?}");
    }
    values
}
