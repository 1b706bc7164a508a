//! The matmul of the CPU: C = A B, or C += A B, for any strides of A and B.
//!
//! Blocked as in Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): B is
//! packed once into panels as wide as the register tile. Each task packs its block of A into memory of its
//! thread, where it stays in the L2 cache while the task reads B's panels. The partition into tiles and the
//! order of the sums depend on the shape alone, never on the number of threads.
#![allow(
    unsafe_code,
    reason = "register tiles in vector instructions; disjoint tiles of C written by several threads"
)]

use super::real::Level;
use super::{Cpu, Real};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// Rows of the part of C that one task computes: a multiple of every tile height, and few enough that a
/// packed block of A takes a quarter of a second-level cache.
const ROWS: usize = 72;
/// Columns of that part, the most that leaves [`TASKS`] tasks: a wide part packs its block of A less often.
/// Multiples of every tile width.
const COLS: [usize; 3] = [384, 192, 96];
/// The number of tasks that a matmul should have, to balance the threads.
const TASKS: usize = 12;
/// Depth (k) of one pass, so that a panel of B stays in the L1 cache.
const DEPTH: usize = 384;
/// The largest register tile there is.
const TILE: usize = 12 * 32;

/// Memory that packed panels are aligned to, and counted in.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([u8; 64]);

thread_local! {
    /// Packing memory of this thread, for A and for B. It grows to the largest matmul.
    static PANELS: [Cell<Vec<Line>>; 2] = const { [Cell::new(Vec::new()), Cell::new(Vec::new())] };
}

/// Runs `f` with `len` elements of this thread's packing memory, which hold values of earlier matmuls.
fn with_panels<T: Real, R>(which: usize, len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    PANELS.with(|panels| {
        // Taken out while in use: a product inside a product would find an empty vector, not the same memory.
        let mut lines = panels[which].take();
        let need = (len * size_of::<T>()).div_ceil(size_of::<Line>());
        if lines.len() < need {
            lines = vec![Line([0; 64]); need];
        }
        let result = f(&mut bytemuck::cast_slice_mut(&mut lines)[..len]);
        panels[which].set(lines);
        result
    })
}

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

/// The output matrix C, and whether to add to it.
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

/// C (m, n) = A (m, k) B (k, n), on all threads of the device; `done` sees every piece of a row of C once.
///
/// # Errors
/// [`Kind::Shape`](crate::error::Kind::Shape) for matrices that do not hold m, n and k;
/// [`Kind::Memory`](crate::error::Kind::Memory) for scratch.
pub fn matmul<T: Real>(
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    a: Mat<T>,
    b: Mat<T>,
    c: Out<T>,
    done: Option<Epilogue<T>>,
) -> Result<()> {
    run(cpu, [m, n, k], a, b, c, done, m.saturating_mul(n).saturating_mul(k) > 1 << 16)
}

/// The same on the calling thread, for the many small matmuls inside a parallel op.
///
/// # Errors
/// As [`matmul`].
pub fn matmul_serial<T: Real>(
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
        return Err(Error::shape(format!("a matmul of ({m}, {k}) and ({k}, {n}) does not fit its slices")));
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    if k == 0 {
        // An empty sum is zero; only the shape of the loops below needs the exception.
        let zeros = vec![T::ZERO; m.max(n)];
        let a = Mat { data: &zeros, row: 0, col: 1 };
        return run(cpu, [m, n, 1], a, a, c, done, parallel);
    }
    let kernel = T::kernel(super::real::level());
    let nr = kernel.nr;
    let panels = n.div_ceil(nr);
    let pack_b = |(j, panel): (usize, &mut [T])| pack(panel, nr, k, b.t(), j * nr, n);
    if !parallel {
        return with_panels(1, panels * nr * k, |pb| {
            pb.chunks_exact_mut(nr * k).enumerate().for_each(pack_b);
            tasks(cpu, &kernel, [m, n, k], a, pb, c, done, false);
            Ok(())
        });
    }
    let packed_b = cpu.scratch(panels * nr * k * size_of::<T>())?;
    let mut pb = packed_b.write::<T>(0, panels * nr * k)?;
    cpu.install(|| pb.par_chunks_exact_mut(nr * k).enumerate().for_each(pack_b));
    tasks(cpu, &kernel, [m, n, k], a, &pb, c, done, true);
    Ok(())
}

/// Cuts C into parts and computes each from A and the packed panels of B.
#[expect(clippy::too_many_arguments, reason = "the operands of one product; a struct would only rename them")]
fn tasks<T: Real>(
    cpu: &Cpu,
    kernel: &Kernel<T>,
    [m, n, k]: [usize; 3],
    a: Mat<T>,
    pb: &[T],
    c: Out<T>,
    done: Option<Epilogue<T>>,
    parallel: bool,
) {
    let strips = m.div_ceil(ROWS);
    let wide = COLS.into_iter().find(|&cols| strips * n.div_ceil(cols) >= TASKS);
    let width = wide.unwrap_or(COLS[COLS.len() - 1]);
    let grid = (strips, n.div_ceil(width));
    let shared = Shared(c.data.as_mut_ptr());
    let c = (&shared, c.row, c.add);
    let task = |t: usize| {
        let (i, j) = (t / grid.1 * ROWS, t % grid.1 * width);
        let (rows, cols) = (i..m.min(i + ROWS), j..n.min(j + width));
        block(kernel, k, a, pb, rows.clone(), cols.clone(), c);
        if let Some(done) = done {
            for r in rows {
                // SAFETY: this task alone owns these rows and columns of C, and they lie inside it (`run`
                // checks).
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
}

/// Copies rows `first..rows` of `a` (rows, k) into panels (k, width), as many as there is room for; rows
/// beyond `rows` become zeros.
fn pack<T: Real>(panels: &mut [T], width: usize, k: usize, a: Mat<T>, first: usize, rows: usize) {
    for (i, panel) in (first..rows).step_by(width).zip(panels.chunks_exact_mut(width * k)) {
        match (i + width <= rows, a.row, a.col, width) {
            (true, 1, _, 6) => pack_columns::<T, 6>(panel, a, i),
            (true, 1, _, 12) => pack_columns::<T, 12>(panel, a, i),
            (true, 1, _, 16) => pack_columns::<T, 16>(panel, a, i),
            (true, 1, _, 32) => pack_columns::<T, 32>(panel, a, i),
            (true, _, 1, 6) => pack_rows::<T, 6>(panel, a, i),
            (true, _, 1, 12) => pack_rows::<T, 12>(panel, a, i),
            (true, _, 1, 16) => pack_rows::<T, 16>(panel, a, i),
            (true, _, 1, 32) => pack_rows::<T, 32>(panel, a, i),
            _ => pack_any(panel, width, a, i, rows),
        }
    }
}

/// One panel, whatever the strides.
fn pack_any<T: Real>(panel: &mut [T], width: usize, a: Mat<T>, first: usize, rows: usize) {
    let here = width.min(rows - first);
    for (p, out) in panel.chunks_exact_mut(width).enumerate() {
        out[here..].fill(T::ZERO);
        for (i, out) in out[..here].iter_mut().enumerate() {
            *out = a.data[(first + i) * a.row + p * a.col];
        }
    }
}

/// One panel of a matrix whose columns lie one after another.
fn pack_columns<T: Real, const W: usize>(panel: &mut [T], a: Mat<T>, first: usize) {
    for (p, out) in panel.chunks_exact_mut(W).enumerate() {
        // Fixed sizes: a call of memmove costs more than the copy.
        if let (Some(to), Some(from)) =
            (out.first_chunk_mut::<W>(), a.data[first + p * a.col..].first_chunk::<W>())
        {
            *to = *from;
        }
    }
}

/// One panel of a matrix whose rows lie one after another: eight elements of a row are one read, and the
/// panel's lines that they go to are still in the cache when the next row comes.
fn pack_rows<T: Real, const W: usize>(panel: &mut [T], a: Mat<T>, first: usize) {
    let k = panel.len() / W;
    let rows: [&[T]; W] = std::array::from_fn(|i| &a.data[(first + i) * a.row..][..k]);
    let whole = k / 8 * 8;
    for (p0, out) in (0..whole).step_by(8).zip(panel.chunks_exact_mut(8 * W)) {
        for (i, row) in rows.iter().enumerate() {
            for (p, &v) in row[p0..][..8].iter().enumerate() {
                out[p * W + i] = v;
            }
        }
    }
    for p in whole..k {
        for (i, row) in rows.iter().enumerate() {
            panel[p * W + i] = row[p];
        }
    }
}

/// One task: a block of C, depth by depth, register tile by register tile.
fn block<T: Real>(
    kernel: &Kernel<T>,
    k: usize,
    a: Mat<T>,
    pb: &[T],
    rows: Range<usize>,
    cols: Range<usize>,
    (c, c_row, add): (&Shared<T>, usize, bool),
) {
    let (mr, nr) = (kernel.mr, kernel.nr);
    let mut tile = [T::ZERO; TILE];
    let passes = k.div_ceil(DEPTH);
    let depth = k.div_ceil(passes);
    with_panels(0, rows.len().div_ceil(mr) * mr * depth, |pa| {
        for p0 in (0..k).step_by(depth) {
            let kc = depth.min(k - p0);
            let fresh = p0 == 0 && !add;
            let here = Mat { data: &a.data[p0 * a.col..], ..a };
            pack(pa, mr, kc, here, rows.start, rows.end);
            for j in cols.clone().step_by(nr) {
                let b = &pb[(j / nr * k + p0) * nr..][..kc * nr];
                for (i, a) in rows.clone().step_by(mr).zip(pa.chunks_exact(mr * kc)) {
                    let (here, width) = (mr.min(rows.end - i), nr.min(cols.end - j));
                    // SAFETY: rows and columns of this block lie inside C, and only this task touches them.
                    let here_c = unsafe { c.0.add(i * c_row + j) };
                    if here == mr && width == nr {
                        // SAFETY: both panels are sliced to size; the tile lies inside C; `kernel` was chosen
                        // for this processor.
                        unsafe { (kernel.run)(kc, a.as_ptr(), b.as_ptr(), (here_c, c_row), !fresh) };
                        continue;
                    }
                    // SAFETY: as above; the local tile holds the largest mr * nr.
                    unsafe { (kernel.run)(kc, a.as_ptr(), b.as_ptr(), (tile.as_mut_ptr(), nr), false) };
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
    });
}

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
