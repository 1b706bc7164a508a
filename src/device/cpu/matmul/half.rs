//! The matmul of 16-bit elements, with f32 sums.

use super::epilogue::{Finish, HalfEpilogue, Stored};
use super::float::{Grid, block};
use super::pack::{Packable, pack};
use super::tile::TILE;
use super::{Mat, Out, PanelUse, Shared, each, misfit, with_panels};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{Cpu, Real, level};
use crate::error::Result;

/// C (m, n) = A (m, k) B (k, n) on all threads of the device, or C += A B. The elements of each operand are
/// f32, bf16 or f16. Products are added in f32; `epilogue` sees the sums before they are rounded to C's type.
/// `+=` reads C, adds in f32 and rounds once.
///
/// [`Cpu::engine`] computes matmuls of two bf16 matrices. Numbers below the normal range of f32 may count as
/// zero there, as operands and as results.
///
/// # Errors
/// [`Kind::Shape`](crate::error::Kind::Shape) for matrices that do not hold m, n and k, and for an epilogue
/// that does not have C's shape; [`Kind::Memory`](crate::error::Kind::Memory) for scratch.
pub fn matmul_half<A, B, C>(
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    a: Mat<A>,
    b: Mat<B>,
    c: Out<C>,
    epilogue: HalfEpilogue<B, C>,
) -> Result<()>
where
    A: Stored,
    B: Stored,
    C: Stored,
{
    run(cpu, [m, n, k], a, b, c, epilogue, m.saturating_mul(n).saturating_mul(k) > 1 << 16)
}

/// The same on the calling thread, for the many small matmuls inside a parallel op.
///
/// # Errors
/// As [`matmul_half`].
pub fn matmul_half_serial<A, B, C>(
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    a: Mat<A>,
    b: Mat<B>,
    c: Out<C>,
) -> Result<()>
where
    A: Stored,
    B: Stored,
    C: Stored,
{
    run(cpu, [m, n, k], a, b, c, HalfEpilogue::default(), false)
}

fn run<A, B, C>(
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    a: Mat<A>,
    b: Mat<B>,
    c: Out<C>,
    epilogue: HalfEpilogue<B, C>,
    parallel: bool,
) -> Result<()>
where
    A: Stored,
    B: Stored,
    C: Stored,
{
    let fits = a.covers(m, k) && b.covers(k, n) && c.holds(m, n);
    // Packed panels are rounded up to whole tiles, and k to whole steps.
    let packed = m.max(n).checked_add(TILE).and_then(|n| n.checked_mul(k.checked_add(TILE)?)?.checked_mul(4));
    let finish = Finish::new([m, n], c, epilogue).filter(|_| fits && packed.is_some());
    let Some(finish) = finish else { return Err(misfit([m, n, k])) };
    if m == 0 || n == 0 {
        return Ok(());
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(tile) = super::pairs::tile::<A, B, C>(cpu.engine()) {
        return super::pairs::run(cpu, &tile, [m, n, k], a, b, finish, parallel);
    }
    if k == 0 {
        // An empty sum is zero; only the shape of the loops below needs the exception.
        let zeros = vec![0f32; m.max(n)];
        let zeros = Mat { data: &zeros[..], row: 0, col: 1 };
        return widened(cpu, [m, n, 1], zeros, zeros, finish, parallel);
    }
    widened(cpu, [m, n, k], a, b, finish, parallel)
}

/// By the tile of f32: elements are widened while they are packed.
fn widened<A, B, D, C>(
    cpu: &Cpu,
    [m, n, k]: [usize; 3],
    a: Mat<A>,
    b: Mat<D>,
    finish: Finish<B, C>,
    parallel: bool,
) -> Result<()>
where
    A: Packable<f32>,
    D: Packable<f32>,
    B: Stored,
    C: Stored,
{
    let kernel = f32::kernel(level());
    let nr = kernel.nr;
    let panels = n.div_ceil(nr);
    let pack_b = |(j, panel): (usize, &mut [f32])| pack(panel, nr, k, b.t(), j * nr, n);
    let grid = Grid::new(m, n);
    let compute = |pb: &[f32]| {
        each(parallel, grid.tasks(), |t| {
            let (rows, cols) = grid.part(t);
            let (i, j) = (rows.start, cols.start);
            // Whole tiles, so that none is an edge: their columns beyond C are zeros.
            let pitch = cols.len().next_multiple_of(nr);
            with_panels(PanelUse::Sums, rows.len() * pitch, |sums: &mut [f32]| {
                let first = Shared(sums.as_mut_ptr().wrapping_sub(i * pitch + j));
                block(&kernel, k, a, pb, rows.clone(), j..j + pitch, (&first, pitch, false));
                // SAFETY: this task alone owns these rows and columns of C, and they lie inside it.
                unsafe { finish.write(&mut sums[..rows.len() * pitch], pitch, i, j, cols.len()) };
            });
        });
    };
    if !parallel {
        with_panels(PanelUse::WholeB, panels * nr * k, |pb: &mut [f32]| {
            pb.chunks_exact_mut(nr * k).enumerate().for_each(pack_b);
            compute(pb);
        });
        return Ok(());
    }
    let packed_b = cpu.scratch(panels * nr * k * size_of::<f32>())?;
    let mut pb = packed_b.write::<f32>(0, panels * nr * k)?;
    cpu.install(|| {
        pb.par_chunks_exact_mut(nr * k).enumerate().for_each(pack_b);
        compute(&pb);
    });
    Ok(())
}
