//! R-Drop: its loss against PyTorch and finite differences, its masks, what it takes, and runs with it.

use crate::support::*;
use crate::tasks::{data, ok, prepared, recipe, tempra};
use serde_json::Value;
use std::process::{Command, Stdio};
use tempra::data::{Batch, BatchSize, Label, TokenSet};
use tempra::device::Device;
use tempra::models::{Model, ModelShape, Options};
use tempra::nn::{Inputs, Taps};
use tempra::optim::{Optimizer, Settings};
use tempra::shape::DType;
use tempra::tape::{Leaf, Tape};
use tempra::tasks::{Classify, Regress, Task};
use tempra::train::memory::Job;
use tempra::train::objective::TapedPass;
use tempra::train::{Objective, RDrop, pass};

const KEY: Option<(u64, u64)> = Some((0x5EED_0000_0042, 3));

/// bert/a with its gradients, its 32 examples and its task, with dropout as its config says or at one rate
/// everywhere.
fn setup(device: &Device, dropout: Option<f32>) -> (Model, TokenSet, Box<dyn Task>) {
    let dir = golden("bert/a");
    let options = Options {
        training: true,
        dtype: DType::F64,
        dropout,
        attention_dropout: dropout,
        classifier_dropout: dropout,
        ..Options::default()
    };
    let (model, _) = open(device, &dir, &options);
    let (set, task) = problem(&json(&dir.join("fixture.json")));
    (model, set, task)
}

/// The loss of a step, whose gradients are afterwards those of the model.
fn run(device: &Device, model: &Model, objective: &dyn Objective, step: &[Batch]) -> f64 {
    let scale = 1.0 / step.iter().map(Batch::len).sum::<usize>() as f64;
    let (losses, unreached) = pass::step(device, model, objective, step, KEY, scale).expect("a step");
    assert_eq!(unreached, [""; 0]);
    losses.iter().map(|loss| floats(device, loss)[0]).sum()
}

/// The largest relative distance of a parameter's gradients; key biases are left out, their gradient is
/// rounding.
fn off(a: &[(String, Vec<f64>)], b: &[(String, Vec<f64>)]) -> f64 {
    let pairs = a.iter().zip(b).filter(|((name, _), _)| !zero_gradient(name));
    pairs.map(|((_, a), (_, b))| relative(a, b)).fold(0.0, |m, d| if d <= m { m } else { d })
}

/// Value and gradients of given logits, with and without class weights: `make_r_drop.py`.
#[test]
fn the_loss_is_that_of_pytorch() {
    let device = cpu(1);
    let golden = json(&golden("r_drop.json"));
    let alpha = number(&golden["alpha"]);
    for case in golden["cases"].as_array().expect("cases") {
        let labels: Vec<u32> = numbers(&case["labels"]).iter().map(|&c| c as u32).collect();
        let weights: Vec<f32> = numbers(&case["class_weights"]).iter().map(|&w| w as f32).collect();
        let (a, b) = (numbers(&case["a"]), numbers(&case["b"]));
        let shape = [labels.len(), a.len() / labels.len()];
        let task = Classify {
            classes: (0..shape[1]).map(|c| c.to_string()).collect(),
            label_smoothing: 0.0,
            class_weights: (!weights.is_empty()).then_some(weights),
            gamma: 0.0,
        };
        let ids = Value::from((0..labels.len()).map(|_| vec![5, 6]).collect::<Vec<_>>());
        let set = token_set(&ids, &Value::Null, labels.iter().map(|&c| Label::Class(c)).collect());
        let batch = &whole(&set)[0];
        let mut tape = Tape::new(&device);
        let gradients =
            [device.zeros(DType::F64, &shape), device.zeros(DType::F64, &shape)].map(|t| t.expect("memory"));
        let [p, q] = [(&a, &gradients[0]), (&b, &gradients[1])].map(|(v, g)| {
            let value = device.upload_reals(DType::F64, &shape, v).expect("memory");
            [tape.leaf(Leaf::new(value, g.clone(), false))]
        });
        let scale = 1.0 / task.weights(batch)[0];
        let objective = RDrop { task: &task, alpha };
        let root = objective.combine(&mut tape, [&p, &q], batch, [scale; 2]).expect("a loss");
        let found = floats(&device, root.value())[0];
        let one = upload(&device, DType::F64, &[1.0]);
        tape.backward(root, one).expect("backward");
        // Class weights are f32 here, f64 there.
        let bound = if task.class_weights.is_some() { 1e-7 } else { 1e-12 };
        assert!((found - number(&case["loss"])).abs() <= bound, "{found}, PyTorch {}", case["loss"]);
        for (g, name) in gradients.iter().zip(["da", "db"]) {
            let off = max_difference(&floats(&device, g), &numbers(&case[name]));
            assert!(off <= bound, "{name}: {off:e}");
        }
    }
}

/// Without dropout both passes are equal: the loss and its gradients are the task's own.
#[test]
fn without_dropout_it_is_the_loss_of_the_task() {
    let device = cpu(1);
    let (model, set, task) = setup(&device, Some(0.0));
    let step = whole(&set);
    let plain = run(&device, &model, &*objective(&*task, 0.0), &step);
    let own = gradients(&device, &model);
    let twice = run(&device, &model, &*objective(&*task, 3.0), &step);
    let off = off(&gradients(&device, &model), &own);
    println!("loss {plain}, with R-Drop {twice}; gradients {off:.1e}");
    assert!((plain - twice).abs() <= 1e-14 * plain.abs() && off <= 1e-12, "{plain} {twice} {off:e}");
}

/// R-Drop, or the task itself with a factor of 0.
fn objective(task: &dyn Task, alpha: f64) -> Box<dyn Objective + '_> {
    match alpha {
        0.0 => Box::new(tempra::train::objective::Plain(task)),
        alpha => Box::new(RDrop { task, alpha }),
    }
}

/// With dropout: the loss is above the mean of both cross-entropies, and gradients through both passes are
/// those of finite differences.
#[test]
fn gradients_through_both_passes_are_those_of_finite_differences() {
    let device = cpu(1);
    let (model, set, task) = setup(&device, None);
    let step = cut(&set, &[3, 1, 8], 1);
    let both = RDrop { task: &*task, alpha: 2.0 };
    let loss = run(&device, &model, &both, &step);
    let found = gradients(&device, &model);
    let without = run(&device, &model, &RDrop { alpha: 1e-9, ..both }, &step);
    assert!(loss > without + 1e-4, "{loss}, {without} without the divergence");
    for (p, (name, gradient)) in model.params.layout().list.iter().zip(&found) {
        let largest = |a: &usize, b: &usize| gradient[*a].abs().total_cmp(&gradient[*b].abs());
        let Some(i) = (0..gradient.len()).max_by(largest).filter(|_| !zero_gradient(name)) else { continue };
        let view = model.params.value(p).expect("inside");
        let values = floats(&device, &view);
        const H: f64 = 1e-5;
        let at = |v: f64| {
            let mut moved = values.clone();
            moved[i] = v;
            put(&device, &view, &moved);
            run(&device, &model, &both, &step)
        };
        let slope = (at(values[i] + H) - at(values[i] - H)) / (2.0 * H);
        put(&device, &view, &values);
        let off = (slope - gradient[i]).abs();
        assert!(off <= 1e-6 * gradient[i].abs() + 1e-9, "{name}[{i}]: {slope}, {}", gradient[i]);
    }
}

/// The masks of the second pass are others than those of the first and of the next step, do not depend on the
/// cut, and those of the first are the ordinary ones.
#[test]
fn each_pass_has_masks_of_its_own_that_do_not_depend_on_the_cut() {
    let device = cpu(2);
    let (model, set, task) = setup(&device, None);
    let step: Vec<u32> = vec![5, 0, 17, 30, 2, 9, 21, 12];
    let one = &cut(&set, &step, 1)[0];
    let logits_of = |pass: u32, key: Option<(u64, u64)>| {
        let mut run = TapedPass::new(&device, &model, one, key, false).expect("a pass");
        let outputs = run.forward(pass, &mut Taps::none()).expect("logits");
        floats(&device, outputs[0].value())
    };
    let mut all: Vec<Vec<f64>> = (0..Inputs::PASSES).map(|pass| logits_of(pass, KEY)).collect();
    assert_eq!(bits(&all[1]), bits(&logits_of(1, KEY)));
    let plain = crate::support::pass(&device, &model, &*task, &set, std::slice::from_ref(one), KEY);
    assert_eq!(bits(&all[0]), bits(&plain.logits));
    all.push(logits_of(0, KEY.map(|(seed, step)| (seed, step + 1))));
    all.push(logits_of(0, None));
    for (i, a) in all.iter().enumerate() {
        assert!(all[..i].iter().all(|b| max_difference(a, b) > 1e-3), "two passes have the same masks");
    }
    assert_eq!(bits(&logits_of(0, None)), bits(&logits_of(1, None)));
    let both = RDrop { task: &*task, alpha: 1.5 };
    let loss = run(&device, &model, &both, &cut(&set, &step, 1));
    let whole = gradients(&device, &model);
    for parts in [2, 4, 8] {
        let cut_loss = run(&device, &model, &both, &cut(&set, &step, parts));
        let off = off(&gradients(&device, &model), &whole);
        println!("8 in {parts}: loss {:.1e}, gradients {off:.1e}", (loss - cut_loss).abs());
        assert!((loss - cut_loss).abs() <= 1e-12 && off <= 1e-12, "in {parts} parts");
    }
    // The same must fail where micro-batches each count from 0.
    let mut restarted = cut(&set, &step, 4);
    restarted.iter_mut().for_each(|b| (b.first_token, b.first_example) = (0, 0));
    run(&device, &model, &both, &restarted);
    assert!(off(&gradients(&device, &model), &whole) > 1e-2);
}

/// The plan counts the activations of both passes, and they are what is taken.
#[test]
fn the_memory_plan_counts_both_passes() {
    let host = cpu(2);
    let set = problem(&json(&golden("bert/a").join("fixture.json"))).0;
    let classes: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
    let task = Classify { classes, label_smoothing: 0.0, class_weights: None, gamma: 0.0 };
    let options = Options { outputs: Some(task.outputs()), training: true, ..Options::default() };
    let shape = tempra::models::encoder_shape(&golden("bert/a")).expect("a shape");
    let plan = |objective: &dyn Objective| {
        let job = Job {
            model: &ModelShape::without_folder(&shape, &options).expect("a shape"),
            options: &options,
            task: &task,
            objective,
            live: None,
            head: 0,
            set: &set,
            batch: BatchSize::Sequences(32),
            accumulation: 1,
            max_tokens: 4096,
            window: 1,
            optimizer: Settings::default(),
        };
        job.check(&host.caps()).expect("a plan")
    };
    let both = RDrop { task: &task, alpha: 1.0 };
    let (one, two) = (plan(&task), plan(&both));
    let activations = |p: &tempra::train::MemoryPlan| (p.total - p.parameters) as f64;
    let ratio = activations(&two) / activations(&one);
    println!("activations {} and {}: {ratio:.2} times", activations(&one), activations(&two));
    assert!(one.parameters == two.parameters && (1.5..2.1).contains(&ratio), "{ratio}");
    let model = Model::random(&host, &shape, &options).expect("a model");
    let mut optimizer = Optimizer::new(&host, &model.params, Settings::default()).expect("an optimizer");
    for step in 0..4 {
        let (losses, _) =
            pass::step(&host, &model, &both, &whole(&set), Some((0, step)), 1.0).expect("a step");
        optimizer.step(&host, &model.params, &losses, 1e-3).expect("a step");
        optimizer.synchronize(&host).expect("results");
    }
    let Device::Cpu(cpu) = &host else { panic!("another device") };
    let (planned, taken) = (two.total as f64, cpu.memory().peak as f64);
    println!("planned {planned}, taken {taken}");
    assert!((0.9..=1.1).contains(&(planned / taken)), "planned {planned}, taken {taken}");
}

/// A task without classes is refused by the library too.
#[test]
fn a_task_without_classes_is_refused() {
    let device = cpu(1);
    let (model, set, _) = setup(&device, None);
    let task = Regress::default();
    let both = RDrop { task: &task, alpha: 1.0 };
    let done = pass::step(&device, &model, &both, &whole(&set), KEY, 1.0);
    let Err(e) = done else { panic!("not refused") };
    assert!(e.to_string().contains("loss.r_drop does not work with this task"), "{e}");
}

/// Runs of classify and tag: the weights differ from those without it, are the same bit by bit with another
/// number of threads and after a kill, and the cut into passes shows only in rounding.
#[test]
fn runs_with_it_resume_bit_for_bit() {
    let dir = tempfile::tempdir().expect("a folder");
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    for (task, file, more) in [("classify", "classify.csv", ""), ("tag", "tag.conll", "stride = 2\n")] {
        let text = recipe(task, file, more, task).replace("max_steps = 3", "max_steps = 8\nlog_every = 1");
        let text = text.replace("save_every = 3", "save_every = 2");
        std::fs::write(dir.path().join("r.toml"), text).expect("written");
        let args = |output: &str, sets: &[&str]| -> Vec<String> {
            let mut all = vec!["train".to_owned(), "r.toml".into(), "--json".into(), "--set".into()];
            all.push(format!("output={task}-{output}"));
            sets.iter().for_each(|s| all.extend(["--set".to_owned(), (*s).to_owned()]));
            all
        };
        let train = |output: &str, sets: &[&str]| {
            let args = args(output, sets);
            ok(output, tempra(dir.path(), &args.iter().map(String::as_str).collect::<Vec<_>>()))
        };
        let weights = |output: &str| {
            let folder = dir.path().join(format!("{task}-{output}/model/model.safetensors"));
            std::fs::read(folder).expect("weights")
        };
        let on = ["loss.r_drop=1.0"];
        let lines = lines_of(&train("whole", &on));
        train("plain", &[]);
        train("threads", &["loss.r_drop=1.0", "threads=1"]);
        assert!(weights("whole") != weights("plain") && weights("whole") == weights("threads"));
        let mut killed = Command::new(env!("CARGO_BIN_EXE_tempra"));
        killed.current_dir(dir.path()).args(args("killed", &on)).stdout(Stdio::piped());
        killed_after(&mut killed, lines / 2);
        let said = train("killed", &on);
        println!(
            "{task}: killed after {} of {lines} lines; resumed: {}",
            lines / 2,
            said.contains("\"resumed\"")
        );
        assert!(weights("whole") == weights("killed"), "{task}");
        // Another factor is another run.
        train("more", &["loss.r_drop=4.0"]);
        assert!(weights("whole") != weights("more"));
    }
}
