//! Finds the tokenizer class of a model folder, as `AutoTokenizer` of transformers 5 does.
//!
//! Most classes rebuild the tokenizer from the vocabulary and the settings of `tokenizer_config.json`, and
//! read only the vocabulary from `tokenizer.json`. [`Class::File`] uses `tokenizer.json` unchanged.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

/// A tokenizer class of transformers that tempra supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// `BertTokenizer` and classes with the same code: WordPiece.
    Bert,
    /// `RobertaTokenizer`: byte-level BPE.
    Roberta,
    /// `XLMRobertaTokenizer`: Unigram.
    XlmRoberta,
    /// `AlbertTokenizer`: Unigram.
    Albert,
    /// `XLNetTokenizer`: Unigram.
    Xlnet,
    /// `PreTrainedTokenizerFast`, since version 5 called `TokenizersBackend`.
    File,
}

/// The names of classes, without the suffix `Fast` of version 4.
const NAMES: &[(&str, Class)] = &[
    ("BertTokenizer", Class::Bert),
    ("DistilBertTokenizer", Class::Bert),
    ("ElectraTokenizer", Class::Bert),
    ("MobileBertTokenizer", Class::Bert),
    ("SqueezeBertTokenizer", Class::Bert),
    ("RobertaTokenizer", Class::Roberta),
    ("BartTokenizer", Class::Roberta),
    ("XLMRobertaTokenizer", Class::XlmRoberta),
    ("AlbertTokenizer", Class::Albert),
    ("XLNetTokenizer", Class::Xlnet),
    ("PreTrainedTokenizer", Class::File),
    ("TokenizersBackend", Class::File),
];

/// The default class of a `model_type`, if no file names a class.
const OF_MODELS: &[(&str, Class)] = &[
    ("bert", Class::Bert),
    ("distilbert", Class::Bert),
    ("electra", Class::Bert),
    ("roberta", Class::Roberta),
    ("xlm-roberta", Class::XlmRoberta),
    ("albert", Class::Albert),
    ("xlnet", Class::Xlnet),
    ("modernbert", Class::File),
];

impl Class {
    /// The class named by `tokenizer_config.json`, else by `config.json`, else the default of the model's
    /// type; `None` if there is none of these. ModernBERT always has [`Class::File`], as in transformers.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) for a class that tempra does not support, and for a
    /// tokenizer with custom code.
    pub(super) fn named(tokenizer: &Value, model: &Value, dir: &Path) -> Result<Option<Class>> {
        let path = dir.join("tokenizer_config.json");
        let code = tokenizer.get("auto_map").map(|map| map.get("AutoTokenizer").unwrap_or(map));
        if let Some(code) = code.filter(|c| c.to_string().contains('.')) {
            return Err(Error::model("the tokenizer needs custom Python code, which tempra does not run")
                .at(&path)
                .with_expected("a tokenizer without `auto_map`")
                .with_found(format!("`auto_map`: {code}"))
                .with_help(RESAVE));
        }
        let of_model = model.get("model_type").and_then(Value::as_str);
        let of_model = OF_MODELS.iter().find(|(name, _)| Some(*name) == of_model).map(|m| m.1);
        if of_model == Some(Class::File) {
            return Ok(of_model);
        }
        let places = [(tokenizer, path), (model, dir.join("config.json"))];
        let found = places.iter().find_map(|(v, path)| Some((class_name(v)?, path)));
        let Some((name, path)) = found else { return Ok(of_model) };
        let word = name.as_str().unwrap_or_default();
        let word = word.strip_suffix("Fast").unwrap_or(word);
        match NAMES.iter().find(|(known, _)| *known == word) {
            Some((_, class)) => Ok(Some(*class)),
            None => Err(Error::model(format!("`tokenizer_class` = {name} is not supported"))
                .at(path)
                .with_expected(NAMES.iter().map(|n| n.0).collect::<Vec<_>>().join(", "))
                .with_help(RESAVE)),
        }
    }

    /// Whether the model reads token types: if `model_input_names` lists them, else if the class returns
    /// them. XLNet reads them unless its files say otherwise;
    /// [`Model::tokenizer_config`](crate::models::Model::tokenizer_config) saves that.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) if `model_input_names` is not a list.
    pub(super) fn gives_types(self, tokenizer: &Value, model: &Value, dir: &Path) -> Result<bool> {
        match tokenizer.get("model_input_names") {
            None => {}
            Some(Value::Array(names)) => return Ok(names.iter().any(|n| n == "token_type_ids")),
            Some(other) => {
                return Err(Error::model("`model_input_names` is not a list of names")
                    .at(dir.join("tokenizer_config.json"))
                    .with_expected(r#"a list such as ["input_ids", "token_type_ids", "attention_mask"]"#)
                    .with_found(other.to_string().chars().take(80).collect::<String>())
                    .with_help("correct or remove this key"));
            }
        }
        let named = [tokenizer, model].into_iter().find_map(class_name).and_then(Value::as_str);
        Ok(match self {
            Class::Bert => !named.is_some_and(|name| name.starts_with("DistilBert")),
            _ => model.get("model_type").is_some_and(|kind| kind == "xlnet"),
        })
    }

    /// Its name in transformers.
    pub(super) fn name(self) -> &'static str {
        match self {
            Class::Bert => "BertTokenizer",
            Class::Roberta => "RobertaTokenizer",
            Class::XlmRoberta => "XLMRobertaTokenizer",
            Class::Albert => "AlbertTokenizer",
            Class::Xlnet => "XLNetTokenizer",
            Class::File => "PreTrainedTokenizerFast",
        }
    }

    /// The files that it is read from if there is no `tokenizer.json`.
    pub(super) fn older_files(self) -> &'static [&'static str] {
        match self {
            Class::Bert => &["vocab.txt"],
            Class::Roberta => &["vocab.json", "merges.txt"],
            Class::XlmRoberta => &["sentencepiece.bpe.model"],
            Class::Albert | Class::Xlnet => &["spiece.model"],
            Class::File => &[],
        }
    }

    /// The model type in its `tokenizer.json`; `None` (any) for [`Class::File`].
    pub(super) fn model(self) -> Option<&'static str> {
        match self {
            Class::Bert => Some("WordPiece"),
            Class::Roberta => Some("BPE"),
            Class::XlmRoberta | Class::Albert | Class::Xlnet => Some("Unigram"),
            Class::File => None,
        }
    }

    /// The default special tokens, for keys that no file sets.
    pub(super) fn special_tokens(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Class::Bert => &[
                ("unk_token", "[UNK]"),
                ("sep_token", "[SEP]"),
                ("pad_token", "[PAD]"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Class::Roberta | Class::XlmRoberta => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("sep_token", "</s>"),
                ("pad_token", "<pad>"),
                ("cls_token", "<s>"),
                ("mask_token", "<mask>"),
            ],
            Class::Albert => &[
                ("bos_token", "[CLS]"),
                ("eos_token", "[SEP]"),
                ("unk_token", "<unk>"),
                ("sep_token", "[SEP]"),
                ("pad_token", "<pad>"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Class::Xlnet => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("sep_token", "<sep>"),
                ("pad_token", "<pad>"),
                ("cls_token", "<cls>"),
                ("mask_token", "<mask>"),
            ],
            Class::File => &[],
        }
    }
}

/// The class that a file names.
fn class_name(file: &Value) -> Option<&Value> {
    file.get("tokenizer_class").filter(|v| !v.is_null() && v.as_str() != Some(""))
}

/// How to turn a tokenizer of any class into one that tempra reads.
const RESAVE: &str =
    "write tokenizer.json with transformers, and set tokenizer_class to PreTrainedTokenizerFast";
