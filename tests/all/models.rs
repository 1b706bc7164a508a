//! Whole models against transformers: logits, the gradient of every parameter, ten AdamW losses; and folders,
//! good and bad.

use crate::support::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::{TempDir, tempdir};
use tempra::checkpoint::{RealFs, Weights, write_dir};
use tempra::data::{Cache, TokenSet};
use tempra::device::Device;
use tempra::error::{Error, Kind};
use tempra::models::{Model, Options, Outputs};
use tempra::nn::Pooling;
use tempra::optim::{Optimizer, Settings};
use tempra::shape::DType;
use tempra::text::Tokenizer;
use tempra::train::schedule::Schedule;

/// How far from transformers' f64 a type may be.
struct Bounds {
    dtype: DType,
    logits: f64,
    /// Relative L2, each parameter.
    gradient: f64,
    /// Largest gradient of a key bias, relative to the norm of all gradients.
    key_bias: f64,
    /// Relative, of the losses and norms of ten updates.
    train: f64,
    /// Of the logits after them, and relative of how far each parameter moved.
    after: f64,
}

const F32: Bounds =
    Bounds { dtype: DType::F32, logits: 1e-5, gradient: 1e-4, key_bias: 1e-6, train: 1e-4, after: 1e-4 };
/// Fixtures have nine digits, gradients and labels those of f32; the scale of attention, epsilon and AdamW's
/// settings are f32 as well, where transformers has f64.
const F64: Bounds =
    Bounds { dtype: DType::F64, logits: 1e-7, gradient: 1e-6, key_bias: 1e-15, train: 1e-6, after: 1e-6 };

/// Holds a training model against a fixture. `truth` gives the error of one gradient: name, values.
fn parity(
    label: &str,
    device: &Device,
    model: &Model,
    fixture: &Value,
    set: &TokenSet,
    b: &Bounds,
    truth: &dyn Fn(&str, &[f64]) -> f64,
) {
    let (_, task) = problem(fixture);
    let step = whole(set);
    assert_eq!(step.len(), 1, "one packed batch");
    let first = pass(device, model, &*task, set, &step, None);
    let logits_off = max_difference(&first.logits, &numbers(&fixture["logits"]));
    assert!(logits_off <= b.logits, "{:?}: logits off by {logits_off:e}", b.dtype);
    // A tape that does not record computes the same.
    assert_eq!(bits(&logits(device, model, &step)), bits(&first.logits));
    let loss_off = (first.loss - number(&fixture["loss"])).abs();
    assert!(loss_off <= b.logits, "{:?}: loss off by {loss_off:e}", b.dtype);

    let (mut worst, mut worst_name, mut key_bias) = (0f64, String::new(), 0f64);
    let norm = number(&fixture["grad_norm"]);
    for (name, gradient) in gradients(device, model) {
        if zero_gradient(&name) {
            key_bias = key_bias.max(max_difference(&gradient, &vec![0.0; gradient.len()]) / norm);
            assert!(key_bias <= b.key_bias, "{:?}: {name}: {key_bias:e}", b.dtype);
            continue;
        }
        let off = truth(&name, &gradient);
        assert!(off <= b.gradient, "{:?}: gradient of {name} off by {off:e}", b.dtype);
        if off > worst {
            (worst, worst_name) = (off, name);
        }
    }

    let train = &fixture["train"];
    let settings = Settings {
        beta1: number(&train["betas"][0]) as f32,
        beta2: number(&train["betas"][1]) as f32,
        eps: number(&train["eps"]) as f32,
        weight_decay: number(&train["weight_decay"]) as f32,
        max_grad_norm: number(&train["max_grad_norm"]) as f32,
        ..Settings::default()
    };
    let steps = train["steps"].as_u64().expect("steps");
    let warmup_steps = train["warmup_steps"].as_u64().expect("warm-up");
    let schedule = Schedule { warmup_steps, total_steps: steps, ..Schedule::default() };
    let mut optimizer = Optimizer::new(device, &model.params, settings).expect("an optimizer");
    let before = values(device, model);
    let (mut losses_off, mut norms_off) = (0f64, 0f64);
    let close = |found: f64, expected: &Value, what: &str, i: u64| {
        let off = (found - number(expected)).abs() / number(expected).abs();
        assert!(off <= b.train, "{:?}: {what} {i}: {found}, transformers {expected}", b.dtype);
        off
    };
    for i in 0..steps {
        let now = pass(device, model, &*task, set, &step, None);
        losses_off = losses_off.max(close(now.loss, &train["losses"][i as usize], "loss", i));
        let lr = number(&train["lr"]) * schedule.factor(i);
        assert!((lr - number(&train["lrs"][i as usize])).abs() <= 1e-8 * lr, "learning rate {i}");
        let norm = update(&mut optimizer, device, &model.params, lr);
        norms_off = norms_off.max(close(norm, &train["grad_norms"][i as usize], "norm", i));
    }
    let after = pass(device, model, &*task, set, &step, None);
    close(after.loss, &train["final_loss"], "final loss", steps);
    let after_off = max_difference(&after.logits, &numbers(&train["final_logits"]));
    assert!(after_off <= b.after, "{:?}: final logits off by {after_off:e}", b.dtype);
    let mut moved_off = 0f64;
    for ((name, old), (_, new)) in before.iter().zip(values(device, model)) {
        if !zero_gradient(name) {
            let moved = l2(&old.iter().zip(&new).map(|(a, b)| b - a).collect::<Vec<_>>());
            let expected = number(&train["update_l2"][name]);
            moved_off = moved_off.max((moved - expected).abs() / expected);
            assert!(moved_off <= b.after, "{:?}: {name} moved {moved}, transformers {expected}", b.dtype);
        }
    }
    println!(
        "{label} {:?}: logits {logits_off:.1e}, loss {loss_off:.1e}, gradients {worst:.1e} ({worst_name}), key biases \
         {key_bias:.1e}, ten losses {losses_off:.1e}, norms {norms_off:.1e}, final logits {after_off:.1e}, updates \
         {moved_off:.1e}",
        b.dtype
    );
}

#[test]
fn small_models_compute_what_transformers_does() {
    let device = cpu(2);
    for name in ["a", "b", "a-legacy", "a-sharded"] {
        let of = golden("bert").join(name.split('-').next().expect("a name"));
        let (fixture, grads) = (json(&of.join("fixture.json")), of.join("grads.safetensors"));
        let grads = Weights::open(grads).expect("gradients");
        for bounds in [F32, F64] {
            let options = Options { training: true, dtype: bounds.dtype, ..Options::default() };
            let (model, report) = open(&device, &golden("bert").join(name), &options);
            assert_eq!(report.loaded, model.params.layout().list.len(), "{report}");
            assert!(report.initialised.is_empty() && report.unused.is_empty(), "{report}");
            assert_eq!(grads.names().count(), report.loaded);
            let truth = |name: &str, g: &[f64]| relative(g, &tensor(&grads, name));
            parity(&format!("bert/{name}"), &device, &model, &fixture, &problem(&fixture).0, &bounds, &truth);
        }
    }
}

/// The folder of all-MiniLM-L6-v2, if there is one here.
fn minilm() -> Option<std::path::PathBuf> {
    let dir = std::env::var_os("TEMPRA_TEST_MODEL").filter(|d| !d.is_empty());
    if dir.is_none() {
        report_skipped(
            "not here: all-MiniLM-L6-v2, which TEMPRA_TEST_MODEL would name; its tests were not run",
        );
    }
    dir.map(Into::into)
}

fn two_classes() -> Option<Outputs> {
    Some(Outputs::Classes(vec!["negative".into(), "positive".into()]))
}

/// MiniLM with the fixture's head.
fn open_minilm(device: &Device, dir: &Path, fixture: &Value, options: Options) -> Model {
    let (model, report) = open(device, dir, &Options { outputs: two_classes(), ..options });
    assert_eq!(report.initialised, ["classifier.weight", "classifier.bias"]);
    assert!(report.unused.is_empty(), "{report}");
    for p in model.params.layout().list.iter().filter(|p| p.name.starts_with("classifier.")) {
        let view = model.params.value(p).expect("inside");
        put(device, &view, &numbers(&fixture["head"][&p.name]));
    }
    model
}

fn texts(fixture: &Value) -> Vec<&str> {
    fixture["texts"].as_array().expect("texts").iter().map(|t| t.as_str().expect("a text")).collect()
}

/// Texts as tokens, and that they are the fixture's.
fn tokens(dir: &Path, fixture: &Value, vocab: usize) -> (Tokenizer, TokenSet) {
    let tokenizer = Tokenizer::from_dir(dir, vocab).unwrap_or_else(|e| panic!("{e}"));
    let row = |text: &str| tempra::data::Row { text: text.into(), pair: None, label: None, line: 0 };
    let rows: Vec<_> = texts(fixture).into_iter().map(row).collect();
    let max_length = fixture["max_length"].as_u64().expect("a length") as usize;
    let set = TokenSet::build(&tokenizer, &rows, vec![], max_length, None).unwrap_or_else(|e| panic!("{e}"));
    let expected = token_set(&fixture["input_ids"], &Value::Null, vec![]);
    assert_eq!((&set.ids, &set.offsets, &set.types), (&expected.ids, &expected.offsets, &expected.types));
    assert_eq!(set.cache, Cache::Off);
    (tokenizer, set)
}

#[test]
fn minilm_computes_what_transformers_does() {
    let Some(dir) = minilm() else { return };
    let (device, fixture) = (cpu(0), json(&golden("minilm/fixture.json")));
    // f64 proves the formulas on the small models; f32 is what is trained, and a test of seconds.
    let bounds = F32;
    let options = Options { training: true, dtype: bounds.dtype, ..Options::default() };
    let model = open_minilm(&device, &dir, &fixture, options);
    let (_, mut set) = tokens(&dir, &fixture, model.shape().vocab);
    set.targets = problem(&fixture).0.targets;
    let truth = |name: &str, g: &[f64]| {
        let of = &fixture["grads"][name];
        let norm = number(&of["l2"]);
        assert_eq!(numbers(&of["shape"]).iter().product::<f64>(), g.len() as f64, "{name}");
        // Single entries are measured by themselves and the root mean square of all.
        let typical = norm / (g.len() as f64).sqrt();
        let samples = of["samples"].as_array().expect("samples").iter().map(|s| {
            let (i, expected) = (number(&s[0]) as usize, number(&s[1]));
            (g[i] - expected).abs() / (expected.abs() + typical)
        });
        samples.fold((l2(g) - norm).abs() / norm, f64::max)
    };
    parity("minilm", &device, &model, &fixture, &set, &bounds, &truth);
}

/// Writes a model and its tokenizer, and opens them again.
fn save(device: &Device, model: &Model, tokenizer: &Tokenizer, dir: &Path) -> Model {
    write_dir(&RealFs, dir, &model.files(device).expect("files")).unwrap_or_else(|e| panic!("{e}"));
    tokenizer.save(dir).unwrap_or_else(|e| panic!("{e}"));
    let (again, report) = open(device, dir, &Options::default());
    assert_eq!(report.loaded, model.params.layout().list.len());
    assert!(report.initialised.is_empty() && report.unused.is_empty(), "{report}");
    again
}

/// Has transformers open a saved folder and read texts.
fn ask_transformers(dir: &Path, texts: &[&str], logits: &[f64], max_length: &Value) {
    let rows: Vec<&[f64]> = logits.chunks(logits.len() / texts.len()).collect();
    let fixture = json!({"texts": texts, "logits": rows, "max_length": max_length, "tolerance": 1e-5});
    check_saved(dir, &fixture);
}

#[test]
fn a_saved_model_is_the_model() {
    let (device, a) = (cpu(2), golden("bert/a"));
    let fixture = json(&a.join("texts.json"));
    let place = tempdir().expect("a folder");
    let (tokenizer, set) = tokens(&a, &fixture, 200);
    for (name, outputs, pooling) in [
        ("a", None, None),
        ("b", None, None),
        ("a", two_classes(), None),
        ("a", two_classes(), Some(Pooling::Mean)),
        ("a", Some(Outputs::Number), None),
    ] {
        let dir = place.path().join("saved");
        let options = Options { outputs: outputs.clone(), pooling, seed: 5, ..Options::default() };
        let (model, _) = open(&device, &golden("bert").join(name), &options);
        let found = logits(&device, &model, &whole(&set));
        if name == "a" && outputs.is_none() {
            let off = max_difference(&found, &numbers(&fixture["logits"]));
            assert!(off <= F32.logits, "logits of texts off by {off:e}");
        }
        let again = save(&device, &model, &tokenizer, &dir);
        assert_eq!((&again.outputs, again.pooling()), (&model.outputs, pooling.unwrap_or(Pooling::Cls)));
        assert_eq!(bits(&logits(&device, &again, &whole(&set))), bits(&found), "{name} {outputs:?}");

        let config = json(&dir.join("config.json"));
        let (names, problem) = match &model.outputs {
            Outputs::Classes(names) => (names.clone(), "single_label_classification"),
            Outputs::Number => (vec!["LABEL_0".into()], "regression"),
            other => panic!("{other:?}"),
        };
        let forward: BTreeMap<String, &str> =
            names.iter().enumerate().map(|(i, n)| (i.to_string(), n.as_str())).collect();
        let back: BTreeMap<&str, usize> = names.iter().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
        assert_eq!((&config["id2label"], &config["label2id"]), (&json!(forward), &json!(back)));
        assert_eq!(config["problem_type"], problem);
        assert_eq!(config["architectures"], json!(["BertForSequenceClassification"]));
        assert_eq!(config["dtype"], "float32");
        assert!(config.get("torch_dtype").is_none() && config.get("num_labels").is_none());
        // What training does not change is as it was.
        let original = json(&golden("bert").join(name).join("config.json"));
        for key in ["vocab_size", "hidden_size", "hidden_act", "layer_norm_eps", "classifier_dropout"] {
            assert_eq!(config[key], original[key], "{key}");
        }
        // Mean pooling is not transformers' BertForSequenceClassification.
        if pooling.is_none() {
            ask_transformers(&dir, &texts(&fixture), &found, &fixture["max_length"]);
        }
    }
    // Saving over a folder leaves nothing else behind.
    let left: Vec<_> =
        fs::read_dir(place.path()).expect("a folder").flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|n| n == "saved" || n == "saved.json"), "{left:?}");
}

#[test]
fn a_saved_minilm_is_what_transformers_opens() {
    let Some(dir) = minilm() else { return };
    let (device, fixture) = (cpu(0), json(&golden("minilm/fixture.json")));
    let model = open_minilm(&device, &dir, &fixture, Options::default());
    let (tokenizer, set) = tokens(&dir, &fixture, model.shape().vocab);
    let found = logits(&device, &model, &whole(&set));
    let place = tempdir().expect("a folder");
    let saved = place.path().join("saved");
    let again = save(&device, &model, &tokenizer, &saved);
    assert_eq!(bits(&logits(&device, &again, &whole(&set))), bits(&found));
    ask_transformers(&saved, &texts(&fixture), &found, &fixture["max_length"]);
}

/// bert/a with another config.
fn with_config(edit: impl FnOnce(&mut Value)) -> TempDir {
    let (dir, a) = (tempdir().expect("a folder"), golden("bert/a"));
    let mut config = json(&a.join("config.json"));
    edit(&mut config);
    fs::write(dir.path().join("config.json"), config.to_string()).expect("written");
    fs::copy(a.join("model.safetensors"), dir.path().join("model.safetensors")).expect("copied");
    dir
}

/// A tensor of a safetensors file: its shape and its elements.
type Plain = (Vec<usize>, Vec<f32>);

/// bert/a with other tensors.
fn with_tensors(edit: impl FnOnce(&mut BTreeMap<String, Plain>)) -> TempDir {
    let dir = with_config(|_| {});
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).expect("read");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let number = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("four bytes"));
    let plain = |v: safetensors::tensor::TensorView| {
        (v.shape().to_vec(), v.data().chunks_exact(4).map(number).collect())
    };
    let mut tensors = file.tensors().into_iter().map(|(name, v)| (name, plain(v))).collect();
    edit(&mut tensors);
    let views = tensors.iter().map(|(name, (shape, data))| {
        let view = safetensors::tensor::TensorView::new(
            safetensors::Dtype::F32,
            shape.clone(),
            bytemuck::cast_slice(data),
        );
        (name.as_str(), view.expect("a tensor"))
    });
    fs::write(&path, safetensors::serialize(views, None).expect("serialised")).expect("written");
    dir
}

fn refused(dir: &Path, options: &Options) -> Error {
    match Model::open(&cpu(1), dir, options) {
        Ok(_) => panic!("a bad model was opened"),
        Err(e) => e,
    }
}

/// The error is of kind `Model`, about this file, and says every one of these.
fn assert_says(e: &Error, file: impl AsRef<Path>, words: &[&str]) {
    let file = file.as_ref();
    assert_eq!(e.kind(), Kind::Model, "{e}");
    assert!(e.file().is_some_and(|f| f.ends_with(file)), "{}: {e}", file.display());
    words.iter().for_each(|w| assert!(e.to_string().contains(w), "{w}: {e}"));
}

#[test]
fn configs_out_of_range_are_refused_by_key() {
    let wrong: &[(&str, &[Value])] = &[
        (
            "vocab_size",
            &[json!(0), json!(-1), json!(1.5), json!("200"), json!(null), json!(1u64 << 40), json!(1e300)],
        ),
        ("max_position_embeddings", &[json!(0), json!(1 << 30), json!([])]),
        ("type_vocab_size", &[json!(0), json!(1 << 20)]),
        ("hidden_size", &[json!(0), json!(1 << 20), json!(33)]),
        ("num_hidden_layers", &[json!(0), json!(100_000)]),
        ("num_attention_heads", &[json!(0), json!(5), json!(true), json!(1 << 20)]),
        ("intermediate_size", &[json!(0), json!(1u64 << 33)]),
        ("hidden_act", &[json!("swish"), json!(null), json!(7)]),
        ("layer_norm_eps", &[json!(0), json!(-1e-12), json!("1e-12")]),
        ("hidden_dropout_prob", &[json!(1.0), json!(-0.1), json!("0.1")]),
        ("attention_probs_dropout_prob", &[json!(1.5), json!(true)]),
        ("classifier_dropout", &[json!(2), json!(-1)]),
        ("initializer_range", &[json!(-0.02), json!("a")]),
        ("model_type", &[json!("t5"), json!(null), json!(3)]),
        ("is_decoder", &[json!(true)]),
        ("position_embedding_type", &[json!("relative_key")]),
        (
            "id2label",
            &[json!({}), json!([]), json!({"0": "a", "2": "b"}), json!({"0": true, "1": "b"}), json!("x")],
        ),
        ("problem_type", &[json!("ranking"), json!(1)]),
    ];
    for (key, values) in wrong {
        for value in *values {
            let dir = with_config(|c| c[*key] = value.clone());
            assert_says(&refused(dir.path(), &Options::default()), "config.json", &[key]);
        }
    }
    let e = refused(with_config(|c| c["model_type"] = json!("t5")).path(), &Options::default());
    assert!(e.to_string().contains("`t5`") && e.to_string().contains("expected: bert"), "{e}");
    let dir = with_config(|c| *c = json!([1]));
    assert_says(&refused(dir.path(), &Options::default()), "config.json", &["object"]);
    fs::write(dir.path().join("config.json"), "{\"model_type\": ").expect("written");
    assert_says(&refused(dir.path(), &Options::default()), "config.json", &["JSON"]);
    fs::remove_file(dir.path().join("config.json")).expect("removed");
    assert_says(&refused(dir.path(), &Options::default()), "config.json", &["cannot read the file"]);
}

/// Shapes and names that are not those the config describes, each by the name of the tensor.
#[test]
fn weights_that_do_not_fit_are_refused_by_name() {
    const WORD: &str = "bert.embeddings.word_embeddings.weight";
    const QUERY: &str = "bert.encoder.layer.1.attention.self.query.weight";
    let plain = Options::default();
    for outputs in [None, two_classes()] {
        let options = Options { outputs, ..Options::default() };
        let dir = with_tensors(|t| drop(t.remove(QUERY)));
        let e = refused(dir.path(), &options);
        assert_says(&e, dir.path(), &["1 of the encoder's", "missing", QUERY]);
        assert!(!e.to_string().contains("head"), "the head is not at fault: {e}");
        let dir = with_config(|c| c["vocab_size"] = json!(201));
        assert_says(&refused(dir.path(), &options), "model.safetensors", &[WORD, "[201, 32]", "[200, 32]"]);
        let dir = with_tensors(|t| t.get_mut(QUERY).expect("there").0 = vec![16, 64]);
        assert_says(&refused(dir.path(), &options), "model.safetensors", &[QUERY, "[32, 32]", "[16, 64]"]);
        for bad in [f32::NAN, f32::INFINITY] {
            let dir = with_tensors(|t| t.get_mut(QUERY).expect("there").1[77] = bad);
            assert_says(&refused(dir.path(), &options), "model.safetensors", &[QUERY, "not finite"]);
        }
        let dir = with_config(|c| c["num_hidden_layers"] = json!(4));
        let e = refused(dir.path(), &options);
        assert_says(&e, dir.path(), &["16 of ", "bert.encoder.layer.3.attention.self.query.weight"]);
    }
    // All that is wrong is said at once.
    let dir = with_tensors(|t| {
        t.remove(QUERY);
        t.get_mut(WORD).expect("there").0 = vec![100, 64];
    });
    assert_says(&refused(dir.path(), &plain), "model.safetensors", &[QUERY, WORD]);

    let dir = with_config(|_| {});
    let safe = dir.path().join("model.safetensors");
    fs::remove_file(&safe).expect("removed");
    assert_says(&refused(dir.path(), &plain), dir.path(), &["model.safetensors"]);
    // A pickle, as torch.save writes it: a zip archive, whatever it is called.
    let pickle = b"PK\x03\x04archive/data.pkl\x80\x02}q\0.";
    fs::write(dir.path().join("pytorch_model.bin"), pickle).expect("written");
    assert_says(&refused(dir.path(), &plain), dir.path(), &["pytorch_model.bin", "pickle", "safetensors"]);
    fs::write(&safe, pickle).expect("written");
    assert_says(&refused(dir.path(), &plain), &safe, &["pickle", "safetensors"]);
}

/// What a folder may lack or hold besides, and what the report says about it.
#[test]
fn heads_are_new_where_the_files_hold_none() {
    let device = cpu(1);
    let dir = with_tensors(|t| t.retain(|name, _| !name.starts_with("classifier.")));
    assert_says(&refused(dir.path(), &Options::default()), dir.path(), &["classifier.weight", "fine-tune"]);
    let new = |seed| Options { outputs: two_classes(), seed, ..Options::default() };
    let (model, report) = open(&device, dir.path(), &new(1));
    assert_eq!(report.initialised, ["classifier.weight", "classifier.bias"]);
    let head = |m: &Model| {
        values(&device, m).into_iter().filter(|v| v.0.starts_with("classifier.")).collect::<Vec<_>>()
    };
    let [(_, w), (_, bias)] = &head(&model)[..] else { panic!("a weight and a bias") };
    assert_eq!((w.len(), bias.as_slice()), (64, &[0.0, 0.0][..]));
    // 64 draws of a normal distribution with the config's standard deviation, 0.02: six sigma of their own.
    let deviation = (w.iter().map(|v| v * v).sum::<f64>() / 64.0).sqrt();
    assert!((deviation / 0.02 - 1.0).abs() < 6.0 / 128f64.sqrt(), "{deviation}");
    assert_eq!(head(&open(&device, dir.path(), &new(1)).0), head(&model), "the seed decides");
    assert_ne!(head(&open(&device, dir.path(), &new(2)).0), head(&model), "the seed decides");
    // A head for another number of classes is replaced, and said to be.
    let (_, report) = open(&device, &golden("bert/a"), &new(1));
    assert_eq!(report.initialised, ["classifier.weight", "classifier.bias"]);
    assert!(report.to_string().contains("at random: classifier.weight, classifier.bias"), "{report}");

    // A bare encoder has no prefix; layers and tensors that the config does not name are reported.
    let (whole_model, _) = open(&device, &golden("bert/a"), &Options::default());
    let bare = with_tensors(|t| {
        *t = std::mem::take(t)
            .into_iter()
            .map(|(n, v)| (n.trim_start_matches("bert.").to_owned(), v))
            .collect();
        t.insert("embeddings.position_ids".into(), (vec![1], vec![0.0]));
        t.insert("cls.predictions.bias".into(), (vec![1], vec![0.0]));
    });
    let (model, report) = open(&device, bare.path(), &Options::default());
    assert_eq!((report.initialised.len(), report.unused), (0, vec!["cls.predictions.bias".to_owned()]));
    assert_eq!(values(&device, &model), values(&device, &whole_model));
    let shallow = with_config(|c| c["num_hidden_layers"] = json!(2));
    for outputs in [None, two_classes()] {
        let e = refused(shallow.path(), &Options { outputs, ..Options::default() });
        assert_says(&e, "model.safetensors", &["bert.encoder.layer.2.", "15 more", "2 layers"]);
    }
}
