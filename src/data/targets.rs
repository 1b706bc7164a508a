//! What examples are trained towards: one kind of target for a whole set, and for the batches packed from it.

use std::ops::Range;

use super::labels::Label;
use crate::error::{Error, Result};

/// The tag of a token that the loss skips, and the word of a special token: PyTorch's `ignore_index` of -100.
pub const IGNORED: u32 = -100i32 as u32;

/// The targets of the examples of a [`TokenSet`](super::TokenSet) or of a [`Batch`](super::Batch): all are of
/// one kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Targets {
    /// None: texts to predict, or pairs that a contrastive loss compares with each other.
    #[default]
    None,
    /// Class indices, `[examples]`.
    Class(Vec<u32>),
    /// Target values, `[examples]`.
    Value(Vec<f32>),
    /// The class indices of each example for multi-label classification, `[examples]`.
    Set(Vec<Vec<u32>>),
    /// Tag indices, `[tokens]`, [`IGNORED`] for tokens that the loss skips.
    Tags(Vec<u32>),
    /// First and last token of each answer, counted from the start of its sequence, `[examples]`.
    Spans(Vec<[u32; 2]>),
    /// The ids of the tokens at [`Batch::masked`](super::Batch::masked), [`IGNORED`] for padding. A task
    /// chooses them anew for each step.
    Tokens(Vec<u32>),
    /// Both of pretraining with pairs of texts: the class of each pair, and the masked tokens of all.
    Pretraining {
        /// As in [`Targets::Class`].
        classes: Vec<u32>,
        /// As in [`Targets::Tokens`].
        tokens: Vec<u32>,
    },
}

impl Targets {
    /// The targets that labels are, one for each example.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) if some are classes and some are values.
    pub fn from_labels(labels: Vec<Label>) -> Result<Self> {
        let class = |label: &Label| if let Label::Class(class) = label { Some(*class) } else { None };
        let value = |label: &Label| if let Label::Value(value) = label { Some(*value) } else { None };
        if labels.is_empty() {
            return Ok(Self::None);
        }
        let classes = labels.iter().map(class).collect::<Option<_>>().map(Self::Class);
        let targets = classes.or_else(|| labels.iter().map(value).collect::<Option<_>>().map(Self::Value));
        targets.ok_or_else(|| {
            Error::usage("some labels are classes and some are values")
                .with_expected("labels of one kind in a set of examples")
                .with_help("split the examples into a set for each task")
        })
    }

    /// Class indices, `[examples]`; empty if the targets are of another kind.
    pub fn classes(&self) -> &[u32] {
        match self {
            Self::Class(classes) | Self::Pretraining { classes, .. } => classes,
            _ => &[],
        }
    }
    /// Target values, `[examples]`; empty if the targets are of another kind.
    pub fn values(&self) -> &[f32] {
        if let Self::Value(values) = self { values } else { &[] }
    }
    /// The class indices of each example, `[examples]`; empty if the targets are of another kind.
    pub fn sets(&self) -> &[Vec<u32>] {
        if let Self::Set(sets) = self { sets } else { &[] }
    }
    /// Tag indices, `[tokens]`; empty if the targets are of another kind.
    pub fn tags(&self) -> &[u32] {
        if let Self::Tags(tags) = self { tags } else { &[] }
    }
    /// First and last token of each answer, `[examples]`; empty if the targets are of another kind.
    pub fn spans(&self) -> &[[u32; 2]] {
        if let Self::Spans(spans) = self { spans } else { &[] }
    }
    /// The ids of the tokens to predict; empty if the targets are of another kind.
    pub fn tokens(&self) -> &[u32] {
        match self {
            Self::Tokens(tokens) | Self::Pretraining { tokens, .. } => tokens,
            _ => &[],
        }
    }

    /// Sets the ids of the tokens to predict. The classes of pairs stay.
    pub fn set_tokens(&mut self, tokens: Vec<u32>) {
        *self = match std::mem::take(self) {
            Self::Class(classes) | Self::Pretraining { classes, .. } => Self::Pretraining { classes, tokens },
            _ => Self::Tokens(tokens),
        };
    }

    /// The targets of some examples of a set, in this order; `range` says which tokens an example has. Tokens
    /// to predict are left out, as they belong to a step.
    pub(super) fn of_examples(&self, examples: &[u32], range: impl Fn(u32) -> Range<usize>) -> Self {
        let tags = |all: &[u32], example: u32| all.get(range(example)).unwrap_or_default().to_vec();
        match self {
            Self::None | Self::Tokens(_) => Self::None,
            Self::Class(all) | Self::Pretraining { classes: all, .. } => Self::Class(pick(all, examples)),
            Self::Value(all) => Self::Value(pick(all, examples)),
            Self::Set(all) => Self::Set(pick(all, examples)),
            Self::Spans(all) => Self::Spans(pick(all, examples)),
            Self::Tags(all) => Self::Tags(examples.iter().flat_map(|&i| tags(all, i)).collect()),
        }
    }

    /// The targets of the examples of several batches of one task. Those of tokens are left out: batches end
    /// with padding.
    pub(super) fn joined<'a>(parts: impl Iterator<Item = &'a Self>) -> Self {
        let mut all = Self::None;
        for part in parts {
            match (&mut all, part) {
                (Self::Class(all), part) => all.extend_from_slice(part.classes()),
                (Self::Value(all), part) => all.extend_from_slice(part.values()),
                (Self::Set(all), part) => all.extend_from_slice(part.sets()),
                (Self::Spans(all), part) => all.extend_from_slice(part.spans()),
                (_, Self::Pretraining { classes, .. }) => all = Self::Class(classes.clone()),
                (_, Self::Tags(_) | Self::Tokens(_)) => {}
                (_, part) => all = part.clone(),
            }
        }
        all
    }

    /// Pads to a number of tokens, and to a number of tokens to predict, with what no loss reads.
    pub(super) fn pad(&mut self, all: usize, predicted: usize) {
        match self {
            Self::Tags(tags) => tags.resize(all, IGNORED),
            Self::Tokens(tokens) | Self::Pretraining { tokens, .. } => tokens.resize(predicted, IGNORED),
            Self::None | Self::Class(_) | Self::Value(_) | Self::Set(_) | Self::Spans(_) => {}
        }
    }
}

/// The items at these places; those that do not exist are left out.
fn pick<T: Clone>(all: &[T], places: &[u32]) -> Vec<T> {
    places.iter().filter_map(|&i| all.get(i as usize)).cloned().collect()
}
