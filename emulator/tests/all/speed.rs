//! How fast the emulator is: `cargo test -p emulator --release speed -- --ignored --nocapture`.

use crate::collection::COLLECTION;
use crate::gpu::{Arg, Gpu, bytes_f32, bytes_i32, halves, reals, tell};
use crate::nvrtc;
use emulator::{Loaded, Report};

/// Milliseconds of a launch: median of several.
fn time(mut f: impl FnMut() -> Report) -> (f64, Report) {
    let mut all: Vec<(f64, Report)> = (0..21)
        .map(|_| {
            let begun = std::time::Instant::now();
            let report = f();
            (begun.elapsed().as_secs_f64() * 1e3, report)
        })
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    print!("(least {:.2}) ", all[0].0);
    all.swap_remove(10)
}

#[test]
#[ignore = "tells how fast it is; `cargo test -p emulator --release speed -- --ignored --nocapture`"]
fn speed() {
    let Some(n) = nvrtc::all().first() else { return };
    let find = |name: &str| COLLECTION.iter().find(|e| e.name == name).unwrap();
    let tell = |what: &str, (ms, r): (f64, Report)| {
        assert!(r.findings.is_empty());
        let conflicts = r.stats.bank_conflicts();
        println!(
            "{what}: {ms:.2} ms, {} instructions of warps, {conflicts} bank conflicts",
            r.stats.instructions
        );
    };
    for threads in [1, 0] {
        let mut g = Gpu::new(0);
        g.options.threads = threads;
        let e = find("product");
        let m = g.load(&n.ptx(e.file, e.source, "compute_80"));
        for size in [64usize, 128, 256] {
            let bytes = halves(&reals(1, size * size)).1;
            let (a, bias) = (g.input("A", &bytes), g.input("bias", &bytes_f32(&reals(2, size))));
            let c = g.memory.alloc("C", 2 * size * size);
            let s = size as i32;
            let args = [Arg::P(a), Arg::P(a), Arg::P(bias), Arg::P(c), Arg::I(s), Arg::I(s), Arg::I(s)];
            let blocks = size as u32 / 64;
            tell(
                &format!("product {size}, {threads} threads"),
                time(|| g.run(&m, "product", [blocks, blocks, 1], 128, 0, &args)),
            );
        }
        let e = find("attention");
        let m = g.load(&n.ptx(e.file, e.source, "compute_80"));
        for length in [64usize, 256] {
            let bytes = halves(&reals(1, length * 64)).1;
            let (q, starts) = (g.input("Q", &bytes), g.input("starts", &bytes_i32(&[0, length as i32])));
            let (o, l) = (g.memory.alloc("O", 128 * length), g.memory.alloc("L", 4 * length));
            let args = [
                Arg::P(q),
                Arg::P(q),
                Arg::P(q),
                Arg::P(starts),
                Arg::P(o),
                Arg::P(l),
                Arg::I(1),
                Arg::F(0.18),
            ];
            let grid = [length as u32 / 64, 1, 1];
            tell(
                &format!("attention {length}, {threads} threads"),
                time(|| g.run(&m, "attention", grid, 128, 27648, &args)),
            );
        }
    }
}

/// The launches of a training step of an encoder: two layers of width 64 (one head, inner width 256), 8 texts
/// of 16 tokens, a table of 1,000 rows. What they compute is of no meaning here, only what it takes to run
/// them.
#[test]
#[ignore = "tells how fast it is; `cargo test -p emulator --release speed -- --ignored --nocapture`"]
fn speed_of_training_steps() {
    let Some(n) = nvrtc::all().first() else { return };
    let mut g = Gpu::new(0);
    let load = |g: &mut Gpu, name: &str| {
        let e = COLLECTION.iter().find(|e| e.name == name).unwrap();
        g.load(&n.ptx(e.file, e.source, "compute_80"))
    };
    let [matrix, attention, norm, step, loss, table] =
        ["product", "attention", "norm", "step", "loss", "table"].map(|k| load(&mut g, k));
    let (tokens, parameters) = (128usize, 165_000usize);
    let some = |g: &mut Gpu, n: usize| g.memory.upload("data", &halves(&reals(1, n)).1);
    let (a, b, c) = (some(&mut g, 1 << 16), some(&mut g, 1 << 16), g.memory.alloc("C", 1 << 18));
    let bias = g.zeros("bias", 4096);
    let starts = g.input("starts", &bytes_i32(&(0..9).map(|i| i * 16).collect::<Vec<_>>()));
    let ids = g.input("ids", &bytes_i32(&(0..128).map(|i| i * 7 % 1000).collect::<Vec<_>>()));
    let [f0, f1, f2, f3] = [0; 4].map(|_| g.zeros("f32", 1 << 20));
    let (p, grad, out) = (some(&mut g, parameters), some(&mut g, parameters), g.zeros("out", 1 << 16));
    let p3 = |list: &[u64]| list.iter().copied().map(Arg::P).collect::<Vec<_>>();
    let with = |mut args: Vec<Arg>, more: Vec<Arg>| {
        args.extend(more);
        args
    };
    let begun = std::time::Instant::now();
    let mut instructions = 0;
    let mut run = |m: &Loaded, kernel: &str, grid: [u32; 3], block: u32, shared: usize, args: Vec<Arg>| {
        let r = g.run(m, kernel, grid, block, shared, &args);
        assert!(r.findings.is_empty(), "{}", tell(&r.findings));
        instructions += r.stats.instructions;
    };
    for step_number in 0..2 {
        for _layer in 0..2 {
            // Forward, gradients by the input, gradients by the weights: rows, columns, depth.
            for (cols, deep) in [(192, 64), (64, 64), (256, 64), (64, 256)] {
                for [m, n, k] in [[tokens, cols, deep], [tokens, deep, cols], [cols, deep, tokens]] {
                    let sizes = [m, n, k].map(|v| Arg::I(v as i32));
                    let grid = [n.div_ceil(64) as u32, m.div_ceil(64) as u32, 1];
                    run(&matrix, "product", grid, 128, 0, with(p3(&[a, b, bias, c]), sizes.into()));
                }
            }
            run(
                &attention,
                "attention",
                [1, 1, 8],
                128,
                27648,
                with(p3(&[a, a, a, starts, out, f0]), vec![Arg::I(1), Arg::F(0.18)]),
            );
            run(
                &attention,
                "attention_backward",
                [1, 8, 1],
                64,
                0,
                with(p3(&[a, a, a, starts, out, b, f0, f1, f2, f3]), vec![Arg::I(1), Arg::F(0.18)]),
            );
            for _ in 0..2 {
                let sizes = || vec![Arg::I(tokens as i32), Arg::I(64)];
                run(
                    &norm,
                    "norm_forward",
                    [32, 1, 1],
                    128,
                    0,
                    with(with(p3(&[a, bias, bias, out, f0]), sizes()), vec![Arg::F(1e-5)]),
                );
                run(
                    &norm,
                    "norm_backward",
                    [8, 1, 1],
                    128,
                    512,
                    with(p3(&[a, b, bias, f0, out, f1, f2]), sizes()),
                );
            }
        }
        run(
            &loss,
            "cross_entropy",
            [8, 1, 1],
            256,
            0,
            with(p3(&[a, ids, f0, out]), vec![Arg::I(1000), Arg::F(1.0)]),
        );
        run(
            &table,
            "embedding_backward",
            [16, 1, 1],
            128,
            0,
            with(p3(&[ids, a, f3]), vec![Arg::I(128), Arg::I(64), Arg::I(0)]),
        );
        let settings = [1e-2f32, 0.9, 0.999, 1e-8, 0.01, 1.5, 2.5].map(Arg::F);
        let args = with(p3(&[p, grad, f1, f2]), vec![Arg::I(parameters as i32)]);
        run(&step, "adamw", [64, 1, 1], 256, 0, with(with(args, settings.into()), vec![Arg::I(step_number)]));
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("two training steps: {seconds:.2} s, {instructions} instructions of warps, checks on");
}

const SMALL: &str = r#"
extern "C" __global__ void small(float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = i;
}
"#;

/// Microseconds of launches that do next to nothing.
#[test]
#[ignore = "tells how fast it is; `cargo test -p emulator --release speed -- --ignored --nocapture`"]
fn speed_of_small_launches() {
    let Some(n) = nvrtc::all().first() else { return };
    for threads in [1, 0] {
        let mut g = Gpu::new(0);
        g.options.threads = threads;
        let m = g.load(&n.ptx("small.cu", SMALL, "compute_80"));
        let y = g.memory.alloc("y", 1 << 20);
        for (blocks, block, count) in [(1, 32, 1), (1, 256, 256), (4, 128, 512), (64, 256, 16384)] {
            let args = [Arg::P(y), Arg::I(count)];
            let rounds = 2000;
            let begun = std::time::Instant::now();
            for _ in 0..rounds {
                let r = g.run(&m, "small", [blocks, 1, 1], block, 0, &args);
                assert!(r.findings.is_empty());
            }
            let each = begun.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
            println!("{blocks} x {block} threads, {threads} CPU threads: {each:.1} microseconds a launch");
        }
    }
}
