//! `tempra shrink --vocab-from`: tokenizers with fewer tokens, and models with fewer rows.

use crate::support::*;
use serde_json::{Value, json};
use std::path::Path;
use tempra::checkpoint::{RealFs, Weights};
use tempra::compress::shrink::{ShrinkOptions, StockForm, shrink};
use tempra::error::Kind;
use tempra::models::Options;
use tempra::text::{Reduced, Tokenizer};

/// Texts that use some of the tokens, characters that no piece has, and a word that becomes unknown after
/// some of its pieces were found.
const CORPUS: [&str; 5] = [
    "the movie was good",
    "The MOVIE was   unbelievably good!!",
    "a naïve café, déjà vu; Straße",
    "東京 and 大阪 大大阪",
    "was☃ gooéd movie☃s",
];
/// Texts that it must still be able to split.
const OTHERS: [&str; 2] = ["an entirely different sentence, with other words", "xyzzy Quux 77"];

/// Writes the files of a smaller tokenizer beside a config.
fn written(dir: &Path, reduced: &Reduced, config: Option<&Path>) {
    std::fs::create_dir_all(dir).expect("a folder");
    for (name, bytes) in &reduced.files {
        std::fs::write(dir.join(name), bytes).expect("written");
    }
    if let Some(config) = config.filter(|path| path.exists()) {
        std::fs::copy(config, dir.join("config.json")).expect("copied");
    }
}

/// The ids of transformers for these texts, where there is a python that has it.
fn of_transformers(dir: &Path, texts: &[&str]) -> Option<Vec<Vec<u32>>> {
    let python = std::env::var_os("TEMPRA_PYTHON").filter(|p| !p.is_empty())?;
    let code = "import sys, json, transformers as t\n\
                tok = t.AutoTokenizer.from_pretrained(sys.argv[1])\n\
                print(json.dumps([tok(x)['input_ids'] for x in json.loads(sys.argv[2])]))";
    let mut run = std::process::Command::new(python);
    let run = run.args(["-c", code]).arg(dir).arg(json!(texts).to_string()).output().expect("python");
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{}: {said}", dir.display());
    let ids: Value = serde_json::from_slice(&run.stdout).expect("JSON");
    let row = |v: &Value| numbers(v).into_iter().map(|n| n as u32).collect();
    Some(ids.as_array().expect("rows").iter().map(row).collect())
}

/// WordPiece, byte-level BPE from older files and from `tokenizer.json`, and Unigram: the ids of a corpus are
/// the old ones by their new numbers, for tempra and for transformers; other texts can be split.
#[test]
fn a_corpus_is_split_as_before() {
    let dir = tempfile::tempdir().expect("a folder");
    for (i, (name, vocab)) in [
        ("bert/a", 200),
        ("data/bert", 1000),
        ("data/bert-cased", 1000),
        ("subwords/roberta", 1000),
        ("data/roberta", 1000),
        ("subwords/xlm-roberta", 1000),
        ("subwords/albert", 1000),
    ]
    .into_iter()
    .enumerate()
    {
        let large = Tokenizer::from_dir(&golden(name), vocab).unwrap_or_else(|e| panic!("{name}: {e}"));
        let reduced = large.reduced(&CORPUS, true, &[]).unwrap_or_else(|e| panic!("{name}: {e}"));
        let place = dir.path().join(i.to_string());
        written(&place, &reduced, Some(&golden(name).join("config.json")));
        if name == "subwords/albert" || name == "subwords/xlm-roberta" {
            assert_eq!(reduced.left_out.len(), 1, "{name}: {:?}", reduced.left_out);
        }
        if !place.join("tokenizer_config.json").exists() {
            // What told the class was the kind of the files, which `tokenizer.json` does not.
            let class = match name {
                "subwords/roberta" => "RobertaTokenizer",
                "subwords/xlm-roberta" => "XLMRobertaTokenizer",
                "subwords/albert" => "AlbertTokenizer",
                _ => "BertTokenizer",
            };
            let config = json!({ "tokenizer_class": class });
            std::fs::write(place.join("tokenizer_config.json"), config.to_string()).expect("written");
        }
        let small = Tokenizer::from_dir(&place, reduced.kept.len()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let old = large.all_ids(&CORPUS, true).expect("ids");
        let new = small.all_ids(&CORPUS, true).expect("ids");
        let back = |ids: &Vec<u32>| ids.iter().map(|&id| reduced.kept[id as usize]).collect::<Vec<_>>();
        assert_eq!(new.iter().map(back).collect::<Vec<_>>(), old, "{name}");
        for (new_id, &old_id) in reduced.kept.iter().enumerate() {
            assert_eq!(small.token(new_id as u32), large.token(old_id), "{name}");
        }
        let unknown = |t: &Tokenizer, text: &str| t.encode(text, None, 512).expect("ids").unknown;
        for text in OTHERS {
            // Not one more unknown token: every character of these is a piece, or was none before.
            assert!(unknown(&small, text) <= unknown(&large, text), "{name}: {text}");
        }
        println!("{name}: {vocab} at most -> {}", reduced.kept.len());
        let known = (0..vocab as u32).filter(|&id| large.token(id).is_some()).count();
        assert!(reduced.kept.len() < known, "{name}: {} of {known}", reduced.kept.len());
        match of_transformers(&place, &CORPUS) {
            Some(ids) => {
                let own: Vec<Vec<u32>> =
                    CORPUS.iter().map(|text| small.encode(text, None, 512).expect("ids").ids).collect();
                assert_eq!(ids, own, "{name}");
            }
            None => {
                report_skipped("not run: transformers on a smaller tokenizer; TEMPRA_PYTHON names no python")
            }
        }
    }
}

/// The rows of the model follow: equal logits on the corpus, in tempra and in transformers.
#[test]
fn logits_of_the_corpus_stay() {
    let dir = tempfile::tempdir().expect("a folder");
    let (out, corpus) = (dir.path().join("out"), CORPUS.map(str::to_owned).to_vec());
    let options = ShrinkOptions { corpus: Some(corpus), ..ShrinkOptions::default() };
    let report = shrink(&RealFs, &golden("bert/a"), &out, &options).unwrap_or_else(|e| panic!("{e}"));
    let [before, after] = report.vocabulary;
    assert!(before == 200 && after < 200 && report.stock == StockForm::Same, "{report:?}");
    assert_eq!(report.parameters[0] - report.parameters[1], (before - after) * 32);
    assert!(report.proof.relative() <= 1e-7 && report.proof.texts == 5, "{report:?}");
    let (config, files) = (json(&out.join("config.json")), Weights::open(&out).expect("weights"));
    assert_eq!(config["vocab_size"], after);
    let table = files.get("bert.embeddings.word_embeddings.weight").expect("a table");
    assert_eq!(table.shape, [after, 32]);
    let device = cpu(1);
    let run = |folder: &Path, rows: usize| {
        let tokenizer = Tokenizer::from_dir(folder, rows).expect("a tokenizer");
        let (model, _) = open(&device, folder, &Options::default());
        let ids: Vec<Value> =
            CORPUS.iter().map(|t| json!(tokenizer.encode(t, None, 40).expect("ids").ids)).collect();
        let set = token_set(&json!(ids), &json!([]), vec![tempra::data::Label::Class(0); CORPUS.len()]);
        logits(&device, &model, &whole(&set))
    };
    let (a, b) = (run(&golden("bert/a"), before), run(&out, after));
    assert!(max_difference(&a, &b) <= 1e-6);
    check_saved(
        &out,
        &json!({ "texts": CORPUS, "logits": a.chunks(3).collect::<Vec<_>>(), "max_length": 40 }),
    );
}

#[test]
fn vocabularies_that_cannot_be_cut_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let large = golden("data/roberta");
    let mut file = json(&large.join("tokenizer.json"));
    file["model"]["dropout"] = json!(0.1);
    std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).expect("written");
    let config = json!({ "tokenizer_class": "PreTrainedTokenizerFast" });
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).expect("written");
    let tokenizer = Tokenizer::from_dir(dir.path(), 1000).expect("a tokenizer");
    let e = tokenizer.reduced(&CORPUS, false, &[]).expect_err("refused");
    assert!(e.kind() == Kind::Model && e.to_string().contains("BPE with dropout = 0.1"), "{e}");
}
