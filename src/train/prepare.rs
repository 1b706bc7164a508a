//! From a recipe to everything a run needs: data as tokens, a model on a device, the steps of every epoch.

use super::memory::{Job, MemoryPlan};
use super::recipe::{self, ClassWeights, Recipe};
use super::window;
use crate::cache;
use crate::data::{
    self, BatchOptions, BatchSize, Columns, Label, OnBadRow, Row, Table, Target, TokenSet, epoch,
};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::models::{Attention, LoadReport, Model, Options, encoder_shape, source};
use crate::nn::{EncoderConfig, Pooling};
use crate::parity::Certificate;
use crate::tasks::{Classify, Regress, Task};
use crate::text::Tokenizer;
use std::path::Path;
use std::sync::Arc;

/// Everything a run needs.
pub struct Run {
    /// Where it computes.
    pub device: Device,
    /// What is trained.
    pub model: Model,
    /// What became of the model's tensors.
    pub weights: LoadReport,
    /// Strings to ids.
    pub tokenizer: Tokenizer,
    /// Labels to loss and scores.
    pub task: Box<dyn Task>,
    /// The classes, if it is a classification.
    pub classes: Vec<String>,
    /// The training examples, which the loader reads beside the loop.
    pub train: Arc<TokenSet>,
    /// The validation examples, if there are any.
    pub validation: Option<TokenSet>,
    /// The test examples, if there are any.
    pub test: Option<TokenSet>,
    /// Rows that were skipped because they could not be read.
    pub skipped_rows: u64,
    /// Hash of everything the examples are made from.
    pub data_hash: String,
    /// What training takes of the device's memory.
    pub memory: MemoryPlan,
}

/// A split before it becomes tokens.
struct Split {
    rows: Vec<Row>,
    labels: Vec<Label>,
}

impl Run {
    /// The digest of the certificate that `tempra verify` issued for the device with these kernels, if all was right.
    pub fn verified(&self) -> Option<String> {
        let found = Certificate::kept(&cache::dir()?, &self.device)?;
        found.passed().then(|| found.digest())
    }
    /// Reads the data, opens the model, makes tokens.
    pub fn prepare(recipe: &Recipe) -> Result<Run> {
        let device = Device::open(&recipe.device.to_string(), recipe.threads)?;
        let device = device.with_compute(recipe.precision.dtype())?;
        let d = &recipe.data;
        let columns = Columns { text: d.text.clone(), pair: d.pair.clone(), label: Some(d.label.clone()) };
        let on_bad = match d.on_bad_row {
            recipe::OnBadRow::Stop => OnBadRow::Stop,
            recipe::OnBadRow::Skip => OnBadRow::Skip,
        };
        let read = |path: &Path| data::read(path, &columns, on_bad);
        let table = read(&d.train)?;
        let validation = d.validation.as_deref().map(read).transpose()?;
        let test = d.test.as_deref().map(read).transpose()?;
        let tables = [Some(&table), validation.as_ref(), test.as_ref()];
        let skipped_rows = tables.iter().flatten().map(|t| t.bad_count).sum();

        let target = match recipe.task {
            recipe::Task::Classify => {
                Target::classes(&table, Some(&d.classes[..]).filter(|c| !c.is_empty()))?
            }
            recipe::Task::Regress => Target::Regress,
        };
        let labelled = |t: Table| -> Result<Split> { Ok(Split { labels: target.labels(&t)?, rows: t.rows }) };
        let hashes: Vec<String> = tables.iter().flatten().map(|t| t.hash.clone()).collect();
        let (validation, test) = (validation.map(labelled).transpose()?, test.map(labelled).transpose()?);
        let [train, validation, test] = share(recipe, labelled(table)?, validation, test)?;
        let Some(train) = train else { return Err(Error::data("no training examples").at(&d.train)) };

        let (task, classes): (Box<dyn Task>, _) = match target {
            Target::Regress => (Box::new(Regress), Vec::new()),
            Target::Classify { classes } => {
                let class_weights = match &recipe.loss.class_weights {
                    None => None,
                    Some(ClassWeights::Balanced) => Some(Classify::balanced(&train.labels, classes.len())),
                    Some(ClassWeights::Values(w)) if w.len() == classes.len() => Some(w.clone()),
                    Some(ClassWeights::Values(w)) => {
                        return Err(Error::usage("loss.class_weights has the wrong length")
                            .expected(format!("one for each of {}", classes.join(", ")))
                            .found(w.len().to_string()));
                    }
                };
                let label_smoothing = recipe.loss.label_smoothing as f32;
                (Box::new(Classify { classes: classes.clone(), label_smoothing, class_weights }), classes)
            }
        };

        let dir = source::resolve(&recipe.model.path)?;
        let options = options(recipe, task.as_ref());
        let shape = encoder_shape(&dir)?;
        if d.max_length > shape.positions {
            return Err(Error::usage("data.max_length is more than the model can read")
                .expected(format!("at most {}", shape.positions))
                .found(d.max_length.to_string()));
        }
        let cache = if d.cache { cache::dir().map(|dir| dir.join("tokens")) } else { None };
        let tokens = || -> Result<_> {
            let tokenizer = Tokenizer::from_dir(&dir, shape.vocab)?;
            fits_types(&tokenizer, &shape, d.pair.is_some())?;
            let encode =
                |s: Split| TokenSet::build(&tokenizer, &s.rows, s.labels, d.max_length, cache.as_deref());
            let sets = (encode(train)?, validation.map(encode).transpose()?, test.map(encode).transpose()?);
            Ok((tokenizer, sets))
        };
        let plan = |set: &TokenSet| {
            let t = &recipe.train;
            let job = Job {
                shape: &shape,
                options: &options,
                task: &*task,
                set,
                batch: t.batch_tokens.map_or(BatchSize::Sequences(t.batch_size), BatchSize::Tokens),
                accumulation: t.accumulation,
                max_tokens: t.max_tokens,
                window: window(&device),
            };
            job.check(&device.caps())
        };
        let (opened, made, memory) = if device.caps().gpu {
            // What does not fit is refused before anything is put there.
            let made = tokens()?;
            let memory = plan(&made.1.0)?;
            (Model::open(&device, &dir, &options), Ok(made), Some(memory))
        } else {
            // Texts and weights are read side by side: each takes as long as the other.
            std::thread::scope(|scope| {
                let made = scope.spawn(tokens);
                let opened = Model::open(&device, &dir, &options);
                let made = made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                (opened, made, None)
            })
        };
        let ((model, weights), (tokenizer, (train, validation, test))) = (opened?, made?);
        let memory = memory.map_or_else(|| plan(&train), Ok)?;

        let made_from =
            format!("{hashes:?} {} {:?}", tokenizer.hash(), (&classes, d.max_length, d.split_seed));
        let data_hash = blake3::hash(made_from.as_bytes()).to_hex().to_string();
        Ok(Run {
            device,
            model,
            weights,
            tokenizer,
            task,
            classes,
            train: Arc::new(train),
            validation,
            test,
            skipped_rows,
            data_hash,
            memory,
        })
    }

    /// The optimizer steps up to the end of each epoch; the last entry is the length of the run.
    pub fn plan(&self, recipe: &Recipe) -> Result<Vec<u64>> {
        let (mut ends, mut steps) = (Vec::new(), 0u64);
        let epochs = recipe.train.epochs;
        loop {
            let index = ends.len() as u64;
            let here = epoch_of(&self.train, recipe, index)?.len() as u64;
            let whole = steps + here;
            match recipe.train.max_steps {
                Some(max) if whole >= max => {
                    ends.push(max);
                    return Ok(ends);
                }
                Some(_) => {}
                None if (index + 1) as f64 >= epochs => {
                    let part = (epochs - index as f64).clamp(0.0, 1.0) * here as f64;
                    ends.push(steps + part.ceil() as u64);
                    return Ok(ends);
                }
                None => {}
            }
            ends.push(whole);
            steps = whole;
        }
    }
}

/// The examples of every optimizer step of an epoch.
pub(super) fn epoch_of(set: &TokenSet, recipe: &Recipe, index: u64) -> Result<Vec<Vec<u32>>> {
    let t = &recipe.train;
    let batch = t.batch_tokens.map_or(BatchSize::Sequences(t.batch_size), BatchSize::Tokens);
    let options = BatchOptions { batch, group_by_length: t.group_by_length, drop_last: false };
    epoch(&set.lengths(), recipe.seed, index, &options)
}

/// Takes validation and test shares off the training rows where no files were given.
fn share(
    recipe: &Recipe,
    train: Split,
    validation: Option<Split>,
    test: Option<Split>,
) -> Result<[Option<Split>; 3]> {
    let d = &recipe.data;
    let fraction = |given: bool, share: f64| if given { 0.0 } else { share };
    let (v, t) =
        (fraction(validation.is_some(), d.validation_fraction), fraction(test.is_some(), d.test_fraction));
    let mut parts = vec![1.0 - v - t];
    parts.extend([v, t].into_iter().filter(|&f| f > 0.0));
    if parts.len() == 1 {
        return Ok([Some(train), validation, test]);
    }
    let by_class = (recipe.task == recipe::Task::Classify).then_some(&train.labels[..]);
    let mut cut = data::split(&train.rows, &parts, by_class, d.split_seed)?.into_iter();
    let mut take = || {
        let indices = cut.next()?;
        let rows = indices.iter().filter_map(|&i| train.rows.get(i).cloned()).collect();
        let labels = indices.iter().filter_map(|&i| train.labels.get(i).copied()).collect();
        Some(Split { rows, labels })
    };
    let rest = take();
    let validation = if v > 0.0 { take() } else { validation };
    let test = if t > 0.0 { take() } else { test };
    Ok([rest, validation, test])
}

fn options(recipe: &Recipe, task: &dyn Task) -> Options {
    let m = &recipe.model;
    Options {
        outputs: Some(task.outputs()),
        pooling: match m.pooling {
            recipe::Pooling::Auto => None,
            recipe::Pooling::Cls => Some(Pooling::Cls),
            recipe::Pooling::Mean => Some(Pooling::Mean),
        },
        attention: match m.attention {
            recipe::Attention::Auto => None,
            recipe::Attention::Exact => Some(Attention::Exact),
            recipe::Attention::Performer => {
                Some(Attention::Performer { features: m.attention_features, redraw: m.attention_redraw })
            }
        },
        dropout: m.dropout,
        attention_dropout: m.attention_dropout,
        classifier_dropout: m.classifier_dropout,
        freeze: m.freeze.clone(),
        layer_lr_decay: recipe.optim.layer_lr_decay as f32,
        seed: recipe.seed,
        training: true,
        ..Options::default()
    }
}

/// Refuses a tokenizer that numbers the texts of a pair differently where the model has one type for both. RoBERTa's
/// separates them by tokens alone; a model without types (DistilBERT) does not look.
fn fits_types(tokenizer: &Tokenizer, shape: &EncoderConfig, pair: bool) -> Result<()> {
    let types = tokenizer.encode("", pair.then_some(""), tokenizer.special_tokens(pair))?.types;
    let most = types.into_iter().max().unwrap_or(0) as usize;
    if shape.types == 0 || most < shape.types {
        return Ok(());
    }
    Err(Error::model(
        "the tokenizer does not belong to this model, which cannot tell two texts apart by type",
    )
    .expected(format!("token types below {}, type_vocab_size of the model's config.json", shape.types))
    .found(format!("type {most}")))
}
