//! Barriers of a block.

use crate::block::{Block, Run, Stop};
use crate::finding::Kind;
use crate::isa::{Operand, SINK, Vote};
use crate::warp::{Wait, Warp};

#[derive(Clone, Default)]
pub(crate) struct Bar {
    arrived: u32,
    /// Threads that it waits for; 0 for all.
    count: u32,
    pcs: Vec<u32>,
    /// Of a reduction: lanes that held the predicate, and the register of each warp.
    pub(super) held: u32,
    pub(super) takers: Vec<(usize, u32, u32, Option<Vote>)>,
}

impl Block<'_> {
    #[allow(clippy::too_many_arguments, reason = "the parts of one instruction")]
    pub(super) fn arrive(
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
                format!(
                    "barrier {id} for {count} threads is not valid: ids are below 16, counts multiples of 32"
                ),
            );
        }
        let bar = &mut self.bars[id];
        if bar.arrived != 0 && bar.count != count {
            let what = format!("barrier {id} has {count} threads here and {} at another place", bar.count);
            let other = bar.pcs.first().copied().map(|pc| self.place(bar_warp(self.bars[id].arrived), 0, pc));
            self.note(Kind::Barrier, w, lane, pc, what, other);
            return Err(Stop);
        }
        // Threads of a block that meet at different __syncthreads: the hardware lets them, and then the next
        // one is off.
        if count == 0
            && let Some(&other) = self.bars[id].pcs.iter().find(|&&p| p != pc)
        {
            let at = self.place(bar_warp(self.bars[id].arrived), 0, other);
            let what =
                format!("warp {w} waits at another barrier {id} instruction than the rest of the block");
            self.note(Kind::Barrier, w, lane, pc, what, Some(at));
            return Err(Stop);
        }
        let bar = &mut self.bars[id];
        if bar.arrived >> w & 1 == 1 {
            return self.stop(Kind::Barrier, w, lane, pc, format!("warp {w} arrives at barrier {id} twice"));
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
    pub(super) fn release_bars(&mut self) {
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
