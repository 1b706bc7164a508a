//! `tempra bench pareto`: what it measures is what `tempra eval` and the files say, and models that predict
//! different things are refused.

use crate::support::{cpu, golden, json};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};
use tempra::predict::{Session, Settings};

fn tempra(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tempra")).args(args).output().expect("tempra runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    /// A classifier, its first layer alone, and a labelled file.
    fn new() -> Scene {
        let dir = tempfile::tempdir().expect("a folder");
        let scene = Scene { dir };
        for name in ["whole", "short"] {
            std::fs::create_dir_all(scene.path(name)).expect("a folder");
            for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
                std::fs::copy(golden("bert/a").join(file), scene.path(name).join(file)).expect("copied");
            }
        }
        let config = scene.path("short").join("config.json");
        let mut short = json(&config);
        short["num_hidden_layers"] = 1.into();
        std::fs::write(config, short.to_string()).expect("written");
        let weights = scene.path("short").join("model.safetensors");
        let all = std::fs::read(&weights).expect("weights");
        let all = SafeTensors::deserialize(&all).expect("safetensors");
        let first = all.iter().filter(|(name, _)| !name.contains(".layer.") || name.contains(".layer.0."));
        let first = safetensors::serialize(first, None).expect("safetensors");
        std::fs::write(weights, first).expect("written");
        let distill = json(&golden("distill.json"));
        let (texts, labels, classes) = (&distill["texts"], &distill["labels"], &distill["classes"]);
        let row = |i: usize| {
            let label = labels[i].as_u64().expect("a class") as usize;
            format!("{}\n", serde_json::json!({ "text": texts[i], "label": classes[label] }))
        };
        let rows: String = (0..texts.as_array().expect("texts").len()).map(row).collect();
        std::fs::write(scene.path("test.jsonl"), rows).expect("written");
        scene
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn arg(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }
    fn pareto(&self, models: &[&str], more: &[&str]) -> Output {
        let models: Vec<String> = models.iter().map(|m| self.arg(m)).collect();
        let data = self.arg("test.jsonl");
        let mut args = vec!["bench", "pareto", "--data", &data, "--device", "cpu", "--threads", "1"];
        args.extend(models.iter().map(String::as_str));
        args.extend(more);
        tempra(&args)
    }
    fn refused(&self, models: &[&str], more: &[&str], parts: &[&str]) {
        let output = self.pareto(models, more);
        let said = text(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
    }
}

#[test]
fn the_numbers_are_those_of_eval_and_of_the_files() {
    let scene = Scene::new();
    let (page, table) = (scene.arg("page.html"), scene.arg("table.csv"));
    let output =
        scene.pareto(&["whole", "short"], &["--rounds", "3", "--json", "--html", &page, "--csv", &table]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let models = found["models"].as_array().expect("models");
    assert_eq!((models.len(), found["metric"].as_str()), (2, Some("accuracy")));
    for (name, point) in ["whole", "short"].into_iter().zip(models) {
        let folder = scene.arg(name);
        assert_eq!(point["model"], folder.as_str());
        let eval =
            tempra(&["eval", &folder, &scene.arg("test.jsonl"), "--device", "cpu", "--json", "--intervals"]);
        let eval: Value = serde_json::from_slice(&eval.stdout).expect("JSON");
        assert_eq!(point["score"], eval["scores"]["accuracy"]);
        let ends = &eval["intervals"]["scores"]["accuracy"];
        assert_eq!([&point["interval"][0], &point["interval"][1]], [&ends["low"], &ends["high"]]);
        let file = std::fs::metadata(scene.path(name).join("model.safetensors")).expect("a file").len();
        assert_eq!(point["file_bytes"], file);
        let session = Session::open(&folder, cpu(1), Settings::default()).expect("opened");
        assert_eq!(point["parameters"], session.parameters());
        // The weights, in f32, are a part of the memory.
        let weights = 4 * session.parameters() as u64;
        assert!(point["peak_bytes"].as_u64().expect("bytes") > weights, "{point}");
        for pass in ["latency_1", "latency_32"] {
            let times = point[pass]["samples_s"].as_array().expect("times");
            assert!(times.len() == 3 && times.iter().all(|t| t.as_f64().expect("seconds") > 0.0));
        }
    }
    let smaller = |key: &str| models[1][key].as_u64() < models[0][key].as_u64();
    assert!(smaller("parameters") && smaller("peak_bytes"), "{models:?}");
    let table = std::fs::read_to_string(table).expect("a table");
    assert_eq!(table.lines().count(), 3);
    let page = std::fs::read_to_string(page).expect("a page");
    let parts = [include_str!("../../src/bench/pareto/page.js"), "\"on_front\":"];
    assert!(parts.iter().all(|part| page.contains(part)) && !page.contains("/*SCRIPT*/"));
    // Without a file or JSON a table for people is printed.
    let output = scene.pareto(&["whole", "short"], &["--rounds", "1", "--metric", "f1_macro"]);
    let said = text(&output.stdout);
    assert!(said.contains("f1_macro: higher is better") && said.contains("| peak memory |"), "{said}");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let scene = Scene::new();
    scene.refused(&["whole"], &[], &["one model cannot be compared", "at least two"]);
    scene.refused(&["whole", "whole"], &[], &["is named twice"]);
    scene.refused(&["whole", "nowhere"], &[], &["nowhere"]);
    scene.refused(&["whole", "short"], &["--metric", "speed"], &["no score \"speed\"", "accuracy"]);
    scene.refused(&["whole", "short"], &["--metric", "mse"], &["no score \"mse\""]);
    let config = scene.path("short").join("config.json");
    let mut other = json(&config);
    other["id2label"]["1"] = "meh".into();
    other["label2id"] = serde_json::json!({ "negative": 0, "meh": 1, "positive": 2 });
    std::fs::write(config, other.to_string()).expect("written");
    scene.refused(&["whole", "short"], &[], &["do not predict the same", "meh"]);
}

/// The order of classes in a folder does not matter: labels are matched by name.
#[test]
fn models_may_number_their_classes_differently() {
    let scene = Scene::new();
    let config = scene.path("short").join("config.json");
    let mut other = json(&config);
    other["id2label"] = serde_json::json!({ "0": "positive", "1": "neutral", "2": "negative" });
    other["label2id"] = serde_json::json!({ "positive": 0, "neutral": 1, "negative": 2 });
    std::fs::write(config, other.to_string()).expect("written");
    let output = scene.pareto(&["whole", "short"], &["--rounds", "1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}
