//! Training through Vulkan, Metal or DX12 against training on the CPU. Needs an adapter;
//! `tests/software-vulkan` brings one.

use crate::learner::{Job, batch, losses};
use crate::support::{adapter, cpu};
use tempra::device::{Device, Tensor};
use tempra::error::Kind;
use tempra::ops::cross_entropy::{CrossEntropy, IGNORE};
use tempra::ops::embed::Embed;
use tempra::ops::{Forward, UPDATE_RULES};
use tempra::optim::{Optimizer, Settings};
use tempra::params::{Layout, Params};
use tempra::parity::Certificate;
use tempra::rng::Rng;
use tempra::shape::{DType, Spec};
use tempra::tape::Tape;

#[test]
fn wgpu_trains_as_the_cpu_does() {
    let Some(device) = adapter() else { return };
    let (here, there) = (losses(&cpu(2), 1), losses(&device, 8));
    let worst = here.iter().zip(&there).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    println!("losses {:.4} -> {:.4}, largest difference over 50 steps {worst:.1e}", here[0], here[49]);
    assert!(here[49] < 0.5 * here[0], "it learns: {here:?}");
    assert!(worst <= 1e-3, "cpu {here:?}\nwgpu {there:?}");
}

#[test]
fn a_warm_step_allocates_and_reads_nothing() {
    let Some(device) = adapter() else { return };
    let Device::Wgpu(gpu) = &device else { panic!("another device") };
    let mut job = Job::new(&device, 16);
    let same = batch(0);
    job.step(&same);
    let before = gpu.stats();
    (0..10).for_each(|_| assert!(job.step(&same).is_empty()));
    let after = gpu.stats();
    println!("ten warm steps: {before:?} -> {after:?}");
    assert_eq!((after.allocations, after.reads), (before.allocations, before.reads));
    assert!(after.launches > before.launches);
    assert_eq!(job.synchronize().len(), 11);
    assert_eq!(gpu.stats().reads, before.reads + 1, "one read-back for eleven losses and norms");
}

#[test]
fn a_lost_device_is_an_error_that_says_so() {
    let Some(device) = adapter() else { return };
    let mut job = Job::new(&device, 1);
    job.step(&batch(0));
    let Device::Wgpu(gpu) = &device else { panic!("another device") };
    gpu.lose();
    let values = &job.model.params.trained.value;
    let e = device.read::<f32>(values).expect_err("there is no device");
    assert_eq!((e.kind(), e.exit_code()), (Kind::Lost, 75), "{e}");
    let e = device.zero(values).and_then(|()| device.read::<f32>(values)).expect_err("it stays lost");
    assert_eq!(e.kind(), Kind::Lost, "{e}");
}

/// An optimizer's update of arenas that are larger than one binding may be, cut into several launches, is the
/// same.
#[test]
fn wgpu_updates_in_several_launches_are_the_same() {
    if adapter().is_none() {
        return;
    }
    let update = |device: Device, rule| {
        let mut layout = Layout::default();
        layout.add("embeddings", &[3000, 701]);
        layout.add("bias", &[77]);
        layout.add("frozen", &[90, 301]);
        layout.add("last", &[1000, 11]);
        layout.freeze(&["frozen".into()]).unwrap();
        let params = Params::new(&device, layout, DType::F32, true).unwrap();
        let mut rng = Rng::new(5, "adamw", 0);
        let n = params.spec().len();
        let g: Vec<f32> = (0..n).map(|i| if i % 3000 < 2000 { rng.normal() as f32 } else { 0.0 }).collect();
        device.write(&params.training.as_ref().unwrap().grad, &g).unwrap();
        device.write(&params.trained.value, &g).unwrap();
        let max_grad_norm = 0.0;
        let settings =
            Settings { rule, momentum: 0.9, weight_decay: 0.1, max_grad_norm, ..Settings::default() };
        let mut optimizer = Optimizer::new(&device, &params, settings).unwrap();
        for _ in 0..2 {
            optimizer.step(&device, &params, &[], 0.01).unwrap();
            optimizer.synchronize(&device).unwrap();
        }
        let launches = if let Device::Wgpu(gpu) = &device { gpu.stats().launches } else { 0 };
        (device.read::<f32>(&params.trained.value).unwrap(), launches)
    };
    let open = || tempra::device::Wgpu::new(0).unwrap();
    for rule in UPDATE_RULES {
        let (whole, one) = update(Device::Wgpu(open()), rule);
        let (cut, several) = update(Device::Wgpu(open().with_bindings(5 << 20)), rule);
        assert!(several > one, "{rule:?}: {several} launches, {one} with larger bindings");
        assert!(whole == cut, "{rule:?}: the values differ");
    }
}

/// The CPU refuses indices that no table has; a kernel cannot, so they make the result no number and touch
/// nothing else.
#[test]
fn wgpu_indices_out_of_range_show() {
    let Some(device) = adapter() else { return };
    let ints = |v: &[u32]| device.upload(DType::U32, &[v.len()], v).unwrap();
    let table = |rows: usize| device.upload(DType::F32, &[rows, 4], &vec![0.25f32; rows * 4]).unwrap();
    let embed = |ids: &[u32]| {
        let x = [ints(ids), ints(&[0, 1]), ints(&[0, 0]), table(5), table(2), table(1)];
        let y = device.alloc(Spec::new(DType::F32, &[2, 4])).unwrap();
        let x: Vec<&Tensor> = x.iter().collect();
        device.forward(&Embed { first_position: 0 }, Forward { x: &x, y: &[&y] }).unwrap();
        device.read::<f32>(&y).unwrap()
    };
    assert_eq!(embed(&[4, 0]), [0.75; 8]);
    let found = embed(&[4, 5]);
    assert!(found[..4] == [0.75; 4] && found[4..].iter().all(|v| v.is_nan()), "{found:?}");
    assert!(embed(&[u32::MAX, 0])[..4].iter().all(|v| v.is_nan()));
    let loss = |label: u32| {
        let logits = device.upload(DType::F32, &[1, 3], &[0.0f32; 3]).unwrap();
        let mut tape = Tape::new(&device);
        let (logits, label) = (tape.constant(logits), tape.constant(ints(&[label])));
        let op = CrossEntropy { label_smoothing: 0.0, ignore_index: IGNORE, weighted: false, gamma: 0.0 };
        let scale = tape.constant(device.upload(DType::F32, &[1], &[1f32]).unwrap());
        let y = tape.apply(op, [logits, label, scale]).unwrap();
        device.read::<f32>(y.value()).unwrap()[0]
    };
    assert!((loss(2) - 3f32.ln()).abs() < 1e-6);
    assert!(loss(3).is_nan());
}

#[test]
fn wgpu_matmuls_in_f16_get_a_certificate_of_their_own() {
    let Some(gpu) = adapter() else { return };
    let Ok(half) = gpu.with_compute(DType::F16) else { return };
    let certificate = Certificate::issue(&half, |_| ()).unwrap();
    assert!(certificate.passed(), "{:#}", certificate.to_json());
    assert!(certificate.device.contains("f16"), "{}", certificate.device);
    for row in &certificate.rows {
        assert_eq!(row.dtype, if row.op == "linear" { "f16" } else { "f32" }, "{row:?}");
    }
    // Rounding to f16 shows: a path that quietly stayed in f32 would be nearer.
    let worst =
        certificate.rows.iter().filter(|r| r.op == "linear").filter_map(|r| r.forward).fold(0.0, f64::max);
    assert!(worst > 1e-5, "{worst:e}");
}
