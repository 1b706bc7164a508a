//! Parts of texts: tags of words with the entities they mark, and answers to questions.

use super::chunked::Chunked;
use super::session::Session;
use crate::data::{
    Contexts, OnBadRow, Question, Span, SpanText, TagFormat, TagRule, TagSource, TaggedText, Words,
    read_tagged,
};
use crate::error::{Error, Result};
use crate::models::Outputs;
use crate::tasks::{Finding, Found, Meter, Tagged};
use std::ops::Range;
use std::path::Path;

/// The tags of a sentence.
#[derive(Clone, Debug, PartialEq)]
pub struct SentenceTags {
    /// The sentence: its words and, if it was a text, the text.
    pub sentence: TaggedText,
    /// The tag of each word, with its probability. A word without tokens has tag O, if there is one, with
    /// probability 1.
    pub tags: Vec<(String, f32)>,
    /// The entities. Of tags that mark no spans, each word whose tag is not O.
    pub spans: Vec<Span>,
}

impl SentenceTags {
    /// The probability of an entity: the least of those of its tags.
    pub fn probability(&self, span: &Span) -> f32 {
        self.tags.get(span.start..span.end).unwrap_or_default().iter().map(|t| t.1).fold(1.0, f32::min)
    }

    /// The bytes of an entity in the text; `None` if the sentence was given as words.
    pub fn bytes(&self, span: &Span) -> Option<Range<usize>> {
        let (_, ranges) = self.sentence.text.as_ref()?;
        Some(ranges.get(span.start)?.start..ranges.get(span.end.checked_sub(1)?)?.end)
    }
}

/// The answers to a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// The question with its context.
    pub question: Question,
    /// The answer that is given, and the others with their probabilities.
    pub finding: Finding,
}

impl Session {
    /// The format of the model's tags, whether only spans that follow the scheme count, and the labels
    /// without a letter of the scheme. `tempra.json` decides, else the names of the labels; never the tags of
    /// the input.
    fn tag_rules<'a>(&self, labels: &'a [String]) -> (TagFormat, bool, Vec<&'a str>) {
        let metadata = &self.folder.metadata;
        let strict = metadata.strict.unwrap_or(false);
        match metadata.tag_format() {
            Some(TagFormat::Words) => (TagFormat::Words, false, Vec::new()),
            Some(format) => (format, strict, Vec::new()),
            None => {
                let (format, others) = TagFormat::of_labels(labels);
                (format, strict, others)
            }
        }
    }

    /// The names of the tags.
    pub(super) fn tag_names(&self) -> &[String] {
        if let Outputs::Tags(names) = self.outputs() { names } else { &[] }
    }

    /// How the tags of the model are written, and whether only spans that follow the scheme count.
    pub fn tag_format(&self) -> (TagFormat, bool) {
        let (format, strict, _) = self.tag_rules(self.tag_names());
        (format, strict)
    }

    /// A warning about labels of a tagger that are not read as their names suggest.
    pub fn odd_labels(&self) -> Option<String> {
        let labels = Some(self.tag_names()).filter(|names| !names.is_empty())?;
        let (_, _, others) = self.tag_rules(labels);
        if !others.is_empty() {
            let others = others.join(", ");
            return Some(format!("labels without a letter of the tag scheme count as O: {others}"));
        }
        if self.folder.metadata.scheme.is_some() {
            return None;
        }
        let (label, right) = TagFormat::misspelt(labels.iter().map(String::as_str))?;
        Some(format!(
            "every word counts as an entity of its own, since the model's labels follow no tag scheme: {label:?}\n  \
             help: write {right:?} and so on in id2label of its config.json to join words to entities"
        ))
    }

    /// The sentences of a file; with their tags if `label` names a column.
    ///
    /// # Errors
    /// Those of [`read_tagged`].
    pub fn read_sentences(&self, path: &Path, label: Option<&str>) -> Result<Vec<TaggedText>> {
        let (format, strict) = self.tag_format();
        let source = TagSource {
            text: &self.folder.columns.text,
            label,
            rule: TagRule::Format { format, strict },
            classes: &[],
        };
        let (files, _) = read_tagged(&[path], &source, OnBadRow::Stop)?;
        files.into_iter().flat_map(|file| file.items).map(|s| s.whole_words(format)).collect()
    }

    /// A text as a sentence of words.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) for a text that cannot be cut into words.
    pub fn sentence(&self, text: &str, line: u64) -> Result<TaggedText> {
        let text = SpanText { text: text.to_owned(), spans: Vec::new(), line };
        let (sentence, ranges, missed) = text.whole_words(self.tag_format().0)?;
        Ok(TaggedText { sentence, text: Some((text, ranges)), missed })
    }

    /// Tags every word of a stream of sentences, also beyond the longest input: long sentences are read in
    /// windows.
    ///
    /// An item is an error of kind [`Usage`](crate::error::Kind::Usage) for a model that does not tag words,
    /// and of kind [`Model`](crate::error::Kind::Model) for outputs that are not finite. The stream ends
    /// after an error.
    pub fn tags(
        &self,
        sentences: impl IntoIterator<Item = Result<TaggedText>>,
    ) -> impl Iterator<Item = Result<SentenceTags>> {
        Chunked::new(sentences.into_iter(), self.settings().chunk, |all, first| self.tag(all, first))
    }

    fn tag(&self, sentences: Vec<TaggedText>, first: usize) -> Result<Vec<SentenceTags>> {
        let Outputs::Tags(names) = self.outputs() else {
            return Err(Error::usage("the model does not tag words").at(&self.folder.dir));
        };
        let (format, strict) = self.tag_format();
        let words: Vec<Vec<String>> = sentences.iter().map(|s| s.sentence.words.clone()).collect();
        let (longest, stride) = (self.folder.max_length, self.folder.metadata.window_stride());
        let set = Words::build(self.tokenizer(), &words, None, longest, stride)?;
        let mut tagged = Tagged::new(names, format, strict, &set);
        self.run(&self.batches(&set)?, first, |batch, outputs| tagged.add(outputs, batch))?;
        let name = |c: u32| names.get(c as usize).map_or("O", String::as_str);
        let one = |(sentence, tags): (TaggedText, &Vec<(u32, f32)>)| {
            let spans = tagged.spans(&tags.iter().map(|t| name(t.0)).collect::<Vec<_>>())?;
            let tags = tags.iter().map(|&(c, p)| (name(c).to_owned(), p)).collect();
            Ok(SentenceTags { sentence, tags, spans })
        };
        sentences.into_iter().zip(&tagged.tags).map(one).collect()
    }

    /// Answers a stream of questions from their contexts. A long context is read in windows.
    ///
    /// An item is an error of kind [`Usage`](crate::error::Kind::Usage) for a model that does not answer
    /// questions and for a question that fills the maximum length, and of kind
    /// [`Model`](crate::error::Kind::Model) for outputs that are not finite. The stream ends after an error.
    pub fn answers(
        &self,
        questions: impl IntoIterator<Item = Result<Question>>,
    ) -> impl Iterator<Item = Result<Answered>> {
        Chunked::new(questions.into_iter(), self.settings().chunk, |all, first| self.answer(all, first))
    }

    fn answer(&self, questions: Vec<Question>, first: usize) -> Result<Vec<Answered>> {
        if *self.outputs() != Outputs::Span {
            return Err(Error::usage("the model does not answer questions").at(&self.folder.dir));
        }
        let (longest, stride) = (self.folder.max_length, self.folder.metadata.window_stride());
        let set = Contexts::build(self.tokenizer(), questions.clone(), longest, stride, false)
            .map_err(Self::window_error)?;
        let mut found = Found::new(self.folder.search(), &set);
        self.run(&self.batches(&set)?, first, |batch, outputs| found.add(outputs, batch))?;
        let all = questions.into_iter().zip(found.findings());
        Ok(all.map(|(question, finding)| Answered { question, finding }).collect())
    }
}
