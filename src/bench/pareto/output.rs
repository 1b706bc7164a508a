//! Models side by side as a Markdown table, as CSV, and as an HTML page.

use super::{BATCH, Pareto, Point};
use crate::bench::markdown::{table, time};
use crate::bench::page::{SHARED, filled};
use crate::error::{Error, Result};
use crate::units;
use serde::Serialize;
use serde_json::{Value, json};

/// How a number is written in a table.
fn whole(n: f64) -> String {
    if n.is_finite() { format!("{n:.0}") } else { "-".to_owned() }
}

fn row(p: &Point, score: usize) -> Vec<String> {
    vec![
        p.model.clone(),
        format!("{:.score$}", p.score),
        format!("{:.score$} to {:.score$}", p.interval[0], p.interval[1]),
        time(p.latency_1.seconds.median),
        time(p.latency_32.seconds.median),
        whole(p.texts_per_s),
        match p.parameters {
            n if n < 1_000_000 => format!("{:.1} k", n as f64 / 1e3),
            n => format!("{:.1} M", n as f64 / 1e6),
        },
        units::bytes(p.file_bytes),
        p.peak_bytes.map_or("-".to_owned(), units::bytes),
        if p.on_front { "yes" } else { "no" }.to_owned(),
    ]
}

/// The models as a Markdown table, with the conditions before it.
pub fn markdown(p: &Pareto) -> String {
    let (m, texts) = (&p.machine, p.examples);
    let better = if p.higher_is_better { "higher" } else { "lower" };
    let mut text = format!(
        "{texts} examples of {}; task {}; {}; {}, {} cores, {}\n",
        p.data, p.task, p.device, m.cpu, m.cpus, m.os
    );
    text += &format!(
        "{}: {better} is better, with its 95 % interval over the examples. Times are medians of {} rounds, \
         from token ids to outputs.\n\n",
        p.metric, p.rounds
    );
    let latency = format!("{BATCH} texts");
    let head = [
        "model",
        &p.metric,
        "95 % interval",
        "1 text",
        &latency,
        "texts/s",
        "parameters",
        "files",
        "peak memory",
        "on front",
    ];
    text + &table(&head, &p.models.iter().map(|point| row(point, 4)).collect::<Vec<_>>())
}

/// One model. A unit is a part of its column's name.
#[derive(Serialize)]
struct Row<'a> {
    model: &'a str,
    task: &'a str,
    device: &'a str,
    data: &'a str,
    examples: usize,
    metric: &'a str,
    score: f64,
    score_low: f64,
    score_high: f64,
    latency_1_s: f64,
    latency_1_low_s: Option<f64>,
    latency_1_high_s: Option<f64>,
    latency_32_s: f64,
    latency_32_low_s: Option<f64>,
    latency_32_high_s: Option<f64>,
    texts_per_s: f64,
    parameters: usize,
    file_bytes: u64,
    peak_bytes: Option<u64>,
    on_front: bool,
}

/// The models as CSV, one row for each.
///
/// # Errors
/// [`Kind::Data`](crate::error::Kind::Data) if a row cannot be written.
pub fn csv(p: &Pareto) -> Result<String> {
    let wrong = |e: &dyn std::fmt::Display| Error::data("a result is no CSV").with_found(e.to_string());
    let mut out = csv::Writer::from_writer(Vec::new());
    for m in &p.models {
        let ends = |i: Option<[f64; 2]>| (i.map(|[low, _]| low), i.map(|[_, high]| high));
        let (one, batch) = (ends(m.latency_1.interval_s), ends(m.latency_32.interval_s));
        let row = Row {
            model: &m.model,
            task: &p.task,
            device: &p.device,
            data: &p.data,
            examples: p.examples,
            metric: &p.metric,
            score: m.score,
            score_low: m.interval[0],
            score_high: m.interval[1],
            latency_1_s: m.latency_1.seconds.median,
            latency_1_low_s: one.0,
            latency_1_high_s: one.1,
            latency_32_s: m.latency_32.seconds.median,
            latency_32_low_s: batch.0,
            latency_32_high_s: batch.1,
            texts_per_s: m.texts_per_s,
            parameters: m.parameters,
            file_bytes: m.file_bytes,
            peak_bytes: m.peak_bytes,
            on_front: m.on_front,
        };
        out.serialize(row).map_err(|e| wrong(&e))?;
    }
    let bytes = out.into_inner().map_err(|e| wrong(&e))?;
    String::from_utf8(bytes).map_err(|e| wrong(&e))
}

/// The models as one self-contained HTML page.
pub fn page(p: &Pareto) -> String {
    let devices: Vec<Value> = p.models.iter().map(|m| json!({ "id": m.model })).collect();
    let [base, figure, theme] = SHARED;
    let script = [base, figure, include_str!("page.js"), theme].concat();
    filled(&script, &json!({ "report": { "devices": devices }, "comparisons": [], "pareto": p }))
}
