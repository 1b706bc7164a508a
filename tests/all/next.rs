//! Pairs for next-sentence prediction: both kinds must be possible, and a random one comes from another
//! document.

use crate::support::golden;
use crate::tasks::{ok, prepared, recipe, tempra};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;
use tempra::data::{Documents, OnBadRow, TokenSet, read_documents};
use tempra::text::Tokenizer;

fn setting() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    // The two texts of a pair are told apart by type.
    let config = r#"{"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "token_type_ids"]}"#;
    std::fs::write(dir.path().join("base/tokenizer_config.json"), config).unwrap();
    dir
}

fn train(dir: &Path, file: &str, args: &[&str]) -> Output {
    std::fs::write(dir.join("r.toml"), recipe("next", file, "", "run")).unwrap();
    tempra(dir, &[&["train", "r.toml"], args].concat())
}

fn refused(out: &Output, says: &[&str]) {
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(3), "{said}");
    says.iter().for_each(|words| assert!(said.contains(words), "{words:?} is missing: {said}"));
}

fn text(documents: impl IntoIterator<Item = Vec<String>>) -> String {
    documents.into_iter().map(|lines| lines.join("\n") + "\n\n").collect()
}

fn line(i: usize) -> String {
    let word = |k: usize| ["the", "a", "cat", "dog", "sat", "ran", "Bob", "Paris"][(i * 5 + k * 3) % 8];
    (0..4).map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn texts_in_which_nothing_follows_are_refused() {
    let dir = setting();
    let dir = dir.path();
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    let single = || (0..30).map(|i| vec![line(i)]);
    let many = || (0..30).map(|i| vec![line(i), line(i + 1), line(i + 2)]);
    write("single.txt", text(single()));
    refused(
        &train(dir, "single.txt", &[]),
        &["single.txt", "no document has two sentences", "documents of one line"],
    );
    write("one.txt", text([(0..30).map(line).collect()]));
    refused(
        &train(dir, "one.txt", &["--set", "data.validation_fraction=0", "--set", "train.load_best=false"]),
        &["one.txt", "fewer than two documents"],
    );
    // Of a table each row is a document, mostly of one line.
    write("rows.csv", format!("text\n{}", (0..30).map(|i| line(i) + "\n").collect::<String>()));
    refused(&train(dir, "rows.csv", &[]), &["rows.csv", "no document has two sentences"]);
    write("rows.jsonl", (0..30).map(|i| json!({ "text": line(i) }).to_string() + "\n").collect());
    refused(&train(dir, "rows.jsonl", &[]), &["rows.jsonl", "no document has two sentences"]);
    // The file that is to blame is named.
    write("many.txt", text(many()));
    refused(
        &train(dir, "many.txt", &["--set", "data.test=single.txt"]),
        &["single.txt", "no document has two"],
    );
    // Lines that fill a pair by themselves.
    let long = |i: usize| (0..4).map(|k| line(i + k)).collect::<Vec<_>>().join(" ");
    write("long.txt", text((0..30).map(|i| vec![long(i), long(i + 1), long(i + 2)])));
    refused(&train(dir, "long.txt", &[]), &["long.txt", "too long to share a pair", "data.max_length"]);

    let said = ok("many", train(dir, "many.txt", &[]));
    assert!(said.is_empty() || !said.contains("error"), "{said}");
    refused(
        &tempra(dir, &["eval", "run/model", "single.txt"]),
        &["single.txt", "no document has two sentences"],
    );
    // A mixture trains, and says how many pairs of each kind there are.
    write("mixed.txt", text(single().chain(many())));
    let out = train(dir, "mixed.txt", &["--fresh", "--json"]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    let of = |line: &str| serde_json::from_str::<Value>(line).ok().filter(|v| v["event"] == "prepared");
    if let Some(event) = said.lines().find_map(of) {
        let pairs = event["pairs"].as_array().unwrap();
        assert_eq!(
            pairs.iter().map(|p| p["split"].as_str().unwrap()).collect::<Vec<_>>(),
            ["train", "validation"]
        );
        assert!(
            pairs[0]["follow"].as_u64().unwrap() > 0 && pairs[0]["random"].as_u64().unwrap() > 0,
            "{event}"
        );
    } else {
        panic!("{said}");
    }
    let out = train(dir, "mixed.txt", &["--fresh"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(said.contains("pairs of neighbouring texts"), "{said}");
}

/// The words of the two texts of a pair, by the tokenizer's ids: a word stands for its document.
fn documents_of(set: &TokenSet, i: usize) -> [Vec<u32>; 2] {
    let range = set.range(i);
    let types = &set.types[range.clone()];
    let side = |kind: u32| {
        let ids = set.ids[range.clone()].iter().zip(types).filter(|(id, t)| **t == kind && **id > 4);
        ids.map(|(id, _)| *id).collect()
    };
    [side(0), side(1)]
}

/// Each document has a word of its own: what follows is of the same document, what is random of another, also
/// where there are two only; documents of one line never come first.
#[test]
fn random_second_parts_are_of_another_document() {
    let dir = setting();
    let tokenizer = Tokenizer::from_dir(&dir.path().join("base"), 200).unwrap();
    let words = ["cat", "dog", "Alice", "Bob"];
    let of = |words: &[&str], lines: &[usize]| -> Documents {
        let repeated = words.iter().zip(lines).map(|(w, &n)| vec![format!("{w} {w} {w}"); n]);
        let path = dir.path().join("text.txt");
        std::fs::write(&path, text(repeated)).unwrap();
        read_documents(&path, "text", false, OnBadRow::Stop).unwrap()
    };
    for (lines, single) in [(&[4000, 4000][..], 0), (&[300, 1, 300, 1], 2)] {
        let set = of(&words[..lines.len()], lines).pairs(&tokenizer, 12, 3).unwrap();
        let (mut follow, mut random) = (0, 0);
        for i in 0..set.len() {
            let [first, second] = documents_of(&set, i);
            assert!(!first.is_empty() && !second.is_empty());
            let same = first[0] == second[0];
            assert_eq!(
                same,
                set.targets.classes()[i] == 0,
                "pair {i} of {}: {first:?} {second:?}",
                set.len()
            );
            if single > 0 {
                // "dog" and "Bob" stand alone in their documents.
                let id = |word: &str| tokenizer.encode(word, None, 8).unwrap().ids[1];
                assert!(![id("dog"), id("Bob")].contains(&first[0]), "a document of one line comes first");
            }
            if same { follow += 1 } else { random += 1 }
        }
        let share = random as f64 / set.len() as f64;
        println!("{follow} follow, {random} are random");
        assert!((0.4..0.7).contains(&share), "{share}");
    }
}
