//! Who touched a piece of memory last, and what is ordered before what.
//!
//! Clocks are kept for each warp (vector clocks as in FastTrack, Flanagan and Freund 2009). A clock goes up whenever the
//! warp releases something: at a barrier, `__syncwarp`, a fence.

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
    pub fn new(first: u32, warps: usize, me: usize) -> Clock {
        let mut own = vec![0; warps];
        own[me] = 1;
        Clock { first, own, foreign: HashMap::new() }
    }
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

/// A piece's last accesses.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cell {
    write: Access,
    read: Access,
    /// Further readers that are not ordered with the first: a place in the pool, plus one.
    more: u32,
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
    pub cells: Vec<Cell>,
    pool: Vec<Vec<Access>>,
}

impl Shadow {
    pub fn new(bytes: usize) -> Shadow {
        Shadow { cells: vec![Cell::default(); bytes.div_ceil(GRAIN)], pool: Vec::new() }
    }

    pub fn clear(&mut self) {
        self.cells.fill(Cell::default());
        self.pool.clear();
    }

    /// The last write to a byte's piece.
    pub fn last_write(&self, at: usize) -> Option<Access> {
        self.cells.get(at / GRAIN).map(|c| c.write).filter(Access::valid)
    }

    /// Notes an access to `size` bytes from `at` on; gives the first conflict.
    pub fn access(
        &mut self,
        at: usize,
        size: usize,
        me: Access,
        clock: &Clock,
        write: bool,
    ) -> Option<Conflict> {
        let mut found = None;
        let (first, end) = (at / GRAIN, at + size);
        let Some(cells) = self.cells.get_mut(first..end.div_ceil(GRAIN)) else { return None };
        for (i, cell) in cells.iter_mut().enumerate() {
            let start = (first + i) * GRAIN;
            let mask = (3 & 3 << at.saturating_sub(start)) & (3 >> (start + GRAIN).saturating_sub(end));
            let me = me.on(mask);
            // The same again: nothing new can be learnt.
            if !write && cell.read == me || write && cell.write == me && cell.read.info == 0 {
                continue;
            }
            let hit = if write {
                Self::write(cell, &mut self.pool, me, clock)
            } else {
                Self::read(cell, &mut self.pool, me, clock)
            };
            if found.is_none() {
                found = hit;
            }
        }
        found
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
        }
        let more = (cell.more as usize).checked_sub(1).and_then(|i| pool.get_mut(i));
        let readers = std::iter::once(&cell.read).chain(more.iter().flat_map(|m| m.iter()));
        for r in readers {
            if found.is_none() && Self::clash(r, &me, clock) {
                found = Some(Conflict { before: *r, was_write: false });
            }
        }
        if let Some(m) = more {
            m.clear();
        }
        // Lanes of one warp that write different bytes of a piece leave the mark of the last; nothing false follows.
        cell.write = me;
        cell.read = Access::default();
        found
    }

    #[inline]
    fn read(cell: &mut Cell, pool: &mut Vec<Vec<Access>>, me: Access, clock: &Clock) -> Option<Conflict> {
        let hit = Self::clash(&cell.write, &me, clock);
        let found = hit.then_some(Conflict { before: cell.write, was_write: true });
        let more = (cell.more as usize).checked_sub(1);
        let further = more.and_then(|i| pool.get_mut(i)).map(|m| m.iter_mut());
        let mut known = std::iter::once(&mut cell.read).chain(further.into_iter().flatten());
        // A reader that comes before this one in any case needs no mark of its own.
        let place = known.find(|r| !r.valid() || r.who == me.who || clock.knows(r));
        match place {
            Some(r) => {
                let several = r.valid()
                    && r.who == me.who
                    && r.clock == me.clock
                    && (r.lane() != me.lane() || r.info & SEVERAL != 0);
                let bytes = if r.who == me.who && r.clock == me.clock && r.valid() { r.bytes() } else { 0 };
                *r = me.on(me.bytes() | bytes);
                r.info |= if several { SEVERAL } else { 0 };
            }
            None => match more {
                Some(i) => pool[i].push(me),
                None => {
                    pool.push(vec![me]);
                    cell.more = pool.len() as u32;
                }
            },
        }
        found
    }
}
