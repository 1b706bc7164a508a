//! Layouts of labelled data beside one table with one label column. Expected rows, lines and columns are read off the files by hand.

use crate::support::golden;
use crate::tasks::{ok, prepared, read as read_json, recipe, tempra};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempra::data::*;
use tempra::error::Kind;

fn written(name: &str, content: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    (dir, path)
}
fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}
fn columns(text: &str, label: Option<&str>) -> Columns {
    Columns { text: text.into(), pair: None, label: label.map(str::to_owned) }
}

fn indicators(name: &str, content: &str) -> tempra::error::Result<(Table, Vec<Vec<u32>>)> {
    let (_dir, path) = written(name, content);
    read_with_indicators(&path, &columns("text", None), &names(&["toxic", "insult"]), OnBadRow::Stop)
}

#[test]
fn a_column_for_each_class_gives_the_classes_of_each_row() {
    // Every way of writing yes and no; the order of the classes is that of the list, not of the header.
    let csv = "insult,text,id,toxic\n1,a,7,1\n0,b,8,true\n1.0,c,9,0.0\nFalse,d,10,false\nTrue,e,11,TRUE\n";
    let (table, sets) = indicators("d.csv", csv).unwrap();
    assert_eq!(sets, [vec![0, 1], vec![0], vec![1], vec![], vec![0, 1]]);
    let labels: Vec<&str> = table.rows.iter().map(|r| r.label.as_deref().unwrap()).collect();
    assert_eq!(labels, ["toxic, insult", "toxic", "insult", "", "toxic, insult"]);
    assert_eq!((table.rows[4].text.as_str(), table.rows[4].line), ("e", 6));
    let json =
        "{\"text\":\"a\",\"toxic\":1,\"insult\":false}\n{\"text\":\"b\",\"toxic\":\"0\",\"insult\":1.0}\n";
    assert_eq!(indicators("d.jsonl", json).unwrap().1, [vec![0], vec![1]]);

    let refused = |name: &str, content: &str| {
        let e = indicators(name, content).unwrap_err();
        assert_eq!(e.kind(), Kind::Data, "{e}");
        (e.what().to_owned(), e.line())
    };
    // -1 is what some published test sets hold for rows that were not judged.
    let other = |cell: &str| refused("d.csv", &format!("text,toxic,insult\na,0,1\nb,1,{cell}\n"));
    for cell in ["-1", "2", "0.5", "yes"] {
        let what = format!("the label {cell:?} in the column \"insult\" is neither 0 nor 1");
        assert_eq!(other(cell), (what, Some(3)));
    }
    assert_eq!(other(""), ("the column \"insult\" is empty".into(), Some(3)));
    assert!(refused("d.csv", "text,toxic,insults\na,0,1\n").0.contains("\"insult\""));
    assert!(refused("d.jsonl", "{\"text\":\"a\",\"toxic\":null,\"insult\":1}\n").0.contains("\"toxic\""));
    let (_dir, path) = written("d.csv", "text,toxic\na,1\n");
    let twice =
        read_with_indicators(&path, &columns("text", None), &names(&["toxic", "toxic"]), OnBadRow::Stop);
    assert_eq!(twice.unwrap_err().kind(), Kind::Usage);
}

#[test]
fn a_comma_separates_label_columns_unless_a_column_has_that_name() {
    let (_dir, path) = written("d.csv", "text,\"a,b\",a,b,c\nx,1,0,1,0\n");
    assert_eq!(label_columns(&path, "a,b").unwrap(), ["a,b"]);
    assert_eq!(label_columns(&path, "a,c").unwrap(), ["a", "c"]);
    assert_eq!(label_columns(&path, "b, c").unwrap(), ["b", "c"]);
    assert_eq!(label_columns(&path, "a").unwrap(), ["a"]);
}

fn setting() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    dir
}
/// Trains; what is said on standard error, and the exit code.
fn train(dir: &Path, task: &str, file: &str, more: &str) -> (Option<i32>, String) {
    std::fs::write(dir.join("r.toml"), recipe(task, file, more, "run")).unwrap();
    let out = tempra(dir, &["train", "r.toml", "--fresh"]);
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}
fn eval(dir: &Path, args: &[&str]) -> Value {
    let args = [&["eval", "run/model"], args, &["--json", "-q"]].concat();
    serde_json::from_str(&ok("eval", tempra(dir, &args))).unwrap()
}

#[test]
fn classes_in_columns_are_trained_and_scored_as_classes_in_one() {
    let dir = setting();
    let dir = dir.path();
    let sets = [("cat,dog", 1, 1), ("cat", 1, 0), ("", 0, 0), ("dog", 0, 1)];
    let text = |i: usize| format!("{} sat on the mat {i}", ["cat dog", "cat", "the", "dog"][i % 4]);
    let one: String = (0..24).map(|i| format!("{},\"{}\"\n", text(i), sets[i % 4].0)).collect();
    let two: String = (0..24).map(|i| format!("{},{},{}\n", text(i), sets[i % 4].1, sets[i % 4].2)).collect();
    std::fs::write(dir.join("one.csv"), format!("text,label\n{one}")).unwrap();
    std::fs::write(dir.join("two.csv"), format!("text,cat,dog\n{two}")).unwrap();

    let (code, said) = train(dir, "multilabel", "one.csv", "");
    assert_eq!(code, Some(0), "{said}");
    let of_one = eval(dir, &["one.csv"]);
    let list = "label = [\"cat\", \"dog\"]\n";
    let (code, said) = train(dir, "multilabel", "two.csv", list);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(read_json(&dir.join("run/model/tempra.json"))["label"], serde_json::json!(["cat", "dog"]));
    // The same model and the same scores, without an option, with the columns named, and from one column of the same classes.
    assert_eq!(eval(dir, &["two.csv"])["scores"], of_one["scores"]);
    assert_eq!(eval(dir, &["two.csv", "--label", "dog,cat"])["scores"], of_one["scores"]);
    assert_eq!(eval(dir, &["one.csv", "--label", "label"])["scores"], of_one["scores"]);
    let lacks = tempra(dir, &["eval", "run/model", "two.csv", "--label", "dog,text2"]);
    let said = String::from_utf8_lossy(&lacks.stderr).into_owned();
    assert!(lacks.status.code() == Some(2) && said.contains("\"cat\"") && said.contains("help:"), "{said}");

    let report = ok("data check", tempra(dir, &["data", "check", "two.csv", "--label", "cat,dog", "--json"]));
    let report: Value = serde_json::from_str(&report).unwrap();
    // 24 rows, of which every fourth has both and every fourth one of them.
    assert_eq!(report["files"][0]["labels"], serde_json::json!([["cat", 12], ["dog", 12]]));

    // A list is for several 0/1 columns of "multilabel" alone.
    for (task, more, part) in [
        ("classify", list, "data.label lists columns, but task is \"classify\""),
        ("multilabel", "label = [\"cat\"]\n", "fewer than two columns"),
        ("multilabel", "label = [\"cat\", \"cat\"]\n", "column 2 of data.label is there already"),
        ("multilabel", "label = [\"cat\", \"text\"]\n", "data.text and data.label name the same column"),
        ("multilabel", "label = [\"cat\", 1]\n", "a text or a list of texts"),
    ] {
        let (code, said) = train(dir, task, "two.csv", more);
        assert!(code == Some(2) && said.contains(part), "{more}: {said}");
    }
    let (_, said) = train(dir, "multilabel", "two.csv", &format!("{list}separator = \";\"\n"));
    assert!(said.contains("data.separator has no effect here"), "{said}");
}

#[test]
fn rows_that_all_have_the_same_classes_are_refused() {
    let dir = setting();
    let rows = |label: &str| (0..24).map(|i| format!("text {i},{label}\n")).collect::<String>();
    let write = |name: &str, content: String| std::fs::write(dir.path().join(name), content).unwrap();
    write("one.csv", format!("text,label\n{}", rows("\"a,b\"")));
    write("two.csv", format!("text,a,b\n{}", rows("0,0")));
    for (file, more, found) in [("one.csv", "", "a, b"), ("two.csv", "label = [\"a\", \"b\"]\n", "none")] {
        let (code, said) = train(dir.path(), "multilabel", file, more);
        assert!(code == Some(3) && said.contains("all rows have the same classes"), "{said}");
        assert!(said.contains(&format!("found: {found}\n")), "{said}");
    }
}

#[test]
fn predicted_classes_are_joined_as_the_data_joins_them() {
    let dir = setting();
    let rows: String = (0..24).map(|i| format!("cat {i},{}\n", ["a,b|c", "c", "a,b"][i % 3])).collect();
    // "a,b" is one class: only | separates.
    let rows = rows.replace("a,b|c", "\"a,b|c\"").replace(",a,b\n", ",\"a,b\"\n");
    std::fs::write(dir.path().join("d.csv"), format!("text,label\n{rows}")).unwrap();
    let (code, said) = train(dir.path(), "multilabel", "d.csv", "separator = \"|\"\n");
    assert_eq!(code, Some(0), "{said}");
    // Every class is predicted: no probability is below 0.
    let noted = dir.path().join("run/model/tempra.json");
    let mut value = read_json(&noted);
    value["thresholds"] = serde_json::json!({ "a,b": -1.0, "c": -1.0 });
    std::fs::write(&noted, value.to_string()).unwrap();
    let out =
        ok("predict", tempra(dir.path(), &["predict", "run/model", "d.csv", "-q", "--format", "jsonl"]));
    let first: Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!(first["labels"], "a,b|c");
}
