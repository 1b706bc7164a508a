//! The teacher of a run: found before the memory is planned, asked before the student is opened.

use super::super::distill::SoftLoss;
use super::super::memory::MemoryPlan;
use super::super::recipe::Recipe;
use super::TaskRun;
use crate::cache;
use crate::compress::{SoftTargets, Teacher};
use crate::device::{Caps, Device};
use crate::error::{Error, Result};
use crate::models::source;
use crate::text::Tokenizer;
use crate::units::bytes;

/// What the run keeps of its teacher.
#[derive(Clone, Debug, Default)]
pub struct TeacherReport {
    /// Its folder.
    pub path: String,
    /// Hash of its weights and config.
    pub hash: String,
    /// How many outputs it gave.
    pub outputs: usize,
    /// Whether these were read from the cache.
    pub cached: bool,
}

/// The teacher that the recipe names, if it does. The task's loss counts with it from here on, though its
/// outputs are not there yet.
/// `width` is that of the student's vectors.
pub(super) fn find(
    recipe: &Recipe,
    tokenizer: &Tokenizer,
    width: usize,
    parts: &mut [TaskRun],
) -> Result<Option<Teacher>> {
    let (Some(path), [part]) = (&recipe.distill.teacher, parts) else { return Ok(None) };
    let dir = source::resolve(path)?;
    let longest = part.train.longest_sequence();
    let teacher = Teacher::find(&dir, &*part.task, width, tokenizer, longest)?;
    part.soft = Some(SoftLoss {
        targets: SoftTargets::zeros(&part.train, &*part.task, width),
        weight: recipe.distill.weight,
        temperature: recipe.distill.temperature,
    });
    Ok(Some(teacher))
}

/// Adds what the teacher takes to the plan; it is gone when the student comes.
pub(super) fn plan(
    recipe: &Recipe,
    teacher: &Teacher,
    caps: &Caps,
    part: &TaskRun,
    plan: MemoryPlan,
) -> Result<MemoryPlan> {
    let taken = teacher.plan(caps, &part.train, recipe.train.max_tokens)?;
    let free = caps.memory_bytes.map(|all| all.saturating_sub(caps.taken_bytes));
    if let Some(free) = free.filter(|free| taken > *free) {
        return Err(Error::memory(format!("the teacher does not fit into the memory of {}", caps.name))
            .with_expected(format!("at least {}", bytes(taken)))
            .with_found(bytes(free))
            .with_help("lower train.max_tokens, choose a smaller teacher, or use --device cpu"));
    }
    Ok(MemoryPlan { teacher: taken, total: plan.total.max(taken), ..plan })
}

/// Takes the teacher's outputs for the training examples, with a warning about the cache if something was
/// wrong with it.
pub(super) fn ask(
    recipe: &Recipe,
    teacher: &Teacher,
    device: &Device,
    part: &mut TaskRun,
) -> Result<(TeacherReport, Option<Error>)> {
    let cache = if recipe.data.cache { cache::dir().map(|dir| dir.join("teacher")) } else { None };
    let taught = teacher.teach(device, &part.train, recipe.train.max_tokens, cache.as_deref())?;
    if let Some(soft) = &mut part.soft {
        soft.targets = taught.targets;
    }
    let path = recipe.distill.teacher.clone().unwrap_or_default();
    let (hash, outputs, cached) = (teacher.hash.clone(), part.train.len(), taught.cached);
    Ok((TeacherReport { path, hash, outputs, cached }, taught.warning))
}
