//! The `tokenizer.json` that older files stand for: `vocab.json` with `merges.txt` (RoBERTa), and the models of SentencePiece
//! (XLNet, ALBERT, XLM-RoBERTa). As transformers 5 builds them.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::normalizers::Precompiled;

use crate::error::{Error, Result};

/// RoBERTa's byte-level BPE: `vocab.json` maps pieces to ids, `merges.txt` has one pair of pieces a line, the first merge first.
pub(super) fn from_merges(vocab: &[u8], merges: &[u8], dir: &Path, config: &Value) -> Result<Vec<u8>> {
    let at = dir.join("vocab.json");
    let bad = |what: String| Error::model("not a vocabulary of byte-level BPE").at(&at).found(what);
    let ids: Map<String, Value> = serde_json::from_slice(vocab).map_err(|e| bad(e.to_string()))?;
    let id = |token: &str| ids.get(token).and_then(Value::as_u64);
    let [Some(cls), Some(sep)] = ["<s>", "</s>"].map(id) else {
        return Err(bad("no <s> or no </s>".into()).hint(
            "RoBERTa's special tokens are expected; for others save tokenizer.json with transformers",
        ));
    };
    let path = dir.join("merges.txt");
    let text = std::str::from_utf8(merges)
        .map_err(|e| Error::model("not UTF-8").at(&path).byte(e.valid_up_to() as u64))?;
    let lines =
        text.lines().enumerate().filter(|(i, l)| !(l.is_empty() || *i == 0 && l.starts_with("#version")));
    let pair = |(i, line): (usize, &str)| match line.split_once(' ') {
        Some((a, b)) if !b.contains(' ') => Ok(json!([a, b])),
        _ => Err(Error::model("not a merge").at(&path).line(i as u64 + 1).expected("two pieces and a space")),
    };
    let merges = lines.map(pair).collect::<Result<Vec<Value>>>()?;
    let added = special(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], id);
    let prefix = config["add_prefix_space"].as_bool().unwrap_or(false);
    let bytes = |trim: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim, "use_regex": true});
    write(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": bytes(false),
        "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", sep], "cls": ["<s>", cls],
            "trim_offsets": true, "add_prefix_space": prefix},
        "decoder": bytes(true),
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": ids, "merges": merges},
    }))
}

/// A unigram model of SentencePiece; which tokenizer it is for is seen by its special tokens.
pub(super) fn from_sentencepiece(model: &[u8], path: &Path, config: &Value) -> Result<Vec<u8>> {
    let bad = |what: &str| Error::model("not a model of SentencePiece").at(path).found(what);
    let mut proto = Model::read(model).ok_or_else(|| bad("a damaged file"))?;
    if proto.kind != UNIGRAM {
        return Err(bad("another kind of model").expected("a unigram model"));
    }
    let has = |name: &str| proto.pieces.iter().any(|(piece, _)| piece == name);
    let flag = |key: &str, default| config[key].as_bool().unwrap_or(default);
    let quotes = |(from, to)| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let mut normalizers: Vec<Value> = Vec::new();
    let numbered = |c: &str| c.strip_suffix(',').is_some_and(|c| c.ends_with(|c: char| c.is_numeric()));
    let (unk, names, [single, pair]): (usize, &[&str], [&[Part]; 2]);
    if has("<cls>") || has("[CLS]") {
        // XLNet and ALBERT: the same but for their special tokens and whether capitals stay.
        let xlnet = has("<cls>");
        normalizers.extend([("``", "\""), ("''", "\"")].map(quotes));
        if xlnet || !flag("keep_accents", false) {
            normalizers.extend([json!({"type": "NFKD"}), json!({"type": "StripAccents"})]);
        }
        if flag("do_lower_case", !xlnet) {
            normalizers.push(json!({"type": "Lowercase"}));
        }
        // A digit with a comma is never one piece.
        proto.pieces.iter_mut().filter(|(p, _)| numbered(p)).for_each(|(_, score)| *score -= 100.0);
        if xlnet {
            names = &["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"];
            (unk, single) = (0, &[A, Part("<sep>", 0), Part("<cls>", 2)]);
            pair = &[A, Part("<sep>", 0), B, Part("<sep>", 1), Part("<cls>", 2)];
        } else {
            names = &["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"];
            (unk, single) = (1, &[Part("[CLS]", 0), A, Part("[SEP]", 0)]);
            pair = &[Part("[CLS]", 0), A, Part("[SEP]", 0), B, Part("[SEP]", 1)];
        }
    } else if proto
        .pieces
        .get(..3)
        .is_some_and(|p| p.iter().map(|p| p.0.as_str()).eq(["<unk>", "<s>", "</s>"]))
    {
        // XLM-RoBERTa keeps fairseq's numbers: four special tokens, the pieces, the mask.
        let mut pieces: Vec<(String, f64)> =
            ["<s>", "<pad>", "</s>", "<unk>"].map(|p| (p.to_owned(), 0.0)).into();
        pieces.extend(proto.pieces.drain(3..));
        pieces.push(("<mask>".into(), 0.0));
        proto.pieces = pieces;
        names = &["<s>", "<pad>", "</s>", "<unk>", "<mask>"];
        (unk, single) = (3, &[Part("<s>", 0), A0, Part("</s>", 0)]);
        pair = &[Part("<s>", 0), A0, Part("</s>", 0), Part("</s>", 0), B0, Part("</s>", 0)];
    } else {
        return Err(bad("no special tokens of XLNet, ALBERT or XLM-RoBERTa").hint(
            "save tokenizer.json with transformers: AutoTokenizer.from_pretrained(f).save_pretrained(f)",
        ));
    }
    if !proto.charsmap.is_empty() {
        let map =
            Precompiled::from(&proto.charsmap).map_err(|e| bad(&format!("a table of characters: {e}")))?;
        normalizers.push(serde_json::to_value(map).map_err(|e| bad(&e.to_string()))?);
    }
    let id = |token: &str| proto.pieces.iter().position(|p| p.0 == token).map(|i| i as u64);
    let template = |parts: &[Part]| -> Vec<Value> {
        let part = |p: &Part| match p.0 {
            "A" | "B" => json!({"Sequence": {"id": p.0, "type_id": p.1}}),
            token => json!({"SpecialToken": {"id": token, "type_id": p.1}}),
        };
        parts.iter().map(part).collect()
    };
    let specials = pair.iter().map(|p| p.0).filter(|p| !["A", "B"].contains(p)).map(|token| {
        let id = id(token).ok_or_else(|| bad(&format!("no {token}")))?;
        Ok((token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})))
    });
    let specials = specials.collect::<Result<Map<String, Value>>>()?;
    let metaspace =
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
    write(json!({
        "version": "1.0",
        "added_tokens": special(names.iter().copied(), id),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {"type": "TemplateProcessing", "single": template(single), "pair": template(pair),
            "special_tokens": specials},
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": unk, "vocab": proto.pieces, "byte_fallback": false},
    }))
}

/// A text or a token of a template, and its type.
struct Part(&'static str, u32);
const A: Part = Part("A", 0);
const B: Part = Part("B", 1);
const A0: Part = Part("A", 0);
const B0: Part = Part("B", 0);

/// Those of the names that the vocabulary has, as special tokens; a mask takes the space before it.
fn special<'a>(names: impl IntoIterator<Item = &'a str>, id: impl Fn(&str) -> Option<u64>) -> Vec<Value> {
    let mut found: Vec<(u64, &str)> = names.into_iter().filter_map(|n| Some((id(n)?, n))).collect();
    found.sort_unstable();
    let token = |(id, name): (u64, &str)| {
        json!({"id": id, "content": name, "single_word": false, "lstrip": name == "<mask>", "rstrip": false,
            "normalized": false, "special": true})
    };
    found.into_iter().map(token).collect()
}

fn write(tokenizer: Value) -> Result<Vec<u8>> {
    serde_json::to_vec(&tokenizer)
        .map_err(|e| Error::model("a tokenizer cannot be written").found(e.to_string()))
}

/// `TrainerSpec.model_type` of a unigram model.
const UNIGRAM: u64 = 1;

/// What is read of a `ModelProto` (sentencepiece_model.proto of the project SentencePiece).
struct Model {
    /// Field 1, `pieces`: the piece (1) and its score (2).
    pieces: Vec<(String, f64)>,
    /// Field 2, `trainer_spec`: its field 3, `model_type`.
    kind: u64,
    /// Field 3, `normalizer_spec`: its field 2, `precompiled_charsmap`.
    charsmap: Vec<u8>,
}

impl Model {
    fn read(bytes: &[u8]) -> Option<Model> {
        let mut model = Model { pieces: Vec::new(), kind: UNIGRAM, charsmap: Vec::new() };
        for field in Fields(bytes) {
            match field? {
                (1, Wire::Bytes(piece)) => {
                    let (mut text, mut score) = (String::new(), 0.0);
                    for field in Fields(piece) {
                        match field? {
                            (1, Wire::Bytes(b)) => text = std::str::from_utf8(b).ok()?.to_owned(),
                            (2, Wire::Four(b)) => score = f64::from(f32::from_le_bytes(b)),
                            _ => {}
                        }
                    }
                    model.pieces.push((text, score));
                }
                (2, Wire::Bytes(spec)) => {
                    for field in Fields(spec) {
                        if let (3, Wire::Number(n)) = field? {
                            model.kind = n;
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

/// A value as Protocol Buffers encode it (protobuf.dev/programming-guides/encoding).
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Four([u8; 4]),
    Eight,
}

/// The fields of a message with their numbers; `None` where the bytes are damaged, and then nothing more.
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
