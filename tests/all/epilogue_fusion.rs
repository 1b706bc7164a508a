//! An activation's derivative is taken by the op that reads the result, where there is no other: on CUDA by
//! cuBLASLt or what stands for it, or by our own kernel in place.

use crate::support::{bits, cpu, device, max_difference, relative, report_skipped};
use tempra::device::{Cuda, Device, Tensor};
use tempra::ops::Activation;
use tempra::ops::linear::Linear;
use tempra::ops::{Backward, Forward, Grad, Op};
use tempra::rng::Rng;
use tempra::shape::{DType, Spec};
use tempra::tape::{Leaf, Tape};

const ACTIVATIONS: [Activation; 4] =
    [Activation::GeluErf, Activation::GeluTanh, Activation::Relu, Activation::Tanh];

/// x (40, 24), w1 (48, 24), b1, w2 (16, 48), and the gradient of the result (40, 16).
const SHAPES: [&[usize]; 5] = [&[40, 24], &[48, 24], &[48], &[16, 48], &[40, 16]];

fn inputs(device: &Device, dtype: DType) -> Vec<Tensor> {
    let one = |(i, shape): (usize, &&[usize])| {
        let mut rng = Rng::new(2, "fold", i as u64);
        let n = shape.iter().product::<usize>();
        let v: Vec<f64> = (0..n).map(|_| tempra::ops::rounded(DType::BF16, rng.normal() * 0.4)).collect();
        device.upload_reals(dtype, shape, &v).unwrap()
    };
    SHAPES.iter().enumerate().map(one).collect()
}

/// Gradients of x, w1, b1 and w2 by a tape. Read once more by a third op, the activation's result has two
/// gradients.
fn by_tape(device: &Device, dtype: DType, act: Activation, twice: bool) -> Vec<Vec<f64>> {
    let t = inputs(device, dtype);
    let grads: Vec<Tensor> = t[..4].iter().map(|t| device.alloc(t.spec.clone()).unwrap()).collect();
    let mut tape = Tape::new(device);
    let v: Vec<_> = (0..4).map(|i| tape.leaf(Leaf::new(t[i].clone(), grads[i].clone(), false))).collect();
    let y = tape.apply(Linear { act }, &v[..3]).unwrap();
    let root = tape.apply(Linear { act: Activation::None }, [y.clone(), v[3].clone()]).unwrap();
    if twice {
        // It is not reached, but might have been.
        let again = tape.constant(t[3].clone());
        tape.apply(Linear { act: Activation::None }, [y, again]).unwrap();
    }
    assert!(tape.backward(root, t[4].clone()).unwrap().is_empty());
    grads.iter().map(|g| device.read_reals(g).unwrap()).collect()
}

/// The same op by op.
fn by_ops(device: &Device, dtype: DType, act: Activation) -> Vec<Vec<f64>> {
    let t = inputs(device, dtype);
    let (up, down) = (Linear { act }, Linear { act: Activation::None });
    let [x, w1, b1, w2, dy] = [0, 1, 2, 3, 4].map(|i| &t[i]);
    let run = |op: &Linear, x: &[&Tensor]| -> Vec<Tensor> {
        let plan = op.plan(&device.caps(), &x.iter().map(|t| &t.spec).collect::<Vec<_>>()).unwrap();
        let y: Vec<_> =
            plan.outputs.into_iter().chain(plan.saved).map(|s| device.alloc(s).unwrap()).collect();
        device.forward(op, Forward { x, y: &y.iter().collect::<Vec<_>>() }).unwrap();
        y
    };
    let hidden = run(&up, &[x, w1, b1]);
    let out = run(&down, &[&hidden[0], w2]);
    let grad = |t: &Tensor| device.alloc(Spec::new(dtype, &t.spec.shape)).unwrap();
    let [dx, dw1, db1, dw2, dh] = [grad(x), grad(w1), grad(b1), grad(w2), grad(&hidden[0])];
    let over = |t| Some(Grad::new(t, false));
    let io = Backward { x: &[&hidden[0], w2], y: &[&out[0]], dy: &[Some(dy)], dx: &[over(&dh), over(&dw2)] };
    device.backward(&down, io).unwrap();
    let y: Vec<&Tensor> = hidden.iter().collect();
    let dx_all = [over(&dx), over(&dw1), over(&db1)];
    device.backward(&up, Backward { x: &[x, w1, b1], y: &y, dy: &[Some(&dh)], dx: &dx_all }).unwrap();
    [dx, dw1, db1, dw2].iter().map(|g| device.read_reals(g).unwrap()).collect()
}

#[test]
fn a_derivative_that_the_next_op_takes_is_the_same() {
    if device("cuda").is_none() {
        return;
    }
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for matmul in ["own", "cublaslt"] {
            let gpu = match Cuda::new(0).unwrap().with_matmul(matmul) {
                Err(_) if matmul == "cublaslt" => {
                    report_skipped("no cuBLASLt, so derivatives by it were not tried");
                    continue;
                }
                gpu => gpu.unwrap(),
            };
            let Ok(gpu) = gpu.with_compute(dtype) else { continue };
            let device = Device::Cuda(gpu);
            for act in ACTIVATIONS {
                let truth = by_ops(&cpu(1), DType::F64, act);
                let (tape, ops) = (by_tape(&device, dtype, act, false), by_ops(&device, dtype, act));
                let twice = by_tape(&device, dtype, act, true);
                for (i, what) in ["x", "w1", "b1", "w2"].iter().enumerate() {
                    let error = relative(&tape[i], &truth[i]);
                    let bound = if dtype == DType::F32 { 1e-6 } else { 2e-2 };
                    assert!(error < bound, "{matmul} {dtype:?} {act:?}: gradient of {what}: {error:.1e}");
                    // Our own kernels do the same in another place; the library's epilogue rounds once less.
                    let same = matmul == "own" || act != Activation::GeluTanh;
                    let far = max_difference(&tape[i], &ops[i]);
                    assert!(
                        !same || bits(&tape[i]) == bits(&ops[i]),
                        "{matmul} {dtype:?} {act:?} {what}: {far:.1e}"
                    );
                    assert!(
                        bits(&twice[i]) == bits(&ops[i]),
                        "{matmul} {dtype:?} {act:?} {what}: two readers"
                    );
                }
            }
            let Device::Cuda(gpu) = &device else { panic!("another device") };
            println!("{matmul} {dtype:?}: {:?}", gpu.stats());
        }
    }
}

/// On the CPU an op does all of its own, and the tape changes nothing.
#[test]
fn elsewhere_nothing_is_folded() {
    for act in ACTIVATIONS {
        let (tape, ops) = (by_tape(&cpu(1), DType::F64, act, false), by_ops(&cpu(1), DType::F64, act));
        for (a, b) in tape.iter().zip(&ops) {
            assert_eq!(bits(a), bits(b), "{act:?}");
        }
    }
}
