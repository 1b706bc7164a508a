//! Labelled data for the head of a model, and the task that scores it.

use super::session::Session;
use crate::data::{
    self, Columns, Contexts, Label, OnBadRow, Row, Table, Targets, TokenSet, Words, read_documents,
    read_questions, tag_numbers,
};
use crate::error::{Error, Result};
use crate::models::{Outputs, numbered};
use crate::suggest::nearest;
use crate::tasks::{
    Answer, Classify, LanguageSettings, Multilabel, Regress, Similar, SimilarityLoss, Tag, Task, TaskEntry,
    of_outputs,
};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// The seed of the pairs of a language model: every evaluation has the same pairs.
const PAIRS: u64 = 0;
/// The label column by default; as `data.label` of a recipe.
const LABEL: &str = "label";
/// What to do about pairs that do not belong together, if every pair is scored as if it did.
const NOT_PARTNERS: &str = "remove such rows; or add --label \"\" if the column means something else; or add --label COLUMN --label-scale N to correlate the labels with cosine similarities";

impl Session {
    /// The task of the head, and the examples of a labelled file.
    ///
    /// # Errors
    /// Those of reading the file, and of its labels.
    pub fn labelled(&self, path: &Path) -> Result<(Arc<dyn Task>, TokenSet)> {
        let (folder, metadata, outputs) = (&self.folder, &self.folder.metadata, self.outputs());
        let (tokenizer, longest, stop) = (self.tokenizer(), folder.max_length, OnBadRow::Stop);
        let table = || {
            let label = Some(metadata.label_column().unwrap_or(LABEL).to_owned());
            let columns = Columns { label, ..folder.columns.clone() };
            match outputs {
                Outputs::Labels(_) => data::read_with_sets(path, &columns, stop),
                _ => data::read(path, &columns, stop),
            }
        };
        Ok(match outputs {
            Outputs::Classes(classes) => {
                let table = table()?;
                let written = table.rows.iter().filter_map(|r| r.label.as_deref());
                let labels = known(&table, &as_written(classes, written)?)?;
                let classes = classes.clone();
                let task = Classify { classes, label_smoothing: 0.0, class_weights: None, gamma: 0.0 };
                (Arc::new(task), self.tokens(&table.rows, labels)?)
            }
            Outputs::Number => {
                let table = table()?;
                let labels = data::Target::Regress.labels(&table)?;
                // Predictions are in original units, the loss in those of training.
                let unit = metadata.target_std.filter(|std| *std > 0.0).unwrap_or(1.0);
                (Arc::new(Regress { unit, ..Regress::default() }), self.tokens(&table.rows, labels)?)
            }
            Outputs::Labels(classes) => {
                let (table, sets) = self.sets(path, classes)?;
                let set = TokenSet { targets: Targets::Set(sets), ..self.tokens(&table.rows, Vec::new())? };
                let thresholds = metadata.thresholds_of(classes);
                (Arc::new(Multilabel { thresholds, ..Multilabel::new(classes.clone()) }), set)
            }
            Outputs::Tags(classes) => {
                let label = metadata.label_column().unwrap_or(LABEL);
                let (format, strict) = self.tag_format();
                let sentences = self.read_sentences(path, Some(label))?;
                let written = sentences.iter().flat_map(|s| s.sentence.tags.iter().map(String::as_str));
                let known = as_written(classes, written)?;
                let tags = tag_numbers(path, sentences.iter().map(|s| &s.sentence), &known)?;
                let set =
                    Words::of_sentences(tokenizer, sentences, Some(tags), longest, metadata.window_stride())?;
                let (label_smoothing, class_weights, gamma) = (0.0, None, 0.0);
                let classes = classes.clone();
                (Arc::new(Tag { classes, label_smoothing, class_weights, gamma, format, strict }), set)
            }
            Outputs::Span => {
                let questions = read_questions(path, true, stop)?.items;
                let search = folder.search();
                let set = Contexts::build(tokenizer, questions, longest, metadata.window_stride(), true)
                    .map_err(Self::window_error)?;
                (Arc::new(Answer { search }), set)
            }
            Outputs::Embedding => {
                if metadata.contrastive() {
                    return self.partners(path);
                }
                let table = table()?;
                let labels = data::Target::Regress.labels(&table)?;
                let label_scale = metadata.label_scale.unwrap_or(1.0);
                data::check_similarities(&table, &labels, label_scale, "--label-scale")?;
                let set = TokenSet::of_pairs(tokenizer, &table.rows, labels, longest)?;
                (Arc::new(Similar { loss: SimilarityLoss::Cosine { label_scale } }), set)
            }
            Outputs::Tokens | Outputs::Permuted | Outputs::Pretraining(_) => {
                let Some(language) = of_outputs(outputs).and_then(TaskEntry::language) else {
                    return Err(Error::model("the head of the model belongs to no task").at(&folder.dir));
                };
                let documents = read_documents(path, &folder.columns.text, false, stop)?;
                let settings = LanguageSettings::new(tokenizer, folder.vocab);
                let task = (language.build)(&settings).map_err(|e| e.at(&folder.dir))?;
                (task, (language.examples)(&documents, tokenizer, longest, PAIRS)?)
            }
        })
    }

    /// The rows of a file with the classes of each: from one column, or from a 0/1 column for each class.
    fn sets(&self, path: &Path, classes: &[String]) -> Result<(Table, Vec<Vec<u32>>)> {
        let (folder, metadata) = (&self.folder, &self.folder.metadata);
        let mut indicators = metadata.indicators().to_vec();
        let label = metadata.label_column().unwrap_or(LABEL);
        if indicators.is_empty() {
            indicators =
                Some(data::label_columns(path, label)?).filter(|names| names.len() > 1).unwrap_or_default();
        }
        if indicators.is_empty() {
            let columns = Columns { label: Some(label.to_owned()), ..folder.columns.clone() };
            let table = data::read_with_sets(path, &columns, OnBadRow::Stop)?;
            let written = table.rows.iter().filter_map(|r| r.label.as_deref());
            let sets = data::sets(
                &table,
                metadata.separator.as_deref().unwrap_or(","),
                &as_written(classes, written)?,
            )?;
            return Ok((table, sets));
        }
        let missing = classes.iter().find(|class| !indicators.contains(class));
        let strange = indicators.iter().find(|name| !classes.contains(name));
        if let Some(class) = missing.or(strange) {
            let what = match missing {
                Some(_) => format!("no label column is named {class:?}, but a class of the model is"),
                None => format!("the model has no class {class:?}, but a label column has this name"),
            };
            return Err(Error::usage(what)
                .at(path)
                .with_expected(listed(classes))
                .with_found(listed(&indicators))
                .with_help("list a column for each class of the model with --label, or rename the columns"));
        }
        // In the order of the model, so that the numbers are its own.
        data::read_with_indicators(path, &folder.columns, classes, OnBadRow::Stop)
    }

    /// The task of a model trained on pairs that belong together, and the pairs of a file.
    fn partners(&self, path: &Path) -> Result<(Arc<dyn Task>, TokenSet)> {
        let (folder, metadata, stop) = (&self.folder, &self.folder.metadata, OnBadRow::Stop);
        let label = metadata.label_column().map(str::to_owned);
        let optional = label.as_deref() == Some(LABEL);
        let columns = Columns { label, ..folder.columns.clone() };
        let table = match optional {
            true => data::read_with_optional_label(path, &columns, stop)?,
            false => data::read(path, &columns, stop)?,
        };
        data::check_partners(&table, NOT_PARTNERS)?;
        let temperature = metadata.temperature.unwrap_or(1.0);
        let set = TokenSet::of_pairs(self.tokenizer(), &table.rows, Vec::new(), folder.max_length)?;
        Ok((Arc::new(Similar { loss: SimilarityLoss::Contrastive { temperature } }), set))
    }
}

/// The names of a model's classes as the data writes them. transformers' defaults `LABEL_0`, `LABEL_1`, ...
/// stand for numbers: data without such a name holds the numbers themselves.
fn as_written<'a>(classes: &[String], mut written: impl Iterator<Item = &'a str>) -> Result<Vec<String>> {
    let mut seen = HashSet::new();
    if let Some(twice) = classes.iter().find(|name| !seen.insert(name.as_str())) {
        return Err(Error::model(format!("two classes of the model have the same name: {twice:?}"))
            .with_expected("each name once in id2label of its config.json")
            .with_help("rename one of them, so that each label means one class"));
    }
    Ok(if written.any(|label| label.contains("LABEL_")) { classes.to_vec() } else { numbered(classes) })
}

/// The labels as the model numbers them.
fn known(table: &Table, classes: &[String]) -> Result<Vec<Label>> {
    let known: HashSet<&str> = classes.iter().map(String::as_str).collect();
    let unknown = |label: &&str| !known.contains(label);
    let of = |(i, row): (usize, &'_ Row)| Some((row.label.clone().filter(|l| unknown(&l.as_str()))?, i));
    let Some((label, index)) = table.rows.iter().enumerate().find_map(of) else {
        return data::Target::Classify { classes: classes.to_vec() }.labels(table);
    };
    let strange = table.rows.iter().filter(|r| r.label.as_deref().as_ref().is_some_and(unknown)).count();
    let e = table
        .error(index, format!("the model has no class {label:?}"))
        .with_expected(listed(classes))
        .with_found(format!("{label:?}; {strange} of {} rows have unknown labels", table.rows.len()));
    Err(match nearest(&label, classes.iter().map(String::as_str)) {
        Some(near) => e.with_help(format!("did you mean {near:?}?")),
        None => e.with_help("choose the label column with --label, or remove these rows"),
    })
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}
