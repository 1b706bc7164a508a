//! `y[t] = word[ids[t]] + position[positions[t] + first_position] + kind[types[t]]`.
//!
//! ids, positions, types u32 (tokens); word (vocabulary, cols), position (positions, cols), kind (types,
//! cols) -> y (tokens, cols). The sum of BERT's three embeddings (Devlin et al. 2019, fig. 2), before its
//! layer norm. Without types and kind: two of them (DistilBERT); without positions and position too: one.
//!
//! The backward pass sorts the tokens by row and adds each row's gradients in token order: no atomics, one
//! order. Where the gradient says which of its blocks are zero ([`ZeroBlocks`]), only the others are zeroed
//! before, and those of the batch's rows are unmarked; WGSL zeroes the table whole and marks nothing.

use super::{
    Backward, CUDA_THREADS, Call, Case, Cost, Forward, Grad, Input, On, Op, Plan, THREADS, ZeroBlocks,
    blocks_for, compute_dtype, groups_for, launch, launch_cuda, refuse, vector,
};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{BLOCK, Real, Scalar, Slice, by_gradient, by_scalar, store_row, vectorise};
use crate::device::{Backend, Caps, Const, Cpu, Cuda, Tensor, Wgpu, fold};
use crate::error::{Error, Result};
use crate::shape::{DType, Spec};

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Embed {
    /// The row of the position table for position 0.
    pub first_position: u32,
}

impl Embed {
    /// What is added to the indices into table i.
    fn first(self, i: usize) -> u32 {
        if i == 1 { self.first_position } else { 0 }
    }
}

impl Op for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let wrong =
            || refuse("embed", "ids, positions, types (tokens), word, position, kind (rows, cols)", x);
        if !matches!(x.len(), 2 | 4 | 6) {
            return Err(wrong());
        }
        let (indices, tables) = x.split_at(x.len() / 2);
        let (tokens, cols) = (indices[0].len(), tables[0].rows_cols().1);
        let integers = indices.iter().all(|s| s.dtype == DType::U32 && s.len() == tokens);
        if !integers || tables.iter().any(|s| s.rows_cols().1 != cols) {
            return Err(wrong());
        }
        let y = Spec::new(compute_dtype("embed", caps, x)?, &[tokens, cols]);
        let plan = Plan::new(vec![y], vec![]);
        let parts = tokens.div_ceil(CHUNK) * 2 * cols;
        let scratch = if caps.gpu { (tokens + parts) * size_of::<f32>() } else { 0 };
        Ok(plan.with_scratch([0, scratch]))
    }
    fn cost(&self, call: &Call) -> Cost {
        let n = call.x.len() / 2;
        let sums = call.len(0) * call.rows_cols(n)[1];
        // A row that several tokens name is read once.
        let rows = |i: usize| {
            let first = self.first(i) as usize;
            let all = call.rows_cols(n + i)[0] as usize;
            call.distinct(i, all.saturating_sub(first)).into_iter().map(|r| r + first).collect::<Vec<_>>()
        };
        let read: f64 = (0..n).map(|i| call.input(i) + rows(i).len() as f64 * call.row(n + i)).sum();
        // The tables' gradients are dense: without a bitmap of what is zero already, all their rows are
        // written.
        let (mut flops, mut bytes) = (0.0, call.dy());
        for i in 0..n {
            if let Some(g) = call.gradient(n + i) {
                let (cols, len) = (call.rows_cols(n + i)[1] as usize, call.len(n + i) as usize);
                let [written, read, bitmap] = g.table(&rows(i), cols, len);
                flops += sums;
                bytes += call.input(i) + (written + read) * g.dtype.size() as f64 + bitmap;
            }
        }
        Cost::new([(n as f64 - 1.0) * sums, flops], [read + call.output(0), bytes])
    }
    fn maintains_zero_blocks(&self) -> bool {
        true
    }
    fn reads_half(&self) -> bool {
        true
    }
}

impl On<Cpu> for Embed {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_scalar!(io.y[0].spec.dtype, T => forward::<T>(*self, cpu, io))
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        let n = io.x.len() / 2;
        (0..n).filter_map(|i| Some((i, io.dx(n + i)?))).try_for_each(|(i, g)| {
            by_gradient!(io.y[0].spec.dtype, g.t.spec.dtype, (T, G) => backward::<T, G>(*self, cpu, io, i, g))
        })
    }
}

/// The names of the indices of each table.
const WHICH: [&str; 3] = ["id", "position", "token type"];

/// The indices into table i of n, each checked against it.
fn indices<'a>(op: Embed, x: &[&'a Tensor], i: usize) -> Result<Slice<'a, u32>> {
    let rows = x[x.len() / 2 + i].spec.rows_cols().0 as u64;
    let index = x[i].cpu::<u32>()?;
    let first = op.first(i);
    match index.iter().position(|&at| u64::from(at) + u64::from(first) >= rows) {
        None => Ok(index),
        Some(at) => {
            let which = WHICH[i];
            Err(Error::data(format!(
                "token {at} of the batch has {which} {}, which is out of range",
                index[at]
            ))
            .with_expected(format!(
                "a {which} below {}, the number of rows of the model's {which} embedding",
                rows.saturating_sub(first.into())
            ))
            .with_help("check that the tokenizer is the model's own, or lower data.max_length"))
        }
    }
}

fn forward<T: Scalar>(op: Embed, cpu: &Cpu, io: Forward) -> Result<()> {
    let (_, cols) = io.y[0].spec.rows_cols();
    let n = io.x.len() / 2;
    let index = (0..n).map(|i| indices(op, io.x, i)).collect::<Result<Vec<_>>>()?;
    let tables = io.x[n..].iter().map(|t| t.cpu::<T>()).collect::<Result<Vec<_>>>()?;
    let mut y = io.y[0].cpu_mut::<T>()?;
    let row = |i: usize, t: usize| &tables[i][(index[i][t] + op.first(i)) as usize * cols..][..cols];
    let task = |(block, y): (usize, &mut [T])| {
        vectorise!({
            for (r, y) in y.chunks_exact_mut(cols).enumerate() {
                let t = block * BLOCK + r;
                match n {
                    1 => y.copy_from_slice(row(0, t)),
                    2 => {
                        let rows = row(0, t).iter().zip(row(1, t));
                        y.iter_mut().zip(rows).for_each(|(y, (a, b))| *y = T::store(a.load() + b.load()));
                    }
                    _ => {
                        let rows = row(0, t).iter().zip(row(1, t)).zip(row(2, t));
                        let sum = |((a, b), c): ((&T, &T), &T)| T::store(a.load() + b.load() + c.load());
                        y.iter_mut().zip(rows).for_each(|(y, rows)| *y = sum(rows));
                    }
                }
            }
        })
    };
    cpu.install(|| y.par_chunks_mut(BLOCK * cols).enumerate().for_each(task));
    Ok(())
}

/// The gradient of table i.
fn backward<T: Scalar, G: Scalar<Real = T::Real>>(
    op: Embed,
    cpu: &Cpu,
    io: Backward,
    i: usize,
    g: Grad,
) -> Result<()> {
    let dy = io.dy()?.cpu::<T>()?;
    let (_, cols) = io.y[0].spec.rows_cols();
    let index = indices(op, io.x, i)?;
    let mut table = g.t.cpu_mut::<G>()?;
    let mut zero_blocks = g.zero_blocks.map(|b| Ok((b.bits.cpu_mut::<u32>()?, b.first))).transpose()?;
    if let (Some((bits, first)), false) = (&mut zero_blocks, g.add) {
        clear(cpu, &mut table, bits, *first);
    } else if !g.add {
        // Most rows of a vocabulary are zero from the last step; looking is cheaper than writing.
        cpu.install(|| table.par_chunks_mut(cols).with_min_len(256).for_each(zero));
    }
    // Tokens sorted by row, and within a row by position.
    let mut order: Vec<u32> = (0..index.len() as u32).collect();
    order.sort_by_key(|&t| index[t as usize]);
    // One piece of the table for each row that occurs.
    let mut rows: Vec<(&mut [G], &[u32])> = Vec::new();
    let (mut rest, mut below) = (&mut table[..], 0);
    for tokens in order.chunk_by(|&a, &b| index[a as usize] == index[b as usize]) {
        let row = (index[tokens[0] as usize] + op.first(i)) as usize;
        let (_, after) = rest.split_at_mut((row - below) * cols);
        let (here, after) = after.split_at_mut(cols);
        rows.push((here, tokens));
        if let Some((bits, first)) = &mut zero_blocks {
            let at = *first + row * cols;
            for block in at / ZeroBlocks::BLOCK..(at + cols).div_ceil(ZeroBlocks::BLOCK) {
                bits[block / 32] &= !(1 << (block % 32));
            }
        }
        (rest, below) = (after, row + 1);
    }
    let sum = |row: &mut [T::Real], tokens: &[u32]| {
        vectorise!({
            for &t in tokens {
                row.iter_mut().zip(&dy[t as usize * cols..][..cols]).for_each(|(r, d)| *r += d.load());
            }
        })
    };
    let task = |(row, tokens): (&mut [G], &[u32])| {
        if let Some(row) = G::reals_mut(row) {
            return sum(row, tokens);
        }
        // In 16 bits each sum is rounded once.
        let mut sums = vec![T::Real::ZERO; cols];
        sum(&mut sums, tokens);
        store_row(&sums, row, true);
    };
    cpu.install(|| rows.into_par_iter().with_min_len(8).for_each(task));
    Ok(())
}

/// Zeroes elements, if they are not zero already.
fn zero<T: Scalar>(all: &mut [T]) {
    vectorise!(if all.iter().any(|&v| v != T::zeroed()) {
        all.fill(T::zeroed());
    })
}

/// Zeroes the blocks of a table that are not known to be zero, and marks those that lie in it wholly. It
/// begins at element `first` of the arena.
fn clear<T: Scalar>(cpu: &Cpu, table: &mut [T], bits: &mut [u32], first: usize) {
    let mut full: Vec<&mut [T]> = Vec::new();
    let end = first + table.len();
    let mut rest = table;
    let mut at = first;
    while at < end {
        let block = at / ZeroBlocks::BLOCK;
        let next = ((block + 1) * ZeroBlocks::BLOCK).min(end);
        let (here, after) = rest.split_at_mut(next - at);
        let (word, bit) = (&mut bits[block / 32], 1u32 << (block % 32));
        if *word & bit == 0 {
            if here.len() == ZeroBlocks::BLOCK {
                *word |= bit;
            }
            full.push(here);
        }
        (at, rest) = (next, after);
    }
    // The first time that is all of it, and nothing was written yet: looking does not make its pages.
    cpu.install(|| full.into_par_iter().with_min_len(64).for_each(zero));
}

pub(super) const SHADER: &str = include_str!("../../shaders/embed.wgsl");

/// Every binding of a kernel that reads three tables: what is not there is stood for by what is, and not
/// read.
fn bindings<'a>(x: &[&'a Tensor], y: &'a Tensor) -> [&'a Tensor; 7] {
    let n = x.len() / 2;
    let at = |i: usize| if i < n { i } else { 0 };
    let (index, table) = (|i| x[at(i)], |i| x[n + at(i)]);
    [index(0), index(1), index(2), table(0), table(1), table(2), y]
}

impl On<Wgpu> for Embed {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let (tokens, cols) = io.y[0].spec.rows_cols();
        let buffers = bindings(io.x, io.y[0]);
        let params = [tokens as u32, cols as u32, 0, self.first_position];
        let consts = [("TABLES", io.x.len() as u32 / 2)];
        launch(device, (SHADER, "forward"), &consts, groups_for(tokens * cols), &buffers, &params)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let (tokens, cols) = io.y[0].spec.rows_cols();
        let (dy, n) = (io.dy()?, io.x.len() / 2);
        let chunks = tokens.div_ceil(CHUNK);
        let order = device.scratch(DType::U32, &[tokens])?;
        let parts = device.scratch(DType::F32, &[chunks, 2, cols])?;
        for i in 0..n {
            let Some(g) = io.dx(n + i) else { continue };
            if let Some(zero_blocks) = g.zero_blocks {
                device.zero(&zero_blocks.part(g.t.spec.len())?)?;
            }
            if !g.add {
                device.zero(g.t)?;
            }
            if tokens == 0 {
                continue;
            }
            let buffers = [io.x[i], &order, io.x[i], g.t, dy, &parts, dy];
            let params = [tokens as u32, cols as u32, g.t.spec.rows_cols().0 as u32, self.first(i)];
            let consts = [("TABLES", 1)];
            launch(device, (SHADER, "rank"), &consts, groups_for(tokens), &buffers, &params)?;
            let [x, y, _] = fold(chunks);
            let groups = [x, y, cols.div_ceil(THREADS as usize) as u32];
            launch(device, (SHADER, "sum_runs"), &consts, groups, &buffers, &params)?;
            launch(device, (SHADER, "carry_runs"), &consts, groups, &buffers, &params)?;
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
        let buffers = bindings(io.x, io.y[0]);
        let rows = |i: usize| buffers[i].spec.rows_cols().0 as u32;
        let params = [tokens as u32, cols as u32, rows(3), rows(4), rows(5), 0, self.first_position, 0];
        let dtype = Const::Type(io.y[0].spec.dtype);
        let tables = Const::U32(io.x.len() as u32 / 2);
        let zero_blocks = ("ZERO_BLOCKS", Const::U32(0));
        let consts = [("T", dtype), ("G", dtype), ("VEC", Const::U32(vec)), ("TABLES", tables), zero_blocks];
        let groups = blocks_for(tokens * cols / vec as usize);
        launch_cuda(device, (KERNEL, "embed_forward"), &consts, groups, &buffers, &params)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let (tokens, cols) = io.y[0].spec.rows_cols();
        let (dy, vec, n) = (io.dy()?, vector(cols), io.x.len() / 2);
        let chunks = tokens.div_ceil(CHUNK);
        let order = device.scratch(DType::U32, &[tokens])?;
        let parts = device.scratch(DType::F32, &[chunks, 2, cols])?;
        for i in 0..n {
            let Some(g) = io.dx(n + i) else { continue };
            let ids = io.x[i];
            let rows = g.t.spec.rows_cols().0 as u32;
            let origin = g.zero_blocks.map_or(0, |b| b.first / ZeroBlocks::GRAIN) as u32;
            let params = [tokens as u32, cols as u32, rows, 0, 0, g.add as u32, self.first(i), origin];
            let number = |name, n| (name, Const::U32(n));
            let consts = [
                ("T", Const::Type(dy.spec.dtype)),
                ("G", Const::Type(g.t.spec.dtype)),
                number("VEC", vec),
                number("TABLES", 1),
                number("ZERO_BLOCKS", g.zero_blocks.is_some() as u32),
            ];
            let go = |entry, groups, buffers: &[&Tensor]| {
                launch_cuda(device, (KERNEL, entry), &consts, groups, buffers, &params)
            };
            let bits = g.zero_blocks.map_or(ids, |b| &b.bits);
            match g.zero_blocks {
                Some(b) if !g.add => {
                    let words = b.part(g.t.spec.len())?.spec.len() as u32;
                    go("embed_clear", [words, 1, 1], &[g.t, bits])?;
                }
                None if !g.add => device.zero(g.t)?,
                _ => {}
            }
            go("embed_rank", blocks_for(tokens), &[ids, &order])?;
            let across = cols.div_ceil((vec * CUDA_THREADS) as usize) as u32;
            let groups = [chunks as u32, across, 1];
            go("embed_sum", groups, &[ids, &order, dy, g.t, &parts, bits])?;
            go("embed_carry", groups, &[ids, &order, g.t, &parts, bits])?;
        }
        Ok(())
    }
}

/// Edge cases: a row used many times, the first and the last row, tables of one row, no tokens.
pub fn cases() -> Vec<Case> {
    let some = |label, op, index: &[&[u32]], rows: &[usize], cols| {
        let mut inputs: Vec<Input> = index.iter().map(|i| Input::ints(i)).collect();
        inputs.extend(rows.iter().map(|&rows| Input::real(&[rows, cols])));
        Case::new(label, op, inputs)
    };
    let op = Embed { first_position: 0 };
    let case = |label, ids: &[u32], positions: &[u32], types: &[u32], rows: [usize; 3], cols| {
        some(label, op, &[ids, positions, types], &rows, cols)
    };
    let long: Vec<u32> = (0..130).map(|i| i * 7 % 11).collect();
    let halves: Vec<u32> = (0..130).map(|i| (i >= 64) as u32).collect();
    let shifted = Embed { first_position: 2 };
    vec![
        case("repeated ids", &[4, 0, 4, 4, 9], &[0, 1, 2, 0, 1], &[0, 0, 1, 1, 0], [10, 3, 2], 8),
        case("one token, one row", &[0], &[0], &[0], [1, 1, 1], 1),
        case("rows beyond a chunk", &long, &vec![0; 130], &halves, [13, 1, 2], 16),
        case("prime sizes", &long, &long, &vec![0; 130], [13, 11, 1], 37),
        case("no tokens", &[], &[], &[], [3, 2, 1], 5),
        some("no types", op, &[&long, &halves], &[13, 2], 19),
        some("ids alone", op, &[&long], &[11], 24),
        some("positions from 2", shifted, &[&long, &long, &halves], &[13, 13, 2], 12),
        some("no types, positions from 2", shifted, &[&[1, 1, 0], &[0, 1, 0]], &[2, 5], 3),
    ]
}
