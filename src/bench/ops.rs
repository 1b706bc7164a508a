//! Measures every op of `OPS` at the shapes of models, forward and backward.

use super::measure::{Workbench, is_gone, reason};
use super::monitor::is_stopped;
use super::report::{OpRow, Report, Skipped};
use super::samples::median_interval;
use super::shapes::{Job, LengthSource, ModelShape, SequenceLengths, jobs, jobs_of};
use crate::error::Result;
use crate::ops::OPS;
use std::collections::HashSet;

/// The names of all ops, in the order of `OPS`.
pub fn names() -> impl Iterator<Item = &'static str> {
    OPS.iter().map(|(op, _)| *op)
}

/// The jobs of the ops that `wanted` selects, by model. Jobs that do not depend on the number of tokens occur
/// once.
pub fn plan(models: &[ModelShape], tokens: &[usize], wanted: &dyn Fn(&str) -> bool) -> Vec<Job> {
    let mut all = Vec::new();
    for model in models {
        for (i, &tokens) in tokens.iter().enumerate() {
            for (op, _) in OPS.iter().filter(|(op, _)| wanted(op)) {
                all.extend(jobs(op, model, tokens).into_iter().filter(|job| i == 0 || job.tokens > 0));
            }
        }
    }
    once_each(all)
}

/// As [`plan`], for batches of sequences whose lengths come from a source: the list itself, or a draw for
/// each number of tokens.
pub fn plan_lengths(
    models: &[ModelShape],
    tokens: &[usize],
    lengths: &LengthSource,
    wanted: &dyn Fn(&str) -> bool,
) -> Vec<Job> {
    let batches: Vec<SequenceLengths> = match lengths.list() {
        Some(list) => vec![list.clone()],
        None => tokens.iter().map(|&tokens| lengths.with_tokens(tokens)).collect(),
    };
    let mut all = Vec::new();
    for model in models {
        for (i, batch) in batches.iter().enumerate() {
            for (op, _) in OPS.iter().filter(|(op, _)| wanted(op)) {
                all.extend(jobs_of(op, model, batch).into_iter().filter(|job| i == 0 || job.tokens > 0));
            }
        }
    }
    once_each(all)
}

/// The jobs without those that were there before.
fn once_each(mut all: Vec<Job>) -> Vec<Job> {
    let mut seen = HashSet::new();
    all.retain(|job| seen.insert((job.op.to_owned(), job.role.to_string(), job.model.clone(), job.tokens)));
    all
}

/// Measures the jobs and adds the results to the report, until `stop` returns true or a signal comes. Jobs
/// that a device refuses are added as skipped.
///
/// # Errors
/// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost. The report then holds the measurements
/// made before.
pub fn run(
    bench: &Workbench,
    jobs: &[Job],
    report: &mut Report,
    stop: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(&Job),
) -> Result<()> {
    for job in jobs {
        if stop() {
            break;
        }
        progress(job);
        if let Some(why) = job.refusal() {
            report.skipped.push(Skipped { device: bench.id.clone(), what: job.label(), why });
            continue;
        }
        let passes = match bench.measure(job) {
            Err(e) if is_gone(&e) => return Err(e),
            Err(e) if is_stopped(&e) => break,
            Err(e) => {
                report.skipped.push(Skipped { device: bench.id.clone(), what: job.label(), why: reason(&e) });
                continue;
            }
            Ok(passes) => passes,
        };
        let inputs = job.inputs_in(bench.device.caps().compute);
        let shapes: Vec<Vec<usize>> = inputs.into_iter().map(|(_, spec)| spec.shape).collect();
        for (pass, timing, [flops, bytes]) in passes {
            report.ops.push(OpRow {
                device: bench.id.clone(),
                op: job.op.to_owned(),
                role: job.role.clone(),
                model: job.model.clone(),
                tokens: job.tokens,
                pass,
                shapes: shapes.clone(),
                lengths: job.lengths.as_ref().map(SequenceLengths::summary),
                seconds: timing.seconds,
                samples: timing.samples,
                interval_s: median_interval(&timing.samples_s),
                samples_s: timing.samples_s,
                repeats: timing.repeats,
                timing: Some(timing.timing),
                warm_s: timing.warm,
                sets: timing.sets,
                beyond_cache: timing.beyond_cache,
                flops,
                bytes,
                launches: timing.launches,
                pace: timing.pace,
                kernels: timing.kernels,
                clocks: timing.clocks,
                ..OpRow::default()
            });
        }
        bench.added(report);
    }
    Ok(())
}
