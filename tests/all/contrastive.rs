//! The contrastive loss: its value and gradients are those of sentence-transformers, however a step is cut,
//! on every device.

use crate::support::*;
use crate::tasks::{data, ok, prepared, recipe, tempra};
use serde_json::Value;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use tempra::data::{Batch, BatchSize, TokenSet};
use tempra::device::{Cpu, Device};
use tempra::models::{Model, ModelShape, Options, Outputs};
use tempra::nn::Pooling;
use tempra::optim::{Optimizer, Settings};
use tempra::shape::DType;
use tempra::tasks::{Similar, SimilarityLoss, Task};
use tempra::train::memory::Job;
use tempra::train::pass;

const KEY: Option<(u64, u64)> = Some((0x5EED_0000_0042, 3));
const TASK: Similar = Similar { loss: SimilarityLoss::Contrastive { temperature: 0.05 } };

fn options(dtype: DType) -> Options {
    let (outputs, pooling) = (Some(Outputs::Embedding), Some(Pooling::Mean));
    Options { training: true, dtype, outputs, pooling, ..Options::default() }
}

/// The pairs of an entry of `contrastive.json`: rows of the fixture of bert/a.
fn pairs(entry: &Value) -> TokenSet {
    let fixture = json(&golden("bert/a/fixture.json"));
    let mut set = TokenSet { offsets: vec![0], ..TokenSet::default() };
    for (text, partner) in numbers(&entry["texts"]).into_iter().zip(numbers(&entry["partners"])) {
        for row in [text as usize, partner as usize] {
            let [ids, types] = ["input_ids", "token_type_ids"]
                .map(|key| numbers(&fixture[key][row]).into_iter().map(|v| v as u32));
            if row == text as usize && set.cuts.len() < set.offsets.len() {
                set.cuts.push(ids.len() as u32);
            }
            set.ids.extend(ids);
            set.types.extend(types);
        }
        set.offsets.push(set.ids.len() as u32);
        set.lost.push(0);
        set.unknown.push(0);
    }
    assert_eq!(set.cuts.len(), set.len());
    set
}

/// The loss of a step in these micro-batches, and the gradients of all parameters.
fn step(
    device: &Device,
    model: &Model,
    batches: &[Batch],
    key: Option<(u64, u64)>,
) -> (f64, Vec<(String, Vec<f64>)>) {
    let n: usize = batches.iter().map(Batch::len).sum();
    let (losses, unreached) =
        pass::step(device, model, &TASK, batches, key, 1.0 / n as f64).unwrap_or_else(|e| panic!("{e}"));
    assert!(unreached.is_empty(), "{unreached:?}");
    (losses.iter().map(|loss| floats(device, loss)[0]).sum(), gradients(device, model))
}

/// The largest relative distance of a parameter's gradients; key biases are left out, their gradient is
/// rounding.
fn off(a: &[(String, Vec<f64>)], b: &[(String, Vec<f64>)]) -> f64 {
    let all = a.iter().zip(b).filter(|((name, _), _)| !zero_gradient(name));
    all.map(|((_, a), (_, b))| relative(a, b)).fold(0.0, |m, d| if d <= m { m } else { d })
}

#[test]
fn loss_and_gradients_are_those_of_sentence_transformers() {
    let expected = json(&golden("contrastive.json"));
    let device = cpu(2);
    let (model, _) = open(&device, &golden("bert/a"), &options(DType::F64));
    for (name, parts) in [("pairs", 1), ("pairs", 3), ("repeated", 1), ("repeated", 4)] {
        let entry = &expected[name];
        let set = pairs(entry);
        let batches = cut(&set, &(0..set.len() as u32).collect::<Vec<_>>(), parts);
        assert_eq!(batches.len(), parts);
        let (loss, grads) = step(&device, &model, &batches, None);
        assert!((loss - number(&entry["loss"])).abs() < 1e-7, "{name} in {parts}: {loss}");
        let mut compared = 0;
        for (parameter, grad) in grads.iter().filter(|(name, _)| !zero_gradient(name)) {
            let theirs = &entry["grads"][parameter.strip_prefix("bert.").unwrap_or(parameter)];
            let norm = number(&theirs["l2"]);
            assert!(
                (l2(grad) - norm).abs() <= 1e-7 * norm,
                "{name} in {parts}, {parameter}: {} {norm}",
                l2(grad)
            );
            for sample in theirs["samples"].as_array().unwrap() {
                let (at, value) = (number(&sample[0]) as usize, number(&sample[1]));
                assert!((grad[at] - value).abs() <= 1e-7 * norm, "{name} in {parts}, {parameter}[{at}]");
                compared += 1;
            }
        }
        assert!(compared > 200, "{compared}");
    }
}

/// Dropout is on: the vectors of the first pass and those of the last must have the same masks.
#[test]
fn a_step_in_parts_has_the_loss_and_gradients_of_one_pass() {
    let set = pairs(&json(&golden("contrastive.json"))["pairs"]);
    let all: Vec<u32> = (0..set.len() as u32).collect();
    for (dtype, bound) in [(DType::F32, 2e-5), (DType::F64, 1e-12)] {
        let device = cpu(2);
        let (model, _) = open(&device, &golden("bert/a"), &options(dtype));
        assert!(model.shape().hidden_dropout == 0.1 && model.shape().attention_dropout == 0.1);
        let (loss, grads) = step(&device, &model, &cut(&set, &all, 1), KEY);
        let mut steps: Vec<Vec<Batch>> = [2, 3, 4, 8].map(|parts| cut(&set, &all, parts)).to_vec();
        steps.push(tempra::data::micro_batches(&set, &all, 2, Some(60), 0).expect("batches"));
        for batches in steps {
            let (cut_loss, cut_grads) = step(&device, &model, &batches, KEY);
            let (loss, grad) = ((cut_loss - loss).abs(), off(&cut_grads, &grads));
            println!("{dtype:?} in {}: loss {loss:.1e}, gradients {grad:.1e}", batches.len());
            assert!(loss <= bound && grad <= bound, "{dtype:?} in {}: {loss:e} {grad:e}", batches.len());
        }
        // What fills a batch up is nobody's partner.
        let mut filled = cut(&set, &all, 3);
        filled.iter_mut().for_each(Batch::fill_up);
        let (filled_loss, _) = step(&device, &model, &filled, None);
        let (plain_loss, _) = step(&device, &model, &cut(&set, &all, 1), None);
        assert!((filled_loss - plain_loss).abs() <= bound);
        // The same must fail where masks differ, and where each part is compared with itself alone.
        let (_, none) = step(&device, &model, &cut(&set, &all, 1), None);
        let mut anew = cut(&set, &all, 4);
        anew.iter_mut().for_each(|b| (b.first_token, b.first_example) = (0, 0));
        let (_, anew) = step(&device, &model, &anew, KEY);
        for grad in [none, anew] {
            assert!(off(&grad, &grads) > 1e-2);
        }
        let alone: f64 =
            cut(&set, &all, 4).iter().map(|b| step(&device, &model, std::slice::from_ref(b), KEY).0).sum();
        assert!((alone / 4.0 - loss).abs() > 0.1, "{alone} {loss}");
    }
}

#[test]
fn a_step_in_parts_takes_the_memory_of_one_part() {
    let set = pairs(&json(&golden("contrastive.json"))["pairs"]);
    let all: Vec<u32> = (0..set.len() as u32).collect();
    let peak = |parts: usize| {
        let device = Device::Cpu(Cpu::new(1).expect("threads"));
        let Device::Cpu(host) = &device else { unreachable!() };
        let (model, _) = open(&device, &golden("bert/a"), &options(DType::F32));
        let opened = host.memory().live;
        step(&device, &model, &cut(&set, &all, parts), KEY);
        host.memory().peak - opened
    };
    let (one, eight) = (peak(1), peak(8));
    // The plan counts the same: weights, gradients and moments come on top.
    let (model, _) = open(&cpu(1), &golden("bert/a"), &options(DType::F32));
    let (shape, options) = (model.shape().clone(), options(DType::F32));
    let plan = |accumulation| {
        let job = Job {
            model: &ModelShape::without_folder(&shape, &options).expect("a shape"),
            options: &options,
            task: &TASK,
            objective: &TASK,
            live: None,
            head: 0,
            set: &set,
            batch: BatchSize::Sequences(8),
            accumulation,
            max_tokens: 1 << 20,
            optimizer: Settings::default(),
            window: 1,
        };
        let plan = job.plan(&cpu(1).caps(), 1 << 20).unwrap();
        plan.total - plan.parameters
    };
    let planned = [plan(1), plan(8)];
    println!("activations at most: {one} in one part, {eight} in eight; planned {planned:?}");
    assert!(eight * 3 < one, "{one} {eight}");
    assert!(planned[1] * 3 < planned[0], "{planned:?}");
}

/// The losses in the journal of a run, one a step.
fn losses(dir: &Path, name: &str, sets: &[&str]) -> Vec<f64> {
    let text = recipe("similar", "similar.csv", "pair = \"pair\"\nlabel = \"\"\n", name);
    let text = format!(
        "{}log_every = 1\n[similar]\nloss = \"contrastive\"\n",
        text.replace("batch_size = 4", "batch_size = 8")
    );
    std::fs::write(dir.join("c.toml"), text.replace("max_steps = 3", "max_steps = 6")).unwrap();
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    ok(name, tempra(dir, &[&["train", "c.toml", "-q"], &sets[..]].concat()));
    let journal = std::fs::read_to_string(dir.join(name).join("metrics.jsonl")).unwrap();
    let lines = journal.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line["loss"].as_f64()).collect()
}

#[test]
fn accumulation_and_max_tokens_do_not_change_a_run() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    let whole = losses(dir.path(), "whole", &[]);
    assert_eq!(whole.len(), 6);
    for (name, set) in [
        ("four", "train.accumulation=4"),
        ("eight", "train.accumulation=8"),
        ("small", "train.max_tokens=30"),
    ] {
        let cut = losses(dir.path(), name, &[set]);
        println!("{whole:?}\n{cut:?}");
        assert!(max_difference(&whole, &cut) < 1e-4, "{set}: {whole:?} {cut:?}");
    }
}

/// Steps of AdamW in two micro-batches each, dropout on, captured and replayed where the device does that.
fn train(device: &Device) -> Vec<f64> {
    let set = pairs(&json(&golden("contrastive.json"))["pairs"]);
    let repeated = pairs(&json(&golden("contrastive.json"))["repeated"]);
    let (model, _) = open(device, &golden("bert/a"), &options(DType::F32));
    let mut optimizer = Optimizer::with_window(device, &model.params, Settings::default(), 1).unwrap();
    let mut losses = Vec::new();
    for i in 0..12 {
        let set = if i % 3 == 2 { &repeated } else { &set };
        let mut batches = cut(set, &(0..set.len() as u32).collect::<Vec<_>>(), 2);
        let n: usize = batches.iter().map(Batch::len).sum();
        // Also where nothing is captured: with as many rows, sums over rows are cut up in the same way.
        batches.iter_mut().for_each(Batch::fill_up);
        let mut size = DefaultHasher::new();
        batches
            .iter()
            .for_each(|b| (b.ids.len(), b.cu_seqlens.len(), b.longest().div_ceil(64)).hash(&mut size));
        TASK.kernels(&batches).hash(&mut size);
        model.begin_step(device, i).unwrap();
        device
            .replayed(size.finish(), || {
                let (losses, _) = pass::step(device, &model, &TASK, &batches, Some((1, i)), 1.0 / n as f64)?;
                optimizer.step(device, &model.params, &losses, 1e-3)
            })
            .unwrap();
        losses.extend(optimizer.synchronize(device).unwrap().iter().map(|made| made.loss));
    }
    losses
}

#[test]
fn every_device_trains_steps_in_parts_alike() {
    let expected = train(&cpu(1));
    println!("{expected:?}");
    assert!(expected.iter().all(|loss| loss.is_finite()));
    for kind in ["cuda", "wgpu"] {
        let Some(device) = device(kind) else { continue };
        let found = train(&device);
        println!("{kind}: {found:?}");
        let worst =
            expected.iter().zip(&found).map(|(a, b)| (a - b).abs() / a.abs().max(1.0)).fold(0.0, f64::max);
        assert!(worst < 2e-3, "{kind}: {worst:e}\n{expected:?}\n{found:?}");
    }
}
