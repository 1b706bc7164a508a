//! Results as one self-contained HTML page, without external scripts or other files.

use super::compare::Comparison;
use super::report::Report;
use serde_json::json;

/// The page, and the placeholder for its data.
const TEMPLATE: &str = include_str!("page.html");
const PLACE: &str = "/*DATA*/null";

/// The page of a report and of the comparisons of its devices.
pub fn page(report: &Report, comparisons: &[Comparison]) -> String {
    let data = json!({ "report": report, "comparisons": comparisons }).to_string();
    // Only these characters can end a script or a line in it. In JSON they occur only in strings, where they can be escaped.
    let data = data.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
    TEMPLATE.replacen(PLACE, &data, 1)
}
