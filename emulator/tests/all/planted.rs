//! Planted bugs: each is one change to a kernel of the collection, and has to be found at its place.

use crate::collection::{BOUND, COLLECTION};
use crate::gpu::{Gpu, tell};
use crate::nvrtc;
use emulator::Kind::{
    self, AsyncInFlight, Barrier, Deadlock, Divergence, EndlessSpin, InactiveLane, Mbarrier, Misaligned,
    MissingFence, OutOfBounds, PendingCopy, Race, ReadOnly, Trap, Uninitialised,
};
use emulator::{Finding, Place};

/// Entry, text, its replacement, kinds of which one has to be found, and what the found line says. No kinds:
/// the numbers have to be wrong instead.
type Bug = (&'static str, &'static str, &'static str, &'static [Kind], &'static [&'static str]);

const BUGS: &[Bug] = &[
    // Tiled product.
    (
        "product",
        "    __syncthreads();\n    if (step",
        "    if (step",
        &[Race],
        &["load4(", "fetch(", "copy16("],
    ),
    ("product", "copies_wait<STAGES - 2>", "copies_wait<STAGES - 1>", &[AsyncInFlight], &["load4("]),
    ("product", "if (m < M && n < N)", "if (n < N)", &[OutOfBounds], &["*(u32*)(C"]),
    (
        "product",
        "in_a ? A + (size_t)(m0 + row) * K + at : A, in_a ? 16 : 0",
        "A + (size_t)(m0 + row) * K + at, 16",
        &[OutOfBounds],
        &["copy16("],
    ),
    (
        "product",
        "fetch(step + STAGES - 1)",
        "fetch(step + STAGES)",
        &[Race, AsyncInFlight],
        &["load4(", "fetch(", "copy16("],
    ),
    (
        "product",
        "tile_a[STAGES][TM * ROW]",
        "tile_a[STAGES][(TM - 1) * ROW]",
        &[OutOfBounds],
        &["copy16(", "load4("],
    ),
    ("product", "    copies_commit();\n    const", "    const", &[AsyncInFlight], &["load4("]),
    ("product", "#define ROW 40", "#define ROW 36", &[Misaligned], &["copy16("]),
    ("product", "bias[n + 1]", "bias[n + 8]", &[OutOfBounds], &["bias[n"]),
    ("product", "*(u32*)(C +", "*(u32*)(A +", &[ReadOnly], &["*(u32*)(A"]),
    ("product", "float sum[2][4][4] = {};", "float sum[2][4][4];", &[Uninitialised], &["mma_bf16("]),
    ("product", "k < TK; k += 16", "k <= TK; k += 16", &[Uninitialised, OutOfBounds], &["load4("]),
    (
        "product",
        "    __syncthreads();\n    if (step",
        "    if (threadIdx.x < 48) __syncthreads();\n    if (step",
        &[Barrier],
        &["__syncthreads"],
    ),
    (
        "product",
        "lane / 16 * 8 + lane % 8) * ROW + k + lane / 8 % 2 * 8",
        "lane / 8 % 2 * 8 + lane % 8) * ROW + k + lane / 16 * 8",
        &[],
        &[],
    ),
    // A product for older GPUs.
    ("turing", "m0 + row < M && k0", "k0", &[OutOfBounds], &["A[(m0 + row)"]),
    ("turing", "    __syncwarp();\n    u32", "    u32", &[Race], &["load4(", "row * ROW"]),
    ("turing", "    __syncwarp();\n  }", "  }", &[Race], &["row * ROW", "load4("]),
    ("turing", "i < 256; i += 32", "i < 255; i += 32", &[Uninitialised], &["load4("]),
    ("turing", "lane % 16 * ROW + lane / 16 * 8", "lane * ROW + lane / 16 * 8", &[OutOfBounds], &["load4("]),
    // Attention.
    (
        "attention",
        "    __syncthreads();  // keys are used up\n",
        "",
        &[Race],
        &["load4(", "fetch(", "copy16("],
    ),
    (
        "attention",
        "    __syncthreads();  // values are used up\n",
        "",
        &[Race],
        &["load4_transposed(", "fetch(", "copy16("],
    ),
    (
        "attention",
        "    copies_wait<1>();\n    __syncthreads();  // values have landed",
        "    __syncthreads();",
        &[AsyncInFlight],
        &["load4_transposed("],
    ),
    (
        "attention",
        "    __syncthreads();  // values have landed\n",
        "",
        &[Race],
        &["load4_transposed(", "copy16("],
    ),
    (
        "attention",
        "    copies_wait<1>();\n    __syncthreads();\n    if (block == 0)",
        "    __syncthreads();\n    if (block == 0)",
        &[AsyncInFlight],
        &["load4("],
    ),
    (
        "attention",
        "bool in = row0 + row < length",
        "bool in = row0 + row <= length",
        &[OutOfBounds],
        &["copy16("],
    ),
    (
        "attention",
        "if (q0 >= length) return;",
        "if (q0 + warp * 16 >= length) return;",
        &[Uninitialised],
        &["load4"],
    ),
    (
        "attention",
        "    __syncthreads();\n    delta = part[0]",
        "    delta = part[0]",
        &[Race],
        &["part[", "q[k]"],
    ),
    (
        "attention",
        "      __syncthreads();\n    }\n    dQ",
        "    }\n    dQ",
        &[Race],
        &["p[", "ds[", "q[", "d[t]"],
    ),
    (
        "attention",
        "if (t % 32 == 0) part[t / 32] = delta;",
        "if (t % 32 == 0) part[0] = delta;",
        &[Race],
        &["part[0] = delta"],
    ),
    ("attention", "if (row >= length) continue;", "", &[Race, OutOfBounds], &["*(u32*)(O", "L[at]"]),
    ("attention", "if (lane % 4 == 0) L[at]", "L[at]", &[Race], &["L[at]"]),
    ("attention", "key < length ?", "key <= length ?", &[], &[]),
    ("attention", "      now[h] = fmaxf(now[h], __shfl_xor_sync(~0u, now[h], 2));\n", "", &[], &[]),
    ("attention", "      total[h] *= fade;\n", "", &[], &[]),
    ("attention", "load4_transposed(fv", "load4(fv", &[], &[]),
    // Layer normalisation.
    (
        "norm",
        "const float mean = sum_lanes<32>(sum) / n;",
        "float mean = 0.f;\n  if (lane < 16) mean = sum_lanes<32>(sum) / n;",
        &[Divergence, InactiveLane],
        &["sum_lanes<32>(sum)"],
    ),
    ("norm", "atomicAdd(&sums[i], d * h);", "sums[i] += d * h;", &[Race], &["sums[i] +="]),
    ("norm", "atomicAdd(&dgain[i], sums[i]);", "dgain[i] += sums[i];", &[Race], &["dgain[i] +="]),
    ("norm", "i < 2 * n; i += 128", "i < n; i += 128", &[Uninitialised], &["sums[n + i]"]),
    ("norm", "sums[i] = 0.f;\n  __syncthreads();", "sums[i] = 0.f;", &[Race], &["sums["]),
    (
        "norm",
        "  __syncthreads();\n  for (int i = threadIdx.x; i < n;",
        "  for (int i = threadIdx.x; i < n;",
        &[Race],
        &["sums["],
    ),
    ("norm", "  if (row >= rows) return;\n", "", &[OutOfBounds], &["widen2(from[i])"]),
    (
        "norm",
        "atomicAdd(&sums[n + i], d);",
        "atomicAdd(&sums[n + i + 1], d);",
        &[OutOfBounds],
        &["sums[n + i + 1]"],
    ),
    (
        "norm",
        "if (row >= rows) return;",
        "if (row >= rows || lane > 29) return;",
        &[InactiveLane],
        &["sum_lanes<32>"],
    ),
    (
        "norm",
        "(const u32*)(x + (size_t)row * n)",
        "(const u32*)(x + (size_t)row * n + 1)",
        &[Misaligned],
        &["from[i]"],
    ),
    ("norm", "    stats[2 * row + 1] = scale;\n", "", &[Uninitialised], &["stats[2 * row + 1]"]),
    ("norm", "sum_lanes<32>(squares) / n", "sum_lanes<32>(squares)", &[], &[]),
    // AdamW.
    ("step", "if (q * 4 + 4 <= n)", "if (true)", &[OutOfBounds], &["[q]"]),
    ("step", "((uint2*)p)[q] = make_uint2", "((uint2*)g)[q] = make_uint2", &[ReadOnly], &["((uint2*)g)[q]"]),
    ("step", "      if (at >= n) break;\n", "", &[OutOfBounds], &["[at]"]),
    ("step", "q += stride)", "q += stride / 2)", &[Race], &["[q]", "[at]"]),
    ("step", "mi[i] * fix1", "mi[i]", &[], &[]),
    ("step", "bits[i]);\n      }", "bits[0]);\n      }", &[], &[]),
    // Cross-entropy.
    ("loss", "  __syncthreads();\n  return v;", "  return v;", &[Race], &["parts["]),
    ("loss", "parts[warp] = v;\n  __syncthreads();", "parts[warp] = v;", &[Race], &["parts["]),
    ("loss", "lane < blockDim.x / 32", "lane < 32", &[OutOfBounds], &["parts[lane]"]),
    (
        "loss",
        "  if (threadIdx.x == 0) loss[row] = logf",
        "  if (threadIdx.x < 64) __syncthreads();\n  top = over_block(top, true, parts);\n  if (threadIdx.x == 0) loss[row] = logf",
        &[Barrier],
        &["__syncthreads"],
    ),
    ("loss", "if (target < 0) {", "if (target < -1000) {", &[], &[]),
    (
        "loss",
        "i < classes; i += blockDim.x)\n    dx[i]",
        "i <= classes; i += blockDim.x)\n    dx[i]",
        &[Race, OutOfBounds],
        &["widen(x[i])", "dx[i]"],
    ),
    ("loss", "if (threadIdx.x == 0) loss[row] = logf", "loss[row] = logf", &[Race], &["loss[row] ="]),
    // Embedding, and a sum over blocks.
    (
        "table",
        "atomicAdd(table + (size_t)id * width + 2 * c, v.x);",
        "table[(size_t)id * width + 2 * c] += v.x;",
        &[Race],
        &["table[(size_t)"],
    ),
    ("table", "i < tokens * (width / 2)", "i <= tokens * (width / 2)", &[OutOfBounds], &["ids[token]"]),
    (
        "table",
        "(size_t)id * width + 2 * c + 1, v.y",
        "(size_t)(id + 2) * width + 2 * c + 1, v.y",
        &[OutOfBounds],
        &["v.y"],
    ),
    ("table", "if (id == skip) continue;", "", &[], &[]),
    ("squares", "    __threadfence();\n    last", "    last", &[Race], &["parts[i]", "parts[blockIdx"]),
    ("squares", "gridDim.x - 1;\n    __threadfence();", "gridDim.x - 1;", &[Race], &["parts[i]"]),
    (
        "squares",
        "    __threadfence();\n    last",
        "    __threadfence_block();\n    last",
        &[Race],
        &["parts[i]"],
    ),
    (
        "squares",
        "  }\n  __syncthreads();\n  if (!last)",
        "  }\n  if (!last)",
        &[Race, Uninitialised],
        &["last"],
    ),
    ("squares", "sum;\n  __syncthreads();", "sum;", &[Race, Uninitialised], &["warps["]),
    (
        "squares",
        "if (threadIdx.x == 0) {\n    parts",
        "if (threadIdx.x < 2) {\n    parts",
        &[Race],
        &["parts[blockIdx.x]", "last ="],
    ),
    (
        "squares",
        "float sum = 0.f;",
        "float sum = 0.f;\n  while (*(volatile u32*)counter == 77u + n % 2 - 78u) {}",
        &[EndlessSpin],
        &["while ("],
    ),
    ("squares", "float sum = 0.f;", "float sum = 0.f;\n  if (n > 3) __trap();", &[Trap], &["__trap"]),
    ("squares", "i < gridDim.x; i += 32", "i <= gridDim.x; i += 32", &[OutOfBounds], &["parts[i]"]),
    // Functions, tables, local arrays.
    ("mixed", "c[i % 6] + q.a", "c[i % 7] + q.a", &[OutOfBounds], &["c[i % 7]"]),
    ("mixed", "k < 6; k++", "k < 6 - i % 2 * 4; k++", &[Uninitialised], &["c[i", "y = y * x"]),
    ("mixed", "weights[i % 4]", "weights[i % 5]", &[OutOfBounds], &["weights[i % 5]"]),
    ("mixed", "counts[i % 3]", "counts[i % 4]", &[OutOfBounds], &["counts[i % 4]"]),
    (
        "mixed",
        "const u32 ballot = __ballot_sync",
        "const u32 ballot = !in ? 0u : __ballot_sync",
        &[Divergence, InactiveLane],
        &["__ballot_sync"],
    ),
    (
        "mixed",
        "polynomial(c, 1 + i % 6, 0.5f)",
        "polynomial(c, 1 + i % 11, 0.5f)",
        &[OutOfBounds],
        &["y = y * x", "polynomial("],
    ),
    // Producers and consumers.
    (
        "pipeline",
        "asm volatile(\"cp.async.mbarrier.arrive.noinc.shared.b64 [%0];\" ::\"r\"(shared_address(&full[s % 2])) : \"memory\");",
        "barrier_arrive(&full[s % 2]);",
        &[AsyncInFlight],
        &["sum += part"],
    ),
    (
        "pipeline",
        "if (s >= 2) barrier_wait(&empty[s % 2], (s / 2 - 1) & 1);",
        "",
        &[Race, AsyncInFlight, Mbarrier],
        &["copy16(", "sum += part", "cp.async.mbarrier"],
    ),
    (
        "pipeline",
        "      barrier_wait(&full[s % 2], s / 2 & 1);\n",
        "",
        &[Race, AsyncInFlight, Uninitialised],
        &["sum += part", "copy16("],
    ),
    (
        "pipeline",
        "barrier_wait(&full[s % 2], s / 2 & 1)",
        "barrier_wait(&full[s % 2], ~(s / 2) & 1)",
        &[Race, AsyncInFlight, Uninitialised],
        &["sum += part", "copy16("],
    ),
    ("pipeline", "barrier_init(&full[i], 64)", "barrier_init(&full[i], 65)", &[Deadlock], &["barrier_wait("]),
    (
        "pipeline",
        "barrier_init(&empty[i], 64)",
        "barrier_init(&empty[i], 32)",
        &[Mbarrier, Race, AsyncInFlight, Deadlock],
        &["barrier_wait(", "barrier_arrive(", "copy16(", "sum += part"],
    ),
    ("pipeline", "bar.sync 1, 64;", "bar.sync 1, 96;", &[Deadlock], &["bar.sync 1, 96"]),
    ("pipeline", "      barrier_arrive(&empty[s % 2]);\n", "", &[Deadlock], &["barrier_wait("]),
    (
        "pipeline",
        "    asm volatile(\"cp.async.wait_all;\" ::: \"memory\");\n",
        "",
        &[PendingCopy],
        &["copy16(", "}"],
    ),
    ("pipeline", "    }\n  __syncthreads();\n  if", "    }\n  if", &[Mbarrier, Race], &["barrier_"]),
    (
        "pipeline",
        "    asm volatile(\"bar.sync 1, 64;\" ::: \"memory\");\n",
        "",
        &[Race, Uninitialised],
        &["sums["],
    ),
    (
        "pipeline",
        "threadIdx.x * 4], x + s * PART",
        "threadIdx.x * 4 + 1], x + s * PART",
        &[Misaligned],
        &["copy16("],
    ),
    // Hopper.
    (
        "hopper",
        "if (s >= STAGES) wait(",
        "if (s >= 1000) wait(",
        &[Race, AsyncInFlight, Mbarrier],
        &["load_tile(", "wgmma_64(", "expect("],
    ),
    (
        "hopper",
        "    wait(shared_address(&full[stage]), s / STAGES & 1);\n",
        "",
        &[Race, AsyncInFlight, Uninitialised],
        &["wgmma_64(", "load_tile("],
    ),
    ("hopper", "expect(bar, TILE_A + TILE_B)", "expect(bar, TILE_A)", &[AsyncInFlight], &["wgmma_64("]),
    ("hopper", "expect(bar, TILE_A + TILE_B)", "expect(bar, TILE_A + TILE_B + 16)", &[Deadlock], &["wait("]),
    (
        "hopper",
        "    asm volatile(\"wgmma.wait_group.sync.aligned 0;\" ::: \"memory\");\n",
        "",
        &[AsyncInFlight],
        &["narrow2(", "load_tile("],
    ),
    (
        "hopper",
        "    asm volatile(\"wgmma.fence.sync.aligned;\" ::: \"memory\");\n",
        "",
        &[MissingFence],
        &["wgmma_64("],
    ),
    (
        "hopper",
        "    asm volatile(\"wgmma.commit_group.sync.aligned;\" ::: \"memory\");\n",
        "",
        &[AsyncInFlight, PendingCopy],
        &["narrow2(", "load_tile(", "wgmma_64("],
    ),
    (
        "hopper",
        "  asm volatile(\"fence.proxy.async.shared::cta;\" ::: \"memory\");\n",
        "",
        &[MissingFence],
        &["cp.async.bulk.tensor.2d.global"],
    ),
    (
        "hopper",
        "  asm volatile(\"bar.sync 1, 128;\" ::: \"memory\");\n",
        "",
        &[Race, MissingFence],
        &["cp.async.bulk.tensor.2d.global", "narrow2("],
    ),
    (
        "hopper",
        "    asm volatile(\"cp.async.bulk.wait_group 0;\" ::: \"memory\");\n",
        "",
        &[PendingCopy],
        &["cp.async.bulk.tensor.2d.global", "}"],
    ),
    (
        "hopper",
        "base = shared_address(tiles),",
        "base = shared_address(tiles) + 16,",
        &[Misaligned],
        &["load_tile("],
    ),
    (
        "hopper",
        "[%0], 4;",
        "[%0], 2;",
        &[Mbarrier, Race, AsyncInFlight, Deadlock],
        &["mbarrier.arrive.shared", "wait(", "load_tile(", "wgmma_64("],
    ),
    ("hopper", "64ull << 32", "32ull << 32", &[], &[]),
];

/// The text of a place, and of where its function was called.
fn lines<'s>(p: &Place, name: &str, source: &'s str) -> Vec<&'s str> {
    let at = |file: &str, line: u32| {
        let ours = file.ends_with(name);
        source.lines().nth((line as usize).saturating_sub(1)).filter(|_| ours)
    };
    let called = p.called.as_ref().and_then(|(f, l)| at(f, *l));
    at(&p.file, p.line).into_iter().chain(called).collect()
}

fn caught(f: &Finding, bug: &Bug, name: &str, source: &str) -> bool {
    let places = std::iter::once(&f.place).chain(&f.other);
    let text: Vec<&str> = places.flat_map(|p| lines(p, name, source)).collect();
    bug.3.contains(&f.kind) && bug.4.iter().any(|s| text.iter().any(|t| t.contains(s)))
}

#[test]
fn planted_bugs_are_found_at_their_lines() {
    let Some(n) = nvrtc::all().first() else { return };
    let only = std::env::var("EMULATOR_ONLY").ok();
    let (mut missed, mut located) = (Vec::new(), 0);
    for bug in BUGS.iter().filter(|b| only.as_ref().is_none_or(|o| b.0 == o)) {
        let e = COLLECTION.iter().find(|e| e.name == bug.0).unwrap();
        assert_eq!(e.source.matches(bug.1).count().min(1), 1, "{}: {} is not there", bug.0, bug.1);
        let source = e.source.replacen(bug.1, bug.2, 1);
        let arch = e.archs.iter().find(|a| **a == "compute_80").unwrap_or(&e.archs[0]);
        let ptx = n.ptx(e.file, &source, arch);
        let mut g = Gpu::new(0);
        g.options.patience = 200_000;
        let m = g.load(&ptx);
        let out = (e.run)(&mut g, &m);
        let findings: Vec<Finding> = out.reports.into_iter().flat_map(|r| r.findings).collect();
        let wrong = out.errors.iter().any(|e| e.1.is_nan() || e.1 >= BOUND);
        let ok =
            if bug.3.is_empty() { wrong } else { findings.iter().any(|f| caught(f, bug, e.file, &source)) };
        located += usize::from(ok && !bug.3.is_empty());
        if !ok {
            missed.push(format!(
                "{}: '{}' -> '{}', expected {:?} at {:?}\n{}",
                bug.0,
                bug.1,
                bug.2,
                bug.3,
                bug.4,
                tell(&findings)
            ));
        }
    }
    assert!(
        missed.is_empty(),
        "{} of {} missed ({located} located):\n{}",
        missed.len(),
        BUGS.len(),
        missed.join("\n")
    );
    assert!(only.is_some() || located >= 60, "{located}");
    println!("{located} planted bugs found at their lines, {} by wrong numbers", BUGS.len() - located);
}
