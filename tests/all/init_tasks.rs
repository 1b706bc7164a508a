//! `tempra init` for every kind of data: the task it tells, the recipe it writes, and a step of training with
//! that recipe. Which task and which columns are right was decided by hand for each file.

use super::cli::{fine, program, refused, str};
use super::support::golden;
use super::tasks::{data, prepared};
use std::fs;
use std::path::Path;
use tempfile::{TempDir, tempdir};
use tempra::train::recipe::{PairLoss, Recipe, TaskKind};

/// Texts of the small tokenizer's words; no two of the first 64 are equal.
fn text(i: usize) -> String {
    let pick = |n: usize, words: &[&str]| words[n % words.len()].to_owned();
    let (who, did, what, end) = (
        pick(i, &["Alice", "Bob", "the cat", "a dog"]),
        pick(i / 4, &["sat on", "ran to", "saw", "went to"]),
        pick(i / 16, &["the mat", "the house", "Paris", "a red cat"]),
        pick(i, &["and sat", "and ran", "and went on"]),
    );
    format!("{who} {did} {what} {end}")
}
fn rows(n: usize, row: impl Fn(usize) -> String) -> String {
    (0..n).map(row).collect()
}

/// A folder with a small model in `base`.
fn folder() -> TempDir {
    let dir = tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    dir
}
fn write(dir: &TempDir, name: &str, content: &str) {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}
fn init(dir: &TempDir, args: &[&str]) -> std::process::Output {
    let mut command = program(dir.path(), &[&["init", "--force"], args].concat());
    // No model of the machine the test runs on.
    command.env("TEMPRA_CACHE", dir.path().join("no-cache")).output().unwrap()
}

/// Runs `init` with the small model, trains a step with the recipe that it wrote, and returns what it said
/// and the recipe.
fn trained(dir: &TempDir, args: &[&str]) -> (String, Recipe) {
    let said = fine(&init(dir, &[args, &["--model", "./base"]].concat()));
    let path = dir.path().join("recipe.toml");
    let (recipe, warnings) = Recipe::load_with_warnings(&path, &[]).unwrap();
    assert!(warnings.is_empty(), "a key without effect: {warnings:?}");
    let out = dir.path().join("out");
    let _ = fs::remove_dir_all(&out);
    let output = format!("output={}", str(&out));
    let set = ["--set", "train.max_steps=1", "--set", &output, "--set", "threads=2", "-q"];
    fine(&program(dir.path(), &[&["train", "recipe.toml"], &set[..]].concat()).output().unwrap());
    assert!(out.join("model/model.safetensors").is_file());
    // Commands that are proposed work.
    for line in said.lines().filter_map(|l| l.trim().strip_prefix("tempra data check ")) {
        let args: Vec<&str> = line.split(' ').map(|a| a.trim_matches('\'')).collect();
        let code = program(dir.path(), &[&["data", "check"], &args[..]].concat()).output().unwrap();
        assert!([Some(0), Some(3)].contains(&code.status.code()), "{line}: {code:?}");
    }
    (said, recipe)
}
fn columns(r: &Recipe) -> (&str, Option<&str>, &str) {
    (&r.data.text, r.data.pair.as_deref(), r.data.label.as_str())
}

#[test]
fn init_tells_classes_and_numbers() {
    let dir = folder();
    let class = |i: usize| ["neg", "pos"][i % 2];
    let row = |i: usize| format!("{i},{},{},2024-01-{:02}\n", text(i), class(i), i % 28 + 1);
    write(&dir, "reviews.csv", &format!("id,text,label,date\n{}", rows(40, row)));
    let (said, r) = trained(&dir, &["reviews.csv"]);
    assert_eq!((r.task, columns(&r)), (TaskKind::Classify, ("text", None, "label")));
    assert!(said.contains("\nleft out    \"id\" (ids, by its name), \"date\" (dates)\n"), "{said}");
    // A byte order mark is no part of the first name; classes may have several words.
    let row = |i: usize| format!("{},{}\n", text(i), ["not good", "very good"][i % 2]);
    write(&dir, "mark.csv", &format!("\u{feff}review,verdict\n{}", rows(40, row)));
    let (_, r) = trained(&dir, &["mark.csv"]);
    assert_eq!((r.task, columns(&r)), (TaskKind::Classify, ("review", None, "verdict")));

    let row = |i: usize| format!("{}\t{:.2}\n", text(i), i as f64 / 4.0);
    write(&dir, "stars.tsv", &format!("review\tstars\n{}", rows(40, row)));
    let (said, r) = trained(&dir, &["stars.tsv"]);
    assert_eq!((r.task, columns(&r)), (TaskKind::Regress, ("review", None, "stars")));
    assert!(said.contains("\nlabels      from 0 to 9.75, mean 4.875\n"), "{said}");
}

#[test]
fn init_reads_arrays_of_json_and_folders_of_classes() {
    let dir = folder();
    let row = |i: usize| format!("{{\"text\": \"{}\", \"stars\": {}}}", text(i), ["1.5", "2", "3.5"][i % 3]);
    let all: Vec<String> = (0..30).map(row).collect();
    write(&dir, "array.json", &format!("[{}]", all.join(",\n")));
    let (said, r) = trained(&dir, &["array.json"]);
    assert_eq!((r.task, columns(&r)), (TaskKind::Regress, ("text", None, "stars")), "{said}");
    write(&dir, "inside.json", &format!("{{\"version\": 1, \"data\": [{}]}}", all.join(",")));
    assert_eq!(trained(&dir, &["inside.json"]).1.task, TaskKind::Regress);
    let tagged = r#"{"tokens": ["Alice", "ran"], "tags": ["B-PER", "O"]}"#;
    let other = r#"{"tokens": ["Bob", "ran"], "tags": ["B-PER", "O"]}"#;
    let third = r#"{"tokens": ["Bob", "and", "Alice"], "tags": ["B-PER", "O", "B-PER"]}"#;
    write(&dir, "tags.json", &format!("[{tagged}, {other}, {third}]"));
    assert_eq!(trained(&dir, &["tags.json"]).1.task, TaskKind::Tag);

    for (split, n) in [("train", 12), ("test", 3)] {
        for i in 0..n {
            write(&dir, &format!("imdb/{split}/pos/{i}.txt"), &text(i));
            write(&dir, &format!("imdb/{split}/neg/{i}.txt"), &(text(i) + " is"));
        }
    }
    let (said, r) = trained(&dir, &["imdb"]);
    assert_eq!((r.task, &r.data.train), (TaskKind::Classify, &dir.path().join("imdb/train")));
    assert_eq!(r.data.test, Some(dir.path().join("imdb/test")));
    assert!(said.contains("24 texts") && said.contains("2 classes: neg 12, pos 12"), "{said}");
    let (_, r) = trained(&dir, &["imdb/test"]);
    assert_eq!((r.task, &r.data.train), (TaskKind::Classify, &dir.path().join("imdb/test")));
    let (_, r) = trained(&dir, &["imdb/train", "--task", "mask"]);
    assert_eq!(r.task, TaskKind::Mask);
    // Files without classes.
    let (said, r) = trained(&dir, &["imdb/train/pos"]);
    assert_eq!((r.task, &r.data.train), (TaskKind::Mask, &dir.path().join("imdb/train/pos")));
    assert!(said.contains("12 texts"), "{said}");
}

#[test]
fn init_tells_several_labels() {
    let dir = folder();
    let bit = |i: usize, n: usize| (i / n) % 2;
    let row = |i: usize| format!("{i},{},{},{},0,{}\n", text(i), bit(i, 1), bit(i, 2), bit(i, 4));
    let header = "id,comment_text,toxic,insult,never,threat\n";
    write(&dir, "toxic.csv", &format!("{header}{}", rows(40, row)));
    let (said, r) = trained(&dir, &["toxic.csv"]);
    assert_eq!((r.task, r.data.text.as_str()), (TaskKind::Multilabel, "comment_text"));
    assert_eq!(r.data.label.several(), ["toxic", "insult", "threat"]);
    assert!(said.contains("\"never\" (0 in all rows"), "{said}");
    let (_, r) = trained(&dir, &["toxic.csv", "--label", "insult,toxic"]);
    assert_eq!(r.data.label.several(), ["insult", "toxic"]);

    for (separator, quote) in [('|', ""), (';', ""), (',', "\"")] {
        let sets = ["a", "b", "", "a S b", "b S c"].map(|s| s.replace('S', &separator.to_string()));
        let row = |i: usize| format!("{},{quote}{}{quote}\n", text(i), sets[i % 5]);
        write(&dir, "joined.csv", &format!("text,tags\n{}", rows(40, row)));
        let (said, r) = trained(&dir, &["joined.csv"]);
        assert_eq!((r.task, columns(&r)), (TaskKind::Multilabel, ("text", None, "tags")), "{said}");
        assert_eq!(r.data.separator, separator.to_string());
        assert!(said.contains("3 classes: b 24, a 16, c 8; 8 rows have no class"), "{said}");
    }
    // A comma in every cell is part of the name.
    let row = |i: usize| format!("{},\"{}, France\"\n", text(i), ["Paris", "Lyon", "Nice"][i % 3]);
    write(&dir, "cities.csv", &format!("text,city\n{}", rows(40, row)));
    assert_eq!(trained(&dir, &["cities.csv"]).1.task, TaskKind::Classify);
}

#[test]
fn init_tells_pairs_by_the_names_that_data_sets_use() {
    let dir = folder();
    let pairs = [
        ("s1", "s2"),
        ("q1", "q2"),
        ("question1", "question2"),
        ("Question_1", "question-2"),
        ("sentence1", "sentence2"),
        ("sentenceA", "sentenceB"),
        ("sentence_a", "sentence_b"),
        ("premise", "hypothesis"),
        ("claim", "evidence"),
        ("anchor", "positive"),
        ("query", "passage"),
        ("text", "pair"),
        ("text_a", "text_b"),
    ];
    for (a, b) in pairs {
        // The second text stands first, so that the order of the columns tells nothing.
        let row = |i: usize| format!("{},{},{}\n", text(i + 1), text(i), ["no", "yes"][i % 2]);
        write(&dir, "pairs.csv", &format!("{b},{a},label\n{}", rows(30, row)));
        fine(&init(&dir, &["pairs.csv"]));
        let r = Recipe::load(&dir.path().join("recipe.toml"), &[]).unwrap();
        assert_eq!((r.task, columns(&r)), (TaskKind::Classify, (a, Some(b), "label")));
    }
    let (_, r) = trained(&dir, &["pairs.csv"]);
    assert_eq!(r.task, TaskKind::Classify);

    // Numbers: how alike the texts are. Labels from 0 to 4.9 are on the scale of 5.
    let row = |i: usize| format!("{}\t{}\t{:.1}\n", text(i), text(i + 1), (i % 50) as f64 / 10.0);
    write(&dir, "sts.tsv", &format!("s1\ts2\tscore\n{}", rows(50, row)));
    let (_, r) = trained(&dir, &["sts.tsv"]);
    assert_eq!((r.task, r.similar.loss, r.similar.label_scale), (TaskKind::Similar, PairLoss::Cosine, 5.0));
    let (_, r) = trained(&dir, &["sts.tsv", "--task", "regress"]);
    assert_eq!((r.task, columns(&r)), (TaskKind::Regress, ("s1", Some("s2"), "score")));
    for (largest, scale) in [(0.9, 1.0), (1.0, 1.0), (3.5, 4.0), (9.5, 10.0), (80.0, 100.0), (250.5, 251.0)] {
        let row = |i: usize| format!("{}\t{}\t{}\n", text(i), text(i + 1), largest * i as f64 / 29.0);
        write(&dir, "scaled.tsv", &format!("s1\ts2\tscore\n{}", rows(30, row)));
        fine(&init(&dir, &["scaled.tsv"]));
        let r = Recipe::load(&dir.path().join("recipe.toml"), &[]).unwrap();
        assert_eq!((r.task, r.similar.label_scale), (TaskKind::Similar, scale), "{largest}");
    }

    // No label: partners. A third text has no place in the recipe.
    let row = |i: usize| format!("{},{},{}\n", text(i), text(i + 1), text(i + 2));
    write(&dir, "triplets.csv", &format!("anchor,positive,negative\n{}", rows(40, row)));
    let (said, r) = trained(&dir, &["triplets.csv"]);
    assert_eq!(
        (r.task, r.similar.loss, r.data.label.as_str()),
        (TaskKind::Similar, PairLoss::Contrastive, "")
    );
    assert!(said.contains("\"negative\" (a text as well)"), "{said}");
    let row = |i: usize| format!("{},{},1\n", text(i), text(i + 1));
    write(&dir, "partners.csv", &format!("query,document,label\n{}", rows(40, row)));
    let (_, r) = trained(&dir, &["partners.csv"]);
    assert_eq!((r.task, r.similar.loss, columns(&r).2), (TaskKind::Similar, PairLoss::Contrastive, "label"));
}

#[test]
fn init_tells_tags_and_answers() {
    let dir = folder();
    data(dir.path());
    let (said, r) = trained(&dir, &["tag.conll"]);
    assert_eq!(r.task, TaskKind::Tag);
    assert!(said.contains("3: B-LOC, B-PER, O") && said.contains("the scheme iob2"), "{said}");
    // CoNLL-2003 comes as .txt, with splits beside it.
    let sentence = |i: usize| format!("{} NNP I-NP I-PER\nran VB O O\n\n", ["Alice", "Bob"][i % 2]);
    for (name, n) in [("train", 20), ("valid", 4), ("test", 5)] {
        write(&dir, &format!("ner/{name}.txt"), &format!("-DOCSTART- -X- O O\n\n{}", rows(n, sentence)));
    }
    let (said, r) = trained(&dir, &["ner"]);
    assert_eq!((r.task, r.data.train.as_path()), (TaskKind::Tag, dir.path().join("ner/train.txt").as_path()));
    assert_eq!(r.data.validation.as_deref(), Some(dir.path().join("ner/valid.txt").as_path()));
    assert!(said.contains("valid.txt: 4 sentences"), "{said}");

    let row = |i: usize| {
        format!(
            "{{\"id\": {i}, \"tokens\": [\"Alice\", \"ran\", \"{i}\"], \"ner_tags\": [\"B-PER\", \"O\", \"O\"]}}\n"
        )
    };
    write(&dir, "ner.jsonl", &rows(20, row));
    let (said, r) = trained(&dir, &["ner.jsonl"]);
    assert_eq!((r.task, columns(&r)), (TaskKind::Tag, ("tokens", None, "ner_tags")), "{said}");
    let row = |i: usize| format!("{{\"text\": \"Bob ran {i}\", \"entities\": [[0, 3, \"PER\"]]}}\n");
    write(&dir, "spans.jsonl", &rows(20, row));
    let (_, r) = trained(&dir, &["spans.jsonl"]);
    assert_eq!((r.task, columns(&r)), (TaskKind::Tag, ("text", None, "entities")));

    // Universal Dependencies: the word stands in the second column.
    let word = |i: usize, word: &str, tag: &str| format!("{i}\t{word}\t_\t{tag}\tX{tag}\t_\t0\troot\t_\t_\n");
    let sentence = |i: usize| {
        let (a, b) = (word(1, ["Alice", "Bob"][i % 2], "PROPN"), word(2, "ran", "VERB"));
        format!("# sent_id = {i}\n{a}{b}\n")
    };
    write(&dir, "en-ud-train.conllu", &rows(20, sentence));
    write(&dir, "en-ud-dev.conllu", &rows(6, sentence));
    let (said, r) = trained(&dir, &["en-ud-train.conllu"]);
    assert_eq!((r.task, r.data.label.as_str()), (TaskKind::Tag, "label"));
    assert!(said.contains("2: PROPN, VERB") && said.contains("en-ud-dev.conllu: 6 sentences"), "{said}");
    let (said, r) = trained(&dir, &["en-ud-train.conllu", "--label", "xpos"]);
    assert_eq!((r.task, r.data.label.as_str()), (TaskKind::Tag, "xpos"));
    assert!(said.contains("2: XPROPN, XVERB"), "{said}");
    // Words and tags may also be separated by tabs in a file named .tsv.
    write(&dir, "words.tsv", &rows(20, |i| format!("{}\tB-PER\nran\tO\n\n", ["Alice", "Bob"][i % 2])));
    assert_eq!(trained(&dir, &["words.tsv"]).1.task, TaskKind::Tag);

    let (said, r) = trained(&dir, &["answer.json"]);
    assert_eq!((r.task, r.data.max_length), (TaskKind::Answer, 40), "the model has 40 positions");
    assert!(said.contains("24 questions"), "{said}");
}

#[test]
fn init_tells_raw_text() {
    let dir = folder();
    data(dir.path());
    let (said, r) = trained(&dir, &["text.txt"]);
    assert_eq!((r.task, r.mask.by_row), (TaskKind::Mask, false));
    assert!(said.contains("24 documents"), "{said}");
    let (_, r) = trained(&dir, &["text.txt", "--task", "next"]);
    assert_eq!(r.task, TaskKind::Next);
    // Without an empty line all would be one document, and none could validate.
    write(&dir, "lines.txt", &rows(30, |i| text(i) + "\n"));
    let (_, r) = trained(&dir, &["lines.txt"]);
    assert_eq!((r.task, r.mask.by_row), (TaskKind::Mask, true));
    write(&dir, "one.txt", "Alice went to Paris and saw the big red house\n");
    let (_, r) = trained(&dir, &["one.txt"]);
    assert_eq!((r.task, r.data.validation_fraction), (TaskKind::Mask, 0.0));
    // A table of texts alone.
    write(&dir, "texts.csv", &format!("text\n{}", rows(30, |i| text(i) + "\n")));
    let (_, r) = trained(&dir, &["texts.csv"]);
    assert_eq!((r.task, r.data.text.as_str()), (TaskKind::Mask, "text"));
    // A text with labels may also be raw text, if someone says so.
    write(&dir, "labelled.csv", &format!("text,label\n{}", rows(30, |i| format!("{},{}\n", text(i), i % 2))));
    let (_, r) = trained(&dir, &["labelled.csv", "--task", "mask"]);
    assert_eq!(r.task, TaskKind::Mask);

    let dir = tempdir().unwrap();
    prepared(dir.path(), &golden("encoders/xlnet"));
    data(dir.path());
    assert_eq!(trained(&dir, &["text.txt", "--task", "permute"]).1.task, TaskKind::Permute);
    // XLNet was pretrained neither on next sentences nor with masks.
    let said = refused(&init(&dir, &["text.txt", "--task", "next", "--model", "base"]), 4);
    assert!(said.contains("the model cannot do task \"next\"") && said.contains("bert"), "{said}");
}

#[test]
fn init_accepts_every_task_of_a_recipe() {
    let kinds = Recipe::keys().into_iter().find(|key| key.path() == "task").unwrap().accepts;
    let help = fine(&program(Path::new("."), &["init", "--help"]).output().unwrap());
    let values = help.split("[possible values: classify").nth(1).unwrap().split(']').next().unwrap();
    for task in kinds.split(" or ").map(|name| name.trim_matches('"')).filter(|name| *name != "classify") {
        assert!(values.split([',', ' ', '\n']).any(|value| value == task), "no {task} in {values}");
    }
}

#[cfg(feature = "parquet")]
#[test]
fn init_reads_parquet() {
    // `good.parquet` of the readers' tests.
    let dir = folder();
    let file = golden("data/good.parquet");
    let said = fine(&init(&dir, &[str(&file), "--model", "./base"]));
    let recipe = Recipe::load(&dir.path().join("recipe.toml"), &[]).unwrap();
    assert_eq!((recipe.task, columns(&recipe)), (TaskKind::Classify, ("text", None, "label")), "{said}");
    assert!(said.contains("2500 rows") && said.contains("\"score\""), "{said}");
}

#[test]
fn init_combines_recipes_of_several_tasks() {
    let dir = folder();
    data(dir.path());
    for (file, recipe) in [("classify.csv", "mood.toml"), ("tag.conll", "names.toml")] {
        fine(&init(&dir, &[file, "--model", "./base", "-o", recipe]));
    }
    let both = ["--task", "multi", "mood.toml", "names.toml"];
    let said = fine(&init(&dir, &both));
    assert!(said.contains("mood: classify, ") && said.contains("names: tag, "), "{said}");
    let (recipe, warnings) = Recipe::load_with_warnings(&dir.path().join("recipe.toml"), &[]).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!((recipe.task, recipe.multi.recipes.len()), (TaskKind::Multi, 2));
    let out = dir.path().join("out");
    let output = format!("output={}", str(&out));
    let set = ["--set", "train.max_steps=2", "--set", &output, "--set", "threads=2", "-q"];
    fine(&program(dir.path(), &[&["train", "recipe.toml"], &set[..]].concat()).output().unwrap());
    assert!(out.join("model/model.safetensors").is_file());

    let multi = |args: &[&str]| refused(&init(&dir, &[&["--task", "multi"], args].concat()), 2);
    assert!(multi(&["mood.toml"]).contains("two recipes or more"));
    assert!(
        multi(&["mood.toml", "recipe.toml", "-o", "all.toml"]).contains("cannot be one of several tasks")
    );
    fs::create_dir(dir.path().join("b")).unwrap();
    fs::copy(dir.path().join("mood.toml"), dir.path().join("b/mood.toml")).unwrap();
    assert!(multi(&["mood.toml", "b/mood.toml"]).contains("two recipes are named \"mood\""));
    assert!(multi(&["mood.toml", "names.toml", "-o", "names.toml"]).contains("would overwrite the input"));
}

#[test]
fn init_takes_the_model_that_the_quickstart_fetched() {
    let dir = folder();
    write(&dir, "a.csv", &format!("text,label\n{}", rows(30, |i| format!("{},{}\n", text(i), i % 2))));
    let run = |name: &str, cache: &Path| {
        let mut command = program(dir.path(), &["init", "--force", "a.csv"]);
        for other in ["TEMPRA_CACHE", "XDG_CACHE_HOME", "HOME"] {
            command.env_remove(other);
        }
        fine(&command.env(name, cache).output().unwrap())
    };
    let path = || Recipe::load(&dir.path().join("recipe.toml"), &[]).unwrap().model.path;
    let said = run("TEMPRA_CACHE", &dir.path().join("cache"));
    assert_eq!(path(), "sentence-transformers/all-MiniLM-L6-v2");
    assert!(said.contains("hf download sentence-transformers/all-MiniLM-L6-v2"), "{said}");
    // Where the quickstart looks: one variable after the other.
    for (name, cache, model) in [
        ("TEMPRA_CACHE", "t", "t/all-MiniLM-L6-v2"),
        ("XDG_CACHE_HOME", "x", "x/tempra/all-MiniLM-L6-v2"),
        ("HOME", "h", "h/.cache/tempra/all-MiniLM-L6-v2"),
    ] {
        let model = dir.path().join(model);
        fs::create_dir_all(&model).unwrap();
        for file in fs::read_dir(dir.path().join("base")).unwrap().flatten() {
            fs::copy(file.path(), model.join(file.file_name())).unwrap();
        }
        let said = run(name, &dir.path().join(cache));
        assert_eq!(path(), str(&model));
        assert!(said.contains("counted with the model's tokenizer"), "{said}");
    }
}
