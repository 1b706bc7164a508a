//! Results: to standard output, or to a file that appears when it is complete.

use crate::checkpoint::real_path;
use crate::error::{Error, Kind, Result};
use crate::files::{RealFs, replace_with};
use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Standard output. If its reader ends early, as `head` does, the rest is dropped without an error.
struct Stdout {
    inner: io::Stdout,
    gone: bool,
}

impl Stdout {
    fn pass<T>(&mut self, result: io::Result<T>, instead: T) -> io::Result<T> {
        match result {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(instead)
            }
            other => other,
        }
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gone {
            return Ok(bytes.len());
        }
        let written = self.inner.write(bytes);
        self.pass(written, bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        if self.gone {
            return Ok(());
        }
        let flushed = self.inner.flush();
        self.pass(flushed, ())
    }
}

/// Writes to standard output through `f`.
///
/// # Errors
/// [`Kind::Disk`] if it cannot be written, as when it is a file on a full disk; not if its reader has gone.
pub fn to_stdout(f: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut out = BufWriter::new(Stdout { inner: io::stdout(), gone: false });
    let done = f(&mut out).and_then(|()| out.flush());
    done.map_err(|e| Error::io(Kind::Disk, "cannot be written", Path::new("standard output"), &e))
}

/// Prints text and the end of a line.
pub fn say(text: impl Display) -> Result<()> {
    to_stdout(|out| writeln!(out, "{text}"))
}

/// Prints a line of progress. One that cannot be written is dropped: only results are worth an error.
pub fn progress(text: impl Display) {
    let _ = say(text);
}

/// Prints a value as JSON over several lines.
pub fn say_json(value: &serde_json::Value) -> Result<()> {
    say(format!("{value:#}"))
}

/// The destination of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file, which is replaced atomically when everything is written.
    File(PathBuf),
    /// A device or a named pipe, which cannot be replaced.
    Special(PathBuf),
}

impl Destination {
    /// The destination that `-o` names; without it, or with `-`, standard output. It is checked before the
    /// work starts.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a folder, or a file in a folder that does not exist.
    pub fn of(named: Option<&str>) -> Result<Self> {
        let path = match named {
            None | Some("-") => return Ok(Self::Stdout),
            Some(path) => Path::new(path),
        };
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => Err(Error::usage("the output is a folder")
                .at(path)
                .with_expected("the name of a file to write")),
            // A link stays; the file that it points to is replaced.
            Ok(meta) if meta.is_file() => {
                Ok(Self::File(fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())))
            }
            Ok(_) => Ok(Self::Special(path.to_path_buf())),
            Err(_) => {
                let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
                match folder.filter(|p| !p.is_dir()) {
                    Some(missing) => Err(Error::usage("the folder of the output does not exist")
                        .at(missing)
                        .with_help("create it, or name another file")),
                    None => Ok(Self::File(path.to_path_buf())),
                }
            }
        }
    }

    /// Refuses to overwrite what the command reads, also through another spelling or a link. `inputs` are
    /// files, or folders of models, into which nothing is written. `-` is standard input.
    ///
    /// # Errors
    /// [`Kind::Usage`], naming the input.
    pub fn spare<'a>(&self, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
        let (Self::File(mine) | Self::Special(mine)) = self else { return Ok(()) };
        let mine = real_path(mine);
        for input in inputs.into_iter().filter(|input| *input != Path::new("-")) {
            let real = real_path(input);
            let linked =
                || fs::read_dir(input).into_iter().flatten().flatten().any(|e| real_path(&e.path()) == mine);
            if mine == real {
                return Err(Error::usage("the output would overwrite the input")
                    .at(input)
                    .with_help("name another file for the output"));
            }
            if input.is_dir() && (mine.starts_with(&real) || linked()) {
                return Err(Error::usage("the output is inside the model folder")
                    .at(&mine)
                    .with_expected(format!("a name outside {}", input.display()))
                    .with_help("name another file for the output"));
            }
        }
        Ok(())
    }

    /// Writes through `f`. A file gets its name when it is complete and on the disk; until then the old file
    /// stays.
    ///
    /// # Errors
    /// [`Kind::Disk`] if it cannot be written.
    pub fn write(&self, f: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        match self {
            Self::Stdout => to_stdout(f),
            Self::File(path) => {
                replace_with(&RealFs, path, |out| buffered(out, f)).map_err(|e| unwritable(path, &e))
            }
            Self::Special(path) => {
                let file = OpenOptions::new().write(true).open(path);
                file.and_then(|file| buffered(file, f)).map_err(|e| unwritable(path, &e))
            }
        }
    }
}

fn buffered(out: impl Write, f: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    f(&mut out)?;
    out.flush()
}

fn unwritable(path: &Path, e: &io::Error) -> Error {
    Error::io(Kind::Disk, "cannot be written", path, e)
}
