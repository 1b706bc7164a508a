//! What the updates of all optimizers share: their tensors, the walk over the blocks of the arena on each
//! backend, their cost, and their test cases. An optimizer adds its formula (`src/ops/NAME.rs`,
//! `kernels/NAME.cu`, `shaders/NAME.wgsl`) and a line in [`UPDATE_RULES`].
//!
//! value, grad (n), control (3 + f) = [norm, lr, unscale, f factors of the rule], live u32 (tasks), the
//! states (n each), and maybe copy (n) of a 16-bit type and zero_blocks u32 (words): value, live and the
//! states are written, and the copy is the value rounded to it. Gradients are first multiplied by unscale,
//! which removes the loss scale, and by min(1, max_norm / (norm + 1e-6)), PyTorch's `clip_grad_norm_` (norm
//! is the unscaled one). A norm that is not finite changes nothing. Segments carry weight decay, a factor on
//! the learning rate, and freezing.
//!
//! `live` has a bit for each block of 512 elements that has ever had a gradient. In a block that is not live
//! all states are zero, and the rule leaves them zero and only decays the value (see [`Update::rests`]), so
//! the states are not read. Most rows of a vocabulary never occur in a fine-tuning set. All bits set is
//! always right.
//!
//! `zero_blocks` says where gradients are zero now (see [`ZeroBlocks`]): there they are not read. wgpu's ops
//! do not maintain it.

use super::{
    Call, Case, Cases, Cost, Fill, Input, Step, Subject, Textbook, UPDATE_RULES, ZeroBlocks, launch,
    launch_cuda, refuse, step_dtype,
};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{Real, round_to, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu, fold};
use crate::error::{Error, Result};
use crate::shape::{DType, Spec};
use std::fmt::{self, Debug, Formatter};
use std::ops::Range;
use std::sync::Arc;

/// The in-place update of an optimizer; see the module.
pub trait Update: Step + Sync {
    /// The segments of the arena, in order; together they cover it.
    fn segments(&self) -> &[Segment];
    /// The largest gradient norm; 0 for no clipping.
    fn max_norm(&self) -> f32;
    /// The names of its states, as checkpoints store them. Each state is as long as the values and starts
    /// with zeros.
    fn states(&self) -> &'static [&'static str];
    /// The factors of update number `t` (from 1) that kernels read, such as bias corrections. Their number is
    /// the same for every `t`.
    fn factors(&self, _t: u64) -> Vec<f64> {
        Vec::new()
    }
    /// Whether an element with zero states and a zero gradient keeps zero states and only decays: p *= 1 - lr
    /// decay. Weight decay that is part of the gradient (L2) enters the momentum of such an element, so it
    /// does not rest.
    fn rests(&self, _decay: f32) -> bool {
        true
    }
    /// The words of `live` before the first update: bits are set where blocks do not rest.
    fn live(&self) -> Vec<u32> {
        let words = |s: &Segment| {
            std::iter::repeat_n(if self.rests(s.decay) { 0 } else { !0 }, s.len.div_ceil(CHUNK))
        };
        self.segments().iter().flat_map(words).collect()
    }
}

/// An optimizer: its name, its settings and its update.
pub struct UpdateRule {
    /// Its name in a recipe, which is also the name of its files.
    pub name: &'static str,
    /// What it is, as help texts continue its name.
    pub doc: &'static str,
    /// The keys of a recipe's `[optim]` that only some optimizers read, of those that this one reads, with
    /// their defaults; a switch is 0 or 1.
    pub settings: &'static [(&'static str, f64)],
    /// The update with these settings of an arena with these segments.
    pub build: fn(&Settings, Arc<[Segment]>) -> Box<dyn Update>,
    pub(super) cases: Cases,
    pub(super) shader: &'static str,
    pub(super) kernel: &'static str,
}

impl Debug for UpdateRule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "UpdateRule({:?})", self.name)
    }
}

impl PartialEq for UpdateRule {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl UpdateRule {
    /// The optimizer with this name.
    pub fn find(name: &str) -> Option<&'static UpdateRule> {
        UPDATE_RULES.iter().find(|rule| rule.name == name)
    }
    /// The default of a setting; `None` if the optimizer does not read it.
    pub fn default(&self, setting: &str) -> Option<f64> {
        self.settings.iter().find(|(name, _)| *name == setting).map(|(_, default)| *default)
    }
}

/// The settings of an optimizer. Each rule reads some of them (see [`UpdateRule::settings`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The optimizer.
    pub rule: &'static UpdateRule,
    /// Decay rate of the first moment.
    pub beta1: f32,
    /// Decay rate of the second moment.
    pub beta2: f32,
    /// Added to the square root of the second moment.
    pub eps: f32,
    /// Factor on the momentum buffer; 0 for no momentum.
    pub momentum: f32,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Weight decay of matrices; biases and norms do not decay.
    pub weight_decay: f32,
    /// The norm that gradients are clipped to; 0 for no clipping.
    pub max_grad_norm: f32,
}

impl Default for Settings {
    /// AdamW with the defaults of Hugging Face's `TrainingArguments`.
    fn default() -> Self {
        Self {
            rule: &UPDATE_RULES[0],
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
        }
    }
}

impl Settings {
    /// The update of an arena with these segments.
    pub fn update(&self, segments: impl Into<Arc<[Segment]>>) -> Box<dyn Update> {
        (self.rule.build)(self, segments.into())
    }
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
pub(super) const CHUNK: usize = 32 * LIVE;
/// Elements that one bit of `live` stands for.
pub(super) const LIVE: usize = 512;
/// The index of the first state among the tensors.
pub(super) const FIRST_STATE: usize = 4;

/// The optional tensors after the states: the copy, and the zero-block bitmap.
fn optional<S: Copy>(states: usize, x: &[S], dtype: impl Fn(S) -> DType) -> (Option<S>, Option<S>) {
    let find = |integers: bool| {
        let rest = x.iter().skip(FIRST_STATE + states).copied();
        rest.into_iter().find(|&s| (dtype(s) == DType::U32) == integers)
    };
    (find(false), find(true))
}

/// [`Step::check`] of an update.
pub(super) fn check(op: &impl Update, caps: &Caps, x: &[&Spec]) -> Result<()> {
    let (name, states) = (op.name(), op.states());
    let wrong = || {
        let states: String = states.iter().map(|s| format!(", {s} (n)")).collect();
        let expected = format!(
            "value, grad (n), control (3 + factors), live (tasks){states}, maybe copy (n), zero_blocks (words)"
        );
        refuse(name, &expected, x)
    };
    let (own, others) = x.split_at_checked(FIRST_STATE + states.len()).ok_or_else(wrong)?;
    let [value, grad, control, live, moments @ ..] = own else { return Err(wrong()) };
    let (copy, zero_blocks) = optional(states.len(), x, |s| s.dtype);
    let known = copy.is_some() as usize + zero_blocks.is_some() as usize;
    if known != others.len() || copy.is_some_and(|c| c.shape != value.shape) {
        return Err(wrong());
    }
    if zero_blocks.is_some_and(|b| b.len() != ZeroBlocks::words(value.len())) {
        return Err(wrong());
    }
    if let Some(copy) = copy {
        caps.require(name, copy.dtype)?;
    }
    if grad != value || moments.iter().any(|s| s != value) || control.shape != [3 + op.factors(1).len()] {
        return Err(wrong());
    }
    let tasks: usize = op.segments().iter().map(|s| s.len.div_ceil(CHUNK)).sum();
    if live.dtype != DType::U32 || live.len() != tasks {
        return Err(wrong());
    }
    let covered: usize = op.segments().iter().map(|s| s.len).sum();
    if covered != value.len() {
        return Err(Error::shape(format!(
            "the segments of {name} cover {covered} of {} elements",
            value.len()
        )));
    }
    step_dtype(name, caps, own).map(drop)
}

/// [`Step::cost`] of an update with so many FLOP for each element.
pub(super) fn cost(op: &impl Update, call: &Call, element: usize) -> Cost {
    let states = op.states().len();
    let places: Vec<usize> = (0..call.x.len()).collect();
    let (copy, zero_blocks) = optional(states, &places, |i| call.x[i].dtype);
    let (live, bits) = (call.integers(3), zero_blocks.and_then(|i| call.integers(i)));
    let size = call.x.first().map_or(0, |s| s.dtype.size());
    let copied = copy.map_or(0, |i| call.x[i].dtype.size());
    let (mut flops, mut bytes, mut at, mut word) = (0, 0, 0, 0);
    for s in op.segments() {
        for chunk in (0..s.len).step_by(CHUNK) {
            let before = live.map_or(u32::MAX, |l| l.get(word).copied().unwrap_or(u32::MAX));
            word += 1;
            let mut after = before;
            let blocks = (chunk..s.len.min(chunk + CHUNK)).step_by(LIVE).filter(|_| !s.frozen);
            for (bit, from) in blocks.enumerate() {
                let count = LIVE.min(s.len - from);
                let zero = ZeroBlocks::covers(bits, at + from, count);
                let known = before >> bit & 1 == 1;
                flops += element * count;
                if zero && !known {
                    // States and gradient are zero: the value only decays, and stays where nothing decays it.
                    if s.decay * s.lr_scale != 0.0 {
                        bytes += count * (2 * size + copied);
                    }
                    continue;
                }
                // The value and all states are written. They are read, but for states that are known to be
                // zero.
                let read = 1 + if known { states } else { 0 } + if zero { 0 } else { 1 };
                bytes += count * ((1 + states + read) * size + copied);
                after |= 1 << bit;
            }
            bytes += if after != before { size_of::<u32>() } else { 0 };
        }
        at += s.len;
    }
    let few = call.input(2) + call.input(3) + zero_blocks.map_or(0.0, |i| call.input(i));
    Cost::step(flops as f64, bytes as f64 + few)
}

/// What a formula reads besides its elements.
pub(super) struct Rates<'a, T> {
    /// The learning rate of the segment.
    pub lr: T,
    /// 1 - lr decay, for decoupled weight decay.
    pub keep: T,
    /// Weight decay, where it is a part of the gradient.
    pub decay: T,
    /// What gradients are multiplied by.
    pub clip: T,
    /// [`Update::factors`].
    pub factors: &'a [T],
}

/// A run of the arrays that one task updates.
struct Piece<'a, T, const S: usize> {
    segment: Segment,
    /// Where it begins in the arena.
    at: usize,
    p: &'a mut [T],
    g: &'a [T],
    states: [&'a mut [T]; S],
    /// The bits of the copy in 16 bits, if there is one.
    copy: Option<&'a mut [u16]>,
    live: &'a mut u32,
}

/// The first `n` elements, which the rest loses.
fn take<'a, T>(rest: &mut &'a mut [T], n: usize) -> &'a mut [T] {
    let (first, others) = std::mem::take(rest).split_at_mut(n);
    *rest = others;
    first
}

/// Runs an update with `S` states on the CPU. `formula` updates one block: rates, values, gradients, states.
/// Close it in `inlined!`.
pub(super) fn walk<T: Real, const S: usize>(
    op: &impl Update,
    cpu: &Cpu,
    x: &[&Tensor],
    formula: impl Fn(&Rates<T>, &mut [T], &[T], [&mut [T]; S]) + Sync,
) -> Result<()> {
    let (mut p, g) = (x[0].cpu_mut::<T>()?, x[1].cpu::<T>()?);
    let (control, mut live) = (x[2].cpu::<T>()?, x[3].cpu_mut::<u32>()?);
    let states = x[FIRST_STATE..].iter().take(S);
    let mut states = states.map(|t| t.cpu_mut::<T>()).collect::<Result<Vec<_>>>()?;
    let (copy, zero_blocks) = optional(S, x, |t| t.spec.dtype);
    let half = copy.map_or(DType::BF16, |c| c.spec.dtype);
    let mut copy = copy.map(|c| c.cpu_mut::<u16>()).transpose()?;
    let zero_blocks = zero_blocks.map(|b| b.cpu::<u32>()).transpose()?;
    let bits = zero_blocks.as_deref();
    let short = || Error::shape(format!("{} got too few tensors", op.name()));
    let [norm, lr, unscale, factors @ ..] = &control[..] else { return Err(short()) };
    let (norm, lr, unscale) = (*norm, *lr, *unscale);
    if !norm.f64().is_finite() {
        return Ok(());
    }
    let max = T::of(op.max_norm() as f64);
    let ratio = max / (norm + T::of(1e-6));
    let clip = unscale * if max > T::ZERO && ratio < T::ONE { ratio } else { T::ONE };
    let task = |piece: Piece<T, S>| {
        let Piece { segment: s, at, p, g, mut states, mut copy, live } = piece;
        let zeros = [T::ZERO; LIVE];
        let keep = T::ONE - lr * T::of((s.lr_scale * s.decay) as f64);
        let decay = T::of(s.decay as f64);
        let rates = Rates { lr: lr * T::of(s.lr_scale as f64), keep, decay, clip, factors };
        vectorise!({
            for (block, (p, g)) in p.chunks_mut(LIVE).zip(g.chunks(LIVE)).enumerate() {
                let from = block * LIVE;
                let zero_blocks = ZeroBlocks::covers(bits, at + from, g.len());
                let mut states = states.each_mut().map(|s| &mut s[from..from + g.len()]);
                let copy = copy.as_mut().map(|c| &mut c[from..from + g.len()]);
                if *live >> block & 1 == 0 {
                    if zero_blocks || g.iter().all(|&g| g == T::ZERO) {
                        if keep != T::ONE {
                            p.iter_mut().for_each(|p| *p *= keep);
                            if let Some(copy) = copy {
                                round_to(half, p, copy);
                            }
                        }
                        continue;
                    }
                    *live |= 1 << block;
                    // They are zero. Written before they are read, their pages are made once; read first, the
                    // system would map its page of zeros and exchange it at the write, which stops all
                    // threads each time.
                    states.iter_mut().for_each(|s| s.fill(T::ZERO));
                }
                formula(&rates, p, if zero_blocks { &zeros[..g.len()] } else { g }, states);
                if let Some(copy) = copy {
                    round_to(half, p, copy);
                }
            }
        })
    };
    let mut pieces: Vec<Piece<T, S>> = Vec::with_capacity(live.len());
    let states: Vec<&mut [T]> = states.iter_mut().map(|s| &mut s[..]).collect();
    let mut states = <[&mut [T]; S]>::try_from(states).map_err(|_| short())?;
    let (mut p, mut live, mut at) = (&mut p[..], &mut live[..], 0);
    let mut copy = copy.as_deref_mut();
    for &segment in op.segments() {
        for start in (0..segment.len).step_by(CHUNK) {
            let n = CHUNK.min(segment.len - start);
            let (p, states) = (take(&mut p, n), states.each_mut().map(|s| take(s, n)));
            let copy = copy.as_mut().map(|c| take(c, n));
            let [live] = take(&mut live, 1) else { return Err(short()) };
            if !segment.frozen {
                pieces.push(Piece { segment, at, p, g: &g[at..at + n], states, copy, live });
            }
            at += n;
        }
    }
    cpu.install(|| pieces.into_par_iter().for_each(task));
    Ok(())
}

/// A run of tasks that one launch updates: the elements of the arena it spans, and what each of its tasks
/// does.
struct Launched {
    words: Range<usize>,
    span: Range<usize>,
    /// For each task where it begins in the span, how many elements it has (none if frozen), weight decay and
    /// factor on the learning rate.
    table: Vec<u32>,
}

/// Elements that a view's beginning is a multiple of.
const GROUP: usize = 64;

/// Cuts an update into launches that bind no more than `most` elements of the arena each.
fn launches(segments: &[Segment], most: usize) -> Vec<Launched> {
    // Views begin at multiples of 64 elements, so launches have multiples of 64 tasks.
    let tasks = (most / CHUNK / GROUP * GROUP).max(GROUP);
    let mut list = Vec::new();
    let mut at = 0;
    for s in segments {
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

/// The kernel of an update on a GPU.
pub(super) struct UpdateKernel<'a> {
    /// The source, and the entry point.
    pub source: (&'static str, &'static str),
    /// Constants besides STATES, the number of states that the update has.
    pub consts: &'a [(&'static str, u32)],
    /// States that the kernel declares. An update without one of them binds the values in its place, which it
    /// then does not touch.
    pub declared: usize,
    /// The first fields of its `Params`; the largest norm follows.
    pub settings: &'a [f32],
}

impl UpdateKernel<'_> {
    fn consts(&self, op: &impl Update) -> Vec<(&'static str, u32)> {
        [&[("STATES", op.states().len() as u32)][..], self.consts].concat()
    }
    fn params(&self, op: &impl Update) -> Vec<u32> {
        self.settings.iter().chain(&[op.max_norm()]).map(|v| v.to_bits()).collect()
    }
    /// The parts of the states that a launch binds.
    fn states(&self, op: &impl Update, x: &[&Tensor], span: &Range<usize>) -> Result<Vec<Tensor>> {
        let state = |i: usize| if i < op.states().len() { x[FIRST_STATE + i] } else { x[0] };
        (0..self.declared).map(|i| state(i).view(span.start, &[span.len()])).collect()
    }
    /// Runs an update on wgpu. Buffers: value, grad, control, live, the table of tasks, the states.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn run_wgpu(&self, op: &impl Update, device: &Wgpu, x: &[&Tensor]) -> Result<()> {
        let (consts, params) = (self.consts(op), self.params(op));
        for part in launches(op.segments(), device.binding_bytes() / size_of::<f32>()) {
            let table = device.constants(&part.table)?;
            let arena = |i: usize| x[i].view(part.span.start, &[part.span.len()]);
            let (value, grad) = (arena(0)?, arena(1)?);
            let live = x[3].view(part.words.start, &[part.words.len()])?;
            let states = self.states(op, x, &part.span)?;
            let buffers: Vec<&Tensor> =
                [&value, &grad, x[2], &live, &table].into_iter().chain(&states).collect();
            launch(device, self.source, &consts, fold(part.words.len()), &buffers, &params)?;
        }
        Ok(())
    }
    /// Runs an update on CUDA. Buffers: value, grad, control, live, the table of tasks, copy, zero_blocks,
    /// the states.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn run_cuda(&self, op: &impl Update, device: &Cuda, x: &[&Tensor]) -> Result<()> {
        let (copy, zero_blocks) = optional(op.states().len(), x, |t| t.spec.dtype);
        for part in launches(op.segments(), u32::MAX as usize) {
            let table = device.constants(&part.table)?;
            let arena = |t: &Tensor| t.view(part.span.start, &[part.span.len()]);
            let (value, grad) = (arena(x[0])?, arena(x[1])?);
            let live = x[3].view(part.words.start, &[part.words.len()])?;
            let copy = copy.map(arena).transpose()?;
            let states = self.states(op, x, &part.span)?;
            let dtype = copy.as_ref().map_or(value.spec.dtype, |c| c.spec.dtype);
            let is = |there: bool| Const::U32(there as u32);
            let mut consts = vec![
                ("COPY", is(copy.is_some())),
                ("C", Const::Type(dtype)),
                ("ZERO_BLOCKS", is(zero_blocks.is_some())),
            ];
            consts.extend(self.consts(op).into_iter().map(|(name, v)| (name, Const::U32(v))));
            let (to, bits) = (copy.as_ref().unwrap_or(&value), zero_blocks.unwrap_or(&live));
            let buffers: Vec<&Tensor> =
                [&value, &grad, x[2], &live, &table, to, bits].into_iter().chain(&states).collect();
            let mut params = self.params(op);
            params.push((part.span.start / GROUP) as u32);
            launch_cuda(device, self.source, &consts, [part.words.len() as u32, 1, 1], &buffers, &params)?;
        }
        Ok(())
    }
}

/// One element in a textbook: its rates; the value, the clipped gradient and the states.
pub(super) struct Element<'a> {
    pub lr: f64,
    pub decay: f64,
    pub factors: &'a [f64],
}

/// The published algorithm of an update in f64, element by element: `formula` gets the value, the clipped
/// gradient and the states.
pub(super) fn textbook(
    op: &impl Update,
    x: &[Vec<f64>],
    formula: impl Fn(Element, &mut f64, f64, &mut [f64]),
) -> Vec<Vec<f64>> {
    let mut y = x.to_vec();
    let states = FIRST_STATE..FIRST_STATE + op.states().len();
    let (norm, lr, unscale, factors) = (x[2][0], x[2][1], x[2][2], &x[2][3..]);
    let max = op.max_norm() as f64;
    let clip = unscale * if max > 0.0 { (max / (norm + 1e-6)).min(1.0) } else { 1.0 };
    let (mut i, mut words) = (0, 0);
    for s in op.segments() {
        for e in 0..s.len {
            if !s.frozen {
                if x[1][i] != 0.0 {
                    let word = &mut y[3][words + e / CHUNK];
                    *word = (*word as u32 | 1 << (e % CHUNK / LIVE)) as f64;
                }
                let mut now: Vec<f64> = states.clone().map(|k| y[k][i]).collect();
                let of = Element { lr: lr * s.lr_scale as f64, decay: s.decay as f64, factors };
                formula(of, &mut y[0][i], x[1][i] * clip, &mut now);
                states.clone().zip(now).for_each(|(k, v)| y[k][i] = v);
            }
            i += 1;
        }
        words += s.len.div_ceil(CHUNK);
    }
    y
}

/// The segments of the test cases: every kind of segment.
pub(super) fn case_segments() -> Arc<[Segment]> {
    let segment = |len, decay, lr_scale, frozen| Segment { len, decay, lr_scale, frozen };
    [
        segment(3, 0.1, 1.0, false),
        segment(CHUNK + 5, 0.0, 0.5, false),
        segment(7, 0.1, 1.0, true),
        segment(1, 0.01, 2.0, false),
    ]
    .into()
}

/// Every kind of segment with all blocks live, and with blocks that never had a gradient, for an update of
/// [`case_segments`] whose states hold such values. Clipping bites if the largest norm is below 2.5.
pub(super) fn cases(
    labels: [&'static str; 4],
    make: fn() -> Box<dyn Update>,
    textbook: Textbook,
    factors: &[f64],
    states: &[Fill],
) -> Vec<Case> {
    let n: usize = case_segments().iter().map(|s| s.len).sum();
    let real = |fill: &Fill| Input { shape: vec![n], fill: fill.clone() };
    let held = || states.iter().map(real).collect::<Vec<Input>>();
    let zeros = || states.iter().map(|_| Input::fixed(&[n], &vec![0.0; n])).collect::<Vec<Input>>();
    let words = make().live().len();
    let case = |label, grad: Input, states: Vec<Input>, live: Vec<u32>, zero_blocks: Option<Input>| {
        let control = [&[2.5, 0.01, 0.25], factors].concat();
        let mut inputs = vec![Input::real(&[n]), grad, Input::fixed(&[control.len()], &control)];
        inputs.push(Input::ints(&live));
        inputs.extend(states.into_iter().chain(zero_blocks));
        Case { label, inputs, subject: Subject::Step(make(), textbook), slack: 1.0, half_slack: 1.0 }
    };
    // A gradient in a few elements only, at the borders of blocks and of tasks.
    let at = [0, 1, 3 + LIVE - 1, 3 + 5 * LIVE, 3 + CHUNK - 1, 3 + CHUNK, n - 1];
    let ((few, _), (rest, bits), (more, more_bits)) =
        (ZeroBlocks::case(n, &at), ZeroBlocks::case(n, &at), ZeroBlocks::case(n, &at));
    let fresh = || make().live();
    vec![
        case(labels[0], Input::real(&[n]), held(), vec![!0; words], None),
        case(labels[1], few, zeros(), fresh(), None),
        case(labels[2], rest, zeros(), fresh(), Some(bits)),
        case(labels[3], more, held(), vec![!0; words], Some(more_bits)),
    ]
}
