//! Results as Markdown tables, aligned for a terminal.

use super::compare::{Comparison, SAME};
use super::report::{Report, StepRow};

/// A table. The first column is text, the others are numbers.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let wide = |i: usize| {
        let cells = rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count());
        cells.chain([head[i].chars().count(), 3]).max().unwrap_or(3)
    };
    let widths: Vec<usize> = (0..head.len()).map(wide).collect();
    let line = |cells: &mut dyn Iterator<Item = String>| {
        let padded = cells
            .zip(&widths)
            .enumerate()
            .map(|(i, (c, &w))| if i == 0 { format!(" {c:<w$} ") } else { format!(" {c:>w$} ") });
        format!("|{}|\n", padded.collect::<Vec<_>>().join("|"))
    };
    let mut text = line(&mut head.iter().map(|h| (*h).to_owned()));
    let rule = widths.iter().enumerate();
    let rule = rule.map(|(i, w)| if i == 0 { "-".repeat(w + 2) } else { format!("{}:", "-".repeat(w + 1)) });
    text += &format!("|{}|\n", rule.collect::<Vec<_>>().join("|"));
    rows.iter().for_each(|r| text += &line(&mut r.iter().cloned()));
    text
}

/// A time with a suitable unit.
pub fn time(s: f64) -> String {
    match s {
        s if !s.is_finite() => "-".to_owned(),
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

fn percent(p: Option<f64>) -> String {
    p.map_or("-".to_owned(), |p| format!("{p:.0} %"))
}

/// Everything in a report.
pub fn report(r: &Report) -> String {
    let mut text = String::new();
    for d in &r.devices {
        text += &format!("{}: {}, {}; {}; times by {}\n", d.id, d.tool, d.description, d.dtype, d.timer);
        if let Some(c) = &d.ceilings {
            let drift = c.drift.map_or(String::new(), |[copy, product]| {
                format!(
                    ", changed by {:+.0} % and {:+.0} % during the run",
                    100.0 * (copy - 1.0),
                    100.0 * (product - 1.0)
                )
            });
            text += &format!(
                "  ceilings: copy {:.1} GB/s, matmul {:.3} TFLOP/s{drift} ({})\n",
                c.copy_bytes_per_s / 1e9,
                c.product_flops_per_s / 1e12,
                c.how
            );
        }
    }
    for d in &r.devices {
        let rows: Vec<Vec<String>> = r.ops.iter().filter(|o| o.device == d.id).map(op_row).collect();
        if !rows.is_empty() {
            let head = [
                "op",
                "model",
                "tokens",
                "pass",
                "median",
                "spread",
                "GB/s",
                "TFLOP/s",
                "% of ceiling",
                "launches",
            ];
            text += &format!("\nOps on {}\n\n{}", d.id, table(&head, &rows));
        }
        let steps: Vec<&StepRow> = r.steps.iter().filter(|s| s.device == d.id).collect();
        if !steps.is_empty() {
            text += &format!(
                "\nTraining steps on {}\n\n{}",
                d.id,
                table(&STEP_HEAD, &steps.iter().map(|s| step_row(s)).collect::<Vec<_>>())
            );
        }
        if let Some(base) = steps.iter().find(|s| s.part == "base") {
            text += &format!("\nThe base step of {} on {} by op\n\n{}", base.model, d.id, work(base));
        }
    }
    for s in &r.skipped {
        text += &format!("\nnot measured on {}: {}: {}", s.device, s.what, s.why);
    }
    if let Some(why) = &r.stopped {
        text += &format!("\nincomplete: {why}");
    }
    text
}

fn op_row(o: &super::report::OpRow) -> Vec<String> {
    let s = o.seconds.median;
    vec![
        format!("{} {}", o.op, o.role),
        o.model.clone(),
        if o.tokens == 0 { "-".to_owned() } else { o.tokens.to_string() },
        o.pass.name().to_owned(),
        time(s),
        format!("{:.0} %", 100.0 * o.seconds.spread()),
        format!("{:.2}", o.bytes / s / 1e9),
        format!("{:.4}", o.flops / s / 1e12),
        percent(o.percent),
        o.launches.map_or("-".to_owned(), |n| format!("{n:.0}")),
    ]
}

const STEP_HEAD: [&str; 12] = [
    "step",
    "sequences",
    "length",
    "tokens",
    "median",
    "tokens/s",
    "samples/s",
    "% of peak",
    "forward",
    "backward",
    "optimizer",
    "peak MiB",
];

fn step_row(s: &StepRow) -> Vec<String> {
    vec![
        format!("{} {}", s.model, s.part),
        s.sequences.to_string(),
        s.length.to_string(),
        s.tokens.to_string(),
        time(s.seconds.median),
        format!("{:.0}", s.tokens_per_s),
        format!("{:.1}", s.samples_per_s),
        percent(s.share_of_peak.map(|p| 100.0 * p)),
        time(s.phases.forward),
        time(s.phases.backward),
        time(s.phases.optimizer),
        s.peak_bytes.map_or("-".to_owned(), |b| (b >> 20).to_string()),
    ]
}

fn work(s: &StepRow) -> String {
    let sum: f64 = s.work.iter().map(|w| w.seconds).sum();
    let shapes = |w: &super::report::Work| {
        // The first two shapes identify the use of the op.
        let one = |s: &Vec<usize>| s.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        w.shapes.iter().take(2).map(one).collect::<Vec<_>>().join(" ")
    };
    let row = |w: &super::report::Work| {
        vec![
            w.op.clone(),
            w.pass.name().to_owned(),
            shapes(w),
            w.calls.to_string(),
            time(w.seconds),
            format!("{:.1} %", 100.0 * w.seconds / sum),
            format!("{:.2}", w.bytes / w.seconds / 1e9),
            format!("{:.4}", w.flops / w.seconds / 1e12),
        ]
    };
    let rows: Vec<Vec<String>> = s.work.iter().map(row).collect();
    let mut text = table(&["op", "pass", "shapes", "calls", "time", "share", "GB/s", "TFLOP/s"], &rows);
    let p = &s.phases;
    text += &format!(
        "\nA step takes {} (median): forward {}, backward {}, optimizer {}, idle {}; building the batch takes {}\n",
        time(s.seconds.median),
        time(p.forward),
        time(p.backward),
        time(p.optimizer),
        time(p.idle),
        time(p.data)
    );
    text
}

/// A comparison of two devices.
pub fn comparison(c: &Comparison) -> String {
    let row = |p: &super::compare::Pair| {
        vec![
            p.what.clone(),
            time(p.seconds[0]),
            time(p.seconds[1]),
            format!("{:.3}", p.ratio),
            format!("{:.0} %", 100.0 * p.uncertainty),
            p.verdict.name().to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = c.pairs.iter().map(row).collect();
    let mut text =
        format!("{} compared with {} (ratio above 1: faster than {})\n\n", c.other, c.base, c.base);
    text += &table(&["measurement", &c.base, &c.other, "ratio", "+-", "verdict"], &rows);
    let [m, low, high] = c.median;
    text += &format!(
        "\nmedian of {} ratios: {m:.3} (95 % interval {low:.3} to {high:.3}): {}{}\n",
        c.pairs.len(),
        c.verdict.name(),
        if c.verdict == super::Verdict::Same {
            format!(" within {:.0} %", 100.0 * SAME)
        } else {
            String::new()
        }
    );
    if let Some(pace) = c.pace.filter(|p| p.ln().abs() > 0.01) {
        let (percent, than) = (100.0 * (pace - 1.0), if pace > 1.0 { "faster" } else { "slower" });
        text += &format!(
            "the machine itself was {:.0} % {than} for {} (measured with fixed work); that part is not due to the kernels\n",
            percent.abs(),
            c.other
        );
    }
    if let Some(doubt) = &c.doubt {
        text += &format!("unreliable: {doubt}\n");
    }
    if c.unmatched > 0 {
        text += &format!("{} measurements exist for only one of the two\n", c.unmatched);
    }
    text
}
