//! Folders of texts: one subfolder for each class (`train/pos/1.txt`, `train/neg/1.txt`), or text files
//! without classes.

use std::fs;
use std::path::{Path, PathBuf};

use super::encoding::text;
use super::record::{BadRow, Cells, Found, Place, Record, Rows, list};
use crate::error::{Error, Kind, Result};

/// One text file, and the class that its folder names.
struct TextFile {
    path: PathBuf,
    class: Option<String>,
    /// The path below the folder, with `/` between the names.
    name: String,
}

pub(super) struct FolderRows {
    files: std::iter::Enumerate<std::vec::IntoIter<TextFile>>,
    header: Vec<String>,
    hash: blake3::Hasher,
}

/// The names in a folder that are UTF-8 and not hidden, in the order of their bytes.
fn names(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = |e: std::io::Error| Error::io(Kind::Data, "the folder cannot be read", folder, &e);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_str();
        let name = name.ok_or_else(|| {
            Error::data("a file name is not UTF-8").at(&path).with_help("rename the file or the folder")
        })?;
        if !name.starts_with('.') {
            found.push((name.to_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}

fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt"))
}

impl FolderRows {
    /// Lists the files of a folder. The columns are `text`, `label` where there are subfolders, and `file`.
    pub fn open(folder: &Path) -> Result<Self> {
        let (classes, others): (Vec<_>, Vec<_>) = names(folder)?.into_iter().partition(|(_, p)| p.is_dir());
        let loose: Vec<_> = others.into_iter().filter(|(_, path)| is_text(path)).collect();
        let mut files = Vec::new();
        if let (Some((_, path)), Some((class, _))) = (loose.first(), classes.first()) {
            return Err(Error::data("the folder holds text files beside folders of text files")
                .at(path)
                .with_expected(format!("each .txt file in the folder of its class, such as {class}/"))
                .with_found(list(loose.iter().map(|(name, _)| name.as_str())))
                .with_help("move the files into the folders of their classes, or out of the data"));
        }
        for (class, folder) in &classes {
            let before = files.len();
            for (name, path) in names(folder)? {
                if path.is_dir() || !is_text(&path) {
                    let what =
                        if path.is_dir() { "a folder" } else { "a file whose name does not end in .txt" };
                    return Err(Error::data(format!("the folder of a class holds {what}"))
                        .at(path)
                        .with_expected("only .txt files, one text in each")
                        .with_help("move it out of the data, or rename the file if it is a text"));
                }
                files.push(TextFile { path, class: Some(class.clone()), name: format!("{class}/{name}") });
            }
            if files.len() == before {
                return Err(Error::data("the folder of a class holds no text")
                    .at(folder)
                    .with_expected("at least one .txt file")
                    .with_help("add texts, or remove the folder"));
            }
        }
        let has_classes = !classes.is_empty();
        files.extend(loose.into_iter().map(|(name, path)| TextFile { path, class: None, name }));
        if files.is_empty() {
            return Err(Error::data("the folder holds no text")
                .at(folder)
                .with_expected("a subfolder for each class with .txt files, or .txt files")
                .with_help("name the folder that holds the folders of the classes"));
        }
        let header = ["text", "label", "file"].into_iter().filter(|name| has_classes || *name != "label");
        Ok(Self {
            files: files.into_iter().enumerate(),
            header: header.map(str::to_owned).collect(),
            hash: blake3::Hasher::new(),
        })
    }
}

impl Rows for FolderRows {
    fn header(&self) -> Option<&[String]> {
        Some(&self.header)
    }
    fn next(&mut self) -> Result<Option<Found>> {
        let Some((i, file)) = self.files.next() else { return Ok(None) };
        let line = i as u64 + 1;
        let (content, hash) = match text(&file.path) {
            Ok(read) => read,
            // What is wrong with one file does not keep the others from being read.
            Err(e) if e.kind() == Kind::Data => {
                let bad = BadRow::new(e.line().unwrap_or(1), e.byte(), e.what());
                let bad = BadRow {
                    expected: e.expected().map(Box::from),
                    found: e.found().map(Box::from),
                    hint: e.help().map(Box::from),
                    ..bad
                };
                return Ok(Some(Err(bad.with_file(&file.path))));
            }
            Err(e) => return Err(e),
        };
        // The hash is of the names as well: a text that moves to another class changes the data.
        self.hash.update(format!("{}\0{hash}\n", file.name).as_bytes());
        let content = content.strip_suffix('\n').unwrap_or(&content);
        let content = content.strip_suffix('\r').unwrap_or(content).to_owned();
        let cells = [Some(content), file.class, Some(file.name)].into_iter().flatten().collect();
        Ok(Some(Ok(Record { line, place: Place::File(file.path), byte: None, cells: Cells::List(cells) })))
    }
    fn hash(&self) -> String {
        self.hash.finalize().to_hex().to_string()
    }
}
