//! Tokenizer folders whose files disagree, against transformers (tests/golden/make_tokenizer_settings.py).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::report_skipped;
use crate::tasks::{ok, recipe, tempra};
use serde_json::{Value, json};
use tempra::error::Kind;
use tempra::text::Tokenizer;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn cases() -> Value {
    let bytes = fs::read(golden().join("tokenizer-settings/cases.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn at<'v>(value: &'v mut Value, path: &str) -> &'v mut Value {
    path.split('.').fold(value, |v, key| match v {
        Value::Array(list) => &mut list[key.parse::<usize>().unwrap()],
        v => &mut v[key],
    })
}

/// The folder of a case: the files of its base, changed as it says.
fn folder(all: &Value, case: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let base = case["base"].as_str().unwrap();
    let without = |name: &str| {
        case["without"].as_array().is_some_and(|list| list.iter().any(|n| n.as_str() == Some(name)))
    };
    let write = |name: &str, v: &Value| fs::write(dir.path().join(name), v.to_string()).unwrap();
    for (name, source) in all["bases"][base][1].as_object().unwrap() {
        fs::copy(golden().join(source.as_str().unwrap()), dir.path().join(name)).unwrap();
    }
    if !without("tokenizer.json") {
        let bytes = fs::read(golden().join(format!("tokenizer-settings/{base}.json"))).unwrap();
        let mut value: Value = serde_json::from_slice(&bytes).unwrap();
        for (path, new) in case["patch"].as_object().into_iter().flatten() {
            *at(&mut value, path) = new.clone();
        }
        for (key, more) in case["append"].as_object().into_iter().flatten() {
            value[key].as_array_mut().unwrap().extend(more.as_array().unwrap().iter().cloned());
        }
        write("tokenizer.json", &value);
    }
    for (name, content) in case["files"].as_object().into_iter().flatten() {
        write(name, content);
    }
    if !case["config"].is_null() {
        write("tokenizer_config.json", &case["config"]);
    }
    let mut model = json!({ "model_type": case.get("model").unwrap_or(&all["bases"][base][0]) });
    for (key, v) in case["model_config"].as_object().into_iter().flatten() {
        model[key] = v.clone();
    }
    write("config.json", &model);
    dir
}

/// What a tokenizer gives, as the cases have it.
fn given(all: &Value, t: &Tokenizer) -> Value {
    let texts: Vec<_> = all["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let encoded: Vec<_> = texts.iter().map(|text| t.encode(text, None, 512).unwrap()).collect();
    let offsets: Vec<Vec<u32>> =
        encoded.iter().map(|e| e.offsets.iter().flat_map(|&(a, b)| [a, b]).collect()).collect();
    let pairs = all["pairs"].as_array().unwrap().iter().map(|p| (p[0].as_str(), p[1].as_str()));
    let pairs: Vec<_> = pairs.map(|(a, b)| t.encode(a.unwrap(), b, 512).unwrap()).collect();
    let cut = t.encode(texts[0], None, all["cut_to"].as_u64().unwrap() as usize).unwrap();
    json!({
        "ids": encoded.iter().map(|e| &e.ids).collect::<Vec<_>>(),
        "offsets": offsets,
        "pair_ids": pairs.iter().map(|e| &e.ids).collect::<Vec<_>>(),
        "pair_types": pairs.iter().map(|e| &e.types).collect::<Vec<_>>(),
        "cut": cut.ids,
    })
}

/// Ids and offsets of every case, from the folder and from what is saved of it.
#[test]
fn settings_are_those_of_transformers() {
    let all = cases();
    let mut wrong = Vec::new();
    let mut compared = 0;
    let folders = tempfile::tempdir().unwrap();
    for (i, case) in all["cases"].as_array().unwrap().iter().enumerate() {
        let name = case["name"].as_str().unwrap();
        let dir = folder(&all, case);
        let opened = Tokenizer::from_dir(dir.path(), 1000);
        if let Some(word) = case["refused"].as_str() {
            match opened {
                Ok(_) => wrong.push(format!("{name}: accepted")),
                Err(e) if e.kind() == Kind::Model && e.to_string().contains(word) => {}
                Err(e) => wrong.push(format!("{name}: does not name {word}: {e}")),
            }
            continue;
        }
        let expected = &all["results"][case["gives"].as_u64().unwrap() as usize];
        let tokenizer = match opened {
            Ok(t) => t,
            Err(e) => {
                wrong.push(format!("{name}: {e}"));
                continue;
            }
        };
        let saved = folders.path().join(i.to_string());
        tokenizer.save(&saved).unwrap();
        fs::copy(dir.path().join("config.json"), saved.join("config.json")).unwrap();
        let again = Tokenizer::from_dir(&saved, 1000).unwrap();
        assert_eq!(again.hash(), tokenizer.hash(), "{name}");
        for (which, t) in [("", &tokenizer), (" saved", &again)] {
            let got = given(&all, t);
            for key in ["ids", "offsets", "pair_ids", "pair_types", "cut"] {
                if got[key] != expected[key] {
                    wrong.push(format!("{name}{which}: {key}\n  {}\n  {}", got[key], expected[key]));
                    break;
                }
            }
            // XLNet is given types unless its files say otherwise, and its saved folders say so.
            let types = case["types"] == true
                || all["bases"][case["base"].as_str().unwrap()][0] == "xlnet"
                    && case["model"].is_null()
                    && case["config"]["model_input_names"].is_null();
            if t.types(&[0, 1])[1] != u32::from(types) {
                wrong.push(format!("{name}{which}: token types given: {}", !types));
            }
            let limit = t.model_max_length().map_or(Value::Null, |n| n.into());
            if limit != case["model_max_length"] {
                wrong.push(format!("{name}{which}: model_max_length {limit}"));
            }
            let mask = t.mask().map_or(Value::Null, |n| n.into());
            let named = &expected["named"]["mask_token"];
            if !named.is_null() && *named != mask {
                wrong.push(format!("{name}{which}: mask {mask}"));
            }
        }
        compared += 1;
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 450, "{compared}");
    let Some(python) = std::env::var_os("TEMPRA_PYTHON").filter(|p| !p.is_empty()) else {
        return report_skipped(
            "not run: check_tokenizer_settings.py; TEMPRA_PYTHON names no python with transformers",
        );
    };
    let script = golden().join("check_tokenizer_settings.py");
    let run = Command::new(python).arg(script).arg(folders.path()).output().expect("python");
    let said = String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned();
    assert!(run.status.success(), "check_tokenizer_settings.py: {said}");
    println!("{said}");
}

/// The program under settings that tokenizer.json contradicts: probabilities of transformers, and again from
/// what it saves.
#[test]
fn predictions_follow_the_settings() {
    let all = cases();
    let rows: Vec<&str> = all["rows"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
    for model in all["models"].as_array().unwrap() {
        let name = model["name"].as_str().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        fs::create_dir(&base).unwrap();
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            fs::copy(golden().join("bert/a").join(file), base.join(file)).unwrap();
        }
        fs::write(base.join("tokenizer_config.json"), model["config"].to_string()).unwrap();
        let second = model["second"].as_str();
        let line = |r: &&str| format!("{}\n", json!({ "text": r, "label": "neutral", "second": second }));
        fs::write(dir.path().join("rows.jsonl"), rows.iter().map(line).collect::<String>()).unwrap();
        let mut args = vec!["predict", "base", "rows.jsonl", "--format", "jsonl", "--device", "cpu"];
        args.extend(second.iter().flat_map(|_| ["--pair", "second"]));
        let said = ok(name, tempra(dir.path(), &args));
        let classes = ["p_negative", "p_neutral", "p_positive"];
        for (line, expected) in said.lines().zip(model["probabilities"].as_array().unwrap()) {
            let line: Value = serde_json::from_str(line).unwrap();
            for (class, p) in classes.iter().zip(expected.as_array().unwrap()) {
                let off = (line[class].as_f64().unwrap() - p.as_f64().unwrap()).abs();
                assert!(off < 1e-5, "{name}: {line} {expected}");
            }
        }
        assert_eq!(said.lines().count(), rows.len());
        // A model that is trained from the folder reads the same ids, and so does its own folder.
        let classes = "classes = [\"negative\", \"neutral\", \"positive\"]\n";
        let recipe = recipe("classify", "rows.jsonl", classes, "run");
        fs::write(dir.path().join("r.toml"), recipe).unwrap();
        ok(name, tempra(dir.path(), &["train", "r.toml", "-q"]));
        let [before, after] = ["base", "run/model"].map(|f| {
            let t = Tokenizer::from_dir(&dir.path().join(f), 200).unwrap();
            rows.iter().map(|r| t.encode(r, second, 40).unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(before, after, "{name}");
    }
}
