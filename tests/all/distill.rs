//! Distillation: the loss of soft targets.

use crate::support::*;
use tempra::ops::soft_cross_entropy::SoftCrossEntropy;
use tempra::shape::DType;
use tempra::tape::{Leaf, Tape};

/// Value and gradient of given logits: `make_soft_cross_entropy.py`.
#[test]
fn the_loss_is_that_of_pytorch() {
    let device = cpu(1);
    let golden = json(&golden("soft_cross_entropy.json"));
    for case in golden["cases"].as_array().expect("cases") {
        let weights = numbers(&case["weights"]);
        let shape = [weights.len(), number(&case["classes"]) as usize];
        let put = |shape: &[usize], v: &[f64]| device.upload_reals(DType::F64, shape, v).expect("memory");
        let gradient = device.zeros(DType::F64, &shape).expect("memory");
        let mut tape = Tape::new(&device);
        let student = Leaf::new(put(&shape, &numbers(&case["student"])), gradient.clone(), false);
        let student = tape.leaf(student);
        let fixed = [
            put(&shape, &numbers(&case["teacher"])),
            put(&[shape[0]], &weights),
            put(&[1], &[1.0 / weights.iter().sum::<f64>()]),
        ];
        let [teacher, weights, scale] = fixed.map(|t| tape.constant(t));
        let op = SoftCrossEntropy { temperature: number(&case["temperature"]) as f32 };
        let root = tape.apply(op, [student, teacher, weights, scale]).expect("a loss");
        let found = floats(&device, root.value())[0];
        tape.backward(root, put(&[1], &[1.0])).expect("backward");
        let (truth, gradients) = (number(&case["loss"]), numbers(&case["gradient"]));
        assert!((found - truth).abs() <= 1e-12 * (1.0 + truth.abs()), "{found}, PyTorch {truth}");
        let off = max_difference(&floats(&device, &gradient), &gradients);
        assert!(off <= 1e-12, "{off:e}");
    }
}
