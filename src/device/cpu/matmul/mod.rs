//! The matmul of the CPU: C = A B, or C += A B, for any strides of A and B.
//!
//! [`matmul`] is for f32 and f64. [`matmul_half`] is for 16-bit elements: it adds in f32, by one of several
//! [`MatmulEngine`]s, and rounds once.
//!
//! Blocked as in Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): B is
//! packed once into panels as wide as the register tile. Each task packs its block of A into memory of its
//! thread, where it stays in the cache while the task reads B's panels. Elements are added in an order that
//! depends on the shape alone, never on the number of threads.
#![allow(
    unsafe_code,
    reason = "register tiles in vector instructions; disjoint tiles of C written by several threads"
)]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod dot;
mod engine;
mod epilogue;
mod float;
mod half;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pair_pack;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod tile;

pub use engine::MatmulEngine;
pub use epilogue::{ApplyGradient, HalfEpilogue, Stored};
pub use float::{matmul, matmul_serial};
pub use half::{matmul_half, matmul_half_serial};
pub use tile::Kernel;
pub(super) use tile::{kernel_f32, kernel_f64};

use crate::device::cpu::parallel::*;
use crate::error::Error;
use std::cell::Cell;

/// Memory that packed panels are aligned to, and counted in.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([u8; 64]);

thread_local! {
    /// Working memory of this thread, by its [`PanelUse`]. It grows to the largest matmul.
    static PANELS: [Cell<Vec<Line>>; 4] = const { [const { Cell::new(Vec::new()) }; 4] };
}

/// What a part of a thread's working memory holds.
#[derive(Clone, Copy)]
enum PanelUse {
    /// The part of A that a task packs.
    PartOfA,
    /// All of A, in a matmul on one thread.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only tiles of pairs need it"))]
    WholeA,
    /// All of B, in a matmul on one thread.
    WholeB,
    /// f32 sums that are not rounded yet.
    Sums,
}

/// Runs `f` with `len` elements of this thread's working memory, which hold values of earlier matmuls.
fn with_panels<T: bytemuck::Pod, R>(which: PanelUse, len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let which = which as usize;
    PANELS.with(|panels| {
        // Taken out while in use: a matmul inside a matmul would find an empty vector, not the same memory.
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

impl<T> Out<'_, T> {
    fn holds(&self, m: usize, n: usize) -> bool {
        let end = m.saturating_sub(1).checked_mul(self.row).and_then(|start| start.checked_add(n));
        m == 0 || n == 0 || (end.is_some_and(|end| end <= self.data.len()) && (n <= self.row || m == 1))
    }
}

/// A piece of a row of C that is finished: first element's row and column, and the elements.
pub type Epilogue<'a, T> = &'a (dyn Fn(usize, usize, &mut [T]) + Sync);

/// A pointer that tasks share; each uses its own elements.
struct Shared<T>(*mut T);
// SAFETY: it is used inside this module only, by tasks that write disjoint parts of C.
unsafe impl<T> Sync for Shared<T> {}

/// The error for matrices that do not hold what a matmul needs.
fn misfit([m, n, k]: [usize; 3]) -> Error {
    Error::shape(format!("a matmul of ({m}, {k}) and ({k}, {n}) does not fit its slices"))
}

/// Runs `f(0..n)`, each number once: on the threads of the pool that this thread belongs to, or on this one.
fn each(parallel: bool, n: usize, f: impl Fn(usize) + Sync + Send) {
    if parallel {
        (0..n).into_par_iter().for_each(f);
    } else {
        (0..n).for_each(f);
    }
}
