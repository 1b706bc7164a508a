//! The names in a run folder.

use crate::error::{Error, Kind, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The file that every checkpoint and model folder has, written last.
pub(super) const MANIFEST: &str = "manifest.json";
/// The file that a running process holds locked; it holds the owner.
pub(super) const LOCK: &str = "run.lock";
/// Where the previous run is kept until the new one has a checkpoint.
pub(super) const PREVIOUS: &str = "previous-run";

/// The process that holds the lock.
#[derive(Deserialize)]
pub(super) struct Owner {
    pub(super) pid: u32,
    pub(super) host: String,
    pub(super) started: String,
}

/// Whether a name is a file name without a folder.
pub(super) fn plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}

/// The step of a name `checkpoint-<step>`, in canonical form.
pub(super) fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("checkpoint-")?;
    let step: u64 = digits.parse().ok()?;
    (step.to_string() == digits).then_some(step)
}

/// `<target>.tmp-<pid>` or `<target>.old-<pid>`: the target and the tag. A file's temporary name is
/// `<target>.tmp-<count>-<pid>`.
pub(super) fn leftover(name: &str) -> Option<(&str, &str)> {
    let (target, rest) = name.rsplit_once('.')?;
    let (tag, numbers) = rest.split_once('-')?;
    let numbered = numbers.split('-').all(|n| n.parse::<u32>().is_ok());
    (numbered && ["tmp", "old"].contains(&tag) && !target.is_empty()).then_some((target, tag))
}

/// The names in a folder that are text, sorted.
pub(super) fn names(dir: &Path) -> Result<Vec<String>> {
    let list = || -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    };
    let mut names = list().map_err(|e| {
        Error::io(Kind::Model, "cannot list the folder", dir, &e)
            .with_help("check the spelling and the permissions of the path")
    })?;
    names.sort_unstable();
    Ok(names)
}

/// The checkpoints of a run folder by step, oldest first, damaged or not.
pub(super) fn checkpoints(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let step = |name: String| step_of(&name).map(|step| (step, dir.join(name)));
    let mut found: Vec<_> = names(dir)?.into_iter().filter_map(step).collect();
    found.sort_unstable();
    Ok(found)
}

/// The model folders of a run folder: `model`, and of several tasks `best-NAME`.
pub(super) fn models(dir: &Path) -> Result<Vec<PathBuf>> {
    let model = |name: &String| name == "model" || name.starts_with("best-");
    let found = names(dir)?.into_iter().filter(model).map(|name| dir.join(name));
    Ok(found.filter(|path| path.join("config.json").exists() || path.join(MANIFEST).exists()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_leftovers() {
        assert_eq!(leftover("checkpoint-5.tmp-12"), Some(("checkpoint-5", "tmp")));
        assert_eq!(leftover("latest.tmp-0-12"), Some(("latest", "tmp")));
        assert_eq!(leftover("model.old-7"), Some(("model", "old")));
        for name in ["checkpoint-5", "checkpoint-5.tmp", "notes.tmp-x", ".tmp-3", "atmp-3", "run.lock"] {
            assert_eq!(leftover(name), None, "{name}");
        }
        assert_eq!(step_of("checkpoint-007"), None);
        assert_eq!(step_of("checkpoint-+7"), None);
        assert_eq!(step_of("checkpoint-70"), Some(70));
    }
}
