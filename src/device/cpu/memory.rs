//! A pool of host memory, with run-time borrow checks of its slices.
//!
//! One allocation holds many parameters, so a borrow is a range of bytes, not a whole buffer.
#![allow(unsafe_code, reason = "hands out typed slices of pooled memory; the range table keeps them apart")]

use super::pages::{HUGE, prefer_huge};
use crate::error::{Error, Result};
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Alignment of every buffer: a cache line, and the widest vector register.
pub(super) const ALIGN: usize = 64;
/// Blocks that are put on huge pages: activations, which are written whole. Larger ones are arenas, of which
/// training touches only a part: the rows of a vocabulary that occur. Whole pages there would be memory for
/// nothing.
const ON_HUGE: Range<usize> = HUGE..32 << 20;

/// Statistics of the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes in use.
    pub live: usize,
    /// The most bytes that were in use at once.
    pub peak: usize,
    /// Bytes kept for reuse.
    pub free: usize,
    /// The number of allocations from the system.
    pub allocations: u64,
}

#[derive(Default)]
pub(super) struct Pool(Mutex<Shelves>);

#[derive(Default)]
struct Shelves {
    free: BTreeMap<usize, Vec<Block>>,
    stats: MemoryStats,
}

/// Owned memory of `size` bytes, never zero, aligned to `ALIGN`.
struct Block {
    ptr: NonNull<u8>,
    size: usize,
    base: NonNull<u8>,
}

// SAFETY: a block is plain owned memory; it is not tied to a thread.
unsafe impl Send for Block {}
// SAFETY: all access goes through `Buffer::read` and `Buffer::write`, which keep readers and writers apart.
unsafe impl Sync for Block {}

impl Block {
    /// With room to align inside: asked for more than its own alignment, the allocator would clear the memory
    /// by hand, and so make every page of it at once.
    fn layout(size: usize) -> Option<Layout> {
        Layout::from_size_align(size.checked_add(Self::align(size))?, 16).ok()
    }
    fn align(size: usize) -> usize {
        if ON_HUGE.contains(&size) { HUGE } else { ALIGN }
    }
    fn new(size: usize) -> Option<Block> {
        // SAFETY: the size is not zero. Zeroed, so that no byte is ever uninitialised.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(Self::layout(size)?) })?;
        // SAFETY: the offset is less than the alignment, and there are that many bytes more than `size`.
        let ptr = unsafe { base.add(base.as_ptr().align_offset(Self::align(size))) };
        if ON_HUGE.contains(&size) {
            prefer_huge(ptr.as_ptr(), size);
        }
        Some(Block { ptr, size, base })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.size) {
            // SAFETY: allocated in `new` with the same layout.
            unsafe { std::alloc::dealloc(self.base.as_ptr(), layout) }
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// The smallest free block that fits without wasting more than itself, or a new one. A block that has
    /// become too small is given back in exchange, so that growing batches do not pile up memory.
    pub(super) fn take(pool: &Arc<Pool>, bytes: usize) -> Result<Buffer> {
        let need = bytes.max(1).next_multiple_of(ALIGN);
        let mut shelves = lock(&pool.0);
        let fit = shelves.free.range(need..=need.saturating_mul(2)).next().map(|(&size, _)| size);
        let smaller = || shelves.free.range(need / 2..need).next_back().map(|(&size, _)| size);
        let size = fit.or_else(smaller);
        let found = size.and_then(|size| {
            let shelf = shelves.free.get_mut(&size)?;
            let block = shelf.pop();
            if shelf.is_empty() {
                shelves.free.remove(&size);
            }
            shelves.stats.free -= size;
            block
        });
        let (block, pristine) = match found {
            Some(block) if block.size >= need => (block, false),
            outgrown => {
                drop(outgrown);
                shelves.stats.allocations += 1;
                let live = shelves.stats.live;
                let block = Block::new(need).ok_or_else(|| {
                    let what = format!("cannot allocate {need} bytes of memory ({live} bytes are in use)");
                    Error::memory(what).with_help(
                        "lower train.max_tokens (the tokens of one forward pass) or data.max_length",
                    )
                })?;
                (block, true)
            }
        };
        shelves.stats.live += block.size;
        shelves.stats.peak = shelves.stats.peak.max(shelves.stats.live);
        Ok(Buffer {
            block: Some(block),
            bytes,
            pool: pool.clone(),
            borrows: Mutex::default(),
            pristine: pristine.into(),
        })
    }
    /// Gives all free blocks back to the system.
    pub(super) fn trim(&self) {
        let mut shelves = lock(&self.0);
        shelves.free.clear();
        shelves.stats.free = 0;
    }
    pub(super) fn stats(&self) -> MemoryStats {
        lock(&self.0).stats
    }
}

/// A run of bytes from the pool; it goes back there when dropped.
pub struct Buffer {
    block: Option<Block>,
    bytes: usize,
    pool: Arc<Pool>,
    borrows: Mutex<Vec<Borrow>>,
    /// Fresh from the system and never written: every byte is zero, and most pages do not exist yet.
    pristine: AtomicBool,
}

struct Borrow {
    range: Range<usize>,
    writes: bool,
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            let mut shelves = lock(&self.pool.0);
            shelves.stats.live -= block.size;
            shelves.stats.free += block.size;
            shelves.free.entry(block.size).or_default().push(block);
        }
    }
}

impl Buffer {
    /// `len` elements from element `start` on, to read.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) beyond the end of the buffer, or where the range is being
    /// written.
    pub fn read<T: bytemuck::Pod>(&self, start: usize, len: usize) -> Result<Slice<'_, T>> {
        let (ptr, range) = self.claim::<T>(start, len, false)?;
        Ok(Slice { buffer: self, ptr, len, range, _of: PhantomData })
    }
    /// Whether nothing was ever written, so that all bytes are zero.
    pub fn pristine(&self) -> bool {
        // Relaxed: who asks has the writer's work behind it, and the join of the threads ordered both.
        self.pristine.load(Ordering::Relaxed)
    }
    /// `len` elements from element `start` on, to write.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) beyond the end of the buffer, or where the range is in use.
    pub fn write<T: bytemuck::Pod>(&self, start: usize, len: usize) -> Result<SliceMut<'_, T>> {
        let (ptr, range) = self.claim::<T>(start, len, true)?;
        self.pristine.store(false, Ordering::Relaxed);
        Ok(SliceMut(Slice { buffer: self, ptr, len, range, _of: PhantomData }))
    }
    fn claim<T>(&self, start: usize, len: usize, writes: bool) -> Result<(NonNull<T>, Range<usize>)> {
        let size = size_of::<T>();
        let end = start.checked_add(len).and_then(|end| end.checked_mul(size));
        // A multiple of the size, and a size is a multiple of the alignment: what begins here is aligned if
        // the block is.
        let inside = end.filter(|&end| end <= self.bytes && align_of::<T>() <= ALIGN);
        let (Some(block), Some(end)) = (&self.block, inside) else {
            return Err(Error::shape(format!(
                "{len} elements of {size} bytes from element {start} on do not fit into a buffer of {} bytes",
                self.bytes
            )));
        };
        let range = start * size..end;
        // An op may read one part of an arena while it writes another, which a borrow of the whole buffer
        // could not express. So ranges are compared here, once for each slice, and an overlap is an error
        // instead of a data race.
        let mut borrows = lock(&self.borrows);
        let clash =
            |b: &&Borrow| (writes || b.writes) && b.range.start < range.end && range.start < b.range.end;
        if let Some(b) = borrows.iter().find(clash) {
            let what = format!("bytes {range:?} of a buffer are in use: bytes {:?} are borrowed", b.range);
            return Err(Error::shape(what));
        }
        borrows.push(Borrow { range: range.clone(), writes });
        // SAFETY: the range lies inside the block, as checked above.
        Ok((unsafe { block.ptr.add(range.start) }.cast(), range))
    }
}

/// Elements of a buffer, to read. Ends its borrow when dropped.
pub struct Slice<'a, T> {
    buffer: &'a Buffer,
    ptr: NonNull<T>,
    len: usize,
    range: Range<usize>,
    _of: PhantomData<&'a T>,
}

/// Elements of a buffer, to write. Ends its borrow when dropped.
pub struct SliceMut<'a, T>(Slice<'a, T>);

// SAFETY: a slice is a shared reference to plain data in all but name.
unsafe impl<T: Sync> Sync for Slice<'_, T> {}
// SAFETY: as above; ending the borrow goes through a mutex.
unsafe impl<T: Sync> Send for Slice<'_, T> {}

impl<T> Drop for Slice<'_, T> {
    fn drop(&mut self) {
        let mut borrows = lock(&self.buffer.borrows);
        if let Some(i) = borrows.iter().position(|b| b.range == self.range) {
            borrows.swap_remove(i);
        }
    }
}

impl<T: bytemuck::Pod> Deref for Slice<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: inside the block, aligned (offsets are multiples of the size, blocks of 64), initialised
        // (zeroed at birth, `Pod`), and no writer holds an overlapping range while this borrow stands in the
        // table.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}
impl<T: bytemuck::Pod> Deref for SliceMut<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}
impl<T: bytemuck::Pod> DerefMut for SliceMut<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for reading; a writer's range overlaps no other borrow, so this is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.0.ptr.as_ptr(), self.0.len) }
    }
}
