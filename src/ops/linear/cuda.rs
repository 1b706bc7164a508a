//! Launches the kernels of kernels/linear*.cu, and chooses the tiles of a matmul for the GPU.

use super::Linear;
use crate::device::cuda::MatmulAlgorithm;
use crate::device::{Const, Cuda, Gpu, Launch, Tensor, TensorMap, cuda};
use crate::error::Result;
use crate::ops::{Activation, Backward, Forward, Grad, On};
use crate::shape::DType;

/// The code that all matmul kernels share, and the kernels around them.
pub(in crate::ops) const KERNEL: &str = include_str!("../../../kernels/linear.cu");
/// With the matmul on tensor cores (mma).
pub(in crate::ops) const TENSOR: &str =
    concat!(include_str!("../../../kernels/linear.cu"), include_str!("../../../kernels/linear.tensor.cu"));
/// With the matmul on Hopper's tensor cores (wgmma).
pub(in crate::ops) const HOPPER: &str =
    concat!(include_str!("../../../kernels/linear.cu"), include_str!("../../../kernels/linear.hopper.cu"));
/// With the matmul in f32 arithmetic.
pub(in crate::ops) const PLAIN: &str =
    concat!(include_str!("../../../kernels/linear.cu"), include_str!("../../../kernels/linear.plain.cu"));

/// The properties of the GPU that determine the tiles.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct GpuLimits {
    pub sms: u32,
    pub shared_limit: usize,
    pub capability: u32,
}

/// How operands reach the matmul units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Route {
    /// TMA and wgmma: Hopper.
    Wgmma,
    /// Asynchronous copies (cp.async) and mma: Ampere and later.
    CpAsync,
    /// Staged in registers, and mma: Turing, or rows of odd length.
    RegisterStaged,
    /// f32 arithmetic.
    Plain,
}

/// The tile of a block, and the number of parts of the sums (split-K).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) struct Tile {
    /// Rows, columns and depth of a block's tile.
    pub block: [usize; 3],
    /// Rows and columns of a warp's tile.
    pub warp: [usize; 2],
    /// Pipeline stages: tiles of operands in shared memory.
    pub stages: usize,
    /// Split-K parts; several are added up by another kernel.
    pub parts: usize,
}

impl Tile {
    pub fn threads(&self, route: Route) -> u32 {
        if route == Route::Wgmma {
            // Two consumer warpgroups (wgmma) and a producer warp (TMA).
            return 288;
        }
        (32 * self.block[0] * self.block[1] / (self.warp[0] * self.warp[1])) as u32
    }
    /// Dynamic shared memory in bytes, for kernels on tensor cores.
    pub fn shared(&self, route: Route) -> usize {
        let more = if route == Route::Wgmma { 2048 } else { 0 };
        self.stages * (self.block[0] + self.block[1]) * self.block[2] * 2 + more
    }
    /// The number of steps of depth `block[2]` of one part.
    fn steps(&self, k: usize) -> usize {
        k.div_ceil(self.block[2]).div_ceil(self.parts)
    }
}

/// A candidate tile, and the estimated share of a multiprocessor's peak rate that it reaches, with several
/// blocks per multiprocessor and with one. Estimated from shared memory traffic and the number of warps that
/// hide latency.
type Candidate = ([usize; 3], [usize; 2], f64, f64);
/// On Hopper mma.sync reaches little more than half of wgmma's rate, and shares are relative to wgmma's.
const WGMMA: &[Candidate] = &[([128, 128, 64], [64, 128], 1.5, 1.5), ([128, 256, 64], [64, 256], 1.7, 1.7)];
const CP_ASYNC: &[Candidate] = &[
    ([128, 128, 32], [64, 64], 1.0, 0.75),
    ([128, 64, 32], [64, 32], 0.85, 0.6),
    ([64, 128, 32], [32, 64], 0.85, 0.6),
    ([64, 64, 64], [32, 32], 0.65, 0.4),
];
const REGISTER_STAGED: &[Candidate] = &[
    ([128, 128, 32], [64, 32], 1.0, 0.8),
    ([128, 64, 32], [32, 32], 0.8, 0.6),
    ([64, 64, 32], [32, 32], 0.7, 0.4),
];
const PLAIN_TILES: &[Candidate] = &[([128, 128, 8], [32, 64], 1.0, 0.9), ([64, 64, 8], [32, 64], 0.9, 0.3)];

/// The fastest tile and number of parts for an (m, n, k) matmul, by a cost model: the work of the busiest
/// multiprocessor, the start and end of each block, and adding up the parts.
pub(in crate::ops) fn tile(shape: [usize; 3], route: Route, gpu: GpuLimits) -> Tile {
    costed(shape, route, gpu).1
}

/// The same with its cost, to compare routes on the same GPU.
fn costed([m, n, k]: [usize; 3], route: Route, gpu: GpuLimits) -> (f64, Tile) {
    // All costs are in multiply-adds of one multiprocessor, so that they can be added: the start and end of a
    // block (the pipeline fills, the epilogue writes), the launch that adds up the parts, a byte of a partial
    // sum.
    let (choices, start, launch, byte) = match route {
        Route::Wgmma => (WGMMA, 2e6, 4e6, 50.0),
        Route::CpAsync => (CP_ASYNC, 1e6, 4e6, 50.0),
        Route::RegisterStaged => (REGISTER_STAGED, 1e6, 3e6, 30.0),
        Route::Plain => (PLAIN_TILES, 1e5, 5e5, 7.0),
    };
    let sms = gpu.sms.max(1) as usize;
    let mut best: Option<(f64, Tile)> = None;
    for &(block, warp, rate, alone) in choices {
        let [tm, tn, tk] = block;
        // As many stages as still let two blocks run on a multiprocessor: while one fills its pipeline or
        // writes its results, the other multiplies. The system reserves 1 KiB for each block.
        let stage = (tm + tn) * tk * 2;
        let room = (gpu.shared_limit.saturating_sub(1 << 10) / 2) / stage;
        let stages = match route {
            // One block per multiprocessor: its sums take up to half of the registers, and the producer warp
            // keeps the pipeline full.
            Route::Wgmma => ((gpu.shared_limit.saturating_sub(4 << 10)) / stage).min(4),
            Route::CpAsync => room.clamp(2, 4),
            Route::RegisterStaged | Route::Plain => 2,
        };
        let steps = k.div_ceil(tk);
        // Few tiles and a deep sum, as in a weight gradient, leave multiprocessors idle: the sum is cut into
        // parts. A part has a depth of at least 256, below which the start of a block weighs too much.
        for parts in 1..=(k / 256).clamp(1, 64) {
            let each = steps.div_ceil(parts);
            // As many steps a part would need fewer parts: the last ones would be empty.
            if parts > 1 && steps.div_ceil(each) != parts {
                continue;
            }
            let blocks = m.div_ceil(tm) * n.div_ceil(tn) * parts;
            let work = (tm * tn * each * tk) as f64 + start;
            // The busiest multiprocessor sets the time. With several blocks it runs them at `rate`, and
            // whichever block it runs cannot be done sooner than at its own rate, `alone`: one block has too
            // few warps to hide latency.
            let mut cost = (blocks.div_ceil(sms) as f64 * work / rate).max(work / alone);
            if parts > 1 {
                // Each partial sum is written and read, four bytes each time, by all multiprocessors
                // together.
                cost += launch + (parts * m * n * 8) as f64 / sms as f64 * byte;
            }
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, Tile { block, warp, stages, parts }));
            }
        }
    }
    // There are choices, each with at least one part.
    best.unwrap_or((f64::INFINITY, Tile { block: [64, 64, 32], warp: [32, 32], stages: 2, parts: 1 }))
}

/// A stored matrix with rows of `row` elements; `down` if its k elements are contiguous in memory.
struct Operand<'a> {
    t: &'a Tensor,
    row: usize,
    down: bool,
}

/// The epilogue of a matmul: bias, activation, where to write the activation's inputs, whether to add to C,
/// and where to write the row sums of A. With `dact` the result is multiplied by an activation's derivative
/// (dact).
#[derive(Clone, Copy)]
struct Epilogue<'a> {
    bias: Option<&'a Tensor>,
    act: Activation,
    keep: Option<&'a Tensor>,
    dact: Option<(Activation, &'a Tensor)>,
    add: bool,
    sums: Option<Grad<'a>>,
}

impl Epilogue<'_> {
    fn none(add: bool) -> Self {
        Epilogue { bias: None, act: Activation::None, keep: None, dact: None, add, sums: None }
    }
}

/// The constants of linear.cu.
fn consts(t: DType, [c, d]: [DType; 2], epilogue: &Epilogue, n: usize) -> Vec<(&'static str, Const)> {
    vec![
        ("T", Const::Type(t)),
        ("C", Const::Type(c)),
        ("D", Const::Type(d)),
        ("BIAS", Const::U32(epilogue.bias.is_some() as u32)),
        ("KEEP", Const::U32(epilogue.keep.is_some() as u32)),
        ("ACT", Const::U32(epilogue.act.code())),
        ("DB", Const::U32(epilogue.sums.is_some() as u32)),
        ("WIDE", Const::U32(if n.is_multiple_of(4) { 4 } else { 1 })),
        ("VEC", Const::U32(if n.is_multiple_of(8) { 8 } else { 1 })),
    ]
}

/// c (m, n) = A B with an epilogue, by cuBLASLt if it is installed and faster, else by tempra's kernel.
/// cuBLASLt's only activation is the tanh form of GELU. It fuses row sums of A and this activation's
/// derivative, or tempra computes them afterwards, whichever is faster. cuBLASLt overwrites sums, so sums to
/// be added go through a temporary tensor.
fn matmul(
    device: &Cuda,
    shape: [usize; 3],
    a: Operand,
    b: Operand,
    c: &Tensor,
    epilogue: Epilogue,
) -> Result<()> {
    let gelu = match (epilogue.act, epilogue.keep) {
        (Activation::None, None) => Some(None),
        (Activation::GeluTanh, Some(kept)) => Some(Some(kept)),
        _ => None,
    };
    let Some(gelu) = gelu else { return own_matmul(device, shape, &a, &b, c, &epilogue) };
    let (x, y) = ((a.t, a.row, a.down), (b.t, b.row, b.down));
    let backward = match (epilogue.sums, epilogue.dact) {
        (None, None) => cuda::BackwardEpilogue::None,
        (Some(_), _) => cuda::BackwardEpilogue::BiasGradient,
        (None, Some((act, at))) => cuda::BackwardEpilogue::Dact {
            of: act.name(),
            known: (act == Activation::GeluTanh).then_some(at),
        },
    };
    let by = cuda::Matmul { shape, a: x, b: y, c, add: epilogue.add, bias: epilogue.bias, gelu, backward };
    let [m, _, k] = shape;
    fn over(t: &Tensor) -> Grad<'_> {
        Grad::new(t, false)
    }
    let derived = |to: &Tensor| match epilogue.dact {
        Some((act, at)) => derive(device, act, [to, at, to]),
        None => Ok(()),
    };
    let own = |to: &Tensor, sums: Option<Grad>| {
        own_matmul(device, shape, &a, &b, to, &Epilogue { sums, ..epilogue })?;
        derived(to)
    };
    let rest = |to: &Tensor, sums: Option<Grad>| match sums {
        Some(g) => sum_columns(device, a.t, [k, m], g),
        None => derived(to),
    };
    let ways = cuda::MatmulCandidates {
        own: &|to, sums| own(to, sums.map(over)),
        rest: &|to, sums| rest(to, sums.map(over)),
    };
    match device.way(&by, &ways)? {
        MatmulAlgorithm::Own => own(c, epilogue.sums),
        MatmulAlgorithm::Library(algorithm) => {
            device.by_blas(&by, algorithm, None)?;
            rest(c, epilogue.sums)
        }
        MatmulAlgorithm::Whole(algorithm) => match epilogue.sums {
            Some(g) if g.add || g.t.spec.dtype != c.spec.dtype => {
                let fresh = device.scratch(c.spec.dtype, &[m])?;
                device.by_blas(&by, algorithm, Some(&fresh))?;
                sum_columns(device, &fresh, [1, m], g)
            }
            Some(g) => device.by_blas(&by, algorithm, Some(g.t)),
            None => device.by_blas(&by, algorithm, epilogue.dact.map(|s| s.1)),
        },
    }
}

/// The same by one of tempra's kernels.
fn own_matmul(
    device: &Cuda,
    [m, n, k]: [usize; 3],
    a: &Operand,
    b: &Operand,
    c: &Tensor,
    epilogue: &Epilogue,
) -> Result<()> {
    let t = a.t.spec.dtype;
    let gpu =
        GpuLimits { sms: device.sms(), shared_limit: device.shared_limit(), capability: device.capability() };
    // Turing's tensor cores multiply f16, not bf16.
    let plain = t == DType::F32 || (t == DType::BF16 && gpu.capability < 80);
    // Rows that are read 16 bytes at a time; four elements in f32 arithmetic.
    let run = if plain { 4 } else { 8 };
    let aligned = [a.row.is_multiple_of(run), b.row.is_multiple_of(run)];
    // cp.async copies 16 bytes between addresses that are multiples of 16: whole rows must be such multiples.
    let mut route = match (plain, gpu.capability >= 80 && aligned == [true; 2]) {
        (true, _) => Route::Plain,
        (_, true) => Route::CpAsync,
        (_, false) => Route::RegisterStaged,
    };
    let mut tile = tile([m, n, k], route, gpu);
    // TMA needs such rows too. wgmma is not always faster: its tiles are large, and a small matmul fills few
    // of them.
    if route == Route::CpAsync && device.hopper() && k > 0 {
        let (cost, wgmma) = costed([m, n, k], Route::Wgmma, gpu);
        let better = cost < costed([m, n, k], Route::CpAsync, gpu).0;
        let use_wgmma = match device.matmul() {
            Some("wgmma") => true,
            Some("mma") => false,
            _ => better,
        };
        if use_wgmma {
            (route, tile) = (Route::Wgmma, wgmma);
        }
    }
    let (source, entry) = match route {
        Route::Wgmma => (HOPPER, "linear_matmul_hopper"),
        Route::CpAsync | Route::RegisterStaged => (TENSOR, "linear_matmul"),
        Route::Plain => (PLAIN, "linear_matmul_plain"),
    };
    let params = |add: bool, add_sums: bool| {
        [m, n, k, a.row, b.row, tile.steps(k), tile.parts, add as usize, add_sums as usize].map(|v| v as u32)
    };
    let [tm, tn, tk] = tile.block;
    let sized = |mut all: Vec<(&'static str, Const)>| {
        let number = |name, v: usize| (name, Const::U32(v as u32));
        all.extend([number("A_DOWN", a.down as usize), number("B_DOWN", b.down as usize)]);
        if route == Route::Wgmma {
            all.extend([number("TILE_N", tn), number("STAGES", tile.stages), number("BLOCKS", 1)]);
            return all;
        }
        all.extend([
            number("A_ALIGNED", aligned[0] as usize),
            number("B_ALIGNED", aligned[1] as usize),
            number("TILE_M", tm),
            number("TILE_N", tn),
        ]);
        if !plain {
            all.extend([
                number("TILE_K", tk),
                number("WARP_M", tile.warp[0]),
                number("WARP_N", tile.warp[1]),
                number("STAGES", tile.stages),
            ]);
        }
        all
    };
    let multiply = |epilogue: &Epilogue, c: &Tensor, db: Option<&Tensor>, add_sums: bool| {
        let tensor_maps = [TensorMap { t: a.t, row: a.row }, TensorMap { t: b.t, row: b.row }];
        let rest = [epilogue.bias.unwrap_or(a.t), c, epilogue.keep.unwrap_or(c), db.unwrap_or(c)];
        let all = [&[a.t, b.t], &rest[..]].concat();
        let wgmma = route == Route::Wgmma;
        device.launch(Launch {
            source,
            entry,
            consts: &sized(consts(t, [c.spec.dtype, db.unwrap_or(c).spec.dtype], epilogue, n)),
            groups: [(m.div_ceil(tm) * n.div_ceil(tn)) as u32, tile.parts as u32, 1],
            threads: tile.threads(route),
            shared_bytes: if plain { 0 } else { tile.shared(route) as u32 },
            tensor_maps: if wgmma { &tensor_maps } else { &[] },
            buffers: if wgmma { &rest } else { &all },
            params: bytemuck::cast_slice(&params(epilogue.add, add_sums)),
        })
    };
    let sums = epilogue.sums;
    if tile.parts == 1 {
        return multiply(epilogue, c, sums.map(|g| g.t), sums.is_some_and(|g| g.add));
    }
    // Bias, activation and what is added to count once, so they wait for `finish`; the parts are plain sums
    // in f32. The finish kernel adds them in order: no atomics, and the same bits in every run.
    let (cells, rows) = (tile.parts * m * n, if sums.is_some() { tile.parts * m } else { 0 });
    let parts = device.scratch(DType::F32, &[cells + rows])?;
    let partly = Epilogue { sums, ..Epilogue::none(false) };
    let db = parts.view(cells, &[rows])?;
    multiply(&partly, &parts, Some(&db), false)?;
    let wide = if n.is_multiple_of(4) { 4 } else { 1 };
    finish(
        device,
        t,
        &parts,
        c,
        epilogue,
        params(epilogue.add, sums.is_some_and(|g| g.add)),
        m * n / wide + rows / tile.parts,
    )
}

/// The number of threads of the kernels in linear.cu.
const THREADS: usize = 256;

/// Adds up parts of sums, with one thread per item.
fn finish(
    device: &Cuda,
    t: DType,
    parts: &Tensor,
    c: &Tensor,
    epilogue: &Epilogue,
    params: [u32; 9],
    items: usize,
) -> Result<()> {
    let db = epilogue.sums.map_or(c, |g| g.t);
    device.launch(Launch {
        source: KERNEL,
        entry: "linear_finish",
        consts: &consts(t, [c.spec.dtype, db.spec.dtype], epilogue, params[1] as usize),
        groups: [items.div_ceil(THREADS) as u32, 1, 1],
        threads: THREADS as u32,
        shared_bytes: 0,
        tensor_maps: &[],
        buffers: &[parts, epilogue.bias.unwrap_or(parts), c, epilogue.keep.unwrap_or(c), db],
        params: bytemuck::cast_slice(&params),
    })
}

/// dz = dy act'(at): see linear_derive. dz may be dy.
fn derive(device: &Cuda, act: Activation, [dy, at, dz]: [&Tensor; 3]) -> Result<()> {
    let (t, (rows, n)) = (dy.spec.dtype, dy.spec.rows_cols());
    device.launch(Launch {
        source: KERNEL,
        entry: "linear_derive",
        consts: &consts(t, [t; 2], &Epilogue { act, ..Epilogue::none(false) }, n),
        groups: [(rows * n).div_ceil(8 * THREADS) as u32, 1, 1],
        threads: THREADS as u32,
        shared_bytes: 0,
        tensor_maps: &[],
        buffers: &[dy, at, dz],
        params: bytemuck::cast_slice(&[rows, n, 0, 0, 0, 0, 0, 0, 0].map(|v| v as u32)),
    })
}

/// db = column sums of dz, in a separate kernel.
fn sum_columns(device: &Cuda, dz: &Tensor, [rows, n]: [usize; 2], g: Grad) -> Result<()> {
    let t = dz.spec.dtype;
    let plain = Epilogue::none(g.add);
    let wide = 32 * if n.is_multiple_of(8) { 8 } else { 1 };
    // Parts of at least 32 rows, as many as keep the GPU busy.
    let parts = rows.div_ceil(32).min((4 * device.sms() as usize).div_ceil(n.div_ceil(wide))).max(1);
    let sums = device.scratch(DType::F32, &[parts, n])?;
    let params = |m: usize| [m, n, 0, 0, 0, 0, parts, g.add as usize, 0].map(|v| v as u32);
    device.launch(Launch {
        source: KERNEL,
        entry: "linear_columns",
        consts: &consts(t, [DType::F32; 2], &plain, n),
        groups: [n.div_ceil(wide) as u32, parts as u32, 1],
        threads: THREADS as u32,
        shared_bytes: 0,
        tensor_maps: &[],
        buffers: &[dz, &sums],
        params: bytemuck::cast_slice(&params(rows)),
    })?;
    finish(device, t, &sums, g.t, &plain, params(1), n)
}

impl On<Cuda> for Linear {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let ((rows, k), (n, _)) = (io.x[0].spec.rows_cols(), io.x[1].spec.rows_cols());
        let x = Operand { t: io.x[0], row: k, down: true };
        let w = Operand { t: io.x[1], row: k, down: true };
        let keep = self.act.needs_input().then(|| io.y[1]);
        let epilogue = Epilogue { bias: io.x.get(2).copied(), act: self.act, keep, ..Epilogue::none(false) };
        matmul(device, [rows, n, k], x, w, io.y[0], epilogue)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let ((rows, k), (n, _)) = (io.x[0].spec.rows_cols(), io.x[1].spec.rows_cols());
        let (x, w, dy) = (io.x[0], io.x[1], io.dy()?);
        let scratch;
        let dz = if self.act == Activation::None {
            dy
        } else {
            scratch = device.scratch(dy.spec.dtype, &[rows, n])?;
            derive(device, self.act, [dy, io.y[self.act.needs_input() as usize], &scratch])?;
            &scratch
        };
        if let Some(g) = io.dx(0) {
            let (a, b) = (Operand { t: dz, row: n, down: true }, Operand { t: w, row: k, down: false });
            matmul(device, [rows, k, n], a, b, g.t, Epilogue { dact: g.dact, ..Epilogue::none(g.add) })?;
        }
        match (io.dx(1), io.dx(2)) {
            (Some(g), sums) => {
                let (a, b) = (Operand { t: dz, row: n, down: false }, Operand { t: x, row: k, down: false });
                matmul(device, [n, k, rows], a, b, g.t, Epilogue { sums, ..Epilogue::none(g.add) })
            }
            (None, Some(g)) => sum_columns(device, dz, [rows, n], g),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPUS: [GpuLimits; 5] = [
        GpuLimits { sms: 40, shared_limit: 64 << 10, capability: 75 },
        GpuLimits { sms: 108, shared_limit: 163 << 10, capability: 80 },
        GpuLimits { sms: 20, shared_limit: 99 << 10, capability: 86 },
        GpuLimits { sms: 132, shared_limit: 227 << 10, capability: 90 },
        GpuLimits { sms: 170, shared_limit: 99 << 10, capability: 120 },
    ];

    fn routes(gpu: GpuLimits) -> &'static [Route] {
        if gpu.capability == 90 {
            &[Route::Wgmma, Route::CpAsync, Route::RegisterStaged, Route::Plain]
        } else if gpu.capability >= 80 {
            &[Route::CpAsync, Route::RegisterStaged, Route::Plain]
        } else {
            &[Route::RegisterStaged, Route::Plain]
        }
    }

    #[test]
    fn every_tile_can_run_and_parts_cover_the_depth() {
        let sides = [1, 2, 7, 64, 384, 768, 3072, 30522];
        for gpu in GPUS {
            for &route in routes(gpu) {
                for (m, n) in sides.iter().flat_map(|&m| sides.map(|n| (m, n))) {
                    for k in [0, 1, 521, 768, 4096, 65536] {
                        let t = tile([m, n, k], route, gpu);
                        let [tm, tn, tk] = t.block;
                        assert!(
                            tm % t.warp[0] == 0 && tn % t.warp[1] == 0 && t.threads(route) <= 288,
                            "{t:?}"
                        );
                        assert!((1..=64).contains(&t.parts) && t.steps(k) * t.parts * tk >= k, "{t:?}");
                        assert!(
                            t.parts == 1 || t.steps(k) * (t.parts - 1) * tk < k,
                            "no part is empty: {t:?}"
                        );
                        if route != Route::Plain {
                            // Slabs of 16 rows a warp; on Hopper 64 columns at a time.
                            let columns = if route == Route::Wgmma { 64 } else { t.warp[1] };
                            let epilogue = t.threads(route) as usize / 32 * 16 * columns * 4;
                            assert!(
                                t.shared(route) <= gpu.shared_limit && epilogue <= t.shared(route),
                                "{t:?} {gpu:?}"
                            );
                        }
                        if route == Route::CpAsync {
                            assert!(t.stages >= 3 && 2 * t.shared(route) < gpu.shared_limit, "{t:?} {gpu:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn large_matmuls_take_large_tiles_and_long_sums_are_cut() {
        let [_, a100, ..] = GPUS;
        let large = tile([32768, 3072, 768], Route::CpAsync, a100);
        assert_eq!((large.block, large.parts), ([128, 128, 32], 1));
        // 48 tiles of 128 x 128 would leave more than half of the GPU idle.
        assert_eq!(tile([1024, 768, 768], Route::CpAsync, a100).block, [128, 64, 32]);
        // A weight gradient: 36 tiles, and a long sum.
        let weight = tile([768, 768, 32768], Route::CpAsync, a100);
        assert!(weight.parts > 1, "{weight:?}");
        assert!(tile([32, 768, 768], Route::Plain, a100).parts > 1);
        assert_eq!(tile([1, 1, 8], Route::CpAsync, a100).parts, 1);
    }
}
