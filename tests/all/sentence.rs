//! Folders of sentence-transformers: ours open there with the same vectors, theirs say how vectors are
//! pooled.

use crate::support::{golden, report_skipped};
use crate::tasks::{data, ok, prepared, read, recipe, tempra};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// How transformers opens the tokenizer of the small models.
fn tokenizer_config(base: &Path) {
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]",
        "sep_token": "[SEP]", "mask_token": "[MASK]", "model_max_length": 512,
    });
    std::fs::write(base.join("tokenizer_config.json"), config.to_string()).unwrap();
}

fn vectors(dir: &Path, model: &str, more: &[&str]) -> Vec<Vec<f64>> {
    let args: Vec<&str> = ["embed", model, "texts.csv", "-q"].iter().chain(more).copied().collect();
    let said = ok("embed", tempra(dir, &args));
    let row = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        value["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    said.lines().map(row).collect()
}

/// The furthest two numbers.
fn max_difference(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Texts of every length, the longest beyond what the model was trained with.
const TEXTS: [&str; 4] = [
    "the cat",
    "Alice went to Paris and saw the big red house",
    "dog",
    "the cat sat on the mat and the dog ran to the house and Bob saw the big red mat in the house",
];

#[test]
fn vectors_open_in_sentence_transformers() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    tokenizer_config(&dir.path().join("base"));
    data(dir.path());
    std::fs::write(dir.path().join("texts.csv"), format!("text\n{}\n", TEXTS.join("\n"))).unwrap();
    let mut folders = Vec::new();
    for pooling in ["mean", "cls"] {
        let text = recipe("similar", "similar.csv", "pair = \"pair\"\n", pooling);
        std::fs::write(dir.path().join("similar.toml"), text).unwrap();
        let set = format!("model.pooling={pooling}");
        ok(pooling, tempra(dir.path(), &["train", "similar.toml", "-q", "--set", &set]));
        let folder = dir.path().join(pooling).join("model");
        let modules = read(&folder.join("modules.json"));
        let kinds: Vec<_> = modules.as_array().unwrap().iter().map(|m| m["type"].as_str().unwrap()).collect();
        assert_eq!(
            kinds,
            ["Transformer", "Pooling", "Normalize"].map(|k| format!("sentence_transformers.models.{k}"))
        );
        let pool = read(&folder.join("1_Pooling/config.json"));
        assert_eq!(pool["pooling_mode_cls_token"], pooling == "cls");
        assert_eq!(pool["pooling_mode_mean_tokens"], pooling == "mean");
        assert_eq!(read(&folder.join("sentence_bert_config.json"))["max_seq_length"], 14);
        let ours = vectors(dir.path(), &format!("{pooling}/model"), &[]);
        std::fs::write(folder.join("vectors.json"), json!({ "texts": TEXTS, "vectors": ours }).to_string())
            .unwrap();
        folders.push(folder);
    }
    // What gives no vectors is no such folder.
    std::fs::write(dir.path().join("c.toml"), recipe("classify", "classify.csv", "", "c")).unwrap();
    ok("classify", tempra(dir.path(), &["train", "c.toml", "-q"]));
    assert!(!dir.path().join("c/model/modules.json").exists());

    let Some(python) = std::env::var_os("TEMPRA_PYTHON").filter(|p| !p.is_empty()) else {
        return report_skipped(
            "not run: check_sentence.py; TEMPRA_PYTHON names no python with sentence-transformers",
        );
    };
    let run = Command::new(python).arg(golden("check_sentence.py")).args(folders).output().expect("python");
    let said = String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned();
    if run.status.code() == Some(3) {
        return report_skipped(&format!("not run: check_sentence.py: {}", said.trim()));
    }
    assert!(run.status.success(), "check_sentence.py: {said}");
    println!("{said}");
}

#[test]
fn folders_of_sentence_transformers_say_how_vectors_are_pooled() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    std::fs::write(dir.path().join("texts.csv"), format!("text\n{}\n", TEXTS.join("\n"))).unwrap();
    let base = dir.path().join("base");
    let plain = vectors(dir.path(), "base", &[]);
    let [mean, cls] = ["mean", "cls"].map(|p| vectors(dir.path(), "base", &["--pooling", p]));
    assert_eq!(plain, mean);
    assert!(max_difference(&mean, &cls) > 1e-3);

    let module = |path: &str, kind: &str| json!({ "idx": 0, "name": "0", "path": path, "type": kind });
    let write = |modules: Value, pooling: Value| {
        std::fs::write(base.join("modules.json"), modules.to_string()).unwrap();
        std::fs::create_dir_all(base.join("pool")).unwrap();
        std::fs::write(base.join("pool/config.json"), pooling.to_string()).unwrap();
    };
    let two = || {
        json!([
            module("", "sentence_transformers.models.Transformer"),
            module("pool", "sentence_transformers.models.Pooling"),
            module("", "sentence_transformers.models.Normalize")
        ])
    };
    // By the keys of old versions and by that of new ones.
    let old = json!({ "word_embedding_dimension": 32, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false });
    for pooling in [old, json!({ "embedding_dimension": 32, "pooling_mode": "cls" })] {
        write(two(), pooling);
        assert_eq!(vectors(dir.path(), "base", &[]), cls);
        assert_eq!(vectors(dir.path(), "base", &["--pooling", "mean"]), mean, "what is asked for goes first");
    }
    write(two(), json!({ "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true }));
    assert_eq!(vectors(dir.path(), "base", &[]), mean);
    // The longest text is what the folder says.
    std::fs::write(base.join("sentence_bert_config.json"), r#"{"max_seq_length": 6}"#).unwrap();
    assert_eq!(vectors(dir.path(), "base", &[]), vectors(dir.path(), "base", &["--max-length", "6"]));
    assert!(max_difference(&vectors(dir.path(), "base", &[]), &mean) > 1e-3);

    let refused = |says: &str| {
        let out = tempra(dir.path(), &["embed", "base", "texts.csv", "-q"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(4), "{said}");
        assert!(said.contains(says) && said.contains("--pooling"), "{said}");
    };
    write(two(), json!({ "pooling_mode_max_tokens": true }));
    refused("found: max");
    write(two(), json!({ "pooling_mode": ["cls", "mean"] }));
    refused("found: cls and mean");
    write(two(), json!({ "pooling_mode": "lasttoken" }));
    refused("found: lasttoken");
    let mut dense = two();
    dense.as_array_mut().unwrap().push(module("2_Dense", "sentence_transformers.models.Dense"));
    write(dense, json!({ "pooling_mode": "mean" }));
    refused("found: Dense");
}

/// A name of a format that vectors are not written in is refused before anything is read.
#[test]
fn vectors_are_written_in_the_format_of_the_name_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["vectors.csv", "vectors.TSV", "vectors.parquet"] {
        let output = tempra(dir.path(), &["embed", "nowhere", "texts.csv", "-o", name]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("vectors are not written as") && said.contains(".npy"), "{said}");
        assert!(!dir.path().join(name).exists());
    }
}
