//! What a person reads of a run: the lines before the first step, warnings, the last words, and errors that
//! name the cause.

use crate::support::golden;
use crate::tasks::{data, ok, prepared, read, recipe, tempra};
use std::path::Path;

/// A folder with the small BERT and data of every kind.
fn setting() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    dir
}

fn write(dir: &Path, task: &str, file: &str, more: &str, train: &str) {
    std::fs::write(dir.join(format!("{task}.toml")), recipe(task, file, more, task) + train).unwrap();
}

/// Trains; the exit code, and standard output with standard error behind it.
fn run(dir: &Path, name: &str, args: &[&str]) -> (Option<i32>, String) {
    let file = format!("{name}.toml");
    let out = tempra(dir, &[&["train", &file], args].concat());
    let said = [&out.stdout, &out.stderr].map(|s| String::from_utf8_lossy(s).into_owned()).concat();
    (out.status.code(), said)
}

fn train(dir: &Path, name: &str, args: &[&str]) -> String {
    let (code, said) = run(dir, name, args);
    assert_eq!(code, Some(0), "{name} {args:?}: {said}");
    said
}

fn refused(dir: &Path, name: &str, args: &[&str], words: &[&str]) {
    let (code, said) = run(dir, name, args);
    assert!(code.is_some_and(|code| code != 0), "{name} {args:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{name} {args:?}: no {word:?} in\n{said}");
    }
}

/// The number of parameters of BERT follows from its config: embeddings and their norm, layers, pooler, two
/// classes.
#[test]
fn a_small_model_is_described_in_units_that_fit() {
    let dir = setting();
    write(dir.path(), "classify", "classify.csv", "", "");
    let said = train(dir.path(), "classify", &[]);
    let config: serde_json::Value = read(&dir.path().join("base/config.json"));
    let n = |key: &str| config[key].as_u64().unwrap();
    let (h, f) = (n("hidden_size"), n("intermediate_size"));
    let embeddings = (n("vocab_size") + n("max_position_embeddings") + n("type_vocab_size")) * h + 2 * h;
    let layer = 4 * (h * h + h) + 2 * h * f + f + h + 4 * h;
    let all = embeddings + n("num_hidden_layers") * layer + (h * h + h) + (2 * h + 2);
    let shown = format!("{},{:03}", all / 1000, all % 1000);
    assert!(said.contains(&format!("model: {shown} parameters, all trained\n")), "{shown}: {said}");
    let memory = said.lines().find(|l| l.starts_with("memory: ")).unwrap();
    assert!(memory.contains("KiB for weights, gradients and optimizer states"), "{memory}");
    let weights = said.lines().find(|l| l.starts_with("weights: ")).unwrap();
    assert!(weights.ends_with("; initialised at random: classifier.weight, classifier.bias"), "{weights}");
    assert!(!said.contains("0.0 M") && !said.contains(" 0 MiB"), "{said}");
    // Six texts, each four times: one of them is nearest to a quarter.
    assert!(said.contains("train: 20 examples, ") && said.contains("validation: 4 examples, "), "{said}");
    assert!(said.contains("best model by: accuracy (higher is better)"), "{said}");
    let cut = train(dir.path(), "classify", &["--fresh", "--set", "data.max_length=6"]);
    assert!(cut.lines().any(|l| l.starts_with("train: ") && l.ends_with(" tokens cut")), "{cut}");
    let frozen = train(dir.path(), "classify", &["--fresh", "--set", "model.freeze=['bert.']"]);
    assert!(frozen.contains(&format!("parameters, {} of them trained", 2 * h + 2)), "{frozen}");
}

#[test]
fn a_run_that_cannot_be_resumed_names_the_keys_that_changed() {
    let dir = setting();
    write(dir.path(), "classify", "classify.csv", "", "");
    train(dir.path(), "classify", &[]);
    let changed = ["--set", "optim.lr=2e-3", "--set", "optim.warmup_steps=1"];
    let words = [
        "cannot be resumed: it was started with another recipe",
        "optim.lr = 0.002, earlier 0.001",
        "optim.warmup_steps = 1, earlier not set",
        "--fresh",
    ];
    refused(dir.path(), "classify", &changed, &words);
    let (_, said) = run(dir.path(), "classify", &changed);
    assert!(!said.contains("optim.beta1") && !said.contains("threads ="), "{said}");
    // Without the recipe of the run nothing is named, and nothing is made up.
    std::fs::remove_file(dir.path().join("classify/recipe.toml")).unwrap();
    let (code, said) = run(dir.path(), "classify", &changed);
    assert!(code == Some(2) && said.contains("another recipe") && !said.contains("earlier"), "{said}");
}

#[test]
fn a_finished_run_is_reported_without_warnings() {
    let dir = setting();
    write(dir.path(), "classify", "classify.csv", "", "");
    let first = train(dir.path(), "classify", &[]);
    assert!(first.contains("warning: "), "the head is new: {first}");
    let again = train(dir.path(), "classify", &[]);
    assert!(again.contains("already finished (step 3)") && !again.contains("warning"), "{again}");
    assert!(again.contains("best validation (step 3): accuracy"), "{again}");
}

#[test]
fn early_stopping_that_cannot_stop_is_warned_about() {
    let dir = setting();
    write(dir.path(), "classify", "classify.csv", "", "");
    // Six validations: a patience of 5 stops at the sixth, which is the end; one of 4 may stop at the fifth.
    let set = |n: &str| {
        let patience = format!("train.early_stopping={n}");
        let all =
            ["--fresh", "--set", "train.max_steps=6", "--set", "train.eval_every=1", "--set", &patience];
        train(dir.path(), "classify", &all)
    };
    let said = set("5");
    let words = ["train.early_stopping = 5 cannot end this run early", "more than 6 validations", "found: 6"];
    assert!(words.iter().all(|w| said.contains(w)), "{said}");
    assert!(!set("4").contains("cannot end this run early"));
    let epochs = [
        "--fresh",
        "--set",
        "train.max_steps=",
        "--set",
        "train.epochs=3",
        "--set",
        "train.eval_every=epoch",
    ];
    let said = train(dir.path(), "classify", &[&epochs[..], &["--set", "train.early_stopping=2"]].concat());
    assert!(said.contains("cannot end this run early") && said.contains("found: 3 validations"), "{said}");
}

#[test]
fn several_tasks_are_reported_by_name() {
    let dir = setting();
    let d = dir.path();
    write(d, "classify", "classify.csv", "test_fraction = 0.2\n", "");
    write(d, "regress", "regress.csv", "", "");
    let multi = |recipes: &[&str]| {
        let text = format!(
            "task = \"multi\"\nthreads = 2\nseed = 3\noutput = \"multi\"\n[model]\npath = \"./base\"\n[multi]\n\
             recipes = {recipes:?}\n[data]\nmax_length = 14\n[optim]\nlr = 2e-3\n[train]\nbatch_size = 4\nmax_steps = 4\n"
        );
        std::fs::write(d.join("multi.toml"), text).unwrap();
    };
    multi(&["classify.toml", "regress.toml"]);
    let said = train(d, "multi", &[]);
    assert!(said.contains("the test mean leaves out tasks without test examples: regress"), "{said}");
    assert!(!said.contains("the validation mean"), "{said}");
    assert!(said.contains("\nclassify:\n"), "{said}");
    // A regression has no table to print, so there is no heading for it.
    let empty = said.lines().collect::<Vec<_>>().windows(2).any(|l| l[0] == "regress:" && l[1].is_empty());
    assert!(!empty && !said.contains("regress:\n\n"), "{said}");
    std::fs::create_dir(d.join("sub")).unwrap();
    std::fs::copy(d.join("classify.toml"), d.join("sub/classify.toml")).unwrap();
    std::fs::copy(d.join("classify.toml"), d.join("my reviews.toml")).unwrap();
    multi(&["classify.toml", "sub/classify.toml"]);
    refused(d, "multi", &[], &["would both name their task \"classify\"", "help: rename one of the files"]);
    multi(&["classify.toml", "my reviews.toml"]);
    refused(
        d,
        "multi",
        &[],
        &["cannot be the name of a task", "found: \"my reviews\"", "help: rename the file"],
    );
    multi(&["classify.toml"]);
    refused(d, "multi", &[], &["too few recipes in multi.recipes", "expected: at least 2", "found: 1"]);
}

#[test]
fn a_split_without_examples_names_the_set() {
    let dir = setting();
    std::fs::write(dir.path().join("few.csv"), "text,label\nthe cat,yes\na dog,no\n").unwrap();
    write(dir.path(), "classify", "few.csv", "test_fraction = 0.25\n", "");
    let words = [
        "few.csv: too few examples to split off a validation and a test set",
        "at least one example in each set",
        "2 examples with data.validation_fraction = 0.25 and data.test_fraction = 0.25",
        "set data.validation to a file",
    ];
    refused(dir.path(), "classify", &[], &words);
    let only_test = ["--set", "data.validation=classify.csv", "--set", "data.test_fraction=0.9"];
    std::fs::write(dir.path().join("few.csv"), "text,label\nthe cat,yes\nthe cat,no\n").unwrap();
    refused(dir.path(), "classify", &only_test, &["too few examples to split off a test set"]);
}

#[test]
fn as_many_steps_as_the_key_says_may_diverge() {
    for limit in [0, 2] {
        let dir = setting();
        write(dir.path(), "classify", "classify.csv", "", "");
        let most = format!("train.max_nonfinite_steps={limit}");
        let set = ["--set", "optim.lr=1e30", "--set", "train.max_steps=20", "--set", &most];
        let steps = if limit == 0 { "1 step in a row" } else { "3 steps in a row" };
        refused(
            dir.path(),
            "classify",
            &set,
            &[steps, &format!("at most {limit} (train.max_nonfinite_steps)")],
        );
    }
}

/// The command that a run ends with works with a file like the one it was trained on.
#[test]
fn the_last_line_names_a_command_that_works() {
    let dir = setting();
    let d = dir.path();
    let words = "{\"words\": [\"Alice\", \"went\"], \"tags\": [\"B-PER\", \"O\"]}\n{\"words\": [\"Bob\"], \"tags\": [\"B-PER\"]}\n\
                 {\"words\": [\"to\", \"Paris\"], \"tags\": [\"O\", \"B-LOC\"]}\n{\"words\": [\"a\"], \"tags\": [\"O\"]}\n";
    std::fs::write(d.join("tag.jsonl"), words).unwrap();
    let columns = "stride = 2\ntext = \"words\"\nlabel = \"tags\"\n";
    let cases = [
        ("tag", "tag.jsonl", columns, "FILE.jsonl", "tag.jsonl"),
        ("tag", "tag.conll", "stride = 2\n", "FILE.conll", "tag.conll"),
        ("next", "text.txt", "", "FILE.csv --pair COLUMN", "similar.csv --pair pair"),
        ("similar", "similar.csv", "pair = \"pair\"\n", "FILE.csv", "similar.csv"),
        ("answer", "answer.json", "stride = 2\n", "FILE.json -o FOLDER", "answer.json -o found"),
        ("classify", "similar.csv", "pair = \"pair\"\n", "FILE.csv", "similar.csv"),
    ];
    for (task, file, more, named, instead) in cases {
        write(d, task, file, more, "");
        let said = train(d, task, &["--fresh"]);
        let line = said.lines().find_map(|l| l.strip_prefix("use it: ")).unwrap_or_else(|| panic!("{said}"));
        let command = line.split("   (").next().unwrap();
        assert!(command.contains(named), "{task}: {line}");
        if more.contains("pair") && task == "classify" {
            assert!(line.contains("needs the columns \"text\" and \"pair\""), "{line}");
        }
        let command = command.replace(named, instead);
        let words: Vec<&str> = command.split_whitespace().collect();
        assert_eq!(words[0], "tempra", "{line}");
        ok(&command, tempra(d, &words[1..]));
        let Some(line) = said.lines().find_map(|l| l.strip_prefix("try it: tempra ")) else {
            assert!(["next", "similar"].contains(&task), "{said}");
            continue;
        };
        // Every second part is quoted.
        let parts = line.split('"').enumerate();
        let words = parts.flat_map(|(i, part)| match i % 2 {
            0 => part.split_whitespace().collect(),
            _ => vec![part],
        });
        ok(line, tempra(d, &words.collect::<Vec<_>>()));
    }
}

/// Names of any length leave the columns of numbers aligned.
#[test]
fn tables_are_aligned() {
    let dir = setting();
    write(dir.path(), "classify", "classify.csv", "", "");
    let said = train(dir.path(), "classify", &["--set", "seeds=[1, 2]"]);
    let table = said.split("over 2 seeds:\n").nth(1).unwrap_or_else(|| panic!("{said}"));
    let rows: Vec<&str> = table.lines().take_while(|l| l.starts_with("  ")).collect();
    assert!(rows.iter().any(|r| r.contains("average_precision")), "{table}");
    let places: Vec<Option<usize>> = rows.iter().map(|r| r.find(" +- ")).collect();
    assert!(places.iter().all(|p| p.is_some() && *p == places[0]), "{table}");
}
