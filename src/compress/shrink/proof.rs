//! Whether two model folders compute the same.

use crate::data::{Batch, TokenSet, eval_batches};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::models::{Model, Options, Outputs};
use crate::nn::Taps;
use crate::tape::Tape;
use crate::tasks::inputs;
use serde::Serialize;
use std::path::Path;

/// The largest difference that rounding in f32 explains, as a share of the largest value.
pub(super) const TOLERANCE: f64 = 1e-5;
/// The most tokens of a forward pass.
pub(super) const MAX_TOKENS: usize = 2048;

/// How far the outputs of a smaller model are from those of the model it was made from.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Proof {
    /// The number of texts.
    pub texts: usize,
    /// Their tokens.
    pub tokens: usize,
    /// The largest difference of two hidden states of the last layer.
    pub hidden: f64,
    /// The largest hidden state, in absolute value.
    pub largest_hidden: f64,
    /// The largest difference of two outputs of the heads; 0 without a head that reads plain texts.
    pub outputs: f64,
    /// The largest of these outputs, in absolute value.
    pub largest_output: f64,
}

impl Proof {
    /// The larger of the two differences, each divided by the largest value of its kind.
    pub fn relative(&self) -> f64 {
        let share = |off: f64, largest: f64| if off == 0.0 { 0.0 } else { off / largest };
        share(self.hidden, self.largest_hidden).max(share(self.outputs, self.largest_output))
    }
}

/// A model folder, the layers of it that count, and the tokens of the texts by its tokenizer.
pub(super) struct Side<'a> {
    pub dir: &'a Path,
    pub layers: Option<Vec<usize>>,
    pub set: &'a TokenSet,
}

/// The examples of rows of ids and token types.
pub(super) fn token_set(rows: impl IntoIterator<Item = (Vec<u32>, Vec<u32>)>) -> TokenSet {
    let mut set = TokenSet { offsets: vec![0], ..TokenSet::default() };
    for (ids, types) in rows {
        set.ids.extend(ids);
        set.types.extend(types);
        set.offsets.push(set.ids.len() as u32);
        set.lost.push(0);
        set.unknown.push(0);
    }
    set
}

/// Runs both models over the texts, on the CPU in f32.
pub(super) fn compare(reference: &Side, made: &Side) -> Result<Proof> {
    let device = Device::open("cpu", 0)?;
    let open = |side: &Side| {
        let options = Options { layers: side.layers.clone(), ..Options::default() };
        // A bare encoder has no head: its hidden states are compared.
        let headless = Options { outputs: Some(Outputs::Embedding), ..options.clone() };
        Model::open(&device, side.dir, &options)
            .or_else(|e| Model::open(&device, side.dir, &headless).map_err(|_| e))
    };
    let (large, small) = (open(reference)?.0, open(made)?.0);
    let mut proof = Proof { texts: reference.set.len(), tokens: reference.set.ids.len(), ..Proof::default() };
    let batches = |side: &Side| eval_batches(side.set, MAX_TOKENS, 0);
    for (a, b) in batches(reference)?.iter().zip(&batches(made)?) {
        let (a, b) = (outputs(&device, &large, a)?, outputs(&device, &small, b)?);
        let [hidden, heads] = [0, 1].map(|i| distance(&a[i], &b[i]));
        let keep = |most: &mut f64, v: f64| *most = if v.is_nan() { v } else { most.max(v) };
        keep(&mut proof.hidden, hidden.0);
        keep(&mut proof.largest_hidden, hidden.1);
        keep(&mut proof.outputs, heads.0);
        keep(&mut proof.largest_output, heads.1);
    }
    let off = proof.relative();
    if off <= TOLERANCE {
        return Ok(proof);
    }
    Err(Error::model("the smaller model does not compute the same as the model it was made from")
        .at(reference.dir)
        .with_expected(format!("a difference of at most {TOLERANCE:e} of the largest value"))
        .with_found(format!(
            "{off:.1e}: hidden states differ by {:.1e} (largest {:.1e}), outputs by {:.1e} (largest {:.1e})",
            proof.hidden, proof.largest_hidden, proof.outputs, proof.largest_output
        ))
        .with_help("nothing was written; this is a bug of tempra, or the weights are extreme"))
}

/// The hidden states of the last layer, and the outputs of all heads that read plain texts.
fn outputs(device: &Device, model: &Model, batch: &Batch) -> Result<[Vec<f64>; 2]> {
    device.scoped(|| {
        let mut tape = Tape::evaluate(device);
        let bound = model.params.bind(&mut tape, false)?;
        let x = inputs(&mut tape, batch, None)?;
        let hidden = device.read_reals(model.hidden(&mut tape, &bound, &x)?.value())?;
        let mut all = Vec::new();
        for (i, head) in model.heads().iter().enumerate() {
            if matches!(head.outputs, Outputs::Tokens | Outputs::Permuted | Outputs::Pretraining(_)) {
                continue;
            }
            let mut x = x.clone();
            x.head = i;
            for output in model.forward(&mut tape, &bound, &x, &mut Taps::none())? {
                all.extend(device.read_reals(output.value())?);
            }
        }
        Ok([hidden, all])
    })
}

/// The largest difference, and the largest value of the first; NaN where the lengths differ or a value is
/// NaN.
fn distance(a: &[f64], b: &[f64]) -> (f64, f64) {
    if a.len() != b.len() {
        return (f64::NAN, f64::NAN);
    }
    let largest = a.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    let off = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    (off.fold(0.0, |m: f64, d| if d.is_nan() || m.is_nan() { f64::NAN } else { m.max(d) }), largest)
}
