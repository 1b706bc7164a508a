//! Reads HF weights: `model.safetensors`, or an index with its shards. Layout: safetensors' own specification
//! (8 bytes of header length, a JSON header, the data).
//!
//! The `safetensors` crate checks offsets, shapes, holes and overlaps. Added here is what it lets through: a header of
//! 100 MB, a name given twice, tensors by the hundred thousand, empty tensors of absurd shape, and values that are not
//! finite. All of it is checked before the data is read.

use super::{Dtype, convert, json};
use crate::error::{Error, Kind, Result};
use rayon::prelude::*;
use safetensors::tensor::Metadata;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// The largest header that is read; that of a model of 10 000 tensors has about 1.5 MB.
pub const MAX_HEADER: u64 = 25_000_000;
/// The most tensors in one model, over all its shards.
pub const MAX_TENSORS: usize = 10_000;
/// The file of weights in a model folder.
pub const SINGLE: &str = "model.safetensors";
/// The index of weights in several files.
pub const INDEX: &str = "model.safetensors.index.json";

/// The weights of a model, in memory as they lie in the file.
#[derive(Debug)]
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
    /// Bytes in the shard's data; the header's check saw to it that they exist and fit the shape.
    range: std::ops::Range<usize>,
}

/// One tensor: row-major, little-endian, aligned to nothing.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The type of one element.
    pub dtype: Dtype,
    /// Extents, slowest first.
    pub shape: &'a [usize],
    /// The elements.
    pub bytes: &'a [u8],
}

impl Weights {
    /// Reads the weights of a model folder, or one `.safetensors` file, or one `.safetensors.index.json` with its
    /// shards. Errors are of kind `Model`, or `Memory` if there is no room for the file.
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

    /// Checks the header of one safetensors file and the file's length against it; reads no data.
    pub fn check(path: &Path) -> Result<()> {
        Header::read(path).map(drop)
    }

    fn open_index(index: &Path) -> Result<Weights> {
        let bad = |what: String| Error::model(what).at(index);
        let value = json::read_json(index, MAX_HEADER)?;
        let map = value.get("weight_map").and_then(|m| m.as_object());
        let map =
            map.ok_or_else(|| bad("has no `weight_map`".into()).with_expected("tensor name -> shard file"))?;
        let mut shard_of = BTreeMap::new();
        let mut files: Vec<&str> = Vec::new();
        for (name, file) in map {
            let file = file.as_str().unwrap_or_default();
            let mut parts = Path::new(file).components();
            let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
            if !plain || file.contains(['/', '\\', ':', '\0']) {
                return Err(bad(format!("tensor `{name}` is said to lie outside the model folder"))
                    .with_expected("the plain name of a file beside the index")
                    .with_found(format!("{:?}", map.get(name).map(|v| v.to_string()).unwrap_or_default())));
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
                return Err(bad("names a shard that cannot be read".into())
                    .with_expected(path.display().to_string())
                    .with_found(e.to_string())
                    .with_help("download the model again"));
            }
        }
        Self::open_files(&paths, Some((index, &shard_of)))
    }

    fn open_files(paths: &[PathBuf], index: Option<(&Path, &BTreeMap<&str, &str>)>) -> Result<Weights> {
        let mut weights = Weights { shards: Vec::new(), tensors: BTreeMap::new(), allow_nonfinite: false };
        // All headers before any data: what is wrong is known before memory is taken.
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
                        return Err(
                            Error::model(format!("tensor `{}` stands in two shards", slot.key())).at(path)
                        );
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

    /// The index and the shards must tell the same story, or a tensor would silently be missing.
    fn agrees_with(&self, index: &Path, shard_of: &BTreeMap<&str, &str>, paths: &[PathBuf]) -> Result<()> {
        let file = |p: &Place| paths.get(p.shard).and_then(|p| p.file_name()).and_then(|f| f.to_str());
        for (name, want) in shard_of {
            let found = self.tensors.get(*name).and_then(file);
            if found != Some(want) {
                let found = found.unwrap_or("in none of the shards");
                return Err(Error::model(format!("tensor `{name}` is not where the index says"))
                    .at(index)
                    .with_expected(*want)
                    .with_found(found));
            }
        }
        match self.tensors.iter().find(|(name, _)| !shard_of.contains_key(name.as_str())) {
            Some((name, p)) => {
                Err(Error::model(format!("tensor `{name}` is in a shard, but not in the index"))
                    .at(index)
                    .with_found(file(p).unwrap_or_default()))
            }
            None => Ok(()),
        }
    }

    /// Whether [`Weights::f32_into`] accepts infinities and NaN; it does not unless told so.
    pub fn allow_nonfinite(mut self, allow: bool) -> Self {
        self.allow_nonfinite = allow;
        self
    }

    /// A hash of all tensors, by name: the same however they are spread over files.
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

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// A tensor by its name.
    pub fn get(&self, name: &str) -> Option<View<'_>> {
        let p = self.tensors.get(name)?;
        let bytes = self.shards.get(p.shard)?.data.get(p.range.clone())?;
        Some(View { dtype: p.dtype, shape: &p.shape, bytes })
    }

    /// The `__metadata__` of the file (of the first shard that has the key).
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.shards.iter().find_map(|s| s.metadata.get(key)).map(String::as_str)
    }

    /// The file a tensor lies in, for messages.
    pub fn file(&self, name: &str) -> Option<&Path> {
        let shard = self.tensors.get(name)?.shard;
        self.shards.get(shard).map(|s| s.path.as_path())
    }

    /// Converts the tensor `name` (F64, F32, F16 or BF16) into `out`, which has one place an element.
    ///
    /// Refuses values that are not finite as an f32, naming the first, unless [`Weights::allow_nonfinite`] was set;
    /// `out` is then partly written.
    pub fn f32_into(&self, name: &str, out: &mut [f32]) -> Result<()> {
        let missing = || Error::model(format!("tensor `{name}` is not there"));
        let place = self.tensors.get(name).ok_or_else(|| match self.shards.first() {
            Some(s) => missing().at(&s.path),
            None => missing(),
        })?;
        let shard = self.shards.get(place.shard).ok_or_else(missing)?;
        let view = self.get(name).ok_or_else(missing)?;
        let size = convert::float_size(view.dtype).ok_or_else(|| {
            Error::model(format!("tensor `{name}` does not hold floating-point numbers of a known type"))
                .at(&shard.path)
                .with_expected("F32, F16, BF16 or F64")
                .with_found(view.dtype.to_string())
        })?;
        let len = view.bytes.len() / size;
        if len != out.len() {
            return Err(Error::shape(format!("tensor `{name}` does not fit the buffer it is read into"))
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
        Err(Error::model(format!("tensor `{name}` holds a value that is not finite in f32"))
            .at(&shard.path)
            .with_byte(shard.start + (place.range.start + at * size) as u64)
            .with_found(format!("{value} at element {at}, shape {:?}", view.shape))
            .with_help(
                "the weights are damaged or diverged in training: take an earlier checkpoint or another copy",
            ))
    }

    /// As [`Weights::f32_into`], into a new vector.
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
            // Asked before opening: opening a named pipe would wait for ever.
            return Err(Error::model("is not a file").at(path).with_expected("a safetensors file"));
        }
        let mut file = File::open(path).map_err(|e| unreadable(path, &e))?;
        let mut magic = Vec::with_capacity(64);
        (&mut file).take(64).read_to_end(&mut magic).map_err(|e| unreadable(path, &e))?;
        let damaged = |what: &str| Error::model(what).at(path).with_expected("a whole safetensors file");
        let length = magic.first_chunk().map(|b| u64::from_le_bytes(*b));
        let starts_right = length.is_some_and(|n| n <= MAX_HEADER) && magic.get(8) == Some(&b'{');
        if !starts_right {
            // A pickle or the like goes by any name; what is inside decides.
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
            return Err(
                damaged("has a header that is too long").with_found(format!("a header of {length} bytes"))
            );
        }
        let start = 8 + length;
        if start > meta.len() {
            return Err(damaged("ends within its header").with_found(format!("{} bytes", meta.len())));
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
            damaged(&format!("has a header that is not as it should be: {e}"))
                .with_found("(lines and columns are the header's)")
        };
        json::check(&header, limits).map_err(|e| in_header(&e))?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| in_header(&e))?;
        let (want, have) = (metadata.data_len() as u64, meta.len() - start);
        if want != have {
            let what = if want > have { "is cut short" } else { "has bytes behind its last tensor" };
            return Err(damaged(what)
                .with_expected(format!("{want} bytes of data"))
                .with_found(format!("{have}")));
        }
        for (name, info) in metadata.tensors() {
            // Without elements any shape fits the data, and a buffer for its other extents would be absurd.
            let empty = info.data_offsets.0 == info.data_offsets.1;
            if empty && info.shape.iter().any(|&n| n as u64 > MAX_HEADER) {
                return Err(damaged(&format!("tensor `{name}` is empty, but of absurd shape"))
                    .with_found(format!("shape {:?}", info.shape)));
            }
        }
        Ok(Header { file, start, metadata })
    }

    fn read_data(self, path: &Path) -> Result<Shard> {
        let len = self.metadata.data_len();
        // Asked for first, since the next line would abort; and not `resize`, which touches every page on one thread.
        if Vec::<u8>::new().try_reserve_exact(len).is_err() {
            return Err(Error::memory("there is no room for the weights")
                .at(path)
                .with_found(format!("{len} bytes")));
        }
        let mut data: Vec<u8> = vec![0; len];
        crate::device::cpu::prefer_huge(data.as_ptr(), len);
        fill(&self.file, self.start, &mut data).map_err(|e| unreadable(path, &e))?;
        let metadata = self.metadata.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Shard { path: path.to_path_buf(), start: self.start, data, metadata })
    }
}

/// Fills `out` from byte `start` of a file, several threads at once: most of the time goes into the kernel's handing
/// out of fresh pages, which a single thread cannot hurry.
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
    Error::io(Kind::Model, "cannot be read", path, e)
}

fn too_many(path: &Path) -> Error {
    Error::model("holds too many tensors").at(path).with_expected(format!("at most {MAX_TENSORS}"))
}

/// What a file is that is not safetensors, by its first bytes.
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
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let hint = match kind {
        _ if kind.contains("git-lfs") => "run `git lfs pull` in that folder".into(),
        _ if kind.contains("web page") || kind.contains("program") => "download the model again".into(),
        _ => conversion(dir),
    };
    Error::model(format!("is {kind}")).at(path).with_expected("safetensors").with_found(kind).with_help(hint)
}

/// The command that turns any checkpoint transformers can load into safetensors, beside the old files.
fn conversion(dir: &Path) -> String {
    let dir = dir.display().to_string().replace('\\', "\\\\").replace('\'', "\\'");
    format!(
        "convert it where you trust it: python -c \"from transformers import AutoModel; \
         AutoModel.from_pretrained('{dir}').save_pretrained('{dir}', safe_serialization=True)\""
    )
}

fn no_weights(dir: &Path) -> Error {
    let missing = Error::model("holds no weights").at(dir).with_expected(format!("{SINGLE} or {INDEX}"));
    let old = |name: &str| {
        let lower = name.to_ascii_lowercase();
        [".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".gguf"].iter().any(|end| lower.ends_with(end))
    };
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = names.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort_unstable();
    match names.iter().find(|n| old(n)) {
        Some(name) => missing
            .with_found(format!("{name}, which is not read: a pickle runs code"))
            .with_help(conversion(dir)),
        None => missing.with_help("give the folder of a model, with config.json and its weights"),
    }
}
