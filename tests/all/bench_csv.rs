//! `tempra bench --csv`: each cell is the value of the JSON, and every file reads back.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};
use tempra::bench::report::{DeviceEntry, OpRow, Report, StepRow};
use tempra::bench::{Quartiles, compare, csv};

/// A table as the csv crate reads it: the header, and the rows by column.
struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn of(text: &str) -> Table {
        let mut reader = ::csv::Reader::from_reader(text.as_bytes());
        let words = |r: &::csv::StringRecord| r.iter().map(str::to_owned).collect::<Vec<_>>();
        let head = words(reader.headers().unwrap());
        // The reader refuses rows that are shorter or longer than the header.
        let rows = reader.records().map(|r| words(&r.unwrap())).collect();
        Table { head, rows }
    }
    fn cell(&self, row: usize, column: &str) -> &str {
        let at = self.head.iter().position(|h| h == column).unwrap_or_else(|| panic!("no column {column}"));
        &self.rows[row][at]
    }
}

/// Where the JSON has the value of a column: `row/…` in the row, `device/…` in the row's device. Some columns
/// are worked out here.
fn source(column: &str) -> &'static str {
    match column {
        "device" => "row/device",
        "tool" => "device/tool",
        "description" => "device/description",
        "driver" => "device/driver",
        "dtype" => "device/dtype",
        "warm_median_s" => "row/warm_s/median",
        "warm_q1_s" => "row/warm_s/q1",
        "warm_q3_s" => "row/warm_s/q3",
        "timing" => "row/timing",
        "cpu" => "device/machine/cpu",
        "os" => "device/machine/os",
        "model" => "row/model",
        "op" => "row/op",
        "role" => "row/role",
        "pass" => "row/pass",
        "tokens" => "row/tokens",
        "median_s" => "row/seconds/median",
        "q1_s" => "row/seconds/q1",
        "q3_s" => "row/seconds/q3",
        "low_s" => "row/interval_s/0",
        "high_s" => "row/interval_s/1",
        "samples" => "row/samples",
        "repeats" => "row/repeats",
        "sets" => "row/sets",
        "beyond_cache" => "row/beyond_cache",
        "flop" => "row/flops",
        "bytes" => "row/bytes",
        "ceiling_percent" => "row/percent",
        "ceiling" => "row/bound",
        "launches" => "row/launches",
        "part" => "row/part",
        "sum_of_squared_lengths" => "row/lengths/sum_of_squares",
        "computed_tokens" => "row/computed_tokens",
        "tokens_per_s" => "row/tokens_per_s",
        "sequences_per_s" => "row/samples_per_s",
        "peak_bytes" => "row/peak_bytes",
        "data_s" => "row/phases/data",
        "forward_s" => "row/phases/forward",
        "backward_s" => "row/phases/backward",
        "optimizer_s" => "row/phases/optimizer",
        "idle_s" => "row/phases/idle",
        _ => "",
    }
}

fn same(cell: &str, value: &Value, at: &str) {
    match value {
        Value::Null => assert_eq!(cell, "", "{at}"),
        Value::Number(n) => {
            let (found, expected) = (cell.parse::<f64>(), n.as_f64().unwrap());
            assert_eq!(found.unwrap_or_else(|_| panic!("{at}: {cell:?} is not {n}")), expected, "{at}");
        }
        Value::String(s) => assert_eq!(cell, s, "{at}"),
        other => assert_eq!(cell, other.to_string(), "{at}"),
    }
}

/// Checks every cell against the JSON of the same report.
fn agree(table: &Table, json: &Value) {
    let (ops, steps) = (json["ops"].as_array().unwrap(), json["steps"].as_array().unwrap());
    assert_eq!(table.rows.len(), ops.len() + steps.len());
    for (i, row) in ops.iter().chain(steps).enumerate() {
        let kind = if i < ops.len() { "op" } else { "step" };
        let device = json["devices"].as_array().unwrap().iter().find(|d| d["id"] == row["device"]).unwrap();
        for column in &table.head {
            let (cell, at) = (table.cell(i, column), format!("row {i}, {column}"));
            let number = |name: &str| row.pointer(name).and_then(Value::as_f64).unwrap();
            match column.as_str() {
                "kind" => assert_eq!(cell, kind),
                "shapes" => {
                    let one = |s: &Value| {
                        s.as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>().join("x")
                    };
                    let all = row["shapes"].as_array().map_or(vec![], |all| all.iter().map(one).collect());
                    assert_eq!(cell, all.join(" "), "{at}");
                }
                // Derived from two numbers of the JSON.
                "flop_per_s" => same(cell, &(number("/flops") / number("/seconds/median")).into(), &at),
                "bytes_per_s" if kind == "op" => {
                    same(cell, &(number("/bytes") / number("/seconds/median")).into(), &at);
                }
                "peak_percent" if kind == "step" => {
                    same(cell, &(100.0 * number("/share_of_peak")).into(), &at)
                }
                "bytes_per_s" | "peak_percent" => assert_eq!(cell, "", "{at}"),
                "slowdowns" => {
                    let all = row.pointer("/clocks/slowdowns").and_then(Value::as_array);
                    let all = all.map_or(vec![], |all| all.iter().filter_map(Value::as_str).collect());
                    assert_eq!(cell, all.join(" "), "{at}");
                }
                "sequences" if kind == "op" => {
                    same(cell, row.pointer("/lengths/sequences").unwrap_or(&Value::Null), &at)
                }
                "length" if kind == "op" => {
                    same(cell, row.pointer("/lengths/longest").unwrap_or(&Value::Null), &at)
                }
                "sequences" | "length" => same(cell, &row[column], &at),
                "tokens" if row["tokens"] == 0 => assert_eq!(cell, "", "{at}"),
                "ceiling" if row["bound"] == "matmul" => assert_eq!(cell, "matmul", "{at}"),
                _ => {
                    let (of, path) =
                        source(column).split_once('/').unwrap_or_else(|| panic!("{column} has no source"));
                    let from = match of {
                        "row" => row,
                        _ => device,
                    };
                    same(cell, from.pointer(&format!("/{path}")).unwrap_or(&Value::Null), &at);
                }
            }
        }
    }
}

fn tempra(args: &[&str]) -> Output {
    let cache = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_tempra"))
        .args(args)
        .env("TEMPRA_CACHE", cache.path())
        .env("TEMPRA_BENCH_QUICK_CEILINGS", "1")
        .output()
        .unwrap()
}

const SMALL: [&str; 13] = [
    "--shape-of",
    "tests/golden/bert/a",
    "--op",
    "linear,pool,adamw,attention",
    "--tokens",
    "32",
    "--sequences",
    "2",
    "--length",
    "8",
    "--seconds",
    "0.001",
    "--quiet",
];

/// CSV, JSON and the page of one run; and the CSV of a comparison.
#[test]
fn cells_are_the_values_of_the_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let (table, page) = (path("a.csv"), path("a.html"));
    let out = tempra(
        &[&["bench"][..], &SMALL, &["--no-sweep", "--json", "--csv", &table, "--html", &page]].concat(),
    );
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    let kinds: BTreeSet<&str> =
        json["ops"].as_array().unwrap().iter().filter_map(|o| o["op"].as_str()).collect();
    assert_eq!(kinds, BTreeSet::from(["adamw", "attention", "linear", "pool"]));
    assert!(!json["steps"].as_array().unwrap().is_empty());
    agree(&Table::of(&std::fs::read_to_string(&table).unwrap()), &json);
    assert!(
        std::fs::read_to_string(&page).unwrap().contains("<svg")
            || Path::new(&page).metadata().unwrap().len() > 10_000
    );

    let (first, pairs) = (path("a.json"), path("pairs.csv"));
    std::fs::write(&first, &out.stdout).unwrap();
    let out = tempra(&["bench", "compare", &first, &first, "--json", "--csv", &pairs]);
    // 10: the machine was too busy for some of the measurements.
    assert!(matches!(out.status.code(), Some(0 | 10)), "{}", String::from_utf8_lossy(&out.stderr));
    let found: Value = serde_json::from_slice(&out.stdout).unwrap();
    let (table, c) = (Table::of(&std::fs::read_to_string(&pairs).unwrap()), &found["comparisons"][0]);
    let all = c["pairs"].as_array().unwrap();
    assert_eq!(table.rows.len(), all.len());
    for (i, pair) in all.iter().enumerate() {
        let columns = [
            ("base", &c["base"]),
            ("other", &c["other"]),
            ("model", &pair["model"]),
            ("role", &pair["role"]),
            ("sequences", &pair["sequences"]),
            ("length", &pair["length"]),
            ("base_median_s", &pair["seconds"][0]),
            ("other_median_s", &pair["seconds"][1]),
            ("speedup", &pair["speedup"]),
            ("speedup_low", &pair["low"]),
            ("speedup_high", &pair["high"]),
        ];
        for (column, value) in columns {
            same(table.cell(i, column), value, &format!("pair {i}, {column}"));
        }
        let kind = if pair["pass"].is_null() { "step" } else { "op" };
        assert_eq!(table.cell(i, "kind"), kind);
        same(table.cell(i, "pass"), &pair["pass"], "pass");
        assert_eq!(table.cell(i, "op"), if kind == "op" { pair["op"].as_str().unwrap() } else { "" });
        assert_eq!(table.cell(i, "verdict").replace(' ', "_"), pair["verdict"].as_str().unwrap());
    }
}

#[test]
fn only_one_result_goes_to_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    let one = dir.path().join("one");
    let one = one.to_string_lossy();
    for more in [
        &["--csv", "-", "--json"][..],
        &["--csv", "-", "--html", "-"],
        &["--json", "--html", "-"],
        &["--csv", &one, "--html", &one],
        &["--csv", "/no/such/folder/a.csv"],
        &["--csv", "tests"],
    ] {
        let out = tempra(&[&["bench", "ops"][..], &SMALL, more].concat());
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{more:?}: {said}");
        assert!(said.starts_with("error: ") && out.stdout.is_empty(), "{more:?}: {said}");
    }
    let out = tempra(&[&["bench", "ops"][..], &SMALL, &["--csv", "-"]].concat());
    let text = String::from_utf8(out.stdout).unwrap();
    let table = Table::of(&text);
    assert!(text.starts_with("kind,") && table.rows.len() > 2, "{text}");
    assert!((0..table.rows.len()).all(|i| table.cell(i, "kind") == "op"));
    let input = dir.path().join("a.json");
    std::fs::write(&input, "{}").unwrap();
    let input = input.to_string_lossy();
    let out = tempra(&["bench", "compare", &input, "b.json", "--csv", &input]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("overwrite"), "{out:?}");
    assert_eq!(std::fs::read_to_string(&*input).unwrap(), "{}");
}

fn seconds(median: f64) -> Quartiles {
    Quartiles { q1: median, median, q3: median }
}

/// A report with names that have to be quoted, and with numbers that CSV must not show.
fn hostile() -> Report {
    let id = "my \"fast\" GPU, 2nd\nslot".to_owned();
    let op = OpRow {
        device: id.clone(),
        op: "linear".into(),
        role: "up, gelu".into(),
        model: "ünï".into(),
        tokens: 8,
        seconds: seconds(1e-9),
        ..OpRow::default()
    };
    let broken = OpRow {
        role: "broken".into(),
        seconds: seconds(f64::NAN),
        flops: f64::INFINITY,
        percent: Some(f64::NAN),
        interval_s: Some([f64::NAN, f64::INFINITY]),
        ..op.clone()
    };
    let step = StepRow {
        device: id.clone(),
        part: "base".into(),
        seconds: seconds(0.1),
        share_of_peak: Some(f64::NEG_INFINITY),
        ..StepRow::default()
    };
    let device = DeviceEntry { id, tool: "=cmd|' /C calc'!A0".into(), ..DeviceEntry::default() };
    Report { devices: vec![device], ops: vec![op, broken], steps: vec![step], ..Report::begin() }
}

#[test]
fn names_are_quoted_and_what_is_no_number_is_empty() {
    let report = hostile();
    let text = csv::report(&report).unwrap();
    let table = Table::of(&text);
    assert_eq!(table.rows.len(), 3);
    for row in 0..3 {
        assert_eq!(table.cell(row, "device"), report.devices[0].id);
        assert_eq!(table.cell(row, "tool"), report.devices[0].tool);
    }
    assert_eq!((table.cell(0, "role"), table.cell(0, "model")), ("up, gelu", "ünï"));
    assert_eq!(table.cell(0, "median_s").parse::<f64>().unwrap(), 1e-9);
    for column in ["median_s", "q1_s", "low_s", "high_s", "flop", "flop_per_s", "ceiling_percent"] {
        assert_eq!(table.cell(1, column), "", "{column}");
    }
    assert_eq!(table.cell(2, "peak_percent"), "");
    let lower = text.to_lowercase();
    assert!(!lower.contains("nan") && !lower.contains("inf"), "{text}");
}

/// Without rows there is still the header; a row of an unknown device is an error.
#[test]
fn a_table_without_rows_has_its_header() {
    let head = |report: &Report| Table::of(&csv::report(report).unwrap());
    let empty = head(&Report::begin());
    assert!(empty.rows.is_empty());
    assert_eq!(empty.head, head(&hostile()).head);
    assert!(Table::of(&csv::comparisons(&[]).unwrap()).rows.is_empty());
    let lost = Report { devices: vec![], ..hostile() };
    assert!(csv::report(&lost).unwrap_err().to_string().contains("not in `devices`"));
}

/// The table of columns in the documentation names exactly the columns that are written.
#[test]
fn the_documentation_names_every_column() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md")).unwrap();
    let section = text
        .split("\n### ")
        .find(|s| s.starts_with("CSV"))
        .expect("a section on CSV")
        .split("\n## ")
        .next()
        .unwrap();
    let rows = section.lines().filter(|l| l.starts_with("| `"));
    let named = rows.flat_map(|l| {
        l.split('|')
            .nth(1)
            .unwrap_or_default()
            .split(',')
            .map(|c| c.trim().trim_matches('`').to_owned())
            .collect::<Vec<_>>()
    });
    let named: BTreeSet<String> = named.collect();
    let heads =
        [csv::report(&Report::begin()).unwrap(), csv::comparisons(&[]).unwrap()].map(|t| Table::of(&t).head);
    let written: BTreeSet<String> = heads.concat().into_iter().collect();
    assert_eq!(named, written);
}

/// A comparison's table without rows of one side only.
#[test]
fn pairs_of_a_comparison_become_rows() {
    let row = |device: &str, median: f64| OpRow {
        device: device.into(),
        op: "pool".into(),
        role: "mean".into(),
        model: "m".into(),
        tokens: 16,
        seconds: seconds(median),
        samples: 9,
        shapes: vec![vec![16, 4]],
        samples_s: vec![median; 9],
        repeats: 1,
        sets: 1,
        flops: 64.0,
        bytes: 256.0,
        ..OpRow::default()
    };
    let device = |id: &str| DeviceEntry { id: id.into(), ..DeviceEntry::default() };
    let report = Report {
        devices: vec![device("a"), device("b")],
        ops: vec![row("a", 3e-3), row("b", 2e-3)],
        ..Report::begin()
    };
    let table = Table::of(&csv::comparisons(&compare(&report).unwrap()).unwrap());
    let cells = ["kind", "base", "other", "op", "role", "model", "pass", "tokens", "sequences", "verdict"]
        .map(|c| table.cell(0, c));
    assert_eq!(cells, ["op", "a", "b", "pool", "mean", "m", "forward", "16", "", "faster"]);
    assert!((table.cell(0, "speedup").parse::<f64>().unwrap() - 1.5).abs() < 1e-12);
}
