//! Values inside of the encoder that a forward pass hands out.

use crate::support::*;
use tempra::data::Batch;
use tempra::device::Device;
use tempra::models::{Model, Options};
use tempra::nn::Taps;
use tempra::ops::mse::Mse;
use tempra::params::Bound;
use tempra::shape::DType;
use tempra::tape::{Tape, Var};
use tempra::tasks::{inputs, total};

fn setup(device: &Device, name: &str) -> (Model, Vec<Batch>) {
    let options = Options { training: true, dtype: DType::F64, ..Options::default() };
    let (model, _) = open(device, &golden(name), &options);
    let (set, _) = problem(&json(&golden(name).join("fixture.json")));
    (model, cut(&set, &[3, 1, 8], 1))
}

fn read(v: &Var) -> Vec<f64> {
    let device = cpu(1);
    device.read_reals(v.value()).expect("read")
}

/// The value of a parameter whose name ends so.
fn parameter(device: &Device, model: &Model, end: &str) -> Vec<f64> {
    let found = values(device, model).into_iter().find(|(name, _)| name.ends_with(end));
    found.unwrap_or_else(|| panic!("no {end}")).1
}

/// One more hidden state than layers, the last being what heads read where nothing follows the layers;
/// outputs do not change by being watched; nothing is kept that was not asked for; queries, keys and values
/// are W h + b of the hidden state below, by hand.
#[test]
fn taps_hand_out_what_is_asked_for() {
    let device = cpu(1);
    let (model, batches) = setup(&device, "bert/a");
    let batch = &batches[0];
    let (depth, hidden, tokens) = (model.shape().depth(), model.shape().hidden, batch.ids.len());
    let run = |taps: &mut Taps| {
        let mut tape = Tape::evaluate(&device);
        let bound = model.params.bind(&mut tape, false).expect("bound");
        let x = inputs(&mut tape, batch, None).expect("inputs");
        let outputs = model.forward(&mut tape, &bound, &x, taps).unwrap_or_else(|e| panic!("{e}"));
        (read(&outputs[0]), read(&model.hidden(&mut tape, &bound, &x).expect("hidden states")))
    };
    let (mut none, mut all) = (Taps::none(), Taps::none().with_hidden().with_qkv());
    let (plain, last) = run(&mut none);
    assert!(none.hidden.is_empty() && none.qkv.is_empty());
    assert_eq!(bits(&run(&mut all).0), bits(&plain));
    assert_eq!((all.hidden.len(), all.qkv.len()), (depth + 1, depth));
    assert_eq!(bits(&read(&all.hidden[depth])), bits(&last));
    // A second pass replaces them.
    run(&mut all);
    assert_eq!((all.hidden.len(), all.qkv.len()), (depth + 1, depth));
    for layer in 0..depth {
        let (below, qkv) = (read(&all.hidden[layer]), read(&all.qkv[layer]));
        assert_eq!(all.qkv[layer].value().spec.shape, [tokens, 3 * hidden]);
        for (part, name) in ["query", "key", "value"].into_iter().enumerate() {
            let at = format!("layer.{layer}.attention.self.{name}");
            let w = parameter(&device, &model, &format!("{at}.weight"));
            let b = parameter(&device, &model, &format!("{at}.bias"));
            for (t, c) in [(0, 0), (tokens / 2, hidden - 1), (tokens - 1, 1)] {
                let h = &below[t * hidden..][..hidden];
                let expected =
                    b[c] + w[c * hidden..][..hidden].iter().zip(h).map(|(w, h)| w * h).sum::<f64>();
                let found = qkv[t * 3 * hidden + part * hidden + c];
                assert!((found - expected).abs() < 1e-12, "{at}: {found}, {expected}");
            }
        }
    }
}

/// The loss of a tap, and which parameters it does not reach: mean squares of the first layer's output and of
/// the second's queries, keys and values.
fn watched(tape: &mut Tape, model: &Model, bound: &Bound, batch: &Batch) -> Var {
    let x = inputs(tape, batch, Some((3, 4))).expect("inputs");
    let mut taps = Taps::none().with_hidden().with_qkv();
    model.forward(tape, bound, &x, &mut taps).expect("outputs");
    let mut square = |v: &Var, scale: f64| {
        let shape = v.value().spec.shape.clone();
        let zeros = tape.device().zeros(DType::F64, &shape).expect("memory");
        let scale = tape.device().upload_reals(DType::F64, &[1], &[scale]).expect("memory");
        let (zeros, scale) = (tape.constant(zeros), tape.constant(scale));
        tape.apply(Mse, [v.clone(), zeros, scale]).expect("a loss")
    };
    let losses = [square(&taps.hidden[1], 0.3), square(&taps.qkv[1], 0.7), square(&taps.hidden[0], 0.2)];
    total(tape, losses).expect("a sum")
}

/// Gradients flow back from taps, into what lies below them alone; they are those of finite differences.
#[test]
fn gradients_flow_from_taps() {
    let device = cpu(1);
    let (model, batches) = setup(&device, "bert/a");
    let value = || {
        let mut tape = Tape::new(&device);
        let bound = model.params.bind(&mut tape, false).expect("bound");
        let root = watched(&mut tape, &model, &bound, &batches[0]);
        let loss = read(&root)[0];
        let one = upload(&device, DType::F64, &[1.0]);
        let unreached = tape.backward(root, one).expect("backward");
        (loss, model.params.names(&bound, &unreached))
    };
    let (_, unreached) = value();
    let found = gradients(&device, &model);
    let reached = |name: &str| !unreached.iter().any(|n| n == name);
    for part in ["embeddings.word", "layer.0.output.dense.weight", "layer.1.attention.self.value.weight"] {
        assert!(found.iter().any(|(name, _)| name.contains(part) && reached(name)), "{part} is not reached");
    }
    for part in ["layer.1.attention.output.dense.weight", "layer.1.output.dense.weight", "classifier.weight"]
    {
        assert!(found.iter().any(|(name, _)| name.contains(part) && !reached(name)), "{part} is reached");
    }
    let layout = model.params.layout();
    let mut checked = 0;
    for (p, (name, gradient)) in layout.list.iter().zip(&found).filter(|(_, (name, _))| reached(name)) {
        let view = model.params.value(p).expect("inside");
        let values = floats(&device, &view);
        let largest = |a: &usize, b: &usize| gradient[*a].abs().total_cmp(&gradient[*b].abs());
        let Some(i) = (0..values.len()).max_by(largest) else { continue };
        const H: f64 = 1e-5;
        let at = |v: f64| {
            let mut moved = values.clone();
            moved[i] = v;
            put(&device, &view, &moved);
            value().0
        };
        let slope = (at(values[i] + H) - at(values[i] - H)) / (2.0 * H);
        put(&device, &view, &values);
        let off = (slope - gradient[i]).abs();
        assert!(off <= 1e-6 * gradient[i].abs() + 1e-7, "{name}[{i}]: {slope}, {}", gradient[i]);
        checked += 1;
    }
    assert!(checked > 20, "{checked}");
}
