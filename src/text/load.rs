//! From a model folder to a [`Tokenizer`]: which files are read, and what is refused before a model is fed with it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::utils::truncation::TruncationDirection;
use tokenizers::{AddedToken, PostProcessor};

use super::{Tokenizer, guarded, subwords};
use crate::error::{Error, Kind, Result};

/// The files a tokenizer may consist of. All that exist are kept and written back on save.
const FILES: [&str; 9] = [
    "added_tokens.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];
/// The largest of the published tokenizers (250,000 pieces) has 17 MB.
const MAX_BYTES: u64 = 64 << 20;
/// Transformers writes 10^30 for "no limit".
const MAX_MAX_LENGTH: f64 = 1e9;

/// The part of `tokenizer.json` that says which token stands for the unknown.
#[derive(Deserialize)]
struct Head {
    model: ModelHead,
}
#[derive(Deserialize)]
struct ModelHead {
    #[serde(rename = "type")]
    kind: Option<String>,
    unk_token: Option<String>,
    unk_id: Option<u32>,
}

impl Tokenizer {
    /// Reads the tokenizer of a model folder: `tokenizer.json`, else `vocab.txt` (BERT's WordPiece, with `do_lower_case`,
    /// `strip_accents` and `tokenize_chinese_chars` of `tokenizer_config.json`; lower case if it does not say), else
    /// `vocab.json` with `merges.txt` (RoBERTa's), `spiece.model` (XLNet's, ALBERT's) or `sentencepiece.bpe.model`
    /// (XLM-RoBERTa's).
    ///
    /// `vocab_size` is the number of rows of the model's token embedding; a tokenizer that could give a larger id is refused.
    ///
    /// # Errors
    /// [`Kind::Model`] if the files are missing, over 64 MB, malformed, name ids the model lacks, or lack special tokens.
    pub fn from_dir(dir: &Path, vocab_size: usize) -> Result<Self> {
        let mut files = Vec::new();
        for name in FILES {
            if let Some(bytes) = read_file(&dir.join(name))? {
                files.push((name, bytes));
            }
        }
        let find = |name| files.iter().find(|(n, _)| *n == name).map(|(_, b)| b.as_slice());
        let config = match find("tokenizer_config.json") {
            Some(bytes) => json(bytes, &dir.join("tokenizer_config.json"))?,
            None => Value::Null,
        };
        let map = match find("special_tokens_map.json") {
            Some(bytes) => json(bytes, &dir.join("special_tokens_map.json"))?,
            None => Value::Null,
        };
        let (path, bytes) = if let Some(bytes) = find("tokenizer.json") {
            (dir.join("tokenizer.json"), bytes.to_vec())
        } else if let Some(vocab) = find("vocab.txt") {
            let path = dir.join("vocab.txt");
            (path.clone(), from_vocab(vocab, &path, &config, &map)?)
        } else if let (Some(vocab), Some(merges)) = (find("vocab.json"), find("merges.txt")) {
            (dir.join("vocab.json"), subwords::from_merges(vocab, merges, dir, &config)?)
        } else if let Some((name, model)) =
            ["spiece.model", "sentencepiece.bpe.model"].into_iter().find_map(|n| Some((n, find(n)?)))
        {
            let path = dir.join(name);
            (path.clone(), subwords::from_sentencepiece(model, &path, &config)?)
        } else {
            return Err(Error::model("no tokenizer in the model folder")
                .at(dir)
                .expected("tokenizer.json, vocab.txt, vocab.json with merges.txt, or spiece.model")
                .found(if files.is_empty() { "none of them".into() } else { names(&files) })
                .hint("save the tokenizer beside the model: tokenizer.save_pretrained(folder)"));
        };
        if find("tokenizer.json").is_none() {
            files.push(("tokenizer.json", bytes.clone()));
            files.sort_by_key(|(name, _)| *name);
        }
        let bad = |what: String| {
            Error::model("not a tokenizer that can be used")
                .at(&path)
                .found(what)
                .hint("write it anew with transformers: AutoTokenizer.from_pretrained(f).save_pretrained(f)")
        };
        let head: Head = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(&bytes))
            .map_err(&bad)?
            .map_err(|e| bad(e.to_string()))?;
        inner.with_truncation(None).map_err(|e| bad(e.to_string()))?.with_padding(None);
        let Some(template) = inner.get_post_processor().cloned() else {
            return Err(Error::model(
                "the tokenizer adds no special tokens, which the model was trained with",
            )
            .at(&path)
            .expected("a post_processor that adds [CLS] and [SEP] or their like")
            .found("none"));
        };
        inner.with_post_processor(None::<tokenizers::processors::PostProcessorWrapper>);

        let largest = inner.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
        let Some((token, id)) = largest else { return Err(bad("an empty vocabulary".into())) };
        too_large(&token, id, vocab_size).map_or(Ok(()), |e| Err(e.at(&path)))?;
        let unknown = unknown(&head.model, &inner).map_err(|e| e.at(&path))?;

        let tokenizer = Tokenizer {
            direction: match config["truncation_side"].as_str() {
                Some("left") => TruncationDirection::Left,
                _ => TruncationDirection::Right,
            },
            model_max_length: config["model_max_length"]
                .as_f64()
                .filter(|n| (1.0..MAX_MAX_LENGTH).contains(n))
                .map(|n| n as usize),
            hash: hash(&files),
            inner,
            template,
            spaced: Default::default(),
            unknown,
            path,
            files,
        };
        tokenizer.try_templates(vocab_size)?;
        Ok(tokenizer)
    }

    /// Runs both templates once on empty texts: a template that names a token it lacks panics here and not in training.
    fn try_templates(&self, vocab_size: usize) -> Result<()> {
        for pair in [None, Some("")] {
            let count = self.template.added_tokens(pair.is_some());
            let encoding = self.encode("", pair, count).map_err(|e| {
                Error::model("the template of special tokens cannot be used")
                    .at(&self.path)
                    .found(e.to_string())
            })?;
            if encoding.ids.is_empty() {
                return Err(Error::model("the tokenizer adds no special tokens")
                    .at(&self.path)
                    .expected("a template such as [CLS] A [SEP]")
                    .found("a template that adds nothing"));
            }
            for id in encoding.ids {
                let Some(token) = self.inner.id_to_token(id) else {
                    return Err(Error::model("a special token of the template is not in the vocabulary")
                        .at(&self.path)
                        .found(format!("id {id}")));
                };
                too_large(&token, id, vocab_size).map_or(Ok(()), |e| Err(e.at(&self.path)))?;
            }
        }
        Ok(())
    }
}

fn names(files: &[(&str, Vec<u8>)]) -> String {
    files.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ")
}

fn too_large(token: &str, id: u32, vocab_size: usize) -> Option<Error> {
    (id as usize >= vocab_size).then(|| {
        Error::model(
            "the tokenizer does not belong to this model: it has an id that the model has no embedding for",
        )
        .expected(format!("ids below {vocab_size}, the rows of the token embedding"))
        .found(format!("id {id} for {token:?}"))
        .hint("use the tokenizer the model was trained with")
    })
}

/// The id of the unknown token; byte-level models have none.
fn unknown(head: &ModelHead, inner: &tokenizers::Tokenizer) -> Result<Option<u32>> {
    match (&head.unk_token, head.unk_id) {
        (Some(token), _) => match inner.token_to_id(token) {
            Some(id) => Ok(Some(id)),
            None => Err(Error::model(format!("the unknown token {token:?} is not in the vocabulary"))),
        },
        (None, None) if head.kind.as_deref() == Some("WordPiece") => {
            Err(Error::model("a WordPiece tokenizer without an unknown token").expected("model.unk_token"))
        }
        (None, id) => Ok(id),
    }
}

/// A file's bytes; `None` if it is not there.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    let fail = |e: &std::io::Error| Error::io(Kind::Model, "cannot read", path, e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(&e)),
    };
    let mut bytes = Vec::new();
    // One byte more than allowed, so that a pipe or a growing file is caught too.
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| fail(&e))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::model("too large for a tokenizer file")
            .at(path)
            .expected(format!("at most {} MB", MAX_BYTES >> 20)));
    }
    Ok(Some(bytes))
}

fn json(bytes: &[u8], path: &Path) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| {
        Error::model("not valid JSON")
            .at(path)
            .line(e.line() as u64)
            .column(e.column() as u64)
            .found(e.to_string())
    })
}

fn hash(files: &[(&str, Vec<u8>)]) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, bytes) in files {
        for part in [name.as_bytes(), bytes] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// The `tokenizer.json` that BERT's `vocab.txt` stands for: one token a line, its id is the line's number from 0.
fn from_vocab(vocab: &[u8], path: &Path, config: &Value, map: &Value) -> Result<Vec<u8>> {
    if let Err(e) = std::str::from_utf8(vocab) {
        let at = e.valid_up_to();
        let line = 1 + vocab[..at].iter().filter(|b| **b == b'\n').count();
        return Err(Error::model("not UTF-8").at(path).line(line as u64).byte(at as u64));
    }
    // A special token may be renamed; it is a string, or an object with its `content`.
    let name = |key: &str, default: &str| {
        let named = [config, map].into_iter().find_map(|v| {
            let v = &v[key];
            v.as_str().or_else(|| v["content"].as_str()).map(str::to_string)
        });
        named.unwrap_or_else(|| default.to_string())
    };
    let flag = |key: &str| config[key].as_bool();
    let fail = |e: String| Error::model("cannot make a tokenizer of the vocabulary").at(path).found(e);

    let ids = WordPiece::read_bytes(vocab).map_err(|e| fail(e.to_string()))?;
    let [cls, sep, unk] = [("cls_token", "[CLS]"), ("sep_token", "[SEP]"), ("unk_token", "[UNK]")]
        .map(|(key, default)| name(key, default));
    let mut missing = Vec::new();
    let mut id = |token: &str| {
        ids.get(token).copied().unwrap_or_else(|| {
            missing.push(token.to_string());
            0
        })
    };
    let (cls_id, sep_id, _) = (id(&cls), id(&sep), id(&unk));
    if !missing.is_empty() {
        return Err(Error::model("the vocabulary lacks special tokens")
            .at(path)
            .expected(format!("{cls}, {sep} and {unk}, each on a line of its own"))
            .found(format!("no {}", missing.join(", no "))));
    }
    let added: Vec<AddedToken> =
        [&unk, &sep, &name("pad_token", "[PAD]"), &cls, &name("mask_token", "[MASK]")]
            .into_iter()
            .filter(|token| ids.contains_key(*token))
            .map(|token| AddedToken::from(token.clone(), true))
            .collect();
    let model = WordPiece::builder().vocab(ids).unk_token(unk).build().map_err(|e| fail(e.to_string()))?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let normalizer = BertNormalizer::new(
        true,
        flag("tokenize_chinese_chars").unwrap_or(true),
        flag("strip_accents"),
        flag("do_lower_case").unwrap_or(true),
    );
    tokenizer.with_normalizer(Some(normalizer)).map_err(|e| fail(e.to_string()))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    let mut builder = TemplateProcessing::builder();
    builder
        .try_single(format!("{cls}:0 $A:0 {sep}:0"))
        .map_err(&fail)?
        .try_pair(format!("{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1"))
        .map_err(&fail)?
        .special_tokens(vec![(cls, cls_id), (sep, sep_id)]);
    let template = builder.build().map_err(|e| fail(e.to_string()))?;
    tokenizer.with_post_processor(Some(template));
    tokenizer.with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
    tokenizer.add_special_tokens(added).map_err(|e| fail(e.to_string()))?;
    tokenizer.to_string(true).map(String::into_bytes).map_err(|e| fail(e.to_string()))
}
