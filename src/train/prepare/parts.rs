//! From the data of a recipe to examples with a task: the part of a run that knows the formats and the
//! labels.

use super::super::recipe::{self, Recipe};
use super::files::{Splits, files, on_bad, share, split_paths};
use super::task_run::TaskRun;
use super::tasks::{given_weights, language_settings, rows_task};
use crate::data::{
    self, Columns, Contexts, Documents, Label, Question, Row, Table, TagFormat, TagSource, TaggedText,
    Target, Targets, TokenSet, Words,
};
use crate::error::{Error, Result};
use crate::models::Outputs;
use crate::tasks::{Answer, DataKind, Search, Tag, Task, TaskMetadata, mean_and_deviation};
use crate::text::Tokenizer;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// What a task and its examples are made of: read, not yet tokens.
pub(super) struct Source {
    /// What the head gives.
    pub outputs: Outputs,
    /// The names of classes or tags.
    pub classes: Vec<String>,
    /// Hashes of the files.
    pub hashes: Vec<String>,
    /// Rows that were skipped.
    pub skipped: u64,
    /// Whether inputs are two texts in one sequence.
    pub pairs: bool,
    raw: Raw,
}

/// What a tokenizer needs besides to make examples.
pub(super) struct Encoder<'a> {
    pub tokenizer: &'a Tokenizer,
    /// Rows of the token table.
    pub vocab: usize,
    /// Where tokens are kept for the next run.
    pub cache: Option<&'a Path>,
}

enum Raw {
    Rows { splits: Splits<Rows>, kind: RowTask },
    Sentences(Splits<Vec<TaggedText>>, TagFormat),
    Questions(Splits<Vec<Question>>),
    Documents(Splits<Documents>),
}

/// What rows are for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum RowTask {
    Classify,
    Multilabel,
    Regress,
    Similar,
}

impl RowTask {
    /// What the rows of a task are for.
    fn of(task: recipe::TaskKind) -> Self {
        match task {
            recipe::TaskKind::Multilabel => Self::Multilabel,
            recipe::TaskKind::Regress => Self::Regress,
            recipe::TaskKind::Similar => Self::Similar,
            _ => Self::Classify,
        }
    }
}

/// A row, its label, its classes where it may have several, its weight where rows have weights.
type Labelled = (Row, Option<Label>, Vec<u32>, Option<f32>);

/// Rows with their labels.
#[derive(Default)]
pub(super) struct Rows {
    pub rows: Vec<Row>,
    pub labels: Vec<Label>,
    pub sets: Vec<Vec<u32>>,
    /// Empty where all rows weigh the same.
    pub weights: Vec<f32>,
}

impl Rows {
    fn of(labelled: Vec<Labelled>, kind: RowTask) -> Self {
        let mut rows = Self::default();
        for (row, label, set, weight) in labelled {
            rows.rows.push(row);
            rows.labels.extend(label);
            rows.weights.extend(weight);
            if kind == RowTask::Multilabel {
                rows.sets.push(set);
            }
        }
        // Only the ratios of weights count.
        if rows.weights.windows(2).all(|pair| pair[0] == pair[1]) {
            rows.weights.clear();
        }
        rows
    }
}

/// Reads what a recipe's task learns from.
pub(super) fn read(r: &Recipe) -> Result<Source> {
    match &r.task.entry().data {
        DataKind::Rows => rows(r, RowTask::of(r.task)),
        DataKind::Sentences => sentences(r),
        DataKind::Questions => questions(r),
        DataKind::Documents(language) => documents(r, (language.outputs)()),
        DataKind::Recipes => Err(Error::usage("a recipe in multi.recipes has task = \"multi\" itself")
            .with_help("name recipes of single tasks")),
    }
}

/// What to do about pairs that do not belong together, where every pair is trained as if it did.
const NOT_PARTNERS: &str = "remove such rows; or set data.label = \"\" if the column has another meaning; or set similar.loss = \"cosine\" to train towards the labels";

fn rows(r: &Recipe, kind: RowTask) -> Result<Source> {
    let d = &r.data;
    let contrastive = kind == RowTask::Similar && r.similar.loss == recipe::PairLoss::Contrastive;
    let label = Some(d.label.as_str()).filter(|name| !name.is_empty()).map(str::to_owned);
    let columns = Columns { text: d.text.clone(), pair: d.pair.clone(), label, weight: None };
    // Only what is trained on is weighted: the training file comes first.
    let mut weight = d.weight.clone();
    let indicators = d.label.several();
    // Pairs need no label; a column that was named must be there all the same.
    let optional_label = contrastive && d.label == recipe::Recipe::default().data.label;
    if kind == RowTask::Similar && d.pair.is_none() {
        return Err(Error::usage("data.pair is missing: task \"similar\" compares two texts")
            .with_help("set data.pair to the column of the second text"));
    }
    let found = files(r, |path| {
        let columns = Columns { weight: weight.take(), ..columns.clone() };
        let (table, sets) = match kind {
            RowTask::Multilabel if !indicators.is_empty() => {
                data::read_with_indicators(path, &columns, indicators, on_bad(r))?
            }
            RowTask::Multilabel => (data::read_with_sets(path, &columns, on_bad(r))?, Vec::new()),
            _ if optional_label => (data::read_with_optional_label(path, &columns, on_bad(r))?, Vec::new()),
            _ => (data::read(path, &columns, on_bad(r))?, Vec::new()),
        };
        let (hash, bad) = (table.hash.clone(), table.bad_count);
        Ok(((table, sets), hash, bad))
    })?;
    let given = Some(&d.classes[..]).filter(|c| !c.is_empty());
    let Some((train, _)) = &found.splits[0] else {
        return Err(Error::data("no training examples").at(&d.train));
    };
    let target = match kind {
        RowTask::Classify => Target::classes(train, given)?,
        RowTask::Multilabel if !indicators.is_empty() => Target::Classify { classes: indicators.to_vec() },
        RowTask::Multilabel => Target::Classify { classes: data::class_sets(train, &d.separator, given)? },
        RowTask::Regress | RowTask::Similar => Target::Regress,
    };
    let label = |(t, sets): (Table, Vec<Vec<u32>>)| -> Result<Vec<Labelled>> {
        let (labels, sets) = match (&target, kind) {
            (_, RowTask::Multilabel) if !indicators.is_empty() => (Vec::new(), sets),
            (Target::Classify { classes }, RowTask::Multilabel) => {
                (Vec::new(), data::sets(&t, &d.separator, classes)?)
            }
            _ if contrastive => {
                data::check_partners(&t, NOT_PARTNERS)?;
                (Vec::new(), Vec::new())
            }
            _ => {
                let labels = target.labels(&t)?;
                if kind == RowTask::Similar {
                    data::check_similarities(&t, &labels, r.similar.label_scale, "similar.label_scale")?;
                }
                (labels, Vec::new())
            }
        };
        let mut sets = sets.into_iter();
        let (mut labels, mut weights) = (labels.into_iter(), t.weights.into_iter());
        let rows = t.rows.into_iter();
        Ok(rows.map(|row| (row, labels.next(), sets.next().unwrap_or_default(), weights.next())).collect())
    };
    let [train, validation, test] = found.splits;
    let train = train.map(|t| without_zero_weights(label(t)?, r)).transpose()?;
    let splits = [train, validation.map(&label).transpose()?, test.map(&label).transpose()?];
    // Listed classes say that the file need not have them all.
    if let (Target::Classify { classes }, RowTask::Multilabel, Some(train), None) =
        (&target, kind, &splits[0], given)
    {
        let sets: Vec<Vec<u32>> = train.iter().map(|(_, _, set, _)| set.clone()).collect();
        data::check_sets(&d.train, &sets, classes)?;
    }
    let strata: Option<Vec<Label>> = match &splits[0] {
        Some(train) if kind == RowTask::Classify => train.iter().map(|x| x.1).collect(),
        _ => None,
    };
    let key = |(row, ..): &Labelled| match &row.pair {
        // No text holds this character by chance.
        Some(pair) => format!("{}\u{1F}{}", row.text.trim(), pair.trim()),
        None => row.text.trim().to_owned(),
    };
    let splits = share(r, splits, key, strata.as_deref())?;
    let [train, validation, test] = splits.map(|split| Some(Rows::of(split?, kind)));
    // Shares of the training file that are only scored.
    let unweighted = |rows: Rows| Rows { weights: Vec::new(), ..rows };
    let gathered = [train, validation.map(unweighted), test.map(unweighted)];
    let classes = match target {
        Target::Classify { classes } => classes,
        Target::Regress => Vec::new(),
    };
    let outputs = match kind {
        RowTask::Classify => Outputs::Classes(classes.clone()),
        RowTask::Multilabel => Outputs::Labels(classes.clone()),
        RowTask::Regress => Outputs::Number,
        RowTask::Similar => Outputs::Embedding,
    };
    let pairs = d.pair.is_some() && kind != RowTask::Similar;
    let raw = Raw::Rows { splits: gathered, kind };
    Ok(Source { outputs, classes, hashes: found.hashes, skipped: found.skipped, pairs, raw })
}

/// The training rows that count: those of weight 0 are left out, as if they were not in the file.
fn without_zero_weights(mut rows: Vec<Labelled>, r: &Recipe) -> Result<Vec<Labelled>> {
    let all = rows.len();
    rows.retain(|(.., weight)| *weight != Some(0.0));
    match &r.data.weight {
        Some(column) if rows.is_empty() && all > 0 => Err(Error::data(format!(
            "every weight in the column {column:?} is 0, so no row counts in the loss"
        ))
        .at(&r.data.train)
        .with_expected("at least one weight above 0")
        .with_help("check that data.weight names the right column")),
        _ => Ok(rows),
    }
}

fn sentences(r: &Recipe) -> Result<Source> {
    let d = &r.data;
    let rule = r.tag.scheme.rule(r.tag.strict);
    let source = TagSource { text: &d.text, label: Some(d.label.as_str()), rule, classes: &d.classes };
    // How tags are written can be told from all files only: one may hold single words alone.
    let paths: Vec<&Path> = split_paths(r).into_iter().flatten().collect();
    let (read, format) = data::read_tagged(&paths, &source, on_bad(r))?;
    if r.tag.strict && format == TagFormat::Words {
        return Err(Error::usage("tag.strict is set, but the tags of this file do not mark spans")
            .at(&d.train)
            .with_expected("tags such as B-PER, I-PER and O")
            .with_help("remove tag.strict: such tags are scored word by word"));
    }
    let mut read = read.into_iter();
    let found = files(r, |path| {
        let found = read.next().ok_or_else(|| Error::data("the file was not read").at(path))?;
        Ok((found.items, found.hash, found.bad_count))
    })?;
    let key = |s: &TaggedText| s.sentence.words.join(" ");
    let [train, validation, test] = share(r, found.splits, key, None)?;
    // Only to learn from are words cut where spans begin and end: what is scored must not depend on its
    // labels.
    let whole = |sentences: Vec<TaggedText>| -> Result<Vec<TaggedText>> {
        sentences.into_iter().map(|s| s.whole_words(format)).collect()
    };
    let splits = [train, validation.map(whole).transpose()?, test.map(whole).transpose()?];
    let Some(train) = splits[0].as_ref().filter(|s| !s.is_empty()) else {
        return Err(Error::data("no training sentences").at(&d.train));
    };
    let classes: Vec<String> = if d.classes.is_empty() {
        let tags = train.iter().flat_map(|s| s.sentence.tags.iter().map(String::as_str));
        let all: BTreeSet<&str> = tags.collect();
        // "O" first, as it is in most models: it is what a word is that is nothing.
        let outside = all.contains("O").then(|| "O".to_owned());
        outside.into_iter().chain(all.into_iter().filter(|t| *t != "O").map(str::to_owned)).collect()
    } else {
        d.classes.clone()
    };
    if classes.len() < 2 {
        return Err(Error::data("all words have the same tag: there is nothing to learn")
            .at(&d.train)
            .with_expected("at least two different tags in the training examples")
            .with_found(classes.join(", "))
            .with_help("check that data.label names the tag column and that the file is complete"));
    }
    let source = Source {
        outputs: Outputs::Tags(classes.clone()),
        classes,
        hashes: found.hashes,
        skipped: found.skipped,
        pairs: false,
        raw: Raw::Sentences(splits, format),
    };
    Ok(source)
}

fn questions(r: &Recipe) -> Result<Source> {
    let found = files(r, |path| {
        let found = data::read_questions(path, true, on_bad(r))?;
        Ok((found.items, found.hash, found.bad_count))
    })?;
    // Questions about one text stay together: their windows are the same.
    let splits = share(r, found.splits, |q: &Question| q.context.to_string(), None)?;
    let source = Source {
        outputs: Outputs::Span,
        classes: Vec::new(),
        hashes: found.hashes,
        skipped: found.skipped,
        pairs: true,
        raw: Raw::Questions(splits),
    };
    Ok(source)
}

fn documents(r: &Recipe, outputs: Outputs) -> Result<Source> {
    let d = &r.data;
    let found = files(r, |path| {
        let by_row = match outputs {
            Outputs::Tokens => r.mask.by_row,
            Outputs::Permuted => r.permute.by_row,
            _ => false,
        };
        let found = data::read_documents(path, &d.text, by_row, on_bad(r))?;
        let (hash, skipped) = (found.hash.clone(), found.skipped);
        Ok((found, hash, skipped))
    })?;
    let splits = share(r, found.splits.map(|s| Some(s?.documents)), |lines| lines.join("\n"), None)?;
    let mut paths = split_paths(r).into_iter();
    let again = splits.map(|documents| {
        let path = paths.next().flatten().unwrap_or(&d.train).to_path_buf();
        Some(Documents { path, documents: documents?, ..Documents::default() })
    });
    let raw = Raw::Documents(again);
    let pairs = r.task.entry().pair().is_some();
    Ok(Source { outputs, classes: Vec::new(), hashes: found.hashes, skipped: found.skipped, pairs, raw })
}

impl Source {
    /// Makes tokens, and the task that learns from them.
    pub fn encode(self, name: &str, r: &Recipe, e: &Encoder) -> Result<TaskRun> {
        let (d, classes) = (&r.data, self.classes);
        let (tokenizer, longest) = (e.tokenizer, d.max_length);
        let mut metadata = metadata(r);
        let (sets, task): (Splits<TokenSet>, Arc<dyn Task>) = match self.raw {
            Raw::Rows { splits, kind } => {
                let task = rows_task(r, kind, &classes, &splits)?;
                let sets = each(splits, |rows| {
                    if kind == RowTask::Similar {
                        return TokenSet::of_pairs(tokenizer, &rows.rows, rows.labels, longest);
                    }
                    let set = TokenSet::build(tokenizer, &rows.rows, rows.labels, longest, e.cache)?;
                    let set = TokenSet { weights: rows.weights, ..set };
                    Ok(match kind {
                        RowTask::Multilabel => TokenSet { targets: Targets::Set(rows.sets), ..set },
                        _ => set,
                    })
                })?;
                (sets, task)
            }
            Raw::Sentences(splits, format) => {
                metadata.set_tag_format(format);
                let [train, validation, test] = splits;
                let of = |sentences: Option<Vec<TaggedText>>, path: Option<&Path>| {
                    let path = path.unwrap_or(&d.train);
                    sentences.map(|s| tagged(tokenizer, s, &classes, r, path)).transpose()
                };
                let sets = [
                    of(train, None)?,
                    of(validation, d.validation.as_deref())?,
                    of(test, d.test.as_deref())?,
                ];
                let label_smoothing = r.loss.label_smoothing as f32;
                let class_weights = given_weights(r, &classes)?;
                let task = Tag {
                    classes: classes.clone(),
                    label_smoothing,
                    class_weights,
                    gamma: r.loss.focal_gamma as f32,
                    format,
                    strict: r.tag.strict,
                };
                (sets, Arc::new(task))
            }
            Raw::Questions(splits) => {
                // Only what is trained on teaches to give no answer.
                let impossible = splits[0].iter().flatten().any(|q| q.impossible);
                metadata.impossible = Some(impossible);
                let sets = each(splits, |q| Contexts::build(tokenizer, q, longest, d.stride, true))?;
                let a = &r.answer;
                let search = Search {
                    n_best: a.n_best,
                    max_length: a.max_length,
                    impossible,
                    null_threshold: a.null_threshold,
                };
                (sets, Arc::new(Answer { search }))
            }
            Raw::Documents(splits) => {
                let Some(language) = r.task.entry().language() else {
                    return Err(Error::shape("documents were read for a task with labels"));
                };
                let seed = d.split_seed;
                let sets =
                    each(splits, |documents| (language.examples)(&documents, tokenizer, longest, seed))?;
                (sets, (language.build)(&language_settings(r, tokenizer, e.vocab))?)
            }
        };
        let [train, validation, test] = sets.map(|s| s.map(Arc::new));
        let Some(train) = train.filter(|s| !s.is_empty()) else {
            return Err(Error::data("there are no training examples").at(&d.train));
        };
        for (split, set, file) in [("validation", &validation, &d.validation), ("test", &test, &d.test)] {
            if set.as_ref().is_some_and(|s| s.is_empty()) {
                return Err(Error::data(format!("there are no {split} examples"))
                    .at(file.as_ref().unwrap_or(&d.train))
                    .with_help(format!(
                        "set data.{split} to a file with examples, or remove it and set data.{split}_fraction"
                    )));
            }
        }
        let deviation = deviation(r, &train);
        if let Some((mean, std)) = task.units() {
            (metadata.target_mean, metadata.target_std) = (Some(mean), Some(std));
        }
        let best_metric = r.train.best_metric.clone();
        let name = name.to_owned();
        let weight = 1.0;
        let r_drop = r.loss.r_drop;
        Ok(TaskRun {
            name,
            task,
            classes,
            train,
            validation,
            test,
            weight,
            r_drop,
            labels: 1.0,
            soft: None,
            live: None,
            best_metric,
            deviation,
            metadata,
        })
    }
}

/// The standard deviation of the target values of examples, in the unit that metrics have; `None` where there
/// are none.
fn deviation(r: &Recipe, set: &TokenSet) -> Option<f64> {
    let unit = if r.task == recipe::TaskKind::Similar { r.similar.label_scale } else { 1.0 };
    let targets = set.targets.values();
    let weights = set.weights.iter().map(|w| f64::from(*w)).chain(std::iter::repeat(1.0));
    let weighted = targets.iter().map(|v| f64::from(*v) / unit).zip(weights);
    (!targets.is_empty()).then(|| mean_and_deviation(weighted).1)
}

/// How a model's texts were read, for whoever predicts with it.
fn metadata(r: &Recipe) -> TaskMetadata {
    let (d, a) = (&r.data, &r.answer);
    let mut metadata = TaskMetadata {
        task: Some(r.task.name().to_owned()),
        max_length: Some(d.max_length),
        text: Some(d.text.clone()),
        pair: d.pair.clone(),
        label: Some(d.label.clone()),
        ..TaskMetadata::default()
    };
    match r.task {
        recipe::TaskKind::Tag => {
            metadata.stride = Some(d.stride);
            metadata.strict = Some(r.tag.strict);
        }
        recipe::TaskKind::Answer => {
            metadata.stride = Some(d.stride);
            metadata.n_best = Some(a.n_best);
            metadata.max_answer_length = Some(a.max_length);
            metadata.null_threshold = Some(a.null_threshold);
        }
        recipe::TaskKind::Multilabel if d.label.several().is_empty() => {
            metadata.separator = Some(d.separator.clone());
        }
        recipe::TaskKind::Similar if r.similar.loss == recipe::PairLoss::Contrastive => {
            metadata.loss = Some(r.similar.loss.name().to_owned());
            metadata.temperature = Some(r.similar.temperature);
        }
        recipe::TaskKind::Similar => metadata.label_scale = Some(r.similar.label_scale),
        _ => {}
    }
    metadata
}

fn each<T, U>(splits: Splits<T>, mut f: impl FnMut(T) -> Result<U>) -> Result<Splits<U>> {
    let [a, b, c] = splits;
    Ok([a.map(&mut f).transpose()?, b.map(&mut f).transpose()?, c.map(&mut f).transpose()?])
}

fn tagged(
    tokenizer: &Tokenizer,
    sentences: Vec<TaggedText>,
    classes: &[String],
    r: &Recipe,
    path: &Path,
) -> Result<TokenSet> {
    let tags = data::tag_numbers(path, sentences.iter().map(|s| &s.sentence), classes)?;
    Words::of_sentences(tokenizer, sentences, Some(tags), r.data.max_length, r.data.stride)
}
