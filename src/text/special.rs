//! Special and added tokens from `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json` and
//! `tokenizer.json`, with the precedence of `PreTrainedTokenizerBase._from_pretrained` in transformers 5.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use super::class::Class;
use crate::error::{Error, Result};

/// The keys of named special tokens, in the order in which transformers adds them.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token in a setting.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// Only its content; the matching options follow from its use.
    Content(String),
    /// With its matching options; `None` for `normalized` means the opposite of `special`.
    Whole { token: AddedToken, normalized: Option<bool> },
}

impl Token {
    fn content(&self) -> &str {
        match self {
            Token::Content(content) => content,
            Token::Whole { token, .. } => &token.content,
        }
    }
    fn of(content: &str, special: bool, normalized: bool) -> Token {
        let token = AddedToken::from(content, special).normalized(normalized);
        Token::Whole { token, normalized: Some(normalized) }
    }
    /// From an object with `content`.
    fn read(value: &Value, special: Option<bool>) -> Option<Token> {
        let flag = |key: &str| value.get(key).and_then(Value::as_bool);
        let content = value.get("content")?.as_str()?;
        let token = AddedToken::from(content, special.or(flag("special")).unwrap_or(false))
            .single_word(flag("single_word").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false));
        Some(Token::Whole { token, normalized: flag("normalized") })
    }
    fn finish(self, named: bool) -> AddedToken {
        match self {
            Token::Content(content) => AddedToken::from(content, true),
            Token::Whole { token, normalized } => {
                let special = token.special || named;
                token.special(special).normalized(normalized.unwrap_or(!special))
            }
        }
    }
}

/// The special and added tokens of a tokenizer.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// Special tokens by key; `None` where a file says that there is none. Keys that only this model has come
    /// last.
    named: Vec<(String, Option<Token>)>,
    /// Special tokens without a key.
    extra: Vec<Token>,
    /// Added tokens by the id in their file.
    added: BTreeMap<u64, Token>,
}

/// The contents of the files that describe tokens; null for a file that does not exist.
pub(super) struct Sources<'a> {
    /// `tokenizer_config.json`.
    pub config: &'a Value,
    /// `special_tokens_map.json`.
    pub map: &'a Value,
    /// `added_tokens.json`.
    pub added: &'a Value,
    /// `tokenizer.json`.
    pub file: &'a Value,
    /// Control symbols of a SentencePiece model, if it is used instead of `tokenizer.json`.
    pub control: Vec<(String, bool)>,
}

impl Tokens {
    /// Reads the special and added tokens.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model) if a token is neither a string nor an object with its
    /// content.
    pub(super) fn read(class: Class, sources: Sources, dir: &Path) -> Result<Tokens> {
        let wrong = |name: &str, key: &str, v: &Value| {
            Error::model(format!("`{key}` is not a token"))
                .at(dir.join(name))
                .with_expected("a string, or an object with a string `content`")
                .with_found(v.to_string().chars().take(80).collect::<String>())
                .with_help("download the model again, or save the tokenizer again with transformers")
        };
        const CONFIG: &str = "tokenizer_config.json";
        let none = Map::new();
        let mut settings = sources.config.as_object().unwrap_or(&none).clone();
        let given = |v: Option<&Value>| v.is_some_and(|v| !v.is_null() && *v != json!([]) && *v != json!({}));
        if settings.contains_key("additional_special_tokens") && !given(settings.get("extra_special_tokens"))
        {
            let moved = settings.remove("additional_special_tokens").unwrap_or_default();
            settings.insert("extra_special_tokens".into(), moved);
        }
        // Keys that only this model has, such as `image_token`, or a map of keys to tokens.
        let mut own: Vec<(String, Token)> = Vec::new();
        for (key, v) in &settings {
            if key.ends_with("_token") && !NAMED.contains(&key.as_str()) && (v.is_string() || v.is_object()) {
                own.push((key.clone(), token(v, None).ok_or_else(|| wrong(CONFIG, key, v))?));
            }
        }
        let take_map = |settings: &mut Map<String, Value>, own: &mut Vec<(String, Token)>| -> Result<()> {
            if let Some(Value::Object(map)) = settings.get("extra_special_tokens").cloned() {
                settings.remove("extra_special_tokens");
                for (key, v) in &map {
                    own.push((key.clone(), token(v, None).ok_or_else(|| wrong(CONFIG, key, v))?));
                }
            }
            Ok(())
        };
        take_map(&mut settings, &mut own)?;

        let mut added = BTreeMap::new();
        let mut by_content: BTreeMap<String, Token> = BTreeMap::new();
        if let Some(decoder) = settings.get("added_tokens_decoder") {
            let wrong = |v: &Value| wrong(CONFIG, "added_tokens_decoder", v);
            for (id, v) in decoder.as_object().ok_or_else(|| wrong(decoder))? {
                let id = id.parse::<u64>().map_err(|_| wrong(&id.as_str().into()))?;
                let token = Token::read(v, None).ok_or_else(|| wrong(v))?;
                by_content.insert(token.content().to_owned(), token.clone());
                added.insert(id, token);
            }
        } else {
            if let Some(map) = sources.map.as_object() {
                // An object is kept: it has matching options besides its content.
                settings.extend(map.iter().map(|(k, v)| (k.clone(), v.clone())));
                take_map(&mut settings, &mut own)?;
            }
            if let Some(map) = sources.added.as_object() {
                let special: Vec<String> = special_contents(&settings);
                for (content, id) in map {
                    let id = id
                        .as_u64()
                        .ok_or_else(|| wrong("added_tokens.json", content, id).with_expected("an id"))?;
                    let special = special.contains(content);
                    let token = Token::of(content, special, !special);
                    by_content.insert(content.clone(), token.clone());
                    added.insert(id, token);
                }
            }
            for v in sources.file.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
                let read = || Some((v.get("id")?.as_u64()?, Token::read(v, None)?));
                let (id, token) = read().ok_or_else(|| wrong("tokenizer.json", "added_tokens", v))?;
                by_content.insert(token.content().to_owned(), token.clone());
                added.insert(id, token);
            }
        }

        let mut named = Vec::new();
        for key in NAMED {
            let default = class.special_tokens().iter().find(|(k, _)| *k == key).map(|(_, t)| *t);
            let found = match settings.get(key) {
                Some(Value::Null) => Some(None),
                Some(v) => {
                    let special = v.is_object().then_some(true).filter(|_| sources.map.get(key) == Some(v));
                    let token = token(v, special).ok_or_else(|| wrong(CONFIG, key, v))?;
                    Some(Some(by_content.get(token.content()).cloned().unwrap_or(token)))
                }
                None => default.map(|content| Some(Token::Content(content.to_owned()))),
            };
            let Some(mut found) = found else { continue };
            if let (Class::Xlnet, "mask_token", Some(Token::Content(content))) = (class, key, &found) {
                let token = AddedToken::from(content.clone(), false).lstrip(true);
                found = Some(Token::Whole { token, normalized: None });
            }
            named.push((key.to_owned(), found));
        }
        named.extend(own.into_iter().map(|(key, token)| (key, Some(token))));

        let list = match (settings.get("extra_special_tokens"), settings.get("additional_special_tokens")) {
            (Some(list), _) => Some(list),
            (None, _) if !sources.control.is_empty() => None,
            (None, list) => list,
        };
        let mut extra = Vec::new();
        match list {
            Some(Value::Array(list)) => {
                for v in list {
                    let special = v.is_object().then_some(true).filter(|_| v.get("__type").is_none());
                    extra.push(token(v, special).ok_or_else(|| wrong(CONFIG, "extra_special_tokens", v))?);
                }
            }
            Some(_) => {}
            None if !sources.control.is_empty() => {
                extra = sources.control.iter().map(|(t, special)| Token::of(t, *special, false)).collect();
            }
            None if class == Class::Xlnet => {
                extra = ["<eop>", "<eod>"].map(|t| Token::Content(t.into())).into();
            }
            None => {}
        }
        Ok(Tokens { named, extra, added })
    }

    /// The content of the special token with this key.
    pub(super) fn name(&self, key: &str) -> Option<&str> {
        self.named.iter().find(|(k, _)| k == key).and_then(|(_, t)| t.as_ref()).map(Token::content)
    }

    /// Whether a file lists a token as added.
    pub(super) fn adds(&self, content: &str) -> bool {
        self.added.values().any(|t| t.content() == content)
    }

    /// The number of added tokens that are not known.
    pub(super) fn new_ones(&self, known: impl Fn(&str) -> bool) -> usize {
        self.added.values().filter(|t| !known(t.content())).count()
    }

    /// The tokens to add to a tokenizer that already has `has`, in this order: special tokens without an id
    /// come after tokens with one. `fits` says whether the model has an embedding for one more token.
    pub(super) fn list(&self, has: &[String], mut fits: impl FnMut(&str) -> bool) -> Vec<AddedToken> {
        let mut list: Vec<Token> = self.added.values().cloned().collect();
        let known: Vec<String> =
            has.iter().cloned().chain(list.iter().map(|t| t.content().to_owned())).collect();
        let known = |content: &str| known.iter().any(|k| k == content);
        for (key, token) in &self.named {
            let Some(token) = token else { continue };
            if known(token.content()) || list.contains(token) {
                continue;
            }
            // Tokens with a key of the model's own are optional: leave them out if the model has no embedding
            // for them.
            if !NAMED.contains(&key.as_str()) || fits(token.content()) {
                list.push(token.clone());
            }
        }
        for token in &self.extra {
            if !known(token.content()) && !list.contains(token) {
                list.push(token.clone());
            }
        }
        let names: Vec<&str> = self.named.iter().filter_map(|(_, t)| Some(t.as_ref()?.content())).collect();
        let finish = |t: Token| {
            let named = names.contains(&t.content());
            t.finish(named)
        };
        list.into_iter().map(finish).collect()
    }

    /// Writes the tokens into a `tokenizer_config.json`, so that no other file is needed to read this
    /// tokenizer. `added`: the added tokens by id.
    pub(super) fn write(&self, config: &mut Map<String, Value>, added: &BTreeMap<u32, AddedToken>) {
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            config.remove(key);
        }
        for (key, token) in &self.named {
            config.insert(key.clone(), token.as_ref().map_or(Value::Null, |t| t.content().into()));
        }
        let extra: Vec<&str> = self.extra.iter().map(Token::content).collect();
        config.insert("extra_special_tokens".into(), json!(extra));
        let decoder: Map<String, Value> = added.iter().map(|(id, t)| (id.to_string(), json!(t))).collect();
        config.insert("added_tokens_decoder".into(), decoder.into());
    }
}

fn token(v: &Value, special: Option<bool>) -> Option<Token> {
    match v {
        Value::String(content) => Some(Token::Content(content.clone())),
        v => Token::read(v, special),
    }
}

/// The contents of the special tokens in the settings.
fn special_contents(settings: &Map<String, Value>) -> Vec<String> {
    let content = |v: &Value| token(v, None).map(|t| t.content().to_owned());
    let named = NAMED.iter().filter_map(|key| content(settings.get(*key)?));
    let extra = settings.get("extra_special_tokens").and_then(Value::as_array).into_iter().flatten();
    named.chain(extra.filter_map(content)).collect()
}
