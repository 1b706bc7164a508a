//! Reads vocabularies of older files: `vocab.json` with `merges.txt` (RoBERTa), and SentencePiece models
//! (XLNet, ALBERT, XLM-RoBERTa).

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::models::bpe::Vocab;
use tokenizers::normalizers::Precompiled;

use super::build::Pieces;
use super::class::Class;
use crate::error::{Error, Result};

/// Byte-level BPE: `vocab.json` maps pieces to ids. `merges.txt` has one pair of pieces a line, in order of
/// priority.
pub(super) fn from_merges(vocab: &[u8], merges: &[u8], dir: &Path) -> Result<Pieces> {
    let at = dir.join("vocab.json");
    let bad = |what: String| {
        let e = Error::model("not a byte-level BPE vocabulary").at(&at).with_found(what);
        e.with_expected("a JSON object that maps pieces to ids").with_help("download the model again")
    };
    let ids: Map<String, Value> = serde_json::from_slice(vocab).map_err(|e| bad(e.to_string()))?;
    let vocab = numbers(ids).map_err(bad)?;
    let path = dir.join("merges.txt");
    let text = std::str::from_utf8(merges)
        .map_err(|e| Error::model("the file is not UTF-8").at(&path).with_byte(e.valid_up_to() as u64))?;
    let lines =
        text.lines().enumerate().filter(|(i, l)| !(l.is_empty() || *i == 0 && l.starts_with("#version")));
    let pair = |(i, line): (usize, &str)| match line.split_once(' ') {
        Some((a, b)) if !b.contains(' ') => Ok((a.to_owned(), b.to_owned())),
        _ => Err(Error::model("this line is not a merge")
            .at(&path)
            .with_line(i as u64 + 1)
            .with_expected("two pieces separated by one space")
            .with_found(line.chars().take(80).collect::<String>())
            .with_help("download the model again")),
    };
    Ok(Pieces::Merges(vocab, lines.map(pair).collect::<Result<Vec<_>>>()?))
}

/// A map of pieces to ids.
pub(super) fn numbers(map: Map<String, Value>) -> std::result::Result<Vocab, String> {
    let number = |(piece, id): (String, Value)| match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok((piece, id)),
        None => Err(format!("{id} as the id of {piece:?}")),
    };
    map.into_iter().map(number).collect()
}

/// A SentencePiece unigram model, and its control and user-defined symbols, each with whether it is special.
///
/// `special` returns the content of a special token by its key.
pub(super) fn from_sentencepiece(
    model: &[u8],
    class: Class,
    path: &Path,
    special: impl Fn(&str) -> String,
) -> Result<(Pieces, Vec<(String, bool)>)> {
    let bad = |what: &str| {
        let e = Error::model("not a SentencePiece unigram model").at(path).with_found(what);
        e.with_help("download the model again, or write tokenizer.json with transformers")
    };
    let mut proto = Model::read(model).ok_or_else(|| bad("a file that is damaged or of another format"))?;
    if proto.kind != UNIGRAM {
        return Err(
            bad(&format!("a SentencePiece model of type {}", proto.kind)).with_expected("type 1, unigram")
        );
    }
    let mut unknown = proto.unknown;
    if class == Class::XlmRoberta {
        // Fairseq's ids: four special tokens, the pieces, the mask token.
        let mut pieces: Vec<(String, f64)> =
            ["bos_token", "pad_token", "eos_token", "unk_token"].map(|key| (special(key), 0.0)).into();
        pieces.extend(proto.pieces.drain(3.min(proto.pieces.len())..));
        pieces.push((special("mask_token"), 0.0));
        proto.pieces = pieces;
        unknown = 3;
    } else if class == Class::Albert {
        unknown = 1;
    }
    let characters = if proto.charsmap.is_empty() {
        None
    } else {
        let map =
            Precompiled::from(&proto.charsmap).map_err(|e| bad(&format!("an invalid character map: {e}")))?;
        let map = serde_json::to_value(map).map_err(|e| bad(&e.to_string()))?;
        map.get("precompiled_charsmap").cloned()
    };
    Ok((Pieces::Scores { pieces: proto.pieces, unknown, characters }, proto.symbols))
}

/// `TrainerSpec.model_type` of a unigram model.
const UNIGRAM: u64 = 1;
/// `ModelProto.SentencePiece.Type`.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// The parts of a `ModelProto` that are used (sentencepiece_model.proto of SentencePiece).
struct Model {
    /// Field 1, `pieces`: the piece (1) and its score (2).
    pieces: Vec<(String, f64)>,
    /// Pieces whose type (3) is control (`true`) or user-defined (`false`).
    symbols: Vec<(String, bool)>,
    /// Field 2, `trainer_spec`: its field 3, `model_type`.
    kind: u64,
    /// Its field 40, `unk_id`.
    unknown: usize,
    /// Field 3, `normalizer_spec`: its field 2, `precompiled_charsmap`.
    charsmap: Vec<u8>,
}

impl Model {
    fn read(bytes: &[u8]) -> Option<Model> {
        let mut model = Model {
            pieces: Vec::new(),
            symbols: Vec::new(),
            kind: UNIGRAM,
            unknown: 0,
            charsmap: Vec::new(),
        };
        for field in Fields(bytes) {
            match field? {
                (1, Wire::Bytes(piece)) => {
                    let (mut text, mut score, mut kind) = (String::new(), 0.0, 1);
                    for field in Fields(piece) {
                        match field? {
                            (1, Wire::Bytes(b)) => text = std::str::from_utf8(b).ok()?.to_owned(),
                            (2, Wire::Four(b)) => score = f64::from(f32::from_le_bytes(b)),
                            (3, Wire::Number(n)) => kind = n,
                            _ => {}
                        }
                    }
                    if kind == CONTROL || kind == USER_DEFINED {
                        model.symbols.push((text.clone(), kind == CONTROL));
                    }
                    model.pieces.push((text, score));
                }
                (2, Wire::Bytes(spec)) => {
                    for field in Fields(spec) {
                        match field? {
                            (3, Wire::Number(n)) => model.kind = n,
                            (40, Wire::Number(n)) => model.unknown = usize::try_from(n).ok()?,
                            _ => {}
                        }
                    }
                }
                (3, Wire::Bytes(spec)) => {
                    for field in Fields(spec) {
                        if let (2, Wire::Bytes(b)) = field? {
                            model.charsmap = b.to_vec();
                        }
                    }
                }
                _ => {}
            }
        }
        Some(model).filter(|m| !m.pieces.is_empty() && m.pieces.iter().all(|p| p.1.is_finite()))
    }
}

/// A value in the encoding of Protocol Buffers (protobuf.dev/programming-guides/encoding).
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Four([u8; 4]),
    Eight,
}

/// The fields of a message with their numbers. Damaged bytes give `None` and end the iteration.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }
    fn number(&mut self) -> Option<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            n |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Some(n);
            }
        }
        None
    }
    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Wire::Number(self.number()?),
            1 => self.take(8).map(|_| Wire::Eight)?,
            2 => {
                let n = usize::try_from(self.number()?).ok()?;
                Wire::Bytes(self.take(n)?)
            }
            5 => Wire::Four(self.take(4)?.try_into().ok()?),
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Wire<'a>)>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}
