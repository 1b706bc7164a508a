//! `manifest.json`: the name, length and BLAKE3 hash of every file of a checkpoint, written last.
//!
//! There is one way to write a manifest, and a file that differs from it in one bit is damaged; so the list that
//! vouches for the other files needs nobody to vouch for itself.

use super::json::read_limited;
use super::run::step_of;
use super::write::{Written, plain};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The file's name.
pub(super) const MANIFEST: &str = "manifest.json";
const FORMAT: u32 = 1;

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
        .map_err(|e| Error::model(format!("the manifest cannot be written: {e}")))
}

fn text(m: &Manifest) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(m)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// What is wrong with a checkpoint; nothing, if every file is what it was. `bytes` is the sum of its files.
fn examine(dir: &Path) -> (Vec<String>, usize, u64) {
    let path = dir.join(MANIFEST);
    let only = |what: String| (vec![what], 0, 0);
    if path.symlink_metadata().is_err() {
        return only(format!("{MANIFEST} is missing: it was never finished"));
    }
    let bytes = match read_limited(&path, 16_000_000) {
        Ok(bytes) => bytes,
        Err(e) => return only(format!("{MANIFEST} cannot be read: {e}")),
    };
    let manifest: Manifest = match serde_json::from_slice(&bytes) {
        Ok(m) => m,
        Err(e) => return only(format!("{MANIFEST} is damaged: {e}")),
    };
    if manifest.format != FORMAT {
        return only(format!("{MANIFEST} is of format {}, this program knows {FORMAT}", manifest.format));
    }
    if text(&manifest).ok().as_ref() != Some(&bytes) {
        return only(format!("{MANIFEST} is damaged: it is not as it was written"));
    }
    let mut wrong = Vec::new();
    let mut total = 0;
    for item in &manifest.files {
        match same(dir, item) {
            Ok(()) => total += item.bytes,
            Err(why) => wrong.push(format!("{} {why}", item.name)),
        }
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        // What begins with a dot is a file system's or a file manager's (.nfs0001, .DS_Store), not ours.
        let hidden = name.as_encoded_bytes().starts_with(b".");
        let known = hidden || name == MANIFEST || manifest.files.iter().any(|i| name == i.name.as_str());
        if !known {
            wrong.push(format!("{} is not in the manifest", name.to_string_lossy()));
        }
    }
    wrong.sort_unstable();
    (wrong, manifest.files.len(), total)
}

fn same(dir: &Path, item: &Item) -> std::result::Result<(), String> {
    if !plain(&item.name) {
        return Err("is not a plain file name".into());
    }
    let path = dir.join(&item.name);
    let meta = match path.symlink_metadata() {
        Ok(meta) if meta.is_file() => meta,
        Ok(_) => return Err("is not a file".into()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err("is missing".into()),
        Err(e) => return Err(format!("cannot be read: {e}")),
    };
    if meta.len() != item.bytes {
        return Err(format!("has {} bytes, was written with {}", meta.len(), item.bytes));
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

/// The state of one checkpoint folder.
#[derive(Clone, Debug)]
pub struct CheckpointReport {
    /// The folder.
    pub path: PathBuf,
    /// How many files its manifest lists.
    pub files: usize,
    /// The bytes of those that are as they were written.
    pub bytes: u64,
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
}

impl CheckpointReport {
    /// Reads and hashes every file of a checkpoint folder.
    pub fn of(dir: &Path) -> Self {
        let (problems, files, bytes) = examine(dir);
        Self { path: dir.to_path_buf(), files, bytes, problems }
    }
    /// Whether every file is what was written.
    pub fn ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// The state of the checkpoints at a path.
#[derive(Clone, Debug)]
pub struct VerifyReport {
    /// One entry a checkpoint, newest first.
    pub checkpoints: Vec<CheckpointReport>,
}

impl VerifyReport {
    /// Whether all of them are what was written.
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

/// Verifies a checkpoint folder, or every checkpoint of a run folder. Takes no lock and changes nothing.
///
/// An error (kind `Model`) means that there is no checkpoint at `path`; damage is told by the report.
pub fn verify(path: &Path) -> Result<VerifyReport> {
    let entries = super::run::checkpoints(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let one =
        path.join(MANIFEST).symlink_metadata().is_ok() || (entries.is_empty() && step_of(&name).is_some());
    let reports: Vec<_> = if one {
        vec![CheckpointReport::of(path)]
    } else {
        entries.iter().rev().map(|(_, dir)| CheckpointReport::of(dir)).collect()
    };
    if reports.is_empty() {
        return Err(Error::model("holds no checkpoint").at(path).expected(format!(
            "a folder checkpoint-<step> with its {MANIFEST}, or a run folder with such folders"
        )));
    }
    Ok(VerifyReport { checkpoints: reports })
}
