//! The matrix product of the CPU: C = A B, or C += A B, for any strides of A and B.
//!
//! Blocked as in Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): B is packed once
//! into panels as wide as the register tile, A is read where it lies when its rows are contiguous and packed otherwise.
//! The partition into tiles and the order of the sums depend on the shape alone, never on the number of threads.
#![allow(
    unsafe_code,
    reason = "register tiles in vector instructions; disjoint tiles of C written by several threads"
)]

use super::real::Level;
use super::{Cpu, Real};
use crate::error::{Error, Result};
use rayon::prelude::*;

/// Rows and columns of the part of C that one task computes. `ROWS` is a multiple of every tile height.
const ROWS: usize = 96;
const COLS: usize = 192;
/// Depth of one pass, so that a panel of B stays in the first-level cache.
const DEPTH: usize = 256;
/// The largest register tile there is.
const TILE: usize = 12 * 32;

/// A matrix somewhere in a slice: element (i, j) is `data[i * row + j * col]`.
#[derive(Clone, Copy)]
pub struct Mat<'a, T> {
    /// The elements.
    pub data: &'a [T],
    /// Distance between rows.
    pub row: usize,
    /// Distance between columns.
    pub col: usize,
}

impl<'a, T> Mat<'a, T> {
    /// A row-major matrix with rows of `cols` elements.
    pub fn new(data: &'a [T], cols: usize) -> Self {
        Self { data, row: cols, col: 1 }
    }
    /// The same elements with rows and columns exchanged.
    pub fn t(self) -> Self {
        Self { data: self.data, row: self.col, col: self.row }
    }
    fn covers(&self, rows: usize, cols: usize) -> bool {
        let last = |n: usize, stride: usize| (n - 1).checked_mul(stride);
        let end = || last(rows, self.row)?.checked_add(last(cols, self.col)?);
        rows == 0 || cols == 0 || end().is_some_and(|end| end < self.data.len())
    }
}

/// Where C is and what happens to it.
pub struct Out<'a, T> {
    /// The elements of C, row-major.
    pub data: &'a mut [T],
    /// Distance between its rows.
    pub row: usize,
    /// Adds to what is there instead of overwriting it.
    pub add: bool,
}

/// A piece of a row of C that is finished: first element's row and column, and the elements.
pub type Epilogue<'a, T> = &'a (dyn Fn(usize, usize, &mut [T]) + Sync);

/// A register tile: `mr` rows of A times a panel of B, `nr` wide, into or onto C. A and C are strided, B packed (k, nr).
pub struct Kernel<T> {
    pub(super) mr: usize,
    pub(super) nr: usize,
    pub(super) run: Run<T>,
}

/// How a tile is computed: (k, A, its row and column distance, B, C, its row distance, whether to add to C).
///
/// SAFETY for callers: A is readable at `i * row + p * col` for i < mr, p < k; B at k * nr; C is writable, and readable
/// if it is added to, at `i * c_row + j` for i < mr, j < nr; the processor has the instructions it was chosen for.
type Run<T> = unsafe fn(usize, (*const T, usize, usize), *const T, (*mut T, usize), bool);

/// C (m, n) = A (m, k) B (k, n), on all threads of the device; `done` sees every piece of a row of C once.
pub fn product<T: Real>(
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    a: Mat<T>,
    b: Mat<T>,
    c: Out<T>,
    done: Option<Epilogue<T>>,
) -> Result<()> {
    run(cpu, [m, n, k], a, b, c, done, m.saturating_mul(n).saturating_mul(k) > 1 << 16)
}

/// The same on the calling thread: for the many small products inside a parallel op.
pub fn product_serial<T: Real>(
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    a: Mat<T>,
    b: Mat<T>,
    c: Out<T>,
) -> Result<()> {
    run(cpu, [m, n, k], a, b, c, None, false)
}

/// A pointer that tasks share; each writes its own tile.
struct Shared<T>(*mut T);
// SAFETY: tasks write disjoint tiles, see `run`.
unsafe impl<T> Sync for Shared<T> {}

fn run<T: Real>(
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    a: Mat<T>,
    b: Mat<T>,
    c: Out<T>,
    done: Option<Epilogue<T>>,
    parallel: bool,
) -> Result<()> {
    let c_end = m.saturating_sub(1).checked_mul(c.row).and_then(|start| start.checked_add(n));
    let c_fits = m == 0 || n == 0 || (c_end.is_some_and(|end| end <= c.data.len()) && (n <= c.row || m == 1));
    // Packed panels are rounded up to whole tiles.
    let packed = m.max(n).checked_add(TILE).and_then(|n| n.checked_mul(k)?.checked_mul(size_of::<T>()));
    if !a.covers(m, k) || !b.covers(k, n) || !c_fits || packed.is_none() {
        return Err(Error::shape(format!("a product of ({m}, {k}) and ({k}, {n}) does not fit its slices")));
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    let kernel = T::kernel(super::real::level());
    let (mr, nr) = (kernel.mr, kernel.nr);
    let packed_b = cpu.scratch(n.div_ceil(nr) * nr * k * size_of::<T>())?;
    let mut pb = packed_b.write::<T>(0, n.div_ceil(nr) * nr * k)?;
    let pack_b = |(j, panel): (usize, &mut [T])| pack(panel, nr, k, b.t(), j * nr, n);
    // A with contiguous rows is read in place.
    let in_place = a.col == 1;
    let a_len = if in_place { 0 } else { m.div_ceil(mr) * mr * k };
    let packed_a = if in_place { None } else { Some(cpu.scratch(a_len * size_of::<T>())?) };
    let mut pa = packed_a.as_ref().map(|a| a.write::<T>(0, a_len)).transpose()?;
    let pa: &mut [T] = pa.as_deref_mut().unwrap_or_default();
    let pack_a = |(i, panel): (usize, &mut [T])| pack(panel, mr, k, a, i * mr, m);
    let grid = (m.div_ceil(ROWS), n.div_ceil(COLS));
    let shared = Shared(c.data.as_mut_ptr());
    let c = (&shared, c.row, c.add);
    if k == 0 {
        // An empty sum is zero; only the shape of the loops below needs the exception.
        let zeros = vec![T::ZERO; n * nr.max(mr)];
        return run(
            cpu,
            [m, n, 1],
            Mat { data: &zeros, row: 0, col: 1 },
            Mat { data: &zeros, row: 0, col: 0 },
            Out {
                // SAFETY: the exclusive borrow of `c.data` is passed on; `shared` is not used any more.
                data: unsafe { std::slice::from_raw_parts_mut(c.0.0, (m - 1) * c.1 + n) },
                row: c.1,
                add: c.2,
            },
            done,
            parallel,
        );
    }
    if parallel {
        cpu.install(|| {
            pb.par_chunks_mut(nr * k).enumerate().for_each(pack_b);
            pa.par_chunks_mut(mr * k).enumerate().for_each(pack_a);
        });
    } else {
        pb.chunks_mut(nr * k).enumerate().for_each(pack_b);
        pa.chunks_mut(mr * k).enumerate().for_each(pack_a);
    }
    let task = |t: usize| {
        let (i, j) = (t / grid.1 * ROWS, t % grid.1 * COLS);
        let (rows, cols) = (i..m.min(i + ROWS), j..n.min(j + COLS));
        block(&kernel, k, in_place.then_some(a), pa, &pb, rows.clone(), cols.clone(), c);
        if let Some(done) = done {
            for r in rows {
                // SAFETY: this task alone owns these rows and columns of C, and they lie inside it (checked above).
                let piece =
                    unsafe { std::slice::from_raw_parts_mut(c.0.0.add(r * c.1 + cols.start), cols.len()) };
                done(r, cols.start, piece);
            }
        }
    };
    if parallel {
        cpu.install(|| (0..grid.0 * grid.1).into_par_iter().for_each(task));
    } else {
        (0..grid.0 * grid.1).for_each(task);
    }
    Ok(())
}

/// Copies rows `first..first + width` of `a` (rows, k) into `panel` (k, width); rows beyond `rows` become zeros.
fn pack<T: Real>(panel: &mut [T], width: usize, k: usize, a: Mat<T>, first: usize, rows: usize) {
    let here = width.min(rows - first);
    if here < width {
        panel.fill(T::ZERO);
    }
    if a.row == 1 {
        for (p, out) in panel.chunks_exact_mut(width).enumerate().take(k) {
            let from = &a.data[first + p * a.col..];
            // Whole rows of the common widths as fixed-size copies: a call of memmove costs more than the copy.
            match (width, here == width) {
                (6, true) => fixed::<T, 6>(out, from),
                (12, true) => fixed::<T, 12>(out, from),
                (16, true) => fixed::<T, 16>(out, from),
                (32, true) => fixed::<T, 32>(out, from),
                _ => out[..here].copy_from_slice(&from[..here]),
            }
        }
        return;
    }
    // Sixteen columns at a time: each row gives one cache line, and the panel's lines are still at hand.
    for p0 in (0..k).step_by(16) {
        let depth = 16.min(k - p0);
        for i in 0..here {
            let at = (first + i) * a.row + p0 * a.col;
            if a.col == 1 {
                for (p, &v) in a.data[at..at + depth].iter().enumerate() {
                    panel[(p0 + p) * width + i] = v;
                }
            } else {
                for p in 0..depth {
                    panel[(p0 + p) * width + i] = a.data[at + p * a.col];
                }
            }
        }
    }
}

#[inline(always)]
fn fixed<T: Copy, const N: usize>(to: &mut [T], from: &[T]) {
    if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk::<N>()) {
        *to = *from;
    }
}

/// One task: a block of C, depth by depth, register tile by register tile.
#[expect(
    clippy::too_many_arguments,
    reason = "the coordinates of one block; a struct would only rename them"
)]
fn block<T: Real>(
    kernel: &Kernel<T>,
    k: usize,
    a: Option<Mat<T>>,
    pa: &[T],
    pb: &[T],
    rows: std::ops::Range<usize>,
    cols: std::ops::Range<usize>,
    (c, c_row, add): (&Shared<T>, usize, bool),
) {
    let (mr, nr) = (kernel.mr, kernel.nr);
    let mut tile = [T::ZERO; TILE];
    let mut edge = [T::ZERO; DEPTH * 12];
    let passes = k.div_ceil(DEPTH);
    let depth = k.div_ceil(passes);
    for p0 in (0..k).step_by(depth) {
        let kc = depth.min(k - p0);
        let fresh = p0 == 0 && !add;
        for j in cols.clone().step_by(nr) {
            let b = &pb[(j / nr * k + p0) * nr..][..kc * nr];
            for i in rows.clone().step_by(mr) {
                let here = mr.min(rows.end - i);
                let (a, row, col): (&[T], _, _) = match a {
                    Some(a) if here == mr => (&a.data[i * a.row + p0..], a.row, 1),
                    Some(a) => {
                        pack(&mut edge[..kc * mr], mr, kc, Mat { data: &a.data[p0..], ..a }, i, i + here);
                        (&edge, 1, mr)
                    }
                    None => (&pa[(i / mr * k + p0) * mr..], 1, mr),
                };
                let width = nr.min(cols.end - j);
                // SAFETY: rows and columns of this block lie inside C, and only this task touches them.
                let here_c = unsafe { c.0.add(i * c_row + j) };
                let a = (a.as_ptr(), row, col);
                if here == mr && width == nr {
                    // SAFETY: a row of A has `kc` elements from here on (`covers`), packed panels have kc * mr; B's
                    // panel is sliced to size; the tile lies inside C; `kernel` was chosen for this processor.
                    unsafe { (kernel.run)(kc, a, b.as_ptr(), (here_c, c_row), !fresh) };
                    continue;
                }
                // SAFETY: as above; the local tile holds the largest mr * nr.
                unsafe { (kernel.run)(kc, a, b.as_ptr(), (tile.as_mut_ptr(), nr), false) };
                for r in 0..here {
                    // SAFETY: as for `here_c`.
                    let out = unsafe { std::slice::from_raw_parts_mut(here_c.add(r * c_row), width) };
                    let sum = &tile[r * nr..][..width];
                    if fresh {
                        out.copy_from_slice(sum);
                    } else {
                        out.iter_mut().zip(sum).for_each(|(o, &s)| *o += s);
                    }
                }
            }
        }
    }
}

/// A tile in plain Rust, for element types and processors without one of their own.
///
/// # Safety
/// See [`Run`].
#[inline(always)]
unsafe fn plain<T: Real, const MR: usize, const NR: usize>(
    k: usize,
    (a, row, col): (*const T, usize, usize),
    b: *const T,
    (c, c_row): (*mut T, usize),
    add: bool,
) {
    let mut acc = [[T::ZERO; NR]; MR];
    for p in 0..k {
        // SAFETY: as the caller promises.
        let b = unsafe { &*b.add(p * NR).cast::<[T; NR]>() };
        for (i, acc) in acc.iter_mut().enumerate() {
            // SAFETY: as the caller promises.
            let a = unsafe { *a.add(i * row + p * col) };
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

pub(super) fn kernel_f64(_: Level) -> Kernel<f64> {
    #[cfg(target_arch = "x86_64")]
    if !matches!(Level::V1, l if l == super::real::level()) {
        return Kernel { mr: 4, nr: 8, run: x86::f64_v3 };
    }
    Kernel { mr: 4, nr: 8, run: plain::<f64, 4, 8> }
}

pub(super) fn kernel_f32(level: Level) -> Kernel<f32> {
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

    /// The body of the two tiles below: `$m` rows of A by two vectors of B, `$w` wide each.
    macro_rules! tile {
        ($k:ident, $a:ident, $b:ident, $c:ident, $add:ident, $m:literal, $w:literal,
         $zero:ident, $load:ident, $set:ident, $fma:ident, $sum:ident, $store:ident) => {
            let (mut a, row, col) = $a;
            let (mut b, (c, c_row)) = ($b, $c);
            let mut acc = [[$zero(); 2]; $m];
            for _ in 0..$k {
                // SAFETY: as the caller promises.
                unsafe {
                    let (b0, b1) = ($load(b), $load(b.add($w)));
                    for i in 0..$m {
                        let x = $set(*a.add(i * row));
                        acc[i] = [$fma(x, b0, acc[i][0]), $fma(x, b1, acc[i][1])];
                    }
                    (a, b) = (a.add(col), b.add(2 * $w));
                }
            }
            for (i, acc) in acc.iter().enumerate() {
                for (j, &acc) in acc.iter().enumerate() {
                    // SAFETY: as the caller promises.
                    unsafe {
                        let at = c.add(i * c_row + j * $w);
                        $store(at, if $add { $sum($load(at), acc) } else { acc });
                    }
                }
            }
        };
    }

    /// Twelve 8-wide accumulators, two of B, one broadcast: all sixteen registers of AVX2.
    ///
    /// # Safety
    /// See [`super::Run`]; needs AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn f32_v3(
        k: usize,
        a: (*const f32, usize, usize),
        b: *const f32,
        c: (*mut f32, usize),
        add: bool,
    ) {
        tile!(
            k,
            a,
            b,
            c,
            add,
            6,
            8,
            _mm256_setzero_ps,
            _mm256_loadu_ps,
            _mm256_set1_ps,
            _mm256_fmadd_ps,
            _mm256_add_ps,
            _mm256_storeu_ps
        );
    }

    /// Twenty-four 16-wide accumulators of AVX-512's thirty-two registers.
    ///
    /// # Safety
    /// See [`super::Run`]; needs AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn f32_v4(
        k: usize,
        a: (*const f32, usize, usize),
        b: *const f32,
        c: (*mut f32, usize),
        add: bool,
    ) {
        tile!(
            k,
            a,
            b,
            c,
            add,
            12,
            16,
            _mm512_setzero_ps,
            _mm512_loadu_ps,
            _mm512_set1_ps,
            _mm512_fmadd_ps,
            _mm512_add_ps,
            _mm512_storeu_ps
        );
    }

    /// The plain tile, compiled for AVX2 and FMA.
    ///
    /// # Safety
    /// See [`super::Run`]; needs AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn f64_v3(
        k: usize,
        a: (*const f64, usize, usize),
        b: *const f64,
        c: (*mut f64, usize),
        add: bool,
    ) {
        // SAFETY: as the caller promises.
        unsafe { super::plain::<f64, 4, 8>(k, a, b, c, add) }
    }
}
