//! Losses against what their papers say, written out here.

use crate::support::{cpu, upload};
use tempra::device::Device;
use tempra::ops::binary_cross_entropy::BinaryCrossEntropy;
use tempra::ops::cross_entropy::{CrossEntropy, IGNORE};
use tempra::shape::DType;
use tempra::tape::Tape;

/// The loss of the op on the CPU, in f64.
fn found(device: &Device, op: CrossEntropy, logits: &[f64], target: &[u32], weights: &[f64]) -> f64 {
    let rows = target.len();
    let mut tape = Tape::new(device);
    let logits = device.upload(DType::F64, &[rows, logits.len() / rows], logits).unwrap();
    let labels = device.upload(DType::U32, &[rows], target).unwrap();
    let mut x = vec![logits, labels, upload(device, DType::F64, &[1.0])];
    if op.weighted {
        x.push(upload(device, DType::F64, weights));
    }
    let x: Vec<_> = x.into_iter().map(|t| tape.constant(t)).collect();
    let y = tape.apply(op, x).unwrap();
    device.read_reals(y.value()).unwrap()[0]
}

#[test]
fn focal_loss_is_that_of_the_paper() {
    let device = cpu(1);
    let op = CrossEntropy { label_smoothing: 0.0, ignore_index: IGNORE, weighted: false, gamma: 2.0 };
    // p = 1/4, 3/4: of the first -(1 - 1/4)^2 ln 1/4, of the second -(1 - 3/4)^2 ln 3/4 (Lin et al. 2017, eq.
    // 4).
    let logits = [0.0, 3f64.ln()];
    let one = found(&device, op, &logits, &[0], &[]);
    assert!((one - 0.5625 * 4f64.ln()).abs() < 1e-12, "{one}");
    let other = found(&device, op, &logits, &[1], &[]);
    assert!((other - 0.0625 * (4f64 / 3.0).ln()).abs() < 1e-12, "{other}");
    // What is known for sure costs nothing, however the rounding falls.
    assert_eq!(found(&device, op, &[800.0, 0.0], &[0], &[]), 0.0);

    // Weights, smoothing and an ignored row: the sum over classes of q (1 - p)^gamma (-ln p).
    let (logits, weights) = ([0.3f64, -1.2, 2.0, 0.0, 0.5, -0.7, 9.0, 9.0, 9.0], [0.5f64, 2.0, 1.25]);
    let op = CrossEntropy { label_smoothing: 0.25, weighted: true, gamma: 1.5, ..op };
    let mut expected = 0.0;
    for (row, label) in logits.chunks(3).zip([1usize, 0]) {
        let sum: f64 = row.iter().map(|z| z.exp()).sum();
        for (c, z) in row.iter().enumerate() {
            let (p, hot) = (z.exp() / sum, if c == label { 1.0 } else { 0.0 });
            expected += weights[c] * (0.75 * hot + 0.25 / 3.0) * (1.0 - p).powf(1.5) * -p.ln();
        }
    }
    let sum = found(&device, op, &logits, &[1, 0, IGNORE], &weights);
    assert!((sum - expected).abs() < 1e-12, "{sum}, expected {expected}");
}

/// Of two decisions, one right and one wrong: (1 - 3/4)^2 and (1 - 1/4)^2 of what each costs, times its
/// class's weight.
#[test]
fn focal_loss_of_decisions_is_that_of_the_paper() {
    let device = cpu(1);
    let loss = |op: BinaryCrossEntropy, targets: &[f64]| -> f64 {
        let mut tape = Tape::new(&device);
        let logits = [3f64.ln(), -(3f64.ln())];
        let put = |v: &[f64], shape: &[usize]| device.upload(DType::F64, shape, v).unwrap();
        let mut x = vec![put(&logits, &[1, 2]), put(targets, &[1, 2]), put(&[1.0], &[1])];
        if op.weighted {
            x.push(put(&[0.5, 2.0], &[2]));
        }
        let x: Vec<_> = x.into_iter().map(|t| tape.constant(t)).collect();
        let y = tape.apply(op, x).unwrap();
        device.read_reals(y.value()).unwrap()[0]
    };
    let (right, wrong) = ((4f64 / 3.0).ln(), 4f64.ln());
    for (weighted, [a, b]) in [(false, [1.0, 1.0]), (true, [0.5, 2.0])] {
        let focal = loss(BinaryCrossEntropy { weighted, gamma: 2.0 }, &[1.0, 1.0]);
        assert!((focal - (a * 0.0625 * right + b * 0.5625 * wrong)).abs() < 1e-12, "{focal}");
        let plain = loss(BinaryCrossEntropy { weighted, gamma: 0.0 }, &[1.0, 1.0]);
        assert!((plain - (a * right + b * wrong)).abs() < 1e-12, "{plain}");
        let negative = loss(BinaryCrossEntropy { weighted, gamma: 2.0 }, &[0.0, 0.0]);
        assert!((negative - (a * 0.5625 * wrong + b * 0.0625 * right)).abs() < 1e-12, "{negative}");
    }
}
