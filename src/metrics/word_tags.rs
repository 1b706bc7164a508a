//! Scores of tags that are no spans, such as parts of speech: each word is an example of a classification.

use super::{Classification, Scores, mean};
use crate::error::{Error, Result};

/// Accumulates sentences of tags, each a class of its word. The definitions are scikit-learn's, over all
/// words and all tags, `O` among them: micro-averaged precision, recall and F1 all equal the accuracy.
#[derive(Clone, Debug, PartialEq)]
pub struct WordTags {
    counts: Classification,
    loss: f64,
    losses: u64,
}

impl WordTags {
    /// Nothing counted yet, for tags 0 to `tags` - 1.
    pub fn new(tags: usize) -> Self {
        Self { counts: Classification::new(tags), loss: 0.0, losses: 0 }
    }
    /// Counts a sentence, a tag a word on both sides.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for sides of different lengths,
    /// [`Kind::Data`](crate::error::Kind::Data) for a tag that is not there.
    pub fn add(&mut self, predictions: &[u32], targets: &[u32]) -> Result<()> {
        if predictions.len() != targets.len() {
            let e = Error::shape("a sentence has another number of predicted tags than of targets");
            return Err(e.with_expected(targets.len().to_string()).with_found(predictions.len().to_string()));
        }
        predictions.iter().zip(targets).try_for_each(|(&p, &t)| self.counts.add(p, t, 0.0))
    }
    /// Adds the losses of `words` words, summed.
    pub fn add_loss(&mut self, sum: f64, words: u64) {
        self.loss += sum;
        self.losses += words;
    }
    /// Adds what another accumulator counted.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for one of another number of tags.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.counts.merge(&other.counts)?;
        self.loss += other.loss;
        self.losses += other.losses;
        Ok(())
    }
    /// The words by target and predicted tag.
    pub fn counts(&self) -> &Classification {
        &self.counts
    }
    /// Every score, under the names of [`METRICS`](super::METRICS); NaN for no words.
    pub fn scores(&self) -> Scores {
        let micro = self.counts.accuracy();
        [
            ("loss", mean(self.loss, self.losses)),
            ("f1", micro),
            ("precision", micro),
            ("recall", micro),
            ("f1_macro", self.counts.f1_macro()),
            ("f1_weighted", self.counts.f1_weighted()),
            ("accuracy", micro),
        ]
        .into_iter()
        .collect()
    }
}
