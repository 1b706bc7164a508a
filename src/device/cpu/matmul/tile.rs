//! The register tiles of f32 and f64.

use crate::device::cpu::{Level, Real, level};

/// Elements of the largest register tile there is.
pub(super) const TILE: usize = 12 * 32;

/// A register tile: a panel of A, packed (k, mr), times a panel of B, packed (k, nr), into or onto C, which
/// is strided.
pub struct Kernel<T> {
    pub(super) mr: usize,
    pub(super) nr: usize,
    pub(super) run: Run<T>,
}

/// How a tile is computed: (k, A, B, C, its row distance, whether to add to C).
///
/// SAFETY for callers: A is readable for k * mr elements and B for k * nr; C is writable, and readable if it
/// is added to, at `i * c_row + j` for i < mr, j < nr; the processor has the instructions it was chosen for.
type Run<T> = unsafe fn(usize, *const T, *const T, (*mut T, usize), bool);

/// A tile in plain Rust, for element types and processors without one of their own.
///
/// # Safety
/// See [`Run`].
#[inline(always)]
unsafe fn plain<T: Real, const MR: usize, const NR: usize>(
    k: usize,
    a: *const T,
    b: *const T,
    (c, c_row): (*mut T, usize),
    add: bool,
) {
    let mut acc = [[T::ZERO; NR]; MR];
    for p in 0..k {
        // SAFETY: as the caller promises.
        let (a, b) = unsafe { (&*a.add(p * MR).cast::<[T; MR]>(), &*b.add(p * NR).cast::<[T; NR]>()) };
        for (acc, &a) in acc.iter_mut().zip(a) {
            for (acc, &b) in acc.iter_mut().zip(b) {
                *acc = a.mul_add(b, *acc);
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        // SAFETY: as the caller promises.
        let c = unsafe { &mut *c.add(i * c_row).cast::<[T; NR]>() };
        for (c, &acc) in c.iter_mut().zip(acc) {
            *c = if add { *c + acc } else { acc };
        }
    }
}

pub(in crate::device::cpu) fn kernel_f64(_: Level) -> Kernel<f64> {
    #[cfg(target_arch = "x86_64")]
    if !matches!(Level::V1, l if l == level()) {
        return Kernel { mr: 4, nr: 8, run: x86::f64_v3 };
    }
    Kernel { mr: 4, nr: 8, run: plain::<f64, 4, 8> }
}

pub(in crate::device::cpu) fn kernel_f32(level: Level) -> Kernel<f32> {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::V4 => Kernel { mr: 12, nr: 32, run: x86::f32_v4 },
        #[cfg(target_arch = "x86_64")]
        Level::V3 => Kernel { mr: 6, nr: 16, run: x86::f32_v3 },
        _ => Kernel { mr: 6, nr: 16, run: plain::<f32, 6, 16> },
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// A tile of f32: `$m` rows of A by two vectors of B, `$w` wide each.
    macro_rules! tile {
        ($(#[$doc:meta])* $name:ident, $features:literal, $m:literal, $w:literal,
         $zero:ident, $load:ident, $set:ident, $fma:ident, $sum:ident, $store:ident) => {
            $(#[$doc])*
            ///
            /// # Safety
            /// See [`super::Run`]; needs the instructions it is compiled for.
            #[target_feature(enable = $features)]
            pub unsafe fn $name(k: usize, mut a: *const f32, mut b: *const f32, c: (*mut f32, usize), add: bool) {
                // SAFETY: as the caller promises; a prefetch reads nothing.
                unsafe {
                    for i in 0..$m {
                        _mm_prefetch::<_MM_HINT_T0>(c.0.wrapping_add(i * c.1).cast());
                    }
                    let mut acc = [[$zero(); 2]; $m];
                    // Four steps a turn: the loop itself costs a tenth otherwise.
                    for _ in 0..k / 4 {
                        for u in 0..4 {
                            let (b0, b1) = ($load(b.add(u * 2 * $w)), $load(b.add(u * 2 * $w + $w)));
                            for i in 0..$m {
                                let x = $set(*a.add(u * $m + i));
                                acc[i] = [$fma(x, b0, acc[i][0]), $fma(x, b1, acc[i][1])];
                            }
                        }
                        (a, b) = (a.add(4 * $m), b.add(4 * 2 * $w));
                    }
                    for _ in 0..k % 4 {
                        let (b0, b1) = ($load(b), $load(b.add($w)));
                        for i in 0..$m {
                            let x = $set(*a.add(i));
                            acc[i] = [$fma(x, b0, acc[i][0]), $fma(x, b1, acc[i][1])];
                        }
                        (a, b) = (a.add($m), b.add(2 * $w));
                    }
                    for (i, acc) in acc.iter().enumerate() {
                        for (j, &acc) in acc.iter().enumerate() {
                            let at = c.0.add(i * c.1 + j * $w);
                            $store(at, if add { $sum($load(at), acc) } else { acc });
                        }
                    }
                }
            }
        };
    }

    tile!(
        /// Twelve 8-wide accumulators, two of B, one broadcast: all sixteen registers of AVX2.
        f32_v3, "avx2,fma", 6, 8, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_fmadd_ps,
        _mm256_add_ps, _mm256_storeu_ps
    );
    tile!(
        /// Twenty-four 16-wide accumulators of AVX-512's thirty-two registers.
        f32_v4, "avx512f", 12, 16, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_fmadd_ps,
        _mm512_add_ps, _mm512_storeu_ps
    );

    /// The plain tile, compiled for AVX2 and FMA.
    ///
    /// # Safety
    /// See [`super::Run`]; needs AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn f64_v3(k: usize, a: *const f64, b: *const f64, c: (*mut f64, usize), add: bool) {
        // SAFETY: as the caller promises.
        unsafe { super::plain::<f64, 4, 8>(k, a, b, c, add) }
    }
}
