//! The register tile of AVX-512 with bf16: `vdpbf16ps` multiplies pairs.

use super::pair_pack::{PairTile, SIDE, STEP, Stripe};
use half::bf16;
use std::arch::x86_64::*;

pub(super) const TILE: PairTile = PairTile { enter: nothing, run, leave: nothing };

/// Registers need no preparation.
///
/// # Safety
/// None is needed.
unsafe fn nothing() {}

/// See [`PairTile::run`]: eight rows at a time, whose sums fit the registers.
///
/// # Safety
/// As [`PairTile::run`] says.
unsafe fn run(steps: usize, rows: usize, a: Stripe, b: *const bf16, c: *mut f32, add: bool) {
    for q in 0..rows.div_ceil(8) {
        let p = a.p.wrapping_byte_add(q / 2 * a.half + q % 2 * 8 * a.row);
        // SAFETY: as the caller promises: eight rows of either half.
        unsafe { eight(steps, Stripe { p, ..a }, b, c.add(q * 8 * SIDE), add) };
    }
}

/// Eight rows by 32 columns: sixteen registers of sums.
///
/// # Safety
/// As [`PairTile::run`] says, of eight rows of A and C.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn eight(steps: usize, a: Stripe, b: *const bf16, c: *mut f32, add: bool) {
    let row = a.row;
    // SAFETY: as the caller promises; any bits are a value of either vector type.
    unsafe {
        let pair = |v: __m512i| std::mem::transmute::<__m512i, __m512bh>(v);
        let mut sums = [[_mm512_setzero_ps(); 2]; 8];
        for s in 0..steps {
            // From two bases, four rows each are reached by scaled addresses.
            let a = a.p.wrapping_byte_add(s * a.step);
            let bases = [a, a.wrapping_byte_add(4 * row)];
            let b = b.add(s * STEP);
            for p in 0..16 {
                let b = [b.add(p * SIDE), b.add(STEP / 2 + p * SIDE)];
                let b = b.map(|b| pair(_mm512_loadu_si512(b.cast())));
                for (i, sum) in sums.iter_mut().enumerate() {
                    let x = bases[i / 4].wrapping_byte_add(i % 4 * row + p * 4).cast::<i32>();
                    let x = pair(_mm512_set1_epi32(x.read_unaligned()));
                    *sum = [_mm512_dpbf16_ps(sum[0], x, b[0]), _mm512_dpbf16_ps(sum[1], x, b[1])];
                }
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            for (j, &sum) in sum.iter().enumerate() {
                let at = c.add(i * SIDE + j * 16);
                _mm512_storeu_ps(at, if add { _mm512_add_ps(_mm512_loadu_ps(at), sum) } else { sum });
            }
        }
    }
}
