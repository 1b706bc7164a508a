//! Loops over parts of slices on the threads of a device, in rayon's words: inside of [`Cpu::install`] they
//! run on the device's threads, elsewhere on the calling one.
//!
//! [`Cpu::install`]: super::Cpu::install
#![allow(unsafe_code, reason = "disjoint parts of a slice are given to several threads")]

use super::threads::{MOST, run};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// The elements of a parallel loop.
pub trait Parts: Sized + Sync {
    /// An element.
    type Item: Send;
    /// How many there are.
    fn count(&self) -> usize;
    /// An element.
    ///
    /// # Safety
    /// `i` is less than [`Parts::count`], and each `i` is asked for at most once.
    unsafe fn get(&self, i: usize) -> Self::Item;
    /// The least number of elements that one thread takes at a time.
    fn least(&self) -> usize {
        1
    }
    /// Elements of both, as far as both have them.
    fn zip<B: IntoParts>(self, other: B) -> Zip<Self, B::Parts> {
        Zip(self, other.into_par_iter())
    }
    /// Elements with their numbers.
    fn enumerate(self) -> Enumerate<Self> {
        Enumerate(self)
    }
    /// What `f` makes of the elements.
    fn map<R: Send, F: Fn(Self::Item) -> R + Sync>(self, f: F) -> Map<Self, F> {
        Map(self, f)
    }
    /// The same elements; a thread takes at least so many of them at a time.
    fn with_min_len(self, least: usize) -> AtLeast<Self> {
        AtLeast(self, least)
    }
    /// Calls `f` with each element.
    fn for_each(self, f: impl Fn(Self::Item) + Sync) {
        let count = self.count();
        let size = self.least().max(count.div_ceil(MOST)).max(1);
        run(count.div_ceil(size), &|task| {
            for i in task * size..count.min((task + 1) * size) {
                // SAFETY: tasks have different numbers below the number of them.
                f(unsafe { self.get(i) });
            }
        });
    }
    /// Calls `f` with each element; the error of the first task by number that failed, if there is one.
    ///
    /// # Errors
    /// That of `f`.
    fn try_for_each<E: Send>(self, f: impl Fn(Self::Item) -> Result<(), E> + Sync) -> Result<(), E> {
        let first: Mutex<Option<(usize, E)>> = Mutex::new(None);
        self.enumerate().for_each(|(i, item)| {
            if let Err(e) = f(item) {
                let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                if first.as_ref().is_none_or(|(earlier, _)| i < *earlier) {
                    *first = Some((i, e));
                }
            }
        });
        first.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), |(_, e)| Err(e))
    }
    /// The elements in their order.
    fn collect(self) -> Vec<Self::Item> {
        let mut all: Vec<Option<Self::Item>> = (0..self.count()).map(|_| None).collect();
        all.par_iter_mut().zip(self).for_each(|(to, item)| *to = Some(item));
        all.into_iter().flatten().collect()
    }
}

/// See [`Parts::zip`].
pub struct Zip<A, B>(A, B);
impl<A: Parts, B: Parts> Parts for Zip<A, B> {
    type Item = (A::Item, B::Item);
    fn count(&self) -> usize {
        self.0.count().min(self.1.count())
    }
    // SAFETY: see `Parts::get`.
    unsafe fn get(&self, i: usize) -> Self::Item {
        // SAFETY: as the caller promises.
        unsafe { (self.0.get(i), self.1.get(i)) }
    }
    fn least(&self) -> usize {
        self.0.least().max(self.1.least())
    }
}

/// See [`Parts::enumerate`].
pub struct Enumerate<A>(A);
impl<A: Parts> Parts for Enumerate<A> {
    type Item = (usize, A::Item);
    fn count(&self) -> usize {
        self.0.count()
    }
    // SAFETY: see `Parts::get`.
    unsafe fn get(&self, i: usize) -> Self::Item {
        // SAFETY: as the caller promises.
        (i, unsafe { self.0.get(i) })
    }
    fn least(&self) -> usize {
        self.0.least()
    }
}

/// See [`Parts::map`].
pub struct Map<A, F>(A, F);
impl<A: Parts, R: Send, F: Fn(A::Item) -> R + Sync> Parts for Map<A, F> {
    type Item = R;
    fn count(&self) -> usize {
        self.0.count()
    }
    // SAFETY: see `Parts::get`.
    unsafe fn get(&self, i: usize) -> R {
        // SAFETY: as the caller promises.
        self.1(unsafe { self.0.get(i) })
    }
    fn least(&self) -> usize {
        self.0.least()
    }
}

/// See [`Parts::with_min_len`].
pub struct AtLeast<A>(A, usize);
impl<A: Parts> Parts for AtLeast<A> {
    type Item = A::Item;
    fn count(&self) -> usize {
        self.0.count()
    }
    // SAFETY: see `Parts::get`.
    unsafe fn get(&self, i: usize) -> A::Item {
        // SAFETY: as the caller promises.
        unsafe { self.0.get(i) }
    }
    fn least(&self) -> usize {
        self.1.max(self.0.least())
    }
}

/// Parts of a slice to read.
pub struct Chunks<'a, T> {
    all: &'a [T],
    size: usize,
}
impl<'a, T: Sync> Parts for Chunks<'a, T> {
    type Item = &'a [T];
    fn count(&self) -> usize {
        self.all.len().div_ceil(self.size)
    }
    // SAFETY: see `Parts::get`.
    unsafe fn get(&self, i: usize) -> &'a [T] {
        let start = i * self.size;
        &self.all[start..self.all.len().min(start + self.size)]
    }
}

/// Parts of a slice to write.
pub struct ChunksMut<'a, T> {
    first: *mut T,
    len: usize,
    size: usize,
    _of: PhantomData<&'a mut [T]>,
}
// SAFETY: as for `&mut [T]`; `get` gives each part to one thread.
unsafe impl<T: Send> Sync for ChunksMut<'_, T> {}
impl<'a, T: Send> Parts for ChunksMut<'a, T> {
    type Item = &'a mut [T];
    fn count(&self) -> usize {
        self.len.div_ceil(self.size)
    }
    // SAFETY: see `Parts::get`.
    unsafe fn get(&self, i: usize) -> &'a mut [T] {
        let start = i * self.size;
        // SAFETY: within the slice, as `i` is less than the count; parts with different `i` are disjoint, and
        // each is asked for once.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(start), self.size.min(self.len - start)) }
    }
}

/// Elements of a slice to write.
pub struct EachMut<'a, T>(ChunksMut<'a, T>);
impl<'a, T: Send> Parts for EachMut<'a, T> {
    type Item = &'a mut T;
    fn count(&self) -> usize {
        self.0.len
    }
    // SAFETY: see `Parts::get`.
    unsafe fn get(&self, i: usize) -> &'a mut T {
        // SAFETY: as for parts of one element.
        unsafe { &mut *self.0.first.add(i) }
    }
}

/// Elements that are moved out of a vector.
pub struct Owned<T>(ManuallyDrop<Vec<T>>);
// SAFETY: each element is moved to one thread.
unsafe impl<T: Send> Sync for Owned<T> {}
impl<T: Send> Parts for Owned<T> {
    type Item = T;
    fn count(&self) -> usize {
        self.0.len()
    }
    // SAFETY: see `Parts::get`.
    unsafe fn get(&self, i: usize) -> T {
        // SAFETY: within the vector, and each element is read once; `drop` does not drop elements.
        unsafe { self.0.as_ptr().add(i).read() }
    }
}
impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: no element is read any more. Those that a panic left unread are leaked.
        unsafe {
            self.0.set_len(0);
            ManuallyDrop::drop(&mut self.0);
        }
    }
}

/// The numbers of a range.
pub struct Numbers(Range<usize>);
impl Parts for Numbers {
    type Item = usize;
    fn count(&self) -> usize {
        self.0.len()
    }
    // SAFETY: see `Parts::get`.
    unsafe fn get(&self, i: usize) -> usize {
        self.0.start + i
    }
}

/// Parallel loops over slices.
pub trait ParallelSlice<T> {
    /// Parts of `size` elements to read, the last one maybe smaller. An empty slice has no parts, and a size
    /// of 0 counts as 1.
    fn par_chunks(&self, size: usize) -> Chunks<'_, T>;
    /// Parts of `size` elements to write.
    fn par_chunks_mut(&mut self, size: usize) -> ChunksMut<'_, T>;
    /// Parts of exactly `size` elements to write; a smaller rest is left out.
    fn par_chunks_exact_mut(&mut self, size: usize) -> ChunksMut<'_, T>;
    /// Elements to write.
    fn par_iter_mut(&mut self) -> EachMut<'_, T>;
}

impl<T> ParallelSlice<T> for [T] {
    fn par_chunks(&self, size: usize) -> Chunks<'_, T> {
        Chunks { all: self, size: size.max(1) }
    }
    fn par_chunks_mut(&mut self, size: usize) -> ChunksMut<'_, T> {
        ChunksMut { first: self.as_mut_ptr(), len: self.len(), size: size.max(1), _of: PhantomData }
    }
    fn par_chunks_exact_mut(&mut self, size: usize) -> ChunksMut<'_, T> {
        let size = size.max(1);
        let whole = self.len() / size * size;
        self[..whole].par_chunks_mut(size)
    }
    fn par_iter_mut(&mut self) -> EachMut<'_, T> {
        EachMut(self.par_chunks_mut(1))
    }
}

/// Parallel loops over what is owned.
pub trait IntoParts {
    /// The elements.
    type Parts: Parts;
    /// The elements, each moved to the thread that handles it.
    fn into_par_iter(self) -> Self::Parts;
}
impl<P: Parts> IntoParts for P {
    type Parts = P;
    fn into_par_iter(self) -> P {
        self
    }
}
impl<T: Send> IntoParts for Vec<T> {
    type Parts = Owned<T>;
    fn into_par_iter(self) -> Owned<T> {
        Owned(ManuallyDrop::new(self))
    }
}
impl IntoParts for Range<usize> {
    type Parts = Numbers;
    fn into_par_iter(self) -> Numbers {
        Numbers(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Cpu;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn cpus() -> Vec<Cpu> {
        [1, 2, 5].map(|n| Cpu::new(n).unwrap()).into()
    }

    #[test]
    fn every_element_is_handled_once() {
        for cpu in cpus() {
            // Again and again: threads are awake, or begin to sleep, or sleep.
            for (round, len) in [0, 1, 2, 3, 64, 1000, 70_000].into_iter().cycle().take(70).enumerate() {
                let mut counts = vec![0u32; len];
                let from: Vec<usize> = (0..len).collect();
                cpu.install(|| {
                    counts.par_chunks_mut(3).zip(from.par_chunks(3)).enumerate().for_each(
                        |(i, (to, from))| {
                            assert_eq!(from[0], i * 3);
                            to.iter_mut().for_each(|n| *n += 1);
                        },
                    );
                    counts.par_iter_mut().with_min_len(7).for_each(|n| *n += 1);
                    counts.par_chunks_exact_mut(2).for_each(|n| n.iter_mut().for_each(|n| *n += 1));
                });
                for (i, &n) in counts.iter().enumerate() {
                    assert_eq!(n, if i < len / 2 * 2 { 3 } else { 2 }, "element {i} of {len}");
                }
                if round % 10 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
            }
        }
    }

    #[test]
    fn results_are_in_order_and_the_first_error_counts() {
        for cpu in cpus() {
            let squares = cpu.install(|| (3..500).into_par_iter().map(|i| i * i).collect());
            assert_eq!(squares, (3..500).map(|i| i * i).collect::<Vec<_>>());
            let odd = |i: usize| if i % 2 == 1 { Err(i) } else { Ok(()) };
            assert_eq!(cpu.install(|| (10..500).into_par_iter().try_for_each(odd)), Err(11));
        }
    }

    #[test]
    fn owned_elements_are_dropped_once() {
        for cpu in cpus() {
            let element = Arc::new(());
            cpu.install(|| vec![element.clone(); 100].into_par_iter().for_each(drop));
            assert_eq!(Arc::strong_count(&element), 1);
        }
    }

    #[test]
    fn a_loop_inside_of_a_loop_or_of_another_thread_is_serial() {
        for cpu in cpus() {
            let sum = AtomicUsize::new(0);
            let add = |i: usize| _ = sum.fetch_add(i, Ordering::Relaxed);
            let nested = || (0..40).into_par_iter().for_each(|_| (0..40).into_par_iter().for_each(add));
            std::thread::scope(|scope| {
                (0..3).for_each(|_| _ = scope.spawn(|| cpu.install(nested)));
            });
            assert_eq!(sum.into_inner(), 3 * 40 * (0..40).sum::<usize>());
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_threads_go_on() {
        for cpu in cpus() {
            let fails = || {
                cpu.install(|| (0..100).into_par_iter().for_each(|i| assert!(i != 97, "number {i}")));
            };
            let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(fails)).unwrap_err();
            assert!(panic.downcast_ref::<String>().unwrap().contains("number 97"));
            assert_eq!(cpu.install(|| (0..100).into_par_iter().collect()), (0..100).collect::<Vec<_>>());
        }
    }
}
