//! `tempra init`: the recipe it writes loads, and fits the data. Steps and lengths were counted by hand.

use super::cli::{fine, golden, program, refused, repository, stderr, str};
use std::fs;
use std::path::Path;
use tempfile::tempdir;
use tempra::train::recipe::{Recipe, TaskKind};

#[test]
fn init_writes_a_recipe_that_loads() {
    let dir = tempdir().unwrap();
    let run = |args: &[&str]| program(dir.path(), args).output().unwrap();
    let train = repository().join("examples/sentiment/train.csv");
    let said = fine(&run(&["init", str(&train)]));
    let path = dir.path().join("recipe.toml");
    let recipe = Recipe::load(&path, &[]).unwrap();
    assert_eq!((recipe.task, recipe.data.train.as_path()), (TaskKind::Classify, train.as_path()));
    assert_eq!(
        (recipe.data.text.as_str(), recipe.data.label.as_str(), &recipe.data.pair),
        ("text", "label", &None)
    );
    assert_eq!(recipe.data.test, Some(train.with_file_name("test.csv")));
    assert_eq!((recipe.data.validation, recipe.data.validation_fraction), (None, 0.1));
    // 2,160 rows are 135 steps of 16; three epochs are more than 300.
    assert_eq!((recipe.train.epochs, recipe.train.batch_size, recipe.optim.lr), (3.0, 16, 5e-5));
    assert_eq!(recipe.output, Path::new("runs/sentiment"));
    assert!(recipe.data.max_length.is_multiple_of(16));
    let model = recipe.model.path;
    assert!(
        ["2400 rows", "by its name", "tempra train recipe.toml", &model].iter().all(|s| said.contains(s)),
        "{said}"
    );

    // What is there is not replaced unasked.
    fs::write(&path, "mine").unwrap();
    assert!(refused(&run(&["init", str(&train)]), 2).contains("--force"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    let model = golden("a");
    fine(&run(&["init", str(train.parent().unwrap()), "--force", "--model", str(&model)]));
    let recipe = Recipe::load(&path, &[]).unwrap();
    assert_eq!((recipe.model.path.as_str(), recipe.data.max_length), (str(&model), 40), "its positions");
    let out = run(&["init", str(&train), "-o", "-"]);
    Recipe::from_toml(&fine(&out), &path, &[]).unwrap();
    assert!(stderr(&out).contains("2400 rows"));
}

#[test]
fn init_fits_the_recipe_to_the_data() {
    let dir = tempdir().unwrap();
    let file = |name: &str, text: String| fs::write(dir.path().join(name), text).unwrap();
    let run = |args: &[&str]| {
        let mut command = program(dir.path(), &[&["init", "--force"], args].concat());
        // Without a model on the machine tokens are estimated from words.
        command.env("TEMPRA_CACHE", dir.path().join("no-cache")).output().unwrap()
    };
    let recipe = || Recipe::load(&dir.path().join("recipe.toml"), &[]).unwrap();

    // Pairs with decimals, and a validation file: all 160 rows train.
    let words = ["word"; 30].join(" ");
    let row = |i: usize| format!("{words}\tshort {i}\t{:.2}\n", i as f64 / 32.0);
    file("sts-train.tsv", format!("sentence1\tsentence2\tscore\n{}", (0..160).map(row).collect::<String>()));
    file("sts-dev.tsv", format!("sentence1\tsentence2\tscore\n{}", (0..9).map(row).collect::<String>()));
    file("sts-test.tsv", "sentence1\tsentence2\na\tb\n".into());
    let said = fine(&run(&["sts-train.tsv"]));
    let r = recipe();
    assert_eq!((r.task, r.train.best_metric.as_str()), (TaskKind::Similar, "spearman"));
    assert_eq!(r.similar.label_scale, 5.0, "4.97 is the largest label");
    assert_eq!(
        (r.data.text.as_str(), r.data.pair.as_deref(), r.data.label.as_str()),
        ("sentence1", Some("sentence2"), "score")
    );
    assert_eq!(r.data.validation, Some(dir.path().join("sts-dev.tsv")));
    assert_eq!(r.data.test, None, "it lacks the label");
    assert!(said.contains("left out: sts-test.tsv: there is no column \"score\""), "{said}");
    // 160 rows are 10 steps of 16, so 30 epochs make 300 steps.
    assert_eq!((r.train.epochs, r.optim.lr, r.optim.warmup_ratio), (30.0, 2e-5, 0.1));
    // 1.4 tokens a word: 42 + 2 special ones, in steps of 16.
    assert_eq!(r.data.max_length, 48);

    // Columns without a known name, classes 1:9 of which one has quotes. Of 100 rows 80 train: 5 steps, the
    // most epochs.
    let kind = |i: usize| if i.is_multiple_of(10) { "\"ra\"\"re\"" } else { "often" };
    let row = |i: usize| format!("{i},this is some prose about {i},{}\n", kind(i));
    file("data.csv", format!("key,prose,kind\n{}", (0..100).map(row).collect::<String>()));
    let said = fine(&run(&["data.csv"]));
    let r = recipe();
    assert_eq!((r.data.text.as_str(), r.data.label.as_str(), r.task), ("prose", "kind", TaskKind::Classify));
    assert_eq!((r.data.validation_fraction, r.train.epochs), (0.2, 50.0));
    assert_eq!(r.output, Path::new("runs/data"));
    assert!(said.contains("has 10") && said.contains("balanced"), "{said}");
    let text = fs::read_to_string(dir.path().join("recipe.toml")).unwrap();
    assert!(text.contains("\n# class_weights = \"balanced\"\n"), "{text}");

    // Whole numbers: few are classes, unless one says otherwise; many are amounts.
    let rows = |n: usize| (0..400).map(|i| format!("a text,{}\n", i % n * 3)).collect::<String>();
    file("stars.csv", format!("text,label\n{}", rows(5)));
    fine(&run(&["stars.csv"]));
    assert_eq!(recipe().task, TaskKind::Classify);
    fine(&run(&["stars.csv", "--task", "regress"]));
    assert_eq!(recipe().task, TaskKind::Regress);
    file("prices.csv", format!("text,label\n{}", rows(100)));
    fine(&run(&["prices.csv"]));
    assert_eq!(recipe().task, TaskKind::Regress);
    assert!(refused(&run(&["prices.csv", "--text", "txt"]), 3).contains("did you mean \"text\"?"));
}
