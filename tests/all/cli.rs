//! The program as a user runs it: what goes in, what comes out, which exit code. Probabilities are held
//! against the softmax of logits that transformers computed (tests/golden/bert/a/texts.json).

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use serde_json::Value;
use tempfile::{TempDir, tempdir};
use tempra::checkpoint::{NamedFile, RealFs, RunDir};
use tempra::cli::{COMMANDS, set_arg, sets};
use tempra::error::{Error, Kind};
use tempra::metrics::METRICS;
use tempra::train::recipe::Recipe;

const CLASSES: [&str; 3] = ["negative", "neutral", "positive"];

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
pub fn golden(name: &str) -> PathBuf {
    repository().join("tests/golden/bert").join(name)
}

/// A program in an environment of its own: no cache, no colours asked for or refused.
pub fn program(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tempra"));
    command.args(args).current_dir(dir).env_remove("NO_COLOR").env("HF_HUB_CACHE", dir.join("no-cache"));
    command.env("HF_HUB_OFFLINE", "1").stdin(Stdio::null());
    command
}
fn tempra(args: &[&str]) -> Output {
    program(repository(), args).output().unwrap()
}
fn piped(args: &[&str], input: &str) -> Output {
    let mut command = program(repository(), args);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}
pub fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}
pub fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}
/// Its standard output, if all went well.
pub fn fine(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(output), stderr(output));
    stdout(output).to_owned()
}
/// The message of an error with this exit code.
pub fn refused(output: &Output, code: i32) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{}{text}", stdout(output));
    assert!(text.starts_with("error: ") || text.contains("\nerror: "), "{text}");
    assert!(!text.contains('\x1b') && !text.contains("panicked"), "{text}");
    text.to_owned()
}
fn json(output: &Output) -> Value {
    serde_json::from_str(&fine(output)).unwrap()
}
pub fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The texts of texts.json and the class probabilities that their logits stand for.
fn texts() -> (Vec<String>, Vec<Vec<f64>>) {
    let file = fs::read(golden("a/texts.json")).unwrap();
    let all: Value = serde_json::from_slice(&file).unwrap();
    let texts: Vec<String> = serde_json::from_value(all["texts"].clone()).unwrap();
    let logits: Vec<Vec<f64>> = serde_json::from_value(all["logits"].clone()).unwrap();
    let softmax = |z: &Vec<f64>| {
        let sum: f64 = z.iter().map(|x| x.exp()).sum();
        z.iter().map(|x| x.exp() / sum).collect()
    };
    (texts, logits.iter().map(softmax).collect())
}
fn best(p: &[f64]) -> usize {
    (0..p.len()).max_by(|&a, &b| p[a].total_cmp(&p[b])).unwrap()
}
fn csv_of(rows: &[Vec<String>]) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    rows.iter().for_each(|row| writer.write_record(row).unwrap());
    String::from_utf8(writer.into_inner().unwrap()).unwrap()
}
/// Header and rows.
fn table(csv: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let strings = |r: &csv::StringRecord| r.iter().map(str::to_owned).collect::<Vec<_>>();
    (strings(reader.headers().unwrap()), reader.records().map(|r| strings(&r.unwrap())).collect())
}
/// The texts as CSV with a column `id` before and a column `label` behind them.
fn texts_csv() -> String {
    let mut rows = vec![vec!["id".to_owned(), "text".to_owned(), "label".to_owned()]];
    let texts = texts().0.into_iter().enumerate();
    rows.extend(texts.map(|(i, text)| vec![i.to_string(), text, CLASSES[i % 3].to_owned()]));
    csv_of(&rows)
}

fn check_predictions(csv: &str, own: usize) {
    let (texts, expected) = texts();
    let (_, rows) = table(csv);
    assert_eq!(rows.len(), texts.len());
    for ((row, text), p) in rows.iter().zip(&texts).zip(&expected) {
        assert!(row.contains(text));
        assert_eq!(row[own], CLASSES[best(p)]);
        let numbers: Vec<f64> = row[own + 1..].iter().map(|x| x.parse().unwrap()).collect();
        assert!((numbers[0] - p[best(p)]).abs() < 1e-5);
        assert!(numbers[1..].iter().zip(p).all(|(a, b)| (a - b).abs() < 1e-5), "{numbers:?} {p:?}");
        assert!((numbers[1..].iter().sum::<f64>() - 1.0).abs() < 1e-7);
    }
}

#[test]
fn predictions_are_those_of_transformers() {
    let dir = tempdir().unwrap();
    let input = dir.path().join("in.csv");
    fs::write(&input, texts_csv()).unwrap();
    let model = golden("a");
    let out = tempra(&["predict", str(&model), str(&input)]);
    let csv = fine(&out);
    let header = "id,text,label,predicted_label,probability,p_negative,p_neutral,p_positive";
    assert_eq!(csv.lines().next(), Some(header));
    check_predictions(&csv, 3);
    assert!(
        stderr(&out).contains("14 rows") && stderr(&out).contains("cut at 40 tokens"),
        "{}",
        stderr(&out)
    );

    // However the batches are cut, and from standard input, and to a file: the same bytes.
    let file = dir.path().join("out.csv");
    let small = ["predict", str(&model), "-", "--max-tokens", "50", "--threads", "1", "-o", str(&file), "-q"];
    let out = piped(&small, &texts_csv());
    assert_eq!((fine(&out).as_str(), stderr(&out).lines().count()), ("", 1), "only the warning of cut texts");
    check_predictions(&fs::read_to_string(&file).unwrap(), 3);
    let names: BTreeSet<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, BTreeSet::from(["in.csv".into(), "out.csv".into()]), "no temporary file is left");

    // What is predicted can be predicted again: no name comes twice.
    let again = fine(&tempra(&["predict", str(&model), str(&file)]));
    let (header, _) = table(&again);
    assert_eq!(header.len(), 13);
    assert_eq!(header.iter().collect::<BTreeSet<_>>().len(), 13, "{header:?}");
    assert_eq!(header[8..10], ["predicted_label_2", "predicted_probability"]);
}

#[test]
fn json_lines_and_tabs_go_in_and_json_lines_come_out() {
    let (texts, expected) = texts();
    let line = |t: &String| serde_json::json!({ "review": t, "n": 7 }).to_string() + "\n";
    let input: String = texts.iter().map(line).collect();
    let model = golden("a");
    let options = ["--text", "review", "--input-format", "jsonl", "--format", "jsonl"];
    let out = fine(&piped(&[&["predict", str(&model), "-"][..], &options].concat(), &input));
    let rows: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(rows.len(), texts.len());
    for ((row, text), p) in rows.iter().zip(&texts).zip(&expected) {
        assert_eq!((row["review"].as_str(), row["n"].as_str()), (Some(text.as_str()), Some("7")));
        assert_eq!(row["label"].as_str(), Some(CLASSES[best(p)]));
        for (class, p) in CLASSES.iter().zip(p) {
            assert!((row[format!("p_{class}")].as_f64().unwrap() - p).abs() < 1e-5);
        }
    }

    let dir = tempdir().unwrap();
    let (tsv, out) = (dir.path().join("in.tsv"), dir.path().join("out.jsonl"));
    fs::write(&tsv, format!("text\n{}\n", texts[0])).unwrap();
    fine(&tempra(&["predict", str(&model), str(&tsv), "-o", str(&out)]));
    let row: Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    assert!((row["p_neutral"].as_f64().unwrap() - expected[0][1]).abs() < 1e-5);
}

/// A copy of the golden model a, or of the weights of b with a's tokenizer, to which files can be added.
fn copy(of: &str) -> TempDir {
    let dir = tempdir().unwrap();
    for (from, name) in [
        (of, "config.json"),
        (of, "model.safetensors"),
        ("a", "tokenizer.json"),
        ("a", "tokenizer_config.json"),
    ] {
        fs::copy(golden(from).join(name), dir.path().join(name)).unwrap();
    }
    dir
}

#[test]
fn what_training_noted_beside_the_model_counts() {
    let model = copy("a");
    let noted = |text: &str| fs::write(model.path().join("tempra.json"), text).unwrap();
    let input = "review,other\nA good film.,and more\n";
    noted("{\"max_length\": 4, \"text\": \"review\", \"pair\": null}");
    let out = piped(&["predict", str(model.path()), "-"], input);
    let short = fine(&out);
    assert!(stderr(&out).contains("1 of 1 texts was cut at 4 tokens"), "{}", stderr(&out));
    // Options win over it; an absurd length is bounded by the model's positions.
    noted("{\"max_length\": 100000, \"text\": \"nothing\"}");
    let long = piped(&["predict", str(model.path()), "-", "--text", "review"], input);
    assert!(!stderr(&long).contains("cut"), "{}", stderr(&long));
    assert_ne!(fine(&long), short);
    // The second text changes the result; an empty name takes it away again.
    noted("{\"text\": \"review\", \"pair\": \"other\"}");
    let pair = fine(&piped(&["predict", str(model.path()), "-"], input));
    let alone = fine(&piped(&["predict", str(model.path()), "-", "--pair", ""], input));
    assert_ne!(pair, alone);
    assert_eq!(alone, fine(&long));
    // A broken file is warned of and passed over.
    noted("{\"max_length\": ");
    let out = piped(&["predict", str(model.path()), "-", "--text", "review"], input);
    assert_eq!(fine(&out), alone);
    assert!(stderr(&out).contains("warning: ") && stderr(&out).contains("tempra.json"), "{}", stderr(&out));
}

#[test]
fn a_table_without_rows_gives_its_header() {
    let model = golden("a");
    for header in ["text\n", "a,text,b"] {
        let out = fine(&piped(&["predict", str(&model), "-"], header));
        let expected = format!("{},label,probability,p_negative,p_neutral,p_positive\n", header.trim_end());
        assert_eq!(out, expected);
    }
    let e = refused(&piped(&["predict", str(&model), "-"], ""), 3);
    assert!(e.contains("standard input: the file is empty"), "{e}");
}

#[test]
fn scores_follow_from_the_logits() {
    let (texts, expected) = texts();
    let dir = tempdir().unwrap();
    let input = dir.path().join("in.csv");
    fs::write(&input, texts_csv()).unwrap();
    let model = golden("a");
    let found = json(&tempra(&["eval", str(&model), str(&input), "--json"]));
    let (mut confusion, mut loss) = ([[0u64; 3]; 3], 0.0);
    for (i, p) in expected.iter().enumerate() {
        confusion[i % 3][best(p)] += 1;
        loss -= p[i % 3].ln() / texts.len() as f64;
    }
    let right = (0..3).map(|k| confusion[k][k]).sum::<u64>() as f64 / texts.len() as f64;
    assert_eq!(found["confusion"], serde_json::json!(confusion));
    assert_eq!(found["classes"], serde_json::json!(CLASSES));
    assert_eq!((found["examples"].as_u64(), found["task"].as_str()), (Some(14), Some("classify")));
    assert!((found["scores"]["accuracy"].as_f64().unwrap() - right).abs() < 1e-12);
    assert!((found["scores"]["loss"].as_f64().unwrap() - loss).abs() < 1e-5);
    for k in 0..3 {
        let (hits, predicted) = (confusion[k][k] as f64, (0..3).map(|t| confusion[t][k]).sum::<u64>());
        let precision = if predicted == 0 { 0.0 } else { hits / predicted as f64 };
        let recall = hits / confusion[k].iter().sum::<u64>() as f64;
        let class = &found["per_class"][k];
        assert_eq!(class["precision"].as_f64(), Some(precision));
        assert_eq!(class["recall"].as_f64(), Some(recall));
    }
    let text = fine(&tempra(&["eval", str(&model), str(&input)]));
    assert!(
        CLASSES.iter().all(|c| text.contains(c)) && text.contains(&format!("accuracy {right:.4}")),
        "{text}"
    );

    fs::write(&input, "text,label\na,positive\nb,positve\nc,x\n").unwrap();
    let e = refused(&tempra(&["eval", str(&model), str(&input)]), 3);
    assert!(e.contains("in.csv:3: the model has no class \"positve\"") && e.contains("2 of 3 rows"), "{e}");
    assert!(e.contains("negative, neutral, positive") && e.contains("did you mean \"positive\"?"), "{e}");
}

#[test]
fn a_regression_predicts_numbers_and_is_scored_by_them() {
    let model = copy("b");
    let dir = tempdir().unwrap();
    let input = dir.path().join("in.csv");
    let labels: Vec<f64> = (0..14).map(|i| (f64::from(i) * 0.37).sin()).collect();
    let mut rows = vec![vec!["text".to_owned(), "label".to_owned()]];
    rows.extend(texts().0.into_iter().zip(&labels).map(|(text, label)| vec![text, label.to_string()]));
    fs::write(&input, csv_of(&rows)).unwrap();
    let (header, rows) = table(&fine(&tempra(&["predict", str(model.path()), str(&input)])));
    assert_eq!(header, ["text", "label", "prediction"]);
    let predicted: Vec<f64> = rows.iter().map(|r| r[2].parse().unwrap()).collect();
    let found = json(&tempra(&["eval", str(model.path()), str(&input), "--json"]));
    let n = labels.len() as f64;
    let errors = || predicted.iter().zip(&labels).map(|(p, t)| p - t);
    let (mse, mae) = (errors().map(|e| e * e).sum::<f64>() / n, errors().map(f64::abs).sum::<f64>() / n);
    assert!((found["scores"]["mse"].as_f64().unwrap() - mse).abs() < 1e-6);
    assert!((found["scores"]["mae"].as_f64().unwrap() - mae).abs() < 1e-6);
    assert_eq!(found["task"].as_str(), Some("regress"));
    fs::write(&input, "text,label\na,1.5\nb,many\n").unwrap();
    let e = refused(&tempra(&["eval", str(model.path()), str(&input)]), 3);
    assert!(e.contains("in.csv:3: the label is not a finite number"), "{e}");
}

#[test]
fn every_mistake_has_its_exit_code_and_a_remedy() {
    let dir = tempdir().unwrap();
    let csv = dir.path().join("in.csv");
    fs::write(&csv, "text,label\na,positive\n").unwrap();
    let (model, csv) = (golden("a"), str(&csv));
    let model = str(&model);
    let headless = copy("a");
    let config = headless.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let no_tokenizer = golden("b");
    let missing = dir.path().join("no/such");
    let folder = str(dir.path());
    let tsv = dir.path().join("out.tsv");
    #[rustfmt::skip]
    let cases: &[(&[&str], i32, &str)] = &[
        (&["predit"], 2, "predict"),
        (&["predict", model, csv, "--maxlength", "3"], 2, "--max-length"),
        (&["predict", model], 2, "nothing to predict is given"),
        (&["predict", model, csv, "--max-length", "0"], 2, "--max-length"),
        (&["predict", model, csv, "--max-length", "41"], 2, "at most 40"),
        (&["predict", model, csv, "--max-length", "1"], 2, "is less than the number of special tokens"),
        (&["predict", model, csv, "--device", "gpu"], 2, "auto, cpu, cuda, cuda:N, wgpu or wgpu:N"),
        (&["predict", model, csv, "--device", "gpu"], 2, "use cuda for an NVIDIA GPU, or wgpu"),
        (&["predict", model, csv, "--text", "label", "--pair", "label"], 2, "two purposes"),
        (&["predict", model, csv, "-o", csv], 2, "the output would overwrite the input"),
        (&["predict", model, csv, "-o", folder], 2, "the name of a new folder"),
        (&["predict", model, csv, "-o", str(&missing)], 2, "the folder of the output does not exist"),
        (&["predict", model, csv, "-o", str(&tsv)], 2, "--format"),
        (&["predict", model, "no.csv"], 3, "no.csv: the file cannot be opened"),
        (&["predict", model, folder], 3, "the folder holds no text"),
        (&["predict", model, csv, "--text", "txt"], 3, "did you mean \"text\"?"),
        (&["eval", model, csv, "--label", "lable"], 3, "did you mean \"label\"?"),
        (&["predict", "no-such-model", csv], 4, "the model `no-such-model` is not on this machine"),
        (&["predict", "./no/such model", csv], 4, "there is no model"),
        (&["predict", csv, csv], 4, "is a file"),
        (&["predict", folder, csv], 4, "config.json"),
        (&["predict", str(&no_tokenizer), csv], 4, "no tokenizer in the model folder"),
        (&["checkpoint", "verify", folder], 4, "holds no checkpoint"),
        (&["help", "recpie"], 2, "did you mean \"recipe\"?"),
        (&["help", "recipe", "optim.l"], 2, "did you mean \"optim.lr\"?"),
        (&["help", "data", "chek"], 2, "did you mean \"check\"?"),
        (&["completions", "tcsh"], 2, "bash"),
        (&["data", "check"], 2, "FILE"),
        (&["init", folder, "-o", "-"], 3, "the same label"),
        (&["init", csv, "-o", "-"], 3, "the same label"),
    ];
    for (args, code, part) in cases {
        let e = refused(&tempra(args), *code);
        assert!(e.contains(part), "{args:?}: {e}");
    }
    for name in ["cuda", "wgpu", "wgpu:9"] {
        // A build that can drive it, on a machine that has it, has nothing to refuse.
        let out = tempra(&["predict", model, csv, "--device", name]);
        if out.status.code() != Some(0) {
            assert!(refused(&out, 5).contains("--device cpu"), "{}", stderr(&out));
        }
    }
    for (from, to) in [("\"vocab_size\": 200", "\"vocab_size\": 0"), ("\"bert\"", "\"gpt9\"")] {
        fs::write(&config, text.replace(from, to)).unwrap();
        refused(&tempra(&["predict", str(headless.path()), csv]), 4);
    }
    // Names of files and columns cannot steer the terminal.
    let e = refused(&tempra(&["predict", model, csv, "--text", "a\u{1b}[2Jb"]), 3);
    assert!(!e.contains('\u{1b}'), "{e:?}");
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_is_no_error_and_a_full_disk_is() {
    let model = golden("a");
    let test = repository().join("examples/sentiment/test.csv");
    for args in [&["predict", str(&model), str(&test)][..], &["help", "recipe"], &["--help"]] {
        let mut command = program(repository(), args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
        assert!(!said.contains("error") && !said.contains("panic"), "{said}");
    }
    if let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") {
        let out = program(repository(), &["devices"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
        assert!(refused(&out, 8).contains("standard output: cannot be written"));
        let out = tempra(&["predict", str(&model), str(&test), "-q", "-o", "/dev/full"]);
        refused(&out, 8);
    }
}

#[test]
fn every_command_explains_itself_with_an_example() {
    tempra::cli::command().debug_assert();
    let mut all: Vec<(Vec<String>, clap::Command)> = Vec::new();
    for entry in COMMANDS {
        let command = (entry.define)();
        for sub in command.get_subcommands() {
            all.push((vec![command.get_name().into(), sub.get_name().into()], sub.clone()));
        }
        all.push((vec![command.get_name().into()], command));
    }
    assert!(all.len() >= 11);
    for (words, command) in all {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if command.get_about().is_none() {
            assert_eq!(words, ["train"], "every command says what it is; train is written apart");
            continue;
        }
        let help = fine(&tempra(&[&words[..], &["--help"]].concat()));
        assert!(
            help.contains("Example") && help.contains(&format!("  tempra {}", words.join(" "))),
            "{help}"
        );
        let same = fine(&tempra(&[&["help"], &words[..]].concat()));
        assert_eq!(help.trim_end(), same.trim_end());
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{words:?}: {} has no help", arg.get_id());
        }
    }
    let help = fine(&tempra(&["help"]));
    assert_eq!(help.trim_end(), fine(&tempra(&["--help"])).trim_end());
    assert_eq!(tempra(&[]).status.code(), Some(2));
    let version = fine(&tempra(&["--version"]));
    assert!(
        version.starts_with(concat!("tempra ", env!("CARGO_PKG_VERSION"), "\nbackends: cpu, cuda")),
        "{version}"
    );
}

#[test]
fn help_lists_every_key_metric_and_exit_code() {
    let recipe = fine(&tempra(&["help", "recipe"]));
    // Without its line breaks: text is wrapped to the terminal.
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for key in Recipe::keys() {
        assert!(recipe.contains(&format!("\n  {} (", key.name)), "{}", key.path());
        assert!(key.section.is_empty() || recipe.contains(&format!("\n[{}]\n", key.section)));
        assert!(flat(&recipe).contains(&flat(&key.doc)), "{}", key.path());
        let one = fine(&tempra(&["help", "recipe", &key.path()]));
        assert!(flat(&one).contains(&flat(&key.doc)) && one.lines().count() < 20, "{one}");
    }
    let metrics = fine(&tempra(&["help", "metrics"]));
    for m in METRICS {
        assert!(
            metrics.contains(&format!("\n  {} (", m.name)) && flat(&metrics).contains(m.doc),
            "{}",
            m.name
        );
        let one = fine(&tempra(&["help", "metrics", m.name]));
        assert!(flat(&one).contains(m.doc) && one.lines().count() < 12, "{one}");
    }
    let near = refused(&tempra(&["help", "metrics", "f1_makro"]), 2);
    assert!(near.contains("did you mean \"f1_macro\""), "{near}");
    let codes = fine(&tempra(&["help", "exit-codes"]));
    for columns in ["60", "100"] {
        for topic in ["recipe", "metrics", "exit-codes"] {
            let mut command = program(repository(), &["help", topic]);
            command
                .env("COLUMNS", columns)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let text = fine(&command.output().unwrap());
            let longest = text.lines().map(|l| l.chars().count()).max().unwrap();
            let most: usize = columns.parse().unwrap();
            assert!(
                longest <= most && longest > most - 10,
                "{topic} in {columns} columns: {longest}\n{text}"
            );
        }
    }
    let kinds = [
        Kind::Usage,
        Kind::Data,
        Kind::Model,
        Kind::Device,
        Kind::Memory,
        Kind::Diverged,
        Kind::Disk,
        Kind::Locked,
        Kind::Lost,
        Kind::Interrupted(2),
        Kind::Interrupted(15),
        Kind::Shape,
    ];
    let first = |line: &str| line.split_whitespace().next().and_then(|w| w.parse::<i32>().ok());
    let listed: BTreeSet<i32> = codes.lines().filter_map(first).collect();
    let mut expected: BTreeSet<i32> = kinds.iter().map(|&k| Error::new(k, "").exit_code()).collect();
    expected.extend([0, 1, 10, 101]);
    assert_eq!(listed, expected);
}

#[test]
fn completions_are_scripts_that_name_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = fine(&tempra(&["completions", shell]));
        for entry in COMMANDS {
            assert!(script.contains((entry.define)().get_name()), "{shell}");
        }
        assert!(script.contains("max-length"), "{shell}");
        // Where the shell itself is here, it reads the script without running it.
        let Ok(mut child) = Command::new(shell).arg("-n").stdin(Stdio::piped()).spawn() else { continue };
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{shell}");
    }
}

#[test]
fn devices_lists_the_processor() {
    let found = json(&tempra(&["devices", "--json"]));
    let devices = found["devices"].as_array().unwrap();
    let names: Vec<_> = devices.iter().map(|d| d["name"].as_str().unwrap()).collect();
    let (names, wgpu) = (names[..2].to_vec(), &names[2..]);
    assert_eq!((names, devices[0]["available"].as_bool()), (vec!["cpu", "cuda"], Some(true)));
    assert!(!wgpu.is_empty() && wgpu.iter().all(|n| n.starts_with("wgpu")), "{wgpu:?}");
    assert!(devices[0]["description"].as_str().unwrap().contains("threads"));
    let text = fine(&tempra(&["devices"]));
    assert!(
        ["cpu    yes", "cuda   ", "wgpu", "--device auto uses "].iter().all(|s| text.contains(s)),
        "{text}"
    );
}

#[test]
fn data_check_tells_right_from_wrong() {
    let dir = tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        str(&path).to_owned()
    };
    let train = write("train.csv", "sentence,stars\na good one,1\na bad one,2\nanother,1\n");
    let test = write("test.csv", "sentence,stars\nA good  one,1\nsomething new,3\n");
    let clean = write("more.csv", "sentence,stars\nnot seen before,2\n");
    let out = tempra(&["data", "check", &clean, &train, "--json"]);
    let found = json(&out);
    assert_eq!(found["ok"], true);
    assert_eq!(found["columns"]["text"], "sentence");
    assert_eq!(found["columns"]["label"], "stars");
    // The file that is named so is the training file, wherever it stands.
    assert_eq!((&found["files"][0]["split"], &found["files"][0]["rows"]), (&"train".into(), &3.into()));
    assert_eq!(found["files"][1]["split"], "more.csv");

    let out = tempra(&["data", "check", "--train", &train, "--test", &test, "--json"]);
    assert_eq!(out.status.code(), Some(3));
    let found: Value = serde_json::from_str(stdout(&out)).unwrap();
    assert_eq!(found["ok"], false);
    assert_eq!(found["files"][1]["unseen_labels"], serde_json::json!(["3"]));
    assert_eq!(found["leaks"][0]["lines"], serde_json::json!([[2, 2]]));
    let model = golden("a");
    let out = tempra(&["data", "check", &train, "--model", str(&model), "--max-length", "3"]);
    let text = fine(&out);
    assert!(text.contains("cut       at 3: ") && text.contains("no errors found"), "{text}");
    assert_eq!(tempra(&["data", "check", &train, "--max-length", "3"]).status.code(), Some(2));
    assert!(refused(&tempra(&["data", "check", &train, "--label", "star"]), 3).contains("\"stars\""));
    // Without a label there is still something to look at.
    fine(&tempra(&["data", "check", &train, "--label", ""]));
}

#[test]
fn damaged_checkpoints_are_told_apart() {
    let dir = tempdir().unwrap();
    let run = dir.path().join("run");
    let mut open = RunDir::open(&run, Arc::new(RealFs)).unwrap();
    for step in [10, 20] {
        let files = vec![NamedFile::bytes("state.json", format!("{{\"step\":{step}}}").into_bytes())];
        open.save(step, files, &[]).unwrap();
    }
    // The run is still open: verifying takes no lock.
    let found = json(&tempra(&["checkpoint", "verify", str(&run), "--json"]));
    assert_eq!((&found["ok"], found["checkpoints"].as_array().unwrap().len()), (&true.into(), 2));
    fs::write(run.join("checkpoint-20/state.json"), "{\"step\":21}").unwrap();
    let out = tempra(&["checkpoint", "verify", str(&run), "--json"]);
    assert_eq!(out.status.code(), Some(4));
    let found: Value = serde_json::from_str(stdout(&out)).unwrap();
    let of = |i: usize| (found["checkpoints"][i]["path"].as_str().unwrap(), &found["checkpoints"][i]["ok"]);
    assert!(of(0).0.ends_with("checkpoint-20") && of(0).1 == false);
    assert!(of(1).0.ends_with("checkpoint-10") && of(1).1 == true);
    let out = tempra(&["checkpoint", "verify", str(&run)]);
    assert_eq!(out.status.code(), Some(4));
    assert!(stdout(&out).contains("damaged") && stdout(&out).contains("state.json"), "{}", stdout(&out));
    fine(&tempra(&["checkpoint", "verify", str(&run.join("checkpoint-10"))]));
}

#[test]
fn settings_are_split_at_the_first_equals_sign() {
    let parse = |flags: &[&str]| {
        let args = ["x"].into_iter().chain(flags.iter().flat_map(|f| ["--set", f]));
        sets(&clap::Command::new("x").arg(set_arg()).get_matches_from(args))
    };
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    assert_eq!(parse(&[]).unwrap(), []);
    let read = parse(&["optim.lr=3e-5", "data.text=a=b", "seed ="]).unwrap();
    assert_eq!(read, [pair("optim.lr", "3e-5"), pair("data.text", "a=b"), pair("seed", "")]);
    for wrong in ["optim.lr", "=3", " = "] {
        let e = parse(&[wrong]).unwrap_err();
        assert!(e.kind() == Kind::Usage && e.to_string().contains("KEY=VALUE"), "{e}");
    }
}
