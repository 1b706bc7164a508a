//! When a key of a recipe has an effect: one table for all keys. A key that is set to something and has no
//! effect is warned about. (Keys that contradict each other are errors; see `check`.)

use super::field::{Attention, Sampling};
use super::table::{Item, Reader, Section};
use super::{PairLoss, Recipe, TaskKind, check};
use crate::compress::prune::PruneMethod;
use crate::error::Error;
use crate::tasks::TASKS;
use std::collections::BTreeMap;
use std::path::Path;

/// When a key has an effect.
struct Effect {
    /// `section.name`, or `section.*` for the other keys of a section.
    key: &'static str,
    /// Whether it has one in this recipe.
    has: fn(&Recipe) -> bool,
    /// What it takes to have one, in words.
    needs: &'static str,
}

const fn effect(key: &'static str, has: fn(&Recipe) -> bool, needs: &'static str) -> Effect {
    Effect { key, has, needs }
}

/// Keys that always have an effect, or whose misuse is an error of its own.
const ALWAYS: &[&str] = &[
    "task",
    "seeds",
    "device",
    "precision",
    "threads",
    "output",
    "model.path",
    "model.attention",
    "model.attention_features",
    "model.dropout",
    "model.freeze",
    "data.cache",
    "train.max_steps",
    "train.batch_tokens",
    "train.accumulation",
    "train.max_tokens",
    "train.group_by_length",
    "train.save_every",
    "train.keep_checkpoints",
    "train.early_stopping",
    "train.load_best",
    "train.max_nonfinite_steps",
    "train.log_every",
    "optim.*",
    "prune.sparsity",
    "prune.parameters",
    "prune.heads",
    "prune.ffn",
    "multi.recipes",
    "multi.weights",
    "distill.teacher",
    "distill.preset",
    "model.layers",
];

const ROWS: &str = "task \"classify\", \"multilabel\", \"regress\" or \"similar\"";
const ONE_TASK: &str = "a single task; with task \"multi\", set it in the recipes of multi.recipes";

/// The rest, each with its condition. The first entry that fits a key counts.
const EFFECTS: &[Effect] = &[
    effect("seed", |r| r.seeds.is_empty(), "an empty list of seeds, which replace it"),
    effect(
        "model.attention_redraw",
        |r| r.model.attention == Attention::Performer,
        "model.attention = \"performer\"",
    ),
    effect(
        "model.attention_dropout",
        |r| r.model.attention != Attention::Performer,
        "exact attention; approximated attention has no dropout",
    ),
    effect("model.pooling", |r| several(r) || rows(r), ROWS),
    effect(
        "model.classifier_dropout",
        |r| {
            several(r)
                || is(
                    r,
                    &[
                        TaskKind::Classify,
                        TaskKind::Multilabel,
                        TaskKind::Regress,
                        TaskKind::Tag,
                        TaskKind::Answer,
                    ],
                )
        },
        "task \"classify\", \"multilabel\", \"regress\", \"tag\" or \"answer\"",
    ),
    effect(
        "data.text",
        |r| !several(r) && !is(r, &[TaskKind::Answer]) && !plain_text(r),
        "a file with columns, unlike SQuAD's JSON and plain text",
    ),
    effect("data.pair", rows, ROWS),
    effect(
        "data.label",
        |r| rows(r) || is(r, &[TaskKind::Tag]),
        "task \"classify\", \"multilabel\", \"regress\", \"similar\" or \"tag\"",
    ),
    effect(
        "data.separator",
        |r| is(r, &[TaskKind::Multilabel]) && r.data.label.several().is_empty(),
        "task \"multilabel\" with one label column",
    ),
    effect(
        "data.validation_fraction",
        |r| !several(r) && r.data.validation.is_none(),
        "a recipe without data.validation, which replaces it",
    ),
    effect(
        "data.test_fraction",
        |r| !several(r) && r.data.test.is_none(),
        "a recipe without data.test, which replaces it",
    ),
    effect(
        "data.split_seed",
        |r| r.task.entry().pair().is_some() || splits(r),
        "a validation or test set that is split off the training file",
    ),
    effect(
        "data.stride",
        |r| is(r, &[TaskKind::Tag, TaskKind::Answer]),
        "task \"tag\" or \"answer\"; other tasks truncate long texts",
    ),
    effect("data.*", |r| !several(r), ONE_TASK),
    effect(
        "train.epochs",
        |r| r.train.max_steps.is_none(),
        "a recipe without train.max_steps, which replaces it",
    ),
    effect(
        "train.batch_size",
        |r| r.train.batch_tokens.is_none(),
        "a recipe without train.batch_tokens, which replaces it",
    ),
    effect("train.eval_every", validates, "validation examples"),
    effect("train.best_metric", validates, "validation examples"),
    effect("loss.*", |r| !several(r), ONE_TASK),
    effect("prune.threshold", |r| r.prune.is_soft(), "prune.method = \"soft_movement\""),
    effect("prune.penalty", |r| r.prune.is_soft(), "prune.method = \"soft_movement\""),
    effect(
        "prune.score_lr",
        |r| r.prune.is_on() && r.prune.method != PruneMethod::Magnitude,
        "prune.method = \"movement\" or \"soft_movement\"",
    ),
    effect(
        "prune.*",
        |r| r.prune.is_on(),
        "prune.sparsity, prune.heads or prune.ffn above 0, or prune.parameters",
    ),
    effect(
        "multilabel.tune_thresholds",
        |r| is(r, &[TaskKind::Multilabel]) && validates(r),
        "task \"multilabel\" with validation examples",
    ),
    effect(
        "mask.by_row",
        |r| is(r, &[TaskKind::Mask]) && plain_text(r),
        "task \"mask\" with plain text files (.txt); in other files each row is an example anyway",
    ),
    effect(
        "permute.by_row",
        |r| is(r, &[TaskKind::Permute]) && plain_text(r),
        "task \"permute\" with plain text files (.txt); in other files each row is an example anyway",
    ),
    effect(
        "similar.temperature",
        |r| is(r, &[TaskKind::Similar]) && r.similar.loss == PairLoss::Contrastive,
        "task \"similar\" with loss \"contrastive\"",
    ),
    effect(
        "similar.label_scale",
        |r| is(r, &[TaskKind::Similar]) && r.similar.loss == PairLoss::Cosine,
        "task \"similar\" with loss \"cosine\"",
    ),
    effect(
        "distill.weight",
        |r| teacher(r) && (r.distill.label_weight.is_none() || r.distill.logits_weight.is_none()),
        "distill.teacher, and no distill.label_weight and distill.logits_weight, which replace it",
    ),
    effect(
        "distill.temperature",
        |r| teacher(r) && r.distill.logits() > 0.0 && !is(r, &[TaskKind::Regress, TaskKind::Similar]),
        "distill.teacher, distill.logits_weight above 0, and a task with logits, unlike \"regress\" and \"similar\"",
    ),
    effect(
        "distill.live",
        |r| teacher(r) && r.distill.logits() > 0.0,
        "distill.teacher, and distill.logits_weight above 0",
    ),
    effect(
        "distill.hidden_layers",
        |r| teacher(r) && r.distill.hidden() > 0.0,
        "distill.teacher, and distill.hidden_weight above 0",
    ),
    effect(
        "distill.hidden_loss",
        states,
        "distill.teacher, and distill.hidden_weight or embedding_weight above 0",
    ),
    effect(
        "distill.projection",
        states,
        "distill.teacher, and distill.hidden_weight or embedding_weight above 0",
    ),
    effect("distill.relation_heads", relations, "distill.teacher, and distill.relation_weight above 0"),
    effect("distill.relation_layer", relations, "distill.teacher, and distill.relation_weight above 0"),
    effect("distill.*", teacher, "distill.teacher"),
    effect(
        "multi.temperature",
        |r| several(r) && r.multi.sampling == Sampling::Temperature,
        "task \"multi\" with sampling \"temperature\"",
    ),
];

/// Keys, and sections of every task, of a recipe in `multi.recipes` that count there, beside the sections of
/// its task; of the others those of the top recipe count.
const OF_A_PART: &[&str] = &["task", "data.", "train.best_metric", "loss."];

fn is(r: &Recipe, tasks: &[TaskKind]) -> bool {
    tasks.contains(&r.task)
}
fn teacher(r: &Recipe) -> bool {
    r.distill.teacher.is_some()
}
fn states(r: &Recipe) -> bool {
    teacher(r) && (r.distill.hidden() > 0.0 || r.distill.embedding() > 0.0)
}
fn relations(r: &Recipe) -> bool {
    teacher(r) && r.distill.relation() > 0.0
}
fn several(r: &Recipe) -> bool {
    r.task == TaskKind::Multi
}
fn rows(r: &Recipe) -> bool {
    r.task.entry().rows()
}
/// Of several tasks it is not known before their recipes are read.
fn validates(r: &Recipe) -> bool {
    several(r) || r.data.validates()
}
fn splits(r: &Recipe) -> bool {
    let d = &r.data;
    let taken = |file: &Option<_>, share: f64| file.is_none() && share > 0.0;
    !several(r) && (taken(&d.validation, d.validation_fraction) || taken(&d.test, d.test_fraction))
}
/// Whether a file is plain text, which has no columns.
fn plain_text(r: &Recipe) -> bool {
    let plain = |p: &Path| {
        p.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt") || e.eq_ignore_ascii_case("text"))
    };
    let d = &r.data;
    r.task.entry().language().is_some()
        && [Some(&d.train), d.validation.as_ref(), d.test.as_ref()].into_iter().flatten().any(|p| plain(p))
}

/// Whether a key counts in a recipe of `multi.recipes`.
fn counts_in_a_part(key: &str) -> bool {
    let of_every_task = OF_A_PART.iter().any(|p| key == *p || (p.ends_with('.') && key.starts_with(p)));
    let own = !readers(key).is_empty() && !key.starts_with("multi.");
    key != "data.cache" && (of_every_task || own)
}

fn matches(pattern: &str, key: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(section) => key.strip_prefix(section).is_some_and(|name| !name.contains('.')),
        None => pattern == key,
    }
}

/// The condition of a key; `None` if it always has an effect.
fn condition(key: &str) -> Option<&'static Effect> {
    if ALWAYS.iter().any(|pattern| matches(pattern, key)) {
        return None;
    }
    EFFECTS.iter().find(|e| matches(e.key, key))
}

/// The tasks that read the section of a key, for a section that only some tasks read.
fn readers(key: &str) -> Vec<&'static str> {
    let Some((section, _)) = key.split_once('.') else { return Vec::new() };
    let all = TASKS.iter().map(|(_, entry)| entry).filter(|entry| entry.sections.contains(&section));
    all.map(|entry| entry.name).collect()
}

/// What a key without an effect takes to have one; `None` if it has one in this recipe.
fn lacks(key: &str, recipe: &Recipe) -> Option<String> {
    if ALWAYS.iter().any(|pattern| matches(pattern, key)) {
        return None;
    }
    let tasks = readers(key);
    if !tasks.is_empty() && !tasks.contains(&recipe.task.name()) {
        return Some(match condition(key) {
            Some(effect) => effect.needs.to_owned(),
            None => {
                format!("task {}", tasks.iter().map(|t| format!("{t:?}")).collect::<Vec<_>>().join(" or "))
            }
        });
    }
    let effect = condition(key).filter(|e| !(e.has)(recipe))?;
    Some(effect.needs.to_owned())
}

/// Keys that were given, with another value than the default: whether the key is set, by its path.
fn changed(recipe: &Recipe, reader: &Reader<'_>) -> Vec<String> {
    let derived = check::derived(recipe);
    let mut all = Vec::new();
    recipe.walk(&mut |Item { key, value }| {
        let path = key.path();
        let default = match derived.iter().find(|(k, _)| *k == path) {
            Some((_, follows)) => follows.clone(),
            None => key.default,
        };
        if reader.given(&path).is_some() && value != default {
            all.push(path);
        }
    });
    all
}

/// A warning for each key that is set and has no effect; of a recipe in `multi.recipes` (`part`) of the keys
/// that count there.
pub(super) fn warnings(recipe: &Recipe, reader: &Reader<'_>, part: bool) -> Vec<Error> {
    let idle = |key: String| {
        if part && !counts_in_a_part(&key) {
            return None;
        }
        let needs = lacks(&key, recipe)?;
        let of_a_task = several(recipe) && counts_in_a_part(&key);
        let needs = if of_a_task { ONE_TASK.to_owned() } else { needs };
        Some(
            reader
                .remark(&key, &format!("{key} has no effect here"))
                .with_expected(needs)
                .with_help("remove the key, unless another value replaces it on purpose"),
        )
    };
    changed(recipe, reader).into_iter().filter_map(idle).collect()
}

/// A warning that names the keys of a recipe in `multi.recipes` that do not count there, where they say
/// another thing than the top recipe; the recipe stays one that can be run alone.
pub(super) fn overruled(part: &Recipe, given: &[String], top: &Recipe, path: &Path) -> Option<Error> {
    let values = |r: &Recipe| {
        let mut all = BTreeMap::new();
        r.walk(&mut |Item { key, value }| drop(all.insert(key.path(), value)));
        all
    };
    let (own, of_top) = (values(part), values(top));
    let differ: Vec<&str> = given
        .iter()
        .map(String::as_str)
        .filter(|k| !counts_in_a_part(k) && own.get(*k) != of_top.get(*k))
        .collect();
    (!differ.is_empty()).then(|| {
        Error::usage(format!("keys without effect in a recipe of multi.recipes: {}", differ.join(", ")))
            .at(path)
            .with_expected("only task, [data], [loss], train.best_metric and the section of the task")
            .with_help("set the other keys in the recipe with task = \"multi\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new key has to be listed: as one that always has an effect, or with the condition of its effect.
    #[test]
    fn every_key_is_listed_once() {
        let keys: Vec<String> = Recipe::keys().iter().map(super::super::Key::path).collect();
        for key in &keys {
            let always = ALWAYS.iter().filter(|p| matches(p, key)).count();
            let conditions = EFFECTS.iter().filter(|e| matches(e.key, key)).count();
            let of_tasks = readers(key).len();
            assert!(always + conditions + of_tasks > 0, "{key} is listed neither in effect.rs nor in TASKS");
            assert!(
                always == 0 || conditions == 0 || EFFECTS.iter().all(|e| e.key != key),
                "{key} is listed twice"
            );
        }
        // No entry is stale, and none is hidden by one before it.
        for pattern in ALWAYS {
            assert!(keys.iter().any(|k| matches(pattern, k)), "{pattern} fits no key");
        }
        for effect in EFFECTS {
            let counts = |k: &&String| condition(k).is_some_and(|e| e.key == effect.key);
            assert!(keys.iter().any(|k| counts(&k)), "{} fits no key", effect.key);
        }
    }
}
