//! How a student scores beside its teacher, on the examples that its model is scored on: all scores, and the
//! share of each class, label or kind of span that both find.

use crate::compress::Teacher;
use crate::data::{TokenSet, eval_batches};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::metrics::{ClassScores, Scores};
use crate::tasks::{Meter, Task};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// What a teacher scores.
#[derive(Clone, Debug)]
pub struct TeacherScores {
    /// "test" or "validation".
    pub set: &'static str,
    /// Its scores there.
    pub scores: Scores,
    /// The scores of each class that has any.
    pub per_class: Vec<(String, ClassScores)>,
}

/// How to run a teacher: device, most tokens of a pass, folder of the cache.
#[derive(Clone, Copy)]
pub struct TeacherRun<'a> {
    /// Where it computes.
    pub device: &'a Device,
    /// The most tokens of a pass.
    pub max_tokens: usize,
    /// The folder of kept outputs.
    pub cache: Option<&'a Path>,
}

impl TeacherRun<'_> {
    /// Scores a teacher on the test examples, or on those for validation if there are no others. Thresholds,
    /// where the task has some, are those that decide best on its own validation examples, as the student's
    /// are. `None` without such examples, and for a task of which the teacher gives one part only.
    ///
    /// # Errors
    /// Those of [`Teacher::teach`] and of the task's meter.
    pub fn scores(
        &self,
        teacher: &Teacher,
        task: &dyn Task,
        [validation, test]: [Option<&TokenSet>; 2],
    ) -> Result<(Option<TeacherScores>, Option<Error>)> {
        let found = test.map(|set| ("test", set)).or(validation.map(|set| ("validation", set)));
        let (Some((name, set)), true) = (found, task.soft().is_some_and(|soft| soft.output == 0)) else {
            return Ok((None, None));
        };
        let mut warning = None;
        let own = match validation.filter(|_| task.tunes()) {
            Some(set) => task.tuned(&*self.measure(teacher, task, set, &mut warning)?),
            None => None,
        };
        let decides = own.as_ref().map_or(task, |(_, task)| &**task);
        let meter = self.measure(teacher, decides, set, &mut warning)?;
        let scores = TeacherScores { set: name, scores: meter.scores(), per_class: meter.per_class() };
        Ok((Some(scores), warning))
    }

    fn measure(
        &self,
        teacher: &Teacher,
        task: &dyn Task,
        set: &TokenSet,
        warning: &mut Option<Error>,
    ) -> Result<Box<dyn Meter>> {
        let taught = teacher.teach(self.device, set, self.max_tokens, self.cache)?;
        *warning = warning.take().or(taught.warning);
        let soft = task.soft();
        let mut meter = task.meter(set);
        for batch in eval_batches(set, self.max_tokens, 0)? {
            let outputs = taught.targets.of(&batch.examples)?;
            let as_of_model = |v| soft.as_ref().map_or(v, |soft| soft.kind.in_units(v)) as f32;
            meter.add(&[outputs.into_iter().map(as_of_model).collect()], &batch)?;
        }
        Ok(meter)
    }
}

/// The share of a class that teacher and student find.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecallPair {
    /// The class, label or kind of span.
    pub class: String,
    /// How many there are.
    pub support: u64,
    /// The share that the teacher finds.
    pub teacher: f64,
    /// The share that the student finds.
    pub student: f64,
}

/// A student beside its teacher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The examples: "test" or "validation".
    pub scored_on: String,
    /// The teacher's scores.
    pub scores: Scores,
    /// The student's.
    pub student: Scores,
    /// The classes that occur. Those where the student has lost most come first.
    pub recall: Vec<RecallPair>,
}

impl Comparison {
    /// Puts the scores of a student beside those of its teacher on the same examples.
    pub fn new(teacher: &TeacherScores, student: Scores, per_class: &[(String, ClassScores)]) -> Comparison {
        let pair = |(class, own): &(String, ClassScores)| {
            let of_teacher = teacher.per_class.iter().find(|(name, _)| name == class);
            let found = of_teacher.map_or(0.0, |(_, scores)| scores.recall);
            let class = class.clone();
            RecallPair { class, support: own.support, teacher: found, student: own.recall }
        };
        let mut recall: Vec<RecallPair> =
            per_class.iter().filter(|(_, own)| own.support > 0).map(pair).collect();
        recall.sort_by(|a, b| (a.student - a.teacher).total_cmp(&(b.student - b.teacher)));
        Comparison { scored_on: teacher.set.to_owned(), scores: teacher.scores.clone(), student, recall }
    }
}

/// Classes in the table for a person; `metrics.json` has all.
const SHOWN: usize = 20;

/// A row for each score, then one for each class.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes = self.recall.iter().take(SHOWN).map(|r| r.class.chars().count());
        let names = self.scores.iter().map(|(name, _)| name.len());
        let width = classes.chain(names).max().unwrap_or(0).max("recall of".len());
        let set = &self.scored_on;
        writeln!(f, "{:width$}  {:>8}  {:>8}  {:>8}  ({set})", "", "teacher", "student", "change")?;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, [teacher, student]: [f64; 2], end: &str| {
            writeln!(f, "{name:width$}  {teacher:>8.4}  {student:>8.4}  {:>+8.4}{end}", student - teacher)
        };
        for (name, teacher) in self.scores.iter() {
            let student = self.student.get(name).unwrap_or(f64::NAN);
            row(f, name, [teacher, student], "")?;
        }
        if self.recall.is_empty() {
            return Ok(());
        }
        writeln!(f, "recall of")?;
        for r in self.recall.iter().take(SHOWN) {
            row(f, &r.class, [r.teacher, r.student], &format!("  of {}", r.support))?;
        }
        match self.recall.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => writeln!(f, "and {more} more in metrics.json"),
        }
    }
}
