//! The teacher of a distillation (Hinton et al. 2015): a trained classifier whose outputs for the training
//! examples are targets of a smaller model, the student.
//!
//! A teacher runs without dropout, so that its outputs are the same in every epoch. They are computed once,
//! before the student is opened, and kept in memory like labels: the teacher takes no memory while the
//! student trains. On disk they are kept under a hash of everything that they depend on: the teacher's
//! weights and config, the tokens of the examples, the device, its precision, and how examples are batched.
//! A hit gives the bits that computing would give.

use crate::data::{TokenSet, eval_batches};
use crate::device::{Caps, Device, Meta};
use crate::error::{Error, Result};
use crate::files;
use crate::models::{Model, ModelShape, Options, Outputs, encoder_shape, folder_hash, saved_outputs};
use crate::tasks::for_each_output;
use crate::text::Tokenizer;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Goes into the key and the file: a change of either's meaning needs a new number.
const VERSION: &[u8; 16] = b"tempra teacher 1";

/// The logits of a teacher for the examples of a set, (examples, classes), in the student's order of classes.
#[derive(Clone, Debug)]
pub struct SoftTargets {
    logits: Arc<[f32]>,
    classes: usize,
}

impl SoftTargets {
    /// Logits (examples, classes) of 0: what a memory plan counts with.
    pub fn zeros(examples: usize, classes: usize) -> SoftTargets {
        SoftTargets { logits: vec![0.0; examples * classes].into(), classes }
    }
    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }
    /// The logits of some examples, (examples, classes).
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for an example that the set does not have.
    pub fn of(&self, examples: &[u32]) -> Result<Vec<f64>> {
        let mut all = Vec::with_capacity(examples.len() * self.classes);
        for &example in examples {
            let first = example as usize * self.classes;
            let row = self.logits.get(first..first + self.classes).ok_or_else(|| {
                Error::shape(format!("the teacher has no output for example {example}"))
                    .with_expected(format!("an index below {}", self.logits.len() / self.classes.max(1)))
            })?;
            all.extend(row.iter().map(|&v| v as f64));
        }
        Ok(all)
    }
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

/// A folder with a trained classifier that fits a student.
#[derive(Clone, Debug)]
pub struct Teacher {
    dir: PathBuf,
    /// Hash of its weights and config.
    pub hash: String,
    /// For each of the student's classes, which of its outputs has that name.
    order: Vec<usize>,
}

impl Teacher {
    /// Finds the teacher in a folder and checks that it fits the student: the same classes, in any order, the
    /// same tokenizer, and room for sequences of `longest` tokens.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) for a folder that holds no classifier, or one that does not
    /// fit.
    pub fn find(dir: &Path, classes: &[String], tokenizer: &Tokenizer, longest: usize) -> Result<Teacher> {
        let shape = encoder_shape(dir)?;
        let names = match &saved_outputs(dir)?[..] {
            [(_, Outputs::Classes(names))] => names.clone(),
            other => {
                let found: Vec<String> = other.iter().map(|(_, outputs)| format!("{outputs:?}")).collect();
                return Err(Error::model("the teacher is not a classifier")
                    .at(dir)
                    .with_expected("a model folder with one head that predicts one of several classes")
                    .with_found(if found.is_empty() { "no head".to_owned() } else { found.join(", ") })
                    .with_help("train the teacher with task = \"classify\" on the same classes"));
            }
        };
        let missing = |of: &[String], from: &[String]| -> Vec<String> {
            from.iter().filter(|name| !of.contains(name)).map(|name| format!("{name:?}")).collect()
        };
        let (lacks, more) = (missing(&names, classes), missing(classes, &names));
        if !lacks.is_empty() || !more.is_empty() {
            let lists = [("without", lacks), ("with", more)].into_iter().filter(|(_, all)| !all.is_empty());
            let found: Vec<String> = lists.map(|(word, all)| format!("{word} {}", all.join(", "))).collect();
            return Err(Error::model("the teacher has other classes than the student")
                .at(dir)
                .with_expected(format!("the classes {}, in any order", classes.join(", ")))
                .with_found(format!("{}: {}", names.join(", "), found.join(", ")))
                .with_help("train the teacher on these classes, or set data.classes to the teacher's"));
        }
        let own = Tokenizer::from_dir(dir, shape.vocab)?;
        if own.hash() != tokenizer.hash() {
            return Err(Error::model("the teacher has another tokenizer than the student")
                .at(dir)
                .with_expected(format!("tokenizer files with the hash {}", tokenizer.hash()))
                .with_found(own.hash())
                .with_help("choose a student with the teacher's tokenizer files, such as layers of the teacher: set model.path to its folder and model.layers"));
        }
        if longest > shape.positions {
            return Err(Error::model(format!("the teacher reads at most {} tokens", shape.positions))
                .at(dir)
                .with_expected(format!("{longest} positions for the longest training example"))
                .with_help(format!("set data.max_length = {}", shape.positions)));
        }
        let order = classes.iter().filter_map(|name| names.iter().position(|n| n == name)).collect();
        Ok(Teacher { dir: dir.to_path_buf(), hash: folder_hash(dir)?, order })
    }

    /// The bytes that computing the outputs takes on a device: the weights, without gradients and optimizer
    /// states, and the largest pass.
    ///
    /// # Errors
    /// Those of the ops' plans.
    pub fn plan(&self, caps: &Caps, set: &TokenSet, max_tokens: usize) -> Result<u64> {
        let meta = Meta::new(caps.clone());
        let device = meta.device();
        let classes = (0..self.order.len()).map(|class| class.to_string()).collect();
        let options = Options { outputs: Some(Outputs::Classes(classes)), ..Options::default() };
        let model = Model::unloaded(&device, &ModelShape::of(&self.dir, &options)?, &options)?;
        let largest = eval_batches(set, max_tokens, 0)?.into_iter().max_by_key(|batch| batch.ids.len());
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
        let key = self.key(&device.caps(), set, max_tokens);
        let count = set.len() * self.order.len();
        let path = cache.map(|dir| dir.join(format!("{}.logits", key.to_hex())));
        let kept = path.as_deref().and_then(|path| std::fs::read(path).ok());
        let read = kept.as_deref().map(|bytes| from_bytes(bytes, &key, count));
        let (logits, cached, mut warning) = match read {
            Some(Some(logits)) => (logits, true, None),
            damaged => {
                let warning = damaged.map(|_| {
                    Error::disk("the cached outputs of the teacher are damaged; they are computed again")
                        .at(path.as_deref().unwrap_or(Path::new("")))
                });
                (self.run(device, set, max_tokens)?, false, warning)
            }
        };
        if let Some(path) = path.filter(|_| !cached)
            && let Err(e) = files::replace(&path, &to_bytes(&logits, &key))
        {
            warning = Some(
                Error::disk("the outputs of the teacher could not be cached")
                    .at(&path)
                    .with_found(e.to_string()),
            );
        }
        let classes = self.order.len();
        let ordered = logits.chunks_exact(classes).flat_map(|row| self.order.iter().map(|&i| row[i]));
        Ok(Taught { targets: SoftTargets { logits: ordered.collect(), classes }, cached, warning })
    }

    /// The outputs in the teacher's order of classes.
    fn run(&self, device: &Device, set: &TokenSet, max_tokens: usize) -> Result<Vec<f32>> {
        let classes = self.order.len();
        let mut logits = vec![f32::NAN; set.len() * classes];
        let (model, _) = Model::open(device, &self.dir, &Options::default())?;
        for_each_output(device, &model, &eval_batches(set, max_tokens, 0)?, |batch, outputs| {
            let rows = outputs.first().map(Vec::as_slice).unwrap_or_default().chunks_exact(classes);
            for (&example, row) in batch.examples.iter().zip(rows) {
                logits[example as usize * classes..][..classes].copy_from_slice(row);
            }
            Ok(())
        })?;
        if logits.iter().any(|v| !v.is_finite()) {
            return Err(Error::diverged("the teacher gives outputs that are not finite")
                .at(&self.dir)
                .with_help("check the teacher with `tempra eval`, or use precision = \"f32\""));
        }
        // The student gets the memory that the teacher had.
        drop(model);
        device.trim()?;
        Ok(logits)
    }

    fn key(&self, caps: &Caps, set: &TokenSet, max_tokens: usize) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        let label = format!("{} {} {max_tokens} {}", self.hash, caps.label(), set.len());
        hasher.update(VERSION).update(&(label.len() as u64).to_le_bytes()).update(label.as_bytes());
        for list in [&set.offsets, &set.ids, &set.types] {
            for n in list {
                hasher.update(&n.to_le_bytes());
            }
        }
        hasher.finalize()
    }
}

/// `VERSION`, key, the logits, and BLAKE3 of all that; little endian.
fn to_bytes(logits: &[f32], key: &blake3::Hash) -> Vec<u8> {
    let mut bytes = VERSION.to_vec();
    bytes.extend(key.as_bytes());
    bytes.extend(logits.iter().flat_map(|v| v.to_le_bytes()));
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
