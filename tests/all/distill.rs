//! Distillation: the loss of soft targets, the teacher, runs with one.

use crate::support::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use tempra::checkpoint::{RealFs, write_dir};
use tempra::compress::Teacher;
use tempra::data::{Row, TokenSet};
use tempra::device::Device;
use tempra::models::{Model, Options};
use tempra::ops::soft_cross_entropy::SoftCrossEntropy;
use tempra::shape::DType;
use tempra::tape::{Leaf, Tape};
use tempra::tasks::Classify;
use tempra::text::Tokenizer;
use tempra::train::{Control, Event, Observer, Observers, Recipe, Signals, train};

/// Value and gradient of given logits: `make_soft_cross_entropy.py`.
#[test]
fn the_loss_is_that_of_pytorch() {
    let device = cpu(1);
    let golden = json(&golden("soft_cross_entropy.json"));
    for case in golden["cases"].as_array().expect("cases") {
        let weights = numbers(&case["weights"]);
        let shape = [weights.len(), number(&case["classes"]) as usize];
        let put = |shape: &[usize], v: &[f64]| device.upload_reals(DType::F64, shape, v).expect("memory");
        let gradient = device.zeros(DType::F64, &shape).expect("memory");
        let mut tape = Tape::new(&device);
        let student = Leaf::new(put(&shape, &numbers(&case["student"])), gradient.clone(), false);
        let student = tape.leaf(student);
        let fixed = [
            put(&shape, &numbers(&case["teacher"])),
            put(&[shape[0]], &weights),
            put(&[1], &[1.0 / weights.iter().sum::<f64>()]),
        ];
        let [teacher, weights, scale] = fixed.map(|t| tape.constant(t));
        let op = SoftCrossEntropy { temperature: number(&case["temperature"]) as f32 };
        let root = tape.apply(op, [student, teacher, weights, scale]).expect("a loss");
        let found = floats(&device, root.value())[0];
        tape.backward(root, put(&[1], &[1.0])).expect("backward");
        let (truth, gradients) = (number(&case["loss"]), numbers(&case["gradient"]));
        assert!((found - truth).abs() <= 1e-12 * (1.0 + truth.abs()), "{found}, PyTorch {truth}");
        let off = max_difference(&floats(&device, &gradient), &gradients);
        assert!(off <= 1e-12, "{off:e}");
    }
}

/// What the runs of these tests share: a folder with the data and a copy of the teacher.
struct Scene {
    dir: tempfile::TempDir,
    golden: Value,
}

/// Two layers of the teacher learn from all of it.
const STUDENT: &str = "layers = [0, 2]\n";

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().expect("a folder");
        let golden = json(&golden("distill.json"));
        let scene = Scene { dir, golden };
        scene.copy("teacher");
        let classes = scene.classes();
        let (texts, labels) =
            (scene.golden["texts"].as_array().expect("texts"), numbers(&scene.golden["labels"]));
        let row = |(text, label): (&Value, &f64)| json!({ "text": text, "label": classes[*label as usize] });
        let rows: Vec<String> = texts.iter().zip(&labels).map(row).map(|row| format!("{row}\n")).collect();
        std::fs::write(scene.path("train.jsonl"), rows.concat()).expect("written");
        scene
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn classes(&self) -> Vec<String> {
        self.golden["classes"]
            .as_array()
            .expect("names")
            .iter()
            .map(|n| n.as_str().expect("text").to_owned())
            .collect()
    }
    /// A copy of the model that is teacher and student.
    fn copy(&self, name: &str) {
        std::fs::create_dir_all(self.path(name)).expect("a folder");
        for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(golden("bert/a").join(file), self.path(name).join(file)).expect("copied");
        }
    }
    /// Changes the config of a model.
    fn configure(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let path = self.path(name).join("config.json");
        let mut config = json(&path);
        change(&mut config);
        std::fs::write(path, config.to_string()).expect("written");
    }
    /// A recipe: `more` are further lines of its section `[distill]`, and `layers` of `[model]`.
    fn text(&self, more: &str) -> String {
        let (layers, distill): (Vec<&str>, Vec<&str>) =
            more.split_inclusive('\n').partition(|line| line.starts_with("layers"));
        let (layers, distill) = (layers.concat(), distill.concat());
        let model = golden("bert/a");
        let [model, teacher] =
            [model.as_path(), &self.path("teacher")].map(|p| json!(p.to_string_lossy()).to_string());
        format!(
            "task = \"classify\"\nthreads = 1\n[model]\npath = {model}\n{layers}dropout = 0\nattention_dropout = 0\n\
             classifier_dropout = 0\n[data]\ntrain = \"train.jsonl\"\nmax_length = 40\nvalidation_fraction = 0\n\
             cache = false\n[train]\nbatch_size = 12\nmax_steps = 6\nlog_every = 1\n[optim]\nlr = 3e-3\n[distill]\n\
             teacher = {teacher}\n{distill}"
        )
    }
    fn recipe(&self, text: &str, output: &str) -> tempra::error::Result<Recipe> {
        let set = [("output".to_owned(), self.path(output).display().to_string())];
        Recipe::from_toml(text, &self.path("recipe.toml"), &set)
    }
    /// Trains, and stops after some steps; the loss of each.
    fn train(&self, text: &str, output: &str, steps: u64) -> tempra::error::Result<Vec<f64>> {
        let (mut losses, mut limit) = (Losses(Vec::new()), Limit(steps));
        let mut both = Observers::default().with(&mut losses).with(&mut limit);
        train(&self.recipe(text, output)?, false, Arc::new(RealFs), &Signals::default(), &mut both)?;
        Ok(losses.0)
    }
    fn refused(&self, text: &str) -> String {
        self.train(text, "refused", 1).expect_err("refused").to_string()
    }
    fn weights(&self, output: &str) -> Vec<u8> {
        std::fs::read(self.path(output).join("model/model.safetensors")).expect("weights")
    }
}

/// The loss of each step.
pub struct Losses(pub Vec<f64>);

impl Observer for Losses {
    fn event(&mut self, event: &Event) -> Control {
        if let Event::Step(step) = event {
            self.0.push(step.loss);
        }
        Control::Continue
    }
}

/// Stops after so many steps.
pub struct Limit(pub u64);

impl Observer for Limit {
    fn event(&mut self, event: &Event) -> Control {
        match event {
            Event::Step(step) if step.step >= self.0 => Control::Stop,
            _ => Control::Continue,
        }
    }
}

/// The loss of the first step, whole and in passes: `make_distill.py`.
#[test]
fn the_first_step_is_that_of_pytorch() {
    let scene = Scene::new();
    for (i, case) in scene.golden["cases"].as_array().expect("cases").iter().enumerate() {
        let (weight, temperature) = (number(&case["weight"]), number(&case["temperature"]));
        let text = scene.text(&format!("{STUDENT}weight = {weight}\ntemperature = {temperature}\n"));
        for (cut, text) in
            [text.clone(), text.replace("[train]", "[train]\naccumulation = 5")].iter().enumerate()
        {
            let found = scene.train(text, &format!("run-{i}-{cut}"), 1).expect("trained")[0];
            let truth = number(&case["loss"]);
            assert!((found - truth).abs() <= 2e-5 * (1.0 + truth), "{found}, PyTorch {truth}");
        }
    }
}

/// With weight 1 the loss is the teacher's part: it falls, and the folder that comes out has the chosen
/// layers.
#[test]
fn a_student_comes_near_its_teacher() {
    let scene = Scene::new();
    let text = scene.text(&format!("{STUDENT}weight = 1\n")).replace("max_steps = 6", "max_steps = 40");
    let losses = scene.train(&text, "run", u64::MAX).expect("trained");
    assert!(losses.len() == 40 && losses[39] < 0.2 * losses[0], "{losses:?}");
    let folder = scene.path("run/model");
    assert_eq!(json(&folder.join("config.json"))["num_hidden_layers"], 2);
    let (model, report) = open(&cpu(1), &folder, &Options::default());
    assert!(model.shape().depth() == 2 && report.unused.is_empty(), "{report}");
}

fn classify(classes: Vec<String>) -> Classify {
    Classify { classes, label_smoothing: 0.0, class_weights: None, gamma: 0.0 }
}

/// The teacher's outputs follow its classes by name.
#[test]
fn classes_are_matched_by_name() {
    let scene = Scene::new();
    let device = cpu(1);
    let tokenizer = Tokenizer::from_dir(&scene.path("teacher"), 200).expect("a tokenizer");
    let texts = scene.golden["texts"].as_array().expect("texts").iter();
    let row =
        |text: &Value| Row { text: text.as_str().expect("text").into(), pair: None, label: None, line: 1 };
    let rows: Vec<Row> = texts.map(row).collect();
    let set = TokenSet::build(&tokenizer, &rows, Vec::new(), 40, None).expect("tokens");
    let own = scene.classes();
    let all: Vec<u32> = (0..rows.len() as u32).collect();
    let truth = numbers(&scene.golden["teacher"]);
    for order in [[0, 1, 2], [2, 0, 1]] {
        let classes: Vec<String> = order.iter().map(|&i| own[i].clone()).collect();
        let teacher =
            Teacher::find(&scene.path("teacher"), &classify(classes), 32, &tokenizer, 40).expect("it fits");
        let taught = teacher.teach(&device, &set, 64, None).expect("outputs");
        let found = taught.targets.of(&all).expect("rows");
        let expected: Vec<f64> = truth.chunks_exact(3).flat_map(|row| order.map(|i| row[i])).collect();
        assert!(max_difference(&found, &expected) < 1e-5, "{}", max_difference(&found, &expected));
        assert!(taught.targets.of(&[rows.len() as u32]).is_err());
    }
}

/// The plan of the teacher's passes is what they take: no gradients, no optimizer states.
#[test]
fn the_teacher_takes_the_memory_that_is_planned() {
    let scene = Scene::new();
    let device = cpu(2);
    let tokenizer = Tokenizer::from_dir(&scene.path("teacher"), 200).expect("a tokenizer");
    let row = |i: usize| Row { text: "good ".repeat(5 + i % 30), pair: None, label: None, line: 1 };
    let rows: Vec<Row> = (0..64).map(row).collect();
    let set = TokenSet::build(&tokenizer, &rows, Vec::new(), 40, None).expect("tokens");
    let task = classify(scene.classes());
    let teacher = Teacher::find(&scene.path("teacher"), &task, 32, &tokenizer, 40).expect("it fits");
    let planned = teacher.plan(&device.caps(), &set, 512).expect("a plan");
    teacher.teach(&device, &set, 512, None).expect("outputs");
    let Device::Cpu(host) = &device else { panic!("another device") };
    let taken = host.memory().peak as u64;
    println!("planned {planned}, taken {taken}");
    // In so small a model it shows that a free block may serve a request of half its size.
    assert!((0.8..=1.1).contains(&(planned as f64 / taken as f64)), "planned {planned}, taken {taken}");
}

/// A run that was stopped ends with the bits of one that was not; another teacher is refused.
#[test]
fn a_stopped_run_goes_on_with_the_same_bits_and_the_same_teacher() {
    let scene = Scene::new();
    let text = scene.text(STUDENT).replace("dropout = 0\n", "dropout = 0.2\n");
    let whole = scene.train(&text, "whole", u64::MAX).expect("trained");
    let mut parts = scene.train(&text, "parts", 2).expect("stopped");
    scene.configure("teacher", |config| config["layer_norm_eps"] = json!(1e-6));
    let e = scene.train(&text, "parts", u64::MAX).expect_err("another teacher").to_string();
    assert!(e.contains("it was started with another teacher") && e.contains("--fresh"), "{e}");
    scene.copy("teacher");
    parts.extend(scene.train(&text, "parts", u64::MAX).expect("resumed"));
    assert_eq!(bits(&whole), bits(&parts));
    assert!(scene.weights("whole") == scene.weights("parts"));
}

/// Layers of every architecture that has independent ones can be chosen: all of them are the whole model, in
/// another order they are another one, and the folder says how many there are.
#[test]
fn layers_are_cut_out_of_every_architecture_that_has_them() {
    let device = cpu(1);
    let of = |layers: Option<Vec<usize>>| Options { layers, ..Options::default() };
    for (name, folder) in crate::tasks::models() {
        let (whole, _) = open(&device, &folder, &of(None));
        let all: Vec<usize> = (0..whole.shape().depth()).collect();
        if ["albert", "modernbert", "xlnet"].iter().any(|kind| name.starts_with(kind)) {
            let e = Model::open(&device, &folder, &of(Some(all))).err().expect("refused").to_string();
            assert!(e.contains("cannot be chosen"), "{name}: {e}");
            continue;
        }
        // With their names, so that they tell models of other layers apart.
        let values = |model: &Model| values(&device, model);
        let (same, report) = open(&device, &folder, &of(Some(all.clone())));
        assert!(values(&same) == values(&whole) && report.unused.is_empty(), "{name}: {report}");
        let turned: Vec<usize> = all.iter().rev().copied().collect();
        assert!(
            all.len() == 1 || values(&open(&device, &folder, &of(Some(turned))).0) != values(&whole),
            "{name}"
        );
        let (last, report) = open(&device, &folder, &of(Some(vec![all.len() - 1])));
        assert!(last.shape().depth() == 1 && report.unused.is_empty(), "{name}: {report}");
        let dir = tempfile::tempdir().expect("a folder");
        let to = dir.path().join("cut");
        write_dir(&RealFs, &to, &last.files(&device).expect("files")).expect("written");
        let (again, _) = open(&device, &to, &of(None));
        assert!(values(&again) == values(&last) && again.shape() == last.shape(), "{name}");
    }
}

/// What does not fit is refused by name.
#[test]
fn what_does_not_fit_is_refused() {
    let scene = Scene::new();
    let refused = |text: String, parts: &[&str]| {
        let e = scene.refused(&text);
        assert!(parts.iter().all(|part| e.contains(part)), "{parts:?}: {e}");
    };
    refused(scene.text("layers = [0, 3]\n"), &["names layer 3", "from 0 to 2"]);
    refused(scene.text("layers = [1, 1]\n"), &["names layer 1 twice"]);
    refused(scene.text("layers = []\n"), &["model.layers is empty"]);
    refused(scene.text("weight = 0\n"), &["distill.weight"]);
    refused(scene.text("temperature = 0\n"), &["distill.temperature"]);
    refused(
        scene.text("").replace("\"classify\"", "\"mask\""),
        &["the teacher is not a masked language model"],
    );
    let both = scene.text("").replace("[distill]", "[loss]\nr_drop = 1\n[distill]");
    refused(both, &["loss.r_drop and distill.teacher are both set"]);
    refused(scene.text("").replace("/teacher\"", "/nowhere\""), &["nowhere"]);

    scene.configure("teacher", |config| {
        config["id2label"]["1"] = json!("meh");
        config["label2id"] = json!({ "negative": 0, "meh": 1, "positive": 2 });
    });
    refused(scene.text(""), &["other classes", "without \"neutral\", with \"meh\""]);
    scene.copy("teacher");
    scene.configure("teacher", |config| config["problem_type"] = json!("multi_label_classification"));
    refused(
        scene.text(""),
        &["the teacher has another kind of outputs", "for task \"multilabel\"", "task = \"classify\""],
    );
    scene.copy("teacher");
    let tokenizer = scene.path("teacher").join("tokenizer.json");
    let changed = std::fs::read_to_string(&tokenizer).expect("text") + "\n";
    std::fs::write(tokenizer, changed).expect("written");
    refused(scene.text(""), &["another tokenizer", "hash"]);
}

/// A hit in the cache gives the bits of a computed run; a damaged file is reported and computed again.
#[test]
fn cached_outputs_change_nothing() {
    let scene = Scene::new();
    std::fs::write(scene.path("recipe.toml"), scene.text(STUDENT).replace("cache = false", "cache = true"))
        .expect("written");
    let cache = scene.path("cache");
    let run = |output: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tempra"));
        command.current_dir(scene.dir.path()).env("TEMPRA_CACHE", &cache);
        let set = format!("output={output}");
        let out = command.args(["train", "recipe.toml", "--set", &set]).output().expect("run");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{said}");
        (said, scene.weights(output))
    };
    let (said, computed) = run("one");
    assert!(said.contains("12 outputs computed"), "{said}");
    let (said, read) = run("two");
    assert!(said.contains("12 outputs from the cache") && read == computed, "{said}");
    let files: Vec<PathBuf> =
        std::fs::read_dir(cache.join("teacher")).expect("a folder").flatten().map(|f| f.path()).collect();
    assert_eq!(files.len(), 1);
    let mut bytes = std::fs::read(&files[0]).expect("bytes");
    bytes[60] ^= 1;
    std::fs::write(&files[0], bytes).expect("written");
    let (said, again) = run("three");
    assert!(said.contains("damaged") && said.contains("12 outputs computed") && again == computed, "{said}");
    assert!(run("four").0.contains("from the cache"));
}

/// The hash of a recipe without a teacher or pruning is that of a version without these sections: its runs
/// can be resumed.
#[test]
fn recipes_without_a_teacher_keep_their_hash() {
    let scene = Scene::new();
    let text = scene.text("");
    let plain = text.split("[distill]").next().expect("a part").to_owned();
    let of = |text: &str| {
        let recipe = scene.recipe(text, "run").expect("a recipe");
        Recipe { output: Recipe::default().output, threads: 0, ..recipe }
    };
    let written = of(&plain).to_toml(false);
    let old = written.split("\n[").filter(|s| !s.starts_with("distill]") && !s.starts_with("prune]"));
    let old = old.collect::<Vec<_>>().join("\n[").replace("\noptimizer = \"adamw\"\n", "\n");
    assert_eq!(of(&plain).hash(), blake3::hash(old.as_bytes()).to_hex().to_string());
    assert_ne!(of(&text).hash(), of(&plain).hash());
}
