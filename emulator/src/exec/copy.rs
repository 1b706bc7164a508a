//! Asynchronous copies of threads (cp.async), and what is still under way. As every asynchronous operation,
//! they are done as late as the program allows, so that a missing wait shows.

use super::access::Touch;
use super::bulk::BulkStore;
use crate::block::{Block, Run};
use crate::finding::Kind;
use crate::isa::{Op, Space};
use crate::shadow::{Access, GRAIN};
use crate::warp::Copy;

/// Shared memory that asynchronous operations are using.
#[derive(Default)]
pub(crate) struct Flight {
    writes: Vec<Access>,
    reads: Vec<(u32, Access)>,
}

impl Flight {
    /// Who uses some of these bytes, if that is a conflict.
    pub fn hit(&self, at: usize, n: usize, write: bool) -> Option<Access> {
        let grains = at / GRAIN..(at + n).div_ceil(GRAIN);
        if !self.writes.is_empty()
            && let Some(found) = self.writes.get(grains.clone()).and_then(|w| w.iter().find(|a| a.valid()))
        {
            return Some(*found);
        }
        if !write || self.reads.is_empty() {
            return None;
        }
        self.reads.get(grains).and_then(|r| r.iter().find(|r| r.0 > 0)).map(|r| r.1)
    }
    pub fn write(&mut self, at: usize, n: usize, me: Option<Access>, size: usize) {
        self.writes.resize(size.div_ceil(GRAIN), Access::default());
        self.writes[at / GRAIN..(at + n).div_ceil(GRAIN)].fill(me.unwrap_or_default());
    }
    pub fn read(&mut self, at: usize, n: usize, me: Option<Access>, size: usize) {
        self.reads.resize(size.div_ceil(GRAIN), (0, Access::default()));
        for r in &mut self.reads[at / GRAIN..(at + n).div_ceil(GRAIN)] {
            match me {
                Some(me) => *r = (r.0 + 1, me),
                None => r.0 = r.0.saturating_sub(1),
            }
        }
    }
}

impl Block<'_> {
    pub(crate) fn copy(&mut self, w: usize, op: &Op, m: u32, pc: u32) -> Run<()> {
        match op {
            Op::CpAsync { to, from, bytes, size } => {
                let (to, from) = (self.addresses(w, *to, m), self.addresses(w, *from, m));
                let n = *bytes as usize;
                let taken = size.map(|o| self.value(w, o, m));
                self.measure(Space::Shared, &to, m, n);
                self.measure(Space::Global, &from, m, n);
                for l in (0..32).filter(|l| m >> l & 1 == 1) {
                    let place = (w, l, pc);
                    let taken = taken.map_or(n, |t| t[l] as u32 as usize);
                    if taken > n {
                        return self.stop(Kind::Invalid, w, l, pc, format!("{taken} of {n} bytes"));
                    }
                    if !to[l].is_multiple_of(n as u64) || (taken > 0 && !from[l].is_multiple_of(n as u64)) {
                        let what = format!("{n} bytes from {:#x} to {:#x}", from[l], to[l]);
                        return self.stop(Kind::Misaligned, w, l, pc, what);
                    }
                    let at = self.check_shared(to[l], n, place)?;
                    if let Err(e) = self.c.memory.find(from[l], taken).map(|_| ()) {
                        return self.stop(e.kind, w, l, pc, format!("{taken} bytes: {}", e.what));
                    }
                    let me = self.me(w, l, pc);
                    self.watch_shared(at, n, me, Touch::Write, place);
                    let size = self.shared.len();
                    self.flights.write(at, n, Some(me), size);
                    self.warps[w].copies.push(Copy {
                        to: to[l],
                        from: from[l],
                        bytes: n,
                        taken,
                        lane: l,
                        pc,
                    });
                }
            }
            Op::CpCommit => {
                let (mine, rest) =
                    std::mem::take(&mut self.warps[w].copies).into_iter().partition(|c| m >> c.lane & 1 == 1);
                self.warps[w].copies = rest;
                self.warps[w].groups_of_copies.push((m, mine));
            }
            Op::CpWait { left } => self.end_copies(w, m, Some(*left as usize))?,
            _ => self.end_copies(w, m, None)?,
        }
        Ok(())
    }

    /// Does the copies of some lanes, but for the newest groups; without a number also those of no group.
    pub(super) fn end_copies(&mut self, w: usize, m: u32, left: Option<usize>) -> Run<()> {
        let mut due = Vec::new();
        let warp = &mut self.warps[w];
        for l in (0..32).filter(|l| m >> l & 1 == 1) {
            let n = warp.groups_of_copies.iter().filter(|g| g.0 >> l & 1 == 1).count();
            let mut over = n.saturating_sub(left.unwrap_or(0));
            for g in warp.groups_of_copies.iter_mut().filter(|g| g.0 >> l & 1 == 1) {
                if over == 0 {
                    break;
                }
                over -= 1;
                g.0 &= !(1 << l);
            }
        }
        for (mask, copies) in &mut warp.groups_of_copies {
            let mask = *mask;
            due.extend(copies.extract_if(.., |c| m >> c.lane & 1 == 1 && mask >> c.lane & 1 == 0));
        }
        warp.groups_of_copies.retain(|g| g.0 != 0);
        if left.is_none() {
            due.extend(warp.copies.extract_if(.., |c| m >> c.lane & 1 == 1));
        }
        if !due.is_empty() {
            self.events += 1;
        }
        due.into_iter().try_for_each(|c| self.end_copy(w, c))
    }

    fn end_copy(&mut self, w: usize, c: Copy) -> Run<()> {
        let (place, at) = ((w, c.lane, c.pc), c.to as usize);
        let size = self.shared.len();
        self.flights.write(at, c.bytes, None, size);
        let me = self.me(w, c.lane, c.pc);
        let mut data = [0; 16];
        // Pieces of a size that is a power of two.
        let mut done = 0;
        while done < c.taken {
            let n = 1 << (c.taken - done).ilog2();
            let n = n.min(1 << (c.from + done as u64).trailing_zeros().min(4));
            self.with(place, Space::Global, c.from + done as u64, n, Touch::Read, me, |b| {
                data[done..done + n].copy_from_slice(b);
            })?;
            done += n;
        }
        self.watch_shared(at, c.bytes, me, Touch::Write, place);
        self.state[at..at + c.bytes].fill(1);
        self.shared[at..at + c.bytes].copy_from_slice(&data[..c.bytes]);
        Ok(())
    }

    /// Lanes end: nothing of theirs may be under way.
    pub(crate) fn exit(&mut self, w: usize, m: u32, pc: u32) {
        let warp = &self.warps[w];
        let grouped = warp.groups_of_copies.iter().flat_map(|g| &g.1);
        let left = warp.copies.iter().chain(grouped).find(|c| m >> c.lane & 1 == 1).cloned();
        if let Some(c) = left {
            let other = Some(self.place(w, c.lane, c.pc));
            self.note(
                Kind::PendingCopy,
                w,
                c.lane,
                pc,
                "the thread ends without waiting for its cp.async".to_owned(),
                other,
            );
        }
        let ours = |s: &&BulkStore| s.w == w && m >> s.lane & 1 == 1;
        let grouped = self.stores.groups.iter().flat_map(|g| &g.2);
        if let Some((lane, began)) = self.stores.open.iter().chain(grouped).find(ours).map(|s| (s.lane, s.pc))
        {
            let other = Some(self.place(w, lane, began));
            self.note(
                Kind::PendingCopy,
                w,
                lane,
                pc,
                "the thread ends without waiting for its bulk store".to_owned(),
                other,
            );
        }
        if let Some(began) = self.warps[w].products.first().map(|p| p.pc) {
            let other = Some(self.place(w, 0, began));
            self.note(
                Kind::PendingCopy,
                w,
                0,
                pc,
                "the warp ends without waiting for its wgmma".to_owned(),
                other,
            );
        }
    }
}
