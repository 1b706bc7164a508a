//! How a set of tags is written: as spans of words in a scheme, or as a class of each word.

use super::tags::{Affix, Scheme, Span, lenient};
use crate::error::{Error, Result};
use std::collections::BTreeSet;

/// How tags are written and what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagFormat {
    /// Each tag is a class of its word, such as a part of speech.
    Words,
    /// Tags mark spans of words.
    Spans {
        /// How the tags mark where a span begins and ends.
        scheme: Scheme,
        /// On which side of the type the tags have the letter.
        affix: Affix,
    },
}

impl Default for TagFormat {
    fn default() -> Self {
        Self::Spans { scheme: Scheme::default(), affix: Affix::default() }
    }
}

impl TagFormat {
    /// The format of a set of tags, by their letters: L or U means BILOU, E or S means IOBES, only B and I
    /// means IOB2. (Only the order of the tags tells IOB1 from IOB2.) Tags without a letter and a type are
    /// classes of words, and so are single letters, unless one of them is `B`.
    pub fn of_tags<'a>(tags: impl IntoIterator<Item = &'a str>) -> Self {
        let tags: BTreeSet<&str> = tags.into_iter().filter(|t| *t != "O").collect();
        if tags.is_empty() {
            return Self::default();
        }
        let typed =
            |affix: Affix| tags.iter().filter(|t| t.chars().count() > 2 && affix.cut(t).is_some()).count();
        let all = |affix: Affix| tags.iter().all(|t| affix.cut(t).is_some());
        let affix = if all(Affix::Prefix) && (typed(Affix::Prefix) > 0 || tags.contains("B")) {
            Affix::Prefix
        } else if all(Affix::Suffix) && typed(Affix::Suffix) > 0 {
            Affix::Suffix
        } else if typed(Affix::Prefix) > 0 {
            Affix::Prefix
        } else {
            return Self::Words;
        };
        let bearing = |letters: &str| {
            tags.iter().filter(|t| affix.cut(t).is_some_and(|(c, _)| letters.contains(c))).count()
        };
        let scheme = match (bearing("LU"), bearing("ES")) {
            (0, 0) => Scheme::Iob2,
            (l_or_u, e_or_s) if l_or_u > e_or_s => Scheme::Bilou,
            _ => Scheme::Iobes,
        };
        Self::Spans { scheme, affix }
    }
    /// For tags that look like misspelt tags of spans (`B_PER`, `b-per`): one of them, and its correct form.
    /// `None` for other tags.
    pub fn misspelt<'a>(tags: impl IntoIterator<Item = &'a str>) -> Option<(String, String)> {
        let tags: BTreeSet<&str> = tags.into_iter().filter(|t| !t.eq_ignore_ascii_case("O")).collect();
        if Self::of_tags(tags.iter().copied()) != Self::Words {
            return None;
        }
        let mark = |c: char| "-_:/.|".contains(c);
        let cut = |tag: &'a str, affix: Affix| {
            let mut chars = tag.chars();
            let (letter, rest) = match affix {
                Affix::Prefix => (chars.next()?, chars.as_str().strip_prefix(mark)?),
                Affix::Suffix => (chars.next_back()?, chars.as_str().strip_suffix(mark)?),
            };
            // Some files have M for I.
            let letter = letter.to_ascii_uppercase();
            let found = ("BIMESLU".contains(letter) && !rest.is_empty()).then_some((letter, rest))?;
            Some((tag, affix, found))
        };
        let all = |affix| tags.iter().map(|t| cut(t, affix)).collect::<Option<Vec<_>>>();
        let cuts = all(Affix::Prefix).or_else(|| all(Affix::Suffix))?;
        let first = cuts.into_iter().find(|(_, _, (letter, _))| *letter == 'B');
        first.map(|(tag, affix, (letter, label))| (tag.to_owned(), affix.join(letter, label)))
    }
    /// The format of a model's labels, and the labels without a letter (`[CLS]`, `X`), which are read as `O`.
    /// If most labels have no letter, all are classes of words.
    pub fn of_labels(labels: &[String]) -> (Self, Vec<&str>) {
        let names = || labels.iter().map(String::as_str);
        let found = Self::of_tags(names());
        let Self::Spans { affix, .. } = found else { return (found, Vec::new()) };
        let others: Vec<&str> = names().filter(|t| affix.cut(t).is_none()).collect();
        if others.len() * 2 > labels.len() { (Self::Words, Vec::new()) } else { (found, others) }
    }
    /// The format of tags in a known scheme.
    pub fn in_scheme<'a>(scheme: Scheme, tags: impl IntoIterator<Item = &'a str>) -> Self {
        let affix = match Self::of_tags(tags) {
            Self::Spans { affix, .. } => affix,
            Self::Words => Affix::Prefix,
        };
        Self::Spans { scheme, affix }
    }
    /// The name of its scheme in recipes; "none" for classes of words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Words => "none",
            Self::Spans { scheme, .. } => scheme.name(),
        }
    }
    /// Its name with its tags, for a person: `iobes (B-TYPE, I-TYPE, E-TYPE, S-TYPE, O)`.
    pub fn describe(self) -> String {
        let Self::Spans { scheme, affix } = self else {
            return "none (each tag is a class of its word)".to_owned();
        };
        // The order in which a reader expects them: O last.
        let letters = scheme.letters().chars().filter(|c| *c != 'O');
        let tags: Vec<String> = letters.map(|c| affix.join(c, "TYPE")).collect();
        format!("{} ({}, O)", scheme.name(), tags.join(", "))
    }
    /// The spans of tags, read as the CoNLL script and seqeval's default do (see [`spans`](super::spans)).
    /// With classes of words, each word whose tag is not `O` is a span of its own.
    pub fn spans<S: AsRef<str>>(self, tags: &[S]) -> Vec<Span> {
        match self {
            Self::Spans { affix, .. } => lenient(tags, affix),
            Self::Words => {
                let tags = tags.iter().map(AsRef::as_ref).enumerate().filter(|(_, tag)| *tag != "O");
                tags.map(|(i, tag)| Span { label: tag.to_owned(), start: i, end: i + 1 }).collect()
            }
        }
    }
    /// The spans of tags as seqeval's `mode="strict"` reads them; see [`Scheme::spans`].
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) for a tag that the scheme does not have.
    pub fn strict_spans<S: AsRef<str>>(self, tags: &[S]) -> Result<Vec<Span>> {
        match self {
            Self::Words => Ok(self.spans(tags)),
            Self::Spans { scheme, affix } => scheme.spans_of(tags, affix),
        }
    }
    /// The tags of `words` words with these spans; a word outside all spans has `O`.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) if a span is empty, ends beyond the words or overlaps
    /// another.
    pub fn encode(self, words: usize, spans: &[Span]) -> Result<Vec<String>> {
        let mut tags = vec!["O".to_owned(); words];
        let mut taken = vec![false; words];
        for span in spans {
            let bad = |what: &str| {
                let e =
                    Error::data(format!("{what}: {:?}, words {} to {}", span.label, span.start, span.end));
                Err(e.with_expected(format!("spans that do not overlap within {words} words")))
            };
            let Some(part) = taken.get_mut(span.start..span.end) else {
                return bad("the span ends beyond the words");
            };
            if part.is_empty() {
                return bad("the span holds no word");
            }
            if part.iter().any(|t| *t) {
                return bad("the span overlaps another");
            }
            part.fill(true);
            // In IOB1 only a span right behind one of its type begins with B.
            let touches = spans.iter().any(|s| s.end == span.start && s.label == span.label);
            for (i, tag) in tags[span.start..span.end].iter_mut().enumerate() {
                let (first, last) = (i == 0, span.start + i + 1 == span.end);
                *tag = match self {
                    Self::Words => span.label.clone(),
                    Self::Spans { scheme, affix } => {
                        let letter = match scheme.marks() {
                            Some((_, single)) if first && last => single,
                            Some((end, _)) if last => end,
                            _ if first && (scheme != Scheme::Iob1 || touches) => 'B',
                            _ => 'I',
                        };
                        affix.join(letter, &span.label)
                    }
                };
            }
        }
        Ok(tags)
    }
}
