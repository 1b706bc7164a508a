//! Scores of a language model: the perplexity of the tokens that it had to guess, and how often it was right.

use super::{Scores, mean};

/// Accumulates guessed tokens. Memory: three numbers.
///
/// perplexity = exp(Σ −log p / n) over all tokens of all batches, not the mean of the batches' perplexities.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Perplexity {
    loss: f64,
    tokens: u64,
    right: u64,
}

impl Perplexity {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// Counts `tokens` guesses: the sum of their losses −log p (natural logarithm) and how many were right.
    pub fn add(&mut self, loss: f64, tokens: u64, right: u64) {
        self.merge(&Self { loss, tokens, right });
    }
    /// Adds what another accumulator counted.
    pub fn merge(&mut self, other: &Self) {
        self.loss += other.loss;
        self.tokens += other.tokens;
        self.right += other.right;
    }
    /// Number of guesses.
    pub fn len(&self) -> u64 {
        self.tokens
    }
    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }
    /// Mean loss of a token; NaN for none.
    pub fn loss(&self) -> f64 {
        mean(self.loss, self.tokens)
    }
    /// exp of the mean loss; NaN for none.
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }
    /// Share of right guesses; NaN for none.
    pub fn accuracy(&self) -> f64 {
        mean(self.right as f64, self.tokens)
    }
    /// Every score, under the names of [`METRICS`](super::METRICS).
    pub fn scores(&self) -> Scores {
        let all = [("loss", self.loss()), ("perplexity", self.perplexity()), ("accuracy", self.accuracy())];
        all.into_iter().collect()
    }
}
