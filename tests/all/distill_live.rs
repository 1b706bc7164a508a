//! Distillation from a teacher that runs beside the student: hidden states, embeddings, relations, and the
//! logits of masked tokens.

use crate::support::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use tempra::checkpoint::{RealFs, Weights};
use tempra::data::{Batch, eval_batches};
use tempra::device::Device;
use tempra::models::{Model, Options, Outputs};
use tempra::nn::Taps;
use tempra::tape::Tape;
use tempra::tasks::{Mask, Task, inputs};
use tempra::train::{Control, Event, Observer, Observers, Recipe, Run, Signals, train};

/// What the runs of these tests share: a folder with the data and the teacher.
struct Scene {
    dir: tempfile::TempDir,
    golden: Value,
}

impl Scene {
    fn new() -> Scene {
        let scene =
            Scene { dir: tempfile::tempdir().expect("a folder"), golden: json(&golden("distill_live.json")) };
        scene.copy("a", "teacher");
        let eps = scene.golden["layer_norm_eps"].clone();
        scene.configure("teacher", |config| config["layer_norm_eps"] = eps);
        let names = |key: &str| -> Vec<String> {
            let all = scene.golden[key].as_array().expect("a list").iter();
            all.map(|n| n.as_str().expect("text").to_owned()).collect()
        };
        let (classes, labels) = (names("classes"), numbers(&scene.golden["labels"]));
        let row = |(text, label): (&String, &f64)| json!({ "text": text, "label": classes[*label as usize] });
        let texts = names("texts");
        let rows: Vec<String> = texts.iter().zip(&labels).map(row).map(|row| format!("{row}\n")).collect();
        std::fs::write(scene.path("train.jsonl"), rows.concat()).expect("written");
        std::fs::write(scene.path("raw.txt"), texts.join("\n")).expect("written");
        scene
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    /// A copy of a model of `golden/bert`, with the tokenizer of `a`.
    fn copy(&self, from: &str, name: &str) {
        std::fs::create_dir_all(self.path(name)).expect("a folder");
        let files = [
            (from, "config.json"),
            (from, "model.safetensors"),
            ("a", "tokenizer.json"),
            ("a", "tokenizer_config.json"),
        ];
        for (from, file) in files {
            std::fs::copy(golden("bert").join(from).join(file), self.path(name).join(file)).expect("copied");
        }
    }
    fn configure(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let path = self.path(name).join("config.json");
        let mut config = json(&path);
        change(&mut config);
        std::fs::write(path, config.to_string()).expect("written");
    }
    /// A recipe of task "classify"; `distill` are further lines of its section.
    fn text(&self, distill: &str) -> String {
        let [model, teacher] =
            [golden("bert/a"), self.path("teacher")].map(|p| json!(p.to_string_lossy()).to_string());
        format!(
            "task = \"classify\"\nthreads = 1\n[model]\npath = {model}\nlayers = [0, 2]\ndropout = 0\n\
             attention_dropout = 0\nclassifier_dropout = 0\n[data]\ntrain = \"train.jsonl\"\nmax_length = 40\n\
             validation_fraction = 0\ncache = false\n[train]\nbatch_size = 12\nmax_steps = 6\nlog_every = 1\n\
             save_every = 2\n[optim]\nlr = 3e-3\n[distill]\nteacher = {teacher}\n{distill}\n"
        )
    }
    /// The same for task "mask", with a model that has a head for it as student and teacher.
    fn masked(&self, distill: &str) -> String {
        let text = self.text(distill).replace("\"classify\"", "\"mask\"").replace("train.jsonl", "raw.txt");
        let model = json!(golden("bert/a").to_string_lossy()).to_string();
        let own = json!(self.path("masked/model").to_string_lossy()).to_string();
        if !self.path("masked").exists() {
            let text = text.split("[distill]").next().expect("a part").replace("layers = [0, 2]\n", "");
            self.train(&text.replace("max_steps = 6", "max_steps = 3"), "masked", u64::MAX)
                .expect("a teacher");
        }
        let teacher = json!(self.path("teacher").to_string_lossy()).to_string();
        text.replace(&model, &own).replace(&teacher, &own).replace("[data]", "[mask]\nby_row = true\n[data]")
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
    fn tensors(&self, file: &str) -> Weights {
        Weights::open(self.path(file)).expect("tensors")
    }
}

struct Losses(Vec<f64>);

impl Observer for Losses {
    fn event(&mut self, event: &Event) -> Control {
        if let Event::Step(step) = event {
            self.0.push(step.loss);
        }
        Control::Continue
    }
}

struct Limit(u64);

impl Observer for Limit {
    fn event(&mut self, event: &Event) -> Control {
        match event {
            Event::Step(step) if step.step >= self.0 => Control::Stop,
            _ => Control::Continue,
        }
    }
}

/// What a model gives for a batch: its outputs, and its hidden states, each row by row.
fn seen(device: &Device, model: &Model, batch: &Batch) -> (Vec<f64>, Vec<Vec<f64>>) {
    let mut tape = Tape::evaluate(device);
    let bound = model.params.bind(&mut tape, false).expect("bound");
    let x = inputs(&mut tape, batch, None).expect("inputs");
    let mut taps = Taps::none().with_hidden();
    let outputs = model.forward(&mut tape, &bound, &x, &mut taps).expect("a pass");
    (floats(device, outputs[0].value()), taps.hidden.iter().map(|v| floats(device, v.value())).collect())
}

/// The loss of the first step, whole and in passes: `make_distill_live.py`.
#[test]
fn the_first_step_with_a_live_teacher_is_that_of_pytorch() {
    let scene = Scene::new();
    for (i, case) in scene.golden["cases"].as_array().expect("cases").iter().enumerate() {
        let (keys, truth) = (case["keys"].as_str().expect("keys"), number(&case["loss"]));
        let text = scene.text(keys);
        for (cut, text) in
            [text.clone(), text.replace("[train]", "[train]\naccumulation = 5")].iter().enumerate()
        {
            let losses =
                scene.train(text, &format!("run-{i}-{cut}"), 2).unwrap_or_else(|e| panic!("{keys}: {e}"));
            assert!(
                (losses[0] - truth).abs() <= 3e-5 * (1.0 + truth),
                "{keys}: {}, PyTorch {truth}",
                losses[0]
            );
            assert!(losses[1] < losses[0], "{keys}: {losses:?}");
        }
    }
}

/// Logits that are computed in every step give the loss of those that were computed before, also where the
/// classes of the teacher have another order.
#[test]
fn live_logits_give_the_loss_of_kept_ones() {
    let scene = Scene::new();
    let order = "validation_fraction = 0\nclasses = [\"positive\", \"negative\", \"neutral\"]";
    for text in
        [scene.text("weight = 0.7"), scene.text("weight = 1").replace("validation_fraction = 0", order)]
    {
        let i = text.len();
        let kept = scene.train(&text, &format!("kept-{i}"), u64::MAX).expect("trained");
        let live =
            scene.train(&format!("{text}live = true\n"), &format!("live-{i}"), u64::MAX).expect("trained");
        assert!(kept.len() == 6 && max_difference(&kept, &live) < 1e-5, "{kept:?} {live:?}");
    }
}

/// Eight steps of all losses on a GPU are those of the CPU. Steps have other examples, but recur in their
/// sizes, so that CUDA replays graphs that hold the teacher's passes too.
#[test]
fn wgpu_and_cuda_train_with_a_live_teacher_as_the_cpu_does() {
    let scene = Scene::new();
    let keys = "preset = \"tinybert\"\nlabel_weight = 0.5\nlogits_weight = 0.5\nlive = true";
    let text = scene.text(keys).replace("batch_size = 12", "batch_size = 4");
    let text = text.replace("max_steps = 6", "max_steps = 8");
    let here = scene.train(&text, "cpu", u64::MAX).expect("trained");
    assert!(here.len() == 8 && here[7] < here[0], "{here:?}");
    for name in ["wgpu", "cuda"].into_iter().filter(|name| device(name).is_some()) {
        let text = text.replace("threads = 1", &format!("threads = 1\ndevice = \"{name}\""));
        let there = scene.train(&text, name, u64::MAX).expect("trained");
        let off = max_difference(&here, &there);
        println!("{name}: largest difference {off:.1e}");
        assert!(off < 2e-3, "{name}: {here:?} {there:?}");
    }
}

/// A teacher of another width: the student's states go through a linear map that is trained, in every
/// checkpoint and in no model folder.
#[test]
fn a_linear_map_leads_to_another_width() {
    let scene = Scene::new();
    scene.copy("b", "teacher");
    let keys = "label_weight = 0\nlogits_weight = 0\nhidden_weight = 1\nembedding_weight = 1";
    let losses = scene.train(&scene.text(keys), "run", u64::MAX).expect("trained");
    let device = cpu(1);
    let run = Run::prepare(&scene.recipe(&scene.text(keys), "other").expect("a recipe")).expect("a run");
    let (teacher, _) = open(&device, &scene.path("teacher"), &Options::default());
    let map = |name: &str| {
        let p = run.model.params.layout().list.iter().find(|p| p.name == name).expect("a parameter");
        floats(&run.device, &run.model.params.value(p).expect("its values"))
    };
    let (weight, bias) = (map("distill.projection.weight"), map("distill.projection.bias"));
    let (mut sum, mut tokens) = (0.0, 0);
    for batch in eval_batches(&run.parts[0].train, 64, 0).expect("batches") {
        let ((_, own), (_, target)) =
            (seen(&run.device, &run.model, &batch), seen(&device, &teacher, &batch));
        tokens += batch.ids.len();
        for [s, t] in [[0, 0], [1, 1], [2, 3]] {
            for (own, target) in own[s].chunks_exact(32).zip(target[t].chunks_exact(40)) {
                let square = |(row, target): (usize, &f64)| {
                    let y: f64 = own.iter().zip(&weight[row * 32..]).map(|(x, w)| x * w).sum();
                    (y + bias[row] - target).powi(2) / 40.0
                };
                sum += target.iter().enumerate().map(square).sum::<f64>();
            }
        }
    }
    let truth = sum / tokens as f64;
    assert!((losses[0] - truth).abs() <= 3e-5 * (1.0 + truth), "{} {truth}", losses[0]);
    let trained = |file: &str| {
        let mut values = vec![0f32; 40 * 32];
        scene.tensors(file).f32_into("distill.projection.weight", &mut values).map(|()| values)
    };
    let kept = trained("run/checkpoint-6/optimizer.safetensors").expect("in the checkpoint");
    assert!(kept.iter().zip(&weight).any(|(a, b)| (f64::from(*a) - b).abs() > 1e-4));
    for file in ["run/checkpoint-6/model.safetensors", "run/model/model.safetensors"] {
        assert!(
            trained(file).is_err() && !scene.tensors(file).names().any(|n| n.contains("projection")),
            "{file}"
        );
    }
}

/// A run that was stopped ends with the bits of one that was not, with every kind of loss; another teacher is
/// refused.
#[test]
fn a_stopped_run_with_a_live_teacher_goes_on_with_the_same_bits() {
    let scene = Scene::new();
    scene.copy("b", "teacher");
    let classify =
        scene.text("preset = \"tinybert\"\nlabel_weight = 0.5").replace("dropout = 0\n", "dropout = 0.2\n");
    let mask = scene.masked("preset = \"distilbert\"").replace("dropout = 0\n", "dropout = 0.2\n");
    for (name, text) in [("classify", classify), ("mask", mask)] {
        let whole = scene.train(&text, &format!("{name}-whole"), u64::MAX).expect("trained");
        let mut parts = scene.train(&text, &format!("{name}-parts"), 3).expect("stopped");
        if name == "classify" {
            scene.configure("teacher", |config| config["layer_norm_eps"] = json!(1e-6));
            let e = scene.train(&text, "classify-parts", u64::MAX).expect_err("another teacher").to_string();
            assert!(e.contains("it was started with another teacher"), "{e}");
            scene.copy("b", "teacher");
        }
        parts.extend(scene.train(&text, &format!("{name}-parts"), u64::MAX).expect("resumed"));
        assert!(whole.len() == 6 && whole.iter().all(|loss| loss.is_finite()), "{whole:?}");
        assert_eq!(bits(&whole), bits(&parts), "{name}");
        for file in ["model/model.safetensors", "checkpoint-6/optimizer.safetensors"] {
            let bytes =
                |run: &str| std::fs::read(scene.path(&format!("{name}-{run}/{file}"))).expect("bytes");
            assert!(bytes("whole") == bytes("parts"), "{name}: {file}");
        }
    }
}

/// The log softmax of the rows of logits over T.
fn log_softmax(logits: &[f64], width: usize, temperature: f64) -> Vec<f64> {
    let row = |row: &[f64]| {
        let sum: f64 = row.iter().map(|z| (z / temperature).exp()).sum();
        row.iter().map(|z| z / temperature - sum.ln()).collect::<Vec<_>>()
    };
    logits.chunks_exact(width).flat_map(row).collect()
}

/// The preset of DistilBERT on raw text: 5 KL at T = 2 over the masked tokens, 2 cross-entropy, 1 cosine of
/// the last hidden states over all tokens. By the formulas, from what both models give.
#[test]
fn distilbert_learns_masked_tokens_logits_and_states() {
    let scene = Scene::new();
    let text = scene.masked("preset = \"distilbert\"").replace("batch_size = 12", "batch_size = 64");
    let recipe = scene.recipe(&text, "run").expect("a recipe");
    let losses = scene.train(&text, "run", 1).expect("trained");
    let cut = text.replace("[train]", "[train]\naccumulation = 5");
    let again = scene.train(&cut, "cut", 1).expect("trained");
    let run = Run::prepare(&recipe).expect("a run");
    let device = cpu(1);
    let (teacher, _) = open(&device, &scene.path("masked/model"), &Options::default());
    assert_eq!(teacher.outputs, Outputs::Tokens);
    let mut batch = eval_batches(&run.parts[0].train, 4096, 0).expect("batches").remove(0);
    run.parts[0].task.prepare(&mut batch, (recipe.seed, 0)).expect("masked");
    let hidden = batch.masked.len();
    assert!(hidden > 5 && batch.len() > 12, "{hidden} of {}", batch.len());
    let ((s, own), (t, target)) = (seen(&run.device, &run.model, &batch), seen(&device, &teacher, &batch));
    let (lp, lq) = (log_softmax(&t, 200, 2.0), log_softmax(&s, 200, 2.0));
    let kl: f64 = lp.iter().zip(&lq).map(|(p, q)| p.exp() * (p - q)).sum();
    let labels = log_softmax(&s, 200, 1.0);
    let nll = |(row, id): (&[f64], &u32)| -row[*id as usize];
    let ce: f64 = labels.chunks_exact(200).zip(batch.targets.tokens()).map(nll).sum();
    let cosine = |(s, t): (&[f64], &[f64])| {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        1.0 - dot(s, t) / (dot(s, s) * dot(t, t)).sqrt()
    };
    let states = own[2].chunks_exact(32).zip(target[3].chunks_exact(32)).map(cosine).sum::<f64>();
    let n = hidden as f64;
    let truth = 5.0 * 4.0 * kl / n + 2.0 * ce / n + states / batch.ids.len() as f64;
    for found in [losses[0], again[0]] {
        assert!((found - truth).abs() <= 5e-5 * (1.0 + truth), "{found} {truth}");
    }
}

/// MiniLM's preset on raw text hides no token. What its loss does not reach is not trained: the head, and of
/// the last layer all but queries, keys and values.
#[test]
fn minilm_needs_no_labels_and_hides_no_token() {
    let scene = Scene::new();
    let text = scene.masked("preset = \"minilm\"\nrelation_heads = 8");
    let run = Run::prepare(&scene.recipe(&text, "run").expect("a recipe")).expect("a run");
    let mut batch = eval_batches(&run.parts[0].train, 4096, 0).expect("batches").remove(0);
    let before = batch.clone();
    run.parts[0].prepare(&mut batch, (42, 0)).expect("prepared");
    assert_eq!(batch, before);
    Mask { probability: 0.5, whole_word: false, mask: 4, vocab: 200 }
        .prepare(&mut batch, (42, 0))
        .expect("hidden");
    assert_ne!(batch, before);
    let losses =
        scene.train(&text.replace("max_steps = 6", "max_steps = 20"), "run", u64::MAX).expect("trained");
    assert!(losses.len() == 20 && losses[19] < 0.7 * losses[0], "{losses:?}");
    let frozen: Vec<&str> =
        run.model.params.layout().list.iter().filter(|p| p.frozen).map(|p| p.name.as_str()).collect();
    assert!(frozen.iter().all(|n| n.starts_with("cls.") || n.contains("encoder.layer.1.")), "{frozen:?}");
    let of_qkv = |n: &str| ["query", "key", "value"].iter().any(|part| n.contains(part));
    assert!(!frozen.iter().any(|n| of_qkv(n)) && frozen.len() > 10, "{frozen:?}");
    let [start, end] =
        ["masked/model/model.safetensors", "run/model/model.safetensors"].map(|f| scene.tensors(f));
    let same = |own: &str, from: &str| end.f32(own).expect("a tensor") == start.f32(from).expect("a tensor");
    assert!(same("cls.predictions.transform.dense.weight", "cls.predictions.transform.dense.weight"));
    assert!(same("bert.encoder.layer.1.output.dense.weight", "bert.encoder.layer.2.output.dense.weight"));
    assert!(!same(
        "bert.encoder.layer.1.attention.self.key.weight",
        "bert.encoder.layer.2.attention.self.key.weight"
    ));
    assert!(!same("bert.encoder.layer.0.output.dense.weight", "bert.encoder.layer.0.output.dense.weight"));
}

/// The teacher is in the plan of memory: its weights, and what it leaves while the student trains.
#[test]
fn a_live_teacher_is_in_the_memory_plan() {
    let scene = Scene::new();
    let plan =
        |text: &str| Run::prepare(&scene.recipe(text, "plan").expect("a recipe")).expect("a run").memory;
    let text = scene.text("label_weight = 1\nlogits_weight = 0\nhidden_weight = 1");
    let (alone, with) = (plan(text.split("[distill]").next().expect("a part")), plan(&text));
    let (model, _) = open(
        &cpu(1),
        &scene.path("teacher"),
        &Options { outputs: Some(Outputs::Embedding), ..Options::default() },
    );
    let weights = model.params.bytes() as u64;
    assert!(
        (weights..weights + weights / 8).contains(&with.beside) && alone.beside == 0,
        "{} {weights}",
        with.beside
    );
    assert!(
        with.total >= alone.total + weights && with.to_string().contains("for the weights of the teacher"),
        "{with}"
    );
}

/// What does not fit is refused by name.
#[test]
fn what_does_not_fit_a_live_teacher_is_refused() {
    let scene = Scene::new();
    let refused = |text: String, parts: &[&str]| {
        let e = scene.train(&text, "refused", 1).expect_err("refused").to_string();
        assert!(parts.iter().all(|part| e.contains(part)), "{parts:?}: {e}");
    };
    let of = |keys: &str| scene.text(keys);
    let layers = |pairs: &str| of(&format!("hidden_weight = 1\nhidden_layers = {pairs}"));
    refused(layers("[[0, 3]]"), &["names layer 3 of the teacher", "from 0 to 2", "[0, 3]"]);
    refused(layers("[[0, 0], [2, 2]]"), &["names layer 2 of the student", "from 0 to 1"]);
    refused(layers("[[1, 0], [0, 0], [1, 0]]"), &["the same pair twice", "[1, 0]"]);
    refused(layers("[[0]]"), &["distill.hidden_layers is invalid", "1 numbers as item 1"]);
    refused(layers("[]"), &["distill.hidden_layers is invalid", "an empty list"]);
    refused(layers("\"first\""), &["distill.hidden_layers is invalid", "\"first\""]);
    refused(
        of("relation_weight = 1\nrelation_heads = 5"),
        &["relation_heads (5)", "32 (teacher) and 32", "= 32"],
    );
    refused(of("relation_weight = 1\nrelation_layer = 3"), &["relation_layer names layer 3", "from 0 to 2"]);
    refused(of("preset = \"tinybrt\""), &["distill.preset is invalid", "did you mean \"tinybert\""]);
    refused(of("preset = \"distilbert\""), &["works on raw text", "task \"mask\""]);
    refused(of("label_weight = 0\nlogits_weight = 0"), &["every loss of this run has the factor 0"]);
    refused(of("hidden_weight = -1"), &["distill.hidden_weight is invalid", "at least 0"]);
    let stopping = of("preset = \"minilm\"").replace("[train]", "[train]\nearly_stopping = 2");
    refused(
        stopping.replace("validation_fraction = 0", "validation_fraction = 0.5"),
        &["no loss of this run trains the head"],
    );
    let regress = of("live = true").replace("\"classify\"", "\"regress\"");
    refused(regress, &["distill.live does not work with task \"regress\""]);
    let cached = of("live = false").replace("\"classify\"", "\"mask\"");
    refused(cached, &["distill.live does not work with task \"mask\"", "every epoch"]);
    let no_teacher = of("preset = \"minilm\"").replace("teacher = ", "# teacher = ");
    refused(no_teacher, &["distill.preset is set, but distill.teacher is not"]);
    let contrastive = of("preset = \"minilm\"").replace("\"classify\"", "\"similar\"");
    let contrastive =
        contrastive.replace("[data]", "[similar]\nloss = \"contrastive\"\n[data]\npair = \"label\"");
    refused(contrastive, &["cannot learn from hidden states or relations"]);
    let permute = of("hidden_weight = 1").replace("\"classify\"", "\"permute\"");
    refused(
        permute,
        &["the logits of task \"permute\" cannot be distilled", "cannot learn from hidden states"],
    );
    // A classifier has no logits of masked tokens.
    let plain = json!(scene.path("teacher").to_string_lossy()).to_string();
    let own = json!(scene.path("masked/model").to_string_lossy()).to_string();
    let masked =
        scene.masked("logits_weight = 1").replace(&format!("teacher = {own}"), &format!("teacher = {plain}"));
    refused(masked, &["the teacher is not a masked language model", "Classes"]);

    scene.copy("b", "teacher");
    refused(of("hidden_weight = 1\nprojection = false"), &["different widths", "40 (teacher), 32 (student)"]);
    refused(
        of("relation_weight = 1\nrelation_heads = 32"),
        &["widths 40 (teacher) and 32 (student)", "relation_heads = 8"],
    );
    let whole = layers("\"all\"").replace("layers = [0, 2]\n", "");
    scene.configure("teacher", |config| config["max_position_embeddings"] = json!(8));
    refused(whole, &["the teacher"]);
}
