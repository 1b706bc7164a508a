//! Every change this module makes to a disk, one method an operation; the tests put a failing one underneath.
//!
//! Reading does not go through it: a read cannot hurt what is stored, and what is read is checked by its hash.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, Write};
use std::path::Path;

/// An open file that is being written.
pub trait Sink: Write + Send {
    /// Returns once the contents are on the disk (`fsync`).
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to `len` bytes.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

impl Sink for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}

/// The operations that change a disk.
pub trait Fs: Send + Sync {
    /// Creates a file, or empties the one that is there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>>;
    /// Opens a file for writing at its end, creating it if need be.
    fn append(&self, path: &Path) -> io::Result<Box<dyn Sink>>;
    /// Creates a folder and its parents; one that is there is fine.
    fn mkdir(&self, path: &Path) -> io::Result<()>;
    /// Renames; a file takes the place of a file, a folder only that of nothing.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Returns once the entries of a folder are on the disk.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes the exclusive lock of a file and writes `owner` into it. The lock lasts as long as the returned file is
    /// open: the kernel frees it even when the process is killed. `WouldBlock` if another process holds it.
    fn lock(&self, path: &Path, owner: &str) -> io::Result<File>;
}

/// The disk itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

impl Fs for RealFs {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        Ok(Box::new(File::create(path)?))
    }
    fn append(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        Ok(Box::new(OpenOptions::new().append(true).create(true).open(path)?))
    }
    fn mkdir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Elsewhere a folder cannot be opened as a file; there the file system orders its own journal.
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }
    fn lock(&self, path: &Path, owner: &str) -> io::Result<File> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
            TryLockError::Error(e) => e,
        })?;
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(owner.as_bytes())?;
        Ok(file)
    }
}

/// Removes a folder and what is in it, one operation after the other; a link is removed, not followed.
pub(crate) fn remove_tree(fs: &dyn Fs, dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(fs, &entry.path())?;
        } else {
            fs.remove_file(&entry.path())?;
        }
    }
    fs.remove_dir(dir)
}

/// Removes a file, a link or a whole folder.
pub(crate) fn remove_any(fs: &dyn Fs, path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { remove_tree(fs, path) } else { fs.remove_file(path) }
}

/// Puts `bytes` in the place of the file at `path`: whole or not at all.
pub(crate) fn replace_file(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = sibling(path, "tmp");
    let write = || {
        let mut sink = fs.create(&temp)?;
        sink.write_all(bytes)?;
        sink.sync()?;
        drop(sink);
        fs.rename(&temp, path)?;
        fs.sync_dir(parent(path))
    };
    write().inspect_err(|_| {
        let _ = fs.remove_file(&temp);
    })
}

/// `path` with `.tag-<pid>` behind its name: the same folder, so that a rename stays within one file system.
pub(crate) fn sibling(path: &Path, tag: &str) -> std::path::PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{tag}-{}", std::process::id()));
    path.with_file_name(name)
}

/// The folder that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
