//! `tempra bench`: what results say, and what they refuse.

use crate::bench_compare::pair_of;
use crate::schema::obeys;
use crate::support::{device, golden};
use serde_json::Value;
use std::process::Command;
use std::sync::Mutex;
use tempra::bench::report::{Ceilings, DeviceEntry, OpRow, Report};
use tempra::bench::{Clock, Effort, ModelShape, SystemClock, Verdict, Workbench, compare, jobs, ops, page};
use tempra::device::Device;
use tempra::error::Result;
use tempra::ops::OPS;

const T: usize = 256;

/// What a run of the program left. Its cache is a folder of its own.
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub fn run(args: &[&str]) -> Run {
    run_with(args, None)
}

/// With `env`, also an empty one, under the loader of the software driver or of the emulator, where tests run
/// under one.
pub fn run_with(args: &[&str], env: Option<&[(&str, &str)]>) -> Run {
    let cache = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_tempra");
    let mut command = match std::env::var_os("TEMPRA_RUNNER").filter(|_| env.is_some()) {
        Some(runner) => Command::new(runner),
        None => Command::new(program),
    };
    if command.get_program() != program {
        command.arg(program);
    }
    command
        .args(args)
        .envs(env.into_iter().flatten().copied())
        .env("TEMPRA_CACHE", cache.path())
        .env("HF_HUB_CACHE", cache.path())
        .env("TEMPRA_BENCH_QUICK_CEILINGS", "1")
        .env("HF_HUB_OFFLINE", "1");
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// all-MiniLM-L6-v2 has 22,713,216 parameters with its pooler, BERT-base 109,482,240 and BERT-large
/// 335,141,888 (their model cards and `model.num_parameters()`); the pooler is a square matrix and a bias.
#[test]
fn shapes_have_the_parameters_of_their_models() {
    let truth = [22_713_216, 109_482_240, 335_141_888];
    for (m, truth) in ModelShape::known().iter().zip(truth) {
        assert_eq!(m.parameters() + m.hidden * m.hidden + m.hidden, truth, "{}", m.name);
    }
}

#[test]
fn every_op_has_shapes_of_real_models() {
    for m in ModelShape::known() {
        for (op, _) in OPS {
            assert!(!jobs(op, &m, T).is_empty(), "{op} has no job in src/bench/shapes/models.rs");
            for tokens in [1, 100, 32768] {
                assert!(jobs(op, &m, tokens).iter().all(|j| j.op == *op), "{op}");
            }
        }
    }
}

/// A model small enough to be measured in a test.
fn tiny() -> ModelShape {
    let name = "tiny".to_owned();
    ModelShape { name, hidden: 64, layers: 1, heads: 2, intermediate: 128, vocab: 512, positions: 128 }
}

/// A clock that counts work: a nanosecond for each operation and byte that the ops count, at a speed. The
/// fixed work between the measurements has no ops and takes 0.1 ms at speed 1.
pub struct CountedWork {
    speed: f64,
    now: Mutex<f64>,
}

impl CountedWork {
    pub fn at_speed(speed: f64) -> CountedWork {
        CountedWork { speed, now: Mutex::new(0.0) }
    }
}

impl Clock for CountedWork {
    fn now(&self) -> f64 {
        *self.now.lock().unwrap()
    }
    fn time(&self, device: &Device, work: &mut (dyn FnMut() -> Result<()> + Send)) -> Result<f64> {
        let ((), ops) = device.profiled(|| device.run(work))?;
        let counted: f64 = ops.iter().map(|t| 1e-9 * (t.flops + t.bytes)).sum();
        let seconds = if ops.is_empty() { 1e-4 } else { counted } / self.speed;
        *self.now.lock().unwrap() += seconds;
        Ok(seconds)
    }
}

pub fn measured(id: &str, wanted: &str, clock: &dyn Clock) -> Report {
    measured_for(0.0, id, wanted, None, clock)
}

fn measured_for(
    seconds: f64,
    id: &str,
    wanted: &str,
    planted: Option<(String, usize)>,
    clock: &dyn Clock,
) -> Report {
    let device = Device::open("cpu", 1).unwrap();
    let effort = Effort { seconds, samples: 5, planted };
    // A small cache: less memory to touch before anything is measured.
    let bench = Workbench::new(&device, id.to_owned(), effort).with_clock(clock).with_cache_bytes(1 << 20);
    let mut report = Report::begin();
    let pace = Some(bench.pace().unwrap().how(&device));
    report.devices.push(DeviceEntry { pace, ..bench.entry() });
    let jobs = ops::plan(&[tiny()], &[T], &|op| wanted == "*" || op == wanted);
    ops::run(&bench, &jobs, &mut report, &|| false, &mut |_| ()).unwrap();
    report
}

#[test]
fn every_op_is_measured_and_the_result_reads_back() {
    let report = measured("cpu", "*", &SystemClock);
    assert_eq!(report.skipped, []);
    for (op, _) in OPS {
        let rows: Vec<&OpRow> = report.ops.iter().filter(|r| r.op == *op).collect();
        assert!(!rows.is_empty(), "{op}");
        for r in rows {
            let q = r.seconds;
            assert!(q.q1 > 0.0 && q.q1 <= q.median && q.median <= q.q3 && r.samples >= 3, "{op}: {q:?}");
            assert!(r.flops >= 0.0 && r.bytes >= 0.0, "{op}");
            assert!(r.pace.is_some_and(|p| p[0] > 0.0 && p[1] > 0.0), "{op}: {:?}", r.pace);
        }
    }
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(Report::parse(&text).unwrap(), report);
    obeys(&serde_json::from_str(&text).unwrap());
    let page = page::page(&report, &[]);
    assert!(page.contains("\"schema\":2") && !page.contains("/*DATA*/null"));
    assert!(!page.contains("http://") || page.matches("http://").count() == 1, "only the name of SVG");
    assert!(!page.contains("https://"));
}

/// A kernel that does three times the work shows as three times as slow, also on a machine that has become
/// slower meanwhile; a slower machine alone shows as nothing. Time is counted work, so the factor is exact.
#[test]
fn a_kernel_made_slower_by_a_known_factor_shows_that_factor() {
    for op in ["add_norm", "mse"] {
        let base = measured("base", op, &CountedWork::at_speed(1.0));
        let compared = |times: usize, speed: f64| {
            let planted = (op.to_owned(), times);
            let other = measured_for(0.0, "other", op, Some(planted), &CountedWork::at_speed(speed));
            let both = Report::merge(vec![("a".into(), base.clone()), ("b".into(), other)]);
            compare(&both).unwrap().remove(0)
        };
        for (times, speed, verdict) in [
            (3, 1.0, Verdict::Slower),
            (3, 0.8, Verdict::Slower),
            (1, 1.0, Verdict::Same),
            (1, 0.8, Verdict::CannotTell),
        ] {
            let found = compared(times, speed);
            let ratio = speed / times as f64;
            assert!((found.speedup.value / ratio - 1.0).abs() < 1e-9, "{op} x {times}: {:?}", found.speedup);
            assert!((found.pace.unwrap() - speed).abs() < 1e-9, "{op} x {times}: {:?}", found.pace);
            assert!(found.pairs.iter().all(|p| (p.speedup.value / ratio - 1.0).abs() < 1e-9));
            assert_eq!(found.verdict, verdict, "{op} x {times} at {speed}: {:?}", found.speedup);
        }
    }
}

/// Long work is measured as often as the effort demands, short work as often as the time allows; each op runs
/// once on every set before.
#[test]
fn measurements_fill_the_time_that_was_granted() {
    let slow = measured_for(0.05, "slow", "mse", None, &CountedWork::at_speed(1e-7));
    assert!(slow.ops.iter().all(|r| r.samples == 5 && r.repeats == 1), "{:?}", slow.ops);
    let fast = measured_for(0.05, "fast", "mse", None, &CountedWork::at_speed(1.0));
    for row in &fast.ops {
        let spent = row.samples as f64 * (row.repeats as f64 * row.seconds.median + 1e-4);
        assert!(row.samples >= 5 && spent < 0.05 + 0.01, "{spent}: {row:?}");
    }
}

#[test]
fn percent_is_of_the_lower_ceiling() {
    let mut report = pair_of(&[1.0], 0.0);
    for (r, beyond) in report.ops.iter_mut().zip([true, false]) {
        (r.flops, r.bytes, r.beyond_cache) = (4e8, 1e6, beyond);
    }
    let ceilings = |scale: f64| Ceilings {
        copy_bytes_per_s: 1e10 * scale,
        matmul_flops_per_s: 1e12 * scale,
        copy_samples_bytes_per_s: vec![1e10 * scale; 3],
        matmul_samples_flops_per_s: vec![1e12 * scale; 3],
        ..Ceilings::default()
    };
    report.judge("a", ceilings(0.75), Some(ceilings(1.25)));
    report.judge("b", ceilings(1.0), None);
    // A millisecond, of which the product needs 0.4 and the copy 0.1.
    assert_eq!(report.ops[0].bound.as_deref(), Some("matmul"));
    assert!((report.ops[0].percent.unwrap() - 40.0).abs() < 1e-9);
    assert_eq!(report.devices[0].ceilings.as_ref().unwrap().drift, Some([1.25 / 0.75; 2]));
    assert_eq!(report.ops[1].percent, None);
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is() {
    for (args, code, words) in [
        (vec!["ops", "--op", "atention"], 2, "did you mean \"attention\""),
        (vec!["ops", "--device", "cdua"], 2, "did you mean \"cuda\""),
        (vec!["ops", "--device", "cpu,cpu"], 2, "named twice"),
        (vec!["ops", "--shape-of", "bert-bsae"], 2, "did you mean \"bert-base\""),
        (vec!["step", "--length", "0"], 2, "length"),
    ] {
        let run = run(&[&["bench"], args.as_slice()].concat());
        assert_eq!(run.code, code, "{args:?}: {}", run.err);
        assert!(run.err.contains(words), "{args:?}: {}", run.err);
    }
}

#[test]
fn the_program_measures_ops() {
    let Run { code, out, err } = run(&[
        "bench",
        "ops",
        "--op",
        "ms*",
        "--tokens",
        "256",
        "--seconds",
        "0.01",
        "--json",
        "--threads",
        "1",
    ]);
    assert_eq!(code, 0, "{err}");
    let value: Value = serde_json::from_str(&out).unwrap();
    obeys(&value);
    let report = Report::parse(&out).unwrap();
    assert!(report.complete && report.ops.iter().all(|o| o.op == "mse") && report.ops.len() == 2);
    assert!(report.devices[0].ceilings.as_ref().is_some_and(|c| c.drift.is_some()));
}

/// A device that is lost while it is measured: what was measured before is said, as a result that says that
/// it is not whole.
fn lost_while_measured(kind: &str, fault: (&str, &str)) -> Option<Vec<String>> {
    device(kind)?;
    let model = golden("bert/a");
    let model = model.to_str().unwrap();
    let args = [
        "bench",
        "--device",
        kind,
        "--shape-of",
        model,
        "--op",
        "dropout",
        "--tokens",
        "16",
        "--length",
        "16",
        "--sequences",
        "2",
        "--repeats",
        "2",
        "--no-sweep",
        "--seconds",
        "0.001",
        "--samples",
        "3",
        "--json",
    ];
    // A GPU with little memory: the emulator copies slowly.
    let Run { code, out, err } = run_with(&args, Some(&[fault, ("EMULATOR_MEMORY", "134217728")]));
    assert_eq!(code, 75, "{err}");
    assert!(err.contains("lost") && err.contains("the measurements made before"), "{err}");
    let report = Report::parse(&out).unwrap();
    obeys(&serde_json::from_str(&out).unwrap());
    assert!(!report.complete && report.stopped.as_deref().is_some_and(|s| s.starts_with(kind)), "{report:?}");
    assert_eq!(report.ops.len(), 2, "both passes were measured before: {err}");
    assert!(report.skipped.iter().any(|s| s.device == kind && s.what == "all further measurements"));
    let parts: Vec<&str> = report.steps.iter().map(|s| s.part.as_str()).collect();
    assert!(parts.len() < 3, "{parts:?}");
    Some(args.into_iter().map(str::to_owned).collect())
}

#[test]
fn cuda_lost_while_measured_leaves_what_was_measured() {
    lost_while_measured("cuda", ("TEMPRA_CUDA_LOSE_AFTER", "3"));
}

#[test]
fn wgpu_lost_while_measured_leaves_what_was_measured() {
    let Some(args) = lost_while_measured("wgpu", ("TEMPRA_WGPU_LOSE_AFTER", "240")) else { return };
    // Without the fault the same command ends well.
    let whole = run_with(&args.iter().map(String::as_str).collect::<Vec<_>>(), Some(&[]));
    assert_eq!(whole.code, 0, "{}", whole.err);
    let report = Report::parse(&whole.out).unwrap();
    assert!(report.complete && report.steps.len() == 3 && report.stopped.is_none());
}

/// An op that is planted to run three times does so: the program's report says it.
#[test]
fn a_planted_op_is_named_in_the_report() {
    let args = [
        "bench",
        "ops",
        "--op",
        "cross_entropy",
        "--tokens",
        "256",
        "--seconds",
        "0.001",
        "--samples",
        "1",
        "--json",
    ];
    let Run { code, out, err } = run_with(&args, Some(&[("TEMPRA_BENCH_PLANT", "cross_entropy:3")]));
    assert_eq!(code, 0, "{err}");
    let report = Report::parse(&out).unwrap();
    assert!(
        report.devices[0].tool.ends_with("cross_entropy slowed down 3 times"),
        "{}",
        report.devices[0].tool
    );
}
