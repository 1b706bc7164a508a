//! AdamW over a flat arena: p -= lr wd p; m += (1 - b1)(g - m); v = b2 v + (1 - b2) g^2;
//! p -= lr / c1 * m / (sqrt(v / c2) + eps), with c1 = 1 - b1^t, c2 = 1 - b2^t.
//!
//! value, grad, m, v (n), hyper (4) = [lr, c1, c2, unscale], norm (1), live u32 (tasks), and maybe copy (n) of a 16-bit type
//! and blank u32 (words): value, m, v and live are written, and the copy is the value rounded to it. Loshchilov and Hutter 2019,
//! alg. 2, in the form of PyTorch's `torch.optim.AdamW`. Gradients are first scaled by unscale, which
//! takes a loss scale back, and by min(1, max_norm / (norm + 1e-6)), PyTorch's `clip_grad_norm_` (norm is the unscaled one). A norm that is not finite changes nothing. Segments carry weight decay, a factor on the learning rate, and freezing.
//!
//! `live` has a bit for each block of 512 elements that has ever had a gradient. In a block that is not live, m and v are
//! zero, so the formula leaves them and only decays p; the CPU then skips reading them. Most rows of a vocabulary never
//! occur in a fine-tuning set. All bits set is always right.
//!
//! `blank` says where gradients are zero now (see [`Blank`]): there they are not read. WGSL reads them all the same: it has
//! no binding left for it.

use super::{
    Blank, Call, Case, Cost, Input, Step, StepOn, Subject, by_dtype, launch, launch_cuda, refuse, step_dtype,
};
use crate::device::cpu::{Real, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu, fold};
use crate::error::{Error, Result};
use crate::shape::{DType, Spec};
use rayon::prelude::*;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// The step; see the module.
#[derive(Clone, Debug)]
pub struct AdamW {
    /// The decay rate of the first moment (beta 1).
    pub beta1: f32,
    /// The decay rate of the second moment (beta 2).
    pub beta2: f32,
    /// Epsilon, added to the square root of the second moment.
    pub eps: f32,
    /// The largest gradient norm; 0 for no clipping.
    pub max_norm: f32,
    /// The segments of the arena, in order; together they cover it.
    pub segments: Arc<[Segment]>,
}

/// A segment of the arena with the same settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    /// The number of elements.
    pub len: usize,
    /// Weight decay.
    pub decay: f32,
    /// The factor on the learning rate.
    pub lr_scale: f32,
    /// Whether it is frozen.
    pub frozen: bool,
}

/// Elements that one task updates.
const CHUNK: usize = 32 * LIVE;
/// Elements that one bit of `live` stands for.
const LIVE: usize = 512;

impl AdamW {
    /// Words of `live` for these segments.
    pub fn live_words(segments: &[Segment]) -> usize {
        segments.iter().map(|s| s.len.div_ceil(CHUNK)).sum()
    }
}

/// What may come behind the tensors that are always there: the copy, and what is blank.
fn more<S: Copy>(x: &[S], dtype: impl Fn(S) -> DType) -> (Option<S>, Option<S>) {
    let find = |integers: bool| x.iter().skip(7).copied().find(|&s| (dtype(s) == DType::U32) == integers);
    (find(false), find(true))
}

impl Step for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }
    fn check(&self, caps: &Caps, x: &[&Spec]) -> Result<()> {
        let wrong = || {
            refuse(
                "adamw",
                "value, grad, m, v (n), hyper (4), norm (1), live (tasks), maybe copy (n), blank (words)",
                x,
            )
        };
        let (own, others) = x.split_at_checked(7).ok_or_else(wrong)?;
        let [value, rest @ .., hyper, norm, live] = own else { return Err(wrong()) };
        let (copy, blank) = more(x, |s| s.dtype);
        let known = copy.is_some() as usize + blank.is_some() as usize;
        if known != others.len() || copy.is_some_and(|c| c.shape != value.shape) {
            return Err(wrong());
        }
        if blank.is_some_and(|b| b.len() != Blank::words(value.len())) {
            return Err(wrong());
        }
        if let Some(copy) = copy {
            caps.require("adamw", copy.dtype)?;
        }
        if rest.len() != 3 || rest.iter().any(|s| s != value) || hyper.shape != [4] || norm.shape != [1] {
            return Err(wrong());
        }
        if live.dtype != DType::U32 || live.len() != Self::live_words(&self.segments) {
            return Err(wrong());
        }
        let covered: usize = self.segments.iter().map(|s| s.len).sum();
        if covered != value.len() {
            return Err(Error::shape(format!(
                "the segments of adamw cover {covered} of {} elements",
                value.len()
            )));
        }
        step_dtype("adamw", caps, own).map(drop)
    }
    fn cost(&self, call: &Call) -> Cost {
        let places: Vec<usize> = (0..call.x.len()).collect();
        let (copy, blank) = more(&places, |i| call.x[i].dtype);
        let (live, bits) = (call.integers(6), blank.and_then(|i| call.integers(i)));
        let size = call.x.first().map_or(0, |s| s.dtype.size());
        let copied = copy.map_or(0, |i| call.x[i].dtype.size());
        let (mut flops, mut bytes, mut at, mut word) = (0, 0, 0, 0);
        for s in self.segments.iter() {
            for chunk in (0..s.len).step_by(CHUNK) {
                let before = live.map_or(u32::MAX, |l| l.get(word).copied().unwrap_or(u32::MAX));
                word += 1;
                let mut after = before;
                let blocks = (chunk..s.len.min(chunk + CHUNK)).step_by(LIVE).filter(|_| !s.frozen);
                for (bit, from) in blocks.enumerate() {
                    let count = LIVE.min(s.len - from);
                    let zero = Blank::covers(bits, at + from, count);
                    let known = before >> bit & 1 == 1;
                    // g clip; g - m, times, plus; b2 v, g g, times, plus; p keep; the root, its factor, eps, rate m, the quotient, minus.
                    flops += 15 * count;
                    if zero && !known {
                        // Moments and gradient are zero: the value only decays, and stays where nothing decays it.
                        if s.decay * s.lr_scale != 0.0 {
                            bytes += count * (2 * size + copied);
                        }
                        continue;
                    }
                    // The value and both moments are written. They are read, but for moments that are known to be zero.
                    let read = if known { 3 } else { 1 } + if zero { 0 } else { 1 };
                    bytes += count * ((3 + read) * size + copied);
                    after |= 1 << bit;
                }
                bytes += if after != before { size_of::<u32>() } else { 0 };
            }
            at += s.len;
        }
        let few = call.input(4) + call.input(5) + call.input(6) + blank.map_or(0.0, |i| call.input(i));
        Cost::step(flops as f64, bytes as f64 + few)
    }
}

impl StepOn<Cpu> for AdamW {
    fn run(&self, cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
        by_dtype!(x[0].spec.dtype, run(self, cpu, x))
    }
}

/// A run of the arrays that one task updates.
struct Piece<'a, T> {
    segment: Segment,
    /// Where it begins in the arena.
    at: usize,
    p: &'a mut [T],
    g: &'a [T],
    m: &'a mut [T],
    v: &'a mut [T],
    live: &'a mut u32,
}

fn run<T: Real>(op: &AdamW, cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
    let (mut p, g, mut m, mut v) =
        (x[0].cpu_mut::<T>()?, x[1].cpu::<T>()?, x[2].cpu_mut::<T>()?, x[3].cpu_mut::<T>()?);
    let (hyper, norm, mut live) = (x[4].cpu::<T>()?, x[5].cpu::<T>()?[0], x[6].cpu_mut::<u32>()?);
    let blank = more(x, |t| t.spec.dtype).1.map(|b| b.cpu::<u32>()).transpose()?;
    let bits = blank.as_deref();
    if !norm.f64().is_finite() {
        return Ok(());
    }
    let (lr, c1, root_c2) = (hyper[0], hyper[1], hyper[2].sqrt());
    let (b1, b2, eps) = (T::of(op.beta1 as f64), T::of(op.beta2 as f64), T::of(op.eps as f64));
    let max = T::of(op.max_norm as f64);
    let ratio = max / (norm + T::of(1e-6));
    let clip = hyper[3] * if max > T::ZERO && ratio < T::ONE { ratio } else { T::ONE };
    let task = |piece: Piece<T>| {
        let Piece { segment: s, at, p, g, m, v, live } = piece;
        let zeros = [T::ZERO; LIVE];
        let keep = T::ONE - lr * T::of((s.lr_scale * s.decay) as f64);
        let rate = lr * T::of(s.lr_scale as f64) / c1;
        vectorise!({
            let moments = m.chunks_mut(LIVE).zip(v.chunks_mut(LIVE));
            for (block, ((p, g), (m, v))) in p.chunks_mut(LIVE).zip(g.chunks(LIVE)).zip(moments).enumerate() {
                let blank = Blank::covers(bits, at + block * LIVE, g.len());
                if *live >> block & 1 == 0 {
                    if blank || g.iter().all(|&g| g == T::ZERO) {
                        if keep != T::ONE {
                            p.iter_mut().for_each(|p| *p *= keep);
                        }
                        continue;
                    }
                    *live |= 1 << block;
                    // They are zero. Written before they are read, their pages are made once; read first, the system
                    // would map its page of zeros and exchange it at the write, which stops all threads each time.
                    m.fill(T::ZERO);
                    v.fill(T::ZERO);
                }
                let g = if blank { &zeros[..g.len()] } else { g };
                for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                    let g = g * clip;
                    *m += (T::ONE - b1) * (g - *m);
                    *v = b2 * *v + (T::ONE - b2) * g * g;
                    *p = *p * keep - rate * *m / ((*v).sqrt() / root_c2 + eps);
                }
            }
        })
    };
    let mut pieces: Vec<Piece<T>> = Vec::with_capacity(live.len());
    let (mut p, mut g, mut m, mut v) = (&mut p[..], &g[..], &mut m[..], &mut v[..]);
    let (mut live, mut at) = (live.iter_mut(), 0);
    for &segment in op.segments.iter() {
        let (p0, g0, m0, v0);
        ((p0, p), (g0, g)) = (p.split_at_mut(segment.len), g.split_at(segment.len));
        ((m0, m), (v0, v)) = (m.split_at_mut(segment.len), v.split_at_mut(segment.len));
        let moments = m0.chunks_mut(CHUNK).zip(v0.chunks_mut(CHUNK));
        for (((p, g), (m, v)), live) in
            p0.chunks_mut(CHUNK).zip(g0.chunks(CHUNK)).zip(moments).zip(live.by_ref())
        {
            let here = at;
            at += p.len();
            if !segment.frozen {
                pieces.push(Piece { segment, at: here, p, g, m, v, live });
            }
        }
    }
    cpu.install(|| pieces.into_par_iter().for_each(task));
    Ok(())
}

/// The published algorithm, element by element.
fn textbook(op: &dyn Debug, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (own, more) = x.split_at(7);
    let [mut p, g, mut m, mut v, hyper, norm, mut live] =
        <[Vec<f64>; 7]>::try_from(own.to_vec()).unwrap_or_default();
    let AdamW { beta1, beta2, eps, max_norm, segments } = setting();
    debug_assert!(format!("{op:?}").starts_with("AdamW"));
    let (b1, b2) = (beta1 as f64, beta2 as f64);
    let clip = hyper[3] * (max_norm as f64 / (norm[0] + 1e-6)).min(1.0);
    let (mut i, mut words) = (0, 0);
    for s in segments.iter() {
        for e in 0..s.len {
            if !s.frozen {
                if g[i] != 0.0 {
                    let word = &mut live[words + e / CHUNK];
                    *word = (*word as u32 | 1 << (e % CHUNK / LIVE)) as f64;
                }
                let lr = hyper[0] * s.lr_scale as f64;
                p[i] -= lr * s.decay as f64 * p[i];
                m[i] = b1 * m[i] + (1.0 - b1) * (g[i] * clip);
                v[i] = b2 * v[i] + (1.0 - b2) * (g[i] * clip) * (g[i] * clip);
                p[i] -= lr * (m[i] / hyper[1]) / ((v[i] / hyper[2]).sqrt() + eps as f64);
            }
            i += 1;
        }
        words += s.len.div_ceil(CHUNK);
    }
    [vec![p, g, m, v, hyper, norm, live], more.to_vec()].concat()
}

/// The setting of the test case: every kind of segment, and clipping that bites.
fn setting() -> AdamW {
    let segment = |len, decay, lr_scale, frozen| Segment { len, decay, lr_scale, frozen };
    AdamW {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        max_norm: 1.0,
        segments: [
            segment(3, 0.1, 1.0, false),
            segment(CHUNK + 5, 0.0, 0.5, false),
            segment(7, 0.1, 1.0, true),
            segment(1, 0.01, 2.0, false),
        ]
        .into(),
    }
}

pub(super) const SHADER: &str = include_str!("../../shaders/adamw.wgsl");

/// A run of tasks that one launch updates: the elements of the arena it spans, and what each of its tasks does.
struct Launched {
    words: Range<usize>,
    span: Range<usize>,
    /// For each task where it begins in the span, how many elements it has (none if frozen), weight decay and factor on the
    /// learning rate.
    table: Vec<u32>,
}

impl AdamW {
    /// Cuts the update into launches that bind no more than `most` elements of the arena each.
    fn launches(&self, most: usize) -> Vec<Launched> {
        // Views begin at multiples of 64 elements, so launches have multiples of 64 tasks.
        let tasks = (most / CHUNK / GROUP * GROUP).max(GROUP);
        let mut list = Vec::new();
        let mut at = 0;
        for s in self.segments.iter() {
            for start in (0..s.len).step_by(CHUNK) {
                list.push((at + start, CHUNK.min(s.len - start), s));
            }
            at += s.len;
        }
        let mut launches = Vec::new();
        for (i, part) in list.chunks(tasks).enumerate() {
            let (Some(first), Some(last)) = (part.first(), part.last()) else { continue };
            let span = first.0 / GROUP * GROUP..last.0 + last.1;
            let row = |&(at, len, s): &(usize, usize, &Segment)| {
                let len = if s.frozen { 0 } else { len };
                [(at - span.start) as u32, len as u32, s.decay.to_bits(), s.lr_scale.to_bits()]
            };
            let table = part.iter().flat_map(row).collect();
            launches.push(Launched { words: i * tasks..i * tasks + part.len(), span, table });
        }
        launches
    }
}

/// Elements that a view's beginning is a multiple of.
const GROUP: usize = 64;

impl StepOn<Wgpu> for AdamW {
    fn run(&self, device: &Wgpu, x: &[&Tensor]) -> Result<()> {
        let params = [self.beta1, self.beta2, self.eps, self.max_norm].map(f32::to_bits);
        for part in self.launches(device.binding_bytes() / size_of::<f32>()) {
            let table = device.constants(&part.table)?;
            let arena = |i: usize| x[i].view(part.span.start, &[part.span.len()]);
            let (value, grad, m, v) = (arena(0)?, arena(1)?, arena(2)?, arena(3)?);
            let live = x[6].view(part.words.start, &[part.words.len()])?;
            let buffers = [&value, &grad, &m, &v, x[4], x[5], &live, &table];
            launch(device, (SHADER, "update"), &[], fold(part.words.len()), &buffers, &params)?;
        }
        Ok(())
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/adamw.cu");

impl StepOn<Cuda> for AdamW {
    fn run(&self, device: &Cuda, x: &[&Tensor]) -> Result<()> {
        let settings = [self.beta1, self.beta2, self.eps, self.max_norm].map(f32::to_bits);
        let (copy, blank) = more(x, |t| t.spec.dtype);
        for part in self.launches(u32::MAX as usize) {
            let table = device.constants(&part.table)?;
            let arena = |t: &Tensor| t.view(part.span.start, &[part.span.len()]);
            let (value, grad, m, v) = (arena(x[0])?, arena(x[1])?, arena(x[2])?, arena(x[3])?);
            let live = x[6].view(part.words.start, &[part.words.len()])?;
            let copy = copy.map(arena).transpose()?;
            let dtype = copy.as_ref().map_or(value.spec.dtype, |c| c.spec.dtype);
            let is = |there: bool| Const::U32(there as u32);
            let consts =
                [("COPY", is(copy.is_some())), ("C", Const::Type(dtype)), ("BLANK", is(blank.is_some()))];
            let (to, bits) = (copy.as_ref().unwrap_or(&value), blank.unwrap_or(&live));
            let buffers = [&value, &grad, &m, &v, x[4], x[5], &live, &table, to, bits];
            let groups = [part.words.len() as u32, 1, 1];
            let [beta1, beta2, eps, most] = settings;
            let params = [beta1, beta2, eps, most, (part.span.start / GROUP) as u32];
            launch_cuda(device, (KERNEL, "adamw_update"), &consts, groups, &buffers, &params)?;
        }
        Ok(())
    }
}

/// Every kind of segment, with all blocks live, and with blocks that never had a gradient; PyTorch's own numbers are
/// held in `tests/all/optim.rs`.
pub fn cases() -> Vec<Case> {
    let n: usize = setting().segments.iter().map(|s| s.len).sum();
    let words = AdamW::live_words(&setting().segments);
    let case = |label, inputs: [Input; 4], live: u32, blank: Option<Input>| {
        let mut inputs: Vec<Input> = inputs.into();
        inputs.push(Input::fixed(&[4], &[0.01, 0.19, 0.002, 0.25]));
        inputs.push(Input::fixed(&[1], &[2.5]));
        inputs.push(Input::ints(&vec![live; words]));
        inputs.extend(blank);
        Case {
            label,
            inputs,
            subject: Subject::Step(Box::new(setting()), textbook),
            slack: 1.0,
            half_slack: 1.0,
        }
    };
    let positive = || Input { shape: vec![n], fill: super::Fill::Real(0.01, 1.0) };
    let zeros = || Input::fixed(&[n], &vec![0.0; n]);
    // A gradient in a few elements only, at the borders of blocks and of tasks.
    let at = [0, 1, 3 + LIVE - 1, 3 + 5 * LIVE, 3 + CHUNK - 1, 3 + CHUNK, n - 1];
    let ((few, _), (rest, bits), (more, more_bits)) =
        (Blank::case(n, &at), Blank::case(n, &at), Blank::case(n, &at));
    let real = || Input::real(&[n]);
    vec![
        case("every kind of segment", [real(), real(), real(), positive()], !0, None),
        case("most blocks never touched", [real(), few, zeros(), zeros()], 0, None),
        case("blank blocks never touched", [real(), rest, zeros(), zeros()], 0, Some(bits)),
        case("blank blocks with moments", [real(), more, real(), positive()], !0, Some(more_bits)),
    ]
}
