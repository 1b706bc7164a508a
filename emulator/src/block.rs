//! A block: its warps, its shared memory, and what was found in it.

use crate::exec::barrier::Bar;
use crate::exec::bulk::Stores;
use crate::exec::copy::Flight;
use crate::exec::mbarrier::Mbar;
use crate::finding::{Finding, Kind, Place};
use crate::isa::Kernel;
use crate::launch::{Options, Stats};
use crate::memory::Memory;
use crate::shadow::{Access, Clock, Shadow};
use crate::warp::{Scene, Warp};
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
    pub bars: Vec<Bar>,
    pub findings: Vec<Finding>,
    seen: HashSet<(u32, Kind)>,
    pub stats: Stats,
    /// Instructions that were counted for others before.
    pub began: u64,
    /// Things that others may wait for.
    pub events: u64,
    pub rng: u64,
    pub order: Vec<usize>,
    /// Events at the last turn, and instructions since the last event.
    pub last_events: u64,
    pub quiet: u64,
    pub idle_turns: u32,
}

impl<'a> Block<'a> {
    /// A place for blocks, one after another: `begin` says which.
    pub fn new(c: &'a Common<'a>) -> Block<'a> {
        let (s, k) = (c.scene, c.kernel);
        let threads: u32 = s.block.iter().product();
        let n = threads.div_ceil(32) as usize;
        let warp = |w: usize| Warp::new(k, w as u32, (threads - 32 * w as u32).min(32), n, s);
        let bytes = k.dynamic_at + s.dynamic;
        Block {
            c,
            id: [0; 3],
            number: 0,
            warps: (0..n).map(warp).collect(),
            shared: vec![0; bytes],
            state: vec![0; bytes],
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
            began: 0,
            events: 0,
            rng: 0,
            order: Vec::new(),
            last_events: 0,
            quiet: 0,
            idle_turns: 0,
        }
    }

    /// A block of the grid, from its start. What was counted for others stays; nothing else does.
    pub fn begin(&mut self, number: u32) {
        let (c, n) = (self.c, self.warps.len());
        let grid = c.scene.grid;
        self.number = number;
        self.id = [number % grid[0], number / grid[0] % grid[1], number / grid[0] / grid[1]];
        for warp in &mut self.warps {
            warp.begin(self.id, number.wrapping_mul(n as u32));
        }
        self.shared.fill(0xcd);
        self.state.fill(0);
        self.state[..c.kernel.dynamic_at].fill(2);
        for r in &c.kernel.shared {
            self.state[r.at..r.at + r.size].fill(0);
        }
        self.shadow.clear();
        self.flights = Flight::default();
        self.mbars.clear();
        self.handed.clear();
        self.stores = Stores::default();
        self.shown_to_engine.clear();
        self.bars.fill(Bar::default());
        self.findings.clear();
        self.seen.clear();
        self.began = self.stats.instructions;
        self.events = 0;
        self.rng = (c.options.seed ^ u64::from(number) << 32) | 1;
        self.order.clear();
        self.order.extend(0..n);
        self.last_events = u64::MAX;
        self.quiet = 0;
        self.idle_turns = 0;
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
}
