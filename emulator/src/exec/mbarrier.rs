//! Mbarriers, and what the copy engine does before one of them is content.

use super::access::{Touch, space_of};
use super::matrix::swizzle;
use crate::block::{Block, Run};
use crate::finding::Kind;
use crate::isa::{Address, Mbarrier, Operand, SINK};
use crate::shadow::{Access, Clock};
use crate::tensor_map::TensorMap;

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

/// An mbarrier.
pub(crate) struct Mbar {
    at: u64,
    count: i64,
    pending: i64,
    bytes: i64,
    phase: u64,
    shown: Clock,
    next: Clock,
    pub(super) engine: Vec<Engine>,
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
    pub(super) fn mbar(&mut self, at: u64, place: (usize, usize, u32)) -> Run<usize> {
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
                format!("there is no initialised mbarrier at shared {at:#x}"),
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

    /// Somebody asks for an mbarrier that only waits for copies: does them, one after another, until it is
    /// content.
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
}
