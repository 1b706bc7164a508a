//! Tags of words and the spans they mean: IOB1, IOB2, IOBES and BILOU.
//!
//! A tag is `O`, or a letter and a type: `B-PER`, or with the letter behind the type `PER-B`; a letter alone
//! has no type. Ramshaw and Marcus 1995 (IOB1), Tjong Kim Sang and Veenstra 1999 (IOB2); BILOU writes L for E
//! and U for S of IOBES. Behaviour matched: seqeval 1.2.2, its default reading ([`spans`], that of the CoNLL
//! script) and its strict schemes ([`Scheme::spans`]). seqeval's default reading does not know L and U; here
//! they are read as E and S.

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

/// How tags mark where a span begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scheme {
    /// `B-` only at the first word of a span that directly follows another of its type.
    Iob1,
    /// `B-` at the first word of every span. Also called BIO.
    #[default]
    Iob2,
    /// `S-` for a single word, `E-` at the last of several.
    Iobes,
    /// `U-` for a single word, `L-` at the last of several.
    Bilou,
}

/// On which side of its type a tag has its letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Affix {
    /// `B-PER`.
    #[default]
    Prefix,
    /// `PER-B`.
    Suffix,
}

impl Affix {
    /// The letter and the type of a tag, as seqeval's default reading cuts them; `_` for a tag without a
    /// type. `None` for a tag that is neither `O` nor a letter of a scheme, alone or apart from its type by
    /// `-`.
    pub(super) fn cut(self, tag: &str) -> Option<(char, &str)> {
        if tag == "O" {
            return Some(('O', "_"));
        }
        let mut chars = tag.chars();
        let letter = match self {
            Self::Prefix => chars.next(),
            Self::Suffix => chars.next_back(),
        };
        let letter = letter.filter(|c| "BIESLU".contains(*c))?;
        let rest = chars.as_str();
        let label = match self {
            _ if rest.is_empty() => rest,
            Self::Prefix => rest.strip_prefix('-')?,
            Self::Suffix => rest.strip_suffix('-')?,
        };
        Some((letter, if label.is_empty() { "_" } else { label }))
    }
    /// The tag of a letter and a type.
    pub(super) fn join(self, letter: char, label: &str) -> String {
        match self {
            Self::Prefix => format!("{letter}-{label}"),
            Self::Suffix => format!("{label}-{letter}"),
        }
    }
    /// As [`Affix::join`]; the letter alone where there is no type.
    pub(super) fn form(self, letter: char, label: &str) -> String {
        if label == "_" { letter.to_string() } else { self.join(letter, label) }
    }
}

/// Why a sequence of tags does not follow a scheme.
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

/// The spans of tags of any scheme, read as the CoNLL script and seqeval's default do: a change of type
/// always begins a span, and so does an `I-` or `E-` after `O`. A tag without a letter of a scheme is read as
/// `O`. The spans are different and sorted by start.
pub fn spans<S: AsRef<str>>(tags: &[S]) -> Vec<Span> {
    lenient(tags, Affix::Prefix)
}

pub(super) fn lenient<S: AsRef<str>>(tags: &[S], affix: Affix) -> Vec<Span> {
    fn read(tag: &str, affix: Affix) -> (char, &str) {
        match affix.cut(tag).unwrap_or(('O', "_")) {
            ('L', label) => ('E', label),
            ('U', label) => ('S', label),
            other => other,
        }
    }
    let mut found = Vec::new();
    let (mut before, mut label, mut start) = ('O', "_", 0);
    for i in 0..=tags.len() {
        let (tag, kind) = tags.get(i).map_or(('O', "_"), |t| read(t.as_ref(), affix));
        let other = label != kind;
        let ends = matches!(before, 'E' | 'S')
            || (matches!(before, 'B' | 'I') && matches!(tag, 'B' | 'S' | 'O'))
            || (before != 'O' && other);
        let starts = matches!(tag, 'B' | 'S')
            || (matches!(before, 'E' | 'S' | 'O') && matches!(tag, 'E' | 'I'))
            || (tag != 'O' && other);
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

/// Whether each `B-` stands right behind a word of its type: as IOB1 has them, in which other spans begin
/// with `I-`.
pub(super) fn only_inner_b<S: AsRef<str>>(tags: &[S], affix: Affix) -> bool {
    let cut = |i: usize| tags.get(i).and_then(|t| affix.cut(t.as_ref())).unwrap_or(('O', "_"));
    (0..tags.len()).all(|i| {
        let before = i.checked_sub(1).map_or(('O', "_"), cut);
        cut(i).0 != 'B' || (before.0 != 'O' && before.1 == cut(i).1)
    })
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
    pub(super) fn letters(self) -> &'static str {
        match self {
            Self::Iob1 | Self::Iob2 => "BIO",
            Self::Iobes => "BIOES",
            Self::Bilou => "BILOU",
        }
    }
    /// The letters of the last of several words and of a single one, where the scheme marks them.
    pub(super) fn marks(self) -> Option<(char, char)> {
        match self {
            Self::Iob1 | Self::Iob2 => None,
            Self::Iobes => Some(('E', 'S')),
            Self::Bilou => Some(('L', 'U')),
        }
    }

    /// The spans of tags as seqeval's `mode="strict"` reads them: tags that break the scheme are not spans.
    ///
    /// In IOB1, as in seqeval, a `B-` begins a span only after a word of its type.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) for a prefix that the scheme does not have.
    pub fn spans<S: AsRef<str>>(self, tags: &[S]) -> Result<Vec<Span>> {
        self.spans_of(tags, Affix::Prefix)
    }
    pub(super) fn spans_of<S: AsRef<str>>(self, tags: &[S], affix: Affix) -> Result<Vec<Span>> {
        let mut cuts = Vec::with_capacity(tags.len());
        for (i, tag) in tags.iter().map(AsRef::as_ref).enumerate() {
            match affix.cut(tag).filter(|(letter, _)| self.letters().contains(*letter)) {
                // As seqeval's schemes cut a tag: all `-` around the type go.
                Some((letter, label)) => {
                    let label = label.trim_matches('-');
                    cuts.push((letter, if label.is_empty() { "_" } else { label }));
                }
                None => {
                    return Err(Error::data(format!(
                        "the tag of word {} does not belong to the scheme {}",
                        i + 1,
                        self.name()
                    ))
                    .with_expected(self.allowed(affix))
                    .with_found(format!("{tag:?}")));
                }
            }
        }
        Ok(self.strict(&cuts))
    }
    fn strict(self, cuts: &[(char, &str)]) -> Vec<Span> {
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
    fn allowed(self, affix: Affix) -> String {
        let letters = self.letters().chars().filter(|c| *c != 'O');
        let forms: Vec<String> = letters.map(|c| affix.join(c, "TYPE")).collect();
        format!("O, {}", forms.join(", "))
    }

    /// Checks that tags follow the scheme; the error names the first word that breaks it.
    ///
    /// IOB1 accepts a `B-` wherever IOB2 has one, since every reader reads it the same way.
    ///
    /// # Errors
    /// [`BrokenTag`] with the first word that breaks the scheme.
    pub fn check<S: AsRef<str>>(self, tags: &[S]) -> std::result::Result<(), BrokenTag> {
        self.check_of(tags, Affix::Prefix)
    }
    pub(super) fn check_of<S: AsRef<str>>(
        self,
        tags: &[S],
        affix: Affix,
    ) -> std::result::Result<(), BrokenTag> {
        let marks = self.marks();
        let mut before = ("O", 'O', "_");
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
            // `B-` says that there is a type and names none.
            let cut = affix.cut(tag).filter(|(c, _)| self.letters().contains(*c) && tag.chars().count() != 2);
            let Some((prefix, label)) = cut else {
                let what = format!("the tag does not belong to the scheme {}", self.name());
                return broken(&what, self.allowed(affix), format!("{tag:?}"));
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
                let expected = format!("{} or {}", affix.form('I', kind), affix.form(last, kind));
                return broken("the span before it does not end", expected, at);
            }
            if goes_on && self != Self::Iob1 && !(matches!(was, 'B' | 'I') && label == kind) {
                let expected = format!("{} before {tag}", affix.form('B', label));
                return broken("the tag continues a span that did not begin", expected, at);
            }
            before = (tag, prefix, label);
        }
        Ok(())
    }
}
