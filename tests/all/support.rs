//! What the tests of whole models share: fixtures, one pass over a step, gradients by name, norms.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use tempra::checkpoint::Weights;
use tempra::data::{Batch, Label, Targets, TokenSet};
use tempra::device::{Device, Tensor};
use tempra::models::{LoadReport, Model, Options};
use tempra::optim::Optimizer;
use tempra::params::Params;
use tempra::shape::DType;
use tempra::tape::Tape;
use tempra::tasks::{Classify, Regress, Task, inputs};

/// Whether a parameter's true gradient is 0 (`tests/golden/README.md`): what is computed is rounding. Key
/// biases, by the names of every architecture.
pub fn zero_gradient(name: &str) -> bool {
    ["attention.self.key.bias", "attention.k_lin.bias", "attention.key.bias", "mask_emb"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// A file of `tests/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Says something that the test runner does not swallow: what was not run.
pub fn report_skipped(message: &str) {
    let _ = writeln!(std::io::stderr(), "note: {message}");
}

pub fn cpu(threads: usize) -> Device {
    Device::open("cpu", threads).expect("the CPU opens")
}

pub fn open(device: &Device, dir: &Path, options: &Options) -> (Model, LoadReport) {
    Model::open(device, dir, options).unwrap_or_else(|e| panic!("{e}"))
}

pub fn json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All numbers of nested lists, in order.
pub fn numbers(v: &Value) -> Vec<f64> {
    match v {
        Value::Array(list) => list.iter().flat_map(numbers).collect(),
        Value::Number(n) => vec![n.as_f64().expect("a number")],
        Value::Object(_) | Value::Null | Value::Bool(_) | Value::String(_) => panic!("no number: {v}"),
    }
}

pub fn number(v: &Value) -> f64 {
    v.as_f64().unwrap_or_else(|| panic!("no number: {v}"))
}

/// Examples from rows of ids and of token types (all 0 where there are none).
pub fn token_set(ids: &Value, types: &Value, labels: Vec<Label>) -> TokenSet {
    let targets = Targets::from_labels(labels).expect("labels of one kind");
    let mut set = TokenSet { offsets: vec![0], targets, ..TokenSet::default() };
    for (i, row) in ids.as_array().expect("rows").iter().enumerate() {
        let row = numbers(row);
        let kinds = types.get(i).map_or(vec![0.0; row.len()], numbers);
        assert_eq!(row.len(), kinds.len(), "row {i}");
        set.ids.extend(row.iter().map(|&v| v as u32));
        set.types.extend(kinds.iter().map(|&v| v as u32));
        set.offsets.push(set.ids.len() as u32);
        set.lost.push(0);
        set.unknown.push(0);
    }
    set
}

/// The examples of a fixture, and the task they are for.
pub fn problem(fixture: &Value) -> (TokenSet, Box<dyn Task>) {
    let regression = fixture["problem_type"] == "regression";
    let labels = numbers(&fixture["labels"]);
    let label = |&v: &f64| if regression { Label::Value(v as f32) } else { Label::Class(v as u32) };
    let set =
        token_set(&fixture["input_ids"], &fixture["token_type_ids"], labels.iter().map(label).collect());
    let classes = fixture["logits"][0].as_array().expect("logits").len();
    let classes = (0..classes).map(|c| c.to_string()).collect();
    let task: Box<dyn Task> = match regression {
        true => Box::new(Regress::default()),
        false => Box::new(Classify { classes, label_smoothing: 0.0, class_weights: None, gamma: 0.0 }),
    };
    (set, task)
}

/// Every example as one packed batch.
pub fn whole(set: &TokenSet) -> Vec<Batch> {
    cut(set, &(0..set.len() as u32).collect::<Vec<_>>(), 1)
}

/// A step in so many micro-batches.
pub fn cut(set: &TokenSet, step: &[u32], parts: usize) -> Vec<Batch> {
    tempra::data::micro_batches(set, step, parts, None, 0).expect("batches")
}

/// A tensor's elements, whatever its floating-point type.
pub fn floats(device: &Device, t: &Tensor) -> Vec<f64> {
    device.read_reals(t).expect("read")
}

pub fn upload(device: &Device, dtype: DType, v: &[f64]) -> Tensor {
    let t = device.zeros(dtype, &[v.len()]).expect("memory");
    put(device, &t, v);
    t
}

pub fn put(device: &Device, t: &Tensor, v: &[f64]) {
    match t.spec.dtype {
        DType::F64 => device.write(t, v),
        _ => device.write(t, &v.iter().map(|&v| v as f32).collect::<Vec<_>>()),
    }
    .expect("written");
}

/// What a step computes.
pub struct Pass {
    pub logits: Vec<f64>,
    pub loss: f64,
}

/// Forward and backward over the micro-batches of one step: the gradients are afterwards those of the step's
/// mean loss.
pub fn pass(
    device: &Device,
    model: &Model,
    task: &dyn Task,
    _: &TokenSet,
    step: &[Batch],
    key: Option<(u64, u64)>,
) -> Pass {
    let weight: f64 = step.iter().map(|b| task.weights(b)[0]).sum();
    let mut done = Pass { logits: Vec::new(), loss: 0.0 };
    for (i, batch) in step.iter().enumerate() {
        let mut tape = Tape::new(device);
        let bound = model.params.bind(&mut tape, i > 0).expect("bound");
        let x = inputs(&mut tape, batch, key).expect("inputs");
        let logits = model.logits(&mut tape, &bound, &x).unwrap_or_else(|e| panic!("{e}"));
        let outputs = [logits];
        let loss = task.loss(&mut tape, &outputs, batch, [1.0 / weight; 2]).unwrap_or_else(|e| panic!("{e}"));
        done.logits.extend(floats(device, outputs[0].value()));
        done.loss += floats(device, loss.value())[0];
        let one = upload(device, model.params.spec().dtype, &[1.0]);
        let unreached = tape.backward(loss, one).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(model.params.names(&bound, &unreached), [""; 0], "parameters without a gradient");
    }
    done
}

/// Logits without a recording tape, batch after batch.
pub fn logits(device: &Device, model: &Model, batches: &[Batch]) -> Vec<f64> {
    let mut all = Vec::new();
    for batch in batches {
        let mut tape = Tape::evaluate(device);
        let bound = model.params.bind(&mut tape, false).expect("bound");
        let x = inputs(&mut tape, batch, None).expect("inputs");
        let logits = model.logits(&mut tape, &bound, &x).unwrap_or_else(|e| panic!("{e}"));
        all.extend(floats(device, logits.value()));
    }
    all
}

/// The gradient of every parameter by its name; none for parameters of the frozen arena.
pub fn gradients(device: &Device, model: &Model) -> Vec<(String, Vec<f64>)> {
    assert!(model.params.training.is_some(), "a model that is not trained");
    let one = |p: &tempra::params::Param| {
        let grad = model.params.grad(p).expect("inside");
        (p.name.clone(), grad.map_or(vec![], |grad| p.to_file(floats(device, &grad))))
    };
    model.params.layout().list.iter().map(one).collect()
}

/// The value of every parameter by its name.
pub fn values(device: &Device, model: &Model) -> Vec<(String, Vec<f64>)> {
    let one = |p: &tempra::params::Param| {
        let view = model.params.value(p).expect("inside");
        (p.name.clone(), p.to_file(floats(device, &view)))
    };
    model.params.layout().list.iter().map(one).collect()
}

/// A tensor of a safetensors file, as f64.
pub fn tensor(files: &Weights, name: &str) -> Vec<f64> {
    let shape = files.get(name).unwrap_or_else(|| panic!("no {name}")).shape.to_vec();
    let mut v = vec![0f32; shape.iter().product()];
    files.f32_into(name, &mut v).unwrap_or_else(|e| panic!("{e}"));
    v.into_iter().map(f64::from).collect()
}

pub fn l2(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The largest of |a - b|; NaN if there is one, so that no comparison lets it through.
pub fn max_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d <= m { m } else { d })
}

/// |a - b| / |b| in the L2 norm.
pub fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    l2(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>()) / l2(b)
}

/// The bits, for what must be equal to the last of them.
pub fn bits(v: &[f64]) -> Vec<u64> {
    v.iter().map(|v| v.to_bits()).collect()
}

/// One update with the gradients that are there; their norm.
pub fn update(optimizer: &mut Optimizer, device: &Device, params: &Params, lr: f64) -> f64 {
    optimizer.step(device, params, &[], lr).expect("a step");
    optimizer.synchronize(device).expect("results")[0].norm
}

/// A device of a kind, or `None` with a note on the terminal.
pub fn device(kind: &str) -> Option<Device> {
    let required = std::env::var("TEMPRA_REQUIRE").unwrap_or_default();
    match Device::open(kind, 0) {
        Ok(device) => Some(device),
        Err(e) if required.split(',').any(|r| r.trim() == kind) => panic!("{e}"),
        Err(e) => {
            report_skipped(&format!("no {kind}, so training through it was not tried: {e}"));
            None
        }
    }
}

/// The adapter of wgpu, or `None` with a note on the terminal.
pub fn adapter() -> Option<Device> {
    device("wgpu")
}

/// Has transformers open a saved folder and compare logits (`check_saved.py`), where there is a python that
/// has it.
pub fn check_saved(dir: &Path, fixture: &Value) {
    let Some(python) = std::env::var_os("TEMPRA_PYTHON").filter(|p| !p.is_empty()) else {
        report_skipped("not run: check_saved.py; TEMPRA_PYTHON names no python with torch and transformers");
        return;
    };
    let path = dir.with_extension("json");
    std::fs::write(&path, fixture.to_string()).expect("written");
    let script = golden("check_saved.py");
    let run = std::process::Command::new(python).arg(script).args([dir, &path]).output().expect("python");
    let said = String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned();
    assert!(run.status.success(), "check_saved.py: {}\n{said}", run.status);
    println!("transformers: {}", said.trim_end());
}

/// How many lines a run of the program wrote.
pub fn lines_of(said: &str) -> u32 {
    said.lines().count() as u32
}

/// Runs a program and kills it as soon as it has written so many lines to standard output; its status if it
/// ended on its own.
pub fn killed_after(command: &mut Command, lines: u32) -> Option<ExitStatus> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    // The pipe stays open until the kill, or the program would end for want of a reader.
    let mut said = said.lines();
    if (0..lines).all(|_| said.next().is_some()) {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    status.code().map(|_| status)
}
