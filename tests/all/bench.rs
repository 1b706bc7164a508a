//! `tempra bench`: what results say, and what they refuse.

use crate::schema::obeys;
use crate::support::{device, golden};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use tempra::bench::compare::Pair;
use tempra::bench::report::{Ceilings, DeviceEntry, OpRow, Phase, Report};
use tempra::bench::{
    Clock, Effort, ModelShape, Quartiles, SystemClock, Verdict, Workbench, compare, jobs, ops, page,
};
use tempra::device::Device;
use tempra::error::{Kind, Result};
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

/// With `env`, also an empty one, under the loader of the software driver or of the emulator, where tests run under one.
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

/// all-MiniLM-L6-v2 has 22,713,216 parameters with its pooler, BERT-base 109,482,240 and BERT-large 335,141,888 (their model
/// cards and `model.num_parameters()`); the pooler is a square matrix and a bias.
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

fn entry(id: &str) -> DeviceEntry {
    DeviceEntry { id: id.to_owned(), tool: "t".into(), description: "d".into(), ..DeviceEntry::default() }
}

/// A clock that counts work: a nanosecond for each operation and byte that the ops count, at a speed. The fixed work between
/// the measurements has no ops and takes 0.1 ms at speed 1.
struct CountedWork {
    speed: f64,
    now: Mutex<f64>,
}

impl CountedWork {
    fn at_speed(speed: f64) -> CountedWork {
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

fn measured(id: &str, wanted: &str, clock: &dyn Clock) -> Report {
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

/// A kernel that does three times the work shows as three times as slow, also on a machine that has become slower meanwhile;
/// a slower machine alone shows as nothing. Time is counted work, so the factor is exact.
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
            assert!((found.median[0] / ratio - 1.0).abs() < 1e-9, "{op} x {times}: {:?}", found.median);
            assert!((found.pace.unwrap() - speed).abs() < 1e-9, "{op} x {times}: {:?}", found.pace);
            assert!(found.pairs.iter().all(|p| (p.ratio / ratio - 1.0).abs() < 1e-9));
            assert_eq!(found.verdict, verdict, "{op} x {times} at {speed}: {:?}", found.median);
        }
    }
}

/// Long work is measured at least three times, short work as often as the time allows; each op runs once on every set before.
#[test]
fn measurements_fill_the_time_that_was_granted() {
    let slow = measured_for(0.05, "slow", "mse", None, &CountedWork::at_speed(1e-7));
    assert!(slow.ops.iter().all(|r| r.samples == 3 && r.repeats == 1), "{:?}", slow.ops);
    let fast = measured_for(0.05, "fast", "mse", None, &CountedWork::at_speed(1.0));
    for row in &fast.ops {
        let spent = row.samples as f64 * (row.repeats as f64 * row.seconds.median + 1e-4);
        assert!(row.samples >= 5 && spent < 0.05 + 0.01, "{spent}: {row:?}");
    }
}

/// Rows of two devices whose times stand in a ratio, each with a relative spread.
fn pair_of(ratios: &[f64], spread: f64) -> Report {
    let mut report =
        Report { schema: 2, complete: true, devices: vec![entry("a"), entry("b")], ..Report::default() };
    for (i, ratio) in ratios.iter().enumerate() {
        for (id, median) in [("a", 1e-3), ("b", 1e-3 / ratio)] {
            let seconds =
                Quartiles { q1: median * (1.0 - spread / 2.0), median, q3: median * (1.0 + spread / 2.0) };
            report.ops.push(OpRow {
                device: id.into(),
                op: format!("op{i}"),
                pass: Phase::Forward,
                seconds,
                samples: 25,
                ..OpRow::default()
            });
        }
    }
    report
}

#[test]
fn verdicts_know_when_they_cannot_tell() {
    let verdicts = |ratio: f64, spread: f64| -> Verdict {
        let all = compare(&pair_of(&[ratio], spread)).unwrap();
        let p: &Pair = &all[0].pairs[0];
        assert!((p.ratio / ratio - 1.0).abs() < 1e-12);
        p.verdict
    };
    assert_eq!(verdicts(1.01, 0.02), Verdict::Same);
    assert_eq!(verdicts(1.2, 0.02), Verdict::Faster);
    assert_eq!(verdicts(0.8, 0.02), Verdict::Slower);
    // 1.57 x 0.5 / 5 x 1.16, twice: 0.26.
    assert_eq!(verdicts(0.85, 0.5), Verdict::CannotTell);
    assert_eq!(verdicts(0.5, 0.5), Verdict::Slower);
    // Of many the middle counts; scattered on both sides of 1, nothing can be told.
    let scattered: Vec<f64> = (0..9).map(|i| 0.7 + 0.09 * i as f64).collect();
    assert_eq!(compare(&pair_of(&scattered, 0.01)).unwrap()[0].verdict, Verdict::CannotTell);
    assert_eq!(compare(&pair_of(&[1.01; 20], 0.01)).unwrap()[0].verdict, Verdict::Same);
    assert_eq!(compare(&pair_of(&[0.9; 20], 0.01)).unwrap()[0].verdict, Verdict::Slower);
    // Fixed work between the measurements: when it took a quarter longer as well, a ratio of 0.8 says nothing, nor does one of 1;
    // two fifths of the speed is slower still.
    let paced = |ratio: f64, pace: f64| {
        let mut r = pair_of(&[ratio; 20], 0.01);
        r.devices.iter_mut().for_each(|d| d.pace = Some("fixed".into()));
        for row in &mut r.ops {
            let by = if row.device == "a" { 1.0 } else { pace };
            row.pace = Some([2e-4, 1e-4 / by]);
        }
        r
    };
    let verdict = |r: &Report| {
        let found = compare(r).unwrap().remove(0);
        (found.verdict, found.pairs[0].verdict)
    };
    assert_eq!(verdict(&paced(0.8, 1.0)), (Verdict::Slower, Verdict::Slower));
    assert_eq!(verdict(&paced(0.8, 0.8)), (Verdict::CannotTell, Verdict::CannotTell));
    assert_eq!(verdict(&paced(1.0, 0.8)), (Verdict::CannotTell, Verdict::CannotTell));
    assert_eq!(verdict(&paced(0.4, 0.8)), (Verdict::Slower, Verdict::Slower));
    assert!((compare(&paced(0.8, 0.8)).unwrap()[0].pace.unwrap() - 0.8).abs() < 1e-12);
    // Of other fixed work nothing follows.
    let mut other = paced(0.8, 0.8);
    other.devices[1].pace = Some("something else".into());
    assert_eq!(verdict(&other), (Verdict::Slower, Verdict::Slower));
    // The machine itself became slower: what looks like a result is none.
    let mut moved = pair_of(&[0.8; 20], 0.01);
    for (d, rate) in moved.devices.iter_mut().zip([1e12, 0.8e12]) {
        let drift = Some([1.0; 2]);
        let c = Ceilings { copy_bytes_per_s: 1e10, product_flops_per_s: rate, drift, ..Ceilings::default() };
        d.ceilings = Some(c);
    }
    let found = &compare(&moved).unwrap()[0];
    assert_eq!(found.verdict, Verdict::CannotTell);
    assert!(found.doubt.as_deref().is_some_and(|d| d.contains("-20 %")), "{:?}", found.doubt);
}

/// Of rounds the median counts; how much they differ is the spread, and the pace within each is no longer of interest.
#[test]
fn rounds_become_one_result() {
    let round = |ratio: f64| {
        let mut r = pair_of(&[ratio], 0.0);
        r.ops.iter_mut().for_each(|o| o.pace = Some([1e-4; 2]));
        r.devices.iter_mut().for_each(|d| d.pace = Some("fixed".into()));
        r
    };
    let rounds: Vec<Report> = [0.5, 0.8, 1.0, 0.9, 2.0].map(round).to_vec();
    let all = Report::of_rounds(&rounds);
    let (same, other) = (&all.ops[0], &all.ops[1]);
    assert_eq!((same.samples, same.pace, all.devices[0].pace.as_deref()), (5, None, None));
    assert_eq!(same.seconds, Quartiles { q1: 1e-3, median: 1e-3, q3: 1e-3 });
    let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-12;
    assert!(near(other.seconds.median, 1e-3 / 0.9), "{:?}", other.seconds);
    assert!(near(other.seconds.q1, 1e-3) && near(other.seconds.q3, 1e-3 / 0.8), "{:?}", other.seconds);
}

#[test]
fn percent_is_of_the_lower_ceiling() {
    let mut report = pair_of(&[1.0], 0.0);
    for (r, beyond) in report.ops.iter_mut().zip([true, false]) {
        (r.flops, r.bytes, r.beyond_cache) = (4e8, 1e6, beyond);
    }
    let ceilings = |scale: f64| Ceilings {
        copy_bytes_per_s: 1e10 * scale,
        product_flops_per_s: 1e12 * scale,
        copy_samples_bytes_per_s: vec![1e10 * scale; 3],
        product_samples_flops_per_s: vec![1e12 * scale; 3],
        ..Ceilings::default()
    };
    report.judge("a", ceilings(0.75), Some(ceilings(1.25)));
    report.judge("b", ceilings(1.0), None);
    // A millisecond, of which the product needs 0.4 and the copy 0.1.
    assert_eq!(report.ops[0].bound.as_deref(), Some("product"));
    assert!((report.ops[0].percent.unwrap() - 40.0).abs() < 1e-9);
    assert_eq!(report.devices[0].ceilings.as_ref().unwrap().drift, Some([1.25 / 0.75; 2]));
    assert_eq!(report.ops[1].percent, None);
}

#[test]
fn results_of_another_kind_are_refused() {
    let refused = |text: &str, word: &str| {
        let e = Report::parse(text).unwrap_err();
        assert_eq!(e.kind(), Kind::Data);
        assert!(e.to_string().contains(word), "{e}");
    };
    refused("{}", "no key `schema`");
    refused("{\"schema\": 3}", "\"schema\": 3");
    refused("{\"schema\": 2}", "missing field");
    refused("[1", "line 1");
    let mut lost = pair_of(&[1.0], 0.0);
    lost.ops[0].device = "elsewhere".into();
    refused(&serde_json::to_string(&lost).unwrap(), "elsewhere");
    let alone = measured("cpu", "mse", &CountedWork::at_speed(1.0));
    assert_eq!(compare(&alone).unwrap_err().kind(), Kind::Data);
}

fn save(dir: &Path, name: &str, report: &Report) -> String {
    let path = dir.join(name);
    std::fs::write(&path, serde_json::to_string(report).unwrap()).unwrap();
    path.to_string_lossy().into_owned()
}

#[test]
fn the_program_compares_and_fails_under_a_ratio() {
    let dir = tempfile::tempdir().unwrap();
    let one = |times: f64| {
        let mut r = pair_of(&[1.0; 8], 0.01);
        r.devices.truncate(1);
        r.ops.retain(|o| o.device == "a");
        r.ops.iter_mut().for_each(|o| {
            let q = o.seconds;
            o.seconds = Quartiles { q1: q.q1 * times, median: q.median * times, q3: q.q3 * times };
        });
        r
    };
    let (base, slow) =
        (save(dir.path(), "monday.json", &one(1.0)), save(dir.path(), "today.json", &one(1.25)));
    let Run { code, out, err } = run(&["bench", "compare", &base, &slow, "--fail-under", "0.9"]);
    assert_eq!(code, 1, "{err}");
    assert!(out.contains("a (today) compared with a (monday)") && out.contains("0.800"), "{out}");
    assert!(err.contains("below --fail-under 0.9"), "{err}");
    assert_eq!(run(&["bench", "compare", &base, &slow, "--fail-under", "0.75"]).code, 0);
    let page = dir.path().join("page.html");
    let Run { code, out, .. } =
        run(&["bench", "compare", &base, &base, "--json", "--html", &page.to_string_lossy()]);
    assert_eq!(code, 0);
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["comparisons"][0]["verdict"], "same");
    assert!(page.is_file());
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is() {
    for (args, code, words) in [
        (vec!["ops", "--op", "atention"], 2, "did you mean \"attention\""),
        (vec!["ops", "--device", "cdua"], 2, "did you mean \"cuda\""),
        (vec!["ops", "--device", "cpu,cpu"], 2, "named twice"),
        (vec!["ops", "--shape-of", "bert-bsae"], 2, "did you mean \"bert-base\""),
        (vec!["ops", "--dtype", "f16"], 5, "cannot compute in f16"),
        (vec!["step", "--length", "0"], 2, "length"),
        (vec!["compare"], 2, "nothing to compare"),
        (vec!["compare", "/nowhere.json", "/there.json"], 3, "cannot read the result"),
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
        "m*",
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

/// A device that is lost while it is measured: what was measured before is said, as a result that says that it is not whole.
fn lost_in_the_middle(kind: &str, fault: (&str, &str)) -> Option<Vec<String>> {
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
    // A card with little memory: the emulator copies slowly.
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
fn cuda_lost_in_the_middle_leaves_what_was_measured() {
    lost_in_the_middle("cuda", ("TEMPRA_CUDA_LOSE_AFTER", "3"));
}

#[test]
fn wgpu_lost_in_the_middle_leaves_what_was_measured() {
    let Some(args) = lost_in_the_middle("wgpu", ("TEMPRA_WGPU_LOSE_AFTER", "240")) else { return };
    // Without the fault the same command ends well.
    let whole = run_with(&args.iter().map(String::as_str).collect::<Vec<_>>(), Some(&[]));
    assert_eq!(whole.code, 0, "{}", whole.err);
    let report = Report::parse(&whole.out).unwrap();
    assert!(report.complete && report.steps.len() == 3 && report.stopped.is_none());
}

/// Another program and this one, in turns. The other one counts its runs and reports a time that no machine needs, so the ratio
/// is clear whatever else the machine does; which op is how much slower is tested with a counted clock above.
#[cfg(unix)]
#[test]
fn two_programs_measure_in_turns() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let args = ["--op", "cross_entropy", "--tokens", "256", "--seconds", "0.001"];
    let Run { code, out, err } =
        run(&[&["bench", "ops", "--json", "-q", "--samples", "1"], &args[..]].concat());
    assert_eq!(code, 0, "{err}");
    let mut report = Report::parse(&out).unwrap();
    for row in &mut report.ops {
        row.seconds = Quartiles { q1: 1e6, median: 1e6, q3: 1e6 };
    }
    let report = save(dir.path(), "report.json", &report);
    let (other, log) = (dir.path().join("other"), dir.path().join("log"));
    let script = format!("#!/bin/sh\necho \"$@\" >> '{}'\ncat '{report}'\n", log.display());
    std::fs::write(&other, script).unwrap();
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o755)).unwrap();
    let against = |program: &str| {
        let all =
            ["bench", "compare", "--against", program, "--rounds", "3", "--json", "-q", "--samples", "1"];
        run(&[&all[..], &args[..]].concat())
    };
    let Run { code, out, err } = against(&other.to_string_lossy());
    assert_eq!(code, 0, "{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    let found = &found["comparisons"][0];
    assert_eq!(found["pairs"].as_array().unwrap().len(), 4);
    assert!(found["pairs"].as_array().unwrap().iter().all(|p| p["seconds"][0] == 1e6), "{found}");
    assert!(found["median"][0].as_f64().unwrap() > 1e3, "{found}");
    let calls = std::fs::read_to_string(&log).unwrap();
    assert_eq!(calls.lines().count(), 3, "{calls}");
    assert!(
        calls.lines().all(|l| l.starts_with("bench ops --json") && l.contains("cross_entropy")),
        "{calls}"
    );
    for (program, word) in
        [("/nowhere/tempra", "cannot start the program"), ("/bin/false", "failed to measure")]
    {
        let Run { code, err, .. } = against(program);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(word), "{err}");
    }
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
