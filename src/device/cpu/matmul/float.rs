//! The matmul of f32 and f64.

use super::pack::{Packable, pack};
use super::tile::{Kernel, TILE};
use super::{Epilogue, Mat, Out, PanelUse, Shared, each, misfit, with_panels};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{Cpu, Real, level};
use crate::error::Result;
use std::ops::Range;

/// Rows and columns of the part of C that one task computes, in order of preference: the first that leaves
/// [`TASKS`] tasks is taken. A task packs its block of A itself, so narrow parts, which pack a block several
/// times, come last. Multiples of every tile's height and width; a packed block of A takes at most a quarter
/// of a second-level cache.
const PARTS: [[usize; 2]; 5] = [[72, 384], [36, 384], [24, 384], [24, 192], [24, 96]];
/// The number of tasks that a matmul should have, to balance the threads.
const TASKS: usize = 12;
/// Depth (k) of one pass, so that a panel of B stays in the L1 cache.
const DEPTH: usize = 384;
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

fn run<T: Real>(
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    a: Mat<T>,
    b: Mat<T>,
    c: Out<T>,
    done: Option<Epilogue<T>>,
    parallel: bool,
) -> Result<()> {
    // Packed panels are rounded up to whole tiles.
    let packed = m.max(n).checked_add(TILE).and_then(|n| n.checked_mul(k)?.checked_mul(size_of::<T>()));
    if !a.covers(m, k) || !b.covers(k, n) || !c.holds(m, n) || packed.is_none() {
        return Err(misfit([m, n, k]));
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
    let kernel = T::kernel(level());
    let nr = kernel.nr;
    let panels = n.div_ceil(nr);
    let pack_b = |(j, panel): (usize, &mut [T])| pack(panel, nr, k, b.t(), j * nr, n);
    if !parallel {
        return with_panels(PanelUse::WholeB, panels * nr * k, |pb| {
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

/// How C (m, n) is cut into the parts that tasks compute.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    m: usize,
    n: usize,
    rows: usize,
    cols: usize,
}

impl Grid {
    /// A function of the shape alone, so that results do not depend on the number of threads.
    pub fn new(m: usize, n: usize) -> Grid {
        let grids = PARTS.map(|[rows, cols]| Grid { m, n, rows, cols });
        let [.., last] = grids;
        grids.into_iter().find(|grid| grid.tasks() >= TASKS).unwrap_or(last)
    }
    pub fn tasks(&self) -> usize {
        self.m.div_ceil(self.rows) * self.n.div_ceil(self.cols)
    }
    /// The rows and columns of a task. Neighbours share columns: their panels of B stay in a second-level
    /// cache. A task needs less of A, which is read from further away.
    pub fn part(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let down = self.m.div_ceil(self.rows);
        let (i, j) = (task % down * self.rows, task / down * self.cols);
        (i..self.m.min(i + self.rows), j..self.n.min(j + self.cols))
    }
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
    let grid = Grid::new(m, n);
    let shared = Shared(c.data.as_mut_ptr());
    let c = (&shared, c.row, c.add);
    let task = |t: usize| {
        let (rows, cols) = grid.part(t);
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
    let go = || each(parallel, grid.tasks(), task);
    if parallel { cpu.install(go) } else { go() }
}

/// One task: a block of C, depth by depth, register tile by register tile. Element (i, j) of the whole C is
/// `c_row * i + j` from the pointer on.
pub(super) fn block<S: Packable<T>, T: Real>(
    kernel: &Kernel<T>,
    k: usize,
    a: Mat<S>,
    pb: &[T],
    rows: Range<usize>,
    cols: Range<usize>,
    (c, c_row, add): (&Shared<T>, usize, bool),
) {
    let (mr, nr) = (kernel.mr, kernel.nr);
    let mut tile = [T::ZERO; TILE];
    let passes = k.div_ceil(DEPTH);
    let depth = k.div_ceil(passes);
    with_panels(PanelUse::PartOfA, rows.len().div_ceil(mr) * mr * depth, |pa| {
        for p0 in (0..k).step_by(depth) {
            let kc = depth.min(k - p0);
            let fresh = p0 == 0 && !add;
            let here = Mat { data: &a.data[p0 * a.col..], ..a };
            pack(pa, mr, kc, here, rows.start, rows.end);
            for j in cols.clone().step_by(nr) {
                let b = &pb[(j / nr * k + p0) * nr..][..kc * nr];
                for (i, a) in rows.clone().step_by(mr).zip(pa.chunks_exact(mr * kc)) {
                    let (here, width) = (mr.min(rows.end - i), nr.min(cols.end - j));
                    let here_c = c.0.wrapping_add(i * c_row + j);
                    if here == mr && width == nr {
                        // SAFETY: both panels are sliced to size; the tile lies inside C, and only this task
                        // touches it; `kernel` was chosen for this processor.
                        unsafe { (kernel.run)(kc, a.as_ptr(), b.as_ptr(), (here_c, c_row), !fresh) };
                        continue;
                    }
                    // SAFETY: as above; the local tile holds the largest mr * nr.
                    unsafe { (kernel.run)(kc, a.as_ptr(), b.as_ptr(), (tile.as_mut_ptr(), nr), false) };
                    for r in 0..here {
                        // SAFETY: the row lies inside C, and only this task touches it.
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
