//! The files of a model folder that are not its weights.

use crate::checkpoint::NamedFile;
use crate::error::{Error, Kind, Result};
use std::path::Path;

/// Files that the smaller folder gets anew.
const ANEW: [&str; 3] = ["config.json", "manifest.json", "model.safetensors.index.json"];
/// The endings of files with weights of any framework.
const WEIGHTS: [&str; 9] = ["safetensors", "bin", "h5", "msgpack", "onnx", "ot", "pt", "pth", "ckpt"];
/// The largest file that is copied, in bytes.
const MOST: u64 = 256 << 20;

/// The other files of a model folder: tokenizer, metadata, licence, and those of the modules of
/// sentence-transformers in folders below it. `skip`: names that are not wanted.
pub(super) fn others(dir: &Path, skip: impl Fn(&str) -> bool) -> Result<Vec<NamedFile<'static>>> {
    let mut files = Vec::new();
    for (name, path) in entries(dir)? {
        if path.is_file() {
            let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
            if !ANEW.contains(&name.as_str()) && !WEIGHTS.contains(&ending) && !skip(&name) {
                files.push(NamedFile::bytes(name, read(&path)?));
            }
        } else if path.is_dir() && name.starts_with(|c: char| c.is_ascii_digit()) {
            for (inner, path) in entries(&path)?.into_iter().filter(|(_, path)| path.is_file()) {
                files.push(NamedFile::bytes(format!("{name}/{inner}"), read(&path)?));
            }
        }
    }
    Ok(files)
}

/// The names and paths in a folder, sorted, without hidden ones.
fn entries(dir: &Path) -> Result<Vec<(String, std::path::PathBuf)>> {
    let fail = |e: &std::io::Error| Error::io(Kind::Model, "cannot read", dir, e);
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| fail(&e))? {
        let path = entry.map_err(|e| fail(&e))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        all.extend((!name.starts_with('.')).then_some((name, path)));
    }
    all.sort();
    Ok(all)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let fail = |e: &std::io::Error| Error::io(Kind::Model, "cannot read", path, e);
    let length = std::fs::metadata(path).map_err(|e| fail(&e))?.len();
    if length > MOST {
        return Err(Error::model("a file of the model folder is too large to be copied")
            .at(path)
            .with_expected(format!("at most {} MB", MOST >> 20))
            .with_found(format!("{} MB", length >> 20))
            .with_help("move the file out of the model folder"));
    }
    std::fs::read(path).map_err(|e| fail(&e))
}
