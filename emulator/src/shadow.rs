//! Who touched a piece of memory last, and what is ordered before what.
//!
//! Clocks are kept for each warp (vector clocks as in FastTrack, Flanagan and Freund 2009). A clock goes up
//! whenever the warp releases something: at a barrier, `__syncwarp`, a fence.

use std::collections::HashMap;

/// Bytes of a piece of memory that is watched as one; which of them were touched is kept.
pub(crate) const GRAIN: usize = 2;

/// One access: who, when and how.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(crate) struct Access {
    /// Warp, numbered over the whole grid.
    pub who: u32,
    /// Its clock.
    pub clock: u32,
    info: u32,
}

const VALID: u32 = 1 << 25;
const ATOMIC: u32 = 1 << 26;
const SEVERAL: u32 = 1 << 27;
const ASYNC: u32 = 1 << 28;
const SCOPED: u32 = 1 << 29;

impl Access {
    /// Instructions are numbered below 2^20.
    pub fn new(who: u32, clock: u32, lane: usize, pc: u32) -> Access {
        Access { who, clock, info: pc & 0xf_ffff | (lane as u32) << 20 | VALID }
    }
    pub fn atomic(mut self, block_only: bool) -> Access {
        self.info |= ATOMIC | if block_only { SCOPED } else { 0 };
        self
    }
    /// Done by the asynchronous proxy.
    pub fn in_async(mut self) -> Access {
        self.info |= ASYNC;
        self
    }
    pub fn pc(&self) -> u32 {
        self.info & 0xf_ffff
    }
    pub fn lane(&self) -> u32 {
        self.info >> 20 & 31
    }
    pub fn valid(&self) -> bool {
        self.info & VALID != 0
    }
    pub fn is_async(&self) -> bool {
        self.info & ASYNC != 0
    }
    fn bytes(&self) -> u32 {
        self.info >> 30
    }
    fn on(mut self, bytes: u32) -> Access {
        self.info = self.info & !(3 << 30) | bytes << 30;
        self
    }
}

/// What a warp knows of the others.
#[derive(Clone, Default, Debug)]
pub(crate) struct Clock {
    /// Number of this block's first warp in the grid.
    pub first: u32,
    /// Clocks of the block's warps.
    pub own: Vec<u32>,
    /// Clocks of warps of other blocks.
    pub foreign: HashMap<u32, u32>,
}

impl Clock {
    pub fn join(&mut self, other: &Clock) {
        if self.first == other.first && self.own.len() == other.own.len() {
            for (a, b) in self.own.iter_mut().zip(&other.own) {
                *a = (*a).max(*b);
            }
        } else {
            for (i, &c) in other.own.iter().enumerate() {
                let known = self.foreign.entry(other.first + i as u32).or_default();
                *known = (*known).max(c);
            }
        }
        for (&who, &c) in &other.foreign {
            let known = match who.checked_sub(self.first).and_then(|i| self.own.get_mut(i as usize)) {
                Some(known) => known,
                None => self.foreign.entry(who).or_default(),
            };
            *known = (*known).max(c);
        }
    }
    /// Whether an access of another warp is known to be over.
    fn knows(&self, a: &Access) -> bool {
        match a.who.checked_sub(self.first).and_then(|i| self.own.get(i as usize)) {
            Some(&c) => c >= a.clock,
            None => self.foreign.get(&a.who).is_some_and(|&c| c >= a.clock),
        }
    }
    /// Whether `a` comes before `b`, which is by the warp of this clock.
    fn ordered(&self, a: &Access, b: &Access) -> bool {
        if a.who != b.who {
            return self.knows(a);
        }
        // In a warp: by the same lane, or with a __syncwarp between.
        (a.lane() == b.lane() && a.info & SEVERAL == 0) || b.clock > a.clock
    }
}

/// Bytes of a line; lines are looked at as a whole as long as every access covers a whole one.
const LINE: usize = 16;
/// A part is split in use.
const SPLIT: u32 = 1 << 31;

/// The last accesses to a line, to a word of it, or to half a word. A line has four words, a word has two
/// halves.
#[derive(Clone, Copy, Default)]
struct Cell {
    write: Access,
    read: Access,
    /// Further readers that are not ordered with the first: a place in the pool, plus one.
    more: u32,
    /// Where its parts are; only with `SPLIT` they say more than this does.
    parts: u32,
}

/// A race: what was there before.
#[derive(Debug, PartialEq)]
pub(crate) struct Conflict {
    pub before: Access,
    pub was_write: bool,
}

/// The accesses to a stretch of memory.
#[derive(Clone, Default)]
pub(crate) struct Shadow {
    /// One of each line, and behind them the parts of those that were split.
    cells: Vec<Cell>,
    /// When each line was last looked at: what is older is forgotten.
    ages: Vec<u32>,
    now: u32,
    pool: Vec<Vec<Access>>,
}

/// An access as the cells see it.
struct Seen<'c> {
    me: Access,
    clock: &'c Clock,
    write: bool,
    found: Option<Conflict>,
}

impl Shadow {
    pub fn new(bytes: usize) -> Shadow {
        let lines = bytes.div_ceil(LINE);
        Shadow { cells: vec![Cell::default(); lines], ages: vec![0; lines], now: 1, pool: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.ages.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.cells.truncate(self.ages.len());
        self.pool.clear();
        if self.now == u32::MAX {
            self.ages.fill(0);
            self.now = 0;
        }
        self.now += 1;
    }

    /// The last write to a byte's piece.
    pub fn last_write(&self, at: usize) -> Option<Access> {
        if self.ages.get(at / LINE) != Some(&self.now) {
            return None;
        }
        let mut cell = &self.cells[at / LINE];
        for part in [at / 4 % 4, at / GRAIN % 2] {
            if cell.parts & SPLIT == 0 {
                break;
            }
            cell = &self.cells[(cell.parts & !SPLIT) as usize + part];
        }
        Some(cell.write).filter(Access::valid)
    }

    /// Notes an access to `size` bytes from `at` on; gives the first conflict.
    #[inline]
    pub fn access(
        &mut self,
        at: usize,
        size: usize,
        me: Access,
        clock: &Clock,
        write: bool,
    ) -> Option<Conflict> {
        let end = at + size;
        let mut seen = Seen { me: me.on(3), clock, write, found: None };
        for line in at / LINE..end.div_ceil(LINE).min(self.ages.len()) {
            if self.ages[line] != self.now {
                self.ages[line] = self.now;
                self.cells[line] = Cell::default();
            }
            let start = line * LINE;
            self.part::<LINE>(line, at.saturating_sub(start), (end - start).min(LINE), &mut seen);
        }
        seen.found
    }

    /// The bytes `from..to` of a cell that stands for `SIZE` bytes.
    #[inline]
    fn part<const SIZE: usize>(&mut self, i: usize, from: usize, to: usize, seen: &mut Seen) {
        let whole = to - from == SIZE;
        if whole && self.cells[i].parts & SPLIT == 0 {
            return self.step(i, seen.me, seen);
        }
        if SIZE == GRAIN {
            return self.step(i, seen.me.on((3 << from) & (3 >> (GRAIN - to))), seen);
        }
        let (count, each) = if SIZE == LINE { (4, 4) } else { (2, GRAIN) };
        if self.cells[i].parts & SPLIT == 0 {
            self.split(i, count);
        }
        let first = (self.cells[i].parts & !SPLIT) as usize;
        for p in from / each..to.div_ceil(each) {
            let (from, to) = (from.saturating_sub(p * each), (to - p * each).min(each));
            match SIZE {
                LINE => self.part::<4>(first + p, from, to, seen),
                _ => self.part::<GRAIN>(first + p, from, to, seen),
            }
        }
        if whole && seen.write {
            // All of it was written by this one: the parts say no more than it does.
            let cell = &mut self.cells[i];
            (cell.write, cell.read, cell.parts) = (seen.me, Access::default(), cell.parts & !SPLIT);
            self.forget(i);
        }
    }

    /// Gives each part what the whole had.
    #[cold]
    fn split(&mut self, i: usize, count: usize) {
        if self.cells[i].parts == 0 {
            self.cells[i].parts = self.cells.len() as u32;
            self.cells.resize(self.cells.len() + count, Cell::default());
        }
        let Cell { write, read, more, parts } = self.cells[i];
        self.cells[i].parts |= SPLIT;
        let readers = (more as usize).checked_sub(1).map(|m| self.pool[m].clone()).unwrap_or_default();
        for p in parts as usize..parts as usize + count {
            let cell = &mut self.cells[p];
            (cell.write, cell.read, cell.parts) = (write, read, cell.parts & !SPLIT);
            self.forget(p);
            for &r in &readers {
                Self::join(&mut self.cells[p].more, &mut self.pool, r);
            }
        }
    }

    /// Forgets the further readers.
    fn forget(&mut self, i: usize) {
        if let Some(more) = (self.cells[i].more as usize).checked_sub(1) {
            self.pool[more].clear();
        }
    }

    /// One more reader.
    fn join(more: &mut u32, pool: &mut Vec<Vec<Access>>, reader: Access) {
        match (*more as usize).checked_sub(1) {
            Some(i) => pool[i].push(reader),
            None => {
                pool.push(vec![reader]);
                *more = pool.len() as u32;
            }
        }
    }

    #[inline]
    fn step(&mut self, i: usize, me: Access, seen: &mut Seen) {
        let cell = &mut self.cells[i];
        // The same again: nothing new can be learnt.
        if !seen.write && cell.read == me || seen.write && cell.write == me && cell.read.info == 0 {
            return;
        }
        let hit = if seen.write {
            Self::write(cell, &mut self.pool, me, seen.clock)
        } else {
            Self::read(cell, &mut self.pool, me, seen.clock)
        };
        if seen.found.is_none() {
            seen.found = hit;
        }
    }

    #[inline]
    fn clash(before: &Access, me: &Access, clock: &Clock) -> bool {
        if !before.valid() || before.bytes() & me.bytes() == 0 {
            return false;
        }
        if before.info & me.info & ATOMIC != 0 {
            let warps = (clock.own.len() as u32).max(1);
            let near = before.who / warps == me.who / warps;
            if near || (before.info | me.info) & SCOPED == 0 {
                return false;
            }
        }
        !clock.ordered(before, me)
    }

    #[inline]
    fn write(cell: &mut Cell, pool: &mut [Vec<Access>], me: Access, clock: &Clock) -> Option<Conflict> {
        let mut found = None;
        if Self::clash(&cell.write, &me, clock) {
            found = Some(Conflict { before: cell.write, was_write: true });
        } else if Self::clash(&cell.read, &me, clock) {
            found = Some(Conflict { before: cell.read, was_write: false });
        }
        if let Some(more) = (cell.more as usize).checked_sub(1).and_then(|i| pool.get_mut(i)) {
            let hit = more.iter().find(|r| found.is_none() && Self::clash(r, &me, clock));
            found = found.or(hit.map(|r| Conflict { before: *r, was_write: false }));
            more.clear();
        }
        // Lanes of one warp that write different bytes of a piece leave the mark of the last; nothing false
        // follows.
        cell.write = me;
        cell.read = Access::default();
        found
    }

    #[inline]
    fn read(cell: &mut Cell, pool: &mut Vec<Vec<Access>>, me: Access, clock: &Clock) -> Option<Conflict> {
        let hit = Self::clash(&cell.write, &me, clock);
        let found = hit.then_some(Conflict { before: cell.write, was_write: true });
        // A reader that comes before this one in any case needs no mark of its own.
        let free = |r: &Access| !r.valid() || r.who == me.who || clock.knows(r);
        if free(&cell.read) {
            Self::mark(&mut cell.read, me);
            return found;
        }
        let more = (cell.more as usize).checked_sub(1).and_then(|i| pool.get_mut(i));
        match more.and_then(|m| m.iter_mut().find(|r| free(r))) {
            Some(r) => Self::mark(r, me),
            None => Self::join(&mut cell.more, pool, me),
        }
        found
    }

    /// A reader takes the place of one that it makes needless; lanes of one warp share a place.
    fn mark(r: &mut Access, me: Access) {
        if r.who != me.who || r.clock != me.clock || !r.valid() {
            *r = me;
            return;
        }
        let several = r.lane() != me.lane() || r.info & SEVERAL != 0;
        *r = me.on(me.bytes() | r.bytes());
        r.info |= if several { SEVERAL } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines and words that are looked at as a whole give what their halves would give separately.
    #[test]
    fn wholes_say_what_their_parts_say() {
        let mut seed = 1u64;
        let mut below = |n: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 20) % n
        };
        let (mut found, mut clean) = (0, 0);
        for _ in 0..2000 {
            let (mut whole, mut fine) = (Shadow::new(64), Shadow::new(64));
            let mut clocks: Vec<Clock> = (0..3)
                .map(|w| Clock { own: (0..3).map(|i| u32::from(i == w)).collect(), ..Clock::default() })
                .collect();
            for pc in 0..40 {
                match below(12) {
                    // A barrier, or that of one warp.
                    0 => {
                        let mut all = clocks[0].clone();
                        clocks.iter().for_each(|c| all.join(c));
                        for (w, clock) in clocks.iter_mut().enumerate() {
                            *clock = all.clone();
                            clock.own[w] += 1;
                        }
                    }
                    1 => {
                        let w = below(3) as usize;
                        clocks[w].own[w] += 1;
                    }
                    2 if below(8) == 0 => {
                        whole.clear();
                        fine.clear();
                    }
                    _ => {
                        let (w, size) = (below(3) as usize, 1 << below(5));
                        let at = below(64 / size) as usize * size as usize;
                        let mut me = Access::new(w as u32, clocks[w].own[w], below(4) as usize, pc);
                        if below(6) == 0 {
                            me = me.atomic(false);
                        }
                        let write = below(3) == 0;
                        let hit = whole.access(at, size as usize, me, &clocks[w], write);
                        let step = (size as usize).min(GRAIN);
                        let parts = (0..size as usize / step)
                            .map(|i| fine.access(at + i * step, step, me, &clocks[w], write))
                            .fold(None, |first, hit| first.or(hit));
                        let place = |c: &Conflict| (c.before.who, c.before.clock, c.before.pc(), c.was_write);
                        assert_eq!(hit.as_ref().map(place), parts.as_ref().map(place));
                        let last = |s: &Shadow, byte| s.last_write(byte).map(|a| (a.who, a.clock, a.pc()));
                        assert!((0..64).all(|byte| last(&whole, byte) == last(&fine, byte)));
                        *if hit.is_some() { &mut found } else { &mut clean } += 1;
                    }
                }
            }
        }
        assert!(found > 1000 && clean > 1000, "{found} {clean}");
    }
}
