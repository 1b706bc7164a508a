//! Cuts texts that are longer than a model's input into overlapping windows, so that every word is read.

use std::sync::OnceLock;

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::utils::truncation::{
    TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};
use tokenizers::{InputSequence, PostProcessor};

use super::{Tokenizer, guarded, whole_chars};
use crate::error::{Error, Result};

/// A window of a text, including special tokens. Every list has one entry for each token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Token types (segment ids).
    pub types: Vec<u32>,
    /// The text that a token comes from, 0 or 1; `None` for special tokens.
    pub part: Vec<Option<u8>>,
    /// Start and end in *bytes* of that text, or of the word for a text given as words; (0, 0) for special
    /// tokens.
    pub offsets: Vec<(u32, u32)>,
    /// The index of the word that a token belongs to: of the given words, or as the tokenizer splits the
    /// text. `None` for special tokens.
    pub words: Vec<Option<u32>>,
}

impl Window {
    /// `text` returns the text that a token's offsets refer to, by its part and its word.
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
    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }
    /// Whether it has no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// The tokenizer for texts given as words; see [`Tokenizer::word_windows`].
#[derive(Default)]
pub(super) struct Spaced(OnceLock<Option<Box<tokenizers::Tokenizer>>>);

impl Tokenizer {
    /// Tokenizes a text into windows of at most `max_length` tokens, including special tokens. Neighbouring
    /// windows share `stride` tokens of the text. With a pair, the pair is cut, and every window starts with
    /// the whole first text, as with Hugging Face's `truncation="only_second"` and
    /// `return_overflowing_tokens`. An empty text gives one window.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) if a window would have at most `stride` tokens of the text;
    /// [`Kind::Data`](crate::error::Kind::Data) if the tokenizer fails on the text.
    pub fn windows(
        &self,
        text: &str,
        pair: Option<&str>,
        max_length: usize,
        stride: usize,
    ) -> Result<Vec<Window>> {
        if text.len().max(pair.map_or(0, str::len)) > u32::MAX as usize {
            return Err(Error::data("a text has 4 GiB or more").with_help("split the text"));
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

    /// Tokenizes a text given as words, into windows of at most `max_length` tokens, including special
    /// tokens, that share `stride` tokens. [`Window::words`] says which word each token belongs to. A
    /// byte-level tokenizer (RoBERTa's) puts a space before each word, as with `add_prefix_space` of Hugging
    /// Face.
    ///
    /// # Errors
    /// Those of [`Tokenizer::windows`].
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

    /// The tokens of a text without special tokens: the id of each, and the index of its word.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) if the tokenizer fails on the text.
    pub fn pieces(&self, text: &str) -> Result<Vec<(u32, u32)>> {
        let e = self.try_on(text, || self.inner.encode(text, false))?;
        Ok(e.get_ids().iter().zip(e.get_word_ids()).map(|(&id, word)| (id, word.unwrap_or(0))).collect())
    }

    /// Joins two tokenized texts and adds special tokens, as [`Tokenizer::encode`] does.
    ///
    /// # Errors
    /// [`Kind::Data`](crate::error::Kind::Data) if the tokenizer cannot add its special tokens.
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
            let what = if b.is_some() { "first text and its special tokens" } else { "special tokens" };
            let start = start.chars().take(60).collect::<String>();
            return Err(Error::usage(format!(
                "a window of {max_length} tokens has no room for new text, in the text that starts {start:?}"
            ))
            .with_expected(format!(
                "a max_length above {}: {fixed} for the {what}, and {stride} for the stride",
                fixed + stride
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

    /// Runs the tokenizer and converts its panics and errors.
    pub(super) fn try_on<T>(&self, text: &str, run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
        guarded(run).unwrap_or_else(|panic| Err(panic.into())).map_err(|e| {
            let start: String = text.chars().take(60).collect();
            Error::data(format!("the tokenizer failed on a text that starts {start:?}"))
                .with_found(e.to_string())
                .with_help(format!("check that {} is intact, or change the text", self.path.display()))
        })
    }
}

/// The same tokenizer with a space before each word; `None` unless it is a byte-level tokenizer without that
/// space.
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
