//! The tokens of a set of examples, made once on all cores and kept on disk under a hash of everything they
//! depend on.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::contexts::Contexts;
use super::labels::Label;
use super::record::Row;
use super::targets::Targets;
use super::words::Words;
use crate::error::{Error, Result};
use crate::files;
use crate::text::{Encoding, Tokenizer};

/// Goes into the key and the file: a change of either's meaning needs a new number.
const VERSION: &[u8; 16] = b"tempra tokens 2\n";
/// Rows encoded at a time, so that their intermediate forms never stand in memory all at once.
const CHUNK: usize = 4096;
const HASH: usize = blake3::OUT_LEN;

/// Examples as tokens, end to end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenSet {
    /// Token ids of all examples.
    pub ids: Vec<u32>,
    /// Segment ids of all examples.
    pub types: Vec<u32>,
    /// Where each example starts, then the number of all tokens: `[examples + 1]`.
    pub offsets: Vec<u32>,
    /// Number of tokens that truncation cut from each example.
    pub lost: Vec<u32>,
    /// Number of unknown tokens in each example.
    pub unknown: Vec<u32>,
    /// What the examples are trained towards.
    pub targets: Targets,
    /// The weight of each example in the loss of training, `[examples]`; empty if all weigh the same. See
    /// [`Batch::weights`](super::Batch::weights).
    pub weights: Vec<f32>,
    /// Index of the word that each token belongs to, [`IGNORED`](super::IGNORED) for special tokens; empty if
    /// the task does not need it.
    pub words: Vec<u32>,
    /// Number of tokens in the first of two sequences; empty if each example is one sequence.
    pub cuts: Vec<u32>,
    /// What the examples were cut from.
    pub origin: Origin,
    /// What the cache did.
    pub cache: Cache,
}

/// What the examples of a [`TokenSet`] were cut from.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Origin {
    /// Each example is a row.
    #[default]
    Rows,
    /// Windows of sentences of words.
    Words(Arc<Words>),
    /// Windows of contexts with questions.
    Contexts(Arc<Contexts>),
}

/// What the cache on disk did for a [`TokenSet`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// No folder was given.
    #[default]
    Off,
    /// The tokens were read from this file.
    Read(PathBuf),
    /// The tokens were made and written to this file.
    Written(PathBuf),
    /// The tokens were made; writing them failed for this reason. Nothing else is affected.
    Failed(String),
}

impl TokenSet {
    /// Encodes rows in at most `max_length` tokens each, or reads the tokens from the folder `cache` if it
    /// has them.
    ///
    /// The key of the cache is a hash of the tokenizer, of the texts and of `max_length`; labels do not
    /// enter. A file that does not verify is written again.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`]; [`Kind::Usage`](crate::error::Kind::Usage) if there are labels, but
    /// not one of the same kind for each row; [`Kind::Data`](crate::error::Kind::Data) for 2^32 tokens or
    /// more.
    ///
    /// The crate's page has an [example](crate#predict).
    pub fn build(
        tokenizer: &Tokenizer,
        rows: &[Row],
        labels: Vec<Label>,
        max_length: usize,
        cache: Option<&Path>,
    ) -> Result<Self> {
        if !labels.is_empty() && labels.len() != rows.len() {
            return Err(Error::usage("the number of labels is not the number of rows")
                .with_expected(rows.len().to_string())
                .with_found(labels.len().to_string()));
        }
        let targets = Targets::from_labels(labels)?;
        let Some(dir) = cache else {
            return Ok(Self { targets, ..Self::encode(tokenizer, rows, max_length)? });
        };
        let key = key(tokenizer, rows, max_length);
        let path = dir.join(format!("{}.tokens", key.to_hex()));
        if let Some(set) = fs::read(&path).ok().and_then(|bytes| Self::from_bytes(&bytes, &key, rows.len())) {
            return Ok(Self { targets, cache: Cache::Read(path), ..set });
        }
        let set = Self::encode(tokenizer, rows, max_length)?;
        let cache = match files::replace(&path, &set.to_bytes(&key)) {
            Ok(()) => Cache::Written(path),
            Err(e) => Cache::Failed(format!("{}: {e}", path.display())),
        };
        Ok(Self { targets, cache, ..set })
    }

    /// Encodes pairs of texts, each text a sequence of its own of at most `max_length` tokens.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`]; [`Kind::Usage`](crate::error::Kind::Usage) for labels of different
    /// kinds; [`Kind::Data`](crate::error::Kind::Data) for a row without a second text.
    pub fn of_pairs(
        tokenizer: &Tokenizer,
        rows: &[Row],
        labels: Vec<Label>,
        max_length: usize,
    ) -> Result<Self> {
        let targets = Targets::from_labels(labels)?;
        let mut set = Self { offsets: vec![0], targets, ..Self::default() };
        for chunk in rows.chunks(CHUNK) {
            let mut items = Vec::with_capacity(2 * chunk.len());
            for row in chunk {
                let Some(pair) = &row.pair else {
                    let e = Error::data("the row has no second text")
                        .with_help("name the column of the second text with data.pair");
                    return Err(if row.line > 0 { e.with_line(row.line) } else { e });
                };
                items.extend([(row.text.as_str(), None), (pair.as_str(), None)]);
            }
            for pair in tokenizer.encode_batch(&items, max_length)?.chunks_exact(2) {
                set.cuts.push(pair[0].ids.len() as u32);
                let both = |f: fn(&Encoding) -> &Vec<u32>| [f(&pair[0]).as_slice(), f(&pair[1])].concat();
                let sum = |f: fn(&Encoding) -> u32| f(&pair[0]) + f(&pair[1]);
                set.push(
                    &both(|e| &e.ids),
                    &tokenizer.types(&both(|e| &e.types)),
                    sum(|e| e.lost),
                    sum(|e| e.unknown),
                )?;
            }
        }
        Ok(set)
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there are no examples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where an example's tokens stand. Panics if there is no such example.
    pub fn range(&self, example: usize) -> Range<usize> {
        self.offsets[example] as usize..self.offsets[example + 1] as usize
    }

    /// Number of an example's tokens. Panics if there is no such example.
    pub fn length(&self, example: usize) -> usize {
        self.range(example).len()
    }

    /// The number of tokens of every example.
    pub fn lengths(&self) -> Vec<u32> {
        self.offsets.windows(2).map(|w| w[1] - w[0]).collect()
    }

    /// Length of the longest sequence in tokens: an example of task "similar" has two.
    pub fn longest_sequence(&self) -> usize {
        let longest = |(i, len): (usize, u32)| self.cuts.get(i).map_or(len, |cut| (*cut).max(len - cut));
        self.lengths().into_iter().enumerate().map(longest).max().unwrap_or(0) as usize
    }

    /// Puts an example at the end.
    pub(super) fn push(&mut self, ids: &[u32], types: &[u32], lost: u32, unknown: u32) -> Result<()> {
        self.ids.extend(ids);
        self.types.extend(types);
        self.lost.push(lost);
        self.unknown.push(unknown);
        let end = u32::try_from(self.ids.len());
        self.offsets.push(end.map_err(|_| {
            Error::data("the data have more than 4 billion tokens").with_help("split the file")
        })?);
        Ok(())
    }

    fn encode(tokenizer: &Tokenizer, rows: &[Row], max_length: usize) -> Result<Self> {
        let mut set = Self { offsets: vec![0], ..Self::default() };
        for chunk in rows.chunks(CHUNK) {
            let items: Vec<_> = chunk.iter().map(|r| (r.text.as_str(), r.pair.as_deref())).collect();
            for Encoding { ids, types, lost, unknown, .. } in tokenizer.encode_batch(&items, max_length)? {
                set.push(&ids, &tokenizer.types(&types), lost, unknown)?;
            }
        }
        Ok(set)
    }

    /// `VERSION`, key, number of examples and of tokens, the arrays, and BLAKE3 of all that; little endian
    /// throughout.
    fn to_bytes(&self, key: &blake3::Hash) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        bytes.extend(key.as_bytes());
        for n in [self.len(), self.ids.len()] {
            bytes.extend((n as u64).to_le_bytes());
        }
        for array in [&self.offsets, &self.lost, &self.unknown, &self.ids, &self.types] {
            bytes.extend(array.iter().flat_map(|x| x.to_le_bytes()));
        }
        let hash = blake3::hash(&bytes);
        bytes.extend(hash.as_bytes());
        bytes
    }

    /// `None` if anything at all is not as [`TokenSet::to_bytes`] writes it.
    fn from_bytes(bytes: &[u8], key: &blake3::Hash, rows: usize) -> Option<Self> {
        let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH)?)?;
        if blake3::hash(body).as_bytes() != hash {
            return None;
        }
        let rest = body.strip_prefix(VERSION)?.strip_prefix(key.as_bytes())?;
        let (n, rest) = rest.split_first_chunk()?;
        let (tokens, mut rest) = rest.split_first_chunk()?;
        let (n, tokens) = (u64::from_le_bytes(*n), u64::from_le_bytes(*tokens));
        let (n, tokens) = (usize::try_from(n).ok()?, usize::try_from(tokens).ok()?);
        let mut array = |len: usize| -> Option<Vec<u32>> {
            let (part, after) = rest.split_at_checked(len.checked_mul(4)?)?;
            rest = after;
            Some(part.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        };
        let set = Self {
            offsets: array(n.checked_add(1)?)?,
            lost: array(n)?,
            unknown: array(n)?,
            ids: array(tokens)?,
            types: array(tokens)?,
            ..Self::default()
        };
        let ordered = set.offsets.is_sorted() && set.offsets.first() == Some(&0);
        (rest.is_empty() && n == rows && ordered && set.offsets.last().map(|e| *e as usize) == Some(tokens))
            .then_some(set)
    }
}

fn key(tokenizer: &Tokenizer, rows: &[Row], max_length: usize) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(VERSION).update(tokenizer.hash().as_bytes());
    hasher.update(&(max_length as u64).to_le_bytes()).update(&(rows.len() as u64).to_le_bytes());
    for row in rows {
        // Lengths first: "ab" + "c" and "a" + "bc" are different rows. No pair is not an empty pair.
        let pair = row.pair.as_deref();
        hasher.update(&(row.text.len() as u64).to_le_bytes()).update(row.text.as_bytes());
        hasher
            .update(&pair.map_or(u64::MAX, |p| p.len() as u64).to_le_bytes())
            .update(pair.unwrap_or("").as_bytes());
    }
    hasher.finalize()
}
