//! A fence over the files of a room: none uses another that, by way of others, uses it.

use crate::rules::{code, files};
use std::collections::{BTreeMap, BTreeSet};

/// The circles that there still are, and what opens them. A listed circle may shrink, but not grow.
const CIRCLES: &[(&[&str], &str)] = &[
    (
        &[
            "bench::ceilings",
            "bench::measure",
            "bench::monitor",
            "bench::operands",
            "bench::pace",
            "bench::queue",
            "bench::report",
        ],
        "quartiles and phases in a file of their own",
    ),
    (&["cli::found", "cli::predict", "cli::predictions"], "the form of the output beside the options"),
    (&["data::contexts", "data::encoded", "data::words"], "the origin of examples in a file of its own"),
    (
        &[
            "models::albert",
            "models::architecture",
            "models::bert",
            "models::distilbert",
            "models::electra",
            "models::modernbert",
            "models::roberta",
            "models::xlnet",
        ],
        "the table of architectures in mod.rs",
    ),
    (&["models::decoder", "models::heads"], "what both read of a config in a file of its own"),
    (&["nn::encoder", "nn::layer"], "the shape of a layer in a file of its own"),
    (&["train::history", "train::state"], "the writing of JSON in checkpoint"),
    (&["train::prepare", "train::select"], "the parts of a run in a file of their own"),
    (&["train::prepare::parts", "train::prepare::tasks"], "one table of tasks"),
];

/// The module of a file of src/: `data::format` of src/data/format.rs, `data` of src/data/mod.rs.
fn module(path: &str) -> String {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    path.replace('/', "::")
}

/// The paths that begin at the start of a text, such as `a::b` and `a::c::d` of `a::{b, c::{d}}`, as lists of
/// names.
fn paths(text: &str, before: &[String], found: &mut Vec<Vec<String>>) {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        let (mut depth, mut start) = (0, 0);
        for (i, c) in group.char_indices() {
            match c {
                ',' | '}' if depth == 0 => {
                    paths(&group[start..i], before, found);
                    start = i + 1;
                    if c == '}' {
                        return;
                    }
                }
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
        }
        return;
    }
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if name.is_empty() {
        return;
    }
    let path = [before, std::slice::from_ref(&name)].concat();
    match text[name.len()..].trim_start().strip_prefix("::") {
        Some(rest) => paths(rest, &path, found),
        None => found.push(path),
    }
}

/// The modules that a module uses, but for those that it is in and those that are in it: a folder's mod.rs
/// declares its files, and they may use what it holds.
fn uses(here: &str, text: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let all = code(text);
    let code = all.split("#[cfg(test)]\nmod tests").next().unwrap_or(&all);
    let mut found = Vec::new();
    for start in ["crate", "super", "self"] {
        for (at, _) in code.match_indices(start) {
            let part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            if !code[..at].ends_with(part) && code[at + start.len()..].trim_start().starts_with("::") {
                paths(&code[at..], &[], &mut found);
            }
        }
    }
    let resolved = found.into_iter().filter_map(|path| {
        let mut at: Vec<&str> = if path[0] == "crate" { Vec::new() } else { here.split("::").collect() };
        for name in &path {
            match name.as_str() {
                "crate" | "self" => {}
                "super" => drop(at.pop()),
                name => at.push(name),
            }
        }
        // What is no module is an item of one.
        while !at.is_empty() && !modules.contains(&at.join("::")) {
            at.pop();
        }
        Some(at.join("::")).filter(|m| !m.is_empty())
    });
    let inside = |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with("::"));
    resolved.filter(|m| !inside(here, m) && !inside(m, here)).collect()
}

/// The groups of modules that use each other in a circle, directly or through others.
fn circles(uses: &BTreeMap<String, BTreeSet<String>>) -> Vec<BTreeSet<&str>> {
    let reached = |from: &'_ str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(at) = open.pop() {
            for next in uses.get(at).into_iter().flatten() {
                if seen.insert(next.as_str()) {
                    open.push(next);
                }
            }
        }
        seen
    };
    let all: BTreeMap<&str, BTreeSet<&str>> = uses.keys().map(|m| (m.as_str(), reached(m))).collect();
    let mut found: Vec<BTreeSet<&str>> = Vec::new();
    for (&m, to) in all.iter().filter(|(m, to)| to.contains(*m)) {
        if !found.iter().any(|circle| circle.contains(m)) {
            found.push(
                to.iter().copied().filter(|n| all.get(n).is_some_and(|back| back.contains(m))).collect(),
            );
        }
    }
    found
}

fn all_uses(files: &[(String, String)]) -> BTreeMap<String, BTreeSet<String>> {
    let inner = || files.iter().filter(|(path, _)| !["src/lib.rs", "src/main.rs"].contains(&path.as_str()));
    let modules: BTreeSet<String> = inner().map(|(path, _)| module(path)).collect();
    inner().map(|(path, text)| (module(path), uses(&module(path), text, &modules))).collect()
}

#[test]
fn files_of_a_room_use_each_other_in_one_direction() {
    let files: Vec<_> = files().into_iter().filter(|(path, _)| path.starts_with("src/")).collect();
    let uses = all_uses(&files);
    assert!(uses.values().map(BTreeSet::len).sum::<usize>() > 500, "the fence found the uses there are");
    let found = circles(&uses);
    for circle in &found {
        let listed = CIRCLES.iter().any(|(all, _)| circle.iter().all(|m| all.contains(m)));
        assert!(listed, "these files use each other in a circle: {circle:?}");
    }
    for (all, remedy) in CIRCLES {
        let there = found.iter().any(|circle| circle.iter().all(|m| all.contains(m)));
        assert!(there, "{all:?} is no circle any more ({remedy}): take it off the list");
    }

    let sample = |list: &[(&str, &str)]| {
        let files: Vec<_> = list.iter().map(|(p, t)| ((*p).to_owned(), (*t).to_owned())).collect();
        circles(&all_uses(&files))
            .iter()
            .map(|c| c.iter().copied().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    let room = "mod a;\nmod b;\nmod c;\npub use a::A;";
    let a = ("src/r/a.rs", "use super::{R, b::{self, B}};\n// use super::c;");
    assert!(
        sample(&[("src/r/mod.rs", room), a, ("src/r/b.rs", "use super::R;"), ("src/r/c.rs", "")]).is_empty()
    );
    assert_eq!(
        sample(&[("src/r/mod.rs", room), a, ("src/r/b.rs", "fn f() { super::a::f() }")]),
        ["r::a r::b"]
    );
    let b = ("src/r/b.rs", "use crate::r::c::C;");
    let c = ("src/r/c.rs", "use crate::{error, r::{a::A}};");
    assert_eq!(sample(&[("src/r/mod.rs", room), a, b, c]), ["r::a r::b r::c"]);
    let tests = ("src/r/b.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use super::super::a::A;\n}");
    assert!(sample(&[("src/r/mod.rs", room), a, tests]).is_empty());
    let deep = ("src/r/b.rs", "use super::super::s::S;");
    assert_eq!(sample(&[("src/r/mod.rs", ""), a, deep, ("src/s.rs", "use crate::r::a;")]), ["r::a r::b s"]);
}
