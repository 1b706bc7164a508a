//! Instructions as the executor sees them: what is left of PTX when names, scopes and calls are resolved.

mod op;
mod operand;
mod verb;

pub use op::{Bulk, Mbarrier, Op, Wgmma};
pub use operand::{Address, Mode, Operand, Round, SINK, Space, Special, Type};
pub use verb::{Atomic, Binary, Compare, Element, Logic, Order, Shape, Shuffle, Ternary, Unary, Vote};

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
