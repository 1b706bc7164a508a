//! Weights of examples: the loss against PyTorch, rows that do not count, the cut into passes, files, runs,
//! what refuses them.

use crate::support::*;
use crate::tasks::{data, ok, prepared, recipe, tempra};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use tempra::data::{Batch, Columns, Label, OnBadRow, Targets, TokenSet, read};
use tempra::device::Device;
use tempra::models::Options;
use tempra::shape::DType;
use tempra::tape::{Leaf, Tape, Var};
use tempra::tasks::{Classify, Multilabel, Regress, Task, mean_and_deviation};
use tempra::train::RDrop;

/// A batch of examples of two tokens each, with targets and weights.
fn batch(targets: Targets, weights: &[f64]) -> Batch {
    let ids = Value::from(weights.iter().map(|_| vec![5, 6]).collect::<Vec<_>>());
    let weights = weights.iter().map(|&w| w as f32).collect();
    let set = TokenSet { targets, weights, ..token_set(&ids, &Value::Null, Vec::new()) };
    whole(&set).remove(0)
}

fn classify(classes: usize) -> Classify {
    let classes = (0..classes).map(|c| c.to_string()).collect();
    Classify { classes, label_smoothing: 0.0, class_weights: None, gamma: 0.0 }
}

/// The loss that `record` records from outputs (rows, columns), and its gradient.
fn gradient(
    device: &Device,
    outputs: &[Vec<f64>],
    record: impl FnOnce(&mut Tape, &[Var]) -> Var,
) -> (f64, Vec<f64>) {
    let (flat, shape) = (outputs.concat(), [outputs.len(), outputs[0].len()]);
    let dz = device.zeros(DType::F64, &shape).expect("memory");
    let z = device.upload_reals(DType::F64, &shape, &flat).expect("memory");
    let mut tape = Tape::new(device);
    let z = tape.leaf(Leaf::new(z, dz.clone(), false));
    let root = record(&mut tape, &[z]);
    let loss = floats(device, root.value())[0];
    let one = upload(device, DType::F64, &[1.0]);
    tape.backward(root, one).expect("backward");
    (loss, floats(device, &dz))
}

/// The task of a case, its targets and its outputs.
fn case(case: &Value) -> (Box<dyn Task>, Targets, Vec<Vec<f64>>) {
    let rows =
        |key: &str| -> Vec<Vec<f64>> { case[key].as_array().expect("rows").iter().map(numbers).collect() };
    let z = rows("z");
    let weights: Vec<f32> = numbers(&case["class_weights"]).iter().map(|&w| w as f32).collect();
    let class_weights = (!weights.is_empty()).then_some(weights);
    let label_smoothing = number(&case["smoothing"]) as f32;
    let classes = classify(z[0].len());
    match case["task"].as_str().expect("a task") {
        "multilabel" => {
            let set = |row: &Vec<f64>| (0..row.len()).filter(|&c| row[c] == 1.0).map(|c| c as u32).collect();
            let task =
                Multilabel { label_smoothing, class_weights, ..Multilabel::new(classes.classes.clone()) };
            (Box::new(task), Targets::Set(rows("targets").iter().map(set).collect()), z)
        }
        "regress" => {
            let values = numbers(&case["targets"]).iter().map(|&v| v as f32).collect();
            (Box::new(Regress::default()), Targets::Value(values), z)
        }
        _ => {
            let labels = numbers(&case["targets"]).iter().map(|&c| c as u32).collect();
            (Box::new(Classify { label_smoothing, class_weights, ..classes }), Targets::Class(labels), z)
        }
    }
}

/// Values and gradients of given outputs: `make_example_weights.py`.
#[test]
fn losses_are_those_of_pytorch() {
    let device = cpu(1);
    for of in json(&golden("example_weights.json"))["cases"].as_array().expect("cases") {
        let (task, targets, z) = case(of);
        let batch = batch(targets, &numbers(&of["weights"]));
        let scale = [1.0 / task.weights(&batch)[0]; 2];
        let (loss, dz) = match of["alpha"].as_f64() {
            None => gradient(&device, &z, |tape, z| task.loss(tape, z, &batch, scale).expect("a loss")),
            Some(alpha) => {
                let both = RDrop { task: &*task, alpha };
                let (first, second) = z.split_at(z.len() / 2);
                // One gradient at a time: the other pass is a constant then.
                let own = |passes: [&[Vec<f64>]; 2], own: usize| {
                    gradient(&device, passes[own], |tape, z| {
                        let other = passes[1 - own];
                        let other =
                            device.upload_reals(DType::F64, &[other.len(), other[0].len()], &other.concat());
                        let other = [tape.constant(other.expect("memory"))];
                        let pair = if own == 0 { [z, &other] } else { [&other, z] };
                        both.combine(tape, pair, &batch, scale).expect("a loss")
                    })
                };
                let [(loss, da), (_, db)] = [0, 1].map(|i| own([first, second], i));
                (loss, [da, db].concat())
            }
        };
        let off = max_difference(&dz, &numbers(&of["dz"]));
        let expected = number(&of["loss"]);
        assert!((loss - expected).abs() <= 1e-12, "{}: {loss}, PyTorch {expected}", of["task"]);
        assert!(off <= 1e-12, "{}: gradient {off:e}", of["task"]);
    }
}

/// The outputs of a row of weight 0 change nothing, not even if they are NaN; its gradient is 0.
#[test]
fn a_row_of_weight_0_has_no_influence() {
    let device = cpu(1);
    for of in json(&golden("example_weights.json"))["cases"].as_array().expect("cases") {
        if of["alpha"].is_number() {
            continue;
        }
        let (task, targets, mut z) = case(of);
        let batch = batch(targets, &numbers(&of["weights"]));
        assert_eq!(batch.weights.last(), Some(&0.0));
        let run = |z: &[Vec<f64>]| {
            gradient(&device, z, |tape, z| task.loss(tape, z, &batch, [0.5; 2]).expect("a loss"))
        };
        let (loss, dz) = run(&z);
        for v in [7.0, f64::INFINITY, f64::NAN] {
            z.last_mut().expect("a row").fill(v);
            let (other, dother) = run(&z);
            assert_eq!((loss.to_bits(), bits(&dz)), (other.to_bits(), bits(&dother)), "{} {v}", of["task"]);
        }
        assert!(dz[dz.len() - z[0].len()..].iter().all(|g| *g == 0.0));
    }
}

/// Weights that are all 1 are as good as none, bit by bit; a step whose weights are all 0 has no loss and no
/// gradient.
#[test]
fn weights_of_1_change_nothing_and_weights_of_0_leave_nothing() {
    let device = cpu(2);
    let dir = golden("bert/a");
    let options = Options { training: true, ..Options::default() };
    let (model, _) = open(&device, &dir, &options);
    let (set, task) = problem(&json(&dir.join("fixture.json")));
    let run = |weights: Vec<f32>| {
        let set = TokenSet { weights, ..set.clone() };
        let step = cut(&set, &[3, 1, 8, 20, 5], 2);
        let scale = match step.iter().map(|b| task.weights(b)[0]).sum::<f64>() {
            0.0 => 0.0,
            sum => 1.0 / sum,
        };
        let (losses, _) =
            tempra::train::pass::step(&device, &model, &*task, &step, Some((7, 1)), scale).expect("a step");
        let losses: Vec<f64> = losses.iter().flat_map(|loss| floats(&device, loss)).collect();
        let gradients: Vec<f64> = gradients(&device, &model).into_iter().flat_map(|(_, g)| g).collect();
        (losses, gradients)
    };
    let none = run(Vec::new());
    let ones = run(vec![1.0; set.len()]);
    assert!(none.0.iter().all(|loss| *loss > 0.0));
    assert_eq!((bits(&none.0), bits(&none.1)), (bits(&ones.0), bits(&ones.1)));
    let zeros = run(vec![0.0; set.len()]);
    assert!(zeros.0.iter().chain(&zeros.1).all(|v| *v == 0.0));
}

/// The mean is over the weights of the whole step: how it is cut into passes, and in which order, does not
/// matter.
#[test]
fn the_cut_of_a_step_does_not_matter() {
    let device = cpu(2);
    let dir = golden("bert/a");
    let options = Options { training: true, dtype: DType::F64, ..Options::default() };
    let (model, _) = open(&device, &dir, &options);
    let (set, task) = problem(&json(&dir.join("fixture.json")));
    let weights = (0..set.len()).map(|i| [0.0, 1.0, 7.0, 0.125, 2.0][i % 5]).collect();
    let set = TokenSet { weights, ..set };
    let run = |parts: usize| {
        let step = cut(&set, &(0..16).collect::<Vec<u32>>(), parts);
        let loss = pass(&device, &model, &*task, &set, &step, Some((7, 1))).loss;
        (loss, gradients(&device, &model))
    };
    let (loss, whole) = run(1);
    for parts in [2, 3, 16] {
        let (other, gradients) = run(parts);
        assert!((loss - other).abs() <= 1e-12, "in {parts}: {other}, whole {loss}");
        for ((name, a), (_, b)) in gradients.iter().zip(&whole).filter(|((name, _), _)| !zero_gradient(name))
        {
            assert!(relative(a, b) <= 1e-11, "in {parts}: {name}");
        }
    }
    // The same must fail where each pass is a mean of its own.
    let step = cut(&set, &(0..16).collect::<Vec<u32>>(), 2);
    let means: Vec<f64> = step
        .iter()
        .map(|b| pass(&device, &model, &*task, &set, std::slice::from_ref(b), Some((7, 1))).loss)
        .collect();
    assert!((means.iter().sum::<f64>() / 2.0 - loss).abs() > 1e-4, "{means:?} {loss}");
}

/// What is found out from the training rows counts each as often as its weight says.
#[test]
fn class_weights_and_units_are_weighted() {
    let labels = [0, 1, 1, 2].map(Label::Class);
    assert_eq!(Classify::balanced(&labels, &[], 3), Classify::balanced(&labels, &[1.0; 4], 3));
    // As if there were 3, 1 and 4 rows of the classes: 8 / (3 n).
    let found = Classify::balanced(&labels, &[3.0, 0.25, 0.75, 4.0], 3);
    assert_eq!(found, [8.0 / 9.0f32, 8.0 / 3.0, 8.0 / 12.0]);
    // 1, 1, 1 and 5: the mean is 2, the variance (3 + 9) / 4.
    let (mean, deviation) = mean_and_deviation([(1.0, 3.0), (5.0, 1.0)].into_iter());
    assert_eq!((mean, deviation), (2.0, 3f64.sqrt()));
    let task = Regress::standardized([(1.0, 3.0), (5.0, 1.0)].into_iter()).expect("two targets");
    assert_eq!((task.shift, task.scale, task.unit), (2.0, 3f64.sqrt(), 3f64.sqrt()));
}

/// Weights that do not fit a batch are an error, not a panic.
#[test]
fn weights_that_do_not_fit_are_refused() {
    let device = cpu(1);
    for weights in [vec![1.0], vec![1.0, -1.0], vec![f32::NAN, 1.0], vec![1.0, f32::INFINITY]] {
        let batch = Batch { weights, ..batch(Targets::Class(vec![0, 1]), &[1.0; 2]) };
        let mut tape = Tape::new(&device);
        let z = device.zeros(DType::F64, &[2, 2]).expect("memory");
        let z = [tape.constant(z)];
        let e = classify(2).loss(&mut tape, &z, &batch, [1.0; 2]).expect_err("refused").to_string();
        assert!(e.contains("the weights of a batch do not fit its examples"), "{e}");
    }
}

fn columns(weight: &str) -> Columns {
    let weight = Some(weight.to_owned());
    Columns { text: "text".into(), pair: None, label: Some("label".into()), weight }
}

/// A weight that is none stops the reading: the error names file, line, column, value and rule.
#[test]
fn bad_weights_name_their_place() {
    let dir = tempfile::tempdir().expect("a folder");
    let refused = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        let e = read(&path, &columns("w"), OnBadRow::Stop).expect_err("refused").to_string();
        assert!(e.contains(&path.display().to_string()), "{e}");
        e
    };
    for (cell, why) in [
        ("-1", "the weight -1 in the column \"w\" is negative"),
        ("nan", "the weight nan in the column \"w\" is not a number"),
        ("much", "the weight much in the column \"w\" is not a number"),
        ("inf", "the weight inf in the column \"w\" is infinite"),
        ("1e30", "the weight 1e30 in the column \"w\" is too large"),
        ("1e-30", "the weight 1e-30 in the column \"w\" is too small"),
        ("", "the column \"w\" of the weights is empty"),
    ] {
        let e = refused("a.csv", &format!("text,w,label\na,1.5,x\nb,{cell},y\n"));
        assert!(e.contains(why) && e.contains(":3") && e.contains("1e-20 to 1e20"), "{e}");
        assert!(e.contains(&format!("{cell:?}")), "{e}");
    }
    for (cell, why) in [
        ("\"w\": -0.5, ", "the weight -0.5 in the column \"w\" is negative"),
        ("\"w\": null, ", "\"w\" is not a weight"),
        ("\"w\": true, ", "\"w\" is not a weight"),
        ("", "there is no key \"w\""),
    ] {
        let rows = format!(
            "{{\"text\": \"a\", \"w\": \"2\", \"label\": 1}}\n{{\"text\": \"b\", {cell}\"label\": true}}\n"
        );
        let e = refused("a.jsonl", &rows);
        assert!(e.contains(why) && e.contains(":2"), "{e}");
    }
    let e = refused("b.csv", "text,label\na,x\n");
    assert!(e.contains("there is no column \"w\""), "{e}");
    let e = read(&dir.path().join("a.csv"), &columns("text"), OnBadRow::Stop).expect_err("refused");
    assert!(e.to_string().contains("the column \"text\" is named for two purposes"), "{e}");

    // Among good ones a bad one can be skipped; the others keep their weights.
    let row = |i: usize| format!("t{i},{},x\n", if i == 70 { -1.0 } else { i as f64 / 2.0 });
    let text: String = (0..200).map(row).collect();
    let path = dir.path().join("c.csv");
    std::fs::write(&path, format!("text,w,label\n{text}")).expect("written");
    let table = read(&path, &columns("w"), OnBadRow::Skip).expect("read");
    assert_eq!((table.bad_count, table.weights.len(), table.rows.len()), (1, 199, 199));
    assert_eq!((table.weights[69], table.weights[70]), (34.5, 35.5));
    assert_eq!(table.subset(&[3, 1]).weights, [1.5, 0.5]);
}

/// `data check` says what the weights of the training file are, and finds those that are none.
#[test]
fn data_check_shows_the_weights() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
    write("train.csv", "text,w,label\na,0,x\nb,2.5,y\nc,0.25,x\nd,0,y\n");
    write("test.csv", "text,label\ne,x\n");
    let check =
        |args: &[&str]| tempra(dir.path(), &[&["data", "check", "train.csv", "test.csv"], args].concat());
    let said = ok("check", check(&["--weight", "w"]));
    assert!(said.contains("weights   minimum 0, maximum 2.5, sum 2.75; 2 rows of weight 0"), "{said}");
    let found: Value = serde_json::from_str(&ok("check", check(&["--weight=w", "--json"]))).expect("JSON");
    assert_eq!(found["columns"]["weight"], "w");
    assert_eq!(
        found["files"][0]["weights"],
        serde_json::json!({ "min": 0.0, "max": 2.5, "sum": 2.75, "zeros": 2 })
    );
    assert!(found["files"][1]["weights"].is_null());
    let said = ok("check", check(&[]));
    assert!(!said.contains("weights"), "{said}");
    write("train.csv", "text,w,label\na,0,x\nb,-2.5,y\nc,0.25,x\n");
    let out = check(&["--weight", "w"]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.code() == Some(3) && said.contains("the weight -2.5 in the column \"w\""), "{said}");
}

/// A file of the small tasks with a column of weights, `weight` of each row by its number.
fn weighted(dir: &Path, file: &str, to: &str, weight: impl Fn(usize) -> Option<String>) {
    let text = std::fs::read_to_string(dir.join(file)).expect("a file");
    let mut lines = text.lines();
    let mut all = format!("w,{}\n", lines.next().expect("a header"));
    for (i, line) in lines.enumerate() {
        all.extend(weight(i).map(|w| format!("{w},{line}\n")));
    }
    std::fs::write(dir.join(to), all).expect("written");
}

/// Runs a recipe for a file with weights, and gives the bytes of the weights of the model that it trained.
fn trained(dir: &Path, task: &str, file: &str, output: &str, sets: &[&str]) -> Vec<u8> {
    // Examples of validation in a file of their own, which has no weights.
    let more = format!("validation = \"{task}.csv\"\n");
    std::fs::write(dir.join("r.toml"), recipe(task, file, &more, output)).expect("written");
    let mut args = vec!["train", "r.toml", "-q"];
    sets.iter().for_each(|s| args.extend(["--set", s]));
    ok(output, tempra(dir, &args));
    std::fs::read(dir.join(output).join("model/model.safetensors")).expect("weights")
}

/// Runs with weights: equal ones are as good as none, rows of weight 0 as good as missing, and others train
/// another model, on which neither the threads nor a kill have an influence. `eval` and `predict` do not look
/// at the column.
#[test]
fn runs_with_weights() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    prepared(dir, &golden("bert/a"));
    data(dir);
    let steps = ["train.max_steps=6", "train.accumulation=2"];
    let with = ["train.max_steps=6", "train.accumulation=2", "data.weight=w"];
    for task in ["classify", "multilabel", "regress"] {
        let plain = format!("{task}.csv");
        let own = |i: usize| Some(((i % 5) as f64 * 0.75 + 0.5).to_string());
        weighted(dir, &plain, "equal.csv", |_| Some("2.5".to_owned()));
        weighted(dir, &plain, "own.csv", own);
        weighted(dir, &plain, "zero.csv", |i| own(i).filter(|_| i % 3 != 1).or(Some("0".to_owned())));
        weighted(dir, &plain, "fewer.csv", |i| own(i).filter(|_| i % 3 != 1));
        let run = |file: &str, output: &str, sets: &[&str]| {
            trained(dir, task, file, &format!("{task}-{output}"), sets)
        };
        let none = run(&plain, "none", &steps);
        assert!(none == run("equal.csv", "equal", &with), "{task}: equal weights");
        let whole = run("own.csv", "own", &with);
        assert!(whole != none, "{task}: weights without an effect");
        assert!(whole == run("own.csv", "threads", &[&with[..], &["threads=1"]].concat()), "{task}: threads");
        let zero = run("zero.csv", "zero", &with);
        assert!(zero == run("fewer.csv", "fewer", &with), "{task}: rows of weight 0");

        // Killed and resumed.
        let more = format!("validation = \"{task}.csv\"\n");
        let text = recipe(task, "own.csv", &more, &format!("{task}-killed"));
        std::fs::write(dir.join("r.toml"), text.replace("save_every = 3", "save_every = 2"))
            .expect("written");
        let args = ["train", "r.toml", "--json", "--set", with[0], "--set", with[1], "--set", with[2]];
        let mut killed = Command::new(env!("CARGO_BIN_EXE_tempra"));
        killed.current_dir(dir).args(args).args(["--set", "train.log_every=1"]).stdout(Stdio::piped());
        killed_after(&mut killed, 5);
        ok("resumed", tempra(dir, &[&args[..], &["--set", "train.log_every=1"]].concat()));
        let resumed =
            std::fs::read(dir.join(format!("{task}-killed/model/model.safetensors"))).expect("weights");
        assert!(whole == resumed, "{task}: resumed");

        // Scores count every row once, whatever the file says of weights.
        let model = format!("{task}-own/model");
        weighted(dir, &plain, "words.csv", |_| Some("many".to_owned()));
        let eval = |file: &str| ok("eval", tempra(dir, &["eval", &model, file, "-q"]));
        assert_eq!(eval("own.csv"), eval(&plain));
        assert_eq!(eval("words.csv"), eval(&plain));
        let said = ok("predict", tempra(dir, &["predict", &model, "words.csv", "-q"]));
        assert!(said.starts_with("w,text,label,"), "{said}");
    }
}

/// What cannot have weights says so before anything runs, and names the tasks that can.
#[test]
fn other_tasks_refuse_weights() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    prepared(dir, &golden("bert/a"));
    data(dir);
    for (task, file, more) in crate::tasks::TASKS {
        if ["classify", "multilabel", "regress"].contains(task) {
            continue;
        }
        std::fs::write(dir.join("r.toml"), recipe(task, file, more, "out")).expect("written");
        let out = tempra(dir, &["train", "r.toml", "--set", "data.weight=w"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(2) && said.contains("data.weight"), "{task}: {said}");
        let what = format!("data.weight is set, but task \"{task}\" does not take it");
        assert!(said.contains(&what), "{task}: {said}");
        assert!(said.contains("task \"classify\" or \"multilabel\" or \"regress\""), "{task}: {said}");
    }
    let classify = |sets: &[&str]| {
        std::fs::write(dir.join("r.toml"), recipe("classify", "classify.csv", "", "out")).expect("written");
        let mut args = vec!["train", "r.toml"];
        sets.iter().for_each(|s| args.extend(["--set", s]));
        let out = tempra(dir, &args);
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, said) = classify(&["data.weight=label"]);
    assert!(code == Some(2) && said.contains("data.label and data.weight name the same column"), "{said}");
    let (code, said) = classify(&["data.weight=w"]);
    assert!(code == Some(3) && said.contains("there is no column \"w\""), "{said}");
    weighted(dir, "classify.csv", "zeros.csv", |_| Some("0".to_owned()));
    let (code, said) = classify(&["data.weight=w", "data.train=zeros.csv"]);
    assert!(code == Some(3) && said.contains("every weight in the column \"w\" is 0"), "{said}");
}
