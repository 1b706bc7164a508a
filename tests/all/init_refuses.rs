//! What `tempra init` refuses rather than guess, and the remedy that it names.

use super::cli::{fine, program, refused, str};
use std::fs;
use std::process::{Command, Output};
use tempfile::{TempDir, tempdir};
use tempra::train::recipe::{Recipe, TaskKind};

const TEXTS: [&str; 4] =
    ["Alice went to Paris", "the cat sat on the mat", "Bob ran to the house", "a dog saw it"];

fn rows(row: impl Fn(usize) -> String) -> String {
    (0..40).map(row).collect()
}
fn text(i: usize) -> String {
    format!("{} {i}", TEXTS[i % 4])
}
fn init(dir: &TempDir, args: &[&str]) -> Output {
    let mut command = program(dir.path(), &[&["init", "--force"], args].concat());
    command.env("TEMPRA_CACHE", dir.path().join("no-cache")).output().unwrap()
}
/// The message with which a file is refused. No recipe is left behind.
fn message(name: &str, content: &str) -> String {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join(name), content).unwrap();
    let said = refused(&init(&dir, &[name]), 3);
    assert!(!dir.path().join("recipe.toml").exists());
    assert!(said.contains("\n  help: "), "{said}");
    said
}
fn all(said: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(said.contains(part), "no {part:?} in\n{said}"));
}

/// Runs the shell command in a help text.
fn shell(dir: &TempDir, line: &str) {
    let out = Command::new("sh").arg("-c").arg(line).current_dir(dir.path()).output().unwrap();
    assert!(out.status.success(), "{line}\n{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_header_that_looks_like_data_is_refused_with_the_command_that_adds_one() {
    let class = |i: usize| ["pos", "neg"][i % 2];
    // A sentence; a number; a name that is also a value of its column.
    let sentence =
        rows(|i| format!("{},{}\n", "one two three four five six".to_owned() + &text(i), class(i)));
    all(&message("a.csv", &sentence), &["a.csv:1: the first line looks like data", "text,label"]);
    let number = rows(|i| format!("{i},{},{}\n", text(i), class(i)));
    all(&message("a.csv", &number), &["\"0\" is a number"]);
    let again = rows(|i| format!("{},{}\n", text(i), class(i)));
    all(
        &message("a.tsv", &again.replace(',', "\t")),
        &["\"pos\" is also a value of its column", "text\\tlabel"],
    );
    // A known name in the first line is no proof: `question` is a class here.
    let known = rows(|i| format!("{},{}\n", text(i), ["question", "order"][i % 2]));
    all(&message("a.csv", &known), &["\"question\" is also a value"]);

    // The command works, also where the file begins with a byte order mark.
    for mark in ["", "\u{feff}"] {
        let dir = tempdir().unwrap();
        fs::write(dir.path().join("my data.csv"), format!("{mark}{again}")).unwrap();
        let said = refused(&init(&dir, &["my data.csv"]), 3);
        let line = said.split("add a header line: ").nth(1).unwrap();
        let (command, then) = line.split_once(", then run tempra init ").unwrap();
        shell(&dir, command);
        let new = then.split(". If").next().unwrap().trim_matches('\'');
        assert!(fine(&init(&dir, &[new])).contains("40 rows"));
    }
    // A header of long names is accepted if the columns are named.
    let dir = tempdir().unwrap();
    let long = "How much did you like the film that you saw?";
    let rows = rows(|i| format!("{},{}\n", text(i), class(i)));
    fs::write(dir.path().join("form.csv"), format!("{long},vote\n{rows}")).unwrap();
    refused(&init(&dir, &["form.csv"]), 3);
    fine(&init(&dir, &["form.csv", "--text", long, "--label", "vote"]));
}

#[test]
fn columns_with_other_separators_are_refused_with_the_command_that_converts_them() {
    for (separator, name, parts) in [
        (";", "a.csv", ["separated by semicolons", "python3 -c"]),
        ("|", "a.csv", ["separated by vertical bars", "python3 -c"]),
        ("\t", "a.csv", ["separated by tabs", "mv a.csv a.tsv"]),
        (",", "a.tsv", ["separated by commas", "mv a.tsv a.csv"]),
    ] {
        let dir = tempdir().unwrap();
        let row = |i: usize| format!("{}{separator}{}\n", text(i), ["pos", "neg"][i % 2]);
        fs::write(dir.path().join(name), format!("text{separator}label\n{}", rows(row))).unwrap();
        let said = refused(&init(&dir, &[name]), 3);
        all(&said, &parts);
        let command = said.split("it: ").nth(1).unwrap_or_else(|| said.rsplit(": ").next().unwrap()).trim();
        shell(&dir, command);
        let new = fs::read_dir(dir.path()).unwrap().flatten().map(|f| f.file_name().into_string().unwrap());
        let new = new.filter(|f| f != name).max().unwrap_or_default();
        assert!(fine(&init(&dir, &[&new])).contains("classify: the labels are 2 different names"));
    }
}

#[test]
fn columns_that_are_no_label_are_refused() {
    let csv = |label: &dyn Fn(usize) -> String| {
        format!("text,label\n{}", rows(|i| format!("{},{}\n", text(i), label(i))))
    };
    all(&message("a.csv", "text,label\n"), &["a header line and no rows"]);
    all(&message("a.csv", &csv(&|i| (i + 100).to_string())), &["the column \"label\" numbers the rows"]);
    all(&message("a.csv", &csv(&|i| format!("2024-01-0{}", i % 3 + 1))), &["\"label\" holds dates"]);
    all(&message("a.csv", &csv(&|_| "yes".into())), &["all rows have the same label"]);
    all(
        &message("a.csv", &csv(&|i| format!("name{i}"))),
        &["hardly repeat", "40 different labels in 40 rows"],
    );
    all(&message("a.csv", &csv(&|_| String::new())), &["the column \"label\" is empty in all rows"]);
    let some = csv(&|i| ["a", "b", ""][i % 3].to_owned());
    all(&message("a.csv", &some), &["a.csv:4: the label is empty in 13 of 40 rows", "--task multilabel"]);
    let lists = csv(&|_| "\"['a', 'b']\"".into());
    all(&message("a.csv", &lists), &["lists in brackets", "separated by |"]);
    let decimal = csv(&|i| format!("\"{},{}\"", i % 5, i % 7));
    all(&message("a.csv", &decimal), &["decimal comma", "--task multilabel"]);

    // Ids and dates are never a label by content, and a table with them is not raw text.
    let id =
        format!("text,user_id,date\n{}", rows(|i| format!("{},{},2024-01-0{}\n", text(i), i % 4, i % 3 + 1)));
    all(&message("a.csv", &id), &["no column looks like a label", "--label COLUMN", "--task mask"]);
    let two = rows(|i| format!("{},{},{}\n", text(i), ["a", "b"][i % 2], ["x", "y", "z"][i % 3]));
    all(
        &message("a.csv", &format!("text,kind,source\n{two}")),
        &["\"kind\" (2 values), \"source\" (3 values)", "--label kind"],
    );
}

#[test]
fn columns_that_are_no_text_are_refused() {
    let csv = format!("a,label\n{}", rows(|i| format!("{i},{}\n", ["x", "y"][i % 2])));
    all(&message("a.csv", &csv), &["no column looks like text", "--text COLUMN"]);
    // A column that is called text and holds numbers is none either.
    all(&message("a.csv", &csv.replace("a,label", "text,label")), &["no column looks like text"]);
    let two = rows(|i| format!("{},{},{}\n", text(i), text(i + 1), ["x", "y"][i % 2]));
    all(
        &message("a.csv", &format!("left,right,label\n{two}")),
        &["\"left\" (6 words a row), \"right\"", "--text left --pair right"],
    );
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("a.csv"), format!("left,right,label\n{two}")).unwrap();
    fine(&init(&dir, &["a.csv", "--text", "left", "--pair", "right"]));
    assert_eq!(
        Recipe::load(&dir.path().join("recipe.toml"), &[]).unwrap().data.pair.as_deref(),
        Some("right")
    );
}

#[test]
fn files_of_another_kind_are_refused() {
    let sms = rows(|i| format!("{}\t{}\n", ["ham", "spam"][i % 2], text(i)));
    all(&message("sms.txt", &sms), &["looks like a table", "2 columns separated by tabs", "--task mask"]);
    let dir = tempdir().unwrap();
    let fast = rows(|i| format!("__label__{} {}\n", ["ham", "spam"][i % 2], text(i)));
    fs::write(dir.path().join("fast.txt"), &fast).unwrap();
    let said = refused(&init(&dir, &["fast.txt"]), 3);
    all(&said, &["fastText"]);
    shell(&dir, said.split("make it a table: ").nth(1).unwrap().split("; for raw text").next().unwrap());
    assert!(fine(&init(&dir, &["fast.tsv"])).contains("2 classes: ham 20, spam 20"));
    fine(&init(&dir, &["fast.txt", "--task", "mask"]));

    all(&message("a.docx", "no text"), &["the format of the file is unknown", ".conllu or .txt"]);
    all(&message("a.csv.gz", "\u{1f}"), &["unknown", "decompress the file first"]);
    let squad = rows(|i| {
        format!(
            "{{\"question\": \"who {i}\", \"context\": \"it was {i}\", \"answers\": {{\"text\": [\"it\"]}}}}\n"
        )
    });
    all(&message("squad.jsonl", &squad), &["cannot be read from a table", "SQuAD"]);
    let numbers = rows(|i| format!("{{\"tokens\": [\"a\", \"{i}\"], \"ner_tags\": [0, 1]}}\n"));
    all(&message("a.jsonl", &numbers), &["the tags in \"ner_tags\" are numbers"]);

    let dir = tempdir().unwrap();
    all(&refused(&init(&dir, &["gone.csv"]), 3), &["there is no such file or folder"]);
    fs::create_dir(dir.path().join("data")).unwrap();
    all(&refused(&init(&dir, &["data"]), 3), &["no training data in the folder", "named train"]);
    fs::write(
        dir.path().join("data/reviews.csv"),
        format!("text,label\n{}", rows(|i| format!("{},{}\n", text(i), i % 2))),
    )
    .unwrap();
    fine(&init(&dir, &["data"]));
    let recipe = Recipe::load(&dir.path().join("recipe.toml"), &[]).unwrap();
    assert_eq!(str(&recipe.data.train), str(&dir.path().join("data/reviews.csv")));
    fs::write(dir.path().join("words.txt"), "Alice B-PER\nran O\n\n").unwrap();
    all(
        &refused(&init(&dir, &["words.txt", "--task", "regress"]), 3),
        &["do not fit task \"regress\"", "name tag"],
    );
    // Three rows of two documents would be needed.
    fs::write(dir.path().join("lines.txt"), "one line\nanother line\n").unwrap();
    all(&refused(&init(&dir, &["lines.txt", "--task", "next"]), 3), &["too few documents", "--task mask"]);
    assert_eq!(recipe.task, TaskKind::Classify);
}

#[test]
fn what_would_silently_go_wrong_is_said() {
    let dir = tempdir().unwrap();
    let write = |name: &str, content: &str| fs::write(dir.path().join(name), content).unwrap();
    // A column that says which rows are for testing: they would be trained on.
    let row = |i: usize| format!("{},{},{}\n", text(i), ["a", "b"][i % 2], ["train", "train", "test"][i % 3]);
    write("split.csv", &format!("text,label,split\n{}", rows(row)));
    all(
        &fine(&init(&dir, &["split.csv"])),
        &["left out    \"split\" (the split of each row: write the rows"],
    );
    // SNLI marks pairs without a majority by -1, or by -; sentiment from -1 to 1 is another matter.
    for (classes, said) in
        [(["-1", "0", "1", "2"], true), (["-", "e", "n", "c"], true), (["-1", "0", "1", "-1"], false)]
    {
        write("a.csv", &format!("text,label\n{}", rows(|i| format!("{},{}\n", text(i), classes[i % 4]))));
        let out = fine(&init(&dir, &["a.csv"]));
        assert_eq!(out.contains("(10 rows) often marks rows without a label"), said, "{out}");
    }
    let joined = rows(|i| format!("{},{}\n", text(i), ["a", "b", "a|b"][i % 3]));
    write("a.csv", &format!("text,label\n{joined}"));
    let out = fine(&init(&dir, &["a.csv", "--task", "classify"]));
    all(&out, &["may be lists, separated by '|'", "--task multilabel"]);
    let two = rows(|i| format!("{},\"{}\"\n", text(i), ["a,b", "b,c", "a,c"][i % 3]));
    write("a.csv", &format!("text,label\n{two}"));
    all(&fine(&init(&dir, &["a.csv"])), &["may be lists, separated by ','"]);
    write(
        "a.csv",
        &format!("text,label\n{}", two.replace("a,b", "a;b").replace("b,c", "b;c").replace("a,c", "a;c")),
    );
    all(&fine(&init(&dir, &["a.csv"])), &["task        multilabel", "3 classes: "]);
    let ids = rows(|i| format!("{},{}\n", text(i), i * i * 7 + 1000));
    write("a.csv", &format!("text,label\n{ids}"));
    all(&fine(&init(&dir, &["a.csv"])), &["another one in each row; if they are ids"]);
    // The default model knows English alone.
    let chinese = rows(|i| format!("这是一个很好的电影{i},{}\n", ["a", "b"][i % 2]));
    write("a.csv", &format!("text,label\n{chinese}"));
    all(&fine(&init(&dir, &["a.csv"])), &["trained on English texts", "--model FacebookAI/xlm-roberta-base"]);
    let one_hot = rows(|i| format!("{},{},{}\n", text(i), i % 2, (i + 1) % 2));
    write("a.csv", &format!("text,yes,no\n{one_hot}"));
    all(&fine(&init(&dir, &["a.csv"])), &["every row has exactly one class"]);
    // The best class of 40 rows with one of 39 against one of 1.
    let rare = rows(|i| format!("{},{}\n", text(i), ["rare", "often"][usize::from(i > 0)]));
    write("a.csv", &format!("text,label\n{rare}"));
    all(&fine(&init(&dir, &["a.csv"])), &["unbalanced  \"often\" has 39 rows, \"rare\" has 1"]);

    let words =
        rows(|i| format!("{},{},{}\n", i / 4, ["Alice", "ran", "to", "Paris"][i % 4], ["B-PER", "O"][i % 2]));
    all(
        &message("ner.csv", &format!("sentence,word,tag\n{words}")),
        &["words with tags cannot be read from a table", ".conll"],
    );
    let shard = format!("text,label\n{}", rows(|i| format!("{},{}\n", text(i), i % 2)));
    all(&message("train-00000-of-00003.csv", &shard), &["cut into 3 files"]);
    write("train-00000-of-00001.csv", &shard);
    write("test-00000-of-00001.csv", &shard);
    all(&fine(&init(&dir, &["train-00000-of-00001.csv"])), &["test        test-00000-of-00001.csv: 40 rows"]);
    all(
        &refused(&init(&dir, &["a.csv", "split.csv"]), 2),
        &["the training data of one task", "data.validation"],
    );
    let objects = rows(|i| format!("{{\"text\": \"{}\", \"label\": {{\"a\": {}}}}}\n", text(i), i % 2));
    all(&message("a.jsonl", &objects), &["JSON objects"]);
    let lists =
        rows(|i| format!("{{\"text\": \"{}\", \"labels\": [\"a\"], \"words_of\": [\"b\"]}}\n", text(i)));
    all(&message("a.jsonl", &lists), &["lists in brackets"]);
}

/// What is said of a table that is accepted, and its recipe.
fn accepted(name: &str, content: &str, args: &[&str]) -> (String, Recipe) {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join(name), content).unwrap();
    let said = fine(&init(&dir, &[&[name], args].concat()));
    (said, Recipe::load(&dir.path().join("recipe.toml"), &[]).unwrap())
}

#[test]
fn texts_that_begin_with_a_date_are_texts() {
    let row = |i: usize| format!("2024-05-{:02} {},{}\n", i % 28 + 1, text(i), ["a", "b"][i % 2]);
    let (said, r) = accepted("a.csv", &format!("text,label\n{}", rows(row)), &[]);
    assert_eq!((r.task, r.data.text.as_str()), (TaskKind::Classify, "text"), "{said}");
    // With a time it stays a date.
    for time in ["", " 10:30", "T10:30:00Z", " 10:30 PM"] {
        let row = |i: usize| format!("{},{},2024-05-01{time}\n", text(i), ["a", "b"][i % 2]);
        let (said, _) = accepted("a.csv", &format!("text,label,when\n{}", rows(row)), &[]);
        assert!(said.contains("\"when\" (one value in all rows)"), "{said}");
        let row = |i: usize| format!("{},{},2024-05-0{}{time}\n", text(i), ["a", "b"][i % 2], i % 3 + 1);
        let (said, _) = accepted("a.csv", &format!("text,label,when\n{}", rows(row)), &[]);
        assert!(said.contains("\"when\" (dates)"), "{said}");
    }
}

#[test]
fn columns_of_0_and_1_with_other_cells_are_not_dropped_silently() {
    // The row with i = 4 stands in line 6.
    for (odd, found) in [("", "an empty cell"), ("-1", "\"-1\"")] {
        let b = |i: usize| if i == 4 { odd.to_owned() } else { (i / 2 % 2).to_string() };
        let row = |i: usize| format!("{},{},{},{}\n", text(i), i % 2, b(i), i / 4 % 2);
        let said = message("a.csv", &format!("text,a,b,c\n{}", rows(row)));
        all(&said, &["a.csv:6: the column \"b\" is not 0 or 1 in every row", found, "--label a,c"]);
    }
    let row = |i: usize| format!("{},{},{},0\n", text(i), i % 2, i / 2 % 2);
    let (said, r) = accepted("a.csv", &format!("text,a,b,c\n{}", rows(row)), &[]);
    assert_eq!(r.task, TaskKind::Multilabel);
    assert!(said.contains("\"c\" (0 in all rows"), "{said}");
}

#[test]
fn what_a_recipe_leaves_out_is_said() {
    let row = |i: usize| format!("{},{}\n", text(i), text(i + 1));
    let (said, r) = accepted("a.csv", &format!("sentence1,sentence2\n{}", rows(row)), &["--task", "mask"]);
    assert_eq!((r.task, r.data.pair), (TaskKind::Mask, None));
    all(&said, &["left out    \"sentence2\" (a text as well)"]);
    assert!(!said.contains("\npair "), "{said}");

    // Every fourth text of 40 is empty, and every tenth of the second ones.
    let one = |i: usize| if i % 4 == 1 { String::new() } else { text(i) };
    let two = |i: usize| if i.is_multiple_of(10) { String::new() } else { text(i + 1) };
    let row = |i: usize| format!("{},{},{}\n", one(i), two(i), i % 2);
    let (said, _) = accepted("a.csv", &format!("sentence1,sentence2,label\n{}", rows(row)), &[]);
    all(&said, &["10 of 40 texts are empty in the column \"sentence1\""]);
    all(&said, &["4 of 40 texts are empty in the column \"sentence2\""]);

    // Joined labels, some of them empty: no command that fails.
    let row = |i: usize| format!("{},{}\n", text(i), ["a", "b", "a|b", ""][i % 4]);
    let (said, r) = accepted("a.csv", &format!("text,labels\n{}", rows(row)), &[]);
    assert_eq!(r.task, TaskKind::Multilabel);
    assert!(!said.contains("tempra data check"), "{said}");
}

#[test]
fn labels_are_counted_as_the_reader_counts_them() {
    let labels = |names: [&'static str; 4]| {
        format!("text,label\n{}", rows(|i| format!("{},{}\n", text(i), names[i % 4])))
    };
    let (said, _) = accepted("a.csv", &labels(["1", " 1", "0", "0 "]), &[]);
    all(&said, &["the labels are 4 whole numbers", "4 classes", "are two classes: write them alike"]);
    let (said, _) = accepted("a.csv", &labels(["pos", "neg", "pos", "Pos"]), &[]);
    all(&said, &["\"Pos\" and \"pos\" are two classes"]);
    let (said, _) = accepted("a.csv", &labels(["1", "1.0", "0", "0"]), &[]);
    all(&said, &["\"1\" and \"1.0\" are two classes"]);
    // `nan` is read as a number, but no cell has a comma.
    let (said, _) = accepted("a.csv", &labels(["1", "2", "3", "nan"]), &[]);
    all(&said, &["\"nan\" (10 rows) often marks rows without a label"]);
    // Of several such names always the same is named.
    let (said, _) = accepted("a.csv", &labels(["a", "?", "-", "b"]), &[]);
    all(&said, &["\"-\" (10 rows) often marks"]);
}

#[test]
fn several_names_of_labels_are_refused_and_a_known_name_makes_a_header() {
    let row = |i: usize| format!("{},0.{i},{}\n", text(i), ["pos", "neg"][i % 2]);
    let csv = format!("text,score,sentiment\n{}", rows(row));
    let said = message("a.csv", &csv);
    all(&said, &["several columns have names of labels", "\"score\", \"sentiment\"", "--label score"]);
    assert_eq!(accepted("a.csv", &csv, &["--label", "sentiment"]).1.task, TaskKind::Classify);
    // `label` settles it.
    let (_, r) = accepted("a.csv", &csv.replace(",sentiment", ",label"), &[]);
    assert_eq!(r.data.label.as_str(), "label");

    let row = |i: usize| format!("{},{}\n", text(i), ["spam", "ham"][i % 2]);
    let (_, r) = accepted("a.csv", &format!("message,spam\n{}", rows(row)), &[]);
    assert_eq!((r.data.text.as_str(), r.data.label.as_str()), ("message", "spam"));
}

#[test]
fn files_beside_the_training_data_are_judged_as_training_judges_them() {
    let dir = tempdir().unwrap();
    let write = |name: &str, content: &str| fs::write(dir.path().join(name), content).unwrap();
    write("train.conll", &rows(|i| format!("A{i} B-PER\nis O\n\n")));
    write("dev.conll", "A1 B-ORG\nis O\n\n");
    write("test.conll", "A1 B-PER\nis O\n\n");
    let said = fine(&init(&dir, &["train.conll"]));
    all(&said, &["left out: dev.conll:1: the tag \"B-ORG\" is not one of the classes", "1 sentences"]);
    let recipe = Recipe::load(&dir.path().join("recipe.toml"), &[]).unwrap();
    assert_eq!((recipe.data.validation, recipe.data.test.is_some()), (None, true));

    // A third field in one row.
    let row = |i: usize| format!("{},{}\n", text(i), i % 2);
    write("train.csv", &format!("text,label\n{}", rows(row)));
    write("valid.csv", &format!("text,label\n{}a,1,2\n", rows(row)));
    let said = fine(&init(&dir, &["train.csv"]));
    all(&said, &["valid.csv: 40 rows, beside the training data; 1 rows cannot be read"]);
}
