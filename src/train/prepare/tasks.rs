//! What each task is set to, by the recipe and the training labels.

use super::super::recipe::{self, ClassWeights, Recipe};
use super::files::Splits;
use super::parts::{RowTask, Rows};
use crate::data::Label;
use crate::error::{Error, Result};
use crate::tasks::{Classify, LanguageSettings, Multilabel, Regress, Similar, SimilarityLoss, Task};
use crate::text::Tokenizer;
use std::sync::Arc;

/// The weights of classes that a recipe lists.
pub(super) fn given_weights(r: &Recipe, classes: &[String]) -> Result<Option<Vec<f32>>> {
    match &r.loss.class_weights {
        None => Ok(None),
        Some(ClassWeights::Values(w)) => fitting(w, classes).map(Some),
        Some(ClassWeights::Balanced) => {
            Err(Error::usage("loss.class_weights = \"balanced\" works with task \"classify\" only")
                .with_help(format!("give a list with a weight for each of {}", classes.join(", "))))
        }
    }
}

fn fitting(weights: &[f32], classes: &[String]) -> Result<Vec<f32>> {
    if weights.len() != classes.len() {
        let what = format!("loss.class_weights has {} weights for {} classes", weights.len(), classes.len());
        return Err(Error::usage(what).with_expected(format!("a weight for each of {}", classes.join(", "))));
    }
    Ok(weights.to_vec())
}

/// The task that rows are for.
///
/// # Errors
/// Of kind `Data` for labels that it cannot learn from, `Usage` for settings that do not fit the classes.
pub(super) fn rows_task(
    r: &Recipe,
    kind: RowTask,
    classes: &[String],
    splits: &Splits<Rows>,
) -> Result<Arc<dyn Task>> {
    Ok(match kind {
        RowTask::Regress => Arc::new(regress(r, splits)?),
        RowTask::Multilabel => Arc::new(Multilabel {
            tune: r.multilabel.tune_thresholds,
            label_smoothing: r.loss.label_smoothing as f32,
            class_weights: given_weights(r, classes)?,
            gamma: r.loss.focal_gamma as f32,
            ..Multilabel::new(classes.to_vec())
        }),
        RowTask::Similar => Arc::new(Similar {
            loss: match r.similar.loss {
                recipe::PairLoss::Cosine => SimilarityLoss::Cosine { label_scale: r.similar.label_scale },
                recipe::PairLoss::Contrastive => {
                    SimilarityLoss::Contrastive { temperature: r.similar.temperature }
                }
            },
        }),
        RowTask::Classify => {
            let (labels, weights) = training(splits);
            let class_weights = match &r.loss.class_weights {
                None => None,
                Some(ClassWeights::Balanced) => Some(Classify::balanced(labels, weights, classes.len())),
                Some(ClassWeights::Values(w)) => Some(fitting(w, classes)?),
            };
            if let Some(weights) = &class_weights {
                counted(r, labels, weights)?;
            }
            let [label_smoothing, gamma] = [r.loss.label_smoothing, r.loss.focal_gamma].map(|v| v as f32);
            Arc::new(Classify { classes: classes.to_vec(), label_smoothing, class_weights, gamma })
        }
    })
}

/// The labels of the training examples and their weights, of which there may be none.
fn training(splits: &Splits<Rows>) -> (&[Label], &[f32]) {
    splits[0].as_ref().map(|s| (&s.labels[..], &s.weights[..])).unwrap_or_default()
}

/// Refuses training examples whose classes all have the weight 0.
fn counted(r: &Recipe, labels: &[Label], weights: &[f32]) -> Result<()> {
    let counts =
        |l: &Label| matches!(l, Label::Class(c) if weights.get(*c as usize).is_some_and(|w| *w > 0.0));
    if labels.iter().any(counts) {
        return Ok(());
    }
    Err(Error::data("every training example has a class of weight 0, so none counts in the loss")
        .at(&r.data.train)
        .with_found(format!("loss.class_weights = {weights:?}"))
        .with_help("give a weight above 0 to a class that occurs"))
}

/// Targets as `regress.standardize` asks for them.
fn regress(r: &Recipe, splits: &Splits<Rows>) -> Result<Regress> {
    let (labels, weights) = training(splits);
    let value = |label: &Label| if let Label::Value(v) = label { Some(f64::from(*v)) } else { None };
    let targets = labels.iter().filter_map(value);
    if r.regress.standardize {
        let weights = weights.iter().map(|w| f64::from(*w)).chain(std::iter::repeat(1.0));
        return Regress::standardized(targets.zip(weights)).map_err(|e| e.at(&r.data.train));
    }
    if let Some(large) = targets.clone().find(|t| t.abs() > LARGEST_TARGET) {
        return Err(Error::data("the square of a target is too large for a 32-bit float")
            .at(&r.data.train)
            .with_expected(format!("targets from {:e} to {LARGEST_TARGET:e}", -LARGEST_TARGET))
            .with_found(large.to_string())
            .with_help("set regress.standardize = true"));
    }
    Ok(Regress::default())
}

/// Sums of the squares of so large numbers are finite in f32.
const LARGEST_TARGET: f64 = 1e17;

/// How a language model is trained.
pub(super) fn language_settings<'a>(
    r: &Recipe,
    tokenizer: &'a Tokenizer,
    vocab: usize,
) -> LanguageSettings<'a> {
    let default = LanguageSettings::new(tokenizer, vocab);
    LanguageSettings {
        mask_probability: r.mask.probability,
        whole_word: r.mask.whole_word,
        permute_probability: r.permute.probability.unwrap_or(default.permute_probability),
        max_span: r.permute.max_span as u32,
        ..default
    }
}
