//! A block: its warps, its shared memory, its barriers, and who runs when.

use crate::exec::alu;
use crate::exec::copy::{Flight, Mbar, Stores};
use crate::finding::{Finding, Kind, Place};
use crate::isa::{Instr, Kernel, Op, Operand, SINK, Vote};
use crate::launch::{Options, Stats};
use crate::memory::Memory;
use crate::shadow::{Access, Clock, Shadow};
use crate::warp::{Group, Scene, Wait, Warp};
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

/// What was handed on through one address.
#[derive(Default, Clone)]
pub(crate) struct Handed {
    /// To everybody.
    pub wide: Clock,
    /// To threads of one block only.
    pub near: Option<(u32, Clock)>,
}

/// What the blocks of a launch share.
pub(crate) struct Common<'a> {
    pub memory: &'a Memory,
    pub kernel: &'a Kernel,
    pub files: &'a [String],
    pub scene: &'a Scene,
    pub options: &'a Options,
    pub launch: u64,
    pub handed: Mutex<HashMap<u64, Handed>>,
}

/// The finding has been noted; the block cannot go on.
pub(crate) struct Stop;
pub(crate) type Run<T> = Result<T, Stop>;

#[derive(Clone, Default)]
struct Bar {
    arrived: u32,
    /// Threads that it waits for; 0 for all.
    count: u32,
    pcs: Vec<u32>,
    /// Of a reduction: lanes that held the predicate, and the register of each warp.
    held: u32,
    takers: Vec<(usize, u32, u32, Option<Vote>)>,
}

/// What a turn has brought.
#[derive(PartialEq, Clone, Copy)]
pub(crate) enum Turn {
    Done,
    Ran,
    /// Nobody could do anything.
    Stuck,
}

pub(crate) struct Block<'a> {
    pub c: &'a Common<'a>,
    pub id: [u32; 3],
    pub number: u32,
    pub warps: Vec<Warp>,
    pub shared: Vec<u8>,
    /// Of each byte: 0 not written, 1 written, 2 in a gap between arrays.
    pub state: Vec<u8>,
    pub shadow: Shadow,
    pub flights: Flight,
    pub mbars: Vec<Mbar>,
    pub handed: HashMap<u64, Handed>,
    pub stores: Stores,
    /// Of each warp, up to which clock its writes were shown to the copy engine and to wgmma.
    pub shown_to_engine: Vec<u32>,
    bars: Vec<Bar>,
    pub findings: Vec<Finding>,
    seen: HashSet<(u32, Kind)>,
    pub stats: Stats,
    /// Things that others may wait for.
    pub events: u64,
    rng: u64,
    order: Vec<usize>,
    /// Events at the last turn, and instructions since the last event.
    last_events: u64,
    quiet: u64,
    idle_turns: u32,
}

impl<'a> Block<'a> {
    pub fn new(c: &'a Common<'a>, id: [u32; 3]) -> Block<'a> {
        let (s, k) = (c.scene, c.kernel);
        let threads: u32 = s.block.iter().product();
        let n = threads.div_ceil(32) as usize;
        let number = id[0] + s.grid[0] * (id[1] + s.grid[1] * id[2]);
        let first = number.wrapping_mul(n as u32);
        let warp = |w: usize| Warp::new(k, w as u32, (threads - 32 * w as u32).min(32), n, id, first, s);
        let bytes = k.dynamic_at + s.dynamic;
        let mut state = vec![2; k.dynamic_at];
        for r in &k.shared {
            state[r.at..r.at + r.size].fill(0);
        }
        state.resize(bytes, 0);
        Block {
            c,
            id,
            number,
            warps: (0..n).map(warp).collect(),
            shared: vec![0xcd; bytes],
            state,
            shadow: Shadow::new(bytes),
            flights: Flight::default(),
            mbars: Vec::new(),
            handed: HashMap::new(),
            stores: Stores::default(),
            shown_to_engine: Vec::new(),
            bars: vec![Bar::default(); 16],
            findings: Vec::new(),
            seen: HashSet::new(),
            stats: Stats { mix: vec![0; k.code.len()], ..Stats::default() },
            events: 0,
            rng: (c.options.seed ^ u64::from(number) << 32) | 1,
            order: (0..n).collect(),
            last_events: u64::MAX,
            quiet: 0,
            idle_turns: 0,
        }
    }

    fn random(&mut self) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng
    }

    pub fn place(&self, w: usize, lane: usize, pc: u32) -> Place {
        self.place_of(self.id, (w * 32 + lane) as u32, pc)
    }

    fn place_of(&self, block: [u32; 3], thread: u32, pc: u32) -> Place {
        let i = self.c.kernel.code.get(pc as usize);
        let file = i.filter(|i| i.source > 0).and_then(|i| self.c.files.get(i.file as usize));
        Place {
            file: file.cloned().unwrap_or_default(),
            line: i.map_or(0, |i| i.source),
            called: i
                .and_then(|i| i.called)
                .and_then(|(f, line)| Some((self.c.files.get(f as usize)?.clone(), line))),
            ptx: i.map_or(0, |i| i.line),
            block,
            thread,
        }
    }

    /// Who did what is remembered.
    pub fn party(&self, a: &Access) -> Place {
        let n = self.warps.len() as u32;
        let (block, warp) = (a.who / n, a.who % n);
        let grid = self.c.scene.grid;
        let id = [block % grid[0], block / grid[0] % grid[1], block / grid[0] / grid[1]];
        self.place_of(id, warp * 32 + a.lane(), a.pc())
    }

    #[cold]
    pub fn note(&mut self, kind: Kind, w: usize, lane: usize, pc: u32, what: String, other: Option<Place>) {
        if self.seen.insert((pc, kind)) && self.findings.len() < 64 {
            let kernel = self.c.kernel.name.clone();
            let place = self.place(w, lane, pc);
            self.findings.push(Finding { kind, kernel, place, what, other });
        }
    }

    #[cold]
    pub fn stop<T>(&mut self, kind: Kind, w: usize, lane: usize, pc: u32, what: String) -> Run<T> {
        self.note(kind, w, lane, pc, what, None);
        Err(Stop)
    }

    /// The clocks of some warps become one: what each has done is known to all.
    pub fn meet(&mut self, warps: u32) {
        let of = |w: &usize| warps >> w & 1 == 1;
        let mut all: Option<Clock> = None;
        for w in (0..self.warps.len()).filter(of) {
            match &mut all {
                Some(all) => all.join(&self.warps[w].clock),
                None => all = Some(self.warps[w].clock.clone()),
            }
        }
        if let Some(all) = all {
            for w in (0..self.warps.len()).filter(of) {
                self.warps[w].clock = all.clone();
                self.warps[w].tick();
            }
        }
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
        let endless = self.stats.instructions > self.c.options.limit;
        if endless || self.quiet > self.c.options.patience {
            let w = self.order.iter().copied().find(|&w| self.warps[w].live != 0).unwrap_or(0);
            let g = self.warps[w].groups.first().copied();
            let (pc, lane) = g.map_or((0, 0), |g| (g.pc, g.mask.trailing_zeros() as usize));
            let what = match endless {
                true => format!("the block has run {} instructions", self.stats.instructions),
                false => format!("{} instructions of the block have changed nothing", self.quiet),
            };
            return self.stop(Kind::EndlessSpin, w, lane.min(31), pc, what);
        }
        self.idle_turns = if ran || !quiet { 0 } else { self.idle_turns + 1 };
        Ok(if self.idle_turns > 2 { Turn::Stuck } else { Turn::Ran })
    }

    /// Nobody can go on, and nobody else will change that: says why.
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
            self.note(Kind::Deadlock, 0, 0, 0, "nobody can go on".to_owned(), None);
            return Stop;
        };
        let other = waits.iter().find(|o| (o.0, o.2) != (w, pc)).map(|o| self.place(o.0, o.1, o.2));
        let op = &self.c.kernel.code[pc as usize].op;
        let barrier = matches!(op, Op::Bar { .. } | Op::BarRed { .. } | Op::BarWarp { .. });
        let (kind, what) = match wait {
            Wait::Lanes => {
                let what =
                    format!("lanes {mask:08x} of {:08x} came; the others never do", self.warps[w].live);
                (if barrier { Kind::Barrier } else { Kind::Divergence }, what)
            }
            Wait::Barrier(id) => (Kind::Deadlock, format!("barrier {id} waits for threads that never come")),
            _ => (Kind::Deadlock, "the mbarrier waits for arrivals or bytes that never come".to_owned()),
        };
        self.note(kind, w, lane, pc, what, other);
        Stop
    }

    /// Groups at one instruction become one; picks the next to run: the one that is furthest behind, which lets the
    /// others wait for it where the branches meet. Sometimes another, or lanes that wait for each other would not end.
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
            let what = "a register that nobody has given a value".to_owned();
            self.note(Kind::Uninitialised, w, lanes.trailing_zeros() as usize, pc, what, None);
        }
        if let Some((_, began)) = self.warps[w].busy_hit.take() {
            let other = Some(self.place(w, 0, began));
            let what = "an accumulator or fragment of a wgmma that has not been waited for".to_owned();
            self.note(Kind::AsyncInFlight, w, m.trailing_zeros() as usize, pc, what, other);
        }
    }

    /// Instructions that change where lanes stand, and those that lanes do together. Gives where this group goes on;
    /// nothing if the groups were changed.
    fn control(&mut self, w: usize, gi: usize, i: &Instr, m: u32, mask: u32, pc: u32) -> Run<Option<u32>> {
        let c = self.c;
        let lane = m.trailing_zeros() as usize;
        match &i.op {
            Op::Bra { to, uniform } => {
                if m == mask {
                    return Ok(Some(*to));
                }
                if *uniform {
                    self.note(
                        Kind::Divergence,
                        w,
                        lane,
                        pc,
                        "a uniform branch that only some lanes take".to_owned(),
                        None,
                    );
                }
                self.split(w, gi, pc + 1, &[(*to, m)]);
                Ok(None)
            }
            Op::Brx { to, i } => {
                let index = self.warps[w].read(*i, m, c.kernel, c.scene);
                let mut aims: Vec<(u32, u32)> = Vec::new();
                for l in (0..32).filter(|l| m >> l & 1 == 1) {
                    let Some(&aim) = to.get(index[l] as u32 as usize) else {
                        let what = format!("index {} of a jump table of {}", index[l] as u32, to.len());
                        return self.stop(Kind::OutOfBounds, w, l, pc, what);
                    };
                    match aims.iter_mut().find(|a| a.0 == aim) {
                        Some(a) => a.1 |= 1 << l,
                        None => aims.push((aim, 1 << l)),
                    }
                }
                self.split(w, gi, pc + 1, &aims);
                Ok(None)
            }
            Op::Ret => {
                self.exit(w, m, pc);
                self.events += 1;
                self.split(w, gi, pc + 1, &[]);
                self.warps[w].live &= !m;
                self.warps[w].groups.iter_mut().for_each(|g| g.mask &= !m);
                self.warps[w].groups.retain(|g| g.mask != 0);
                // Who waits for the lanes that are gone looks again.
                for g in self.warps[w].groups.iter_mut().filter(|g| g.wait == Wait::Lanes) {
                    g.wait = Wait::No;
                }
                self.release_bars();
                Ok(None)
            }
            Op::Trap { why } => self.stop(Kind::Trap, w, lane, pc, (*why).to_owned()),
            op => {
                if let Some(need) = self.needed(w, op, m, pc)
                    && m & need != need
                {
                    // These lanes wait for the others; the rest of the group goes on.
                    self.split(w, gi, pc + 1, &[(pc, m)]);
                    for g in &mut self.warps[w].groups {
                        if g.pc == pc && g.mask & m != 0 {
                            g.wait = Wait::Lanes;
                        }
                    }
                    self.meet_anywhere(w, op, need);
                    return Ok(None);
                }
                match op {
                    Op::Bar { id, count, sync } => {
                        self.arrive(w, gi, *id, *count, pc, lane, *sync)?;
                        self.release_bars();
                        Ok(None)
                    }
                    Op::BarRed { vote, d, id, count, p } => {
                        let bits = self.warps[w].pred(*p) & m;
                        let id = self.arrive(w, gi, *id, *count, pc, lane, true)?;
                        let bar = &mut self.bars[id];
                        bar.held += bits.count_ones();
                        bar.takers.push((w, *d, m, *vote));
                        self.release_bars();
                        Ok(None)
                    }
                    _ => Ok(self.act(w, op, m, pc)?.then_some(pc + 1).or_else(|| {
                        self.warps[w].polled = Some((pc, lane));
                        let g = &mut self.warps[w].groups[gi];
                        g.pc = pc + 1;
                        g.wait = Wait::Poll;
                        None
                    })),
                }
            }
        }
    }

    /// The lanes that go elsewhere; the rest of the group goes on behind.
    fn split(&mut self, w: usize, gi: usize, behind: u32, aims: &[(u32, u32)]) {
        let groups = &mut self.warps[w].groups;
        let mut rest = groups[gi].mask;
        for &(pc, mask) in aims {
            rest &= !mask;
            groups.push(Group { pc, mask, wait: Wait::No });
        }
        groups[gi] = Group { pc: behind, mask: rest, wait: Wait::No };
        if rest == 0 {
            groups.swap_remove(gi);
        }
    }

    /// Lanes that have to carry out an instruction together.
    fn needed(&mut self, w: usize, op: &Op, m: u32, pc: u32) -> Option<u32> {
        let live = self.warps[w].live;
        let mask = match op {
            Op::Shfl { mask, .. }
            | Op::Vote { mask, .. }
            | Op::BarWarp { mask }
            | Op::Match { mask, .. }
            | Op::Redux { mask, .. }
            | Op::Elect { mask, .. } => *mask,
            Op::Bar { .. }
            | Op::BarRed { .. }
            | Op::Ldmatrix { .. }
            | Op::Stmatrix { .. }
            | Op::Mma { .. }
            | Op::Wgmma(_)
            | Op::WgmmaFence
            | Op::WgmmaCommit
            | Op::WgmmaWait { .. } => return Some(live),
            _ => return None,
        };
        let lane = m.trailing_zeros() as usize;
        let members = self.warps[w].read(mask, m, self.c.kernel, self.c.scene)[lane] as u32;
        if members & m != m {
            let what = format!("lanes {:08x} are not in the member mask {members:08x}", m & !members);
            self.note(Kind::InactiveLane, w, (m & !members).trailing_zeros() as usize, pc, what, None);
        }
        let gone = members & self.warps[w].all & !live;
        if gone != 0 && !matches!(op, Op::BarWarp { .. }) {
            let what = format!("the member mask {members:08x} names lanes {gone:08x}, which have ended");
            self.note(Kind::InactiveLane, w, lane, pc, what, None);
        }
        Some(members & live)
    }

    /// `__syncwarp` may be reached at different places.
    fn meet_anywhere(&mut self, w: usize, op: &Op, need: u32) {
        if !matches!(op, Op::BarWarp { .. }) {
            return;
        }
        let code = &self.c.kernel.code;
        let waits = |g: &Group| g.wait == Wait::Lanes && matches!(code[g.pc as usize].op, Op::BarWarp { .. });
        let come = self.warps[w].groups.iter().filter(|g| waits(g)).fold(0, |all, g| all | g.mask);
        if come & need == need {
            for g in self.warps[w].groups.iter_mut().filter(|g| waits(g)) {
                g.pc += 1;
                g.wait = Wait::No;
            }
            self.warps[w].tick();
            self.events += 1;
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one instruction")]
    fn arrive(
        &mut self,
        w: usize,
        gi: usize,
        id: Operand,
        count: Option<Operand>,
        pc: u32,
        lane: usize,
        sync: bool,
    ) -> Run<usize> {
        let c = self.c;
        let one = |warp: &mut Warp, o: Operand| warp.read(o, 1 << lane, c.kernel, c.scene)[lane] as u32;
        let warp = &mut self.warps[w];
        let id = one(warp, id) as usize;
        let count = count.map_or(0, |o| one(warp, o));
        if id >= 16 || !count.is_multiple_of(32) {
            return self.stop(
                Kind::Barrier,
                w,
                lane,
                pc,
                format!("barrier {id} for {count} threads cannot be"),
            );
        }
        let bar = &mut self.bars[id];
        if bar.arrived != 0 && bar.count != count {
            let what = format!("barrier {id} is for {count} threads here and for {} elsewhere", bar.count);
            let other = bar.pcs.first().copied().map(|pc| self.place(bar_warp(self.bars[id].arrived), 0, pc));
            self.note(Kind::Barrier, w, lane, pc, what, other);
            return Err(Stop);
        }
        // Threads of a block that meet at different __syncthreads: the hardware lets them, and then the next one is off.
        if count == 0
            && let Some(&other) = self.bars[id].pcs.iter().find(|&&p| p != pc)
        {
            let at = self.place(bar_warp(self.bars[id].arrived), 0, other);
            let what = format!("warp {w} is at another barrier {id} than the rest of the block");
            self.note(Kind::Barrier, w, lane, pc, what, Some(at));
            return Err(Stop);
        }
        let bar = &mut self.bars[id];
        if bar.arrived >> w & 1 == 1 {
            return self.stop(Kind::Barrier, w, lane, pc, format!("warp {w} comes to barrier {id} twice"));
        }
        bar.arrived |= 1 << w;
        bar.count = count;
        bar.pcs.push(pc);
        let g = &mut self.warps[w].groups[gi];
        g.pc = pc + 1;
        if sync {
            g.wait = Wait::Barrier(id as u32);
        }
        self.events += 1;
        Ok(id)
    }

    /// Opens the barriers that everybody has come to.
    fn release_bars(&mut self) {
        let live = (0..self.warps.len()).filter(|&w| self.warps[w].live != 0).fold(0u32, |a, w| a | 1 << w);
        for id in 0..16 {
            let (arrived, count) = (self.bars[id].arrived, self.bars[id].count);
            let full = match count {
                0 => arrived & live == live,
                n => arrived.count_ones() * 32 >= n,
            };
            if arrived == 0 || !full {
                continue;
            }
            let bar = std::mem::take(&mut self.bars[id]);
            self.events += 1;
            self.meet(arrived);
            let threads: u32 = bar.takers.iter().map(|t| t.2.count_ones()).sum();
            for (w, d, m, vote) in bar.takers {
                match vote {
                    None => self.warps[w].write(d, m, &[bar.held.into(); 32]),
                    Some(v) if d != SINK => {
                        let holds = if v == Vote::Any { bar.held > 0 } else { bar.held == threads };
                        self.warps[w].set_pred(d, m, if holds { u32::MAX } else { 0 });
                    }
                    Some(_) => {}
                }
            }
            for w in 0..self.warps.len() {
                for g in &mut self.warps[w].groups {
                    if g.wait == Wait::Barrier(id as u32) {
                        g.wait = Wait::No;
                    }
                }
            }
        }
    }
}

fn bar_warp(arrived: u32) -> usize {
    (arrived.trailing_zeros() as usize).min(31)
}
