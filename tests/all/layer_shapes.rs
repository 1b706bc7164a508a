//! Encoders whose layers differ in size, as after pruning: shapes of parameters, and gradients against finite
//! differences in f64.

use crate::support::*;
use tempra::data::{Targets, TokenSet};
use tempra::device::Device;
use tempra::error::Kind;
use tempra::models::{Model, Options, Outputs};
use tempra::nn::{Biases, EncoderConfig, LayerShape, Order, PerformerConfig, Positions, Taps};
use tempra::shape::DType;
use tempra::tape::{Tape, Var};
use tempra::tasks::{Classify, inputs};

const HIDDEN: usize = 12;

/// Three layers of three sizes; in none the heads divide the hidden size among them.
fn layers() -> Vec<LayerShape> {
    let layer = |heads, head_dim, intermediate| LayerShape { heads, head_dim, intermediate };
    vec![layer(2, 4, 10), layer(3, 2, 7), layer(1, 6, 17)]
}

fn bert() -> EncoderConfig {
    EncoderConfig { vocab: 20, positions: 9, hidden: HIDDEN, layers: layers(), ..EncoderConfig::default() }
}

fn modern() -> EncoderConfig {
    EncoderConfig {
        types: 0,
        order: Order::Pre,
        encoding: Positions::Rotary { global: 1000.0, local: 10.0 },
        biases: Biases { attention: false, feed_forward: false, norm: false, head: false },
        fused: true,
        gated_mlp: true,
        windows: Some((1, vec![false, true, false])),
        ..bert()
    }
}

fn xlnet() -> EncoderConfig {
    EncoderConfig {
        types: 0,
        encoding: Positions::Relative { clamp: None },
        biases: Biases { attention: false, ..bert().biases },
        by_head: true,
        embedding_norm: false,
        query_row: true,
        inner_dropout: true,
        last_dropout: true,
        cls_last: true,
        ..bert()
    }
}

/// Two sets of weights for five layers, and narrower embeddings.
fn albert() -> EncoderConfig {
    EncoderConfig { layers: layers()[..2].to_vec(), repeated: Some(5), embedding: Some(6), ..bert() }
}

fn performer() -> EncoderConfig {
    EncoderConfig { performer: Some(PerformerConfig { features: 5, redraw: 0, seed: 3, draw: 0 }), ..bert() }
}

/// A layer without heads, one without feed-forward rows, and one without both.
fn emptied(shape: EncoderConfig) -> EncoderConfig {
    let layer = |heads, intermediate| LayerShape { heads, head_dim: 4, intermediate };
    EncoderConfig { layers: vec![layer(0, 10), layer(2, 0), layer(0, 0), layer(3, 7)], ..shape }
}

fn classes() -> Vec<String> {
    ["a", "b", "c"].map(str::to_owned).to_vec()
}

/// A model whose matrices have a standard deviation of 0.4, so that attention is not nearly uniform.
fn model(device: &Device, shape: &EncoderConfig) -> Model {
    let outputs = Some(Outputs::Classes(classes()));
    let options = Options { outputs, training: true, dtype: DType::F64, seed: 5, ..Options::default() };
    let model = Model::random(device, shape, &options).unwrap_or_else(|e| panic!("{e}"));
    for p in model.params.layout().list.iter().filter(|p| p.shape.len() > 1) {
        let view = model.params.value(p).expect("inside");
        let values: Vec<f64> = floats(device, &view).iter().map(|v| 20.0 * v).collect();
        put(device, &view, &values);
    }
    model
}

/// Sequences of 4, 1 and 7 tokens.
fn examples() -> TokenSet {
    let targets = Targets::Class(vec![0, 1, 2]);
    let mut set = TokenSet { offsets: vec![0], targets, ..TokenSet::default() };
    for (i, length) in [4u32, 1, 7].into_iter().enumerate() {
        set.ids.extend((0..length).map(|t| (5 * t + 7 * i as u32) % 20));
        set.types.extend((0..length).map(|t| u32::from(2 * t > length)));
        set.offsets.push(set.ids.len() as u32);
        set.lost.push(0);
        set.unknown.push(0);
    }
    set
}

/// Three elements of every parameter by central differences.
#[test]
fn gradients_of_layers_that_differ_are_those_of_finite_differences() {
    let device = cpu(1);
    let set = examples();
    let task = Classify { classes: classes(), label_smoothing: 0.0, class_weights: None, gamma: 0.0 };
    for (name, shape) in [
        ("bert", bert()),
        ("modern", modern()),
        ("xlnet", xlnet()),
        ("albert", albert()),
        ("performer", performer()),
        ("emptied", emptied(bert())),
        ("emptied performer", emptied(performer())),
    ] {
        let model = model(&device, &shape);
        pass(&device, &model, &task, &set, &whole(&set), None);
        let found = gradients(&device, &model);
        let largest = found.iter().flat_map(|(_, g)| g).fold(0.0f64, |m, g| m.max(g.abs()));
        let loss = || pass(&device, &model, &task, &set, &whole(&set), None).loss;
        let mut checked = 0;
        let layout = model.params.layout();
        for (p, (parameter, gradient)) in layout.list.iter().zip(&found).filter(|(p, _)| !p.frozen) {
            let view = model.params.value(p).expect("inside");
            let values = floats(&device, &view);
            // Those with the largest gradient, so that a table's rows of absent words do not make up all of
            // them.
            let gradient = p.from_file(gradient.clone());
            let mut order: Vec<usize> = (0..values.len()).collect();
            order.sort_by(|&a, &b| gradient[b].abs().total_cmp(&gradient[a].abs()));
            for &i in [order[0], order[order.len() / 2], order[order.len() - 1]].iter() {
                const H: f64 = 1e-5;
                let at = |v: f64| {
                    let mut moved = values.clone();
                    moved[i] = v;
                    put(&device, &view, &moved);
                    loss()
                };
                let slope = (at(values[i] + H) - at(values[i] - H)) / (2.0 * H);
                put(&device, &view, &values);
                let off = (slope - gradient[i]).abs();
                assert!(
                    off <= 1e-7 * largest + 1e-6 * gradient[i].abs(),
                    "{name}: {parameter}[{i}]: {slope}, {}",
                    gradient[i]
                );
                checked += 1;
            }
            let norm = l2(&gradient) / largest;
            assert!(zero_gradient(parameter) || norm > 1e-6, "{name}: {parameter} has no gradient: {norm:e}");
        }
        println!("{name}: {checked} elements");
        assert!(checked > 60, "{name}: {checked}");
    }
}

/// The shapes that the sizes of a layer ask for, under transformers' names.
#[test]
fn parameters_have_the_sizes_of_their_layer() {
    let device = cpu(1);
    let of = |model: &Model, name: &str| {
        let found = model.params.layout().list.iter().find(|p| p.name.ends_with(name));
        found.unwrap_or_else(|| panic!("no {name}")).shape.clone()
    };
    let b = model(&device, &bert());
    for (i, (inner, f)) in [(8, 10), (6, 7), (6, 17)].into_iter().enumerate() {
        let at = |rest: &str| of(&b, &format!("encoder.layer.{i}.{rest}"));
        assert_eq!(at("attention.self.key.weight"), [inner, HIDDEN]);
        assert_eq!(at("attention.self.value.bias"), [inner]);
        assert_eq!(at("attention.output.dense.weight"), [HIDDEN, inner]);
        assert_eq!(at("attention.output.dense.bias"), [HIDDEN]);
        assert_eq!(at("intermediate.dense.weight"), [f, HIDDEN]);
        assert_eq!(at("output.dense.weight"), [HIDDEN, f]);
    }
    let x = model(&device, &xlnet());
    assert_eq!(of(&x, "layer.1.rel_attn.q"), [HIDDEN, 3, 2]);
    assert_eq!(of(&x, "layer.1.rel_attn.o"), [HIDDEN, 3, 2]);
    assert_eq!(of(&x, "layer.1.rel_attn.seg_embed"), [2, 3, 2]);
}

/// A block without heads or rows is one whose output map is zero: the same logits, and no parameters but the
/// bias of that map. On every device that there is.
#[test]
fn a_block_without_width_is_its_bias() {
    let set = examples();
    for kind in ["cpu", "wgpu", "cuda"] {
        let Some(device) = device(kind) else { continue };
        let shape = emptied(bert());
        let whole_shape = EncoderConfig {
            layers: shape
                .layers
                .iter()
                .map(|l| LayerShape { heads: l.heads.max(2), intermediate: l.intermediate.max(5), ..*l })
                .collect(),
            ..bert()
        };
        let options = Options { outputs: Some(Outputs::Classes(classes())), seed: 5, ..Options::default() };
        let small = Model::random(&device, &shape, &options).expect("a model");
        let large = Model::random(&device, &whole_shape, &options).expect("a model");
        let value = |model: &Model, name: &str| {
            let p = model.params.layout().list.iter().find(|p| p.name == name)?.clone();
            Some(model.params.value(&p).expect("inside"))
        };
        for p in &large.params.layout().list {
            let view = large.params.value(p).expect("inside");
            let mut values: Vec<f64> = floats(&device, &view).iter().map(|v| 20.0 * v).collect();
            if p.name.ends_with(".bias") {
                values = (0..values.len()).map(|i| (i % 7) as f64 / 5.0 - 0.5).collect();
            }
            match value(&small, &p.name) {
                Some(same) => put(&device, &same, &values),
                None if p.name.ends_with("output.dense.weight") => values.fill(0.0),
                None => assert!(
                    p.name.contains("attention.self") || p.name.contains("intermediate"),
                    "{}",
                    p.name
                ),
            }
            put(&device, &view, &values);
        }
        for model in [&small, &large] {
            model.params.refresh(&device).expect("refreshed");
        }
        assert!(small.params.layout().list.len() + 9 * 2 < large.params.layout().list.len());
        let [few, all] = [&small, &large].map(|m| logits(&device, m, &whole(&set)));
        assert!(l2(&all) > 0.1);
        let off = max_difference(&few, &all);
        assert!(off <= 1e-5, "{kind}: {off:e}");
    }
}

/// Queries, keys and values come from the layers that have heads.
#[test]
fn a_layer_without_heads_has_no_queries() {
    let device = cpu(1);
    let shape = emptied(bert());
    let with_heads = shape.layers.iter().filter(|l| l.heads > 0).count();
    assert!(with_heads < shape.layers.len());
    let model = model(&device, &shape);
    let set = examples();
    let mut tape = Tape::evaluate(&device);
    let bound = model.params.bind(&mut tape, false).expect("bound");
    let x = inputs(&mut tape, &whole(&set)[0], None).expect("inputs");
    let mut taps = Taps::none().with_qkv().with_hidden();
    model.encoder().run(&mut tape, &bound, &x, &mut taps).expect("a pass");
    assert_eq!([taps.qkv.len(), taps.hidden.len()], [with_heads, shape.layers.len() + 1]);
}

/// The two parts give what the whole gives, bit by bit; the second takes other hidden states too.
#[test]
fn embeddings_and_layers_are_the_parts_of_an_encoder() {
    let device = cpu(1);
    let set = examples();
    let batch = &whole(&set)[0];
    for shape in [bert(), modern(), xlnet(), albert()] {
        let model = model(&device, &shape);
        let mut tape = Tape::new(&device);
        let bound = model.params.bind(&mut tape, false).expect("bound");
        let x = inputs(&mut tape, batch, Some((1, 2))).expect("inputs");
        let encoder = model.encoder();
        let read = |v: &Var| floats(&device, v.value());
        let all = encoder.run(&mut tape, &bound, &x, &mut Taps::none()).expect("hidden states");
        let embedded = encoder.embed(&mut tape, &bound, &x).expect("embeddings");
        assert_eq!(embedded.value().spec.shape, [12, HIDDEN]);
        let parts = encoder
            .layers(&mut tape, &bound, &x, embedded.clone(), &mut Taps::none())
            .expect("hidden states");
        assert_eq!(bits(&read(&all)), bits(&read(&parts)));
        let moved: Vec<f64> = read(&embedded).iter().map(|v| v + 0.5).collect();
        let moved = device.upload_reals(DType::F64, &[12, HIDDEN], &moved).expect("memory");
        let moved = tape.constant(moved);
        let other = encoder.layers(&mut tape, &bound, &x, moved, &mut Taps::none()).expect("hidden states");
        assert!(max_difference(&read(&all), &read(&other)) > 1e-3);
    }
}

#[test]
fn sizes_that_are_no_encoder_are_refused() {
    let device = cpu(1);
    let of = |shape: EncoderConfig, heads, head_dim, intermediate| EncoderConfig {
        layers: vec![LayerShape { heads, head_dim, intermediate }],
        windows: None,
        ..shape
    };
    let cases = [
        (EncoderConfig { layers: vec![], ..bert() }, "0 sets of weights"),
        (EncoderConfig { repeated: Some(2), ..bert() }, "2 layers with 3 sets"),
        // Without heads or rows a block has nothing but its bias.
        (of(modern(), 0, 4, 4), "layer 0"),
        (of(xlnet(), 0, 4, 4), "layer 0"),
        (of(bert(), 1, 0, 4), "layer 0"),
        (of(modern(), 1, 4, 0), "layer 0"),
        (of(EncoderConfig { order: Order::Pre, ..bert() }, 0, 4, 4), "layer 0"),
        (EncoderConfig { hidden: 0, ..bert() }, "size of 0"),
    ];
    for (shape, what) in cases {
        let Err(e) = Model::random(&device, &shape, &Options::default()) else {
            panic!("{what}: not refused")
        };
        assert!(e.kind() == Kind::Shape && e.to_string().contains(what), "{e}");
    }
}
