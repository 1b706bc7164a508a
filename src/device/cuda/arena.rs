//! A caching allocator: device memory is allocated from the driver in large segments and divided there.
//!
//! All work runs on one stream in order, so freed memory can be reused at once: the next kernel that writes
//! it starts after the last one that reads it.

use crate::error::Result;
use std::collections::{BTreeMap, BTreeSet};

/// Alignment of whatever is handed out: that of cudaMalloc.
const ALIGN: u64 = 256;
/// The least that is asked of the driver.
const SEGMENT: u64 = 32 << 20;

/// A map of memory. Holds addresses only; the caller asks the driver.
#[derive(Default)]
pub(super) struct Arena {
    /// One segment a request and nothing larger: so that a checker knows where each tensor ends.
    pub exact: bool,
    /// Free runs by size, then address; and by address.
    by_size: BTreeSet<(u64, u64)>,
    by_place: BTreeMap<u64, u64>,
    /// What the driver gave: address and size.
    segments: BTreeMap<u64, u64>,
}

impl Arena {
    pub fn new(exact: bool) -> Arena {
        Arena { exact, ..Arena::default() }
    }
    /// Bytes asked of the driver.
    pub fn reserved(&self) -> u64 {
        self.segments.values().sum()
    }

    /// How much a request takes of the arena.
    pub fn size_of(&self, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        // Kernels read whole words, also of an odd number of 16-bit elements.
        if self.exact { bytes.max(4).next_multiple_of(4) } else { bytes.max(1).next_multiple_of(ALIGN) }
    }

    /// An address with room for `size` bytes (of [`Arena::size_of`]): the smallest free run that fits, or a
    /// new segment from `driver`, which is asked for no more than it needs if it has not got as much as would
    /// be good.
    pub fn take(&mut self, size: u64, mut driver: impl FnMut(u64) -> Result<u64>) -> Result<u64> {
        if self.exact {
            let place = driver(size)?;
            self.segments.insert(place, size);
            return Ok(place);
        }
        let fit = self.by_size.range((size, 0)..).next().copied();
        let (run, place) = match fit {
            Some(found) => found,
            None => {
                // A segment is never moved or joined to another, so what is free at the end of each is lost
                // to larger requests. They grow with what is there, so that there are few; by a fifth of it
                // at most, so that little is asked for in vain.
                let good = SEGMENT.max(self.reserved() / 5).next_multiple_of(2 << 20);
                let mut got = size.max(good);
                let place = match driver(got) {
                    Err(_) if got > size => {
                        got = size;
                        driver(got)?
                    }
                    answer => answer?,
                };
                self.segments.insert(place, got);
                self.put(place, got);
                (got, place)
            }
        };
        self.remove(place, run);
        if run > size {
            self.put(place + size, run - size);
        }
        Ok(place)
    }

    /// Frees an allocation. Returns whether the caller must free it with the driver, as with exact
    /// allocations.
    pub fn give(&mut self, place: u64, size: u64) -> bool {
        if self.exact {
            return self.segments.remove(&place).is_some();
        }
        let (mut start, mut end) = (place, place + size);
        let before = self.by_place.range(..place).next_back().map(|(&at, &run)| (at, run));
        if let Some((at, run)) =
            before.filter(|&(at, run)| at + run == place && !self.segments.contains_key(&place))
        {
            self.remove(at, run);
            start = at;
        }
        if let Some(run) = self.by_place.get(&end).copied().filter(|_| !self.segments.contains_key(&end)) {
            self.remove(end, run);
            end += run;
        }
        self.put(start, end - start);
        false
    }

    /// Segments that are wholly free, no longer in the arena: for the driver.
    pub fn trim(&mut self) -> Vec<u64> {
        let whole: Vec<(u64, u64)> = self
            .segments
            .iter()
            .map(|(&p, &s)| (p, s))
            .filter(|(p, s)| self.by_place.get(p) == Some(s))
            .collect();
        for &(place, size) in &whole {
            self.remove(place, size);
            self.segments.remove(&place);
        }
        whole.into_iter().map(|(place, _)| place).collect()
    }

    /// All segments, no longer in the arena.
    pub fn clear(&mut self) -> Vec<u64> {
        (self.by_size, self.by_place) = Default::default();
        std::mem::take(&mut self.segments).into_keys().collect()
    }

    fn put(&mut self, place: u64, size: u64) {
        self.by_size.insert((size, place));
        self.by_place.insert(place, size);
    }

    fn remove(&mut self, place: u64, size: u64) {
        self.by_size.remove(&(size, place));
        self.by_place.remove(&place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// A driver that gives addresses without end.
    fn endless() -> impl FnMut(u64) -> Result<u64> {
        let mut next = 1 << 40;
        move |size| {
            next += 1 << 36;
            Ok(next - size % 2)
        }
    }

    #[test]
    fn runs_never_overlap_and_come_back_whole() {
        let (mut arena, mut driver, mut rng) = (Arena::default(), endless(), Rng::new(1, "arena", 0));
        let mut used: Vec<(u64, u64)> = Vec::new();
        for _ in 0..4000 {
            if rng.below(3) > 0 || used.is_empty() {
                let size = arena.size_of(rng.below(9 << 20) as usize);
                let place = arena.take(size, &mut driver).unwrap();
                assert!(used.iter().all(|&(p, s)| place + size <= p || p + s <= place));
                used.push((place, size));
            } else {
                let (place, size) = used.swap_remove(rng.below(used.len() as u32) as usize);
                assert!(!arena.give(place, size));
            }
        }
        for (place, size) in used {
            arena.give(place, size);
        }
        let segments = arena.segments.len();
        assert_eq!((arena.trim().len(), arena.reserved()), (segments, 0));
    }

    #[test]
    fn what_comes_back_serves_again() {
        let (mut arena, mut driver) = (Arena::default(), endless());
        let a = arena.take(1 << 20, &mut driver).unwrap();
        arena.give(a, 1 << 20);
        assert_eq!(arena.take(1 << 20, |_| panic!("nothing is asked of the driver")).unwrap(), a);
    }

    #[test]
    fn a_driver_with_little_left_is_asked_for_little() {
        let mut arena = Arena::default();
        let mut asked = Vec::new();
        let poor = |size: u64| {
            asked.push(size);
            if size > 4096 { Err(crate::error::Error::memory("no more")) } else { Ok(1 << 20) }
        };
        assert_eq!(arena.take(4096, poor).unwrap(), 1 << 20);
        assert_eq!((asked.len(), asked.last()), (2, Some(&4096)));
    }

    #[test]
    fn an_exact_arena_keeps_nothing() {
        let mut arena = Arena { exact: true, ..Arena::default() };
        let size = arena.size_of(6);
        let place = arena.take(size, endless()).unwrap();
        assert_eq!((size, arena.give(place, size), arena.reserved()), (8, true, 0));
    }
}
