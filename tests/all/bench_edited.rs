//! Results edited by hand: what `tempra bench compare` flags, what it refuses, and what it does not read.

use crate::bench::{CountedWork, Run, measured, run};
use crate::bench_compare::{entry, pair_of, save, write};
use serde_json::{Value, json};
use tempra::bench::report::{Phases, Report, StepRow};
use tempra::bench::{Quartiles, compare};
use tempra::error::Kind;

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
    let alone = measured("cpu", "mse", &CountedWork::at_speed(1.0));
    assert_eq!(compare(&alone).unwrap_err().kind(), Kind::Data);
}

/// A result that the bench made on a tiny model: both passes of both uses of `add_norm`. Its times are
/// counted work, without spread.
fn made() -> Value {
    let report = measured("cpu", "add_norm", &CountedWork::at_speed(1.0));
    assert_eq!(report.ops.len(), 4);
    serde_json::to_value(report).unwrap()
}

fn with(mut value: Value, pointer: &str, new: Value) -> Value {
    *value.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = new;
    value
}

/// What a person may have changed between two results, and what is said of it. The gate of 0.5 is met by the
/// times, which are equal.
#[test]
fn edited_results_are_flagged_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let (base, edited) = (at("made.json"), at("edited.json"));
    let made = made();
    std::fs::write(&base, made.to_string()).unwrap();
    let title = "cpu (edited) compared with cpu (made)";
    let first = "add_norm block, forward, tiny, 256 tokens";
    let set = |pointer: &str, new: Value| with(made.clone(), pointer, new);
    let unstopped = set("/complete", json!(false));
    let mut removed = made.clone();
    removed["ops"].as_array_mut().unwrap().remove(0);
    let differs = |what: &str| format!("{title}; differs in: {what}\n");
    let flops = made["ops"][0]["flops"].as_f64().unwrap();
    let refused = format!("not the same work:\n- {first}: ");
    // The edit, what the output says, and the exit codes with a gate and with --allow-missing.
    let cases: Vec<(&str, Value, String, [i32; 2])> = vec![
        ("nothing", made.clone(), format!("{title}\n\nspeedup: the time of cpu (made) divided by"), [0, 0]),
        ("dtype", set("/devices/0/dtype", json!("bf16")), differs("dtype"), [0, 0]),
        ("device", set("/devices/0/description", json!("another CPU")), differs("device"), [0, 0]),
        (
            "build",
            set("/devices/0/provenance/release", json!(cfg!(debug_assertions))),
            differs("build"),
            [0, 0],
        ),
        ("no provenance", set("/devices/0/provenance", Value::Null), "differs in: build, ".into(), [0, 0]),
        ("driver", set("/devices/0/driver", json!("550.54")), differs("driver"), [0, 0]),
        ("cpu", set("/devices/0/machine/cpu", json!("another CPU")), differs("machine"), [0, 0]),
        ("cpus", set("/devices/0/machine/cpus", json!(4096)), differs("machine"), [0, 0]),
        ("os", set("/devices/0/machine/os", json!("another OS")), differs("machine"), [0, 0]),
        ("program", set("/devices/0/tool", json!("tempra 9.9.9")), differs("program"), [0, 0]),
        ("threads", set("/devices/0/provenance/settings/threads", json!(64)), differs("threads"), [0, 0]),
        ("commit", set("/devices/0/provenance/commit", json!("0123456789")), differs("commit"), [0, 0]),
        (
            "environment",
            set("/devices/0/provenance/environment", json!({"CUDA_VISIBLE_DEVICES": "3"})),
            differs("environment"),
            [0, 0],
        ),
        (
            "throttled",
            set(
                "/ops/0/clocks",
                json!({"sm_mhz": [900, 1800], "slowdowns": ["SwThermalSlowdown"], "repeated": true}),
            ),
            format!("{title}; throttled\n\n- throttled: cpu (edited): 1 measurement\n"),
            [0, 0],
        ),
        (
            "planted",
            set("/devices/0/tool", json!("tempra 9.9.9, add_norm slowed down 3 times")),
            format!("{title}; differs in: program; slowed down on purpose\n"),
            [0, 0],
        ),
        ("bytes", set("/ops/0/bytes", json!(1)), differs("byte counts"), [0, 0]),
        (
            "complete",
            with(unstopped, "/stopped", json!("stopped by SIGTERM")),
            format!(
                "{title}; incomplete: cpu (edited)\n\n- cpu (edited) is incomplete: stopped by SIGTERM\n"
            ),
            [1, 0],
        ),
        ("removed", removed, format!("1 measurement missing from cpu (edited):\n- {first}\n"), [1, 0]),
        ("shapes", set("/ops/0/shapes/0", json!([256, 65])), format!("{refused}shapes 256x64 "), [1, 1]),
        (
            "FLOP",
            set("/ops/0/flops", json!(1e9)),
            format!("{refused}{flops:.6e} and 1.000000e9 FLOP"),
            [1, 1],
        ),
    ];
    for (edit, value, says, codes) in cases {
        std::fs::write(&edited, value.to_string()).unwrap();
        let Run { code, out, err } = run(&["bench", "compare", &base, &edited]);
        assert_eq!(code, 0, "{edit}: {err}");
        assert!(out.contains(&says), "{edit}: {says:?} is not in\n{out}");
        assert_eq!(out.contains(&format!("| {first} ")), !refused_or_missing(edit), "{edit}: {out}");
        let gate = ["bench", "compare", &base, &edited, "--fail-under", "0.5"];
        for (more, code) in [&[][..], &["--allow-missing"]].into_iter().zip(codes) {
            let found = run(&[&gate[..], more].concat());
            assert_eq!(found.code, code, "{edit} {more:?}: {}{}", found.out, found.err);
            assert_eq!(found.err.contains("--fail-under: "), code == 1, "{edit}: {}", found.err);
        }
    }
    // The values are said, too, and which side is which.
    let text = set("/devices/0/dtype", json!("bf16"));
    std::fs::write(&edited, text.to_string()).unwrap();
    let out = run(&["bench", "compare", &base, &edited]).out;
    assert!(out.contains("\n- dtype: f32 (cpu (made)); bf16 (cpu (edited))\n"), "{out}");
    // Without any row of the same work there is no comparison.
    let mut other = made.clone();
    other["ops"].as_array_mut().unwrap().iter_mut().for_each(|row| row["flops"] = json!(1e9));
    std::fs::write(&edited, other.to_string()).unwrap();
    let Run { code, err, .. } = run(&["bench", "compare", &base, &edited]);
    assert_eq!(code, 3, "{err}");
    assert!(
        err.contains("no measurement of cpu (edited) is the same work") && err.contains("4 such rows"),
        "{err}"
    );
}

fn refused_or_missing(edit: &str) -> bool {
    ["removed", "shapes", "FLOP"].contains(&edit)
}

/// Numbers that cannot be measurements, and rows that are there twice: exit code 3, the file and the row.
#[test]
fn impossible_results_name_the_file_and_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let made = made();
    let base = write(dir.path(), "made.json", &made.to_string());
    let row = "ops[1] (add_norm block, backward, tiny, 256 tokens, on cpu)";
    let unread = "ops[1] (add_norm, block, backward, tiny, 256, cpu)";
    let set = |pointer: &str, new: Value| with(made.clone(), pointer, new).to_string();
    let mut twice = made.clone();
    let copy = twice["ops"][1].clone();
    twice["ops"].as_array_mut().unwrap().insert(1, copy);
    let mut devices = made.clone();
    let copy = devices["devices"][0].clone();
    devices["devices"].as_array_mut().unwrap().push(copy);
    let samples = |all: Value| {
        with(with(made.clone(), "/ops/1/samples_s", all), "/ops/1/samples", json!(2)).to_string()
    };
    // Bare words that only some writers of JSON know.
    let word = |pointer: &str, word: &str| set(pointer, json!("BARE")).replace("\"BARE\"", word);
    let cases = [
        ("zero", set("/ops/1/seconds/median", json!(0.0)), row, "seconds.median is 0"),
        ("negative", set("/ops/1/seconds/median", json!(-1e-3)), row, "seconds.median is -0.001"),
        ("null", set("/ops/1/seconds/median", Value::Null), unread, "seconds.median is null"),
        ("NaN", word("/ops/1/seconds/median", "NaN"), unread, "NaN or Infinity"),
        ("infinite", word("/ops/1/seconds/q3", "Infinity"), unread, "NaN or Infinity"),
        ("out of range", word("/ops/1/seconds/q3", "1e999"), "", "out of range"),
        ("NaN where null is allowed", word("/ops/1/percent", "NaN"), "", "holds NaN or Infinity"),
        ("text", set("/ops/1/seconds/q1", json!("fast")), unread, "seconds.q1 is \"fast\""),
        ("first quartile", set("/ops/1/seconds/q1", json!(10.0)), row, "q1 <= median <= q3"),
        ("third quartile", set("/ops/1/seconds/q3", json!(1e-12)), row, "q1 <= median <= q3"),
        ("sample", samples(json!([1e-3, 0.0])), row, "samples_s is 0"),
        ("samples", samples(json!([1e-3, 1e-3, 1e-3])), row, "3 numbers in samples_s"),
        // The times were made better, and the samples forgotten; or the other way round.
        (
            "other quartiles",
            set("/ops/1/seconds", json!({"q1": 1e-9, "median": 1e-9, "q3": 1e-9})),
            row,
            "as samples_s says",
        ),
        (
            "interval the wrong way round",
            set("/ops/1/interval_s", json!([1.0, 1e-12])),
            row,
            "interval_s is 1 to",
        ),
        (
            "interval elsewhere",
            set("/ops/1/interval_s", json!([1.0, 2.0])),
            row,
            "an interval around the median",
        ),
        ("no samples", set("/ops/1/samples", json!(0)), row, "samples is 0"),
        ("flops", set("/ops/1/flops", json!(-1.0)), row, "flops is -1"),
        ("bytes", set("/ops/1/bytes", json!(-1.0)), row, "bytes is -1"),
        ("percent", set("/ops/1/percent", json!(-1.0)), row, "percent is -1"),
        ("pace", set("/ops/1/pace", json!([1e-4, 0.0])), row, "pace is 0"),
        ("pass", set("/ops/1/pass", json!("sideways")), "ops[1] (add_norm, block, sideways", "`sideways`"),
        ("row twice", twice.to_string(), "ops[2] (add_norm block, backward", "twice"),
        ("device twice", devices.to_string(), "devices[1] (cpu)", "twice"),
        (
            "lost device",
            set("/ops/1/device", json!("elsewhere")),
            "on elsewhere) names the device elsewhere",
            "not in `devices`",
        ),
    ];
    for (edit, text, row, says) in cases {
        let edited = write(dir.path(), "edited.json", &text);
        let Run { code, err, .. } = run(&["bench", "compare", &base, &edited]);
        assert_eq!(code, 3, "{edit}: {err}");
        for part in [&edited, row, says, "help: measure again"] {
            assert!(err.contains(part), "{edit}: {part:?} is not in {err}");
        }
    }
    // Steps are checked, too, and so are reports that were never written.
    let quartiles = Quartiles { q1: 1.0, median: 1.0, q3: 1.0 };
    let step = StepRow {
        device: "cpu".into(),
        seconds: quartiles,
        samples: 3,
        tokens_per_s: 1.0,
        samples_per_s: 1.0,
        ..StepRow::default()
    };
    let with_step = |step: StepRow| Report {
        devices: vec![entry("cpu"), entry("b")],
        steps: vec![step],
        ..Report::begin()
    };
    assert!(with_step(step.clone()).check().is_ok());
    for (step, says) in [
        (StepRow { tokens_per_s: 0.0, ..step.clone() }, "tokens_per_s is 0"),
        (StepRow { tokens: 8, tokens_per_s: 9.0, ..step.clone() }, "8, the tokens by the median time"),
        (StepRow { seconds: Quartiles::of(vec![]), ..step.clone() }, "seconds.median is NaN"),
        (StepRow { share_of_peak: Some(-0.1), ..step.clone() }, "share_of_peak is -0.1"),
        (StepRow { phases: Phases { idle: -1.0, ..Phases::default() }, ..step.clone() }, "phases is -1"),
    ] {
        let e = compare(&with_step(step)).unwrap_err();
        assert!(
            e.kind() == Kind::Data && e.to_string().contains(says) && e.to_string().contains("steps[0]"),
            "{e}"
        );
    }
}

/// The number is refused before the files are opened.
#[test]
fn a_gate_is_a_speedup() {
    let gate = |value: &str| {
        run(&["bench", "compare", "/nowhere/a.json", "/nowhere/b.json", &format!("--fail-under={value}")])
    };
    for value in ["nan", "inf", "0", "-0", "-1", "-inf", "95", "10.01", "fast", ""] {
        let Run { code, err, .. } = gate(value);
        assert_eq!(code, 2, "{value}: {err}");
        assert!(err.contains("--fail-under"), "{value}: {err}");
    }
    let err = gate("95").err;
    assert!(err.contains("--fail-under 95 is not a speedup") && err.contains("write 95 % as 0.95"), "{err}");
    for value in ["0.95", "1", "10", "1e-3"] {
        assert_eq!(gate(value).code, 3, "{value}: the files are missing");
    }
    let alone = run(&["bench", "compare", "/nowhere/a.json", "/nowhere/b.json", "--allow-missing"]);
    assert_eq!(alone.code, 2, "{}", alone.err);
    assert!(alone.err.contains("--fail-under"), "{}", alone.err);
}

/// With files, options that select do select, and options that measure are refused.
#[test]
fn options_select_from_files_or_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let mut r = pair_of(&[0.5, 0.5], 0.01);
        (r.devices[0].id, r.devices[1].id) = ("cpu".into(), "cuda bf16".into());
        (r.devices[0].dtype, r.devices[1].dtype) = ("f32".into(), "bf16".into());
        for (i, row) in r.ops.iter_mut().enumerate() {
            row.device = r.devices[i % 2].id.clone();
            (row.op, row.tokens) = (["linear", "mse"][i / 2].into(), [256, 1024][i / 2]);
        }
        save(dir.path(), name, &r)
    };
    let (a, b) = (file("a.json"), file("b.json"));
    let compared = |more: &[&str]| {
        let Run { code, out, err } = run(&[&["bench", "compare", &a, &b, "--json"], more].concat());
        assert_eq!(code, 0, "{more:?}: {err}");
        let value: Value = serde_json::from_str(&out).unwrap();
        let of = |c: &Value| {
            (
                c["base"].as_str().unwrap().to_owned(),
                c["other"].as_str().unwrap().to_owned(),
                c["pairs"].as_array().unwrap().len(),
            )
        };
        value["comparisons"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let is = |base: &str, other: &str, rows| (base.to_owned(), other.to_owned(), rows);
    assert_eq!(compared(&[]).len(), 3);
    let cuda = vec![is("cuda bf16 (a)", "cuda bf16 (b)", 2)];
    assert_eq!(compared(&["--device", "cuda"]), cuda);
    assert_eq!(compared(&["--dtype", "bf16"]), cuda);
    assert_eq!(compared(&["--device", "cpu", "--op", "lin*"]), [is("cpu (a)", "cpu (b)", 1)]);
    assert_eq!(compared(&["--device", "cpu", "--tokens", "256"]), [is("cpu (a)", "cpu (b)", 1)]);
    assert_eq!(compared(&["--device", "cpu", "--base", "b"]), [is("cpu (b)", "cpu (a)", 2)]);
    assert_eq!(compared(&["--device", "cpu", "--base", "cpu (b)"]), [is("cpu (b)", "cpu (a)", 2)]);
    for (more, words) in [
        (vec!["--device", "cud"], "no result has the device \"cud\""),
        (vec!["--op", "lineer"], "did you mean \"linear\""),
        (vec!["--base", "cpu"], "names several devices"),
        (vec!["--base", "c"], "names no device"),
        (vec!["--seconds", "1"], "--seconds has no effect on result files"),
        (vec!["--threads", "1"], "--threads has no effect on result files"),
        (vec!["--no-sweep"], "--no-sweep has no effect on result files"),
        (vec!["--rounds", "9"], "--against"),
    ] {
        let Run { code, err, .. } = run(&[&["bench", "compare", &a, &b], &more[..]].concat());
        assert_eq!(code, 2, "{more:?}: {err}");
        assert!(err.contains(words), "{more:?}: {err}");
    }
    for (args, code, words) in [
        (vec![], 2, "nothing to compare"),
        (vec!["--device", "cpu,cpu"], 2, "named twice"),
        (vec!["--against", "/nowhere/tempra", "--base", "that"], 2, "names no build"),
        (vec!["/nowhere.json", "/there.json"], 3, "cannot read the result"),
    ] {
        let found = run(&[&["bench", "compare"], &args[..]].concat());
        assert_eq!(found.code, code, "{args:?}: {}", found.err);
        assert!(found.err.contains(words), "{args:?}: {}", found.err);
    }
}
