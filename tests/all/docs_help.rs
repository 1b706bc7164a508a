//! The documentation against what the program says of itself: exit codes, defaults of recipe keys, scores,
//! features.

use std::collections::BTreeSet;

use tempra::metrics::METRICS;
use tempra::tasks::of_metric;
use tempra::train::Recipe;

use crate::cli::{program, repository, stdout};
use crate::docs::{pages, spans};

fn page(name: &str) -> String {
    std::fs::read_to_string(repository().join(name)).unwrap()
}
fn help(topic: &str) -> String {
    stdout(&program(repository(), &["help", topic]).output().unwrap()).to_owned()
}

/// The numbers at the head of lines, after an optional `|`.
fn codes(text: &str) -> BTreeSet<u32> {
    let head = |line: &str| {
        line.trim_start_matches('|').trim().split([' ', '|']).next().unwrap_or_default().to_owned()
    };
    let all = text.lines().filter(|l| !l.starts_with('#')).flat_map(|l| {
        // `130, 143` is two of them.
        let cell = l.trim_start_matches('|').split('|').next().unwrap_or_default();
        let both = cell.split(", ").filter_map(|n| n.trim().parse().ok()).collect::<Vec<u32>>();
        if both.is_empty() { head(l).parse().into_iter().collect() } else { both }
    });
    all.collect()
}

#[test]
fn exit_codes_of_page_and_help_agree() {
    let text = page("docs/reliability.md");
    let section = text.split("## Exit codes").nth(1).unwrap().split("\n## ").next().unwrap();
    assert_eq!(codes(section), codes(&help("exit-codes")));
    assert_eq!(codes("| code | x |\n| 3 | y |\n| 130, 143 | z |\n"), [3, 130, 143].into());
    assert_eq!(codes("Codes\n\n    3  data  y\n"), [3].into());
}

/// A value as pages write it and as TOML writes it.
fn same(shown: &str, default: &str) -> bool {
    let plain = |s: &str| s.trim().trim_matches('`').trim_matches('"').replace(',', "").to_lowercase();
    let (shown, default) = (plain(shown), plain(default));
    let numbers = shown.parse::<f64>().ok().zip(default.parse::<f64>().ok());
    shown == default || numbers.is_some_and(|(a, b)| a == b)
}

/// The defaults that a page names beside keys and that are not those of the recipe: rows of tables with a
/// column "default", and `section.key` (VALUE).
fn wrong_defaults(text: &str) -> (Vec<String>, usize) {
    let keys = Recipe::keys();
    let (mut wrong, mut checked, mut column) = (Vec::new(), 0, None);
    let mut check = |name: &str, shown: &str| {
        let Some(key) = keys.iter().find(|k| k.path() == name) else { return };
        checked += 1;
        let none = ["none", "off", "by task", ""].contains(&shown.trim());
        if !key.default.as_ref().map_or(none, |default| same(shown, default) || none && default == "[]") {
            wrong.push(format!("{name}: {shown:?}, but its default is {:?}", key.default));
        }
    };
    for line in text.lines() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        if !line.starts_with('|') {
            column = None;
        } else if let Some(at) = cells.iter().position(|c| *c == "default") {
            column = Some(at);
        } else if let Some(shown) = column.and_then(|at| cells.get(at)) {
            let names: Vec<&str> = spans(cells[0]).collect();
            let values: Vec<&str> = if names.len() == 1 { vec![*shown] } else { shown.split(", ").collect() };
            names.iter().zip(values).for_each(|(name, value)| check(name, value));
        }
        // The text behind each code span.
        let parts: Vec<&str> = line.split('`').collect();
        for pair in parts[1..].chunks(2) {
            let [name, behind] = pair else { continue };
            let value = behind.strip_prefix(" (").and_then(|b| b.split(')').next());
            if let Some(value) = value.filter(|v| v.parse::<f64>().is_ok()) {
                check(name, value);
            }
        }
    }
    (wrong, checked)
}

#[test]
fn defaults_on_the_pages_are_those_of_the_recipe() {
    let found: Vec<(Vec<String>, usize)> = pages().iter().map(|p| wrong_defaults(&p.text)).collect();
    let wrong: Vec<&String> = found.iter().flat_map(|(wrong, _)| wrong).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let checked: usize = found.iter().map(|(_, n)| n).sum();
    assert!(checked >= 12, "only {checked} defaults were found");
    let planted = "| key | default |\n|---|---|\n| `data.max_length` | 64 |\n\n`train.max_tokens` (1) and `optim.lr` (5e-5)\n";
    let (wrong, checked) = wrong_defaults(planted);
    assert!(
        checked == 3
            && wrong.len() == 2
            && wrong[0].contains("max_length")
            && wrong[1].contains("max_tokens")
    );
}

/// Names of scores on a page of tasks that `tempra help metrics` does not have.
fn unknown_scores(text: &str) -> (Vec<String>, usize) {
    // `HasAns_f1` and the like are named by the program too, but are no choice for `best_metric`.
    let derived = ["loss", "HasAns_f1", "NoAns_f1", "best_f1"];
    let tasks: Vec<&str> = METRICS.iter().flat_map(|m| of_metric(m.name)).collect();
    let known = |name: &str| {
        derived.contains(&name) || tasks.contains(&name) || METRICS.iter().any(|m| m.name == name)
    };
    let name = |s: &&str| s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let lines = text.lines().filter(|l| l.starts_with("- **Scores"));
    let all: Vec<&str> = lines.flat_map(|l| spans(l.split(". ").next().unwrap_or(l))).filter(name).collect();
    (all.iter().filter(|s| !known(s)).map(|s| (*s).to_owned()).collect(), all.len())
}

#[test]
fn scores_on_the_page_of_tasks_exist() {
    let (unknown, count) = unknown_scores(&page("docs/tasks.md"));
    assert_eq!(unknown, Vec::<String>::new());
    assert!(count > 25, "only {count} scores were found");
    assert_eq!(unknown_scores("- **Scores**: `f1`, `f2`. The `recipe` says which.").0, ["f2"]);
}

#[test]
fn features_are_documented() {
    let manifest: toml::Table = page("Cargo.toml").parse().unwrap();
    let all: String = pages()
        .into_iter()
        .filter(|p| p.name == "README.md" || p.name.starts_with("docs/"))
        .map(|p| p.text)
        .collect();
    for feature in manifest["features"].as_table().unwrap().keys().filter(|f| *f != "default") {
        let named =
            [format!("feature `{feature}`"), format!("--features {feature}"), format!("`{feature}` feature")];
        assert!(named.iter().any(|n| all.contains(n.as_str())), "no page names the feature {feature}");
    }
}
