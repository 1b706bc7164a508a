//! Bias gradients on the CPU.

use crate::device::Cpu;
use crate::device::cpu::parallel::*;
use crate::device::cpu::{Real, Scalar, inlined, vectorise};
use crate::error::{Error, Result};
use crate::ops::Grad;

/// Rows that one partial sum covers.
const ROWS: usize = 128;

/// Writes the sums over the rows of a matrix with `n` columns into a gradient, or adds them. Tasks add rows
/// that lie one after another; their sums are added in order.
pub(super) fn column_sums<T, G>(cpu: &Cpu, dz: &[T], n: usize, g: Grad) -> Result<()>
where
    T: Scalar,
    G: Scalar<Real = T::Real>,
{
    let (chunk, parts) = (ROWS * n, dz.len().div_ceil(ROWS * n));
    let mut sums: Vec<T::Real> = Vec::new();
    let refused = |_| Error::memory("cannot allocate memory for the sums of a bias gradient");
    sums.try_reserve_exact(parts * n).map_err(refused)?;
    sums.resize(parts * n, T::Real::ZERO);
    let part = |(sums, dz): (&mut [T::Real], &[T])| {
        vectorise!({
            for row in dz.chunks_exact(n) {
                sums.iter_mut().zip(row).for_each(inlined!(|(s, d): (&mut T::Real, &T)| *s += d.load()));
            }
        })
    };
    cpu.install(|| sums.par_chunks_mut(n).zip(dz.par_chunks(chunk)).for_each(part));
    let mut db = g.t.cpu_mut::<G>()?;
    for (c, db) in db.iter_mut().enumerate() {
        let sum: T::Real = sums.iter().skip(c).step_by(n).copied().sum();
        *db = G::store(if g.add { db.load() + sum } else { sum });
    }
    Ok(())
}
