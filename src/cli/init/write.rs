//! The text of a recipe, and the words of a shell.

use super::super::style::clean;
use std::path::Path;

/// A recipe as it grows.
pub struct Lines(pub String);

impl Lines {
    /// Begins a section.
    pub fn table(&mut self, name: &str) {
        self.0 += &format!("\n[{name}]\n");
    }
    /// Adds a comment. What came from data must not end it.
    pub fn comment(&mut self, text: &str) {
        self.0 += &format!("# {}\n", clean(text).replace('\n', " "));
    }
    /// Adds a key with its value in TOML, below a comment with the reason.
    pub fn key(&mut self, name: &str, value: &str, why: &str) {
        if !why.is_empty() {
            self.comment(why);
        }
        self.0 += &format!("{name} = {value}\n");
    }
}

/// A string in TOML.
pub fn quoted(s: &str) -> String {
    toml::Value::String(s.to_owned()).to_string()
}

/// A list of strings in TOML.
pub fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

/// A path or a name as a shell reads it.
pub fn shell(path: impl AsRef<Path>) -> String {
    let text = path.as_ref().to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A file as the recipe names it: relative to the recipe's folder if it is below it, else absolute.
pub fn written(file: &Path, recipe: &Path) -> String {
    let folder = crate::files::parent(recipe);
    let whole = |p: &Path| std::path::absolute(p).unwrap_or_else(|_| p.to_path_buf());
    let (file, folder) = (whole(file), whole(folder));
    file.strip_prefix(&folder).unwrap_or(&file).to_string_lossy().into_owned()
}
