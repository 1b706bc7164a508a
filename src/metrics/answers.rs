//! Exact match and F1 of answers to questions, as the scripts evaluate-v1.1 and evaluate-v2.0 of SQuAD have
//! them.
//!
//! Rajpurkar et al. 2016 and 2018. Both texts are normalised: lower case, ASCII punctuation removed, the
//! words a, an and the removed, white space collapsed. Exact is their equality; F1 is over the multisets of
//! their words; of several right answers the best counts. Scores here are 0 to 1, the scripts print percent.

use super::{Scores, mean};
use std::collections::HashMap;
use std::fmt;

/// Which of the two scripts is followed; they differ where a text is empty once normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Squad {
    /// 1.1: every question has an answer. F1 is 0 if no word is shared, also if both texts are empty.
    #[default]
    V1,
    /// 2.0: a question may have no answer, and "" is then right. F1 of an empty text is 1 if both are,
    /// else 0. Right answers that are empty once normalised are left out.
    V2,
}

/// Accumulates answers. Memory: the sums, and of 2.0 with null odds 32 bytes a question for the best
/// threshold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    version: Squad,
    has_answer: Sums,
    no_answer: Sums,
    missing: u64,
    /// In the order in which they were added, which decides between equal odds.
    odds: Vec<Odds>,
    loss: f64,
    losses: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    n: u64,
    exact: f64,
    f1: f64,
}

/// A question for the choice of a threshold: what it scores if its answer is given.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Odds {
    null: f64,
    has_answer: bool,
    /// What is gained over saying "no answer": its scores, or −1 for an answer to a question that has none.
    exact: f64,
    f1: f64,
}

/// The threshold of the null odds above which "no answer" should be said, and the score then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BestThreshold {
    /// The score, 0 to 1.
    pub score: f64,
    /// The greatest null odds at which an answer is still given; 0 if none should be.
    pub threshold: f64,
}

/// A text as the scripts compare it.
pub fn normalize_answer(text: &str) -> String {
    let plain: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut out, mut rest) = (String::with_capacity(plain.len()), plain.as_str());
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| word(c) != word(first)).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        out.push_str(if matches!(run, "a" | "an" | "the") { " " } else { run });
        rest = after;
    }
    split(&out).collect::<Vec<_>>().join(" ")
}

/// Words as `str.split` of Python cuts them: it counts four control characters more as white space.
fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || ('\x1C'..='\x1F').contains(&c)).filter(|w| !w.is_empty())
}

/// (exact, F1) of one answer against one right one.
fn pair(version: Squad, prediction: &str, gold: &str) -> (f64, f64) {
    let (prediction, gold) = (normalize_answer(prediction), normalize_answer(gold));
    let exact = f64::from(u8::from(prediction == gold));
    let (p, g): (Vec<&str>, Vec<&str>) = (split(&prediction).collect(), split(&gold).collect());
    if version == Squad::V2 && (p.is_empty() || g.is_empty()) {
        return (exact, exact);
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    g.iter().for_each(|w| *left.entry(w).or_default() += 1);
    let taken = |w: &&&str| match left.get_mut(**w) {
        Some(n) if *n > 0 => {
            *n -= 1;
            true
        }
        _ => false,
    };
    let shared = p.iter().filter(taken).count();
    if shared == 0 {
        return (exact, 0.0);
    }
    let (precision, recall) = (shared as f64 / p.len() as f64, shared as f64 / g.len() as f64);
    (exact, 2.0 * precision * recall / (precision + recall))
}

impl Answers {
    /// Nothing counted yet.
    pub fn new(version: Squad) -> Self {
        Self { version, ..Self::default() }
    }
    /// (exact, F1) of an answer; no `golds`: the question has no answer and "" is right.
    pub fn score<S: AsRef<str>>(version: Squad, prediction: &str, golds: &[S]) -> (f64, f64) {
        let kept = golds
            .iter()
            .map(AsRef::as_ref)
            .filter(|g| version == Squad::V1 || !normalize_answer(g).is_empty());
        let all = kept.map(|g| pair(version, prediction, g));
        let best = all.reduce(|a, b| (a.0.max(b.0), a.1.max(b.1)));
        best.unwrap_or_else(|| pair(version, prediction, ""))
    }
    /// Counts the answer to a question, "" for none; no `golds`: the question has no answer. Returns (exact,
    /// F1).
    pub fn add<S: AsRef<str>>(&mut self, prediction: &str, golds: &[S]) -> (f64, f64) {
        let (exact, f1) = Self::score(self.version, prediction, golds);
        self.count(!golds.is_empty(), exact, f1);
        (exact, f1)
    }
    /// Counts an answer whose null odds are known: above `threshold` "no answer" is said instead.
    /// `prediction` is the best answer that is not empty, if there is one. Returns (exact, F1) at the
    /// threshold.
    pub fn add_with_odds<S: AsRef<str>>(
        &mut self,
        prediction: &str,
        golds: &[S],
        null_odds: f64,
        threshold: f64,
    ) -> (f64, f64) {
        let has_answer = !golds.is_empty();
        let (exact, f1) = Self::score(self.version, prediction, golds);
        let gain = |score| match (has_answer, prediction.is_empty()) {
            (true, _) => score,
            (false, true) => 0.0,
            (false, false) => -1.0,
        };
        self.odds.push(Odds { null: null_odds, has_answer, exact: gain(exact), f1: gain(f1) });
        let silent = f64::from(u8::from(!has_answer));
        let (exact, f1) = if null_odds > threshold { (silent, silent) } else { (exact, f1) };
        self.count(has_answer, exact, f1);
        (exact, f1)
    }
    /// Counts a question that got no prediction: 0, as the script of 1.1 has it.
    pub fn add_missing(&mut self, has_answer: bool) {
        self.count(has_answer, 0.0, 0.0);
        self.missing += 1;
    }
    fn count(&mut self, has_answer: bool, exact: f64, f1: f64) {
        let sums = if has_answer { &mut self.has_answer } else { &mut self.no_answer };
        sums.n += 1;
        sums.exact += exact;
        sums.f1 += f1;
    }
    /// Adds the losses of `questions`, summed.
    pub fn add_loss(&mut self, sum: f64, questions: u64) {
        self.loss += sum;
        self.losses += questions;
    }
    /// Adds what another accumulator counted. Refuses one of the other version.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for one of the other version.
    pub fn merge(&mut self, other: &Self) -> crate::error::Result<()> {
        if self.version != other.version {
            let e =
                crate::error::Error::shape("accumulators of different versions of SQuAD cannot be merged");
            return Err(e
                .with_expected(format!("{:?}", self.version))
                .with_found(format!("{:?}", other.version)));
        }
        for (mine, theirs) in
            [(&mut self.has_answer, &other.has_answer), (&mut self.no_answer, &other.no_answer)]
        {
            mine.n += theirs.n;
            mine.exact += theirs.exact;
            mine.f1 += theirs.f1;
        }
        self.missing += other.missing;
        self.odds.extend_from_slice(&other.odds);
        self.loss += other.loss;
        self.losses += other.losses;
        Ok(())
    }
    /// Number of questions.
    pub fn len(&self) -> u64 {
        self.has_answer.n + self.no_answer.n
    }
    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Questions that got no prediction.
    pub fn missing(&self) -> u64 {
        self.missing
    }
    /// Mean loss of a question; NaN for none.
    pub fn loss(&self) -> f64 {
        mean(self.loss, self.losses)
    }
    /// Share of exact answers; NaN for none.
    pub fn exact(&self) -> f64 {
        mean(self.has_answer.exact + self.no_answer.exact, self.len())
    }
    /// Mean F1; NaN for none.
    pub fn f1(&self) -> f64 {
        mean(self.has_answer.f1 + self.no_answer.f1, self.len())
    }
    /// The best threshold by exact match and by F1, over the questions whose null odds are known; none
    /// without any.
    pub fn best_thresholds(&self) -> Option<(BestThreshold, BestThreshold)> {
        (!self.odds.is_empty()).then(|| (self.best(|o| o.exact), self.best(|o| o.f1)))
    }
    fn best(&self, gain: fn(&Odds) -> f64) -> BestThreshold {
        let mut order: Vec<&Odds> = self.odds.iter().collect();
        order.sort_by(|a, b| a.null.total_cmp(&b.null));
        let mut score = order.iter().filter(|o| !o.has_answer).count() as f64;
        let mut best = BestThreshold { score, threshold: 0.0 };
        for o in &order {
            score += gain(o);
            if score > best.score {
                best = BestThreshold { score, threshold: o.null };
            }
        }
        BestThreshold { score: mean(best.score, order.len() as u64), ..best }
    }
    /// Every score that is defined, under the names of [`METRICS`](super::METRICS) and, of 2.0, of its
    /// script.
    pub fn scores(&self) -> Scores {
        let mut scores: Scores =
            [("loss", self.loss()), ("f1", self.f1()), ("exact", self.exact())].into_iter().collect();
        if self.version == Squad::V2 {
            for (name, s) in [("HasAns", &self.has_answer), ("NoAns", &self.no_answer)] {
                if s.n > 0 {
                    scores.set(format!("{name}_exact"), mean(s.exact, s.n));
                    scores.set(format!("{name}_f1"), mean(s.f1, s.n));
                }
            }
            if let Some((exact, f1)) = self.best_thresholds() {
                for (name, best) in [("exact", exact), ("f1", f1)] {
                    scores.set(format!("best_{name}"), best.score);
                    scores.set(format!("best_{name}_thresh"), best.threshold);
                }
            }
        }
        scores
    }
}

/// A row for all questions and, of 2.0, for those with and without an answer.
impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "questions    exact      f1   number")?;
        let mut row = |name: &str, exact: f64, f1: f64, n: u64| {
            writeln!(f, "{name:<10}  {exact:>6.4}  {f1:>6.4}  {n:>7}")
        };
        if self.version == Squad::V2 {
            for (name, s) in [("answered", &self.has_answer), ("no answer", &self.no_answer)] {
                row(name, mean(s.exact, s.n), mean(s.f1, s.n), s.n)?;
            }
        }
        row("all", self.exact(), self.f1(), self.len())?;
        if let Some((exact, f1)) = self.best_thresholds() {
            writeln!(
                f,
                "best: exact {:.4} at null odds {:.4}, F1 {:.4} at {:.4}",
                exact.score, exact.threshold, f1.score, f1.threshold
            )?;
        }
        Ok(())
    }
}
