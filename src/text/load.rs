//! Loads a [`Tokenizer`] from a model folder, and refuses tokenizers that do not fit the model.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::utils::truncation::{TruncationDirection, TruncationParams};
use tokenizers::{AddedToken, ModelWrapper, NormalizerWrapper, PostProcessor, PreTokenizerWrapper};

use super::build::{self, Built, Pieces, SAVE_AGAIN};
use super::class::Class;
use super::special::{Sources, Tokens};
use super::{Tokenizer, guarded, subwords};
use crate::error::{Error, Kind, Result};

/// The files of a tokenizer. Those that exist are kept and written again when a model is saved.
const FILES: [&str; 9] = [
    "added_tokens.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    FILE,
    CONFIG,
    "vocab.json",
    "vocab.txt",
];
const FILE: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
/// The largest tokenizer file that is read, in bytes. The largest published ones (250,000 pieces) have 17 MB.
const MAX_BYTES: u64 = 64 << 20;
/// `model_max_length` from this value on means "no limit"; transformers writes 10^30.
const MAX_MAX_LENGTH: f64 = 1e9;

/// The tokenizer's files and their contents.
struct Folder<'a> {
    dir: &'a Path,
    files: Vec<(&'static str, Vec<u8>)>,
    class: Class,
    /// Whether the model reads token types.
    types: bool,
    /// `tokenizer_config.json`, an object.
    config: Value,
    /// `special_tokens_map.json`; null if the file does not exist, like the others.
    map: Value,
    added: Value,
    /// `tokenizer.json`.
    file: Value,
}

impl Tokenizer {
    /// Reads the tokenizer of a model folder, as `AutoTokenizer` of transformers 5 does: with the class that
    /// `tokenizer_config.json` names, or the default of the model's type in `config.json`, and its settings
    /// and added tokens. These have precedence over `tokenizer.json`. Without that file it reads `vocab.txt`
    /// (BERT), `vocab.json` with `merges.txt` (RoBERTa), `spiece.model` (XLNet, ALBERT) or
    /// `sentencepiece.bpe.model` (XLM-RoBERTa).
    ///
    /// `vocab_size` is the number of rows of the model's token embedding.
    ///
    /// # Errors
    /// [`Kind::Model`] if the files are missing, larger than 64 MB, malformed or of an unsupported class, if
    /// an id is not below `vocab_size`, or if special tokens are missing.
    pub fn from_dir(dir: &Path, vocab_size: usize) -> Result<Self> {
        let mut folder = Folder::read(dir)?;
        let (built, tokens) = folder.build(vocab_size)?;
        let path = folder.path();
        let Built { inner, template, unknown } = built;
        let Some(template) = template else {
            return Err(Error::model("the tokenizer adds no special tokens")
                .at(&path)
                .with_expected("a post_processor that adds tokens such as [CLS] and [SEP]: encoders are trained with them")
                .with_found("no post_processor")
                .with_help(SAVE_AGAIN));
        };
        let largest = inner.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
        let Some((token, id)) = largest else {
            return Err(unusable(&path)("an empty vocabulary".into()));
        };
        too_large(&token, id, vocab_size).map_or(Ok(()), |e| Err(e.at(&path)))?;
        let direction = folder.truncation()?;
        folder.make_consistent(&inner, &template, &tokens, vocab_size)?;

        let named = |key: &str, usual: &[&str]| match (tokens.name(key), folder.class) {
            (Some(token), _) => inner.token_to_id(token),
            (None, Class::File) => usual.iter().find_map(|token| inner.token_to_id(token)),
            (None, _) => None,
        };
        let limit = ["model_max_length", "max_len"].into_iter().find_map(|key| folder.config.get(key));
        let tokenizer = Tokenizer {
            direction,
            gives_types: folder.types,
            model_max_length: limit
                .and_then(Value::as_f64)
                .filter(|n| (1.0..MAX_MAX_LENGTH).contains(n))
                .map(|n| n as usize),
            hash: hash(&folder.files),
            mask: named("mask_token", &["[MASK]", "<mask>"]),
            cls: named("cls_token", &["[CLS]", "<cls>", "<s>"]),
            inner,
            template,
            prompt: String::new(),
            spaced: Default::default(),
            unknown,
            path,
            files: folder.files,
        };
        tokenizer.try_templates(vocab_size)?;
        Ok(tokenizer)
    }

    /// Runs both templates on empty texts. A template with an unknown token fails here, and not during
    /// training.
    fn try_templates(&self, vocab_size: usize) -> Result<()> {
        for pair in [None, Some("")] {
            let count = self.template.added_tokens(pair.is_some());
            let encoding = self.encode("", pair, count).map_err(|e| {
                Error::model("the tokenizer cannot add its special tokens")
                    .at(&self.path)
                    .with_found(e.to_string())
                    .with_help(SAVE_AGAIN)
            })?;
            if encoding.ids.is_empty() {
                return Err(Error::model("the tokenizer adds no special tokens")
                    .at(&self.path)
                    .with_expected("a template such as [CLS] A [SEP]")
                    .with_found("a template that adds no tokens")
                    .with_help(SAVE_AGAIN));
            }
            for id in encoding.ids {
                let Some(token) = self.inner.id_to_token(id) else {
                    return Err(Error::model(format!("a special token (id {id}) is not in the vocabulary"))
                        .at(&self.path)
                        .with_help(SAVE_AGAIN));
                };
                too_large(&token, id, vocab_size).map_or(Ok(()), |e| Err(e.at(&self.path)))?;
            }
        }
        Ok(())
    }
}

impl<'a> Folder<'a> {
    fn read(dir: &'a Path) -> Result<Folder<'a>> {
        let mut files = Vec::new();
        for name in FILES {
            if let Some(bytes) = read_file(&dir.join(name))? {
                files.push((name, bytes));
            }
        }
        let find = |name: &str| files.iter().find(|(n, _)| *n == name).map(|(_, b)| b.as_slice());
        let object = |name: &str, bytes: Option<&[u8]>| -> Result<Value> {
            let Some(bytes) = bytes else { return Ok(Value::Null) };
            let path = dir.join(name);
            let value = json(bytes, &path)?;
            let wrong = || Error::model("not a JSON object").at(path).with_help("download the model again");
            if value.is_object() { Ok(value) } else { Err(wrong()) }
        };
        let config = object(CONFIG, find(CONFIG))?;
        let [map, added] =
            ["special_tokens_map.json", "added_tokens.json"].map(|name| object(name, find(name)));
        let model = object("config.json", read_file(&dir.join("config.json"))?.as_deref())?;
        let file = match find(FILE) {
            Some(bytes) => {
                serde_json::from_slice(bytes).map_err(|e| unusable(&dir.join(FILE))(e.to_string()))?
            }
            None => Value::Null,
        };
        let versions = config.get("fast_tokenizer_files").and_then(Value::as_array);
        if let Some(other) = versions.into_iter().flatten().find(|v| v.as_str() != Some(FILE)) {
            return Err(Error::model(format!(
                "`fast_tokenizer_files` names {other}, which tempra does not read"
            ))
            .at(dir.join(CONFIG))
            .with_expected(FILE)
            .with_help(SAVE_AGAIN));
        }
        let guess = || {
            let has = |name| find(name).is_some();
            let pieces = |token: &[u8]| {
                find("spiece.model").is_some_and(|m| m.windows(token.len()).any(|w| w == token))
            };
            match () {
                _ if has(FILE) => Some(Class::File),
                _ if has("vocab.txt") => Some(Class::Bert),
                _ if has("vocab.json") && has("merges.txt") => Some(Class::Roberta),
                _ if pieces(b"<cls>") => Some(Class::Xlnet),
                _ if pieces(b"[CLS]") => Some(Class::Albert),
                _ if has("sentencepiece.bpe.model") => Some(Class::XlmRoberta),
                _ => None,
            }
        };
        let named = Class::named(&config, &model, dir)?;
        let nothing = |expected: String| {
            Error::model("no tokenizer in the model folder")
                .at(dir)
                .with_expected(expected)
                .with_found(if files.is_empty() { "none of them".into() } else { names(&files) })
                .with_help("save the tokenizer into the model's folder: tokenizer.save_pretrained(folder)")
        };
        let Some(class) = named.or_else(guess) else {
            return Err(nothing(
                "tokenizer.json, vocab.txt, vocab.json with merges.txt, or spiece.model".into(),
            ));
        };
        let older = class.older_files();
        if find(FILE).is_none() && (older.is_empty() || older.iter().any(|name| find(name).is_none())) {
            let or = if older.is_empty() { String::new() } else { format!(", or {}", older.join(" with ")) };
            return Err(nothing(format!("{FILE}{or}, for a {}", class.name())));
        }
        // Without a class name the template decides.
        let types = named.map(|class| class.gives_types(&config, &model, dir)).transpose()?.unwrap_or(true);
        Ok(Folder { dir, class, types, config, map: map?, added: added?, file, files })
    }

    fn find(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(n, _)| *n == name).map(|(_, b)| b.as_slice())
    }

    /// The file with the vocabulary.
    fn path(&self) -> std::path::PathBuf {
        let older = self.class.older_files().first().copied().unwrap_or(FILE);
        self.dir.join(if self.file.is_null() { older } else { FILE })
    }

    fn tokens(&self, control: Vec<(String, bool)>) -> Result<Tokens> {
        let Folder { config, map, added, file, .. } = self;
        Tokens::read(self.class, Sources { config, map, added, file, control }, self.dir)
    }

    fn build(&self, vocab_size: usize) -> Result<(Built, Tokens)> {
        let path = self.path();
        let bad = unusable(&path);
        let tokens = self.tokens(Vec::new())?;
        let (mut built, tokens) = if self.class == Class::File {
            let bytes = self.find(FILE).unwrap_or_default();
            let built = guarded(|| build::from_file(bytes, &self.file, &tokens, vocab_size, &path));
            (built.map_err(&bad)??, tokens)
        } else {
            let (pieces, tokens) = match &self.file {
                Value::Null => self.older(&path, tokens)?,
                _ => (self.pieces().map_err(|e| bad(e).with_help(AS_IT_IS))?, tokens),
            };
            let template = self.file.get("post_processor").filter(|v| !v.is_null());
            let settings = (&self.config, template);
            let run = || build::build(self.class, pieces, settings, &tokens, vocab_size, &path);
            (guarded(run).map_err(&bad)??, tokens)
        };
        if self.flag("split_special_tokens") {
            built.inner.set_encode_special_tokens(true);
        }
        Ok((built, tokens))
    }

    fn flag(&self, key: &str) -> bool {
        self.config.get(key).and_then(Value::as_bool) == Some(true)
    }

    /// The vocabulary in `tokenizer.json`, or what is wrong with it.
    fn pieces(&self) -> std::result::Result<Pieces, String> {
        let model = &self.file["model"];
        let (name, expected) = (self.class.name(), self.class.model().unwrap_or_default());
        let wrong = |found: &str| format!("{found}; a {name} has a model of type {expected}");
        match model.get("type").and_then(Value::as_str) {
            Some(kind) if kind != expected => return Err(wrong(&format!("a model of type {kind}"))),
            _ => {}
        }
        let vocab = &model["vocab"];
        match (self.class, vocab) {
            (Class::Bert, Value::Object(map)) => Ok(Pieces::Words(subwords::numbers(map.clone())?)),
            (Class::Roberta, Value::Object(map)) => {
                let pair = |v: &Value| match v {
                    Value::String(line) => line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
                    v => Some((v.get(0)?.as_str()?.to_owned(), v.get(1)?.as_str()?.to_owned())),
                };
                let merges = model["merges"].as_array().ok_or_else(|| wrong("no merges"))?;
                let merges = merges.iter().map(pair).collect::<Option<Vec<_>>>();
                let merges = merges.ok_or_else(|| wrong("merges that are not two pieces"))?;
                Ok(Pieces::Merges(subwords::numbers(map.clone())?, merges))
            }
            (_, Value::Array(list)) if expected == "Unigram" => {
                let piece = |v: &Value| Some((v.get(0)?.as_str()?.to_owned(), v.get(1)?.as_f64()?));
                let pieces = list.iter().map(piece).collect::<Option<Vec<_>>>();
                let pieces = pieces.ok_or_else(|| wrong("pieces without a score"))?;
                let unknown = match self.class {
                    Class::XlmRoberta => 3,
                    Class::Albert => 1,
                    _ => self.config.get("unk_id").and_then(Value::as_u64).unwrap_or(0) as usize,
                };
                let list = match &self.file["normalizer"] {
                    Value::Object(one) if one.get("type") != Some(&"Sequence".into()) => {
                        vec![Value::Object(one.clone())]
                    }
                    several => several["normalizers"].as_array().cloned().unwrap_or_default(),
                };
                let table = |n: &Value| n.get("precompiled_charsmap").filter(|t| t.is_string()).cloned();
                Ok(Pieces::Scores { pieces, unknown, characters: list.iter().find_map(table) })
            }
            _ => Err(wrong("another vocabulary")),
        }
    }

    /// The vocabulary of older files, without `tokenizer.json`, and the tokens including those of the
    /// vocabulary.
    fn older(&self, path: &Path, tokens: Tokens) -> Result<(Pieces, Tokens)> {
        let file = |i: usize| self.class.older_files().get(i).and_then(|n| self.find(n)).unwrap_or_default();
        match self.class {
            Class::Bert => Ok((words(file(0), path)?, tokens)),
            Class::Roberta => Ok((subwords::from_merges(file(0), file(1), self.dir)?, tokens)),
            _ => {
                let special = |key: &str| tokens.name(key).unwrap_or("None").to_owned();
                let (pieces, control) = subwords::from_sentencepiece(file(0), self.class, path, special)?;
                let Pieces::Scores { unknown, .. } = &pieces else { return Ok((pieces, tokens)) };
                let other = self.config.get("unk_id").filter(|v| v.as_u64() != Some(*unknown as u64));
                let bos = ["add_bos_token", "add_eos_token"].map(|key| (key, self.config.get(key)));
                let bos = bos.into_iter().filter(|_| self.class == Class::Albert);
                let found = bos.chain([("unk_id", other.filter(|_| self.class == Class::Xlnet))]);
                if let Some((key, Some(v))) = found.into_iter().find(|(_, v)| v.is_some()) {
                    let what = format!("`{key}` is ambiguous without tokenizer.json");
                    return Err(Error::model(what)
                        .at(self.dir.join(CONFIG))
                        .with_expected(
                            "no such key: transformers reads it differently with and without tokenizer.json",
                        )
                        .with_found(v.to_string())
                        .with_help("remove the key, or write tokenizer.json with transformers"));
                }
                Ok((pieces, self.tokens(control)?))
            }
        }
    }

    /// The side where texts are truncated.
    fn truncation(&self) -> Result<TruncationDirection> {
        let file = self.file["truncation"]["direction"].as_str();
        match self.config.get("truncation_side").filter(|v| !v.is_null()) {
            None if file == Some("Left") => Ok(TruncationDirection::Left),
            None => Ok(TruncationDirection::Right),
            Some(v) if v == "left" => Ok(TruncationDirection::Left),
            Some(v) if v == "right" => Ok(TruncationDirection::Right),
            Some(v) => Err(Error::model(format!("`truncation_side` = {v} is not valid"))
                .at(self.dir.join(CONFIG))
                .with_expected("\"left\" or \"right\"")
                .with_help("correct or remove this key")),
        }
    }

    /// Changes the files for saving so that they describe this tokenizer. Files that already do stay
    /// unchanged.
    fn make_consistent(
        &mut self,
        inner: &tokenizers::Tokenizer,
        template: &PostProcessorWrapper,
        tokens: &Tokens,
        vocab_size: usize,
    ) -> Result<()> {
        if !self.file.is_null() && self.says(inner, template) {
            return Ok(());
        }
        // `truncation.direction` of tokenizer.json may be the only place that names the side.
        let truncation: Option<TruncationParams> =
            serde_json::from_value(self.file["truncation"].clone()).unwrap_or_default();
        let write = |inner: &tokenizers::Tokenizer, template: &PostProcessorWrapper| {
            let mut whole = inner.clone();
            whole.with_post_processor(Some(template.clone()));
            whole.with_truncation(truncation.clone()).map_err(|e| unusable(&self.path())(e.to_string()))?;
            whole.to_string(true).map_err(|e| unusable(&self.path())(e.to_string()))
        };
        let bytes = write(inner, template)?.into_bytes();
        let file = json(&bytes, &self.dir.join(FILE))?;
        let files: Vec<_> = self.files.iter().filter(|f| f.0 != FILE).cloned().collect();
        let Folder { dir, class, types, config, map, added, .. } = &*self;
        let (config, map, added) = (config.clone(), map.clone(), added.clone());
        let mut saved = Folder { dir, files, class: *class, types: *types, config, map, added, file };
        saved.files.push((FILE, bytes));
        let again = match saved.build(vocab_size)? {
            (Built { inner, template: Some(template), .. }, _) => write(&inner, &template)?.into_bytes(),
            _ => Vec::new(),
        };
        if saved.find(FILE) != Some(&again) {
            let mut config = match &saved.config {
                Value::Object(map) => map.clone(),
                _ => Map::new(),
            };
            let added: BTreeMap<u32, AddedToken> = inner.get_added_tokens_decoder().into_iter().collect();
            tokens.write(&mut config, &added);
            let bytes = format!("{:#}\n", Value::Object(config)).into_bytes();
            saved.files.retain(|f| ![CONFIG, "added_tokens.json", "special_tokens_map.json"].contains(&f.0));
            saved.files.push((CONFIG, bytes));
        }
        saved.files.sort_by_key(|(name, _)| *name);
        self.files = saved.files;
        Ok(())
    }

    /// Whether `tokenizer.json` alone defines this tokenizer.
    fn says(&self, inner: &tokenizers::Tokenizer, template: &PostProcessorWrapper) -> bool {
        let read = || -> Option<BTreeMap<u32, AddedToken>> {
            let list = self.file.get("added_tokens").and_then(Value::as_array);
            let one = |v: &Value| {
                let id = v.get("id")?.as_u64().and_then(|id| u32::try_from(id).ok())?;
                Some((id, serde_json::from_value(v.clone()).ok()?))
            };
            list.into_iter().flatten().map(one).collect()
        };
        let added: BTreeMap<u32, AddedToken> = inner.get_added_tokens_decoder().into_iter().collect();
        if read() != Some(added) {
            return false;
        }
        if self.class == Class::File {
            return true;
        }
        let part = |key: &str| self.file.get(key).filter(|v| !v.is_null()).cloned();
        let normalizer = part("normalizer").map(serde_json::from_value::<NormalizerWrapper>);
        let words = part("pre_tokenizer").map(serde_json::from_value::<PreTokenizerWrapper>);
        let end = part("post_processor").map(serde_json::from_value::<PostProcessorWrapper>);
        let same = |a: Option<Value>, b: Option<Value>| a == b;
        let value = |v: serde_json::Result<Value>| v.unwrap_or_default();
        let model = &self.file["model"];
        let is = |key: &str, usual: &[Value]| model.get(key).is_none_or(|v| v.is_null() || usual.contains(v));
        let plain = is("dropout", &[])
            && is("byte_fallback", &[false.into()])
            && is("fuse_unk", &[false.into()])
            && is("ignore_merges", &[false.into()])
            && is("end_of_word_suffix", &["".into()]);
        let as_built = match inner.get_model() {
            ModelWrapper::WordPiece(m) => {
                model.get("unk_token") == Some(&m.unk_token.as_str().into())
                    && is("continuing_subword_prefix", &["##".into()])
                    && is("max_input_chars_per_word", &[100.into()])
            }
            ModelWrapper::BPE(_) => is("unk_token", &[]) && is("continuing_subword_prefix", &["".into()]),
            ModelWrapper::Unigram(_) => {
                let usual = match self.class {
                    Class::XlmRoberta => 3.into(),
                    Class::Albert => 1.into(),
                    _ => self.config.get("unk_id").cloned().unwrap_or_else(|| 0.into()),
                };
                model.get("unk_id") == Some(&usual)
            }
            _ => false,
        };
        plain
            && as_built
            && same(
                normalizer.map(|n| value(n.and_then(serde_json::to_value))),
                inner.get_normalizer().map(|n| value(serde_json::to_value(n))),
            )
            && same(
                words.map(|w| value(w.and_then(serde_json::to_value))),
                inner.get_pre_tokenizer().map(|w| value(serde_json::to_value(w))),
            )
            && same(
                end.map(|e| value(e.and_then(serde_json::to_value))),
                Some(value(serde_json::to_value(template))),
            )
    }
}

const AS_IT_IS: &str = "to use tokenizer.json unchanged, set tokenizer_class to PreTrainedTokenizerFast in tokenizer_config.json";

/// The error of a tokenizer file that cannot be read.
fn unusable(path: &Path) -> impl Fn(String) -> Error {
    let path = path.to_path_buf();
    move |what| Error::model("the tokenizer cannot be read").at(&path).with_found(what).with_help(SAVE_AGAIN)
}

/// BERT's `vocab.txt`: one token a line. Its id is the line's index, from 0.
fn words(vocab: &[u8], path: &Path) -> Result<Pieces> {
    if let Err(e) = std::str::from_utf8(vocab) {
        let at = e.valid_up_to();
        let line = 1 + vocab[..at].iter().filter(|b| **b == b'\n').count();
        let e = Error::model("the vocabulary is not UTF-8").at(path).with_line(line as u64);
        return Err(e.with_byte(at as u64).with_help("download the model again"));
    }
    let ids = WordPiece::read_bytes(vocab).map_err(|e| {
        Error::model("cannot build a tokenizer from the vocabulary").at(path).with_found(e.to_string())
    })?;
    Ok(Pieces::Words(ids))
}

fn names(files: &[(&str, Vec<u8>)]) -> String {
    files.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ")
}

fn too_large(token: &str, id: u32, vocab_size: usize) -> Option<Error> {
    (id as usize >= vocab_size).then(|| {
        Error::model("the tokenizer has more tokens than the model has embeddings")
            .with_expected(format!("ids below {vocab_size}, the number of rows of the token embedding"))
            .with_found(format!("id {id} for {token:?}"))
            .with_help("use the tokenizer that the model was trained with")
    })
}

/// The contents of a file; `None` if it does not exist.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    let fail = |e: &std::io::Error| Error::io(Kind::Model, "cannot read", path, e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(&e)),
    };
    let mut bytes = Vec::new();
    // One byte more than the limit, which also catches a pipe or a growing file.
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| fail(&e))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::model("the tokenizer file is too large")
            .at(path)
            .with_expected(format!("at most {} MB", MAX_BYTES >> 20))
            .with_help("download the model again"));
    }
    Ok(Some(bytes))
}

fn json(bytes: &[u8], path: &Path) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| {
        Error::model("invalid JSON")
            .at(path)
            .with_line(e.line() as u64)
            .with_column(e.column() as u64)
            .with_found(e.to_string())
            .with_help("download the model again")
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
