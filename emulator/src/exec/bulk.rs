//! Copies of the copy engine (TMA): plain stretches and boxes of tensors.

use super::access::{Touch, space_of};
use super::matrix::swizzle;
use super::mbarrier::{Engine, Pending};
use crate::block::{Block, Run};
use crate::finding::Kind;
use crate::isa::{Bulk, Space};
use crate::shadow::Access;
use crate::tensor_map::TensorMap;

/// A store of the copy engine: what is read when.
pub(crate) struct BulkStore {
    pub w: usize,
    pub lane: usize,
    pub pc: u32,
    /// Stretches of shared memory, and where they go.
    parts: Vec<(usize, u64, usize)>,
}

#[derive(Default)]
pub(crate) struct Stores {
    pub open: Vec<BulkStore>,
    pub groups: Vec<(usize, usize, Vec<BulkStore>)>,
}

impl Block<'_> {
    pub(crate) fn fence_proxy(&mut self, w: usize) {
        let own = self.warps[w].clock.own.clone();
        self.shown_to_engine.resize(own.len(), 0);
        for (known, now) in self.shown_to_engine.iter_mut().zip(own) {
            *known = (*known).max(now);
        }
        self.warps[w].tick();
    }

    /// Bytes that the asynchronous proxy reads must have been shown to it.
    pub(crate) fn check_proxy(&mut self, at: usize, n: usize, place: (usize, usize, u32)) {
        let first = self.warps[0].clock.first;
        for byte in (at..at + n).step_by(16) {
            let Some(last) = self.shadow.last_write(byte).filter(|a| !a.is_async()) else { continue };
            let shown = self.shown_to_engine.get(last.who.wrapping_sub(first) as usize).copied().unwrap_or(0);
            if shown < last.clock {
                let other = Some(self.party(&last));
                let what = format!(
                    "shared {} was written without a fence.proxy.async before this reads it",
                    self.shared_name(byte)
                );
                self.note(Kind::MissingFence, place.0, place.1, place.2, what, other);
                return;
            }
        }
    }

    pub(super) fn fetch(
        &mut self,
        from: u64,
        bytes: usize,
        place: (usize, usize, u32),
        me: Access,
    ) -> Run<Vec<u8>> {
        let mut data = vec![0; bytes];
        for (i, chunk) in data.chunks_mut(16).enumerate() {
            let n = chunk.len();
            self.with(place, Space::Global, from + 16 * i as u64, n, Touch::Read, me, |b| {
                chunk.copy_from_slice(b)
            })?;
        }
        Ok(data)
    }

    pub(super) fn fetch_box(
        &mut self,
        map: &TensorMap,
        at: &[i64],
        place: (usize, usize, u32),
        me: Access,
    ) -> Run<Vec<u8>> {
        let mut data = Vec::with_capacity(map.box_bytes());
        for (address, inside) in map.rows(at) {
            for (k, &ok) in inside.iter().enumerate() {
                let mut element = [0; 8];
                if ok {
                    let from = address.wrapping_add_signed((k * map.element) as i64);
                    let n = map.element;
                    self.with(place, Space::Global, from, n, Touch::Read, me, |b| {
                        element[..n].copy_from_slice(b)
                    })?;
                }
                data.extend_from_slice(&element[..map.element]);
            }
        }
        Ok(data)
    }

    fn tensor_map(&mut self, address: u64, place: (usize, usize, u32)) -> Run<TensorMap> {
        let (space, at) = space_of(address);
        let bytes = match space {
            Space::Param => self.c.scene.params.get(at as usize..at as usize + 128).map(<[u8]>::to_vec),
            _ => self.c.memory.read(at, 128).ok(),
        };
        match bytes.as_deref().and_then(TensorMap::from_bytes).filter(|m| m.invalid().is_none()) {
            Some(map) => Ok(map),
            None => self.stop(
                Kind::Invalid,
                place.0,
                place.1,
                place.2,
                format!("there is no tensor map at {address:#x}"),
            ),
        }
    }

    pub(crate) fn bulk(&mut self, w: usize, b: &Bulk, m: u32, pc: u32) -> Run<()> {
        let lanes = (0..32usize).filter(|l| m >> l & 1 == 1);
        match b {
            Bulk::Load { to, from, bytes, barrier } => {
                let (to, from) = (self.addresses(w, *to, m), self.addresses(w, *from, m));
                let (bytes, barrier) = (self.value(w, *bytes, m), self.addresses(w, *barrier, m));
                for l in lanes {
                    let place = (w, l, pc);
                    let (n, to) = (bytes[l] as u32 as usize, space_of(to[l]).1);
                    if n % 16 != 0 || to % 16 != 0 || from[l] % 16 != 0 {
                        return self.stop(
                            Kind::Misaligned,
                            w,
                            l,
                            pc,
                            format!("{n} bytes from {:#x} to {to:#x}", from[l]),
                        );
                    }
                    let to = self.check_shared(to, n, place)?;
                    if let Err(e) = self.c.memory.find(from[l], n).map(|_| ()) {
                        return self.stop(e.kind, w, l, pc, e.what);
                    }
                    let what = Pending::Bulk { to, from: from[l], bytes: n };
                    self.begin_load(what, &[(to, n)], space_of(barrier[l]).1, place)?;
                }
            }
            Bulk::TensorLoad { to, map, at, barrier } => {
                let (to, map) = (self.addresses(w, *to, m), self.addresses(w, *map, m));
                let at: Vec<_> = at.iter().map(|&o| self.value(w, o, m)).collect();
                let barrier = self.addresses(w, *barrier, m);
                for l in lanes {
                    let place = (w, l, pc);
                    let map = self.tensor_map(map[l], place)?;
                    let (to, n) = (space_of(to[l]).1, map.box_bytes());
                    if to % map.alignment() != 0 || map.dims.len() != at.len() {
                        let what = format!(
                            "a box of {} dimensions to {to:#x}, which is no multiple of {}",
                            at.len(),
                            map.alignment()
                        );
                        return self.stop(Kind::Misaligned, w, l, pc, what);
                    }
                    let to = self.check_shared(to, n, place)?;
                    let at = at.iter().map(|a| i64::from(a[l] as i32)).collect();
                    let what = Pending::Tensor { to, map: Box::new(map), at };
                    self.begin_load(what, &[(to, n)], space_of(barrier[l]).1, place)?;
                }
            }
            Bulk::Store { to, from, bytes } => {
                let (to, from) = (self.addresses(w, *to, m), self.addresses(w, *from, m));
                let bytes = self.value(w, *bytes, m);
                for l in lanes {
                    let (n, from) = (bytes[l] as u32 as usize, space_of(from[l]).1);
                    if n % 16 != 0 || from % 16 != 0 || to[l] % 16 != 0 {
                        return self.stop(
                            Kind::Misaligned,
                            w,
                            l,
                            pc,
                            format!("{n} bytes from {from:#x} to {:#x}", to[l]),
                        );
                    }
                    let from = self.check_shared(from, n, (w, l, pc))?;
                    let parts = (0..n).step_by(16).map(|i| (from + i, to[l] + i as u64, 16)).collect();
                    self.begin_store(BulkStore { w, lane: l, pc, parts });
                }
            }
            Bulk::TensorStore { map, at, from } => {
                let (map, from) = (self.addresses(w, *map, m), self.addresses(w, *from, m));
                let at: Vec<_> = at.iter().map(|&o| self.value(w, o, m)).collect();
                for l in lanes {
                    let place = (w, l, pc);
                    let map = self.tensor_map(map[l], place)?;
                    let from = self.check_shared(space_of(from[l]).1, map.box_bytes(), place)?;
                    let at: Vec<i64> = at.iter().map(|a| i64::from(a[l] as i32)).collect();
                    let mut parts = Vec::new();
                    let mut byte = from;
                    for (address, inside) in map.rows(&at) {
                        for (k, ok) in inside.into_iter().enumerate() {
                            let to = address.wrapping_add_signed((k * map.element) as i64);
                            if ok {
                                parts.push((swizzle(byte as u64, map.swizzle) as usize, to, map.element));
                            }
                            byte += map.element;
                        }
                    }
                    self.begin_store(BulkStore { w, lane: l, pc, parts });
                }
            }
            Bulk::Commit => {
                for l in lanes {
                    let mine = self.stores.open.extract_if(.., |s| s.w == w && s.lane == l).collect();
                    self.stores.groups.push((w, l, mine));
                }
            }
            Bulk::Wait { left, .. } => {
                for l in lanes {
                    let n = self.stores.groups.iter().filter(|g| (g.0, g.1) == (w, l)).count();
                    let mut over = n.saturating_sub(*left as usize);
                    let mine = |g: &mut (usize, usize, Vec<BulkStore>)| {
                        let due = (g.0, g.1) == (w, l) && over > 0;
                        over -= due as usize;
                        due
                    };
                    let due: Vec<_> = self.stores.groups.extract_if(.., mine).flat_map(|g| g.2).collect();
                    due.into_iter().try_for_each(|s| self.end_store(s))?;
                }
            }
        }
        Ok(())
    }

    fn begin_load(
        &mut self,
        what: Pending,
        ranges: &[(usize, usize)],
        barrier: u64,
        place: (usize, usize, u32),
    ) -> Run<()> {
        let (w, lane, pc) = place;
        let i = self.mbar(barrier, place)?;
        let (me, clock) = (self.me(w, lane, pc), self.warps[w].clock.clone());
        let size = self.shared.len();
        for &(at, n) in ranges {
            self.watch_shared(at, n, me, Touch::Write, place);
            self.flights.write(at, n, Some(me), size);
        }
        self.mbars[i].engine.push(Engine { what, w, lane, pc, me, clock });
        self.warps[w].tick();
        Ok(())
    }

    fn begin_store(&mut self, s: BulkStore) {
        let place = (s.w, s.lane, s.pc);
        let me = self.me(s.w, s.lane, s.pc);
        let size = self.shared.len();
        for &(from, _, n) in &s.parts {
            self.watch_shared(from, n, me, Touch::Read, place);
            self.flights.read(from, n, Some(me), size);
        }
        for &(from, _, n) in &s.parts {
            self.check_proxy(from, n, place);
        }
        self.stores.open.push(s);
    }

    fn end_store(&mut self, s: BulkStore) -> Run<()> {
        let me = self.me(s.w, s.lane, s.pc);
        let size = self.shared.len();
        for (from, to, n) in s.parts {
            self.flights.read(from, n, None, size);
            let mut data = [0; 32];
            data[..n].copy_from_slice(&self.shared[from..from + n]);
            if self.state[from..from + n].contains(&0) {
                let what = format!("{} was never written", self.shared_name(from));
                self.note(Kind::Uninitialised, s.w, s.lane, s.pc, what, None);
            }
            self.with((s.w, s.lane, s.pc), Space::Global, to, n, Touch::Write, me, |b| {
                b.copy_from_slice(&data[..n])
            })?;
        }
        self.events += 1;
        Ok(())
    }
}
