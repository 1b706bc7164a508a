//! 32 lanes: their registers, and where they stand in the program.

use crate::exec::matrix::Product;
use crate::isa::{Kernel, Operand, SINK, Special};
use crate::memory::variable;
use crate::shadow::Clock;

/// A value of each lane.
pub(crate) type Lanes = [u64; 32];

/// What a launch gives to all threads.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic: usize,
    pub params: Vec<u8>,
    /// Addresses of the module's variables.
    pub variables: Vec<u64>,
}

/// Why lanes do not go on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Wait {
    No,
    /// For lanes that have to come to the same instruction.
    Lanes,
    /// At a barrier of the block.
    Barrier(u32),
    /// An mbarrier was not ready; asks again when others had their turn.
    Poll,
}

/// Lanes that stand at one instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub pc: u32,
    pub mask: u32,
    pub wait: Wait,
}

/// A copy that was begun: to shared memory from global.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub to: u64,
    pub from: u64,
    pub bytes: usize,
    /// How many of the bytes are taken; the others become zero.
    pub taken: usize,
    pub lane: usize,
    pub pc: u32,
}

pub(crate) struct Warp {
    pub regs: Vec<Lanes>,
    /// Lanes whose value somebody wrote.
    pub written: Vec<u32>,
    pub preds: Vec<u32>,
    pub carry: u32,
    pub groups: Vec<Group>,
    pub live: u32,
    /// Lanes that there are.
    pub all: u32,
    pub number: u32,
    pub ids: [Lanes; 3],
    pub block: [u32; 3],
    pub ticks: u64,
    pub local: Vec<u8>,
    pub local_written: Vec<bool>,
    pub frame: Vec<u8>,
    pub clock: Clock,
    /// What a fence has shown, which a later atomic hands on.
    pub shown: Clock,
    /// What atomics have seen, which a later fence takes in.
    pub seen: Clock,
    /// Copies that are not in a group yet, and groups.
    pub copies: Vec<Copy>,
    pub groups_of_copies: Vec<(u32, Vec<Copy>)>,
    /// Registers that an asynchronous product uses, with the instruction that began it.
    pub busy: Vec<(u32, u32)>,
    /// A register that was read before anybody wrote it, and the lanes.
    pub unready: Option<(u32, u32)>,
    /// A register in use by an asynchronous product.
    pub busy_hit: Option<(u32, u32)>,
    /// When each register was written, and when the last wgmma.fence was.
    pub touched: Vec<u64>,
    pub fenced: u64,
    /// Products under way, and how many groups of them there were.
    pub products: Vec<Product>,
    pub product_groups: u32,
    /// Where it last asked for an mbarrier in vain.
    pub polled: Option<(u32, usize)>,
    /// Instructions since the groups were last looked at for fairness.
    pub turns: u32,
}

impl Warp {
    pub fn new(k: &Kernel, number: u32, count: u32, warps: usize, s: &Scene) -> Warp {
        let all = if count >= 32 { u32::MAX } else { (1 << count) - 1 };
        let id = |lane: usize, axis: usize| {
            let t = number * 32 + lane as u32;
            u64::from([t % s.block[0], t / s.block[0] % s.block[1], t / s.block[0] / s.block[1]][axis])
        };
        let clock = Clock { own: vec![0; warps], ..Clock::default() };
        Warp {
            regs: vec![[0; 32]; k.registers.len()],
            written: vec![0; k.registers.len()],
            preds: vec![0; k.predicates],
            carry: 0,
            groups: Vec::new(),
            live: 0,
            all,
            number,
            ids: [0, 1, 2].map(|axis| std::array::from_fn(|lane| id(lane, axis))),
            block: [0; 3],
            ticks: 0,
            local: vec![0; k.local_bytes * 32],
            local_written: vec![false; k.local_bytes * 32],
            frame: vec![0; k.frame_bytes * 32],
            shown: clock.clone(),
            seen: clock.clone(),
            clock,
            copies: Vec::new(),
            groups_of_copies: Vec::new(),
            busy: Vec::new(),
            unready: None,
            busy_hit: None,
            touched: vec![0; k.registers.len()],
            fenced: 0,
            products: Vec::new(),
            product_groups: 0,
            polled: None,
            turns: 0,
        }
    }

    /// The warp of a block, from its start; `first` is the number of the block's first warp in the grid.
    pub fn begin(&mut self, block: [u32; 3], first: u32) {
        self.regs.fill([0xdead_beef; 32]);
        self.written.fill(0);
        self.preds.fill(0);
        self.carry = 0;
        self.groups.clear();
        self.groups.push(Group { pc: 0, mask: self.all, wait: Wait::No });
        self.live = self.all;
        self.block = block;
        self.ticks = 0;
        self.local.fill(0);
        self.local_written.fill(false);
        self.frame.fill(0);
        for clock in [&mut self.clock, &mut self.shown, &mut self.seen] {
            clock.first = first;
            clock.own.fill(0);
            clock.foreign.clear();
        }
        self.clock.own[self.number as usize] = 1;
        self.copies.clear();
        self.groups_of_copies.clear();
        self.busy.clear();
        self.unready = None;
        self.busy_hit = None;
        self.touched.fill(0);
        self.fenced = 0;
        self.products.clear();
        self.product_groups = 0;
        self.polled = None;
        self.turns = 0;
    }

    /// The warp releases what it has done: what follows is later.
    pub fn tick(&mut self) {
        self.clock.own[self.number as usize] += 1;
    }

    /// Lanes that run.
    pub fn own_clock(&self) -> u32 {
        self.clock.own[self.number as usize]
    }

    fn note_busy(&mut self, r: u32) {
        if let Some(&(_, pc)) = self.busy.iter().find(|b| b.0 == r) {
            self.busy_hit = Some((r, pc));
        }
    }

    /// Values as they are, whether anybody wrote them or not.
    pub fn peek(&mut self, o: Operand, k: &Kernel, s: &Scene) -> Lanes {
        match o {
            Operand::Reg(r) => {
                if !self.busy.is_empty() {
                    self.note_busy(r);
                }
                self.regs[r as usize]
            }
            Operand::Imm(n) => [n; 32],
            Operand::Pred(..) => {
                let bits = self.pred(o);
                std::array::from_fn(|l| u64::from(bits >> l & 1))
            }
            Operand::Special(x) => self.special(x, k, s),
            Operand::Var(..) => [variable(o, &s.variables).unwrap_or(0); 32],
            Operand::Sink => [0; 32],
        }
    }

    /// Values that some lanes need.
    #[inline]
    pub fn read(&mut self, o: Operand, m: u32, k: &Kernel, s: &Scene) -> Lanes {
        if let Operand::Reg(r) = o {
            let missing = m & !self.written[r as usize];
            if missing != 0 {
                self.unready = Some((r, missing));
            }
        }
        self.peek(o, k, s)
    }

    pub fn pred(&self, o: Operand) -> u32 {
        match o {
            Operand::Pred(p, negated) => self.preds[p as usize] ^ if negated { u32::MAX } else { 0 },
            Operand::Imm(0) => 0,
            _ => u32::MAX,
        }
    }

    pub fn set_pred(&mut self, d: u32, m: u32, bits: u32) {
        if d != SINK {
            let p = &mut self.preds[d as usize];
            *p = *p & !m | bits & m;
        }
    }

    #[inline]
    pub fn write(&mut self, d: u32, m: u32, v: &Lanes) {
        if d == SINK {
            return;
        }
        if !self.busy.is_empty() {
            self.note_busy(d);
        }
        self.written[d as usize] |= m;
        self.touched[d as usize] = self.ticks;
        let place = &mut self.regs[d as usize];
        if m == u32::MAX {
            *place = *v;
            return;
        }
        let mut left = m;
        while left != 0 {
            let l = left.trailing_zeros() as usize;
            place[l] = v[l];
            left &= left - 1;
        }
    }

    fn special(&self, x: Special, k: &Kernel, s: &Scene) -> Lanes {
        let lane = |f: fn(u32) -> u32| std::array::from_fn(|l| u64::from(f(l as u32)));
        let same = |n: u32| [u64::from(n); 32];
        match x {
            Special::Tid(a) => self.ids[a as usize],
            Special::Ntid(a) => same(s.block[a as usize]),
            Special::Ctaid(a) => same(self.block[a as usize]),
            Special::Nctaid(a) => same(s.grid[a as usize]),
            Special::Lane => lane(|l| l),
            Special::Warp => same(self.number),
            Special::Warps => same(s.block.iter().product::<u32>().div_ceil(32)),
            Special::MaskLt => lane(|l| (1 << l) - 1),
            Special::MaskLe => lane(|l| u32::MAX >> (31 - l)),
            Special::MaskGt => lane(|l| !(u32::MAX >> (31 - l))),
            Special::MaskGe => lane(|l| !((1 << l) - 1)),
            Special::MaskEq => lane(|l| 1 << l),
            Special::Clock => [self.ticks; 32],
            Special::DynamicShared => same(s.dynamic as u32),
            Special::TotalShared => same((k.static_shared + s.dynamic) as u32),
            Special::DynamicAt(n) => same((k.dynamic_at as u32).wrapping_add(n)),
            Special::Fixed(n) => same(n),
        }
    }
}
