//! Problems: how labels become a loss, how logits become a prediction and a score.

mod answer;
mod classify;
mod mask;
mod metadata;
mod multilabel;
mod next;
mod order;
mod permute;
mod regress;
mod similar;
mod soft;
mod table;
mod tag;

pub use answer::{Answer, Candidate, Finding, Found, Search};
pub use classify::Classify;
pub use mask::Mask;
pub use metadata::{METADATA, ModelMetadata, TaskMetadata};
pub use multilabel::Multilabel;
pub use next::Next;
pub use permute::{Permute, into_streams};
pub use regress::{Regress, mean_and_deviation};
pub use similar::{CONTRASTIVE, COSINE, PairLoss, Similar, SimilarityLoss, similarity, unit};
pub use soft::{SoftKind, SoftOutput};
pub use table::{DataKind, LanguageSettings, LanguageTask, PairClasses, TaskEntry};
pub use tag::{Tag, TagScheme, Tagged};

use crate::data::{Batch, TokenSet};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::metrics::{ClassScores, Scores};
use crate::models::{Model, Outputs};
use crate::nn::{Inputs, Taps};
use crate::ops::accumulator;
use crate::ops::residual::Residual;
use crate::shape::DType;
use crate::tape::{Tape, Var};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Makes the table of tasks: an enum with a variant for each, and the list of their entries.
macro_rules! tasks { ($($variant:ident = $entry:path,)*) => {
    /// A task by its name in a recipe.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum TaskKind {
        $(#[doc = concat!("See the entry of `", stringify!($variant), "` in [`TASKS`].")] $variant,)*
    }
    /// Every task there is. Recipes, help, documentation, `eval`, `predict` and `init` walk this list.
    pub const TASKS: &[(TaskKind, TaskEntry)] = &[$((TaskKind::$variant, $entry),)*];
} }

tasks! {
    Classify = classify::ENTRY,
    Multilabel = multilabel::ENTRY,
    Regress = regress::ENTRY,
    Tag = tag::ENTRY,
    Answer = answer::ENTRY,
    Similar = similar::ENTRY,
    Mask = mask::ENTRY,
    Permute = permute::ENTRY,
    Next = next::ENTRY,
    Order = order::ENTRY,
    Multi = MULTI,
}

/// Several tasks at once on one encoder. It has no loss of its own.
const MULTI: TaskEntry = TaskEntry {
    name: "multi",
    doc: "trains several of these tasks on one encoder",
    best_metric: "mean",
    metrics: &[],
    data: DataKind::Recipes,
    trains: |_| false,
    sections: &["multi"],
    classes: false,
    weights: false,
    scores: &[],
    columns: &[],
};

impl TaskKind {
    /// Its entry.
    pub fn entry(self) -> &'static TaskEntry {
        TASKS.iter().find(|(kind, _)| *kind == self).map_or(&MULTI, |(_, entry)| entry)
    }
    /// Its name in a recipe.
    pub fn name(&self) -> &'static str {
        self.entry().name
    }
    /// The task of that name.
    pub fn find(name: &str) -> Option<Self> {
        TASKS.iter().find(|(_, entry)| entry.name == name).map(|(kind, _)| *kind)
    }
    /// All tasks.
    pub fn all() -> impl Iterator<Item = Self> {
        TASKS.iter().map(|(kind, _)| *kind)
    }
}

/// The task that trains heads with these outputs.
pub fn of_outputs(outputs: &Outputs) -> Option<&'static TaskEntry> {
    TASKS.iter().map(|(_, entry)| entry).find(|entry| (entry.trains)(outputs))
}

/// The tasks that give a metric; where a setting decides, with its value in brackets.
pub fn of_metric(metric: &str) -> impl Iterator<Item = &'static str> {
    let all = TASKS.iter().flat_map(|(_, entry)| entry.metrics);
    all.filter(move |(_, metrics)| metrics.contains(&metric)).map(|(task, _)| *task)
}

/// A problem: an example's label, the loss, the prediction, the metrics.
pub trait Task: Send + Sync {
    /// What the head gives.
    fn outputs(&self) -> Outputs;
    /// What is done to a batch before it runs, such as masking; random by `key`, seed and step, and by the
    /// examples alone, so that it does not depend on how a step is cut.
    ///
    /// # Errors
    /// Those of masking or permuting, where the task does that.
    fn prepare(&self, _: &mut Batch, _key: (u64, u64)) -> Result<()> {
        Ok(())
    }
    /// How much a batch counts in the loss: what the sum over an optimizer step is divided by is the sum of
    /// these over its batches. The second is for a task whose loss is a sum of two means, 0 for others.
    fn weights(&self, batch: &Batch) -> [f64; 2];
    /// Examples of an optimizer step below which the loss is constant: two where examples are told from each
    /// other.
    fn least_examples(&self) -> usize {
        1
    }
    /// Records the loss of a batch, its sum times the first of `scales`, from what the model gives; see
    /// [`Model::forward`].
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) for examples without labels of the task's kind; those of the
    /// ops.
    fn loss(&self, tape: &mut Tape, outputs: &[Var], batch: &Batch, scales: [f64; 2]) -> Result<Var>;
    /// The weight in the loss of each row of the model's first output, where a row holds the logits of
    /// classes that exclude each other; their sum is the first of [`Task::weights`]. Rows that do not count
    /// have weight 0. `None` for a task without such rows.
    fn class_rows(&self, _: &Batch) -> Option<Vec<f64>> {
        None
    }
    /// What of the model's outputs is compared with a teacher's, and how: the task's part of a distillation
    /// from outputs that are computed once. `None` for a task whose inputs differ in each step.
    fn soft(&self) -> Option<SoftOutput> {
        None
    }
    /// Whether the loss compares examples with each other, so that it is one of all examples of an optimizer
    /// step, not a sum over its micro-batches. The model of such a task gives one output, a row for each
    /// sequence.
    fn spans_step(&self) -> bool {
        false
    }
    /// A number that differs between steps whose losses launch different kernels although their batches have
    /// the same sizes.
    fn kernels(&self, _: &[Batch]) -> u64 {
        0
    }
    /// A meter for one evaluation of a set.
    fn meter(&self, set: &TokenSet) -> Box<dyn Meter>;
    /// Why a metric of its meter cannot tell models apart on a set: it is undefined there, or the same
    /// whatever is predicted.
    ///
    /// # Errors
    /// Those of [`Task::prepare`].
    fn uninformative(&self, _metric: &str, _: &TokenSet) -> Result<Option<String>> {
        Ok(None)
    }
    /// What outputs of 0 and of 1 more stand for, where they are not in original units: see
    /// [`Model::standardize`](crate::models::Model::standardize).
    fn units(&self) -> Option<(f64, f64)> {
        None
    }
    /// Whether it has thresholds to choose on a development set.
    fn tunes(&self) -> bool {
        false
    }
    /// The thresholds that decide best what `meter` saw, a development set, by the names of the labels, and
    /// the task with them; `None` for a task that has none to choose.
    fn tuned(&self, _: &dyn Meter) -> Option<Tuned> {
        None
    }
}

/// The threshold of each label by its name, and the task that decides by them.
pub type Tuned = (Vec<(String, f64)>, Arc<dyn Task>);

/// Takes what a model gives, gives scores.
pub trait Meter {
    /// Adds a batch with what the model gives for it, as in [`Task::loss`].
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) for examples without labels of the task's kind;
    /// [`Kind::Shape`](crate::error::Kind::Shape) for outputs that do not fit the batch.
    fn add(&mut self, outputs: &[Vec<f32>], batch: &Batch) -> Result<()>;
    /// The scores so far.
    fn scores(&self) -> Scores;
    /// What a person reads at the end: a confusion table, correlations.
    fn report(&self) -> String;
    /// What a program reads besides the scores.
    fn details(&self) -> Map<String, Value> {
        Map::new()
    }
    /// How many rows, sentences, questions or windows were scored: what is drawn anew for an interval.
    fn units(&self) -> usize;
    /// The scores of these alone, each counted as often as it is named.
    fn scores_of(&self, drawn: &[usize]) -> Scores;
    /// The scores of each class, label or kind of span by name, where the task has some.
    fn per_class(&self) -> Vec<(String, ClassScores)> {
        Vec::new()
    }
    /// For each label the threshold with the best F1 on what was scored, where thresholds decide.
    fn best_thresholds(&self) -> Option<Vec<f64>> {
        None
    }
}

/// A batch's tensors on a device, on a tape; with `key` (seed, step) in training.
///
/// # Errors
/// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
/// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
pub fn inputs(tape: &mut Tape, batch: &Batch, key: Option<(u64, u64)>) -> Result<Inputs> {
    let device = tape.device();
    let put = |v: &[u32]| device.upload(DType::U32, &[v.len()], v);
    let (ids, positions, types) = (put(&batch.ids)?, put(&batch.positions)?, put(&batch.types)?);
    let cu_seqlens = put(&batch.cu_seqlens)?;
    let sequences = cu_seqlens.view(0, &[batch.sequences() + 1])?;
    let tensors = [ids, positions, types, cu_seqlens, sequences];
    let words = |(seed, step): (u64, u64)| {
        [seed as u32, (seed >> 32) as u32, step as u32, batch.first_token, batch.first_example]
    };
    let key = key.map(|k| put(&words(k))).transpose()?;
    let asked = if batch.masked.is_empty() { None } else { Some(put(&batch.masked)?) };
    let inputs = Inputs::new(tape, tensors, key).of_length(batch.longest());
    let asked = asked.map(|asked| tape.constant(asked));
    let order = if batch.order.is_empty() {
        None
    } else {
        let order = device.upload(DType::U32, &[batch.ids.len(), 3], &batch.order)?;
        Some(tape.constant(order))
    };
    Ok(Inputs { asked, order, head: batch.head, ..inputs })
}

/// Runs a model over batches without recording, and hands what it gives for each batch to `each`.
///
/// # Errors
/// Those of `each` and of the model's ops.
///
/// The crate's page has an [example](crate#predict).
pub fn for_each_output(
    device: &Device,
    model: &Model,
    batches: &[Batch],
    mut each: impl FnMut(&Batch, &[Vec<f32>]) -> Result<()>,
) -> Result<()> {
    for batch in batches {
        let outputs = device.scoped(|| -> Result<Vec<Vec<f32>>> {
            let mut tape = Tape::evaluate(device);
            let bound = model.params.bind(&mut tape, false)?;
            let x = inputs(&mut tape, batch, None)?;
            let outputs = model.forward(&mut tape, &bound, &x, &mut Taps::none())?;
            let read = |v: Var| Ok(device.read_reals(v.value())?.into_iter().map(|v| v as f32).collect());
            outputs.into_iter().map(read).collect()
        })?;
        each(batch, &outputs)?;
    }
    Ok(())
}

/// Seed and step of what [`Task::prepare`] does for an evaluation: the same each time.
pub const EVALUATION: (u64, u64) = (0, u64::MAX);

/// Scores a model over the batches of a set.
///
/// # Errors
/// Those of the task, its meter and the model's ops.
///
/// The crate's page has an [example](crate#score).
pub fn evaluate(
    device: &Device,
    model: &Model,
    task: &dyn Task,
    set: &TokenSet,
    mut batches: Vec<Batch>,
) -> Result<Box<dyn Meter>> {
    let mut meter = task.meter(set);
    batches.iter_mut().try_for_each(|batch| task.prepare(batch, EVALUATION))?;
    for_each_output(device, model, &batches, |batch, outputs| meter.add(outputs, batch))?;
    Ok(meter)
}

/// The only output of a model with one head.
fn only<T>(outputs: &[T]) -> Result<&T> {
    outputs.first().ok_or_else(|| Error::shape("a model without outputs"))
}

/// The sum of losses (1), each scaled already, in this order.
///
/// # Errors
/// [`Kind::Shape`](crate::error::Kind::Shape) if there are none; those of the op.
pub fn total(tape: &mut Tape, losses: impl IntoIterator<Item = Var>) -> Result<Var> {
    let mut losses = losses.into_iter();
    let first = losses.next().ok_or_else(|| Error::shape("a sum of no losses"))?;
    losses.try_fold(first, |sum, loss| tape.apply(Residual { dropout: None }, [sum, loss]))
}

/// Constants of a loss: in the type that sums have where `like` has its own.
pub(crate) fn reals(tape: &mut Tape, like: &Var, shape: &[usize], v: &[f64]) -> Result<Var> {
    let dtype = accumulator(like.value().spec.dtype);
    let t = tape.device().upload_reals(dtype, shape, v)?;
    Ok(tape.constant(t))
}

/// The weight of an example of a batch in the loss: 1 where examples have none.
fn weight(batch: &Batch, example: usize) -> f64 {
    batch.weights.get(example).map_or(1.0, |w| f64::from(*w))
}

/// The sum of the weights of a batch's examples.
fn total_weight(batch: &Batch) -> f64 {
    (0..batch.len()).map(|example| weight(batch, example)).sum()
}

/// The weights of a batch's examples (examples) as the last input of a loss; none where all weigh the same.
///
/// # Errors [`Kind::Data`](crate::error::Kind::Data) for weights of another number, or that are negative,
/// infinite or NaN.
fn row_weights(tape: &mut Tape, like: &Var, batch: &Batch) -> Result<Option<Var>> {
    let weights = &batch.weights;
    if weights.is_empty() {
        return Ok(None);
    }
    let wrong = |found: String| {
        Error::data("the weights of a batch do not fit its examples")
            .with_expected(format!("none, or a finite number of at least 0 for each of {}", batch.len()))
            .with_found(found)
            .with_help("check TokenSet::weights")
    };
    if weights.len() != batch.len() {
        return Err(wrong(format!("{} weights", weights.len())));
    }
    if let Some(bad) = weights.iter().find(|w| !w.is_finite() || **w < 0.0) {
        return Err(wrong(bad.to_string()));
    }
    let weights: Vec<f64> = weights.iter().map(|w| f64::from(*w)).collect();
    reals(tape, like, &[weights.len()], &weights).map(Some)
}

/// The error of a batch whose examples have no label of the kind a task needs.
fn unlabelled() -> Error {
    Error::data("examples without labels cannot be scored").with_help("name the label column with data.label")
}
