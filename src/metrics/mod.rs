//! Mergeable accumulators: a prediction at a time in, scores out.
//!
//! Accumulators of several workers or batches are merged; every count is exact, so the order matters to no
//! score by more than the rounding of a sum. Memory does not grow with the number of examples, but for what
//! is about their order and needs them all: Spearman's rank correlation, AUROC and average precision, the
//! best threshold. The definitions are those of scikit-learn, SciPy, seqeval, SQuAD's scripts and
//! rouge-score; [`Bootstrap`] gives an interval with any of them.

mod answers;
mod bootstrap;
mod classification;
mod confusion;
mod curves;
mod entities;
mod labels;
mod perplexity;
mod porter;
mod ranking;
mod regression;
mod rouge;
mod scores;
mod word_tags;

pub use answers::{Answers, BestThreshold, Squad, normalize_answer};
pub use bootstrap::{Bootstrap, Interval, Paired};
pub use classification::{ClassScores, Classification};
pub use confusion::ConfusionTable;
pub use curves::{Curve, Curves, Ranked, softmax};
pub use entities::Entities;
pub use labels::{LabelTable, MultiLabel, sigmoids};
pub use perplexity::Perplexity;
pub use ranking::{Ranking, realistic_rank};
pub use regression::Regression;
pub use rouge::{ROUGE, Rouge, RougeScore};
pub use scores::Scores;
pub use word_tags::WordTags;

use std::fmt;

/// A metric that a recipe can choose the best checkpoint by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name in recipes, logs and [`Scores`].
    pub name: &'static str,
    /// Its direction: whether a higher value is better.
    pub higher_is_better: bool,
    /// What it measures, in a sentence or two.
    pub doc: &'static str,
}

/// Every metric there is; help, recipe validation and the choice of the best checkpoint walk this list.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    Metric { name: "accuracy", higher_is_better: true, doc: "Share of correct predictions. multilabel: of rows with every label correct; tag: of words; similar: of texts whose partner is the nearest; mask, permute, next: of masked tokens." },
    Metric { name: "f1", higher_is_better: true, doc: "tag: F1 of spans with the right type and both ends, micro-averaged; for tags that do not mark spans, their accuracy. answer: F1 of the words of the answer." },
    Metric { name: "exact", higher_is_better: true, doc: "Share of answers that match a correct answer, ignoring case, articles and punctuation." },
    Metric { name: "HasAns_f1", higher_is_better: true, doc: "f1 of the questions that have an answer (SQuAD 2.0)." },
    Metric { name: "HasAns_exact", higher_is_better: true, doc: "exact of the questions that have an answer (SQuAD 2.0)." },
    Metric { name: "NoAns_f1", higher_is_better: true, doc: "Share of the questions without an answer for which the model gives none." },
    Metric { name: "NoAns_exact", higher_is_better: true, doc: "Same as NoAns_f1." },
    Metric { name: "best_f1", higher_is_better: true, doc: "f1 with the best threshold for \"no answer\", if some questions have no answer." },
    Metric { name: "best_exact", higher_is_better: true, doc: "exact with the best threshold for \"no answer\", if some questions have no answer." },
    Metric { name: "precision", higher_is_better: true, doc: "Share of the predicted spans that are correct; for tags that do not mark spans, their accuracy." },
    Metric { name: "recall", higher_is_better: true, doc: "Share of the true spans that are found; for tags that do not mark spans, their accuracy." },
    Metric { name: "f1_macro", higher_is_better: true, doc: "F1 averaged over the classes, span types or tags that occur." },
    Metric { name: "f1_micro", higher_is_better: true, doc: "F1 of all decisions together." },
    Metric { name: "f1_weighted", higher_is_better: true, doc: "F1 averaged over the classes, weighted by how often each occurs." },
    Metric { name: "f1_samples", higher_is_better: true, doc: "F1 of the labels of each row, averaged over rows." },
    Metric { name: "hamming", higher_is_better: false, doc: "Share of wrong decisions (Hamming loss)." },
    Metric { name: "mcc", higher_is_better: true, doc: "Matthews correlation coefficient, from -1 to 1; 0 if undefined." },
    Metric { name: "auroc", higher_is_better: true, doc: "Area under the ROC curve. Two classes: of the second; otherwise the mean over labels, or over one class against the rest (up to 100 classes). NaN without both positives and negatives." },
    Metric { name: "average_precision", higher_is_better: true, doc: "Area under the precision-recall curve, as a step function; averaged like auroc." },
    Metric { name: "pearson", higher_is_better: true, doc: "Pearson correlation, from -1 to 1; NaN for constant input." },
    Metric { name: "spearman", higher_is_better: true, doc: "Spearman rank correlation, from -1 to 1; NaN for constant input." },
    Metric { name: "mse", higher_is_better: false, doc: "Mean squared error." },
    Metric { name: "mae", higher_is_better: false, doc: "Mean absolute error." },
    Metric { name: "mrr", higher_is_better: true, doc: "Mean reciprocal rank: the mean of 1 / (rank of the right partner among all)." },
    Metric { name: "hits_10", higher_is_better: true, doc: "Share of texts whose right partner is among the ten nearest." },
    Metric { name: "perplexity", higher_is_better: false, doc: "Exponential of the mean loss per masked token." },
    Metric { name: "next_accuracy", higher_is_better: true, doc: "Share of pairs for which the model correctly says whether the second text follows the first." },
    Metric { name: "order_accuracy", higher_is_better: true, doc: "Share of pairs for which the model correctly says whether the two texts are in order or swapped." },
    Metric { name: "loss", higher_is_better: false, doc: "Mean loss per example. regress: of the standardized targets, so in units of their variance." },
];

/// The metric of that name.
pub fn find(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|m| m.name == name)
}

impl Metric {
    /// Whether `new` is an improvement on `best`. NaN never is; every number improves on NaN.
    pub fn improves(&self, new: f64, best: f64) -> bool {
        let better = if self.higher_is_better { new > best } else { new < best };
        better || (best.is_nan() && !new.is_nan())
    }
    /// By how much `new` is better than `old`: positive for an improvement, whatever the metric's direction.
    pub fn gain(&self, old: f64, new: f64) -> f64 {
        if self.higher_is_better { new - old } else { old - new }
    }
    /// The value as a number where higher is better and 1 is perfect, so that it can be averaged with those
    /// of other tasks. `deviation` is the standard deviation of the training targets, the unit of the errors
    /// of numbers; an error as large as that of always answering the mean counts as 1/2. A `loss` with a
    /// deviation is a squared error, one without a cross-entropy.
    pub fn comparable(&self, value: f64, deviation: Option<f64>) -> f64 {
        let unit = unit(deviation);
        match self.name {
            _ if self.higher_is_better => value,
            "hamming" => 1.0 - value,
            "perplexity" => 1.0 / value,
            "loss" if deviation.is_none() => (-value).exp(),
            "mae" => 1.0 / (1.0 + value / unit),
            _ => 1.0 / (1.0 + value / (unit * unit)),
        }
    }
    /// [`Metric::comparable`] as a formula over the score called `name`.
    pub fn formula(&self, name: &str, deviation: Option<f64>) -> String {
        let unit = unit(deviation);
        match self.name {
            _ if self.higher_is_better => name.to_owned(),
            "hamming" => format!("1 - {name}"),
            "perplexity" => format!("1 / {name}"),
            "loss" if deviation.is_none() => format!("exp(-{name})"),
            "mae" => format!("1 / (1 + {name} / {unit:.4})"),
            _ => format!("1 / (1 + {name} / {:.4})", unit * unit),
        }
    }
}

/// The unit of errors: a deviation, or 1 for targets that are all alike.
fn unit(deviation: Option<f64>) -> f64 {
    deviation.filter(|d| *d > 0.0).unwrap_or(1.0)
}

/// `a / b`, and 0 where that is undefined, as scikit-learn's `zero_division` default does; the caller counts
/// these.
fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

/// 2 TP / (2 TP + FP + FN), where `targets` = TP + FN and `predictions` = TP + FP.
fn f1(hits: u64, targets: u64, predictions: u64) -> f64 {
    ratio(2 * hits, targets + predictions)
}

/// Mean of a sum over n; NaN over nothing.
fn mean(sum: f64, n: u64) -> f64 {
    if n == 0 { f64::NAN } else { sum / n as f64 }
}

/// Precision, recall, F1 and support of named rows, for a terminal; control characters, which could steer it,
/// become `?`.
fn write_rows<'a>(
    f: &mut fmt::Formatter<'_>,
    head: &str,
    rows: impl Iterator<Item = (&'a str, ClassScores)>,
) -> fmt::Result {
    let clean = |name: &str| name.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    let rows: Vec<(String, ClassScores)> = rows.map(|(name, c)| (clean(name), c)).collect();
    let width = rows.iter().map(|(n, _)| n.chars().count()).max().unwrap_or(0).max(head.chars().count());
    writeln!(f, "{head:<width$}  precision  recall      f1  support")?;
    for (name, c) in rows {
        writeln!(
            f,
            "{name:<width$}  {:>9.4}  {:>6.4}  {:>6.4}  {:>7}",
            c.precision, c.recall, c.f1, c.support
        )?;
    }
    Ok(())
}
