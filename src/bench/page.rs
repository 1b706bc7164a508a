//! Results as one HTML page that needs nothing else: no network, no script from elsewhere.

use super::compare::Comparison;
use super::report::Report;
use serde_json::json;

/// The page; what is measured is put in place of this.
const TEMPLATE: &str = include_str!("page.html");
const PLACE: &str = "/*DATA*/null";

/// A page of a report and of what compares its devices.
pub fn page(report: &Report, comparisons: &[Comparison]) -> String {
    let data = json!({ "report": report, "comparisons": comparisons }).to_string();
    // Inside a script only these can end it; in JSON they stand in strings, where they may be escaped.
    let data = data.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
    TEMPLATE.replacen(PLACE, &data, 1)
}
