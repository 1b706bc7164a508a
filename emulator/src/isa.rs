//! Instructions as the executor sees them: what is left of PTX when names, scopes and calls are resolved.

/// Element type of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// Predicate.
    Pred,
    /// Untyped bits, by their number.
    B(u8),
    /// Unsigned integer, by its bits.
    U(u8),
    /// Signed integer, by its bits.
    S(u8),
    /// IEEE binary16.
    F16,
    /// The high half of a binary32.
    Bf16,
    /// Two binary16.
    F16x2,
    /// Two bf16.
    Bf16x2,
    /// IEEE binary32.
    F32,
    /// A binary32 of which 10 fraction bits count.
    Tf32,
    /// IEEE binary64.
    F64,
}

impl Type {
    /// By its name in PTX, without the dot.
    pub fn parse(name: &str) -> Option<Type> {
        Some(match name {
            "pred" => Type::Pred,
            "b8" => Type::B(8),
            "b16" => Type::B(16),
            "b32" => Type::B(32),
            "b64" => Type::B(64),
            "u8" => Type::U(8),
            "u16" => Type::U(16),
            "u32" => Type::U(32),
            "u64" => Type::U(64),
            "s8" => Type::S(8),
            "s16" => Type::S(16),
            "s32" => Type::S(32),
            "s64" => Type::S(64),
            "f16" => Type::F16,
            "bf16" => Type::Bf16,
            "f16x2" => Type::F16x2,
            "bf16x2" => Type::Bf16x2,
            "f32" => Type::F32,
            "tf32" => Type::Tf32,
            "f64" => Type::F64,
            _ => return None,
        })
    }
    /// Size in bits; 0 for a predicate.
    pub fn bits(self) -> u32 {
        match self {
            Type::Pred => 0,
            Type::B(n) | Type::U(n) | Type::S(n) => n.into(),
            Type::F16 | Type::Bf16 => 16,
            Type::F16x2 | Type::Bf16x2 | Type::F32 | Type::Tf32 => 32,
            Type::F64 => 64,
        }
    }
    /// Size in bytes.
    pub fn bytes(self) -> usize {
        self.bits() as usize / 8
    }
    /// Whether it is a signed integer.
    pub fn signed(self) -> bool {
        matches!(self, Type::S(_))
    }
    /// Whether it is an integer or untyped.
    pub fn integer(self) -> bool {
        matches!(self, Type::B(_) | Type::U(_) | Type::S(_))
    }
}

/// State space of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// One of the others, by the address.
    Generic,
    /// Global memory; constant memory is a part of it that cannot be written.
    Global,
    /// Shared memory of the block.
    Shared,
    /// Memory of one thread.
    Local,
    /// The kernel's parameters.
    Param,
    /// Arguments and results of functions.
    Frame,
}

/// Special registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Special {
    /// Thread in the block, along an axis.
    Tid(u8),
    /// Threads of a block.
    Ntid(u8),
    /// Block in the grid.
    Ctaid(u8),
    /// Blocks of the grid.
    Nctaid(u8),
    /// Lane in the warp.
    Lane,
    /// Warp in the block.
    Warp,
    /// Warps of a block.
    Warps,
    /// Lanes below this one.
    MaskLt,
    /// Lanes up to this one.
    MaskLe,
    /// Lanes above this one.
    MaskGt,
    /// Lanes from this one.
    MaskGe,
    /// This lane.
    MaskEq,
    /// Something that grows.
    Clock,
    /// Bytes of shared memory that the launch asked for.
    DynamicShared,
    /// Bytes of shared memory.
    TotalShared,
    /// Where that memory begins, and bytes beyond it.
    DynamicAt(u32),
    /// Always this value: what a single multiprocessor without clusters shows.
    Fixed(u32),
}

/// Where an instruction reads from.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Operand {
    /// A register.
    Reg(u32),
    /// A predicate register; true if it differs from the flag.
    Pred(u32, bool),
    /// A constant.
    Imm(u64),
    /// A special register.
    Special(Special),
    /// The address of a module's variable, and bytes beyond it.
    Var(u32, i64),
    /// `_`, which takes what nobody wants.
    Sink,
}

/// The register that takes what nobody wants.
pub const SINK: u32 = u32::MAX;

/// A register or constant, and bytes beyond it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Address {
    /// What it starts from.
    pub base: Operand,
    /// Added to it.
    pub offset: i64,
}

/// Rounding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Round {
    /// To nearest, ties to even.
    #[default]
    Near,
    /// To nearest, ties away from zero.
    Away,
    /// Towards zero.
    Zero,
    /// Towards minus infinity.
    Down,
    /// Towards plus infinity.
    Up,
}

/// How a float instruction computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mode {
    /// Rounding of the result.
    pub round: Round,
    /// Subnormals count as zero, in and out.
    pub ftz: bool,
    /// Clamped to [0, 1], or to the range of an integer.
    pub sat: bool,
    /// The result may be off by a few units in the last place.
    pub approx: bool,
    /// `cvt` to an integral value.
    pub integral: bool,
    /// NaN if an operand is.
    pub nan: bool,
    /// Negative results become zero.
    pub relu: bool,
}

/// Operations of one operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "named as in PTX")]
pub enum Unary {
    Mov,
    Neg,
    Abs,
    Not,
    Cnot,
    Popc,
    Clz,
    Brev,
    Bfind,
    /// `bfind.shiftamt`: how far the bit found is from the top.
    BfindShift,
    Ex2,
    Lg2,
    Rcp,
    Sqrt,
    Rsqrt,
    Sin,
    Cos,
    Tanh,
}

/// Operations of two operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "named as in PTX")]
pub enum Binary {
    Add,
    Sub,
    MulLo,
    MulHi,
    MulWide,
    Div,
    Rem,
    Min,
    Max,
    And,
    Or,
    Xor,
    Shl,
    Shr,
    Copysign,
}

/// Operations of three operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "named as in PTX")]
pub enum Ternary {
    Fma,
    MadLo,
    MadHi,
    MadWide,
    Bfe,
    Prmt,
    /// Funnel shift: left or right, wrapping or clamping the amount.
    Shf(bool, bool),
    Lop3(u8),
    Sad,
    Dp4a(bool, bool),
}

/// Comparisons; the second half is true of NaN as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "named as in PTX")]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// Operations of predicates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "named as in PTX")]
pub enum Logic {
    And,
    Or,
    Xor,
}

/// Memory order of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// A plain access.
    #[default]
    Weak,
    /// Strong, orders nothing. Volatile accesses count as such.
    Relaxed,
    /// What another released is seen.
    Acquire,
    /// What was done before is shown.
    Release,
    /// Both.
    AcqRel,
}

impl Order {
    /// Whether what another thread released is seen after it.
    pub fn acquires(self) -> bool {
        matches!(self, Order::Acquire | Order::AcqRel)
    }
    /// Whether what was done before is shown with it.
    pub fn releases(self) -> bool {
        matches!(self, Order::Release | Order::AcqRel)
    }
}

/// Atomic operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "named as in PTX")]
pub enum Atomic {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

/// How lanes exchange a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "named as in PTX")]
pub enum Shuffle {
    Up,
    Down,
    Bfly,
    Idx,
}

/// What a vote tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "named as in PTX")]
pub enum Vote {
    Any,
    All,
    Uni,
    Ballot,
}

/// Element of a matrix operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "named as in PTX")]
pub enum Element {
    F16,
    Bf16,
    Tf32,
    S8,
    U8,
    F32,
    S32,
}

impl Element {
    /// Size in bits.
    pub fn bits(self) -> usize {
        match self {
            Element::F16 | Element::Bf16 => 16,
            Element::S8 | Element::U8 => 8,
            Element::Tf32 | Element::F32 | Element::S32 => 32,
        }
    }
}

/// A matrix product of a warp: `m x n x k`, all operands spread over the lanes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "named as in PTX")]
pub struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Element,
    pub b: Element,
    pub sum: Element,
}

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

/// Copies that the hardware does by itself.
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

/// One instruction.
#[derive(Clone, PartialEq, Debug)]
pub struct Instr {
    /// Done by the lanes where this predicate differs from the flag.
    pub guard: Option<(u32, bool)>,
    /// What it does.
    pub op: Op,
    /// Line of the PTX.
    pub line: u32,
    /// Line of the source; 0 if unknown.
    pub source: u32,
    /// File of the source, an index into the module's names.
    pub file: u32,
    /// File and line where the function of that line was called, if the compiler put it in there.
    pub called: Option<(u32, u32)>,
}

/// A named range of bytes.
#[derive(Clone, PartialEq, Debug)]
pub struct Range {
    /// Its name.
    pub name: String,
    /// First byte.
    pub at: usize,
    /// Bytes.
    pub size: usize,
}

/// A kernel.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Its instructions, those of the functions it calls included.
    pub code: Vec<Instr>,
    /// Bits of each register.
    pub registers: Vec<u8>,
    /// Number of predicate registers.
    pub predicates: usize,
    /// Parameters.
    pub params: Vec<Range>,
    /// Bytes of the parameters.
    pub param_bytes: usize,
    /// Arrays in shared memory, with gaps between them that nobody may touch.
    pub shared: Vec<Range>,
    /// Where the shared memory begins that the launch asks for; aligned as its declaration says.
    pub dynamic_at: usize,
    /// Bytes of shared memory as the hardware counts them, without gaps.
    pub static_shared: usize,
    /// Arrays of each thread.
    pub local: Vec<Range>,
    /// Bytes of each thread's arrays.
    pub local_bytes: usize,
    /// Bytes of the arguments of functions.
    pub frame_bytes: usize,
    /// Most threads of a block; 0 if it does not say.
    pub max_threads: u32,
    /// Whether blocks may speak to each other: atomics or fences beyond the block.
    pub hand_over: bool,
}

/// A variable of a module.
#[derive(Clone, PartialEq, Debug)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// What it holds at first; global memory is zero where nothing is said.
    pub data: Vec<u8>,
    /// Constant memory.
    pub constant: bool,
}

/// A parsed module.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// Version of PTX, as written.
    pub version: String,
    /// Architecture, as written: `sm_80`.
    pub target: String,
    /// Kernels.
    pub kernels: Vec<Kernel>,
    /// Variables in global and constant memory.
    pub variables: Vec<Variable>,
    /// Names of the source files.
    pub files: Vec<String>,
}
