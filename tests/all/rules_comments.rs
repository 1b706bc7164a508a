//! Fences over comments: what they name exists, and their lines are of readable length.

use crate::rules::{FOLDERS, files, parts};
use std::path::Path;

/// The words of a comment that are paths from the root, such as `src/lib.rs`, `docs/` or
/// `kernels/linear*.cu`, or names of source files, such as `linear.tensor.cu`.
fn paths(comment: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| c.is_ascii_alphanumeric() || "_-./*".contains(c);
    let words = comment.split(move |c| !part(c)).map(|word| word.trim_end_matches(['.', '/']));
    let words = words.map(|word| word.trim_start_matches("../"));
    // `src/ops/NAME.rs` stands for any name.
    words.filter(|word| !word.contains("NAME")).filter(|word| {
        let top = word.split_once('/').is_some_and(|(top, _)| FOLDERS.contains(&top) || top == "docs");
        let (stem, ending) = word.rsplit_once('.').unwrap_or_default();
        top || (!stem.is_empty() && ["rs", "cu", "cuh", "wgsl"].contains(&ending))
    })
}

/// Whether a path is in the repository. In the emulator it may begin in its own folder; the name of a source
/// file may stand alone.
fn exists(path: &str, from: &str, sources: &[&str]) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let emulator = from.starts_with("emulator/").then(|| root.join("emulator").join(path));
    if root.join(path).exists() || emulator.is_some_and(|p| p.exists()) {
        return true;
    }
    let (begin, end) = path.split_once('*').unwrap_or((path, ""));
    sources.iter().any(|source| {
        let mut starts = std::iter::once(0).chain(source.match_indices('/').map(|(i, _)| i + 1));
        starts.any(|i| match path.contains('*') {
            true => source[i..].strip_prefix(begin).is_some_and(|rest| rest.ends_with(end)),
            false => &source[i..] == path,
        })
    })
}

#[test]
fn paths_in_comments_exist() {
    let files = files();
    let sources: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (file, text) in &files {
        for (line, n) in parts(text).1.lines().zip(1..) {
            let named: Vec<&str> = paths(line).collect();
            seen += named.len();
            let lost = named.into_iter().filter(|path| !exists(path, file, &sources));
            wrong.extend(lost.map(|path| format!("{file}:{n}: {path} does not exist")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 100, "the fence found the paths there are: {seen}");

    let named = |comment: &str| paths(comment).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        named("// See `src/ops/linear.rs`'s tail, docs/ and kernels/linear*.cu."),
        ["src/ops/linear.rs", "kernels/linear*.cu"]
    );
    assert_eq!(
        named(
            "// As linear.tensor.cu (e.g. ../peer.rs) does; src/ops/NAME.rs, 0.5, and/or, model.safetensors."
        ),
        ["linear.tensor.cu", "peer.rs"]
    );
    let sources = ["src/ops/linear/mod.rs", "kernels/linear.tensor.cu"];
    for path in [
        "src/lib.rs",
        "docs/ARCHITECTURE.md",
        "linear.tensor.cu",
        "linear/mod.rs",
        "kernels/linear*.cu",
        "linear*.cu",
    ] {
        assert!(exists(path, "src/lib.rs", &sources), "{path}");
    }
    for path in
        ["src/ops/linear.rs", "inear.tensor.cu", "tensor.cu", "kernels/linear*.wgsl", "docs/nothing.md"]
    {
        assert!(!exists(path, "src/lib.rs", &sources), "{path}");
    }
    assert!(
        exists("src/exec", "emulator/src/lib.rs", &sources) && !exists("src/exec", "src/lib.rs", &sources)
    );
}

/// The most columns of a line that is a comment.
const WIDTH: usize = 110;

/// The lines that are comments wider than [`WIDTH`], by their numbers. A row of a table and a drawing, which
/// has columns three spaces apart, cannot be wrapped; neither can a single word.
fn wide(text: &str) -> Vec<usize> {
    let is_wide = |line: &str| {
        let Some(comment) = line.trim_start().strip_prefix("//") else { return false };
        let comment = comment.trim_start_matches(['/', '!']).trim();
        let whole = comment.starts_with('|') || comment.contains("   ") || !comment.contains(' ');
        line.chars().count() > WIDTH && !whole
    };
    text.lines().zip(1..).filter(|(line, _)| is_wide(line)).map(|(_, n)| n).collect()
}

#[test]
fn comments_are_not_wide() {
    let of = |(file, text): &(String, String)| {
        wide(text).into_iter().map(|n| format!("{file}:{n}")).collect::<Vec<_>>()
    };
    let wrong: Vec<String> = files().iter().flat_map(of).collect();
    assert!(wrong.is_empty(), "comments wider than {WIDTH} columns: {wrong:#?}");

    let (long, code) = ("word ".repeat(25), "x".repeat(120));
    let text = format!(
        "// {long}\nlet {code}; // {long}\n    /// | {long}\n//! {code}\n//! a   {long}\n    /// {long}"
    );
    assert_eq!(wide(&text), [1, 6]);
}
