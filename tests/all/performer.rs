//! FAVOR+: what its random features estimate, how well, and that they are a function of the seed.

use crate::learner;
use crate::support::*;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::tempdir;
use tempra::checkpoint::{RealFs, write_dir};
use tempra::device::{Device, Tensor};
use tempra::models::{Attention, Model, Options};
use tempra::nn::Distance;
use tempra::ops::attention::Attention as ExactAttention;
use tempra::ops::favor::{Favor, default_features, features, independent};
use tempra::ops::{Backward, Forward, Grad, Op};
use tempra::rng::Rng;
use tempra::shape::{DType, Spec};

const DIM: usize = 16;

/// phi(q) phi(k) / exp(q k / sqrt(d)), the estimate over the truth, for features w (features, DIM).
fn ratio(w: &[f32], q: &[f64], k: &[f64]) -> f64 {
    let root = (DIM as f64).powf(-0.25);
    let half = |x: &[f64]| x.iter().map(|v| (v * root).powi(2)).sum::<f64>() / 2.0;
    let dot = |w: &[f32], x: &[f64]| w.iter().zip(x).map(|(&w, x)| w as f64 * x * root).sum::<f64>();
    let rows = w.chunks_exact(DIM);
    let m = rows.len() as f64;
    let estimate: f64 = rows.map(|w| (dot(w, q) - half(q) + dot(w, k) - half(k)).exp()).sum::<f64>() / m;
    let exact = q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() * root * root;
    estimate / exact.exp()
}

/// Short, since the estimate's variance grows with the exponential of their squared length, and so would the
/// draws needed.
fn pair() -> (Vec<f64>, Vec<f64>) {
    let mut rng = Rng::new(3, "a query and a key", 0);
    let mut draw = || (0..DIM).map(|_| 0.4 * rng.normal()).collect();
    (draw(), draw())
}

/// Mean and variance of the ratio over many draws.
fn moments(draws: u64, w: impl Fn(u64) -> Vec<f32>) -> (f64, f64) {
    let (q, k) = pair();
    let all: Vec<f64> = (0..draws).map(|i| ratio(&w(i), &q, &k)).collect();
    let mean = all.iter().sum::<f64>() / draws as f64;
    (mean, all.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (draws - 1) as f64)
}

#[test]
fn random_features_are_unbiased_and_their_error_falls_with_the_root_of_their_number() {
    let draws = 4000;
    let mut spread = Vec::new();
    for m in [16, 64, 256] {
        let (mean, variance) = moments(draws, |i| features(1, 0, i, [m, DIM]));
        let off = (mean - 1.0).abs() / (variance / draws as f64).sqrt();
        assert!(
            off < 4.0,
            "{m} features: the mean of the estimate is {mean} of the truth, {off} deviations off"
        );
        spread.push(variance.sqrt());
    }
    for (few, many) in spread.iter().zip(&spread[1..]) {
        // Four times the features: half the error. The variance is itself an estimate.
        assert!((1.6..2.5).contains(&(few / many)), "errors of 16, 64 and 256 features: {spread:?}");
    }
}

#[test]
fn orthogonal_features_have_a_smaller_variance_than_independent_ones() {
    let (draws, m) = (6000, DIM);
    let (_, orthogonal) = moments(draws, |i| features(1, 0, i, [m, DIM]));
    let (mean, free) = moments(draws, |i| independent(1, 0, i, [m, DIM]));
    assert!((mean - 1.0).abs() < 0.1, "{mean}");
    assert!(orthogonal < free, "orthogonal {orthogonal}, independent {free}");
}

#[test]
fn features_are_orthogonal_by_blocks_and_as_long_as_normal_vectors() {
    let w = features(9, 2, 5, [3 * DIM + 5, DIM]);
    let rows: Vec<&[f32]> = w.chunks_exact(DIM).collect();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum::<f64>();
    for (i, a) in rows.iter().enumerate() {
        for (j, b) in rows.iter().enumerate().filter(|(j, _)| *j != i && j / DIM == i / DIM) {
            let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
            assert!(cosine.abs() < 1e-6, "rows {i} and {j}: {cosine}");
        }
    }
    let many = features(4, 0, 0, [200 * DIM, DIM]);
    let mean = dot(&many, &many) / (200 * DIM) as f64;
    assert!((mean / DIM as f64 - 1.0).abs() < 0.02, "the mean squared length is {mean}, not {DIM}");
}

#[test]
fn features_depend_on_seed_layer_and_draw_alone() {
    let w = |seed, layer, redraw| features(seed, layer, redraw, [20, DIM]);
    assert_eq!(w(1, 2, 3), w(1, 2, 3));
    for other in [w(2, 2, 3), w(1, 3, 3), w(1, 2, 4)] {
        assert_ne!(w(1, 2, 3), other);
    }
    assert_eq!(default_features(64), 266);
    assert_eq!(default_features(32), 110);
    assert_eq!(default_features(1), 1);
}

/// What stands for the exact attention, with so many features.
fn approximated(features: usize) -> Options {
    let attention = Some(Attention::Performer { features: Some(features), redraw: 1000 });
    Options { attention, training: true, ..Options::default() }
}

/// bert/a, the architectures of `tests/golden/encoders` and their examples.
fn fixtures() -> Vec<(PathBuf, Value)> {
    let mut dirs: Vec<PathBuf> = std::fs::read_dir(golden("encoders"))
        .expect("a folder")
        .map(|e| e.expect("an entry").path())
        .filter(|dir| json(&dir.join("config.json"))["model_type"] != "xlnet")
        .collect();
    dirs.push(golden("bert/a"));
    dirs.into_iter().map(|dir| (dir.clone(), json(&dir.join("fixture.json")))).collect()
}

/// The weights stay as they are; the folder says what was chosen, and is opened again so, or exactly if that
/// is asked for.
#[test]
fn a_swapped_model_is_saved_with_its_choice_and_opened_with_it() {
    let device = cpu(2);
    for (from, fixture) in fixtures() {
        let (set, _) = problem(&fixture);
        let (exact, _) = open(&device, &from, &Options::default());
        let (model, report) = open(&device, &from, &approximated(12));
        assert!(report.initialised.is_empty() && report.unused.is_empty(), "{report}");
        assert_eq!(values(&device, &model), values(&device, &exact));
        model.begin_step(&device, 3456).expect("features");
        let found = logits(&device, &model, &whole(&set));
        assert_ne!(found, logits(&device, &exact, &whole(&set)));
        let place = tempdir().expect("a folder");
        let dir = place.path().join("saved");
        write_dir(&RealFs, &dir, &model.files(&device).expect("files")).unwrap_or_else(|e| panic!("{e}"));
        let saved = json(&dir.join("config.json"))["tempra_attention"].clone();
        assert_eq!(saved["kind"], "performer");
        assert_eq!((&saved["features"], &saved["draw"]), (&serde_json::json!(12), &serde_json::json!(3)));
        let (again, _) = open(&device, &dir, &Options::default());
        assert_eq!(again.performer(), model.performer());
        assert_eq!(bits(&logits(&device, &again, &whole(&set))), bits(&found));
        let back = Options { attention: Some(Attention::Exact), ..Options::default() };
        let (back, _) = open(&device, &dir, &back);
        assert_eq!(bits(&logits(&device, &back, &whole(&set))), bits(&logits(&device, &exact, &whole(&set))));
        let files = back.files(&device).expect("files");
        write_dir(&RealFs, &dir, &files).unwrap_or_else(|e| panic!("{e}"));
        assert!(json(&dir.join("config.json")).get("tempra_attention").is_none());
    }
}

#[test]
fn a_choice_that_makes_no_sense_is_refused() {
    let place = tempdir().expect("a folder");
    let from = golden("bert/a");
    std::fs::copy(from.join("model.safetensors"), place.path().join("model.safetensors")).expect("copied");
    for wrong in [
        serde_json::json!({ "kind": "nystrom", "features": 4, "redraw": 1, "seed": "1", "draw": 0 }),
        serde_json::json!({ "kind": "performer", "features": 0, "redraw": 1, "seed": "1", "draw": 0 }),
        serde_json::json!("performer"),
    ] {
        let mut config = json(&from.join("config.json"));
        config["tempra_attention"] = wrong;
        std::fs::write(place.path().join("config.json"), config.to_string()).expect("written");
        let Err(e) = Model::open(&cpu(1), place.path(), &Options::default()) else { panic!("opened") };
        assert!(e.to_string().contains("tempra_attention"), "{e}");
    }
}

/// The report after the swap: an error for every layer, smaller with more features; of nothing where
/// attention is exact.
#[test]
fn the_report_has_a_distance_for_every_layer() {
    let device = cpu(2);
    let from = golden("bert/a");
    let (set, _) = problem(&json(&from.join("fixture.json")));
    let distances = |options: &Options| -> Vec<f64> {
        let (model, _) = open(&device, &from, options);
        let run = || {
            logits(&device, &model, &whole(&set));
            Ok(())
        };
        model.approximation(run).expect("distances").iter().map(Distance::relative).collect()
    };
    assert!(distances(&Options::default()).is_empty());
    let [few, many] = [32, 2048].map(|m| distances(&approximated(m)));
    println!("32 features {few:?}, 2048 features {many:?}");
    assert!(few.len() == 3 && many.len() == 3);
    assert!(few.iter().zip(&many).all(|(few, many)| *many > 0.0 && many < few), "{few:?} {many:?}");
}

/// The op's output comes to exact attention's as its number of features grows: the error falls with its root.
#[test]
fn the_output_approaches_exact_attention_with_the_root_of_the_number_of_features() {
    let device = cpu(2);
    let (heads, dim, tokens) = (2, DIM, 24);
    let mut rng = Rng::new(2, "root", 0);
    let values: Vec<f32> = (0..tokens * 3 * heads * dim).map(|_| 0.5 * rng.normal() as f32).collect();
    let qkv = device.upload(DType::F32, &[tokens, 3 * heads * dim], &values).expect("memory");
    let bounds = device.upload(DType::U32, &[3], &[0, 9, tokens as u32]).expect("memory");
    let run = |op: &dyn Op, x: &[&Tensor]| {
        let specs: Vec<&Spec> = x.iter().map(|t| &t.spec).collect();
        let plan = op.plan(&device.caps(), &specs).expect("a plan");
        let make = |s: &Spec| device.zeros(s.dtype, &s.shape).expect("memory");
        let y: Vec<_> = plan.outputs.iter().chain(&plan.saved).map(make).collect();
        device.forward(op, Forward { x, y: &y.iter().collect::<Vec<_>>() }).expect("forward");
        floats(&device, &y[0])
    };
    let scale = 1.0 / (dim as f32).sqrt();
    let exact = run(&ExactAttention { heads, scale, dropout: None, window: None }, &[&qkv, &bounds]);
    let error = |m: usize| {
        let draws = 40;
        let one = |i| {
            let w = device.upload(DType::F32, &[m, dim], &features(1, 0, i, [m, dim])).expect("memory");
            let found = run(&Favor { heads, scale }, &[&qkv, &bounds, &w]);
            found.iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum::<f64>()
        };
        ((0..draws).map(one).sum::<f64>() / draws as f64).sqrt() / l2(&exact)
    };
    let errors = [128, 512, 2048].map(error);
    println!("relative errors with 128, 512, 2048 features: {errors:.4?}");
    assert!(errors.windows(2).all(|e| (1.7..2.4).contains(&(e[0] / e[1]))), "{errors:?}");
}

/// What a text is batched with must not matter, tokens that only fill up a batch included.
#[test]
fn company_order_and_filling_change_no_approximated_model() {
    let device = cpu(2);
    for (from, fixture) in fixtures() {
        let (set, task) = problem(&fixture);
        let (model, _) = open(&device, &from, &approximated(20));
        let all = set.len() as u32;
        let alone: Vec<Vec<f64>> = (0..all).map(|i| logits(&device, &model, &cut(&set, &[i], 1))).collect();
        let (mut rng, mut worst) = (Rng::new(9, "company", 0), 0f64);
        for (size, parts) in [(2, 1), (3, 1), (7, 2), (16, 1), (16, 3)] {
            let mut order: Vec<u32> = (0..all).collect();
            rng.shuffle(&mut order);
            order.truncate(size);
            let mut batches = cut(&set, &order, parts);
            batches.iter_mut().for_each(|b| b.fill_up());
            let together = logits(&device, &model, &batches);
            for (row, &i) in together.chunks(alone[0].len()).zip(&order) {
                worst = worst.max(max_difference(row, &alone[i as usize]));
            }
        }
        assert!(worst <= 1e-5, "{}: {worst:e}", from.display());
        // Nor how a step is cut.
        let exact = Options { dtype: DType::F64, ..approximated(20) };
        let (model, _) = open(&device, &from, &exact);
        let gradients_of = |parts| {
            pass(&device, &model, &*task, &set, &cut(&set, &[5, 0, 12, 3], parts), Some((7, 3)));
            gradients(&device, &model)
        };
        let (full, parts) = (gradients_of(1), gradients_of(3));
        for ((name, a), (_, b)) in full.iter().zip(&parts).filter(|((n, _), _)| !zero_gradient(n)) {
            assert!(relative(b, a) <= 1e-11, "{name}: {:e}", relative(b, a));
        }
    }
}

/// Peak memory of both passes over one sequence.
fn peak(op: &dyn Op, inputs: &[Spec]) -> usize {
    let Device::Cpu(cpu) = Device::open("cpu", 1).expect("the CPU") else { panic!("another device") };
    let device = Device::Cpu(cpu);
    let zeros = |s: &Spec| device.zeros(s.dtype, &s.shape).expect("memory");
    let x: Vec<_> = inputs.iter().map(zeros).collect();
    device.write(&x[1], &[0, inputs[0].shape[0] as u32]).expect("bounds");
    let plan = op.plan(&device.caps(), &inputs.iter().collect::<Vec<_>>()).expect("a plan");
    let y: Vec<_> = plan.outputs.iter().chain(&plan.saved).map(zeros).collect();
    let dx = zeros(&inputs[0]);
    let (x, y): (Vec<_>, Vec<_>) = (x.iter().collect(), y.iter().collect());
    device.forward(op, Forward { x: &x, y: &y }).expect("forward");
    let mut wanted: Vec<Option<Grad>> = vec![None; x.len()];
    wanted[0] = Some(Grad::new(&dx, false));
    let backward = Backward { x: &x, y: &y, dy: &[Some(y[0])], dx: &wanted };
    device.backward(op, backward).expect("backward");
    let Device::Cpu(cpu) = &device else { panic!("another device") };
    cpu.memory().peak
}

#[test]
fn memory_is_linear_in_the_length() {
    let at = |len: usize| {
        let of = |dtype, shape: &[usize]| Spec::new(dtype, shape);
        let inputs = [of(DType::F32, &[len, 3 * 64]), of(DType::U32, &[2]), of(DType::F32, &[110, 32])];
        peak(&Favor { heads: 2, scale: 0.17 }, &inputs) as f64
    };
    let [one, two, four] = [4096, 8192, 16384].map(at);
    // Twice the length adds as much as the length before it, and twice that as much again.
    let growth = (four - two) / (two - one);
    assert!((1.9..2.1).contains(&growth), "{one} {two} {four}");
    // Scores of 16384 x 16384 alone would be a gibibyte.
    assert!(four < 64e6, "{four}");
}

/// From which length on FAVOR+ is faster than exact attention on this CPU.
/// `cargo test --test all -- --ignored crossover`.
#[test]
#[ignore = "a measurement"]
fn crossover_with_exact_attention() {
    let device = cpu(0);
    let (heads, dim) = (12, 64);
    let m = default_features(dim);
    let mut rng = Rng::new(1, "crossover", 0);
    println!(
        "{} | {heads} heads of {dim}, {m} features; milliseconds forward + backward",
        device.caps().name
    );
    for len in [64, 128, 256, 512, 1024, 2048, 4096] {
        let values: Vec<f32> = (0..len * 3 * heads * dim).map(|_| rng.normal() as f32).collect();
        let qkv = device.upload(DType::F32, &[len, 3 * heads * dim], &values).expect("memory");
        let bounds = device.upload(DType::U32, &[2], &[0, len as u32]).expect("memory");
        let w = device.upload(DType::F32, &[m, dim], &features(1, 0, 0, [m, dim])).expect("memory");
        let time = |op: &dyn Op, x: &[&Tensor]| {
            let specs: Vec<&Spec> = x.iter().map(|t| &t.spec).collect();
            let plan = op.plan(&device.caps(), &specs).expect("a plan");
            let make = |s: &Spec| device.zeros(s.dtype, &s.shape).expect("memory");
            let y: Vec<_> = plan.outputs.iter().chain(&plan.saved).map(make).collect();
            let (y, dx) = (y.iter().collect::<Vec<_>>(), make(&x[0].spec));
            let mut wanted: Vec<Option<Grad>> = vec![None; x.len()];
            wanted[0] = Some(Grad::new(&dx, false));
            let mut best = f64::INFINITY;
            for _ in 0..3 {
                let begun = std::time::Instant::now();
                device.forward(op, Forward { x, y: &y }).expect("forward");
                let backward = Backward { x, y: &y, dy: &[Some(y[0])], dx: &wanted };
                device.backward(op, backward).expect("backward");
                best = best.min(begun.elapsed().as_secs_f64());
            }
            1e3 * best
        };
        let scale = 1.0 / (dim as f32).sqrt();
        let exact = time(&ExactAttention { heads, scale, dropout: None, window: None }, &[&qkv, &bounds]);
        let linear = time(&Favor { heads, scale }, &[&qkv, &bounds, &w]);
        println!("{len:>5}: exact {exact:>8.1}, FAVOR+ {linear:>8.1}");
    }
}

fn tempra(dir: &Path, output: &str, sets: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tempra"));
    command.current_dir(dir).args(["train", "recipe.toml", "--set", &format!("output={output}")]);
    sets.iter().for_each(|set| _ = command.args(["--set", set]));
    let out = command.output().expect("it runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn accuracy(dir: &Path, output: &str) -> f64 {
    json(&dir.join(output).join("metrics.json"))["accuracy"].as_f64().expect("an accuracy")
}

/// Sentences of which one word tells the class, somewhere; the first token has to find it.
fn setting(epochs: u32) -> tempfile::TempDir {
    let dir = tempdir().expect("a folder");
    let mut rng = Rng::new(3, "performer test", 0);
    let words = ["the", "film", "was", "a", "story", "of", "time"];
    let mut text = String::from("text,label\n");
    for _ in 0..400 {
        let n = 4 + rng.below(8);
        let good = rng.below(2) == 1;
        let mut sentence: Vec<&str> = (0..n).map(|_| words[rng.below(words.len() as u32) as usize]).collect();
        sentence.insert(rng.below(n) as usize, if good { "good" } else { "bad" });
        text += &format!("{},{}\n", sentence.join(" "), if good { "yes" } else { "no" });
    }
    std::fs::write(dir.path().join("data.csv"), text).expect("written");
    let model = std::env::current_dir().expect("a folder").join("tests/golden/bert/a");
    let recipe = format!(
        "task = \"classify\"\nseed = 5\nthreads = 2\n[model]\npath = {model:?}\n[data]\ntrain = \"data.csv\"\n\
         max_length = 16\nvalidation_fraction = 0.25\ncache = false\n[optim]\nlr = 2e-3\nwarmup_ratio = 0.1\n\
         [train]\nepochs = {epochs}\nbatch_size = 16\n"
    );
    std::fs::write(dir.path().join("recipe.toml"), recipe).expect("written");
    dir
}

#[test]
fn fine_tuning_after_the_swap_recovers_the_accuracy() {
    let dir = setting(6);
    let dir = dir.path();
    tempra(dir, "exact", &[]);
    let exact = accuracy(dir, "exact");
    let path = format!("model.path={}", dir.join("exact/model").display());
    let swap = [path.as_str(), "model.attention=performer", "model.attention_features=6"];
    // One step that changes nothing: what the swap alone costs.
    tempra(dir, "swapped", &[&swap[..], &["optim.lr=1e-12", "train.max_steps=1"]].concat());
    tempra(dir, "tuned", &[&swap[..], &["model.attention_redraw=10"]].concat());
    let (swapped, tuned) = (accuracy(dir, "swapped"), accuracy(dir, "tuned"));
    println!("exact {exact}, swapped {swapped}, fine-tuned {tuned}");
    assert!(exact > 0.95 && tuned >= exact - 0.02, "exact {exact}, swapped {swapped}, fine-tuned {tuned}");
    let journal = std::fs::read_to_string(dir.join("tuned/metrics.jsonl")).expect("a journal");
    let first: Value = serde_json::from_str(journal.lines().next().expect("a line")).expect("JSON");
    let errors = numbers(&first["attention_error"]);
    assert!(errors.len() == 3 && errors.iter().all(|e| *e > 0.0 && e.is_finite()), "{errors:?}");
}

/// Features are redrawn every five steps; a run that goes on in between ends with the same bits.
#[test]
fn a_run_that_goes_on_between_redraws_ends_with_the_same_bits() {
    let dir = setting(2);
    let dir = dir.path();
    let sets = [
        "model.attention=performer",
        "model.attention_redraw=5",
        "train.save_every=7",
        "train.keep_checkpoints=9",
        "train.load_best=false",
    ];
    tempra(dir, "whole", &sets);
    tempra(dir, "parts", &sets);
    let weights =
        |output: &str| std::fs::read(dir.join(output).join("model/model.safetensors")).expect("read");
    let expected = weights("whole");
    let last = json(&dir.join("whole/model/config.json"))["tempra_attention"]["draw"].clone();
    assert!(last.as_u64().is_some_and(|draw| draw > 3), "{last}");
    // Back to step 14.
    let parts = dir.join("parts");
    for entry in std::fs::read_dir(&parts).expect("a folder").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let step = name.strip_prefix("checkpoint-").and_then(|n| n.parse::<u64>().ok());
        if step.is_some_and(|s| s > 14) || name == "model" {
            std::fs::remove_dir_all(entry.path()).expect("removed");
        }
    }
    tempra(dir, "parts", &sets);
    assert!(weights("parts") == expected, "the weights of the run that went on differ");
    assert_eq!(json(&dir.join("parts/model/config.json"))["tempra_attention"]["draw"], last);
}

/// Training on a GPU, where steps are captured and replayed and features are redrawn in between: the CPU's
/// losses.
fn trains_as_on_the_cpu(gpu: &Device) {
    let steps = 20;
    let [truth, found] = [&cpu(2), gpu].map(|device| learner::other_losses(device, steps));
    for (what, (truth, found)) in
        ["performer", "xlnet", "xlnet, permuted"].iter().zip(truth.iter().zip(&found))
    {
        assert_eq!(truth.len() as u64, steps);
        println!("{what}: losses {:?} to {:?}", truth.first(), truth.last());
        assert!(max_difference(found, truth) < 1e-4, "{what}: {truth:?} {found:?}");
    }
}

#[test]
fn cuda_trains_performers_and_xlnets() {
    let Some(device) = device("cuda") else { return };
    trains_as_on_the_cpu(&device);
}

#[test]
fn wgpu_trains_performers_and_xlnets() {
    let Some(device) = adapter() else { return };
    trains_as_on_the_cpu(&device);
}
