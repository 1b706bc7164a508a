//! What a run says of itself before the first step.

use super::events::{Prepared, PruningReport};
use super::prepare::{self, Run};
use super::recipe::Recipe;
use crate::data::{TagFormat, TokenSet, micro_batches};
use crate::error::Result;
use crate::models::{Outputs, PairObjective};
use crate::nn::Distance;
use crate::optim::Optimizer;
use crate::params::MaskUnit;
use crate::rng::Rng;
use crate::tasks;
use std::sync::Arc;

/// Batches that approximated attention is compared with exact attention on.
const COMPARED: usize = 4;

/// The relative error of approximated attention, layer by layer, on some training examples.
pub(super) fn approximation(run: &Run, max_tokens: usize) -> Result<Vec<f64>> {
    let Some(part) = run.parts.first() else { return Ok(Vec::new()) };
    let mut examples: Vec<u32> = (0..part.train.len() as u32).collect();
    Rng::new(0, "approximation", 0).shuffle(&mut examples);
    examples.truncate(COMPARED * 16);
    let mut batches = micro_batches(&part.train, &examples, COMPARED, Some(max_tokens), 0)?;
    batches.iter_mut().try_for_each(|batch| part.task.prepare(batch, tasks::EVALUATION))?;
    let (device, model) = (&run.device, &run.model);
    let run = || tasks::for_each_output(device, model, &batches, |_, _| Ok(()));
    Ok(model.approximation(run)?.iter().map(Distance::relative).collect())
}

/// How the tags of a part are written, if it has tags.
fn tag_scheme(part: &prepare::TaskRun) -> Option<String> {
    let Outputs::Tags(_) = part.task.outputs() else { return None };
    Some(part.metadata.tag_format().unwrap_or(TagFormat::Words).describe())
}

/// What a run found before its first step.
pub(super) fn describe(run: &Run, recipe: &Recipe, optimizer: &Optimizer, steps: u64) -> Prepared {
    let masked = |unit| prepare::maskable(&run.model, unit);
    let size = |(_, name, set): &(bool, String, Arc<TokenSet>)| {
        (name.clone(), set.len(), set.ids.len(), set.lost.iter().map(|&n| n as u64).sum())
    };
    // Each set with its name, and whether it holds pairs of sentences.
    let of = |part: &prepare::TaskRun| {
        let sets = [
            ("train", Some(&part.train)),
            ("validation", part.validation.as_ref()),
            ("test", part.test.as_ref()),
        ];
        let pairs = part.task.outputs() == Outputs::Pretraining(PairObjective::Next);
        let named = |split: &str| {
            if part.name.is_empty() { split.to_owned() } else { format!("{} {split}", part.name) }
        };
        let sets = sets.map(|(split, set)| set.map(|set| (pairs, named(split), set.clone())));
        sets.into_iter().flatten().collect::<Vec<_>>()
    };
    let sets: Vec<_> = run.parts.iter().flat_map(of).collect();
    let kinds = |(_, name, set): &(bool, String, Arc<TokenSet>)| {
        let random = set.targets.classes().iter().filter(|class| **class == 1).count();
        (name.clone(), set.len() - random, random)
    };
    Prepared {
        device: run.device.caps().label(),
        weights: run.weights.clone(),
        parameters: run.model.params.count(),
        parameter_bytes: run.model.params.bytes() + optimizer.bytes(),
        splits: sets.iter().map(size).collect(),
        pairs: sets.iter().filter(|(pairs, ..)| *pairs).map(kinds).collect(),
        classes: run.parts.iter().flat_map(|p| p.classes.clone()).collect(),
        tag_schemes: run.parts.iter().filter_map(|p| Some((p.name.clone(), tag_scheme(p)?))).collect(),
        steps,
        selection: run.selection.as_ref().map(|s| s.formula().to_owned()),
        skipped_rows: run.skipped_rows,
        verified: run.verified(),
        memory: run.memory,
        teacher: run.teacher.clone(),
        pruning: run.pruning.clone().map(|pruning| PruningReport {
            maskable: MaskUnit::ALL.map(masked),
            schedule: recipe.prune.schedule(steps),
            pruning,
        }),
    }
}
