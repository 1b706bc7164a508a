//! Labels that a loss cannot mean: they are refused, with the line and a remedy, wherever they are read.

use crate::support::golden;
use crate::tasks::{data, ok, prepared, read, recipe, tempra};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;

const PAIR: &str = "pair = \"pair\"\n";

fn setting() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    dir
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

/// Twelve pairs with the labels that `label` gives them.
fn pairs(label: impl Fn(usize) -> String) -> String {
    let animals = ["cat", "dog", "red cat", "big dog"];
    let row = |i: usize| {
        let (a, b) = (animals[i % 4], animals[i / 4]);
        format!("the {a} sat on the mat,a {b} went to the house,{}\n", label(i))
    };
    format!("text,pair,label\n{}", (0..12).map(row).collect::<String>())
}

fn train(dir: &Path, task: &str, file: &str, more: &str, args: &[&str]) -> Output {
    write(dir, "r.toml", &recipe(task, file, more, "run"));
    tempra(dir, &[&["train", "r.toml", "-q"], args].concat())
}

/// An error with this exit code that says all of `says`.
fn refused(out: &Output, code: i32, says: &[&str]) {
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{said}");
    for words in says {
        assert!(said.contains(words), "{words:?} is missing: {said}");
    }
}

#[test]
fn labels_beyond_a_cosine_are_refused_in_every_file() {
    let dir = setting();
    let dir = dir.path();
    let graded = |i: usize| (i % 6).to_string();
    write(dir, "five.csv", &pairs(graded));
    write(dir, "one.csv", &pairs(|i| format!("{:.1}", (i % 6) as f64 / 5.0)));
    // Row 2 (line 4) is the first above 1.
    let says = [
        "five.csv:4: the label 2 divided by similar.label_scale = 1",
        "found: 2; 8 of 12",
        "set similar.label_scale = 5",
    ];
    refused(&train(dir, "similar", "five.csv", PAIR, &[]), 3, &says);
    for key in ["data.validation", "data.test"] {
        refused(&train(dir, "similar", "one.csv", PAIR, &["--set", &format!("{key}=five.csv")]), 3, &says);
    }
    // Cosine similarities may be negative, and no further.
    write(dir, "minus.csv", &pairs(|i| format!("{}", -(i as f64) / 4.0)));
    let says = ["minus.csv:7", "the label -1.25", "set similar.label_scale = 3 if the largest label, 2.75"];
    refused(&train(dir, "similar", "minus.csv", PAIR, &[]), 3, &says);
    let lines: String = pairs(graded)
        .lines()
        .skip(1)
        .map(|line| {
            let [text, pair, label] = line.split(',').collect::<Vec<_>>()[..] else { panic!("{line}") };
            json!({ "text": text, "pair": pair, "label": label.parse::<u8>().unwrap() }).to_string() + "\n"
        })
        .collect();
    write(dir, "five.jsonl", &lines);
    refused(
        &train(dir, "similar", "five.jsonl", PAIR, &[]),
        3,
        &["five.jsonl:3", "set similar.label_scale = 5"],
    );

    ok("scaled", train(dir, "similar", "five.csv", PAIR, &["--set", "similar.label_scale=5"]));
    // The folder remembers the scale; other labels are refused there too.
    ok("eval", tempra(dir, &["eval", "run/model", "five.csv", "-q"]));
    write(dir, "percent.csv", &pairs(|i| (i * 9).to_string()));
    let says = ["percent.csv:3: the label 9 divided by --label-scale 5", "set --label-scale 99"];
    refused(&tempra(dir, &["eval", "run/model", "percent.csv", "-q"]), 3, &says);
    ok("eval", tempra(dir, &["eval", "run/model", "percent.csv", "-q", "--label-scale", "100"]));
    refused(&tempra(dir, &["eval", "run/model", "five.csv", "-q", "--label", ""]), 2, &["--label is empty"]);

    // A task among several is read the same way.
    write(dir, "c.toml", &recipe("classify", "classify.csv", "", "c"));
    write(dir, "s.toml", &recipe("similar", "five.csv", PAIR, "s"));
    write(
        dir,
        "multi.toml",
        "task = \"multi\"\noutput = \"m\"\n[model]\npath = \"./base\"\n[multi]\nrecipes = [\"c.toml\", \"s.toml\"]\n",
    );
    refused(&tempra(dir, &["train", "multi.toml", "-q"]), 3, &["five.csv:4", "set similar.label_scale = 5"]);
}

#[test]
fn pairs_that_do_not_belong_together_are_not_trained_as_partners() {
    let dir = setting();
    let dir = dir.path();
    let contrastive = ["--set", "similar.loss=contrastive"];
    let all = |more: &[&'static str]| [&contrastive[..], more].concat();
    // Labels of another meaning: every third pair is one of texts that are not alike.
    write(dir, "mixed.csv", &pairs(|i| u8::from(i % 3 != 0).to_string()));
    let says = [
        "mixed.csv:2: the pair has the label \"0\"",
        "4 of 12 rows",
        "data.label = \"\"",
        "similar.loss = \"cosine\"",
    ];
    refused(&train(dir, "similar", "mixed.csv", PAIR, &contrastive), 3, &says);
    for key in ["data.validation=mixed.csv", "data.test=mixed.csv"] {
        write(dir, "good.csv", &pairs(|_| "1".to_owned()));
        refused(&train(dir, "similar", "good.csv", PAIR, &all(&["--set", key])), 3, &says[..1]);
    }
    // What the labels are called does not matter, nor does a grade say that two texts belong together.
    let other = pairs(|i| ["True", "false"][i / 11].to_owned()).replace("label", "same");
    write(dir, "other.csv", &other);
    let named = all(&["--set", "data.label=same"]);
    refused(&train(dir, "similar", "other.csv", PAIR, &named), 3, &["other.csv:13", "\"false\"; 1 of 12"]);
    write(dir, "graded.csv", &pairs(|i| format!("{}", 4.0 + i as f64 / 12.0)));
    refused(&train(dir, "similar", "graded.csv", PAIR, &contrastive), 3, &["graded.csv:2", "\"4\""]);
    // A column that was named must be there; rows of JSON may have a label or none.
    refused(&train(dir, "similar", "good.csv", PAIR, &named), 3, &["no column \"same\""]);
    let row = |i: usize| {
        let (a, b) = (["cat", "dog", "mat", "house"][i % 4], ["Alice", "Bob", "Paris"][i / 4]);
        json!({ "text": format!("the {a} {b}"), "pair": format!("a {b} and {a}") })
    };
    let mut rows: Vec<Value> = (0..12).map(row).collect();
    let text = |rows: &[Value]| rows.iter().map(|r| format!("{r}\n")).collect::<String>();
    write(dir, "pairs.jsonl", &text(&rows));
    rows[7]["label"] = json!(false);
    write(dir, "false.jsonl", &text(&rows));
    refused(&train(dir, "similar", "false.jsonl", PAIR, &contrastive), 3, &["false.jsonl:8", "\"false\""]);

    // Without a label, with labels that say so, and with a column that means something else.
    ok("pairs", train(dir, "similar", "pairs.jsonl", PAIR, &contrastive));
    ok("good", train(dir, "similar", "good.csv", PAIR, &all(&["--fresh"])));
    let said =
        ok("mixed", train(dir, "similar", "mixed.csv", PAIR, &all(&["--fresh", "--set", "data.label=\"\""])));
    let metrics = read(&dir.join("run/metrics.json"));
    assert!(metrics["mrr"].is_number(), "{said}{metrics}");
    // The folder is scored as it was trained, also by `eval`; the labels count where they are asked for.
    let eval = |args: &[&str]| -> Value {
        let out = tempra(dir, &[&["eval", "run/model", "mixed.csv", "-q", "--json"], args].concat());
        serde_json::from_str(&ok("eval", out)).unwrap()
    };
    assert!(eval(&[])["scores"]["mrr"].is_number());
    let cosine = eval(&["--label", "label", "--label-scale", "1"]);
    assert!(cosine["scores"]["spearman"].is_number() && cosine["scores"]["mrr"].is_null(), "{cosine}");
    refused(
        &tempra(dir, &["eval", "run/model", "mixed.csv", "--label", "label"]),
        3,
        &["mixed.csv:2", "--label-scale"],
    );
    refused(
        &train(dir, "similar", "one.csv", PAIR, &["--set", "data.label=\"\""]),
        2,
        &["data.label is empty"],
    );
}

#[test]
fn numbers_that_are_no_numbers_and_classes_that_are_amounts_are_refused() {
    let dir = setting();
    let dir = dir.path();
    for (label, says) in [
        ("nan", "not a finite number"),
        ("-inf", "not a finite number"),
        ("1e999", "not a finite number"),
        ("4e38", "too large for a 32-bit float"),
        ("3,5", "text.csv:2"),
    ] {
        write(dir, "text.csv", &format!("text,label\nthe cat,\"{label}\"\na dog,2\n"));
        refused(&train(dir, "regress", "text.csv", "", &[]), 3, &["text.csv:2", says]);
        write(dir, "both.csv", &format!("text,pair,label\nthe cat,a dog,\"{label}\"\na dog,a cat,1\n"));
        refused(&train(dir, "similar", "both.csv", PAIR, &[]), 3, &["both.csv:2"]);
    }
    // Amounts, few enough to be taken for classes.
    let rows: String = (0..20).map(|i| format!("the cat sat {i},{}\n", i as f64 * 0.37)).collect();
    write(dir, "amounts.csv", &format!("text,label\n{rows}"));
    refused(
        &train(dir, "classify", "amounts.csv", "", &[]),
        3,
        &["20 different labels in 20 rows", "task = \"regress\""],
    );
}
