//! Whether a question may have no answer is what training learnt, never what the questions of the input say.

use crate::support::golden;
use crate::tasks::{ok, prepared, read, recipe, tempra};
use serde_json::{Map, Value, json};
use std::path::Path;

/// A question about a text, with its answer (`None`: it has none).
type Asked = (String, &'static str, Option<&'static str>);

fn asked() -> Vec<Asked> {
    let one = |i: usize| {
        let who = ["Alice", "Bob"][i / 2 % 2];
        let context = format!("{who} went to Paris and saw the big red house {i}");
        match i % 2 {
            0 => (context, "who went to Paris", Some(who)),
            _ => (context, "what did the cat", None),
        }
    };
    (0..24).map(one).collect()
}

/// A file of SQuAD with the questions that `keep` keeps, each with what `labels` adds to it.
fn squad(path: &Path, keep: impl Fn(&Asked) -> bool, labels: impl Fn(usize, &Asked) -> Value) {
    let paragraph = |(i, q): (usize, &Asked)| {
        let mut qa = json!({ "id": format!("q{i}"), "question": q.1 });
        for (key, value) in labels(i, q).as_object().unwrap() {
            qa[key] = value.clone();
        }
        json!({ "context": q.0, "qas": [qa] })
    };
    let all = asked();
    let paragraphs: Vec<Value> = all.iter().enumerate().filter(|(_, q)| keep(q)).map(paragraph).collect();
    let file = json!({ "version": "v2.0", "data": [{ "title": "t", "paragraphs": paragraphs }] });
    std::fs::write(path, file.to_string()).unwrap();
}
fn right(_: usize, q: &Asked) -> Value {
    match q.2 {
        Some(text) => json!({ "answers": [{ "text": text, "answer_start": 0 }], "is_impossible": false }),
        None => json!({ "answers": [], "is_impossible": true }),
    }
}

fn setting(dir: &Path) {
    prepared(dir, &golden("bert/a"));
    squad(&dir.join("both.json"), |_| true, right);
    squad(&dir.join("answered.json"), |q| q.2.is_some(), right);
    squad(&dir.join("bare.json"), |_| true, |_, _| json!({}));
    squad(
        &dir.join("one.json"),
        |_| true,
        |i, _| if i == 3 { json!({ "is_impossible": true }) } else { json!({}) },
    );
    // Wrong answers, and all said to have none: what is not read cannot be wrong.
    squad(&dir.join("none.json"), |_| true, |_, _| json!({ "is_impossible": true, "answers": [] }));
    let misplaced = json!({ "answers": [{ "text": "Mars", "answer_start": 4 }] });
    squad(&dir.join("wrong.json"), |_| true, |_, _| misplaced.clone());
    for name in ["both", "answered"] {
        let text =
            recipe("answer", &format!("{name}.json"), "stride = 2\nvalidation = \"both.json\"\n", name)
                .replace("lr = 1e-3", "lr = 3e-3\nwarmup_steps = 10")
                .replace(
                    "./base\"",
                    "./base\"\ndropout = 0.0\nattention_dropout = 0.0\nclassifier_dropout = 0.0",
                )
                .replace("batch_size = 4", "batch_size = 8")
                .replace("max_steps = 3", "max_steps = 120")
                .replace("every = 3", "every = 120");
        std::fs::write(dir.join("answer.toml"), text).unwrap();
        ok(name, tempra(dir, &["train", "answer.toml", "-q"]));
    }
}
/// `predictions.json`, `nbest_predictions.json` and `null_odds.json`, and what was said.
pub fn predict(dir: &Path, model: &str, file: &str, more: &[&str]) -> ([Map<String, Value>; 3], String) {
    let model = format!("{model}/model");
    // A folder that is there is not written over.
    let _ = std::fs::remove_dir_all(dir.join("found"));
    let args: Vec<&str> = ["predict", &model, file, "-o", "found"].iter().chain(more).copied().collect();
    let out = tempra(dir, &args);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ok(file, out);
    let read = |name: &str| read(&dir.join(format!("found/{name}.json"))).as_object().unwrap().clone();
    (["predictions", "nbest_predictions", "null_odds"].map(read), said)
}
fn eval(dir: &Path, model: &str, file: &str, more: &[&str]) -> Value {
    let model = format!("{model}/model");
    let args: Vec<&str> = ["eval", &model, file, "--json", "-q"].iter().chain(more).copied().collect();
    serde_json::from_str::<Value>(&ok(file, tempra(dir, &args))).unwrap()["scores"].clone()
}
/// Empty exactly where the null odds are above the threshold, 0: what SQuAD 2.0 does with `na_prob_thresh`.
fn abstains([best, _, odds]: &[Map<String, Value>; 3]) -> usize {
    for (id, answer) in best {
        assert_eq!(answer == "", odds[id].as_f64().unwrap() > 0.0, "{id}: {answer} at {}", odds[id]);
    }
    best.values().filter(|a| **a == "").count()
}

#[test]
fn training_decides_whether_a_question_may_have_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    setting(dir);
    for (model, learnt) in [("both", true), ("answered", false)] {
        assert_eq!(read(&dir.join(model).join("model/tempra.json"))["impossible"], json!(learnt));
        let (bare, said) = predict(dir, model, "bare.json", &[]);
        assert!(!said.contains("--no-answer"), "{said}");
        // Nothing that a file says of its questions changes an answer, a candidate or its odds.
        for file in ["one.json", "none.json", "wrong.json", "both.json"] {
            assert_eq!(predict(dir, model, file, &[]).0, bare, "{model} {file}");
        }
        // Questions left out change no other.
        let (some, _) = predict(dir, model, "answered.json", &[]);
        for (id, answer) in &some[0] {
            assert_eq!(*answer, bare[0][id], "{model} {id}");
        }
        let (allowed, _) = predict(dir, model, "bare.json", &["--no-answer", "allow"]);
        let (never, _) = predict(dir, model, "bare.json", &["--no-answer", "never"]);
        assert!(never[0].values().all(|a| a != ""));
        assert_eq!(bare, if learnt { allowed.clone() } else { never.clone() });
        let given = abstains(&allowed);
        assert!(!learnt || given == 12, "half of the questions have no answer: {given}");

        // Scored by the rules of 2.0 in a file of 2.0: "" alone is right where there is no answer.
        let scores = eval(dir, model, "both.json", &[]);
        let all = asked();
        let hit = |(i, q): (usize, &Asked)| bare[0][&format!("q{i}")] == q.2.unwrap_or("");
        let share = |of: &dyn Fn(&Asked) -> bool| {
            let asked: Vec<bool> = all.iter().enumerate().filter(|(_, q)| of(q)).map(hit).collect();
            json!(asked.iter().filter(|h| **h).count() as f64 / asked.len() as f64)
        };
        assert_eq!(scores["exact"], share(&|_| true), "{model}: {scores}");
        assert_eq!(scores["HasAns_exact"], share(&|q| q.2.is_some()), "{model}: {scores}");
        assert_eq!(scores["NoAns_exact"], share(&|q| q.2.is_none()), "{model}: {scores}");
        assert_eq!(scores["NoAns_f1"], scores["NoAns_exact"]);
        // The same questions alone score the same.
        let alone = eval(dir, model, "answered.json", &[]);
        assert_eq!(alone["exact"], scores["HasAns_exact"], "{model}");
        assert_eq!(eval(dir, model, "both.json", &["--no-answer", "never"])["NoAns_exact"], json!(0.0));
        // The scores that training wrote are those of `eval`.
        let metrics = read(&dir.join(model).join("metrics.json"));
        for name in ["exact", "f1", "NoAns_exact"] {
            assert_eq!(metrics[name], scores[name], "{model} {name}");
        }

        // A model from elsewhere does not say: every question is answered, and that is said.
        std::fs::remove_file(dir.join(model).join("model/tempra.json")).unwrap();
        let (unsaid, said) = predict(dir, model, "one.json", &[]);
        assert!(said.contains("--no-answer allow"), "{said}");
        assert!(unsaid[0].values().all(|a| a != ""), "{unsaid:?}");
        assert_eq!(
            abstains(&predict(dir, model, "one.json", &["--no-answer", "allow"]).0),
            abstains(&predict(dir, model, "bare.json", &["--no-answer", "allow"]).0)
        );
    }
    std::fs::write(
        dir.join("c.csv"),
        "text,label\nthe cat,a\na dog,b\n".to_owned() + &"the cat sat,a\na dog ran,b\n".repeat(12),
    )
    .unwrap();
    std::fs::write(dir.join("c.toml"), recipe("classify", "c.csv", "", "c")).unwrap();
    ok("classify", tempra(dir, &["train", "c.toml", "-q"]));
    for command in ["predict", "eval"] {
        let out = tempra(dir, &[command, "c/model", "c.csv", "--no-answer", "allow"]);
        assert_eq!(out.status.code(), Some(2), "a setting without effect");
    }
}

/// Every score that a validation of a run prints can choose its model; one that is always 0 cannot.
#[test]
fn scores_of_questions_without_an_answer_choose_a_model_where_it_may_give_none() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    prepared(dir, &golden("bert/a"));
    squad(&dir.join("both.json"), |_| true, right);
    squad(&dir.join("answered.json"), |q| q.2.is_some(), right);
    squad(&dir.join("unanswered.json"), |q| q.2.is_none(), right);
    let run = |train: &str, validation: &str, metric: &str| {
        let more = format!("stride = 2\nvalidation = \"{validation}.json\"\n");
        let text = recipe("answer", &format!("{train}.json"), &more, "run");
        std::fs::write(dir.join("answer.toml"), text + &format!("best_metric = \"{metric}\"\n")).unwrap();
        tempra(dir, &["train", "answer.toml", "-q", "--fresh"])
    };
    for metric in ["best_f1", "best_exact", "NoAns_f1", "f1"] {
        ok(metric, run("both", "both", metric));
        let metrics = read(&dir.join("run/metrics.json"));
        assert_eq!(metrics["best"]["metric"], json!(metric));
        assert_eq!(metrics["best"]["value"], metrics[metric]);
    }
    let always = [
        ("answered", "both", "NoAns_f1"),
        ("answered", "both", "NoAns_exact"),
        ("answered", "unanswered", "f1"),
        ("answered", "unanswered", "exact"),
    ];
    for (train, validation, metric) in always {
        let out = run(train, validation, metric);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{train} {validation} {metric}: {said}");
        assert!(said.contains("no training question is without an answer"), "{said}");
    }
}
