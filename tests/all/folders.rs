//! Nothing of the user's is lost: a run that starts over keeps the earlier one until it has a checkpoint, a
//! run folder is new, empty or ours, and no command writes over what it reads.

use crate::faults::{Fault, FaultFs};
use crate::support::golden;
use crate::tasks::{data, ok, prepared, recipe, tempra};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use tempfile::{TempDir, tempdir};
use tempra::checkpoint::{NamedFile, RealFs, RunDir, verify};
use tempra::error::Kind;

/// Every file below a folder, but lock files, and what is in it.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut all, mut open) = (BTreeMap::new(), vec![dir.to_path_buf()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false if path.ends_with("run.lock") => {}
                false => {
                    let bytes = fs::read(&path).unwrap();
                    all.insert(path, bytes);
                }
            }
        }
    }
    all
}

fn same(before: &BTreeMap<PathBuf, Vec<u8>>, after: &BTreeMap<PathBuf, Vec<u8>>, what: &str) {
    let names = |a: &BTreeMap<PathBuf, Vec<u8>>| a.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(before), names(after), "{what}");
    for (path, bytes) in before {
        assert!(after[path] == *bytes, "{what}: {} has changed", path.display());
    }
}

fn refused(out: &Output, code: i32, part: &str) {
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{said}");
    assert!(said.contains(part), "{part}: {said}");
}

/// A folder with data of every task, the small model in `base`, and a recipe of each task.
fn setting() -> TempDir {
    let dir = tempdir().unwrap();
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    for (task, file, more) in crate::tasks::TASKS {
        let path = dir.path().join(format!("{task}.toml"));
        fs::write(path, recipe(task, file, more, &format!("runs/{task}"))).unwrap();
    }
    let multi = "task = \"multi\"\nthreads = 1\noutput = \"runs/multi\"\n[model]\npath = \"./base\"\n[multi]\n\
                 recipes = [\"classify.toml\", \"tag.toml\"]\n[data]\nmax_length = 14\n[optim]\nlr = 2e-3\n[train]\n\
                 max_steps = 12\nbatch_size = 4\neval_every = 2\nsave_every = 5\n";
    fs::write(dir.path().join("multi.toml"), multi).unwrap();
    dir
}

#[test]
fn starting_over_keeps_the_earlier_run_until_the_new_one_has_a_checkpoint() {
    let dir = setting();
    let dir = dir.path();
    let cases: &[(&str, &[&str])] =
        &[("classify.toml", &[]), ("tag.toml", &["--set", "seeds=[1,2]"]), ("multi.toml", &[])];
    for (recipe, more) in cases {
        let train = |args: &[&str]| tempra(dir, &[&["train", recipe][..], more, args].concat());
        ok(recipe, train(&[]));
        let before = snapshot(&dir.join("runs"));
        // What only shows when data, model or recipe are read.
        let mut faults = vec![
            (vec!["--set", "data.train=clasify.csv"], 3, "clasify.csv"),
            (vec!["--set", "data.test=no.conll"], 3, "no.conll"),
            (vec!["--set", "model.path=./bas"], 4, "bas`"),
            (vec!["--set", "data.max_length=4000"], 2, "max_length"),
        ];
        if *recipe == "multi.toml" {
            faults = vec![(vec!["--set", "multi.recipes=[\"classify.toml\",\"tga.toml\"]"], 2, "tga.toml")];
        }
        if *recipe == "classify.toml" {
            // Training ends before the first checkpoint.
            faults.push((
                vec!["--set", "optim.lr=1e30", "--set", "train.max_nonfinite_steps=0"],
                7,
                "finite",
            ));
        }
        for (args, code, part) in faults {
            let args = [&["--fresh"][..], &args].concat();
            refused(&train(&args), code, part);
            same(&before, &snapshot(&dir.join("runs")), &format!("{recipe} {args:?}"));
        }
        ok(recipe, train(&["--fresh", "--set", "optim.lr=1e-4"]));
        let after = snapshot(&dir.join("runs"));
        assert!(after.keys().all(|p| !p.to_string_lossy().contains("previous-run")), "{:?}", after.keys());
        assert!(after.iter().any(|(p, bytes)| p.ends_with("model/model.safetensors") && before[p] != *bytes));
        fs::remove_dir_all(dir.join("runs")).unwrap();
    }
}

/// A run folder as an earlier run left it: checkpoints, model, journal, and a note of the user's.
fn earlier(dir: &Path) -> RunDir {
    let mut run = RunDir::open(dir, Arc::new(RealFs)).unwrap();
    for step in [3, 6] {
        run.save(step, vec![NamedFile::bytes("state.json", b"earlier".to_vec())], &[]).unwrap();
    }
    for folder in ["model", "best-tag"] {
        fs::create_dir(dir.join(folder)).unwrap();
        fs::write(dir.join(folder).join("tempra.json"), "earlier").unwrap();
    }
    for file in ["metrics.jsonl", "metrics.json", "recipe.toml", "notes.txt"] {
        fs::write(dir.join(file), "earlier").unwrap();
    }
    run
}

/// As a run that starts over does: the earlier one aside, its own files, a checkpoint.
fn start_over(dir: &Path, fs_: &FaultFs, saves: bool) -> tempra::error::Result<()> {
    let mut run = RunDir::open(dir, Arc::new(fs_.clone()))?;
    run.set_aside(false)?;
    let file = |name: &str| tempra::checkpoint::write_file(fs_, &dir.join(name), b"new");
    file("recipe.toml")?;
    file("metrics.jsonl")?;
    if !saves {
        return Err(tempra::error::Error::data("no checkpoint came"));
    }
    run.save(3, vec![NamedFile::bytes("state.json", b"new".to_vec())], &[]).map(|_| ())
}

#[test]
fn starting_over_killed_or_failed_anywhere_leaves_one_whole_run() {
    use tempra::checkpoint::Fs as _;
    let kinds = [Fault::Kill, Fault::Error(std::io::ErrorKind::StorageFull), Fault::Full];
    for (fault, saves) in kinds.into_iter().flat_map(|f| [(f, true), (f, false)]) {
        let (mut kept, mut replaced) = (0, 0);
        for n in 0.. {
            let dir = tempdir().unwrap();
            let dir = dir.path();
            drop(earlier(dir));
            let before = snapshot(dir);
            let faulty = FaultFs::new(fault, n);
            let done = start_over(dir, &faulty, saves);
            // The next start tidies up; it may itself be killed, once, anywhere.
            for again in 0..3 {
                drop(RunDir::open(dir, Arc::new(FaultFs::new(Fault::Kill, n % 7 + again * 5))));
            }
            drop(RunDir::open(dir, Arc::new(RealFs)).unwrap());
            let after = snapshot(dir);
            assert!(after.contains_key(&dir.join("notes.txt")));
            let is_new = after[&dir.join("checkpoint-3/state.json")] == b"new";
            if is_new {
                assert!(saves);
                let own = ["checkpoint-3", "metrics.jsonl", "notes.txt", "recipe.toml", "run.lock"];
                let mut found: Vec<String> = fs::read_dir(dir)
                    .unwrap()
                    .map(|e| e.unwrap().file_name().into_string().unwrap())
                    .collect();
                found.retain(|name| name != "latest");
                found.sort();
                assert_eq!(found, own, "{fault:?} at {n}");
                assert!(verify(dir).unwrap().ok());
                replaced += 1;
            } else {
                assert!(done.is_err(), "{fault:?} at {n}");
                same(&before, &after, &format!("{fault:?} at {n}"));
                kept += 1;
            }
            if !faulty.hit() {
                break;
            }
        }
        assert!(kept > 15 && (replaced > 5) == saves, "{fault:?}: {kept} {replaced}");
    }
    // The lock is taken before anything is moved.
    let dir = tempdir().unwrap();
    let held = earlier(dir.path());
    let e = start_over(dir.path(), &FaultFs::new(Fault::Kill, usize::MAX), true).unwrap_err();
    assert_eq!(e.kind(), Kind::Locked);
    drop(held);
    assert!(RealFs.mkdir(dir.path()).is_ok());
}

#[test]
fn a_run_writes_only_into_a_new_an_empty_or_a_run_folder() {
    let dir = setting();
    let dir = dir.path();
    // A project: a pretrained model in ./model, the recipe and the data beside it.
    fs::rename(dir.join("base"), dir.join("model")).unwrap();
    for (task, ..) in crate::tasks::TASKS {
        let path = dir.join(format!("{task}.toml"));
        let text = fs::read_to_string(&path).unwrap().replace("./base", "./model");
        fs::write(path, text).unwrap();
    }
    fs::copy(dir.join("classify.toml"), dir.join("recipe.toml")).unwrap();
    for (folder, file) in [
        ("foreign", "checkpoint-100/pytorch_model.bin"),
        ("texts", "notes.txt"),
        ("other/model", "config.json"),
    ] {
        fs::create_dir_all(dir.join(folder).join(file).parent().unwrap()).unwrap();
        fs::write(dir.join(folder).join(file), "theirs").unwrap();
    }
    fs::write(dir.join("plain"), "a file").unwrap();
    let before = snapshot(dir);
    let cases = [
        ("recipe.toml", "."),
        ("recipe.toml", "./runs/.."),
        ("regress.toml", "model"),
        ("tag.toml", "model/run"),
        ("answer.toml", "foreign"),
        ("mask.toml", "texts"),
        ("similar.toml", "other"),
        ("multilabel.toml", "plain"),
    ];
    for (recipe, output) in cases {
        for more in [&[][..], &["--fresh"], &["--set", "seeds=[1,2]"]] {
            let set = format!("output={output}");
            let args = [&["train", recipe, "--set", &set][..], more].concat();
            let out = tempra(dir, &args);
            refused(&out, 2, "output");
            same(&before, &snapshot(dir), &format!("{args:?}"));
        }
    }
    assert!(!dir.join("run.lock").exists() && !dir.join("texts/run.lock").exists());
    // New, empty but for hidden files, and ours.
    fs::create_dir(dir.join("empty")).unwrap();
    fs::write(dir.join("empty/.gitkeep"), "").unwrap();
    for output in ["new/below", "empty", "empty"] {
        ok(output, tempra(dir, &["train", "recipe.toml", "--set", &format!("output={output}")]));
    }
    // The recipe that a run wrote starts the same run, and stays as it is.
    let copy = fs::read(dir.join("empty/recipe.toml")).unwrap();
    for more in [&[][..], &["--fresh"], &["--threads", "1"]] {
        ok("resolved", tempra(dir, &[&["train", "empty/recipe.toml"][..], more].concat()));
        assert!(fs::read(dir.join("empty/recipe.toml")).unwrap() == copy);
    }
    let out = tempra(dir, &["train", "empty/recipe.toml", "--fresh", "--set", "optim.lr=1e-4"]);
    refused(&out, 2, "overwrite its own recipe");
    assert!(fs::read(dir.join("empty/recipe.toml")).unwrap() == copy);
}

#[test]
fn what_others_put_into_a_run_folder_stays() {
    let dir = setting();
    let dir = dir.path();
    let run = dir.join("runs/classify");
    ok("first", tempra(dir, &["train", "classify.toml"]));
    // Names like ours in another sense.
    let theirs = ["notes.txt", "notes.tmp-3", "model.md", "checkpoint-best/x", "results/model/x", "x.old-4"];
    for name in theirs {
        fs::create_dir_all(run.join(name).parent().unwrap()).unwrap();
        fs::write(run.join(name), "theirs").unwrap();
    }
    ok("again", tempra(dir, &["train", "classify.toml"]));
    ok("fresh", tempra(dir, &["train", "classify.toml", "--fresh"]));
    for name in theirs {
        assert_eq!(fs::read_to_string(run.join(name)).unwrap(), "theirs", "{name}");
    }
    // Names that the run needs are refused when something else bears them, with or without --fresh.
    for name in ["checkpoint-7", "best-mine"] {
        fs::create_dir(run.join(name)).unwrap();
        fs::write(run.join(name).join("config.json"), "theirs").unwrap();
        for more in [&[][..], &["--fresh"]] {
            let out = tempra(dir, &[&["train", "classify.toml"][..], more].concat());
            refused(&out, 2, "which tempra did not write");
            assert_eq!(fs::read_to_string(run.join(name).join("config.json")).unwrap(), "theirs");
        }
        fs::remove_dir_all(run.join(name)).unwrap();
    }
    // A folder as an earlier version left it, without the lock file, goes on.
    fs::remove_file(run.join("run.lock")).unwrap();
    ok("unlocked", tempra(dir, &["train", "classify.toml"]));
}

#[test]
fn a_run_does_not_write_over_what_it_reads() {
    let dir = setting();
    let dir = dir.path();
    ok("first", tempra(dir, &["train", "classify.toml"]));
    let run = dir.join("runs/classify");
    fs::copy(dir.join("tag.conll"), run.join("metrics.json")).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&run, dir.join("link")).unwrap();
        std::os::unix::fs::symlink(run.join("model"), dir.join("linked-model")).unwrap();
    }
    let before = snapshot(&run);
    let mut cases: Vec<(&str, Vec<&str>)> = vec![
        // Training on from the model of a run, into that run's folder.
        ("regress.toml", vec!["model.path=./runs/classify/model", "output=runs/classify"]),
        ("tag.toml", vec!["model.path=./runs/classify/checkpoint-3", "output=runs/../runs/classify/"]),
        ("mask.toml", vec!["model.path=./runs/classify/model", "output=runs/classify/model/again"]),
        ("classify.toml", vec!["data.test=runs/classify/metrics.json"]),
        (
            "classify.toml",
            vec!["data.validation=runs/classify/checkpoint-3/a.csv", "data.validation_fraction=0"],
        ),
    ];
    if cfg!(unix) {
        cases.push(("regress.toml", vec!["model.path=./linked-model", "output=runs/classify"]));
        cases.push(("regress.toml", vec!["model.path=./runs/classify/model", "output=link"]));
    }
    for (recipe, sets) in cases {
        let sets: Vec<&str> = sets.iter().flat_map(|s| ["--set", *s]).collect();
        for more in [&[][..], &["--fresh"]] {
            let out = tempra(dir, &[&["train", recipe][..], &sets, more].concat());
            refused(&out, 2, "output");
            same(&before, &snapshot(&run), &format!("{recipe} {sets:?}"));
        }
    }
}

#[test]
fn no_command_writes_over_what_it_reads() {
    let dir = setting();
    let dir = dir.path();
    for task in ["classify", "answer", "similar"] {
        ok(task, tempra(dir, &["train", &format!("{task}.toml")]));
    }
    for file in ["a.json", "b.json", "valid.csv", "train.csv"] {
        fs::copy(dir.join("classify.csv"), dir.join(file)).unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink(dir.join("classify.csv"), dir.join("link.csv")).unwrap();
    fs::create_dir(dir.join("sub")).unwrap();
    let before = snapshot(dir);
    let mut cases: Vec<(i32, Vec<&str>)> = vec![
        (2, vec!["predict", "runs/classify/model", "classify.csv", "-o", "sub/../classify.csv"]),
        (
            2,
            vec![
                "predict",
                "runs/classify/model",
                "classify.csv",
                "-o",
                "runs/classify/model/config.json",
                "--format",
                "jsonl",
            ],
        ),
        (
            2,
            vec![
                "predict",
                "./runs/classify/model",
                "classify.csv",
                "-o",
                "runs/classify/model/predictions.csv",
            ],
        ),
        (2, vec!["predict", "runs/answer/model", "answer.json", "-o", "a.json"]),
        (2, vec!["predict", "runs/answer/model", "answer.json", "-o", "answer.json"]),
        (2, vec!["predict", "runs/answer/model", "answer.json", "-o", "sub"]),
        (2, vec!["embed", "runs/similar/model", "similar.csv", "-o", "./similar.csv"]),
        (2, vec!["embed", "runs/similar/model", "similar.csv", "-o", "runs/similar/model/model.safetensors"]),
        (2, vec!["init", "train.csv", "-o", "train.csv", "--force"]),
        (2, vec!["init", "train.csv", "-o", "sub/../valid.csv", "--force"]),
        (
            2,
            vec![
                "init",
                "train.csv",
                "--model",
                "runs/classify/model",
                "-o",
                "runs/classify/model/config.json",
                "--force",
            ],
        ),
        (2, vec!["bench", "compare", "a.json", "b.json", "--html", "./b.json"]),
    ];
    if cfg!(unix) {
        cases.push((2, vec!["predict", "runs/classify/model", "classify.csv", "-o", "link.csv"]));
        cases.push((2, vec!["embed", "runs/similar/model", "link.csv", "-o", "classify.csv"]));
    }
    for (code, args) in cases {
        let out = tempra(dir, &args);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains("error: ") && !said.contains("unexpected argument"), "{args:?}: {said}");
        same(&before, &snapshot(dir), &format!("{args:?}"));
    }
    // Beside its input and in the run folder there is room.
    ok(
        "beside",
        tempra(dir, &["predict", "runs/classify/model", "classify.csv", "-o", "runs/classify/p.csv"]),
    );
    ok("folder", tempra(dir, &["predict", "runs/answer/model", "answer.json", "-o", "answers"]));
    // Of two recipes neither may write where the other reads or writes.
    let adapt = |output: &str, more: &[&str]| {
        let text = fs::read_to_string(dir.join("mask.toml")).unwrap();
        fs::write(dir.join("text.toml"), text.replace("runs/mask", output)).unwrap();
        tempra(dir, &[&["adapt", "text.toml", "regress.toml"][..], more].concat())
    };
    let before = snapshot(&dir.join("runs"));
    for (output, code) in [("runs/regress/with", 2), ("base", 2), ("runs", 2), ("sub/..", 2)] {
        let out = adapt(output, &["--fresh"]);
        refused(&out, code, "output");
        same(&before, &snapshot(&dir.join("runs")), output);
    }
    // A task that cannot be read is found before hours of the language model.
    let text = fs::read_to_string(dir.join("regress.toml")).unwrap();
    fs::write(dir.join("regress.toml"), text.replace("regress.csv", "regres.csv")).unwrap();
    refused(&adapt("runs/mask", &[]), 3, "regres.csv");
    assert!(!dir.join("runs/mask").exists());
}
