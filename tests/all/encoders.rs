//! Every architecture against transformers: logits and every gradient, on every device there is; saved and
//! opened again; and what a text is batched with.

use crate::support::*;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::tempdir;
use tempra::checkpoint::{RealFs, Weights, write_dir};
use tempra::data::TokenSet;
use tempra::device::Device;
use tempra::models::{ARCHITECTURES, Model, Options, Outputs};
use tempra::nn::Pooling;
use tempra::rng::Rng;
use tempra::shape::DType;
use tempra::tape::Tape;
use tempra::tasks::inputs;

/// The folders of `tests/golden/encoders`; `electra-wide` is of the architecture `electra`.
const NAMES: &[&str] = &[
    "roberta",
    "xlm-roberta",
    "distilbert",
    "electra",
    "electra-wide",
    "albert",
    "modernbert",
    "modernbert-mean",
    "xlnet",
    "xlnet-clamped",
];

fn fixture(name: &str) -> Value {
    json(&golden("encoders").join(name).join("fixture.json"))
}

fn open_as(device: &Device, name: &str, dtype: DType) -> Model {
    let options = Options { training: true, dtype, ..Options::default() };
    let (model, report) = open(device, &golden("encoders").join(name), &options);
    assert_eq!(report.loaded, model.params.layout().list.len(), "{report}");
    assert!(report.initialised.is_empty() && report.unused.is_empty(), "{report}");
    model
}

/// Logits, loss and the gradient of every parameter, each under transformers' name. Bounds: absolute,
/// relative in L2.
fn parity(device: &Device, name: &str, dtype: DType, logits_bound: f64, bound: f64) {
    let fixture = fixture(name);
    let model = open_as(device, name, dtype);
    let (set, task) = problem(&fixture);
    let done = pass(device, &model, &*task, &set, &whole(&set), None);
    let logits_off = max_difference(&done.logits, &numbers(&fixture["logits"]));
    let loss_off = (done.loss - number(&fixture["loss"])).abs();
    let truth = Weights::open(golden("encoders").join(name).join("grads.safetensors")).expect("gradients");
    let found = gradients(device, &model);
    assert_eq!(truth.names().count(), found.len(), "{name}: every parameter");
    let norm = number(&fixture["grad_norm"]);
    let (mut worst, mut worst_name) = (0f64, "");
    for (parameter, gradient) in &found {
        let expected = tensor(&truth, parameter);
        let off = match zero_gradient(parameter) {
            true => max_difference(gradient, &vec![0.0; gradient.len()]) / norm,
            false => relative(gradient, &expected),
        };
        if off.is_nan() || off > worst {
            (worst, worst_name) = (off, parameter);
        }
    }
    println!(
        "{name} {dtype:?}: logits {logits_off:.1e}, loss {loss_off:.1e}, gradients {worst:.1e} ({worst_name})"
    );
    assert!(logits_off <= logits_bound && loss_off <= logits_bound, "{name}: logits off by {logits_off:e}");
    assert!(worst <= bound, "{name}: the gradient of {worst_name} is off by {worst:e}");
}

/// A table of what there is: each architecture but BERT, which `models.rs` holds, has a fixture.
#[test]
fn every_architecture_has_a_fixture() {
    let mut there: Vec<String> = std::fs::read_dir(golden("encoders"))
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    there.sort();
    let mut named = NAMES.to_vec();
    named.sort_unstable();
    assert_eq!(there, named);
    let kind = |name: &&str| json(&golden("encoders").join(name).join("config.json"))["model_type"].clone();
    let kinds: Vec<Value> = NAMES.iter().map(kind).collect();
    for a in ARCHITECTURES.iter().filter(|a| a.model_type != "bert") {
        assert!(kinds.contains(&json!(a.model_type)), "{}", a.model_type);
    }
}

#[test]
fn encoders_compute_what_transformers_does() {
    for name in NAMES {
        parity(&cpu(2), name, DType::F32, 1e-5, 1e-4);
        // Fixtures have nine digits and gradients those of f32; epsilon and attention's scale are f32 here,
        // f64 there. The sinusoids of transformers are of f32 in either case.
        let sinusoids = if name.starts_with("xlnet") { 10.0 } else { 1.0 };
        parity(&cpu(2), name, DType::F64, 1e-7 * sinusoids, 1e-6 * sinusoids);
    }
}

#[test]
fn wgpu_encoders_compute_what_transformers_does() {
    let Some(device) = adapter() else { return };
    NAMES.iter().for_each(|name| parity(&device, name, DType::F32, 1e-5, 1e-4));
}

#[test]
fn cuda_encoders_compute_what_transformers_does() {
    let Some(device) = device("cuda") else { return };
    NAMES.iter().for_each(|name| parity(&device, name, DType::F32, 1e-5, 1e-4));
}

/// Saved, opened again with the same bits, opened by transformers with the same logits.
#[test]
fn saved_encoders_are_what_transformers_opens() {
    let device = cpu(2);
    let place = tempdir().expect("a folder");
    for name in NAMES {
        let mut fixture = fixture(name);
        let from = golden("encoders").join(name);
        let (set, _) = problem(&fixture);
        let dir = place.path().join(name);
        let two = Some(Outputs::Classes(vec!["no".into(), "yes".into()]));
        for (outputs, pooling) in [(None, None), (two.clone(), None), (two, Some(Pooling::Mean))] {
            let options = Options { outputs, pooling, seed: 5, ..Options::default() };
            let (model, _) = open(&device, &from, &options);
            let found = logits(&device, &model, &whole(&set));
            let files = model.files(&device).expect("files");
            write_dir(&RealFs, &dir, &files).unwrap_or_else(|e| panic!("{e}"));
            let (again, report) = open(&device, &dir, &Options::default());
            assert!(report.initialised.is_empty() && report.unused.is_empty(), "{report}");
            assert_eq!(bits(&logits(&device, &again, &whole(&set))), bits(&found), "{name}");
            let config = json(&dir.join("config.json"));
            assert_eq!(config["architectures"], json!([model.architecture().classes.sequence]));
            // A mean is not what transformers' class computes.
            if pooling.is_none() {
                let rows: Vec<&[f64]> = found.chunks(found.len() / set.len()).collect();
                fixture["logits"] = json!(rows);
                fixture["tolerance"] = json!(1e-5);
                check_saved(&dir, &fixture);
            }
        }
    }
}

/// A bare encoder, as `AutoModel.save_pretrained` writes it, and one without a head: the encoder is loaded,
/// the head is new.
#[test]
fn bare_encoders_are_opened() {
    let device = cpu(1);
    for name in NAMES {
        let from = golden("encoders").join(name);
        let (full, _) = open(&device, &from, &Options::default());
        let place = tempdir().expect("a folder");
        std::fs::copy(from.join("config.json"), place.path().join("config.json")).expect("copied");
        let bytes = std::fs::read(from.join("model.safetensors")).expect("read");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let prefix = full.architecture().prefix;
        let bare =
            file.tensors().into_iter().filter_map(|(n, t)| Some((n.strip_prefix(prefix)?.to_owned(), t)));
        let path = place.path().join("model.safetensors");
        std::fs::write(&path, safetensors::serialize(bare, None).expect("serialised")).expect("written");
        let outputs = Some(Outputs::Number);
        let (model, report) = open(&device, place.path(), &Options { outputs, ..Options::default() });
        assert!(report.unused.is_empty(), "{name}: {report}");
        let body = |m: &Model| -> Vec<_> {
            values(&device, m).into_iter().filter(|(n, _)| n.starts_with(prefix)).collect()
        };
        assert_eq!(body(&model), body(&full), "{name}");
        let new = |n: &String| !n.starts_with(prefix);
        assert!(!report.initialised.is_empty() && report.initialised.iter().all(new), "{name}: {report}");
    }
}

/// What a text is batched with, in which order, in how many batches: nothing of it may matter, in f32 by more
/// than 1e-5.
#[test]
fn company_and_order_change_no_encoder() {
    let device = cpu(2);
    for name in NAMES {
        let model = open_as(&device, name, DType::F32);
        let (set, _) = problem(&fixture(name));
        company(&device, name, &model, &set);
    }
}

fn company(device: &Device, name: &str, model: &Model, set: &TokenSet) {
    let all = set.len() as u32;
    let alone: Vec<Vec<f64>> = (0..all).map(|i| logits(device, model, &cut(set, &[i], 1))).collect();
    let mut rng = Rng::new(9, "company", 0);
    let (mut worst, width) = (0f64, alone[0].len());
    for (size, parts) in [(2, 1), (3, 1), (7, 2), (16, 1), (16, 3)] {
        let mut order: Vec<u32> = (0..all).collect();
        rng.shuffle(&mut order);
        order.truncate(size);
        let mut batches = cut(set, &order, parts);
        // Tokens that nobody asks about, as a device that records steps is given them.
        batches.iter_mut().for_each(|b| b.fill_up());
        let together = logits(device, model, &batches);
        for (row, &i) in together.chunks(width).zip(&order) {
            worst = worst.max(max_difference(row, &alone[i as usize]));
        }
    }
    println!("{name}: at most {worst:.1e} apart in any company");
    assert!(worst <= 1e-5, "{name}: {worst:e}");
}

/// Dropout is on: the gradients of a step do not depend on how it is cut, weights that layers share included.
#[test]
fn steps_in_parts_are_the_step_for_every_encoder() {
    let device = cpu(2);
    for name in NAMES {
        let model = open_as(&device, name, DType::F64);
        let (set, task) = problem(&fixture(name));
        let step: Vec<u32> = vec![5, 0, 12, 3, 9, 2, 14, 1];
        let run = |parts| {
            pass(&device, &model, &*task, &set, &cut(&set, &step, parts), Some((7, 3)));
            gradients(&device, &model)
        };
        let full = run(1);
        for ((parameter, a), (_, b)) in full.iter().zip(&run(4)).filter(|((n, _), _)| !zero_gradient(n)) {
            let off = relative(b, a);
            assert!(off <= 1e-11, "{name}: {parameter} {off:e}");
        }
    }
}

/// Trained encoders (`make_real.py` fetches them): the last hidden states are transformers'; and of the BERT
/// of reactions the first token's are those that its package prints in its README.
#[test]
fn real_encoders_compute_what_transformers_does() {
    let Some(place) = std::env::var_os("TEMPRA_TEST_MODELS").filter(|d| !d.is_empty()) else {
        report_skipped(
            "not here: the folder of tests/golden/make_real.py, which TEMPRA_TEST_MODELS would name",
        );
        return;
    };
    let device = cpu(2);
    for name in ["bert-tiny", "rxnfp", "rxnmapper", "sapiens"] {
        let dir = Path::new(&place).join(name);
        let fixture = json(&dir.join("fixture.json"));
        let options = Options { outputs: Some(Outputs::Number), ..Options::default() };
        let (model, report) = open(&device, &dir, &options);
        let set = token_set(&fixture["input_ids"], &Value::Null, vec![]);
        let batch = &whole(&set)[0];
        let mut tape = Tape::evaluate(&device);
        let bound = model.params.bind(&mut tape, false).expect("bound");
        let x = inputs(&mut tape, batch, None).expect("inputs");
        let hidden = model.hidden(&mut tape, &bound, &x).unwrap_or_else(|e| panic!("{e}"));
        let hidden = floats(&device, hidden.value());
        let cols = model.shape().hidden;
        let mut worst = 0f64;
        for (i, at) in batch.cu_seqlens.windows(2).enumerate() {
            let rows: Vec<&[f64]> =
                hidden[at[0] as usize * cols..at[1] as usize * cols].chunks(cols).collect();
            let mean: Vec<f64> =
                (0..cols).map(|c| rows.iter().map(|r| r[c]).sum::<f64>() / rows.len() as f64).collect();
            worst = worst.max(relative(rows[0], &numbers(&fixture["first"][i])));
            worst = worst.max(relative(&mean, &numbers(&fixture["mean"][i])));
        }
        println!("{name}: hidden states off by {worst:.1e}; {report}");
        assert!(worst <= 1e-5, "{name}: {worst:e}");
        if name == "rxnfp" {
            let printed = [
                -2.0174953937530518,
                1.7602033615112305,
                -1.3323537111282349,
                -1.1095019578933716,
                1.2254549264907837,
            ];
            let off = max_difference(&hidden[..5], &printed);
            println!("{name}: off the README's fingerprint by {off:.1e}");
            assert!(off <= 1e-5, "{off:e}");
        }
    }
}

/// What a config says that would change the result, or cannot be.
#[test]
fn configs_of_encoders_are_checked() {
    let wrong: &[(&str, &str, Value)] = &[
        ("roberta", "pad_token_id", json!(40)),
        ("roberta", "pad_token_id", json!(-1)),
        ("distilbert", "dim", json!(25)),
        ("distilbert", "n_layers", json!(0)),
        ("distilbert", "activation", json!("swish")),
        ("electra", "embedding_size", json!(null)),
        ("albert", "inner_group_num", json!(2)),
        ("albert", "num_hidden_groups", json!(4)),
        ("albert", "num_hidden_groups", json!(0)),
    ];
    for (name, key, value) in wrong {
        let from = golden("encoders").join(name);
        let place = tempdir().expect("a folder");
        let mut config = json(&from.join("config.json"));
        config[*key] = value.clone();
        std::fs::write(place.path().join("config.json"), config.to_string()).expect("written");
        std::fs::copy(from.join("model.safetensors"), place.path().join("model.safetensors"))
            .expect("copied");
        let Err(e) = Model::open(&cpu(1), place.path(), &Options::default()) else {
            panic!("{name} with {key} {value} was opened")
        };
        assert!(e.to_string().contains(key), "{name} {key} {value}: {e}");
        assert!(e.file().is_some_and(|f| f.ends_with(Path::new("config.json"))), "{e}");
    }
}
