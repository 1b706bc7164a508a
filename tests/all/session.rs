//! Sessions of the library: probabilities are those of transformers, a stream is read as far as it must be,
//! and results are those of the program.

use crate::cli::{fine, program, stderr};
use crate::support::{golden, json, numbers, report_skipped};
use crate::tasks::{TASKS, data, ok, prepared, recipe, tempra};
use serde_json::Value as Json;
use std::cell::Cell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::{TempDir, tempdir};
use tempra::data::{OnBadRow, Row, read_questions};
use tempra::device::Device;
use tempra::error::{Error, Kind};
use tempra::metrics::softmax;
use tempra::predict::{Folder, Predicted, Session, Settings};

fn open(folder: &Path, settings: Settings) -> Session {
    let device = Device::open("cpu", 2).unwrap();
    Session::open(folder.to_str().unwrap(), device, settings).unwrap()
}

/// A folder with a trained model of each of these tasks.
fn trained(tasks: &[&str]) -> TempDir {
    let dir = tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    for (task, file, more) in TASKS.iter().filter(|(task, ..)| tasks.contains(task)) {
        std::fs::write(dir.path().join(format!("{task}.toml")), recipe(task, file, more, task)).unwrap();
        ok(task, tempra(dir.path(), &["train", &format!("{task}.toml"), "-q"]));
    }
    dir
}

/// The lines of JSON that the program predicts.
fn lines(dir: &Path, args: &[&str]) -> Vec<Json> {
    let out = fine(&tempra(dir, &[&["predict", "-q", "--format", "jsonl", "--threads", "2"], args].concat()));
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The fixture holds texts of reviews and the logits of transformers; the chunks cut them in every way.
#[test]
fn probabilities_are_those_of_transformers() {
    let folder = golden("bert/a");
    let fixture = json(&folder.join("texts.json"));
    let texts: Vec<&str> = fixture["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let logits = numbers(&fixture["logits"]);
    let classes = logits.len() / texts.len();
    let longest = fixture["max_length"].as_u64().map(|n| n as usize);
    for chunk in [1, 5, usize::MAX] {
        let session = open(&folder, Settings { max_length: longest, chunk, ..Settings::default() });
        let all: Vec<_> = session.predict(texts.iter().copied()).map(Result::unwrap).collect();
        assert_eq!(all.len(), texts.len());
        for (prediction, row) in all.iter().zip(logits.chunks(classes)) {
            let Predicted::Class { class, probabilities, .. } = &prediction.value else {
                panic!("{prediction:?}")
            };
            let row: Vec<f32> = row.iter().map(|x| *x as f32).collect();
            let expected = softmax(&row);
            let off = probabilities.iter().zip(&expected).map(|(p, e)| (p - e).abs()).fold(0.0, f64::max);
            assert!(off < 1e-5, "{off:e}");
            assert!(expected.iter().all(|p| *p <= expected[*class]));
        }
        // What is cut off at 12 tokens, by the ids of transformers; texts that it cut itself are left out.
        let short = open(&folder, Settings { max_length: Some(12), chunk, ..Settings::default() });
        let ids = fixture["input_ids"].as_array().unwrap().iter().map(|ids| ids.as_array().unwrap().len());
        let mut compared = 0;
        for (ids, prediction) in
            ids.zip(short.predict(texts.iter().copied())).filter(|(n, _)| Some(*n) != longest)
        {
            assert_eq!(prediction.unwrap().lost as usize, ids.saturating_sub(12));
            compared += usize::from(ids > 12);
        }
        assert!(compared > 5, "{compared}");
    }
}

/// A stream may have no end, and an error in it comes after the predictions of the rows before it.
#[test]
fn a_stream_is_read_no_further_than_a_chunk() {
    let session = open(&golden("bert/a"), Settings { chunk: 2, ..Settings::default() });
    let read = Cell::new(0);
    let endless = (0..).map(|i| {
        read.set(i + 1);
        format!("text {i}")
    });
    let first: Vec<_> = session.predict(endless).take(3).map(Result::unwrap).collect();
    assert_eq!((first.len(), read.get()), (3, 4));

    let rows = [Ok(Row::from("a")), Err(Error::data("bad row").with_line(2)), Ok(Row::from("b"))];
    let mut all = session.try_predict(rows);
    assert!(all.next().unwrap().is_ok());
    let e = all.next().unwrap().unwrap_err();
    assert_eq!((e.kind(), e.line()), (Kind::Data, Some(2)));
    assert!(all.next().is_none());
}

/// For every kind of head: the numbers of the library are those that the program writes.
#[test]
fn every_head_predicts_what_the_program_writes() {
    let dir = trained(&["classify", "regress", "multilabel", "similar", "mask", "next", "tag", "answer"]);
    let dir = dir.path();
    let close = |x: f64, json: &Json| (x - json.as_f64().unwrap()).abs() < 1e-6;
    let at = |task: &str| open(&dir.join(task).join("model"), Settings::default());
    let texts = ["the red cat sat", "Alice went to Paris"];
    std::fs::write(dir.join("in.csv"), format!("text\n{}\n", texts.join("\n"))).unwrap();
    std::fs::write(dir.join("pairs.csv"), "text,pair\nthe cat,a dog\nBob ran,Bob ran\n").unwrap();
    let pairs = [("the cat", "a dog"), ("Bob ran", "Bob ran")];
    let of_texts = |task: &str| at(task).predict(texts).map(|p| p.unwrap().value).collect::<Vec<_>>();
    let of_pairs = |task: &str| at(task).predict(pairs).map(|p| p.unwrap().value).collect::<Vec<_>>();

    for (value, line) in of_texts("classify").iter().zip(lines(dir, &["classify/model", "in.csv"])) {
        let Predicted::Class { label, probabilities, .. } = value else { panic!("{value:?}") };
        assert!(line["label"] == **label && close(probabilities[0], &line["p_no"]), "{line} {value:?}");
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }
    for (value, line) in of_texts("regress").iter().zip(lines(dir, &["regress/model", "in.csv"])) {
        assert!(matches!(value, Predicted::Number(x) if close(*x, &line["prediction"])), "{line} {value:?}");
    }
    for (value, line) in of_texts("multilabel").iter().zip(lines(dir, &["multilabel/model", "in.csv"])) {
        let Predicted::Labels { labels, probabilities, .. } = value else { panic!("{value:?}") };
        assert!(
            line["labels"] == labels.join(",") && close(probabilities[1], &line["p_b"]),
            "{line} {value:?}"
        );
    }
    for (value, line) in of_pairs("similar").iter().zip(lines(dir, &["similar/model", "pairs.csv"])) {
        assert!(
            matches!(value, Predicted::Similarity(x) if close(*x, &line["similarity"])),
            "{line} {value:?}"
        );
    }
    // A text is as similar to itself as can be.
    assert!(matches!(of_pairs("similar")[1], Predicted::Similarity(x) if (x - 1.0).abs() < 1e-6));
    let next = lines(dir, &["next/model", "pairs.csv", "--pair", "pair"]);
    for (value, line) in of_pairs("next").iter().zip(next) {
        assert!(matches!(value, Predicted::Follows(p) if close(*p, &line["p_follows"])), "{line} {value:?}");
    }
    let masked = "the <mask> sat on the [MASK]";
    let filled: Vec<_> = at("mask").predict([masked, "no mask"]).map(|p| p.unwrap().value).collect();
    let line = &lines(dir, &["mask/model", "--sentence", "the [MASK] sat on the [MASK]"])[0];
    let [Predicted::Filled(both), Predicted::Filled(none)] = &filled[..] else { panic!("{filled:?}") };
    // "<mask>" is another model's, and BERT's own is there too: it is read as text.
    assert!(both.mixed && both.masks.len() == 1 && none.masks.is_empty() && !none.cut);
    assert_eq!(line["filled"].as_str().unwrap().split(' ').count(), 2);

    let session = at("tag");
    std::fs::write(dir.join("in.conll"), "Alice\nwent\n\nBob\n").unwrap();
    let sentences = session.read_sentences(&dir.join("in.conll"), None).unwrap();
    let tagged: Vec<_> = session.tags(sentences.into_iter().map(Ok)).map(Result::unwrap).collect();
    for (one, line) in tagged.iter().zip(lines(dir, &["tag/model", "in.conll"])) {
        let tags: Vec<&str> = one.tags.iter().map(|(tag, _)| tag.as_str()).collect();
        assert_eq!(line["tags"], serde_json::json!(tags));
        assert_eq!(line["entities"].as_array().unwrap().len(), one.spans.len());
    }
    assert_eq!(tagged.len(), 2);

    let session = at("answer");
    let questions = read_questions(&dir.join("answer.json"), false, OnBadRow::Stop).unwrap().items;
    let answered: Vec<_> = session.answers(questions.into_iter().map(Ok)).map(Result::unwrap).collect();
    for (one, line) in answered.iter().zip(lines(dir, &["answer/model", "answer.json"])) {
        assert_eq!(
            (&line["id"], &line["answer"]),
            (&Json::from(&*one.question.id), &Json::from(&*one.finding.answer))
        );
    }
    assert_eq!(answered.len(), 24);

    // What a head does not read is refused by name.
    let e = session.predict(["a"]).next().unwrap().unwrap_err();
    assert_eq!((e.kind(), e.what().contains("answers questions")), (Kind::Usage, true), "{e}");
    let e = at("similar").predict(["a"]).next().unwrap().unwrap_err();
    assert_eq!((e.kind(), e.what().contains("second text")), (Kind::Data, true), "{e}");
    let classify = at("classify");
    assert_eq!(classify.embed(["a"]).next().unwrap().unwrap_err().kind(), Kind::Usage);
    assert_eq!(classify.tags([classify.sentence("a b", 1)]).next().unwrap().unwrap_err().kind(), Kind::Usage);
    let device = Device::open("cpu", 2).unwrap();
    let settings = Settings { head: Some("none".to_owned()), ..Settings::default() };
    let model = dir.join("classify/model");
    let e = Session::open(model.to_str().unwrap(), device, settings).err().unwrap();
    assert!(e.to_string().contains("no head \"none\""), "{e}");
}

/// Vectors have length 1 where that is asked for, and their direction is that of the raw ones.
#[test]
fn vectors_are_normalized_on_demand() {
    let vectors = |normalize| {
        let device = Device::open("cpu", 2).unwrap();
        let settings = Settings { normalize, ..Settings::default() };
        let folder = Folder::for_vectors(golden("bert/a").to_str().unwrap(), settings).unwrap();
        let session = folder.load(device).unwrap();
        let all: Vec<Vec<f32>> = session.embed(["a cat", "a dog sat"]).map(|v| v.unwrap().values).collect();
        assert!(all.iter().all(|v| v.len() == session.width()));
        all
    };
    let (raw, unit) = (vectors(Some(false)), vectors(Some(true)));
    for (raw, unit) in raw.iter().zip(&unit) {
        let norm = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        assert!((norm(unit) - 1.0).abs() < 1e-6 && (norm(raw) - 1.0).abs() > 1e-3);
        assert!(raw.iter().zip(unit).all(|(r, u)| (f64::from(*r) / norm(raw) - f64::from(*u)).abs() < 1e-6));
    }
    // This folder is none of sentence-transformers.
    assert_eq!(vectors(None), unit);
}

/// The example answers each line of standard input before it reads the next, as in a pipe that stays open.
#[test]
fn the_example_predicts_line_by_line() {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_tempra")).with_file_name("examples").join("predict");
    if !built.exists() {
        return report_skipped("not run: examples/predict.rs, which `cargo test` without --test builds");
    }
    let mut child = Command::new(built)
        .arg(golden("bert/a"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    for text in ["A fine film.", "Too long."] {
        writeln!(input, "{text}").unwrap();
        let line = lines.next().unwrap().unwrap();
        let out = program(&golden("bert/a"), &["predict", ".", "--sentence", text, "--format", "jsonl"])
            .output()
            .unwrap();
        let json: Json =
            serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(&out)));
        assert!(line.starts_with(json["label"].as_str().unwrap()), "{line}: {json}");
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}
