//! Results as Markdown tables, aligned for a terminal.

use super::compare::{Comparison, Pair, SAME, Speedup, Verdict, counted};
use super::report::{DeviceEntry, GpuState, Report, StepRow};

/// A table. The first column is text, the others are numbers.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
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

/// How far the 95 % interval of a median reaches to its wider side, in percent of the median.
fn half_width(interval: Option<[f64; 2]>, median: f64) -> String {
    let reach = interval.map(|[low, high]| (median - low).max(high - median) / median);
    match reach.filter(|r| r.is_finite()) {
        None => "-".to_owned(),
        Some(r) if r < 0.0995 => format!("{:.1} %", 100.0 * r),
        Some(r) => format!("{:.0} %", 100.0 * r),
    }
}

fn percent(p: Option<f64>) -> String {
    p.map_or("-".to_owned(), |p| format!("{p:.0} %"))
}

/// Where and how a device was measured, in indented lines.
fn conditions(d: &DeviceEntry) -> String {
    let m = &d.machine;
    let load = |v: Option<f64>| v.map_or("unknown".to_owned(), |v| format!("{v:.2}"));
    let mut text = format!(
        "  machine: {}, {} cores, {}; load average {} before, {} after\n",
        m.cpu,
        m.cpus,
        m.os,
        load(m.load_before),
        load(m.load_after)
    );
    let Some(p) = &d.provenance else { return text };
    let commit = p.commit.as_deref().map_or("unknown", |c| c.get(..10).unwrap_or(c));
    let debug = if p.release { "" } else { ", a debug build, which is slow" };
    text += &format!("  commit: {commit}{debug}; matmul: {}\n", p.matmul);
    let versions = [
        d.driver.as_ref().map(|v| format!("driver: {v}")),
        p.compute_capability.as_ref().map(|v| format!("compute capability {v}")),
        p.nvrtc.as_ref().map(|v| format!("NVRTC {v}")),
        p.cublaslt.as_ref().map(|v| format!("cuBLASLt {v}")),
    ];
    let versions: Vec<String> = versions.into_iter().flatten().collect();
    if !versions.is_empty() {
        text += &format!("  {}\n", versions.join("; "));
    }
    if let Some(source) = &p.nvml {
        text += &match (&p.gpu_before, &p.gpu_after) {
            (Some(before), Some(after)) => format!("  GPU ({source}): {}\n", gpu(before, after)),
            _ => format!("  GPU clocks: {source}\n"),
        };
    }
    if !p.environment.is_empty() {
        let all: Vec<String> = p.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        text += &format!("  environment: {}\n", all.join(" "));
    }
    text
}

/// The states of a GPU before and after.
fn gpu(before: &GpuState, after: &GpuState) -> String {
    let both = |a: Option<f64>, b: Option<f64>, unit: &str| {
        Some(format!("{:.0} {unit} before, {:.0} {unit} after", a?, b?))
    };
    let sm = both(before.sm_clock_mhz.map(f64::from), after.sm_clock_mhz.map(f64::from), "MHz");
    let limit = after.power_limit_w.map_or(String::new(), |w| format!(" of {w:.0} W"));
    let parts = [
        sm.map(|t| format!("SM clock {t}")),
        after.memory_clock_mhz.map(|mhz| format!("memory clock {mhz} MHz")),
        both(before.power_w, after.power_w, "W").map(|t| t + &limit),
        both(before.temperature_c.map(f64::from), after.temperature_c.map(f64::from), "\u{b0}C"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// A mark for rows during which heat or the power supply slowed the GPU down.
fn mark(throttled: bool) -> &'static str {
    if throttled { " (throttled)" } else { "" }
}

/// Everything in a report.
pub fn report(r: &Report) -> String {
    let mut text = String::new();
    for d in &r.devices {
        text += &format!("{}: {}, {}; {}; times by {}\n", d.id, d.tool, d.description, d.dtype, d.timer);
        text += &conditions(d);
        if let Some(c) = &d.ceilings {
            let drift = c.drift.map_or(String::new(), |[copy, matmul]| {
                format!(
                    ", changed by {:+.0} % and {:+.0} % during the run",
                    100.0 * (copy - 1.0),
                    100.0 * (matmul - 1.0)
                )
            });
            text += &format!(
                "  ceilings: copy {:.1} GB/s, matmul {:.3} TFLOP/s{drift} ({})\n",
                c.copy_bytes_per_s / 1e9,
                c.matmul_flops_per_s / 1e12,
                c.how
            );
            if let Some(peak) = &c.nameplate {
                let rate = |rate: Option<f64>, unit: f64, name: &str| {
                    rate.map_or("unknown".to_owned(), |rate| format!("{:.1} {name}", rate / unit))
                };
                text += &format!(
                    "  specification: copy {}, matmul {} ({})\n",
                    rate(peak.copy_bytes_per_s, 1e9, "GB/s"),
                    rate(peak.matmul_flops_per_s, 1e12, "TFLOP/s"),
                    peak.how
                );
            }
        }
        if let Some(source) = &d.cache_source {
            text += &format!("  cache: {:.1} MiB ({source})\n", d.cache_bytes as f64 / f64::from(1 << 20));
        }
    }
    let ops = side_by_side(r, r.ops.iter().map(|o| (o.device.as_str(), o.key(), o)));
    text += &part("Ops", &OP_HEAD, ops.into_iter().map(|o| (o.device.as_str(), op_row(o))));
    let steps = side_by_side(r, r.steps.iter().map(|s| (s.device.as_str(), s.key(), s)));
    text += &part("Training steps", &STEP_HEAD, steps.into_iter().map(|s| (s.device.as_str(), step_row(s))));
    for d in &r.devices {
        let of = |part: &str| r.steps.iter().find(|s| s.device == d.id && s.part == part);
        // With given lengths there is no base step.
        if let Some(step) = of("base").or(of("packed")).filter(|s| !s.work.is_empty()) {
            text +=
                &format!("\nThe {} step of {} on {} by op\n\n{}", step.part, step.model, d.id, work(step));
        }
    }
    if r.ops.iter().any(|o| o.throttled()) || r.steps.iter().any(|s| s.throttled()) {
        text +=
            "\n(throttled): heat or the power supply slowed the GPU down, also in the second measurement\n";
    }
    for s in &r.skipped {
        text += &format!("\nnot measured on {}: {}: {}", s.device, s.what, s.why);
    }
    let parts: Vec<_> = r.devices.iter().filter_map(|d| Some((&d.id, d.incomplete.as_ref()?))).collect();
    for (id, why) in &parts {
        text += &format!("\nincomplete: {id}: {why}");
    }
    if parts.is_empty() && !r.complete {
        text += &format!("\nincomplete: {}", r.stopped.as_deref().unwrap_or("the measurement did not end"));
    }
    text
}

/// The rows of equal keys one after the other, in the order of the devices, so that what can be compared
/// stands side by side.
fn side_by_side<'a, K: PartialEq, R>(r: &Report, rows: impl Iterator<Item = (&'a str, K, R)>) -> Vec<R> {
    let mut groups: Vec<(K, Vec<(usize, R)>)> = Vec::new();
    for (device, key, row) in rows {
        let place = r.devices.iter().position(|d| d.id == device).unwrap_or(usize::MAX);
        match groups.iter_mut().find(|(other, _)| *other == key) {
            Some((_, group)) => group.push((place, row)),
            None => groups.push((key, vec![(place, row)])),
        }
    }
    for (_, group) in &mut groups {
        group.sort_by_key(|(place, _)| *place);
    }
    groups.into_iter().flat_map(|(_, group)| group).map(|(_, row)| row).collect()
}

/// One table with a title, and with a column of devices if there are several.
fn part<'a>(title: &str, head: &[&str], rows: impl Iterator<Item = (&'a str, Vec<String>)>) -> String {
    let (devices, mut rows): (Vec<&str>, Vec<Vec<String>>) = rows.unzip();
    match devices.as_slice() {
        [] => String::new(),
        [first, rest @ ..] if rest.iter().all(|d| d == first) => {
            format!("\n{title} on {first}\n\n{}", table(head, &rows))
        }
        all => {
            rows.iter_mut().zip(all).for_each(|(row, device)| row.insert(1, (*device).to_owned()));
            let mut head = head.to_vec();
            head.insert(1, "device");
            format!("\n{title}\n\n{}", table(&head, &rows))
        }
    }
}

const OP_HEAD: [&str; 11] =
    ["op", "model", "tokens", "pass", "median", "+-", "warm", "GB/s", "TFLOP/s", "% of ceiling", "launches"];

fn op_row(o: &super::report::OpRow) -> Vec<String> {
    let s = o.seconds.median;
    vec![
        format!("{} {}{}", o.op, o.role, mark(o.throttled())),
        o.model.clone(),
        if o.tokens == 0 { "-".to_owned() } else { o.tokens.to_string() },
        o.pass.name().to_owned(),
        time(s),
        half_width(o.interval_s, s),
        o.warm_s.map_or("-".to_owned(), |q| time(q.median)),
        format!("{:.2}", o.bytes / s / 1e9),
        format!("{:.4}", o.flops / s / 1e12),
        percent(o.percent),
        o.launches.map_or("-".to_owned(), |n| format!("{n:.0}")),
    ]
}

const STEP_HEAD: [&str; 13] = [
    "step",
    "sequences",
    "length",
    "tokens",
    "median",
    "+-",
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
        format!("{} {}{}", s.model, s.part, mark(s.throttled())),
        s.sequences.to_string(),
        s.length.to_string(),
        s.tokens.to_string(),
        time(s.seconds.median),
        half_width(s.interval_s, s.seconds.median),
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

/// A comparison of two devices: what else they differ in, each speedup, and what was not compared.
pub fn comparison(c: &Comparison) -> String {
    let (base, other) = (&c.base, &c.other);
    let mut text = format!("{}\n\n", title(c));
    let notes =
        c.differences.iter().map(|d| format!("{}: {} ({base}); {} ({other})", d.what, d.base, d.other));
    let notes = notes.chain(c.incomplete.iter().map(|i| format!("{} is incomplete: {}", i.device, i.why)));
    let notes = notes.chain(c.planted.iter().map(|p| format!("slowed down on purpose: {p}")));
    let notes: Vec<String> = notes.chain(c.throttled.iter().map(|t| format!("throttled: {t}"))).collect();
    if !notes.is_empty() {
        text += &format!("- {}\n\n", notes.join("\n- "));
    }
    text += &format!(
        "speedup: the time of {base} divided by the time of {other}; above 1, {other} is faster\n\n"
    );
    let rows: Vec<Vec<String>> = c.pairs.iter().map(pair_row).collect();
    let verdict = format!("{other} is");
    text += &table(&["measurement", base, other, "speedup", "95 % interval", &verdict], &rows);
    text += &format!(
        "\nmedian speedup of {}: {:.3} (95 % interval {}): {}\n",
        counted(c.pairs.len(), "measurement"),
        c.speedup.value,
        interval(&c.speedup),
        outcome(c)
    );
    let unusable = c.pairs.iter().filter(|p| p.verdict == Verdict::Unusable).count();
    if unusable > 0 {
        let are = if unusable == 1 { "is" } else { "are" };
        let n = counted(unusable, "measurement");
        text += &format!(
            "{n} {are} unusable: the machine was too busy, or there was only one sample; measure again\n"
        );
    }
    if let Some(pace) = c.pace.filter(|p| p.ln().abs() > 0.01) {
        let (percent, than) = (100.0 * (pace - 1.0), if pace > 1.0 { "faster" } else { "slower" });
        text += &format!(
            "the machine itself was {:.0} % {than} for {other} (measured with fixed work); that part is not due to the kernels\n",
            percent.abs()
        );
    }
    if let Some(doubt) = &c.doubt {
        text += &format!("unreliable: {doubt}\n");
    }
    if c.one_process {
        text += "each result is of one process, and two processes on a CPU may differ by more than these intervals: confirm with --against\n";
    }
    if !c.refused.is_empty() {
        text += "\nnot compared, because rows of one name are not the same work:\n";
        c.refused.iter().for_each(|r| text += &format!("- {}: {}\n", r.what, r.why));
    }
    for id in [other, base] {
        let names: Vec<&str> = c.missing.iter().filter(|m| m.from == *id).map(|m| m.what.as_str()).collect();
        if !names.is_empty() {
            let n = counted(names.len(), "measurement");
            text += &format!("\n{n} missing from {id}:\n- {}\n", names.join("\n- "));
        }
    }
    text
}

/// `today compared with monday; differs in: machine, driver; incomplete: today`.
pub fn title(c: &Comparison) -> String {
    let mut title = format!("{} compared with {}", c.other, c.base);
    let lists: [(&str, Vec<&str>); 2] = [
        ("differs in", c.differences.iter().map(|d| d.what).collect()),
        ("incomplete", c.incomplete.iter().map(|i| i.device.as_str()).collect()),
    ];
    for (name, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
        title += &format!("; {name}: {}", list.join(", "));
    }
    let flags = [
        (c.one_gpu, "one GPU through two APIs"),
        (!c.planted.is_empty(), "slowed down on purpose"),
        (!c.throttled.is_empty(), "throttled"),
    ];
    flags.iter().filter(|(there, _)| *there).for_each(|(_, flag)| title += &format!("; {flag}"));
    title
}

fn pair_row(p: &Pair) -> Vec<String> {
    let verdict = match p.verdict {
        Verdict::Faster | Verdict::Slower => p.speedup.words(),
        verdict => verdict.name().to_owned(),
    };
    vec![
        p.what.clone(),
        time(p.seconds[0]),
        time(p.seconds[1]),
        format!("{:.3}", p.speedup.value),
        interval(&p.speedup),
        verdict,
    ]
}

fn interval(s: &Speedup) -> String {
    if s.high.is_finite() { format!("{:.3} to {:.3}", s.low, s.high) } else { "unknown".to_owned() }
}

/// The verdict on all measurements in words.
fn outcome(c: &Comparison) -> String {
    let (other, base) = (&c.other, &c.base);
    match c.verdict {
        Verdict::Faster | Verdict::Slower => format!("{other} is {} than {base}", c.speedup.words()),
        Verdict::Same => format!("the same within {:.0} %", 100.0 * SAME),
        Verdict::CannotTell => "cannot tell which is faster".to_owned(),
        Verdict::Unusable => "unusable".to_owned(),
    }
}
