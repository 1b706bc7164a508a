//! `[distill]`: learning from a larger model.

use super::field::{Rule, above, above_up_to};
use super::source::Entry;
use super::table::{Item, Reader, Section, item, without};
use super::{Recipe, TaskKind};

section! {
    /// `[distill]`: learning from a larger model, the teacher.
    Distillation "distill" {
        /// Model folder of the teacher, or org/name of a model in the local cache: a trained classifier with
        /// the same classes and the same tokenizer files. Its outputs for the training examples are computed
        /// once, without dropout, and kept on disk if `data.cache` is true. For task "classify".
        teacher: Option<String> = None, Rule::Any;
        /// Share of the teacher's part in the loss; the loss of the labels has the rest. With 1 the labels do
        /// not count.
        weight: f64 = 0.5, above_up_to(0.0, 1.0);
        /// Temperature that the logits of teacher and student are divided by. The teacher's part is
        /// multiplied by its square.
        temperature: f64 = 2.0, above(0.0);
    }
}

/// Complains about what does not go with a teacher.
pub(super) fn check(recipe: &Recipe, r: &mut Reader<'_>) {
    let d = &recipe.distill;
    if d.teacher.is_some() && recipe.task != TaskKind::Classify {
        let what = format!("distill.teacher is set, but task \"{}\" cannot be distilled", recipe.task.name());
        r.complain(&["distill.teacher", "task"], &what, |e| {
            e.with_expected("task \"classify\"").with_help("remove [distill]")
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
