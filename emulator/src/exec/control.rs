//! Where lanes go on: branches, ends, and the instructions that lanes have to reach together.

use crate::block::{Block, Run};
use crate::finding::Kind;
use crate::isa::{Instr, Op};
use crate::warp::{Group, Wait};

impl Block<'_> {
    /// Instructions that change where lanes stand, and those that lanes do together. Gives where this group
    /// goes on; nothing if the groups were changed.
    pub(crate) fn control(
        &mut self,
        w: usize,
        gi: usize,
        i: &Instr,
        m: u32,
        mask: u32,
        pc: u32,
    ) -> Run<Option<u32>> {
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
                        "only some lanes take a branch marked .uni".to_owned(),
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
                        let what =
                            format!("index {} is outside a jump table of {}", index[l] as u32, to.len());
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
            let what = format!("the member mask {members:08x} includes lanes {gone:08x}, which have ended");
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
}
