//! Steps without a gradient: those that are right train on, those that cannot be right are refused before or
//! named after.

use crate::support::golden;
use crate::tasks::{data, ok, prepared, tempra};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::Path;

fn setting(model: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden(model));
    data(dir.path());
    dir
}

/// A recipe; `sections` come after those that all have.
fn write(dir: &Path, name: &str, task: &str, file: &str, more: &str, train: &str, sections: &str) {
    let text = format!(
        "task = \"{task}\"\nseed = 5\nthreads = 1\noutput = \"{name}\"\n[model]\npath = \"./base\"\n[data]\ntrain = \"{file}\"\n{more}\
         max_length = 14\ncache = false\nvalidation_fraction = 0.0\n[optim]\nlr = 1e-3\n[train]\nlog_every = 1\n{train}\n{sections}\n"
    );
    std::fs::write(dir.join(format!("{name}.toml")), text).unwrap();
}

fn train(dir: &Path, name: &str) -> std::process::Output {
    tempra(dir, &["train", &format!("{name}.toml"), "--json"])
}

/// The message of a run that ends with this exit code.
fn refused(dir: &Path, name: &str, code: i32) -> String {
    let out = train(dir, name);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{name}: {said}{}", String::from_utf8_lossy(&out.stdout));
    said
}

/// The losses in the journal of a run.
fn losses(dir: &Path, name: &str) -> Vec<f64> {
    let journal = std::fs::read_to_string(dir.join(name).join("metrics.jsonl")).unwrap();
    let lines = journal.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    lines.filter_map(|l| l["loss"].as_f64()).collect()
}

/// Batches of one example in which nothing counts: no token is masked, or the class has the weight 0. Their
/// loss is 0, that of the other steps is not.
#[test]
fn steps_in_which_nothing_counts_are_no_fault() {
    let dir = setting("bert/a");
    std::fs::write(
        dir.path().join("short.txt"),
        "the cat\n\na dog\n\nBob went\n\nParis\n\nAlice saw\n\nthe mat\n",
    )
    .unwrap();
    let by_row = "[mask]\nby_row = true";
    write(dir.path(), "mask", "mask", "short.txt", "", "epochs = 12\nbatch_size = 1", by_row);
    let whole = "[mask]\nby_row = true\nwhole_word = true";
    write(dir.path(), "whole", "mask", "short.txt", "", "epochs = 12\nbatch_size = 1", whole);
    let weights = "[loss]\nclass_weights = [0, 1]";
    write(dir.path(), "classify", "classify", "classify.csv", "", "epochs = 1\nbatch_size = 1", weights);
    let tags = "[loss]\nclass_weights = [0, 1, 1]";
    std::fs::write(
        dir.path().join("outside.conll"),
        "the O\ncat O\n\na O\ndog O\n\nsat O\n\non O\n\nBob B-PER\nParis B-LOC\n",
    )
    .unwrap();
    write(dir.path(), "tag", "tag", "outside.conll", "stride = 2\n", "epochs = 6\nbatch_size = 1", tags);
    std::fs::write(dir.path().join("pairs.txt"), "the cat\na dog\nBob\n\nAlice saw\nParis\nin\n\nto\nwho\n")
        .unwrap();
    write(dir.path(), "next", "next", "pairs.txt", "", "epochs = 12\nbatch_size = 1", "");
    for name in ["mask", "whole", "classify", "tag", "next"] {
        ok(name, train(dir.path(), name));
        let losses = losses(dir.path(), name);
        let zero = losses.iter().filter(|l| **l == 0.0).count();
        assert!(zero < losses.len() && (zero > 0 || name == "next"), "{name}: {losses:?}");
    }
}

/// One class, one tag, one pair: the gradient is zero whatever the model.
#[test]
fn what_cannot_be_learnt_is_refused_before_training() {
    let dir = setting("bert/a");
    let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    file("outside.conll", "the O\ncat O\n\na O\ndog O\n");
    file("nouns.jsonl", "{\"tokens\": [\"the\", \"cat\"], \"ner_tags\": [\"NOUN\", \"NOUN\"]}\n");
    file("one.csv", "text,label\nthe cat,yes\na dog,yes\n");
    file("pair.csv", "text,pair\nthe cat,a cat\n");
    let words = ["the", "a", "cat", "dog", "sat", "ran", "house", "Paris"];
    let text = |i: usize| format!("{} {}", words[i % 8], words[(i / 8 + i) % 8]);
    let pairs: String = (0..24).map(|i| format!("{0},in {0}\n", text(i))).collect();
    file("pairs.csv", &format!("text,pair\n{pairs}"));
    let steps = "max_steps = 3\nbatch_size = 1";
    write(dir.path(), "o", "tag", "outside.conll", "stride = 2\n", steps, "");
    let columns = "stride = 2\ntext = \"tokens\"\nlabel = \"ner_tags\"\n";
    write(dir.path(), "pos", "tag", "nouns.jsonl", columns, steps, "[tag]\nscheme = \"none\"");
    write(dir.path(), "class", "classify", "one.csv", "", steps, "");
    for (name, file, found) in [
        ("o", "outside.conll", "found: O"),
        ("pos", "nouns.jsonl", "found: NOUN"),
        ("class", "one.csv", "yes"),
    ] {
        let said = refused(dir.path(), name, 3);
        assert!(said.contains(file) && said.contains("nothing to learn") && said.contains(found), "{said}");
        assert!(!dir.path().join(name).join("metrics.jsonl").exists(), "{name} began to train");
    }
    let weights = "[loss]\nclass_weights = [0, 1]";
    write(dir.path(), "weights", "classify", "one.csv", "classes = [\"yes\", \"no\"]\n", steps, weights);
    let said = refused(dir.path(), "weights", 3);
    assert!(said.contains("class_weights") && said.contains("one.csv"), "{said}");
    // Pairs that have no other pairs beside them: by sequences, by tokens, in all.
    let contrastive = "[similar]\nloss = \"contrastive\"";
    let pair = "pair = \"pair\"\n";
    write(dir.path(), "one", "similar", "pairs.csv", pair, steps, contrastive);
    let said = refused(dir.path(), "one", 2);
    assert!(said.contains("one.toml:") && said.contains("train.batch_size = 1"), "{said}");
    write(dir.path(), "tokens", "similar", "pairs.csv", pair, "max_steps = 3\nbatch_tokens = 4", contrastive);
    write(dir.path(), "single", "similar", "pair.csv", pair, "max_steps = 3\nbatch_size = 8", contrastive);
    for name in ["tokens", "single"] {
        let said = refused(dir.path(), name, 2);
        assert!(said.contains("found: at most 1"), "{said}");
    }
    let multi = "task = \"multi\"\nthreads = 1\noutput = \"multi\"\n[model]\npath = \"./base\"\n[multi]\n\
                 recipes = [\"class2.toml\", \"contrast.toml\"]\n[train]\nmax_steps = 4\nbatch_size = 1\n";
    write(dir.path(), "class2", "classify", "classify.csv", "", "", "");
    write(dir.path(), "contrast", "similar", "pairs.csv", pair, "", contrastive);
    std::fs::write(dir.path().join("multi.toml"), multi).unwrap();
    let said = refused(dir.path(), "multi", 2);
    assert!(said.contains("task contrast"), "{said}");
    // Two pairs a step are enough, also where the last step of an epoch has one.
    write(dir.path(), "two", "similar", "pairs.csv", pair, "epochs = 1\nbatch_size = 23", contrastive);
    ok("two", train(dir.path(), "two"));
}

/// Sets the values of a tensor in a model folder.
fn overwrite(folder: &Path, name: &str, value: f32) {
    let path = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let (from, to) = metadata.info(name).unwrap().data_offsets;
    for at in (from..to).step_by(4) {
        bytes[8 + header + at..][..4].copy_from_slice(&value.to_le_bytes());
    }
    std::fs::write(path, bytes).unwrap();
    let manifest = folder.join("manifest.json");
    if manifest.exists() {
        std::fs::remove_file(manifest).unwrap();
    }
}

/// The ReLU in DistilBERT's head with a bias of -1e6 gives 0 for every text: only the last bias has a
/// gradient. All other parameters are named, and not before they had a chance.
#[test]
fn parameters_without_a_gradient_are_named() {
    let dir = setting("encoders/distilbert");
    write(dir.path(), "first", "classify", "classify.csv", "", "max_steps = 1\nbatch_size = 4", "");
    ok("first", train(dir.path(), "first"));
    let folder = dir.path().join("first/model");
    overwrite(&folder, "pre_classifier.bias", -1e6);
    let from = |name: &str, steps: u32, more: &str| {
        let steps = format!("max_steps = {steps}\nbatch_size = 4");
        write(dir.path(), name, "classify", "classify.csv", "", &steps, more);
        let path = dir.path().join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path).unwrap().replace("./base", "./first/model");
        std::fs::write(path, text).unwrap();
    };
    from("dead", 40, "");
    let said = refused(dir.path(), "dead", 7);
    for name in
        ["pre_classifier.weight", "pre_classifier.bias", "classifier.weight", "word_embeddings.weight"]
    {
        assert!(said.contains(name), "{said}");
    }
    assert!(!said.contains(", classifier.bias"), "{said}");
    let steps = losses(dir.path(), "dead").len();
    assert_eq!(steps, 16, "{said}");
    assert!(!dir.path().join("dead/model").exists());
    // Too few steps to be sure: the run ends, with a warning.
    from("short", 5, "");
    let out = train(dir.path(), "short");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success() && said.contains("\"warning\"") && said.contains("pre_classifier.weight"),
        "{said}"
    );
}

/// No token is ever masked: the run trained nothing, and says so.
#[test]
fn a_run_without_any_gradient_is_no_success() {
    let dir = setting("bert/a");
    std::fs::write(dir.path().join("short.txt"), "cat\n\ndog\n\nBob\n").unwrap();
    let section = "[mask]\nprobability = 1e-9\nby_row = true";
    write(dir.path(), "mask", "mask", "short.txt", "", "epochs = 3\nbatch_size = 2", section);
    let said = refused(dir.path(), "mask", 7);
    assert!(said.contains("nothing was trained"), "{said}");
    assert!(!dir.path().join("mask/model").exists());
}
