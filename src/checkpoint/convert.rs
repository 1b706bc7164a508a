//! Converts little-endian floating-point numbers of a file to `f32`.

use bytemuck::cast_slice_mut;
use rayon::prelude::*;
use safetensors::Dtype;

/// Elements per task: 256 KiB of `f32`, so that the check for finite values finds them in the cache.
const BLOCK: usize = 1 << 16;

/// IEEE 754 binary16 to binary32, exact for every bit pattern; NaN payloads are kept.
///
/// The 15 bits below the sign, shifted left by 13, are an f32 whose exponent is too small by 127 - 15 = 112.
/// One multiplication by 2^112 corrects the exponent and normalizes subnormals. Exponent 31 means infinity or
/// NaN.
#[inline(always)]
pub(crate) fn f16_to_f32(h: u16) -> f32 {
    let magnitude = ((h & 0x7FFF) as u32) << 13;
    let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = magnitude | 0x7F80_0000;
    let bits = if magnitude >= 0x0F80_0000 { special } else { finite };
    f32::from_bits(bits | ((h & 0x8000) as u32) << 16)
}

/// bfloat16 to f32: bfloat16 is the high half of an f32.
#[inline(always)]
pub(crate) fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits((h as u32) << 16)
}

/// The size in bytes of an element of a type that [`to_f32`] converts; `None` for other types.
pub(crate) fn float_size(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F64 => Some(8),
        Dtype::F32 => Some(4),
        Dtype::F16 | Dtype::BF16 => Some(2),
        _ => None,
    }
}

fn block(dtype: Dtype, src: &[u8], out: &mut [f32]) {
    fn each<const N: usize>(src: &[u8], out: &mut [f32], f: impl Fn([u8; N]) -> f32) {
        let (src, _) = src.as_chunks::<N>();
        for (y, x) in out.iter_mut().zip(src) {
            *y = f(*x);
        }
    }
    match dtype {
        Dtype::F32 if cfg!(target_endian = "little") => cast_slice_mut::<f32, u8>(out).copy_from_slice(src),
        Dtype::F32 => each(src, out, f32::from_le_bytes),
        Dtype::F16 => each(src, out, |b| f16_to_f32(u16::from_le_bytes(b))),
        Dtype::BF16 => each(src, out, |b| bf16_to_f32(u16::from_le_bytes(b))),
        _ => each(src, out, |b| f64::from_le_bytes(b) as f32),
    }
}

/// The index of the first value that is infinite or NaN.
fn first_nonfinite(x: &[f32]) -> Option<usize> {
    // As integers, infinities and NaN are above f32::MAX. The loop has no branch, so the compiler vectorises
    // it.
    let bad = x.iter().fold(0, |bad, v| bad | ((v.to_bits() & 0x7FFF_FFFF) as i32 > 0x7F7F_FFFF) as u32);
    if bad == 0 { None } else { x.iter().position(|v| !v.is_finite()) }
}

/// Converts `src`, which has as many elements as `out` and a type with a [`float_size`]. With
/// `find_nonfinite` it returns the index of the first value that is not finite as f32.
pub(crate) fn to_f32(dtype: Dtype, src: &[u8], out: &mut [f32], find_nonfinite: bool) -> Option<usize> {
    let size = float_size(dtype)?;
    let one = |(i, (out, src)): (usize, (&mut [f32], &[u8]))| {
        block(dtype, src, out);
        if find_nonfinite { first_nonfinite(out).map(|at| i * BLOCK + at) } else { None }
    };
    if out.len() <= 2 * BLOCK {
        return out.chunks_mut(BLOCK).zip(src.chunks(BLOCK * size)).enumerate().find_map(one);
    }
    out.par_chunks_mut(BLOCK).zip(src.par_chunks(BLOCK * size)).enumerate().find_map_first(one)
}

/// The index of the first value that is not finite as f32, without storing the converted values.
pub(crate) fn find_nonfinite(dtype: Dtype, src: &[u8]) -> Option<usize> {
    let size = float_size(dtype)?;
    let mut out = vec![0.0; (1 << 12).min(src.len() / size)];
    src.chunks((1 << 12) * size).enumerate().find_map(|(i, src)| {
        let out = out.get_mut(..src.len() / size)?;
        block(dtype, src, out);
        first_nonfinite(out).map(|at| (i << 12) + at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition in IEEE 754-2008, 3.4: (-1)^s 2^(e-15) (1 + m/1024), and 2^-14 (m/1024) for e = 0.
    fn by_definition(h: u16) -> f64 {
        let (s, e, m) = ((h >> 15) as i32, ((h >> 10) & 31) as i32, (h & 1023) as f64 / 1024.0);
        let magnitude = match e {
            0 => m * 2f64.powi(-14),
            31 if m == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            _ => (1.0 + m) * 2f64.powi(e - 15),
        };
        if s == 1 { -magnitude } else { magnitude }
    }

    #[test]
    fn every_half_is_what_the_standard_defines() {
        for h in 0..=u16::MAX {
            let (got, want) = (f16_to_f32(h), by_definition(h));
            assert!(got as f64 == want || (got.is_nan() && want.is_nan()), "{h:#06x}: {got} is not {want}");
            assert_eq!(got.is_sign_negative(), h & 0x8000 != 0, "sign of {h:#06x}");
        }
    }
}
