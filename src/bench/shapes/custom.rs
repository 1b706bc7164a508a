//! Shapes that a user writes: `m,n,k` for a matmul, or the named sizes of an op.

use super::build::{self, DROPOUT, Heads};
use super::lengths::MOST_TOKENS;
use super::{Job, LENGTH, LengthSource, SequenceLengths};
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::ops::UPDATE_RULES;
use crate::ops::dropout::DropoutRows;
use crate::ops::favor::default_features;
use crate::ops::hidden_match::RowDistance;
use crate::ops::pool::Pool;
use crate::ops::update::UpdateRule;
use crate::suggest::nearest;

/// The sizes of one op.
#[derive(Clone, Copy)]
struct OpSizes {
    op: &'static str,
    /// The number of rows or tokens, which `--tokens` may give too. None for steps on a number of elements.
    rows: Option<&'static str>,
    /// Sizes without a default.
    needed: &'static [&'static str],
    /// Sizes and options with a default.
    optional: &'static [&'static str],
}

const fn sizes(
    op: &'static str,
    rows: Option<&'static str>,
    needed: &'static [&'static str],
    optional: &'static [&'static str],
) -> OpSizes {
    OpSizes { op, rows, needed, optional }
}

const M: Option<&str> = Some("m");
const TOKENS: Option<&str> = Some("tokens");
const ROWS: Option<&str> = Some("rows");

/// Every op that has sizes, but the updates of optimizers. `step_guard` has none.
const OTHERS: &[OpSizes] = &[
    sizes("embed", TOKENS, &["columns"], &["length", "vocab", "positions"]),
    sizes("linear", M, &["n", "k"], &["act"]),
    sizes("add_norm", ROWS, &["columns"], &["dropout"]),
    sizes("attention", TOKENS, &["heads", "head_dim"], &["length", "window", "dropout"]),
    sizes("favor", TOKENS, &["heads", "head_dim"], &["length", "features"]),
    sizes("relative_attention", TOKENS, &["heads", "head_dim"], &["length"]),
    sizes("relation", TOKENS, &["heads", "head_dim"], &["length", "teacher_dim"]),
    sizes("hidden_match", ROWS, &["columns"], &[]),
    sizes("dropout", ROWS, &["columns"], &["dropout"]),
    sizes("pool", TOKENS, &["columns"], &["length"]),
    sizes("gather", ROWS, &["columns"], &["indices"]),
    sizes("normalize", ROWS, &["columns"], &[]),
    sizes("dot", ROWS, &["columns"], &[]),
    sizes("mask", ROWS, &["columns"], &[]),
    sizes("rotary", TOKENS, &["heads", "head_dim"], &["length"]),
    sizes("glu", ROWS, &["columns"], &[]),
    sizes("residual", ROWS, &["columns"], &["dropout"]),
    sizes("cross_entropy", ROWS, &["classes"], &[]),
    sizes("binary_cross_entropy", ROWS, &["classes"], &[]),
    sizes("symmetric_kl", ROWS, &["classes"], &[]),
    sizes("soft_cross_entropy", ROWS, &["classes"], &[]),
    sizes("span_cross_entropy", TOKENS, &[], &["length"]),
    sizes("mse", ROWS, &["columns"], &[]),
    sizes("global_norm", None, &["elements"], &[]),
    sizes("cast", None, &["elements"], &[]),
    sizes("score_penalty", None, &["elements"], &[]),
    sizes("zero_masked", None, &["elements"], &[]),
];

/// Every op that has sizes.
fn all() -> impl Iterator<Item = OpSizes> {
    OTHERS.iter().copied().chain(UPDATE_RULES.iter().map(|rule| sizes(rule.name, None, &["elements"], &[])))
}

impl OpSizes {
    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.rows.into_iter().chain(self.needed.iter().copied()).chain(self.optional.iter().copied())
    }
    fn has(&self, name: &str) -> bool {
        self.names().any(|n| n == name)
    }
    /// `tokens, heads, head_dim [length, window]`.
    fn written(&self) -> String {
        let needed: Vec<&str> = self.rows.into_iter().chain(self.needed.iter().copied()).collect();
        match self.optional {
            [] => needed.join(", "),
            optional => format!("{} [{}]", needed.join(", "), optional.join(", ")),
        }
    }
}

/// The largest value of a size that has no smaller limit.
const MOST: usize = 1 << 24;
/// The most elements of a tensor: 256 GiB in f32.
const MOST_ELEMENTS: usize = 1 << 36;
/// The widest head; the features of `favor` take time that grows with its third power.
const MOST_HEAD: usize = 1024;
/// The most elements that are made on the host, as targets of a loss.
const MOST_TARGETS: usize = 1 << 28;

const SYNTAX: &str = "m,n,k for linear, such as 512,4096,1024, or NAME=N,... such as rows=512,columns=768";

/// The value of `--shape`: the sizes of one op by name.
#[derive(Clone, Debug, PartialEq)]
pub struct CustomShape {
    text: String,
    parts: Vec<(&'static str, String)>,
}

impl CustomShape {
    /// [`Job::model`] of a shape that belongs to no model.
    pub const MODEL: &'static str = "custom";

    /// Reads the value of `--shape`: `m,n,k` (rows, outputs and inputs of a matmul) or `NAME=VALUE,...`.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for another syntax, an unknown or repeated name, and a
    /// value that is no size.
    pub fn parse(text: &str) -> Result<CustomShape> {
        let bad = |why: String| Error::usage(format!("--shape {text}: {why}")).with_expected(SYNTAX);
        let written: Vec<&str> = text.split(',').map(str::trim).collect();
        let mut parts: Vec<(&'static str, String)> = Vec::new();
        if written.iter().all(|part| !part.contains('=')) {
            if written.len() != 3 {
                return Err(bad(format!("{} numbers where a matmul has 3", written.len())));
            }
            parts.extend(["m", "n", "k"].into_iter().zip(written.iter().map(|v| (*v).to_owned())));
        } else {
            for part in written {
                let Some((name, value)) = part.split_once('=') else {
                    return Err(bad(format!("{part:?} has no name")));
                };
                let mut names = all().flat_map(|o| o.names().collect::<Vec<_>>());
                let Some(known) = names.find(|n| *n == name) else {
                    let e = bad(format!("there is no size {name:?}"));
                    return Err(match nearest(name, all().flat_map(|o| o.names().collect::<Vec<_>>())) {
                        Some(near) => e.with_help(format!("did you mean {near:?}?")),
                        None => e,
                    });
                };
                if parts.iter().any(|(n, _)| *n == known) {
                    return Err(bad(format!("{name} is given twice")));
                }
                parts.push((known, value.to_owned()));
            }
        }
        for (name, value) in &mut parts {
            *value = canonical(name, value).map_err(bad)?;
        }
        Ok(CustomShape { text: text.to_owned(), parts })
    }
    /// The text that was parsed.
    pub fn text(&self) -> &str {
        &self.text
    }
    /// Whether the jobs of an op depend on the lengths of sequences.
    pub fn takes_lengths(op: &str) -> bool {
        all().any(|o| o.op == op && o.has("length"))
    }
    /// The ops that have all of its sizes and need no other, by name.
    pub fn ops(&self) -> Vec<&'static str> {
        all().filter(|o| self.fit(o).is_ok()).map(|o| o.op).collect()
    }
    /// Whether it is the shape of an op.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for an op that lacks one of the sizes, or needs another
    /// one.
    pub fn check(&self, op: &str) -> Result<()> {
        let Some(sizes) = all().find(|o| o.op == op) else {
            return Err(Error::usage(format!("--shape {}: {op} has no sizes", self.text))
                .with_help("leave --shape out, or name another op with --op"));
        };
        self.fit(&sizes).map_err(|why| {
            Error::usage(format!("--shape {}: {why}", self.text))
                .with_expected(format!("the sizes of {op}: {}", sizes.written()))
        })
    }
    fn fit(&self, sizes: &OpSizes) -> std::result::Result<(), String> {
        if let Some((other, _)) = self.parts.iter().find(|(name, _)| !sizes.has(name)) {
            return Err(format!("{} has no size {other}", sizes.op));
        }
        match sizes.needed.iter().find(|name| self.text_of(name).is_none()) {
            Some(missing) => Err(format!("{missing} is missing")),
            None => Ok(()),
        }
    }
    fn text_of(&self, name: &str) -> Option<&str> {
        self.parts.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }
    /// A size. Values were checked by [`CustomShape::parse`].
    fn count(&self, name: &str) -> Option<usize> {
        self.text_of(name)?.parse().ok()
    }

    /// The jobs of an op at this shape, for every number of tokens. `tokens` (of `--tokens`) stands for the
    /// number of rows or tokens of a shape that has none, and `lengths` for the length of sequences.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) if the shape does not fit the op, if the number of rows is
    /// missing or given twice, if sequences do not fill the tokens, and for tensors that are too large for
    /// any device.
    pub fn jobs(&self, op: &str, tokens: &[usize], lengths: Option<&LengthSource>) -> Result<Vec<Job>> {
        self.check(op)?;
        let Some(sizes) = all().find(|o| o.op == op) else { return Ok(Vec::new()) };
        let Some(rows_name) = sizes.rows else { return Ok(vec![self.step(op)?]) };
        let own = self.count(rows_name);
        let listed = lengths.and_then(LengthSource::list).filter(|_| sizes.has("length"));
        let bad = |why: String| Error::usage(format!("--shape {}: {why}", self.text));
        if listed.is_some() && own.is_some() {
            return Err(bad(format!("{rows_name} is given, and --lengths lists the sequences"))
                .with_help(format!("leave {rows_name} out: it is the sum of the lengths")));
        }
        let all = match (own, tokens, listed) {
            (.., Some(list)) => vec![list.tokens()],
            (Some(_), [_, ..], _) => {
                return Err(bad(format!("{rows_name} is given, and so is --tokens"))
                    .with_help(format!("leave out one of the two; --tokens gives {rows_name}")));
            }
            (Some(own), [], _) => vec![own],
            (None, [], _) => {
                return Err(bad(format!("{rows_name} is missing")).with_help(format!(
                    "write {rows_name}=N, or give one or several numbers with --tokens"
                )));
            }
            (None, tokens, _) => tokens.to_vec(),
        };
        let mut jobs = Vec::new();
        for rows in all {
            let batch = if sizes.has("length") { Some(self.batch(rows, lengths)?) } else { None };
            jobs.extend(self.at(op, rows, batch.as_ref())?);
        }
        Ok(jobs)
    }
    /// The sequences of a batch.
    fn batch(&self, tokens: usize, lengths: Option<&LengthSource>) -> Result<SequenceLengths> {
        let given = self.count("length");
        let bad = |why: String| Error::usage(format!("--shape {}: {why}", self.text));
        if let Some(lengths) = lengths {
            return match given {
                Some(_) => Err(bad("length is given, and so is --lengths".to_owned())
                    .with_help("leave out one of the two")),
                None => Ok(lengths.with_tokens(tokens)),
            };
        }
        let length = given.unwrap_or(LENGTH.min(tokens));
        if !tokens.is_multiple_of(length) {
            return Err(bad(format!(
                "{tokens} tokens are not a multiple of the length of a sequence ({length})"
            ))
            .with_help("give a multiple, or sequences of different lengths with --lengths"));
        }
        Ok(SequenceLengths::equal(tokens / length, length))
    }
    fn heads(&self) -> Heads {
        Heads { heads: self.count("heads").unwrap_or(1), head_dim: self.count("head_dim").unwrap_or(1) }
    }
    fn dropout(&self) -> f32 {
        self.text_of("dropout").and_then(|p| p.parse().ok()).unwrap_or(DROPOUT)
    }
    /// The role: the sizes other than the number of rows, in the op's own order, and the lengths.
    fn role(&self, op: &str, batch: Option<&SequenceLengths>) -> String {
        let Some(sizes) = all().find(|o| o.op == op) else { return String::new() };
        let names = sizes.names().filter(|name| Some(*name) != sizes.rows && *name != "length");
        // Whether an option is written out or left at its default, the shape is the same.
        let differs = |name: &str, value: &str| match name {
            "dropout" => value.parse::<f32>().ok() != Some(DROPOUT),
            "act" => value != "none",
            _ => true,
        };
        let values = names.filter_map(|name| Some((name, self.text_of(name)?)));
        let mut parts: Vec<String> = values
            .filter(|(name, value)| differs(name, value))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let ragged = batch.filter(|b| b.common().is_none()).map(SequenceLengths::label);
        parts.extend(batch.and_then(SequenceLengths::common).map(|length| format!("length={length}")));
        [parts.join(",")].into_iter().filter(|p| !p.is_empty()).chain(ragged).collect::<Vec<_>>().join(", ")
    }
    /// The jobs at one number of rows. Ops that read `cu_seqlens` or positions have a batch.
    fn at(&self, op: &str, rows: usize, batch: Option<&SequenceLengths>) -> Result<Vec<Job>> {
        let size = |name: &str| self.count(name).unwrap_or(1);
        let (columns, classes, h, p) = (size("columns"), size("classes"), self.heads(), self.dropout());
        self.limit(&[
            ("the input", &[rows, columns, classes]),
            ("q, k and v", &[rows, 3, h.heads, h.head_dim]),
        ])?;
        let one = SequenceLengths::equal(1, rows);
        let s = batch.unwrap_or(&one);
        let jobs = match op {
            "embed" => {
                let tables = [self.count("vocab").unwrap_or(30522), self.count("positions").unwrap_or(512)];
                self.limit(&[
                    ("the token table", &[tables[0], columns]),
                    ("the position table", &[tables[1], columns]),
                ])?;
                let job = build::embed(s, [columns, tables[0], tables[1]]);
                if let Some(why) = job.refusal() {
                    return Err(Error::usage(format!("--shape {}: {why}", self.text))
                        .with_help("raise positions, or lower length"));
                }
                vec![("", job)]
            }
            "linear" => {
                let (n, k) = (size("n"), size("k"));
                self.limit(&[("x", &[rows, k]), ("w", &[n, k]), ("y", &[rows, n])])?;
                let act = self.text_of("act").and_then(activation).unwrap_or(Activation::None);
                vec![("", build::linear([rows, n, k], act))]
            }
            "add_norm" => vec![
                ("residual", build::add_norm([rows, columns], true, p)),
                ("no residual", build::add_norm([rows, columns], false, p)),
            ],
            "attention" => vec![("", build::attention(s, h, self.count("window"), p))],
            "favor" => {
                let features = self.count("features").unwrap_or(default_features(h.head_dim));
                self.limit(&[(
                    "the table of features",
                    &[s.sequences(), h.heads, features, h.head_dim + 1],
                )])?;
                vec![("", build::favor(s, h, features))]
            }
            "relative_attention" => vec![("", build::relative_attention(s, h))],
            "relation" => {
                let teacher_dim = self.count("teacher_dim").unwrap_or(2 * h.head_dim);
                self.limit(&[("the teacher's q, k and v", &[rows, 3, h.heads, teacher_dim])])?;
                vec![("", build::relation(s, h, teacher_dim))]
            }
            "hidden_match" => vec![
                ("mean square", build::hidden_match([rows, columns], RowDistance::Mse)),
                ("cosine", build::hidden_match([rows, columns], RowDistance::Cosine)),
            ],
            "rotary" => vec![("", build::rotary(s, h))],
            "pool" => vec![
                ("mean", build::pool(s, columns, Pool::Mean)),
                ("first token", build::pool(s, columns, Pool::First)),
            ],
            "span_cross_entropy" => vec![("", build::span_cross_entropy(s))],
            "gather" => {
                let number = self.count("indices").unwrap_or((rows / 8).max(1));
                if number > rows {
                    return Err(Error::usage(format!(
                        "--shape {}: indices ({number}) exceed the rows ({rows})",
                        self.text
                    )));
                }
                vec![("", build::gather([rows, columns], number))]
            }
            "glu" => vec![("", build::glu([rows, columns]))],
            "residual" => vec![("", build::residual([rows, columns], p))],
            "dropout" => vec![("", build::dropout([rows, columns], p, DropoutRows::Sequences))],
            "normalize" => vec![("", build::normalize([rows, columns]))],
            "dot" => vec![("", build::dot([rows, columns]))],
            "mask" => vec![("", build::mask([rows, columns]))],
            "cross_entropy" => vec![("", build::cross_entropy([rows, classes]))],
            "symmetric_kl" => vec![("", build::symmetric_kl([rows, classes]))],
            "binary_cross_entropy" | "soft_cross_entropy" | "mse" => {
                if rows * columns * classes > MOST_TARGETS {
                    return Err(self.too_large("the targets", &[rows, columns * classes], MOST_TARGETS));
                }
                match op {
                    "mse" => vec![("", build::mse([rows, columns]))],
                    "soft_cross_entropy" => vec![("", build::soft_cross_entropy([rows, classes]))],
                    _ => vec![("", build::binary_cross_entropy([rows, classes]))],
                }
            }
            _ => Vec::new(),
        };
        let role = self.role(op, batch);
        let name = |(which, job): (&str, Job)| {
            let parts = [which, role.as_str()].into_iter().filter(|p| !p.is_empty());
            let role = parts.collect::<Vec<_>>().join(", ");
            Job { role, model: CustomShape::MODEL.to_owned(), tokens: rows, ..job }
        };
        Ok(jobs.into_iter().map(name).collect())
    }
    fn step(&self, op: &str) -> Result<Job> {
        let elements = self.count("elements").unwrap_or(1);
        let job = match op {
            "global_norm" => build::global_norm(elements),
            "cast" => build::cast(elements),
            "score_penalty" => build::score_penalty(elements),
            "zero_masked" => build::zero_masked(elements),
            name => build::update(UpdateRule::find(name).unwrap_or(&UPDATE_RULES[0]), elements),
        };
        Ok(Job { role: self.role(op, None), model: CustomShape::MODEL.to_owned(), ..job })
    }
    /// Refuses tensors that no device holds.
    fn limit(&self, tensors: &[(&str, &[usize])]) -> Result<()> {
        let fits = |shape: &[usize]| {
            let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            elements.is_some_and(|n| n <= MOST_ELEMENTS)
        };
        match tensors.iter().find(|(_, shape)| !fits(shape)) {
            Some((what, shape)) => Err(self.too_large(what, shape, MOST_ELEMENTS)),
            None => Ok(()),
        }
    }
    fn too_large(&self, what: &str, shape: &[usize], most: usize) -> Error {
        let shape: Vec<String> = shape.iter().filter(|d| **d > 1).map(usize::to_string).collect();
        Error::usage(format!("--shape {}: {what} is too large", self.text))
            .with_expected(format!("at most {most} elements"))
            .with_found(shape.join(" x "))
    }
}

fn activation(name: &str) -> Option<Activation> {
    Some(match name {
        "none" => Activation::None,
        "gelu" => Activation::GeluErf,
        "gelu_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        "tanh" => Activation::Tanh,
        _ => return None,
    })
}

/// Checks one value. Returns it as roles show it: equal values have equal texts.
fn canonical(name: &str, value: &str) -> std::result::Result<String, String> {
    let least = if name == "window" { 0 } else { 1 };
    let most = match name {
        "elements" => MOST_ELEMENTS,
        "tokens" | "rows" | "m" => MOST_TOKENS,
        "head_dim" | "teacher_dim" => MOST_HEAD,
        "heads" | "features" => 1 << 16,
        _ => MOST,
    };
    match name {
        "act" => activation(value)
            .map(|_| value.to_owned())
            .ok_or_else(|| format!("act is {value:?}, which is none of none, gelu, gelu_tanh, relu, tanh")),
        "dropout" => match value.parse::<f32>() {
            Ok(p) if (0.0..1.0).contains(&p) => Ok(p.abs().to_string()),
            _ => Err(format!(
                "dropout is {value:?}, which is no probability from 0 up to, but not including, 1"
            )),
        },
        _ => match value.parse::<usize>() {
            Ok(n) if (least..=most).contains(&n) => Ok(n.to_string()),
            Ok(n) if n < least => Err(format!("{name} is 0: a size is at least 1")),
            Err(_) if value.is_empty() || !value.chars().all(|c| c.is_ascii_digit()) => {
                Err(format!("{name} is {value:?}, which is no number"))
            }
            _ => Err(format!("{name} is {value}, which exceeds {most}")),
        },
    }
}
