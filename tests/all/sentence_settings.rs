//! Settings of folders of sentence-transformers: applied as it applies them, or refused by name
//! (tests/golden/make_sentence.py).

use crate::support::{golden, json, report_skipped};
use crate::tasks::{ok, read, recipe, tempra};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The folder `base` of a case.
fn folder(case: &Value, dir: &Path) {
    let base = dir.join("base");
    let inner = base.join(case["at"].as_str().unwrap());
    fs::create_dir_all(&inner).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(golden("bert/a").join(name), inner.join(name)).unwrap();
    }
    for (path, content) in case["files"].as_object().unwrap() {
        let path = base.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content.to_string()).unwrap();
    }
}

fn texts(all: &Value, dir: &Path) {
    let lines = all["texts"].as_array().unwrap().iter().map(|t| format!("{}\n", json!({ "text": t })));
    fs::write(dir.join("texts.jsonl"), lines.collect::<String>()).unwrap();
}

fn embedded(dir: &Path, args: &[&str]) -> Vec<Vec<f64>> {
    let args: Vec<&str> = ["embed"].iter().chain(args).chain(&["-q"]).copied().collect();
    let said = ok("embed", tempra(dir, &args));
    let vector = |line: &str| -> Vec<f64> {
        let value: Value = serde_json::from_str(line).unwrap();
        value["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    said.lines().map(vector).collect()
}

fn max_difference(ours: &[Vec<f64>], theirs: &Value) -> f64 {
    let theirs: Vec<Vec<f64>> = serde_json::from_value(theirs.clone()).unwrap();
    assert_eq!(ours.len(), theirs.len());
    let pairs = ours.iter().flatten().zip(theirs.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn settings_are_those_of_sentence_transformers() {
    let all = json(&golden("sentence.json"));
    let mut wrong = Vec::new();
    for case in all["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let dir = tempfile::tempdir().unwrap();
        folder(case, dir.path());
        texts(&all, dir.path());
        if let Some(word) = case["refused"].as_str() {
            let out = tempra(dir.path(), &["embed", "base", "texts.jsonl", "-q"]);
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            if out.status.code() != Some(4) || !said.contains(word) {
                wrong.push(format!("{name}: {:?} {said}", out.status.code()));
            }
            continue;
        }
        let off = max_difference(&embedded(dir.path(), &["base", "texts.jsonl"]), &case["vectors"]);
        if off.is_nan() || off > 2e-6 {
            wrong.push(format!("{name}: off by {off:e}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A run of `similar` from such a folder: what is done to texts and vectors stays, in the files and in every
/// command.
#[test]
fn similar_goes_on_from_such_a_folder() {
    let all = json(&golden("sentence.json"));
    let case =
        |name: &str| all["cases"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap().clone();
    let mut saved = Vec::new();
    for name in ["lower case and a prompt", "the old layout, lower case", "cls without normalisation"] {
        let case = case(name);
        let dir = tempfile::tempdir().unwrap();
        folder(&case, dir.path());
        texts(&all, dir.path());
        let pairs =
            ["GOOD food,good FOOD", "bad place,NICE film", "the Story,a story", "very bad,It is Nice"];
        // Labels of their own: a validation file of one label has no correlation.
        let labelled = pairs.iter().cycle().take(12).enumerate();
        let rows: String = labelled.map(|(i, row)| format!("{row} {i},{}\n", i as f64 / 12.0)).collect();
        fs::write(dir.path().join("pairs.csv"), format!("text,pair,label\n{rows}")).unwrap();
        let more = "pair = \"pair\"\n";
        fs::write(dir.path().join("r.toml"), recipe("similar", "pairs.csv", more, "run")).unwrap();
        ok(name, tempra(dir.path(), &["train", "r.toml", "-q"]));
        let model = dir.path().join("run/model");
        let lower = name.contains("lower case");
        assert_eq!(read(&model.join("sentence_bert_config.json"))["do_lower_case"], lower, "{name}");
        let modules = read(&model.join("modules.json")).as_array().unwrap().len();
        let normalised = case["files"]["modules.json"].as_array().unwrap().len() == 3;
        assert_eq!(modules, if normalised { 3 } else { 2 }, "{name}");
        let cls = case["files"]["1_Pooling/config.json"]["pooling_mode_cls_token"].clone();
        assert_eq!(read(&model.join("1_Pooling/config.json"))["pooling_mode_cls_token"], cls, "{name}");
        let about = read(&model.join("config_sentence_transformers.json"));
        let before = &case["files"]["config_sentence_transformers.json"];
        assert_eq!(about["default_prompt_name"], before["default_prompt_name"], "{name}");
        // Every command has the same vectors.
        let vectors = embedded(dir.path(), &["run/model", "texts.jsonl"]);
        let table = fs::read_to_string(dir.path().join("pairs.csv")).unwrap();
        let column = |i: usize| table.lines().skip(1).map(move |r| r.split(',').nth(i).unwrap().to_owned());
        let unit = [0, 1].map(|i| {
            let side: String = column(i).map(|t| format!("{}\n", json!({ "text": t }))).collect();
            fs::write(dir.path().join("side.jsonl"), side).unwrap();
            embedded(dir.path(), &["run/model", "side.jsonl", "--normalize"])
        });
        let cosines =
            unit[0].iter().zip(&unit[1]).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>());
        let errors: Vec<f64> =
            cosines.zip(column(2)).map(|(c, l)| (c - l.parse::<f64>().unwrap()).powi(2)).collect();
        let mse = errors.iter().sum::<f64>() / errors.len() as f64;
        let said = ok("eval", tempra(dir.path(), &["eval", "run/model", "pairs.csv", "--json", "-q"]));
        let found: Value = serde_json::from_str(&said).unwrap();
        let theirs = found["scores"]["mse"].as_f64().unwrap_or_else(|| panic!("{found}"));
        assert!((theirs - mse).abs() < 1e-5, "{name}: {found}, {mse}");
        fs::write(
            model.join("vectors.json"),
            json!({ "texts": all["texts"], "vectors": vectors }).to_string(),
        )
        .unwrap();
        saved.push((dir, model));
    }
    let Some(python) = std::env::var_os("TEMPRA_PYTHON").filter(|p| !p.is_empty()) else {
        return report_skipped(
            "not run: check_sentence.py; TEMPRA_PYTHON names no python with sentence-transformers",
        );
    };
    let folders = saved.iter().map(|(_, model)| model);
    let run = Command::new(python).arg(golden("check_sentence.py")).args(folders).output().expect("python");
    let said = String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned();
    assert!(run.status.code() == Some(3) || run.status.success(), "check_sentence.py: {said}");
    println!("{said}");
}

/// Tasks that share their tokens cannot have them changed for one of them; other commands open the old layout
/// too.
#[test]
fn tasks_that_share_tokens_refuse_lower_case_for_vectors() {
    let all = json(&golden("sentence.json"));
    let dir = tempfile::tempdir().unwrap();
    let case =
        all["cases"].as_array().unwrap().iter().find(|c| c["name"] == "the old layout, lower case").unwrap();
    folder(case, dir.path());
    fs::write(
        dir.path().join("pairs.csv"),
        "text,pair,label\ngood,bad,0\ngood,nice,1\nbad,bad,1\na,the,0.5\n",
    )
    .unwrap();
    fs::write(dir.path().join("rows.csv"), "text,label\ngood,yes\nbad,no\nnice,yes\na bad film,no\n")
        .unwrap();
    fs::write(dir.path().join("s.toml"), recipe("similar", "pairs.csv", "pair = \"pair\"\n", "s")).unwrap();
    fs::write(dir.path().join("c.toml"), recipe("classify", "rows.csv", "", "c")).unwrap();
    let multi = "task = \"multi\"\nthreads = 2\noutput = \"m\"\n[model]\npath = \"./base\"\n[multi]\nrecipes = [\"s.toml\", \"c.toml\"]\n\
                 [data]\nmax_length = 14\n[train]\nepochs = 1\nbatch_size = 4\n";
    fs::write(dir.path().join("m.toml"), multi).unwrap();
    let out = tempra(dir.path(), &["train", "m.toml", "-q"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("do_lower_case"), "{said}");
    // A classifier reads texts as transformers does, whatever is done for vectors.
    ok("classify", tempra(dir.path(), &["train", "c.toml", "-q"]));
    assert!(!dir.path().join("c/model/modules.json").exists());
    ok("check", tempra(dir.path(), &["data", "check", "pairs.csv", "--model", "base"]));
    ok("init", tempra(dir.path(), &["init", "pairs.csv", "--model", "base", "-o", "new.toml"]));
}
