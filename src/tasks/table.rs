//! What is known of a task besides its loss: the table that recipes, help, documentation and the program
//! read.

use super::{Mask, Permute, Task};
use crate::data::{Documents, TokenSet};
use crate::error::{Error, Result};
use crate::models::Outputs;
use crate::text::Tokenizer;
use std::sync::Arc;

/// A task as recipes, help and the program know it.
pub struct TaskEntry {
    /// Its name in recipes.
    pub name: &'static str,
    /// What it does, as the rest of a sentence that starts with its name.
    pub doc: &'static str,
    /// The default of `train.best_metric`.
    pub best_metric: &'static str,
    /// The metrics that its meter gives. Where a setting decides which these are, a list for each value of
    /// the setting; the first of the two strings names the task, with that value in brackets.
    pub metrics: &'static [(&'static str, &'static [&'static str])],
    /// The kind of its data.
    pub data: DataKind,
    /// Whether it trains heads with these outputs.
    pub trains: fn(&Outputs) -> bool,
    /// The tables of a recipe that it reads besides those of every task.
    pub sections: &'static [&'static str],
    /// Whether its labels are classes: `data.classes` may name them, and `[loss]` may weigh them.
    pub classes: bool,
    /// Whether its rows may have weights (`data.weight`, [`Batch::weights`](crate::data::Batch::weights)):
    /// each has one loss.
    pub weights: bool,
    /// What `tempra eval` prints, for its help; a line each.
    pub scores: &'static [&'static str],
    /// The columns that `tempra predict` adds to a table, for its help; empty if it writes no table.
    pub columns: &'static [&'static str],
}

/// The kind of data that a task reads.
pub enum DataKind {
    /// Rows of a table, with a label column or none.
    Rows,
    /// Sentences of words with tags.
    Sentences,
    /// Questions with contexts and answers.
    Questions,
    /// Texts without labels.
    Documents(LanguageTask),
    /// Recipes of other tasks.
    Recipes,
}

/// A task that learns from texts without labels.
pub struct LanguageTask {
    /// The outputs of its head.
    pub outputs: fn() -> Outputs,
    /// Makes examples of at most so many tokens from documents; what is random depends on the seed.
    pub examples: fn(&Documents, &Tokenizer, usize, u64) -> Result<TokenSet>,
    /// The task with these settings.
    pub build: fn(&LanguageSettings<'_>) -> Result<Arc<dyn Task>>,
    /// The meaning of the classes of pairs, for a task that also classifies pairs of texts.
    pub pair: Option<PairClasses>,
    /// The model that `tempra init` proposes, where most models cannot learn the task.
    pub model: Option<&'static str>,
}

/// The two classes of pairs of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairClasses {
    /// The column of the probability of the first class.
    pub column: &'static str,
    /// What each class means, for a person.
    pub names: [&'static str; 2],
    /// How many documents the pairs need at least.
    pub documents: usize,
}

/// Settings of language modelling, as in the tables `[mask]` and `[permute]` of a recipe.
#[derive(Clone, Copy)]
pub struct LanguageSettings<'a> {
    /// The tokenizer, which has the mask token.
    pub tokenizer: &'a Tokenizer,
    /// The size of the vocabulary.
    pub vocab: usize,
    /// [`Mask::probability`].
    pub mask_probability: f64,
    /// [`Mask::whole_word`].
    pub whole_word: bool,
    /// [`Permute::probability`].
    pub permute_probability: f64,
    /// [`Permute::max_span`].
    pub max_span: u32,
}

impl<'a> LanguageSettings<'a> {
    /// The defaults of a recipe.
    pub fn new(tokenizer: &'a Tokenizer, vocab: usize) -> Self {
        Self {
            tokenizer,
            vocab,
            mask_probability: 0.15,
            whole_word: false,
            permute_probability: Permute::PROBABILITY,
            max_span: Permute::MAX_SPAN,
        }
    }

    /// How tokens are masked.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) for a tokenizer without a mask token.
    pub fn mask(&self) -> Result<Mask> {
        let mask = self.tokenizer.mask().ok_or_else(|| {
            Error::model("the tokenizer has no mask token")
                .with_expected("[MASK] or <mask> among its special tokens")
                .with_help("choose a model that was pretrained with a mask token")
        })?;
        let (probability, whole_word) = (self.mask_probability, self.whole_word);
        Ok(Mask { probability, whole_word, mask, vocab: self.vocab as u32 })
    }
}

impl TaskEntry {
    /// The task's part on language modelling; `None` for tasks with labels.
    pub fn language(&self) -> Option<&LanguageTask> {
        if let DataKind::Documents(language) = &self.data { Some(language) } else { None }
    }
    /// The meaning of its pairs, if it makes pairs of the sentences of documents.
    pub fn pair(&self) -> Option<&PairClasses> {
        self.language()?.pair.as_ref()
    }
    /// Whether it reads rows of a table.
    pub fn rows(&self) -> bool {
        matches!(self.data, DataKind::Rows)
    }
}
