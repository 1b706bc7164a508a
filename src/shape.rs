//! What a tensor looks like, apart from where it lives.

use std::fmt;

/// The type of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 64-bit float: what gradients are proved in.
    F64,
    /// 32-bit float.
    F32,
    /// bfloat16: the high half of an f32.
    BF16,
    /// IEEE half.
    F16,
    /// Token ids, labels, sequence bounds, random-number keys.
    U32,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 | DType::U32 => 4,
            DType::BF16 | DType::F16 => 2,
        }
    }
}

impl fmt::Display for DType {
    /// Its name in recipes, options and results: `f32`, `bf16`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            DType::U32 => "u32",
        })
    }
}

/// Element type and shape, row-major and contiguous.
#[derive(Clone, PartialEq, Eq)]
pub struct Spec {
    /// The type of one element.
    pub dtype: DType,
    /// Extents, slowest first.
    pub shape: Vec<usize>,
}

impl Spec {
    /// A spec from its parts.
    pub fn new(dtype: DType, shape: &[usize]) -> Self {
        Self { dtype, shape: shape.to_vec() }
    }
    /// How many elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }
    /// All leading dimensions folded into rows, and the last dimension.
    pub fn rows_cols(&self) -> (usize, usize) {
        let cols = self.shape.last().copied().unwrap_or(1);
        (self.shape[..self.shape.len().saturating_sub(1)].iter().product(), cols)
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?}", self.dtype, self.shape)
    }
}

/// How far computed values are from the true ones as vectors, relative to the true one's length (or to one of
/// elements of a quarter, if that is longer); infinite where one is not finite. What 16-bit types are judged
/// by: a single element close to zero is the difference of rounded numbers and says nothing.
pub fn relative_l2(found: &[f64], truth: &[f64]) -> f64 {
    if found.len() != truth.len() || found.iter().chain(truth).any(|v| !v.is_finite()) {
        return f64::INFINITY;
    }
    let length = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    let error = length(&mut found.iter().zip(truth).map(|(a, b)| a - b));
    error / length(&mut truth.iter().copied()).max(0.25 * (truth.len() as f64).sqrt()).max(f64::MIN_POSITIVE)
}
