//! Layouts of labelled data beside one table with one label column. Expected rows, lines and columns are read
//! off the files by hand.

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
    Columns { text: text.into(), pair: None, label: label.map(str::to_owned), weight: None }
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
    // The same model and the same scores, without an option, with the columns named, and from one column of
    // the same classes.
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
        assert!(code == Some(3) && said.contains("all rows have the same classes, so there"), "{said}");
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

fn array(content: &str) -> tempra::error::Result<Table> {
    let (_dir, path) = written("d.json", content);
    read(&path, &columns("text", Some("label")), OnBadRow::Stop)
}
/// Line, column and fault of a refused JSON array.
fn refused_array(content: &str) -> (u64, u64, String) {
    let e = array(content).expect_err(content);
    assert_eq!(e.kind(), Kind::Data, "{e}");
    (e.line().unwrap_or(0), e.column().unwrap_or(0), e.to_string())
}

#[test]
fn an_array_of_objects_means_the_same_as_json_lines() {
    let objects = [
        "{\"text\": \"a\", \"label\": 1, \"more\": [1, {}]}",
        "{\"label\": true,\n\"text\": \"\\ud83d\\ude00, ]\"}",
    ];
    let expected = [("a", "1", 1), ("😀, ]", "true", 2)];
    let [first, second] = objects;
    for content in [
        format!("[{first},\n{second}]"),
        format!("\u{feff}[{first}\r\n,{second}\n]\n"),
        format!("{{\"data\": [{first},\n{second}]}}"),
        // Only an array of the outer object counts.
        format!("{{\"version\": {{\"parts\": [1]}}, \"rows\": [{first},\n{second}], \"n\": 2}}\n"),
    ] {
        let table = array(&content).unwrap_or_else(|e| panic!("{content}: {e}"));
        let rows: Vec<_> =
            table.rows.iter().map(|r| (r.text.as_str(), r.label.as_deref().unwrap(), r.line)).collect();
        assert_eq!(rows, expected, "{content}");
        assert_eq!(table.hash, blake3::hash(content.as_bytes()).to_hex().to_string());
        // Cut anywhere, the file is refused and nothing panics.
        let whole = content.trim_end().len();
        (1..whole)
            .filter(|n| content.is_char_boundary(*n))
            .for_each(|n| drop(array(&content[..n]).unwrap_err()));
    }
    let (_dir, path) = written("d.json", &format!("[{first}]"));
    assert_eq!(tempra::data::columns(&path).unwrap(), ["text", "label", "more"]);
    let records = read_texts(path.to_str().unwrap(), None, &columns("text", None)).unwrap();
    assert_eq!(records.rows, [["a", "1", "[1,{}]"]]);
}

#[test]
fn what_is_wrong_in_an_array_is_placed_by_line_and_column() {
    // 24 characters, of which é has two bytes.
    let good = "{\"text\":\"é\",\"label\":\"x\"}";
    assert_eq!(good.chars().count(), 24);
    let at = |content: String, line, column, part: &str| {
        let (l, c, said) = refused_array(&content);
        assert!((l, c) == (line, column) && said.contains(part), "{content}: {l}:{c} {said}");
    };
    // The bracket is column 1, the object 2 to 25, the comma 26.
    at(format!("[{good}, {{\"text\":\"b\"}}]"), 1, 28, "there is no key \"label\"");
    at(format!("[{good}, 5]"), 1, 28, "an element of the array is not a JSON object");
    at(format!("[{good}, {{\"text\":\"a\",\"text\":\"b\"}}]"), 1, 28, "given twice");
    at(format!("[{good}, {{\"text\":\"b\",\"label\":null}}]"), 1, 28, "found: null");
    at(format!("[{good},]"), 1, 27, "an object behind the comma");
    at(format!("[{good} {good}]"), 1, 27, "a comma or the end of the array");
    at(format!("[{good}]x"), 1, 27, "the end of the file");
    at(format!("[{good}"), 1, 26, "a comma or the end of the array");
    // A brace where a value should be: the 22nd character of its line.
    at(format!("[\n {good},\n {{\"text\":\"b\",\"label\":}}\n]"), 3, 22, "not valid JSON");
    at(format!("{good}\n{good}\n"), 2, 1, "rename the file to .jsonl");
    at("{\"text\": [\"a\"], \"label\": [\"x\"]}".into(), 1, 1, "found: several arrays: text, label");
    at("{\"text\": {\"0\": \"a\"}, \"label\": {\"0\": \"x\"}}".into(), 1, 1, "orient=\"records\"");
    at(" 5".into(), 1, 2, "is not an array of objects");
    assert!(refused_array("[]").2.contains("the file has no rows"));
    assert!(refused_array("").2.contains("the file is empty"));

    // Labels are judged after reading: their place is still known.
    let one = array(&format!("[{good}, {}]", good.replace("\"x\"", "\"y\""))).unwrap();
    let e = Target::Classify { classes: names(&["x", "z"]) }.labels(&one).unwrap_err();
    assert_eq!((e.line(), e.column()), (Some(1), Some(28)), "{e}");
    let (_dir, path) = written("d.json", &format!("[{},5,{good},6]", vec![good; 300].join(",\n")));
    let skipped = read(&path, &columns("text", Some("label")), OnBadRow::Skip).unwrap();
    assert_eq!((skipped.rows.len(), skipped.bad_count), (301, 2));
    // 299 line ends before the last of the 300 objects, and behind it a comma.
    assert_eq!((skipped.bad[0].line, skipped.bad[0].column), (300, Some(26)));
}

/// A tree of files below a new folder.
fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    dir
}

#[test]
fn a_folder_with_a_subfolder_for_each_class_is_a_table() {
    let files: &[(&str, &[u8])] = &[
        ("pos/b.txt", b"good\n"),
        ("pos/a.txt", b"\xEF\xBB\xBFfine, too\r\n\r\n"),
        ("neg/10.txt", b"bad\nvery bad"),
        ("neg/9.TXT", b" "),
        // Hidden files, and files beside the folders that are no texts, are not read.
        ("neg/.DS_Store", b"\0"),
        (".git/x.txt", b"x"),
        ("labels.feat", b"1 2"),
    ];
    let dir = tree(files);
    let table = read(dir.path(), &columns("text", Some("label")), OnBadRow::Stop).unwrap();
    let rows: Vec<_> = table.rows.iter().map(|r| (r.text.as_str(), r.label.as_deref().unwrap())).collect();
    // By class, then by name in the order of bytes; one line end is dropped.
    assert_eq!(rows, [("bad\nvery bad", "neg"), (" ", "neg"), ("fine, too\r\n", "pos"), ("good", "pos")]);
    let again = read(tree(files).path(), &columns("text", Some("label")), OnBadRow::Stop).unwrap();
    assert_eq!(table.hash, again.hash);
    let moved = tree(&[("neg/b.txt", b"good\n"), ("pos/a.txt", b"x")]);
    let other = tree(&[("pos/b.txt", b"good\n"), ("neg/a.txt", b"x")]);
    let hash = |dir: &tempfile::TempDir| {
        read(dir.path(), &columns("text", Some("label")), OnBadRow::Stop).unwrap().hash
    };
    assert_ne!(hash(&moved), hash(&other));
    let records = read_texts(dir.path().to_str().unwrap(), None, &columns("text", None)).unwrap();
    assert_eq!(records.header, ["text", "label", "file"]);
    assert_eq!(records.rows[0], ["bad\nvery bad", "neg", "neg/10.txt"]);
    let flat = tree(&[("b.txt", b"two\n"), ("a.txt", b"one")]);
    let records = read_texts(flat.path().to_str().unwrap(), None, &columns("text", None)).unwrap();
    assert_eq!(
        (records.header, records.rows),
        (names(&["text", "file"]), vec![names(&["one", "a.txt"]), names(&["two", "b.txt"])])
    );

    // The class of a row that is not known, by its file.
    let e = Target::Classify { classes: names(&["neg", "mixed"]) }.labels(&table).unwrap_err();
    assert_eq!((e.file(), e.line()), (Some(&*dir.path().join("pos/a.txt")), None), "{e}");
}

#[test]
fn folders_that_are_no_classes_are_refused_by_the_file() {
    let refused = |files: &[(&str, &[u8])], file: &str, part: &str| {
        let dir = tree(files);
        let e = read(dir.path(), &columns("text", Some("label")), OnBadRow::Stop).unwrap_err();
        let named = e.file().unwrap().strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned();
        assert!(e.kind() == Kind::Data && named == file && e.to_string().contains(part), "{named}: {e}");
        assert!(e.help().is_some(), "{e}");
    };
    let pos: (&str, &[u8]) = ("pos/a.txt", b"x");
    refused(&[pos, ("neg/a.txt", b"caf\xE9")], "neg/a.txt", "not UTF-8");
    refused(&[pos, ("neg/a.txt", b"")], "neg/a.txt", "the file is empty");
    refused(&[pos, ("neg/a.txt", b"a\n\0")], "neg/a.txt", ":2");
    refused(&[pos, ("neg/a.md", b"x")], "neg/a.md", "does not end in .txt");
    refused(&[pos, ("neg/x/a.txt", b"x")], "neg/x", "the folder of a class holds a folder");
    refused(&[pos, ("neg/.hidden.txt", b"x")], "neg", "holds no text");
    refused(&[pos, ("urls.txt", b"x")], "urls.txt", "beside folders");
    refused(&[("a.txt", b"x")], "", "a subfolder for each class");
    refused(&[("a.md", b"x")], "", "holds no text");
    // One file of many may be skipped as a row may be.
    let mut many: Vec<(String, &[u8])> = (0..300).map(|i| (format!("pos/{i:03}.txt"), &b"x"[..])).collect();
    many.push(("pos/zzz.txt".into(), b"\xFF"));
    let dir = tree(&many.iter().map(|(n, c)| (n.as_str(), *c)).collect::<Vec<_>>());
    let skipped = read(dir.path(), &columns("text", Some("label")), OnBadRow::Skip).unwrap();
    assert_eq!((skipped.rows.len(), skipped.bad_count), (300, 1));
}

#[test]
fn class_folders_are_trained_scored_checked_and_predicted() {
    let dir = setting();
    let dir = dir.path();
    let text = |i: usize| format!("the {} sat on the mat {i}", ["cat", "dog"][i % 2]);
    let class = |i: usize| ["cats", "dogs"][i % 2];
    for i in 0..24 {
        let folder = dir.join("train").join(class(i));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{i}.txt")), text(i) + "\n").unwrap();
    }
    // The same rows in the same order as a table.
    let mut rows: Vec<_> = (0..24).map(|i| (class(i), format!("{i}.txt"), text(i))).collect();
    rows.sort();
    let rows: String = rows.iter().map(|(class, _, text)| format!("{text},{class}\n")).collect();
    std::fs::write(dir.join("d.csv"), format!("text,label\n{rows}")).unwrap();
    let (code, said) = train(dir, "classify", "d.csv", "");
    assert_eq!(code, Some(0), "{said}");
    let of_table = eval(dir, &["d.csv"]);
    let (code, said) = train(dir, "classify", "train", "");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(eval(dir, &["train"])["scores"], of_table["scores"]);
    let report: Value =
        serde_json::from_str(&ok("data check", tempra(dir, &["data", "check", "train", "--json"]))).unwrap();
    assert_eq!(report["files"][0]["labels"], serde_json::json!([["cats", 12], ["dogs", 12]]));
    let out = ok("predict", tempra(dir, &["predict", "run/model", "train/cats", "-q", "--format", "jsonl"]));
    let first: Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert!(first["file"] == "0.txt" && first["text"] == text(0) && first["label"].is_string(), "{first}");
    // A recipe for tables of one class a row reads an array of objects as well.
    let objects: Vec<Value> =
        (0..24).map(|i| serde_json::json!({ "text": text(i), "label": class(i) })).collect();
    std::fs::write(dir.join("d.json"), Value::from(objects).to_string()).unwrap();
    let predicted = ok("predict", tempra(dir, &["predict", "run/model", "d.json", "-q"]));
    assert_eq!(predicted.lines().count(), 25);
}

/// A sentence of Universal Dependencies' format: comments, a multi-word token, an empty node, an underscore
/// that is a word.
const CONLLU: &str = "\
# sent_id = 1
# text = vámonos _ al mar
1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tvamos\tir\tVERB\tV-1\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\tP-1\tCase=Acc\t1\tobj\t1:obj\t_
2.1\tva\tir\tVERB\t_\t_\t_\t_\t0:exp\t_
3\t_\t_\tPUNCT\tS-1\t_\t5\tpunct\t_\tSpaceAfter=No
4-5\tal\t_\t_\t_\t_\t_\t_\t_\t_
4\ta\ta\tADP\tS-2\t_\t6\tcase\t_\t_
5\tel\tel\tDET\tB-1\t_\t6\tdet\t_\t_
6\tmar\tmar\tNOUN\t_\t_\t1\tobl:arg\t_\t_

# sent_id = 2
1\t#\t#\tSYM\tF-1\t_\t0\troot\t_\t_

";

fn tagged(
    name: &str,
    content: &str,
    label: Option<&str>,
) -> tempra::error::Result<(Vec<(String, String)>, TagFormat)> {
    let (_dir, path) = written(name, content);
    let source = TagSource { text: "text", label, rule: TagRule::Auto { strict: false }, classes: &[] };
    let (files, format) = read_tagged(&[&path], &source, OnBadRow::Stop)?;
    let joined = |s: &TaggedText| (s.sentence.words.join(" "), s.sentence.tags.join(" "));
    Ok((files[0].items.iter().map(joined).collect(), format))
}

#[test]
fn conllu_is_told_by_its_content() {
    let words = ["vamos nos _ a el mar", "#"];
    for (label, tags) in [
        ("label", ["VERB PRON PUNCT ADP DET NOUN", "SYM"]),
        ("upos", ["VERB PRON PUNCT ADP DET NOUN", "SYM"]),
        ("deprel", ["root obj punct case det obl:arg", "root"]),
    ] {
        for name in ["es-ud-dev.conllu", "es.conll", "es.tsv"] {
            let (found, format) = tagged(name, CONLLU, Some(label)).unwrap();
            let expected: Vec<_> =
                words.iter().zip(tags).map(|(w, t)| ((*w).to_owned(), t.to_owned())).collect();
            assert_eq!(found, expected, "{name} {label}");
            assert_eq!(format, TagFormat::Words);
        }
    }
    // The XPOS of some languages look like tags of spans (S-1, B-1), and are none. The tenth line lacks one.
    let (found, format) = tagged("es.conllu", &CONLLU.replace("NOUN\t_", "NOUN\tN-1"), Some("xpos")).unwrap();
    assert_eq!((found[0].1.as_str(), format), ("V-1 P-1 S-1 S-2 B-1 N-1", TagFormat::Words));
    let e = tagged("es.conllu", CONLLU, Some("xpos")).unwrap_err();
    assert!(e.line() == Some(11) && e.what() == "the word \"mar\" has no tag", "{e}");
    assert!(e.help().unwrap().contains("upos"), "{e}");
    // To predict no tag is looked at.
    assert_eq!(tagged("es.conllu", CONLLU, None).unwrap().0[0].0, words[0]);
    let e = tagged("es.conllu", CONLLU, Some("lemma")).unwrap_err();
    assert!(e.expected() == Some("upos, xpos or deprel") && e.what().contains("\"lemma\""), "{e}");
    // Ten columns of another kind stay what they are: the word first, the tag last.
    let ten = "Alice\t1\t2\t3\t4\t5\t6\t7\t8\tB-PER\n";
    assert_eq!(tagged("d.conll", ten, Some("label")).unwrap().0, [("Alice".into(), "B-PER".into())]);
}

#[test]
fn files_that_hold_no_sentences_are_not_read_as_columns() {
    for (name, content, part) in [
        ("d.csv", "word,tag\nAlice,B-PER\n", "the file is a table"),
        ("d.parquet", "PAR1", "the file is a table"),
        ("d.tsv", "Word\tTag\nAlice\tB-PER\n", "the first line looks like a header"),
        ("d.txt", "\nsentence token pos ner\n1 Alice NNP B-PER\n", "the first line looks like a header"),
    ] {
        let e = tagged(name, content, Some("label")).unwrap_err();
        assert!(e.kind() == Kind::Data && e.what().contains(part) && e.help().is_some(), "{e}");
    }
    let json = "[{\"tokens\": [\"Alice\", \"went\"], \"tags\": [\"B-PER\", \"O\"]}]";
    assert_eq!(tagged("d.json", json, Some("label")).unwrap().0, [("Alice went".into(), "B-PER O".into())]);
    let dir = tree(&[("a.txt", b"x")]);
    let source = TagSource { text: "text", label: None, rule: TagRule::Auto { strict: false }, classes: &[] };
    assert!(
        read_tagged(&[dir.path()], &source, OnBadRow::Stop)
            .unwrap_err()
            .to_string()
            .contains("the path is a folder")
    );
    assert!(
        read_questions(dir.path(), true, OnBadRow::Stop)
            .unwrap_err()
            .to_string()
            .contains("the path is a folder")
    );
}

#[test]
fn training_says_which_tag_scheme_it_found() {
    let dir = setting();
    for (tags, scheme) in [
        (["B-PER", "B-LOC", "I-LOC"], "iob2 (B-TYPE, I-TYPE, O)"),
        (["I-PER", "I-LOC", "I-LOC"], "iob1 (B-TYPE, I-TYPE, O)"),
        (["S-PER", "B-LOC", "E-LOC"], "iobes (B-TYPE, I-TYPE, E-TYPE, S-TYPE, O)"),
        (["PER-U", "LOC-B", "LOC-L"], "bilou (TYPE-B, TYPE-I, TYPE-L, TYPE-U, O)"),
        (["NOUN", "NOUN", "VERB"], "none (each tag is a class of its word)"),
    ] {
        let [who, first, last] = tags;
        let sentence = |i: usize| format!("Alice {who}\nwent{i} O\nNew {first}\nYork {last}\n\n");
        let rows: String = (0..24).map(sentence).collect();
        std::fs::write(dir.path().join("d.conll"), rows).unwrap();
        let (code, said) = train(dir.path(), "tag", "d.conll", "stride = 2\n");
        assert_eq!(code, Some(0), "{said}");
        let shown = format!("tag scheme: {scheme}");
        let out =
            String::from_utf8_lossy(&tempra(dir.path(), &["train", "r.toml", "--fresh"]).stdout).into_owned();
        assert!(said.contains(&shown) || out.contains(&shown), "{shown}: {said}{out}");
    }
}

#[test]
fn a_report_on_columns_of_classes_counts_each_class() {
    let (_dir, path) = written("d.csv", "text,toxic,insult\nyou,1,1\nme,0,0\nMe ,0,1\nme,0,1\n");
    let report =
        check(&[("train", &path)], &columns("text", None), &names(&["toxic", "insult"]), None).unwrap();
    let file = &report.files[0];
    assert_eq!(file.labels, [("insult".to_owned(), 3), ("toxic".to_owned(), 1)]);
    // Lines 3 and 5 hold the same text, once without a class and once with one.
    let conflict = &file.first_conflicts[0];
    assert_eq!(
        (file.conflicts, &conflict.lines[..], &conflict.labels[..]),
        (1, &[3, 5][..], &names(&["no class", "insult"])[..])
    );
}

#[test]
fn data_check_refuses_what_is_no_table() {
    let squad = "{\"data\": [{\"title\": \"t\", \"paragraphs\": [{\"context\": \"c\", \"qas\": []}]}]}";
    for (name, content, what) in [
        ("d.json", squad, "questions"),
        ("d.conll", "Bob B-X\n", "tagged words"),
        ("d.txt", "a\n", "plain text"),
    ] {
        let (dir, _) = written(name, content);
        let out = tempra(dir.path(), &["data", "check", name]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(3), "{said}");
        assert!(said.contains(what) && said.contains("help: `data check` reads tables only"), "{said}");
    }
}
