//! Asynchronous copies and mbarriers. Every copy is done as late as the program allows, so that a missing wait shows.

use super::matrix::swizzle;
use super::memory::{Touch, space_of};
use crate::block::{Block, Run};
use crate::finding::Kind;
use crate::isa::{Address, Bulk, Mbarrier, Op, Operand, SINK, Space};
use crate::shadow::{Access, Clock, GRAIN};
use crate::tensor_map::TensorMap;
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

/// A copy of the hardware's copy engine.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    Bulk {
        to: usize,
        from: u64,
        bytes: usize,
    },
    Tensor {
        to: usize,
        map: Box<TensorMap>,
        at: Vec<i64>,
    },
    /// An arrival that follows a lane's cp.async.
    Arrival,
}

#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub what: Pending,
    pub w: usize,
    pub lane: usize,
    pub pc: u32,
    pub me: Access,
    pub clock: Clock,
}

/// A store of the copy engine: what is read when.
pub(crate) struct BulkStore {
    w: usize,
    lane: usize,
    pc: u32,
    /// Stretches of shared memory, and where they go.
    parts: Vec<(usize, u64, usize)>,
}

#[derive(Default)]
pub(crate) struct Stores {
    open: Vec<BulkStore>,
    groups: Vec<(usize, usize, Vec<BulkStore>)>,
}

/// An mbarrier.
pub(crate) struct Mbar {
    at: u64,
    count: i64,
    pending: i64,
    bytes: i64,
    phase: u64,
    shown: Clock,
    next: Clock,
    engine: Vec<Engine>,
}

impl Mbar {
    /// Ends the phase if nothing is missing.
    fn settle(&mut self) -> bool {
        if self.pending != 0 || self.bytes != 0 {
            return false;
        }
        self.phase += 1;
        self.pending = self.count;
        self.shown = std::mem::replace(&mut self.next, Clock { first: self.shown.first, ..Clock::default() });
        true
    }
    fn learn(&mut self, clock: &Clock) {
        if self.next.own.is_empty() {
            self.next.own = vec![0; clock.own.len()];
            self.next.first = clock.first;
        }
        self.next.join(clock);
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
    fn end_copies(&mut self, w: usize, m: u32, left: Option<usize>) -> Run<()> {
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

    fn mbar(&mut self, at: u64, place: (usize, usize, u32)) -> Run<usize> {
        let (w, lane, pc) = place;
        match self.mbars.iter().position(|b| b.at == at) {
            Some(i) => {
                let me = self.me(w, lane, pc);
                self.watch_shared(at as usize, 8, me, Touch::Strong, place);
                Ok(i)
            }
            None => self.stop(
                Kind::Mbarrier,
                w,
                lane,
                pc,
                format!("no mbarrier was initialised at shared {at:#x}"),
            ),
        }
    }

    pub(crate) fn mbarrier(&mut self, w: usize, f: &Mbarrier, a: Address, m: u32, pc: u32) -> Run<bool> {
        let at = self.addresses(w, a, m).map(|a| space_of(a).1);
        let one = |b: &mut Self, o: Operand| b.value(w, o, m);
        let given = match f {
            Mbarrier::Init { count } | Mbarrier::Arrive { count, .. } => one(self, *count),
            Mbarrier::ArriveExpect { bytes, .. } | Mbarrier::Expect { bytes } => one(self, *bytes),
            Mbarrier::Wait { phase, .. } => one(self, *phase),
            _ => [0; 32],
        };
        let (mut ready, mut states) = (0u32, [0; 32]);
        for l in (0..32usize).filter(|l| m >> l & 1 == 1) {
            let place = (w, l, pc);
            if let Mbarrier::Init { .. } = f {
                self.mbar_init(at[l], given[l] as u32, place)?;
                continue;
            }
            let i = self.mbar(at[l], place)?;
            let clock = self.warps[w].clock.clone();
            let b = &mut self.mbars[i];
            states[l] = b.phase;
            match f {
                Mbarrier::Inval => {
                    self.mbars.swap_remove(i);
                }
                Mbarrier::Expect { .. } => b.bytes += i64::from(given[l] as u32),
                Mbarrier::Arrive { .. } | Mbarrier::ArriveExpect { .. } => {
                    let (mut n, mut bytes) = (i64::from(given[l] as u32), 0);
                    if let Mbarrier::ArriveExpect { .. } = f {
                        (n, bytes) = (1, n);
                    }
                    if let Mbarrier::Arrive { drop: true, .. } = f {
                        b.count -= n;
                    }
                    b.bytes += bytes;
                    b.pending -= n;
                    b.learn(&clock);
                    if b.pending < 0 {
                        let what = format!("{} arrivals more than the {} it waits for", -b.pending, b.count);
                        return self.stop(Kind::Mbarrier, w, l, pc, what);
                    }
                    b.settle();
                    self.events += 1;
                    self.warps[w].tick();
                }
                Mbarrier::CopyArrive { expected } => {
                    b.pending += i64::from(!expected);
                    let me = self.me(w, l, pc);
                    self.mbars[i].engine.push(Engine { what: Pending::Arrival, w, lane: l, pc, me, clock });
                }
                Mbarrier::Wait { parity, .. } => {
                    let over =
                        |b: &Mbar| if *parity { b.phase & 1 != given[l] & 1 } else { b.phase > given[l] };
                    if !over(b) {
                        self.run_engine(i)?;
                    }
                    let b = &self.mbars[i];
                    if over(b) {
                        ready |= 1 << l;
                        let shown = b.shown.clone();
                        self.warps[w].clock.join(&shown);
                    }
                }
                Mbarrier::Init { .. } => {}
            }
        }
        match f {
            Mbarrier::Wait { d, .. } => {
                self.warps[w].set_pred(*d, m, ready);
                self.warps[w].polled = None;
                return Ok(ready & m == m);
            }
            Mbarrier::Arrive { d, .. } | Mbarrier::ArriveExpect { d, .. } if *d != SINK => {
                self.warps[w].write(*d, m, &states)
            }
            _ => {}
        }
        Ok(true)
    }

    fn mbar_init(&mut self, at: u64, count: u32, place: (usize, usize, u32)) -> Run<()> {
        let (w, lane, pc) = place;
        let byte = self.check_shared(at, 8, place)?;
        if !at.is_multiple_of(8) {
            return self.stop(Kind::Misaligned, w, lane, pc, format!("an mbarrier at shared {at:#x}"));
        }
        if count == 0 || count >= 1 << 20 {
            return self.stop(Kind::Mbarrier, w, lane, pc, format!("an mbarrier for {count} arrivals"));
        }
        let me = self.me(w, lane, pc);
        self.watch_shared(byte, 8, me, Touch::Write, place);
        self.state[byte..byte + 8].fill(1);
        self.mbars.retain(|b| b.at != at);
        let count = count.into();
        let (shown, next) = (Clock::default(), Clock::default());
        self.mbars.push(Mbar {
            at,
            count,
            pending: count,
            bytes: 0,
            phase: 0,
            shown,
            next,
            engine: Vec::new(),
        });
        self.events += 1;
        Ok(())
    }

    /// Somebody asks for an mbarrier that only waits for copies: does them, one after another, until it is content.
    fn run_engine(&mut self, i: usize) -> Run<()> {
        let phase = self.mbars[i].phase;
        let arrivals = self.mbars[i].engine.iter().filter(|e| matches!(e.what, Pending::Arrival)).count();
        if self.mbars[i].pending > arrivals as i64 {
            return Ok(());
        }
        while self.mbars[i].phase == phase && !self.mbars[i].engine.is_empty() {
            let e = self.mbars[i].engine.remove(0);
            let mut clock = e.clock.clone();
            let mut moved = 0;
            match e.what {
                Pending::Arrival => {
                    self.end_copies(e.w, 1 << e.lane, None)?;
                    clock.join(&self.warps[e.w].clock.clone());
                    self.mbars[i].pending -= 1;
                    self.warps[e.w].tick();
                }
                Pending::Bulk { to, from, bytes } => {
                    let data = self.fetch(from, bytes, (e.w, e.lane, e.pc), e.me)?;
                    self.land(to, &data, e.me);
                    moved = bytes;
                }
                Pending::Tensor { to, ref map, ref at } => {
                    let data = self.fetch_box(map, at, (e.w, e.lane, e.pc), e.me)?;
                    for (j, chunk) in data.chunks(map.element).enumerate() {
                        let place = swizzle((to + j * map.element) as u64, map.swizzle) as usize;
                        self.land(place, chunk, e.me);
                    }
                    moved = data.len();
                }
            }
            let b = &mut self.mbars[i];
            b.bytes -= moved as i64;
            b.learn(&clock);
            b.settle();
            self.events += 1;
        }
        Ok(())
    }

    /// Bytes that the engine has brought.
    fn land(&mut self, at: usize, data: &[u8], me: Access) {
        let size = self.shared.len();
        self.flights.write(at, data.len(), None, size);
        self.state[at..at + data.len()].fill(1);
        self.shared[at..at + data.len()].copy_from_slice(data);
        let clock = self.warps[0].clock.clone();
        // It was checked when it began; here only the mark is left.
        self.shadow.access(at, data.len(), me.in_async(), &clock, true);
    }

    fn fetch(&mut self, from: u64, bytes: usize, place: (usize, usize, u32), me: Access) -> Run<Vec<u8>> {
        let mut data = vec![0; bytes];
        for (i, chunk) in data.chunks_mut(16).enumerate() {
            let n = chunk.len();
            self.with(place, Space::Global, from + 16 * i as u64, n, Touch::Read, me, |b| {
                chunk.copy_from_slice(b)
            })?;
        }
        Ok(data)
    }

    fn fetch_box(
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
                format!("no tensor map is at {address:#x}"),
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
                    self.begin(what, &[(to, n)], space_of(barrier[l]).1, place)?;
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
                    self.begin(what, &[(to, n)], space_of(barrier[l]).1, place)?;
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

    fn begin(
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
                let what = format!("nobody has written {}", self.shared_name(from));
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
