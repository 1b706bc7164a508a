//! The tape: what it keeps in memory, by arithmetic, and what it refuses.

use crate::support::cpu;
use tempra::data::{Batch, Targets, TokenSet, eval_batches};
use tempra::device::{Caps, Device, Meta, Packing};
use tempra::models::{Model, Options, Outputs};
use tempra::nn::{EncoderConfig, LayerShape, Taps};
use tempra::ops::Activation;
use tempra::ops::linear::Linear;
use tempra::shape::DType;
use tempra::tape::{Leaf, Tape, Var};
use tempra::tasks::{Classify, inputs};
use tempra::train::pass;

/// A device that only counts bytes: those of the tensors, without any that an op needs for itself.
fn meta() -> (Meta, Device) {
    let meta = Meta::new(Caps { packs: Packing::None, ..cpu(1).caps() });
    let device = Device::Meta(meta.share());
    (meta, device)
}

/// The encoder of all-MiniLM-L6-v2.
fn minilm(layers: usize) -> EncoderConfig {
    let layers = vec![LayerShape::new(384, 12, 1536); layers];
    EncoderConfig { hidden: 384, layers, ..EncoderConfig::default() }
}

/// Sequences of 64 tokens in one batch, of two classes in turn.
fn batch(sequences: u32) -> Batch {
    let mut set = TokenSet { offsets: vec![0], ..TokenSet::default() };
    for _ in 0..sequences {
        set.ids.extend(50..114);
        set.types.extend([0; 64]);
        set.offsets.push(set.ids.len() as u32);
        set.lost.push(0);
        set.unknown.push(0);
    }
    set.targets = Targets::Class((0..sequences).map(|i| i % 2).collect());
    let mut all = eval_batches(&set, usize::MAX, 0).expect("a batch");
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn classify() -> Classify {
    let classes = vec!["a".to_owned(), "b".to_owned()];
    Classify { classes, label_smoothing: 0.0, class_weights: None, gamma: 0.0 }
}

fn options(training: bool) -> Options {
    Options { outputs: Some(Outputs::Classes(classify().classes)), training, ..Options::default() }
}

/// Bytes beside the parameters at the peak of an evaluation.
fn evaluated(layers: usize) -> u64 {
    let (meta, device) = meta();
    let model = Model::random(&device, &minilm(layers), &options(false)).expect("a model");
    let before = meta.usage().peak;
    assert_eq!(before, model.params.bytes() as u64);
    let mut tape = Tape::evaluate(&device);
    let bound = model.params.bind(&mut tape, false).expect("bound");
    let x = inputs(&mut tape, &batch(8), None).expect("inputs");
    model.forward(&mut tape, &bound, &x, &mut Taps::none()).expect("outputs");
    meta.usage().peak - before
}

/// In a feed-forward block are live: its input, which is the residual, and the activation's input and output,
/// four times as wide. Everything before them is freed, so the number of layers does not matter.
#[test]
fn evaluation_holds_the_activations_of_one_op() {
    let (tokens, hidden) = (8 * 64, 384);
    // Ids, positions and types; where each sequence begins.
    let inputs = 4 * (3 * tokens + 8 + 1);
    let expected = 4 * tokens * hidden * (1 + 4 + 4) + inputs;
    for layers in [1, 2, 6] {
        let found = evaluated(layers);
        println!("MiniLM, {layers} layers: {found} bytes of activations in an evaluation of {tokens} tokens");
        assert_eq!(found, expected, "{layers} layers");
    }
}

/// Bytes beside the parameters at the peak of a training pass.
fn trained(layers: usize) -> u64 {
    let (meta, device) = meta();
    let model = Model::random(&device, &minilm(layers), &options(true)).expect("a model");
    let before = meta.usage().peak;
    pass(&device, &model, &classify(), &batch(8), None, 1.0, false).expect("a pass");
    meta.usage().peak - before
}

/// What the backward pass of a layer reads is kept, and no more: queries, keys and values, attention's output
/// and log-sum-exp, the outputs of three other maps, the activation's input, and output and normalised input
/// of two layer norms with their scales.
#[test]
fn training_keeps_what_its_backward_pass_reads() {
    let (tokens, hidden, heads) = (8 * 64, 384, 12);
    let layer = 4 * tokens * (hidden * (3 + 1 + 1 + 2 + 4 + 4 + 1 + 2) + heads + 2);
    let [one, two, six] = [1, 2, 6].map(trained);
    println!(
        "MiniLM, 1, 2 and 6 layers: {one}, {two}, {six} bytes of activations in a training pass of {tokens} tokens"
    );
    assert_eq!(two - one, layer);
    assert_eq!(six - two, 4 * layer);
}

/// What an op of a chain gave is freed by its last use; a recording tape keeps what the gradients of the
/// leaves need, and only that.
#[test]
fn the_last_use_of_a_value_frees_it() {
    let (rows, cols) = (16u64, 8u64);
    let one = 4 * rows * cols;
    let peak = |recording: bool, leaves: std::ops::Range<usize>, kept: bool| {
        let (meta, device) = meta();
        let alloc = |shape: &[usize]| device.zeros(DType::F32, shape).expect("memory");
        let matrix = [cols as usize; 2];
        let (w, grad, x) = (alloc(&matrix), alloc(&matrix), alloc(&[rows as usize, cols as usize]));
        let before = meta.usage().peak;
        let mut tape = if recording { Tape::new(&device) } else { Tape::evaluate(&device) };
        let (mut y, mut handles) = (tape.constant(x), Vec::new());
        for i in 0..5 {
            let w = match leaves.contains(&i) {
                true => tape.leaf(Leaf::new(w.clone(), grad.clone(), true)),
                false => tape.constant(w.clone()),
            };
            y = tape.apply(Linear { act: Activation::None }, [y, w]).expect("an output");
            handles.extend(kept.then(|| y.clone()));
        }
        meta.usage().peak - before
    };
    // The input is there before; it is freed once the first output has been computed.
    assert_eq!(peak(false, 0..0, false), one);
    assert_eq!(peak(false, 0..5, false), one);
    assert_eq!(peak(true, 0..0, false), one);
    // Five outputs in place of the input.
    assert_eq!(peak(false, 0..0, true), 4 * one);
    // The input and five outputs.
    assert_eq!(peak(true, 0..5, false), 5 * one);
    // The outputs of the last three ops: the gradients of the last two read the first of them.
    assert_eq!(peak(true, 3..5, false), 2 * one);
}

/// A leaf w (4, 3) whose gradient is NaN everywhere before, on a tape.
fn leaf(device: &Device, tape: &mut Tape) -> (Var, tempra::device::Tensor) {
    let ramp: Vec<f64> = (0..12).map(f64::from).collect();
    let w = device.upload_reals(DType::F64, &[4, 3], &ramp).expect("memory");
    let grad = device.upload_reals(DType::F64, &[4, 3], &[f64::NAN; 12]).expect("memory");
    (tape.leaf(Leaf::new(w, grad.clone(), false)), grad)
}

/// y = x w^T of the first rows of w: dw is x in these rows and zero in the others, also for a part of a part.
#[test]
fn the_gradient_of_a_part_is_zero_outside_of_it() {
    let device = cpu(1);
    for parts in [&[2usize][..], &[3, 2]] {
        let mut tape = Tape::new(&device);
        let (w, grad) = leaf(&device, &mut tape);
        let part = parts.iter().fold(w, |w, &rows| tape.part(&w, &[rows, 3]).expect("rows"));
        let x = tape.constant(device.upload_reals(DType::F64, &[1, 3], &[5.0, 6.0, 7.0]).expect("memory"));
        let y = tape.apply(Linear { act: Activation::None }, [x, part]).expect("an output");
        // x has 5, 6, 7; the rows of w have 0, 1, 2 and 3, 4, 5.
        assert_eq!(device.read::<f64>(y.value()).expect("read"), [20.0, 74.0]);
        let seed = device.upload_reals(DType::F64, &[1, 2], &[1.0, 2.0]).expect("memory");
        assert!(tape.backward(y, seed).expect("backward").is_empty(), "the leaf is reached");
        let expected = [5.0, 6.0, 7.0, 10.0, 12.0, 14.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(device.read::<f64>(&grad).expect("read"), expected, "{parts:?}");
    }
}

#[test]
fn what_a_tape_cannot_differentiate_is_refused() {
    let device = cpu(1);
    let linear = || Linear { act: Activation::None };
    let refused = |e: tempra::error::Result<Var>, what: &str| {
        let e = e.expect_err(what).to_string();
        assert!(e.contains(what), "{e}");
    };
    let mut tape = Tape::new(&device);
    let (w, _) = leaf(&device, &mut tape);
    refused(tape.apply(linear(), [w.clone(), w.clone()]), "the same variable twice");
    let y = {
        let x = tape.constant(device.zeros(DType::F64, &[2, 3]).expect("memory"));
        tape.apply(linear(), [x, w.clone()]).expect("an output")
    };
    refused(tape.part(&y, &[1, 4]), "only leaves and constants have parts");
    refused(tape.part(&w, &[5, 3]), "does not fit");
    let mut other = Tape::new(&device);
    let x = other.constant(device.zeros(DType::F64, &[2, 3]).expect("memory"));
    refused(other.apply(linear(), [x, w.clone()]), "a variable of another tape");
    // A leaf that the root does not depend on is returned.
    let (lone, _) = leaf(&device, &mut tape);
    let seed = device.zeros(DType::F64, &[2, 4]).expect("memory");
    assert_eq!(tape.backward(y, seed).expect("backward"), [lone]);
}
