//! The same model in a form that transformers opens. Its layers are alike and their heads divide the hidden
//! size, so fewer heads can only be wider ones: each is padded with zeros from d elements to d' = hidden /
//! heads. transformers divides scores by sqrt(d') in place of sqrt(d), so queries are multiplied by
//! sqrt(d' / d). Logits stay the same; the projections do not get smaller, but there are fewer softmaxes.
//! Feed-forward blocks are filled up with zeros to the width of the largest.

use crate::checkpoint::{Dtype, TensorOut};
use crate::error::{Error, Result};
use crate::models::Architecture;
use crate::nn::LayerShape;
use half::{bf16, f16};
use std::borrow::Cow;

/// The sizes that all layers have in the stock form: as few heads as divide the hidden size and are no fewer
/// and no narrower than those of any layer, and the width of the widest feed-forward block. `None` if no
/// number of heads will do.
pub(super) fn shape(layers: &[LayerShape], hidden: usize) -> Option<LayerShape> {
    let most = |of: fn(&LayerShape) -> usize| layers.iter().map(of).max().unwrap_or(0).max(1);
    let (heads, intermediate) = (most(|l| l.heads), most(|l| l.intermediate));
    let widest = layers.iter().filter(|l| l.heads > 0).map(|l| l.head_dim).max().unwrap_or(1);
    let fits = |n: &usize| hidden.is_multiple_of(*n) && hidden / n >= widest;
    let heads = (heads..=hidden).find(fits)?;
    Some(LayerShape::new(hidden, heads, intermediate))
}

/// A tensor's values, while it is changed.
struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn zeros(rows: usize, columns: usize) -> Matrix {
        Matrix { rows, columns, values: vec![0.0; rows * columns] }
    }
    /// Row `r` goes to row `to(r)` of a matrix of so many rows, times `scale`.
    fn spread_rows(&self, rows: usize, to: impl Fn(usize) -> usize, scale: f64) -> Matrix {
        let mut all = Matrix::zeros(rows, self.columns);
        for r in 0..self.rows {
            let from = &self.values[r * self.columns..(r + 1) * self.columns];
            let into = &mut all.values[to(r) * self.columns..(to(r) + 1) * self.columns];
            into.iter_mut().zip(from).for_each(|(y, x)| *y = (f64::from(*x) * scale) as f32);
        }
        all
    }
    fn transposed(&self) -> Matrix {
        let mut all = Matrix::zeros(self.columns, self.rows);
        for (r, row) in self.values.chunks_exact(self.columns.max(1)).enumerate() {
            row.iter().enumerate().for_each(|(c, v)| all.values[c * self.rows + r] = *v);
        }
        all
    }
}

/// The tensors of the stock form of a small model, in f32. `layers`: the sizes of the small model's layers;
/// `stock`: those of [`shape`].
pub(super) fn form(
    tensors: &[TensorOut],
    architecture: &Architecture,
    layers: &[LayerShape],
    hidden: usize,
    stock: LayerShape,
) -> Result<Vec<TensorOut<'static>>> {
    let mut all: Vec<TensorOut<'static>> = Vec::with_capacity(tensors.len());
    // The names of the tensors of layers, with and without the encoder's prefix.
    let find = |name: &str| tensors.iter().find(|t| t.name == name);
    let prefix = architecture.prefix;
    let mut done = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        let at = |part: &str| architecture.tensor(&format!("encoder.layer.{i}.{part}"));
        // Biases of the outputs exist in every layer: they say whether the files have the prefix.
        let bare = find(&at("output.dense.bias")).is_none();
        let name = |part: &str| {
            let full = at(part);
            if bare { full.strip_prefix(prefix).map_or(full.clone(), str::to_owned) } else { full }
        };
        let read = |part: &str, [rows, columns]: [usize; 2]| match find(&name(part)) {
            Some(t) => matrix(t, rows, columns),
            None if rows * columns == 0 => Ok(Matrix::zeros(rows, columns)),
            None => Err(Error::model(format!("the tensor `{}` is missing", name(part)))),
        };
        let (inner, f) = (layer.attention(), layer.intermediate);
        let head = |e: usize| {
            let dim = layer.head_dim.max(1);
            e / dim * stock.head_dim + e % dim
        };
        let scale = (stock.head_dim as f64 / layer.head_dim.max(1) as f64).sqrt();
        for q in ["query", "key", "value"] {
            let scale = if q == "query" { scale } else { 1.0 };
            for (end, columns) in [("weight", hidden), ("bias", 1)] {
                let part = format!("attention.self.{q}.{end}");
                let m = read(&part, [inner, columns])?.spread_rows(hidden, head, scale);
                all.push(tensor(name(&part), m, end));
                done.push(name(&part));
            }
        }
        let out = "attention.output.dense.weight";
        let m = read(out, [hidden, inner])?.transposed().spread_rows(hidden, head, 1.0).transposed();
        all.push(tensor(name(out), m, "weight"));
        for (part, columns) in [("intermediate.dense.weight", hidden), ("intermediate.dense.bias", 1)] {
            let m = read(part, [f, columns])?.spread_rows(stock.intermediate, |r| r, 1.0);
            all.push(tensor(name(part), m, if columns == 1 { "bias" } else { "weight" }));
            done.push(name(part));
        }
        let down = "output.dense.weight";
        let m =
            read(down, [hidden, f])?.transposed().spread_rows(stock.intermediate, |r| r, 1.0).transposed();
        all.push(tensor(name(down), m, "weight"));
        done.extend([name(out), name(down)]);
    }
    for t in tensors.iter().filter(|t| !done.contains(&t.name)) {
        let shape = t.shape.clone();
        let (dtype, bytes) = match floats(t) {
            Some(values) => (Dtype::F32, bytemuck::cast_slice(&values).to_vec()),
            None => (t.dtype, t.bytes.to_vec()),
        };
        all.push(TensorOut { name: t.name.clone(), dtype, shape, bytes: Cow::Owned(bytes) });
    }
    Ok(all)
}

fn tensor(name: String, m: Matrix, end: &str) -> TensorOut<'static> {
    let shape = if end == "bias" { vec![m.rows] } else { vec![m.rows, m.columns] };
    let bytes: Vec<u8> = bytemuck::cast_slice(&m.values).to_vec();
    TensorOut { name, dtype: Dtype::F32, shape, bytes: bytes.into() }
}

fn matrix(t: &TensorOut, rows: usize, columns: usize) -> Result<Matrix> {
    match floats(t).filter(|values| values.len() == rows * columns) {
        Some(values) => Ok(Matrix { rows, columns, values }),
        None => Err(Error::model(format!("the tensor `{}` has another shape or type than expected", t.name))
            .with_expected(format!("{rows} x {columns} floating-point numbers"))
            .with_found(format!("{:?} of {}", t.shape, t.dtype))),
    }
}

/// The values of a tensor of a floating-point type.
fn floats(t: &TensorOut) -> Option<Vec<f32>> {
    fn each<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f32) -> Option<Vec<f32>> {
        Some(bytes.as_chunks::<N>().0.iter().map(|b| f(*b)).collect())
    }
    match t.dtype {
        Dtype::F32 => each(&t.bytes, f32::from_le_bytes),
        Dtype::F16 => each(&t.bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => each(&t.bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F64 => each(&t.bytes, |b| f64::from_le_bytes(b) as f32),
        _ => None,
    }
}
