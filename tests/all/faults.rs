//! A disk that fails or kills the process at the n-th operation.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tempra::checkpoint::{Fs, RealFs, Sink};

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// It fails with this error, once.
    Error(ErrorKind),
    /// It fails with this error of the system, once: 5 EIO, 13 EACCES, 24 EMFILE, 28 ENOSPC.
    Os(i32),
    /// If it is a write, half of it is done, and that is no error; if not, nothing happens.
    Short,
    /// Half of a write is done and the rest fails for want of room; every later write fails, until it is
    /// disarmed.
    Full,
    /// The process is killed there: half of a write is done, nothing after it.
    Kill,
}

/// The disk, with a fault at the n-th operation.
#[derive(Clone)]
pub struct FaultFs(pub Arc<Plan>);

pub struct Plan {
    fault: Fault,
    at: AtomicUsize,
    pub count: AtomicUsize,
    pub log: Mutex<Vec<String>>,
    /// What a power loss takes: contents of files not synced, and entries and renames in folders not synced.
    files: Mutex<BTreeSet<PathBuf>>,
    entries: Mutex<BTreeSet<PathBuf>>,
    renames: Mutex<Vec<(PathBuf, PathBuf)>>,
}

impl FaultFs {
    pub fn new(fault: Fault, at: usize) -> Self {
        let (count, log, renames) = Default::default();
        let (files, entries) = Default::default();
        let at = AtomicUsize::new(at);
        Self(Arc::new(Plan { fault, at, count, log, files, entries, renames }))
    }
    /// The fault sets in after so many further operations.
    pub fn fail_after(&self, operations: usize) {
        self.0.at.store(self.0.count.load(SeqCst) + operations, SeqCst);
    }
    /// There is no fault any more.
    pub fn recover(&self) {
        self.0.at.store(usize::MAX, SeqCst);
    }
    fn at(&self) -> usize {
        self.0.at.load(SeqCst)
    }
    /// Takes what was not synced: the second half of files, and, if `folders`, whatever their entries told.
    pub fn lose_power(&self, folders: bool) {
        for file in self.0.files.lock().unwrap().iter().filter(|f| f.exists()) {
            let file = File::options().write(true).open(file).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }
        if folders {
            for file in self.0.entries.lock().unwrap().iter().filter(|f| f.exists()) {
                fs::remove_file(file).unwrap();
            }
            for (from, to) in self.0.renames.lock().unwrap().iter().rev().filter(|(_, to)| to.exists()) {
                fs::rename(to, from).unwrap();
            }
        }
    }
    pub fn hit(&self) -> bool {
        self.0.count.load(SeqCst) > self.at()
    }
    /// Counts an operation; an error if it is not to be done.
    fn op(&self, what: &str, path: &Path) -> io::Result<()> {
        let n = self.0.count.fetch_add(1, SeqCst);
        self.0.log.lock().unwrap().push(format!("{what} {}", path.display()));
        let frees = what.starts_with("remove");
        match self.0.fault {
            Fault::Error(kind) if n == self.at() => Err(kind.into()),
            Fault::Os(code) if n == self.at() => Err(io::Error::from_raw_os_error(code)),
            Fault::Full if n >= self.at() && !frees && what != "rename" => Err(ErrorKind::StorageFull.into()),
            Fault::Kill if n >= self.at() => Err(io::Error::other("the process is dead")),
            _ => Ok(()),
        }
    }
}

struct FaultSink(FaultFs, Box<dyn Sink>, PathBuf);

impl Write for FaultSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let plan = &self.0.0;
        let here = plan.count.load(SeqCst) == self.0.at();
        if here && plan.fault == Fault::Short && bytes.len() > 1 {
            self.0.op("write", Path::new(""))?;
            return self.1.write(&bytes[..bytes.len() / 2]);
        }
        if here && plan.fault != Fault::Short {
            self.1.write_all(&bytes[..bytes.len() / 2])?;
        }
        self.0.op("write", Path::new(""))?;
        self.1.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for FaultSink {
    fn sync(&mut self) -> io::Result<()> {
        // Not carried out: a killed process loses nothing that the kernel has, and a test has no time for it.
        self.0.op("sync", Path::new(""))?;
        self.0.0.files.lock().unwrap().remove(&self.2);
        Ok(())
    }
    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.op("remove the end", Path::new(""))?;
        self.1.truncate(len)
    }
}

impl Fs for FaultFs {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        self.op("create", path)?;
        self.0.files.lock().unwrap().insert(path.into());
        self.0.entries.lock().unwrap().insert(path.into());
        Ok(Box::new(FaultSink(self.clone(), RealFs.create(path)?, path.into())))
    }
    fn append(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        self.op("append", path)?;
        Ok(Box::new(FaultSink(self.clone(), RealFs.append(path)?, path.into())))
    }
    fn mkdir(&self, path: &Path) -> io::Result<()> {
        self.op("mkdir", path)?;
        RealFs.mkdir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.op("rename", from)?;
        RealFs.rename(from, to)?;
        for set in [&self.0.files, &self.0.entries] {
            let mut set = set.lock().unwrap();
            let moved = |p: &PathBuf| p.strip_prefix(from).map_or(p.clone(), |rest| to.join(rest));
            *set =
                set.iter().map(|p| PathBuf::from(moved(p).to_string_lossy().trim_end_matches('/'))).collect();
        }
        self.0.renames.lock().unwrap().push((from.into(), to.into()));
        Ok(())
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.op("sync_dir", path)?;
        self.0.entries.lock().unwrap().retain(|p| p.parent() != Some(path));
        self.0.renames.lock().unwrap().retain(|(_, to)| to.parent() != Some(path));
        Ok(())
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.op("remove_file", path)?;
        RealFs.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.op("remove_dir", path)?;
        RealFs.remove_dir(path)
    }
    fn lock(&self, path: &Path, owner: &str) -> io::Result<File> {
        self.op("lock", path)?;
        RealFs.lock(path, owner)
    }
}
