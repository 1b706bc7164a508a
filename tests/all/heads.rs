//! Folders as transformers and sentence-transformers save them (`tests/golden/heads`): what the head means is
//! read from config.json as they read it, and predictions are theirs.

use crate::cli::{fine, program, refused, stderr, str};
use crate::support::{cpu, golden, json, number, numbers, open};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::{TempDir, tempdir};
use tempra::models::{Model, Options, Outputs};

/// A copy of a folder, with the tokenizer that all of them have.
fn copied(name: &str, change: impl FnOnce(&mut Value)) -> TempDir {
    let (from, to) = (golden("heads").join(name), tempdir().expect("a folder"));
    for entry in std::fs::read_dir(&from).expect("a folder").flatten() {
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).expect("copied");
    }
    std::fs::copy(golden("heads/tokenizer.json"), to.path().join("tokenizer.json")).expect("copied");
    // Whole words, which no class of tokenizers of its own has.
    let class = json!({ "tokenizer_class": "PreTrainedTokenizerFast" });
    std::fs::write(to.path().join("tokenizer_config.json"), class.to_string()).expect("written");
    let mut config = json(&from.join("config.json"));
    change(&mut config);
    std::fs::write(to.path().join("config.json"), config.to_string()).expect("written");
    to
}

fn folders() -> Vec<(String, Value)> {
    let all = std::fs::read_dir(golden("heads")).expect("a folder").flatten().filter(|e| e.path().is_dir());
    let mut all: Vec<_> = all
        .map(|e| (e.file_name().to_string_lossy().into_owned(), json(&e.path().join("fixture.json"))))
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(all.len() > 40, "{}", all.len());
    all
}

fn strings(v: &Value) -> Vec<String> {
    serde_json::from_value(v.clone()).expect("strings")
}

fn predict(dir: &Path, input: &str, more: &[&str]) -> Output {
    let file = dir.join("input.csv");
    std::fs::write(&file, input).expect("written");
    program(dir, &[&["predict", str(dir), str(&file)], more].concat()).output().expect("run")
}

/// The rows of JSON Lines that `predict` prints.
fn rows(out: &Output) -> Vec<Value> {
    fine(out).lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
}

fn near(what: &str, found: f64, expected: f64) {
    assert!((found - expected).abs() < 2e-6, "{what}: {found}, not {expected}");
}

#[test]
fn predictions_of_classifiers_are_those_of_transformers() {
    let jsonl = ["--format", "jsonl"];
    for (name, fixture) in folders().iter().filter(|(n, _)| !n.contains("-tags") && !n.contains("cross")) {
        let dir = copied(name, |_| {});
        let texts = strings(&fixture["texts"]);
        let out = predict(dir.path(), &format!("text\n{}\n", texts.join("\n")), &jsonl);
        let labels = strings(&fixture["labels"]);
        let found = rows(&out);
        assert_eq!(found.len(), texts.len(), "{name}");
        for (row, expected) in found.iter().zip(fixture["predictions"].as_array().expect("rows")) {
            let expected = numbers(expected);
            if name.ends_with("-one") || name.ends_with("-number") {
                near(name, number(&row["prediction"]), expected[0]);
                assert!(row.get("label").is_none(), "{name}: {row}");
                continue;
            }
            for (label, p) in labels.iter().zip(&expected) {
                near(name, number(&row[format!("p_{label}")]), *p);
            }
            if name.contains("-label") {
                let above = labels.iter().zip(&expected).filter(|(_, p)| **p > 0.5);
                let above: Vec<&str> = above.map(|(l, _)| l.as_str()).collect();
                assert_eq!(row["labels"], above.join(","), "{name}");
            } else {
                let best = (0..expected.len()).max_by(|&a, &b| expected[a].total_cmp(&expected[b]));
                assert_eq!(row["label"], labels[best.expect("classes")].as_str(), "{name}");
            }
        }
        // One output of which nothing says what it means is a number, and that is said.
        assert_eq!(stderr(&out).contains("sigmoid"), name.ends_with("-one"), "{name}: {}", stderr(&out));
    }
}

#[test]
fn taggers_have_the_names_of_transformers() {
    for (name, fixture) in folders().iter().filter(|(n, _)| n.contains("-tags")) {
        let dir = copied(name, |_| {});
        let (model, report) = open(&cpu(1), dir.path(), &Options::default());
        let labels = strings(&fixture["labels"]);
        assert_eq!(model.outputs, Outputs::Tags(labels.clone()), "{name}");
        assert!(report.warnings.is_empty() && report.unused.is_empty(), "{name}: {report}");
        let texts = strings(&fixture["texts"]);
        let conll: String = texts.iter().map(|t| format!("{}\n\n", t.replace(' ', "\n"))).collect();
        let file = dir.path().join("input.conll");
        std::fs::write(&file, conll).expect("written");
        let out = program(dir.path(), &["predict", str(dir.path()), str(&file)]).output().expect("run");
        let said = fine(&out);
        let found: Vec<&str> = said.lines().filter_map(|l| l.split_once('\t')).map(|(_, tag)| tag).collect();
        let best = |row: &Value| -> String {
            let row = numbers(row);
            let best = (0..row.len()).fold(0, |b, i| if row[i] > row[b] { i } else { b });
            labels[best].clone()
        };
        let words =
            fixture["logits"].as_array().expect("texts").iter().flat_map(|t| t.as_array().expect("words"));
        assert_eq!(found, words.map(best).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn cross_encoders_give_what_sentence_transformers_gives() {
    let pair = |fixture: &Value| -> String {
        let rows = strings(&fixture["texts"]).into_iter().zip(strings(&fixture["pairs"]));
        let rows: String = rows.map(|(a, b)| format!("{a},{b}\n")).collect();
        format!("text,second\n{rows}")
    };
    let more = ["--pair", "second", "--format", "jsonl"];
    let old = "sbert_ce_default_activation_function";
    let sigmoid = json!("torch.nn.modules.activation.Sigmoid");
    let identity = json!("torch.nn.modules.linear.Identity");
    let moved = |dir: &TempDir| std::fs::remove_file(dir.path().join("config_sentence_transformers.json"));
    // As version 6 writes them; as 4 and 5 did, in config.json; as before.
    for (name, value) in [("cross-sigmoid", &sigmoid), ("cross-identity", &identity)] {
        let fixture = json(&golden("heads").join(name).join("fixture.json"));
        let as_six = copied(name, |_| {});
        let as_five = copied(name, |c| {
            c["sentence_transformers"] = json!({ "activation_fn": value, "version": "4.0.1" })
        });
        let as_three = copied(name, |c| c[old] = value.clone());
        moved(&as_five).and(moved(&as_three)).expect("removed");
        for dir in [as_six, as_five, as_three] {
            let out = predict(dir.path(), &pair(&fixture), &more);
            for (row, expected) in rows(&out).iter().zip(numbers(&fixture["activated"])) {
                near(name, number(&row["prediction"]), expected);
            }
            assert!(!stderr(&out).contains("warning"), "{}", stderr(&out));
        }
    }
    let fixture = json(&golden("heads/cross-sigmoid/fixture.json"));
    let other = copied("bert-one", |c| c[old] = json!("torch.nn.modules.activation.Tanh"));
    assert!(refused(&predict(other.path(), &pair(&fixture), &more), 4).contains("activation.Tanh"));

    // Evaluated, the number is the one that is predicted: the mean absolute error to 1 by the reference's own
    // numbers.
    let dir = copied("cross-sigmoid", |_| {});
    let labelled = pair(&fixture).replace("second\n", "second,label\n").replace("good\n", "good,1\n");
    let file = dir.path().join("labelled.csv");
    std::fs::write(&file, labelled).expect("written");
    let out =
        program(dir.path(), &["eval", str(dir.path()), str(&file), "--pair", "second", "--json"]).output();
    let scores: Value = serde_json::from_str(&fine(&out.expect("run"))).expect("JSON");
    let truth = numbers(&fixture["activated"]);
    near(
        "mae",
        number(&scores["scores"]["mae"]),
        truth.iter().map(|p| 1.0 - p).sum::<f64>() / truth.len() as f64,
    );

    // Trained on as a regression it has no sigmoid, and its row meant something else.
    let options = Options { outputs: Some(Outputs::Number), ..Options::default() };
    let device = cpu(1);
    let (model, report) = open(&device, dir.path(), &options);
    assert!(!model.sigmoid() && report.initialised == ["classifier.weight", "classifier.bias"], "{report}");
    let plain = copied("cross-identity", |_| {});
    assert!(open(&device, plain.path(), &options).1.initialised.is_empty());
    // What is saved is a regression for everybody: nothing of the cross-encoder is left in its config.
    let older = copied("cross-sigmoid", |c| {
        c["sentence_transformers"] = json!({ "activation_fn": sigmoid });
        c[old] = sigmoid.clone();
    });
    let (model, _) = open(&device, older.path(), &options);
    let place = tempdir().expect("a folder");
    let to = place.path().join("saved");
    let files = model.files(&device).expect("files");
    tempra::checkpoint::write_dir(&tempra::checkpoint::RealFs, &to, &files).expect("written");
    let config = json(&to.join("config.json"));
    assert!(config.get(old).is_none() && config.get("sentence_transformers").is_none(), "{config}");
    assert_eq!(config["problem_type"], "regression");
}

/// Configs that transformers refuses or that mean nothing here, and some that only look odd.
#[test]
fn what_a_head_means_is_never_guessed() {
    let refuse = |name: &str, change: &dyn Fn(&mut Value), words: &[&str]| {
        let dir = copied(name, change);
        let Err(e) = Model::open(&cpu(1), dir.path(), &Options::default()) else {
            panic!("{name} was opened")
        };
        let e = e.to_string();
        words.iter().for_each(|w| assert!(e.contains(w), "{name}: {e} lacks {w}"));
    };
    refuse(
        "bert-one",
        &|c| c["problem_type"] = json!("single_label_classification"),
        &["single class", "single_label"],
    );
    refuse("bert-named", &|c| c["problem_type"] = json!("regression"), &["several outputs", "3"]);
    refuse("bert-two", &|c| c["num_labels"] = json!(3), &["classifier.weight", "[3, 8]", "[2, 8]"]);
    refuse(
        "bert-two",
        &|c| c["architectures"] = json!(["BertForMultipleChoice"]),
        &["BertForMultipleChoice"],
    );
    refuse("bert-two", &|c| c["architectures"] = json!(["BertForNextSentencePrediction"]), &["head"]);

    let outputs = |name: &str, change: &dyn Fn(&mut Value)| {
        let dir = copied(name, change);
        let (model, report) = open(&cpu(1), dir.path(), &Options::default());
        (model.outputs, report.warnings)
    };
    let numbers = json!({ "0": 0, "1": 1, "2": 2 });
    let (found, warnings) = outputs("bert-named", &|c| c["id2label"] = numbers.clone());
    assert_eq!(found, Outputs::Classes(["0", "1", "2"].map(str::to_owned).to_vec()));
    assert!(warnings.is_empty());
    // transformers uses id2label; that label2id says otherwise is worth a word. Leftover defaults do not
    // contradict.
    let (_, warnings) = outputs("bert-named", &|c| c["label2id"] = json!({ "bad": 2, "fair": 1, "good": 0 }));
    assert!(warnings.len() == 1 && warnings[0].contains("label2id"), "{warnings:?}");
    let (_, warnings) =
        outputs("bert-named", &|c| c["label2id"] = json!({ "LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2 }));
    assert!(warnings.is_empty(), "{warnings:?}");
}

/// Data that has numbers where the model has the default names of transformers.
#[test]
fn numbers_are_labels_of_a_model_without_names() {
    let eval = |dir: &Path, file: PathBuf| -> Output {
        program(dir, &["eval", str(dir), str(&file), "--json", "-q"]).output().expect("run")
    };
    let dir = copied("roberta-two", |_| {});
    let fixture = json(&golden("heads/roberta-two/fixture.json"));
    let texts = strings(&fixture["texts"]);
    let best: Vec<usize> = fixture["logits"]
        .as_array()
        .expect("rows")
        .iter()
        .map(numbers)
        .map(|r| usize::from(r[1] > r[0]))
        .collect();
    for prefix in ["", "LABEL_"] {
        let rows: String = texts.iter().zip(&best).map(|(t, b)| format!("{t},{prefix}{b}\n")).collect();
        let other: String =
            texts.iter().zip(&best).map(|(t, b)| format!("{t},{prefix}{}\n", 1 - b)).collect();
        for (rows, accuracy) in [(rows, 1.0), (other, 0.0)] {
            let file = dir.path().join("eval.csv");
            std::fs::write(&file, format!("text,label\n{rows}")).expect("written");
            let found: Value = serde_json::from_str(&fine(&eval(dir.path(), file))).expect("JSON");
            assert_eq!(number(&found["scores"]["accuracy"]), accuracy, "{prefix:?}");
        }
    }
    let file = dir.path().join("wrong.csv");
    std::fs::write(&file, "text,label\ngood,2\n").expect("written");
    assert!(refused(&eval(dir.path(), file), 3).contains("the model has no class"));
}

/// Two classes of one name: predictions have it, but no label says which of them is right.
#[test]
fn classes_of_one_name_cannot_be_scored() {
    let twice = json!({ "0": "bad", "1": "good", "2": "good" });
    let dir = copied("bert-named", |c| c["id2label"] = twice.clone());
    assert_eq!(rows(&predict(dir.path(), "text\ngood\n", &["--format", "jsonl"])).len(), 1);
    let file = dir.path().join("eval.csv");
    std::fs::write(&file, "text,label\ngood,good\n").expect("written");
    let out = program(dir.path(), &["eval", str(dir.path()), str(&file)]).output().expect("run");
    assert!(refused(&out, 4).contains("two classes"));
}
