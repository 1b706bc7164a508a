//! Results as one self-contained HTML page, without external scripts or other files.

use super::compare::Comparison;
use super::report::Report;
use serde_json::{Value, json};

/// The page, with placeholders for its style, its script and its data.
const TEMPLATE: &str = include_str!("page.html");
const STYLE: (&str, &str) = ("/*STYLE*/", include_str!("style.css"));
/// One script: its parts share the names that they define.
const SCRIPT: &str = concat!(
    include_str!("base.js"),
    include_str!("figure.js"),
    include_str!("filter.js"),
    include_str!("ratio.js"),
    include_str!("samples.js"),
    include_str!("ops.js"),
    include_str!("steps.js"),
    include_str!("main.js"),
    include_str!("theme.js")
);
const DATA: &str = "/*DATA*/null";

/// The parts that the page of [`pareto`](super::pareto) has too.
pub(super) const SHARED: [&str; 3] =
    [include_str!("base.js"), include_str!("figure.js"), include_str!("theme.js")];

/// The page of a report and of the comparisons of its devices.
pub fn page(report: &Report, comparisons: &[Comparison]) -> String {
    filled(SCRIPT, &json!({ "report": report, "comparisons": comparisons }))
}

/// The template with a script and the data that it reads.
pub(super) fn filled(script: &str, data: &Value) -> String {
    // Only these characters can end a script or a line in it. In JSON they occur only in strings, where they
    // can be escaped.
    let data = data.to_string();
    let data = data.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
    // The data comes last, so that a name in it that looks like a placeholder stays as it is.
    [STYLE, ("/*SCRIPT*/", script), (DATA, &data)]
        .iter()
        .fold(TEMPLATE.to_owned(), |page, (place, text)| page.replacen(place, text, 1))
}
