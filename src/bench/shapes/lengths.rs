//! The lengths of a batch's sequences: equal, given one by one, or drawn from a distribution.

use crate::bench::report::LengthSummary;
use crate::error::{Error, Kind, Result};
use crate::rng::Rng;
use crate::suggest::nearest;
use std::path::Path;

/// The most tokens of a sequence, and the most sequences of a list.
const MOST: usize = 1 << 20;
/// The most tokens of all sequences of a list.
pub(super) const MOST_TOKENS: usize = 1 << 24;
/// The seed of drawn lengths. `benches/peers/shapes.py` draws the same.
const SEED: u64 = 5;
/// As many lengths are written out in the role of a row.
const SHOWN: usize = 6;

/// The lengths of the sequences of one batch, in tokens. There is at least one, and none is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceLengths(Vec<usize>);

impl SequenceLengths {
    /// Sequences of equal length; numbers below 1 count as 1.
    pub fn equal(sequences: usize, length: usize) -> SequenceLengths {
        SequenceLengths(vec![length.max(1); sequences.max(1)])
    }
    /// A batch of so many tokens in sequences of this length; the last one is shorter if necessary.
    pub fn cut(tokens: usize, length: usize) -> SequenceLengths {
        let (tokens, length) = (tokens.max(1), length.max(1));
        let rest = tokens % length;
        let full = std::iter::repeat_n(length, tokens / length);
        SequenceLengths(full.chain((rest > 0).then_some(rest)).collect())
    }
    /// Sequences of these lengths, in this order. Without any, one sequence of one token; a length of 0
    /// counts as 1.
    pub fn of(lengths: Vec<usize>) -> SequenceLengths {
        match lengths.is_empty() {
            true => SequenceLengths::equal(1, 1),
            false => SequenceLengths(lengths.into_iter().map(|l| l.max(1)).collect()),
        }
    }
    /// The lengths in order.
    pub fn all(&self) -> &[usize] {
        &self.0
    }
    /// The number of sequences.
    pub fn sequences(&self) -> usize {
        self.0.len()
    }
    /// The number of tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.0.iter().sum()
    }
    /// The number of tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.0.iter().max().copied().unwrap_or(1)
    }
    /// Where each sequence begins in the packed batch, and the number of all tokens: (sequences + 1).
    pub fn cu_seqlens(&self) -> Vec<u32> {
        let mut at = 0;
        let ends = self.0.iter().map(|&length| {
            at += length as u32;
            at
        });
        std::iter::once(0).chain(ends).collect()
    }
    /// The position of each token in its sequence: (tokens).
    pub fn positions(&self) -> Vec<u32> {
        self.0.iter().flat_map(|&length| 0..length as u32).collect()
    }
    /// The facts that a row of a report states.
    pub fn summary(&self) -> LengthSummary {
        LengthSummary {
            sequences: self.sequences(),
            tokens: self.tokens(),
            longest: self.longest(),
            sum_of_squares: self.0.iter().map(|&l| (l as u64).pow(2)).sum(),
        }
    }
    /// The length of every sequence, if all are equal.
    pub fn common(&self) -> Option<usize> {
        let first = self.longest();
        self.0.iter().all(|&l| l == first).then_some(first)
    }
    /// Tells these lengths from others in a report: `length 128`, `lengths 12,40,128`,
    /// `37 lengths up to 128 (sum of squares 81920)`.
    pub fn label(&self) -> String {
        if let Some(length) = self.common() {
            return format!("length {length}");
        }
        if self.0.len() <= SHOWN {
            return format!("lengths {}", joined(&self.0));
        }
        let LengthSummary { sequences, longest, sum_of_squares, .. } = self.summary();
        format!("{sequences} lengths up to {longest} (sum of squares {sum_of_squares})")
    }
}

fn joined(lengths: &[usize]) -> String {
    lengths.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// The value of `--lengths`: a list, a file with a list, or a distribution.
#[derive(Clone, Debug, PartialEq)]
pub enum LengthSource {
    /// The lengths themselves.
    List(SequenceLengths),
    /// Every sequence has this length.
    Constant(usize),
    /// Any length from the first to the second, equally likely.
    Uniform(usize, usize),
    /// A log-normal distribution.
    LogNormal {
        /// The mean length, before the cut at `longest`.
        mean: f64,
        /// The standard deviation of the length's logarithm.
        sigma: f64,
        /// Longer sequences are cut to this length.
        longest: usize,
    },
}

const SYNTAX: &str =
    "12,40,128, a file with one length on each line, constant:N, uniform:A-B or lognormal:MEAN,SIGMA:LONGEST";

impl LengthSource {
    /// Reads the value of `--lengths`: `12,40,128`, the name of a file with one length on each line,
    /// `constant:N`, `uniform:A-B` or `lognormal:MEAN,SIGMA:LONGEST`.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a value of none of these forms, a length of 0 and a distribution that is not one;
    /// [`Kind::Data`] for a file that cannot be read or has a line that is no length.
    pub fn parse(text: &str) -> Result<LengthSource> {
        let listed = |c: char| c.is_ascii_digit() || matches!(c, ',' | ' ' | '-');
        if text.trim().is_empty() {
            return Err(Error::usage("--lengths has no value").with_expected(SYNTAX));
        }
        if text.chars().all(listed) {
            let all = text.split(',').map(|l| length(l.trim()).map_err(|why| bad(text, why)));
            return of_list(all.collect::<Result<_>>()?).map_err(|why| bad(text, why));
        }
        match text
            .split_once(':')
            .filter(|(kind, _)| kind.chars().all(|c| c.is_ascii_alphabetic() || c == '_'))
        {
            Some((kind, rest)) if !Path::new(text).exists() => {
                distribution(kind, rest).map_err(|why| bad(text, why))
            }
            _ => LengthSource::read(text.as_ref()),
        }
    }
    /// Reads a file with one length on each line. Empty lines and lines that begin with `#` do not count.
    fn read(path: &Path) -> Result<LengthSource> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::io(Kind::Data, "cannot read the lengths", path, &e)
                .with_help(format!("--lengths takes {SYNTAX}"))
        })?;
        let lines = text.lines().enumerate().map(|(i, line)| (i as u64 + 1, line.trim()));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let all = lines.map(|(at, line)| {
            length(line).map_err(|why| {
                Error::data(why).at(path).with_line(at).with_expected("one length in tokens on each line")
            })
        });
        of_list(all.collect::<Result<_>>()?).map_err(|why| Error::data(why).at(path))
    }
    /// The batch of a list.
    pub fn list(&self) -> Option<&SequenceLengths> {
        if let LengthSource::List(lengths) = self { Some(lengths) } else { None }
    }
    /// Sequences with exactly this number of tokens together: the list of a [`LengthSource::List`], else as
    /// many draws as fit; the last sequence is cut.
    pub fn with_tokens(&self, tokens: usize) -> SequenceLengths {
        if let LengthSource::List(lengths) = self {
            return lengths.clone();
        }
        let (mut draw, mut left, mut all) = (self.draws(), tokens.max(1), Vec::new());
        while left > 0 {
            let one = draw().min(left);
            left -= one;
            all.push(one);
        }
        SequenceLengths(all)
    }
    /// This number of sequences: the whole list of a [`LengthSource::List`], else so many draws.
    pub fn with_sequences(&self, sequences: usize) -> SequenceLengths {
        match self {
            LengthSource::List(lengths) => lengths.clone(),
            _ => {
                let mut draw = self.draws();
                SequenceLengths((0..sequences.max(1)).map(|_| draw()).collect())
            }
        }
    }
    /// Draws one length after the other, the same ones in every run.
    fn draws(&self) -> impl FnMut() -> usize {
        let (source, mut rng) = (self.clone(), Rng::new(SEED, "bench lengths", 0));
        move || match &source {
            LengthSource::List(lengths) => lengths.longest(),
            LengthSource::Constant(length) => *length,
            LengthSource::Uniform(a, b) => a + rng.below((b - a + 1) as u32) as usize,
            LengthSource::LogNormal { mean, sigma, longest } => {
                // The mean of exp(mu + sigma z) is exp(mu + sigma^2 / 2).
                let mu = mean.ln() - 0.5 * sigma * sigma;
                ((mu + sigma * rng.normal()).exp().round() as usize).clamp(1, *longest)
            }
        }
    }
}

fn bad(text: &str, why: String) -> Error {
    Error::usage(format!("--lengths {text}: {why}")).with_expected(SYNTAX)
}

/// One length.
fn length(text: &str) -> std::result::Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) => Err("a sequence has no tokens (length 0)".to_owned()),
        Ok(n) if n <= MOST => Ok(n),
        _ if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) => {
            Err(format!("the length {text} exceeds {MOST} tokens"))
        }
        _ => Err(format!("{text:?} is not a length")),
    }
}

fn of_list(all: Vec<usize>) -> std::result::Result<LengthSource, String> {
    let tokens: usize = all.iter().sum();
    match all.len() {
        0 => Err("there is no length".to_owned()),
        n if n > MOST => Err(format!("{n} lengths are more than {MOST}")),
        _ if tokens > MOST_TOKENS => Err(format!("{tokens} tokens in all are more than {MOST_TOKENS}")),
        _ => Ok(LengthSource::List(SequenceLengths(all))),
    }
}

fn distribution(kind: &str, rest: &str) -> std::result::Result<LengthSource, String> {
    match kind {
        "constant" => Ok(LengthSource::Constant(length(rest)?)),
        "uniform" => {
            let (a, b) = rest.split_once('-').ok_or("write uniform:A-B, such as uniform:16-128")?;
            let (a, b) = (length(a)?, length(b)?);
            if a > b {
                return Err(format!("the smallest length ({a}) exceeds the largest ({b})"));
            }
            Ok(LengthSource::Uniform(a, b))
        }
        "lognormal" => {
            let parts =
                rest.split_once(':').and_then(|(numbers, longest)| Some((numbers.split_once(',')?, longest)));
            let ((mean, sigma), longest) =
                parts.ok_or("write lognormal:MEAN,SIGMA:LONGEST, such as lognormal:40,0.6:512")?;
            let number = |name: &str, text: &str| match text.parse::<f64>() {
                Ok(v) if v.is_finite() && v > 0.0 => Ok(v),
                _ => Err(format!("{name} ({text}) is not a number above 0")),
            };
            let (mean, sigma, longest) =
                (number("the mean", mean)?, number("sigma", sigma)?, length(longest)?);
            if mean > longest as f64 {
                return Err(format!("the mean length ({mean}) exceeds the longest ({longest})"));
            }
            if sigma > 8.0 {
                return Err(format!("sigma ({sigma}) exceeds 8"));
            }
            Ok(LengthSource::LogNormal { mean, sigma, longest })
        }
        other => Err(match nearest(other, ["constant", "uniform", "lognormal"]) {
            Some(near) => format!("there is no distribution {other:?}; did you mean {near:?}?"),
            None => "there is no distribution or file of this name".to_owned(),
        }),
    }
}
