//! How much an op computes, reads and writes: FLOP and bytes of a call, counted from the op's formula and the
//! call's tensors.
//!
//! # FLOP
//! An addition, subtraction, multiplication, division or comparison counts one, and so does a function such
//! as exp, log, sqrt, erf or tanh. A sum of n terms counts n. Signs, absolute values, conversions, integers
//! and random numbers count nothing. Ops that consist of matmuls (`linear`, `attention`, `favor`,
//! `relative_attention`, `relation`) count their matmuls only, two for each multiply-add, as is usual in
//! FLOP/s of matmuls and attention: what else they compute for an element is small beside it. Gradients and
//! moments that are known to be zero count like others (`adamw`, `global_norm`), so that the FLOP of a step
//! depend neither on earlier steps nor on the device; only bytes are saved.
//!
//! # Bytes
//! Every element that a pass must read or write counts once, in the width that it has in memory, also if a
//! kernel reads it several times. Temporary memory does not count. A gradient that is overwritten counts
//! once, completely, zeros included; one that is added to counts twice, where something is added. Elements
//! that the formula does not need do not count, such as the rows of a table that no token names, or tokens
//! that only pad the batch. So the count depends on the call, not on the backend: a kernel that reads more
//! than necessary is slower than its count allows.
//!
//! Which rows a table lends and where sequences begin is in the values of integer inputs. Without them a
//! count assumes distinct rows and sequences of the same length.

use super::Activation;
use super::{Grad, ZeroBlocks};
use crate::device::{Backend, Tensor};
use crate::error::Result;
use crate::shape::{DType, Spec};
use std::collections::HashSet;

/// FLOP and bytes of each pass, counted as the [module](self) says. A step has only a forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// FLOP of the forward pass.
    pub forward_flops: f64,
    /// Bytes that the forward pass must read and write.
    pub forward_bytes: f64,
    /// FLOP of the backward pass, for the gradients that the call asks for.
    pub backward_flops: f64,
    /// Bytes that the backward pass must read and write.
    pub backward_bytes: f64,
}

impl Cost {
    /// The cost of an op: FLOP of both passes, then bytes of both passes.
    pub(super) fn new([forward_flops, backward_flops]: [f64; 2], [forward, backward]: [f64; 2]) -> Cost {
        Cost { forward_flops, backward_flops, forward_bytes: forward, backward_bytes: backward }
    }
    /// The cost of a step.
    pub(super) fn step(flops: f64, bytes: f64) -> Cost {
        Cost::new([flops, 0.0], [bytes, 0.0])
    }
}

/// A call of an op or a step, as its cost sees it.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// The inputs.
    pub x: Vec<Spec>,
    /// The outputs, then the saved tensors; empty for a step.
    pub y: Vec<Spec>,
    /// The values of each input of integers, if they are known.
    pub integers: Vec<Option<Vec<u32>>>,
    /// The gradients that the backward pass writes, one for each input; `None` if it is not needed.
    pub dx: Vec<Option<Gradient>>,
}

/// A gradient that a backward pass writes, in the shape of its input.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// Its element type: f32 for weights, also where the weights themselves have 16 bits.
    pub dtype: DType,
    /// Whether it is added to, instead of overwritten.
    pub add: bool,
    /// The words of its zero-block bitmap before the pass, and its offset in the arena in elements.
    pub zero_blocks: Option<(Vec<u32>, usize)>,
    /// The activation whose gradient is fused into it: the pass also reads that activation's input.
    pub act: Option<Activation>,
}

impl Gradient {
    /// A gradient of this type that is overwritten, without a bitmap.
    pub fn new(dtype: DType) -> Gradient {
        Gradient { dtype, add: false, zero_blocks: None, act: None }
    }
}

fn words(device: &impl Backend, t: &Tensor) -> Result<Vec<u32>> {
    let mut words = vec![0; t.spec.len()];
    device.read(t, bytemuck::cast_slice_mut(&mut words))?;
    Ok(words)
}

impl Call {
    /// The call with these tensors. Reads the integers back from the device, so it waits for the work queued
    /// before.
    pub(super) fn read(
        device: &impl Backend,
        x: &[&Tensor],
        y: &[&Tensor],
        dx: &[Option<Grad>],
    ) -> Result<Call> {
        let specs = |tensors: &[&Tensor]| tensors.iter().map(|t| t.spec.clone()).collect();
        let integers = |t: &&Tensor| (t.spec.dtype == DType::U32).then(|| words(device, t)).transpose();
        let gradient = |g: &Option<Grad>| -> Result<Option<Gradient>> {
            let Some(g) = g else { return Ok(None) };
            let zero_blocks = g.zero_blocks.map(|b| Ok((words(device, &b.bits)?, b.first))).transpose()?;
            let (dtype, act) = (g.t.spec.dtype, g.dact.map(|(act, _)| act));
            Ok(Some(Gradient { dtype, add: g.add, zero_blocks, act }))
        };
        Ok(Call {
            x: specs(x),
            y: specs(y),
            integers: x.iter().map(integers).collect::<Result<_>>()?,
            dx: dx.iter().map(gradient).collect::<Result<_>>()?,
        })
    }
    /// Bytes of an input; 0 if there is none.
    pub(super) fn input(&self, i: usize) -> f64 {
        self.x.get(i).map_or(0.0, |s| s.bytes() as f64)
    }
    /// Bytes of an output or saved tensor; 0 if there is none.
    pub(super) fn output(&self, i: usize) -> f64 {
        self.y.get(i).map_or(0.0, |s| s.bytes() as f64)
    }
    /// Bytes of the gradient of the first output.
    pub(super) fn dy(&self) -> f64 {
        self.output(0)
    }
    /// Bytes of all inputs, outputs and saved tensors: a forward pass that needs everything.
    pub(super) fn whole(&self) -> f64 {
        self.x.iter().chain(&self.y).map(|s| s.bytes() as f64).sum()
    }
    /// Rows and columns of an input.
    pub(super) fn rows_cols(&self, i: usize) -> [f64; 2] {
        let (rows, cols) = self.x.get(i).map_or((0, 0), Spec::rows_cols);
        [rows as f64, cols as f64]
    }
    /// Elements of an input.
    pub(super) fn len(&self, i: usize) -> f64 {
        self.x.get(i).map_or(0.0, |s| s.len() as f64)
    }
    /// Bytes of one row of an input.
    pub(super) fn row(&self, i: usize) -> f64 {
        self.x.get(i).map_or(0.0, |s| (s.rows_cols().1 * s.dtype.size()) as f64)
    }
    /// The values of an input of integers, if they are known.
    pub(super) fn integers(&self, i: usize) -> Option<&[u32]> {
        self.integers.get(i)?.as_deref()
    }
    /// The gradient of an input, if it is asked for.
    pub(super) fn gradient(&self, i: usize) -> Option<&Gradient> {
        self.dx.get(i)?.as_ref()
    }
    /// Whether the gradient of an input is asked for.
    pub(super) fn wants(&self, i: usize) -> bool {
        self.gradient(i).is_some()
    }
    /// Bytes of the gradient of an input of which only `rows` rows are not zero: they are added to, or all
    /// rows are overwritten.
    pub(super) fn sparse(&self, i: usize, rows: f64) -> f64 {
        let Some((g, x)) = self.gradient(i).zip(self.x.get(i)) else { return 0.0 };
        let (all, cols) = x.rows_cols();
        let read = if g.act.is_some() { x.bytes() as f64 } else { 0.0 };
        let size = (cols * g.dtype.size()) as f64;
        read + size * if g.add { 2.0 * rows } else { all as f64 }
    }
    /// Bytes of the gradient of an input of which no element is known to be zero.
    pub(super) fn dense(&self, i: usize) -> f64 {
        self.sparse(i, self.rows_cols(i)[0])
    }
    /// Bytes of all gradients, none with elements that are known to be zero.
    pub(super) fn all_dense(&self) -> f64 {
        (0..self.dx.len()).map(|i| self.dense(i)).sum()
    }
    /// Additions of `elements` elements to the gradient of an input, if it is added to.
    pub(super) fn sums(&self, i: usize, elements: f64) -> f64 {
        self.gradient(i).map_or(0.0, |g| if g.add { elements } else { 0.0 })
    }
    /// Additions to all gradients that are added to, all elements of each.
    pub(super) fn all_sums(&self) -> f64 {
        (0..self.dx.len()).map(|i| self.sums(i, self.len(i))).sum()
    }
    /// The lengths of the sequences that input `i`, their bounds (`cu_seqlens`), cuts `tokens` tokens into.
    /// Without values the tokens are divided equally.
    pub(super) fn lengths(&self, i: usize, tokens: usize) -> Vec<usize> {
        if let Some(bounds) = self.integers(i) {
            return bounds.windows(2).map(|w| w[1].saturating_sub(w[0]) as usize).collect();
        }
        let sequences = self.x.get(i).map_or(0, Spec::len).saturating_sub(1);
        (0..sequences).map(|s| tokens / sequences + (s < tokens % sequences) as usize).collect()
    }
    /// The distinct rows among `rows` that input `i` names, in ascending order. Without values all of them
    /// are distinct.
    pub(super) fn distinct(&self, i: usize, rows: usize) -> Vec<usize> {
        let Some(named) = self.integers(i) else {
            return (0..rows.min(self.x.get(i).map_or(0, Spec::len))).collect();
        };
        let set: HashSet<u32> = named.iter().copied().filter(|&r| (r as usize) < rows).collect();
        let mut distinct: Vec<usize> = set.into_iter().map(|r| r as usize).collect();
        distinct.sort_unstable();
        distinct
    }
}

impl Gradient {
    /// Elements of a table's gradient that a pass writes, and those that it reads first, and bytes of the
    /// bitmap, where the rows at these places of `cols` elements get something and the table has `len`
    /// elements.
    ///
    /// Overwritten without a bitmap, all elements are written. With one, only the blocks that may hold
    /// something from before are zeroed, and the rows are written.
    pub(super) fn table(&self, rows: &[usize], cols: usize, len: usize) -> [f64; 3] {
        let named = (rows.len() * cols) as f64;
        let Some((bits, first)) = &self.zero_blocks else {
            return if self.add { [named, named, 0.0] } else { [len as f64, 0.0, 0.0] };
        };
        let words = ZeroBlocks::words(first + len) - first / ZeroBlocks::WORD;
        // Every word is read, and written again.
        let bitmap = (2 * words * size_of::<u32>()) as f64;
        if self.add {
            return [named, named, bitmap];
        }
        // Elements of [from, to) of the table that lie in blocks that are not known to be zero.
        let unknown = |from: usize, to: usize| -> usize {
            let (from, to) = (first + from, first + to);
            let block = |b: usize| {
                let known = bits.get(b / 32).is_some_and(|word| word >> (b % 32) & 1 == 1);
                if known { 0 } else { to.min((b + 1) * ZeroBlocks::BLOCK) - from.max(b * ZeroBlocks::BLOCK) }
            };
            (from / ZeroBlocks::BLOCK..to.div_ceil(ZeroBlocks::BLOCK)).map(block).sum()
        };
        let cleared = unknown(0, len);
        let both: usize = rows.iter().map(|r| unknown(r * cols, (r + 1) * cols)).sum();
        [(cleared - both) as f64 + named, 0.0, bitmap]
    }
}
