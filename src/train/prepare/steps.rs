//! Which examples make a step: a function of the recipe, its seed and the epoch alone.

use super::super::recipe::{Recipe, Sampling};
use super::TaskRun;
use crate::data::{Batch, BatchOptions, BatchSize, epoch, micro_batches};
use crate::error::Result;
use crate::rng::Rng;

/// What one optimizer step learns from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::train) struct Step {
    /// The task, by its place among the parts.
    pub part: usize,
    /// Its examples.
    pub examples: Vec<u32>,
}

/// The steps of an epoch. With several tasks an epoch has as many steps as all have together, and sampling
/// says how many of them are of each and in which order; a task that comes up more often than it has steps
/// begins anew, shuffled again.
pub(in crate::train) fn epoch_of(parts: &[TaskRun], recipe: &Recipe, index: u64) -> Result<Vec<Step>> {
    let t = &recipe.train;
    let batch = t.batch_tokens.map_or(BatchSize::Sequences(t.batch_size), BatchSize::Tokens);
    let options = BatchOptions { batch, group_by_length: t.group_by_length, drop_last: false };
    let own = |part: usize, round: u64| -> Result<Vec<Step>> {
        // A seed of its own for each task, that of the recipe for the first.
        let seed = recipe.seed ^ ((part as u64) << 32);
        let steps = epoch(&parts[part].train.lengths(), seed, round, &options)?;
        Ok(steps.into_iter().map(|examples| Step { part, examples }).collect())
    };
    if parts.len() == 1 {
        return own(0, index);
    }
    let sizes = (0..parts.len()).map(|i| Ok(own(i, 0)?.len())).collect::<Result<Vec<usize>>>()?;
    let counts = counts(&sizes, recipe.multi.sampling, recipe.multi.temperature);
    let mut queues = Vec::new();
    for (part, (&count, &size)) in counts.iter().zip(&sizes).enumerate() {
        let (first, mut steps) = (index * count as u64, Vec::new());
        let mut round = first / size as u64;
        let mut rest = own(part, round)?.split_off((first % size as u64) as usize).into_iter();
        while steps.len() < count {
            match rest.next() {
                Some(step) => steps.push(step),
                None => {
                    round += 1;
                    rest = own(part, round)?.into_iter();
                }
            }
        }
        queues.push(steps.into_iter());
    }
    let mut order: Vec<usize> = match recipe.multi.sampling {
        Sampling::RoundRobin => (0..counts.iter().sum::<usize>()).map(|i| i % counts.len()).collect(),
        _ => counts.iter().enumerate().flat_map(|(part, &n)| std::iter::repeat_n(part, n)).collect(),
    };
    if recipe.multi.sampling != Sampling::RoundRobin {
        Rng::new(recipe.seed, "tasks", index).shuffle(&mut order);
    }
    Ok(order.into_iter().filter_map(|part| queues[part].next()).collect())
}

/// Steps of each task in an epoch: together as many as all have, but for rounding, and of each at least one.
fn counts(sizes: &[usize], sampling: Sampling, temperature: f64) -> Vec<usize> {
    let total: usize = sizes.iter().sum();
    match sampling {
        Sampling::Proportional => sizes.to_vec(),
        Sampling::RoundRobin => vec![total.div_ceil(sizes.len()); sizes.len()],
        Sampling::Temperature => {
            let roots: Vec<f64> = sizes.iter().map(|&n| (n as f64).powf(1.0 / temperature)).collect();
            let sum: f64 = roots.iter().sum();
            roots.iter().map(|r| ((total as f64 * r / sum).round() as usize).max(1)).collect()
        }
    }
}

/// The batches of a step, prepared for the task: as many passes as the recipe and `max_tokens` ask for.
pub(in crate::train) fn batches(
    parts: &[TaskRun],
    recipe: &Recipe,
    step: &Step,
    number: u64,
    max_tokens: usize,
) -> Result<Vec<Batch>> {
    let part = &parts[step.part];
    let mut batches =
        micro_batches(&part.train, &step.examples, recipe.train.accumulation, Some(max_tokens), 0)?;
    let mut first = 0;
    for batch in &mut batches {
        batch.head = step.part;
        part.prepare(batch, (recipe.seed, number))?;
        // Preparing may add tokens.
        batch.first_token = first;
        first = first.saturating_add(batch.ids.len() as u32);
    }
    Ok(batches)
}
