//! MiniLM-v2's distillation loss: how far a student's self-attention relations are from a teacher's.
//!
//! teacher (tokens, 3 heads d_t), student (tokens, 3 heads d_s): packed q, k and v; cu_seqlens u32
//! (sequences + 1); weights c (tokens), scale (1) -> loss (1). Wang et al. 2021, section 3.1, eq. 5 to 7. The
//! relation heads cut the concatenated columns of q, of k and of v; they need not be attention heads. With
//! t_i and s_i the rows of one relation head of q, k or v, and i and j tokens of the same sequence:
//!
//! - a_ij = t_i t_j / sqrt(d_t), b_ij = s_i s_j / sqrt(d_s); P = softmax_j a, Q = softmax_j b; LT_i = lse_j
//!   a_ij, LS_i = lse_j b_ij;
//! - loss = scale sum c_i KL(P_i || Q_i), KL_i = LS_i - LT_i + sum_j P_ij (a_ij - b_ij): the sum over q, k
//!   and v, relation heads and tokens. MiniLM-v2 has c_i = 1 / (heads length) and scale = 1 / sequences;
//! - ds_i = scale dloss / sqrt(d_s) sum_j W_ij s_j, W_ij = c_i (Q_ij - P_ij) + c_j (Q_ji - P_ji). Scores are
//!   symmetric, so Q_ji = exp(b_ij - LS_j): the transposed term needs only the statistics of row j.
//!
//! A token with weight 0 counts nothing as a query, but is a key of the others. Tokens beyond the last
//! sequence count nothing. The teacher gets no gradient.
//!
//! Saves LT and LS, (2, 3, heads, tokens). The backward pass computes the scores again, so memory is linear
//! in the length.

use super::attention::cpu::{Part, gather, parts, with_tokens};
use super::{
    Backward, Call, Case, Cost, Forward, Input, On, Op, Plan, accumulator, by_dtype, compute_dtype_beside,
    launch_with, refuse, sequences_within, words,
};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{Mat, Out, Real, matmul_serial, max_lanes, sum_lanes, sum_over, vectorise};
use crate::device::wgpu::TileLayout;
use crate::device::{Caps, Const, Cpu, Cuda, Gpu, Launch, Tensor, Wgpu};
use crate::error::{Error, Result};
use crate::shape::{DType, Spec};

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Relation {
    /// The number of relation heads, which divides the widths of teacher and student.
    pub heads: usize,
}

/// The widest relation head on GPUs.
const WIDEST: usize = 128;
/// Rows that a task of the CPU handles at a time.
const ROWS: usize = 64;
/// Threads of a CUDA block, rows of the tile that it owns, and rows of the tiles that go by.
const BLOCK_THREADS: u32 = 128;
const OWN: usize = 16;
const TILE: usize = 32;
/// Rows that a group owns in WGSL: on GPUs, and on CPUs.
const GROUP_ROWS: [usize; 2] = [32, 8];

/// The sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    tokens: usize,
    seqs: usize,
    heads: usize,
    /// Width of a relation head of the teacher, and of the student.
    dims: [usize; 2],
}

impl Sizes {
    /// The factors on the scores of teacher and student.
    fn scales(&self) -> [f64; 2] {
        self.dims.map(|d| 1.0 / (d as f64).sqrt())
    }
    /// Elements of LT, and of LS.
    fn stats(&self) -> usize {
        3 * self.heads * self.tokens
    }
    /// Tiles of `own` rows of all sequences, at most.
    fn tiles(&self, own: usize) -> usize {
        self.tokens.div_ceil(own) + self.seqs
    }
    /// Parts of the loss on a GPU, one for each tile, head and plane.
    fn parts(&self, own: usize) -> usize {
        3 * self.heads * self.tiles(own)
    }
}

impl Relation {
    /// From the specs of teacher, student and bounds.
    fn sizes(&self, x: &[&Spec]) -> Sizes {
        let dims = [0, 1].map(|i| x[i].rows_cols().1 / 3 / self.heads.max(1));
        Sizes { tokens: x[0].rows_cols().0, seqs: x[2].len() - 1, heads: self.heads, dims }
    }
    fn sizes_of(&self, x: &[&Tensor]) -> Sizes {
        self.sizes(&[0, 1, 2].map(|i| &x[i].spec))
    }
}

impl Op for Relation {
    fn name(&self) -> &'static str {
        "relation"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let expected = "teacher (tokens, 3 heads d_t), student (tokens, 3 heads d_s), cu_seqlens \
                        (sequences + 1), weights (tokens), scale (1)";
        let wrong = || refuse("relation", expected, x);
        let [teacher, student, bounds, weights, scale] = x else { return Err(wrong()) };
        let (tokens, _) = teacher.rows_cols();
        let planes = [teacher, student].iter().all(|s| s.shape.len() == 2 && s.shape[1] % 3 == 0);
        if !planes || student.shape[0] != tokens || bounds.dtype != DType::U32 || bounds.is_empty() {
            return Err(wrong());
        }
        if weights.shape != [tokens] || scale.shape != [1] {
            return Err(wrong());
        }
        for (who, spec) in [("teacher", teacher), ("student", student)] {
            let width = spec.shape[1] / 3;
            if self.heads == 0 || !width.is_multiple_of(self.heads) {
                return Err(Error::shape(format!(
                    "relation: {} relation heads do not divide the {who}'s width {width}",
                    self.heads
                ))
                .with_expected("a number of relation heads that divides the widths of teacher and student")
                .with_found(format!(
                    "{} heads, widths {} (teacher) and {} (student)",
                    self.heads,
                    teacher.shape[1] / 3,
                    student.shape[1] / 3
                ))
                .with_help("choose a common divisor of both widths, such as the heads of the student"));
            }
        }
        let sums = accumulator(compute_dtype_beside("relation", caps, x, &[3, 4])?);
        let s = self.sizes(x);
        if let Some(dim) = s.dims.into_iter().find(|&d| caps.gpu && d > WIDEST) {
            return Err(Error::device(format!(
                "relation on {} does not support relation heads of {dim} columns",
                caps.name
            ))
            .with_expected(format!("at most {WIDEST} columns"))
            .with_help("raise the number of relation heads, or run with --device cpu"));
        }
        let plan = Plan::new(vec![Spec::new(sums, &[1])], vec![Spec::new(sums, &[2, 3, self.heads, tokens])]);
        // The CPU computes head by head and puts the heads in order afterwards.
        Ok(plan.with_scratch(match (caps.gpu, caps.blocks) {
            (false, _) => [3 * s.heads * s.seqs, student.len()].map(|elements| elements * sums.size()),
            (true, 0) => [s.parts(GROUP_ROWS[1]) * sums.size(), 0],
            (true, _) => [s.parts(OWN) * sums.size(), 0],
        }))
    }
    fn cost(&self, call: &Call) -> Cost {
        let [tokens, teacher] = call.rows_cols(0);
        let [_, student] = call.rows_cols(1);
        let lengths = call.lengths(2, tokens as usize);
        let pairs: f64 = lengths.iter().map(|&len| (len * len) as f64).sum();
        let used: f64 = lengths.iter().map(|&len| len as f64).sum();
        // A multiply-add of all columns of q, k and v for each pair: both scores; backward also W s.
        let scores = 2.0 * pairs * (teacher + student);
        let wanted = call.wants(1) as u8 as f64;
        let share = if tokens > 0.0 { used / tokens } else { 0.0 };
        let rows = used * (call.row(0) + call.row(1));
        let read = rows + call.input(2) + share * call.input(3) + call.input(4);
        let stats = share * call.output(1);
        let backward = wanted * (read + stats + call.dy()) + call.sparse(1, used);
        Cost::new(
            [scores, wanted * (scores + 2.0 * pairs * student)],
            [read + stats + call.output(0), backward],
        )
    }
}

/// Where to write the gradient of the student, if it is needed.
///
/// # Errors
/// The teacher has no gradient.
fn wanted<'a>(io: &Backward<'a>) -> Result<Option<super::Grad<'a>>> {
    if io.dx(0).is_some() {
        return Err(Error::shape("relation has no gradient of the teacher")
            .with_expected("a gradient of the student only")
            .with_help("give the teacher to the tape as a constant"));
    }
    Ok(io.dx(1))
}

impl On<Cpu> for Relation {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, forward(self, cpu, io))
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, backward(self, cpu, io))
    }
}

/// The rows of one relation head of q (plane 0), k or v from a token on; `d` columns.
fn head_rows<'a, T>(qkv: &'a [T], s: &Sizes, d: usize, [plane, head, token]: [usize; 3]) -> Mat<'a, T> {
    let row = 3 * s.heads * d;
    Mat { data: &qkv[token * row + (plane * s.heads + head) * d..], row, col: 1 }
}

fn put<T>(data: &mut [T], row: usize) -> Out<'_, T> {
    Out { data, row, add: false }
}

fn forward<T: Real>(op: &Relation, cpu: &Cpu, io: Forward) -> Result<()> {
    let s = op.sizes_of(io.x);
    let qkv = [io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?];
    let seqs = sequences_within(&io.x[2].cpu::<u32>()?, s.tokens)?;
    let weights = io.x[3].cpu::<T>()?;
    let mut stats = io.y[1].cpu_mut::<T>()?;
    let (lt, ls) = stats.split_at_mut(s.stats());
    let count = 3 * s.heads * seqs.len();
    let scratch = cpu.scratch(count * size_of::<T>())?;
    let mut losses = scratch.write::<T>(0, count)?;
    losses.fill(T::ZERO);
    let longest = seqs.iter().map(|s| s.len()).max().unwrap_or(0);
    let room = ROWS.min(longest) * longest;
    let blocks = cpu.scratch_per_thread(size_of::<T>() * 2 * room)?;
    let [ct, cs] = s.scales().map(T::of);

    let mut tasks = Vec::with_capacity(count);
    for (at, (lt, ls)) in lt.chunks_mut(s.tokens.max(1)).zip(ls.chunks_mut(s.tokens.max(1))).enumerate() {
        let (mut lt, mut ls) = (lt, ls);
        for tokens in &seqs {
            let (here, rest) = lt.split_at_mut(tokens.len());
            let (other, others) = ls.split_at_mut(tokens.len());
            tasks.push(([at / s.heads, at % s.heads], tokens.clone(), here, other));
            (lt, ls) = (rest, others);
        }
    }
    type Task<'a, T> = ([usize; 2], std::ops::Range<usize>, &'a mut [T], &'a mut [T]);
    let task = |(([plane, head], tokens, lt, ls), loss): (Task<T>, &mut T)| -> Result<()> {
        let len = tokens.len();
        let rows_of = |i: usize, t: usize| head_rows(&qkv[i], &s, s.dims[i], [plane, head, t]);
        for i0 in (0..len).step_by(ROWS) {
            let rows = ROWS.min(len - i0);
            let (mut x, mut y) = (blocks.mine::<T>(0, rows * len)?, blocks.mine::<T>(room, rows * len)?);
            for (i, scores) in [(0, &mut x), (1, &mut y)] {
                let (own, all) = (rows_of(i, tokens.start + i0), rows_of(i, tokens.start));
                matmul_serial(cpu, [rows, len, s.dims[i]], own, all.t(), put(scores, len))?;
            }
            vectorise!({
                for (r, (x, y)) in x.chunks_exact_mut(len).zip(y.chunks_exact_mut(len)).enumerate() {
                    let (mt, ms) = (max_lanes(x) * ct, max_lanes(y) * cs);
                    let zs = sum_over(y, |y| y.mul_add(cs, -ms).exp()).ln();
                    for (x, y) in x.iter_mut().zip(y.iter_mut()) {
                        let (a, b) = (*x * ct, *y * cs);
                        *x = (a - mt).exp();
                        *y = *x * (a - b);
                    }
                    let sum = sum_lanes(len, |j| x[j]);
                    let zt = sum.ln();
                    let kl = (ms - mt) + (zs - zt) + sum_lanes(len, |j| y[j]) / sum;
                    (lt[i0 + r], ls[i0 + r]) = (mt + zt, ms + zs);
                    *loss = weights[tokens.start + i0 + r].mul_add(kl, *loss);
                }
            });
        }
        Ok(())
    };
    cpu.install(|| tasks.into_par_iter().zip(losses.par_iter_mut()).try_for_each(task))?;
    io.y[0].cpu_mut::<T>()?[0] = io.x[4].cpu::<T>()?[0] * losses.iter().copied().sum::<T>();
    Ok(())
}

fn backward<T: Real>(op: &Relation, cpu: &Cpu, io: Backward) -> Result<()> {
    let Some(g) = wanted(&io)? else { return Ok(()) };
    let s = op.sizes_of(io.x);
    let qkv = [io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?];
    let seqs = sequences_within(&io.x[2].cpu::<u32>()?, s.tokens)?;
    let (weights, stats) = (io.x[3].cpu::<T>()?, io.y[1].cpu::<T>()?);
    let (lt, ls) = stats.split_at(s.stats());
    let total = s.tokens * 3 * s.heads * s.dims[1];
    let scratch = cpu.scratch(total * size_of::<T>())?;
    let mut out = scratch.write::<T>(0, total)?;
    let longest = seqs.iter().map(|s| s.len()).max().unwrap_or(0);
    let room = ROWS.min(longest) * longest;
    let blocks = cpu.scratch_per_thread(size_of::<T>() * 2 * room)?;
    let [ct, cs] = s.scales().map(T::of);
    let rate = io.x[4].cpu::<T>()?[0] * io.dy()?.cpu::<T>()?[0] * cs;

    let task = |part: Part<T>| -> Result<()> {
        let (len, start, d) = (part.tokens.len(), part.tokens.start, s.dims[1]);
        let c = &weights[start..][..len];
        for (plane, out) in part.out.chunks_exact_mut(len * d).enumerate() {
            let rows_of = |i: usize, t: usize| head_rows(&qkv[i], &s, s.dims[i], [plane, part.head, t]);
            let at = (plane * s.heads + part.head) * s.tokens + start;
            let (lt, ls) = (&lt[at..][..len], &ls[at..][..len]);
            for i0 in (0..len).step_by(ROWS) {
                let rows = ROWS.min(len - i0);
                let (mut x, mut y) = (blocks.mine::<T>(0, rows * len)?, blocks.mine::<T>(room, rows * len)?);
                for (i, scores) in [(0, &mut x), (1, &mut y)] {
                    let (own, all) = (rows_of(i, start + i0), rows_of(i, start));
                    matmul_serial(cpu, [rows, len, s.dims[i]], own, all.t(), put(scores, len))?;
                }
                vectorise!({
                    for (r, (x, y)) in x.chunks_exact_mut(len).zip(y.chunks_exact(len)).enumerate() {
                        let (lt_i, ls_i, c_i) = (lt[i0 + r], ls[i0 + r], c[i0 + r]);
                        for (((x, &y), &c_j), (&lt_j, &ls_j)) in
                            x.iter_mut().zip(y).zip(c).zip(lt.iter().zip(ls))
                        {
                            let (a, b) = (*x * ct, y * cs);
                            let own = (b - ls_i).exp() - (a - lt_i).exp();
                            let other = (b - ls_j).exp() - (a - lt_j).exp();
                            *x = rate * c_i.mul_add(own, c_j * other);
                        }
                    }
                });
                let to = put(&mut out[i0 * d..][..rows * d], d);
                matmul_serial(cpu, [rows, d, len], Mat::new(&x, len), rows_of(1, start), to)?;
            }
        }
        Ok(())
    };
    let parts = parts(&seqs, s.heads, 3 * s.dims[1], &mut out, &mut []);
    cpu.install(|| with_tokens(parts).into_par_iter().try_for_each(task))?;
    let mut dx = g.t.cpu_mut::<T>()?;
    gather(cpu, &seqs, [s.heads, 3, s.dims[1]], &out, &mut dx, g.add);
    // Tokens beyond the last sequence have no gradient.
    let end = seqs.last().map_or(0, |s| s.end);
    if !g.add {
        dx[end * 3 * s.heads * s.dims[1]..].fill(T::ZERO);
    }
    Ok(())
}

/// The words of the kernels' parameters.
fn params(s: &Sizes, parts: usize, add: bool) -> [u32; 7] {
    let [ct, cs] = s.scales().map(|c| (c as f32).to_bits());
    [s.tokens as u32, s.heads as u32, s.seqs as u32, parts as u32, ct, cs, add as u32]
}

pub(super) const SHADER: &str =
    concat!(include_str!("../../shaders/attention.common.wgsl"), include_str!("../../shaders/relation.wgsl"));

impl Relation {
    /// `buffers` are those of the shader. Returns the number of parts of the loss.
    fn launch(&self, device: &Wgpu, entry: &'static str, buffers: &[&Tensor; 8], add: bool) -> Result<()> {
        let (s, own) = (self.sizes_of(buffers), group_rows(device));
        let groups = match entry {
            "sum_parts" => [1; 3],
            _ => [s.tiles(own) as u32, s.heads as u32, 3],
        };
        let consts = words(&[("DT", s.dims[0] as u32), ("DS", s.dims[1] as u32)]);
        let p = params(&s, s.parts(own), add);
        launch_with(device, own as u32, (SHADER, entry), &consts, groups, buffers, &p)
    }
}

fn group_rows(device: &Wgpu) -> usize {
    GROUP_ROWS[(device.tiles() == TileLayout::Rows) as usize]
}

impl On<Wgpu> for Relation {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let x = io.x;
        let parts = device.scratch(DType::F32, &[self.sizes_of(x).parts(group_rows(device))])?;
        let buffers = [x[0], x[1], x[2], io.y[1], x[3], x[4], io.y[0], &parts];
        self.launch(device, "forward", &buffers, false)?;
        self.launch(device, "sum_parts", &buffers, false)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let Some(g) = wanted(&io)? else { return Ok(()) };
        let x = io.x;
        let buffers = [x[0], x[1], x[2], io.y[1], x[3], x[4], io.dy()?, g.t];
        self.launch(device, "backward", &buffers, g.add)
    }
}

pub(super) const KERNEL: &str =
    concat!(include_str!("../../kernels/attention.common.cu"), include_str!("../../kernels/relation.cu"));

/// Columns of a row in shared memory: whole groups of four, an odd number of them, so that the rows of
/// neighbouring lanes lie in different banks.
fn line(d: usize) -> usize {
    4 * (d.div_ceil(4) | 1)
}

impl Relation {
    fn launch_cuda(
        &self,
        device: &Cuda,
        entry: &'static str,
        x: &[&Tensor],
        gradient: Option<(&Tensor, bool)>,
        buffers: &[&Tensor],
    ) -> Result<()> {
        let s = self.sizes_of(x);
        let [dt, ds] = s.dims;
        // Own and other rows of both, and W.
        let shared = (OWN + TILE) * (line(dt) + line(ds)) + OWN * (TILE + 4);
        let word = |v: usize| Const::U32(v as u32);
        let consts = [
            ("DROPOUT", word(0)),
            ("WINDOW", word(0)),
            ("DT", word(dt)),
            ("DS", word(ds)),
            ("T", Const::Type(x[0].spec.dtype)),
            ("G", Const::Type(gradient.map_or(x[1], |(g, _)| g).spec.dtype)),
        ];
        let (groups, shared) = match entry {
            "relation_sum" => ([1; 3], 0),
            _ => ([s.tiles(OWN) as u32, s.heads as u32, 3], shared),
        };
        let p = params(&s, s.parts(OWN), gradient.is_some_and(|(_, add)| add));
        device.launch(Launch {
            source: KERNEL,
            entry,
            consts: &consts,
            groups,
            threads: BLOCK_THREADS,
            shared_bytes: (shared * size_of::<f32>()) as u32,
            tensor_maps: &[],
            buffers,
            params: bytemuck::cast_slice(&p),
        })
    }
}

impl On<Cuda> for Relation {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let x = io.x;
        let parts = device.scratch(DType::F32, &[self.sizes_of(x).parts(OWN)])?;
        let buffers = [x[0], x[1], x[2], x[3], io.y[1], &parts];
        self.launch_cuda(device, "relation_forward", x, None, &buffers)?;
        self.launch_cuda(device, "relation_sum", x, None, &[&parts, x[4], io.y[0]])
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let Some(g) = wanted(&io)? else { return Ok(()) };
        let x = io.x;
        let buffers = [x[0], x[1], x[2], x[3], x[4], io.y[1], io.dy()?, g.t];
        self.launch_cuda(device, "relation_backward", x, Some((g.t, g.add)), &buffers)
    }
}

/// Edge cases: one token, empty sequences, lengths around a tile, widths that differ, relation heads of 1 to
/// 128 columns, tokens beyond the last sequence, weights of 0, rows far from each other.
pub fn cases() -> Vec<Case> {
    let with =
        |label, heads: usize, dims: [usize; 2], bounds: &[u32], more: usize, weight: fn(usize) -> f64| {
            let tokens = bounds.last().copied().unwrap_or(0) as usize + more;
            let weights: Vec<f64> = (0..tokens).map(weight).collect();
            let [teacher, student] = dims.map(|d| [tokens, 3 * heads * d]);
            let inputs = vec![
                Input { shape: teacher.to_vec(), fill: super::Fill::Detached(-2.0, 2.0) },
                Input { shape: student.to_vec(), fill: super::Fill::Real(-2.0, 2.0) },
                Input::ints(bounds),
                Input::fixed(&[tokens], &weights),
                Input::fixed(&[1], &[1.3]),
            ];
            Case::new(label, Relation { heads }, inputs)
        };
    let case = |label, heads, dims, bounds: &[u32]| with(label, heads, dims, bounds, 0, |_| 1.0);
    let sweep: Vec<u32> = (0..=9).map(|n: u32| n * (n + 1) / 2).collect();
    let mut far = case("rows far from each other", 2, [5, 4], &[0, 9, 22]);
    far.inputs[0].fill = super::Fill::Detached(-8.0, 8.0);
    far.inputs[1].fill = super::Fill::Real(-6.0, 6.0);
    vec![
        case("two sequences", 2, [8, 8], &[0, 5, 9]),
        case("one token", 1, [4, 4], &[0, 1]),
        case("sequences of one token", 3, [4, 2], &[0, 1, 2, 3]),
        case("empty sequences", 2, [5, 3], &[0, 0, 3, 3, 4, 4]),
        case("no sequence has tokens", 2, [4, 4], &[0, 0]),
        case("lengths 1 to 9, wider student", 1, [2, 6], &sweep),
        case("a tile and its neighbours", 1, [3, 5], &[0, 15, 31, 48]),
        case("the tile of the other side and its neighbours", 2, [4, 3], &[0, 31, 63, 96]),
        case("longer than a block of rows", 1, [6, 3], &[0, 130, 133]),
        case("heads of one column", 7, [1, 1], &[0, 13, 20]),
        case("48 relation heads", 48, [2, 1], &[0, 6, 11]),
        case("heads of 16 and 8", 4, [16, 8], &[0, 37, 40]),
        case("heads of 64 and 32", 1, [64, 32], &[0, 33, 40]),
        case("heads of 33 and 66", 2, [33, 66], &[0, 18, 20]),
        case("heads of 128", 1, [128, 128], &[0, 20]),
        with("a token has its own weight", 2, [4, 6], &[0, 7, 19], 0, |i| 0.1 + 0.07 * i as f64),
        with("weights of 0", 2, [4, 6], &[0, 7, 19, 23], 0, |i| (i % 3 == 1) as u8 as f64 * 0.5),
        with("all weights are 0", 1, [4, 6], &[0, 7], 0, |_| 0.0),
        with("padded", 2, [6, 4], &[0, 5, 12], 45, |i| 0.2 + 0.01 * i as f64),
        with("no sequence, no token", 2, [4, 3], &[0], 0, |_| 1.0),
        with("only padding", 1, [3, 2], &[0], 5, |_| 1.0),
        far,
    ]
}
