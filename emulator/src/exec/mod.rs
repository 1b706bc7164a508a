//! What instructions do.

mod access;
pub(crate) mod alu;
pub(crate) mod barrier;
pub(crate) mod bulk;
pub(crate) mod collective;
mod control;
pub(crate) mod copy;
pub(crate) mod matrix;
pub(crate) mod mbarrier;
mod memory;

use crate::block::{Block, Run};
use crate::isa::Op;

impl Block<'_> {
    /// Carries out an instruction that is more than arithmetic. False if it has to be asked for again later.
    pub(crate) fn act(&mut self, w: usize, op: &Op, m: u32, pc: u32) -> Run<bool> {
        match op {
            Op::Ld { .. } | Op::St { .. } | Op::Atom { .. } | Op::Fence { .. } => {
                self.memory(w, op, m, pc)?
            }
            Op::CpAsync { .. } | Op::CpCommit | Op::CpWait { .. } | Op::CpWaitAll => {
                self.copy(w, op, m, pc)?
            }
            Op::Mbarrier { f, a } => return self.mbarrier(w, f, *a, m, pc),
            Op::Bulk(b) => self.bulk(w, b, m, pc)?,
            Op::FenceProxy => self.fence_proxy(w),
            Op::Mma { .. } | Op::Ldmatrix { .. } | Op::Stmatrix { .. } => self.matrix(w, op, m, pc)?,
            Op::WgmmaFence | Op::WgmmaCommit | Op::WgmmaWait { .. } | Op::Wgmma(_) => {
                self.wgmma(w, op, m, pc)?
            }
            _ => self.collective(w, op, m, pc)?,
        }
        Ok(true)
    }
}
