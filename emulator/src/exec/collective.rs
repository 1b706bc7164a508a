//! What the lanes of a warp do together in registers.

use crate::block::{Block, Run};
use crate::finding::Kind;
use crate::isa::{Atomic, Op, SINK, Shuffle, Type, Vote};
use crate::number::signed;

impl Block<'_> {
    pub(crate) fn collective(&mut self, w: usize, op: &Op, m: u32, pc: u32) -> Run<()> {
        match op {
            Op::BarWarp { .. } => {
                self.warps[w].tick();
                self.events += 1;
            }
            Op::Shfl { f, d, p, a, b, c, .. } => {
                let (b, c) = (self.value(w, *b, m), self.value(w, *c, m));
                let given = *a;
                let values = self.warps[w].peek(given, self.c.kernel, self.c.scene);
                let mut out = [0; 32];
                let mut inside = 0u32;
                let mut sources = 0u32;
                for l in (0..32usize).filter(|l| m >> l & 1 == 1) {
                    // PTX ISA, "shfl.sync": the segment and the clamp are packed into c.
                    let (segment, clamp, b) =
                        ((c[l] >> 8 & 31) as i64, (c[l] & 31) as i64, (b[l] & 31) as i64);
                    let l = l as i64;
                    let (least, most) = (l & segment, l & segment | clamp & !segment);
                    let (from, ok) = match f {
                        Shuffle::Up => (l - b, l - b >= most),
                        Shuffle::Down => (l + b, l + b <= most),
                        Shuffle::Bfly => (l ^ b, l ^ b <= most),
                        Shuffle::Idx => (least | b & !segment, least | b & !segment <= most),
                    };
                    let ok = ok && (0..32).contains(&from);
                    let from = if ok { from } else { l } as usize;
                    let l = l as usize;
                    inside |= u32::from(ok) << l;
                    sources |= 1 << from;
                    if m >> from & 1 == 0 {
                        let what =
                            format!("lane {l} reads a value from lane {from}, which does not execute this");
                        self.note(Kind::InactiveLane, w, l, pc, what, None);
                    }
                    out[l] = values[from];
                }
                let _ = self.warps[w].read(given, sources & m, self.c.kernel, self.c.scene);
                self.warps[w].write(*d, m, &out);
                self.warps[w].set_pred(*p, m, inside);
            }
            Op::Vote { f, d, p, .. } => {
                let bits = self.warps[w].pred(*p) & m;
                let holds = match f {
                    Vote::Any => bits != 0,
                    Vote::All => bits == m,
                    Vote::Uni => bits == 0 || bits == m,
                    Vote::Ballot => {
                        self.warps[w].write(*d, m, &[bits.into(); 32]);
                        return Ok(());
                    }
                };
                self.warps[w].set_pred(*d, m, if holds { u32::MAX } else { 0 });
            }
            Op::Match { all, t, d, p, a, .. } => {
                let v = self.value(w, *a, m).map(|v| crate::number::masked(v, t.bits()));
                let same = |l: usize| {
                    (0..32).filter(|&o| m >> o & 1 == 1 && v[o] == v[l]).fold(0u32, |a, o| a | 1 << o)
                };
                let mut out: [u64; 32] = std::array::from_fn(|l| same(l).into());
                if *all {
                    let one = same(m.trailing_zeros().min(31) as usize) == m;
                    out = [if one { m.into() } else { 0 }; 32];
                    self.warps[w].set_pred(*p, m, if one { u32::MAX } else { 0 });
                }
                self.warps[w].write(*d, m, &out);
            }
            Op::Redux { f, t, d, a, .. } => {
                let v = self.value(w, *a, m);
                let lanes = (0..32).filter(|l| m >> l & 1 == 1).map(|l| v[l] as u32);
                let reduced = match (f, t) {
                    (Atomic::Add, _) => lanes.fold(0u32, u32::wrapping_add),
                    (Atomic::And, _) => lanes.fold(u32::MAX, |a, b| a & b),
                    (Atomic::Or, _) => lanes.fold(0, |a, b| a | b),
                    (Atomic::Xor, _) => lanes.fold(0, |a, b| a ^ b),
                    (Atomic::Min, Type::S(_)) => lanes.min_by_key(|&v| signed(v.into(), 32)).unwrap_or(0),
                    (Atomic::Min, _) => lanes.min().unwrap_or(0),
                    (_, Type::S(_)) => lanes.max_by_key(|&v| signed(v.into(), 32)).unwrap_or(0),
                    _ => lanes.max().unwrap_or(0),
                };
                self.warps[w].write(*d, m, &[reduced.into(); 32]);
            }
            Op::Elect { d, p, .. } => {
                let first = m.trailing_zeros();
                self.warps[w].write(*d, m, &[first.into(); 32]);
                if *p != SINK {
                    self.warps[w].set_pred(*p, m, 1 << first);
                }
            }
            Op::Activemask { d } => self.warps[w].write(*d, m, &[m.into(); 32]),
            _ => {}
        }
        Ok(())
    }
}
