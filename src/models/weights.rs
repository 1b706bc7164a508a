//! Matches the tensors of a model's files with the model's parameters.

use super::cut;
use super::decoder::Decoder;
use super::rows::{HeadRows, RowSource};
use crate::checkpoint::Weights;
use crate::device::{Device, Tensor};
use crate::error::{Error, Result};
use crate::params::{Layout, Param, Params};
use crate::rng::Rng;
use crate::shape::DType;
use std::collections::HashSet;
use std::fmt;
use std::path::Path;

/// What was loaded from a model's files, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// The number of parameters that were loaded.
    pub loaded: usize,
    /// Parameters that start from random values: the files lack them, or hold them for another number of
    /// outputs.
    pub initialised: Vec<String>,
    /// Parameters whose rows were reordered to match the classes that the model is opened for.
    pub reordered: Vec<String>,
    /// Tensors of the files that the model does not use.
    pub unused: Vec<String>,
    /// Warnings for the user, one sentence each.
    pub warnings: Vec<String>,
    /// Hash of the weights and the config; empty unless the model is opened for training.
    pub hash: String,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loaded {} tensors", self.loaded)?;
        let lists = [
            ("initialised at random", &self.initialised),
            ("not used", &self.unused),
            ("rows reordered by class name", &self.reordered),
        ];
        let mut named = lists.into_iter().filter(|(_, names)| !names.is_empty());
        named.try_for_each(|(what, names)| write!(f, "; {what}: {}", names.join(", ")))
    }
}

/// For each parameter the name of its tensor and the order of its rows, if the files hold one.
pub(super) struct Plan {
    sources: Vec<Option<(String, RowSource)>>,
    unused: Vec<String>,
    warnings: Vec<String>,
}

/// The names that a parameter may have in a file: its own; without the encoder's prefix, as in a bare
/// encoder; and each of these with the old names gamma and beta of layer norm.
fn candidates(name: &str, prefix: &str, decoder: &Decoder) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    // A named head may start from a model that has only that head, where the tensors have no prefix.
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

/// What the files must hold.
pub(super) struct Names<'a> {
    /// The prefix of the encoder's tensors, which a bare encoder lacks.
    pub prefix: &'a str,
    /// The number of encoder parameters; the head's parameters follow them.
    pub body: usize,
    /// Whether the files must hold the head too.
    pub whole: bool,
    /// The prefix of layer tensors before the layer's number, and the number of layers with tensors.
    pub layers: (String, usize),
    /// The layers that the encoder is made of, where they are not all.
    pub cut: Option<&'a [usize]>,
    /// The rows of the heads' last layers that can be used.
    pub rows: HeadRows<'a>,
    /// The output projection of a masked-LM head; empty without such a head.
    pub decoder: &'a Decoder,
}

/// Matches parameters and tensors by name and shape. The files must hold the whole encoder, and the head if
/// `whole`.
pub(super) fn match_names(files: &Weights, layout: &Layout, names: &Names, dir: &Path) -> Result<Plan> {
    let &Names { prefix, body, whole, ref layers, cut, ref rows, decoder } = names;
    let mut used = HashSet::new();
    let (mut sources, mut errors) = (Vec::new(), Vec::new());
    // The encoder's and the head's missing tensors: the remedies differ.
    let mut missing: [Vec<String>; 2] = Default::default();
    let mut warnings: Vec<String> = Vec::new();
    // What only training needs is declared last, and in no file.
    let own = layout.list.iter().take_while(|p| p.is_exported()).count();
    for (i, p) in layout.list.iter().enumerate().take(own) {
        let head = i >= body;
        let name = cut::source(&p.name, &layers.0, cut);
        let found = candidates(&name, prefix, decoder).into_iter().find(|n| files.get(n).is_some());
        let shape = found.as_deref().and_then(|n| files.get(n)).map(|v| v.shape.to_vec());
        let fits = shape.as_ref() == Some(&p.shape);
        if let (Some(shape), false) = (&shape, fits || (head && !whole)) {
            let file = found.as_deref().and_then(|n| files.file(n)).unwrap_or(dir);
            let e = Error::model(format!("the shape of tensor `{name}` does not match config.json"));
            errors.push(
                e.at(file)
                    .with_expected(format!("{:?}", p.shape))
                    .with_found(format!("{shape:?}"))
                    .with_help("check that config.json and the weights are from the same model; `tempra checkpoint verify` finds damage"),
            );
        } else if shape.is_none() && (whole || !head) {
            missing[usize::from(head)].push(name.into_owned());
        }
        used.extend(found.iter().cloned());
        let carried = found.map(|tensor| {
            let rows = if head && !whole { rows.of(&p.name, &tensor) } else { RowSource::Same };
            (tensor, rows)
        });
        match (&carried, &shape) {
            (Some((tensor, RowSource::New(why))), _) => {
                let stem = tensor.strip_suffix(".weight");
                warnings.extend(stem.map(|s| format!("the layer `{s}` starts from random values: {why}")));
            }
            (Some((tensor, _)), Some(shape)) if !fits => warnings.push(format!(
                "the head's tensor `{tensor}` starts from random values: its shape in the file is {shape:?}, and the model needs {:?}",
                p.shape
            )),
            _ => {}
        }
        sources.push(carried.filter(|(_, rows)| fits && !matches!(rows, RowSource::New(_))));
    }
    // An alias holds the same values as the name, or values that are not used.
    let second: Vec<&str> = decoder.aliases.iter().map(|(_, second)| second.as_str()).collect();
    used.extend(files.names().filter(|n| second.contains(&super::heads::plain(n))).map(str::to_owned));
    let parts = [
        ("encoder", body, "check that config.json and the weights are from the same model"),
        ("head", own - body, "fine-tune the model with `tempra train`, which trains a head"),
    ];
    for (names, (part, count, help)) in missing.iter().zip(parts) {
        if !names.is_empty() {
            let verb = if names.len() == 1 { "is" } else { "are" };
            let what = format!("{} of the {part}'s {count} tensors {verb} missing", names.len());
            let mut shown =
                names.iter().take(4).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            if names.len() > 4 {
                shown += &format!(" and {} more", names.len() - 4);
            }
            errors.push(Error::model(what).at(dir).with_expected(shown).with_help(help));
        }
    }
    if let Some(e) = Error::many(errors) {
        return Err(e);
    }
    // Buffers that old versions of transformers saved; they are recomputed, not read.
    let ignored = |n: &str| {
        ["embeddings.position_ids", "embeddings.token_type_ids", "inv_freq"].iter().any(|e| n.ends_with(e))
    };
    let mut unused: Vec<String> =
        files.names().filter(|n| !used.contains(*n) && !ignored(n)).map(str::to_owned).collect();
    let stem = layers.0.as_str();
    let stems = [Some(stem), stem.strip_prefix(prefix)];
    let of_layer = |n: &&String| {
        let rest = stems.into_iter().flatten().find_map(|stem| n.strip_prefix(stem))?;
        rest.split('.').next()?.parse::<usize>().ok()
    };
    // Layers that a cut leaves out are in no contradiction.
    let chosen = |layer: usize| cut.is_none_or(|cut| layer >= layers.1 || cut.contains(&layer));
    unused.retain(|n| of_layer(&n).is_none_or(chosen));
    // A bias whose weight is used. A decoder's bias is excepted: it may be an alias of a bias that is used.
    let of_map = |n: &&String| {
        let stem = n.strip_suffix(".bias").filter(|stem| !stem.ends_with("decoder"));
        stem.is_some_and(|stem| used.contains(&format!("{stem}.weight")))
    };
    // Leaving out a tensor of a layer would silently compute another model.
    let contradicting: Vec<&String> = unused.iter().filter(|n| of_layer(n).is_some() || of_map(n)).collect();
    if let Some(first) = contradicting.first() {
        let more = match contradicting.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        return Err(Error::model("the weights have tensors that the model of config.json does not have")
            .at(files.file(first).unwrap_or(dir))
            .with_expected(format!("the tensors of {} layers", layers.1))
            .with_found(format!("`{first}`{more}"))
            .with_help("check that config.json and the weights are from the same model"));
    }
    Ok(Plan { sources, unused, warnings })
}

/// Initialises a parameter that no file holds: matrices from a normal distribution, layer norm weights with
/// 1, everything else with 0.
fn start(p: &Param, seed: u64, std: f64, out: &mut [f32]) {
    if p.shape.len() == 1 && p.name.ends_with(".weight") {
        return out.fill(1.0);
    }
    let mut rng = Rng::new(seed, &p.name, 0);
    let mut value = || if p.decay { (rng.normal() * std) as f32 } else { 0.0 };
    out.iter_mut().for_each(|v| *v = value());
}

/// Writes a tensor of f32 or f64 with values that are made in f32.
fn write_f32(device: &Device, t: &Tensor, values: impl Fn(&mut [f32]) -> Result<()>) -> Result<()> {
    if t.spec.dtype != DType::F64 {
        return device.write_with(t, values);
    }
    device.write_with::<f64>(t, |out| {
        let mut exact = vec![0.0; out.len()];
        values(&mut exact)?;
        out.iter_mut().zip(exact).for_each(|(o, v)| *o = v as f64);
        Ok(())
    })
}

/// Initialises every parameter at random.
pub(super) fn randomise(device: &Device, params: &Params, seed: u64) -> Result<()> {
    for p in &params.layout().list {
        write_f32(device, &params.value(p)?, |out| {
            start(p, seed, 0.02, out);
            Ok(())
        })?;
    }
    Ok(())
}

/// The matrix or vector whose row `i` is row `places[i]` of `values`.
fn reordered(values: &[f32], places: &[usize]) -> Vec<f32> {
    let width = values.len() / places.len().max(1);
    places.iter().flat_map(|&row| values[row * width..(row + 1) * width].iter().copied()).collect()
}

/// Copies the tensors into the parameters. Parameters without a tensor are initialised as in transformers:
/// weights from a normal distribution with standard deviation `initializer_range`, biases with 0.
pub(super) fn fill(
    device: &Device,
    params: &Params,
    files: &Weights,
    plan: Plan,
    seed: u64,
    std: f64,
) -> Result<LoadReport> {
    let mut report = LoadReport { unused: plan.unused, warnings: plan.warnings, ..LoadReport::default() };
    for p in params.layout().list.iter().skip(plan.sources.len()) {
        write_f32(device, &params.value(p)?, |out| {
            start(p, seed, std, out);
            Ok(())
        })?;
    }
    for (p, source) in params.layout().list.iter().zip(&plan.sources) {
        let values = |out: &mut [f32]| match source {
            Some((name, RowSource::Reordered(places))) => {
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
        let view = params.value(p)?;
        write_f32(device, &view, values)?;
        match source {
            Some((_, rows)) => {
                report.loaded += 1;
                report.reordered.extend(matches!(rows, RowSource::Reordered(_)).then(|| p.name.clone()));
            }
            None => report.initialised.push(p.name.clone()),
        }
    }
    Ok(report)
}
