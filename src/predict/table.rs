//! Predictions of rows: one text each, or two.

use super::chunked::Chunked;
use super::fill::Filled;
use super::session::Session;
use crate::data::{Label, Row, TokenSet};
use crate::error::{Error, Result};
use crate::metrics::{sigmoids, softmax};
use crate::models::Outputs;
use crate::tasks::similarity;
use std::fmt;

/// What the model predicts for a row, by the kind of its head.
#[derive(Clone, Debug, PartialEq)]
pub enum Predicted {
    /// One class.
    Class {
        /// The name of the likeliest class; of equally likely ones the first.
        label: String,
        /// The number of that class.
        class: usize,
        /// The probability of each class (softmax).
        probabilities: Vec<f64>,
    },
    /// Any number of classes.
    Labels {
        /// The names of the classes above their thresholds.
        labels: Vec<String>,
        /// Whether each class is above its threshold.
        chosen: Vec<bool>,
        /// The probability of each class (sigmoid).
        probabilities: Vec<f64>,
    },
    /// A number, in the unit of the training labels.
    Number(f64),
    /// The cosine of the vectors of two texts.
    Similarity(f64),
    /// The probability that the two texts belong together in this order: that the second follows the first.
    Follows(f64),
    /// Tokens for the mask tokens of the text.
    Filled(Filled),
}

impl fmt::Display for Predicted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class { label, class, probabilities } => {
                write!(f, "{label} ({:.3})", probabilities.get(*class).copied().unwrap_or(f64::NAN))
            }
            Self::Labels { labels, .. } => write!(f, "{}", labels.join(", ")),
            Self::Number(x) | Self::Similarity(x) | Self::Follows(x) => write!(f, "{x:.4}"),
            Self::Filled(filled) => {
                let best = filled.masks.iter().filter_map(|fills| fills.first());
                write!(f, "{}", best.map(|fill| fill.text.as_str()).collect::<Vec<_>>().join(" "))
            }
        }
    }
}

/// The prediction of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// What is predicted.
    pub value: Predicted,
    /// The number of tokens that were cut off because the text is longer than the maximum length.
    pub lost: u32,
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl Session {
    /// Predicts a stream of rows: texts (`&str`, `String`), pairs of texts, or [`Row`]s. The predictions come
    /// in the order of the rows. Rows are read in chunks of [`Settings::chunk`](super::Settings::chunk), so a
    /// stream may be endless. The same row gives the same prediction, whatever other rows there are.
    ///
    /// An item is an error of kind [`Data`](crate::error::Kind::Data) for a row without the second text that
    /// the head needs, of kind [`Model`](crate::error::Kind::Model) for outputs that are not finite, and of
    /// kind [`Usage`](crate::error::Kind::Usage) for a model that tags words or answers questions (see
    /// [`Session::tags`] and [`Session::answers`]). The stream ends after an error.
    pub fn predict<R: Into<Row>>(
        &self,
        rows: impl IntoIterator<Item = R>,
    ) -> impl Iterator<Item = Result<Prediction>> {
        self.try_predict(rows.into_iter().map(|row| Ok(row.into())))
    }

    /// The same for rows that may fail to be read: the first error ends the stream.
    pub fn try_predict(
        &self,
        rows: impl IntoIterator<Item = Result<Row>>,
    ) -> impl Iterator<Item = Result<Prediction>> {
        Chunked::new(rows.into_iter(), self.settings().chunk, |rows, first| self.predict_rows(rows, first))
    }

    /// The tokens of rows, each a text or two in one sequence.
    pub(super) fn tokens(&self, rows: &[Row], labels: Vec<Label>) -> Result<TokenSet> {
        TokenSet::build(self.tokenizer(), rows, labels, self.folder.max_length, None)
    }

    fn predict_rows(&self, rows: Vec<Row>, first: usize) -> Result<Vec<Prediction>> {
        let outputs = self.outputs();
        let (values, lost) = match outputs {
            Outputs::Tokens | Outputs::Permuted => {
                let (filled, lost) = self.fill(rows, first)?;
                (filled.into_iter().map(Predicted::Filled).collect(), lost)
            }
            Outputs::Embedding => {
                let longest = self.folder.max_length;
                let set = TokenSet::of_pairs(self.tokenizer(), &rows, Vec::new(), longest)?;
                let cosine = |both: &[f32]| {
                    let (u, v) = both.split_at(both.len() / 2);
                    Predicted::Similarity(f64::from(similarity(u, v) as f32))
                };
                (self.each(&set, first, 0, cosine)?, set.lost)
            }
            Outputs::Tags(_) | Outputs::Span => return Err(self.other_input()),
            Outputs::Pretraining(_) => {
                let set = self.tokens(&rows, Vec::new())?;
                // The first class says that the texts belong together in this order.
                let follows =
                    |row: &[f32]| Predicted::Follows(softmax(row).first().copied().unwrap_or(f64::NAN));
                (self.each(&set, first, 1, follows)?, set.lost)
            }
            Outputs::Number => {
                let set = self.tokens(&rows, Vec::new())?;
                let number = |row: &[f32]| Predicted::Number(row.first().map_or(f64::NAN, |x| f64::from(*x)));
                (self.each(&set, first, 0, number)?, set.lost)
            }
            Outputs::Classes(classes) => {
                let set = self.tokens(&rows, Vec::new())?;
                (self.each(&set, first, 0, |row| class_of(classes, row))?, set.lost)
            }
            Outputs::Labels(classes) => {
                let set = self.tokens(&rows, Vec::new())?;
                let thresholds = self.thresholds(classes);
                (self.each(&set, first, 0, |row| labels_of(classes, &thresholds, row))?, set.lost)
            }
        };
        Ok(values.into_iter().zip(lost).map(|(value, lost)| Prediction { value, lost }).collect())
    }

    /// The probability above which each class is predicted, for a model that predicts any number of classes.
    fn thresholds(&self, classes: &[String]) -> Vec<f64> {
        self.folder.metadata.thresholds_of(classes).unwrap_or_else(|| vec![0.5; classes.len()])
    }

    /// A value for each example of a set from its row of outputs; `which`: the number of the output, for a
    /// head with several.
    fn each(
        &self,
        set: &TokenSet,
        first: usize,
        which: usize,
        mut value: impl FnMut(&[f32]) -> Predicted,
    ) -> Result<Vec<Predicted>> {
        let mut values = vec![Predicted::Number(f64::NAN); set.len()];
        self.run(&self.batches(set)?, first, |batch, outputs| {
            let all = outputs.get(which).map(Vec::as_slice).unwrap_or_default();
            let width = all.len() / batch.len().max(1);
            for (row, &example) in all.chunks_exact(width.max(1)).zip(&batch.examples) {
                if let Some(slot) = values.get_mut(example as usize) {
                    *slot = value(row);
                }
            }
            Ok(())
        })?;
        Ok(values)
    }

    /// The error of rows for a model that reads something else.
    fn other_input(&self) -> Error {
        let (what, help) = match self.outputs() {
            Outputs::Span => ("the model answers questions", "call Session::answers with questions"),
            _ => ("the model tags words", "call Session::tags with sentences of words"),
        };
        Error::usage(format!("{what}, so it does not predict rows")).at(&self.folder.dir).with_help(help)
    }
}

fn class_of(classes: &[String], logits: &[f32]) -> Predicted {
    let class = first_greatest(logits);
    let label = classes.get(class).cloned().unwrap_or_default();
    Predicted::Class { label, class, probabilities: softmax(logits) }
}

fn labels_of(classes: &[String], thresholds: &[f64], logits: &[f32]) -> Predicted {
    let probabilities = sigmoids(logits);
    let chosen: Vec<bool> = probabilities.iter().zip(thresholds).map(|(p, t)| p > t).collect();
    let labels = classes.iter().zip(&chosen).filter(|(_, chosen)| **chosen).map(|(c, _)| c.clone()).collect();
    Predicted::Labels { labels, chosen, probabilities }
}

/// The index of the first greatest number, as the metrics count a prediction.
fn first_greatest(logits: &[f32]) -> usize {
    let better = |best: (usize, f32), (i, &x): (usize, &f32)| if x > best.1 { (i, x) } else { best };
    logits.iter().enumerate().fold((0, f32::NEG_INFINITY), better).0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Softmax of (0, ln 3): 1/4 and 3/4; sigmoid of ln 3: 3/4.
    #[test]
    fn values_are_those_of_the_formulas() {
        let classes = ["no".to_owned(), "yes".to_owned()];
        let logits = [0.0, 3f32.ln()];
        let Predicted::Class { label, class, probabilities } = class_of(&classes, &logits) else { panic!() };
        assert_eq!((label.as_str(), class), ("yes", 1));
        assert!((probabilities[1] - 0.75).abs() < 1e-6);
        let Predicted::Class { class, .. } = class_of(&classes, &[1.0, 1.0]) else { panic!() };
        assert_eq!(class, 0, "of equal logits the first");

        let Predicted::Labels { labels, chosen, probabilities } = labels_of(&classes, &[0.5, 0.7], &logits)
        else {
            panic!()
        };
        assert!((probabilities[1] - 0.75).abs() < 1e-6);
        // A probability of exactly the threshold is not above it.
        assert_eq!((labels, chosen), (vec!["yes".to_owned()], vec![false, true]));
        assert_eq!(class_of(&classes, &logits).to_string(), "yes (0.750)");
    }
}
