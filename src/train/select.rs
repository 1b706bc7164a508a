//! The score that chooses the best model: found before a run among those that its tasks give for its
//! validation examples.

use super::prepare::TaskRun;
use super::recipe::Recipe;
use crate::error::{Error, Result};
use crate::metrics::{self, Metric, Scores};
use crate::suggest::nearest;
use std::collections::{BTreeMap, BTreeSet};

/// The score of several tasks together; see `mean`.
pub const MEAN: &str = "mean";

/// What `train.best_metric` is called among the scores of a run, and in which direction it is better.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    name: String,
    /// `None`: the mean, where higher is better.
    metric: Option<&'static Metric>,
    formula: String,
}

/// What a metric of a task is called among the scores of a run: with the name of the task before it, if there
/// are several.
pub fn score_name(parts: &[TaskRun], part: &TaskRun, metric: &str) -> String {
    if parts.len() > 1 { format!("{}_{metric}", part.name) } else { metric.to_owned() }
}

/// The scores of a run from those of its tasks (by their places); of several tasks with their `mean`.
pub fn combined(parts: &[TaskRun], each: &[(usize, Scores)]) -> Scores {
    let mut all = Scores::new();
    for (part, scores) in each.iter().filter_map(|(i, scores)| Some((parts.get(*i)?, scores))) {
        scores.iter().for_each(|(metric, value)| all.set(score_name(parts, part, metric), value));
    }
    if parts.len() > 1 && !each.is_empty() {
        all.set(MEAN, mean(parts, each));
    }
    all
}

/// The mean of the metrics that the tasks are chosen by, each as [`Metric::comparable`] makes it; NaN if one
/// is.
fn mean(parts: &[TaskRun], each: &[(usize, Scores)]) -> f64 {
    let one = |(i, scores): &(usize, Scores)| {
        let part = parts.get(*i)?;
        let value = scores.get(&part.best_metric)?;
        Some(metrics::find(&part.best_metric)?.comparable(value, part.unit(&part.best_metric)))
    };
    each.iter().map(|e| one(e).unwrap_or(f64::NAN)).sum::<f64>() / each.len() as f64
}

/// The direction of each score that the validation and test sets of a run give, where it has one.
pub fn directions(parts: &[TaskRun]) -> BTreeMap<String, bool> {
    let mut all = BTreeMap::new();
    for part in parts {
        for set in [&part.validation, &part.test].into_iter().flatten() {
            let scores = part.task.meter(set).scores();
            let known = scores.iter().filter_map(|(name, _)| metrics::find(name));
            all.extend(known.map(|m| (score_name(parts, part, m.name), m.higher_is_better)));
        }
    }
    if parts.len() > 1 && !all.is_empty() {
        all.insert(MEAN.to_owned(), true);
    }
    all
}

impl Selection {
    /// Finds the score that a recipe names; `None` if nothing is validated.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) if no task gives that score, if it cannot tell models apart
    /// on the validation examples, if two tasks have a score of the same name, or if early stopping has
    /// nothing to go by.
    pub fn of(recipe: &Recipe, parts: &[TaskRun]) -> Result<Option<Selection>> {
        let validated: Vec<&TaskRun> = parts.iter().filter(|p| p.validation.is_some()).collect();
        if validated.is_empty() {
            if recipe.train.early_stopping.is_some() {
                return Err(Error::usage(
                    "train.early_stopping is set, but there are no validation examples",
                )
                .with_help("set data.validation, or data.validation_fraction above 0"));
            }
            return Ok(None);
        }
        let several = parts.len() > 1;
        let (mut known, mut taken) = (BTreeMap::new(), BTreeSet::new());
        for &part in &validated {
            let Some(set) = &part.validation else { continue };
            for (metric, _) in part.task.meter(set).scores().iter() {
                let name = score_name(parts, part, metric);
                if !taken.insert(name.clone()) {
                    return Err(Error::usage(format!(
                        "two tasks have a score with the name {name} (TASK_METRIC)"
                    ))
                    .with_help("rename a file of multi.recipes: each task is named after its recipe file"));
                }
                known.extend(metrics::find(metric).map(|m| (name, (part, m))));
            }
            // What one of several tasks is chosen by.
            if several {
                let own = known.get(&score_name(parts, part, &part.best_metric));
                let (_, metric) =
                    own.ok_or_else(|| unknown(&part.best_metric, part, own_metrics(&known, part)))?;
                informative(part, metric)?;
            }
        }
        let name = recipe.train.best_metric.clone();
        if several && name == MEAN {
            let term = |part: &&TaskRun| {
                let metric = metrics::find(&part.best_metric)?;
                Some(metric.formula(&score_name(parts, part, metric.name), part.unit(metric.name)))
            };
            let terms: Vec<String> = validated.iter().filter_map(term).collect();
            let formula = format!("mean of {}", terms.join(", "));
            return Ok(Some(Selection { name, metric: None, formula }));
        }
        let Some((part, metric)) = known.get(&name) else {
            let mut names: Vec<&str> = known.keys().map(String::as_str).collect();
            if several {
                names.insert(0, MEAN);
            }
            return Err(match &validated[..] {
                [part] if !several => unknown(&name, part, names),
                _ => {
                    let bare = known.iter().find(|(_, (_, m))| m.name == name).map(|(full, _)| full.as_str());
                    let near = bare.or_else(|| nearest(&name, names.iter().copied())).map(str::to_owned);
                    let e = Error::usage("train.best_metric is not a score of these tasks");
                    let e = e.with_expected(names.join(", ")).with_found(format!("{name:?}"));
                    near.into_iter().fold(e, |e, near| e.with_help(format!("did you mean {near:?}?")))
                }
            });
        };
        informative(part, metric)?;
        let direction = if metric.higher_is_better { "higher" } else { "lower" };
        let formula = format!("{name} ({direction} is better)");
        Ok(Some(Selection { name, metric: Some(metric), formula }))
    }

    /// Its name among the scores of the run.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// What it is, for a person: the direction, or the terms of the mean.
    pub fn formula(&self) -> &str {
        &self.formula
    }
    /// Whether more is better.
    pub fn higher_is_better(&self) -> bool {
        self.metric.is_none_or(|m| m.higher_is_better)
    }
    /// Its value among the scores of a validation; NaN if it is not there.
    pub fn value(&self, scores: &Scores) -> f64 {
        scores.get(&self.name).unwrap_or(f64::NAN)
    }
    /// Whether some scores are better than the best so far; NaN never is, and every number is better than
    /// NaN.
    pub fn improves(&self, new: &Scores, best: Option<&Scores>) -> bool {
        let (new, best) = (self.value(new), best.map_or(f64::NAN, |b| self.value(b)));
        let better = if self.higher_is_better() { new > best } else { new < best };
        better || (best.is_nan() && !new.is_nan())
    }
}

fn own_metrics<'a>(known: &BTreeMap<String, (&TaskRun, &'a Metric)>, part: &TaskRun) -> Vec<&'a str> {
    known.values().filter(|(p, _)| p.name == part.name).map(|(_, m)| m.name).collect()
}

/// The error of a metric that a task, with its settings and its validation examples, does not give.
fn unknown(name: &str, part: &TaskRun, known: Vec<&str>) -> Error {
    let near = nearest(name, known.iter().copied()).map(|near| format!("did you mean {near:?}?"));
    let e =
        Error::usage(format!("train.best_metric{} is not a score of this task and its examples", of(part)));
    let e = e.with_expected(known.join(", ")).with_found(format!("{name:?}"));
    e.with_help(
        near.unwrap_or_else(|| "name another metric; `tempra help metrics` describes them".to_owned()),
    )
}

/// Refuses a metric that says nothing about a model on the validation examples of a task.
fn informative(part: &TaskRun, metric: &Metric) -> Result<()> {
    let Some(set) = &part.validation else { return Ok(()) };
    let Some(why) = part.task.uninformative(metric.name, set)? else { return Ok(()) };
    let mut fit = Vec::new();
    for other in part.task.meter(set).scores().iter().filter_map(|(name, _)| metrics::find(name)) {
        if part.task.uninformative(other.name, set)?.is_none() {
            fit.push(other.name);
        }
    }
    let what = format!(
        "train.best_metric{}: {} cannot rank models on these validation examples",
        of(part),
        metric.name
    );
    let e = Error::usage(what)
        .with_expected("a metric that is defined and differs between models")
        .with_found(why);
    Err(match &fit[..] {
        [] => e.with_help("choose other validation examples"),
        fit => {
            e.with_help(format!("set it to one of {}, or choose other validation examples", fit.join(", ")))
        }
    })
}

/// `" of NAME"` for one of several tasks.
fn of(part: &TaskRun) -> String {
    if part.name.is_empty() { String::new() } else { format!(" of the task {}", part.name) }
}
