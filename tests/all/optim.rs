//! Gradient norm, clipping and AdamW over parameter arenas against PyTorch (tests/golden/make_adamw.py); what
//! is frozen stays; learning rates by layer.

use crate::support::*;
use serde_json::Value;
use tempra::device::{Device, Tensor};
use tempra::models::Options;
use tempra::ops::update::UpdateRule;
use tempra::optim::{LossScale, Optimizer, Settings, StepResult};
use tempra::params::{ArenaKind, Layout, Param, Params, Training};
use tempra::rng::Rng;
use tempra::shape::DType;

/// The settings of a case; those that it does not name are not read by its optimizer.
fn settings(case: &Value) -> Settings {
    let default = Settings::default();
    let f = |key: &str, default: f32| case["settings"].get(key).map_or(default, |v| number(v) as f32);
    let rule = case.get("rule").map(|name| name.as_str().and_then(UpdateRule::find).expect("a rule"));
    Settings {
        rule: rule.unwrap_or(default.rule),
        beta1: f("beta1", default.beta1),
        beta2: f("beta2", default.beta2),
        eps: f("eps", default.eps),
        momentum: f("momentum", default.momentum),
        nesterov: case["settings"]["nesterov"].as_bool().unwrap_or(default.nesterov),
        weight_decay: f("weight_decay", default.weight_decay),
        max_grad_norm: f("max_grad_norm", default.max_grad_norm),
    }
}

fn training(params: &Params) -> &Training {
    params.training.as_ref().expect("parameters that are trained")
}

fn state_of<'a>(optimizer: &'a Optimizer, name: &str) -> &'a Tensor {
    optimizer.state(name).unwrap_or_else(|| panic!("no state {name}"))
}

fn param<'a>(params: &'a Params, name: &str) -> &'a Param {
    params.layout().list.iter().find(|p| p.name == name).unwrap_or_else(|| panic!("no {name}"))
}

/// The values of a parameter.
fn value(device: &Device, params: &Params, name: &str) -> Vec<f64> {
    floats(device, &params.value(param(params, name)).expect("inside"))
}

/// A trained parameter's part of a tensor that is as long as the trained arena.
fn part(device: &Device, params: &Params, arena: &Tensor, name: &str) -> Vec<f64> {
    floats(device, &params.view(arena, param(params, name)).expect("inside"))
}

/// The parameters of the golden file; moments zero.
fn params(device: &Device, golden: &Value, dtype: DType) -> Params {
    let mut layout = Layout::default();
    for p in golden["params"].as_array().expect("parameters") {
        let shape: Vec<usize> = numbers(&p["shape"]).iter().map(|&n| n as usize).collect();
        layout.add(p["name"].as_str().expect("a name"), &shape);
        let last = layout.list.last_mut().expect("just added");
        assert_eq!(Value::from(last.decay), p["decays"], "matrices decay: {}", last.name);
        last.lr_scale = number(&p["factor"]) as f32;
    }
    layout.freeze(&["pooler.".into()]).expect("there is one");
    Params::new(device, layout, dtype, true).expect("memory")
}

/// Runs a case; the greatest differences from PyTorch: of norms (relative), of values, of states (relative to
/// the largest).
fn run(case: &Value, golden: &Value, dtype: DType) -> [f64; 3] {
    let device = cpu(2);
    let params = params(&device, golden, dtype);
    for p in &params.layout().list {
        put(&device, &params.value(p).expect("inside"), &numbers(&case["start"][&p.name]));
    }
    let mut optimizer = Optimizer::new(&device, &params, settings(case)).expect("an optimizer");
    let mut off = [0f64; 3];
    for step in case["steps"].as_array().expect("steps") {
        for p in params.layout().list.iter().filter(|p| !p.frozen) {
            let grad = params.view(&training(&params).grad, p).expect("inside");
            put(&device, &grad, &numbers(&step["grads"][&p.name]));
        }
        let norm = update(&mut optimizer, &device, &params, number(&step["lr"]));
        let expected = number(&step["norm"]);
        off[0] = off[0].max((norm - expected).abs() / expected.max(1e-300));
        for p in &params.layout().list {
            let value = value(&device, &params, &p.name);
            off[1] = off[1].max(max_difference(&value, &numbers(&step["values"][&p.name])));
        }
    }
    assert_eq!(optimizer.states().len(), case["states"].as_object().expect("states").len());
    for p in params.layout().list.iter().filter(|p| !p.frozen) {
        for state in optimizer.states() {
            let expected = numbers(&case["states"][state.name][&p.name]);
            let largest = expected.iter().fold(0f64, |m, v| m.max(v.abs()));
            off[2] = off[2]
                .max(max_difference(&part(&device, &params, &state.tensor, &p.name), &expected) / largest);
        }
    }
    let value = value(&device, &params, "pooler.weight");
    assert_eq!(bits(&value), bits(&numbers(&case["start"]["pooler.weight"])), "frozen");
    off
}

/// Runs every case of a golden file in f64 and f32, within the bounds of [`run`]'s differences, and returns
/// the names of the cases.
pub fn agrees_with_pytorch(file: &str, bound: impl Fn(&str, DType) -> [f64; 3]) -> Vec<String> {
    let golden = json(&golden(file));
    let cases = golden["cases"].as_array().expect("cases");
    for case in cases {
        let name = case["name"].as_str().expect("a name");
        for dtype in [DType::F64, DType::F32] {
            let off = run(case, &golden, dtype);
            println!("{name} {dtype:?}: norms {:.1e}, values {:.1e}, states {:.1e}", off[0], off[1], off[2]);
            let bound = bound(name, dtype);
            assert!((0..3).all(|i| off[i] <= bound[i]), "{name} {dtype:?}: {off:?}, bounds {bound:?}");
        }
    }
    cases.iter().filter_map(|case| Some(case["name"].as_str()?.to_owned())).collect()
}

#[test]
fn ten_updates_are_those_of_pytorch() {
    let names = agrees_with_pytorch("adamw.json", |case, dtype| match (case, dtype) {
        // Nothing but the order of roundings differs.
        ("exact", DType::F64) => [1e-14, 1e-12, 1e-12],
        // Betas and the like are f32 in tempra: 0.999 is off by 1.3e-8, its complement by 1.3e-5, in v and in
        // its correction alike.
        ("defaults", DType::F64) => [1e-14, 1e-8, 2e-5],
        (_, DType::F32) => [1e-6, 1e-6, 2e-5],
        other => panic!("{other:?}"),
    });
    assert_eq!(names.len(), 2);
}

/// AdamW skips blocks of the arena that never had a gradient. Which ones those are must not show.
#[test]
fn words_that_come_late_are_updated_as_all_others() {
    const N: usize = 3 * 512 + 100;
    let device = cpu(2);
    let s = Settings {
        beta1: 0.875,
        beta2: 0.96875,
        eps: 1.0 / 1024.0,
        weight_decay: 0.125,
        max_grad_norm: 0.0,
        ..Settings::default()
    };
    let mut layout = Layout::default();
    layout.add("words", &[N, 1]);
    let params = Params::new(&device, layout, DType::F64, true).expect("memory");
    let mut optimizer = Optimizer::new(&device, &params, s).expect("an optimizer");
    let mut rng = Rng::new(1, "late", 0);
    let mut p: Vec<f64> = (0..N).map(|_| rng.normal()).collect();
    put(&device, &params.trained.value.view(0, &[N]).expect("inside"), &p);
    let (mut m, mut v) = (vec![0f64; N], vec![0f64; N]);
    for t in 1..=6 {
        if t == 4 {
            // As after a restart, with the moments put back.
            let before = optimizer;
            optimizer = Optimizer::new(&device, &params, s).expect("an optimizer");
            for (to, from) in optimizer.states().iter().zip(before.states()) {
                put(&device, &to.tensor, &floats(&device, &from.tensor));
            }
            optimizer.resume(&device, 3).expect("resumed");
        }
        // Words come and go: in step 2 the second half, in step 4 a single one, in step 5 none.
        let mut g = vec![0f64; N];
        match t {
            2 => g[N / 2..].fill_with(|| rng.normal()),
            4 => g[511] = 1.0,
            6 => g[..1030].fill_with(|| rng.normal()),
            _ => {}
        }
        put(&device, &training(&params).grad.view(0, &[N]).expect("inside"), &g);
        update(&mut optimizer, &device, &params, 0.25);
        // Loshchilov and Hutter 2019, algorithm 2, in PyTorch's form.
        let (c1, c2) = (1.0 - 0.875f64.powi(t), 1.0 - 0.96875f64.powi(t));
        for i in 0..N {
            m[i] = 0.875 * m[i] + 0.125 * g[i];
            v[i] = 0.96875 * v[i] + 0.03125 * g[i] * g[i];
            p[i] -= 0.25 * 0.125 * p[i] + 0.25 * (m[i] / c1) / ((v[i] / c2).sqrt() + 1.0 / 1024.0);
        }
        for (found, expected, what) in [
            (&params.trained.value, &p, "p"),
            (state_of(&optimizer, "exp_avg"), &m, "m"),
            (state_of(&optimizer, "exp_avg_sq"), &v, "v"),
        ] {
            let off = max_difference(&floats(&device, &found.view(0, &[N]).expect("inside")), expected);
            assert!(off <= 1e-12, "{what} in step {t}: {off:e}");
        }
    }
}

/// Frozen parameters beside trained ones in one tensor (queries, keys, values): no bit of them moves, their
/// gradient does not count in the norm, and what lies between parameters stays zero. A frozen tensor has no
/// gradient and no state.
#[test]
fn what_is_frozen_does_not_move() {
    for dtype in [DType::F32, DType::F64] {
        let device = cpu(2);
        let names = ["a.query", "a.key", "a.value"].map(String::from).to_vec();
        let mut layout = Layout::default();
        layout.add("odd", &[3, 1]);
        layout.join(names, &[2, 5], &[6, 5]);
        layout.add("whole.weight", &[7, 2]);
        layout.freeze(&["a.key".into(), "whole.".into()]).expect("both are there");
        let params = Params::new(&device, layout, dtype, true).expect("memory");
        let mut rng = Rng::new(4, "frozen", 0);
        let mut draw = |n: usize| (0..n).map(|_| rng.normal()).collect::<Vec<f64>>();
        for p in &params.layout().list {
            put(&device, &params.value(p).expect("inside"), &draw(p.len()));
            let grad = params.grad(p).expect("inside");
            assert_eq!(grad.is_none(), p.name.starts_with("whole."), "{}", p.name);
            grad.iter().for_each(|grad| put(&device, grad, &draw(p.len())));
        }
        // 3 and 30 elements, each group from a multiple of 64; 14 in the other arena.
        let lens = [ArenaKind::Trained, ArenaKind::Frozen].map(|a| params.layout().arena_len(a));
        assert_eq!(lens, [2 * 64, 64]);
        let of = |arena: &Tensor, name: &str| part(&device, &params, arena, name);
        let trained = ["odd", "a.query", "a.value"].map(|n| of(&training(&params).grad, n)).concat();
        let now = |p: &Param| value(&device, &params, &p.name);
        let before: Vec<Vec<f64>> = params.layout().list.iter().map(now).collect();
        let all = || floats(&device, &params.trained.value);
        let trains = |p: &&Param| p.arena == ArenaKind::Trained;
        let gaps: Vec<usize> = (0..all().len())
            .filter(|i| {
                let mut list = params.layout().list.iter().filter(trains);
                !list.any(|p| (p.offset..p.offset + p.len()).contains(i))
            })
            .collect();
        assert!(!gaps.is_empty(), "the test needs a gap");
        let s = Settings { weight_decay: 0.5, ..Settings::default() };
        let mut optimizer = Optimizer::new(&device, &params, s).expect("an optimizer");
        for _ in 0..3 {
            let norm = update(&mut optimizer, &device, &params, 0.1);
            assert!((norm - l2(&trained)).abs() <= 1e-6 * norm, "{norm}, of the trained {}", l2(&trained));
        }
        for (p, before) in params.layout().list.iter().zip(&before) {
            assert_eq!(bits(&now(p)) == bits(before), p.frozen, "{}", p.name);
            if !trains(&p) {
                assert!(optimizer.states().iter().all(|s| params.view(&s.tensor, p).is_err()), "{}", p.name);
                continue;
            }
            let moments = optimizer.states().iter().flat_map(|s| of(&s.tensor, &p.name)).collect::<Vec<_>>();
            assert_eq!(moments.iter().all(|&m| m == 0.0), p.frozen, "{}", p.name);
        }
        assert!(gaps.iter().all(|&i| all()[i].to_bits() == 0), "between the parameters");
        assert_eq!(params.count(), (3 + 30 + 14, 3 + 20));
    }
}

#[test]
fn freezing_what_is_not_there_is_refused() {
    let mut layout = Layout::default();
    layout.add("bert.pooler.dense.weight", &[2, 2]);
    let e = layout.freeze(&["bert.pooler.".into(), "bert.encodr.".into()]).expect_err("no such name");
    assert!(
        e.to_string().contains("`bert.encodr.`") && e.to_string().contains("bert.pooler.dense.weight"),
        "{e}"
    );
}

/// Three layers at half the rate a layer: by hand 1 for the head, 1/2, 1/4, 1/8, and 1/16 for the embeddings.
#[test]
fn learning_rates_fall_by_layer() {
    let device = cpu(1);
    let (dir, fixture) = (golden("bert/a"), json(&golden("bert/a/fixture.json")));
    let options = Options { training: true, layer_lr_decay: 0.5, dtype: DType::F64, ..Options::default() };
    let (model, _) = open(&device, &dir, &options);
    let scale = |name: &str| match name {
        n if n.starts_with("classifier.") || n.starts_with("bert.pooler.") => 1.0,
        n if n.starts_with("bert.encoder.layer.2.") => 0.5,
        n if n.starts_with("bert.encoder.layer.1.") => 0.25,
        n if n.starts_with("bert.encoder.layer.0.") => 0.125,
        n if n.starts_with("bert.embeddings.") => 0.0625,
        n => panic!("{n}"),
    };
    for p in &model.params.layout().list {
        assert_eq!(p.lr_scale, scale(&p.name), "{}", p.name);
    }
    // AdamW's first step without decay moves by lr * scale * g / (|g| + eps), bias corrections being those of
    // one step.
    let (set, task) = problem(&fixture);
    let before = values(&device, &model);
    pass(&device, &model, &*task, &set, &whole(&set), None);
    let s = Settings {
        max_grad_norm: 0.0,
        beta1: 0.875,
        beta2: 0.96875,
        eps: 1.0 / 1024.0,
        ..Settings::default()
    };
    let mut optimizer = Optimizer::new(&device, &model.params, s).expect("an optimizer");
    update(&mut optimizer, &device, &model.params, 0.25);
    for (((name, old), (_, new)), (_, g)) in
        before.iter().zip(values(&device, &model)).zip(gradients(&device, &model))
    {
        let expected: Vec<f64> = (old.iter().zip(&g))
            .map(|(p, g)| p - 0.25 * scale(name) as f64 * g / (g.abs() + 1.0 / 1024.0))
            .collect();
        assert!(max_difference(&new, &expected) <= 1e-12, "{name}");
    }
}

/// Steps that are not finite change nothing, wherever they fall among queued ones: not the values, not the
/// moments, not the bias corrections of the steps after them.
#[test]
fn steps_that_are_not_finite_change_nothing() {
    const N: usize = 700;
    let device = cpu(2);
    let train = |window: usize, bad: &[u64]| {
        let mut layout = Layout::default();
        layout.add("w", &[7, 100]);
        let params = Params::new(&device, layout, DType::F32, true).expect("memory");
        let s = Settings { weight_decay: 0.1, ..Settings::default() };
        let mut optimizer = Optimizer::with_window(&device, &params, s, window).expect("an optimizer");
        let (mut results, mut rng) = (Vec::new(), Rng::new(3, "step_guard", 0));
        for t in 0..9 {
            let g: Vec<f64> = (0..N).map(|_| rng.normal()).collect();
            let (broken, mut put_in) = (bad.contains(&t), g);
            let mut loss = 1.5f32;
            match (broken, t) {
                (false, _) if bad.is_empty() && [2, 3, 7].contains(&t) => continue,
                (true, 2) => put_in[123] = f64::NAN,
                (true, 3) => put_in[5] = f64::INFINITY,
                (true, _) => loss = f32::NEG_INFINITY,
                _ => {}
            }
            put(&device, &training(&params).grad.view(0, &[N]).expect("inside"), &put_in);
            let losses = [1.0, loss].map(|l| device.upload(DType::F32, &[1], &[l]).expect("a loss"));
            optimizer.step(&device, &params, &losses, 0.01).expect("a step");
            if optimizer.full() {
                results.extend(optimizer.synchronize(&device).expect("results"));
            }
        }
        results.extend(optimizer.synchronize(&device).expect("results"));
        assert_eq!(optimizer.updates, 6, "window {window}");
        let arenas =
            [&params.trained.value, state_of(&optimizer, "exp_avg"), state_of(&optimizer, "exp_avg_sq")];
        (results, arenas.map(|a| floats(&device, a)))
    };
    let (_, expected) = train(1, &[]);
    for window in [1, 2, 4, 16] {
        let (results, found) = train(window, &[2, 3, 7]);
        assert!(found == expected, "window {window}");
        let skipped: Vec<usize> = (0..results.len()).filter(|&i| results[i].skipped).collect();
        assert_eq!(skipped, [2, 3, 7], "window {window}");
        assert_eq!(
            (results[0].loss, results[7].loss),
            (2.5, f64::NEG_INFINITY),
            "losses are shown as they are"
        );
    }
}

/// A loss scale changes no bit of the update (it is a power of two), is halved by an overflow, which changes
/// nothing, and doubled after 2000 steps without.
#[test]
fn a_loss_scale_is_taken_back_halved_and_doubled() {
    const N: usize = 300;
    let device = cpu(1);
    let train = |scale: Option<f64>| {
        let mut layout = Layout::default();
        layout.add("w", &[3, 100]);
        let params = Params::new(&device, layout, DType::F32, true).expect("memory");
        let s = Settings { weight_decay: 0.1, ..Settings::default() };
        let mut optimizer = Optimizer::new(&device, &params, s).expect("an optimizer");
        optimizer.loss_scale = scale.map(|scale| LossScale { scale, good: 0 });
        let mut rng = Rng::new(4, "scale", 0);
        let mut results: Vec<StepResult> = Vec::new();
        for _ in 0..2005 {
            let g: Vec<f64> = (0..N).map(|_| rng.normal() as f32 as f64).collect();
            // The same gradients again until they fit.
            loop {
                let scale = optimizer.scale();
                // As a kernel in f16 has it: what is beyond its range is no number.
                let fit = |g: &f64| if (g * scale).abs() > 65504.0 { f64::INFINITY } else { g * scale };
                let scaled: Vec<f64> = g.iter().map(fit).collect();
                put(&device, &training(&params).grad.view(0, &[N]).expect("inside"), &scaled);
                optimizer.step(&device, &params, &[], 0.01).expect("a step");
                results.extend(optimizer.synchronize(&device).expect("results"));
                if !results.last().is_some_and(|m| m.skipped) {
                    break;
                }
            }
        }
        let arenas =
            [&params.trained.value, state_of(&optimizer, "exp_avg"), state_of(&optimizer, "exp_avg_sq")];
        let end = arenas.map(|a| floats(&device, a));
        (results, end, optimizer.loss_scale)
    };
    let (_, expected, none) = train(None);
    assert_eq!(none, None);
    let (results, found, scale) = train(Some(f64::from(1 << 24)));
    let skipped = results.iter().filter(|m| m.skipped).count();
    assert!(skipped > 8 && results.iter().filter(|m| m.skipped).all(|m| m.overflow), "{skipped}");
    assert!(results[..8].iter().all(|m| m.skipped), "at first each step halves it");
    println!("{skipped} steps overflowed; at the end {scale:?}");
    assert!(found == expected, "the updates differ");
}
