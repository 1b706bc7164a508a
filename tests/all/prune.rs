//! Magnitude pruning: which weights are masked when, and runs with it.

use crate::support::{cpu, device, floats, golden, json, logits, max_difference, numbers, problem, whole};
use crate::tasks::{data, prepared, recipe};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tempra::checkpoint::{RealFs, Weights, write_dir};
use tempra::compress::prune::{PruneSchedule, PruneScope, Pruning, choose_smallest, masked_units};
use tempra::error::{Error, Kind};
use tempra::models::{Model, Options};
use tempra::ops::UPDATE_RULES;
use tempra::ops::update::Settings;
use tempra::optim::Optimizer;
use tempra::params::{MaskUnit, Masking};
use tempra::shape::DType;
use tempra::train::pass::pass;
use tempra::train::{self, Control, Event, Observer, Outcome, PrunedUnits, Recipe, Signals};

/// PyTorch's masks of the same weights (tests/golden/make_prune.py).
#[test]
fn the_smallest_weights_are_masked() {
    let golden = json(&golden("prune.json"));
    let matrices: Vec<Vec<f32>> = golden["weights"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| numbers(m).into_iter().map(|v| v as f32).collect())
        .collect();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let scope = if case["scope"] == "global" { PruneScope::Global } else { PruneScope::Matrix };
        let sparsity = case["sparsity"].as_f64().unwrap();
        let found = choose_smallest(&matrices, sparsity, scope);
        for (found, expected) in found.iter().zip(case["masks"].as_array().unwrap()) {
            let found: Vec<f64> = found.iter().map(|&k| f64::from(k)).collect();
            assert_eq!(found, numbers(expected), "{scope:?} {sparsity}");
        }
    }
}

/// Equal weights are masked all over the matrix, as many as asked for, and zeros of either sign are equal.
#[test]
fn ties_are_spread() {
    for value in [0.0, -0.0, 0.25] {
        let mask = choose_smallest(&[vec![value; 64 * 64]], 0.5, PruneScope::Matrix).remove(0);
        assert_eq!(mask.iter().filter(|&&k| k == 0).count(), 2048);
        for row in mask.chunks(64) {
            let kept = row.iter().filter(|&&k| k == 1).count();
            assert!((16..=48).contains(&kept), "{value}: a row keeps {kept} of 64");
        }
    }
    let zeros: Vec<f32> = (0..100).map(|i| if i % 2 == 0 { 0.0 } else { -0.0 }).collect();
    assert_eq!(
        choose_smallest(&[zeros], 0.3, PruneScope::Matrix),
        choose_smallest(&[vec![0.0; 100]], 0.3, PruneScope::Matrix)
    );
    assert_eq!(
        choose_smallest(&[vec![], vec![1.0]], 0.9, PruneScope::Global),
        [vec![], vec![1]],
        "rounded down"
    );
}

/// Zhu and Gupta 2017, eq. 1, with s_i = 0, s_f = 0.8, t_0 = 10, n dt = 40.
#[test]
fn sparsity_rises_with_the_cubic_schedule() {
    let s = PruneSchedule::new([0.1, 0.5], 5, 100);
    assert_eq!((s.begin, s.end), (10, 50));
    for (step, expected) in
        [(0, 0.0), (9, 0.0), (10, 0.0), (20, 0.4625), (30, 0.7), (40, 0.7875), (50, 0.8), (99, 0.8)]
    {
        let found = 0.8 * s.progress_at(step);
        assert!((found - expected).abs() < 1e-12, "{step}: {found}");
    }
    let due: Vec<u64> = (0..100).filter(|&step| s.due(step).is_some()).collect();
    assert_eq!(due, [10, 15, 20, 25, 30, 35, 40, 45, 50]);
    assert_eq!((s.due(50), s.is_complete(50), s.is_complete(51)), (Some(1.0), false, true));
    // All at once, and a run of one step.
    let once = PruneSchedule::new([0.2, 0.0], 10, 50);
    assert_eq!((0..50).filter_map(|t| once.due(t)).collect::<Vec<_>>(), [1.0]);
    assert_eq!(PruneSchedule::new([0.0, 0.9], 10, 1).due(0), Some(1.0));
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let least = "task = \"classify\"\n[model]\npath = \"org/model\"\n[data]\ntrain = \"a.csv\"\n[prune]\n";
    for (line, what) in [
        ("sparsity = 1.0", "prune.sparsity is invalid"),
        ("sparsity = -0.1", "prune.sparsity is invalid"),
        ("sparsity = 0.5\nscope = \"row\"", "prune.scope is invalid"),
        ("sparsity = 0.5\nend = 1.0", "prune.end is invalid"),
        ("sparsity = 0.5\nevery = 0", "prune.every is invalid"),
        ("method = \"moved\"", "prune.method is invalid"),
        ("heads = 1.0", "prune.heads is invalid"),
        ("ffn = -0.5", "prune.ffn is invalid"),
        ("sparsity = 0.5\nparameters = 9", "prune.sparsity and prune.parameters are both set"),
        ("method = \"soft_movement\"\nsparsity = 0.5", "prune.sparsity is set, but prune.method"),
        ("method = \"soft_movement\"\nthreshold = 1.0", "prune.threshold is invalid"),
    ] {
        let e = Recipe::from_toml(&format!("{least}{line}"), Path::new("/a/r.toml"), &[]).expect_err(line);
        assert!(e.kind() == Kind::Usage && e.to_string().contains(what), "{line}: {e}");
    }
}

/// Runs of a version without pruning can be resumed; what has no effect changes no run.
#[test]
fn a_recipe_without_pruning_has_the_hash_that_it_had() {
    let least = "task = \"classify\"\n[model]\npath = \"org/model\"\n[data]\ntrain = \"a.csv\"\n";
    let read = |lines: &str| {
        Recipe::from_toml(&format!("{least}{lines}"), Path::new("/a/r.toml"), &[]).expect("a recipe")
    };
    let (none, off, on) =
        (read(""), read("[prune]\nscope = \"global\"\n"), read("[prune]\nsparsity = 0.5\n"));
    assert!(none.hash() == off.hash() && none.hash() != on.hash());
    assert_ne!(on.hash(), read("[prune]\nsparsity = 0.5\nevery = 7\n").hash());
}

/// Stops a run after a step.
struct Stop(u64);

impl Observer for Stop {
    fn event(&mut self, event: &Event) -> Control {
        match event {
            Event::Step(log) if log.step == self.0 => Control::Stop,
            _ => Control::Continue,
        }
    }
}

/// A run of twenty steps with pruning, stopped after a step.
pub fn run(dir: &Path, output: &str, prune: &str, after: u64) -> Result<Outcome, Error> {
    let text = recipe("classify", "classify.csv", "", output).replace("max_steps = 3", "max_steps = 20");
    let file = dir.join("r.toml");
    std::fs::write(&file, format!("{text}\n[prune]\n{prune}\n")).expect("written");
    let mut read = Recipe::load(&file, &[]).unwrap_or_else(|e| panic!("{e}"));
    read.output = dir.join(output);
    train::train(&read, false, Arc::new(RealFs), &Signals::default(), &mut Stop(after))
}

/// The tensors of a file.
pub fn tensors(file: &Path) -> BTreeMap<String, Vec<f32>> {
    let file = Weights::open(file).expect("a file of tensors");
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    let read = |name: String| {
        let mut values = vec![0f32; file.get(&name).expect("a tensor").shape.iter().product()];
        file.f32_into(&name, &mut values).expect("values");
        (name, values)
    };
    names.into_iter().map(read).collect()
}

pub fn is_pruned(name: &str) -> bool {
    name.contains("encoder.layer.") && name.ends_with("weight") && !name.contains("LayerNorm")
}

/// The model's folder holds the zeros, in the matrices of the layers only, as many as asked for. A run that
/// is stopped while the sparsity rises ends with the same bits. The masks do not come back in the saved
/// model.
#[test]
fn a_pruned_run_has_its_zeros_and_resumes() {
    let dir = tempfile::tempdir().expect("a folder");
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    for (name, prune, sparsity) in [
        ("matrix", "sparsity = 0.6\nend = 0.5\nevery = 3", 0.6),
        ("global", "sparsity = 0.5\nscope = \"global\"\nbegin = 0.2\nend = 0.2", 0.5),
        ("movement", "method = \"movement\"\nsparsity = 0.6\nend = 0.5\nevery = 3", 0.6),
        ("movement-global", "method = \"movement\"\nsparsity = 0.85\nscope = \"global\"\nevery = 4", 0.85),
    ] {
        let model = |done: Outcome| tensors(&done.model.join("model.safetensors"));
        let done = run(dir.path(), name, prune, 0).unwrap_or_else(|e| panic!("{e}"));
        let pruned = done.pruned.clone();
        assert_eq!(json(&dir.path().join(name).join("metrics.json"))["pruned"], serde_json::json!(pruned));
        let found = model(done);
        let zeros = |v: &[f32]| v.iter().filter(|&&v| v == 0.0).count();
        let (mut all, mut zero, mut matrices) = (0, 0, 0);
        for (tensor, values) in &found {
            if is_pruned(tensor) {
                (all, zero, matrices) = (all + values.len(), zero + zeros(values), matrices + 1);
                let expected = (sparsity * values.len() as f64) as usize;
                // Queries, keys and values are one matrix.
                let own = !name.contains("global") && !tensor.contains("attention.self");
                assert!(!own || zeros(values) == expected, "{tensor}: {} {expected}", zeros(values));
            } else {
                assert!(
                    zeros(values) < values.len() / 2 || tensor.ends_with("bias"),
                    "{tensor} is not pruned"
                );
            }
        }
        let expected = PrunedUnits { what: "weights".to_owned(), masked: zero, of: all };
        assert_eq!(pruned, [expected], "{name}");
        assert!(matrices >= 12 && (zero as f64 / all as f64 - sparsity).abs() < 1e-3, "{zero} of {all}");

        let cut = format!("{name}-cut");
        // Between two choices of the masks.
        let stopped = run(dir.path(), &cut, prune, 7).unwrap_or_else(|e| panic!("{e}"));
        assert!(stopped.stopped_by.is_some());
        let resumed = model(run(dir.path(), &cut, prune, 0).unwrap_or_else(|e| panic!("{e}")));
        let bits = |t: BTreeMap<String, Vec<f32>>| -> Vec<(String, Vec<u32>)> {
            t.into_iter().map(|(n, v)| (n, v.iter().map(|v| v.to_bits()).collect())).collect()
        };
        assert!(bits(resumed) == bits(found), "{name}: resumed, the weights differ");
    }
}

/// A weight that is masked is a zero to the model: its outputs are those of the folder that it writes, in
/// which the zeros stand, and its gradient is zero.
fn masked_weights_are_zeros(kind: &str, dtypes: &[DType]) {
    let (set, task) = problem(&json(&golden("bert/a/fixture.json")));
    let folder = tempfile::tempdir().expect("a folder");
    for &dtype in dtypes {
        let Some(Ok(device)) = device(kind).map(|d| d.with_compute(dtype)) else { continue };
        let options = Options { training: true, masking: Masking::weights(), ..Options::default() };
        let (model, _) = Model::open(&device, &golden("bert/a"), &options).expect("a model");
        assert!(model.params.masks().len() >= 8, "four weights a layer");
        let before = logits(&device, &model, &whole(&set));
        let pruning = Pruning::magnitude(0.5, PruneScope::Matrix);
        pruning.choose_masks(&device, &model.params, 1.0).expect("masks");
        let masked = logits(&device, &model, &whole(&set));
        assert!(max_difference(&masked, &before) > 1e-3, "{kind}: nothing changed");

        let dir = folder.path().join(format!("{kind}-{:?}", device.caps().compute));
        write_dir(&RealFs, &dir, &model.files(&device).expect("files")).expect("written");
        let (written, _) = Model::open(&device, &dir, &Options::default()).expect("a model");
        let bits = |v: &[f64]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&logits(&device, &written, &whole(&set))), bits(&masked), "{kind}");

        pass(&device, &model, &*task, &whole(&set)[0], Some((1, 0)), 1.0, false).expect("a pass");
        model.params.zero_masked_gradients(&device).expect("masked");
        for p in &model.params.layout().list {
            let Some(kept) = model.params.kept(&device, p).expect("masks") else { continue };
            let grad = floats(&device, &model.params.grad(p).expect("inside").expect("a gradient"));
            assert!(kept.contains(&0) && kept.contains(&1), "{kind}: {}", p.name);
            assert!(grad.iter().zip(&kept).all(|(g, m)| *m == 1 || *g == 0.0), "{kind}: {}", p.name);
            assert!(grad.iter().any(|g| *g != 0.0), "{kind}: {} has no gradient", p.name);
        }
    }
}

/// A weight that is masked stays masked beside masks of heads and rows, although these leave it zeros to be
/// confused with; and the sparsity is that of what heads and rows leave.
#[test]
fn a_masked_weight_does_not_come_back() {
    let device = cpu(2);
    let units = MaskUnit::ALL.to_vec();
    let options = Options { training: true, masking: Masking { units, scores: None }, ..Options::default() };
    for scope in [PruneScope::Matrix, PruneScope::Global] {
        let (model, _) = Model::open(&device, &golden("bert/a"), &options).expect("a model");
        let pruning = Pruning { heads: 0.5, ffn: 0.5, ..Pruning::magnitude(0.5, scope) };
        let mut before: Option<Vec<Vec<f64>>> = None;
        for step in 1..=8 {
            pruning.choose_masks(&device, &model.params, f64::from(step) / 8.0).expect("masks");
            let masks: Vec<Vec<f64>> =
                model.params.masks().iter().map(|m| floats(&device, &m.mask)).collect();
            for (m, (now, then)) in masks.iter().zip(before.iter().flatten()).enumerate() {
                assert!(
                    now.iter().zip(then).all(|(now, then)| now <= then),
                    "{scope:?}: mask {m}, step {step}"
                );
            }
            // As training would, all weights but the masked ones move.
            for m in model.params.masks() {
                let moved: Vec<f32> =
                    floats(&device, &m.weight).iter().map(|v| *v as f32 * 0.9 + 1e-3).collect();
                device.write(&m.weight, &moved).expect("written");
            }
            model.params.zero_masked_weights(&device).expect("masked");
            before = Some(masks);
        }
        let [weights, heads, rows] = masked_units(&device, &model.params).expect("counts");
        assert!(heads.0 * 2 == heads.1 && rows.0 * 2 == rows.1, "{heads:?} {rows:?}");
        let (mut free, mut masked) = (0, 0);
        for m in model.params.masks().iter().filter(|m| m.unit() == MaskUnit::Weight) {
            let mask = floats(&device, &m.mask);
            let others =
                model.params.masks().iter().filter(|o| o.unit() != m.unit() && o.shares_weight_with(m));
            let others: Vec<Vec<f64>> = others.map(|o| floats(&device, &o.mask)).collect();
            let cols = m.weight.spec.rows_cols().1;
            let covered = |i: usize| others.iter().any(|o| o[i % cols / (cols / o.len())] == 0.0);
            let own: Vec<f64> = (0..mask.len()).filter(|&i| !covered(i)).map(|i| mask[i]).collect();
            let gone = own.iter().filter(|v| **v == 0.0).count();
            assert!(scope == PruneScope::Global || gone >= own.len() / 2, "{gone} of {}", own.len());
            (free, masked) = (free + own.len(), masked + gone);
        }
        // What was masked before a head or row was may be more than half of what is left.
        let share = masked as f64 / free as f64;
        assert!((0.499..0.56).contains(&share), "{scope:?}: {share} of {free}, {weights:?}");
    }
}

/// A layer may lose all heads and all rows from the first step on: what only they would train is not missed.
#[test]
fn a_layer_without_heads_and_rows_trains() {
    let dir = tempfile::tempdir().expect("a folder");
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    let prune = "heads = 0.99\nffn = 0.999\nscope = \"global\"\nend = 0";
    let done = run(dir.path(), "empty", prune, 0).unwrap_or_else(|e| panic!("{e}"));
    assert!(done.steps == 20 && done.pruned.iter().all(|u| u.masked + 1 >= u.of), "{:?}", done.pruned);
}

/// A weight that no loss reaches gets no mask whose scores could not be trained.
#[test]
fn what_no_loss_reaches_has_no_scores() {
    let device = cpu(1);
    let open = |scores: Option<f32>, unreached: &[String]| {
        let masking = Masking { scores, ..Masking::weights() };
        let options =
            Options { training: true, masking, unreached: unreached.to_vec(), ..Options::default() };
        Model::open(&device, &golden("bert/a"), &options).expect("a model").0
    };
    let model = open(Some(1.0), &[]);
    let name = "bert.encoder.layer.1.attention.output.dense.weight".to_owned();
    assert!(model.params.layout().list.iter().any(|p| p.name == name));
    let all = model.params.masks().len();
    assert_eq!(open(Some(1.0), std::slice::from_ref(&name)).params.masks().len(), all - 1);
    assert_eq!(open(None, &[name]).params.masks().len(), all, "magnitudes need no loss");
}

/// Where a model is pruned and learns from a teacher that the recipe does not name, that is its dense self.
#[test]
fn the_dense_self_is_the_default_teacher() {
    let least = "task = \"classify\"\n[model]\npath = \"org/model\"\n[data]\ntrain = \"a.csv\"\n";
    let read = |lines: &str| {
        let read = Recipe::from_toml(&format!("{least}{lines}"), Path::new("/a/r.toml"), &[]);
        read.expect("a recipe").distill.teacher
    };
    let pruned = "[prune]\nsparsity = 0.5\n";
    assert_eq!(read(&format!("{pruned}[distill]\nweight = 0.9\n")).as_deref(), Some("org/model"));
    let named = format!("{pruned}[distill]\nteacher = \"org/other\"\n");
    assert_eq!(read(&named).as_deref(), Some("org/other"));
    assert_eq!([read(pruned), read("[distill]\nweight = 0.9\n")], [None, None]);
}

/// With moments of earlier steps, weight decay, and masks that are chosen between two steps: what is masked
/// is 0 after the step, to the bit, with each update rule.
#[test]
fn every_update_rule_leaves_masked_weights_at_zero() {
    let (set, task) = problem(&json(&golden("bert/a/fixture.json")));
    let device = cpu(2);
    for rule in UPDATE_RULES {
        let options = Options { training: true, masking: Masking::weights(), ..Options::default() };
        let (model, _) = Model::open(&device, &golden("bert/a"), &options).expect("a model");
        let settings = Settings { weight_decay: 0.1, momentum: 0.9, rule, ..Settings::default() };
        let mut optimizer = Optimizer::new(&device, &model.params, settings).expect("an optimizer");
        let pruning = Pruning::magnitude(0.5, PruneScope::Matrix);
        for step in 0..3 {
            if step == 1 {
                pruning.choose_masks(&device, &model.params, 1.0).expect("masks");
                optimizer.zero_masked_states(&device, &model.params).expect("masked");
            }
            if step == 2 {
                // As a checkpoint of another version may have them.
                for s in optimizer.states() {
                    device.write(&s.tensor, &vec![0.1f32; s.tensor.spec.len()]).expect("written");
                }
                optimizer.zero_masked_states(&device, &model.params).expect("masked");
            }
            let loss = pass(&device, &model, &*task, &whole(&set)[0], Some((1, step)), 1.0, false);
            let loss = loss.expect("a pass").loss;
            optimizer.step(&device, &model.params, &[loss], 1e-2).expect("a step");
            let found = optimizer.synchronize(&device).expect("a step");
            assert!(found.iter().all(|s| !s.skipped && s.norm > 0.0), "{}", rule.name);
        }
        for p in &model.params.layout().list {
            let Some(kept) = model.params.kept(&device, p).expect("masks") else { continue };
            let value = floats(&device, &model.params.value(p).expect("inside"));
            let masked = value.iter().zip(&kept).filter(|(_, m)| **m == 0);
            assert!(masked.clone().count() > 0 && masked.clone().all(|(v, _)| *v == 0.0), "{}", p.name);
            assert!(value.iter().zip(&kept).any(|(v, m)| *m == 1 && *v != 0.0), "{}", p.name);
        }
    }
}

#[test]
fn masked_weights_are_zeros_to_the_model() {
    masked_weights_are_zeros("cpu", &[DType::F32]);
}

#[test]
fn wgpu_masked_weights_are_zeros_to_the_model() {
    masked_weights_are_zeros("wgpu", &[DType::F32, DType::F16]);
}

/// In 16 bits the copies that kernels read have the zeros too.
#[test]
fn cuda_masked_weights_are_zeros_to_the_model() {
    masked_weights_are_zeros("cuda", &[DType::F16]);
}
