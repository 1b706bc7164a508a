//! What instructions work on: types, spaces, registers, rounding.

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
