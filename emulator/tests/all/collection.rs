//! The collection: kernels of the kinds that training needs, against f64.

use crate::gpu::{Arg, Gpu, bytes_f32, bytes_i32, error, halves, reals, tell};
use crate::nvrtc;
use emulator::isa::Round;
use emulator::{Loaded, Report, TensorMap};

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
        Entry {
            name: $name,
            file: concat!($file, ".cu"),
            source: include_str!(concat!("../kernels/", $file, ".cu")),
            archs: $archs,
            run: $run,
        }
    };
}

const AMPERE: &[&str] = &["compute_80", "compute_90a", "compute_100", "compute_120"];

const ALL: &[&str] = &["compute_75", "compute_80", "compute_90a", "compute_100", "compute_120"];
const HOPPER: &[&str] = &["compute_90a"];

pub const COLLECTION: &[Entry] = &[
    entry!("product", "product", AMPERE, product),
    entry!("turing", "turing", ALL, turing),
    entry!("attention", "attention", AMPERE, attention),
    entry!("norm", "norm", ALL, norm),
    entry!("step", "step", ALL, step),
    entry!("loss", "loss", ALL, loss),
    entry!("table", "table", ALL, table),
    entry!("squares", "table", ALL, squares),
    entry!("mixed", "mixed", ALL, mixed),
    entry!("pipeline", "pipeline", AMPERE, pipeline),
    entry!("hopper", "hopper", HOPPER, hopper),
];

fn product(g: &mut Gpu, m: &Loaded) -> Outcome {
    let mut out = Outcome::default();
    for [rows, cols, deep] in [[64, 64, 64], [70, 72, 40], [130, 64, 104]] {
        let (a, ab) = halves(&reals(1, rows * deep));
        let (b, bb) = halves(&reals(2, cols * deep));
        let bias = reals(3, cols);
        let (pa, pb, pbias) = (g.input("A", &ab), g.input("B", &bb), g.input("bias", &bytes_f32(&bias)));
        let pc = g.memory.alloc("C", 2 * rows * cols);
        let args = [
            Arg::P(pa),
            Arg::P(pb),
            Arg::P(pbias),
            Arg::P(pc),
            Arg::I(rows as i32),
            Arg::I(cols as i32),
            Arg::I(deep as i32),
        ];
        let grid = [cols.div_ceil(64) as u32, rows.div_ceil(64) as u32, 1];
        out.reports.push(g.run(m, "product", grid, 128, 0, &args));
        let truth: Vec<f64> = (0..rows * cols)
            .map(|i| {
                (0..deep).map(|k| a[i / cols * deep + k] * b[i % cols * deep + k]).sum::<f64>()
                    + bias[i % cols]
            })
            .collect();
        out.errors.push(("C", error(&g.half(pc, rows * cols), &truth)));
    }
    out
}

fn turing(g: &mut Gpu, m: &Loaded) -> Outcome {
    let mut out = Outcome::default();
    let [rows, cols, deep] = [20, 33, 24];
    let f16 = |v: &[f64]| -> (Vec<f64>, Vec<u8>) {
        let h: Vec<u16> = v.iter().map(|&x| emulator::number::to_f16(x, Round::Near)).collect();
        (
            h.iter().map(|&h| emulator::number::from_f16(h).into()).collect(),
            h.iter().flat_map(|h| h.to_le_bytes()).collect(),
        )
    };
    let ((a, ab), (b, bb)) = (f16(&reals(1, rows * deep)), f16(&reals(2, cols * deep)));
    let (pa, pb, pc) = (g.input("A", &ab), g.input("B", &bb), g.memory.alloc("C", 4 * rows * cols));
    let args =
        [Arg::P(pa), Arg::P(pb), Arg::P(pc), Arg::I(rows as i32), Arg::I(cols as i32), Arg::I(deep as i32)];
    out.reports.push(g.run(m, "turing", [3, 2, 1], 32, 0, &args));
    let truth = dots(&a, &b, rows, cols, deep);
    out.errors.push(("C", error(&g.f32(pc, rows * cols), &truth)));
    out
}

fn dots(a: &[f64], b: &[f64], rows: usize, cols: usize, deep: usize) -> Vec<f64> {
    (0..rows * cols)
        .map(|i| (0..deep).map(|k| a[i / cols * deep + k] * b[i % cols * deep + k]).sum())
        .collect()
}

fn attention(g: &mut Gpu, m: &Loaded) -> Outcome {
    let mut out = Outcome::default();
    let (heads, width) = (2usize, 64usize);
    let starts = [0i32, 64, 131, 136];
    let tokens = starts[3] as usize;
    let n = tokens * heads * width;
    let [(q, qb), (k, kb), (v, vb), (dy, dyb)] = [1, 2, 3, 4].map(|s| halves(&reals(s, n)));
    let scale = std::f64::consts::LOG2_E / (width as f64).sqrt();
    let (pq, pk, pv) = (g.input("Q", &qb), g.input("K", &kb), g.input("V", &vb));
    let (ps, po, pl) = (
        g.input("starts", &bytes_i32(&starts)),
        g.memory.alloc("O", 2 * n),
        g.memory.alloc("L", 4 * tokens * heads),
    );
    let args = [
        Arg::P(pq),
        Arg::P(pk),
        Arg::P(pv),
        Arg::P(ps),
        Arg::P(po),
        Arg::P(pl),
        Arg::I(heads as i32),
        Arg::F(scale as f32),
    ];
    out.reports.push(g.run(m, "attention", [2, heads as u32, 3], 128, 3 * 64 * 72 * 2, &args));
    let (mut o, mut l) = (vec![0.0; n], vec![0.0; tokens * heads]);
    let [mut dq, mut dk, mut dv] = [0; 3].map(|_| vec![0.0; n]);
    let found = g.half(po, n);
    for s in 0..3 {
        let span = starts[s] as usize..starts[s + 1] as usize;
        for h in 0..heads {
            let row = |t: usize| (t * heads + h) * width;
            let dot = |a: &[f64], i: usize, b: &[f64], j: usize| {
                (0..width).map(|x| a[row(i) + x] * b[row(j) + x]).sum::<f64>()
            };
            for i in span.clone() {
                let scores: Vec<f64> = span.clone().map(|j| dot(&q, i, &k, j) * scale).collect();
                let total: f64 = scores.iter().map(|s| s.exp2()).sum();
                l[i * heads + h] = total.log2();
                let p: Vec<f64> = scores.iter().map(|s| s.exp2() / total).collect();
                for (j, p) in span.clone().zip(&p) {
                    (0..width).for_each(|x| o[row(i) + x] += p * v[row(j) + x]);
                }
                // The kernel sees the output as it was rounded.
                let delta = dot(&dy, i, &found, i);
                for (j, p) in span.clone().zip(&p) {
                    let ds = p * (dot(&dy, i, &v, j) - delta) / (width as f64).sqrt();
                    for x in 0..width {
                        dq[row(i) + x] += ds * k[row(j) + x];
                        dk[row(j) + x] += ds * q[row(i) + x];
                        dv[row(j) + x] += p * dy[row(i) + x];
                    }
                }
            }
        }
    }
    out.errors.push(("O", error(&found, &o)));
    out.errors.push(("L", error(&g.f32(pl, tokens * heads), &l)));
    let (pdy, pdq) = (g.input("dO", &dyb), g.memory.alloc("dQ", 4 * n));
    let (pdk, pdv) = (g.zeros("dK", 4 * n), g.zeros("dV", 4 * n));
    let args = [pq, pk, pv, ps, po, pdy, pl, pdq, pdk, pdv]
        .map(Arg::P)
        .into_iter()
        .chain([Arg::I(heads as i32), Arg::F(scale as f32)]);
    let args: Vec<Arg> = args.collect();
    out.reports.push(g.run(m, "attention_backward", [heads as u32, 3, 1], 64, 0, &args));
    for (name, at, truth) in [("dQ", pdq, dq), ("dK", pdk, dk), ("dV", pdv, dv)] {
        out.errors.push((name, error(&g.f32(at, n), &truth)));
    }
    out
}

fn norm(g: &mut Gpu, m: &Loaded) -> Outcome {
    let mut out = Outcome::default();
    let (rows, n) = (11usize, 70usize);
    let [(x, xb), (dy, dyb)] = [1, 2].map(|s| halves(&reals(s, rows * n)));
    let (gain, shift) = (reals(3, n), reals(4, n));
    let (px, pdy) = (g.input("x", &xb), g.input("dy", &dyb));
    let (pg, ps) = (g.input("gain", &bytes_f32(&gain)), g.input("shift", &bytes_f32(&shift)));
    let (py, pst, pdx) = (
        g.memory.alloc("y", 2 * rows * n),
        g.memory.alloc("stats", 8 * rows),
        g.memory.alloc("dx", 2 * rows * n),
    );
    let (pdg, pds) = (g.zeros("dgain", 4 * n), g.zeros("dshift", 4 * n));
    let sizes = [Arg::I(rows as i32), Arg::I(n as i32)];
    let args: Vec<Arg> =
        [px, pg, ps, py, pst].map(Arg::P).into_iter().chain(sizes).chain([Arg::F(1e-5)]).collect();
    out.reports.push(g.run(m, "norm_forward", [3, 1, 1], 128, 0, &args));
    let sizes = [Arg::I(rows as i32), Arg::I(n as i32)];
    let args: Vec<Arg> = [pdy, px, pg, pst, pdx, pdg, pds].map(Arg::P).into_iter().chain(sizes).collect();
    out.reports.push(g.run(m, "norm_backward", [2, 1, 1], 128, 8 * n, &args));
    let [mut y, mut dx] = [0; 2].map(|_| vec![0.0; rows * n]);
    let [mut dg, mut ds] = [0; 2].map(|_| vec![0.0; n]);
    for r in 0..rows {
        let at = |i: usize| r * n + i;
        let mean = (0..n).map(|i| x[at(i)]).sum::<f64>() / n as f64;
        let var = (0..n).map(|i| (x[at(i)] - mean).powi(2)).sum::<f64>() / n as f64;
        let scale = 1.0 / (var + 1e-5).sqrt();
        let h: Vec<f64> = (0..n).map(|i| (x[at(i)] - mean) * scale).collect();
        let s1 = (0..n).map(|i| dy[at(i)] * gain[i]).sum::<f64>() / n as f64;
        let s2 = (0..n).map(|i| dy[at(i)] * gain[i] * h[i]).sum::<f64>() / n as f64;
        for i in 0..n {
            y[at(i)] = h[i] * gain[i] + shift[i];
            dx[at(i)] = scale * (dy[at(i)] * gain[i] - s1 - h[i] * s2);
            dg[i] += dy[at(i)] * h[i];
            ds[i] += dy[at(i)];
        }
    }
    out.errors.push(("y", error(&g.half(py, rows * n), &y)));
    out.errors.push(("dx", error(&g.half(pdx, rows * n), &dx)));
    out.errors.push(("dgain", error(&g.f32(pdg, n), &dg)));
    out.errors.push(("dshift", error(&g.f32(pds, n), &ds)));
    out
}

/// The first word of Philox4x32-10 and its further ones, written anew from the paper.
fn philox(counter: [u32; 4]) -> [u32; 4] {
    let (mut k, mut c) = ([7u32, 11], counter);
    for _ in 0..10 {
        let (a, b) = (u64::from(c[0]) * 0xD251_1F53, u64::from(c[2]) * 0xCD9E_8D57);
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

fn step(g: &mut Gpu, m: &Loaded) -> Outcome {
    let mut out = Outcome::default();
    let n = 1027usize;
    let [(p, pb), (grad, gb)] = [1, 2].map(|s| halves(&reals(s, n)));
    let (mom, var) = (reals(3, n), reals(4, n).iter().map(|v| v.abs()).collect::<Vec<_>>());
    let (pp, pg) = (g.memory.upload("p", &pb), g.input("g", &gb));
    let (pm, pv) = (g.memory.upload("m", &bytes_f32(&mom)), g.memory.upload("v", &bytes_f32(&var)));
    let settings = [1e-2f32, 0.9, 0.999, 1e-8, 0.01, 1.5, 2.5];
    let args: Vec<Arg> = [pp, pg, pm, pv]
        .map(Arg::P)
        .into_iter()
        .chain([Arg::I(n as i32)])
        .chain(settings.map(Arg::F))
        .chain([Arg::I(3)])
        .collect();
    out.reports.push(g.run(m, "adamw", [2, 1, 1], 96, 0, &args));
    let [lr, b1, b2, eps, decay, f1, f2] = settings.map(f64::from);
    let (mut ep, mut em, mut ev) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
    for i in 0..n {
        let (m0, v0) = (f64::from(mom[i] as f32), f64::from(var[i] as f32));
        em[i] = b1 * m0 + (1.0 - b1) * grad[i];
        ev[i] = b2 * v0 + (1.0 - b2) * grad[i] * grad[i];
        ep[i] = p[i] - lr * (em[i] * f1 / ((ev[i] * f2).sqrt() + eps) + decay * p[i]);
    }
    let found = g.half(pp, n);
    out.errors.push(("m", error(&g.f32(pm, n), &em)));
    out.errors.push(("v", error(&g.f32(pv, n), &ev)));
    out.errors.push(("p", error(&found, &ep)));
    // Each is rounded up or down as its bits say; f32 may be off where the fraction is almost the threshold.
    let wrong = (0..n).filter(|&i| {
        let bits = philox([i as u32 / 4, 0, 3, 0])[i % 4] & 0xffff;
        let up = ((ep[i] as f32).to_bits().wrapping_add(bits) >> 16) as u16;
        f64::from(emulator::number::from_bf16(up)) != found[i]
    });
    out.errors.push(("random rounding", wrong.count() as f64 / n as f64));
    out
}

fn loss(g: &mut Gpu, m: &Loaded) -> Outcome {
    let mut out = Outcome::default();
    let (rows, classes) = (5usize, 300usize);
    let (x, xb) = halves(&reals(1, rows * classes).iter().map(|v| v * 6.0).collect::<Vec<_>>());
    let targets = [7i32, 0, -100, 299, 150];
    let (px, pt) = (g.input("logits", &xb), g.input("targets", &bytes_i32(&targets)));
    let (pl, pd) = (g.memory.alloc("loss", 4 * rows), g.memory.alloc("dlogits", 2 * rows * classes));
    let args = [Arg::P(px), Arg::P(pt), Arg::P(pl), Arg::P(pd), Arg::I(classes as i32), Arg::F(0.25)];
    out.reports.push(g.run(m, "cross_entropy", [rows as u32, 1, 1], 256, 0, &args));
    let (mut losses, mut dx) = (vec![0.0; rows], vec![0.0; rows * classes]);
    for (r, &t) in targets.iter().enumerate().filter(|t| *t.1 >= 0) {
        let row = &x[r * classes..(r + 1) * classes];
        let total: f64 = row.iter().map(|v| v.exp()).sum();
        losses[r] = total.ln() - row[t as usize];
        for (c, v) in row.iter().enumerate() {
            dx[r * classes + c] = (v.exp() / total - f64::from(u8::from(c == t as usize))) * 0.25;
        }
    }
    out.errors.push(("loss", error(&g.f32(pl, rows), &losses)));
    out.errors.push(("dlogits", error(&g.half(pd, rows * classes), &dx)));
    out
}

fn table(g: &mut Gpu, m: &Loaded) -> Outcome {
    let mut out = Outcome::default();
    let (tokens, width, rows) = (37usize, 24usize, 9usize);
    let ids: Vec<i32> = (0..tokens as i32).map(|i| i * i % rows as i32).collect();
    let (dy, dyb) = halves(&reals(1, tokens * width));
    let (pi, pd, pt) =
        (g.input("ids", &bytes_i32(&ids)), g.input("dy", &dyb), g.zeros("table", 4 * rows * width));
    let args = [Arg::P(pi), Arg::P(pd), Arg::P(pt), Arg::I(tokens as i32), Arg::I(width as i32), Arg::I(1)];
    out.reports.push(g.run(m, "embedding_backward", [3, 1, 1], 64, 0, &args));
    let mut truth = vec![0.0; rows * width];
    for (t, &id) in ids.iter().enumerate().filter(|i| *i.1 != 1) {
        (0..width).for_each(|c| truth[id as usize * width + c] += dy[t * width + c]);
    }
    out.errors.push(("table", error(&g.f32(pt, rows * width), &truth)));
    out
}

fn squares(g: &mut Gpu, m: &Loaded) -> Outcome {
    let mut out = Outcome::default();
    let n = 3001;
    let x = reals(1, n);
    let (px, pp) = (g.input("x", &bytes_f32(&x)), g.memory.alloc("parts", 4 * 7));
    let (pc, po) = (g.zeros("counter", 4), g.memory.alloc("out", 4));
    // Twice: the counter has to be as it was.
    for _ in 0..2 {
        let args = [Arg::P(px), Arg::P(pp), Arg::P(pc), Arg::P(po), Arg::I(n as i32)];
        out.reports.push(g.run(m, "squares", [7, 1, 1], 128, 0, &args));
        out.errors.push(("sum", error(&g.f32(po, 1), &[x.iter().map(|v| v * v).sum()])));
    }
    out
}

/// The error function by its series and continued fraction, to f64's precision where it is asked for here.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..60 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn mixed(g: &mut Gpu, m: &Loaded) -> Outcome {
    let mut out = Outcome::default();
    let n = 150usize;
    let x: Vec<f64> = reals(1, n).iter().map(|&v| f64::from(v as f32)).collect();
    let (px, py, pf) = (g.input("x", &bytes_f32(&x)), g.memory.alloc("y", 4 * n), g.memory.alloc("found", 4));
    let mut pair = [0u8; 16];
    pair[..4].copy_from_slice(&0.75f32.to_le_bytes());
    pair[8..16].copy_from_slice(&1.25f64.to_le_bytes());
    let k = m.kernel("mixed").unwrap();
    let mut params = vec![0u8; k.param_bytes];
    let pieces = [
        px.to_le_bytes().to_vec(),
        py.to_le_bytes().to_vec(),
        pf.to_le_bytes().to_vec(),
        (n as i32).to_le_bytes().to_vec(),
        pair.to_vec(),
    ];
    for (p, bytes) in k.params.iter().zip(pieces) {
        params[p.at..p.at + p.size].copy_from_slice(&bytes);
    }
    let grid = emulator::Grid { grid: [3, 1, 1], block: [64, 1, 1], shared: 0 };
    out.reports.push(emulator::launch(&g.memory, m, k, grid, &params, &g.options));
    let positive = |from: usize, to: usize| (from..to.min(n)).filter(|&j| x[j] > 0.0).count();
    let truth: Vec<f64> = (0..n)
        .map(|i| {
            let c = |k: usize| x[(i + k) % n];
            match i % 9 {
                0 => (0..1 + i % 6).fold(0.0, |y, k| y * 0.5 + c(k)),
                1 => erf(x[i]),
                2 => x[i].tanh(),
                3 => f64::from(x[i] as f32 * 100.0).cos() + f64::from(x[i] as f32 * 1e6).sin(),
                4 => x[i].abs().powf(1.5),
                5 => [0.5, -1.5, 2.25, 3.0][i % 4] * x[i],
                6 => (1.25 + 1.5) * x[i],
                7 => c(i % 6) + 1.5,
                _ => x[i].exp() + x[i].abs().ln_1p() + positive(i / 32 * 32, i) as f64,
            }
        })
        .collect();
    out.errors.push(("y", error(&g.f32(py, n), &truth) * 1e3));
    let found = g.memory.read(pf, 4).unwrap();
    let expected = positive((n - 1) / 32 * 32, n) as f64;
    out.errors.push(("vote", f64::from(found[0]) - expected));
    let counts = m.module.variables.iter().position(|v| v.name == "counts").map(|i| m.variables[i]).unwrap();
    let total: u32 = g.memory.read(counts, 12).unwrap().chunks_exact(4).map(|b| u32::from(b[0])).sum();
    out.errors.push(("counts", f64::from(total) - n as f64));
    out
}

fn pipeline(g: &mut Gpu, m: &Loaded) -> Outcome {
    let mut out = Outcome::default();
    let (blocks, n) = (3usize, 256 * 7);
    let x = reals(1, blocks * n);
    let (px, py) = (g.input("x", &bytes_f32(&x)), g.memory.alloc("y", 4 * blocks));
    out.reports.push(g.run(
        m,
        "pipeline",
        [blocks as u32, 1, 1],
        128,
        0,
        &[Arg::P(px), Arg::P(py), Arg::I(n as i32)],
    ));
    let truth: Vec<f64> = x.chunks(n).map(|c| c.iter().map(|&v| f64::from(v as f32)).sum()).collect();
    out.errors.push(("y", error(&g.f32(py, blocks), &truth)));
    out
}

fn hopper(g: &mut Gpu, m: &Loaded) -> Outcome {
    let mut out = Outcome::default();
    let [rows, cols, deep] = [100usize, 136, 328];
    let ((a, ab), (b, bb)) = (halves(&reals(1, rows * deep)), halves(&reals(2, cols * deep)));
    let (pa, pb, pc) = (g.input("A", &ab), g.input("B", &bb), g.memory.alloc("C", 2 * rows * cols));
    let map = |base, d0: usize, d1: usize, tile: [u32; 2], swizzle| {
        let map = TensorMap {
            base,
            element: 2,
            dims: vec![d0 as u64, d1 as u64],
            strides: vec![2 * d0 as u64],
            tile: tile.to_vec(),
            swizzle,
        };
        assert_eq!(map.invalid(), None);
        Arg::Map(Box::new(map.to_bytes()))
    };
    let args = [
        map(pa, deep, rows, [64, 64], 128),
        map(pb, deep, cols, [64, 128], 128),
        map(pc, cols, rows, [128, 64], 0),
        Arg::I(deep as i32),
    ];
    out.reports.push(g.run(m, "hopper", [2, 2, 1], 160, 3 * (8192 + 16384) + 16384, &args));
    out.errors.push(("C", error(&g.half(pc, rows * cols), &dots(&a, &b, rows, cols, deep))));
    out
}

/// Errors may be as large as rounding to bf16 makes them.
pub const BOUND: f64 = 4e-3;

#[test]
fn the_collection_gives_what_f64_gives() {
    for n in nvrtc::all() {
        for e in COLLECTION.iter().filter(|e| !skipped(e)) {
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

/// Which entry, where there is time for one only: `EMULATOR_ONLY=attention`.
fn skipped(e: &Entry) -> bool {
    std::env::var("EMULATOR_ONLY").is_ok_and(|o| o != e.name)
}
