//! Next-sentence prediction beside masked language modelling: BERT's pretraining (Devlin et al. 2019, sec.
//! 3.1).
//!
//! The label 0 says that the second text follows the first, 1 that it is a random one, as in
//! `BertForPreTraining`.

use super::mask::{Guessed, Mask};
use super::{
    DataKind, LanguageTask, Meter, PairClasses, SoftKind, SoftOutput, Task, TaskEntry, reals, total,
    unlabelled,
};
use crate::data::{Batch, Documents, TokenSet};
use crate::error::{Error, Result};
use crate::metrics::{Classification, Scores};
use crate::models::{Outputs, PairObjective};
use crate::ops::cross_entropy::{CrossEntropy, IGNORE};
use crate::shape::DType;
use crate::tape::{Tape, Var};
use std::sync::Arc;

/// The task's entry in the table.
pub(super) const ENTRY: TaskEntry = TaskEntry {
    name: "next",
    doc: "is masked language modelling with next-sentence prediction",
    best_metric: "perplexity",
    metrics: &[("next", &["accuracy", "perplexity", "next_accuracy", "loss"])],
    data: DataKind::Documents(LanguageTask {
        outputs: || Outputs::Pretraining(PairObjective::Next),
        examples: Documents::pairs,
        build: |settings| Ok(Arc::new(Next { mask: settings.mask()? })),
        pair: Some(PairClasses { column: "p_follows", names: ["follows", "does not follow"], documents: 2 }),
        model: None,
    }),
    trains: |outputs| *outputs == Outputs::Pretraining(PairObjective::Next),
    sections: &["mask"],
    classes: false,
    weights: false,
    scores: &["perplexity, accuracy, accuracy of next-sentence prediction"],
    columns: &["p_follows"],
};

/// The task; see the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Next {
    /// Which tokens are hidden.
    pub mask: Mask,
}

/// The logits of a model that gives both: of hidden tokens, and of whether the second text follows.
fn both<T>(outputs: &[T]) -> Result<[&T; 2]> {
    match outputs {
        [tokens, next] => Ok([tokens, next]),
        _ => Err(Error::shape("a model with a head for tokens and one for pairs is needed")),
    }
}

impl Task for Next {
    fn outputs(&self) -> Outputs {
        Outputs::Pretraining(PairObjective::Next)
    }
    fn prepare(&self, batch: &mut Batch, key: (u64, u64)) -> Result<()> {
        self.mask.hide(batch, key);
        Ok(())
    }
    /// Hidden tokens and pairs: each of the two losses is a mean of its own.
    fn weights(&self, batch: &Batch) -> [f64; 2] {
        [Mask::count(batch), batch.len() as f64]
    }
    fn loss(&self, tape: &mut Tape, outputs: &[Var], batch: &Batch, scales: [f64; 2]) -> Result<Var> {
        let classes = batch.targets.classes();
        if classes.len() != batch.len() {
            return Err(unlabelled());
        }
        let [tokens, next] = both(outputs)?;
        let hidden = Mask::cross_entropy(tape, tokens, batch, scales[0])?;
        let labels = tape.device().upload(DType::U32, &[batch.len()], classes)?;
        let x = [next.clone(), tape.constant(labels), reals(tape, next, &[1], &scales[1..])?];
        let op = CrossEntropy { label_smoothing: 0.0, ignore_index: IGNORE, weighted: false, gamma: 0.0 };
        let follows = tape.apply(op, x)?;
        total(tape, [hidden, follows])
    }
    /// The logits of pairs. A teacher reads the pairs with all their tokens.
    fn soft(&self) -> Option<SoftOutput> {
        Some(SoftOutput { kind: SoftKind::Classes, output: 1 })
    }
    fn uninformative(&self, metric: &str, set: &TokenSet) -> Result<Option<String>> {
        if metric == "next_accuracy" { Ok(None) } else { Mask::hides_nothing(self, set) }
    }
    fn meter(&self, _: &TokenSet) -> Box<dyn Meter> {
        Both::meter("next_accuracy")
    }
}

/// How well hidden tokens were found and pairs classified.
pub(super) struct Both {
    /// The name of the accuracy of pairs.
    metric: &'static str,
    tokens: Guessed,
    next: Classification,
    /// Prediction, target and loss of each pair.
    rows: Vec<(u32, u32, f64)>,
}

impl Both {
    pub(super) fn meter(metric: &'static str) -> Box<dyn Meter> {
        let (tokens, next) = (Guessed::default(), Classification::new(2));
        Box::new(Self { metric, tokens, next, rows: Vec::new() })
    }
}

impl Meter for Both {
    fn add(&mut self, outputs: &[Vec<f32>], batch: &Batch) -> Result<()> {
        let [tokens, next] = both(outputs)?;
        self.tokens.add(std::slice::from_ref(tokens), batch)?;
        for (row, &label) in next.chunks_exact(2).zip(batch.targets.classes()) {
            let (prediction, loss) = self.next.add_logits(row, label)?;
            self.rows.push((prediction, label, loss));
        }
        Ok(())
    }
    fn scores(&self) -> Scores {
        joined(self.tokens.scores(), (self.metric, &self.next))
    }
    fn report(&self) -> String {
        self.tokens.report()
    }
    fn units(&self) -> usize {
        self.rows.len()
    }
    fn scores_of(&self, drawn: &[usize]) -> Scores {
        let mut next = Classification::new(2);
        for &(prediction, target, loss) in drawn.iter().filter_map(|&i| self.rows.get(i)) {
            // They were counted once: they are classes that are there.
            let _ = next.add(prediction, target, loss);
        }
        joined(self.tokens.scores_of(drawn), (self.metric, &next))
    }
}

/// The scores of hidden tokens, with those of pairs; the loss is the sum of the two.
fn joined(mut scores: Scores, (metric, next): (&'static str, &Classification)) -> Scores {
    let tokens = scores.get("loss").unwrap_or(f64::NAN);
    scores.set("loss", tokens + next.loss());
    scores.set(metric, next.accuracy());
    scores
}
