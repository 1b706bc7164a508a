//! ROUGE-1, -2, -L and -Lsum of a text against references, as rouge-score 0.1.2.
//!
//! Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004). Words are runs of a-z and 0-9 of the
//! lower-cased text; a letter beyond ASCII parts words, as in rouge-score. ROUGE-n is over n-grams, ROUGE-L
//! over the longest common subsequence, ROUGE-Lsum over the union of those of each line. Of several
//! references the one with the greatest F counts, for each measure separately.

use super::{Scores, mean, porter};
use std::collections::{BTreeSet, HashMap};
use std::fmt;

/// The names of the measures, in order.
pub const ROUGE: [&str; 4] = ["rouge1", "rouge2", "rougeL", "rougeLsum"];

/// Precision, recall and their harmonic mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RougeScore {
    /// Share of the prediction that is in the reference.
    pub precision: f64,
    /// Share of the reference that is in the prediction.
    pub recall: f64,
    /// 2 P R / (P + R); 0 if both are 0.
    pub f: f64,
}

impl RougeScore {
    fn new(hits: usize, predicted: usize, reference: usize) -> Self {
        let share = |n: usize| hits as f64 / n.max(1) as f64;
        let (precision, recall) = (share(predicted), share(reference));
        let sum = precision + recall;
        Self { precision, recall, f: if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 } }
    }
}

/// Accumulates texts. Memory: twelve sums.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rouge {
    stem: bool,
    sums: [RougeScore; 4],
    texts: u64,
}

impl Rouge {
    /// Nothing counted yet; `stem`: whether words of more than three letters are stemmed (Porter, as NLTK has
    /// it).
    pub fn new(stem: bool) -> Self {
        Self { stem, ..Self::default() }
    }
    /// Counts a text against its references; returns its scores in the order of [`ROUGE`]. Without a
    /// reference they are 0.
    pub fn add<S: AsRef<str>>(&mut self, prediction: &str, references: &[S]) -> [RougeScore; 4] {
        let scores = self.score(prediction, references);
        for (sum, s) in self.sums.iter_mut().zip(&scores) {
            sum.precision += s.precision;
            sum.recall += s.recall;
            sum.f += s.f;
        }
        self.texts += 1;
        scores
    }
    fn score<S: AsRef<str>>(&self, prediction: &str, references: &[S]) -> [RougeScore; 4] {
        let mut best = [RougeScore::default(); 4];
        let (p, lines) = (self.tokens(prediction), self.lines(prediction));
        for (i, reference) in references.iter().map(AsRef::as_ref).enumerate() {
            let r = self.tokens(reference);
            let found = [
                ngrams(&p, &r, 1),
                ngrams(&p, &r, 2),
                longest(&p, &r),
                summary(&lines, &self.lines(reference)),
            ];
            for (best, s) in best.iter_mut().zip(found) {
                if i == 0 || s.f > best.f {
                    *best = s;
                }
            }
        }
        best
    }
    fn tokens(&self, text: &str) -> Vec<String> {
        let lower = text.to_lowercase();
        let words = lower.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit());
        let words = words.filter(|w| !w.is_empty());
        words.map(|w| if self.stem && w.len() > 3 { porter::stem(w) } else { w.to_owned() }).collect()
    }
    fn lines(&self, text: &str) -> Vec<Vec<String>> {
        text.split('\n').filter(|l| !l.is_empty()).map(|l| self.tokens(l)).collect()
    }
    /// Adds what another accumulator counted. Refuses one that stems where this one does not.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for one that stems where this one does not.
    pub fn merge(&mut self, other: &Self) -> crate::error::Result<()> {
        if self.stem != other.stem {
            let say = |m: &Self| if m.stem { "stemmed words" } else { "whole words" };
            let e = crate::error::Error::shape("accumulators of other words cannot be merged");
            return Err(e.with_expected(say(self)).with_found(say(other)));
        }
        for (sum, s) in self.sums.iter_mut().zip(&other.sums) {
            sum.precision += s.precision;
            sum.recall += s.recall;
            sum.f += s.f;
        }
        self.texts += other.texts;
        Ok(())
    }
    /// Number of texts.
    pub fn len(&self) -> u64 {
        self.texts
    }
    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.texts == 0
    }
    /// Mean scores in the order of [`ROUGE`]; NaN for no texts. (`evaluate` prints the middle of a bootstrap
    /// instead.)
    pub fn means(&self) -> [RougeScore; 4] {
        let of = |s: RougeScore| RougeScore {
            precision: mean(s.precision, self.texts),
            recall: mean(s.recall, self.texts),
            f: mean(s.f, self.texts),
        };
        self.sums.map(of)
    }
    /// The F of each measure.
    pub fn scores(&self) -> Scores {
        ROUGE.into_iter().zip(self.means()).map(|(name, s)| (name, s.f)).collect()
    }
}

/// A row a measure.
impl fmt::Display for Rouge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "measure    precision  recall       F")?;
        for (name, s) in ROUGE.into_iter().zip(self.means()) {
            writeln!(f, "{name:<9}  {:>9.4}  {:>6.4}  {:>6.4}", s.precision, s.recall, s.f)?;
        }
        Ok(())
    }
}

fn ngrams(prediction: &[String], reference: &[String], n: usize) -> RougeScore {
    let count = |tokens: &[String]| (tokens.len() + 1).saturating_sub(n);
    let mut left: HashMap<&[String], usize> = HashMap::new();
    reference.windows(n).for_each(|gram| *left.entry(gram).or_default() += 1);
    let mut hits = 0;
    for gram in prediction.windows(n) {
        if let Some(n) = left.get_mut(gram).filter(|n| **n > 0) {
            *n -= 1;
            hits += 1;
        }
    }
    RougeScore::new(hits, count(prediction), count(reference))
}

/// Lengths of the longest common subsequences of all beginnings, (reference + 1) rows of (prediction + 1).
fn lengths(reference: &[String], prediction: &[String]) -> Vec<Vec<u32>> {
    let mut table = vec![vec![0; prediction.len() + 1]];
    for r in reference {
        let mut row = vec![0; prediction.len() + 1];
        if let Some(above) = table.last() {
            for (j, p) in prediction.iter().enumerate() {
                row[j + 1] = if r == p { above[j] + 1 } else { above[j + 1].max(row[j]) };
            }
        }
        table.push(row);
    }
    table
}

fn longest(prediction: &[String], reference: &[String]) -> RougeScore {
    if prediction.is_empty() || reference.is_empty() {
        return RougeScore::default();
    }
    let hits = lengths(reference, prediction).last().and_then(|row| row.last().copied()).unwrap_or(0);
    RougeScore::new(hits as usize, prediction.len(), reference.len())
}

/// The places in a reference of one longest common subsequence: the one that rouge-score's way back finds.
fn places(reference: &[String], prediction: &[String], into: &mut BTreeSet<usize>) {
    let table = lengths(reference, prediction);
    let (mut i, mut j) = (reference.len(), prediction.len());
    while i > 0 && j > 0 {
        if reference[i - 1] == prediction[j - 1] {
            into.insert(i - 1);
            (i, j) = (i - 1, j - 1);
        } else if table[i][j - 1] > table[i - 1][j] {
            j -= 1;
        } else {
            i -= 1;
        }
    }
}

fn summary(prediction: &[Vec<String>], reference: &[Vec<String>]) -> RougeScore {
    fn counts(lines: &[Vec<String>]) -> HashMap<&str, usize> {
        let mut counts = HashMap::new();
        lines.iter().flatten().for_each(|w| *counts.entry(w.as_str()).or_default() += 1);
        counts
    }
    let size = |lines: &[Vec<String>]| lines.iter().map(Vec::len).sum::<usize>();
    let (predicted, referred) = (size(prediction), size(reference));
    if predicted == 0 || referred == 0 {
        return RougeScore::default();
    }
    let (mut left, mut own) = (counts(prediction), counts(reference));
    let mut hits = 0;
    for line in reference {
        let mut union = BTreeSet::new();
        prediction.iter().for_each(|p| places(line, p, &mut union));
        for word in union.into_iter().filter_map(|i| line.get(i)) {
            if let (Some(a), Some(b)) = (left.get_mut(word.as_str()), own.get_mut(word.as_str()))
                && *a > 0
                && *b > 0
            {
                *a -= 1;
                *b -= 1;
                hits += 1;
            }
        }
    }
    RougeScore::new(hits, predicted, referred)
}
