//! Runs what the documentation shows, in a scratch folder: the commands of every `sh` block on small data and
//! tiny random models, and every recipe of `docs/tasks.md` for one step on the data that the page shows.
//!
//! A GPU in a command becomes the CPU, 16 bits become f32, and `bench` measures a tiny model for a moment,
//! once in each of its forms. `verify` and `bench compare --against` are only parsed: the first has tests of
//! its own, the second needs another build.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::{TempDir, tempdir};
use tempra::train::Recipe;

use crate::cli::{program, stderr, stdout};
use crate::docs::{Block, Page, arguments, pages, shell, spans, split};
use crate::support::golden;

/// What `bench` is told instead of the sizes that a page shows.
const SMALL: [&str; 10] = [
    "--seconds",
    "0.01",
    "--samples",
    "3",
    "--shape-of",
    "path/to/model",
    "--tokens",
    "32",
    "--length",
    "16",
];

fn copy(model: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(model).unwrap().flatten().filter(|f| f.file_name() != "grads.safetensors") {
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Rows of distinct texts, half of them of each label.
fn reviews(rows: usize) -> String {
    let line = |i: usize| match i % 2 {
        0 => format!("A fine film with {i} songs.,positive\n"),
        _ => format!("Far too long by {i} minutes.,negative\n"),
    };
    (0..rows).map(line).fold("text,label\n".to_owned(), |all, line| all + &line)
}

/// The folder of a reader: files under the names that the pages use, and tiny models with 40 positions.
fn scratch() -> TempDir {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    // The last one is where the quickstart puts the model that init takes by default.
    let names =
        ["path/to/model", "models/all-MiniLM-L6-v2", "models/bert-base-cased", "models/bert-base-uncased"];
    for name in names.into_iter().chain(["cache/all-MiniLM-L6-v2"]) {
        copy(&golden("bert/a"), &at(name));
    }
    crate::tasks::prepared(dir.path(), &golden("encoders/xlnet"));
    copy(&at("base"), &at("models/xlnet-base-cased"));
    for (name, rows) in [("reviews.csv", 40), ("test.csv", 12)] {
        fs::write(at(name), reviews(rows)).unwrap();
    }
    let texts =
        reviews(6).lines().map(|l| l.rsplit_once(',').unwrap().0.to_owned() + "\n").collect::<String>();
    fs::write(at("new.csv"), texts).unwrap();
    let sentences = (0..24).map(|i| {
        format!("The film has {i} songs.\nIt has {i} scenes, too.\n{}", if i % 3 == 2 { "\n" } else { "" })
    });
    fs::write(at("corpus.txt"), sentences.collect::<String>()).unwrap();
    fs::write(at("lengths.txt"), "5\n30\n12\n").unwrap();
    let recipe = |task: &str, train: &str, name: &str| {
        let text = format!(
            "task = \"{task}\"\n[model]\npath = \"path/to/model\"\n[data]\ntrain = \"{train}\"\nmax_length = 40\n[train]\nepochs = 1\n"
        );
        fs::write(at(name), text).unwrap();
    };
    recipe("classify", "reviews.csv", "recipe.toml");
    recipe("classify", "reviews.csv", "reviews.toml");
    recipe("mask", "corpus.txt", "corpus.toml");
    dir
}

/// Models that `tempra shrink` makes smaller: of the second nothing reads the feed-forward rows of a layer,
/// as structured pruning leaves them.
fn models_to_shrink(dir: &Path) {
    for model in ["runs/reviews/model", "runs/pruned/model"] {
        copy(&golden("bert/a"), &dir.join(model));
    }
    let weights = dir.join("runs/pruned/model/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let place = &header["bert.encoder.layer.0.output.dense.weight"]["data_offsets"];
    let [from, to] = [0, 1].map(|i| start + place[i].as_u64().unwrap() as usize);
    bytes[from..to].fill(0);
    fs::write(weights, bytes).unwrap();
}

fn run(dir: &Path, arguments: &[String]) -> Output {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    program(dir, &words)
        .env("TEMPRA_CACHE", dir.join("cache"))
        .env("TEMPRA_BENCH_QUICK_CEILINGS", "1")
        .output()
        .unwrap()
}

/// The result of a short measurement, for pages that compare results.
fn result() -> &'static str {
    static RESULT: OnceLock<String> = OnceLock::new();
    RESULT.get_or_init(|| {
        let dir = scratch();
        let words = ["bench", "ops", "--op", "linear*", "--device", "cpu", "--json"];
        let out = run(dir.path(), &words.iter().chain(&SMALL).map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert!(out.status.success(), "{}", stderr(&out));
        stdout(&out).to_owned()
    })
}

/// The same command for this machine and for a moment; none if it is only parsed.
fn here(arguments: &[String]) -> Option<Vec<String>> {
    let has = |word: &str| arguments.iter().any(|w| w == word);
    if arguments.first().is_some_and(|w| w == "verify") || has("--against") {
        return None;
    }
    let measures = has("bench") && !has("compare");
    let mut words = Vec::new();
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let sized = ["--shape-of", "--tokens", "--length", "--seconds", "--samples", "--sequences"];
        // A shape that a page shows is part of what is tried.
        let own = has("--shape") && word == "--tokens";
        if measures && sized.contains(&word.as_str()) && !own {
            rest.next();
            continue;
        }
        words.push(match word.as_str() {
            "cuda" | "wgpu" | "cpu,wgpu" | "cpu,cuda" | "cuda,wgpu" => "cpu".to_owned(),
            word => word.to_owned(),
        });
    }
    if measures {
        let sizes = if has("--shape") { &SMALL[..4] } else { &SMALL[..] };
        words.extend(sizes.iter().map(|w| (*w).to_owned()));
        if has("--lengths") && !has("--shape") {
            // A list of lengths has its own number of tokens.
            let at = words.iter().position(|w| w == "--tokens").unwrap();
            words.drain(at..at + 2);
        }
    }
    Some(words)
}

/// Runs the commands of one block in a folder; what failed, and how many ran.
fn follow(page: &str, block: &Block, dir: &Path, measured: &mut BTreeSet<[bool; 5]>) -> (Vec<String>, usize) {
    let (mut failed, mut ran) = (Vec::new(), 0);
    // `init` writes it.
    if block.text.contains("tempra init") {
        fs::remove_file(dir.join("recipe.toml")).unwrap();
    }
    if block.text.contains("tempra shrink") {
        models_to_shrink(dir);
    }
    for (i, line) in block.text.lines().enumerate() {
        for (arguments, output) in shell(line).iter().filter_map(|words| arguments(words)) {
            let Some(words) = here(&arguments) else { continue };
            if words.iter().any(|w| w == "compare" || w == "--with") {
                let results = words.iter().filter(|w| w.ends_with(".json") && !dir.join(w).exists());
                results.for_each(|name| fs::write(dir.join(name), result()).unwrap());
            }
            let has = |word: &str| words.iter().any(|w| w == word);
            let form = [has("ops"), has("step"), has("--shape"), has("--lengths"), has("--with")];
            if has("bench") && !has("compare") && !measured.insert(form) {
                output.into_iter().for_each(|name| fs::write(dir.join(name), result()).unwrap());
                continue;
            }
            let out = run(dir, &words);
            ran += 1;
            if let Some(output) = output {
                fs::write(dir.join(output), &out.stdout).unwrap();
            }
            // 1 and 10 are verdicts of `compare`, not failures: below --fail-under, too noisy.
            let verdict = match out.status.code() {
                Some(1) => has("--fail-under"),
                code => code == Some(10) && has("compare"),
            };
            if !out.status.success() && !verdict {
                let line = block.line + i;
                failed.push(format!(
                    "{page}:{line}: tempra {} ({}): {}",
                    words.join(" "),
                    out.status,
                    stderr(&out)
                ));
            }
        }
    }
    (failed, ran)
}

#[test]
fn commands_of_the_pages_run() {
    let (mut failed, mut ran, mut measured) = (Vec::new(), 0, BTreeSet::new());
    for Page { name, text } in pages() {
        for block in split(&text).0.iter().filter(|b| b.language == "sh") {
            let (wrong, count) = follow(&name, block, scratch().path(), &mut measured);
            failed.extend(wrong);
            ran += count;
        }
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
    assert!(ran > 12, "only {ran} commands ran");
}

#[test]
fn a_command_that_fails_is_found() {
    let block = |text: &str| Block {
        line: 7,
        heading: String::new(),
        language: "sh".to_owned(),
        text: text.to_owned(),
    };
    for (wrong, ran) in [
        ("tempra devices\ntempra train other.toml\n", 2),
        ("tempra predict path/to/model reviews.csv --text review\n", 1),
        ("tempra train recipe.toml --set optim.rate=1\n", 1),
    ] {
        let (failed, count) = follow("planted.md", &block(wrong), scratch().path(), &mut BTreeSet::new());
        assert!(failed.len() == 1 && failed[0].starts_with("planted.md:"), "{failed:?}");
        assert_eq!(count, ran);
    }
}

/// The table of commands in README.md, each with a file in the place of its placeholder.
#[test]
fn commands_of_the_table_run() {
    let dir = scratch();
    let readme = fs::read_to_string(crate::cli::repository().join("README.md")).unwrap();
    let (_, prose) = split(&readme);
    let commands = prose.iter().filter(|(_, l)| l.starts_with('|')).flat_map(|(_, l)| spans(l).take(1));
    let commands: Vec<&str> = commands.filter(|c| c.starts_with("tempra ")).collect();
    let names = [
        ("RECIPE", "recipe.toml"),
        ("MODEL", "runs/recipe/model"),
        ("DATA", "test.csv"),
        ("FILE...", "reviews.csv"),
        ("FILE", "new.csv"),
        ("TEXT", "corpus.toml"),
        ("TASK", "reviews.toml"),
        ("PATH", "runs/recipe"),
        ("SHELL", "bash"),
    ];
    // What others need comes first.
    let (first, others): (Vec<&str>, Vec<&str>) = commands.iter().partition(|c| c.contains(" train "));
    let mut missing: Vec<String> =
        tempra::cli::COMMANDS.iter().map(|c| (c.define)().get_name().to_owned()).collect();
    for command in first.into_iter().chain(others) {
        let words = shell(command).remove(0);
        missing.retain(|name| *name != words[1]);
        let place = |w: &String| {
            names.iter().find(|(name, _)| w == name).map_or(w.clone(), |(_, file)| (*file).to_owned())
        };
        let mut words: Vec<String> = words[1..].iter().map(place).collect();
        if words[0] == "init" {
            words.extend(["--model", "path/to/model", "-o", "first.toml"].map(str::to_owned));
        }
        if words[0] == "shrink" {
            words.extend(["--layers", "0"].map(str::to_owned));
        }
        // The pages measure already.
        if let Some(words) = here(&words).filter(|words| words[0] != "bench") {
            let out = run(dir.path(), &words);
            assert!(out.status.success(), "`{command}`: tempra {}: {}", words.join(" "), stderr(&out));
        }
    }
    assert!(missing.is_empty(), "README.md's table lacks {missing:?}");
}

/// A recipe of a page: its heading and text.
fn recipes(page: &str) -> Vec<(String, String)> {
    let whole = |b: &Block| b.language == "toml" && b.text.contains("task = ");
    split(page).0.into_iter().filter(whole).map(|b| (b.heading, b.text)).collect()
}

#[test]
fn recipes_of_the_pages_load() {
    let mut count = 0;
    for page in pages() {
        for (heading, text) in recipes(&page.text) {
            let loaded = Recipe::from_toml(&text, Path::new("recipe.toml"), &[]);
            assert!(loaded.is_ok(), "{}, {heading}: {}", page.name, loaded.unwrap_err());
            count += 1;
        }
    }
    assert!(count >= 9, "{count} recipes");
    assert!(
        Recipe::from_toml("task = \"classify\"\n[data]\ntrian = \"x.csv\"\n", Path::new("r.toml"), &[])
            .is_err()
    );
}

/// Every recipe of docs/tasks.md trains a step on the data shown beside it.
#[test]
fn recipes_of_the_pages_train() {
    let page = fs::read_to_string(crate::cli::repository().join("docs/tasks.md")).unwrap();
    let blocks = split(&page).0;
    let mut trained: BTreeMap<String, usize> = BTreeMap::new();
    let dir = scratch();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    // Those that `multi` names.
    for (name, task) in [("sentiment.toml", "classify"), ("ner.toml", "tag")] {
        let (_, recipe) = recipes(&page).into_iter().find(|(heading, _)| heading == task).unwrap();
        write(name, &recipe.replace("[data]", "[data]\nmax_length = 40\nvalidation_fraction = 0"));
    }
    for (heading, recipe) in recipes(&page) {
        let parsed = Recipe::from_toml(&recipe, Path::new("recipe.toml"), &[]).unwrap();
        write("shown.toml", &recipe);
        let mut sets = vec!["train.max_steps=1".to_owned(), "output=runs/shown".to_owned()];
        if heading != "multi" {
            sets.push("data.max_length=40".to_owned());
        }
        if heading == "answer" {
            sets.push("data.stride=8".to_owned());
        }
        if parsed.data.validation.is_none() {
            sets.push("data.validation_fraction=0".to_owned());
        }
        // The data of the section; language models read those of `next`.
        let data_of = if ["mask", "permute"].contains(&heading.as_str()) { "next" } else { &heading };
        let data =
            blocks.iter().filter(|b| b.heading == data_of && b.language != "toml" && b.language != "sh");
        let data: Vec<&Block> = data.collect();
        assert!(!data.is_empty() || heading == "multi", "{heading} shows no data");
        let mut train = |heading: &str, sets: &[String]| {
            let set = sets.iter().flat_map(|s| ["--set".to_owned(), s.clone()]);
            let words: Vec<String> =
                ["train", "shown.toml", "--fresh", "-q"].map(str::to_owned).into_iter().chain(set).collect();
            let out = run(dir.path(), &words);
            assert!(out.status.success(), "docs/tasks.md, {heading}: {}", stderr(&out));
            assert!(stdout(&out).contains("1 step in "), "{}", stdout(&out));
            *trained.entry(heading.to_owned()).or_default() += 1;
        };
        for block in data {
            let mut sets = sets.clone();
            if block.language == "json" && heading == "tag" {
                // One way to write an example a line.
                for line in block.text.lines() {
                    write("shown.jsonl", line);
                    sets.extend(["data.train=shown.jsonl", "data.validation=shown.jsonl"].map(str::to_owned));
                    train(&heading, &sets);
                }
                continue;
            }
            // Columns of 0 and 1: the text above the block says which key names them.
            let header = block.text.lines().next().unwrap_or_default();
            if block.language == "csv" && !header.split(',').any(|name| name == "label") {
                let label =
                    page.lines().flat_map(spans).find_map(|span| span.strip_prefix("label = [")).unwrap();
                sets.push(format!("data.label=[{label}"));
            }
            for file in [Some(&parsed.data.train), parsed.data.validation.as_ref()].into_iter().flatten() {
                write(file.file_name().unwrap().to_str().unwrap(), &block.text);
            }
            train(&heading, &sets);
        }
        if heading == "multi" {
            train(&heading, &sets);
        }
        if heading == "mask" {
            // `next` has the recipe of `mask` with another task.
            sets.push("task=next".to_owned());
            train("next", &sets);
        }
    }
    let tasks =
        ["answer", "classify", "mask", "multi", "multilabel", "next", "permute", "regress", "similar", "tag"];
    assert_eq!(trained.keys().map(String::as_str).collect::<Vec<_>>(), tasks);
    // CoNLL, CoNLL-U, spans of characters, lists of words.
    assert_eq!(trained["tag"], 4);
}
