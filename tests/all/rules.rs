//! The fences of the house, held over the source text: who may use whom, where `unsafe` and features may
//! stand, what a library never does. Every fence is a function of text, and a test feeds it a text that it
//! must refuse.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use tempra::ops::OPS;

/// The folders that hold code.
pub(crate) const FOLDERS: [&str; 7] =
    ["src", "tests", "benches", "examples", "kernels", "shaders", "emulator"];

/// Lines that no file may exceed.
const MOST_LINES: usize = 600;

/// Files beside lib.rs and device/mod.rs that may ask for features, and why.
const FEATURES: &[(&str, &str)] = &[
    ("src/data/mod.rs", "the parquet reader is a dependency that can be left out"),
    ("src/models/source.rs", "only a build with `hub` may touch the network"),
];

/// Files outside of src/device that may be unsafe, and why.
const UNSAFE: &[(&str, &str)] = &[];

/// What may panic in the library, and why: the file and a part of the line.
const PANICS: &[(&str, &str, &str)] = &[];

/// Files that are tracked, in the folders that hold code, by their path from the root.
pub(crate) fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = FOLDERS.map(|d| root.join(d)).into_iter().filter(|d| d.is_dir()).collect();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a folder of the source").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() && name != "target" {
                open.push(path);
            } else if path.extension().is_some_and(|e| ["rs", "cu", "cuh", "wgsl"].iter().any(|x| e == *x)) {
                let short =
                    path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
                found.push((short, fs::read_to_string(&path).expect("UTF-8")));
            }
        }
    }
    found.sort();
    found
}

fn library() -> Vec<(String, String)> {
    let found: Vec<_> = files().into_iter().filter(|(path, _)| path.starts_with("src/")).collect();
    assert!(found.len() > 50 && found.iter().any(|(path, _)| path == "src/lib.rs"), "{}", found.len());
    found
}

/// The text with its comments, strings and characters blanked out, line by line as before.
pub(crate) fn code(text: &str) -> String {
    parts(text).0
}

/// The code of a text and its comments, each with the rest blanked out.
pub(crate) fn parts(text: &str) -> (String, String) {
    let c: Vec<char> = text.chars().collect();
    let at = |i: usize| c.get(i).copied().unwrap_or('\n');
    let (mut out, mut comments) = (String::with_capacity(text.len()), String::with_capacity(text.len()));
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    let mut i = 0;
    while i < c.len() {
        // In br"", the b is part of the string.
        let word_before = i > 0 && (at(i - 1).is_alphanumeric() || at(i - 1) == '_') && at(i - 1) != 'b';
        let end = match at(i) {
            '/' if at(i + 1) == '/' => (i..c.len()).find(|&j| at(j) == '\n').unwrap_or(c.len()),
            '/' if at(i + 1) == '*' => {
                let (mut j, mut depth) = (i + 2, 1);
                while j < c.len() && depth > 0 {
                    match (at(j), at(j + 1)) {
                        ('/', '*') => (depth, j) = (depth + 1, j + 2),
                        ('*', '/') => (depth, j) = (depth - 1, j + 2),
                        _ => j += 1,
                    }
                }
                j
            }
            'r' if !word_before && raw_hashes(&c, i + 1).is_some() => {
                let hashes = raw_hashes(&c, i + 1).unwrap_or(0);
                let closes = |&j: &usize| at(j) == '"' && (1..=hashes).all(|k| at(j + k) == '#');
                (i + hashes + 2..c.len()).find(closes).map_or(c.len(), |j| j + 1 + hashes)
            }
            '"' => {
                let mut j = i + 1;
                while j < c.len() && at(j) != '"' {
                    j += if at(j) == '\\' { 2 } else { 1 };
                }
                j + 1
            }
            // A character, not a lifetime.
            '\'' if at(i + 1) == '\\' => (i + 3..c.len()).find(|&j| at(j) == '\'').map_or(c.len(), |j| j + 1),
            '\'' if at(i + 2) == '\'' => i + 3,
            other => {
                out.push(other);
                comments.push(blank(other));
                i += 1;
                continue;
            }
        };
        let here = &c[i..end.min(c.len())];
        out.extend(here.iter().map(|&c| blank(c)));
        comments.extend(here.iter().map(|&c| if at(i) == '/' { c } else { blank(c) }));
        i = end;
    }
    (out, comments)
}

/// How many `#` stand between the r of a raw string and its quote.
fn raw_hashes(c: &[char], from: usize) -> Option<usize> {
    let hashes = c[from.min(c.len())..].iter().take_while(|&&c| c == '#').count();
    (c.get(from + hashes) == Some(&'"')).then_some(hashes)
}

/// Without the unit tests that stand at the end of a file.
fn without_tests(code: &str) -> &str {
    code.split("#[cfg(test)]\nmod tests").next().unwrap_or(code)
}

/// Whether a word stands at a byte, and not within a longer one.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .map(|(i, _)| i)
        .filter(move |&i| !code[..i].ends_with(part) && !code[i + word.len()..].starts_with(part))
}

fn line_of(text: &str, byte: usize) -> usize {
    text[..byte].matches('\n').count() + 1
}

/// The top modules of the crate that a text names: in `crate::x` and in `use crate::{x, y::{z}}`.
fn used(code: &str) -> BTreeSet<String> {
    let name = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for at in words(code, "crate") {
        let Some(rest) = code[at + 5..].trim_start().strip_prefix("::") else { continue };
        let rest = rest.trim_start();
        let Some(group) = rest.strip_prefix('{') else {
            found.insert(name(rest));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (i, c) in group.char_indices() {
            match c {
                ',' | '}' if depth == 0 => {
                    found.insert(name(group[start..i].trim_start()));
                    start = i + 1;
                    if c == '}' {
                        break;
                    }
                }
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    found.remove("");
    found
}

/// The modules of lib.rs in their order.
fn order(lib: &str) -> Vec<String> {
    let code = code(lib);
    let declared = code.lines().filter_map(|l| l.trim().trim_start_matches("pub ").strip_prefix("mod "));
    declared.map(|l| l.trim_end_matches(';').trim().to_owned()).collect()
}

/// The top module that a file of src/ belongs to.
fn module(path: &str) -> &str {
    path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or("")
}

/// What a file uses that does not stand above its module.
fn below(path: &str, text: &str, order: &[String]) -> Vec<String> {
    let place = |m: &str| order.iter().position(|o| o == m);
    let Some(here) = place(module(path)) else { return vec![format!("{path} is in no module of lib.rs")] };
    // What is no module is an item of lib.rs: a macro by its path.
    let uses = used(&code(text)).into_iter().filter_map(|m| place(&m).map(|p| (m, p)));
    uses.filter(|&(_, p)| p > here).map(|(m, _)| format!("{path} uses {m}, which stands below it")).collect()
}

#[test]
fn modules_use_only_what_stands_above_them() {
    let files = library();
    let lib = &files.iter().find(|(path, _)| path == "src/lib.rs").expect("lib.rs").1;
    let order = order(lib);
    assert_eq!(
        (order.first().map(String::as_str), order.last().map(String::as_str)),
        (Some("error"), Some("cli"))
    );
    let inner = files.iter().filter(|(path, _)| path != "src/lib.rs" && path != "src/main.rs");
    let wrong: Vec<String> = inner.flat_map(|(path, text)| below(path, text, &order)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_order_of_modules_bites() {
    let order: Vec<String> = ["error", "shape", "ops", "tape"].map(String::from).into();
    let bad = |text: &str| below("src/shape.rs", text, &order);
    assert!(bad("use crate::error::Error;\nuse crate::{error::{self, Result}, shape};").is_empty());
    assert!(bad("// use crate::tape;\nconst S: &str = \"crate::tape\"; /* crate::ops */").is_empty());
    assert_eq!(bad("use crate::tape::Tape;").len(), 1);
    assert_eq!(
        bad("use crate::{error::{Error, Result}, ops::{self, linear::{Linear}}, tape::Var};").len(),
        2
    );
    assert_eq!(bad("fn f() { let x = crate :: ops::f(); }").len(), 1);
    assert_eq!(bad("use crate::{\n    tape::{self},\n    error,\n};").len(), 1);
    assert_eq!(bad("macro_rules! m { () => { $crate::tape::f() } }").len(), 1);
    assert_eq!(below("src/tape/deep/x.rs", "use crate::ops::Op;", &order).len(), 0);
    assert_eq!(below("src/stray.rs", "", &order).len(), 1);
    assert_eq!(used("use crate::{a, b::c, d::{e, f::{g}}, h};").into_iter().collect::<String>(), "abdh");
}

/// The modules that the command line leaves to the rooms below it: it names no tape, no op, no layer and no
/// parameter.
const NOT_IN_CLI: &[&str] = &["tape", "ops", "nn", "params", "optim"];

/// What a file of the command line uses of these.
fn beneath_cli(text: &str) -> Vec<String> {
    used(&code(text)).into_iter().filter(|m| NOT_IN_CLI.contains(&m.as_str())).collect()
}

#[test]
fn the_command_line_names_no_tape_op_layer_or_parameter() {
    let files = library();
    let cli: Vec<_> = files.iter().filter(|(path, _)| module(path) == "cli").collect();
    assert!(cli.len() > 30, "{} files", cli.len());
    let wrong: Vec<String> = cli
        .iter()
        .flat_map(|(path, text)| beneath_cli(text).into_iter().map(move |m| format!("{path} uses {m}")))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");

    assert_eq!(
        beneath_cli("use crate::{error::Result, nn::Pooling};\nfn f() { crate::ops::OPS; }"),
        ["nn", "ops"]
    );
    assert!(beneath_cli("use crate::bench::ops;\nuse crate::models::Pooling; // crate::tape").is_empty());
}

/// A room for inference serves programs: it parses no command line and writes to no terminal.
#[test]
fn inference_knows_no_terminal() {
    let outside = ["clap", "indicatif", "stdin", "stdout", "stderr"];
    let names = |text: &str| -> Vec<&str> {
        let code = code(text);
        outside.into_iter().filter(|name| words(&code, name).next().is_some()).collect()
    };
    let files = library();
    let mut seen = 0;
    for (path, text) in files.iter().filter(|(path, _)| module(path) == "predict") {
        seen += 1;
        assert_eq!(names(text), [""; 0], "{path}");
    }
    assert!(seen > 4, "{seen} files");
    assert_eq!(names("use clap::Arg;\nstd::io::stdout();"), ["clap", "stdout"]);
}

/// The names in each of two sets that the other lacks.
fn differ(what: &str, found: &BTreeSet<String>, expected: &BTreeSet<String>) -> Vec<String> {
    let more = found.difference(expected).map(|n| format!("{what}: {n} is not in OPS"));
    more.chain(expected.difference(found).map(|n| format!("{what}: {n} is missing"))).collect()
}

/// The stems of the files of a folder, but for those that all others use.
fn stems(files: &[(String, String)], folder: &str, but: &[&str]) -> BTreeSet<String> {
    let inside = files.iter().filter_map(|(path, _)| path.strip_prefix(folder)?.strip_prefix('/'));
    let stem = |name: &str| name.split(['/', '.']).next().unwrap_or("").to_owned();
    inside.map(stem).filter(|s| !but.contains(&s.as_str())).collect()
}

#[test]
fn an_op_has_one_stem() {
    let names: Vec<String> = OPS.iter().map(|(name, _)| name.to_string()).collect();
    let ops: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(ops.len(), names.len(), "a name twice in OPS: {names:?}");
    let files = files();
    let but = ["mod", "activation", "case", "cost", "launch", "passes", "update", "zero_blocks"];
    let mut wrong = differ("src/ops", &stems(&files, "src/ops", &but), &ops);
    for folder in ["kernels", "shaders"] {
        wrong.extend(differ(folder, &stems(&files, folder, &["prelude", "update"]), &ops));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");

    let set = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<BTreeSet<_>>();
    let sample = ["src/ops/a.rs", "src/ops/b/x.rs", "src/ops/mod.rs", "src/opsy/c.rs"]
        .map(|p| (p.to_owned(), String::new()));
    let found = stems(&sample, "src/ops", &["mod"]);
    assert_eq!(found, set(&["a", "b"]));
    assert_eq!(differ("", &found, &set(&["a", "c"])).len(), 2, "one more, one less");
}

/// Lines with a `cfg` that asks for a feature.
fn features(text: &str) -> Vec<usize> {
    let code = code(text);
    let ask = |at: usize| {
        let rest = &code[at..];
        // To the end of the attribute or of the macro's argument.
        let end = rest.find([']', ';', '{']).unwrap_or(rest.len());
        words(&rest[..end], "feature").next().is_some()
    };
    let all = words(&code, "cfg").chain(words(&code, "cfg_attr")).filter(|&at| ask(at));
    let lines: BTreeSet<usize> = all.map(|at| line_of(&code, at)).collect();
    lines.into_iter().collect()
}

#[test]
fn features_are_asked_for_in_few_places() {
    let free = ["src/lib.rs", "src/device/mod.rs"];
    let listed = |path: &str| free.contains(&path) || FEATURES.iter().any(|(p, _)| *p == path);
    let wrong: Vec<String> = library()
        .iter()
        .filter(|(path, _)| !listed(path))
        .flat_map(|(path, text)| features(text).into_iter().map(move |l| format!("{path}:{l}")))
        .collect();
    assert!(wrong.is_empty(), "cfg(feature) outside of the listed files: {wrong:#?}");
    for (path, reason) in FEATURES {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_default();
        assert!(!features(&text).is_empty(), "{path} is listed ({reason}), but asks for no feature");
    }

    assert_eq!(
        features("#[cfg(feature = \"a\")]\nmod a;\n#[cfg_attr(not(feature = \"a\"), path = \"b\")]"),
        [1, 3]
    );
    assert_eq!(features("if cfg!(feature = \"a\") {}\n#[cfg(all(unix, feature = \"b\"))]"), [1, 2]);
    assert!(features("#[cfg(test)]\n#[target_feature(enable = \"avx2\")]\n// cfg(feature)").is_empty());
}

/// Lines of a kernel that store a vector as C++ does, which the compiler tears into words, or have PTX in
/// them.
fn torn(text: &str) -> Vec<usize> {
    let stores = |line: &str| {
        ["float2", "float4", "uint2", "uint4"].iter().any(|v| {
            let rest = line.split_once(&format!("*({v}*)")).map(|(_, rest)| rest);
            rest.is_some_and(|rest| rest.contains(" = "))
        })
    };
    let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    let bad = |line: &str| stores(line) || line.contains("asm(") || line.contains("asm volatile");
    text.lines().enumerate().filter(|(_, line)| bad(&code(line))).map(|(i, _)| i + 1).collect()
}

#[test]
fn kernels_store_vectors_whole_and_leave_ptx_to_the_prelude() {
    let kernels = files();
    let kernels = kernels.iter().filter(|(path, _)| path.starts_with("kernels/") && path.ends_with(".cu"));
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (path, text) in kernels {
        seen += 1;
        wrong
            .extend(torn(text).iter().map(|l| format!("{path}:{l}: say store, store_words or store_shared")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 20, "{seen} kernels");

    assert_eq!(torn("f();\n*(float4*)(p + i) = make_float4(a, b, c, d);"), [2]);
    assert_eq!(torn("if (in) *(uint4*)to = held[i];\nasm volatile(\"trap;\");"), [1, 2]);
    assert!(
        torn("const float4 x = *(const float4*)(a + c);\n// *(uint4*)p = q;\ng(*(float4*)p);").is_empty()
    );
}

/// Lines with an `unsafe` that no comment above it explains.
fn unexplained(text: &str) -> Vec<usize> {
    let code = code(text);
    let lines: Vec<&str> = text.lines().collect();
    let bare = |&at: &usize| {
        // A type of functions does nothing; whoever calls one must explain.
        let pointer = code[at..].strip_prefix("unsafe").is_some_and(|r| {
            let r = r.trim_start();
            let named = r.strip_prefix("extern").map(|r| r.trim_start_matches([' ', '"', 'C']));
            named.unwrap_or(r).starts_with("fn(")
        });
        let mut above = lines[..line_of(&code, at) - 1].iter().rev().map(|l| l.trim()).peekable();
        // Attributes, and the head of a statement that rustfmt broke.
        while above.peek().is_some_and(|l| l.starts_with("#[") || l.ends_with(['=', '('])) {
            above.next();
        }
        let comment: Vec<&str> = above.take_while(|l| l.starts_with("//")).collect();
        let explained = |l: &&str| l.contains("SAFETY:") || (l.starts_with("///") && l.contains("# Safety"));
        !pointer && !comment.iter().any(explained)
    };
    words(&code, "unsafe").filter(bare).map(|at| line_of(&code, at)).collect()
}

#[test]
fn unsafe_is_fenced_and_explained() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in library() {
        let there: Vec<usize> = words(&code(&text), "unsafe").collect();
        seen += there.len();
        let allowed = path.starts_with("src/device/") || UNSAFE.iter().any(|(p, _)| *p == path);
        if !allowed {
            wrong.extend(
                there
                    .iter()
                    .map(|&at| format!("{path}:{}: unsafe outside of src/device", line_of(&text, at))),
            );
        }
        wrong.extend(unexplained(&text).iter().map(|l| format!("{path}:{l}: no // SAFETY: above it")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 10, "the fence found the unsafe code there is");

    assert_eq!(unexplained("fn f() {\n    unsafe { g() }\n}"), [2]);
    assert!(unexplained("type F = unsafe extern \"C\" fn(u32);\ntype G = unsafe fn(u32);").is_empty());
    assert_eq!(unexplained("unsafe extern \"C\" fn f() {}"), [1]);
    assert_eq!(unexplained("// Fast.\nunsafe impl Send for X {}"), [1 + 1]);
    assert_eq!(unexplained("// SAFETY: far away.\n\nunsafe impl Send for X {}"), [3]);
    assert_eq!(unexplained("/// Does it.\n#[inline]\npub unsafe fn f() {}"), [3]);
    let broken = "// SAFETY: so.\nlet x =\n    unsafe { g() };";
    assert!(unexplained(broken).is_empty());
    assert_eq!(unexplained(&broken[15..]), [2]);
    let good = "// SAFETY: two\n// lines.\nlet x = unsafe { g() };\n/// # Safety\n/// Never.\n#[inline]\nunsafe fn f() {}";
    assert!(unexplained(good).is_empty());
    assert!(
        unexplained("let s = \"unsafe\"; // unsafe\n#![allow(unsafe_code)]\nrun: unsafe fn(usize),")
            .is_empty()
    );
}

/// Work that was left, by line.
fn unfinished(text: &str) -> Vec<usize> {
    let code = code(text);
    let macros = ["todo", "unimplemented"].into_iter().flat_map(|m| {
        words(&code, m).filter(|&at| code[at + m.len()..].starts_with('!')).map(|at| line_of(&code, at))
    });
    let notes = text.lines().zip(1..).filter(|(l, _)| l.contains(concat!("FIX", "ME"))).map(|(_, n)| n);
    macros.chain(notes).collect()
}

#[test]
fn nothing_is_left_unfinished_or_overlong() {
    let mut wrong = Vec::new();
    for (path, text) in files() {
        let lines = text.lines().count();
        if lines > MOST_LINES {
            wrong.push(format!("{path}: {lines} lines, at most {MOST_LINES}"));
        }
        wrong.extend(unfinished(&text).iter().map(|l| format!("{path}:{l}: unfinished")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let note = concat!("fn f() {\n    todo", "!()\n}\n// FIX", "ME later\nunimplemented", "!(\"x\")");
    assert_eq!(unfinished(note).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([2, 4, 5]));
    assert!(unfinished("// todo! is a macro\nlet s = \"unimplemented!\"; todo();").is_empty());
}

/// Calls that panic, by line: what a library never does on a user's input.
fn panics(text: &str) -> Vec<(usize, &str)> {
    let all = code(text);
    let code = without_tests(&all);
    let method = |m: &'static str| {
        let calls =
            |at: &usize| code[..*at].trim_end().ends_with('.') && code[at + m.len()..].starts_with('(');
        words(code, m).filter(calls)
    };
    let macros = |m: &'static str| words(code, m).filter(move |at| code[at + m.len()..].starts_with('!'));
    let found =
        method("unwrap").chain(method("expect")).chain(method("unwrap_err")).chain(method("expect_err"));
    let found = found.chain(macros("panic")).chain(macros("unreachable")).chain(macros("assert"));
    let found = found.chain(macros("assert_eq")).chain(macros("assert_ne"));
    // These panic when the reader of the stream went away or its disk is full.
    let found = found.chain(["print", "println", "eprint", "eprintln", "dbg"].into_iter().flat_map(macros));
    let lines: BTreeSet<usize> = found.map(|at| line_of(code, at)).collect();
    lines.into_iter().map(|l| (l, text.lines().nth(l - 1).unwrap_or(""))).collect()
}

#[test]
fn the_library_does_not_panic_by_intent() {
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for (path, text) in library() {
        for (line, what) in panics(&text) {
            match PANICS.iter().position(|(p, part, _)| *p == path && what.contains(part)) {
                Some(i) => drop(used.insert(i)),
                None => wrong.push(format!("{path}:{line}: {}", what.trim())),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (i, (path, part, reason)) in PANICS.iter().enumerate() {
        assert!(used.contains(&i), "{path} is listed for `{part}` ({reason}), but has no such line");
    }

    let lines = |text: &str| panics(text).iter().map(|p| p.0).collect::<Vec<_>>();
    assert_eq!(
        lines("a.unwrap();\nb\n    .expect(\"x\");\npanic!(\"y\");\nassert!(z);\nunreachable!()"),
        [1, 3, 4, 5, 6]
    );
    assert_eq!(lines("println!();\nwriteln!(f);\neprint!(\"x\");"), [1, 3]);
    assert!(
        lines("#[expect(x)]\na.unwrap_or(1); // .unwrap()\nlet s = \".unwrap()\"; debug_assert!(x);")
            .is_empty()
    );
    assert!(lines("fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() { a.unwrap(); }\n}").is_empty());
}

#[test]
fn comments_and_strings_are_no_code() {
    let text = "a /* b /* c */ d */ e // f\n\"g \\\" h\" r#\"i \" j\"# 'k' '\\'' '\\u{1F600}' &'l m b\"n\" br\"o\"\nz";
    let left: String = code(text).chars().filter(|c| !c.is_whitespace()).collect();
    assert_eq!(left, "ae&'lmbbz", "{}", code(text));
    assert_eq!(code(text).lines().count(), text.lines().count());
    let comments: Vec<String> =
        parts("a \"// b\" /* c\nd */ e // f").1.lines().map(|l| l.trim().to_owned()).collect();
    assert_eq!(comments, ["/* c", "d */   // f"]);
}
