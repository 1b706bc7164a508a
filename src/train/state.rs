//! The state of a run: what a checkpoint holds beside the weights, so that going on is bit for bit as if
//! never stopped.
//!
//! Random numbers are functions of (seed, step, place), so no generator needs saving; the order of examples
//! is a function of (seed, epoch).

use super::epochs::Epochs;
use super::history::History;
use super::prepare::Run;
use super::recipe::Recipe;
use crate::checkpoint::json::read_limited;
use crate::checkpoint::{NamedFile, TensorOut, Weights};
use crate::compress::prune::write_mask;
use crate::device::Tensor;
use crate::error::{Error, Result};
use crate::metrics::Scores;
use crate::optim::{LossScale, Optimizer};
use crate::shape::DType;
use crate::tasks::{METADATA, ModelMetadata};
use half::f16;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The file of a checkpoint with the optimizer's states.
const STATES: &str = "optimizer.safetensors";

/// The best validation so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The step it was scored at.
    pub step: u64,
    /// All its scores.
    pub scores: Scores,
}

/// What a checkpoint's `state.json` holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// The version of tempra that wrote it.
    pub version: String,
    /// Steps done, skipped ones included.
    pub step: u64,
    /// Updates made by the optimizer.
    pub updates: u64,
    /// The loss scale, in f16.
    #[serde(default)]
    pub loss_scale: Option<LossScale>,
    /// The best validation so far.
    pub best: Option<Best>,
    /// The last validation.
    #[serde(default)]
    pub last: Option<Best>,
    /// Of several tasks the best validation of each by its own metric, by the task's name.
    #[serde(default)]
    pub best_of: BTreeMap<String, Best>,
    /// Validations since the best one.
    pub without_improvement: u64,
    /// Steps skipped in a row because something was not finite.
    pub nonfinite_in_a_row: u64,
    /// Steps skipped in all.
    pub nonfinite: u64,
    /// Training ended by early stopping.
    pub stopped_early: bool,
    /// Sum of the losses since the last line of the log, as the bits of an f64 (it may be a NaN, which JSON
    /// cannot say), and how many they are.
    pub window: (u64, u64),
    /// The optimizer; empty in a checkpoint of a version that had one only.
    #[serde(default)]
    pub optimizer: String,
    /// Hash of the recipe.
    pub recipe_hash: String,
    /// Hash of what the examples are made from.
    pub data_hash: String,
    /// Hash of the model that the run started from; empty in a checkpoint of a version that did not keep it.
    #[serde(default)]
    pub model_hash: String,
    /// Hash of the teacher's weights and config; empty without a teacher.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub teacher_hash: String,
    /// The kind of device it was written on.
    pub backend: String,
}

impl TrainerState {
    /// The state before the first step.
    pub fn new(recipe: &Recipe, run: &Run) -> TrainerState {
        TrainerState {
            version: env!("CARGO_PKG_VERSION").into(),
            optimizer: recipe.optim.optimizer.name.into(),
            recipe_hash: recipe.hash(),
            data_hash: run.data_hash.clone(),
            model_hash: run.weights.hash.clone(),
            teacher_hash: run.teacher.as_ref().map(|t| t.hash.clone()).unwrap_or_default(),
            backend: backend(run).into(),
            ..TrainerState::default()
        }
    }

    /// The files of a checkpoint: the model folder, the optimizer's states by name, this state, and the log
    /// with what [`TrainerState::for_transformers`] gave.
    ///
    /// # Errors
    /// [`Kind::Disk`](crate::error::Kind::Disk) if the state cannot be written as JSON;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn files(
        &self,
        recipe: &Recipe,
        run: &Run,
        optimizer: &Optimizer,
        log: &Value,
        history: &History,
    ) -> Result<Vec<NamedFile<'static>>> {
        let mut files = model_files(recipe, run)?;
        let tensor = |name: &str, t: &Tensor| -> Result<TensorOut<'static>> {
            let values = run.device.read::<f32>(t)?;
            let bytes: Vec<u8> = bytemuck::cast_slice(&values).to_vec();
            Ok(TensorOut {
                name: name.into(),
                dtype: DType::F32.into(),
                shape: vec![values.len()],
                bytes: bytes.into(),
            })
        };
        let states = optimizer.states().iter().map(|s| tensor(s.name, &s.tensor));
        // The model's folder has them in other units, rounded.
        let params = &run.model.params;
        let exact = run.model.converted();
        let exact = exact.into_iter().map(|p| tensor(&p.name, &params.value(p)?));
        let masks = params.masks().iter().map(|m| -> Result<TensorOut<'static>> {
            let values = run.device.read_reals(&m.mask)?;
            let bytes: Vec<u8> = values.iter().flat_map(|&v| f16::from_f64(v).to_le_bytes()).collect();
            Ok(TensorOut {
                name: m.name(),
                dtype: Dtype::F16,
                shape: m.mask.spec.shape.clone(),
                bytes: bytes.into(),
            })
        });
        let tensors = states.chain(exact).chain(masks).collect::<Result<Vec<_>>>()?;
        // SGD without momentum has no state.
        if !tensors.is_empty() {
            files.push(NamedFile::tensors(STATES, tensors));
        }
        let state = serde_json::to_value(self).map_err(|e| {
            Error::disk("the state of the run cannot be written as JSON").with_found(e.to_string())
        })?;
        files.push(NamedFile::bytes("state.json", pretty(&state)));
        let mut log = log.clone();
        log["log_history"] = history.entries().cloned().collect();
        files.push(NamedFile::bytes("trainer_state.json", pretty(&log)));
        Ok(files)
    }

    /// What scripts that plot transformers' runs read, without the log.
    /// `best_is_kept`: the best step has a checkpoint.
    pub fn for_transformers(&self, recipe: &Recipe, epochs: &Epochs, best_is_kept: bool) -> Value {
        let metric = recipe.train.best_metric.as_str();
        json!({
            "epoch": epochs.passed(self.step),
            "global_step": self.step,
            "max_steps": epochs.total(),
            "num_train_epochs": epochs.ends.len(),
            "train_batch_size": recipe.train.batch_size,
            "best_metric": self.best.as_ref().and_then(|b| b.scores.get(metric)),
            "best_global_step": self.best.as_ref().map(|b| b.step),
            "best_model_checkpoint": self.best.as_ref().filter(|_| best_is_kept).map(|b| format!("checkpoint-{}", b.step)),
            "is_world_process_zero": true,
        })
    }

    /// The validation scores of the weights at this very step, if they were scored.
    pub fn scores_here(&self) -> Option<Best> {
        // Checkpoints of earlier versions know the best validation only.
        self.last.iter().chain(&self.best).find(|v| v.step == self.step).cloned()
    }

    /// The state that a checkpoint holds.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) if it cannot be read.
    pub fn read(dir: &Path) -> Result<TrainerState> {
        let path = dir.join("state.json");
        // Earlier versions kept the whole log in it, which had no limit.
        let bytes = read_limited(&path, 4 << 30)?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Error::model("this file does not hold the state of a run").at(&path).with_found(e.to_string())
        })
    }

    /// Goes back to a checkpoint that has been verified: weights, the optimizer's states, and the state,
    /// which is returned.
    ///
    /// A checkpoint of another recipe, of other data or of another model is refused: going on would be
    /// neither the one run nor the other.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) for files that hold no state of a run;
    /// [`Kind::Usage`](crate::error::Kind::Usage) for another recipe, data or model.
    pub fn restore(
        dir: &Path,
        recipe: &Recipe,
        run: &Run,
        optimizer: &mut Optimizer,
    ) -> Result<TrainerState> {
        let state = TrainerState::read(dir)?;
        let fresh = TrainerState::new(recipe, run);
        let other = |what: &str| {
            Error::usage(format!("the run in this folder cannot be resumed: {what}"))
                .at(dir)
                .with_help("choose another output folder, or start over in this one with --fresh")
        };
        if state.recipe_hash != fresh.recipe_hash {
            let e = other("it was started with another recipe");
            // Without the recipe of the run, the state still knows the optimizer.
            let optimizers = || {
                let [new, old] = [&fresh.optimizer, &state.optimizer];
                let differ = !old.is_empty() && new != old;
                differ.then(|| format!("optim.optimizer = {new:?}, earlier {old:?}"))
            };
            return Err(match changes(dir, recipe, &state.recipe_hash).or_else(optimizers) {
                Some(changes) => e.with_found(changes),
                None => e,
            });
        }
        if state.data_hash != fresh.data_hash {
            return Err(other("its data files or its tokenizer have changed since"));
        }
        if state.model_hash != fresh.model_hash && !state.model_hash.is_empty() {
            let started = format!("{} had other weights or another config.json then", recipe.model.path);
            return Err(other("it was started from another model").with_found(started));
        }
        if state.teacher_hash != fresh.teacher_hash {
            let path = run.teacher.as_ref().map(|t| t.path.as_str()).unwrap_or_default();
            let started = format!("{path} had other weights or another config.json then");
            return Err(other("it was started with another teacher").with_found(started));
        }
        load_weights(dir, run)?;
        if !optimizer.states().is_empty() {
            let states = Weights::open(dir.join(STATES))?;
            for s in optimizer.states() {
                let (values, len) = (states.f32(s.name)?, s.tensor.spec.len());
                let found = values.len();
                // Earlier versions had a place for frozen parameters, too.
                let earlier = || run.model.params.layout().trained_of_all(&values);
                let values = if found == len { Some(values) } else { earlier() };
                let values = values.ok_or_else(|| {
                    Error::model(format!(
                        "the optimizer state `{}` does not have the size of the parameters",
                        s.name
                    ))
                    .at(dir.join(STATES))
                    .with_expected(format!("{len} elements"))
                    .with_found(format!("{found} elements"))
                    .with_help("resume from another checkpoint, or start over with --fresh")
                })?;
                run.device.write(&s.tensor, &values)?;
            }
            // Those of earlier versions would move masked weights.
            optimizer.zero_masked_states(&run.device, &run.model.params)?;
        }
        optimizer.resume(&run.device, state.updates)?;
        optimizer.loss_scale = state.loss_scale.or(optimizer.loss_scale);
        Ok(state)
    }
}

/// The keys in which a recipe differs from the one that the run of a checkpoint was started with; `None` if
/// that cannot be read beside the checkpoint, or is not the one whose hash the checkpoint has.
fn changes(checkpoint: &Path, recipe: &Recipe, hash: &str) -> Option<String> {
    let kept = Recipe::load(&checkpoint.parent()?.join("recipe.toml"), &[]).ok()?;
    let differ = if kept.hash() == hash { recipe.differences(&kept) } else { Vec::new() };
    (!differ.is_empty()).then(|| differ.join("; "))
}

/// Overwrites a run's weights and masks with those of a checkpoint.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) for weights that do not fit;
/// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
pub fn load_weights(dir: &Path, run: &Run) -> Result<()> {
    let weights = Weights::open(dir.join("model.safetensors"))?;
    let params = &run.model.params;
    for p in params.layout().list.iter().filter(|p| p.is_exported()) {
        let mut values = vec![0f32; p.len()];
        weights.f32_into(&p.name, &mut values)?;
        run.device.write(&params.value(p)?, &p.from_file(values))?;
    }
    // What the folder does not hold, or in other units, rounded, stands beside the optimizer's states as it
    // was.
    let mut exact = None;
    for p in run.model.converted() {
        let weights = match &exact {
            Some(weights) => weights,
            None => exact.insert(Weights::open(dir.join(STATES))?),
        };
        let mut values = vec![0f32; p.len()];
        weights.f32_into(&p.name, &mut values)?;
        run.device.write(&params.value(p)?, &values)?;
    }
    for m in params.masks() {
        let states = match &exact {
            Some(states) => states,
            None => exact.insert(Weights::open(dir.join(STATES))?),
        };
        let mut values = vec![0f32; m.mask.spec.len()];
        states.f32_into(&m.name(), &mut values)?;
        let kept: Vec<u8> = values.iter().map(|&v| (v != 0.0) as u8).collect();
        write_mask(&run.device, &m.mask, &kept)?;
    }
    params.zero_masked_weights(&run.device)?;
    params.refresh(&run.device)?;
    run.model.restore(&run.device, dir)
}

/// What a tokenizer is set to, besides `tokenizer.json`.
const CONFIG: &str = "tokenizer_config.json";

/// A folder that stock `transformers` opens, with what `tempra predict` needs to know besides.
///
/// # Errors
/// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
pub fn model_files(recipe: &Recipe, run: &Run) -> Result<Vec<NamedFile<'static>>> {
    let mut files = run.model.files(&run.device)?;
    let tokenizer = run.tokenizer.files().iter();
    files.extend(tokenizer.clone().filter(|f| f.0 != CONFIG).map(|(n, b)| NamedFile::bytes(*n, b.clone())));
    let config = tokenizer.clone().find(|f| f.0 == CONFIG).map(|f| &f.1[..]);
    files.extend(run.model.tokenizer_config(config)?.map(|bytes| NamedFile::bytes(CONFIG, bytes)));
    let how = match &run.parts[..] {
        [part] => ModelMetadata::One(Box::new(part.metadata.clone())),
        parts => ModelMetadata::Several {
            task: recipe.task.name().to_owned(),
            heads: parts.iter().map(|p| (p.name.clone(), p.metadata.clone())).collect(),
        },
    };
    files.push(NamedFile::bytes(METADATA, pretty(&json!(how))));
    Ok(files)
}

pub(super) fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn backend(run: &Run) -> &'static str {
    match run.device {
        crate::device::Device::Cpu(_) => "cpu",
        crate::device::Device::Cuda(_) => "cuda",
        crate::device::Device::Wgpu(_) => "wgpu",
        crate::device::Device::Meta(_) => "meta",
    }
}
