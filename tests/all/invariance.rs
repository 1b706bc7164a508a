//! What must not change a result: what a text is batched with, how a step is cut, how many threads there are.

use crate::support::*;
use tempra::data::{Batch, BatchOptions, BatchSize, TokenSet};
use tempra::device::{Cpu, Device};
use tempra::models::{Model, Options};
use tempra::optim::{Optimizer, Settings};
use tempra::rng::Rng;
use tempra::shape::DType;
use tempra::tasks::Task;

const KEY: Option<(u64, u64)> = Some((0x5EED_0000_0042, 3));

/// bert/a with its gradients, its 32 examples and its task. Its config drops 0.1 of everything that can be
/// dropped.
fn setup(device: &Device, dtype: DType) -> (Model, TokenSet, Box<dyn Task>) {
    let dir = golden("bert/a");
    let options = Options { training: true, dtype, ..Options::default() };
    let (model, _) = open(device, &dir, &options);
    assert!(model.shape().hidden_dropout == 0.1 && model.shape().attention_dropout == 0.1);
    let (set, task) = problem(&json(&dir.join("fixture.json")));
    (model, set, task)
}

/// The largest relative distance of a parameter's gradients; key biases are left out, their gradient is
/// rounding.
fn off(a: &[(String, Vec<f64>)], b: &[(String, Vec<f64>)]) -> f64 {
    let pairs = a.iter().zip(b).filter(|((name, _), _)| !zero_gradient(name));
    pairs.map(|((_, a), (_, b))| relative(a, b)).fold(0.0, |m, d| if d <= m { m } else { d })
}

fn same_bits(a: &[(String, Vec<f64>)], b: &[(String, Vec<f64>)]) -> bool {
    a.iter().zip(b).all(|((n, a), (m, b))| n == m && bits(a) == bits(b))
}

#[test]
fn a_text_does_not_notice_its_company() {
    for (dtype, bound) in [(DType::F32, 1e-5), (DType::F64, 1e-13)] {
        let device = cpu(2);
        let (model, set, _) = setup(&device, dtype);
        let all = set.len() as u32;
        let alone: Vec<Vec<f64>> = (0..all).map(|i| logits(&device, &model, &cut(&set, &[i], 1))).collect();
        let mut rng = Rng::new(9, "company", 0);
        let (mut worst, mut equal, mut count) = (0f64, 0, 0);
        for size in [1u32, 2, 3, 7, 16, 31, 32] {
            for _ in 0..3 {
                let mut order: Vec<u32> = (0..all).collect();
                rng.shuffle(&mut order);
                order.truncate(size as usize);
                let together = logits(&device, &model, &cut(&set, &order, 1));
                for (row, &i) in together.chunks(3).zip(&order) {
                    let alone = &alone[i as usize];
                    worst = worst.max(max_difference(row, alone));
                    equal += usize::from(bits(row) == bits(alone));
                    count += 1;
                }
            }
        }
        println!("{dtype:?}: {equal} of {count} texts bit-equal in every company; at most {worst:.1e} apart");
        assert!(worst <= bound, "{dtype:?}: {worst:e}");
    }
}

/// Dropout is on: the masks must not depend on the cut either.
#[test]
fn accumulation_equals_the_full_batch() {
    for (dtype, bound) in [(DType::F32, 1e-5), (DType::F64, 1e-12)] {
        let device = cpu(2);
        let (model, set, task) = setup(&device, dtype);
        let step: Vec<u32> = vec![5, 0, 17, 30, 2, 9, 21, 12];
        let run = |batches: &[Batch], key| {
            let done = pass(&device, &model, &*task, &set, batches, key);
            (done, gradients(&device, &model))
        };
        let (full, full_grad) = run(&cut(&set, &step, 1), KEY);
        for parts in [2, 4, 8] {
            let batches = cut(&set, &step, parts);
            assert_eq!(batches.len(), parts);
            let (done, grad) = run(&batches, KEY);
            let (loss, logits) = ((done.loss - full.loss).abs(), max_difference(&done.logits, &full.logits));
            let grad = off(&grad, &full_grad);
            println!("{dtype:?}, 8 in {parts}: loss {loss:.1e}, logits {logits:.1e}, gradients {grad:.1e}");
            assert!(loss <= bound && logits <= bound && grad <= bound, "{dtype:?} in {parts} parts");
        }
        // The same must fail where masks differ: another step, no dropout, micro-batches that each count
        // from 0.
        let (_, other) = run(&cut(&set, &step, 1), KEY.map(|(seed, step)| (seed, step + 1)));
        let (_, none) = run(&cut(&set, &step, 1), None);
        let mut restarted = cut(&set, &step, 4);
        restarted.iter_mut().for_each(|b| (b.first_token, b.first_example) = (0, 0));
        let (_, restarted) = run(&restarted, KEY);
        for (what, grad) in [("another step", other), ("no dropout", none), ("masks anew", restarted)] {
            assert!(off(&grad, &full_grad) > 1e-2, "{what}: {:e}", off(&grad, &full_grad));
        }
    }
}

/// A seed, a step: every epoch's cut into micro-batches holds each example once, and its masks are those of
/// the step.
#[test]
fn a_token_budget_does_not_change_the_step() {
    let device = cpu(2);
    let (model, set, task) = setup(&device, DType::F64);
    let options = BatchOptions { batch: BatchSize::Sequences(16), group_by_length: true, drop_last: false };
    for step in tempra::data::epoch(&set.lengths(), 1, 0, &options).expect("steps") {
        let run = |budget| {
            let batches = tempra::data::micro_batches(&set, &step, 1, budget, 0).expect("batches");
            let done = pass(&device, &model, &*task, &set, &batches, KEY);
            (batches.len(), done.loss, gradients(&device, &model))
        };
        let ((one, loss, grad), (many, cut_loss, cut_grad)) = (run(None), run(Some(50)));
        assert!(one == 1 && many > 3, "{many}");
        assert!((loss - cut_loss).abs() <= 1e-12 && off(&cut_grad, &grad) <= 1e-12);
    }
}

#[test]
fn threads_and_repetition_change_no_bit() {
    for dtype in [DType::F32, DType::F64] {
        let train = |threads: usize| {
            let device = cpu(threads);
            let (model, set, task) = setup(&device, dtype);
            let mut optimizer =
                Optimizer::new(&device, &model.params, Settings::default()).expect("an optimizer");
            let mut seen = Vec::new();
            for step in 0..3 {
                let done = pass(&device, &model, &*task, &set, &whole(&set), Some((7, step)));
                seen.extend(bits(&done.logits));
                seen.push(done.loss.to_bits());
                seen.extend(gradients(&device, &model).iter().flat_map(|(_, g)| bits(g)));
                seen.push(update(&mut optimizer, &device, &model.params, 1e-3).to_bits());
            }
            (seen, values(&device, &model))
        };
        let first = train(1);
        for threads in [1, 2, 5] {
            let again = train(threads);
            assert!(first.0 == again.0, "{dtype:?}, {threads} threads: logits, gradients or norms differ");
            assert!(same_bits(&first.1, &again.1), "{dtype:?}, {threads} threads: values differ");
        }
    }
}

/// A step of a known shape asks the system for nothing from the fourth on: until then a few blocks that
/// served a smaller request before are missed where they are due. Who takes what does not depend on the
/// number of threads.
#[test]
fn a_step_of_a_known_shape_asks_for_no_memory() {
    let device = Device::Cpu(Cpu::new(3).expect("threads"));
    let Device::Cpu(host) = &device else { unreachable!() };
    let (model, set, task) = setup(&device, DType::F32);
    let mut optimizer = Optimizer::new(&device, &model.params, Settings::default()).expect("an optimizer");
    let opened = host.memory();
    let mut step = |i: u64, batches: &[Batch]| {
        pass(&device, &model, &*task, &set, batches, Some((1, i)));
        update(&mut optimizer, &device, &model.params, 1e-3);
        host.memory()
    };
    let batches = cut(&set, &(0..32).collect::<Vec<_>>(), 2);
    let first = step(0, &batches);
    assert!(first.allocations > opened.allocations && first.peak > opened.peak, "{first:?}");
    assert_eq!(first.live, opened.live, "what a step takes it gives back");
    let warm = (1..5).map(|i| step(i, &batches)).last().expect("steps");
    println!("first step: {first:?}; warm: {warm:?}");
    // What the pool keeps is not much more than what a step has in use at once.
    assert!(warm.peak <= first.peak + first.peak / 10, "{first:?} {warm:?}");
    assert!(warm.live + warm.free <= warm.peak + warm.peak / 4, "{warm:?}");
    // A few of them.
    assert!(warm.allocations - first.allocations <= first.allocations / 6, "{first:?} {warm:?}");
    for i in 5..10 {
        assert_eq!(step(i, &batches), warm, "step {i}");
    }
    // Where shapes take turns a block may still be exchanged for a larger one, ever more rarely, and what is
    // kept is bounded by what the larger step needs.
    let small = cut(&set, &[1, 2, 3], 1);
    let mut turn = |i: u64| step(i, if i.is_multiple_of(2) { &batches } else { &small });
    let mixed = (10..20).map(&mut turn).last().expect("steps");
    let later = (20..30).map(&mut turn).last().expect("steps");
    println!("in turns: {mixed:?}; later: {later:?}");
    assert!(later.allocations - mixed.allocations <= 10, "{mixed:?} {later:?}");
    assert!(
        later.peak <= warm.peak + warm.peak / 50 && later.live + later.free <= later.peak + later.peak / 2,
        "{later:?}"
    );
}
