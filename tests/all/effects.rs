//! Keys of a recipe that are set and have no effect: each is named, as an error or a warning. What each key
//! is for says its documentation (`tempra help recipe`).

use crate::support::golden;
use crate::tasks::{TASKS, data, ok, prepared, recipe, tempra};
use serde_json::Value;
use std::path::Path;
use tempra::train::Recipe;

/// The first lines of the warnings about a recipe with flags on top.
fn warned(dir: &Path, text: &str, sets: &[(&str, &str)]) -> Vec<String> {
    let path = dir.join("r.toml");
    std::fs::write(&path, text).unwrap();
    let sets: Vec<_> = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let (_, warnings) = Recipe::load_with_warnings(&path, &sets).unwrap_or_else(|e| panic!("{e}\n{text}"));
    warnings.iter().map(|w| w.to_string().lines().next().unwrap_or_default().to_owned()).collect()
}

/// Settings, a value other than the default, and the tasks in which they have an effect.
const CASES: &[(&str, &str, &[&str])] = &[
    ("data.pair", "\"b\"", &["classify", "multilabel", "regress", "similar"]),
    ("data.label", "\"y\"", &["classify", "multilabel", "regress", "similar", "tag"]),
    (
        "data.text",
        "\"t\"",
        &["classify", "multilabel", "regress", "similar", "tag", "mask", "permute", "next", "order"],
    ),
    ("data.separator", "\";\"", &["multilabel"]),
    ("data.stride", "7", &["tag", "answer"]),
    ("model.pooling", "\"mean\"", &["classify", "multilabel", "regress", "similar"]),
    ("model.classifier_dropout", "0.3", &["classify", "multilabel", "regress", "tag", "answer"]),
    ("model.attention_redraw", "5", &[]),
    ("multilabel.tune_thresholds", "false", &["multilabel"]),
    ("tag.scheme", "\"iobes\"", &["tag"]),
    ("tag.strict", "true", &["tag"]),
    ("answer.n_best", "3", &["answer"]),
    ("answer.max_length", "9", &["answer"]),
    ("answer.null_threshold", "1.0", &["answer"]),
    ("mask.probability", "0.3", &["mask", "next", "order"]),
    ("mask.whole_word", "true", &["mask", "next", "order"]),
    ("mask.by_row", "true", &[]),
    ("permute.probability", "0.2", &["permute"]),
    ("permute.max_span", "3", &["permute"]),
    ("permute.by_row", "true", &[]),
    ("similar.loss", "\"contrastive\"", &["similar"]),
    ("similar.temperature", "0.1", &[]),
    ("similar.label_scale", "5", &["similar"]),
    ("multi.sampling", "\"round_robin\"", &[]),
    ("multi.temperature", "3", &[]),
    (
        "data.split_seed",
        "3",
        &[
            "classify",
            "multilabel",
            "regress",
            "similar",
            "tag",
            "answer",
            "mask",
            "permute",
            "next",
            "order",
        ],
    ),
    (
        "data.on_bad_row",
        "\"skip\"",
        &[
            "classify",
            "multilabel",
            "regress",
            "similar",
            "tag",
            "answer",
            "mask",
            "permute",
            "next",
            "order",
        ],
    ),
];

#[test]
fn a_key_without_an_effect_for_the_task_is_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    for (task, ..) in TASKS {
        let least = format!("task = \"{task}\"\n[model]\npath = \"./base\"\n[data]\ntrain = \"d.csv\"\n");
        for (key, value, tasks) in CASES {
            // Without a pair there is nothing to compare; that is said later.
            let found = warned(dir.path(), &least, &[(key, value)]);
            let expected = usize::from(!tasks.contains(task));
            assert_eq!(found.len(), expected, "{task}: {key} = {value}: {found:?}");
            let named = format!("--set {key}={value}: {key} has no effect");
            assert!(found.iter().all(|w| w.starts_with(&named)), "{task}: {found:?}");
        }
        // What is set to its default changes nothing, and is not worth a word.
        let (whole, _) = Recipe::load_with_warnings(&dir.path().join("r.toml"), &[]).unwrap();
        assert_eq!(warned(dir.path(), &whole.to_toml(true), &[]), [""; 0], "{task}");
    }
}

#[test]
fn keys_that_others_replace_are_warned_about_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let with = |task: &str, lines: &str| {
        format!("task = \"{task}\"\n[model]\npath = \"./base\"\n[data]\ntrain = \"d.csv\"\n{lines}\n")
    };
    for (task, lines, place) in [
        ("classify", "validation = \"v.csv\"\nvalidation_fraction = 0.2", "7:23: data.validation_fraction"),
        ("tag", "test = \"t.conll\"\ntest_fraction = 0.2", "7:17: data.test_fraction"),
        ("regress", "[train]\nepochs = 5\nmax_steps = 9", "7:10: train.epochs"),
        ("classify", "[train]\nbatch_size = 4\nbatch_tokens = 900", "7:14: train.batch_size"),
        ("answer", "validation_fraction = 0\n[train]\neval_every = 5", "8:14: train.eval_every"),
        ("answer", "validation_fraction = 0\n[train]\nbest_metric = \"exact\"", "8:15: train.best_metric"),
        (
            "multilabel",
            "validation_fraction = 0\n[multilabel]\ntune_thresholds = false",
            "8:19: multilabel.tune_thresholds",
        ),
        ("mask", "validation_fraction = 0\nsplit_seed = 4", "7:14: data.split_seed"),
        (
            "similar",
            "pair = \"b\"\n[similar]\nloss = \"contrastive\"\nlabel_scale = 5",
            "9:15: similar.label_scale",
        ),
        ("similar", "pair = \"b\"\n[similar]\ntemperature = 0.5", "8:15: similar.temperature"),
        ("permute", "validation = \"v.csv\"\n[permute]\nby_row = true", "8:10: permute.by_row"),
    ] {
        let found = warned(dir.path(), &with(task, lines), &[]);
        assert_eq!(found.len(), 1, "{lines}: {found:?}");
        assert!(found[0].contains(&format!("r.toml:{place} has no effect")), "{lines}: {found:?}");
    }
    for (task, lines) in [
        ("mask", "validation = \"v.txt\"\n[mask]\nby_row = true"),
        ("similar", "pair = \"b\"\n[similar]\nloss = \"contrastive\"\ntemperature = 0.5"),
        ("classify", "[train]\nload_best = false"),
    ] {
        assert_eq!(warned(dir.path(), &with(task, lines), &[]), [""; 0], "{lines}");
    }
    let seeds = with("classify", "");
    let found = warned(dir.path(), &seeds, &[("seeds", "[1, 2]"), ("seed", "3")]);
    assert!(found.len() == 1 && found[0].contains("seed has no effect"), "{found:?}");
    let flags = [
        ("model.attention", "performer"),
        ("model.attention_dropout", "0.2"),
        ("model.attention_redraw", "9"),
    ];
    let found = warned(dir.path(), &seeds, &flags);
    assert!(found.len() == 1 && found[0].contains("model.attention_dropout has no effect"), "{found:?}");
}

#[test]
fn recipes_that_are_right_are_not_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/sentiment/recipe.toml");
    let (_, warnings) = Recipe::load_with_warnings(Path::new(example), &[]).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    for (train, validation) in [("train.csv", None), ("train.tsv", Some("dev.tsv"))] {
        let separator = if train.ends_with("tsv") { '\t' } else { ',' };
        let rows: String =
            (0..40).map(|i| format!("a text of words{separator}{}\n", ["no", "yes"][i % 2])).collect();
        let text = format!("text{separator}label\n{rows}");
        for name in [Some(train), validation].into_iter().flatten() {
            std::fs::write(dir.path().join(name), &text).unwrap();
        }
        ok("init", tempra(dir.path(), &["init", train, "-o", "made.toml", "--force"]));
        let (_, warnings) = Recipe::load_with_warnings(&dir.path().join("made.toml"), &[]).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

/// Of several tasks the data, loss and section of each are its own recipe's, all else is the top one's; keys
/// elsewhere are named.
#[test]
fn keys_that_several_tasks_do_not_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    std::fs::write(
        dir.path().join("class.toml"),
        recipe("classify", "classify.csv", "stride = 5\n", "class"),
    )
    .unwrap();
    std::fs::write(dir.path().join("tags.toml"), recipe("tag", "tag.conll", "stride = 2\n", "tags")).unwrap();
    let top = "task = \"multi\"\nseed = 5\nthreads = 2\noutput = \"multi\"\n[model]\npath = \"./base\"\n[data]\ntrain = \"x.csv\"\n\
               validation_fraction = 0\n[multi]\nrecipes = [\"class.toml\", \"tags.toml\"]\n[tag]\nstrict = true\n[optim]\nlr = 1e-3\n\
               [train]\nmax_steps = 3\nbatch_size = 4\nsave_every = 3\n";
    let found = warned(dir.path(), top, &[]);
    let keys: Vec<&str> =
        found.iter().map(|w| w.split(": ").nth(1).unwrap().split(' ').next().unwrap()).collect();
    assert_eq!(keys, ["data.train", "data.validation_fraction", "tag.strict"], "{found:?}");
    // They are no contradictions to a task of classes, which this is not.
    for (key, value) in [
        ("data.classes", "[\"no\", \"yes\"]"),
        ("loss.label_smoothing", "0.1"),
        ("regress.standardize", "false"),
    ] {
        let found = warned(dir.path(), top, &[(key, value)]);
        assert!(found.iter().any(|w| w.contains(&format!("{key} has no effect here"))), "{found:?}");
    }
    std::fs::write(dir.path().join("multi.toml"), top).unwrap();
    let said = ok("multi", tempra(dir.path(), &["train", "multi.toml", "--json"]));
    let events: Vec<Value> = said.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let messages: Vec<&str> =
        events.iter().filter(|e| e["event"] == "warning").filter_map(|e| e["message"].as_str()).collect();
    let about = |file: &str, word: &str| messages.iter().any(|m| m.contains(file) && m.contains(word));
    assert!(about("multi.toml", "data.validation_fraction has no effect"), "{messages:?}");
    assert!(about("class.toml", "data.stride has no effect"), "{messages:?}");
    // The cache is one for all. `seed`, `threads`, `model.path`, `optim.lr`, `train.max_steps`, `batch_size`
    // and `save_every` say the same as the top recipe.
    for file in ["class.toml", "tags.toml"] {
        assert!(about(file, "multi.recipes: data.cache, output, train.eval_every\n"), "{messages:?}");
    }
    // What the top recipe's [data] says changes nothing, so the best checkpoint is kept all the same.
    let metrics: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("multi/metrics.json")).unwrap()).unwrap();
    assert!(metrics["best_step"].is_u64(), "{metrics}");
    // By itself the recipe of a task says nothing of the kind.
    let own = std::fs::read_to_string(dir.path().join("tags.toml")).unwrap();
    assert_eq!(warned(dir.path(), &own, &[]), [""; 0]);
}

#[test]
fn runs_that_train_nothing_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    let run = |name: &str, text: String, sets: &[&str]| {
        std::fs::write(dir.path().join(format!("{name}.toml")), text).unwrap();
        let file = format!("{name}.toml");
        let mut args = vec!["train", &file];
        sets.iter().for_each(|s| args.extend(["--set", s]));
        let out = tempra(dir.path(), &args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        (out.status.code(), said, dir.path().join(name))
    };
    // All parameters frozen.
    for (task, file) in [("classify", "classify.csv"), ("mask", "text.txt"), ("tag", "tag.conll")] {
        let all = "model.freeze=[\"bert\", \"classifier\"]";
        let all = if task == "mask" { "model.freeze=[\"bert\", \"cls\"]" } else { all };
        let (code, said, folder) = run(task, recipe(task, file, "", task), &[all]);
        assert_eq!(code, Some(2), "{task}: {said}");
        assert!(said.contains("every parameter is frozen") && said.contains("model.freeze"), "{said}");
        assert!(!folder.join("model").exists());
    }
    // A warm-up longer than the run, whose length follows from the examples: 18 of 24 rows in batches of 4, 5
    // steps an epoch.
    let by_epochs =
        |task: &str, file: &str| recipe(task, file, "", "warm").replace("max_steps = 3", "epochs = 2");
    for (task, file, set) in [
        ("classify", "classify.csv", &["optim.warmup_steps=11"][..]),
        (
            "regress",
            "regress.csv",
            &["optim.schedule=warmup_stable_decay", "optim.warmup_steps=6", "optim.decay_steps=5"],
        ),
    ] {
        let (code, said, folder) = run("warm", by_epochs(task, file), set);
        assert_eq!(code, Some(2), "{said}");
        assert!(
            said.contains("longer than the run") && said.contains("expected: at most 10 steps"),
            "{said}"
        );
        assert!(!folder.join("model").exists());
    }
    let (code, said, _) = run("warm", by_epochs("classify", "classify.csv"), &["optim.warmup_steps=10"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("nothing is trained"), "{said}");
    // One step, which is all warm-up.
    for set in ["optim.warmup_steps=1", "optim.warmup_ratio=0.1"] {
        let (code, said, _) =
            run("one", recipe("tag", "tag.conll", "stride = 4\n", "one"), &["train.max_steps=1", set]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("warning: the learning rate is 0 in every step: nothing is trained"), "{said}");
        std::fs::remove_dir_all(dir.path().join("one")).unwrap();
    }
}

/// Options of the command line that a model has no use for are named; the results are those without them.
#[test]
fn options_without_an_effect_on_the_model_are_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    for (task, file, more) in
        TASKS.iter().filter(|(t, ..)| ["classify", "tag", "answer", "mask", "similar"].contains(t))
    {
        std::fs::write(dir.path().join(format!("{task}.toml")), recipe(task, file, more, task)).unwrap();
        ok(task, tempra(dir.path(), &["train", &format!("{task}.toml"), "-q"]));
    }
    std::fs::write(dir.path().join("masked.csv"), "text,b\nthe [MASK] sat,a dog\n").unwrap();
    std::fs::write(dir.path().join("two.csv"), "text,b,label\nthe cat,a dog,yes\na dog,the cat,no\n")
        .unwrap();
    for (command, task, file, options, idle) in [
        (
            "predict",
            "tag",
            "tag.conll",
            "--pair=b --input-format=csv --format=jsonl",
            "--pair --input-format",
        ),
        ("predict", "answer", "answer.json", "--text=t --pair=b --format=csv", "--text --pair --format"),
        ("predict", "classify", "two.csv", "--text=text --pair=b --format=jsonl --input-format=csv", ""),
        ("predict", "mask", "masked.csv", "--text=text", ""),
        ("eval", "tag", "tag.conll", "--pair=b --label=tag", "--pair"),
        ("eval", "answer", "answer.json", "--text=t --pair=b --label=a", "--text --pair --label"),
        ("eval", "mask", "text.txt", "--pair=b --label=l", "--pair --label"),
        ("eval", "classify", "two.csv", "--pair=b --label=label", ""),
        ("eval", "similar", "similar.csv", "--pair=pair --label=label", ""),
        ("embed", "classify", "two.csv", "--pair=b --head=x", "--pair --head"),
        ("embed", "similar", "similar.csv", "--text=text --pooling=cls", ""),
    ] {
        let model = format!("{task}/model");
        let run = |options: &str| {
            let args: Vec<&str> =
                [command, &model, file, "-q"].into_iter().chain(options.split_whitespace()).collect();
            let out = tempra(dir.path(), &args);
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            (ok(&format!("{args:?}"), out), said)
        };
        let (with, said) = run(options);
        let found: Vec<&str> = said
            .lines()
            .filter_map(|l| l.strip_prefix("warning: ")?.split_once(" has no effect").map(|(name, _)| name))
            .collect();
        assert_eq!(found.join(" "), idle, "{command} {task}: {said}");
        // Without what is idle the result is the same.
        let kept: Vec<&str> =
            options.split_whitespace().filter(|o| !found.contains(&o.split('=').next().unwrap())).collect();
        assert_eq!(run(&kept.join(" ")).0, with, "{command} {task}");
    }
}
