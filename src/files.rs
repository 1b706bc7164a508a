//! Files: replaces one completely or not at all, and the operations that change a disk.
//!
//! [`Fs`] has one method for each operation, so that tests can replace them with failing ones. Reading does
//! not go through it: it changes nothing, and checkpoints are checked by their hashes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// An open file that is being written.
pub trait Sink: Write + Send {
    /// Returns when the contents are on the disk (`fsync`).
    ///
    /// # Errors
    /// Those of the system.
    fn sync(&mut self) -> io::Result<()>;
    /// Truncates the file to `len` bytes.
    ///
    /// # Errors
    /// Those of the system.
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
    /// Creates a file, or truncates an existing one.
    ///
    /// # Errors
    /// Those of the system.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>>;
    /// Opens a file for appending, and creates it if needed.
    ///
    /// # Errors
    /// Those of the system.
    fn append(&self, path: &Path) -> io::Result<Box<dyn Sink>>;
    /// Creates a folder and its parents. An existing folder is no error.
    ///
    /// # Errors
    /// Those of the system.
    fn mkdir(&self, path: &Path) -> io::Result<()>;
    /// Renames a file or folder. A file may replace a file; a folder replaces nothing.
    ///
    /// # Errors
    /// Those of the system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Returns when the entries of a folder are on the disk.
    ///
    /// # Errors
    /// Those of the system.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// Those of the system.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    ///
    /// # Errors
    /// Those of the system.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes the exclusive lock of a file and writes `owner` into it. The lock lasts as long as the returned
    /// file is open; the kernel releases it even when the process is killed. Returns `WouldBlock` if another
    /// process holds the lock.
    ///
    /// # Errors
    /// Those of the system.
    fn lock(&self, path: &Path, owner: &str) -> io::Result<File>;
}

/// The file system of the operating system.
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
        // On other systems a folder cannot be opened as a file, and the file system's journal keeps the
        // order.
        if !cfg!(unix) {
            return Ok(());
        }
        match File::open(path).and_then(|folder| folder.sync_all()) {
            // A folder may allow writing, but not listing; then it cannot be opened.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            done => done,
        }
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

/// Removes a folder and its contents, one operation after the other. A link is removed, not followed.
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

/// Removes a file, a link, or a folder with its contents.
pub(crate) fn remove_any(fs: &dyn Fs, path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { remove_tree(fs, path) } else { fs.remove_file(path) }
}

/// Replaces the file at `path` with `bytes`, completely or not at all. Creates the folder if needed.
///
/// Readers and other writers, in this process or another, see the old file or the new one. The new one is on
/// the disk when this returns.
///
/// # Errors
/// Those of the system; the old file is then unchanged.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    RealFs.mkdir(parent(path))?;
    replace_with(&RealFs, path, |out| out.write_all(bytes))
}

/// As [`replace`], with what `write` writes, in a folder that exists. A file that was there keeps its
/// permissions.
///
/// # Errors
/// Those of `write` and of the system; the old file is then unchanged.
pub fn replace_with(
    fs: &dyn Fs,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    // Two threads may replace one file at the same time, such as two devices a cached kernel: each needs a
    // name of its own.
    static WRITTEN: AtomicU32 = AtomicU32::new(0);
    let temp = sibling(path, &format!("tmp-{}", WRITTEN.fetch_add(1, Ordering::Relaxed)));
    let run = || {
        let mut sink = fs.create(&temp)?;
        write(&mut sink)?;
        if let Ok(before) = fs::metadata(path) {
            fs::set_permissions(&temp, before.permissions())?;
        }
        // Before the rename: otherwise a power loss could leave the new name with nothing behind it.
        sink.sync()?;
        drop(sink);
        fs.rename(&temp, path)?;
        fs.sync_dir(parent(path))
    };
    run().inspect_err(|_| {
        let _ = fs.remove_file(&temp);
    })
}

/// `path` with `.tag-<pid>` appended to its name. It is in the same folder, so that a rename stays within one
/// file system.
pub(crate) fn sibling(path: &Path, tag: &str) -> std::path::PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{tag}-{}", std::process::id()));
    path.with_file_name(name)
}

/// The folder that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
