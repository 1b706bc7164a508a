//! The matmul of bf16 by instructions that multiply pairs along k: AMX, or `vdpbf16ps` of AVX-512.
//!
//! A stripe of A, 32 rows deep enough for half of the first-level cache, stays there while the panels of B
//! pass by from the second. Sums stay in a small block until the epilogue writes them. A row-major A whose
//! rows begin on cache lines is read where it lies.

use super::epilogue::{Finish, Stored};
use super::pair_pack::{PairTile, SIDE, STEP, Stripe, a_step, b_step};
use super::{Mat, MatmulEngine, PanelUse, Shared, amx, dot, each, with_panels};
use crate::device::cpu::Cpu;
use crate::error::Result;
use crate::shape::DType;
use half::bf16;
use std::arch::x86_64::*;

/// The most k of one pass.
const DEPTH: usize = 512;
/// Bytes of B that one task reads at most, so that they stay in a second-level cache of 2 MiB.
const CHUNK: usize = 5 << 18;
/// The number of tasks that a matmul should have, to balance the threads.
const TASKS: usize = 12;
/// The least columns of a task.
const NARROW: usize = 96;

/// The tile for operands of these types, if the engine has one.
pub(super) fn tile<A: Stored, B: Stored, C: Stored>(engine: MatmulEngine) -> Option<PairTile> {
    let fits = A::DTYPE == DType::BF16 && B::DTYPE == DType::BF16 && C::DTYPE != DType::F16;
    match engine {
        MatmulEngine::Amx if fits => Some(amx::TILE),
        MatmulEngine::Avx512Bf16 if fits => Some(dot::TILE),
        _ => None,
    }
}

/// Rows and columns of the part of C that one task computes.
fn part(m: usize, n: usize, depth: usize) -> (usize, usize) {
    let stripes = m.div_ceil(SIDE);
    let most = (CHUNK / (depth * size_of::<bf16>()) / SIDE * SIDE).clamp(NARROW, n.max(NARROW));
    // Chunks of the same size.
    let mut cols = n.div_ceil(n.div_ceil(most)).next_multiple_of(SIDE);
    while stripes * n.div_ceil(cols) < TASKS && cols > NARROW {
        cols = (cols / 2).next_multiple_of(SIDE);
    }
    (stripes.div_ceil(16) * SIDE, cols)
}

/// C = A B of matrices that hold m, n and k, none of m and n zero. A and B are bf16, C is bf16 or f32: types
/// that [`tile`] accepts.
///
/// # Errors
/// [`Kind::Memory`](crate::error::Kind::Memory) for scratch.
pub(super) fn run<A: Stored, B: Stored, C: Stored>(
    cpu: &Cpu,
    tile: &PairTile,
    shape @ [m, n, k]: [usize; 3],
    a: Mat<A>,
    b: Mat<B>,
    finish: Finish<B, C>,
    parallel: bool,
) -> Result<()> {
    let a: Mat<bf16> = Mat { data: bytemuck::cast_slice(a.data), row: a.row, col: a.col };
    let b: Mat<bf16> = Mat { data: bytemuck::cast_slice(b.data), row: b.row, col: b.col };
    // An empty sum is zero: one step of zeros.
    let depth = k.next_multiple_of(SIDE).max(SIDE);
    let b_len = n.next_multiple_of(SIDE) * depth;
    // Rows of A that do not lie along memory are packed once, not by each task.
    let a_len = if a.col == 1 { 0 } else { m.next_multiple_of(SIDE) * depth };
    let go = |pa: &mut [bf16], pb: &mut [bf16]| {
        pack_whole(parallel, pb, depth, (b.col == 1).then_some(b), &|out, k0, j| {
            // SAFETY: engines with pairs are for AVX-512; B holds k rows and n columns.
            unsafe { b_step(out, b, [k0, k], [j, n]) }
        });
        pack_whole(parallel, pa, depth, (a.row == 1).then(|| a.t()), &|out, k0, i| {
            // SAFETY: as for B; A holds m rows and k columns.
            unsafe { a_step(out, a, [i, m], [k0, k]) }
        });
        compute(tile, shape, a, pa, pb, &finish, parallel);
    };
    if !parallel {
        with_panels(PanelUse::WholeB, b_len, |pb| with_panels(PanelUse::WholeA, a_len, |pa| go(pa, pb)));
        return Ok(());
    }
    let packed = [cpu.scratch(a_len * size_of::<bf16>())?, cpu.scratch(b_len * size_of::<bf16>())?];
    let (mut pa, mut pb) = (packed[0].write::<bf16>(0, a_len)?, packed[1].write::<bf16>(0, b_len)?);
    cpu.install(|| go(&mut pa, &mut pb));
    Ok(())
}

/// Packs all stripes or panels, each `depth` deep; `pack(out, k, first row or column)` packs a step.
/// `across` is the matrix (k, rows or columns) if its memory runs from one stripe to the next, not along k:
/// reads then follow it.
fn pack_whole(
    parallel: bool,
    packed: &mut [bf16],
    depth: usize,
    across: Option<Mat<bf16>>,
    pack: &(dyn Fn(&mut [bf16; STEP], usize, usize) + Sync),
) {
    let steps = depth / SIDE;
    let out = packed.as_chunks_mut::<STEP>().0;
    let panels = out.len() / steps;
    let out = Shared(out.as_mut_ptr());
    let one = |panel: usize, step: usize| {
        let out = &out;
        // SAFETY: `panel` and `step` are less than their numbers, and each pair of them is packed once.
        pack(unsafe { &mut *out.0.add(panel * steps + step) }, step * SIDE, panel * SIDE);
    };
    let Some(m) = across else {
        return each(parallel, panels, |panel| (0..steps).for_each(|step| one(panel, step)));
    };
    each(parallel, steps, |step| {
        for panel in 0..panels {
            // 32 rows are more streams than processors follow by themselves.
            let next = m.data.as_ptr().wrapping_add(step * SIDE * m.row + (panel + 1) * SIDE);
            for row in 0..SIDE {
                // SAFETY: a prefetch reads nothing, wherever it points.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(row * m.row).cast()) };
            }
            one(panel, step);
        }
    });
}

/// All tasks, from A or its packed stripes (if there are any) and the packed panels of B.
fn compute<B: Stored, C: Stored>(
    tile: &PairTile,
    [m, n, k]: [usize; 3],
    a: Mat<bf16>,
    pa: &[bf16],
    pb: &[bf16],
    finish: &Finish<B, C>,
    parallel: bool,
) {
    const SIZE: usize = size_of::<bf16>();
    let depth = k.next_multiple_of(SIDE).max(SIDE);
    let kc = depth.div_ceil(depth.div_ceil(DEPTH)).next_multiple_of(SIDE);
    // One block of sums then does for all panels.
    let one_pass = kc >= depth;
    let (rows, cols) = part(m, n, depth);
    let strips = m.div_ceil(rows);
    // A row of a tile that crosses a cache line costs two loads.
    let in_place =
        a.col == 1 && k == depth && a.data.as_ptr().addr().is_multiple_of(64) && a.row.is_multiple_of(SIDE);
    let packed = |p: *const bf16| Stripe { p, row: 64, half: 1024, step: 2048 };
    let task = |t: usize, own_a: &mut [bf16], sums: &mut [f32]| {
        let (i0, j0) = (t % strips * rows, t / strips * cols);
        for i in (i0..m.min(i0 + rows)).step_by(SIDE) {
            let here = SIDE.min(m - i);
            for k0 in (0..depth).step_by(kc) {
                let (k1, last) = (depth.min(k0 + kc), k0 + kc >= depth);
                let stripe = if !pa.is_empty() {
                    packed(pa[i * depth + k0 * SIDE..].as_ptr())
                } else if in_place && here == SIDE {
                    let row = a.row * SIZE;
                    Stripe { p: a.data[i * a.row + k0..].as_ptr(), row, half: 16 * row, step: 64 }
                } else {
                    for (out, k0) in own_a.as_chunks_mut::<STEP>().0.iter_mut().zip((k0..k1).step_by(SIDE)) {
                        // SAFETY: engines with pairs are for AVX-512; A holds m rows and k columns.
                        unsafe { a_step(out, a, [i, m], [k0, k]) };
                    }
                    packed(own_a.as_ptr())
                };
                for j in (j0..n.min(j0 + cols)).step_by(SIDE) {
                    let at = if one_pass { 0 } else { (j - j0) * SIDE };
                    let block = &mut sums[at..][..STEP];
                    let panel = &pb[j * depth + k0 * SIDE..][..(k1 - k0) * SIDE];
                    let steps = (k1 - k0) / SIDE;
                    // SAFETY: the engine was found to work here, and `task` is called between `enter` and
                    // `leave`. The panel and the block are sliced to size, and there is at least one step.
                    // A stripe in place is 32 rows of A, which holds them up to k = depth; a packed one is
                    // padded to that.
                    unsafe { (tile.run)(steps, here, stripe, panel.as_ptr(), block.as_mut_ptr(), k0 > 0) };
                    if last {
                        let (block, cols) = (&mut block[..here * SIDE], SIDE.min(n - j));
                        // SAFETY: these rows and columns lie inside C, and this task alone owns them; engines
                        // with pairs are for AVX-512 with bf16.
                        unsafe { write(finish, block, i, j, cols) };
                    }
                }
            }
        }
    };
    let blocks = if one_pass { 1 } else { cols / SIDE };
    each(parallel, strips * n.div_ceil(cols), |t| {
        with_panels(PanelUse::PartOfA, kc * SIDE, |own_a| {
            with_panels(PanelUse::Sums, blocks * STEP, |sums| {
                // SAFETY: the engine was found to work here.
                unsafe { (tile.enter)() };
                task(t, own_a, sums);
                // SAFETY: as above.
                unsafe { (tile.leave)() };
                // Stores that passed the caches by come before what tells other threads that C is complete.
                // SAFETY: a barrier; every x86-64 has it.
                unsafe { _mm_sfence() };
            });
        });
    });
}

/// Elements `at..at + 32` as f32, of which those of the mask are read; the others are zero.
///
/// # Safety
/// Needs AVX-512 F and BW. Elements of the mask are readable; `T` is bf16 or f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn get<T: Stored>(at: *const T, mask: u32) -> [__m512; 2] {
    // SAFETY: as the caller promises.
    unsafe {
        if T::DTYPE == DType::BF16 {
            let both = _mm512_maskz_loadu_epi16(mask, at.cast());
            let halves = [_mm512_castsi512_si256(both), _mm512_extracti64x4_epi64::<1>(both)];
            halves.map(|half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half))))
        } else {
            let at: *const f32 = at.cast();
            let upper = (mask >> 16) as u16;
            [_mm512_maskz_loadu_ps(mask as u16, at), _mm512_maskz_loadu_ps(upper, at.wrapping_add(16))]
        }
    }
}

/// Writes the elements of the mask, rounded; past the caches if `stream` says so and all are of one line.
///
/// # Safety
/// Needs AVX-512 F, BW and BF16. Elements of the mask are writable; `T` is bf16 or f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn put<T: Stored>(at: *mut T, mask: u32, v: [__m512; 2], stream: bool) {
    let stream = stream && mask == !0 && at.addr().is_multiple_of(64);
    // SAFETY: as the caller promises; both types are 512 bits wide and any bits are a value of theirs.
    unsafe {
        if T::DTYPE == DType::BF16 {
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(v[1], v[0]));
            match stream {
                true => _mm512_stream_si512(at.cast(), both),
                false => _mm512_mask_storeu_epi16(at.cast(), mask, both),
            }
        } else {
            let at: *mut f32 = at.cast();
            if stream {
                _mm512_stream_ps(at, v[0]);
                _mm512_stream_ps(at.add(16), v[1]);
            } else {
                _mm512_mask_storeu_ps(at, mask as u16, v[0]);
                _mm512_mask_storeu_ps(at.wrapping_add(16), (mask >> 16) as u16, v[1]);
            }
        }
    }
}

/// [`Finish::write`] for a block of whole rows of 32 sums, of which `cols` lie inside C.
///
/// # Safety
/// As there; needs AVX-512 F, BW and BF16. `B` and `C` are bf16 or f32.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn write<B: Stored, C: Stored>(
    finish: &Finish<B, C>,
    sums: &mut [f32],
    i: usize,
    j: usize,
    cols: usize,
) {
    let mask = if cols >= SIDE { !0 } else { (1u32 << cols) - 1 };
    let at = |r: usize| (i + r) * finish.row + j;
    // SAFETY: blocks are whole rows of 32 sums; masks leave elements beyond the columns of C alone, and so
    // beyond those of the bias; `kept` is laid out as C.
    unsafe {
        let bias = match finish.bias {
            Some(bias) => get(bias[j..].as_ptr(), mask),
            None => [_mm512_setzero_ps(); 2],
        };
        let add = |x: [__m512; 2], y: [__m512; 2]| [_mm512_add_ps(x[0], y[0]), _mm512_add_ps(x[1], y[1])];
        let changes = finish.kept.is_some() || finish.act.is_some() || finish.dact.is_some();
        if changes {
            for (r, sums) in sums.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
                let v = add(get(sums.as_ptr(), !0), bias);
                if let Some(kept) = &finish.kept {
                    put(kept.0.add(at(r)), mask, v, finish.stream);
                }
                put(sums.as_mut_ptr(), !0, v, false);
            }
        }
        if let Some(act) = finish.act {
            act(sums);
        }
        if let Some((z, gradient)) = finish.dact {
            let mut values = [0f32; STEP];
            for (r, values) in values[..sums.len()].as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
                put(values.as_mut_ptr(), !0, get(z[at(r)..].as_ptr(), mask), false);
            }
            gradient(sums, &values[..sums.len()]);
        }
        for (r, sums) in sums.as_chunks::<SIDE>().0.iter().enumerate() {
            let mut v = get(sums.as_ptr(), !0);
            if finish.bias.is_some() && !changes {
                v = add(v, bias);
            }
            let c = finish.c.0.add(at(r));
            if finish.add {
                v = add(get(c, mask), v);
            }
            put(c, mask, v, finish.stream);
        }
    }
}
