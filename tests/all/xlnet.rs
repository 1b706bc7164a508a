//! XLNet's attention against its definition and against the shift that transformers makes; training of a
//! model with the tokenizer that belongs to it; two streams.

use crate::support::*;
use serde_json::Value;
use std::process::Command;
use tempfile::tempdir;
use tempra::checkpoint::{NamedFile, RealFs, TensorOut, write_dir};
use tempra::data::{Batch, Targets};
use tempra::device::{Device, Tensor};
use tempra::models::{Model, Options, Outputs};
use tempra::nn::permutation::{GIVEN, TwoStreams, draw_ranks};
use tempra::nn::{Biases, EncoderConfig, LayerShape, Positions, Taps};
use tempra::ops::relative_attention::RelativeAttention;
use tempra::ops::{Forward, Op};
use tempra::rng::Rng;
use tempra::shape::{DType, Spec};
use tempra::tape::Tape;
use tempra::tasks::{Permute, Regress, Task, inputs, into_streams};

/// The inputs of one sequence.
struct Case {
    tokens: usize,
    heads: usize,
    dim: usize,
    /// Distances are clamped to less than this.
    n: usize,
    qkv: Vec<f64>,
    segments: Vec<u32>,
    r: Vec<f64>,
    bias: Vec<f64>,
}

impl Case {
    fn new(tokens: usize, n: usize) -> Case {
        let (heads, dim) = (2, 3);
        let mut rng = Rng::new(4, "relative", tokens as u64);
        let mut draw = |count: usize| (0..count).map(|_| rng.normal()).collect::<Vec<f64>>();
        let hidden = heads * dim;
        let (qkv, r, bias) = (draw(tokens * 3 * hidden), draw((2 * n - 1) * hidden), draw(5 * hidden));
        let segments = (0..tokens as u32).map(|t| t / 2 % 3).collect();
        Case { tokens, heads, dim, n, qkv, segments, r, bias }
    }
    fn of(&self, plane: usize, token: usize, head: usize) -> &[f64] {
        &self.qkv[((token * 3 + plane) * self.heads + head) * self.dim..][..self.dim]
    }
    fn biased(&self, which: usize, token: usize, head: usize) -> Vec<f64> {
        let b = &self.bias[(which * self.heads + head) * self.dim..][..self.dim];
        self.of(0, token, head).iter().zip(b).map(|(q, b)| q + b).collect()
    }
    /// The key of distance t.
    fn distance(&self, t: i64, head: usize) -> &[f64] {
        let most = self.n as i64 - 1;
        let row = (t.clamp(-most, most) + most) as usize;
        &self.r[(row * self.heads + head) * self.dim..][..self.dim]
    }
    fn op(&self) -> Vec<f64> {
        let device = cpu(1);
        let put = |shape: &[usize], v: &[f64]| device.upload(DType::F64, shape, v).expect("memory");
        let hidden = self.heads * self.dim;
        let x = [
            put(&[self.tokens, 3 * hidden], &self.qkv),
            device.upload(DType::U32, &[2], &[0, self.tokens as u32]).expect("memory"),
            device.upload(DType::U32, &[self.tokens], &self.segments).expect("memory"),
            put(&[2 * self.n - 1, hidden], &self.r),
            put(&[5, hidden], &self.bias),
        ];
        let op = RelativeAttention { heads: self.heads, scale: 0.7, ordered: false, dropout: None };
        run(&device, &op, &x)
    }
    /// Softmax of the scores of a head, times the values.
    fn mixed(&self, score: impl Fn(usize, usize, usize) -> f64) -> Vec<f64> {
        let mut out = vec![0.0; self.tokens * self.heads * self.dim];
        for i in 0..self.tokens {
            for h in 0..self.heads {
                let e: Vec<f64> =
                    (0..self.tokens).map(|j| (f64::from(0.7f32) * score(i, j, h)).exp()).collect();
                let sum: f64 = e.iter().sum();
                for (j, e) in e.iter().enumerate() {
                    let at = (i * self.heads + h) * self.dim;
                    out[at..at + self.dim]
                        .iter_mut()
                        .zip(self.of(2, j, h))
                        .for_each(|(o, v)| *o += e / sum * v);
                }
            }
        }
        out
    }
    /// All of the score but what depends on the distance.
    fn content(&self, i: usize, j: usize, h: usize) -> f64 {
        let kind = if self.segments[i] == self.segments[j] { 3 } else { 4 };
        let e = &self.bias[(kind * self.heads + h) * self.dim..][..self.dim];
        dot(&self.biased(0, i, h), self.of(1, j, h)) + dot(&self.biased(2, i, h), e)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn run(device: &Device, op: &dyn Op, x: &[Tensor]) -> Vec<f64> {
    let specs: Vec<&Spec> = x.iter().map(|t| &t.spec).collect();
    let plan = op.plan(&device.caps(), &specs).expect("a plan");
    let make = |s: &Spec| device.zeros(s.dtype, &s.shape).expect("memory");
    let y: Vec<Tensor> = plan.outputs.iter().chain(&plan.saved).map(make).collect();
    let x: Vec<&Tensor> = x.iter().collect();
    device.forward(op, Forward { x: &x, y: &y.iter().collect::<Vec<_>>() }).expect("forward");
    floats(device, &y[0])
}

#[test]
fn relative_attention_is_what_its_definition_says() {
    for (tokens, n) in [(1, 1), (2, 2), (7, 7), (7, 20), (70, 70), (70, 9)] {
        let c = Case::new(tokens, n);
        let truth = c.mixed(|i, j, h| {
            c.content(i, j, h) + dot(&c.biased(1, i, h), c.distance(i as i64 - j as i64, h))
        });
        assert!(max_difference(&c.op(), &truth) < 1e-12, "{tokens} tokens, distances below {n}");
    }
}

/// `rel_shift_bnij`: scores by position, (queries, 2 keys) for the positions `tokens` down to 1 - `tokens`,
/// seen as (2 keys, queries), without the first row, seen as (queries, 2 keys - 1), its first `tokens`
/// columns.
#[test]
fn an_index_does_what_the_shift_of_transformers_does() {
    for tokens in [1, 2, 5, 66] {
        let c = Case::new(tokens, tokens + 1);
        let shifted: Vec<Vec<f64>> = (0..c.heads)
            .map(|h| {
                let raw: Vec<f64> = (0..tokens)
                    .flat_map(|i| (0..2 * tokens).map(move |m| (i, tokens as i64 - m as i64)))
                    .map(|(i, position)| dot(&c.biased(1, i, h), c.distance(position, h)))
                    .collect();
                let cut = &raw[tokens..];
                cut.chunks(2 * tokens - 1).flat_map(|row| row[..tokens].to_vec()).collect()
            })
            .collect();
        let truth = c.mixed(|i, j, h| c.content(i, j, h) + shifted[h][i * tokens + j]);
        assert!(max_difference(&c.op(), &truth) < 1e-12, "{tokens} tokens");
    }
}

/// The small XLNet of the fixtures with as many tokens as the tokenizer has, trained by the program on its
/// text files: it learns, and transformers opens what is left.
#[test]
fn xlnet_is_trained_from_text_to_text() {
    let place = tempdir().expect("a folder");
    let from = golden("encoders/xlnet");
    let mut config = json(&from.join("config.json"));
    config["vocab_size"] = 300.into();
    let bytes = std::fs::read(from.join("model.safetensors")).expect("read");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut rng = Rng::new(8, "words", 0);
    let mut tensors = Vec::new();
    for (name, view) in file.tensors() {
        let mut shape = view.shape().to_vec();
        let mut bytes = view.data().to_vec();
        if name.ends_with("word_embedding.weight") {
            shape[0] = 300;
            let words: Vec<f32> = (0..shape.iter().product()).map(|_| 0.2 * rng.normal() as f32).collect();
            bytes = bytemuck::cast_slice(&words).to_vec();
        }
        tensors.push(TensorOut { name, dtype: DType::F32.into(), shape, bytes: bytes.into() });
    }
    let model = place.path().join("xlnet");
    let spiece = std::fs::read(golden("subwords/xlnet/spiece.model")).expect("read");
    let files = vec![
        NamedFile::bytes("config.json", config.to_string().into_bytes()),
        NamedFile::bytes("spiece.model", spiece),
        NamedFile::tensors("model.safetensors", tensors),
    ];
    write_dir(&RealFs, &model, &files).unwrap_or_else(|e| panic!("{e}"));
    let words = ["the", "film", "was", "a", "story", "of", "time"];
    // One word in one of the two texts decides.
    let mut text = String::from("text,more,label\n");
    let mut rng = Rng::new(3, "xlnet test", 0);
    let mut sentence = |special: &str| {
        let n = 2 + rng.below(5);
        let mut s: Vec<&str> = (0..n).map(|_| words[rng.below(7) as usize]).collect();
        s.insert(rng.below(n) as usize, special);
        s.join(" ")
    };
    for i in 0..320u32 {
        let (word, label) = if i % 2 == 0 { ("good", "yes") } else { ("bad", "no") };
        let [a, b] = if i % 3 == 0 { [word, "film"] } else { ["film", word] };
        text += &format!("{},{},{label}\n", sentence(a), sentence(b));
    }
    std::fs::write(place.path().join("data.csv"), text).expect("written");
    let recipe = format!(
        "task = \"classify\"\nseed = 5\nthreads = 2\n[model]\npath = {model:?}\n[data]\ntrain = \"data.csv\"\n\
         pair = \"more\"\nmax_length = 48\nvalidation_fraction = 0.25\ncache = false\n[optim]\nlr = 3e-3\n\
         warmup_ratio = 0.1\n[train]\nepochs = 8\nbatch_size = 16\n"
    );
    std::fs::write(place.path().join("recipe.toml"), recipe).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tempra"));
    let out =
        command.current_dir(place.path()).args(["train", "recipe.toml", "--set", "output=run"]).output();
    let out = out.expect("it runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let accuracy = json(&place.path().join("run/metrics.json"))["accuracy"].as_f64().expect("an accuracy");
    assert!(accuracy > 0.9, "accuracy {accuracy}");
    // What was saved gives the same in transformers, from text.
    let (trained, _) = open(&cpu(1), &place.path().join("run/model"), &Default::default());
    let tokenizer =
        tempra::text::Tokenizer::from_dir(&place.path().join("run/model"), 300).expect("a tokenizer");
    let texts = [("a good film", "the story"), ("time", "was good"), ("of the film of the time", "a")];
    let mut rows = (Vec::new(), Vec::new());
    for (a, b) in texts {
        let encoded = tokenizer.encode(a, Some(b), 48).expect("tokens");
        assert_eq!(encoded.ids.last(), Some(&3), "<cls> is the last token");
        rows.0.push(encoded.ids);
        rows.1.push(encoded.types);
    }
    let set = token_set(&serde_json::json!(rows.0), &serde_json::json!(rows.1), vec![]);
    let found = logits(&cpu(1), &trained, &whole(&set));
    let fixture = serde_json::json!({
        "texts": texts.map(|(a, b)| vec![a, b]),
        "logits": found.chunks(2).collect::<Vec<_>>(),
        "max_length": 48,
        "tolerance": 1e-5,
    });
    check_saved(&place.path().join("run/model"), &fixture);
}

/// The sequences of the fixture as two streams.
fn streams(fixture: &Value) -> TwoStreams {
    let words = |v: &Value| -> Vec<u32> { numbers(v).iter().map(|&n| n as u32).collect() };
    let mut streams = TwoStreams::new(90);
    for s in fixture["sequences"].as_array().expect("sequences") {
        let rows = ["input_ids", "token_type_ids", "ranks"].map(|key| words(&s[key]));
        streams.push(&rows[0], &rows[1], &rows[2]).unwrap_or_else(|e| panic!("{e}"));
    }
    streams
}

/// The hidden states of the queries; with gradients, of their sum times weights.
fn predicted(device: &Device, model: &Model, streams: &TwoStreams, weights: Option<&[f64]>) -> Vec<f64> {
    let mut tape = Tape::new(device);
    let bound = model.params.bind(&mut tape, false).expect("parameters");
    let inputs = streams.inputs(&mut tape, None).expect("inputs");
    let hidden = model.hidden(&mut tape, &bound, &inputs).unwrap_or_else(|e| panic!("{e}"));
    let all = floats(device, hidden.value());
    let width = all.len() / streams.ids.len();
    if let Some(weights) = weights {
        let mut seed = vec![0.0; all.len()];
        for (q, w) in streams.queries.iter().zip(weights.chunks(width)) {
            seed[*q as usize * width..][..width].copy_from_slice(w);
        }
        let seed = device.upload_reals(DType::F64, &[streams.ids.len(), width], &seed).expect("memory");
        tape.backward(hidden, seed).expect("backward");
    }
    streams.queries.iter().flat_map(|q| all[*q as usize * width..][..width].to_vec()).collect()
}

#[test]
fn two_streams_predict_what_transformers_does() {
    let device = cpu(2);
    let fixture = json(&golden("xlnet-plm.json"));
    let options = Options { training: true, dtype: DType::F64, ..Options::default() };
    let (model, _) = open(&device, &golden("encoders/xlnet"), &options);
    let streams = streams(&fixture);
    let sequences = fixture["sequences"].as_array().expect("sequences");
    let truth: Vec<f64> = sequences.iter().flat_map(|s| numbers(&s["outputs"])).collect();
    let weights: Vec<f64> = (1..=truth.len()).map(|n| (n % 7) as f64 - 3.0).collect();
    let found = predicted(&device, &model, &streams, Some(&weights));
    let off = max_difference(&found, &truth);
    println!("outputs {off:.1e}");
    assert!(off < 1e-5, "{off:e}");
    let gradients = gradients(&device, &model);
    for (name, truth) in fixture["gradients"].as_object().expect("gradients") {
        let found = &gradients.iter().find(|(n, _)| n == name).expect("a parameter").1;
        let off = relative(found, &numbers(truth));
        println!("{name} {off:.1e}");
        assert!(off < 1e-5, "{name}: {off:e}");
    }
}

/// The head on the two streams, through the task: its loss and its gradients, of which those of the token
/// table come from both of its uses, are transformers'; a second micro-batch adds to them.
#[test]
fn a_permutation_language_model_has_the_loss_and_the_gradients_of_transformers() {
    let device = cpu(2);
    let fixture = json(&golden("xlnet-plm.json"));
    let outputs = Some(Outputs::Permuted);
    let options = Options { outputs, training: true, dtype: DType::F64, ..Options::default() };
    let (model, _) = open(&device, &golden("encoders/xlnet"), &options);
    let trained = model.params.layout().list.iter().find(|p| p.name.ends_with("mask_emb")).expect("queries");
    assert!(!trained.frozen, "what queries know is learnt");
    let numbers_of = |v: &Value| -> Vec<u32> { numbers(v).iter().map(|&n| n as u32).collect() };
    let mut batch = Batch { cu_seqlens: vec![0], ..Batch::default() };
    let mut all_ranks = Vec::new();
    for (i, s) in fixture["sequences"].as_array().expect("sequences").iter().enumerate() {
        batch.ids.extend(numbers_of(&s["input_ids"]));
        batch.types.extend(numbers_of(&s["token_type_ids"]));
        all_ranks.push(numbers_of(&s["ranks"]));
        batch.cu_seqlens.push(batch.ids.len() as u32);
        batch.examples.push(i as u32);
    }
    let plain = batch.ids.len();
    into_streams(&mut batch, 90, |_, example, _| all_ranks[example as usize].clone()).expect("two streams");
    assert_eq!((batch.tokens(), batch.masked.len()), (plain, 11));
    let task = Permute { probability: 0.2, max_span: 3, vocab: 90 };
    let scale = 1.0 / task.weights(&batch)[0];
    for times in [1.0, 2.0] {
        let mut tape = Tape::new(&device);
        let bound = model.params.bind(&mut tape, times > 1.0).expect("parameters");
        let x = inputs(&mut tape, &batch, None).expect("inputs");
        let given = model.forward(&mut tape, &bound, &x, &mut Taps::none()).unwrap_or_else(|e| panic!("{e}"));
        let root = task.loss(&mut tape, &given, &batch, [scale; 2]).expect("a loss");
        let loss = floats(&device, root.value())[0];
        let truth = fixture["head"]["loss"].as_f64().expect("a loss");
        assert!((loss - truth).abs() < 1e-7, "{loss}, transformers has {truth}");
        let one = device.upload_reals(DType::F64, &[1], &[1.0]).expect("memory");
        tape.backward(root, one).expect("backward");
        let gradients = gradients(&device, &model);
        for (name, truth) in fixture["head"]["gradients"].as_object().expect("gradients") {
            let found = &gradients.iter().find(|(n, _)| n == name).expect("a parameter").1;
            let truth: Vec<f64> = numbers(truth).iter().map(|g| times * g).collect();
            let off = relative(found, &truth);
            println!("{name} {off:.1e}");
            assert!(off < 1e-5, "{name}: {off:e}");
        }
    }
}

/// What a step of training asks for: some tokens of each sequence, none of them special, the same however it
/// is cut.
#[test]
fn tokens_to_be_found_are_drawn_example_by_example() {
    let task = Permute { probability: 0.3, max_span: 2, vocab: 90 };
    let sequence = |n: u32| -> (Vec<u32>, Vec<u32>) {
        let words = (0..n).map(|t| if t + 2 < n { t } else { tempra::data::IGNORED }).collect();
        ((5..5 + n).collect(), words)
    };
    let batch = |examples: &[u32]| {
        let mut b = Batch { cu_seqlens: vec![0], examples: examples.to_vec(), ..Batch::default() };
        for &e in examples {
            let (ids, words) = sequence(12 + e);
            b.ids.extend(ids);
            b.words.extend(words);
            b.cu_seqlens.push(b.ids.len() as u32);
        }
        b.types = vec![0; b.ids.len()];
        b
    };
    let drawn = |examples: &[u32], step: u64| {
        let mut b = batch(examples);
        task.prepare(&mut b, (7, step)).expect("two streams");
        assert_eq!(b.order.len(), 3 * b.ids.len());
        b.targets.tokens().to_vec()
    };
    let both = drawn(&[0, 1], 3);
    assert!(!both.is_empty());
    assert_eq!(both, [drawn(&[0], 3), drawn(&[1], 3)].concat());
    assert_ne!((0..9).map(|s| drawn(&[0, 1], s)).collect::<Vec<_>>(), vec![both; 9], "others each step");
    for step in 0..50 {
        let special = |id: u32| id >= 5 + 12 - 2;
        assert!(drawn(&[0], step).iter().all(|&id| !special(id)), "a special token is asked for");
    }
}

/// A query must not see its own token, nor those that are predicted after it; it must see those before.
#[test]
fn a_query_sees_what_is_predicted_before_it_and_nothing_else() {
    let device = cpu(1);
    let (model, _) =
        open(&device, &golden("encoders/xlnet"), &Options { dtype: DType::F64, ..Options::default() });
    let (ids, types) = ([5u32, 9, 31, 7, 60, 3], [0u32, 0, 0, 1, 1, 2]);
    let ranks = [0, 3, 1, 0, 2, 0];
    let outputs = |ids: &[u32]| -> Vec<Vec<f64>> {
        let mut streams = TwoStreams::new(90);
        streams.push(ids, &types, &ranks).unwrap_or_else(|e| panic!("{e}"));
        let all = predicted(&device, &model, &streams, None);
        all.chunks(all.len() / 3).map(<[f64]>::to_vec).collect()
    };
    let before = outputs(&ids);
    let places = [1, 2, 4];
    for changed in 0..ids.len() {
        let mut other = ids;
        other[changed] = 77;
        for (query, (a, b)) in before.iter().zip(&outputs(&other)).enumerate() {
            let sees = ranks[changed] == 0 || ranks[changed] < ranks[places[query]];
            assert_eq!(bits(a) != bits(b), sees, "token {changed} and the query of token {}", places[query]);
        }
    }
}

#[test]
fn ranks_are_a_permutation_of_the_tokens_that_are_predicted() {
    let mut rng = Rng::new(1, "ranks", 0);
    let mut predicted = 0;
    for n in 1..200 {
        let special: Vec<bool> = (0..n).map(|t| t % 11 == 10 || t == 0).collect();
        let ranks = draw_ranks(&special, 1.0 / 6.0, 5, &mut rng);
        let mut used: Vec<u32> = ranks.iter().copied().filter(|&r| r != GIVEN).collect();
        used.sort_unstable();
        assert_eq!(used, (1..=used.len() as u32).collect::<Vec<_>>());
        assert!(special.iter().zip(&ranks).all(|(special, &rank)| !special || rank == GIVEN));
        predicted += used.len();
    }
    let share = predicted as f64 / (1..200).sum::<usize>() as f64;
    assert!((0.12..0.17).contains(&share), "{share}, a sixth less the special tokens");
    let mut streams = TwoStreams::new(90);
    assert!(streams.push(&[1, 2], &[0, 0], &[1, 2]).is_err(), "nothing is given");
    assert!(streams.push(&[1, 2], &[0], &[0, 0]).is_err());
}

/// Training passes of an XLNet-base of six layers on this CPU. `cargo test --test all -- --ignored
/// xlnet_passes --nocapture`; beside it `benches/peers/xlnet_torch.py`.
#[test]
#[ignore = "a measurement"]
fn xlnet_passes_a_second() {
    let device = cpu(2);
    let shape = EncoderConfig {
        vocab: 32000,
        types: 0,
        layers: vec![LayerShape::new(768, 12, 3072); 6],
        encoding: Positions::Relative { clamp: None },
        biases: Biases { attention: false, ..EncoderConfig::default().biases },
        by_head: true,
        embedding_norm: false,
        query_row: true,
        inner_dropout: true,
        last_dropout: true,
        cls_last: true,
        ..EncoderConfig::default()
    };
    let options = Options { training: true, ..Options::default() };
    let model = Model::random(&device, &shape, &options).unwrap_or_else(|e| panic!("{e}"));
    let mut rng = Rng::new(1, "passes", 0);
    for (sequences, length) in [(16, 32), (8, 128), (2, 512)] {
        let mut batch = Batch { cu_seqlens: vec![0], ..Batch::default() };
        for example in 0..sequences {
            for at in 0..length {
                batch.ids.push(rng.below(32000));
                batch.types.push(u32::from(at + 1 == length) * 2);
                batch.positions.push(at);
            }
            batch.cu_seqlens.push(batch.ids.len() as u32);
            batch.examples.push(example);
        }
        batch.targets = Targets::Value(vec![0.5; sequences as usize]);
        let mut best = f64::INFINITY;
        for step in 0..4 {
            let begun = std::time::Instant::now();
            tempra::train::pass(&device, &model, &Regress::default(), &batch, Some((1, step)), 1.0, false)
                .expect("a pass");
            best = best.min(begun.elapsed().as_secs_f64());
        }
        println!("{sequences} x {length}: {:.0} tokens/s", batch.ids.len() as f64 / best);
    }
}
