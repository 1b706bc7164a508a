//! Mutated PTX: it is refused or run, but never a panic and never without an end.

use crate::collection::COLLECTION;
use crate::nvrtc;
use emulator::{Grid, Loaded, Memory, Options, launch, parse};

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n.max(1)
    }
}

/// One to four changes: of a byte, a number, a word, a line.
fn mutate(text: &str, other: &str, r: &mut Random) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let spare: Vec<&str> = other.lines().collect();
    for _ in 0..1 + r.below(4) {
        // Most of a text is header and lines of debug information.
        let mut at = r.below(lines.len());
        for _ in 0..20 {
            if lines[at].contains(';') && !lines[at].contains(".loc") {
                break;
            }
            at = r.below(lines.len());
        }
        match r.below(9) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[r.below(lines.len())].clone()),
            2 => lines[at] = spare[r.below(spare.len())].to_owned(),
            3 => {
                let to = r.below(lines.len());
                lines.swap(at, to);
            }
            4 => {
                let mut bytes = lines[at].clone().into_bytes();
                if !bytes.is_empty() {
                    let i = r.below(bytes.len());
                    bytes[i] = 32 + r.below(95) as u8;
                }
                lines[at] = String::from_utf8_lossy(&bytes).into_owned();
            }
            5 => {
                let number = [
                    "0",
                    "1",
                    "-1",
                    "31",
                    "32",
                    "4294967295",
                    "9223372036854775807",
                    "0f7FC00000",
                    "65536",
                    "7",
                ][r.below(10)];
                let digits = lines[at].find(|c: char| c.is_ascii_digit());
                if let Some(from) = digits {
                    let end = lines[at][from..]
                        .find(|c: char| !c.is_ascii_digit())
                        .map_or(lines[at].len(), |n| from + n);
                    lines[at].replace_range(from..end, number);
                }
            }
            6 => {
                // Another register of the same sort.
                if let Some(i) = lines[at].rfind("%r").or(lines[at].rfind("%p")).or(lines[at].rfind("%f")) {
                    let i = i + 2 + usize::from(lines[at][i..].starts_with("%rd"));
                    let end =
                        lines[at][i..].find(|c: char| !c.is_ascii_digit()).map_or(lines[at].len(), |n| i + n);
                    lines[at].replace_range(i..end, &(1 + r.below(40)).to_string());
                }
            }
            7 => {
                // Another type or another part of an opcode.
                let parts = [
                    "u32", "s32", "f32", "b64", "u64", "f64", "b16", "pred", "shared", "global", "local",
                    "v2", "v4", "wide", "hi", "ftz", "sat",
                ];
                if let Some(i) = lines[at].find('.') {
                    let end = lines[at][i + 1..]
                        .find(|c: char| !c.is_ascii_alphanumeric())
                        .map_or(lines[at].len(), |n| i + 1 + n);
                    lines[at].replace_range(i + 1..end, parts[r.below(parts.len())]);
                }
            }
            _ => {
                let cut = r.below(lines[at].len() + 1);
                if lines[at].is_char_boundary(cut) {
                    lines[at].truncate(cut);
                }
            }
        }
        if lines.is_empty() {
            lines.push(String::new());
        }
    }
    lines.join("\n")
}

/// Runs every kernel of a text with arguments that suit its parameters' sizes; gives how many there were.
fn run(text: &str, seed: u64) -> usize {
    let Ok(module) = parse(text) else { return 0 };
    let mut memory = Memory::default();
    let loaded = Loaded::new(module, &mut memory);
    let options = Options { seed, patience: 5_000, limit: 60_000, threads: 1, ..Options::default() };
    for k in &loaded.module.kernels {
        let mut params = vec![0u8; k.param_bytes];
        for p in &k.params {
            match p.size {
                8 => {
                    let at = memory.upload(&p.name, &[1; 8192]);
                    params[p.at..p.at + 8].copy_from_slice(&at.to_le_bytes());
                }
                4 => params[p.at..p.at + 4].copy_from_slice(&40u32.to_le_bytes()),
                _ => {}
            }
        }
        let grid = Grid { grid: [2, 1, 1], block: [64, 1, 1], shared: 4096 };
        launch(&memory, &loaded, k, grid, &params, &options);
    }
    loaded.module.kernels.len()
}

/// Mutates and runs so many texts. What a kernel may do is limited in instructions, so a text cannot run for
/// ever.
fn fuzz(texts: u64) {
    let Some(n) = nvrtc::all().first() else { return };
    let corpus: Vec<String> = COLLECTION.iter().map(|e| n.ptx(e.file, e.source, e.archs[0])).collect();
    let seed = std::env::var("EMULATOR_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let mut r = Random(seed);
    let mut ran = 0;
    for tried in 1..=texts {
        let text = mutate(&corpus[r.below(corpus.len())], &corpus[r.below(corpus.len())], &mut r);
        match std::panic::catch_unwind(|| run(&text, tried % 3)) {
            Ok(kernels) => ran += kernels,
            Err(_) => {
                let path = std::env::temp_dir().join(format!("emulator-fuzz-{seed}-{tried}.ptx"));
                std::fs::write(&path, text).unwrap();
                panic!("a panic on {}", path.display());
            }
        }
    }
    println!("{texts} texts, {ran} kernels run");
    assert!(ran > 0);
}

#[test]
fn mutated_ptx_is_survived() {
    fuzz(2_000);
}

#[test]
#[ignore = "ten minutes or so; EMULATOR_SEED chooses the mutations"]
fn mutated_ptx_is_survived_for_long() {
    fuzz(150_000);
}
