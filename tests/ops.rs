//! Tests every op of `OPS`: each case on every available backend, in every dtype, forward and backward.
//!
//! `cargo test --test ops -- attention` runs one op. `TEMPRA_REQUIRE=cuda,wgpu` makes a missing backend a
//! failure.
#[path = "ops_harness/judge.rs"]
mod judge;
#[path = "ops_harness/planted.rs"]
mod planted;

use judge::{Bench, Verdict};
use tempra::device::Device;
use tempra::ops::{OPS, Subject};
use tempra::shape::{DType, Spec};

const SUPPORT: &str = "tests/golden/ops-support.txt";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|a| a == "--list") {
        OPS.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let filter = args.iter().find(|a| !a.starts_with('-')).cloned().unwrap_or_default();
    let (mut passed, mut failed) = (0, 0);
    let mut count = |ok: bool| if ok { passed += 1 } else { failed += 1 };

    let bench = Bench::open();
    let required = std::env::var("TEMPRA_REQUIRE").unwrap_or_default();
    for absent in ["cuda", "wgpu"].iter().filter(|name| Device::open(name, 0).is_err()) {
        let needed = required.split(',').any(|r| r.trim() == *absent);
        println!(
            "{} {absent}: no such device; ops were not tested on it",
            if needed { "FAIL" } else { "note" }
        );
        if needed {
            count(false);
        }
    }

    for (name, cases) in OPS.iter().filter(|(name, _)| name.contains(&filter) || filter == "planted") {
        if filter == "planted" {
            break;
        }
        for case in cases() {
            let verdicts = bench.judge(&case);
            let worst = |what: &str| {
                let v =
                    verdicts.iter().filter(|v| v.what.starts_with(what)).map(|v| v.error).fold(0.0, f64::max);
                format!("{what} {v:.0e}")
            };
            let bad: Vec<&Verdict> = verdicts.iter().filter(|v| !v.ok()).collect();
            let word = if bad.is_empty() { "ok  " } else { "FAIL" };
            println!("{word} {name}: {} ({}, {})", case.label, worst("grad"), worst("agree"));
            for v in bad {
                println!("     {}: error {:.2e}, bound {:.0e} {}", v.what, v.error, v.bound, v.note);
            }
            count(verdicts.iter().all(Verdict::ok));
        }
    }

    if filter.is_empty() {
        let found = support();
        let expected = std::fs::read_to_string(SUPPORT).unwrap_or_default();
        let same = found.trim() == expected.trim();
        println!(
            "{} support: the dtypes that plan accepts match {SUPPORT}",
            if same { "ok  " } else { "FAIL" }
        );
        if !same {
            println!("found:\n{found}");
        }
        count(same);
    }
    if filter.is_empty() || filter == "planted" {
        for (label, caught) in planted::all(&Bench::open_checked()) {
            match &caught {
                Some(by) => println!("ok   planted: {label}: caught by {by}"),
                None => println!("FAIL planted: {label}: not detected by any check"),
            }
            count(caught.is_some());
        }
    }
    println!("{passed} passed, {failed} failed");
    std::process::exit((failed > 0) as i32);
}

/// One line per op: the element types that its plan accepts.
fn support() -> String {
    let mut lines = String::new();
    let cpu = Device::open("cpu", 1).expect("the CPU opens").caps();
    for (name, cases) in OPS {
        let case = &cases()[0];
        let accepted = [DType::F64, DType::F32, DType::BF16, DType::F16].map(|dtype| {
            let specs = case.specs(dtype);
            let specs: Vec<&Spec> = specs.iter().collect();
            let ok = match &case.subject {
                Subject::Op(op) => op.plan(&cpu, &specs).is_ok(),
                Subject::Step(step, _) => step.check(&cpu, &specs).is_ok(),
            };
            format!("{dtype:?} {}", if ok { "yes" } else { "n/a" })
        });
        lines += &format!("{name} cpu: {}\n", accepted.join(", "));
    }
    lines
}
