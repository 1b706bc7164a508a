//! `[distill]`: learning from a larger model.

use super::Recipe;
use super::field::{Rule, above, above_up_to};
use super::source::Entry;
use super::table::{Item, Reader, Section, item, without};
use crate::tasks::{DataKind, TASKS, TaskEntry};

section! {
    /// `[distill]`: learning from a larger model, the teacher.
    Distillation "distill" {
        /// Model folder of the teacher, or org/name of a model in the local cache: trained for the same task,
        /// with the same classes and the same tokenizer files. Its outputs for the training examples are
        /// computed once, without dropout, and kept on disk if `data.cache` is true. Not for tasks "mask",
        /// "permute" and "multi".
        teacher: Option<String> = None, Rule::Any;
        /// Share of the teacher's part in the loss; the loss of the labels has the rest. With 1 the labels do
        /// not count.
        weight: f64 = 0.5, above_up_to(0.0, 1.0);
        /// Temperature that the logits of teacher and student are divided by. The teacher's part is
        /// multiplied by its square. Not for tasks "regress" and "similar".
        temperature: f64 = 2.0, above(0.0);
    }
}

/// Whether a task's inputs, or those that its pairs are classified by, are the same in every epoch, so that a
/// teacher's outputs can be kept.
fn distils(task: &TaskEntry) -> bool {
    match &task.data {
        DataKind::Rows | DataKind::Sentences | DataKind::Questions => true,
        DataKind::Documents(language) => language.pair.is_some(),
        DataKind::Recipes => false,
    }
}

/// Complains about what does not go with a teacher.
pub(super) fn check(recipe: &Recipe, r: &mut Reader<'_>) {
    let d = &recipe.distill;
    if d.teacher.is_some() && !distils(recipe.task.entry()) {
        let what = format!("distill.teacher is set, but task \"{}\" cannot be distilled", recipe.task.name());
        r.complain(&["distill.teacher", "task"], &what, |e| {
            let all = TASKS.iter().map(|(_, entry)| entry).filter(|entry| distils(entry));
            let names: Vec<String> = all.map(|entry| format!("{:?}", entry.name)).collect();
            let expected = format!("a task whose inputs are the same in every epoch: {}", names.join(", "));
            e.with_expected(expected).with_help("remove [distill]")
        });
    }
    if d.teacher.is_some() && recipe.loss.r_drop > 0.0 {
        r.complain(
            &["loss.r_drop", "distill.teacher"],
            "loss.r_drop and distill.teacher are both set",
            |e| e.with_expected("one of them").with_help("remove loss.r_drop, or [distill]"),
        );
    }
}

/// The text of a resolved recipe for its hash. Without a teacher it is that of a version without this
/// section, whose runs can still be resumed.
pub(super) fn hashed(recipe: &Recipe, text: String) -> String {
    if recipe.distill.teacher.is_some() { text } else { without("distill", &text) }
}
