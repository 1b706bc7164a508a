//! Operations with all that belongs to them.

use super::operand::{Address, Mode, Operand, Space, Type};
use super::verb::{Atomic, Binary, Compare, Logic, Order, Shape, Shuffle, Ternary, Unary, Vote};

/// A product of four warps with operands in shared memory.
#[derive(Clone, PartialEq, Debug)]
pub struct Wgmma {
    /// The shape of the whole product.
    pub shape: Shape,
    /// Accumulators.
    pub d: Vec<u32>,
    /// A descriptor, or the fragment in four registers.
    pub a: Vec<Operand>,
    /// A descriptor.
    pub b: Operand,
    /// Adds to the accumulators if true.
    pub add: Operand,
    /// -1 or 1, for each operand.
    pub sign: [Operand; 2],
    /// Whether the operands in shared memory are stored with their rows along m (n), not along k.
    pub transposed: [Operand; 2],
}

/// Operations of an mbarrier.
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(missing_docs, reason = "named as in PTX")]
pub enum Mbarrier {
    Init {
        count: Operand,
    },
    Inval,
    Arrive {
        d: u32,
        count: Operand,
        drop: bool,
    },
    ArriveExpect {
        d: u32,
        bytes: Operand,
    },
    Expect {
        bytes: Operand,
    },
    /// By a phase's parity, or by the state that an arrival gave.
    Wait {
        d: u32,
        phase: Operand,
        parity: bool,
    },
    /// An arrival once the thread's earlier cp.async are done; without it being expected, or not.
    CopyArrive {
        expected: bool,
    },
}

/// Copies that the hardware does asynchronously.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "named as in PTX")]
pub enum Bulk {
    /// Global to shared; an mbarrier counts the bytes.
    Load {
        to: Address,
        from: Address,
        bytes: Operand,
        barrier: Address,
    },
    /// Shared to global; waited for by group.
    Store {
        to: Address,
        from: Address,
        bytes: Operand,
    },
    /// A box of a tensor to shared memory.
    TensorLoad {
        to: Address,
        map: Address,
        at: Vec<Operand>,
        barrier: Address,
    },
    /// A box of a tensor from shared memory.
    TensorStore {
        map: Address,
        at: Vec<Operand>,
        from: Address,
    },
    Commit,
    /// Until at most so many groups are under way; only their reads, or all.
    Wait {
        left: u32,
        read: bool,
    },
}

/// What an instruction does.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "fields are named as in PTX: d takes, a, b and c give")]
pub enum Op {
    Unary {
        f: Unary,
        t: Type,
        mode: Mode,
        d: u32,
        a: Operand,
    },
    Binary {
        f: Binary,
        t: Type,
        mode: Mode,
        d: u32,
        a: Operand,
        b: Operand,
    },
    Ternary {
        f: Ternary,
        t: Type,
        mode: Mode,
        d: u32,
        a: Operand,
        b: Operand,
        c: Operand,
    },
    /// Addition or subtraction with the carry flag: taken, given.
    Carry {
        sub: bool,
        t: Type,
        take: bool,
        give: bool,
        d: u32,
        a: Operand,
        b: Operand,
    },
    Bfi {
        t: Type,
        d: u32,
        a: Operand,
        b: Operand,
        at: Operand,
        len: Operand,
    },
    Pack {
        bits: u32,
        d: u32,
        parts: Vec<Operand>,
    },
    Unpack {
        bits: u32,
        parts: Vec<u32>,
        a: Operand,
    },
    Logic {
        f: Logic,
        d: u32,
        a: Operand,
        b: Operand,
    },
    Setp {
        cmp: Compare,
        t: Type,
        ftz: bool,
        d: u32,
        q: u32,
        a: Operand,
        b: Operand,
        and: Option<(Logic, Operand)>,
    },
    /// A comparison whose result is a number: all ones (or 1.0), or zero.
    Set {
        cmp: Compare,
        to: Type,
        t: Type,
        ftz: bool,
        d: u32,
        a: Operand,
        b: Operand,
    },
    Selp {
        t: Type,
        d: u32,
        a: Operand,
        b: Operand,
        p: Operand,
    },
    Slct {
        t: Type,
        by: Type,
        d: u32,
        a: Operand,
        b: Operand,
        c: Operand,
    },
    /// `b` is the low half of a pair.
    Cvt {
        to: Type,
        from: Type,
        mode: Mode,
        d: u32,
        a: Operand,
        b: Option<Operand>,
    },
    Cvta {
        space: Space,
        to: bool,
        d: u32,
        a: Operand,
    },
    Isspacep {
        space: Space,
        d: u32,
        a: Operand,
    },
    Ld {
        space: Space,
        t: Type,
        d: Vec<u32>,
        a: Address,
        order: Order,
        nc: bool,
    },
    St {
        space: Space,
        t: Type,
        s: Vec<Operand>,
        a: Address,
        order: Order,
    },
    /// `c` is the new value of a compare-and-swap, whose `b` is compared with.
    Atom {
        f: Atomic,
        space: Space,
        t: Type,
        d: Vec<u32>,
        a: Address,
        b: Vec<Operand>,
        c: Option<Operand>,
        order: Order,
        block: bool,
    },
    Fence {
        order: Order,
        block: bool,
    },
    /// Of the asynchronous proxy: what was written is shown to TMA and wgmma.
    FenceProxy,
    Bar {
        id: Operand,
        count: Option<Operand>,
        sync: bool,
    },
    /// A barrier that also tells how many, or whether all or any, held the predicate.
    BarRed {
        vote: Option<Vote>,
        d: u32,
        id: Operand,
        count: Option<Operand>,
        p: Operand,
    },
    BarWarp {
        mask: Operand,
    },
    Shfl {
        f: Shuffle,
        d: u32,
        p: u32,
        a: Operand,
        b: Operand,
        c: Operand,
        mask: Operand,
    },
    Vote {
        f: Vote,
        d: u32,
        p: Operand,
        mask: Operand,
    },
    Match {
        all: bool,
        t: Type,
        d: u32,
        p: u32,
        a: Operand,
        mask: Operand,
    },
    Redux {
        f: Atomic,
        t: Type,
        d: u32,
        a: Operand,
        mask: Operand,
    },
    Elect {
        d: u32,
        p: u32,
        mask: Operand,
    },
    Activemask {
        d: u32,
    },
    CpAsync {
        to: Address,
        from: Address,
        bytes: u32,
        size: Option<Operand>,
    },
    CpCommit,
    CpWait {
        left: u32,
    },
    CpWaitAll,
    Mbarrier {
        f: Mbarrier,
        a: Address,
    },
    Bulk(Bulk),
    Ldmatrix {
        n: u32,
        trans: bool,
        d: Vec<u32>,
        a: Address,
    },
    Stmatrix {
        n: u32,
        trans: bool,
        s: Vec<Operand>,
        a: Address,
    },
    Mma {
        shape: Shape,
        d: Vec<u32>,
        a: Vec<Operand>,
        b: Vec<Operand>,
        c: Vec<Operand>,
    },
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait {
        left: u32,
    },
    Wgmma(Box<Wgmma>),
    Bra {
        to: u32,
        uniform: bool,
    },
    Brx {
        to: Vec<u32>,
        i: Operand,
    },
    Ret,
    Nop,
    Trap {
        why: &'static str,
    },
}
