//! Which warp runs when, which of its lanes go first, and what it means that nobody can.

use crate::block::{Block, Run, Stop};
use crate::exec::alu;
use crate::finding::Kind;
use crate::isa::{Instr, Op};
use crate::warp::{Group, Wait};

/// What a turn has brought.
#[derive(PartialEq, Clone, Copy)]
pub(crate) enum Turn {
    Done,
    Ran,
    /// Nobody could do anything.
    Stuck,
}

impl<'a> Block<'a> {
    fn random(&mut self) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng
    }

    /// Lets every warp run for a while.
    pub fn turn(&mut self) -> Run<Turn> {
        let seeded = self.c.options.seed != 0;
        if seeded {
            for i in (1..self.order.len()).rev() {
                let j = (self.random() % (i as u64 + 1)) as usize;
                self.order.swap(i, j);
            }
        }
        let before = self.stats.instructions;
        let mut alive = false;
        let mut ran = false;
        for j in 0..self.order.len() {
            let w = self.order[j];
            if self.warps[w].live == 0 {
                continue;
            }
            alive = true;
            let quantum = if seeded { 1 + self.random() % 64 } else { 4096 };
            ran |= self.step(w, quantum)?;
        }
        if !alive {
            return Ok(Turn::Done);
        }
        let quiet = self.events == self.last_events;
        self.last_events = self.events;
        self.quiet = if quiet { self.quiet + self.stats.instructions - before } else { 0 };
        let run = self.stats.instructions - self.began;
        let endless = run > self.c.options.limit;
        if endless || self.quiet > self.c.options.patience {
            let w = self.order.iter().copied().find(|&w| self.warps[w].live != 0).unwrap_or(0);
            let g = self.warps[w].groups.first().copied();
            let (pc, lane) = g.map_or((0, 0), |g| (g.pc, g.mask.trailing_zeros() as usize));
            let what = match endless {
                true => format!("the block has run {run} instructions without ending"),
                false => format!("{} instructions of the block changed nothing", self.quiet),
            };
            return self.stop(Kind::EndlessSpin, w, lane.min(31), pc, what);
        }
        self.idle_turns = if ran || !quiet { 0 } else { self.idle_turns + 1 };
        Ok(if self.idle_turns > 2 { Turn::Stuck } else { Turn::Ran })
    }

    /// The finding for a deadlock: no thread can continue.
    pub fn deadlock(&mut self) -> Stop {
        struct Waits(usize, usize, u32, Wait, u32);
        let mut waits = Vec::new();
        for (w, warp) in self.warps.iter().enumerate().filter(|w| w.1.live != 0) {
            for g in warp.groups.iter().filter(|g| g.wait != Wait::No) {
                // At a barrier the group stands behind it already.
                let pc = if matches!(g.wait, Wait::Barrier(_)) { g.pc - 1 } else { g.pc };
                waits.push(Waits(w, g.mask.trailing_zeros() as usize, pc, g.wait, g.mask));
            }
            waits.extend(warp.polled.map(|(pc, lane)| Waits(w, lane, pc, Wait::Poll, 0)));
        }
        // Rather lanes that others of their warp do not come to than those at a barrier or an mbarrier.
        let rank = |w: &Waits| [Wait::Lanes, Wait::Poll].iter().position(|k| *k == w.3).unwrap_or(2);
        waits.sort_by_key(rank);
        let Some(&Waits(w, lane, pc, wait, mask)) = waits.first() else {
            self.note(Kind::Deadlock, 0, 0, 0, "no thread can continue".to_owned(), None);
            return Stop;
        };
        let other = waits.iter().find(|o| (o.0, o.2) != (w, pc)).map(|o| self.place(o.0, o.1, o.2));
        let op = &self.c.kernel.code[pc as usize].op;
        let barrier = matches!(op, Op::Bar { .. } | Op::BarRed { .. } | Op::BarWarp { .. });
        let (kind, what) = match wait {
            Wait::Lanes => {
                let what = format!(
                    "lanes {mask:08x} of {:08x} arrived; the others never arrive",
                    self.warps[w].live
                );
                (if barrier { Kind::Barrier } else { Kind::Divergence }, what)
            }
            Wait::Barrier(id) => {
                (Kind::Deadlock, format!("barrier {id} waits for threads that never arrive"))
            }
            _ => (Kind::Deadlock, "the mbarrier waits for arrivals or bytes that never arrive".to_owned()),
        };
        self.note(kind, w, lane, pc, what, other);
        Stop
    }

    /// Groups at one instruction become one; picks the next to run: the one that is furthest behind, which
    /// lets the others wait for it where the branches meet. Sometimes another, or lanes that wait for each
    /// other would not end.
    fn pick(&mut self, w: usize) -> Option<usize> {
        let warp = &mut self.warps[w];
        let g = &mut warp.groups;
        if g.len() == 1 {
            return (g[0].wait == Wait::No).then_some(0);
        }
        let mut a = 0;
        while a < g.len() {
            let mut b = a + 1;
            while b < g.len() {
                let at_barrier = |g: &Group| matches!(g.wait, Wait::Barrier(_) | Wait::Poll);
                if g[a].pc == g[b].pc && !at_barrier(&g[a]) && !at_barrier(&g[b]) {
                    let other = g.swap_remove(b);
                    g[a].mask |= other.mask;
                    g[a].wait = Wait::No;
                } else {
                    b += 1;
                }
            }
            a += 1;
        }
        warp.turns += 1;
        let ready = (0..g.len()).filter(|&i| g[i].wait == Wait::No);
        if warp.turns % 512 == 511 { ready.max_by_key(|&i| g[i].pc) } else { ready.min_by_key(|&i| g[i].pc) }
    }

    /// Runs a warp; whether it got anywhere.
    fn step(&mut self, w: usize, quantum: u64) -> Run<bool> {
        let c = self.c;
        let code: &'a [Instr] = &c.kernel.code;
        let mut done = 0;
        'pick: while done < quantum {
            let Some(gi) = self.pick(w) else {
                let mut polled = false;
                for g in &mut self.warps[w].groups {
                    if g.wait == Wait::Poll {
                        g.wait = Wait::No;
                        polled = true;
                    }
                }
                // Only polls: that is no progress.
                return Ok(done > 0 && !polled);
            };
            let groups = &self.warps[w].groups;
            let Group { mut pc, mask, .. } = groups[gi];
            let alone = groups.len() == 1;
            // Another group stands further on: it is met there.
            let meet = groups.iter().map(|g| g.pc).filter(|&p| p > pc).min().unwrap_or(u32::MAX);
            let until = if alone { quantum } else { quantum.min(done + 256) };
            loop {
                if pc >= meet || done >= until {
                    self.warps[w].groups[gi].pc = pc;
                    continue 'pick;
                }
                let i = &code[pc as usize];
                done += 1;
                self.stats.instructions += 1;
                self.stats.mix[pc as usize] += 1;
                let m = match i.guard {
                    None => mask,
                    Some((p, negated)) => {
                        mask & (self.warps[w].preds[p as usize] ^ if negated { u32::MAX } else { 0 })
                    }
                };
                self.stats.lanes += u64::from(m.count_ones());
                if m == 0 {
                    pc += 1;
                    continue;
                }
                let warp = &mut self.warps[w];
                warp.ticks += 1;
                if alu::run(warp, c.kernel, c.scene, c.options.blur, &i.op, m) {
                    if warp.unready.is_some() || warp.busy_hit.is_some() {
                        self.complain(w, m, pc);
                    }
                    pc += 1;
                    continue;
                }
                self.warps[w].groups[gi].pc = pc;
                let next = self.control(w, gi, i, m, mask, pc)?;
                if self.warps[w].unready.is_some() || self.warps[w].busy_hit.is_some() {
                    self.complain(w, m, pc);
                }
                match next {
                    Some(next) if alone || next > pc => pc = next,
                    Some(next) => {
                        self.warps[w].groups[gi].pc = next;
                        continue 'pick;
                    }
                    None if self.warps[w].live == 0 => return Ok(true),
                    None => continue 'pick,
                }
            }
        }
        Ok(true)
    }

    #[cold]
    fn complain(&mut self, w: usize, m: u32, pc: u32) {
        if let Some((_, lanes)) = self.warps[w].unready.take() {
            let what = "a register without a value".to_owned();
            self.note(Kind::Uninitialised, w, lanes.trailing_zeros() as usize, pc, what, None);
        }
        if let Some((_, began)) = self.warps[w].busy_hit.take() {
            let other = Some(self.place(w, 0, began));
            let what = "an accumulator or fragment of a wgmma that is still running".to_owned();
            self.note(Kind::AsyncInFlight, w, m.trailing_zeros() as usize, pc, what, other);
        }
    }
}
