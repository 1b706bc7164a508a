//! Findings: faults of a kernel and their places.

use std::fmt;

/// Kinds of findings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Kind {
    /// An address outside all objects.
    OutOfBounds,
    /// An address that is not a multiple of the access's size.
    Misaligned,
    /// A read of memory or a register that was never written.
    Uninitialised,
    /// A write to read-only memory.
    ReadOnly,
    /// Two unordered accesses, at least one of them a write.
    Race,
    /// Threads that do not meet at the same barrier.
    Barrier,
    /// No thread can continue.
    Deadlock,
    /// Lanes that do not execute a collective instruction together.
    Divergence,
    /// A value read from a lane that does not execute the instruction.
    InactiveLane,
    /// An asynchronous copy that is never waited for.
    PendingCopy,
    /// An access to memory or registers that an asynchronous operation is using.
    AsyncInFlight,
    /// A missing fence or commit that the hardware needs.
    MissingFence,
    /// A loop that never ends.
    EndlessSpin,
    /// An mbarrier that is not initialised, or has a wrong count.
    Mbarrier,
    /// A descriptor, tensor map or launch that is not valid.
    Invalid,
    /// The kernel executed a trap.
    Trap,
}

impl Kind {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::OutOfBounds => "out of bounds",
            Kind::Misaligned => "misaligned access",
            Kind::Uninitialised => "read of uninitialised data",
            Kind::ReadOnly => "write to read-only memory",
            Kind::Race => "data race",
            Kind::Barrier => "barrier divergence",
            Kind::Deadlock => "deadlock",
            Kind::Divergence => "divergence",
            Kind::InactiveLane => "inactive lane",
            Kind::PendingCopy => "asynchronous copy left pending",
            Kind::AsyncInFlight => "use during an asynchronous operation",
            Kind::MissingFence => "missing fence",
            Kind::EndlessSpin => "endless loop",
            Kind::Mbarrier => "mbarrier",
            Kind::Invalid => "invalid",
            Kind::Trap => "trap",
        }
    }
    /// Whether the kernel cannot continue after it.
    pub fn stops(self) -> bool {
        !matches!(
            self,
            Kind::Uninitialised
                | Kind::Race
                | Kind::PendingCopy
                | Kind::AsyncInFlight
                | Kind::MissingFence
                | Kind::InactiveLane
        )
    }
}

/// A place in a run: an instruction and who was at it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// File of the source; empty if unknown.
    pub file: String,
    /// Its line; 0 if the PTX does not say (compile with `-lineinfo`).
    pub line: u32,
    /// File and line where the function of that line was called, if the compiler put it in there.
    pub called: Option<(String, u32)>,
    /// Line of the PTX.
    pub ptx: u32,
    /// The block.
    pub block: [u32; 3],
    /// The thread, linear in the block.
    pub thread: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "PTX line {}", self.ptx)?,
            line => write!(f, "{}:{line} (PTX {})", self.file, self.ptx)?,
        }
        if let Some((file, line)) = &self.called {
            write!(f, ", called at {file}:{line}")?;
        }
        write!(f, ", block {:?} thread {}", self.block, self.thread)
    }
}

/// A fault of a kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The kind.
    pub kind: Kind,
    /// The kernel.
    pub kernel: String,
    /// The place.
    pub place: Place,
    /// The details.
    pub what: String,
    /// The other access of a race, or the start of the asynchronous operation.
    pub other: Option<Place>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} at {}: {}", self.kernel, self.kind.name(), self.place, self.what)?;
        match &self.other {
            Some(other) => write!(f, "; the other access: {other}"),
            None => Ok(()),
        }
    }
}
