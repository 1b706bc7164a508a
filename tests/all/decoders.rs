//! Masked language models whose last map is not the token table, against transformers
//! (tests/golden/make_decoders.py).

use crate::support::*;
use crate::tasks::{check_classes, data, ok, prepared, recipe, tempra};
use serde_json::{Value, json};
use tempfile::tempdir;
use tempra::checkpoint::{RealFs, Weights, write_dir};
use tempra::data::{Batch, Targets};
use tempra::device::Device;
use tempra::models::{Model, Options, Outputs};
use tempra::nn::Taps;
use tempra::shape::DType;
use tempra::tape::Tape;
use tempra::tasks::{Mask, Permute, Task, inputs, into_streams};

/// The folders of `tests/golden/decoders`, and whether the last map has a weight of its own.
const NAMES: &[(&str, bool)] = &[
    ("bert", true),
    ("bert-tied-in-config", true),
    ("roberta", true),
    ("xlm-roberta", true),
    ("albert", true),
    ("distilbert", true),
    ("modernbert", true),
    ("modernbert-no-bias", true),
    ("modernbert-tied-no-bias", false),
    ("xlnet", true),
];

fn ids(v: &Value) -> Vec<u32> {
    numbers(v).iter().map(|&n| n as u32).collect()
}

/// The fixture's sequences as one batch, and the task whose loss it has.
fn problem_of(name: &str) -> (Value, Batch, Box<dyn Task>) {
    let fixture = json(&golden("decoders").join(name).join("fixture.json"));
    let mut batch = Batch { cu_seqlens: vec![0], ..Batch::default() };
    if name == "xlnet" {
        let sequences = json(&golden("xlnet-plm.json"))["sequences"].as_array().expect("sequences").clone();
        let mut ranks = Vec::new();
        for (i, s) in sequences.iter().enumerate() {
            batch.ids.extend(ids(&s["input_ids"]));
            batch.types.extend(ids(&s["token_type_ids"]));
            ranks.push(ids(&s["ranks"]));
            batch.cu_seqlens.push(batch.ids.len() as u32);
            batch.examples.push(i as u32);
        }
        into_streams(&mut batch, 90, |_, example, _| ranks[example as usize].clone()).expect("two streams");
        return (fixture, batch, Box::new(Permute { probability: 0.2, max_span: 3, vocab: 90 }));
    }
    for (i, row) in fixture["input_ids"].as_array().expect("sequences").iter().enumerate() {
        let row = ids(row);
        batch.positions.extend(0..row.len() as u32);
        batch.types.extend(fixture.get("token_type_ids").map_or(vec![0; row.len()], |t| ids(&t[i])));
        batch.ids.extend(row);
        batch.cu_seqlens.push(batch.ids.len() as u32);
        batch.examples.push(i as u32);
    }
    batch.masked = ids(&fixture["masked"]);
    batch.targets = Targets::Tokens(ids(&fixture["labels"]));
    (fixture, batch, Box::new(Mask { probability: 0.2, whole_word: false, mask: 4, vocab: 90 }))
}

/// Logits and loss; the gradients are then in the model.
fn run(device: &Device, model: &Model, task: &dyn Task, batch: &Batch) -> (Vec<f64>, f64) {
    let mut tape = Tape::new(device);
    let bound = model.params.bind(&mut tape, false).expect("parameters");
    let x = inputs(&mut tape, batch, None).expect("inputs");
    let given = model.forward(&mut tape, &bound, &x, &mut Taps::none()).unwrap_or_else(|e| panic!("{e}"));
    let scale = 1.0 / task.weights(batch)[0];
    let root = task.loss(&mut tape, &given, batch, [scale; 2]).expect("a loss");
    let logits = floats(device, given[0].value());
    let loss = floats(device, root.value())[0];
    let one = upload(device, model.params.spec().dtype, &[1.0]);
    tape.backward(root, one).expect("backward");
    (logits, loss)
}

#[test]
fn decoders_of_their_own_compute_what_transformers_does() {
    let device = cpu(2);
    for &(name, own) in NAMES {
        for (dtype, bound) in [(DType::F32, 1e-4), (DType::F64, 1e-5)] {
            let (fixture, batch, task) = problem_of(name);
            let options = Options { training: true, dtype, ..Options::default() };
            let (model, report) = open(&device, &golden("decoders").join(name), &options);
            assert!(report.initialised.is_empty() && report.unused.is_empty(), "{name}: {report}");
            let (logits, loss) = run(&device, &model, &*task, &batch);
            if let Some(expected) = fixture.get("logits") {
                let off = max_difference(&logits, &numbers(expected));
                assert!(off < bound, "{name} {dtype:?}: logits off by {off:e}");
            }
            let off = (loss - number(&fixture["loss"])).abs();
            assert!(off < bound, "{name} {dtype:?}: {loss}, transformers has {}", fixture["loss"]);
            let truth =
                Weights::open(golden("decoders").join(name).join("grads.safetensors")).expect("gradients");
            let found = gradients(&device, &model);
            let norm = number(&fixture["grad_norm"]);
            for (parameter, gradient) in &found {
                // The queries of permutations do train `mask_emb`.
                let zero = zero_gradient(parameter) && !parameter.ends_with("mask_emb");
                let off = match zero || truth.get(parameter).is_none() {
                    true => max_difference(gradient, &vec![0.0; gradient.len()]) / norm,
                    false => relative(gradient, &tensor(&truth, parameter)),
                };
                assert!(off < bound, "{name} {dtype:?}: the gradient of {parameter} is off by {off:e}");
            }
            let there = |n: &str| found.iter().any(|(found, _)| found == n);
            assert!(truth.names().all(there), "{name}: a parameter is missing");
            let weights = ["decoder.weight", "vocab_projector.weight", "lm_loss.weight"];
            assert_eq!(found.iter().any(|(n, _)| weights.iter().any(|w| n.ends_with(w))), own, "{name}");
        }
    }
}

/// Saved and opened again: the same logits, and a config that says that nothing is shared.
#[test]
fn decoders_of_their_own_are_saved() {
    let device = cpu(2);
    let place = tempdir().expect("a folder");
    let mut folders = Vec::new();
    for &(name, own) in NAMES {
        let (_, batch, task) = problem_of(name);
        let options = Options { training: true, ..Options::default() };
        let (model, _) = open(&device, &golden("decoders").join(name), &options);
        let before = run(&device, &model, &*task, &batch);
        let dir = place.path().join(name);
        write_dir(&RealFs, &dir, &model.files(&device).expect("files")).unwrap_or_else(|e| panic!("{e}"));
        let (again, report) = open(&device, &dir, &options);
        assert!(report.initialised.is_empty() && report.unused.is_empty(), "{name}: {report}");
        assert_eq!(bits(&run(&device, &again, &*task, &batch).0), bits(&before.0), "{name}");
        assert_eq!(json(&dir.join("config.json"))["tie_word_embeddings"], json!(!own), "{name}");
        folders.push(dir);
    }
    check_classes(folders.into_iter().filter(|f| !f.ends_with("xlnet")));
}

/// As tempra trains it: the map and the token table go ways of their own, and `predict` fills with the map.
#[test]
fn a_decoder_of_its_own_is_trained() {
    for name in ["bert", "modernbert-no-bias"] {
        let dir = tempdir().expect("a folder");
        prepared(dir.path(), &golden("decoders").join(name));
        data(dir.path());
        std::fs::write(dir.path().join("mask.toml"), recipe("mask", "text.txt", "", "run")).unwrap();
        ok("mask", tempra(dir.path(), &["train", "mask.toml", "-q"]));
        let [before, after] =
            ["base", "run/model"].map(|f| Weights::open(dir.path().join(f)).expect("weights"));
        let changed = |n: &str| relative(&tensor(&after, n), &tensor(&before, n));
        let (decoder, table) = match name {
            "bert" => ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
            _ => ("decoder.weight", "model.embeddings.tok_embeddings.weight"),
        };
        assert!(changed(decoder) > 1e-4 && changed(table) > 1e-4, "{name}");
        assert!(relative(&tensor(&after, decoder), &tensor(&after, table)) > 0.1, "{name}");
        std::fs::write(dir.path().join("gaps.csv"), "text\nthe [MASK] sat\n").unwrap();
        ok("predict", tempra(dir.path(), &["predict", "run/model", "gaps.csv"]));
        // A head of another kind has no use for it, and says so nowhere but in the report.
        let device = cpu(2);
        let outputs = Some(Outputs::Classes(vec!["a".into(), "b".into()]));
        let (_, report) =
            open(&device, &dir.path().join("run/model"), &Options { outputs, ..Options::default() });
        assert!(report.unused.iter().any(|n| n == decoder), "{name}: {report}");
    }
}

/// What transformers 4 wrote: one bias under the name of the tied one.
#[test]
fn a_decoder_with_the_older_bias_says_so() {
    let device = cpu(2);
    let dir = tempdir().expect("a folder");
    let (model, _) = open(&device, &golden("decoders/bert"), &Options::default());
    let files = model.files(&device).expect("files");
    write_dir(&RealFs, dir.path(), &files).unwrap_or_else(|e| panic!("{e}"));
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).expect("weights");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("weights");
    let kept = tensors.tensors().into_iter().filter(|(n, _)| n != "cls.predictions.decoder.bias");
    std::fs::write(&path, safetensors::serialize(kept, None).expect("weights")).unwrap();
    let _ = std::fs::remove_file(dir.path().join("manifest.json"));
    let (_, report) = open(&device, dir.path(), &Options::default());
    assert!(report.initialised.is_empty(), "{report}");
    let said = report.warnings.join("\n");
    assert!(said.contains("cls.predictions.decoder.bias") && said.contains("transformers 4"), "{said}");
}

/// Settings of heads that tempra does not have are refused by their names.
#[test]
fn other_settings_of_heads_are_refused() {
    let cases = [
        ("encoders/modernbert", "classifier_pooling", json!("max")),
        ("encoders/modernbert", "classifier_activation", json!("mish")),
        ("encoders/xlnet", "summary_type", json!("first")),
        ("encoders/xlnet", "summary_activation", Value::Null),
        ("encoders/xlnet", "summary_first_dropout", json!(0.1)),
        ("encoders/xlnet", "summary_proj_to_labels", json!(true)),
        ("decoders/bert", "tie_word_embeddings", json!("no")),
        ("decoders/modernbert", "decoder_bias", json!(1)),
    ];
    for (from, key, value) in cases {
        let dir = tempdir().expect("a folder");
        std::fs::copy(golden(from).join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
        let mut config = json(&golden(from).join("config.json"));
        config[key] = value;
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let e = Model::open(&cpu(1), dir.path(), &Options::default()).err().expect("refused");
        assert!(e.to_string().contains(key), "{key}: {e}");
    }
}
