//! Loads, stores, atomics and fences.

use super::access::{Held, Touch, space_of};
use crate::block::{Block, Handed, Run};
use crate::isa::{Atomic, Op, Order, SINK, Space, Type};
use crate::number::{from_bf16, from_f16, masked, signed, to_bf16, to_f16};
use crate::warp::Lanes;

impl Block<'_> {
    pub(crate) fn memory(&mut self, w: usize, op: &Op, m: u32, pc: u32) -> Run<()> {
        let lanes = (0..32usize).filter(|l| m >> l & 1 == 1);
        let mut held = Held::default();
        match op {
            Op::Ld { space, t, d, a, order, .. } => {
                let at = self.addresses(w, *a, m);
                let (each, n) = (t.bytes(), t.bytes() * d.len());
                self.measure(*space, &at, m, n);
                let touch = if *order == Order::Weak { Touch::Read } else { Touch::Strong };
                // Up to 32 bytes of each lane; behind them is place to read a whole word.
                let mut all = [[0u8; 40]; 32];
                // A parameter is the same for all lanes.
                let one = *space == Space::Param && at.iter().all(|x| *x == at[0]);
                let least = m.trailing_zeros() as usize;
                for l in lanes.clone().filter(|l| !one || *l == least) {
                    let me = self.me(w, l, pc);
                    let place = &mut all[l];
                    // Of 32 bytes the hardware makes two, each aligned to what it is.
                    let put = |b: &mut [u8]| place[..n].copy_from_slice(b);
                    self.with_held(&mut held, (w, l, pc), *space, at[l], n, touch, me, put)?;
                    if *order != Order::Weak {
                        held.release();
                        self.take_over(w, at[l], *space, *order);
                    }
                }
                if one {
                    all = [all[least]; 32];
                }
                for (i, &r) in d.iter().enumerate() {
                    if r == SINK {
                        continue;
                    }
                    let wide = u32::from(self.c.kernel.registers[r as usize]);
                    let v = std::array::from_fn(|l| {
                        let word = all[l][i * each..].first_chunk().map_or(0, |w| u64::from_le_bytes(*w));
                        let v = masked(word, t.bits());
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
                        held.release();
                        self.hand_on(w, at[l], *space, *order, false);
                    }
                    self.with_held(&mut held, (w, l, pc), *space, at[l], n, touch, me, |b| {
                        for (place, v) in b.chunks_exact_mut(each).zip(&values) {
                            match each {
                                4 => place.copy_from_slice(&(v[l] as u32).to_le_bytes()),
                                2 => place.copy_from_slice(&(v[l] as u16).to_le_bytes()),
                                _ => place.copy_from_slice(&v[l].to_le_bytes()[..each]),
                            }
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
                let (mut places, mut count) = ([0u64; 32], 0);
                for l in (0..32).filter(|l| m >> l & 1 == 1) {
                    places[count] = at[l];
                    count += 1;
                }
                different(&mut places[..count], |_| self.stats.global_bytes += n as u64);
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
