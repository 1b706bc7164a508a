//! Tags in every scheme and without one, from the file to scores and predictions. Right values: seqeval and
//! scikit-learn (tests/golden/make_tags.py); where a model has learnt its file by heart, the file.

use crate::support::golden;
use crate::tasks::{ok, prepared, read, recipe, tempra};
use serde_json::{Value, json};
use std::path::Path;
use tempra::data::{Affix, Scheme, Span, TagFormat};
use tempra::metrics::{Entities, Scores, WordTags};

fn list(v: &Value) -> &[Value] {
    v.as_array().unwrap_or_else(|| panic!("no list: {v}"))
}
fn words(v: &Value) -> Vec<&str> {
    list(v).iter().map(|t| t.as_str().unwrap()).collect()
}
fn check(name: &str, scores: &Scores, expected: &Value) {
    for metric in ["accuracy", "precision", "recall", "f1", "f1_macro", "f1_weighted"] {
        let (found, expected) = (scores.get(metric).unwrap(), expected[metric].as_f64().unwrap_or(f64::NAN));
        let same = (found - expected).abs() < 1e-12 || (found.is_nan() && expected.is_nan());
        assert!(same, "{name} {metric}: {found}, expected {expected}");
    }
}

#[test]
fn spans_of_every_scheme_and_side_equal_seqeval() {
    let mut schemes = std::collections::BTreeSet::new();
    for case in list(&read(&golden("tags.json"))["spans"]) {
        let name = case["name"].as_str().unwrap();
        let (scheme, suffix) =
            (Scheme::find(case["scheme"].as_str().unwrap()).unwrap(), case["suffix"] == true);
        let both = || list(&case["true"]).iter().zip(list(&case["predicted"]));
        let all: Vec<&str> = both().flat_map(|(t, p)| [words(t), words(p)].concat()).collect();
        let format = TagFormat::Spans { scheme, affix: if suffix { Affix::Suffix } else { Affix::Prefix } };
        // IOB1 and IOB2 have the same letters.
        let by_letters = if scheme == Scheme::Iob1 { Scheme::Iob2 } else { scheme };
        let affix = if suffix { Affix::Suffix } else { Affix::Prefix };
        assert_eq!(
            TagFormat::of_tags(all.iter().copied()),
            TagFormat::Spans { scheme: by_letters, affix },
            "{name}"
        );
        assert_eq!(TagFormat::in_scheme(scheme, all.iter().copied()), format, "{name}");
        for (strict, expected) in [(false, &case["lenient"]), (true, &case["strict"])] {
            let mut entities = if strict { Entities::strict_of(format) } else { Entities::of(format) };
            for (i, (t, p)) in both().enumerate() {
                let (t, p) = (words(t), words(p));
                entities.add(&p, &t).unwrap();
                for (tags, spans) in [(p, &expected["spans"][i]), (t, &expected["true_spans"][i])] {
                    let found =
                        if strict { format.strict_spans(&tags).unwrap() } else { format.spans(&tags) };
                    let found: Vec<Value> = found.iter().map(|s| json!([s.label, s.start, s.end])).collect();
                    assert_eq!(json!(found), *spans, "{name} strict {strict} {tags:?}");
                }
            }
            check(&format!("{name} strict {strict}"), &entities.scores(), expected);
        }
        schemes.insert((scheme.name(), suffix));
    }
    assert_eq!(schemes.len(), 8, "{schemes:?}");
}

#[test]
fn tags_that_are_no_spans_equal_scikit_learn() {
    for case in list(&read(&golden("tags.json"))["words"]) {
        let name = case["name"].as_str().unwrap();
        let tags = words(&case["tags"]);
        assert_eq!(TagFormat::of_tags(tags.iter().copied()), TagFormat::Words, "{name}");
        let number = |tag: &str| tags.iter().position(|t| *t == tag).unwrap() as u32;
        let numbers = |v: &Value| words(v).into_iter().map(number).collect::<Vec<_>>();
        let (mut all, mut parts) = (WordTags::new(tags.len()), vec![WordTags::new(tags.len()); 2]);
        for (i, (t, p)) in list(&case["true"]).iter().zip(list(&case["predicted"])).enumerate() {
            all.add(&numbers(p), &numbers(t)).unwrap();
            parts[i % 2].add(&numbers(p), &numbers(t)).unwrap();
        }
        check(name, &all.scores(), &case["scores"]);
        let (first, second) = parts.split_at_mut(1);
        first[0].merge(&second[0]).unwrap();
        assert_eq!(first[0], all, "{name}");
        for (tag, of) in tags.iter().zip(all.counts().per_class()) {
            let Some(expected) = case["per_tag"].get(*tag) else { continue };
            assert_eq!(json!([of.precision, of.recall, of.f1, of.support]), *expected, "{name} {tag}");
        }
    }
}

#[test]
fn a_format_is_told_by_all_tags() {
    let spans = |scheme, affix| TagFormat::Spans { scheme, affix };
    let (prefix, suffix) = (Affix::Prefix, Affix::Suffix);
    for (tags, expected) in [
        ("", spans(Scheme::Iob2, prefix)),
        ("O", spans(Scheme::Iob2, prefix)),
        ("O B-X I-X", spans(Scheme::Iob2, prefix)),
        ("O S-X", spans(Scheme::Iobes, prefix)),
        ("O U-X B-X", spans(Scheme::Bilou, prefix)),
        ("O X-B X-L", spans(Scheme::Bilou, suffix)),
        ("O B-MISC-x I-MISC-x", spans(Scheme::Iob2, prefix)),
        ("MISC-x-B MISC-x-E", spans(Scheme::Iobes, suffix)),
        ("B I O", spans(Scheme::Iob2, prefix)),
        ("B I L U O", spans(Scheme::Bilou, prefix)),
        // Single letters without B, names that only begin or end like a letter, names with hyphens.
        ("S O V", TagFormat::Words),
        ("S O", TagFormat::Words),
        ("PER ORG LOC OTHER", TagFormat::Words),
        ("NOUN VERB ADJ-x", TagFormat::Words),
        ("LABEL_0 LABEL_1", TagFormat::Words),
        ("NN NP-S -LRB-", TagFormat::Words),
    ] {
        assert_eq!(TagFormat::of_tags(tags.split_whitespace()), expected, "{tags}");
    }
    // A model's labels that bear no letter beside those that do.
    let labels = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let known = labels("O B-PER I-PER L-PER U-PER X [CLS]");
    assert_eq!(TagFormat::of_labels(&known), (spans(Scheme::Bilou, prefix), vec!["X", "[CLS]"]));
    assert_eq!(TagFormat::of_labels(&labels("B-x NOUN VERB ADJ ADP")), (TagFormat::Words, vec![]));
    // Spans in a scheme that is written in another way; not names that only begin or end so.
    let misspelt = |text: &str| TagFormat::misspelt(text.split(' '));
    for (tags, tag, right) in [
        ("O B_PER I_PER", "B_PER", "B-PER"),
        ("o b-per i-per", "b-per", "B-per"),
        ("O PER_B PER_I LOC_B", "LOC_B", "LOC-B"),
        ("O B/x M/x E/x S/x", "B/x", "B-x"),
    ] {
        assert_eq!(misspelt(tags), Some((tag.to_owned(), right.to_owned())), "{tags}");
    }
    for tags in ["O B-PER I-PER", "B_x NOUN", "S_x U_x", "BE_x IN_x", "B I O", "NOUN VERB", "LABEL_0 LABEL_1"]
    {
        assert_eq!(misspelt(tags), None, "{tags}");
    }
    // "PER" bears no letter: nothing is cut from it.
    assert_eq!(spans(Scheme::Iob2, prefix).spans(&["PER", "ORG"]), []);
}

/// Spans become tags of each format and come back.
#[test]
fn spans_are_written_in_every_format() {
    let span = |label: &str, start, end| Span { label: label.into(), start, end };
    let all = [span("A", 0, 2), span("A", 2, 3), span("B-b", 3, 6)];
    for (scheme, tags) in [
        (Scheme::Iob1, "I-A I-A B-A I-B-b I-B-b I-B-b O"),
        (Scheme::Iob2, "B-A I-A B-A B-B-b I-B-b I-B-b O"),
        (Scheme::Iobes, "B-A E-A S-A B-B-b I-B-b E-B-b O"),
        (Scheme::Bilou, "B-A L-A U-A B-B-b I-B-b L-B-b O"),
    ] {
        for affix in [Affix::Prefix, Affix::Suffix] {
            let format = TagFormat::Spans { scheme, affix };
            let found = format.encode(7, &all).unwrap();
            if affix == Affix::Prefix {
                assert_eq!(found.join(" "), tags, "{scheme:?}");
            }
            assert_eq!(format.spans(&found), all, "{format:?}");
        }
    }
    assert_eq!(TagFormat::Words.encode(3, &[span("A", 1, 3)]).unwrap(), ["O", "A", "A"]);
}

/// Sentences of words that the tests' tokenizer knows, each word always with the same tag, so that a small
/// model learns them.
fn tag_file(path: &Path, tag: &dyn Fn(&str) -> &'static str) {
    let sentences = [
        "Alice Bob saw the big red house",
        "the cat sat on big house",
        "Bob went to Paris",
        "the dog ran",
        "Alice Bob saw big red house big house",
        "Bob saw the big house",
        "Bob saw Paris Alice",
        "Bob Alice saw Paris",
        "Alice Bob saw",
    ];
    let text: String = (0..36)
        .map(|i| {
            let words = sentences[i % 9].split(' ');
            words.map(|w| format!("{w}\t{}\n", tag(w))).collect::<String>() + "\n"
        })
        .collect();
    std::fs::write(path, text).unwrap();
}
fn bilou(word: &str) -> &'static str {
    match word {
        "Alice" | "Bob" => "U-PER",
        "Paris" | "dog" => "U-LOC",
        "big" => "B-LOC",
        "house" => "L-LOC",
        "red" => "I-LOC",
        _ => "O",
    }
}
/// Learns a file by heart.
fn train(dir: &Path, file: &str, more: &str, output: &str) -> Value {
    let text = recipe("tag", file, &format!("stride = 2\nvalidation = \"{file}\"\n"), output)
        .replace("lr = 1e-3", "lr = 3e-3\nwarmup_steps = 10")
        .replace("./base\"", "./base\"\ndropout = 0.0\nattention_dropout = 0.0\nclassifier_dropout = 0.0")
        .replace("batch_size = 4", "batch_size = 8")
        .replace("max_steps = 3", "max_steps = 120")
        .replace("every = 3", "every = 120");
    std::fs::write(dir.join("tag.toml"), format!("{text}{more}")).unwrap();
    ok(output, tempra(dir, &["train", "tag.toml", "-q"]));
    read(&dir.join(output).join("metrics.json"))
}
fn eval(dir: &Path, model: &str, file: &str) -> Value {
    let said = ok(file, tempra(dir, &["eval", model, file, "--json", "-q"]));
    serde_json::from_str::<Value>(&said).unwrap()["scores"].clone()
}
fn predict(dir: &Path, model: &str, file: &str) -> Vec<Value> {
    let said = ok(file, tempra(dir, &["predict", model, file, "--format", "jsonl", "-q"]));
    said.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}
/// (type, first word, word after the last, text) of a sentence's entities.
fn entities(sentence: &Value) -> Vec<(String, u64, u64, String)> {
    let one = |e: &Value| {
        let at = |i: usize| e["words"][i].as_u64().unwrap();
        (e["type"].as_str().unwrap().to_owned(), at(0), at(1), e["text"].as_str().unwrap().to_owned())
    };
    list(&sentence["entities"]).iter().map(one).collect()
}
fn entity(label: &str, start: u64, end: u64, text: &str) -> (String, u64, u64, String) {
    (label.to_owned(), start, end, text.to_owned())
}

#[test]
fn a_bilou_model_is_trained_scored_and_predicts_by_its_scheme() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    prepared(dir, &golden("bert/a"));
    tag_file(&dir.join("bilou.conll"), &bilou);
    let text = std::fs::read_to_string(dir.join("bilou.conll")).unwrap();
    for (side, more) in [("prefix", "[tag]\nstrict = true\n"), ("suffix", "[tag]\nscheme = \"bilou\"\n")] {
        let file = format!("{side}.conll");
        let turned = |l: &str| match l.split_once('\t') {
            Some((w, t)) if t != "O" && side == "suffix" => format!("{w}\t{}-{}", &t[2..], &t[..1]),
            _ => l.to_owned(),
        };
        std::fs::write(dir.join(&file), text.lines().map(turned).collect::<Vec<_>>().join("\n") + "\n")
            .unwrap();
        let metrics = train(dir, &file, more, side);
        assert_eq!((&metrics["accuracy"], &metrics["f1"]), (&json!(1.0), &json!(1.0)), "{side}: {metrics}");
        let noted = read(&dir.join(side).join("model/tempra.json"));
        assert_eq!((&noted["scheme"], &noted["suffix"]), (&json!("bilou"), &json!(side == "suffix")));
        let model = format!("{side}/model");
        let scores = eval(dir, &model, &file);
        assert_eq!((&scores["f1"], &scores["f1_macro"]), (&json!(1.0), &json!(1.0)), "{side}: {scores}");
        std::fs::write(
            dir.join("new.jsonl"),
            "{\"tokens\": [\"Alice\", \"Bob\", \"saw\", \"big\", \"red\", \"house\", \"big\", \"house\"]}\n",
        )
        .unwrap();
        let found = predict(dir, &model, "new.jsonl");
        let expected = [
            entity("PER", 0, 1, "Alice"),
            entity("PER", 1, 2, "Bob"),
            entity("LOC", 3, 6, "big red house"),
            entity("LOC", 6, 8, "big house"),
        ];
        assert_eq!(entities(&found[0]), expected, "{side}");
        // As CoNLL columns, the tags as the file of training has them.
        let said = ok(side, tempra(dir, &["predict", &model, "new.jsonl", "-q"]));
        let tag = if side == "suffix" { "PER-U" } else { "U-PER" };
        assert!(said.starts_with(&format!("Alice\t{tag}\nBob\t{tag}\nsaw\tO\n")), "{said}");
        // A file with spans of characters is scored by the same model, in its scheme.
        let row = json!({ "text": "Bob saw the big house", "label": [[0, 3, "PER"], [12, 21, "LOC"]] });
        std::fs::write(dir.join("spans.jsonl"), format!("{row}\n")).unwrap();
        assert_eq!(eval(dir, &model, "spans.jsonl")["f1"], json!(1.0));
        let row = &predict(dir, &model, "spans.jsonl")[0];
        let ends: Vec<_> =
            list(&row["entities"]).iter().map(|e| json!([e["start"], e["end"], e["type"]])).collect();
        assert_eq!(json!(ends), json!([[0, 3, "PER"], [12, 21, "LOC"]]));
        // Without what training noted the labels tell the same.
        std::fs::remove_file(dir.join(&model).join("tempra.json")).unwrap();
        assert_eq!(entities(&predict(dir, &model, "new.jsonl")[0]), expected, "{side}");
        // The tags of the input decide nothing: in `predict` they are not read, in `eval` other letters are
        // refused.
        let words = |tag: &str| format!("Alice\t{tag}-PER\nBob\t{tag}-PER\nsaw\tO\n");
        let given = ["U", "B", "I", "X"].map(|letter| {
            std::fs::write(dir.join("tagged.conll"), words(letter)).unwrap();
            predict(dir, &model, "tagged.conll")
        });
        assert!(given.iter().all(|g| *g == given[0]));
        assert_eq!(entities(&given[0][0]), expected[..2]);
        std::fs::write(dir.join("other.conll"), "Bob\tB-PER\nsaw\tO\n").unwrap();
        let out = tempra(dir, &["eval", &model, "other.conll", "-q"]);
        assert_eq!(out.status.code(), Some(3));
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(said.contains("other.conll:"), "{said}");
    }
}

#[test]
fn tags_without_a_scheme_are_scored_and_given_by_word() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    prepared(dir, &golden("bert/a"));
    let pos = |w: &str| match w {
        "Alice" | "Bob" | "Paris" | "house" | "cat" | "dog" => "NOUN",
        "saw" | "sat" | "went" | "ran" => "VERB",
        "big" | "red" => "OTHER",
        _ => "ADP",
    };
    let ner = |w: &str| match w {
        "Alice" | "Bob" => "PER",
        "Paris" => "ORG",
        "house" => "OTHER",
        _ => "O",
    };
    type TagOf = dyn Fn(&str) -> &'static str;
    let kinds: [(&str, &TagOf, &str); 3] =
        [("pos", &pos, ""), ("ner", &ner, ""), ("named", &ner, "[tag]\nscheme = \"none\"\n")];
    for (name, tag, more) in kinds {
        let file = format!("{name}.conll");
        tag_file(&dir.join(&file), tag);
        let metrics = train(dir, &file, more, name);
        assert_eq!((&metrics["accuracy"], &metrics["f1"]), (&json!(1.0), &json!(1.0)), "{name}: {metrics}");
        let model = format!("{name}/model");
        assert_eq!(read(&dir.join(&model).join("tempra.json"))["scheme"], "none");
        let said = ok(name, tempra(dir, &["eval", &model, &file, "-q"]));
        for tag in if name == "pos" { ["NOUN", "VERB", "OTHER"] } else { ["PER", "ORG", "OTHER"] } {
            assert!(said.contains(tag), "{name}: {said}");
        }
        // One word is wrong in the file: accuracy and F1 as scikit-learn has them for these words.
        let n = 4;
        std::fs::write(
            dir.join("test.conll"),
            format!("Bob\t{0}\nsaw\t{1}\nParis\t{2}\nAlice\t{1}\n", tag("Bob"), tag("saw"), tag("Paris")),
        )
        .unwrap();
        let scores = eval(dir, &model, "test.conll");
        assert_eq!((&scores["accuracy"], &scores["f1"]), (&json!(3.0 / n as f64), &json!(3.0 / n as f64)));
        // f1_score(["NOUN", "VERB", "NOUN", "VERB"], ["NOUN", "VERB", "NOUN", "NOUN"], average="macro") =
        // (0.8 + 2/3) / 2; f1_score(["PER", "O", "ORG", "O"], ["PER", "O", "ORG", "PER"], average="macro") =
        // (2/3 + 2/3 + 1) / 3.
        let expected = if name == "pos" { (0.8 + 2.0 / 3.0) / 2.0 } else { 7.0 / 9.0 };
        assert!((scores["f1_macro"].as_f64().unwrap() - expected).abs() < 1e-12, "{name}: {scores}");
        std::fs::write(dir.join("new.jsonl"), "{\"tokens\": [\"Bob\", \"Alice\", \"saw\", \"Paris\"]}\n")
            .unwrap();
        let found = &predict(dir, &model, "new.jsonl")[0];
        let tags: Vec<&str> = ["Bob", "Alice", "saw", "Paris"].iter().map(|w| tag(w)).collect();
        assert_eq!(found["tags"], json!(tags), "{name}");
        let all = ["Bob", "Alice", "saw", "Paris"].iter().zip(0..).filter(|(w, _)| tag(w) != "O");
        let all: Vec<_> = all.map(|(w, i)| entity(tag(w), i, i + 1, w)).collect();
        assert_eq!(entities(found), all, "{name}");
    }
    let out =
        tempra(dir, &["train", "tag.toml", "-q", "--set", "tag.scheme=auto", "--set", "tag.strict=true"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(2) && said.contains("do not mark spans"), "{said}");
    let out = tempra(dir, &["train", "tag.toml", "-q", "--set", "tag.strict=true"]);
    assert!(
        String::from_utf8_lossy(&out.stderr)
            .contains("tag.strict is set, but tag.scheme = \"none\" has no spans")
    );
}

/// A training file of single words alone could be of any scheme: the validation file tells.
#[test]
fn all_files_together_tell_the_scheme() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    prepared(dir, &golden("bert/a"));
    let single = |w: &str| if ["Alice", "Bob"].contains(&w) { "I-PER" } else { "O" };
    tag_file(&dir.join("train.conll"), &|w| if w == "Alice" { "O" } else { single(w) });
    // Two spans of one type side by side: IOB1, which is the only scheme where I begins a span.
    std::fs::write(dir.join("dev.conll"), "Bob\tI-PER\nsaw\tO\n\nAlice\tI-PER\nBob\tB-PER\n").unwrap();
    let text = recipe(
        "tag",
        "train.conll",
        "stride = 2\nvalidation = \"dev.conll\"\nclasses = [\"O\", \"I-PER\", \"B-PER\"]\n",
        "run",
    )
    .replace("validation_fraction = 0.25\n", "");
    std::fs::write(dir.join("run.toml"), &text).unwrap();
    ok("iob1", tempra(dir, &["train", "run.toml", "-q", "--set", "tag.strict=true"]));
    let noted = read(&dir.join("run/model/tempra.json"));
    assert_eq!((&noted["scheme"], &noted["strict"]), (&json!("iob1"), &json!(true)));
    // Spans that begin with B beside others that begin with I: no strict reader has both.
    std::fs::write(dir.join("dev.conll"), "Bob\tB-PER\nsaw\tO\n\nAlice\tB-PER\nBob\tB-PER\n").unwrap();
    let out = tempra(dir, &["train", "run.toml", "-q", "--fresh", "--set", "tag.strict=true"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(3) && said.contains("train.conll:2"), "{said}");
    ok("lenient", tempra(dir, &["train", "run.toml", "-q", "--fresh"]));
    // Letters of two schemes: the line is named.
    std::fs::write(dir.join("dev.conll"), "Bob\tS-PER\nsaw\tO\n\nAlice\tI-PER\nBob\tB-PER\n").unwrap();
    let out = tempra(dir, &["train", "run.toml", "-q", "--fresh", "--set", "data.classes=[]"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(3) && said.contains(".conll:"), "{said}");
}

/// Tags such as B_PER would be scored word by word, as if they were parts of speech: their accuracy is no F1
/// of entities.
#[test]
fn spans_in_another_spelling_are_not_taken_for_classes_of_words() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    prepared(dir, &golden("bert/a"));
    let tag = |w: &str| if w == "Alice" { "B_PER" } else { "O" };
    tag_file(&dir.join("under.conll"), &tag);
    let line = |i: u32| json!({ "tokens": ["Alice", "Bob", i.to_string()], "tags": ["b-per", "i-per", "o"] });
    let lines: String = (0..12).map(|i| format!("{}\n", line(i))).collect();
    std::fs::write(dir.join("lower.jsonl"), lines).unwrap();
    let keys = "stride = 2\ntext = \"tokens\"\nlabel = \"tags\"\n";
    for (file, more, right) in [
        ("under.conll", "stride = 2\n", "write B-PER instead of B_PER"),
        ("lower.jsonl", keys, "write B-per instead of b-per"),
    ] {
        std::fs::write(dir.join("run.toml"), recipe("tag", file, more, "run")).unwrap();
        let out = tempra(dir, &["train", "run.toml", "-q"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(3) && said.contains(right), "{file}: {said}");
        assert!(!dir.join("run/model").exists());
        // A person may want them word by word; what training found is not doubted afterwards.
        ok(file, tempra(dir, &["train", "run.toml", "-q", "--fresh", "--set", "tag.scheme=none"]));
        let (_, said) = both(dir, file);
        assert!(!said.contains("id2label"), "{said}");
        // A model from elsewhere with such labels.
        std::fs::remove_file(dir.join("run/model/tempra.json")).unwrap();
        let (scores, said) = both(dir, file);
        assert!(said.matches("id2label").count() == 2, "{said}");
        assert!(scores["scores"]["f1"] == scores["scores"]["accuracy"], "{scores}");
        std::fs::remove_dir_all(dir.join("run")).unwrap();
    }
}
/// What `eval` gives, and what it and `predict` say beside.
fn both(dir: &Path, file: &str) -> (Value, String) {
    let eval = tempra(dir, &["eval", "run/model", file, "--json"]);
    let predict = tempra(dir, &["predict", "run/model", file]);
    let said = [&eval.stderr, &predict.stderr].map(|e| String::from_utf8_lossy(e).into_owned()).concat();
    ok("predict", predict);
    (serde_json::from_str(&ok("eval", eval)).unwrap(), said)
}

/// Words are cut alike whatever spans a file has, so that a file of spans scores what `predict` gives.
#[test]
fn spans_of_characters_are_scored_as_predicted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    prepared(dir, &golden("bert/a"));
    let row = |i: usize, spans: Value| match i % 2 {
        0 => json!({ "text": "Bob saw the house", "label": spans }),
        _ => json!({ "text": "the cat ran to Paris", "label": spans }),
    };
    let gold = |i: usize| [json!([[0, 3, "PER"]]), json!([[15, 20, "LOC"]])][i % 2].clone();
    let write = |name: &str, n: usize, spans: &dyn Fn(usize) -> Value| {
        let text: String = (0..n).map(|i| row(i, spans(i)).to_string() + "\n").collect();
        std::fs::write(dir.join(name), text).unwrap();
    };
    write("train.jsonl", 24, &gold);
    // IOB2, the scheme of spans of characters: what is scored has the tags of what was trained.
    let metrics = train(dir, "train.jsonl", "", "spans");
    assert_eq!((&metrics["accuracy"], &metrics["f1"]), (&json!(1.0), &json!(1.0)), "{metrics}");
    let scores = eval(dir, "spans/model", "train.jsonl");
    assert_eq!(scores["accuracy"], json!(1.0));
    assert_eq!(scores["loss"], metrics["loss"]);
    // Half of the spans end inside a word. Predicted are "Bob" and "Paris": of two spans one is right, and
    // one is missed.
    write("inside.jsonl", 2, &|i| [json!([[0, 2, "PER"]]), gold(1)][i].clone());
    let scores = eval(dir, "spans/model", "inside.jsonl");
    let found: Vec<Value> = predict(dir, "spans/model", "inside.jsonl");
    assert_eq!(
        (&found[0]["entities"][0]["text"], &found[1]["entities"][0]["text"]),
        (&json!("Bob"), &json!("Paris"))
    );
    for name in ["precision", "recall", "f1"] {
        assert_eq!(scores[name], json!(0.5), "{scores}");
    }
}

/// Without strict, IOB1 and IOB2 are read alike: spans of a test file that begin with I count as those that
/// begin with B.
#[test]
fn a_test_file_of_iob1_is_scored_by_a_model_of_iob2() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    prepared(dir, &golden("bert/a"));
    let iob2 = |w: &str| match w {
        "Alice" | "Bob" | "big" => "B-X",
        "house" => "I-X",
        _ => "O",
    };
    tag_file(&dir.join("iob2.conll"), &iob2);
    let text = std::fs::read_to_string(dir.join("iob2.conll"))
        .unwrap()
        .replace("big\tB-X\nred\tO", "red\tO\nbig\tB-X");
    std::fs::write(dir.join("iob2.conll"), text.replace("red\tO\nbig\tB-X\nhouse", "red\tB-X\nhouse"))
        .unwrap();
    let metrics = train(dir, "iob2.conll", "", "iob2");
    assert_eq!(metrics["f1"], json!(1.0), "{metrics}");
    std::fs::write(dir.join("iob1.conll"), "Bob\tI-X\nsaw\tO\nthe\tO\nbig\tI-X\nhouse\tI-X\n").unwrap();
    let scores = eval(dir, "iob2/model", "iob1.conll");
    // Three of five tags differ in their letter; both spans are right.
    assert_eq!((&scores["f1"], &scores["accuracy"]), (&json!(1.0), &json!(3.0 / 5.0)), "{scores}");
    // A message names the scheme of the model, not a key of a recipe.
    std::fs::write(dir.join("bilou.conll"), "Bob\tU-X\nsaw\tO\n").unwrap();
    let out = tempra(dir, &["eval", "iob2/model", "bilou.conll"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(said.contains("scheme iob2") && said.contains("follow bilou"), "{said}");
    assert!(!said.contains("iob1") && !said.contains("tag.scheme"), "{said}");
}
