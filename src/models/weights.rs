//! Which tensor of a model's files goes into which parameter, and what was left over on either side.

use super::decoder::Decoder;
use super::rows::{HeadRows, Rows};
use crate::checkpoint::Weights;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::params::{Layout, Param, Params};
use crate::rng::Stream;
use crate::shape::DType;
use std::collections::HashSet;
use std::fmt;
use std::path::Path;

/// What became of the tensors of a model's files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Parameters that were loaded.
    pub loaded: usize,
    /// Parameters that the files do not hold, or hold for another number of outputs; they start from random values.
    pub initialised: Vec<String>,
    /// Parameters whose rows were put in the order of the classes that the model is opened for.
    pub reordered: Vec<String>,
    /// Tensors of the files that the model has no use for.
    pub unused: Vec<String>,
    /// What a person should know of it, a sentence each.
    pub warnings: Vec<String>,
    /// Hash of the weights and the config; empty unless the model is opened to be trained.
    pub hash: String,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[String]| if names.is_empty() { "none".into() } else { names.join(", ") };
        write!(
            f,
            "{} tensors loaded; new: {}; not used: {}",
            self.loaded,
            list(&self.initialised),
            list(&self.unused)
        )?;
        if self.reordered.is_empty() {
            return Ok(());
        }
        write!(f, "; rows reordered by the names of the classes: {}", list(&self.reordered))
    }
}

/// For each parameter, the name of its tensor, if there is one, and which of its rows is which.
pub(super) struct Plan {
    sources: Vec<Option<(String, Rows)>>,
    unused: Vec<String>,
    warnings: Vec<String>,
}

/// The names a parameter may have in a file: its own, without the encoder's prefix (a bare encoder), and each with
/// the layer norm's old gamma and beta.
fn candidates(name: &str, prefix: &str, decoder: &Decoder) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    // One of several heads may start from what a model with that head alone was trained to.
    let plain = super::heads::plain(name);
    names.extend((plain != name).then(|| plain.to_owned()));
    names.extend(plain.strip_prefix(prefix).map(str::to_owned));
    if let Some(alias) = decoder.alias(plain) {
        names.extend(name.strip_suffix(plain).map(|owner| format!("{owner}{alias}")));
        names.push(alias.to_owned());
    }
    if name.contains("LayerNorm.") {
        let old = |n: &String| {
            n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        };
        names.extend(names.iter().map(old).collect::<Vec<_>>());
    }
    names
}

/// What must be in the files.
pub(super) struct Names<'a> {
    /// The prefix of the encoder's tensors, which a bare encoder lacks.
    pub prefix: &'a str,
    /// How many parameters are the encoder's; those after them are the head's.
    pub body: usize,
    /// Whether the head must be there too.
    pub whole: bool,
    /// How the names of the layers' tensors begin, before the number of the layer; how many layers have tensors.
    pub layers: (String, usize),
    /// Which rows of the heads' last layers can be used.
    pub rows: HeadRows<'a>,
    /// The last map of a masked-LM head; nothing where there is no such head.
    pub decoder: &'a Decoder,
}

/// Matches parameters and tensors by name and shape. The encoder must be there in full; the head only if `whole`.
pub(super) fn match_names(files: &Weights, layout: &Layout, names: &Names, dir: &Path) -> Result<Plan> {
    let &Names { prefix, body, whole, ref layers, ref rows, decoder } = names;
    let mut used = HashSet::new();
    let (mut sources, mut missing, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    let mut warnings: Vec<String> = Vec::new();
    for (i, p) in layout.list.iter().enumerate() {
        let head = i >= body;
        let found = candidates(&p.name, prefix, decoder).into_iter().find(|n| files.get(n).is_some());
        let shape = found.as_deref().and_then(|n| files.get(n)).map(|v| v.shape.to_vec());
        let fits = shape.as_ref() == Some(&p.shape);
        if let (Some(shape), false) = (&shape, fits || (head && !whole)) {
            let file = found.as_deref().and_then(|n| files.file(n)).unwrap_or(dir);
            let e = Error::model(format!("tensor `{}` has another shape than config.json says", p.name));
            errors.push(e.at(file).with_expected(format!("{:?}", p.shape)).with_found(format!("{shape:?}")));
        } else if shape.is_none() && (whole || !head) {
            missing.push(p.name.as_str());
        }
        used.extend(found.iter().cloned());
        let carried = found.map(|tensor| {
            let rows = if head && !whole { rows.of(&p.name, &tensor) } else { Rows::Same };
            (tensor, rows)
        });
        match (&carried, &shape) {
            (Some((tensor, Rows::New(why))), _) => {
                let stem = tensor.strip_suffix(".weight");
                warnings.extend(stem.map(|s| format!("the head `{s}` starts from random values: {why}")));
            }
            (Some((tensor, _)), Some(shape)) if !fits => warnings.push(format!(
                "the head's tensor `{tensor}` starts from random values: it is {shape:?} in the file and {:?} here",
                p.shape
            )),
            _ => {}
        }
        sources.push(carried.filter(|(_, rows)| fits && !matches!(rows, Rows::New(_))));
    }
    // The second of two names has the same values, or none that are used.
    let second: Vec<&str> = decoder.aliases.iter().map(|(_, second)| second.as_str()).collect();
    used.extend(files.names().filter(|n| second.contains(&super::heads::plain(n))).map(str::to_owned));
    if !missing.is_empty() {
        let shown = missing.iter().take(8).copied().collect::<Vec<_>>().join(", ");
        let what = format!("{} of {} tensors are missing", missing.len(), layout.list.len());
        errors.push(Error::model(what).at(dir).with_expected(shown).with_help(if whole {
            "this model has no trained head: fine-tune it with `tempra train` first"
        } else {
            "these are not the weights of the model that config.json describes"
        }));
    }
    if let Some(e) = Error::many(errors) {
        return Err(e);
    }
    // A buffer of 0, 1, 2, ... that old versions of transformers saved.
    let ignored = |n: &str| {
        ["embeddings.position_ids", "embeddings.token_type_ids", "inv_freq"].iter().any(|e| n.ends_with(e))
    };
    let unused: Vec<String> =
        files.names().filter(|n| !used.contains(*n) && !ignored(n)).map(str::to_owned).collect();
    let stem = layers.0.as_str();
    let stems = [Some(stem), stem.strip_prefix(prefix)];
    let of_layer = |n: &&String| {
        let rest = stems.into_iter().flatten().find_map(|stem| n.strip_prefix(stem))?;
        rest.split('.').next()?.parse::<usize>().ok()
    };
    // A bias beside a weight that is used. A decoder's may be a second name of a bias that is used.
    let of_map = |n: &&String| {
        let stem = n.strip_suffix(".bias").filter(|stem| !stem.ends_with("decoder"));
        stem.is_some_and(|stem| used.contains(&format!("{stem}.weight")))
    };
    // What is left out of a layer or a map would make another model of it.
    let contradicting: Vec<&String> = unused.iter().filter(|n| of_layer(n).is_some() || of_map(n)).collect();
    if let Some(first) = contradicting.first() {
        let more = match contradicting.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        return Err(Error::model("the weights have tensors for which config.json has no place")
            .at(files.file(first).unwrap_or(dir))
            .with_expected(format!("the tensors of {} layers, as config.json describes them", layers.1))
            .with_found(format!("`{first}`{more}"))
            .with_help("these are not the weights of the model that config.json describes"));
    }
    Ok(Plan { sources, unused, warnings })
}

/// How a parameter starts that no file holds: a matrix from a normal distribution, the factors of a layer norm one, anything
/// else zero.
fn start(p: &Param, seed: u64, std: f64, out: &mut [f32]) {
    if p.shape.len() == 1 && p.name.ends_with(".weight") {
        return out.fill(1.0);
    }
    let mut stream = Stream::new(seed, &p.name, 0);
    let mut value = || if p.decay { (stream.normal() * std) as f32 } else { 0.0 };
    out.iter_mut().for_each(|v| *v = value());
}

/// Gives every parameter a random start.
pub(super) fn randomise(device: &Device, params: &Params, seed: u64) -> Result<()> {
    for p in &params.layout().list {
        device.write_with(&params.view(&params.value, p)?, |out| {
            start(p, seed, 0.02, out);
            Ok(())
        })?;
    }
    Ok(())
}

/// A matrix, or a vector, whose row `i` is row `places[i]` of the one given.
fn reordered(values: &[f32], places: &[usize]) -> Vec<f32> {
    let width = values.len() / places.len().max(1);
    places.iter().flat_map(|&row| values[row * width..(row + 1) * width].iter().copied()).collect()
}

/// Copies the tensors into the parameters; what has none starts as in transformers: weights from a normal distribution
/// with the config's `initializer_range`, biases zero.
pub(super) fn fill(
    device: &Device,
    params: &Params,
    files: &Weights,
    plan: Plan,
    seed: u64,
    std: f64,
) -> Result<LoadReport> {
    let mut report = LoadReport { unused: plan.unused, warnings: plan.warnings, ..LoadReport::default() };
    for (p, source) in params.layout().list.iter().zip(&plan.sources) {
        let values = |out: &mut [f32]| match source {
            Some((name, Rows::Reordered(places))) => {
                let mut values = vec![0.0; out.len()];
                files.f32_into(name, &mut values)?;
                out.copy_from_slice(&p.from_file(reordered(&values, places)));
                Ok(())
            }
            Some((name, _)) if p.transposed => {
                let mut values = vec![0.0; out.len()];
                files.f32_into(name, &mut values)?;
                out.copy_from_slice(&p.from_file(values));
                Ok(())
            }
            Some((name, _)) => files.f32_into(name, out),
            None => {
                start(p, seed, std, out);
                Ok(())
            }
        };
        let view = params.view(&params.value, p)?;
        match view.spec.dtype {
            DType::F64 => device.write_with::<f64>(&view, |out| {
                let mut exact = vec![0.0; out.len()];
                values(&mut exact)?;
                out.iter_mut().zip(exact).for_each(|(o, v)| *o = v as f64);
                Ok(())
            })?,
            _ => device.write_with(&view, values)?,
        }
        match source {
            Some((_, rows)) => {
                report.loaded += 1;
                report.reordered.extend(matches!(rows, Rows::Reordered(_)).then(|| p.name.clone()));
            }
            None => report.initialised.push(p.name.clone()),
        }
    }
    Ok(report)
}
