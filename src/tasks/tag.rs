//! A tag for each word: cross-entropy on the first token of each word, as `transformers` trains token
//! classification.

use super::{DataKind, Meter, SoftKind, SoftOutput, Task, TaskEntry, only, reals, unlabelled};
use crate::data::{Batch, IGNORED, Origin, Scheme, Span, TagFormat, TagRule, TokenSet, Words};
use crate::error::{Error, Result};
use crate::metrics::{ClassScores, Entities, Scores, WordTags};
use crate::models::Outputs;
use crate::ops::cross_entropy::CrossEntropy;
use crate::shape::DType;
use crate::tape::{Tape, Var};
use std::cell::OnceCell;
use std::sync::Arc;

/// How the tags of a file say where an entity begins and ends: a setting of the recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagScheme {
    /// Whichever fits, if they say that at all.
    Auto,
    /// `B-` only between neighbours of one type.
    Iob1,
    /// `B-` at the first word of each.
    Iob2,
    /// `S-` for one word, `E-` for the last of several.
    Iobes,
    /// `U-` for one word, `L-` for the last of several.
    Bilou,
    /// They do not: each is a class of its word, such as a part of speech.
    None,
}

impl TagScheme {
    /// How the tags of files are read; `strict` as in the recipe.
    pub fn rule(self, strict: bool) -> TagRule {
        match self {
            Self::Auto => TagRule::Auto { strict },
            Self::None => TagRule::Format { format: TagFormat::Words, strict },
            Self::Iob1 => TagRule::Scheme(Scheme::Iob1),
            Self::Iob2 => TagRule::Scheme(Scheme::Iob2),
            Self::Iobes => TagRule::Scheme(Scheme::Iobes),
            Self::Bilou => TagRule::Scheme(Scheme::Bilou),
        }
    }
}

/// The task's entry in the table.
pub(super) const ENTRY: TaskEntry = TaskEntry {
    name: "tag",
    doc: "predicts a tag for each word",
    best_metric: "f1",
    metrics: &[("tag", &["accuracy", "f1", "precision", "recall", "f1_macro", "f1_weighted", "loss"])],
    data: DataKind::Sentences,
    trains: |outputs| matches!(outputs, Outputs::Tags(_)),
    sections: &["tag"],
    classes: true,
    weights: false,
    scores: &["F1 of entities, or of all words if the tags are no spans"],
    columns: &[],
};

/// The task; see the module.
#[derive(Clone, Debug)]
pub struct Tag {
    /// The tags' names, in the order of the outputs.
    pub classes: Vec<String>,
    /// Share of the target spread over all tags.
    pub label_smoothing: f32,
    /// Weight of each tag in the loss.
    pub class_weights: Option<Vec<f32>>,
    /// How much less what is known well counts in the loss (Lin et al. 2017); 0 counts all alike.
    pub gamma: f32,
    /// How the tags are written.
    pub format: TagFormat,
    /// Whether only spans that follow the scheme of the format count, instead of being read as the CoNLL
    /// script does.
    pub strict: bool,
}

impl Task for Tag {
    fn outputs(&self) -> Outputs {
        Outputs::Tags(self.classes.clone())
    }
    /// The sum of the weights of the words' tags.
    fn weights(&self, batch: &Batch) -> [f64; 2] {
        [self.class_rows(batch).into_iter().flatten().sum(), 0.0]
    }
    fn class_rows(&self, batch: &Batch) -> Option<Vec<f64>> {
        let one = |&c: &u32| match &self.class_weights {
            _ if c == IGNORED => 0.0,
            Some(w) => w.get(c as usize).map_or(0.0, |&w| w as f64),
            None => 1.0,
        };
        Some(batch.targets.tags().iter().map(one).collect())
    }
    fn loss(&self, tape: &mut Tape, outputs: &[Var], batch: &Batch, [scale, _]: [f64; 2]) -> Result<Var> {
        let tags = batch.targets.tags();
        if tags.len() != batch.ids.len() {
            return Err(unlabelled());
        }
        let logits = only(outputs)?;
        let labels = tape.device().upload(DType::U32, &[tags.len()], tags)?;
        let mut x = vec![logits.clone(), tape.constant(labels), reals(tape, logits, &[1], &[scale])?];
        if let Some(w) = &self.class_weights {
            let w: Vec<f64> = w.iter().map(|&w| w as f64).collect();
            x.push(reals(tape, logits, &[w.len()], &w)?);
        }
        let (label_smoothing, weighted) = (self.label_smoothing, self.class_weights.is_some());
        tape.apply(CrossEntropy { label_smoothing, ignore_index: IGNORED, weighted, gamma: self.gamma }, x)
    }
    fn soft(&self) -> Option<SoftOutput> {
        Some(SoftKind::Tags.first())
    }
    fn meter(&self, set: &TokenSet) -> Box<dyn Meter> {
        Box::new(Tagged::new(&self.classes, self.format, self.strict, set))
    }
    /// What even perfect predictions score 0 in, or nothing.
    fn uninformative(&self, metric: &str, set: &TokenSet) -> Result<Option<String>> {
        let mut perfect = Tagged::new(&self.classes, self.format, self.strict, set);
        perfect.tags = perfect.words.tags.iter().map(|s| s.iter().map(|&tag| (tag, 1.0)).collect()).collect();
        let score = perfect.scores().get(metric).filter(|_| metric != "loss");
        let nothing = score.is_some_and(|s| s.is_nan() || s == 0.0);
        Ok(nothing.then(|| "no entity occurs in them".to_owned()))
    }
}

/// The tags that a model gives to the words of a set of windows.
pub struct Tagged {
    names: Vec<String>,
    words: Arc<Words>,
    /// The tag of each word of each sentence, with its probability. A word without tokens has tag O, if
    /// there is one, with probability 1.
    pub tags: Vec<Vec<(u32, f32)>>,
    format: TagFormat,
    strict: bool,
    /// The sum of the losses of each sentence, and of how many words.
    losses: Vec<(f64, u64)>,
    /// What each sentence counts, and whether its tags do.
    each: OnceCell<Vec<(TagCounts, bool)>>,
}

impl Tagged {
    /// Nothing predicted yet. `format`, `strict`: see [`Tag`].
    pub fn new(names: &[String], format: TagFormat, strict: bool, set: &TokenSet) -> Self {
        let words = match &set.origin {
            Origin::Words(words) => words.clone(),
            _ => Arc::default(),
        };
        let outside = names.iter().position(|n| n == "O").unwrap_or(0) as u32;
        let tags: Vec<_> = words.lengths.iter().map(|&n| vec![(outside, 1.0); n as usize]).collect();
        let (losses, each) = (vec![(0.0, 0); tags.len()], OnceCell::new());
        Self { names: names.to_vec(), words, tags, format, strict, losses, each }
    }

    /// The spans of a sentence's tags, as they are scored.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) if they are read strictly and the scheme does not have a tag.
    pub fn spans(&self, tags: &[&str]) -> Result<Vec<Span>> {
        if self.strict { self.format.strict_spans(tags) } else { Ok(self.format.spans(tags)) }
    }
}

impl Meter for Tagged {
    fn add(&mut self, outputs: &[Vec<f32>], batch: &Batch) -> Result<()> {
        let logits = only(outputs)?;
        self.each.take();
        let classes = self.names.len();
        for (&example, start) in batch.examples.iter().zip(&batch.cu_seqlens) {
            let window = example as usize;
            let (Some(&sentence), Some(heads)) =
                (self.words.sentence.get(window), self.words.heads.get(window))
            else {
                return Err(
                    Error::shape("a window that the set does not have").with_found(window.to_string())
                );
            };
            for &(token, word) in heads {
                let at = (start + token) as usize * classes;
                let row = logits.get(at..at + classes).unwrap_or_default();
                let (best, lse) = best(row);
                let probability = (row.get(best).copied().unwrap_or(f32::NAN) as f64 - lse).exp();
                self.tags[sentence as usize][word as usize] = (best as u32, probability as f32);
                if let Some(&gold) = self.words.tags.get(sentence as usize).and_then(|t| t.get(word as usize))
                {
                    let (loss, counted) = &mut self.losses[sentence as usize];
                    *loss += lse - row.get(gold as usize).copied().unwrap_or(f32::NAN) as f64;
                    *counted += 1;
                }
            }
        }
        Ok(())
    }
    fn scores(&self) -> Scores {
        self.counts(0..self.tags.len()).0.scores()
    }
    fn report(&self) -> String {
        let (counts, left_out) = self.counts(0..self.tags.len());
        let table = match counts {
            TagCounts::Spans(entities) => entities.to_string(),
            TagCounts::Words(words) => words.counts().table(&self.names).to_string(),
        };
        match left_out {
            0 => table,
            n => format!("{table}{n} sentences have tags that are not of the scheme and count nowhere\n"),
        }
    }
    fn per_class(&self) -> Vec<(String, ClassScores)> {
        match self.counts(0..self.tags.len()).0 {
            TagCounts::Spans(entities) => entities.per_type().map(|(name, s)| (name.to_owned(), s)).collect(),
            TagCounts::Words(words) => self.names.iter().cloned().zip(words.counts().per_class()).collect(),
        }
    }
    fn units(&self) -> usize {
        self.words.tags.len()
    }
    fn scores_of(&self, drawn: &[usize]) -> Scores {
        self.counts(drawn.iter().copied()).0.scores()
    }
}

impl Tagged {
    /// What was counted of these sentences, and how many could not be: strictly read, a tag may be of no
    /// scheme.
    fn counts(&self, sentences: impl Iterator<Item = usize>) -> (TagCounts, usize) {
        let none = || match (self.format, self.strict) {
            (TagFormat::Words, _) => TagCounts::Words(WordTags::new(self.names.len())),
            (format, false) => TagCounts::Spans(Entities::of(format)),
            (format, true) => TagCounts::Spans(Entities::strict_of(format)),
        };
        type Sentence<'a> = (&'a Vec<u32>, &'a Vec<(u32, f32)>);
        let one = |(i, ((gold, found), &(loss, words))): (usize, (Sentence, &(f64, u64)))| {
            let found: Vec<u32> = found.iter().map(|t| t.0).collect();
            let mut counts = none();
            if let (TagCounts::Spans(entities), Some(missed)) = (&mut counts, self.words.missed.get(i)) {
                entities.add_missed(missed);
            }
            let fits = counts.add(&self.names, &found, gold, (loss, words)).is_ok();
            (counts, fits)
        };
        let all = self.words.tags.iter().zip(&self.tags).zip(&self.losses);
        let each = self.each.get_or_init(|| all.enumerate().map(one).collect());
        let (mut sum, mut left_out) = (none(), 0);
        for (sentence, fits) in sentences.filter_map(|i| each.get(i)) {
            sum.merge(sentence);
            left_out += usize::from(!fits);
        }
        (sum, left_out)
    }
}

/// What is counted of tags: spans, or words.
enum TagCounts {
    Spans(Entities),
    Words(WordTags),
}

impl TagCounts {
    /// Counts a sentence, with the sum of the losses of so many words.
    fn add(
        &mut self,
        names: &[String],
        found: &[u32],
        gold: &[u32],
        (loss, words): (f64, u64),
    ) -> Result<()> {
        match self {
            Self::Spans(entities) => {
                let name = |&c: &u32| names.get(c as usize).map_or("O", String::as_str);
                entities.add_loss(loss, words);
                let [found, gold] = [found, gold].map(|tags| tags.iter().map(name).collect::<Vec<_>>());
                entities.add(&found, &gold)
            }
            Self::Words(tags) => {
                tags.add_loss(loss, words);
                tags.add(found, gold)
            }
        }
    }
    fn merge(&mut self, other: &Self) {
        // All sentences of a meter are counted in the same way, so that no merge fails.
        let _ = match (self, other) {
            (Self::Spans(a), Self::Spans(b)) => a.merge(b),
            (Self::Words(a), Self::Words(b)) => a.merge(b),
            _ => Ok(()),
        };
    }
    fn scores(&self) -> Scores {
        match self {
            Self::Spans(entities) => entities.scores(),
            Self::Words(tags) => tags.scores(),
        }
    }
}

/// The first greatest of some logits, and the logarithm of the sum of their exponentials.
pub(super) fn best(row: &[f32]) -> (usize, f64) {
    let best = (0..row.len()).fold(0, |b, i| if row[i] > row[b] { i } else { b });
    let most = row.get(best).copied().unwrap_or(0.0) as f64;
    (best, most + row.iter().map(|&z| (z as f64 - most).exp()).sum::<f64>().ln())
}
