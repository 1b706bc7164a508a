//! The measurements that a command line asks for.

use super::Opened;
use crate::bench::{Effort, ModelShape, Workbench, step};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::models::{encoder_shape, source};
use crate::nn::EncoderConfig;
use crate::ops::OPS;
use crate::shape::DType;
use crate::suggest::nearest;
use clap::ArgMatches;

/// Devices, ops, shapes.
pub struct Asked {
    pub devices: Vec<Opened>,
    pub effort: Effort,
    /// Models by name or folder; empty for the device's default.
    pub models: Vec<(ModelShape, EncoderConfig)>,
    /// Numbers of tokens; empty for the device's default.
    pub tokens: Vec<usize>,
    /// The number of sequences, their length, and whether to sweep.
    pub step: (usize, usize, bool),
    /// The number of steps queued on a GPU for one measurement.
    pub repeats: usize,
    ops: Vec<String>,
}

impl Asked {
    /// Checks the command line before anything is measured.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for unknown ops and models, and devices named twice; those of opening a device.
    pub fn of(matches: &ArgMatches) -> Result<Asked> {
        let list = |id: &str| -> Vec<&String> { matches.get_many(id).into_iter().flatten().collect() };
        let number = |id: &str| matches.get_one::<usize>(id).copied().unwrap_or(1);
        let ops: Vec<String> = list("op").into_iter().cloned().collect();
        for pattern in &ops {
            known_op(pattern)?;
        }
        let models =
            list("shape-of").into_iter().map(|name| model(name)).collect::<Result<Vec<_>>>()?.concat();
        let names = match list("device") {
            none if none.is_empty() => vec!["auto"],
            some => some.into_iter().map(String::as_str).collect(),
        };
        let types = match list("dtype") {
            none if none.is_empty() => vec!["f32"],
            some => some.into_iter().map(String::as_str).collect(),
        };
        let threads = matches.get_one::<usize>("threads").copied().unwrap_or(0);
        let mut devices: Vec<Opened> = Vec::new();
        for name in names {
            for &dtype in &types {
                let number = match dtype {
                    "f16" => DType::F16,
                    "bf16" => DType::BF16,
                    _ => DType::F32,
                };
                let id = match (name, dtype) {
                    ("auto", "f32") => "cpu".to_owned(),
                    (name, "f32") => name.to_owned(),
                    (name, dtype) => format!("{name} {dtype}"),
                };
                if devices.iter().any(|(other, _)| *other == id) {
                    return Err(Error::usage(format!("the device {id} is named twice"))
                        .with_help("name each device and each type once"));
                }
                let device = Device::open(name, threads)?;
                // With several types, skip those that a device does not support.
                match device.with_compute(number) {
                    Ok(device) => devices.push((id, device)),
                    Err(e) if types.len() == 1 => return Err(e),
                    Err(_) => {}
                }
            }
        }
        Ok(Asked {
            devices,
            effort: super::effort(matches),
            models,
            tokens: matches.get_many::<u32>("tokens").into_iter().flatten().map(|&t| t as usize).collect(),
            step: (number("sequences"), number("length"), !matches.get_flag("no-sweep")),
            repeats: number("repeats"),
            ops,
        })
    }
    /// Whether to measure an op.
    pub fn wants(&self, op: &str) -> bool {
        self.ops.is_empty() || self.ops.iter().any(|pattern| fits(pattern, op))
    }
    /// The models for a device.
    pub fn models(&self, bench: &Workbench) -> Result<Vec<(ModelShape, EncoderConfig)>> {
        match self.models.is_empty() {
            false => Ok(self.models.clone()),
            true if bench.is_slow() => model("minilm-l6"),
            true => model("all"),
        }
    }
    /// The numbers of tokens for a device.
    pub fn tokens(&self, bench: &Workbench) -> Vec<usize> {
        match self.tokens.is_empty() {
            false => self.tokens.clone(),
            true if bench.is_slow() => vec![256, 1024],
            true => vec![256, 1024, 4096, 16384, 32768],
        }
    }
}

/// Whether a word matches a pattern, where `*` matches any text.
fn fits(pattern: &str, word: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == word,
        Some((head, rest)) => word.strip_prefix(head).is_some_and(|tail| {
            tail.char_indices().map(|(i, _)| i).chain([tail.len()]).any(|i| fits(rest, &tail[i..]))
        }),
    }
}

fn known_op(pattern: &str) -> Result<()> {
    let names = || OPS.iter().map(|(op, _)| *op);
    if names().any(|op| fits(pattern, op)) {
        return Ok(());
    }
    let e = Error::usage(format!("no op matches {pattern:?}"));
    Err(match nearest(pattern, names()) {
        Some(near) => e.with_help(format!("did you mean {near:?}?")),
        None => e.with_expected(names().collect::<Vec<_>>().join(", ")),
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
    let shape = ModelShape {
        name,
        hidden: config.hidden,
        layers: config.layers,
        heads: config.heads,
        intermediate: config.intermediate,
        vocab: config.vocab,
        positions: config.positions,
    };
    Ok(vec![(shape, config)])
}
