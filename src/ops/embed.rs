//! `y[t] = word[ids[t]] + position[positions[t]] + kind[types[t]]`.
//!
//! ids, positions, types u32 (tokens); word (vocabulary, cols), position (positions, cols), kind (types, cols)
//! -> y (tokens, cols). The sum of BERT's three embeddings (Devlin et al. 2019, fig. 2), before its layer norm.
//!
//! The backward pass sorts the tokens by row and adds each row's gradients in token order: no atomics, one order.

use super::{
    Backward, CUDA_THREADS, Case, Forward, Input, On, Op, Plan, THREADS, blocks_for, by_dtype, compute_dtype,
    groups_for, launch, launch_cuda, refuse, vector,
};
use crate::device::cpu::{BLOCK, Real, Slice, vectorise};
use crate::device::{Backend, Caps, Const, Cpu, Cuda, Tensor, Wgpu, fold};
use crate::error::{Error, Result};
use crate::shape::{DType, Spec};
use rayon::prelude::*;

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Embed;

impl Op for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let expected = "ids, positions, types (tokens), word, position, kind (rows, cols)";
        let [ids, positions, types, word, position, kind] = x else {
            return Err(refuse("embed", expected, x));
        };
        let cols = word.rows_cols().1;
        let integers = [ids, positions, types].iter().all(|s| s.dtype == DType::U32 && s.len() == ids.len());
        if !integers || [position, kind].iter().any(|s| s.rows_cols().1 != cols) {
            return Err(refuse("embed", expected, x));
        }
        let y = Spec::new(compute_dtype("embed", caps, x)?, &[ids.len(), cols]);
        let mut plan = Plan::new(x, vec![y.clone()], vec![], [2.0 * y.len() as f64, 3.0 * y.len() as f64]);
        if caps.gpu {
            let parts = ids.len().div_ceil(CHUNK) * 2 * cols;
            plan = plan.with_scratch([0, (ids.len() + parts) * size_of::<f32>()]);
        }
        // Only the rows that are looked up are read; the gradients of the tables are written whole, zeros and all.
        let read: usize = [ids, positions, types].iter().map(|s| s.bytes()).sum();
        let tables: usize = [word, position, kind].iter().map(|s| s.bytes()).sum();
        plan.cost.forward_bytes = (read + 4 * y.bytes()) as f64;
        plan.cost.backward_bytes = (read + y.bytes() + tables) as f64;
        Ok(plan)
    }
}

impl On<Cpu> for Embed {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.y[0].spec.dtype, forward(cpu, io))
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        by_dtype!(io.y[0].spec.dtype, backward(cpu, io))
    }
}

/// The indices into a table, each checked against it.
fn indices<'a>(which: &str, index: &'a Tensor, table: &Tensor) -> Result<Slice<'a, u32>> {
    let rows = table.spec.rows_cols().0;
    let index = index.cpu::<u32>()?;
    match index.iter().position(|&i| i as usize >= rows) {
        None => Ok(index),
        Some(at) => Err(Error::data(format!("token {at} of the batch has {which} {}", index[at]))
            .expected(format!("below {rows}, the rows of the model's {which} table"))
            .hint("check that tokenizer and model belong together, and that max_length fits the model")),
    }
}

fn forward<T: Real>(cpu: &Cpu, io: Forward) -> Result<()> {
    let (_, cols) = io.y[0].spec.rows_cols();
    let ids = indices("id", io.x[0], io.x[3])?;
    let positions = indices("position", io.x[1], io.x[4])?;
    let types = indices("token type", io.x[2], io.x[5])?;
    let (word, position, kind) = (io.x[3].cpu::<T>()?, io.x[4].cpu::<T>()?, io.x[5].cpu::<T>()?);
    let mut y = io.y[0].cpu_mut::<T>()?;
    let task = |(block, y): (usize, &mut [T])| {
        vectorise!({
            for (r, y) in y.chunks_exact_mut(cols).enumerate() {
                let t = block * BLOCK + r;
                let row =
                    |table, index: u32| -> &[T] { &<[T]>::as_ref(table)[index as usize * cols..][..cols] };
                let (a, b, c) =
                    (row(&word[..], ids[t]), row(&position[..], positions[t]), row(&kind[..], types[t]));
                for (((y, &a), &b), &c) in y.iter_mut().zip(a).zip(b).zip(c) {
                    *y = a + b + c;
                }
            }
        })
    };
    cpu.install(|| y.par_chunks_mut(BLOCK * cols).enumerate().for_each(task));
    Ok(())
}

fn backward<T: Real>(cpu: &Cpu, io: Backward) -> Result<()> {
    let dy = io.dy()?.cpu::<T>()?;
    let (_, cols) = io.y[0].spec.rows_cols();
    for (i, which) in ["id", "position", "token type"].iter().enumerate() {
        let Some(g) = io.dx(3 + i) else { continue };
        let index = indices(which, io.x[i], io.x[3 + i])?;
        let mut table = g.t.cpu_mut::<T>()?;
        if !g.add {
            // Most rows of a vocabulary are zero from the last step; looking is cheaper than writing.
            let clear = |row: &mut [T]| {
                vectorise!(if row.iter().any(|&v| v != T::ZERO) {
                    row.fill(T::ZERO);
                })
            };
            cpu.install(|| table.par_chunks_mut(cols).with_min_len(256).for_each(clear));
        }
        // Tokens sorted by row, and within a row by position.
        let mut order: Vec<u32> = (0..index.len() as u32).collect();
        order.sort_by_key(|&t| index[t as usize]);
        // One piece of the table for each row that occurs.
        let mut rows: Vec<(&mut [T], &[u32])> = Vec::new();
        let (mut rest, mut below) = (&mut table[..], 0);
        for tokens in order.chunk_by(|&a, &b| index[a as usize] == index[b as usize]) {
            let row = index[tokens[0] as usize] as usize;
            let (_, after) = rest.split_at_mut((row - below) * cols);
            let (here, after) = after.split_at_mut(cols);
            rows.push((here, tokens));
            (rest, below) = (after, row + 1);
        }
        cpu.install(|| {
            rows.into_par_iter().with_min_len(8).for_each(|(row, tokens)| {
                vectorise!({
                    for &t in tokens {
                        row.iter_mut().zip(&dy[t as usize * cols..][..cols]).for_each(|(r, &d)| *r += d);
                    }
                })
            })
        });
    }
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/embed.wgsl");

impl On<Wgpu> for Embed {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let (tokens, cols) = io.y[0].spec.rows_cols();
        let buffers = [io.x[0], io.x[1], io.x[2], io.x[3], io.x[4], io.x[5], io.y[0]];
        let params = [tokens as u32, cols as u32, 0];
        launch(device, (SHADER, "forward"), &[], groups_for(tokens * cols), &buffers, &params)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let (tokens, cols) = io.y[0].spec.rows_cols();
        let dy = io.dy()?;
        let chunks = tokens.div_ceil(CHUNK);
        let order = device.scratch(DType::U32, &[tokens])?;
        let parts = device.scratch(DType::F32, &[chunks, 2, cols])?;
        for i in 0..3 {
            let Some(g) = io.dx(3 + i) else { continue };
            if !g.add {
                device.zero(g.t)?;
            }
            if tokens == 0 {
                continue;
            }
            let buffers = [io.x[i], &order, io.x[i], g.t, dy, &parts, dy];
            let params = [tokens as u32, cols as u32, g.t.spec.rows_cols().0 as u32];
            launch(device, (SHADER, "rank"), &[], groups_for(tokens), &buffers, &params)?;
            let [x, y, _] = fold(chunks);
            let groups = [x, y, cols.div_ceil(THREADS as usize) as u32];
            launch(device, (SHADER, "sum_runs"), &[], groups, &buffers, &params)?;
            launch(device, (SHADER, "carry_runs"), &[], groups, &buffers, &params)?;
        }
        Ok(())
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/embed.cu");
/// Sorted tokens that one block adds up; the kernel's `CHUNK`.
const CHUNK: usize = 32;

impl On<Cuda> for Embed {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let (tokens, cols) = io.y[0].spec.rows_cols();
        let vec = vector(cols);
        let buffers = [io.x[0], io.x[1], io.x[2], io.x[3], io.x[4], io.x[5], io.y[0]];
        let rows = |i: usize| io.x[i].spec.rows_cols().0 as u32;
        let params = [tokens as u32, cols as u32, rows(3), rows(4), rows(5), 0];
        let dtype = Const::Type(io.y[0].spec.dtype);
        let consts = [("T", dtype), ("G", dtype), ("VEC", Const::U32(vec))];
        let groups = blocks_for(tokens * cols / vec as usize);
        launch_cuda(device, (KERNEL, "embed_forward"), &consts, groups, &buffers, &params)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let (tokens, cols) = io.y[0].spec.rows_cols();
        let (dy, vec) = (io.dy()?, vector(cols));
        let chunks = tokens.div_ceil(CHUNK);
        let order = device.scratch(DType::U32, &[tokens])?;
        let parts = device.scratch(DType::F32, &[chunks, 2, cols])?;
        for i in 0..3 {
            let Some(g) = io.dx(3 + i) else { continue };
            if !g.add {
                device.zero(g.t)?;
            }
            let ids = io.x[i];
            let params = [tokens as u32, cols as u32, g.t.spec.rows_cols().0 as u32, 0, 0, g.add as u32];
            let (t, to) = (Const::Type(dy.spec.dtype), Const::Type(g.t.spec.dtype));
            let consts = [("T", t), ("G", to), ("VEC", Const::U32(vec))];
            let go = |entry, groups, buffers: &[&Tensor]| {
                launch_cuda(device, (KERNEL, entry), &consts, groups, buffers, &params)
            };
            go("embed_rank", blocks_for(tokens), &[ids, &order])?;
            let across = cols.div_ceil((vec * CUDA_THREADS) as usize) as u32;
            let groups = [chunks as u32, across, 1];
            go("embed_sum", groups, &[ids, &order, dy, g.t, &parts])?;
            go("embed_carry", groups, &[ids, &order, g.t, &parts])?;
        }
        Ok(())
    }
}

/// Cases chosen to hurt: a row used many times, the first and the last row, tables of one row, no tokens.
pub fn cases() -> Vec<Case> {
    let case = |label, ids: &[u32], positions: &[u32], types: &[u32], [v, p, k]: [usize; 3], cols| {
        let tables = [v, p, k].map(|rows| Input::real(&[rows, cols]));
        let mut inputs = vec![Input::ints(ids), Input::ints(positions), Input::ints(types)];
        inputs.extend(tables);
        Case::new(label, Embed, inputs)
    };
    let long: Vec<u32> = (0..130).map(|i| i * 7 % 11).collect();
    let halves: Vec<u32> = (0..130).map(|i| (i >= 64) as u32).collect();
    vec![
        case("repeated ids", &[4, 0, 4, 4, 9], &[0, 1, 2, 0, 1], &[0, 0, 1, 1, 0], [10, 3, 2], 8),
        case("one token, one row", &[0], &[0], &[0], [1, 1, 1], 1),
        case("rows beyond a chunk", &long, &vec![0; 130], &halves, [13, 1, 2], 16),
        case("prime sizes", &long, &long, &vec![0; 130], [13, 11, 1], 37),
        case("no tokens", &[], &[], &[], [3, 2, 1], 5),
    ]
}
