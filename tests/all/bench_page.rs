//! The page of `tempra bench --html`: one file with all its parts and all its data. `tests/page` checks in a
//! browser what it shows.

use serde_json::Value;
use std::path::Path;
use tempra::bench::report::{DeviceEntry, OpRow, Report, Skipped};
use tempra::bench::{Quartiles, compare, page};

/// The data of a page, as its script reads it.
fn data(page: &str) -> Value {
    let (_, rest) = page.split_once("const DATA = ").expect("the data");
    let (data, _) = rest.split_once(";</script>").expect("the end of the data");
    serde_json::from_str(data).unwrap()
}

fn op(device: &str, role: &str, median: f64) -> OpRow {
    OpRow {
        device: device.into(),
        op: "linear".into(),
        role: role.into(),
        model: "m".into(),
        tokens: 8,
        shapes: vec![vec![8, 8]],
        samples: 3,
        seconds: Quartiles { q1: median, median, q3: median },
        flops: 1024.0,
        bytes: 768.0,
        ..OpRow::default()
    }
}

fn entry(id: &str, tool: &str) -> DeviceEntry {
    DeviceEntry { id: id.into(), tool: tool.into(), dtype: "f32".into(), ..DeviceEntry::default() }
}

/// Names that would end the script or the line, or that look like the page's own placeholders.
#[test]
fn the_data_of_a_page_reads_back() {
    let names = [
        "</script><script>alert(1)</script>",
        "<!--",
        "/*DATA*/null",
        "/*STYLE*/ /*SCRIPT*/",
        "a\u{2028}b\u{2029}c",
        "$& $1 \\ \"'`",
    ];
    let devices: Vec<DeviceEntry> = names.iter().map(|n| entry(n, n)).collect();
    let ops: Vec<OpRow> = names.iter().flat_map(|n| [op(n, n, 1e-3), op(n, "other", 2e-3)]).collect();
    let skipped =
        names.iter().map(|n| Skipped { device: (*n).into(), what: (*n).into(), why: (*n).into() }).collect();
    let report = Report { devices, ops, skipped, stopped: Some(names[0].into()), ..Report::begin() };
    let comparisons = compare(&report).unwrap_or_default();
    let page = page::page(&report, &comparisons);
    let found = data(&page);
    assert_eq!(found["report"], serde_json::to_value(&report).unwrap());
    assert_eq!(found["comparisons"], serde_json::to_value(&comparisons).unwrap());
    // Only the page's own scripts end.
    assert_eq!(page.matches("</script").count(), 2);
}

/// Every file of the page's folder is in the page, and no placeholder is left.
#[test]
fn a_page_holds_all_its_parts() {
    let page = page::page(&Report::begin(), &[]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bench/page");
    let mut parts = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|e| e == "js" || e == "css") {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(page.contains(&text), "{} is not a part of the page", path.display());
            parts += 1;
        }
    }
    assert!(parts > 1);
    for place in ["/*STYLE*/", "/*SCRIPT*/", "/*DATA*/"] {
        assert!(!page.contains(place), "{place}");
    }
}

/// Nothing is loaded: no address but the name of SVG, and nothing that names a file.
#[test]
fn a_page_needs_no_other_file() {
    let page = page::page(&Report::begin(), &[]);
    assert_eq!(
        page.matches("://").count(),
        page.matches("http://www.w3.org/2000/svg").count(),
        "only the name of SVG"
    );
    for word in ["src=", "@import", "url(", "fetch(", "XMLHttpRequest", "import(", "<link rel=\"stylesheet"] {
        assert!(!page.contains(word), "{word}");
    }
}
