//! Packing into panels of one register tile's width.

use super::Mat;
use crate::device::cpu::{Real, inlined, vectorise};
use half::{bf16, f16};

/// An element of an operand, which becomes a `T` when it is packed.
pub trait Packable<T>: Copy + Sync {
    /// The same value.
    fn load(self) -> T;
    /// The same values.
    #[inline(always)]
    fn load_all<const W: usize>(from: &[Self; W], to: &mut [T; W]) {
        to.iter_mut().zip(from).for_each(inlined!(|(to, from): (&mut T, &Self)| *to = from.load()));
    }
}
impl<T: Real> Packable<T> for T {
    #[inline(always)]
    fn load(self) -> T {
        self
    }
    #[inline(always)]
    fn load_all<const W: usize>(from: &[T; W], to: &mut [T; W]) {
        *to = *from;
    }
}
impl Packable<f32> for bf16 {
    #[inline(always)]
    fn load(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
}
impl Packable<f32> for f16 {
    /// With integers and one multiplication, which the compiler can vectorise.
    #[inline(always)]
    fn load(self) -> f32 {
        let bits = self.to_bits() as u32;
        let magnitude = bits & 0x7fff;
        // Exponent and fraction in their places; 2^112 is the difference of the exponents' biases. It makes
        // subnormal numbers normal.
        let scaled = f32::from_bits(magnitude << 13) * f32::from_bits((112 + 127) << 23);
        let special = f32::from_bits(magnitude << 13 | 0x7f80_0000);
        let value = if magnitude >= 0x7c00 { special } else { scaled };
        f32::from_bits(value.to_bits() | (bits & 0x8000) << 16)
    }
}

/// Copies rows `first..rows` of `a` (rows, k) into panels (k, width), as many as there is room for; rows
/// beyond `rows` become zeros.
pub(super) fn pack<S: Packable<T>, T: Real>(
    panels: &mut [T],
    width: usize,
    k: usize,
    a: Mat<S>,
    first: usize,
    rows: usize,
) {
    vectorise!(for (i, panel) in (first..rows).step_by(width).zip(panels.chunks_exact_mut(width * k)) {
        match (i + width <= rows, a.row, a.col, width) {
            (true, 1, _, 6) => pack_columns::<S, T, 6>(panel, a, i),
            (true, 1, _, 12) => pack_columns::<S, T, 12>(panel, a, i),
            (true, 1, _, 16) => pack_columns::<S, T, 16>(panel, a, i),
            (true, 1, _, 32) => pack_columns::<S, T, 32>(panel, a, i),
            (true, _, 1, 6) => pack_rows::<S, T, 6>(panel, a, i),
            (true, _, 1, 12) => pack_rows::<S, T, 12>(panel, a, i),
            (true, _, 1, 16) => pack_rows::<S, T, 16>(panel, a, i),
            (true, _, 1, 32) => pack_rows::<S, T, 32>(panel, a, i),
            _ => pack_any(panel, width, a, i, rows),
        }
    });
}

/// One panel, whatever the strides.
fn pack_any<S: Packable<T>, T: Real>(panel: &mut [T], width: usize, a: Mat<S>, first: usize, rows: usize) {
    let here = width.min(rows - first);
    for (p, out) in panel.chunks_exact_mut(width).enumerate() {
        out[here..].fill(T::ZERO);
        for (i, out) in out[..here].iter_mut().enumerate() {
            *out = a.data[(first + i) * a.row + p * a.col].load();
        }
    }
}

/// One panel of a matrix whose columns lie one after another.
#[inline(always)]
fn pack_columns<S: Packable<T>, T: Real, const W: usize>(panel: &mut [T], a: Mat<S>, first: usize) {
    for (p, out) in panel.chunks_exact_mut(W).enumerate() {
        // Fixed sizes: a call of memmove costs more than the copy.
        if let (Some(to), Some(from)) =
            (out.first_chunk_mut::<W>(), a.data[first + p * a.col..].first_chunk::<W>())
        {
            S::load_all(from, to);
        }
    }
}

/// One panel of a matrix whose rows lie one after another: four elements of four rows are transposed in
/// registers, and the panel's lines that they go to are still in the cache when the next rows come.
#[inline(always)]
fn pack_rows<S: Packable<T>, T: Real, const W: usize>(panel: &mut [T], a: Mat<S>, first: usize) {
    let k = panel.len() / W;
    let rows: [&[S]; W] = std::array::from_fn(|i| &a.data[(first + i) * a.row..][..k]);
    let (whole, fours) = (k / 4 * 4, W / 4 * 4);
    for (p0, out) in (0..whole).step_by(4).zip(panel.chunks_exact_mut(4 * W)) {
        for i in (0..fours).step_by(4) {
            let block = std::array::from_fn(|r| {
                let row = &rows[i + r][p0..p0 + 4];
                [row[0].load(), row[1].load(), row[2].load(), row[3].load()]
            });
            for (p, column) in T::transpose4(block).iter().enumerate() {
                out[p * W + i..][..4].copy_from_slice(column);
            }
        }
        for (i, row) in rows.iter().enumerate().skip(fours) {
            for (p, &v) in row[p0..][..4].iter().enumerate() {
                out[p * W + i] = v.load();
            }
        }
    }
    for p in whole..k {
        for (i, row) in rows.iter().enumerate() {
            panel[p * W + i] = row[p].load();
        }
    }
}
