//! `tempra bench compare`: verdicts, intervals, the gate, and two builds in alternating rounds.

use crate::bench::{Run, run};
use serde_json::{Value, json};
use std::path::Path;
use tempra::bench::compare::{SpeedGate, Verdict};
use tempra::bench::report::{Ceilings, DeviceEntry, LengthSummary, Machine, OpRow, Phase, Report, StepRow};
use tempra::bench::{Comparison, Quartiles, compare, markdown};

pub fn entry(id: &str) -> DeviceEntry {
    DeviceEntry { id: id.to_owned(), tool: "t".into(), description: "d".into(), ..DeviceEntry::default() }
}

/// Rows of two devices whose times stand in a ratio, each with a relative spread.
pub fn pair_of(ratios: &[f64], spread: f64) -> Report {
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
        let p = &all[0].pairs[0];
        assert!((p.speedup.value / ratio - 1.0).abs() < 1e-12);
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
    // Fixed work between the measurements: when it took a quarter longer as well, a ratio of 0.8 says
    // nothing, nor does one of 1; two fifths of the speed is slower still.
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
        let c = Ceilings { copy_bytes_per_s: 1e10, matmul_flops_per_s: rate, drift, ..Ceilings::default() };
        d.ceilings = Some(c);
    }
    let found = &compare(&moved).unwrap()[0];
    assert_eq!(found.verdict, Verdict::CannotTell);
    assert!(found.doubt.as_deref().is_some_and(|d| d.contains("-20 %")), "{:?}", found.doubt);
}

/// Of rounds the median counts; how much they differ is the spread, and the pace within each is no longer of
/// interest.
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

pub fn save(dir: &Path, name: &str, report: &Report) -> String {
    write(dir, name, &serde_json::to_string(report).unwrap())
}

pub fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

/// A device of a result alone, with its times multiplied.
pub fn alone(report: &Report, id: &str, times: f64) -> Report {
    let mut r = report.clone();
    r.devices.retain(|d| d.id == id);
    r.ops.retain(|o| o.device == id);
    r.ops.iter_mut().for_each(|o| {
        let q = o.seconds;
        o.seconds = Quartiles { q1: q.q1 * times, median: q.median * times, q3: q.q3 * times };
    });
    r
}

#[test]
fn the_program_compares_and_fails_under_a_speedup() {
    let dir = tempfile::tempdir().unwrap();
    let one = |times: f64| alone(&pair_of(&[1.0; 8], 0.01), "a", times);
    let (base, slow) =
        (save(dir.path(), "monday.json", &one(1.0)), save(dir.path(), "today.json", &one(1.25)));
    let Run { code, out, err } = run(&["bench", "compare", &base, &slow, "--fail-under", "0.9"]);
    assert_eq!(code, 1, "{err}");
    assert!(out.contains("a (today) compared with a (monday)") && out.contains(" 0.800 | "), "{out}");
    assert!(err.contains("--fail-under: ") && err.contains("is below 0.9"), "{err}");
    assert_eq!(run(&["bench", "compare", &base, &slow, "--fail-under", "0.75"]).code, 0);
    let page = dir.path().join("page.html");
    let Run { code, out, .. } =
        run(&["bench", "compare", &base, &base, "--json", "--html", &page.to_string_lossy()]);
    assert_eq!(code, 0);
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["comparisons"][0]["verdict"], "same");
    assert!(page.is_file());
}

fn failures(c: &Comparison, fail_under: f64) -> usize {
    c.failures(&SpeedGate { fail_under, allow_missing: false }).len()
}

/// The gate follows from the interval of the verdict: a speedup at the threshold passes, and what cannot be
/// told does not fail.
#[test]
fn the_gate_and_the_verdict_follow_one_rule() {
    let one = |ratio: f64, spread: f64| compare(&pair_of(&[ratio], spread)).unwrap().remove(0);
    // 1 / 1.25 without spread: the interval is the number itself. A row and the median fail.
    let exact = one(0.8, 0.0);
    let value = exact.pairs[0].speedup.value;
    assert_eq!(exact.verdict, Verdict::Slower);
    assert_eq!((failures(&exact, value), failures(&exact, value * (1.0 + 1e-9))), (0, 2));
    // Today's contradiction: 1.57 x 1.16 / 5 x 1.3 x sqrt(2) = 0.67, so that 0.6 is within a factor of 1.67
    // of 1, and yet 0.6 x 1.67 = 1.0 is below a gate of 1.01: a gate above 1 demands what is not there, one
    // of at most 1 fails nothing.
    let wide = one(0.6, 1.3);
    assert_eq!(wide.verdict, Verdict::CannotTell, "{:?}", wide.speedup);
    assert_eq!((failures(&wide, 1.0), failures(&wide, 1.01)), (0, 2), "{:?}", wide.speedup);
    let slower = one(0.59, 1.3);
    assert_eq!(slower.verdict, Verdict::Slower, "{:?}", slower.speedup);
    assert_eq!(failures(&slower, 1.0), 2);
    // Faster, but not fast enough for a gate above 1.
    let faster = one(1.2, 0.01);
    assert_eq!(faster.verdict, Verdict::Faster);
    assert_eq!((failures(&faster, 1.0), failures(&faster, 1.3)), (0, 2));
}

/// Uncertainties above 100 %: nothing follows, the exit code says so, and only what surely fails comes before
/// it.
#[test]
fn noise_makes_a_measurement_unusable() {
    let dir = tempfile::tempdir().unwrap();
    // 1.57 x 1.9 / 5 x 1.16 x sqrt(2) = 0.979; with 1.95 it is 1.004.
    let verdict = |spread: f64| compare(&pair_of(&[1.0], spread)).unwrap()[0].pairs[0].verdict;
    assert_eq!((verdict(1.9), verdict(1.95)), (Verdict::CannotTell, Verdict::Unusable));
    let mut noisy = pair_of(&[0.3, 0.5, 0.5], 0.01);
    for row in noisy.ops.iter_mut().filter(|o| o.op == "op0") {
        row.seconds.q1 = 0.1 * row.seconds.median;
        row.seconds.q3 = 2.1 * row.seconds.median;
    }
    let files = |r: &Report| ["a", "b"].map(|id| save(dir.path(), &format!("{id}.json"), &alone(r, id, 1.0)));
    let [a, b] = files(&noisy);
    let Run { code, out, err } = run(&["bench", "compare", &a, &b]);
    assert_eq!(code, 10, "{err}");
    assert!(out.contains("1 measurement is unusable") && out.contains("2.00x slower"), "{out}");
    assert!(err.contains("op0 , forward, : unusable: machine too busy"), "{err}");
    let gated = |gate: &str| run(&["bench", "compare", &a, &b, "--fail-under", gate]).code;
    assert_eq!((gated("0.9"), gated("0.4")), (1, 10));
    // With JSON, too.
    let Run { code, out, .. } = run(&["bench", "compare", &a, &b, "--json"]);
    let value: Value = serde_json::from_str(&out).unwrap();
    let of = |op: &str| {
        value["comparisons"][0]["pairs"].as_array().unwrap().iter().find(|p| p["op"] == op).unwrap().clone()
    };
    assert_eq!(
        (code, &of("op0")["verdict"], &of("op1")["verdict"]),
        (10, &json!("unusable"), &json!("slower"))
    );
    assert_eq!(value["unusable"].as_array().unwrap().len(), 1);
    // A single sample has no known spread.
    noisy.ops.iter_mut().filter(|o| o.op == "op0").for_each(|o| o.samples = 1);
    let [a, b] = files(&noisy);
    let Run { code, err, .. } = run(&["bench", "compare", &a, &b]);
    assert_eq!(code, 10, "{err}");
    assert!(err.contains("unusable: only one sample"), "{err}");
}

/// The direction, in words, in numbers and in JSON.
#[test]
fn which_one_is_faster_is_said_in_words() {
    let compared = |times: f64| {
        let mut r = pair_of(&[1.0 / times], 0.01);
        for (device, id) in r.devices.iter_mut().zip(["cpu", "torch"]) {
            device.id = id.to_owned();
        }
        r.ops.iter_mut().for_each(|o| o.device = if o.device == "a" { "cpu" } else { "torch" }.to_owned());
        compare(&r).unwrap().remove(0)
    };
    let slower = compared(1.46);
    let text = markdown::comparison(&slower);
    let says = [
        "the time of cpu divided by the time of torch",
        " torch is |",
        "1.46x slower |",
        ": torch is 1.46x slower than cpu\n",
    ];
    says.iter().for_each(|s| assert!(text.contains(s), "{s:?} is not in\n{text}"));
    let faster = markdown::comparison(&compared(1.0 / 1.46));
    assert!(faster.contains(": torch is 1.46x faster than cpu\n") && faster.contains(" 1.460 |"), "{faster}");
    let json = serde_json::to_value(&slower).unwrap();
    for of in [&json, &json["pairs"][0]] {
        let number = |key: &str| of[key].as_f64().unwrap_or_else(|| panic!("{key}: {of}"));
        assert!((number("speedup") - 1.0 / 1.46).abs() < 1e-12, "{of}");
        assert!(number("low") < number("speedup") && number("speedup") < number("high"), "{of}");
        assert_eq!(of["verdict"], "slower");
    }
}

/// When both results hold their samples, the interval comes from them. 18 of 40 samples are equal here and as
/// many of the others are faster as slower: hardly any resample has another median, while the quartiles alone
/// say that nothing is certain.
#[test]
fn samples_give_the_interval() {
    let mut r = pair_of(&[0.8], 0.0);
    let verdict = |r: &Report| compare(r).unwrap()[0].pairs[0].verdict;
    let mut with = |low: usize, same: usize, high: usize, kept: bool| {
        for (row, median) in r.ops.iter_mut().zip([1e-3, 1.25e-3]) {
            let all = [vec![0.1 * median; low], vec![median; same], vec![10.0 * median; high]].concat();
            (row.samples, row.seconds, row.interval_s) = (all.len(), Quartiles::of(all.clone()), None);
            row.samples_s = if kept { all } else { Vec::new() };
        }
        verdict(&r)
    };
    assert_eq!(with(11, 18, 11, true), Verdict::Slower);
    assert_eq!(with(11, 18, 11, false), Verdict::Unusable);
    // Seven are too few for a bootstrap.
    assert_eq!(with(2, 3, 2, true), Verdict::Unusable);
}

/// Few rows have no median with an interval of its own, so the median is as uncertain as they are.
#[test]
fn the_median_of_few_rows_is_as_uncertain_as_they_are() {
    let of = |n: usize| compare(&pair_of(&vec![0.85; n], 0.5)).unwrap().remove(0);
    for n in 1..6 {
        let c = of(n);
        let (all, one) = (c.speedup, c.pairs[0].speedup);
        assert!((all.low / one.low - 1.0).abs() < 1e-12 && (all.high / one.high - 1.0).abs() < 1e-12, "{n}");
        assert_eq!(c.verdict, Verdict::CannotTell);
    }
    assert_eq!(of(6).verdict, Verdict::Slower);
}

/// Programs take small operands each in their own way, and some do not count steps. The work is the same if
/// the first tensor and the counts are.
#[test]
fn results_of_another_program_have_other_small_operands() {
    let mut r = pair_of(&[0.5], 0.01);
    (r.devices[0].tool, r.devices[1].tool) = ("tempra 0.1.0".into(), "torch 2.15.0 eager".into());
    let quartiles = Quartiles { q1: 1.0, median: 1.0, q3: 1.0 };
    let step = |device: &str, flops| StepRow {
        device: device.into(),
        seconds: quartiles,
        samples: 5,
        tokens_per_s: 1.0,
        samples_per_s: 1.0,
        flops,
        ..StepRow::default()
    };
    r.steps = vec![step("a", 1e9), step("b", 0.0)];
    (r.ops[0].shapes, r.ops[1].shapes) = (vec![vec![256, 1152], vec![3], vec![5]], vec![vec![256, 1152]]);
    (r.ops[0].bytes, r.ops[1].bytes) = (1e6, 0.9e6);
    let c = compare(&r).unwrap().remove(0);
    assert_eq!((c.pairs.len(), c.refused.len(), c.differences.len()), (2, 0, 1), "{c:?}");
    assert_eq!(c.differences[0].what, "program");
    let mut other = r.clone();
    other.ops[1].shapes = vec![vec![256, 1151]];
    let c = compare(&other).unwrap().remove(0);
    assert_eq!(c.refused[0].why, "shapes 256x1152 3 5 and 256x1151");
    // Of equal shapes, the lengths of the sequences may differ.
    let lengths = |longest| Some(LengthSummary { sequences: 2, tokens: 256, longest, sum_of_squares: 40000 });
    let mut ragged = r.clone();
    (ragged.ops[0].lengths, ragged.ops[1].lengths) = (lengths(128), lengths(200));
    let c = compare(&ragged).unwrap().remove(0);
    assert!(c.refused.len() == 1 && c.refused[0].why.contains("the longest 200"), "{:?}", c.refused);
    // One program takes its operands in one way, and counts all of its steps.
    r.devices[1].tool = "tempra 0.2.0".into();
    assert!(compare(&r).unwrap_err().to_string().contains("2 such rows"));
    // Types of other widths move other numbers of bytes.
    r.ops[1].shapes = r.ops[0].shapes.clone();
    let names = |r: &Report| compare(r).unwrap()[0].differences.iter().map(|d| d.what).collect::<Vec<_>>();
    assert_eq!(names(&r), ["program", "byte counts"]);
    r.devices[1].dtype = "bf16".into();
    assert_eq!(names(&r), ["program", "dtype"]);
}

/// A merged result keeps the machine of each, and which of them is incomplete.
#[test]
fn a_merged_result_keeps_each_machine() {
    let one = |id: &str, cpu: &str| {
        let mut r = alone(&pair_of(&[1.0], 0.01), id, 1.0);
        r.devices[0].machine = Machine { cpu: cpu.to_owned(), cpus: 2, ..Machine::default() };
        r
    };
    let mut second = one("b", "second");
    second.complete = false;
    let merged = Report::merge(vec![("x".into(), one("a", "first")), ("y".into(), second)]);
    let c = compare(&merged).unwrap().remove(0);
    let [machine] = c.differences.as_slice() else { panic!("{c:?}") };
    assert!(machine.what == "machine" && machine.base.starts_with("first, 2 CPUs"), "{machine:?}");
    assert!(machine.other.starts_with("second, 2 CPUs"), "{machine:?}");
    assert_eq!(c.incomplete.iter().map(|i| i.device.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(c.incomplete[0].why, "measuring stopped early");
    let text = serde_json::to_string(&merged).unwrap();
    assert_eq!(Report::parse(&text).unwrap(), merged);
}

/// Another program and this one, in turns. The other one counts its runs and reports a time that no machine
/// needs, so the ratio is clear whatever else the machine does; which op is how much slower is tested with a
/// counted clock above.
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
        (row.samples_s, row.interval_s) = (vec![1e6; row.samples], None);
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
    let found: Value = serde_json::from_str(&out).unwrap();
    // Three rounds on a busy machine may be too few for a sure time.
    let usable = found["unusable"].as_array().unwrap().is_empty();
    assert_eq!(code, if usable { 0 } else { 10 }, "{err}");
    let found = &found["comparisons"][0];
    assert_eq!(found["pairs"].as_array().unwrap().len(), 4);
    assert!(found["pairs"].as_array().unwrap().iter().all(|p| p["seconds"][0] == 1e6), "{found}");
    assert!(found["speedup"].as_f64().unwrap() > 1e3, "{found}");
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
