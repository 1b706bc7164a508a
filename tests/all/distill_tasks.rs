//! Distillation of every task whose inputs are the same in every epoch.

use crate::distill::{Limit, Losses};
use crate::soft_losses::{lse, measure};
use crate::support::*;
use crate::tasks::{data, ok, prepared, tempra};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempra::checkpoint::RealFs;
use tempra::compress::Teacher;
use tempra::data::{Batch, TokenSet, eval_batches};
use tempra::device::Device;
use tempra::error::Result;
use tempra::models::Options;
use tempra::tasks::{SoftKind, SoftOutput, Task, for_each_output};
use tempra::train::{Observers, Recipe, Run, Signals, train};

/// A folder with data of every task, and for each task a teacher and a student that were trained a little
/// from other heads.
struct Scene {
    dir: tempfile::TempDir,
}

/// A task with its data: name, file, further keys of `[data]`, further sections.
type Job<'a> = (&'a str, &'a str, &'a str, &'a str);

const JOBS: &[Job] = &[
    ("classify", "classify.csv", "", ""),
    ("multilabel", "multilabel.csv", "", "[loss]\nclass_weights = [2.0, 0.5]\n"),
    ("regress", "regress.csv", "", ""),
    ("tag", "tag.conll", "stride = 2\n", ""),
    ("answer", "answer.json", "stride = 2\n", ""),
    ("similar", "similar.csv", "pair = \"pair\"\n", ""),
    ("similar", "similar.csv", "pair = \"pair\"\nlabel = \"\"\n", "[similar]\nloss = \"contrastive\"\n"),
    ("next", "text.txt", "", ""),
];

impl Scene {
    fn new(model: &str) -> Scene {
        let scene = Scene { dir: tempfile::tempdir().expect("a folder") };
        prepared(scene.dir.path(), &golden(model));
        data(scene.dir.path());
        scene
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn text(&self, (task, file, of_data, more): Job, model: &str, steps: u64, of_train: &str) -> String {
        format!(
            "task = \"{task}\"\nseed = 5\nthreads = 1\n[model]\npath = \"./{model}\"\ndropout = 0\nattention_dropout = 0\n\
             classifier_dropout = 0\n[data]\ntrain = \"{file}\"\n{of_data}max_length = 14\nvalidation_fraction = 0\n\
             cache = false\n[optim]\nlr = 3e-3\n[train]\nmax_steps = {steps}\nbatch_size = 200\nlog_every = 1\n{of_train}{more}"
        )
    }
    fn distilled(&self, job: Job, steps: u64, of_train: &str, distill: &str) -> String {
        let text = self.text(job, "student/model", steps, of_train);
        format!("{text}[distill]\nteacher = \"./teacher/model\"\n{distill}")
    }
    fn recipe(&self, text: &str, output: &str) -> Result<Recipe> {
        let set = [("output".to_owned(), self.path(output).display().to_string())];
        Recipe::from_toml(text, &self.path("recipe.toml"), &set)
    }
    /// Trains anew, and stops after some steps; the loss of each.
    fn train(&self, text: &str, output: &str, steps: u64) -> Result<Vec<f64>> {
        let (mut losses, mut limit) = (Losses(Vec::new()), Limit(steps));
        let mut both = Observers::default().with(&mut losses).with(&mut limit);
        train(&self.recipe(text, output)?, false, Arc::new(RealFs), &Signals::default(), &mut both)?;
        Ok(losses.0)
    }
    fn refused(&self, text: &str) -> String {
        let _ = std::fs::remove_dir_all(self.path("refused"));
        self.train(text, "refused", 1).expect_err("refused").to_string()
    }
    /// Trains teacher and student of a task; the teacher of numbers has seen labels in another unit.
    fn models(&self, (task, file, of_data, more): Job) {
        for name in ["teacher", "student", "run", "plain", "passes"] {
            let _ = std::fs::remove_dir_all(self.path(name));
        }
        let mut of_teacher = file.to_owned();
        if task == "regress" {
            let rows = std::fs::read_to_string(self.path(file)).expect("text");
            let shifted = |line: &str| {
                let (text, label) = line.rsplit_once(',').expect("two columns");
                let label = label.parse::<f64>().map_or(label.to_owned(), |v| (0.3 + 1.2 * v).to_string());
                format!("{text},{label}\n")
            };
            of_teacher = format!("shifted-{file}");
            std::fs::write(self.path(&of_teacher), rows.lines().map(shifted).collect::<String>())
                .expect("written");
        }
        for (name, file, steps, seed) in [("teacher", &*of_teacher, 6, 11), ("student", file, 1, 12)] {
            let text =
                self.text((task, file, &of_data.replace("weight = \"w\"\n", ""), more), "base", steps, "");
            self.train(&text.replace("seed = 5", &format!("seed = {seed}")), name, u64::MAX)
                .expect("trained");
        }
    }
    /// The examples of a run, one for each batch, and their task.
    fn prepare(&self, job: Job) -> (Arc<TokenSet>, Arc<dyn Task>, Vec<Batch>) {
        let recipe = self.recipe(&self.text(job, "student/model", 1, ""), "prepared").expect("a recipe");
        let part = Run::prepare(&recipe).expect("a run").parts[0].clone();
        let mut batches = eval_batches(&part.train, 1, 0).expect("batches");
        batches.sort_by_key(|batch| batch.examples[0]);
        (part.train, part.task, batches)
    }
}

/// What a model folder gives for each example, which is a batch of its own.
fn outputs(device: &Device, folder: &Path, batches: &[Batch], output: usize) -> Vec<Vec<f64>> {
    let (model, _) = open(device, folder, &Options::default());
    let mut all = vec![Vec::new(); batches.len()];
    for_each_output(device, &model, batches, |batch, outputs| {
        all[batch.examples[0] as usize] = outputs[output].iter().map(|v| f64::from(*v)).collect();
        Ok(())
    })
    .expect("outputs");
    all
}

/// The loss of the first step, whole and in passes: the formulas, from what both models give.
#[test]
fn the_first_step_of_a_task_with_a_label_or_tags_is_the_formula() {
    let bert = Scene::new("bert/a");
    JOBS[..5].iter().for_each(|job| first_step(&bert, *job));
}

/// The same with two texts to compare, and with hidden tokens beside the pairs.
#[test]
fn the_first_step_of_a_task_with_pairs_is_the_formula() {
    let bert = Scene::new("bert/a");
    JOBS[5..].iter().for_each(|job| first_step(&bert, *job));
    first_step(&Scene::new("encoders/albert"), ("order", "text.txt", "", ""));
}

/// Weights of rows count in both parts.
#[test]
fn the_first_step_with_weights_is_the_formula() {
    let bert = Scene::new("bert/a");
    for (task, file) in
        [("classify", "classify.csv"), ("multilabel", "multilabel.csv"), ("regress", "regress.csv")]
    {
        let rows = std::fs::read_to_string(bert.path(file)).expect("text");
        let weigh = |(i, line): (usize, &str)| {
            let (text, label) = line.split_once(',').expect("two columns");
            let weight = if i == 0 { "w".to_owned() } else { [0.5, 0.0, 3.0, 1.0, 1.5][i % 5].to_string() };
            format!("{weight},{text},{label}\n")
        };
        let name = format!("weighted-{file}");
        std::fs::write(bert.path(&name), rows.lines().enumerate().map(weigh).collect::<String>())
            .expect("written");
        first_step(&bert, (task, &name, "weight = \"w\"\n", ""));
    }
}

fn first_step(scene: &Scene, job: Job) {
    scene.models(job);
    let device = cpu(1);
    let (set, task, batches) = scene.prepare(job);
    let SoftOutput { kind, output } = task.soft().expect("it can be distilled");
    let mut seen = batches.clone();
    seen.iter_mut().for_each(|batch| task.prepare(batch, (5, 0)).expect("prepared"));
    let teacher = outputs(&device, &scene.path("teacher/model"), &batches, output);
    let student = outputs(&device, &scene.path("student/model"), &seen, output);
    // In the units of training.
    let of_student = |v: &Vec<f64>| match &kind {
        SoftKind::Number { shift, scale, .. } => v.iter().map(|s| (s - shift) / scale).collect(),
        _ => v.clone(),
    };
    let temperature = 3.0;
    let of_rows = task.soft().expect("it can be distilled").rows(&set);
    let (mut soft, mut whole) = (0.0, 0.0);
    for (i, batch) in batches.iter().enumerate() {
        let rows = of_rows[i + 1] - of_rows[i];
        let weight = batch.weights.first().map_or(1.0, |w| f64::from(*w));
        let weights: Vec<f64> = match &kind {
            SoftKind::Tags => batch.targets.tags().iter().map(|t| f64::from(u8::from(*t < 9))).collect(),
            _ => vec![weight; rows],
        };
        soft += measure(&kind, [&of_student(&student[i]), &teacher[i]], (rows, &weights), temperature);
        whole += task.weights(&seen[i])[output.min(1)];
    }
    soft /= whole;
    let plain = scene.train(&scene.text(job, "student/model", 1, ""), "plain", 1).expect("trained")[0];
    // Of a loss of two parts the teacher's takes the place of one.
    let part = match output {
        0 => plain,
        _ => {
            let one = |(z, batch): (&Vec<f64>, &Batch)| lse(z) - z[batch.targets.classes()[0] as usize];
            student.iter().zip(&batches).map(one).sum::<f64>() / batches.len() as f64
        }
    };
    assert!(soft > 1e-3, "{job:?}: {soft}");
    for (weight, steps, of_train, name) in [(1.0, 15, "", "run"), (0.3, 1, "accumulation = 3\n", "passes")] {
        let distill = format!("weight = {weight}\ntemperature = {temperature}\n");
        let losses =
            scene.train(&scene.distilled(job, steps, of_train, &distill), name, u64::MAX).expect("trained");
        let truth = plain + weight * (soft - part);
        println!("{job:?} {weight}: {} of {truth}, last {}", losses[0], losses[losses.len() - 1]);
        assert!(
            (losses[0] - truth).abs() < 2e-6 + 2e-5 * truth.abs(),
            "{job:?} {weight}: {}, {truth}",
            losses[0]
        );
        if steps > 1 && output == 0 {
            assert!(losses[steps as usize - 1] < 0.6 * losses[0], "{job:?}: {losses:?}");
        }
    }
}

/// A hit in the cache gives the same bits, a damaged file is reported and written again, and no task reads
/// what was kept for another.
#[test]
fn outputs_of_every_task_are_kept() {
    let (scene, device) = (Scene::new("bert/a"), cpu(1));
    let cache = scene.path("cache");
    let files = || -> Vec<PathBuf> {
        let found = std::fs::read_dir(&cache).into_iter().flatten().flatten();
        found.map(|f| f.path()).filter(|f| f.extension().is_some_and(|e| e == "outputs")).collect()
    };
    let mut known: Vec<PathBuf> = Vec::new();
    for job in JOBS.iter().filter(|job| job.3.is_empty()) {
        scene.models(*job);
        let recipe = scene.recipe(&scene.text(*job, "student/model", 1, ""), "prepared").expect("a recipe");
        let run = Run::prepare(&recipe).expect("a run");
        let part = &run.parts[0];
        let folder = scene.path("teacher/model");
        let find = || Teacher::find(&folder, &*part.task, 32, &run.tokenizer, 14).expect("it fits");
        let teach = || find().teach(&device, &part.train, 64, Some(&cache)).expect("outputs");
        let all: Vec<u32> = (0..part.train.len() as u32).collect();
        let of = |taught: &tempra::compress::Taught| bits(&taught.targets.of(&all).expect("rows"));
        let first = teach();
        assert!(!first.cached && first.warning.is_none(), "{job:?}");
        let again = teach();
        assert!(again.cached && of(&again) == of(&first), "{job:?}");
        let new: Vec<PathBuf> = files().into_iter().filter(|file| !known.contains(file)).collect();
        assert_eq!(new.len(), 1, "{job:?}");
        let mut bytes = std::fs::read(&new[0]).expect("bytes");
        let at = bytes.len() - 40;
        bytes[at] ^= 1;
        std::fs::write(&new[0], bytes).expect("written");
        let mended = teach();
        let warning = mended.warning.as_ref().expect("a warning").to_string();
        assert!(warning.contains("damaged") && !mended.cached && of(&mended) == of(&first), "{warning}");
        assert!(teach().cached);
        if job.0 == "similar" {
            // How vectors are pooled stands beside config.json.
            let edit = |name: &str, change: &dyn Fn(&mut serde_json::Value)| {
                let mut value = json(&folder.join(name));
                change(&mut value);
                std::fs::write(folder.join(name), value.to_string()).expect("written");
            };
            edit("config.json", &|v| drop(v.as_object_mut().expect("a map").remove("tempra_pooling")));
            let mean = teach();
            edit("1_Pooling/config.json", &|v| {
                v["pooling_mode_mean_tokens"] = json!(false);
                v["pooling_mode_cls_token"] = json!(true);
            });
            let first_token = teach();
            assert!(!first_token.cached && of(&first_token) != of(&mean));
        }
        known = files();
    }
}

/// A stopped run of a task with a row for each token ends with the bits of one that was not.
#[test]
fn a_stopped_tagger_goes_on_with_the_same_bits() {
    let scene = Scene::new("bert/a");
    let job = JOBS[3];
    scene.models(job);
    let text = scene.distilled(job, 6, "", "").replace("\ndropout = 0\n", "\ndropout = 0.2\n");
    let text = text.replace("batch_size = 200", "batch_size = 7");
    let whole = scene.train(&text, "whole", u64::MAX).expect("trained");
    let mut parts = scene.train(&text, "parts", 3).expect("stopped");
    parts.extend(scene.train(&text, "parts", u64::MAX).expect("resumed"));
    assert_eq!(bits(&whole), bits(&parts));
    let weights =
        |run: &str| std::fs::read(scene.path(run).join("model/model.safetensors")).expect("weights");
    assert!(weights("whole") == weights("parts"));
}

/// A Parquet file gives what the same rows give as JSON Lines; `make_parquet.py` wrote it.
#[test]
fn rows_of_parquet_are_distilled() {
    let scene = Scene::new("bert/a");
    std::fs::copy(golden("data/good.parquet"), scene.path("rows.parquet")).expect("copied");
    let row = |i: usize| json!({ "text": format!("text {i} é"), "label": (i % 3).to_string() });
    let rows: String = (0..2500).map(|i| format!("{}\n", row(i))).collect();
    std::fs::write(scene.path("rows.jsonl"), rows).expect("written");
    scene.models(("classify", "rows.jsonl", "", ""));
    let first = |file: &str| {
        let _ = std::fs::remove_dir_all(scene.path("run"));
        scene.train(&scene.distilled(("classify", file, "", ""), 2, "", ""), "run", 2).expect("trained")
    };
    assert_eq!(bits(&first("rows.parquet")), bits(&first("rows.jsonl")));
}

/// Tags and labels are matched by name: in another order the loss is the same.
#[test]
fn tags_and_labels_are_matched_by_name() {
    let scene = Scene::new("bert/a");
    for (job, [one, other]) in [
        (
            ("tag", "tag.conll", "stride = 2\n", ""),
            ["\"O\", \"B-PER\", \"B-LOC\"", "\"B-LOC\", \"O\", \"B-PER\""],
        ),
        (("multilabel", "multilabel.csv", "", ""), ["\"a\", \"b\"", "\"b\", \"a\""]),
    ] {
        scene.models(job);
        let first = |classes: &str| {
            let _ = std::fs::remove_dir_all(scene.path("run"));
            let text = scene.distilled(job, 1, "", "weight = 1\n");
            let text = text.replace("[data]\n", &format!("[data]\nclasses = [{classes}]\n"));
            scene.train(&text, "run", 1).expect("trained")[0]
        };
        let (one, other) = (first(one), first(other));
        assert!(one > 1e-3 && (one - other).abs() < 1e-6 * (1.0 + one), "{job:?}: {one}, {other}");
    }
}

/// What does not fit is refused by name.
#[test]
fn a_teacher_of_another_kind_is_refused() {
    let scene = Scene::new("bert/a");
    let refused = |text: &str, parts: &[&str]| {
        let e = scene.refused(text);
        assert!(parts.iter().all(|part| e.contains(part)), "{parts:?}: {e}");
    };
    for (job, was, is) in [(JOBS[3], "B-LOC", "B-ORG"), (("multilabel", "multilabel.csv", "", ""), "b", "c")]
    {
        scene.models(job);
        let data = std::fs::read_to_string(scene.path(job.1)).expect("text");
        let data = match job.0 {
            "tag" => data.replace(was, is),
            _ => data.replace(",b\n", ",c\n").replace("a,b", "a,c"),
        };
        let file = format!("other-{}", job.1);
        std::fs::write(scene.path(&file), data).expect("written");
        let (lacks, more) = (format!("without {was:?}"), format!("with {is:?}"));
        let [lacks, more] =
            [lacks, more].map(|said| said.replace(was, "?").replace(is, was).replace('?', is));
        let text = scene.distilled(job, 1, "", "").replace(job.1, &file);
        refused(&text, &["other classes than the student", &lacks, &more, "data.classes"]);
    }
    // The teacher is one for several labels now.
    refused(
        &scene.distilled(JOBS[2], 1, "", "").replace("student/model", "base"),
        &["another kind of outputs", "task \"multilabel\"", "task = \"regress\""],
    );
    refused(
        &scene.distilled(JOBS[5], 1, "", "").replace("student/model", "base"),
        &["not trained for text embeddings"],
    );
    let masked = scene.distilled(("mask", "text.txt", "", ""), 1, "", "");
    refused(&masked, &["the teacher is not a masked language model"]);
    for task in ["permute", "multi"] {
        let text = scene.distilled((task, "text.txt", "", ""), 1, "", "");
        refused(&text, &[&format!("task \"{task}\" cannot be distilled"), "\"tag\"", "remove [distill]"]);
    }
    // A recipe among several has no teacher of its own.
    scene.models(JOBS[0]);
    std::fs::write(scene.path("part.toml"), scene.distilled(JOBS[0], 1, "", "")).expect("written");
    std::fs::write(scene.path("plain.toml"), scene.text(JOBS[2], "base", 1, "")).expect("written");
    let several = "task = \"multi\"\nthreads = 1\n[model]\npath = \"./base\"\n[multi]\n\
                   recipes = [\"part.toml\", \"plain.toml\"]\n[data]\nmax_length = 14\n";
    refused(
        several,
        &["distill.teacher is set in a recipe of multi.recipes", "part.toml", "remove [distill]"],
    );
    scene.models(JOBS[5]);
    let (_, task, _) = scene.prepare(JOBS[5]);
    let tokenizer = tempra::text::Tokenizer::from_dir(&scene.path("base"), 200).expect("a tokenizer");
    let e = Teacher::find(&scene.path("teacher/model"), &*task, 48, &tokenizer, 14)
        .expect_err("refused")
        .to_string();
    assert!(e.contains("another width") && e.contains("48 columns") && e.contains("32"), "{e}");
}

/// At the end of a run stands what the teacher scores on the same examples, class by class: what `tempra
/// eval` says of each of the two models.
#[test]
fn a_student_is_scored_beside_its_teacher() {
    let scene = Scene::new("bert/a");
    let jobs = [JOBS[0], ("multilabel", "multilabel.csv", "", ""), JOBS[2], JOBS[3], JOBS[4], JOBS[5]];
    for (task, file, of_data, more) in jobs {
        let held = format!("held-{file}");
        std::fs::copy(scene.path(file), scene.path(&held)).expect("copied");
        let of_data = format!("{of_data}validation = \"{held}\"\n");
        let job = (task, file, &*of_data, more);
        scene.models(job);
        std::fs::write(scene.path("recipe.toml"), scene.distilled(job, 4, "", "")).expect("written");
        let said = ok(task, tempra(scene.dir.path(), &["train", "recipe.toml", "-q", "--set", "output=run"]));
        let found = &json(&scene.path("run/metrics.json"))["teacher"];
        assert_eq!(found["scored_on"], "validation", "{task}");
        let eval = |model: &str| -> serde_json::Value {
            let said = ok(task, tempra(scene.dir.path(), &["eval", model, &held, "--json", "-q"]));
            serde_json::from_str(&said).expect("JSON")
        };
        let (teacher, student) = (eval("teacher/model"), eval("run/model"));
        for (of, eval) in [("scores", &teacher), ("student", &student)] {
            for (name, value) in eval["scores"].as_object().expect("scores") {
                // The unit of a loss of numbers is that of the run.
                if (task, name.as_str()) != ("regress", "loss") {
                    let (found, value) = (number(&found[of][name]), number(value));
                    let off = (found - value).abs();
                    assert!(off < 2e-5 * (1.0 + value.abs()), "{task} {of} {name}: {found}, {value}");
                }
            }
        }
        let recall = found["recall"].as_array().expect("a list");
        let classes = if ["classify", "multilabel", "tag"].contains(&task) { 2 } else { 0 };
        assert_eq!(recall.len(), classes, "{task}: {recall:?}");
        assert_eq!(said.contains("\nrecall of\n"), classes > 0, "{said}");
        let change = |r: &serde_json::Value| number(&r["student"]) - number(&r["teacher"]);
        assert!(recall.windows(2).all(|pair| change(&pair[0]) <= change(&pair[1])), "{recall:?}");
        for pair in recall.iter().filter(|_| task != "tag") {
            for (of, eval) in [("teacher", &teacher), ("student", &student)] {
                let names = eval["classes"].as_array().expect("names");
                let place = names.iter().position(|name| *name == pair["class"]).expect("a class");
                let own = &eval["per_class"][place];
                assert!((number(&pair[of]) - number(&own["recall"])).abs() < 1e-9, "{task}: {pair}, {own}");
                assert_eq!(pair["support"], own["support"]);
            }
        }
        if task != "classify" {
            continue;
        }
        let set = ["train", "recipe.toml", "-q", "--set", "output=seeds", "--set", "seeds=[1, 2]"];
        let said = ok(task, tempra(scene.dir.path(), &set));
        let table = json(&scene.path("seeds/summary.json"));
        for name in ["accuracy", "recall of yes", "recall of no"] {
            let of = numbers(&table[name]["teacher"]);
            assert!(of.len() == 2 && of[0] == of[1], "{table}");
            assert!(said.contains(&format!("(teacher {:.4})", of[0])), "{said}");
        }
        assert_eq!(numbers(&table["accuracy"]["teacher"])[0], number(&teacher["scores"]["accuracy"]));
    }
}
