//! Writes files and folders. Safetensors files are streamed tensor by tensor and hashed while they are
//! written.

use super::manifest::{Written, render};
use super::names::{MANIFEST, plain};
use super::{Dtype, convert};
use crate::error::{Error, Kind, Result};
use crate::files::{Fs, Sink, parent, remove_any, replace_with, sibling};
use crate::shape::DType;
use safetensors::tensor::TensorInfo;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

/// A tensor to write.
#[derive(Clone, Debug)]
pub struct TensorOut<'a> {
    /// Its name in the model, such as `bert.pooler.dense.weight`.
    pub name: String,
    /// The element type; `DType::F32.into()` converts a tempra type.
    pub dtype: Dtype,
    /// The dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The bytes of the elements, row-major and little-endian.
    pub bytes: Cow<'a, [u8]>,
}

/// A file to write into a folder.
#[derive(Clone, Debug)]
pub struct NamedFile<'a> {
    /// Its name, without a folder.
    pub name: String,
    /// Its contents.
    pub body: Body<'a>,
}

/// The contents of a file.
#[derive(Clone, Debug)]
pub enum Body<'a> {
    /// Bytes, written unchanged.
    Bytes(Cow<'a, [u8]>),
    /// A safetensors file: tensors, and metadata in addition to `format = pt`.
    Tensors(Vec<TensorOut<'a>>, Vec<(String, String)>),
}

impl<'a> NamedFile<'a> {
    /// A file of bytes.
    pub fn bytes(name: impl Into<String>, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { name: name.into(), body: Body::Bytes(bytes.into()) }
    }
    /// A safetensors file.
    pub fn tensors(name: impl Into<String>, tensors: Vec<TensorOut<'a>>) -> Self {
        Self { name: name.into(), body: Body::Tensors(tensors, Vec::new()) }
    }
}

impl From<DType> for Dtype {
    fn from(d: DType) -> Self {
        match d {
            DType::F64 => Dtype::F64,
            DType::F32 => Dtype::F32,
            DType::BF16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
            DType::U32 => Dtype::U32,
        }
    }
}

/// A writer that counts and hashes its bytes.
struct Hashing {
    sink: Box<dyn Sink>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Hashing {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        // In pieces of 1 MiB, so that writing finds in the cache what hashing has read.
        for piece in bytes.chunks(1 << 20) {
            self.hasher.update(piece);
            self.sink.write_all(piece)?;
            self.bytes += piece.len() as u64;
        }
        Ok(())
    }
}

/// Writes a safetensors file at `path` and syncs it. The bytes do not depend on the order of the tensors.
///
/// Like the `safetensors` crate, it sorts tensors by width of type and then by name, so that every tensor is
/// aligned, and pads the header with spaces to a multiple of 8 bytes. `metadata` is added to `format = pt`,
/// which `transformers` requires.
///
/// # Errors
/// [`Kind::Shape`] for duplicate names and for bytes that do not match the shape; [`Kind::Diverged`] for
/// values that are not finite; [`Kind::Disk`] if the file cannot be written.
pub fn write_safetensors(
    fs: &dyn Fs,
    path: &Path,
    tensors: &[TensorOut<'_>],
    metadata: &[(String, String)],
) -> Result<Written> {
    let bad = |what: String| Error::shape(what).at(path);
    let mut order: Vec<&TensorOut> = tensors.iter().collect();
    order.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    let mut meta = BTreeMap::from([("format", "pt")]);
    meta.extend(metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    let json = |v: serde_json::Result<String>| v.map_err(|e| bad(format!("cannot encode the header: {e}")));

    let mut header = format!("{{\"__metadata__\":{}", json(serde_json::to_string(&meta))?);
    let (mut offset, mut names) = (0, BTreeSet::new());
    for t in &order {
        if !names.insert(&t.name) || t.name == "__metadata__" {
            return Err(bad(format!("tensor `{}` is given twice", t.name)));
        }
        let bits = t.shape.iter().try_fold(t.dtype.bitsize(), |n, &d| n.checked_mul(d));
        if bits.map(|b| b.div_ceil(8)) != Some(t.bytes.len()) {
            return Err(bad(format!("the bytes of tensor `{}` do not match its shape", t.name))
                .with_expected(format!("{:?} of {}", t.shape, t.dtype))
                .with_found(format!("{} bytes", t.bytes.len())));
        }
        if let Some(at) = convert::find_nonfinite(t.dtype, &t.bytes) {
            return Err(Error::diverged(format!("cannot save tensor `{}`: a value is not finite", t.name))
                .at(path)
                .with_found(format!("an infinity or NaN at element {at}, shape {:?}", t.shape))
                .with_help("training has diverged: lower optim.lr and start from an earlier checkpoint"));
        }
        let data_offsets = (offset, offset + t.bytes.len());
        offset = data_offsets.1;
        let info = TensorInfo { dtype: t.dtype, shape: t.shape.clone(), data_offsets };
        let (name, info) = (json(serde_json::to_string(&t.name))?, json(serde_json::to_string(&info))?);
        header.push_str(&format!(",{name}:{info}"));
    }
    header.push('}');
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    write_hashed(fs, path, |out| {
        out.put(&(header.len() as u64).to_le_bytes())?;
        out.put(header.as_bytes())?;
        order.iter().try_for_each(|t| out.put(&t.bytes))
    })
}

fn write_hashed(
    fs: &dyn Fs,
    path: &Path,
    body: impl FnOnce(&mut Hashing) -> std::io::Result<()>,
) -> Result<Written> {
    let run = || {
        let mut out = Hashing { sink: fs.create(path)?, hasher: blake3::Hasher::new(), bytes: 0 };
        body(&mut out)?;
        out.sink.sync()?;
        Ok(Written { bytes: out.bytes, blake3: out.hasher.finalize() })
    };
    run().map_err(|e| unwritable(path, &e))
}

/// Writes a small file, completely or not at all, replacing an existing one.
///
/// # Errors
/// [`Kind::Disk`] if it cannot be written; an existing file is then unchanged.
pub fn write_file(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> Result<()> {
    replace_with(fs, path, |out| out.write_all(bytes)).map_err(|e| unwritable(path, &e))
}

pub(super) fn unwritable(path: &Path, e: &std::io::Error) -> Error {
    Error::io(Kind::Disk, "cannot write", path, e)
        .with_help("check the free space of the disk and the permissions of the folder")
}

/// Writes the files into the new folder `dir` and syncs each. Returns length and hash by name.
pub(super) fn write_files(
    fs: &dyn Fs,
    dir: &Path,
    files: &[NamedFile<'_>],
) -> Result<BTreeMap<String, Written>> {
    fs.mkdir(dir).map_err(|e| unwritable(dir, &e))?;
    let mut written = BTreeMap::new();
    for file in files {
        let path = dir.join(&file.name);
        if !plain(&file.name) || written.contains_key(&file.name) {
            return Err(Error::shape(format!(
                "the file name {:?} is a duplicate or names a folder",
                file.name
            ))
            .at(dir));
        }
        let w = match &file.body {
            Body::Bytes(bytes) => write_hashed(fs, &path, |out| out.put(bytes))?,
            Body::Tensors(tensors, metadata) => write_safetensors(fs, &path, tensors, metadata)?,
        };
        written.insert(file.name.clone(), w);
    }
    Ok(written)
}

/// Replaces the folder `target`, if it exists, by the complete folder `temp`.
///
/// A folder cannot be renamed over another, so the old one is first renamed to `target.old-<pid>`, and
/// renamed back if the second rename fails. If the process is killed between the two, `target.old-<pid>` is
/// complete and [`restore`] handles it.
pub(super) fn publish(fs: &dyn Fs, temp: &Path, target: &Path) -> Result<()> {
    let fail = |e: std::io::Error| unwritable(target, &e);
    let old = sibling(target, "old");
    let there = target.symlink_metadata().is_ok();
    if there {
        if old.symlink_metadata().is_ok() {
            // An earlier attempt failed after its rename. `target` is complete, so the folder it replaced is
            // not needed.
            remove_any(fs, &old).map_err(fail)?;
        }
        fs.rename(target, &old).map_err(fail)?;
    }
    fs.rename(temp, target).map_err(|e| {
        if there {
            let _ = fs.rename(&old, target);
        }
        fail(e)
    })?;
    fs.sync_dir(parent(target)).map_err(fail)?;
    if there {
        // If this fails, the next start removes it.
        let _ = remove_any(fs, &old);
    }
    Ok(())
}

/// After a kill during [`publish`]: renames the old folder back, or removes it if the new folder is in place.
pub(super) fn restore(fs: &dyn Fs, old: &Path, target: &Path) -> std::io::Result<()> {
    if target.symlink_metadata().is_ok() { remove_any(fs, old) } else { fs.rename(old, target) }
}

/// Writes a folder, completely or not at all. A file may be in a subfolder, such as `1_Pooling/config.json`.
///
/// The files are written to `<path>.tmp-<pid>`, synced, and renamed to `path`. A folder that was there is
/// removed afterwards.
///
/// # Errors
/// [`Kind::Disk`] if a file cannot be written; [`Kind::Diverged`] for a tensor that is not finite. `path` is
/// then unchanged.
pub fn write_dir(fs: &dyn Fs, path: &Path, files: &[NamedFile<'_>]) -> Result<()> {
    write_whole(fs, path, files, false)
}

/// As [`write_dir`], with a manifest, so that [`verify`](super::verify) can detect damage.
///
/// # Errors
/// Those of [`write_dir`].
pub fn write_model(fs: &dyn Fs, path: &Path, files: &[NamedFile<'_>]) -> Result<()> {
    write_whole(fs, path, files, true)
}

fn write_whole(fs: &dyn Fs, path: &Path, files: &[NamedFile<'_>], manifest: bool) -> Result<()> {
    let temp = sibling(path, "tmp");
    let run = || {
        let above = parent(path);
        fs.mkdir(above).map_err(|e| unwritable(above, &e))?;
        if temp.symlink_metadata().is_ok() {
            remove_any(fs, &temp).map_err(|e| unwritable(&temp, &e))?;
        }
        let (below, here): (Vec<_>, Vec<_>) = files.iter().cloned().partition(|f| f.name.contains('/'));
        let mut written = write_files(fs, &temp, &here)?;
        let mut folders: BTreeMap<String, Vec<NamedFile>> = BTreeMap::new();
        for file in below {
            let (folder, name) = file.name.split_once('/').unwrap_or_default();
            let (folder, name) = (folder.to_owned(), name.to_owned());
            folders.entry(folder).or_default().push(NamedFile { name, ..file });
        }
        for (folder, files) in &folders {
            let path = temp.join(folder);
            if !plain(folder) || path.symlink_metadata().is_ok() {
                return Err(Error::shape(format!(
                    "the folder name {folder:?} is taken by a file or is nested"
                ))
                .at(&temp));
            }
            let inside = write_files(fs, &path, files)?;
            written.extend(inside.into_iter().map(|(name, w)| (format!("{folder}/{name}"), w)));
            fs.sync_dir(&path).map_err(|e| unwritable(&path, &e))?;
        }
        if manifest {
            let text = render(&written)?;
            write_files(fs, &temp, &[NamedFile::bytes(MANIFEST, text)])?;
        }
        fs.sync_dir(&temp).map_err(|e| unwritable(&temp, &e))?;
        publish(fs, &temp, path)
    };
    run().inspect_err(|_| {
        let _ = remove_any(fs, &temp);
    })
}
