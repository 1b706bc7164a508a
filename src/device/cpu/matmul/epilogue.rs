//! What a matmul that adds in f32 reads, and what it does with its sums.

use super::pack::Packable;
use super::{Out, Shared};
use crate::device::cpu::{inlined, vectorise};
use crate::shape::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// An element type that [`matmul_half`](super::matmul_half) reads and writes; it computes in f32.
pub trait Stored: Packable<f32> + bytemuck::Pod + Send {
    /// The type as tensors have it.
    const DTYPE: DType;
    /// Nearest values, ties to even. Both slices have the same length.
    fn narrow(sums: &[f32], to: &mut [Self]);
}

impl Stored for f32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn narrow(sums: &[f32], to: &mut [f32]) {
        to.copy_from_slice(sums);
    }
}

impl Stored for bf16 {
    const DTYPE: DType = DType::BF16;
    #[inline(always)]
    fn narrow(sums: &[f32], to: &mut [bf16]) {
        for (to, sum) in to.iter_mut().zip(sums) {
            let bits = sum.to_bits();
            // Half of the last place that stays, less one if that place is even: a carry rounds up.
            let near = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            // A NaN keeps its sign and becomes quiet: a carry could make it an infinity or a zero.
            let nan = bits >> 16 | 0x40;
            *to = bf16::from_bits(if sum.is_nan() { nan } else { near } as u16);
        }
    }
}

impl Stored for f16 {
    const DTYPE: DType = DType::F16;
    #[inline(always)]
    fn narrow(sums: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(sums);
    }
}

/// An activation: applied in place to runs of values.
pub type Apply<'a> = &'a (dyn Fn(&mut [f32]) + Sync);

/// The gradient of an activation: multiplies runs of values by its derivative at as many others.
pub type ApplyGradient<'a> = &'a (dyn Fn(&mut [f32], &[f32]) + Sync);

/// What happens to the f32 sums of a matmul before they are rounded, in this order: the bias is added, the
/// values are kept, the activation is applied, the gradient of an activation is applied.
pub struct HalfEpilogue<'a, B, C> {
    /// Added to every row: one element for each column of C.
    pub bias: Option<&'a [B]>,
    /// Where to write the values before the activation, laid out as C.
    pub kept: Option<&'a mut [C]>,
    /// The activation.
    pub act: Option<Apply<'a>>,
    /// The gradient of an activation, and the values that its derivative is taken at, laid out as C.
    pub dact: Option<(&'a [C], ApplyGradient<'a>)>,
}

impl<B, C> Default for HalfEpilogue<'_, B, C> {
    fn default() -> Self {
        Self { bias: None, kept: None, act: None, dact: None }
    }
}

/// Where finished sums go, for tasks that each write a part of C.
pub(super) struct Finish<'a, B, C> {
    pub c: Shared<C>,
    pub row: usize,
    pub add: bool,
    pub bias: Option<&'a [B]>,
    pub kept: Option<Shared<C>>,
    pub act: Option<Apply<'a>>,
    pub dact: Option<(&'a [C], ApplyGradient<'a>)>,
    /// Whether C is too large to be in a cache when it is read, so that stores may pass the caches by.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only tiles of pairs do it"))]
    pub stream: bool,
}

/// Values of an activation that are loaded at once.
const PART: usize = 256;
/// Bytes of C that a cache may keep until they are read: those of a second-level cache.
const KEPT: usize = 2 << 20;

impl<'a, B: Stored, C: Stored> Finish<'a, B, C> {
    /// `None` if the bias or the kept values do not have the shape of C (m, n).
    pub fn new([m, n]: [usize; 2], c: Out<'a, C>, epilogue: HalfEpilogue<'a, B, C>) -> Option<Self> {
        let HalfEpilogue { bias, kept, act, dact } = epilogue;
        let len = c.data.len();
        if m > 0
            && n > 0
            && (bias.is_some_and(|b| b.len() != n)
                || kept.as_ref().is_some_and(|z| z.len() < len)
                || dact.is_some_and(|(z, _)| z.len() < len))
        {
            return None;
        }
        let stream = !c.add && m.saturating_mul(n).saturating_mul(size_of::<C>()) > KEPT;
        let kept = kept.map(|z| Shared(z.as_mut_ptr()));
        Some(Finish { c: Shared(c.data.as_mut_ptr()), row: c.row, add: c.add, bias, kept, act, dact, stream })
    }

    /// Finishes the sums of rows `i..` and columns `j..j + cols` of C: row r is `sums[r * pitch..][..cols]`.
    /// What lies between rows is overwritten.
    ///
    /// # Safety
    /// The rows and columns lie inside C, and no other thread uses them.
    pub unsafe fn write(&self, sums: &mut [f32], pitch: usize, i: usize, j: usize, cols: usize) {
        // SAFETY: as the caller promises; `kept` is laid out as C.
        let part = |p: &Shared<C>, r: usize| unsafe {
            std::slice::from_raw_parts_mut(p.0.add((i + r) * self.row + j), cols)
        };
        vectorise!({
            for (r, sums) in sums.chunks_mut(pitch).enumerate() {
                if let Some(bias) = self.bias {
                    sums.iter_mut()
                        .zip(&bias[j..][..cols])
                        .for_each(inlined!(|(s, b): (&mut f32, &B)| *s += b.load()));
                }
                if let Some(kept) = &self.kept {
                    C::narrow(&sums[..cols], part(kept, r));
                }
            }
        });
        if let Some(act) = self.act {
            act(sums);
        }
        if let Some((at, gradient)) = self.dact {
            let mut values = [0.0; PART];
            for (r, sums) in sums.chunks_mut(pitch).enumerate() {
                let at = &at[(i + r) * self.row + j..][..cols];
                for (sums, at) in sums[..cols].chunks_mut(PART).zip(at.chunks(PART)) {
                    let values = &mut values[..at.len()];
                    let pairs = values.iter_mut().zip(at);
                    vectorise!(pairs.for_each(inlined!(|(v, z): (&mut f32, &C)| *v = z.load())));
                    gradient(sums, values);
                }
            }
        }
        vectorise!({
            for (r, sums) in sums.chunks_mut(pitch).enumerate() {
                let c = part(&self.c, r);
                if self.add {
                    sums.iter_mut().zip(&*c).for_each(inlined!(|(s, c): (&mut f32, &C)| *s += c.load()));
                }
                C::narrow(&sums[..cols], c);
            }
        });
    }
}
