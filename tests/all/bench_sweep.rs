//! `tempra bench` over several devices and types, beside the results of other programs, and with options that
//! have no effect.

use crate::bench::{Run, run, run_with};
use crate::bench_shapes::quick;
use crate::support::{device, golden};
use tempra::bench::report::{DeviceEntry, OpRow, Report};
use tempra::bench::{Quartiles, markdown};

#[test]
fn options_without_effect_are_named() {
    let warned = |args: &[&str]| quick(args).err;
    let ops = warned(&[
        "ops",
        "--shape",
        "2,2,2",
        "--shape-of",
        "bert-base",
        "--sequences",
        "4",
        "--repeats",
        "2",
        "--no-sweep",
    ]);
    for name in ["shape-of", "sequences", "repeats", "no-sweep"] {
        assert!(ops.contains(&format!("--{name} has no effect")), "{name}: {ops}");
    }
    assert!(!warned(&["ops", "--shape", "2,2,2"]).contains("no effect"));
    for command in [&["bench", "--shape", "2,2,2"][..], &["bench", "step", "--shape", "2,2,2"]] {
        let Run { code, err, .. } = run(command);
        assert!(code == 2 && err.contains("tempra bench ops --shape"), "{command:?}: {err}");
    }
    // A training step has sequences, not tokens.
    let model = golden("bert/a");
    let step =
        ["step", "--shape-of", model.to_str().unwrap(), "--length", "4", "--sequences", "2", "--no-sweep"];
    let err = warned(&[&step[..], &["--op", "mse"]].concat());
    assert!(err.contains("--op has no effect: `bench step` measures training steps"), "{err}");
    let Run { code, err, .. } =
        run(&["bench", "step", "--sequences", "4000000000", "--length", "4000000000"]);
    assert!(code == 2 && err.contains("too large"), "{err}");
    let long = run(&["bench", "step", "--lengths", "constant:1048576", "--sequences", "17"]);
    assert!(long.code == 2 && long.err.contains("17 sequences of up to 1048576 tokens"), "{}", long.err);
    // Their help shows neither.
    let help = |command: &str| run(&["bench", command, "--help"]).out;
    assert!(!help("ops").contains("--sequences") && help("ops").contains("--shape <SHAPE>"));
    assert!(!help("step").contains("--tokens") && help("step").contains("--lengths"));
}

#[test]
fn steps_do_not_speak_of_shapes_that_they_do_not_use() {
    let note = |args: &[&str]| {
        let err = quick(args).err;
        err.lines().find(|l| l.contains("default shapes")).unwrap_or_default().to_owned()
    };
    let step = note(&["step", "--sequences", "1", "--length", "2", "--no-sweep"]);
    assert!(step.ends_with("smaller: minilm-l6"), "{step}");
    assert!(note(&["ops", "--op", "mse"]).ends_with("minilm-l6, 256 and 1024 tokens"));
    assert!(note(&["ops", "--op", "mse", "--tokens", "128"]).ends_with("smaller: minilm-l6"));
}

/// The CPU computes in three types. A type that is named twice is an error.
#[test]
fn the_cpu_is_measured_in_every_type() {
    let Run { code, out, err } =
        quick(&["ops", "--op", "residual", "--tokens", "64", "--dtype", "bf16,f32,f16", "--json"]);
    assert_eq!(code, 0, "{err}");
    let report = Report::parse(&out).unwrap();
    let found: Vec<_> = report.devices.iter().map(|d| (d.id.as_str(), d.dtype.as_str())).collect();
    assert_eq!(found, [("cpu bf16", "bf16"), ("cpu", "f32"), ("cpu f16", "f16")]);
    assert!(report.skipped.is_empty(), "{:?}", report.skipped);
    let bytes = |id: &str| report.ops.iter().filter(|r| r.device == id).map(|r| r.bytes).sum::<f64>();
    assert!(bytes("cpu bf16") < 0.6 * bytes("cpu") && bytes("cpu bf16") == bytes("cpu f16"), "{err}");
    assert_eq!(quick(&["ops", "--op", "mse", "--dtype", "f32,f32"]).code, 2);
}

/// A type that a device lacks is in the result, with the reason; with no other type it is an error. No
/// adapter of wgpu computes in bf16.
#[test]
fn wgpu_types_that_a_device_lacks_are_listed() {
    if device("wgpu").is_none() {
        return;
    }
    let quick = ["--tokens", "64", "--seconds", "0.001", "--samples", "1"];
    let ops = [&["bench", "ops", "--device", "wgpu", "--op", "mse"][..], &quick].concat();
    let Run { code, out, err } =
        run_with(&[&ops[..], &["--dtype", "bf16,f32", "--json"]].concat(), Some(&[]));
    assert_eq!(code, 0, "{err}");
    let report = Report::parse(&out).unwrap();
    let ids: Vec<&str> = report.devices.iter().map(|d| d.id.as_str()).collect();
    let skipped: Vec<&str> = report.skipped.iter().map(|s| s.device.as_str()).collect();
    assert_eq!((ids, skipped), (vec!["wgpu"], vec!["wgpu bf16"]));
    assert!(report.skipped.iter().all(|s| s.why.contains("cannot compute in")), "{:?}", report.skipped);
    assert!(err.contains("wgpu bf16: skipped: ") && err.contains("cannot compute in bf16"), "{err}");
    let text = markdown::report(&report);
    assert!(text.contains("not measured on wgpu bf16: every measurement: "), "{text}");
    let none = run_with(&[&ops[..], &["--dtype", "bf16"]].concat(), Some(&[]));
    assert!(none.code == 5 && none.err.contains("cannot compute in bf16"), "{}", none.err);
}

/// Two devices in three types in one run, on the emulator: every pair is measured.
#[test]
fn cuda_is_swept_over_devices_types_and_tokens() {
    if device("cuda").is_none() {
        return;
    }
    let args = [
        "bench",
        "ops",
        "--device",
        "cpu,cuda",
        "--dtype",
        "f32,bf16,f16",
        "--op",
        "linear",
        "--shape",
        "n=24,k=16",
        "--tokens",
        "16,32",
        "--seconds",
        "0.001",
        "--samples",
        "1",
        "--json",
    ];
    // A GPU with little memory: the emulator copies slowly.
    let Run { code, out, err } = run_with(&args, Some(&[("EMULATOR_MEMORY", "134217728")]));
    assert_eq!(code, 0, "{err}");
    let report = Report::parse(&out).unwrap();
    let ids: Vec<&str> = report.devices.iter().map(|d| d.id.as_str()).collect();
    assert_eq!(ids, ["cpu", "cpu bf16", "cpu f16", "cuda", "cuda bf16", "cuda f16"]);
    let dtypes: Vec<&str> = report.devices.iter().map(|d| d.dtype.as_str()).collect();
    assert_eq!(dtypes, ["f32", "bf16", "f16"].repeat(2));
    // Two passes at two numbers of tokens on each.
    assert!(ids.iter().all(|id| report.ops.iter().filter(|r| r.device == **id).count() == 4), "{err}");
    assert!(report.skipped.is_empty(), "{:?}", report.skipped);
}

fn row(device: &str, op: &str, tokens: usize, median: f64) -> OpRow {
    OpRow {
        device: device.to_owned(),
        op: op.to_owned(),
        role: "r".to_owned(),
        model: "m".to_owned(),
        tokens,
        seconds: Quartiles { q1: median, median, q3: median },
        samples: 5,
        repeats: 1,
        sets: 1,
        flops: 1e6,
        bytes: 1e6,
        ..OpRow::default()
    }
}

fn report_of(ids: &[&str], ops: &[&str]) -> Report {
    let devices =
        ids.iter().map(|id| DeviceEntry { id: (*id).to_owned(), ..DeviceEntry::default() }).collect();
    let rows =
        ids.iter().flat_map(|id| ops.iter().flat_map(move |op| [64, 256].map(|t| row(id, op, t, 1e-3))));
    Report { devices, ops: rows.collect(), ..Report::begin() }
}

/// Rows of one shape stand below each other, in the order of the devices.
#[test]
fn the_table_puts_devices_side_by_side() {
    let text = markdown::report(&report_of(&["cuda", "cpu"], &["alpha", "beta"]));
    let cells = |line: &str| line.split('|').skip(1).take(4).map(|c| c.trim().to_owned()).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = text.lines().filter(|l| l.starts_with("| ")).map(cells).collect();
    assert_eq!(lines[0], ["op", "device", "model", "tokens"]);
    let found: Vec<(&str, &str, &str)> = lines[1..].iter().map(|l| (&*l[0], &*l[1], &*l[3])).collect();
    let expected: Vec<(&str, &str, &str)> = ["alpha r", "beta r"]
        .into_iter()
        .flat_map(|op| ["64", "256"].map(|t| (op, t)))
        .flat_map(|(op, t)| ["cuda", "cpu"].map(|d| (op, d, t)))
        .collect();
    assert_eq!(found, expected);
    // One device needs no column.
    assert!(markdown::report(&report_of(&["cpu"], &["alpha"])).contains("Ops on cpu\n\n| op "));
}

/// Results of another program stand in the same table, JSON and page; what this run does not measure stays
/// out.
#[test]
fn peers_are_shown_in_the_same_table() {
    let dir = tempfile::tempdir().unwrap();
    let save = |name: &str, report: &Report| {
        let path = dir.path().join(name);
        std::fs::write(&path, serde_json::to_string(report).unwrap()).unwrap();
        path.to_string_lossy().into_owned()
    };
    let base = ["ops", "--shape", "6,10,4"];
    let Run { code, out, err } = quick(&[&base[..], &["--json"]].concat());
    assert_eq!(code, 0, "{err}");
    let mut peer = Report::parse(&out).unwrap();
    // A peer on a device of the same name, and with an op that is not asked for.
    let mut other = peer.ops[0].clone();
    other.op = "mse".to_owned();
    peer.ops.push(other);
    let (file, page) = (save("torch.json", &peer), dir.path().join("page.html"));
    let page_path = page.to_string_lossy().into_owned();
    let Run { code, out, err } = quick(&[&base[..], &["--with", &file, "--html", &page_path]].concat());
    assert_eq!(code, 0, "{err}");
    let lines: Vec<&str> = out.lines().filter(|l| l.starts_with("| linear n=10,k=4 ")).collect();
    assert_eq!(lines.len(), 4, "{out}");
    for pair in lines.chunks(2) {
        assert!(pair[0].contains("cpu (this run)") && pair[1].contains("cpu (torch)"), "{out}");
    }
    assert!(!out.contains("mse"), "{out}");
    assert!(std::fs::read_to_string(&page).unwrap().contains("cpu (torch)"));
    let report = Report::parse(&quick(&[&base[..], &["--with", &file, "--json"]].concat()).out).unwrap();
    assert_eq!(report.devices.len(), 2);
    // A file without anything that is measured here is named; a bad one stops the command before it measures.
    let empty = save("other.json", &report_of(&["torch"], &["mse"]));
    let warned = quick(&[&base[..], &["--with", &empty]].concat());
    assert!(warned.code == 0 && warned.err.contains("--with other has no measurement"), "{}", warned.err);
    let bad = quick(&[&base[..], &["--with", "/nowhere.json"]].concat());
    assert!(bad.code == 3 && bad.out.is_empty(), "{}", bad.err);
    let over = quick(&[&base[..], &["--with", &file, "--html", &file]].concat());
    assert!(over.code == 2 && over.err.contains("would overwrite the input"), "{}", over.err);
}
