//! Training goes on from a fine-tuned folder: the rows of its head follow the names of the classes, and a
//! head for anything else starts anew and says so.

use crate::support::*;
use crate::tasks::{ok, prepared, read, tempra};
use serde_json::json;
use std::path::Path;
use tempfile::tempdir;
use tempra::checkpoint::{RealFs, write_dir};
use tempra::models::{ARCHITECTURES, Model, Options, Outputs};

fn names(list: &str) -> Vec<String> {
    list.split(' ').map(str::to_owned).collect()
}

fn asked(outputs: Outputs) -> Options {
    Options { outputs: Some(outputs), ..Options::default() }
}

/// Columns of logits by the places that they are taken from.
fn columns(logits: &[f64], places: &[usize]) -> Vec<f64> {
    logits.chunks(places.len()).flat_map(|row| places.iter().map(|&p| row[p])).collect()
}

/// The logits that transformers computed for negative, neutral, positive, in the order that is asked for.
#[test]
fn a_classifier_of_any_architecture_keeps_its_classes() {
    let device = cpu(2);
    let folders =
        std::fs::read_dir(golden("encoders")).expect("a folder").map(|e| e.expect("an entry").path());
    let mut seen = std::collections::BTreeSet::new();
    for dir in folders.chain([golden("bert/a")]) {
        let fixture = json(&dir.join("fixture.json"));
        let (set, _) = problem(&fixture);
        let truth = numbers(&fixture["logits"]);
        for (order, places) in
            [("positive negative neutral", [2, 0, 1]), ("neutral positive negative", [1, 2, 0])]
        {
            let (model, report) = open(&device, &dir, &asked(Outputs::Classes(names(order))));
            assert_eq!(report.reordered.len(), 2, "{}: {report}", dir.display());
            assert!(report.initialised.is_empty() && report.warnings.is_empty(), "{report}");
            let off = max_difference(&logits(&device, &model, &whole(&set)), &columns(&truth, &places));
            assert!(off <= 1e-5, "{} {order}: {off:e}", dir.display());
            seen.insert(model.architecture().model_type);
        }
    }
    assert_eq!(seen.len(), ARCHITECTURES.len());
}

/// Saves a model with these heads and opens it with others.
fn again(dir: &Path, saved: &[(&str, Outputs)], asked: &[(&str, Outputs)]) {
    let device = cpu(1);
    let options = |heads: &[(&str, Outputs)]| Options {
        heads: heads.iter().map(|(n, o)| ((*n).to_owned(), o.clone())).collect(),
        seed: 7,
        ..Options::default()
    };
    for base in ["bert/a", "encoders/roberta", "encoders/modernbert", "encoders/xlnet", "encoders/distilbert"]
    {
        let (first, _) = open(&device, &golden(base), &options(saved));
        write_dir(&RealFs, dir, &first.files(&device).expect("files")).expect("written");
        let (second, report) = open(&device, dir, &options(asked));
        assert!(report.initialised.is_empty() && report.warnings.is_empty(), "{base}: {report}");
        assert_eq!(report.reordered.len(), 2 * asked.len(), "{base}: {report}");
        let (set, _) = problem(&json(&golden(base).join("fixture.json")));
        for (head, (name, new)) in asked.iter().enumerate() {
            let old = saved.iter().position(|(n, _)| n == name).expect("saved");
            let of = |model: &Model, head| {
                let mut batches = whole(&set);
                batches.iter_mut().for_each(|b| b.head = head);
                logits(&device, model, &batches)
            };
            let list = |o: &Outputs| match o {
                Outputs::Classes(n) | Outputs::Labels(n) | Outputs::Tags(n) => n.clone(),
                _ => panic!("no names"),
            };
            let (before, after) = (list(&saved[old].1), list(new));
            let places: Vec<usize> =
                after.iter().map(|n| before.iter().position(|b| b == n).expect("a name")).collect();
            let expected = columns(&of(&first, old), &places);
            assert_eq!(bits(&of(&second, head)), bits(&expected), "{base} {name}");
        }
    }
}

#[test]
fn taggers_labels_and_several_heads_keep_their_names() {
    let dir = tempdir().expect("a folder");
    let one = |o: Outputs| [("", o)];
    let tags = |list| Outputs::Tags(names(list));
    again(&dir.path().join("tags"), &one(tags("O B-PER I-PER B-LOC")), &one(tags("B-LOC O I-PER B-PER")));
    let labels = |list| Outputs::Labels(names(list));
    again(&dir.path().join("labels"), &one(labels("toxic spam rude")), &one(labels("rude spam toxic")));
    // Several heads: by the name of the task, in another order of the tasks too.
    let classes = |list| Outputs::Classes(names(list));
    again(
        &dir.path().join("several"),
        &[("mood", classes("neg pos")), ("topic", classes("pos neg none")), ("ner", tags("O B-X I-X"))],
        &[("ner", tags("I-X O B-X")), ("mood", classes("pos neg")), ("topic", classes("none neg pos"))],
    );
}

/// What a head of the same shape means must be the same too, or it starts anew, with both lists in the
/// warning.
#[test]
fn a_head_for_something_else_starts_anew() {
    let device = cpu(1);
    let place = tempdir().expect("a folder");
    let mut number = 0;
    let mut go = |base: &str, saved: Outputs, wanted: Outputs, words: &[&str]| {
        let options = |outputs: &Outputs| Options { seed: 3, ..asked(outputs.clone()) };
        let (first, _) = open(&device, &golden(base), &options(&saved));
        number += 1;
        let dir = place.path().join(number.to_string());
        write_dir(&RealFs, &dir, &first.files(&device).expect("files")).expect("written");
        let other = Options { seed: 4, ..options(&wanted) };
        let (second, report) = open(&device, &dir, &other);
        assert!(report.reordered.is_empty(), "{report}");
        let last = |m: &Model| {
            let n = m.params.layout().list.len();
            values(&device, m).split_off(n - 2)
        };
        let new = last(&second);
        let fresh: Vec<&String> = new.iter().map(|(n, _)| n).collect();
        assert_eq!(report.initialised.iter().collect::<Vec<_>>(), fresh, "{base}: {report}");
        // As new as where the files hold none.
        let (bare, _) = open(&device, &golden(base), &other);
        assert_ne!(last(&first)[0].1, new[0].1);
        if !report.warnings.is_empty() && base != "bert/a" {
            assert_eq!(last(&bare)[0].1, new[0].1, "{base}");
        }
        let said = report.warnings.join("\n");
        words.iter().for_each(|w| assert!(said.contains(w), "{base}: {said:?} lacks {w}"));
    };
    let (classes, labels) = (|l| Outputs::Classes(names(l)), |l| Outputs::Labels(names(l)));
    let tags = |l| Outputs::Tags(names(l));
    go("bert/a", classes("neg pos"), classes("bad good"), &["neg, pos", "bad, good", "classifier"]);
    go("bert/a", classes("neg pos"), classes("neg mid pos"), &["neg, pos", "neg, mid, pos"]);
    go("encoders/roberta", classes("a b c"), classes("a b"), &["3 classes a, b, c", "2 classes a, b"]);
    go("encoders/albert", classes("Neg Pos"), classes("neg pos"), &["Neg, Pos", "neg, pos"]);
    go("bert/a", classes("spam rude"), labels("spam rude"), &["2 classes", "independent labels"]);
    go("encoders/xlnet", labels("spam rude"), classes("spam rude"), &["independent labels", "2 classes"]);
    go("encoders/electra", labels("x"), Outputs::Number, &["independent labels x", "one number"]);
    go("encoders/distilbert", classes("O B-X I-X"), tags("O B-X I-X"), &["classes", "tags"]);
    // ModernBERT calls the last layer of its head for answers as that of a classifier.
    go("encoders/modernbert", classes("neg pos"), Outputs::Span, &["neg, pos", "answer"]);
}

/// A folder of transformers without names of its own: the number in a default name is the number that the
/// data has.
#[test]
fn default_names_stand_for_numbers() {
    let device = cpu(1);
    let dir = tempdir().expect("a folder");
    let from = golden("encoders/roberta");
    let mut config = json(&from.join("config.json"));
    config["id2label"] = json!({ "0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2" });
    config["label2id"] = json!({ "LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2 });
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("written");
    std::fs::copy(from.join("model.safetensors"), dir.path().join("model.safetensors")).expect("copied");
    let fixture = json(&from.join("fixture.json"));
    let (set, _) = problem(&fixture);
    let truth = numbers(&fixture["logits"]);
    for (order, places) in [("0 1 2", [0, 1, 2]), ("2 0 1", [2, 0, 1])] {
        let (model, report) = open(&device, dir.path(), &asked(Outputs::Classes(names(order))));
        assert!(report.warnings.is_empty(), "{report}");
        let off = max_difference(&logits(&device, &model, &whole(&set)), &columns(&truth, &places));
        assert!(off <= 1e-5, "{order}: {off:e}");
    }
    let (_, report) = open(&device, dir.path(), &asked(Outputs::Classes(names("bad fair good"))));
    assert!(report.warnings[0].contains("LABEL_0, LABEL_1, LABEL_2"), "{:?}", report.warnings);
}

/// Through the program: a model that has learnt a file scores the same on it where a recipe lists its classes
/// in another order, and goes on from it.
#[test]
fn going_on_in_another_order_keeps_the_score() {
    let dir = tempdir().expect("a folder");
    let at = dir.path();
    prepared(at, &golden("bert/a"));
    let rows = |n: usize| -> String {
        let one = |i| if i % 2 == 0 { "the cat sat,neg\n" } else { "a big dog ran,pos\n" };
        (0..n).map(one).collect()
    };
    std::fs::write(at.join("mood.csv"), format!("text,label\n{}", rows(16))).expect("written");
    let sentence = "Alice B-PER\nBob I-PER\nwent O\nto O\nParis B-LOC\n\n";
    std::fs::write(at.join("ner.conll"), sentence.repeat(16)).expect("written");
    let train = |name: &str, task: &str, file: &str, model: &str, more: &str| -> String {
        let recipe = format!(
            "task = \"{task}\"\nseed = 1\nthreads = 1\noutput = \"{name}\"\n[model]\npath = \"{model}\"\n[data]\n\
             train = \"{file}\"\nvalidation = \"{file}\"\nmax_length = 14\ncache = false\n{more}"
        );
        std::fs::write(at.join(format!("{name}.toml")), recipe).expect("written");
        let out = tempra(at, &["train", &format!("{name}.toml")]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ok(name, out);
        said
    };
    let learn = "[optim]\nlr = 3e-3\n[train]\nepochs = 30\nbatch_size = 4\n";
    let hold = "[optim]\nlr = 1e-12\nwarmup_ratio = 0.0\n[train]\nmax_steps = 1\nbatch_size = 4\n";
    let score = |name: &str, metric: &str| number(&read(&at.join(name).join("metrics.json"))[metric]);

    train("mood", "classify", "mood.csv", "./base", learn);
    assert_eq!(score("mood", "accuracy"), 1.0, "the data can be learnt");
    let said = train(
        "mood2",
        "classify",
        "mood.csv",
        "./mood/model",
        &format!("classes = [\"pos\", \"neg\"]\n{hold}"),
    );
    assert!(said.contains("rows reordered"), "{said}");
    assert_eq!(score("mood2", "accuracy"), 1.0);
    let of = |name: &str| read(&at.join(name).join("model/config.json"))["id2label"].clone();
    assert_eq!((of("mood")["0"].as_str(), of("mood2")["0"].as_str()), (Some("neg"), Some("pos")));

    train("ner", "tag", "ner.conll", "./base", &format!("stride = 2\n{learn}"));
    assert_eq!(score("ner", "f1"), 1.0, "the data can be learnt");
    let order = "stride = 2\nclasses = [\"B-LOC\", \"O\", \"I-PER\", \"B-PER\"]\n";
    train("ner2", "tag", "ner.conll", "./ner/model", &format!("{order}{hold}"));
    assert_eq!(score("ner2", "f1"), 1.0);

    // Other names: a warning names both lists, and the head starts anew.
    let other = rows(16).replace("neg", "bad").replace("pos", "good");
    std::fs::write(at.join("other.csv"), format!("text,label\n{other}")).expect("written");
    let said = train("mood3", "classify", "other.csv", "./mood/model", hold);
    assert!(said.contains("warning") && said.contains("neg, pos") && said.contains("bad, good"), "{said}");
    assert!(said.contains("at random: classifier.weight, classifier.bias"), "{said}");
}
