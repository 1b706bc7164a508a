//! Which columns of a table hold the labels.

use serde::{Deserialize, Serialize};

/// Which column holds the labels, or which columns do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LabelColumns {
    /// One column of labels.
    One(String),
    /// A 0/1 column for each class.
    Several(Vec<String>),
}

impl LabelColumns {
    /// The name of the only column; empty if there are several.
    pub fn as_str(&self) -> &str {
        if let Self::One(name) = self { name } else { "" }
    }
    /// The names of the 0/1 columns; none if there is one column of labels.
    pub fn several(&self) -> &[String] {
        if let Self::Several(names) = self { names } else { &[] }
    }
}
