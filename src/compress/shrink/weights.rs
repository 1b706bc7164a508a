//! What of a model's weights cannot matter, and the weights without it.

use crate::checkpoint::{TensorOut, View, Weights};
use crate::error::{Error, Result};
use crate::models::Architecture;
use crate::nn::LayerShape;
use std::borrow::Cow;

/// A layer of the model, and what of it stays.
#[derive(Clone, Debug)]
pub(super) struct LayerCut {
    /// Its number in the model.
    pub layer: usize,
    /// Its sizes there.
    pub before: LayerShape,
    /// The heads that stay.
    pub heads: Vec<usize>,
    /// The feed-forward rows that stay.
    pub rows: Vec<usize>,
}

impl LayerCut {
    /// Its sizes in the smaller model.
    pub fn after(&self) -> LayerShape {
        LayerShape { heads: self.heads.len(), intermediate: self.rows.len(), ..self.before }
    }
    /// The elements of a query, key or value that stay.
    fn elements(&self) -> Vec<usize> {
        let dim = self.before.head_dim;
        self.heads.iter().flat_map(|head| head * dim..(head + 1) * dim).collect()
    }
}

/// The name that the files have for an encoder's tensor, from BERT's name: a bare encoder lacks the prefix.
pub(super) fn stored(files: &Weights, architecture: &Architecture, bert: &str) -> Option<String> {
    let name = architecture.tensor(bert);
    let short = name.strip_prefix(architecture.prefix).map(str::to_owned);
    [Some(name), short].into_iter().flatten().find(|name| files.get(name).is_some())
}

/// Finds the heads and feed-forward rows of a layer that the output does not depend on.
///
/// A head adds W_h (sum of its values, weighted by attention) to the output, where W_h are its columns of the
/// output map. It adds nothing if W_h is 0, or if its value rows and value biases are. A feed-forward row
/// adds w_r act(u_r x + b_r): nothing if its column w_r is 0, or if u_r and b_r are, since each activation
/// is 0 at 0.
pub(super) fn survey(
    files: &Weights,
    architecture: &Architecture,
    layer: usize,
    shape: LayerShape,
) -> Result<LayerCut> {
    let read = |part: &str, len: usize| {
        let name = format!("encoder.layer.{layer}.{part}");
        let name = stored(files, architecture, &name)
            .ok_or_else(|| Error::model(format!("the tensor `{}` is missing", architecture.tensor(&name))))?;
        let values = files.f32(&name)?;
        match values.len().checked_rem(len) {
            Some(0) => Ok(values),
            _ => Err(Error::model(format!("the shape of tensor `{name}` does not match config.json"))),
        }
    };
    let zero = |values: &[f32]| values.iter().all(|&v| v == 0.0);
    let (inner, dim) = (shape.attention(), shape.head_dim);
    let mut heads = Vec::new();
    if shape.heads > 0 {
        let out = read("attention.output.dense.weight", inner)?;
        let (value, bias) =
            (read("attention.self.value.weight", inner)?, read("attention.self.value.bias", inner)?);
        let hidden = value.len() / inner;
        heads = (0..shape.heads)
            .filter(|head| {
                let own = head * dim..(head + 1) * dim;
                let read_from = out.chunks_exact(inner).any(|row| !zero(&row[own.clone()]));
                let holds = !zero(&value[own.start * hidden..own.end * hidden]) || !zero(&bias[own]);
                read_from && holds
            })
            .collect();
    }
    let f = shape.intermediate;
    let mut rows = Vec::new();
    if f > 0 {
        let down = read("output.dense.weight", f)?;
        let (up, bias) = (read("intermediate.dense.weight", f)?, read("intermediate.dense.bias", f)?);
        let hidden = up.len() / f;
        let mut read_from = vec![false; f];
        for row in down.chunks_exact(f) {
            read_from.iter_mut().zip(row).for_each(|(read, &w)| *read |= w != 0.0);
        }
        let holds = |r: usize| bias[r] != 0.0 || !zero(&up[r * hidden..(r + 1) * hidden]);
        rows = (0..f).filter(|&r| read_from[r] && holds(r)).collect();
    }
    Ok(LayerCut { layer, before: shape, heads, rows })
}

/// What becomes of a tensor.
enum Action<'a> {
    /// It stays as it is.
    Same,
    /// These rows stay.
    Rows(&'a [usize]),
    /// These columns stay.
    Columns(&'a [usize]),
}

/// The tensors of the smaller model, under the names they have there. `vocabulary`: the rows of the token
/// table that stay, if not all.
pub(super) fn cut<'w>(
    files: &'w Weights,
    architecture: &Architecture,
    cuts: &[LayerCut],
    vocabulary: Option<&[usize]>,
) -> Result<Vec<TensorOut<'w>>> {
    let stem = architecture.tensor("encoder.layer.");
    let stems = [Some(stem.as_str()), stem.strip_prefix(architecture.prefix)];
    let elements: Vec<Vec<usize>> = cuts.iter().map(LayerCut::elements).collect();
    let mut tensors = Vec::with_capacity(files.len());
    for name in files.names() {
        let Some(view) = files.get(name) else { continue };
        let of_layer = stems.into_iter().flatten().find_map(|stem| {
            let (number, rest) = name.strip_prefix(stem)?.split_once('.')?;
            Some((stem, number.parse::<usize>().ok()?, rest))
        });
        let (renamed, action) = match of_layer {
            None => match vocabulary.filter(|_| of_vocabulary(architecture, name)) {
                Some(rows) => (name.to_owned(), Action::Rows(rows)),
                None => (name.to_owned(), Action::Same),
            },
            Some((stem, number, rest)) => {
                let Some(i) = cuts.iter().position(|cut| cut.layer == number) else { continue };
                let whole = architecture.tensor(&format!("encoder.layer.{number}."));
                let full = format!("{whole}{rest}");
                let action = action(architecture, &cuts[i], &elements[i], &full);
                (format!("{stem}{i}.{rest}"), action)
            }
        };
        tensors.extend(applied(renamed, view, action)?);
    }
    Ok(tensors)
}

/// Whether the rows of a tensor outside of the layers are those of the vocabulary.
fn of_vocabulary(architecture: &Architecture, name: &str) -> bool {
    let table = architecture.tensor("embeddings.word_embeddings.weight");
    let masked = architecture
        .masked
        .iter()
        .flat_map(|m| [m.bias.to_owned(), format!("{}.weight", m.decoder), format!("{}.bias", m.decoder)]);
    let mut all = masked.chain(table.strip_prefix(architecture.prefix).map(str::to_owned)).chain([table]);
    all.any(|known| name == known)
}

/// What becomes of a tensor of a layer; `full`: its name with the encoder's prefix.
fn action<'c>(
    architecture: &Architecture,
    cut: &'c LayerCut,
    elements: &'c [usize],
    full: &str,
) -> Action<'c> {
    let is = |part: &str| architecture.tensor(&format!("encoder.layer.{}.{part}", cut.layer)) == full;
    let maps = ["query", "key", "value"];
    let attention =
        maps.iter().flat_map(|q| ["weight", "bias"].map(|end| format!("attention.self.{q}.{end}")));
    let (heads, rows) = (cut.before.heads, cut.before.intermediate);
    match () {
        _ if cut.heads.len() < heads && attention.into_iter().any(|part| is(&part)) => Action::Rows(elements),
        _ if cut.heads.len() < heads && is("attention.output.dense.weight") => Action::Columns(elements),
        _ if cut.rows.len() == rows => Action::Same,
        _ if is("intermediate.dense.weight") || is("intermediate.dense.bias") => Action::Rows(&cut.rows),
        _ if is("output.dense.weight") => Action::Columns(&cut.rows),
        _ => Action::Same,
    }
}

/// The tensor that is left; `None` if nothing is.
fn applied<'w>(name: String, view: View<'w>, action: Action) -> Result<Option<TensorOut<'w>>> {
    let wrong = || Error::model(format!("the shape of tensor `{name}` does not match config.json"));
    let (first, rest) = view.shape.split_first().ok_or_else(wrong)?;
    let mut shape = view.shape.to_vec();
    let bytes = match action {
        Action::Same => Cow::Borrowed(view.bytes),
        Action::Rows([]) | Action::Columns([]) => return Ok(None),
        Action::Rows(rows) => {
            shape[0] = rows.len();
            let width = view.bytes.len() / first.max(&1);
            let row = |&r: &usize| view.bytes.get(r * width..(r + 1) * width);
            Cow::Owned(rows.iter().map(row).collect::<Option<Vec<_>>>().ok_or_else(wrong)?.concat())
        }
        Action::Columns(columns) => {
            let [all] = rest else { return Err(wrong()) };
            shape[1] = columns.len();
            let size = view.bytes.len() / (first * all).max(1);
            let mut bytes = Vec::with_capacity(first * columns.len() * size);
            for row in view.bytes.chunks_exact(all * size) {
                for c in columns {
                    bytes.extend_from_slice(row.get(c * size..(c + 1) * size).ok_or_else(wrong)?);
                }
            }
            Cow::Owned(bytes)
        }
    };
    Ok(Some(TensorOut { name, dtype: view.dtype, shape, bytes }))
}
