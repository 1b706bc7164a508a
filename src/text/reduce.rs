//! A tokenizer with fewer tokens, which splits given texts as before.
//!
//! - **WordPiece** takes the longest piece that a word goes on with. It takes the same pieces if these stay,
//!   and finds none where it found none: for a word that becomes the unknown token, the pieces before the
//!   place where it fails stay too.
//! - **BPE** joins, of all pairs that can be joined, the one with the first merge. The merges that it applied
//!   to a text make up those of its tokens, and stay with what they join; the first of all merges is then
//!   also the first of those.
//! - **Unigram** takes the pieces with the largest sum of scores. Fewer pieces make no better sum. The score
//!   of an unknown character depends on the smallest score, so that a piece with it stays.
//!
//! Single characters stay, so that other texts can still be split.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value, json};
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

use super::{Encoding, Tokenizer};
use crate::error::{Error, Result};

/// The longest text that is tokenized as a whole, in tokens.
const LONGEST: usize = 1 << 30;

/// A smaller vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reduced {
    /// The ids that stay, rising: the new id of a token is the place of its old id.
    pub kept: Vec<u32>,
    /// The tokenizer's files.
    pub files: Vec<(String, Vec<u8>)>,
    /// Files that describe the old vocabulary in a form that is not written; `tokenizer.json` replaces them.
    pub left_out: Vec<String>,
}

impl Tokenizer {
    /// The tokenizer without the tokens that these texts do not need. Special and added tokens stay, single
    /// characters, and the ids of `named`. `words`: whether texts are also split at spaces and given word by
    /// word, as for token classification.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) for a tokenizer of another type or with a setting for which
    /// it is not proved that these texts are split as before; those of [`Tokenizer::encode`].
    pub fn reduced(&self, texts: &[&str], words: bool, named: &[u32]) -> Result<Reduced> {
        let mut used: BTreeSet<u32> = named.iter().copied().collect();
        let mut unknown: Vec<&str> = Vec::new();
        for (text, ids) in texts.iter().zip(self.all_ids(texts, words)?) {
            if self.unknowns(&ids) > 0 {
                unknown.push(text);
            }
            used.extend(ids);
        }
        let file = self.json("tokenizer.json")?;
        let pieces = Pieces::read(&file).map_err(|what| self.refused(&what))?;
        let added = added(&file);
        used.extend(added.iter().map(|(_, id)| id));
        match &pieces {
            Pieces::Words { vocab, prefix } => {
                for text in unknown {
                    for word in self.split(text)? {
                        used.extend(longest_pieces(vocab, prefix, &word));
                    }
                }
                used.extend(words_needed(vocab, prefix));
            }
            Pieces::Merges { vocab, merges, .. } => used.extend(merges_needed(vocab, merges, &used)),
            Pieces::Scores { list, unknown } => {
                used.extend(unknown);
                used.extend(scores_needed(list));
            }
        }
        let kept: Vec<u32> = used.into_iter().collect();
        self.rewritten(file, &pieces, kept)
    }

    /// The ids of each text, whole and, with `words`, word by word.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn all_ids(&self, texts: &[&str], words: bool) -> Result<Vec<Vec<u32>>> {
        let items: Vec<(&str, Option<&str>)> = texts.iter().map(|text| (*text, None)).collect();
        let whole = self.encode_batch(&items, LONGEST)?;
        let one = |(e, text): (Encoding, &&str)| {
            let mut ids = e.ids;
            if words {
                let split: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
                let windows = self.word_windows(&split, LONGEST, 0)?;
                ids.extend(windows.into_iter().flat_map(|w| w.ids));
            }
            Ok(ids)
        };
        whole.into_iter().zip(texts).map(one).collect()
    }

    fn refused(&self, what: &str) -> Error {
        Error::model("tokens cannot be removed from this tokenizer")
            .at(&self.path)
            .with_expected("WordPiece, BPE without dropout, prefix, suffix or byte fallback, or Unigram")
            .with_found(what)
            .with_help("keep the vocabulary of this model")
    }

    fn json(&self, name: &str) -> Result<Value> {
        let bytes = self.files.iter().find(|(n, _)| *n == name).map(|(_, b)| b.as_slice());
        let parsed = bytes.map(serde_json::from_slice).transpose();
        parsed.map(Option::unwrap_or_default).map_err(|e| self.refused(&format!("{name}: {e}")))
    }

    /// The words of a text as the model of the tokenizer gets them.
    fn split(&self, text: &str) -> Result<Vec<String>> {
        let run = || {
            let mut whole = NormalizedString::from(text);
            if let Some(normalizer) = self.inner.get_normalizer() {
                normalizer.normalize(&mut whole)?;
            }
            let mut parts = PreTokenizedString::from(whole);
            if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut parts)?;
            }
            let splits = parts.get_splits(OffsetReferential::Original, OffsetType::Byte);
            Ok(splits.into_iter().map(|(word, _, _)| word.to_owned()).collect())
        };
        self.try_on(text, run)
    }

    /// The files with the tokens of these ids.
    fn rewritten(&self, mut file: Value, pieces: &Pieces, kept: Vec<u32>) -> Result<Reduced> {
        let new: HashMap<u32, u32> = kept.iter().zip(0..).map(|(&old, new)| (old, new)).collect();
        let renumber = |vocab: &BTreeMap<String, u32>| -> BTreeMap<String, u32> {
            let one = |(token, id): (&String, &u32)| Some((token.clone(), *new.get(id)?));
            vocab.iter().filter_map(one).collect()
        };
        let (mut vocab, mut merges) = (BTreeMap::new(), Vec::new());
        match pieces {
            Pieces::Words { vocab: old, .. } => {
                vocab = renumber(old);
                file["model"]["vocab"] = json!(vocab);
            }
            Pieces::Merges { vocab: old, merges: list } => {
                vocab = renumber(old);
                let stays = |(a, b): &&(String, String)| {
                    [a, b, &format!("{a}{b}")].into_iter().all(|piece| vocab.contains_key(piece))
                };
                merges = list.iter().filter(stays).cloned().collect();
                file["model"]["vocab"] = json!(vocab);
                file["model"]["merges"] = json!(merges);
            }
            Pieces::Scores { list, unknown } => {
                let left = list.iter().zip(0u32..).filter(|(_, id)| new.contains_key(id));
                file["model"]["vocab"] = left.map(|(piece, _)| json!(piece)).collect();
                file["model"]["unk_id"] = json!(unknown.and_then(|id| new.get(&id)));
            }
        }
        let moved = |v: &mut Value| {
            if let Some(id) = v.as_u64().and_then(|id| new.get(&u32::try_from(id).ok()?)) {
                *v = (*id).into();
            }
        };
        for token in file["added_tokens"].as_array_mut().into_iter().flatten() {
            moved(&mut token["id"]);
        }
        renumber_template(&mut file["post_processor"], &moved);
        if let Some(id) = file.get_mut("padding").and_then(|p| p.get_mut("pad_id")) {
            moved(id);
        }
        let mut reduced = Reduced { kept, files: Vec::new(), left_out: Vec::new() };
        for (name, bytes) in &self.files {
            let written = match *name {
                "tokenizer.json" => Some(file.to_string().into_bytes()),
                "tokenizer_config.json" => {
                    let mut config = self.json(name)?;
                    if let Some(Value::Object(decoder)) = config.get_mut("added_tokens_decoder") {
                        let one = |(id, token): (String, Value)| {
                            let id = id.parse::<u32>().ok().and_then(|id| new.get(&id).copied());
                            Some((id?.to_string(), token))
                        };
                        *decoder = std::mem::take(decoder).into_iter().filter_map(one).collect::<Map<_, _>>();
                    }
                    Some(format!("{config:#}\n").into_bytes())
                }
                "added_tokens.json" => {
                    let mut ids = self.json(name)?;
                    ids.as_object_mut().into_iter().flatten().for_each(|(_, id)| moved(id));
                    Some(format!("{ids:#}\n").into_bytes())
                }
                "vocab.txt" => lines(&vocab).map(String::into_bytes),
                "vocab.json" => Some(json!(vocab).to_string().into_bytes()),
                "merges.txt" => {
                    let lines = merges.iter().map(|(a, b)| format!("{a} {b}\n"));
                    Some(format!("#version: 0.2\n{}", lines.collect::<String>()).into_bytes())
                }
                name if name.ends_with(".model") => None,
                _ => Some(bytes.clone()),
            };
            match written {
                Some(bytes) => reduced.files.push(((*name).to_owned(), bytes)),
                None => reduced.left_out.push((*name).to_owned()),
            }
        }
        Ok(reduced)
    }
}

/// `vocab.txt`: a token a line; `None` where the ids are not 0, 1, 2 and so on.
fn lines(vocab: &BTreeMap<String, u32>) -> Option<String> {
    let mut list: Vec<(u32, &String)> = vocab.iter().map(|(token, &id)| (id, token)).collect();
    list.sort_unstable();
    let dense = list.iter().zip(0..).all(|((id, _), i)| *id == i);
    dense.then(|| list.iter().map(|(_, token)| format!("{token}\n")).collect())
}

/// The vocabulary of `tokenizer.json`.
enum Pieces {
    /// WordPiece, and what continues a word.
    Words { vocab: BTreeMap<String, u32>, prefix: String },
    /// BPE.
    Merges { vocab: BTreeMap<String, u32>, merges: Vec<(String, String)> },
    /// Unigram, with the id of the unknown piece.
    Scores { list: Vec<(String, f64)>, unknown: Option<u32> },
}

impl Pieces {
    /// Reads it, or says what is not supported.
    fn read(file: &Value) -> std::result::Result<Pieces, String> {
        let model = &file["model"];
        let kind = model["type"].as_str().unwrap_or("none");
        let is = |key: &str, usual: &[Value]| {
            model.get(key).filter(|v| !v.is_null() && !usual.contains(v)).map(|v| format!("{key} = {v}"))
        };
        let other = match kind {
            "BPE" => [
                is("dropout", &[]),
                is("continuing_subword_prefix", &["".into()]),
                is("end_of_word_suffix", &["".into()]),
                is("byte_fallback", &[false.into()]),
                is("ignore_merges", &[false.into()]),
            ]
            .into_iter()
            .flatten()
            .next(),
            "Unigram" => is("byte_fallback", &[false.into()]),
            _ => None,
        };
        if let Some(found) = other {
            return Err(format!("{kind} with {found}"));
        }
        let wrong = |e: serde_json::Error| format!("{kind}: {e}");
        let vocab = || serde_json::from_value(model["vocab"].clone()).map_err(wrong);
        match kind {
            "WordPiece" => {
                let prefix = model["continuing_subword_prefix"].as_str().unwrap_or("##").to_owned();
                Ok(Pieces::Words { vocab: vocab()?, prefix })
            }
            "BPE" => {
                let merge = |v: &Value| match v {
                    Value::String(line) => line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
                    v => Some((v.get(0)?.as_str()?.to_owned(), v.get(1)?.as_str()?.to_owned())),
                };
                let merges = model["merges"].as_array().map(|list| list.iter().map(merge).collect());
                let merges: Option<Vec<_>> = merges.flatten();
                let merges = merges.ok_or_else(|| "BPE with merges that are not two pieces".to_owned())?;
                Ok(Pieces::Merges { vocab: vocab()?, merges })
            }
            "Unigram" => {
                let list = serde_json::from_value(model["vocab"].clone()).map_err(wrong)?;
                let unknown = model["unk_id"].as_u64().and_then(|id| u32::try_from(id).ok());
                Ok(Pieces::Scores { list, unknown })
            }
            other => Err(format!("a model of type {other}")),
        }
    }
}

/// The added tokens of `tokenizer.json` and their ids.
fn added(file: &Value) -> Vec<(String, u32)> {
    let one = |v: &Value| {
        Some((v["content"].as_str()?.to_owned(), v["id"].as_u64().and_then(|id| u32::try_from(id).ok())?))
    };
    file["added_tokens"].as_array().into_iter().flatten().filter_map(one).collect()
}

/// The pieces that WordPiece finds in a word until it is through or finds none.
fn longest_pieces(vocab: &BTreeMap<String, u32>, prefix: &str, word: &str) -> Vec<u32> {
    let (mut found, mut start) = (Vec::new(), 0);
    while start < word.len() {
        let ends = (start + 1..=word.len()).rev().filter(|&end| word.is_char_boundary(end));
        let piece = ends.into_iter().find_map(|end| {
            let part = &word[start..end];
            let id = if start == 0 { vocab.get(part) } else { vocab.get(&format!("{prefix}{part}")) };
            id.map(|id| (*id, end))
        });
        let Some((id, end)) = piece else { break };
        found.push(id);
        start = end;
    }
    found
}

/// Single characters, and pieces with a character that is no piece of its own.
fn words_needed(vocab: &BTreeMap<String, u32>, prefix: &str) -> Vec<u32> {
    let single = |c: char, first: bool| {
        if first { vocab.contains_key(&c.to_string()) } else { vocab.contains_key(&format!("{prefix}{c}")) }
    };
    let stays = |token: &str| {
        let (text, starts) = match token.strip_prefix(prefix).filter(|rest| !rest.is_empty()) {
            Some(rest) => (rest, false),
            None => (token, true),
        };
        let placeholder = starts && text.len() > 2 && text.starts_with('[') && text.ends_with(']');
        let covered = text.chars().enumerate().all(|(i, c)| single(c, starts && i == 0));
        text.chars().count() == 1 || !covered && !placeholder
    };
    vocab.iter().filter(|(token, _)| stays(token)).map(|(_, &id)| id).collect()
}

/// Single characters, and what the tokens in `used` are joined of.
fn merges_needed(
    vocab: &BTreeMap<String, u32>,
    merges: &[(String, String)],
    used: &BTreeSet<u32>,
) -> BTreeSet<u32> {
    let ranks: HashMap<(&str, &str), usize> =
        merges.iter().enumerate().map(|(rank, (a, b))| ((a.as_str(), b.as_str()), rank)).collect();
    let mut needed: BTreeSet<u32> =
        vocab.iter().filter(|(token, _)| token.chars().count() == 1).map(|(_, &id)| id).collect();
    for (token, _) in vocab.iter().filter(|(_, id)| used.contains(id)) {
        let mut parts: Vec<String> = token.chars().map(String::from).collect();
        loop {
            let rank =
                |i: usize| ranks.get(&(parts[i].as_str(), parts[i + 1].as_str())).map(|rank| (*rank, i));
            let Some((_, i)) = (0..parts.len().saturating_sub(1)).filter_map(rank).min() else { break };
            let second = parts.remove(i + 1);
            parts[i] += &second;
            needed.extend(vocab.get(&parts[i]));
        }
    }
    needed
}

/// Single characters, and a piece with the smallest score.
fn scores_needed(list: &[(String, f64)]) -> Vec<u32> {
    let smallest = list.iter().zip(0u32..).min_by(|(a, _), (b, _)| a.1.total_cmp(&b.1)).map(|(_, id)| id);
    let single = list.iter().zip(0u32..).filter(|((piece, _), _)| piece.chars().count() == 1);
    single.map(|(_, id)| id).chain(smallest).collect()
}

/// Renumbers the special tokens of a post-processor.
fn renumber_template(v: &mut Value, moved: &impl Fn(&mut Value)) {
    for key in ["sep", "cls"] {
        if let Some(id) = v.get_mut(key).and_then(|pair| pair.get_mut(1)) {
            moved(id);
        }
    }
    let special = v.get_mut("special_tokens").and_then(Value::as_object_mut);
    for (_, token) in special.into_iter().flatten() {
        token["ids"].as_array_mut().into_iter().flatten().for_each(moved);
    }
    let list = v.get_mut("processors").and_then(Value::as_array_mut);
    list.into_iter().flatten().for_each(|inner| renumber_template(inner, moved));
}
