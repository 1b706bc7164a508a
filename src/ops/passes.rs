//! How each device runs the passes of an op.
//!
//! On the CPU some ops read and write tensors of 16 bits ([`Op::reads_half`]). All others run in f32 on
//! copies of such tensors, and what they wrote is rounded: inputs, saved tensors and gradients that are added
//! to are exact in f32, so each result is rounded once.

use super::{Backward, Forward, Grad, Op, specs};
use crate::device::{Backend, Caps, Cpu, Cuda, Meta, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::{DType, Spec};

/// A device that runs ops.
pub(super) trait RunsOps: Backend {
    /// Runs an op's forward pass.
    ///
    /// # Errors
    /// Those of the op and of the device.
    fn run_forward(&self, op: &dyn Op, io: Forward) -> Result<()>;
    /// Runs an op's backward pass.
    ///
    /// # Errors
    /// Those of the op and of the device.
    fn run_backward(&self, op: &dyn Op, io: Backward) -> Result<()>;
}

/// GPUs have kernels for each element type.
macro_rules! runs_as_is {
    ($($gpu:ty),*) => {$(
        impl RunsOps for $gpu {
            fn run_forward(&self, op: &dyn Op, io: Forward) -> Result<()> {
                op.forward(self, io)
            }
            fn run_backward(&self, op: &dyn Op, io: Backward) -> Result<()> {
                op.backward(self, io)
            }
        }
    )*};
}
runs_as_is!(Cuda, Wgpu);

impl RunsOps for Meta {
    fn run_forward(&self, op: &dyn Op, io: Forward) -> Result<()> {
        let scratch = scratch(&self.caps(), op, io.x, io.y.iter().copied())?;
        self.note(&[io.x, io.y], scratch[0]);
        Ok(())
    }
    fn run_backward(&self, op: &dyn Op, io: Backward) -> Result<()> {
        let scratch = scratch(&self.caps(), op, io.x, io.y.iter().copied().chain(gradients(&io)))?;
        self.note(&[io.x, io.y], scratch[1]);
        Ok(())
    }
}

/// The gradients that a pass reads and writes.
fn gradients<'a>(io: &Backward<'a>) -> impl Iterator<Item = &'a Tensor> + use<'a> {
    let (dy, dx) = (io.dy, io.dx);
    dy.iter().copied().flatten().chain(dx.iter().flatten().map(|g| g.t))
}

/// Whether a tensor has 16 bits.
fn is_half(spec: &Spec) -> bool {
    spec.dtype.size() == 2
}

/// The spec of the copy of a tensor; that of the tensor itself if it is not copied.
fn copied(spec: &Spec) -> Spec {
    Spec::new(if is_half(spec) { DType::F32 } else { spec.dtype }, &spec.shape)
}

/// The temporary memory of each pass of an op in bytes, including the copies of its inputs `x` and of its
/// other tensors.
fn scratch<'a>(
    caps: &Caps,
    op: &dyn Op,
    x: &[&'a Tensor],
    others: impl Iterator<Item = &'a Tensor>,
) -> Result<[u64; 2]> {
    if caps.gpu || op.reads_half() {
        return Ok(op.plan(caps, &specs(x))?.scratch);
    }
    let inputs: Vec<Spec> = x.iter().map(|t| copied(&t.spec)).collect();
    let plan = op.plan(caps, &inputs.iter().collect::<Vec<_>>())?;
    let copies = room(x.iter().copied().chain(others)) * DType::F32.size();
    Ok(plan.scratch.map(|bytes| bytes + copies as u64))
}

/// Elements that copies begin at multiples of: a cache line.
const ALIGN: usize = 16;

/// The elements that the copies of these tensors take together.
fn room<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> usize {
    let all = tensors.map(|t| &t.spec).filter(|s| is_half(s));
    all.map(|s| s.len().next_multiple_of(ALIGN)).sum()
}

/// The copies of a pass, in one block of memory. The pool would give blocks of their own to later tensors of
/// half their size, which are those of 16 bits.
struct Copies<'a> {
    cpu: &'a Cpu,
    memory: Tensor,
    used: usize,
}

impl<'a> Copies<'a> {
    /// Memory for copies of these tensors.
    fn of<'t>(cpu: &'a Cpu, tensors: impl Iterator<Item = &'t Tensor>) -> Result<Self> {
        let memory = cpu.scratch_tensor(Spec::new(DType::F32, &[room(tensors)]))?;
        Ok(Copies { cpu, memory, used: 0 })
    }
    /// A tensor in f32 for an op: its copy, or itself if it is not copied. `filled`: with its elements.
    fn take(&mut self, t: &Tensor, filled: bool) -> Result<Tensor> {
        if !is_half(&t.spec) {
            return Ok(t.clone());
        }
        let copy = self.memory.view(self.used, &t.spec.shape)?;
        self.used += t.spec.len().next_multiple_of(ALIGN);
        if filled {
            self.cpu.convert(t, &copy)?;
        }
        Ok(copy)
    }
    fn take_all(&mut self, all: &[&Tensor], filled: bool) -> Result<Vec<Tensor>> {
        all.iter().map(|t| self.take(t, filled)).collect()
    }
}

/// Rounds what an op wrote into a copy.
fn round_back(cpu: &Cpu, copy: &Tensor, t: &Tensor) -> Result<()> {
    if is_half(&t.spec) { cpu.convert(copy, t) } else { Ok(()) }
}

impl RunsOps for Cpu {
    fn run_forward(&self, op: &dyn Op, io: Forward) -> Result<()> {
        if op.reads_half() || !io.x.iter().chain(io.y).any(|t| is_half(&t.spec)) {
            return op.forward(self, io);
        }
        let mut room = Copies::of(self, io.x.iter().chain(io.y).copied())?;
        let (x, y) = (room.take_all(io.x, true)?, room.take_all(io.y, false)?);
        let (x, copies): (Vec<_>, Vec<_>) = (x.iter().collect(), y.iter().collect());
        op.forward(self, Forward { x: &x, y: &copies })?;
        copies.into_iter().zip(io.y).try_for_each(|(copy, t)| round_back(self, copy, t))
    }
    fn run_backward(&self, op: &dyn Op, io: Backward) -> Result<()> {
        let all = || io.x.iter().chain(io.y).copied().chain(gradients(&io));
        if op.reads_half() || !all().any(|t| is_half(&t.spec)) {
            return op.backward(self, io);
        }
        let mut room = Copies::of(self, all())?;
        let (x, y) = (room.take_all(io.x, true)?, room.take_all(io.y, true)?);
        let dy: Vec<Option<Tensor>> =
            io.dy.iter().map(|d| d.map(|d| room.take(d, true)).transpose()).collect::<Result<_>>()?;
        // With a bitmap, blocks that are marked as zero are not written.
        let kept = |g: &Grad| g.add || g.zero_blocks.is_some();
        let dx: Vec<Option<Tensor>> = io
            .dx
            .iter()
            .map(|g| g.as_ref().map(|g| room.take(g.t, kept(g))).transpose())
            .collect::<Result<_>>()?;
        let pairs = io.dx.iter().zip(&dx);
        let dx_copies: Vec<Option<Grad>> =
            pairs.map(|(g, t)| g.zip(t.as_ref()).map(|(g, t)| Grad { t, ..g })).collect();
        op.backward(
            self,
            Backward {
                x: &x.iter().collect::<Vec<_>>(),
                y: &y.iter().collect::<Vec<_>>(),
                dy: &dy.iter().map(Option::as_ref).collect::<Vec<_>>(),
                dx: &dx_copies,
            },
        )?;
        let written = dx.iter().zip(io.dx).filter_map(|(copy, g)| Some((copy.as_ref()?, g.as_ref()?.t)));
        for (copy, t) in written {
            round_back(self, copy, t)?;
        }
        Ok(())
    }
}
