//! Output that cannot be written: progress is dropped and a run goes on to its end; results are an error once
//! the files of the run are there.
#![cfg(unix)]

use crate::cli::{fine, refused, str};
use crate::support::golden;
use crate::tasks::{data, prepared, read, recipe, tempra};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::{TempDir, tempdir};

fn setting() -> TempDir {
    let dir = tempdir().expect("a folder");
    prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    for (task, file, more) in [("classify", "classify.csv", ""), ("tag", "tag.conll", "stride = 2\n")] {
        let text = recipe(task, file, more, task).replace("[train]\n", "[train]\nlog_every = 1\n");
        std::fs::write(dir.path().join(format!("{task}.toml")), text).expect("written");
    }
    dir
}

/// `tempra` in a folder, with what a shell does around it; the exit code is that of `tempra`.
fn shell(dir: &Path, line: &str) -> (Option<i32>, String) {
    let line = format!("{line}; exit ${{PIPESTATUS[0]}}")
        .replace("tempra ", concat!(env!("CARGO_BIN_EXE_tempra"), " "));
    let out = Command::new("bash").args(["-c", &line]).current_dir(dir).output().expect("bash");
    (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

/// The run went to its end: the model opens and scores, and nothing half-written is left.
fn whole(dir: &Path, run: &str, file: &str) {
    let steps = read(&dir.join(run).join("metrics.json"))["steps"].clone();
    assert_eq!(steps, 3, "{run}");
    fine(&tempra(dir, &["eval", &format!("{run}/model"), file, "-q"]));
}

#[test]
fn a_reader_that_goes_away_does_not_end_training() {
    let dir = setting();
    let at = dir.path();
    let mut n = 0;
    for (task, file) in [("classify", "classify.csv"), ("tag", "tag.conll")] {
        for options in ["", "-q", "--json"] {
            n += 1;
            let run = format!("run{n}");
            let line = format!("tempra train {task}.toml --set output={run} {options} 2>&1 | head -1");
            let (code, said) = shell(at, &line);
            assert_eq!(code, Some(0), "{line}: {said}");
            whole(at, &run, file);
        }
    }
    // Both ends gone before the first byte, and after the first line of the log.
    for lines in [0, 1] {
        let run = format!("gone{lines}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tempra"));
        command.current_dir(at).args(["train", "classify.toml", "--set", &format!("output={run}")]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
        drop(child.stdout.take());
        let mut log = BufReader::new(child.stderr.take().expect("a pipe"));
        (0..lines).for_each(|_| drop(log.read_line(&mut String::new())));
        drop(log);
        assert_eq!(child.wait().expect("an end").code(), Some(0), "{run}");
        whole(at, &run, "classify.csv");
    }
}

#[test]
fn a_log_on_a_full_disk_is_dropped_and_results_are_an_error() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let dir = setting();
    let at = dir.path();
    let full = || OpenOptions::new().write(true).open("/dev/full").expect("opened");
    let mut n = 0;
    let mut go = |args: &[&str], progress_lost: bool, results_lost: bool| {
        n += 1;
        let run = format!("full{n}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tempra"));
        command.current_dir(at).args(args).args(["--set", &format!("output={run}")]);
        command.stdout(if results_lost { full().into() } else { Stdio::piped() });
        command.stderr(if progress_lost { full().into() } else { Stdio::piped() });
        let out = command.output().expect("run");
        assert_eq!(out.status.code(), Some(if results_lost { 8 } else { 0 }), "{args:?}: {out:?}");
        if results_lost && !progress_lost {
            assert!(refused(&out, 8).contains("standard output: cannot be written"));
        }
        run
    };
    for more in [&[][..], &["--json"], &["-q"]] {
        for (progress, results) in [(true, false), (false, true), (true, true)] {
            let run = go(&[&["train", "classify.toml"], more].concat(), progress, results);
            whole(at, &run, "classify.csv");
        }
    }
    // Of several seeds all are trained and summed up first.
    let run = go(&["train", "classify.toml", "--set", "seeds=[1,2]"], true, true);
    for seed in ["seed-1", "seed-2"] {
        whole(at, &format!("{run}/{seed}"), "classify.csv");
    }
    assert!(
        read(&at.join(&run).join("summary.json"))["accuracy"]["values"]
            .as_array()
            .is_some_and(|v| v.len() == 2)
    );

    // What only reports: a number that reached nobody is an error, a note is not.
    let seed = format!("{run}/seed-1");
    let model = at.join(&seed).join("model");
    for args in [
        &["predict", str(&model), "classify.csv"][..],
        &["eval", str(&model), "classify.csv", "--json"],
        &["embed", str(&model), "classify.csv"],
        &["checkpoint", "verify", &seed],
        &["--help"],
        &["help", "recipe"],
    ] {
        let with = |stdout: Stdio, stderr: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_tempra"));
            command
                .current_dir(at)
                .args(args)
                .stdout(stdout)
                .stderr(stderr)
                .output()
                .expect("run")
                .status
                .code()
        };
        assert_eq!(with(full().into(), Stdio::piped()), Some(8), "{args:?}");
        assert_eq!(with(full().into(), full().into()), Some(8), "{args:?}");
        assert_eq!(with(Stdio::piped(), full().into()), Some(0), "{args:?}");
    }
}
