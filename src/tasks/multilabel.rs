//! Any number of several classes: each a decision of its own, binary cross-entropy, as `transformers` trains
//! `problem_type` "multi_label_classification"; and above which probability each is a yes.

use super::classify::times;
use super::{
    DataKind, Meter, SoftKind, SoftOutput, Task, TaskEntry, Tuned, only, reals, row_weights, total_weight,
    unlabelled,
};
use crate::data::{Batch, TokenSet};
use crate::error::Result;
use crate::metrics::{ClassScores, Curves, MultiLabel, Ranked, Scores, sigmoids};
use crate::models::Outputs;
use crate::ops::binary_cross_entropy::BinaryCrossEntropy;
use crate::tape::{Tape, Var};
use serde_json::{Map, Value, json};
use std::cell::OnceCell;
use std::sync::Arc;

/// The task's entry in the table.
pub(super) const ENTRY: TaskEntry = TaskEntry {
    name: "multilabel",
    doc: "predicts any number of classes",
    best_metric: "f1_micro",
    metrics: &[(
        "multilabel",
        &[
            "accuracy",
            "f1_macro",
            "f1_micro",
            "f1_weighted",
            "f1_samples",
            "hamming",
            "auroc",
            "average_precision",
            "loss",
        ],
    )],
    data: DataKind::Rows,
    trains: |outputs| matches!(outputs, Outputs::Labels(_)),
    sections: &["multilabel"],
    classes: true,
    weights: true,
    scores: &["F1 at the thresholds from training (else 0.5), AUROC,", "average precision"],
    columns: &["labels (classes above their thresholds), p_CLASS for every class"],
};

/// The task; see the module.
#[derive(Clone, Debug)]
pub struct Multilabel {
    /// The classes' names, in the order of the outputs.
    pub classes: Vec<String>,
    /// The probability of each class above which it is predicted; none: 0.5 for all.
    pub thresholds: Option<Vec<f64>>,
    /// Whether thresholds are chosen on the development set.
    pub tune: bool,
    /// How much of each target is moved to the middle: t (1 - e) + e / 2.
    pub label_smoothing: f32,
    /// The weight of each class in the loss.
    pub class_weights: Option<Vec<f32>>,
    /// The focus of the loss, 0 for none; see [`BinaryCrossEntropy`].
    pub gamma: f32,
}

impl Task for Multilabel {
    fn outputs(&self) -> Outputs {
        Outputs::Labels(self.classes.clone())
    }
    /// The number of decisions, each counted as its example weighs: the mean is over examples and classes.
    fn weights(&self, batch: &Batch) -> [f64; 2] {
        [total_weight(batch) * self.classes.len() as f64, 0.0]
    }
    fn loss(&self, tape: &mut Tape, outputs: &[Var], batch: &Batch, [scale, _]: [f64; 2]) -> Result<Var> {
        let sets = batch.targets.sets();
        if sets.len() != batch.len() {
            return Err(unlabelled());
        }
        let logits = only(outputs)?;
        let hot = sets.iter().flat_map(|set| hot(set, self.classes.len()));
        let e = f64::from(self.label_smoothing);
        let hot: Vec<f64> = hot.map(|h| h as u8 as f64 * (1.0 - e) + e / 2.0).collect();
        let targets = reals(tape, logits, &[batch.len(), self.classes.len()], &hot)?;
        let mut x = vec![logits.clone(), targets, reals(tape, logits, &[1], &[scale])?];
        if let Some(weights) = &self.class_weights {
            let weights: Vec<f64> = weights.iter().map(|&w| f64::from(w)).collect();
            x.push(reals(tape, logits, &[weights.len()], &weights)?);
        }
        x.extend(row_weights(tape, logits, batch)?);
        tape.apply(BinaryCrossEntropy { weighted: self.class_weights.is_some(), gamma: self.gamma }, x)
    }
    fn soft(&self) -> Option<SoftOutput> {
        Some(SoftKind::Labels(self.class_weights.clone()).first())
    }
    fn meter(&self, _: &TokenSet) -> Box<dyn Meter> {
        let n = self.classes.len();
        Box::new(Decided {
            names: self.classes.clone(),
            counts: self.counts(),
            none: self.counts(),
            rows: Vec::new(),
            curves: Curves::new(n),
            ranked: OnceCell::new(),
        })
    }
    fn uninformative(&self, metric: &str, set: &TokenSet) -> Result<Option<String>> {
        let mut counts = vec![0usize; self.classes.len()];
        let sets = set.targets.sets();
        for &class in sets.iter().flatten() {
            counts.get_mut(class as usize).into_iter().for_each(|n| *n += 1);
        }
        let alike = |n: &usize| *n == 0 || *n == sets.len();
        Ok(match metric {
            "auroc" => counts.iter().position(alike).map(|i| {
                let all = if counts.get(i) == Some(&0) { "no example has" } else { "all examples have" };
                format!("{all} the label {:?}", self.classes.get(i).map_or("", String::as_str))
            }),
            "average_precision" if counts.iter().all(alike) => {
                Some("all examples have the same labels".to_owned())
            }
            "f1_micro" | "f1_macro" | "f1_weighted" | "f1_samples" if counts.iter().all(|&n| n == 0) => {
                Some("no example has a label".to_owned())
            }
            _ => None,
        })
    }
    fn tunes(&self) -> bool {
        self.tune
    }
    fn tuned(&self, meter: &dyn Meter) -> Option<Tuned> {
        let found = meter.best_thresholds()?;
        let named = self.classes.iter().cloned().zip(found.iter().copied()).collect();
        Some((named, Arc::new(Self { thresholds: Some(found), ..self.clone() })))
    }
}

impl Multilabel {
    /// One that is trained without settings, and decides above 0.5.
    pub fn new(classes: Vec<String>) -> Multilabel {
        let (thresholds, class_weights) = (None, None);
        Multilabel { classes, thresholds, tune: false, label_smoothing: 0.0, class_weights, gamma: 0.0 }
    }
    fn counts(&self) -> MultiLabel {
        let none = MultiLabel::new(self.classes.len());
        // Thresholds of another number of classes count as none.
        let with = self.thresholds.as_ref().and_then(|t| none.clone().thresholds(t).ok());
        with.unwrap_or(none)
    }
}

/// One decision a class.
fn hot(set: &[u32], classes: usize) -> Vec<bool> {
    (0..classes as u32).map(|c| set.contains(&c)).collect()
}

struct Decided {
    names: Vec<String>,
    counts: MultiLabel,
    /// The same with nothing counted.
    none: MultiLabel,
    /// Decisions, truths and loss of each example.
    rows: Vec<(Vec<bool>, Vec<bool>, f64)>,
    curves: Curves,
    ranked: OnceCell<Ranked>,
}

impl Meter for Decided {
    fn add(&mut self, outputs: &[Vec<f32>], batch: &Batch) -> Result<()> {
        let sets = batch.targets.sets();
        if sets.len() != batch.len() {
            return Err(unlabelled());
        }
        self.ranked.take();
        for (row, set) in only(outputs)?.chunks_exact(self.names.len()).zip(sets) {
            let targets = hot(set, row.len());
            let (decisions, loss) = self.counts.add_logits(row, &targets)?;
            self.curves.add(&sigmoids(row), &targets)?;
            self.rows.push((decisions, targets, loss));
        }
        Ok(())
    }
    fn scores(&self) -> Scores {
        joined(self.counts.scores(), &self.curves.scores(false))
    }
    fn report(&self) -> String {
        self.counts.table(&self.names).to_string()
    }
    fn details(&self) -> Map<String, Value> {
        let mut all = Map::new();
        all.insert("classes".to_owned(), json!(self.names));
        all.insert("per_class".to_owned(), json!(self.counts.label_scores()));
        all.insert("thresholds".to_owned(), json!(self.counts.decides_above()));
        all
    }
    fn per_class(&self) -> Vec<(String, ClassScores)> {
        self.names.iter().cloned().zip(self.counts.label_scores()).collect()
    }
    fn units(&self) -> usize {
        self.rows.len()
    }
    fn scores_of(&self, drawn: &[usize]) -> Scores {
        let mut counts = self.none.clone();
        for (decisions, targets, loss) in drawn.iter().filter_map(|&i| self.rows.get(i)) {
            // They were counted once: they fit.
            let _ = counts.add(decisions, targets, *loss);
        }
        let ranked = self.ranked.get_or_init(|| self.curves.ranked());
        joined(counts.scores(), &ranked.scores(&times(drawn, self.rows.len()), false))
    }
    fn best_thresholds(&self) -> Option<Vec<f64>> {
        Some(self.curves.best_thresholds())
    }
}

/// The scores of both.
fn joined(mut scores: Scores, more: &Scores) -> Scores {
    more.iter().for_each(|(name, value)| scores.set(name, value));
    scores
}
