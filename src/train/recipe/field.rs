//! What a recipe's value can be: how each type is read, written, described and bounded.

use super::source::{Node, Value};
use crate::compress::prune::{PruneMethod, PruneScope};
use crate::data::LabelColumns;
use crate::ops::UPDATE_RULES;
use crate::ops::update::UpdateRule;
use crate::shape::DType;
use crate::tasks::{PairLoss, TagScheme, TaskKind};
use crate::train::schedule::{Curve, ScheduleKind};
use std::fmt;
use std::path::PathBuf;

/// A type of recipe value.
pub(super) trait Field: Sized {
    /// In words: "a number", "one of …".
    fn kind() -> String;
    /// The value, or in words what was found instead.
    fn read(value: &Value) -> Result<Self, String>;
    /// As TOML; `None` for what is not set.
    fn write(&self) -> Option<String>;
    /// The numbers in it that a [`Rule`] bounds.
    fn numbers(&self) -> Vec<f64> {
        Vec::new()
    }
}

/// What a key asks of its value beyond the type.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    Any,
    /// It has to be given, and not empty.
    Required,
    /// Left out, it follows from other keys, as its text says.
    Derived,
    /// Its numbers are at least (or above) one bound and at most (or below) another.
    Within {
        low: f64,
        low_in: bool,
        high: f64,
        high_in: bool,
    },
}

pub(super) const fn above(low: f64) -> Rule {
    Rule::Within { low, low_in: false, high: f64::INFINITY, high_in: false }
}
pub(super) const fn at_least(low: f64) -> Rule {
    Rule::Within { low, low_in: true, high: f64::INFINITY, high_in: false }
}
pub(super) const fn from_to_below(low: f64, high: f64) -> Rule {
    Rule::Within { low, low_in: true, high, high_in: false }
}
pub(super) const fn above_up_to(low: f64, high: f64) -> Rule {
    Rule::Within { low, low_in: false, high, high_in: true }
}
pub(super) const fn from_to(low: f64, high: f64) -> Rule {
    Rule::Within { low, low_in: true, high, high_in: true }
}

impl Rule {
    pub fn allows(&self, x: f64) -> bool {
        match *self {
            // A NaN is in no range, and infinity is never below infinity.
            Self::Within { low, low_in, high, high_in } => {
                (x > low || (low_in && x == low)) && (x < high || (high_in && x == high))
            }
            _ => true,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Within { low, low_in, high, high_in } = *self {
            match (low_in, high.is_finite()) {
                (true, false) => write!(f, " of at least {low}")?,
                (true, true) => write!(f, " from {low}")?,
                (false, _) => write!(f, " above {low}")?,
            }
            if high.is_finite() {
                let to = match (low_in, high_in) {
                    (true, true) => " to ",
                    (true, false) => " to below ",
                    (false, true) => " and at most ",
                    (false, false) => " and below ",
                };
                write!(f, "{to}{high}")?;
            }
        }
        Ok(())
    }
}

fn quoted(s: &str) -> String {
    toml::Value::String(s.to_owned()).to_string()
}

impl Field for String {
    fn kind() -> String {
        "a string".to_owned()
    }
    fn read(value: &Value) -> Result<Self, String> {
        if let Value::Text(s) = value { Ok(s.clone()) } else { Err(value.describe()) }
    }
    fn write(&self) -> Option<String> {
        Some(quoted(self))
    }
}

/// `~/` and `${NAME}` replaced from the environment; a variable that is not set is refused.
pub(super) fn expanded(text: &str) -> Result<String, String> {
    let variable = |name: &str| {
        std::env::var(name)
            .map_err(|_| format!("{text:?}, for which the environment variable {name} is not set"))
    };
    let mut out = String::new();
    let mut rest = text;
    if text == "~" || text.starts_with("~/") {
        out += &variable("HOME")?;
        rest = text.get(1..).unwrap_or_default();
    }
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or(format!("{text:?}, in which a ${{ is not closed"))?;
        out += before;
        out += &variable(name)?;
        rest = after;
    }
    Ok(out + rest)
}

impl Field for PathBuf {
    fn kind() -> String {
        "a path".to_owned()
    }
    fn read(value: &Value) -> Result<Self, String> {
        match String::read(value)?.as_str() {
            "" => Err("an empty text".to_owned()),
            path => expanded(path).map(Self::from),
        }
    }
    fn write(&self) -> Option<String> {
        Some(quoted(&self.to_string_lossy()))
    }
}

impl Field for bool {
    fn kind() -> String {
        "true or false".to_owned()
    }
    fn read(value: &Value) -> Result<Self, String> {
        if let Value::Bool(b) = value { Ok(*b) } else { Err(value.describe()) }
    }
    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
}

macro_rules! integers { ($($ty:ty)*) => { $(
    impl Field for $ty {
        fn kind() -> String {
            "an integer".to_owned()
        }
        fn read(value: &Value) -> Result<Self, String> {
            // TOML promises 63 bits and a sign; beyond that other readers of the file would differ.
            let in_toml = |i: &i128| *i <= i128::from(i64::MAX);
            match value {
                Value::Int(i) => Some(*i).filter(in_toml).and_then(|i| Self::try_from(i).ok()).ok_or(i.to_string()),
                _ => Err(value.describe()),
            }
        }
        fn write(&self) -> Option<String> {
            Some(self.to_string())
        }
        fn numbers(&self) -> Vec<f64> {
            vec![*self as f64]
        }
    }
)* } }
integers!(u64 usize);

macro_rules! floats { ($($ty:ty)*) => { $(
    impl Field for $ty {
        fn kind() -> String {
            "a number".to_owned()
        }
        fn read(value: &Value) -> Result<Self, String> {
            match value {
                Value::Float(x) => Ok(*x as $ty),
                Value::Int(i) => Ok(*i as $ty),
                _ => Err(value.describe()),
            }
        }
        fn write(&self) -> Option<String> {
            // The shortest text that reads back as the same bits; TOML says nan for NaN.
            Some(if self.is_nan() { "nan".to_owned() } else { format!("{self:?}") })
        }
        fn numbers(&self) -> Vec<f64> {
            vec![f64::from(*self)]
        }
    }
)* } }
floats!(f32 f64);

impl<T: Field> Field for Option<T> {
    fn kind() -> String {
        T::kind()
    }
    fn read(value: &Value) -> Result<Self, String> {
        T::read(value).map(Some)
    }
    fn write(&self) -> Option<String> {
        self.as_ref().and_then(T::write)
    }
    fn numbers(&self) -> Vec<f64> {
        self.as_ref().map_or(Vec::new(), T::numbers)
    }
}

impl<T: Field> Field for Vec<T> {
    fn kind() -> String {
        format!("a list, each {}", T::kind())
    }
    fn read(value: &Value) -> Result<Self, String> {
        let Value::List(list) = value else { return Err(value.describe()) };
        let item =
            |(i, node): (usize, &Node)| T::read(&node.value).map_err(|e| format!("{e} as item {}", i + 1));
        list.iter().enumerate().map(item).collect()
    }
    fn write(&self) -> Option<String> {
        Some(format!("[{}]", self.iter().filter_map(T::write).collect::<Vec<_>>().join(", ")))
    }
    fn numbers(&self) -> Vec<f64> {
        self.iter().flat_map(T::numbers).collect()
    }
}

/// Gives an enum the names it has in a recipe; the first of several is written.
macro_rules! named { ($ty:ident { $($variant:ident = $name:literal $(| $alias:literal)*),* $(,)? }) => {
    impl Field for $ty {
        fn kind() -> String {
            [$(concat!("\"", $name, "\"")),*].join(" or ")
        }
        fn read(value: &Value) -> Result<Self, String> {
            match value {
                $(Value::Text(s) if [$name $(, $alias)*].contains(&s.as_str()) => Ok(Self::$variant),)*
                Value::Text(s) => Err(match crate::suggest::nearest(s, [$($name),*]) {
                    Some(near) => format!("{s:?} (did you mean {near:?}?)"),
                    None => value.describe(),
                }),
                _ => Err(value.describe()),
            }
        }
        fn write(&self) -> Option<String> {
            Some(match self { $(Self::$variant => concat!("\"", $name, "\"").to_owned()),* })
        }
    }
} }

macro_rules! choice { ($(#[$about:meta])+ $ty:ident { $($(#[$doc:meta])+ $variant:ident = $name:literal),* $(,)? }) => {
    $(#[$about])+
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum $ty { $($(#[$doc])+ $variant),* }
    impl $ty {
        /// Its name in a recipe.
        pub fn name(&self) -> &'static str {
            match self { $(Self::$variant => $name),* }
        }
    }
    named!($ty { $($variant = $name),* });
} }

impl Field for TaskKind {
    fn kind() -> String {
        let names: Vec<String> = TaskKind::all().map(|task| quoted(task.name())).collect();
        names.join(" or ")
    }
    fn read(value: &Value) -> Result<Self, String> {
        let Value::Text(name) = value else { return Err(value.describe()) };
        TaskKind::find(name).ok_or_else(|| {
            match crate::suggest::nearest(name, TaskKind::all().map(|task| task.name())) {
                Some(near) => format!("{name:?} (did you mean {near:?}?)"),
                None => value.describe(),
            }
        })
    }
    fn write(&self) -> Option<String> {
        Some(quoted(self.name()))
    }
}
impl Field for &'static UpdateRule {
    fn kind() -> String {
        let names: Vec<String> = UPDATE_RULES.iter().map(|rule| quoted(rule.name)).collect();
        names.join(" or ")
    }
    fn read(value: &Value) -> Result<Self, String> {
        let Value::Text(name) = value else { return Err(value.describe()) };
        UpdateRule::find(name).ok_or_else(|| {
            match crate::suggest::nearest(name, UPDATE_RULES.iter().map(|rule| rule.name)) {
                Some(near) => format!("{name:?} (did you mean {near:?}?)"),
                None => value.describe(),
            }
        })
    }
    fn write(&self) -> Option<String> {
        Some(quoted(self.name))
    }
}
named!(TagScheme {
    Auto = "auto",
    Iob1 = "iob1",
    Iob2 = "iob2",
    Iobes = "iobes",
    Bilou = "bilou",
    None = "none",
});
named!(PruneMethod {
    Magnitude = "magnitude",
    Movement = "movement",
    SoftMovement = "soft_movement",
});
named!(PruneScope { Matrix = "matrix", Global = "global" });
named!(PairLoss { Cosine = "cosine", Contrastive = "contrastive" });
choice! {
    /// Which of several tasks a step is of.
    Sampling {
        /// As often as the task has steps in its data.
        Proportional = "proportional",
        /// As often as the root of that, of degree `temperature`.
        Temperature = "temperature",
        /// One after the other.
        RoundRobin = "round_robin",
    }
}
choice! {
    /// How a sequence becomes one vector.
    Pooling {
        /// As the model was pretrained.
        Auto = "auto",
        /// The first token's.
        Cls = "cls",
        /// The mean of all tokens'.
        Mean = "mean",
    }
}
choice! {
    /// How tokens attend to each other.
    Attention {
        /// As the model was trained.
        Auto = "auto",
        /// By the softmax of all scores.
        Exact = "exact",
        /// By FAVOR+, which approximates that by random features.
        Performer = "performer",
    }
}
choice! {
    /// What a row that cannot be read does.
    OnBadRow {
        /// Stops the run.
        Stop = "stop",
        /// Is left out and counted.
        Skip = "skip",
    }
}
named!(ScheduleKind {
    Linear = "linear",
    Cosine = "cosine" | "cosine_with_min_lr",
    CosineWithRestarts = "cosine_with_restarts",
    Polynomial = "polynomial",
    Constant = "constant" | "constant_with_warmup",
    InverseSqrt = "inverse_sqrt",
    WarmupStableDecay = "warmup_stable_decay",
});
named!(Curve { Linear = "linear", Cosine = "cosine", OneMinusSqrt = "1-sqrt" });

/// How often something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// At the end of each epoch.
    Epoch,
    /// After that many optimizer steps.
    Steps(u64),
}

impl Field for Every {
    fn kind() -> String {
        "\"epoch\" or a number of steps".to_owned()
    }
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(s) if s == "epoch" => Ok(Self::Epoch),
            _ => u64::read(value).map(Self::Steps),
        }
    }
    fn write(&self) -> Option<String> {
        Some(if let Self::Steps(n) = self { n.to_string() } else { quoted("epoch") })
    }
    fn numbers(&self) -> Vec<f64> {
        if let Self::Steps(n) = self { vec![*n as f64] } else { Vec::new() }
    }
}

/// How much a class counts in the loss.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassWeights {
    /// Examples / (classes × examples of the class), as scikit-learn's "balanced".
    Balanced,
    /// A weight for each class, in order.
    Values(Vec<f32>),
}

impl Field for ClassWeights {
    fn kind() -> String {
        "\"balanced\" or a list of numbers".to_owned()
    }
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(s) if s == "balanced" => Ok(Self::Balanced),
            _ => Vec::read(value).map(Self::Values),
        }
    }
    fn write(&self) -> Option<String> {
        if let Self::Values(list) = self { list.write() } else { Some(quoted("balanced")) }
    }
    fn numbers(&self) -> Vec<f64> {
        if let Self::Values(list) = self { list.numbers() } else { Vec::new() }
    }
}

impl Field for LabelColumns {
    fn kind() -> String {
        "a text or a list of texts".to_owned()
    }
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::List(_) => Vec::read(value).map(Self::Several),
            _ => String::read(value).map(Self::One),
        }
    }
    fn write(&self) -> Option<String> {
        match self {
            Self::One(name) => name.write(),
            Self::Several(names) => names.write(),
        }
    }
}

choice! {
    /// What is computed in; sums, weights and moments are f32 with each.
    Precision {
        /// Single precision.
        F32 = "f32",
        /// IEEE half precision, with a loss scale.
        F16 = "f16",
        /// bfloat16.
        BF16 = "bf16",
    }
}

impl Precision {
    /// The element type.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
        }
    }
}

/// Which device computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The best one there is.
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU; by number if there are several.
    Cuda(Option<usize>),
    /// A GPU through Vulkan, Metal or DX12; by number if there are several.
    Wgpu(Option<usize>),
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(None) => write!(f, "cuda"),
            Self::Cuda(Some(n)) => write!(f, "cuda:{n}"),
            Self::Wgpu(None) => write!(f, "wgpu"),
            Self::Wgpu(Some(n)) => write!(f, "wgpu:{n}"),
        }
    }
}

impl Field for DeviceName {
    fn kind() -> String {
        "\"auto\", \"cpu\", \"cuda\", \"cuda:N\", \"wgpu\" or \"wgpu:N\"".to_owned()
    }
    fn read(value: &Value) -> Result<Self, String> {
        let text = String::read(value)?;
        let numbered = text.split_once(':').and_then(|(kind, n)| Some((kind, crate::device::index(n)?)));
        match (text.as_str(), numbered) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(None)),
            ("wgpu", _) => Ok(Self::Wgpu(None)),
            (_, Some(("cuda", n))) => Ok(Self::Cuda(Some(n))),
            (_, Some(("wgpu", n))) => Ok(Self::Wgpu(Some(n))),
            _ => Err(match crate::device::suggestion(&text) {
                Some(help) => format!("{} ({help})", value.describe()),
                None => value.describe(),
            }),
        }
    }
    fn write(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}
