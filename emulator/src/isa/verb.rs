//! What is done in one word: the operations that come in families.

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
    /// Which operands are signed, and whether it takes the upper bytes.
    Dp2a(bool, bool, bool),
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
