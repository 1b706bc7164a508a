//! The teacher of a run: found before the memory is planned. It is asked before the student is opened, or
//! runs beside it, or both.

use super::super::beside::{TeacherRun, TeacherScores};
use super::super::distill::SoftLoss;
use super::super::live::LiveLosses;
use super::super::memory::MemoryPlan;
use super::super::recipe::{Recipe, TaskKind};
use super::TaskRun;
use crate::cache;
use crate::compress::{LiveFolder, LiveHead, SoftTargets, Teacher};
use crate::data::TokenSet;
use crate::device::{Caps, Device};
use crate::error::{Error, Result};
use crate::models::{ModelShape, Options, Outputs, source};
use crate::text::Tokenizer;
use crate::units::bytes;
use std::path::Path;

/// What the run keeps of its teacher.
#[derive(Clone, Debug, Default)]
pub struct TeacherReport {
    /// Its folder.
    pub path: String,
    /// Hash of its weights and config.
    pub hash: String,
    /// How many outputs it gave before training.
    pub outputs: usize,
    /// Whether these were read from the cache.
    pub cached: bool,
    /// What it gives while the student trains, in words; empty if it does not run then.
    pub live: String,
    /// What it scores on the examples that the run's model is scored on, if its outputs are kept and there
    /// are such examples.
    pub scores: Option<TeacherScores>,
}

/// The teacher in its two roles.
#[derive(Default)]
pub(super) struct Found {
    /// It is asked for the logits of the training examples, which are kept.
    pub kept: Option<Teacher>,
    /// It runs beside the student.
    pub live: Option<LiveFolder>,
}

/// The teacher that the recipe names, if it does. The task's losses count with it from here on, though
/// outputs that are kept are not there yet. The student is the model of a folder with these options; `width`
/// is that of its vectors.
pub(super) fn find(
    recipe: &Recipe,
    (folder, options, width): (&Path, &Options, usize),
    tokenizer: &Tokenizer,
    parts: &mut [TaskRun],
) -> Result<Found> {
    let d = &recipe.distill;
    let (Some(path), [part]) = (&d.teacher, parts) else { return Ok(Found::default()) };
    let dir = source::resolve(path)?;
    let longest = sets(part).map(|set| set.longest_sequence()).max().unwrap_or(0);
    part.labels = d.labels();
    let mut found = Found::default();
    if recipe.has_live_teacher() {
        let head = match (recipe.has_live_logits(), recipe.task) {
            (false, _) => LiveHead::None,
            (true, TaskKind::Mask) => LiveHead::Masked,
            (true, _) => LiveHead::Own,
        };
        let order = match head {
            LiveHead::Own => Teacher::find(&dir, &*part.task, width, tokenizer, longest)?.order().to_vec(),
            LiveHead::None | LiveHead::Masked => Vec::new(),
        };
        let vectors = part.task.outputs() == Outputs::Embedding;
        let live = LiveFolder::find(&dir, head, vectors, tokenizer, longest)?;
        let student = ModelShape::of(folder, options)?.encoder;
        let losses = LiveLosses::of(recipe, &student, &live.encoder).map_err(|e| e.at(&dir))?;
        part.live = losses.map(|losses| losses.with_order(order));
        found.live = Some(live);
    }
    if d.logits() > 0.0 && !recipe.has_live_logits() {
        found.kept = Some(Teacher::find(&dir, &*part.task, width, tokenizer, longest)?);
        part.soft = Some(SoftLoss {
            targets: SoftTargets::zeros(&part.train, &*part.task, width),
            weight: d.logits(),
            temperature: d.temperature,
        });
    }
    Ok(found)
}

/// The examples that a teacher is asked about.
fn sets(part: &TaskRun) -> impl Iterator<Item = &TokenSet> {
    [Some(&part.train), part.validation.as_ref(), part.test.as_ref()].into_iter().flatten().map(|set| &**set)
}

/// Adds what the teacher takes before training to the plan; it is gone when the student comes.
pub(super) fn plan(
    recipe: &Recipe,
    teacher: &Teacher,
    caps: &Caps,
    part: &TaskRun,
    plan: MemoryPlan,
) -> Result<MemoryPlan> {
    let taken = sets(part).map(|set| teacher.plan(caps, set, recipe.train.max_tokens));
    let taken = taken.collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(0);
    let free = caps.memory_bytes.map(|all| all.saturating_sub(caps.taken_bytes));
    if let Some(free) = free.filter(|free| taken > *free) {
        return Err(Error::memory(format!("the teacher does not fit into the memory of {}", caps.name))
            .with_expected(format!("at least {}", bytes(taken)))
            .with_found(bytes(free))
            .with_help("lower train.max_tokens, choose a smaller teacher, or use --device cpu"));
    }
    Ok(MemoryPlan { teacher: taken, total: plan.total.max(taken), ..plan })
}

/// Takes the teacher's outputs for the training examples, if they are kept, with a warning about the cache if
/// something was wrong with it. What the run reports of its teacher.
pub(super) fn ask(
    recipe: &Recipe,
    found: &Found,
    device: &Device,
    part: &mut TaskRun,
) -> Result<(Option<TeacherReport>, Option<Error>)> {
    let mut report = TeacherReport {
        path: recipe.distill.teacher.clone().unwrap_or_default(),
        live: part.live.as_ref().map(LiveLosses::to_string).unwrap_or_default(),
        ..TeacherReport::default()
    };
    if let Some(folder) = &found.live {
        report.hash = folder.hash.clone();
    }
    let Some(teacher) = &found.kept else { return Ok((found.live.as_ref().map(|_| report), None)) };
    let cache = if recipe.data.cache { cache::dir().map(|dir| dir.join("teacher")) } else { None };
    let taught = teacher.teach(device, &part.train, recipe.train.max_tokens, cache.as_deref())?;
    if let Some(soft) = &mut part.soft {
        soft.targets = taught.targets;
    }
    let run = TeacherRun { device, max_tokens: recipe.train.max_tokens, cache: cache.as_deref() };
    let held = [part.validation.as_deref(), part.test.as_deref()];
    let (scores, warning) = run.scores(teacher, &*part.task, held)?;
    let (hash, outputs, cached) = (teacher.hash.clone(), part.train.len(), taught.cached);
    let report = TeacherReport { hash, outputs, cached, scores, ..report };
    Ok((Some(report), taught.warning.or(warning)))
}
