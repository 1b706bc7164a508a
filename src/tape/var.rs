//! Variables: values with counted handles, and their gradients.

use super::Tape;
use crate::device::{Device, Tensor};
use crate::error::{Error, Result};
use crate::ops::ZeroBlocks;
use crate::shape::Spec;
use std::sync::Arc;

/// A counted handle to a value on a tape.
///
/// The memory of an op's output is freed when its last handle is dropped, unless the tape records and its
/// backward pass still reads the output. [`Tape::apply`] consumes the handles of its inputs, so that a value
/// is freed by its last use: clone a handle whose value is read again. Two handles are equal if they belong
/// to the same value.
#[derive(Clone, Debug)]
pub struct Var(Arc<Value>);

#[derive(Debug)]
struct Value {
    tensor: Tensor,
    /// The index of its gradient on the tape; `None` if it needs none.
    slot: Option<usize>,
}

impl Var {
    pub(super) fn new(tensor: Tensor, slot: Option<usize>) -> Var {
        Var(Arc::new(Value { tensor, slot }))
    }
    /// The value.
    pub fn value(&self) -> &Tensor {
        &self.0.tensor
    }
    /// The index of its gradient.
    pub(super) fn slot(&self) -> Option<usize> {
        self.0.slot
    }
}

impl PartialEq for Var {
    fn eq(&self, other: &Var) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Var {}

/// A value that is differentiated by, such as a parameter.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The value.
    pub value: Tensor,
    /// Where its gradient goes.
    pub grad: Tensor,
    /// Whether the backward pass adds to what `grad` holds. Otherwise it overwrites it.
    pub filled: bool,
    /// The zero-block bitmap of a gradient that has few rows which are not zero, such as that of an embedding
    /// table.
    pub zero_blocks: Option<ZeroBlocks>,
}

impl Leaf {
    /// A leaf with a dense gradient.
    pub fn new(value: Tensor, grad: Tensor, filled: bool) -> Leaf {
        Leaf { value, grad, filled, zero_blocks: None }
    }
}

/// The gradient of a variable.
#[derive(Default)]
pub(super) struct Slot {
    /// Allocated when an op first writes it, unless it is that of a leaf.
    pub grad: Option<Tensor>,
    /// Whether it holds something that further gradients are added to.
    pub filled: bool,
    /// Whether the backward pass has written it.
    pub reached: bool,
    /// Its zero-block bitmap.
    pub zero_blocks: Option<ZeroBlocks>,
    /// The leaf whose first rows these are; their gradients share memory.
    part_of: Option<usize>,
}

impl Tape<'_> {
    /// Puts a leaf on the tape.
    pub fn leaf(&mut self, leaf: Leaf) -> Var {
        let Leaf { value, grad, filled, zero_blocks } = leaf;
        let slot = self.push(Slot { grad: Some(grad), filled, zero_blocks, ..Slot::default() });
        let v = Var::new(value, Some(slot));
        self.leaves.push(v.clone());
        v
    }
    /// The first rows of a leaf or a constant, as a value of this shape. Their gradient is a part of the
    /// leaf's.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for a shape with more elements than the value has, and for
    /// the output of an op.
    pub fn part(&mut self, v: &Var, shape: &[usize]) -> Result<Var> {
        let value = v.value().view(0, shape)?;
        let Some(at) = v.slot() else { return Ok(Var::new(value, None)) };
        let Some((slot, whole)) = self.slots.get(at).and_then(|slot| Some((slot, slot.grad.as_ref()?)))
        else {
            return Err(Error::shape(
                "cannot take a part of an op's output: only leaves and constants have parts",
            ));
        };
        let (grad, zero_blocks) = (Some(whole.view(0, shape)?), slot.zero_blocks.clone());
        let part_of = slot.part_of.or(Some(at));
        let slot = self.push(Slot { grad, zero_blocks, part_of, ..Slot::default() });
        Ok(Var::new(value, Some(slot)))
    }
}

/// Prepares the gradient in a slot for an op that writes it: allocates that of an op's output.
///
/// A part is added to if its leaf holds something. If not, the part is overwritten and the leaf's other rows
/// are zeroed, since nothing else may write them. An op that does not keep the zero-block bitmap
/// (`keeps_bitmap`) may write every row, so all are marked as not zero.
pub(super) fn begin(
    device: &Device,
    slots: &mut [Slot],
    at: usize,
    spec: &Spec,
    keeps_bitmap: bool,
) -> Result<()> {
    if slots[at].grad.is_none() {
        slots[at].grad = Some(device.alloc(spec.clone())?);
    }
    if let Some(whole) = slots[at].part_of {
        let filled = slots[whole].filled;
        if let (false, Some(part), Some(whole)) = (filled, &slots[at].grad, &slots[whole].grad) {
            let (from, len) = (part.spec.len(), whole.spec.len());
            if from < len {
                device.zero(&whole.view(from, &[len - from])?)?;
            }
        }
        slots[at].filled = filled;
    }
    if let (false, Some(zero_blocks), Some(grad)) = (keeps_bitmap, &slots[at].zero_blocks, &slots[at].grad) {
        device.zero(&zero_blocks.part(grad.spec.len())?)?;
    }
    Ok(())
}

/// Notes that an op has written the gradient in a slot.
pub(super) fn written(slots: &mut [Slot], at: usize) {
    for i in [Some(at), slots[at].part_of].into_iter().flatten() {
        (slots[i].filled, slots[i].reached) = (true, true);
    }
}
