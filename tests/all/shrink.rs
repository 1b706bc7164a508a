//! `tempra shrink`: models without heads, rows and layers that do not matter, against the models they were
//! made from; the stock form in transformers; training that goes on from there.

use crate::support::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempra::checkpoint::{Dtype, NamedFile, RealFs, TensorOut, Weights, verify, write_dir};
use tempra::compress::shrink::{STOCK, ShrinkOptions, Shrunk, StockForm, shrink};
use tempra::device::Device;
use tempra::error::{Kind, Result};
use tempra::models::{ARCHITECTURES, Model, Options, Outputs, encoder_shape};
use tempra::nn::LayerShape;
use tempra::predict::{Session, Settings};
use tempra::shape::DType;
use tempra::train::{Control, Event, Observer, Observers, Recipe, Signals, train};

/// The fixtures of architectures whose layers can differ.
const FOLDERS: [&str; 6] = [
    "bert/a",
    "encoders/roberta",
    "encoders/xlm-roberta",
    "encoders/distilbert",
    "encoders/electra",
    "encoders/electra-wide",
];

/// What is zeroed in a layer: heads by their columns of the output map, heads by their values, rows by their
/// columns of the down map, rows by what goes into them.
#[derive(Clone, Default)]
struct Zeroed {
    heads: Vec<usize>,
    valueless: Vec<usize>,
    rows: Vec<usize>,
    unfed: Vec<usize>,
}

/// A copy of a model folder with zeros in these layers.
fn masked(from: &Path, to: &Path, zeroed: &[Zeroed]) {
    let (files, shape) = (Weights::open(from).expect("weights"), encoder_shape(from).expect("a shape"));
    let kind = json(&from.join("config.json"))["model_type"].as_str().expect("a type").to_owned();
    let architecture = ARCHITECTURES.iter().find(|a| a.model_type == kind).expect("known");
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = files
        .names()
        .filter(|n| !n.ends_with("position_ids"))
        .map(|n| (n.to_owned(), files.get(n).expect("it").shape.to_vec(), files.f32(n).expect("values")))
        .collect();
    let mut change = |layer: usize, part: &str, zero: &dyn Fn(usize, usize) -> bool| {
        let name = architecture.tensor(&format!("encoder.layer.{layer}.{part}"));
        let bare = name.strip_prefix(architecture.prefix).expect("a prefix");
        let found = tensors.iter_mut().find(|t| t.0 == name || t.0 == bare);
        let (_, shape, values) = found.unwrap_or_else(|| panic!("no {name}"));
        let width = shape.get(1).copied().unwrap_or(1);
        values.iter_mut().enumerate().for_each(|(i, v)| {
            if zero(i / width, i % width) {
                *v = 0.0;
            }
        });
    };
    for (i, z) in zeroed.iter().enumerate() {
        let dim = shape.layers[i].head_dim;
        change(i, "attention.output.dense.weight", &|_, c| z.heads.contains(&(c / dim)));
        change(i, "attention.self.value.weight", &|r, _| z.valueless.contains(&(r / dim)));
        change(i, "attention.self.value.bias", &|r, _| z.valueless.contains(&(r / dim)));
        change(i, "output.dense.weight", &|_, c| z.rows.contains(&c));
        change(i, "intermediate.dense.weight", &|r, _| z.unfed.contains(&r));
        change(i, "intermediate.dense.bias", &|r, _| z.unfed.contains(&r));
    }
    let tensors = tensors.into_iter().map(|(name, shape, values)| {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        TensorOut { name, dtype: Dtype::F32, shape, bytes: bytes.into() }
    });
    let mut all = vec![NamedFile::tensors("model.safetensors", tensors.collect())];
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"] {
        let bytes = std::fs::read(from.join(name));
        all.extend(bytes.ok().map(|bytes| NamedFile::bytes(name, bytes)));
    }
    write_dir(&RealFs, to, &all).expect("written");
}

/// The first layer loses heads and rows in both ways, the second all heads, the third, if there is one, two
/// heads and all rows.
fn zeros(shape: &[LayerShape]) -> Vec<Zeroed> {
    let all = |n: usize| (0..n).collect::<Vec<_>>();
    let first = Zeroed { heads: vec![0], valueless: vec![2], rows: vec![1, 3, 4], unfed: vec![3, 7] };
    let second = Zeroed { heads: all(shape[1].heads), ..Zeroed::default() };
    let third = Zeroed { heads: vec![1, 3], rows: all(shape[1].intermediate), ..Zeroed::default() };
    [first, second, third][..shape.len()].to_vec()
}

fn done(from: &Path, to: &Path, options: &ShrinkOptions) -> Shrunk {
    shrink(&RealFs, from, to, options).unwrap_or_else(|e| panic!("{e}"))
}

/// Logits of a fixture's sequences in f64.
fn exact(dir: &Path, fixture: &Value, layers: Option<Vec<usize>>) -> Vec<f64> {
    let device = cpu(1);
    let (set, _) = problem(fixture);
    let (model, report) = open(&device, dir, &Options { dtype: DType::F64, layers, ..Options::default() });
    assert!(report.initialised.is_empty() && report.unused.is_empty(), "{report}");
    logits(&device, &model, &whole(&set))
}

#[test]
fn logits_are_those_of_the_masked_model() {
    let dir = tempfile::tempdir().expect("a folder");
    for (i, name) in FOLDERS.into_iter().enumerate() {
        let at = |what: &str| dir.path().join(format!("{i}-{what}"));
        let (large, small) = (at("large"), at("small"));
        let before = encoder_shape(&golden(name)).expect("a shape").layers;
        masked(&golden(name), &large, &zeros(&before));
        let report = done(&large, &small, &ShrinkOptions::default());
        // By hand: two heads of the first layer, no head of the second, four rows of the first.
        let mut after = before.clone();
        (after[0].heads, after[0].intermediate) = (before[0].heads - 2, before[0].intermediate - 4);
        after[1].heads = 0;
        if let Some(third) = after.get_mut(2) {
            (third.heads, third.intermediate) = (2, 0);
        }
        assert_eq!(encoder_shape(&small).expect("a shape").layers, after, "{name}");
        let heads: Vec<[usize; 2]> = report.layers.iter().map(|l| l.heads).collect();
        assert_eq!(heads[..2], [[before[0].heads, before[0].heads - 2], [before[1].heads, 0]]);

        let mut fixture = json(&golden(name).join("fixture.json"));
        let [a, b, stock] = [&large, &small, &small.join(STOCK)].map(|dir| exact(dir, &fixture, None));
        assert!(max_difference(&a, &numbers(&fixture["logits"])) > 1e-3, "{name}: zeros change logits");
        assert!(max_difference(&a, &b) <= 1e-12, "{name}: {:e}", max_difference(&a, &b));
        // Queries were scaled and rounded to f32.
        assert!(max_difference(&a, &stock) <= 1e-6, "{name}: {:e}", max_difference(&a, &stock));

        // Tensors of a layer without heads.
        let names: Vec<String> = Weights::open(&small).expect("weights").names().map(str::to_owned).collect();
        assert!(
            !names.iter().any(|n| n.contains("layer.1.") && (n.contains("query") || n.contains("q_lin")))
        );
        let counted = |dir: &Path| -> usize {
            let files = Weights::open(dir).expect("weights");
            files.names().map(|n| files.get(n).expect("it").shape.iter().product::<usize>()).sum()
        };
        assert_eq!(report.parameters, [counted(&large), counted(&small)]);
        let StockForm::Written { heads, parameters, .. } = report.stock else { panic!("{:?}", report.stock) };
        assert_eq!(parameters, counted(&small.join(STOCK)));
        assert_eq!(heads, after[0].heads, "{name}");
        assert!(verify(&small).expect("verified").ok(), "{name}");

        let rows: Vec<&[f64]> = a.chunks(3).collect();
        fixture["logits"] = json!(rows);
        fixture["tolerance"] = json!(1e-5);
        check_saved(&small.join(STOCK), &fixture);
        refused_by_transformers(&small);
    }
}

/// transformers must not open layers that it cannot hold, with weights of its own in place of the missing.
fn refused_by_transformers(dir: &Path) {
    let Some(python) = std::env::var_os("TEMPRA_PYTHON").filter(|p| !p.is_empty()) else {
        return report_skipped("not run: transformers on a shrunk folder; TEMPRA_PYTHON names no python");
    };
    let code = "import sys, transformers\n\
                try: transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[1])\n\
                except (RuntimeError, ValueError) as e: print(type(e).__name__)\n\
                else: sys.exit('opened')";
    let run = std::process::Command::new(python).args(["-c", code]).arg(dir).output().expect("python");
    let said = String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned();
    assert!(run.status.success(), "{}: {said}", dir.display());
}

/// The one case in which no tensor has another shape: a layer lost all its heads, and the others none.
#[test]
fn missing_tensors_alone_are_refused_by_transformers_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let (large, small) = (dir.path().join("large"), dir.path().join("small"));
    let gone = Zeroed { heads: vec![0, 1, 2, 3], ..Zeroed::default() };
    masked(&golden("bert/a"), &large, &[gone]);
    let report = done(&large, &small, &ShrinkOptions::default());
    assert!(
        matches!(&report.stock, StockForm::None { why } if why.contains("original folder")),
        "{report:?}"
    );
    assert!(!small.join(STOCK).exists());
    let config = json(&small.join("config.json"));
    assert_eq!(config["tempra_layers"][0], json!({ "heads": 0, "head_dim": 8, "intermediate": 64 }));
    // The number does not divide the hidden size, 32: transformers says so.
    assert_eq!(config["num_attention_heads"], 33);
    refused_by_transformers(&small);
}

/// Rows alone: the same number in each layer is what transformers calls `intermediate_size`.
#[test]
fn narrower_rows_need_no_stock_form() {
    let dir = tempfile::tempdir().expect("a folder");
    let (large, small) = (dir.path().join("large"), dir.path().join("small"));
    let rows = |from: usize| Zeroed { rows: (from..from + 24).collect(), ..Zeroed::default() };
    masked(&golden("bert/a"), &large, &[rows(0), rows(9), rows(40)]);
    let report = done(&large, &small, &ShrinkOptions::default());
    assert_eq!(report.stock, StockForm::Same);
    let config = json(&small.join("config.json"));
    assert!(config.get("tempra_layers").is_none() && config["intermediate_size"] == 40, "{config}");
    let mut fixture = json(&golden("bert/a").join("fixture.json"));
    let a = exact(&large, &fixture, None);
    fixture["logits"] = json!(a.chunks(3).collect::<Vec<_>>());
    check_saved(&small, &fixture);
}

/// Layers by request, in any order; the reference is the model of these layers.
#[test]
fn layers_are_kept_by_request() {
    let dir = tempfile::tempdir().expect("a folder");
    let small = dir.path().join("small");
    let options = ShrinkOptions { layers: Some(vec![2, 0]), ..ShrinkOptions::default() };
    let report = done(&golden("bert/a"), &small, &options);
    assert_eq!((report.removed_layers, report.stock), (vec![1], StockForm::Same));
    let mut fixture = json(&golden("bert/a").join("fixture.json"));
    let a = exact(&golden("bert/a"), &fixture, Some(vec![2, 0]));
    assert!(max_difference(&a, &exact(&small, &fixture, None)) <= 1e-12);
    fixture["logits"] = json!(a.chunks(3).collect::<Vec<_>>());
    check_saved(&small, &fixture);
    // Again from a folder whose layers differ.
    let (large, less, least) = (dir.path().join("large"), dir.path().join("less"), dir.path().join("least"));
    masked(&golden("bert/a"), &large, &zeros(&encoder_shape(&golden("bert/a")).expect("a shape").layers));
    done(&large, &less, &ShrinkOptions::default());
    done(&less, &least, &options);
    let off = max_difference(&exact(&large, &fixture, Some(vec![2, 0])), &exact(&least, &fixture, None));
    assert!(off <= 1e-12, "{off:e}");
    assert_eq!(encoder_shape(&least).expect("a shape").layers[1].heads, 2);
}

/// The layers of least influence go: the file is that of naming the others. A layer whose blocks give zeros
/// changes a hidden state by a layer norm alone, which leaves its direction as it is where the norm is plain.
#[test]
fn layers_of_least_influence_are_dropped() {
    let dir = tempfile::tempdir().expect("a folder");
    let [large, chosen, named] = ["large", "chosen", "named"].map(|name| dir.path().join(name));
    let all = encoder_shape(&golden("bert/a")).expect("a shape").layers;
    let whole = |l: &LayerShape| Zeroed {
        heads: (0..l.heads).collect(),
        rows: (0..l.intermediate).collect(),
        ..Zeroed::default()
    };
    let idle = |i: usize| if i == 1 { whole(&all[i]) } else { Zeroed::default() };
    masked(&golden("bert/a"), &large, &(0..all.len()).map(idle).collect::<Vec<_>>());
    let report = done(&large, &chosen, &ShrinkOptions { drop_layers: 1, ..ShrinkOptions::default() });
    assert_eq!((report.influence.len(), &report.removed_layers[..]), (3, &[1][..]), "{report:?}");
    assert!(report.influence.iter().all(|v| (0.0..2.0).contains(v)), "{:?}", report.influence);
    let layers = Some(vec![0, 2]);
    done(&large, &named, &ShrinkOptions { layers: layers.clone(), ..ShrinkOptions::default() });
    let file = |dir: &Path| std::fs::read(dir.join("model.safetensors")).expect("weights");
    assert!(file(&chosen) == file(&named));

    let out = dir.path().join("out");
    let refused = |options: ShrinkOptions, words: &str| {
        let Err(e) = shrink(&RealFs, &large, &out, &options) else { panic!("{words}: not refused") };
        assert!(e.kind() == Kind::Usage && e.to_string().contains(words), "{words}: {e}");
    };
    let drop = |drop_layers: usize| ShrinkOptions { drop_layers, ..ShrinkOptions::default() };
    refused(drop(3), "--drop-layers would remove every layer");
    refused(ShrinkOptions { layers, ..drop(1) }, "--layers and --drop-layers are both given");
}

#[test]
fn what_cannot_be_shrunk_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out");
    let refused = |from: &Path, options: &ShrinkOptions, kind: Kind, words: &str| {
        let Err(e) = shrink(&RealFs, from, &out, options) else { panic!("{words}: not refused") };
        assert!(e.kind() == kind && e.to_string().contains(words), "{words}: {e}");
        assert!(!out.exists() || words.contains("exists"), "{words}");
    };
    let plain = ShrinkOptions::default();
    let layers = |list: &[usize]| ShrinkOptions { layers: Some(list.to_vec()), ..ShrinkOptions::default() };
    refused(&golden("bert/a"), &plain, Kind::Usage, "nothing to remove");
    refused(dir.path(), &plain, Kind::Model, "config.json");
    for name in ["albert", "modernbert", "xlnet"] {
        let words = format!("a model of type `{name}` cannot be made smaller");
        refused(&golden("encoders").join(name), &plain, Kind::Model, &words);
    }
    refused(&golden("bert/a"), &layers(&[0, 3]), Kind::Usage, "--layers names layer 3");
    refused(&golden("bert/a"), &layers(&[1, 1]), Kind::Usage, "--layers names layer 1 twice");
    refused(&golden("bert/a"), &layers(&[]), Kind::Usage, "--layers names no layer");
    std::fs::create_dir(&out).expect("a folder");
    refused(&golden("bert/a"), &layers(&[0]), Kind::Usage, "the output folder exists already");
    assert!(std::fs::read_dir(&out).expect("it").next().is_none());
    // Nothing is left beside it.
    assert_eq!(std::fs::read_dir(dir.path()).expect("it").count(), 1);
}

/// A config with sizes that are none.
#[test]
fn sizes_in_the_config_are_checked() {
    let dir = tempfile::tempdir().expect("a folder");
    let (large, small) = (dir.path().join("large"), dir.path().join("small"));
    masked(&golden("bert/a"), &large, &zeros(&encoder_shape(&golden("bert/a")).expect("a shape").layers));
    done(&large, &small, &ShrinkOptions::default());
    let (path, good) = (small.join("config.json"), json(&small.join("config.json")));
    let layer = |heads: Value, dim: Value, rows: Value| json!({ "heads": heads, "head_dim": dim, "intermediate": rows });
    let second = good["tempra_layers"][1].clone();
    for (value, words) in [
        (json!([]), "`tempra_layers`"),
        (json!("all"), "`tempra_layers`"),
        (json!([second, second]), "a list of 3 objects"),
        (json!([second, second, layer(json!(-1), json!(8), json!(3))]), "heads from 0"),
        (json!([second, second, layer(json!(1), json!(0), json!(3))]), "head_dim from 1"),
        (json!([second, second, { "heads": 1, "head_dim": 8 }]), "intermediate from 0"),
        (json!([second, second, layer(json!(4), json!(8), json!(64))]), "the shape of tensor"),
    ] {
        let mut config = good.clone();
        config["tempra_layers"] = value.clone();
        std::fs::write(&path, config.to_string()).expect("written");
        let Err(e) = Model::open(&cpu(1), &small, &Options::default()) else {
            panic!("{value}: not refused")
        };
        assert!(e.kind() == Kind::Model && e.to_string().contains(words), "{value}: {e}");
    }
    let mut config = json(&golden("encoders/albert/config.json"));
    config["tempra_layers"] = json!([]);
    std::fs::write(&path, config.to_string()).expect("written");
    let e = encoder_shape(&small).expect_err("refused");
    assert!(e.to_string().contains("not supported for the type `albert`"), "{e}");
}

struct Limit(u64, Vec<f64>);

impl Observer for Limit {
    fn event(&mut self, event: &Event) -> Control {
        match event {
            Event::Step(step) => {
                self.1.push(step.loss);
                if step.step >= self.0 { Control::Stop } else { Control::Continue }
            }
            _ => Control::Continue,
        }
    }
}

/// A shrunk folder is trained further, stopped and resumed with the same bits; what comes out has its sizes,
/// predicts, and opens again.
#[test]
fn a_shrunk_folder_is_trained_further() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    let shapes = encoder_shape(&golden("bert/a")).expect("a shape").layers;
    masked(&golden("bert/a"), &at("large"), &zeros(&shapes));
    done(&at("large"), &at("small"), &ShrinkOptions::default());
    let texts = ["A fine film.", "Too loud.", "It is a film.", "I enjoyed the music.", "No.", "Never again."];
    let row = |(i, text): (usize, &&str)| format!("{text},{}\n", ["good", "bad"][i % 2]);
    let rows: Vec<String> = texts.iter().enumerate().map(row).collect();
    std::fs::write(at("train.csv"), format!("text,label\n{}", rows.concat())).expect("written");
    let text = "task = \"classify\"\nthreads = 1\n[model]\npath = \"small\"\n[data]\ntrain = \"train.csv\"\n\
                max_length = 16\nvalidation_fraction = 0\ncache = false\n[train]\nbatch_size = 3\nmax_steps = 6\n\
                [optim]\nlr = 3e-3\n";
    let run = |output: &str, steps: u64| -> Result<Vec<f64>> {
        let set = [("output".to_owned(), at(output).display().to_string())];
        let recipe = Recipe::from_toml(text, &at("recipe.toml"), &set)?;
        let mut limit = Limit(steps, Vec::new());
        let mut observers = Observers::default().with(&mut limit);
        train(&recipe, false, Arc::new(RealFs), &Signals::default(), &mut observers)?;
        Ok(limit.1)
    };
    assert_eq!(run("whole", 100).expect("trained").len(), 6);
    run("parts", 2).expect("trained");
    run("parts", 100).expect("resumed");
    let weights = |output: &str| std::fs::read(at(output).join("model/model.safetensors")).expect("weights");
    assert_eq!(weights("whole"), weights("parts"));
    let model = at("whole/model");
    assert_eq!(encoder_shape(&model).expect("a shape"), encoder_shape(&at("small")).expect("a shape"));
    let (opened, report) = open(&cpu(1), &model, &Options::default());
    assert!(report.unused.is_empty() && report.initialised.is_empty(), "{report}");
    assert!(matches!(opened.outputs, Outputs::Classes(_)));
    let device = Device::open("cpu", 1).expect("the CPU");
    let session = Session::open(&model.display().to_string(), device, Settings::default()).expect("opened");
    assert_eq!(session.predict(["A fine film."]).filter(Result::is_ok).count(), 1);
}

/// all-MiniLM-L6-v2 with half its heads and rows, and one layer without heads.
#[test]
fn a_real_model_shrinks() {
    let Some(model) = std::env::var_os("TEMPRA_TEST_MODEL").filter(|d| !d.is_empty()) else {
        return report_skipped("not run: all-MiniLM-L6-v2, which TEMPRA_TEST_MODEL would name");
    };
    let (dir, model) = (tempfile::tempdir().expect("a folder"), PathBuf::from(model));
    let (large, small) = (dir.path().join("large"), dir.path().join("small"));
    let half = |i: usize| Zeroed {
        heads: (0..12).filter(|h| i == 1 || (h + i).is_multiple_of(2)).collect(),
        rows: (0..1536).filter(|r| (r * 7 + i).is_multiple_of(2)).collect(),
        ..Zeroed::default()
    };
    masked(&model, &large, &(0..6).map(half).collect::<Vec<_>>());
    let report = done(&large, &small, &ShrinkOptions::default());
    assert!(report.proof.relative() <= 1e-5 && report.proof.largest_hidden > 0.5, "{report:?}");
    // By hand: of each layer 6 heads of 32 rows with 4 x 384 weights and 3 biases a row, of the second 12 of
    // them; and 768 rows with 2 x 384 weights and a bias.
    let gone = (5 * 6 + 12) * 32 * (4 * 384 + 3) + 6 * 768 * (2 * 384 + 1);
    assert_eq!(report.parameters[0] - report.parameters[1], gone);
    let StockForm::Written { heads, intermediate, .. } = report.stock else { panic!("{report:?}") };
    assert_eq!((heads, intermediate), (6, 768));
}
