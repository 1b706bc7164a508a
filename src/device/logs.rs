//! The output of compilers: the reason for the terminal, the rest for a file.

/// The lines of a compiler's output that say why it failed, at most three of at most 200 characters: those
/// with the word "error", or the first ones.
pub(super) fn first_errors(log: &str) -> String {
    let lines = || log.lines().map(str::trim).filter(|l| !l.is_empty());
    let errors = || lines().filter(|l| l.to_lowercase().contains("error"));
    let chosen: Vec<&str> =
        if errors().next().is_some() { errors().take(3).collect() } else { lines().take(3).collect() };
    let short = |line: &&str| line.chars().take(200).collect::<String>();
    chosen.iter().map(short).collect::<Vec<_>>().join("; ")
}

/// Writes the output of a failed compilation to a file in the cache folder, or in the folder for temporary
/// files if that fails. It is too long for a terminal: it contains the source. Returns where it is, as the
/// end of a message; empty if it cannot be written.
pub(super) fn save_log(name: &str, text: &str) -> String {
    let digest = blake3::hash(text.as_bytes()).to_hex();
    let file = format!("{name}-{}.log", &digest[..12]);
    let folders = crate::cache::dir().map(|dir| dir.join("logs")).into_iter().chain([std::env::temp_dir()]);
    let path = folders.into_iter().find_map(|dir| {
        let path = dir.join(&file);
        std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, text)).ok().map(|()| path)
    });
    path.map(|path| format!("; the compiler's output is in {}", path.display())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errors_of_a_log_are_found() {
        let log = "a.cu(3): warning: unused\na.cu(7): error: identifier \"x\" is undefined\n\n1 error detected in the compilation\n";
        assert_eq!(
            first_errors(log),
            "a.cu(7): error: identifier \"x\" is undefined; 1 error detected in the compilation"
        );
        assert_eq!(first_errors("\n one\n two\n three\n four\n"), "one; two; three");
        assert_eq!(first_errors(&"error ".repeat(100)).chars().count(), 200);
        assert_eq!(first_errors(""), "");
    }
}
