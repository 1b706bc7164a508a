//! The documentation against the program and the tree: commands parse, options, recipe keys, paths, links and
//! names exist. `docs_run.rs` runs what the pages show.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use tempra::cli::command;
use tempra::train::Recipe;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A page: its name from the repository's root, and its text.
pub struct Page {
    pub name: String,
    pub text: String,
}

/// A fenced block.
pub struct Block {
    /// The line of its first line of text, from 1.
    pub line: usize,
    /// The heading above it.
    pub heading: String,
    pub language: String,
    pub text: String,
}

/// Every page that a reader is sent to.
pub fn pages() -> Vec<Page> {
    let mut names: Vec<String> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned).to_vec();
    let more = ["benches/peers/README.md", "examples/sentiment/README.md", "tests/golden/README.md"];
    names.extend(more.map(str::to_owned));
    for file in fs::read_dir(repository().join("docs")).unwrap().flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        names.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    names.sort();
    let page = |name: String| Page { text: fs::read_to_string(repository().join(&name)).unwrap(), name };
    names.into_iter().map(page).collect()
}

/// The fenced blocks of a page, and its other lines with their numbers.
pub fn split(text: &str) -> (Vec<Block>, Vec<(usize, &str)>) {
    let (mut blocks, mut prose) = (Vec::<Block>::new(), Vec::new());
    let (mut inside, mut heading) = (false, String::new());
    for (i, line) in text.lines().enumerate() {
        match line.trim_start().strip_prefix("```") {
            Some(_) if inside => inside = false,
            Some(language) => {
                inside = true;
                let (language, text) = (language.trim().to_owned(), String::new());
                blocks.push(Block { line: i + 2, heading: heading.clone(), language, text });
            }
            None if inside => {
                let block = blocks.last_mut().unwrap();
                block.text += line;
                block.text.push('\n');
            }
            None => {
                if line.starts_with('#') {
                    heading = line.trim_start_matches('#').trim().to_owned();
                }
                prose.push((i + 1, line));
            }
        }
    }
    (blocks, prose)
}

/// The code spans of a line.
pub fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The commands of a shell line, each as its words: quotes are removed, comments left out, `>` is a word.
pub fn shell(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let (mut word, mut quoted) = (String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let separator = matches!(c, ' ' | '\t' | '|' | ';' | '&' | '>');
        if c == '#' && word.is_empty() {
            break;
        } else if c == '&' && commands.last().unwrap().last().is_some_and(|w| w == ">") && word.is_empty() {
            word.push(c);
        } else if separator {
            // `2>` is a redirection.
            if c == '>' && word.chars().all(|c| c.is_ascii_digit()) {
                word.clear();
            }
            if !word.is_empty() || quoted {
                commands.last_mut().unwrap().push(std::mem::take(&mut word));
                quoted = false;
            }
            match c {
                '>' => commands.last_mut().unwrap().push(">".to_owned()),
                '|' | ';' | '&' => commands.push(Vec::new()),
                _ => {}
            }
        } else if c == '\'' || c == '"' {
            quoted = true;
            word.extend(chars.by_ref().take_while(|x| *x != c));
        } else if c == '$' && chars.peek() == Some(&'(') {
            word.push(c);
            word.extend(chars.by_ref().take_while(|x| *x != ')'));
            word.push(')');
        } else {
            word.push(c);
        }
    }
    if !word.is_empty() || quoted {
        commands.last_mut().unwrap().push(word);
    }
    commands.retain(|words| !words.is_empty());
    commands
}

/// What a command does when what only starts it is taken away: `VAR=x`, `$(runner)`, `until`, `do`.
pub fn bare(words: &[String]) -> &[String] {
    let starts = |w: &String| {
        let variable = w
            .split_once('=')
            .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'));
        variable
            || w.starts_with("$(")
            || ["until", "while", "if", "do", "then", "time"].contains(&w.as_str())
    };
    &words[words.iter().take_while(|w| starts(w)).count()..]
}

/// The arguments of `tempra`, and the file that its output goes to.
pub fn arguments(words: &[String]) -> Option<(Vec<String>, Option<String>)> {
    let words = bare(words);
    let own = words.first().is_some_and(|w| w == "tempra" || w.ends_with("/tempra"));
    let end = words.iter().position(|w| w == ">").unwrap_or(words.len());
    own.then(|| (words[1..end].to_vec(), words.get(end + 1).cloned()))
}

/// Why the program would refuse a command line. `sketch`: a command within a text may lack
/// arguments, hold placeholders such as SHELL, and dots.
fn refusal(arguments: &[String], sketch: bool) -> Option<String> {
    let words = arguments.iter().filter(|w| !(sketch && *w == "...")).map(|w| w.trim_end_matches("..."));
    let e = command().try_get_matches_from(["tempra"].into_iter().chain(words)).err()?;
    let placeholder = |value: &ContextValue| matches!(value, ContextValue::String(s) if s.chars().all(|c| c.is_ascii_uppercase()));
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => None,
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            if sketch =>
        {
            None
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation
            if sketch && e.get(ContextKind::InvalidValue).is_some_and(placeholder) =>
        {
            None
        }
        _ => Some(e.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}

/// Every long option of every command.
fn options() -> BTreeSet<String> {
    fn walk(command: &clap::Command, all: &mut BTreeSet<String>) {
        all.extend(command.get_arguments().filter_map(|a| a.get_long()).map(str::to_owned));
        command.get_subcommands().for_each(|sub| walk(sub, all));
    }
    let mut all: BTreeSet<String> = ["help", "version"].map(str::to_owned).into();
    walk(&command(), &mut all);
    all
}

/// Every key of a recipe, as `section.key`.
fn keys() -> BTreeSet<String> {
    Recipe::keys().iter().map(|key| key.path()).collect()
}

/// The recipe key that a code span names: `data.text`, `data.text = "x"`, `[data] text = "x"`. None for
/// anything else.
fn key_of(span: &str, keys: &BTreeSet<String>) -> Option<String> {
    let left = span.split('=').next().unwrap_or_default().trim();
    let key = match left.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((section, key)) => format!("{section}.{}", key.trim()),
        None => left.to_owned(),
    };
    let (section, name) = key.split_once('.')?;
    let word = |w: &str| {
        !w.is_empty() && w.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
    };
    let known = keys.iter().any(|k| k.split_once('.').is_some_and(|(s, _)| s == section));
    let file =
        ["json", "jsonl", "toml", "safetensors", "csv", "txt", "rs", "py", "md", "npy"].contains(&name);
    (word(section) && word(name) && known && !file).then_some(key)
}

/// The path in the repository that a code span names, if it looks like one without placeholders.
fn path_of(span: &str) -> Option<&str> {
    let span = span.trim_start_matches("$(").trim_end_matches(')');
    let tops = ["src/", "tests/", "docs/", "benches/", "kernels/", "shaders/", "examples/", "emulator/"];
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let placeholder = span
        .split(['/', '.'])
        .any(|w| w.len() > 1 && w.chars().all(|c| c.is_ascii_uppercase()) && w != "README");
    (tops.iter().any(|top| span.starts_with(top)) && span.chars().all(plain) && !placeholder).then_some(span)
}

/// What is wrong with a cargo command: a target, a feature or a test that is not there.
fn cargo_fault(words: &[String], tests: &str) -> Option<String> {
    let manifest = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let named = |kind: &str, name: &str| {
        let all = manifest.get(kind).and_then(|v| v.as_array()).into_iter().flatten();
        all.filter_map(|t| t.get("name")?.as_str()).any(|n| n == name)
    };
    for pair in words.windows(2) {
        let [option, name] = pair else { continue };
        let there = match option.as_str() {
            "--test" => named("test", name),
            "--bench" => named("bench", name),
            "--features" => name.split(',').all(|f| manifest["features"].get(f).is_some()),
            _ => true,
        };
        if !there {
            return Some(format!("{option} {name}: not in Cargo.toml"));
        }
    }
    let at = words.windows(2).position(|w| w == ["--test", "all"])?;
    let filter =
        words.get(at + 2).filter(|w| !w.starts_with('-') && w.chars().any(|c| c.is_ascii_lowercase()))?;
    let found = tests.lines().any(|l| l.contains(filter.as_str()));
    (!found).then(|| format!("no test of `--test all` has {filter:?} in its name"))
}

/// The modules and functions of `tests/all/`, one a line.
fn test_names() -> String {
    let mut all = String::new();
    for file in fs::read_dir(repository().join("tests/all")).unwrap().flatten() {
        all += &format!("{}\n", file.path().file_stem().unwrap().to_string_lossy());
        let text = fs::read_to_string(file.path()).unwrap();
        let names =
            text.lines().filter_map(|l| l.trim().strip_prefix("fn ")?.split('(').next().map(str::to_owned));
        names.for_each(|name| all += &format!("{name}\n"));
    }
    all
}

/// The text of every source and script, to look for names of variables.
fn sources() -> String {
    fn walk(dir: &Path, all: &mut String) {
        for path in fs::read_dir(dir).unwrap().flatten().map(|f| f.path()) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !["golden", "results", "target", ".git"].contains(&name.as_str()) {
                walk(&path, all);
            } else if path.is_file() && !name.ends_with(".md") && name != "docs.rs" {
                *all += &fs::read_to_string(&path).unwrap_or_default();
            }
        }
    }
    let mut all = String::new();
    ["src", "tests", "benches", "examples", "emulator/src"]
        .iter()
        .for_each(|d| walk(&repository().join(d), &mut all));
    all
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
fn anchors(text: &str) -> BTreeSet<String> {
    let (_, prose) = split(text);
    let headings = prose.iter().filter(|(_, l)| l.starts_with('#'));
    headings.map(|(_, l)| anchor(l.trim_start_matches('#'))).collect()
}

/// The targets of links and pictures in a line, in Markdown and in HTML.
fn targets(line: &str) -> Vec<&str> {
    let markdown = line.match_indices("](").filter_map(|(i, _)| line[i + 2..].split(')').next());
    let html = ["src=\"", "srcset=\"", "href=\""];
    let html = html
        .iter()
        .flat_map(|a| line.match_indices(a).filter_map(|(i, a)| line[i + a.len()..].split('"').next()));
    markdown.chain(html).collect()
}

/// Why a link leads nowhere.
fn broken(page: &Page, target: &str) -> Option<String> {
    if target.starts_with("http://") || target.starts_with("https://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, part) = target.split_once('#').map_or((target, None), |(path, part)| (path, Some(part)));
    let file = match path {
        "" => repository().join(&page.name),
        _ => repository().join(&page.name).parent().unwrap().join(path),
    };
    let text =
        if path.is_empty() { page.text.clone() } else { fs::read_to_string(&file).unwrap_or_default() };
    if !path.is_empty() && !file.exists() {
        return Some(format!("link to {path}, which does not exist"));
    }
    let part = part.filter(|part| !anchors(&text).contains(*part))?;
    Some(format!("link to {target}: no heading has the anchor #{part}"))
}

/// All that is wrong on a page, with file and line.
fn faults(page: &Page) -> Vec<String> {
    let (keys, options, tests, sources) = (keys(), options(), test_names(), sources());
    let (blocks, prose) = split(&page.text);
    let mut found = Vec::new();
    let mut say = |line: usize, what: String| found.push(format!("{}:{line}: {what}", page.name));
    let mut check = |line: usize, text: &str, sketch: bool| {
        for words in shell(text) {
            if let Some((arguments, _)) = arguments(&words) {
                let shown = arguments.join(" ");
                let why = refusal(&arguments, sketch);
                why.into_iter().for_each(|why| say(line, format!("`tempra {shown}`: {why}")));
                let sets =
                    arguments.windows(2).filter(|w| w[0] == "--set").filter_map(|w| w[1].split_once('='));
                let unknown = sets.filter(|(key, _)| *key != "KEY" && !keys.contains(*key));
                unknown.for_each(|(key, _)| say(line, format!("no recipe key is called {key}")));
            }
            let words = bare(&words);
            match words.first().map(String::as_str) {
                Some("cargo") => cargo_fault(words, &tests).into_iter().for_each(|why| say(line, why)),
                Some("python3" | "python") | None => {}
                Some(_) if sketch => {}
                Some(program) if program.contains('/') && path_of(program).is_some() => {}
                Some(
                    "tempra" | "printf" | "cat" | "done" | "[" | "break" | "cd" | "git" | "pip" | "export"
                    | "cp",
                ) => {}
                Some(program) if program.ends_with("/tempra") => {}
                Some(other) => say(line, format!("`{other}` is no program that this test knows")),
            }
            let paths = words.iter().flat_map(|w| path_of(w)).filter(|p| !repository().join(p).exists());
            paths.for_each(|path| say(line, format!("{path} does not exist")));
        }
    };
    for block in blocks.iter().filter(|b| ["sh", "bash", "shell", "console"].contains(&b.language.as_str())) {
        block.text.lines().enumerate().for_each(|(i, text)| check(block.line + i, text, false));
    }
    for (line, text) in &prose {
        for span in spans(text) {
            if ["tempra ", "cargo "].iter().any(|start| span.starts_with(start))
                || span.contains("=") && span.contains(" cargo ")
            {
                check(*line, span, true);
            }
        }
    }
    for (line, text) in &prose {
        for span in spans(text) {
            let option = span.strip_prefix("--").and_then(|rest| rest.split([' ', '=']).next());
            // Pages on other programs name options of those.
            let own = !page.name.starts_with("benches/");
            if let Some(option) = option.filter(|o| own && *o != "features" && !options.contains(*o)) {
                say(*line, format!("no command has the option --{option}"));
            }
            if let Some(key) = key_of(span, &keys).filter(|key| !keys.contains(key)) {
                say(*line, format!("no recipe key is called {key}"));
            }
            let set = span.strip_prefix("--set ").and_then(|s| s.split_once('='));
            if let Some((key, _)) = set.filter(|(key, _)| *key != "KEY" && !keys.contains(*key)) {
                say(*line, format!("no recipe key is called {key}"));
            }
            if let Some(path) = path_of(span).filter(|p| !repository().join(p).exists()) {
                say(*line, format!("{path} does not exist"));
            }
            let variable =
                span.split('=').next().filter(|v| v.starts_with("TEMPRA_") || v.starts_with("EMULATOR_"));
            let variable = variable.filter(|v| v.chars().all(|c| c.is_ascii_uppercase() || c == '_'));
            if let Some(variable) = variable.filter(|v| !sources.contains(*v)) {
                say(*line, format!("nothing reads the variable {variable}"));
            }
        }
        targets(text).into_iter().filter_map(|t| broken(page, t)).for_each(|why| say(*line, why));
    }
    found
}

#[test]
fn pages_name_what_exists() {
    let found: Vec<String> = pages().iter().flat_map(faults).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn a_page_that_names_what_does_not_exist_is_found() {
    let page = |text: &str| Page { name: "docs/planted.md".to_owned(), text: text.to_owned() };
    let right = "# One `heading`\n\n```sh\n# a comment\ntempra train recipe.toml --set optim.lr=3e-5   # why\n\
        until tempra train r.toml; do [ $? -eq 75 ] || break; done\n$(tests/software-vulkan) target/release/tempra devices\n\
        tempra bench ops --op 'attention*' --json > x.json\n```\n\nSee `tempra eval MODEL DATA...`, `data.max_length`, \
        `[tag] strict = true`, `--json`, `src/lib.rs`, `TEMPRA_CACHE`, `cargo test --test all docs` and \
        [here](#one-heading) and [there](memory.md#an-example).\n";
    assert_eq!(faults(&page(right)), Vec::<String>::new());
    for (wrong, message) in [
        ("```sh\ntempra tarin recipe.toml\n```", "tarin"),
        ("```sh\ntempra train recipe.toml --epochs 3\n```", "--epochs"),
        ("```sh\ntempra eval model\n```", "required"),
        ("```sh\ntempra predict model new.csv --format xml\n```", "xml"),
        ("```sh\ntempra train recipe.toml --set train.rate=1\n```", "train.rate"),
        ("```sh\ntests/walk\n```", "tests/walk"),
        ("```sh\nnvidia-smoke\n```", "nvidia-smoke"),
        ("```sh\ncargo test --test none\n```", "--test none"),
        ("```sh\ncargo test --test all zebra_crossing\n```", "zebra_crossing"),
        ("Say `tempra evaluate MODEL`.", "evaluate"),
        ("Say `tempra eval MODEL --interval`.", "--interval"),
        ("Set `data.maximum`.", "data.maximum"),
        ("Set `[tag] strictly = true`.", "tag.strictly"),
        ("Say `--speed`.", "--speed"),
        ("Say `--set data.maximum=3`.", "data.maximum"),
        ("Build with `cargo build --features warp`.", "warp"),
        ("See `src/nowhere.rs`.", "src/nowhere.rs"),
        ("`TEMPRA_NOTHING=1`", "TEMPRA_NOTHING"),
        ("[x](nowhere.md)", "nowhere.md"),
        ("[x](memory.md#nothing)", "#nothing"),
        ("[x](#nothing)", "#nothing"),
        ("<img src=\"nowhere.png\">", "nowhere.png"),
    ] {
        let found = faults(&page(wrong));
        assert!(found.len() == 1 && found[0].contains(message), "{wrong}: {found:?}");
    }
}

/// The commands under "Example:" in the help of every command.
#[test]
fn examples_in_help_parse() {
    fn walk(command: &clap::Command, name: &str, found: &mut Vec<String>, count: &mut usize) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in help.lines().filter(|l| l.trim_start().starts_with("tempra ") || l.contains("| tempra "))
        {
            for (words, _) in shell(line).iter().filter_map(|words| arguments(words)) {
                *count += 1;
                found.extend(refusal(&words, false).map(|why| format!("{name}: {}: {why}", line.trim())));
            }
        }
        let subs = command.get_subcommands();
        subs.for_each(|sub| walk(sub, &format!("{name} {}", sub.get_name()), found, count));
    }
    let (mut found, mut count) = (Vec::new(), 0);
    walk(&command(), "tempra", &mut found, &mut count);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
    assert!(count > 25, "only {count} examples were found");
}

/// The names in the diagrams and the text of `docs/ARCHITECTURE.md` that are not in `src/`.
fn unreal(text: &str, sources: &str) -> Vec<String> {
    let plain = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let names =
        text.split(|c| !plain(c)).filter(|w| w.contains("::") && !w.starts_with(':') && !w.ends_with(':'));
    let kinds = ["fn", "struct", "enum", "trait", "mod", "type", "const"];
    let there = |name: &str| {
        let defined = |kind: &&str| {
            sources.match_indices(&format!("{kind} {name}")).any(|(i, m)| {
                let next = sources[i + m.len()..].chars().next();
                next.is_none_or(|c| !c.is_alphanumeric() && c != '_')
            })
        };
        kinds.iter().any(defined)
    };
    let unknown = |path: &&str| !path.split("::").all(there);
    names.filter(unknown).map(str::to_owned).collect()
}

#[test]
fn names_of_the_architecture_page_are_real() {
    let text = fs::read_to_string(repository().join("docs/ARCHITECTURE.md")).unwrap();
    let all: String = sources();
    assert_eq!(unreal(&text, &all), Vec::<String>::new());
    assert_eq!(unreal("`Tape::rewind` of `data::read`", &all), ["Tape::rewind"]);
    // Files are named from the root, from `src/` or from a folder in it. `model/` is what a run writes.
    let file = |span: &&str| {
        let name = |c: char| c.is_ascii_lowercase() || "/._".contains(c);
        (span.ends_with(".rs") || span.ends_with('/')) && span.chars().all(name) && *span != "model/"
    };
    let mut folders = vec![repository().to_owned(), repository().join("src")];
    let inner = fs::read_dir(repository().join("src")).unwrap().flatten().map(|f| f.path());
    folders.extend(inner.filter(|p| p.is_dir()));
    let there = |span: &str| folders.iter().any(|top| top.join(span).exists());
    let (_, prose) = split(&text);
    let missing: Vec<&str> =
        prose.iter().flat_map(|(_, l)| spans(l)).filter(file).filter(|s| !there(s)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

/// What is packaged for a registry: enough to build, and small.
#[test]
fn the_package_is_small_and_whole() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut list = std::process::Command::new(cargo);
    list.current_dir(repository()).args(["package", "--list", "--allow-dirty", "--offline"]);
    let out = list.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let listed: BTreeSet<PathBuf> =
        String::from_utf8(out.stdout).unwrap().lines().map(PathBuf::from).collect();
    let bytes: u64 =
        listed.iter().filter_map(|p| fs::metadata(repository().join(p)).ok()).map(|m| m.len()).sum();
    // As text it shrinks to a third or less: the archive stays below 2 MB.
    assert!(bytes < 4_000_000, "{bytes} bytes are packaged");
    for name in
        ["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE", "src/main.rs", "docs/known-gaps.md"]
    {
        assert!(listed.contains(Path::new(name)), "{name} is not packaged");
    }
    let strange = |p: &&PathBuf| {
        ["tests", "benches", "examples", "emulator", "target"].iter().any(|top| p.starts_with(top))
    };
    assert_eq!(listed.iter().find(strange), None);
    // Whatever the compiler reads besides Rust.
    for path in listed.iter().filter(|p| p.extension().is_some_and(|e| e == "rs")) {
        let text = fs::read_to_string(repository().join(path)).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (i, start) in code.match_indices("include_str!(\"").chain(code.match_indices("include_bytes!(\""))
        {
            let name = code[i + start.len()..].split('"').next().unwrap();
            let file = repository().join(path).parent().unwrap().join(name).canonicalize().unwrap();
            let file = file.strip_prefix(repository().canonicalize().unwrap()).unwrap().to_owned();
            assert!(listed.contains(&file), "{} reads {name}, which is not packaged", path.display());
        }
    }
}
