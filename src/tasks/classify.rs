//! One class of several: cross-entropy, class weights, weights of examples, label smoothing.

use super::{
    DataKind, Meter, SoftKind, SoftOutput, Task, TaskEntry, only, reals, row_weights, unlabelled, weight,
};
use crate::data::{Batch, Label, TokenSet};
use crate::error::Result;
use crate::metrics::{ClassScores, Classification, Curves, Ranked, Scores, softmax};
use crate::models::Outputs;
use crate::ops::cross_entropy::{CrossEntropy, IGNORE};
use crate::shape::DType;
use crate::tape::{Tape, Var};
use serde_json::{Map, Value, json};
use std::cell::OnceCell;

/// The task's entry in the table.
pub(super) const ENTRY: TaskEntry = TaskEntry {
    name: "classify",
    doc: "predicts one class",
    best_metric: "accuracy",
    metrics: &[(
        "classify",
        &["accuracy", "f1_macro", "f1_micro", "f1_weighted", "mcc", "auroc", "average_precision", "loss"],
    )],
    data: DataKind::Rows,
    trains: |outputs| matches!(outputs, Outputs::Classes(_)),
    sections: &[],
    classes: true,
    weights: true,
    scores: &[
        "accuracy, F1, Matthews correlation, AUROC, average precision;",
        "a confusion table; precision, recall and F1 of each class",
    ],
    columns: &["label, probability (of that label), p_CLASS for every class"],
};

/// The task; see the module.
#[derive(Clone, Debug)]
pub struct Classify {
    /// The classes' names, in the order of the outputs.
    pub classes: Vec<String>,
    /// Share of the target spread over all classes.
    pub label_smoothing: f32,
    /// Weight of each class in the loss.
    pub class_weights: Option<Vec<f32>>,
    /// How much less what is known well counts in the loss (Lin et al. 2017); 0 counts all alike.
    pub gamma: f32,
}

impl Classify {
    /// Weights n / (classes * count) from the labels of a training set, as scikit-learn's "balanced". Each
    /// example counts as often as its weight says, once if `weights` is empty.
    pub fn balanced(labels: &[Label], weights: &[f32], classes: usize) -> Vec<f32> {
        let mut counts = vec![0.0f64; classes];
        let weight = |i: usize| weights.get(i).map_or(1.0, |w| f64::from(*w));
        for (i, label) in labels.iter().enumerate() {
            if let Label::Class(c) = label
                && let Some(n) = counts.get_mut(*c as usize)
            {
                *n += weight(i);
            }
        }
        let all: f64 = (0..labels.len()).map(weight).sum();
        // A class that does not occur has a weight that nothing reads.
        let of = |&n: &f64| all as f32 / (classes as f64 * if n > 0.0 { n } else { 1.0 }) as f32;
        counts.iter().map(of).collect()
    }
}

impl Task for Classify {
    fn outputs(&self) -> Outputs {
        Outputs::Classes(self.classes.clone())
    }
    /// The sum of the examples' weights, each times that of its class: PyTorch's denominator of a weighted
    /// mean.
    fn weights(&self, batch: &Batch) -> [f64; 2] {
        [self.class_rows(batch).into_iter().flatten().sum(), 0.0]
    }
    fn class_rows(&self, batch: &Batch) -> Option<Vec<f64>> {
        let of_class = |c: u32| match &self.class_weights {
            Some(w) => w.get(c as usize).map_or(0.0, |&w| w as f64),
            None => 1.0,
        };
        let classes = batch.targets.classes().iter().enumerate();
        Some(classes.map(|(i, &c)| of_class(c) * weight(batch, i)).collect())
    }
    fn loss(&self, tape: &mut Tape, outputs: &[Var], batch: &Batch, [scale, _]: [f64; 2]) -> Result<Var> {
        let logits = only(outputs)?;
        let classes = batch.targets.classes();
        if classes.len() != batch.len() {
            return Err(unlabelled());
        }
        let labels = tape.device().upload(DType::U32, &[batch.len()], classes)?;
        let mut x = vec![logits.clone(), tape.constant(labels), reals(tape, logits, &[1], &[scale])?];
        if let Some(w) = &self.class_weights {
            let w: Vec<f64> = w.iter().map(|&w| w as f64).collect();
            x.push(reals(tape, logits, &[w.len()], &w)?);
        }
        x.extend(row_weights(tape, logits, batch)?);
        let (label_smoothing, weighted) = (self.label_smoothing, self.class_weights.is_some());
        tape.apply(CrossEntropy { label_smoothing, ignore_index: IGNORE, weighted, gamma: self.gamma }, x)
    }
    fn soft(&self) -> Option<SoftOutput> {
        Some(SoftKind::Classes.first())
    }
    fn meter(&self, _: &TokenSet) -> Box<dyn Meter> {
        let n = self.classes.len();
        Box::new(Counted {
            names: self.classes.clone(),
            counts: Classification::new(n),
            rows: Vec::new(),
            curves: (2..=CURVES).contains(&n).then(|| Curves::new(n)),
            ranked: OnceCell::new(),
        })
    }
    fn uninformative(&self, metric: &str, set: &TokenSet) -> Result<Option<String>> {
        let mut counts = vec![0usize; self.classes.len()];
        for &class in set.targets.classes() {
            counts.get_mut(class as usize).into_iter().for_each(|n| *n += 1);
        }
        let one = counts.iter().position(|&n| n == set.targets.classes().len());
        let absent = counts.iter().position(|&n| n == 0).filter(|_| metric == "auroc");
        let class = |i: usize| self.classes.get(i).map_or("", String::as_str);
        Ok(match (metric, one, absent) {
            ("auroc" | "average_precision" | "mcc", Some(one), _) => {
                Some(format!("all examples are of class {:?}", class(one)))
            }
            (_, _, Some(absent)) => Some(format!("no example is of class {:?}", class(absent))),
            _ => None,
        })
    }
}

/// With more classes there is no AUROC: each example would need a number for each of them.
const CURVES: usize = 100;
/// Up to this many classes the confusion matrix stands among the details: it has the square of so many
/// numbers.
const MATRIX: usize = 256;

struct Counted {
    names: Vec<String>,
    counts: Classification,
    /// Prediction, target and loss of each example.
    rows: Vec<(u32, u32, f64)>,
    curves: Option<Curves>,
    ranked: OnceCell<Ranked>,
}

impl Meter for Counted {
    fn add(&mut self, outputs: &[Vec<f32>], batch: &Batch) -> Result<()> {
        let classes = batch.targets.classes();
        if classes.len() != batch.len() {
            return Err(unlabelled());
        }
        self.ranked.take();
        for (row, &label) in only(outputs)?.chunks_exact(self.names.len()).zip(classes) {
            let (prediction, loss) = self.counts.add_logits(row, label)?;
            self.rows.push((prediction, label, loss));
            if let Some(curves) = &mut self.curves {
                curves.add_class(&softmax(row), label)?;
            }
        }
        Ok(())
    }
    fn scores(&self) -> Scores {
        let mut scores = self.counts.scores();
        if let Some(curves) = &self.curves {
            curves.scores(true).iter().for_each(|(name, value)| scores.set(name, value));
        }
        scores
    }
    fn report(&self) -> String {
        let mut text = self.counts.table(&self.names).to_string();
        match self.counts.undefined() {
            0 => {}
            n => text += &format!("{n} precisions or recalls are undefined and count as 0\n"),
        }
        text
    }
    fn details(&self) -> Map<String, Value> {
        let mut all = Map::new();
        all.insert("classes".to_owned(), json!(self.names));
        all.insert("per_class".to_owned(), json!(self.counts.per_class()));
        if self.names.len() <= MATRIX {
            all.insert("confusion".to_owned(), json!(self.counts.confusion()));
        }
        all
    }
    fn per_class(&self) -> Vec<(String, ClassScores)> {
        self.names.iter().cloned().zip(self.counts.per_class()).collect()
    }
    fn units(&self) -> usize {
        self.rows.len()
    }
    fn scores_of(&self, drawn: &[usize]) -> Scores {
        let mut counts = Classification::new(self.names.len());
        for &(prediction, target, loss) in drawn.iter().filter_map(|&i| self.rows.get(i)) {
            // They were counted once: they are classes that are there.
            let _ = counts.add(prediction, target, loss);
        }
        let mut scores = counts.scores();
        if let Some(curves) = &self.curves {
            let ranked = self.ranked.get_or_init(|| curves.ranked());
            let of = ranked.scores(&times(drawn, self.rows.len()), true);
            of.iter().for_each(|(name, value)| scores.set(name, value));
        }
        scores
    }
}

/// How often each of `n` examples was drawn.
pub(super) fn times(drawn: &[usize], n: usize) -> Vec<u32> {
    let mut times = vec![0; n];
    for &i in drawn {
        times.get_mut(i).into_iter().for_each(|t| *t += 1);
    }
    times
}
