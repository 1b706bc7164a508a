//! Measures a training step: by op and phase, packed and padded, and for growing batches and lengths.

use super::measure::{Clock, Quartiles, Workbench, is_gone, medians, reason};
use super::monitor::is_stopped;
use super::report::{Counts, Phase, Phases, Report, Skipped, StepRow, Work};
use super::samples::median_interval;
use super::shapes::{LengthSource, ModelShape, SequenceLengths};
use crate::data::{Batch, Targets};
use crate::device::{Device, Pass, Timed};
use crate::error::Result;
use crate::models::{Model, Options, Outputs};
use crate::nn::{EncoderConfig, LayerShape};
use crate::ops::Activation;
use crate::optim::{Optimizer, Settings};
use crate::rng::Rng;
use crate::tasks::Classify;
use crate::train::pass;
use std::collections::BTreeMap;

/// One measurement of a step.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The part of the benchmark; see [`StepRow::part`].
    pub part: &'static str,
    /// The number of tokens of each sequence, without padding.
    pub lengths: SequenceLengths,
    /// Whether all sequences are padded to the longest.
    pub padded: bool,
}

impl Setting {
    fn dense(part: &'static str, sequences: usize, length: usize) -> Setting {
        Setting { part, lengths: SequenceLengths::equal(sequences, length), padded: false }
    }
    /// Why a model does not take the batch: a sequence is longer than its position table.
    fn refusal(&self, config: &EncoderConfig) -> Option<String> {
        let (longest, positions) = (self.lengths.longest(), config.positions);
        (longest > positions).then(|| {
            format!("the longest sequence ({longest} tokens) exceeds the model's positions ({positions})")
        })
    }
    /// A label for reports and progress.
    pub fn label(&self) -> String {
        let (sequences, longest) = (self.lengths.sequences(), self.lengths.longest());
        format!("{} step, {sequences} sequences of up to {longest} tokens", self.part)
    }
}

/// The settings to measure: the base step; varying lengths, packed and padded; and, if `sweeps`, increasing
/// numbers of sequences and lengths. On a slow device the sweeps are short and coarse.
pub fn settings(sequences: usize, length: usize, sweeps: bool, slow: bool) -> Vec<Setting> {
    let (most, stride) = if slow { (1024, 2) } else { (65536, 1) };
    let mut all = vec![Setting::dense("base", sequences, length)];
    all.extend(packed_and_padded(ragged(sequences, length)));
    if sweeps {
        let powers = |from: u32, to: u32| (from..=to).step_by(stride).map(|p| 1usize << p);
        let fits = |s: &Setting| s.lengths.tokens() <= most;
        all.extend(powers(0, 8).map(|n| Setting::dense("batch", n, length)).filter(fits));
        all.extend(powers(4, 9).map(|l| Setting::dense("length", sequences, l)).filter(fits));
    }
    all
}

/// The settings for given lengths, packed and padded: those of a list, or this number of draws.
pub fn settings_of(lengths: &LengthSource, sequences: usize) -> Vec<Setting> {
    packed_and_padded(lengths.with_sequences(sequences)).into()
}

fn packed_and_padded(lengths: SequenceLengths) -> [Setting; 2] {
    [
        Setting { part: "packed", lengths: lengths.clone(), padded: false },
        Setting { part: "padded", lengths, padded: true },
    ]
}

/// Lengths distributed like those of sentences: log-normal, at most `length`.
fn ragged(sequences: usize, length: usize) -> SequenceLengths {
    let mut rng = Rng::new(4, "bench lengths", 0);
    let mut one = |i: usize| {
        let l = length as f64 * (0.6 * rng.normal() - 1.2).exp();
        if i == 0 { length } else { (l.round() as usize).clamp(length.min(3), length) }
    };
    SequenceLengths::of((0..sequences).map(&mut one).collect())
}

/// A BERT encoder with the sizes of a shape.
pub fn encoder(m: &ModelShape) -> EncoderConfig {
    EncoderConfig {
        vocab: m.vocab,
        positions: m.positions,
        types: 2,
        hidden: m.hidden,
        layers: vec![LayerShape::new(m.hidden, m.heads, m.intermediate); m.layers],
        act: Activation::GeluErf,
        ..EncoderConfig::default()
    }
}

/// A model with its optimizer.
struct Training<'a> {
    device: &'a Device,
    model: Model,
    optimizer: Optimizer,
    task: Classify,
    step: u64,
    clock: &'a dyn Clock,
    /// The bytes that the benchmark held before the model was made; see [`held`].
    held: u64,
}

impl Training<'_> {
    fn queue(&mut self, key: u64, batch: &Batch) -> Result<()> {
        let Training { device, model, optimizer, task, step, .. } = self;
        let scale = 1.0 / batch.len() as f64;
        device.replayed(key, || {
            let passed = device.run(|| pass(device, model, task, batch, Some((0, *step)), scale, false))?;
            optimizer.step(device, &model.params, &[passed.loss], 1e-5)
        })?;
        *step += 1;
        Ok(())
    }
    fn synchronize(&mut self) -> Result<()> {
        self.optimizer.synchronize(self.device).map(drop)
    }
    fn one(&mut self, key: u64, batch: &Batch) -> Result<f64> {
        let begun = self.clock.now();
        self.queue(key, batch)?;
        self.synchronize()?;
        Ok(self.clock.now() - begun)
    }
}

/// A batch of random tokens: each sequence is copied from a store of ids, as training does.
fn batch(store: &[u32], lengths: &[usize]) -> Batch {
    let mut b = Batch { cu_seqlens: vec![0], ..Batch::default() };
    for (s, &length) in lengths.iter().enumerate() {
        let from = 977 * s % (store.len() - length);
        b.ids.extend_from_slice(&store[from..from + length]);
        b.positions.extend(0..length as u32);
        b.cu_seqlens.push(b.ids.len() as u32);
        b.examples.push(s as u32);
    }
    b.types = vec![0; b.ids.len()];
    b.targets = Targets::Class((0..lengths.len()).map(|s| (s % 2) as u32).collect());
    b
}

/// Measures steps of a model with random weights and adds the results to the report, until `stop` returns
/// true. On a GPU `steps` steps are queued at once for one measurement.
///
/// # Errors
/// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost;
/// [`Kind::Memory`](crate::error::Kind::Memory) if the model does not fit. The report then holds the
/// measurements made before.
pub fn run(
    bench: &Workbench,
    model: (&str, &EncoderConfig),
    settings: &[Setting],
    steps: usize,
    report: &mut Report,
    stop: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(&Setting),
) -> Result<()> {
    let (device, (name, shape)) = (bench.device, model);
    // What the benchmark itself holds is no part of the steps' peak memory: fixed work is made first, and
    // memory of ceilings and ops is returned.
    bench.pace()?;
    device.trim()?;
    let held = held(device).unwrap_or(0);
    let classes = vec!["a".to_owned(), "b".to_owned()];
    let options =
        Options { outputs: Some(Outputs::Classes(classes.clone())), training: true, ..Options::default() };
    let model = Model::random(device, shape, &options)?;
    let optimizer = Optimizer::with_window(
        device,
        &model.params,
        Settings { weight_decay: 0.01, ..Settings::default() },
        steps.max(2),
    )?;
    let task = Classify { classes, label_smoothing: 0.0, class_weights: None, gamma: 0.0 };
    let mut training = Training { device, model, optimizer, task, step: 0, clock: bench.clock(), held };
    let mut rng = Rng::new(1, "bench", 0);
    let longest = settings.iter().map(|s| s.lengths.longest()).max().unwrap_or(1);
    let store: Vec<u32> = (0..longest + 4099).map(|_| rng.below(shape.vocab as u32)).collect();
    for (key, setting) in settings.iter().enumerate() {
        if stop() {
            break;
        }
        progress(setting);
        let skipped = |why: String| Skipped {
            device: bench.id.clone(),
            what: format!("{name}: {}", setting.label()),
            why,
        };
        if let Some(why) = setting.refusal(shape) {
            report.skipped.push(skipped(why));
            continue;
        }
        match bench.watched(&mut || one(bench, &mut training, key as u64, &store, setting, steps)) {
            Ok((row, clocks)) => report.steps.push(StepRow { model: name.to_owned(), clocks, ..row }),
            Err(e) if is_gone(&e) => return Err(e),
            Err(e) if is_stopped(&e) => break,
            Err(e) => report.skipped.push(skipped(reason(&e))),
        }
        bench.added(report);
    }
    Ok(())
}

fn one(
    bench: &Workbench,
    training: &mut Training,
    key: u64,
    store: &[u32],
    setting: &Setting,
    steps: usize,
) -> Result<StepRow> {
    let (device, clock) = (bench.device, bench.clock());
    let (tokens, sequences) = (setting.lengths.tokens(), setting.lengths.sequences());
    let length = setting.lengths.longest();
    let computed = if setting.padded { vec![length; sequences] } else { setting.lengths.all().to_vec() };
    let build = |_| {
        let begun = clock.now();
        let made = batch(store, &computed);
        (clock.now() - begun, made)
    };
    let (data, mut batches): (Vec<f64>, Vec<Batch>) = (0..9).map(build).unzip();
    let Some(padded) = batches.pop() else { return Ok(StepRow::default()) };
    // Padding is no useful work: what counts is the FLOP of a step on the same sequences without padding.
    let useful = match setting.padded {
        true => {
            let packed = batch(store, setting.lengths.all());
            let ((), timed) = device.profiled(|| training.queue(key, &packed))?;
            training.synchronize()?;
            Some(timed.iter().map(|t| t.flops).sum())
        }
        false => None,
    };
    let batch = padded;
    device.trim()?;
    forget_peak();
    // Kernels are compiled, memory is taken.
    bench.check()?;
    training.one(key, &batch)?;
    let mut runs = Vec::new();
    for _ in 0..3 {
        bench.check()?;
        let ((), timed) = device.profiled(|| training.queue(key, &batch))?;
        training.synchronize()?;
        runs.push(timed);
    }
    let (phases, work) = (phases(&runs, data), summarise(&runs));
    // The first step is captured where the device does that.
    training.one(key, &batch)?;
    // A GPU is given all steps at once: waiting for each would leave it idle.
    let group = if bench.is_slow() { 1 } else { steps };
    let timing = match (device.replays(), group) {
        (true, _) => format!("{group} CUDA graphs queued at once, host clock, until the device is idle"),
        (false, 1) => "host clock, until the device is idle".to_owned(),
        (false, _) => format!("{group} steps queued at once, host clock, until the device is idle"),
    };
    let begun = clock.now();
    let (mut seconds, mut paces) = (Vec::new(), Vec::new());
    let mut warm = None;
    while seconds.len() < bench.effort.samples || clock.now() - begun < bench.effort.seconds {
        bench.check()?;
        paces.push(bench.pace()?.measure(bench)?);
        let (begun, before) = (clock.now(), counts(device, group));
        (0..group).try_for_each(|_| training.queue(key, &batch))?;
        warm = counts(device, group).zip(before).map(|(a, b)| Counts {
            steps: group,
            allocations: a.allocations - b.allocations,
            reads: a.reads - b.reads,
            kernels: a.kernels - b.kernels,
            command_buffers: a.command_buffers - b.command_buffers,
        });
        training.synchronize()?;
        seconds.push((clock.now() - begun) / group as f64);
    }
    let samples_s = seconds;
    let seconds = Quartiles::of(samples_s.clone());
    let busy = phases.forward + phases.backward + phases.optimizer;
    let done = work.iter().map(|w| w.flops).sum();
    Ok(StepRow {
        device: bench.id.clone(),
        part: setting.part.to_owned(),
        sequences,
        length,
        tokens,
        computed_tokens: computed.iter().sum(),
        lengths: Some(setting.lengths.summary()),
        tokens_per_s: tokens as f64 / seconds.median,
        samples_per_s: sequences as f64 / seconds.median,
        flops: useful.unwrap_or(done),
        computed_flops: done,
        peak_bytes: peak(device).map(|bytes| bytes.saturating_sub(training.held)),
        phases: Phases { idle: (seconds.median - busy).max(0.0), ..phases },
        work: if matches!(setting.part, "batch" | "length") { Vec::new() } else { work },
        seconds,
        timing: Some(timing),
        samples: samples_s.len(),
        interval_s: median_interval(&samples_s),
        samples_s,
        warm,
        pace: Some(medians(&paces)),
        ..StepRow::default()
    })
}

fn counts(device: &Device, steps: usize) -> Option<Counts> {
    let of = |[allocations, reads, kernels, command_buffers]: [u64; 4]| Counts {
        steps,
        allocations,
        reads,
        kernels,
        command_buffers,
    };
    match device {
        Device::Wgpu(gpu) => {
            let s = gpu.stats();
            Some(of([s.allocations, s.reads, s.launches, s.submissions]))
        }
        Device::Cuda(gpu) => {
            let s = gpu.stats();
            Some(of([s.allocations, s.reads, s.launches, s.graphs]))
        }
        _ => None,
    }
}

/// The bytes allocated from the driver; for a CPU, the peak memory of the process since [`forget_peak`].
fn peak(device: &Device) -> Option<u64> {
    allocated(device).or_else(|| of_process("VmHWM:"))
}

/// The bytes that are allocated from the driver now; for a CPU, the memory of the process now.
fn held(device: &Device) -> Option<u64> {
    allocated(device).or_else(|| of_process("VmRSS:"))
}

/// The bytes allocated from a GPU's driver. They include memory that is kept for reuse, so they are the peak
/// since [`Device::trim`].
fn allocated(device: &Device) -> Option<u64> {
    match device {
        Device::Wgpu(gpu) => Some(gpu.stats().bytes),
        Device::Cuda(gpu) => Some(gpu.stats().bytes),
        Device::Cpu(_) | Device::Meta(_) => None,
    }
}

/// A line of the process's status on Linux, in bytes.
fn of_process(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(key))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
}

/// Resets the peak memory of the process on Linux. Does nothing on other systems.
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn phases(runs: &[Vec<Timed>], data: Vec<f64>) -> Phases {
    let of = |pass: Pass| {
        let sum = |timed: &Vec<Timed>| timed.iter().filter(|t| t.pass == pass).map(|t| t.seconds).sum();
        Quartiles::of(runs.iter().map(sum).collect()).median
    };
    let [forward, backward, optimizer] = [Pass::Forward, Pass::Backward, Pass::Step].map(of);
    Phases { data: Quartiles::of(data).median, forward, backward, optimizer, idle: 0.0 }
}

impl From<Pass> for Phase {
    fn from(pass: Pass) -> Phase {
        match pass {
            Pass::Forward => Phase::Forward,
            Pass::Backward => Phase::Backward,
            Pass::Step => Phase::Step,
        }
    }
}

/// Adds up equal calls within each step, and takes the median over the steps.
fn summarise(runs: &[Vec<Timed>]) -> Vec<Work> {
    type Key = (&'static str, Pass, Vec<Vec<usize>>);
    let mut all: BTreeMap<Key, (Work, Vec<f64>)> = BTreeMap::new();
    for timed in runs {
        let mut sums: BTreeMap<Key, Work> = BTreeMap::new();
        for t in timed {
            let key = (t.op, t.pass, t.shapes.clone());
            let work = sums.entry(key).or_insert_with(|| Work {
                op: t.op.to_owned(),
                pass: t.pass.into(),
                shapes: t.shapes.clone(),
                ..Work::default()
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
    let one = |(work, seconds): (Work, Vec<f64>)| Work { seconds: Quartiles::of(seconds).median, ..work };
    let mut work: Vec<Work> = all.into_values().map(one).collect();
    work.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    work
}
