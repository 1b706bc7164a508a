//! Packing of bf16 into pairs along k, as AMX and `vdpbf16ps` read them, and what their tiles have in common.
//!
//! A step is 32 of k. Of A, a stripe is 32 rows: each step is two tiles of `[16 rows][32 of k]`. Of B, a
//! panel is 32 columns: each step is two tiles of `[16 pairs of k][16 columns][2]`. What lies outside of a
//! matrix is zero.

use super::Mat;
use half::bf16;
use std::arch::x86_64::*;

/// Rows of a stripe, columns of a panel, and k of a step.
pub(super) const SIDE: usize = 32;
/// Elements of one step of a stripe or of a panel.
pub(super) const STEP: usize = SIDE * SIDE;
/// Elements of a tile.
const TILE: usize = STEP / 2;

/// Where a stripe of A lies; distances in bytes.
#[derive(Clone, Copy)]
pub(super) struct Stripe {
    /// Its first element.
    pub p: *const bf16,
    /// From a row to the next.
    pub row: usize,
    /// From the upper sixteen rows to the others.
    pub half: usize,
    /// From a step of k to the next.
    pub step: usize,
}

/// A register tile of 32 x 32 sums.
pub(super) struct PairTile {
    /// Prepares this thread.
    ///
    /// SAFETY for callers: the processor has the instructions, and the process may use them.
    pub enter: unsafe fn(),
    /// (steps, rows, A, B, C, whether to add to C): C is 32 x 32 f32 without gaps. `rows`, 1 to 32, are the
    /// rows that matter; others may or may not be computed.
    ///
    /// SAFETY for callers: as for `enter`, and it was called; `steps` is not 0; each step of A is readable as
    /// [`Stripe`] says: 64 bytes in each of the upper sixteen rows, and in the others if `rows` exceeds 16; B
    /// is readable for 1024 elements a step; C is writable, and readable if it is added to.
    pub run: unsafe fn(usize, usize, Stripe, *const bf16, *mut f32, bool),
    /// Ends what `enter` began.
    ///
    /// SAFETY for callers: as for `enter`.
    pub leave: unsafe fn(),
}

/// One step of A (rows, k_end): rows `i..i + 32`, columns `k..k + 32`.
///
/// # Safety
/// Needs AVX-512 F and BW. `a` holds `rows` rows and `k_end` columns.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn a_step(
    out: &mut [bf16; STEP],
    a: Mat<bf16>,
    [i, rows]: [usize; 2],
    [k, k_end]: [usize; 2],
) {
    if a.col == 1 {
        for (half, out) in out.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
            // SAFETY: as the caller promises.
            let tile = unsafe { lines(a, [i + half * 16, rows], [k, k_end]) };
            put(out, &tile);
        }
    } else if a.row == 1 {
        // SAFETY: as the caller promises, of the transposed matrix.
        let mut tiles = unsafe { pair_lines(a.t(), [k, k_end], [i, rows]) };
        for (out, tile) in out.as_chunks_mut::<TILE>().0.iter_mut().zip(&mut tiles) {
            transpose(tile);
            put(out, tile);
        }
    } else {
        each(out, |half, line, slot| {
            let (i, k) = (i + half * 16 + line, k + slot);
            if i < rows && k < k_end { a.data[i * a.row + k * a.col] } else { bf16::ZERO }
        });
    }
}

/// One step of B (k_end, cols): rows `k..k + 32`, columns `j..j + 32`.
///
/// # Safety
/// Needs AVX-512 F and BW. `b` holds `k_end` rows and `cols` columns.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn b_step(
    out: &mut [bf16; STEP],
    b: Mat<bf16>,
    [k, k_end]: [usize; 2],
    [j, cols]: [usize; 2],
) {
    if b.col == 1 {
        // SAFETY: as the caller promises.
        let tiles = unsafe { pair_lines(b, [k, k_end], [j, cols]) };
        for (out, tile) in out.as_chunks_mut::<TILE>().0.iter_mut().zip(&tiles) {
            put(out, tile);
        }
    } else if b.row == 1 {
        for (half, out) in out.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
            // SAFETY: as the caller promises, of the transposed matrix.
            let mut tile = unsafe { lines(b.t(), [j + half * 16, cols], [k, k_end]) };
            transpose(&mut tile);
            put(out, &tile);
        }
    } else {
        each(out, |half, line, slot| {
            let (k, j) = (k + 2 * line + slot % 2, j + half * 16 + slot / 2);
            if k < k_end && j < cols { b.data[k * b.row + j * b.col] } else { bf16::ZERO }
        });
    }
}

/// Fills both tiles by `f(tile, line, element of the line)`: for strides that are rare.
fn each(out: &mut [bf16; STEP], f: impl Fn(usize, usize, usize) -> bf16) {
    for (at, out) in out.iter_mut().enumerate() {
        *out = f(at / TILE, at % TILE / SIDE, at % SIDE);
    }
}

/// A mask of the first `n` elements of a vector.
fn first(n: usize) -> u32 {
    if n >= 32 { !0 } else { (1 << n) - 1 }
}

/// Elements `j..j + 32` of row `i` of a row-major matrix (rows, cols).
///
/// # Safety
/// Needs AVX-512 F and BW. `m` holds `rows` rows and `cols` columns, with a distance of 1 between columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn line(m: Mat<bf16>, [i, rows]: [usize; 2], [j, cols]: [usize; 2]) -> __m512i {
    let mask = if i < rows { first(cols.saturating_sub(j)) } else { 0 };
    let at = m.data.as_ptr().wrapping_add(i.wrapping_mul(m.row).wrapping_add(j));
    // SAFETY: the mask leaves elements of the matrix alone; the others are not read.
    unsafe { _mm512_maskz_loadu_epi16(mask, at.cast()) }
}

/// Rows `i..i + 16` of a row-major matrix, columns `j..j + 32`.
///
/// # Safety
/// As [`line`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn lines(m: Mat<bf16>, [i, rows]: [usize; 2], cols: [usize; 2]) -> [__m512i; 16] {
    let mut tile = [_mm512_setzero_si512(); 16];
    for (q, to) in tile.iter_mut().enumerate() {
        // SAFETY: as the caller promises.
        *to = unsafe { line(m, [i + q, rows], cols) };
    }
    tile
}

/// Rows `i` and `i + 1` of a row-major matrix, columns `j..j + 32`, as pairs: columns `j..j + 16`, and the
/// other sixteen.
///
/// # Safety
/// As [`line`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pairs(m: Mat<bf16>, [i, rows]: [usize; 2], cols: [usize; 2]) -> (__m512i, __m512i) {
    /// Elements of two vectors by turns, from `base` on; those of the second count from 32 on.
    const fn turns(base: u16) -> [u16; 32] {
        let mut index = [0; 32];
        let mut i = 0;
        while i < 16 {
            index[2 * i] = base + i as u16;
            index[2 * i + 1] = 32 + base + i as u16;
            i += 1;
        }
        index
    }
    const LOW: [u16; 32] = turns(0);
    const HIGH: [u16; 32] = turns(16);
    // SAFETY: as the caller promises.
    let (x, y) = unsafe { (line(m, [i, rows], cols), line(m, [i + 1, rows], cols)) };
    // SAFETY: each has 32 elements.
    let (low, high) =
        unsafe { (_mm512_loadu_epi16(LOW.as_ptr().cast()), _mm512_loadu_epi16(HIGH.as_ptr().cast())) };
    (_mm512_permutex2var_epi16(x, low, y), _mm512_permutex2var_epi16(x, high, y))
}

/// Rows `i..i + 32` of a row-major matrix, columns `j..j + 32`, as two tiles of pairs.
///
/// # Safety
/// As [`line`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pair_lines(m: Mat<bf16>, [i, rows]: [usize; 2], cols: [usize; 2]) -> [[__m512i; 16]; 2] {
    let mut tiles = [[_mm512_setzero_si512(); 16]; 2];
    let [low, high] = &mut tiles;
    for (p, (low, high)) in low.iter_mut().zip(high).enumerate() {
        // SAFETY: as the caller promises.
        (*low, *high) = unsafe { pairs(m, [i + 2 * p, rows], cols) };
    }
    tiles
}

/// Writes a tile.
#[inline]
#[target_feature(enable = "avx512f")]
fn put(out: &mut [bf16; TILE], tile: &[__m512i; 16]) {
    for (out, &line) in out.as_chunks_mut::<SIDE>().0.iter_mut().zip(tile) {
        // SAFETY: a line has 32 elements.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), line) };
    }
}

/// Transposes sixteen lines of sixteen 32-bit words, in place.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(r: &mut [__m512i; 16]) {
    let mut t = *r;
    // Words of two lines, then of four: each quarter of a vector holds four words of one column.
    for i in (0..16).step_by(2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for i in (0..16).step_by(4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    // Quarters of two vectors, then of four.
    for i in 0..4 {
        t[i] = _mm512_shuffle_i32x4::<0x88>(r[i], r[4 + i]);
        t[4 + i] = _mm512_shuffle_i32x4::<0xdd>(r[i], r[4 + i]);
        t[8 + i] = _mm512_shuffle_i32x4::<0x88>(r[8 + i], r[12 + i]);
        t[12 + i] = _mm512_shuffle_i32x4::<0xdd>(r[8 + i], r[12 + i]);
    }
    for i in 0..4 {
        r[i] = _mm512_shuffle_i32x4::<0x88>(t[i], t[8 + i]);
        r[4 + i] = _mm512_shuffle_i32x4::<0x88>(t[4 + i], t[12 + i]);
        r[8 + i] = _mm512_shuffle_i32x4::<0xdd>(t[i], t[8 + i]);
        r[12 + i] = _mm512_shuffle_i32x4::<0xdd>(t[4 + i], t[12 + i]);
    }
}
