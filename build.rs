//! Tells the program which commit it was built from (`TEMPRA_COMMIT`), for `tempra --version` and the results
//! of `tempra bench`.
//!
//! It reads the files of `.git` and does not run git. Without a repository, as in a packaged crate, the
//! commit is unknown.

use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let root = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    if let Some(commit) = commit(&root.join(".git")) {
        println!("cargo::rustc-env=TEMPRA_COMMIT={commit}");
    }
}

/// The commit that is checked out in the repository of a `.git`, in 40 or 64 hexadecimal digits.
pub fn commit(git: &Path) -> Option<String> {
    let git = match fs::read_to_string(git) {
        // In a linked worktree `.git` is a file that names the folder.
        Ok(text) => git.parent()?.join(text.strip_prefix("gitdir:")?.trim()),
        Err(_) => git.to_path_buf(),
    };
    let head = watched(&git.join("HEAD"))?;
    // Branches are shared by all worktrees.
    let shared = fs::read_to_string(git.join("commondir")).map_or(git.clone(), |dir| git.join(dir.trim()));
    // The log of HEAD grows with every commit, so a commit is noticed also while its branch is in
    // `packed-refs`.
    watched(&git.join("logs/HEAD"));
    let found = match head.trim().strip_prefix("ref:") {
        None => head.trim().to_owned(),
        Some(branch) => {
            let branch = branch.trim();
            let of_packed = |all: String| {
                let line = all.lines().find(|line| line.ends_with(&format!(" {branch}")))?;
                Some(line.split(' ').next()?.to_owned())
            };
            let loose = watched(&shared.join(branch)).map(|text| text.trim().to_owned());
            loose.or_else(|| watched(&shared.join("packed-refs")).and_then(of_packed))?
        }
    };
    let valid = [40, 64].contains(&found.len()) && found.bytes().all(|b| b.is_ascii_hexdigit());
    valid.then_some(found)
}

/// The text of a file. Cargo runs this script again when the file changes; it would always do so for a
/// missing file.
fn watched(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    println!("cargo::rerun-if-changed={}", path.display());
    Some(text)
}
