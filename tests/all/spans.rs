//! Readers of sentences, spans and questions. Places (line, byte) are counted by hand.

use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tempra::data::*;
use tempra::error::{Kind, Result};

fn file(name: &str, bytes: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join(name);
    fs::write(&path, bytes).expect("written");
    (dir, path)
}
fn sentences(name: &str, bytes: impl AsRef<[u8]>, columns: &TagColumns) -> Result<Examples<Sentence>> {
    let (_dir, path) = file(name, bytes);
    read_sentences(&path, columns, OnBadRow::Stop)
}
/// (words, tags, line) of each sentence.
fn said(name: &str, bytes: impl AsRef<[u8]>, columns: &TagColumns) -> Vec<(String, String, u64)> {
    let all = sentences(name, bytes, columns).unwrap_or_else(|e| panic!("{e}"));
    all.items.into_iter().map(|s| (s.words.join("|"), s.tags.join("|"), s.line)).collect()
}
/// The message of the data error, without the folder.
fn message<T>(name: &str, found: Result<Examples<T>>) -> String {
    let e = found.err().expect("accepted");
    assert_eq!(e.kind(), Kind::Data, "{e}");
    let message = e.to_string();
    message[message.find(name).expect("the file is named")..].to_owned()
}
fn one(words: &str, tags: &str, line: u64) -> (String, String, u64) {
    (words.into(), tags.into(), line)
}
fn plain() -> TagColumns {
    TagColumns::default()
}

#[test]
fn columns_are_read() {
    let two = vec![one("EU|rejects", "B-ORG|O", 1), one("Bonn", "B-LOC", 4)];
    assert_eq!(said("d.conll", "EU\tB-ORG\nrejects\tO\n\nBonn\tB-LOC\n", &plain()), two);
    assert_eq!(said("d.txt", "EU B-ORG\r\nrejects  O\r\n\r\nBonn B-LOC", &plain()), two);
    assert_eq!(said("d.iob", "\u{feff}EU NNP B-ORG\nrejects VBZ O\n \nBonn NNP B-LOC\n\n\n", &plain()), two);
    // Another column, parts of speech without a scheme, no tags at all.
    let pos = TagColumns { tag: Some(1), scheme: None, ..plain() };
    assert_eq!(said("d.iob", "EU NNP B-ORG\n", &pos), [one("EU", "NNP", 1)]);
    let bare = TagColumns { tagged: false, scheme: None, ..plain() };
    assert_eq!(said("d.txt", "EU\nrejects\n\nBonn\n", &bare), [one("EU|rejects", "", 1), one("Bonn", "", 4)]);
    // CoNLL-2003 begins documents with a line of its own; a sentence may follow it at once.
    let docs = "-DOCSTART- -X- O\n\nEU NNP B-ORG\n-DOCSTART- -X- O\nBonn NNP B-LOC\n";
    assert_eq!(said("d.conll", docs, &plain()), [one("EU", "B-ORG", 3), one("Bonn", "B-LOC", 5)]);
    // A comment stands before a sentence; a hashtag is a word.
    let marks = "# id = 1\n#tag\tO\n#\tO\n\n# text\n#x\tO\n";
    assert_eq!(said("d.conll", marks, &plain()), [one("#tag|#", "O|O", 2), one("#x", "O", 6)]);
    // A word may hold a space where tabs separate.
    assert_eq!(said("d.conll", "New York\tB-LOC\nis\tO\n", &plain()), [one("New York|is", "B-LOC|O", 1)]);
    // CoNLL-U: multi-word tokens and empty nodes are no words.
    let u = |id: &str, word: &str| format!("{id}\t{word}\t_\tX\t_\t_\t_\t_\t_\t_\n");
    let text = ["# sent_id = 1\n", &u("1-2", "zum"), &u("1", "zu"), &u("2", "dem"), &u("2.1", "-")].concat();
    let upos = TagColumns { word: 1, tag: Some(3), scheme: None, ..plain() };
    assert_eq!(said("d.conllu", text, &upos), [one("zu|dem", "X|X", 3)]);
}

#[test]
fn broken_columns_name_their_line() {
    let refused =
        |bytes: &[u8], columns: &TagColumns| message("d.conll", sentences("d.conll", bytes, columns));
    let m = refused(b"a\tO\nb\tI-X\n", &plain());
    assert!(
        m.starts_with("d.conll:2 (byte 4): the tag continues a span that did not begin, at the word \"b\""),
        "{m}"
    );
    assert!(
        m.contains("expected: B-X before I-X")
            && m.contains("found: \"I-X\" after \"O\"")
            && m.contains("iob1"),
        "{m}"
    );
    let m = refused(b"a\tO\n\nb\tO\tx\n", &plain());
    assert!(m.starts_with("d.conll:3 (byte 5): the line has 3 columns") && m.contains("expected: 2"), "{m}");
    let m = refused(b"a\tO\nb O\n", &plain());
    assert!(m.starts_with("d.conll:2 (byte 4): the line has 1 column\n") && m.contains("tabs"), "{m}");
    let m = refused(b"a\tO\n\tO\n", &plain());
    assert!(m.starts_with("d.conll:2 (byte 4): the word is empty"), "{m}");
    let m = refused(b"a\tO\nb\t\n", &plain());
    assert!(m.starts_with("d.conll:2 (byte 4): the tag is empty"), "{m}");
    let m = refused(b"a\nb\n", &plain());
    assert!(m.starts_with("d.conll: the file has too few columns") && m.contains("at least 2"), "{m}");
    let m = refused(b"a O\n", &TagColumns { tag: Some(3), ..plain() });
    assert!(m.contains("at least 4"), "{m}");
    let m = refused(b"a\tS-X\nb\tB-X\n", &TagColumns { scheme: Some(Scheme::Iobes), ..plain() });
    assert!(m.starts_with("d.conll:2 (byte 6): the span before it does not end") && m.contains("E-X"), "{m}");
    // Empty files and other encodings.
    assert!(refused(b"", &plain()).starts_with("d.conll: the file is empty"));
    assert!(refused(b"\n\n", &plain()).starts_with("d.conll: the file has no rows"));
    assert!(refused(b"-DOCSTART- O\n", &plain()).starts_with("d.conll: the file has no rows"));
    let m = refused(b"\xFF\xFEa\0", &plain());
    assert!(m.contains("UTF-16") && m.contains("iconv"), "{m}");
    let m = refused(b"a\tO\n\nM\xFCller\tO\n", &plain());
    assert!(
        m.starts_with("d.conll:3 (byte 6): the file is not UTF-8")
            && m.contains("0xFC")
            && m.contains("iconv"),
        "{m}"
    );
    assert!(
        refused(b"a\tO\nb\0\tO\n", &plain()).starts_with("d.conll:2 (byte 5): the file holds a NUL byte")
    );
    let (dir, _) = file("x", "");
    let missing = read_sentences(&dir.path().join("d.conll"), &plain(), OnBadRow::Stop);
    assert!(message("d.conll", missing).starts_with("d.conll: the file cannot be opened"));
}

#[test]
fn bad_sentences_are_left_out_and_listed() {
    let good = "a\tO\n\n".repeat(300);
    let (_dir, path) = file("d.conll", format!("{good}b\tO\nc\tI-X\n\n{good}d\n\ne\tO\n"));
    let all = read_sentences(&path, &plain(), OnBadRow::Skip).expect("2 of 603 are bad");
    assert_eq!((all.items.len(), all.bad_count, all.bad[0].line, all.bad[1].line), (601, 2, 602, 1204));
    assert_eq!(all.hash, blake3_of(&path));
    let (_dir, path) = file("d.conll", "a\tI-X\n\nb\tI-X\n\nc\tO\n");
    let m = message("d.conll", read_sentences(&path, &plain(), OnBadRow::Skip));
    assert!(m.starts_with("d.conll:1 (byte 0): 2 of 3 rows cannot be read"), "{m}");
}

fn blake3_of(path: &Path) -> String {
    blake3::hash(&fs::read(path).expect("there")).to_hex().to_string()
}

#[test]
fn json_lines_of_words_are_read() {
    let text = "{\"tokens\": [\"EU\", \"rejects\"], \"tags\": [\"B-ORG\", \"O\"]}\n\n{\"tokens\": [\"Bonn\"], \"tags\": [\"B-LOC\"]}\n";
    assert_eq!(said("d.jsonl", text, &plain()), [one("EU|rejects", "B-ORG|O", 1), one("Bonn", "B-LOC", 3)]);
    let keys = TagColumns { words_key: "w".into(), tags_key: "t".into(), ..plain() };
    assert_eq!(said("d.ndjson", "{\"w\": [\"a\"], \"t\": [\"O\"]}", &keys), [one("a", "O", 1)]);
    let bare = TagColumns { tagged: false, scheme: None, ..plain() };
    assert_eq!(said("d.jsonl", "{\"tokens\": [\"a\"]}", &bare), [one("a", "", 1)]);
    for (row, expected) in [
        ("{\"tokens\": [\"a\"]}", "there is no key \"tags\""),
        ("{\"token\": [\"a\"], \"tags\": [\"O\"]}", "did you mean \"token\"?"),
        ("{\"tokens\": [\"a\"], \"tags\": [\"O\", \"O\"]}", "expected: 1 tags"),
        ("{\"tokens\": [\"a\"], \"tags\": [3]}", "the name of each tag instead of its number"),
        ("{\"tokens\": [\"a\"], \"tags\": \"O\"}", "\"tags\" is not a list"),
        ("{\"tokens\": [\"\"], \"tags\": [\"O\"]}", "item 1 of \"tokens\" is empty"),
        ("{\"tokens\": [], \"tags\": []}", "the sentence has no words"),
        ("{\"tokens\": [\"a\"], \"tags\": [\"I-X\"]}", "the tag continues a span that did not begin"),
        ("{\"tokens\": [\"a\"", "not valid JSON"),
    ] {
        let text = format!("{{\"tokens\": [\"a\"], \"tags\": [\"O\"]}}\n{row}\n");
        let m = message("d.jsonl", sentences("d.jsonl", text, &plain()));
        assert!(m.starts_with("d.jsonl:2 ") && m.contains(expected), "{row}: {m}");
    }
}

#[test]
fn spans_of_characters_become_words() {
    let text = "Zoë\u{301} lives in São Paulo-Süd, 🎉x.";
    let row = |spans: &str| format!("{{\"text\": {}, \"spans\": {spans}}}\n", serde_json::json!(text));
    // Characters: Z o ë ́ _ is 5, "São Paulo" 14 to 23, "-" 23, "Süd" 24 to 27, "🎉" 29, "x" 30.
    let (_dir, path) = file(
        "d.jsonl",
        row(
            "[[14, 23, \"LOC\"], {\"start\": 0, \"end\": 4, \"label\": \"PER\"}, [26, 27, \"D\"], [29, 30, \"E\"]]",
        ),
    );
    let all = read_spans(&path, "text", Some("spans"), OnBadRow::Stop).expect("good spans");
    let of = &all.items[0];
    let parts: Vec<_> = of.spans.iter().map(|s| (s.label.as_str(), &of.text[s.bytes.clone()])).collect();
    assert_eq!(parts, [("PER", "Zoë\u{301}"), ("LOC", "São Paulo"), ("D", "d"), ("E", "🎉")]);
    let (sentence, ranges) = of.sentence(TagFormat::default()).expect("spans that fit");
    assert_eq!(
        sentence.words,
        ["Zoë\u{301}", "lives", "in", "São", "Paulo", "-", "Sü", "d", ",", "🎉", "x", "."]
    );
    assert_eq!(sentence.tags, ["B-PER", "O", "O", "B-LOC", "I-LOC", "O", "O", "B-D", "O", "B-E", "O", "O"]);
    assert!(ranges.iter().zip(&sentence.words).all(|(r, w)| &of.text[r.clone()] == w));
    assert_eq!(Scheme::Iob2.check(&sentence.tags), Ok(()));
    // To be scored, words are as `predict` has them: "Süd" is one, and the span "d" in it cannot be found.
    let (sentence, ranges, missed) = of.whole_words(TagFormat::default()).expect("spans that fit");
    assert_eq!(
        (sentence.words.len(), &sentence.words[6], ranges.len(), missed),
        (11, &"Süd".to_owned(), 11, vec!["D".to_owned()])
    );
    assert_eq!(sentence.tags, ["B-PER", "O", "O", "B-LOC", "I-LOC", "O", "O", "O", "B-E", "O", "O"]);
    // Where no spaces are written every character is a word, whatever the spans.
    let parts: Vec<&str> =
        words("東京タワーへ go2行く").into_iter().map(|r| &"東京タワーへ go2行く"[r]).collect();
    assert_eq!(parts, ["東", "京", "タ", "ワ", "ー", "へ", "go2", "行", "く"]);
    // A span with white space at its edges covers its words.
    let (_dir, path) = file("d.jsonl", row("[[4, 11, \"X\"]]"));
    let all = read_spans(&path, "text", Some("spans"), OnBadRow::Stop).expect("a good span");
    assert_eq!(all.items[0].sentence(TagFormat::default()).expect("fits").0.tags[..3], ["O", "B-X", "O"]);
    assert!(words("").is_empty() && words(" ").is_empty());
    for (spans, expected) in [
        ("[[3, 3, \"X\"]]", "start < end <= 32"),
        ("[[0, 33, \"X\"]]", "found: 0 to 33"),
        ("[[4, 2, \"X\"]]", "start < end"),
        ("[[4, 5, \"X\"]]", "holds only white space"),
        ("[[0, 3, \"X\"], [2, 4, \"Y\"]]", "two spans overlap"),
        ("[[0, 3]]", "cannot be read"),
        ("[[0, 3, \"\"]]", "cannot be read"),
        ("[[-1, 3, \"X\"]]", "cannot be read"),
        ("3", "is not a list of spans"),
    ] {
        let (_dir, path) = file("d.jsonl", row("[]") + &row(spans));
        let m = message("d.jsonl", read_spans(&path, "text", Some("spans"), OnBadRow::Stop));
        assert!(m.starts_with("d.jsonl:2 ") && m.contains(expected), "{spans}: {m}");
    }
    let (_dir, path) = file("d.jsonl", row("[]"));
    assert!(message("d.jsonl", read_spans(&path, "body", None, OnBadRow::Stop)).contains("no key \"body\""));
    assert!(read_spans(&path, "text", None, OnBadRow::Stop).expect("texts alone").items[0].spans.is_empty());
}

const CONTEXT: &str = "Ångström 🎉 lived in Uppsala. Uppsala is old.";

fn squad(version: &str, questions: &[&str]) -> String {
    let qas = questions.join(",\n");
    let context = serde_json::json!(CONTEXT);
    format!(
        "{{\"version\": \"{version}\", \"data\": [{{\"title\": \"T\", \"paragraphs\": [{{\"context\": {context},\n\"qas\": [\n{qas}\n]}}]}}]}}"
    )
}
fn questions(name: &str, text: impl AsRef<[u8]>, answered: bool) -> Result<Examples<Question>> {
    let (_dir, path) = file(name, text);
    read_questions(&path, answered, OnBadRow::Stop)
}
const GOOD: &str = r#"{"id": "1", "question": "Where?", "answers": [{"text": "Uppsala", "answer_start": 20}, {"text": "🎉", "answer_start": 9}]}"#;

#[test]
fn questions_are_read() {
    let none = r#"{"id": "2", "question": "When?", "answers": [], "is_impossible": true}"#;
    let all = questions("q.json", squad("v2.0", &[GOOD, none]), true).expect("good questions");
    let (first, second) = (&all.items[0], &all.items[1]);
    assert_eq!((first.id.as_str(), first.title.as_str(), first.line, second.line), ("1", "T", 3, 4));
    let answers: Vec<_> =
        first.answers.iter().map(|a| (a.start, a.byte, &CONTEXT[a.byte..a.byte + a.text.len()])).collect();
    assert_eq!(answers, [(20, 25, "Uppsala"), (9, 11, "🎉")]);
    assert!(second.impossible && second.answers.is_empty() && !first.impossible);
    assert!(std::sync::Arc::ptr_eq(&first.context, &second.context));
    // In 2.0 an empty list says that there is no answer; in 1.1 it is a mistake, unless answers are not
    // needed.
    let empty = r#"{"id": "2", "question": "When?", "answers": []}"#;
    assert!(questions("q.json", squad("2.0", &[empty]), true).expect("2.0").items[0].impossible);
    let m = message("q.json", questions("q.json", squad("1.1", &[GOOD, empty]), true));
    assert!(m.starts_with("q.json:4 ") && m.contains("question \"2\": it has no answer"), "{m}");
    let bare = r#"{"id": "2", "question": "When?"}"#;
    for q in [empty, bare] {
        assert!(!questions("q.json", squad("1.1", &[q]), false).expect("to predict").items[0].impossible);
    }
    assert!(questions("q.json", squad("2.0", &[bare]), true).is_err());
    let marked = format!("\u{feff}{}", squad("1.1", &[GOOD]));
    assert_eq!(questions("q.json", marked, true).expect("a byte order mark").items.len(), 1);
}

#[test]
fn broken_questions_name_their_line() {
    let bad = |q: &str| message("q.json", questions("q.json", squad("1.1", &[GOOD, q]), true));
    let m = bad(r#"{"id": "2", "question": "Where?", "answers": [{"text": "Uppsala", "answer_start": 21}]}"#);
    assert!(
        m.starts_with("q.json:4 (byte ") && m.contains("question \"2\": an answer is not at its offset"),
        "{m}"
    );
    assert!(
        m.contains("expected: \"Uppsala\"")
            && m.contains("found: \"ppsala.\" at 21")
            && m.contains("set answer_start to 20"),
        "{m}"
    );
    let m = bad(r#"{"id": "2", "question": "Where?", "answers": [{"text": "Lund", "answer_start": 999}]}"#);
    assert!(m.contains("found: 999, of 44 characters") && m.contains("does not hold this text"), "{m}");
    let m = bad(r#"{"id": "2", "question": "Where?", "answers": [{"text": "Uppsala", "answer_start": -1}]}"#);
    assert!(m.contains("found: -1, of 44"), "{m}");
    let m = bad(r#"{"id": "1", "question": "Again?", "answers": [{"text": "Uppsala", "answer_start": 20}]}"#);
    assert!(m.starts_with("q.json:4 ") && m.contains("another question has the same id"), "{m}");
    assert!(bad(r#"{"id": "2", "question": " ", "answers": []}"#).contains("the question is empty"));
    assert!(
        bad(r#"{"id": "2", "question": "?", "answers": [{"text": "", "answer_start": 0}]}"#)
            .contains("an answer is empty")
    );
    let both = r#"{"id": "2", "question": "?", "is_impossible": true, "answers": [{"text": "Uppsala", "answer_start": 20}]}"#;
    assert!(bad(both).contains("but is_impossible is true"));
    let m = bad(r#"{"id": "2", "answers": []}"#);
    assert!(
        m.starts_with("q.json:4:")
            && m.contains("not the JSON of SQuAD")
            && m.contains("missing field `question`"),
        "{m}"
    );
    let m = bad(r#"{"id": "2" "#);
    assert!(m.starts_with("q.json:5:") && m.contains("not valid JSON"), "{m}");
    assert!(message("q.json", questions("q.json", "", true)).contains("the file is empty"));
    assert!(message("q.json", questions("q.json", "{\"data\": []}", true)).contains("no rows"));
    assert!(message("q.json", questions("q.json", b"\xFF\xFE{\0", true)).contains("UTF-16"));
    // The line of what is not UTF-8.
    let mut text = squad("1.1", &[GOOD, GOOD]).into_bytes();
    let at = text.iter().rposition(|b| *b == b'W').expect("Where");
    text[at] = 0xFC;
    assert!(message("q.json", questions("q.json", text, true)).starts_with("q.json:4 (byte "));
}

#[test]
fn misplaced_answers_are_left_out_and_listed() {
    let q = |i: usize, start: usize| {
        format!(
            "{{\"id\": \"n{i}\", \"question\": \"Where?\", \"answers\": [{{\"text\": \"Uppsala\", \"answer_start\": {start}}}]}}"
        )
    };
    let all: Vec<String> = (0..300).map(|i| q(i, if i == 7 || i == 200 { 3 } else { 29 })).collect();
    let text = squad("1.1", &all.iter().map(String::as_str).collect::<Vec<_>>());
    let (_dir, path) = file("q.json", &text);
    let read = read_questions(&path, true, OnBadRow::Skip).expect("2 of 300");
    assert_eq!((read.items.len(), read.bad_count), (298, 2));
    assert_eq!(read.bad.iter().map(|b| b.line).collect::<Vec<_>>(), [10, 203]);
    assert!(read.bad[0].what.contains("\"n7\"") && read.items.iter().all(|q| q.answers[0].byte == 34));
    let m = message("q.json", read_questions(&path, true, OnBadRow::Stop));
    assert!(m.starts_with("q.json:10 "), "{m}");
}
