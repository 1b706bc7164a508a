//! Training through Vulkan, Metal or DX12 against training on the CPU. Needs an adapter; `tests/software-vulkan` brings one.

use crate::support::{aloud, cpu, golden, open};
use tempra::data::Batch;
use tempra::device::Device;
use tempra::models::{Options, Outputs};
use tempra::optim::{Optimizer, Settings};
use tempra::rng::Stream;
use tempra::shape::DType;
use tempra::tape::Tape;
use tempra::tasks::{self, Classify, Task};

/// A ragged batch of the tiny model; the class is told by one token.
fn batch(step: u64) -> Batch {
    let mut rng = Stream::new(9, "wgpu", step);
    let mut batch = Batch { cu_seqlens: vec![0], ..Batch::default() };
    for example in 0..6 {
        let (length, class) = (3 + rng.below(14), rng.below(2));
        for at in 0..length {
            batch.ids.push(if at == 1 { 50 + class } else { 60 + rng.below(100) });
            batch.positions.push(at);
            batch.types.push(0);
        }
        batch.cu_seqlens.push(batch.ids.len() as u32);
        batch.classes.push(class);
        batch.examples.push(example);
    }
    batch
}

/// The losses of fifty steps of AdamW, dropout on.
fn losses(device: &Device) -> Vec<f32> {
    let classes = vec!["a".to_owned(), "b".to_owned()];
    let outputs = Some(Outputs::Classes(classes.clone()));
    let options = Options {
        outputs,
        training: true,
        dropout: Some(0.1),
        attention_dropout: Some(0.1),
        ..Options::default()
    };
    let (model, _) = open(device, &golden("bert/a"), &options);
    let settings = Settings { weight_decay: 0.01, ..Settings::default() };
    let mut optimizer = Optimizer::new(device, &model.params, settings).unwrap();
    let task = Classify { classes, label_smoothing: 0.0, class_weights: None };
    let mut losses = Vec::new();
    for step in 0..50 {
        let batch = batch(step);
        let mut tape = Tape::new(device);
        let bound = model.params.bind(&mut tape, false).unwrap();
        let x = tasks::inputs(&mut tape, &batch, Some((1, step))).unwrap();
        let logits = model.logits(&mut tape, &bound, &x).unwrap();
        let loss = task.loss(&mut tape, logits, &batch, 1.0 / batch.len() as f64).unwrap();
        losses.push(device.read::<f32>(tape.value(loss).unwrap()).unwrap()[0]);
        tape.backward(loss, device.upload(DType::F32, &[1], &[1f32]).unwrap()).unwrap();
        optimizer.measure(device, &model.params).unwrap();
        optimizer.update(device, &model.params, 1e-3).unwrap();
    }
    losses
}

/// The adapter, or `None` said aloud.
fn adapter() -> Option<Device> {
    let required = std::env::var("TEMPRA_REQUIRE").unwrap_or_default();
    match Device::open("wgpu", 0) {
        Ok(device) => Some(device),
        Err(e) if required.split(',').any(|r| r.trim() == "wgpu") => panic!("{e}"),
        Err(e) => {
            aloud(&format!("no adapter, so training through wgpu was not tried: {e}"));
            None
        }
    }
}

#[test]
fn wgpu_trains_as_the_cpu_does() {
    let Some(device) = adapter() else { return };
    let (here, there) = (losses(&cpu(2)), losses(&device));
    let worst = here.iter().zip(&there).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("losses {:.4} -> {:.4}, largest difference over 50 steps {worst:.1e}", here[0], here[49]);
    assert!(here[49] < 0.5 * here[0], "it learns: {here:?}");
    assert!(worst <= 1e-3, "cpu {here:?}\nwgpu {there:?}");
}

#[test]
fn wgpu_allocates_nothing_once_warm() {
    let Some(device) = adapter() else { return };
    let Device::Wgpu(gpu) = &device else { panic!("another device") };
    let step = |x: &tempra::device::Tensor, w: &tempra::device::Tensor| {
        let mut tape = Tape::new(&device);
        let (x, w) = (tape.constant(x.clone()), tape.constant(w.clone()));
        let act = tempra::ops::linear::Activation::GeluErf;
        tape.apply(tempra::ops::linear::Linear { act }, &[x, w]).unwrap();
    };
    let upload =
        |shape: &[usize]| device.upload(DType::F32, shape, &vec![0.5f32; shape.iter().product()]).unwrap();
    let (x, w) = (upload(&[70, 33]), upload(&[90, 33]));
    step(&x, &w);
    let before = gpu.stats();
    (0..5).for_each(|_| step(&x, &w));
    let after = gpu.stats();
    assert_eq!((after.allocations, after.reads), (before.allocations, before.reads));
    assert_eq!(after.launches, before.launches + 5);
}
