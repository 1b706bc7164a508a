//! Tokenization: texts to token ids with byte offsets. The `tokenizers` crate splits texts. This module reads
//! the tokenizer's files, refuses those that do not fit the model, and truncates texts or cuts them into
//! windows.

mod build;
mod class;
mod guard;
mod load;
mod reduce;
mod special;
mod subwords;
mod windows;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tokenizers::normalizers::utils::{Lowercase, Sequence};
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::utils::truncation::{
    TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};
use tokenizers::{NormalizerWrapper, PostProcessor};

use crate::error::{Error, Kind, Result};
pub(crate) use guard::guarded;
pub use reduce::Reduced;
pub use windows::Window;

/// A tokenizer loaded from a model folder. It truncates and never pads, even if its files say otherwise.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Adds special tokens such as `[CLS]` and `[SEP]`. Kept apart from `inner`, so that texts are truncated
    /// before it runs.
    template: PostProcessorWrapper,
    /// The tokenizer for texts that are split into words.
    spaced: windows::Spaced,
    unknown: Option<u32>,
    mask: Option<u32>,
    cls: Option<u32>,
    /// The prompt that precedes every text.
    prompt: String,
    direction: TruncationDirection,
    /// Whether the model reads token types; see [`Tokenizer::types`].
    gives_types: bool,
    model_max_length: Option<usize>,
    path: PathBuf,
    /// The original files, sorted by name; `save` writes them unchanged.
    files: Vec<(&'static str, Vec<u8>)>,
    hash: String,
}

/// One tokenized text or pair of texts. `ids`, `types` and `offsets` have one entry for each token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids, including special tokens.
    pub ids: Vec<u32>,
    /// Token types (segment ids): for BERT 0 for the first text and 1 for the second.
    pub types: Vec<u32>,
    /// Start and end of each token, in *bytes* of the text that it comes from; (0, 0) for special tokens.
    pub offsets: Vec<(u32, u32)>,
    /// The number of tokens that were truncated, of both texts.
    pub lost: u32,
    /// The number of unknown tokens, not counting truncated ones.
    pub unknown: u32,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("path", &self.path)
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

/// Byte offsets moved back to the start of a character. A byte-level tokenizer may split a character;
/// transformers then returns the start of that character too.
fn whole_chars((start, end): (usize, usize), text: &str) -> (u32, u32) {
    let floor =
        |i: usize| (0..=i.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0) as u32;
    (floor(start), floor(end))
}

impl Tokenizer {
    /// Tokenizes a text, or a pair of texts, into at most `max_length` tokens including special tokens.
    ///
    /// Truncates as Hugging Face's `longest_first` does: the longer of the two texts loses tokens until both
    /// are equally long, then both lose tokens in turn. An empty text gives only the special tokens.
    ///
    /// # Errors
    /// [`Kind::Usage`] if `max_length` is less than the number of special tokens; [`Kind::Data`] if the
    /// tokenizer fails on the text, or the text has 4 GiB or more.
    ///
    /// ```
    /// use std::path::Path;
    /// use tempra::text::Tokenizer;
    ///
    /// // The model in this folder has 200 embeddings.
    /// let tokenizer = Tokenizer::from_dir(Path::new("tests/golden/bert/a"), 200)?;
    /// let encoding = tokenizer.encode("A fine film.", None, 8)?;
    /// assert!(encoding.ids.len() <= 8);
    /// assert_eq!(encoding.ids.first().copied(), tokenizer.id("[CLS]"));
    /// # Ok::<(), tempra::error::Error>(())
    /// ```
    pub fn encode(&self, text: &str, pair: Option<&str>, max_length: usize) -> Result<Encoding> {
        let special = self.template.added_tokens(pair.is_some());
        if max_length < special {
            let what =
                format!("max_length ({max_length}) is less than the number of special tokens ({special})");
            return Err(Error::usage(what).with_help("raise data.max_length"));
        }
        if text.len().max(pair.map_or(0, str::len)) > u32::MAX as usize {
            return Err(Error::data("a text has 4 GiB or more").with_help("split the text"));
        }
        let (text, pair) = (&*self.prompted(text), pair.map(|p| self.prompted(p)));
        let pair = pair.as_deref();
        let run = || -> tokenizers::Result<Encoding> {
            let a = self.inner.encode(text, false)?;
            let b = pair.map(|p| self.inner.encode(p, false)).transpose()?;
            let count = |a: &tokenizers::Encoding, b: &Option<tokenizers::Encoding>| {
                a.len() + b.as_ref().map_or(0, tokenizers::Encoding::len)
            };
            let whole = count(&a, &b);
            let params = TruncationParams {
                max_length: max_length - special,
                strategy: TruncationStrategy::LongestFirst,
                stride: 0,
                direction: self.direction,
            };
            let (mut a, mut b) = truncate_encodings(a, b, &params)?;
            // The crate keeps the truncated tokens as overflowing encodings, which the template would process
            // too.
            a.take_overflowing();
            if let Some(b) = &mut b {
                b.take_overflowing();
            }
            let lost = whole - count(&a, &b);
            let known = |id: &&u32| Some(**id) == self.unknown;
            let unknown = a.get_ids().iter().filter(known).count()
                + b.as_ref().map_or(0, |b| b.get_ids().iter().filter(known).count());
            let e = self.template.process(a, b, true)?;
            let parts = e.get_sequence_ids();
            let spans = e.get_offsets().iter().zip(parts);
            Ok(Encoding {
                ids: e.get_ids().to_vec(),
                types: e.get_type_ids().to_vec(),
                offsets: spans
                    .map(|(&o, part)| whole_chars(o, pair.filter(|_| part == Some(1)).unwrap_or(text)))
                    .collect(),
                lost: lost as u32,
                unknown: unknown as u32,
            })
        };
        self.try_on(text, run)
    }

    /// The text, preceded by the prompt.
    fn prompted<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.prompt.is_empty() {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(format!("{}{text}", self.prompt))
        }
    }

    /// The tokenizer with settings of sentence-transformers: texts are converted to lower case if
    /// `lowercase`, and preceded by `prompt`. Offsets then include the prompt. The tokenizer's files do not
    /// change, because other files hold these settings.
    ///
    /// # Errors
    /// [`Kind::Model`] if the tokenizer does not accept another normalizer.
    pub fn for_vectors(mut self, lowercase: bool, prompt: &str) -> Result<Self> {
        let fail = |e: tokenizers::Error| {
            Error::model("cannot add conversion to lower case to the tokenizer")
                .at(&self.path)
                .with_found(e.to_string())
        };
        let lower = NormalizerWrapper::Lowercase(Lowercase);
        let mut steps = match self.inner.get_normalizer() {
            None => Vec::new(),
            Some(NormalizerWrapper::Sequence(all)) => all.as_ref().to_vec(),
            Some(one) => vec![one.clone()],
        };
        if lowercase && !steps.iter().any(|n| matches!(n, NormalizerWrapper::Lowercase(_))) {
            steps.insert(0, lower);
            self.inner.with_normalizer(Some(Sequence::new(steps))).map_err(fail)?;
        }
        if lowercase || !prompt.is_empty() {
            let text = format!("{} {lowercase} {prompt}", self.hash);
            self.hash = blake3::hash(text.as_bytes()).to_hex().to_string();
        }
        self.prompt = prompt.to_owned();
        Ok(self)
    }

    /// Tokenizes many items on all cores. The result is that of [`Tokenizer::encode`] for each item, in
    /// order.
    ///
    /// # Errors
    /// The error of the first item that fails.
    pub fn encode_batch(&self, items: &[(&str, Option<&str>)], max_length: usize) -> Result<Vec<Encoding>> {
        let encodings: Vec<Result<Encoding>> =
            items.par_iter().map(|&(text, pair)| self.encode(text, pair, max_length)).collect();
        encodings.into_iter().collect()
    }

    /// The number of unknown tokens among these ids.
    pub fn unknowns(&self, ids: &[u32]) -> u32 {
        ids.iter().filter(|&&id| Some(id) == self.unknown).count() as u32
    }

    /// The token types that the model reads: zeros if the tokenizer's class or `model_input_names` leaves
    /// `token_type_ids` out, as in transformers.
    pub fn types<'t>(&self, types: &'t [u32]) -> Cow<'t, [u32]> {
        if self.gives_types { types.into() } else { vec![0; types.len()].into() }
    }

    /// The id of the mask token, if it has one.
    pub fn mask(&self) -> Option<u32> {
        self.mask
    }

    /// The position of the classification token in an input: first for BERT and RoBERTa, last for XLNet.
    pub fn cls_in(&self, ids: &[u32]) -> usize {
        self.cls.and_then(|cls| ids.iter().position(|&id| id == cls)).unwrap_or(0)
    }

    /// The number of special tokens that are added to a text, or to a pair of texts.
    pub fn special_tokens(&self, pair: bool) -> usize {
        self.template.added_tokens(pair)
    }

    /// The id of a token of the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token with this id in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The token of an id as text for a person: without the marks of byte-level and SentencePiece
    /// vocabularies. An id that is no token is shown as `#ID`.
    pub fn shown(&self, id: u32) -> String {
        let text = self.inner.decode(&[id], false).unwrap_or_default();
        match text.trim() {
            "" => self.token(id).unwrap_or_else(|| format!("#{id}")),
            text => text.to_owned(),
        }
    }

    /// The maximum input length in the tokenizer's configuration, in tokens. The model's own limit may be
    /// smaller.
    pub fn model_max_length(&self) -> Option<usize> {
        self.model_max_length
    }

    /// The BLAKE3 hash of the names and contents of the tokenizer's files, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The tokenizer's original files, by name. A tokenizer from older files also has a `tokenizer.json`.
    pub fn files(&self) -> &[(&'static str, Vec<u8>)] {
        &self.files
    }

    /// Writes the tokenizer's original files into a folder, so that `transformers` opens it. A tokenizer from
    /// older files also gets a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Kind::Disk`] if a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir)
            .map_err(|e| Error::io(Kind::Disk, "cannot create the folder", dir, &e))?;
        self.files.iter().try_for_each(|(name, bytes)| {
            let path = dir.join(name);
            std::fs::write(&path, bytes).map_err(|e| Error::io(Kind::Disk, "cannot write", &path, &e))
        })
    }
}
