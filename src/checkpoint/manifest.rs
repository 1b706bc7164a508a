//! `manifest.json`: the name, length and BLAKE3 hash of every file of a checkpoint or model folder, written
//! last.
//!
//! A manifest has exactly one valid encoding. A manifest that differs from it in one bit is damaged, so the
//! manifest needs no checksum of its own.

use super::json::read_limited;
use super::names::{MANIFEST, checkpoints, models, plain, step_of};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;

/// The length and hash of a written file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The file's length in bytes.
    pub bytes: u64,
    /// Its BLAKE3 hash.
    pub blake3: blake3::Hash,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    files: Vec<Item>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    name: String,
    bytes: u64,
    blake3: String,
}

/// The manifest of what was written.
pub(super) fn render(files: &BTreeMap<String, Written>) -> Result<Vec<u8>> {
    let item = |(name, w): (&String, &Written)| Item {
        name: name.clone(),
        bytes: w.bytes,
        blake3: w.blake3.to_hex().to_string(),
    };
    text(&Manifest { format: FORMAT, files: files.iter().map(item).collect() })
        .map_err(|e| Error::model("cannot encode the manifest").with_found(e.to_string()))
}

fn text(m: &Manifest) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(m)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Files of a checkpoint that loading a model does not read.
const NOT_LOADED: [&str; 3] = ["optimizer.safetensors", STATE, "trainer_state.json"];
/// The state of a run; only checkpoints have it.
const STATE: &str = "state.json";

/// Reads the manifest of a folder, or returns what is wrong with it.
fn read(dir: &Path) -> std::result::Result<Manifest, String> {
    let path = dir.join(MANIFEST);
    if path.symlink_metadata().is_err() {
        return Err(format!(
            "{MANIFEST} is missing: the save did not finish, an old version wrote it, or the file was deleted"
        ));
    }
    let bytes = read_limited(&path, 16_000_000).map_err(|e| format!("{MANIFEST} cannot be read: {e}"))?;
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|e| format!("{MANIFEST} is damaged: {e}"))?;
    if manifest.format != FORMAT {
        return Err(format!(
            "{MANIFEST} has format {}, and this version of tempra reads format {FORMAT}",
            manifest.format
        ));
    }
    if text(&manifest).ok().as_ref() != Some(&bytes) {
        return Err(format!("{MANIFEST} is damaged: it has changed since tempra wrote it"));
    }
    Ok(manifest)
}

/// The problems of a folder (none if every file is intact), the number of its files, and their total size in
/// bytes.
fn examine(dir: &Path) -> (Vec<String>, usize, u64) {
    let manifest = match read(dir) {
        Ok(manifest) => manifest,
        Err(why) => return (vec![why], 0, 0),
    };
    let mut total = 0;
    let mut wrong = Vec::from_iter(unlisted(dir, &manifest));
    let links = !of_checkpoint(&manifest);
    for item in &manifest.files {
        match same(dir, item, links) {
            Ok(()) => total += item.bytes,
            Err(why) => wrong.push(format!("{} {why}", item.name)),
        }
    }
    wrong.sort_unstable();
    (wrong, manifest.files.len(), total)
}

fn of_checkpoint(manifest: &Manifest) -> bool {
    manifest.files.iter().any(|i| i.name == STATE)
}

/// One sentence that lists the files of a folder that are not in its manifest: in a checkpoint all of them,
/// in a model folder those that loading would read. A model card does no harm; a second vocabulary does.
fn unlisted(dir: &Path, manifest: &Manifest) -> Option<String> {
    let checkpoint = of_checkpoint(manifest);
    let listed = |name: &str| {
        let inside = |i: &Item| i.name.split_once('/').is_some_and(|(folder, _)| folder == name);
        name == MANIFEST || manifest.files.iter().any(|i| i.name == name || inside(i))
    };
    let loaded = |name: &str| {
        let kind = name.rsplit_once('.').map_or("", |(_, kind)| kind);
        ["json", "safetensors", "model"].contains(&kind) || ["vocab.txt", "merges.txt"].contains(&name)
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    // Hidden files belong to file systems and file managers (.nfs0001, .DS_Store).
    let mut names: Vec<String> =
        names.filter(|n| !n.starts_with('.') && !listed(n) && (checkpoint || loaded(n))).collect();
    names.sort_unstable();
    match names.as_slice() {
        [] => None,
        [one] => Some(format!("{one} is not in {MANIFEST}")),
        [.., _] => Some(format!("{} files are not in {MANIFEST}: {}", names.len(), names.join(", "))),
    }
}

/// What has changed in a model folder since tempra wrote it, as short sentences; empty for a folder without a
/// manifest.
///
/// Reads and hashes every file that loading a model reads.
pub fn changes(dir: &Path) -> Vec<String> {
    if dir.join(MANIFEST).symlink_metadata().is_err() {
        return Vec::new();
    }
    let mut found = match read(dir) {
        Err(why) => vec![why],
        Ok(manifest) => {
            let loaded = manifest.files.iter().filter(|i| !NOT_LOADED.contains(&i.name.as_str()));
            let wrong = loaded.filter_map(|i| Some(format!("{} {}", i.name, same(dir, i, true).err()?)));
            wrong.chain(unlisted(dir, &manifest)).collect()
        }
    };
    found.sort_unstable();
    found
}

/// Checks that a file is intact. `links`: whether it may be a symbolic link, as the files of a downloaded
/// model are.
fn same(dir: &Path, item: &Item, links: bool) -> std::result::Result<(), String> {
    let (folder, name) = item.name.split_once('/').unwrap_or((".", &item.name));
    if !plain(name) || !(folder == "." || plain(folder)) {
        return Err("is not a plain file name".into());
    }
    let path = dir.join(&item.name);
    let meta = match if links { path.metadata() } else { path.symlink_metadata() } {
        Ok(meta) if meta.is_file() => meta,
        Ok(_) => return Err("is not a file".into()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err("is missing".into()),
        Err(e) => return Err(format!("cannot be read: {e}")),
    };
    if meta.len() != item.bytes {
        return Err(format!("has {} bytes and was written with {}", meta.len(), item.bytes));
    }
    let hash = || -> std::io::Result<blake3::Hash> {
        let mut file = std::fs::File::open(&path)?;
        let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hasher.finalize()),
                n => hasher.update(&buffer[..n]),
            };
        }
    };
    let hash = hash().map_err(|e| format!("cannot be read: {e}"))?;
    if hash.to_hex().as_str() != item.blake3 {
        return Err("has changed since it was written (its BLAKE3 hash differs)".into());
    }
    Ok(())
}

/// The result of verifying one checkpoint or model folder.
#[derive(Clone, Debug)]
pub struct CheckpointReport {
    /// The folder.
    pub path: PathBuf,
    /// The number of files in its manifest.
    pub files: usize,
    /// The total size of the intact files, in bytes.
    pub bytes: u64,
    /// The problems, one sentence each.
    pub problems: Vec<String>,
}

impl CheckpointReport {
    /// Reads and hashes every file of a checkpoint or model folder.
    pub fn of(dir: &Path) -> Self {
        let (problems, files, bytes) = examine(dir);
        Self { path: dir.to_path_buf(), files, bytes, problems }
    }
    /// Whether every file is intact.
    pub fn ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// The result of verifying the checkpoints and models at a path.
#[derive(Clone, Debug)]
pub struct VerifyReport {
    /// One entry per checkpoint, newest first; then one per model.
    pub checkpoints: Vec<CheckpointReport>,
}

impl VerifyReport {
    /// Whether all of them are intact.
    pub fn ok(&self) -> bool {
        self.checkpoints.iter().all(CheckpointReport::ok)
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in &self.checkpoints {
            if c.ok() {
                writeln!(f, "ok       {}  {} files, {} bytes", c.path.display(), c.files, c.bytes)?;
            } else {
                writeln!(f, "damaged  {}", c.path.display())?;
                c.problems.iter().try_for_each(|p| writeln!(f, "         {p}"))?;
            }
        }
        Ok(())
    }
}

/// Verifies a checkpoint or model folder, or every checkpoint and model of a run folder. Takes no lock and
/// changes nothing.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) if there is nothing to verify at `path`. Damage is no error:
/// the report lists it.
pub fn verify(path: &Path) -> Result<VerifyReport> {
    let entries = checkpoints(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let one =
        path.join(MANIFEST).symlink_metadata().is_ok() || (entries.is_empty() && step_of(&name).is_some());
    let reports: Vec<_> = if one {
        vec![CheckpointReport::of(path)]
    } else {
        let folders = entries.into_iter().rev().map(|(_, dir)| dir).chain(models(path)?);
        folders.map(|dir| CheckpointReport::of(&dir)).collect()
    };
    if reports.is_empty() {
        return Err(Error::model("the folder holds no checkpoint or model that can be verified")
            .at(path)
            .with_expected(format!(
                "a folder that tempra wrote, with a {MANIFEST}, or a run folder that holds such folders"
            ))
            .with_help("name a run's output folder, its model folder or one of its checkpoint folders"));
    }
    Ok(VerifyReport { checkpoints: reports })
}
