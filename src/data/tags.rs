//! Tags of words and the spans they mean: IOB1, IOB2, IOBES and BILOU.
//!
//! A tag is `O` or a prefix, a `-` and a type: `B-PER`. Ramshaw and Marcus 1995 (IOB1), Tjong Kim Sang and Veenstra 1999
//! (IOB2); BILOU writes L for E and U for S of IOBES. Behaviour matched: seqeval 1.2.2, its default reading
//! ([`spans`], that of the CoNLL script) and its strict schemes ([`Scheme::spans`]).

use crate::error::{Error, Result};
use std::fmt;

/// A run of words of one type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The type, such as `PER`; `_` if the tags name none.
    pub label: String,
    /// Its first word, counted from 0.
    pub start: usize,
    /// The word after its last.
    pub end: usize,
}

/// How the tags of a file say where a span begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scheme {
    /// `B-` only where a span follows another of its type without a word between them.
    Iob1,
    /// `B-` at the first word of every span. Also called BIO.
    #[default]
    Iob2,
    /// `S-` for a single word, `E-` at the last of several.
    Iobes,
    /// `U-` for a single word, `L-` at the last of several.
    Bilou,
}

/// Why a sequence of tags cannot be of a scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenTag {
    /// The word whose tag is wrong, counted from 0.
    pub word: usize,
    /// What is wrong.
    pub what: String,
    /// What would have been right.
    pub expected: String,
    /// The tag, and the one before it where that matters.
    pub found: String,
}

impl fmt::Display for BrokenTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "word {}: {}: expected {}, found {}", self.word + 1, self.what, self.expected, self.found)
    }
}

/// The first letter and the type of a tag, as seqeval cuts them.
fn cut(tag: &str) -> (char, &str) {
    let mut chars = tag.chars();
    let prefix = chars.next().unwrap_or('O');
    let rest = chars.as_str();
    let label = rest.split_once('-').map_or(rest, |(_, label)| label);
    (prefix, if label.is_empty() { "_" } else { label })
}

/// The same as seqeval's schemes cut it: all `-` around the type go.
fn cut_strict(tag: &str) -> (char, &str) {
    let mut chars = tag.chars();
    let prefix = chars.next().unwrap_or('O');
    let label = chars.as_str().trim_matches('-');
    (prefix, if label.is_empty() { "_" } else { label })
}

/// The spans of tags of any scheme, read as the CoNLL script and seqeval's default do: a change of type always begins a
/// span, and an `I-` or `E-` after `O` does too. In order of their start; none twice.
pub fn spans<S: AsRef<str>>(tags: &[S]) -> Vec<Span> {
    let mut found = Vec::new();
    let (mut before, mut label, mut start) = ('O', "_", 0);
    for i in 0..=tags.len() {
        let (tag, kind) = tags.get(i).map_or(('O', "_"), |t| cut(t.as_ref()));
        let other = label != kind;
        let ends = matches!(before, 'E' | 'S')
            || (matches!(before, 'B' | 'I') && matches!(tag, 'B' | 'S' | 'O'))
            || (!matches!(before, 'O' | '.') && other);
        let starts = matches!(tag, 'B' | 'S')
            || (matches!(before, 'E' | 'S' | 'O') && matches!(tag, 'E' | 'I'))
            || (!matches!(tag, 'O' | '.') && other);
        if ends {
            found.push(Span { label: label.to_owned(), start, end: i });
        }
        if starts {
            start = i;
        }
        (before, label) = (tag, kind);
    }
    found.dedup();
    found
}

/// IOB2 tags of `words` words; what no span covers is `O`.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) if a span is empty, ends beyond the words or overlaps another.
pub fn iob2(words: usize, spans: &[Span]) -> Result<Vec<String>> {
    let mut tags = vec!["O".to_owned(); words];
    for span in spans {
        let bad = |what: &str| {
            let e = Error::data(format!("{what}: {:?}, words {} to {}", span.label, span.start, span.end));
            Err(e.expected(format!("spans apart from each other within {words} words")))
        };
        let Some(part) = tags.get_mut(span.start..span.end) else {
            return bad("a span does not fit its words");
        };
        if part.is_empty() {
            return bad("a span holds no word");
        }
        if part.iter().any(|t| t != "O") {
            return bad("a span overlaps another");
        }
        for (i, tag) in part.iter_mut().enumerate() {
            *tag = format!("{}-{}", if i == 0 { 'B' } else { 'I' }, span.label);
        }
    }
    Ok(tags)
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Self; 4] = [Self::Iob1, Self::Iob2, Self::Iobes, Self::Bilou];

    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iob1 => "iob1",
            Self::Iob2 => "iob2",
            Self::Iobes => "iobes",
            Self::Bilou => "bilou",
        }
    }
    /// The scheme of a name in any case; `bio` is IOB2, `bioes` IOBES and `biluo` BILOU.
    pub fn find(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "bio" => Some(Self::Iob2),
            "bioes" => Some(Self::Iobes),
            "biluo" => Some(Self::Bilou),
            _ => Self::ALL.into_iter().find(|s| s.name() == name),
        }
    }
    fn prefixes(self) -> &'static str {
        match self {
            Self::Iob1 | Self::Iob2 => "BIO",
            Self::Iobes => "BIOES",
            Self::Bilou => "BILOU",
        }
    }
    /// The letters of the last of several words and of a single one, where the scheme marks them.
    fn marks(self) -> Option<(char, char)> {
        match self {
            Self::Iob1 | Self::Iob2 => None,
            Self::Iobes => Some(('E', 'S')),
            Self::Bilou => Some(('L', 'U')),
        }
    }

    /// The spans of tags as seqeval's `mode="strict"` reads them: what breaks the scheme is no span.
    ///
    /// In IOB1 as in seqeval a `B-` begins a span only after a word of its type.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) for a prefix that the scheme does not have.
    pub fn spans<S: AsRef<str>>(self, tags: &[S]) -> Result<Vec<Span>> {
        for (i, tag) in tags.iter().map(AsRef::as_ref).enumerate() {
            if !tag.starts_with(|c| self.prefixes().contains(c)) {
                return Err(Error::data(format!("the tag of word {} is not of {}", i + 1, self.name()))
                    .expected(self.allowed())
                    .found(format!("{tag:?}")));
            }
        }
        Ok(self.strict(tags))
    }
    fn strict<S: AsRef<str>>(self, tags: &[S]) -> Vec<Span> {
        let cuts: Vec<(char, &str)> = tags.iter().map(|t| cut_strict(t.as_ref())).collect();
        let at = |i: usize| cuts.get(i).copied().unwrap_or(('O', "_"));
        let (mut found, mut i, mut before) = (Vec::new(), 0, ('O', "_"));
        while i < cuts.len() {
            let token = at(i);
            if self.starts(before, token) {
                let mut end = i + 1;
                while self.inside(at(end - 1), at(end)) {
                    end += 1;
                }
                if self.ends(at(end - 1), at(end)) {
                    found.push(Span { label: token.1.to_owned(), start: i, end });
                }
                i = end;
            } else {
                i += 1;
            }
            before = at(i - 1);
        }
        found
    }
    fn starts(self, (p, was): (char, &str), (c, is): (char, &str)) -> bool {
        let same = was == is;
        match self {
            Self::Iob1 => match (p, c) {
                ('O' | 'B', 'I') => true,
                ('I', 'I') => !same,
                ('I' | 'B', 'B') => same,
                _ => false,
            },
            Self::Iob2 => c == 'B',
            Self::Iobes => matches!(c, 'B' | 'S'),
            Self::Bilou => matches!(c, 'B' | 'U'),
        }
    }
    fn inside(self, (p, was): (char, &str), (c, is): (char, &str)) -> bool {
        let last = self.marks().map(|(last, _)| last);
        matches!(p, 'B' | 'I') && (c == 'I' || Some(c) == last) && was == is
    }
    fn ends(self, (p, was): (char, &str), (c, is): (char, &str)) -> bool {
        if let Some((last, single)) = self.marks() {
            return p == last || p == single;
        }
        match (p, c) {
            ('I' | 'B', 'O') | ('I', 'B') => true,
            ('I' | 'B', 'I') => was != is,
            ('B', 'B') => self == Self::Iob2 || was == is,
            _ => false,
        }
    }
    fn allowed(self) -> String {
        let letters = self.prefixes().chars().filter(|c| *c != 'O');
        let forms: Vec<String> = letters.map(|c| format!("{c}-TYPE")).collect();
        format!("O, {}", forms.join(", "))
    }

    /// Whether tags follow the scheme; if not, the first word where they do not.
    ///
    /// IOB1 accepts a `B-` wherever IOB2 has one, since no reader takes it for anything else.
    pub fn check<S: AsRef<str>>(self, tags: &[S]) -> std::result::Result<(), BrokenTag> {
        let marks = self.marks();
        let mut before = ("O", 'O', "");
        for word in 0..=tags.len() {
            let tag = tags.get(word).map_or("O", AsRef::as_ref);
            let broken = |what: &str, expected: String, found: String| {
                Err(BrokenTag {
                    word: word.min(tags.len().saturating_sub(1)),
                    what: what.to_owned(),
                    expected,
                    found,
                })
            };
            let (prefix, label) = match tag.split_once('-') {
                Some((p, label))
                    if p.len() == 1 && p != "O" && self.prefixes().contains(p) && !label.is_empty() =>
                {
                    (p.chars().next().unwrap_or('O'), label)
                }
                None if tag == "O" => ('O', ""),
                _ => {
                    let what = format!("a tag is not of {}", self.name());
                    return broken(&what, self.allowed(), format!("{tag:?}"));
                }
            };
            let (old, was, kind) = before;
            // A span is open if the scheme says that another word of it must follow.
            let open = marks.is_some() && matches!(was, 'B' | 'I');
            let goes_on = prefix == 'I' || marks.is_some_and(|(last, _)| prefix == last);
            let at = if word < tags.len() {
                format!("{tag:?} after {old:?}")
            } else {
                format!("the end after {old:?}")
            };
            if open && (!goes_on || label != kind) {
                let last = marks.map_or('E', |(last, _)| last);
                return broken("a span is not closed", format!("I-{kind} or {last}-{kind}"), at);
            }
            if goes_on && self != Self::Iob1 && !(matches!(was, 'B' | 'I') && label == kind) {
                return broken("a span goes on that did not begin", format!("B-{label} before {tag}"), at);
            }
            before = (tag, prefix, label);
        }
        Ok(())
    }

    /// The spans of tags that must follow the scheme.
    pub fn read<S: AsRef<str>>(self, tags: &[S]) -> std::result::Result<Vec<Span>, BrokenTag> {
        self.check(tags)?;
        // seqeval's strict IOB1 passes over a `B-` after `O`; its lenient reading has it.
        Ok(if self == Self::Iob1 { spans(tags) } else { self.strict(tags) })
    }

    /// The first scheme that all sequences follow, of IOB2, IOB1, IOBES and BILOU; none if each is broken somewhere.
    pub fn detect<S: AsRef<str>, T: AsRef<[S]>>(sequences: &[T]) -> Option<Self> {
        let fits = |s: &Self| sequences.iter().all(|tags| s.check(tags.as_ref()).is_ok());
        [Self::Iob2, Self::Iob1, Self::Iobes, Self::Bilou].into_iter().find(fits)
    }
}
