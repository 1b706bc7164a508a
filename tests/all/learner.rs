//! A tiny model that learns, and the losses of its steps: what the tests of every GPU hold against the CPU's.

use crate::support::{golden, open};
use std::hash::{DefaultHasher, Hash, Hasher};
use tempra::data::{Batch, IGNORED, Targets};
use tempra::device::Device;
use tempra::models::{Attention, Model, Options};
use tempra::optim::{Optimizer, Settings};
use tempra::rng::Rng;
use tempra::tasks::{Classify, Permute, Task};
use tempra::train::pass;

/// A ragged batch of the tiny model; the class is told by one token.
pub fn batch(step: u64) -> Batch {
    let mut rng = Rng::new(9, "wgpu", step);
    let (mut batch, mut classes) = (Batch { cu_seqlens: vec![0], ..Batch::default() }, Vec::new());
    for example in 0..6 {
        let (length, class) = (3 + rng.below(14), rng.below(2));
        for at in 0..length {
            batch.ids.push(if at == 1 { 50 + class } else { 60 + rng.below(100) });
            batch.positions.push(at);
            batch.types.push(0);
        }
        batch.cu_seqlens.push(batch.ids.len() as u32);
        classes.push(class);
        batch.examples.push(example);
    }
    batch.targets = Targets::Class(classes);
    batch
}

/// A model that learns, with up to `window` steps under way.
pub struct Job<'d> {
    pub device: &'d Device,
    pub model: Model,
    pub optimizer: Optimizer,
    task: Box<dyn Task>,
    step: u64,
}

impl Job<'_> {
    pub fn new(device: &Device, window: usize) -> Job<'_> {
        Job::open(device, window, "bert/a", None, Job::classify())
    }
    /// Two classes.
    fn classify() -> Box<dyn Task> {
        let classes = vec!["a".to_owned(), "b".to_owned()];
        Box::new(Classify { classes, label_smoothing: 0.0, class_weights: None, gamma: 0.0 })
    }
    /// A model of `tests/golden`, with its attention chosen.
    fn open<'d>(
        device: &'d Device,
        window: usize,
        dir: &str,
        attention: Option<Attention>,
        task: Box<dyn Task>,
    ) -> Job<'d> {
        let options = Options {
            outputs: Some(task.outputs()),
            training: true,
            dropout: Some(0.1),
            attention_dropout: Some(0.1),
            attention,
            ..Options::default()
        };
        let (model, _) = open(device, &golden(dir), &options);
        let settings = Settings { weight_decay: 0.01, ..Settings::default() };
        let optimizer = Optimizer::with_window(device, &model.params, settings, window).unwrap();
        Job { device, model, optimizer, task, step: 0 }
    }
    /// Queues a step on a batch, dropout on; the losses of all queued steps where no more may be queued. A
    /// step is captured and replayed where the device does that, as training does it.
    pub fn step(&mut self, batch: &Batch) -> Vec<f64> {
        let (device, scale) = (self.device, 1.0 / self.task.weights(batch)[0]);
        let mut batch = batch.clone();
        // Also where nothing is captured: with as many rows, sums over rows are cut up in the same way.
        if matches!(device, Device::Cuda(_)) {
            batch.fill_up();
        }
        let mut size = DefaultHasher::new();
        (batch.ids.len(), batch.len(), batch.masked.len(), batch.longest().div_ceil(64)).hash(&mut size);
        // Steps of another model on this device are others.
        self.model.params.spec().len().hash(&mut size);
        self.model.begin_step(device, self.step).unwrap();
        let key = Some((1, self.step));
        device
            .replayed(size.finish(), || {
                let passed = pass(device, &self.model, &*self.task, &batch, key, scale, false)?;
                self.optimizer.step(device, &self.model.params, &[passed.loss], 1e-3)
            })
            .unwrap();
        self.optimizer.fetch(device).unwrap();
        self.step += 1;
        if !self.optimizer.full() {
            return Vec::new();
        }
        self.optimizer.synchronize_oldest(device).unwrap().iter().map(|m| m.loss).collect()
    }
    pub fn synchronize(&mut self) -> Vec<f64> {
        self.optimizer.synchronize(self.device).unwrap().iter().map(|m| m.loss).collect()
    }
}

/// The losses of steps of AdamW with approximated attention, features redrawn every four steps, of those of
/// an XLNet, and of those of an XLNet as a permutation language model; ids as the smallest model has them.
pub fn other_losses(device: &Device, steps: u64) -> [Vec<f64>; 3] {
    let performer = Attention::Performer { features: Some(6), redraw: 4 };
    let permute = Box::new(Permute { probability: 0.3, max_span: 3, vocab: 90 });
    let jobs: [(&str, Option<Attention>, Box<dyn Task>); 3] = [
        ("bert/a", Some(performer), Job::classify()),
        ("encoders/xlnet", None, Job::classify()),
        ("encoders/xlnet", None, permute),
    ];
    jobs.map(|(dir, attention, task)| {
        let mut job = Job::open(device, 16, dir, attention, task);
        let prepare = |i: u64, job: &Job| {
            let mut batch = batch(i);
            batch.ids.iter_mut().for_each(|id| *id %= 90);
            batch.words = batch.positions.iter().map(|&p| if p == 0 { IGNORED } else { p }).collect();
            job.task.prepare(&mut batch, (3, i)).unwrap();
            batch
        };
        // Batches recur, as captured steps do.
        let mut losses: Vec<f64> = (0..steps)
            .flat_map(|i| {
                let batch = prepare(i % 3, &job);
                job.step(&batch)
            })
            .collect();
        losses.extend(job.synchronize());
        losses
    })
}

/// The losses of fifty steps of AdamW.
pub fn losses(device: &Device, window: usize) -> Vec<f64> {
    let mut job = Job::new(device, window);
    let mut losses: Vec<f64> = (0..50).flat_map(|i| job.step(&batch(i))).collect();
    losses.extend(job.synchronize());
    losses
}
