//! Reads Hugging Face weights: `model.safetensors`, or an index with its shards, in the format of the
//! safetensors specification (8 bytes of header length, a JSON header, the data).
//!
//! The `safetensors` crate checks offsets, shapes, holes and overlaps. This module also refuses very large
//! headers, duplicate names, very many tensors and empty tensors of absurd shape, before it reads the data,
//! and values that are not finite.

use super::{Dtype, convert, json};
use crate::error::{Error, Kind, Result};
use rayon::prelude::*;
use safetensors::tensor::Metadata;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// The largest header that is read, in bytes. The header of a model of 10 000 tensors has about 1.5 MB.
pub const MAX_HEADER: u64 = 25_000_000;
/// The largest number of tensors in one model, over all shards.
pub const MAX_TENSORS: usize = 10_000;
/// The weights file of a model folder.
pub const SINGLE: &str = "model.safetensors";
/// The index file of weights in several shards.
pub const INDEX: &str = "model.safetensors.index.json";

/// The weights of a model, in memory in the format of the file.
#[derive(Debug, Default)]
pub struct Weights {
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Place>,
    allow_nonfinite: bool,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    /// Where the data starts in the file.
    start: u64,
    data: Vec<u8>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Place {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// The bytes in the shard's data. Reading the header checked that they exist and match the shape.
    range: std::ops::Range<usize>,
}

/// One tensor: row-major, little-endian, without alignment.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The element type.
    pub dtype: Dtype,
    /// The dimensions, outermost first.
    pub shape: &'a [usize],
    /// The bytes of the elements.
    pub bytes: &'a [u8],
}

impl Weights {
    /// Reads the weights of a model folder, of one `.safetensors` file, or of one `.safetensors.index.json`
    /// with its shards.
    ///
    /// # Errors
    /// [`Kind::Model`] if the files cannot be read or are damaged; [`Kind::Memory`] if they do not fit into
    /// memory.
    ///
    /// ```
    /// use tempra::checkpoint::Weights;
    ///
    /// let weights = Weights::open("tests/golden/bert/a/model.safetensors")?;
    /// let bias = weights.f32("classifier.bias")?;
    /// assert_eq!(bias.len(), 3);
    /// # Ok::<(), tempra::error::Error>(())
    /// ```
    pub fn open(path: impl AsRef<Path>) -> Result<Weights> {
        let path = path.as_ref();
        let meta = std::fs::metadata(path).map_err(|e| unreadable(path, &e))?;
        if !meta.is_dir() {
            let index = path.file_name().is_some_and(|n| n.to_string_lossy().ends_with(".index.json"));
            return if index {
                Self::open_index(path)
            } else {
                Self::open_files(&[path.to_path_buf()], None)
            };
        }
        let (single, index) = (path.join(SINGLE), path.join(INDEX));
        if single.symlink_metadata().is_ok() {
            Self::open_files(&[single], None)
        } else if index.symlink_metadata().is_ok() {
            Self::open_index(&index)
        } else {
            Err(no_weights(path))
        }
    }

    /// Checks the header of one safetensors file, and the file's length against it. Reads no data.
    ///
    /// # Errors
    /// [`Kind::Model`] if the file cannot be read or is damaged.
    pub fn check(path: &Path) -> Result<()> {
        Header::read(path).map(drop)
    }

    fn open_index(index: &Path) -> Result<Weights> {
        let bad = |what: String| Error::model(what).at(index);
        let value = json::read_json(index, MAX_HEADER)?;
        let map = value.get("weight_map").and_then(|m| m.as_object());
        let map = map.ok_or_else(|| {
            bad("the index has no `weight_map`".into())
                .with_expected("an object that maps tensor names to shard files")
                .with_help("download the model again")
        })?;
        let mut shard_of = BTreeMap::new();
        let mut files: Vec<&str> = Vec::new();
        for (name, file) in map {
            let file = file.as_str().unwrap_or_default();
            let mut parts = Path::new(file).components();
            let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
            if !plain || file.contains(['/', '\\', ':', '\0']) {
                return Err(bad(format!("the shard of tensor `{name}` is not in the model folder"))
                    .with_expected("a file name without a folder")
                    .with_found(map.get(name).map(|v| v.to_string()).unwrap_or_default())
                    .with_help("download the model again"));
            }
            files.push(file);
            shard_of.insert(name.as_str(), file);
        }
        files.sort_unstable();
        files.dedup();
        let dir = index.parent().unwrap_or(Path::new(""));
        let paths: Vec<PathBuf> = files.iter().map(|f| dir.join(f)).collect();
        for path in &paths {
            if let Err(e) = std::fs::metadata(path) {
                return Err(bad(format!("the index names {}, which cannot be read", path.display()))
                    .with_found(e.to_string())
                    .with_help("download the model again"));
            }
        }
        Self::open_files(&paths, Some((index, &shard_of)))
    }

    fn open_files(paths: &[PathBuf], index: Option<(&Path, &BTreeMap<&str, &str>)>) -> Result<Weights> {
        let mut weights = Weights { shards: Vec::new(), tensors: BTreeMap::new(), allow_nonfinite: false };
        // All headers before any data: faults are found before memory is allocated.
        let mut headers = Vec::new();
        for (shard, path) in paths.iter().enumerate() {
            let header = Header::read(path)?;
            for (name, info) in header.metadata.tensors() {
                if weights.tensors.len() >= MAX_TENSORS {
                    return Err(too_many(path));
                }
                let place = Place {
                    shard,
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    range: info.data_offsets.0..info.data_offsets.1,
                };
                match weights.tensors.entry(name) {
                    Slot::Vacant(slot) => slot.insert(place),
                    Slot::Occupied(slot) => {
                        return Err(Error::model(format!("tensor `{}` is in two shards", slot.key()))
                            .at(path)
                            .with_help("download the model again"));
                    }
                };
            }
            headers.push(header);
        }
        if let Some((index, shard_of)) = index {
            weights.agrees_with(index, shard_of, paths)?;
        }
        for (header, path) in headers.into_iter().zip(paths) {
            weights.shards.push(header.read_data(path)?);
        }
        Ok(weights)
    }

    /// Checks that the index and the shards agree; otherwise a tensor could silently be missing.
    fn agrees_with(&self, index: &Path, shard_of: &BTreeMap<&str, &str>, paths: &[PathBuf]) -> Result<()> {
        let file = |p: &Place| paths.get(p.shard).and_then(|p| p.file_name()).and_then(|f| f.to_str());
        for (name, want) in shard_of {
            let found = self.tensors.get(*name).and_then(file);
            if found != Some(want) {
                let found = found.unwrap_or("the tensor in none of the shards");
                return Err(Error::model(format!(
                    "tensor `{name}` is not in the shard that the index names"
                ))
                .at(index)
                .with_expected(*want)
                .with_found(found)
                .with_help("download the model again"));
            }
        }
        match self.tensors.iter().find(|(name, _)| !shard_of.contains_key(name.as_str())) {
            Some((name, p)) => {
                Err(Error::model(format!("tensor `{name}` is in a shard, but not in the index"))
                    .at(index)
                    .with_found(file(p).unwrap_or_default())
                    .with_help("download the model again"))
            }
            None => Ok(()),
        }
    }

    /// Sets whether [`Weights::f32_into`] accepts infinities and NaN. The default is `false`.
    pub fn allow_nonfinite(mut self, allow: bool) -> Self {
        self.allow_nonfinite = allow;
        self
    }

    /// A hash of all tensors with their names. It does not depend on how they are distributed over files.
    pub fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for (name, place) in &self.tensors {
            hasher.update(format!("{name} {:?} {:?} ", place.dtype, place.shape).as_bytes());
            let bytes = self.shards.get(place.shard).and_then(|s| s.data.get(place.range.clone()));
            hasher.update(bytes.unwrap_or_default());
        }
        hasher.finalize()
    }

    /// The names of the tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// A tensor by its name.
    pub fn get(&self, name: &str) -> Option<View<'_>> {
        let p = self.tensors.get(name)?;
        let bytes = self.shards.get(p.shard)?.data.get(p.range.clone())?;
        Some(View { dtype: p.dtype, shape: &p.shape, bytes })
    }

    /// The value of a key of the file's `__metadata__`, from the first shard that has the key.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.shards.iter().find_map(|s| s.metadata.get(key)).map(String::as_str)
    }

    /// The file that holds a tensor, for messages.
    pub fn file(&self, name: &str) -> Option<&Path> {
        let shard = self.tensors.get(name)?.shard;
        self.shards.get(shard).map(|s| s.path.as_path())
    }

    /// Converts the tensor `name` (F64, F32, F16 or BF16) into `out`, which has as many elements.
    ///
    /// # Errors
    /// [`Kind::Model`] if there is no such tensor, it has another type, or a value is not finite as f32
    /// (unless [`Weights::allow_nonfinite`] is set); [`Kind::Shape`] if `out` has another length. After an
    /// error `out` may be partly written.
    pub fn f32_into(&self, name: &str, out: &mut [f32]) -> Result<()> {
        let missing = || Error::model(format!("there is no tensor `{name}`"));
        let place = self.tensors.get(name).ok_or_else(|| match self.shards.first() {
            Some(s) => missing().at(&s.path),
            None => missing(),
        })?;
        let shard = self.shards.get(place.shard).ok_or_else(missing)?;
        let view = self.get(name).ok_or_else(missing)?;
        let size = convert::float_size(view.dtype).ok_or_else(|| {
            Error::model(format!("tensor `{name}` has the type {}, which is not supported", view.dtype))
                .at(&shard.path)
                .with_expected("F32, F16, BF16 or F64")
                .with_help("choose a model whose weights are floating-point numbers, not quantized")
        })?;
        let len = view.bytes.len() / size;
        if len != out.len() {
            return Err(Error::shape(format!("tensor `{name}` does not have the length of its buffer"))
                .at(&shard.path)
                .with_expected(format!("{} elements", out.len()))
                .with_found(format!("{len} elements, shape {:?}", view.shape)));
        }
        let Some(at) = convert::to_f32(view.dtype, view.bytes, out, !self.allow_nonfinite) else {
            return Ok(());
        };
        let value = match view.bytes.get(at * 8..at * 8 + 8).and_then(|b| b.try_into().ok()) {
            Some(b) if view.dtype == Dtype::F64 => f64::from_le_bytes(b),
            _ => out.get(at).copied().unwrap_or_default() as f64,
        };
        Err(Error::model(format!("tensor `{name}` has a value that is not finite as f32"))
            .at(&shard.path)
            .with_byte(shard.start + (place.range.start + at * size) as u64)
            .with_found(format!("{value} at element {at}, shape {:?}", view.shape))
            .with_help(
                "use an earlier checkpoint or another copy: the file is damaged, or training diverged",
            ))
    }

    /// As [`Weights::f32_into`], into a new vector.
    ///
    /// # Errors
    /// Those of [`Weights::f32_into`].
    pub fn f32(&self, name: &str) -> Result<Vec<f32>> {
        let len = self.get(name).map_or(0, |v| v.shape.iter().product());
        let mut out = vec![0.0; len];
        self.f32_into(name, &mut out)?;
        Ok(out)
    }
}

struct Header {
    file: File,
    start: u64,
    metadata: Metadata,
}

impl Header {
    fn read(path: &Path) -> Result<Header> {
        let meta = std::fs::metadata(path).map_err(|e| unreadable(path, &e))?;
        if !meta.is_file() {
            // Checked before opening: opening a named pipe would block forever.
            return Err(Error::model("not a regular file").at(path).with_expected("a safetensors file"));
        }
        let mut file = File::open(path).map_err(|e| unreadable(path, &e))?;
        let mut magic = Vec::with_capacity(64);
        (&mut file).take(64).read_to_end(&mut magic).map_err(|e| unreadable(path, &e))?;
        let damaged = |what: &str| {
            Error::model(format!("the weights file {what}"))
                .at(path)
                .with_expected("a complete safetensors file")
                .with_help("download the model again, or restore the file from a backup")
        };
        let length = magic.first_chunk().map(|b| u64::from_le_bytes(*b));
        let starts_right = length.is_some_and(|n| n <= MAX_HEADER) && magic.get(8) == Some(&b'{');
        if !starts_right {
            // A pickle may have any file name; the contents decide.
            if let Some(kind) = foreign(&magic) {
                return Err(refuse(path, kind));
            }
        }
        let Some(length) = length else {
            return Err(
                damaged("is too short to be a safetensors file").with_found(format!("{} bytes", meta.len()))
            );
        };
        if length > MAX_HEADER {
            return Err(damaged("has a header that is too long")
                .with_expected(format!("a header of at most {MAX_HEADER} bytes"))
                .with_found(format!("a header of {length} bytes")));
        }
        let start = 8 + length;
        if start > meta.len() {
            return Err(damaged("ends before the end of its header")
                .with_expected(format!("at least {start} bytes"))
                .with_found(format!("{} bytes", meta.len())));
        }
        let mut header = magic.split_off(8);
        header.truncate(length as usize);
        let rest = length - header.len() as u64;
        if rest > 0 {
            (&mut file).take(rest).read_to_end(&mut header).map_err(|e| unreadable(path, &e))?;
        } else {
            use std::io::{Seek, SeekFrom};
            file.seek(SeekFrom::Start(start)).map_err(|e| unreadable(path, &e))?;
        }
        // An entry is about 11 values; the metadata counts as one more member.
        let limits = json::Limits { values: 32 * MAX_TENSORS, members: MAX_TENSORS + 1 };
        let in_header = |e: &serde_json::Error| {
            damaged("has an invalid header").with_found(format!("in the header: {e}"))
        };
        json::check(&header, limits).map_err(|e| in_header(&e))?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| in_header(&e))?;
        let (want, have) = (metadata.data_len() as u64, meta.len() - start);
        if want != have {
            let what = if want > have { "is truncated" } else { "has bytes after its last tensor" };
            return Err(damaged(what)
                .with_expected(format!("{want} bytes of data"))
                .with_found(format!("{have} bytes")));
        }
        for (name, info) in metadata.tensors() {
            // A tensor without elements has no data, so its other dimensions can be anything.
            let empty = info.data_offsets.0 == info.data_offsets.1;
            if empty && info.shape.iter().any(|&n| n as u64 > MAX_HEADER) {
                return Err(damaged(&format!("has a tensor `{name}` of absurd shape"))
                    .with_found(format!("shape {:?} without elements", info.shape)));
            }
        }
        Ok(Header { file, start, metadata })
    }

    fn read_data(self, path: &Path) -> Result<Shard> {
        let len = self.metadata.data_len();
        // Tried first, because the next line would abort; and not `resize`, which touches every page on one
        // thread.
        if Vec::<u8>::new().try_reserve_exact(len).is_err() {
            return Err(Error::memory(format!("not enough memory for the weights: {len} bytes"))
                .at(path)
                .with_help("close other programs, or choose a smaller model"));
        }
        let mut data: Vec<u8> = vec![0; len];
        crate::device::cpu::prefer_huge(data.as_ptr(), len);
        fill(&self.file, self.start, &mut data).map_err(|e| unreadable(path, &e))?;
        let metadata = self.metadata.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Shard { path: path.to_path_buf(), start: self.start, data, metadata })
    }
}

/// Fills `out` from byte `start` of a file with several threads. Most of the time is spent in the kernel's
/// page faults, which threads share.
#[cfg(unix)]
fn fill(file: &File, start: u64, out: &mut [u8]) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    const PIECE: usize = 4 << 20;
    let piece = |(i, out): (usize, &mut [u8])| file.read_exact_at(out, start + (i * PIECE) as u64);
    out.par_chunks_mut(PIECE).enumerate().try_for_each(piece)
}

#[cfg(not(unix))]
fn fill(mut file: &File, start: u64, out: &mut [u8]) -> std::io::Result<()> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(out)
}

fn unreadable(path: &Path, e: &std::io::Error) -> Error {
    Error::io(Kind::Model, "cannot read the weights", path, e)
}

fn too_many(path: &Path) -> Error {
    Error::model("the weights have too many tensors")
        .at(path)
        .with_expected(format!("at most {MAX_TENSORS}"))
        .with_help("choose a smaller model")
}

/// The format of a file that is not safetensors, from its first bytes.
fn foreign(magic: &[u8]) -> Option<&'static str> {
    const MAGIC: &[(&[u8], &str)] = &[
        (b"PK\x03\x04", "a zip archive (a pickle of PyTorch)"),
        (b"\x80\x02", "a pickle"),
        (b"\x80\x03", "a pickle"),
        (b"\x80\x04", "a pickle"),
        (b"\x80\x05", "a pickle"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)"),
        (b"GGUF", "a GGUF file (llama.cpp)"),
        (b"\x7fELF", "a program"),
        (b"version https://git-lfs", "a git-lfs pointer, not the file itself"),
        (b"<", "a web page"),
    ];
    MAGIC.iter().find(|(m, _)| magic.starts_with(m)).map(|(_, kind)| *kind)
}

fn refuse(path: &Path, kind: &str) -> Error {
    let dir = crate::files::parent(path);
    let hint = match kind {
        _ if kind.contains("git-lfs") => "run `git lfs pull` in that folder".into(),
        _ if kind.contains("web page") || kind.contains("program") => "download the model again".into(),
        _ => conversion(dir),
    };
    Error::model(format!("the weights file is {kind}"))
        .at(path)
        .with_expected("a safetensors file")
        .with_help(hint)
}

/// The command that converts a checkpoint that transformers can load into safetensors, beside the old files.
fn conversion(dir: &Path) -> String {
    let dir = dir.display().to_string().replace('\\', "\\\\").replace('\'', "\\'");
    format!(
        "if you trust the file, convert it: python -c \"from transformers import AutoModel; \
         AutoModel.from_pretrained('{dir}').save_pretrained('{dir}', safe_serialization=True)\""
    )
}

fn no_weights(dir: &Path) -> Error {
    let missing = Error::model("the model folder has no safetensors weights")
        .at(dir)
        .with_expected(format!("{SINGLE} or {INDEX}"));
    let old = |name: &str| {
        let lower = name.to_ascii_lowercase();
        [".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".gguf"].iter().any(|end| lower.ends_with(end))
    };
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = names.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort_unstable();
    match names.iter().find(|n| old(n)) {
        Some(name) => missing
            .with_found(match name.ends_with(".h5") || name.ends_with(".gguf") {
                true => format!("{name}, a format that tempra does not read"),
                false => format!("{name}, a pickle: tempra reads none, because reading one can run code"),
            })
            .with_help(conversion(dir)),
        None => missing.with_help("name a folder that holds config.json and the weights of a model"),
    }
}
