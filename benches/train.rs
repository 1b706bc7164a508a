//! The speed of a training step on this machine, by criterion: a dense batch, and ragged real text.
//!
//! `TEMPRA_MODEL=DIR cargo bench --bench train`. Where `TEMPRA_BENCH_JSON` names a file, medians and peak
//! memory are measured as the peers measure them, each in turn, and written there: `benches/peers/run` draws
//! the table.

use criterion::{Criterion, Throughput};
use serde_json::json;
use std::time::{Duration, Instant};
use tempra::data::{
    Batch, BatchOptions, BatchSize, Columns, OnBadRow, Target, Targets, TokenSet, epoch, micro_batches, read,
};
use tempra::device::Device;
use tempra::models::{Model, Options, Outputs};
use tempra::optim::{Optimizer, Settings};
use tempra::rng::Rng;
use tempra::tasks::Classify;
use tempra::text::Tokenizer;
use tempra::train::pass;

type Error = Box<dyn std::error::Error>;

/// One model in training.
struct Bench {
    device: Device,
    model: Model,
    optimizer: Optimizer,
    task: Classify,
    step: u64,
}

impl Bench {
    fn open(dir: &str, threads: usize) -> Result<Bench, Error> {
        let classes = vec!["a".to_owned(), "b".to_owned()];
        let device = Device::open("cpu", threads)?;
        let options = Options {
            outputs: Some(Outputs::Classes(classes.clone())),
            training: true,
            ..Options::default()
        };
        let (model, _) = Model::open(&device, dir.as_ref(), &options)?;
        let optimizer =
            Optimizer::new(&device, &model.params, Settings { weight_decay: 0.01, ..Settings::default() })?;
        Ok(Bench {
            device,
            model,
            optimizer,
            task: Classify { classes, label_smoothing: 0.0, class_weights: None, gamma: 0.0 },
            step: 0,
        })
    }
    /// Forward, backward, clipping and AdamW, as `tempra train` does them.
    fn step(&mut self, batch: &Batch) -> Result<f64, Error> {
        let start = Instant::now();
        let Bench { device, model, task, step, .. } = &*self;
        let scale = 1.0 / batch.len() as f64;
        let passed = device.run(|| pass(device, model, task, batch, Some((0, *step)), scale, false))?;
        self.optimizer.step(&self.device, &self.model.params, &[passed.loss], 1e-5)?;
        self.optimizer.synchronize(&self.device)?;
        self.step += 1;
        Ok(start.elapsed().as_secs_f64())
    }
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

/// The most memory this process has held, in MiB.
fn peak_rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0");
    line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap_or(0.0) / 1024.0
}

/// A batch of random tokens.
fn dense(n: usize, len: usize) -> Batch {
    let mut rng = Rng::new(1, "dense", 0);
    let tokens = n * len;
    Batch {
        ids: (0..tokens).map(|_| 1000 + rng.below(20000)).collect(),
        types: vec![0; tokens],
        positions: (0..tokens).map(|t| (t % len) as u32).collect(),
        cu_seqlens: (0..=n).map(|s| (s * len) as u32).collect(),
        targets: Targets::Class((0..n).map(|s| (s % 2) as u32).collect()),
        examples: (0..n as u32).collect(),
        ..Batch::default()
    }
}

/// Batches of the example's sentences.
fn ragged(bench: &Bench, dir: &str, steps: usize) -> Result<Vec<Batch>, Error> {
    let columns = Columns { text: "text".into(), pair: None, label: Some("label".into()), weight: None };
    let table = read("examples/sentiment/train.csv".as_ref(), &columns, OnBadRow::Stop)?;
    let labels = Target::classes(&table, None)?.labels(&table)?;
    let tokenizer = Tokenizer::from_dir(dir.as_ref(), bench.model.shape().vocab)?;
    let set = TokenSet::build(&tokenizer, &table.rows, labels, 64, None)?;
    let options = BatchOptions { batch: BatchSize::Sequences(16), group_by_length: false, drop_last: true };
    let mut batches = Vec::new();
    for step in epoch(&set.lengths(), 0, 0, &options)?.iter().take(steps) {
        batches.extend(micro_batches(&set, step, 1, None, 0)?);
    }
    Ok(batches)
}

/// Medians and memory, as JSON.
fn json(dir: &str, threads: usize) -> Result<serde_json::Value, Error> {
    let mut bench = Bench::open(dir, threads)?;
    let batch = dense(16, 128);
    bench.step(&batch)?;
    let repeats = number("TEMPRA_REPEATS", 15);
    let times = (0..repeats).map(|_| bench.step(&batch)).collect::<Result<Vec<_>, _>>()?;
    let dense =
        json!({ "tokens_per_s": batch.ids.len() as f64 / median(times), "peak_rss_mib": peak_rss_mib() });
    let mut bench = Bench::open(dir, threads)?;
    let batches = ragged(&bench, dir, number("TEMPRA_STEPS", 60) + 3)?;
    let (mut tokens, mut seconds) = (0, 0.0);
    for (i, batch) in batches.iter().enumerate() {
        let time = bench.step(batch)?;
        if i >= 3 {
            (tokens, seconds) = (tokens + batch.ids.len(), seconds + time);
        }
    }
    let ragged = json!({ "real_tokens_per_s": tokens as f64 / seconds, "peak_rss_mib": peak_rss_mib() });
    Ok(json!({ "dense": dense, "ragged": ragged, "device": bench.device.caps().name }))
}

/// One step after another, over batches in turn.
fn measured(
    criterion: &mut Criterion,
    name: &str,
    bench: &mut Bench,
    batches: &[Batch],
) -> Result<(), Error> {
    for batch in batches.iter().take(2) {
        bench.step(batch)?;
    }
    let tokens: usize = batches.iter().map(|b| b.ids.len()).sum();
    let mut group = criterion.benchmark_group("train");
    group.throughput(Throughput::Elements((tokens / batches.len().max(1)) as u64));
    let mut failed = None;
    let mut next = batches.iter().cycle();
    group.bench_function(name, |b| {
        b.iter_custom(|steps| {
            let each = |_| bench.step(next.next()?).map_err(|e| failed = Some(e)).ok();
            Duration::from_secs_f64((0..steps).filter_map(each).sum::<f64>().max(1e-9))
        });
    });
    group.finish();
    failed.map_or(Ok(()), Err)
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn main() -> Result<(), Error> {
    // `cargo test` builds benches too; there is nothing to test here.
    if std::env::args().any(|a| a == "--test") {
        return Ok(());
    }
    let Ok(dir) = std::env::var("TEMPRA_MODEL") else {
        println!(
            "TEMPRA_MODEL is not set: name a model folder (examples/quickstart --fetch-only prints one)"
        );
        return Ok(());
    };
    let threads = number("TEMPRA_THREADS", 2);
    if let Ok(path) = std::env::var("TEMPRA_BENCH_JSON") {
        let result = json(&dir, threads)?;
        println!("{result:#}");
        std::fs::write(path, result.to_string())?;
        return Ok(());
    }
    let mut criterion =
        Criterion::default().measurement_time(Duration::from_secs(20)).sample_size(10).configure_from_args();
    let mut bench = Bench::open(&dir, threads)?;
    measured(&mut criterion, "dense, 16 x 128 tokens", &mut bench, &[dense(16, 128)])?;
    let batches = ragged(&bench, &dir, 64)?;
    measured(&mut criterion, "ragged, 16 sentences", &mut bench, &batches)?;
    criterion.final_summary();
    Ok(())
}
