//! Loads, stores, atomics and fences.

use crate::block::{Block, Handed, Run};
use crate::finding::Kind;
use crate::isa::{Address, Atomic, Op, Operand, Order, SINK, Space, Type};
use crate::memory::{LOCAL, PARAM, SHARED};
use crate::number::{from_bf16, from_f16, masked, signed, to_bf16, to_f16};
use crate::shadow::Access;
use crate::warp::Lanes;

/// State space and offset of a generic address. Global addresses stay as they are.
pub(crate) fn space_of(address: u64) -> (Space, u64) {
    match address >> 36 << 36 {
        SHARED => (Space::Shared, address - SHARED),
        LOCAL => (Space::Local, address - LOCAL),
        PARAM => (Space::Param, address - PARAM),
        _ => (Space::Global, address),
    }
}

/// What is done to memory.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Touch {
    Read,
    Write,
    /// Read, changed and written as one, or a strong access; of the block only if so flagged.
    Atomic(bool),
    /// A strong load.
    Strong,
}

impl Touch {
    fn writes(self) -> bool {
        matches!(self, Touch::Write | Touch::Atomic(_))
    }
}

/// Up to 32 bytes of one lane.
pub(crate) type Bytes = [u8; 32];

impl Block<'_> {
    /// Addresses of all lanes.
    pub(crate) fn addresses(&mut self, w: usize, a: Address, m: u32) -> Lanes {
        let c = self.c;
        self.warps[w].read(a.base, m, c.kernel, c.scene).map(|v| v.wrapping_add_signed(a.offset))
    }

    /// A value of all lanes.
    pub(crate) fn value(&mut self, w: usize, o: Operand, m: u32) -> Lanes {
        let c = self.c;
        self.warps[w].read(o, m, c.kernel, c.scene)
    }

    /// Notes an access to shared memory, and what is wrong with it.
    pub(crate) fn watch_shared(
        &mut self,
        at: usize,
        n: usize,
        me: Access,
        touch: Touch,
        place: (usize, usize, u32),
    ) {
        let (w, lane, pc) = place;
        let write = touch.writes();
        if let Some(began) = self.flights.hit(at, n, write) {
            let other = Some(self.party(&began));
            let what =
                format!("shared bytes {} while an asynchronous operation uses them", self.shared_name(at));
            self.note(Kind::AsyncInFlight, w, lane, pc, what, other);
        }
        let clock = std::mem::take(&mut self.warps[w].clock);
        let me = match touch {
            Touch::Atomic(_) | Touch::Strong => me.atomic(false),
            _ => me,
        };
        let hit = self.shadow.access(at, n, me, &clock, write);
        self.warps[w].clock = clock;
        if let Some(hit) = hit {
            let other = Some(self.party(&hit.before));
            let (now, before) =
                (if write { "write" } else { "read" }, if hit.was_write { "write" } else { "read" });
            let what = format!("{now} of shared {} is not ordered after a {before}", self.shared_name(at));
            self.note(Kind::Race, w, lane, pc, what, other);
        }
    }

    pub(crate) fn shared_name(&self, at: usize) -> String {
        let found = self.c.kernel.shared.iter().find(|r| (r.at..r.at + r.size).contains(&at));
        match found {
            Some(r) => format!("{}+{}", r.name, at - r.at),
            None if at >= self.c.kernel.dynamic_at => format!("dynamic+{}", at - self.c.kernel.dynamic_at),
            None => format!("byte {at}"),
        }
    }

    /// Whether bytes of shared memory are there.
    pub(crate) fn check_shared(&mut self, at: u64, n: usize, place: (usize, usize, u32)) -> Run<usize> {
        let (w, lane, pc) = place;
        // Short addresses wrap as the hardware's do: a negative one shows as a large one.
        let end = at.saturating_add(n as u64);
        if end > self.shared.len() as u64 || self.state[at as usize..end as usize].contains(&2) {
            let near = self.c.kernel.shared.iter().rev().find(|r| r.at as u64 <= at);
            let near = match near {
                Some(r) if at < self.c.kernel.dynamic_at as u64 => {
                    format!("{} bytes into {}, which has {}", at - r.at as u64, r.name, r.size)
                }
                _ => format!(
                    "byte {} of dynamic shared memory, which has {}",
                    at as i64 - self.c.kernel.dynamic_at as i64,
                    self.c.scene.dynamic
                ),
            };
            return self.stop(Kind::OutOfBounds, w, lane, pc, format!("{n} bytes at shared {at:#x}: {near}"));
        }
        Ok(at as usize)
    }

    /// Gives a lane's bytes of memory to `f`, after all checks.
    #[allow(clippy::too_many_arguments, reason = "the parts of one access")]
    pub(crate) fn with(
        &mut self,
        place: (usize, usize, u32),
        space: Space,
        address: u64,
        n: usize,
        touch: Touch,
        me: Access,
        f: impl FnOnce(&mut [u8]),
    ) -> Run<()> {
        let (w, lane, pc) = place;
        let (space, at) = if space == Space::Generic { space_of(address) } else { (space, address) };
        if !at.is_multiple_of(n as u64) {
            return self.stop(Kind::Misaligned, w, lane, pc, format!("{n} bytes at {at:#x}"));
        }
        let write = touch.writes();
        let mut unwritten = None;
        match space {
            Space::Shared => {
                let at = self.check_shared(at, n, place)?;
                self.watch_shared(at, n, me, touch, place);
                if touch != Touch::Write {
                    unwritten =
                        self.state[at..at + n].iter().position(|&s| s == 0).map(|i| self.shared_name(at + i));
                }
                if write {
                    self.state[at..at + n].fill(1);
                }
                f(&mut self.shared[at..at + n]);
            }
            Space::Global | Space::Generic => {
                let memory = self.c.memory;
                let (buffer, from) = match memory.find(at, n) {
                    Ok(found) => found,
                    Err(e) => return self.stop(e.kind, w, lane, pc, format!("{n} bytes: {}", e.what)),
                };
                if write && buffer.read_only {
                    return self.stop(Kind::ReadOnly, w, lane, pc, memory.describe(at));
                }
                let mut page = buffer.page(from);
                let off = from % crate::memory::PAGE;
                if !buffer.read_only {
                    let me = match touch {
                        Touch::Atomic(block) => me.atomic(block),
                        Touch::Strong => me.atomic(false),
                        _ => me,
                    };
                    let hit = page.shadow(self.c.launch).access(off, n, me, &self.warps[w].clock, write);
                    if let Some(hit) = hit {
                        let other = Some(self.party(&hit.before));
                        let (now, before) = (
                            if write { "write" } else { "read" },
                            if hit.was_write { "write" } else { "read" },
                        );
                        let what = format!(
                            "{now} of global {} is not ordered after a {before}",
                            memory.describe(at)
                        );
                        self.note(Kind::Race, w, lane, pc, what, other);
                    }
                }
                if touch != Touch::Write {
                    let hole = page.written[off..off + n].iter().position(|&s| !s);
                    unwritten = hole.map(|i| format!("global {}", memory.describe(at + i as u64)));
                }
                if write {
                    page.written[off..off + n].fill(true);
                }
                f(&mut page.data[off..off + n]);
            }
            Space::Local => {
                let size = self.c.kernel.local_bytes;
                let inside = |r: &&crate::isa::Range| {
                    r.at as u64 <= at && at.saturating_add(n as u64) <= (r.at + r.size) as u64
                };
                if self.c.kernel.local.iter().find(inside).is_none() {
                    let near = self.c.kernel.local.iter().rev().find(|r| r.at as u64 <= at);
                    let near = near.map_or(String::new(), |r| {
                        format!(": {} bytes into {}, which has {}", at - r.at as u64, r.name, r.size)
                    });
                    return self.stop(
                        Kind::OutOfBounds,
                        w,
                        lane,
                        pc,
                        format!("{n} bytes of local memory at {at:#x}{near}"),
                    );
                }
                let at = lane * size + at as usize;
                let warp = &mut self.warps[w];
                if touch != Touch::Write && warp.local_written[at..at + n].contains(&false) {
                    unwritten = Some(format!("local {at:#x}"));
                }
                if write {
                    warp.local_written[at..at + n].fill(true);
                }
                f(&mut warp.local[at..at + n]);
            }
            Space::Frame => {
                let size = self.c.kernel.frame_bytes;
                if at.saturating_add(n as u64) > size as u64 {
                    return self.stop(Kind::OutOfBounds, w, lane, pc, format!("argument byte {at}"));
                }
                let at = lane * size + at as usize;
                f(&mut self.warps[w].frame[at..at + n]);
            }
            Space::Param => {
                let inside = |r: &crate::isa::Range| {
                    r.at as u64 <= at && at.saturating_add(n as u64) <= (r.at + r.size) as u64
                };
                if !self.c.kernel.params.iter().any(inside) {
                    return self.stop(
                        Kind::OutOfBounds,
                        w,
                        lane,
                        pc,
                        format!("{n} bytes of the parameters at {at}"),
                    );
                }
                if write {
                    return self.stop(Kind::ReadOnly, w, lane, pc, "a parameter".to_owned());
                }
                let mut copy = [0; 32];
                copy[..n].copy_from_slice(&self.c.scene.params[at as usize..at as usize + n]);
                f(&mut copy[..n]);
            }
        }
        if let Some(name) = unwritten {
            self.note(Kind::Uninitialised, w, lane, pc, format!("nobody has written {name}"), None);
        }
        Ok(())
    }

    /// An access by a lane, now.
    pub(crate) fn me(&self, w: usize, lane: usize, pc: u32) -> Access {
        let warp = &self.warps[w];
        Access::new(warp.clock.first.wrapping_add(w as u32), warp.own_clock(), lane, pc)
    }

    pub(crate) fn memory(&mut self, w: usize, op: &Op, m: u32, pc: u32) -> Run<()> {
        let lanes = (0..32usize).filter(|l| m >> l & 1 == 1);
        match op {
            Op::Ld { space, t, d, a, order, .. } => {
                let at = self.addresses(w, *a, m);
                let (each, n) = (t.bytes(), t.bytes() * d.len());
                self.measure(*space, &at, m, n);
                let touch = if *order == Order::Weak { Touch::Read } else { Touch::Strong };
                let mut all: [Bytes; 32] = [[0; 32]; 32];
                for l in lanes.clone() {
                    let me = self.me(w, l, pc);
                    let place = &mut all[l];
                    // Of 32 bytes the hardware makes two, each aligned to what it is.
                    self.with((w, l, pc), *space, at[l], n, touch, me, |b| place[..n].copy_from_slice(b))?;
                    if *order != Order::Weak {
                        self.take_over(w, at[l], *space, *order);
                    }
                }
                for (i, &r) in d.iter().enumerate() {
                    if r == SINK {
                        continue;
                    }
                    let wide = u32::from(self.c.kernel.registers[r as usize]);
                    let v = std::array::from_fn(|l| {
                        let mut word = [0; 8];
                        word[..each].copy_from_slice(&all[l][i * each..(i + 1) * each]);
                        let v = u64::from_le_bytes(word);
                        if t.signed() { masked(signed(v, t.bits()) as u64, wide) } else { v }
                    });
                    self.warps[w].write(r, m, &v);
                }
            }
            Op::St { space, t, s, a, order } => {
                let at = self.addresses(w, *a, m);
                let (each, n) = (t.bytes(), t.bytes() * s.len());
                self.measure(*space, &at, m, n);
                let values: Vec<Lanes> = s.iter().map(|&o| self.value(w, o, m)).collect();
                let touch = if *order == Order::Weak { Touch::Write } else { Touch::Atomic(false) };
                // Something has changed: nobody spins in vain.
                self.events += 1;
                for l in lanes.clone() {
                    let me = self.me(w, l, pc);
                    if *order != Order::Weak {
                        self.hand_on(w, at[l], *space, *order, false);
                    }
                    self.with((w, l, pc), *space, at[l], n, touch, me, |b| {
                        for (place, v) in b.chunks_exact_mut(each).zip(&values) {
                            place.copy_from_slice(&v[l].to_le_bytes()[..each]);
                        }
                    })?;
                }
            }
            Op::Atom { f, space, t, d, a, b, c, order, block } => {
                let at = self.addresses(w, *a, m);
                self.measure(*space, &at, m, t.bytes() * b.len());
                let given: Vec<Lanes> = b.iter().map(|&o| self.value(w, o, m)).collect();
                let swap = c.map(|o| self.value(w, o, m)).unwrap_or([0; 32]);
                let mut old = vec![[0u64; 32]; b.len()];
                let each = t.bytes();
                for l in lanes.clone() {
                    let me = self.me(w, l, pc);
                    self.hand_on(w, at[l], *space, *order, *block);
                    let mut changed = false;
                    for i in 0..b.len() {
                        let was = &mut old[i][l];
                        let address = at[l].wrapping_add((i * each) as u64);
                        self.with((w, l, pc), *space, address, each, Touch::Atomic(*block), me, |bytes| {
                            let mut word = [0; 8];
                            word[..each].copy_from_slice(bytes);
                            *was = u64::from_le_bytes(word);
                            let new = atomic(*f, *t, *was, given[i][l], swap[l]);
                            changed |= new != *was;
                            bytes.copy_from_slice(&new.to_le_bytes()[..each]);
                        })?;
                    }
                    self.events += u64::from(changed);
                    self.take_over(w, at[l], *space, *order);
                }
                for (&r, v) in d.iter().zip(&old) {
                    self.warps[w].write(r, m, v);
                }
            }
            Op::Fence { order, block } => {
                let warp = &mut self.warps[w];
                if order.releases() {
                    let clock = warp.clock.clone();
                    if !block {
                        warp.shown = clock;
                    }
                    warp.tick();
                }
                if order.acquires() {
                    let seen = warp.seen.clone();
                    warp.clock.join(&seen);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn key(&self, address: u64, space: Space) -> (bool, u64) {
        let (space, at) = if space == Space::Generic { space_of(address) } else { (space, address) };
        (space == Space::Shared, at)
    }

    /// What a fence has shown, or all with `.release`, goes to whoever reads this address.
    fn hand_on(&mut self, w: usize, address: u64, space: Space, order: Order, block: bool) {
        let (shared, at) = self.key(address, space);
        let number = self.number;
        let warp = &mut self.warps[w];
        let what = if order.releases() { warp.clock.clone() } else { warp.shown.clone() };
        let near = warp.clock.clone();
        let put = |handed: &mut Handed| {
            if !block {
                handed.wide = if handed.wide.own.is_empty() && handed.wide.foreign.is_empty() {
                    what.clone()
                } else {
                    let mut wide = handed.wide.clone();
                    wide.join(&what);
                    wide
                };
            } else if order.releases() {
                match &mut handed.near {
                    Some((n, clock)) if *n == number => clock.join(&near),
                    other => *other = Some((number, near.clone())),
                }
            }
        };
        if shared {
            put(self.handed.entry(at).or_default());
        } else {
            let mut all = self.c.handed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            put(all.entry(at).or_default());
        }
        if order.releases() {
            warp.tick();
        }
    }

    /// What others handed on through this address is known after the next fence, or now with `.acquire`.
    fn take_over(&mut self, w: usize, address: u64, space: Space, order: Order) {
        let (shared, at) = self.key(address, space);
        let found = if shared {
            self.handed.get(&at).cloned()
        } else {
            let all = self.c.handed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            all.get(&at).cloned()
        };
        let Some(handed) = found else { return };
        let number = self.number;
        let near = handed.near.filter(|n| n.0 == number).map(|n| n.1);
        let warp = &mut self.warps[w];
        let place = if order.acquires() { &mut warp.clock } else { &mut warp.seen };
        place.join(&handed.wide);
        if let Some(near) = near {
            place.join(&near);
        }
    }

    /// Counts bank conflicts and sectors of an access.
    pub(crate) fn measure(&mut self, space: Space, at: &Lanes, m: u32, n: usize) {
        let first = m.trailing_zeros().min(31) as usize;
        let space = if space == Space::Generic { space_of(at[first]).0 } else { space };
        match space {
            Space::Shared => {
                // 128 bytes at a time: lanes whose accesses are wide take turns.
                let together = (128 / n.max(4)).clamp(1, 32);
                for from in (0..32).step_by(together) {
                    let (mut words, mut count) = ([0u64; 128], 0);
                    for l in (from..from + together).filter(|l| m >> l & 1 == 1) {
                        for q in 0..n.div_ceil(4) as u64 {
                            words[count] = at[l] / 4 + q;
                            count += 1;
                        }
                    }
                    if count == 0 {
                        continue;
                    }
                    let mut banks = [0u64; 32];
                    different(&mut words[..count], |w| banks[(w % 32) as usize] += 1);
                    self.stats.shared_requests += 1;
                    self.stats.shared_wavefronts += banks.iter().max().copied().unwrap_or(0);
                }
            }
            Space::Global => {
                let (mut sectors, mut count) = ([0u64; 64], 0);
                for l in (0..32).filter(|l| m >> l & 1 == 1) {
                    sectors[count] = at[l] / 32;
                    sectors[count + 1] = at[l].saturating_add(n.max(1) as u64 - 1) / 32;
                    count += 2;
                }
                self.stats.global_requests += 1;
                different(&mut sectors[..count], |_| self.stats.global_sectors += 1);
            }
            _ => {}
        }
    }
}

/// Tells each value once. Lanes mostly go up, so that there is little to sort.
fn different(values: &mut [u64], mut tell: impl FnMut(u64)) {
    if !values.is_sorted() {
        values.sort_unstable();
    }
    let mut last = None;
    for &v in &*values {
        if last != Some(v) {
            tell(v);
            last = Some(v);
        }
    }
}

fn atomic(f: Atomic, t: Type, old: u64, b: u64, c: u64) -> u64 {
    let bits = t.bits();
    let float = |shift: u32, bf: bool| {
        let of = |x: u64| {
            let h = (x >> shift) as u16;
            f64::from(if bf { from_bf16(h) } else { from_f16(h) })
        };
        let sum = of(old) + of(b);
        let near = crate::isa::Round::Near;
        u64::from(if bf { to_bf16(sum, near) } else { to_f16(sum, near) }) << shift
    };
    let new = match (f, t) {
        (Atomic::Add, Type::F32) => {
            u64::from((f32::from_bits(old as u32) + f32::from_bits(b as u32)).to_bits())
        }
        (Atomic::Add, Type::F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (Atomic::Add, Type::F16 | Type::Bf16) => float(0, t == Type::Bf16),
        (Atomic::Add, Type::F16x2 | Type::Bf16x2) => {
            float(0, t == Type::Bf16x2) | float(16, t == Type::Bf16x2)
        }
        (Atomic::Add, _) => old.wrapping_add(b),
        (Atomic::Min | Atomic::Max, _) => {
            let less = match t.signed() {
                true => signed(b, bits) < signed(old, bits),
                false => masked(b, bits) < masked(old, bits),
            };
            if less == (f == Atomic::Min) { b } else { old }
        }
        (Atomic::And, _) => old & b,
        (Atomic::Or, _) => old | b,
        (Atomic::Xor, _) => old ^ b,
        (Atomic::Exch, _) => b,
        (Atomic::Cas, _) => {
            if masked(old, bits) == masked(b, bits) {
                c
            } else {
                old
            }
        }
        (Atomic::Inc, _) => {
            if masked(old, bits) >= masked(b, bits) {
                0
            } else {
                old + 1
            }
        }
        (Atomic::Dec, _) => {
            if old == 0 || masked(old, bits) > masked(b, bits) {
                b
            } else {
                old - 1
            }
        }
    };
    masked(new, bits)
}
