//! A training step, op by op.

use super::median;
use crate::data::Batch;
use crate::device::{Device, Pass, Timed};
use crate::error::Result;
use crate::models::{Model, Options, Outputs};
use crate::nn::EncoderConfig;
use crate::optim::{Optimizer, Settings};
use crate::rng::Stream;
use crate::tasks::Classify;
use crate::train::pass;
use std::collections::BTreeMap;
use std::time::Instant;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The encoder.
    pub shape: EncoderConfig,
    /// Sequences of a batch.
    pub sequences: usize,
    /// Tokens of each.
    pub length: usize,
    /// Steps that count.
    pub repeats: usize,
}

/// All calls of one pass of one op on tensors of one shape, in one step.
#[derive(Clone, Debug)]
pub struct Work {
    /// The op's stem.
    pub op: &'static str,
    /// Which pass.
    pub pass: Pass,
    /// Shapes of its inputs.
    pub shapes: Vec<Vec<usize>>,
    /// How often it runs in a step.
    pub calls: usize,
    /// Seconds of all calls together; the median over steps.
    pub seconds: f64,
    /// Floating-point operations of all calls.
    pub flops: f64,
    /// Bytes that all calls must move at least.
    pub bytes: f64,
}

/// What a step costs.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Every op of the step, the longest first.
    pub work: Vec<Work>,
    /// Seconds of a step that runs as in training; the median.
    pub seconds: f64,
    /// Tokens of a step.
    pub tokens: usize,
    /// Of the warm steps together: memory asked of the system or driver, read-backs, kernels launched one by one, and command
    /// buffers (wgpu) or recorded steps (CUDA); only for GPUs.
    pub counts: Option<[u64; 4]>,
}

/// A model in training on a batch that stays the same.
struct Job<'a> {
    device: &'a Device,
    model: Model,
    optimizer: Optimizer,
    task: Classify,
    batch: Batch,
    step: u64,
}

impl Job<'_> {
    fn queue(&mut self) -> Result<()> {
        let Job { device, model, optimizer, task, batch, step } = self;
        let scale = 1.0 / batch.len() as f64;
        device.replayed(0, || {
            let passed = device.run(|| pass(device, model, task, batch, Some((0, *step)), scale, false))?;
            optimizer.step(device, &model.params, &[passed.loss], 1e-5)
        })?;
        *step += 1;
        Ok(())
    }
    fn settle(&mut self) -> Result<()> {
        self.optimizer.settle(self.device).map(drop)
    }
}

fn batch(vocab: usize, sequences: usize, length: usize) -> Batch {
    let mut rng = Stream::new(1, "bench", 0);
    let tokens = sequences * length;
    Batch {
        ids: (0..tokens).map(|_| rng.below(vocab as u32)).collect(),
        types: vec![0; tokens],
        positions: (0..tokens).map(|t| (t % length) as u32).collect(),
        cu_seqlens: (0..=sequences).map(|s| (s * length) as u32).collect(),
        classes: (0..sequences).map(|s| (s % 2) as u32).collect(),
        examples: (0..sequences as u32).collect(),
        ..Batch::default()
    }
}

/// Measures training steps of a model with random weights: op by op, then as they run in training.
pub fn step(device: &Device, setting: &Setting) -> Result<StepReport> {
    let classes = vec!["a".to_owned(), "b".to_owned()];
    let outputs = Some(Outputs::Classes(classes.clone()));
    let options = Options { outputs, training: true, ..Options::default() };
    let model = Model::random(device, &setting.shape, &options)?;
    let settings = Settings { weight_decay: 0.01, ..Settings::default() };
    let optimizer = Optimizer::with_window(device, &model.params, settings, setting.repeats)?;
    let task = Classify { classes, label_smoothing: 0.0, class_weights: None };
    let batch = batch(setting.shape.vocab, setting.sequences, setting.length);
    let mut job = Job { device, model, optimizer, task, batch, step: 0 };
    // Kernels are compiled, memory is taken.
    job.queue()?;
    job.settle()?;
    let mut runs = Vec::new();
    for _ in 0..setting.repeats {
        let ((), timed) = device.profiled(|| job.queue())?;
        job.settle()?;
        runs.push(timed);
    }
    let work = summarise(&runs);
    // The first step is recorded where the device does that.
    job.queue()?;
    job.settle()?;
    let before = counts(device);
    let mut seconds = Vec::new();
    let begun = Instant::now();
    for _ in 0..setting.repeats {
        let begun = Instant::now();
        job.queue()?;
        if let Device::Cpu(_) = device {
            job.settle()?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    let after = counts(device);
    job.settle()?;
    if seconds.is_empty() {
        // A GPU is given all steps at once: only their sum has a meaning.
        seconds.push(begun.elapsed().as_secs_f64() / setting.repeats as f64);
    }
    let counts = before.zip(after).map(|(b, a)| std::array::from_fn(|i| a[i] - b[i]));
    Ok(StepReport { work, seconds: median(seconds), tokens: setting.sequences * setting.length, counts })
}

fn counts(device: &Device) -> Option<[u64; 4]> {
    match device {
        Device::Wgpu(gpu) => {
            let s = gpu.stats();
            Some([s.allocations, s.reads, s.launches, s.submissions])
        }
        Device::Cuda(card) => {
            let s = card.stats();
            Some([s.allocations, s.reads, s.launches, s.graphs])
        }
        _ => None,
    }
}

/// Adds up the calls of each step that do the same, and takes the median over the steps.
fn summarise(runs: &[Vec<Timed>]) -> Vec<Work> {
    type Key = (&'static str, Pass, Vec<Vec<usize>>);
    let mut all: BTreeMap<Key, (Work, Vec<f64>)> = BTreeMap::new();
    for timed in runs {
        let mut sums: BTreeMap<Key, Work> = BTreeMap::new();
        for t in timed {
            let key = (t.op, t.pass, t.shapes.clone());
            let work = sums.entry(key).or_insert_with(|| Work {
                op: t.op,
                pass: t.pass,
                shapes: t.shapes.clone(),
                calls: 0,
                seconds: 0.0,
                flops: 0.0,
                bytes: 0.0,
            });
            work.calls += 1;
            work.seconds += t.seconds;
            work.flops += t.flops;
            work.bytes += t.bytes;
        }
        for (key, work) in sums {
            let seconds = work.seconds;
            all.entry(key).or_insert_with(|| (work, Vec::new())).1.push(seconds);
        }
    }
    let one = |(work, seconds): (Work, Vec<f64>)| Work { seconds: median(seconds), ..work };
    let mut work: Vec<Work> = all.into_values().map(one).collect();
    work.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    work
}
