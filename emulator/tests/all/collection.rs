//! The collection: kernels of the kinds that training needs, against f64.

use crate::gpu::{Arg, Gpu, bytes_f32, error, halves, reals, tell};
use crate::nvrtc;
use emulator::{Loaded, Report};

/// What a kernel gave: reports of its launches, and its errors by name.
#[derive(Default)]
pub struct Outcome {
    pub reports: Vec<Report>,
    pub errors: Vec<(&'static str, f64)>,
}

/// A kernel of the collection.
pub struct Entry {
    pub name: &'static str,
    pub file: &'static str,
    pub source: &'static str,
    pub archs: &'static [&'static str],
    pub run: fn(&mut Gpu, &Loaded) -> Outcome,
}

macro_rules! entry {
    ($name:literal, $file:literal, $archs:expr, $run:expr) => {
        Entry { name: $name, file: concat!($file, ".cu"), source: include_str!(concat!("../kernels/", $file, ".cu")), archs: $archs, run: $run }
    };
}

const AMPERE: &[&str] = &["compute_80", "compute_90a", "compute_100", "compute_120"];

pub const COLLECTION: &[Entry] = &[entry!("product", "product", AMPERE, product)];

fn product(g: &mut Gpu, m: &Loaded) -> Outcome {
    let mut out = Outcome::default();
    for [rows, cols, deep] in [[64, 64, 64], [70, 72, 40], [130, 64, 104]] {
        let (a, ab) = halves(&reals(1, rows * deep));
        let (b, bb) = halves(&reals(2, cols * deep));
        let bias = reals(3, cols);
        let (pa, pb, pbias) = (g.input("A", &ab), g.input("B", &bb), g.input("bias", &bytes_f32(&bias)));
        let pc = g.memory.alloc("C", 2 * rows * cols);
        let args = [Arg::P(pa), Arg::P(pb), Arg::P(pbias), Arg::P(pc), Arg::I(rows as i32), Arg::I(cols as i32), Arg::I(deep as i32)];
        let grid = [cols.div_ceil(64) as u32, rows.div_ceil(64) as u32, 1];
        out.reports.push(g.run(m, "product", grid, 128, 0, &args));
        let truth: Vec<f64> = (0..rows * cols)
            .map(|i| (0..deep).map(|k| a[i / cols * deep + k] * b[i % cols * deep + k]).sum::<f64>() + bias[i % cols])
            .collect();
        out.errors.push(("C", error(&g.half(pc, rows * cols), &truth)));
    }
    out
}

/// Errors may be as large as rounding to bf16 makes them.
pub const BOUND: f64 = 4e-3;

#[test]
fn the_collection_gives_what_f64_gives() {
    for n in nvrtc::all() {
        for e in COLLECTION {
            for arch in e.archs {
                let ptx = n.ptx(e.file, e.source, arch);
                for seed in [0, 1, 2, 3] {
                    let mut g = Gpu::new(seed);
                    let m = g.load(&ptx);
                    let out = (e.run)(&mut g, &m);
                    let at = format!("{} for {arch}, NVRTC {}, seed {seed}", e.name, n.name);
                    for r in &out.reports {
                        assert!(r.findings.is_empty(), "{at}:\n{}", tell(&r.findings));
                    }
                    for (what, error) in out.errors {
                        assert!(error < BOUND, "{at}: {what} is off by {error:e}");
                    }
                }
            }
        }
    }
}
