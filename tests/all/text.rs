//! The tokenizer against transformers (tests/golden/make_tokens.py), and against files made to break it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempra::error::Kind;
use tempra::text::{Encoding, Tokenizer};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data").join(name)
}

/// A folder outside the repository, or a word that it is missing.
fn outside(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from).filter(|p| p.is_dir());
    if path.is_none() {
        eprintln!("not here: the folder that {variable} names; nothing is tested with it");
    }
    path
}

/// A folder with one tokenizer file.
fn folder(name: &str, content: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(name), content).unwrap();
    dir
}

fn refused(dir: &Path, vocab_size: usize) -> String {
    match Tokenizer::from_dir(dir, vocab_size) {
        Ok(_) => panic!("accepted"),
        Err(e) => {
            assert_eq!(e.kind(), Kind::Model, "{e}");
            e.to_string()
        }
    }
}

#[test]
fn same_as_transformers() {
    let cases: Value = serde_json::from_slice(&fs::read(golden("tokens.json")).unwrap()).unwrap();
    for name in ["bert", "bert-cased", "roberta"] {
        let tokenizer = Tokenizer::from_dir(&golden(name), 1000).unwrap();
        let cases = cases[name].as_array().unwrap();
        assert!(cases.len() > 100);
        for case in cases {
            let (text, pair) = (case["text"].as_str().unwrap(), case["pair"].as_str());
            let max_length = case["max_length"].as_u64().unwrap() as usize;
            let e = tokenizer.encode(text, pair, max_length).unwrap();
            let got = json!({"text": text, "pair": pair, "max_length": max_length, "ids": e.ids, "types": e.types,
                "offsets": e.offsets, "lost": e.lost, "unknown": e.unknown});
            assert_eq!(&got, case, "{name}");
        }
    }
}

/// `spiece.model`, `sentencepiece.bpe.model`, `vocab.json` with `merges.txt` (tests/golden/make_subwords.py);
/// saved, each has a tokenizer.json that means the same.
#[test]
fn older_files_are_what_transformers_makes_of_them() {
    let subwords = golden("../subwords");
    let cases: Value = serde_json::from_slice(&fs::read(subwords.join("tokens.json")).unwrap()).unwrap();
    for name in ["xlnet", "albert", "xlm-roberta", "roberta"] {
        let tokenizer = Tokenizer::from_dir(&subwords.join(name), 1000).unwrap();
        let saved = tempfile::tempdir().unwrap();
        fs::write(
            saved.path().join("tokenizer.json"),
            &tokenizer.files().iter().find(|(n, _)| *n == "tokenizer.json").unwrap().1,
        )
        .unwrap();
        let saved = Tokenizer::from_dir(saved.path(), 1000).unwrap();
        let cases = cases[name].as_array().unwrap();
        assert!(cases.len() > 80);
        for case in cases {
            let (text, pair) = (case["text"].as_str().unwrap(), case["pair"].as_str());
            let max_length = case["max_length"].as_u64().unwrap() as usize;
            for tokenizer in [&tokenizer, &saved] {
                let e = tokenizer.encode(text, pair, max_length).unwrap();
                let got = json!({"text": text, "pair": pair, "max_length": max_length, "ids": e.ids,
                    "types": e.types, "offsets": e.offsets, "lost": e.lost, "unknown": e.unknown});
                assert_eq!(&got, case, "{name}");
            }
        }
    }
}

/// Every prefix of a model of SentencePiece, and each of its bytes changed, is an error or a tokenizer.
#[test]
fn damaged_older_files_are_refused() {
    let model = fs::read(golden("../subwords/albert/spiece.model")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spiece.model");
    let (mut refusals, mut rng) = (0, tempra::rng::Rng::new(1, "damage", 0));
    for i in 0..200 {
        let mut bytes = model.clone();
        let at = rng.below(bytes.len() as u32) as usize;
        if i % 2 == 0 {
            bytes.truncate(at)
        } else {
            bytes[at] ^= 1 << (i % 8)
        }
        fs::write(&path, bytes).unwrap();
        if let Err(e) = Tokenizer::from_dir(dir.path(), 1000) {
            assert_eq!(e.kind(), Kind::Model, "{e}");
            refusals += 1;
        }
    }
    assert!(refusals > 50, "{refusals}");
    let roberta = tempfile::tempdir().unwrap();
    let (vocab, merges) = (roberta.path().join("vocab.json"), roberta.path().join("merges.txt"));
    fs::write(&vocab, r#"{"<s>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4}"#).unwrap();
    fs::write(&merges, "#version: 0.2\na b\n").unwrap();
    assert_eq!(Tokenizer::from_dir(roberta.path(), 9).unwrap().encode("ab", None, 9).unwrap().ids, [0, 4, 1]);
    fs::write(&merges, "#version: 0.2\na b\na b b\n").unwrap();
    let e = refused(roberta.path(), 9);
    assert!(e.contains("merges.txt:3"), "{e}");
    // A merge of pieces that the vocabulary lacks.
    fs::write(&merges, "b a\n").unwrap();
    refused(roberta.path(), 9);
    fs::write(&vocab, r#"{"<s>": 0, "a": 2}"#).unwrap();
    assert!(refused(roberta.path(), 9).contains("</s>"));
}

#[test]
fn offsets_are_bytes() {
    let tokenizer = Tokenizer::from_dir(&golden("bert"), 1000).unwrap();
    let text = "Café: 東京!";
    let e = tokenizer.encode(text, None, 64).unwrap();
    let words: Vec<&str> = e.offsets.iter().map(|&(a, b)| &text[a as usize..b as usize]).collect();
    assert_eq!(words, ["", "Café", ":", "東", "京", "!", ""]);
}

#[test]
fn a_batch_is_what_its_items_are() {
    let tokenizer = Tokenizer::from_dir(&golden("bert"), 1000).unwrap();
    let texts: Vec<String> =
        (0..3000).map(|i| format!("the movie {i} was good, no. {}", i * 7919 % 1013)).collect();
    let items: Vec<(&str, Option<&str>)> =
        texts.iter().enumerate().map(|(i, t)| (t.as_str(), (i % 3 == 0).then_some("a café"))).collect();
    let single: Vec<Encoding> = items.iter().map(|(t, p)| tokenizer.encode(t, *p, 9).unwrap()).collect();
    assert_eq!(tokenizer.encode_batch(&items, 9).unwrap(), single);
    assert!(tokenizer.encode_batch(&[], 9).unwrap().is_empty());
    let e = tokenizer.encode_batch(&items, 1).unwrap_err();
    assert_eq!(e.kind(), Kind::Usage);
}

#[test]
fn saved_is_loaded_again() {
    let out = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::from_dir(&golden("bert"), 1000).unwrap();
    tokenizer.save(out.path()).unwrap();
    for name in ["vocab.txt", "tokenizer_config.json"] {
        assert_eq!(fs::read(out.path().join(name)).unwrap(), fs::read(golden("bert").join(name)).unwrap());
    }
    // It came from vocab.txt alone and now has a tokenizer.json, which must mean the same.
    assert!(out.path().join("tokenizer.json").is_file() && !golden("bert").join("tokenizer.json").exists());
    let again = Tokenizer::from_dir(out.path(), 1000).unwrap();
    let text = "a naïve café, déjà vu; Straße [MASK] 東京 unbelievable";
    assert_eq!(
        again.encode(text, Some("the dog"), 20).unwrap(),
        tokenizer.encode(text, Some("the dog"), 20).unwrap()
    );
    assert_eq!(again.hash(), tokenizer.hash());
    assert_eq!(again.model_max_length(), Some(128));
    // Another configuration is another tokenizer, although its vocabulary is the same.
    fs::write(out.path().join("tokenizer_config.json"), r#"{"do_lower_case": false}"#).unwrap();
    let other = Tokenizer::from_dir(out.path(), 1000).unwrap();
    assert_ne!(other.hash(), tokenizer.hash());
    assert_eq!(other.model_max_length(), None);

    let roberta = Tokenizer::from_dir(&golden("roberta"), 1000).unwrap();
    assert_eq!(roberta.model_max_length(), None, "10^30 stands for no limit");
    roberta.save(out.path()).unwrap();
    let name = "tokenizer.json";
    assert_eq!(fs::read(out.path().join(name)).unwrap(), fs::read(golden("roberta").join(name)).unwrap());
}

#[test]
fn truncation_side_left_keeps_the_end() {
    let vocab = fs::read_to_string(golden("bert").join("vocab.txt")).unwrap();
    let dir = folder("vocab.txt", &vocab);
    fs::write(dir.path().join("tokenizer_config.json"), r#"{"truncation_side": "left"}"#).unwrap();
    let tokenizer = Tokenizer::from_dir(dir.path(), 1000).unwrap();
    let e = tokenizer.encode("the quick brown fox", None, 4).unwrap();
    assert_eq!(e.ids, ["[CLS]", "brown", "fox", "[SEP]"].map(|t| tokenizer.id(t).unwrap()));
    assert_eq!(e.lost, 2);
}

#[test]
fn ids_the_model_lacks_are_refused() {
    let lines = fs::read_to_string(golden("bert").join("vocab.txt")).unwrap().lines().count();
    Tokenizer::from_dir(&golden("bert"), lines).unwrap();
    let message = refused(&golden("bert"), lines - 1);
    let (last, rows) = (format!("id {}", lines - 1), format!("below {}", lines - 1));
    assert!(message.contains(&last) && message.contains(&rows), "{message}");
}

#[test]
fn missing_specials_are_refused() {
    let message = refused(folder("vocab.txt", "[PAD]\n[UNK]\n[SEP]\nthe\n").path(), 100);
    assert!(message.contains("no [CLS]") && message.contains("vocab.txt"), "{message}");
    assert!(refused(folder("vocab.txt", "[PAD]\n[CLS]\n[SEP]\nthe\n").path(), 100).contains("no [UNK]"));

    let file = |change: &dyn Fn(&mut Value)| {
        let out = tempfile::tempdir().unwrap();
        Tokenizer::from_dir(&golden("bert"), 1000).unwrap().save(out.path()).unwrap();
        // Without a class tokenizer.json is taken as it is.
        fs::remove_file(out.path().join("tokenizer_config.json")).unwrap();
        let path = out.path().join("tokenizer.json");
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
        out
    };
    file(&|_| {});
    let unk = file(&|v| v["model"]["unk_token"] = "[NO]".into());
    assert!(refused(unk.path(), 1000).contains("\"[NO]\" is not in the vocabulary"));
    let none = file(&|v| v["post_processor"] = Value::Null);
    assert!(refused(none.path(), 1000).contains("adds no special tokens"));
    // Two of the files that the tokenizers crate panics on: a template without its token, merges that do not
    // fit.
    let template = file(&|v| {
        v["post_processor"]["special_tokens"].as_object_mut().unwrap().remove("[SEP]").unwrap();
    });
    assert!(refused(template.path(), 1000).contains("cannot add its special tokens"));
    let foreign = file(&|v| v["post_processor"]["special_tokens"]["[SEP]"]["ids"] = json!([5000]));
    assert!(refused(foreign.path(), 10_000).contains("id 5000"));
    let merges = file(&|v| {
        v["model"] = json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"],
            "continuing_subword_prefix": "####"});
    });
    refused(merges.path(), 1000);
}

#[test]
fn files_that_are_no_tokenizers_are_refused() {
    let empty = tempfile::tempdir().unwrap();
    assert!(refused(empty.path(), 10).contains("tokenizer.json, vocab.txt"));
    assert!(refused(&empty.path().join("nowhere"), 10).contains("no tokenizer"));
    for content in ["", "{", "[]", "null", "{\"model\": {}}", "{\"model\": {\"type\": \"WordPiece\"}}"] {
        let message = refused(folder("tokenizer.json", content).path(), 10);
        assert!(message.contains("tokenizer.json"), "{content}: {message}");
    }
    refused(folder("tokenizer.json", &"[".repeat(100_000)).path(), 10);
    let big = folder("vocab.txt", "");
    fs::File::options()
        .write(true)
        .open(big.path().join("vocab.txt"))
        .unwrap()
        .set_len((64 << 20) + 1)
        .unwrap();
    assert!(refused(big.path(), 10).contains("64 MB"));
    let latin = tempfile::tempdir().unwrap();
    fs::write(latin.path().join("vocab.txt"), b"[PAD]\n[UNK]\ncaf\xE9\n").unwrap();
    // "[PAD]\n" and "[UNK]\n" are 12 bytes, "caf" 3 more.
    assert!(refused(latin.path(), 10).contains("vocab.txt:3 (byte 15): the vocabulary is not UTF-8"));
}

#[test]
fn damaged_files_never_panic() {
    let out = tempfile::tempdir().unwrap();
    let whole = fs::read(golden("roberta").join("tokenizer.json")).unwrap();
    let path = out.path().join("tokenizer.json");
    let mut random = tempra::rng::Rng::new(1, "damage", 0);
    for _ in 0..200 {
        let mut bytes = whole.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len() as u32) as usize;
            bytes[at] = b"{}[]\",:0129a- "[random.below(14) as usize];
        }
        fs::write(&path, &bytes).unwrap();
        // What is still a tokenizer must encode, or say why not.
        if let Ok(tokenizer) = Tokenizer::from_dir(out.path(), 1000) {
            let _ = tokenizer.encode("the quick brown fox jumps 123 é", Some("東京"), 12);
        }
    }
}

#[test]
fn a_megabyte_is_tokenised() {
    let tokenizer = Tokenizer::from_dir(&golden("bert"), 1000).unwrap();
    let text = "the movie was good ".repeat(55_000);
    let e = tokenizer.encode(&text, Some(&text), 16).unwrap();
    // 13 tokens are left for two texts of 220,000.
    assert_eq!((e.ids.len(), e.lost), (16, 440_000 - 13));
}

/// 120 lines of code, CJK and emoji with the ids that other implementations give.
#[test]
fn ids_of_other_implementations() {
    let Some(shared) = outside("TEMPRA_SHARED_DATA") else { return };
    let golden_ids = shared.join("golden-ids");
    let lines = fs::read_to_string(golden_ids.join("mixed_input.txt")).unwrap();
    let compare_at = |dir: &Path, vocab_size: usize, file: &str, first: usize| {
        let tokenizer = Tokenizer::from_dir(dir, vocab_size).unwrap();
        let expected = fs::read_to_string(golden_ids.join(file)).unwrap();
        assert_eq!(lines.lines().count(), 120);
        for (line, expected) in lines.lines().zip(expected.lines()) {
            let mut expected: Vec<u32> =
                expected.split(',').filter_map(|id| id.trim().parse().ok()).collect();
            while file.contains("gte") && expected.last() == Some(&0) {
                expected.pop();
            }
            let e = tokenizer.encode(line, None, usize::MAX).unwrap();
            // Written without special tokens; what gives 512 was cut there.
            let inner = &e.ids[first..e.ids.len() - 2 + first];
            let cut = if expected.len() == 512 { &inner[..512] } else { inner };
            assert_eq!(cut, expected, "{}: {line}", dir.display());
        }
    };
    let compare = |dir: &Path, vocab_size: usize, file: &str| compare_at(dir, vocab_size, file, 1);
    compare(&shared.join("tokenizers/bert-cased"), 28_996, "mixed_tokens_bert_base_cased.txt");
    if let Some(minilm) = outside("TEMPRA_MINILM") {
        compare(&minilm, 30_522, "mixed_tokens_gte.txt");
        // The vocabulary alone must give the same as the tokenizer.json beside it.
        let alone = tempfile::tempdir().unwrap();
        fs::copy(minilm.join("vocab.txt"), alone.path().join("vocab.txt")).unwrap();
        compare(alone.path(), 30_522, "mixed_tokens_gte.txt");
    }
    compare(&shared.join("tokenizers/modernbert"), 50_368, "mixed_tokens_modernbert.txt");
    // XLNet's two special tokens stand at the end.
    compare_at(&shared.join("tokenizers/xlnet"), 32_000, "mixed_tokens_xlnet_base_cased.txt", 0);
    // GPT-2's numbers follow from the merges: the bytes in the order of their characters, the merges, the end
    // of text.
    let gpt2 = tempfile::tempdir().unwrap();
    let merges = fs::read_to_string(shared.join("tokenizers/roberta/merges.txt")).unwrap();
    let printable = |b: &u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut pieces: Vec<String> = (0..256u32)
        .filter(printable)
        .chain(256..324)
        .map(|c| char::from_u32(c).unwrap().to_string())
        .collect();
    pieces.extend(merges.lines().skip(1).map(|line| line.replace(' ', "")));
    assert_eq!(pieces.len(), 50_256);
    pieces.extend(["<|endoftext|>", "<s>", "</s>"].map(str::to_owned));
    let vocab: serde_json::Map<String, Value> =
        pieces.into_iter().enumerate().map(|(i, p)| (p, json!(i))).collect();
    fs::write(gpt2.path().join("vocab.json"), json!(vocab).to_string()).unwrap();
    fs::write(gpt2.path().join("merges.txt"), merges).unwrap();
    compare(gpt2.path(), 50_259, "mixed_tokens_gpt2.txt");
    let roberta = Tokenizer::from_dir(&shared.join("tokenizers/roberta"), 50_265).unwrap();
    assert_eq!(roberta.encode("Hello world", None, 16).unwrap().ids, [0, 31414, 232, 2]);
    // An old serialisation without `model.type`: it loads, or says why not.
    let old = tempfile::tempdir().unwrap();
    fs::copy(
        shared.join("tokenizers/xlnet/tokenizer.old-serialisation.json"),
        old.path().join("tokenizer.json"),
    )
    .unwrap();
    match Tokenizer::from_dir(old.path(), 32_000) {
        Ok(t) => assert!(t.encode("Hello world", None, 16).unwrap().ids.len() >= 4),
        Err(e) => assert_eq!(e.kind(), Kind::Model),
    }
}
