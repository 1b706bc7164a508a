//! Builds a tokenizer: from a vocabulary and settings, as each class of transformers 5 does, or from
//! `tokenizer.json` unchanged.

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{DecoderWrapper, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

use super::class::Class;
use super::special::Tokens;
use crate::error::{Error, Result};

/// The vocabulary of a tokenizer, from `tokenizer.json` or from older files.
pub(super) enum Pieces {
    /// WordPiece: ids by token.
    Words(Vocab),
    /// BPE: ids by piece, and merges.
    Merges(Vocab, Vec<(String, String)>),
    /// Unigram: pieces with scores, the index of the unknown piece, and the character map as in JSON.
    Scores { pieces: Vec<(String, f64)>, unknown: usize, characters: Option<Value> },
}

impl Pieces {
    fn has(&self, token: &str) -> bool {
        match self {
            Pieces::Words(vocab) | Pieces::Merges(vocab, _) => vocab.contains_key(token),
            Pieces::Scores { pieces, .. } => pieces.iter().any(|(piece, _)| piece == token),
        }
    }
}

/// A tokenizer without its post-processor, and the post-processor.
pub(super) struct Built {
    pub inner: tokenizers::Tokenizer,
    pub template: Option<PostProcessorWrapper>,
    /// The id of the unknown token; byte-level models have none.
    pub unknown: Option<u32>,
}

/// Builds the tokenizer of a class from the vocabulary and `tokenizer_config.json`; `file_template` is the
/// post-processor of `tokenizer.json`.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) if pieces and class do not fit, a setting has another type, or
/// a special token is not in the vocabulary.
pub(super) fn build(
    class: Class,
    pieces: Pieces,
    (config, file_template): (&Value, Option<&Value>),
    tokens: &Tokens,
    vocab_size: usize,
    path: &Path,
) -> Result<Built> {
    let settings = Settings { config, class, path };
    let fail = |e: String| {
        Error::model(format!("cannot build a {} from this vocabulary", class.name()))
            .at(path)
            .with_found(e)
            .with_help(SAVE_AGAIN)
    };
    let text = |e: tokenizers::Error| fail(e.to_string());
    let mut keys = if class == Class::XlmRoberta {
        vec!["bos_token", "eos_token"]
    } else {
        vec!["cls_token", "sep_token"]
    };
    keys.extend((class == Class::Bert).then_some("unk_token"));
    // ALBERT looks up its special tokens before any are added.
    let known = |t: &str| pieces.has(t) || class != Class::Albert && tokens.adds(t);
    let names = settings.special(tokens, &keys, known)?;
    let flag = |key: &str, default: bool| Ok(settings.optional(key)?.unwrap_or(default));

    let mut unknown_id = None;
    let (model, normalizer, pre_tokenizer, decoder): (ModelWrapper, _, _, _) = match pieces {
        Pieces::Words(vocab) => {
            let unknown = names.last().cloned().unwrap_or_default();
            if !vocab.contains_key(&unknown) {
                return Err(fail(format!("no {unknown}")));
            }
            unknown_id = vocab.get(&unknown).copied();
            let normalizer = json!({"type": "BertNormalizer", "clean_text": true,
                "handle_chinese_chars": flag("tokenize_chinese_chars", true)?,
                "strip_accents": settings.optional("strip_accents")?, "lowercase": flag("do_lower_case", true)?});
            let model = WordPiece::builder().vocab(vocab).unk_token(unknown).build().map_err(text)?;
            let decoder = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
            (model.into(), Some(normalizer), json!({"type": "BertPreTokenizer"}), decoder)
        }
        Pieces::Merges(vocab, merges) => {
            let model = BPE::builder()
                .vocab_and_merges(vocab, merges)
                .continuing_subword_prefix(String::new())
                .end_of_word_suffix(String::new())
                .build()
                .map_err(text)?;
            let bytes = |prefix: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
            (model.into(), None, bytes(flag("add_prefix_space", false)?), bytes(true))
        }
        Pieces::Scores { pieces, unknown, characters } => {
            let model = Unigram::from(pieces, Some(unknown), false).map_err(text)?;
            unknown_id = u32::try_from(unknown).ok();
            let characters =
                characters.map(|table| json!({"type": "Precompiled", "precompiled_charsmap": table}));
            let normalizer = if class == Class::XlmRoberta {
                characters
            } else {
                let keeps_accents = class == Class::Albert && flag("keep_accents", false)?;
                let quotes = |from| json!({"type": "Replace", "pattern": {"String": from}, "content": "\""});
                let mut list = vec![quotes("``"), quotes("''")];
                if !keeps_accents {
                    list.extend([json!({"type": "NFKD"}), json!({"type": "StripAccents"})]);
                }
                if flag("do_lower_case", class == Class::Albert)? {
                    list.push(json!({"type": "Lowercase"}));
                }
                list.extend(characters);
                Some(json!({"type": "Sequence", "normalizers": list}))
            };
            let prefix = class == Class::Xlnet || flag("add_prefix_space", true)?;
            let scheme = if prefix { "always" } else { "never" };
            let space = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": true});
            let words =
                json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space.clone()]});
            (model.into(), normalizer, words, space)
        }
    };
    let wrong = |e: serde_json::Error| fail(e.to_string());
    let mut inner = tokenizers::Tokenizer::new(model);
    if let Some(normalizer) = normalizer {
        let normalizer: NormalizerWrapper = serde_json::from_value(normalizer).map_err(wrong)?;
        inner.with_normalizer(Some(normalizer)).map_err(text)?;
    }
    inner.with_pre_tokenizer(Some(
        serde_json::from_value::<PreTokenizerWrapper>(pre_tokenizer).map_err(wrong)?,
    ));
    inner.with_decoder(Some(serde_json::from_value::<DecoderWrapper>(decoder).map_err(wrong)?));
    add(&mut inner, tokens, vocab_size, path)?;
    let (first, last) = (&names[0], &names[1]);
    let (Some(first_id), Some(last_id)) = (inner.token_to_id(first), inner.token_to_id(last)) else {
        return Err(fail(format!("no {first} or no {last}")));
    };
    let template = match class {
        Class::Roberta => {
            json!({"type": "RobertaProcessing", "sep": [last, last_id], "cls": [first, first_id],
                "trim_offsets": flag("trim_offsets", true)?, "add_prefix_space": flag("add_prefix_space", false)?})
        }
        // In ALBERT's template the tokens have these names, even if the special tokens have others.
        Class::Albert => template(class, ["[CLS]", "[SEP]"], [first_id, last_id]),
        _ => template(class, [first, last], [first_id, last_id]),
    };
    // For ALBERT the file's template replaces this one.
    let template = file_template.cloned().filter(|_| class == Class::Albert).unwrap_or(template);
    let template = serde_json::from_value(template).map_err(wrong)?;
    Ok(Built { inner, template: Some(template), unknown: unknown_id })
}

/// The positions of special tokens around one text and around two.
fn template(class: Class, [first, last]: [&str; 2], ids: [u32; 2]) -> Value {
    let special = |name: &str, kind: u32| json!({"SpecialToken": {"id": name, "type_id": kind}});
    let (f, l) = (|kind| special(first, kind), |kind| special(last, kind));
    let a = json!({"Sequence": {"id": "A", "type_id": 0}});
    let b = |kind: u32| json!({"Sequence": {"id": "B", "type_id": kind}});
    let [single, pair] = match class {
        Class::Xlnet => [json!([a, l(0), f(2)]), json!([a, l(0), b(1), l(1), f(2)])],
        Class::XlmRoberta => [json!([f(0), a, l(0)]), json!([f(0), a, l(0), l(0), b(0), l(0)])],
        _ => [json!([f(0), a, l(0)]), json!([f(0), a, l(0), b(1), l(1)])],
    };
    let entries = [first, last].into_iter().zip(ids);
    let entries =
        entries.map(|(name, id)| (name.to_owned(), json!({"id": name, "ids": [id], "tokens": [name]})));
    let entries: serde_json::Map<String, Value> = entries.collect();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": entries})
}

/// The tokenizer in `tokenizer.json` (`bytes`, parsed as `file`), with the tokens that other files add.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model) if the file is not a tokenizer, or has no id for its unknown
/// token.
pub(super) fn from_file(
    bytes: &[u8],
    file: &Value,
    tokens: &Tokens,
    vocab_size: usize,
    path: &Path,
) -> Result<Built> {
    let bad = |e: tokenizers::Error| {
        Error::model("the tokenizer cannot be read").at(path).with_found(e.to_string()).with_help(SAVE_AGAIN)
    };
    let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(bad)?;
    inner.with_truncation(None).map_err(bad)?.with_padding(None);
    let template = inner.get_post_processor().cloned();
    inner.with_post_processor(None::<PostProcessorWrapper>);
    add(&mut inner, tokens, vocab_size, path)?;
    let model = &file["model"];
    let unknown = match (model["unk_token"].as_str(), model["unk_id"].as_u64()) {
        (Some(token), _) => Some(inner.token_to_id(token).ok_or_else(|| {
            Error::model(format!("the unknown token {token:?} is not in the vocabulary"))
                .at(path)
                .with_help(SAVE_AGAIN)
        })?),
        (None, None) if model["type"] == "WordPiece" => {
            return Err(Error::model("the WordPiece tokenizer has no unknown token")
                .at(path)
                .with_expected("the key model.unk_token")
                .with_help(SAVE_AGAIN));
        }
        (None, id) => id.and_then(|id| u32::try_from(id).ok()),
    };
    Ok(Built { inner, template, unknown })
}

/// How to repair a tokenizer.
pub(super) const SAVE_AGAIN: &str =
    "save it again with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)";

/// Adds special and added tokens. A token that the vocabulary lacks gets the next free id, not the id in its
/// file.
fn add(inner: &mut tokenizers::Tokenizer, tokens: &Tokens, vocab_size: usize, path: &Path) -> Result<()> {
    let has: Vec<String> = inner.get_added_tokens_decoder().into_values().map(|t| t.content).collect();
    let mut size = inner.get_vocab_size(true) + tokens.new_ones(|t| inner.token_to_id(t).is_some());
    let list = tokens.list(&has, |content| {
        let known = inner.token_to_id(content).is_some();
        size += usize::from(!known);
        known || size <= vocab_size
    });
    inner
        .add_tokens(list)
        .map_err(|e| Error::model("cannot add the added tokens").at(path).with_found(e.to_string()))?;
    Ok(())
}

/// The settings of a class in `tokenizer_config.json`.
struct Settings<'a> {
    config: &'a Value,
    class: Class,
    path: &'a Path,
}

impl Settings<'_> {
    /// A boolean, if given.
    fn optional(&self, key: &str) -> Result<Option<bool>> {
        match self.config.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(Error::model(format!("`{key}` is not a boolean"))
                .at(self.path.with_file_name("tokenizer_config.json"))
                .with_expected("true or false")
                .with_found(other.to_string().chars().take(80).collect::<String>())
                .with_help("correct or remove this key")),
        }
    }
    /// The special tokens with these keys; all of them must be known.
    fn special(&self, tokens: &Tokens, keys: &[&str], known: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let names: Vec<String> =
            keys.iter().map(|key| tokens.name(key).unwrap_or("null").to_owned()).collect();
        let missing: Vec<&str> = names.iter().map(String::as_str).filter(|t| !known(t)).collect();
        if missing.is_empty() {
            return Ok(names);
        }
        Err(Error::model("the vocabulary lacks special tokens")
            .at(self.path)
            .with_expected(format!("{} ({} of a {})", names.join(", "), keys.join(", "), self.class.name()))
            .with_found(format!("no {}", missing.join(", no ")))
            .with_help("name the special tokens of this vocabulary in tokenizer_config.json"))
    }
}
