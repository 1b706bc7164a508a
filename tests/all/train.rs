//! Runs of the program itself: learns, resumes bit for bit after any kill, stops as documented.

use crate::support::{device, killed_after, lines_of, report_skipped};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempra::rng::Rng;

/// A small labelled data set that a tiny model can learn: the class is told by one word.
fn data(dir: &Path, rows: u32) -> PathBuf {
    let mut rng = Rng::new(3, "train test", 0);
    let words = ["the", "film", "was", "a", "story", "of", "time"];
    let mut text = String::from("text,label\n");
    for _ in 0..rows {
        let n = 2 + rng.below(9);
        let good = rng.below(2) == 1;
        let mut sentence: Vec<&str> = (0..n).map(|_| words[rng.below(words.len() as u32) as usize]).collect();
        sentence.insert(rng.below(n) as usize, if good { "good" } else { "bad" });
        text += &format!("{},{}\n", sentence.join(" "), if good { "yes" } else { "no" });
    }
    let path = dir.join("data.csv");
    std::fs::write(&path, text).unwrap();
    path
}

/// A folder with data and a recipe; `more` are further lines of `[train]`.
fn setting(rows: u32, more: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), rows);
    let model = std::env::current_dir().unwrap().join("tests/golden/bert/a");
    let recipe = format!(
        "task = \"classify\"\nseed = 5\nthreads = 2\n[model]\npath = {model:?}\n[data]\ntrain = \"data.csv\"\n\
         max_length = 16\nvalidation_fraction = 0.2\ncache = false\n[optim]\nlr = 2e-3\nwarmup_ratio = 0.1\n[train]\n{more}\n"
    );
    std::fs::write(dir.path().join("recipe.toml"), recipe).unwrap();
    dir
}

fn tempra(dir: &Path, output: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tempra"));
    command.current_dir(dir).args(["train", "recipe.toml", "--set", &format!("output={output}")]).args(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn finish(dir: &Path, output: &str, args: &[&str]) -> Output {
    tempra(dir, output, args).output().unwrap()
}

fn ok(out: Output) -> String {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn weights(dir: &Path, output: &str) -> Vec<u8> {
    std::fs::read(dir.join(output).join("model/model.safetensors")).unwrap()
}

fn metric(dir: &Path, output: &str, name: &str) -> f64 {
    let text = std::fs::read_to_string(dir.join(output).join("metrics.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&text).unwrap()[name].as_f64().unwrap()
}

#[test]
fn learns_a_task_and_leaves_a_model_that_predicts() {
    let dir = setting(300, "epochs = 6\nbatch_size = 16");
    let said = ok(finish(dir.path(), "run", &[]));
    assert!(said.contains("tempra predict"), "{said}");
    let accuracy = metric(dir.path(), "run", "accuracy");
    // The word decides, so a model that learns is right nearly always, and one that does not half of the
    // time.
    assert!(accuracy > 0.95, "accuracy {accuracy}");
    let journal = std::fs::read_to_string(dir.path().join("run/metrics.jsonl")).unwrap();
    assert!(journal.lines().any(|l| l.contains("eval_accuracy")));
}

#[test]
fn two_runs_are_bit_equal_and_another_seed_is_not() {
    let dir = setting(80, "epochs = 2\nbatch_size = 8");
    for (output, args) in [("a", &[][..]), ("b", &["--threads", "1"]), ("c", &["--seed", "6"])] {
        ok(finish(dir.path(), output, args));
    }
    assert!(
        weights(dir.path(), "a") == weights(dir.path(), "b"),
        "the number of threads shows in the weights"
    );
    assert!(weights(dir.path(), "a") != weights(dir.path(), "c"), "the seed does not show in the weights");
}

/// `TEMPRA_KILLS` says how many runs; each is killed at random moments until one comes through. Moments are
/// lines of the run's output, not times, so the test does not depend on the speed of the machine.
#[test]
fn killed_at_random_and_run_again_ends_with_the_same_bits() {
    let kills: u64 = std::env::var("TEMPRA_KILLS").ok().and_then(|v| v.parse().ok()).unwrap_or(4);
    let dir = setting(120, "epochs = 4\nbatch_size = 4\nsave_every = 7\neval_every = 10\nlog_every = 1");
    let length = lines_of(&ok(finish(dir.path(), "whole", &["--json"])));
    let expected = weights(dir.path(), "whole");
    let (mut equal, mut killed) = (0, 0);
    for k in 0..kills {
        let mut rng = Rng::new(k, "kills", 0);
        let output = format!("run-{k}");
        loop {
            let lines = rng.below(length + length / 2);
            match killed_after(&mut tempra(dir.path(), &output, &["--json"]), lines) {
                Some(status) => {
                    assert!(status.success(), "run {k} ended with {status}");
                    break;
                }
                None => killed += 1,
            }
        }
        equal += (weights(dir.path(), &output) == expected) as u64;
    }
    println!(
        "{equal} of {kills} runs, killed {killed} times, ended with the weights of the run that was not"
    );
    assert_eq!(equal, kills);
    assert!(killed > 0);
}

/// The run cannot end before the signal: it writes more lines than a pipe holds, and nobody reads them until
/// then.
#[cfg(unix)]
#[test]
fn a_signal_stops_after_a_checkpoint_and_the_run_goes_on() {
    let more = "epochs = 10\nbatch_size = 4\nsave_every = 100000\neval_every = 100000\nlog_every = 1";
    let dir = setting(400, more);
    let mut child = tempra(dir.path(), "run", &["--json"]).stderr(Stdio::null()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"log\"") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "the run ended without a step");
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143), "{rest}");
    let said = ok(finish(dir.path(), "run", &["--json"]));
    assert!(said.contains("\"resumed\""), "{said}");
}

#[test]
fn a_run_folder_is_held_by_one_process() {
    // Longer than any test: it is killed.
    let dir = setting(400, "epochs = 1000\nbatch_size = 4\nlog_every = 1");
    let mut first = tempra(dir.path(), "run", &["--json"]).stderr(Stdio::null()).spawn().unwrap();
    let mut said = BufReader::new(first.stdout.take().unwrap());
    assert!(said.read_line(&mut String::new()).unwrap() > 0, "the run ended before it began");
    let second = finish(dir.path(), "run", &[]);
    first.kill().unwrap();
    first.wait().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(9), "{said}");
    assert!(said.contains(&first.id().to_string()), "{said}");
}

#[test]
fn a_diverged_run_says_where_and_keeps_nothing_broken() {
    let dir = setting(80, "epochs = 3\nbatch_size = 4\nmax_nonfinite_steps = 2");
    let out = finish(dir.path(), "run", &["--set", "optim.lr=1e30", "--set", "optim.warmup_ratio=0"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(7), "{said}");
    assert!(said.contains("examples [") && said.contains("step"), "{said}");
    let journal = std::fs::read_to_string(dir.path().join("run/metrics.jsonl")).unwrap();
    assert!(
        journal.contains("\"NaN\"") || journal.contains("Infinity"),
        "a step that was not finite is not shown"
    );
    assert!(!dir.path().join("run/model").exists());
}

#[test]
fn another_recipe_or_other_data_is_not_gone_on_with() {
    let dir = setting(80, "epochs = 2\nbatch_size = 8");
    ok(finish(dir.path(), "run", &[]));
    let out = finish(dir.path(), "run", &["--set", "optim.lr=1e-3"]);
    assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stderr));
    data(dir.path(), 81);
    let out = finish(dir.path(), "run", &[]);
    assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(String::from_utf8_lossy(&out.stderr).contains("--fresh"));
    ok(finish(dir.path(), "run", &["--fresh"]));
}

#[test]
fn accumulation_and_token_limits_do_not_change_a_run() {
    let dir = setting(64, "epochs = 1\nbatch_size = 8\nlog_every = 1");
    ok(finish(dir.path(), "one", &[]));
    for (output, set) in
        [("two", "train.accumulation=2"), ("eight", "train.accumulation=8"), ("few", "train.max_tokens=20")]
    {
        ok(finish(dir.path(), output, &["--set", set]));
        let (a, b) = (losses(dir.path(), "one"), losses(dir.path(), output));
        assert_eq!(a.len(), b.len());
        let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs() / a.abs()).fold(0.0, f64::max);
        println!("{set}: losses differ by {worst:.1e}, dropout on");
        // The first losses agree to rounding; later ones follow the weights, which Adam's root amplifies.
        assert!(worst < 1e-3, "{set}: {worst}");
        assert!((a[0] - b[0]).abs() / a[0].abs() < 1e-5, "{set}");
    }
}

fn losses(dir: &Path, output: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(dir.join(output).join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    lines.filter_map(|l| l["loss"].as_f64()).collect()
}

#[test]
fn several_seeds_give_mean_and_deviation() {
    let dir = setting(60, "epochs = 1\nbatch_size = 8");
    let said = ok(finish(dir.path(), "runs", &["--set", "seeds=[1,2]"]));
    assert!(said.contains("Mean and standard deviation over 2 seeds"), "{said}");
    let summary = std::fs::read_to_string(dir.path().join("runs/summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let v: Vec<f64> =
        summary["accuracy"]["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert!((summary["accuracy"]["mean"].as_f64().unwrap() - (v[0] + v[1]) / 2.0).abs() < 1e-12);
    assert!((summary["accuracy"]["std"].as_f64().unwrap() - (v[0] - v[1]).abs() / 2f64.sqrt()).abs() < 1e-12);
}

/// The program under the loader of the software driver, where tests run under one.
fn on_gpu(kind: &str, dir: &Path, output: &str, args: &[&str]) -> Option<Command> {
    device(kind)?;
    let plain = tempra(dir, output, args);
    let mut command = match std::env::var_os("TEMPRA_RUNNER") {
        None => Command::new(plain.get_program()),
        Some(runner) => {
            let mut command = Command::new(runner);
            command.arg(plain.get_program());
            command
        }
    };
    command.args(plain.get_args()).args(["--device", kind]).current_dir(dir);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(command)
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "{a:?}\n{b:?}");
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

const FIFTY: &str = "max_steps = 50\nbatch_size = 8\nlog_every = 5\nsave_every = 10";
/// What the emulator does in seconds.
const FEW: &str = "max_steps = 14\nbatch_size = 8\nlog_every = 2\nsave_every = 4\neval_every = 14";

fn runs_the_recipe_as_the_cpu_does_and_resumes_bit_for_bit(kind: &str, train: &str, lose_after: &str) {
    let dir = setting(200, train);
    let Some(mut whole) = on_gpu(kind, dir.path(), "whole", &[]) else { return };
    ok(whole.output().unwrap());
    ok(finish(dir.path(), "cpu", &[]));
    let apart = furthest(&losses(dir.path(), "whole"), &losses(dir.path(), "cpu"));
    println!("{kind}, steps by recipe: losses differ by at most {apart:.1e}");
    assert!(apart <= 1e-3, "{apart}");
    // The device is lost during the run; the same command goes on from the last checkpoint.
    let mut lost = on_gpu(kind, dir.path(), "lost", &[]).unwrap();
    let out = lost.env(format!("TEMPRA_{}_LOSE_AFTER", kind.to_uppercase()), lose_after).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(75), "{said}");
    assert!(
        said.contains("the device was lost") && said.contains("resumes from the last checkpoint"),
        "{said}"
    );
    let kept: Vec<_> = std::fs::read_dir(dir.path().join("lost")).unwrap().flatten().collect();
    assert!(kept.iter().any(|e| e.file_name().to_string_lossy().starts_with("checkpoint-")), "{kept:?}");
    let said = ok(on_gpu(kind, dir.path(), "lost", &[]).unwrap().output().unwrap());
    assert!(weights(dir.path(), "whole") == weights(dir.path(), "lost"), "{said}");
}

#[test]
fn wgpu_runs_the_recipe_as_the_cpu_does() {
    runs_the_recipe_as_the_cpu_does_and_resumes_bit_for_bit("wgpu", FIFTY, "120");
}

#[test]
fn cuda_runs_the_recipe_as_the_cpu_does() {
    runs_the_recipe_as_the_cpu_does_and_resumes_bit_for_bit("cuda", FEW, "8");
}

#[test]
fn wgpu_out_of_memory_makes_smaller_passes() {
    out_of_memory_makes_smaller_passes_of_the_same_steps(
        "wgpu",
        "max_steps = 20\nbatch_size = 256\nlog_every = 1",
    );
}

#[test]
fn cuda_out_of_memory_makes_smaller_passes() {
    out_of_memory_makes_smaller_passes_of_the_same_steps(
        "cuda",
        "max_steps = 3\nbatch_size = 64\nlog_every = 1",
    );
}

fn out_of_memory_makes_smaller_passes_of_the_same_steps(kind: &str, train: &str) {
    let dir = setting(400, train);
    let Some(mut whole) = on_gpu(kind, dir.path(), "whole", &["--json"]) else { return };
    let said = ok(whole.output().unwrap());
    let prepared: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    let bytes = |key: &str| prepared["memory"][key].as_u64().unwrap();
    let enough = bytes("parameters") + (bytes("total") - bytes("parameters")) * 6 / 10;
    let mut tight = on_gpu(kind, dir.path(), "tight", &[]).unwrap();
    let out =
        tight.env(format!("TEMPRA_{}_MEMORY", kind.to_uppercase()), enough.to_string()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && said.contains("out of memory in a pass of"), "{said}");
    let apart = furthest(&losses(dir.path(), "whole"), &losses(dir.path(), "tight"));
    println!("with {enough} of {} bytes: losses differ by at most {apart:.1e}", bytes("total"));
    assert!(apart <= 1e-4, "{apart}");
    let mut none = on_gpu(kind, dir.path(), "none", &[]).unwrap();
    let out = none
        .env(format!("TEMPRA_{}_MEMORY", kind.to_uppercase()), (bytes("parameters") / 2).to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(6), "{said}");
}

#[test]
fn wgpu_f16_matmuls_learn_as_f32_ones_do_and_resume_bit_for_bit() {
    let kind = "wgpu";
    let dir = setting(300, "epochs = 6\nbatch_size = 16\nsave_every = 15\nlog_every = 5");
    let half = &["--set", "precision=f16"];
    let Some(mut whole) = on_gpu(kind, dir.path(), "whole", half) else { return };
    let out = whole.output().unwrap();
    if out.status.code() == Some(5) {
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(said.contains("cooperative matrices"), "{said}");
        return report_skipped(&format!("f16 was not tried: {said}"));
    }
    ok(out);
    ok(finish(dir.path(), "cpu", &[]));
    let (a, b) = (losses(dir.path(), "whole"), losses(dir.path(), "cpu"));
    println!("f16 {a:?}\nf32 {b:?}");
    // The first lines of the log agree to the rounding of f16.
    assert!(furthest(&a[..3], &b[..3]) < 5e-3, "{a:?}\n{b:?}");
    assert!(a.iter().all(|l| l.is_finite()));
    assert!(metric(dir.path(), "whole", "accuracy") > 0.95);
    let mut lost = on_gpu(kind, dir.path(), "lost", half).unwrap();
    let out = lost.env("TEMPRA_WGPU_LOSE_AFTER", "150").output().unwrap();
    assert_eq!(out.status.code(), Some(75), "{}", String::from_utf8_lossy(&out.stderr));
    ok(on_gpu(kind, dir.path(), "lost", half).unwrap().output().unwrap());
    assert!(weights(dir.path(), "whole") == weights(dir.path(), "lost"));
}

/// In 16 bits the CPU learns as in f32. The bits depend neither on the number of threads nor on whether the
/// run was killed.
#[test]
fn the_cpu_learns_in_16_bits_and_resumes_bit_for_bit() {
    let dir = setting(300, "epochs = 6\nbatch_size = 16\nsave_every = 15\nlog_every = 5");
    let length = lines_of(&ok(finish(dir.path(), "f32", &["--json"])));
    let single = losses(dir.path(), "f32");
    for (name, bound) in [("bf16", 2e-2), ("f16", 5e-3)] {
        let half = format!("precision={name}");
        let half = ["--json", "--set", &half];
        ok(finish(dir.path(), name, &half));
        let found = losses(dir.path(), name);
        println!("{name} {found:?}\nf32 {single:?}");
        // The first lines of the log agree to the rounding of the type, and they show it.
        let apart = furthest(&found[..3], &single[..3]);
        assert!(apart < bound && apart > 0.0, "{name}: {found:?}\n{single:?}");
        assert!(found.iter().all(|l| l.is_finite()));
        assert!(metric(dir.path(), name, "accuracy") > 0.95, "{name}");
        let stopped = format!("{name}-stopped");
        let killed = killed_after(&mut tempra(dir.path(), &stopped, &half), length / 3);
        assert!(killed.is_none(), "{name}: the run ended before it was killed");
        ok(finish(dir.path(), &stopped, &[&half[..], &["--threads", "1"]].concat()));
        assert!(weights(dir.path(), name) == weights(dir.path(), &stopped), "{name}: other bits");
    }
}
