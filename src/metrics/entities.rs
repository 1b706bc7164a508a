//! Scores of entities, or of any spans of words, as seqeval 1.2.2 counts them.
//!
//! A predicted span is right if its type, its first and its last word are those of a target. With TP the
//! right ones: precision = TP / predicted, recall = TP / targets, F1 = 2 TP / (predicted + targets), each 0
//! where undefined; over all spans together (micro) or for each type.

use super::{ClassScores, Scores, f1, mean, ratio};
use crate::data::{Scheme, Span, TagFormat};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// Accumulates sentences of tags. Memory: three counts a type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entities {
    format: TagFormat,
    strict: bool,
    types: BTreeMap<String, Counts>,
    words: u64,
    right_words: u64,
    sentences: u64,
    loss: f64,
    losses: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    hits: u64,
    targets: u64,
    predictions: u64,
}

impl Counts {
    fn add(&mut self, o: &Self) {
        self.hits += o.hits;
        self.targets += o.targets;
        self.predictions += o.predictions;
    }
    fn scores(&self) -> ClassScores {
        ClassScores {
            precision: ratio(self.hits, self.predictions),
            recall: ratio(self.hits, self.targets),
            f1: f1(self.hits, self.targets, self.predictions),
            support: self.targets,
            predicted: self.predictions,
        }
    }
}

impl Entities {
    /// Nothing counted yet. Tags of any scheme are read leniently, as the CoNLL script and seqeval's default
    /// do.
    pub fn new() -> Self {
        Self::default()
    }
    /// Nothing counted yet. Only what follows the scheme counts, as with seqeval's `mode="strict"`.
    pub fn strict(scheme: Scheme) -> Self {
        Self::strict_of(TagFormat::in_scheme(scheme, []))
    }
    /// Nothing counted yet. Tags of a format are read leniently, as [`TagFormat::spans`] does.
    pub fn of(format: TagFormat) -> Self {
        Self { format, ..Self::default() }
    }
    /// Nothing counted yet. Only what follows the format's scheme counts, as [`TagFormat::strict_spans`]
    /// reads it.
    pub fn strict_of(format: TagFormat) -> Self {
        Self { strict: true, ..Self::of(format) }
    }
    /// Counts a sentence, a tag a word on both sides.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for sides of different lengths; if strict,
    /// [`Kind::Data`](crate::error::Kind::Data) for a tag that is not of the scheme.
    pub fn add<P: AsRef<str>, T: AsRef<str>>(&mut self, predictions: &[P], targets: &[T]) -> Result<()> {
        if predictions.len() != targets.len() {
            let e = Error::shape("a sentence has another number of predicted tags than of targets");
            return Err(e.with_expected(targets.len().to_string()).with_found(predictions.len().to_string()));
        }
        let (p, t) = match self.strict {
            false => (self.format.spans(predictions), self.format.spans(targets)),
            true => (self.format.strict_spans(predictions)?, self.format.strict_spans(targets)?),
        };
        self.add_spans(&p, &t);
        let same = predictions.iter().zip(targets).filter(|(p, t)| p.as_ref() == t.as_ref());
        self.right_words += same.count() as u64;
        self.words += targets.len() as u64;
        Ok(())
    }
    /// Counts a text by its spans alone, each counted once; the accuracy of words is then about the other
    /// sentences.
    pub fn add_spans(&mut self, predictions: &[Span], targets: &[Span]) {
        let (p, t): (HashSet<&Span>, HashSet<&Span>) =
            (predictions.iter().collect(), targets.iter().collect());
        for span in &p {
            let counts = self.types.entry(span.label.clone()).or_default();
            counts.predictions += 1;
            counts.hits += u64::from(t.contains(*span));
        }
        for span in t {
            self.types.entry(span.label.clone()).or_default().targets += 1;
        }
        self.sentences += 1;
    }
    /// Counts spans of targets that cannot be found, such as those that end inside a word, by their types.
    pub fn add_missed<S: AsRef<str>>(&mut self, types: &[S]) {
        for name in types {
            self.types.entry(name.as_ref().to_owned()).or_default().targets += 1;
        }
    }
    /// Adds the losses of `words` words, summed.
    pub fn add_loss(&mut self, sum: f64, words: u64) {
        self.loss += sum;
        self.losses += words;
    }
    /// Adds what another accumulator counted. Refuses one that reads tags in another way.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for one that reads tags in another way.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if (self.format, self.strict) != (other.format, other.strict) {
            let say = |m: &Self| format!("{} {:?}", if m.strict { "strict" } else { "lenient" }, m.format);
            let e = Error::shape("accumulators that read tags in different ways cannot be merged");
            return Err(e.with_expected(say(self)).with_found(say(other)));
        }
        other.types.iter().for_each(|(k, c)| self.types.entry(k.clone()).or_default().add(c));
        self.words += other.words;
        self.right_words += other.right_words;
        self.sentences += other.sentences;
        self.loss += other.loss;
        self.losses += other.losses;
        Ok(())
    }
    /// Number of sentences.
    pub fn len(&self) -> u64 {
        self.sentences
    }
    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.sentences == 0
    }
    /// Mean loss of a word; NaN for none.
    pub fn loss(&self) -> f64 {
        mean(self.loss, self.losses)
    }
    /// Share of words with the right tag; NaN for none.
    pub fn accuracy(&self) -> f64 {
        mean(self.right_words as f64, self.words)
    }
    /// Scores of every type that occurs, by name.
    pub fn per_type(&self) -> impl ExactSizeIterator<Item = (&str, ClassScores)> {
        self.types.iter().map(|(name, c)| (name.as_str(), c.scores()))
    }
    /// Scores of all spans together (micro-averaged).
    pub fn overall(&self) -> ClassScores {
        let mut sum = Counts::default();
        self.types.values().for_each(|c| sum.add(c));
        sum.scores()
    }
    /// F1 averaged over the types that occur; NaN if none does, as in seqeval.
    pub fn f1_macro(&self) -> f64 {
        mean(self.types.values().map(|c| c.scores().f1).sum(), self.types.len() as u64)
    }
    /// F1 averaged over types by their number of targets; 0 without any, NaN for no sentences.
    pub fn f1_weighted(&self) -> f64 {
        let targets: u64 = self.types.values().map(|c| c.targets).sum();
        let sum: f64 = self.types.values().map(|c| c.scores().f1 * c.targets as f64).sum();
        if self.is_empty() || targets > 0 { mean(sum, targets) } else { 0.0 }
    }
    /// Every score, under the names of [`METRICS`](super::METRICS); NaN for no sentences.
    pub fn scores(&self) -> Scores {
        let all = self.overall();
        let or_nan = |x| if self.is_empty() { f64::NAN } else { x };
        [
            ("loss", self.loss()),
            ("f1", or_nan(all.f1)),
            ("precision", or_nan(all.precision)),
            ("recall", or_nan(all.recall)),
            ("f1_macro", self.f1_macro()),
            ("f1_weighted", self.f1_weighted()),
            ("accuracy", self.accuracy()),
        ]
        .into_iter()
        .collect()
    }
}

/// A row a type, and all together.
impl fmt::Display for Entities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::write_rows(f, "type", self.per_type().chain([("all", self.overall())]))
    }
}
