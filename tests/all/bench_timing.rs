//! `tempra bench`: how times and ceilings are taken, and what the rows hold of them.

use crate::schema::obeys;
use crate::support::{device, golden};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use tempra::bench::report::{Ceilings, DeviceEntry, OpRow, Report, StepRow};
use tempra::bench::samples::median_interval;
use tempra::bench::shapes::Runs;
use tempra::bench::{CeilingEffort, Clock, Effort, Job, ModelShape, Quartiles, Workbench, jobs, ops};
use tempra::device::{Caps, Cpu, Cuda, Device, Tensor, Wgpu};
use tempra::error::{Kind, Result};
use tempra::ops::cast::Cast;
use tempra::ops::{Call, Cost, Fill, Input, Step, StepOn};
use tempra::shape::{DType, Spec};

/// Runs the program with a cache folder, under the loader of the emulator or of the software driver where
/// tests run under one.
fn program(cache: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let tempra = env!("CARGO_BIN_EXE_tempra");
    let mut command = match std::env::var_os("TEMPRA_RUNNER") {
        Some(runner) => {
            let mut command = Command::new(runner);
            command.arg(tempra);
            command
        }
        None => Command::new(tempra),
    };
    command.args(args).env("TEMPRA_CACHE", cache).env("HF_HUB_CACHE", cache).env("HF_HUB_OFFLINE", "1");
    command.envs(env.iter().copied()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

const QUICK: (&str, &str) = ("TEMPRA_BENCH_QUICK_CEILINGS", "1");

/// A clock that counts the work of ops: a nanosecond for each FLOP and byte, times the next of `factors`.
/// What is no op (the copies of the ceilings on a CPU, fixed work) takes a millisecond.
struct Counted {
    factors: Vec<f64>,
    calls: Mutex<(usize, f64)>,
}

impl Counted {
    fn new(factors: &[f64]) -> Counted {
        Counted { factors: factors.to_vec(), calls: Mutex::default() }
    }
}

impl Clock for Counted {
    fn now(&self) -> f64 {
        self.calls.lock().unwrap().1
    }
    fn time(&self, device: &Device, work: &mut (dyn FnMut() -> Result<()> + Send)) -> Result<f64> {
        let ((), timed) = device.profiled(|| device.run(work))?;
        let counted: f64 = timed.iter().map(|t| 1e-9 * (t.flops + t.bytes)).sum();
        let mut calls = self.calls.lock().unwrap();
        let factor = self.factors[calls.0 % self.factors.len()];
        let seconds = factor * if timed.is_empty() { 1e-3 } else { counted };
        *calls = (calls.0 + 1, calls.1 + seconds);
        Ok(seconds)
    }
}

const TINY: CeilingEffort = CeilingEffort { samples: 5, largest_side: 512, seconds: 1e3 };

fn ceilings(seconds: f64, samples: usize, effort: CeilingEffort, clock: &Counted) -> Ceilings {
    let device = Device::open("cpu", 1).unwrap();
    let effort_of_ops = Effort { seconds, samples, planted: None };
    let bench = Workbench::new(&device, "cpu".into(), effort_of_ops)
        .with_clock(clock)
        .with_cache_bytes(1 << 20)
        .with_ceiling_effort(effort);
    let before = bench.ceilings().unwrap();
    let after = bench.ceilings_again(&before).unwrap();
    assert_eq!((&after.copy_by, after.matmul_side), (&before.copy_by, before.matmul_side));
    before
}

/// `--seconds` and `--samples` change how long ops are measured, and nothing about the ceilings. The rate is
/// counted by hand: a product of two matrices of side n takes 2 n^3 FLOP and moves 3 n^2 numbers of four
/// bytes.
#[test]
fn ceilings_do_not_depend_on_the_time_for_ops() {
    let all = [(1e-3, 1), (0.3, 5), (50.0, 99)].map(|(s, n)| ceilings(s, n, TINY, &Counted::new(&[1.0])));
    for c in &all {
        assert_eq!((c.matmul_side, c.matmul_samples_flops_per_s.len()), (512, 5), "{c:?}");
        assert_eq!(c.copy_samples_bytes_per_s.len(), 5);
        let (flop, bytes) = (2.0 * 512f64.powi(3), 3.0 * 512f64.powi(2) * 4.0);
        let rate = flop / (1e-9 * (flop + bytes));
        assert!((c.matmul_flops_per_s / rate - 1.0).abs() < 1e-9, "{} {rate}", c.matmul_flops_per_s);
        // A millisecond is half of what a sample has to last, so a sample has two runs. Each reads and writes
        // 4 MiB, four times the cache.
        assert!((c.copy_bytes_per_s / (2.0 * 8.388608e9) - 1.0).abs() < 1e-9, "{c:?}");
    }
    assert!(all.iter().all(|c| *c == all[0]), "{all:?}");
}

/// A run of side 256 takes 34 ms here, one of side 512 takes 0.27 s. Five samples of side 512, and three runs
/// before them, are expected to take 8 x 34 ms x 8 = 2.2 s; those of side 1,024 are expected to take 17 s.
#[test]
fn larger_matmuls_are_tried_as_long_as_the_fixed_effort_affords_them() {
    let side = |largest_side, seconds| {
        let effort = CeilingEffort { samples: 5, largest_side, seconds };
        ceilings(0.3, 5, effort, &Counted::new(&[1.0])).matmul_side
    };
    assert_eq!([side(256, 1e3), side(512, 1e3), side(1024, 10.0), side(1024, 1.0)], [256, 512, 512, 256]);
}

/// Every fifth sample is ten times as fast as the others, as on a machine whose clock rises for a moment.
#[test]
fn a_ceiling_is_a_median_as_a_row_is() {
    let effort = CeilingEffort { largest_side: 256, ..TINY };
    let c = ceilings(0.3, 5, effort, &Counted::new(&[1.0, 1.0, 1.0, 1.0, 0.1]));
    for (rate, samples) in [
        (c.copy_bytes_per_s, &c.copy_samples_bytes_per_s),
        (c.matmul_flops_per_s, &c.matmul_samples_flops_per_s),
    ] {
        let fastest = samples.iter().copied().fold(0.0, f64::max);
        assert_eq!(rate, Quartiles::of(samples.clone()).median);
        assert!(fastest > 9.0 * rate, "{rate} {samples:?}");
    }
}

fn of_samples(rates: &[f64]) -> Ceilings {
    let median = Quartiles::of(rates.to_vec()).median;
    Ceilings {
        copy_bytes_per_s: median,
        matmul_flops_per_s: 1e3 * median,
        copy_samples_bytes_per_s: rates.to_vec(),
        matmul_samples_flops_per_s: rates.iter().map(|r| 1e3 * r).collect(),
        ..Ceilings::default()
    }
}

/// Three samples of 1, 2, 3 GB/s before and three of 4, 5, 6 GB/s after: the median of six is 3.5 GB/s, the
/// drift 5 / 2.
#[test]
fn ceilings_of_both_ends_are_one_median_and_rows_may_exceed_them() {
    let row = |seconds: f64| OpRow {
        device: "a".into(),
        seconds: Quartiles { q1: seconds, median: seconds, q3: seconds },
        beyond_cache: true,
        bytes: 3.5e6,
        ..OpRow::default()
    };
    let mut report = Report {
        devices: vec![DeviceEntry { id: "a".into(), ..DeviceEntry::default() }],
        ops: vec![row(2e-3), row(0.5e-3)],
        ..Report::begin()
    };
    report.judge("a", of_samples(&[1e9, 3e9, 2e9]), Some(of_samples(&[6e9, 4e9, 5e9])));
    let found = report.devices[0].ceilings.clone().unwrap();
    assert_eq!((found.copy_bytes_per_s, found.matmul_flops_per_s), (3.5e9, 3.5e12));
    assert_eq!(found.drift, Some([2.5, 2.5]));
    // At 3.5 GB/s the row takes a millisecond. One that takes half of it is shown as 200 %, not cut off.
    let percent: Vec<f64> = report.ops.iter().map(|o| o.percent.unwrap()).collect();
    assert!((percent[0] - 50.0).abs() < 1e-9 && (percent[1] - 200.0).abs() < 1e-9, "{percent:?}");
    assert_eq!(report.ops[1].bound.as_deref(), Some("copy"));
    // Over rounds: the median of the rounds' ceilings.
    let mut rounds = vec![report.clone(), report.clone(), report];
    for (round, rate) in rounds.iter_mut().zip([1e9, 7e9, 9e9]) {
        round.devices[0].ceilings = Some(of_samples(&[rate]));
    }
    let all = Report::of_rounds(&rounds);
    assert_eq!(all.devices[0].ceilings.as_ref().unwrap().copy_bytes_per_s, 7e9);
    assert!((all.ops[0].percent.unwrap() - 25.0).abs() < 1e-9);
}

/// A step that writes down which set of operands it got: its first number.
#[derive(Debug)]
struct Log(Arc<Mutex<Vec<f32>>>);

impl Step for Log {
    fn name(&self) -> &'static str {
        "log"
    }
    fn check(&self, _: &Caps, _: &[&Spec]) -> Result<()> {
        Ok(())
    }
    fn cost(&self, _: &Call) -> Cost {
        Cost { forward_flops: 0.0, forward_bytes: 4096.0, backward_flops: 0.0, backward_bytes: 0.0 }
    }
}
impl StepOn<Cpu> for Log {
    fn run(&self, _: &Cpu, x: &[&Tensor]) -> Result<()> {
        self.0.lock().unwrap().push(x[0].cpu::<f32>()?[0]);
        Ok(())
    }
}
impl StepOn<Cuda> for Log {
    fn run(&self, _: &Cuda, _: &[&Tensor]) -> Result<()> {
        Ok(())
    }
}
impl StepOn<Wgpu> for Log {
    fn run(&self, _: &Wgpu, _: &[&Tensor]) -> Result<()> {
        Ok(())
    }
}

/// A cache that holds one set of operands: a run on the set of the run before takes 1 us, on another one 3
/// us.
struct OneSetCache {
    log: Arc<Mutex<Vec<f32>>>,
    now: Mutex<f64>,
}

impl Clock for OneSetCache {
    fn now(&self) -> f64 {
        *self.now.lock().unwrap()
    }
    fn time(&self, device: &Device, work: &mut (dyn FnMut() -> Result<()> + Send)) -> Result<f64> {
        let from = self.log.lock().unwrap().len();
        device.run(work)?;
        let log = self.log.lock().unwrap();
        let one = |i: usize| if i > 0 && log[i] == log[i - 1] { 1e-6 } else { 3e-6 };
        let seconds = (from..log.len()).map(one).sum::<f64>().max(1e-7);
        *self.now.lock().unwrap() += seconds;
        Ok(seconds)
    }
}

#[test]
fn cold_times_use_all_sets_in_turn_and_warm_times_one_set() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let clock = OneSetCache { log: log.clone(), now: Mutex::new(0.0) };
    let device = Device::open("cpu", 1).unwrap();
    let effort = Effort { seconds: 1e-3, samples: 7, planted: None };
    // Sets of 4 KiB for a cache of 16 KiB: twice the cache is eight sets.
    let bench = Workbench::new(&device, "cpu".into(), effort).with_clock(&clock).with_cache_bytes(16 << 10);
    let input = Input { shape: vec![1024], fill: Fill::Real(0.0, 1.0) };
    let job = Job {
        op: "log",
        role: "all".into(),
        model: "none".into(),
        tokens: 0,
        lengths: None,
        runs: Runs::Step(Box::new(Log(log.clone()))),
        inputs: vec![input],
        weights: &[],
        copy: None,
        choices: None,
    };
    let mut report = Report { devices: vec![bench.entry()], ..Report::begin() };
    ops::run(&bench, &[job], &mut report, &|| false, &mut |_| ()).unwrap();
    let row = &report.ops[0];
    let all =
        |q: Quartiles, seconds: f64| [q.q1, q.median, q.q3].iter().all(|s| (s / seconds - 1.0).abs() < 1e-9);
    assert!(all(row.seconds, 3e-6) && all(row.warm_s.unwrap(), 1e-6), "{row:?}");
    assert_eq!((row.sets, row.beyond_cache, row.samples_s.len()), (8, true, row.samples));
    let mut sets = log.lock().unwrap().clone();
    sets.truncate(8);
    sets.sort_by(f32::total_cmp);
    sets.dedup();
    assert_eq!(sets.len(), 8, "eight different sets in the first eight runs");
}

/// A model small enough to be measured in a test.
fn tiny() -> ModelShape {
    let name = "tiny".to_owned();
    ModelShape { name, hidden: 64, layers: 1, heads: 2, intermediate: 128, vocab: 512, positions: 128 }
}

fn measured(device: &Device, op: &str, effort: Effort, clock: &dyn Clock) -> Report {
    let bench = Workbench::new(device, "device".into(), effort).with_clock(clock).with_cache_bytes(1 << 16);
    let mut report = Report { devices: vec![bench.entry()], ..Report::begin() };
    let all = ops::plan(&[tiny()], &[32], &|name| name == op);
    ops::run(&bench, &all, &mut report, &|| false, &mut |_| ()).unwrap();
    assert!(!report.ops.is_empty() && report.skipped.is_empty(), "{report:?}");
    report
}

#[test]
fn rows_hold_all_samples_and_the_interval_of_their_median() {
    let device = Device::open("cpu", 1).unwrap();
    let effort = Effort { seconds: 0.05, samples: 9, planted: None };
    let report = measured(&device, "mse", effort, &Counted::new(&[1.0, 1.3, 0.9, 1.1, 1.2]));
    for row in &report.ops {
        assert!(row.samples >= 9 && row.samples_s.len() == row.samples, "{row:?}");
        assert_eq!(row.seconds, Quartiles::of(row.samples_s.clone()));
        assert_eq!(row.interval_s, median_interval(&row.samples_s));
        let [low, high] = row.interval_s.unwrap();
        assert!(low < high && low <= row.seconds.median && row.seconds.median <= high, "{row:?}");
        assert_eq!(row.timing.as_deref(), Some("host clock"));
    }
    obeys(&serde_json::to_value(&report).unwrap());
    // Of rounds: the samples are the rounds' medians.
    let mut rounds = vec![report.clone(); 3];
    for (round, seconds) in rounds.iter_mut().zip([2.0, 4.0, 3.0]) {
        let q = Quartiles { q1: seconds, median: seconds, q3: seconds };
        round.ops.iter_mut().for_each(|row| (row.seconds, row.warm_s) = (q, Some(q)));
    }
    let all = Report::of_rounds(&rounds);
    assert_eq!(all.ops[0].samples_s, [2.0, 4.0, 3.0]);
    assert_eq!((all.ops[0].seconds.median, all.ops[0].interval_s), (3.0, Some([2.0, 4.0])));
    assert_eq!(all.ops[0].warm_s.unwrap().median, 3.0);
    // Results of programs that report no samples are read too.
    let mut old = serde_json::to_value(&report).unwrap();
    for row in old["ops"].as_array_mut().unwrap() {
        for key in ["samples_s", "interval_s", "warm_s", "timing"] {
            assert!(row.as_object_mut().unwrap().remove(key).is_some(), "{key}");
        }
    }
    let old = Report::parse(&old.to_string()).unwrap();
    assert_eq!((old.ops[0].samples_s.len(), old.ops[0].interval_s), (0, None));
}

/// Every call takes a millisecond, whatever it does.
struct Constant(Mutex<f64>);

impl Clock for Constant {
    fn now(&self) -> f64 {
        *self.0.lock().unwrap()
    }
    fn time(&self, device: &Device, work: &mut (dyn FnMut() -> Result<()> + Send)) -> Result<f64> {
        device.run(work)?;
        *self.0.lock().unwrap() += 1e-3;
        Ok(1e-3)
    }
}

/// A clock of a device that never moves, beside one of the host that does.
struct Stopped(Mutex<f64>);

impl Clock for Stopped {
    fn now(&self) -> f64 {
        *self.0.lock().unwrap()
    }
    fn time(&self, device: &Device, work: &mut (dyn FnMut() -> Result<()> + Send)) -> Result<f64> {
        *self.0.lock().unwrap() += 1e-3;
        device.run(work).map(|()| 0.0)
    }
}

/// No time can be 0. A file with such a row could not be read again, so the op is listed as not measured.
#[test]
fn ops_that_the_clock_does_not_resolve_are_skipped() {
    let device = Device::open("cpu", 1).unwrap();
    let (effort, clock) = (Effort { seconds: 0.01, samples: 3, planted: None }, Stopped(Mutex::default()));
    let bench = Workbench::new(&device, "device".into(), effort).with_clock(&clock).with_cache_bytes(1 << 16);
    let mut report = Report { devices: vec![bench.entry()], ..Report::begin() };
    let all = ops::plan(&[tiny()], &[32], &|name| name == "mse");
    ops::run(&bench, &all, &mut report, &|| false, &mut |_| ()).unwrap();
    assert!(report.ops.is_empty() && report.skipped.len() == all.len(), "{report:?}");
    let why = &report.skipped[0].why;
    assert!(why.contains("the clock of device does not resolve mse") && why.contains("found: 0 s"), "{why}");
    Report::parse(&serde_json::to_string(&report).unwrap()).unwrap();
}

/// `--samples` is the least number of samples, also if one takes longer than `--seconds`.
#[test]
fn slow_ops_have_as_many_samples_as_asked_for() {
    let device = Device::open("cpu", 1).unwrap();
    let effort = Effort { seconds: 1e-6, samples: 7, planted: None };
    let report = measured(&device, "mse", effort, &Constant(Mutex::default()));
    assert!(report.ops.iter().all(|row| row.samples == 7 && row.samples_s.len() == 7), "{report:?}");
}

/// The number after a word.
fn after(text: &str, word: &str) -> usize {
    let rest = text.split_once(word).unwrap_or_else(|| panic!("no {word:?} in {text:?}")).1;
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// A kernel that takes a few microseconds on a GPU takes as long as its launch if the host launches it. So
/// the runs of a sample are launches of CUDA graphs. The driver's counters show it: more samples launch more
/// graphs, but only one kernel more each (the run before a sample).
#[test]
fn cuda_samples_are_launches_of_graphs() {
    let Some(device) = device("cuda") else { return };
    let Device::Cuda(gpu) = &device else { panic!("another device") };
    // Fixed work and kernels are made before anything is counted.
    let run = |samples: usize| {
        // Longer than one run by this clock, so that all samples are taken; shorter than one sample.
        let effort = Effort { seconds: 1e-3, samples, planted: None };
        let before = gpu.stats();
        let report = measured(&device, "mse", effort, &Constant(Mutex::default()));
        let after = gpu.stats();
        (report, after.captured - before.captured, after.launches - before.launches)
    };
    run(3);
    let (few, graphs, launches) = run(3);
    let (many, more_graphs, more_launches) = run(9);
    let samples = |report: &Report| report.ops.iter().map(|row| row.samples).collect::<Vec<_>>();
    assert_eq!((samples(&few), samples(&many)), (vec![3; few.ops.len()], vec![9; many.ops.len()]));
    for (report, graphs) in [(&few, graphs), (&many, more_graphs)] {
        let mut needed = 0;
        for row in &report.ops {
            let timing = row.timing.as_deref().unwrap();
            let runs = after(timing, "CUDA graphs of ");
            assert!(timing.ends_with("CUDA events") && runs >= 2, "{timing}");
            assert_eq!(row.repeats % runs, 0, "{row:?}");
            needed += row.samples * row.repeats / runs;
            assert!(row.warm_s.is_some());
        }
        assert!(graphs as usize >= needed, "{graphs} graphs, {needed} needed");
    }
    // Six samples more of each pass with cold caches: six runs outside of graphs, of as many kernels as the
    // row says.
    let each: f64 = few.ops.iter().map(|row| row.launches.unwrap()).sum();
    assert_eq!((more_launches - launches) as f64, 6.0 * each);
    assert!(more_graphs > graphs);
}

/// Without CUDA graphs the result says that launches count.
#[test]
fn cuda_without_graphs_says_so() {
    if device("cuda").is_none() {
        return;
    }
    let device = Device::Cuda(Cuda::new(0).unwrap().with_graphs(false));
    let effort = Effort { seconds: 1e-6, samples: 3, planted: None };
    let report = measured(&device, "mse", effort, &Constant(Mutex::default()));
    assert!(
        report.ops.iter().all(|row| row.timing.as_deref() == Some("kernel launches, CUDA events")),
        "{report:?}"
    );
}

/// Captured work runs when its graph is launched, as often as that, and not before.
#[test]
fn cuda_captured_work_runs_when_it_is_launched() {
    let Some(device) = device("cuda") else { return };
    let Device::Cuda(gpu) = &device else { panic!("another device") };
    let x = device.upload(DType::F32, &[4], &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
    let y = device.zeros(DType::F32, &[4]).unwrap();
    let copy = || device.step(&Cast, &[&x, &y]);
    // Loads the kernel.
    copy().unwrap();
    device.zero(&y).unwrap();
    let mut graph = gpu.capture(copy).unwrap().expect("captured");
    assert_eq!(device.read::<f32>(&y).unwrap(), [0.0; 4]);
    gpu.launch_captured(&mut graph).unwrap();
    assert_eq!(device.read::<f32>(&y).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    device.write(&x, &[5.0f32, 6.0, 7.0, 8.0]).unwrap();
    gpu.launch_captured(&mut graph).unwrap();
    assert_eq!(device.read::<f32>(&y).unwrap(), [5.0, 6.0, 7.0, 8.0]);
    // The host's writes cannot be captured; the work then runs as before.
    assert!(gpu.capture(|| device.write(&x, &[0.0f32; 4])).unwrap().is_none());
    assert!(gpu.capture(|| Err(tempra::error::Error::shape("no"))).unwrap().is_none());
    copy().unwrap();
    assert_eq!(device.read::<f32>(&y).unwrap(), [5.0, 6.0, 7.0, 8.0]);
    // Temporary memory that was returned to the driver is not used again.
    let mut graph = gpu
        .capture(|| {
            let t = device.alloc(Spec::new(DType::F32, &[4]))?;
            device.step(&Cast, &[&x, &t])?;
            device.step(&Cast, &[&t, &y])
        })
        .unwrap()
        .expect("captured");
    gpu.launch_captured(&mut graph).unwrap();
    device.trim().unwrap();
    assert_eq!(gpu.launch_captured(&mut graph).unwrap_err().kind(), Kind::Shape);
    gpu.release(vec![graph]).unwrap();
}

/// wgpu submits the runs of a sample as one command buffer.
#[test]
fn wgpu_samples_are_one_command_buffer() {
    let Some(device) = device("wgpu") else { return };
    let Device::Wgpu(gpu) = &device else { panic!("another device") };
    let all = jobs("mse", &tiny(), 32);
    let bench = Workbench::new(&device, "wgpu".into(), Effort::default()).with_cache_bytes(1 << 16);
    let ready = bench.ready(&all[0]).unwrap();
    bench.warm(&ready).unwrap();
    for (runs, buffers) in [(1, 1), (64, 1), (65, 2)] {
        let before = gpu.stats().submissions;
        bench.timed(&ready, ready.passes()[1], 0..runs).unwrap();
        assert_eq!(gpu.stats().submissions - before, buffers, "{runs} runs");
    }
    let effort = Effort { seconds: 1e-6, samples: 3, planted: None };
    let report = measured(&device, "mse", effort, &Constant(Mutex::default()));
    assert!(report.ops.iter().all(|row| row.timing.as_deref().unwrap().starts_with("one command buffer")));
}

/// The emulated GPU tells a cache of 64 KiB, two multiprocessors of compute capability 9.0 at 1 GHz (128
/// multiply-adds each), and memory of 2 GHz with a bus of 256 bits: 2 x 1e9 x 128 x 2 = 512 GFLOP/s and 2 x
/// 2e9 x 256 / 8 = 128 GB/s.
#[test]
fn cuda_tells_its_cache_and_its_peak() {
    let Some(Device::Cuda(gpu)) = device("cuda") else { return };
    use tempra::device::Backend;
    if !gpu.caps().name.contains("emulator") {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let args = ["bench", "ops", "--device", "cuda", "--op", "mse", "--tokens", "32", "--seconds", "0.001"];
    let model = golden("bert/a");
    let args = [&args[..], &["--shape-of", model.to_str().unwrap(), "--samples", "3", "--json"]].concat();
    let value =
        json(&program(cache.path(), &args, &[QUICK, ("EMULATOR_L2", "65536"), ("EMULATOR_SM", "90")]));
    let entry = &value["devices"][0];
    assert_eq!(entry["cache_bytes"], 65536);
    assert!(!entry["cache_source"].as_str().unwrap().contains("assumed"), "{entry}");
    let peak = &entry["ceilings"]["nameplate"];
    assert_eq!(
        (peak["copy_bytes_per_s"].as_f64(), peak["matmul_flops_per_s"].as_f64()),
        (Some(1.28e11), Some(5.12e11))
    );
    assert_eq!(entry["ceilings"]["copy_by"], "copy kernel");
    assert_eq!(value["ops"][0]["warm_s"]["median"].as_f64().map(|s| s > 0.0), Some(true));
}

#[test]
fn devices_without_a_query_say_that_the_cache_is_assumed() {
    let Some(device) = device("wgpu") else { return };
    let entry = Workbench::new(&device, "wgpu".into(), Effort::default()).entry();
    let Device::Wgpu(gpu) = &device else { panic!("another device") };
    // A software driver runs on the CPU, whose caches the system tells.
    assert_eq!(entry.cache_source.unwrap().starts_with("assumed"), !gpu.abilities().software);
}

#[test]
fn seconds_that_are_no_time_are_refused() {
    let cache = tempfile::tempdir().unwrap();
    for seconds in ["0", "-1", "-0.5", "nan", "inf", "3601", "soon", "1e-400"] {
        for command in [&["bench"][..], &["bench", "ops"], &["bench", "step"], &["bench", "compare"]] {
            let argument = format!("--seconds={seconds}");
            let output =
                program(cache.path(), &[command, &[&argument, "--device", "cpu"]].concat(), &[QUICK]);
            assert_eq!(output.status.code(), Some(2), "{command:?} {seconds}");
            let text = stderr(&output);
            assert!(text.contains("above 0 and at most 3600") && text.contains(seconds), "{text}");
        }
    }
}

/// A model of 40 KiB has a peak memory of a few MiB. The fixed work alone holds more than 32 MiB, the copies
/// of the ceilings as much.
#[test]
fn peak_memory_of_a_step_is_without_what_the_benchmark_holds() {
    let cache = tempfile::tempdir().unwrap();
    let model = golden("bert/a");
    let args =
        ["bench", "step", "--device", "cpu", "--threads", "1", "--no-sweep", "--json", "--samples", "3"];
    let args = [&args[..], &["--seconds", "0.001", "--length", "16", "--sequences", "2"]].concat();
    let value = json(&program(
        cache.path(),
        &[&args[..], &["--shape-of", model.to_str().unwrap()]].concat(),
        &[QUICK],
    ));
    let report = Report::parse(&value.to_string()).unwrap();
    assert_eq!(report.steps.len(), 3);
    for StepRow { peak_bytes, part, samples_s, samples, timing, interval_s, .. } in &report.steps {
        if cfg!(target_os = "linux") {
            assert!(peak_bytes.unwrap() < 24 << 20, "{part}: {peak_bytes:?}");
        }
        assert!(samples_s.len() == *samples && interval_s.is_some() && timing.is_some(), "{part}");
    }
}

/// Ceilings are stored with the conditions of their measurement, and `devices` shows them. Those of a quick
/// test are not stored.
#[test]
fn ceilings_are_stored_with_date_and_conditions() {
    let cache = tempfile::tempdir().unwrap();
    let bench =
        ["bench", "ops", "--device", "cpu", "--op", "mse", "--tokens", "256", "--seconds", "0.001", "--json"];
    let shown =
        || json(&program(cache.path(), &["devices", "--json"], &[]))["devices"][0]["ceilings"].clone();
    json(&program(cache.path(), &bench, &[QUICK]));
    assert_eq!(shown(), serde_json::json!({}));
    let report = json(&program(cache.path(), &bench, &[]));
    let stored = &shown()["f32"];
    let measured = &report["devices"][0]["ceilings"];
    for key in ["copy_bytes_per_s", "matmul_flops_per_s", "how", "drift", "nameplate"] {
        assert_eq!(stored[key], measured[key], "{key}");
    }
    assert_eq!(
        (&stored["measured"], &stored["load"]),
        (&report["begun"], &report["devices"][0]["machine"]["load_before"])
    );
    assert_eq!(stored["tool"], report["devices"][0]["tool"]);
    assert!(stored["how"].as_str().unwrap().contains("effort: 9 samples"), "{stored}");
    assert!(report["devices"][0]["ceilings"]["drift"].is_array());
    let output = program(cache.path(), &["devices"], &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    let day =
        text.lines().find_map(|line| line.trim().strip_prefix("on 20")).unwrap_or_else(|| panic!("{text}"));
    assert!(day.contains("by tempra") && day.as_bytes()[2] == b'-', "{text}");
}
