//! Models of one task side by side on one device: score against latency, throughput, size and memory.
//!
//! All models are on the device at once and take turns: each round measures every model, in an order that
//! changes from round to round, so that what else the machine does affects all of them alike.
//!
//! A latency is the time of one forward pass, from token ids in host memory to outputs in host memory. The
//! texts are drawn from the labelled file, the same for all models. Splitting texts into tokens is not in it.

mod output;

pub use output::{csv, markdown, page};

use super::measure::Quartiles;
use super::report::Machine;
use super::samples::median_interval;
use crate::data::TokenSet;
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::metrics::{self, Bootstrap, Metric};
use crate::models::Outputs;
use crate::predict::Session;
use crate::rng::Rng;
use crate::tasks::{Task, of_outputs};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Texts of the larger batch whose latency is measured.
pub const BATCH: usize = 32;
/// Texts of a pass over which throughput is measured.
const MANY: usize = 256;

/// How models are compared.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The score on the first axis; `None`: the one that training chooses its best model by.
    pub metric: Option<String>,
    /// How often every model is measured.
    pub rounds: usize,
    /// The most tokens of one forward pass, when a model is scored and for its throughput.
    pub max_tokens: usize,
}

/// The times of one kind of pass: one of each round.
#[derive(Clone, Debug, Serialize)]
pub struct Times {
    /// Seconds.
    pub seconds: Quartiles,
    /// The 95 % bootstrap interval of the median.
    pub interval_s: Option<[f64; 2]>,
    /// Seconds of each round, in order.
    pub samples_s: Vec<f64>,
}

impl Times {
    fn of(samples: Vec<f64>) -> Times {
        Times {
            seconds: Quartiles::of(samples.clone()),
            interval_s: median_interval(&samples),
            samples_s: samples,
        }
    }
}

/// One model and what was measured of it.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Its folder, as it was given.
    pub model: String,
    /// The value of the metric.
    pub score: f64,
    /// The 95 % bootstrap interval of the score, over the examples.
    pub interval: [f64; 2],
    /// The time of a pass with one text: the mean over the drawn texts in each round.
    pub latency_1: Times,
    /// The time of a pass with [`BATCH`] texts.
    pub latency_32: Times,
    /// Texts per second in passes of at most [`Settings::max_tokens`] tokens.
    pub texts_per_s: f64,
    /// The number of elements of all parameters.
    pub parameters: usize,
    /// The size of its weight files in bytes.
    pub file_bytes: u64,
    /// The most memory of the device in use at a time, weights included, in bytes; `None` if unknown.
    pub peak_bytes: Option<u64>,
    /// No other model has at least its score in less time with one text, or a better score in the same time.
    pub on_front: bool,
}

/// Models of one task on one device.
#[derive(Clone, Debug, Serialize)]
pub struct Pareto {
    /// The labelled file.
    pub data: String,
    /// The number of examples that the models are scored on.
    pub examples: usize,
    /// The task's name in a recipe.
    pub task: String,
    /// The name of the metric.
    pub metric: String,
    /// Its direction.
    pub higher_is_better: bool,
    /// The device, with its compute type.
    pub device: String,
    /// The number of rounds.
    pub rounds: usize,
    /// The most tokens of one forward pass.
    pub max_tokens: usize,
    /// The machine.
    pub machine: Machine,
    /// The models, in the order in which they were given.
    pub models: Vec<Point>,
}

/// A model that is measured.
struct Candidate {
    name: String,
    session: Session,
    task: Arc<dyn Task>,
    set: TokenSet,
    score: f64,
    interval: [f64; 2],
    times: [Vec<f64>; 3],
}

/// Measures models, each on a device of its own, by its name: so the memory of each is known. `progress` is
/// called after each step of the work with the number of steps that are done, and of all.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for models that predict different things, a metric that their
/// task does not have, and fewer than two models; those of [`Session::labelled`] and [`Session::score`].
pub fn measure(
    models: Vec<(String, Session)>,
    data: &Path,
    settings: &Settings,
    mut progress: impl FnMut(usize, usize),
) -> Result<Pareto> {
    let (first, caps) = same_task(&models)?;
    let entry = of_outputs(&first).ok_or_else(|| Error::model("the models have a head of no known task"))?;
    let metric = metric(entry.best_metric, settings.metric.as_deref())?;
    let all = models.len() * (1 + settings.rounds);
    let mut done = 0;
    let mut step = || {
        done += 1;
        progress(done, all);
    };
    let mut candidates = Vec::new();
    for (name, session) in models {
        let (task, set) = session.labelled(data)?;
        let meter = session.score(&*task, &set)?;
        let of = |scores: metrics::Scores| scores.get(metric.name).unwrap_or(f64::NAN);
        let Some(score) = meter.scores().get(metric.name) else {
            return Err(unknown_metric(metric.name, meter.scores().iter().map(|(name, _)| name)));
        };
        let found = Bootstrap::default().interval(meter.units(), |drawn| of(meter.scores_of(drawn)));
        let interval = [found.low, found.high];
        candidates.push(Candidate { name, session, task, set, score, interval, times: Default::default() });
        step();
    }
    let examples = candidates.first().map_or(0, |c| c.set.len());
    let drawn = drawn(examples)?;
    for c in &candidates {
        // What is compiled or allocated once is no part of a latency.
        c.pass(&drawn[..1], usize::MAX)?;
        c.pass(&drawn[..BATCH], usize::MAX)?;
    }
    for round in 0..settings.rounds {
        for i in 0..candidates.len() {
            let at = (i + round) % candidates.len();
            candidates[at].round(&drawn, settings.max_tokens)?;
            step();
        }
    }
    let points = candidates.into_iter().map(|c| c.point(drawn.len())).collect::<Result<_>>()?;
    Ok(Pareto {
        data: data.to_string_lossy().into_owned(),
        examples,
        task: entry.name.to_owned(),
        metric: metric.name.to_owned(),
        higher_is_better: metric.higher_is_better,
        device: caps.label(),
        rounds: settings.rounds,
        max_tokens: settings.max_tokens,
        machine: Machine::here(),
        models: with_front(points, metric),
    })
}

/// The outputs of the models, which predict the same, and their device.
fn same_task(models: &[(String, Session)]) -> Result<(Outputs, Caps)> {
    let [(name, first), others @ ..] = models else {
        return Err(Error::usage("there is no model to measure"));
    };
    if others.is_empty() {
        return Err(Error::usage("one model cannot be compared")
            .with_expected("at least two model folders")
            .with_found(name));
    }
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    // The order of classes may differ: labels are matched by name.
    let key = |outputs: &Outputs| match outputs {
        Outputs::Classes(names) => Outputs::Classes(sorted(names)),
        Outputs::Labels(names) => Outputs::Labels(sorted(names)),
        Outputs::Tags(names) => Outputs::Tags(sorted(names)),
        other => other.clone(),
    };
    let wanted = key(first.outputs());
    if let Some((other, session)) = others.iter().find(|(_, s)| key(s.outputs()) != wanted) {
        return Err(Error::usage("the models do not predict the same, so their scores cannot be compared")
            .at(&session.folder.dir)
            .with_expected(format!("as {name}: {:?}", first.outputs()))
            .with_found(format!("{other}: {:?}", session.outputs()))
            .with_help("name models of one task with the same classes"));
    }
    Ok((wanted, first.device().caps()))
}

fn metric(default: &'static str, wanted: Option<&str>) -> Result<&'static Metric> {
    let name = wanted.unwrap_or(default);
    metrics::find(name).ok_or_else(|| unknown_metric(name, metrics::METRICS.iter().map(|m| m.name)))
}

fn unknown_metric<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    Error::usage(format!("the models have no score {name:?}"))
        .with_expected(known.collect::<Vec<_>>().join(", "))
        .with_help("choose one of them with --metric, or leave it out")
}

/// The examples that passes are timed on, of which the first [`BATCH`] are the larger batch. A file with
/// fewer examples gives each several times.
fn drawn(examples: usize) -> Result<Vec<u32>> {
    if examples == 0 {
        return Err(Error::data("the file has no examples"));
    }
    let mut order: Vec<u32> = (0..examples as u32).collect();
    Rng::new(0, "pareto", 0).shuffle(&mut order);
    let count = MANY.min(examples.next_multiple_of(BATCH));
    Ok(order.iter().copied().cycle().take(count).collect())
}

impl Candidate {
    /// Seconds of the passes over some examples.
    fn pass(&self, examples: &[u32], max_tokens: usize) -> Result<f64> {
        let begun = Instant::now();
        self.session.run_examples(&*self.task, &self.set, examples, max_tokens)?;
        Ok(begun.elapsed().as_secs_f64())
    }
    fn round(&mut self, drawn: &[u32], max_tokens: usize) -> Result<()> {
        let batch = &drawn[..BATCH];
        let mut single = 0.0;
        for example in batch {
            single += self.pass(std::slice::from_ref(example), usize::MAX)?;
        }
        let seconds = [single / BATCH as f64, self.pass(batch, usize::MAX)?, self.pass(drawn, max_tokens)?];
        self.times.iter_mut().zip(seconds).for_each(|(times, seconds)| times.push(seconds));
        Ok(())
    }
    fn point(self, drawn: usize) -> Result<Point> {
        let [one, batch, many] = self.times.map(Times::of);
        Ok(Point {
            model: self.name,
            score: self.score,
            interval: self.interval,
            latency_1: one,
            latency_32: batch,
            texts_per_s: drawn as f64 / many.seconds.median,
            parameters: self.session.parameters(),
            file_bytes: self.session.folder.weight_bytes()?,
            peak_bytes: self.session.device().peak_bytes(),
            on_front: false,
        })
    }
}

/// Marks the models that no other dominates: by score and by the median time with one text.
fn with_front(mut points: Vec<Point>, metric: &Metric) -> Vec<Point> {
    let place = |p: &Point| (metric.gain(0.0, p.score), p.latency_1.seconds.median);
    let places: Vec<(f64, f64)> = points.iter().map(place).collect();
    for (point, own) in points.iter_mut().zip(&places) {
        let dominates = |other: &&(f64, f64)| other.0 >= own.0 && other.1 <= own.1 && *other != own;
        point.on_front = !own.0.is_nan() && !places.iter().any(|other| dominates(&other));
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(score: f64, seconds: f64) -> Point {
        let times = || Times::of(vec![seconds]);
        Point {
            model: String::new(),
            score,
            interval: [score; 2],
            latency_1: times(),
            latency_32: times(),
            texts_per_s: 1.0,
            parameters: 1,
            file_bytes: 1,
            peak_bytes: None,
            on_front: false,
        }
    }

    #[test]
    fn a_model_on_the_front_is_dominated_by_none() {
        let front = |metric: &str, all: &[(f64, f64)]| -> Vec<bool> {
            let points = all.iter().map(|&(score, seconds)| point(score, seconds)).collect();
            let marked = with_front(points, metrics::find(metric).expect("a metric"));
            marked.iter().map(|p| p.on_front).collect()
        };
        let all = [(0.9, 3.0), (0.8, 1.0), (0.8, 2.0), (0.7, 1.5), (0.9, 3.0), (f64::NAN, 0.1)];
        assert_eq!(front("accuracy", &all), [true, true, false, false, true, false]);
        // Where lower is better, the order of the scores is the other way round.
        assert_eq!(front("mse", &all), [false, true, false, true, false, false]);
    }

    #[test]
    fn few_examples_fill_the_larger_batch() {
        for examples in [1, 5, 31, 32, 33, 1000] {
            let drawn = drawn(examples).expect("examples");
            assert!(drawn.len() >= BATCH && drawn.len() <= MANY, "{examples}: {}", drawn.len());
            assert!(drawn.iter().all(|&e| (e as usize) < examples));
        }
        assert!(drawn(0).is_err());
    }
}
