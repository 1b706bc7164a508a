//! Sentence-order prediction beside masked language modelling: ALBERT's pretraining (Lan et al. 2020, sec.
//! 3.1).
//!
//! The two texts of a pair follow each other in a document. The label 0 says that they are in order, 1 that
//! they are swapped, as in `AlbertForPreTraining`. The loss is that of [`Next`], and so are hidden tokens.

use super::next::{Both, Next};
use super::{DataKind, LanguageTask, Mask, Meter, PairClasses, SoftOutput, Task, TaskEntry};
use crate::data::{Batch, Documents, TokenSet};
use crate::error::Result;
use crate::models::{Outputs, PairObjective};
use crate::tape::{Tape, Var};
use std::sync::Arc;

/// The task's entry in the table.
pub(super) const ENTRY: TaskEntry = TaskEntry {
    name: "order",
    doc: "is masked language modelling with sentence-order prediction (ALBERT)",
    best_metric: "perplexity",
    metrics: &[("order", &["accuracy", "perplexity", METRIC, "loss"])],
    data: DataKind::Documents(LanguageTask {
        outputs: || Outputs::Pretraining(PairObjective::Order),
        examples: Documents::ordered_pairs,
        build: |settings| Ok(Arc::new(Order { mask: settings.mask()? })),
        pair: Some(PairClasses { column: "p_in_order", names: ["in order", "swapped"], documents: 1 }),
        model: Some("albert/albert-base-v2"),
    }),
    trains: |outputs| *outputs == Outputs::Pretraining(PairObjective::Order),
    sections: &["mask"],
    classes: false,
    weights: false,
    scores: &["perplexity, accuracy, accuracy of sentence-order prediction"],
    columns: &["p_in_order"],
};

/// The accuracy of pairs.
const METRIC: &str = "order_accuracy";

/// The task; see the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Order {
    /// Which tokens are hidden.
    pub mask: Mask,
}

impl Order {
    fn as_next(&self) -> Next {
        Next { mask: self.mask }
    }
}

impl Task for Order {
    fn outputs(&self) -> Outputs {
        Outputs::Pretraining(PairObjective::Order)
    }
    fn prepare(&self, batch: &mut Batch, key: (u64, u64)) -> Result<()> {
        self.as_next().prepare(batch, key)
    }
    fn weights(&self, batch: &Batch) -> [f64; 2] {
        self.as_next().weights(batch)
    }
    fn loss(&self, tape: &mut Tape, outputs: &[Var], batch: &Batch, scales: [f64; 2]) -> Result<Var> {
        self.as_next().loss(tape, outputs, batch, scales)
    }
    fn soft(&self) -> Option<SoftOutput> {
        self.as_next().soft()
    }
    fn uninformative(&self, metric: &str, set: &TokenSet) -> Result<Option<String>> {
        if metric == METRIC { Ok(None) } else { self.as_next().uninformative(metric, set) }
    }
    fn meter(&self, _: &TokenSet) -> Box<dyn Meter> {
        Both::meter(METRIC)
    }
}
