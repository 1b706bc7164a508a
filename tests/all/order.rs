//! Sentence-order prediction: pairs by hand, the loss of `AlbertForPreTraining`, and a task that only the
//! order of two texts solves.

use crate::support::golden;
use crate::tasks::{check_classes, ok, prepared, read, recipe, tempra};
use serde_json::Value;
use std::path::Path;
use tempfile::{TempDir, tempdir};
use tempra::data::{Documents, OnBadRow, TokenSet, eval_batches, read_documents};
use tempra::device::Device;
use tempra::error::Kind;
use tempra::models::{Model, Options, Outputs, PairObjective};
use tempra::nn::Taps;
use tempra::tape::Tape;
use tempra::tasks::{LanguageSettings, TaskKind, for_each_output};
use tempra::text::Tokenizer;

fn setting(model: &str) -> TempDir {
    let dir = tempdir().unwrap();
    prepared(dir.path(), &golden(model));
    // The two texts of a pair are told apart by type.
    let config = r#"{"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "token_type_ids"]}"#;
    std::fs::write(dir.path().join("base/tokenizer_config.json"), config).unwrap();
    dir
}

fn documents(dir: &Path, text: &str) -> Documents {
    let path = dir.join("text.txt");
    std::fs::write(&path, text).unwrap();
    read_documents(&path, "text", false, OnBadRow::Stop).unwrap()
}

/// The tokens of the two texts of an example, without special tokens (ids up to 4).
fn parts(set: &TokenSet, i: usize) -> [Vec<u32>; 2] {
    let range = set.range(i);
    let side = |kind: u32| {
        let tokens = set.ids[range.clone()].iter().zip(&set.types[range.clone()]);
        tokens.filter(|(id, t)| **t == kind && **id > 4).map(|(id, _)| *id).collect()
    };
    [side(0), side(1)]
}

/// Every pair of a document of distinct words: its parts are next to each other in the document, in this
/// order or the other.
#[test]
fn the_parts_of_a_pair_are_neighbours() {
    let dir = setting("encoders/albert");
    let tokenizer = Tokenizer::from_dir(&dir.path().join("base"), 90).unwrap();
    let lines =
        ["the a cat", "dog sat ran", "on mat in", "house who where", "what did Alice", "Bob Paris went"];
    // A document is enough, and one of a single line makes no pair.
    let found = documents(dir.path(), &format!("{}\n\nred\n", lines.join("\n")));
    let whole: Vec<u32> =
        lines.iter().flat_map(|line| tokenizer.pieces(line).unwrap()).map(|piece| piece.0).collect();
    assert_eq!(whole.len(), 18);
    let (mut in_order, mut swapped) = (0, 0);
    for seed in 0..60 {
        // Room for 12 tokens and three special ones: a pair of at most four lines, which is never cut.
        let set = found.ordered_pairs(&tokenizer, 15, seed).unwrap();
        assert!(!set.is_empty());
        for i in 0..set.len() {
            let [first, second] = parts(&set, i);
            assert!(!first.is_empty() && !second.is_empty());
            let is_in = |both: &[u32]| whole.windows(both.len()).any(|w| w == both);
            let (as_read, turned) = ([&first[..], &second].concat(), [&second[..], &first].concat());
            match set.targets.classes()[i] {
                0 => in_order += usize::from(is_in(&as_read)),
                1 => swapped += usize::from(is_in(&turned)),
                other => panic!("{other}"),
            }
            assert!(is_in(&as_read) != is_in(&turned), "{first:?} {second:?}");
        }
        let again = found.ordered_pairs(&tokenizer, 15, seed).unwrap();
        assert_eq!((set.ids, set.targets), (again.ids, again.targets), "the seed decides");
    }
    let share = swapped as f64 / (in_order + swapped) as f64;
    assert!(in_order + swapped > 100 && (0.35..0.65).contains(&share), "{in_order} {swapped}");

    // Two lines of one word each: the only pairs that there are.
    let found = documents(dir.path(), "cat\ndog\n");
    let id = |word: &str| tokenizer.pieces(word).unwrap()[0].0;
    for seed in 0..20 {
        let set = found.ordered_pairs(&tokenizer, 15, seed).unwrap();
        let expected = match set.targets.classes() {
            [0] => [vec![id("cat")], vec![id("dog")]],
            _ => [vec![id("dog")], vec![id("cat")]],
        };
        assert_eq!(parts(&set, 0), expected);
    }

    let single = documents(dir.path(), "the cat\n\na dog\n").ordered_pairs(&tokenizer, 15, 0).unwrap_err();
    assert!(
        single.kind() == Kind::Data && single.what().contains("no document has two sentences"),
        "{single}"
    );
}

/// `AlbertForPreTraining`: the loss is the mean cross-entropy of the hidden tokens plus that of the pairs;
/// computed in f64 from the logits. The label 0 means "in order", and the second output has two logits a
/// pair.
#[test]
fn the_loss_is_the_sum_of_two_means() {
    let dir = setting("encoders/albert");
    let base = dir.path().join("base");
    let device = Device::open("cpu", 1).unwrap();
    let outputs = Outputs::Pretraining(PairObjective::Order);
    let options = Options { outputs: Some(outputs.clone()), seed: 3, ..Options::default() };
    let (model, report) = Model::open(&device, &base, &options).unwrap();
    let head = "sop_classifier.classifier.weight";
    assert!(report.initialised.iter().any(|name| name == head), "{:?}", report.initialised);

    let tokenizer = Tokenizer::from_dir(&base, 90).unwrap();
    let text = "the cat sat on the mat\nAlice saw the big dog\nBob went to Paris\nthe dog ran in the house\n";
    let found = documents(dir.path(), text);
    let language = TaskKind::Order.entry().language().unwrap();
    let set = (language.examples)(&found, &tokenizer, 16, 1).unwrap();
    let settings = LanguageSettings { mask_probability: 0.5, ..LanguageSettings::new(&tokenizer, 90) };
    let task = (language.build)(&settings).unwrap();
    assert_eq!(task.outputs(), outputs);
    let mut batches = eval_batches(&set, 1 << 12, 0).unwrap();
    assert_eq!(batches.len(), 1);
    task.prepare(&mut batches[0], (7, 0)).unwrap();
    let batch = &batches[0];
    let [hidden, pairs] = task.weights(batch);
    assert!(hidden > 2.0 && pairs == set.len() as f64);

    let cross_entropy = |row: &[f32], class: usize| {
        let sum: f64 = row.iter().map(|z| f64::from(*z).exp()).sum();
        sum.ln() - f64::from(row[class])
    };
    let mut expected = 0.0;
    for_each_output(&device, &model, &batches, |batch, outputs| {
        let [tokens, order] = outputs else { panic!("{} outputs", outputs.len()) };
        let width = tokens.len() / batch.masked.len();
        let each = tokens.chunks_exact(width).zip(batch.targets.tokens());
        expected += each.map(|(row, id)| cross_entropy(row, *id as usize)).sum::<f64>() / hidden;
        let of_pair = |example: &u32| set.targets.classes()[*example as usize] as usize;
        let each = order.chunks_exact(2).zip(batch.examples.iter().map(of_pair));
        expected += each.map(|(row, class)| cross_entropy(row, class)).sum::<f64>() / pairs;
        Ok(())
    })
    .unwrap();
    let mut tape = Tape::evaluate(&device);
    let bound = model.params.bind(&mut tape, false).unwrap();
    let inputs = tempra::tasks::inputs(&mut tape, batch, None).unwrap();
    let outputs = model.forward(&mut tape, &bound, &inputs, &mut Taps::none()).unwrap();
    let loss = task.loss(&mut tape, &outputs, batch, [1.0 / hidden, 1.0 / pairs]).unwrap();
    let found = device.read_reals(loss.value()).unwrap()[0];
    assert!((found - expected).abs() < 1e-5, "{found} {expected}");
}

/// "the cat ..." always comes before "Bob ...": only the order of the two texts tells the classes apart. The
/// model learns it, the folder has transformers' class, and `eval` and `predict` use it.
#[test]
fn the_order_of_two_texts_is_learnt() {
    let dir = setting("encoders/albert");
    let at = dir.path();
    let word = |i: usize, from: &[&str]| from[i % from.len()].to_owned();
    let document = |i: usize| {
        format!(
            "the {} sat\nBob went {}\n\n",
            word(i, &["cat", "dog", "red", "big"]),
            word(i / 4, &["to", "in", "on"])
        )
    };
    std::fs::write(at.join("text.txt"), (0..96).map(document).collect::<String>()).unwrap();
    let text = recipe("order", "text.txt", "", "run")
        .replace("lr = 1e-3", "lr = 3e-3")
        .replace("max_steps = 3", "max_steps = 60\nbest_metric = \"order_accuracy\"")
        .replace("batch_size = 4", "batch_size = 16")
        .replace("save_every = 3\neval_every = 3", "save_every = 60\neval_every = 60");
    std::fs::write(at.join("order.toml"), text + "[mask]\nprobability = 0.05\n").unwrap();
    ok("order", tempra(at, &["train", "order.toml", "-q"]));

    let config = read(&at.join("run/model/config.json"));
    assert_eq!(config["architectures"][0], "AlbertForPreTraining");
    check_classes(std::iter::once(at.join("run/model")));
    let eval: Value =
        serde_json::from_str(&ok("eval", tempra(at, &["eval", "run/model", "text.txt", "--json", "-q"])))
            .unwrap();
    assert_eq!(eval["task"], "order");
    assert!(eval["scores"]["order_accuracy"].as_f64().unwrap() > 0.95, "{eval}");
    assert!(eval["scores"]["perplexity"].as_f64().is_some_and(f64::is_finite), "{eval}");

    std::fs::write(at.join("in.csv"), "text,pair\nthe cat sat,Bob went to\nBob went to,the cat sat\n")
        .unwrap();
    let args = ["predict", "run/model", "in.csv", "--pair", "pair", "--format", "jsonl", "-q"];
    let said = ok("predict", tempra(at, &args));
    let p: Vec<f64> = said
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["p_in_order"].as_f64().unwrap())
        .collect();
    assert!(p[0] > 0.6 && p[1] < 0.4, "{said}");
    let args = ["predict", "run/model", "--sentence", "Bob went to", "--pair", "the cat sat", "-q"];
    assert!(ok("predict", tempra(at, &args)).starts_with("swapped "), "the likelier class comes first");
    let out = tempra(at, &["predict", "run/model", "--sentence", "the cat sat"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("only one is given"));
}

/// Each architecture has the head of its own pretraining; the other is refused by name.
#[test]
fn an_architecture_without_the_head_is_refused() {
    for (model, task, says) in
        [("bert/a", "order", "no sentence-order head"), ("encoders/albert", "next", "no next-sentence head")]
    {
        let dir = setting(model);
        std::fs::write(dir.path().join("text.txt"), "the cat\na dog\n\nBob ran\nAlice sat\n".repeat(9))
            .unwrap();
        std::fs::write(dir.path().join("r.toml"), recipe(task, "text.txt", "", "run")).unwrap();
        let out = tempra(dir.path(), &["train", "r.toml"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(2) && said.contains(says) && said.contains("help: "), "{said}");
    }
}
