//! Frozen parameters: they take memory for their values only, cost no gradient, and no bit of them moves;
//! checkpoints of the versions that kept gradients and states for them resume.

use crate::faults::{Fault, FaultFs};
use crate::support::{cpu, gradients, upload, values, whole};
use crate::tasks::{data, prepared, recipe};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tempra::checkpoint::{Body, NamedFile, RunDir, TensorOut, Weights};
use tempra::data::{Targets, TokenSet};
use tempra::device::{Caps, Device, Meta, Pass};
use tempra::error::Kind;
use tempra::models::{Model, Options, Outputs};
use tempra::nn::{EncoderConfig, LayerShape};
use tempra::optim::{Optimizer, Settings};
use tempra::params::{ArenaKind, Param};
use tempra::rng::Rng;
use tempra::shape::DType;
use tempra::tasks::Classify;
use tempra::train::history::History;
use tempra::train::{Recipe, Run, TrainerState, pass};

fn classes() -> Vec<String> {
    vec!["a".to_owned(), "b".to_owned()]
}

fn task() -> Classify {
    Classify { classes: classes(), label_smoothing: 0.0, class_weights: None, gamma: 0.0 }
}

fn options(freeze: &[&str]) -> Options {
    let freeze = freeze.iter().map(|&prefix| prefix.to_owned()).collect();
    Options { outputs: Some(Outputs::Classes(classes())), training: true, freeze, ..Options::default() }
}

fn shape(hidden: usize, layers: usize) -> EncoderConfig {
    let layers = vec![LayerShape::new(hidden, hidden / 32, 4 * hidden); layers];
    EncoderConfig { hidden, layers, ..EncoderConfig::default() }
}

/// Bytes that a model and its optimizer take: on a device that counts, and by their own count.
fn taken(shape: &EncoderConfig, freeze: &[&str], compute: DType) -> (u64, u64) {
    let dtypes = &[DType::F32, DType::F16];
    let meta = Meta::new(Caps { compute, dtypes, ..cpu(1).caps() });
    let device = Device::Meta(meta.share());
    let model = Model::random(&device, shape, &options(freeze)).expect("a model");
    let optimizer = Optimizer::new(&device, &model.params, Settings::default()).expect("an optimizer");
    (meta.usage().peak, (model.params.bytes() + optimizer.bytes()) as u64)
}

/// MiniLM: a trained element takes 16 bytes, a frozen one 4, and in 16 bits 2 more for the copy.
#[test]
fn frozen_parameters_take_their_values_only() {
    let shape = shape(384, 6);
    let (encoder, head) = {
        let layer = 4 * (384 * 384 + 384) + 2 * 384 * 1536 + 1536 + 384 + 4 * 384;
        ((30522 + 512 + 2) * 384 + 2 * 384 + 6 * layer, (2 * 384, 2))
    };
    // Groups begin at multiples of 64 elements: the head's bias fills 64, all others are multiples.
    let head = head.0 + head.1 * 32;
    for (compute, copy) in [(DType::F32, 0), (DType::F16, 2)] {
        for (freeze, expected) in [
            (&["bert."][..], (4 + copy) * encoder + (16 + copy) * head),
            (&[], (16 + copy) * (encoder + head)),
        ] {
            let (device, counted) = taken(&shape, freeze, compute);
            println!("{freeze:?} in {compute:?}: {device} bytes, {counted} without the small buffers");
            assert_eq!(counted, expected as u64, "{freeze:?}");
            // The bits of live and of blank blocks, and some numbers.
            let small = expected as u64 / 16 / 512;
            assert!((counted..counted + small + 1024).contains(&device), "{freeze:?}: {device}");
        }
    }
}

/// Examples of several lengths, of two classes in turn.
fn examples() -> TokenSet {
    let mut set = TokenSet { offsets: vec![0], ..TokenSet::default() };
    for length in [5, 9, 3, 17] {
        set.ids.extend(50..50 + length);
        set.types.extend((0..length).map(|_| 0));
        set.offsets.push(set.ids.len() as u32);
        set.lost.push(0);
        set.unknown.push(0);
    }
    set.targets = Targets::Class(vec![0, 1, 0, 1]);
    set
}

/// How often the ops ran backward in a pass, and the FLOP of `linear` there.
fn played(freeze: &[&str]) -> (BTreeMap<&'static str, usize>, f64) {
    let device = cpu(2);
    let model = Model::random(&device, &shape(64, 3), &options(freeze)).expect("a model");
    let run = || pass(&device, &model, &task(), &whole(&examples())[0], Some((1, 0)), 1.0, false);
    let (passed, timed) = device.profiled(run).expect("a pass");
    assert!(passed.unreached.is_empty(), "{:?}", passed.unreached);
    let mut counts = BTreeMap::new();
    let backward = || timed.iter().filter(|t| t.pass == Pass::Backward);
    backward().for_each(|t| *counts.entry(t.op).or_default() += 1);
    (counts, backward().filter(|t| t.op == "linear").map(|t| t.flops).sum())
}

/// Backward stops at the lowest trained parameter, and a frozen matrix above it costs no matmul for its
/// gradient.
#[test]
fn only_what_is_trained_and_above_is_played_backward() {
    let (all, flops) = played(&[]);
    // A layer has four maps, attention and two layer norms; below are the embeddings and a layer norm.
    let expected = BTreeMap::from([
        ("embed", 1),
        ("add_norm", 1 + 3 * 2),
        ("linear", 3 * 4 + 1),
        ("attention", 3),
        ("pool", 1),
        ("dropout", 1),
        ("cross_entropy", 1),
    ]);
    assert_eq!(all, expected);
    let tokens = 5 + 9 + 3 + 17;
    // One matmul of a layer's maps and of the head's, forward.
    let layer = (2 * tokens * (4 * 64 * 64 + 2 * 64 * 256)) as f64;
    let head = (2 * 4 * 64 * 2) as f64;
    assert_eq!(flops, 2.0 * (3.0 * layer + head));

    let head_only = BTreeMap::from([("linear", 1), ("cross_entropy", 1)]);
    assert_eq!(played(&["bert."]).0, with_dropout(head_only), "all but the head");
    assert_eq!(played(&["bert."]).1, head, "the input of the head needs no gradient");
    let one_layer = ["bert.embeddings.", "bert.encoder.layer.0.", "bert.encoder.layer.1."];
    let (counts, flops) = played(&one_layer);
    assert_eq!((counts["add_norm"], counts["linear"], counts["attention"]), (2, 5, 1));
    assert!(!counts.contains_key("embed"), "{counts:?}");
    // The first map's input needs no gradient.
    assert_eq!(flops, 2.0 * (layer + head) - (2 * tokens * 3 * 64 * 64) as f64);
    // A frozen layer between trained ones passes the gradient on.
    let (counts, flops) = played(&["bert.encoder.layer.1."]);
    assert_eq!(counts, all);
    assert_eq!(flops, 2.0 * (3.0 * layer + head) - layer);
}

fn with_dropout(mut counts: BTreeMap<&'static str, usize>) -> BTreeMap<&'static str, usize> {
    counts.entry("dropout").or_insert(0);
    counts.retain(|_, n| *n > 0);
    counts
}

/// Gradients of trained parameters do not depend on what else is frozen, and no bit of a frozen parameter
/// moves.
#[test]
fn gradients_are_those_of_the_whole_model() {
    let device = cpu(2);
    let make = |freeze: &[&str]| {
        let options = Options { dtype: DType::F64, ..options(freeze) };
        let model = Model::random(&device, &shape(32, 2), &options).expect("a model");
        let batch = &whole(&examples())[0];
        pass(&device, &model, &task(), batch, Some((1, 0)), 1.0, false).expect("a pass");
        model
    };
    let all = gradients(&device, &make(&[]));
    for freeze in [
        &["bert."][..],
        &["bert.embeddings.", "bert.encoder.layer.0."],
        &["bert.encoder.layer.1.attention.self.key", "bert.encoder.layer.0.output."],
        &["classifier."],
    ] {
        let model = make(freeze);
        let before = values(&device, &model);
        let found = gradients(&device, &model);
        for (p, ((name, whole), (_, found))) in model.params.layout().list.iter().zip(all.iter().zip(&found))
        {
            let frozen = freeze.iter().any(|prefix| name.starts_with(prefix));
            assert_eq!(p.frozen, frozen, "{name}");
            assert!(found == whole || frozen, "{name} with {freeze:?}");
            assert_eq!(found.is_empty(), p.arena == ArenaKind::Frozen, "{name}");
        }
        let s = Settings { weight_decay: 0.1, ..Settings::default() };
        let mut optimizer = Optimizer::new(&device, &model.params, s).expect("an optimizer");
        optimizer.step(&device, &model.params, &[upload(&device, DType::F64, &[1.0])], 0.1).expect("a step");
        optimizer.synchronize(&device).expect("results");
        let after = values(&device, &model);
        for ((p, before), after) in model.params.layout().list.iter().zip(&before).zip(&after) {
            assert_eq!(before == after, p.frozen, "{}", p.name);
        }
    }
}

/// A run with the encoder frozen but for a value projection, whose optimizer states are random.
fn run(dir: &Path) -> (Recipe, Run, Optimizer) {
    let freeze = "freeze = [\"bert.embeddings.\", \"bert.pooler.\", \"bert.encoder.layer.0.attention.self.key.\", \"bert.encoder.layer.1.\"]";
    let text =
        recipe("classify", "classify.csv", "", "classify").replace("[data]", &format!("{freeze}\n[data]"));
    std::fs::write(dir.join("classify.toml"), text).expect("written");
    let recipe = Recipe::load(&dir.join("classify.toml"), &[]).expect("a recipe");
    let run = Run::prepare(&recipe).unwrap_or_else(|e| panic!("{e}"));
    let optimizer =
        Optimizer::new(&run.device, &run.model.params, recipe.optim.settings()).expect("an optimizer");
    (recipe, run, optimizer)
}

#[test]
fn a_checkpoint_with_states_of_frozen_parameters_resumes() {
    let dir = tempfile::tempdir().expect("a folder");
    prepared(dir.path(), &crate::support::golden("bert/a"));
    data(dir.path());
    let (recipe, run, optimizer) = run(dir.path());
    let params = &run.model.params;
    let trains = |p: &&Param| p.arena == ArenaKind::Trained;
    assert!(params.layout().list.iter().filter(trains).any(|p| p.frozen), "a key beside queries and values");
    let mut rng = Rng::new(3, "states", 0);
    let mut states = BTreeMap::new();
    for s in optimizer.states() {
        let mut values = vec![0f32; s.tensor.spec.len()];
        for p in params.layout().list.iter().filter(trains).filter(|p| !p.frozen) {
            values[p.offset..p.offset + p.len()].fill_with(|| rng.uniform() as f32);
        }
        run.device.write(&s.tensor, &values).expect("written");
        states.insert(s.name, values);
    }
    let files = |optimizer: &Optimizer| {
        let state = TrainerState { step: 1, updates: 1, ..TrainerState::new(&recipe, &run) };
        state.files(&recipe, &run, optimizer, &serde_json::json!({}), &History::default()).expect("files")
    };
    // As they were before: one arena, in which groups begin at multiples of 64; queries, keys and values are
    // one group.
    let mut ends = Vec::new();
    let mut at = 0usize;
    for p in &params.layout().list {
        let inside = ["self.key.", "self.value."].iter().any(|part| p.name.contains(part));
        at = if inside { at } else { at.next_multiple_of(64) };
        ends.push((p, at));
        at += p.len();
    }
    let len = at.next_multiple_of(64);
    let earlier = |len: usize| {
        let mut files = files(&optimizer);
        for file in &mut files {
            let Body::Tensors(tensors, _) = &mut file.body else { continue };
            for t in tensors.iter_mut().filter(|t| states.contains_key(t.name.as_str())) {
                let mut all = vec![7f32; len];
                for (p, at) in ends.iter().filter(|(p, at)| trains(p) && at + p.len() <= len) {
                    all[*at..at + p.len()].copy_from_slice(&states[t.name.as_str()][p.offset..][..p.len()]);
                }
                let bytes: Vec<u8> = all.iter().flat_map(|v| v.to_le_bytes()).collect();
                *t = TensorOut { shape: vec![len], bytes: bytes.into(), ..t.clone() };
            }
        }
        files
    };
    let saved = |name: &str, files: Vec<NamedFile>| {
        let disk = Arc::new(FaultFs::new(Fault::Kill, usize::MAX));
        let mut folder = RunDir::open(dir.path().join(name), disk).expect("a run folder");
        folder.save(1, files, &[]).expect("saved");
        dir.path().join(name).join("checkpoint-1")
    };
    for (name, files, size) in
        [("now", files(&optimizer), optimizer.states()[0].tensor.spec.len()), ("earlier", earlier(len), len)]
    {
        let folder = saved(name, files);
        let weights = Weights::open(folder.join("optimizer.safetensors")).expect("states");
        assert_eq!(weights.get("exp_avg").map(|t| t.shape.to_vec()), Some(vec![size]), "{name}");
        let mut fresh = Optimizer::new(&run.device, params, recipe.optim.settings()).expect("an optimizer");
        let state =
            TrainerState::restore(&folder, &recipe, &run, &mut fresh).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((state.step, fresh.updates), (1, 1));
        for s in fresh.states() {
            let found = run.device.read::<f32>(&s.tensor).expect("read");
            for p in params.layout().list.iter().filter(trains).filter(|p| !p.frozen) {
                let of = p.offset..p.offset + p.len();
                assert!(found[of.clone()] == states[s.name][of], "{name}: {} of {}", s.name, p.name);
            }
        }
    }
    let folder = saved("other", earlier(len - 64));
    let mut fresh = Optimizer::new(&run.device, params, recipe.optim.settings()).expect("an optimizer");
    let e = TrainerState::restore(&folder, &recipe, &run, &mut fresh).map(drop).expect_err("another size");
    assert_eq!(e.kind(), Kind::Model, "{e}");
    let said = e.to_string();
    for part in ["exp_avg", "optimizer.safetensors", "elements", "--fresh"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
