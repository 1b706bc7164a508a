//! `tempra predict --sentence` and `--question`: the predictions are those of the same text in a file, to the
//! byte, for every head; the lines for a person are held against transformers' probabilities.

use crate::cli::{fine, golden as bert, program, refused, stderr};
use crate::support::golden;
use crate::tasks::{TASKS, data, ok, prepared, recipe, tempra};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use tempfile::{TempDir, tempdir};

const TEXTS: [&str; 3] = ["the red cat sat on the mat", "Alice went to Paris", "-- the dog, \"big\" and Bob"];
const PAIRS: [&str; 3] = ["the cat ran", "Bob saw Paris", "the house"];

/// A folder with a trained model of each of these tasks.
fn trained(tasks: &[&str]) -> TempDir {
    let dir = tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    for (task, file, more) in TASKS.iter().filter(|(task, ..)| tasks.contains(task)) {
        let more = if *task == "multilabel" { "separator = \"|\"\n" } else { more };
        if *task == "multilabel" {
            let labels = fs::read_to_string(dir.path().join(file)).unwrap();
            fs::write(dir.path().join(file), labels.replace("\"a,b\"", "a|b")).unwrap();
        }
        fs::write(dir.path().join(format!("{task}.toml")), recipe(task, file, more, task)).unwrap();
        ok(task, tempra(dir.path(), &["train", &format!("{task}.toml"), "-q"]));
    }
    dir
}

fn predict(dir: &Path, task: &str, args: &[&str]) -> Output {
    let model = format!("{task}/model");
    let args: Vec<&str> = ["predict", &model].into_iter().chain(args.iter().copied()).collect();
    program(dir, &args).output().unwrap()
}

/// The same with a standard input.
fn piped(dir: &Path, task: &str, args: &[&str], input: &str) -> Output {
    let model = format!("{task}/model");
    let args: Vec<&str> = ["predict", &model].into_iter().chain(args.iter().copied()).collect();
    let mut command = program(dir, &args);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn csv(header: &[&str], rows: impl Iterator<Item = Vec<&'static str>>) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(header).unwrap();
    rows.for_each(|row| writer.write_record(row).unwrap());
    String::from_utf8(writer.into_inner().unwrap()).unwrap()
}

#[test]
fn sentences_give_the_bytes_of_a_table() {
    let tasks = ["classify", "regress", "multilabel", "similar", "mask", "next"];
    let dir = trained(&tasks);
    let dir = dir.path();
    for task in tasks {
        let pairs = ["similar", "next"].contains(&task);
        let masked = ["the [MASK] sat on the [MASK]", "Alice went to [MASK]", "-- [MASK]"];
        let texts = if task == "mask" { masked } else { TEXTS };
        let rows = texts.iter().zip(PAIRS);
        let header = if pairs { &["text", "pair"][..] } else { &["text"] };
        let rows = rows.map(|(&a, b)| if pairs { vec![a, b] } else { vec![a] });
        fs::write(dir.join("in.csv"), csv(header, rows)).unwrap();
        let column: &[&str] = if pairs { &["--pair", "pair"] } else { &[] };
        let mut direct: Vec<&str> = texts.iter().flat_map(|t| ["--sentence", t]).collect();
        if pairs {
            direct.extend(PAIRS.iter().flat_map(|t| ["--pair", t]));
        }
        for form in ["csv", "jsonl", "text"] {
            let form = ["--format", form];
            let table = fine(&predict(dir, task, &[&["in.csv", "-q"], column, &form].concat()));
            let given = fine(&predict(dir, task, &[&direct[..], &["-q"], &form].concat()));
            assert!(!table.trim().is_empty());
            assert_eq!(given, table, "{task}");
        }
        // One at a time, readable without being asked for, to a file by its name.
        let readable = fine(&predict(dir, task, &direct));
        assert_eq!(readable, fine(&predict(dir, task, &[&direct[..], &["--format", "text"]].concat())));
        let table = fine(&predict(dir, task, &[&["in.csv"], column].concat()));
        fine(&predict(dir, task, &[&direct[..], &["-o", "out.csv"]].concat()));
        assert_eq!(fs::read_to_string(dir.join("out.csv")).unwrap(), table, "{task}");
        let lines = fine(&predict(dir, task, &[&["in.csv", "--format", "jsonl"], column].concat()));
        for (i, expected) in lines.lines().enumerate() {
            let mut one = vec!["--sentence", texts[i], "--format", "jsonl"];
            if pairs {
                one.extend(["--pair", PAIRS[i]]);
            }
            assert_eq!(fine(&predict(dir, task, &one)).trim_end(), expected, "{task}");
        }
    }

    // The similarity is the cosine of the vectors that `embed` writes.
    let vectors = |column: &str| -> Vec<Vec<f64>> {
        fs::write(
            dir.join("in.csv"),
            csv(&["text", "pair"], TEXTS.iter().zip(PAIRS).map(|(a, b)| vec![*a, b])),
        )
        .unwrap();
        let said = ok("embed", tempra(dir, &["embed", "similar/model", "in.csv", "--text", column, "-q"]));
        let one = |line: &str| serde_json::from_str::<Value>(line).unwrap()["embedding"].clone();
        said.lines().map(|line| serde_json::from_value(one(line)).unwrap()).collect()
    };
    let said = fine(&predict(dir, "similar", &["in.csv", "--format", "jsonl", "-q"]));
    for ((line, u), v) in said.lines().zip(vectors("text")).zip(vectors("pair")) {
        let found = serde_json::from_str::<Value>(line).unwrap()["similarity"].as_f64().unwrap();
        let cosine: f64 = u.iter().zip(&v).map(|(a, b)| a * b).sum();
        assert!((found - cosine).abs() < 1e-6, "{found} {cosine}");
    }

    // Labels are joined as the training data joined them.
    let noted = dir.join("multilabel/model/tempra.json");
    let mut all: Value = serde_json::from_slice(&fs::read(&noted).unwrap()).unwrap();
    all["thresholds"] = json!({ "a": 0.0, "b": 0.0 });
    fs::write(&noted, all.to_string()).unwrap();
    let said = fine(&predict(dir, "multilabel", &["--sentence", "the cat", "--format", "jsonl"]));
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["labels"], "a|b");
    let said = fine(&predict(dir, "multilabel", &["--sentence", "the cat"]));
    assert!(said.contains("[x] a") && said.contains("[x] b") && !said.contains("[ ]"), "{said}");
}

#[test]
fn sentences_are_tagged_as_texts_of_a_file() {
    let dir = trained(&["tag"]);
    let dir = dir.path();
    let texts = ["Alice went to Paris, and Bob too", "a cat"];
    let lines = texts.map(|t| json!({ "text": t }).to_string() + "\n").concat();
    fs::write(dir.join("in.jsonl"), lines).unwrap();
    let direct: Vec<&str> = texts.iter().flat_map(|t| ["--sentence", t]).collect();
    for form in ["jsonl", "csv", "text"] {
        let file = fine(&predict(dir, "tag", &["in.jsonl", "--format", form]));
        assert_eq!(fine(&predict(dir, "tag", &[&direct[..], &["--format", form]].concat())), file, "{form}");
    }
    // From standard input, whatever the format.
    let words = "Alice\nwent\nto\nParis\n\na\ncat\n";
    fs::write(dir.join("in.conll"), words).unwrap();
    for (name, said) in
        [("in.jsonl", fs::read_to_string(dir.join("in.jsonl")).unwrap()), ("in.conll", words.to_owned())]
    {
        let file = fine(&predict(dir, "tag", &[name, "--format", "jsonl"]));
        assert_eq!(fine(&piped(dir, "tag", &["-", "--format", "jsonl"], &said)), file, "{name}");
    }
    let e = refused(&piped(dir, "tag", &["-"], "{\"text\": 1}\n"), 3);
    assert!(e.contains("standard input:1") && !e.contains("tempra-"), "{e}");
    // Each entity of the JSON has a line with its label, probability and place.
    let found = fine(&predict(dir, "tag", &[&direct[..], &["--format", "jsonl"]].concat()));
    let readable = fine(&predict(dir, "tag", &direct));
    let mut entities = 0;
    for (line, block) in found.lines().zip(readable.split("\n\n")) {
        let sentence: Value = serde_json::from_str(line).unwrap();
        let mut lines = block.lines();
        assert_eq!(lines.next(), sentence["text"].as_str());
        for entity in sentence["entities"].as_array().unwrap() {
            let text = entity["text"].as_str().unwrap();
            let place = format!("({}-{})", entity["start"], entity["end"]);
            let p = format!("{:.3}", entity["probability"].as_f64().unwrap());
            let words: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
            let expected = format!("{} {p} {text} {place}", entity["type"].as_str().unwrap());
            assert_eq!(words.join(" "), expected);
            entities += 1;
        }
        assert!(lines.next().is_none_or(|line| line == "  no entities"));
    }
    assert!(entities > 0, "{readable}");
}

#[test]
fn questions_are_answered_as_those_of_a_file() {
    let dir = trained(&["answer"]);
    let dir = dir.path();
    let context = "the dog ran; Alice went to Paris and saw the big red house";
    let ask = ["who went to Paris", "what did Alice saw"];
    let qas: Vec<Value> =
        ask.iter().zip(1..).map(|(q, i)| json!({ "id": i.to_string(), "question": q })).collect();
    let file = json!({ "data": [{ "paragraphs": [{ "context": context, "qas": qas }] }] });
    fs::write(dir.join("in.json"), file.to_string()).unwrap();
    let direct = ["--question", ask[0], "--question", ask[1], "--context", context];
    let one_each = ["--question", ask[0], "--context", context, "--question", ask[1], "--context", context];
    for form in ["jsonl", "text"] {
        let file = fine(&predict(dir, "answer", &["in.json", "--format", form]));
        for direct in [&direct[..], &one_each] {
            assert_eq!(fine(&predict(dir, "answer", &[direct, &["--format", form]].concat())), file);
        }
    }
    let of_file = fine(&predict(dir, "answer", &["in.json"]));
    assert_eq!(fine(&piped(dir, "answer", &["-"], &file.to_string())), of_file);
    fine(&predict(dir, "answer", &["in.json", "-o", "of_file"]));
    fine(&predict(dir, "answer", &[&direct[..], &["-o", "direct"]].concat()));
    for name in ["predictions.json", "nbest_predictions.json", "null_odds.json"] {
        let [a, b] = ["of_file", "direct"].map(|f| fs::read_to_string(dir.join(f).join(name)).unwrap());
        assert_eq!(a, b, "{name}");
    }
    // The lines for a person: the question, the answers by probability, the first in its context.
    let n_best: Value =
        serde_json::from_slice(&fs::read(dir.join("direct/nbest_predictions.json")).unwrap()).unwrap();
    let readable = fine(&predict(dir, "answer", &direct));
    let lines = fine(&predict(dir, "answer", &[&direct[..], &["--format", "jsonl"]].concat()));
    for ((block, line), (id, question)) in
        readable.split("\n\n").zip(lines.lines()).zip([("1", ask[0]), ("2", ask[1])])
    {
        let first = &n_best[id][0];
        let line: Value = serde_json::from_str(line).unwrap();
        let (start, end) =
            (first["start"].as_u64().unwrap() as usize, first["end"].as_u64().unwrap() as usize);
        let text = first["text"].as_str().unwrap();
        assert_eq!([&line["id"], &line["answer"]], [&json!(id), &first["text"]]);
        assert_eq!(
            [&line["start"], &line["end"], &line["probability"]],
            [&first["start"], &first["end"], &first["probability"]]
        );
        let mut lines = block.lines();
        assert_eq!(lines.next(), Some(question));
        let best: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        let p = format!("{:.3}", first["probability"].as_f64().unwrap());
        assert_eq!(best.join(" "), format!("{text} {p} ({start}-{end})"));
        let marked = format!("{}[{text}]{}", &context[..start], &context[end..]);
        let shown = lines.last().unwrap().trim().replace("...", "");
        assert!(shown.contains(&format!("[{text}]")) && marked.contains(&shown), "{shown} {marked}");
    }
}

/// The classes by probability, as transformers computed them.
#[test]
fn readable_lines_have_the_probabilities_of_transformers() {
    let all: Value = serde_json::from_slice(&fs::read(bert("a/texts.json")).unwrap()).unwrap();
    let texts: Vec<String> = serde_json::from_value(all["texts"].clone()).unwrap();
    let logits: Vec<Vec<f64>> = serde_json::from_value(all["logits"].clone()).unwrap();
    let model = bert("a");
    for (text, logits) in texts.iter().zip(&logits) {
        let out = program(Path::new("."), &["predict", model.to_str().unwrap(), "--sentence", text])
            .output()
            .unwrap();
        let said = fine(&out);
        assert!(stderr(&out).contains("1 text in"), "{}", stderr(&out));
        let sum: f64 = logits.iter().map(|x| x.exp()).sum();
        let mut expected: Vec<(f64, &str)> =
            logits.iter().map(|x| x.exp() / sum).zip(["negative", "neutral", "positive"]).collect();
        expected.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (i, (line, (p, class))) in said.lines().zip(&expected).enumerate() {
            let (name, rest) = line.split_once(' ').unwrap();
            let (number, beside) = rest.trim_start().split_once(' ').unwrap_or((rest.trim(), ""));
            assert_eq!(name, *class, "{said}");
            assert!((number.parse::<f64>().unwrap() - p).abs() < 0.0006, "{said} {expected:?}");
            let visible = |c: char| if c.is_control() && !c.is_whitespace() { '\u{fffd}' } else { c };
            let text: String = text.trim().chars().map(visible).collect();
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(words(beside), if i == 0 { words(&text) } else { String::new() });
        }
        assert_eq!(said.lines().count(), 3);
    }
    // What could steer the terminal does not reach it, and a text stays on its line.
    let sly = ["predict", model.to_str().unwrap(), "--sentence", "a\u{1b}[2Jb\nc"];
    let said = fine(&program(Path::new("."), &sly).output().unwrap());
    assert!(!said.contains('\u{1b}') && said.lines().next().unwrap().ends_with("b c"), "{said}");
}

/// 20,000 words of four characters with their space: 200 characters hold 50 of them and end with a space.
#[test]
fn a_very_long_text_is_shown_by_its_beginning() {
    let (model, text) = (bert("a"), "cat ".repeat(20_000));
    let args = ["predict", model.to_str().unwrap(), "--sentence", &text];
    let said = fine(&program(Path::new("."), &args).output().unwrap());
    let first = said.lines().next().unwrap();
    assert!(first.ends_with(&format!(" {}cat...", "cat ".repeat(49))), "{first}");
    assert_eq!(first.matches("cat").count(), 50, "{first}");
}

#[test]
fn a_mask_that_was_cut_off_or_is_of_another_model_is_named() {
    let dir = trained(&["mask"]);
    let dir = dir.path();
    let text = "the cat sat on the mat the cat sat on the [MASK]";
    let e = refused(&predict(dir, "mask", &["--sentence", text, "--max-length", "5"]), 2);
    assert!(e.contains("[MASK] was cut off") && e.contains("help: raise --max-length"), "{e}");
    fs::write(dir.join("in.csv"), format!("text\n{text}\nthe [MASK]\n")).unwrap();
    let out = predict(dir, "mask", &["in.csv", "--max-length", "5"]);
    assert!(stderr(&out).contains("[MASK] of 1 text was cut off at 5 tokens"), "{}", stderr(&out));
    let out = predict(dir, "mask", &["--sentence", "the [MASK] sat on <mask>"]);
    assert!(stderr(&out).contains("1 text has both [MASK] and <mask>"), "{}", stderr(&out));
}

#[test]
fn running_text_is_no_column_of_tags() {
    let dir = trained(&["tag"]);
    let dir = dir.path();
    let e = refused(&piped(dir, "tag", &["-"], "Alice lives\n"), 3);
    assert!(e.contains("standard input:1") && e.contains("\"lives\" is no tag"), "{e}");
    assert!(e.contains("help: ") && e.contains("--sentence TEXT"), "{e}");
    // Tags, also those of other labels, and anything after a tab.
    let words = fine(&piped(dir, "tag", &["-"], "Alice\nran\n"));
    for tagged in ["Alice B-STRANGE\nran O\n", "Alice\tNNP\nran\tVBD\n"] {
        assert_eq!(fine(&piped(dir, "tag", &["-"], tagged)), words, "{tagged}");
    }
}

#[test]
fn a_message_about_a_command_names_its_options() {
    let dir = trained(&["answer", "classify"]);
    let dir = dir.path();
    let context = "the dog ran and the cat sat on the mat";
    let long = ["--question", "who went to the big red house", "--context", context, "--max-length", "8"];
    let e = refused(&predict(dir, "answer", &long), 2);
    assert!(e.contains("help: raise --max-length") && !e.contains("data.max_length"), "{e}");
    let out = predict(dir, "classify", &["--sentence", "a cat", "--pair", "a dog"]);
    fine(&out);
    assert!(stderr(&out).contains("warning: --pair is given, but"), "{}", stderr(&out));
}

#[test]
fn masks_of_other_models_are_understood_where_no_doubt_is_possible() {
    let dir = trained(&["mask"]);
    let dir = dir.path();
    let tokens = |text: &str| {
        let said = fine(&predict(dir, "mask", &["--sentence", text, "--format", "jsonl", "-q"]));
        serde_json::from_str::<Value>(&said).unwrap()["filled"].as_str().unwrap().to_owned()
    };
    let own = tokens("the [MASK] sat on the [MASK]");
    assert_eq!(own.split(' ').count(), 2);
    assert_eq!(tokens("the <mask> sat on the <mask>"), own);
    // With the model's own token, the other is text.
    assert_eq!(tokens("the [MASK] sat on the <mask>").split(' ').count(), 1);
    // A file is read in the same way.
    fs::write(dir.join("in.csv"), "text\nthe <mask> sat on the <mask>\nno hole\n").unwrap();
    let out = predict(dir, "mask", &["in.csv", "--format", "jsonl"]);
    let first: Value = serde_json::from_str(fine(&out).lines().next().unwrap()).unwrap();
    assert_eq!(first["filled"], own);
    assert!(stderr(&out).contains("1 of 2 texts have no [MASK]"), "{}", stderr(&out));
    // Five tokens for each mask, by probability; the first is what is filled in.
    let said = fine(&predict(dir, "mask", &["--sentence", "the [MASK] sat on the [MASK]"]));
    for (mask, best) in own.split(' ').enumerate() {
        let prefix = format!("mask {}: ", mask + 1);
        let lines: Vec<&str> = said.lines().filter_map(|l| l.strip_prefix(&prefix)).collect();
        let number = |line: &&str| line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap();
        let numbers: Vec<f64> = lines.iter().map(number).collect();
        assert_eq!(numbers.len(), 5, "{said}");
        assert!(lines[0].starts_with(best) && numbers.is_sorted_by(|a, b| a >= b), "{said}");
    }
    // A model trained by permutations, too.
    let xlnet = tempdir().unwrap();
    prepared(xlnet.path(), &golden("encoders/xlnet"));
    data(xlnet.path());
    fs::write(xlnet.path().join("permute.toml"), recipe("permute", "text.txt", "", "permute")).unwrap();
    ok("permute", tempra(xlnet.path(), &["train", "permute.toml", "-q"]));
    fs::write(xlnet.path().join("in.csv"), "text\nthe [MASK] sat on the [MASK]\n").unwrap();
    let file = fine(&predict(xlnet.path(), "permute", &["in.csv"]));
    for text in ["the [MASK] sat on the [MASK]", "the <mask> sat on the <mask>"] {
        let given = ["--sentence", text, "--format", "csv"];
        assert_eq!(fine(&predict(xlnet.path(), "permute", &given)).replace("<mask>", "[MASK]"), file);
    }
    let e = refused(&predict(dir, "mask", &["--sentence", "no hole"]), 2);
    assert!(e.contains("no mask token") && e.contains("[MASK]") && e.contains("help: "), "{e}");
}

#[test]
fn an_input_that_is_none_or_several_is_refused_with_a_remedy() {
    let dir = trained(&["classify", "similar", "answer", "next", "tag"]);
    let dir = dir.path();
    fs::write(dir.join("in.csv"), "text,pair\nthe cat,a dog\n").unwrap();
    for (task, args, says) in [
        ("classify", &[][..], &["nothing to predict", "--sentence"][..]),
        ("classify", &["in.csv", "--sentence", "a"], &["INPUT and --sentence are given together"]),
        ("classify", &["in.csv", "--context", "a"], &["INPUT and --question are given together"]),
        (
            "classify",
            &["--sentence", "a", "--question", "b"],
            &["--sentence and --question are given together"],
        ),
        (
            "classify",
            &["--sentence", "a", "--sentence", "b", "--pair", "c"],
            &["--pair is given once", "each --sentence: 2"],
        ),
        ("classify", &["in.csv", "--pair", "a", "--pair", "b"], &["--pair is given 2 times", "one column"]),
        ("classify", &["--question", "a", "--context", "b"], &["does not answer questions", "--sentence"]),
        ("answer", &["--sentence", "a"], &["answers questions", "--question QUESTION --context TEXT"]),
        ("answer", &["--question", "a"], &["--context is given 0 times"]),
        ("answer", &["--context", "a"], &["--question is given 0 times"]),
        ("answer", &["--question", " ", "--context", "a"], &["--question is empty"]),
        ("similar", &["--sentence", "a"], &["only one is given", "--pair TEXT", "tempra embed"]),
        ("similar", &["in.csv", "--pair", ""], &["only one is given", "--pair COLUMN", "tempra embed"]),
        ("next", &["--sentence", "a"], &["follows the first", "--pair TEXT"]),
        ("next", &["in.csv"], &["follows the first", "--pair COLUMN"]),
    ] {
        let e = refused(&predict(dir, task, args), 2);
        assert!(e.contains("help: ") || e.contains("expected: "), "{e}");
        says.iter().for_each(|words| assert!(e.contains(words), "{args:?}: {words:?} is missing: {e}"));
    }
    // A model of pairs needs the second text.
    let noted = dir.join("classify/model/tempra.json");
    let mut all: Value = serde_json::from_slice(&fs::read(&noted).unwrap()).unwrap();
    all["pair"] = json!("pair");
    fs::write(&noted, all.to_string()).unwrap();
    let e = refused(&predict(dir, "classify", &["--sentence", "a"]), 2);
    assert!(e.contains("trained on pairs") && e.contains("--pair TEXT"), "{e}");
    fine(&predict(dir, "classify", &["--sentence", "a", "--pair", ""]));
    // Options about files have no effect on a text.
    let given = ["--sentence", "a cat", "--text=t", "--input-format=tsv", "--pair=b"];
    let out = predict(dir, "tag", &given);
    let said = stderr(&out);
    for option in ["--text", "--input-format", "--pair"] {
        assert!(said.contains(&format!("warning: {option} has no effect")), "{said}");
    }
    assert_eq!(fine(&out), fine(&predict(dir, "tag", &given[..2])));
}

/// A folder of several heads has settings for each: `embed` needs one of them, and says so; elsewhere --head
/// has no effect.
#[test]
fn the_head_of_embed_chooses_settings() {
    let dir = trained(&["similar"]);
    let dir = dir.path();
    let embed = |more: &[&str]| {
        let args = [&["embed", "similar/model", "similar.csv"], more].concat();
        program(dir, &args).output().unwrap()
    };
    let expected = fine(&embed(&[]));
    let out = embed(&["--head", "similar"]);
    assert!(stderr(&out).contains("warning: --head has no effect"), "{}", stderr(&out));
    assert_eq!(fine(&out), expected);
    let noted = dir.join("similar/model/tempra.json");
    let one: Value = serde_json::from_slice(&fs::read(&noted).unwrap()).unwrap();
    fs::remove_file(dir.join("similar/model/manifest.json")).unwrap();
    fs::write(&noted, json!({ "heads": { "similar": one, "other": { "text": "nothing" } } }).to_string())
        .unwrap();
    let e = refused(&embed(&[]), 2);
    assert!(e.contains("--head with one of other, similar") && e.contains("help: "), "{e}");
    let out = embed(&["--head", "similar"]);
    assert!(!stderr(&out).contains("warning"), "{}", stderr(&out));
    assert_eq!(fine(&out), expected);
    assert!(refused(&embed(&["--head", "others"]), 2).contains("the model has no head \"others\""));
}
