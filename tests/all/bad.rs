//! Bad input of every format, as a user meets it: `train` ends with the exit code of data and names the file
//! and the line.

use crate::support::golden;
use crate::tasks::{TASKS, data, ok, prepared, recipe, tempra};
use std::path::Path;

fn setting() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    dir
}

/// Trains with another file as the test set; what is said if it is refused.
fn tested(dir: &Path, task: &str, file: &str, more: &str, test: &str) -> String {
    let more = format!("{more}test = \"{test}\"\n");
    std::fs::write(dir.join("bad.toml"), recipe(task, file, &more, "bad")).unwrap();
    let out = tempra(dir, &["train", "bad.toml", "-q", "--fresh"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(3), "{task} {test}: {said}");
    assert!(said.contains(test), "{task}: the file is not named: {said}");
    said
}

#[test]
fn empty_files_and_other_encodings_are_refused_by_name_and_line() {
    let dir = setting();
    for &(task, file, more) in TASKS.iter().filter(|(task, ..)| !["next", "permute", "order"].contains(task))
    {
        let whole = std::fs::read(dir.path().join(file)).unwrap();
        let test = format!("test-{file}");
        let write = |bytes: &[u8]| std::fs::write(dir.path().join(&test), bytes).unwrap();
        for nothing in [&b""[..], b"\n \n"] {
            write(nothing);
            tested(dir.path(), task, file, more, &test);
        }
        // UTF-16 of Windows.
        let text = String::from_utf8(whole.clone()).unwrap();
        let wide: Vec<u8> =
            std::iter::once(0xFEFFu16).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        write(&wide);
        let said = tested(dir.path(), task, file, more, &test);
        assert!(said.contains("UTF-16"), "{task}: {said}");
        // Two encodings in one file: the seventh line is of Latin-1.
        let mut lines: Vec<Vec<u8>> = whole.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        if lines.len() < 7 {
            // SQuAD's JSON on lines of its own.
            let pretty: serde_json::Value = serde_json::from_slice(&whole).unwrap();
            lines = format!("{pretty:#}").split('\n').map(|l| l.as_bytes().to_vec()).collect();
        }
        let at = lines.iter().enumerate().position(|(i, l)| i >= 6 && l.contains(&b'a')).unwrap();
        let byte = lines[at].iter().position(|b| *b == b'a').unwrap();
        lines[at][byte] = 0xE4;
        write(&lines.join(&b'\n'));
        let said = tested(dir.path(), task, file, more, &test);
        assert!(
            said.contains("UTF-8") && said.contains(&format!("{test}:{}", at + 1)),
            "{task} line {}: {said}",
            at + 1
        );
    }
}

#[test]
fn labels_that_training_did_not_have_name_the_file_of_the_test() {
    let dir = setting();
    let cases = [
        ("classify", "classify.csv", "test.csv", "text,label\nthe cat,yes\na dog,maybe\n", 3, "maybe"),
        ("multilabel", "multilabel.csv", "test.csv", "text,label\nthe cat,a\na dog,\"a,c\"\n", 3, "\"c\""),
        ("regress", "regress.csv", "test.csv", "text,label\nthe cat,1\na dog,much\n", 3, "much"),
        ("tag", "tag.conll", "test.conll", "Bob B-PER\n\nParis B-GPE\n", 3, "B-GPE"),
    ];
    for (task, file, test, text, line, found) in cases {
        std::fs::write(dir.path().join(test), text).unwrap();
        let said = tested(dir.path(), task, file, "", test);
        assert!(said.contains(&format!("{test}:{line}")) && said.contains(found), "{task}: {said}");
    }
}

#[test]
fn broken_tags_and_misplaced_answers_are_refused_or_left_out_aloud() {
    let dir = setting();
    // I after O: of IOB2 no tag begins so. Named with a scheme, the line says it.
    let sentences: String = (0..120).map(|i| format!("Bob B-PER\nran{i} O\n\n")).collect();
    std::fs::write(dir.path().join("test.conll"), format!("{sentences}Bob O\nParis I-LOC\n")).unwrap();
    let with = |more: &str, sets: &[&str]| {
        let text = recipe("tag", "tag.conll", "stride = 2\ntest = \"test.conll\"\n", "tag");
        std::fs::write(dir.path().join("tag.toml"), format!("{text}{more}")).unwrap();
        let all: Vec<&str> = ["train", "tag.toml", "--json", "--fresh"].iter().chain(sets).copied().collect();
        tempra(dir.path(), &all)
    };
    let refused = with("[tag]\nscheme = \"iob2\"\n", &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(3) && said.contains("test.conll:362") && said.contains("I-LOC"),
        "{said}"
    );
    let skipped = ok("tag", with("[tag]\nscheme = \"iob2\"\n", &["--set", "data.on_bad_row=skip"]));
    assert!(skipped.contains("\"skipped_rows\":1"), "{skipped}");

    // An answer that does not stand where the file says.
    let text = std::fs::read_to_string(dir.path().join("answer.json")).unwrap();
    let mut squad: serde_json::Value = serde_json::from_str(&text).unwrap();
    let one = squad["data"][0]["paragraphs"][0].clone();
    let all = (0..150).map(|i| {
        let mut p = one.clone();
        p["qas"][0]["id"] = format!("t{i}").into();
        if i == 149 {
            p["qas"][0]["answers"][0]["answer_start"] = 3.into();
        }
        p
    });
    squad["data"][0]["paragraphs"] = all.collect();
    std::fs::write(dir.path().join("test.json"), format!("{squad:#}")).unwrap();
    let said = tested(dir.path(), "answer", "answer.json", "stride = 2\n", "test.json");
    assert!(said.contains("t149") || said.contains("answer_start") || said.contains("offset"), "{said}");
    let out =
        tempra(dir.path(), &["train", "bad.toml", "--json", "--fresh", "--set", "data.on_bad_row=skip"]);
    assert!(ok("answer", out).contains("\"skipped_rows\":1"));
}
