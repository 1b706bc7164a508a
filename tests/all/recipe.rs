//! Recipes: what is read, what is refused and where, what is written. Lines and columns were counted by hand.

use std::path::Path;
use tempra::error::Kind;
use tempra::metrics::METRICS;
use tempra::tasks::of_metric;
use tempra::train::recipe::{ClassWeights, DeviceName, Every, OnBadRow, Pooling, Recipe, TaskKind};
use tempra::train::schedule::{Curve, ScheduleKind};

const FILE: &str = "/tasks/mood.toml";
/// The least a recipe says.
const LEAST: &str =
    "task = \"classify\"\n[model]\npath = \"google-bert/bert-base-uncased\"\n[data]\ntrain = \"train.csv\"\n";

fn sets(flags: &[(&str, &str)]) -> Vec<(String, String)> {
    flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}
fn read(text: &str, flags: &[(&str, &str)]) -> Recipe {
    Recipe::from_toml(text, Path::new(FILE), &sets(flags)).unwrap_or_else(|e| panic!("{e}"))
}
fn refused(text: &str, flags: &[(&str, &str)]) -> String {
    let e = Recipe::from_toml(text, Path::new(FILE), &sets(flags)).expect_err("a mistake");
    assert_eq!(e.kind(), Kind::Usage);
    assert_eq!(e.exit_code(), 2);
    e.to_string()
}
/// The first lines of the errors: those that are not indented.
fn heads(text: &str) -> Vec<&str> {
    text.lines().filter(|l| !l.starts_with("  ")).collect()
}
/// The least recipe with lines added to it (line 6 is the first).
fn with(lines: &str) -> String {
    format!("{LEAST}{lines}")
}

#[test]
fn the_least_recipe_has_the_documented_defaults() {
    let r = read(LEAST, &[]);
    assert_eq!((r.task, r.seed, r.device, r.threads), (TaskKind::Classify, 42, DeviceName::Auto, 0));
    assert_eq!(r.output, Path::new("runs/mood"));
    assert_eq!(r.model.path, "google-bert/bert-base-uncased");
    assert_eq!((r.model.pooling, r.model.dropout, r.data.on_bad_row), (Pooling::Auto, None, OnBadRow::Stop));
    assert_eq!(r.data.train, Path::new("/tasks/train.csv"));
    assert_eq!((r.data.text.as_str(), r.data.pair, r.data.label.as_str()), ("text", None, "label"));
    assert_eq!((r.data.validation_fraction, r.data.test_fraction, r.data.max_length), (0.1, 0.0, 128));
    let t = &r.train;
    assert_eq!((t.epochs, t.max_steps, t.batch_size, t.accumulation, t.max_tokens), (3.0, None, 16, 1, 8192));
    assert_eq!((t.eval_every, t.save_every, t.keep_checkpoints), (Every::Epoch, Every::Epoch, 2));
    assert_eq!(
        (t.best_metric.as_str(), t.load_best, t.max_nonfinite_steps, t.log_every),
        ("accuracy", true, 10, 10)
    );
    let o = &r.optim;
    assert_eq!((o.optimizer.name, o.lr, o.weight_decay), ("adamw", 5e-5, 0.0));
    assert_eq!((o.beta1, o.beta2, o.eps), (Some(0.9), Some(0.999), Some(1e-8)));
    assert_eq!((o.momentum, o.nesterov), (None, None), "AdamW does not read them");
    assert_eq!(
        (o.max_grad_norm, o.schedule, o.warmup_ratio, o.layer_lr_decay),
        (1.0, ScheduleKind::Linear, 0.0, 1.0)
    );
    assert_eq!((r.loss.label_smoothing, r.loss.class_weights), (0.0, None));
}

#[test]
fn defaults_follow_the_task_and_the_data() {
    let r = read(&LEAST.replace("classify", "regress"), &[]);
    assert_eq!(r.train.best_metric, "mse");
    assert!(!read(LEAST, &[("data.validation_fraction", "0")]).train.load_best);
}

#[test]
fn every_mistake_is_reported_with_its_place() {
    let text = r#"task = "classfy"
sed = 7

[model]
  path = 3
pooling = "cls"

[data]
train = "train.csv"
validation_fraction = 1.0

[train]
epochs = "three"
learning_rate = 2e-5   # HF's name, and another table
batch_size = 16.5
eval_every = 0

[optin]
lr = 1e-3
"#;
    let e = refused(text, &[]);
    let expected = [
        "/tasks/mood.toml:1:8: task is invalid",
        "/tasks/mood.toml:2:1: unknown key sed",
        "/tasks/mood.toml:5:10: model.path is invalid",
        "/tasks/mood.toml:10:23: data.validation_fraction is invalid",
        "/tasks/mood.toml:13:10: train.epochs is invalid",
        "/tasks/mood.toml:14:1: unknown key train.learning_rate",
        "/tasks/mood.toml:15:14: train.batch_size is invalid",
        "/tasks/mood.toml:16:14: train.eval_every is invalid",
        "/tasks/mood.toml:18:2: unknown key optin",
    ];
    assert_eq!(heads(&e), expected, "{e}");
    for part in [
        "or \"mask\" or \"permute\" or \"next\" or \"order\" or \"multi\"\n  found: \"classfy\" (did you mean \"classify\"?)",
        "help: did you mean seed?",
        "expected: a string\n  found: 3",
        "expected: a number from 0 to below 1\n  found: 1.0",
        "expected: a number above 0\n  found: \"three\"",
        "help: did you mean optim.lr?",
        "expected: an integer of at least 1\n  found: 16.5",
        "expected: \"epoch\" or a number of steps of at least 1\n  found: 0",
        "help: did you mean [optim]?",
    ] {
        assert!(e.contains(part), "{part:?} in\n{e}");
    }
}

/// Columns count characters, not bytes; lines may end in CR LF; a byte-order mark is no column.
#[test]
fn places_hold_in_any_text() {
    let e = refused("\u{feff}seed = -1\r\n\"été\" = { x = 1 }\r\n", &[]);
    assert_eq!(
        heads(&e)[..2],
        ["/tasks/mood.toml:1:8: seed is invalid", "/tasks/mood.toml:2:1: unknown key été"]
    );
    let e = refused(&with("pair = \"éé\"; x"), &[]);
    assert_eq!(heads(&e)[0].split(": ").next(), Some("/tasks/mood.toml:6:12"), "{e}");
}

#[test]
fn several_syntax_errors_are_reported_at_once() {
    let e = refused("task = \"classify\nseed = 1 2\nthreads = 1\nthreads = 2\n", &[]);
    let places: Vec<_> =
        heads(&e).iter().map(|l| l.split(": ").next().unwrap_or_default().to_owned()).collect();
    assert_eq!(places, ["/tasks/mood.toml:1:17", "/tasks/mood.toml:2:8", "/tasks/mood.toml:4:1"], "{e}");
    assert!(heads(&e).iter().all(|l| l.contains("not TOML")), "{e}");
}

#[test]
fn what_has_to_be_given_is_missed_at_its_table() {
    let e = refused("[data]\nlabel = \"y\"\n", &[]);
    let expected = [
        "/tasks/mood.toml:1:2: data.train is missing",
        "/tasks/mood.toml: task is missing",
        "/tasks/mood.toml: model.path is missing",
    ];
    assert_eq!(heads(&e), expected, "{e}");
    let e = refused("task = \"classify\"\nmodel = \"bert\"\ndata = { train = \"\" }\n", &[]);
    let expected =
        ["/tasks/mood.toml:2:9: model is not a table", "/tasks/mood.toml:3:18: data.train is invalid"];
    assert_eq!(heads(&e), expected, "{e}");
}

/// Each line breaks one rule; the value stands at the column given.
#[test]
fn bounds_are_held() {
    let cases = [
        ("optim", "lr = 0", 6, "a number above 0"),
        ("optim", "lr = inf", 6, "a number above 0"),
        ("optim", "lr = nan", 6, "a number above 0"),
        ("optim", "beta2 = 1", 9, "a number from 0 to below 1"),
        ("optim", "eps = 0.0", 7, "a number above 0"),
        ("optim", "max_grad_norm = -1", 17, "a number of at least 0"),
        ("optim", "layer_lr_decay = 1.01", 18, "a number above 0 and at most 1"),
        ("optim", "schedule = \"lin\"", 12, "\"linear\""),
        ("optim", "warmup_steps = -3", 16, "an integer of at least 0"),
        ("train", "epochs = 0", 10, "a number above 0"),
        ("train", "max_steps = 0", 13, "an integer of at least 1"),
        ("train", "save_every = \"step\"", 14, "\"epoch\" or a number of steps"),
        ("train", "group_by_length = 1", 19, "true or false"),
        ("train", "accumulation = 0", 16, "an integer of at least 1"),
        ("train", "log_every = 99999999999999999999", 13, "an integer of at least 1"),
        ("loss", "label_smoothing = 1.0", 19, "a number from 0 to below 1"),
        ("loss", "focal_gamma = -1", 15, "a number from 0 to 100"),
        (
            "loss",
            "class_weights = [1.0, -1.0]",
            17,
            "\"balanced\" or a list of numbers of at least 0\n  found: -1.0 as item 2",
        ),
        ("loss", "class_weights = \"even\"", 17, "\"balanced\" or a list of numbers"),
        ("optim", "lr = 1979-05-27", 6, "a number above 0"),
    ];
    for (section, line, column, expected) in cases {
        let e = refused(&with(&format!("[{section}]\n{line}\n")), &[]);
        assert!(e.starts_with(&format!("/tasks/mood.toml:7:{column}: {section}.")), "{line}\n{e}");
        assert!(e.contains(&format!("\n  expected: {expected}")), "{line}\n{e}");
        assert_eq!(heads(&e).len(), 1, "one mistake, one error\n{e}");
    }
    for line in ["dropout = 1.0", "attention_dropout = -0.1", "classifier_dropout = 0.99999999999"] {
        let e = refused(&LEAST.replace("[data]", &format!("{line}\n[data]")), &[]);
        assert!(e.contains("from 0 to below 1") && e.starts_with("/tasks/mood.toml:4:"), "{line}\n{e}");
    }
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let cases = [
        (
            "validation_fraction = 0.5\ntest_fraction = 0.5",
            ":6:23: data.validation_fraction and data.test_fraction leave nothing to train on",
        ),
        ("pair = \"text\"", ":6:8: data.text and data.pair name the same column"),
        ("label = \"text\"", ":6:9: data.text and data.label name the same column"),
        ("classes = [\"a\", \"b\", \"a\"]", ":6:11: data.classes contains \"a\" twice"),
        ("classes = [\"a\"]", ":6:11: data.classes has one class only"),
        (
            "[train]\nbatch_size = 4\naccumulation = 5",
            ":8:16: train.accumulation (5) exceeds train.batch_size (4)\n  help: lower train.accumulation",
        ),
        (
            "max_length = 512\n[train]\nmax_tokens = 511",
            ":8:14: data.max_length (512) exceeds train.max_tokens (511)\n  help: raise train.max_tokens",
        ),
        ("[train]\nbest_metric = \"pearson\"", ":7:15: train.best_metric is not a metric of task classify"),
        (
            "validation_fraction = 0\n[train]\nearly_stopping = 2",
            ":8:18: train.early_stopping is set, but there are no validation examples",
        ),
        (
            "validation_fraction = 0\n[train]\nload_best = true",
            ":8:13: train.load_best is set, but there are no validation examples",
        ),
        (
            "[optim]\nwarmup_ratio = 0.1\nwarmup_steps = 9",
            ":8:16: optim.warmup_steps and optim.warmup_ratio are both set",
        ),
        ("[optim]\npower = 2", ":7:9: optim.power has no effect with optim.schedule = \"linear\""),
        ("[optim]\ndecay_steps = 2\nschedule = \"cosine\"", ":7:15: optim.decay_steps has no effect with"),
        (
            "[optim]\nschedule = \"polynomial\"\nlr_end = 1e-3",
            ":8:10: optim.lr_end (0.001) is not below optim.lr (5e-5)",
        ),
        (
            "[optim]\nschedule = \"cosine_with_restarts\"\nnum_cycles = 1.5",
            ":8:14: optim.num_cycles is not a whole number",
        ),
        ("[train]\nmax_steps = 9\n[optim]\nwarmup_steps = 10", ":9:16: the warm-up is longer than the run"),
        (
            "classes = [\"a\", \"b\"]\n[loss]\nclass_weights = [1, 2, 3]",
            ":8:17: loss.class_weights has 3 weights for 2 classes",
        ),
        ("[loss]\nclass_weights = [0, 0]", ":7:17: every weight in loss.class_weights is 0"),
    ];
    for (lines, head) in cases {
        let e = refused(&with(lines), &[]);
        assert!(e.starts_with(&format!("/tasks/mood.toml{head}")), "{lines}\n{e}");
        assert_eq!(heads(&e).len(), 1, "one mistake, one error\n{e}");
    }
    let rates =
        ["model.dropout", "model.attention_dropout", "model.classifier_dropout"].map(|key| (key, "0"));
    let e = refused(&with("[loss]\nr_drop = 1"), &rates);
    assert!(e.contains("loss.r_drop is set, but every dropout rate is 0") && heads(&e).len() == 1, "{e}");
    let number = LEAST.replace("classify", "regress");
    for (lines, what) in [
        ("classes = [\"a\", \"b\"]", "data.classes is set, but task \"regress\" has no classes"),
        ("[loss]\nlabel_smoothing = 0.1", "loss.label_smoothing is set, but task \"regress\" has no classes"),
        (
            "[loss]\nclass_weights = \"balanced\"",
            "loss.class_weights is set, but task \"regress\" has no classes",
        ),
        ("[loss]\nfocal_gamma = 2", "loss.focal_gamma is set, but task \"regress\" has no classes"),
        ("[loss]\nr_drop = 1", "loss.r_drop is set, but task \"regress\" does not have it"),
        ("[train]\nbest_metric = \"mea\"", "did you mean \"mae\"?"),
    ] {
        let e = refused(&format!("{number}{lines}"), &[]);
        assert!(e.contains(what) && heads(&e).len() == 1, "{lines}\n{e}");
    }
    let e = refused(&format!("seeds = [1, 2, 1]\n{LEAST}"), &[]);
    assert!(e.starts_with("/tasks/mood.toml:1:9: seeds contains the same seed twice"), "{e}");
    // A task that cannot be read is one mistake, not two.
    let e = refused(&LEAST.replace("classify", "rank"), &[("train.best_metric", "pearson")]);
    assert_eq!(heads(&e), ["/tasks/mood.toml:1:8: task is invalid"]);
    // Tokens in place of sequences: the portions are not bounded by batch_size.
    read(&with("[train]\nbatch_tokens = 4096\nbatch_size = 4\naccumulation = 5"), &[]);
}

#[test]
fn flags_override_and_are_named() {
    let flags = [
        ("optim.lr", "3e-4"),
        ("optim.schedule", "cosine"),
        ("train.eval_every", "200"),
        ("data.label", "2024"),
        ("data.pair", "1979-05-27"),
        ("data.classes", "[\"no\", \"yes\"]"),
        ("seeds", "[1, 2]"),
        ("device", "wgpu:1"),
        ("model.freeze", "['embeddings']"),
        ("loss.class_weights", "balanced"),
    ];
    let r = read(&with("[optim]\nlr = \"much\"\nwarmup_ratio = 0.1\n"), &flags);
    assert_eq!((r.optim.lr, r.optim.schedule, r.optim.warmup_ratio), (3e-4, ScheduleKind::Cosine, 0.1));
    assert_eq!((r.train.eval_every, r.data.label.as_str()), (Every::Steps(200), "2024"));
    assert_eq!(
        (r.data.pair.as_deref(), r.data.classes),
        (Some("1979-05-27"), vec!["no".to_owned(), "yes".to_owned()])
    );
    assert_eq!(
        (r.seeds, r.device, r.model.freeze),
        (vec![1, 2], DeviceName::Wgpu(Some(1)), vec!["embeddings".into()])
    );
    assert_eq!(r.loss.class_weights, Some(ClassWeights::Balanced));
    // Nothing brings the default back.
    let r =
        read(&with("[optim]\nlr = 1\nwarmup_steps = 5\n"), &[("optim.warmup_steps", ""), ("optim.lr", "")]);
    assert_eq!((r.optim.lr, r.optim.warmup_steps), (5e-5, None));
    let e =
        refused(LEAST, &[("optim.lr", "-1"), ("optim.lrr", "1"), ("trian.epochs", "1"), ("data", "x.csv")]);
    let expected = [
        "--set data=x.csv: data is not a table",
        "--set optim.lr=-1: optim.lr is invalid",
        "--set optim.lrr=1: unknown key optim.lrr",
        "--set trian.epochs=1: unknown key trian",
    ];
    let mut found = heads(&e);
    found.sort_unstable();
    assert_eq!(found, expected, "{e}");
    assert!(e.contains("did you mean optim.lr?") && e.contains("did you mean [train]?"), "{e}");
    // The later of two flags counts.
    assert_eq!(read(LEAST, &[("seed", "1"), ("seed", "2")]).seed, 2);
}

#[test]
fn paths_are_relative_to_the_recipe_and_flags_to_the_current_folder() {
    let here = std::env::current_dir().expect("a current folder");
    let home = std::env::var("CARGO_MANIFEST_DIR").expect("set by cargo");
    let r = read(&with("test = \"${CARGO_MANIFEST_DIR}/x.csv\"\n"), &[("data.validation", "v.csv")]);
    assert_eq!(r.data.validation, Some(here.join("v.csv")));
    assert_eq!(r.data.test, Some(Path::new(&home).join("x.csv")));
    let e = refused(&with("test = \"${TEMPRA_NOT_SET}/x.csv\"\nvalidation = \"${X\"\n"), &[]);
    assert_eq!(heads(&e).len(), 2, "{e}");
    assert!(e.contains("variable TEMPRA_NOT_SET is not set") && e.contains("not closed"), "{e}");
    if let Ok(home) = std::env::var("HOME") {
        assert_eq!(read(LEAST, &[("data.train", "~/t.csv")]).data.train, Path::new(&home).join("t.csv"));
    }
    // A model folder that is there wins over org/name; one that begins with a dot is a folder in any case.
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("org/bert")).expect("a folder");
    let file = folder.path().join("r.toml");
    for (name, expected) in [("org/bert", Some("org/bert")), ("./none", Some("none")), ("org/other", None)] {
        let text = LEAST.replace("google-bert/bert-base-uncased", name);
        let r = Recipe::from_toml(&text, &file, &[]).unwrap_or_else(|e| panic!("{e}"));
        let expected = expected.map_or(Path::new(name).to_path_buf(), |e| folder.path().join(e));
        assert_eq!(
            Path::new(&r.model.path).components().collect::<Vec<_>>(),
            expected.components().collect::<Vec<_>>()
        );
    }
    let e = refused(&LEAST.replace("google-bert/bert-base-uncased", " "), &[]);
    assert_eq!(heads(&e), ["/tasks/mood.toml:3:8: model.path is empty"]);
}

/// Every key set to something that is not its default.
fn full() -> Recipe {
    read(
        r#"
task = "classify"
seed = 9223372036854775807
seeds = [1, 2]
device = "wgpu:3"
threads = 5
output = "out put/\"x\""
distill = { teacher = "/m/large", preset = "tinybert", label_weight = 0.5, logits_weight = 2, live = true, hidden_weight = 0.1, hidden_layers = [[0, 1], [1, 3]], hidden_loss = "cosine", projection = false, embedding_weight = 0.2, relation_weight = 0.3, relation_heads = 24, relation_layer = 2 }
[model]
path = "/m/bert"
layers = [4, 0]
pooling = "mean"
attention = "performer"
attention_features = 64
attention_redraw = 500
dropout = 0.1
attention_dropout = 0.30000001
classifier_dropout = 0
freeze = ["embeddings", 'enc\']
[permute]
probability = 0.2
[data]
train = "t.csv"
validation = "../v.csv"
test = "/abs/t.jsonl"
text = "té\u0007xt"
pair = "b"
label = "gold"
weight = "trust"
classes = ["no", "yes"]
validation_fraction = 0.15
test_fraction = 0.123456789012345678
split_seed = 3
max_length = 99
on_bad_row = "skip"
cache = false
[train]
epochs = 2.5
max_steps = 1000
batch_size = 32
batch_tokens = 5000
accumulation = 2
max_tokens = 777
group_by_length = true
eval_every = 50
save_every = 100
keep_checkpoints = 1
early_stopping = 3
best_metric = "f1_macro"
load_best = false
max_nonfinite_steps = 0
log_every = 1
[optim]
lr = 0.1e-3
weight_decay = 0.01
beta1 = 0.8
beta2 = 0.98
eps = 1e-6
max_grad_norm = 0
schedule = "warmup_stable_decay"
warmup_steps = 7
num_cycles = 0.7
decay_steps = 11
min_lr_ratio = 0.05
warmup_type = "cosine"
decay_type = "1-sqrt"
layer_lr_decay = 0.95
[loss]
label_smoothing = 0.1
class_weights = [1, 0.1]
"#,
        &[],
    )
}

#[test]
fn what_is_written_reads_back_as_the_same() {
    let r = full();
    assert_eq!((r.optim.warmup_type, r.optim.decay_type), (Curve::Cosine, Curve::OneMinusSqrt));
    assert_eq!((r.model.dropout, r.data.text.as_str()), (Some(0.1), "té\u{7}xt"));
    for recipe in [
        r,
        read(LEAST, &[]),
        read(&LEAST.replace("classify", "regress"), &[("data.validation_fraction", "0")]),
    ] {
        for comments in [false, true] {
            let text = recipe.to_toml(comments);
            // From another folder, under another name: nothing depends on where the resolved recipe lies.
            let back = Recipe::from_toml(&text, Path::new("/elsewhere/resolved.toml"), &[]);
            assert_eq!(back.unwrap_or_else(|e| panic!("{e}\n{text}")), recipe, "{text}");
        }
        let json = recipe.to_json().to_string();
        let back = Recipe::from_json(&json, Path::new("/elsewhere/resolved.json"), &[]);
        assert_eq!(back.unwrap_or_else(|e| panic!("{e}\n{json}")), recipe, "{json}");
    }
}

#[test]
fn features_without_what_has_them_are_refused() {
    let said = refused(LEAST, &[("model.attention_features", "8")]);
    assert!(said.contains("model.attention_features"), "{said}");
    let flags = [("model.attention", "performer"), ("model.attention_features", "8")];
    assert_eq!(read(LEAST, &flags).model.attention_features, Some(8));
}

#[test]
fn the_written_recipe_explains_itself() {
    let text = read(&with("[optim]\nlr = 1e-3\n"), &[]).to_toml(true);
    let wanted = "# Peak learning rate (HF `learning_rate`).\nlr = 0.001  # default: 5e-5\n";
    assert!(text.contains(wanted), "{text}");
    assert!(text.contains("Default: as many as `epochs` gives.\n# max_steps =\n"), "{text}");
    assert!(
        text.contains("\noutput = \"runs/mood\"\n"),
        "a default that follows from other keys is not restated"
    );
    // Plain TOML to any other reader.
    let table: toml::Table = text.parse().expect("TOML");
    assert_eq!(table["optim"]["lr"].as_float(), Some(0.001));
    assert!(table["train"].get("max_steps").is_none());
}

#[test]
fn every_key_is_documented_and_settable() {
    let keys = Recipe::keys();
    let mut paths: Vec<_> = keys.iter().map(|k| k.path()).collect();
    for key in &keys {
        assert!(key.doc.len() > 10 && key.doc.ends_with('.'), "{}: {:?}", key.path(), key.doc);
        assert!(!key.accepts.is_empty());
        // Every default is accepted by the key's own rule.
        if let Some(default) = &key.default {
            read(LEAST, &[(&key.path(), default)]);
        }
    }
    assert_eq!(
        keys.iter().filter(|k| k.required).map(|k| k.path()).collect::<Vec<_>>(),
        ["task", "model.path", "data.train"]
    );
    let count = paths.len();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), count);
    // The full recipe names every key but the ones that its other choices exclude.
    let json = full().to_json();
    let set: usize =
        json.as_object().map_or(0, |o| o.values().map(|v| v.as_object().map_or(1, |t| t.len())).sum());
    assert_eq!(set, count - 4, "all but timescale, momentum, nesterov and prune.parameters");
    for metric in METRICS.iter().filter(|m| of_metric(m.name).any(|task| task == "classify")) {
        assert_eq!(read(LEAST, &[("train.best_metric", metric.name)]).train.best_metric, metric.name);
    }
}

#[test]
fn json_is_read_with_places_too() {
    let path = Path::new("/tasks/r.json");
    let text = r#"{
  "task": "classify", "seed": 7, "seeds": null,
  "model": {"path": "a\"b/c", "freeze": []},
  "data": {"train": "t.csv", "classes": ["x", "yé"]},
  "optim": {"lr": 2e-5, "weight_decay": 1}
}"#;
    let r = Recipe::from_json(text, path, &sets(&[("train.epochs", "1")])).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((r.seed, r.optim.lr, r.optim.weight_decay, r.train.epochs), (7, 2e-5, 1.0, 1.0));
    assert_eq!((r.model.path.as_str(), r.data.classes[1].as_str()), ("a\"b/c", "yé"));
    assert_eq!(r.data.train, Path::new("/tasks/t.csv"));
    let say = |text: &str| Recipe::from_json(text, path, &[]).expect_err("a mistake").to_string();
    let e = say(&text.replace("7", "-7").replace("\"lr\": 2e-5", "\"lr\": {\"a\": [1]}, \"lrr\": true"));
    let expected = [
        "/tasks/r.json:2:31: seed is invalid",
        "/tasks/r.json:5:19: optim.lr is invalid",
        "/tasks/r.json:5:31: unknown key optim.lrr",
    ];
    assert_eq!(heads(&e), expected, "{e}");
    assert!(say("{\"seed\": 1,\n}").starts_with("/tasks/r.json:2:1: not JSON"));
    assert!(say("{\"seed\": 1,\n \"seed\": 2}").starts_with("/tasks/r.json:2:2: seed is given twice"));
    assert!(say("[1]").contains("the recipe is not a JSON object"));
    assert!(say(&"[".repeat(100_000)).contains("not JSON"));
}

#[test]
fn files_that_are_no_recipe_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let none = Recipe::load(&folder.path().join("none.toml"), &[]).expect_err("no file").to_string();
    assert!(none.contains("none.toml") && none.contains("tempra help recipe"), "{none}");
    let bytes = folder.path().join("latin1.toml");
    std::fs::write(&bytes, b"seed = 1\n# \xe9t\xe9\n").expect("written");
    let e = Recipe::load(&bytes, &[]).expect_err("not UTF-8").to_string();
    assert!(e.contains("latin1.toml:2 (byte 11): the recipe is not UTF-8"), "{e}");
    let good = folder.path().join("mood.JSON");
    std::fs::write(&good, r#"{"task": "regress", "model": {"path": "a/b"}, "data": {"train": "t"}}"#)
        .expect("written");
    assert_eq!(Recipe::load(&good, &[]).unwrap_or_else(|e| panic!("{e}")).output, Path::new("runs/mood"));
    let deep = format!("seed = {}", "[".repeat(50_000));
    assert!(refused(&deep, &[]).contains("not TOML"));
    for text in ["", "\0", "[[model]]\n", "a.b.c = 1", "[model.path]", "seed = {", "= 1", "[train]\n[train]"]
    {
        assert!(!refused(text, &[]).is_empty());
    }
}

#[test]
fn the_hash_is_of_what_decides_the_result() {
    let same = |flags: &[(&str, &str)]| read(LEAST, flags).hash() == read(LEAST, &[]).hash();
    assert!(same(&[("output", "elsewhere"), ("device", "cpu"), ("threads", "3")]));
    assert!(same(&[("optim.lr", "0.00005"), ("optim.schedule", "linear")]), "a default written out");
    assert!(same(&[("optim.optimizer", "adamw")]) && !same(&[("optim.optimizer", "lion")]));
    assert!(!same(&[("seed", "1")]) && !same(&[("optim.lr", "6e-5")]) && !same(&[("data.test", "t.csv")]));
    assert_eq!(read(LEAST, &[]).hash().len(), 64);
}

#[test]
fn several_seeds_are_several_runs() {
    let runs = read(LEAST, &[("seeds", "[5, 6]"), ("output", "o")]).runs();
    assert_eq!(runs.iter().map(|r| r.seed).collect::<Vec<_>>(), [5, 6]);
    assert_eq!(runs[1].output, Path::new("o/seed-6"));
    assert_eq!(runs[1].hash(), read(LEAST, &[("seed", "6")]).hash());
    assert_eq!(read(LEAST, &[]).runs().len(), 1);
}

#[test]
fn the_schedule_is_built_from_the_recipe() {
    let o = read(LEAST, &[("optim.warmup_ratio", "0.06"), ("optim.schedule", "constant_with_warmup")]).optim;
    // ceil(0.06 * 33) = ceil(1.98)
    assert_eq!((o.schedule(33).warmup_steps, o.schedule(33).kind), (2, ScheduleKind::Constant));
    let o = read(LEAST, &[("optim.schedule", "polynomial"), ("optim.lr", "1e-4"), ("optim.lr_end", "1e-5")])
        .optim;
    assert!((o.schedule(10).factor(10) - 0.1).abs() < 1e-12);
    // The names are serde's too.
    for kind in [
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "inverse_sqrt",
        "warmup_stable_decay",
    ] {
        let o = read(LEAST, &[("optim.schedule", kind)]).optim;
        assert_eq!(serde_json::to_value(o.schedule).expect("json"), kind);
    }
}
