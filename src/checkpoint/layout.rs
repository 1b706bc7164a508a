//! The layout of a run folder: the names that a run writes there, and how to tell them from other files.

use super::names::{LOCK, MANIFEST, Owner, PREVIOUS, leftover, names, step_of};
use crate::error::{Error, Kind, Result};
use std::path::{Component, Path, PathBuf};

/// The state file that every checkpoint has.
const STATE: &str = "state.json";
/// The file that every model folder written by tempra has.
const MODEL_MARK: &str = "tempra.json";
/// The files of a run, beside its lock.
const FILES: [&str; 5] = ["latest", "metrics.jsonl", "metrics.json", "recipe.toml", "trainer_state.json"];

/// Whether a run writes a file or folder of this name into its run folder; the lock file does not count.
pub fn is_run_entry(name: &str) -> bool {
    FILES.contains(&name) || is_model_name(name) || step_of(name).is_some()
}

fn is_model_name(name: &str) -> bool {
    name == "model" || name.strip_prefix("best-").is_some_and(|task| !task.is_empty())
}

/// Whether a folder named like a checkpoint was written by tempra; it may be damaged.
pub(super) fn is_checkpoint(dir: &Path) -> bool {
    [MANIFEST, STATE].iter().any(|file| dir.join(file).symlink_metadata().is_ok())
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// Whether a folder is a run folder: it holds a run's lock file, a checkpoint, or a recipe and a journal.
pub fn is_run_folder(dir: &Path) -> bool {
    // A killed process may leave an empty lock file: the owner is written after the lock is taken.
    let lock = std::fs::read(dir.join(LOCK))
        .is_ok_and(|text| text.is_empty() || serde_json::from_slice::<Owner>(&text).is_ok());
    let is_file = |name: &str| dir.join(name).is_file();
    lock || (is_file("recipe.toml") && is_file("metrics.jsonl"))
        || names(dir).is_ok_and(|all| all.iter().any(|n| step_of(n).is_some() && is_checkpoint(&dir.join(n))))
}

/// Checks that a run may write into a folder.
///
/// Refuses a folder that holds other files and is not a run folder, and a run folder where something that
/// tempra did not write has a name that the run uses. Accepts a folder that does not exist or holds only
/// hidden files.
///
/// # Errors
/// [`Kind::Usage`] if the run may not write there; [`Kind::Disk`] if the folder cannot be listed.
pub fn check_run_folder(dir: &Path) -> Result<()> {
    // The resolved path: `runs/..` exists as soon as another process creates `runs`.
    let dir = &real_path(dir);
    let all = visible(dir)?;
    if !all.is_empty() && !is_run_folder(dir) {
        return Err(not_empty(dir, &all));
    }
    for name in all {
        let path = dir.join(&name);
        let foreign = if is_model_name(&name) {
            path.join(MODEL_MARK).symlink_metadata().is_err() && !(path.is_dir() && is_empty(&path))
        } else {
            step_of(&name).is_some() && !is_checkpoint(&path) && !(path.is_dir() && is_empty(&path))
        };
        if foreign {
            let what = if is_model_name(&name) { "a model folder" } else { "a checkpoint" };
            return Err(Error::usage(format!(
                "the run would replace `{name}` in the output folder, which tempra did not write"
            ))
            .at(&path)
            .with_expected(format!("{what} of an earlier run, or nothing of that name"))
            .with_help("move it to another folder, or choose another output folder"));
        }
    }
    Ok(())
}

/// As [`check_run_folder`], for a folder that holds one run folder `seed-N` for each of several seeds, and
/// their summary.
///
/// # Errors
/// Those of [`check_run_folder`].
pub fn check_seeds_folder(dir: &Path) -> Result<()> {
    let dir = &real_path(dir);
    let all = visible(dir)?;
    let seed = |name: &String| name.starts_with("seed-") && is_run_folder(&dir.join(name));
    if all.is_empty() || is_run_folder(dir) || all.iter().any(seed) {
        return Ok(());
    }
    Err(not_empty(dir, &all))
}

const REMEDY: &str = "set output to a new folder, an empty one, or the folder of an earlier run";

/// The names in an output folder that are not hidden; none if it does not exist.
fn visible(dir: &Path) -> Result<Vec<String>> {
    match std::fs::metadata(dir) {
        Ok(meta) if !meta.is_dir() => {
            Err(Error::usage("the output is a file, not a folder").at(dir).with_help(REMEDY))
        }
        Ok(_) => {
            let listed = std::fs::read_dir(dir).and_then(|all| all.collect::<std::io::Result<Vec<_>>>());
            let listed = listed.map_err(|e| Error::io(Kind::Disk, "cannot list the folder", dir, &e))?;
            let name = |e: &std::fs::DirEntry| e.file_name().to_string_lossy().into_owned();
            Ok(listed.iter().map(name).filter(|name| !name.starts_with('.')).collect())
        }
        // A folder that cannot be examined fails later, with the reason, when it is created or locked.
        Err(_) => Ok(Vec::new()),
    }
}

fn not_empty(dir: &Path, all: &[String]) -> Error {
    let mut all = all.to_vec();
    all.sort_unstable();
    let shown = all.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let more = if all.len() > 5 { format!(" and {} more", all.len() - 5) } else { String::new() };
    Error::usage("the output folder is not empty and is not a run folder")
        .at(dir)
        .with_expected("a new folder, an empty one, or the folder of an earlier run")
        .with_found(format!("{shown}{more}"))
        .with_help(REMEDY)
}

/// Whether this is the name of a temporary file or folder that a killed run left behind.
pub(super) fn is_leftover(name: &str) -> bool {
    leftover(name).is_some_and(|(target, _)| is_run_entry(target) || target == PREVIOUS)
}

/// The absolute path with links followed and `..` resolved, as far as its folders exist.
pub fn real_path(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let mut missing = Vec::new();
    let mut at = whole.as_path();
    loop {
        if let Ok(real) = std::fs::canonicalize(at) {
            let add = |mut real: PathBuf, part: &Component| {
                match part {
                    Component::ParentDir => {
                        real.pop();
                    }
                    part => real.push(part),
                }
                real
            };
            return missing.iter().rev().fold(real, add);
        }
        let (Some(last), Some(above)) = (at.components().next_back(), at.parent()) else { return whole };
        missing.push(last);
        at = above;
    }
}
