//! What was found wrong, and where.

use std::fmt;

/// Kinds of findings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Kind {
    /// An address that no object has.
    OutOfBounds,
    /// An address that is no multiple of the access's size.
    Misaligned,
    /// Memory that nobody wrote, or a register.
    Uninitialised,
    /// A write to what may only be read.
    ReadOnly,
    /// Two accesses, one of them a write, that nothing orders.
    Race,
    /// Threads that should meet at a barrier and do not.
    Barrier,
    /// Nobody can go on.
    Deadlock,
    /// Lanes that should act together and do not.
    Divergence,
    /// A value taken from a lane that gives none.
    InactiveLane,
    /// An asynchronous copy that nobody waits for.
    PendingCopy,
    /// Memory or registers touched while an asynchronous operation uses them.
    AsyncInFlight,
    /// A fence or a commit that the hardware needs is missing.
    MissingFence,
    /// A loop that waits for what does not come.
    EndlessSpin,
    /// An mbarrier that is not one, or is counted wrongly.
    Mbarrier,
    /// A descriptor, tensor map or launch that cannot be.
    Invalid,
    /// The kernel itself gave up.
    Trap,
}

impl Kind {
    /// In words.
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
    /// Whether nothing sensible can follow.
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

/// Something wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What kind.
    pub kind: Kind,
    /// In which kernel.
    pub kernel: String,
    /// Where.
    pub place: Place,
    /// The details.
    pub what: String,
    /// The other party of a race, or who began what is under way.
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
