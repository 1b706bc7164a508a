//! Instructions one by one, measures, schedules, threads and errors of approximate functions.

use crate::collection::{BOUND, COLLECTION, Entry};
use crate::gpu::{Arg, Gpu, bytes_i32, reals, tell};
use crate::nvrtc::{self, Nvrtc};
use emulator::isa::{Op, Round};
use emulator::number::{from_bf16, to_bf16, to_tf32};

const SOURCE: &str = include_str!("../kernels/matrices.cu");

fn entry(name: &str) -> &'static Entry {
    COLLECTION.iter().find(|e| e.name == name).unwrap()
}

/// One product: values of a matrix of words, and what they say.
fn product(
    n: &Nvrtc,
    kernel: &str,
    k: usize,
    each: usize,
    of: fn(u32, usize, bool) -> f64,
    make: fn(u64) -> u32,
    float: bool,
) {
    for arch in ["compute_80", "compute_120"] {
        let mut g = Gpu::new(1);
        let m = g.load(&n.ptx("matrices.cu", SOURCE, arch));
        let words = |seed: u64, rows: usize| -> Vec<u32> {
            (0..rows * k / each).map(|i| make(seed + i as u64)).collect()
        };
        let (a, b) = (words(1, 16), words(1000, 8));
        let c: Vec<f64> = (0..128).map(|i| f64::from(i % 11) - 5.0).collect();
        let word = |v: f64| if float { (v as f32).to_bits() } else { v as i32 as u32 };
        let bytes = |v: &[u32]| v.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        let c_words: Vec<u32> = c.iter().map(|&v| word(v)).collect();
        let (pa, pb, pc) =
            (g.input("A", &bytes(&a)), g.input("B", &bytes(&b)), g.memory.upload("C", &bytes(&c_words)));
        let r = g.run(&m, kernel, [1, 1, 1], 32, 0, &[Arg::P(pa), Arg::P(pb), Arg::P(pc)]);
        assert!(r.findings.is_empty(), "{kernel}: {}", tell(&r.findings));
        let found: Vec<u32> = g
            .memory
            .read(pc, 512)
            .unwrap()
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        for i in 0..128 {
            let element = |m: &[u32], row: usize, x: usize, first: bool| {
                of(m[row * k / each + x / each], x % each, first)
            };
            let truth =
                (0..k).map(|x| element(&a, i / 8, x, true) * element(&b, i % 8, x, false)).sum::<f64>()
                    + c[i];
            let found = if float { f64::from(f32::from_bits(found[i])) } else { f64::from(found[i] as i32) };
            assert!((found - truth).abs() <= 1e-6 * (1.0 + truth.abs()), "{kernel} {i}: {found} for {truth}");
        }
    }
}

fn some(seed: u64) -> f64 {
    reals(seed, 3)[2]
}

#[test]
fn products_of_every_kind_of_element() {
    let Some(n) = nvrtc::all().first() else { return };
    let half = |w: u32, i: usize, _: bool| f64::from(from_bf16((w >> (16 * i)) as u16));
    let halves = |s: u64| {
        u32::from(to_bf16(some(s), Round::Near)) | u32::from(to_bf16(some(s + 7), Round::Near)) << 16
    };
    product(n, "bf16_k8", 8, 2, half, halves, true);
    product(n, "bf16_k16", 16, 2, half, halves, true);
    // The lower 13 bits are set and must not count.
    let tf32 = |w: u32, _: usize, _: bool| f64::from(f32::from_bits(w & 0xffff_e000));
    let make = |s: u64| to_tf32(some(s) as f32, Round::Zero).to_bits() | 0x1abc;
    product(n, "tf32_k4", 4, 1, tf32, make, true);
    product(n, "tf32_k8", 8, 1, tf32, make, true);
    let bytes = |s: u64| (some(s).to_bits() >> 13) as u32;
    product(n, "s8_k16", 16, 4, |w, i, _| f64::from((w >> (8 * i)) as i8), bytes, false);
    let mixed = |w: u32, i: usize, first: bool| {
        let byte = (w >> (8 * i)) as u8;
        if first { f64::from(byte as i8) } else { f64::from(byte) }
    };
    product(n, "s8_k32", 32, 4, mixed, bytes, false);
}

#[test]
fn lanes_exchange_what_they_should() {
    let Some(n) = nvrtc::all().first() else { return };
    let x: Vec<i32> = (0..32).map(|i| (i * 37 + 11) % 101 - 20).collect();
    for arch in ["compute_80", "compute_100"] {
        let mut g = Gpu::new(0);
        let m = g.load(&n.ptx("matrices.cu", SOURCE, arch));
        let (px, py) = (g.input("x", &bytes_i32(&x)), g.memory.alloc("y", 4 * 448));
        let r = g.run(&m, "lanes", [1, 1, 1], 32, 0, &[Arg::P(px), Arg::P(py)]);
        assert!(r.findings.is_empty(), "{}", tell(&r.findings));
        let y: Vec<i32> = g
            .memory
            .read(py, 4 * 448)
            .unwrap()
            .chunks_exact(4)
            .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        for l in 0..32usize {
            let v = x[l];
            let same = (0..32).filter(|&o| x[o] % 3 == v % 3).fold(0u32, |a, o| a | 1 << o);
            let wide = (u64::from(0x1234_5678u32) << 32 | u64::from(v as u32)) << l >> 32;
            let bytes = [v.to_le_bytes(), 0x89ab_cdefu32.to_le_bytes()].concat();
            let dp: i32 = (0..4)
                .map(|i| {
                    i32::from(v.to_le_bytes()[i] as i8) * i32::from(0x01fe_0380u32.to_le_bytes()[i] as i8)
                })
                .sum();
            let wider = v.wrapping_mul(70001);
            let (low, high) = (wider as i16, (wider >> 16) as i16);
            let signed = i32::from(low) * -128 + i32::from(high) * 3;
            let unsigned = u32::from(low as u16) * 0xfe + u32::from(high as u16) * 0x81;
            let expected = [
                x.iter().sum(),
                *x.iter().min().unwrap(),
                x.iter().map(|&v| v as u32).max().unwrap() as i32,
                same as i32,
                if l % 16 >= 3 { x[l - 3] } else { v },
                if l + 5 < 32 { x[l + 5] } else { v },
                x[l / 8 * 8 + l * 7 % 8],
                i32::from(x.iter().any(|&v| v > 90)) + 2,
                wide as u32 as i32,
                i32::from_le_bytes([bytes[1], bytes[4], bytes[3], bytes[7]]),
                dp + l as i32,
                v.reverse_bits() ^ (v | 1).leading_zeros() as i32 ^ ((v | 256).trailing_zeros() as i32 + 1),
                signed + l as i32,
                unsigned as i32 + l as i32,
            ];
            for (i, e) in expected.into_iter().enumerate() {
                assert_eq!(y[32 * i + l], e, "{arch}: word {i} of lane {l}");
            }
        }
    }
}

#[test]
fn bank_conflicts_and_instructions_are_counted() {
    let Some(n) = nvrtc::all().first() else { return };
    let e = entry("attention");
    let run = |source: &str| {
        let mut g = Gpu::new(0);
        let m = g.load(&n.ptx(e.file, source, "compute_80"));
        let report = (e.run)(&mut g, &m).reports.swap_remove(0);
        assert!(report.findings.is_empty(), "{}", tell(&report.findings));
        (report, m)
    };
    // Rows of 144 bytes: eight of them begin in different banks.
    let (padded, m) = run(e.source);
    assert_eq!(padded.stats.bank_conflicts(), 0);
    let k = m.kernel("attention").unwrap();
    let count = |f: fn(&Op) -> bool| padded.stats.count(k, f);
    assert!(count(|op| matches!(op, Op::Mma { .. })) > 0);
    // Scores and outputs take as many products each, and a ldmatrix of four serves two.
    let loads = count(|op| matches!(op, Op::Ldmatrix { .. }));
    assert!(2 * loads >= count(|op| matches!(op, Op::Mma { .. })), "{loads}");
    assert_eq!(padded.stats.mix.iter().sum::<u64>(), padded.stats.instructions);
    // Rows of 128 bytes: all begin in the same.
    let (plain, _) = run(&e.source.replace("#define ROW 72", "#define ROW 64"));
    assert!(plain.stats.bank_conflicts() > plain.stats.shared_requests, "{:?}", plain.stats.bank_conflicts());
}

#[test]
fn threads_change_nothing_and_schedules_no_result() {
    let Some(n) = nvrtc::all().first() else { return };
    for name in ["product", "attention", "loss"] {
        let e = entry(name);
        let ptx = n.ptx(e.file, e.source, "compute_80");
        let run = |threads: usize, seed: u64| {
            let mut g = Gpu::new(seed);
            g.options.threads = threads;
            let m = g.load(&ptx);
            let out = (e.run)(&mut g, &m);
            let stats: Vec<_> = out.reports.into_iter().map(|r| r.stats).collect();
            (stats, out.errors)
        };
        assert_eq!(run(1, 5), run(3, 5), "{name}");
        assert_eq!(run(1, 5).1, run(1, 6).1, "{name}");
    }
}

#[test]
fn approximate_functions_may_be_off() {
    let Some(n) = nvrtc::all().first() else { return };
    let e = entry("attention");
    let ptx = n.ptx(e.file, e.source, "compute_80");
    let run = |blur: u64| {
        let mut g = Gpu::new(0);
        g.options.blur = blur;
        let m = g.load(&ptx);
        (e.run)(&mut g, &m).errors
    };
    let (exact, off) = (run(0), run(3));
    assert_ne!(exact, off);
    assert_eq!(off, run(3));
    assert!(off.iter().all(|e| e.1 < BOUND), "{off:?}");
}

#[test]
fn what_is_not_known_is_refused_with_its_line() {
    let head = ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{\n.reg .b32 %r<4>;\n.reg .b64 %rd<4>;\n";
    let refused = |body: &str, line: u32, what: &str| {
        let e = emulator::parse(&format!("{head}{body}\nret;\n}}\n")).expect_err(body);
        assert!(e.line == line && e.what.contains(what), "{body}: {e}");
    };
    refused("add.s32 %r1, %r2, %r3;\nfrobnicate.b32 %r1, %r2;", 9, "frobnicate");
    refused("add.sideways.s32 %r1, %r2, %r3;", 8, ".sideways");
    refused("add.s32 %r1, %r2;", 8, "missing");
    refused("add.s32 %r1, %r2, %r9;", 8, "%r9");
    refused("bra nowhere;", 8, "nowhere");
    refused("tcgen05.alloc.cta_group::1.sync.aligned.b32 [%r1], 32;", 8, "tcgen05");
    refused("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%rd1}, {%rd1}, {%rd1}, {%rd1};", 8, "mma");
    refused(".reg .b128 %q;", 8, ".b128");
    let e =
        emulator::parse(".version 9.0\n.target sm_80\n.address_size 64\n.global .texref t;\n").unwrap_err();
    assert_eq!(e.line, 4);
}
