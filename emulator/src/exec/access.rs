//! One access of a lane to memory of any space, and everything that can be wrong with it.

use crate::block::{Block, Run};
use crate::finding::Kind;
use crate::isa::{Address, Operand, Space};
use crate::memory::{BadAddress, Buffer, LOCAL, Memory, PAGE, PARAM, Page, SHARED};
use crate::shadow::Access;
use crate::warp::Lanes;
use std::sync::MutexGuard;

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

/// The page of global memory that the last lane used, still locked: mostly the next one uses it as well.
#[derive(Default)]
pub(crate) struct Held<'a>(Option<(u64, &'a Buffer, MutexGuard<'a, Page>)>);

impl<'a> Held<'a> {
    /// Buffer, offset in the page and page of an access that is aligned to its size.
    fn page(
        &mut self,
        memory: &'a Memory,
        at: u64,
        n: usize,
    ) -> Result<(&'a Buffer, usize, &mut Page), BadAddress> {
        let (number, off) = (at / PAGE as u64, at as usize % PAGE);
        let same = self.0.as_ref().is_some_and(|(held, b, _)| *held == number && b.holds(at, n));
        if !same {
            let (buffer, from) = memory.find(at, n)?;
            // Never two pages at once, or two blocks could wait for each other.
            self.release();
            self.0 = Some((number, buffer, buffer.page(from)));
        }
        match &mut self.0 {
            Some((_, buffer, page)) => Ok((buffer, off, page)),
            None => Err(BadAddress { kind: Kind::OutOfBounds, what: String::new() }),
        }
    }
    pub fn release(&mut self) {
        self.0 = None;
    }
}

impl<'a> Block<'a> {
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

    /// An access by a lane, now.
    pub(crate) fn me(&self, w: usize, lane: usize, pc: u32) -> Access {
        let warp = &self.warps[w];
        Access::new(warp.clock.first.wrapping_add(w as u32), warp.own_clock(), lane, pc)
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
        let me = match touch {
            Touch::Atomic(_) | Touch::Strong => me.atomic(false),
            _ => me,
        };
        let hit = self.shadow.access(at, n, me, &self.warps[w].clock, write);
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
        self.with_held(&mut Held::default(), place, space, address, n, touch, me, f)
    }

    /// The same for one of several lanes.
    #[allow(clippy::too_many_arguments, reason = "the parts of one access")]
    pub(crate) fn with_held(
        &mut self,
        held: &mut Held<'a>,
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
                let (buffer, off, page) = match held.page(memory, at, n) {
                    Ok(found) => found,
                    Err(e) => return self.stop(e.kind, w, lane, pc, format!("{n} bytes: {}", e.what)),
                };
                if write && buffer.read_only {
                    return self.stop(Kind::ReadOnly, w, lane, pc, memory.describe(at));
                }
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
                    let hole = page.hole(off..off + n);
                    unwritten = hole.map(|i| format!("global {}", memory.describe(at + (i - off) as u64)));
                }
                if write {
                    page.mark(off..off + n, true);
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
            self.note(Kind::Uninitialised, w, lane, pc, format!("{name} was never written"), None);
        }
        Ok(())
    }
}
