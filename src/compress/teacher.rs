//! The teacher of a distillation (Hinton et al. 2015): a trained model whose outputs for the training
//! examples are targets of a smaller model, the student.
//!
//! A teacher runs without dropout, so that its outputs are the same in every epoch. They are computed once,
//! before the student is opened, and kept in memory like labels: the teacher takes no memory while the
//! student trains. On disk they are kept under a hash of everything that they depend on: the teacher's
//! weights and config, the task, the tokens of the examples, the device, its precision, and how examples are
//! batched. A hit gives the bits that computing would give.

use crate::checkpoint::json::read_limited;
use crate::data::{Batch, TokenSet, eval_batches};
use crate::device::{Caps, Device, Meta};
use crate::error::{Error, Result};
use crate::files;
use crate::metrics::sigmoids;
use crate::models::{
    EncoderConfig, Model, ModelShape, Options, Outputs, encoder_shape, folder_hash, gives_vectors,
    saved_outputs, sentence,
};
use crate::tasks::{SoftOutput, Task, for_each_output, of_outputs};
use crate::text::Tokenizer;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Goes into the key and the file: a change of either's meaning needs a new number.
const VERSION: &[u8; 16] = b"tempra teacher 2";

/// The outputs of a teacher for the examples of a set: rows of one width, as many for each example as the
/// task compares, in the student's order of classes.
#[derive(Clone, Debug)]
pub struct SoftTargets {
    values: Arc<[f32]>,
    width: usize,
    /// Where the rows of each example begin, and where the last one ends: (examples + 1).
    rows: Arc<[usize]>,
}

impl SoftTargets {
    /// Outputs of 0 for the examples of a set: what a memory plan counts with. `width`: that of the student's
    /// vectors.
    pub fn zeros(set: &TokenSet, task: &dyn Task, width: usize) -> SoftTargets {
        let rows: Arc<[usize]> = task.soft().map(|soft| soft.rows(set)).unwrap_or_default().into();
        let width = columns(&task.outputs(), width);
        SoftTargets { values: vec![0.0; rows.last().unwrap_or(&0) * width].into(), width, rows }
    }
    /// The number of columns: classes, or the width of vectors.
    pub fn width(&self) -> usize {
        self.width
    }
    /// The rows of some examples, one after the other.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for an example that the set does not have.
    pub fn of(&self, examples: &[u32]) -> Result<Vec<f64>> {
        let mut all = Vec::with_capacity(examples.len() * self.width);
        for &example in examples {
            let bounds = self.rows.get(example as usize..).and_then(|rows| rows.get(..2));
            let values = bounds.and_then(|b| self.values.get(b[0] * self.width..b[1] * self.width));
            let values = values.ok_or_else(|| {
                Error::shape(format!("the teacher has no output for example {example}"))
                    .with_expected(format!("an index below {}", self.rows.len().saturating_sub(1)))
            })?;
            all.extend(values.iter().map(|&v| v as f64));
        }
        Ok(all)
    }
}

/// The columns of the output that is compared, of a model with vectors of this width.
fn columns(outputs: &Outputs, width: usize) -> usize {
    match outputs {
        // Whether the second text of a pair follows the first.
        Outputs::Pretraining(_) => 2,
        outputs => {
            if outputs.is_empty() {
                width
            } else {
                outputs.len()
            }
        }
    }
}

/// Checks that a teacher reads a student's tokens: the same tokenizer, for `vectors` with what
/// sentence-transformers does to texts, and room for sequences of `longest` tokens.
pub(super) fn fits_student(
    dir: &Path,
    teacher: &EncoderConfig,
    vectors: bool,
    tokenizer: &Tokenizer,
    longest: usize,
) -> Result<()> {
    let mut own = Tokenizer::from_dir(dir, teacher.vocab)?;
    if let Some(settings) = if vectors { sentence::settings(dir)? } else { None } {
        own = own.for_vectors(settings.lowercase, &settings.prompt)?;
    }
    if own.hash() != tokenizer.hash() {
        return Err(Error::model("the teacher has another tokenizer than the student")
            .at(dir)
            .with_expected(format!("tokenizer files with the hash {}", tokenizer.hash()))
            .with_found(own.hash())
            .with_help("choose a student with the teacher's tokenizer files, such as layers of the teacher: set model.path to its folder and model.layers"));
    }
    if longest > teacher.positions {
        return Err(Error::model(format!("the teacher reads at most {} tokens", teacher.positions))
            .at(dir)
            .with_expected(format!("{longest} positions for the longest training example"))
            .with_help(format!("set data.max_length = {}", teacher.positions)));
    }
    Ok(())
}

/// What a teacher gave.
#[derive(Debug)]
pub struct Taught {
    /// Its outputs.
    pub targets: SoftTargets,
    /// Whether they were read from the cache.
    pub cached: bool,
    /// What went wrong with the cache; the outputs are not affected.
    pub warning: Option<Error>,
}

/// A folder with a trained model that fits a student.
#[derive(Clone, Debug)]
pub struct Teacher {
    dir: PathBuf,
    /// Hash of its weights and config.
    pub hash: String,
    /// How it is opened.
    options: Options,
    /// The student's outputs.
    outputs: Outputs,
    /// Which of the teacher's outputs is compared, and how.
    soft: SoftOutput,
    /// For each of the student's columns, which of its own means the same.
    order: Vec<usize>,
}

impl Teacher {
    /// Finds the teacher in a folder and checks that it fits the student: a head for the same task, with the
    /// same classes in any order, or vectors of the same `width`; the same tokenizer; and room for sequences
    /// of `longest` tokens.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) for a folder that holds no such model;
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a task without outputs that can be kept.
    pub fn find(
        dir: &Path,
        task: &dyn Task,
        width: usize,
        tokenizer: &Tokenizer,
        longest: usize,
    ) -> Result<Teacher> {
        let shape = encoder_shape(dir)?;
        let outputs = task.outputs();
        let soft = task.soft().ok_or_else(|| {
            Error::usage("distill.teacher does not work with this task")
                .with_expected("a task whose inputs are the same in every epoch")
                .with_help("remove [distill]")
        })?;
        let vectors = outputs == Outputs::Embedding;
        let order = match vectors {
            true => fits_vectors(dir, shape.hidden, width)?,
            false => fits_head(dir, &outputs)?,
        };
        fits_student(dir, &shape, vectors, tokenizer, longest)?;
        let options = Options { outputs: vectors.then_some(Outputs::Embedding), ..Options::default() };
        let (dir, hash) = (dir.to_path_buf(), folder_hash(dir)?);
        Ok(Teacher { dir, hash, options, outputs, soft, order })
    }

    /// For each of the student's outputs, which of the teacher's it is compared with.
    pub fn order(&self) -> &[usize] {
        &self.order
    }
    /// The bytes that computing the outputs takes on a device: the weights, without gradients and optimizer
    /// states, and the largest pass.
    ///
    /// # Errors
    /// Those of the ops' plans.
    pub fn plan(&self, caps: &Caps, set: &TokenSet, max_tokens: usize) -> Result<u64> {
        let meta = Meta::new(caps.clone());
        let device = meta.device();
        let options = Options { outputs: Some(self.outputs.clone()), ..Options::default() };
        let model = Model::unloaded(&device, &ModelShape::of(&self.dir, &options)?, &options)?;
        let largest = self.batches(set, max_tokens)?.into_iter().max_by_key(|batch| batch.ids.len());
        let batches: Vec<_> = largest.into_iter().collect();
        for_each_output(&device, &model, &batches, |_, _| Ok(()))?;
        Ok(meta.usage().reserved)
    }

    /// The outputs for all examples of a set, in passes of at most `max_tokens` tokens. They are read from
    /// the folder `cache` if it has them, and written there otherwise; a damaged file is written again.
    ///
    /// # Errors
    /// Those of [`Model::open`] and of the model's ops.
    pub fn teach(
        &self,
        device: &Device,
        set: &TokenSet,
        max_tokens: usize,
        cache: Option<&Path>,
    ) -> Result<Taught> {
        let key = self.key(&device.caps(), set, max_tokens)?;
        let (rows, width) = (self.soft.rows(set), self.order.len());
        let count = rows.last().unwrap_or(&0) * width;
        let path = cache.map(|dir| dir.join(format!("{}.outputs", key.to_hex())));
        let kept = path.as_deref().and_then(|path| std::fs::read(path).ok());
        let read = kept.as_deref().map(|bytes| from_bytes(bytes, &key, count));
        let (values, cached, mut warning) = match read {
            Some(Some(values)) => (values, true, None),
            damaged => {
                let warning = damaged.map(|_| {
                    Error::disk("the cached outputs of the teacher are damaged; they are computed again")
                        .at(path.as_deref().unwrap_or(Path::new("")))
                });
                (self.run(device, set, max_tokens, &rows)?, false, warning)
            }
        };
        if let Some(path) = path.filter(|_| !cached)
            && let Err(e) = files::replace(&path, &to_bytes(&values, &key))
        {
            warning = Some(
                Error::disk("the outputs of the teacher could not be cached")
                    .at(&path)
                    .with_found(e.to_string()),
            );
        }
        let ordered = values.chunks_exact(width.max(1)).flat_map(|row| self.order.iter().map(|&i| row[i]));
        let targets = SoftTargets { values: ordered.collect(), width, rows: rows.into() };
        Ok(Taught { targets, cached, warning })
    }

    /// The passes over a set.
    fn batches(&self, set: &TokenSet, max_tokens: usize) -> Result<Vec<Batch>> {
        let mut batches = eval_batches(set, max_tokens, 0)?;
        if matches!(self.outputs, Outputs::Pretraining(_)) {
            // Logits of the vocabulary are not needed, but those of no token cannot be asked for.
            batches.iter_mut().for_each(|batch| batch.masked = vec![0]);
        }
        Ok(batches)
    }

    /// The outputs in the teacher's order of classes, example after example; `rows` as in [`SoftTargets`].
    fn run(&self, device: &Device, set: &TokenSet, max_tokens: usize, rows: &[usize]) -> Result<Vec<f32>> {
        let width = self.order.len();
        let mut values = vec![f32::NAN; rows.last().unwrap_or(&0) * width];
        let (model, _) = Model::open(device, &self.dir, &self.options)?;
        for_each_output(device, &model, &self.batches(set, max_tokens)?, |batch, outputs| {
            let of_batch = outputs.get(self.soft.output).map(Vec::as_slice).unwrap_or_default();
            let mut rest = match model.sigmoid() {
                true => sigmoids(of_batch).into_iter().map(|p| p as f32).collect(),
                false => of_batch.to_vec(),
            };
            for &example in batch.examples.iter().rev() {
                let (from, to) = (rows[example as usize] * width, rows[example as usize + 1] * width);
                let at = rest.len().checked_sub(to - from).ok_or_else(|| {
                    Error::shape("the teacher gives fewer outputs than its batch needs").at(&self.dir)
                })?;
                values[from..to].copy_from_slice(&rest[at..]);
                rest.truncate(at);
            }
            Ok(())
        })?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::diverged("the teacher gives outputs that are not finite")
                .at(&self.dir)
                .with_help("check the teacher with `tempra eval`, or use precision = \"f32\""));
        }
        // The student gets the memory that the teacher had.
        drop(model);
        device.trim()?;
        Ok(values)
    }

    fn key(&self, caps: &Caps, set: &TokenSet, max_tokens: usize) -> Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        let task = of_outputs(&self.outputs).map_or("", |entry| entry.name);
        // Two settings that stand beside config.json: how vectors are pooled, what follows a single number.
        let pooling = ModelShape::of(&self.dir, &self.options)?.pooling;
        let beside = self.dir.join("config_sentence_transformers.json");
        let beside = if beside.exists() { read_limited(&beside, LARGEST)? } else { Vec::new() };
        let label = format!(
            "{} {task} {pooling:?} {} {} {max_tokens} {}",
            self.hash,
            blake3::hash(&beside),
            caps.label(),
            set.len()
        );
        hasher.update(VERSION).update(&(label.len() as u64).to_le_bytes()).update(label.as_bytes());
        for list in [&set.offsets, &set.ids, &set.types, &set.cuts] {
            hasher.update(&(list.len() as u64).to_le_bytes());
            for n in list {
                hasher.update(&n.to_le_bytes());
            }
        }
        Ok(hasher.finalize())
    }
}

/// The largest file beside the config that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// The order of a teacher's columns, of a head for the same task.
fn fits_head(dir: &Path, wanted: &Outputs) -> Result<Vec<usize>> {
    let task = of_outputs(wanted).map_or("", |entry| entry.name);
    let saved = saved_outputs(dir)?;
    let (own, classes) = match (&saved[..], wanted) {
        ([(_, Outputs::Classes(own))], Outputs::Classes(classes))
        | ([(_, Outputs::Labels(own))], Outputs::Labels(classes))
        | ([(_, Outputs::Tags(own))], Outputs::Tags(classes)) => (own, classes),
        ([(_, own)], wanted) if own == wanted => return Ok((0..columns(wanted, 0)).collect()),
        (other, _) => {
            let kind = |outputs: &Outputs| of_outputs(outputs).map_or("", |entry| entry.name);
            let found: Vec<String> =
                other.iter().map(|(_, outputs)| format!("a head for task {:?}", kind(outputs))).collect();
            return Err(Error::model("the teacher has another kind of outputs than the student")
                .at(dir)
                .with_expected(format!("a model folder with one head, for task {task:?}"))
                .with_found(if found.is_empty() { "no head".to_owned() } else { found.join(", ") })
                .with_help(format!("train the teacher with task = {task:?}")));
        }
    };
    let missing = |of: &[String], from: &[String]| -> Vec<String> {
        from.iter().filter(|name| !of.contains(name)).map(|name| format!("{name:?}")).collect()
    };
    let (lacks, more) = (missing(own, classes), missing(classes, own));
    if !lacks.is_empty() || !more.is_empty() {
        let lists = [("without", lacks), ("with", more)].into_iter().filter(|(_, all)| !all.is_empty());
        let found: Vec<String> = lists.map(|(word, all)| format!("{word} {}", all.join(", "))).collect();
        return Err(Error::model("the teacher has other classes than the student")
            .at(dir)
            .with_expected(format!("the classes {}, in any order", classes.join(", ")))
            .with_found(format!("{}: {}", own.join(", "), found.join(", ")))
            .with_help("train the teacher on these classes, or set data.classes to the teacher's"));
    }
    Ok(classes.iter().filter_map(|name| own.iter().position(|n| n == name)).collect())
}

/// The order of a teacher's columns, of vectors of the same width.
fn fits_vectors(dir: &Path, width: usize, wanted: usize) -> Result<Vec<usize>> {
    if !gives_vectors(dir) && sentence::settings(dir)?.is_none() {
        return Err(Error::model("the teacher was not trained for text embeddings")
            .at(dir)
            .with_expected("a model folder of task \"similar\" or of sentence-transformers")
            .with_help("train the teacher with task = \"similar\""));
    }
    if width != wanted {
        return Err(Error::model("the teacher's vectors have another width than the student's")
            .at(dir)
            .with_expected(format!("{wanted} columns"))
            .with_found(width.to_string())
            .with_help("choose a student of the teacher's hidden size, such as layers of the teacher: set model.path to its folder and model.layers"));
    }
    Ok((0..wanted).collect())
}

/// `VERSION`, key, the outputs, and BLAKE3 of all that; little endian.
fn to_bytes(values: &[f32], key: &blake3::Hash) -> Vec<u8> {
    let mut bytes = VERSION.to_vec();
    bytes.extend(key.as_bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    let hash = blake3::hash(&bytes);
    bytes.extend(hash.as_bytes());
    bytes
}

/// `None` if anything at all is not as [`to_bytes`] writes it.
fn from_bytes(bytes: &[u8], key: &blake3::Hash, count: usize) -> Option<Vec<f32>> {
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(blake3::OUT_LEN)?)?;
    let values = body.strip_prefix(VERSION)?.strip_prefix(key.as_bytes())?;
    let whole = blake3::hash(body).as_bytes() == hash && values.len() == count.checked_mul(4)?;
    let read = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    whole.then(|| values.chunks_exact(4).map(read).collect())
}
