//! Every task with every architecture: a few steps are made, the folder opens again and scores the same.

use crate::support::{golden, report_skipped};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempra::data::{Batch, IGNORED, OnBadRow, read_documents};
use tempra::device::Device;
use tempra::models::{ARCHITECTURES, Model, Options, PairObjective};
use tempra::tasks::{Mask, for_each_output};
use tempra::text::Tokenizer;

/// A tokenizer of whole words that fits the small models (90 ids); `types`: those of a pair's second text.
fn tokenizer(types: u32) -> Value {
    let words =
        "the a cat dog sat ran on mat in house who where what did Alice Bob Paris went to saw big red and is";
    let vocab: serde_json::Map<String, Value> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        .into_iter()
        .chain(words.split(' '))
        .enumerate()
        .map(|(i, w)| (w.to_owned(), json!(i)))
        .collect();
    let piece = |name: &str, id: u32| json!({ "SpecialToken": { "id": name, "type_id": id } });
    let text = |name: &str, id: u32| json!({ "Sequence": { "id": name, "type_id": id } });
    let special =
        |name: &str, id: u32| (name.to_owned(), json!({ "id": name, "ids": [id], "tokens": [name] }));
    let added = |(id, content): (u32, &str)| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true })
    };
    let added: Vec<Value> = [(2, "[CLS]"), (3, "[SEP]"), (4, "[MASK]")].into_iter().map(added).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
        "added_tokens": added,
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [piece("[CLS]", 0), text("A", 0), piece("[SEP]", 0)],
            "pair": [piece("[CLS]", 0), text("A", 0), piece("[SEP]", 0), text("B", types), piece("[SEP]", types)],
            "special_tokens": Value::Object([special("[CLS]", 2), special("[SEP]", 3)].into_iter().collect()),
        },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]" },
    })
}

/// The small models that transformers saved, a folder each with its architecture.
pub fn models() -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for folder in std::fs::read_dir(golden("encoders")).unwrap().flatten().map(|f| f.path()) {
        if folder.join("model.safetensors").exists() {
            found.push((folder.file_name().unwrap().to_string_lossy().into_owned(), folder));
        }
    }
    found.push(("bert".to_owned(), golden("bert/a")));
    found.sort();
    found
}

/// A copy of a model's folder without a head's tensors being asked for, with the tokenizer.
pub fn prepared(dir: &Path, model: &Path) -> Value {
    let to = dir.join("base");
    std::fs::create_dir_all(&to).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(model.join(name), to.join(name)).unwrap();
    }
    let config: Value = serde_json::from_slice(&std::fs::read(to.join("config.json")).unwrap()).unwrap();
    let types = config["type_vocab_size"].as_u64().is_none_or(|n| n >= 2) as u32;
    std::fs::write(to.join("tokenizer.json"), tokenizer(types).to_string()).unwrap();
    // No class of its own: tokenizer.json is taken as it is.
    let class = r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#;
    std::fs::write(to.join("tokenizer_config.json"), class).unwrap();
    config
}

/// Writes a file of each format; returns nothing, the names are known.
pub fn data(dir: &Path) {
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    let pick = |i: usize, from: &[&str]| from[i * 7 % from.len()].to_owned();
    let rows = |f: &dyn Fn(usize) -> String| (0..24).map(f).collect::<String>();
    let text = |i: usize| {
        format!("{} {} sat on the mat", pick(i, &["the", "a"]), pick(i, &["cat", "dog", "red cat"]))
    };
    write(
        "classify.csv",
        format!("text,label\n{}", rows(&|i| format!("{},{}\n", text(i), ["yes", "no"][i % 2]))),
    );
    write("regress.csv", format!("text,label\n{}", rows(&|i| format!("{},{}\n", text(i), i as f32 / 10.0))));
    let sets = ["\"a,b\"", "a", "", "b"];
    write("multilabel.csv", format!("text,label\n{}", rows(&|i| format!("{},{}\n", text(i), sets[i % 4]))));
    write(
        "similar.csv",
        format!(
            "text,pair,label\n{}",
            // Pairs of many kinds: equal ones stay in one split, where no correlation is defined.
            rows(&|i| format!("{},{},{}\n", text(i), text(i / 3), (i % 5) as f32 / 4.0))
        ),
    );
    write(
        "tag.conll",
        rows(&|i| format!("{} B-PER\nwent O\nto O\nParis{i} B-LOC\n\n", ["Alice", "Bob"][i % 2])),
    );
    let qa = |i: usize| {
        let (who, context) = (
            ["Alice", "Bob"][i % 2],
            format!("{} went to Paris and saw the big red house {i}", ["Alice", "Bob"][i % 2]),
        );
        json!({ "context": context, "qas": [{ "id": format!("q{i}"), "question": "who went to Paris",
            "answers": [{ "text": who, "answer_start": 0 }] }] })
    };
    let paragraphs: Vec<Value> = (0..24).map(qa).collect();
    write(
        "answer.json",
        json!({ "version": "1.1", "data": [{ "title": "t", "paragraphs": paragraphs }] }).to_string(),
    );
    write(
        "text.txt",
        rows(&|i| format!("{}\nBob went to the house\nAlice saw {}\n\n", text(i), text(i + 3))),
    );
}

/// A task, its file, and what its recipe says of it besides.
pub const TASKS: &[(&str, &str, &str)] = &[
    ("classify", "classify.csv", ""),
    ("regress", "regress.csv", ""),
    ("multilabel", "multilabel.csv", ""),
    ("similar", "similar.csv", "pair = \"pair\"\n"),
    ("tag", "tag.conll", "stride = 2\n"),
    ("answer", "answer.json", "stride = 2\n"),
    ("mask", "text.txt", ""),
    ("next", "text.txt", ""),
    ("permute", "text.txt", ""),
    ("order", "text.txt", ""),
];

pub fn recipe(task: &str, file: &str, more: &str, output: &str) -> String {
    format!(
        "task = \"{task}\"\nseed = 5\nthreads = 2\noutput = \"{output}\"\n[model]\npath = \"./base\"\n[data]\ntrain = \"{file}\"\n{more}\
         max_length = 14\nvalidation_fraction = 0.25\ncache = false\n[optim]\nlr = 1e-3\n[train]\nmax_steps = 3\nbatch_size = 4\n\
         save_every = 3\neval_every = 3\n"
    )
}

pub fn tempra(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tempra")).current_dir(dir).args(args).output().unwrap()
}

pub fn ok(what: &str, out: Output) -> String {
    assert!(out.status.success(), "{what}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

pub fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        .unwrap()
}

/// Trains, evaluates the folder that came out on the file it was trained on, predicts. Returns the scores.
fn cell(dir: &Path, task: &str, file: &str, more: &str) -> Value {
    std::fs::write(dir.join(format!("{task}.toml")), recipe(task, file, more, task)).unwrap();
    ok(task, tempra(dir, &["train", &format!("{task}.toml"), "-q"]));
    let metrics = read(&dir.join(task).join("metrics.json"));
    assert_eq!(metrics["steps"], 3, "{task}");
    assert!(metrics["loss"].as_f64().is_some_and(f64::is_finite), "{task}: {metrics}");
    let model = format!("{task}/model");
    let eval = |name: &str| -> Value {
        let out = ok(task, tempra(dir, &["eval", name, file, "--json", "-q", "--intervals=40"]));
        let found: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(found["task"], task, "{found}");
        // Every score has an interval; that of a mean over units holds it.
        let (scores, intervals) = (&found["scores"], &found["intervals"]["scores"]);
        let keys = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(scores), keys(intervals), "{task}");
        if let Some(loss) = scores["loss"].as_f64() {
            let [low, high] = ["low", "high"].map(|end| intervals["loss"][end].as_f64().unwrap());
            assert!(low <= loss && loss <= high, "{task}: {loss} in {low} to {high}");
        }
        scores.clone()
    };
    let scores = eval(&model);
    assert!(scores["loss"].as_f64().is_some_and(f64::is_finite), "{task}: {scores}");
    // What was written is what was trained: opened again, a checkpoint of the same step scores the same. It
    // has no thresholds.
    let same = |name: &str| {
        !(task == "multilabel" && (name.starts_with("f1") || ["accuracy", "hamming"].contains(&name)))
    };
    for (name, value) in eval(&format!("{task}/checkpoint-3")).as_object().unwrap() {
        assert!(*value == scores[name] || !same(name), "{task} {name}: {value}, {}", scores[name]);
    }
    scores
}

#[test]
fn every_task_trains_and_opens_again_on_every_architecture() {
    let mut kinds = std::collections::BTreeSet::new();
    for (name, model) in models() {
        let dir = tempfile::tempdir().unwrap();
        let config = prepared(dir.path(), &model);
        kinds.insert(config["model_type"].as_str().unwrap_or("").to_owned());
        data(dir.path());
        let architecture =
            ARCHITECTURES.iter().find(|a| config["model_type"] == a.model_type).expect("known");
        let mut done = Vec::new();
        for (task, file, more) in TASKS {
            let has = match *task {
                "mask" => architecture.masked.is_some() && architecture.classes.masked.is_some(),
                "next" => architecture.pretrains(PairObjective::Next).is_some(),
                "order" => architecture.pretrains(PairObjective::Order).is_some(),
                "permute" => architecture.permuted.is_some(),
                _ => true,
            };
            if !has {
                continue;
            }
            cell(dir.path(), task, file, more);
            done.push(*task);
        }
        check_classes(done.iter().map(|task| dir.path().join(task).join("model")));
        println!("{name}: {}", done.join(", "));
    }
    let known: std::collections::BTreeSet<String> =
        ARCHITECTURES.iter().map(|a| a.model_type.to_owned()).collect();
    assert_eq!(kinds, known, "an architecture without a small model in tests/golden");
}

/// Has transformers open folders with the class that the config of each names: every weight there, none left
/// over.
pub fn check_classes(folders: impl Iterator<Item = PathBuf>) {
    let Some(python) = std::env::var_os("TEMPRA_PYTHON").filter(|p| !p.is_empty()) else {
        report_skipped("not run: check_task.py; TEMPRA_PYTHON names no python with torch and transformers");
        return;
    };
    let folders: Vec<PathBuf> = folders.collect();
    folders.iter().for_each(|folder| write_outputs(folder));
    let run = Command::new(python).arg(golden("check_task.py")).args(folders).output().expect("python");
    let said = String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned();
    assert!(run.status.success(), "check_task.py: {said}");
}

/// Writes `outputs.json` beside a model: some sequences, and what its head gives for them.
fn write_outputs(folder: &Path) {
    let device = Device::open("cpu", 2).unwrap();
    let model = Model::open(&device, folder, &Options::default()).unwrap().0;
    let rows: [&[u32]; 3] = [&[2, 7, 8, 9, 3], &[2, 11, 3], &[2, 20, 21, 22, 23, 24, 25, 3]];
    let mut batch = Batch { cu_seqlens: vec![0], examples: vec![0, 1, 2], ..Batch::default() };
    for row in rows {
        batch.ids.extend(row);
        batch.positions.extend(0..row.len() as u32);
        batch.cu_seqlens.push(batch.ids.len() as u32);
    }
    batch.types = vec![0; batch.ids.len()];
    batch.masked = (0..batch.ids.len() as u32).collect();
    let mut all = Vec::new();
    for_each_output(&device, &model, &[batch], |_, outputs| {
        all = outputs.to_vec();
        Ok(())
    })
    .unwrap();
    let text = json!({ "input_ids": rows, "outputs": all }).to_string();
    std::fs::write(folder.join("outputs.json"), text).unwrap();
}

#[test]
fn several_tasks_share_an_encoder() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    for (task, file, more) in &TASKS[..6] {
        std::fs::write(dir.path().join(format!("{task}.toml")), recipe(task, file, more, task)).unwrap();
    }
    for sampling in ["proportional", "temperature", "round_robin"] {
        let multi = format!(
            "task = \"multi\"\nthreads = 2\noutput = \"{sampling}\"\n[model]\npath = \"./base\"\n[multi]\n\
             recipes = [\"classify.toml\", \"tag.toml\", \"answer.toml\"]\nsampling = \"{sampling}\"\nweights = [1.0, 0.5, 1]\n\
             [data]\nmax_length = 14\n[train]\nepochs = 2\nbatch_size = 4\n"
        );
        std::fs::write(dir.path().join("multi.toml"), multi).unwrap();
        ok(sampling, tempra(dir.path(), &["train", "multi.toml", "-q"]));
        let metrics = read(&dir.path().join(sampling).join("metrics.json"));
        for name in ["classify_accuracy", "tag_f1", "answer_f1", "mean"] {
            assert!(metrics[name].as_f64().is_some_and(f64::is_finite), "{name}: {metrics}");
        }
        let model = format!("{sampling}/model");
        for (head, file) in [("classify", "classify.csv"), ("tag", "tag.conll"), ("answer", "answer.json")] {
            let out = ok(head, tempra(dir.path(), &["eval", &model, file, "--head", head, "--json", "-q"]));
            assert!(serde_json::from_str::<Value>(&out).unwrap()["scores"]["loss"].is_f64(), "{out}");
        }
        let refused = tempra(dir.path(), &["eval", &model, "classify.csv"]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("--head with one of answer, classify, tag")
        );
    }
}

#[test]
fn predictions_of_every_kind() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    for (task, file, more) in TASKS {
        std::fs::write(dir.path().join(format!("{task}.toml")), recipe(task, file, more, task)).unwrap();
        let trained = tempra(dir.path(), &["train", &format!("{task}.toml"), "-q"]);
        if ["permute", "order"].contains(task) {
            assert_eq!(
                trained.status.code(),
                Some(2),
                "BERT was not pretrained by permutations, or by order"
            );
        } else {
            ok(task, trained);
        }
    }
    let predict = |task: &str, more: &[&str]| {
        let model = format!("{task}/model");
        let args: Vec<&str> = ["predict", &model, "-q"].into_iter().chain(more.iter().copied()).collect();
        ok(task, tempra(dir.path(), &args))
    };
    // Every word has a tag, also beyond the longest input.
    let long: String = (0..60).map(|i| format!("{}\n", ["Alice", "went", "to", "Paris"][i % 4])).collect();
    std::fs::write(dir.path().join("long.conll"), long).unwrap();
    let tags = predict("tag", &["long.conll"]);
    assert_eq!(tags.lines().filter(|l| l.contains('\t')).count(), 60, "{tags}");
    let lines = predict("tag", &["long.conll", "--format", "jsonl"]);
    let sentence: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(sentence["tags"].as_array().unwrap().len(), 60);

    predict("answer", &["answer.json", "-o", "found"]);
    let [best, n_best, odds] = ["predictions", "nbest_predictions", "null_odds"]
        .map(|name| read(&dir.path().join(format!("found/{name}.json"))));
    assert_eq!([&best, &n_best, &odds].map(|v| v.as_object().unwrap().len()), [24; 3]);
    let context = "Alice went to Paris and saw the big red house 0";
    assert!(context.contains(best["q0"].as_str().unwrap()), "an answer is cut from its text: {best}");
    let first = &n_best["q0"][0];
    let (start, end) = (first["start"].as_u64().unwrap() as usize, first["end"].as_u64().unwrap() as usize);
    assert_eq!(&context[start..end], first["text"].as_str().unwrap());

    let labels = predict("multilabel", &["multilabel.csv"]);
    assert!(labels.starts_with("text,label,labels,p_a,p_b\n"), "{labels}");
    std::fs::write(dir.path().join("holes.csv"), "text\nthe [MASK] sat on the [MASK]\nno hole\n").unwrap();
    let filled = predict("mask", &["holes.csv"]);
    let row = filled.lines().nth(1).unwrap();
    assert_eq!(row.rsplit(',').next().unwrap().split(' ').count(), 2, "{filled}");
    std::fs::write(dir.path().join("pairs.csv"), "text,pair\nthe cat sat,on the mat\n").unwrap();
    let xlnet = tempfile::tempdir().unwrap();
    prepared(xlnet.path(), &golden("encoders/xlnet"));
    std::fs::copy(dir.path().join("text.txt"), xlnet.path().join("text.txt")).unwrap();
    std::fs::copy(dir.path().join("holes.csv"), xlnet.path().join("holes.csv")).unwrap();
    for task in ["permute", "mask"] {
        let file = xlnet.path().join(format!("{task}.toml"));
        std::fs::write(file, recipe(task, "text.txt", "", task)).unwrap();
    }
    ok("permute", tempra(xlnet.path(), &["train", "permute.toml", "-q"]));
    let filled = ok("permute", tempra(xlnet.path(), &["predict", "permute/model", "holes.csv", "-q"]));
    assert_eq!(filled.lines().nth(1).unwrap().rsplit(',').next().unwrap().split(' ').count(), 2, "{filled}");
    let refused = tempra(xlnet.path(), &["train", "mask.toml", "-q"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("task = \"permute\""));
    let follows = predict("next", &["pairs.csv", "--pair", "pair"]);
    let p: f64 = follows.lines().nth(1).unwrap().rsplit(',').next().unwrap().parse().unwrap();
    assert!((0.0..=1.0).contains(&p), "{follows}");

    let vectors = ok("embed", tempra(dir.path(), &["embed", "similar/model", "similar.csv", "-q"]));
    assert_eq!(vectors.lines().count(), 24);
    let one: Value = serde_json::from_str(vectors.lines().next().unwrap()).unwrap();
    let squares: f64 = one["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap().powi(2)).sum();
    assert!((squares - 1.0).abs() < 1e-5, "length {squares}");
    ok("embed", tempra(dir.path(), &["embed", "similar/model", "similar.csv", "-o", "v.npy", "-q"]));
    let npy = std::fs::read(dir.path().join("v.npy")).unwrap();
    assert_eq!((&npy[..6], npy.len()), (&b"\x93NUMPY"[..], 128 + 24 * 32 * 4));
}

#[test]
fn adapting_to_own_text_is_compared_with_not_adapting() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    for (task, file) in [("mask", "text.txt"), ("classify", "classify.csv")] {
        std::fs::write(dir.path().join(format!("{task}.toml")), recipe(task, file, "", task)).unwrap();
    }
    let said = ok("adapt", tempra(dir.path(), &["adapt", "mask.toml", "classify.toml", "--json"]));
    let table: Value = serde_json::from_str(&said).unwrap();
    for when in ["before", "after"] {
        assert!(table["perplexity"][when].as_f64().is_some_and(|p| p > 1.0), "{table}");
    }
    for side in ["without", "with"] {
        assert_eq!(table["task"]["accuracy"][side].as_array().unwrap().len(), 1, "{table}");
    }
    let (with, without) =
        (dir.path().join("classify/with/recipe.toml"), dir.path().join("classify/without/recipe.toml"));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    assert!(read(&with).contains("mask/model") && !read(&without).contains("mask/model"));
    let wrong = tempra(dir.path(), &["adapt", "classify.toml", "mask.toml"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("expected: task = \"mask\""));
}

/// Hidden tokens are a function of the example and the step, not of what else is in the batch; their share is
/// right.
#[test]
fn masking_does_not_depend_on_company() {
    let mask = Mask { probability: 0.15, whole_word: false, mask: 4, vocab: 90 };
    let batch = |examples: &[u32]| {
        let mut batch = Batch { cu_seqlens: vec![0], examples: examples.to_vec(), ..Batch::default() };
        for _ in examples {
            batch.ids.extend((0..400).map(|i| if i == 0 { 2 } else { 5 + i % 80 }));
            batch.words.extend((0..400).map(|i| if i == 0 { IGNORED } else { i / 2 }));
            batch.cu_seqlens.push(batch.ids.len() as u32);
        }
        batch
    };
    let (mut alone, mut beside) = (batch(&[7]), batch(&[3, 7]));
    mask.hide(&mut alone, (5, 9));
    mask.hide(&mut beside, (5, 9));
    assert_eq!(alone.ids[..], beside.ids[400..]);
    let later: Vec<u32> = beside.masked.iter().filter(|&&t| t >= 400).map(|t| t - 400).collect();
    assert_eq!(alone.masked, later);
    let mut next = batch(&[7]);
    mask.hide(&mut next, (5, 10));
    assert_ne!(next.masked, alone.masked, "other tokens in another step");

    let (mut hidden, mut masked, mut same, mut all) = (0, 0, 0, 0);
    for step in 0..200 {
        let (before, mut after) = (batch(&[1]), batch(&[1]));
        mask.hide(&mut after, (0, step));
        all += 399;
        hidden += after.masked.len();
        for (&t, &id) in after.masked.iter().zip(after.targets.tokens()) {
            assert_eq!(before.ids[t as usize], id, "the label is what stood there");
            masked += (after.ids[t as usize] == 4) as usize;
            same += (after.ids[t as usize] == id) as usize;
        }
        assert!(!after.masked.contains(&0), "a special token is never hidden");
    }
    let share = |a: usize, b: usize| a as f64 / b as f64;
    assert!((share(hidden, all) - 0.15).abs() < 0.006, "{hidden} of {all}");
    // Of ten, eight are masked and one stays, and a random one is the same by chance once in 90.
    assert!((share(masked, hidden) - 0.8).abs() < 0.02 && (share(same, hidden) - 0.101).abs() < 0.015);

    let whole = Mask { whole_word: true, ..mask };
    let mut words = batch(&[1]);
    whole.hide(&mut words, (1, 1));
    let of_word = |t: u32| t / 2;
    for &t in words.masked.iter().filter(|&&t| t > 1) {
        let partner = if t % 2 == 0 { t + 1 } else { t - 1 };
        assert!(words.masked.contains(&partner), "both tokens of word {}", of_word(t));
    }
}

/// Pairs for next-sentence prediction: half of them are torn apart, none is longer than asked, and both kinds
/// are there.
#[test]
fn pairs_of_sentences_follow_or_do_not() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    let words = ["the", "a", "cat", "dog", "sat", "ran", "on", "mat"];
    let line = |d: usize, i: usize| (0..6).map(|k| words[(d + i + k) % 8]).collect::<Vec<_>>().join(" ");
    let documents: Vec<String> =
        (0..60).map(|d| (0..12).map(|i| line(d, i)).collect::<Vec<_>>().join("\n")).collect();
    let path = dir.path().join("text.txt");
    std::fs::write(&path, documents.join("\n\n")).unwrap();
    let tokenizer = Tokenizer::from_dir(&dir.path().join("base"), 200).unwrap();
    let found = read_documents(&path, "text", false, OnBadRow::Stop).unwrap();
    assert_eq!((found.documents.len(), found.documents[0].len()), (60, 12));
    let set = found.pairs(&tokenizer, 32, 0).unwrap();
    assert_eq!(set, found.pairs(&tokenizer, 32, 0).unwrap());
    assert!(set.lengths().iter().all(|&n| n <= 32));
    let random = set.targets.classes().iter().filter(|class| **class == 1).count() as f64 / set.len() as f64;
    assert!((0.4..0.65).contains(&random), "{random} of {} pairs", set.len());
    let one = read_documents(&path, "text", true, OnBadRow::Stop).unwrap();
    assert_eq!(one.documents.len(), 720, "a line, a document");
    std::fs::write(&path, "only one\ndocument").unwrap();
    let alone = read_documents(&path, "text", false, OnBadRow::Stop).unwrap();
    let e = alone.pairs(&tokenizer, 32, 0).unwrap_err().to_string();
    assert!(e.contains("fewer than two documents"), "{e}");
    for (bytes, says) in [(&b"\xff\xfe"[..], "not UTF-8"), (b"\n \n", "holds no text")] {
        std::fs::write(&path, bytes).unwrap();
        let e = read_documents(&path, "text", false, OnBadRow::Stop).unwrap_err().to_string();
        assert!(e.contains(says), "{e}");
    }
}
