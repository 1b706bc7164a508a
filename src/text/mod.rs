//! Strings -> token ids with byte offsets. The `tokenizers` crate does the splitting; what stands here is the part that
//! decides: which files are read, what is refused, how a text that is too long is cut, and what is said about it.

mod build;
mod class;
mod guard;
mod load;
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
pub use windows::Window;

/// A tokenizer loaded from a model folder. It truncates but never pads, whatever its files say.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Adds `[CLS]`, `[SEP]` and the like. Kept apart, so that a text is cut before they are added and not twice processed.
    template: PostProcessorWrapper,
    /// For words that come split already.
    spaced: windows::Spaced,
    unknown: Option<u32>,
    mask: Option<u32>,
    cls: Option<u32>,
    /// Put before every text.
    prompt: String,
    direction: TruncationDirection,
    /// Whether the model is given the types of tokens; see [`Tokenizer::types`].
    gives_types: bool,
    model_max_length: Option<usize>,
    path: PathBuf,
    /// The files as they were read, in the order of their names; `save` writes them back byte for byte.
    files: Vec<(&'static str, Vec<u8>)>,
    hash: String,
}

/// One text, or a pair of texts, as a model reads it. `ids`, `types` and `offsets` have one entry a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Segment ids: for BERT 0 for the text and 1 for the pair.
    pub types: Vec<u32>,
    /// Start and end of each token in *bytes* of the text it comes from (of the pair, for tokens of the pair);
    /// (0, 0) for special tokens.
    pub offsets: Vec<(u32, u32)>,
    /// Tokens of text and pair that were cut off.
    pub lost: u32,
    /// Tokens among those kept that the vocabulary does not know.
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

/// An offset in bytes, moved back to where a character begins: a byte-level tokenizer may cut one, and transformers then gives
/// the character before.
fn whole_chars((start, end): (usize, usize), text: &str) -> (u32, u32) {
    let floor =
        |i: usize| (0..=i.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0) as u32;
    (floor(start), floor(end))
}

impl Tokenizer {
    /// Encodes a text, or a text and its pair, in at most `max_length` tokens including special tokens.
    ///
    /// What is too long is cut as Hugging Face's `longest_first` cuts it: the longer of the two sequences loses tokens
    /// until both are equally long, then both do. An empty text gives the special tokens alone.
    ///
    /// # Errors
    /// [`Kind::Usage`] if `max_length` does not even hold the special tokens; [`Kind::Data`] if the tokenizer fails on the text.
    pub fn encode(&self, text: &str, pair: Option<&str>, max_length: usize) -> Result<Encoding> {
        let special = self.template.added_tokens(pair.is_some());
        if max_length < special {
            return Err(Error::usage("max_length does not hold the special tokens")
                .with_expected(format!("at least {special}"))
                .with_found(max_length.to_string()));
        }
        if text.len().max(pair.map_or(0, str::len)) > u32::MAX as usize {
            return Err(Error::data("a text of 4 GiB or more").with_help("split it"));
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
            // The pieces cut off come along as further encodings; the template would multiply them out.
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

    /// A text behind the prompt.
    fn prompted<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.prompt.is_empty() {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(format!("{}{text}", self.prompt))
        }
    }

    /// The tokenizer as sentence-transformers feeds it: in lower case, if it is not already, and with a prompt before every
    /// text, in which offsets then count. Its files stay as they are; these are settings of other files.
    ///
    /// # Errors
    /// [`Kind::Model`] if its normalizer cannot be put behind another.
    pub fn for_vectors(mut self, lowercase: bool, prompt: &str) -> Result<Self> {
        let fail = |e: tokenizers::Error| {
            Error::model("the tokenizer cannot be put into lower case")
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

    /// Encodes many items on all cores; the result is that of [`Tokenizer::encode`] item by item, in order.
    ///
    /// # Errors
    /// The error of the first item that fails.
    pub fn encode_batch(&self, items: &[(&str, Option<&str>)], max_length: usize) -> Result<Vec<Encoding>> {
        let encodings: Vec<Result<Encoding>> =
            items.par_iter().map(|&(text, pair)| self.encode(text, pair, max_length)).collect();
        encodings.into_iter().collect()
    }

    /// How many of these ids stand for what the vocabulary does not know.
    pub fn unknowns(&self, ids: &[u32]) -> u32 {
        ids.iter().filter(|&&id| Some(id) == self.unknown).count() as u32
    }

    /// The types of tokens as the model is given them: zeros where the tokenizer's class or its `model_input_names` leaves
    /// `token_type_ids` out, as in transformers.
    pub fn types<'t>(&self, types: &'t [u32]) -> Cow<'t, [u32]> {
        if self.gives_types { types.into() } else { vec![0; types.len()].into() }
    }

    /// The id of the mask token, if there is one.
    pub fn mask(&self) -> Option<u32> {
        self.mask
    }

    /// Where the classification token stands in an input: first for BERT and RoBERTa, last for XLNet.
    pub fn cls_in(&self, ids: &[u32]) -> usize {
        self.cls.and_then(|cls| ids.iter().position(|&id| id == cls)).unwrap_or(0)
    }

    /// Special tokens that are added to a text, or to a text and its pair.
    pub fn special_tokens(&self, pair: bool) -> usize {
        self.template.added_tokens(pair)
    }

    /// The id of a token as it is written in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id as it is written in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The longest input the tokenizer's configuration names, in tokens; the model's own limit may be smaller.
    pub fn model_max_length(&self) -> Option<usize> {
        self.model_max_length
    }

    /// BLAKE3 over the names and bytes of the tokenizer's files, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The tokenizer's files as they were read, by name; one that came from `vocab.txt` alone has a `tokenizer.json` too.
    pub fn files(&self) -> &[(&'static str, Vec<u8>)] {
        &self.files
    }

    /// Writes the tokenizer's files into a folder, byte for byte as they were read, so that stock `transformers` opens it.
    /// A tokenizer that came from `vocab.txt` alone also gets its `tokenizer.json`.
    ///
    /// # Errors
    /// [`Kind::Disk`] if a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(Kind::Disk, "cannot make the folder", dir, &e))?;
        self.files.iter().try_for_each(|(name, bytes)| {
            let path = dir.join(name);
            std::fs::write(&path, bytes).map_err(|e| Error::io(Kind::Disk, "cannot write", &path, &e))
        })
    }
}
