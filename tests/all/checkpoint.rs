//! Checkpoints are there whole or not at all: every operation of a save is failed and killed once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use crate::faults::{Fault, FaultFs};
use serde_json::json;
use tempfile::tempdir;
use tempra::checkpoint::{
    Dtype, Fs, Journal, NamedFile, RealFs, RunDir, TensorOut, Weights, number, verify, write_dir,
};
use tempra::error::Kind;
use tempra::rng::Rng;

/// A checkpoint whose every byte tells `tag`.
fn files(tag: u8) -> Vec<NamedFile<'static>> {
    let values: Vec<u8> = (0..300).flat_map(|i| (tag as f32 + i as f32).to_le_bytes()).collect();
    let tensor = |name: &str| TensorOut {
        name: name.into(),
        dtype: Dtype::F32,
        shape: vec![3, 100],
        bytes: Cow::Owned(values.clone()),
    };
    vec![
        NamedFile::tensors("model.safetensors", vec![tensor("b"), tensor("a")]),
        NamedFile::tensors("optimizer.safetensors", vec![tensor("m.a")]),
        NamedFile::bytes("state.json", format!("{{\"tag\":{tag}}}").into_bytes()),
    ]
}

/// The `tag` of a checkpoint, after a look at all of it.
fn tag(dir: &Path) -> u8 {
    assert!(verify(dir).unwrap().ok(), "{}", verify(dir).unwrap());
    let state: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("state.json")).unwrap()).unwrap();
    let tag = state["tag"].as_u64().unwrap() as u8;
    for (file, name) in
        [("model.safetensors", "a"), ("model.safetensors", "b"), ("optimizer.safetensors", "m.a")]
    {
        let values = Weights::open(dir.join(file)).unwrap().f32(name).unwrap();
        assert!(values.iter().enumerate().all(|(i, v)| *v == tag as f32 + i as f32));
    }
    tag
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn open(dir: &Path) -> RunDir {
    RunDir::open(dir, Arc::new(FaultFs::new(Fault::Kill, usize::MAX))).unwrap()
}

/// Each system call fails once, as the disk (EIO, ENOSPC), the process (EMFILE) or the rights (EACCES) may
/// have it.
const FAULTS: [Fault; 7] =
    [Fault::Os(5), Fault::Os(28), Fault::Os(24), Fault::Os(13), Fault::Short, Fault::Full, Fault::Kill];

/// A run folder with steps 1 and 2, then a save of `step` with a fault at operation n, for every n; `judge`
/// sees the folder after the next start. Returns how many operations a save has.
fn at_every_operation(step: u64, judge: impl Fn(&Path, bool, u64, u8)) -> usize {
    let mut operations = 0;
    for fault in FAULTS {
        for n in 0.. {
            let dir = tempdir().unwrap();
            let dir = dir.path();
            let mut run = open(dir);
            run.save(1, files(1), &[]).unwrap();
            run.save(2, files(2), &[]).unwrap();
            drop(run);
            // Opening is a few operations too (folder, lock); they are faulted as well.
            let faulty = FaultFs::new(fault, n);
            let saved =
                RunDir::open(dir, Arc::new(faulty.clone())).and_then(|mut run| run.save(step, files(9), &[]));
            if let Err(e) = &saved {
                assert_eq!(e.kind(), Kind::Disk, "{fault:?} at {n}: {e}");
            }
            if faulty.hit() && fault != Fault::Kill && saved.is_err() {
                let left = names(dir).into_iter().filter(|f| f.contains(".tmp-")).count();
                assert!(left == 0 || matches!(fault, Fault::Os(_)), "{fault:?} at {n}: {:?}", names(dir));
            }
            let mut run = open(dir);
            let newest = run.newest_verified().unwrap();
            assert!(newest.skipped.is_empty(), "{fault:?} at {n}: {:?}", newest.skipped);
            let (found, path) = newest.found.expect("one checkpoint is always there");
            judge(dir, saved.is_ok(), found, tag(&path));
            let report = verify(dir).unwrap();
            assert!(report.ok() && report.checkpoints.len() >= 2, "{fault:?} at {n}:\n{report}");
            let swept = names(dir);
            assert!(
                swept.iter().all(|f| !f.contains(".tmp-") && !f.contains(".old-")),
                "{fault:?} at {n}: {swept:?}"
            );
            // The next save is as if nothing had been.
            let saved = run.save(4, files(4), &[]).unwrap();
            assert!(saved.warnings.is_empty());
            assert_eq!(tag(&saved.path), 4);
            assert_eq!(
                names(dir),
                [format!("checkpoint-{found}"), "checkpoint-4".into(), "latest".into(), "run.lock".into()]
            );
            if !faulty.hit() {
                operations = faulty.0.count.load(SeqCst);
                break;
            }
        }
    }
    operations
}

#[test]
fn a_save_killed_or_failed_at_every_operation_leaves_the_previous_checkpoint() {
    let operations = at_every_operation(3, |_, saved, step, tag| match step {
        3 => assert_eq!(tag, 9),
        2 => assert!(tag == 2 && !saved),
        _ => panic!("step {step} was chosen"),
    });
    // Three files and a manifest alone are 12 operations; fewer would mean that some bypass the counter.
    assert!(operations > 25, "{operations}");
}

#[test]
fn a_checkpoint_replaced_is_the_old_or_the_new_one() {
    let operations = at_every_operation(2, |_, saved, step, tag| {
        assert_eq!(step, 2);
        assert!(tag == 9 || (tag == 2 && !saved), "{tag}");
    });
    assert!(operations > 25, "{operations}");
}

#[test]
fn a_power_loss_at_every_operation_leaves_a_checkpoint() {
    for (step, folders) in [(3, false), (3, true), (2, false), (2, true)] {
        for n in 0.. {
            let dir = tempdir().unwrap();
            let dir = dir.path();
            let mut run = open(dir);
            run.save(1, files(1), &[]).unwrap();
            run.save(2, files(2), &[]).unwrap();
            drop(run);
            let faulty = FaultFs::new(Fault::Kill, n);
            let saved =
                RunDir::open(dir, Arc::new(faulty.clone())).and_then(|mut run| run.save(step, files(9), &[]));
            faulty.lose_power(folders);
            let (found, path) = open(dir).newest_verified().unwrap().found.expect("one is always there");
            let tag = tag(&path);
            // What was called saved is there, come what may.
            assert!(
                tag == 9 && found == step || saved.is_err() && tag == 2 && found == 2,
                "{n}: {found} {tag}"
            );
            if !faulty.hit() {
                break;
            }
        }
    }
}

#[test]
fn clearing_up_may_itself_be_killed_anywhere() {
    for n in 0.. {
        let dir = tempdir().unwrap();
        let dir = dir.path();
        let mut run = open(dir);
        run.save(1, files(1), &[]).unwrap();
        run.save(2, files(2), &[]).unwrap();
        drop(run);
        // As after a kill between the two renames of a replacement, with other debris.
        fs::rename(dir.join("checkpoint-2"), dir.join("checkpoint-2.old-77")).unwrap();
        fs::create_dir(dir.join("checkpoint-3.tmp-77")).unwrap();
        fs::write(dir.join("checkpoint-3.tmp-77/model.safetensors"), b"half").unwrap();
        fs::write(dir.join("latest.tmp-77"), b"check").unwrap();
        let faulty = FaultFs::new(Fault::Kill, n);
        let opened = RunDir::open(dir, Arc::new(faulty.clone()));
        assert_eq!(opened.is_ok(), !faulty.hit());
        drop(opened);
        let found = open(dir).newest_verified().unwrap().found.unwrap();
        assert_eq!((found.0, tag(&found.1)), (2, 2));
        assert_eq!(names(dir), ["checkpoint-1", "checkpoint-2", "latest", "run.lock"]);
        if !faulty.hit() {
            break;
        }
    }
}

#[test]
fn the_order_is_files_manifest_folder_rename_parent() {
    let dir = tempdir().unwrap();
    let recording = FaultFs::new(Fault::Kill, usize::MAX);
    let mut run = RunDir::open(dir.path(), Arc::new(recording.clone())).unwrap();
    recording.0.log.lock().unwrap().clear();
    run.save(1, files(1), &[]).unwrap();
    let log = recording.0.log.lock().unwrap().clone();
    let place = |what: &str, name: &str| {
        log.iter()
            .position(|l| l.starts_with(what) && l.contains(name))
            .unwrap_or_else(|| panic!("{what} {name}: {log:#?}"))
    };
    let manifest = place("create", "manifest.json");
    for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        assert!(place("create", file) < manifest);
    }
    let synced = log[..place("sync_dir", ".tmp-")].iter().filter(|l| l.starts_with("sync ")).count();
    assert_eq!(synced, 4, "every file, and the manifest, before the folder");
    let rename = place("rename", "checkpoint-1.tmp-");
    assert!(manifest < place("sync_dir", ".tmp-") && place("sync_dir", ".tmp-") < rename);
    assert!(log[rename + 1].starts_with("sync_dir") && !log[rename + 1].contains("checkpoint"));
    assert!(rename + 1 < place("create", "latest"));
}

#[test]
fn a_thousand_random_damages_are_all_detected() {
    let dir = tempdir().unwrap();
    let mut run = open(dir.path());
    run.save(1, files(1), &[]).unwrap();
    let saved = run.save(2, files(2), &[]).unwrap().path;
    let whole: BTreeMap<String, Vec<u8>> =
        names(&saved).into_iter().map(|f| (f.clone(), fs::read(saved.join(f)).unwrap())).collect();
    assert_eq!(whole.len(), 4);
    let mut rng = Rng::new(1, "damage", 0);
    for i in 0..1000 {
        let (name, good) = whole.iter().nth(i % 4).unwrap();
        let mut bad = good.clone();
        let at = rng.below(bad.len() as u32) as usize;
        match i / 4 % 3 {
            0 => bad.truncate(at),
            1 => bad.push(good[at]),
            _ => bad[at] ^= 1 << rng.below(8),
        }
        fs::write(saved.join(name), &bad).unwrap();
        let newest = run.newest_verified().unwrap();
        assert_eq!(newest.found.unwrap().0, 1, "damage {i}: {name} at {at}");
        let (path, why) = &newest.skipped[0];
        // A damaged manifest may be at odds with a file that is whole; then it is that file which is named.
        assert!(*path == saved && (why.contains(name.as_str()) || name == "manifest.json"), "{why}");
        fs::write(saved.join(name), good).unwrap();
    }
    for name in whole.keys() {
        fs::rename(saved.join(name), dir.path().join("aside")).unwrap();
        let report = verify(&saved).unwrap();
        assert!(report.checkpoints[0].problems[0].contains(&format!("{name} is missing")), "{report}");
        fs::rename(dir.path().join("aside"), saved.join(name)).unwrap();
    }
    fs::write(saved.join("extra"), b"").unwrap();
    assert!(verify(&saved).unwrap().to_string().contains("extra is not in manifest.json"));
    // Several are one problem with a list, not one problem each.
    fs::write(saved.join("added"), b"").unwrap();
    let report = verify(&saved).unwrap();
    assert_eq!(report.checkpoints[0].problems, ["2 files are not in manifest.json: added, extra"]);
    fs::remove_file(saved.join("added")).unwrap();
    fs::remove_file(saved.join("extra")).unwrap();
    assert_eq!(run.newest_verified().unwrap().found.unwrap().0, 2);
}

#[test]
fn pruning_keeps_two_verified_and_the_best() {
    let dir = tempdir().unwrap();
    let mut run = RunDir::open(dir.path(), Arc::new(RealFs)).unwrap();
    for step in 1..=4 {
        run.save(step * 10, files(step as u8), &[10]).unwrap();
    }
    let steps = || names(dir.path()).into_iter().filter(|n| n.starts_with("checkpoint")).collect::<Vec<_>>();
    assert_eq!(steps(), ["checkpoint-10", "checkpoint-30", "checkpoint-40"]);
    assert_eq!(fs::read_to_string(dir.path().join("latest")).unwrap(), "checkpoint-40\n");
    // A damaged one does not count among the two.
    fs::write(dir.path().join("checkpoint-40/state.json"), b"{}").unwrap();
    drop(run);
    let mut run = open(dir.path());
    let saved = run.save(50, files(5), &[]).unwrap();
    assert_eq!(steps(), ["checkpoint-30", "checkpoint-40", "checkpoint-50"]);
    assert_eq!(saved.pruned, [dir.path().join("checkpoint-10")]);
    let saved = run.save(60, files(6), &[]).unwrap();
    assert_eq!(steps(), ["checkpoint-50", "checkpoint-60"]);
    assert_eq!(saved.pruned.len(), 2);
}

#[test]
fn what_is_not_finite_is_not_published() {
    let dir = tempdir().unwrap();
    let mut run = open(dir.path());
    run.save(1, files(1), &[]).unwrap();
    let mut values = [1.0f32; 7];
    values[4] = f32::NAN;
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensor = TensorOut { name: "w".into(), dtype: Dtype::F32, shape: vec![7], bytes: bytes.into() };
    let e = run.save(2, vec![NamedFile::tensors("model.safetensors", vec![tensor])], &[]).unwrap_err();
    assert_eq!(e.kind(), Kind::Diverged);
    assert!(e.to_string().contains("`w`") && e.to_string().contains("element 4"), "{e}");
    assert_eq!(names(dir.path()), ["checkpoint-1", "latest", "run.lock"]);
}

#[test]
fn file_names_cannot_lead_out_of_the_folder() {
    let dir = tempdir().unwrap();
    let mut run = open(&dir.path().join("run"));
    for name in ["../x", "/x", "a/b", "..", "", "a\\b", "manifest.json"] {
        assert!(run.save(1, vec![NamedFile::bytes(name, b"x".as_slice())], &[]).is_err(), "{name:?}");
    }
    assert_eq!(names(dir.path()), ["run"]);
    assert_eq!(names(&dir.path().join("run")), ["run.lock"]);
}

#[test]
fn a_run_folder_has_one_holder() {
    let dir = tempdir().unwrap();
    let first = open(dir.path());
    let e = RunDir::open(dir.path(), Arc::new(RealFs)).err().expect("it is held");
    assert_eq!((e.kind(), e.exit_code()), (Kind::Locked, 9));
    assert!(e.to_string().contains(&format!("process {} on host ", std::process::id())), "{e}");
    drop(first);
    open(dir.path());
    // Ten at once: one gets it.
    let runs: Vec<_> = std::thread::scope(|s| {
        let each: Vec<_> = (0..10).map(|_| s.spawn(|| RunDir::open(dir.path(), Arc::new(RealFs)))).collect();
        each.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(runs.iter().filter(|r| r.is_ok()).count(), 1);
    assert!(runs.iter().flat_map(|r| r.as_ref().err()).all(|e| e.kind() == Kind::Locked));
}

#[test]
fn a_model_folder_is_the_old_or_the_new_one() {
    for fault in FAULTS {
        for there in [false, true] {
            for n in 0.. {
                let dir = tempdir().unwrap();
                let target = dir.path().join("model");
                let write = |fs: &dyn Fs, text: &str| {
                    let files = [("config.json", text), ("vocab.txt", text)];
                    let files = files.map(|(n, t)| NamedFile::bytes(n, t.as_bytes().to_vec()));
                    write_dir(fs, &target, &files)
                };
                let read = |dir: &Path| {
                    ["config.json", "vocab.txt"].map(|f| fs::read_to_string(dir.join(f)).unwrap())
                };
                if there {
                    write(&RealFs, "old").unwrap();
                }
                let faulty = FaultFs::new(fault, n);
                let wrote = write(&faulty, "new");
                let left = names(dir.path());
                let (old, new) = (["old", "old"], ["new", "new"]);
                match (target.exists(), &wrote) {
                    (true, Ok(())) => assert_eq!(read(&target), new),
                    (true, Err(_)) => {
                        assert!(there && read(&target) == old || read(&target) == new, "{fault:?} {n}")
                    }
                    // Killed between the two renames: the old one is whole under its other name.
                    (false, Err(_)) if there => {
                        assert_eq!(fault, Fault::Kill, "{n}");
                        let aside = left.iter().find(|f| f.starts_with("model.old-")).unwrap();
                        assert_eq!(read(&dir.path().join(aside)), old);
                    }
                    (false, wrote) => assert!(wrote.is_err() && !there),
                }
                if !faulty.hit() {
                    assert_eq!(left, ["model"]);
                    break;
                }
            }
        }
    }
}

#[test]
fn a_journal_loses_its_torn_line_and_what_lies_beyond() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    let text = "{\"event\":\"start\"}\n{\"step\":1,\"loss\":0.5}\n{\"step\":2}\n{\"note\":\"of 2\"}\n{\"step\":3}\n{\"note\":\"of 3\"}\n{\"st";
    fs::write(&path, text).unwrap();
    let mut journal = Journal::open(&RealFs, &path, Some(2)).unwrap();
    assert_eq!((journal.damaged, journal.beyond), (1, 2));
    journal.append(&json!({"step": 3, "loss": number(f64::NAN), "norm": number(f64::NEG_INFINITY)})).unwrap();
    journal.append(&json!({"text": "two\nlines", "loss": number(0.25)})).unwrap();
    journal.sync().unwrap();
    let want = "{\"event\":\"start\"}\n{\"step\":1,\"loss\":0.5}\n{\"step\":2}\n{\"note\":\"of 2\"}\n";
    let read = fs::read_to_string(&path).unwrap();
    let tail: Vec<serde_json::Value> =
        read.strip_prefix(want).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(tail[0], json!({"step": 3, "loss": "NaN", "norm": "-Infinity"}));
    assert_eq!(tail[1], json!({"text": "two\nlines", "loss": 0.25}));
    // A line that power loss left as zeros, and a torn one, without a step to resume from.
    fs::write(&path, b"{\"step\":7}\n\0\0\0\0\n{\"step\":8}\n{\"step\":9}").unwrap();
    let journal = Journal::open(&RealFs, &path, None).unwrap();
    assert_eq!((journal.damaged, journal.beyond), (2, 0));
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":7}\n{\"step\":8}\n");
    // Truncated anywhere, the whole lines stay.
    for cut in 0..text.len() {
        fs::write(&path, &text[..cut]).unwrap();
        Journal::open(&RealFs, &path, None).unwrap();
        let whole = text[..cut].rfind('\n').map_or(0, |at| at + 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), text[..whole]);
    }
}

#[test]
fn a_journal_goes_on_after_a_failed_write() {
    for fault in
        [Fault::Error(ErrorKind::StorageFull), Fault::Error(ErrorKind::Other), Fault::Full, Fault::Kill]
    {
        // The first operation opens the file; then each append is one write.
        for n in 1..=4 {
            let dir = tempdir().unwrap();
            let path = dir.path().join("metrics.jsonl");
            let faulty = FaultFs::new(fault, n);
            let mut journal = Journal::open(&faulty, &path, None).unwrap();
            let mut good = Vec::new();
            for step in 0..4 {
                if journal.append(&json!({"step": step})).is_ok() {
                    good.push(format!("{{\"step\":{step}}}\n"));
                }
            }
            assert_eq!(good.len(), if matches!(fault, Fault::Error(_)) { 3 } else { n - 1 });
            if fault != Fault::Kill {
                assert_eq!(fs::read_to_string(&path).unwrap(), good.concat(), "{fault:?} at {n}");
            }
            Journal::open(&RealFs, &path, None).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), good.concat(), "{fault:?} at {n}");
        }
    }
}
