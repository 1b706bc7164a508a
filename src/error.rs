//! The error type of the crate: a kind, a place, what was expected, what was found, and help.

use std::fmt;
use std::path::{Path, PathBuf};

/// What went wrong, in the terms a caller acts on. Each kind has one exit code of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A mistake in the command line or the recipe. Exit code 2.
    Usage,
    /// A data file that cannot be read as asked. Exit code 3.
    Data,
    /// A model, tokenizer or checkpoint that cannot be used. Exit code 4.
    Model,
    /// The device asked for is not there, or cannot do what is asked. Exit code 5.
    Device,
    /// Not enough memory. Exit code 6.
    Memory,
    /// Training went non-finite, or a trainable parameter receives no gradient. Exit code 7.
    Diverged,
    /// The disk is full, read-only or failing. Exit code 8.
    Disk,
    /// Another process holds the run folder. Exit code 9.
    Locked,
    /// The device was lost; starting again resumes. Exit code 75.
    Lost,
    /// Stopped by a signal after a clean checkpoint. Exit code 130 (SIGINT) or 143 (SIGTERM).
    Interrupted(i32),
    /// An op was given tensors it does not accept: a mistake in the program, not in its input. Exit code 70.
    Shape,
}

/// The error of every fallible function of the library.
///
/// Built by a chain:
///
/// ```
/// use tempra::error::{Error, Kind};
///
/// let e = Error::data("a row has 3 fields").at("reviews.csv").with_line(7);
/// let e = e.with_expected("2").with_help("quote the comma");
/// assert_eq!((e.kind(), e.exit_code(), e.line()), (Kind::Data, 3, Some(7)));
/// assert!(e.to_string().starts_with("reviews.csv:7: a row has 3 fields"));
/// ```
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    what: String,
    file: Option<PathBuf>,
    line: Option<u64>,
    column: Option<u64>,
    byte: Option<u64>,
    expected: Option<String>,
    found: Option<String>,
    help: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    others: Vec<Error>,
}

/// What every fallible function of the library returns.
pub type Result<T> = std::result::Result<T, Error>;

macro_rules! kinds { ($($name:ident $kind:ident $doc:literal),* $(,)?) => { $(
    #[doc = $doc]
    pub fn $name(what: impl Into<String>) -> Self { Self::new(Kind::$kind, what) }
)* } }

impl Error {
    /// An error of a kind, with one sentence that says what is wrong.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            what: what.into(),
            file: None,
            line: None,
            column: None,
            byte: None,
            expected: None,
            found: None,
            help: None,
            source: None,
            others: Vec::new(),
        }))
    }
    kinds! {
        usage Usage "A mistake in the command line or the recipe.",
        data Data "A data file that cannot be read as asked.",
        model Model "A model, tokenizer or checkpoint that cannot be used.",
        device Device "A device that is not there or cannot do what is asked.",
        memory Memory "Not enough memory.",
        diverged Diverged "Training went non-finite.",
        disk Disk "A disk that is full, read-only or failing.",
        locked Locked "A run folder held by another process.",
        shape Shape "Tensors that an op does not accept.",
    }
    /// An I/O failure on `path` while doing `what`. A full, failing or read-only disk becomes [`Kind::Disk`].
    pub fn io(kind: Kind, what: impl Into<String>, path: &Path, e: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let disk = matches!(e.kind(), K::StorageFull | K::QuotaExceeded | K::ReadOnlyFilesystem);
        let kind = if disk { Kind::Disk } else { kind };
        // `io::Error` cannot be cloned; the code of the operating system says all that it knows.
        let copy = match e.raw_os_error() {
            Some(code) => std::io::Error::from_raw_os_error(code),
            None => std::io::Error::new(e.kind(), e.to_string()),
        };
        Self::new(kind, what).at(path).with_found(e.to_string()).with_source(copy)
    }
    /// Several errors found together; the kind of the first one counts. `None` if `errors` is empty.
    pub fn many(mut errors: Vec<Error>) -> Option<Self> {
        if errors.is_empty() {
            return None;
        }
        let mut first = errors.remove(0);
        first.0.others.append(&mut errors);
        Some(first)
    }
    /// Names the file that the error is about.
    pub fn at(mut self, path: impl AsRef<Path>) -> Self {
        self.0.file = Some(path.as_ref().to_path_buf());
        self
    }
    /// Names the line in that file, counted from 1.
    pub fn with_line(mut self, line: u64) -> Self {
        self.0.line = Some(line);
        self
    }
    /// Names the column in that line, counted from 1.
    pub fn with_column(mut self, column: u64) -> Self {
        self.0.column = Some(column);
        self
    }
    /// Names the byte offset in that file, counted from 0.
    pub fn with_byte(mut self, byte: u64) -> Self {
        self.0.byte = Some(byte);
        self
    }
    /// Says what would have been right.
    pub fn with_expected(mut self, s: impl Into<String>) -> Self {
        self.0.expected = Some(s.into());
        self
    }
    /// Says what was there instead.
    pub fn with_found(mut self, s: impl Into<String>) -> Self {
        self.0.found = Some(s.into());
        self
    }
    /// Says what the user can do about it.
    pub fn with_help(mut self, s: impl Into<String>) -> Self {
        self.0.help = Some(s.into());
        self
    }
    /// Keeps the error that caused this one, for [`std::error::Error::source`].
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(source));
        self
    }
    /// One sentence that says what is wrong.
    pub fn what(&self) -> &str {
        &self.0.what
    }
    /// The line in [`Error::file`], counted from 1.
    pub fn line(&self) -> Option<u64> {
        self.0.line
    }
    /// The column in [`Error::line`], counted from 1.
    pub fn column(&self) -> Option<u64> {
        self.0.column
    }
    /// The byte offset in [`Error::file`], counted from 0.
    pub fn byte(&self) -> Option<u64> {
        self.0.byte
    }
    /// What would have been right.
    pub fn expected(&self) -> Option<&str> {
        self.0.expected.as_deref()
    }
    /// What was there instead.
    pub fn found(&self) -> Option<&str> {
        self.0.found.as_deref()
    }
    /// What the user can do about it.
    pub fn help(&self) -> Option<&str> {
        self.0.help.as_deref()
    }
    /// The other errors that were found together with this one.
    pub fn others(&self) -> &[Error] {
        &self.0.others
    }
    /// The kind, in the terms a caller acts on.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }
    /// The file it is about, if it is about one.
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }
    /// The program's exit code for it; `docs/reliability.md` has the table.
    pub fn exit_code(&self) -> i32 {
        match self.0.kind {
            Kind::Usage => 2,
            Kind::Data => 3,
            Kind::Model => 4,
            Kind::Device => 5,
            Kind::Memory => 6,
            Kind::Diverged => 7,
            Kind::Disk => 8,
            Kind::Locked => 9,
            Kind::Shape => 70,
            Kind::Lost => 75,
            Kind::Interrupted(signal) => 128 + signal,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        if let Some(file) = &e.file {
            write!(f, "{}", file.display())?;
            for n in [e.line, e.column].into_iter().flatten() {
                write!(f, ":{n}")?;
            }
            if let Some(b) = e.byte {
                write!(f, " (byte {b})")?;
            }
            write!(f, ": ")?;
        } else if let Some(line) = e.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}", e.what)?;
        for (word, s) in [("expected", &e.expected), ("found", &e.found), ("help", &e.help)] {
            if let Some(s) = s {
                write!(f, "\n  {word}: {s}")?;
            }
        }
        e.others.iter().try_for_each(|other| write!(f, "\n{other}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
