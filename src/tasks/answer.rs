//! Where in a text the answer to a question stands: extractive question answering (Devlin et al. 2019, sec.
//! 4.2 and 4.3).

use super::{DataKind, Meter, SoftKind, SoftOutput, Task, TaskEntry, only, reals, unlabelled};
use crate::data::{Batch, Contexts, Origin, Question, TokenSet};
use crate::error::{Error, Result};
use crate::metrics::{Answers, Scores, Squad};
use crate::models::Outputs;
use crate::ops::span_cross_entropy::SpanCrossEntropy;
use crate::shape::DType;
use crate::tape::{Tape, Var};
use std::cell::OnceCell;
use std::sync::Arc;

/// The task's entry in the table.
pub(super) const ENTRY: TaskEntry = TaskEntry {
    name: "answer",
    doc: "finds the span of a text that answers a question",
    best_metric: "f1",
    metrics: &[(
        "answer",
        &[
            "f1",
            "exact",
            "HasAns_f1",
            "HasAns_exact",
            "NoAns_f1",
            "NoAns_exact",
            "best_f1",
            "best_exact",
            "loss",
        ],
    )],
    data: DataKind::Questions,
    trains: |outputs| *outputs == Outputs::Span,
    sections: &["answer"],
    classes: false,
    weights: false,
    scores: &["exact match, F1"],
    columns: &[],
};

/// The task; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// How answers are found.
    pub search: Search,
}

/// How answers are found: transformers' `postprocess_qa_predictions`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// Most likely starts and ends of each window that are combined, and answers kept of each question.
    pub n_best: usize,
    /// Longest answer, in tokens.
    pub max_length: usize,
    /// Whether "no answer" may be given (SQuAD 2.0): learnt in training, never read from the questions that
    /// are answered.
    pub impossible: bool,
    /// How much better than the best answer "no answer" must be to be given.
    pub null_threshold: f64,
}

impl Default for Search {
    fn default() -> Self {
        Self { n_best: 20, max_length: 30, impossible: false, null_threshold: 0.0 }
    }
}

impl Task for Answer {
    fn outputs(&self) -> Outputs {
        Outputs::Span
    }
    fn weights(&self, batch: &Batch) -> [f64; 2] {
        [batch.sequences() as f64, 0.0]
    }
    fn loss(&self, tape: &mut Tape, outputs: &[Var], batch: &Batch, [scale, _]: [f64; 2]) -> Result<Var> {
        let n = batch.sequences();
        let spans = batch.targets.spans();
        if spans.len() != n {
            return Err(unlabelled());
        }
        let logits = only(outputs)?;
        let device = tape.device();
        let bounds = device.upload(DType::U32, &[n + 1], &batch.cu_seqlens[..n + 1])?;
        let spans = device.upload(DType::U32, &[n, 2], spans.as_flattened())?;
        let x = [
            logits.clone(),
            tape.constant(bounds),
            tape.constant(spans),
            reals(tape, logits, &[1], &[scale])?,
        ];
        tape.apply(SpanCrossEntropy, x)
    }
    fn soft(&self) -> Option<SoftOutput> {
        Some(SoftKind::Span.first())
    }
    fn meter(&self, set: &TokenSet) -> Box<dyn Meter> {
        Box::new(Found::new(self.search, set))
    }
    /// What is 0 for a model that answers every question.
    fn uninformative(&self, metric: &str, set: &TokenSet) -> Result<Option<String>> {
        let Origin::Contexts(contexts) = &set.origin else { return Ok(None) };
        let only_unanswered = contexts.questions.iter().all(|q| q.impossible);
        let zero = metric.starts_with("NoAns") || (only_unanswered && metric != "loss");
        let why = "the model answers every question, since no training question is without an answer";
        Ok((zero && !self.search.impossible).then(|| why.to_owned()))
    }
}

/// An answer that may be the right one.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its text, cut from the context; empty for "no answer".
    pub text: String,
    /// Where it stands in the context, in bytes; empty for "no answer".
    pub bytes: std::ops::Range<usize>,
    /// Logit of its start.
    pub start_logit: f32,
    /// Logit of its end.
    pub end_logit: f32,
    /// Softmax over the candidates of the question.
    pub probability: f64,
}

impl Candidate {
    fn score(&self) -> f32 {
        self.start_logit + self.end_logit
    }
}

/// What was found for one question.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finding {
    /// The candidates, the most likely first.
    pub candidates: Vec<Candidate>,
    /// The least score of "no answer" over the windows, less the score of the best answer; `None` if no
    /// window was seen.
    pub null_odds: Option<f64>,
    /// The answer that is given: empty for "no answer".
    pub answer: String,
}

/// The answers that a model gives to the questions of a set of windows.
pub struct Found {
    search: Search,
    contexts: Arc<Contexts>,
    candidates: Vec<Vec<Candidate>>,
    /// Start and end logit of the classification token in the window where their sum is least.
    null: Vec<Option<(f32, f32)>>,
    /// The sum of the losses of each question's windows, and how many they are.
    losses: Vec<(f64, u64)>,
    each: OnceCell<Vec<Answers>>,
}

impl Found {
    /// Nothing found yet.
    pub fn new(search: Search, set: &TokenSet) -> Self {
        let contexts = match &set.origin {
            Origin::Contexts(contexts) => contexts.clone(),
            _ => Arc::default(),
        };
        let n = contexts.questions.len();
        let (candidates, null) = (vec![Vec::new(); n], vec![None; n]);
        Self { search, contexts, candidates, null, losses: vec![(0.0, 0); n], each: OnceCell::new() }
    }

    /// What was found for each question, in order.
    pub fn findings(&self) -> Vec<Finding> {
        let each = self.candidates.iter().zip(&self.null);
        each.map(|(candidates, null)| self.finding(candidates.clone(), *null)).collect()
    }

    fn finding(&self, mut candidates: Vec<Candidate>, null: Option<(f32, f32)>) -> Finding {
        let none = |(start_logit, end_logit)| Candidate {
            text: String::new(),
            bytes: 0..0,
            start_logit,
            end_logit,
            probability: 0.0,
        };
        let best = candidates.iter().map(Candidate::score).fold(f32::NEG_INFINITY, f32::max);
        let null_odds = null.map(|(s, e)| f64::from(s + e) - f64::from(best));
        if self.search.impossible {
            candidates.extend(null.map(none));
        }
        candidates.sort_by(|a, b| b.score().total_cmp(&a.score()));
        candidates.truncate(self.search.n_best);
        if candidates.is_empty() {
            candidates.push(none((0.0, 0.0)));
        }
        let most = candidates.first().map_or(0.0, |c| f64::from(c.score()));
        let sum: f64 = candidates.iter().map(|c| (f64::from(c.score()) - most).exp()).sum();
        for c in &mut candidates {
            c.probability = (f64::from(c.score()) - most).exp() / sum;
        }
        let refused =
            self.search.impossible && null_odds.is_some_and(|odds| odds > self.search.null_threshold);
        let given = candidates.iter().find(|c| !c.text.is_empty()).filter(|_| !refused);
        Finding { answer: given.map(|c| c.text.clone()).unwrap_or_default(), candidates, null_odds }
    }
}

/// The greatest `n` of a window's logits, with their tokens.
fn greatest(logits: impl Iterator<Item = (u32, f32)>, n: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<_> = logits.collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(n);
    all
}

impl Meter for Found {
    fn add(&mut self, outputs: &[Vec<f32>], batch: &Batch) -> Result<()> {
        let logits = only(outputs)?;
        self.each.take();
        for (k, (&example, bounds)) in batch.examples.iter().zip(batch.cu_seqlens.windows(2)).enumerate() {
            let Some(window) = self.contexts.windows.get(example as usize) else {
                return Err(
                    Error::shape("a window that the set does not have").with_found(example.to_string())
                );
            };
            let rows = logits.get(bounds[0] as usize * 2..bounds[1] as usize * 2).unwrap_or_default();
            let at = |t: u32, k: usize| rows.get(t as usize * 2 + k).copied().unwrap_or(f32::NAN);
            let n = rows.len() as u32 / 2;
            let q = window.question as usize;
            if let Some(span) = batch.targets.spans().get(k) {
                let (loss, windows) = &mut self.losses[q];
                for (k, &target) in span.iter().enumerate() {
                    let most = (0..n).map(|t| at(t, k)).fold(f32::NEG_INFINITY, f32::max) as f64;
                    let sum: f64 = (0..n).map(|t| (at(t, k) as f64 - most).exp()).sum();
                    *loss += 0.5 * (most + sum.ln() - at(target, k) as f64);
                }
                *windows += 1;
            }
            let null = (at(window.cls, 0), at(window.cls, 1));
            if self.null[q].is_none_or(|(s, e)| null.0 + null.1 < s + e) {
                self.null[q] = Some(null);
            }
            // Starts and ends are chosen among all tokens of the window, then those outside of the context
            // dropped.
            let starts = greatest((0..n).map(|t| (t, at(t, 0))), self.search.n_best);
            let ends = greatest((0..n).map(|t| (t, at(t, 1))), self.search.n_best);
            let context = &self.contexts.questions[q].context;
            for &(start, start_logit) in starts.iter().filter(|(t, _)| window.tokens.contains(t)) {
                let longest = start.saturating_add(self.search.max_length as u32);
                let fits = |t: &u32| window.tokens.contains(t) && *t >= start && *t < longest;
                for &(end, end_logit) in ends.iter().filter(|(t, _)| fits(t)) {
                    let offset = |t: u32| window.offsets[(t - window.tokens.start) as usize];
                    let bytes = offset(start).0 as usize..offset(end).1 as usize;
                    let text = context.get(bytes.clone()).unwrap_or_default().to_owned();
                    self.candidates[q].push(Candidate {
                        text,
                        bytes,
                        start_logit,
                        end_logit,
                        probability: 0.0,
                    });
                }
            }
            let all = &mut self.candidates[q];
            all.sort_by(|a, b| b.score().total_cmp(&a.score()));
            all.truncate(self.search.n_best);
        }
        Ok(())
    }
    fn scores(&self) -> Scores {
        self.answers(0..self.losses.len()).scores()
    }
    fn report(&self) -> String {
        format!("{} questions in {} windows\n", self.contexts.questions.len(), self.contexts.windows.len())
    }
    fn units(&self) -> usize {
        self.losses.len()
    }
    fn scores_of(&self, drawn: &[usize]) -> Scores {
        self.answers(drawn.iter().copied()).scores()
    }
}

impl Found {
    /// What was counted of these questions.
    fn answers(&self, questions: impl Iterator<Item = usize>) -> Answers {
        // A file in which a question has no answer is one of SQuAD 2.0, also for a model that always gives
        // one.
        let v2 = self.search.impossible || self.contexts.questions.iter().any(|q| q.impossible);
        let none = || Answers::new(if v2 { Squad::V2 } else { Squad::V1 });
        let each = self.each.get_or_init(|| {
            let all = self.contexts.questions.iter().zip(self.findings()).zip(&self.losses);
            let one = |((question, found), &(loss, windows)): ((&Question, Finding), &(f64, u64))| {
                let mut answers = none();
                let gold: Vec<&str> = question.answers.iter().map(|a| a.text.as_str()).collect();
                let mut texts = found.candidates.iter().map(|c| c.text.as_str());
                let best = texts.find(|t| !t.is_empty()).unwrap_or("");
                if self.search.impossible {
                    // Of a question of which nothing is known yet, "no answer" is certain.
                    let odds = found.null_odds.unwrap_or(f64::INFINITY);
                    answers.add_with_odds(best, &gold, odds, self.search.null_threshold);
                } else {
                    answers.add(&found.answer, &gold);
                }
                answers.add_loss(loss, windows);
                answers
            };
            all.map(one).collect()
        });
        let mut sum = none();
        for one in questions.filter_map(|i| each.get(i)) {
            // All are of the same version.
            let _ = sum.merge(one);
        }
        sum
    }
}
