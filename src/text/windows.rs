//! Texts longer than a model reads, cut into windows that overlap, so that every word is seen.

use std::sync::OnceLock;

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::utils::truncation::{
    TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};
use tokenizers::{InputSequence, PostProcessor};

use super::{Tokenizer, guarded, whole_chars};
use crate::error::{Error, Result};

/// A stretch of a text as a model reads it, special tokens included; every list but the first two has one entry a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Segment ids.
    pub types: Vec<u32>,
    /// Which of the two texts a token comes from, 0 or 1; `None` for special tokens.
    pub part: Vec<Option<u8>>,
    /// Start and end in *bytes* of that text, or of the word where words were given; (0, 0) for special tokens.
    pub offsets: Vec<(u32, u32)>,
    /// The word a token belongs to: of those given, or as the tokenizer splits the text. `None` for special tokens.
    pub words: Vec<Option<u32>>,
}

impl Window {
    /// `text` gives the text that a token's offsets count in, by its part and its word.
    fn new<'t>(e: &tokenizers::Encoding, text: impl Fn(usize, Option<u32>) -> &'t str) -> Self {
        let parts = e.get_sequence_ids();
        let offset = |token: usize, part: Option<usize>| {
            let word = e.get_word_ids().get(token).copied().flatten();
            let bytes = e.get_offsets().get(token).copied().unwrap_or_default();
            part.map_or((0, 0), |part| whole_chars(bytes, text(part, word)))
        };
        Self {
            ids: e.get_ids().to_vec(),
            types: e.get_type_ids().to_vec(),
            offsets: parts.iter().enumerate().map(|(token, &part)| offset(token, part)).collect(),
            part: parts.into_iter().map(|s| s.map(|s| s as u8)).collect(),
            words: e.get_word_ids().to_vec(),
        }
    }
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }
    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// The tokenizer that words are split with; see [`Tokenizer::word_windows`].
#[derive(Default)]
pub(super) struct Spaced(OnceLock<Option<Box<tokenizers::Tokenizer>>>);

impl Tokenizer {
    /// Encodes a text in windows of at most `max_length` tokens, special ones included; neighbours share `stride` tokens of
    /// the text. With a pair it is the pair that is cut, and every window starts with the whole first text, as Hugging Face's
    /// `truncation="only_second"` with `return_overflowing_tokens` does it. An empty text gives one window.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) if a window holds no more than `stride` tokens of the text;
    /// [`Kind::Data`](crate::error::Kind::Data) if the tokenizer fails on it.
    pub fn windows(
        &self,
        text: &str,
        pair: Option<&str>,
        max_length: usize,
        stride: usize,
    ) -> Result<Vec<Window>> {
        if text.len().max(pair.map_or(0, str::len)) > u32::MAX as usize {
            return Err(Error::data("a text of 4 GiB or more").with_help("split it"));
        }
        let start = pair.unwrap_or(text);
        let encode = || -> tokenizers::Result<_> {
            let a = self.inner.encode(text, false)?;
            Ok((a, pair.map(|p| self.inner.encode(p, false)).transpose()?))
        };
        let (a, b) = self.try_on(start, encode)?;
        let text = |part: usize, _| pair.filter(|_| part == 1).unwrap_or(text);
        self.cut(a, b, [max_length, stride], start, text)
    }

    /// Encodes words that are split already, in windows of at most `max_length` tokens, special ones included, that share
    /// `stride` tokens. `words` of a window says which word each token belongs to. A byte-level tokenizer (RoBERTa's) puts
    /// a space before each word, which Hugging Face calls `add_prefix_space`.
    ///
    /// # Errors
    /// As [`Tokenizer::windows`].
    pub fn word_windows(&self, words: &[String], max_length: usize, stride: usize) -> Result<Vec<Window>> {
        let start = words.first().map_or("", String::as_str);
        let spaced = self.spaced.0.get_or_init(|| with_prefix_space(&self.inner));
        let inner = spaced.as_deref().unwrap_or(&self.inner);
        let split: Vec<&str> = words.iter().map(String::as_str).collect();
        let encode = || inner.encode(InputSequence::from(split.as_slice()), false);
        let a = self.try_on(start, encode)?;
        let word = |_, word: Option<u32>| word.and_then(|w| words.get(w as usize)).map_or("", String::as_str);
        self.cut(a, None, [max_length, stride], start, word)
    }

    /// The tokens of a text without special ones: ids, and the word of the text that each belongs to.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) if the tokenizer fails on it.
    pub fn pieces(&self, text: &str) -> Result<Vec<(u32, u32)>> {
        let e = self.try_on(text, || self.inner.encode(text, false))?;
        Ok(e.get_ids().iter().zip(e.get_word_ids()).map(|(&id, word)| (id, word.unwrap_or(0))).collect())
    }

    /// Two texts that are tokens already, with special tokens about them, as [`Tokenizer::encode`] puts them.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) if the template fails.
    pub fn joined(&self, first: &[(u32, u32)], second: &[(u32, u32)]) -> Result<Window> {
        let encoding = |pieces: &[(u32, u32)], kind: u32| {
            let n = pieces.len();
            tokenizers::Encoding::new(
                pieces.iter().map(|p| p.0).collect(),
                vec![kind; n],
                vec![String::new(); n],
                pieces.iter().map(|p| Some(p.1)).collect(),
                vec![(0, 0); n],
                vec![0; n],
                vec![1; n],
                Vec::new(),
                Default::default(),
            )
        };
        let process = || self.template.process(encoding(first, 0), Some(encoding(second, 1)), true);
        Ok(Window::new(&self.try_on("", process)?, |_, _| ""))
    }

    fn cut<'t>(
        &self,
        a: tokenizers::Encoding,
        b: Option<tokenizers::Encoding>,
        [max_length, stride]: [usize; 2],
        start: &str,
        text: impl Fn(usize, Option<u32>) -> &'t str,
    ) -> Result<Vec<Window>> {
        let special = self.template.added_tokens(b.is_some());
        let fixed = special + if b.is_some() { a.len() } else { 0 };
        let long = b.as_ref().map_or(a.len(), tokenizers::Encoding::len);
        if fixed + long > max_length && max_length <= fixed + stride {
            let what = if b.is_some() { ", the first text" } else { "" };
            return Err(Error::usage("windows that make no progress")
                .with_expected(format!(
                    "a max_length above {fixed} special tokens{what} and the stride of {stride}"
                ))
                .with_found(format!(
                    "{max_length} for a text that starts {:?}",
                    start.chars().take(60).collect::<String>()
                ))
                .with_help("raise data.max_length or lower data.stride"));
        }
        let params = TruncationParams {
            max_length: max_length.saturating_sub(special),
            strategy: if b.is_some() {
                TruncationStrategy::OnlySecond
            } else {
                TruncationStrategy::OnlyFirst
            },
            stride,
            direction: TruncationDirection::Right,
        };
        self.try_on(start, || {
            let (mut a, mut b) = truncate_encodings(a, b, &params)?;
            let rest = b.as_mut().unwrap_or(&mut a).take_overflowing();
            let pairs = b.is_some();
            let mut windows = Vec::with_capacity(1 + rest.len());
            let mut window = |a, b| -> tokenizers::Result<()> {
                windows.push(Window::new(&self.template.process(a, b, true)?, &text));
                Ok(())
            };
            window(a.clone(), b)?;
            for part in rest {
                if pairs { window(a.clone(), Some(part))? } else { window(part, None)? }
            }
            Ok(windows)
        })
    }

    /// Runs the tokenizer, whose panics and errors become ours.
    pub(super) fn try_on<T>(&self, text: &str, run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
        guarded(run).unwrap_or_else(|panic| Err(panic.into())).map_err(|e| {
            let start: String = text.chars().take(60).collect();
            Error::data(format!("the tokenizer failed on a text that starts {start:?}"))
                .with_found(e.to_string())
                .with_help(format!("check {}", self.path.display()))
        })
    }
}

/// The same tokenizer with a space before each word, if it is a byte-level one that puts none.
fn with_prefix_space(inner: &tokenizers::Tokenizer) -> Option<Box<tokenizers::Tokenizer>> {
    match inner.get_pre_tokenizer() {
        Some(PreTokenizerWrapper::ByteLevel(bytes)) if !bytes.add_prefix_space => {
            let mut spaced = inner.clone();
            spaced.with_pre_tokenizer(Some((*bytes).add_prefix_space(true)));
            Some(Box::new(spaced))
        }
        _ => None,
    }
}
