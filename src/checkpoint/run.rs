//! A run folder: its lock, and checkpoints that are written completely or not at all.
//!
//! A save writes `checkpoint-<step>.tmp-<pid>/`, syncs each file, writes the manifest last, syncs the folder,
//! renames it to `checkpoint-<step>` and syncs the parent. Then it replaces `latest`, and only then removes
//! old checkpoints. If the process is killed between any two of these operations, the folder still holds the
//! previous checkpoint. Incomplete files have a temporary name that is never read, and the next start removes
//! them.

use super::layout::{check_run_folder, is_checkpoint, is_leftover};
use super::manifest::{self, CheckpointReport};
use super::names::{LOCK, MANIFEST, Owner, checkpoints, leftover, names};
use super::write::{NamedFile, publish, restore, unwritable, write_file, write_files};
use crate::error::{Error, Kind, Result};
use crate::files::{Fs, parent, remove_any, sibling};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many times a held lock is tried again, every 20 ms.
const PATIENCE: usize = 25;
const LATEST: &str = "latest";

/// A run folder locked by this process. The lock is released when this is dropped or the process ends, in any
/// way.
pub struct RunDir {
    pub(super) path: PathBuf,
    pub(super) fs: Arc<dyn Fs>,
    _lock: File,
    keep_last: usize,
    /// Steps whose checkpoint this process wrote or verified.
    pub(super) verified: BTreeSet<u64>,
    /// Whether a previous run is kept in a subfolder, to be restored if this run ends without a checkpoint.
    pub(super) previous: bool,
}

/// A checkpoint that was saved.
#[derive(Debug)]
pub struct Saved {
    /// Its folder.
    pub path: PathBuf,
    /// The total size of its files in bytes, without the manifest.
    pub bytes: u64,
    /// Old checkpoints that were removed.
    pub pruned: Vec<PathBuf>,
    /// Failures after the checkpoint was safely written: replacing `latest`, or removing old checkpoints.
    pub warnings: Vec<Error>,
}

/// The checkpoint that a run can resume from.
#[derive(Clone, Debug, Default)]
pub struct Newest {
    /// Step and folder of the newest intact checkpoint.
    pub found: Option<(u64, PathBuf)>,
    /// Newer checkpoints that are damaged, with the damage.
    pub skipped: Vec<(PathBuf, String)>,
}

impl RunDir {
    /// Locks a run folder, creates it if needed, and removes temporary files that a killed process left.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a folder that holds other files ([`check_run_folder`]), which stays unchanged;
    /// [`Kind::Locked`], naming the process, when another process has locked it; [`Kind::Disk`] when it
    /// cannot be written.
    pub fn open(path: impl AsRef<Path>, fs: Arc<dyn Fs>) -> Result<RunDir> {
        let path = path.as_ref().to_path_buf();
        check_run_folder(&path)?;
        fs.mkdir(&path).map_err(|e| unwritable(&path, &e))?;
        // The folder's own entry must survive a power loss too. This fails harmlessly for a parent that
        // cannot be opened.
        let _ = fs.sync_dir(parent(&path));
        let lock = path.join(LOCK);
        let (pid, started) = (std::process::id(), utc(SystemTime::now()));
        let me = format!("{}\n", json!({ "pid": pid, "host": host(), "started": started }));
        let mut held = fs.lock(&lock, &me);
        // Between fork and exec a child process shares its parent's open files, locks included; so a held
        // lock may be free soon.
        for _ in 0..PATIENCE {
            if !matches!(&held, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            held = fs.lock(&lock, &me);
        }
        let held = held.map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => locked(&lock),
            std::io::ErrorKind::Unsupported => {
                Error::io(Kind::Disk, "the file system does not support file locks", &lock, &e)
                    .with_help("choose an output folder on another file system")
            }
            _ => unwritable(&lock, &e),
        })?;
        let verified = BTreeSet::new();
        let mut run = RunDir { path, fs, _lock: held, keep_last: 2, verified, previous: false };
        run.sweep()?;
        run.settle_previous()?;
        Ok(run)
    }

    /// Sets how many intact checkpoints are kept. The minimum is 2, so that one of them may be damaged later.
    pub fn keep_last(mut self, n: usize) -> Self {
        self.keep_last = n.max(2);
        self
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes names with `.tmp-<pid>`, and restores names with `.old-<pid>` that were not replaced. The lock
    /// is held, so no other process uses them.
    fn sweep(&self) -> Result<()> {
        for name in names(&self.path)?.into_iter().filter(|name| is_leftover(name)) {
            let path = self.path.join(&name);
            let done = match leftover(&name) {
                Some((_, "tmp")) => remove_any(&*self.fs, &path),
                Some((target, _)) => restore(&*self.fs, &path, &self.path.join(target)),
                None => Ok(()),
            };
            done.map_err(|e| {
                Error::io(Kind::Disk, "cannot remove a temporary file of a killed run", &path, &e)
                    .with_help("remove it by hand, then start again")
            })?;
        }
        Ok(())
    }

    /// Saves `checkpoint-<step>`, all files or none, replacing a checkpoint of that step.
    ///
    /// Then removes old checkpoints, except the newest [`RunDir::keep_last`] intact ones and the steps in
    /// `keep` (the best one).
    ///
    /// # Errors
    /// [`Kind::Disk`] if a file cannot be written; [`Kind::Diverged`] for a tensor that is not finite.
    /// Earlier checkpoints are then unchanged.
    pub fn save(&mut self, step: u64, files: Vec<NamedFile<'_>>, keep: &[u64]) -> Result<Saved> {
        let fs = Arc::clone(&self.fs);
        let path = self.checkpoint(step);
        let temp = sibling(&path, "tmp");
        let write = || {
            if temp.symlink_metadata().is_ok() {
                remove_any(&*fs, &temp).map_err(|e| unwritable(&temp, &e))?;
            }
            if let Some(f) = files.iter().find(|f| f.name == MANIFEST) {
                return Err(
                    Error::shape(format!("the file name {} is reserved for the manifest", f.name)).at(&temp)
                );
            }
            let written = write_files(&*fs, &temp, &files)?;
            let list = temp.join(MANIFEST);
            let text = manifest::render(&written)?;
            let put = || {
                let mut sink = fs.create(&list)?;
                sink.write_all(&text)?;
                sink.sync()
            };
            put().map_err(|e| unwritable(&list, &e))?;
            fs.sync_dir(&temp).map_err(|e| unwritable(&temp, &e))?;
            publish(&*fs, &temp, &path)?;
            Ok(written.values().map(|w| w.bytes).sum())
        };
        let bytes = write().inspect_err(|_| {
            let _ = remove_any(&*fs, &temp);
        })?;
        self.verified.insert(step);

        let mut saved = Saved { path, bytes, pruned: Vec::new(), warnings: Vec::new() };
        let latest = self.path.join(LATEST);
        if let Err(e) = write_file(&*fs, &latest, format!("checkpoint-{step}\n").as_bytes()) {
            saved.warnings.push(e);
        }
        if let Err(e) = self.prune(step, keep, &mut saved) {
            saved.warnings.push(e);
        }
        if let Err(e) = self.discard_previous() {
            saved.warnings.push(e);
        }
        Ok(saved)
    }

    fn prune(&mut self, saved_step: u64, keep: &[u64], saved: &mut Saved) -> Result<()> {
        let mut good = 0;
        for (step, path) in checkpoints(&self.path)?.into_iter().rev().filter(|(_, path)| is_checkpoint(path))
        {
            if good < self.keep_last {
                let known = self.verified.contains(&step);
                if known || CheckpointReport::of(&path).ok() {
                    self.verified.insert(step);
                    good += 1;
                }
            } else if step != saved_step && !keep.contains(&step) {
                // Renamed first: a partly removed checkpoint must not look like a checkpoint.
                let gone = sibling(&path, "tmp");
                let remove = || {
                    self.fs.rename(&path, &gone)?;
                    remove_any(&*self.fs, &gone)
                };
                remove().map_err(|e| Error::io(Kind::Disk, "cannot remove the old checkpoint", &path, &e))?;
                self.verified.remove(&step);
                saved.pruned.push(path);
            }
        }
        Ok(())
    }

    /// The newest intact checkpoint, and the newer damaged ones.
    ///
    /// # Errors
    /// [`Kind::Model`] if the folder cannot be read.
    pub fn newest_verified(&mut self) -> Result<Newest> {
        let mut newest = Newest::default();
        for (step, path) in checkpoints(&self.path)?.into_iter().rev() {
            let report = CheckpointReport::of(&path);
            if report.ok() {
                self.verified.insert(step);
                newest.found = Some((step, path));
                break;
            }
            self.verified.remove(&step);
            newest.skipped.push((path, report.problems.join("; ")));
        }
        Ok(newest)
    }

    /// The checkpoint that the run resumes from, if there is one.
    ///
    /// # Errors
    /// [`Kind::Model`] if all checkpoints are damaged, naming each; [`Kind::Usage`] if the folder holds a
    /// trained model but no checkpoint, because a run from the start would replace the model.
    pub fn resumable(&mut self) -> Result<Newest> {
        let newest = self.newest_verified()?;
        if newest.found.is_some() {
            return Ok(newest);
        }
        if !newest.skipped.is_empty() {
            let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let each = newest.skipped.iter().map(|(path, why)| format!("{}: {why}", name(path)));
            return Err(Error::model("every checkpoint of the run is damaged")
                .at(&self.path)
                .with_found(each.collect::<Vec<_>>().join("\n         "))
                .with_help("restore a checkpoint from a backup, or start over with --fresh"));
        }
        if self.path.join("model").symlink_metadata().is_ok() {
            return Err(Error::usage(
                "the run folder holds a trained model but no checkpoint to resume from",
            )
            .at(&self.path)
            .with_help("choose another output folder, or replace the model with --fresh"));
        }
        Ok(newest)
    }

    /// All checkpoints with their steps, oldest first, intact or damaged.
    ///
    /// # Errors
    /// [`Kind::Model`] if the folder cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<(u64, PathBuf)>> {
        checkpoints(&self.path)
    }

    /// The folder of a step's checkpoint, which need not exist.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.path.join(format!("checkpoint-{step}"))
    }
}

fn locked(lock: &Path) -> Error {
    // The owner writes its name right after taking the lock; wait for that moment to pass.
    let owner = (0..20).find_map(|_| {
        let owner: Option<Owner> = std::fs::read(lock).ok().and_then(|b| serde_json::from_slice(&b).ok());
        if owner.is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        owner
    });
    let found = owner.map_or("a process that has not written its id yet".into(), |o| {
        format!("process {} on host {}, started {}", o.pid, o.host, o.started)
    });
    Error::locked("another process is using the run folder")
        .at(parent(lock))
        .with_found(found)
        .with_help("wait until that process ends, stop it, or choose another output folder")
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| ["HOSTNAME", "COMPUTERNAME"].iter().find_map(|v| std::env::var(v).ok()));
    name.map(|n| n.trim().to_string()).filter(|n| !n.is_empty()).unwrap_or("unknown".into())
}

/// `2026-11-23T18:57:15Z`. Civil date from a day count: Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms".
pub(crate) fn utc(time: SystemTime) -> String {
    let t = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, s) = (t / 86_400 + 719_468, t % 86_400);
    let (era, doe) = (days / 146_097, days % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + (month <= 2) as u64;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds from `date -u -d <date> +%s`.
    #[test]
    fn dates() {
        let at = |s| utc(UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(at(1_767_225_599), "2025-12-31T23:59:59Z");
    }
}
