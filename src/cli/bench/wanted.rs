//! The ops, shapes and lengths that a command line asks for.

use crate::bench::{CustomShape, Job, LengthSource, ModelShape, Workbench, ops, step};
use crate::error::{Error, Result};
use crate::models::{EncoderConfig, encoder_shape, source};
use crate::suggest::nearest;
use clap::ArgMatches;

/// Ops and shapes, which do not depend on the device unless a default does.
pub struct Wanted {
    /// Models by name or folder; empty for the device's default.
    models: Vec<(ModelShape, EncoderConfig)>,
    /// Numbers of tokens; empty for the device's default.
    tokens: Vec<usize>,
    /// The lengths of sequences, if they are given.
    lengths: Option<LengthSource>,
    /// The jobs of `--shape`, which replace those of models.
    custom: Option<Vec<Job>>,
    /// Patterns of ops.
    ops: Vec<String>,
}

impl Wanted {
    /// Reads `--op`, `--shape`, `--shape-of`, `--tokens` and `--lengths`. `ops_too`: whether ops are
    /// measured, not only steps.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for unknown ops, models and sizes, for shapes that fit none
    /// of the ops, and for numbers that are given twice; those of reading a file of lengths.
    pub fn of(matches: &ArgMatches, ops_too: bool) -> Result<Wanted> {
        let list = |id: &str| -> Vec<&String> { matches.get_many(id).into_iter().flatten().collect() };
        let ops: Vec<String> = list("op").into_iter().cloned().collect();
        for pattern in &ops {
            known_op(pattern)?;
        }
        let models =
            list("shape-of").into_iter().map(|name| model(name)).collect::<Result<Vec<_>>>()?.concat();
        let tokens: Vec<usize> =
            matches.get_many::<u32>("tokens").into_iter().flatten().map(|&t| t as usize).collect();
        let lengths = matches.get_one::<String>("lengths").map(|l| LengthSource::parse(l)).transpose()?;
        let both = ops_too && !tokens.is_empty();
        if let (Some(list), true) = (lengths.as_ref().and_then(LengthSource::list), both) {
            return Err(Error::usage("--tokens is given, and --lengths lists the sequences")
                .with_found(format!("{} sequences with {} tokens", list.sequences(), list.tokens()))
                .with_help("leave --tokens out, or give a distribution such as lognormal:40,0.6:512"));
        }
        let shapes = list("shape").into_iter().map(|s| CustomShape::parse(s)).collect::<Result<Vec<_>>>()?;
        let custom = match shapes.is_empty() {
            true => None,
            false => Some(jobs(&shapes, &ops, &tokens, lengths.as_ref())?),
        };
        Ok(Wanted { models, tokens, lengths, custom, ops })
    }
    /// Whether to measure an op.
    pub fn wants(&self, op: &str) -> bool {
        match &self.custom {
            Some(jobs) => jobs.iter().any(|job| job.op == op),
            None => self.ops.is_empty() || self.ops.iter().any(|pattern| fits(pattern, op)),
        }
    }
    /// The lengths of sequences, if they are given.
    pub fn lengths(&self) -> Option<&LengthSource> {
        self.lengths.as_ref()
    }
    /// The models for a device.
    ///
    /// # Errors
    /// None for known names.
    pub fn models(&self, bench: &Workbench) -> Result<Vec<(ModelShape, EncoderConfig)>> {
        match self.models.is_empty() {
            false => Ok(self.models.clone()),
            true if bench.is_slow() => model("minilm-l6"),
            true => model("all"),
        }
    }
    /// The jobs of the ops for a device.
    pub fn jobs(&self, bench: &Workbench, models: &[(ModelShape, EncoderConfig)]) -> Planned<'_> {
        if let Some(jobs) = &self.custom {
            return Planned::Given(jobs);
        }
        let shapes: Vec<ModelShape> = models.iter().map(|(shape, _)| shape.clone()).collect();
        let (tokens, wanted) = (self.tokens(bench), |op: &str| self.wants(op));
        Planned::Made(match &self.lengths {
            Some(lengths) => ops::plan_lengths(&shapes, &tokens, lengths, &wanted),
            None => ops::plan(&shapes, &tokens, &wanted),
        })
    }
    /// The numbers of tokens for a device.
    fn tokens(&self, bench: &Workbench) -> Vec<usize> {
        match self.tokens.is_empty() {
            false => self.tokens.clone(),
            true if bench.is_slow() => vec![256, 1024],
            true => vec![256, 1024, 4096, 16384, 32768],
        }
    }
    /// The defaults that are smaller because the device is slow; none if the command line gives everything
    /// that is used.
    pub fn smaller(&self, bench: &Workbench, ops: bool, steps: bool) -> Option<String> {
        let from_models = steps || self.custom.is_none();
        let from_tokens =
            ops && self.custom.is_none() && self.lengths.as_ref().is_none_or(|l| l.list().is_none());
        let mut parts = Vec::new();
        if from_models && self.models.is_empty() {
            parts.push("minilm-l6".to_owned());
        }
        if from_tokens && self.tokens.is_empty() {
            let tokens: Vec<String> = self.tokens(bench).iter().map(usize::to_string).collect();
            parts.push(format!("{} tokens", tokens.join(" and ")));
        }
        (bench.is_slow() && !parts.is_empty()).then(|| parts.join(", "))
    }
}

/// Jobs that the command line gives, or that were made for a device.
pub enum Planned<'a> {
    Given(&'a [Job]),
    Made(Vec<Job>),
}

impl std::ops::Deref for Planned<'_> {
    type Target = [Job];
    fn deref(&self) -> &[Job] {
        match self {
            Planned::Given(jobs) => jobs,
            Planned::Made(jobs) => jobs,
        }
    }
}

/// The jobs of `--shape`. Without `--op` a shape is for the only op that it fits.
fn jobs(
    shapes: &[CustomShape],
    patterns: &[String],
    tokens: &[usize],
    lengths: Option<&LengthSource>,
) -> Result<Vec<Job>> {
    let chosen: Vec<&'static str> = ops::names().filter(|op| patterns.iter().any(|p| fits(p, op))).collect();
    let (mut all, mut used): (Vec<Job>, Vec<&str>) = Default::default();
    for shape in shapes {
        let fitting = shape.ops();
        let ops: Vec<&'static str> = match (patterns.is_empty(), chosen.as_slice(), fitting.as_slice()) {
            (true, _, [one]) => vec![*one],
            (true, _, []) => {
                return Err(Error::usage(format!("--shape {} fits no op", shape.text()))
                    .with_help("name the op with --op, to see which sizes it has"));
            }
            (true, ..) => {
                return Err(Error::usage(format!("--shape {} fits several ops", shape.text()))
                    .with_found(fitting.join(", "))
                    .with_help("choose with --op"));
            }
            (false, [one], _) => {
                shape.check(one)?;
                vec![*one]
            }
            (false, several, _) => several.iter().copied().filter(|op| fitting.contains(op)).collect(),
        };
        if ops.is_empty() {
            return Err(Error::usage(format!("--shape {} fits none of the ops of --op", shape.text()))
                .with_expected(if fitting.is_empty() {
                    "sizes of one op".to_owned()
                } else {
                    fitting.join(", ")
                })
                .with_found(chosen.join(", ")));
        }
        for op in ops {
            used.push(op);
            all.extend(shape.jobs(op, tokens, lengths)?);
        }
    }
    // An op that is named without a pattern must have a shape.
    if let Some(idle) = patterns.iter().find(|p| !p.contains('*') && !used.contains(&p.as_str())) {
        return Err(Error::usage(format!("--op {idle} has no --shape"))
            .with_help("add a shape for it, or leave the op out"));
    }
    if lengths.is_some() && !used.iter().any(|op| CustomShape::takes_lengths(op)) {
        return Err(
            Error::usage(format!("--lengths has no effect on {}", used.join(", "))).with_help("leave it out")
        );
    }
    let twice = all
        .iter()
        .enumerate()
        .find(|(i, a)| all[..*i].iter().any(|b| (b.op, &b.role, b.tokens) == (a.op, &a.role, a.tokens)));
    match twice {
        Some((_, job)) => Err(Error::usage(format!("{} is named twice", job.label()))
            .with_help("name each shape and each number of tokens once")),
        None => Ok(all),
    }
}

/// Whether a word matches a pattern, where `*` matches any text.
pub fn fits(pattern: &str, word: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == word,
        Some((head, rest)) => word.strip_prefix(head).is_some_and(|tail| {
            tail.char_indices().map(|(i, _)| i).chain([tail.len()]).any(|i| fits(rest, &tail[i..]))
        }),
    }
}

/// Refuses a pattern that no op matches.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage).
pub fn known_op(pattern: &str) -> Result<()> {
    if ops::names().any(|op| fits(pattern, op)) {
        return Ok(());
    }
    let e = Error::usage(format!("no op matches {pattern:?}"));
    Err(match nearest(pattern, ops::names()) {
        Some(near) => e.with_help(format!("did you mean {near:?}?")),
        None => e.with_expected(ops::names().collect::<Vec<_>>().join(", ")),
    })
}

/// The shapes of a model's name; three models for `all`.
fn model(name: &str) -> Result<Vec<(ModelShape, EncoderConfig)>> {
    let known = ModelShape::known();
    let with = |shape: &ModelShape| (shape.clone(), step::encoder(shape));
    if name == "all" {
        return Ok(known.iter().map(with).collect());
    }
    if let Some(shape) = known.iter().find(|m| m.name == name) {
        return Ok(vec![with(shape)]);
    }
    let near = nearest(name, known.iter().map(|m| m.name.as_str()));
    let found = source::resolve(name).and_then(|dir| encoder_shape(&dir));
    let config = found.map_err(|e| match near {
        Some(near) => {
            Error::usage(format!("there is no model {name:?}")).with_help(format!("did you mean {near:?}?"))
        }
        None => e,
    })?;
    let name = name.trim_end_matches('/').rsplit('/').next().unwrap_or(name).to_owned();
    let layer = config.layer(0);
    let shape = ModelShape {
        name,
        hidden: config.hidden,
        layers: config.depth(),
        heads: layer.heads,
        intermediate: layer.intermediate,
        vocab: config.vocab,
        positions: config.positions,
    };
    Ok(vec![(shape, config)])
}
