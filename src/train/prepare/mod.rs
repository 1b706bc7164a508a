//! From a recipe to everything a run needs: data as tokens, a model on a device, the steps of every epoch.

mod files;
mod parts;
mod steps;
mod task_run;
mod tasks;
mod teacher;

pub(super) use steps::{Step, batches, epoch_of};
pub use task_run::TaskRun;
pub use teacher::TeacherReport;

use super::epochs::Epochs;
use super::memory::{Job, MemoryPlan};
use super::objective::Objective;
use super::recipe::{self, Recipe};
use super::select::Selection;
use super::window;
use crate::cache;
use crate::compress::prune::Pruning;
use crate::compress::{LiveFolder, LiveTeacher};
use crate::data::BatchSize;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::models::{
    Attention, LoadReport, Model, ModelShape, Options, Outputs, encoder_shape, sentence, source,
};
use crate::nn::{EncoderConfig, Pooling};
use crate::params::MaskUnit;
use crate::parity::Certificate;
use crate::text::Tokenizer;
use crate::units::plural;
use parts::{Encoder, Source};
use std::collections::BTreeSet;
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
    /// The tasks, mostly one, with their examples, which the loader reads beside the loop.
    pub parts: Arc<Vec<TaskRun>>,
    /// The score that chooses the best model; `None` if nothing is validated.
    pub selection: Option<Selection>,
    /// What is odd about the recipes of several tasks.
    pub warnings: Vec<Error>,
    /// Rows that were skipped because they could not be read.
    pub skipped_rows: u64,
    /// Hash of everything the examples are made from.
    pub data_hash: String,
    /// What training takes of the device's memory.
    pub memory: MemoryPlan,
    /// The teacher, if the run has one.
    pub teacher: Option<TeacherReport>,
    /// What it prunes, if it does.
    pub pruning: Option<Pruning>,
    /// The teacher that runs beside the model, if there is one.
    pub live: Option<LiveTeacher>,
}

/// The recipe of each task of a run by its name: the recipe itself, or those that it names, with warnings
/// about these.
type Recipes = (Vec<(String, Recipe)>, Vec<Error>);

fn recipes(recipe: &Recipe) -> Result<Recipes> {
    if recipe.task != recipe::TaskKind::Multi {
        return Ok((vec![(String::new(), recipe.clone())], Vec::new()));
    }
    let mut warnings = Vec::new();
    let mut all = Vec::new();
    let mut names = BTreeSet::new();
    for path in &recipe.multi.recipes {
        let path = Path::new(path);
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(Error::usage("the name of this recipe file cannot be the name of a task")
                .at(path)
                .with_expected("letters, digits, - and _ before .toml")
                .with_found(format!("{name:?}"))
                .with_help("rename the file: in multi.recipes each task is named after its recipe file"));
        }
        if !names.insert(name.clone()) {
            return Err(Error::usage(format!(
                "two recipes of multi.recipes would both name their task {name:?}"
            ))
            .at(path)
            .with_help("rename one of the files: each task is named after its recipe file"));
        }
        let (part, odd) = Recipe::load_part(path, recipe)?;
        // Another key without effect is warned about; without its teacher this task would learn something
        // else.
        if part.distill.teacher.is_some() {
            return Err(Error::usage("distill.teacher is set in a recipe of multi.recipes")
                .at(path)
                .with_expected("a recipe without [distill]: a task among several cannot be distilled")
                .with_help("remove [distill], or distil the task in a run of its own"));
        }
        warnings.extend(odd);
        all.push((name, part));
    }
    Ok((all, warnings))
}

/// A warning for each set of examples that some of several tasks have and others lack: the latter are missing
/// in its mean.
fn unscored(parts: &[TaskRun]) -> Vec<Error> {
    let warning = |set: &str| {
        let has = |p: &&TaskRun| if set == "test" { p.test.is_some() } else { p.validation.is_some() };
        let without: Vec<&str> = parts.iter().filter(|p| !has(p)).map(|p| p.name.as_str()).collect();
        (!without.is_empty() && without.len() < parts.len()).then(|| {
            Error::usage(format!(
                "the {set} mean leaves out tasks without {set} examples: {}",
                without.join(", ")
            ))
            .with_help(format!("set data.{set} or data.{set}_fraction in the recipes of these tasks"))
        })
    };
    ["validation", "test"].into_iter().filter_map(warning).collect()
}

/// The tokenizer of a model folder; for vectors with what sentence-transformers does to texts.
fn tokenizer(dir: &Path, vocab: usize, sources: &[Source]) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::from_dir(dir, vocab)?;
    let vectors = sources.iter().filter(|s| s.outputs == Outputs::Embedding).count();
    let settings = if vectors > 0 { sentence::settings(dir)? } else { None };
    let Some(settings) = settings.filter(|s| s.lowercase || !s.prompt.is_empty()) else {
        return Ok(tokenizer);
    };
    if vectors < sources.len() {
        return Err(Error::model(
            "this sentence-transformers model changes its texts, which the other tasks of the run cannot share",
        )
        .at(dir)
        .with_expected("neither do_lower_case nor default_prompt_name in the files of sentence-transformers")
        .with_help("train task \"similar\" alone, or remove these settings"));
    }
    tokenizer.for_vectors(settings.lowercase, &settings.prompt)
}

impl Run {
    /// The digest of the certificate that `tempra verify` issued for the device with these kernels, if all
    /// was right.
    pub fn verified(&self) -> Option<String> {
        let found = Certificate::kept(&cache::dir()?, &self.device)?;
        found.passed().then(|| found.digest())
    }
    /// Reads the data, opens the model, makes tokens.
    ///
    /// # Errors
    /// Those of the recipe's data ([`Kind::Data`](crate::error::Kind::Data)), model
    /// ([`Kind::Model`](crate::error::Kind::Model)) and device ([`Kind::Device`](crate::error::Kind::Device),
    /// [`Kind::Memory`](crate::error::Kind::Memory)).
    pub fn prepare(recipe: &Recipe) -> Result<Run> {
        let device = Device::open(&recipe.device.to_string(), recipe.threads)?;
        let device = device.with_compute(recipe.precision.dtype())?;
        let (recipes, mut warnings) = recipes(recipe)?;
        let sources: Vec<Source> = recipes.iter().map(|(_, r)| parts::read(r)).collect::<Result<_>>()?;
        let hashes: Vec<Vec<String>> = sources.iter().map(|s| s.hashes.clone()).collect();
        let skipped_rows = sources.iter().map(|s| s.skipped).sum();

        let dir = source::resolve(&recipe.model.path)?;
        let named = recipes.iter().zip(&sources).map(|((name, _), s)| (name.clone(), s.outputs.clone()));
        let mut options = options(recipe, named.collect());
        let shape = encoder_shape(&dir)?;
        for (_, r) in &recipes {
            if r.data.max_length > shape.positions {
                return Err(Error::usage(format!(
                    "data.max_length ({}) exceeds the {} positions of the model",
                    r.data.max_length, shape.positions
                ))
                .with_help(format!("set data.max_length = {}", shape.positions)));
            }
            if r.data.max_length > recipe.train.max_tokens {
                return Err(Error::usage(format!(
                    "data.max_length ({}) exceeds train.max_tokens ({})",
                    r.data.max_length, recipe.train.max_tokens
                ))
                .with_help("raise train.max_tokens or lower data.max_length"));
            }
        }
        let cache = if recipe.data.cache { cache::dir().map(|dir| dir.join("tokens")) } else { None };
        let tokens = || -> Result<_> {
            let tokenizer = tokenizer(&dir, shape.vocab, &sources)?;
            let encoder = Encoder { tokenizer: &tokenizer, vocab: shape.vocab, cache: cache.as_deref() };
            let pairs = sources.iter().any(|s| s.pairs);
            fits_types(&tokenizer, &shape, pairs)?;
            let part = |(i, ((name, r), source)): (usize, (&(String, Recipe), Source))| -> Result<TaskRun> {
                let part = source.encode(name, r, &encoder)?;
                let weight = recipe.multi.weights.get(i).map_or(1.0, |&w| w as f64);
                Ok(TaskRun { weight, ..part })
            };
            let named = recipes.iter().zip(sources).enumerate();
            let mut parts: Vec<TaskRun> = named.map(part).collect::<Result<_>>()?;
            let selection = Selection::of(recipe, &parts)?;
            let student = (&*dir, &options, shape.hidden);
            let teacher = teacher::find(recipe, student, &tokenizer, &mut parts)?;
            Ok((tokenizer, parts, selection, teacher))
        };
        let caps = device.caps();
        let plan = |parts: &[TaskRun], options: &Options, live: Option<&LiveFolder>| -> Result<MemoryPlan> {
            let model = ModelShape::of(&dir, options)?;
            let one = |(head, part): (usize, &TaskRun)| {
                let objective = part.objective(None);
                let job = job(recipe, &device, (&model, options), (part, &*objective), live);
                Job { head, ..job }.check(&caps)
            };
            let plans: Vec<MemoryPlan> = parts.iter().enumerate().map(one).collect::<Result<_>>()?;
            let largest = plans.into_iter().max_by_key(|p| p.total);
            largest.ok_or_else(|| {
                Error::usage("multi.recipes names no recipe").with_help("name at least two recipes")
            })
        };
        let (mut taught, mut beside) = (None, None);
        let (opened, made, memory) = if caps.gpu || recipe.distill.teacher.is_some() {
            // What does not fit is refused before anything is put there.
            let mut made = tokens()?;
            let (_, parts, _, teacher) = &mut made;
            let live = teacher.live.as_ref();
            if let (Some(live), [part]) = (live, &mut parts[..]) {
                options.projection = part.live.as_ref().and_then(|losses| losses.projection);
                let model = ModelShape::of(&dir, &options)?;
                let objective = part.objective(None);
                let job = job(recipe, &device, (&model, &options), (part, &*objective), Some(live));
                options.unreached = job.unreached(&caps)?;
            }
            let mut memory = plan(parts, &options, live)?;
            if let Some(part) = parts.first_mut() {
                if let Some(kept) = &teacher.kept {
                    memory = teacher::plan(recipe, kept, &caps, part, memory)?;
                }
                let (report, warning) = teacher::ask(recipe, teacher, &device, part)?;
                taught = report;
                warnings.extend(warning);
            }
            let opened = Model::open(&device, &dir, &options);
            beside = live.map(|folder| folder.open(&device)).transpose()?;
            (opened, Ok(made), Some(memory))
        } else {
            // Texts and weights are read side by side: each takes as long as the other.
            std::thread::scope(|scope| {
                let made = scope.spawn(tokens);
                let opened = Model::open(&device, &dir, &options);
                let made = made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                (opened, made, None)
            })
        };
        let ((mut model, weights), (tokenizer, parts, selection, _)) = (opened?, made?);
        for (head, part) in parts.iter().enumerate() {
            if let Some(units) = part.task.units() {
                model.standardize(&device, head, units, &weights.initialised)?;
            }
        }
        let pruning = recipe.prune.pruning(maskable(&model, MaskUnit::Weight))?;
        let memory = memory.map_or_else(|| plan(&parts, &options, None), Ok)?;
        if model.params.count().1 == 0 {
            return Err(Error::usage("every parameter is frozen: there is nothing to train")
                .with_found(format!("model.freeze = {:?}", recipe.model.freeze))
                .with_help(
                    "remove a prefix from model.freeze, such as that of the head or of the last layer",
                ));
        }

        let of = |((_, r), part): (&(String, Recipe), &TaskRun)| {
            // As JSON, so that a run that an earlier version began can be resumed.
            let metadata = serde_json::json!(part.metadata);
            format!("{:?} {} {} {metadata:?}", part.classes, r.data.max_length, r.data.split_seed)
        };
        let parts_of: Vec<String> = recipes.iter().zip(&parts).map(of).collect();
        let made_from = format!("{hashes:?} {} {parts_of:?}", tokenizer.hash());
        let data_hash = blake3::hash(made_from.as_bytes()).to_hex().to_string();
        warnings.extend(unscored(&parts));
        let parts = Arc::new(parts);
        Ok(Run {
            device,
            model,
            warnings,
            weights,
            tokenizer,
            parts,
            selection,
            skipped_rows,
            data_hash,
            memory,
            teacher: taught,
            pruning,
            live: beside,
        })
    }

    /// The optimizer steps of the run by epoch.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for steps that cannot train, or too few for the schedule.
    pub fn plan(&self, recipe: &Recipe) -> Result<Epochs> {
        self.check_steps(recipe)?;
        let epochs = self.epochs(recipe)?;
        recipe.optim.fits(epochs.total())?;
        Ok(epochs)
    }
    /// Refuses steps of too few examples for the loss of their task.
    fn check_steps(&self, recipe: &Recipe) -> Result<()> {
        let steps = epoch_of(&self.parts, recipe, 0)?;
        for (i, part) in self.parts.iter().enumerate() {
            let least = part.task.least_examples();
            if steps.iter().any(|s| s.part == i && s.examples.len() >= least) {
                continue;
            }
            let of = if part.name.is_empty() { String::new() } else { format!(" of task {}", part.name) };
            let largest = steps.iter().filter(|s| s.part == i).map(|s| s.examples.len()).max().unwrap_or(0);
            return Err(Error::usage(format!(
                "every step{of} has too few examples, so the loss is constant"
            ))
            .with_expected(format!("at least {} in a step", plural(least as u64, "example")))
            .with_found(format!("at most {largest}"))
            .with_help("raise train.batch_size (or train.batch_tokens), or add training examples"));
        }
        Ok(())
    }
    fn epochs(&self, recipe: &Recipe) -> Result<Epochs> {
        let (mut ends, mut steps) = (Vec::new(), 0u64);
        let epochs = recipe.train.epochs;
        loop {
            let index = ends.len() as u64;
            let here = epoch_of(&self.parts, recipe, index)?.len() as u64;
            let whole = steps + here;
            match recipe.train.max_steps {
                Some(max) if whole >= max => {
                    ends.push(max);
                    return Ok(Epochs { ends, whole });
                }
                Some(_) => {}
                None if (index + 1) as f64 >= epochs => {
                    // As transformers rounds it: 2.1 epochs of 10 steps are 21.
                    let part = (epochs * here as f64).ceil() - (index * here) as f64;
                    ends.push(steps + part.clamp(0.0, here as f64) as u64);
                    return Ok(Epochs { ends, whole });
                }
                None => {}
            }
            ends.push(whole);
            steps = whole;
        }
    }
}

/// How many units of a kind the masks of a model cover.
pub(super) fn maskable(model: &Model, unit: MaskUnit) -> usize {
    model.params.masks().iter().filter(|m| m.unit() == unit).map(|m| m.mask.spec.len()).sum()
}

/// How a task of the run trains, for a plan of memory.
fn job<'a>(
    recipe: &Recipe,
    device: &Device,
    (model, options): (&'a ModelShape, &'a Options),
    (part, objective): (&'a TaskRun, &'a dyn Objective),
    live: Option<&'a LiveFolder>,
) -> Job<'a> {
    let t = &recipe.train;
    Job {
        model,
        options,
        task: &*part.task,
        objective,
        live,
        head: 0,
        set: &part.train,
        batch: t.batch_tokens.map_or(BatchSize::Sequences(t.batch_size), BatchSize::Tokens),
        accumulation: t.accumulation,
        max_tokens: t.max_tokens,
        optimizer: recipe.optim.settings(),
        window: window(device),
    }
}

fn options(recipe: &Recipe, heads: Vec<(String, Outputs)>) -> Options {
    let m = &recipe.model;
    Options {
        outputs: None,
        heads,
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
        layers: m.layers.clone(),
        freeze: m.freeze.clone(),
        layer_lr_decay: recipe.optim.layer_lr_decay as f32,
        seed: recipe.seed,
        training: true,
        masking: recipe.prune.masking(recipe.optim.lr),
        ..Options::default()
    }
}

/// Refuses a tokenizer that numbers the texts of a pair differently where the model has one type for both.
/// RoBERTa's separates them by tokens alone; a model without types (DistilBERT) does not look.
fn fits_types(tokenizer: &Tokenizer, shape: &EncoderConfig, pair: bool) -> Result<()> {
    let types = tokenizer.encode("", pair.then_some(""), tokenizer.special_tokens(pair))?.types;
    let types = tokenizer.types(&types);
    let most = types.iter().copied().max().unwrap_or(0) as usize;
    if shape.types == 0 || most < shape.types {
        return Ok(());
    }
    Err(Error::model("the tokenizer does not fit the model: it gives token types that the model lacks")
        .with_expected(format!("types below {} (type_vocab_size in config.json)", shape.types))
        .with_found(format!("type {most}"))
        .with_help("use the tokenizer files of this model"))
}
