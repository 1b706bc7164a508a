//! Movement pruning: which scores keep their weights, the gradient of a score, and what a run keeps of them.

use crate::prune::{is_pruned, run, tensors};
use crate::support::{cpu, floats, golden, json, numbers, open, problem, whole};
use crate::tasks::{data, prepared};
use std::collections::{BTreeMap, BTreeSet};
use tempra::compress::prune::{PruneScope, choose, choose_above, write_mask};
use tempra::device::{Device, Tensor};
use tempra::models::Options;
use tempra::ops::score_penalty::ScorePenalty;
use tempra::params::{MaskUnit, Masking, PruningMask};
use tempra::rng::Rng;
use tempra::shape::DType;
use tempra::train::pass::pass;

/// PyTorch's masks of the same scores (tests/golden/make_movement.py).
#[test]
fn the_highest_scores_keep_their_weights() {
    let golden = json(&golden("movement.json"));
    let read = |m: &serde_json::Value| numbers(m).into_iter().map(|v| v as f32).collect();
    let scores: Vec<Vec<f32>> = golden["scores"].as_array().expect("scores").iter().map(read).collect();
    let cases = golden["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 6);
    for case in cases {
        let found = match (case["share"].as_f64(), case["tau"].as_f64()) {
            (Some(share), _) => choose(&scores, 1.0 - share, PruneScope::Matrix),
            (_, tau) => choose_above(&scores, tau.expect("a threshold")),
        };
        for (found, expected) in found.iter().zip(case["masks"].as_array().expect("masks")) {
            let found: Vec<f64> = found.iter().map(|&k| f64::from(k)).collect();
            assert_eq!(found, numbers(expected), "{case:.60}");
        }
    }
}

/// Scores of either sign are in order, and equal ones, as all are at first, lose weights all over the matrix.
/// A threshold that no score reaches leaves 0.5 % of a matrix.
#[test]
fn scores_are_ordered_and_something_stays() {
    let scores = vec![vec![-2.0, 0.5, -0.5, 0.0, 3.0, -1.0]];
    assert_eq!(choose(&scores, 0.5, PruneScope::Matrix), [[0, 1, 0, 1, 1, 0]]);
    let equal = choose(&[vec![0.0; 64 * 64]], 0.25, PruneScope::Matrix).remove(0);
    assert_eq!(equal.iter().filter(|&&k| k == 0).count(), 1024);
    assert!(equal.chunks(64).all(|row| (1..64).contains(&row.iter().filter(|&&k| k == 0).count())));

    assert_eq!(choose_above(&[vec![-1.0, 0.0, 1.0]], 0.5), [[0, 0, 1]], "a sigmoid above it");
    let low: Vec<f32> = (0..1000).map(|i| -10.0 - i as f32).collect();
    let kept = choose_above(&[low, vec![-9.0, -8.0]], 0.1);
    assert!(kept[0][..5].iter().all(|&k| k == 1) && kept[0].iter().filter(|&&k| k == 1).count() == 5);
    assert_eq!(kept[1], [0, 1], "and at least one");
}

fn write(device: &Device, t: &Tensor, values: &[f64]) {
    match t.spec.dtype {
        DType::F64 => device.write(t, values),
        _ => device.write(t, &values.iter().map(|&v| v as f32).collect::<Vec<_>>()),
    }
    .expect("written");
}

/// The gradient of a score is the derivative of the loss by its mask element, also where that is 0: central
/// differences in f64 for weights, heads and rows of feed-forward blocks.
#[test]
fn the_gradient_of_a_score_is_that_of_its_mask() {
    let (set, task) = problem(&json(&golden("bert/a/fixture.json")));
    let device = cpu(1);
    let masking = Masking { units: MaskUnit::ALL.to_vec(), scores: Some(10.0) };
    let options = Options { training: true, masking, dtype: DType::F64, ..Options::default() };
    let (model, _) = open(&device, &golden("bert/a"), &options);
    let batch = &whole(&set)[0];
    let run = || pass(&device, &model, &*task, batch, None, 1.0, false).expect("a pass");
    let mut rng = Rng::new(3, "masks", 0);
    let mut units = BTreeSet::new();
    for m in model.params.masks() {
        let mask: Vec<f64> = (0..m.mask.spec.len()).map(|i| f64::from(u8::from(i % 3 != 1))).collect();
        write(&device, &m.mask, &mask);
    }
    run();
    let scores = model.params.layout().list.iter().filter(|p| !p.is_exported());
    let grads: Vec<Vec<f64>> = scores
        .map(|p| floats(&device, &model.params.grad(p).expect("inside").expect("a gradient")))
        .collect();
    assert_eq!(grads.len(), model.params.masks().len());
    // The matrices of the first layer, and every head and row mask.
    for (i, (m, grad)) in model.params.masks().iter().zip(&grads).enumerate() {
        if i > 5 && m.unit() == MaskUnit::Weight {
            continue;
        }
        let (mask, most) = (floats(&device, &m.mask), grad.iter().fold(0f64, |a, g| a.max(g.abs())));
        assert!(most > 1e-6, "{} has no gradient", m.name());
        for i in [1, rng.below(mask.len() as u32) as usize] {
            let loss = |by: f64| {
                let mut moved = mask.clone();
                moved[i] += by;
                write(&device, &m.mask, &moved);
                floats(&device, &run().loss)[0]
            };
            let (h, (up, down)) = (1e-4, (loss(1e-4), loss(-1e-4)));
            let difference = (up - down) / (2.0 * h);
            assert!(
                (difference - grad[i]).abs() <= 1e-6 * most.max(1.0) * 1e-2 + 1e-5 * difference.abs(),
                "{} {i}: {difference} {}",
                m.name(),
                grad[i]
            );
        }
        write(&device, &m.mask, &mask);
        units.insert(format!("{:?}", m.unit()));
    }
    assert_eq!(units.len(), 3);
}

/// The penalty is that of PyTorch: lambda times the mean over the matrices of the mean sigmoid
/// (tests/golden/make_movement.py). It is added to the gradients of the scores.
#[test]
fn the_penalty_has_the_gradient_of_the_mean_sigmoid() {
    let golden = json(&golden("movement.json"));
    let (lambda, device) = (golden["penalty"]["lambda"].as_f64().expect("lambda"), cpu(1));
    let [scores, truth] = [&golden["scores"], &golden["penalty"]["gradients"]]
        .map(|all| all.as_array().expect("lists").iter().map(numbers).collect::<Vec<_>>());
    for (scores, truth) in scores.iter().zip(&truth) {
        let [s, g, l] = [&scores[..], &vec![0.25; scores.len()], &[lambda]]
            .map(|values| device.upload_reals(DType::F64, &[values.len()], values).expect("memory"));
        let share = 1.0 / (3 * scores.len()) as f32;
        device.step(&ScorePenalty { share }, &[&s, &g, &l]).expect("a step");
        let worst =
            floats(&device, &g).iter().zip(truth).map(|(g, t)| (g - 0.25 - t).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-9, "{worst}");
    }
}

/// Soft movement pruning: the penalty pushes scores below the threshold, more of them the larger it is, and a
/// run that is stopped in between ends with the same bits.
#[test]
fn the_penalty_prunes_and_the_run_resumes() {
    let dir = tempfile::tempdir().expect("a folder");
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    let read = |output: &str| tensors(&dir.path().join(output).join("model/model.safetensors"));
    let zeros = |output: &str| {
        let pruned = read(output).into_iter().filter(|(name, _)| is_pruned(name));
        pruned.map(|(_, values)| values.iter().filter(|v| **v == 0.0).count()).sum::<usize>()
    };
    let mut found = Vec::new();
    for (output, penalty) in [("free", 0.0), ("light", 1.0), ("heavy", 1e4)] {
        let prune = format!(
            "method = \"soft_movement\"\nscore_lr = 0.2\nthreshold = 0.3\nevery = 3\npenalty = {penalty}"
        );
        run(dir.path(), output, &prune, 0).unwrap_or_else(|e| panic!("{e}"));
        found.push(zeros(output));
        let cut = format!("{output}-cut");
        assert!(run(dir.path(), &cut, &prune, 7).unwrap_or_else(|e| panic!("{e}")).stopped_by.is_some());
        run(dir.path(), &cut, &prune, 0).unwrap_or_else(|e| panic!("{e}"));
        let bits = |all: BTreeMap<String, Vec<f32>>| -> Vec<Vec<u32>> {
            all.into_values().map(|v| v.into_iter().map(f32::to_bits).collect()).collect()
        };
        assert!(bits(read(output)) == bits(read(&cut)), "{output}: resumed, the weights differ");
    }
    assert!(found[0] < found[1] && found[1] < found[2], "{found:?}");
}

/// A checkpoint holds the scores, a model folder does not. With AdamW the first step moves each score by
/// their learning rate, against its gradient.
#[test]
fn scores_are_trained_and_stay_in_checkpoints() {
    let dir = tempfile::tempdir().expect("a folder");
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    let prune = "method = \"movement\"\nsparsity = 0.6\nscore_lr = 0.02";
    run(dir.path(), "run", prune, 1).unwrap_or_else(|e| panic!("{e}"));
    let checkpoint = dir.path().join("run/checkpoint-1");
    let scores = tensors(&checkpoint.join("optimizer.safetensors"));
    let scores: Vec<_> = scores.iter().filter(|(name, _)| name.starts_with("scores.")).collect();
    assert_eq!(scores.len(), 12, "four matrices in each of three layers");
    for (name, values) in scores {
        let moved = values.iter().filter(|v| (v.abs() - 0.02).abs() < 2e-3).count();
        assert!(moved * 10 > values.len() * 9, "{name}: {moved} of {}", values.len());
        assert!(values.iter().any(|v| *v > 0.0) && values.iter().any(|v| *v < 0.0), "{name}");
    }
    let model = tensors(&checkpoint.join("model.safetensors"));
    assert!(model.keys().all(|name| !name.contains("scores")));
}

/// The gradients of scores on another device are those of the CPU, for single weights, heads and rows.
fn scores_have_the_gradients_of_the_cpu(kind: &str, compute: DType, within: f64) {
    let (set, task) = problem(&json(&golden("bert/a/fixture.json")));
    let Some(device) = crate::support::device(kind) else { return };
    let Ok(device) = device.with_compute(compute) else { return };
    let gradients = |device: &Device| -> Vec<(String, Vec<f64>)> {
        let masking = Masking { units: MaskUnit::ALL.to_vec(), scores: Some(10.0) };
        let options = Options { training: true, masking, ..Options::default() };
        let (model, _) = open(device, &golden("bert/a"), &options);
        for m in model.params.masks() {
            let kept: Vec<u8> = (0..m.mask.spec.len()).map(|i| (i % 3 != 1) as u8).collect();
            write_mask(device, &m.mask, &kept).expect("a mask");
        }
        pass(device, &model, &*task, &whole(&set)[0], None, 1.0, false).expect("a pass");
        let of = |m: &PruningMask| (m.name(), floats(device, m.scores_grad.as_ref().expect("a gradient")));
        model.params.masks().iter().map(of).collect()
    };
    for ((name, found), (_, truth)) in gradients(&device).into_iter().zip(gradients(&cpu(1))) {
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
        let off = norm(&mut found.iter().zip(&truth).map(|(f, t)| f - t));
        let whole = norm(&mut truth.iter().copied());
        assert!(whole > 0.0 && off <= within * whole, "{kind} {name}: {off} of {whole}");
    }
}

#[test]
fn wgpu_scores_have_the_gradients_of_the_cpu() {
    scores_have_the_gradients_of_the_cpu("wgpu", DType::F32, 1e-4);
}

/// In 16 bits, where the scores are f32 and their masks are not.
#[test]
fn cuda_scores_have_the_gradients_of_the_cpu() {
    scores_have_the_gradients_of_the_cpu("cuda", DType::F16, 2e-2);
}
